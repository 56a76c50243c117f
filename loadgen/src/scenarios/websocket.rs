//! Messages over WebSocket (RFC 6455), each under a masking key of its own.

use std::{rc::Rc, sync::Arc};

use switchpoint::ws::{
    CloseFrame, Code, Compressor, Contexts, Deflate, Event, Header, Limits, Opcode, Opening, Receiver, Role,
    close,
    opening::{Switched, Unfit},
    write_frame, write_message,
};

use crate::{
    content::{Content, Random},
    fault::Fault,
    plan::{self, Plan, What},
    scenario::{PLAIN, Scenario, Sink},
};

pub(crate) struct WebSocket {
    opcode: Opcode,
    /// Apart, for most replies need it not.
    receiver: Box<Receiver>,
    /// The longest frame that is waited for.
    reply_max: usize,
    /// What is longer than this is a fault.
    message_max: usize,
    /// A message is in the receiver, and not all of it: the next bytes need not be a header.
    is_within: bool,
    random: Random,
    has_zero_mask: bool,
    fragment: Option<usize>,
    compressor: Option<Box<Compressor>>,
}

/// What is to be done with the frame at the front.
enum Outlook {
    /// Its rest is waited for: a frame that is seen whole is verified where it lies.
    Wait,
    /// It is a message by itself, of bytes that nobody has to look at but who verifies it.
    Message { start: usize, end: usize },
    /// The receiver reads it, and puts together what comes in pieces.
    Read,
}

impl WebSocket {
    #[inline]
    fn masking_key(&mut self) -> [u8; 4] {
        if self.has_zero_mask { [0; 4] } else { (self.random.next() as u32).to_le_bytes() }
    }

    /// What a frame's first bytes say is to be done with it.
    #[inline]
    fn outlook(&self, bytes: &[u8]) -> Outlook {
        if self.is_within {
            return Outlook::Read;
        }
        match Header::decode(bytes) {
            // What a server may not send is for the receiver to say, at once.
            Ok(Some((header, _))) if header.mask.is_some() => Outlook::Read,
            Ok(Some((header, size))) => {
                let whole = header.length.saturating_add(size as u64);
                if whole > bytes.len() as u64 {
                    let is_worth_waiting = whole <= self.reply_max as u64;
                    return if is_worth_waiting { Outlook::Wait } else { Outlook::Read };
                }
                let is_message = header.fin && !header.rsv1 && header.opcode == Opcode::Binary;
                if is_message { Outlook::Message { start: size, end: whole as usize } } else { Outlook::Read }
            }
            Ok(None) => Outlook::Wait,
            Err(_) => Outlook::Read,
        }
    }

    /// What is fragmented or compressed has to be there as a whole first.
    #[cold]
    fn send_put_together(&mut self, out: &mut Vec<u8>, payload: &[u8]) {
        let key = self.masking_key();
        let Some(fragment) = self.fragment.filter(|fragment| *fragment < payload.len()) else {
            return write_message(out, self.opcode, payload, Some(key), self.compressor.as_deref_mut());
        };
        let count = payload.len().div_ceil(fragment);
        for (at, piece) in payload.chunks(fragment).enumerate() {
            let opcode = if at == 0 { self.opcode } else { Opcode::Continuation };
            let key = self.masking_key();
            write_frame(out, at + 1 == count, opcode, piece, Some(key));
        }
    }
}

fn how(plan: &Plan) -> plan::WebSocket {
    match &plan.what {
        What::WebSocket(how) => how.clone(),
        What::Http2(plan::Http2 { websocket: Some(how), .. }) => how.clone(),
        What::Echo | What::Http2(_) => plan::WebSocket::default(),
    }
}

impl Scenario for WebSocket {
    fn opening(plan: &Plan, random: &mut Random) -> Result<Option<Opening>, Unfit> {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&random.next().to_le_bytes());
        nonce[8..].copy_from_slice(&random.next().to_le_bytes());
        let mut opening = Opening::new(nonce);
        let how = how(plan);
        for name in &how.subprotocols {
            opening.subprotocol(name)?;
        }
        if how.deflate {
            opening.deflate(Deflate::default());
        }
        Ok(Some(opening))
    }

    fn new(
        plan: &Plan,
        switched: Option<&Switched>,
        random: Random,
        contexts: &Rc<Contexts>,
        _: &Arc<Content>,
    ) -> Result<Self, Fault> {
        let how = how(plan);
        // A reply that is too long should be counted as such, and not end the connection, unless it is absurd.
        let limits = Limits { message_max: plan.sizes.max() + 65_536, ..Limits::default() };
        let (receiver, compressor) = match switched.and_then(|switched| switched.deflate) {
            Some(agreed) => (
                Receiver::with_deflate(Role::Client, limits, agreed, contexts),
                Some(Box::new(Compressor::new(Role::Client, agreed, &Deflate::default(), contexts))),
            ),
            None => (Receiver::new(Role::Client, limits), None),
        };
        Ok(Self {
            opcode: if how.is_text { Opcode::Text } else { Opcode::Binary },
            receiver: Box::new(receiver),
            reply_max: Self::reply_max(plan.sizes.max()),
            message_max: limits.message_max,
            is_within: false,
            random,
            has_zero_mask: how.has_zero_mask,
            fragment: how.fragment,
            compressor,
        })
    }

    fn reply_max(size: usize) -> usize {
        Header::SIZE_MAX + size.max(Receiver::UNREAD_MAX)
    }

    #[inline]
    fn send(&mut self, out: &mut Vec<u8>, length: usize, content: impl FnOnce(&mut Vec<u8>, [u8; 4])) {
        if self.compressor.is_some() || self.fragment.is_some() {
            let mut payload = Vec::with_capacity(length);
            content(&mut payload, PLAIN);
            return self.send_put_together(out, &payload);
        }
        let key = self.masking_key();
        let header =
            Header { fin: true, rsv1: false, opcode: self.opcode, mask: Some(key), length: length as u64 };
        let mut head = [0; Header::SIZE_MAX];
        let start = out.len() + header.encode(&mut head);
        // A copy of a length that the compiler knows is no call.
        out.extend_from_slice(&head);
        out.truncate(start);
        content(out, key);
        debug_assert_eq!(out.len() - start, length);
    }

    #[inline]
    fn receive(&mut self, bytes: &mut [u8], out: &mut Vec<u8>, sink: &mut impl Sink) -> Result<usize, Fault> {
        let mut at = 0;
        while at < bytes.len() {
            match self.outlook(&bytes[at..]) {
                Outlook::Wait => break,
                Outlook::Message { start, end } if end - start <= self.message_max => {
                    sink.reply(&bytes[at + start..at + end], self.opcode == Opcode::Binary)?;
                    at += end;
                    continue;
                }
                Outlook::Message { .. } | Outlook::Read => {}
            }
            let received = self.receiver.receive(&mut bytes[at..])?;
            at += received.consumed;
            let Some(event) = received.event else {
                self.is_within = true;
                break;
            };
            let (opcode, payload) = match event {
                Event::Text(text) => (Opcode::Text, text.as_bytes()),
                Event::Binary(bytes) => (Opcode::Binary, bytes),
                Event::Ping(payload) => {
                    // As `masking_key`, which would borrow the event's owner.
                    let key = (self.random.next() as u32).to_le_bytes();
                    write_frame(out, true, Opcode::Pong, payload, Some(key));
                    continue;
                }
                Event::Pong(_) => continue,
                Event::Close(frame) => {
                    let reason = frame.map_or_else(String::new, |frame| frame.reason.to_owned());
                    return Err(Fault::Closed { code: frame.map(|frame| frame.code), reason });
                }
            };
            self.is_within = false;
            sink.reply(payload, opcode == self.opcode)?;
        }
        Ok(at)
    }

    fn ping(&mut self, out: &mut Vec<u8>) {
        let key = self.masking_key();
        write_frame(out, true, Opcode::Ping, b"loadgen", Some(key));
    }

    fn goodbye(&mut self, out: &mut Vec<u8>) {
        let mut payload = [0; close::PAYLOAD_MAX];
        let length = CloseFrame { code: Code::NORMAL, reason: "" }.encode(&mut payload);
        let key = self.masking_key();
        write_frame(out, true, Opcode::Close, &payload[..length], Some(key));
    }
}

#[cfg(test)]
mod tests {
    use switchpoint::ws::mask;

    use super::*;
    use crate::{plan::tests::plan, scenarios::tests::Due};

    fn speaking(how: plan::WebSocket, size: usize) -> WebSocket {
        let plan = plan(What::WebSocket(how), size);
        let switched = Switched { subprotocol: None, deflate: None };
        let content = Arc::new(Content::new(plan.sizes, false, 7));
        WebSocket::new(&plan, Some(&switched), Random::new(7), &Contexts::new(), &content).unwrap()
    }

    fn websocket(size: usize, is_text: bool) -> WebSocket {
        speaking(plan::WebSocket { is_text, ..Default::default() }, size)
    }

    /// What a server hears of one message, by the library's own reader.
    fn heard(wire: &mut [u8]) -> (Opcode, Vec<u8>) {
        let limits = Limits { message_max: 1 << 20, ..Limits::default() };
        let mut server = Receiver::new(Role::Server, limits);
        let received = server.receive(wire).unwrap();
        let heard = match received.event.unwrap() {
            Event::Text(text) => (Opcode::Text, text.as_bytes().to_vec()),
            Event::Binary(bytes) => (Opcode::Binary, bytes.to_vec()),
            other => panic!("{other:?}"),
        };
        assert_eq!(received.consumed, wire.len());
        heard
    }

    fn exchange(websocket: &mut WebSocket, message: &[u8]) -> (Opcode, Vec<u8>) {
        let mut wire = Vec::new();
        websocket.send(&mut wire, message.len(), |out, key| {
            let start = out.len();
            out.extend_from_slice(message);
            mask::apply(&mut out[start..], key, 0);
        });
        heard(&mut wire)
    }

    /// Feeds `wire` in pieces, as a connection would.
    fn hear(websocket: &mut WebSocket, wire: &[u8], piece: usize, due: &mut Due) -> Result<Vec<u8>, Fault> {
        let (mut held, mut out) = (Vec::new(), Vec::new());
        for piece in wire.chunks(piece) {
            held.extend_from_slice(piece);
            let consumed = websocket.receive(&mut held, &mut out, due)?;
            held.drain(..consumed);
            assert!(held.len() < websocket.reply_max, "the buffer is full and nothing moves");
        }
        assert!(held.is_empty());
        Ok(out)
    }

    #[test]
    fn replies_are_handed_over_however_they_are_cut() {
        for text in [false, true] {
            for size in [0, 1, 64, 125, 126, 1000, 70_000] {
                for piece in [1, 2, 7, 100, 1 << 20] {
                    if size > 1000 && piece < 100 {
                        continue;
                    }
                    let mut websocket = websocket(size, text);
                    let sent = vec![b'a'; size];
                    let mut wire = Vec::new();
                    for round in 0..4 {
                        let (opcode, message) = exchange(&mut websocket, &sent);
                        if round == 2 {
                            // In fragments, with a ping between them.
                            let (head, tail) = message.split_at(size / 2);
                            write_frame(&mut wire, false, opcode, head, None);
                            write_frame(&mut wire, true, Opcode::Ping, b"hello", None);
                            write_frame(&mut wire, true, Opcode::Continuation, tail, None);
                        } else {
                            write_frame(&mut wire, true, opcode, &message, None);
                        }
                    }
                    let mut due = Due::new([size; 4]);
                    let out = hear(&mut websocket, &wire, piece, &mut due).unwrap();
                    assert!(due.heard == vec![sent; 4] && due.is_right_type, "{text} {size} {piece}");
                    assert_eq!((out[0], out[1]), (0x8a, 0x80 | 5), "the ping is answered, masked");
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_reply_is_a_fault() {
        let told = |frame: &[u8]| {
            hear(&mut websocket(64, false), frame, 1 << 20, &mut Due::new([])).unwrap_err().kind()
        };
        let mut surplus = Vec::new();
        write_frame(&mut surplus, true, Opcode::Binary, b"?", None);
        assert_eq!(told(&surplus), "surplus-reply");
        assert_eq!(told(b"\x88\x02\x03\xf3"), "closed-1011");
        assert_eq!(told(b"\x88\x00"), "closed");
        assert_eq!(told(b"\x82\x81abcd?"), "masked");
        assert_eq!(told(b"\xc2\x01?"), "reserved-bits");
        assert_eq!(told(b"\x82\x7f\0\0\0\0\xff\xff\xff\xff"), "message-too-long");
    }

    #[test]
    fn text_for_binary_is_seen() {
        let mut wire = Vec::new();
        write_frame(&mut wire, true, Opcode::Text, b"a", None);
        let mut due = Due::new([1]);
        hear(&mut websocket(1, false), &wire, 9, &mut due).unwrap();
        assert!(!due.is_right_type);
    }

    #[test]
    fn every_frame_has_a_key_of_its_own_unless_none_is_wanted() {
        let mut wire = Vec::new();
        let mut websocket = websocket(0, false);
        (0..100).for_each(|_| websocket.send(&mut wire, 0, |_, _| {}));
        let keys: std::collections::HashSet<_> = wire.chunks(6).map(|frame| frame[2..].to_vec()).collect();
        assert_eq!(keys.len(), 100);
        let mut wire = Vec::new();
        speaking(plan::WebSocket { has_zero_mask: true, ..Default::default() }, 1).send(
            &mut wire,
            1,
            |out, _| out.push(b'x'),
        );
        assert_eq!(wire, b"\x82\x81\0\0\0\0x");
    }

    #[test]
    fn a_message_in_fragments_is_the_same_message() {
        let message = vec![7; 1000];
        for fragment in [1, 333, 999, 1000, 5000] {
            let how = plan::WebSocket { fragment: Some(fragment), ..Default::default() };
            assert_eq!(exchange(&mut speaking(how, 1000), &message), (Opcode::Binary, message.clone()));
        }
    }
}
