//! permessage-deflate: RFC 7692, where the server agrees to it.

use flate2::{Decompress, FlushDecompress};

use crate::cli::doctor::{
    answer::Answer,
    frame::{CONTINUATION, FIN, PING, RSV1, TEXT, masked},
    probe::{
        Finding, Judgement,
        Level::{Must, Should},
        Line,
        Need::{Deflate, Echo, WebSocket},
        Probe, Talk, failed,
    },
};

const OFFER_MEANS: &str =
    "The client believes that something was agreed to which the server does not do: messages cannot be read.";
const OFFER_CURE: &str =
    "Decline an offer with a parameter that is unknown, doubled or out of its range (RFC 7692 7.1).";

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "deflate/agreed",
        level: Must,
        rule: "RFC 7692 7.1",
        needs: &[WebSocket, Deflate],
        what: "an offer with `client_max_window_bits`: the answer has known parameters, each once, in their ranges",
        means: OFFER_MEANS,
        cure: OFFER_CURE,
        judge: |talk| {
            let agreed = agreed(talk, "permessage-deflate; client_max_window_bits")?.unwrap_or_default();
            for (at, (name, value)) in agreed.iter().enumerate() {
                let bits = |value: &str| matches!(value.parse(), Ok(8..=15_u8)) && !value.starts_with('0');
                let is_legal = match (name.as_str(), value) {
                    ("server_no_context_takeover" | "client_no_context_takeover", None) => true,
                    ("server_max_window_bits" | "client_max_window_bits", Some(value)) => bits(value),
                    _ => false,
                };
                if !is_legal || agreed[..at].iter().any(|(other, _)| other == name) {
                    return failed(format!("{agreed:?}"));
                }
            }
            Ok(format!("{agreed:?}"))
        },
    },
    Probe {
        id: "deflate/unasked-window",
        level: Must,
        rule: "RFC 7692 7.1.2.2",
        needs: &[WebSocket, Deflate],
        what: "an offer without `client_max_window_bits`: none in the answer",
        means: "The client, which cannot compress with that window, has to fail the connection.",
        cure: "Answer with `client_max_window_bits` only if the client has offered it.",
        judge: |talk| match agreed(talk, "permessage-deflate")? {
            Some(agreed) if agreed.iter().any(|(name, _)| name == "client_max_window_bits") => {
                failed(format!("{agreed:?}"))
            }
            other => Ok(format!("{other:?}")),
        },
    },
    Probe {
        id: "deflate/unknown-parameter",
        level: Must,
        rule: "RFC 7692 7.1",
        needs: &[WebSocket, Deflate],
        what: "an offer with an unknown parameter: declined",
        means: OFFER_MEANS,
        cure: OFFER_CURE,
        judge: |talk| declined(talk, "permessage-deflate; x_doctor"),
    },
    Probe {
        id: "deflate/small-window",
        level: Must,
        rule: "RFC 7692 7.1.2.1",
        needs: &[WebSocket, Deflate],
        what: "an offer with `server_max_window_bits=7`: declined",
        means: OFFER_MEANS,
        cure: OFFER_CURE,
        judge: |talk| declined(talk, "permessage-deflate; server_max_window_bits=7"),
    },
    Probe {
        id: "deflate/large-window",
        level: Must,
        rule: "RFC 7692 7.1.2.2",
        needs: &[WebSocket, Deflate],
        what: "an offer with `client_max_window_bits=16`: declined",
        means: OFFER_MEANS,
        cure: OFFER_CURE,
        judge: |talk| declined(talk, "permessage-deflate; client_max_window_bits=16"),
    },
    Probe {
        id: "deflate/twice",
        level: Must,
        rule: "RFC 7692 7.1",
        needs: &[WebSocket, Deflate],
        what: "an offer with a parameter twice: declined",
        means: OFFER_MEANS,
        cure: OFFER_CURE,
        judge: |talk| {
            declined(talk, "permessage-deflate; client_no_context_takeover; client_no_context_takeover")
        },
    },
    Probe {
        id: "deflate/value-of-a-flag",
        level: Must,
        rule: "RFC 7692 7.1.1.1",
        needs: &[WebSocket, Deflate],
        what: "an offer with `server_no_context_takeover=1`, which takes no value: declined",
        means: OFFER_MEANS,
        cure: OFFER_CURE,
        judge: |talk| declined(talk, "permessage-deflate; server_no_context_takeover=1"),
    },
    Probe {
        id: "deflate/second-offer",
        level: Should,
        rule: "RFC 7692 5.1",
        needs: &[WebSocket, Deflate],
        what: "an unknown extension and a bad offer before a good one: the good one is agreed to",
        means: "Clients that offer fallbacks go without compression.",
        cure: "Look through all offers, and take the first that can be honoured.",
        judge: |talk| match agreed(talk, "x-doctor, permessage-deflate; x_doctor, permessage-deflate")? {
            Some(agreed) => Ok(format!("{agreed:?}")),
            None => failed("none was agreed to"),
        },
    },
    Probe {
        id: "deflate/no-takeover",
        level: Must,
        rule: "RFC 7692 7.1.1.1",
        needs: &[WebSocket, Deflate],
        what: "an offer with `server_no_context_takeover`: agreed to with it, or declined",
        means: "A client without memory for a context cannot read the messages.",
        cure: "Answer with the parameter, and keep to it.",
        judge: |talk| match agreed(talk, "permessage-deflate; server_no_context_takeover")? {
            Some(agreed) if !agreed.iter().any(|(name, _)| name == "server_no_context_takeover") => {
                failed(format!("{agreed:?}"))
            }
            other => Ok(format!("{other:?}")),
        },
    },
    Probe {
        id: "deflate/window",
        level: Must,
        rule: "RFC 7692 7.1.2.1",
        needs: &[WebSocket, Deflate],
        what: "an offer with `server_max_window_bits=10`: agreed to with 10 or less, or declined",
        means: "A client with a small window cannot read the messages.",
        cure: "Answer with the parameter, and keep to it.",
        judge: |talk| match agreed(talk, "permessage-deflate; server_max_window_bits=10")? {
            None => Ok("declined".into()),
            Some(agreed) => {
                let bits = agreed.iter().find(|(name, _)| name == "server_max_window_bits");
                match bits.and_then(|(_, value)| value.as_deref()?.parse::<u8>().ok()) {
                    Some(8..=10) => Ok(format!("{agreed:?}")),
                    _ => failed(format!("{agreed:?}")),
                }
            }
        },
    },
    Probe {
        id: "deflate/message",
        level: Must,
        rule: "RFC 7692 7.2.2",
        needs: &[WebSocket, Deflate, Echo],
        what: "the compressed `Hello` of RFC 7692 7.2.3.1: `Hello` comes back, however it is sent",
        means: "Compressed messages cannot be read.",
        cure: "Inflate with a raw deflate stream, after `00 00 ff ff` was added.",
        judge: |talk| {
            let mut line = compressing(talk)?;
            line.send(&masked(FIN | RSV1 | TEXT, HELLO));
            hello(&mut line)
        },
    },
    Probe {
        id: "deflate/fragments",
        level: Must,
        rule: "RFC 7692 7.2.3.1",
        needs: &[WebSocket, Deflate, Echo],
        what: "the same in two fragments, RSV1 on the first only: `Hello` comes back",
        means: "Long compressed messages cannot be read.",
        cure: "RSV1 of the first frame says it for all of the message.",
        judge: |talk| {
            let mut line = compressing(talk)?;
            line.send(&[masked(RSV1 | TEXT, &HELLO[..3]), masked(FIN | CONTINUATION, &HELLO[3..])].concat());
            hello(&mut line)
        },
    },
    Probe {
        id: "deflate/plain-message",
        level: Must,
        rule: "RFC 7692 6",
        needs: &[WebSocket, Deflate, Echo],
        what: "a message without RSV1 after the agreement: it comes back",
        means: "Clients that do not compress short messages are misunderstood.",
        cure: "RSV1 says for each message whether it is compressed.",
        judge: |talk| {
            let mut line = compressing(talk)?;
            line.send(&masked(FIN | TEXT, b"Hello"));
            hello(&mut line)
        },
    },
    Probe {
        id: "deflate/rsv1-on-continuation",
        level: Must,
        rule: "RFC 7692 6.1",
        needs: &[WebSocket, Deflate],
        what: "RSV1 on a continuation: the connection is failed",
        means: "What breaks the protocol is let through.",
        cure: "RSV1 stands on the first frame of a message only.",
        judge: |talk| {
            let mut line = compressing(talk)?;
            line.send(
                &[masked(RSV1 | TEXT, &HELLO[..3]), masked(FIN | RSV1 | CONTINUATION, &HELLO[3..])].concat(),
            );
            talk.gives_up(&mut line, 1002)
        },
    },
    Probe {
        id: "deflate/rsv1-on-control",
        level: Must,
        rule: "RFC 7692 6.1",
        needs: &[WebSocket, Deflate],
        what: "RSV1 on a ping: the connection is failed",
        means: "What breaks the protocol is let through.",
        cure: "Control frames are not compressed.",
        judge: |talk| {
            let mut line = compressing(talk)?;
            line.send(&masked(FIN | RSV1 | PING, HELLO));
            talk.gives_up(&mut line, 1002)
        },
    },
    Probe {
        id: "deflate/garbage",
        level: Must,
        rule: "RFC 7692 7.2.2",
        needs: &[WebSocket, Deflate],
        what: "a compressed message that is none: the connection is failed",
        means: "Programs get damaged messages.",
        cure: "Fail the connection where inflating fails (1007 or 1002).",
        judge: |talk| {
            let mut line = compressing(talk)?;
            line.send(&masked(FIN | RSV1 | TEXT, &[0xff; 16]));
            talk.gives_up(&mut line, 1007)
        },
    },
    Probe {
        id: "deflate/bad-utf-8",
        level: Must,
        rule: "RFC 6455 8.1",
        needs: &[WebSocket, Deflate],
        what: "a compressed text that is not UTF-8: the connection is failed",
        means: "Programs get texts that are none.",
        cure: "Check texts after they were inflated, and close with 1007.",
        judge: |talk| {
            let mut line = compressing(talk)?;
            // A stored block: its five bytes of header, then ff fe.
            line.send(&masked(FIN | RSV1 | TEXT, b"\x00\x02\x00\xfd\xff\xff\xfe\x00"));
            talk.gives_up(&mut line, 1007)
        },
    },
];

/// `Hello`, as RFC 7692 7.2.3.1 compresses it.
pub(super) const HELLO: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";

type Parameters = Vec<(String, Option<String>)>;

/// What an offer was answered with.
fn agreed(talk: &Talk<'_>, offer: &str) -> Result<Option<Parameters>, Finding> {
    let (_, answer) = talk.switched_by(&talk.offer().set("Sec-WebSocket-Extensions", offer))?;
    parameters(&answer)
}

fn parameters(answer: &Answer) -> Result<Option<Parameters>, Finding> {
    let mut extensions = answer.items("sec-websocket-extensions");
    let Some(extension) = extensions.next() else {
        return Ok(None);
    };
    let mut parts = extension.split(';').map(str::trim);
    if parts.next() != Some("permessage-deflate") || extensions.next().is_some() {
        return failed(answer.brief());
    }
    Ok(Some(
        parts
            .map(|part| match part.split_once('=') {
                Some((name, value)) => {
                    (name.trim().to_owned(), Some(value.trim().trim_matches('"').to_owned()))
                }
                None => (part.to_owned(), None),
            })
            .collect(),
    ))
}

fn declined(talk: &Talk<'_>, offer: &str) -> Judgement {
    let (_line, answered) = talk.ask(&talk.offer().set("Sec-WebSocket-Extensions", offer))?;
    match &answered.0 {
        Ok(answer) if answer.field("sec-websocket-extensions").is_some() => failed(answer.brief()),
        // To refuse the handshake is more than is asked for.
        Ok(answer) => Ok(answer.brief()),
        Err(trouble) => Ok(trouble.to_string()),
    }
}

pub(super) fn compressing<'t>(talk: &'t Talk<'_>) -> Result<Line<'t>, Finding> {
    let (line, answer) =
        talk.switched_by(&talk.offer().set("Sec-WebSocket-Extensions", "permessage-deflate"))?;
    match answer.field("sec-websocket-extensions") {
        Some(_) => Ok(line),
        None => Err(Finding::Skipped("it does not agree without `client_max_window_bits`".into())),
    }
}

fn hello(line: &mut Line<'_>) -> Judgement {
    let (mut is_compressed, mut bytes) = (false, Vec::new());
    loop {
        let frame = line.frame().map_err(|trouble| Finding::Failed(trouble.to_string()))?;
        match frame.opcode() {
            9 | 10 => continue,
            TEXT => is_compressed = frame.first & RSV1 != 0,
            CONTINUATION => {}
            _ => return failed(frame.brief()),
        }
        bytes.extend_from_slice(&frame.payload);
        if frame.is_final() {
            break;
        }
    }
    let how = if is_compressed { "compressed" } else { "as it is" };
    if is_compressed {
        bytes = inflate(&bytes).ok_or_else(|| Finding::Failed("what cannot be inflated".into()))?;
    }
    if bytes == b"Hello" { Ok(format!("Hello, {how}")) } else { failed(String::from_utf8_lossy(&bytes)) }
}

fn inflate(bytes: &[u8]) -> Option<Vec<u8>> {
    let input = [bytes, b"\x00\x00\xff\xff"].concat();
    let mut output = Vec::with_capacity(4096);
    Decompress::new(false).decompress_vec(&input, &mut output, FlushDecompress::Sync).ok()?;
    Some(output)
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7692_is_inflated() {
        assert_eq!(inflate(HELLO).unwrap(), b"Hello");
        assert_eq!(inflate(&[0xff; 16]), None);
    }
}
