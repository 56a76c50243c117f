//! `switchpoint doctor`: what is wrong with an upgrade, seen from the client's side.
//!
//! It shares no rule with the server: its requests, its parser of answers and its frames are its own, so that it can
//! find fault with ours.

mod access;
mod answer;
mod baseline;
mod client;
pub(super) mod explain;
mod export;
mod frame;
mod head;
mod probe;
mod probes;
mod report;
mod run;
mod target;
#[cfg(test)]
mod tests;
mod tls;

use std::{env, fs, io, io::IsTerminal, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;

use access::Access;
use baseline::{Baseline, diagnosis};
use probe::{Level, Probe, Setting};
use report::Paint;
use run::{Outcome, Verdict};

/// What to examine, and how to say what was found.
#[derive(Args, Clone, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: Access,
    /// Lists the probes, and examines nothing.
    #[arg(long)]
    list: bool,
    /// Only these probes: an id, a section, or a pattern with `*`; may be repeated.
    #[arg(long, value_name = "PROBE")]
    only: Vec<String>,
    /// Prints what was found as JSON.
    #[arg(long)]
    json: bool,
    /// Writes what was found to a file, in the form of JUnit.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Shows the bytes that went over each connection of a failed probe.
    #[arg(long)]
    show_bytes: bool,
    /// Shows all probes, not only those that failed.
    #[arg(short, long)]
    verbose: bool,
    /// A subprotocol that the server speaks.
    #[arg(long, value_name = "NAME")]
    subprotocol: Option<String>,
    /// Runs the probes that wait for half a minute as well.
    #[arg(long)]
    slow: bool,
    /// How many probes run at the same time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    parallel: u8,
    /// What has not begun after this time is left out.
    #[arg(long, value_name = "TIME", default_value = "3m", value_parser = humantime::parse_duration)]
    total_time: Duration,
    /// Draws one handshake instead: `switchpoint explain`.
    #[arg(long)]
    explain: bool,
}

/// No MUST failed.
const HEALTHY: u8 = 0;
/// A MUST failed.
const FAILED: u8 = 1;
/// The arguments cannot be followed.
const USAGE: u8 = 2;
/// There is no connection, or it was lost before all was seen.
const NO_CONNECTION: u8 = 3;
/// What is at the URL does not switch: there is nothing to judge.
const NO_ROUTE: u8 = 4;

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    if arguments.explain {
        return explain::explain(&arguments.access, None, None);
    }
    let mut out = io::stdout();
    let code = match examine(arguments, &mut out) {
        Ok(code) => code,
        Err((code, message)) => {
            eprintln!("switchpoint doctor: {message}");
            code
        }
    };
    drop(out.flush());
    code.into()
}

/// Does what the arguments say, and writes it to `out`.
fn examine(arguments: &Arguments, out: &mut dyn Write) -> Result<u8, (u8, String)> {
    let paint = paint();
    let probes = chosen(&arguments.only).map_err(|message| (USAGE, message))?;
    if arguments.list {
        list(&probes, out);
        return Ok(HEALTHY);
    }
    let access = &arguments.access;
    let target = access.url.as_ref().ok_or_else(|| (USAGE, "which URL?".to_owned()))?;
    let tls = access.tls(target).map_err(|message| (USAGE, message))?;
    let addresses = target.resolve().map_err(|error| (NO_CONNECTION, format!("{}: {error}", target.host)))?;
    let (connection, address, _) = access::reach(&addresses, access.timeout)
        .map_err(|error| (NO_CONNECTION, format!("no connection: {error}")))?;
    if let Some(config) = &tls {
        connection
            .secure(config, &target.host)
            .map_err(|error| (NO_CONNECTION, format!("no TLS with {}: {error}", target.authority())))?;
    }
    let setting = Setting {
        subprotocol: arguments.subprotocol.clone(),
        slow: arguments.slow,
        ..access.setting(target, address, tls)
    };

    let known = match Baseline::of(&setting) {
        Baseline::Switches(known) => known,
        Baseline::IsNoRoute(answer) => {
            let (means, cure) = diagnosis(&answer, &setting.token);
            let what = if setting.is_websocket() { "not a WebSocket route" } else { "not such a route" };
            return Err((
                NO_ROUTE,
                format!("{what}: a good handshake got {}\n  means  {means}\n  cure   {cure}", answer.brief()),
            ));
        }
        Baseline::IsNoHttp(trouble) => {
            return Err((FAILED, format!("a good handshake got no answer of HTTP: {trouble}")));
        }
        Baseline::Unreachable(why) => return Err((NO_CONNECTION, why)),
    };
    let outcomes = run::run(&setting, &known, &probes, usize::from(arguments.parallel), arguments.total_time);

    if let Some(path) = &arguments.junit {
        fs::write(path, export::junit(&outcomes))
            .map_err(|error| (USAGE, format!("{}: {error}", path.display())))?;
    }
    if arguments.json {
        let json = export::json(&setting, &known, &outcomes, arguments.show_bytes);
        drop(writeln!(out, "{json:#}"));
    } else {
        let url = format!("{}{}", target.authority(), target.path);
        drop(writeln!(out, "{} ({address})\n{}\n", paint.bold(&url), report::known(&setting, &known)));
        for outcome in &outcomes {
            let is_shown = match outcome.verdict {
                Verdict::Failed(_) | Verdict::Unclear(_) => true,
                _ => arguments.verbose,
            };
            if is_shown {
                drop(writeln!(out, "{}", report::finding(outcome, paint, arguments.show_bytes)));
            }
        }
        drop(writeln!(out, "{}\n{}", report::table(&outcomes), report::summary(&outcomes, paint)));
    }
    Ok(verdict(&outcomes))
}

fn verdict(outcomes: &[Outcome]) -> u8 {
    let has = |kind: fn(&Verdict) -> bool| {
        outcomes.iter().any(|outcome| outcome.probe.level == Level::Must && kind(&outcome.verdict))
    };
    if has(|verdict| matches!(verdict, Verdict::Failed(_))) {
        FAILED
    } else if has(|verdict| matches!(verdict, Verdict::Unclear(_))) {
        NO_CONNECTION
    } else {
        HEALTHY
    }
}

/// The probes that match; all of them where nothing is asked for.
fn chosen(patterns: &[String]) -> Result<Vec<&'static Probe>, String> {
    for pattern in patterns {
        if !probes::all().any(|probe| matches(pattern, probe)) {
            return Err(format!("no probe is called {pattern:?}: see --list"));
        }
    }
    Ok(probes::all()
        .filter(|probe| patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, probe)))
        .collect())
}

fn matches(pattern: &str, probe: &Probe) -> bool {
    pattern == probe.section() || is_like(pattern.as_bytes(), probe.id.as_bytes())
}

/// `*` stands for anything.
fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|at| is_like(rest, &text[at..])),
        [byte, rest @ ..] => text.first() == Some(byte) && is_like(rest, &text[1..]),
    }
}

fn list(probes: &[&Probe], out: &mut dyn Write) {
    for probe in probes {
        let line = format!("{:<44} {:<7} {:<18} {}", probe.id, probe.level.name(), probe.rule, probe.what);
        drop(writeln!(out, "{line}"));
    }
    drop(writeln!(out, "{} probes", probes.len()));
}

/// Colours on a terminal, unless NO_COLOR is set (no-color.org).
fn paint() -> Paint {
    let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Paint(!is_refused && io::stdout().is_terminal())
}
