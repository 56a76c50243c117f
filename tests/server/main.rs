//! A whole server, with its threads and listeners, from outside: blocking clients over TCP.

mod limits;
mod listeners;
mod proxies;

use std::{
    env,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use switchpoint::{
    Config, Driver, Registry, Server, Stats, Upgraded, monoio,
    protocols::{
        self, WebSocket,
        websocket::{Settings, Socket},
    },
    ws,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// The drivers to try: the one that the environment names, or both.
fn drivers() -> Vec<Driver> {
    match env::var("SWITCHPOINT_DRIVER") {
        Ok(name) => vec![name.parse().unwrap()],
        Err(_) => vec![Driver::Auto, Driver::Epoll],
    }
}

fn config(driver: Driver) -> Config {
    Config { listen: vec!["127.0.0.1:0".parse().unwrap()], threads: 2, driver, ..Config::default() }
}

fn registry() -> Registry {
    protocols::demonstration(Settings::default()).on("panic", async |mut connection: Upgraded| {
        connection.fill().await?;
        panic!("as asked for")
    })
}

fn start(config: Config) -> (Server, SocketAddr) {
    let server = Server::start(config, |_| registry()).unwrap();
    let address = server.addresses()[0];
    (server, address)
}

/// Waits until what the server publishes has it.
fn until(server: &Server, what: &str, condition: impl Fn(&Stats) -> bool) {
    let start = Instant::now();
    while !condition(&server.stats()) {
        assert!(start.elapsed() < PATIENCE, "{what}: {:?}", server.stats());
        thread::sleep(Duration::from_millis(10));
    }
}

struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// A session of `token`.
    fn switched(address: SocketAddr, token: &str) -> Self {
        Self::switched_at(address, "/echo", token)
    }

    fn switched_at(address: SocketAddr, path: &str, token: &str) -> Self {
        let mut client = Self::connect(address);
        let head = client.ask_at(path, token);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        client
    }

    /// Sends an upgrade request, and reads the head of its answer.
    fn ask(&mut self, token: &str) -> String {
        self.ask_at("/echo", token)
    }

    fn ask_at(&mut self, path: &str, token: &str) -> String {
        self.send(format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {token}\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ));
        self.head()
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        String::from_utf8(head).unwrap()
    }

    fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let mut got = vec![0; bytes.as_ref().len()];
        self.0.read_exact(&mut got).unwrap();
        assert_eq!(got, bytes.as_ref(), "{}", got.escape_ascii());
    }

    fn echoes(&mut self, text: &str) {
        self.send(text);
        self.expect(text);
    }

    /// Everything up to the end; `Err` where it is not clean.
    fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).map(|_| rest)
    }

    fn ends(&mut self) {
        assert_eq!(self.rest().unwrap().escape_ascii().to_string(), "");
    }
}

/// A client's frame, with a key of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

const GOING_AWAY: u16 = 1001;

const SWITCH: &str = "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";

#[test]
fn a_panic_leaves_every_other_connection_alone() {
    for driver in drivers() {
        let (server, address) = start(config(driver));
        let mut others: Vec<_> = (0..10).map(|_| Client::switched(address, "echo")).collect();
        for _ in 0..10 {
            let mut client = Client::switched(address, "panic");
            client.send("now");
            assert_eq!(client.rest().unwrap_or_default(), b"");
        }
        until(&server, "they are counted", |stats| stats.panics == 10 && stats.connections == 10);
        for client in &mut others {
            client.echoes("still here");
        }
        Client::switched(address, "echo").echoes("and new ones come in");
    }
}

/// How long a WebSocket has to be silent for it to wait in the readiness set, with time to spare.
const QUIET: Duration = Duration::from_millis(400);

#[test]
fn a_worker_that_is_lost_leaves_its_counts() {
    let lethal = |_| {
        registry().on("lethal", async |_: Upgraded| {
            monoio::spawn(async { panic!("as asked for, outside of any guard") });
            std::future::pending().await
        })
    };
    let server = Server::start(Config { threads: 1, ..config(Driver::Auto) }, lethal).unwrap();
    let address = server.addresses()[0];
    let mut echo = Client::switched(address, "echo");
    echo.echoes("before");
    until(&server, "the session is published", |stats| stats.upgrades.contains_key("echo"));
    let _lethal = Client::switched(address, "lethal");
    until(&server, "the worker begins anew", |stats| stats.restarts == 1 && stats.connections == 0);
    Client::switched(address, "echo").echoes("after");
    until(&server, "both count", |stats| stats.upgrades["echo"] == 2);
    let stats = server.stats();
    assert_eq!((stats.protocols["echo"].switched, stats.upgrades["lethal"]), (2, 1));
    assert!(stats.protocols["echo"].sessions <= 1, "the lost one is not open any more");
}

/// The readiness set tells each change once: an end that comes with bytes must not be lost behind them.
#[test]
fn an_end_that_comes_with_bytes_is_noticed() {
    for driver in drivers() {
        let config = Config { threads: 1, ..config(driver) };
        let server = Server::start(config, |_| protocols::demonstration(Settings::default())).unwrap();
        let address = server.addresses()[0];
        let mut clients: Vec<_> = (0..50).map(|_| Client::switched(address, "websocket")).collect();
        for client in &mut clients {
            client.send(frame(0x81, b"hello"));
            client.0.shutdown(Shutdown::Write).unwrap();
            client.expect(b"\x81\x05hello");
        }
        // They are still there, and nothing else will come from them.
        until(&server, "all have been heard to end", |stats| stats.connections == 0);
        drop(clients);
        server.drain();
        server.join();
    }
}

#[test]
fn who_was_quiet_is_heard_at_once_and_so_is_who_talks() {
    for driver in drivers() {
        let settings = Settings { ping_after: 3 * QUIET, ..Settings::default() };
        let config = Config { threads: 1, ..config(driver) };
        let server = Server::start(config, move |_| protocols::demonstration(settings.clone())).unwrap();
        let address = server.addresses()[0];
        let mut clients: Vec<_> = (0..20).map(|_| Client::switched(address, "websocket")).collect();
        for round in 0..2 {
            thread::sleep(QUIET);
            for (number, client) in clients.iter_mut().enumerate() {
                // What is short, what is long, what comes in two halves, and what comes at once with the next.
                let long = vec![number as u8; 100];
                let frames = [frame(0x81, b"hello"), frame(0x82, &long)].concat();
                let cut = 1 + (number + round) % (frames.len() - 1);
                client.send(&frames[..cut]);
                thread::sleep(Duration::from_millis(number as u64 % 3));
                client.send(&frames[cut..]);
                client.expect(b"\x81\x05hello\x82\x64");
                client.expect(&long);
                client.send(frame(0x82, &long).repeat(200));
                client.expect([&b"\x82\x64"[..], &long].concat().repeat(200));
            }
        }
        // The server's ping finds who is quiet, and the pong puts it to rest again.
        for client in &mut clients {
            client.expect(b"\x89\x00");
            client.send(frame(0x8a, b""));
        }
        thread::sleep(QUIET);
        // The end of a connection is heard there, too: its own, a reset, and ours.
        clients.truncate(10);
        until(&server, "half of them have left", |stats| stats.connections == 10);
        for client in clients.drain(..5) {
            socket2::SockRef::from(&client.0).set_linger(Some(Duration::ZERO)).unwrap();
        }
        until(&server, "some were reset", |stats| stats.connections == 5);
        server.drain();
        for client in &mut clients {
            client.expect(b"\x88");
            client.send(frame(0x88, &GOING_AWAY.to_be_bytes()));
        }
        drop(clients);
        assert_eq!(server.join().closed_clean, 5, "{driver}");
    }
}

#[test]
fn messages_between_pings_come_back_in_their_order() {
    let (server, address) = start(config(Driver::Auto));
    let mut client = Client::switched(address, "websocket");
    let text = |number: usize| format!("message {number}").into_bytes();
    let burst: Vec<u8> =
        (0..1000).flat_map(|number| [frame(0x81, &text(number)), frame(0x89, b"?")].concat()).collect();
    client.send(&burst);
    let mut heard = 0;
    while heard < 1000 {
        let mut head = [0; 2];
        client.0.read_exact(&mut head).unwrap();
        let mut payload = vec![0; head[1].into()];
        client.0.read_exact(&mut payload).unwrap();
        match head[0] {
            0x81 => {
                assert_eq!(payload, text(heard));
                heard += 1;
            }
            0x8a => assert_eq!(payload, b"?"),
            other => panic!("{other:x}"),
        }
    }
    drop(client);
    server.stop();
    server.join();
}

#[test]
fn what_a_core_lends_keeps_nothing_of_who_had_it_before() {
    let settings = |message_max| {
        let limits = ws::Limits { message_max, ..ws::Limits::default() };
        Settings { limits, ..Settings::default() }
    };
    // Bytes for text, so that what has arrived is framed anew.
    let answer = async |socket: Socket| {
        let (mut receiver, sender) = socket.split();
        while let Some(message) = receiver.recv().await? {
            sender.send(message.bytes()).await?;
        }
        Ok(())
    };
    let config = Config { threads: 1, ..config(Driver::Auto) };
    let registry = move |_| {
        Registry::new()
            .at("/long", WebSocket::new(answer).with(settings(1000)))
            .at("/short", WebSocket::new(answer).with(settings(50)))
    };
    let server = Server::start(config, registry).unwrap();
    let address = server.addresses()[0];
    let mut long = Client::switched_at(address, "/long", "websocket");
    let mut short = Client::switched_at(address, "/short", "websocket");
    for _ in 0..3 {
        long.send(frame(0x81, &[b'x'; 100]));
        long.expect([&b"\x82\x64"[..], &[b'x'; 100]].concat());
        short.send(frame(0x81, b"hello"));
        short.expect(b"\x82\x05hello");
    }
    short.send(frame(0x81, &[b'x'; 100]));
    short.expect(b"\x88");
    drop((long, short));
    server.stop();
    server.join();
}

#[test]
fn a_drain_ends_every_session_in_its_own_words() {
    for driver in drivers() {
        let (server, address) = start(config(driver));
        let mut sockets: Vec<_> = (0..25).map(|_| Client::switched(address, "websocket")).collect();
        let mut echoes: Vec<_> = (0..25).map(|_| Client::switched(address, "echo")).collect();
        let mut idle = Client::connect(address);
        idle.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(idle.head().starts_with("HTTP/1.1 200 "));
        idle.expect("ok\n");
        let start = Instant::now();
        server.drain();
        for client in &mut sockets {
            let mut head = [0; 4];
            client.0.read_exact(&mut head).unwrap();
            assert_eq!((head[0], &head[2..]), (0x88, &GOING_AWAY.to_be_bytes()[..]));
            client.expect("the server is shutting down");
            client.send(frame(0x88, &GOING_AWAY.to_be_bytes()));
            client.ends();
        }
        for client in echoes.iter_mut().chain([&mut idle]) {
            client.ends();
        }
        drop((sockets, echoes, idle));
        let stats = server.join();
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
        assert_eq!((stats.closed_clean, stats.cut, stats.connections), (50, 0, 0), "{stats:?}");
        assert!(TcpStream::connect_timeout(&address, PATIENCE).is_err(), "nobody listens any more");
    }
}

#[test]
fn what_does_not_heed_the_drain_is_cut_at_its_end() {
    for driver in drivers() {
        let config = Config { drain_time: Duration::from_millis(300), ..config(driver) };
        let (server, address) = start(config);
        // One that never answers the close frame, one that never reads, one that is still writing its request.
        let mut deaf = Client::switched(address, "websocket");
        let stuck = Client::switched(address, "echo");
        let mut half = Client::connect(address);
        half.send("GET /echo HT");
        until(&server, "they are there", |stats| stats.connections == 3);
        let start = Instant::now();
        server.drain();
        let stats = server.join();
        let taken = start.elapsed();
        assert!(taken >= Duration::from_millis(290) && taken < Duration::from_secs(3), "{taken:?}");
        assert_eq!(stats.connections, 0, "{stats:?}");
        assert!(deaf.rest().unwrap_or_default().len() < 100);
        drop((stuck, half));
    }
}

#[test]
fn a_stop_cuts_everything_at_once() {
    for driver in drivers() {
        let (server, address) = start(config(driver));
        let mut clients: Vec<_> = (0..20).map(|_| Client::switched(address, "echo")).collect();
        clients.extend((0..20).map(|_| Client::switched(address, "websocket")));
        until(&server, "they are there", |stats| stats.sessions == 40);
        let start = Instant::now();
        server.stop();
        let stats = server.join();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!((stats.cut, stats.connections), (40, 0), "{stats:?}");
        for client in &mut clients {
            // No deadline passes: whatever comes, the end is there.
            if let Err(error) = client.rest() {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
        }
    }
}

#[test]
fn one_clients_excess_does_not_stop_another_on_the_same_core() {
    for driver in drivers() {
        let (server, address) = start(Config { threads: 1, ..config(driver) });
        let mut other = Client::switched(address, "echo");
        let excess = thread::spawn(move || {
            let mut client = Client::switched(address, "websocket");
            let first = frame(0x02, b"x");
            let fragments = frame(0x00, b"x").repeat(1000);
            let mut writer = client.0.try_clone().unwrap();
            let sending = thread::spawn(move || {
                // The server says no long before the last one.
                let _ = writer.write_all(&first);
                (0..1000).all(|_| writer.write_all(&fragments).is_ok())
            });
            let mut head = [0; 4];
            client.0.read_exact(&mut head).unwrap();
            assert_eq!((head[0], u16::from_be_bytes([head[2], head[3]])), (0x88, 1009));
            drop(client.rest());
            sending.join().unwrap();

            let mut client = Client::connect(address);
            client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
            client.send("x".repeat(1 << 20));
            assert!(client.head().starts_with("HTTP/1.1 431 "));
        });
        let mut slowest = Duration::ZERO;
        let mut count = 0_u64;
        while !excess.is_finished() {
            let start = Instant::now();
            other.echoes("still served");
            slowest = slowest.max(start.elapsed());
            count += 1;
        }
        excess.join().unwrap();
        assert!(slowest < Duration::from_secs(1), "{slowest:?} for one of {count} echoes");
        drop(server);
    }
}

#[test]
fn peers_that_never_pause_do_not_keep_a_core_to_themselves() {
    for driver in drivers() {
        let (server, address) = start(Config { threads: 1, ..config(driver) });
        let is_over = AtomicBool::new(false);
        let talk = || {
            let mut talker = Client::switched(address, "websocket");
            while !is_over.load(Ordering::Relaxed) {
                talker.send(frame(0x82, b"?"));
                talker.expect(b"\x82\x01?");
            }
        };
        thread::scope(|scope| {
            // With so many, something has always arrived before the last of them was answered.
            (0..16).for_each(|_| drop(scope.spawn(talk)));
            let newcomers = scope.spawn(|| {
                until(&server, "all talk", |stats| stats.sessions == 16);
                let start = Instant::now();
                for _ in 0..5 {
                    let mut newcomer = Client::switched(address, "websocket");
                    newcomer.send(frame(0x82, b"!"));
                    newcomer.expect(b"\x82\x01!");
                    // The ticker counts.
                    until(&server, "it is counted", |stats| stats.sessions == 17);
                    drop(newcomer);
                    until(&server, "it is gone", |stats| stats.sessions == 16);
                }
                // Each is a matter of ticks, a tenth of a second or two, and not of luck.
                assert!(start.elapsed() < 2 * PATIENCE, "{:?}", start.elapsed());
            });
            let result = newcomers.join();
            is_over.store(true, Ordering::Relaxed);
            result.unwrap_or_else(|_| panic!("{driver}: a newcomer was kept waiting"));
        });
        server.stop();
    }
}
