//! `switchpoint replay`: a trace's client speaks again, and the server's answers are shown, or compared with those of then.
//!
//! The bytes are sent as they were recorded, masks and key included; the proof in the answer is computed anew.

mod compare;
mod request;
mod trace;

use std::{
    fs,
    io::{self, BufReader, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use switchpoint::ws::{Opcode, write_frame};

use super::connect::{
    ending::Ending,
    show::{excerpt, printable},
    target::Dial,
    transport::Transport,
};
use compare::{Answer, Frame, byte_differences, frame_differences};
use trace::{Move, Recorded};

/// What to play, and to whom.
///
/// The exit code is 0 when everything was played (and, with --compare, answered as it was), 1 when an answer differs, 2 for
/// what makes no sense, 3 when there is no connection, 4 when it was lost, 5 when time was over.
#[derive(Args, Clone, Debug)]
pub(super) struct Arguments {
    /// What `switchpoint trace -o FILE` has recorded.
    file: PathBuf,
    #[command(flatten)]
    dial: Dial,
    /// How much faster than then: 2 halves each pause. `max` waits only for the answers that came before.
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = speed)]
    speed: f64,
    /// Says where the answers differ from the recorded ones, and not what they are.
    #[arg(long)]
    compare: bool,
    /// Plays only this session, such as `0-3-17`; may be repeated.
    #[arg(long, value_name = "ID")]
    session: Vec<String>,
    /// How long to wait for an answer that came then.
    #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    wait: Duration,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(factor) if f64::is_finite(factor) && factor > 0.0 => Ok(factor),
        _ if text == "max" => Ok(f64::INFINITY),
        _ => Err("it is a number above 0, such as 0.5 or 10, or `max`".into()),
    }
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    match replay(&arguments) {
        Ok(ending) | Err(ending) => ending.report(),
    }
}

fn replay(arguments: &Arguments) -> Result<Ending, Ending> {
    let shown = arguments.file.display();
    let usage = |text: String| Ending::Usage(text);
    let file =
        fs::File::open(&arguments.file).map_err(|error| usage(format!("cannot read {shown}: {error}")))?;
    let mut sessions =
        trace::read(BufReader::new(file)).map_err(|error| usage(format!("{shown}, {error}")))?;
    if let Some(unknown) =
        arguments.session.iter().find(|id| sessions.iter().all(|found| found.session != **id))
    {
        return Err(usage(format!("{shown} has no session {unknown}")));
    }
    sessions.retain(|found| arguments.session.is_empty() || arguments.session.contains(&found.session));
    if sessions.is_empty() {
        return Err(usage(format!("{shown} has no session in it")));
    }
    let (mut played, mut differing) = (0, 0);
    for recorded in &sessions {
        if recorded.http == "2" {
            say(&format!("session {}: skipped, it was a stream of HTTP/2", recorded.session));
            continue;
        }
        played += 1;
        let now = play(arguments, recorded)?;
        let lines = if arguments.compare { now.differences(recorded) } else { now.describe() };
        differing += u32::from(arguments.compare && !lines.is_empty());
        say(&format!("session {}: {}", recorded.session, headline(arguments, recorded, &now, lines.len())));
        lines.iter().for_each(|line| say(&format!("  {line}")));
    }
    if played == 0 {
        return Err(usage("there is nothing that can be played over HTTP/1.1".into()));
    }
    if differing > 0 {
        return Ok(Ending::Unmet(format!("{differing} of {played} sessions were answered differently")));
    }
    Ok(Ending::Clean)
}

fn headline(arguments: &Arguments, recorded: &Recorded, now: &Played, lines: usize) -> String {
    let request = String::from_utf8_lossy(&now.request);
    let line = printable(request.lines().next().unwrap_or_default());
    let mut text = format!("{line}; {} of {} sent", now.sent, count(recorded));
    if arguments.compare {
        text += &match lines {
            0 => "; answered as it was".to_owned(),
            1 => "; 1 difference".to_owned(),
            more => format!("; {more} differences"),
        };
    }
    text
}

fn count(recorded: &Recorded) -> usize {
    recorded.moves.iter().filter(|step| step.is_client).count()
}

/// Says something on standard output, if anybody still listens there.
fn say(line: &str) {
    drop(writeln!(io::stdout(), "{line}"));
}

fn warn(line: &str) {
    drop(writeln!(io::stderr(), "switchpoint: {line}"));
}

/// What came of it.
struct Played {
    request: Vec<u8>,
    answer: Answer,
    /// Behind the head: a refusal's body, or the protocol's bytes.
    heard: Vec<u8>,
    /// The same, where the protocol is WebSocket.
    frames: Option<Vec<Frame>>,
    /// What could not be read as frames.
    fault: Option<String>,
    /// How many of the client's moves were made.
    sent: usize,
    has_switched: bool,
}

/// The connection of now, with what has arrived and was not looked at.
struct Line {
    transport: Transport,
    arrived: Vec<u8>,
    is_over: bool,
}

impl Line {
    /// Takes what arrives until `is_enough`, or the deadline.
    fn hear(&mut self, deadline: Instant, mut is_enough: impl FnMut(&[u8]) -> bool) -> Result<bool, Ending> {
        loop {
            if is_enough(&self.arrived) {
                return Ok(true);
            }
            if self.is_over {
                return Ok(false);
            }
            if self.arrived.len() > HEARD_MAX {
                return Err(Ending::Broken(format!("the server has sent more than {HEARD_MAX} bytes")));
            }
            match self.transport.read_some(&mut self.arrived, deadline) {
                Ok(0) => self.is_over = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(false),
                // What was lost shows in what is missing.
                Err(_) => self.is_over = true,
            }
        }
    }

    fn say(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), Ending> {
        match self.transport.write_all(bytes, deadline) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(Ending::TimedOut("the server takes nothing more".into()))
            }
            // It has hung up; what it has said is to be read.
            Err(_) => Ok(()),
        }
    }
}

/// What a server may say in one session.
const HEARD_MAX: usize = 256 << 20;

fn play(arguments: &Arguments, recorded: &Recorded) -> Result<Played, Ending> {
    let dial = &arguments.dial;
    let fields = dial.fields().map_err(Ending::Usage)?;
    let request = request::adapt(&recorded.request, &recorded.redacted, &dial.url.url, &fields);
    for what in &request.redacted {
        warn(&match what.as_str() {
            "the target" => "the recorded target was redacted: give the path anew in the URL".to_owned(),
            name => format!("the recorded {name} was redacted: give it anew with -H '{name}: …'"),
        });
    }
    let deadline = Instant::now() + dial.timeout;
    let transport = Transport::connect(dial, deadline)?;
    let mut line = Line { transport, arrived: Vec::new(), is_over: false };
    line.say(&request.bytes, deadline)?;

    let mut head = Ok(None);
    line.hear(deadline, |bytes| {
        head = Answer::parse(bytes);
        !matches!(head, Ok(None))
    })?;
    let (answer, size) = match head {
        Ok(Some(found)) => found,
        Err(text) => return Err(Ending::Broken(format!("session {}: {text}", recorded.session))),
        Ok(None) if line.is_over => {
            return Err(Ending::Broken(format!("session {}: it closed without an answer", recorded.session)));
        }
        Ok(None) => return Err(Ending::TimedOut(format!("session {}: no answer", recorded.session))),
    };
    line.arrived.drain(..size);
    let mut played = Played {
        request: request.bytes,
        has_switched: answer.status == 101,
        answer,
        heard: Vec::new(),
        frames: None,
        fault: None,
        sent: 0,
    };
    if played.has_switched && recorded.token.is_some() {
        let is_websocket =
            recorded.token.as_deref().is_some_and(|token| token.eq_ignore_ascii_case("websocket"));
        converse(arguments, recorded, &mut line, &mut played, is_websocket)?;
    } else if !played.has_switched {
        let length = played.answer.body_length();
        let end = Instant::now() + arguments.wait;
        line.hear(end, |bytes| length.is_some_and(|length| bytes.len() >= length))?;
        line.arrived.truncate(length.unwrap_or(usize::MAX));
    }
    played.heard.append(&mut line.arrived);
    Ok(played)
}

/// Behind the switch: each of the client's moves at its time, or after the answers that came before it.
fn converse(
    arguments: &Arguments,
    recorded: &Recorded,
    line: &mut Line,
    played: &mut Played,
    is_websocket: bool,
) -> Result<(), Ending> {
    let begun = Instant::now();
    let start = recorded.moves.first().map_or(0.0, |first| first.at);
    let mut ear = Ear { is_websocket, frames: Vec::new(), at: 0, fault: None };
    let mut expected = 0;
    for step in &recorded.moves {
        if !step.is_client {
            expected += weight(step, is_websocket);
            continue;
        }
        if !step.is_whole() {
            warn(&format!(
                "session {}: of what the client said next only {} of {} bytes were recorded, so it ends here",
                recorded.session,
                step.bytes.len(),
                step.length
            ));
            break;
        }
        if arguments.speed.is_finite() {
            let pause =
                Duration::try_from_secs_f64((step.at - start).max(0.0) / arguments.speed).unwrap_or_default();
            line.hear(begun + pause, |bytes| {
                ear.hear(bytes);
                false
            })?;
            std::thread::sleep((begun + pause).saturating_duration_since(Instant::now()));
        } else {
            line.hear(Instant::now() + arguments.wait, |bytes| ear.hear(bytes) >= expected)?;
        }
        line.say(&step.bytes, Instant::now() + arguments.dial.timeout)?;
        played.sent += 1;
    }
    line.hear(Instant::now() + arguments.wait, |bytes| ear.hear(bytes) >= expected)?;
    // What it says beyond that is a difference, too, if it comes soon.
    line.hear(Instant::now() + LINGER, |bytes| {
        ear.hear(bytes);
        false
    })?;
    if !line.is_over && is_websocket {
        // The recording ends here, and so does the conversation.
        let mut goodbye = Vec::new();
        write_frame(&mut goodbye, true, Opcode::Close, &1000_u16.to_be_bytes(), Some([0; 4]));
        line.say(&goodbye, Instant::now() + LINGER)?;
    }
    if is_websocket {
        played.fault = ear.fault;
        played.frames = Some(ear.frames);
    }
    Ok(())
}

/// How long to listen for what was not expected.
const LINGER: Duration = Duration::from_millis(200);

/// What counts as an answer: frames, but for pings; or bytes.
fn weight(step: &Move, is_websocket: bool) -> usize {
    if is_websocket {
        usize::from(step.bytes[..].first().is_some_and(|first| first & 15 != 9))
    } else {
        step.length
    }
}

/// Counts what has arrived, as it arrives.
struct Ear {
    is_websocket: bool,
    frames: Vec<Frame>,
    at: usize,
    fault: Option<String>,
}

impl Ear {
    /// How much there is in `bytes`, by [`weight`].
    fn hear(&mut self, bytes: &[u8]) -> usize {
        if !self.is_websocket {
            return bytes.len();
        }
        while self.fault.is_none() {
            match Frame::parse(&bytes[self.at..]) {
                Ok(None) => break,
                Ok(Some((frame, size))) => {
                    self.at += size;
                    if !frame.is_ping() {
                        self.frames.push(frame);
                    }
                }
                Err(fault) => self.fault = Some(fault),
            }
        }
        self.frames.len()
    }
}

impl Played {
    /// What is different from what was recorded.
    fn differences(&self, recorded: &Recorded) -> Vec<String> {
        let then = match Answer::parse(&recorded.response) {
            Ok(Some((then, size))) => (then, &recorded.response[size..]),
            _ => return vec!["the recorded answer is not whole".into()],
        };
        let mut found = then.0.differences(&self.answer, &self.request);
        if !self.has_switched || recorded.token.is_none() {
            if then.0.status == self.answer.status && !self.has_switched {
                found.extend(byte_differences("body", then.1, &self.heard));
            }
            return found;
        }
        let of_server = || recorded.moves.iter().filter(|step| !step.is_client);
        // What was not recorded cannot differ.
        let is_whole = matches!(recorded.why.as_deref(), Some("closed" | "lost"));
        match &self.frames {
            Some(now) => {
                let then: Vec<Frame> = of_server()
                    .filter_map(|step| Frame::parse_beginning(&step.bytes).ok().flatten())
                    .filter(|frame| !frame.is_ping())
                    .collect();
                let end = if is_whole { now.len() } else { now.len().min(then.len()) };
                found.extend(frame_differences(&then, &now[..end]));
                found.extend(self.fault.iter().map(|fault| format!("it broke a rule now: {fault}")));
            }
            None => {
                let then: Vec<u8> = of_server().flat_map(|step| step.bytes.iter().copied()).collect();
                let end = if is_whole { self.heard.len() } else { self.heard.len().min(then.len()) };
                found.extend(byte_differences("data", &then, &self.heard[..end]));
            }
        }
        found
    }

    /// What the server says now.
    fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!("answered with {}", self.answer.status)];
        match &self.frames {
            Some(frames) => {
                lines.extend(frames.iter().map(Frame::describe));
                lines.extend(self.fault.iter().map(|fault| format!("it broke a rule: {fault}")));
            }
            None if self.heard.is_empty() => {}
            None => {
                let shown = &self.heard[..self.heard.len().min(SHOWN_MAX)];
                let is_cut = shown.len() < self.heard.len();
                lines.push(format!("{} bytes: {}", self.heard.len(), excerpt(shown, is_cut)));
            }
        }
        lines
    }
}

const SHOWN_MAX: usize = 400;
