//! Whether a server keeps itself from what a peer may ask of it: RFC 6455 10.4, RFC 9112 section 3, RFC 6585 section 5.

use std::{io::Write, time::Instant};

use flate2::{Compression, write::DeflateEncoder};

use super::deflate::compressing;
use crate::cli::doctor::{
    client::Trouble,
    frame::{BINARY, CONTINUATION, FIN, RSV1, TEXT, announced, masked},
    probe::{
        Answered, Judgement,
        Level::{Advice, Must, Should},
        Need::{Deflate, Echo, Slow, WebSocket},
        Probe, failed,
    },
};

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "limits/length-with-the-highest-bit",
        level: Must,
        rule: "RFC 6455 5.2",
        needs: &[WebSocket],
        what: "a frame of 2^63 + 5 bytes, where the highest bit must be 0: the connection is failed",
        means: "Where such a length is taken for a negative or a small one, frames run out of step (CVE-2020-27813, CVE-2020-13935).",
        cure: "Fail the connection; keep lengths in 64 bits without a sign.",
        judge: |talk| {
            let mut line = talk.frames(&[&announced(FIN | BINARY, (1 << 63) | 5), b"hello"])?;
            talk.gives_up(&mut line, 1002)
        },
    },
    Probe {
        id: "limits/announced-length",
        level: Should,
        rule: "RFC 6455 10.4",
        needs: &[WebSocket],
        what: "a frame that announces 2^62 bytes: the connection is failed at once, not when the memory is full",
        means: "A peer decides how much memory a message takes.",
        cure: "Set a limit for frames and messages (ws: `maxPayload`; uWebSockets: `maxPayloadLength`; nginx has none).",
        judge: |talk| {
            let mut line = talk.frames(&[&announced(FIN | BINARY, 1 << 62), b"hello"])?;
            talk.gives_up(&mut line, 1009)
        },
    },
    Probe {
        id: "limits/empty-fragments",
        level: Advice,
        rule: "RFC 6455 10.4",
        needs: &[WebSocket],
        what: "150,000 empty fragments of one message: the connection is failed",
        means: "A message that never ends and has no length keeps a server busy, and some hold an object for each fragment.",
        cure: "Limit the fragments of a message (ws 8.21: `maxFragments`).",
        judge: |talk| {
            let fragments = masked(CONTINUATION, b"").repeat(150_000);
            let mut line = talk.frames(&[&masked(TEXT, b""), &fragments])?;
            talk.gives_up(&mut line, 1008)
        },
    },
    Probe {
        id: "limits/bomb",
        level: Advice,
        rule: "RFC 7692 8",
        needs: &[WebSocket, Deflate, Echo],
        what: "24 KiB that inflate to 24 MiB: closed (1009), not sent back",
        means: "A peer makes the server hold a thousand times what it sends (CVE-2026-27571 and others).",
        cure: "Count while inflating, and stop at the limit of a message.",
        judge: |talk| {
            let mut line = compressing(talk)?;
            line.send(&masked(FIN | RSV1 | BINARY, &bomb()));
            let mut came = 0;
            loop {
                match line.frame() {
                    Ok(frame) if matches!(frame.opcode(), 0..=2) => {
                        came += frame.payload.len();
                        if frame.is_final() {
                            return failed(format!("it came back, in {came} bytes"));
                        }
                    }
                    Ok(frame) if frame.opcode() == 8 => return Ok(frame.brief()),
                    Ok(_) => {}
                    Err(trouble @ (Trouble::Closed | Trouble::Reset)) => return Ok(trouble.to_string()),
                    Err(trouble) => return failed(trouble.to_string()),
                }
            }
        },
    },
    Probe {
        id: "limits/target",
        level: Should,
        rule: "RFC 9112 3",
        needs: &[],
        what: "a target of 8,000 bytes, which is recommended to be taken: 101, or any other answer than 400, 414 and 431",
        means: "Clients that carry tokens in the URL do not get in.",
        cure: "Allow request lines of 8,000 bytes at least.",
        judge: |talk| {
            let answered = talk.ask(&talk.offer().target(&long_target(&talk.setting.target.path, 8000)))?.1;
            let answer = answered.answered()?;
            if matches!(answer.status, 400 | 414 | 431) { failed(answer.brief()) } else { Ok(answer.brief()) }
        },
    },
    Probe {
        id: "limits/long-target",
        level: Should,
        rule: "RFC 9112 3",
        needs: &[],
        what: "a target of 100,000 bytes: an answer (414), not a silent close",
        means: "Whose URL is too long is not told so.",
        cure: "Answer with 414.",
        judge: |talk| {
            let answered =
                talk.ask(&talk.offer().target(&long_target(&talk.setting.target.path, 100_000)))?.1;
            Ok(answered.answered()?.brief())
        },
    },
    Probe {
        id: "limits/long-head",
        level: Advice,
        rule: "RFC 6585 5",
        needs: &[],
        what: "a head of 1 MiB: no 101",
        means: "A peer decides how much memory a head takes (CVE-2023-43669).",
        cure: "Limit the head to some 16 KiB, and answer with 431.",
        judge: |talk| {
            let head = (0..256)
                .fold(talk.offer(), |head, line| head.add(&format!("X-Doctor-{line}"), &"x".repeat(4096)));
            has_limit(&talk.ask(&head)?.1)
        },
    },
    Probe {
        id: "limits/many-fields",
        level: Advice,
        rule: "RFC 6585 5",
        needs: &[],
        what: "3,000 fields: no 101",
        means: "What looks for a field among many, for each of many, takes long (CVE-2024-37890 ended a server).",
        cure: "Limit the fields to some hundred, and answer with 431.",
        judge: |talk| {
            let head = (0..3000).fold(talk.offer(), |head, line| head.add(&format!("X{line}"), "1"));
            has_limit(&talk.ask(&head)?.1)
        },
    },
    Probe {
        id: "limits/many-offers",
        level: Must,
        rule: "RFC 6455 9.1",
        needs: &[WebSocket],
        what: "200 extensions with quoted parameters: an answer",
        means: "The list is read in a way that takes too long, or ends the server (CVE-2020-7662).",
        cure: "Read lists in one pass, and limit their length.",
        judge: |talk| {
            let offers: Vec<_> = (0..200).map(|number| format!("x-{number}; a=\"\\b\"")).collect();
            let answered = talk.ask(&talk.offer().set("Sec-WebSocket-Extensions", &offers.join(", ")))?.1;
            Ok(answered.answered()?.brief())
        },
    },
    Probe {
        id: "limits/slow-head",
        level: Advice,
        rule: "RFC 9110 15.5.9",
        needs: &[Slow],
        what: "half a head, then silence: answered (408) or closed within 35 s",
        means: "A few slow clients use up all connections (Slowloris).",
        cure: "Set a limit for the whole head (nginx: `client_header_timeout`; node: `headersTimeout`).",
        judge: |talk| {
            let bytes = talk.offer().bytes();
            let mut line = talk.connect()?;
            line.send(&bytes[..bytes.len() / 2]);
            let begun = Instant::now();
            match line.ending_within(talk.setting.head_time_max) {
                Trouble::Silence(_) if line.unread().is_empty() => {
                    failed(format!("nothing within {:?}", talk.setting.head_time_max))
                }
                _ => Ok(format!("the end after {:.1} s", begun.elapsed().as_secs_f64())),
            }
        },
    },
];

/// It must be an error, or the end; to wait for more is none.
fn has_limit(answered: &Answered) -> Judgement {
    match &answered.0 {
        Err(trouble @ Trouble::Silence(_)) => failed(trouble.to_string()),
        _ => answered.not_switched(),
    }
}

fn long_target(path: &str, length: usize) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("{path}{joint}x={}", "x".repeat(length.saturating_sub(path.len() + 3)))
}

fn bomb() -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 64 << 10];
    for _ in 0..384 {
        encoder.write_all(&zeros).expect("a vector takes what it is given");
    }
    encoder.flush().expect("a vector takes what it is given");
    let mut bytes = encoder.get_ref().clone();
    // A flush ends with the four bytes that a message leaves out.
    bytes.truncate(bytes.len().saturating_sub(4));
    bytes
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn a_bomb_is_small() {
        assert!(bomb().len() < 32 << 10);
        assert!(bomb().len() > 16 << 10);
        assert_eq!(long_target("/a?b=c", 8000).len(), 8000);
    }
}
