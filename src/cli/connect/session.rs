//! The loop of a connection: what has arrived, what was typed, what is due; then one wait for all of them.
//!
//! It is one thread. Standard input and output, which may block, have threads of their own (`input`, `output`).

use std::{
    io::ErrorKind,
    os::fd::AsFd,
    time::{Duration, Instant, SystemTime},
};

use rustix::event::PollFlags;
use switchpoint::ws::{CloseFrame, Code, Opcode};

use super::{
    command::{self, Command},
    editor::Typed,
    ending::{Ending, close_name, describe_close},
    input::{Input, Inputs},
    output::Output,
    script::{Next, Script},
    show,
    stats::milliseconds,
    talk::{Heard, Payload, Talk},
    terminal::Terminal,
    transport::Transport,
    wait::{Signals, Wake, wait},
};

/// How a conversation goes.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// After the end of what there is to say: how long to wait for something more to be heard.
    pub(super) wait: Duration,
    /// Ends after so many replies.
    pub(super) count: Option<u64>,
    pub(super) ping_interval: Option<Duration>,
    /// Ends after this time in any case.
    pub(super) max_time: Option<Duration>,
    pub(super) show: Show,
    /// Replies go to standard output as they are, without a line's end.
    pub(super) is_binary: bool,
    /// What a reply ends with.
    pub(super) delimiter: u8,
    /// Somebody sits at a prompt.
    pub(super) is_interactive: bool,
}

/// What is shown besides the replies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Show {
    pub(super) time: bool,
    pub(super) pings: bool,
    /// How it goes, not only what goes wrong.
    pub(super) status: bool,
    pub(super) color: bool,
}

/// A connection, and those who use it.
pub(super) struct Session {
    pub(super) transport: Transport,
    pub(super) talk: Talk,
    pub(super) output: Output,
    pub(super) inputs: Option<Inputs>,
    /// Where lines are typed.
    pub(super) terminal: Option<Terminal>,
    pub(super) script: Option<Script>,
    pub(super) settings: Settings,
    pub(super) wake: Wake,
    pub(super) signals: Signals,
    pub(super) clock: Clock,
}

/// How far it is.
pub(super) struct Clock {
    phase: Phase,
    begun: Instant,
    /// When the last of a message, or a part of one, came or went; pings and pongs do not count.
    last_moved: Instant,
    /// Something was read, or said, since then.
    has_read: bool,
    has_said: bool,
    /// What the script waits for, at the latest.
    script_wait: Option<Instant>,
    last_ping: Instant,
    ping_number: u64,
    replies: u64,
    /// There is nothing more to say, since then.
    input_end: Option<Instant>,
    /// The peer's side has ended.
    is_deaf: bool,
    /// Nothing can be sent any more.
    is_mute: bool,
    is_half_closed: bool,
}

enum Phase {
    Open,
    /// A close frame was sent, and is to be answered.
    Closing {
        by: Instant,
        ending: Ending,
    },
    /// What is left is sent, and then it is over.
    Leaving {
        by: Instant,
        ending: Ending,
    },
}

impl Clock {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Open,
            begun: now,
            last_moved: now,
            has_read: false,
            has_said: false,
            script_wait: None,
            last_ping: now,
            ping_number: 0,
            replies: 0,
            input_end: None,
            is_deaf: false,
            is_mute: false,
            is_half_closed: false,
        }
    }
}

impl Session {
    /// Goes on until it is over.
    pub(super) fn run(mut self) -> Ending {
        let ending = loop {
            self.wake.clear();
            let has_moved = self.turn();
            self.show_frames();
            if let Phase::Leaving { by, ending } = &self.clock.phase
                && (!self.has_unsent() || Instant::now() >= *by)
            {
                break ending.clone();
            }
            if !has_moved {
                self.wait();
            }
        };
        if self.settings.show.status {
            self.note(&self.talk.stats.to_string());
        }
        if let Some(terminal) = &mut self.terminal {
            self.output.reply(terminal.erase().into());
        }
        self.transport.shutdown_write();
        self.output.finish(PRINT_TIME);
        ending
    }

    /// Does all that can be done without waiting; `true` if there may be more.
    fn turn(&mut self) -> bool {
        let signals = self.signals.take();
        if signals > 0 {
            if signals > 1 || !matches!(self.clock.phase, Phase::Open) {
                self.leave(Ending::Interrupted);
                return false;
            }
            self.close(Code::NORMAL, "", Ending::Clean);
        }
        if self.output.is_closed() && matches!(self.clock.phase, Phase::Open) {
            // As with `head`: who has read enough is no error.
            self.close(Code::NORMAL, "", Ending::Clean);
        }
        let mut has_moved = self.read();
        self.hear();
        self.play();
        has_moved |= self.take_input();
        has_moved |= self.write();
        self.look_at_the_time();
        has_moved
    }

    // ---- in -----------------------------------------------------------------------------------------------------

    /// Whether what is heard has a place to go.
    fn has_room(&self) -> bool {
        !self.output.is_full() && self.script.as_ref().is_none_or(Script::has_room)
    }

    fn reads(&self) -> bool {
        !self.clock.is_deaf && self.has_room() && !self.talk.is_flooded()
    }

    fn read(&mut self) -> bool {
        if !self.reads() {
            return false;
        }
        let Self { transport, talk, .. } = self;
        match talk.arrive(|buffer| transport.read(buffer)) {
            Ok(0) => {
                self.clock.is_deaf = true;
                true
            }
            Ok(_) => {
                self.clock.has_read = true;
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => false,
            Err(_) => {
                self.clock.is_deaf = true;
                true
            }
        }
    }

    fn hear(&mut self) {
        let (replies, mut all) = (self.clock.replies, 0);
        while self.has_room() && !matches!(self.clock.phase, Phase::Leaving { .. }) {
            match self.talk.hear(Instant::now()) {
                Ok(Some(heard)) => {
                    all += 1;
                    self.tell(heard);
                }
                Ok(None) if self.clock.is_deaf => return self.end_of_stream(),
                Ok(None) => {
                    // Without anything whole it was a part of something.
                    if std::mem::take(&mut self.clock.has_read) && (all == 0 || self.clock.replies > replies)
                    {
                        self.clock.last_moved = Instant::now();
                    }
                    return;
                }
                Err(fault) => {
                    self.show_frames();
                    return self.leave(Ending::Broken(format!("the server broke a rule: {fault}")));
                }
            }
        }
    }

    fn tell(&mut self, heard: Heard) {
        self.show_frames();
        match &heard {
            Heard::Text(text) => self.reply(&Payload::Text(text.clone())),
            Heard::Binary(bytes) => self.reply(&Payload::Binary(bytes.clone())),
            Heard::Ping(payload) if self.settings.show.pings => {
                self.note(&format!("ping {}, answered", show::excerpt(payload, false)));
            }
            Heard::Pong(payload, took) => {
                let is_own = self.settings.ping_interval.is_some()
                    && *payload == self.clock.ping_number.to_string().as_bytes();
                if self.settings.show.pings || (self.settings.is_interactive && !is_own) {
                    let took = took.map_or("not asked for".to_owned(), milliseconds);
                    self.note(&format!("pong {}, {took}", show::excerpt(payload, false)));
                }
            }
            Heard::Ping(_) | Heard::Close(_) => {}
        }
        let is_reply = matches!(heard, Heard::Text(_) | Heard::Binary(_));
        let closed = if let Heard::Close(frame) = &heard { Some(frame.clone()) } else { None };
        if let Some(script) = &mut self.script {
            script.hear(heard);
        }
        if let Some(frame) = closed {
            self.is_closed_by_peer(frame.as_ref());
        } else if is_reply {
            self.clock.replies += 1;
            if self.settings.count == Some(self.clock.replies) && matches!(self.clock.phase, Phase::Open) {
                self.close(Code::NORMAL, "", Ending::Clean);
            }
        }
    }

    fn is_closed_by_peer(&mut self, frame: Option<&(Code, String)>) {
        self.clock.is_deaf = true;
        if let Phase::Closing { ending, .. } = &self.clock.phase {
            let ending = ending.clone();
            self.status(&match frame {
                Some((code, _)) => format!("closed: {code} {}", close_name(code.number())),
                None => "closed, without a code (1005)".into(),
            });
            return self.leave(ending);
        }
        if self.script.is_some() {
            return; // it may have been expected
        }
        let ending = match Ending::of_close(frame) {
            Ending::Clean if self.misses_replies() => {
                Ending::Broken(format!("{} after {}", describe_close(frame), self.replies_of_count()))
            }
            Ending::Clean => {
                self.status(&describe_close(frame));
                Ending::Clean
            }
            other => other,
        };
        self.leave(ending);
    }

    /// All was heard that was ever sent.
    fn end_of_stream(&mut self) {
        match &self.clock.phase {
            Phase::Closing { ending, .. } => {
                let ending = ending.clone();
                self.status("the connection ended, without an answer to our close");
                self.leave(ending);
            }
            _ if self.talk.is_raw() => {
                self.status("the server has ended the connection");
                let ending = if self.misses_replies() {
                    Ending::Broken(format!("the connection ended after {}", self.replies_of_count()))
                } else {
                    Ending::Clean
                };
                self.leave(ending);
            }
            _ => match &mut self.script {
                Some(script) => script.lose(),
                None => self.leave(Ending::Broken(
                    "the connection ended without a close (1006): the server, or a proxy, cut it".into(),
                )),
            },
        }
    }

    fn misses_replies(&self) -> bool {
        self.settings.count.is_some_and(|count| self.clock.replies < count)
    }

    fn replies_of_count(&self) -> String {
        format!("{} of {} replies", self.clock.replies, self.settings.count.unwrap_or_default())
    }

    // ---- out ----------------------------------------------------------------------------------------------------

    fn has_unsent(&self) -> bool {
        !self.clock.is_mute && (self.talk.unsent() > 0 || self.transport.has_unsent())
    }

    fn write(&mut self) -> bool {
        let mut has_moved = false;
        while self.talk.unsent() > 0 && !self.clock.is_mute {
            let Self { transport, talk, .. } = self;
            match talk.depart(|bytes| transport.write(bytes)) {
                Ok(_) => {
                    has_moved = true;
                    if self.clock.has_said {
                        self.clock.last_moved = Instant::now();
                        self.clock.has_said = self.talk.unsent() > 0;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return has_moved,
                Err(error) => {
                    // What the peer has still said is read first; it may say why.
                    if self.clock.is_deaf {
                        self.leave(Ending::Broken(format!("the connection broke: {error}")));
                    }
                    self.clock.is_mute = true;
                    return true;
                }
            }
        }
        match self.transport.flush() {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return has_moved,
            // Reading will tell why.
            Err(_) => self.clock.is_mute = true,
        }
        let is_at_end = self.clock.input_end.is_some() && self.talk.is_raw();
        if is_at_end && !std::mem::replace(&mut self.clock.is_half_closed, true) {
            self.transport.shutdown_write();
        }
        has_moved
    }

    fn take_input(&mut self) -> bool {
        let mut has_moved = false;
        while matches!(self.clock.phase, Phase::Open)
            && self.clock.input_end.is_none()
            && self.talk.unsent() < UNSENT_MAX
            && let Some(input) = self.inputs.as_ref().and_then(Inputs::take)
        {
            has_moved = true;
            match input {
                Input::Message(payload) => self.say(&payload),
                Input::Typed(line) => self.typed(&line),
                Input::Failed(error) => {
                    self.close(Code::NORMAL, "", Ending::Usage(format!("standard input: {error}")));
                }
                Input::End => self.ends_typing(),
            }
        }
        has_moved
    }

    /// What was typed since the last time. Keys are looked at even when nothing can be sent, or Ctrl-C would be in vain.
    fn read_keys(&mut self) {
        let Some(terminal) = &mut self.terminal else { return };
        match terminal.read() {
            Ok(Some((typed, out))) => {
                self.output.reply(out.into());
                for typed in typed {
                    match typed {
                        Typed::Line(line) if matches!(self.clock.phase, Phase::Open) => self.typed(&line),
                        Typed::Line(_) | Typed::Clear => {}
                        Typed::Suspend => {
                            let out = self.terminal.as_mut().map(Terminal::suspend).unwrap_or_default();
                            self.output.reply(out.into());
                        }
                        Typed::End if matches!(self.clock.phase, Phase::Open) => self.ends_typing(),
                        // Once more: it takes too long.
                        Typed::End => self.leave(Ending::Interrupted),
                    }
                }
            }
            Ok(None) => self.ends_typing(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // It has hung up.
            Err(_) => self.leave(Ending::Clean),
        }
    }

    fn typed(&mut self, line: &str) {
        match command::parse(line, self.talk.is_raw()) {
            Ok(command) => self.obey(command),
            Err(error) => self.note(&error),
        }
    }

    fn ends_typing(&mut self) {
        if self.settings.is_interactive && !self.talk.is_raw() {
            self.close(Code::NORMAL, "", Ending::Clean);
        } else {
            self.has_said_all();
        }
    }

    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Send(payload) => self.say(&payload),
            Command::Ping(payload) => self.talk.ping(&payload, now),
            Command::Pong(payload) => self.talk.control(Opcode::Pong, &payload),
            Command::Close(code, reason) => self.close(code, &reason, Ending::Clean),
            Command::Stats => self.note(&self.talk.stats.to_string()),
            Command::Help => self.note(command::HELP),
            Command::Time(on) => self.settings.show.time = on,
            Command::Pings(on) => self.settings.show.pings = on,
            Command::Frames(on) => {
                self.talk.watch_frames(on);
            }
            Command::Nothing => {}
        }
    }

    /// Sends a message.
    pub(super) fn say(&mut self, payload: &Payload) {
        self.talk.say(payload, Instant::now());
        self.clock.has_said = true;
    }

    /// There is nothing more to say.
    pub(super) fn has_said_all(&mut self) {
        self.clock.input_end = Some(Instant::now());
    }

    /// Says what the script says.
    fn play(&mut self) {
        while matches!(self.clock.phase, Phase::Open | Phase::Closing { .. })
            && let Some(script) = &mut self.script
        {
            let now = Instant::now();
            match script.next(now) {
                Next::Send(payload) => self.say(&payload),
                Next::Ping(payload) => self.talk.ping(&payload, now),
                Next::Close(code, reason) => {
                    self.talk.close(Some(CloseFrame { code, reason: &reason }));
                }
                Next::Wait(until) => {
                    self.clock.script_wait = Some(until);
                    return;
                }
                Next::Failed(text) => {
                    self.script = None;
                    self.close(Code::NORMAL, "", Ending::Unmet(text));
                }
                Next::Done => {
                    self.script = None;
                    self.close(Code::NORMAL, "", Ending::Clean);
                }
            }
        }
    }

    // ---- the end ------------------------------------------------------------------------------------------------

    /// Begins the closing handshake, unless the end has begun.
    fn close(&mut self, code: Code, reason: &str, ending: Ending) {
        if !matches!(self.clock.phase, Phase::Open) {
            return;
        }
        if self.clock.is_deaf || self.talk.is_raw() {
            return self.leave(ending);
        }
        self.talk.close(Some(CloseFrame { code, reason }));
        self.clock.phase = Phase::Closing { by: Instant::now() + CLOSE_TIME, ending };
    }

    fn leave(&mut self, ending: Ending) {
        if !matches!(self.clock.phase, Phase::Leaving { .. }) || ending == Ending::Interrupted {
            self.clock.phase = Phase::Leaving { by: Instant::now() + LEAVE_TIME, ending };
        }
    }

    /// What is due; each wait is found again in `deadline`.
    fn look_at_the_time(&mut self) {
        let now = Instant::now();
        match &self.clock.phase {
            Phase::Open => {}
            Phase::Closing { by, ending } if now >= *by => {
                let ending = ending.clone();
                self.status("the server has not answered our close");
                return self.leave(ending);
            }
            Phase::Closing { .. } | Phase::Leaving { .. } => return,
        }
        if self.settings.max_time.is_some_and(|time| now >= self.clock.begun + time) {
            let text = "the time of --max-time is over".to_owned();
            return self.close(Code::NORMAL, "", Ending::TimedOut(text));
        }
        if self.silence_ends().is_some_and(|end| now >= end) {
            let ending = if self.misses_replies() {
                let wait = humantime::format_duration(self.settings.wait);
                Ending::TimedOut(format!("{}, and {wait} of silence", self.replies_of_count()))
            } else {
                Ending::Clean
            };
            return self.close(Code::NORMAL, "", ending);
        }
        if let Some(interval) = self.settings.ping_interval
            && now >= self.clock.last_ping + interval
        {
            // Who does not read cannot see a pong.
            if self.reads() && self.talk.oldest_ping().is_some_and(|since| now - since >= interval) {
                let text = format!("no pong within {}", humantime::format_duration(interval));
                return self.close(Code::NORMAL, "", Ending::TimedOut(text));
            }
            self.clock.last_ping = now;
            self.clock.ping_number += 1;
            self.talk.ping(self.clock.ping_number.to_string().as_bytes(), now);
        }
    }

    /// When it was silent for long enough, after all was said.
    fn silence_ends(&self) -> Option<Instant> {
        let end = self.clock.input_end?;
        if self.talk.unsent() > 0 || !self.has_room() {
            return None;
        }
        end.max(self.clock.last_moved).checked_add(self.settings.wait)
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.clock.phase {
            Phase::Closing { by, .. } | Phase::Leaving { by, .. } => Some(*by),
            Phase::Open => [
                self.settings.max_time.and_then(|time| self.clock.begun.checked_add(time)),
                self.silence_ends(),
                self.settings.ping_interval.and_then(|interval| self.clock.last_ping.checked_add(interval)),
            ]
            .into_iter()
            .flatten()
            .min(),
        }
    }

    fn wait(&mut self) {
        let deadline = [self.deadline(), self.clock.script_wait.take()].into_iter().flatten().min();
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.reads());
        flags.set(PollFlags::OUT, self.has_unsent());
        let stdout = std::io::stdout();
        let mut wanted = vec![(self.wake.as_fd(), PollFlags::IN), (self.signals.as_fd(), PollFlags::IN)];
        let typed = self.terminal.as_ref().map(|terminal| {
            wanted.push((terminal.as_fd(), PollFlags::IN));
            wanted.len() - 1
        });
        // Of a socket that is not read, the end would be told again and again.
        if !flags.is_empty() {
            wanted.push((self.transport.as_fd(), flags));
        }
        let watches_stdout = !self.settings.is_interactive && !self.output.is_closed();
        if watches_stdout {
            wanted.push((stdout.as_fd(), PollFlags::empty()));
        }
        // A wait that fails would be tried again at once, so nothing is lost but time.
        let Ok(happened) = wait(&wanted, deadline) else { return };
        if watches_stdout && happened.last().is_some_and(|flags| flags.contains(PollFlags::ERR)) {
            self.output.close();
        }
        if typed.is_some_and(|at| !happened[at].is_empty()) {
            self.read_keys();
        }
    }

    // ---- shown --------------------------------------------------------------------------------------------------

    fn reply(&mut self, payload: &Payload) {
        let Settings { is_interactive, is_binary, delimiter, show, .. } = self.settings;
        let time = if show.time { format!("{} ", time()) } else { String::new() };
        let mut out = time.into_bytes();
        match payload {
            Payload::Binary(bytes) if is_interactive && self.talk.is_raw() => {
                out.extend(show::printable(&String::from_utf8_lossy(bytes)).bytes());
            }
            Payload::Text(text) if is_interactive => {
                out.extend(format!("< {}\n", show::printable(text)).bytes());
            }
            Payload::Binary(bytes) if is_interactive => {
                out.extend(format!("< binary, {} bytes\n", bytes.len()).bytes());
                if !bytes.is_empty() {
                    out.extend(format!("{}\n", show::dump(bytes, DUMP_MAX)).bytes());
                }
            }
            payload if is_binary => out.extend_from_slice(payload.bytes()),
            Payload::Text(text) => {
                out.extend_from_slice(text.as_bytes());
                out.push(delimiter);
            }
            Payload::Binary(bytes) => {
                out.extend(show::hex(bytes).bytes());
                out.push(delimiter);
            }
        }
        if let Some(terminal) = &mut self.terminal {
            out = terminal.above(&String::from_utf8_lossy(&out)).into();
        }
        self.output.reply(out);
    }

    fn show_frames(&mut self) {
        for line in self.talk.frames() {
            self.note(&line);
        }
    }

    /// Says how it goes, to who wants to know.
    pub(super) fn status(&mut self, text: &str) {
        if self.settings.show.status {
            self.note(text);
        }
    }

    /// A head of the handshake, line by line.
    pub(super) fn show_head(&mut self, arrow: char, head: &[u8]) {
        for line in String::from_utf8_lossy(head).trim_end().lines() {
            self.note(&format!("{arrow} {}", show::printable(line)));
        }
    }

    fn note(&mut self, text: &str) {
        let time = if self.settings.show.time { format!("{} ", time()) } else { String::new() };
        let line = if self.settings.show.color {
            format!("\x1b[2m{time}{text}\x1b[0m")
        } else {
            format!("{time}{text}")
        };
        match &mut self.terminal {
            Some(terminal) => self.output.reply(terminal.above(&line).into()),
            None => self.output.note(line),
        }
    }
}

/// What is shown of a binary message.
const DUMP_MAX: usize = 1024;
/// How much waits to be sent before nothing more is taken to be sent.
const UNSENT_MAX: usize = 256 << 10;
/// How long a close may take to be answered.
const CLOSE_TIME: Duration = Duration::from_secs(3);
/// How long the last bytes may take.
const LEAVE_TIME: Duration = Duration::from_secs(1);
/// How long who reads our output may take at the end.
const PRINT_TIME: Duration = Duration::from_secs(2);

/// The time of day, in UTC.
fn time() -> String {
    let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    now[11..23].to_owned()
}
