//! What a WebSocket's handler and its driver have in common: bytes that have arrived, on their way from the one to the other,
//! what is to be sent, and who waits for what.

use std::{
    cell::{Cell, RefCell, RefMut},
    io,
    rc::Rc,
    task::{Poll, Waker, ready},
};

use super::{
    RandomMasks, Session, Settings, WhenFull,
    batch::{Batch, Inbound},
    queue::Queue,
};
use crate::{
    Error,
    metrics::add,
    sessions::{Link, Side, keep, wake_kept},
    ws::{self, CloseFrame, Code, Compressor, Fault, Opcode, Role},
};

/// A close frame without a code, as RFC 6455 7.1.5 calls it.
const NO_CODE: u16 = 1005;

/// Why no message will come any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer has sent its close frame.
    Closed,
    /// The connection ended without one.
    Lost,
    /// The peer broke a rule, and we have failed the connection.
    Failed(Fault),
}

/// What the handler's halves and the driver have in common.
pub(super) struct Shared {
    pub(super) link: Rc<Link>,
    pub(super) settings: Rc<Settings>,
    pub(super) subprotocol: Option<Rc<str>>,
    /// What has arrived, on its way from one to the other.
    inbound: Cell<Option<Box<Inbound>>>,
    /// The handler has read all of it, and the driver is to read more.
    is_read: Cell<bool>,
    pub(super) abandoned: Cell<bool>,
    /// The handler takes messages in parts.
    pub(super) in_parts: Cell<bool>,
    pub(super) end: Cell<Option<End>>,
    pub(super) peer_code: Cell<Option<Code>>,
    queue: RefCell<Queue>,
    /// Messages that were not sent because the queue was full.
    pub(super) dropped: Cell<u32>,
    /// A message is being sent in pieces.
    pub(super) open: Cell<bool>,
    /// What the handler's messages are borrowed from, so that it can be sent without a copy.
    pub(super) lent: RefCell<Option<Rc<Batch>>>,
    pub(super) lent_message: RefCell<Option<Rc<Batch>>>,
    pub(super) close_sent: Cell<bool>,
    pub(super) close_received: Cell<bool>,
    receiving: Cell<Option<Waker>>,
    /// Who has parts to take, and waits for its turn to do so.
    taking: Cell<Option<Waker>>,
    sending: RefCell<Vec<Waker>>,
    /// The driver's task, and whether it is the one that runs.
    task: Cell<Option<Waker>>,
    pub(super) is_running: Cell<bool>,
}

impl Shared {
    pub(super) fn new(link: Rc<Link>, settings: Rc<Settings>, session: &Session, role: Role) -> Rc<Self> {
        let agreed = session.deflate.zip(settings.deflate.as_ref());
        let contexts = &link.worker.contexts;
        let compressor = agreed.map(|(agreed, deflate)| Compressor::new(role, agreed, deflate, contexts));
        let masks = (role == Role::Client).then(RandomMasks::default);
        let queue = Queue::new(masks, compressor, settings.when_full == WhenFull::DropOldest);
        Rc::new(Self {
            link,
            settings,
            subprotocol: session.subprotocol.clone(),
            inbound: Cell::new(None),
            is_read: Cell::new(false),
            abandoned: Cell::new(false),
            in_parts: Cell::new(false),
            end: Cell::new(None),
            peer_code: Cell::new(None),
            queue: RefCell::new(queue),
            dropped: Cell::new(0),
            open: Cell::new(false),
            lent: RefCell::default(),
            lent_message: RefCell::default(),
            close_sent: Cell::new(false),
            close_received: Cell::new(false),
            receiving: Cell::new(None),
            taking: Cell::new(None),
            sending: RefCell::default(),
            task: Cell::new(None),
            is_running: Cell::new(false),
        })
    }

    // ---- bytes that have arrived --------------------------------------------------------------------------------

    pub(super) fn poll_inbound(&self, waker: &Waker) -> Poll<Result<Box<Inbound>, End>> {
        if let Some(end) = self.end.get() {
            return Poll::Ready(Err(end));
        }
        if !self.is_read.get()
            && let Some(inbound) = self.inbound.take()
        {
            return Poll::Ready(Ok(inbound));
        }
        keep(&self.receiving, waker);
        Poll::Pending
    }

    pub(super) fn hand_back(&self, inbound: Option<Box<Inbound>>) {
        self.inbound.set(inbound);
        self.is_read.set(true);
        self.call_driver();
    }

    /// Gives the handler what has arrived.
    pub(super) fn hand_over(&self, inbound: Box<Inbound>) {
        self.inbound.set(Some(inbound));
        self.is_read.set(false);
        self.wake_receiver();
    }

    /// The buffer, if the handler is done with it.
    pub(super) fn reclaim(&self) -> Option<Box<Inbound>> {
        if self.is_read.get() || self.abandoned.get() { self.inbound.take() } else { None }
    }

    /// No message will come any more.
    pub(super) fn ends(&self, end: End) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            self.wake_receiver();
            self.wake_senders();
        }
    }

    fn wake_receiver(&self) {
        wake_kept(&self.receiving, |waker| self.wake(waker));
    }

    /// Wakes a part of the handler. The driver's own task is about to poll the handler, and need not be scheduled again.
    fn wake(&self, waker: &Waker) {
        let task = self.task.take();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            waker.wake_by_ref();
        }
        self.task.set(task);
    }

    /// Whose task runs the driver.
    pub(super) fn driver_is(&self, waker: &Waker) {
        keep(&self.task, waker);
    }

    /// Whether somebody waits to send, or for the connection's turn.
    pub(super) fn has_waiters(&self) -> bool {
        let taking = self.taking.take();
        let is_taking = taking.is_some();
        self.taking.set(taking);
        is_taking || !self.sending.borrow().is_empty()
    }

    /// Waits for the connection's turn.
    pub(super) fn poll_turn(&self, waker: &Waker) -> Poll<()> {
        if !self.link.is_spent() || self.end.get().is_some() {
            return Poll::Ready(());
        }
        keep(&self.taking, waker);
        self.call_driver();
        Poll::Pending
    }

    #[inline]
    pub(super) fn call_driver(&self) {
        if !self.is_running.get() {
            self.wake_driver();
        }
    }

    #[inline(never)]
    fn wake_driver(&self) {
        if let Some(task) = self.task.take() {
            task.wake_by_ref();
            self.task.set(Some(task));
        }
    }

    // ---- what is to be sent -------------------------------------------------------------------------------------

    /// Waits until a message may be queued, or decides at once that it is not to be: `false`.
    pub(super) fn poll_admission(&self, waker: &Waker) -> Poll<Result<bool, Error>> {
        let policy = self.settings.when_full;
        let mut is_full = !self.queue().has_room(self.settings.queue_max);
        let is_closed = self.close_sent.get() || self.end.get().is_some();
        if !is_full && !is_closed && !self.open.get() && !self.link.is_spent() {
            return Poll::Ready(Ok(true));
        }
        if is_full && policy != WhenFull::Wait && !self.queue().is_stalled() {
            // Nobody is slow yet: the socket was not asked. An error is met again by the driver.
            drop(self.send());
            is_full = !self.queue().has_room(self.settings.queue_max);
        }
        if policy == WhenFull::Wait || !is_full || is_closed || self.open.get() {
            return self.poll_room(waker).map_ok(|()| true);
        }
        match policy {
            WhenFull::Close => {
                let reason = "too slow";
                self.close(Some(CloseFrame { code: Code::TRY_AGAIN_LATER, reason }));
                Poll::Ready(Err(Error::Closed))
            }
            WhenFull::DropOldest => {
                let dropped = self.queue().drop_oldest(self.settings.queue_max);
                // What cannot be taken back is not followed by more.
                let has_room = self.queue().has_room(self.settings.queue_max);
                self.drops(dropped + u32::from(!has_room));
                Poll::Ready(Ok(has_room))
            }
            _ => {
                self.drops(1);
                Poll::Ready(Ok(false))
            }
        }
    }

    fn drops(&self, count: u32) {
        add(&self.link.worker.counters.messages_dropped, u64::from(count));
        self.dropped.set(self.dropped.get().saturating_add(count));
    }

    /// Waits for room, and for the end of a message that is sent in pieces.
    pub(super) fn poll_room(&self, waker: &Waker) -> Poll<Result<(), Error>> {
        if self.open.get() && !self.close_sent.get() && self.end.get().is_none() {
            self.wait_to_send(waker);
            return Poll::Pending;
        }
        self.poll_queue(waker)
    }

    pub(super) fn poll_queue(&self, waker: &Waker) -> Poll<Result<(), Error>> {
        if self.close_sent.get() || self.end.get().is_some() {
            return Poll::Ready(Err(Error::Closed));
        }
        // The driver sends what is queued, and gives others their turn.
        if self.queue().has_room(self.settings.queue_max) && !self.link.is_spent() {
            return Poll::Ready(Ok(()));
        }
        self.wait_to_send(waker);
        self.call_driver();
        Poll::Pending
    }

    fn wait_to_send(&self, waker: &Waker) {
        let mut sending = self.sending.borrow_mut();
        if !sending.iter().any(|kept| kept.will_wake(waker)) {
            sending.push(waker.clone());
        }
    }

    /// Wakes those who wait for room if there is some, or for a turn if it is ours; `true` if the handler itself may be
    /// among them.
    pub(super) fn wake_senders(&self) -> bool {
        let is_our_turn = !self.link.is_spent();
        let is_over = self.end.get().is_some();
        let taking = if is_our_turn || is_over { self.taking.take() } else { None };
        let is_taking = taking.is_some();
        if let Some(waker) = taking {
            self.wake(&waker);
        }
        let can_send = self.queue().has_room(self.settings.queue_max) && is_our_turn;
        let has_room = can_send || self.close_sent.get() || is_over;
        if !has_room || self.sending.borrow().is_empty() {
            return is_taking;
        }
        for waker in self.sending.take() {
            self.wake(&waker);
        }
        true
    }

    pub(super) fn push(&self, opcode: Opcode, payload: &[u8]) {
        self.queue().push(opcode, payload, &self.link);
        self.call_driver();
    }

    pub(super) fn push_fragment(&self, fin: bool, opcode: Opcode, payload: &[u8]) {
        self.link.spend(payload.len());
        self.link.worker.counters.messages_sent.record(payload.len());
        self.queue().push_fragment(fin, opcode, payload, &self.link);
        self.call_driver();
    }

    /// What is to be sent, with what [goes back](Self::goes_back).
    pub(super) fn queue(&self) -> RefMut<'_, Queue> {
        let mut queue = self.queue.borrow_mut();
        if let Some(batch) = &*self.lent.borrow()
            && let Some((start, end)) = batch.take_back()
        {
            queue.push_frame(batch, start, end, &self.link);
        }
        queue
    }

    /// Sends what the socket takes; an error of kind `WouldBlock` says that there is more. Nothing is borrowed any more.
    pub(super) fn send(&self) -> io::Result<()> {
        let mut queue = self.queue.borrow_mut();
        if let Some(batch) = &*self.lent.borrow()
            && let Some((start, end)) = batch.take_back()
        {
            return queue.send_from(batch, start, end, &self.link);
        }
        queue.send(&self.link)
    }

    /// Whether a message is one that is sent back as it came, with those before it: then it is, and needs no more than a note
    /// of how far they reach.
    #[inline]
    pub(super) fn goes_back(&self, opcode: Opcode, payload: &[u8]) -> bool {
        if self.close_sent.get() || self.end.get().is_some() || self.open.get() || self.link.is_spent() {
            return false;
        }
        let lent = self.lent.borrow();
        let is_next = lent.as_ref().is_some_and(|batch| {
            let frame = batch.frame_of(opcode, payload);
            frame.is_some_and(|frame| batch.gives_back(frame, || self.queue.borrow().can_be_passed_by()))
        });
        if is_next {
            self.link.spend(payload.len());
            self.link.worker.counters.messages_sent.record(payload.len());
            self.call_driver();
        }
        is_next
    }

    #[inline(never)]
    pub(super) fn poll_send(&self, waker: &Waker, opcode: Opcode, payload: &[u8]) -> Poll<Result<(), Error>> {
        let is_admitted = ready!(self.poll_admission(waker))?;
        if is_admitted {
            self.push_message(opcode, payload);
        }
        Poll::Ready(Ok(()))
    }

    fn push_message(&self, opcode: Opcode, payload: &[u8]) {
        self.link.spend(payload.len());
        self.link.worker.counters.messages_sent.record(payload.len());
        if !self.push_borrowed(opcode, payload) {
            self.queue().push(opcode, payload, &self.link);
        }
        self.call_driver();
    }

    /// Queues a message without a copy, if it lies where messages have arrived.
    #[inline]
    fn push_borrowed(&self, opcode: Opcode, payload: &[u8]) -> bool {
        let (lent, lent_message) = (self.lent.borrow(), self.lent_message.borrow());
        if lent.is_none() && lent_message.is_none() {
            return false;
        }
        let mut queue = self.queue();
        if !queue.borrows(payload.len()) {
            return false;
        }
        if let Some(batch) = &*lent
            && let Some((start, end)) = batch.frame_of(opcode, payload)
        {
            queue.push_frame(batch, start, end, &self.link);
            return true;
        }
        [&lent, &lent_message].into_iter().filter_map(|lent| lent.as_ref()).any(|batch| {
            let place = batch.place_of(payload);
            place.is_some_and(|(start, end)| queue.push_lent(opcode, batch, start, end, &self.link))
        })
    }

    pub(super) fn pong(&self, payload: &[u8]) {
        if !self.close_sent.get() {
            self.queue().pong(payload, &self.link);
        }
    }

    // ---- the end ------------------------------------------------------------------------------------------------

    /// Sends a close frame, once.
    pub(super) fn close(&self, frame: Option<CloseFrame<'_>>) {
        if self.close_sent.replace(true) {
            return;
        }
        let mut payload = [0; ws::close::PAYLOAD_MAX];
        let length = frame.map_or(0, |frame| frame.encode(&mut payload));
        self.link.closes_with(frame.map_or(NO_CODE, |frame| frame.code.number()));
        self.push(Opcode::Close, &payload[..length]);
        self.link.within(Side::Read, self.settings.close_time);
    }

    /// The peer's close frame is answered with its own (5.5.1).
    pub(super) fn peer_closes(&self, frame: Option<CloseFrame<'_>>) {
        self.close_received.set(true);
        self.peer_code.set(frame.map(|frame| frame.code));
        self.close(frame);
        self.ends(End::Closed);
    }

    /// The peer broke a rule: it is told which, and heard no more (7.1.7).
    pub(super) fn fail(&self, fault: Fault) -> Error {
        self.close(Some(CloseFrame { code: fault.close_code(), reason: &fault.to_string() }));
        self.ends(End::Failed(fault));
        Error::peer(fault)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("link", &self.link).finish_non_exhaustive()
    }
}
