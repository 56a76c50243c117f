//! HTTP/2 on the port of HTTP/1.1: by `Upgrade: h2c` (RFC 7540 3.2), by prior knowledge (RFC 9113 3.3), and WebSocket on
//! its streams (RFC 8441).
//!
//! The protocol itself is the `h2` crate's. It cannot begin in the middle, as an upgrade does: the client has already
//! said its settings, in a field, and asked its first question, in HTTP/1.1. So a gate waits for the client's own
//! preface, and only then is the crate told that a client has opened a connection and asked for something on stream 1:
//!
//! ```text
//! the client sends   request with HTTP2-Settings │ magic │ SETTINGS │ …
//!                              │                     │        │       │
//! `h2` reads         ──────────┼─────────────────► magic      │       │
//!                              ├─────── both in one ──► SETTINGS      │
//!                              └─► HEADERS of stream 1, a stand-in    │
//!                                                                   rest
//! ```
//!
//! The stand-in is the same for every request. What stream 1 is answered with comes from the HTTP/1.1 request itself,
//! which is kept beside the connection with its body: nothing of it is translated, so nothing can fail in the
//! translation once the 101 has been sent.
//!
//! | file | what |
//! |---|---|
//! | `settings.rs` | the payload of SETTINGS, in a frame or a field |
//! | `gate.rs` | the client's preface, and what `h2` reads instead |
//! | `frames.rs` | the frames that pass, by their headers |
//! | `flood.rs` | what a peer may send that costs it nothing |
//! | `request.rs` | a request that came over HTTP/2, as handlers and resources know it |
//! | `io.rs` | what the crate reads and writes |
//! | `connection.rs` | the one task of a connection |
//! | `exchange.rs` | a request that takes time, and its answer |
//! | `stream.rs` | a stream as a transport |

mod connection;
mod exchange;
mod flood;
mod frames;
mod gate;
mod io;
mod request;
mod settings;
mod stream;

pub(crate) use connection::{First, run};
pub use flood::{Allowance, Rate};
pub use frames::{Frames, Kind};
pub use gate::{Gate, GateFault, PREFACE};
pub use settings::{SettingsFault, decode};
pub use stream::Http2Stream;
