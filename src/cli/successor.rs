//! The change to a new binary without loss: the process that goes starts the one that comes, passes its sockets on, and
//! goes when that one is ready.
//!
//! ```text
//!   old   SIGUSR2 ─► starts the program's file anew ───► waits, and serves ───► "ready": stops accepting, drains
//!   new              takes the sockets, starts its workers, says "ready" ─┘      accepts, on the same sockets
//! ```
//!
//! The sockets are the same in both, with their queues, so there is no moment in which nobody listens. If the new process
//! fails, the old one has lost nothing.

use std::{
    env,
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::{self, PipeReader, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    process::{self, Child, Command, ExitCode},
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{FdFlags, fcntl_getfd, fcntl_setfd},
    process::{Pid, Signal, kill_process},
};
use switchpoint::inherited;

/// How this process was started, as of its start: its file may be another one by now.
#[derive(Clone, Debug)]
pub(super) struct Invocation {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Invocation {
    pub(super) fn of_this_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        // A path is kept as it was given, for it may be a link that points to a new version by then.
        let program = match arguments.next().map(PathBuf::from) {
            Some(program) if program.components().count() > 1 => env::current_dir()?.join(program),
            _ => env::current_exe()?,
        };
        Ok(Self { program, arguments: arguments.collect() })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

/// A process that was started to take over, and has not said yet that it can.
pub(super) struct Successor {
    /// It starts the successor and ends, so that the successor is nobody's child: a service manager looks after those that
    /// nobody else does, and kills a main process at once that it takes for somebody else's (systemd 252).
    between: Child,
    pipe: PipeReader,
}

impl Successor {
    /// Starts the program's file with the arguments that this process had, and passes `sockets` on.
    pub(super) fn start(invocation: &Invocation, sockets: &[OwnedFd]) -> io::Result<Self> {
        let (pipe, told) = io::pipe()?;
        let mut command = invocation.command();
        command.env(inherited::TAKES_OVER, Passed::new(&told, sockets)?.to_string());
        command.env(BETWEEN, "1");
        // The service manager's watchdog names the process that it means, and that is not the new one yet.
        command.env_remove("WATCHDOG_PID");
        // Sockets of socket activation are passed on under the numbers that they have.
        command.env("LISTEN_PID", process::id().to_string());
        for descriptor in sockets.iter().map(OwnedFd::as_fd).chain([told.as_fd()]) {
            fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        inherited::pass_on(true)?;
        let between = command.spawn();
        inherited::pass_on(false)?;
        // `told` is closed here, so that the pipe ends when the last one over there does.
        Ok(Self { between: between?, pipe })
    }

    /// Waits for its word, at most for `limit`, and until nobody wants to know any more. A process that is not ready by then
    /// is ended.
    pub(super) fn wait(mut self, limit: Duration, is_unwanted: &AtomicBool) -> Result<Ready, String> {
        let mut said = Said::default();
        let read = said.read(&mut self.pipe, Instant::now() + limit, is_unwanted);
        let between =
            self.end_between(if said.pid.is_some() { Duration::from_secs(2) } else { Duration::ZERO });
        let why = match (read, said.pid) {
            (Ok(true), Some(pid)) if said.is_ready() => return Ok(Ready { pid }),
            (Ok(true), _) => None,
            (Ok(false), _) if is_unwanted.load(Ordering::Relaxed) => Some("this server is at its end".into()),
            (Ok(false), _) => Some(format!("it was not ready after {}", humantime::format_duration(limit))),
            (Err(error), _) => Some(error.to_string()),
        };
        if let (Some(_), Some(pid)) = (&why, said.pid) {
            kill(pid, Signal::KILL);
        }
        let text = String::from_utf8_lossy(&said.text);
        Err(match (why, text.trim(), between) {
            (Some(why), ..) => why,
            (None, "", Some(status)) if !status.success() => {
                format!("it ended at its start, with {status}; what it said is in the log")
            }
            (None, "", _) => "it ended at its start; what it said is in the log".into(),
            (None, text, _) => text.to_owned(),
        })
    }

    /// How the process between has ended, which it does at once; if not, it is made to.
    fn end_between(&mut self, limit: Duration) -> Option<process::ExitStatus> {
        // Where the pipe has ended the process is about to.
        let until = Instant::now() + limit.max(Duration::from_millis(500));
        loop {
            match self.between.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                _ => break,
            }
        }
        // It fails only where there is nothing to end.
        let _ = self.between.kill();
        self.between.wait().ok()
    }
}

/// A successor that serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) pid: u32,
}

impl Ready {
    /// Asks it to end.
    pub(super) fn end(self) {
        kill(self.pid, Signal::TERM);
    }
}

fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It fails only where it has ended already.
        let _ = kill_process(pid, signal);
    }
}

/// If this process is the one between, starts the successor: then all is done, and the result is how to end.
pub(super) fn step() -> Option<ExitCode> {
    env::var_os(BETWEEN)?;
    let mut predecessor = Predecessor::of_this_process()?;
    let started = || -> io::Result<u32> {
        for socket in &predecessor.sockets {
            fcntl_setfd(socket, FdFlags::empty())?;
        }
        fcntl_setfd(&predecessor.pipe, FdFlags::empty())?;
        Ok(Invocation::of_this_process()?.command().env_remove(BETWEEN).spawn()?.id())
    };
    let started = started();
    let _ = match &started {
        Ok(pid) => writeln!(predecessor.pipe, "{PID}{pid}"),
        Err(error) => write!(predecessor.pipe, "{error}"),
    };
    Some(if started.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The process that is to start the successor, and no more, has this in its environment.
const BETWEEN: &str = "SWITCHPOINT_STARTS_SUCCESSOR";

/// What came through the pipe: `pid N`, from the process between, and then `ready`, or why not.
#[derive(Debug, Default)]
struct Said {
    pid: Option<u32>,
    text: Vec<u8>,
}

const PID: &str = "pid ";
const READY: &[u8] = b"ready\n";
const REASON_MAX: usize = 4096;
/// How often a wait looks whether it is still wanted.
const LOOK_UP: Duration = Duration::from_millis(100);

impl Said {
    fn is_ready(&self) -> bool {
        self.text == READY
    }

    fn take(&mut self, piece: &[u8]) {
        let room = REASON_MAX.saturating_sub(self.text.len());
        self.text.extend_from_slice(&piece[..piece.len().min(room)]);
        // The two write at the same time, so their lines come in any order; but each is whole.
        let text = String::from_utf8_lossy(&self.text).into_owned();
        let mut rest = String::new();
        for line in text.split_inclusive('\n') {
            match line.strip_prefix(PID).and_then(|line| line.strip_suffix('\n')).map(str::parse) {
                Some(Ok(pid)) => self.pid = Some(pid),
                _ => rest += line,
            }
        }
        self.text = rest.into_bytes();
    }

    /// Reads until it is ready, or to the end of `pipe`; `false` if that did not come in time.
    fn read(&mut self, pipe: &mut PipeReader, until: Instant, is_unwanted: &AtomicBool) -> io::Result<bool> {
        let mut piece = [0; 512];
        while !(self.is_ready() && self.pid.is_some()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || is_unwanted.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let timeout = Timespec::try_from(left.min(LOOK_UP)).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&*pipe, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => continue,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            match pipe.read(&mut piece)? {
                0 => return Ok(true),
                count => self.take(&piece[..count]),
            }
        }
        Ok(true)
    }
}

/// The process that has started this one to take over from it.
#[derive(Debug)]
pub(super) struct Predecessor {
    pid: u32,
    pipe: File,
    sockets: Vec<OwnedFd>,
}

impl Predecessor {
    /// Whom this process was started by, if it was to take over. To be asked once.
    pub(super) fn of_this_process() -> Option<Self> {
        let passed: Passed = env::var(inherited::TAKES_OVER).ok()?.parse().ok()?;
        // The variable may have come down to some other program's child, for which these numbers mean nothing.
        if inode(passed.pipe).ok()? != passed.inode {
            return None;
        }
        let pipe = take(passed.pipe).ok()?;
        let sockets = passed.sockets.iter().filter_map(|&number| take(number).ok()).collect();
        Some(Self { pid: passed.from, pipe: pipe.into(), sockets })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// The sockets that it listens on.
    pub(super) fn sockets(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sockets)
    }

    /// Tells it that this process serves.
    pub(super) fn ready(mut self) {
        // If it is gone there is nobody to tell.
        drop(self.pipe.write_all(READY));
    }

    /// Tells it why this process does not.
    pub(super) fn failed(mut self, why: &str) {
        drop(self.pipe.write_all(why.as_bytes()));
    }
}

/// Which file a descriptor is, whoever has it.
fn inode(number: RawFd) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/self/fd/{number}"))?.ino())
}

/// The descriptor that was passed on as `number`.
#[expect(unsafe_code, reason = "a descriptor that was passed on is known only by its number")]
fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the borrow ends in the next line, which only asks whether there is such a descriptor.
    fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) })?;
    // SAFETY: it is open, and nobody has it: our parent has passed it on for this, and `of_this_process` is asked once,
    // before anything else in this process opens a descriptor that outlives it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

/// What a process is told that is to take over: `PID:PIPE:INODE:SOCKET,SOCKET,…`.
#[derive(Debug, PartialEq, Eq)]
struct Passed {
    from: u32,
    pipe: RawFd,
    /// Of the pipe.
    inode: u64,
    sockets: Vec<RawFd>,
}

impl Passed {
    fn new(pipe: &impl AsRawFd, sockets: &[OwnedFd]) -> io::Result<Self> {
        let pipe = pipe.as_raw_fd();
        let sockets = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        Ok(Self { from: process::id(), pipe, inode: inode(pipe)?, sockets })
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, pipe, inode, .. } = self;
        let sockets: Vec<String> = self.sockets.iter().map(RawFd::to_string).collect();
        write!(f, "{from}:{pipe}:{inode}:{}", sockets.join(","))
    }
}

impl FromStr for Passed {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        fn number<N: FromStr>(text: Option<&str>) -> Result<N, ()> {
            text.and_then(|text| text.parse().ok()).ok_or(())
        }
        let mut parts = text.split(':');
        let (from, pipe, inode) = (number(parts.next())?, number(parts.next())?, number(parts.next())?);
        let sockets = parts.next().ok_or(())?.split(',').filter(|text| !text.is_empty());
        let sockets = sockets.map(|text| number(Some(text))).collect::<Result<_, _>>()?;
        Ok(Self { from, pipe, inode, sockets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_is_read_as_it_was_written() {
        for sockets in [vec![], vec![7], vec![7, 8, 9]] {
            let passed = Passed { from: 4711, pipe: 6, inode: u64::MAX, sockets };
            assert_eq!(passed.to_string().parse(), Ok(passed));
        }
        for wrong in ["", "1", "1:2:3", "1:x:3:4", "x:2:3:4", "1:2:3:4,x"] {
            assert_eq!(wrong.parse::<Passed>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn a_descriptor_that_is_not_there_is_not_taken() {
        assert!(take(987_654).is_err());
        assert!(take(0).is_err(), "the standard streams are nobody's to take");
    }

    #[test]
    fn what_two_processes_say_is_told_apart() {
        for pieces in [&["pid 7\nready\n"][..], &["ready\n", "pid 7\n"], &["pid 7\n", "re", "ady\n"]] {
            let mut said = Said::default();
            pieces.iter().for_each(|piece| said.take(piece.as_bytes()));
            assert_eq!((said.pid, said.is_ready()), (Some(7), true), "{pieces:?}");
        }
        let mut said = Said::default();
        (0..1000).for_each(|_| said.take(b"no words are enough\n"));
        assert!(!said.is_ready() && said.text.len() <= REASON_MAX);
    }

    /// A script in the place of the program: of the process between, which in it is also the successor.
    fn outcome(script: &str, limit: Duration) -> Result<Ready, String> {
        let invocation =
            Invocation { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] };
        Successor::start(&invocation, &[]).unwrap().wait(limit, &AtomicBool::new(false))
    }

    /// By its path, for the shell knows descriptors of one digit only.
    const SAY: &str = "pipe=${SWITCHPOINT_TAKES_OVER#*:}; pipe=${pipe%%:*}; exec 3>/proc/self/fd/$pipe; ";

    #[test]
    fn a_successor_is_believed_when_it_says_so_and_not_before() {
        let patience = Duration::from_secs(20);
        let ready = outcome(&format!("{SAY} echo pid 4711 >&3; echo ready >&3"), patience).unwrap();
        assert_eq!(ready.pid, 4711);
        let why = outcome(&format!("{SAY} echo the port is taken >&3"), patience).unwrap_err();
        assert_eq!(why, "the port is taken");
        let why = outcome("exit 3", patience).unwrap_err();
        assert!(why.contains("exit status: 3"), "{why}");
        let why = outcome("kill -9 $$", patience).unwrap_err();
        assert!(why.contains("signal: 9"), "{why}");
    }

    #[test]
    fn a_successor_that_says_nothing_is_ended() {
        let begun = Instant::now();
        // A process of its own, which is named and says no more, and one that is in between and stays there.
        let named = Command::new("sleep").arg("60").spawn().unwrap();
        let script = format!("{SAY} echo pid {} >&3; exec sleep 60", named.id());
        let why = outcome(&script, Duration::from_millis(100)).unwrap_err();
        assert_eq!(why, "it was not ready after 100ms");
        assert!(begun.elapsed() < Duration::from_secs(20));
        let mut named = named;
        assert!(!named.wait().unwrap().success(), "it was killed");
    }

    #[test]
    fn nobody_waits_for_a_successor_that_is_not_wanted() {
        let invocation = Invocation { program: "/bin/sleep".into(), arguments: vec!["60".into()] };
        let begun = Instant::now();
        let patience = Duration::from_secs(60);
        let why = Successor::start(&invocation, &[]).unwrap().wait(patience, &AtomicBool::new(true));
        assert_eq!(why.unwrap_err(), "this server is at its end");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let nothing = Invocation { program: "/nowhere/switchpoint".into(), arguments: Vec::new() };
        assert!(Successor::start(&nothing, &[]).is_err());
    }
}
