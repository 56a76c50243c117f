//! The request head: its lines checked, and what they mean for the message.
//!
//! httparse finds the parts of a head that is well formed, which is nearly every head. When it says
//! no, `why_not` walks over the lines again, slowly, to name the rule that was broken. Then come the
//! rules that no line breaks alone: one Host, one way to tell where the body ends.

use super::{Fields, Framing, HeadFault, HeadScanner, Limits, Target, list, scan::EMPTY_LINES_MAX, target};

/// A request head that keeps RFC 9112. It borrows the bytes it was parsed from.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// Case-sensitive: `get` is another method than `GET`.
    pub method: &'a str,
    /// What is asked for, in a form that the method allows.
    pub target: Target<'a>,
    /// What the client speaks.
    pub version: Version,
    /// The field lines.
    pub fields: Fields<'a>,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the client may wait for a `100 Continue` before it sends the body. Never in
    /// HTTP/1.0, which has no 1xx (RFC 9110 section 10.1.1).
    pub expects_continue: bool,
    /// Whether another request may follow on this connection: HTTP/1.1 without `Connection: close`.
    /// The `keep-alive` of HTTP/1.0 is not honoured, which RFC 9112 section 9.3 leaves to us: it
    /// goes wrong behind old proxies, and nothing in HTTP/1.0 can be upgraded.
    pub keep_alive: bool,
}

/// The versions that this server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0, where Upgrade is ignored (RFC 9110 section 7.8).
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2, whose heads come from elsewhere.
    Http2,
}

impl<'a> Head<'a> {
    /// Judges one whole head, as [`HeadScanner::find`] has cut it out. Empty lines before it are
    /// skipped.
    pub fn parse(head: &'a [u8], limits: &Limits) -> Result<Self, HeadFault> {
        if head.len() > limits.head_max {
            return Err(HeadFault::HeadTooLarge);
        }
        let (request, lines) = parse_lines(head, limits)?;
        let version = if request.minor == 0 { Version::Http10 } else { Version::Http11 };
        let fields = Fields::new(lines);

        let target = Target::parse(request.method, request.target)?;
        check_host(&fields, version)?;
        let framing = Framing::of(&fields, version)?;
        let expects_continue = expects_continue(&fields, version)?;
        let keep_alive = version == Version::Http11 && !fields.has_token("connection", "close");
        Ok(Self { method: request.method, target, version, fields, framing, expects_continue, keep_alive })
    }

    /// The `host[:port]` that the request is for: from the target if it has one, else from Host.
    /// Only HTTP/1.0 may have neither.
    pub fn authority(&self) -> Option<&'a str> {
        match self.target {
            Target::Absolute { authority, .. } | Target::Authority(authority) => Some(authority),
            Target::Origin { .. } | Target::Asterisk => self.fields.text("host"),
        }
    }
}

struct RequestLine<'a> {
    method: &'a str,
    target: &'a str,
    minor: u8,
}

type Lines<'a> = Vec<httparse::Header<'a>>;

fn parse_lines<'a>(head: &'a [u8], limits: &Limits) -> Result<(RequestLine<'a>, Lines<'a>), HeadFault> {
    let mut head = head;
    for _ in 0..EMPTY_LINES_MAX {
        head = head.strip_prefix(b"\r\n").unwrap_or(head);
    }
    if head.starts_with(b"\r\n") {
        return Err(HeadFault::MalformedRequestLine);
    }
    // httparse takes LF alone for a line's end, which the RFC allows and smugglers like.
    let mut ends = 0_usize;
    for at in memchr::memchr_iter(b'\n', head) {
        if at == 0 || head[at - 1] != b'\r' {
            return Err(HeadFault::BareLf);
        }
        ends += 1;
    }
    // All but the request line and the blank line are fields, so the count is known before any
    // memory is asked for.
    let count = ends.saturating_sub(2);
    if count > limits.fields_max {
        return Err(HeadFault::TooManyFields);
    }
    let mut lines = vec![httparse::EMPTY_HEADER; count];

    let mut request = httparse::Request::new(&mut lines);
    let end = request.parse(head);
    let (Ok(httparse::Status::Complete(end)), Some(method), Some(target), Some(minor)) =
        (end, request.method, request.path, request.version)
    else {
        return Err(why_not(head, limits));
    };
    let used = request.headers.len();
    lines.truncate(used);
    if end != head.len() {
        return Err(HeadFault::MalformedRequestLine);
    }
    if target.len() > limits.target_max {
        return Err(HeadFault::TargetTooLong);
    }
    Ok((RequestLine { method, target, minor }, lines))
}

/// RFC 9112 section 3.2: one valid Host, also where the target's authority overrules it. HTTP/1.0
/// knew no Host, but two of them or a bad one are as ambiguous there.
fn check_host(fields: &Fields<'_>, version: Version) -> Result<(), HeadFault> {
    match fields.only("host").map_err(|_| HeadFault::DuplicateHost)? {
        Some(host) if str::from_utf8(host).is_ok_and(target::is_authority) => Ok(()),
        Some(_) => Err(HeadFault::InvalidHost),
        None if version == Version::Http10 => Ok(()),
        None => Err(HeadFault::MissingHost),
    }
}

fn expects_continue(fields: &Fields<'_>, version: Version) -> Result<bool, HeadFault> {
    let mut expectations = fields.all("expect").peekable();
    if version == Version::Http10 || expectations.peek().is_none() {
        return Ok(false);
    }
    let known = expectations.all(|value| value.eq_ignore_ascii_case(b"100-continue"));
    if known { Ok(true) } else { Err(HeadFault::UnknownExpectation) }
}

/// Names the first rule that a head breaks which httparse has refused.
#[cold]
fn why_not(head: &[u8], limits: &Limits) -> HeadFault {
    if let Err(fault) = HeadScanner::default().find(head, limits) {
        return fault;
    }
    let mut lines = head.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    if let Some(fault) = lines.next().and_then(|line| why_not_request_line(line, limits)) {
        return fault;
    }
    let lines = lines.enumerate();
    let mut faults = lines.filter_map(|(nth, line)| why_not_field_line(line, nth == 0));
    // A head that keeps its lines but does not end, or ends too early, was not cut out by a scanner.
    faults.next().unwrap_or(HeadFault::MalformedRequestLine)
}

fn why_not_request_line(line: &[u8], limits: &Limits) -> Option<HeadFault> {
    let mut parts = line.splitn(2, |&b| b == b' ');
    let method = parts.next().unwrap_or_default();
    let mut parts = parts.next().unwrap_or_default().rsplitn(2, |&b| b == b' ');
    let (version, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());

    let spaced = target.starts_with(b" ") || target.ends_with(b" ");
    if !is_token(method) || target.is_empty() || spaced {
        return Some(HeadFault::MalformedRequestLine);
    }
    match version {
        b"HTTP/1.0" | b"HTTP/1.1" => {}
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Some(HeadFault::UnsupportedHttpVersion);
        }
        _ => return Some(HeadFault::MalformedRequestLine),
    }
    if target.len() > limits.target_max {
        return Some(HeadFault::TargetTooLong);
    }
    let printable = str::from_utf8(target).is_ok_and(target::is_printable);
    (!printable).then_some(HeadFault::InvalidTarget)
}

fn why_not_field_line(line: &[u8], first: bool) -> Option<HeadFault> {
    match line.first()? {
        b' ' | b'\t' if first => return Some(HeadFault::WhitespaceBeforeFirstField),
        b' ' | b'\t' => return Some(HeadFault::ObsFold),
        _ => {}
    }
    let Some(colon) = line.iter().position(|&b| b == b':') else {
        return Some(HeadFault::InvalidFieldName);
    };
    let (name, value) = line.split_at(colon);
    if !is_token(name) {
        let trimmed = is_token(name.trim_ascii_end());
        return Some(if trimmed { HeadFault::SpaceBeforeColon } else { HeadFault::InvalidFieldName });
    }
    let control = value.iter().any(|&b| b.is_ascii_control() && b != b'\t');
    control.then_some(HeadFault::InvalidFieldValue)
}

fn is_token(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok_and(list::is_token)
}

#[cfg(test)]
mod tests {
    use super::HeadFault::*;
    use super::*;

    fn parse(head: &[u8]) -> Result<Head<'_>, HeadFault> {
        Head::parse(head, &Limits::default())
    }

    /// A GET with these field lines after its Host.
    fn get(fields: &str) -> String {
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")
    }

    #[test]
    fn each_broken_rule_has_its_fault() {
        let table: &[(HeadFault, &[u8])] = &[
            (MalformedRequestLine, b""),
            (MalformedRequestLine, b"\r\n\r\n"),
            (MalformedRequestLine, b"GET /\r\n\r\n"),
            (MalformedRequestLine, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (MalformedRequestLine, b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
            (MalformedRequestLine, b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
            (MalformedRequestLine, b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (MalformedRequestLine, b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
            (MalformedRequestLine, b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (MalformedRequestLine, b"GET / http/1.1\r\nHost: a\r\n\r\n"),
            (MalformedRequestLine, b"GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
            (MalformedRequestLine, b"GET / HTTP/1.1\r\nHost: a\r\n"),
            (MalformedRequestLine, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest"),
            (UnsupportedHttpVersion, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
            (UnsupportedHttpVersion, b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
            (UnsupportedHttpVersion, b"GET / HTTP/0.9\r\n\r\n"),
            (UnsupportedHttpVersion, b"PRI * HTTP/2.0\r\n\r\n"),
            (BareLf, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
            (BareLf, b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
            (BareLf, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
            (BareCr, b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n"),
            (BareCr, b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
            (InvalidByte, b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n"),
            (InvalidByte, b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
            (ObsFold, b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n"),
            (ObsFold, b"GET / HTTP/1.1\r\nHost: a\r\n\t\r\n\r\n"),
            (WhitespaceBeforeFirstField, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
            (SpaceBeforeColon, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
            (SpaceBeforeColon, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 5\r\n\r\n"),
            (InvalidFieldName, b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n"),
            (InvalidFieldName, b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
            (InvalidFieldName, b"GET / HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n"),
            (InvalidFieldName, b"GET / HTTP/1.1\r\nHost: a\r\n\xff: b\r\n\r\n"),
            (InvalidFieldValue, b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n"),
            (InvalidFieldValue, b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x7f\r\n\r\n"),
            (MissingHost, b"GET / HTTP/1.1\r\n\r\n"),
            (MissingHost, b"GET http://a/ HTTP/1.1\r\n\r\n"),
            (DuplicateHost, b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"),
            (DuplicateHost, b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
            (InvalidHost, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
            (InvalidHost, b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
            (InvalidHost, b"GET http://a/ HTTP/1.1\r\nHost: a/b\r\n\r\n"),
            (InvalidHost, b"GET / HTTP/1.0\r\nHost: \xff\r\n\r\n"),
            (InvalidTarget, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
            (InvalidTarget, b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
            (InvalidTarget, b"GET /\t HTTP/1.1\r\nHost: a\r\n\r\n"),
            (InvalidTarget, b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"),
            (InvalidTarget, b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"),
            (InvalidTarget, b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n"),
            (InvalidTarget, b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"),
            (
                ConflictingFraming,
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            (InvalidContentLength, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n"),
            (DuplicateContentLength, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n"),
            (ChunkedNotLast, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n"),
            (
                UnsupportedTransferCoding,
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            ),
            (TransferEncodingInHttp10, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            (UnknownExpectation, b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n"),
        ];
        for (fault, head) in table {
            assert_eq!(parse(head).err(), Some(*fault), "{}", head.escape_ascii());
        }
        let by_limit = [TargetTooLong, HeadTooLarge, TooManyFields];
        for fault in HeadFault::ALL {
            assert!(by_limit.contains(fault) || table.iter().any(|(f, _)| f == fault), "{fault:?}");
        }
    }

    #[test]
    fn each_limit_holds_to_the_byte() {
        let head = b"GET /1234 HTTP/1.1\r\nHost: a\r\nX: b\r\n\r\n";
        let exact = Limits { head_max: head.len(), fields_max: 2, target_max: 5 };
        let fault = |limits| Head::parse(head, &limits).err();
        assert_eq!(fault(exact), None);
        assert_eq!(fault(Limits { head_max: head.len() - 1, ..exact }), Some(HeadTooLarge));
        assert_eq!(fault(Limits { fields_max: 1, ..exact }), Some(TooManyFields));
        assert_eq!(fault(Limits { target_max: 4, ..exact }), Some(TargetTooLong));
    }

    #[test]
    fn a_whole_head_is_read() {
        let head = parse(
            b"\r\nPOST /chat?a HTTP/1.1\r\nhost:a:80 \r\nUpgrade: foo/1\r\nUpgrade: bar\r\nConnection: upgrade\r\n\
              EXPECT: 100-Continue\r\nContent-Length: 05\r\nX-Empty:\r\n\r\n",
        )
        .unwrap();
        assert_eq!((head.method, head.version), ("POST", Version::Http11));
        assert_eq!((head.target.path(), head.target.query()), ("/chat", Some("a")));
        assert_eq!(head.authority(), Some("a:80"));
        assert_eq!(head.framing, Framing::Length(5));
        assert!(head.expects_continue && head.keep_alive);
        assert_eq!(head.fields.tokens("upgrade").collect::<Vec<_>>(), ["foo/1", "bar"]);
        assert_eq!(head.fields.iter().count(), 7);
    }

    #[test]
    fn the_authority_of_the_target_wins_over_host() {
        let authority = |head: &'static [u8]| parse(head).unwrap().authority();
        assert_eq!(authority(b"GET http://b:81/ HTTP/1.1\r\nHost: a\r\n\r\n"), Some("b:81"));
        assert_eq!(authority(b"CONNECT b:443 HTTP/1.1\r\nHost: a\r\n\r\n"), Some("b:443"));
        assert_eq!(authority(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), Some("a"));
        assert_eq!(authority(b"GET / HTTP/1.0\r\n\r\n"), None);
    }

    #[test]
    fn only_100_continue_can_be_expected() {
        let expects = |fields| parse(get(fields).as_bytes()).map(|head| head.expects_continue);
        assert_eq!(expects("Expect: 100-continue\r\nExpect: 100-CONTINUE"), Ok(true));
        for other in ["Expect:", "Expect: 100-continue, x", "Expect: 100-continue\r\nExpect: x"] {
            assert_eq!(expects(other), Err(UnknownExpectation), "{other}");
        }
        assert!(!parse(b"GET / HTTP/1.0\r\nExpect: x\r\n\r\n").unwrap().expects_continue);
    }

    #[test]
    fn a_connection_stays_open_unless_a_client_says_close_or_speaks_http_1_0() {
        let keeps = |head: &str| parse(head.as_bytes()).unwrap().keep_alive;
        assert!(keeps(&get("Connection: keep-alive")));
        assert!(!keeps(&get("Connection: a, b\r\nConnection: upgrade , Close")));
        assert!(!keeps("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }
}
