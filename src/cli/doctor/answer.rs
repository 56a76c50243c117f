//! What a server answers, parsed anew: nothing of `src/http`, whose faults it is here to find.
//!
//! It takes what servers send, also where it breaks rules: the probes judge, not the parser.

/// The head of an answer, and what came of its body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// `HTTP/1.1`.
    pub(crate) version: String,
    pub(crate) status: u16,
    pub(crate) phrase: String,
    /// In their order, values trimmed.
    pub(crate) fields: Vec<(String, String)>,
    /// The statuses of interim answers before it.
    pub(crate) interim: Vec<u16>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads a head, its blank line included, or says why it is none.
    pub(crate) fn parse(head: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        let first = lines.next().unwrap_or_default();
        let mut parts = first.splitn(3, ' ');
        let version = parts.next().unwrap_or_default().to_owned();
        let status = parts.next().unwrap_or_default();
        if !version.starts_with("HTTP/") || status.len() != 3 {
            return Err(format!("not a status line: {first:?}"));
        }
        let status = status.parse().map_err(|_| format!("not a status line: {first:?}"))?;
        let phrase = parts.next().unwrap_or_default().to_owned();
        let mut fields = Vec::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            let Some((name, value)) = line.split_once(':') else {
                return Err(format!("not a field: {line:?}"));
            };
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
        Ok(Self { version, status, phrase, fields, ..Self::default() })
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let is_it = move |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.fields.iter().filter(is_it).map(|(_, value)| value.as_str())
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The items of a list, of all its lines.
    pub(crate) fn items(&self, name: &str) -> impl Iterator<Item = &str> {
        self.all(name)
            .flat_map(|value| value.split(','))
            .map(|item| item.trim_matches([' ', '\t']))
            .filter(|item| !item.is_empty())
    }

    pub(crate) fn has_token(&self, name: &str, token: &str) -> bool {
        self.items(name).any(|item| item.eq_ignore_ascii_case(token))
    }

    /// It does not keep the connection.
    pub(crate) fn says_close(&self) -> bool {
        self.has_token("connection", "close") || self.version == "HTTP/1.0"
    }

    /// In a line: the status, and the fields that matter here.
    pub(crate) fn brief(&self) -> String {
        let mut text = String::new();
        for interim in &self.interim {
            text += &format!("{interim}, then ");
        }
        text += &format!("{} {}", self.status, self.phrase);
        let told = self.fields.iter().filter(|(name, _)| TOLD.contains(&name.to_ascii_lowercase().as_str()));
        let told: Vec<_> = told.map(|(name, value)| format!("{name}: {value}")).collect();
        if !told.is_empty() {
            text += &format!(" ({})", told.join("; "));
        }
        printable(&text)
    }

    /// The code that Switchpoint's refusals carry in their body.
    pub(crate) fn reason(&self) -> Option<&str> {
        let body = str::from_utf8(&self.body).ok()?;
        let text = body.lines().find_map(|line| line.strip_prefix("reason: "));
        text.map(str::trim)
            .filter(|code| code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
    }

    /// How long its body is, as far as its head says.
    pub(crate) fn body_length(&self) -> BodyLength {
        if self.status < 200 || self.status == 204 || self.status == 304 {
            BodyLength::Known(0)
        } else if self.has_token("transfer-encoding", "chunked") {
            BodyLength::Chunked
        } else if let Some(length) = self.field("content-length").and_then(|length| length.parse().ok()) {
            BodyLength::Known(length)
        } else {
            BodyLength::UntilClose
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    Known(usize),
    Chunked,
    UntilClose,
}

const TOLD: &[&str] = &[
    "allow",
    "connection",
    "content-length",
    "location",
    "sec-websocket-extensions",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "server",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

/// Others' text, without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// Where a head ends, its blank line included; also one whose lines end with LF alone.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at + 1)
        .find(|end| {
            let rest = &bytes[*end..];
            (rest.starts_with(b"\r\n") || rest.starts_with(b"\n")) && *end > 2
        })
        .map(|end| end + if bytes[end] == b'\r' { 2 } else { 1 })
}

/// What of a chunked body is there, and where it ends; `None` as long as it does not.
pub(crate) fn chunked(mut bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let all = bytes.len();
    let mut body = Vec::new();
    loop {
        let line = bytes.iter().position(|byte| *byte == b'\n')?;
        let size = str::from_utf8(&bytes[..line]).ok()?.split([';', '\r']).next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        bytes = &bytes[line + 1..];
        if size == 0 {
            // Trailers are not looked at.
            let end = if bytes.starts_with(b"\r\n") {
                2
            } else {
                bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4
            };
            return Some((body, all - bytes.len() + end));
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_apart_and_ends_where_it_ends() {
        let bytes = b"HTTP/1.1 426 Upgrade Required\r\nupgrade:  websocket, \techo \r\nConnection:upgrade\r\n\r\nmore";
        let end = head_end(bytes).unwrap();
        assert_eq!(&bytes[end..], b"more");
        let answer = Answer::parse(&bytes[..end]).unwrap();
        assert_eq!((answer.status, answer.phrase.as_str()), (426, "Upgrade Required"));
        assert_eq!(answer.items("Upgrade").collect::<Vec<_>>(), ["websocket", "echo"]);
        assert!(answer.has_token("connection", "Upgrade"));
        assert_eq!(
            answer.brief(),
            "426 Upgrade Required (upgrade: websocket, \u{fffd}echo; Connection: upgrade)"
        );
        assert_eq!(head_end(&bytes[..end - 1]), None);
        assert_eq!(head_end(b"HTTP/1.0 200 OK\n\nx"), Some(17));
    }

    #[test]
    fn what_is_no_head_says_why() {
        for wrong in ["\x16\x03\x01", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"] {
            assert!(Answer::parse(wrong.as_bytes()).unwrap_err().starts_with("not a "), "{wrong}");
        }
    }

    #[test]
    fn chunks_end_with_the_empty_one() {
        assert_eq!(chunked(b"5;x=y\r\nhello\r\n0\r\n\r\nnext"), Some((b"hello".to_vec(), 19)));
        assert_eq!(chunked(b"5\r\nhello\r\n0\r\n"), None);
        assert_eq!(chunked(b"5\r\nhel"), None);
    }
}
