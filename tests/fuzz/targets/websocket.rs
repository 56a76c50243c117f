//! Frames and messages.

use std::ops::ControlFlow;

use switchpoint::ws::{CloseFrame, Code, Event, Fault, Found, Header, Limits, Opcode, Receiver, Role};

use crate::{memory::Meter, random::Random};

/// A header is decoded from its own bytes and no others, and encoded to the same.
pub fn frame(bytes: &[u8], random: &mut Random) -> bool {
    let whole = Header::decode(bytes);
    let mut needed = bytes.len();
    for cut in (0..bytes.len()).rev() {
        // What was decided stays decided.
        match Header::decode(&bytes[..cut]) {
            Ok(None) => {}
            decided => {
                assert!(decided == whole && needed == cut + 1, "{cut}");
                needed = cut;
            }
        }
    }
    let mut header = Header {
        fin: random.one_in(2),
        rsv1: random.one_in(2),
        opcode: random.pick(&[Opcode::Continuation, Opcode::Text, Opcode::Binary]),
        mask: random.pick(&[None, Some([1, 2, 3, 4])]),
        length: u64::MAX >> 1 >> random.below(63),
    };
    let mut encoded = [0xff; Header::SIZE_MAX];
    let size = header.encode(&mut encoded);
    assert_eq!(Header::decode(&encoded[..size]), Ok(Some((header, size))));
    let Ok(Some((decoded, size))) = whole else {
        return whole.is_err() && needed > 2;
    };
    assert!(needed == size && decoded.length >> 63 == 0);
    header = decoded;
    assert_eq!((header.encode(&mut encoded), &encoded[..size]), (size, &bytes[..size]));
    true
}

/// What a peer says means the same to either role however its bytes are cut, and stays within the limits.
pub fn message(bytes: &[u8], random: &mut Random) -> bool {
    let limits = Limits {
        message_max: random.pick(&[0, 10, 125, 1000, 70_000]),
        fragments_max: random.pick(&[1, 2, 8]),
    };
    let heard = [Role::Client, Role::Server].map(|role| {
        is_heard_however_cut(&|| Receiver::new(role, limits), limits, 4 * limits.message_max, bytes, random)
    });
    heard.iter().any(|heard| heard.fault.is_none() && !heard.events.is_empty())
}

#[derive(Debug, PartialEq)]
pub(super) struct Heard {
    pub(super) events: Vec<(&'static str, Vec<u8>)>,
    pub(super) fault: Option<Fault>,
    pub(super) is_open: bool,
}

pub(super) fn is_heard_however_cut(
    new: &dyn Fn() -> Receiver,
    limits: Limits,
    memory_max: usize,
    bytes: &[u8],
    random: &mut Random,
) -> Heard {
    let whole = hear(new(), limits, memory_max, false, &[bytes]);
    assert_eq!(hear(new(), limits, memory_max, false, &random.pieces(bytes)), whole);
    assert_eq!(hear(new(), limits, memory_max, true, &random.pieces(bytes)), whole, "in halves");
    whole
}

/// Keeps what is not consumed, as a connection does.
pub(super) fn hear(
    mut receiver: Receiver,
    limits: Limits,
    memory_max: usize,
    in_halves: bool,
    pieces: &[&[u8]],
) -> Heard {
    let mut heard = Heard { events: Vec::new(), fault: None, is_open: true };
    let (mut buffer, mut meter) = (Vec::new(), Meter::default());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let (received, memory) = if in_halves {
                (by_halves(&mut receiver, &mut buffer, &mut heard.events), 0)
            } else {
                let (received, memory) = meter.watch(|| receiver.receive(&mut buffer));
                let said = |event| heard.events.push(said(event));
                (received.map(|received| (received.consumed, received.event.map(said).is_some())), memory)
            };
            assert!(memory <= memory_max, "{memory} bytes");
            let (consumed, is_event) = match received {
                Ok(received) => received,
                Err(fault) => {
                    assert!(!receiver.is_closed(), "nothing behind a close means anything");
                    return Heard { fault: Some(fault), is_open: false, ..heard };
                }
            };
            assert!(consumed <= buffer.len() && (consumed > 0 || !is_event));
            buffer.drain(..consumed);
            if !is_event {
                break;
            }
        }
        assert!(buffer.len() <= Receiver::UNREAD_MAX);
    }
    let closes = heard.events.iter().position(|(kind, _)| kind.starts_with("close"));
    assert!(closes.is_none_or(|place| place + 1 == heard.events.len() && receiver.is_closed()));
    let is_message = |kind: &str| matches!(kind, "text" | "binary");
    assert!(heard.events.iter().all(|(kind, said)| !is_message(kind) || said.len() <= limits.message_max));
    heard.is_open = receiver.in_message();
    heard
}

/// The same in two halves, and past signs of life.
fn by_halves(
    receiver: &mut Receiver,
    bytes: &mut [u8],
    events: &mut Vec<(&'static str, Vec<u8>)>,
) -> Result<(usize, bool), Fault> {
    let step = receiver.step(bytes, |sign| {
        events.push(said(sign));
        ControlFlow::Continue(())
    })?;
    if step.found == Some(Found::Message)
        && let Some(long) = receiver.take_long()
    {
        events.push(("binary", long));
    } else if let Some(found) = step.found {
        events.push(said(receiver.event(found, bytes)?));
    }
    Ok((step.consumed, step.found.is_some()))
}

fn said(event: Event<'_>) -> (&'static str, Vec<u8>) {
    match event {
        Event::Text(text) => ("text", text.into()),
        Event::Binary(bytes) => ("binary", bytes.into()),
        Event::Ping(payload) => ("ping", payload.into()),
        Event::Pong(payload) => ("pong", payload.into()),
        Event::Close(None) => ("close", Vec::new()),
        Event::Close(Some(CloseFrame { code, reason })) => {
            assert_eq!(Code::new(code.number()), Some(code));
            ("close with", format!("{code} {reason}").into())
        }
    }
}
