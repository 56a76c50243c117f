//! `websocket` (RFC 6455): what a handshake has to have, and what is settled by it.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | settings, and the handshake's rules (4.2) |
//! | `origin.rs` | whose pages may connect (10.2) |
//! | `socket.rs` | what a message handler sees |
//! | `shared.rs` | what handler and driver have in common: bytes on their way, and who waits for what |
//! | `batch.rs` | what has arrived in a large buffer, read at once and lent to who sends it on |
//! | `queue.rs` | frames that wait to be sent, some of them where they arrived |
//! | `client.rs` | the other role: connects, asks, and runs the same driver |
//! | `driver.rs` | the one task of a connection: reads, pings, writes, closes |

mod batch;
mod client;
mod driver;
mod origin;
mod queue;
mod shared;
mod socket;

use std::{
    hash::{BuildHasher, RandomState},
    rc::Rc,
    time::Duration,
};

pub(crate) use batch::{Batch, Inbound};
pub use client::Client;
pub use origin::Origins;
pub(crate) use queue::Unsent;
pub use socket::{Kind, Message, Outgoing, Part, Receiver, Sender, Socket};

use crate::{
    Accept, Decision, Error, Reason, Rejection, Request, Token, Upgrade, Upgraded, http,
    registry::LocalBoxFuture, response, ws,
};

/// The `websocket` protocol, with a handler for its messages.
///
/// ```
/// use switchpoint::{Registry, protocols::{WebSocket, websocket::Socket}};
///
/// Registry::new().at("/chat", WebSocket::new(async |mut socket: Socket| {
///     while let Some(message) = socket.recv().await? {
///         let answer = format!("{} bytes", message.len());
///         socket.send(&answer).await?;
///     }
///     Ok(())
/// }).subprotocols(&["chat.v2", "chat.v1"]));
/// ```
pub struct WebSocket<H> {
    handler: H,
    admission: Option<Rc<Admission>>,
    settings: Rc<Settings>,
    subprotocols: &'static [&'static str],
    shows_handshake: bool,
}

type Admission = dyn for<'a> Fn(&'a Request<'a>) -> LocalBoxFuture<'a, Result<(), Rejection>>;

/// What holds for each WebSocket of a handler.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest message and the most fragments that are taken: 1 MiB and 131,072; beyond is 1009.
    pub limits: ws::Limits,
    /// Bytes that may wait to be sent before `send` waits, too; 64 KiB. One message may exceed it, and so may messages
    /// that are sent on as they arrived, by at most 512 KiB.
    pub queue_max: usize,
    /// A peer that was silent for so long is sent a ping; 30 s.
    pub ping_after: Duration,
    /// A peer that answers nothing for so long after a ping is given up; 20 s.
    pub pong_time: Duration,
    /// How long the closing handshake may take; 3 s.
    pub close_time: Duration,
    /// How long a connection may last before it is closed with 1001; for ever.
    pub lifetime: Duration,
    /// What becomes of a message when the queue is full; its sender waits.
    pub when_full: WhenFull,
    /// permessage-deflate (RFC 7692), for clients that offer it; not used. It costs a hundred times the CPU of a plain
    /// message, and where secrets and a stranger's words share a message it tells the stranger their length.
    pub deflate: Option<ws::Deflate>,
    /// Whose pages may connect; those of the same host, and clients that are no browsers.
    pub origins: Origins,
}

/// What becomes of a message when as much waits as [may](Settings::queue_max).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Its sender waits until the peer has taken some.
    #[default]
    Wait,
    /// It is dropped: the peer gets what was sent first.
    DropNewest,
    /// The oldest messages go, as far as nothing of them was sent: the peer gets what is new. With context takeover
    /// later messages refer to them, so there it is the newest that goes.
    DropOldest,
    /// The connection is closed with 1013: the peer may come back.
    Close,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: ws::Limits::default(),
            queue_max: 64 * 1024,
            ping_after: Duration::from_secs(30),
            pong_time: Duration::from_secs(20),
            close_time: Duration::from_secs(3),
            lifetime: Duration::MAX,
            when_full: WhenFull::Wait,
            deflate: None,
            origins: Origins::SameHost,
        }
    }
}

impl<H> WebSocket<H>
where
    H: AsyncFn(Socket) -> Result<(), Error> + 'static,
{
    /// Runs `handler` for each WebSocket. When it returns, the connection is closed: with 1000 after `Ok`, with the
    /// fitting code after an error.
    pub fn new(handler: H) -> Self {
        Self { handler, admission: None, settings: Rc::default(), subprotocols: &[], shows_handshake: false }
    }

    /// Asks `admission` before each handshake whether this client may connect, and who it is:
    /// [`Request::keep`] keeps what it finds, and [`Socket::kept`] gives it to the handler.
    ///
    /// ```
    /// use switchpoint::{Rejection, Request, protocols::{WebSocket, websocket::Socket}};
    ///
    /// struct User(String);
    ///
    /// WebSocket::new(async |socket: Socket| {
    ///     let name = socket.kept::<User>().map_or("nobody", |user| &user.0);
    ///     socket.send(&format!("welcome, {name}")).await
    /// })
    /// .admit(async |request: &Request<'_>| match request.authorization() {
    ///     Some(("Bearer", "a secret")) => Ok(request.keep(User("you".into()))),
    ///     _ => Err(Rejection::unauthorized("Bearer")),
    /// });
    /// ```
    pub fn admit<A>(mut self, admission: A) -> Self
    where
        A: for<'a> AsyncFn(&'a Request<'a>) -> Result<(), Rejection> + 'static,
    {
        let admission = Rc::new(admission);
        self.admission = Some(Rc::new(move |request| {
            let admission = Rc::clone(&admission);
            Box::pin(async move { admission(request).await })
        }));
        self
    }

    /// Changes the settings.
    pub fn with(mut self, settings: Settings) -> Self {
        self.settings = Rc::new(settings);
        self
    }

    /// The subprotocols that it speaks. The first that the client offers and we speak is chosen; if there is none the
    /// connection goes without (4.2.2): [`Socket::subprotocol`] tells.
    ///
    /// # Panics
    /// If one is not a token.
    pub fn subprotocols(mut self, subprotocols: &'static [&'static str]) -> Self {
        assert!(subprotocols.iter().all(|name| http::list::is_token(name)), "a subprotocol is a token");
        self.subprotocols = subprotocols;
        self
    }

    /// Whose pages may connect.
    pub fn origins(mut self, origins: Origins) -> Self {
        Rc::make_mut(&mut self.settings).origins = origins;
        self
    }

    /// Speaks the subprotocol `switchpoint.handshake` as well: the first message is a JSON object with the `request` and
    /// the `response` of the handshake, which a browser hides from its pages. Cookies and credentials are left out.
    pub fn shows_handshake(mut self) -> Self {
        self.shows_handshake = true;
        self
    }
}

/// What a handshake has settled.
#[derive(Debug)]
pub struct Session {
    subprotocol: Option<Rc<str>>,
    deflate: Option<ws::Agreed>,
    /// A message that is sent before the handler runs.
    greeting: Option<String>,
}

impl<H> Upgrade for WebSocket<H>
where
    H: AsyncFn(Socket) -> Result<(), Error> + 'static,
{
    type Session = Session;

    fn token(&self) -> Token {
        const { Token::new("websocket") }
    }

    async fn authorize(&self, request: &Request<'_>) -> Result<(), Rejection> {
        match &self.admission {
            Some(admission) => admission(request).await,
            None => Ok(()),
        }
    }

    fn negotiate(&self, request: &Request<'_>) -> Decision<Session> {
        self.check(request).into()
    }

    // Not an `async fn`, which would have room for its arguments twice.
    fn run(&self, session: Session, connection: Upgraded) -> impl Future<Output = Result<(), Error>> {
        let settings = Rc::clone(&self.settings);
        driver::run(|socket| (self.handler)(socket), settings, session, connection, ws::Role::Server)
    }
}

impl<H> WebSocket<H> {
    /// The rules of 4.2.1, in their order; method, Host and `Connection` were checked for every protocol.
    fn check(&self, request: &Request<'_>) -> Result<Accept<Session>, Rejection> {
        // Over HTTP/2 there is nothing that a key could prove: the protocol is in the request (RFC 8441 5).
        let has_key = request.head.version < http::Version::Http2;
        let key = match request.head.fields.only("sec-websocket-key") {
            _ if !has_key => None,
            Err(_) => return Err(Reason::DuplicateKey.into()),
            Ok(None) => return Err(Reason::MissingKey.into()),
            Ok(Some(key)) if !ws::is_key(key) => return Err(Reason::InvalidKey.into()),
            Ok(Some(key)) => Some(key),
        };
        let versions = |reason: Reason| Rejection::from(reason).field("Sec-WebSocket-Version", "13");
        match request.head.fields.only("sec-websocket-version") {
            Err(_) => return Err(versions(Reason::DuplicateVersion)),
            Ok(None) => return Err(versions(Reason::MissingVersion)),
            Ok(Some(b"13")) => {}
            Ok(Some(_)) => return Err(versions(Reason::UnsupportedVersion)),
        }
        self.settings.origins.check(request)?;
        let subprotocol = self.choose(request)?;

        let offers = request.list("sec-websocket-extensions");
        let deflate =
            self.settings.deflate.as_ref().and_then(|deflate| ws::extension::accept(deflate, offers));
        let session = Session {
            subprotocol: subprotocol.map(Rc::from),
            deflate: deflate.as_ref().map(|(agreed, _)| *agreed),
            greeting: None,
        };
        let mut answer = Accept::new(session);
        if let Some(key) = key {
            let accept = ws::accept_key(key);
            let accept = str::from_utf8(&accept).expect("base64 is ASCII").to_owned();
            answer = answer.field("Sec-WebSocket-Accept", accept);
        }
        if let Some((_, agreed)) = deflate {
            answer = answer.field("Sec-WebSocket-Extensions", agreed);
        }
        if let Some(subprotocol) = subprotocol {
            answer = answer.field("Sec-WebSocket-Protocol", subprotocol);
        }
        if subprotocol == Some(HANDSHAKE) {
            let response = if has_key {
                response::switching_protocols(Token::new("websocket"), &answer.fields)
            } else {
                response::session_on_stream(&answer.fields)
            };
            let shown = serde_json::json!({ "request": redacted(&request.raw_head()), "response": response });
            answer.session.greeting = Some(shown.to_string());
        }
        Ok(answer)
    }

    /// The client's first choice among ours (4.2.2); never one that it did not offer.
    fn choose(&self, request: &Request<'_>) -> Result<Option<&'static str>, Rejection> {
        let mut chosen = None;
        let mut seen = Vec::new();
        for offer in request.list("sec-websocket-protocol") {
            if seen.len() >= SUBPROTOCOLS_MAX || seen.contains(&offer) || !http::list::is_token(offer) {
                return Err(Rejection::from(Reason::InvalidList).detail("It is `Sec-WebSocket-Protocol`."));
            }
            seen.push(offer);
            let own = self.subprotocols.iter().chain(self.shows_handshake.then_some(&HANDSHAKE));
            chosen = chosen.or_else(|| own.copied().find(|name| *name == offer));
        }
        Ok(chosen)
    }
}

/// Masks that nobody can foretell (RFC 6455 5.3, 10.3): SipHash over a counter, under a key of the process.
#[derive(Debug, Default)]
struct RandomMasks {
    key: RandomState,
    count: u64,
}

impl RandomMasks {
    fn next(&mut self) -> [u8; 4] {
        self.count += 1;
        (self.key.hash_one(self.count) as u32).to_ne_bytes()
    }
}

/// The subprotocol of a page that wants to show the handshake.
const HANDSHAKE: &str = "switchpoint.handshake";
/// More offers than this were not meant seriously.
const SUBPROTOCOLS_MAX: usize = 32;

/// A head for other eyes: without what lets its reader act as its sender.
fn redacted(head: &[u8]) -> String {
    let head = String::from_utf8_lossy(head);
    let mut shown = String::with_capacity(head.len());
    for (place, line) in head.lines().enumerate() {
        match line.split_once(':') {
            Some((name, _)) if place > 0 && !SHOWN.iter().any(|shown| shown.eq_ignore_ascii_case(name)) => {
                shown.push_str(name);
                shown.push_str(": [redacted]");
            }
            _ => shown.push_str(line),
        }
        shown.push_str("\r\n");
    }
    shown
}

/// The fields whose values are nobody's secret. A proxy may add others that are.
const SHOWN: &[&str] = &[
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "connection",
    "host",
    "origin",
    "pragma",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "upgrade",
    "user-agent",
];

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /chat HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

    fn check(head: &str) -> Result<Accept<Session>, Rejection> {
        let chat = WebSocket::new(async |_: Socket| Ok(())).subprotocols(&["v2", "v1"]).shows_handshake();
        let raw = format!("{head}\r\n");
        let head = http::Head::parse(raw.as_bytes(), &http::Limits::default()).unwrap();
        chat.check(&Request {
            head,
            body: b"",
            peer: None,
            listener: None,
            draining: false,
            stream: &crate::duplex::pair().0.into(),
            raw: raw.as_bytes(),
            kept: &Default::default(),
        })
    }

    fn reason(head: &str) -> &'static str {
        check(head).unwrap_err().reason().code()
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let accept = check(GOOD).unwrap();
        assert_eq!(accept.fields, [("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into())]);
        assert_eq!(accept.session.subprotocol.as_deref(), None);
    }

    #[test]
    fn each_broken_rule_has_its_reason() {
        let without = |name: &str| {
            GOOD.split_inclusive("\r\n").filter(|line| !line.starts_with(name)).collect::<String>()
        };
        assert_eq!(reason(&without("Sec-WebSocket-Key")), "missing-key");
        assert_eq!(reason(&GOOD.replace("dGhl", "")), "invalid-key");
        assert_eq!(
            reason(&format!("{GOOD}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")),
            "duplicate-key"
        );
        assert_eq!(reason(&without("Sec-WebSocket-Version")), "missing-version");
        assert_eq!(reason(&format!("{GOOD}Sec-WebSocket-Version: 13\r\n")), "duplicate-version");
        assert_eq!(reason(&GOOD.replace(": 13", ": 12")), "unsupported-version");
        assert!(check(&GOOD.replace(": 13", ": 12")).unwrap_err().has_field("sec-websocket-version"));
        for list in ["a b", "a, a"] {
            assert_eq!(reason(&format!("{GOOD}Sec-WebSocket-Protocol: {list}\r\n")), "invalid-list");
        }
    }

    #[test]
    fn the_clients_first_choice_among_ours_is_taken_and_never_another() {
        let chosen = |offers: &str| {
            check(&format!("{GOOD}{offers}")).unwrap().session.subprotocol.as_deref().map(str::to_owned)
        };
        assert_eq!(
            chosen("Sec-WebSocket-Protocol: foo, v1\r\nSec-WebSocket-Protocol: v2\r\n"),
            Some("v1".to_owned())
        );
        assert_eq!(chosen("Sec-WebSocket-Protocol: V1, foo\r\n"), None);
    }

    #[test]
    fn a_shown_handshake_keeps_its_secrets() {
        let head = format!(
            "{GOOD}Sec-WebSocket-Protocol: switchpoint.handshake\r\nCookie: id=secret\r\nauthorization: Bearer secret\r\nX-Proxy: secret\r\n"
        );
        let greeting = check(&head).unwrap().session.greeting.unwrap();
        let shown: serde_json::Value = serde_json::from_str(&greeting).unwrap();
        assert!(
            shown["request"]
                .as_str()
                .unwrap()
                .contains("Cookie: [redacted]\r\nauthorization: [redacted]\r\nX-Proxy: [redacted]\r\n")
        );
        assert!(
            shown["response"].as_str().unwrap().contains("Sec-WebSocket-Protocol: switchpoint.handshake\r\n")
        );
        assert!(!greeting.contains("secret"));
    }
}
