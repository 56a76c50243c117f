//! `loadgen`: load for upgraded connections, of which every reply is verified and every message accounted for.
//!
//! | file | what |
//! |---|---|
//! | `cli.rs` `url.rs` | the arguments, and what is wrong with them |
//! | `plan.rs` | what they ask for |
//! | `worker.rs` | one core: its connections, its clock, its ticker |
//! | `connection.rs` `socket.rs` | one connection: connect → handshake → messages → goodbye |
//! | `handshake.rs` | the request for the switch and its answer, without I/O |
//! | `scenario.rs` `scenarios/` | what a connection says once it has switched, without I/O |
//! | `content.rs` | what stands in a message, and whether a reply is it |
//! | `fault.rs` | what can go wrong, with a connection or with a reply |
//! | `record.rs` | what was counted and timed |
//! | `server.rs` | what the server's process uses meanwhile |
//! | `report.rs` | the same for people and for programs, and the verdict |

mod cli;
mod connection;
mod content;
mod fault;
mod handshake;
mod plan;
mod record;
mod report;
mod scenario;
mod scenarios;
mod server;
mod socket;
mod url;
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

use plan::Output;
use report::Report;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let plan = Arc::new(cli::plan());
    match run(&plan) {
        Ok(report) => {
            print(&match plan.output {
                Output::Text => report.text(),
                Output::Quiet => report.verdict().to_string() + "\n",
                Output::Json => format!("{:#}\n", report.json()),
            });
            if report.verdict().is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &Arc<plan::Plan>) -> io::Result<Report> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order the first signal ends the run with its summary, and the second one without.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    raise_descriptor_limit(plan.connections)?;
    let address = plan.url.resolve(plan.timeout)?;
    if plan.output == Output::Text {
        print(&format!("{}\n", report::heading(plan)));
    }
    let finished = worker::run(plan, address, stop)?;
    Ok(Report::new(Arc::clone(plan), finished))
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
