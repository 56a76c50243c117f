//! `switchpoint connect` and `switchpoint replay`, the programs themselves: through pipes, with scripts, at a terminal.

mod interactive;
mod pipes;
mod replays;
mod scripts;
#[cfg(feature = "tls")]
mod secure;
mod server;

use std::{
    ffi::OsStr,
    io::{Read, Write},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How a run of the program ended.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl Run {
    fn out(&self) -> &str {
        str::from_utf8(&self.out).unwrap()
    }

    /// The exit code, and what standard error says in this case.
    #[track_caller]
    fn fails(&self, code: i32, hints: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for hint in hints {
            assert!(self.err.contains(hint), "no {hint:?} in {}", self.err);
        }
    }

    #[track_caller]
    fn is_fine(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchpoint"));
    command.env_remove("XDG_STATE_HOME").env("HOME", "/nonexistent");
    command
}

/// A program that runs, with its pipes.
struct Running {
    child: Child,
    out: JoinHandle<Vec<u8>>,
    err: JoinHandle<Vec<u8>>,
}

fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Starts the program. Its standard input is `child.stdin`, and stays open until that is dropped.
fn start(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Running {
    let mut command = program();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    Running { child, out: read_all(out), err: read_all(err) }
}

impl Running {
    fn end(mut self) -> Run {
        let code = exit(&mut self.child);
        let err = String::from_utf8(self.err.join().unwrap()).unwrap();
        Run { code, out: self.out.join().unwrap(), err }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }
}

/// The exit code. Who does not end is ended, and has none.
fn exit(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// Runs `switchpoint connect` with `input`, to its end.
fn connect(arguments: &[&str], input: &[u8]) -> Run {
    run(&[&["connect"], arguments].concat(), input)
}

fn run(arguments: &[&str], input: &[u8]) -> Run {
    let mut running = start(arguments);
    let mut stdin = running.child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = thread::spawn(move || {
        // Who has heard enough reads no more.
        drop(stdin.write_all(&input));
    });
    let run = running.end();
    writer.join().unwrap();
    run
}
