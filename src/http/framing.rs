//! Where the body ends, told from the fields (RFC 9112 section 6.3).
//!
//! Every choice that the RFC leaves open is made against the sender: two ways to frame a body, even
//! if they agree, are two for somebody to choose from.

use super::{Fields, HeadFault, Version};

/// Where the body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No field speaks of a body, so there is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk and its trailers.
    Chunked,
}

impl Framing {
    pub(super) fn of(fields: &Fields<'_>, version: Version) -> Result<Self, HeadFault> {
        let coded = fields.get("transfer-encoding").is_some();
        if coded && version == Version::Http10 {
            return Err(HeadFault::TransferEncodingInHttp10);
        }
        let length = match fields.only("content-length") {
            Err(_) => return Err(HeadFault::DuplicateContentLength),
            Ok(Some(_)) if coded => return Err(HeadFault::ConflictingFraming),
            Ok(length) => length,
        };
        match length {
            _ if coded => transfer_codings(fields),
            None => Ok(Self::None),
            Some(list) if list.contains(&b',') => Err(HeadFault::DuplicateContentLength),
            // `parse` would take a plus sign.
            Some(digits) if digits.iter().all(u8::is_ascii_digit) => str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.parse().ok())
                .map(Self::Length)
                .ok_or(HeadFault::InvalidContentLength),
            Some(_) => Err(HeadFault::InvalidContentLength),
        }
    }
}

/// We decode `chunked` and nothing else. The value is compared whole, not as a list: what a
/// tolerant list reader would skip (empty items, bytes that are no text) is what a smuggler sends.
fn transfer_codings(fields: &Fields<'_>) -> Result<Framing, HeadFault> {
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    if let Ok(Some(value)) = fields.only("transfer-encoding")
        && is_chunked(value)
    {
        return Ok(Framing::Chunked);
    }
    // With chunked last the body has an end that we could find: we lack the coding. Without it
    // there is none, which RFC 9112 section 6.3 makes a 400.
    let last_line = fields.all("transfer-encoding").last().unwrap_or_default();
    let last = last_line.rsplit(|&b| b == b',').next().unwrap_or_default();
    Err(if is_chunked(last) { HeadFault::UnsupportedTransferCoding } else { HeadFault::ChunkedNotLast })
}

#[cfg(test)]
mod tests {
    use super::super::{Head, Limits};
    use super::HeadFault::*;
    use super::*;

    fn framed(fields: &str) -> Result<Framing, HeadFault> {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        Head::parse(head.as_bytes(), &Limits::default()).map(|head| head.framing)
    }

    #[test]
    fn nothing_in_doubt_frames_a_body() {
        assert_eq!(framed("X: y"), Ok(Framing::None));
        assert_eq!(framed("Content-Length: 0"), Ok(Framing::Length(0)));
        assert_eq!(framed("Content-Length: 18446744073709551615"), Ok(Framing::Length(u64::MAX)));
        assert_eq!(framed("Transfer-Encoding: \t CHUNKED "), Ok(Framing::Chunked));

        for length in ["", "+5", "-5", "0x5", "5 5", "5a", "5.0", "\"5\"", "18446744073709551616", "٥", "5;a"]
        {
            assert_eq!(framed(&format!("Content-Length: {length}")), Err(InvalidContentLength), "{length}");
        }
        for lengths in ["5,6", "5, 5", "5,", "5\r\nContent-Length: 5", "5\r\ncontent-length: 6"] {
            assert_eq!(
                framed(&format!("Content-Length: {lengths}")),
                Err(DuplicateContentLength),
                "{lengths}"
            );
        }
        for codings in [
            "xchunked",
            "chunked, identity",
            "identity",
            "gzip",
            "",
            "chunked;a=b",
            "\"chunked\"",
            "chunked\x0c",
            "chunked\u{a0}",
            "chunked\r\nTransfer-Encoding: gzip",
            "a=\", chunked",
        ] {
            // The last one shows that no quote hides a coding: chunked is last there, for some.
            let fault = match codings {
                "a=\", chunked" => UnsupportedTransferCoding,
                "chunked\x0c" => InvalidFieldValue,
                _ => ChunkedNotLast,
            };
            assert_eq!(framed(&format!("Transfer-Encoding: {codings}")), Err(fault), "{codings}");
        }
        for codings in [
            "gzip, chunked",
            "chunked, chunked",
            ", chunked",
            "chunked\r\nTransfer-Encoding: chunked",
            "identity\r\ntransfer-encoding: chunked",
        ] {
            assert_eq!(
                framed(&format!("Transfer-Encoding: {codings}")),
                Err(UnsupportedTransferCoding),
                "{codings}"
            );
        }
        for both in [
            "Content-Length: 5\r\nTransfer-Encoding: xchunked",
            "transfer-encoding: chunked\r\ncontent-length: x",
        ] {
            assert_eq!(framed(both), Err(ConflictingFraming), "{both}");
        }
    }
}
