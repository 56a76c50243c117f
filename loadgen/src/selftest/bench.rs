//! What the cases are made of: an oracle, a run of ourselves against it, and what it said.

use std::{
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Ourselves.
pub(super) fn program() -> PathBuf {
    std::env::current_exe().expect("the program knows where it is")
}

/// A server that misbehaves by a script.
pub(super) struct Oracle {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Oracle {
    pub(super) fn start(script: &str) -> Self {
        let mut child = Command::new(program())
            .args(["oracle", "--mode", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("oracle on ").unwrap().to_owned();
        Self { child, out, address }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it; what it has counted.
    pub(super) fn ledger(mut self) -> Value {
        self.signal(Signal::TERM);
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        self.child.wait().unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn command(oracle: &Oracle, line: &str) -> Command {
    let (what, flags) = line.split_once(' ').unwrap();
    let mut command = Command::new(program());
    command.arg(what).arg(format!("ws://{}/", oracle.address)).args(flags.split(' '));
    command
}

pub(super) fn run(oracle: &Oracle, line: &str) -> (i32, Value) {
    let output = command(oracle, &format!("{line} --json")).output().unwrap();
    parsed(&output)
}

pub(super) fn parsed(output: &Output) -> (i32, Value) {
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text} {error}"));
    let number = |name: &str| value["messages"][name].as_u64().unwrap();
    assert_eq!(number("planned"), number("answered") + number("errors") + number("unanswered"), "{value:#}");
    (output.status.code().unwrap(), value)
}

/// Runs it up to five times, the later ones after a pause: on a machine that others use, too, time is taken from both sides
/// for seconds on end. What is wrong with the engine is wrong each time, so who breaks it on purpose is shown the first.
pub(super) fn within_five(mut attempt: impl FnMut() -> Result<(), String>) {
    let mut faults = Vec::new();
    let attempts = if cfg!(feature = "proof") && std::env::var_os("LOADGEN_BREAK").is_some() { 1 } else { 5 };
    for pause in 0..attempts {
        thread::sleep(Duration::from_secs(pause));
        match attempt() {
            Ok(()) => return,
            Err(why) => faults.push(why),
        }
    }
    panic!("{}", faults.join("; again: "));
}

/// Whether the server is not blamed. That we were late ourselves may be true on a busy machine, and is said then.
pub(super) fn answered_well(code: i32) -> Result<(), String> {
    if code == 0 || code == 4 { Ok(()) } else { Err(format!("exit code {code}")) }
}

pub(super) fn ms(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN) / 1e6
}

pub(super) fn expect(name: &str, got: f64, expected: f64, tolerance: f64) -> Result<(), String> {
    if (got - expected).abs() <= tolerance {
        Ok(())
    } else {
        Err(format!("{name}: {got} instead of {expected} \u{b1} {tolerance}"))
    }
}

pub(super) fn errors(value: &Value) -> Vec<(String, u64)> {
    let kind = |error: &Value| (error["kind"].as_str().unwrap().to_owned(), error["count"].as_u64().unwrap());
    value["errors"].as_array().unwrap().iter().map(kind).collect()
}
