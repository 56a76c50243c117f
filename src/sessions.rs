//! The live connections of a core, whatever they speak: deadlines, goodbye, end.
//!
//! One ticker a core looks at every connection; no connection has a timer of its own. What a connection waits for
//! is wrapped in [`Link::wait`], which also wakes for a passed deadline and for the goodbye of a drain.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
};

use slab::Slab;

use crate::{Stream, Token, worker::Worker};

/// Milliseconds since the core started. Coarse: it moves with the ticker.
pub(crate) type Millis = u64;

/// No deadline.
pub(crate) const NEVER: Millis = Millis::MAX;

/// A live connection: its transport, and what the core knows of it.
pub(crate) struct Link {
    pub(crate) stream: Stream,
    pub(crate) worker: Rc<Worker>,
    pub(crate) id: u64,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) since: Millis,
    /// The protocol, once it was switched.
    pub(crate) token: Cell<Option<Token>>,
    pub(crate) received: Cell<u64>,
    pub(crate) sent: Cell<u64>,
    read_by: Cell<Millis>,
    write_by: Cell<Millis>,
    goodbye_at: Cell<Millis>,
    /// When the ticker looks at it next: never later than the soonest of the three above.
    look_at: Cell<Millis>,
    slot: Cell<usize>,
    expired: Cell<bool>,
    goodbye: Cell<bool>,
    cut: Cell<bool>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

/// Which half of a connection waits: each has a waker and a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Read,
    Write,
}

/// Why a wait ended before what it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// Its deadline has passed.
    Expired,
    /// The server drains.
    Goodbye,
}

impl Link {
    /// Waits for `operation`, at most until its deadline; where `heeds_goodbye`, at most until the drain's word.
    pub(crate) async fn wait<T>(
        &self,
        side: Side,
        heeds_goodbye: bool,
        operation: impl Future<Output = T>,
    ) -> Result<T, Interrupt> {
        let mut operation = pin!(operation);
        poll_fn(|cx| {
            if let Poll::Ready(output) = operation.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if self.expired.get() {
                return Poll::Ready(Err(Interrupt::Expired));
            }
            if heeds_goodbye && self.goodbye.get() {
                return Poll::Ready(Err(Interrupt::Goodbye));
            }
            self.listen(side, cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Has `waker` woken when a deadline passes or the drain says goodbye.
    pub(crate) fn listen(&self, side: Side, waker: &Waker) {
        let cell = match side {
            Side::Read => &self.reader,
            Side::Write => &self.writer,
        };
        let kept = cell.take().filter(|kept| kept.will_wake(waker));
        cell.set(Some(kept.unwrap_or_else(|| waker.clone())));
    }

    /// Sets the moment by which what `side` waits for has to have happened; [`NEVER`] for none.
    pub(crate) fn deadline(&self, side: Side, by: Millis) {
        match side {
            Side::Read => self.read_by.set(by),
            Side::Write => self.write_by.set(by),
        }
        if by < self.look_at.get() {
            self.look_at.set(by);
            self.worker.sessions.look(self.slot.get(), by);
        }
    }

    /// As [`deadline`](Self::deadline), counted from now.
    pub(crate) fn within(&self, side: Side, limit: std::time::Duration) {
        let millis = limit.as_millis().try_into().unwrap_or(NEVER);
        self.deadline(side, self.worker.now().saturating_add(millis));
    }

    /// Whether a deadline has passed.
    pub(crate) fn is_expired(&self) -> bool {
        self.expired.get()
    }

    /// Whether it was the deadline of this side.
    pub(crate) fn is_overdue(&self, side: Side) -> bool {
        let by = match side {
            Side::Read => self.read_by.get(),
            Side::Write => self.write_by.get(),
        };
        by <= self.worker.now()
    }

    /// Gives a connection whose deadline has passed the time to say so.
    pub(crate) fn forgive(&self) {
        self.expired.set(false);
    }

    /// Whether the drain has asked for an end.
    pub(crate) fn is_goodbye(&self) -> bool {
        self.goodbye.get()
    }

    /// Whether we have ended it ourselves, against its protocol.
    pub(crate) fn was_cut(&self) -> bool {
        self.cut.get()
    }

    pub(crate) fn cut(&self) {
        self.cut.set(true);
        self.expired.set(true);
        self.stream.abort();
        self.wake();
    }

    fn wake(&self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn soonest(&self) -> Millis {
        self.read_by.get().min(self.write_by.get()).min(self.goodbye_at.get())
    }

    /// Does what is due, and tells when to look again.
    fn tick(&self, now: Millis) -> Millis {
        if self.goodbye_at.get() <= now {
            self.goodbye_at.set(NEVER);
            self.goodbye.set(true);
            self.wake();
        }
        let due = self.soonest();
        if due > now {
            return due;
        }
        if self.expired.get() {
            // It was told, and has neither ended nor asked for more time: its task waits for something else.
            self.cut();
            return NEVER;
        }
        self.expired.set(true);
        self.wake();
        now + GRACE
    }
}

/// How long an expired connection may take to say why, in milliseconds.
const GRACE: Millis = 2_000;

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.id)
    }
}

/// A connection's place in its core's list, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Tracked(pub(crate) Rc<Link>);

impl Tracked {
    /// From here on it speaks `token`.
    pub(crate) fn switched(&self, token: Token) {
        self.0.token.set(Some(token));
        let upgraded = &self.0.worker.sessions.upgraded;
        upgraded.set(upgraded.get() + 1);
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let sessions = &self.0.worker.sessions;
        if self.0.token.get().is_some() {
            sessions.upgraded.set(sessions.upgraded.get() - 1);
        }
        self.0.worker.sessions.live.borrow_mut().remove(self.0.slot.get());
    }
}

/// Every live connection of a core.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    live: RefCell<Slab<(Millis, Rc<Link>)>>,
    next_id: Cell<u64>,
    upgraded: Cell<usize>,
}

impl Sessions {
    pub(crate) fn track(&self, stream: Stream, peer: Option<SocketAddr>, worker: &Rc<Worker>) -> Tracked {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let link = Rc::new(Link {
            stream,
            worker: Rc::clone(worker),
            id,
            peer,
            since: worker.now(),
            token: Cell::new(None),
            received: Cell::new(0),
            sent: Cell::new(0),
            read_by: Cell::new(NEVER),
            write_by: Cell::new(NEVER),
            goodbye_at: Cell::new(NEVER),
            look_at: Cell::new(NEVER),
            slot: Cell::new(0),
            expired: Cell::new(false),
            goodbye: Cell::new(false),
            cut: Cell::new(false),
            reader: Cell::new(None),
            writer: Cell::new(None),
        });
        link.slot.set(self.live.borrow_mut().insert((NEVER, Rc::clone(&link))));
        Tracked(link)
    }

    pub(crate) fn len(&self) -> usize {
        self.live.borrow().len()
    }

    /// How many of them were switched.
    pub(crate) fn upgraded(&self) -> usize {
        self.upgraded.get()
    }

    fn look(&self, slot: usize, at: Millis) {
        if let Some((look_at, _)) = self.live.borrow_mut().get_mut(slot) {
            *look_at = at;
        }
    }

    /// The ticker's round: a walk over the deadlines, in which only those due are looked at.
    pub(crate) fn tick(&self, now: Millis) {
        let due: Vec<Rc<Link>> = {
            let live = self.live.borrow();
            live.iter().filter(|(_, (at, _))| *at <= now).map(|(_, (_, link))| Rc::clone(link)).collect()
        };
        // Waking and cutting may run code that comes back here, so the list is not borrowed meanwhile.
        for link in due {
            let again = link.tick(now);
            link.look_at.set(again);
            self.look(link.slot.get(), again);
        }
    }

    /// Spreads the goodbyes over `window` milliseconds from now.
    pub(crate) fn say_goodbye(&self, now: Millis, window: Millis) {
        let links = self.links();
        let count = links.len() as u64;
        for (place, link) in links.iter().enumerate() {
            // A connection without a protocol has nothing to say goodbye for; it ends as soon as it is idle.
            let wait = if link.token.get().is_some() { window * place as u64 / count } else { 0 };
            link.goodbye_at.set(now + wait);
            link.look_at.set(now + wait);
            self.look(link.slot.get(), now + wait);
        }
    }

    /// Ends everything that is left.
    pub(crate) fn cut_all(&self) {
        for link in self.links() {
            link.cut();
        }
    }

    fn links(&self) -> Vec<Rc<Link>> {
        self.live.borrow().iter().map(|(_, (_, link))| Rc::clone(link)).collect()
    }
}
