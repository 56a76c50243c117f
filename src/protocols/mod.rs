//! The protocols that come with Switchpoint: one file for each, and the list.
//!
//! To add one, write its file (`echo.rs` is the shortest example) and name it here.

mod echo;
pub mod websocket;

pub use echo::Echo;
pub use websocket::WebSocket;

use crate::{Error, Registry, Response, protocols::websocket::Socket};

/// What the `switchpoint` program serves: a page that shows the switch at `/`, checks at `/healthz` and `/readyz`,
/// and `/echo`, which speaks every protocol of the list.
pub fn demonstration(websocket: websocket::Settings) -> Registry {
    Registry::new()
        .get("/", |_| Response::html(PAGE).field("Content-Security-Policy", PAGE_POLICY))
        .get("/healthz", |_| Response::text("ok\n").field("Cache-Control", "no-store"))
        .get("/readyz", |request| {
            let (status, text) = if request.is_draining() { (503, "draining\n") } else { (200, "ready\n") };
            Response::text(text).with_status(status).field("Cache-Control", "no-store")
        })
        .at("/echo", WebSocket::new(echo_messages).with(websocket).shows_handshake())
        .at("/echo", Echo)
}

/// Sends every message back.
async fn echo_messages(socket: Socket) -> Result<(), Error> {
    let (mut receiver, sender) = socket.split();
    while let Some(message) = receiver.recv().await? {
        sender.send(message).await?;
    }
    Ok(())
}

const PAGE: &str = include_str!("../page/index.html");
/// Nothing from elsewhere, connections to anywhere.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
    connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
