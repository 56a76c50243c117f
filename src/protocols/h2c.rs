//! `h2c` (RFC 7540 3.2): the request that asks for it is answered over HTTP/2, on stream 1, and so are all that follow.

use crate::{
    Accept, Accepts, Decision, EarlyBytes, Error, Request, Token, Upgrade, Upgraded,
    h2c::{self, First, PREFACE, decode},
    http::{Framing, Version},
};

/// The `h2c` protocol. What is wrong with a request for it makes it an ordinary one, in HTTP/1.1.
///
/// Behind a proxy that passes `Upgrade` on, a client could speak to this server past the proxy's rules. So a request
/// that a proxy has marked is not upgraded, unless [told otherwise](Self::behind_proxies).
#[derive(Clone, Copy, Debug, Default)]
pub struct H2c {
    behind_proxies: bool,
    body_max: usize,
}

impl H2c {
    /// For clients that come directly, with bodies of up to 64 KiB in the request that is upgraded.
    pub fn new() -> Self {
        Self { behind_proxies: false, body_max: 64 << 10 }
    }

    /// Takes requests with `Via`, `Forwarded`, `X-Forwarded-*` or `X-Real-IP` as well. Only where the proxies in front
    /// are known to drop `Upgrade: h2c`, or to have no rules.
    pub fn behind_proxies(mut self) -> Self {
        self.behind_proxies = true;
        self
    }

    /// The longest body of a request that is upgraded; a longer one is answered in HTTP/1.1. More than
    /// [`Config::body_max`](crate::Config::body_max) is of no use.
    pub fn body_max(mut self, bytes: usize) -> Self {
        self.body_max = bytes;
        self
    }

    /// The settings of a request that may be upgraded.
    fn settings(&self, request: &Request<'_>) -> Option<Vec<u8>> {
        let fields = &request.head.fields;
        // RFC 7540 3.2.1: exactly one, and meant for us.
        let settings = fields.only("http2-settings").ok().flatten()?;
        if request.head.version != Version::Http11
            || !METHODS.contains(&request.method())
            || !fields.has_token("connection", "http2-settings")
        {
            return None;
        }
        let too_long = |length| length > self.body_max as u64;
        if matches!(request.head.framing, Framing::Length(length) if too_long(length)) {
            return None;
        }
        // Who offers both, with all that a WebSocket needs, wants that.
        if fields.get("sec-websocket-key").is_some() {
            return None;
        }
        if !self.behind_proxies && fields.iter().any(|(name, _)| is_of_a_proxy(name)) {
            return None;
        }
        decode(settings).ok()
    }
}

fn is_of_a_proxy(name: &str) -> bool {
    let start = "x-forwarded-";
    ["via", "forwarded", "x-real-ip"].iter().any(|field| field.eq_ignore_ascii_case(name))
        || name.get(..start.len()).is_some_and(|name| name.eq_ignore_ascii_case(start))
}

/// All but CONNECT, which has no stream 1 to be answered on.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"];

/// What an upgrade has settled: the client's settings, and the request that is still to be answered.
#[derive(Debug)]
pub struct Session(First);

impl Upgrade for H2c {
    type Session = Session;

    fn token(&self) -> Token {
        const { Token::new("h2c") }
    }

    fn is_http(&self) -> bool {
        true
    }

    fn considers(&self, request: &Request<'_>) -> bool {
        self.settings(request).is_some()
    }

    fn accepts(&self) -> Accepts {
        // A client that does not wait for the 101 may send its preface, and nothing else.
        Accepts::default().methods(METHODS).body_max(self.body_max).early(EarlyBytes::KeepIf(PREFACE))
    }

    fn negotiate(&self, request: &Request<'_>) -> Decision<Session> {
        match self.settings(request) {
            Some(settings) => {
                let (head, body) = (request.raw.to_vec(), request.body().to_vec());
                Decision::Accept(Accept::new(Session(First { settings, head, body })))
            }
            None => Decision::Decline,
        }
    }

    async fn run(&self, Session(first): Session, connection: Upgraded) -> Result<(), Error> {
        h2c::run(connection, Some(first)).await
    }
}
