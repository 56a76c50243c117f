//! A WebSocket echo through the whole engine but the kernel: handshake, driver, handler, over the in-memory transport.
//!
//! `cargo bench --bench echo`. What is left beside the kernel's own cost for each message.

use std::rc::Rc;
#[cfg(feature = "tls")]
use std::time::Duration;

use divan::{Bencher, counter::ItemsCount};
#[cfg(feature = "tls")]
use switchpoint::tls;
use switchpoint::{Config, Driver, Stream, Worker, duplex, protocols, ws};

fn main() {
    divan::main();
}

const MESSAGES: usize = 1000;

#[divan::bench(args = [1, 16])]
fn messages_of_20_bytes(bencher: Bencher<'_, '_>, depth: usize) {
    echo(bencher, 20, depth, Transport::Plain);
}

#[divan::bench(args = [1, 16])]
fn messages_of_1_kib(bencher: Bencher<'_, '_>, depth: usize) {
    echo(bencher, 1024, depth, Transport::Plain);
}

/// Both ends of TLS are here, so a message is encrypted twice and decrypted twice.
#[cfg(feature = "tls")]
#[divan::bench(args = [1, 16])]
fn messages_of_20_bytes_by_tls(bencher: Bencher<'_, '_>, depth: usize) {
    echo(bencher, 20, depth, Transport::Tls(tls()));
}

#[cfg(feature = "tls")]
#[divan::bench(args = [1, 16])]
fn messages_of_1_kib_by_tls(bencher: Bencher<'_, '_>, depth: usize) {
    echo(bencher, 1024, depth, Transport::Tls(tls()));
}

enum Transport {
    Plain,
    #[cfg(feature = "tls")]
    Tls((tls::Acceptor, tls::Connector)),
}

#[cfg(feature = "tls")]
fn tls() -> (tls::Acceptor, tls::Connector) {
    let identity = tls::Identity::self_signed(&["localhost".into()]).unwrap();
    let trust = tls::Trust::Authorities(identity.chain.clone());
    let settings = tls::ClientSettings { trust, ..tls::ClientSettings::default() };
    (tls::Acceptor::new(identity.into()).unwrap(), tls::Connector::new(&settings).unwrap())
}

/// The two ends, the far one as a server has it.
async fn ends(transport: &Transport, worker: &Rc<Worker>) -> Stream {
    let (near, far) = duplex::pair();
    match transport {
        Transport::Plain => {
            monoio::spawn(worker.serve(far.into(), None));
            near.into()
        }
        #[cfg(feature = "tls")]
        Transport::Tls((acceptor, connector)) => {
            monoio::spawn(worker.serve(acceptor.accept(far.into()), None));
            connector.connect(near.into(), "localhost", Duration::from_secs(10)).await.unwrap()
        }
    }
}

fn echo(bencher: Bencher<'_, '_>, size: usize, depth: usize, transport: Transport) {
    let mut burst = Vec::new();
    for _ in 0..depth {
        ws::write_frame(&mut burst, true, ws::Opcode::Binary, &vec![7; size], Some([9, 8, 7, 6]));
    }
    let mut answer = Vec::new();
    for _ in 0..depth {
        ws::write_frame(&mut answer, true, ws::Opcode::Binary, &vec![7; size], None);
    }
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(|| {
        Driver::Epoll.build().unwrap().block_on(async {
            let worker = Worker::new(Config::default(), protocols::demonstration(Default::default()));
            let near = ends(&transport, &worker).await;
            let request = "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
            write(&near, request.as_bytes()).await;
            let head = read(&near, Vec::with_capacity(1024)).await;
            assert!(head.starts_with(b"HTTP/1.1 101 "));
            let mut buffer = Vec::with_capacity(answer.len());
            for _ in 0..MESSAGES / depth {
                write(&near, &burst).await;
                buffer.clear();
                while buffer.len() < answer.len() {
                    buffer = read(&near, buffer).await;
                }
                assert!(buffer == answer);
            }
        });
    });
}

async fn write(near: &Stream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match near.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(_) => near.writable().await.unwrap(),
        }
    }
}

async fn read(near: &Stream, buffer: Vec<u8>) -> Vec<u8> {
    let (result, buffer) = near.read(buffer).await;
    assert!(result.unwrap() > 0);
    buffer
}
