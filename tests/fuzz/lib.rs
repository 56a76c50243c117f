//! The targets as libFuzzer wants them: one input, of bytes. `tests/seeded` runs the same ones as plain tests.

pub mod memory;
pub mod random;
pub mod targets;

use random::Random;
use targets::Target;

/// The first eight bytes of an input choose cuts and settings; the others are what the peer says.
pub fn play(target: Target, input: &[u8]) {
    let (seed, bytes) = input.split_first_chunk().unwrap_or((&[0; 8], input));
    target(bytes, &mut Random(u64::from_le_bytes(*seed)));
}
