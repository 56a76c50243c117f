//! RFC 6455 without I/O: bytes in, events and bytes out. Both roles: the server, and the load
//! generator and the debug client in the client's.
//!
//! | file | section | what |
//! |---|---|---|
//! | `accept.rs` | 4 | `Sec-WebSocket-Key` and its answer |
//! | `opening.rs` | 4.1 | the client's request for the switch, and what the answer means |
//! | `frame.rs` | 5.2 | the frame header, both ways |
//! | `mask.rs` | 5.3 | masking, at the width of this CPU |
//! | `message.rs` | 5.4–5.6 | frames to events: fragments, control frames, limits |
//! | `utf8.rs` | 8.1 | text that arrives in pieces |
//! | `close.rs` | 7 | what a close frame says |
//! | `send.rs` | 5.6 | messages to frames, for one or for many |
//! | `extension.rs` | RFC 7692 7.1 | permessage-deflate in the handshake |
//! | `deflate.rs` | RFC 7692 7.2 | compressing and inflating messages |
//! | `zlib.rs` | RFC 1951 | who does the work |
//! | `fault.rs` | 7.1.7 | what a peer can get wrong, and what it is told |
//!
//! Randomness and time stay outside: the caller brings masking keys and keeps deadlines.

mod accept;
pub mod close;
#[cfg(all(test, feature = "deflate"))]
mod compressed_conversations;
#[cfg(test)]
mod conversations;
#[cfg(test)]
mod conversations_in_parts;
mod deflate;
pub mod extension;
mod fault;
pub mod frame;
pub mod mask;
mod message;
pub mod opening;
mod send;
mod utf8;
mod zlib;

pub use accept::{accept_key, is_key};
pub use close::{CloseFrame, Code};
pub use deflate::{Compressor, Contexts};
pub use extension::{Agreed, Deflate};
pub use fault::Fault;
pub(crate) use frame::Plain;
pub use frame::{Header, Opcode, write_frame};
pub(crate) use message::text;
pub use message::{Event, Found, Part, Place, Received, Receiver, Step};
pub use opening::Opening;
pub use send::{Prepared, write_message};

/// Which end of the connection we are. It decides who masks (5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We mask, and refuse masked frames.
    Client,
    /// We do not mask, and refuse frames that are not masked.
    Server,
}

/// How much of a message we hold for a peer (10.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest message in bytes, over all its fragments.
    pub message_max: usize,
    /// The most frames a message may come in. Empty ones count: they are work without an end.
    pub fragments_max: usize,
}

impl Default for Limits {
    /// Fragments leave nothing behind but their bytes, so their bound is generous: 8 bytes each.
    fn default() -> Self {
        Self { message_max: 1 << 20, fragments_max: 1 << 17 }
    }
}
