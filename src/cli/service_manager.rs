//! What systemd is told (sd_notify(3)): ready, reloading, stopping, who the main process is, and that the workers are
//! alive. Where nobody listens nothing is sent.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use switchpoint::Handle;

/// The service manager that has started this process, if one has.
pub(super) struct ServiceManager {
    watchdog: Option<Watchdog>,
}

struct Watchdog {
    every: Duration,
    due: Instant,
    ticks: Vec<Option<u64>>,
    was_alive: bool,
}

impl ServiceManager {
    pub(super) fn of_this_process() -> Self {
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|limit| is_ours && *limit > 0).map(|limit| {
            // Half of it is usual; a third lets one be late.
            let every = Duration::from_micros(limit) / 3;
            Watchdog { every, due: Instant::now() + every, ticks: Vec::new(), was_alive: true }
        });
        Self { watchdog }
    }

    pub(super) fn ready(&self, status: &str) {
        tell(&format!("READY=1\n{}", in_a_line(status)));
    }

    /// Another process is being started, to take over.
    pub(super) fn reloading(&self, status: &str) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\n{}", in_a_line(status)));
    }

    pub(super) fn stopping(&self, status: &str) {
        tell(&format!("STOPPING=1\n{}", in_a_line(status)));
    }

    /// From now on `pid` is the service, and this process no longer.
    pub(super) fn handed_over(&mut self, pid: u32, status: &str) {
        tell(&format!("MAINPID={pid}\nREADY=1\n{}", in_a_line(status)));
        self.watchdog = None;
    }

    /// Tells the watchdog that all is well, if it is due and every worker has ticked since the last time.
    pub(super) fn ping(&mut self, server: &Handle) {
        let Some(watchdog) = &mut self.watchdog else { return };
        let now = Instant::now();
        if now < watchdog.due {
            return;
        }
        watchdog.due = now + watchdog.every;
        let ticks = server.ticks();
        let stuck = stuck(&watchdog.ticks, &ticks);
        watchdog.ticks = ticks;
        match stuck {
            None => tell("WATCHDOG=1"),
            Some(worker) if watchdog.was_alive => {
                tracing::error!(
                    worker,
                    "the worker has not ticked for {:?}: a handler blocks it",
                    watchdog.every
                );
            }
            Some(_) => {}
        }
        watchdog.was_alive = stuck.is_none();
    }

    /// How long the caller may wait before it pings.
    pub(super) fn patience(&self) -> Duration {
        self.watchdog.as_ref().map_or(LONG, |watchdog| watchdog.due.saturating_duration_since(Instant::now()))
    }
}

const LONG: Duration = Duration::from_secs(3600);

/// The first worker that has not ticked between the two; one that has ended is not stuck.
fn stuck(before: &[Option<u64>], after: &[Option<u64>]) -> Option<usize> {
    before.iter().zip(after).position(|(before, after)| after.is_some() && before == after)
}

/// A line ends a field.
fn in_a_line(status: &str) -> String {
    format!("STATUS={}", status.trim().replace('\n', "; "))
}

fn tell(what: &str) {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return };
    let told = || -> io::Result<usize> {
        let address = match place.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&place)?,
        };
        let socket = UnixDatagram::unbound()?;
        // Whoever does not read shall not keep us from the signals.
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        socket.send(what.as_bytes())
    };
    if let Err(error) = told() {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_not_tick_is_stuck_and_one_that_has_ended_is_not() {
        assert_eq!(stuck(&[], &[Some(0), Some(0)]), None, "it has just begun");
        assert_eq!(stuck(&[Some(1), Some(1)], &[Some(2), Some(9)]), None);
        assert_eq!(stuck(&[Some(1), Some(1)], &[Some(2), Some(1)]), Some(1));
        assert_eq!(stuck(&[Some(1), None], &[Some(2), None]), None);
        assert_eq!(stuck(&[Some(1)], &[None]), None);
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(in_a_line("it failed\nMAINPID=1\n"), "STATUS=it failed; MAINPID=1");
    }
}
