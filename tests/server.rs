//! A whole server, with its threads and listeners, from outside: blocking clients over TCP.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    iter,
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use switchpoint::{
    Address, Config, Driver, Limits, Listener, Registry, Server, StartError, Stats, Upgraded, monoio,
    protocols::{
        self, H2c, WebSocket,
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

#[test]
fn a_server_serves_on_each_driver_with_all_its_workers() {
    for driver in drivers() {
        let (server, address) = start(config(driver));
        assert_ne!(address.port(), 0);
        assert_eq!(server.workers(), 2);
        assert!(driver == Driver::Auto || server.driver() == driver);
        let tokens: Vec<String> = server.tokens().iter().map(ToString::to_string).collect();
        assert_eq!(tokens, ["panic", "websocket", "echo"]);
        // So many that each worker has some.
        let mut clients: Vec<_> = (0..40).map(|_| Client::switched(address, "echo")).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.echoes(&format!("client {number}"));
        }
        until(&server, "all are there", |stats| stats.sessions == 40 && stats.connections == 40);
        for client in &mut clients {
            client.0.shutdown(Shutdown::Write).unwrap();
            client.ends();
        }
        drop(clients);
        until(&server, "all have left", |stats| stats.connections == 0 && stats.closed_clean == 40);
        server.stop();
        assert!(server.join().accepted >= 40);
    }
}

#[test]
fn a_port_in_use_is_an_error_and_a_port_is_free_after_the_end() {
    for driver in drivers() {
        let (server, address) = start(config(driver));
        let again = Config { listen: vec![address.into()], ..config(driver) };
        match Server::start(again.clone(), |_| registry()) {
            Err(StartError::Listen { address: at, source }) => {
                assert_eq!((at.to_string(), source.kind()), (address.to_string(), io::ErrorKind::AddrInUse));
            }
            other => panic!("{other:?}"),
        }
        Client::switched(address, "echo").echoes("the first one goes on");
        server.stop();
        server.join();
        let (server, _) = start(again);
        Client::switched(address, "echo").echoes("and another one takes over");
        server.stop();
        server.join();
    }
}

#[test]
fn nothing_is_left_of_a_server_that_could_not_start() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let config = Config { listen: vec![address.into()], ..config(Driver::Auto) };
    let failed = Server::start(config.clone(), |worker| {
        assert_eq!(worker, 0, "no registry for this worker");
        registry()
    });
    assert!(matches!(failed, Err(StartError::Worker(_))), "{failed:?}");
    assert!(matches!(
        Server::start(Config { listen: Vec::new(), ..config.clone() }, |_| registry()),
        Err(StartError::NoAddress)
    ));
    let start = Instant::now();
    loop {
        match Server::start(config.clone(), |_| registry()) {
            Ok(server) => break server.stop(),
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A folder that goes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("switchpoint-server-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn ask_over_unix(path: &Path, request: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    (stream, String::from_utf8(head).unwrap())
}

const SWITCH: &str = "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";

#[test]
fn a_unix_socket_is_served_by_all_workers_and_its_file_ends_with_the_server() {
    let folder = Folder::new("unix");
    let path = folder.0.join("a.sock");
    for driver in drivers() {
        let listen =
            vec![Address::Unix { path: path.clone(), mode: 0o600 }.into(), "127.0.0.1:0".parse().unwrap()];
        let server = Server::start(Config { listen, ..config(driver) }, |_| registry()).unwrap();
        let places: Vec<String> = server.places().collect();
        assert_eq!(places, [format!("unix:{}", path.display()), format!("http://{}", server.addresses()[0])]);
        let mut clients = Vec::new();
        for number in 0..100_u8 {
            let (mut stream, head) = ask_over_unix(&path, SWITCH);
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            stream.write_all(&[number]).unwrap();
            let mut back = [0];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, [number]);
            clients.push(stream);
        }
        Client::switched(server.addresses()[0], "echo").echoes("TCP beside it");
        server.drain();
        for client in &mut clients {
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "a goodbye");
        }
        drop(clients);
        let stats = server.join();
        assert_eq!((stats.accepted, stats.cut, stats.accept_errors), (101, 0, 0), "{stats:?}");
        assert!(!path.exists());
    }
}

#[test]
fn sockets_that_were_handed_over_lose_nobody() {
    let folder = Folder::new("handed");
    let path = folder.0.join("a.sock");
    for driver in drivers() {
        let listen =
            || vec!["127.0.0.1:0".parse().unwrap(), Address::Unix { path: path.clone(), mode: 0o600 }.into()];
        let (delay, time) = (Duration::from_millis(500), Duration::from_secs(2));
        let config = Config { listen: listen(), drain_delay: delay, drain_time: time, ..config(driver) };
        let old = Server::start(config.clone(), |_| registry()).unwrap();
        let address = old.addresses()[0];
        let mut session = Client::switched(address, "echo");
        let over = AtomicBool::new(false);
        let asked = thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut asked = 0;
                while !over.load(Ordering::Relaxed) {
                    Client::switched(address, "echo").echoes("?");
                    let (_, head) = ask_over_unix(&path, SWITCH);
                    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
                    asked += 2;
                }
                asked
            });
            thread::sleep(Duration::from_millis(100));
            let sockets = old.sockets().unwrap();
            // As many workers, fewer and more have to find a place at the sockets; so it goes on with three.
            let new = Server::take_over(Config { threads: 3, ..config }, sockets, |_| registry()).unwrap();
            assert_eq!(new.addresses(), [address]);
            old.retire();
            session.ends();
            drop(session);
            let stats = old.join();
            assert_eq!((stats.cut, stats.accept_errors), (0, 0), "{stats:?}");
            thread::sleep(Duration::from_millis(200));
            assert!(path.exists(), "it is the new server's now");
            over.store(true, Ordering::Relaxed);
            let asked = asking.join().unwrap();
            let before = new.stats().accepted;
            assert!(before > 0 && stats.accepted > 0, "{before} of {asked}");
            new.stop();
            new.join();
            asked
        });
        assert!(asked > 20, "{asked}");
        // Nobody has it any more.
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(!path.exists(), "it went with the last server");
    }
}

#[test]
fn h2c_by_upgrade_is_a_setting_of_the_listener() {
    let upgrade = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABk\r\n\r\n";
    let there: Listener = "127.0.0.1:0".parse().unwrap();
    let listen = vec![there.clone(), Listener { h2c: false, ..there }];
    let config = Config { listen, ..config(Driver::Auto) };
    let server = Server::start(config, |_| registry().with(H2c::new())).unwrap();
    let ask = |place: usize, request: &str| {
        let mut client = Client::connect(server.addresses()[place]);
        client.send(request);
        client.head()
    };
    assert!(ask(0, upgrade).starts_with("HTTP/1.1 101 "));
    let ordinary = ask(1, upgrade);
    assert!(ordinary.starts_with("HTTP/1.1 200 ") && !ordinary.contains("h2c"), "{ordinary}");
    // Nor is it offered where it is not to be had.
    let refused = "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(ask(0, refused).contains("Upgrade: websocket, echo, panic, h2c\r\n"));
    assert!(ask(1, refused).contains("Upgrade: websocket, echo, panic\r\n"));
}

#[test]
fn there_is_no_room_for_more_connections_than_the_limit() {
    for driver in drivers() {
        // Two for each of two workers: at least one of five is too many, wherever the kernel puts them.
        let (server, address) = start(Config { connections_max: 4, ..config(driver) });
        let mut let_in = Vec::new();
        let mut turned_away = 0;
        for _ in 0..5 {
            let mut client = Client::connect(address);
            let head = client.ask("echo");
            if head.starts_with("HTTP/1.1 101 ") {
                let_in.push(client);
                continue;
            }
            assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: "), "{head}");
            assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
            let body = String::from_utf8(client.rest().unwrap()).unwrap();
            assert!(body.contains("reason: too-many-connections\n"), "{body}");
            turned_away += 1;
        }
        assert!(turned_away >= 1 && let_in.len() <= 4);
        until(&server, "they are counted", |stats| {
            stats.rejections.get("too-many-connections") == Some(&turned_away)
        });
        for client in &mut let_in {
            client.echoes("undisturbed");
        }
    }
}

#[test]
fn who_was_turned_away_does_not_take_the_room_of_others() {
    let config = Config { threads: 1, connections_max: 2, ..config(Driver::Auto) };
    let (server, address) = start(config);
    let let_in = [Client::switched(address, "echo"), Client::switched(address, "echo")];
    until(&server, "they are counted", |stats| stats.sessions == 2);
    // They are told, and stay as long as they may.
    let _staying: Vec<_> = (0..4)
        .map(|_| {
            let mut client = Client::connect(address);
            assert!(client.head().starts_with("HTTP/1.1 503 "));
            client
        })
        .collect();
    drop(let_in);
    until(&server, "the room is free", |stats| stats.sessions == 0);
    let head = Client::connect(address).ask("echo");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

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

#[test]
fn a_program_that_a_handler_starts_inherits_no_connection() {
    for driver in drivers() {
        let (_server, address) = start(config(driver));
        let _clients: Vec<_> = (0..4).map(|_| Client::switched(address, "echo")).collect();
        // A socket of another test may be so new that it was not marked yet.
        let start = Instant::now();
        while let Some(socket) = inheritable_socket() {
            // A client would not see the end of its session before that program has ended, too.
            assert!(start.elapsed() < Duration::from_secs(1), "{driver}: {socket} is not closed on exec");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// One that lacks FD_CLOEXEC, among all of this process.
fn inheritable_socket() -> Option<String> {
    const CLOSED_ON_EXEC: u64 = 0o2_000_000;
    fs::read_dir("/proc/self/fd").unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        let what = fs::read_link(&path).ok()?.display().to_string();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", path.file_name()?.display())).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = u64::from_str_radix(flags, 8).unwrap();
        (what.starts_with("socket:") && flags & CLOSED_ON_EXEC == 0).then_some(what)
    })
}

/// Names the driver to the child process of the next test.
const CHILD: &str = "SWITCHPOINT_TEST_CHILD";

/// The limit of descriptors is a process's, so the server has one of its own: this test, run again.
#[test]
fn a_server_without_descriptors_waits_and_goes_on() {
    if let Ok(driver) = env::var(CHILD) {
        return serve_with_few_descriptors(driver.parse().unwrap());
    }
    for driver in drivers() {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "a_server_without_descriptors_waits_and_goes_on", "--nocapture"])
            .env(CHILD, driver.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut asks = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
        // What the test harness prints around it is not for us.
        let mut told = |what: &str| {
            let mut lines = answers.by_ref().map(Result::unwrap);
            lines.find_map(|line| Some(line.split_once(what)?.1.to_owned())).expect(what)
        };
        let address: SocketAddr = told("listening on ").parse().unwrap();
        let mut accept_errors = || -> u64 {
            writeln!(asks, "tell").unwrap();
            told("accept errors: ").parse().unwrap()
        };

        let mut clients: Vec<_> = (0..ROOM * 2).map(|_| Client::connect(address)).collect();
        // Those that came first are served, the others wait in the kernel's queue.
        let switched = |client: &mut Client| client.ask("echo").starts_with("HTTP/1.1 101 ");
        assert!(clients[..ROOM / 2].iter_mut().all(switched));
        let start = Instant::now();
        while accept_errors() == 0 {
            assert!(start.elapsed() < PATIENCE, "descriptors did not run out");
            thread::sleep(Duration::from_millis(10));
        }
        let before = accept_errors();
        let start = Instant::now();
        thread::sleep(Duration::from_millis(500));
        clients[0].echoes("still served");
        let grown = accept_errors() - before;
        // It tries again every 20 ms.
        let tries = start.elapsed().as_millis() as u64 / 20 + 2;
        assert!((1..=tries).contains(&grown), "{grown} errors, and {tries} tries were to be expected");

        // Clients leave, and those who waited get their turn.
        let mut waiting = clients.split_off(ROOM * 2 - 4);
        drop(clients);
        for client in &mut waiting {
            assert!(switched(client));
        }
        Client::switched(address, "echo").echoes("new ones, too");
        drop(asks);
        assert!(child.wait().unwrap().success());
    }
}

/// Connections that fit.
const ROOM: usize = 24;
/// More descriptors than a test process has.
const LIMIT: u64 = 1024;

fn serve_with_few_descriptors(driver: Driver) {
    // One worker: with two, either could take the descriptors before those who came first.
    let (server, address) = start(Config { threads: 1, ..config(driver) });
    // Only now: a server that starts with few keeps some back. What this process has inherited leaves holes below its
    // highest descriptor, so they are all taken, and as many given back as there is to be room.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), ..limit }).unwrap();
    let mut taken: Vec<File> = iter::from_fn(|| File::open("/dev/null").ok()).collect();
    taken.truncate(taken.len() - ROOM);
    println!("\nlistening on {address}");
    for line in io::stdin().lock().lines() {
        assert_eq!(line.unwrap(), "tell");
        println!("\naccept errors: {}", server.stats().accept_errors);
    }
    server.stop();
    server.join();
}

/// Who the peer is, as the handler sees it: the first line of the session.
fn telling() -> Registry {
    Registry::new().on("who", async |mut connection: Upgraded| {
        let peer = connection.peer().map_or_else(|| "nobody".into(), |peer| peer.to_string());
        connection.write_all(format!("{peer}\n").as_bytes()).await?;
        while connection.fill().await? {
            connection.write_all(connection.unread()).await?;
            connection.consume(connection.unread().len());
        }
        Ok(())
    })
}

fn behind_proxies(driver: Driver, networks: &[&str], limits: Limits) -> (Server, SocketAddr) {
    let proxy_protocol = networks.iter().map(|network| network.parse().unwrap()).collect();
    let listener = Listener { proxy_protocol, .."127.0.0.1:0".parse().unwrap() };
    let head_time = Duration::from_millis(400);
    let config = Config { listen: vec![listener], head_time, limits, ..config(driver) };
    let server = Server::start(config, |_| telling()).unwrap();
    let address = server.addresses()[0];
    (server, address)
}

#[test]
fn a_trusted_proxy_says_who_the_client_is() {
    let version_2 = |command: u8, rest: &[u8]| {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, 0x11][..], &length, rest].concat()
    };
    let long = [&[203, 0, 113, 9, 192, 0, 2, 1, 0x30, 0x39, 1, 0xbb][..], &[0; 1000]].concat();
    for driver in drivers() {
        let (server, address) = behind_proxies(driver, &["10.0.0.0/8", "127.0.0.0/8"], Limits::default());
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: who\r\n\r\n";
        for (header, expected) in [
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 12345 443\r\n".to_vec(), Some("203.0.113.9:12345")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 443\r\n".to_vec(), Some("[2001:db8::7]:12345")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (version_2(0x21, &long), Some("203.0.113.9:12345")),
            (version_2(0x20, &[]), None),
        ] {
            // At once with the request, and byte by byte: what follows the header is not lost.
            for dribbles in [false, true] {
                let mut client = Client::connect(address);
                if dribbles && header.len() < 100 {
                    for byte in &header {
                        client.send([*byte]);
                        thread::sleep(Duration::from_millis(2));
                    }
                    client.send(request);
                } else {
                    client.send([&header[..], request].concat());
                }
                let own = client.0.local_addr().unwrap().to_string();
                assert!(client.head().starts_with("HTTP/1.1 101 "));
                client.expect(format!("{}\n", expected.unwrap_or(&own)));
                client.echoes("and on it goes");
            }
        }
        assert!(server.stats().rejections.is_empty(), "{:?}", server.stats());
    }
}

#[test]
fn without_a_proxys_header_nobody_is_served() {
    for driver in drivers() {
        let (server, address) = behind_proxies(driver, &["127.0.0.0/8"], Limits::default());
        let ends = |bytes: &[u8]| {
            let mut client = Client::connect(address);
            client.send(bytes);
            // Unread bytes make it a reset.
            let rest = client.rest().unwrap_or_default();
            assert!(rest.is_empty(), "{}", rest.escape_ascii());
        };
        ends(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: who\r\n\r\n");
        ends(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\nGET / HTTP/1.1\r\n");
        ends(&[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat());
        ends(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff");
        let start = Instant::now();
        ends(b"PROXY TCP4 1.2.3.4 ");
        assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
        until(&server, "each is counted", |stats| {
            let count = |code| stats.rejections.get(code).copied();
            count("proxy-header-missing") == Some(1)
                && count("proxy-header-malformed") == Some(1)
                && count("proxy-header-too-long") == Some(2)
                && count("proxy-header-timeout") == Some(1)
        });
        assert_eq!((server.stats().requests, server.stats().connections), (0, 0));

        let (server, address) = behind_proxies(driver, &["192.0.2.0/24", "::/0"], Limits::default());
        let mut client = Client::connect(address);
        assert!(client.rest().unwrap_or_default().is_empty());
        until(&server, "it is counted", |stats| stats.rejections.get("proxy-untrusted") == Some(&1));
    }
}

#[test]
fn behind_a_proxy_it_is_the_client_that_is_limited() {
    let limits = Limits { connections_address: 1, ..Limits::default() };
    let (server, address) = behind_proxies(Driver::Auto, &["127.0.0.1"], limits);
    let ask = |from: &str| {
        let mut client = Client::connect(address);
        client.send(format!(
            "PROXY TCP4 {from} 192.0.2.1 12345 443\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\
             Upgrade: who\r\n\r\n"
        ));
        let head = client.head();
        (head, client)
    };
    let (first, _stays) = ask("203.0.113.1");
    let (other, _stays_too) = ask("203.0.113.2");
    let (refused, _) = ask("203.0.113.1");
    assert!(first.starts_with("HTTP/1.1 101 ") && other.starts_with("HTTP/1.1 101 "), "{first} {other}");
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("\r\nRetry-After: "), "{refused}");
    until(&server, "it is counted", |stats| stats.rejections.get("too-many-from-address") == Some(&1));
}

#[test]
fn the_limit_in_all_is_exact_wherever_the_kernel_puts_connections() {
    let config = Config { threads: 4, connections_max: 10, ..config(Driver::Auto) };
    let (server, address) = start(config);
    let mut let_in = Vec::new();
    for _ in 0..10 {
        let_in.push(Client::switched(address, "echo"));
    }
    let head = Client::connect(address).ask("echo");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let_in.pop();
    until(&server, "one is gone", |stats| stats.sessions == 9);
    Client::switched(address, "echo");
}

#[test]
fn a_worker_that_starts_anew_has_all_its_places_again() {
    let config = Config { threads: 1, connections_max: 4, ..config(Driver::Auto) };
    let server = Server::start(config, |_| {
        registry().on("wreck", async |_: Upgraded| {
            // Not a task that the library guards: it takes the runtime with it.
            monoio::spawn(async { panic!("as asked for") });
            monoio::time::sleep(PATIENCE).await;
            Ok(())
        })
    });
    let server = server.unwrap();
    let address = server.addresses()[0];
    for _ in 0..3 {
        let mut lost: Vec<_> = (0..3).map(|_| Client::switched(address, "echo")).collect();
        Client::switched(address, "wreck");
        for client in &mut lost {
            assert!(client.rest().unwrap_or_default().is_empty());
        }
    }
    let _all: Vec<_> = (0..4).map(|_| Client::switched(address, "echo")).collect();
}
