//! The proof that the self-test notices, and that the path of a message allocates nothing. Only in builds with the feature
//! `proof`, which nobody uses but `tests/proof.rs`; in all others nothing of this is there.

#[cfg(feature = "proof")]
use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    sync::OnceLock,
};

/// How the engine can be broken on purpose: each is what other load generators do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// A response counts from when its message was sent.
    FromSend,
    /// What was not answered is not in the histogram.
    DropUnanswered,
    /// Every reply is the right one.
    BelieveAll,
    /// Our own lateness is not told.
    HideLag,
}

/// Whether the engine is broken so.
#[cfg(not(feature = "proof"))]
#[inline(always)]
pub(crate) const fn is_broken(_: Break) -> bool {
    false
}

/// Whether the engine is broken so: by the variable `LOADGEN_BREAK`.
#[cfg(feature = "proof")]
pub(crate) fn is_broken(how: Break) -> bool {
    static HOW: OnceLock<Option<Break>> = OnceLock::new();
    let chosen = HOW.get_or_init(|| match std::env::var("LOADGEN_BREAK").ok()?.as_str() {
        "from-send" => Some(Break::FromSend),
        "drop-unanswered" => Some(Break::DropUnanswered),
        "believe-all" => Some(Break::BelieveAll),
        "hide-lag" => Some(Break::HideLag),
        other => panic!("there is no way `{other}` to break it"),
    });
    *chosen == Some(how)
}

/// How often this thread has allocated so far; 0 where nobody counts.
#[cfg(not(feature = "proof"))]
pub(crate) const fn allocations() -> u64 {
    0
}

/// How often this thread has allocated so far.
#[cfg(feature = "proof")]
pub(crate) fn allocations() -> u64 {
    COUNT.get()
}

#[cfg(feature = "proof")]
thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The allocator, which counts.
#[cfg(feature = "proof")]
pub(crate) struct Counting;

#[cfg(feature = "proof")]
#[expect(unsafe_code, reason = "the trait of allocators is unsafe; all is passed on as it is")]
// SAFETY: mimalloc keeps the promises of the trait, and nothing is changed on the way.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those of the same function.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { mimalloc::MiMalloc.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as above.
        unsafe { mimalloc::MiMalloc.realloc(at, layout, size) }
    }
}
