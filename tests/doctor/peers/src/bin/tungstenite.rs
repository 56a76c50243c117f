//! tokio-tungstenite: the crate's own `examples/echo-server.rs`.

use futures_util::{StreamExt, TryStreamExt, future};

fn main() {
    doctor_peers::serve(async |stream| {
        let (write, read) = tokio_tungstenite::accept_async(stream).await?.split();
        read.try_filter(|message| future::ready(message.is_text() || message.is_binary()))
            .forward(write)
            .await
    });
}
