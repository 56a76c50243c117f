//! The route that sends back the head of the request, so that a client can see what a proxy has made of it.

use switchpoint::{Request, Response};

/// The head as it arrived. The values of fields that could be secrets are left out: those of the client, which a proxy
/// may show to others, and those that a proxy has added.
pub(super) fn answer(request: &Request<'_>) -> Response {
    let head = request.raw_head();
    Response::text(redacted(&String::from_utf8_lossy(&head)))
        .field("Cache-Control", "no-store")
        .field("X-Switchpoint-Head", "1")
}

fn redacted(head: &str) -> String {
    let mut shown = String::with_capacity(head.len());
    for (place, line) in head.split("\r\n").enumerate() {
        match line.split_once(':') {
            Some((name, _)) if place > 0 && !is_shown(name) => {
                shown.push_str(name);
                shown.push_str(": [redacted]");
            }
            _ => shown.push_str(line),
        }
        shown.push('\n');
    }
    shown
}

fn is_shown(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("sec-websocket-") && name != "sec-websocket-protocol" || SHOWN.contains(&name.as_str())
}

/// What says how a request has travelled, and nothing of who sent it. (A subprotocol can carry a token.)
const SHOWN: &[&str] = &[
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "pragma",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let head = "GET /debug/head HTTP/1.1\r\nHost: a.example\r\nCookie: id=1\r\nSec-WebSocket-Protocol: token\r\nVia: 1.1 b";
        assert_eq!(
            redacted(head),
            "GET /debug/head HTTP/1.1\nHost: a.example\nCookie: [redacted]\nSec-WebSocket-Protocol: [redacted]\nVia: 1.1 b\n"
        );
    }
}
