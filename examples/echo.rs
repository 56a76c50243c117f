//! The shortest server: every message comes back.
//!
//! ```text
//! cargo run --release --example echo
//! websocat ws://127.0.0.1:8080/
//! ```

use switchpoint::{
    Config, Error, Registry, Server, StartError,
    protocols::{WebSocket, websocket::Socket},
};

async fn echo(socket: Socket) -> Result<(), Error> {
    let (mut receiver, sender) = socket.split(); // a message can be sent while it is still borrowed
    while let Some(message) = receiver.recv().await? {
        sender.send(message).await?;
    }
    Ok(())
}

pub(crate) fn registry(_core: usize) -> Registry {
    Registry::new().at("/", WebSocket::new(echo))
}

fn main() -> Result<(), StartError> {
    Server::start(Config::default(), registry)?.join();
    Ok(())
}
