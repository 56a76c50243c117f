//! What a message handler sees of a WebSocket: messages in, messages out.
//!
//! The bytes that have arrived are either with the handler or with the driver, never with both: a [`Receiver`] that
//! has read all messages hands its buffer to the driver, which lends it to the kernel. So a `recv` can be dropped at any
//! time without losing anything, and a message is borrowed from where the kernel has put it.
//!
//! What is sent is queued, and goes out in one write as soon as the handler waits for something.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    net::SocketAddr,
    ops::ControlFlow,
    rc::Rc,
    task::{Poll, Waker},
};

use super::Settings;
use crate::{
    Error,
    buffer::ReadBuf,
    sessions::{Link, Side},
    ws::{self, CloseFrame, Code, Event, Opcode},
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
            receiver: Receiver { shared: Rc::clone(shared), inbound: None },
            sender: Sender { shared: Rc::clone(shared) },
        }
    }

    /// Waits for the next message. See [`Receiver::recv`].
    ///
    /// # Errors
    /// As [`Receiver::recv`].
    pub async fn recv(&mut self) -> Result<Option<Message<'_>>, Error> {
        self.receiver.recv().await
    }

    /// Sends a message. See [`Sender::send`].
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub async fn send<'m>(&self, message: impl Into<Message<'m>>) -> Result<(), Error> {
        self.sender.send(message).await
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
    pub fn subprotocol(&self) -> Option<&'static str> {
        self.sender.shared.subprotocol
    }

    /// Who is on the other side; `None` for a connection in memory.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.sender.shared.link.peer
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

/// The direction from the peer. While nobody receives, pings are not answered and the peer is slowed down by TCP; once
/// it is dropped, messages are thrown away and the rest is seen to.
#[derive(Debug)]
pub struct Receiver {
    shared: Rc<Shared>,
    inbound: Option<Box<Inbound>>,
}

impl Receiver {
    /// Waits for the next message; `None` when the peer has closed, with [`close_code`](Self::close_code) telling why.
    /// Pings are answered on the way. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Peer`] when the peer broke RFC 6455 or a limit (it has been told), [`Error::Io`] when the connection
    /// ended without a close.
    pub async fn recv(&mut self) -> Result<Option<Message<'_>>, Error> {
        let found = loop {
            if self.inbound.is_none() {
                self.inbound = match poll_fn(|cx| self.shared.poll_inbound(cx.waker())).await {
                    Ok(inbound) => Some(inbound),
                    Err(End::Closed) => return Ok(None),
                    Err(End::Lost) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    Err(End::Failed) => return Err(Error::Closed),
                };
            }
            let inbound = self.inbound.as_mut().expect("it was just put there");
            match inbound.step(&self.shared) {
                Ok(Some(found)) => break found,
                Ok(None) => self.shared.hand_back(self.inbound.take()),
                Err(fault) => {
                    self.shared.hand_back(self.inbound.take());
                    return Err(self.shared.fail(fault));
                }
            }
        };
        let inbound = self.inbound.as_mut().expect("something was found in it");
        match inbound.decoder.event(found, inbound.buf.unread()) {
            Ok(Event::Text(text)) => Ok(Some(Message::Text(text))),
            Ok(Event::Binary(bytes)) => Ok(Some(Message::Binary(bytes))),
            Ok(Event::Close(frame)) => {
                self.shared.peer_closes(frame);
                Ok(None)
            }
            Ok(Event::Ping(_) | Event::Pong(_)) => unreachable!("`step` reads on past them"),
            Err(fault) => Err(self.shared.fail(fault)),
        }
    }

    /// The code that the peer has closed with: `None` before it has, or when it gave none.
    pub fn close_code(&self) -> Option<Code> {
        self.shared.peer_code.get()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.abandoned.set(true);
        if let Some(inbound) = self.inbound.take() {
            self.shared.hand_back(Some(inbound));
        }
    }
}

/// The direction to the peer. It can be cloned, and kept elsewhere than the handler.
#[derive(Clone, Debug)]
pub struct Sender {
    shared: Rc<Shared>,
}

impl Sender {
    /// Queues a message, after waiting until the queue is no longer than its [limit](Settings::queue_max).
    ///
    /// # Errors
    /// [`Error::Closed`] once a close frame was sent or the connection has ended.
    pub async fn send<'m>(&self, message: impl Into<Message<'m>>) -> Result<(), Error> {
        let message = message.into();
        poll_fn(|cx| self.shared.poll_room(cx.waker())).await?;
        self.shared.push(message.opcode(), message.bytes());
        Ok(())
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
        poll_fn(|cx| self.shared.poll_room(cx.waker())).await?;
        self.shared.push(Opcode::Ping, payload);
        Ok(())
    }

    /// Begins the closing handshake; nothing can be sent after it. Messages that are on their way still arrive, until
    /// the peer has closed, too. A long reason is cut at 123 bytes.
    pub fn close(&self, code: Code, reason: &str) {
        self.shared.close(Some(CloseFrame { code, reason }));
    }

    /// Bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        self.shared.out.borrow().unsent()
    }

    /// Whether a close frame was sent, or the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.close_sent.get() || self.shared.end.get().is_some()
    }
}

/// What has arrived, with the rules that read it.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) buf: ReadBuf,
    pub(super) decoder: ws::Receiver,
    /// What the last event took of the unread bytes.
    taken: usize,
}

impl Inbound {
    pub(super) fn new(buf: ReadBuf, limits: ws::Limits) -> Box<Self> {
        Box::new(Self { buf, decoder: ws::Receiver::new(ws::Role::Server, limits), taken: 0 })
    }

    /// Reads up to the next message or close; answers pings on the way.
    fn step(&mut self, shared: &Shared) -> Result<Option<ws::Found>, ws::Fault> {
        self.buf.consume(std::mem::take(&mut self.taken));
        let step = self.decoder.step(self.buf.unread_mut(), |event| {
            if let Event::Ping(payload) = event {
                shared.pong(payload);
            }
            ControlFlow::Continue(())
        })?;
        match step.found {
            Some(found) => {
                self.taken = step.consumed;
                Ok(Some(found))
            }
            None => {
                self.buf.consume(step.consumed);
                Ok(None)
            }
        }
    }

    /// Reads to the end without anybody to hear the messages.
    pub(super) fn discard(&mut self, shared: &Shared) -> Result<(), ws::Fault> {
        while let Some(found) = self.step(shared)? {
            if let Event::Close(frame) = self.decoder.event(found, self.buf.unread())? {
                shared.peer_closes(frame);
            }
        }
        Ok(())
    }
}

/// Why no message will come any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer has sent its close frame.
    Closed,
    /// The connection ended without one.
    Lost,
    /// We have failed the connection.
    Failed,
}

/// What the handler's halves and the driver have in common.
pub(super) struct Shared {
    pub(super) link: Rc<Link>,
    pub(super) settings: Rc<Settings>,
    subprotocol: Option<&'static str>,
    /// What has arrived, on its way from one to the other.
    inbound: Cell<Option<Box<Inbound>>>,
    /// The handler has read all of it, and the driver is to read more.
    is_read: Cell<bool>,
    pub(super) abandoned: Cell<bool>,
    pub(super) end: Cell<Option<End>>,
    peer_code: Cell<Option<Code>>,
    pub(super) out: RefCell<Out>,
    pub(super) close_sent: Cell<bool>,
    pub(super) close_received: Cell<bool>,
    receiving: Cell<Option<Waker>>,
    sending: RefCell<Vec<Waker>>,
    /// The driver's task, and whether it is the one that runs.
    pub(super) task: Cell<Option<Waker>>,
    pub(super) is_running: Cell<bool>,
}

impl Shared {
    pub(super) fn new(link: Rc<Link>, settings: Rc<Settings>, subprotocol: Option<&'static str>) -> Rc<Self> {
        Rc::new(Self {
            link,
            settings,
            subprotocol,
            inbound: Cell::new(None),
            is_read: Cell::new(false),
            abandoned: Cell::new(false),
            end: Cell::new(None),
            peer_code: Cell::new(None),
            out: RefCell::default(),
            close_sent: Cell::new(false),
            close_received: Cell::new(false),
            receiving: Cell::new(None),
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
        if let Some(waker) = self.receiving.take() {
            self.wake(waker);
        }
    }

    /// Wakes a part of the handler. The driver's own task is about to poll the handler, and need not be scheduled again.
    fn wake(&self, waker: Waker) {
        let task = self.task.take();
        if !task.as_ref().is_some_and(|task| task.will_wake(&waker)) {
            waker.wake();
        }
        self.task.set(task);
    }

    fn call_driver(&self) {
        if !self.is_running.get()
            && let Some(task) = self.task.take()
        {
            task.wake_by_ref();
            self.task.set(Some(task));
        }
    }

    // ---- what is to be sent -------------------------------------------------------------------------------------

    fn poll_room(&self, waker: &Waker) -> Poll<Result<(), Error>> {
        if self.close_sent.get() || self.end.get().is_some() {
            return Poll::Ready(Err(Error::Closed));
        }
        if self.out.borrow().unsent() <= self.settings.queue_max {
            return Poll::Ready(Ok(()));
        }
        let mut sending = self.sending.borrow_mut();
        if !sending.iter().any(|kept| kept.will_wake(waker)) {
            sending.push(waker.clone());
        }
        Poll::Pending
    }

    /// Wakes those who wait for room if there is some; `true` if the handler itself may be among them.
    pub(super) fn wake_senders(&self) -> bool {
        let has_room = self.end.get().is_some() || self.out.borrow().unsent() <= self.settings.queue_max;
        if !has_room || self.sending.borrow().is_empty() {
            return false;
        }
        for waker in self.sending.take() {
            self.wake(waker);
        }
        true
    }

    pub(super) fn push(&self, opcode: Opcode, payload: &[u8]) {
        self.out.borrow_mut().push(opcode, payload, &self.link);
        self.call_driver();
    }

    fn pong(&self, payload: &[u8]) {
        if !self.close_sent.get() {
            self.out.borrow_mut().pong(payload, &self.link);
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
        self.push(Opcode::Close, &payload[..length]);
        self.link.within(Side::Read, self.settings.close_time);
    }

    /// The peer's close frame is answered with its own (5.5.1).
    fn peer_closes(&self, frame: Option<CloseFrame<'_>>) {
        self.close_received.set(true);
        self.peer_code.set(frame.map(|frame| frame.code));
        self.close(frame);
        self.ends(End::Closed);
    }

    /// The peer broke a rule: it is told which, and heard no more (7.1.7).
    pub(super) fn fail(&self, fault: ws::Fault) -> Error {
        self.close(Some(CloseFrame { code: fault.close_code(), reason: &fault.to_string() }));
        self.ends(End::Failed);
        Error::peer(fault)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("link", &self.link).finish_non_exhaustive()
    }
}

fn keep(cell: &Cell<Option<Waker>>, waker: &Waker) {
    let kept = cell.take().filter(|kept| kept.will_wake(waker));
    cell.set(Some(kept.unwrap_or_else(|| waker.clone())));
}

/// Frames that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Out {
    frames: Vec<u8>,
    /// Invariant: `sent <= frames.len()`.
    sent: usize,
    is_pooled: bool,
    /// Pongs since everything was last sent.
    pongs: usize,
    last_pong: Option<Box<[u8]>>,
}

impl Out {
    pub(super) fn unsent(&self) -> usize {
        self.frames.len() - self.sent
    }

    fn push(&mut self, opcode: Opcode, payload: &[u8], link: &Link) {
        if self.frames.capacity() == 0 {
            self.frames = link.worker.pool.take();
            self.is_pooled = true;
        }
        ws::write_frame(&mut self.frames, true, opcode, payload, None);
    }

    /// Answers a ping. A burst of more than [`PONGS_MAX`] gets one answer more, to its last (5.5.3).
    fn pong(&mut self, payload: &[u8], link: &Link) {
        if self.pongs < PONGS_MAX {
            self.pongs += 1;
            self.push(Opcode::Pong, payload, link);
        } else {
            self.last_pong = Some(payload.into());
        }
    }

    /// Sends what the socket takes; an error of kind `WouldBlock` says that there is more.
    pub(super) fn send(&mut self, link: &Link) -> io::Result<()> {
        if let Some(payload) = self.last_pong.take() {
            self.push(Opcode::Pong, &payload, link);
        }
        while self.unsent() > 0 {
            match link.stream.try_write(&self.frames[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    link.sent.set(link.sent.get() + count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        self.keep_rest(link);
                    }
                    return Err(error);
                }
            }
        }
        self.pongs = 0;
        self.sent = 0;
        let frames = std::mem::take(&mut self.frames);
        if std::mem::take(&mut self.is_pooled) {
            link.worker.pool.give_back(frames);
        }
        Ok(())
    }

    /// A queue that waits does so in a buffer of its own size: the core's large one is for who runs.
    fn keep_rest(&mut self, link: &Link) {
        if std::mem::take(&mut self.is_pooled) {
            let rest = self.frames[self.sent..].to_vec();
            self.sent = 0;
            link.worker.pool.give_back(std::mem::replace(&mut self.frames, rest));
        } else if self.sent > self.frames.len() / 2 {
            self.frames.drain(..self.sent);
            self.sent = 0;
        }
    }
}

/// Autobahn sends ten in a row, and wants ten answers.
const PONGS_MAX: usize = 16;
