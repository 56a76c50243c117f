//! The program between its start and its end: signals, the change to a new binary, the drain, and what systemd is told of
//! all that.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2},
    iterator::Signals,
};
use switchpoint::{Config, Registry, Server, Stats};

use super::{
    admin::Operator,
    log::Log,
    serve::reload,
    service_manager::ServiceManager,
    successor::{Invocation, Predecessor, Ready, Successor},
    upgrade_binary,
};

/// What the main thread waits for.
enum Event {
    Signal(i32),
    /// An operator has ordered a drain.
    Order,
    /// What has come of a change to a new binary.
    Successor(Result<Ready, String>),
}

/// A program that has not started its server yet.
pub(super) struct Life {
    invocation: Invocation,
    predecessor: Option<Predecessor>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    manager: ServiceManager,
    /// Where the process is written to once it serves.
    pid_file: Option<PidFile>,
    drain_time: Duration,
    /// A new process was started, and has not said yet that it serves.
    is_upgrading: bool,
    /// This process was told to end, so no new one is wanted.
    is_ending: Arc<AtomicBool>,
}

impl Life {
    /// To be called once, early: before anything else opens descriptors or starts threads, and before there are workers,
    /// so that no signal is missed.
    pub(super) fn begin() -> io::Result<Self> {
        let predecessor = Predecessor::of_this_process();
        let (sender, events) = mpsc::channel();
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR2])?;
        thread::Builder::new().name("signals".into()).spawn({
            let sender = sender.clone();
            move || signals.forever().all(|signal| sender.send(Event::Signal(signal)).is_ok())
        })?;
        Ok(Self {
            invocation: Invocation::of_this_process()?,
            predecessor,
            events,
            sender,
            manager: ServiceManager::of_this_process(),
            pid_file: None,
            drain_time: Duration::ZERO,
            is_upgrading: false,
            is_ending: Arc::default(),
        })
    }

    pub(super) fn pid_file(mut self, path: Option<PathBuf>) -> Self {
        self.pid_file = path.map(PidFile);
        self
    }

    /// Starts the server, on the sockets of the process that this one takes over from, if it does.
    pub(super) fn start(
        &mut self,
        config: Config,
        registry: impl Fn(usize) -> Registry + Send + Sync + 'static,
    ) -> Result<Server, switchpoint::StartError> {
        self.drain_time = config.drain_time;
        let sockets = self.predecessor.as_mut().map(Predecessor::sockets).unwrap_or_default();
        Server::take_over(config, sockets, registry)
    }

    /// What an operator's order to drain is told to.
    pub(super) fn ender(&self) -> impl Fn() + Send + Sync + use<> {
        let sender = self.sender.clone();
        // If nobody hears it, the program is at its end already.
        move || drop(sender.send(Event::Order))
    }

    /// The program could not start.
    pub(super) fn fail(mut self, message: &str) -> ExitCode {
        complain(message);
        self.tell_predecessor(message);
        ExitCode::FAILURE
    }

    /// The process that this one was to take over from goes on, and shall know why.
    pub(super) fn tell_predecessor(&mut self, why: &str) {
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.failed(why);
        }
    }

    /// Serves until a signal, an operator or a successor says otherwise; then drains.
    pub(super) fn live(
        mut self,
        server: Server,
        start_line: &str,
        mut operator: Operator,
        log: &Log,
    ) -> ExitCode {
        say(start_line);
        if self.predecessor.is_none()
            && let Err(error) = operator.begin(&server.handle())
        {
            return self.fail(&error.to_string());
        }
        if let Some(file) = &self.pid_file {
            file.write();
        }
        match self.predecessor.take() {
            // The service manager hears it from that process, which is the one it knows.
            Some(predecessor) => {
                say(&format!("switchpoint: process {} takes over from {}", process::id(), predecessor.pid()));
                predecessor.ready();
                operator.begin_when_free(&server.handle());
            }
            None => self.manager.ready(&format!("Serving on {}", places(&server))),
        }
        let reason = self.serve(&server);
        let code = self.drain(server, &reason, &mut operator);
        log.flush(FLUSH_TIME);
        code
    }

    /// Serves, and tells why it does no longer.
    fn serve(&mut self, server: &Server) -> End {
        loop {
            let event = self.events.recv_timeout(self.manager.patience());
            self.manager.ping(&server.handle());
            match event {
                Ok(Event::Signal(SIGUSR2)) if self.is_upgrading => {
                    tracing::warn!("a new process is being started already");
                }
                Ok(Event::Signal(SIGUSR2)) => match self.upgrade(server) {
                    Ok(()) => self.is_upgrading = true,
                    Err(error) => self.stay(server, &error.to_string()),
                },
                Ok(Event::Signal(SIGHUP)) => self.reload(server),
                Ok(Event::Signal(signal)) => return End::Signal(signal),
                Ok(Event::Order) => return End::Order,
                Ok(Event::Successor(Ok(ready))) => {
                    self.is_upgrading = false;
                    return End::Successor(ready);
                }
                Ok(Event::Successor(Err(why))) => {
                    self.is_upgrading = false;
                    self.stay(server, &why);
                }
                Err(RecvTimeoutError::Timeout) => {}
                // We have a sender ourselves.
                Err(RecvTimeoutError::Disconnected) => return End::Signal(SIGTERM),
            }
        }
    }

    /// Starts the program's file anew, and waits for its word in a thread.
    fn upgrade(&self, server: &Server) -> io::Result<()> {
        let sockets = server.sockets()?;
        let successor = Successor::start(&self.invocation, &sockets)?;
        tracing::info!("a new process was started, to take over");
        self.manager.reloading("A new process is about to take over");
        let (sender, is_ending) = (self.sender.clone(), Arc::clone(&self.is_ending));
        thread::Builder::new().name("successor".into()).spawn(move || {
            // If nobody hears it, this process is at its end already.
            drop(sender.send(Event::Successor(successor.wait(READY_TIME, &is_ending))));
        })?;
        Ok(())
    }

    /// Reads anew what can be read anew without a new process.
    fn reload(&self, server: &Server) {
        self.manager.reloading("Reading certificates anew");
        drop(reload(&server.handle())); // the log says what could not be read
        self.manager.ready(&format!("Serving on {}", places(server)));
    }

    /// The change to a new binary has failed: nothing else has changed.
    fn stay(&self, server: &Server, why: &str) {
        tracing::error!(why, "the new process cannot take over; this one goes on");
        self.manager.ready(&format!("Serving on {}; no new process has taken over: {why}", places(server)));
        upgrade_binary::tell(Err(why));
    }

    fn drain(mut self, server: Server, end: &End, operator: &mut Operator) -> ExitCode {
        let before = server.stats();
        let begun = Instant::now();
        let within = humantime::format_duration(self.drain_time);
        let line = match end {
            End::Signal(_) | End::Order => {
                self.is_ending.store(true, Ordering::Relaxed);
                server.drain();
                let name = match end {
                    End::Signal(SIGINT) => "SIGINT",
                    End::Signal(_) => "SIGTERM",
                    _ => "an operator's order",
                };
                self.manager.stopping(&format!("Draining {} sessions", before.sessions));
                format!(
                    "{name} received, draining {} sessions within {within}; a second signal ends it now",
                    before.sessions
                )
            }
            End::Successor(Ready { pid }) => {
                server.retire();
                operator.end(); // it is the successor's to have
                self.manager.handed_over(
                    *pid,
                    &format!("Serving on {}; took over from {}", places(&server), process::id()),
                );
                upgrade_binary::tell(Ok(&format!("process {pid} has taken over from {}", process::id())));
                format!("process {pid} has taken over, draining {} sessions within {within}", before.sessions)
            }
        };
        say(&format!("switchpoint: {line}"));
        // A service manager tells all processes of a service to end. Who drains already because it was replaced was told
        // nothing by that yet.
        let mut may_drain_on = matches!(end, End::Successor(_));
        while !server.is_over() || self.is_upgrading {
            match self.events.recv_timeout(Duration::from_millis(10)) {
                Ok(Event::Signal(SIGINT | SIGTERM)) if may_drain_on => may_drain_on = false,
                Ok(Event::Signal(SIGINT | SIGTERM)) => {
                    server.stop();
                    self.is_upgrading = false;
                }
                Ok(Event::Signal(SIGUSR2)) => {
                    tracing::warn!("no new process is started: this one is at its end")
                }
                // It came too late: this server was told to end, and so is that one.
                Ok(Event::Successor(outcome)) => {
                    self.is_upgrading = false;
                    outcome.into_iter().for_each(Ready::end);
                }
                Ok(Event::Signal(_) | Event::Order) | Err(_) => {}
            }
            self.manager.ping(&server.handle());
        }
        if let Some(file) = &self.pid_file {
            file.remove();
        }
        let after = server.join();
        operator.end();
        say(&last_line(&before, &after, begun.elapsed()));
        ExitCode::SUCCESS
    }
}

/// Why a server does not go on.
enum End {
    Signal(i32),
    Order,
    Successor(Ready),
}

/// How long the last lines of the log may take to be written.
const FLUSH_TIME: Duration = Duration::from_millis(500);
/// How long a new process may take until it serves.
const READY_TIME: Duration = Duration::from_secs(30);

fn places(server: &Server) -> String {
    server.places().collect::<Vec<_>>().join(", ")
}

/// The file that says which process serves.
struct PidFile(PathBuf);

impl PidFile {
    /// Whole or not at all: who reads it meanwhile sees the process before.
    fn write(&self) {
        let Self(path) = self;
        let mut beside = path.clone().into_os_string();
        beside.push(format!(".{}", process::id()));
        let beside = Path::new(&beside);
        let written =
            fs::write(beside, format!("{}\n", process::id())).and_then(|()| fs::rename(beside, path));
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "the file for the process cannot be written");
        }
    }

    /// Removes it, unless it is another process's by now.
    fn remove(&self) {
        let content = fs::read_to_string(&self.0).unwrap_or_default();
        if content.trim() == process::id().to_string() {
            // It may be in a folder that we may not write to any more.
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// Says something on standard error, if that can be written to.
pub(super) fn complain(message: &str) {
    drop(writeln!(io::stderr(), "switchpoint: {message}"));
}

/// Says something on standard output, if anybody still listens there.
pub(super) fn say(line: &str) {
    drop(writeln!(io::stdout(), "{line}"));
}

fn last_line(before: &Stats, after: &Stats, time: Duration) -> String {
    let lost = match after.lost - before.lost {
        0 => String::new(),
        lost => format!(", {lost} lost"),
    };
    format!(
        "switchpoint: drained in {:.1} s: {} closed cleanly, {} cut{lost}",
        time.as_secs_f64(),
        after.closed_clean - before.closed_clean,
        after.cut - before.cut
    )
}
