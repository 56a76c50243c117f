//! The closing handshake: RFC 6455 sections 5.5.1, 7.1 and 7.4.

use std::time::Duration;

use crate::cli::doctor::{
    client::Trouble,
    frame::{CLOSE, FIN, Frame, TEXT, close_payload, masked},
    probe::{
        Finding, Judgement,
        Level::{Advice, Must, Should},
        Line,
        Need::{Echo, WebSocket},
        Probe, Talk, failed,
    },
};

const CODE_MEANS: &str =
    "A code that must never be sent reaches programs, which take it for what only they themselves may say.";
const CODE_CURE: &str = "Answer a close with such a code with 1002, not with the same code.";

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "closing/answered",
        level: Must,
        rule: "RFC 6455 5.5.1",
        needs: &[WebSocket],
        what: "a close with 1000: a close frame",
        means: "Browsers report 1006, an abnormal end, and wait for it.",
        cure: "Answer a close frame with a close frame.",
        judge: |talk| closed(talk, &close_payload(1000, "")).map(|frame| frame.brief()),
    },
    Probe {
        id: "closing/same-code",
        level: Should,
        rule: "RFC 6455 5.5.1",
        needs: &[WebSocket],
        what: "a close with 1000 and a reason: a close frame with 1000",
        means: "The client learns another code than it has sent.",
        cure: "Send the code back.",
        judge: |talk| with_code(talk, 1000),
    },
    Probe {
        id: "closing/own-code",
        level: Should,
        rule: "RFC 6455 7.4.2",
        needs: &[WebSocket],
        what: "a close with 4999, which programs may use: a close frame that does not complain",
        means: "Programs' own codes are taken for errors.",
        cure: "1000 to 1003, 1007 to 1014 and 3000 to 4999 are legal on the wire.",
        judge: |talk| {
            let frame = closed(talk, &close_payload(4999, ""))?;
            if frame.close_code() == Some(1002) { failed(frame.brief()) } else { Ok(frame.brief()) }
        },
    },
    Probe {
        id: "closing/without-code",
        level: Must,
        rule: "RFC 6455 5.5.1",
        needs: &[WebSocket],
        what: "a close without a code: a close frame, and never with 1005",
        means: "Browsers whose pages call `close()` see an abnormal end.",
        cure: "A close frame may be empty; 1005 is never sent.",
        judge: |talk| {
            let frame = closed(talk, b"")?;
            if frame.close_code() == Some(1005) { failed(frame.brief()) } else { Ok(frame.brief()) }
        },
    },
    Probe {
        id: "closing/tcp",
        level: Should,
        rule: "RFC 6455 7.1.1",
        needs: &[WebSocket],
        what: "a close: the server closes the TCP connection, first",
        means: "Ports on the client's side stay in TIME_WAIT, and browsers wait until they lose patience.",
        cure: "Close the connection once both close frames were sent.",
        judge: |talk| {
            let (_, mut line) = closed_on(talk, &close_payload(1000, ""))?;
            match line.ending() {
                trouble @ (Trouble::Closed | Trouble::Reset) => Ok(trouble.to_string()),
                trouble => failed(trouble.to_string()),
            }
        },
    },
    Probe {
        id: "closing/one-byte",
        level: Must,
        rule: "RFC 6455 5.5.1",
        needs: &[WebSocket],
        what: "a close with half a code: failed, and the half is not sent back",
        means: "Programs read a code that was never there.",
        cure: "A close frame has no payload, or two bytes at least.",
        judge: |talk| {
            let frame = ended(talk, b"\x03")?;
            match frame {
                Some(frame) if frame.payload.len() == 1 => failed("a close with the same half of a code"),
                other => Ok(told(other)),
            }
        },
    },
    Probe {
        id: "closing/1005",
        level: Must,
        rule: "RFC 6455 7.4.1",
        needs: &[WebSocket],
        what: "a close with 1005: not answered with 1005",
        means: CODE_MEANS,
        cure: CODE_CURE,
        judge: |talk| not_repeated(talk, 1005),
    },
    Probe {
        id: "closing/1006",
        level: Must,
        rule: "RFC 6455 7.4.1",
        needs: &[WebSocket],
        what: "a close with 1006: not answered with 1006",
        means: CODE_MEANS,
        cure: CODE_CURE,
        judge: |talk| not_repeated(talk, 1006),
    },
    Probe {
        id: "closing/1015",
        level: Must,
        rule: "RFC 6455 7.4.1",
        needs: &[WebSocket],
        what: "a close with 1015: not answered with 1015",
        means: CODE_MEANS,
        cure: CODE_CURE,
        judge: |talk| not_repeated(talk, 1015),
    },
    Probe {
        id: "closing/999",
        level: Must,
        rule: "RFC 6455 7.4.2",
        needs: &[WebSocket],
        what: "a close with 999, which is no code: not answered with 999",
        means: CODE_MEANS,
        cure: CODE_CURE,
        judge: |talk| not_repeated(talk, 999),
    },
    Probe {
        id: "closing/bad-reason",
        level: Should,
        rule: "RFC 6455 8.1",
        needs: &[WebSocket],
        what: "a close whose reason is not UTF-8: the reason is not sent back",
        means: "Programs get texts that are none.",
        cure: "Answer with 1007, or without a reason.",
        judge: |talk| {
            let frame = ended(talk, b"\x03\xe8\xff\xfe")?;
            match frame {
                Some(frame) if str::from_utf8(frame.payload.get(2..).unwrap_or_default()).is_err() => {
                    failed("a close with the same bytes")
                }
                other => Ok(told(other)),
            }
        },
    },
    Probe {
        id: "closing/nothing-after",
        level: Must,
        rule: "RFC 6455 5.5.1",
        needs: &[WebSocket, Echo],
        what: "a close and a text behind it: after the server's close frame nothing comes",
        means: "Clients read a message where there must be none, and fail.",
        cure: "Drop what arrives behind a close frame.",
        judge: |talk| {
            let text = masked(FIN | TEXT, b"behind the close");
            let mut line = talk.frames(&[&masked(FIN | CLOSE, &close_payload(1000, "")), &text])?;
            let mut is_closed = false;
            loop {
                let next =
                    if is_closed { line.frame_within(Duration::from_millis(500)) } else { line.frame() };
                match next {
                    Ok(frame) if is_closed => return failed(format!("{} behind the close", frame.brief())),
                    Ok(frame) if frame.payload == b"behind the close" => return failed("the text came back"),
                    Ok(frame) => is_closed = frame.opcode() == CLOSE,
                    Err(_) if is_closed => return Ok("a close, and nothing behind it".into()),
                    Err(Trouble::Silence(time)) => return failed(format!("nothing within {time:?}")),
                    Err(trouble) => return Ok(trouble.to_string()),
                }
            }
        },
    },
    Probe {
        id: "closing/half-close",
        level: Advice,
        rule: "RFC 6455 7.1.1",
        needs: &[WebSocket],
        what: "the client's side of TCP ends without a close frame: the server ends its own",
        means: "Connections of clients that went away stay, and use up descriptors and memory.",
        cure: "End the session when the peer has closed its side.",
        judge: |talk| {
            let mut line = talk.switched()?;
            line.finish();
            match line.ending() {
                trouble @ (Trouble::Closed | Trouble::Reset) => Ok(trouble.to_string()),
                trouble => failed(trouble.to_string()),
            }
        },
    },
];

/// The close frame that answers one.
fn closed(talk: &Talk<'_>, payload: &[u8]) -> Result<Frame, Finding> {
    closed_on(talk, payload).map(|(frame, _)| frame)
}

fn closed_on<'t>(talk: &'t Talk<'_>, payload: &[u8]) -> Result<(Frame, Line<'t>), Finding> {
    let mut line = talk.frames(&[&masked(FIN | CLOSE, payload)])?;
    loop {
        match line.frame() {
            Ok(frame) if frame.opcode() == CLOSE => return Ok((frame, line)),
            Ok(_) => {}
            Err(trouble) => return failed(trouble.to_string()),
        }
    }
}

/// The end that follows a close which is none: a close frame, or nothing.
fn ended(talk: &Talk<'_>, payload: &[u8]) -> Result<Option<Frame>, Finding> {
    let mut line = talk.frames(&[&masked(FIN | CLOSE, payload)])?;
    loop {
        match line.frame() {
            Ok(frame) if frame.opcode() == CLOSE => return Ok(Some(frame)),
            Ok(_) => {}
            Err(Trouble::Closed | Trouble::Reset) => return Ok(None),
            Err(trouble) => return failed(trouble.to_string()),
        }
    }
}

fn told(frame: Option<Frame>) -> String {
    frame.map_or_else(|| "closed without a close frame".into(), |frame| frame.brief())
}

fn with_code(talk: &Talk<'_>, code: u16) -> Judgement {
    let frame = closed(talk, &close_payload(code, "done"))?;
    if frame.close_code() == Some(code) { Ok(frame.brief()) } else { failed(frame.brief()) }
}

fn not_repeated(talk: &Talk<'_>, code: u16) -> Judgement {
    match ended(talk, &close_payload(code, ""))? {
        Some(frame) if frame.close_code() == Some(code) => failed(frame.brief()),
        other => Ok(told(other)),
    }
}
