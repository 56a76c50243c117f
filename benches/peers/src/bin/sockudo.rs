//! sockudo-ws on tokio: the crate's own `examples/simple_echo.rs`.

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use sockudo_ws::{
    Config, Error, Message, WebSocketStream,
    handshake::{build_response, generate_accept_key, parse_request},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn main() {
    peers::serve(async |stream| {
        let mut socket = WebSocketStream::server(switch(stream).await?, Config::default());
        while let Some(message) = socket.next().await {
            match message? {
                message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        Ok::<_, Error>(())
    });
}

async fn switch(mut stream: TcpStream) -> Result<TcpStream, Error> {
    let mut head = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(Error::ConnectionClosed);
        }
        if let Some((request, _)) = parse_request(&head)? {
            let response = build_response(&generate_accept_key(request.key), None, None);
            stream.write_all(&response).await?;
            return Ok(stream);
        }
    }
}
