//! The live connections of a core, whatever they speak: deadlines, goodbye, end.
//!
//! One ticker a core looks at every connection; no connection has a timer of its own. What a connection waits for
//! is wrapped in [`Link::wait`], which also wakes for a passed deadline and for the goodbye of a drain.

use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt,
    future::poll_fn,
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use pin_project_lite::pin_project;
use slab::Slab;

use crate::{
    Error, Listener, Stream, Token,
    authorize::Identity,
    limits::{self, Admitted},
    metrics::add,
    observe::{Details, SessionId},
    registry::LocalBoxFuture,
    seats::{Ended, PARTS, Seats},
    upgrade::ForSession,
    worker::Worker,
};

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
    pub(crate) listener: Option<u16>,
    /// When it was accepted; once it is switched, when that was.
    pub(crate) since: Cell<Millis>,
    /// What the handshake has told of the session.
    pub(crate) details: OnceCell<Rc<Details>>,
    /// What the handshake has kept for the session.
    pub(crate) kept: OnceCell<Box<ForSession>>,
    /// The protocol, once it was switched.
    pub(crate) token: Cell<Option<Token>>,
    pub(crate) received: Cell<u64>,
    pub(crate) sent: Cell<u64>,
    halves: [Half; 3],
    goodbye_at: Cell<Millis>,
    /// When the ticker looks at it next: never later than the soonest of the deadlines.
    look_at: Cell<Millis>,
    slot: Cell<u32>,
    /// A deadline has passed, and its task was woken to say so.
    warned: Cell<bool>,
    goodbye: Cell<bool>,
    cut: Cell<bool>,
    /// Its protocol is done: whoever still holds a part of it waits for nothing.
    over: Cell<bool>,
    /// What was done since the connection last had to wait.
    spent: Cell<u32>,
    /// What its core's readiness set has told.
    inlet: Cell<Inlet>,
    /// The code of the first close frame, from either side; 0 while there is none.
    close_code: Cell<u16>,
    /// What it counts for.
    pub(crate) admitted: Cell<Admitted>,
    /// Its goodbye is due to its age, and it has so long to end.
    outlived: Cell<bool>,
}

/// What its core's readiness set has told of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inlet {
    /// It was not put in.
    Unwatched,
    /// Nothing has arrived since all was taken.
    Empty,
    /// Something has.
    Filled,
    /// And nothing will be told any more: the peer has ended its side, or all.
    Ended,
}

/// What waits on one side of a connection.
struct Half {
    by: Cell<Millis>,
    waker: Cell<Option<Waker>>,
}

/// What a wait is for: each has a waker and a deadline of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Bytes from the peer, or a decision about them.
    Read,
    /// Room for bytes to the peer.
    Write,
    /// The peer's end, after the protocol is done.
    Close,
}

/// Why a wait ended before what it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// Its deadline has passed, or the connection is over.
    Expired,
    /// The server drains.
    Goodbye,
}

impl Link {
    /// Waits for `operation`, at most until its deadline; where `heeds_goodbye`, at most until the drain's word.
    pub(crate) fn wait<F: Future>(&self, side: Side, heeds_goodbye: bool, operation: F) -> Wait<'_, F> {
        Wait { link: self, side, heeds_goodbye, has_waited: false, operation }
    }

    /// Has `waker` woken when a deadline passes or the drain says goodbye.
    pub(crate) fn listen(&self, side: Side, waker: &Waker) {
        keep(&self.halves[side as usize].waker, waker);
    }

    /// Sets the moment by which what `side` waits for has to have happened; [`NEVER`] for none.
    pub(crate) fn deadline(&self, side: Side, by: Millis) {
        self.halves[side as usize].by.set(by);
        if by > self.worker.now() {
            self.warned.set(false);
        }
        if by < self.look_at.get() && !self.over.get() {
            self.look_at.set(by);
            self.worker.sessions.look(self.slot.get(), by);
        }
    }

    /// As [`deadline`](Self::deadline), counted from now.
    pub(crate) fn within(&self, side: Side, limit: Duration) {
        let millis = limit.as_millis().try_into().unwrap_or(NEVER);
        self.deadline(side, self.worker.now().saturating_add(millis));
    }

    /// Whether what `side` waits for is too late, or was cut off.
    pub(crate) fn is_overdue(&self, side: Side) -> bool {
        self.cut.get() || self.halves[side as usize].by.get() <= self.worker.now()
    }

    /// What it is called.
    pub(crate) fn session_id(&self) -> SessionId {
        SessionId { core: self.worker.core(), slot: self.slot.get(), number: self.id }
    }

    /// Takes note of bytes that have arrived.
    pub(crate) fn has_received(&self, count: usize) {
        add(&self.received, count as u64);
        if self.token.get().is_some() {
            add(&self.worker.counters.received, count as u64);
        }
    }

    /// Takes note of bytes that were sent.
    pub(crate) fn has_sent(&self, count: usize) {
        add(&self.sent, count as u64);
        if self.token.get().is_some() {
            add(&self.worker.counters.sent, count as u64);
        }
    }

    /// Takes note of a close frame; the first one counts.
    pub(crate) fn closes_with(&self, code: u16) {
        if self.close_code.get() == 0 {
            self.close_code.set(code);
        }
    }

    /// The code of the first close frame.
    pub(crate) fn close_code(&self) -> Option<u16> {
        Some(self.close_code.get()).filter(|code| *code != 0)
    }

    /// How long each side may still wait, in milliseconds: reading, writing, closing.
    pub(crate) fn time_left(&self) -> [Option<Millis>; 3] {
        let now = self.worker.now();
        [0, 1, 2].map(|side: usize| {
            Some(self.halves[side].by.get()).filter(|by| *by != NEVER).map(|by| by.saturating_sub(now))
        })
    }

    /// What the listener's settings are that it came through, if through one.
    pub(crate) fn listener(&self) -> Option<&Listener> {
        self.listener.and_then(|index| self.worker.config.listen.get(usize::from(index)))
    }

    /// What the handshake has kept, if it is a `T`.
    pub(crate) fn kept<T: 'static>(&self) -> Option<&T> {
        self.kept.get()?.value.as_deref()?.downcast_ref()
    }

    /// Who asked for the session, if that was found out.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.kept.get()?.identity.as_deref()
    }

    /// Whether the drain has asked for an end.
    pub(crate) fn is_goodbye(&self) -> bool {
        self.goodbye.get()
    }

    /// Sets the age at which it is told goodbye; [`Duration::MAX`] for none. A drain's word holds.
    pub(crate) fn goodbye_within(&self, limit: Duration) {
        if self.goodbye_at.get() != NEVER && !self.outlived.get() {
            return;
        }
        let millis = limit.as_millis().try_into().unwrap_or(NEVER);
        let at = self.worker.now().saturating_add(millis);
        self.outlived.set(at != NEVER);
        self.goodbye_at.set(at);
        if at < self.look_at.get() {
            self.look_at.set(at);
            self.worker.sessions.look(self.slot.get(), at);
        }
    }

    /// The drain has begun before it did.
    pub(crate) fn told(&self) {
        self.goodbye.set(true);
    }

    /// Whether we have ended it ourselves, against its protocol.
    pub(crate) fn was_cut(&self) -> bool {
        self.cut.get()
    }

    /// Ends it, whatever its protocol says.
    pub(crate) fn cut(&self) {
        if !self.cut.replace(true) && self.token.get().is_some() && !self.over.get() {
            add(&self.worker.counters.cut, 1);
        }
        self.stream.abort();
        self.wake();
    }

    /// Its protocol is done. Parts of it that somebody has kept wait for nothing any more.
    pub(crate) fn end(&self) {
        self.over.set(true);
        for side in [Side::Read, Side::Write] {
            self.halves[side as usize].by.set(NEVER);
        }
        self.wake();
    }

    /// Has the core's readiness set watch for what arrives, to wait with [`poll_arrival`](Self::poll_arrival) and no buffer;
    /// `false` where that is not possible.
    pub(crate) fn is_watched(&self) -> bool {
        if self.inlet.get() == Inlet::Unwatched {
            let Some(socket) = self.stream.socket() else { return false };
            let Some(readiness) = self.worker.readiness() else { return false };
            if readiness.add(socket, self.key()).is_err() {
                return false;
            }
            self.inlet.set(Inlet::Empty);
        }
        self.stream.is_at_rest()
    }

    /// Appends what has arrived to `buffer`, at most its spare capacity, and keeps in mind whether that was all.
    pub(crate) fn take_arrived(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let result = self.stream.try_read(buffer);
        let is_all = match &result {
            // A socket that has not filled it is empty. What stands before a socket may have taken more from it than this.
            Ok(count) => *count > 0 && buffer.len() < buffer.capacity() && self.stream.is_plain(),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if is_all && self.inlet.get() == Inlet::Filled {
            self.inlet.set(Inlet::Empty);
        }
        result
    }

    /// Where the state lies that its protocol needs as soon as something arrives: it is fetched ahead.
    pub(crate) fn keeps_state_at(&self, parts: [usize; PARTS]) {
        self.worker.sessions.seats.keeps_state_at(self.slot.get(), parts);
    }

    /// Runs what it speaks, to its end, in the calling task, and without it where that is not needed.
    // Not an `async fn`, which would have room for its arguments for as long as it runs.
    pub(crate) fn run(
        &self,
        running: LocalBoxFuture<'static, Result<(), Error>>,
    ) -> impl Future<Output = Ended> {
        let (seats, slot) = (&self.worker.sessions.seats, self.slot.get());
        seats.seat(slot, running);
        poll_fn(move |cx| seats.poll(slot, cx))
    }

    /// What the readiness set knows it by: its slot, and enough of its number to tell it from who had the slot before.
    fn key(&self) -> u64 {
        (self.id << 32) | u64::from(self.slot.get())
    }

    /// Waits, once it is [watched](Self::is_watched), until something has arrived, or the end. Who
    /// [`listen`](Self::listen)s on the side that reads is woken.
    pub(crate) fn poll_arrival(&self) -> Poll<()> {
        if matches!(self.inlet.get(), Inlet::Filled | Inlet::Ended) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes note of work done without having waited for it.
    pub(crate) fn spend(&self, bytes: usize) {
        let cost = bytes.min(TURN_MAX as usize) as u32 + STEP_COST;
        self.spent.set(self.spent.get().saturating_add(cost));
    }

    /// Takes note that the connection had to wait, so that others had their turn.
    pub(crate) fn has_waited(&self) {
        self.spent.set(0);
    }

    /// Whether it is somebody else's turn.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent.get() >= TURN_MAX
    }

    /// Lets others have their turn: other connections, the ticker, the kernel. Completions and timers are only looked
    /// at when no task is ready, so it has to be a wait for the kernel and not a mere wake-up.
    pub(crate) async fn pass(&self) {
        self.worker.turnstile().await;
        self.spent.set(0);
    }

    fn wake(&self) {
        for half in &self.halves {
            if let Some(waker) = half.waker.take() {
                waker.wake();
            }
        }
    }

    fn soonest(&self) -> Millis {
        self.halves.iter().fold(self.goodbye_at.get(), |soonest, half| soonest.min(half.by.get()))
    }

    /// Does what is due, and tells when to look again.
    fn tick(&self, now: Millis) -> Millis {
        if self.goodbye_at.get() <= now {
            if self.outlived.get() && self.goodbye.get() {
                self.cut();
                return NEVER;
            }
            let time_to_end = self.worker.config.drain_time.as_millis() as Millis;
            self.goodbye_at.set(if self.outlived.get() { now + time_to_end } else { NEVER });
            self.goodbye.set(true);
            self.wake();
        }
        let due = self.soonest();
        if due > now {
            return due;
        }
        if self.warned.get() {
            // It was told, and has neither ended nor asked for more time: its task waits for something else.
            self.cut();
            return NEVER;
        }
        self.warned.set(true);
        self.wake();
        now + GRACE
    }
}

pin_project! {
    /// A type and not an `async fn`, which would have room for the operation twice.
    pub(crate) struct Wait<'a, F> {
        link: &'a Link,
        side: Side,
        heeds_goodbye: bool,
        has_waited: bool,
        #[pin]
        operation: F,
    }
}

impl<F: Future> Future for Wait<'_, F> {
    type Output = Result<F::Output, Interrupt>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (link, side) = (*this.link, *this.side);
        if let Poll::Ready(output) = this.operation.poll(cx) {
            if *this.has_waited {
                link.has_waited();
            }
            return Poll::Ready(Ok(output));
        }
        if link.is_overdue(side) || (link.over.get() && side != Side::Close) {
            return Poll::Ready(Err(Interrupt::Expired));
        }
        if *this.heeds_goodbye && link.goodbye.get() {
            return Poll::Ready(Err(Interrupt::Goodbye));
        }
        *this.has_waited = true;
        link.listen(side, cx.waker());
        Poll::Pending
    }
}

/// The golden ratio of a turn: its multiples lie evenly in one, however many there are, and neighbours far apart.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// What one connection may do before others have their turn, in bytes; each step counts for some, however small.
const TURN_MAX: u32 = 1 << 20;
const STEP_COST: u32 = 256;

/// The state of so many connections stays in a core's own cache.
const CACHED: usize = 512;

/// How long an expired connection may take to say why, in milliseconds.
const GRACE: Millis = 2_000;

/// Keeps `waker`, without a clone where it is kept already.
pub(crate) fn keep(cell: &Cell<Option<Waker>>, waker: &Waker) {
    let kept = cell.take().filter(|kept| kept.will_wake(waker));
    cell.set(Some(kept.unwrap_or_else(|| waker.clone())));
}

/// Wakes who is kept, by whatever way. It stays, for as a rule it is the one that waits again.
pub(crate) fn wake_kept(cell: &Cell<Option<Waker>>, wake: impl FnOnce(&Waker)) {
    if let Some(waker) = cell.take() {
        wake(&waker);
        let newer = cell.take();
        cell.set(newer.or(Some(waker)));
    }
}

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
        limits::opened(&self.0);
        self.0.goodbye_within(self.0.worker.config.limits.session_time);
        let upgraded = &self.0.worker.sessions.upgraded;
        upgraded.set(upgraded.get() + 1);
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let sessions = &self.0.worker.sessions;
        sessions.seats.clear(self.0.slot.get());
        self.0.end();
        if Rc::strong_count(&self.0) > 2 {
            // Beside the list and us somebody has kept a part of it; the peer shall not wait for that.
            self.0.stream.abort();
        }
        if let Some(token) = self.0.token.get() {
            sessions.upgraded.set(sessions.upgraded.get() - 1);
            self.0.worker.counters.session_is_gone(token);
        }
        limits::release(&self.0);
        self.0.worker.sessions.live.borrow_mut().remove(self.0.slot.get() as usize);
    }
}

/// Every live connection of a core.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    live: RefCell<Slab<(Millis, Rc<Link>)>>,
    next_id: Cell<u64>,
    upgraded: Cell<usize>,
    /// Those that an operator has ended, and when they are cut.
    doomed: RefCell<Vec<(u64, Millis)>>,
    /// What they run.
    pub(crate) seats: Seats,
}

impl Sessions {
    /// `listener`: through which of the worker's listeners it came, if through one.
    pub(crate) fn track(
        &self,
        stream: Stream,
        peer: Option<SocketAddr>,
        listener: Option<u16>,
        worker: &Rc<Worker>,
    ) -> Tracked {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let link = Rc::new(Link {
            stream,
            worker: Rc::clone(worker),
            id,
            peer,
            listener,
            since: Cell::new(worker.now()),
            details: OnceCell::new(),
            kept: OnceCell::new(),
            token: Cell::new(None),
            received: Cell::new(0),
            sent: Cell::new(0),
            halves: std::array::from_fn(|_| Half { by: Cell::new(NEVER), waker: Cell::new(None) }),
            goodbye_at: Cell::new(NEVER),
            look_at: Cell::new(NEVER),
            slot: Cell::new(0),
            warned: Cell::new(false),
            goodbye: Cell::new(false),
            cut: Cell::new(false),
            over: Cell::new(false),
            spent: Cell::new(0),
            inlet: Cell::new(Inlet::Unwatched),
            close_code: Cell::new(0),
            admitted: Cell::default(),
            outlived: Cell::new(false),
        });
        let slot = self.live.borrow_mut().insert((NEVER, Rc::clone(&link)));
        link.slot.set(slot.try_into().expect("there are fewer descriptors"));
        if let Some(at) = worker.last_goodbye() {
            link.goodbye_at.set(at);
            link.look_at.set(at);
            self.look(link.slot.get(), at);
        }
        Tracked(link)
    }

    pub(crate) fn len(&self) -> usize {
        self.live.borrow().len()
    }

    /// How many of them were switched.
    pub(crate) fn upgraded(&self) -> usize {
        self.upgraded.get()
    }

    fn look(&self, slot: u32, at: Millis) {
        if let Some((look_at, _)) = self.live.borrow_mut().get_mut(slot as usize) {
            *look_at = at;
        }
    }

    /// Whether what is known of its connections stays in the core's own cache.
    pub(crate) fn are_cached(&self) -> bool {
        self.len() <= CACHED
    }

    /// Something has arrived for the connection with this `key`, and it is about to be [told](Self::arrived).
    pub(crate) fn prefetch(&self, key: u64) {
        let live = self.live.borrow();
        // Its counts stand before it.
        let start = |(_, link): &(_, Rc<Link>)| Rc::as_ptr(link).addr().wrapping_sub(2 * size_of::<usize>());
        let link = live.get(key as u32 as usize).map_or(0, start);
        self.seats.prefetch(key as u32, link);
    }

    /// Something has arrived for the connection with this `key`. Who has not taken what came before is not told again.
    /// `goes_on`: it may be gone on with here and now.
    pub(crate) fn arrived(&self, key: u64, is_end: bool, goes_on: bool) {
        let live = self.live.borrow();
        // It may have ended meanwhile, and another have its slot.
        let link = live.get(key as u32 as usize).map(|(_, link)| link).filter(|link| link.key() == key);
        let Some(link) = link else { return };
        let before = link.inlet.replace(if is_end { Inlet::Ended } else { Inlet::Filled });
        if before != Inlet::Filled {
            let link = Rc::clone(link);
            drop(live); // waking may run code that comes back here
            let waiting = &link.halves[Side::Read as usize].waker;
            if !(goes_on && self.seats.go_on(key as u32, waiting)) {
                wake_kept(waiting, Waker::wake_by_ref);
            }
        }
    }

    fn by_key(&self, key: u64) -> Option<Rc<Link>> {
        let live = self.live.borrow();
        live.get(key as u32 as usize).map(|(_, link)| link).filter(|link| link.key() == key).cloned()
    }

    /// The live session of this name.
    pub(crate) fn find(&self, id: SessionId) -> Option<Rc<Link>> {
        let live = self.live.borrow();
        let link = live.get(id.slot as usize).map(|(_, link)| link);
        link.filter(|link| link.id == id.number && link.token.get().is_some()).cloned()
    }

    /// Up to `limit` sessions that `look` has something to say about, from a slot on, and the slot to go on with. It
    /// does not look at more than a bound, so that the others on the core need not wait for long.
    pub(crate) fn page<T>(
        &self,
        from: u32,
        limit: usize,
        look: impl Fn(&Link) -> Option<T>,
    ) -> (Vec<T>, Option<u32>) {
        let live = self.live.borrow();
        let mut page = Vec::new();
        let end = live.capacity().min((from as usize).saturating_add(PAGE_LOOKS_MAX));
        let mut slot = from as usize;
        while slot < end && page.len() < limit {
            let session = live.get(slot).filter(|(_, link)| link.token.get().is_some());
            page.extend(session.and_then(|(_, link)| look(link)));
            slot += 1;
        }
        let is_over = slot >= live.capacity();
        (page, u32::try_from(slot).ok().filter(|_| !is_over))
    }

    /// Has a session say goodbye now, and cuts it `grace` milliseconds later.
    pub(crate) fn kill(&self, link: &Rc<Link>, now: Millis, grace: Millis) {
        let mut doomed = self.doomed.borrow_mut();
        if !doomed.iter().any(|(key, _)| *key == link.key()) {
            doomed.push((link.key(), now + grace));
        }
        drop(doomed);
        link.goodbye.set(true);
        link.wake();
    }

    /// Whether an operator has ended it.
    pub(crate) fn is_doomed(&self, link: &Link) -> bool {
        self.doomed.borrow().iter().any(|(key, _)| *key == link.key())
    }

    fn cut_doomed(&self, now: Millis) {
        if self.doomed.borrow().is_empty() {
            return;
        }
        self.doomed.borrow_mut().retain(|(key, _)| self.by_key(*key).is_some());
        let due: Vec<u64> =
            self.doomed.borrow().iter().filter(|(_, at)| *at <= now).map(|(key, _)| *key).collect();
        for link in due.into_iter().filter_map(|key| self.by_key(key)) {
            link.cut();
        }
    }

    /// The ticker's round: a walk over the deadlines, in which only those due are looked at.
    pub(crate) fn tick(&self, now: Millis) {
        self.cut_doomed(now);
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

    /// Spreads the goodbyes over `window` milliseconds from now, evenly, and in an order that says nothing of who came
    /// when: clients that arrived together do not all come back together. A connection without a protocol has nothing to
    /// say goodbye for; it ends when it is idle, from `idle` milliseconds on.
    pub(crate) fn say_goodbye(&self, now: Millis, window: Millis, idle: Millis) {
        // Each core, and each server that is told at the same time, has a start of its own.
        let mut turn = RandomState::new().hash_one(now);
        for link in self.links() {
            turn = turn.wrapping_add(GOLDEN);
            if link.goodbye.get() {
                continue;
            }
            link.outlived.set(false);
            let wait = match link.token.get() {
                Some(_) => ((u128::from(turn) * u128::from(window)) >> 64) as Millis,
                None => idle,
            };
            link.goodbye_at.set(now + wait);
            let soonest = link.soonest();
            link.look_at.set(soonest);
            self.look(link.slot.get(), soonest);
        }
    }

    /// Ends everything that is left.
    pub(crate) fn cut_all(&self) {
        for link in self.links() {
            link.cut();
        }
    }

    /// Cuts the transports of all, and nothing else: for a core whose runtime is gone.
    pub(crate) fn abort_all(&self) {
        for link in self.links() {
            link.stream.abort();
            limits::release(&link);
        }
    }

    fn links(&self) -> Vec<Rc<Link>> {
        self.live.borrow().iter().map(|(_, (_, link))| Rc::clone(link)).collect()
    }
}

/// Places of the list that one look at it may go through.
const PAGE_LOOKS_MAX: usize = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_with_its_counts_is_what_an_allocator_hands_out() {
        // The next size that they have is 320 bytes, for each connection.
        assert!(size_of::<Link>() + 2 * size_of::<usize>() <= 256, "{}", size_of::<Link>());
    }
}
