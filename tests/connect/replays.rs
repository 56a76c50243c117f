//! Traces, played again.

use std::{fs, path::PathBuf, time::Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{
    Run, run,
    server::{Once, Ours, field, listen},
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A trace file that goes with the test.
struct Trace(PathBuf);

impl Trace {
    /// Of a client that said `said`, and was answered with `heard`, both as frames: at `at` seconds, from the client?, bytes.
    fn new(name: &str, path: &str, moves: &[(f64, bool, &[u8])]) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: old.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nCookie: id=****\r\n\r\n"
        );
        let response = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let at = request.find("id=").unwrap();
        let mut lines = vec![
            json!({"kind": "trace", "version": 1, "server": "switchpoint 0.1.0"}),
            json!({"kind": "request", "session": "0-1-2", "t": 0.0, "dir": "in", "http": "1.1",
                "bytes": STANDARD.encode(&request), "redacted": [{"what": "cookie", "at": at, "length": 7}]}),
            json!({"kind": "response", "session": "0-1-2", "t": 0.001, "dir": "out", "bytes": STANDARD.encode(response)}),
            json!({"kind": "switched", "session": "0-1-2", "t": 0.001, "token": "websocket"}),
        ];
        for (at, is_client, bytes) in moves {
            let dir = if *is_client { "in" } else { "out" };
            lines.push(json!({"kind": "frame", "session": "0-1-2", "t": at, "dir": dir, "bytes": STANDARD.encode(bytes)}));
        }
        lines.push(json!({"kind": "end", "session": "0-1-2", "t": 9.0, "why": "frames"}));
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let path = std::env::temp_dir().join(format!("switchpoint-trace-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn replay(&self, arguments: &[&str]) -> Run {
        run(&[&["replay", self.0.to_str().unwrap()], arguments].concat(), b"")
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// `hello`, with the mask 0.
const HELLO: &[u8] = b"\x81\x85\0\0\0\0hello";

#[test]
fn the_same_server_answers_the_same() {
    let server = Ours::start();
    let trace = Trace::new(
        "same",
        "/echo",
        &[(0.1, true, HELLO), (0.2, false, b"\x81\x05hello"), (0.3, true, HELLO)],
    );
    let run = trace.replay(&[&server.url(""), "--compare"]);
    run.is_fine();
    assert!(
        run.out().contains("session 0-1-2: GET /echo HTTP/1.1; 2 of 2 sent; answered as it was"),
        "{run:?}"
    );
    assert!(run.err.contains("Cookie was redacted: give it anew with -H 'Cookie: …'"), "{run:?}");
    let run = trace.replay(&[&server.url(""), "--speed", "max"]);
    let shown = "  answered with 101\n  text, 5 bytes: \"hello\"\n  text, 5 bytes: \"hello\"\n";
    assert!(run.is_fine().out().ends_with(shown), "{run:?}");
}

#[test]
fn what_is_answered_differently_is_shown() {
    let server = Ours::start();
    let trace = Trace::new("other", "/echo", &[(0.0, true, HELLO), (0.0, false, b"\x81\x05HELLO")]);
    let run = trace.replay(&[&server.url(""), "--compare", "-H", "Cookie: id=1"]);
    run.fails(1, &["1 of 1 sessions were answered differently"]);
    assert!(!run.err.contains("redacted"), "{run:?}");
    assert!(
        run.out().contains("frame 1: recorded text, 5 bytes: \"HELLO\", now text, 5 bytes: \"hello\""),
        "{run:?}"
    );
    // Another path, where nothing is.
    let run = trace.replay(&[&server.url("/nowhere"), "--compare"]);
    run.fails(1, &[]);
    assert!(run.out().contains("status: recorded 101, now 404"), "{run:?}");
    // An answer that never comes.
    let trace = Trace::new(
        "missing",
        "/echo",
        &[(0.0, true, HELLO), (0.0, false, b"\x81\x01a"), (0.0, false, b"\x81\x01b")],
    );
    let run = trace.replay(&[&server.url(""), "--compare", "--wait", "300ms"]);
    run.fails(1, &[]);
    assert!(run.out().contains("frame 2: recorded text, 1 bytes: \"b\", now none"), "{run:?}");
}

#[test]
fn it_is_sent_as_it_was_and_when_it_was() {
    let trace =
        Trace::new("times", "/p", &[(1.0, true, HELLO), (1.6, true, b"\x82\x81\x01\x01\x01\x01\x00")]);
    let server = Once::start(|stream| listen(stream, ""));
    let begun = Instant::now();
    trace
        .replay(&[&server.url, "--speed", "2", "--wait", "100ms", "--bearer", "t", "--cookie", "a=b"])
        .is_fine();
    let (head, frames) = server.end();
    assert!(begun.elapsed().as_millis() >= 300, "the pause is halved, and not left out");
    assert!(head.starts_with("GET /p HTTP/1.1\r\nHost: 127.0.0.1:"), "{head}");
    assert_eq!(field(&head, "Sec-WebSocket-Key"), Some(KEY));
    assert_eq!(field(&head, "Cookie"), Some("a=b"));
    assert_eq!(field(&head, "Authorization"), Some("Bearer t"));
    let close = (0x88, 1000_u16.to_be_bytes().to_vec());
    assert_eq!(frames, [(0x81, b"hello".to_vec()), (0x82, vec![1]), close]);
}

#[test]
fn what_is_no_trace_is_said() {
    run(&["replay", "/nonexistent", "ws://a/"], b"").fails(2, &["/nonexistent"]);
    run(&["replay", "/dev/null", "ws://a/"], b"").fails(2, &["no session"]);
    run(&["replay", env!("CARGO_MANIFEST_PATH"), "ws://a/"], b"").fails(2, &["line 1: no JSON"]);
    let trace = Trace::new("none", "/", &[]);
    trace.replay(&["ws://a/", "--session", "x"]).fails(2, &["no session x"]);
    trace.replay(&["ws://a/", "--speed", "0"]).fails(2, &["`max`"]);
    trace.replay(&["ws://127.0.0.1:1/"]).fails(3, &[]);
}
