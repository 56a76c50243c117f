//! From messages to frames: compressed where that was agreed on and helps, once for many where they are the same.

use std::{cell::OnceCell, rc::Rc};

use super::{
    Opcode,
    deflate::{Compressor, GROWTH_MAX},
    frame::{Header, write_frame},
    mask,
};

/// Appends a message, or a control frame, as one frame. The `compressor` is the connection's, if there is one; what is
/// small or does not shrink is sent as it is.
pub fn write_message(
    out: &mut Vec<u8>,
    opcode: Opcode,
    payload: &[u8],
    mask: Option<[u8; 4]>,
    compressor: Option<&mut Compressor>,
) {
    match compressor {
        Some(compressor) if !opcode.is_control() && compressor.is_for(payload.len()) => {
            write_compressed(out, opcode, payload, mask, compressor);
        }
        _ => write_frame(out, true, opcode, payload, mask),
    }
}

fn write_compressed(
    out: &mut Vec<u8>,
    opcode: Opcode,
    payload: &[u8],
    mask: Option<[u8; 4]>,
    compressor: &mut Compressor,
) {
    let header = |length: usize| {
        let header = Header { fin: true, rsv1: true, opcode, mask, length: length as u64 };
        let mut head = [0; Header::SIZE_MAX];
        let size = header.encode(&mut head);
        (head, size)
    };
    // The header comes first, but how long it is shows last: it gets the room that it needs at most.
    let start = out.len();
    let (_, room) = header(payload.len() + GROWTH_MAX);
    out.resize(start + room, 0);
    compressor.compress(payload, out);
    let length = out.len() - start - room;
    if !compressor.is_worth(payload.len(), length) {
        compressor.reset();
        out.truncate(start);
        return write_frame(out, true, opcode, payload, mask);
    }
    let (head, size) = header(length);
    out.copy_within(start + room.., start + size);
    out.truncate(start + size + length);
    out[start..start + size].copy_from_slice(&head[..size]);
    if let Some(key) = mask {
        mask::apply(&mut out[start + size..], key, 0);
    }
}

/// A server's message to many: framed once, and compressed at most once for each size of window. A clone is a pointer.
#[derive(Clone, Debug)]
pub struct Prepared(Rc<Frames>);

#[derive(Debug)]
struct Frames {
    opcode: Opcode,
    plain: Rc<[u8]>,
    /// Where the payload begins in `plain`.
    start: usize,
    /// By window bits, from 9; `None` where it does not shrink.
    compressed: [OnceCell<Option<Rc<[u8]>>>; 7],
}

impl Prepared {
    /// A message, or a control frame.
    pub fn new(opcode: Opcode, payload: &[u8]) -> Self {
        let mut plain = Vec::new();
        write_frame(&mut plain, true, opcode, payload, None);
        let start = plain.len() - payload.len();
        Self(Rc::new(Frames { opcode, plain: plain.into(), start, compressed: Default::default() }))
    }

    /// What it is.
    pub fn opcode(&self) -> Opcode {
        self.0.opcode
    }

    /// Its payload.
    pub fn payload(&self) -> &[u8] {
        &self.0.plain[self.0.start..]
    }

    /// The frame for the connection of this `compressor`, which has to be the next that is sent there.
    ///
    /// It refers to nothing. With context takeover it takes a place in the peer's window of which our compressor does
    /// not know, so that would count its distances wrongly: it forgets what it has, and begins anew behind the frame.
    pub fn frame(&self, compressor: Option<&mut Compressor>) -> &Rc<[u8]> {
        let Frames { opcode, plain, compressed, .. } = &*self.0;
        let Some(compressor) = compressor.filter(|_| !opcode.is_control()) else { return plain };
        if !compressor.is_for(self.payload().len()) {
            return plain;
        }
        let frame = compressed[usize::from(compressor.bits() - 9)].get_or_init(|| {
            let mut out = Vec::new();
            write_message(&mut out, *opcode, self.payload(), None, Some(&mut compressor.without_takeover()));
            (out.len() < plain.len()).then(|| out.into())
        });
        match frame {
            Some(frame) => {
                compressor.reset();
                frame
            }
            None => plain,
        }
    }
}

#[cfg(all(test, feature = "deflate"))]
mod tests {
    use super::{
        super::{Contexts, Deflate, Event, Limits, Receiver, Role, extension},
        *,
    };

    const TEXT: &str = "{\"symbol\":\"ABC\",\"price\":12.34,\"currency\":\"CHF\"},";

    fn connection(takeover: bool, bits: u8) -> (Compressor, Receiver) {
        let settings = Deflate {
            server_no_context_takeover: !takeover,
            server_max_window_bits: bits,
            ..Deflate::default()
        };
        let (agreed, _) = extension::accept(&settings, ["permessage-deflate"]).unwrap();
        let contexts = Contexts::new();
        let compressor = Compressor::new(Role::Server, agreed, &settings, &contexts);
        (compressor, Receiver::with_deflate(Role::Client, Limits::default(), agreed, &contexts))
    }

    fn is_compressed(frame: &[u8]) -> bool {
        frame[0] & 0x40 != 0
    }

    fn sent(opcode: Opcode, payload: &[u8], compressor: &mut Compressor) -> Vec<u8> {
        let mut out = Vec::new();
        write_message(&mut out, opcode, payload, None, Some(compressor));
        out
    }

    fn hear(receiver: &mut Receiver, frame: &[u8]) -> String {
        let mut bytes = frame.to_vec();
        let received = receiver.receive(&mut bytes).unwrap();
        assert_eq!(received.consumed, frame.len());
        let Some(Event::Text(text)) = received.event else { panic!("{received:?}") };
        text.to_owned()
    }

    fn noise(size: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..size).map(step).collect()
    }

    #[test]
    fn what_is_small_or_control_or_does_not_shrink_is_sent_as_it_is() {
        let (mut compressor, _) = connection(false, 15);
        let text = TEXT.repeat(9);
        assert!(is_compressed(&sent(Opcode::Text, text.as_bytes(), &mut compressor)));
        assert!(!is_compressed(&sent(Opcode::Text, &text.as_bytes()[..127], &mut compressor)));
        assert!(!is_compressed(&sent(Opcode::Ping, &[b'x'; 125], &mut compressor)));
        for size in [128, 1000, 100_000] {
            let frame = sent(Opcode::Binary, &noise(size), &mut compressor);
            assert!(!is_compressed(&frame) && frame.ends_with(&noise(size)));
        }
    }

    #[test]
    fn with_takeover_what_hardly_grows_is_sent_to_be_referred_to() {
        let (mut compressor, mut receiver) = connection(true, 15);
        let first = sent(Opcode::Binary, &noise(130), &mut compressor);
        assert!(is_compressed(&first) && first.len() > 130);
        let second = sent(Opcode::Binary, &noise(130), &mut compressor);
        assert!(second.len() < 20, "{}", second.len());
        // But not what is noise; and then nothing refers to what the peer has never got.
        let plain = sent(Opcode::Binary, &noise(10_000), &mut compressor);
        assert!(!is_compressed(&plain));
        for mut frame in [first, second, plain, sent(Opcode::Binary, &noise(130), &mut compressor)] {
            assert!(receiver.receive(&mut frame).unwrap().event.is_some());
        }
    }

    #[test]
    fn every_length_of_header_fits_before_what_was_compressed() {
        for mask in [None, Some([9, 8, 7, 6])] {
            for size in [128, 200, 3_000, 65_000, 65_535, 65_536, 70_000] {
                for payload in [vec![b'x'; size], noise(size), [noise(size / 2), vec![0; size / 2]].concat()]
                {
                    let settings = Deflate::default();
                    let (agreed, _) = extension::accept(&settings, ["permessage-deflate"]).unwrap();
                    let (sender, role) = match mask {
                        Some(_) => (Role::Client, Role::Server),
                        None => (Role::Server, Role::Client),
                    };
                    let contexts = Contexts::new();
                    let mut compressor = Compressor::new(sender, agreed, &settings, &contexts);
                    let mut out = b"sent before".to_vec();
                    write_message(&mut out, Opcode::Binary, &payload, mask, Some(&mut compressor));
                    assert!(out.starts_with(b"sent before"));
                    let mut receiver = Receiver::with_deflate(role, Limits::default(), agreed, &contexts);
                    let received = receiver.receive(&mut out[11..]).unwrap();
                    assert_eq!(received.event, Some(Event::Binary(&payload)));
                }
            }
        }
    }

    #[test]
    fn a_prepared_message_is_compressed_once_for_each_window() {
        let text = TEXT.repeat(20);
        let prepared = Prepared::new(Opcode::Text, text.as_bytes());
        assert_eq!(prepared.payload(), text.as_bytes());
        assert!(!is_compressed(prepared.frame(None)));
        let frames: Vec<_> = [(false, 15), (true, 15), (false, 9), (false, 8), (true, 8)]
            .map(|(takeover, bits)| {
                let (mut compressor, mut receiver) = connection(takeover, bits);
                let frame = Rc::clone(prepared.clone().frame(Some(&mut compressor)));
                assert!(is_compressed(&frame));
                assert_eq!(hear(&mut receiver, &frame), text);
                frame
            })
            .into();
        let same = |a: usize, b: usize| Rc::ptr_eq(&frames[a], &frames[b]);
        assert!(same(0, 1) && same(2, 3) && same(3, 4) && !same(0, 2));
        for (opcode, payload) in [(Opcode::Binary, noise(500)), (Opcode::Ping, vec![b'x'; 125])] {
            let prepared = Prepared::new(opcode, &payload);
            let frame = Rc::clone(prepared.frame(Some(&mut connection(true, 15).0)));
            assert!(Rc::ptr_eq(&frame, prepared.frame(None)));
        }
    }

    #[test]
    fn prepared_messages_come_between_others() {
        let (mut compressor, mut receiver) = connection(true, 15);
        let own = TEXT.repeat(3);
        let prepared = Prepared::new(Opcode::Text, TEXT.repeat(5).replace("ABC", "XYZ").as_bytes());
        for round in 0..20 {
            let frame = sent(Opcode::Text, own.as_bytes(), &mut compressor);
            assert_eq!(hear(&mut receiver, &frame), own, "{round}");
            if round % 3 > 0 {
                let frame = prepared.frame(Some(&mut compressor));
                assert_eq!(hear(&mut receiver, frame).as_bytes(), prepared.payload(), "{round}");
            }
        }
    }
}
