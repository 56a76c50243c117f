//! What must hold for any bytes whatever: nothing panics, cuts mean nothing, memory is bounded, and what was taken can
//! be said again.

#[cfg(feature = "deflate")]
mod deflate;
mod handshake;
mod http;
mod http2;
mod proxy_protocol;
mod websocket;

use super::random::Random;
#[cfg(feature = "deflate")]
pub use deflate::{deflate, extension};
pub use handshake::handshake;
pub use http::{body, head, list};
pub use http2::{frames, gate, http2, settings};
pub use proxy_protocol::proxy_protocol;
pub use websocket::{frame, message};

/// Takes bytes, and chooses by the dice how. It tells whether it took its input or refused it, so that tests can see to
/// it that both happen.
pub type Target = fn(&[u8], &mut Random) -> bool;
