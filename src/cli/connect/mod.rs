//! `switchpoint connect`: a conversation with a server, from a terminal, a pipe or a script.
//!
//! | file | what |
//! |---|---|
//! | `target.rs` | the URL, and what the client says of itself |
//! | `transport.rs`, `tls.rs`, `wait.rs` | the connection, and one wait for it and all else |
//! | `handshake.rs` | the request and its answer, and why it was refused |
//! | `talk.rs` | both directions without I/O, by the library's rules; `frames.rs` shows them as they are |
//! | `session.rs` | the loop |
//! | `input.rs`, `command.rs`, `script.rs` | what there is to say |
//! | `terminal.rs`, `editor.rs` | the prompt; the line that is edited, without I/O |
//! | `output.rs`, `show.rs`, `stats.rs`, `ending.rs` | what is printed, and how it ends |

mod command;
mod editor;
pub(super) mod ending;
mod frames;
mod handshake;
mod input;
mod output;
mod script;
mod session;
pub(super) mod show;
mod stats;
mod talk;
pub(super) mod target;
mod terminal;
#[cfg(feature = "tls")]
mod tls;
pub(super) mod transport;
mod wait;

use std::{
    env, fs,
    io::{self, IsTerminal, Read},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use switchpoint::ws::{Deflate, Limits, Opening};

use ending::Ending;
use handshake::Opened;
use input::{Inputs, Source};
use output::Output;
use script::Script;
use session::{Clock, Session, Settings, Show};
use talk::{Payload, Random, Talk};
use target::Dial;
use terminal::Terminal;
use wait::{Signals, Wake};

/// How to talk.
///
/// On a terminal there is a prompt; `/help` says what can be typed. Otherwise each line of standard input is a message,
/// each reply a line of standard output, and all else is on standard error.
///
/// The exit code is 0 when it ended as it should, 1 when the handshake was refused or a script not met, 2 for what makes no
/// sense, 3 when there is no connection, 4 when it was lost or closed with an error's code, 5 when time was over.
#[derive(Args, Clone, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    dial: Dial,
    /// Asks for this protocol instead of WebSocket, such as `echo` or `chat/2`: bytes in, bytes out.
    #[arg(long, value_name = "TOKEN", default_value = "websocket")]
    proto: String,
    /// Offers a subprotocol; may be repeated, the dearest first.
    #[arg(short = 's', long, value_name = "NAME")]
    subprotocol: Vec<String>,
    /// Offers to compress messages (permessage-deflate).
    #[arg(long)]
    deflate: bool,
    /// The longest message that is taken, such as `65536` or `1MiB`.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size, alias = "max-message")]
    message_max: usize,
    /// Pings so often; ends when there is no pong until the next.
    #[arg(long, value_name = "TIME", value_parser = positive)]
    ping_interval: Option<Duration>,
    /// Sends this text instead of standard input; may be repeated.
    #[arg(long, value_name = "TEXT", conflicts_with = "script")]
    send: Vec<String>,
    /// Plays the steps in this file (`-` for standard input), such as `send hello` and `expect hello`.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Ends after so many replies.
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Ends after the first reply: `-n 1`.
    #[arg(short = '1', long, conflicts_with = "count")]
    one: bool,
    /// After the end of standard input: ends when nothing came for this time, or `forever`. 1s; with a COUNT, or for
    /// another protocol than WebSocket, 10s.
    #[arg(short, long, value_name = "TIME", value_parser = time_or_forever)]
    wait: Option<Duration>,
    /// Ends after this time in any case.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_time: Option<Duration>,
    /// Standard input is sent as binary messages, as it comes, and replies are printed as they are, with nothing between.
    #[arg(short, long)]
    binary: bool,
    /// All of standard input is one message.
    #[arg(long, conflicts_with_all = ["send", "script"])]
    whole: bool,
    /// Ends each reply with a zero byte instead of a line's end, which may stand in a message.
    #[arg(short = '0', long)]
    null: bool,
    /// Shows when things happened, in UTC.
    #[arg(short, long)]
    time: bool,
    /// Shows each frame, in (`<`) and out (`>`).
    #[arg(long)]
    frames: bool,
    /// Shows pings and pongs.
    #[arg(long)]
    pings: bool,
    /// Shows both heads of the handshake, how it goes, and counts at the end.
    #[arg(short, long)]
    verbose: bool,
    /// Keeps no history of what is typed. Without it, it is in `~/.local/state/switchpoint/connect_history`.
    #[arg(long)]
    no_history: bool,
}

fn size(text: &str) -> Result<usize, String> {
    let size =
        parse_size::parse_size(text).map_err(|error| format!("{error}; such as 65536, 64KiB or 16MiB"))?;
    usize::try_from(size).map_err(|error| error.to_string())
}

fn positive(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("it is longer than nothing".into()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

fn time_or_forever(text: &str) -> Result<Duration, String> {
    if text == "forever" {
        return Ok(Duration::MAX);
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; or `forever`"))
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    match talk_to(&arguments) {
        Ok(ending) | Err(ending) => ending.report(),
    }
}

impl Arguments {
    fn is_websocket(&self) -> bool {
        self.proto.eq_ignore_ascii_case("websocket")
    }

    fn opening(&self) -> Result<Opening, Ending> {
        let usage = |unfit| Ending::Usage(unfit);
        let mut opening = if self.is_websocket() {
            Opening::new(Random::default().nonce())
        } else {
            if self.frames || self.deflate || self.ping_interval.is_some() || self.script.is_some() {
                return Err(usage(
                    "--frames, --deflate, --ping-interval and --script are for WebSocket".into(),
                ));
            }
            let is_token = |part: &str| {
                !part.is_empty()
                    && part
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
            };
            if self.proto.split('/').count() > 2 || !self.proto.split('/').all(is_token) {
                return Err(usage("--proto is a token, perhaps with a version: `echo`, `chat/2`".into()));
            }
            Opening::to(self.proto.clone())
        };
        for name in &self.subprotocol {
            opening.subprotocol(name).map_err(|unfit| usage(format!("--subprotocol {name:?}: {unfit}")))?;
        }
        if self.deflate {
            opening.deflate(Deflate::default());
        }
        self.dial.describe(&mut opening).map_err(usage)?;
        Ok(opening)
    }

    fn count(&self) -> Option<u64> {
        if self.one { Some(1) } else { self.count }
    }

    fn wait(&self) -> Duration {
        let default = if self.count().is_some() || !self.is_websocket() { 10 } else { 1 };
        self.wait.unwrap_or_else(|| Duration::from_secs(default))
    }

    fn script(&self) -> Result<Option<Script>, Ending> {
        let Some(path) = &self.script else { return Ok(None) };
        let mut text = String::new();
        let read = if path.as_os_str() == "-" {
            io::stdin().read_to_string(&mut text)
        } else {
            fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
        };
        read.map_err(|error| Ending::Usage(format!("cannot read {}: {error}", path.display())))?;
        Script::parse(&text, self.dial.timeout).map(Some).map_err(Ending::Usage)
    }

    fn source(&self) -> Option<Source> {
        match () {
            () if self.script.is_some() || !self.send.is_empty() => None,
            () if self.whole => Some(Source::Whole { is_binary: self.binary || !self.is_websocket() }),
            () if self.binary || !self.is_websocket() => Some(Source::Blocks),
            () => Some(Source::Lines),
        }
    }
}

fn talk_to(arguments: &Arguments) -> Result<Ending, Ending> {
    let opening = arguments.opening()?;
    let script = arguments.script()?;
    let own = |error: io::Error| Ending::Usage(format!("cannot start: {error}"));
    let opened = handshake::open(&arguments.dial, &opening)?;
    let description = describe(&opened, arguments);

    let wake = Wake::new().map_err(own)?;
    let signals = Signals::new().map_err(own)?;
    let mut source = arguments.source();
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let is_interactive = is_terminal && !arguments.whole && source.is_some();
    let mut terminal = None;
    if is_interactive {
        terminal = Terminal::new(!arguments.no_history).ok();
        // One that cannot move its cursor has lines all the same.
        source = terminal.is_none().then_some(Source::Typed);
    }
    let now = Instant::now();
    let mut session = Session {
        talk: if arguments.is_websocket() {
            let limits = Limits { message_max: arguments.message_max, ..Limits::default() };
            Talk::websocket(opened.switched.deflate, limits, now)
        } else {
            Talk::raw(now)
        },
        output: Output::new(wake.clone()).map_err(own)?,
        terminal: None,
        inputs: None,
        script,
        settings: Settings {
            wait: arguments.wait(),
            count: arguments.count(),
            ping_interval: arguments.ping_interval,
            max_time: arguments.max_time,
            show: Show {
                time: arguments.time,
                pings: arguments.pings,
                status: is_interactive || arguments.verbose,
                color: is_interactive && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            },
            is_binary: arguments.binary || !arguments.is_websocket(),
            delimiter: if arguments.null { 0 } else { b'\n' },
            is_interactive,
        },
        clock: Clock::new(now),
        transport: opened.transport,
        wake: wake.clone(),
        signals,
    };
    if let Some((terminal, begin)) = terminal {
        session.output.reply(begin.into());
        session.terminal = Some(terminal);
    }
    session.talk.watch_frames(arguments.frames);
    if arguments.verbose {
        session.show_head('>', &opened.request);
        session.show_head('<', &opened.answer);
    }
    session.status(&description);
    let early = opened.early;
    // It is in memory.
    drop(session.talk.arrive(|buffer| {
        buffer.extend_from_slice(&early);
        Ok(early.len())
    }));
    for text in &arguments.send {
        session.say(&Payload::Text(text.clone()));
    }
    match source {
        Some(source) => session.inputs = Some(Inputs::new(source, wake).map_err(own)?),
        None if session.script.is_none() && session.terminal.is_none() => session.has_said_all(),
        None => {}
    }
    Ok(session.run())
}

/// What there is to say of the connection that was made.
fn describe(opened: &Opened, arguments: &Arguments) -> String {
    let [connect, answer] = opened.times.map(stats::milliseconds);
    let mut text = format!("connected to {} in {connect}, switched in {answer}", arguments.dial.url.text);
    if let Some(tls) = opened.transport.secured() {
        text += &format!("; {tls}");
    }
    if let Some(subprotocol) = &opened.switched.subprotocol {
        text += &format!("; subprotocol {subprotocol}");
    } else if !arguments.subprotocol.is_empty() {
        text += "; no subprotocol";
    }
    if opened.switched.deflate.is_some() {
        text += "; compressed";
    } else if arguments.deflate {
        text += "; not compressed, the server declined it";
    }
    text
}
