//! WebSocket frames, written and read without the help of the code under test.

/// A frame from the server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) fin: bool,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let [first, second, rest @ ..] = bytes else { return None };
        assert_eq!(first & 0x70, 0, "a reserved bit is set: {}", bytes.escape_ascii());
        assert_eq!(second & 0x80, 0, "a server never masks: {}", bytes.escape_ascii());
        let (length, head) = match second & 0x7f {
            126 => (u16::from_be_bytes(rest.get(..2)?.try_into().unwrap()).into(), 4),
            127 => (u64::from_be_bytes(rest.get(..8)?.try_into().unwrap()), 10),
            short => (short.into(), 2),
        };
        let end = head + usize::try_from(length).unwrap();
        let payload = bytes.get(head..end)?.to_vec();
        Some((Self { fin: first & 0x80 != 0, opcode: first & 0x0f, payload }, end))
    }

    #[track_caller]
    pub(crate) fn is(&self, opcode: u8, payload: impl AsRef<[u8]>) {
        let expected = Self { fin: true, opcode, payload: payload.as_ref().to_vec() };
        assert_eq!(*self, expected);
    }

    #[track_caller]
    pub(crate) fn is_text(&self, text: &str) {
        self.is(1, text);
    }

    /// A close frame with this code; gives its reason.
    #[track_caller]
    pub(crate) fn is_close(&self, code: u16) -> String {
        assert!(self.fin && self.opcode == 8 && self.payload.starts_with(&code.to_be_bytes()), "{self:?}");
        String::from_utf8(self.payload[2..].to_vec()).unwrap()
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.payload[..self.payload.len().min(60)];
        let (fin, length) = (if self.fin { "last" } else { "more" }, self.payload.len());
        write!(f, "{fin} opcode {} {length} bytes {}", self.opcode, shown.escape_ascii())
    }
}

/// A client's frame.
pub(crate) fn masked(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let payload = payload.as_ref();
    let mut bytes = vec![first];
    match payload.len() {
        length @ ..126 => bytes.push(0x80 | length as u8),
        length @ ..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(KEY);
    bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

pub(crate) fn text(payload: impl AsRef<[u8]>) -> Vec<u8> {
    masked(0x81, payload)
}

pub(crate) fn binary(payload: impl AsRef<[u8]>) -> Vec<u8> {
    masked(0x82, payload)
}

pub(crate) fn ping(payload: impl AsRef<[u8]>) -> Vec<u8> {
    masked(0x89, payload)
}

pub(crate) fn pong(payload: impl AsRef<[u8]>) -> Vec<u8> {
    masked(0x8a, payload)
}

pub(crate) fn close(code: u16) -> Vec<u8> {
    masked(0x88, code.to_be_bytes())
}

/// A frame of a message: `opcode` 0 goes on, `fin` ends it.
pub(crate) fn fragment(fin: bool, opcode: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    masked(u8::from(fin) << 7 | opcode, payload)
}
