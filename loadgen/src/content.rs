//! What stands in a message: a stamp that is its own, and filler that hangs on the stamp.
//!
//! ```text
//! | sequence, low: 4 | connection: 4 | sequence, high: 4 | a piece of the pool, which one the stamp decides |
//! ```
//!
//! In text every byte of the stamp is two hexadecimal digits. A message too short for its stamp carries the beginning.
//! Nothing is kept of a message that was sent: what its reply has to be follows from its numbers.

use crate::fault::Wrong;

/// What the messages of a run are made of.
#[derive(Debug)]
pub(crate) struct Content {
    size: usize,
    is_text: bool,
    pool: Vec<u8>,
}

impl Content {
    pub(crate) fn new(size: usize, is_text: bool, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut byte = || {
            let byte = random.next() as u8;
            if is_text { b' ' + byte % 95 } else { byte }
        };
        Self { size, is_text, pool: (0..size + PIECES).map(|_| byte()).collect() }
    }

    /// How long every message is.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Appends a message.
    #[inline]
    pub(crate) fn append(&self, connection: u32, sequence: u64, out: &mut Vec<u8>) {
        let stamp = Stamp::new(connection, sequence, self.is_text);
        let stamped = stamp.bytes().len().min(self.size);
        out.extend_from_slice(&stamp.bytes()[..stamped]);
        out.extend_from_slice(self.filler(connection, sequence, stamped));
    }

    /// Whether `reply` is that message.
    #[inline]
    pub(crate) fn check(&self, connection: u32, sequence: u64, reply: &[u8]) -> Result<(), Wrong> {
        if self.is_message(connection, sequence, reply) {
            return Ok(());
        }
        Err(self.judge(connection, sequence, reply))
    }

    #[inline]
    fn is_message(&self, connection: u32, sequence: u64, reply: &[u8]) -> bool {
        let stamp = Stamp::new(connection, sequence, self.is_text);
        let stamped = stamp.bytes().len().min(self.size);
        reply.len() == self.size
            && reply[..stamped] == stamp.bytes()[..stamped]
            && reply[stamped..] == *self.filler(connection, sequence, stamped)
    }

    /// What is wrong with a reply that is not the message.
    #[cold]
    fn judge(&self, connection: u32, sequence: u64, reply: &[u8]) -> Wrong {
        if reply.len() != self.size {
            return Wrong::Length(reply.len());
        }
        if let Some((other, got)) = Stamp::read(reply, self.is_text)
            && self.is_message(other, got, reply)
        {
            return if other == connection {
                Wrong::Order { expected: sequence, got }
            } else {
                Wrong::Foreign(other)
            };
        }
        let mut expected = Vec::with_capacity(self.size);
        self.append(connection, sequence, &mut expected);
        let differs = expected.iter().zip(reply).position(|(expected, got)| expected != got);
        Wrong::Content(differs.unwrap_or(0))
    }

    #[inline]
    fn filler(&self, connection: u32, sequence: u64, stamped: usize) -> &[u8] {
        let mixed = (sequence ^ u64::from(connection) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The highest bits are those that all others have a part in.
        let start = (mixed >> (u64::BITS - PIECES.ilog2())) as usize;
        &self.pool[start..start + self.size - stamped]
    }
}

/// In how many places a message's filler may begin, a power of two. The pool should stay in the first-level cache.
const PIECES: usize = 4096;

/// Who a message is.
struct Stamp {
    bytes: [u8; 2 * STAMP],
    length: usize,
}

impl Stamp {
    #[inline]
    fn new(connection: u32, sequence: u64, is_text: bool) -> Self {
        let mut raw = [0; STAMP];
        raw[..4].copy_from_slice(&(sequence as u32).to_le_bytes());
        raw[4..8].copy_from_slice(&connection.to_le_bytes());
        raw[8..].copy_from_slice(&((sequence >> 32) as u32).to_le_bytes());
        let mut bytes = [0; 2 * STAMP];
        if is_text {
            for (digits, byte) in bytes.chunks_exact_mut(2).zip(raw) {
                digits[0] = HEX[usize::from(byte & 15)];
                digits[1] = HEX[usize::from(byte >> 4)];
            }
            Self { bytes, length: 2 * STAMP }
        } else {
            bytes[..STAMP].copy_from_slice(&raw);
            Self { bytes, length: STAMP }
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The connection and the sequence number; `None` if there is no whole stamp.
    fn read(message: &[u8], is_text: bool) -> Option<(u32, u64)> {
        let mut raw = [0; STAMP];
        if is_text {
            let value = |digit: u8| HEX.iter().position(|hex| *hex == digit);
            for (byte, digits) in raw.iter_mut().zip(message.get(..2 * STAMP)?.chunks_exact(2)) {
                *byte = (value(digits[0])? | value(digits[1])? << 4) as u8;
            }
        } else {
            raw.copy_from_slice(message.get(..STAMP)?);
        }
        let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        Some((word(4), u64::from(word(0)) | u64::from(word(8)) << 32))
    }
}

const STAMP: usize = 12;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// One connection's messages: which one is next, and which reply is due.
#[derive(Debug)]
pub(crate) struct Messages {
    content: std::sync::Arc<Content>,
    connection: u32,
    sent: u64,
    answered: u64,
}

impl Messages {
    pub(crate) fn new(content: std::sync::Arc<Content>, connection: u32) -> Self {
        Self { content, connection, sent: 0, answered: 0 }
    }

    /// How long every message is.
    pub(crate) fn size(&self) -> usize {
        self.content.size()
    }

    /// Appends the next message.
    #[inline]
    pub(crate) fn append_next(&mut self, out: &mut Vec<u8>) {
        self.content.append(self.connection, self.sent, out);
        self.sent += 1;
    }

    /// Whether a reply is due at all.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.answered < self.sent
    }

    /// Holds the next reply against the message that it has to answer.
    #[inline]
    pub(crate) fn check_next(&mut self, reply: &[u8]) -> Result<(), Wrong> {
        let sequence = self.answered;
        self.answered += 1;
        self.content.check(self.connection, sequence, reply)
    }
}

/// SplitMix64. For content and masking keys of a test tool it need not be secret, only without a pattern.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content: &Content, connection: u32, sequence: u64) -> Vec<u8> {
        let mut out = Vec::new();
        content.append(connection, sequence, &mut out);
        out
    }

    #[test]
    fn a_message_has_its_length_and_is_its_own_reply() {
        for is_text in [false, true] {
            for size in [0, 1, 11, 12, 13, 23, 24, 25, 64, 100_000] {
                let content = Content::new(size, is_text, 7);
                for (connection, sequence) in [(0, 0), (3, 4_294_967_297), (u32::MAX, u64::MAX)] {
                    let message = message(&content, connection, sequence);
                    assert_eq!(message.len(), size);
                    assert_eq!(content.check(connection, sequence, &message), Ok(()));
                    assert!(!is_text || message.is_ascii());
                }
            }
        }
    }

    #[test]
    fn every_flipped_byte_is_found_and_where() {
        for is_text in [false, true] {
            let content = Content::new(64, is_text, 7);
            for at in 0..64 {
                let mut reply = message(&content, 5, 1000);
                reply[at] ^= 1;
                let wrong = content.check(5, 1000, &reply).unwrap_err();
                assert_eq!(wrong, Wrong::Content(at));
            }
        }
    }

    #[test]
    fn a_reply_that_is_another_message_is_known_for_it() {
        for is_text in [false, true] {
            let content = Content::new(64, is_text, 7);
            let check = |reply: &[u8]| content.check(5, 9, reply).unwrap_err();
            assert_eq!(check(&message(&content, 5, 10)), Wrong::Order { expected: 9, got: 10 });
            assert_eq!(check(&message(&content, 6, 9)), Wrong::Foreign(6));
            assert_eq!(check(&message(&content, 5, 9)[..63]), Wrong::Length(63));
        }
    }

    #[test]
    fn a_seed_decides_the_content() {
        let with = |seed| message(&Content::new(64, false, seed), 1, 1);
        assert_eq!(with(7), with(7));
        assert_ne!(with(7), with(8));
    }

    #[test]
    fn the_generator_is_splitmix64() {
        let mut random = Random::new(1_234_567);
        assert_eq!([random.next(), random.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }
}
