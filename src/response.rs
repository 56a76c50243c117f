//! An HTTP/1.1 response: as much as ordinary resources, refusals and the 101 need.

use std::{borrow::Cow, fmt::Write as _};

use crate::{Token, http};

/// What an ordinary resource answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(&'static str, Cow<'static, str>)>,
    pub(crate) body: Cow<'static, [u8]>,
}

impl Response {
    /// A response without a body.
    pub fn new(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Cow::Borrowed(b"") }
    }

    /// 200 with plain text.
    pub fn text(body: impl Into<Cow<'static, str>>) -> Self {
        Self::new(200).with_body("text/plain; charset=utf-8", body)
    }

    /// 200 with a page.
    pub fn html(body: impl Into<Cow<'static, str>>) -> Self {
        Self::new(200).with_body("text/html; charset=utf-8", body)
    }

    /// Adds a body and its `Content-Type`. `Content-Length` is written for you.
    pub fn with_body(mut self, content_type: &'static str, body: impl Into<Cow<'static, str>>) -> Self {
        self.body = match body.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        self.field("Content-Type", content_type)
    }

    /// Adds a body of bytes and its `Content-Type`.
    pub fn with_bytes(mut self, content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Self {
        self.body = body.into();
        self.field("Content-Type", content_type)
    }

    /// Changes the status code.
    ///
    /// # Panics
    /// If it is not that of a final answer, from 200 to 599.
    pub fn with_status(mut self, status: u16) -> Self {
        assert!((200..600).contains(&status), "{status} is no final status");
        self.status = status;
        self
    }

    /// Adds a header field. A field that is not valid, or that frames the message, turns the answer into a 500.
    pub fn field(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    pub(crate) fn has_valid_fields(&self) -> bool {
        self.fields.iter().all(|(name, value)| is_valid_field(name, value))
    }

    /// Whether its status has no body, whatever was given to it (RFC 9110 6.4.1).
    pub(crate) fn has_no_body(&self) -> bool {
        matches!(self.status, 204 | 304)
    }

    /// Writes it whole; `head_only` for the answer to HEAD, which has the length of a body that is not there.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, date: &str, connection: Option<&str>, head_only: bool) {
        let mut head = String::with_capacity(256);
        status_line(&mut head, self.status);
        for (name, value) in &self.fields {
            field_line(&mut head, name, value);
        }
        field_line(&mut head, "Date", date);
        if let Some(connection) = connection {
            field_line(&mut head, "Connection", connection);
        }
        let has_no_body = self.has_no_body();
        if !has_no_body {
            let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
        }
        head.push_str("\r\n");
        out.extend_from_slice(head.as_bytes());
        if !head_only && !has_no_body {
            out.extend_from_slice(&self.body);
        }
    }
}

/// The head of a 101: what a 1xx may carry and nothing else (RFC 9110 15.2, RFC 9112 6.1).
///
/// `Connection: upgrade` is in lower case because there are clients that compare it as it stands.
pub(crate) fn switching_protocols(token: Token, fields: &[(&'static str, Cow<'static, str>)]) -> String {
    let mut head = String::with_capacity(160);
    status_line(&mut head, 101);
    let _ = write!(head, "Upgrade: {token}\r\nConnection: upgrade\r\n");
    for (name, value) in fields {
        field_line(&mut head, name, value);
    }
    head.push_str("\r\n");
    head
}

/// What answers an extended CONNECT, in the same form (RFC 8441 5).
pub(crate) fn session_on_stream(fields: &[(&'static str, Cow<'static, str>)]) -> String {
    let mut head = String::from("HTTP/2 200\r\n");
    for (name, value) in fields {
        field_line(&mut head, &name.to_ascii_lowercase(), value);
    }
    head.push_str("\r\n");
    head
}

/// A token for a name, no line break or other control character in the value, and not a field that only we may write.
pub(crate) fn is_valid_field(name: &str, value: &str) -> bool {
    let is_ours = match name.len() {
        2 => name.eq_ignore_ascii_case("te"),
        4 => name.eq_ignore_ascii_case("date"),
        7 => name.eq_ignore_ascii_case("trailer") || name.eq_ignore_ascii_case("upgrade"),
        10 => name.eq_ignore_ascii_case("connection") || name.eq_ignore_ascii_case("keep-alive"),
        14 => name.eq_ignore_ascii_case("content-length"),
        16 => name.eq_ignore_ascii_case("proxy-connection"),
        17 => name.eq_ignore_ascii_case("transfer-encoding"),
        _ => false,
    };
    http::list::is_token(name)
        && !is_ours
        && value.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

fn status_line(head: &mut String, status: u16) {
    let _ = write!(head, "HTTP/1.1 {status} {}\r\n", phrase(status));
}

fn field_line(head: &mut String, name: &str, value: &str) {
    let _ = write!(head, "{name}: {value}\r\n");
}

/// The standard phrase of a status code (RFC 9110 15).
pub(crate) fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(response: &Response, head_only: bool) -> String {
        let mut out = Vec::new();
        response.encode(&mut out, "Sun, 22 Nov 2026 12:00:00 GMT", Some("close"), head_only);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_has_its_length_and_head_has_it_without_the_body() {
        let response = Response::text("hello").field("Cache-Control", "no-store");
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n\
            Date: Sun, 22 Nov 2026 12:00:00 GMT\r\nConnection: close\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(encoded(&response, false), format!("{expected}hello"));
        assert_eq!(encoded(&response, true), expected);
        let nothing = encoded(&Response::text("not to be seen").with_status(204), false);
        assert!(!nothing.contains("Content-Length") && nothing.ends_with("\r\n\r\n"));
    }

    #[test]
    fn a_101_carries_what_a_1xx_may_carry() {
        assert_eq!(
            switching_protocols(Token::new("echo/1"), &[("X-Seen", "yes".into())]),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo/1\r\nConnection: upgrade\r\nX-Seen: yes\r\n\r\n"
        );
    }

    #[test]
    fn a_field_can_neither_split_the_answer_nor_frame_it() {
        for (name, value) in [
            ("X-A", "b\r\nSet-Cookie: c"),
            ("X-A", "b\n"),
            ("X A", "b"),
            ("", "b"),
            ("content-LENGTH", "3"),
            ("Proxy-Connection", "keep-alive"),
        ] {
            assert!(!is_valid_field(name, value), "{name}: {value}");
        }
        assert!(is_valid_field("Sec-WebSocket-Protocol", "chat"));
    }
}
