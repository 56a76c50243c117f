//! An HTTP answer, read strictly, and what every answer owes.

/// An answer, whole.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The answer that `bytes` start with, and its length; `None` while it is not whole.
    pub(super) fn parse(bytes: &[u8], is_to_head: bool) -> Option<(Self, usize)> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = str::from_utf8(&bytes[..end]).expect("a head is text");
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap();
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let fields: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("not a field line: {line:?}")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Self { status, fields, body: String::new() };
        let has_none = is_to_head || status < 200 || status == 204;
        let length = answer.field("content-length").map_or(0, |length| length.parse().expect("a length"));
        let length = if has_none { 0 } else { length };
        let body = bytes.get(end + 4..end + 4 + length)?;
        answer.body = str::from_utf8(body).expect("our bodies are text").to_owned();
        Some((answer, end + 4 + length))
    }

    /// What RFC 9110 demands of any answer.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let owes = |is_kept: bool, rule| if is_kept { Ok(()) } else { Err(rule) };
        let has = |name: &str| self.field(name).is_some_and(|value| !value.is_empty());
        for name in ["upgrade", "connection", "content-length", "date"] {
            owes(self.all(name).count() <= 1, "a field stands twice")?;
        }
        owes(!has("upgrade") || self.has_token("connection", "upgrade"), "7.8: `Connection: upgrade`")?;
        match self.status {
            100 => owes(self.fields.is_empty(), "a 100 has nothing to say")?,
            101 => {
                owes(has("upgrade"), "15.2.2: a 101 names the protocol")?;
                let illegal =
                    ["content-length", "transfer-encoding", "content-type", "trailer", "keep-alive"];
                owes(!illegal.iter().any(|name| has(name)), "8.6: a 1xx has no body")?;
                return owes(!self.has_token("connection", "close"), "a 101 does not close");
            }
            401 => owes(has("www-authenticate"), "11.6.1: a 401 has a challenge")?,
            405 => owes(has("allow"), "15.5.6: a 405 lists the methods")?,
            426 => owes(has("upgrade"), "15.5.22: a 426 lists the protocols")?,
            503 if self.body.contains("reason: ") => owes(has("retry-after"), "a refusal says when")?,
            _ => {}
        }
        owes(self.status < 200 || has("date"), "6.6.1: an answer has a date")?;
        let framed = self.status < 200 || self.status == 204 || self.field("content-length").is_some();
        owes(framed, "an answer tells where it ends")?;
        owes(self.status != 204 || self.field("content-length").is_none(), "8.6: a 204 has no length")?;
        owes(self.field("transfer-encoding").is_none(), "we do not code")
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(move |(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// The reason code in the body.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.body.lines().find_map(|line| line.strip_prefix("reason: "))
    }

    /// It refuses with this.
    #[track_caller]
    pub(crate) fn refuses(&self, status: u16, reason: &str) {
        assert_eq!((self.status, self.reason()), (status, Some(reason)), "{self:?}");
    }
}
