//! axum: the example of `axum::extract::ws`.

use std::net::Ipv4Addr;

use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    routing::any,
};
use tokio::net::TcpListener;

fn main() {
    doctor_peers::block_on(async {
        let app = Router::new().route("/", any(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(echo)));
        let address = (Ipv4Addr::LOCALHOST, doctor_peers::port());
        axum::serve(TcpListener::bind(address).await.expect("a port that is free"), app).await
    })
    .expect("it serves");
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}
