//! tokio-websockets: the server of the crate's front page.

use futures_util::{SinkExt, StreamExt};

fn main() {
    doctor_peers::serve(async |stream| {
        let (_request, mut socket) = tokio_websockets::ServerBuilder::new().accept(stream).await?;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await?;
            }
        }
        Ok::<_, tokio_websockets::Error>(())
    });
}
