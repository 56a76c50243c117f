//! What a close frame says (7): nothing, or a code and perhaps a reason.

use std::fmt;

use super::Fault;

/// A status code that may be on the wire: 1005, 1006 and 1015 cannot be made (7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(u16);

impl Code {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The server goes down, or the browser leaves the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// The peer sent a kind of data that we do not take.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// The data was not what its type says: text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// The message breaks our policy.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// The message is too big to process.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// The server did not agree to an extension that the client needs.
    pub const MANDATORY_EXTENSION: Self = Self(1010);
    /// The server met a condition that it did not expect.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// The service restarts: come back after a random delay (IANA).
    pub const SERVICE_RESTART: Self = Self(1012);
    /// The service is overloaded: come back later (IANA).
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// What the server is a gateway to gave no valid answer (IANA).
    pub const BAD_GATEWAY: Self = Self(1014);

    /// The code with this number, if it may be sent (7.4.2).
    pub const fn new(number: u16) -> Option<Self> {
        match number {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(number)),
            _ => None,
        }
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The payload of a close frame that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// Why the connection ends.
    pub code: Code,
    /// The same for people; often empty.
    pub reason: &'a str,
}

impl<'a> CloseFrame<'a> {
    /// Reads a close frame's payload; an empty one says nothing, and that is allowed (5.5.1).
    pub fn parse(payload: &'a [u8]) -> Result<Option<Self>, Fault> {
        let (number, reason) = match payload {
            [] => return Ok(None),
            [_] => return Err(Fault::CloseCodeCut),
            [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        };
        let code = Code::new(number).ok_or(Fault::CloseCodeInvalid)?;
        let reason = str::from_utf8(reason).map_err(|_| Fault::CloseReasonNotUtf8)?;
        Ok(Some(Self { code, reason }))
    }

    /// Writes the payload and returns its length. A reason that is too long loses its end.
    pub fn encode(&self, out: &mut [u8; PAYLOAD_MAX]) -> usize {
        let mut end = self.reason.len().min(PAYLOAD_MAX - 2);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        let reason = &self.reason[..end];
        let length = 2 + reason.len();
        out[..2].copy_from_slice(&self.code.0.to_be_bytes());
        out[2..length].copy_from_slice(reason.as_bytes());
        length
    }
}

/// The longest payload: any control frame's (5.5).
pub const PAYLOAD_MAX: usize = 125;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_for_the_wire_can_be_made() {
        for number in [1000, 1003, 1007, 1014, 3000, 3999, 4000, 4999] {
            assert_eq!(Code::new(number).map(Code::number), Some(number));
        }
        for number in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert_eq!(Code::new(number), None);
        }
    }

    #[test]
    fn a_payload_is_empty_or_a_code_and_a_reason() {
        assert_eq!(CloseFrame::parse(b""), Ok(None));
        assert_eq!(CloseFrame::parse(b"\x03"), Err(Fault::CloseCodeCut));
        assert_eq!(CloseFrame::parse(b"\x03\xed"), Err(Fault::CloseCodeInvalid));
        assert_eq!(CloseFrame::parse(b"\x03\xe8\xff"), Err(Fault::CloseReasonNotUtf8));
        let bye = CloseFrame { code: Code::NORMAL, reason: "bye" };
        assert_eq!(CloseFrame::parse(b"\x03\xe8bye"), Ok(Some(bye)));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        for pad in 0..4 {
            let reason = "x".repeat(pad) + &"🦀".repeat(40);
            let mut payload = [0; PAYLOAD_MAX];
            let length = CloseFrame { code: Code::GOING_AWAY, reason: &reason }.encode(&mut payload);
            let read = CloseFrame::parse(&payload[..length]).unwrap().unwrap();
            assert!(reason.starts_with(read.reason) && (121..=125).contains(&length), "{length}");
        }
    }
}
