//! fastwebsockets behind hyper's upgrade: the crate's own `examples/echo_server.rs`, with 400 for what it refuses.

use fastwebsockets::{FragmentCollector, OpCode, WebSocketError, upgrade};
use http_body_util::Empty;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;

fn main() {
    doctor_peers::serve(|stream| {
        http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(switch)).with_upgrades()
    });
}

async fn switch(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    match upgrade::upgrade(&mut request) {
        Ok((response, upgraded)) => {
            tokio::spawn(tokio::task::unconstrained(echo(upgraded)));
            Ok(response)
        }
        Err(_) => {
            let mut response = Response::new(Empty::new());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            Ok(response)
        }
    }
}

async fn echo(upgraded: upgrade::UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(upgraded.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
