//! Waiting for an instant, to the microsecond. The runtime's timer has a wheel of 1 ms and rounds up, so it will not do.
//!
//! A timerfd wakes us 60 µs early; the rest is spent in a turnstile: a wait that the kernel answers at once, so that
//! replies which arrive meanwhile are taken.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix,
    },
    str::FromStr,
    time::{Duration, Instant},
};

use monoio::net::UnixStream;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::units::Nanos;

/// How the time until the next message is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// `Hybrid` on io_uring, `Sleep` on epoll.
    Auto,
    /// Never asleep: a core that does nothing else.
    Spin,
    /// Asleep until shortly before, then as `Spin`.
    Hybrid,
    /// Asleep until the timer fires, 20 to 80 µs late.
    Sleep,
}

impl FromStr for Pace {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "spin" => Ok(Self::Spin),
            "hybrid" => Ok(Self::Hybrid),
            "sleep" => Ok(Self::Sleep),
            _ => Err("the paces are `auto`, `spin`, `hybrid` and `sleep`"),
        }
    }
}

impl Pace {
    /// What it is where this thread's runtime runs.
    pub(crate) fn settled(self, is_epoll: bool) -> Self {
        match self {
            // epoll says at once that there is room, without a look at anything else: no turnstile.
            _ if is_epoll => Self::Sleep,
            Self::Auto => Self::Hybrid,
            other => other,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Spin => "spin",
            Self::Hybrid => "hybrid",
            Self::Sleep => "sleep",
        }
    }
}

/// The pacer of one thread.
pub(crate) struct Pacer {
    pace: Pace,
    epoch: Instant,
    timer: OwnedFd,
    /// The same timer, as something that the runtime waits for.
    fired: UnixStream,
    turnstile: (UnixStream, UnixStream),
}

impl Pacer {
    /// For the calling thread's runtime. Instants count from `epoch`.
    pub(crate) fn new(pace: Pace, epoch: Instant) -> io::Result<Self> {
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        // Nothing of a socket is used but that one can wait for it to be readable.
        let fired = UnixStream::from_std(unix::net::UnixStream::from(timer.try_clone()?))?;
        // So that the kernel does not gather our wake-ups with others of the next 50 µs. Only a wish.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZero::new(1));
        let pace = pace.settled(monoio::utils::is_legacy());
        Ok(Self { pace, epoch, timer, fired, turnstile: UnixStream::pair()? })
    }

    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        self.epoch.elapsed().as_nanos() as Nanos
    }

    /// Waits until `due`, and returns what time it is then.
    pub(crate) async fn wait(&self, due: Nanos) -> io::Result<Nanos> {
        loop {
            let now = self.now();
            let Some(left) = due.checked_sub(now).filter(|left| *left > 0) else { return Ok(now) };
            match self.pace {
                _ if left <= NAP => std::hint::spin_loop(),
                Pace::Sleep => self.sleep(left).await?,
                Pace::Auto | Pace::Hybrid if left > EARLY => self.sleep(left - EARLY).await?,
                _ => self.pass().await?,
            }
        }
    }

    /// Lets all that has arrived be taken.
    pub(crate) async fn pass(&self) -> io::Result<()> {
        if self.pace == Pace::Sleep {
            // The shortest time that is one: epoll has to look.
            return self.sleep(1).await;
        }
        self.turnstile.0.writable(false).await
    }

    async fn sleep(&self, time: Nanos) -> io::Result<()> {
        let it_value = Timespec { tv_sec: (time / 1_000_000_000) as _, tv_nsec: (time % 1_000_000_000) as _ };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = Itimerspec { it_interval, it_value };
        rustix::time::timerfd_settime(self.timer.as_fd(), TimerfdTimerFlags::empty(), &setting)?;
        self.fired.readable(false).await?;
        let mut count = [0; 8];
        match rustix::io::read(&self.timer, &mut count) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// How long before its time the hybrid is awake.
const EARLY: Nanos = 60_000;
/// What is too short for a look at the kernel.
const NAP: Nanos = 1_000;

/// The longest that a pacer sleeps without looking up, so that an interrupt is noticed.
pub(crate) const LOOK_UP: Nanos = Duration::from_millis(50).as_nanos() as Nanos;

#[cfg(test)]
mod tests {
    use super::*;
    use switchpoint::Driver;

    #[test]
    fn it_is_never_early() {
        for (driver, pace) in [
            (Driver::Auto, Pace::Spin),
            (Driver::Auto, Pace::Hybrid),
            (Driver::Auto, Pace::Sleep),
            (Driver::Epoll, Pace::Auto),
        ] {
            // How late it is depends on the machine: the acceptance tests weigh it against what the verdict says.
            let paced = std::thread::spawn(move || {
                driver.build().unwrap().block_on(async {
                    let pacer = Pacer::new(pace, Instant::now()).unwrap();
                    for step in 1..=100 {
                        let due = step * 500_000;
                        assert!(pacer.wait(due).await.unwrap() >= due, "{driver} {pace:?}: step {step}");
                        pacer.pass().await.unwrap();
                    }
                })
            });
            paced.join().unwrap();
        }
    }
}
