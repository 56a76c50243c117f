//! Once warm, an echoed message costs no allocation: neither at the server's end, nor in the driver below it, nor in
//! the client, which is written so that it adds none of its own.
//!
//! Each test has its thread, its runtime and its count.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    env,
    rc::Rc,
    time::Duration,
};

use monoio::{
    FusionRuntime,
    buf::IoBuf,
    io::{AsyncReadRent, AsyncWriteRentExt},
    net::{ListenerOpts, TcpListener, TcpStream},
    time,
};
use switchpoint::{
    Config, Driver, Stream, Worker,
    duplex::{self, Duplex},
    protocols::{self, websocket::Settings},
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is going away allocates, too, and has no counter any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: everything is the system allocator's; counting touches a thread's own cell, which needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// A client that lends its two buffers and gets them back.
struct Client {
    end: End,
    said: Vec<u8>,
    heard: Vec<u8>,
}

enum End {
    Tcp(TcpStream),
    Memory(Duplex),
}

impl Client {
    /// Says `said`, and hears as many bytes as `answer` has.
    async fn exchange(&mut self, answer: usize) {
        let said = std::mem::take(&mut self.said);
        self.said = match &mut self.end {
            End::Tcp(stream) => {
                let (result, said) = stream.write_all(said).await;
                assert_eq!(result.unwrap(), said.bytes_init());
                said
            }
            End::Memory(duplex) => {
                duplex.write_all(&said).await.unwrap();
                said
            }
        };
        let mut got = 0;
        while got < answer {
            let mut heard = std::mem::take(&mut self.heard);
            heard.clear();
            let (result, heard) = match &mut self.end {
                End::Tcp(stream) => stream.read(heard).await,
                End::Memory(duplex) => duplex.read(heard).await,
            };
            let count = result.unwrap();
            assert!(count > 0, "the server has hung up");
            got += count;
            self.heard = heard;
        }
        assert_eq!(got, answer);
    }
}

const WARM_UP: u32 = 100;
const MESSAGES: u32 = 1000;
const PAYLOAD: [u8; 100] = [b'x'; 100];

/// How many allocations `MESSAGES` exchanges cost.
fn allocations(is_tcp: bool, fields: &str, switched: &str, said: Vec<u8>, answer: &[u8]) -> u64 {
    let request = format!("GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n{fields}\r\n");
    let switched = format!("HTTP/1.1 101 Switching Protocols\r\n{switched}\r\n");
    let driver = env::var("SWITCHPOINT_DRIVER").map_or(Driver::Auto, |name| name.parse().unwrap());
    let mut runtime = driver.build().unwrap();
    let is_uring = matches!(runtime, FusionRuntime::Uring(_));
    runtime.block_on(async move {
        let config = Config { threads: 1, ..Config::default() };
        let worker = Worker::new(config, protocols::demonstration(Settings::default()));
        let end = if is_tcp { tcp(&worker, is_uring).await } else { memory(&worker) };
        let heard = Vec::with_capacity(64 * 1024);
        let mut client = Client { end, said: request.into_bytes(), heard };
        let exchanged = async {
            client.exchange(switched.len()).await;
            assert_eq!(client.heard, switched.as_bytes(), "{}", client.heard.escape_ascii());
            client.said = said;
            for _ in 0..WARM_UP {
                client.exchange(answer.len()).await;
            }
            let before = ALLOCATIONS.get();
            for _ in 0..MESSAGES {
                client.exchange(answer.len()).await;
            }
            let count = ALLOCATIONS.get() - before;
            assert_eq!(client.heard, answer);
            count
        };
        let count = time::timeout(Duration::from_secs(10), exchanged).await.expect("it is stuck");
        assert_eq!(worker.stats().sessions, 1);
        count
    })
}

async fn tcp(worker: &Rc<Worker>, is_uring: bool) -> End {
    let listener =
        TcpListener::bind_with_config("127.0.0.1:0", &ListenerOpts::new().reuse_port(false)).unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_nonblocking(!is_uring).unwrap();
    let (accepted, peer) = listener.accept().await.unwrap();
    accepted.set_nodelay(true).unwrap();
    monoio::spawn(worker.serve(accepted.try_into().unwrap(), Some(peer)));
    End::Tcp(TcpStream::from_std(stream).unwrap())
}

fn memory(worker: &Rc<Worker>) -> End {
    let (near, far) = duplex::pair();
    monoio::spawn(worker.serve(Stream::from(far), None));
    End::Memory(near)
}

fn messages(is_tcp: bool) -> u64 {
    let fields =
        "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    let switched =
        "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    // A key of zeros masks nothing, and is as good as any to whom it does not protect.
    let said = [&[0x82, 0x80 | 100, 0, 0, 0, 0][..], &PAYLOAD].concat();
    allocations(is_tcp, fields, switched, said, &[&[0x82, 100][..], &PAYLOAD].concat())
}

fn bytes(is_tcp: bool) -> u64 {
    let switched = "Upgrade: echo\r\nConnection: upgrade\r\n";
    allocations(is_tcp, "Upgrade: echo\r\n", switched, PAYLOAD.to_vec(), &PAYLOAD)
}

#[test]
fn a_message_over_tcp_allocates_nothing() {
    assert_eq!(messages(true), 0);
}

#[test]
fn a_message_in_memory_allocates_nothing() {
    assert_eq!(messages(false), 0);
}

#[test]
fn echoed_bytes_over_tcp_allocate_nothing() {
    assert_eq!(bytes(true), 0);
}

#[test]
fn echoed_bytes_in_memory_allocate_nothing() {
    assert_eq!(bytes(false), 0);
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}
