//! A WebSocket echo through the whole engine but the kernel: handshake, driver, handler, over the in-memory transport.
//!
//! `cargo bench --bench echo`. What is left beside the kernel's own cost for each message.

use std::rc::Rc;

use divan::{Bencher, counter::ItemsCount};
use switchpoint::{Config, Driver, Stream, Worker, duplex, protocols, ws};

fn main() {
    divan::main();
}

const MESSAGES: usize = 1000;

#[divan::bench(args = [1, 16])]
fn messages_of_20_bytes(bencher: Bencher<'_, '_>, depth: usize) {
    echo(bencher, 20, depth);
}

#[divan::bench(args = [1, 16])]
fn messages_of_1_kib(bencher: Bencher<'_, '_>, depth: usize) {
    echo(bencher, 1024, depth);
}

fn echo(bencher: Bencher<'_, '_>, size: usize, depth: usize) {
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
            let (near, far) = duplex::pair();
            monoio::spawn(Rc::clone(&worker).serve(Stream::from(far), None));
            let request = "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
            near.write_all(request.as_bytes()).await.unwrap();
            let head = read(&near, Vec::with_capacity(1024)).await;
            assert!(head.starts_with(b"HTTP/1.1 101 "));
            let mut buffer = Vec::with_capacity(answer.len());
            for _ in 0..MESSAGES / depth {
                near.write_all(&burst).await.unwrap();
                buffer.clear();
                while buffer.len() < answer.len() {
                    buffer = read(&near, buffer).await;
                }
                assert!(buffer == answer);
            }
        });
    });
}

async fn read(near: &duplex::Duplex, buffer: Vec<u8>) -> Vec<u8> {
    let (result, buffer) = near.read(buffer).await;
    assert!(result.unwrap() > 0);
    buffer
}
