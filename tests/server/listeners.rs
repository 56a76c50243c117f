//! Where a server listens, what it leaves behind, and what it inherits.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use switchpoint::{Address, Config, Driver, Listener, Server, StartError, protocols::H2c};

use super::{Client, PATIENCE, SWITCH, config, drivers, registry, start, until};

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
