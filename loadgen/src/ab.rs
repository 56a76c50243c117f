//! Two servers against each other, in alternation: A B, B A, A B, … so that what changes with time changes both.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::{
    compare::{self, Change, ROUNDS},
    plan::Plan,
    progress::Progress,
    record::Packed,
    report::Report,
    target::Target,
    verdict::Grade,
};

/// What is compared.
#[derive(Clone, Debug)]
pub(crate) struct Ab {
    /// All but the target.
    pub(crate) plan: Plan,
    pub(crate) sides: [Side; 2],
    pub(crate) pairs: u32,
    /// In percent; what changes less has not changed.
    pub(crate) practical: f64,
}

/// One of the two.
#[derive(Clone, Debug)]
pub(crate) enum Side {
    /// It is there.
    Running(Target),
    /// It is started for each run: a command in which `{port}` is the port to listen on.
    Started(String),
}

impl std::str::FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") && !text.contains(' ') {
            return Ok(Self::Running(text.parse()?));
        }
        if text.contains("{port}") {
            return Ok(Self::Started(text.to_owned()));
        }
        Err("a side is a URL, or a command with {port} for the port that it has to listen on".into())
    }
}

/// What came out.
pub(crate) struct Compared {
    pub(crate) changes: Vec<Change>,
    /// By side: the verdict of each run, in the order of the pairs.
    verdicts: [Vec<&'static str>; 2],
}

/// Runs all pairs. `tell` hears of each run.
pub(crate) fn run(ab: &Ab, stop: &Arc<AtomicBool>, mut tell: impl FnMut(String)) -> io::Result<Compared> {
    let mut seconds: [Vec<Vec<Packed>>; 2] = Default::default();
    let mut verdicts: [Vec<&'static str>; 2] = Default::default();
    for pair in 0..ab.pairs {
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            let report = once(ab, side, stop)?;
            let name = ["A", "B"][side];
            tell(format!("  pair {}, {name}: {}\n", pair + 1, report.verdict()));
            if stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(io::Error::other("interrupted: pairs are missing"));
            }
            verdicts[side].push(report.verdict().grade.name());
            seconds[side].push(report.measured_seconds());
        }
    }
    let [a, b] = &seconds;
    Ok(Compared { changes: compare::changes(a, b, ab.practical, ROUNDS), verdicts })
}

/// One run of a side; one that says nothing is tried once more.
fn once(ab: &Ab, side: usize, stop: &Arc<AtomicBool>) -> io::Result<Report> {
    let mut last = String::new();
    for _ in 0..TRIES {
        let started = Started::start(&ab.sides[side], &ab.plan)?;
        let plan = Arc::new(Plan { target: started.target.clone(), ..ab.plan.clone() });
        let address = plan.target.resolve(plan.connect_timeout)?;
        let finished = crate::run::run(&plan, address, Arc::clone(stop), Progress::none(), None)?;
        let report = Report::new(plan, finished);
        if report.verdict().grade <= Grade::Degraded || stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(report);
        }
        last = report.verdict().to_string();
    }
    Err(io::Error::other(format!("{} is no side to compare: {last}", ["A", "B"][side])))
}

const TRIES: u32 = 3;

/// A server for one run.
struct Started {
    child: Option<Child>,
    target: Target,
}

impl Started {
    fn start(side: &Side, plan: &Plan) -> io::Result<Self> {
        let command = match side {
            Side::Running(target) => return Ok(Self { child: None, target: target.clone() }),
            Side::Started(command) => command,
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // Without a shell: a word is a word.
        let words = command.replace("{port}", &port.to_string());
        let mut words = words.split_whitespace();
        let program = words.next().unwrap_or_default();
        let child = Command::new(program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot start `{program}`: {error}")))?;
        let target = format!("ws://127.0.0.1:{port}{}", plan.target.url.target());
        let mut started = Self { child: Some(child), target: target.parse().map_err(io::Error::other)? };
        started.wait_for(SocketAddr::from(([127, 0, 0, 1], port)), command)?;
        Ok(started)
    }

    fn wait_for(&mut self, address: SocketAddr, command: &str) -> io::Result<()> {
        let limit = Instant::now() + START_TIME;
        while TcpStream::connect_timeout(&address, START_TIME).is_err() {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                return Err(io::Error::other(format!("`{command}` has ended: {status}")));
            }
            if Instant::now() > limit {
                return Err(io::Error::other(format!("`{command}` does not listen on {address}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let _ = kill_process(Pid::from_child(child), Signal::TERM);
        let limit = Instant::now() + STOP_TIME;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < limit {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

const START_TIME: Duration = Duration::from_secs(10);
const STOP_TIME: Duration = Duration::from_secs(5);

impl Compared {
    pub(crate) fn text(&self) -> String {
        let lines: String = self.changes.iter().map(Change::line).collect();
        format!("\n{lines}{}", compare::conclusion(&self.changes))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let change = |change: &Change| {
            json!({
                "percentile": change.name,
                "a_ns": change.before,
                "b_ns": change.after,
                "change_percent": change.change,
                "interval_percent": [change.interval.0, change.interval.1],
                "said": change.said.name(),
            })
        };
        json!({
            "different": !compare::conclusion(&self.changes).contains("no "),
            "changes": self.changes.iter().map(change).collect::<Vec<_>>(),
            "verdicts": { "a": self.verdicts[0], "b": self.verdicts[1] },
        })
    }
}
