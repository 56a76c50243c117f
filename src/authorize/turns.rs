//! So many at a time, and so many who wait for their turn.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::poll_fn,
    task::{Poll, Waker},
};

#[derive(Debug)]
pub(super) struct Turns {
    free: Cell<usize>,
    waiting: RefCell<BTreeMap<u64, Waker>>,
    waiting_max: usize,
    next: Cell<u64>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    pub(super) fn new(count: usize, waiting_max: usize) -> Self {
        Self { free: Cell::new(count), waiting: RefCell::default(), waiting_max, next: Cell::new(0) }
    }

    /// Waits for a turn; `None` at once if too many do.
    pub(super) async fn take(&self) -> Option<Turn<'_>> {
        if self.free.get() == 0 && self.waiting.borrow().len() >= self.waiting_max {
            return None;
        }
        let number = self.next.replace(self.next.get() + 1);
        let place = Place { turns: self, number };
        poll_fn(|cx| {
            if self.free.get() > 0 {
                self.free.set(self.free.get() - 1);
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().insert(number, cx.waker().clone());
            Poll::Pending
        })
        .await;
        self.waiting.borrow_mut().remove(&number);
        std::mem::forget(place); // it waits no more
        Some(Turn(self))
    }

    fn call_next(&self) {
        if self.free.get() > 0 {
            let next = self.waiting.borrow_mut().pop_first();
            if let Some((_, waker)) = next {
                waker.wake();
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
        self.0.call_next();
    }
}

/// Who waits; who gives up while it is called passes the call on.
struct Place<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.turns.waiting.borrow_mut().remove(&self.number).is_none() {
            self.turns.call_next();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Context, Wake},
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_is_called_and_who_gives_up_passes_it_on() {
        let turns = Turns::new(1, 2);
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let called = || count.0.load(Ordering::Relaxed);
        let Poll::Ready(Some(first)) = pin!(turns.take()).poll(&mut cx) else { panic!() };
        let mut second = Box::pin(turns.take());
        let mut third = Box::pin(turns.take());
        assert!(second.as_mut().poll(&mut cx).is_pending() && third.as_mut().poll(&mut cx).is_pending());
        assert!(matches!(pin!(turns.take()).poll(&mut cx), Poll::Ready(None)), "no more may wait");
        drop(first);
        assert_eq!(called(), 1);
        drop(second);
        assert_eq!(called(), 2);
        let Poll::Ready(Some(turn)) = third.as_mut().poll(&mut cx) else { panic!() };
        drop(turn);
        assert_eq!((called(), turns.waiting.borrow().len(), turns.free.get()), (2, 0, 1));
    }
}
