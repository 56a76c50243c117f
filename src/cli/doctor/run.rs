//! The probes are run, a few at a time, within a time for all.

use std::{
    io::{IsTerminal, Write},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    client::Log,
    probe::{Finding, Known, Need, Probe, Setting, Talk},
};

/// What a probe has found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) probe: &'static Probe,
    pub(crate) verdict: Verdict,
    pub(crate) took: Duration,
    pub(crate) logs: Vec<Log>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What came.
    Passed(String),
    /// What came instead.
    Failed(String),
    /// Why it says nothing here.
    Skipped(String),
    /// Why it could not be seen.
    Unclear(String),
}

impl Verdict {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Passed(_) => "passed",
            Self::Failed(_) => "failed",
            Self::Skipped(_) => "skipped",
            Self::Unclear(_) => "unclear",
        }
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Passed(text) | Self::Failed(text) | Self::Skipped(text) | Self::Unclear(text) => text,
        }
    }
}

/// Runs `probes`, `parallel` at a time; those that have not begun after `time` are left out.
pub(crate) fn run(
    setting: &Setting,
    known: &Known,
    probes: &[&'static Probe],
    parallel: usize,
    time: Duration,
) -> Vec<Outcome> {
    let deadline = Instant::now() + time;
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcomes = Mutex::new(Vec::new());
    let is_shown = std::io::stderr().is_terminal();
    thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Relaxed);
                    let Some(probe) = probes.get(at) else { return };
                    let outcome = if Instant::now() < deadline {
                        one(setting, known, probe)
                    } else {
                        let why = format!("{time:?} are over (--total-time)");
                        Outcome {
                            probe,
                            verdict: Verdict::Unclear(why),
                            took: Duration::ZERO,
                            logs: Vec::new(),
                        }
                    };
                    if is_shown {
                        let done = done.fetch_add(1, Relaxed) + 1;
                        eprint!("\r\x1b[K[{done}/{}] {}", probes.len(), probe.id);
                        drop(std::io::stderr().flush());
                    }
                    outcomes.lock().expect("nobody panics with it").push((at, outcome));
                }
            });
        }
    });
    if is_shown {
        eprint!("\r\x1b[K");
    }
    let mut outcomes = outcomes.into_inner().expect("nobody panicked with it");
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Runs one probe. What could not be seen is tried once more.
pub(crate) fn one(setting: &Setting, known: &Known, probe: &'static Probe) -> Outcome {
    let begun = Instant::now();
    if let Some(why) = probe.needs.iter().find_map(|need| lacks(*need, setting, known)) {
        return Outcome { probe, verdict: Verdict::Skipped(why), took: Duration::ZERO, logs: Vec::new() };
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let talk = Talk::new(setting, known);
        let verdict = match (probe.judge)(&talk) {
            Ok(came) => Verdict::Passed(came),
            Err(Finding::Failed(came)) => Verdict::Failed(came),
            Err(Finding::Skipped(why)) => Verdict::Skipped(why),
            Err(Finding::Unclear(_)) if tries == 1 => {
                thread::sleep(Duration::from_millis(200));
                continue;
            }
            Err(Finding::Unclear(why)) => Verdict::Unclear(why),
        };
        return Outcome { probe, verdict, took: begun.elapsed(), logs: talk.into_logs() };
    }
}

fn lacks(need: Need, setting: &Setting, known: &Known) -> Option<String> {
    let (is_met, why) = match need {
        Need::WebSocket => (setting.is_websocket(), "it is about websocket"),
        Need::Echo => (known.echoes, "messages do not come back"),
        Need::Deflate => (known.deflate.is_some(), "permessage-deflate is not agreed to"),
        Need::H2c => (known.h2c, "it does not switch to h2c"),
        Need::Cleartext => (!setting.target.is_tls, "it is about connections without TLS"),
        Need::Tls => (setting.target.is_tls, "it is about connections over TLS"),
        Need::Subprotocol => (setting.subprotocol.is_some(), "no --subprotocol was named"),
        Need::RawEcho => (!setting.is_websocket() && known.echoes, "it is about --proto echo"),
        Need::Slow => (setting.slow, "it takes long: --slow"),
    };
    (!is_met).then(|| why.to_owned())
}
