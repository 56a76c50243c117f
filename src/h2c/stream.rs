//! A stream of an HTTP/2 connection as a transport (RFC 8441): the same handlers run over it as over a connection of their
//! own.
//!
//! What arrives is moved out of the `h2` crate at once, into a buffer of ours: the crate keeps each DATA frame by itself,
//! and gives the connection up when many tiny ones lie unread. The window is handed back only as the handler takes the
//! bytes, so the buffer never holds more than the stream's window.

use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};

use super::io::Watch;

/// One stream of an HTTP/2 connection, once it was accepted.
#[derive(Clone)]
pub struct Http2Stream(Rc<RefCell<Inner>>);

struct Inner {
    recv: RecvStream,
    send: SendStream<Bytes>,
    /// What has arrived and was not taken.
    inbound: BytesMut,
    /// Nothing more will arrive.
    end: Option<End>,
    /// END_STREAM was sent, or the stream is beyond use.
    is_finished: bool,
    reader: Option<Waker>,
    /// Who waits until the connection has room for another frame.
    writer: Option<Waker>,
    watch: Rc<Watch>,
}

#[derive(Clone, Copy)]
enum End {
    /// END_STREAM.
    Clean,
    /// RST_STREAM, by either side, or the end of the connection.
    Broken,
}

/// What the connection's driver keeps of a stream.
pub(super) struct Inlet(Weak<RefCell<Inner>>);

impl Inlet {
    /// Moves what has arrived to where the handler finds it; `false` when nobody wants it any more.
    pub(super) fn pump(&self) -> bool {
        let Some(inner) = self.0.upgrade() else { return false };
        let mut inner = inner.borrow_mut();
        inner.pump();
        if inner.watch.has_room()
            && let Some(writer) = inner.writer.take()
        {
            writer.wake();
        }
        inner.end.is_none() || !inner.is_finished
    }

    /// The connection has ended.
    pub(super) fn lost(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.borrow_mut().ends(End::Broken);
        }
    }
}

impl Inner {
    fn pump(&mut self) {
        // Frames arrive only while the driver runs, and then it comes by here, so nobody has to be woken.
        let mut cx = Context::from_waker(Waker::noop());
        while self.end.is_none() {
            match self.recv.poll_data(&mut cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(chunk))) => {
                    self.inbound.extend_from_slice(&chunk);
                    self.wake();
                }
                Poll::Ready(Some(Err(_))) => self.ends(End::Broken),
                Poll::Ready(None) => self.ends(End::Clean),
            }
        }
    }

    fn ends(&mut self, end: End) {
        self.end.get_or_insert(end);
        if let End::Broken = end {
            self.is_finished = true;
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        if self.end.is_some()
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
    }
}

impl Http2Stream {
    pub(super) fn new(recv: RecvStream, send: SendStream<Bytes>, watch: Rc<Watch>) -> (Self, Inlet) {
        let inner = Inner {
            recv,
            send,
            inbound: BytesMut::new(),
            end: None,
            is_finished: false,
            reader: None,
            writer: None,
            watch,
        };
        let stream = Self(Rc::new(RefCell::new(inner)));
        let inlet = Inlet(Rc::downgrade(&stream.0));
        stream.0.borrow_mut().pump();
        (stream, inlet)
    }

    pub(crate) async fn read(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let result = poll_fn(|cx| match self.try_read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.0.borrow_mut().reader = Some(cx.waker().clone());
                Poll::Pending
            }
            result => Poll::Ready(result),
        });
        let result = result.await;
        (result, buffer)
    }

    pub(crate) fn try_read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let inner = &mut *self.0.borrow_mut();
        let count = inner.inbound.len().min(buffer.capacity() - buffer.len());
        if count == 0 {
            return match inner.end {
                Some(End::Clean) => Ok(0),
                Some(End::Broken) => Err(io::ErrorKind::ConnectionReset.into()),
                None => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        buffer.extend_from_slice(&inner.inbound[..count]);
        inner.inbound.advance(count);
        if inner.inbound.is_empty() {
            inner.inbound = BytesMut::new(); // an idle stream keeps no buffer
        }
        // It fails only where the stream is over, and has no window any more.
        drop(inner.recv.flow_control().release_capacity(count));
        Ok(count)
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            if inner.end.is_some() || !inner.inbound.is_empty() {
                return Poll::Ready(Ok(()));
            }
            inner.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Sends what the peer's window and our queue have room for, in one DATA frame if it fits one.
    pub(crate) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let inner = &mut *self.0.borrow_mut();
        if inner.is_finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total == 0 {
            return Ok(0);
        }
        inner.send.reserve_capacity(total.min(WRITE_MAX));
        if !inner.watch.has_room() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = inner.send.capacity().min(total);
        if count == 0 {
            return match inner.send.poll_capacity(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending | Poll::Ready(Some(Ok(_))) => Err(io::ErrorKind::WouldBlock.into()),
                Poll::Ready(_) => Err(io::ErrorKind::ConnectionReset.into()),
            };
        }
        let mut frame = BytesMut::with_capacity(count);
        for slice in slices {
            frame.extend_from_slice(&slice[..slice.len().min(count - frame.len())]);
        }
        inner.send.send_data(frame.freeze(), false).map_err(broken)?;
        inner.watch.has_queued();
        Ok(count)
    }

    /// Waits for room, after [`try_write`](Self::try_write) has found none.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            loop {
                if !inner.is_finished && !inner.watch.has_room() {
                    inner.writer = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                if inner.is_finished || inner.send.capacity() > 0 {
                    return Poll::Ready(Ok(()));
                }
                match inner.send.poll_capacity(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(error))),
                    Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                }
            }
        })
        .await
    }

    /// END_STREAM, which is the counterpart of FIN (RFC 8441 5).
    pub(crate) fn shutdown_write(&self) {
        let mut inner = self.0.borrow_mut();
        if !std::mem::replace(&mut inner.is_finished, true) {
            // It fails only where the stream is over already.
            drop(inner.send.send_data(Bytes::new(), true));
        }
    }

    /// RST_STREAM with CANCEL, which is the counterpart of RST (RFC 8441 5).
    pub(crate) fn abort(&self) {
        let mut inner = self.0.borrow_mut();
        inner.send.send_reset(Reason::CANCEL);
        inner.ends(End::Broken);
    }
}

impl fmt::Debug for Http2Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.try_borrow() {
            Ok(inner) => write!(f, "Http2Stream({:?})", inner.recv.stream_id()),
            Err(_) => f.write_str("Http2Stream"),
        }
    }
}

/// No more is asked for at once, so that other streams get their share of the connection's window.
const WRITE_MAX: usize = 64 << 10;

fn broken(error: h2::Error) -> io::Error {
    match error.into_io() {
        Some(error) => error,
        None => io::ErrorKind::ConnectionReset.into(),
    }
}
