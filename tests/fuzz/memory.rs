//! An allocator that knows how much a thread holds, so that a bound on memory is something to assert.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// What something holds that allocates only while it is watched.
#[derive(Debug, Default)]
pub struct Meter {
    held: isize,
}

impl Meter {
    /// Runs `f`, and says how many bytes were held at most meanwhile.
    pub fn watch<T>(&mut self, f: impl FnOnce() -> T) -> (T, usize) {
        let before = LIVE.get();
        PEAK.set(before);
        let result = f();
        let most = self.held + PEAK.get() - before;
        self.held += LIVE.get() - before;
        (result, most.try_into().unwrap_or(0))
    }
}

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(more: usize, less: usize) {
    // A thread that is going away allocates, too, and has no counters any more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + more as isize - less as isize);
        PEAK.try_with(|peak| peak.set(peak.get().max(live.get())))
    });
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: everything is the system allocator's; counting touches a thread's own cells, which needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
