//! `loadgen`: load for upgraded connections, of which every reply is verified and every message accounted for.
//!
//! | file | what |
//! |---|---|
//! | `cli.rs` `units.rs` `target.rs` | the arguments, and what is wrong with them |
//! | `plan.rs` `file.rs` | what they ask for, or a scenario file does |
//! | `schedule.rs` `pace.rs` | when: the instants, and waiting for them |
//! | `scenario.rs` `scenarios/` | what: a connection's protocol once it has switched, without I/O |
//! | `run.rs` `worker.rs` | the threads, and one of them: its connections, its pacer, its ticker |
//! | `connection.rs` `socket.rs` | one connection: connect → handshake → messages → goodbye |
//! | `prefetch.rs` | its state in the cache, before it is needed |
//! | `storm.rs` `fanout.rs` | connections that come and go; one message to many |
//! | `content.rs` `flights.rs` | what stands in a message, and which message a reply answers |
//! | `fault.rs` | what can go wrong, with a connection or with a reply |
//! | `record.rs` `archive.rs` `stats.rs` | what was counted and timed, and the seconds that are over |
//! | `kernel.rs` `server.rs` | what the kernel counted, and the server's process used, meanwhile |
//! | `verdict.rs` `threshold.rs` | whether that is good |
//! | `progress.rs` `report/` | the same for people and for programs |
//! | `compare.rs` `ab.rs` `search.rs` | across runs: two beside each other, in alternation, or up to the edge |
//! | `agent.rs` | several processes with one plan |
//! | `proof.rs` | the engine broken on purpose, so that the tests are seen to notice |
//! | `oracle/` `selftest/` | a server that misbehaves as it is told, and what we say of it |

mod ab;
mod agent;
mod archive;
mod cli;
mod compare;
mod connection;
mod content;
mod fanout;
mod fault;
mod file;
mod flights;
mod kernel;
mod oracle;
mod pace;
mod plan;
mod prefetch;
mod progress;
mod proof;
mod record;
mod report;
mod run;
mod scenario;
mod scenarios;
mod schedule;
mod search;
mod selftest;
mod server;
mod socket;
mod stats;
mod storm;
mod target;
mod threshold;
mod units;
mod verdict;
mod worker;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use cli::Command;
use plan::{Format, Plan};
use progress::Progress;
use report::Report;
use search::Search;

#[cfg(not(feature = "proof"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "proof")]
#[global_allocator]
static ALLOCATOR: proof::Counting = proof::Counting;

fn main() -> ExitCode {
    let command = match cli::command() {
        Ok(command) => command,
        Err(code) => return ExitCode::from(code),
    };
    match carry_out(command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::from(verdict::USAGE)
        }
    }
}

fn carry_out(command: Command) -> io::Result<u8> {
    match command {
        Command::Run(plan) | Command::Coordinate { plan, .. } if plan.output.is_dry => {
            print(&(report::heading(&plan) + "\n\n  a dry run: nothing was sent\n"));
            Ok(0)
        }
        Command::Run(mut plan) => {
            raise_descriptor_limit(plan.connections)?;
            let address = plan.target.resolve(plan.connect_timeout)?;
            if plan.finds_server {
                plan.server_pid = Some(server::listening_at(address)?);
            }
            let plan = Arc::new(*plan);
            let stop = stop_at_signals()?;
            report(&plan, || {
                let progress = Progress::new(&plan, &stop);
                run::run(&plan, address, stop, progress, None)
            })
        }
        Command::Coordinate { plan, agents, token } => {
            let (plan, token) = (Arc::new(*plan), token_of(token)?);
            let arguments: Vec<String> = std::env::args().skip(1).collect();
            let stop = stop_at_signals()?;
            report(&plan, || agent::coordinate(&plan, &agents, &token, &arguments, &stop))
        }
        Command::Agent { listen, token } => {
            raise_descriptor_limit(0)?;
            agent::serve(listen, &token_of(token)?).map(|()| 0)
        }
        Command::Search(search) => find(&search),
        Command::Ab(ab) => {
            raise_descriptor_limit(ab.plan.connections)?;
            let is_text = ab.plan.output.format == Format::Text;
            let tell = |line: String| {
                if is_text {
                    print(&line);
                }
            };
            let compared = ab::run(&ab, &stop_at_signals()?, tell)?;
            conclude(&ab.plan, compared.text(), &compared.json())?;
            Ok(0)
        }
        Command::Compare { results, practical } => {
            print(&compare::compare(&results, practical)?);
            Ok(0)
        }
        Command::Merge { logs, output } => {
            print(&compare::merge(&logs, &output)?);
            Ok(0)
        }
        Command::SelfTest(test) => selftest::run(&test),
        Command::Oracle { listen, script } => oracle::serve(listen, *script).map(|()| 0),
    }
}

/// Says what is done, does it, and says what came out.
fn report(plan: &Arc<Plan>, run: impl FnOnce() -> io::Result<run::Finished>) -> io::Result<u8> {
    if plan.output.format == Format::Text {
        print(&format!("{}\n", report::heading(plan)));
    }
    let report = Report::new(Arc::clone(plan), run()?);
    print(&report.standard());
    report.write()?;
    Ok(report.verdict().exit_code())
}

fn find(search: &Search) -> io::Result<u8> {
    raise_descriptor_limit(search.plan.connections)?;
    let address = search.plan.target.resolve(search.plan.connect_timeout)?;
    let stop = stop_at_signals()?;
    let measure = |rate: f64| {
        let plan = Arc::new(search.plan(rate));
        let finished = run::run(&plan, address, Arc::clone(&stop), Progress::none(), None)?;
        if finished.is_interrupted {
            return Err(io::Error::other("interrupted: the search is not done"));
        }
        Ok(search.judge(rate, &Report::new(plan, finished)))
    };
    let is_text = search.plan.output.format == Format::Text;
    let found = search::search(search, measure, |point| {
        if is_text {
            print(&point.line());
        }
    })?;
    conclude(&search.plan, found.text(), &found.json())?;
    Ok(if found.best.is_some() { 0 } else { verdict::MISSED })
}

/// For people, or for programs.
fn conclude(plan: &Plan, text: String, json: &serde_json::Value) -> io::Result<()> {
    match plan.output.format {
        Format::Json => print(&format!("{json:#}\n")),
        _ => print(&text),
    }
    match &plan.output.json {
        Some(path) => std::fs::write(path, format!("{json:#}\n")),
        None => Ok(()),
    }
}

/// The first signal ends a run with its summary, and the second one without.
fn stop_at_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// What agents have to be told, out of a file or the environment.
fn token_of(file: Option<PathBuf>) -> io::Result<String> {
    let token = match file {
        Some(file) => std::fs::read_to_string(&file)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?,
        None => std::env::var("LOADGEN_TOKEN").unwrap_or_default(),
    };
    match token.trim() {
        "" => Err(io::Error::other("agents need a token: --token-file FILE, or LOADGEN_TOKEN")),
        token => Ok(token.to_owned()),
    }
}

/// Whoever reads us may have gone, as `head` does; that is no reason to panic.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Connections are descriptors: takes all that we may have, and says so now if that will not do.
fn raise_descriptor_limit(connections: u32) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        // Where it is refused, the limit stays as it is, and is read below.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
    let needed = u64::from(connections) + DESCRIPTORS_KEPT;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < needed => Err(io::Error::other(format!(
            "{connections} connections need {needed} descriptors, and the limit is {limit}; raise it (`ulimit -n {needed}`) or lower -c"
        ))),
        _ => Ok(()),
    }
}

/// Descriptors that are not connections: rings, files, what the runtime needs for itself.
const DESCRIPTORS_KEPT: u64 = 64;
