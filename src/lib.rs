//! A server and a library for HTTP/1.1 `Upgrade`: `101 Switching Protocols`, and what follows it.

pub mod http;
pub mod ws;
