//! The upgrade to HTTP/2 without TLS: RFC 7540 3.2, which RFC 9113 3.1 has made obsolete, and clients still ask for.

use crate::cli::doctor::{
    client::Trouble,
    probe::{
        Answered, Finding, H2C_SETTINGS, Judgement,
        Level::{Advice, Must, Should},
        Line,
        Need::{Cleartext, H2c, Tls},
        Probe, Talk, failed,
    },
};

const MALFORMED_MEANS: &str = "The server goes on with settings that it cannot have read; a proxy that strips the field lets HTTP/2 be smuggled past it.";
const MALFORMED_CURE: &str = "Ignore the offer, and answer in HTTP/1.1.";

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "h2c/switches",
        level: Must,
        rule: "RFC 7540 3.2",
        needs: &[H2c],
        what: "a good offer of `h2c`: 101 with `Upgrade: h2c` and `Connection: upgrade`, then SETTINGS as the first frame",
        means: "Clients fail the connection.",
        cure: "The 101 names `h2c`; the server's first frame is SETTINGS.",
        judge: |talk| {
            let (mut line, answered) = talk.ask(&talk.h2c_offer())?;
            let seen = answered.accepted()?;
            let answer = answered.answered()?;
            if !answer.has_token("upgrade", "h2c") || !answer.has_token("connection", "upgrade") {
                return failed(seen);
            }
            let first = h2_frame(&mut line)?;
            if (first.kind, first.flags & ACK, first.stream) == (SETTINGS, 0, 0) {
                Ok("101, then SETTINGS".into())
            } else {
                failed(format!("101, then a frame of type {}", first.kind))
            }
        },
    },
    Probe {
        id: "h2c/connection-in-small",
        level: Advice,
        rule: "RFC 9110 7.6.1",
        needs: &[H2c],
        what: "a good offer: `upgrade` in small letters in the 101's Connection",
        means: "python-hyper compares it byte by byte, and fails.",
        cure: "Write `Connection: upgrade`.",
        judge: |talk| {
            let (_line, answered) = talk.ask(&talk.h2c_offer())?;
            let answer = answered.answered()?;
            if answer.items("connection").any(|item| item == "upgrade") {
                Ok(answer.brief())
            } else {
                failed(answer.brief())
            }
        },
    },
    Probe {
        id: "h2c/stream-1",
        level: Must,
        rule: "RFC 7540 3.2",
        needs: &[H2c],
        what: "a good offer, the preface and SETTINGS: the request is answered on stream 1",
        means: "The first request of a client gets no answer.",
        cure: "The request that was upgraded is stream 1, and owed an answer there.",
        judge: |talk| opened(talk, &talk.h2c_offer().bytes(), 1),
    },
    Probe {
        id: "h2c/one-acknowledgement",
        level: Must,
        rule: "RFC 7540 3.2.1",
        needs: &[H2c],
        what: "a good offer, the preface, SETTINGS and a ping: one SETTINGS acknowledgement, because HTTP2-Settings needs none",
        means: "nghttp2 ends the connection with PROTOCOL_ERROR.",
        cure: "Acknowledge the SETTINGS frame, not the field.",
        judge: |talk| {
            let (mut line, answered) = talk.ask(&talk.h2c_offer())?;
            answered.accepted()?;
            line.send(&[PREFACE, &settings(), &h2(PING, 0, 0, b"doctor00")].concat());
            let mut acknowledged = 0;
            loop {
                let frame = h2_frame(&mut line)?;
                match (frame.kind, frame.flags & ACK != 0) {
                    (SETTINGS, true) => acknowledged += 1,
                    (PING, true) if acknowledged == 1 => return Ok("one".into()),
                    (PING, true) => return failed(format!("{acknowledged} before the ping's answer")),
                    (GOAWAY, _) => return failed("GOAWAY"),
                    _ => {}
                }
            }
        },
    },
    Probe {
        id: "h2c/second-request",
        level: Must,
        rule: "RFC 7540 3.2",
        needs: &[H2c],
        what: "after the upgrade a request on stream 3: answered",
        means: "Clients can send one request for each connection.",
        cure: "After the 101 the connection is HTTP/2 like any other.",
        judge: |talk| {
            let (mut line, answered) = talk.ask(&talk.h2c_offer())?;
            answered.accepted()?;
            line.send(&[PREFACE, &settings(), &request(talk)].concat());
            answered_on(&mut line, 3)
        },
    },
    Probe {
        id: "h2c/no-settings",
        level: Must,
        rule: "RFC 7540 3.2.1",
        needs: &[H2c],
        what: "`Upgrade: h2c` without `HTTP2-Settings`: no 101",
        means: MALFORMED_MEANS,
        cure: MALFORMED_CURE,
        judge: |talk| talk.ask(&talk.h2c_offer().without("HTTP2-Settings"))?.1.not_switched(),
    },
    Probe {
        id: "h2c/two-settings",
        level: Must,
        rule: "RFC 7540 3.2.1",
        needs: &[H2c],
        what: "two `HTTP2-Settings`: no 101",
        means: MALFORMED_MEANS,
        cure: MALFORMED_CURE,
        judge: |talk| talk.ask(&talk.h2c_offer().add("HTTP2-Settings", H2C_SETTINGS))?.1.not_switched(),
    },
    Probe {
        id: "h2c/settings-not-in-connection",
        level: Should,
        rule: "RFC 7540 3.2.1",
        needs: &[H2c],
        what: "`HTTP2-Settings` that `Connection` does not name: no 101",
        means: "Through proxies that pass `Upgrade` on by a fixed rule, HTTP/2 can be smuggled past their checks.",
        cure: MALFORMED_CURE,
        judge: |talk| talk.ask(&talk.h2c_offer().set("Connection", "Upgrade"))?.1.not_switched(),
    },
    Probe {
        id: "h2c/not-base64",
        level: Must,
        rule: "RFC 7540 3.2.1",
        needs: &[H2c],
        what: "`HTTP2-Settings: !!!!`: no 101",
        means: MALFORMED_MEANS,
        cure: MALFORMED_CURE,
        judge: |talk| talk.ask(&talk.h2c_offer().set("HTTP2-Settings", "!!!!"))?.1.not_switched(),
    },
    Probe {
        id: "h2c/settings-cut",
        level: Must,
        rule: "RFC 7540 6.5",
        needs: &[H2c],
        what: "`HTTP2-Settings` of 8 bytes, no multiple of 6: no 101",
        means: MALFORMED_MEANS,
        cure: MALFORMED_CURE,
        judge: |talk| talk.ask(&talk.h2c_offer().set("HTTP2-Settings", "AAMAAABkAAQ"))?.1.not_switched(),
    },
    Probe {
        id: "h2c/illegal-setting",
        level: Must,
        rule: "RFC 7540 6.5.2",
        needs: &[H2c],
        what: "`HTTP2-Settings` with a window of 2^32 - 1: no 101, or the connection ends with an error",
        means: "The windows of the two sides are out of step.",
        cure: MALFORMED_CURE,
        judge: |talk| {
            let (mut line, answered) = talk.ask(&talk.h2c_offer().set("HTTP2-Settings", "AAT_____"))?;
            ends_with_error(&mut line, &answered, b"")
        },
    },
    Probe {
        id: "h2c/errors-are-plain",
        level: Should,
        rule: "RFC 9110 7.8",
        needs: &[Cleartext],
        what: "an offer without `HTTP2-Settings`: an answer in HTTP/1.1 that is not 5xx",
        means: "A request that could be answered is not, only for an offer that may be ignored.",
        cure: MALFORMED_CURE,
        judge: |talk| {
            let answered = talk.ask(&talk.h2c_offer().without("HTTP2-Settings"))?.1;
            let answer = answered.answered()?;
            if answer.status < 500 { Ok(answer.brief()) } else { failed(answer.brief()) }
        },
    },
    Probe {
        id: "h2c/http-1-0",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[H2c],
        what: "the offer in HTTP/1.0: no 101",
        means: "A proxy that speaks HTTP/1.0 to this server cannot carry it.",
        cure: MALFORMED_CURE,
        judge: |talk| talk.ask(&talk.h2c_offer().version("HTTP/1.0"))?.1.not_switched(),
    },
    Probe {
        id: "h2c/h2-token",
        level: Must,
        rule: "RFC 7540 3.2",
        needs: &[],
        what: "`Upgrade: h2`, which is for TLS and ALPN: no 101",
        means: "The token was reserved so that nobody does this.",
        cure: MALFORMED_CURE,
        judge: |talk| talk.ask(&talk.h2c_offer().set("Upgrade", "h2"))?.1.not_switched(),
    },
    Probe {
        id: "h2c/not-over-tls",
        level: Must,
        rule: "RFC 7540 3.2",
        needs: &[Tls],
        what: "`Upgrade: h2c` over TLS: no 101",
        means: "A request is smuggled past whoever ends the TLS and looks at each.",
        cure: "Over TLS HTTP/2 is chosen by ALPN: ignore the offer. A proxy must not pass it on.",
        judge: |talk| talk.ask(&talk.h2c_offer())?.1.not_switched(),
    },
    Probe {
        id: "h2c/list",
        level: Should,
        rule: "RFC 9110 7.8",
        needs: &[H2c],
        what: "`Upgrade: foo, h2c`: 101 to h2c",
        means: "A client that offers more than one protocol does not get any.",
        cure: "Read `Upgrade` as a list.",
        judge: |talk| talk.ask(&talk.h2c_offer().set("Upgrade", "foo, h2c"))?.1.accepted(),
    },
    Probe {
        id: "h2c/two-lines",
        level: Should,
        rule: "RFC 9110 5.3",
        needs: &[H2c],
        what: "two lines, `Upgrade: foo` and `Upgrade: h2c`: 101 to h2c",
        means: "A client that offers more than one protocol does not get any.",
        cure: "Lines of one name are one list.",
        judge: |talk| talk.ask(&talk.h2c_offer().set("Upgrade", "foo").add("Upgrade", "h2c"))?.1.accepted(),
    },
    Probe {
        id: "h2c/body",
        level: Must,
        rule: "RFC 7540 3.2",
        needs: &[H2c],
        what: "a POST with a body of 5 bytes: no 101, or an answer on stream 1; the body is not taken for HTTP/2",
        means: "The two sides are out of step: the first frames are read from the middle of the body.",
        cure: "Read the body whole before the 101, or answer in HTTP/1.1.",
        judge: |talk| {
            let head = talk.h2c_offer().method("POST").add("Content-Length", "5");
            opened(talk, &head.then(b"hello"), 1)
        },
    },
    Probe {
        id: "h2c/continue-first",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[H2c],
        what: "a POST that expects 100-continue: no 101 without a 100 before it",
        means: "The client never sends its body, and its preface is taken for it.",
        cure: "Send 100 before 101.",
        judge: |talk| {
            let head =
                talk.h2c_offer().method("POST").add("Content-Length", "5").add("Expect", "100-continue");
            let mut line = talk.connect()?;
            line.send(&head.bytes());
            match line.one_answer() {
                Ok(answer) if answer.status == 101 => failed("101 without a 100"),
                Ok(answer) => Ok(answer.brief()),
                Err(trouble @ Trouble::Silence(_)) => failed(trouble.to_string()),
                Err(trouble) => Ok(trouble.to_string()),
            }
        },
    },
    Probe {
        id: "h2c/bad-preface",
        level: Must,
        rule: "RFC 7540 3.5",
        needs: &[H2c],
        what: "behind the 101 something else than the preface: the connection ends",
        means: "What is no HTTP/2 is read as if it were.",
        cure: "Compare the preface, and close with PROTOCOL_ERROR.",
        judge: |talk| {
            let (mut line, answered) = talk.ask(&talk.h2c_offer())?;
            ends_with_error(&mut line, &answered, b"GET / HTTP/1.1\r\nHost: doctor.invalid\r\n\r\n")
        },
    },
    Probe {
        id: "h2c/no-settings-frame",
        level: Must,
        rule: "RFC 7540 3.5",
        needs: &[H2c],
        what: "the preface, then a ping where SETTINGS has to be: the connection ends with an error",
        means: "What is no HTTP/2 is read as if it were.",
        cure: "The preface ends with a SETTINGS frame: close with PROTOCOL_ERROR.",
        judge: |talk| {
            let (mut line, answered) = talk.ask(&talk.h2c_offer())?;
            ends_with_error(&mut line, &answered, &[PREFACE, &h2(PING, 0, 0, b"doctor00")].concat())
        },
    },
    Probe {
        id: "h2c/early-preface",
        level: Should,
        rule: "RFC 9931",
        needs: &[H2c],
        what: "the preface in the same packet as the request: no 101, or an answer on stream 1; it is not lost",
        means: "Clients that do not wait hang.",
        cure: "Hand what was read behind the head to HTTP/2.",
        judge: |talk| {
            let bytes = talk.h2c_offer().then(&[PREFACE, &settings()].concat());
            let (mut line, answered) = talk.ask_raw(&bytes)?;
            match &answered.0 {
                Ok(answer) if answer.status == 101 => answered_on(&mut line, 1),
                _ => answered.not_switched(),
            }
        },
    },
    Probe {
        id: "h2c/behind-a-proxy",
        level: Advice,
        rule: "RFC 9110 7.8",
        needs: &[H2c],
        what: "an offer with `Via` and `X-Forwarded-For`, which a proxy has passed on: no 101",
        means: "Clients speak HTTP/2 to this server past the proxy's rules (h2c smuggling).",
        cure: "Turn h2c off behind proxies, or let the proxy drop `Upgrade: h2c`.",
        judge: |talk| {
            let head = talk.h2c_offer().add("Via", "1.1 doctor.invalid").add("X-Forwarded-For", "192.0.2.1");
            talk.ask(&head)?.1.not_switched()
        },
    },
    Probe {
        id: "h2c/prior-knowledge",
        level: Advice,
        rule: "RFC 9113 3.3",
        needs: &[Cleartext],
        what: "HTTP/2's preface as the first bytes: SETTINGS, an error in HTTP/1.1 or the end; never a request that is carried out",
        means: "Clients with prior knowledge wait for nothing.",
        cure: "Answer what is not understood with 400 or 505, and close.",
        judge: |talk| {
            let mut line = talk.connect()?;
            line.send(&[PREFACE, &settings()].concat());
            let begun = match line.take(9) {
                Ok(bytes) => bytes,
                Err(trouble @ (Trouble::Closed | Trouble::Reset)) => return Ok(trouble.to_string()),
                Err(trouble) => return failed(trouble.to_string()),
            };
            match &begun[..] {
                [_, _, _, SETTINGS, _, 0, 0, 0, 0] => Ok("SETTINGS".into()),
                text if text.starts_with(b"HTTP/1.") => {
                    let rest = line.take(3).map_err(|trouble| Finding::Failed(trouble.to_string()))?;
                    let status = String::from_utf8_lossy(&rest).into_owned();
                    if rest.starts_with(b"2") { failed(status) } else { Ok(status) }
                }
                other => failed(other.escape_ascii().to_string()),
            }
        },
    },
];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

fn h2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn settings() -> Vec<u8> {
    h2(SETTINGS, 0, 0, b"\0\x03\0\0\0\x64\0\x04\0\0\xff\xff")
}

/// A GET on stream 3, in HPACK without compression.
fn request(talk: &Talk<'_>) -> Vec<u8> {
    // 0x82: `:method: GET`, 0x86: `:scheme: http`, then `:path` and `:authority` as literals.
    let mut block = vec![0x82, 0x86];
    for (index, value) in [(4, talk.setting.target.path.as_str()), (1, &talk.setting.target.authority())] {
        let value = &value.as_bytes()[..value.len().min(126)];
        block.extend([index, value.len() as u8]);
        block.extend(value);
    }
    h2(HEADERS, 0x05, 3, &block)
}

struct H2Frame {
    kind: u8,
    flags: u8,
    stream: u32,
}

fn h2_frame(line: &mut Line<'_>) -> Result<H2Frame, Finding> {
    next(line).map_err(|trouble| Finding::Failed(trouble.to_string()))
}

fn next(line: &mut Line<'_>) -> Result<H2Frame, Trouble> {
    let header = line.take(9)?;
    let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
    line.take(length)?;
    let stream = u32::from_be_bytes([header[5] & 0x7f, header[6], header[7], header[8]]);
    Ok(H2Frame { kind: header[3], flags: header[4], stream })
}

/// Sends an offer, then opens HTTP/2: no 101, or HEADERS on that stream.
fn opened(talk: &Talk<'_>, bytes: &[u8], stream: u32) -> Judgement {
    let (mut line, answered) = talk.ask_raw(bytes)?;
    match &answered.0 {
        Ok(answer) if answer.status == 101 => {
            line.send(&[PREFACE, &settings()].concat());
            answered_on(&mut line, stream)
        }
        _ => answered.not_switched(),
    }
}

fn answered_on(line: &mut Line<'_>, stream: u32) -> Judgement {
    loop {
        let frame = h2_frame(line)?;
        match frame.kind {
            HEADERS if frame.stream == stream => return Ok(format!("an answer on stream {stream}")),
            GOAWAY => return failed("GOAWAY"),
            _ => {}
        }
    }
}

/// No 101; or GOAWAY or the end, after these bytes.
fn ends_with_error(line: &mut Line<'_>, answered: &Answered, bytes: &[u8]) -> Judgement {
    match &answered.0 {
        Ok(answer) if answer.status == 101 => {}
        _ => return answered.not_switched(),
    }
    line.send(bytes);
    loop {
        match next(line) {
            Ok(frame) if frame.kind == GOAWAY => return Ok("101, then GOAWAY".into()),
            Ok(_) => {}
            Err(trouble @ (Trouble::Closed | Trouble::Reset)) => return Ok(format!("101, then: {trouble}")),
            Err(trouble) => return failed(format!("101, then: {trouble}, and the connection stays open")),
        }
    }
}
