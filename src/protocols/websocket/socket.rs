//! What a message handler sees of a WebSocket: messages in, messages out.
//!
//! The bytes that have arrived are either with the handler or with the driver, never with both: a [`Receiver`] that
//! has read all messages hands its buffer to the driver, which lends it to the kernel. So a `recv` can be dropped at any
//! time without losing anything, and a message is borrowed from where the kernel has put it.
//!
//! What is sent is queued, and goes out in one write as soon as the handler waits for something.

use std::{
    cell::{Cell, RefCell, RefMut},
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker, ready},
};

use pin_project_lite::pin_project;

use super::{
    RandomMasks, Session, Settings, WhenFull,
    batch::{Batch, Inbound},
    queue::Queue,
};
use crate::{
    Error,
    authorize::Identity,
    metrics::add,
    sessions::{Link, Side, keep, wake_kept},
    ws::{self, CloseFrame, Code, Compressor, Event, Fault, Found, Opcode, Prepared, Role},
};

/// A WebSocket, for the handler of its messages.
#[derive(Debug)]
pub struct Socket {
    receiver: Receiver,
    sender: Sender,
}

impl Socket {
    pub(super) fn new(shared: &Rc<Shared>) -> Self {
        Self {
            receiver: Receiver { shared: Rc::clone(shared), inbound: None, gathered: None },
            sender: Sender { shared: Rc::downgrade(shared) },
        }
    }

    /// Waits for the next message. See [`Receiver::recv`].
    ///
    /// # Errors
    /// As [`Receiver::recv`].
    // Not an `async fn`, as the others that only pass on: it would be a layer more in each handler's future.
    pub fn recv(&mut self) -> impl Future<Output = Result<Option<Message<'_>>, Error>> {
        self.receiver.recv()
    }

    /// Waits for the next part of a message. See [`Receiver::recv_part`].
    ///
    /// # Errors
    /// As [`Receiver::recv`].
    pub fn recv_part(&mut self) -> impl Future<Output = Result<Option<Part<'_>>, Error>> {
        self.receiver.recv_part()
    }

    /// Sends a message. See [`Sender::send`].
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn send<'m>(&self, message: impl Into<Message<'m>>) -> impl Future<Output = Result<(), Error>> {
        self.sender.send(message)
    }

    /// Begins the closing handshake. See [`Sender::close`].
    pub fn close(&self, code: Code, reason: &str) {
        self.sender.close(code, reason);
    }

    /// The two directions, to be used at the same time, for instance to send a message that is still borrowed.
    pub fn split(self) -> (Receiver, Sender) {
        (self.receiver, self.sender)
    }

    /// The subprotocol that was settled.
    pub fn subprotocol(&self) -> Option<&str> {
        self.receiver.shared.subprotocol.as_deref()
    }

    /// What [`Request::keep`](crate::Request::keep) has kept, if it is a `T`.
    pub fn kept<T: 'static>(&self) -> Option<&T> {
        self.receiver.shared.link.kept()
    }

    /// Who asked for it, if it was asked for behind an [`Authorizer`](crate::authorize::Authorizer).
    pub fn identity(&self) -> Option<&Identity> {
        self.receiver.shared.link.identity()
    }

    /// Who is on the other side; `None` for a connection in memory.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.receiver.shared.link.peer
    }
}

/// A message, borrowed from where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// UTF-8.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

impl<'a> Message<'a> {
    /// Its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its text, if that is what it is.
    pub fn text(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// What it is made of.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Text(_) => Kind::Text,
            Self::Binary(_) => Kind::Binary,
        }
    }

    fn opcode(&self) -> Opcode {
        match self {
            Self::Text(_) => Opcode::Text,
            Self::Binary(_) => Opcode::Binary,
        }
    }
}

impl<'a> From<&'a str> for Message<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Message<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Message<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Binary(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Message<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Binary(bytes)
    }
}

/// A part of a message, borrowed from where it lies. A small message is mostly one part, its first and its last. The
/// last part of a longer one may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Its bytes. A text is cut only between characters, so each of its parts is text.
    pub content: Message<'a>,
    /// The message begins with it.
    pub is_first: bool,
    /// The message ends with it.
    pub is_last: bool,
}

/// The direction from the peer. While nobody receives, pings are not answered and the peer is slowed down by TCP; once
/// it is dropped, messages are thrown away and the rest is seen to.
#[derive(Debug)]
pub struct Receiver {
    shared: Rc<Shared>,
    inbound: Option<Box<Inbound>>,
    /// Where `recv` puts the parts of a message together.
    gathered: Option<Box<Gathered>>,
}

/// What there is of a message, after `recv_part` has set the mode.
#[derive(Debug)]
struct Gathered {
    kind: Kind,
    bytes: Vec<u8>,
    is_first: bool,
    /// It was handed out.
    is_over: bool,
}

impl Gathered {
    fn message(&self) -> Message<'_> {
        match self.kind {
            Kind::Text => {
                Message::Text(simdutf8::basic::from_utf8(&self.bytes).expect("each part is whole characters"))
            }
            Kind::Binary => Message::Binary(&self.bytes),
        }
    }
}

impl Receiver {
    /// Waits for the next message; `None` when the peer has closed, with [`close_code`](Self::close_code) telling why.
    /// Pings are answered on the way. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Peer`] when the peer broke RFC 6455 or a limit (it has been told), [`Error::Io`] when the connection
    /// ended without a close.
    pub async fn recv(&mut self) -> Result<Option<Message<'_>>, Error> {
        // What mostly comes is looked for here, and anything else apart: its results have types of their own, so that a message
        // goes from here to the handler in registers.
        let (is_text, start, end) = match self.next_frame() {
            Some(frame) => frame,
            None => match (Apart { future: self.find_message() }).await? {
                Some(Found::Frame { opcode: opcode @ (Opcode::Text | Opcode::Binary), start, end }) => {
                    (opcode == Opcode::Text, start, end)
                }
                Some(found) => {
                    return Ok(match self.heard(found)? {
                        Event::Text(text) => Some(Message::Text(text)),
                        Event::Binary(bytes) => Some(Message::Binary(bytes)),
                        // `heard` has seen to a close, and `find` has read on past pings and pongs.
                        Event::Ping(_) | Event::Pong(_) | Event::Close(_) => None,
                    });
                }
                None => return Ok(None),
            },
        };
        self.framed(is_text, start, end).map(Some)
    }

    /// The next thing, if that is a message that is a frame by itself, and nothing is to be seen to before it.
    #[inline]
    fn next_frame(&self) -> Option<(bool, usize, usize)> {
        let is_usual = self.gathered.is_none() && self.shared.end.get().is_none();
        self.inbound.as_ref().filter(|_| is_usual)?.next_frame()
    }

    /// Reads up to a message, which is put together if it comes in parts; `None` when the peer has closed.
    async fn find_message(&mut self) -> Result<Option<Found>, Error> {
        self.is_heard()?;
        loop {
            let found = self.find().await?;
            let Some(Found::Part { place, .. } | Found::Held(place)) = found else { return Ok(found) };
            if place.is_first && place.is_last {
                return Ok(found);
            }
            self.gather(found.expect("it is a part"))?;
            if place.is_last {
                return Ok(found);
            }
        }
    }

    /// What was found, if it is no message in a frame by itself. Of a part, if it is not the only one of its message, that is
    /// what was gathered, to which it was put.
    fn heard(&mut self, found: Found) -> Result<Event<'_>, Error> {
        if let Found::Part { .. } | Found::Held(_) = found
            && let Some(gathered) = &mut self.gathered
        {
            gathered.is_over = true;
            return Ok(match gathered.message() {
                Message::Text(text) => Event::Text(text),
                Message::Binary(bytes) => Event::Binary(bytes),
            });
        }
        let inbound = self.inbound.as_mut().expect("something was found in it");
        let event = inbound.event(found, &self.shared).map_err(|fault| self.shared.fail(fault))?;
        if let Event::Close(frame) = event {
            self.shared.peer_closes(frame);
        }
        Ok(event)
    }

    /// Waits for the next part of a message, as it arrives, so that a message may be longer than there is memory.
    /// Dropping the future loses nothing.
    ///
    /// A part has at most 64 KiB, and not more is held of a message, so [`Settings::limits`] does not say how long one
    /// may be. It is the connection's mode from the first call on, which had better be the handler's first: until then
    /// messages are put together within the limits, and what there is of one is its first part, however long. A `recv`
    /// after it puts the parts together itself: it returns a message, or what `recv_part` has left of one, within
    /// [`message_max`](ws::Limits::message_max).
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn recv_part(&mut self) -> Result<Option<Part<'_>>, Error> {
        self.is_heard()?;
        self.shared.in_parts.set(true);
        poll_fn(|cx| self.shared.poll_turn(cx.waker())).await;
        if self.gathered.as_ref().is_some_and(|gathered| !gathered.is_over) {
            // A `recv` was dropped before the end of the message.
            let gathered = self.gathered.as_mut().expect("it was just seen");
            gathered.is_over = true;
            return Ok(Some(Part {
                content: gathered.message(),
                is_first: gathered.is_first,
                is_last: false,
            }));
        }
        let Some(found) = self.find().await? else { return Ok(None) };
        let inbound = self.inbound.as_mut().expect("something was found in it");
        let ws::Part { event, is_first, is_last } = match inbound.part(found, &self.shared) {
            Ok(part) => part,
            Err(fault) => return Err(self.shared.fail(fault)),
        };
        let content = match event {
            Event::Text(text) => Message::Text(text),
            Event::Binary(bytes) => Message::Binary(bytes),
            Event::Close(frame) => {
                self.shared.peer_closes(frame);
                return Ok(None);
            }
            Event::Ping(_) | Event::Pong(_) => unreachable!("`step` reads on past them"),
        };
        if matches!(found, Found::Held(_)) {
            // A few bytes may be inflated to many, without a wait for the kernel.
            self.shared.link.spend(content.len());
        }
        Ok(Some(Part { content, is_first, is_last }))
    }

    /// A message that is a frame by itself. Not by way of an [`Event`]: what is wrapped in fewer types is moved less, and at
    /// 20 bytes that shows.
    #[inline]
    fn framed(&self, is_text: bool, start: usize, end: usize) -> Result<Message<'_>, Error> {
        let payload = self.inbound.as_ref().map_or(&[][..], |inbound| inbound.payload(start, end));
        match is_text {
            false => Ok(Message::Binary(payload)),
            true => ws::text(payload).map(Message::Text).map_err(|fault| self.shared.fail(fault)),
        }
    }

    /// A fault is final: what stands behind it means nothing (RFC 6455 7.1.7).
    #[inline]
    fn is_heard(&self) -> Result<(), Error> {
        match self.shared.end.get() {
            Some(End::Failed(fault)) => Err(Error::peer(fault)),
            _ => Ok(()),
        }
    }

    /// Reads up to something for the handler; `None` when the peer has closed.
    #[inline]
    async fn find(&mut self) -> Result<Option<Found>, Error> {
        self.gathered.take_if(|gathered| gathered.is_over);
        loop {
            if self.inbound.is_none() {
                self.inbound = match poll_fn(|cx| self.shared.poll_inbound(cx.waker())).await {
                    Ok(inbound) => Some(inbound),
                    Err(End::Closed) => return Ok(None),
                    Err(End::Lost) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    Err(End::Failed(fault)) => return Err(Error::peer(fault)),
                };
            }
            let inbound = self.inbound.as_mut().expect("it was just put there");
            if let Some((is_text, start, end)) = inbound.next_frame() {
                let opcode = if is_text { Opcode::Text } else { Opcode::Binary };
                return Ok(Some(Found::Frame { opcode, start, end }));
            }
            match inbound.step(&self.shared) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => self.shared.hand_back(self.inbound.take()),
                Err(fault) => {
                    self.shared.hand_back(self.inbound.take());
                    return Err(self.shared.fail(fault));
                }
            }
        }
    }

    /// Puts a part to those before it.
    fn gather(&mut self, found: Found) -> Result<(), Error> {
        let Self { shared, inbound, gathered } = self;
        let part = inbound.as_mut().expect("something was found in it").part(found, shared);
        let part = part.map_err(|fault| shared.fail(fault))?;
        let (kind, bytes) = match part.event {
            Event::Text(text) => (Kind::Text, text.as_bytes()),
            Event::Binary(bytes) => (Kind::Binary, bytes),
            _ => unreachable!("a part is of a message"),
        };
        let gathered = gathered.get_or_insert_with(|| {
            Box::new(Gathered { kind, bytes: Vec::new(), is_first: part.is_first, is_over: false })
        });
        if gathered.bytes.len() + bytes.len() <= shared.settings.limits.message_max {
            gathered.bytes.extend_from_slice(bytes);
            return Ok(());
        }
        self.gathered = None;
        shared.hand_back(inbound.take());
        Err(shared.fail(Fault::MessageTooLong))
    }

    /// The code that the peer has closed with: `None` before it has, or when it gave none.
    pub fn close_code(&self) -> Option<Code> {
        self.shared.peer_code.get()
    }
}

pin_project! {
    /// What is polled by a call of its own, as it is seldom there: whoever waits for it keeps its registers for what is
    /// mostly there.
    struct Apart<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Apart<F> {
    type Output = F::Output;

    #[inline(never)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().future.poll(cx)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.abandoned.set(true);
        match self.inbound.take() {
            Some(mut inbound) => {
                inbound.forget(&self.shared);
                self.shared.hand_back(Some(inbound));
            }
            None => self.shared.call_driver(),
        }
    }
}

/// The direction to the peer. It can be cloned, and kept elsewhere than the handler; it does not keep the connection.
#[derive(Clone, Debug)]
pub struct Sender {
    shared: Weak<Shared>,
}

impl Sender {
    /// Queues a message. Where the queue is longer than its [limit](Settings::queue_max), what happens is
    /// [set](Settings::when_full): as a rule it waits.
    ///
    /// # Errors
    /// [`Error::Closed`] once a close frame was sent or the connection has ended.
    pub fn send<'m>(&self, message: impl Into<Message<'m>>) -> impl Future<Output = Result<(), Error>> {
        let message = message.into();
        let (opcode, payload) = (message.opcode(), message.bytes());
        poll_fn(move |cx| {
            let Some(shared) = self.shared.upgrade() else { return Poll::Ready(Err(Error::Closed)) };
            if shared.goes_back(opcode, payload) {
                Poll::Ready(Ok(()))
            } else {
                shared.poll_send(cx.waker(), opcode, payload)
            }
        })
    }

    /// As [`send`](Self::send), for a message that goes to many: it is framed and compressed once.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_prepared(&self, message: &Prepared) -> Result<(), Error> {
        let shared = self.shared.upgrade().ok_or(Error::Closed)?;
        if poll_fn(|cx| shared.poll_admission(cx.waker())).await? {
            shared.link.spend(message.payload().len());
            shared.link.worker.counters.messages_sent.record(message.payload().len());
            shared.queue().push_prepared(message, &shared.link);
            shared.call_driver();
        }
        Ok(())
    }

    /// Begins a message whose length is not known yet; it is sent in pieces, as they come. Other messages wait until it
    /// has [ended](Outgoing::end).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn begin(&self, kind: Kind) -> Result<Outgoing, Error> {
        let shared = self.shared.upgrade().ok_or(Error::Closed)?;
        poll_fn(|cx| shared.poll_room(cx.waker())).await?;
        shared.open.set(true);
        let opcode = if kind == Kind::Text { Opcode::Text } else { Opcode::Binary };
        Ok(Outgoing { shared: Rc::downgrade(&shared), next: opcode, ended: false })
    }

    /// Messages that were not sent, because the queue was full and the [setting](Settings::when_full) is to drop.
    pub fn dropped(&self) -> u64 {
        self.shared.upgrade().map_or(0, |shared| shared.dropped.get().into())
    }

    /// Sends a ping, to see whether the peer is there.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Panics
    /// If the payload has more than 125 bytes (RFC 6455 5.5).
    pub async fn ping(&self, payload: &[u8]) -> Result<(), Error> {
        assert!(payload.len() <= ws::close::PAYLOAD_MAX, "a control frame has at most 125 bytes");
        let shared = self.shared.upgrade().ok_or(Error::Closed)?;
        poll_fn(|cx| shared.poll_room(cx.waker())).await?;
        shared.push(Opcode::Ping, payload);
        Ok(())
    }

    /// Begins the closing handshake; nothing can be sent after it. Messages that are on their way still arrive, until
    /// the peer has closed, too. A long reason is cut at 123 bytes.
    pub fn close(&self, code: Code, reason: &str) {
        if let Some(shared) = self.shared.upgrade() {
            shared.close(Some(CloseFrame { code, reason }));
        }
    }

    /// Bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        self.shared.upgrade().map_or(0, |shared| shared.queue().unsent())
    }

    /// Whether a close frame was sent, or the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.upgrade().is_none_or(|shared| shared.close_sent.get() || shared.end.get().is_some())
    }
}

/// What a message is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Bytes.
    Binary,
}

/// A message that is being sent in pieces (RFC 6455 5.4). Dropped before its [end](Self::end), it closes the connection
/// with 1011, for the rest of the message cannot be made up.
#[derive(Debug)]
pub struct Outgoing {
    shared: Weak<Shared>,
    next: Opcode,
    ended: bool,
}

impl Outgoing {
    /// Sends a piece. Of a text each piece has to be whole characters, or the peer's check fails at the end only.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub async fn part(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let shared = self.shared.upgrade().ok_or(Error::Closed)?;
        poll_fn(|cx| shared.poll_queue(cx.waker())).await?;
        let opcode = std::mem::replace(&mut self.next, Opcode::Continuation);
        shared.push_fragment(false, opcode, bytes);
        Ok(())
    }

    /// Ends the message.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub async fn end(mut self) -> Result<(), Error> {
        let shared = self.shared.upgrade().ok_or(Error::Closed)?;
        poll_fn(|cx| shared.poll_queue(cx.waker())).await?;
        shared.push_fragment(true, self.next, b"");
        self.ended = true;
        Ok(())
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.open.set(false);
        if !self.ended {
            shared.close(Some(CloseFrame { code: Code::INTERNAL_ERROR, reason: "" }));
        }
        shared.wake_senders();
    }
}

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
    subprotocol: Option<Rc<str>>,
    /// What has arrived, on its way from one to the other.
    inbound: Cell<Option<Box<Inbound>>>,
    /// The handler has read all of it, and the driver is to read more.
    is_read: Cell<bool>,
    pub(super) abandoned: Cell<bool>,
    /// The handler takes messages in parts.
    pub(super) in_parts: Cell<bool>,
    pub(super) end: Cell<Option<End>>,
    peer_code: Cell<Option<Code>>,
    queue: RefCell<Queue>,
    /// Messages that were not sent because the queue was full.
    dropped: Cell<u32>,
    /// A message is being sent in pieces.
    open: Cell<bool>,
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

    fn poll_inbound(&self, waker: &Waker) -> Poll<Result<Box<Inbound>, End>> {
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

    fn hand_back(&self, inbound: Option<Box<Inbound>>) {
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
    fn poll_turn(&self, waker: &Waker) -> Poll<()> {
        if !self.link.is_spent() || self.end.get().is_some() {
            return Poll::Ready(());
        }
        keep(&self.taking, waker);
        self.call_driver();
        Poll::Pending
    }

    #[inline]
    fn call_driver(&self) {
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
    fn poll_admission(&self, waker: &Waker) -> Poll<Result<bool, Error>> {
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
    fn poll_room(&self, waker: &Waker) -> Poll<Result<(), Error>> {
        if self.open.get() && !self.close_sent.get() && self.end.get().is_none() {
            self.wait_to_send(waker);
            return Poll::Pending;
        }
        self.poll_queue(waker)
    }

    fn poll_queue(&self, waker: &Waker) -> Poll<Result<(), Error>> {
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

    fn push_fragment(&self, fin: bool, opcode: Opcode, payload: &[u8]) {
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
    fn goes_back(&self, opcode: Opcode, payload: &[u8]) -> bool {
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
    fn poll_send(&self, waker: &Waker, opcode: Opcode, payload: &[u8]) -> Poll<Result<(), Error>> {
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
