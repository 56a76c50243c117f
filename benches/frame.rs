//! Reading frames (RFC 6455 5.2): a burst as one read brings it, for several sizes of message.
//!
//! `cargo bench --bench frame`. Each round also writes the burst anew, for unmasking is done in place; `copy` is what
//! that costs alone.

use divan::{Bencher, counter::ItemsCount};
use switchpoint::ws::{self, Event, Opcode, Receiver, Role};

fn main() {
    divan::main();
}

const SIZES: [usize; 4] = [20, 125, 1024, 16 << 10];
const BURST: usize = 16;

fn burst(opcode: Opcode, size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..BURST {
        let mut payload = vec![b'x'; size];
        ws::mask::apply(&mut payload, [1, 2, 3, 4], 0);
        let header =
            ws::Header { fin: true, rsv1: false, opcode, mask: Some([1, 2, 3, 4]), length: size as u64 };
        let mut head = [0; ws::Header::SIZE_MAX];
        let head_len = header.encode(&mut head);
        bytes.extend_from_slice(&head[..head_len]);
        bytes.extend_from_slice(&payload);
    }
    bytes
}

fn read(bencher: Bencher<'_, '_>, opcode: Opcode, size: usize) {
    let source = burst(opcode, size);
    let mut bytes = source.clone();
    let mut receiver = Receiver::new(Role::Server, ws::Limits::default());
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        bytes.copy_from_slice(&source);
        let (mut at, mut messages) = (0, 0);
        loop {
            let received = receiver.receive(&mut bytes[at..]).unwrap();
            at += received.consumed;
            match received.event {
                Some(Event::Text(text)) => assert_eq!(text.len(), size),
                Some(Event::Binary(payload)) => assert_eq!(payload.len(), size),
                _ => break,
            }
            messages += 1;
        }
        assert_eq!((at, messages), (source.len(), BURST));
    });
}

#[divan::bench(args = SIZES)]
fn binary(bencher: Bencher<'_, '_>, size: usize) {
    read(bencher, Opcode::Binary, size);
}

#[divan::bench(args = SIZES)]
fn text(bencher: Bencher<'_, '_>, size: usize) {
    read(bencher, Opcode::Text, size);
}

#[divan::bench(args = SIZES)]
fn copy(bencher: Bencher<'_, '_>, size: usize) {
    let source = burst(Opcode::Binary, size);
    let mut bytes = source.clone();
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        bytes.copy_from_slice(divan::black_box(&source));
        assert_eq!(bytes.len(), source.len());
    });
}
