//! Both ends in one runtime: a worker with its ticker, and clients in memory or over TCP.
//!
//! A client owns its pending read, so a wait that ends too early loses nothing.

mod answer;
mod client;
mod conversation;
mod frame;
mod handler;
pub(crate) mod http2;

use std::{cell::Cell, env, net::SocketAddr, rc::Rc, time::Duration};

use monoio::{
    FusionRuntime,
    net::{ListenerOpts, TcpListener},
    time,
};
use switchpoint::{
    Config, Driver, Registry, Stats, Stream, Worker,
    duplex::{self, Faults},
};

pub(crate) use answer::Answer;
pub(crate) use client::{Client, Failure};
pub(crate) use conversation::Conversation;
pub(crate) use frame::{Frame, binary, close, fragment, masked, ping, pong, text};
pub(crate) use handler::Custom;

/// Where the bytes go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Memory,
    /// In memory, with faults from a seed.
    Faulty(Faults, u64),
    Tcp,
}

/// How long anything that has to happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a whole test may take.
const TEST_MAX: Duration = Duration::from_secs(30);
/// The ticker's pace: finer than a server's, so that limits can be short.
const TICK: Duration = Duration::from_millis(2);

/// The settings that most tests use: one worker, and no long goodbyes.
pub(crate) fn config() -> Config {
    Config { threads: 1, close_time: Duration::from_millis(500), ..Config::default() }
}

/// Runs `test` in memory and over TCP, each with a worker of its own.
pub(crate) fn everywhere(registry: impl Fn() -> Registry, test: impl AsyncFn(&Site)) {
    everywhere_with(config(), registry, test);
}

/// As [`everywhere`], with other settings.
pub(crate) fn everywhere_with(config: Config, registry: impl Fn() -> Registry, test: impl AsyncFn(&Site)) {
    for transport in [Transport::Memory, Transport::Tcp] {
        eprintln!("{transport:?}");
        on(transport, config.clone(), registry(), &test);
    }
}

/// Runs `test` beside a worker, and sees to it that no connection is left.
pub(crate) fn on(transport: Transport, config: Config, registry: Registry, test: impl AsyncFnOnce(&Site)) {
    let driver = env::var("SWITCHPOINT_DRIVER").map_or(Driver::Auto, |name| name.parse().unwrap());
    let mut runtime = driver.build().unwrap();
    let is_uring = matches!(runtime, FusionRuntime::Uring(_));
    runtime.block_on(async move {
        let worker = Worker::new(config, registry);
        let listener = TcpListener::bind_with_config("127.0.0.1:0", &ListenerOpts::new().reuse_port(false));
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap();
        monoio::spawn(tick(Rc::clone(&worker)));
        monoio::spawn(accept(Rc::clone(&worker), listener));
        let site = Site { worker, transport, address, is_uring, clients: Cell::new(0) };
        time::timeout(TEST_MAX, test(&site)).await.expect("the test is stuck");
        site.is_left_alone().await;
    });
}

async fn tick(worker: Rc<Worker>) {
    loop {
        time::sleep(TICK).await;
        worker.tick();
    }
}

async fn accept(worker: Rc<Worker>, listener: TcpListener) {
    while let Ok((stream, peer)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        monoio::spawn(worker.serve(stream.try_into().unwrap(), Some(peer)));
    }
}

/// A worker, and the way to it.
pub(crate) struct Site {
    pub(crate) worker: Rc<Worker>,
    pub(crate) transport: Transport,
    address: SocketAddr,
    is_uring: bool,
    clients: Cell<u64>,
}

impl Site {
    pub(crate) fn connect(&self) -> Client {
        self.connect_over(self.transport)
    }

    pub(crate) fn connect_over(&self, transport: Transport) -> Client {
        let number = self.clients.replace(self.clients.get() + 1);
        let (near, far) = match transport {
            Transport::Memory => duplex::pair(),
            // Each of a test's connections has its own faults.
            Transport::Faulty(faults, seed) => duplex::pair_with_faults(faults, seed ^ (number << 32)),
            Transport::Tcp => return Client::tcp(self.address, self.is_uring),
        };
        monoio::spawn(self.worker.serve(Stream::from(far), None));
        Client::memory(near)
    }

    /// A connection in memory, as if `peer` had opened it over a network.
    pub(crate) fn connect_from(&self, peer: &str) -> Client {
        let (near, far) = duplex::pair();
        let peer = SocketAddr::new(peer.parse().unwrap(), 50_000);
        monoio::spawn(self.worker.serve(Stream::from(far), Some(peer)));
        Client::memory(near)
    }

    /// Sends `request` on a connection of its own and reads its answer.
    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut client = self.connect();
        client.send(request).await;
        client.answer().await
    }

    /// A connection that was switched by `request`.
    pub(crate) async fn switched(&self, request: impl AsRef<[u8]>) -> Client {
        let mut client = self.connect();
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 101, "{answer:?}");
        client
    }

    /// Where it listens, for clients of another kind.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn stats(&self) -> Stats {
        self.worker.stats()
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Stats) -> bool) {
        for _ in 0..PATIENCE.as_millis() {
            if condition(&self.stats()) {
                return;
            }
            time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{what}: {:?}", self.stats());
    }

    /// Waits until every connection has ended: nothing leaks.
    pub(crate) async fn is_left_alone(&self) {
        self.until("every connection has ended", |stats| stats.connections == 0 && stats.sessions == 0).await;
    }
}

/// Lets the server do what it can with what it has.
///
/// The runtime polls a main future that wakes itself before any task, so a plain yield would not do.
pub(crate) async fn settle(transport: Transport) {
    match transport {
        Transport::Tcp => time::sleep(Duration::from_millis(2)).await,
        _ => {
            for _ in 0..6 {
                monoio::spawn(async {}).await;
            }
        }
    }
}

pub(crate) async fn milliseconds(count: u64) {
    time::sleep(Duration::from_millis(count)).await;
}

/// An upgrade request for `token` at `path`.
pub(crate) fn upgrade(path: &str, token: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: {token}\r\n\r\n")
}

/// The handshake of RFC 6455 1.2 at `path`, with more field lines, each with its line end.
pub(crate) fn handshake(path: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    )
}

/// What the handshake's key has to be answered with (RFC 6455 1.3).
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
