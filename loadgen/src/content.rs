//! What stands in a message: a stamp that is its own, and filler that hangs on the stamp.
//!
//! ```text
//! | sequence, low: 4 | connection: 4 | sequence, high: 4 | a piece of the pool, which one the stamp decides |
//! ```
//!
//! In text every byte of the stamp is two hexadecimal digits. A message too short for its stamp carries the beginning.
//! Nothing is kept of a message that was sent: what its reply has to be follows from its numbers.

use std::{fmt, str::FromStr, sync::OnceLock};

use switchpoint::ws::mask;

use crate::{fault::Wrong, scenario::PLAIN, units};

/// How long messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    Fixed(usize),
    /// From the one to the other, each as often.
    Uniform(usize, usize),
    /// Many short ones and few long ones, with this mean, and at most 16 times as long.
    Exponential(usize),
}

impl Sizes {
    /// The longest.
    pub(crate) fn max(self) -> usize {
        match self {
            Self::Fixed(size) | Self::Uniform(_, size) => size,
            Self::Exponential(mean) => mean * 16,
        }
    }

    /// The shortest.
    pub(crate) fn min(self) -> usize {
        match self {
            Self::Fixed(size) | Self::Uniform(size, _) => size,
            Self::Exponential(_) => 1,
        }
    }

    fn of(self, mixed: u64) -> usize {
        let part = (mixed >> 11) as f64 / (1_u64 << 53) as f64;
        match self {
            Self::Fixed(size) => size,
            Self::Uniform(min, max) => min + (part * (max - min + 1) as f64) as usize,
            Self::Exponential(mean) => ((-(1.0 - part).ln() * mean as f64) as usize).clamp(1, mean * 16),
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "a size is such as 64, 16KiB, uniform:1..4KiB or exp:512";
        let size = |text: &str| units::size(text).map_err(|error| format!("{error}; {hint}"));
        match text.split_once(':') {
            None => Ok(Self::Fixed(size(text)?)),
            Some(("uniform", range)) => {
                let (min, max) = range.split_once("..").ok_or(hint)?;
                let (min, max) = (size(min)?, size(max)?);
                if min <= max {
                    Ok(Self::Uniform(min, max))
                } else {
                    Err(format!("from more to less; {hint}"))
                }
            }
            Some(("exp", mean)) => match size(mean)? {
                mean @ 1..=MEAN_MAX => Ok(Self::Exponential(mean)),
                _ => Err("the mean has to be from 1 byte to 64 MiB".into()),
            },
            _ => Err(hint.into()),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => f.write_str(&units::plural(*size as u64, "byte")),
            Self::Uniform(min, max) => write!(f, "{min} to {max} bytes"),
            Self::Exponential(mean) => write!(f, "{mean} bytes on average (exponential)"),
        }
    }
}

const MEAN_MAX: usize = 64 << 20;

/// What the messages of a run are made of.
#[derive(Debug)]
pub(crate) struct Content {
    sizes: Sizes,
    is_text: bool,
    seed: u64,
    pool: Vec<u8>,
    /// What was answered first, where the answer does not follow from the message.
    first: OnceLock<Vec<u8>>,
}

impl Content {
    pub(crate) fn new(sizes: Sizes, is_text: bool, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut byte = || {
            let byte = random.next() as u8;
            if is_text { b' ' + byte % 95 } else { byte }
        };
        let pool = (0..sizes.max() + PIECES + BLOCK).map(|_| byte()).collect();
        Self { sizes, is_text, seed, pool, first: OnceLock::new() }
    }

    /// How long the longest message is.
    pub(crate) fn size_max(&self) -> usize {
        self.sizes.max()
    }

    /// How long a message is.
    #[inline]
    pub(crate) fn size(&self, connection: u32, sequence: u64) -> usize {
        match self.sizes {
            Sizes::Fixed(size) => size,
            sizes => sizes.of(mixed(connection, sequence ^ self.seed << 20)),
        }
    }

    /// Appends a message, masked with a key.
    ///
    /// What is short, in whole blocks, of which the last may be too long and is cut: copies of a length that the compiler
    /// knows, which are masked on the way. Masked where they lie, they would be waited for, as they were just written in
    /// other pieces.
    #[inline]
    pub(crate) fn append(&self, connection: u32, sequence: u64, key: [u8; 4], out: &mut Vec<u8>) {
        let start = out.len();
        let end = start + self.size(connection, sequence);
        let stamp = stamp(connection, sequence);
        let stamped = if self.is_text {
            let [first, second] = digits(stamp);
            out.extend_from_slice(&masked(first, key));
            out.extend_from_slice(&masked(second, key));
            end.min(start + 2 * STAMP)
        } else {
            out.extend_from_slice(&masked(stamp, key));
            end.min(start + STAMP)
        };
        out.truncate(stamped);
        // A stamp is a multiple of the key's length.
        let mut pool = &self.pool[Self::start(connection, sequence)..];
        if end - stamped > SHORT_MAX {
            out.extend_from_slice(&pool[..end - stamped]);
            return mask::apply(&mut out[stamped..], key, 0);
        }
        while out.len() < end {
            let Some((block, rest)) = pool.split_first_chunk::<BLOCK>() else { break };
            out.extend_from_slice(&masked(*block, key));
            pool = rest;
        }
        out.truncate(end);
    }

    /// Whether `reply` is that message.
    #[inline]
    pub(crate) fn is_message(&self, connection: u32, sequence: u64, reply: &[u8]) -> bool {
        let size = self.size(connection, sequence);
        let stamp = stamp(connection, sequence);
        let digits = self.is_text.then(|| digits(stamp));
        let stamp = digits.as_ref().map_or(&stamp[..STAMP], |digits| &digits.as_flattened()[..2 * STAMP]);
        let stamped = stamp.len().min(size);
        reply.len() == size
            && reply[..stamped] == stamp[..stamped]
            && reply[stamped..] == *self.filler(connection, sequence, size - stamped)
    }

    /// Who `reply` says that it is: connection and sequence number. `None` if there is no whole stamp.
    pub(crate) fn stamp(&self, reply: &[u8]) -> Option<(u32, u64)> {
        stamp_of(reply, self.is_text)
    }

    /// Where `reply` differs from that message first, if it is as long.
    #[cold]
    pub(crate) fn difference(&self, connection: u32, sequence: u64, reply: &[u8]) -> Wrong {
        let mut expected = Vec::new();
        self.append(connection, sequence, PLAIN, &mut expected);
        if expected.len() != reply.len() {
            return Wrong::Length(reply.len());
        }
        let differs = expected.iter().zip(reply).position(|(expected, got)| expected != got);
        Wrong::Content(differs.unwrap_or(0))
    }

    /// Where an answer differs from the first one of the run, for answers that do not follow from a message.
    pub(crate) fn differs_from_first(&self, answer: &[u8]) -> Option<Wrong> {
        let first = self.first.get_or_init(|| answer.to_vec());
        if first.len() != answer.len() {
            return Some(Wrong::Length(answer.len()));
        }
        let differs = || first.iter().zip(answer).position(|(first, other)| first != other);
        (first != answer).then(|| Wrong::Content(differs().unwrap_or(0)))
    }

    #[inline]
    fn filler(&self, connection: u32, sequence: u64, length: usize) -> &[u8] {
        let start = Self::start(connection, sequence);
        &self.pool[start..start + length]
    }

    /// Where in the pool the filler begins.
    #[inline]
    fn start(connection: u32, sequence: u64) -> usize {
        // The highest bits are those that all others have a part in.
        (mixed(connection, sequence) >> (u64::BITS - PIECES.ilog2())) as usize
    }
}

#[inline]
fn mixed(connection: u32, sequence: u64) -> u64 {
    (sequence ^ u64::from(connection) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// In how many places a message's filler may begin, a power of two. The pool should stay in the first-level cache.
const PIECES: usize = 4096;

/// The pieces in which a short message is put together.
const BLOCK: usize = 16;
/// From this length on a copy and wide registers are worth their calls.
const SHORT_MAX: usize = 256;

#[inline]
fn masked(block: [u8; BLOCK], key: [u8; 4]) -> [u8; BLOCK] {
    let [a, b, c, d] = key;
    (u128::from_ne_bytes(block) ^ u128::from_ne_bytes([a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d]))
        .to_ne_bytes()
}

/// Who a message is, with zeroes behind.
#[inline]
fn stamp(connection: u32, sequence: u64) -> [u8; BLOCK] {
    let (low, high) = (sequence as u32, (sequence >> 32) as u32);
    (u128::from(low) | u128::from(connection) << 32 | u128::from(high) << 64).to_le_bytes()
}

/// The same as text, in hexadecimal digits.
fn digits(stamp: [u8; BLOCK]) -> [[u8; BLOCK]; 2] {
    let mut digits = [0; 2 * BLOCK];
    for (digits, byte) in digits.chunks_exact_mut(2).zip(stamp) {
        digits[0] = HEX[usize::from(byte & 15)];
        digits[1] = HEX[usize::from(byte >> 4)];
    }
    let (blocks, _) = digits.as_chunks();
    [blocks[0], blocks[1]]
}

/// Who `message` says that it is; `None` if there is no whole stamp.
fn stamp_of(message: &[u8], is_text: bool) -> Option<(u32, u64)> {
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

/// Without the zeroes.
const STAMP: usize = 12;
const HEX: &[u8; 16] = b"0123456789abcdef";

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
        content.append(connection, sequence, PLAIN, &mut out);
        out
    }

    #[test]
    fn a_message_has_its_length_and_is_its_own_reply() {
        for is_text in [false, true] {
            for size in [0, 1, 11, 12, 13, 23, 24, 25, 64, 100_000] {
                let content = Content::new(Sizes::Fixed(size), is_text, 7);
                for (connection, sequence) in [(0, 0), (3, 4_294_967_297), (u32::MAX, u64::MAX)] {
                    let message = message(&content, connection, sequence);
                    assert_eq!(message.len(), size);
                    assert!(content.is_message(connection, sequence, &message));
                    assert!(!is_text || message.is_ascii());
                    let stamp = content.stamp(&message);
                    assert_eq!(stamp.is_some(), size >= if is_text { 24 } else { 12 });
                    assert!(stamp.is_none_or(|stamp| stamp == (connection, sequence)));
                }
            }
        }
    }

    #[test]
    fn a_key_masks_it() {
        let key = [1, 2, 4, 8];
        for is_text in [false, true] {
            for size in (0..300).chain([1000, 5000]) {
                let content = Content::new(Sizes::Fixed(size), is_text, 7);
                for sequence in 0..50 {
                    let mut out = vec![1, 2, 3];
                    content.append(9, sequence, key, &mut out);
                    assert_eq!(out[..3], [1, 2, 3]);
                    mask::apply(&mut out[3..], key, 0);
                    assert!(content.is_message(9, sequence, &out[3..]), "{size} {sequence}");
                }
            }
        }
    }

    #[test]
    fn sizes_are_spread_as_promised_and_can_be_computed_again() {
        for (text, min, max, mean) in
            [("uniform:10..30", 10, 30, 20.0), ("exp:100", 1, 1600, 100.0), ("64", 64, 64, 64.0)]
        {
            let content = Content::new(text.parse().unwrap(), false, 7);
            let sizes: Vec<usize> = (0..10_000).map(|sequence| content.size(3, sequence)).collect();
            assert!(sizes.iter().all(|size| (min..=max).contains(size)), "{text}");
            let got = sizes.iter().sum::<usize>() as f64 / 1e4;
            assert!((got - mean).abs() < mean * 0.05, "{text}: {got}");
            let message = message(&content, 3, 77);
            assert!(message.len() == sizes[77] && content.is_message(3, 77, &message));
        }
        for wrong in ["", "uniform:3", "uniform:4..3", "exp:0", "norm:3"] {
            assert!(wrong.parse::<Sizes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_flipped_byte_is_found_and_where() {
        for is_text in [false, true] {
            let content = Content::new(Sizes::Fixed(64), is_text, 7);
            for at in 0..64 {
                let mut reply = message(&content, 5, 1000);
                reply[at] ^= 1;
                assert!(!content.is_message(5, 1000, &reply));
                assert_eq!(content.difference(5, 1000, &reply), Wrong::Content(at));
            }
        }
    }

    #[test]
    fn a_seed_decides_the_content() {
        let with = |seed| message(&Content::new(Sizes::Fixed(64), false, seed), 1, 1);
        assert_eq!(with(7), with(7));
        assert_ne!(with(7), with(8));
    }

    #[test]
    fn the_generator_is_splitmix64() {
        let mut random = Random::new(1_234_567);
        assert_eq!([random.next(), random.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }
}
