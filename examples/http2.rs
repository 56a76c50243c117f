//! Resources written once, and served over HTTP/1.1, over HTTP/2, and to who upgrades to it.
//!
//! ```text
//! cargo run --example http2 -- 127.0.0.1:8080
//! curl --http2 'http://127.0.0.1:8080/bytes?300000' | wc -c
//! ```
//!
//! The tests against real clients, and `benches/h2load`, talk to it.

use std::time::Duration;

use switchpoint::{
    Config, Error, Registry, Rejection, Request, Resource, Response, Server, monoio,
    protocols::{Echo, H2c, WebSocket, websocket::Socket},
};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    let config =
        Config { listen: vec![address.parse()?], threads: 1, body_max: BODY_MAX, ..Config::default() };
    let server = Server::start(config, |_core| {
        Registry::new()
            .get("/hello", |_| Response::text("hello world\n"))
            .get("/bytes", bytes)
            .post("/bytes", same)
            .resource("/later", Later)
            .at("/echo", WebSocket::new(echo))
            .at("/echo", Echo)
            .with(H2c::new().body_max(BODY_MAX))
    })?;
    println!("listening on http://{}", server.addresses()[0]);
    server.join();
    Ok(())
}

/// As many bytes as the query says, each other than its neighbours.
fn bytes(request: &Request<'_>) -> Response {
    match request.query().unwrap_or("0").parse::<usize>() {
        Ok(count) if count <= BODY_MAX => {
            let bytes: Vec<u8> = (0..count).map(|place| (place % 251) as u8).collect();
            Response::new(200).with_bytes("application/octet-stream", bytes)
        }
        _ => Response::text("a number of bytes, up to 4 MiB\n").with_status(400),
    }
}

/// Takes its time, so that its stream stays open meanwhile: h2spec needs that.
struct Later;

impl Resource for Later {
    fn methods(&self) -> &'static [&'static str] {
        &["GET", "POST"]
    }

    async fn answer(&self, _: &Request<'_>) -> Result<Response, Rejection> {
        monoio::time::sleep(Duration::from_millis(50)).await;
        Ok(Response::text("hello world\n"))
    }
}

/// What was posted.
async fn same(request: &Request<'_>) -> Result<Response, Rejection> {
    Ok(Response::new(200).with_bytes("application/octet-stream", request.body().to_vec()))
}

async fn echo(socket: Socket) -> Result<(), Error> {
    let (mut receiver, sender) = socket.split();
    while let Some(message) = receiver.recv().await? {
        sender.send(message).await?;
    }
    Ok(())
}

const BODY_MAX: usize = 4 << 20;
