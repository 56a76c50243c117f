//! Frames and messages: RFC 6455 sections 5, 6 and 8.

use std::{thread, time::Duration};

use crate::cli::doctor::{
    frame::{
        BINARY, CONTINUATION, FIN, Frame, Length, PING, PONG, RSV1, TEXT, masked, unmasked, with_length,
    },
    probe::{
        Finding, Judgement,
        Level::{Must, Should},
        Line,
        Need::{Echo, WebSocket},
        Probe, Talk, failed,
    },
};

const PROTOCOL_ERROR: u16 = 1002;
const BAD_DATA: u16 = 1007;
const CURE: &str = "Fail the connection: a close frame with 1002, then the end. Most libraries do; see whether checks were turned off.";
const MEANS: &str = "What breaks the protocol is let through: other parsers on the way, or behind, may read it in another way.";
const PONG_CURE: &str = "Answer a ping with a pong of the same payload. Some libraries leave it to the program (actix-ws, warp's split sinks).";
const PONG_MEANS: &str = "Clients and proxies that check by pings whether the server is there give up on it.";

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "framing/unmasked",
        level: Must,
        rule: "RFC 6455 5.1",
        needs: &[WebSocket],
        what: "a text without a mask: the connection is failed",
        means: "The mask keeps a page from writing requests into a proxy's cache; a server that does not insist on it gives that away.",
        cure: CURE,
        judge: |talk| fails(talk, &unmasked(FIN | TEXT, b"hello"), PROTOCOL_ERROR),
    },
    Probe {
        id: "framing/rsv1",
        level: Must,
        rule: "RFC 6455 5.2",
        needs: &[WebSocket],
        what: "RSV1 without an extension: the connection is failed",
        means: MEANS,
        cure: CURE,
        judge: |talk| fails(talk, &masked(FIN | RSV1 | TEXT, b"hello"), PROTOCOL_ERROR),
    },
    Probe {
        id: "framing/rsv2",
        level: Must,
        rule: "RFC 6455 5.2",
        needs: &[WebSocket],
        what: "RSV2: the connection is failed",
        means: MEANS,
        cure: CURE,
        judge: |talk| fails(talk, &masked(FIN | 0x20 | TEXT, b"hello"), PROTOCOL_ERROR),
    },
    Probe {
        id: "framing/rsv3",
        level: Must,
        rule: "RFC 6455 5.2",
        needs: &[WebSocket],
        what: "RSV3 on a ping: the connection is failed",
        means: MEANS,
        cure: CURE,
        judge: |talk| fails(talk, &masked(FIN | 0x10 | PING, b"hello"), PROTOCOL_ERROR),
    },
    Probe {
        id: "framing/reserved-opcode",
        level: Must,
        rule: "RFC 6455 5.2",
        needs: &[WebSocket],
        what: "opcode 3: the connection is failed",
        means: MEANS,
        cure: CURE,
        judge: |talk| fails(talk, &masked(FIN | 3, b"hello"), PROTOCOL_ERROR),
    },
    Probe {
        id: "framing/reserved-control-opcode",
        level: Must,
        rule: "RFC 6455 5.2",
        needs: &[WebSocket],
        what: "opcode 11: the connection is failed",
        means: MEANS,
        cure: CURE,
        judge: |talk| fails(talk, &masked(FIN | 11, b""), PROTOCOL_ERROR),
    },
    Probe {
        id: "framing/fragmented-ping",
        level: Must,
        rule: "RFC 6455 5.5",
        needs: &[WebSocket],
        what: "a ping without FIN: the connection is failed",
        means: MEANS,
        cure: CURE,
        judge: |talk| fails(talk, &masked(PING, b"part"), PROTOCOL_ERROR),
    },
    Probe {
        id: "framing/long-ping",
        level: Must,
        rule: "RFC 6455 5.5",
        needs: &[WebSocket],
        what: "a ping of 126 bytes: the connection is failed",
        means: "A peer can make the server hold and send back control frames of any size.",
        cure: CURE,
        judge: |talk| fails(talk, &masked(FIN | PING, &[b'x'; 126]), PROTOCOL_ERROR),
    },
    Probe {
        id: "framing/long-form-of-a-short-length",
        level: Should,
        rule: "RFC 6455 5.2",
        needs: &[WebSocket],
        what: "a length of 5 written in two bytes: the connection is failed",
        means: MEANS,
        cure: CURE,
        judge: |talk| fails(talk, &with_length(FIN | TEXT, Length::Two, b"hello"), PROTOCOL_ERROR),
    },
    Probe {
        id: "framing/longest-form-of-a-short-length",
        level: Should,
        rule: "RFC 6455 5.2",
        needs: &[WebSocket],
        what: "a length of 5 written in eight bytes: the connection is failed",
        means: MEANS,
        cure: CURE,
        judge: |talk| fails(talk, &with_length(FIN | TEXT, Length::Eight, b"hello"), PROTOCOL_ERROR),
    },
    Probe {
        id: "framing/continuation-of-nothing",
        level: Must,
        rule: "RFC 6455 5.4",
        needs: &[WebSocket],
        what: "a continuation without a message: the connection is failed",
        means: MEANS,
        cure: CURE,
        judge: |talk| fails(talk, &masked(FIN | CONTINUATION, b"hello"), PROTOCOL_ERROR),
    },
    Probe {
        id: "framing/message-in-a-message",
        level: Must,
        rule: "RFC 6455 5.4",
        needs: &[WebSocket],
        what: "a text within another one's fragments: the connection is failed",
        means: MEANS,
        cure: CURE,
        judge: |talk| fails(talk, &[masked(TEXT, b"a"), masked(FIN | TEXT, b"b")].concat(), PROTOCOL_ERROR),
    },
    Probe {
        id: "framing/bad-utf-8",
        level: Must,
        rule: "RFC 6455 8.1",
        needs: &[WebSocket],
        what: "a text that is not UTF-8: the connection is failed",
        means: "Programs get texts that are none; what they do with them is their own affair.",
        cure: "Check texts, and close with 1007 (uWebSockets, fastwebsockets: look for an option that turns it off).",
        judge: |talk| fails(talk, &masked(FIN | TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80"), BAD_DATA),
    },
    Probe {
        id: "framing/cut-utf-8",
        level: Must,
        rule: "RFC 6455 8.1",
        needs: &[WebSocket],
        what: "a text that ends within a character: the connection is failed",
        means: "Programs get texts that are none; what they do with them is their own affair.",
        cure: "Check texts, and close with 1007.",
        judge: |talk| fails(talk, &masked(FIN | TEXT, b"caf\xc3"), BAD_DATA),
    },
    Probe {
        id: "framing/bad-utf-8-in-parts",
        level: Must,
        rule: "RFC 6455 8.1",
        needs: &[WebSocket],
        what: "a fragmented text that is not UTF-8 as a whole: the connection is failed",
        means: "Programs get texts that are none; what they do with them is their own affair.",
        cure: "Check the message, not only each frame, and close with 1007.",
        judge: |talk| {
            fails(talk, &[masked(TEXT, b"caf\xc3"), masked(FIN | CONTINUATION, b"x")].concat(), BAD_DATA)
        },
    },
    Probe {
        id: "framing/ping",
        level: Must,
        rule: "RFC 6455 5.5.2",
        needs: &[WebSocket],
        what: "a ping: a pong with its payload",
        means: PONG_MEANS,
        cure: PONG_CURE,
        judge: |talk| pong(talk, &[&masked(FIN | PING, b"are you there?")], b"are you there?"),
    },
    Probe {
        id: "framing/empty-ping",
        level: Must,
        rule: "RFC 6455 5.5.2",
        needs: &[WebSocket],
        what: "a ping without payload: a pong without payload",
        means: PONG_MEANS,
        cure: PONG_CURE,
        judge: |talk| pong(talk, &[&masked(FIN | PING, b"")], b""),
    },
    Probe {
        id: "framing/full-ping",
        level: Must,
        rule: "RFC 6455 5.5.2",
        needs: &[WebSocket],
        what: "a ping of 125 bytes: a pong with all of them",
        means: PONG_MEANS,
        cure: PONG_CURE,
        judge: |talk| pong(talk, &[&masked(FIN | PING, &[b'x'; 125])], &[b'x'; 125]),
    },
    Probe {
        id: "framing/last-ping",
        level: Must,
        rule: "RFC 6455 5.5.3",
        needs: &[WebSocket],
        what: "ten pings at once: at least the last one is answered",
        means: PONG_MEANS,
        cure: PONG_CURE,
        judge: |talk| {
            let pings: Vec<_> =
                (0..10).map(|number| masked(FIN | PING, format!("ping {number}").as_bytes())).collect();
            pong(talk, &[&pings.concat()], b"ping 9")
        },
    },
    Probe {
        id: "framing/ping-in-a-message",
        level: Must,
        rule: "RFC 6455 5.4",
        needs: &[WebSocket],
        what: "a ping between two fragments: a pong before the message has ended",
        means: "A long upload looks like a dead server to who pings meanwhile.",
        cure: PONG_CURE,
        judge: |talk| pong(talk, &[&masked(TEXT, b"first, "), &masked(FIN | PING, b"between")], b"between"),
    },
    Probe {
        id: "framing/unasked-pong",
        level: Must,
        rule: "RFC 6455 5.5.3",
        needs: &[WebSocket],
        what: "a pong that nobody asked for, then a ping: a pong to the ping",
        means: "Browsers that send pongs as a sign of life are cut.",
        cure: "Ignore pongs that nobody asked for.",
        judge: |talk| pong(talk, &[&masked(FIN | PONG, b"unasked"), &masked(FIN | PING, b"asked")], b"asked"),
    },
    Probe {
        id: "framing/in-pieces",
        level: Must,
        rule: "RFC 6455 5.2",
        needs: &[WebSocket],
        what: "a ping byte by byte: a pong",
        means: "Sessions break at random, whenever the network cuts a frame.",
        cure: "Read until the frame is whole; a segment is no unit of TCP.",
        judge: |talk| {
            let mut line = talk.switched()?;
            for byte in masked(FIN | PING, b"slowly") {
                line.send(&[byte]);
                thread::sleep(Duration::from_millis(5));
            }
            pong_on(&mut line, b"slowly")
        },
    },
    Probe {
        id: "framing/servers-frames",
        level: Must,
        rule: "RFC 6455 5.1",
        needs: &[WebSocket],
        what: "a ping: the answer is not masked, has no reserved bit, and the shortest form of its length",
        means: "Every client has to fail the connection.",
        cure: "A server does not mask.",
        judge: |talk| {
            let mut line = talk.frames(&[&masked(FIN | PING, b"hello")])?;
            let frame = line.frame().map_err(|trouble| Finding::Unclear(trouble.to_string()))?;
            well_formed(&frame)?;
            Ok(frame.brief())
        },
    },
    Probe {
        id: "framing/lengths",
        level: Must,
        rule: "RFC 6455 5.2",
        needs: &[WebSocket, Echo],
        what: "messages of 0, 1, 125, 126, 127, 65535 and 65536 bytes: each comes back, in the shortest form",
        means: "Messages of certain lengths are lost or damaged.",
        cure: "Mend the length: 7 bits to 125, 16 to 65535, 64 beyond. If the longest fails alone, a limit of the server is lower.",
        judge: |talk| {
            let mut line = talk.switched()?;
            for length in [0, 1, 125, 126, 127, 65535, 65536] {
                let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
                line.send(&masked(FIN | BINARY, &payload));
                let (opcode, echoed) = message(&mut line)?;
                if (opcode, &echoed) != (BINARY, &payload) {
                    return failed(format!("{} bytes of {length}", echoed.len()));
                }
            }
            Ok("all of them".into())
        },
    },
    Probe {
        id: "framing/kind",
        level: Must,
        rule: "RFC 6455 5.6",
        needs: &[WebSocket, Echo],
        what: "a text and a binary message: each comes back as what it was",
        means: "Clients take one kind for the other.",
        cure: "Keep the kind of a message with it.",
        judge: |talk| {
            let mut line = talk.frames(&[&masked(FIN | TEXT, b"text"), &masked(FIN | BINARY, b"\0\xff")])?;
            let first = message(&mut line)?;
            let second = message(&mut line)?;
            let expected = ((TEXT, b"text".to_vec()), (BINARY, b"\0\xff".to_vec()));
            if (&first, &second) == (&expected.0, &expected.1) {
                Ok("a text, then a binary message".into())
            } else {
                failed(format!("opcodes {} and {}", first.0, second.0))
            }
        },
    },
    Probe {
        id: "framing/fragments",
        level: Must,
        rule: "RFC 6455 5.4",
        needs: &[WebSocket, Echo],
        what: "a text of four fragments, one of them empty, with a ping between: it comes back whole",
        means: "Messages of clients that send in parts (browsers do for long ones) are lost or damaged.",
        cure: "Put a message together until FIN.",
        judge: |talk| {
            let mut line = talk.frames(&[
                &masked(TEXT, b"one, "),
                &masked(CONTINUATION, b""),
                &masked(FIN | PING, b"between"),
                &masked(CONTINUATION, b"two, "),
                &masked(FIN | CONTINUATION, b"three"),
            ])?;
            echoed(&mut line, TEXT, b"one, two, three")
        },
    },
    Probe {
        id: "framing/utf-8-across-fragments",
        level: Must,
        rule: "RFC 6455 5.6",
        needs: &[WebSocket, Echo],
        what: "a text whose fragments cut characters: it comes back whole",
        means: "Texts in other scripts than Latin break when they are long.",
        cure: "Check UTF-8 over the message, not over each frame.",
        judge: |talk| {
            let text = "κόσμε, 🎉".as_bytes();
            let frames: Vec<_> = text
                .iter()
                .enumerate()
                .map(|(at, byte)| {
                    let opcode = if at == 0 { TEXT } else { CONTINUATION };
                    masked(if at + 1 == text.len() { FIN | opcode } else { opcode }, &[*byte])
                })
                .collect();
            let mut line = talk.frames(&[&frames.concat()])?;
            echoed(&mut line, TEXT, text)
        },
    },
    Probe {
        id: "framing/empty-message",
        level: Must,
        rule: "RFC 6455 5.6",
        needs: &[WebSocket, Echo],
        what: "an empty text, then a text: both come back",
        means: "Empty messages are lost, or end the session.",
        cure: "An empty message is a message.",
        judge: |talk| {
            let mut line = talk.frames(&[&masked(FIN | TEXT, b""), &masked(FIN | TEXT, b"next")])?;
            echoed(&mut line, TEXT, b"")?;
            echoed(&mut line, TEXT, b"next")
        },
    },
    Probe {
        id: "framing/in-order",
        level: Must,
        rule: "RFC 6455 5.4",
        needs: &[WebSocket, Echo],
        what: "a hundred texts at once: they come back in their order",
        means: "Messages overtake each other.",
        cure: "Send from one place for each connection.",
        judge: |talk| {
            let texts: Vec<_> = (0..100).map(|number| format!("message {number}")).collect();
            let frames: Vec<_> = texts.iter().map(|text| masked(FIN | TEXT, text.as_bytes())).collect();
            let mut line = talk.frames(&[&frames.concat()])?;
            for text in texts {
                echoed(&mut line, TEXT, text.as_bytes())?;
            }
            Ok("all of them".into())
        },
    },
];

/// Sends what has to fail the connection.
fn fails(talk: &Talk<'_>, bytes: &[u8], code: u16) -> Judgement {
    let mut line = talk.frames(&[bytes])?;
    talk.gives_up(&mut line, code)
}

fn pong(talk: &Talk<'_>, frames: &[&[u8]], payload: &[u8]) -> Judgement {
    let mut line = talk.frames(frames)?;
    pong_on(&mut line, payload)
}

fn pong_on(line: &mut Line<'_>, payload: &[u8]) -> Judgement {
    loop {
        match line.frame() {
            Ok(frame) if frame.opcode() == PONG && frame.payload == payload => return Ok(frame.brief()),
            // A greeting, an echo, or a pong to an earlier one.
            Ok(frame) if matches!(frame.opcode(), 0..=2 | PING | PONG) => {}
            Ok(frame) => return failed(frame.brief()),
            Err(trouble) => return failed(trouble.to_string()),
        }
    }
}

/// The next message of text or bytes, put together, and pings and pongs passed over.
pub(super) fn message(line: &mut Line<'_>) -> Result<(u8, Vec<u8>), Finding> {
    let (mut opcode, mut payload) = (0, Vec::new());
    loop {
        let frame = line.frame().map_err(|trouble| Finding::Failed(trouble.to_string()))?;
        match frame.opcode() {
            kind @ (CONTINUATION | TEXT | BINARY) => {
                well_formed(&frame)?;
                if kind != CONTINUATION {
                    opcode = kind;
                }
                payload.extend_from_slice(&frame.payload);
                if frame.is_final() {
                    return Ok((opcode, payload));
                }
            }
            PING | PONG => {}
            _ => return failed(frame.brief()),
        }
    }
}

fn echoed(line: &mut Line<'_>, opcode: u8, payload: &[u8]) -> Judgement {
    let (came, echo) = message(line)?;
    if (came, &echo[..]) == (opcode, payload) {
        Ok(format!("{} bytes, as they were", echo.len()))
    } else {
        failed(format!("opcode {came}, {:?}", String::from_utf8_lossy(&echo)))
    }
}

fn well_formed(frame: &Frame) -> Result<(), Finding> {
    if frame.is_masked {
        failed(format!("{}, masked", frame.brief()))
    } else if frame.first & 0x70 != 0 {
        failed(format!("{}, with a reserved bit", frame.brief()))
    } else if frame.form != Length::of(frame.payload.len()) {
        failed(format!("{}, with its length in a longer form than it needs", frame.brief()))
    } else {
        Ok(())
    }
}
