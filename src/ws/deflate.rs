//! permessage-deflate (RFC 7692 7.2): messages that are compressed, one side after the other.
//!
//! The one idea: a context is hundreds of KiB, and a message that refers to no other needs one only while it is worked
//! on. So a connection without context takeover borrows it from its core ([`Contexts`]) and holds nothing; one with
//! takeover makes its own at the first compressed message.

use std::{
    cell::{RefCell, RefMut},
    fmt,
    rc::Rc,
};

use super::{
    Fault, Role,
    extension::{Agreed, Deflate},
    zlib::{Compress, Decompress, Progress, Stopped, TAIL},
};

/// What all connections of a core share to compress and inflate: one per core, or per test.
pub struct Contexts {
    /// The latest are last.
    compress: RefCell<Vec<(Kind, Compress)>>,
    decompress: RefCell<Vec<Decompress>>,
    /// Where a piece of a message lies between inflating and checking it.
    piece: RefCell<Box<[u8]>>,
}

/// Contexts of one kind are for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    bits: u8,
    level: u8,
}

impl Contexts {
    /// Nothing is allocated before the first compressed message.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            compress: RefCell::default(),
            decompress: RefCell::default(),
            piece: RefCell::default(),
        })
    }

    fn compress(&self, kind: Kind) -> Compress {
        let mut idle = self.compress.borrow_mut();
        let Some(place) = idle.iter().rposition(|(other, _)| *other == kind) else {
            return Compress::new(kind.bits, kind.level);
        };
        let (_, mut context) = idle.remove(place);
        context.reset();
        context
    }

    fn keep_compress(&self, kind: Kind, context: Compress) {
        let mut idle = self.compress.borrow_mut();
        if idle.len() == IDLE_MAX {
            idle.remove(0);
        }
        idle.push((kind, context));
    }

    fn decompress(&self) -> Decompress {
        let Some(mut context) = self.decompress.borrow_mut().pop() else { return Decompress::new() };
        context.reset();
        context
    }

    /// Where a piece is inflated to, made when it is first needed.
    fn piece(&self) -> RefMut<'_, Box<[u8]>> {
        let mut piece = self.piece.borrow_mut();
        if piece.is_empty() {
            *piece = vec![0; PIECE].into_boxed_slice();
        }
        piece
    }

    fn keep_decompress(&self, context: Decompress) {
        let mut idle = self.decompress.borrow_mut();
        if idle.len() < IDLE_MAX {
            idle.push(context);
        }
    }
}

impl fmt::Debug for Contexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (compress, decompress) = (self.compress.borrow().len(), self.decompress.borrow().len());
        f.debug_struct("Contexts").field("compress", &compress).field("decompress", &decompress).finish()
    }
}

/// Of either kind: enough for every window size, and 3 MiB at most.
const IDLE_MAX: usize = 8;
const PIECE: usize = 16 << 10;

/// Compresses the messages of one connection.
#[derive(Debug)]
pub struct Compressor {
    contexts: Rc<Contexts>,
    kind: Kind,
    size_min: usize,
    takeover: bool,
    /// With takeover, what the next message may refer to.
    context: Option<Compress>,
}

impl Compressor {
    /// For our role: a server's compressor keeps what was agreed on for the server.
    pub fn new(role: Role, agreed: Agreed, settings: &Deflate, contexts: &Rc<Contexts>) -> Self {
        let (bits, no_takeover) = match role {
            Role::Client => (agreed.client_max_window_bits, agreed.client_no_context_takeover),
            Role::Server => (agreed.server_max_window_bits, agreed.server_no_context_takeover),
        };
        Self {
            contexts: Rc::clone(contexts),
            // zlib cannot do 8 in raw DEFLATE. With 9 it refers back 512 − 262 = 250 bytes at most, which are in a
            // window of 256 as well.
            kind: Kind { bits: bits.max(9), level: settings.level.clamp(1, 9) },
            size_min: settings.size_min,
            takeover: !no_takeover,
            context: None,
        }
    }

    /// Appends the payload of a compressed message. It has to be sent, or forgotten with [`reset`](Self::reset): the
    /// next may refer to it.
    pub fn compress(&mut self, message: &[u8], out: &mut Vec<u8>) {
        if message.is_empty() {
            out.push(0); // 7.2.3.6; a flush of nothing may yield nothing
            return;
        }
        let mut context = self.context.take().unwrap_or_else(|| self.contexts.compress(self.kind));
        context.compress(message, out);
        if self.takeover {
            self.context = Some(context);
        } else {
            self.contexts.keep_compress(self.kind, context);
        }
    }

    /// Forgets all messages, so that the next refers to none. That is always allowed, takeover or not: whatever the
    /// peer has in its window is only not referred to.
    pub fn reset(&mut self) {
        if let Some(context) = self.context.take() {
            self.contexts.keep_compress(self.kind, context);
        }
    }

    /// Whether it is worth trying to compress so many bytes.
    pub(crate) fn is_for(&self, size: usize) -> bool {
        size >= self.size_min
    }

    /// Whether a message of `size` bytes that has become `length` bytes is sent so.
    ///
    /// Without takeover, if it has shrunk. With it, a small message may shrink only against those before it, which had
    /// nothing to shrink against either: so it is sent, to be referred to. What grows by more is noise, and so would be
    /// a history of it.
    pub(super) fn is_worth(&self, size: usize, length: usize) -> bool {
        length < size || (self.takeover && length <= size + GROWTH_MAX)
    }

    /// The window, as a power of two.
    /// Whether a message may refer to those before it.
    pub(crate) fn has_takeover(&self) -> bool {
        self.takeover
    }

    pub(super) fn bits(&self) -> u8 {
        self.kind.bits
    }

    /// One of the same kind for a message that refers to nothing.
    pub(super) fn without_takeover(&self) -> Self {
        Self { contexts: Rc::clone(&self.contexts), takeover: false, context: None, ..*self }
    }
}

pub(super) const GROWTH_MAX: usize = 64;

/// Inflates the messages of one connection.
#[derive(Debug)]
pub(super) struct Decompressor {
    contexts: Rc<Contexts>,
    takeover: bool,
    /// During a message; with takeover for longer.
    context: Option<Decompress>,
    /// Something came since the message or, within it, a final block.
    has_begun: bool,
    /// The last part was as long as it could be: there may be more of what was taken.
    is_full: bool,
}

impl Decompressor {
    /// For our role: a server's decompressor inflates what a client sent.
    pub(super) fn new(role: Role, agreed: Agreed, contexts: &Rc<Contexts>) -> Self {
        let no_takeover = match role {
            Role::Client => agreed.server_no_context_takeover,
            Role::Server => agreed.client_no_context_takeover,
        };
        let contexts = Rc::clone(contexts);
        Self { contexts, takeover: !no_takeover, context: None, has_begun: false, is_full: false }
    }

    /// Inflates a piece of a message, and gives it to `sink` in pieces that are not long.
    pub(super) fn inflate(
        &mut self,
        mut bytes: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        let context = self.context.get_or_insert_with(|| self.contexts.decompress());
        let mut out = self.contexts.piece();
        loop {
            let Progress { consumed, produced, stopped } = context.decompress(bytes, &mut out);
            bytes = &bytes[consumed..];
            self.has_begun = true;
            sink(&out[..produced])?;
            match stopped {
                Some(Stopped::Invalid) => return Err(Fault::InvalidDeflate),
                Some(Stopped::Final) => {
                    // What follows is a data set of its own (RFC 1951 2), which begins at the next byte and
                    // refers to nothing before it (7.2.3.4).
                    context.reset();
                    self.has_begun = false;
                    if bytes.is_empty() {
                        return Ok(());
                    }
                }
                None if bytes.is_empty() && produced < out.len() => return Ok(()),
                None if consumed == 0 && produced == 0 => return Err(Fault::InvalidDeflate),
                None => {}
            }
        }
    }

    /// Inflates as much of a piece as yields `max` bytes, for `sink`. Returns how much that was, and whether nothing more
    /// comes out of it; else call it again, with what was not taken, even if that is nothing.
    pub(super) fn inflate_part(
        &mut self,
        piece: &[u8],
        max: usize,
        sink: impl FnOnce(&[u8]) -> Result<(), Fault>,
    ) -> Result<(usize, bool), Fault> {
        if piece.is_empty() && !self.is_full {
            return Ok((0, true));
        }
        let context = self.context.get_or_insert_with(|| self.contexts.decompress());
        let mut out = self.contexts.piece();
        let out = &mut out[..max];
        let (mut bytes, mut filled) = (piece, 0);
        while filled < out.len() {
            let Progress { consumed, produced, stopped } = context.decompress(bytes, &mut out[filled..]);
            bytes = &bytes[consumed..];
            filled += produced;
            self.has_begun = true;
            match stopped {
                Some(Stopped::Invalid) => return Err(Fault::InvalidDeflate),
                // As in `inflate`.
                Some(Stopped::Final) => {
                    context.reset();
                    self.has_begun = false;
                    if bytes.is_empty() {
                        break;
                    }
                }
                None if filled == out.len() || bytes.is_empty() => break,
                None if consumed == 0 && produced == 0 => return Err(Fault::InvalidDeflate),
                None => {}
            }
        }
        self.is_full = filled == out.len() && self.has_begun;
        sink(&out[..filled])?;
        Ok((piece.len() - bytes.len(), bytes.is_empty() && !self.is_full))
    }

    /// The message ends here. What its compressor has left out is put back (7.2.2): an empty block that yields nothing,
    /// unless it falls into the middle of another.
    ///
    /// A message of no bytes at all, or one that ends with a final block and not with the byte that 7.2.3.4 asks for, is
    /// taken for what it must mean.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        if self.has_begun {
            self.inflate(&TAIL, |piece| if piece.is_empty() { Ok(()) } else { Err(Fault::InvalidDeflate) })?;
            if !std::mem::take(&mut self.has_begun) {
                return Err(Fault::InvalidDeflate);
            }
        }
        if !self.takeover
            && let Some(context) = self.context.take()
        {
            self.contexts.keep_decompress(context);
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "deflate"))]
mod tests {
    use super::{super::extension, *};

    fn settings(takeover: bool, bits: u8, level: u8) -> (Deflate, Agreed) {
        let settings = Deflate {
            server_no_context_takeover: !takeover,
            client_no_context_takeover: !takeover,
            server_max_window_bits: bits,
            client_max_window_bits: bits,
            level,
            ..Deflate::default()
        };
        let offer = extension::offer(&settings).unwrap();
        let (agreed, _) = extension::accept(&settings, [&*offer]).unwrap();
        (settings, agreed)
    }

    fn pair(takeover: bool, contexts: &Rc<Contexts>) -> (Compressor, Decompressor) {
        let (settings, agreed) = settings(takeover, 15, 1);
        let compressor = Compressor::new(Role::Server, agreed, &settings, contexts);
        (compressor, Decompressor::new(Role::Client, agreed, contexts))
    }

    fn compressed(compressor: &mut Compressor, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compressor.compress(message, &mut out);
        out
    }

    fn inflated(decompressor: &mut Decompressor, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        decompressor.inflate(bytes, |piece| {
            assert!(piece.len() <= PIECE);
            out.extend_from_slice(piece);
            Ok(())
        })?;
        decompressor.finish()?;
        Ok(out)
    }

    /// DEFLATE by the letter of RFC 1951, a bit at a time: to check zlib, and how far back it refers.
    struct Puff<'a> {
        bytes: &'a [u8],
        at: usize,
    }

    impl Puff<'_> {
        fn bits(&mut self, count: u32) -> usize {
            (0..count).fold(0, |bits, place| {
                let bit = self.bytes[self.at / 8] >> (self.at % 8) & 1;
                self.at += 1;
                bits | usize::from(bit) << place
            })
        }

        /// The canonical code with these lengths (3.2.2).
        fn symbol(&mut self, lengths: &[usize]) -> usize {
            let (mut code, mut first) = (0, 0);
            for length in 1..=15 {
                code = code << 1 | self.bits(1);
                first <<= 1;
                let count = lengths.iter().filter(|&&other| other == length).count();
                if code < first + count {
                    let mut same = lengths.iter().enumerate().filter(|&(_, &other)| other == length);
                    return same.nth(code - first).unwrap().0;
                }
                first += count;
            }
            panic!("no such code");
        }

        /// Appends what all blocks yield, and returns the longest distance.
        fn inflate(&mut self, out: &mut Vec<u8>) -> usize {
            let mut longest = 0;
            while self.at < self.bytes.len() * 8 {
                assert_eq!(self.bits(1), 0, "we make no final blocks");
                let (literals, distances) = match self.bits(2) {
                    0 => {
                        self.at = self.at.next_multiple_of(8);
                        let length = self.bits(16);
                        assert_eq!(self.bits(16), length ^ 0xffff);
                        let start = self.at / 8;
                        out.extend_from_slice(&self.bytes[start..start + length]);
                        self.at += length * 8;
                        continue;
                    }
                    1 => {
                        let literals = [(144, 8), (112, 9), (24, 7), (8, 8)];
                        let lengths = literals.iter().flat_map(|&(count, length)| vec![length; count]);
                        (lengths.collect(), vec![5; 30])
                    }
                    2 => self.codes(),
                    _ => panic!("no such block"),
                };
                longest = self.block(&literals, &distances, out).max(longest);
            }
            longest
        }

        /// The codes of a dynamic block (3.2.7).
        fn codes(&mut self) -> (Vec<usize>, Vec<usize>) {
            let (literals, distances) = (self.bits(5) + 257, self.bits(5) + 1);
            let mut order = [0; 19];
            for place in 0..self.bits(4) + 4 {
                const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
                order[ORDER[place]] = self.bits(3);
            }
            let mut lengths = Vec::new();
            while lengths.len() < literals + distances {
                let (count, length) = match self.symbol(&order) {
                    16 => (3 + self.bits(2), *lengths.last().unwrap()),
                    17 => (3 + self.bits(3), 0),
                    18 => (11 + self.bits(7), 0),
                    length => (1, length),
                };
                lengths.extend(vec![length; count]);
            }
            let distances = lengths.split_off(literals);
            (lengths, distances)
        }

        fn block(&mut self, literals: &[usize], distances: &[usize], out: &mut Vec<u8>) -> usize {
            let mut longest = 0;
            loop {
                let symbol = self.symbol(literals);
                if symbol < 256 {
                    out.push(symbol as u8);
                    continue;
                }
                let length = match symbol - 256 {
                    0 => return longest,
                    code @ 1..=8 => code + 2,
                    29 => 258,
                    code => {
                        let extra = (code - 5) / 4;
                        (((code - 1) % 4 + 4) << extra) + 3 + self.bits(extra as u32)
                    }
                };
                let distance = match self.symbol(distances) {
                    code @ 0..=3 => code + 1,
                    code => {
                        let extra = code / 2 - 1;
                        ((code % 2 + 2) << extra) + 1 + self.bits(extra as u32)
                    }
                };
                longest = longest.max(distance);
                for _ in 0..length {
                    out.push(out[out.len() - distance]);
                }
            }
        }
    }

    #[test]
    fn nothing_refers_back_further_than_was_agreed() {
        // Words that come again at many distances.
        let mut seed = 1_u32;
        let mut message = Vec::new();
        while message.len() < 5_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            message.extend_from_slice(format!("<{:x}>", (seed >> 16) % 90 * 123_456).as_bytes());
        }
        for bits in 8..=12 {
            for level in 1..=9 {
                for takeover in [false, true] {
                    let (settings, agreed) = settings(takeover, bits, level);
                    for role in [Role::Client, Role::Server] {
                        let mut compressor = Compressor::new(role, agreed, &settings, &Contexts::new());
                        let (mut stream, mut out, mut longest) = (Vec::new(), Vec::new(), 0);
                        let mut expected = Vec::new();
                        for piece in message.chunks(1700) {
                            expected.extend_from_slice(piece);
                            compressor.compress(piece, &mut stream);
                            stream.extend_from_slice(&TAIL);
                            if !takeover {
                                longest = longest.max(Puff { bytes: &stream, at: 0 }.inflate(&mut out));
                                stream.clear();
                            }
                        }
                        longest = longest.max(Puff { bytes: &stream, at: 0 }.inflate(&mut out));
                        assert!(out == expected, "{bits} {level}");
                        assert!(longest <= 1 << bits, "{longest} is further than {bits} bits");
                        assert!(longest > 100 << (bits.max(9) - 9), "{longest} tests nothing at {bits} bits");
                    }
                }
            }
        }
    }

    #[test]
    fn a_connection_without_takeover_holds_nothing_between_messages() {
        let contexts = Contexts::new();
        let (mut compressor, mut decompressor) = pair(false, &contexts);
        assert!(contexts.piece.borrow().is_empty(), "nothing before it is needed");
        for _ in 0..3 {
            let bytes = compressed(&mut compressor, &[b'x'; 1000]);
            decompressor.inflate(&bytes[..3], |_| Ok(())).unwrap();
            assert!(decompressor.context.is_some(), "a message is on its way");
            decompressor.inflate(&bytes[3..], |_| Ok(())).unwrap();
            decompressor.finish().unwrap();
            assert!(compressor.context.is_none() && decompressor.context.is_none());
            assert_eq!((contexts.compress.borrow().len(), contexts.decompress.borrow().len()), (1, 1));
        }
    }

    #[test]
    fn no_more_contexts_are_kept_than_are_useful() {
        let contexts = Contexts::new();
        let mut pairs: Vec<_> = (0..2 * IDLE_MAX).map(|_| pair(true, &contexts)).collect();
        for (compressor, decompressor) in &mut pairs {
            let bytes = compressed(compressor, b"hello hello hello");
            assert_eq!(inflated(decompressor, &bytes).unwrap(), b"hello hello hello");
        }
        for (compressor, decompressor) in &mut pairs {
            compressor.reset();
            decompressor.takeover = false;
            decompressor.finish().unwrap();
        }
        let idle = (contexts.compress.borrow().len(), contexts.decompress.borrow().len());
        assert_eq!(idle, (IDLE_MAX, IDLE_MAX));
    }

    #[test]
    fn a_context_from_the_pool_knows_nothing_of_others() {
        let contexts = Contexts::new();
        let secret = b"a secret of another connection";
        let first = compressed(&mut pair(false, &contexts).0, secret);
        for takeover in [false, true] {
            assert_eq!(compressed(&mut pair(takeover, &contexts).0, secret), first);
        }
        // Nor do the peer's references reach what was inflated for another.
        let (_, mut decompressor) = pair(false, &contexts);
        assert_eq!(inflated(&mut decompressor, &first).unwrap(), secret);
        let (mut with, _) = pair(true, &contexts);
        compressed(&mut with, secret);
        let refers = compressed(&mut with, secret);
        assert!(refers.len() < 10);
        assert_eq!(inflated(&mut decompressor, &refers), Err(Fault::InvalidDeflate));
    }

    #[test]
    fn takeover_refers_to_the_messages_before_until_it_is_reset() {
        let (mut compressor, mut decompressor) = pair(true, &Contexts::new());
        let message = b"{\"symbol\":\"ABC\",\"price\":12.34,\"currency\":\"CHF\"}";
        let sizes: Vec<_> = (0..5)
            .map(|i| {
                if i == 3 {
                    compressor.reset();
                }
                let bytes = compressed(&mut compressor, message);
                assert_eq!(inflated(&mut decompressor, &bytes).unwrap(), message);
                bytes.len()
            })
            .collect();
        assert!(sizes[1] < sizes[0] / 2 && sizes[2] <= sizes[1], "{sizes:?}");
        assert_eq!((sizes[3], sizes[4]), (sizes[0], sizes[1]));
    }

    #[test]
    fn a_buffer_of_any_size_takes_a_message() {
        let contexts = Contexts::new();
        let (mut compressor, mut decompressor) = pair(true, &contexts);
        for size in 1..300_usize {
            let message: Vec<u8> = (0..size * 7).map(|i| ((i * i) >> 3) as u8 ^ size as u8).collect();
            let mut out = Vec::with_capacity(size);
            compressor.compress(&message, &mut out);
            assert_eq!(inflated(&mut decompressor, &out).unwrap(), message);
        }
    }
}
