//! The oracle's own reading and writing of handshakes and frames.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

use super::Script;

/// A request for the switch.
pub(super) struct Handshake {
    pub(super) is_websocket: bool,
    token: String,
    key: String,
}

/// What is said to it.
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) switches: bool,
}

impl Handshake {
    /// Takes a whole head from the start of `bytes`.
    pub(super) fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes.drain(..end);
        let value = |name: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(':'));
            fields
                .find(|(field, _)| field.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_owned())
        };
        let token = value("upgrade").unwrap_or_default();
        Some(Self {
            is_websocket: token.eq_ignore_ascii_case("websocket"),
            token,
            key: value("sec-websocket-key").unwrap_or_default(),
        })
    }

    /// `None`: nothing at all.
    pub(super) fn answer(&self, script: &Script) -> Option<Answer> {
        if script.is_mute {
            return None;
        }
        if let Some(status) = script.status {
            let bytes = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").into_bytes();
            return Some(Answer { bytes, switches: false });
        }
        let mut head =
            format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: {}\r\nConnection: Upgrade\r\n", self.token);
        if self.is_websocket && !script.has_no_accept {
            let key = if script.has_bad_accept { "another key" } else { &self.key };
            head += &format!("Sec-WebSocket-Accept: {}\r\n", accept(key));
        }
        if script.has_subprotocol {
            head += "Sec-WebSocket-Protocol: unasked\r\n";
        }
        if script.has_extension {
            head += "Sec-WebSocket-Extensions: unasked\r\n";
        }
        Some(Answer { bytes: (head + "\r\n").into_bytes(), switches: true })
    }
}

fn accept(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// A frame of a client.
pub(super) enum Incoming {
    /// Its first byte, and what it says.
    Data {
        first: u8,
        payload: Vec<u8>,
    },
    Ping(Vec<u8>),
    Pong,
    Close(Vec<u8>),
}

/// Takes a whole frame from the start of `bytes`.
pub(super) fn take(bytes: &mut Vec<u8>) -> Option<Incoming> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, mut at) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
        short => (u64::from(short), 2),
    };
    let key: [u8; 4] = if second & 0x80 != 0 {
        at += 4;
        bytes.get(at - 4..at)?.try_into().ok()?
    } else {
        [0; 4]
    };
    let end = at + usize::try_from(length).ok()?;
    let masked = bytes.get(at..end)?;
    let payload: Vec<u8> = masked.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
    bytes.drain(..end);
    Some(match first & 0x0f {
        8 => Incoming::Close(payload),
        9 => Incoming::Ping(payload),
        10 => Incoming::Pong,
        _ => Incoming::Data { first, payload },
    })
}

/// A frame of a server.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        short @ 0..=125 => out.push(short as u8),
        medium @ 126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_6455_are_understood() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut bytes = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58rest".to_vec();
        let Some(Incoming::Data { first, payload }) = take(&mut bytes) else { panic!() };
        assert_eq!((first, &payload[..], &bytes[..]), (0x81, &b"Hello"[..], &b"rest"[..]));
        assert_eq!(frame(0x81, b"Hello"), b"\x81\x05Hello");
        assert_eq!(frame(0x82, &[0; 256])[..4], [0x82, 126, 1, 0]);
        assert_eq!(frame(0x82, &[0; 65536])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert!(take(&mut b"\x82\xfe\x01".to_vec()).is_none());
    }
}
