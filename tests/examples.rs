//! The examples do what they say they do: each runs as a server, and is talked to.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use switchpoint::{Config, Registry, Server};

macro_rules! examples {
    ($($name:ident: $path:literal),*) => {
        $(#[path = $path]
        #[expect(dead_code, reason = "an example is a program, and its `main` is not run here")]
        mod $name;)*
    };
}
examples!(chat: "../examples/chat.rs", echo: "../examples/echo.rs", json_api: "../examples/json_api.rs",
    ticker: "../examples/ticker.rs");

struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr, path: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        Self(stream)
    }

    /// Sends a text of less than 126 bytes, under a key that changes nothing.
    fn send(&mut self, text: &str) {
        let frame = [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], text.as_bytes()].concat();
        self.0.write_all(&frame).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        assert!(head[0] == 0x81 && head[1] < 126, "{head:?}");
        let mut text = vec![0; head[1].into()];
        self.0.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }
}

fn serve(registry: impl Fn(usize) -> Registry + Send + Sync + 'static, test: impl FnOnce(SocketAddr)) {
    let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], threads: 2, ..Config::default() };
    let server = Server::start(config, registry).unwrap();
    test(server.addresses()[0]);
    server.stop();
    server.join();
}

#[test]
fn echo_sends_back_what_it_hears() {
    serve(echo::registry, |address| {
        let mut client = Client::connect(address, "/");
        client.send("hello");
        assert_eq!(client.hear(), "hello");
    });
}

#[test]
fn json_api_answers_each_question() {
    serve(json_api::registry, |address| {
        let mut client = Client::connect(address, "/api");
        for (question, answer) in [
            (r#"{"id": 1, "do": "add", "numbers": [1, 2, 3.5]}"#, r#"{"id":1,"sum":6.5}"#),
            (r#"{"id": 2, "do": "reverse", "text": "abc"}"#, r#"{"id":2,"text":"cba"}"#),
            (r#"{"do": "reverse", "id": 3, "text": "a\"b"}"#, r#"{"id":3,"text":"b\"a"}"#),
        ] {
            client.send(question);
            assert_eq!(client.hear(), answer);
        }
        for wrong in [r#"{"id": 3, "do": "dance"}"#, "{"] {
            client.send(wrong);
            let answer = client.hear();
            assert!(answer.starts_with(r#"{"error":"#), "{answer}");
        }
    });
}

#[test]
fn ticker_counts() {
    serve(ticker::registry, |address| {
        let mut client = Client::connect(address, "/ticks");
        for tick in 0..3 {
            assert_eq!(client.hear(), format!("tick {tick}: 0 bytes were waiting, 0 messages missed"));
        }
    });
}

#[test]
fn chat_joins_the_members_of_all_cores_and_forgets_who_has_left() {
    let post = Arc::default();
    serve(
        move |core| chat::registry(&post, core),
        |address| {
            let mut members: Vec<_> = (0..8).map(|_| Client::connect(address, "/chat")).collect();
            drop(members.pop());
            // A handler runs soon after its 101: one's own word is heard once it does.
            for member in &mut members {
                member.send("here");
                while !member.hear().ends_with(": here") {}
            }
            members[0].send("hello, all");
            for member in &mut members {
                while !member.hear().ends_with(": hello, all") {}
            }
        },
    );
}
