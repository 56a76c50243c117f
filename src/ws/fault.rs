//! What a peer can get wrong. Each is a fact, and fails the connection (7.1.7).

use super::close::Code;

/// Why the peer's bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// RSV1 without permessage-deflate, or where it has no meaning for it; or RSV2 or RSV3.
    #[error("a reserved bit is set that no extension gave a meaning (RFC 6455 5.2)")]
    ReservedBits,
    /// Opcode 3–7 or 11–15.
    #[error("the opcode is reserved (RFC 6455 5.2)")]
    ReservedOpcode,
    /// A control frame without FIN.
    #[error("a control frame is fragmented (RFC 6455 5.5)")]
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    #[error("a control frame is longer than 125 bytes (RFC 6455 5.5)")]
    LongControl,
    /// A length in more bytes than it needs.
    #[error("a length is not in its shortest form (RFC 6455 5.2)")]
    LengthNotMinimal,
    /// A length of 2^63 or more.
    #[error("a length has its highest bit set (RFC 6455 5.2)")]
    LengthNot63Bits,
    /// A client's frame without a mask.
    #[error("a client's frame is not masked (RFC 6455 5.1)")]
    Unmasked,
    /// A server's frame with a mask.
    #[error("a server's frame is masked (RFC 6455 5.1)")]
    Masked,
    /// A continuation frame, and no message to continue.
    #[error("a continuation frame continues nothing (RFC 6455 5.4)")]
    NothingToContinue,
    /// A new message within the fragments of another.
    #[error("a message begins before the last one ended (RFC 6455 5.4)")]
    MessageInMessage,
    /// More frames than `Limits::fragments_max`.
    #[error("a message has more fragments than we take (RFC 6455 10.4)")]
    TooManyFragments,
    /// More bytes than `Limits::message_max`.
    #[error("a message is longer than we take (RFC 6455 10.4)")]
    MessageTooLong,
    /// A compressed message that is not DEFLATE, or ends within a block.
    #[error("a compressed message cannot be inflated (RFC 7692 7.2.2)")]
    InvalidDeflate,
    /// Text that is not UTF-8.
    #[error("a text message is not UTF-8 (RFC 6455 8.1)")]
    TextNotUtf8,
    /// A close frame of one byte.
    #[error("a close frame holds half a status code (RFC 6455 5.5.1)")]
    CloseCodeCut,
    /// A status code that must not be on the wire.
    #[error("a close frame's status code must not be sent (RFC 6455 7.4)")]
    CloseCodeInvalid,
    /// A close reason that is not UTF-8.
    #[error("a close frame's reason is not UTF-8 (RFC 6455 5.5.1)")]
    CloseReasonNotUtf8,
}

impl Fault {
    /// What the peer is told.
    pub fn close_code(self) -> Code {
        match self {
            Self::InvalidDeflate | Self::TextNotUtf8 | Self::CloseReasonNotUtf8 => Code::INVALID_PAYLOAD,
            Self::MessageTooLong | Self::TooManyFragments => Code::MESSAGE_TOO_BIG,
            _ => Code::PROTOCOL_ERROR,
        }
    }

    /// The name in logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved-bits",
            Self::ReservedOpcode => "reserved-opcode",
            Self::FragmentedControl => "fragmented-control",
            Self::LongControl => "long-control",
            Self::LengthNotMinimal => "length-not-minimal",
            Self::LengthNot63Bits => "length-not-63-bits",
            Self::Unmasked => "unmasked",
            Self::Masked => "masked",
            Self::NothingToContinue => "nothing-to-continue",
            Self::MessageInMessage => "message-in-message",
            Self::TooManyFragments => "too-many-fragments",
            Self::MessageTooLong => "message-too-long",
            Self::InvalidDeflate => "invalid-deflate",
            Self::TextNotUtf8 => "text-not-utf8",
            Self::CloseCodeCut => "close-code-cut",
            Self::CloseCodeInvalid => "close-code-invalid",
            Self::CloseReasonNotUtf8 => "close-reason-not-utf8",
        }
    }
}
