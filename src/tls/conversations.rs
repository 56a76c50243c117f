//! Conversations through TLS, in memory and over TCP: a worker on one side, our own client on the other.

use std::{io, rc::Rc, time::Duration};

use monoio::time::{sleep, timeout};

use super::{Acceptor, ClientSettings, Connector, Fault, Identity, LoadError, Pem, Settings, Trust};
use crate::{
    Accept, Config, Decision, Driver, Error, Listener, Registry, Request, Server, Stream, Token, Upgrade,
    Upgraded, Worker,
    duplex::{self, Duplex, Faults},
    protocols::{
        self, H2c,
        websocket::{Client, Message, Settings as WebSocketSettings, Socket},
    },
    ws::{Code, Deflate},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn block_on<F: Future>(future: F) -> F::Output {
    Driver::Epoll.build().unwrap().block_on(async { timeout(PATIENCE, future).await.expect("in time") })
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn identity(for_names: &[&str]) -> Identity {
    Identity::self_signed(&names(for_names)).unwrap()
}

/// Tells who the client is, and ends when the client does.
struct Who;

impl Upgrade for Who {
    type Session = String;

    fn token(&self) -> Token {
        Token::new("who")
    }

    fn negotiate(&self, request: &Request<'_>) -> Decision<String> {
        let who = request.peer_certificate().map_or("nobody", |peer| &peer.names[0]);
        Decision::Accept(Accept::new(format!("{} {who}\n", request.scheme())))
    }

    async fn run(&self, who: String, mut connection: Upgraded) -> Result<(), Error> {
        connection.write_all(who.as_bytes()).await?;
        while connection.fill().await? {
            connection.consume(connection.unread().len());
        }
        connection.write_all(b"bye\n").await
    }
}

fn worker(config: Config) -> Rc<Worker> {
    let settings = WebSocketSettings { deflate: Some(Deflate::default()), ..WebSocketSettings::default() };
    let worker = Worker::new(config, protocols::demonstration(settings).with(Who).with(H2c::new()));
    crate::spawn(worker.keep_time());
    worker
}

/// A server with one certificate, and who trusts it.
struct Scene {
    worker: Rc<Worker>,
    acceptor: Acceptor,
    connector: Connector,
}

impl Scene {
    fn new() -> Self {
        Self::with(Config::default(), |_| ())
    }

    fn with(config: Config, change: impl FnOnce(&mut Settings)) -> Self {
        let identity = identity(&["localhost"]);
        let trust = Trust::Authorities(identity.chain.clone());
        let mut settings = Settings::from(identity);
        change(&mut settings);
        let acceptor = Acceptor::new(settings).unwrap();
        let connector = Connector::new(&ClientSettings { trust, ..ClientSettings::default() }).unwrap();
        Self { worker: worker(config), acceptor, connector }
    }

    fn serve(&self, transport: impl Into<Stream>) {
        crate::spawn(self.worker.serve(self.acceptor.accept(transport.into()), None));
    }

    /// A connection that is served.
    async fn connect(&self) -> Peer {
        let (near, far) = duplex::pair();
        self.serve(far);
        self.connect_over(near).await.unwrap()
    }

    async fn connect_over(&self, near: impl Into<Stream>) -> Result<Peer, Fault> {
        self.connector.connect(near.into(), "localhost", PATIENCE).await.map(Peer)
    }

    fn failures(&self) -> Vec<(String, u64)> {
        self.worker.stats().tls_failures.into_iter().collect()
    }
}

/// The client's end.
struct Peer(Stream);

impl Peer {
    async fn send(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() || !self.0.is_flushed() {
            match self.0.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.0.writable().await.unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn read(&self) -> io::Result<Vec<u8>> {
        let (result, bytes) = self.0.read(Vec::with_capacity(4096)).await;
        result.map(|_| bytes)
    }

    async fn expect(&self, expected: &[u8]) {
        let mut got = Vec::new();
        while got.len() < expected.len() {
            let more = self.read().await.unwrap();
            assert!(!more.is_empty(), "it ends after {}", got.escape_ascii());
            got.extend(more);
        }
        assert!(got == expected, "{} and not {}", got.escape_ascii(), expected.escape_ascii());
    }

    async fn rest(&self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        loop {
            match self.read().await? {
                more if more.is_empty() => return Ok(rest),
                more => rest.extend(more),
            }
        }
    }

    /// Asks for a switch, and reads the head of the answer.
    async fn ask(&self, token: &str) -> String {
        self.send(&request(token)).await;
        self.head().await
    }

    async fn head(&self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let (result, byte) = self.0.read(Vec::with_capacity(1)).await;
            assert_eq!(result.unwrap(), 1, "{}", head.escape_ascii());
            head.extend(byte);
        }
        String::from_utf8(head).unwrap()
    }
}

fn request(token: &str) -> Vec<u8> {
    let head =
        format!("GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: {token}\r\n\r\n");
    head.into_bytes()
}

#[test]
fn a_protocol_is_spoken_through_whatever_the_network_does() {
    let rough = Faults { partial_read: 0.7, partial_write: 0.7, delay: 0.02, reset: 0.0 };
    for (faults, seed) in [(Faults::none(), 0), (rough, 1), (rough, 2), (rough, 3)] {
        block_on(async {
            let scene = Scene::new();
            let (near, far) = duplex::pair_with_faults(faults, seed);
            scene.serve(far);
            let peer = scene.connect_over(near).await.unwrap();
            assert!(peer.ask("echo").await.starts_with("HTTP/1.1 101 "), "seed {seed}");
            let sent: Vec<u8> = (0..300_000_u32).map(|i| (i / 7) as u8).collect();
            for part in sent.chunks(50_000) {
                peer.send(part).await;
                peer.expect(part).await;
            }
            peer.0.shutdown_write();
            assert_eq!(peer.rest().await.unwrap(), b"", "seed {seed}");
        });
    }
}

/// Carries bytes from one end to the other, one at a time.
async fn carry(from: Rc<Duplex>, to: Rc<Duplex>) {
    loop {
        let (result, byte) = from.read(Vec::with_capacity(1)).await;
        match result {
            Ok(count) if count > 0 => to.write_all(&byte).await.unwrap_or_default(),
            _ => return to.shutdown_write(),
        }
    }
}

#[test]
fn ciphertext_may_come_byte_by_byte() {
    block_on(async {
        let scene = Scene::new();
        let (near, middle) = duplex::pair();
        let (other_middle, far) = duplex::pair();
        let (middle, other_middle) = (Rc::new(middle), Rc::new(other_middle));
        crate::spawn(carry(Rc::clone(&middle), Rc::clone(&other_middle)));
        crate::spawn(carry(other_middle, middle));
        scene.serve(far);
        let peer = scene.connect_over(near).await.unwrap();
        assert!(peer.ask("echo").await.starts_with("HTTP/1.1 101 "));
        let sent = vec![7; 40_000];
        peer.send(&sent).await;
        peer.expect(&sent).await;
        peer.0.shutdown_write();
        assert_eq!(peer.rest().await.unwrap(), b"");
    });
}

#[test]
fn what_was_decrypted_is_not_waited_for() {
    block_on(async {
        let scene = Scene::new();
        let peer = scene.connect().await;
        // One record with the request, and the bytes behind it; then nothing more comes.
        peer.send(&[request("who"), b"x".to_vec()].concat()).await;
        assert!(peer.head().await.starts_with("HTTP/1.1 400 "), "early bytes");
        let body = String::from_utf8(peer.rest().await.unwrap()).unwrap();
        assert!(body.contains("early-bytes"), "{body}");

        let peer = scene.connect().await;
        assert!(peer.ask("echo").await.starts_with("HTTP/1.1 101 "));
        // One record of 16 KiB, read by pieces of a few bytes.
        let sent = vec![9; 16 << 10];
        peer.send(&sent).await;
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let (result, bytes) = peer.0.read(Vec::with_capacity(11)).await;
            assert!(result.unwrap() > 0);
            got.extend(bytes);
        }
        assert_eq!(got, sent);
    });
}

#[test]
fn a_websocket_carries_large_messages_both_ways_compressed_or_not() {
    for deflate in [None, Some(Deflate::default())] {
        block_on(async {
            let scene = Scene::new();
            let (near, far) = duplex::pair();
            scene.serve(far);
            let stream = scene.connect_over(near).await.unwrap().0;
            let is_compressed = deflate.is_some();
            let mut settings = WebSocketSettings { deflate, ..WebSocketSettings::default() };
            settings.limits.message_max = 1 << 20;
            let client = Client::new().with(settings);
            let talk = async |mut socket: Socket| {
                let large: Vec<u8> = (0..1_000_000_u32).map(|i| (i / 3) as u8).collect();
                for size in [0, 1, 125, 126, 65_536, 1_000_000] {
                    socket.send(&large[..size]).await?;
                    match socket.recv().await? {
                        Some(Message::Binary(echoed)) => assert!(echoed == &large[..size], "{size}"),
                        other => panic!("{other:?}"),
                    }
                }
                Ok(())
            };
            client.connect_over(&scene.worker, stream, "wss://localhost/echo", talk).await.unwrap();
            let stats = scene.worker.stats();
            assert_eq!(stats.upgrades["websocket"], 2, "one at each end");
            if is_compressed {
                assert!(stats.sent < 2_000_000, "{}", stats.sent);
            }
        });
    }
}

#[test]
fn a_side_may_be_closed_before_the_other() {
    block_on(async {
        let scene = Scene::new();
        let peer = scene.connect().await;
        assert!(peer.ask("who").await.starts_with("HTTP/1.1 101 "));
        peer.expect(b"https nobody\n").await;
        peer.0.shutdown_write();
        assert_eq!(peer.rest().await.unwrap(), b"bye\n");
        sleep(Duration::from_millis(20)).await;
        assert_eq!(scene.worker.stats().closed_clean, 1);
    });
}

#[test]
fn an_end_without_close_notify_is_a_loss_and_no_end() {
    block_on(async {
        let scene = Scene::new();
        let peer = scene.connect().await;
        assert!(peer.ask("who").await.starts_with("HTTP/1.1 101 "));
        let Stream::Tls(tls) = &peer.0 else { unreachable!() };
        tls.transport().shutdown_write();
        peer.expect(b"https nobody\n").await;
        drop(peer.rest().await);
        sleep(Duration::from_millis(20)).await;
        let stats = scene.worker.stats();
        assert_eq!((stats.closed_clean, stats.lost, stats.ends["io"]), (0, 1, 1));
    });
}

#[test]
fn a_handshake_has_the_time_of_a_head() {
    block_on(async {
        let scene =
            Scene::with(Config { head_time: Duration::from_millis(150), ..Config::default() }, |_| ());
        let (near, far) = duplex::pair();
        scene.serve(far);
        // The beginning of a record, and no more of it.
        near.write_all(&[22, 3, 1, 0, 200, 1]).await.unwrap();
        let (result, bytes) = near.read(Vec::with_capacity(100)).await;
        assert_eq!((result.unwrap(), &bytes[..]), (0, &b""[..]), "it is closed, without a word");
        assert_eq!(scene.failures(), [("timed-out".into(), 1)]);
    });
}

#[test]
fn plain_http_is_told_where_it_is() {
    block_on(async {
        let scene = Scene::new();
        let (near, far) = duplex::pair();
        scene.serve(far);
        near.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        loop {
            let (result, bytes) = near.read(Vec::with_capacity(4096)).await;
            if result.unwrap() == 0 {
                break;
            }
            answer.extend(bytes);
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(answer.contains("Connection: close\r\n") && answer.contains("tls-required"), "{answer}");
        assert!(answer.contains("This port speaks TLS"), "{answer}");
        assert_eq!(scene.failures(), [("plain-http".into(), 1)]);
        assert_eq!(scene.worker.stats().rejections["tls-required"], 1);
    });
}

#[test]
fn what_is_no_tls_is_counted_and_costs_little() {
    block_on(async {
        let scene = Scene::new();
        // Not a record; data before there are keys; a handshake message of 16 MB that begins and does not end.
        let endless = [&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 0x4000 - 4]].concat();
        let more = [&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
        let endless = [&endless[..], &more, &more, &more, &more, &more].concat();
        for bytes in [&b"\0\0\0\0\0\0\0\0"[..], &[23, 3, 3, 0, 1, 0], &endless] {
            let (near, far) = duplex::pair();
            scene.serve(far);
            drop(near.write_all(bytes).await);
            let mut answer = Vec::new();
            while let (Ok(1..), bytes) = near.read(Vec::with_capacity(100)).await {
                answer.extend(bytes);
            }
            near.shutdown_write();
            if bytes.len() < 100 {
                assert_eq!(
                    answer.first(),
                    Some(&21),
                    "an alert for {bytes:?}: {answer:?} {:?}",
                    scene.failures()
                );
            }
        }
        let failures: u64 = scene.failures().iter().map(|(_, count)| count).sum();
        assert_eq!(failures, 3, "{:?}", scene.failures());
    });
}

#[test]
fn who_distrusts_us_is_counted() {
    block_on(async {
        let scene = Scene::new();
        let strict = Connector::new(&ClientSettings::default()).unwrap();
        let (near, far) = duplex::pair();
        scene.serve(far);
        let fault = strict.connect(near.into(), "localhost", PATIENCE).await.unwrap_err();
        assert_eq!(fault.code(), "certificate-untrusted", "{fault}");
        sleep(Duration::from_millis(20)).await;
        assert_eq!(scene.failures(), [("distrusted".into(), 1)]);
        // A name that the certificate does not have.
        let (near, far) = duplex::pair();
        scene.serve(far);
        let fault = scene.connector.connect(near.into(), "elsewhere", PATIENCE).await.unwrap_err();
        assert_eq!(fault.code(), "certificate-invalid", "{fault}");
        let lax = ClientSettings { trust: Trust::Anyone, ..ClientSettings::default() };
        let (near, far) = duplex::pair();
        scene.serve(far);
        Connector::new(&lax).unwrap().connect(near.into(), "elsewhere", PATIENCE).await.unwrap();
    });
}

#[test]
fn alpn_chooses_http_2_and_nothing_else_does() {
    block_on(async {
        let scene = Scene::new();
        for (offered, chosen) in
            [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)]
        {
            let (near, far) = duplex::pair();
            scene.serve(far);
            let connector = scene.connector.with_alpn(offered);
            let peer = Peer(connector.connect(near.into(), "localhost", PATIENCE).await.unwrap());
            assert_eq!(peer.0.tls().unwrap().alpn.as_deref(), chosen);
            if chosen == Some("h2") {
                peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
                let answer = peer.read().await.unwrap();
                assert_eq!(answer[3], 4, "SETTINGS: {answer:?}");
            } else {
                peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
                assert!(peer.head().await.starts_with("HTTP/1.1 "), "it is not taken for HTTP/2");
            }
        }
        let (near, far) = duplex::pair();
        scene.serve(far);
        let fault = scene.connector.with_alpn(&["smtp"]).connect(near.into(), "localhost", PATIENCE).await;
        assert_eq!(fault.unwrap_err().code(), "alert");
        sleep(Duration::from_millis(20)).await;
        assert_eq!(scene.failures(), [("no-application-protocol".into(), 1)]);
    });
}

#[test]
fn an_upgrade_to_http_2_is_never_made_nor_offered() {
    block_on(async {
        let scene = Scene::new();
        let peer = scene.connect().await;
        peer.send(
            b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\n\
              HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        )
        .await;
        let head = peer.head().await;
        assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
        assert!(head.contains("\r\nUpgrade: ") && !head.contains("h2c"), "{head}");
    });
}

#[test]
fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
    block_on(async {
        let identities = [
            identity(&["first.example"]),
            identity(&["*.example.org", "example.org"]),
            identity(&["exact.example.org"]),
        ];
        let scene = Scene::with(Config::default(), |settings| settings.identities = identities.to_vec());
        let anyone = ClientSettings { trust: Trust::Anyone, ..ClientSettings::default() };
        let connector = Connector::new(&anyone).unwrap();
        for (name, expected) in [
            ("first.example", "first.example"),
            ("example.org", "*.example.org"),
            ("some.example.org", "*.example.org"),
            ("Exact.Example.org", "exact.example.org"),
            ("two.labels.example.org", "first.example"),
            ("unknown.example", "first.example"),
            ("127.0.0.1", "first.example"),
        ] {
            let (near, far) = duplex::pair();
            scene.serve(far);
            let stream = connector.connect(near.into(), name, PATIENCE).await.unwrap();
            assert_eq!(stream.peer_certificate().unwrap().names[0], expected, "{name}");
        }
    });
}

#[test]
fn a_client_may_or_has_to_show_a_certificate() {
    let anna = identity(&["anna"]);
    let stranger = identity(&["stranger"]);
    for is_required in [false, true] {
        block_on(async {
            let scene = Scene::with(Config::default(), |settings| {
                settings.client_authorities = Some(anna.chain.clone());
                settings.client_required = is_required;
            });
            for (who, expected) in
                [(Some(&anna), Ok("anna")), (None, Err("no-certificate")), (Some(&stranger), Err(""))]
            {
                let settings = ClientSettings {
                    trust: Trust::Anyone,
                    identity: who.cloned(),
                    ..ClientSettings::default()
                };
                let connector = Connector::new(&settings).unwrap();
                let connect = async || {
                    let (near, far) = duplex::pair();
                    scene.serve(far);
                    Peer(connector.connect(near.into(), "localhost", PATIENCE).await.unwrap())
                };
                let peer = connect().await;
                let before = scene.failures();
                peer.send(&request("who")).await;
                match (expected, is_required) {
                    (Ok(name), _) => {
                        assert!(peer.head().await.starts_with("HTTP/1.1 101 "));
                        peer.expect(format!("https {name}\n").as_bytes()).await;
                        // Also where the session goes on, and no certificate is shown.
                        let again = connect().await;
                        assert!(again.ask("who").await.starts_with("HTTP/1.1 101 "));
                        assert!(again.0.tls().unwrap().is_resumed);
                        again.expect(format!("https {name}\n").as_bytes()).await;
                    }
                    (Err("no-certificate"), false) => {
                        assert!(peer.head().await.starts_with("HTTP/1.1 101 "));
                        peer.expect(b"https nobody\n").await;
                    }
                    _ => {
                        let error = peer.read().await.unwrap_err();
                        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
                        assert_ne!(scene.failures(), before);
                    }
                }
            }
        });
    }
}

#[test]
fn a_session_goes_on_at_any_worker_and_after_a_reload() {
    block_on(async {
        let scene = Scene::new();
        let again = async |scene: &Scene| {
            let peer = scene.connect().await;
            assert!(peer.ask("echo").await.starts_with("HTTP/1.1 101 "), "by then the ticket is there");
            peer.0.tls().unwrap().is_resumed
        };
        assert!(!again(&scene).await);
        assert!(again(&scene).await);
        let elsewhere = Scene {
            worker: worker(Config::default()),
            acceptor: scene.acceptor.clone(),
            connector: scene.connector.clone(),
        };
        assert!(again(&elsewhere).await);
        scene.acceptor.reload().unwrap();
        assert!(again(&scene).await);
        let stats = scene.worker.stats();
        assert_eq!((stats.tls_handshakes, stats.tls_resumed), (3, 2));
        let other = Acceptor::new(scene.acceptor.settings().clone()).unwrap();
        assert!(!again(&Scene { acceptor: other, ..elsewhere }).await, "its tickets are not these");
    });
}

#[test]
fn new_files_are_taken_if_they_are_good() {
    use std::fs;
    let dir = std::env::temp_dir().join(format!("switchpoint-tls-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let (chain, key) = (dir.join("chain.pem"), dir.join("key.pem"));
    let write = |identity: &Identity| {
        for (pem, path) in [(&identity.chain, &chain), (&identity.key, &key)] {
            fs::write(path, pem.read().unwrap()).unwrap();
        }
    };
    write(&identity(&["old.example"]));
    block_on(async {
        let scene = Scene::with(Config::default(), |settings| {
            settings.identities = vec![Identity::files(&chain, &key)];
        });
        // Who goes on from an earlier session is shown no certificate at all.
        let lax = ClientSettings { trust: Trust::Anyone, resumption: false, ..ClientSettings::default() };
        let scene = Scene { connector: Connector::new(&lax).unwrap(), ..scene };
        let shown = async || scene.connect().await.0.peer_certificate().unwrap().names.clone();
        let old = scene.connect().await;
        assert!(old.ask("echo").await.starts_with("HTTP/1.1 101 "));
        assert!(!scene.acceptor.has_changed());

        // A certificate whose key has not come yet.
        let new = identity(&["new.example", "*.new.example"]);
        fs::write(&chain, new.chain.read().unwrap()).unwrap();
        assert!(scene.acceptor.has_changed());
        let error = scene.acceptor.reload().unwrap_err();
        assert!(matches!(error, LoadError::InvalidKey { .. }), "{error}");
        scene.acceptor.disregard();
        assert!(!scene.acceptor.has_changed());
        assert_eq!(shown().await, ["old.example"]);
        for (text, part) in [
            ("", "no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "chain.pem"),
        ] {
            fs::write(&chain, text).unwrap();
            let error = scene.acceptor.reload().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }

        write(&new);
        assert!(scene.acceptor.has_changed());
        scene.acceptor.reload().unwrap();
        assert_eq!(shown().await, ["new.example", "*.new.example"]);
        assert_eq!(scene.acceptor.certificates()[0].names, ["new.example", "*.new.example"]);
        // Who was there before is still there.
        old.send(b"hello").await;
        old.expect(b"hello").await;
    });
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn what_names_no_identity_is_an_error_that_says_so() {
    assert!(matches!(Acceptor::new(Settings::default()).unwrap_err(), LoadError::NoIdentity));
    let missing =
        Acceptor::new(Identity::files("/nowhere/chain.pem", "/nowhere/key.pem").into()).unwrap_err();
    assert!(missing.to_string().contains("cannot read /nowhere/chain.pem"), "{missing}");
    let (one, other) = (identity(&["a"]), identity(&["b"]));
    let mixed = Acceptor::new(Identity { chain: one.chain.clone(), key: other.key }.into()).unwrap_err();
    assert!(mixed.to_string().contains("not the certificate's"), "{mixed}");
    let no_key = Identity { key: one.chain.clone(), ..one };
    let no_key = Acceptor::new(no_key.into()).unwrap_err();
    assert!(matches!(no_key, LoadError::NoKey { .. }), "{no_key}");
    assert!(!format!("{:?}", Pem::Text("secret".into())).contains("secret"));
}

#[test]
fn keys_may_be_updated_but_not_without_an_end() {
    use rustls::{ClientConnection, pki_types::ServerName};
    for (updates, is_well) in [(20, true), (40, false)] {
        block_on(async {
            let scene = Scene::new();
            let (near, far) = duplex::pair();
            scene.serve(far);
            let name = ServerName::try_from("localhost").unwrap();
            let mut client = ClientConnection::new(scene.connector.config(), name).unwrap();
            let exchange = async |client: &mut ClientConnection| -> io::Result<()> {
                while client.wants_write() {
                    let mut bytes = Vec::new();
                    client.write_tls(&mut bytes)?;
                    near.write_all(&bytes).await?;
                }
                let (result, bytes) = near.read(Vec::with_capacity(1 << 16)).await;
                result?;
                let mut bytes = &bytes[..];
                if bytes.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                while !bytes.is_empty() {
                    client.read_tls(&mut bytes)?;
                    client.process_new_packets().map_err(io::Error::other)?;
                }
                Ok(())
            };
            while client.is_handshaking() {
                exchange(&mut client).await.unwrap();
            }
            io::Write::write_all(&mut client.writer(), &request("echo")).unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n\r\n") {
                exchange(&mut client).await.unwrap();
                drop(io::Read::read_to_end(&mut client.reader(), &mut got));
            }
            for _ in 0..updates {
                client.refresh_traffic_keys().unwrap();
            }
            io::Write::write_all(&mut client.writer(), b"hello").unwrap();
            got.clear();
            let ended = loop {
                if let Err(error) = exchange(&mut client).await {
                    break Some(error);
                }
                drop(io::Read::read_to_end(&mut client.reader(), &mut got));
                if got == b"hello" {
                    break None;
                }
            };
            assert_eq!(ended.is_none(), is_well, "{updates}: {ended:?}");
        });
    }
}

#[test]
fn a_quiet_connection_is_woken_by_ciphertext() {
    for driver in [Driver::Auto, Driver::Epoll] {
        let talk = async {
            let scene = Scene::new();
            let listener = monoio::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let connecting = monoio::net::TcpStream::connect_addr(listener.local_addr().unwrap());
            let (near, far) = (connecting.await.unwrap(), listener.accept().await.unwrap().0);
            scene.serve(Stream::try_from(far).unwrap());
            let stream = scene.connect_over(Stream::try_from(near).unwrap()).await.unwrap().0;
            let talk = async |mut socket: Socket| {
                for size in [5, 100_000, 3, 700_000, 1] {
                    // Nothing is under way.
                    sleep(Duration::from_millis(100)).await;
                    for _ in 0..3 {
                        socket.send(&vec![1; size][..]).await?;
                        let echoed = socket.recv().await?.map(|message| message.len());
                        assert_eq!(echoed, Some(size));
                    }
                }
                Ok(())
            };
            Client::new().connect_over(&scene.worker, stream, "wss://localhost/echo", talk).await.unwrap();
        };
        driver.build().unwrap().block_on(async { timeout(PATIENCE, talk).await.expect("in time") });
    }
}

/// A worker that speaks what `run` speaks, as `own`.
fn scene_of(config: Config, run: impl AsyncFn(Upgraded) -> Result<(), Error> + 'static) -> Scene {
    let scene = Scene::new();
    let worker = Worker::new(config, Registry::new().on("own", run));
    crate::spawn(worker.keep_time());
    Scene { worker, ..scene }
}

#[test]
fn what_a_handler_has_written_is_on_its_way_though_it_does_nothing_more() {
    block_on(async {
        let scene = scene_of(Config::default(), async |connection: Upgraded| {
            // More than the transport takes at once; then neither a read nor a write.
            connection.write_all(&vec![5; 150_000]).await?;
            sleep(Duration::from_secs(60)).await;
            Ok(())
        });
        let peer = scene.connect().await;
        assert!(peer.ask("own").await.starts_with("HTTP/1.1 101 "));
        sleep(Duration::from_millis(50)).await;
        peer.expect(&vec![5; 150_000]).await;
    });
}

#[test]
fn a_peer_that_takes_nothing_has_the_write_time() {
    let config = Config { write_time: Duration::from_millis(200), ..Config::default() };
    block_on(async {
        let scene =
            scene_of(config, async |connection: Upgraded| connection.write_all(&vec![5; 1 << 20]).await);
        let peer = scene.connect().await;
        assert!(peer.ask("own").await.starts_with("HTTP/1.1 101 "));
        sleep(Duration::from_millis(600)).await;
        assert_eq!(scene.worker.stats().ends["timed-out"], 1);
    });
}

#[test]
fn both_directions_are_used_at_once_by_tasks_of_their_own() {
    const SIZE: usize = 3 << 20;
    for driver in [Driver::Auto, Driver::Epoll] {
        let talk = async {
            let scene = scene_of(Config::default(), async |connection: Upgraded| {
                let (mut reader, writer) = connection.split();
                let (done, is_done) = (Rc::new(std::cell::Cell::new(false)), duplex::pair());
                let (tell, told) = is_done;
                crate::spawn({
                    let done = Rc::clone(&done);
                    async move {
                        done.set(writer.write_all(&vec![3; SIZE]).await.is_ok());
                        tell.shutdown_write();
                    }
                });
                let mut count = 0;
                while count < SIZE && reader.fill().await? {
                    count += reader.unread().len();
                    reader.consume(reader.unread().len());
                }
                told.read(Vec::with_capacity(1)).await.0?;
                assert!(done.get() && count == SIZE);
                Ok(())
            });
            let listener = monoio::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let connecting = monoio::net::TcpStream::connect_addr(listener.local_addr().unwrap());
            let (near, far) = (connecting.await.unwrap(), listener.accept().await.unwrap().0);
            scene.serve(Stream::try_from(far).unwrap());
            let peer = Rc::new(scene.connect_over(Stream::try_from(near).unwrap()).await.unwrap());
            assert!(peer.ask("own").await.starts_with("HTTP/1.1 101 "));
            crate::spawn({
                let peer = Rc::clone(&peer);
                async move { peer.send(&vec![4; SIZE]).await }
            });
            let got = peer.rest().await.unwrap();
            assert!(got.len() == SIZE && got.iter().all(|byte| *byte == 3), "{}", got.len());
            sleep(Duration::from_millis(20)).await;
            assert_eq!(scene.worker.stats().closed_clean, 1, "{:?}", scene.worker.stats());
        };
        driver.build().unwrap().block_on(async { timeout(PATIENCE, talk).await.expect("in time") });
    }
}

#[test]
fn a_drain_says_goodbye_through_tls() {
    block_on(async {
        let scene = Scene::new();
        let (near, far) = duplex::pair();
        scene.serve(far);
        let stream = scene.connect_over(near).await.unwrap().0;
        // The client has a core of its own, which does not drain.
        let client_core = Worker::new(Config::default(), Registry::new());
        crate::spawn(client_core.keep_time());
        let mut code = None;
        let listen = async |socket: Socket| {
            scene.worker.say_goodbye();
            let (mut receiver, _sender) = socket.split();
            assert!(receiver.recv().await?.is_none());
            code = receiver.close_code();
            Ok(())
        };
        Client::new().connect_over(&client_core, stream, "wss://localhost/echo", listen).await.unwrap();
        assert_eq!(code, Some(Code::GOING_AWAY));
        sleep(Duration::from_millis(100)).await;
        let stats = scene.worker.stats();
        assert_eq!((stats.closed_clean, stats.lost, stats.connections), (1, 0, 0));
    });
}

#[test]
fn a_server_takes_new_files_by_itself_and_drops_nobody() {
    use std::{fs, net::TcpStream, time::Instant};
    let dir = std::env::temp_dir().join(format!("switchpoint-tls-server-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let (chain, key) = (dir.join("chain.pem"), dir.join("key.pem"));
    let write = |identity: &Identity| {
        fs::write(&chain, identity.chain.read().unwrap()).unwrap();
        fs::write(&key, identity.key.read().unwrap()).unwrap();
    };
    write(&identity(&["old.example"]));
    let acceptor = Acceptor::new(Identity::files(&chain, &key).into()).unwrap();
    let listener = Listener { tls: Some(acceptor), .."127.0.0.1:0".parse().unwrap() };
    let config = Config { listen: vec![listener], threads: 2, ..Config::default() };
    let server = Server::start(config, |_| protocols::demonstration(WebSocketSettings::default())).unwrap();
    assert!(server.places().next().unwrap().starts_with("https://127.0.0.1:"));
    let address = server.addresses()[0];
    let lax = ClientSettings { trust: Trust::Anyone, resumption: false, ..ClientSettings::default() };
    let connector = Connector::new(&lax).unwrap();
    let until = async |what: &str| {
        let start = Instant::now();
        while server.handle().certificates()[0].names != [what] {
            assert!(start.elapsed() < PATIENCE, "{what}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    block_on(async {
        let connect = async || {
            let socket = TcpStream::connect(address).unwrap();
            socket.set_nonblocking(true).unwrap();
            Peer(connector.connect(socket.try_into().unwrap(), "localhost", PATIENCE).await.unwrap())
        };
        let old = connect().await;
        assert_eq!(old.0.peer_certificate().unwrap().names, ["old.example"]);
        assert!(old.ask("echo").await.starts_with("HTTP/1.1 101 "));
        write(&identity(&["new.example"]));
        until("new.example").await;
        assert_eq!(connect().await.0.peer_certificate().unwrap().names, ["new.example"]);
        // What cannot be used changes nothing, also when it is asked for.
        fs::write(&key, "no key").unwrap();
        assert!(matches!(server.handle().reload_certificates(), Err(LoadError::NoKey { .. })));
        assert_eq!(connect().await.0.peer_certificate().unwrap().names, ["new.example"]);
        write(&identity(&["newer.example"]));
        server.handle().reload_certificates().unwrap();
        assert_eq!(connect().await.0.peer_certificate().unwrap().names, ["newer.example"]);
        old.send(b"hello").await;
        old.expect(b"hello").await;
        // The drain says goodbye to it: its end of TLS, and no less.
        server.drain();
        assert_eq!(old.rest().await.unwrap(), b"");
        old.0.shutdown_write();
    });
    let stats = server.join();
    assert_eq!((stats.closed_clean, stats.lost, stats.cut), (1, 0, 0));
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_url_of_wss_is_all_that_a_client_needs() {
    let identity = identity(&["localhost"]);
    let trust = Trust::Authorities(identity.chain.clone());
    let acceptor = Acceptor::new(identity.into()).unwrap();
    let listener = Listener { tls: Some(acceptor), .."127.0.0.1:0".parse().unwrap() };
    let config = Config { listen: vec![listener], threads: 1, ..Config::default() };
    let server = Server::start(config, |_| protocols::demonstration(WebSocketSettings::default())).unwrap();
    let url = format!("wss://localhost:{}/echo", server.addresses()[0].port());
    block_on(async {
        let worker = Worker::new(Config::default(), Registry::new());
        crate::spawn(worker.keep_time());
        let talk = async |mut socket: Socket| {
            socket.send("hello").await?;
            assert_eq!(socket.recv().await?.unwrap().text(), Some("hello"));
            Ok(())
        };
        let connector = Connector::new(&ClientSettings { trust, ..ClientSettings::default() }).unwrap();
        Client::new().tls(connector).connect(&worker, &url, talk).await.unwrap();
        // Nobody on the web has issued that certificate.
        let error = Client::new().connect(&worker, &url, talk).await.unwrap_err();
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    });
    server.drain();
    let stats = server.join();
    assert_eq!((stats.closed_clean, stats.tls_handshakes), (1, 1));
    assert_eq!(stats.tls_failures["distrusted"], 1);
}
