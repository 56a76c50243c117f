//! What the program can be told, and what it says to whoever tells it something else.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use clap::{Args, Parser, Subcommand, error::ErrorKind};
use switchpoint::Driver;

use crate::{
    handshake,
    plan::{Output, Plan, What},
    url::Url,
};

/// Load for connections that have switched protocols: every reply is verified, every message accounted for.
///
/// A closed loop: each connection sends its next message when a reply has come. Exit code: 0 when all is well; 1 after
/// errors, with messages unanswered, or when nothing was measured; 2 when the arguments make no sense.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// WebSocket messages to a server that sends each one back.
    Ws {
        #[command(flatten)]
        common: Common,
        /// Text messages instead of binary ones.
        #[arg(long)]
        text: bool,
    },
    /// Bytes over a raw `Upgrade: echo`.
    Echo {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args, Debug)]
struct Common {
    /// Where to, such as `ws://127.0.0.1:8080/echo`; `http://` means the same.
    url: Url,
    /// How many connections, all open at once.
    #[arg(short, long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// How long to measure, such as `30s` or `2m`; 10 s unless -n is given.
    #[arg(short, long, value_name = "TIME", value_parser = some_time)]
    duration: Option<Duration>,
    /// Stop after so many messages instead; with -d, whichever comes first.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// How long a message is, such as `64` or `16KiB`.
    #[arg(short, long, value_name = "SIZE", default_value = "64", value_parser = size)]
    size: usize,
    /// How many messages each connection has in flight.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    depth: u32,
    /// How many threads, each pinned to a core, from the last core downwards.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// How long to run before the measurement begins; 500 ms, or 0 s with -n.
    #[arg(long, value_name = "TIME", value_parser = time)]
    warmup: Option<Duration>,
    /// How long a connection and its handshake may take; with -n also how long no reply at all may come.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = some_time)]
    timeout: Duration,
    /// Another field of the handshake, such as 'Origin: http://localhost'; may be repeated. Replaces ours of that name.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = handshake::field)]
    headers: Vec<(String, String)>,
    /// What waits for the kernel: `auto` (io_uring where it is allowed, else epoll), `uring` or `epoll`.
    #[arg(long, value_name = "DRIVER", default_value = "auto", value_parser = str::parse::<Driver>)]
    driver: Driver,
    /// The process id of a server on this machine: its CPU time for each message is read as well. With -t 1, and not with -n.
    #[arg(long, value_name = "PID", conflicts_with = "requests")]
    server_pid: Option<u32>,
    /// What the messages' content is made from; random unless given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// One JSON object instead of the text.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// The verdict only.
    #[arg(long)]
    quiet: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; a time is such as 500ms, 10s or 2m"))
}

fn some_time(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time.is_zero() { Err("no time is not enough".into()) } else { Ok(time) }
}

fn size(text: &str) -> Result<usize, String> {
    let size = parse_size::parse_size(text)
        .map_err(|error| format!("{error}; a size is a number such as 64, 16KiB or 1MiB"))?;
    if size > SIZE_MAX {
        return Err("messages of more than 1 GiB are not supported".into());
    }
    Ok(size as usize)
}

const SIZE_MAX: u64 = 1 << 30;

/// What the command line asks for. Does not return if that makes no sense.
pub(crate) fn plan() -> Plan {
    to_plan(Cli::parse()).unwrap_or_else(|error| error.exit())
}

fn to_plan(cli: Cli) -> Result<Plan, clap::Error> {
    let (what, common) = match cli.command {
        Command::Ws { common, text } => (What::WebSocket { text }, common),
        Command::Echo { common } => (What::Echo, common),
    };
    if what == What::Echo && common.size == 0 {
        let message = "an echo of no bytes never comes: --size has to be at least 1 for `echo`\n";
        return Err(clap::Error::raw(ErrorKind::ValueValidation, message));
    }
    if common.server_pid.is_some() && common.threads > 1 {
        let message =
            "replies are counted beside the server's CPU time by one thread: --server-pid goes with -t 1\n";
        return Err(clap::Error::raw(ErrorKind::ArgumentConflict, message));
    }
    let is_counted = common.requests.is_some();
    let time =
        |given: Option<Duration>, default: Duration| given.or_else(|| (!is_counted).then_some(default));
    Ok(Plan {
        what,
        url: common.url,
        connections: common.connections,
        duration: time(common.duration, Duration::from_secs(10)),
        requests: common.requests,
        size: common.size,
        depth: common.depth as usize,
        // More threads than connections would only look on.
        threads: common.threads.min(common.connections),
        warmup: time(common.warmup, Duration::from_millis(500)).unwrap_or_default(),
        timeout: common.timeout,
        headers: common.headers,
        driver: common.driver,
        server_pid: common.server_pid,
        seed: common.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32),
        output: match (common.json, common.quiet) {
            (true, _) => Output::Json,
            (_, true) => Output::Quiet,
            _ => Output::Text,
        },
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Plan, clap::Error> {
        Cli::try_parse_from(line.split(' ')).and_then(to_plan)
    }

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_flags_it_measures_ten_seconds() {
        let plan = parse("loadgen ws ws://h/").unwrap();
        assert_eq!((plan.connections, plan.depth, plan.size, plan.threads), (50, 1, 64, 1));
        assert_eq!(plan.duration, Some(Duration::from_secs(10)));
        assert_eq!(plan.warmup, Duration::from_millis(500));
        assert_eq!(plan.what, What::WebSocket { text: false });
    }

    #[test]
    fn a_number_of_messages_has_no_duration_and_no_warmup_unless_asked() {
        let plan = parse("loadgen echo http://h/ -n 1000").unwrap();
        assert_eq!((plan.requests, plan.duration, plan.warmup), (Some(1000), None, Duration::ZERO));
        let plan = parse("loadgen echo http://h/ -n 1000 -d 3s --warmup 1s").unwrap();
        assert_eq!((plan.duration, plan.warmup), (Some(Duration::from_secs(3)), Duration::from_secs(1)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_hint() {
        for (line, hint) in [
            ("loadgen ws wss://h/", "TLS"),
            ("loadgen ws h:80", "ws://h:80"),
            ("loadgen ws ws://h/ -c 0", "1.."),
            ("loadgen ws ws://h/ -d ever", "10s"),
            ("loadgen ws ws://h/ -d 0s", "no time"),
            ("loadgen ws ws://h/ -s much", "16KiB"),
            ("loadgen echo ws://h/ -s 0", "at least 1"),
            ("loadgen echo ws://h/ --text", "--text"),
            ("loadgen ws ws://h/ -H nonsense", "Name: value"),
            ("loadgen ws ws://h/ --driver kqueue", "epoll"),
            ("loadgen ws ws://h/ --json --quiet", "--quiet"),
            ("loadgen ws ws://h/ --server-pid 1 -n 9", "--server-pid"),
            ("loadgen ws ws://h/ --server-pid 1 -t 2", "-t 1"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }
}
