//! Text that arrives in pieces (8.1).
//!
//! A piece may end within a character. Those bytes, three at most, wait here; all before them are
//! text already, so what is collected is a `String` and is never checked twice.

/// The bytes cannot be, or become, UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

/// The beginning of a character whose end has not arrived.
#[derive(Debug, Default)]
pub(super) struct Validator {
    /// Invariant: `pending[..length]` is less than a character, and can become one.
    pending: [u8; 4],
    length: usize,
}

impl Validator {
    /// Appends to `text` what is complete. Fails at the first piece that cannot go on as UTF-8.
    pub(super) fn feed(&mut self, mut bytes: &[u8], text: &mut String) -> Result<(), NotUtf8> {
        while self.length > 0 {
            let Some((&byte, rest)) = bytes.split_first() else {
                return Ok(());
            };
            self.push(byte, text)?;
            bytes = rest;
        }
        let (whole, cut) = bytes.split_at(complete(bytes));
        text.push_str(simdutf8::basic::from_utf8(whole).map_err(|_| NotUtf8)?);
        cut.iter().try_for_each(|&byte| self.push(byte, text))
    }

    /// The message ends here: not within a character.
    pub(super) fn finish(&mut self) -> Result<(), NotUtf8> {
        if std::mem::take(&mut self.length) == 0 { Ok(()) } else { Err(NotUtf8) }
    }

    /// How many bytes wait here.
    pub(super) fn pending(&self) -> usize {
        self.length
    }

    fn push(&mut self, byte: u8, text: &mut String) -> Result<(), NotUtf8> {
        self.pending[self.length] = byte;
        let length = self.length + 1;
        self.length = 0;
        match str::from_utf8(&self.pending[..length]) {
            Ok(character) => text.push_str(character),
            // No length of the error: more bytes may still mend it.
            Err(error) if error.error_len().is_none() => self.length = length,
            Err(_) => return Err(NotUtf8),
        }
        Ok(())
    }
}

/// How far `bytes` go without a last character that is cut.
fn complete(bytes: &[u8]) -> usize {
    for (behind, &byte) in bytes.iter().rev().take(3).enumerate() {
        let size = match byte {
            0x80..0xc0 => continue,
            0x00..0x80 => 1,
            0xc0..0xe0 => 2,
            0xe0..0xf0 => 3,
            0xf0.. => 4,
        };
        return bytes.len() - if behind + 1 < size { behind + 1 } else { 0 };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes taken before the refusal, one at a time; `None` if the text is whole and valid.
    fn refused_at(bytes: &[u8]) -> Option<usize> {
        let (mut validator, mut text) = (Validator::default(), String::new());
        for (at, byte) in bytes.iter().enumerate() {
            if validator.feed(&[*byte], &mut text).is_err() {
                return Some(at);
            }
        }
        validator.finish().err().map(|NotUtf8| bytes.len())
    }

    #[test]
    fn a_sequence_is_refused_at_the_byte_that_makes_it_impossible() {
        for (bytes, at) in [
            (&b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"[..], None),
            (b"\xce\xba\xe1\xbd\xb9\xf4\x90\x80\x80edited", Some(6)), // above 10FFFF (Autobahn 6.4)
            (b"\xf4\x8f\xbf\xbf", None),
            (b"\xed\xa0\x80", Some(1)), // a surrogate
            (b"\xed\x9f\xbf\xee\x80\x80", None),
            (b"\xc0\xaf", Some(0)), // overlong
            (b"\xc1", Some(0)),
            (b"\xe0\x9f\xbf", Some(1)),
            (b"\xf0\x8f\xbf\xbf", Some(1)),
            (b"\xf5", Some(0)),
            (b"\xf8\x88\x80\x80\x80", Some(0)), // five bytes
            (b"\xff", Some(0)),
            (b"a\x80", Some(1)), // a continuation of nothing
            (b"\xc3(", Some(1)), // not a continuation
            (b"\xe2\x82(", Some(2)),
            (b"\xf0\x9f\xa6", Some(3)), // the message ends within a character
            (b"\0\x7f", None),
            (b"", None),
        ] {
            assert_eq!(refused_at(bytes), at, "{bytes:x?}");
        }
    }

    #[test]
    fn however_it_is_cut_the_text_and_the_verdict_are_those_of_the_whole() {
        let long = "κόσμε 🦀 ".repeat(12);
        let mut cases: Vec<Vec<u8>> = vec![long.clone().into_bytes()];
        // Each byte of the text replaced by each kind of byte.
        for at in 0..24 {
            for byte in [0, 0x41, 0x80, 0xbf, 0xc0, 0xc3, 0xe0, 0xed, 0xf0, 0xf4, 0xf5, 0xff] {
                let mut bytes = long.as_bytes()[..24].to_vec();
                bytes[at] = byte;
                cases.push(bytes);
            }
        }
        for bytes in cases {
            let expected = str::from_utf8(&bytes).map_err(|_| NotUtf8);
            for first in 0..=bytes.len() {
                for size in 1..=5 {
                    let (head, tail) = bytes.split_at(first);
                    let (mut validator, mut text) = (Validator::default(), String::new());
                    let fed = std::iter::once(head)
                        .chain(tail.chunks(size))
                        .try_for_each(|piece| validator.feed(piece, &mut text))
                        .and_then(|()| validator.finish());
                    assert_eq!(fed.map(|()| &*text), expected, "{bytes:x?} {first} {size}");
                }
            }
        }
    }

    #[test]
    fn it_can_be_fed_after_a_refusal() {
        let (mut validator, mut text) = (Validator::default(), String::new());
        for byte in 0..=255 {
            for lead in [&b"\xf0\x9f\xa6"[..], b"\xe2\x82", b"\xc3", b"\xf4"] {
                let _ = validator.feed(lead, &mut text);
                let _ = validator.feed(&[byte], &mut text);
            }
        }
    }
}
