//! The request for the switch, and what the answer to it means, without I/O (RFC 9110 7.8).

use std::fmt;

use switchpoint::http::list;

use crate::url::Url;

/// Reads a field from the command line.
pub(crate) fn field(text: &str) -> Result<(String, String), String> {
    let hint = "a field is written as 'Name: value'";
    let (name, value) = text.split_once(':').ok_or(hint)?;
    let value = value.trim();
    if !list::is_token(name) || value.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(format!("{hint}, the name without spaces, the value without control characters"));
    }
    if OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name)) {
        return Err(format!(
            "{name} belongs to loadgen: its answer, or what follows it, could not be verified"
        ));
    }
    Ok((name.to_owned(), value.to_owned()))
}

const OURS: [&str; 4] =
    ["content-length", "sec-websocket-extensions", "sec-websocket-key", "transfer-encoding"];

/// The request. A field that was asked for replaces ours of that name, so that refusals can be provoked.
pub(crate) fn request(
    url: &Url,
    token: &str,
    fields: &[(&str, String)],
    asked: &[(String, String)],
) -> Vec<u8> {
    let mut head = format!("GET {} HTTP/1.1\r\n", url.target);
    let mut put = |name: &str, value: &str| head.extend([name, ": ", value, "\r\n"]);
    let ours = [("Host", url.authority.as_str()), ("Connection", "Upgrade"), ("Upgrade", token)];
    let protocol = fields.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in ours.into_iter().chain(protocol) {
        if !asked.iter().any(|(asked, _)| asked.eq_ignore_ascii_case(name)) {
            put(name, value);
        }
    }
    for (name, value) in asked {
        put(name, value);
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    phrase: String,
    fields: Vec<(String, Vec<u8>)>,
}

impl Answer {
    /// Reads a head from the start of `bytes` and says how long it is; `None` asks for more.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Broken> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(size) = response.parse(bytes).map_err(Broken::Head)? else {
            return if bytes.len() >= HEAD_MAX { Err(Broken::LongHead) } else { Ok(None) };
        };
        let fields = response.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec()));
        let answer = Self {
            status: response.code.unwrap_or_default(),
            phrase: printable(response.reason.unwrap_or_default().as_bytes()),
            fields: fields.collect(),
        };
        Ok(Some((answer, size)))
    }

    /// An interim answer, behind which the real one comes (RFC 9110 15.2).
    pub(crate) fn is_interim(&self) -> bool {
        matches!(self.status, 100..=199) && self.status != 101
    }

    /// The values of a field, one for each time it is there.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.fields
            .iter()
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim_ascii())
    }

    fn has_item(&self, name: &str, item: &str) -> bool {
        self.values(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|value| value.trim_ascii().eq_ignore_ascii_case(item.as_bytes()))
    }

    /// Whether this 101 switches to `token`.
    pub(crate) fn switches_to(&self, token: &str) -> Result<(), Broken> {
        if !self.has_item("connection", "upgrade") {
            return Err(Broken::NoConnectionUpgrade);
        }
        if !self.has_item("upgrade", token) {
            return Err(Broken::WrongUpgrade);
        }
        Ok(())
    }

    /// Whether `body` is all of the body that is worth waiting for.
    pub(crate) fn has_whole_body(&self, body: &[u8]) -> bool {
        let length = self.values("content-length").next();
        let length = length.and_then(|length| str::from_utf8(length).ok()?.parse().ok());
        body.len() >= length.unwrap_or(BODY_MAX).min(BODY_MAX)
    }

    /// What an answer other than 101 says, in its own words.
    pub(crate) fn refusal(self, body: &[u8]) -> Refusal {
        let body = String::from_utf8_lossy(&body[..body.len().min(BODY_MAX)]);
        let mut lines = body.lines().map(str::trim).filter(|line| !line.is_empty());
        // Switchpoint's refusals: the status again, the reason's code, what it means.
        let code = lines.clone().find_map(|line| line.strip_prefix("reason: "));
        let text = match code {
            Some(_) => lines.clone().nth(2),
            None => lines.next().filter(|line| !line.starts_with('<')),
        };
        Refusal {
            status: self.status,
            phrase: self.phrase,
            code: code.map(|code| printable(code.as_bytes())),
            text: text.map(|text| printable(text.as_bytes())),
        }
    }
}

/// No more of a head than this is held, nor of a refusal's body.
const HEAD_MAX: usize = 16 << 10;
const BODY_MAX: usize = 4 << 10;
const FIELDS_MAX: usize = 100;

/// What the server wrote goes to a terminal: without control characters, and not by the page.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(TEXT_MAX).collect()
}

const TEXT_MAX: usize = 400;

/// An answer other than 101.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    phrase: String,
    code: Option<String>,
    text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.phrase)?;
        if let Some(code) = &self.code {
            write!(f, ": {code}")?;
        }
        if let Some(text) = &self.text {
            write!(f, " ({text})")?;
        }
        if (200..300).contains(&self.status) {
            f.write_str("; there is an ordinary resource at this path, which speaks no other protocol")?;
        }
        Ok(())
    }
}

/// How an answer can fail to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("it is not HTTP: {0}")]
    Head(httparse::Error),
    #[error("its head is longer than 16 KiB")]
    LongHead,
    #[error("the server ended the connection before the answer was whole")]
    Cut,
    #[error("a 101 without `Connection: upgrade` (RFC 9110 7.8)")]
    NoConnectionUpgrade,
    #[error("the 101's `Upgrade` does not name the protocol that was asked for")]
    WrongUpgrade,
    #[error("the 101 has no `Sec-WebSocket-Accept` (RFC 6455 4.1)")]
    NoAccept,
    #[error("the 101's `Sec-WebSocket-Accept` does not belong to our key (RFC 6455 4.1)")]
    WrongAccept,
    #[error("the 101 names an extension that was not offered (RFC 6455 4.1)")]
    UnaskedExtension,
    #[error("the 101 names a subprotocol that was not offered (RFC 6455 4.1)")]
    UnaskedProtocol,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(head: &str) -> Answer {
        Answer::parse(head.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn a_field_that_is_asked_for_replaces_ours() {
        let url = "ws://h:1/p?q".parse().unwrap();
        let asked = [field("connection: keep-alive").unwrap(), field("X-A:1").unwrap()];
        let written = request(&url, "echo", &[("X-B", "2".to_owned())], &asked);
        let expected = "GET /p?q HTTP/1.1\r\nHost: h:1\r\nUpgrade: echo\r\nX-B: 2\r\nconnection: keep-alive\r\nX-A: 1\r\n\r\n";
        assert_eq!(str::from_utf8(&written), Ok(expected));
    }

    #[test]
    fn a_field_has_a_name_and_nothing_that_breaks_the_line() {
        assert!(field("A: b: c").is_ok());
        for wrong in ["A", "A b: c", ": c", "A: b\r\nC: d", "Content-Length: 5", "SEC-WEBSOCKET-KEY: x"] {
            assert!(field(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_answer_is_read_when_its_head_is_whole() {
        let head =
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a, ECHO\r\nConnection: x, Upgrade\r\n\r\nearly";
        for cut in 0..head.len() - 5 {
            assert_eq!(Answer::parse(&head[..cut]), Ok(None), "{cut}");
        }
        let (answer, size) = Answer::parse(head).unwrap().unwrap();
        assert_eq!(&head[size..], b"early");
        assert_eq!(answer.switches_to("echo"), Ok(()));
        assert_eq!(answer.switches_to("websocket"), Err(Broken::WrongUpgrade));
        assert!(matches!(Answer::parse(b"SSH-2.0-x\r\n"), Err(Broken::Head(_))));
        assert_eq!(
            Answer::parse(&[b"HTTP/1.1 200 OK\r\nA: ", &[b'x'; HEAD_MAX][..]].concat()),
            Err(Broken::LongHead)
        );
    }

    #[test]
    fn a_101_that_is_not_hop_by_hop_switches_nothing() {
        let answer = answer("HTTP/1.1 101 x\r\nUpgrade: echo\r\n\r\n");
        assert_eq!(answer.switches_to("echo"), Err(Broken::NoConnectionUpgrade));
    }

    #[test]
    fn a_refusal_says_why_in_the_servers_words() {
        let head = "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 70\r\n\r\n";
        let body = b"426 Upgrade Required\nreason: missing-connection-upgrade\n\nSay so.\n";
        assert!(!answer(head).has_whole_body(body));
        let refusal = answer(head).refusal(body).to_string();
        assert_eq!(refusal, "426 Upgrade Required: missing-connection-upgrade (Say so.)");
        let other = answer("HTTP/1.1 404 Not Found\r\n\r\n");
        assert_eq!(other.clone().refusal(b"").to_string(), "404 Not Found");
        assert_eq!(other.clone().refusal(b"<html>...").to_string(), "404 Not Found");
        assert_eq!(other.refusal(b"no \x1b[31m here").to_string(), "404 Not Found (no \u{fffd}[31m here)");
    }
}
