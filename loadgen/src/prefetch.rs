//! What is about to be needed, on its way into the cache before it is.

/// Has the memory of `value` fetched, side by side with whatever else is under way.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    const { assert!(size_of::<T>() > 0, "there is nothing to fetch") };
    let start = std::ptr::from_ref(value).cast::<u8>();
    for line in 0..size_of::<T>().div_ceil(LINE) {
        prefetch_line(start.wrapping_add(line * LINE));
    }
    // It may begin in the middle of a line.
    prefetch_line(start.wrapping_add(size_of::<T>() - 1));
}

const LINE: usize = 64;

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a prefetch takes a pointer")]
#[inline(always)]
fn prefetch_line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: it neither reads nor faults, whatever the address is.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

/// There is no stable way to say so.
#[cfg(not(target_arch = "x86_64"))]
fn prefetch_line(_address: *const u8) {}
