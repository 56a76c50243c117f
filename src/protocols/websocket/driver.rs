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
    socket::{End, Inbound, Shared, Socket},
};
use crate::{
    Error, Upgraded,
    registry::LocalBoxFuture,
    sessions::{Link, NEVER, Side},
    ws::{CloseFrame, Code, Opcode},
};

/// Speaks RFC 6455 as the server, until both sides have closed.
pub(super) async fn run<H>(
    handler: &H,
    settings: Rc<Settings>,
    session: Session,
    connection: Upgraded,
) -> Result<(), Error>
where
    H: AsyncFn(Socket) -> Result<(), Error>,
{
    let (link, buf) = connection.into_parts();
    let inbound = Inbound::new(buf, settings.limits);
    let shared = Shared::new(Rc::clone(&link), settings, session.subprotocol);
    if let Some(greeting) = session.greeting {
        shared.push(Opcode::Text, greeting.as_bytes());
    }
    shared.hand_over(inbound);
    let handler = pin!(handler(Socket::new(&shared)));
    let mut driver = Driver {
        link: &link,
        shared: &shared,
        handler: Some(handler),
        result: None,
        room: None,
        pinged: false,
    };
    let driven = drive(&mut driver).await;
    shared.ends(End::Lost); // for senders that are kept elsewhere
    link.deadline(Side::Read, NEVER);
    link.deadline(Side::Write, NEVER);
    match (driver.result.take(), driven) {
        (Some(Err(Ended::Panic(panic))), _) => panic::resume_unwind(panic),
        (Some(Err(Ended::Error(error @ Error::Peer(_)))), _) => Err(error),
        (_, Err(error)) if !(shared.close_sent.get() && shared.close_received.get()) => Err(error),
        (Some(Err(Ended::Error(error))), _) if !matches!(error, Error::Closed) => Err(error),
        _ => Ok(()),
    }
}

/// Goes on until the closing handshake is done, or the connection beyond hope.
async fn drive<F>(driver: &mut Driver<'_, F>) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let (link, shared) = (driver.link, driver.shared);
    link.within(Side::Read, shared.settings.ping_after);
    loop {
        // The handler has the bytes, until it wants more.
        let inbound = poll_fn(|cx| {
            if let Err(error) = driver.round(cx) {
                return Poll::Ready(Err(error));
            }
            match shared.reclaim() {
                Some(inbound) => Poll::Ready(Ok(Some(inbound))),
                None if driver.handler.is_none() => Poll::Ready(Ok(None)),
                None => Poll::Pending,
            }
        });
        let Some(mut inbound) = inbound.await? else {
            // The handler is done, and has left its receiver with somebody who still holds it.
            return driver.finish().await;
        };
        if shared.abandoned.get()
            && shared.end.get().is_none()
            && let Err(fault) = inbound.discard(shared)
        {
            let error = shared.fail(fault);
            driver.finish().await?;
            return Err(error);
        }
        if shared.end.get().is_some() {
            return driver.finish().await;
        }

        let filling = std::mem::take(&mut inbound.buf).fill(&link.stream, &link.worker.pool, usize::MAX);
        let mut filling = pin!(filling);
        let filled = poll_fn(|cx| {
            if let Poll::Ready(filled) = filling.as_mut().poll(cx) {
                return Poll::Ready(Ok(filled));
            }
            match driver.round(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            }
        });
        let (result, buf) = filled.await?;
        inbound.buf = buf;
        match result {
            Ok(count) if count > 0 => {
                link.received.set(link.received.get() + count as u64);
                driver.pinged = false;
                if !shared.close_sent.get() {
                    link.within(Side::Read, shared.settings.ping_after);
                }
                shared.hand_over(inbound);
            }
            Ok(_) => {
                shared.ends(End::Lost);
                driver.finish().await?;
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            Err(error) => {
                shared.ends(End::Lost);
                driver.finish().await?;
                return Err(error.into());
            }
        }
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
    /// A ping of ours is not answered yet.
    pinged: bool,
}

enum Ended {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

impl<F> Driver<'_, F>
where
    F: Future<Output = Result<(), Error>>,
{
    /// Lets the handler run as far as it can, and sends what it has queued.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        self.link.listen(Side::Read, cx.waker());
        self.shared.task.set(Some(cx.waker().clone()));
        self.shared.is_running.set(true);
        let result = loop {
            if let Err(error) = self.heed() {
                break Err(error);
            }
            self.poll_handler(cx);
            match self.flush(cx) {
                // Who waited for room can go on at once.
                Ok(()) if self.shared.wake_senders() => {}
                result => break result,
            }
        };
        self.shared.is_running.set(false);
        result
    }

    /// Heeds passed deadlines and the server's drain.
    fn heed(&mut self) -> Result<(), Error> {
        let (link, shared) = (self.link, self.shared);
        if link.is_expired() {
            if link.was_cut()
                || link.is_overdue(Side::Write)
                || shared.close_sent.get()
                || shared.end.get().is_some()
            {
                return Err(Error::TimedOut);
            }
            link.forgive();
            if self.pinged {
                shared.close(Some(CloseFrame { code: Code::GOING_AWAY, reason: "no sign of life" }));
                // Only what the socket takes at once: nobody is there to wait for.
                drop(shared.out.borrow_mut().send(link));
                return Err(Error::TimedOut);
            }
            self.pinged = true;
            shared.push(Opcode::Ping, b"");
            link.within(Side::Read, shared.settings.pong_time);
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
            match self.shared.out.borrow_mut().send(link) {
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
}
