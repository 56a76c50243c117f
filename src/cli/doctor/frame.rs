//! Frames of RFC 6455, made and read anew: nothing of `src/ws`, whose faults it is here to find.
//!
//! ```text
//! | FIN RSV1-3 opcode | MASK length | 0, 2 or 8 bytes of length | 0 or 4 of key | payload |
//! ```

pub(crate) const FIN: u8 = 0x80;
pub(crate) const RSV1: u8 = 0x40;
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// How a length is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Short,
    Two,
    Eight,
}

impl Length {
    /// The shortest, which is the only legal one (5.2).
    pub(crate) fn of(length: usize) -> Self {
        match length {
            0..=125 => Self::Short,
            126..=65535 => Self::Two,
            _ => Self::Eight,
        }
    }
}

/// A client's frame: masked. `first` is the first byte: FIN, reserved bits, opcode.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    with_length(first, Length::of(payload.len()), payload)
}

/// A client's frame with its length in the form that is asked for.
pub(crate) fn with_length(first: u8, form: Length, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, 0x80, form, payload.len() as u64);
    frame.extend(KEY);
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ KEY[at % 4]));
    frame
}

/// The start of a client's frame of which no more follows than there is.
pub(crate) fn announced(first: u8, length: u64) -> Vec<u8> {
    let mut frame = header(first, 0x80, Length::Eight, length);
    frame.extend(KEY);
    frame
}

/// A frame without a mask: a server's.
pub(crate) fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, 0, Length::of(payload.len()), payload.len() as u64);
    frame.extend(payload);
    frame
}

/// Any key serves: what is examined is no proxy's cache.
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn header(first: u8, mask: u8, form: Length, length: u64) -> Vec<u8> {
    let mut header = vec![first];
    match form {
        Length::Short => header.push(mask | length as u8),
        Length::Two => {
            header.push(mask | 126);
            header.extend((length as u16).to_be_bytes());
        }
        Length::Eight => {
            header.push(mask | 127);
            header.extend(length.to_be_bytes());
        }
    }
    header
}

/// The payload of a close frame.
pub(crate) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) first: u8,
    pub(crate) is_masked: bool,
    pub(crate) form: Length,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    pub(crate) fn is_final(&self) -> bool {
        self.first & FIN != 0
    }

    /// The code of a close frame, if it has one.
    pub(crate) fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk::<2>()?;
        (self.opcode() == CLOSE).then(|| u16::from_be_bytes(*code))
    }

    /// In a few words.
    pub(crate) fn brief(&self) -> String {
        let name = match self.opcode() {
            CONTINUATION => "a continuation",
            TEXT => "a text",
            BINARY => "a binary message",
            CLOSE => match self.close_code() {
                Some(code) => {
                    let reason = String::from_utf8_lossy(&self.payload[2..]).into_owned();
                    return if reason.is_empty() {
                        format!("close {code}")
                    } else {
                        format!("close {code} {reason:?}")
                    };
                }
                None => "a close without a code",
            },
            PING => "a ping",
            PONG => "a pong",
            opcode => return format!("a frame with opcode {opcode}"),
        };
        format!("{name} of {} bytes", self.payload.len())
    }

    /// Takes the frame that `bytes` begin with, and its length; `None` if it is not whole.
    pub(crate) fn take(bytes: &[u8]) -> Option<(Self, usize)> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let (form, length, at) = match second & 0x7f {
            126 => (Length::Two, u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
            127 => (Length::Eight, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
            short => (Length::Short, u64::from(short), 2),
        };
        let is_masked = second & 0x80 != 0;
        let at = if is_masked { at + 4 } else { at };
        let end = usize::try_from(length).ok()?.checked_add(at)?;
        let mut payload = bytes.get(at..end)?.to_vec();
        if is_masked {
            let key = &bytes[at - 4..at];
            payload.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= key[at % 4]);
        }
        Some((Self { first, is_masked, form, payload }, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_6455_5_7() {
        assert_eq!(masked(FIN | TEXT, b"Hello"), b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
        assert_eq!(unmasked(FIN | TEXT, b"Hello"), b"\x81\x05\x48\x65\x6c\x6c\x6f");
    }

    #[test]
    fn what_was_made_is_read() {
        for length in [0, 1, 125, 126, 65535, 65536] {
            let payload = vec![7; length];
            let bytes = [masked(FIN | BINARY, &payload), b"next".to_vec()].concat();
            let (frame, end) = Frame::take(&bytes).unwrap();
            assert_eq!((frame.payload, frame.is_masked, frame.form), (payload, true, Length::of(length)));
            assert_eq!(&bytes[end..], b"next");
            assert_eq!(Frame::take(&bytes[..end - 1]), None);
        }
        assert_eq!(Frame::take(&announced(FIN | BINARY, u64::MAX)), None);
    }
}
