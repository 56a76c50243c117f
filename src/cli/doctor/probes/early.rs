//! What comes before the 101 and is not the head: bodies and early bytes. RFC 9110 7.8, RFC 6455 4.1, RFC 9931.

use crate::cli::doctor::{
    client::Trouble,
    frame::{FIN, PING, PONG, masked},
    probe::{
        Judgement,
        Level::{Advice, Must, Should},
        Line, Need, Probe, Talk, failed,
    },
};

const BODY_MEANS: &str = "Whoever can choose a body can speak in the session of the client: HTTP and the new protocol are out of step.";
const BODY_CURE: &str = "Read the body whole before the 101, or refuse a handshake with a body (400).";

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "early/body",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[Need::WebSocket],
        what: "a body of 5 bytes, then a ping: no 101, or a pong; the body is no frame",
        means: BODY_MEANS,
        cure: BODY_CURE,
        judge: |talk| behind_a_body(talk, "Content-Length", "5", b"hello"),
    },
    Probe {
        id: "early/chunked-body",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[Need::WebSocket],
        what: "a chunked body of 5 bytes, then a ping: no 101, or a pong; the chunks are no frames",
        means: BODY_MEANS,
        cure: BODY_CURE,
        judge: |talk| behind_a_body(talk, "Transfer-Encoding", "chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    },
    Probe {
        id: "early/body-that-is-a-frame",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[Need::WebSocket],
        what: "a body that is a whole ping: no pong for it",
        means: BODY_MEANS,
        cure: BODY_CURE,
        judge: |talk| {
            let frame = masked(FIN | PING, b"from the body");
            let head = talk.offer().add("Content-Length", &frame.len().to_string());
            let (mut line, answered) = talk.ask_raw(&head.then(&frame))?;
            match &answered.0 {
                Ok(answer) if answer.status == 101 => match line.frame() {
                    Ok(frame) if frame.opcode() == PONG => {
                        failed(format!("101, and {} for the body", frame.brief()))
                    }
                    Ok(frame) => Ok(format!("101, then {}", frame.brief())),
                    Err(trouble) => Ok(format!("101, then: {trouble}")),
                },
                _ => answered.not_switched(),
            }
        },
    },
    Probe {
        id: "early/body-awaited",
        level: Should,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "a body of 5 bytes of which 2 have come: no 101 yet",
        means: "The rest of the body, which is still on its way, is taken for the new protocol.",
        cure: BODY_CURE,
        judge: |talk| {
            let head = talk.offer().add("Content-Length", "5");
            let (_line, answered) = talk.ask_raw(&head.then(b"he"))?;
            answered.not_switched()
        },
    },
    Probe {
        id: "early/frame",
        level: Should,
        rule: "RFC 6455 4.1",
        needs: &[Need::WebSocket],
        what: "a ping in the same packet as the handshake, which is too early: no 101, or a pong; it is not lost",
        means: "Messages of clients that do not wait are lost without a word.",
        cure: "Hand what was read behind the head to the WebSocket (in Go: the buffer of `Hijack`), or refuse it.",
        judge: |talk| {
            let (mut line, answered) = talk.ask_raw(&talk.offer().then(&masked(FIN | PING, b"too early")))?;
            match &answered.0 {
                Ok(answer) if answer.status == 101 => ponged(&mut line, b"too early"),
                _ => answered.not_switched(),
            }
        },
    },
    Probe {
        id: "early/refused",
        level: Advice,
        rule: "RFC 9931",
        needs: &[],
        what: "an unknown token with a request behind it: the request is not carried out",
        means: "A client that did not wait for its 101 sends what others wrote: it is read as a request, with this client's rights.",
        cure: "Close the connection when an upgrade is refused and bytes have come behind it.",
        judge: |talk| {
            let head = talk.offer().set("Upgrade", "irc/2.0");
            let (mut line, answered) = talk.ask_raw(&head.then(&talk.plain().bytes()))?;
            let Ok(answer) = &answered.0 else {
                return answered.not_switched();
            };
            match line.answer() {
                Ok(second) => {
                    failed(format!("{}, then {} to the bytes behind it", answer.brief(), second.brief()))
                }
                Err(trouble @ (Trouble::Closed | Trouble::Reset)) => {
                    Ok(format!("{}, then: {trouble}", answer.brief()))
                }
                Err(trouble) => Ok(format!("{}, then {trouble}", answer.brief())),
            }
        },
    },
    Probe {
        id: "early/get-body-ignored",
        level: Must,
        rule: "RFC 9112 6.3",
        needs: &[],
        what: "a refused handshake (an unknown token) with a body, then a GET: the body is no request",
        means: "Whoever can choose a body can send requests of his own through the connections of a proxy.",
        cure: "Read a refused request's body, or close the connection.",
        judge: |talk| {
            let inside = talk.plain().target("/doctor-smuggled").bytes();
            let head =
                talk.offer().set("Upgrade", "irc/2.0").add("Content-Length", &inside.len().to_string());
            let (mut line, answered) = talk.ask_raw(&head.then(&inside))?;
            if answered.0.is_err() {
                return answered.not_switched();
            }
            match line.answer() {
                Ok(second) => {
                    failed(format!("{}, then {} to the body", answered.answered()?.brief(), second.brief()))
                }
                Err(trouble) => Ok(format!("{}, then: {trouble}", answered.answered()?.brief())),
            }
        },
    },
];

fn behind_a_body(talk: &Talk<'_>, name: &str, value: &str, body: &[u8]) -> Judgement {
    let bytes = [body, &masked(FIN | PING, b"behind the body")].concat();
    let (mut line, answered) = talk.ask_raw(&talk.offer().add(name, value).then(&bytes))?;
    match &answered.0 {
        Ok(answer) if answer.status == 101 => ponged(&mut line, b"behind the body"),
        _ => answered.not_switched(),
    }
}

fn ponged(line: &mut Line<'_>, payload: &[u8]) -> Judgement {
    loop {
        match line.frame() {
            Ok(frame) if frame.opcode() == PONG && frame.payload == payload => {
                return Ok("101, and a pong".into());
            }
            // A greeting, or a ping of its own.
            Ok(frame) if matches!(frame.opcode(), 1 | 2 | PING) => {}
            Ok(frame) => return failed(format!("101, then {}", frame.brief())),
            Err(trouble) => return failed(format!("101, then: {trouble}")),
        }
    }
}
