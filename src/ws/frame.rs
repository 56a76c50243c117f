//! The frame header (5.2), both ways.
//!
//! ```text
//! | FIN RSV1 RSV2 RSV3 opcode:4 | MASK length:7 | length: 0, 2 or 8 | key: 0 or 4 | payload
//! ```

use super::{Fault, mask};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message before.
    Continuation = 0,
    /// A message of UTF-8, or its beginning.
    Text = 1,
    /// A message of bytes, or its beginning.
    Binary = 2,
    /// The last frame from this side.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping, or only says that we live.
    Pong = 10,
}

impl Opcode {
    /// Control frames are short, whole, and come between the fragments of a message (5.5).
    #[inline]
    pub const fn is_control(self) -> bool {
        self as u8 >= 8
    }

    /// The opcode of these four bits; `None` for one that is reserved.
    #[inline]
    pub const fn new(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Its name in the registry, in lower case and without what it is a frame of (RFC 6455 11.8).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Continuation => "continuation",
            Self::Text => "text",
            Self::Binary => "binary",
            Self::Close => "close",
            Self::Ping => "ping",
            Self::Pong => "pong",
        }
    }
}

/// A frame without its payload. RSV2 and RSV3 are not in it: no extension that we know uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The last frame of its message.
    pub fin: bool,
    /// For the extension that was negotiated.
    pub rsv1: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// The key that the payload is masked with.
    pub mask: Option<[u8; 4]>,
    /// The payload's length, below 2^63.
    pub length: u64,
}

impl Header {
    /// The longest header: two bytes, the length in eight, the key in four.
    pub const SIZE_MAX: usize = 14;

    /// How long the header of a frame with `length` bytes of payload is.
    pub const fn size(length: usize, is_masked: bool) -> usize {
        let size = match length {
            0..126 => 2,
            126..65_536 => 4,
            _ => 10,
        };
        if is_masked { size + 4 } else { size }
    }

    /// Reads the header at the start of `bytes` and says how long it is; `None` asks for more.
    /// What the first two bytes show to be wrong is refused without waiting for the others.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Fault> {
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        let (fin, rsv1) = (first & FIN != 0, first & RSV1 != 0);
        if first & (RSV2 | RSV3) != 0 {
            return Err(Fault::ReservedBits);
        }
        let opcode = Opcode::new(first & 0x0f).ok_or(Fault::ReservedOpcode)?;
        let short = second & 0x7f;
        if opcode.is_control() {
            if !fin {
                return Err(Fault::FragmentedControl);
            }
            if short > 125 {
                return Err(Fault::LongControl);
            }
        }
        let (length, rest) = match short {
            126 => {
                let Some((length, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            127 => {
                let Some((length, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                (u64::from_be_bytes(*length), rest)
            }
            _ => (u64::from(short), rest),
        };
        match short {
            126 if length < 126 => return Err(Fault::LengthNotMinimal),
            127 if length <= 0xffff => return Err(Fault::LengthNotMinimal),
            127 if length >> 63 != 0 => return Err(Fault::LengthNot63Bits),
            _ => {}
        }
        let (mask, rest) = if second & MASK == 0 {
            (None, rest)
        } else {
            let Some((key, rest)) = rest.split_first_chunk() else {
                return Ok(None);
            };
            (Some(*key), rest)
        };
        Ok(Some((Self { fin, rsv1, opcode, mask, length }, bytes.len() - rest.len())))
    }

    /// Writes the header, its length in the shortest form, and returns how long it is.
    #[inline]
    pub fn encode(&self, out: &mut [u8; Self::SIZE_MAX]) -> usize {
        self.encode_at(out, 0)
    }

    /// The same, into `bytes` at a place that has room for it. Nothing behind it is touched.
    #[inline(always)]
    pub(crate) fn encode_at(&self, bytes: &mut [u8], at: usize) -> usize {
        debug_assert!(self.length >> 63 == 0, "a length has 63 bits");
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let mask = flag(self.mask.is_some(), MASK);
        let first = flag(self.fin, FIN) | flag(self.rsv1, RSV1) | self.opcode as u8;
        // Each of a size that the compiler knows: a copy of any other is a call.
        let size = if self.length < 126 {
            put(bytes, at, [first, mask | self.length as u8])
        } else if let Ok(length) = u16::try_from(self.length) {
            put(bytes, at, [first, mask | 126]) + put(bytes, at + 2, length.to_be_bytes())
        } else {
            put(bytes, at, [first, mask | 127]) + put(bytes, at + 2, self.length.to_be_bytes())
        };
        self.mask.map_or(size, |key| size + put(bytes, at + size, key))
    }
}

/// Writes `piece` at a place, and returns how long it is.
#[inline(always)]
pub(super) fn put<const N: usize>(bytes: &mut [u8], at: usize, piece: [u8; N]) -> usize {
    bytes[at..at + N].copy_from_slice(&piece);
    N
}

/// A header that needs no second look: a client's message of less than 64 KiB in one frame. It is what most are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plain {
    /// Text or binary.
    pub(crate) opcode: Opcode,
    /// How long the header is.
    pub(crate) size: usize,
    pub(crate) length: usize,
    pub(crate) key: [u8; 4],
    /// Begins with a server's header for the same message, which is four bytes shorter; in the order of the bytes on the wire,
    /// the first is the lowest.
    unmasked: u32,
}

impl Plain {
    /// `None`: it is for [`Header::decode`] to say what it is, or what is wrong with it. It may be a plain one, too, near the
    /// end of what is there.
    #[inline(always)]
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        // As one word, of which each part is a shift away.
        let head = u64::from_le_bytes(*bytes.first_chunk()?);
        let opcode = match head as u8 {
            0x81 => Opcode::Text,
            0x82 => Opcode::Binary,
            _ => return None,
        };
        let (size, length, key) = match (head >> 8) as u8 {
            short @ 0x80..0xfe => (6, usize::from(short & !MASK), (head >> 16) as u32),
            0xfe => (8, usize::from(((head >> 16) as u16).swap_bytes()), (head >> 32) as u32),
            _ => return None,
        };
        let is_shortest = size == 6 || length >= 126;
        let unmasked = head as u32 & !(u32::from(MASK) << 8);
        is_shortest.then_some(Self { opcode, size, length, key: key.to_le_bytes(), unmasked })
    }

    /// Writes a server's header for the same message, of which it returns the size. Behind it up to two bytes more are
    /// written over.
    #[inline(always)]
    pub(crate) fn encode_at(&self, bytes: &mut [u8], at: usize) -> usize {
        put(bytes, at, self.unmasked.to_le_bytes());
        self.size - 4
    }
}

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2: u8 = 0x20;
const RSV3: u8 = 0x10;
const MASK: u8 = 0x80;

/// Appends a frame. A client gives a fresh, unpredictable key for each (10.3); a server none.
#[inline]
pub fn write_frame(out: &mut Vec<u8>, fin: bool, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    let header = Header { fin, rsv1: false, opcode, mask, length: payload.len() as u64 };
    let mut head = [0; Header::SIZE_MAX];
    let size = header.encode(&mut head);
    out.reserve(size + payload.len());
    out.extend_from_slice(&head[..size]);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = mask {
        mask::apply(&mut out[start..], key, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_never_before_its_last_byte() {
        for length in [0, 1, 125, 126, 127, 65535, 65536, (1 << 63) - 1] {
            for mask in [None, Some([1, 2, 3, 4])] {
                for rsv1 in [false, true] {
                    let header = Header { fin: !rsv1, rsv1, opcode: Opcode::Binary, mask, length };
                    let mut out = [0; Header::SIZE_MAX];
                    let size = header.encode(&mut out);
                    assert_eq!(Header::decode(&out), Ok(Some((header, size))));
                    assert_eq!(size, Header::size(length as usize, mask.is_some()));
                    for cut in 0..size {
                        assert_eq!(Header::decode(&out[..cut]), Ok(None));
                    }
                }
            }
        }
    }

    #[test]
    fn a_length_is_in_its_shortest_form_and_has_63_bits() {
        let fault = |bytes: &[u8]| Header::decode(bytes).unwrap_err();
        assert_eq!(fault(&[0x82, 126, 0, 125]), Fault::LengthNotMinimal);
        assert_eq!(fault(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), Fault::LengthNotMinimal);
        assert_eq!(fault(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]), Fault::LengthNot63Bits);
        assert_eq!(fault(&[0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255]), Fault::LengthNot63Bits);
    }

    #[test]
    fn two_bytes_are_enough_to_refuse() {
        for first in 0..=255 {
            for second in 0..=255 {
                let (opcode, length) = (first & 15, second & 127);
                let expected = if first & 0x30 != 0 {
                    Some(Fault::ReservedBits)
                } else if matches!(opcode, 3..=7 | 11..) {
                    Some(Fault::ReservedOpcode)
                } else if opcode >= 8 && first & 0x80 == 0 {
                    Some(Fault::FragmentedControl)
                } else if opcode >= 8 && length > 125 {
                    Some(Fault::LongControl)
                } else {
                    None
                };
                assert_eq!(Header::decode(&[first, second]).err(), expected, "{first:x} {second:x}");
            }
        }
    }

    #[test]
    fn what_is_plain_is_what_it_is_read_as() {
        let mut plain = 0;
        for first in 0..=255 {
            for second in 0..=255 {
                for (high, low) in [(0, 0), (0, 125), (0, 126), (1, 0), (0xff, 0xff)] {
                    let bytes = [first, second, high, low, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
                    let Some(frame) = Plain::decode(&bytes) else { continue };
                    plain += 1;
                    let read = Header {
                        fin: true,
                        rsv1: false,
                        opcode: frame.opcode,
                        mask: Some(frame.key),
                        length: frame.length as u64,
                    };
                    assert_eq!(Header::decode(&bytes), Ok(Some((read, frame.size))));
                    assert!(!frame.opcode.is_control() && frame.opcode != Opcode::Continuation);
                    let (mut ours, mut usual) = ([0; 16], [0; 16]);
                    let size = frame.encode_at(&mut ours, 2);
                    assert_eq!(size, Header { mask: None, ..read }.encode_at(&mut usual, 2));
                    assert_eq!(ours[..2 + size], usual[..2 + size]);
                    assert_eq!(Plain::decode(&bytes[..7]), None);
                }
            }
        }
        // Text and bytes: 126 short lengths five times, and of the five long ones three.
        assert_eq!(plain, 2 * (126 * 5 + 3));
    }

    #[test]
    fn the_frames_of_section_5_7_are_written() {
        let written = |fin, opcode, payload: &[u8], mask| {
            let mut out = Vec::new();
            write_frame(&mut out, fin, opcode, payload, mask);
            out
        };
        let key = Some([0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(written(true, Opcode::Text, b"Hello", None), b"\x81\x05Hello");
        let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        assert_eq!(written(true, Opcode::Text, b"Hello", key), masked);
        assert_eq!(written(false, Opcode::Text, b"Hel", None), b"\x01\x03Hel");
        assert_eq!(written(true, Opcode::Continuation, b"lo", None), b"\x80\x02lo");
        assert_eq!(written(true, Opcode::Ping, b"Hello", None), b"\x89\x05Hello");
        let pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
        assert_eq!(written(true, Opcode::Pong, b"Hello", key), pong);
        assert_eq!(written(true, Opcode::Binary, &[7; 256], None)[..4], [0x82, 0x7e, 1, 0]);
        let long = written(true, Opcode::Binary, &[7; 65536], None);
        assert_eq!(long[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(long.len(), 65546);
    }
}
