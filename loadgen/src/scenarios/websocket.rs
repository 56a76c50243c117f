//! Messages over WebSocket (RFC 6455), each in one frame under a masking key of its own.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use switchpoint::ws::{
    CloseFrame, Code, Event, Header, Limits, Opcode, Receiver, Role, accept_key, close, mask, write_frame,
};

use crate::{
    content::{Content, Messages, Random},
    fault::{Fault, Wrong},
    handshake::{Answer, Broken},
    plan::Plan,
    scenario::Scenario,
};

pub(crate) struct WebSocket {
    messages: Messages,
    opcode: Opcode,
    receiver: Receiver,
    /// A message is in the receiver, and not all of it: the next bytes need not be a header.
    is_within: bool,
    random: Random,
    key: String,
}

impl WebSocket {
    #[inline]
    fn masking_key(&mut self) -> [u8; 4] {
        (self.random.next() as u32).to_le_bytes()
    }

    /// Whether to wait until the rest of a frame is here. A frame that is seen whole is verified where it lies; one that
    /// comes in pieces is put together by the receiver first.
    #[inline]
    fn is_worth_waiting(&self, bytes: &[u8]) -> bool {
        match Header::decode(bytes) {
            _ if self.is_within => false,
            Ok(Some((header, size))) => {
                let whole = header.length.saturating_add(size as u64);
                whole > bytes.len() as u64 && whole <= self.reply_max() as u64
            }
            Ok(None) => true,
            Err(_) => false,
        }
    }
}

impl Scenario for WebSocket {
    const TOKEN: &'static str = "websocket";

    fn new(plan: &Plan, content: &Arc<Content>, connection: u32, mut random: Random) -> Self {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&random.next().to_le_bytes());
        nonce[8..].copy_from_slice(&random.next().to_le_bytes());
        // A reply that is too long should be counted as such, and not end the connection, unless it is absurd.
        let limits = Limits { message_max: content.size() + 65_536, ..Limits::default() };
        Self {
            messages: Messages::new(Arc::clone(content), connection),
            opcode: if plan.is_text() { Opcode::Text } else { Opcode::Binary },
            receiver: Receiver::new(Role::Client, limits),
            is_within: false,
            random,
            key: STANDARD.encode(nonce),
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![("Sec-WebSocket-Version", "13".to_owned()), ("Sec-WebSocket-Key", self.key.clone())]
    }

    /// RFC 6455 4.1, what a client has to check.
    fn admit(&self, answer: &Answer, asked: &[(String, String)]) -> Result<(), Broken> {
        let accepts: Vec<&[u8]> = answer.values("sec-websocket-accept").collect();
        if accepts != [accept_key(self.key.as_bytes())] {
            return Err(if accepts.is_empty() { Broken::NoAccept } else { Broken::WrongAccept });
        }
        if answer.values("sec-websocket-extensions").next().is_some() {
            return Err(Broken::UnaskedExtension);
        }
        let offered: Vec<&str> = asked
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol"))
            .flat_map(|(_, value)| value.split(',').map(str::trim))
            .collect();
        let is_offered = |chosen: &[u8]| offered.iter().any(|offer| offer.as_bytes() == chosen);
        if answer.values("sec-websocket-protocol").all(is_offered) {
            Ok(())
        } else {
            Err(Broken::UnaskedProtocol)
        }
    }

    fn reply_max(&self) -> usize {
        Header::SIZE_MAX + self.messages.size().max(Receiver::UNREAD_MAX)
    }

    #[inline]
    fn send(&mut self, out: &mut Vec<u8>) {
        let key = self.masking_key();
        let length = self.messages.size() as u64;
        let header = Header { fin: true, rsv1: false, opcode: self.opcode, mask: Some(key), length };
        let mut head = [0; Header::SIZE_MAX];
        let size = header.encode(&mut head);
        out.extend_from_slice(&head[..size]);
        let start = out.len();
        self.messages.append_next(out);
        mask::apply(&mut out[start..], key, 0);
    }

    #[inline]
    fn receive(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        mut reply: impl FnMut(Result<(), Wrong>),
    ) -> Result<usize, Fault> {
        let mut at = 0;
        while at < bytes.len() {
            if self.is_worth_waiting(&bytes[at..]) {
                break;
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
            if !self.messages.is_due() {
                return Err(Fault::Surplus);
            }
            let verdict = self.messages.check_next(payload);
            reply(if opcode == self.opcode { verdict } else { verdict.and(Err(Wrong::Type)) });
        }
        Ok(at)
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
    use super::*;
    use crate::plan::{What, tests::plan};

    fn websocket(size: usize, text: bool) -> WebSocket {
        let plan = plan(What::WebSocket { text }, size);
        WebSocket::new(&plan, &Arc::new(Content::new(size, text, 7)), 3, Random::new(7))
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

    fn exchange(websocket: &mut WebSocket) -> (Opcode, Vec<u8>) {
        let mut wire = Vec::new();
        websocket.send(&mut wire);
        heard(&mut wire)
    }

    /// How it ended, what the replies were, and what was answered.
    type Heard = (Result<(), Fault>, Vec<Result<(), Wrong>>, Vec<u8>);

    /// Feeds `wire` in pieces, as a connection would.
    fn hear(websocket: &mut WebSocket, wire: &[u8], piece: usize) -> Heard {
        let (mut held, mut out, mut verdicts) = (Vec::new(), Vec::new(), Vec::new());
        for piece in wire.chunks(piece) {
            held.extend_from_slice(piece);
            match websocket.receive(&mut held, &mut out, |verdict| verdicts.push(verdict)) {
                Ok(consumed) => drop(held.drain(..consumed)),
                Err(fault) => return (Err(fault), verdicts, out),
            }
            assert!(held.len() < websocket.reply_max(), "the buffer is full and nothing moves");
        }
        assert!(held.is_empty());
        (Ok(()), verdicts, out)
    }

    #[test]
    fn replies_are_verified_however_they_are_cut() {
        for text in [false, true] {
            for size in [0, 1, 64, 125, 126, 1000, 70_000] {
                for piece in [1, 2, 7, 100, 1 << 20] {
                    if size > 1000 && piece < 100 {
                        continue;
                    }
                    let mut websocket = websocket(size, text);
                    let mut wire = Vec::new();
                    for round in 0..4 {
                        let (opcode, message) = exchange(&mut websocket);
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
                    let (result, verdicts, out) = hear(&mut websocket, &wire, piece);
                    result.unwrap();
                    assert_eq!(verdicts, [Ok(()); 4], "{text} {size} {piece}");
                    assert_eq!((out[0], out[1]), (0x8a, 0x80 | 5), "the ping is answered, masked");
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_reply_is_a_fault() {
        let told = |frame: &[u8]| hear(&mut websocket(64, false), frame, 1 << 20).0.unwrap_err().kind();
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
    fn a_wrong_reply_is_counted_and_the_next_may_be_right() {
        let mut websocket = websocket(64, false);
        let replies: Vec<_> = (0..4).map(|_| exchange(&mut websocket).1).collect();
        let mut wire = Vec::new();
        write_frame(&mut wire, true, Opcode::Binary, &replies[0][..60], None);
        write_frame(&mut wire, true, Opcode::Binary, &replies[2], None);
        write_frame(&mut wire, true, Opcode::Binary, &replies[2], None);
        write_frame(&mut wire, true, Opcode::Binary, &[0; 1000], None);
        let (result, verdicts, _) = hear(&mut websocket, &wire, 1 << 20);
        result.unwrap();
        let order = Err(Wrong::Order { expected: 1, got: 2 });
        assert_eq!(verdicts, [Err(Wrong::Length(60)), order, Ok(()), Err(Wrong::Length(1000))]);
    }

    #[test]
    fn text_for_binary_is_wrong() {
        let mut websocket = websocket(1, false);
        let (_, message) = exchange(&mut websocket);
        let mut wire = Vec::new();
        write_frame(&mut wire, true, Opcode::Text, &message, None);
        assert_eq!(hear(&mut websocket, &wire, 9).1, [Err(Wrong::Type)]);
    }

    #[test]
    fn every_frame_has_a_key_of_its_own() {
        let mut websocket = websocket(0, false);
        let mut wire = Vec::new();
        (0..100).for_each(|_| websocket.send(&mut wire));
        let keys: std::collections::HashSet<_> = wire.chunks(6).map(|frame| frame[2..].to_vec()).collect();
        assert_eq!(keys.len(), 100);
    }

    #[test]
    fn the_accept_has_to_be_the_keys() {
        let websocket = websocket(64, false);
        let admit = |fields: &str, asked: &[(String, String)]| {
            let head = format!("HTTP/1.1 101 x\r\n{fields}\r\n");
            let (answer, _) = Answer::parse(head.as_bytes()).unwrap().unwrap();
            websocket.admit(&answer, asked)
        };
        let accept = accept_key(websocket.key.as_bytes());
        let right = format!("Sec-WebSocket-Accept: {}\r\n", str::from_utf8(&accept).unwrap());
        assert_eq!(admit(&right, &[]), Ok(()));
        assert_eq!(admit("", &[]), Err(Broken::NoAccept));
        assert_eq!(admit("Sec-WebSocket-Accept: no\r\n", &[]), Err(Broken::WrongAccept));
        assert_eq!(admit(&right.repeat(2), &[]), Err(Broken::WrongAccept));
        let extended = format!("{right}Sec-WebSocket-Extensions: permessage-deflate\r\n");
        assert_eq!(admit(&extended, &[]), Err(Broken::UnaskedExtension));
        let chat = format!("{right}Sec-WebSocket-Protocol: chat\r\n");
        assert_eq!(admit(&chat, &[]), Err(Broken::UnaskedProtocol));
        let asked = [("sec-websocket-protocol".to_owned(), "chess, chat".to_owned())];
        assert_eq!(admit(&chat, &asked), Ok(()));
    }
}
