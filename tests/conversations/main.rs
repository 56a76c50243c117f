//! Talks to a worker as its peers would: raw bytes in, raw bytes out, in memory and over TCP.
//!
//! | module | what |
//! |---|---|
//! | `harness` | both ends in one runtime, and one conversation in many ways |
//! | `authorization` | who may, by which credentials |
//! | `ordinary` | HTTP without a switch |
//! | `refusals` | every answer that says no, with its reason |
//! | `switching` | the handshake of any protocol |
//! | `websocket` | RFC 6455 behind its handshake |
//! | `parts` | long messages, as they arrive |
//! | `handlers` | what a message handler can rely on |
//! | `queues` | what waits to be sent: policies, messages for many, pieces |
//! | `h2c` | the upgrade to HTTP/2, frame by frame |
//! | `http2` | HTTP/2 by prior knowledge, and sessions on its streams |
//! | `compressed` | permessage-deflate on those streams |
//! | `limits` | who is turned away, and what a session may last |
//! | `ends` | time limits, drain, cuts, panics |
//! | `probes` | the opening handshakes that were sent to sixteen other servers |

#[cfg(feature = "auth")]
mod authorization;
#[cfg(feature = "deflate")]
mod compressed;
mod ends;
mod h2c;
mod handlers;
mod harness;
mod http2;
mod limits;
mod ordinary;
mod parts;
mod probes;
mod queues;
mod refusals;
mod switching;
mod websocket;
