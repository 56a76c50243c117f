//! Where a core keeps the sessions that it goes on with as soon as something arrives, each by its slot.
//!
//! A session runs in a task: whatever it waits for wakes the task, and the runtime polls it when its turn comes. What
//! mostly happens is that bytes arrive, and the readiness set tells of it by the slot. So a session's future does not lie
//! in its task but here, and it is polled on the spot, with the task's waker: nothing is woken, queued or counted. Its
//! task sees to the rest, and to the end.
//!
//! The state of thousands of connections does not stay in a core's own cache, and one that is gone on with would wait for
//! it piece by piece: future, handler, link, one behind the other. When a burst of them is told at once, the addresses of
//! all the pieces are known, and memory can fetch them side by side.

use std::{
    cell::{Cell, RefCell},
    fmt,
    panic::{self, AssertUnwindSafe},
    ptr,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use crate::{
    Error,
    connection::{Panic, poll_caught},
    registry::LocalBoxFuture,
    sessions::keep,
};

/// The sessions of a core.
#[derive(Default)]
pub(crate) struct Seats {
    pages: RefCell<Vec<Rc<Page>>>,
    /// Those that ended while their task was elsewhere.
    ended: RefCell<Vec<(u32, Running, Ended)>>,
}

impl fmt::Debug for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seats({} pages)", self.pages.borrow().len())
    }
}

/// In pages, because a vector that has grown leaves its old memory behind.
type Page = [Seat; PAGE];

struct Seat {
    running: Cell<Option<Running>>,
    /// Wakes the task that `running` is waited for in.
    task: Cell<Option<Waker>>,
    /// Where the rest of the state lies. They are addresses and no references: one that is out of date costs a fetch in
    /// vain, and nothing else.
    parts: Cell<[usize; PARTS]>,
}

type Running = LocalBoxFuture<'static, Result<(), Error>>;

/// How a session has ended.
pub(crate) type Ended = Result<Result<(), Error>, Panic>;

impl Seats {
    /// Puts a session there. It is driven by [`poll`](Self::poll).
    pub(crate) fn seat(&self, slot: u32, running: Running) {
        let mut pages = self.pages.borrow_mut();
        while pages.len() <= slot as usize / PAGE {
            pages.push(Rc::new([const { Seat::empty() }; PAGE]));
        }
        let seat = &pages[slot as usize / PAGE][slot as usize % PAGE];
        seat.running.set(Some(running));
        seat.task.set(None);
    }

    /// Goes on with a session in its task.
    pub(crate) fn poll(&self, slot: u32, cx: &mut Context<'_>) -> Poll<Ended> {
        let page = self.page(slot);
        let Some(seat) = seat(&page, slot) else { return Poll::Pending };
        let Some(mut running) = seat.running.take() else {
            return self.take_ended(slot).map_or(Poll::Pending, |ended| Poll::Ready(put_away(ended)));
        };
        keep(&seat.task, cx.waker());
        match poll_caught(running.as_mut(), cx) {
            Poll::Pending => {
                seat.running.set(Some(running));
                Poll::Pending
            }
            Poll::Ready(ended) => Poll::Ready(put_away((running, ended))),
        }
    }

    /// Goes on with a session without its task, if it is the one that `waiting` would wake, and nothing within it.
    #[inline]
    pub(crate) fn go_on(&self, slot: u32, waiting: &Cell<Option<Waker>>) -> bool {
        let page = self.page(slot);
        let Some(seat) = seat(&page, slot) else { return false };
        let Some(task) = seat.task.take() else { return false };
        let waker = waiting.take();
        let is_it = waker.as_ref().is_some_and(|waker| waker.will_wake(&task));
        waiting.set(waker);
        let running = if is_it { seat.running.take() } else { None };
        let is_there = running.is_some();
        if let Some(mut running) = running {
            match poll_caught(running.as_mut(), &mut Context::from_waker(&task)) {
                Poll::Pending => seat.running.set(Some(running)),
                Poll::Ready(ended) => {
                    self.ended.borrow_mut().push((slot, running, ended));
                    task.wake_by_ref();
                }
            }
        }
        seat.task.set(Some(task));
        is_there
    }

    /// Drops what there is of a session.
    pub(crate) fn clear(&self, slot: u32) {
        let page = self.page(slot);
        let Some(seat) = seat(&page, slot) else { return };
        drop(seat.running.take());
        drop(self.take_ended(slot));
        drop(seat.task.take());
        seat.parts.set([0; PARTS]);
    }

    /// Keeps no task any more by what would wake it: for a core whose runtime is over.
    pub(crate) fn let_go(&self) {
        // With a waker its task may go, and what it holds.
        let pages = self.pages.borrow().clone();
        pages.iter().flat_map(|page| page.iter()).for_each(|seat| drop(seat.task.take()));
    }

    /// From now on, the session in `slot` keeps its state at these addresses, of which each begins a part.
    pub(crate) fn keeps_state_at(&self, slot: u32, parts: [usize; PARTS]) {
        let page = self.page(slot);
        if let Some(seat) = seat(&page, slot) {
            seat.parts.set(parts);
        }
    }

    /// Has the state of the session in `slot` fetched, and what begins at `link`.
    #[inline]
    pub(crate) fn prefetch(&self, slot: u32, link: usize) {
        let pages = self.pages.borrow();
        let Some(page) = pages.get(slot as usize / PAGE) else { return };
        let seat = &page[slot as usize % PAGE];
        let running = seat.running.take();
        if let Some(running) = &running {
            let lines = size_of_val(&**running).div_ceil(LINE).min(LINES_MAX);
            prefetch(ptr::from_ref(&**running).addr(), lines);
        }
        seat.running.set(running);
        let [handler, shared] = seat.parts.get();
        for part in [link, shared, handler] {
            prefetch(part, LINES);
        }
    }

    #[inline]
    fn page(&self, slot: u32) -> Option<Rc<Page>> {
        self.pages.borrow().get(slot as usize / PAGE).map(Rc::clone)
    }

    fn take_ended(&self, slot: u32) -> Option<(Running, Ended)> {
        let mut ended = self.ended.borrow_mut();
        let at = ended.iter().position(|(of, ..)| *of == slot)?;
        let (_slot, running, result) = ended.swap_remove(at);
        Some((running, result))
    }
}

fn seat(page: &Option<Rc<Page>>, slot: u32) -> Option<&Seat> {
    page.as_ref().map(|page| &page[slot as usize % PAGE])
}

/// Drops the future of a session that has ended. That is the last of its code, and may panic like the rest of it.
fn put_away((running, ended): (Running, Ended)) -> Ended {
    match panic::catch_unwind(AssertUnwindSafe(|| drop(running))) {
        Ok(()) => ended,
        Err(panic) => ended.and(Err(panic)),
    }
}

impl Seat {
    const fn empty() -> Self {
        Self { running: Cell::new(None), task: Cell::new(None), parts: Cell::new([0; PARTS]) }
    }
}

/// Handler, and what it shares with its protocol.
pub(crate) const PARTS: usize = 2;
const PAGE: usize = 128;
/// Of each part, those that are fetched.
const LINES: usize = 4;
const LINE: usize = 64;
/// Of the future, at most.
const LINES_MAX: usize = 8;

fn prefetch(start: usize, lines: usize) {
    for line in 0..lines {
        prefetch_line(start.wrapping_add(line * LINE));
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a prefetch takes a pointer")]
#[inline(always)]
fn prefetch_line(address: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: it neither reads nor faults, whatever the address is.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(ptr::without_provenance(address)) }
}

/// There is no stable way to say so.
#[cfg(not(target_arch = "x86_64"))]
fn prefetch_line(_address: usize) {}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Task {
        fn is_woken(&self) -> bool {
            self.0.swap(0, Ordering::Relaxed) > 0
        }
    }

    /// A session that waits with `waiting` and counts its polls, to end as `end` says at the third.
    fn session(
        waiting: &Rc<Cell<Option<Waker>>>,
        polls: &Rc<Cell<u32>>,
        end: fn() -> Result<(), Error>,
    ) -> Running {
        let (waiting, polls) = (Rc::clone(waiting), Rc::clone(polls));
        Box::pin(std::future::poll_fn(move |cx| {
            polls.set(polls.get() + 1);
            keep(&waiting, cx.waker());
            if polls.get() == 3 { Poll::Ready(end()) } else { Poll::Pending }
        }))
    }

    #[test]
    fn a_session_goes_on_without_its_task_and_ends_in_it() {
        let ends: [fn() -> Result<(), Error>; 3] =
            [|| Ok(()), || Err(Error::TimedOut), || panic!("as it is meant to")];
        for (slot, end) in [0, PAGE as u32, 5].into_iter().zip(ends) {
            let (seats, waiting, polls) = (Seats::default(), Rc::default(), Rc::default());
            let task = Arc::new(Task::default());
            let waker = Waker::from(Arc::clone(&task));
            let cx = &mut Context::from_waker(&waker);
            seats.seat(slot, session(&waiting, &polls, end));
            assert!(!seats.go_on(slot, &waiting), "its task has not begun with it");
            assert!(seats.poll(slot, cx).is_pending());
            assert!(seats.go_on(slot, &waiting) && !task.is_woken());
            assert_eq!(polls.get(), 2);
            assert!(seats.go_on(slot, &waiting) && task.is_woken());
            // What arrives behind the end is nobody's.
            assert!(!seats.go_on(slot, &waiting));
            assert_eq!(Rc::strong_count(&polls), 2, "it is dropped in its task");
            let Poll::Ready(ended) = seats.poll(slot, cx) else { panic!("it has ended") };
            assert_eq!(ended.is_err(), slot == 5);
            assert_eq!(matches!(ended, Ok(Err(Error::TimedOut))), slot == PAGE as u32);
            assert_eq!((polls.get(), Rc::strong_count(&polls)), (3, 1));
            assert!(seats.ended.borrow().is_empty() && seats.poll(slot, cx).is_pending());
        }
    }

    #[test]
    fn a_panic_at_the_end_of_a_session_is_its_own_too() {
        struct Breaks;
        impl Drop for Breaks {
            fn drop(&mut self) {
                panic!("as it is meant to");
            }
        }
        let seats = Seats::default();
        let waker = Waker::from(Arc::new(Task::default()));
        let breaks = Breaks;
        seats.seat(
            0,
            Box::pin(std::future::poll_fn(move |_| {
                let _ = &breaks;
                Poll::Ready(Ok(()))
            })),
        );
        let ended = seats.poll(0, &mut Context::from_waker(&waker));
        assert!(matches!(ended, Poll::Ready(Err(_))));
    }

    #[test]
    fn a_seat_keeps_no_task_once_it_has_let_go() {
        let (seats, waiting, polls) = (Seats::default(), Rc::default(), Rc::default());
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        seats.seat(0, session(&waiting, &polls, || Ok(())));
        assert!(seats.poll(0, &mut Context::from_waker(&waker)).is_pending());
        drop((waker, waiting.take()));
        assert_eq!(Arc::strong_count(&task), 2);
        seats.let_go();
        assert_eq!(Arc::strong_count(&task), 1);
    }

    #[test]
    fn where_something_within_a_session_waits_that_is_woken() {
        let (seats, waiting, polls) = (Seats::default(), Rc::default(), Rc::default());
        let (task, within) = (Waker::from(Arc::new(Task::default())), Waker::from(Arc::new(Task::default())));
        seats.seat(0, session(&waiting, &polls, || Ok(())));
        assert!(seats.poll(0, &mut Context::from_waker(&task)).is_pending());
        waiting.set(Some(within.clone()));
        assert!(!seats.go_on(0, &waiting));
        assert!(waiting.take().is_some_and(|waker| waker.will_wake(&within)), "it still waits");
        assert!(!seats.go_on(0, &waiting), "nothing waits");
        assert_eq!(polls.get(), 1);
    }

    #[test]
    fn what_is_left_of_a_session_is_dropped_with_its_connection() {
        for polls_before in [0, 1, 3] {
            let (seats, waiting, polls) = (Seats::default(), Rc::default(), Rc::default());
            let waker = Waker::from(Arc::new(Task::default()));
            seats.seat(3, session(&waiting, &polls, || Ok(())));
            for poll in 0..polls_before {
                match poll {
                    0 => assert!(seats.poll(3, &mut Context::from_waker(&waker)).is_pending()),
                    _ => assert!(seats.go_on(3, &waiting)),
                }
            }
            seats.clear(3);
            assert_eq!(Rc::strong_count(&polls), 1, "{polls_before}");
            assert!(!seats.go_on(3, &waiting));
        }
    }

    #[test]
    fn any_slot_and_any_address_will_do() {
        let seats = Seats::default();
        seats.prefetch(7, 1);
        seats.clear(7);
        seats.keeps_state_at(7, [1; PARTS]);
        seats.seat(3 * PAGE as u32, Box::pin(std::future::pending()));
        seats.keeps_state_at(3 * PAGE as u32, [1, usize::MAX - 100]);
        assert_eq!(seats.pages.borrow().len(), 4);
        for slot in 0..5 * PAGE as u32 {
            seats.prefetch(slot, usize::MAX);
            assert!(!seats.go_on(slot, &Cell::new(None)));
        }
    }
}
