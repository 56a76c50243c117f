//! A conversation that was written down: what to say, and what has to be answered.
//!
//! A step a line; `#` begins a comment. A step that waits has a limit. The first one that is not met ends the script.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use regex_lite::{Regex, RegexBuilder};
use switchpoint::ws::Code;

use super::{
    command,
    ending::describe_close,
    show,
    talk::{Heard, Payload},
};

/// The steps, and how far it is.
#[derive(Debug)]
pub(super) struct Script {
    steps: VecDeque<Step>,
    /// What was heard and not looked at.
    heard: VecDeque<Heard>,
    /// How the connection has ended.
    end: Option<End>,
    /// The payloads of pongs that answered.
    pongs: VecDeque<Vec<u8>>,
    /// How long a step waits.
    limit: Duration,
    /// When the current step began to wait.
    since: Option<Instant>,
}

#[derive(Debug)]
struct Step {
    line: usize,
    verb: Verb,
}

#[derive(Debug)]
enum Verb {
    Send(Payload),
    Ping(Vec<u8>),
    /// The second half of a ping.
    AwaitPong(Vec<u8>),
    Close(Code, String),
    Sleep(Duration),
    Limit(Duration),
    /// The next message is this.
    Expect(Expected),
    /// Some message to come is this.
    Await(Expected),
    /// The peer closes; with this code, if there is one.
    ExpectClose(Option<u16>),
}

#[derive(Debug)]
enum Expected {
    Text(String),
    Matching(Regex),
    Binary(Vec<u8>),
}

#[derive(Debug)]
enum End {
    Closed(Option<(Code, String)>),
    Lost,
}

/// What has to be done for the script to go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Send(Payload),
    Ping(Vec<u8>),
    Close(Code, String),
    /// Nothing, until something is heard, or it is this late.
    Wait(Instant),
    /// All steps are done.
    Done,
    /// A step was not met.
    Failed(String),
}

impl Script {
    /// Reads the steps. `limit` is how long each waits.
    pub(super) fn parse(text: &str, limit: Duration) -> Result<Self, String> {
        let mut steps = VecDeque::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let verb = Verb::parse(line).map_err(|error| format!("script, line {}: {error}", at + 1))?;
            steps.push_back(Step { line: at + 1, verb });
        }
        Ok(Self { steps, heard: VecDeque::new(), end: None, pongs: VecDeque::new(), limit, since: None })
    }

    /// Takes what was heard.
    pub(super) fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Text(_) | Heard::Binary(_) => self.heard.push_back(heard),
            Heard::Pong(payload, Some(_)) => {
                if self.pongs.len() == HEARD_MAX {
                    self.pongs.pop_front();
                }
                self.pongs.push_back(payload);
            }
            Heard::Ping(_) | Heard::Pong(_, None) => {}
            Heard::Close(frame) => self.end = self.end.take().or(Some(End::Closed(frame))),
        }
    }

    /// The connection has ended; without a close, if there was none before.
    pub(super) fn lose(&mut self) {
        self.end.get_or_insert(End::Lost);
    }

    /// Whether more may be heard.
    pub(super) fn has_room(&self) -> bool {
        self.heard.len() < HEARD_MAX
    }

    /// What comes next.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        while let Some(step) = self.steps.front() {
            let since = *self.since.get_or_insert(now);
            let (line, limit) = (step.line, self.limit);
            let unmet = |expected: &dyn fmt::Display, got: &str| {
                Next::Failed(format!("script, line {line}: expected {expected}, got {got}"))
            };
            let is_over = self.end.is_some();
            match &step.verb {
                Verb::Send(_) | Verb::Ping(_) | Verb::Close(..) if is_over => {
                    return unmet(&"an open connection", &self.describe_end());
                }
                Verb::Send(payload) => {
                    let next = Next::Send(payload.clone());
                    self.advance();
                    return next;
                }
                Verb::Close(code, reason) => {
                    let next = Next::Close(*code, reason.clone());
                    self.advance();
                    return next;
                }
                Verb::Ping(payload) => {
                    let payload = payload.clone();
                    self.pongs.clear();
                    self.steps[0].verb = Verb::AwaitPong(payload.clone());
                    return Next::Ping(payload);
                }
                Verb::AwaitPong(payload) if self.pongs.contains(payload) => self.advance(),
                Verb::AwaitPong(_) if is_over => return unmet(&"a pong", &self.describe_end()),
                Verb::AwaitPong(_) if now >= since + limit => return unmet(&"a pong", &nothing(limit)),
                Verb::AwaitPong(_) => return Next::Wait(since + limit),
                Verb::Limit(limit) => {
                    self.limit = *limit;
                    self.advance();
                }
                Verb::Sleep(time) => {
                    if now < since + *time {
                        return Next::Wait(since + *time);
                    }
                    self.advance();
                }
                Verb::Expect(expected) | Verb::Await(expected) => {
                    let skips = matches!(step.verb, Verb::Await(_));
                    let mut is_met = false;
                    while !is_met && let Some(heard) = self.heard.pop_front() {
                        is_met = expected.is_met_by(&heard);
                        if !is_met && !skips {
                            return unmet(expected, &describe(&heard));
                        }
                    }
                    if is_met {
                        self.advance();
                    } else if is_over {
                        return unmet(expected, &self.describe_end());
                    } else if now >= since + limit {
                        return unmet(expected, &nothing(limit));
                    } else {
                        return Next::Wait(since + limit);
                    }
                }
                Verb::ExpectClose(code) => {
                    let wanted = code.map_or("a close".to_owned(), |code| format!("a close with {code}"));
                    // Messages before it were not asked for, and do no harm.
                    self.heard.clear();
                    match &self.end {
                        Some(end) if end.is(*code) => self.advance(),
                        Some(_) => return unmet(&wanted, &self.describe_end()),
                        None if now >= since + limit => return unmet(&wanted, &nothing(limit)),
                        None => return Next::Wait(since + limit),
                    }
                }
            }
        }
        Next::Done
    }

    fn advance(&mut self) {
        self.steps.pop_front();
        self.since = None;
    }

    fn describe_end(&self) -> String {
        match &self.end {
            Some(End::Closed(frame)) => describe_close(frame.as_ref()),
            Some(End::Lost) => "the end of the connection, without a close (1006)".into(),
            None => "an open connection".into(),
        }
    }
}

fn nothing(limit: Duration) -> String {
    format!("nothing within {}", humantime::format_duration(limit))
}

/// What is heard and not looked at, at most.
const HEARD_MAX: usize = 1024;

impl Verb {
    fn parse(line: &str) -> Result<Self, String> {
        let (name, argument) = line.split_once(' ').unwrap_or((line, ""));
        let time =
            |text: &str| humantime::parse_duration(text.trim()).map_err(|error| format!("{text:?}: {error}"));
        Ok(match name {
            "send" => Self::Send(Payload::Text(argument.to_owned())),
            "send-binary" => Self::Send(Payload::Binary(command::bytes(argument.trim())?)),
            "send-file" => Self::Send(command::file(argument.trim())?),
            "expect" => Self::Expect(Expected::parse(argument)?),
            "expect-binary" => Self::Expect(Expected::Binary(command::bytes(argument.trim())?)),
            "await" => Self::Await(Expected::parse(argument)?),
            "await-binary" => Self::Await(Expected::Binary(command::bytes(argument.trim())?)),
            "expect-close" if argument.trim().is_empty() => Self::ExpectClose(None),
            "expect-close" => Self::ExpectClose(Some(argument.trim().parse().map_err(|_| {
                format!("{argument:?} is no code; 1005 stands for none, 1006 for a lost connection")
            })?)),
            "ping" => Self::Ping(command::control(argument)?),
            "close" => {
                let (code, reason) = command::close(argument.trim())?;
                Self::Close(code, reason)
            }
            "sleep" => Self::Sleep(time(argument)?),
            "timeout" => Self::Limit(time(argument)?),
            _ => {
                return Err(format!(
                    "{name:?} is no step; the steps are send, send-binary, send-file, expect, expect-binary, \
                     expect-close, await, await-binary, ping, sleep, timeout and close"
                ));
            }
        })
    }
}

impl Expected {
    /// `/…/` is a regular expression, `/…/i` one that does not care for case; all else is the text itself.
    fn parse(text: &str) -> Result<Self, String> {
        let pattern = text.strip_prefix('/').and_then(|rest| {
            let (pattern, flags) = rest.rsplit_once('/')?;
            matches!(flags.trim_end(), "" | "i").then_some((pattern, !flags.trim_end().is_empty()))
        });
        match pattern {
            Some((pattern, ignores_case)) => RegexBuilder::new(pattern)
                .case_insensitive(ignores_case)
                .build()
                .map(Self::Matching)
                .map_err(|error| error.to_string()),
            None => Ok(Self::Text(text.to_owned())),
        }
    }

    fn is_met_by(&self, heard: &Heard) -> bool {
        match (self, heard) {
            (Self::Text(wanted), Heard::Text(text)) => wanted == text,
            (Self::Matching(regex), Heard::Text(text)) => regex.is_match(text),
            (Self::Binary(wanted), Heard::Binary(bytes)) => wanted == bytes,
            _ => false,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Matching(regex) => write!(f, "/{regex}/"),
            Self::Binary(bytes) => write!(f, "the bytes {}", cut(show::hex(bytes))),
        }
    }
}

impl End {
    fn is(&self, code: Option<u16>) -> bool {
        match (self, code) {
            (Self::Closed(_), None) => true,
            (Self::Closed(frame), Some(code)) => {
                frame.as_ref().map_or(1005, |(code, _)| code.number()) == code
            }
            (Self::Lost, code) => code == Some(1006),
        }
    }
}

fn describe(heard: &Heard) -> String {
    match heard {
        Heard::Text(text) => cut(format!("{text:?}")),
        Heard::Binary(bytes) => format!("the bytes {}", cut(show::hex(bytes))),
        other => format!("{other:?}"),
    }
}

/// Not more of something than fits into a message for people.
fn cut(text: String) -> String {
    match text.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    fn script(text: &str) -> Script {
        Script::parse(text, LIMIT).unwrap()
    }

    fn text(text: &str) -> Heard {
        Heard::Text(text.into())
    }

    fn failed(next: Next) -> String {
        match next {
            Next::Failed(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_said_is_answered_in_order() {
        let mut script =
            script("# a comment\n\nsend hi  there \nexpect hi\n  expect /^b.d$/\nexpect /BAD/i\r\n");
        let now = Instant::now();
        assert_eq!(script.next(now), Next::Send(Payload::Text("hi  there ".into())));
        assert_eq!(script.next(now), Next::Wait(now + LIMIT));
        for heard in ["hi", "bad", "bad"] {
            script.hear(text(heard));
        }
        assert_eq!(script.next(now), Next::Done);
    }

    #[test]
    fn what_is_not_met_says_the_line_and_both_sides() {
        let now = Instant::now();
        let unmet = |steps: &str, heard: &[Heard]| {
            let mut script = script(steps);
            heard.iter().for_each(|heard| script.hear(heard.clone()));
            failed(script.next(now))
        };
        assert_eq!(unmet("\nexpect a", &[text("b")]), "script, line 2: expected \"a\", got \"b\"");
        assert_eq!(unmet("expect /a/", &[text("b")]), "script, line 1: expected /a/, got \"b\"");
        let bytes = Heard::Binary(vec![0x61]);
        assert_eq!(unmet("expect a", &[bytes]), "script, line 1: expected \"a\", got the bytes 61");
        let closed = Heard::Close(Code::new(1008).map(|code| (code, "no".to_owned())));
        let got = "got closed by the server: 1008 policy violation, \"no\"";
        assert_eq!(
            unmet("expect a", std::slice::from_ref(&closed)),
            format!("script, line 1: expected \"a\", {got}")
        );
        assert_eq!(
            unmet("expect-close 1000", std::slice::from_ref(&closed)),
            format!("script, line 1: expected a close with 1000, {got}")
        );
        assert_eq!(unmet("send a", &[closed]), format!("script, line 1: expected an open connection, {got}"));
    }

    #[test]
    fn a_wait_has_a_limit_which_can_be_set() {
        let now = Instant::now();
        for step in ["expect a", "await a", "expect-close", "ping"] {
            let mut script = script(&format!("timeout 100ms\n{step}"));
            if step == "ping" {
                assert_eq!(script.next(now), Next::Ping(vec![]));
            }
            let late = now + Duration::from_millis(100);
            assert_eq!(script.next(now), Next::Wait(late), "{step}");
            assert!(failed(script.next(late)).ends_with("got nothing within 100ms"), "{step}");
        }
    }

    #[test]
    fn await_skips_what_it_is_not_and_expect_does_not() {
        let now = Instant::now();
        let mut script = script("await c\nexpect d\nawait-binary ff");
        for heard in ["a", "b", "c", "d", "e"] {
            script.hear(text(heard));
        }
        script.hear(Heard::Binary(vec![255]));
        assert_eq!(script.next(now), Next::Done);
    }

    #[test]
    fn a_ping_waits_for_its_own_pong() {
        let now = Instant::now();
        let mut script = script("ping a\nsleep 10ms");
        assert_eq!(script.next(now), Next::Ping(b"a".into()));
        script.hear(Heard::Pong(b"a".into(), None));
        script.hear(Heard::Pong(b"b".into(), Some(LIMIT)));
        assert!(matches!(script.next(now), Next::Wait(_)));
        script.hear(Heard::Pong(b"a".into(), Some(LIMIT)));
        let awake = now + Duration::from_millis(10);
        assert_eq!(script.next(now), Next::Wait(awake));
        assert_eq!(script.next(awake), Next::Done);
    }

    #[test]
    fn every_end_of_a_connection_can_be_expected() {
        let now = Instant::now();
        for (step, end, is_met) in [
            ("expect-close", Some(None), true),
            ("expect-close 1005", Some(None), true),
            ("expect-close 1000", Some(None), false),
            ("expect-close 1000", Some(Some(1000)), true),
            ("expect-close 1006", Some(Some(1000)), false),
            ("expect-close 1006", None, true),
            ("expect-close", None, false),
        ] {
            let mut script = script(step);
            match end {
                Some(code) => {
                    let code = code.and_then(Code::new);
                    script.hear(Heard::Close(code.map(|code| (code, String::new()))));
                    script.lose();
                }
                None => script.lose(),
            }
            assert_eq!(script.next(now) == Next::Done, is_met, "{step} {end:?}");
        }
    }

    #[test]
    fn what_is_no_step_is_said_with_its_line() {
        for (text, hint) in [
            ("send a\nsay b", "line 2: \"say\" is no step"),
            ("expect /(/", "line 1"),
            ("send-binary xy", "hex"),
            ("sleep long", "line 1"),
            ("close 1006", "4000"),
            ("expect-close x", "1005"),
        ] {
            let error = Script::parse(text, LIMIT).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
