//! `switchpoint upgrade-binary`: asks a running server to start its program's file anew and to hand over to it, and waits
//! for what comes of it.

use std::{
    fs, io,
    io::Read,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use rustix::{
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
        sockopt::socket_peercred,
    },
    process::{Pid, Signal, kill_process},
};

/// Which server.
#[derive(Args, Clone, Debug)]
pub(super) struct Arguments {
    /// The server's process.
    #[arg(long, value_name = "PID", required_unless_present = "pid_file", conflicts_with = "pid_file")]
    pid: Option<i32>,
    /// The file that the server has written its process to (`--pid-file`).
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// How long to wait for the new process.
    #[arg(long, value_name = "TIME", default_value = "45s", value_parser = humantime::parse_duration)]
    time: Duration,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match upgrade(arguments) {
        Ok(line) => {
            println!("switchpoint: {line}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("switchpoint: {why}");
            ExitCode::FAILURE
        }
    }
}

fn upgrade(arguments: &Arguments) -> Result<String, String> {
    let pid = arguments.pid()?;
    if !catches_sigusr2(pid.as_raw_nonzero().get())? {
        return Err(format!(
            "process {pid} does not wait for SIGUSR2, so it is no Switchpoint that could hand over"
        ));
    }
    let name = name(pid.as_raw_nonzero().get().unsigned_abs());
    let bound = SocketAddr::from_abstract_name(name).and_then(|address| UnixListener::bind_addr(&address));
    let listener = bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("somebody else waits for an upgrade of process {pid}"),
        _ => error.to_string(),
    })?;
    listener.set_nonblocking(true).map_err(text)?;
    kill_process(pid, Signal::USR2).map_err(|error| format!("process {pid} cannot be told: {error}"))?;
    let until = Instant::now() + arguments.time;
    let process = PathBuf::from(format!("/proc/{pid}"));
    loop {
        // Asked first: it may say it, and end.
        let is_there = process.exists();
        match listener.accept() {
            Ok((stream, _)) => {
                if let Some(answer) = answer(stream, pid, until).map_err(text)? {
                    return answer;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err(text(error)),
        }
        if Instant::now() >= until {
            let time = humantime::format_duration(arguments.time);
            return Err(format!("process {pid} has not said within {time} what came of it; its log has it"));
        }
        if !is_there {
            return Err(format!("process {pid} has ended"));
        }
    }
}

impl Arguments {
    fn pid(&self) -> Result<Pid, String> {
        let number = match (&self.pid, &self.pid_file) {
            (Some(pid), _) => *pid,
            (None, Some(file)) => {
                let content =
                    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
                content
                    .trim()
                    .parse()
                    .map_err(|_| format!("{}: there is no process in it", file.display()))?
            }
            (None, None) => return Err("say which process".into()),
        };
        // 0 and below are groups of processes, and 1 is the one that none of ours can be replaced in.
        let pid = if number > 1 { Pid::from_raw(number) } else { None };
        pid.ok_or_else(|| format!("{number} is no process of a server"))
    }
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// The signal would end a process that does not wait for it.
fn catches_sigusr2(pid: i32) -> Result<bool, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| format!("there is no process {pid} to look at: {error}"))?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap_or(0);
    Ok(caught & 1 << (Signal::USR2.as_raw() - 1) != 0)
}

/// What the server says; `None` if it was not the server who said it.
fn answer(mut stream: UnixStream, server: Pid, until: Instant) -> io::Result<Option<Result<String, String>>> {
    if socket_peercred(&stream)?.pid != server {
        return Ok(None);
    }
    let left = until.saturating_duration_since(Instant::now());
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(Some(match said.split_once(' ') {
        Some(("ready", line)) => Ok(line.to_owned()),
        Some(("failed", why)) => Err(why.to_owned()),
        _ => Err(format!("it said `{said}`")),
    }))
}

/// Tells whoever waits for it what has come of an upgrade. If nobody does, or not at once, it is not told: the log has it.
pub(super) fn tell(outcome: Result<&str, &str>) {
    let message = match outcome {
        Ok(line) => format!("ready {line}"),
        Err(why) => format!("failed {why}"),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let told = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).and_then(|socket| {
        connect(&socket, &SocketAddrUnix::new_abstract_name(name(std::process::id()).as_bytes())?)?;
        send(&socket, message.as_bytes(), SendFlags::NOSIGNAL)
    });
    if let Err(error) = told {
        tracing::debug!(%error, "nobody waits to hear of the upgrade");
    }
}

/// Where the outcome of an upgrade of a process is awaited: an abstract name, not a file.
fn name(pid: u32) -> String {
    format!("switchpoint-upgrade-{pid}")
}

fn text(error: io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_waits_for_the_signal_is_sent_it() {
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = other.id() as i32;
        let arguments = Arguments { pid: Some(pid), pid_file: None, time: Duration::from_secs(1) };
        let why = upgrade(&arguments).unwrap_err();
        assert!(why.contains("no Switchpoint"), "{why}");
        assert!(other.try_wait().unwrap().is_none(), "it lives");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_process_is_named_by_number_or_by_file() {
        let of = |pid, pid_file: Option<&str>| {
            Arguments { pid, pid_file: pid_file.map(PathBuf::from), time: Duration::ZERO }.pid()
        };
        assert!(of(Some(4711), None).is_ok());
        for nobody in [0, 1, -1] {
            assert!(of(Some(nobody), None).is_err(), "{nobody} is never one");
        }
        assert!(of(None, Some("/nowhere/pid")).unwrap_err().contains("/nowhere/pid"));
        assert!(of(None, Some("/proc/self/comm")).unwrap_err().contains("no process in it"));
    }
}
