//! The protocols that come with Switchpoint: one file for each, and the list.
//!
//! To add one, write its file (`echo.rs` is the shortest example) and name it here.

mod echo;
pub mod h2c;
pub mod websocket;

pub use echo::Echo;
pub use h2c::H2c;
pub use websocket::WebSocket;

use std::sync::LazyLock;

use crate::{Error, Registry, Rejection, Request, Response, admin::Handshakes, protocols::websocket::Socket};

/// What the `switchpoint` program serves: a page that shows the switch at `/`, checks at `/healthz` and `/readyz`,
/// `/echo`, which speaks the protocols of the list, and `/echo-body`, which sends back what is posted to it. `h2c` is
/// added by who wants it.
pub fn demonstration(websocket: websocket::Settings) -> Registry {
    Registry::new()
        .get("/", page)
        .get("/healthz", health)
        .get("/readyz", readiness)
        .post("/echo-body", mirror)
        .at("/echo", echo_messages(websocket).shows_handshake())
        .at("/echo", Echo)
}

/// The page that shows the switch, at `/echo`.
pub fn page(_: &Request<'_>) -> Response {
    Response::html(PAGE).field("Content-Security-Policy", PAGE_POLICY)
}

/// The same page, which also shows the server's [recent handshakes](recent_handshakes).
pub fn page_with_handshakes(_: &Request<'_>) -> Response {
    static WITH: LazyLock<String> =
        LazyLock::new(|| PAGE.replacen("data-state", "data-handshakes data-state", 1));
    Response::html(WITH.as_str()).field("Content-Security-Policy", PAGE_POLICY)
}

/// The server's recent handshakes, as JSON; where the page looks for them it is at `/handshakes`.
pub fn recent_handshakes(handshakes: Handshakes) -> impl Fn(&Request<'_>) -> Response + 'static {
    move |_| handshakes.response()
}

/// 200, for as long as there is a server.
pub fn health(_: &Request<'_>) -> Response {
    Response::text("ok\n").field("Cache-Control", "no-store")
}

/// 200, or 503 once the server drains: who sends clients here sends them elsewhere.
pub fn readiness(request: &Request<'_>) -> Response {
    let (status, text) = if request.is_draining() { (503, "draining\n") } else { (200, "ready\n") };
    Response::text(text).with_status(status).field("Cache-Control", "no-store")
}

/// Sends the request's body back.
///
/// # Errors
/// Never.
pub async fn mirror(request: &Request<'_>) -> Result<Response, Rejection> {
    Ok(Response::new(200).with_bytes("application/octet-stream", request.body().to_vec()))
}

/// A WebSocket that sends every message back.
pub fn echo_messages(
    settings: websocket::Settings,
) -> WebSocket<impl AsyncFn(Socket) -> Result<(), Error> + 'static> {
    WebSocket::new(async |socket: Socket| {
        let (mut receiver, sender) = socket.split();
        while let Some(message) = receiver.recv().await? {
            sender.send(message).await?;
        }
        Ok(())
    })
    .with(settings)
}

const PAGE: &str = include_str!("../page/index.html");
/// Nothing from elsewhere, connections to anywhere.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
    connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
