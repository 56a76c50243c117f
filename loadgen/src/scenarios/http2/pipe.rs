//! What the `h2` crate reads and writes: two buffers, and no waiting.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both ends of it; whoever has one sees the same buffers.
#[derive(Clone, Debug, Default)]
pub(super) struct Pipe(Rc<RefCell<Buffers>>);

#[derive(Debug, Default)]
struct Buffers {
    /// What has arrived; `read` bytes of it were taken.
    arrived: Vec<u8>,
    read: usize,
    /// What is to go.
    to_go: Vec<u8>,
}

impl Pipe {
    /// Bytes that have arrived.
    pub(super) fn feed(&self, bytes: &[u8]) {
        let buffers = &mut *self.0.borrow_mut();
        if buffers.read == buffers.arrived.len() {
            buffers.arrived.clear();
            buffers.read = 0;
        }
        buffers.arrived.extend_from_slice(bytes);
    }

    /// Appends what is to go to `out`. After a poll of the connection these are whole frames.
    pub(super) fn take(&self, out: &mut Vec<u8>) {
        out.append(&mut self.0.borrow_mut().to_go);
    }
}

impl AsyncRead for Pipe {
    /// The end is never met here: a connection that ends is the socket's to notice.
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let buffers = &mut *self.0.borrow_mut();
        let left = &buffers.arrived[buffers.read..];
        if left.is_empty() {
            return Poll::Pending;
        }
        let count = into.remaining().min(left.len());
        into.put_slice(&left[..count]);
        buffers.read += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().to_go.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let to_go = &mut self.0.borrow_mut().to_go;
        slices.iter().for_each(|slice| to_go.extend_from_slice(slice));
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
