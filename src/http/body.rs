//! The request body as it arrives (RFC 9112 sections 6 and 7).
//!
//! A new protocol starts right behind the body, so the reader has to end on the very byte. It takes
//! the grammar of chunks literally, bounds all that is not data (extensions, trailers), and drops
//! it. Memory grows with what has arrived, never with what was announced.

use super::{BodyFault, Framing, list};

/// Reads one body out of the bytes that follow its head.
#[derive(Clone, Debug)]
pub struct BodyReader {
    state: State,
    /// How many bytes of data may still come, by the limit.
    room: usize,
    extensions: usize,
    trailers: usize,
    trailer_bytes: usize,
}

/// What [`BodyReader::read`] has done with its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// So many bytes were the body's; the caller drops them. Less than all only if `done`.
    pub consumed: usize,
    /// Whether the body has ended. What is left then is not the body's.
    pub done: bool,
}

/// What comes next. A chunked body, and the state that reads each part (an `Lf` state stands between
/// the CR and the LF):
///
/// ```text
/// 5    ;a=b      ␍␊     hello ␍      ␊      0␍␊    Name        : value      ␍␊        ␍␊
/// Size Extension SizeLf Data  DataCr DataLf Size.. TrailerName TrailerValue TrailerLf LastLf
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A body by length; all that is left of it.
    Whole {
        left: usize,
    },
    Size {
        size: usize,
        digits: u8,
    },
    /// Whitespace before an extension, which RFC 9112 section 7.1.1 has us take.
    Space {
        size: usize,
        length: usize,
    },
    Extension {
        size: usize,
        length: usize,
    },
    SizeLf {
        size: usize,
    },
    Data {
        left: usize,
    },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

impl BodyReader {
    /// A reader for a body of at most `max` bytes. A length that says more is refused at once.
    pub fn new(framing: Framing, max: usize) -> Result<Self, BodyFault> {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => match usize::try_from(length) {
                Ok(left) if left <= max => State::Whole { left },
                _ => return Err(BodyFault::TooLarge),
            },
            Framing::Chunked => SIZE,
        };
        Ok(Self { state, room: max, extensions: 0, trailers: 0, trailer_bytes: 0 })
    }

    /// Takes the body's part of `bytes`, and appends its data to `body`. After a fault the reader
    /// is of no more use, nor is the connection.
    pub fn read(&mut self, bytes: &[u8], body: &mut Vec<u8>) -> Result<Progress, BodyFault> {
        let mut rest = bytes;
        while self.state != State::Done && !rest.is_empty() {
            if let State::Whole { left } | State::Data { left } = &mut self.state {
                let (data, behind) = rest.split_at(rest.len().min(*left));
                *left -= data.len();
                self.room -= data.len();
                body.extend_from_slice(data);
                rest = behind;
                match self.state {
                    State::Whole { left: 0 } => self.state = State::Done,
                    State::Data { left: 0 } => self.state = State::DataCr,
                    _ => {}
                }
            } else {
                self.state = self.step(rest[0])?;
                rest = &rest[1..];
            }
        }
        Ok(Progress { consumed: bytes.len() - rest.len(), done: self.is_done() })
    }

    /// Whether the body has ended, which a request without one has from the start.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// One byte of what is between the data.
    fn step(&mut self, byte: u8) -> Result<State, BodyFault> {
        Ok(match (self.state, byte) {
            (State::Size { digits: DIGITS_MAX, .. }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                return Err(BodyFault::InvalidChunk);
            }
            (State::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).expect("the pattern is the hex digits") as usize;
                // More digits only make it larger, so the first that is too much is enough.
                match size.checked_mul(16).and_then(|size| size.checked_add(digit)) {
                    Some(size) if size <= self.room => State::Size { size, digits: digits + 1 },
                    _ => return Err(BodyFault::TooLarge),
                }
            }
            (State::Size { digits: 0, .. }, _) => return Err(BodyFault::InvalidChunk),
            (State::Size { size, .. } | State::Extension { size, .. }, b'\r') => State::SizeLf { size },
            (State::Size { size, .. }, b';') => State::Extension { size, length: self.extend(0)? },
            (State::Size { size, .. }, b' ' | b'\t') => State::Space { size, length: self.extend(0)? },
            (State::Space { size, length }, b' ' | b'\t') => {
                State::Space { size, length: self.extend(length)? }
            }
            (State::Space { size, length }, b';') => State::Extension { size, length: self.extend(length)? },
            // A lone LF in here ends the line for some readers and not for others, so it is refused
            // with the other control characters.
            (State::Extension { size, length }, byte) if is_text(byte) => {
                State::Extension { size, length: self.extend(length)? }
            }
            (State::SizeLf { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeLf { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => SIZE,

            (State::TrailerStart, b'\r') => State::LastLf,
            (State::LastLf, b'\n') => State::Done,
            (State::TrailerStart, byte) if list::is_tchar(byte) => {
                self.trailers += 1;
                if self.trailers > TRAILERS_MAX {
                    return Err(BodyFault::TrailersTooLarge);
                }
                self.trail(State::TrailerName)?
            }
            (State::TrailerName, b':') => self.trail(State::TrailerValue)?,
            (State::TrailerName, byte) if list::is_tchar(byte) => self.trail(State::TrailerName)?,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, byte) if is_text(byte) => self.trail(State::TrailerValue)?,
            (State::TrailerLf, b'\n') => State::TrailerStart,

            (
                State::TrailerStart
                | State::TrailerName
                | State::TrailerValue
                | State::TrailerLf
                | State::LastLf,
                _,
            ) => return Err(BodyFault::InvalidTrailer),
            _ => return Err(BodyFault::InvalidChunk),
        })
    }

    /// Counts one byte of an extension that had `length` so far.
    fn extend(&mut self, length: usize) -> Result<usize, BodyFault> {
        self.extensions += 1;
        if length == EXTENSION_MAX || self.extensions > EXTENSIONS_MAX {
            return Err(BodyFault::ChunkExtensionTooLong);
        }
        Ok(length + 1)
    }

    /// Counts one byte of a trailer line.
    fn trail(&mut self, next: State) -> Result<State, BodyFault> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(BodyFault::TrailersTooLarge);
        }
        Ok(next)
    }
}

const SIZE: State = State::Size { size: 0, digits: 0 };

/// As many as a u64 needs. Leading zeros would be harmless, but not without end.
const DIGITS_MAX: u8 = 16;

/// Bytes of extension on one line, and in one body (RFC 9112 section 7.1.1 asks for a bound). Signed
/// uploads use some 90 on each chunk; nobody uses more.
const EXTENSION_MAX: usize = 256;
const EXTENSIONS_MAX: usize = 4096;

/// Trailers are read only to find the end of them.
const TRAILERS_MAX: usize = 32;
const TRAILER_BYTES_MAX: usize = 4096;

/// What may stand in an extension or a field value: anything but control characters.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

#[cfg(test)]
mod tests {
    use super::BodyFault::*;
    use super::*;

    /// What is read of `bytes`, and how many of them; the same whole and cut at every byte.
    fn read(framing: Framing, max: usize, bytes: &[u8]) -> Result<(Vec<u8>, Progress), BodyFault> {
        let reader = BodyReader::new(framing, max)?;
        let feed = |pieces: &[&[u8]]| {
            let (mut reader, mut body) = (reader.clone(), Vec::new());
            let mut total = Progress { consumed: 0, done: reader.is_done() };
            for piece in pieces {
                let progress = reader.read(piece, &mut body)?;
                assert!(progress.done || progress.consumed == piece.len());
                total = Progress { consumed: total.consumed + progress.consumed, done: progress.done };
            }
            Ok((body, total))
        };
        let whole = feed(&[bytes]);
        for cut in 0..=bytes.len() {
            assert_eq!(feed(&[&bytes[..cut], &bytes[cut..]]), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(feed(&single), whole, "byte by byte");
        whole
    }

    fn chunked(bytes: &[u8]) -> Result<Vec<u8>, BodyFault> {
        read(Framing::Chunked, 32, bytes).map(|(body, progress)| {
            assert!(progress.done, "{}", bytes.escape_ascii());
            body
        })
    }

    #[test]
    fn a_body_by_length_ends_on_its_last_byte() {
        let (body, progress) = read(Framing::Length(5), 5, b"hello\x81\x85").unwrap();
        assert_eq!((&body[..], progress), (&b"hello"[..], Progress { consumed: 5, done: true }));
        let (body, progress) = read(Framing::Length(5), 5, b"hel").unwrap();
        assert_eq!((&body[..], progress), (&b"hel"[..], Progress { consumed: 3, done: false }));
    }

    #[test]
    fn no_body_is_done_before_the_first_byte() {
        for framing in [Framing::None, Framing::Length(0)] {
            let (body, progress) = read(framing, 0, b"\x81\x85").unwrap();
            assert_eq!((body.len(), progress), (0, Progress { consumed: 0, done: true }));
        }
    }

    #[test]
    fn chunks_become_one_body_and_what_follows_is_left() {
        let stream = b"5\r\nhello\r\n00B;a=\"b;c\"\r\n, the world\r\n0\r\nA: b\r\nC:\r\n\r\n\x81\x85";
        let (body, progress) = read(Framing::Chunked, 16, stream).unwrap();
        assert_eq!(&body[..], b"hello, the world");
        assert_eq!(progress, Progress { consumed: stream.len() - 2, done: true });
        assert_eq!(chunked(b"0\r\n\r\n"), Ok(vec![]));
        assert_eq!(chunked(b"5 ;ext\r\nhello\r\n0\t ;a\r\n\r\n"), Ok(b"hello".to_vec()));
    }

    #[test]
    fn a_chunk_that_two_readers_could_read_differently_is_refused() {
        let invalid: &[&[u8]] = &[
            b"\r\n",
            b";a\r\n",
            b" 5\r\n",
            b"+5\r\n",
            b"-5\r\n",
            b"0x5\r\n",
            b"g\r\n",
            b"5 \r\n",
            b"5 a\r\n",
            b"5,5\r\n",
            b"5\nhello",
            b"5\rhello",
            b"5;a\nhello",
            b"5;a\r\r\n",
            b"5;\0",
            b"5;\x7f",
            b"5\r\nhello0\r\n",
            b"5\r\nhello\n",
            b"5\r\nhello\r0",
            b"5\r\nhelloo\r\n",
            b"00000000000000000\r\n",
        ];
        for bytes in invalid {
            assert_eq!(chunked(bytes), Err(InvalidChunk), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_trailer_is_a_field_line_or_a_fault() {
        for trailers in
            ["\n", "\rx", " a: b", "a : b", "a\r\n", ": b", "a: b\n", "a: b\rx", "a: \0", "a: b\r\n c"]
        {
            let bytes = format!("0\r\n{trailers}");
            assert_eq!(chunked(bytes.as_bytes()), Err(InvalidTrailer), "{trailers:?}");
        }
    }

    #[test]
    fn a_body_over_its_limit_is_refused_before_it_is_sent() {
        assert_eq!(BodyReader::new(Framing::Length(6), 5).unwrap_err(), TooLarge);
        assert_eq!(BodyReader::new(Framing::Length(u64::MAX), 5).unwrap_err(), TooLarge);
        assert_eq!(chunked(b"21"), Err(TooLarge));
        assert_eq!(chunked(b"20\r\n0123456789abcdef0123456789abcdef\r\n1"), Err(TooLarge));
        assert_eq!(chunked(b"10000000000000005\r\n"), Err(TooLarge), "what wraps around to 5");
        let full = read(Framing::Chunked, usize::MAX, b"fffffffffffffffff\r\n");
        assert_eq!(full, Err(InvalidChunk), "one digit more than a u64 has");
    }

    #[test]
    fn an_announced_length_reserves_nothing() {
        let mut body = Vec::new();
        let mut reader = BodyReader::new(Framing::Chunked, usize::MAX).unwrap();
        reader.read(b"7fffffffffffffff\r\nabc", &mut body).unwrap();
        assert!(body.capacity() < 64);
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let line = |length| [b"1;", &vec![b'a'; length - 1][..], b"\r\nx\r\n"].concat();
        let mut reader = BodyReader::new(Framing::Chunked, 100).unwrap();
        for _ in 0..EXTENSIONS_MAX / EXTENSION_MAX {
            assert!(reader.read(&line(EXTENSION_MAX), &mut Vec::new()).is_ok());
        }
        assert_eq!(reader.read(b"1;", &mut Vec::new()), Err(ChunkExtensionTooLong));
        assert_eq!(chunked(&line(EXTENSION_MAX + 1)), Err(ChunkExtensionTooLong));
        let spaces = [b"1", &[b' '; EXTENSION_MAX + 1][..]].concat();
        assert_eq!(chunked(&spaces), Err(ChunkExtensionTooLong));

        let trailers = |count| format!("0\r\n{}\r\n", "a:\r\n".repeat(count)).into_bytes();
        assert_eq!(chunked(&trailers(TRAILERS_MAX)), Ok(vec![]));
        assert_eq!(chunked(&trailers(TRAILERS_MAX + 1)), Err(TrailersTooLarge));
        let long = |length| format!("0\r\na:{}\r\n\r\n", "b".repeat(length - 2)).into_bytes();
        let read = |bytes: Vec<u8>| BodyReader::new(Framing::Chunked, 0)?.read(&bytes, &mut Vec::new());
        assert!(read(long(TRAILER_BYTES_MAX)).is_ok_and(|progress| progress.done));
        assert_eq!(read(long(TRAILER_BYTES_MAX + 1)), Err(TrailersTooLarge));
    }
}
