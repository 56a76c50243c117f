//! A TCP connection that reads and writes at the same time, and can be ended from outside its task.
//!
//! Waiting for bytes is an operation of the ring that owns its buffer. Sending is a system call, at once: the clock of a
//! message is read right before it, and not before a queue.

use std::{
    cell::UnsafeCell,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use monoio::{buf::SliceMut, io::AsyncReadRent, net::TcpStream};
use rustix::net::{SendFlags, Shutdown};

pub(crate) struct Socket(UnsafeCell<TcpStream>);

impl Socket {
    /// Dropping the future gives the attempt up.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_addr(address).await?;
        // Messages are written whole; waiting for more of them would only be measured as latency.
        stream.set_nodelay(true)?;
        Ok(Self(UnsafeCell::new(stream)))
    }

    /// Waits for bytes and appends them to `buffer`, at most its spare capacity. `Ok(0)` is the end.
    ///
    /// Dropping the future loses the buffer with what has arrived in it, so drop it only to close.
    #[expect(unsafe_code, reason = "monoio reads by `&mut`, and a read stays armed while others write")]
    pub(crate) async fn read(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        debug_assert!(buffer.len() < buffer.capacity(), "a read into no room looks like the end");
        // SAFETY: the exclusive reference lives for this call only. `read` clones the descriptor into the operation
        // and keeps nothing borrowed; monoio's `unsafe impl Split for TcpStream` promises the same. The type is
        // neither `Send` nor `Sync`, so no other thread is here.
        let stream = unsafe { &mut *self.0.get() };
        let (start, end) = (buffer.len(), buffer.capacity());
        let (result, slice) = stream.read(SliceMut::new(buffer, start, end)).await;
        (result, slice.into_inner())
    }

    /// Sends what there is room for, without waiting.
    #[inline]
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    /// Waits until [`try_write`](Self::try_write) may have room again.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.stream().writable(false).await
    }

    /// Says that nothing more will be sent: the peer reads the end.
    pub(crate) fn shutdown_write(&self) {
        // An error means that the connection is gone already.
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Write);
    }

    /// Ends it in both directions; a pending read returns.
    pub(crate) fn abort(&self) {
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Both);
    }

    #[expect(unsafe_code, reason = "the counterpart of `read`")]
    fn stream(&self) -> &TcpStream {
        // SAFETY: no exclusive reference outlives the call in `read` that made it.
        unsafe { &*self.0.get() }
    }

    #[expect(unsafe_code, reason = "monoio names its descriptors only by number")]
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.stream().as_raw_fd()) }
    }
}
