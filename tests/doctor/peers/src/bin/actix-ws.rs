//! actix-ws: the example of the crate's front page.

use std::net::Ipv4Addr;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use actix_ws::AggregatedMessage as Message;

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    HttpServer::new(|| App::new().route("/", web::get().to(echo)))
        .workers(1)
        .bind((Ipv4Addr::LOCALHOST, doctor_peers::port()))?
        .run()
        .await
}

async fn echo(request: HttpRequest, body: web::Payload) -> actix_web::Result<HttpResponse> {
    let (response, mut session, messages) = actix_ws::handle(&request, body)?;
    let mut messages = messages.aggregate_continuations().max_continuation_size(1 << 20);
    actix_web::rt::spawn(async move {
        while let Some(Ok(message)) = messages.recv().await {
            let sent = match message {
                Message::Ping(bytes) => session.pong(&bytes).await,
                Message::Text(text) => session.text(text).await,
                Message::Binary(bytes) => session.binary(bytes).await,
                Message::Close(reason) => return drop(session.close(reason).await),
                Message::Pong(_) => Ok(()),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    Ok(response)
}
