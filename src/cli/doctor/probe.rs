//! What a probe is, what it finds, and what it talks by.

use std::{
    cell::RefCell,
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::ClientConfig;
use sha1::{Digest, Sha1};

use super::{
    answer::Answer,
    client::{Connection, Log, Trouble},
    frame::{CLOSE, FIN, PING, PONG, TEXT, masked},
    head::Head,
    target::Target,
};

/// One rule, and how to see whether a server keeps it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    /// `section/name`. It never changes once released.
    pub(crate) id: &'static str,
    pub(crate) level: Level,
    /// Where the rule stands, such as `RFC 9110 7.8`.
    pub(crate) rule: &'static str,
    /// What has to be so for the probe to say anything.
    pub(crate) needs: &'static [Need],
    /// What it sends, and what it expects.
    pub(crate) what: &'static str,
    /// What a failure means to a user.
    pub(crate) means: &'static str,
    /// What is likely to help.
    pub(crate) cure: &'static str,
    pub(crate) judge: fn(&Talk<'_>) -> Judgement,
}

impl Probe {
    pub(crate) fn section(&self) -> &'static str {
        self.id.split('/').next().unwrap_or_default()
    }
}

/// How binding a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    /// What an RFC demands.
    Must,
    /// What an RFC recommends, or what clients rely on.
    Should,
    /// What experience teaches.
    Advice,
}

impl Level {
    pub(crate) const ALL: [Self; 3] = [Self::Must, Self::Should, Self::Advice];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::Advice => "advice",
        }
    }
}

/// What has to be so for a probe to say anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The protocol asked for is `websocket`.
    WebSocket,
    /// What is sent comes back.
    Echo,
    /// permessage-deflate is agreed to.
    Deflate,
    /// The server switches to `h2c`.
    H2c,
    /// The connection is not over TLS.
    Cleartext,
    /// The connection is over TLS.
    Tls,
    /// A subprotocol that the server speaks was named.
    Subprotocol,
    /// Bytes come back as they are, without frames.
    RawEcho,
    /// There is time for it: `--slow`.
    Slow,
}

/// What is known of the server before the probes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Messages (or bytes) come back.
    pub(crate) echoes: bool,
    /// A ping is answered.
    pub(crate) pongs: bool,
    /// What was agreed to when permessage-deflate was offered.
    pub(crate) deflate: Option<String>,
    /// It switches to h2c.
    pub(crate) h2c: bool,
    /// It sends something before it is asked.
    pub(crate) greets: bool,
}

/// What is asked of the doctor.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) target: Target,
    pub(crate) address: SocketAddr,
    /// The token that is offered.
    pub(crate) token: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) subprotocol: Option<String>,
    pub(crate) time: Duration,
    /// For how long a server may wait for half a head.
    pub(crate) head_time_max: Duration,
    pub(crate) slow: bool,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Setting {
    pub(crate) fn is_websocket(&self) -> bool {
        self.token == "websocket"
    }
}

/// What came, if all was well; else what is wrong.
pub(crate) type Judgement = Result<String, Finding>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The rule is broken: what came instead.
    Failed(String),
    /// It does not apply here.
    Skipped(String),
    /// It could not be seen.
    Unclear(String),
}

pub(crate) fn failed<T>(what: impl Into<String>) -> Result<T, Finding> {
    Err(Finding::Failed(what.into()))
}

/// A probe's means to talk.
pub(crate) struct Talk<'a> {
    pub(crate) setting: &'a Setting,
    pub(crate) known: &'a Known,
    logs: RefCell<Vec<Log>>,
}

/// A connection that a probe has, whose log is kept.
pub(crate) struct Line<'t> {
    connection: Option<Connection>,
    logs: &'t RefCell<Vec<Log>>,
}

impl std::ops::Deref for Line<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("it is taken when it is dropped only")
    }
}

impl std::ops::DerefMut for Line<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("it is taken when it is dropped only")
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.logs.borrow_mut().push(connection.log);
        }
    }
}

impl<'a> Talk<'a> {
    pub(crate) fn new(setting: &'a Setting, known: &'a Known) -> Self {
        Self { setting, known, logs: RefCell::default() }
    }

    /// What went over the lines that are closed.
    pub(crate) fn into_logs(self) -> Vec<Log> {
        self.logs.into_inner()
    }

    pub(crate) fn connect(&self) -> Result<Line<'_>, Finding> {
        let Setting { target, address, time, tls, .. } = self.setting;
        let mut opened = Connection::open(*address, *time);
        if let Some(config) = tls {
            opened = opened.and_then(|connection| connection.secure(config, &target.host));
        }
        match opened {
            Ok(connection) => Ok(Line { connection: Some(connection), logs: &self.logs }),
            Err(error) => Err(Finding::Unclear(format!("cannot connect: {error}"))),
        }
    }

    /// A request without an offer.
    pub(crate) fn plain(&self) -> Head {
        let target = &self.setting.target;
        let head = Head::get(&target.path).add("Host", &target.authority());
        self.setting.fields.iter().fold(head, |head, (name, value)| head.set(name, value))
    }

    /// A good offer of the protocol that is asked for.
    pub(crate) fn offer(&self) -> Head {
        let target = &self.setting.target;
        let mut head = Head::get(&target.path).add("Host", &target.authority());
        head = match self.setting.token.as_str() {
            "h2c" => with_h2c(head),
            token => head.add("Upgrade", token).add("Connection", "Upgrade"),
        };
        if self.setting.is_websocket() {
            head = head.add("Sec-WebSocket-Key", &key()).add("Sec-WebSocket-Version", "13");
        }
        self.setting.fields.iter().fold(head, |head, (name, value)| head.set(name, value))
    }

    /// A good offer of h2c, whatever protocol is asked for.
    pub(crate) fn h2c_offer(&self) -> Head {
        with_h2c(self.plain())
    }

    /// Sends a head and reads what is answered.
    pub(crate) fn ask(&self, head: &Head) -> Result<(Line<'_>, Answered), Finding> {
        self.ask_raw(&head.bytes())
    }

    pub(crate) fn ask_raw(&self, bytes: &[u8]) -> Result<(Line<'_>, Answered), Finding> {
        let mut line = self.connect()?;
        line.send(bytes);
        let answered = Answered(line.answer());
        Ok((line, answered))
    }

    /// A line that was switched by a good offer.
    pub(crate) fn switched(&self) -> Result<Line<'_>, Finding> {
        self.switched_by(&self.offer()).map(|(line, _)| line)
    }

    pub(crate) fn switched_by(&self, head: &Head) -> Result<(Line<'_>, Answer), Finding> {
        let (line, answered) = self.ask(head)?;
        match answered.0 {
            Ok(answer) if answer.status == 101 => Ok((line, answer)),
            Ok(answer) => Err(Finding::Unclear(format!("the handshake before it got {}", answer.brief()))),
            Err(trouble) => Err(Finding::Unclear(format!("the handshake before it got: {trouble}"))),
        }
    }

    /// Switches, and sends frames.
    pub(crate) fn frames(&self, frames: &[&[u8]]) -> Result<Line<'_>, Finding> {
        let mut line = self.switched()?;
        line.send(&frames.concat());
        Ok(line)
    }

    /// The server goes on: a ping, or a message where pings are not answered, comes back.
    pub(crate) fn goes_on(&self, line: &mut Connection) -> Result<(), Trouble> {
        let (sent, expected) = self.sentinel();
        line.send(&sent);
        loop {
            let frame = line.frame()?;
            if (frame.opcode(), &frame.payload[..]) == (expected, SENTINEL) {
                return Ok(());
            }
            if frame.opcode() == CLOSE {
                return Err(Trouble::Malformed(frame.brief()));
            }
        }
    }

    /// What has an answer on a connection that works, and the opcode of the answer.
    fn sentinel(&self) -> (Vec<u8>, u8) {
        if self.known.pongs || !self.known.echoes {
            (masked(FIN | PING, SENTINEL), PONG)
        } else {
            (masked(FIN | TEXT, SENTINEL), TEXT)
        }
    }

    /// The connection has to end, by a close frame or without.
    pub(crate) fn gives_up(&self, line: &mut Connection, code: u16) -> Judgement {
        let noted =
            |found: u16| if found == code { String::new() } else { format!(" ({code} says it better)") };
        // First without another word: what is sent to a closed socket can cost the close frame.
        let mut came = Vec::new();
        let mut asked = false;
        let quiet = line.time().min(QUIET);
        let begun = Instant::now();
        loop {
            let limit = if asked { quiet + line.time() } else { quiet };
            match line.frame_by(begun + limit) {
                Ok(frame) if frame.opcode() == CLOSE => {
                    let note = frame.close_code().map_or_else(String::new, noted);
                    return Ok(format!("{}{note}", frame.brief()));
                }
                Ok(frame) if asked && frame.payload == SENTINEL => {
                    came.push("it goes on as if nothing had happened".to_owned());
                    return failed(came.join(", then "));
                }
                Ok(frame) if came.len() < 3 => came.push(frame.brief()),
                Ok(_) => {}
                Err(Trouble::Closed) => return Ok("closed without a close frame".into()),
                Err(Trouble::Reset) => return Ok("reset without a close frame".into()),
                Err(Trouble::Silence(_)) if !asked => {
                    asked = true;
                    line.send(&self.sentinel().0);
                }
                Err(trouble) => {
                    came.push(format!("{trouble}, and the connection stays open"));
                    return failed(came.join(", then "));
                }
            }
        }
    }
}

/// How long a server has to close by itself before it is asked whether it goes on.
const QUIET: Duration = Duration::from_millis(250);
const SENTINEL: &[u8] = b"still there?";

/// What came of a request.
pub(crate) struct Answered(pub(crate) Result<Answer, Trouble>);

impl Answered {
    /// It must not be a 101; nothing at all, or a close, is as good.
    pub(crate) fn not_switched(&self) -> Judgement {
        match &self.0 {
            Ok(answer) if answer.status == 101 => failed(answer.brief()),
            Ok(answer) => Ok(answer.brief()),
            Err(trouble) => Ok(trouble.to_string()),
        }
    }

    /// It must be an answer of HTTP that is an error.
    pub(crate) fn refused(&self) -> Judgement {
        match &self.0 {
            Ok(answer) if (400..600).contains(&answer.status) => Ok(answer.brief()),
            Ok(answer) => failed(answer.brief()),
            Err(trouble) => failed(trouble.to_string()),
        }
    }

    /// It must be a 101.
    pub(crate) fn accepted(&self) -> Judgement {
        match &self.0 {
            Ok(answer) if answer.status == 101 => Ok(answer.brief()),
            Ok(answer) => failed(answer.brief()),
            Err(trouble) => failed(trouble.to_string()),
        }
    }

    /// It must be an answer of HTTP.
    pub(crate) fn answered(&self) -> Result<&Answer, Finding> {
        self.0.as_ref().map_err(|trouble| Finding::Failed(trouble.to_string()))
    }
}

/// A key that was not used before (RFC 6455 4.1).
pub(crate) fn key() -> String {
    let mut bytes = [0; 16];
    for half in bytes.chunks_mut(8) {
        half.copy_from_slice(&RandomState::new().hash_one(0).to_ne_bytes());
    }
    STANDARD.encode(bytes)
}

/// What proves that the server has read the key (RFC 6455 4.2.2).
pub(crate) fn accept_of(key: &str) -> String {
    STANDARD
        .encode(Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize())
}

fn with_h2c(head: Head) -> Head {
    head.add("Connection", "Upgrade, HTTP2-Settings")
        .add("Upgrade", "h2c")
        .add("HTTP2-Settings", H2C_SETTINGS)
}

/// MAX_CONCURRENT_STREAMS 100, INITIAL_WINDOW_SIZE 65535: what nghttp sends.
pub(crate) const H2C_SETTINGS: &str = "AAMAAABkAAQAAP__";

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn the_accept_is_that_of_rfc_6455_1_3() {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_ne!(key(), key());
        assert_eq!(STANDARD.decode(key()).unwrap().len(), 16);
    }
}
