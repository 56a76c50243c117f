//! What is about to be needed, on its way into the cache before it is.
//!
//! The state of thousands of connections does not stay in a core's own cache, and a connection that is woken would wait for
//! it piece by piece: task, future, handler, link, one behind the other. When a burst of them is told at once, the addresses
//! of all the pieces are known, and memory can fetch them side by side.

use std::cell::RefCell;

/// Where the parts of each connection's state lie, by its slot.
///
/// They are addresses and no references: one that is out of date costs a fetch in vain, and nothing else.
#[derive(Debug, Default)]
pub(crate) struct Places(RefCell<Vec<Box<Page>>>);

/// In pages, because a vector that has grown leaves its old memory behind.
type Page = [[usize; PARTS]; PAGE];

impl Places {
    /// From now on, the connection in `slot` keeps its state at these addresses, of which each begins a part.
    pub(crate) fn set(&self, slot: u32, parts: [usize; PARTS]) {
        let (mut pages, slot) = (self.0.borrow_mut(), slot as usize);
        while pages.len() <= slot / PAGE {
            pages.push(Box::new([[0; PARTS]; PAGE]));
        }
        pages[slot / PAGE][slot % PAGE] = parts;
    }

    /// Has the state of the connection in `slot` fetched.
    #[inline]
    pub(crate) fn prefetch(&self, slot: u32) {
        let (pages, slot) = (self.0.borrow(), slot as usize);
        let Some(page) = pages.get(slot / PAGE) else { return };
        for part in page[slot % PAGE] {
            for line in 0..LINES {
                prefetch(part.wrapping_add(line * LINE));
            }
        }
    }
}

/// Task, protocol, handler, what those two share, and the link.
pub(crate) const PARTS: usize = 5;
const PAGE: usize = 128;
/// Of each part, those that are fetched.
const LINES: usize = 4;
const LINE: usize = 64;

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a prefetch takes a pointer")]
#[inline(always)]
fn prefetch(address: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: it neither reads nor faults, whatever the address is.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address)) }
}

/// There is no stable way to say so.
#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_address: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_slot_and_any_address_will_do() {
        let places = Places::default();
        places.prefetch(7);
        places.set(3 * PAGE as u32, [0, 1, usize::MAX, usize::MAX - 100, std::ptr::from_ref(&places).addr()]);
        places.set(1, [8; PARTS]);
        assert_eq!(places.0.borrow().len(), 4);
        assert_eq!(places.0.borrow()[0][1], [8; PARTS]);
        for slot in 0..5 * PAGE as u32 {
            places.prefetch(slot);
        }
    }
}
