//! The client's role: against servers of our own, and against some that lie.

use std::{
    cell::RefCell,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener},
    rc::Rc,
    thread,
    time::Duration,
};

use monoio::time::timeout;
use switchpoint::{
    Config, Driver, Error, Registry, Rejection, Server, Stream, Worker, duplex,
    protocols::{
        self, WebSocket,
        websocket::{Client, Message, Settings, Socket},
    },
    ws::{Code, opening::OpeningFault},
};

/// Runs `test` with a worker whose clock goes.
fn on_a_core<T>(test: impl AsyncFnOnce(&Rc<Worker>) -> T) -> T {
    let driver = std::env::var("SWITCHPOINT_DRIVER").map_or(Driver::Auto, |name| name.parse().unwrap());
    driver.build().unwrap().block_on(async {
        let config = Config { close_time: Duration::from_millis(500), ..Config::default() };
        let worker = Worker::new(config, Registry::new());
        monoio::spawn(worker.keep_time());
        timeout(Duration::from_secs(20), test(&worker)).await.expect("the test does not end")
    })
}

fn settings() -> Settings {
    Settings { deflate: cfg!(feature = "deflate").then(Default::default), ..Settings::default() }
}

fn start(registry: impl Fn() -> Registry + Send + Sync + 'static) -> (Server, String) {
    let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], threads: 1, ..Config::default() };
    let server = Server::start(config, move |_| registry()).unwrap();
    let url = format!("ws://{}", server.addresses()[0]);
    (server, url)
}

fn end(server: Server) {
    server.handle().stop();
    server.join();
}

/// A server that answers any request with `answer` and what is `behind` it, and then hangs up. In it `ACCEPT` stands for the right proof.
fn liar(answer: &'static str, behind: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let accept = switchpoint::ws::accept_key(key.as_bytes());
        let answer = answer.replace("ACCEPT", str::from_utf8(&accept).unwrap());
        stream.write_all(&[answer.as_bytes(), behind].concat()).unwrap();
        // What the client says yet is read, or its end would be a reset.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        drop(std::io::copy(&mut stream, &mut std::io::sink()));
    });
    format!("ws://{address}/")
}

const CODE: Code = Code::new(4001).unwrap();

async fn nothing(_: Socket) -> Result<(), Error> {
    Ok(())
}

async fn echo_all_kinds(mut socket: Socket) -> Result<(), Error> {
    let long = "lorem ipsum ".repeat(20_000);
    for size in [0, 1, 125, 126, 1000, 65_535, 65_536, 200_000] {
        let text = &long[..size];
        socket.send(text).await?;
        assert_eq!(socket.recv().await?, Some(Message::Text(text)), "{size}");
        let bytes: Vec<u8> = (0..size).map(|place| (place * 31 % 251) as u8).collect();
        socket.send(&bytes).await?;
        assert_eq!(socket.recv().await?, Some(Message::Binary(&bytes)), "{size}");
    }
    Ok(())
}

#[test]
fn what_is_sent_comes_back_with_compression_and_without() {
    let (server, url) = start(|| protocols::demonstration(settings()));
    on_a_core(async |worker| {
        for client in [Client::new(), Client::new().with(settings())] {
            client.connect(worker, &format!("{url}/echo"), echo_all_kinds).await.unwrap();
        }
        let stats = worker.stats();
        assert_eq!((stats.connections, stats.sessions, stats.closed_clean), (0, 0, 2));
        assert_eq!(stats.upgrades["websocket"], 2);
        assert!(stats.sent > 500_000 && stats.received > 500_000, "{stats:?}");
    });
    end(server);
}

#[test]
fn the_same_holds_in_memory() {
    on_a_core(async |worker| {
        let (near, far) = duplex::pair();
        let serving = Worker::new(Config::default(), protocols::demonstration(settings()));
        monoio::spawn(serving.keep_time());
        monoio::spawn(serving.serve(Stream::from(far), None));
        let client = Client::new().with(settings());
        client.connect_over(worker, Stream::from(near), "ws://a/echo", echo_all_kinds).await.unwrap();
    });
}

#[test]
fn each_side_learns_the_code_that_the_other_has_closed_with() {
    let (server, url) = start(|| {
        Registry::new()
            .at(
                "/leaves",
                WebSocket::new(async |socket: Socket| {
                    socket.close(CODE, "bye");
                    Ok(())
                }),
            )
            .at(
                "/tells",
                WebSocket::new(async |socket: Socket| {
                    let (mut receiver, sender) = socket.split();
                    assert_eq!(receiver.recv().await?, None);
                    assert_eq!(receiver.close_code(), Some(CODE));
                    drop(sender);
                    Ok(())
                }),
            )
    });
    on_a_core(async |worker| {
        let code = RefCell::new(None);
        let leaves = async |socket: Socket| {
            let (mut receiver, _sender) = socket.split();
            assert_eq!(receiver.recv().await?, None);
            *code.borrow_mut() = receiver.close_code();
            Ok(())
        };
        Client::new().connect(worker, &format!("{url}/leaves"), leaves).await.unwrap();
        assert_eq!(*code.borrow(), Some(CODE));
        let tells = async |socket: Socket| {
            socket.close(CODE, "bye");
            Ok(())
        };
        Client::new().connect(worker, &format!("{url}/tells"), tells).await.unwrap();
    });
    assert_eq!(server.stats().panics, 0);
    end(server);
}

#[test]
fn a_subprotocol_is_settled_and_a_field_arrives() {
    let (server, url) = start(|| {
        let chat = WebSocket::new(async |socket: Socket| {
            let name = socket.subprotocol().unwrap_or("none").to_owned();
            socket.send(&name).await
        })
        .subprotocols(&["v1", "v2"])
        .admit(async |request| match request.authorization() {
            Some(("Bearer", "a secret")) => Ok(()),
            _ => Err(Rejection::unauthorized("Bearer")),
        });
        Registry::new().at("/chat", chat)
    });
    let url = format!("{url}/chat");
    on_a_core(async |worker| {
        let client = Client::new().field("Authorization", "Bearer a secret");
        for (offered, settled) in [(&["v3", "v2", "v1"][..], Some("v2")), (&["v3"], None), (&[], None)] {
            let ask = async |mut socket: Socket| {
                assert_eq!(socket.subprotocol(), settled);
                assert_eq!(socket.recv().await?, Some(Message::Text(settled.unwrap_or("none"))));
                Ok(())
            };
            client.clone().subprotocols(offered.iter().copied()).connect(worker, &url, ask).await.unwrap();
        }
        match Client::new().connect(worker, &url, nothing).await {
            Err(Error::Refused(refusal)) => {
                assert_eq!((refusal.status(), refusal.field("www-authenticate")), (401, Some("Bearer")));
            }
            other => panic!("{other:?}"),
        }
    });
    end(server);
}

#[test]
fn a_refusal_is_shown_in_the_servers_words() {
    let (server, url) = start(|| Registry::new().on("other/1", async |_: switchpoint::Upgraded| Ok(())));
    on_a_core(async |worker| {
        let error = Client::new().connect(worker, &url, nothing).await.unwrap_err();
        assert_eq!(error.kind(), "refused");
        let Error::Refused(refusal) = &error else { unreachable!() };
        assert_eq!((refusal.status(), refusal.code()), (426, Some("no-common-protocol")), "{error}");
        assert_eq!(refusal.field("upgrade"), Some("other/1"));
        assert!(refusal.text().is_some(), "{error}");
        assert_eq!(worker.stats().connections, 0);
    });
    end(server);
}

#[test]
fn a_server_that_lies_is_not_believed() {
    on_a_core(async |worker| {
        for (answer, fault) in [
            (
                "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
                OpeningFault::WrongAccept,
            ),
            (
                "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                 Sec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: x\r\n\r\n",
                OpeningFault::UnaskedSubprotocol,
            ),
            ("SSH-2.0-OpenSSH\r\n", OpeningFault::NoHttp),
        ] {
            match Client::new().connect(worker, &liar(answer, b""), nothing).await {
                Err(Error::Peer(found)) => assert_eq!(found.downcast_ref(), Some(&fault)),
                other => panic!("{other:?}"),
            }
        }
        let cut = Client::new().connect(worker, &liar("HTTP/1.1 101 x\r\nUpgr", b""), nothing).await;
        assert!(matches!(cut, Err(Error::Io(error)) if error.kind() == ErrorKind::UnexpectedEof));
        assert_eq!(worker.stats().sessions, 0);
    });
}

#[test]
fn what_stands_behind_the_answer_is_the_protocols() {
    on_a_core(async |worker| {
        let answer = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n\
            HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
            Sec-WebSocket-Accept: ACCEPT\r\n\r\n";
        let hears = async |mut socket: Socket| {
            assert_eq!(socket.recv().await?, Some(Message::Text("hi")));
            assert_eq!(socket.recv().await?, None);
            Ok(())
        };
        let url = liar(answer, b"\x81\x02hi\x88\x02\x03\xe8");
        Client::new().connect(worker, &url, hears).await.unwrap();
        // What a server sends is not masked (5.1).
        let url = liar(answer, b"\x81\x82\0\0\0\0hi");
        let ended = Client::new().connect(worker, &url, hears).await;
        assert!(matches!(ended, Err(Error::Peer(_))), "{ended:?}");
    });
}

#[test]
fn a_silent_server_is_given_up() {
    on_a_core(async |worker| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let client = Client::new().opening_time(Duration::from_millis(100));
        let ended = client.connect(worker, &url, nothing).await;
        assert!(matches!(ended, Err(Error::TimedOut)), "{ended:?}");
        assert_eq!(worker.stats().connections, 0);
    });
}

#[test]
fn a_drain_says_goodbye_to_the_server_too() {
    let (server, url) = start(|| protocols::demonstration(Settings::default()));
    let url = format!("{url}/echo");
    on_a_core(async |worker| {
        let waits = async |mut socket: Socket| {
            worker.say_goodbye();
            assert_eq!(socket.recv().await?, None);
            Ok(())
        };
        Client::new().connect(worker, &url, waits).await.unwrap();
        let late = Client::new().connect(worker, &url, nothing).await;
        assert!(matches!(late, Err(Error::Closed)), "{late:?}");
    });
    end(server);
}

#[test]
fn what_cannot_be_asked_is_said_before_anything_is_sent() {
    on_a_core(async |worker| {
        let url = "ws://127.0.0.1:1/";
        for (client, url, hint) in [
            #[cfg(not(feature = "tls"))]
            (Client::new(), "wss://a/", "wss:// needs TLS"),
            (Client::new(), "http://a/", "ws://"),
            (Client::new().subprotocols(["a b"]), url, "a subprotocol is a token"),
            (Client::new().field("X", "a\r\nHost: b"), url, "control characters"),
            (Client::new().field("Host", "b"), url, "belongs to the handshake"),
        ] {
            match client.connect(worker, url, nothing).await {
                Err(Error::Io(error)) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidInput);
                    assert!(error.to_string().contains(hint), "{error}");
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_handlers_panic_is_its_callers() {
    let (server, url) = start(|| protocols::demonstration(Settings::default()));
    let panicked = std::panic::catch_unwind(|| {
        on_a_core(async |worker| {
            let panics = async |_: Socket| panic!("as asked for");
            drop(Client::new().connect(worker, &format!("{url}/echo"), panics).await);
        });
    });
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"as asked for"));
    end(server);
}
