//! What a message handler sees of a WebSocket: messages in, messages out.
//!
//! The bytes that have arrived are either with the handler or with the driver, never with both: a [`Receiver`] that
//! has read all messages hands its buffer to the driver, which lends it to the kernel. So a `recv` can be dropped at any
//! time without losing anything, and a message is borrowed from where the kernel has put it.
//!
//! What is sent is queued, and goes out in one write as soon as the handler waits for something.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::{
    batch::Inbound,
    shared::{End, Shared},
};
use crate::{
    Error,
    authorize::Identity,
    ws::{self, CloseFrame, Code, Event, Fault, Found, Opcode, Prepared},
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
    /// A part has at most 64 KiB, and not more is held of a message, so [`Settings::limits`](super::Settings::limits) does
    /// not say how long one may be. It is the connection's mode from the first call on, which had better be the handler's
    /// first: until then messages are put together within the limits, and what there is of one is its first part, however
    /// long. A `recv` after it puts the parts together itself: it returns a message, or what `recv_part` has left of one,
    /// within [`message_max`](ws::Limits::message_max).
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
    /// Queues a message. Where the queue is longer than its [limit](super::Settings::queue_max), what happens is
    /// [set](super::Settings::when_full): as a rule it waits.
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

    /// Messages that were not sent, because the queue was full and the [setting](super::Settings::when_full) is to drop.
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
