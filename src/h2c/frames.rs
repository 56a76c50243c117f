//! The frames that pass, told by their headers (RFC 9113 4.1): which kinds, and whether a request's head is under way.
//!
//! The `h2` crate judges them. It does not count those that are legal and lead nowhere, and has no clock for a head that
//! never ends; who counts and waits needs to know what passes.

use super::gate::FRAME_HEADER;

/// A walk over the frames of one direction, however they are cut.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    header: [u8; FRAME_HEADER],
    /// How much of the header is there.
    filled: usize,
    /// How much of the payload is to come.
    left: usize,
    /// A HEADERS or CONTINUATION frame has begun, and the one that ends the head has not passed.
    is_in_head: bool,
}

/// What a frame costs, and whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HEADERS: something is asked for.
    Headers,
    /// RST_STREAM: it is not wanted any more.
    Reset,
    /// SETTINGS, PING, PRIORITY, or a kind that we do not know: legal at any time, and free of flow control.
    Free,
    /// DATA, CONTINUATION, WINDOW_UPDATE, GOAWAY, PUSH_PROMISE: flow control or the crate has bounds for them.
    Bounded,
}

impl Frames {
    /// Goes on over `bytes`, and calls `seen` for each frame whose header is complete.
    pub fn walk(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Kind)) {
        loop {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
            }
            if self.filled == FRAME_HEADER && self.left == 0 {
                self.ends();
            }
            if bytes.is_empty() {
                return;
            }
            let taken = bytes.len().min(FRAME_HEADER - self.filled);
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled < FRAME_HEADER {
                return;
            }
            let [high, middle, low, kind, ..] = self.header;
            self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            self.is_in_head |= kind == HEADERS;
            seen(match kind {
                HEADERS => Kind::Headers,
                RST_STREAM => Kind::Reset,
                DATA | CONTINUATION | WINDOW_UPDATE | GOAWAY | PUSH_PROMISE => Kind::Bounded,
                _ => Kind::Free,
            });
        }
    }

    /// The frame in hand has passed whole.
    fn ends(&mut self) {
        self.filled = 0;
        let [_, _, _, kind, flags, ..] = self.header;
        if matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0 {
            self.is_in_head = false;
        }
    }

    /// Whether a request's head has begun and not ended.
    pub fn is_in_head(&self) -> bool {
        self.is_in_head
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let [.., high, middle, low] = payload.to_be_bytes();
        let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEADER + payload, 0xff);
        frame
    }

    #[test]
    fn frames_are_told_apart_however_they_are_cut() {
        let bytes = [
            frame(4, 0, 6),
            frame(1, END_HEADERS, 3),
            frame(0, 0, 70_000),
            frame(3, 0, 4),
            frame(0, 1, 0),
            frame(2, 0, 5),
            frame(0x77, 0, 0),
            frame(8, 0, 4),
        ]
        .concat();
        use Kind::*;
        let expected = [Free, Headers, Bounded, Reset, Bounded, Free, Free, Bounded];
        for size in [1, 2, 7, 8, 9, 10, 1000, bytes.len()] {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            bytes.chunks(size).for_each(|chunk| frames.walk(chunk, |kind| seen.push(kind)));
            assert_eq!(seen, expected, "in pieces of {size}");
            assert!(!frames.is_in_head());
        }
    }

    #[test]
    fn a_head_is_under_way_until_its_last_byte() {
        let mut frames = Frames::default();
        let mut walk = |bytes: &[u8]| {
            frames.walk(bytes, |_| {});
            frames.is_in_head()
        };
        let whole = frame(1, END_HEADERS, 3);
        assert!(walk(&whole[..11]));
        assert!(!walk(&whole[11..]));
        assert!(walk(&frame(1, 0, 3)));
        assert!(walk(&frame(9, 0, 3)));
        assert!(walk(&frame(0, END_HEADERS, 3)), "DATA has no such flag");
        assert!(!walk(&frame(9, END_HEADERS, 0)));
        assert!(!walk(&frame(0, 0, 3)));
    }
}
