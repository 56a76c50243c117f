//! Masking (5.3), at the width of this CPU.
//!
//! One safe body, compiled once for each instruction set. Most frames are small: they get
//! it inlined where it is used. For the others the widest is chosen once.

use std::sync::OnceLock;

use super::frame::put;

/// Masks or unmasks `payload`, which begins `offset` bytes into its frame's payload.
#[inline]
pub fn apply(payload: &mut [u8], key: [u8; 4], offset: usize) {
    if payload.len() < WORTH_A_CALL {
        body(payload, key, offset);
    } else {
        wide(payload, key, offset);
    }
}

/// Unmasks the `length` bytes at `from`, and moves them to `to`, which is before it, on the way: as long as they are few,
/// that is no dearer than where they lie.
#[inline]
pub fn apply_moving(bytes: &mut [u8], to: usize, from: usize, length: usize, key: [u8; 4]) {
    if length < WORTH_A_CALL {
        moving_body(bytes, to, from, length, key);
    } else {
        moving_wide(bytes, to, from, length, key);
    }
}

/// From this length on, wider registers save more than the call costs.
const WORTH_A_CALL: usize = 128;

/// From this length on it pays to mask the first bytes apart, so that no store behind them crosses a cache line.
const WORTH_ALIGNING: usize = 1024;
const CACHE_LINE: usize = 64;

#[inline(never)]
fn wide(payload: &mut [u8], key: [u8; 4], offset: usize) {
    if payload.len() < WORTH_ALIGNING {
        return widest().apply(payload, key, offset);
    }
    let (head, rest) = payload.split_at_mut(payload.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE));
    body(head, key, offset);
    widest().apply(rest, key, offset.wrapping_add(head.len()));
}

#[inline(never)]
fn moving_wide(bytes: &mut [u8], to: usize, from: usize, length: usize, key: [u8; 4]) {
    // Either the loads or the stores would be aligned, and never both: it does not pay.
    widest().apply_moving(bytes, to, from, length, key);
}

fn widest() -> Variant {
    static WIDEST: OnceLock<Variant> = OnceLock::new();
    *WIDEST.get_or_init(|| available().pop().expect("the portable one is always there"))
}

/// The body for one instruction set, which this CPU has: only [`available`] makes one.
#[derive(Clone, Copy)]
pub struct Variant {
    /// The instruction set.
    pub name: &'static str,
    run: unsafe fn(&mut [u8], [u8; 4], usize),
    run_moving: unsafe fn(&mut [u8], usize, usize, usize, [u8; 4]),
}

impl Variant {
    /// [`apply`], always with this instruction set.
    #[inline]
    #[expect(unsafe_code, reason = "a function for one instruction set is called on a CPU that has it")]
    pub fn apply(self, payload: &mut [u8], key: [u8; 4], offset: usize) {
        // SAFETY: `run` needs nothing but its instruction set. The field is private to this file,
        // and `available` sets it only after it asked the CPU.
        unsafe { (self.run)(payload, key, offset) }
    }

    /// [`apply_moving`], always with this instruction set.
    #[inline]
    #[expect(unsafe_code, reason = "as in `apply`")]
    pub fn apply_moving(self, bytes: &mut [u8], to: usize, from: usize, length: usize, key: [u8; 4]) {
        // SAFETY: as in `apply`.
        unsafe { (self.run_moving)(bytes, to, from, length, key) }
    }
}

/// What this CPU has, narrow to wide.
pub fn available() -> Vec<Variant> {
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "there is only one"))]
    let mut variants = vec![Variant { name: "portable", run: body, run_moving: moving_body }];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") {
            variants.push(Variant { name: "avx2", run: avx2, run_moving: moving_avx2 });
        }
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
        {
            variants.push(Variant { name: "avx512", run: avx512, run_moving: moving_avx512 });
        }
    }
    variants
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(payload: &mut [u8], key: [u8; 4], offset: usize) {
    body(payload, key, offset);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn avx512(payload: &mut [u8], key: [u8; 4], offset: usize) {
    body(payload, key, offset);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn moving_avx2(bytes: &mut [u8], to: usize, from: usize, length: usize, key: [u8; 4]) {
    moving_body(bytes, to, from, length, key);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn moving_avx512(bytes: &mut [u8], to: usize, from: usize, length: usize, key: [u8; 4]) {
    moving_body(bytes, to, from, length, key);
}

/// Each block is read whole before it is written, and what it is written over was read before.
#[inline(always)]
fn moving_body(bytes: &mut [u8], mut to: usize, mut from: usize, length: usize, key: [u8; 4]) {
    debug_assert!(to <= from, "it is moved forward only");
    let end = from + length;
    while end - from >= BLOCK {
        let block = masked::<BLOCK>(bytes, from, key);
        put(bytes, to, block);
        (to, from) = (to + BLOCK, from + BLOCK);
    }
    match end - from {
        left @ 32.. => move_ends::<32>(bytes, to, from, left, key),
        left @ 16.. => move_ends::<16>(bytes, to, from, left, key),
        left @ 8.. => move_ends::<8>(bytes, to, from, left, key),
        left @ 4.. => move_ends::<4>(bytes, to, from, left, key),
        left => {
            for at in 0..left {
                bytes[to + at] = bytes[from + at] ^ key[at];
            }
        }
    }
}

/// What has at least `N` bytes, and at most twice as many, as its first and its last `N`: where they meet, both write the
/// same.
#[inline(always)]
fn move_ends<const N: usize>(bytes: &mut [u8], to: usize, from: usize, length: usize, key: [u8; 4]) {
    let last = length - N;
    let first_block = masked::<N>(bytes, from, key);
    let last_block = masked::<N>(bytes, from + last, turned(key, last));
    put(bytes, to, first_block);
    put(bytes, to + last, last_block);
}

/// The key for what lies `offset` bytes behind its beginning.
#[inline(always)]
fn turned(key: [u8; 4], offset: usize) -> [u8; 4] {
    u32::from_le_bytes(key).rotate_right(8 * (offset as u32 % 4)).to_le_bytes()
}

#[inline(always)]
fn masked<const N: usize>(bytes: &[u8], at: usize, key: [u8; 4]) -> [u8; N] {
    let mut block: [u8; N] = bytes[at..at + N].try_into().expect("it is that long");
    for word in block.as_chunks_mut().0 {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    block
}

/// A multiple of the key's length, and of the widest register's.
const BLOCK: usize = 64;

/// Eight bytes a step; the compiler makes wider ones of it.
#[inline(always)]
fn body(payload: &mut [u8], key: [u8; 4], offset: usize) {
    let key = turned(key, offset);
    let length = payload.len();
    if length < BLOCK {
        return moving_body(payload, 0, 0, length, key);
    }
    let key = u64::from(u32::from_le_bytes(key)) * 0x1_0000_0001;
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_le_bytes(*word) ^ key).to_le_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.to_le_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_does_what_the_rfc_defines() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let plain: Vec<u8> = (0..2008_u32).map(|i| (i * 31 % 251) as u8).collect();
        for length in (0..=300).chain([1023, 1024, 1087, 2000]) {
            for offset in [0, 1, 2, 3, 4, 1001, usize::MAX] {
                for start in 0..8 {
                    let whole = start..start + length;
                    let mut expected = plain.clone();
                    for (i, byte) in expected[whole.clone()].iter_mut().enumerate() {
                        *byte ^= key[offset.wrapping_add(i) % 4];
                    }
                    let check = |name: &str, run: &dyn Fn(&mut [u8])| {
                        let mut masked = plain.clone();
                        run(&mut masked[whole.clone()]);
                        assert!(masked == expected, "{name} {length} {offset} {start}");
                    };
                    check("apply", &|payload| apply(payload, key, offset));
                    for variant in available() {
                        check(variant.name, &|payload| variant.apply(payload, key, offset));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_moved_is_masked_like_what_stays() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let plain: Vec<u8> = (0..2200_u32).map(|i| (i * 31 % 251) as u8).collect();
        for length in (0..=300).chain([1023, 1024, 1087, 2000]) {
            for distance in [0, 1, 4, 7, 63, 64, 90] {
                let (to, from) = (3, 3 + distance);
                let mut expected = plain.clone();
                for i in 0..length {
                    expected[to + i] = plain[from + i] ^ key[i % 4];
                }
                let check = |name: &str, run: &dyn Fn(&mut [u8])| {
                    let mut moved = plain.clone();
                    run(&mut moved);
                    // What lies behind is nobody's any more.
                    let end = to + length;
                    assert!(moved[..end] == expected[..end], "{name} {length} {distance}");
                    assert!(moved[from + length..] == plain[from + length..], "{name} {length} {distance}");
                };
                check("apply", &|bytes| apply_moving(bytes, to, from, length, key));
                for variant in available() {
                    check(variant.name, &|bytes| variant.apply_moving(bytes, to, from, length, key));
                }
            }
        }
    }

    #[test]
    fn pieces_mask_like_the_whole() {
        let mut whole = vec![0x5a; 1000];
        let mut pieces = whole.clone();
        apply(&mut whole, [1, 2, 3, 4], 0);
        let mut at = 0;
        for size in (1..).take_while(|size| size * (size + 1) / 2 <= 1000) {
            apply(&mut pieces[at..at + size], [1, 2, 3, 4], at);
            at += size;
        }
        apply(&mut pieces[at..], [1, 2, 3, 4], at);
        assert_eq!(pieces, whole);
    }
}
