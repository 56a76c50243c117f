//! The one task of a WebSocket: it reads, runs the handler, writes what the handler queued, pings, and closes.
//!
//! A round is: the handler runs as far as it can; what it queued goes out in one write; then more bytes are waited for,
//! in the core's readiness set, or in the ring. The wait goes on while the handler sends, and is never dropped before
//! the end.

use std::{
    any::Any,
    future::poll_fn,
    io, panic,
    pin::Pin,
    ptr,
    rc::Rc,
    task::{Context, Poll},
};

use monoio::BufResult;

use super::{
    Session, Settings,
    batch::Inbound,
    shared::{End, Shared},
    socket::Socket,
};
use crate::{
    Error, Upgraded,
    buffer::ReadBuf,
    registry::LocalBoxFuture,
    sessions::{NEVER, Side},
    ws::{self, CloseFrame, Code, Opcode, Role},
};

/// Speaks RFC 6455 in either role, until both sides have closed.
// Not an `async fn`, which would have room for its arguments for as long as it runs.
pub(super) fn run<F>(
    handler: impl FnOnce(Socket) -> F,
    settings: Rc<Settings>,
    session: Session,
    connection: Upgraded,
    role: Role,
) -> impl Future<Output = Result<(), Error>>
where
    F: Future<Output = Result<(), Error>>,
{
    let (link, buf) = connection.into_parts();
    let decoder = match session.deflate {
        Some(agreed) => ws::Receiver::with_deflate(role, settings.limits, agreed, &link.worker.contexts),
        None => ws::Receiver::new(role, settings.limits),
    };
    let inbound = Box::new(Inbound::new(buf, decoder));
    link.within(Side::Close, settings.lifetime);
    let shared = Shared::new(link, settings, &session, role);
    if let Some(greeting) = session.greeting {
        shared.push(Opcode::Text, greeting.as_bytes());
    }
    let handler = Some(Box::pin(handler(Socket::new(&shared))));
    Driver {
        shared,
        handler,
        role,
        result: None,
        room: None,
        turn: None,
        is_reading: false,
        is_pinged: false,
    }
    .run(inbound)
}

struct Driver<F> {
    shared: Rc<Shared>,
    /// Until it is done.
    handler: Option<Pin<Box<F>>>,
    role: Role,
    result: Option<Result<(), Box<Ended>>>,
    /// The wait for room in the socket, while there is none.
    room: Option<LocalBoxFuture<'static, io::Result<()>>>,
    /// The wait for our next turn, while it is somebody else's.
    turn: Option<LocalBoxFuture<'static, ()>>,
    /// Nothing is there that was not looked at, so that a silent peer is silent.
    is_reading: bool,
    /// A ping of ours is not answered yet.
    is_pinged: bool,
}

enum Ended {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

impl<F> Driver<F>
where
    F: Future<Output = Result<(), Error>>,
{
    #[expect(clippy::manual_async_fn, reason = "an `async fn` would have room for its arguments twice")]
    fn run(mut self, inbound: Box<Inbound>) -> impl Future<Output = Result<(), Error>> {
        async move {
            let driven = self.drive(inbound).await;
            self.shared.ends(End::Lost); // for the handler, and for senders that are kept elsewhere
            self.wind_up().await;
            let ended = self.result.take().map(|result| result.map_err(|ended| *ended));
            if let Some(Err(Ended::Panic(panic))) = ended {
                panic::resume_unwind(panic);
            }
            let shared = &self.shared;
            if let Some(End::Failed(fault)) = shared.end.get() {
                return Err(Error::peer(fault));
            }
            if driven.is_err() && !(shared.close_sent.get() && shared.close_received.get()) {
                return driven;
            }
            match ended {
                Some(Err(Ended::Error(error))) if !matches!(error, Error::Closed) => Err(error),
                _ => Ok(()),
            }
        }
    }

    /// Goes on until the closing handshake is done, or the connection beyond hope.
    async fn drive(&mut self, inbound: Box<Inbound>) -> Result<(), Error> {
        let shared = Rc::clone(&self.shared);
        let (link, shared) = (&*shared.link, &*shared);
        link.within(Side::Read, shared.settings.ping_after);
        // What reads is lent by the core while there is something to read, or in the middle of something.
        let mut inbound = Some(inbound);
        // In a box, for who waits in the readiness set needs no room for it.
        let mut reading = None;
        let mut expected = 0;
        // Everything else was seen to since it was last waited.
        let mut is_settled = false;
        let handler = self.handler.as_deref().map_or(0, |handler| ptr::from_ref(handler).addr());
        link.keeps_state_at([handler, ptr::from_ref(shared).addr()]);
        loop {
            if let Some(arrived) = inbound.take() {
                inbound = self.deal_with(arrived).await?;
                if inbound.is_none() {
                    return self.finish().await;
                }
                is_settled = true;
            }
            if link.is_spent() {
                Box::pin(link.pass()).await; // rare, and large
                is_settled = false;
            }
            let is_watched = link.is_watched();
            if !is_watched && inbound.as_mut().is_some_and(|inbound| inbound.decoder.wait_for(0) > 0) {
                continue; // what has come of a message is not to wait in a buffer that the kernel has meanwhile
            }
            self.is_reading = true;
            {
                let mut buf =
                    inbound.take_if(|inbound| inbound.is_at_rest()).map(|at_rest| self.dismiss(at_rest));
                let buf = match &mut inbound {
                    Some(inbound) => &mut inbound.buf,
                    None => buf.get_or_insert_default(),
                };
                if is_watched {
                    buf.rest(&link.worker.small, &link.worker.hot);
                    reading = None;
                } else {
                    let read = link.stream.read(buf.lend(&link.worker.hot, expected));
                    reading.get_or_insert_with(|| Box::pin(None)).set(Some(read));
                }
            }
            let mut has_waited = false;
            let arrived = poll_fn(|cx| {
                let polled = match reading.as_mut().and_then(|reading| reading.as_mut().as_pin_mut()) {
                    Some(read) => read.poll(cx).map(Some),
                    None => link.poll_arrival().map(|()| None),
                };
                has_waited |= polled.is_pending();
                if polled.is_pending() && std::mem::take(&mut is_settled) {
                    return Poll::Pending;
                }
                self.round_until(polled, cx)
            });
            let arrived = arrived.await?;
            if has_waited {
                link.has_waited();
            }
            let result = self.take_in(&mut inbound, arrived, expected);
            self.is_reading = false;
            let count = match result {
                Ok(count) if count > 0 => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The set has told of bytes that were taken before it did.
                    if let Some(at_rest) = inbound.take_if(|inbound| inbound.is_at_rest()) {
                        self.dismiss(at_rest).rest(&link.worker.small, &link.worker.hot);
                    }
                    continue;
                }
                result => {
                    shared.ends(End::Lost);
                    self.finish().await?;
                    return Err(result.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()).into());
                }
            };
            expected = count;
            link.spend(count);
            link.has_received(count);
            self.is_pinged = false;
            if !shared.close_sent.get() {
                link.within(Side::Read, shared.settings.ping_after);
            }
        }
    }

    /// Sees to it that what has arrived is heard; `None` when the connection is to be finished.
    async fn deal_with(&mut self, mut inbound: Box<Inbound>) -> Result<Option<Box<Inbound>>, Error> {
        loop {
            let shared = &*self.shared;
            // Pings and a close are seen to here; messages are the handler's, while there is one to hear them.
            let has_message = loop {
                match inbound.look(shared) {
                    Ok(true) if shared.abandoned.get() => {
                        if let Err(fault) = inbound.discard(shared) {
                            drop(shared.fail(fault));
                        }
                    }
                    Ok(has_message) => break has_message,
                    Err(fault) => drop(shared.fail(fault)),
                }
                if shared.end.get().is_some() {
                    break false;
                }
            };
            if shared.end.get().is_some() {
                return Ok(None);
            }
            if !has_message {
                // What was answered goes out also where the next read has its bytes at once.
                poll_fn(|cx| Poll::Ready(self.round(cx))).await?;
                return Ok(Some(inbound));
            }
            shared.hand_over(inbound);
            let reclaimed = poll_fn(|cx| {
                if let Err(error) = self.round(cx) {
                    return Poll::Ready(Err(error));
                }
                match self.shared.reclaim() {
                    Some(inbound) => Poll::Ready(Ok(Some(inbound))),
                    None if self.handler.is_none() => Poll::Ready(Ok(None)),
                    None => Poll::Pending,
                }
            });
            match reclaimed.await? {
                Some(reclaimed) if self.shared.end.get().is_none() => {
                    if !self.shared.abandoned.get() {
                        return Ok(Some(reclaimed));
                    }
                    inbound = reclaimed;
                }
                // The peer has closed; or the handler is done, and has left its receiver with somebody who still has it.
                _ => return Ok(None),
            }
        }
    }

    /// Takes what has arrived into the hands of what reads.
    fn take_in(
        &self,
        inbound: &mut Option<Box<Inbound>>,
        arrived: Option<BufResult<usize, Vec<u8>>>,
        expected: usize,
    ) -> io::Result<usize> {
        let link = &self.shared.link;
        let Inbound { buf, decoder, .. } = &mut **inbound.get_or_insert_with(|| self.employ());
        match arrived {
            Some(read) => buf.arrived(read, &link.stream, &link.worker.hot),
            None => {
                decoder.wait_for(WHOLE_MAX);
                buf.fill_now(&link.worker.small, &link.worker.hot, expected, |data| link.take_arrived(data))
            }
        }
    }

    /// What reads, from the core.
    fn employ(&self) -> Box<Inbound> {
        let mut inbound = self.shared.link.worker.inbounds.take();
        inbound.decoder.reset(self.role, self.shared.settings.limits);
        inbound
    }

    /// Gives it back, but for its buffer.
    fn dismiss(&self, mut inbound: Box<Inbound>) -> ReadBuf {
        let buf = std::mem::take(&mut inbound.buf);
        self.shared.link.worker.inbounds.give_back(inbound);
        buf
    }

    /// Goes on with everything else while `what` is pending.
    fn round_until<T>(&mut self, what: Poll<T>, cx: &mut Context<'_>) -> Poll<Result<T, Error>> {
        match what {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => match self.round(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }

    /// Lets the handler run as far as it can, and sends what it has queued.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        self.shared.link.listen(Side::Read, cx.waker());
        self.shared.driver_is(cx.waker());
        self.shared.is_running.set(true);
        let result = loop {
            if let Err(error) = self.heed() {
                break Err(error);
            }
            if !self.is_our_turn(cx) {
                break self.flush(cx);
            }
            self.poll_handler(cx);
            match self.flush(cx) {
                // Who waited for room can go on at once.
                Ok(()) if self.shared.wake_senders() => {}
                Ok(()) if self.shared.link.is_spent() && self.shared.has_waiters() => {}
                result => break result,
            }
        };
        self.shared.is_running.set(false);
        result
    }

    /// A handler that never has to wait would keep the core to itself.
    fn is_our_turn(&mut self, cx: &mut Context<'_>) -> bool {
        if self.turn.is_none() && self.shared.link.is_spent() {
            let link = Rc::clone(&self.shared.link);
            self.turn = Some(Box::pin(async move { link.pass().await }));
        }
        if let Some(turn) = &mut self.turn {
            if turn.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.turn = None;
            self.shared.wake_senders();
        }
        true
    }

    /// Heeds passed deadlines and the server's drain.
    fn heed(&mut self) -> Result<(), Error> {
        let shared = Rc::clone(&self.shared);
        let (link, shared) = (&*shared.link, &*shared);
        if link.is_overdue(Side::Write) {
            return Err(Error::TimedOut);
        }
        if link.is_overdue(Side::Read) {
            if shared.close_sent.get() || shared.end.get().is_some() {
                return Err(Error::TimedOut);
            }
            if !self.is_reading {
                // The handler has not looked yet at what is there: the silence is ours.
                link.within(Side::Read, shared.settings.ping_after);
            } else if self.is_pinged {
                shared.close(Some(CloseFrame { code: Code::GOING_AWAY, reason: "no sign of life" }));
                // Only what the socket takes at once: nobody is there to wait for.
                drop(shared.send());
                return Err(Error::TimedOut);
            } else {
                self.is_pinged = true;
                shared.push(Opcode::Ping, b"");
                link.within(Side::Read, shared.settings.pong_time);
            }
        }
        if link.is_overdue(Side::Close) {
            link.deadline(Side::Close, NEVER);
            shared.close(Some(CloseFrame {
                code: Code::GOING_AWAY,
                reason: "the connection has served its time",
            }));
        }
        if link.is_goodbye() && !shared.close_sent.get() {
            let reason = match () {
                () if link.worker.is_draining() => "the server is shutting down",
                () if link.worker.sessions.is_doomed(link) => "the server's operator has ended it",
                () => "the connection has served its time",
            };
            shared.close(Some(CloseFrame { code: Code::GOING_AWAY, reason }));
        }
        Ok(())
    }

    fn poll_handler(&mut self, cx: &mut Context<'_>) {
        let Some(handler) = &mut self.handler else { return };
        // After a panic the handler is never polled again.
        let ended = match panic::catch_unwind(panic::AssertUnwindSafe(|| handler.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(result)) => result.map_err(|error| Box::new(Ended::Error(error))),
            Err(panic) => Err(Box::new(Ended::Panic(panic))),
        };
        self.handler = None;
        let code = if ended.is_ok() { Code::NORMAL } else { Code::INTERNAL_ERROR };
        self.shared.close(Some(CloseFrame { code, reason: "" }));
        self.shared.abandoned.set(true);
        self.result = Some(ended);
    }

    /// Sends what the socket takes, and sees to it that the rest follows.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let shared = Rc::clone(&self.shared);
        let link = &shared.link;
        loop {
            if let Some(room) = &mut self.room {
                let Poll::Ready(result) = room.as_mut().poll(cx) else { return Ok(()) };
                self.room = None;
                result?;
            }
            let sent = shared.send();
            match sent {
                Ok(()) if link.stream.is_flushed() => {
                    link.deadline(Side::Write, NEVER);
                    return Ok(());
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
                _ => {
                    link.within(Side::Write, link.worker.config.write_time);
                    let link = Rc::clone(link);
                    self.room = Some(Box::pin(async move { link.stream.writable().await }));
                }
            }
        }
    }

    /// Lets the handler end and the last frames go out, within the close time.
    async fn finish(&mut self) -> Result<(), Error> {
        self.shared.link.within(Side::Read, self.shared.settings.close_time);
        poll_fn(|cx| {
            if let Err(error) = self.round(cx) {
                return Poll::Ready(Err(error));
            }
            let is_sent = self.room.is_none();
            if self.handler.is_none() && is_sent { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Lets the handler see that the connection has ended, and clean up, within the close time.
    async fn wind_up(&mut self) {
        self.shared.link.within(Side::Read, self.shared.settings.close_time);
        poll_fn(|cx| {
            self.shared.link.listen(Side::Read, cx.waker());
            self.shared.driver_is(cx.waker());
            self.poll_handler(cx);
            let is_over = self.handler.is_none() || self.shared.link.is_overdue(Side::Read);
            if is_over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        for side in [Side::Read, Side::Write, Side::Close] {
            self.shared.link.deadline(side, NEVER);
        }
    }
}

/// A message up to this length that has not come as a whole is waited for where it lies.
const WHOLE_MAX: usize = 64 << 10;
