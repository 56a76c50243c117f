//! `echo`, as `switchpoint` speaks it: after the 101 every byte comes back. For `--proto` with such a protocol.

use crate::cli::doctor::{
    client::{Trouble, shown},
    probe::{
        Finding, Judgement,
        Level::{Advice, Must, Should},
        Line,
        Need::RawEcho,
        Probe, failed,
    },
};

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "echo/bytes",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[RawEcho],
        what: "each of the 256 bytes behind the 101: they come back as they are",
        means: "Something on the way still reads the session as HTTP, or as text.",
        cure: "After the 101 a proxy passes bytes on, in both directions, without looking at them.",
        judge: |talk| {
            let bytes: Vec<u8> = (0..=255).collect();
            let mut line = talk.switched()?;
            line.send(&bytes);
            back(&mut line, &bytes)
        },
    },
    Probe {
        id: "echo/looks-like-http",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[RawEcho],
        what: "what looks like a request behind the 101: it comes back, and is not answered",
        means: "Something on the way still reads the session as HTTP: requests can be smuggled in it.",
        cure: "After the 101 a connection is never read as HTTP again.",
        judge: |talk| {
            let bytes = talk.plain().bytes();
            let mut line = talk.switched()?;
            line.send(&bytes);
            back(&mut line, &bytes)
        },
    },
    Probe {
        id: "echo/early",
        level: Should,
        rule: "RFC 9110 7.8",
        needs: &[RawEcho],
        what: "bytes in the same packet as the head: they come back behind the 101, or the handshake is refused",
        means: "The first bytes of a session are lost at random.",
        cure: "Hand what was read behind the head to the protocol.",
        judge: |talk| {
            let (mut line, answered) = talk.ask_raw(&talk.offer().then(b"early"))?;
            match &answered.0 {
                Ok(answer) if answer.status == 101 => back(&mut line, b"early"),
                _ => answered.not_switched(),
            }
        },
    },
    Probe {
        id: "echo/much",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[RawEcho],
        what: "100,000 bytes: they come back, in their order",
        means: "Long sessions are cut or damaged.",
        cure: "Look for a buffer, or a limit for bodies, that a proxy applies to sessions.",
        judge: |talk| {
            let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
            let mut line = talk.switched()?;
            line.send(&bytes);
            back(&mut line, &bytes)
        },
    },
    Probe {
        id: "echo/half-close",
        level: Advice,
        rule: "RFC 9110 7.8",
        needs: &[RawEcho],
        what: "bytes, then the end of the client's side: they come back, then the server's side ends",
        means: "Connections of clients that went away stay.",
        cure: "Let an end go through the tunnel, in each direction by itself.",
        judge: |talk| {
            let mut line = talk.switched()?;
            line.send(b"last");
            line.finish();
            back(&mut line, b"last")?;
            match line.ending() {
                Trouble::Closed => Ok("the bytes, then the end".into()),
                trouble => failed(format!("the bytes, then: {trouble}")),
            }
        },
    },
];

fn back(line: &mut Line<'_>, bytes: &[u8]) -> Judgement {
    let came = line.take(bytes.len()).map_err(|trouble| Finding::Failed(trouble.to_string()))?;
    if came == bytes {
        Ok(format!("{} bytes, as they were", came.len()))
    } else {
        failed(shown(&came[..came.len().min(200)]))
    }
}
