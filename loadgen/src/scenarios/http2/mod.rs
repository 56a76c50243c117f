//! HTTP/2 from the client's side, without I/O: the `h2` crate reads from memory and writes to memory, and is polled when
//! bytes have come or are to go. So its streams are paced, timed and accounted for like everything else.
//!
//! | file | what |
//! |---|---|
//! | `client.rs` | the connection: by prior knowledge, or behind an `Upgrade: h2c` |
//! | `pipe.rs` | the memory between it and the socket |
//! | `requests.rs` | a request on each stream, and its answer |
//! | `websockets.rs` | WebSockets on the streams of a connection (RFC 8441) |

mod client;
mod pipe;
mod requests;
mod websockets;

pub(crate) use requests::Requests;
pub(crate) use websockets::WebSockets;
