//! The one task of a WebSocket: it reads, runs the handler, writes what the handler queued, pings, and closes.
//!
//! A round is: the handler runs as far as it can; what it queued goes out in one write; the kernel gets the read buffer.
//! The read stays armed while the handler sends, and is never dropped before the end.

use std::{
    any::Any,
    future::poll_fn,
    io, panic,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use super::{
    Session, Settings,
    batch::Inbound,
    socket::{End, Shared, Socket},
};
use crate::{
    Error, Upgraded,
    registry::LocalBoxFuture,
    sessions::{Link, NEVER, Side},
    ws::{self, CloseFrame, Code, Opcode, Role},
};

/// Speaks RFC 6455 in either role, until both sides have closed.
pub(super) async fn run<H>(
    handler: &H,
    settings: Rc<Settings>,
    session: Session,
    connection: Upgraded,
    role: Role,
) -> Result<(), Error>
where
    H: AsyncFn(Socket) -> Result<(), Error>,
{
    let (link, buf) = connection.into_parts();
    let decoder = match session.deflate {
        Some(agreed) => ws::Receiver::with_deflate(role, settings.limits, agreed, &link.worker.contexts),
        None => ws::Receiver::new(role, settings.limits),
    };
    let inbound = Inbound::new(buf, decoder);
    link.within(Side::Close, settings.lifetime);
    let shared = Shared::new(Rc::clone(&link), settings, &session, role);
    if let Some(greeting) = session.greeting {
        shared.push(Opcode::Text, greeting.as_bytes());
    }
    let handler = pin!(handler(Socket::new(&shared)));
    let mut driver = Driver {
        link: &link,
        shared: &shared,
        handler: Some(handler),
        result: None,
        room: None,
        turn: None,
        is_reading: false,
        is_pinged: false,
    };
    let driven = driver.drive(inbound).await;
    shared.ends(End::Lost); // for the handler, and for senders that are kept elsewhere
    driver.wind_up().await;
    let ended = driver.result.take();
    if let Some(Err(Ended::Panic(panic))) = ended {
        panic::resume_unwind(panic);
    }
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

struct Driver<'a, F> {
    link: &'a Link,
    shared: &'a Shared,
    /// Until it is done.
    handler: Option<Pin<&'a mut F>>,
    result: Option<Result<(), Ended>>,
    /// The wait for room in the socket, while there is none.
    room: Option<LocalBoxFuture<'a, io::Result<()>>>,
    /// The wait for our next turn, while it is somebody else's.
    turn: Option<LocalBoxFuture<'a, ()>>,
    /// The kernel has the buffer, so that a silent peer is silent.
    is_reading: bool,
    /// A ping of ours is not answered yet.
    is_pinged: bool,
}

enum Ended {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

impl<F> Driver<'_, F>
where
    F: Future<Output = Result<(), Error>>,
{
    /// Goes on until the closing handshake is done, or the connection beyond hope.
    async fn drive(&mut self, mut inbound: Box<Inbound>) -> Result<(), Error> {
        let (link, shared) = (self.link, self.shared);
        link.within(Side::Read, shared.settings.ping_after);
        loop {
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
                return self.finish().await;
            }
            if has_message {
                shared.hand_over(inbound);
                let reclaimed = poll_fn(|cx| {
                    if let Err(error) = self.round(cx) {
                        return Poll::Ready(Err(error));
                    }
                    match shared.reclaim() {
                        Some(inbound) => Poll::Ready(Ok(Some(inbound))),
                        None if self.handler.is_none() => Poll::Ready(Ok(None)),
                        None => Poll::Pending,
                    }
                });
                match reclaimed.await? {
                    Some(reclaimed) => inbound = reclaimed,
                    // The handler is done, and has left its receiver with somebody who still holds it.
                    None => return self.finish().await,
                }
                if shared.end.get().is_some() {
                    return self.finish().await;
                }
                if shared.abandoned.get() {
                    continue;
                }
            } else {
                // What was answered goes out also where the next read has its bytes at once.
                poll_fn(|cx| Poll::Ready(self.round(cx))).await?;
            }
            if link.is_spent() {
                link.pass().await;
            }
            let mut filling = pin!(std::mem::take(&mut inbound.buf).fill(&link.stream, &link.worker.hot));
            self.is_reading = true;
            let mut has_waited = false;
            let filled = poll_fn(|cx| {
                if let Poll::Ready(filled) = filling.as_mut().poll(cx) {
                    return Poll::Ready(Ok(filled));
                }
                has_waited = true;
                match self.round(cx) {
                    Ok(()) => Poll::Pending,
                    Err(error) => Poll::Ready(Err(error)),
                }
            });
            let (result, buf) = filled.await?;
            self.is_reading = false;
            inbound.buf = buf;
            let count = match result {
                Ok(count) if count > 0 => count,
                result => {
                    shared.ends(End::Lost);
                    self.finish().await?;
                    return Err(result.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()).into());
                }
            };
            if has_waited {
                link.has_waited();
            }
            link.spend(count);
            link.received.set(link.received.get() + count as u64);
            self.is_pinged = false;
            if !shared.close_sent.get() {
                link.within(Side::Read, shared.settings.ping_after);
            }
        }
    }

    /// Lets the handler run as far as it can, and sends what it has queued.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        self.link.listen(Side::Read, cx.waker());
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
                Ok(()) if self.link.is_spent() && self.shared.has_waiters() => {}
                result => break result,
            }
        };
        self.shared.is_running.set(false);
        result
    }

    /// A handler that never has to wait would keep the core to itself.
    fn is_our_turn(&mut self, cx: &mut Context<'_>) -> bool {
        if self.turn.is_none() && self.link.is_spent() {
            self.turn = Some(Box::pin(self.link.pass()));
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
        let (link, shared) = (self.link, self.shared);
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
                drop(shared.queue.borrow_mut().send(link));
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
            shared.close(Some(CloseFrame { code: Code::GOING_AWAY, reason: "the server is shutting down" }));
        }
        Ok(())
    }

    fn poll_handler(&mut self, cx: &mut Context<'_>) {
        let Some(handler) = &mut self.handler else { return };
        // After a panic the handler is never polled again.
        let ended = match panic::catch_unwind(panic::AssertUnwindSafe(|| handler.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(result)) => result.map_err(Ended::Error),
            Err(panic) => Err(Ended::Panic(panic)),
        };
        self.handler = None;
        let code = if ended.is_ok() { Code::NORMAL } else { Code::INTERNAL_ERROR };
        self.shared.close(Some(CloseFrame { code, reason: "" }));
        self.shared.abandoned.set(true);
        self.result = Some(ended);
    }

    /// Sends what the socket takes, and sees to it that the rest follows.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let link = self.link;
        loop {
            if let Some(room) = &mut self.room {
                let Poll::Ready(result) = room.as_mut().poll(cx) else { return Ok(()) };
                self.room = None;
                result?;
            }
            match self.shared.queue.borrow_mut().send(link) {
                Ok(()) => {
                    link.deadline(Side::Write, NEVER);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    link.within(Side::Write, link.worker.config.write_time);
                    self.room = Some(Box::pin(link.stream.writable()));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Lets the handler end and the last frames go out, within the close time.
    async fn finish(&mut self) -> Result<(), Error> {
        self.link.within(Side::Read, self.shared.settings.close_time);
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
        self.link.within(Side::Read, self.shared.settings.close_time);
        poll_fn(|cx| {
            self.link.listen(Side::Read, cx.waker());
            self.shared.driver_is(cx.waker());
            self.poll_handler(cx);
            let is_over = self.handler.is_none() || self.link.is_overdue(Side::Read);
            if is_over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        for side in [Side::Read, Side::Write, Side::Close] {
            self.link.deadline(side, NEVER);
        }
    }
}
