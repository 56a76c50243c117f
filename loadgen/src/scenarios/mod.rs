//! The scenarios: one file for each, and the list.
//!
//! To add one, write its file (`echo.rs` is the shortest), name it here and in [`What`](crate::plan::What).

mod echo;
mod websocket;

pub(crate) use echo::Echo;
pub(crate) use websocket::WebSocket;
