//! Everything that can be wrong with a request's bytes, one table for each layer.
//!
//! A fault is the peer's. Its status is for the status line, its code for logs, metrics and tests
//! (it never changes once released), its sentence for the person who has to mend the sender.

/// Makes an enum of a table, so that a fault cannot lack its status, code or sentence.
macro_rules! faults {
    ($(#[$doc:meta])* $name:ident { $($status:literal $code:literal $fault:ident $sentence:literal)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = $sentence] $fault,)*
        }

        impl $name {
            /// Every fault there is.
            pub const ALL: &[Self] = &[$(Self::$fault),*];

            /// The status of the response that says so. The connection closes after it, since
            /// nobody knows where the next request would start.
            pub const fn status(self) -> u16 {
                match self { $(Self::$fault => $status,)* }
            }

            /// The stable reason code.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$fault => $code,)* }
            }

            /// What is wrong and what to do about it, in one sentence.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$fault => $sentence,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.explanation())
            }
        }

        impl std::error::Error for $name {}
    };
}

faults! {
    /// Why a request head was refused.
    HeadFault {
        400 "malformed-request-line" MalformedRequestLine
            "The request line is not `method target HTTP/1.1` with single spaces; send it in that form."
        400 "bare-lf" BareLf
            "A line ends with LF alone; end every line with CR LF."
        400 "bare-cr" BareCr
            "A CR is not followed by LF; use CR only to end a line."
        400 "invalid-byte" InvalidByte
            "The head contains a NUL byte; check that it is HTTP/1.1 in plain text, not TLS or binary."
        400 "obs-fold" ObsFold
            "A field value continues on a second line; write it on one line."
        400 "whitespace-before-first-field" WhitespaceBeforeFirstField
            "Whitespace follows the request line; start the first field name in the first column."
        400 "space-before-colon" SpaceBeforeColon
            "Whitespace stands between a field name and its colon; remove it."
        400 "invalid-field-name" InvalidFieldName
            "A field line does not start with a token and a colon; write it as `Name: value`."
        400 "invalid-field-value" InvalidFieldValue
            "A field value contains a control character; remove or encode it."
        400 "missing-host" MissingHost
            "An HTTP/1.1 request needs a Host field; add it."
        400 "duplicate-host" DuplicateHost
            "There is more than one Host field; send exactly one."
        400 "invalid-host" InvalidHost
            "The Host field is not `host` or `host:port`; send the authority of the URL."
        400 "invalid-target" InvalidTarget
            "The request target is not valid for this method; send an encoded path such as `/chat?a=b`."
        414 "target-too-long" TargetTooLong
            "The request target is longer than this server allows; shorten it."
        431 "head-too-large" HeadTooLarge
            "The request head is larger than this server allows; send fewer or shorter fields."
        431 "too-many-fields" TooManyFields
            "There are more field lines than this server allows; send fewer."
        505 "unsupported-http-version" UnsupportedHttpVersion
            "This port speaks HTTP/1.1 and HTTP/1.0; use one of these versions."
        400 "conflicting-framing" ConflictingFraming
            "The request has both Transfer-Encoding and Content-Length; send only one of them."
        400 "invalid-content-length" InvalidContentLength
            "Content-Length is not a decimal number of bytes; send digits only."
        400 "duplicate-content-length" DuplicateContentLength
            "There is more than one Content-Length value; send exactly one."
        400 "chunked-not-last" ChunkedNotLast
            "The last transfer coding is not `chunked`, so the body has no end; send `Transfer-Encoding: chunked`."
        501 "unsupported-transfer-coding" UnsupportedTransferCoding
            "This server decodes no transfer coding but one `chunked`; send `Transfer-Encoding: chunked`."
        400 "transfer-encoding-in-http-1-0" TransferEncodingInHttp10
            "HTTP/1.0 has no Transfer-Encoding; send Content-Length or use HTTP/1.1."
        417 "unknown-expectation" UnknownExpectation
            "The only expectation this server can meet is `100-continue`; remove any other."
    }
}

faults! {
    /// Why a request body was refused.
    BodyFault {
        413 "body-too-large" TooLarge
            "The request body is larger than this server allows here; send less."
        400 "invalid-chunk" InvalidChunk
            "A chunk is not `hex-size CR LF data CR LF`; check the sender's chunked coding."
        400 "chunk-extension-too-long" ChunkExtensionTooLong
            "The chunk extensions are longer than this server allows; leave them out."
        400 "invalid-trailer" InvalidTrailer
            "A trailer line is not `Name: value` ended by CR LF; mend it or send no trailers."
        431 "trailers-too-large" TrailersTooLarge
            "The trailers are larger than this server allows; send fewer or shorter ones."
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_fault_has_its_own_code_in_kebab_case_and_a_sentence() {
        let heads = HeadFault::ALL.iter().map(|f| (f.code(), f.status(), f.to_string()));
        let bodies = BodyFault::ALL.iter().map(|f| (f.code(), f.status(), f.to_string()));
        let mut codes = HashSet::new();
        for (code, status, sentence) in heads.chain(bodies) {
            assert!(codes.insert(code), "{code} twice");
            assert!(code.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{code}");
            assert!((400..=505).contains(&status), "{code}");
            assert!(sentence.contains("; ") && sentence.ends_with('.'), "{sentence}");
        }
    }
}
