//! Masking (RFC 6455 5.3): every instruction set of this CPU against a plain copy, from a chat message to a picture.
//!
//! `cargo bench --bench mask`. The buffer is misaligned by one, as a payload behind its header mostly is.

use divan::{Bencher, black_box, counter::BytesCount};
use switchpoint::ws::mask;

fn main() {
    divan::main();
}

const SIZES: [usize; 6] = [20, 125, 1024, 16 << 10, 64 << 10, 1 << 20];
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What no masking can beat.
#[divan::bench(args = SIZES)]
fn memcpy(bencher: Bencher<'_, '_>, size: usize) {
    let source = vec![7; size + 1];
    let mut target = vec![0; size + 1];
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        target[1..].copy_from_slice(black_box(&source[1..]));
        assert_eq!(black_box(&target)[size], 7);
    });
}

/// The one that connections use.
#[divan::bench(args = SIZES)]
fn dispatched(bencher: Bencher<'_, '_>, size: usize) {
    bench(bencher, size, |payload| mask::apply(payload, KEY, 0));
}

/// Each by itself, by its place in the list; `cargo bench --bench mask -- --test` prints the names.
#[divan::bench(args = SIZES, consts = [0, 1, 2])]
fn variant<const PLACE: usize>(bencher: Bencher<'_, '_>, size: usize) {
    let Some(variant) = mask::available().get(PLACE).copied() else { return };
    bench(bencher, size, |payload| variant.apply(payload, KEY, 0));
}

/// The definition, word for word.
#[divan::bench(args = SIZES)]
fn bytewise(bencher: Bencher<'_, '_>, size: usize) {
    bench(bencher, size, |payload| {
        for (place, byte) in payload.iter_mut().enumerate() {
            *byte ^= KEY[place & 3];
        }
    });
}

fn bench(bencher: Bencher<'_, '_>, size: usize, mut apply: impl FnMut(&mut [u8])) {
    let mut buffer = vec![0; size + 1];
    apply(&mut buffer[1..]);
    assert_eq!(buffer[size], KEY[(size - 1) & 3], "the last byte is masked by its key byte");
    bencher.counter(BytesCount::new(size)).bench_local(|| apply(black_box(&mut buffer[1..])));
}
