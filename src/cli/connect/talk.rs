//! Both directions of a connection that has switched, without I/O: bytes in, what was heard out; what to say in, bytes
//! out. WebSocket by the library's own rules, in the client's role; any other protocol as it stands.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use switchpoint::ws::{
    Agreed, CloseFrame, Code, Compressor, Contexts, Deflate, Event, Fault, Limits, Opcode, Receiver, Role,
    close, write_message,
};

use super::{ending::own, frames::Watch, stats::Stats};

/// A connection, as bytes.
pub(super) struct Talk {
    /// `None`: the bytes are the messages.
    websocket: Option<WebSocket>,
    inbound: Vec<u8>,
    /// How much of `inbound` is done with.
    taken: usize,
    outbound: Vec<u8>,
    /// How much of `outbound` was sent.
    sent: usize,
    pub(super) stats: Stats,
}

struct WebSocket {
    receiver: Receiver,
    compressor: Option<Compressor>,
    random: Random,
    /// Pings without an answer, and when they were sent.
    pings: VecDeque<(Vec<u8>, Instant)>,
    /// Bytes of pongs in `outbound`, at most.
    pongs: usize,
    is_closed: bool,
    watches: [Watch; 2],
    shows_frames: bool,
    /// What the watches have seen.
    frames: Vec<String>,
}

/// Something that the peer said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Text(String),
    Binary(Vec<u8>),
    /// It was answered.
    Ping(Vec<u8>),
    /// With the time since its ping, if it is the answer to one.
    Pong(Vec<u8>, Option<Duration>),
    /// It was answered.
    Close(Option<(Code, String)>),
}

/// Something to be sent as a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    Text(String),
    Binary(Vec<u8>),
}

impl Payload {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

impl Talk {
    /// For a protocol whose messages are bytes.
    pub(super) fn raw(now: Instant) -> Self {
        Self {
            websocket: None,
            inbound: Vec::new(),
            taken: 0,
            outbound: Vec::new(),
            sent: 0,
            stats: Stats::new(now),
        }
    }

    pub(super) fn websocket(deflate: Option<Agreed>, limits: Limits, now: Instant) -> Self {
        let contexts = Contexts::new();
        let receiver = match deflate {
            Some(agreed) => Receiver::with_deflate(Role::Client, limits, agreed, &contexts),
            None => Receiver::new(Role::Client, limits),
        };
        let compressor =
            deflate.map(|agreed| Compressor::new(Role::Client, agreed, &Deflate::default(), &contexts));
        let websocket = WebSocket {
            receiver,
            compressor,
            random: Random::default(),
            pings: VecDeque::new(),
            pongs: 0,
            is_closed: false,
            watches: [Watch::new('<'), Watch::new('>')],
            shows_frames: false,
            frames: Vec::new(),
        };
        Self { websocket: Some(websocket), ..Self::raw(now) }
    }

    pub(super) fn is_raw(&self) -> bool {
        self.websocket.is_none()
    }

    /// Begins or ends to note each frame.
    pub(super) fn watch_frames(&mut self, on: bool) {
        if let Some(websocket) = &mut self.websocket {
            websocket.shows_frames = on;
        }
    }

    /// The frames that were seen since the last call.
    pub(super) fn frames(&mut self) -> Vec<String> {
        self.websocket.as_mut().map(|websocket| std::mem::take(&mut websocket.frames)).unwrap_or_default()
    }

    // ---- in -----------------------------------------------------------------------------------------------------

    /// Takes what `read` appends, and gives what it returns.
    pub(super) fn arrive(
        &mut self,
        read: impl FnOnce(&mut Vec<u8>) -> std::io::Result<usize>,
    ) -> std::io::Result<usize> {
        let start = self.inbound.len();
        let count = read(&mut self.inbound)?;
        self.stats.wire_heard += count as u64;
        if let Some(WebSocket { watches: [watch, _], shows_frames, frames, .. }) = &mut self.websocket {
            watch.feed(&self.inbound[start..], *shows_frames, |line| frames.push(line));
        }
        Ok(count)
    }

    /// The next thing in what has arrived; `None` when more is needed.
    ///
    /// # Errors
    /// The peer broke a rule. It was told; nothing else is heard.
    pub(super) fn hear(&mut self, now: Instant) -> Result<Option<Heard>, Fault> {
        let Some(websocket) = &mut self.websocket else {
            let bytes = std::mem::take(&mut self.inbound);
            if bytes.is_empty() {
                return Ok(None);
            }
            self.stats.hears(false, &bytes, now);
            return Ok(Some(Heard::Binary(bytes)));
        };
        let received = match websocket.receiver.receive(&mut self.inbound[self.taken..]) {
            Ok(received) => received,
            Err(fault) => {
                let reason = fault.to_string();
                self.close(Some(CloseFrame { code: fault.close_code(), reason: &reason }));
                return Err(fault);
            }
        };
        self.taken += received.consumed;
        let heard = match received.event {
            None => {
                self.inbound.drain(..self.taken);
                self.taken = 0;
                return Ok(None);
            }
            Some(Event::Text(text)) => Heard::Text(text.to_owned()),
            Some(Event::Binary(bytes)) => Heard::Binary(bytes.to_owned()),
            Some(Event::Ping(payload)) => Heard::Ping(payload.to_owned()),
            Some(Event::Pong(payload)) => {
                let place = websocket.pings.iter().position(|(sent, _)| sent == payload);
                let took = place.map(|place| now - websocket.pings[place].1);
                // One pong answers the pings before its own, too (5.5.3).
                place.map(|place| websocket.pings.drain(..=place));
                Heard::Pong(payload.to_owned(), took)
            }
            Some(Event::Close(frame)) => Heard::Close(frame.map(own)),
        };
        match &heard {
            Heard::Text(text) => self.stats.hears(true, text.as_bytes(), now),
            Heard::Binary(bytes) => self.stats.hears(false, bytes, now),
            Heard::Ping(payload) => {
                self.control(Opcode::Pong, payload);
                self.websocket.as_mut().expect("it spoke").pongs += payload.len() + FRAME_MAX;
            }
            Heard::Pong(_, took) => took.iter().for_each(|took| self.stats.pings.add(*took)),
            Heard::Close(frame) => {
                self.close(frame.as_ref().map(|(code, reason)| CloseFrame { code: *code, reason }));
            }
        }
        Ok(Some(heard))
    }

    /// Whether pongs pile up, because the peer pings and does not read. Then nothing more should be read either.
    pub(super) fn is_flooded(&self) -> bool {
        self.websocket.as_ref().is_some_and(|websocket| websocket.pongs > PONGS_MAX) && self.unsent() > 0
    }

    /// How long the oldest ping waits for its pong.
    pub(super) fn oldest_ping(&self) -> Option<Instant> {
        self.websocket.as_ref()?.pings.front().map(|(_, at)| *at)
    }

    // ---- out ----------------------------------------------------------------------------------------------------

    /// How many bytes wait to be written.
    pub(super) fn unsent(&self) -> usize {
        self.outbound.len() - self.sent
    }

    /// Gives what is to be sent to `write`, which says how much it took.
    pub(super) fn depart(
        &mut self,
        write: impl FnOnce(&[u8]) -> std::io::Result<usize>,
    ) -> std::io::Result<usize> {
        let count = write(&self.outbound[self.sent..])?;
        self.sent += count;
        self.stats.wire_sent += count as u64;
        if self.sent == self.outbound.len() {
            self.outbound.clear();
            self.sent = 0;
            self.websocket.iter_mut().for_each(|websocket| websocket.pongs = 0);
        }
        Ok(count)
    }

    /// Sends a message; what is said after a close frame is not sent (5.5.1).
    pub(super) fn say(&mut self, payload: &Payload, now: Instant) {
        let opcode = match payload {
            Payload::Text(_) => Opcode::Text,
            Payload::Binary(_) => Opcode::Binary,
        };
        if self.frame(opcode, payload.bytes()) {
            self.stats.sends(opcode == Opcode::Text && !self.is_raw(), payload.bytes(), now);
        }
    }

    /// Sends a ping, whose pong is waited for.
    pub(super) fn ping(&mut self, payload: &[u8], now: Instant) {
        if self.frame(Opcode::Ping, payload)
            && let Some(websocket) = &mut self.websocket
        {
            if websocket.pings.len() == PINGS_MAX {
                websocket.pings.pop_front();
            }
            websocket.pings.push_back((payload.to_owned(), now));
        }
    }

    /// Sends a pong that nobody has asked for (5.5.3).
    pub(super) fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        self.frame(opcode, payload);
    }

    /// Sends a close frame, once.
    pub(super) fn close(&mut self, frame: Option<CloseFrame<'_>>) {
        let mut payload = [0; close::PAYLOAD_MAX];
        let length = frame.map_or(0, |frame| frame.encode(&mut payload));
        self.frame(Opcode::Close, &payload[..length]);
        if let Some(websocket) = &mut self.websocket {
            websocket.is_closed = true;
        }
    }

    fn frame(&mut self, opcode: Opcode, payload: &[u8]) -> bool {
        let start = self.outbound.len();
        let Some(websocket) = &mut self.websocket else {
            let is_message = !opcode.is_control();
            self.outbound.extend_from_slice(if is_message { payload } else { b"" });
            return is_message;
        };
        if websocket.is_closed {
            return false;
        }
        let mask = Some(websocket.random.mask());
        write_message(&mut self.outbound, opcode, payload, mask, websocket.compressor.as_mut());
        let WebSocket { watches: [_, watch], shows_frames, frames, .. } = websocket;
        watch.feed(&self.outbound[start..], *shows_frames, |line| frames.push(line));
        true
    }
}

/// The header of a control frame.
const FRAME_MAX: usize = 6;
/// How many bytes of pongs wait at most.
const PONGS_MAX: usize = 64 << 10;
/// How many pings are remembered.
const PINGS_MAX: usize = 64;

/// Bytes that nobody can foretell, asked for by the page.
pub(in crate::cli) struct Random {
    bytes: [u8; 1024],
    used: usize,
}

impl Default for Random {
    fn default() -> Self {
        Self { bytes: [0; 1024], used: 1024 }
    }
}

impl Random {
    /// A masking key (10.3).
    pub(super) fn mask(&mut self) -> [u8; 4] {
        if self.used == self.bytes.len() {
            let count =
                rustix::rand::getrandom(&mut self.bytes[..256], rustix::rand::GetRandomFlags::empty());
            assert_eq!(count, Ok(256), "up to 256 bytes the kernel gives at once");
            self.bytes.copy_within(..256, 768);
            self.used = 768;
        }
        let key = self.bytes[self.used..self.used + 4].try_into().expect("it is a multiple of four");
        self.used += 4;
        key
    }

    /// The sixteen bytes of a `Sec-WebSocket-Key` (4.1).
    pub(in crate::cli) fn nonce(&mut self) -> [u8; 16] {
        let parts = [self.mask(), self.mask(), self.mask(), self.mask()];
        parts.as_flattened().try_into().expect("four times four")
    }
}

#[cfg(test)]
mod tests {
    use switchpoint::ws::write_frame;

    use super::*;

    fn talk() -> Talk {
        Talk::websocket(None, Limits::default(), Instant::now())
    }

    fn feed(talk: &mut Talk, bytes: &[u8]) {
        talk.arrive(|buffer| {
            buffer.extend_from_slice(bytes);
            Ok(bytes.len())
        })
        .unwrap();
    }

    /// What the talk has said, as a server hears it.
    fn said(talk: &mut Talk) -> Vec<String> {
        let mut bytes = Vec::new();
        talk.depart(|out| {
            bytes.extend_from_slice(out);
            Ok(out.len())
        })
        .unwrap();
        let mut receiver = Receiver::new(Role::Server, Limits::default());
        let (mut at, mut events) = (0, Vec::new());
        while let received = receiver.receive(&mut bytes[at..]).unwrap()
            && let Some(event) = received.event
        {
            events.push(format!("{event:?}"));
            at += received.consumed;
        }
        events
    }

    #[test]
    fn a_ping_is_answered_and_a_pong_is_timed() {
        let mut talk = talk();
        let now = Instant::now();
        talk.ping(b"a", now);
        talk.ping(b"b", now);
        let mut bytes = Vec::new();
        write_frame(&mut bytes, true, Opcode::Ping, b"x", None);
        write_frame(&mut bytes, true, Opcode::Pong, b"b", None);
        write_frame(&mut bytes, true, Opcode::Pong, b"a", None);
        feed(&mut talk, &bytes);
        let later = now + Duration::from_millis(2);
        assert_eq!(talk.hear(later), Ok(Some(Heard::Ping(b"x".into()))));
        assert_eq!(talk.hear(later), Ok(Some(Heard::Pong(b"b".into(), Some(Duration::from_millis(2))))));
        assert_eq!(talk.oldest_ping(), None, "a pong answers those before it, too");
        assert_eq!(talk.hear(later), Ok(Some(Heard::Pong(b"a".into(), None))));
        assert_eq!(talk.hear(later), Ok(None));
        assert_eq!(said(&mut talk).len(), 3);
    }

    #[test]
    fn behind_a_close_nothing_is_said() {
        let mut talk = talk();
        talk.close(Some(CloseFrame { code: Code::NORMAL, reason: "bye" }));
        talk.say(&Payload::Text("late".into()), Instant::now());
        talk.close(None);
        let said = said(&mut talk);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("bye"), "{said:?}");
        assert_eq!(talk.stats.sent.messages, 0);
    }

    #[test]
    fn who_breaks_a_rule_is_told_which() {
        let mut talk = talk();
        feed(&mut talk, &[0x81, 0x81, 1, 2, 3, 4, 5]);
        assert_eq!(talk.hear(Instant::now()), Err(Fault::Masked));
        assert!(said(&mut talk)[0].contains("1002"));
    }

    #[test]
    fn raw_bytes_are_as_they_are() {
        let mut talk = Talk::raw(Instant::now());
        talk.say(&Payload::Text("hi".into()), Instant::now());
        talk.ping(b"no", Instant::now());
        assert_eq!(talk.outbound, b"hi");
        feed(&mut talk, b"\x81\x00");
        assert_eq!(talk.hear(Instant::now()), Ok(Some(Heard::Binary(vec![0x81, 0]))));
        assert_eq!(talk.hear(Instant::now()), Ok(None));
    }

    #[test]
    fn masks_do_not_repeat() {
        let mut random = Random::default();
        let masks: std::collections::HashSet<_> = (0..10_000).map(|_| random.mask()).collect();
        assert!(masks.len() > 9_990, "{}", masks.len());
    }
}
