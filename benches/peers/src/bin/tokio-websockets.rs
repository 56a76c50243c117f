//! tokio-websockets: the echo server of the crate's README.

use futures_util::{SinkExt, StreamExt};
use tokio_websockets::{Error, ServerBuilder};

fn main() {
    peers::serve(async |stream| {
        let (_request, mut socket) = ServerBuilder::new().accept(stream).await?;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await?;
            }
        }
        Ok::<_, Error>(())
    });
}
