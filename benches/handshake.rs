//! The opening handshake (RFC 6455 4) without a kernel: both sides' rules, and the engine's whole way to the 101.
//!
//! `cargo bench --bench handshake`. `rules` is what the server's rules cost, for whoever serves without our engine;
//! `engine` adds what a connection is: a task, its deadlines, the registry, and the session that begins and ends.

use std::{io::Write, rc::Rc};

use divan::{Bencher, black_box, counter::ItemsCount};
use switchpoint::{
    Config, Driver, Registry, Stream, Worker, duplex,
    http::{Head, HeadScanner, Limits},
    protocols::{WebSocket, websocket::Settings},
    ws::{
        self, Opening,
        extension::{self, Deflate},
        opening::{Answer, Url},
    },
};

fn main() {
    divan::main();
}

/// Chromium's, from a page of the same host.
const REQUEST: &str = "GET /echo HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: Upgrade\r\nPragma: no-cache\r\n\
    Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/140.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\nOrigin: http://127.0.0.1:8080\r\n\
    Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The 101 to it.
fn response() -> String {
    let deflate = if cfg!(feature = "deflate") {
        "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
    } else {
        ""
    };
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n{deflate}\r\n"
    )
}

#[divan::bench(sample_size = 100)]
fn accept_key() {
    assert_eq!(ws::accept_key(black_box(b"dGhlIHNhbXBsZSBub25jZQ==")), ACCEPT.as_bytes());
}

/// The server's side, from the public parts: find the head, parse it, check it (4.2.1), settle the extension, answer.
#[divan::bench(sample_size = 100)]
fn rules(bencher: Bencher<'_, '_>) {
    let (limits, deflate, expected) = (Limits::default(), Deflate::default(), response());
    let mut answer = Vec::new();
    bencher.bench_local(|| {
        let bytes = black_box(REQUEST.as_bytes());
        let end = HeadScanner::default().find(bytes, &limits).unwrap().unwrap();
        let head = Head::parse(&bytes[..end], &limits).unwrap();
        assert!(head.method == "GET" && head.target.path() == "/echo");
        assert!(
            head.fields.has_token("connection", "upgrade") && head.fields.has_token("upgrade", "websocket")
        );
        assert_eq!(head.fields.only("sec-websocket-version"), Ok(Some(&b"13"[..])));
        let key = head.fields.only("sec-websocket-key").unwrap().unwrap();
        assert!(ws::is_key(key));
        let agreed = extension::accept(&deflate, head.fields.tokens("sec-websocket-extensions"));
        let accept = ws::accept_key(key);
        answer.clear();
        write!(
            answer,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n",
            str::from_utf8(&accept).unwrap(),
        )
        .unwrap();
        if let Some((_, agreed)) = agreed {
            write!(answer, "Sec-WebSocket-Extensions: {agreed}\r\n").unwrap();
        }
        answer.extend_from_slice(b"\r\n");
        assert!(answer == expected.as_bytes());
    });
}

const CONNECTIONS: usize = 200;

/// The server's side as it runs, over the in-memory transport: one connection after the other, until its handler ends.
#[divan::bench]
fn engine(bencher: Bencher<'_, '_>) {
    let expected = response();
    bencher.counter(ItemsCount::new(CONNECTIONS)).bench_local(|| {
        Driver::Epoll.build().unwrap().block_on(async {
            let settings = Settings { deflate: Some(Deflate::default()), ..Settings::default() };
            let handler = WebSocket::new(async |_| Ok(())).with(settings);
            let worker = Worker::new(Config::default(), Registry::new().at("/echo", handler));
            let mut buffer = Vec::with_capacity(1024);
            for _ in 0..CONNECTIONS {
                let (near, far) = duplex::pair();
                monoio::spawn(Rc::clone(&worker).serve(Stream::from(far), None));
                near.write_all(REQUEST.as_bytes()).await.unwrap();
                buffer.clear();
                while buffer.len() < expected.len() {
                    let (result, back) = near.read(buffer).await;
                    assert!(result.unwrap() > 0);
                    buffer = back;
                }
                // The close frame of the handler that has returned may come with it.
                assert!(buffer.starts_with(expected.as_bytes()));
            }
        });
    });
}

/// The client's side: the request's bytes.
#[divan::bench(sample_size = 100)]
fn client_request(bencher: Bencher<'_, '_>) {
    let url: Url = "ws://127.0.0.1:8080/echo".parse().unwrap();
    bencher.bench_local(|| {
        let mut opening = Opening::new(black_box(*b"the sample nonce"));
        opening.deflate(Deflate::default());
        let request = opening.request(&url);
        assert!(request.starts_with(b"GET /echo HTTP/1.1\r\n") && request.ends_with(b"\r\n\r\n"));
    });
}

/// The client's side: what the answer means.
#[divan::bench(sample_size = 100)]
fn client_answer(bencher: Bencher<'_, '_>) {
    let mut opening = Opening::new(*b"the sample nonce");
    opening.deflate(Deflate::default());
    let response = response();
    bencher.bench_local(|| {
        let (answer, size) = opening.read(black_box(response.as_bytes())).unwrap().unwrap();
        let Answer::Switched(switched) = answer else { panic!("{answer:?}") };
        assert_eq!((size, switched.deflate.is_some()), (response.len(), cfg!(feature = "deflate")));
    });
}
