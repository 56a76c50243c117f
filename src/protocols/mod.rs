//! The protocols that come with Switchpoint: one file for each, and the list.
//!
//! To add one, write its file (`echo.rs` is the shortest example) and name it here.

mod echo;
pub mod h2c;
pub mod websocket;

pub use echo::Echo;
pub use h2c::H2c;
pub use websocket::WebSocket;

use std::borrow::Cow;

use crate::{Error, Registry, Request, Response, admin::Handshakes, protocols::websocket::Socket};

/// What the `switchpoint` program serves: a page that shows the switch at `/`, checks at `/healthz` and `/readyz`,
/// `/echo`, which speaks the protocols of the list, and `/echo-body`, which sends back what is posted to it. `h2c` is
/// added by who wants it.
pub fn demonstration(websocket: websocket::Settings) -> Registry {
    demonstration_with(websocket, None)
}

/// The same, where the page also shows the server's recent handshakes, which are at `/handshakes` then.
pub fn demonstration_with(websocket: websocket::Settings, handshakes: Option<Handshakes>) -> Registry {
    let page: Cow<'static, str> = match handshakes {
        Some(_) => PAGE.replacen("data-state", "data-handshakes data-state", 1).into(),
        None => PAGE.into(),
    };
    let registry = match handshakes {
        Some(handshakes) => Registry::new().get("/handshakes", move |_| handshakes.response()),
        None => Registry::new(),
    };
    registry
        .get("/", move |_| Response::html(page.clone()).field("Content-Security-Policy", PAGE_POLICY))
        .get("/healthz", |_| Response::text("ok\n").field("Cache-Control", "no-store"))
        .get("/readyz", |request| {
            let (status, text) = if request.is_draining() { (503, "draining\n") } else { (200, "ready\n") };
            Response::text(text).with_status(status).field("Cache-Control", "no-store")
        })
        .post("/echo-body", async |request: &Request<'_>| {
            Ok(Response::new(200).with_bytes("application/octet-stream", request.body().to_vec()))
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
