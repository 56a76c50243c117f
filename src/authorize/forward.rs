//! Another server is asked: it gets the request's head as it needs it, and its status decides.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use monoio::{net::TcpStream, time::timeout};
use serde::{Deserialize, Serialize};

use super::{
    Authorize, Identity,
    credentials::{Challenge, default_realm},
    turns::Turns,
};
use crate::{Reason, Rejection, Request, Stream, http::list};

/// Asks a server by `GET`, without a body. 2xx lets the request through; 401 is passed on with its challenges, and so is
/// 403; any other answer is 403, and none, or one of 5xx, is 503 `authorization-unavailable`: in doubt nobody gets in.
///
/// The server sees the request as `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and `-For`, and the fields that are
/// chosen. It is asked in plain HTTP/1.1, so let it be on this machine or in a network that is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forward {
    /// Whom to ask: `http://HOST:PORT/PATH`. The name is looked up once, at the start.
    pub url: String,
    /// How many milliseconds it may take, with the wait for a turn; 2000. More than
    /// [`Config::answer_time`](crate::Config::answer_time) is of no use.
    pub timeout_ms: u64,
    /// The request's fields that are passed on to it; `Authorization` and `Cookie`.
    pub request_fields: Vec<String>,
    /// The field of its answer that has the user's name, such as `Remote-User`.
    pub subject: Option<String>,
    /// The fields of its answer that become claims, by their names in lower case.
    pub answer_fields: Vec<String>,
    /// The fields of its 401 or 403 that are passed on to the client beside `WWW-Authenticate`.
    pub refusal_fields: Vec<String>,
    /// Calls of a core at a time; 32. As many times eight may wait for their turn.
    pub calls_max: usize,
    /// What the challenge calls this place where the server's 401 brings none.
    pub realm: String,
}

impl Default for Forward {
    fn default() -> Self {
        Self {
            url: String::new(),
            timeout_ms: 2000,
            request_fields: vec!["authorization".into(), "cookie".into()],
            subject: None,
            answer_fields: Vec::new(),
            refusal_fields: Vec::new(),
            calls_max: 32,
            realm: default_realm(),
        }
    }
}

pub(super) struct ForwardAuth {
    addresses: Vec<SocketAddr>,
    authority: String,
    path: String,
    limit: Duration,
    request_fields: Vec<String>,
    subject: Option<String>,
    answer_fields: Vec<String>,
    refusal_fields: Vec<&'static str>,
    turns: Turns,
    challenge: Challenge,
}

impl ForwardAuth {
    pub(super) fn new(settings: &Forward) -> Result<Self, String> {
        let (authority, path) = split(&settings.url)?;
        let addresses: Vec<SocketAddr> =
            authority.to_socket_addrs().map_err(|error| format!("{authority}: {error}"))?.collect();
        if addresses.is_empty() {
            return Err(format!("{authority} has no address"));
        }
        if settings.calls_max == 0 || settings.timeout_ms == 0 {
            return Err("`calls_max` and `timeout_ms` are 1 at least".into());
        }
        let names = [&settings.request_fields, &settings.answer_fields, &settings.refusal_fields];
        for name in names.into_iter().flatten().chain(&settings.subject) {
            if !list::is_token(name) {
                return Err(format!("`{name}` is no field"));
            }
        }
        for name in settings.request_fields.iter().chain(&settings.refusal_fields) {
            let name = name.to_ascii_lowercase();
            if OURS.contains(&&*name) || name.starts_with("x-forwarded-") {
                return Err(format!("`{name}` cannot be passed on"));
            }
        }
        Ok(Self {
            addresses,
            authority: authority.to_owned(),
            path: path.to_owned(),
            limit: Duration::from_millis(settings.timeout_ms),
            request_fields: settings.request_fields.clone(),
            subject: settings.subject.clone(),
            answer_fields: settings.answer_fields.clone(),
            // Names of fields are for ever in this program; there are few of them.
            refusal_fields: settings.refusal_fields.iter().map(|name| &*name.clone().leak()).collect(),
            turns: Turns::new(settings.calls_max, settings.calls_max.saturating_mul(8)),
            challenge: Challenge::new("Bearer", &settings.realm)?,
        })
    }

    fn question(&self, request: &Request<'_>) -> Vec<u8> {
        let mut question = format!("GET {} HTTP/1.1\r\n", self.path);
        let mut field = |name: &str, value: &str| {
            question.push_str(name);
            question.push_str(": ");
            question.push_str(value);
            question.push_str("\r\n");
        };
        field("Host", &self.authority);
        field("Connection", "close");
        field("Accept", "*/*");
        field("X-Forwarded-Method", request.method());
        field("X-Forwarded-Proto", request.scheme());
        if let Some(host) = request.authority() {
            field("X-Forwarded-Host", host);
        }
        match request.query() {
            Some(query) => field("X-Forwarded-Uri", &format!("{}?{query}", request.path())),
            None => field("X-Forwarded-Uri", request.path()),
        }
        if let Some(peer) = request.peer() {
            field("X-Forwarded-For", &peer.ip().to_canonical().to_string());
        }
        for name in &self.request_fields {
            for value in request.fields(name) {
                field(name, value);
            }
        }
        question.push_str("\r\n");
        question.into_bytes()
    }

    async fn ask(&self, question: &[u8]) -> io::Result<Answer> {
        let Some(_turn) = self.turns.take().await else {
            return Err(io::Error::other("too many wait for their turn to ask"));
        };
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for address in &self.addresses {
            match TcpStream::connect_addr(*address).await {
                Ok(stream) => return converse(&stream.try_into()?, question).await,
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn identity(&self, answer: &Answer) -> Identity {
        let mut identity = Identity::new("forward");
        if let Some(subject) = self.subject.as_deref().and_then(|name| answer.field(name)) {
            identity = identity.named(subject);
        }
        for name in &self.answer_fields {
            if let Some(value) = answer.field(name) {
                identity = identity.with(name.to_ascii_lowercase(), value);
            }
        }
        identity
    }

    fn refusal(&self, answer: &Answer) -> Rejection {
        let mut refusal = match answer.status {
            401 => {
                let mut challenges = answer.all("www-authenticate").peekable();
                match challenges.peek() {
                    None => self.challenge.missing(),
                    Some(_) => {
                        challenges.fold(Reason::Unauthorized.into(), |refusal: Rejection, challenge| {
                            refusal.field("WWW-Authenticate", challenge.to_owned())
                        })
                    }
                }
            }
            500.. => return Reason::AuthorizationUnavailable.into(),
            _ => Rejection::forbidden(),
        };
        for name in &self.refusal_fields {
            for value in answer.all(name) {
                refusal = refusal.field(name, value.to_owned());
            }
        }
        refusal
    }
}

impl Authorize for ForwardAuth {
    async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection> {
        let question = self.question(request);
        let answer = match timeout(self.limit, self.ask(&question)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::warn!(asked = self.authority, %error, "who has to be asked does not answer");
                return Err(Reason::AuthorizationUnavailable.into());
            }
            Err(_elapsed) => {
                tracing::warn!(asked = self.authority, "who has to be asked does not answer in time");
                return Err(Reason::AuthorizationUnavailable.into());
            }
        };
        match answer.status {
            200..300 => Ok(self.identity(&answer)),
            _ => Err(self.refusal(&answer)),
        }
    }
}

/// `HOST:PORT` and the path of `http://HOST[:PORT][/PATH]`.
fn split(url: &str) -> Result<(&str, &str), String> {
    let wrong = || format!("`{url}` is not http://HOST:PORT/PATH");
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !has_port || !is_plain(rest) || authority.contains('@') || path.contains('#') {
        return Err(wrong());
    }
    Ok((authority, if path.is_empty() { "/" } else { path }))
}

/// Fields that are ours to write, or mean one connection only.
const OURS: &[&str] = &[
    "accept",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A head of an answer; its body is not looked at.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
}

impl Answer {
    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let fields = self.fields.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str())
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }
}

/// Sends the question, and reads as much as a head may have.
async fn converse(stream: &Stream, mut question: &[u8]) -> io::Result<Answer> {
    while !question.is_empty() {
        match stream.try_write(question) {
            Ok(count) => question = &question[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut head = Vec::with_capacity(HEAD_MAX);
    loop {
        let (result, back) = stream.read(head).await;
        head = back;
        if result? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(answer) = read(&head)? {
            return Ok(answer);
        }
        if head.len() >= HEAD_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head of the answer is too long"));
        }
    }
}

const HEAD_MAX: usize = 16 << 10;
const FIELDS_MAX: usize = 100;

/// The final answer that `bytes` begin with; `None` if it is not whole. Interim ones are passed over (RFC 9110 15.2).
fn read(mut bytes: &[u8]) -> io::Result<Option<Answer>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    loop {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let size = match response.parse(bytes).map_err(|_| invalid("the answer is not HTTP/1.1"))? {
            httparse::Status::Partial => return Ok(None),
            httparse::Status::Complete(size) => size,
        };
        match response.code.unwrap_or_default() {
            100 | 102..200 => bytes = &bytes[size..],
            status @ 200..600 => {
                let fields = response.headers.iter().filter_map(|field| {
                    let value = str::from_utf8(field.value).ok()?;
                    Some((field.name.to_owned(), value.to_owned()))
                });
                return Ok(Some(Answer { status, fields: fields.collect() }));
            }
            _ => return Err(invalid("the answer's status is none")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_and_an_interim_one_is_none() {
        let bytes = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 401 No\r\nWWW-Authenticate: A\r\n\
            www-authenticate: B\r\nX-Latin: \xe9\r\n\r\nbody";
        let head = bytes.len() - b"body".len();
        for end in 0..head {
            assert!(read(&bytes[..end]).unwrap().is_none(), "{end}");
        }
        let answer = read(bytes).unwrap().unwrap();
        assert_eq!((answer.status, answer.field("x-latin")), (401, None));
        assert_eq!(answer.all("WWW-AUTHENTICATE").collect::<Vec<_>>(), ["A", "B"]);
        for wrong in [
            "HTTP/1.1 101 Switching\r\n\r\n",
            "HTTP/1.1 700 What\r\n\r\n",
            "SSH-2.0-x\r\n",
            "HTTP/1.1 99 x\r\n\r\n",
        ] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_is_http_with_a_port() {
        assert_eq!(split("http://127.0.0.1:9000/check?x=1"), Ok(("127.0.0.1:9000", "/check?x=1")));
        assert_eq!(split("http://[::1]:9000"), Ok(("[::1]:9000", "/")));
        for wrong in [
            "",
            "https://a:1/",
            "a:1",
            "http://a/",
            "http://a:x/",
            "http://u:p@a:1/",
            "http://a:1/ b",
            "http://a:1/\r\n",
            "http://a:1/#x",
        ] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_passed_on_is_an_error() {
        let settings = |request: &str, refusal: &str| Forward {
            url: "http://127.0.0.1:9".into(),
            request_fields: vec![request.into()],
            refusal_fields: vec![refusal.into()],
            ..Forward::default()
        };
        assert!(ForwardAuth::new(&settings("x-tenant", "set-cookie")).is_ok());
        for (request, refusal) in [
            ("host", "a"),
            ("X-Forwarded-For", "a"),
            ("Upgrade", "a"),
            ("a b", "a"),
            ("a", "Connection"),
            ("a", "b\r\n"),
        ] {
            assert!(ForwardAuth::new(&settings(request, refusal)).is_err(), "{request} {refusal}");
        }
    }
}
