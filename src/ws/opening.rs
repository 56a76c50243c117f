//! The client's half of the opening handshake (4.1), without I/O: a URL and a nonce in, a request head out; the bytes of
//! the answer in, what it means out.
//!
//! The answer is judged as a whole: a 101 that does not fit what was asked for switches nothing, for behind it the two
//! sides would not speak the same protocol.

use std::{borrow::Cow, fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    accept_key,
    extension::{self, Agreed, Deflate, Misfit},
};
use crate::http::list;

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Opening {
    token: Cow<'static, str>,
    /// Of WebSocket, which alone has one.
    key: Option<String>,
    subprotocols: Vec<String>,
    deflate: Option<Deflate>,
    fields: Vec<(String, String)>,
    /// Those of `fields` that are named in `Connection`.
    hop: Vec<String>,
}

impl Opening {
    /// With sixteen bytes that nobody can foretell.
    pub fn new(nonce: [u8; 16]) -> Self {
        Self { key: Some(STANDARD.encode(nonce)), ..Self::to(WEBSOCKET) }
    }

    /// For a protocol other than WebSocket, by its token: the request and the answer without RFC 6455's fields.
    pub fn to(token: impl Into<Cow<'static, str>>) -> Self {
        Self {
            token: token.into(),
            key: None,
            subprotocols: Vec::new(),
            deflate: None,
            fields: Vec::new(),
            hop: Vec::new(),
        }
    }

    /// Offers a subprotocol, after those that it offers already.
    ///
    /// # Errors
    /// If it is not a token, or offered already.
    pub fn subprotocol(&mut self, name: &str) -> Result<(), Unfit> {
        if !list::is_token(name) || self.subprotocols.iter().any(|offered| offered == name) {
            return Err(Unfit::Subprotocol);
        }
        self.subprotocols.push(name.to_owned());
        Ok(())
    }

    /// Offers permessage-deflate; nothing, in a build without `deflate`.
    pub fn deflate(&mut self, deflate: Deflate) {
        self.deflate = Some(deflate);
    }

    /// Adds a field of the caller's, such as `Authorization` or `Origin`.
    ///
    /// # Errors
    /// If it would break the head, or belongs to the handshake.
    pub fn field(&mut self, name: &str, value: &str) -> Result<(), Unfit> {
        if !list::is_token(name) || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(Unfit::Field);
        }
        if OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name)) {
            return Err(Unfit::OurField);
        }
        self.fields.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    /// As [`field`](Self::field), and named in `Connection`: for the next hop only (RFC 9110 7.6.1), as `HTTP2-Settings`.
    ///
    /// # Errors
    /// As [`field`](Self::field).
    pub fn hop_field(&mut self, name: &str, value: &str) -> Result<(), Unfit> {
        self.field(name, value)?;
        self.hop.push(name.to_owned());
        Ok(())
    }

    /// The request's head.
    pub fn request(&self, url: &Url) -> Vec<u8> {
        let mut head = format!("GET {} HTTP/1.1\r\n", url.target);
        let mut put = |name: &str, value: &str| head.extend([name, ": ", value, "\r\n"]);
        put("Host", &url.authority);
        put("Upgrade", &self.token);
        let hop: String = self.hop.iter().flat_map(|name| [", ", name]).collect();
        put("Connection", &format!("Upgrade{hop}"));
        if let Some(key) = &self.key {
            put("Sec-WebSocket-Key", key);
            put("Sec-WebSocket-Version", "13");
        }
        if !self.subprotocols.is_empty() {
            put("Sec-WebSocket-Protocol", &self.subprotocols.join(", "));
        }
        if let Some(offer) = self.deflate.as_ref().and_then(extension::offer) {
            put("Sec-WebSocket-Extensions", &offer);
        }
        for (name, value) in &self.fields {
            put(name, value);
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Reads an answer's head from the start of `bytes`, and says how long it is; `None` asks for more.
    ///
    /// # Errors
    /// When it is no answer, or a 101 that does not fit the request.
    pub fn read(&self, bytes: &[u8]) -> Result<Option<(Answer, usize)>, OpeningFault> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let size = match head.parse(&bytes[..bytes.len().min(HEAD_MAX)]) {
            Ok(httparse::Status::Complete(size)) => size,
            Ok(httparse::Status::Partial) if bytes.len() >= HEAD_MAX => return Err(OpeningFault::LongHead),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(OpeningFault::TooManyFields),
            Err(_) => return Err(OpeningFault::NoHttp),
        };
        let answer = match head.code {
            Some(101) => Answer::Switched(self.judge(&head)?),
            Some(100..=199) => Answer::Interim,
            _ => Answer::Refused(Refusal::new(&head)),
        };
        Ok(Some((answer, size)))
    }

    /// The rules for a 101, in their order.
    fn judge(&self, head: &httparse::Response<'_, '_>) -> Result<Switched, OpeningFault> {
        let fields = &*head.headers;
        if head.version != Some(1) {
            return Err(OpeningFault::OldVersion);
        }
        let mut upgrade = items(fields, "upgrade");
        if !upgrade.next().is_some_and(|token| token.eq_ignore_ascii_case(&self.token))
            || upgrade.next().is_some()
        {
            return Err(OpeningFault::WrongUpgrade);
        }
        if !items(fields, "connection").any(|token| token.eq_ignore_ascii_case("upgrade")) {
            return Err(OpeningFault::NoConnectionUpgrade);
        }
        let Some(key) = &self.key else { return Ok(Switched { subprotocol: None, deflate: None }) };
        let mut accepts = values(fields, "sec-websocket-accept");
        match (accepts.next(), accepts.next()) {
            (None, _) => return Err(OpeningFault::NoAccept),
            (Some(accept), None) if accept == accept_key(key.as_bytes()) => {}
            _ => return Err(OpeningFault::WrongAccept),
        }
        let deflate = match &self.deflate {
            Some(deflate) => extension::agree(deflate, items(fields, "sec-websocket-extensions"))?,
            None if values(fields, "sec-websocket-extensions").all(<[u8]>::is_empty) => None,
            None => return Err(Misfit::NotOffered.into()),
        };
        let mut chosen = values(fields, "sec-websocket-protocol");
        let subprotocol = match (chosen.next(), chosen.next()) {
            (None, _) => None,
            (Some(chosen), None) => {
                let offered = self.subprotocols.iter().find(|offered| offered.as_bytes() == chosen);
                Some(offered.ok_or(OpeningFault::UnaskedSubprotocol)?.clone())
            }
            _ => return Err(OpeningFault::UnaskedSubprotocol),
        };
        Ok(Switched { subprotocol, deflate })
    }
}

const WEBSOCKET: &str = "websocket";
/// No more of an answer's head than this is held.
const HEAD_MAX: usize = 16 << 10;
const FIELDS_MAX: usize = 100;

/// The fields that say what the request is, and where it ends.
const OURS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// The values of a field, one for each time it is there.
fn values<'h>(fields: &'h [httparse::Header<'h>], name: &str) -> impl Iterator<Item = &'h [u8]> {
    let named = fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    named.map(|field| field.value.trim_ascii())
}

/// The items of the list that they make together.
fn items<'h>(fields: &'h [httparse::Header<'h>], name: &str) -> impl Iterator<Item = &'h str> {
    values(fields, name).flat_map(list::items)
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An interim answer, behind which the real one comes (RFC 9110 15.2).
    Interim,
    /// What follows is WebSocket.
    Switched(Switched),
    /// What follows is the reason, perhaps.
    Refused(Refusal),
}

/// What the two sides have settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    /// One of those that were offered.
    pub subprotocol: Option<String>,
    /// How messages are compressed.
    pub deflate: Option<Agreed>,
}

/// An answer other than 101, in the server's words: without control characters, and not by the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    status: u16,
    phrase: String,
    fields: Vec<(String, String)>,
    code: Option<String>,
    text: Option<String>,
}

impl Refusal {
    fn new(head: &httparse::Response<'_, '_>) -> Self {
        let field = |field: &httparse::Header<'_>| (field.name.to_owned(), printable(field.value));
        Self {
            status: head.code.unwrap_or_default(),
            phrase: printable(head.reason.unwrap_or_default().as_bytes()),
            fields: head.headers.iter().map(field).collect(),
            code: None,
            text: None,
        }
    }

    /// The status, such as 401 or 426.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The first field of a name, such as `WWW-Authenticate` or `Location`.
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| &**value)
    }

    /// The [code](crate::Reason::code) of the reason, where the server is one of ours.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// The line of the body that says why.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Whether `body` is all of the body that is worth waiting for.
    pub fn has_whole_body(&self, body: &[u8]) -> bool {
        let length = self.field("content-length").and_then(|length| length.parse().ok());
        body.len() >= length.unwrap_or(BODY_MAX).min(BODY_MAX)
    }

    /// Looks for the reason in what has arrived of the body.
    pub fn read_body(&mut self, body: &[u8]) {
        if self.field("transfer-encoding").is_some() {
            return; // in chunks, which are not for reading
        }
        let body = String::from_utf8_lossy(&body[..body.len().min(BODY_MAX)]);
        let mut lines = body.lines().map(str::trim).filter(|line| !line.is_empty());
        // Our own refusals: the status again, the reason's code, what it means.
        let code = lines.clone().find_map(|line| line.strip_prefix("reason: "));
        let text = match code {
            Some(_) => lines.nth(2),
            None => lines.next().filter(|line| !line.starts_with(['<', '{'])),
        };
        self.code = code.map(|code| printable(code.as_bytes()));
        self.text = text.map(|text| printable(text.as_bytes()));
    }
}

/// No more of a refusal's body than this is held.
const BODY_MAX: usize = 4 << 10;

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).take(TEXT_MAX).collect()
}

const TEXT_MAX: usize = 400;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.phrase)?;
        if let Some(code) = &self.code {
            write!(f, ": {code}")?;
        }
        if let Some(text) = &self.text {
            write!(f, " ({text})")?;
        }
        Ok(())
    }
}

/// How an answer can fail to be one to our request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningFault {
    /// Bytes that are no head of a response.
    #[error("the server's answer is not HTTP/1.1")]
    NoHttp,
    /// A head without an end.
    #[error("the head of the server's answer is longer than 16 KiB")]
    LongHead,
    /// A head with more fields than anybody needs.
    #[error("the server's answer has more than 100 fields")]
    TooManyFields,
    /// A 101 of a server that does not know what that is.
    #[error("the server's 101 is HTTP/1.0, which has no upgrade (RFC 9110 7.8)")]
    OldVersion,
    /// No `Upgrade`, or to something else.
    #[error(
        "the server's 101 does not name the protocol that we asked for in `Upgrade` (RFC 9110 7.8, RFC 6455 4.1)"
    )]
    WrongUpgrade,
    /// No `Connection: upgrade`.
    #[error("the server's 101 does not say `Connection: upgrade` (RFC 9110 7.8, RFC 6455 4.1)")]
    NoConnectionUpgrade,
    /// No proof that the server speaks WebSocket.
    #[error("the server's 101 has no `Sec-WebSocket-Accept` (RFC 6455 4.1)")]
    NoAccept,
    /// A proof for somebody else.
    #[error("the `Sec-WebSocket-Accept` of the server's 101 does not belong to our key (RFC 6455 4.1)")]
    WrongAccept,
    /// A subprotocol that was not offered, or two.
    #[error("the server's 101 names a subprotocol that we did not offer (RFC 6455 4.1)")]
    UnaskedSubprotocol,
    /// An extension that does not fit the offer.
    #[error(transparent)]
    Extension(#[from] Misfit),
}

/// What cannot stand in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is no token, or there twice.
    #[error("a subprotocol is a token, and offered once (RFC 6455 4.1)")]
    Subprotocol,
    /// It would break the head.
    #[error("a field has a token for its name, and no control characters in its value (RFC 9110 5)")]
    Field,
    /// The handshake says that itself.
    #[error("the field belongs to the handshake, which sets it itself")]
    OurField,
}

/// Where to: `ws://host:port/path?query`, or `wss://…` (3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    is_secure: bool,
    authority: String,
    host: String,
    port: u16,
    target: String,
}

impl Url {
    /// Whether it is reached by TLS: `wss`.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// A name or an address; that of IPv6 without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Host and port as they were written: the field `Host`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// 80, or 443 with TLS, unless it says otherwise.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query; never empty.
    pub fn target(&self) -> &str {
        &self.target
    }
}

impl FromStr for Url {
    type Err = UrlFault;

    fn from_str(text: &str) -> Result<Self, UrlFault> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlFault::Scheme)?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "ws" => false,
            "wss" => true,
            _ => return Err(UrlFault::Scheme),
        };
        // In this form nothing can end the line, or the field, that it stands in.
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlFault::Characters);
        }
        if rest.contains('#') {
            return Err(UrlFault::Fragment);
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlFault::User);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(UrlFault::Host)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        if host.is_empty() {
            return Err(UrlFault::Host);
        }
        let port = match port.strip_prefix(':') {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().map_err(|_| UrlFault::Port)?
            }
            None if port.is_empty() => {
                if is_secure {
                    443
                } else {
                    80
                }
            }
            _ => return Err(UrlFault::Port),
        };
        let target = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { is_secure, authority: authority.to_owned(), host: host.to_owned(), port, target })
    }
}

/// What is wrong with a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// Neither `ws` nor `wss`.
    #[error("a WebSocket's URL begins with ws:// or wss://")]
    Scheme,
    /// `wss`, which this client cannot do.
    #[error(
        "wss:// needs TLS, which this client cannot do; use ws:// to a plain port, or to a proxy that does TLS"
    )]
    Tls,
    /// Spaces and the like.
    #[error("a URL has no spaces and no characters beyond ASCII; write them as %20 and so on")]
    Characters,
    /// `#…`
    #[error("a fragment (`#…`) is never sent; leave it out (RFC 6455 3)")]
    Fragment,
    /// `user@`
    #[error("a user in the URL is not sent; use the field `Authorization`")]
    User,
    /// None, or an IPv6 address without its end.
    #[error("the URL has no host; it is such as ws://127.0.0.1:8080/echo or ws://[::1]:8080/echo")]
    Host,
    /// Not a number of 16 bits.
    #[error("what stands behind the URL's host is not a port (an IPv6 address stands in brackets)")]
    Port,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    fn opening() -> Opening {
        let mut opening = Opening::new(*b"the sample nonce");
        for name in ["chat", "superchat"] {
            opening.subprotocol(name).unwrap();
        }
        opening
    }

    fn switched(opening: &Opening, head: &str) -> Result<Switched, OpeningFault> {
        match opening.read(head.as_bytes())? {
            Some((Answer::Switched(switched), size)) if size == head.len() => Ok(switched),
            other => panic!("{other:?}"),
        }
    }

    /// The example's answer with lines in place of others, or behind them.
    fn with(lines: &str) -> String {
        ANSWER.replace("\r\n\r\n", &format!("\r\n{lines}\r\n\r\n"))
    }

    #[test]
    fn another_protocol_is_asked_for_by_its_token_alone() {
        let mut opening = Opening::to("echo/1");
        opening.field("X-A", "1").unwrap();
        let request = opening.request(&"ws://h/p".parse().unwrap());
        let expected =
            "GET /p HTTP/1.1\r\nHost: h\r\nUpgrade: echo/1\r\nConnection: Upgrade\r\nX-A: 1\r\n\r\n";
        assert_eq!(str::from_utf8(&request), Ok(expected));
        let answer = "HTTP/1.1 101 x\r\nUpgrade: ECHO/1\r\nConnection: Upgrade\r\n\r\n";
        assert_eq!(switched(&opening, answer), Ok(Switched { subprotocol: None, deflate: None }));
        assert_eq!(switched(&opening, ANSWER), Err(OpeningFault::WrongUpgrade));
    }

    #[test]
    fn the_example_of_section_1_2_is_asked_and_taken() {
        let mut opening = opening();
        opening.field("Origin", "http://example.com").unwrap();
        let request = opening.request(&"ws://server.example.com/chat".parse().unwrap());
        let expected = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, superchat\r\n\
            Origin: http://example.com\r\n\r\n";
        assert_eq!(str::from_utf8(&request), Ok(expected));
        let answer = with("Sec-WebSocket-Protocol: chat");
        let settled = Switched { subprotocol: Some("chat".to_owned()), deflate: None };
        assert_eq!(switched(&opening, &answer), Ok(settled));
        for cut in 0..answer.len() {
            assert_eq!(opening.read(&answer.as_bytes()[..cut]), Ok(None), "{cut}");
        }
        let behind = format!("{answer}early");
        assert_eq!(opening.read(behind.as_bytes()).unwrap().unwrap().1, answer.len());
    }

    #[test]
    fn each_fault_of_a_101_has_its_name() {
        for (head, fault) in [
            (ANSWER.replace("1.1 101", "1.0 101"), OpeningFault::OldVersion),
            (ANSWER.replace("Upgrade: websocket\r\n", ""), OpeningFault::WrongUpgrade),
            (ANSWER.replace("Upgrade: websocket", "Upgrade: h2c"), OpeningFault::WrongUpgrade),
            (with("Upgrade: h2c"), OpeningFault::WrongUpgrade),
            (ANSWER.replace("Connection: Upgrade\r\n", ""), OpeningFault::NoConnectionUpgrade),
            (ANSWER.replace("Connection: Upgrade", "Connection: close"), OpeningFault::NoConnectionUpgrade),
            (ANSWER.replace("Sec-WebSocket-Accept", "X"), OpeningFault::NoAccept),
            (ANSWER.replace("s3pP", "S3PP"), OpeningFault::WrongAccept),
            (with("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), OpeningFault::WrongAccept),
            (with("Sec-WebSocket-Protocol: Chat"), OpeningFault::UnaskedSubprotocol),
            (with("Sec-WebSocket-Protocol: chat, superchat"), OpeningFault::UnaskedSubprotocol),
            (
                with("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat"),
                OpeningFault::UnaskedSubprotocol,
            ),
            (with("Sec-WebSocket-Extensions: permessage-deflate"), Misfit::NotOffered.into()),
            (with("Sec-WebSocket-Extensions: \u{ff}"), Misfit::NotOffered.into()),
            ("SSH-2.0-x\r\n".to_owned(), OpeningFault::NoHttp),
            (with(&"A: b\r\n".repeat(100)), OpeningFault::TooManyFields),
            (format!("HTTP/1.1 101 x\r\nA: {}", "b".repeat(HEAD_MAX)), OpeningFault::LongHead),
        ] {
            assert_eq!(switched(&opening(), &head), Err(fault), "{head}");
        }
    }

    #[test]
    fn what_is_a_matter_of_taste_is_taken() {
        let shouted = ANSWER
            .replace("Upgrade: websocket", "UPGRADE:WebSocket ")
            .replace("Connection: Upgrade", "connection: keep-alive, UPGRADE")
            .replace(" Switching Protocols", "");
        assert!(switched(&opening(), &shouted).is_ok());
        assert!(switched(&opening(), &with("Content-Length: 0\r\nSec-WebSocket-Extensions:")).is_ok());
    }

    #[cfg(feature = "deflate")]
    #[test]
    fn compression_is_what_was_offered_or_nothing() {
        let mut opening = opening();
        opening.deflate(Deflate::default());
        let request = opening.request(&"ws://a".parse().unwrap());
        let offer = "\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
            client_no_context_takeover; client_max_window_bits\r\n";
        assert!(str::from_utf8(&request).unwrap().contains(offer));
        let answer = |parameters: &str| {
            let line = format!("Sec-WebSocket-Extensions: permessage-deflate{parameters}");
            switched(&opening, &with(&line)).map(|switched| switched.deflate.is_some())
        };
        assert_eq!(answer("; server_no_context_takeover"), Ok(true));
        assert_eq!(answer(""), Err(Misfit::NotHonoured.into()));
        assert_eq!(answer("; mode=turbo"), Err(Misfit::InvalidParameter.into()));
        assert_eq!(switched(&opening, ANSWER).map(|switched| switched.deflate), Ok(None));
    }

    #[test]
    fn an_interim_answer_is_none() {
        let head = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
        assert_eq!(opening().read(head), Ok(Some((Answer::Interim, head.len()))));
    }

    #[test]
    fn a_refusal_says_why_in_the_servers_words() {
        let refused = |head: &str, body: &[u8]| match opening().read(head.as_bytes()) {
            Ok(Some((Answer::Refused(mut refusal), _))) => {
                refusal.read_body(body);
                refusal
            }
            other => panic!("{other:?}"),
        };
        let body = b"426 Upgrade Required\nreason: unsupported-version\n\nSay 13.\n";
        let refusal =
            refused("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 57\r\nUpgrade: a\r\n\r\n", body);
        assert_eq!(refusal.to_string(), "426 Upgrade Required: unsupported-version (Say 13.)");
        assert_eq!(
            (refusal.status(), refusal.code(), refusal.text(), refusal.field("upgrade")),
            (426, Some("unsupported-version"), Some("Say 13."), Some("a"))
        );
        assert!(refusal.has_whole_body(&body[..57]) && !refusal.has_whole_body(&body[..56]));
        let plain = "HTTP/1.1 404 Not Found\r\n\r\n";
        assert_eq!(refused(plain, b"").to_string(), "404 Not Found");
        assert_eq!(refused(plain, b"<html>...").to_string(), "404 Not Found");
        assert_eq!(refused(plain, b"no \x1b[31m here").to_string(), "404 Not Found (no \u{fffd}[31m here)");
        assert!(
            !refused(plain, b"").has_whole_body(b"x")
                && refused(plain, b"").has_whole_body(&[b'x'; BODY_MAX])
        );
    }

    #[test]
    fn nothing_unfit_gets_into_a_request() {
        let mut opening = opening();
        for name in ["", "a b", "a,b", "chat"] {
            assert_eq!(opening.subprotocol(name), Err(Unfit::Subprotocol), "{name}");
        }
        for (name, value) in [("", "a"), ("A:", "a"), ("A", "a\r\nB: c"), ("A", "\0")] {
            assert_eq!(opening.field(name, value), Err(Unfit::Field), "{name}: {value}");
        }
        for name in ["HOST", "Sec-WebSocket-Key", "Content-Length"] {
            assert_eq!(opening.field(name, "a"), Err(Unfit::OurField), "{name}");
        }
    }

    #[test]
    fn a_url_is_taken_apart() {
        for (text, authority, host, port, target) in [
            ("ws://a.b:81/echo?x=1", "a.b:81", "a.b", 81, "/echo?x=1"),
            ("WS://a.b", "a.b", "a.b", 80, "/"),
            ("ws://a.b?x", "a.b", "a.b", 80, "/?x"),
            ("ws://[::1]:9000/", "[::1]:9000", "::1", 9000, "/"),
            ("ws://[::1]", "[::1]", "::1", 80, "/"),
        ] {
            let url: Url = text.parse().unwrap();
            let found = (&*url.authority, &*url.host, url.port, &*url.target);
            assert_eq!(found, (authority, host, port, target));
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        for (text, fault) in [
            ("localhost:8080/echo", UrlFault::Scheme),
            ("http://a", UrlFault::Scheme),
            ("https://a", UrlFault::Scheme),
            ("ws://a/b c", UrlFault::Characters),
            ("ws://a/\r\nX: y", UrlFault::Characters),
            ("ws://ä", UrlFault::Characters),
            ("ws://a/#b", UrlFault::Fragment),
            ("ws://u:p@a", UrlFault::User),
            ("ws://", UrlFault::Host),
            ("ws://:80", UrlFault::Host),
            ("ws://[::1", UrlFault::Host),
            ("ws://a:", UrlFault::Port),
            ("ws://a:65536", UrlFault::Port),
            ("ws://a:+80", UrlFault::Port),
            ("ws://::1", UrlFault::Host),
            ("ws://fe80::1", UrlFault::Port),
            ("ws://[::1]80", UrlFault::Port),
        ] {
            assert_eq!(text.parse::<Url>(), Err(fault), "{text}");
        }
    }
}
