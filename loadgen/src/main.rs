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
//! | `storm.rs` `fanout.rs` | connections that come and go; one message to many |
//! | `content.rs` `flights.rs` | what stands in a message, and which message a reply answers |
//! | `fault.rs` | what can go wrong, with a connection or with a reply |
//! | `record.rs` `stats.rs` | what was counted and timed |
//! | `kernel.rs` `server.rs` | what the kernel counted, and the server's process used, meanwhile |
//! | `verdict.rs` `threshold.rs` | whether that is good |
//! | `progress.rs` `report/` | the same for people and for programs |
//! | `compare.rs` | two runs beside each other, and several added up |
//! | `oracle/` | a server that misbehaves as it is told |

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
mod progress;
mod record;
mod report;
mod run;
mod scenario;
mod scenarios;
mod schedule;
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

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match cli::command() {
        Ok(Command::Run(plan)) => run(&Arc::new(*plan)),
        Ok(Command::Compare { results, practical }) => compare::compare(&results, practical).map(|text| {
            print(&text);
            0
        }),
        Ok(Command::Merge { logs, output }) => compare::merge(&logs, &output).map(|text| {
            print(&text);
            0
        }),
        Ok(Command::Oracle { listen, script }) => oracle::serve(listen, *script).map(|()| 0),
        Err(code) => return ExitCode::from(code),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::from(verdict::USAGE)
        }
    }
}

fn run(plan: &Arc<Plan>) -> io::Result<u8> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order the first signal ends the run with its summary, and the second one without.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    raise_descriptor_limit(plan.connections)?;
    let address = plan.target.resolve(plan.connect_timeout)?;
    if plan.output.format == Format::Text {
        print(&format!("{}\n", report::heading(plan)));
    }
    let finished = run::run(plan, address, stop, Progress::new(plan))?;
    let report = Report::new(Arc::clone(plan), finished);
    print(&report.standard());
    report.write()?;
    Ok(report.verdict().exit_code())
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
