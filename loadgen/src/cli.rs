//! What the program can be told, and what it says to whoever tells it something else.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, Parser, Subcommand, error::ErrorKind};
use switchpoint::{Driver, http::list, ws::opening::Opening};

use crate::{
    ab::{Ab, Side},
    content::Sizes,
    file::File,
    flights::Verify,
    oracle::Script,
    pace::Pace,
    plan::{Format, Http2, Kind, Output, Part, Phase, Plan, Slow, Tls, WebSocket, What},
    progress::Show,
    schedule::{Arrival, Shape},
    search::Search,
    selftest::SelfTest,
    target::Target,
    threshold::Threshold,
    units::{count, count32, rate, some_time, time},
    verdict::USAGE,
};

/// Load for connections that have switched protocols: every reply is verified, every message accounted for.
///
/// With --rate messages are sent at their times, whatever the server does (open loop), and latency counts from those
/// times. Without it each connection sends its next message when a reply has come (closed loop).
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, after_help = AFTER_HELP, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

const AFTER_HELP: &str = "\
Exit codes: 0 all is well; 2 a threshold is not met; 3 errors or unanswered messages; 4 the generator could not do its
part, so the figures say nothing of the server; 64 the arguments make no sense; 130 interrupted.

Examples:
  loadgen ws ws://127.0.0.1:8080/echo -c 64 -d 10s
  loadgen ws ws://127.0.0.1:8080/echo -c 1k -r 50k/s -d 30s --warmup 3s --threshold 'p99(response)<1ms'
  loadgen storm ws://127.0.0.1:8080/echo -c 20k --conn-rate 5k/s
  loadgen connect ws://127.0.0.1:8080/echo -c 10k --hold 1m";

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum Sub {
    /// WebSocket messages to a server that sends each one back.
    Ws {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        websocket: WsArgs,
    },
    /// Bytes over a raw `Upgrade: echo`.
    Echo {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        load: LoadArgs,
    },
    /// Requests, or WebSocket messages, over the streams of HTTP/2: by `Upgrade: h2c`, or at once.
    H2c {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        websocket: WsArgs,
        #[command(flatten)]
        http2: Http2Args,
    },
    /// A storm of connections: each is opened at its time, says one message, and goes.
    Storm {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        websocket: WsArgs,
        /// What each connection speaks: `ws`, `h2c` (one request) or `echo`.
        #[arg(long, value_enum, default_value_t = Over::Ws)]
        over: Over,
        /// How long each connection stays after its message.
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time)]
        hold: Duration,
    },
    /// Idle WebSocket connections: opened, held, closed.
    Connect {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        websocket: WsArgs,
        /// How long each connection stays.
        #[arg(long, short = 'd', value_name = "TIME", default_value = "10s", value_parser = time)]
        hold: Duration,
    },
    /// WebSocket messages that a server passes on to all its connections: who hears them, and when.
    Fanout {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        websocket: WsArgs,
        /// How many connections send.
        #[arg(long, value_name = "N", default_value = "1", value_parser = count32)]
        senders: u32,
        /// How many connections listen; otherwise what -c leaves.
        #[arg(long, value_name = "N", value_parser = count32)]
        receivers: Option<u32>,
        /// Messages a second, of all senders together.
        #[arg(short, long, value_name = "N", default_value = "10", value_parser = rate)]
        rate: f64,
        /// How long to send.
        #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = some_time)]
        duration: Duration,
    },
    /// The highest rate at which a server keeps its promises.
    Search {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        websocket: WsArgs,
        #[command(flatten)]
        http2: Http2Args,
        /// What is spoken.
        #[arg(long, value_enum, default_value_t = Over::Ws)]
        scenario: Over,
        /// What has to hold, such as 'p99<10ms' or 'errors==0'; may be repeated.
        #[arg(long, value_name = "CONDITION", required = true)]
        slo: Vec<Threshold>,
        /// The lowest rate.
        #[arg(long, value_name = "N", default_value = "100", value_parser = rate)]
        min: f64,
        /// The highest rate.
        #[arg(long, value_name = "N", default_value = "1M", value_parser = rate)]
        max: f64,
        /// How far apart the highest good and the lowest bad rate may be in the end, in percent.
        #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
        precision: f64,
        /// How often what was found has to hold again; more than half of them have to.
        #[arg(long, value_name = "N", default_value_t = 3)]
        confirm: u32,
        /// Lets points count whose verdict is DEGRADED.
        #[arg(long)]
        allow_degraded: bool,
    },
    /// Two servers in alternation: which one is faster, and whether that is more than noise.
    #[command(mut_arg("url", |url| url.required(false).default_value("ws://127.0.0.1/echo").help(
        "Its path is that of servers which are started"
    )))]
    Ab {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        websocket: WsArgs,
        #[command(flatten)]
        http2: Http2Args,
        /// What is spoken.
        #[arg(long, value_enum, default_value_t = Over::Ws)]
        scenario: Over,
        /// A URL, or a command that is started for each run, with {port} for its port.
        #[arg(long, value_name = "SIDE")]
        a: Side,
        /// The other one.
        #[arg(long, value_name = "SIDE")]
        b: Side,
        /// How often each of them runs.
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=1000))]
        pairs: u32,
        /// A change below this part of the value is none, in percent.
        #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
        practical: f64,
    },
    /// One of several generators, which a run with --agents lets work.
    Agent {
        /// Where to listen.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
        listen: std::net::SocketAddr,
        /// A file with the token that whoever lets it work has to know; or the variable LOADGEN_TOKEN.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// What a scenario file says: flags, and phases with figures of their own.
    Run {
        /// TOML; docs/loadgen.md has an example.
        file: PathBuf,
        /// Further flags, such as `--json result.json`; they win over those of the file.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
        flags: Vec<String>,
    },
    /// Says whether later results are faster or slower than the first, and whether that is more than noise.
    Compare {
        /// Results that --json FILE has written, two at least.
        #[arg(required = true, num_args = 2..)]
        results: Vec<PathBuf>,
        /// A change below this part of the value is none, in percent.
        #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
        practical: f64,
    },
    /// Adds up the histograms of several logs (--hlog), count by count.
    Merge {
        #[arg(required = true)]
        logs: Vec<PathBuf>,
        /// Where the sum goes.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Tests this tool against its oracle, and says what it adds to a latency and how high a rate it can vouch for.
    Selftest {
        /// Cases by the beginning of their names, such as `t8`; all, and the figures of this machine, otherwise.
        #[arg(value_name = "CASE")]
        only: Vec<String>,
        /// Only what takes a moment.
        #[arg(long)]
        quick: bool,
        /// Names the cases, and tests nothing.
        #[arg(long)]
        list: bool,
    },
    /// A server that misbehaves as it is told, and keeps a ledger: to test load generators with.
    Oracle {
        /// Where to listen.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
        listen: std::net::SocketAddr,
        /// What it does, such as `echo`, `stall:2s,500ms`, `dead:1s`, `fixed:5ms`, `dd1:100us`, `drop:1000`; several with `+`.
        #[arg(long, value_name = "SCRIPT", default_value = "echo", value_parser = str::parse::<Script>)]
        mode: Script,
    },
}

/// What all commands need that load a server.
#[derive(Args, Debug)]
struct CommonArgs {
    /// Where to, such as `ws://127.0.0.1:8080/echo`; `http://` means the same, `wss://` and `https://` are TLS.
    url: Target,
    /// How many connections.
    #[arg(short, long, value_name = "N", default_value = "50", value_parser = count32)]
    connections: u32,
    /// How many connections are opened a second; 64 at a time on each thread, otherwise.
    #[arg(long, value_name = "N", value_parser = rate)]
    conn_rate: Option<f64>,
    /// How long a message is: `64`, `16KiB`, `uniform:1..4KiB` or `exp:512`.
    #[arg(short, long, value_name = "SIZE", default_value = "64")]
    size: Sizes,
    /// How many threads, each pinned to a core, from the last core downwards.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// The cores of the threads, such as `2-5`.
    #[arg(long, value_name = "FIRST-LAST", value_parser = cores)]
    pin: Option<(usize, usize)>,
    /// How long a connection and its handshake may take.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = some_time)]
    connect_timeout: Duration,
    /// How long replies are waited for once nothing is sent any more; 1 to 5 s, by how slow the server was.
    #[arg(long, value_name = "TIME", value_parser = time)]
    grace: Option<Duration>,
    /// How replies are looked at: `full` (every byte), `len` (length and sequence) or `off`.
    #[arg(long, value_name = "HOW", default_value = "full", value_parser = verify)]
    verify: Verify,
    /// How the time until the next message is spent: `auto`, `spin`, `hybrid` or `sleep`.
    #[arg(long, value_name = "PACE", default_value = "auto", value_parser = str::parse::<Pace>)]
    pace: Pace,
    /// What lies between intended times: `fixed`, `poisson` or `burst:N`.
    #[arg(long, value_name = "ARRIVAL", default_value = "fixed")]
    arrival: Arrival,
    /// Another field of the handshake, such as 'Origin: http://localhost'; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = field)]
    headers: Vec<(String, String)>,
    /// `USER:PASSWORD` for Basic, or `bearer:FILE` with a token in the file.
    #[arg(short = 'A', long, value_name = "WHO")]
    auth: Option<String>,
    /// With TLS: the certificates of the authorities to trust, and no others; a file in PEM.
    #[arg(long, alias = "tls-ca", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// With TLS: trusts whoever answers.
    #[arg(long, short = 'k', conflicts_with = "ca")]
    insecure: bool,
    /// With TLS: the name to ask for, if it is not the URL's host.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// Where connections come from: an address, a range such as `127.0.0.0/24`, or `auto` for all of loopback. Beyond 28 000
    /// connections to one server, one address has no ports left.
    #[arg(long, value_name = "CIDR", value_parser = sources)]
    source: Option<Sources>,
    /// Connects there and not to the URL's host, which is still the one that is asked for: one of several servers of a name.
    #[arg(long, value_name = "HOST:PORT")]
    connect_to: Option<String>,
    /// What waits for the kernel: `auto` (io_uring where it is allowed, else epoll), `uring` or `epoll`.
    #[arg(long, value_name = "DRIVER", default_value = "auto", value_parser = str::parse::<Driver>)]
    driver: Driver,
    /// The process id of a server on this machine, or `auto` for who listens there: its CPU time for each message, and its
    /// memory.
    #[arg(long, value_name = "PID", value_parser = server_pid)]
    server_pid: Option<ServerPid>,
    /// What the content and the schedule are made from; random unless given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What has to be so, such as 'p99(response)<1ms', 'errors==0' or 'rate>=50k'; may be repeated. Exit code 2 if not.
    #[arg(long, value_name = "CONDITION")]
    threshold: Vec<Threshold>,
    /// How many errors and unanswered messages are forgiven.
    #[arg(long, value_name = "N", default_value = "0", value_parser = count_or_none)]
    max_errors: u64,
    /// What is printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// The result as JSON: printed, or written to FILE.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// The verdict only.
    #[arg(long)]
    quiet: bool,
    /// The percentiles of the table, such as `50,99,99.9`.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "50,90,99,99.9,99.99", value_parser = percentile)]
    percentiles: Vec<f64>,
    /// Writes a line for each histogram.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Writes all histograms as an HdrHistogram log.
    #[arg(long, value_name = "FILE")]
    hlog: Option<PathBuf>,
    /// Writes a percentile distribution for each histogram.
    #[arg(long, value_name = "FOLDER")]
    hgrm: Option<PathBuf>,
    /// Writes a page with curves and a heat map.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Says what would be done, and does nothing.
    #[arg(long)]
    dry_run: bool,
    /// How it goes meanwhile: on a `screen`, in a `line`, or `off`. `auto` takes what standard error is good for, and
    /// shows nothing where that is no terminal.
    #[arg(long, value_name = "WHERE", default_value = "auto", value_parser = str::parse::<Show>)]
    progress: Show,
    /// The same as `--progress off`.
    #[arg(long, alias = "no-tui")]
    no_progress: bool,
    /// Lets these agents do it, such as `10.0.0.1:7000,10.0.0.2:7000`, each its part, and adds up.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    agents: Vec<String>,
    /// A file with the agents' token; or the variable LOADGEN_TOKEN.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A name for the results, such as `commit=abc`; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
}

/// How messages are sent over connections that stay.
#[derive(Args, Debug)]
struct LoadArgs {
    /// Messages a second, of all connections together; 0 for the closed loop.
    #[arg(short, long, value_name = "N", short_aliases = ['R', 'q'], alias = "qps", value_parser = rate)]
    rate: Option<f64>,
    /// How the rate changes: `const`, `ramp:1k..10k`, `steps:1k,2k,4k@10s` or `spike:20k@2s`.
    #[arg(long, value_name = "SHAPE")]
    profile: Option<Shape>,
    /// How long to measure, such as `30s` or `2m`; 10 s unless -n is given.
    #[arg(short, long, value_name = "TIME", value_parser = some_time)]
    duration: Option<Duration>,
    /// Stop after so many messages instead; with -d, whichever comes first.
    #[arg(short = 'n', long = "messages", value_name = "N", alias = "requests", value_parser = count)]
    requests: Option<u64>,
    /// How many messages each connection has in flight: in a closed loop always (1), with a rate at most (65536).
    #[arg(short = 'p', long = "pipeline", value_name = "N", alias = "depth", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    depth: Option<u32>,
    /// How long to run before the measurement begins; 500 ms, or 0 s with -n.
    #[arg(long, value_name = "TIME", value_parser = time)]
    warmup: Option<Duration>,
    /// How long a reply may take, from the message's intended time; without it, as long as the run.
    #[arg(long, value_name = "TIME", value_parser = some_time)]
    timeout: Option<Duration>,
    /// What to do when the server ends a connection: `never` or `immediate`(ly open it again).
    #[arg(long, value_name = "WHEN", default_value = "never", value_parser = ["never", "immediate"])]
    reconnect: String,
    /// Connections that read slowly, such as `5%:1KB/s`; they have figures of their own.
    #[arg(long, value_name = "PART:SPEED", value_parser = slow)]
    slow_readers: Option<Slow>,
    /// Connections that say nothing until the end, such as `50%`. Then each says one message, which has to come back; they have
    /// figures of their own.
    #[arg(long, value_name = "PART", default_value = "0%", value_parser = percent)]
    idle: f64,
}

/// What is spoken, where a command may speak several protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Over {
    Ws,
    H2c,
    Echo,
}

/// The first flag of these that is given.
fn first_of<const N: usize>(flags: [(&'static str, bool); N]) -> Option<&'static str> {
    flags.into_iter().find_map(|(flag, is_given)| is_given.then_some(flag))
}

/// How HTTP/2 is spoken.
#[derive(Args, Debug)]
struct Http2Args {
    /// Speaks HTTP/2 at once, without asking for the switch.
    #[arg(long)]
    prior_knowledge: bool,
    /// How many streams each connection has at a time: 1, or 100 with a rate; of WebSockets, how many it opens (1).
    #[arg(long, short = 'm', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    streams: Option<u32>,
    /// Posts each message and wants it back, as `/echo-body` does; otherwise the URL is asked for again and again, and
    /// every answer has to be the same.
    #[arg(long, conflicts_with = "websocket")]
    post: bool,
    /// WebSockets on the streams (RFC 8441), and no requests.
    #[arg(long)]
    websocket: bool,
}

impl Http2Args {
    /// The first flag of these that is given.
    fn first_given(&self) -> Option<&'static str> {
        first_of([
            ("--prior-knowledge", self.prior_knowledge),
            ("--streams", self.streams.is_some()),
            ("--post", self.post),
            ("--websocket", self.websocket),
        ])
    }
}

/// How WebSocket is spoken.
#[derive(Args, Debug)]
struct WsArgs {
    /// Text messages instead of binary ones.
    #[arg(long, conflicts_with = "binary")]
    text: bool,
    /// Binary messages, which is the default.
    #[arg(long)]
    binary: bool,
    /// A subprotocol to offer; may be repeated.
    #[arg(long, value_name = "NAME")]
    subprotocol: Vec<String>,
    /// Offers permessage-deflate.
    #[arg(long)]
    deflate: bool,
    /// The longest frame; longer messages are sent in several.
    #[arg(long, value_name = "SIZE", value_parser = crate::units::size)]
    fragment: Option<usize>,
    /// Masking keys: `random`, or `zero`, which spares the server the unmasking.
    #[arg(long, value_name = "HOW", default_value = "random", value_parser = ["random", "zero"])]
    mask: String,
    /// How often each connection sends a ping.
    #[arg(long, value_name = "TIME", value_parser = some_time)]
    ping: Option<Duration>,
}

impl WsArgs {
    /// The first flag of these that is not at its default.
    fn first_given(&self) -> Option<&'static str> {
        first_of([
            ("--text", self.text),
            ("--subprotocol", !self.subprotocol.is_empty()),
            ("--deflate", self.deflate),
            ("--fragment", self.fragment.is_some()),
            ("--mask", self.mask != "random"),
            ("--ping", self.ping.is_some()),
        ])
    }

    fn how(self) -> WebSocket {
        WebSocket {
            is_text: self.text,
            subprotocols: self.subprotocol,
            deflate: self.deflate,
            fragment: self.fragment.filter(|fragment| *fragment > 0),
            has_zero_mask: self.mask == "zero",
            ping: self.ping,
        }
    }

    fn what(self) -> What {
        What::WebSocket(self.how())
    }
}

/// A plan over HTTP/2.
fn to_http2(common: CommonArgs, mut load: LoadArgs, ws: WsArgs, http2: Http2Args) -> Result<Plan, String> {
    if let Some(flag) = ws.first_given().filter(|_| !http2.websocket) {
        return Err(format!("{flag} is for WebSockets: add --websocket"));
    }
    let is_open = load.rate.is_some_and(|rate| rate > 0.0) || load.profile.is_some();
    let stamp = if ws.text { 24 } else { 12 };
    let websocket = http2.websocket.then(|| ws.how());
    let streams = match &websocket {
        None if load.depth.is_some() => {
            return Err(
                "a stream has one request: say how many streams there are at a time with --streams".into()
            );
        }
        None => {
            let streams = http2.streams.unwrap_or(if is_open { STREAMS } else { 1 });
            load.depth = Some(streams);
            streams
        }
        Some(how) if how.deflate => {
            return Err("--deflate is not there for WebSockets on streams; use `loadgen ws`".into());
        }
        Some(_) if common.size.min() < stamp => {
            return Err(format!(
                "streams answer in any order, so messages are known by their first {stamp} bytes: --size has to be at least {stamp}"
            ));
        }
        Some(_) => {
            let streams = http2.streams.unwrap_or(1);
            let depth = load.depth.unwrap_or(if is_open { DEPTH_MAX / streams } else { 1 });
            load.depth = Some(streams.saturating_mul(depth.max(1)));
            streams
        }
    };
    let how = Http2 {
        // With TLS, ALPN is what settles it.
        has_prior_knowledge: http2.prior_knowledge || common.url.url.is_secure(),
        posts: http2.post,
        websocket,
        streams: streams as usize,
    };
    to_load(common, load, What::Http2(how))
}

/// How many streams at a time a connection has with a rate: what many servers allow.
const STREAMS: u32 = 100;

fn verify(text: &str) -> Result<Verify, String> {
    match text {
        "full" => Ok(Verify::Full),
        "len" => Ok(Verify::Length),
        "off" => Ok(Verify::Off),
        _ => Err("replies are looked at in full, by their length (`len`), or not (`off`)".into()),
    }
}

fn cores(text: &str) -> Result<(usize, usize), String> {
    let hint = "cores are such as 2 or 2-5";
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (usize, usize) = (first.parse().map_err(|_| hint)?, last.parse().map_err(|_| hint)?);
    if first <= last { Ok((first, last - first + 1)) } else { Err(hint.into()) }
}

fn count_or_none(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { count(text) }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a label is such as commit=abc")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Which process is the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerPid {
    Auto,
    Is(u32),
}

fn server_pid(text: &str) -> Result<ServerPid, String> {
    match text {
        "auto" => Ok(ServerPid::Auto),
        _ => text.parse().map(ServerPid::Is).map_err(|_| "a process id is a number, or `auto`".to_owned()),
    }
}

fn percentile(text: &str) -> Result<f64, String> {
    let percent = text.trim().trim_start_matches('p').parse::<f64>().ok();
    percent
        .filter(|percent| (0.0..100.0).contains(percent))
        .ok_or_else(|| "a percentile is from 0 to less than 100, such as 99.9".to_owned())
}

/// A part of all, from 0 to 1.
fn percent(text: &str) -> Result<f64, String> {
    let part = text.strip_suffix('%').and_then(|part| part.parse::<f64>().ok());
    part.filter(|part| (0.0..=100.0).contains(part))
        .map(|part| part / 100.0)
        .ok_or_else(|| "a part is such as 50%".to_owned())
}

fn slow(text: &str) -> Result<Slow, String> {
    let hint = "slow readers are such as 5%:1KB/s";
    let (part, speed) = text.split_once(':').ok_or(hint)?;
    let part = percent(part).map_err(|_| hint)?;
    let bytes_a_second = crate::units::size(speed.strip_suffix("/s").unwrap_or(speed))?;
    if bytes_a_second > 0 { Ok(Slow { part, bytes_a_second }) } else { Err(hint.into()) }
}

/// Reads a field from the command line.
fn field(text: &str) -> Result<(String, String), String> {
    let hint = "a field is written as 'Name: value'";
    let (name, value) = text.split_once(':').ok_or(hint)?;
    let value = value.trim();
    if !list::is_token(name) {
        return Err(format!("{hint}, the name without spaces"));
    }
    // Said now, and not by each connection.
    Opening::new([0; 16]).field(name, value).map_err(|unfit| unfit.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

fn auth(text: &str) -> Result<(String, String), String> {
    let value = match text.strip_prefix("bearer:") {
        Some(file) => {
            let token = fs::read_to_string(file).map_err(|error| format!("--auth bearer:{file}: {error}"))?;
            format!("Bearer {}", token.trim())
        }
        None if text.contains(':') => format!("Basic {}", STANDARD.encode(text)),
        None => return Err("--auth is USER:PASSWORD or bearer:FILE".into()),
    };
    Ok(("Authorization".into(), value))
}

/// The addresses of a range: of an IPv4 one as many as it has, without the first and the last, and at most 65 534.
fn sources(text: &str) -> Result<Vec<IpAddr>, String> {
    let hint = "a source is such as 127.0.0.1, ::1, 127.0.0.0/24 or auto";
    let text = if text == "auto" { LOOPBACK } else { text };
    let Some((base, bits)) = text.split_once('/') else {
        return Ok(vec![text.parse().map_err(|_| hint)?]);
    };
    let base: Ipv4Addr = base.parse().map_err(|_| hint)?;
    let bits: u32 = bits.parse().ok().filter(|bits| (8..=32).contains(bits)).ok_or(hint)?;
    let size = 1_u64 << (32 - bits);
    let first = u64::from(u32::from(base)) & !(size - 1);
    let range = if size > 2 { 1..size - 1 } else { 0..size };
    let address = |at: u64| IpAddr::V4(Ipv4Addr::from((first + at) as u32));
    Ok(range.take(SOURCES_MAX).map(address).collect())
}

const SOURCES_MAX: usize = 65_534;
const LOOPBACK: &str = "127.0.0.0/8";

/// One argument, and not one that repeats.
type Sources = Vec<IpAddr>;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Command {
    Run(Box<Plan>),
    Coordinate { plan: Box<Plan>, agents: Vec<String>, token: Option<PathBuf> },
    Agent { listen: std::net::SocketAddr, token: Option<PathBuf> },
    Search(Box<Search>),
    Ab(Box<Ab>),
    Compare { results: Vec<PathBuf>, practical: f64 },
    Merge { logs: Vec<PathBuf>, output: PathBuf },
    Oracle { listen: std::net::SocketAddr, script: Box<Script> },
    SelfTest(SelfTest),
}

/// What the command line asks for; if that makes no sense, it has been said, and this is the exit code.
pub(crate) fn command() -> Result<Command, u8> {
    Cli::try_parse().and_then(to_command).map_err(|error| {
        let _ = error.print();
        if error.use_stderr() { USAGE } else { 0 }
    })
}

/// The plan of a command line that came from elsewhere.
pub(crate) fn plan_of(arguments: &[String]) -> Result<Plan, String> {
    let arguments = std::iter::once("loadgen").chain(arguments.iter().map(String::as_str));
    match Cli::try_parse_from(arguments).and_then(to_command) {
        Ok(Command::Run(plan) | Command::Coordinate { plan, .. }) => Ok(*plan),
        Ok(_) => Err("this is no run".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn to_command(cli: Cli) -> Result<Command, clap::Error> {
    let invalid = |message: String| clap::Error::raw(ErrorKind::ValueValidation, message + "\n");
    let (agents, token) = match &cli.command {
        Sub::Ws { common, .. } | Sub::Echo { common, .. } | Sub::H2c { common, .. } => {
            (common.agents.clone(), common.token_file.clone())
        }
        Sub::Storm { common, .. }
        | Sub::Connect { common, .. }
        | Sub::Fanout { common, .. }
        | Sub::Search { common, .. }
        | Sub::Ab { common, .. }
            if !common.agents.is_empty() =>
        {
            return Err(invalid("agents are for ws, echo and h2c".to_owned()));
        }
        _ => (Vec::new(), None),
    };
    let plan = match cli.command {
        Sub::Ws { common, load, websocket } => to_load(common, load, websocket.what()).map_err(invalid)?,
        Sub::Echo { common, load } => {
            if common.size.min() == 0 {
                return Err(invalid(
                    "an echo of no bytes never comes: --size has to be at least 1 for `echo`".into(),
                ));
            }
            to_load(common, load, What::Echo).map_err(invalid)?
        }
        Sub::H2c { common, load, websocket, http2 } => {
            to_http2(common, load, websocket, http2).map_err(invalid)?
        }
        Sub::Storm { common, websocket, over, hold } => {
            let kind = Kind::Storm { hold, says: true };
            at_fixed_times(&common).map_err(invalid)?;
            if over != Over::Ws
                && let Some(flag) = websocket.first_given()
            {
                return Err(invalid(format!("{flag} is for --over ws")));
            }
            let what = match over {
                Over::Ws => websocket.what(),
                // With TLS, ALPN is what settles it.
                Over::H2c => What::Http2(Http2 {
                    has_prior_knowledge: common.url.url.is_secure(),
                    streams: 1,
                    ..Http2::default()
                }),
                Over::Echo => What::Echo,
            };
            to_plan(common, kind, what, vec![closed("storm")]).map_err(invalid)?
        }
        Sub::Connect { common, websocket, hold } => {
            let kind = Kind::Storm { hold, says: false };
            at_fixed_times(&common).map_err(invalid)?;
            to_plan(common, kind, websocket.what(), vec![closed("connect")]).map_err(invalid)?
        }
        Sub::Fanout { mut common, websocket, senders, receivers, rate, duration } => {
            if let Some(receivers) = receivers {
                common.connections = senders.saturating_add(receivers);
            }
            if common.connections <= senders {
                return Err(invalid("nobody listens: --receivers has to be at least 1".into()));
            }
            if rate <= 0.0 {
                return Err(invalid("a fan-out has a rate above 0".into()));
            }
            let per_thread = common.connections / common.threads.min(common.connections);
            if senders > per_thread {
                return Err(invalid(format!(
                    "the senders share a thread: at most {per_thread} with -t {}",
                    common.threads
                )));
            }
            let stamp = if websocket.text { 24 } else { 12 };
            if common.size.min() < stamp {
                return Err(invalid(format!(
                    "receivers know a message by its first {stamp} bytes: --size has to be at least {stamp}"
                )));
            }
            let profile = Shape::Constant.profile(rate, duration);
            let phase = Phase { time: Some(duration), profile: Some(profile), ..closed("run") };
            to_plan(common, Kind::Fanout { senders }, websocket.what(), vec![phase]).map_err(invalid)?
        }
        Sub::Search {
            common,
            mut load,
            websocket,
            http2,
            scenario,
            slo,
            min,
            max,
            precision,
            confirm,
            allow_degraded,
        } => {
            if load.rate.is_some() || load.profile.is_some() || load.requests.is_some() {
                return Err(invalid(
                    "the search chooses the rate: leave out -r, --profile and -n".to_owned(),
                ));
            }
            of_one_run(&common, "search").map_err(invalid)?;
            if !common.threshold.is_empty() {
                return Err(invalid(
                    "the search has promises of its own: say --slo instead of --threshold".into(),
                ));
            }
            if !(min > 0.0 && min <= max && precision > 0.0) {
                return Err(invalid("0 < --min <= --max, and 0 < --precision".to_owned()));
            }
            load.rate = Some(min);
            let time = load.duration.unwrap_or(POINT);
            let warmup = load.warmup.unwrap_or(WARMUP);
            let plan = to_scenario(scenario, common, load, websocket, http2).map_err(invalid)?;
            return Ok(Command::Search(Box::new(Search {
                plan,
                slos: slo,
                min,
                max,
                time,
                warmup,
                precision: precision / 100.0,
                confirm,
                takes_degraded: allow_degraded,
            })));
        }
        Sub::Ab { common, load, websocket, http2, scenario, a, b, pairs, practical } => {
            of_one_run(&common, "ab").map_err(invalid)?;
            let plan = to_scenario(scenario, common, load, websocket, http2).map_err(invalid)?;
            return Ok(Command::Ab(Box::new(Ab { plan, sides: [a, b], pairs, practical })));
        }
        Sub::Selftest { only, quick, list } => {
            return Ok(Command::SelfTest(SelfTest { only, is_quick: quick, lists: list }));
        }
        Sub::Agent { listen, token_file } => return Ok(Command::Agent { listen, token: token_file }),
        Sub::Run { file, flags } => return from_file(&file, &flags),
        Sub::Compare { results, practical } => return Ok(Command::Compare { results, practical }),
        Sub::Merge { logs, output } => return Ok(Command::Merge { logs, output }),
        Sub::Oracle { listen, mode } => return Ok(Command::Oracle { listen, script: Box::new(mode) }),
    };
    if agents.is_empty() {
        Ok(Command::Run(Box::new(plan)))
    } else {
        Ok(Command::Coordinate { plan: Box::new(plan), agents, token })
    }
}

/// What describes one run has no place where there are several.
fn of_one_run(common: &CommonArgs, command: &str) -> Result<(), String> {
    let given = first_of([
        ("--csv", common.csv.is_some()),
        ("--hlog", common.hlog.is_some()),
        ("--hgrm", common.hgrm.is_some()),
        ("--html", common.html.is_some()),
        ("--server-pid", common.server_pid.is_some()),
        ("--dry-run", common.dry_run),
        ("--connect-to", common.connect_to.is_some() && command == "ab"),
    ]);
    match given {
        Some(flag) => Err(format!(
            "{flag} is for one run, and `loadgen {command}` makes many; its own result is there with --json FILE"
        )),
        None => Ok(()),
    }
}

/// Connections are opened at equal distances.
fn at_fixed_times(common: &CommonArgs) -> Result<(), String> {
    match common.arrival {
        Arrival::Fixed => Ok(()),
        _ => Err("--arrival is for messages; connections are opened at equal distances (--conn-rate)".into()),
    }
}

/// A plan for messages over one of several protocols.
fn to_scenario(
    scenario: Over,
    common: CommonArgs,
    load: LoadArgs,
    websocket: WsArgs,
    http2: Http2Args,
) -> Result<Plan, String> {
    if let Some(flag) = http2.first_given().filter(|_| scenario != Over::H2c) {
        return Err(format!("{flag} is for --scenario h2c"));
    }
    if let Some(flag) = websocket.first_given().filter(|_| scenario == Over::Echo) {
        return Err(format!("{flag} is for --scenario ws"));
    }
    match scenario {
        Over::Ws => to_load(common, load, websocket.what()),
        Over::H2c => to_http2(common, load, websocket, http2),
        Over::Echo => to_load(common, load, What::Echo),
    }
}

/// How long each point of a search is measured.
const POINT: Duration = Duration::from_secs(5);

/// What a scenario file asks for.
fn from_file(path: &Path, flags: &[String]) -> Result<Command, clap::Error> {
    let invalid = |message: String| clap::Error::raw(ErrorKind::ValueValidation, message + "\n");
    let file = File::read(path, flags).map_err(invalid)?;
    let arguments = std::iter::once("loadgen".to_owned()).chain(file.arguments.iter().cloned());
    match Cli::try_parse_from(arguments).and_then(to_command) {
        Ok(Command::Run(plan)) => Ok(Command::Run(Box::new(file.complete(*plan)))),
        Ok(_) => Err(invalid("a file describes a run of this process, without agents".to_owned())),
        Err(error) if !error.use_stderr() => Err(error),
        Err(error) => Err(invalid(file.explain(&error))),
    }
}

fn closed(name: &str) -> Phase {
    Phase {
        name: name.into(),
        time: None,
        profile: None,
        is_measured: true,
        is_storm: false,
        thresholds: Vec::new(),
    }
}

fn to_load(common: CommonArgs, load: LoadArgs, what: What) -> Result<Plan, String> {
    let rate = load.rate.filter(|rate| *rate > 0.0);
    let is_open = rate.is_some() || load.profile.is_some();
    let shape = load.profile.unwrap_or(Shape::Constant);
    if rate.is_none() && matches!(shape, Shape::Spike(..))
        || is_open && rate.is_none() && shape == Shape::Constant
    {
        return Err("this profile needs the rate that it departs from: add --rate".into());
    }
    let is_counted = load.requests.is_some();
    // With a rate the number of messages says how long it takes.
    let needed = rate.zip(load.requests).map(|(rate, requests)| {
        let seconds = requests as f64 / rate;
        Duration::from_secs_f64(seconds.min(1e9)) + Duration::from_nanos(1)
    });
    let default = shape.time().or(needed).or_else(|| (!is_counted).then_some(DURATION));
    let time = load.duration.or(default);
    if let (Some(time), Some(of_shape)) = (time, shape.time())
        && of_shape > time
    {
        return Err(format!(
            "the steps take {}, which is longer than -d",
            humantime::format_duration(of_shape)
        ));
    }
    let warmup = load.warmup.unwrap_or(if is_counted { Duration::ZERO } else { WARMUP });
    let mut phases = Vec::new();
    if !warmup.is_zero() {
        // At the rate that the measurement begins with.
        let rate = match &shape {
            Shape::Ramp(begin, _) => Some(*begin),
            Shape::Steps(rates, _) => rates.first().copied(),
            _ => rate,
        };
        phases.push(Phase {
            name: "warm-up".into(),
            time: Some(warmup),
            profile: rate.map(|rate| Shape::Constant.profile(rate, warmup)),
            is_measured: false,
            is_storm: false,
            thresholds: Vec::new(),
        });
    }
    let profile = match time {
        Some(time) if is_open => Some(shape.profile(rate.unwrap_or(0.0), time)),
        None if is_open => return Err("a rate needs a time: add -d, or -n".into()),
        _ => None,
    };
    phases.push(Phase {
        name: "run".into(),
        time,
        profile,
        is_measured: true,
        is_storm: false,
        thresholds: Vec::new(),
    });
    let mut plan = to_plan(common, Kind::Load, what, phases)?;
    plan.requests = load.requests;
    plan.depth = load.depth.unwrap_or(if is_open { DEPTH_MAX } else { 1 }) as usize;
    plan.timeout = load.timeout;
    plan.reconnects = load.reconnect == "immediate";
    plan.slow = load.slow_readers;
    plan.idle = load.idle;
    if plan.idle + plan.slow.map_or(0.0, |slow| slow.part) >= 1.0 && plan.idle > 0.0 {
        return Err(
            "nobody is left to say anything: --idle and --slow-readers have to be less than 100 %".into()
        );
    }
    plan.have_all_threads_work(1)?;
    Ok(plan)
}

const DURATION: Duration = Duration::from_secs(10);
const WARMUP: Duration = Duration::from_millis(500);
const DEPTH_MAX: u32 = 65_536;

fn to_plan(common: CommonArgs, kind: Kind, what: What, phases: Vec<Phase>) -> Result<Plan, String> {
    if let Some(place) = &common.connect_to
        && !place.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    {
        return Err("--connect-to is a host and a port, such as 127.0.0.1:8080 or [::1]:8080".into());
    }
    let mut headers = common.headers;
    if let Some(who) = &common.auth {
        headers.push(auth(who)?);
    }
    if let What::WebSocket(how) | What::Http2(Http2 { websocket: Some(how), .. }) = &what {
        let mut opening = Opening::new([0; 16]);
        for name in &how.subprotocols {
            opening.subprotocol(name).map_err(|unfit| format!("--subprotocol {name}: {unfit}"))?;
        }
    }
    let is_printed = |path: &PathBuf| path.as_os_str() == "-";
    let format = match (&common.json, common.quiet) {
        (Some(path), _) if is_printed(path) => Format::Json,
        (_, true) => Format::Quiet,
        _ => common.output,
    };
    Ok(Plan {
        kind,
        what,
        target: common.url.at(common.connect_to),
        connections: common.connections,
        part: Part::WHOLE,
        connection_rate: common.conn_rate.filter(|rate| *rate > 0.0),
        phases,
        arrival: common.arrival,
        requests: None,
        sizes: common.size,
        depth: 1,
        // More threads than connections would only look on.
        threads: common.threads.min(common.connections),
        cores: common.pin,
        timeout: None,
        connect_timeout: common.connect_timeout,
        grace: common.grace,
        verify: common.verify,
        pace: common.pace,
        tls: Tls { is_insecure: common.insecure, authority: common.ca, name: common.sni },
        headers,
        driver: common.driver,
        sources: common.source.unwrap_or_default(),
        slow: None,
        idle: 0.0,
        reconnects: false,
        server_pid: match common.server_pid {
            Some(ServerPid::Is(pid)) => Some(pid),
            _ => None,
        },
        finds_server: common.server_pid == Some(ServerPid::Auto),
        seed: common.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32),
        thresholds: common.threshold,
        errors_max: common.max_errors,
        output: Output {
            format,
            json: common.json.filter(|path| !is_printed(path)),
            csv: common.csv,
            hlog: common.hlog,
            hgrm: common.hgrm,
            html: common.html,
            is_dry: common.dry_run,
            percentiles: common.percentiles,
            progress: if common.no_progress { Show::Off } else { common.progress },
        },
        labels: common.label,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Plan, clap::Error> {
        match Cli::try_parse_from(line.split(' ')).and_then(to_command)? {
            Command::Run(plan) => Ok(*plan),
            _ => panic!("{line} is no run"),
        }
    }

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_flags_it_measures_ten_seconds() {
        let plan = parse("loadgen ws ws://h/").unwrap();
        assert_eq!((plan.connections, plan.depth, plan.sizes, plan.threads), (50, 1, Sizes::Fixed(64), 1));
        let phases: Vec<_> =
            plan.phases.iter().map(|phase| (phase.time.unwrap(), phase.is_measured)).collect();
        assert_eq!(phases, [(WARMUP, false), (DURATION, true)]);
        assert_eq!(plan.what, What::WebSocket(WebSocket::default()));
        assert!(!plan.is_open());
    }

    #[test]
    fn a_number_of_messages_has_no_duration_and_no_warmup_unless_asked() {
        let plan = parse("loadgen echo http://h/ -n 100").unwrap();
        assert_eq!((plan.phases.len(), plan.phases[0].time, plan.requests), (1, None, Some(100)));
        let plan = parse("loadgen echo http://h/ -n 100 -d 1s --warmup 100ms").unwrap();
        assert_eq!((plan.phases.len(), plan.phases[1].time), (2, Some(Duration::from_secs(1))));
        let plan = parse("loadgen echo http://h/ -n 100 -r 50").unwrap();
        assert_eq!(plan.phases[0].time.unwrap().as_secs(), 2);
    }

    #[test]
    fn a_rate_has_the_names_that_other_tools_have_for_it() {
        for flag in ["-r", "-R", "-q", "--rate", "--qps"] {
            let plan = parse(&format!("loadgen ws ws://h/ {flag} 2k/s")).unwrap();
            assert!(plan.is_open() && plan.depth == 65_536, "{flag}");
        }
        assert!(!parse("loadgen ws ws://h/ -r 0").unwrap().is_open());
        assert_eq!(parse("loadgen ws ws://h/ --depth 16 --requests 5").unwrap().depth, 16);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (line, hint) in [
            ("echo http://h/ -s 0", "at least 1"),
            ("ws ws://h/ -H Upgrade:x", "belongs to the handshake"),
            ("ws ws://h/ -H nonsense", "Name: value"),
            ("ws ws://h/ --profile spike:5k@1s", "--rate"),
            ("ws ws://h/ --profile steps:1,2@10s -d 5s", "longer than -d"),
            ("fanout ws://h/ --receivers 5 -s 3", "at least 12"),
            ("ws ws://h/ -A me", "USER:PASSWORD"),
            ("ws ws://h/ --threshold p99(x)<1ms", "response"),
            ("ws ws://h/ --slow-readers 5", "5%:1KB/s"),
            ("ws ws://h/ --idle 5", "50%"),
            ("ws ws://h/ --server-pid me", "`auto`"),
            ("ws ws://h/ --percentiles 50,100", "less than 100"),
            ("ws ws://h/ --connect-to h", "127.0.0.1:8080"),
            ("ws ws://h/ --idle 60% --slow-readers 40%:1KB/s", "nobody is left"),
            ("ws ws://h/ -c 10 -t 2 --idle 90%", "not idle"),
            ("h2c http://h/ --deflate", "--websocket"),
            ("search http://h/ --slo p99<1s --scenario echo --text", "--scenario ws"),
            ("ab --a ws://h/ --b ws://h/ --post", "--scenario h2c"),
            ("storm ws://h/ --over echo --deflate", "--over ws"),
            ("storm ws://h/ --arrival poisson", "equal distances"),
            ("search ws://h/ --slo p99<1s --threshold p50<1s", "--slo instead"),
            ("search ws://h/ --slo p99<1s --html a.html", "one run"),
            ("ab --a ws://h/ --b ws://h/ --csv a.csv", "one run"),
            ("ws ws://h/ --source 127.0.0.0/2", "127.0.0.0/24"),
            ("ws ws://h/ --subprotocol a,b", "token"),
        ] {
            let error = parse(&format!("loadgen {line}")).unwrap_err().to_string();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }

    #[test]
    fn a_file_is_a_command_line_and_phases() {
        let path = std::env::temp_dir().join(format!("loadgen-file-{}.toml", std::process::id()));
        let read = |text: &str, flags: &str| {
            fs::write(&path, text).unwrap();
            parse(format!("loadgen run {} {flags}", path.display()).trim())
        };
        let text = "url = \"ws://h/\"\nconnections = 7\n[[phase]]\ntime = \"2s\"\nrate = \"1k\"\n";
        let plan = read(text, "--size 20 --connections 9").unwrap();
        assert_eq!((plan.connections, plan.sizes, plan.depth), (9, Sizes::Fixed(20), 65_536));
        assert_eq!((plan.phases.len(), plan.phases[0].time), (1, Some(Duration::from_secs(2))));
        for (from, to, hint) in [
            ("connections = 7", "conections = 7", ":2: unexpected argument '--conections'"),
            ("connections = 7", "connections = \"seven\"", ":2: invalid value 'seven'"),
            ("connections = 7", "scenario = \"echo\"\nsize = 0", "at least 1"),
        ] {
            let error = read(&text.replace(from, to), "").unwrap_err().to_string();
            assert!(error.contains(hint), "{to}: {error}");
        }
        assert!(read(&text.replace("conn", "con"), "").unwrap_err().to_string().contains("similar"));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn many_sources_are_written_as_one_range() {
        let plan = parse("loadgen ws ws://h/ --source 127.0.0.0/24").unwrap();
        assert_eq!(plan.sources.len(), 254);
        assert_eq!(plan.sources[0], "127.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(parse("loadgen ws ws://h/ --source 127.0.0.0/8").unwrap().sources.len(), SOURCES_MAX);
        assert_eq!(parse("loadgen ws ws://h/ --source ::1").unwrap().sources.len(), 1);
        assert_eq!(parse("loadgen ws ws://h/ --source auto").unwrap().sources.len(), SOURCES_MAX);
    }

    #[test]
    fn who_asks_is_encoded() {
        let plan = parse("loadgen ws ws://h/ -A user:secret").unwrap();
        assert_eq!(plan.headers, [("Authorization".to_owned(), "Basic dXNlcjpzZWNyZXQ=".to_owned())]);
    }
}
