//! The transports: a closed set, so an enum.
//!
//! Waiting for bytes is a ring operation that owns its buffer; what is known to be there, or to have room, is taken
//! and sent at once by a system call, straight from the core's hot buffer. A pending read is never dropped while
//! the connection is to go on: its bytes would go with it.

use std::{
    cell::UnsafeCell,
    io::{self, IoSlice},
    os::fd::{AsRawFd, BorrowedFd},
};

use monoio::{buf::SliceMut, io::AsyncReadRent, net::TcpStream};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use crate::{duplex::Duplex, h2c::Http2Stream};

/// A transport, now the protocol's own.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stream {
    /// A TCP connection.
    Tcp(Tcp),
    /// A stream of an HTTP/2 connection (RFC 8441).
    H2(Http2Stream),
    /// The in-memory pipe of the tests.
    Memory(Duplex),
}

impl Stream {
    /// Waits for bytes and appends them to `buffer`, at most its spare capacity. `Ok(0)` is the end.
    ///
    /// Dropping the future loses the buffer with what has arrived in it, so drop it only to close.
    pub(crate) async fn read(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        debug_assert!(buffer.len() < buffer.capacity(), "a read into no room looks like the end");
        match self {
            Self::Tcp(tcp) => tcp.read(buffer).await,
            Self::H2(stream) => stream.read(buffer).await,
            Self::Memory(duplex) => duplex.read(buffer).await,
        }
    }

    /// Appends what has already arrived to `buffer`, at most its spare capacity, without waiting.
    pub(crate) fn try_read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => {
                let spare = rustix::buffer::spare_capacity(buffer);
                Ok(rustix::net::recv(tcp.fd(), spare, RecvFlags::DONTWAIT)?.0)
            }
            Self::H2(stream) => stream.try_read(buffer),
            Self::Memory(duplex) => duplex.try_read(buffer),
        }
    }

    /// Sends what there is room for, without waiting.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                Ok(rustix::net::send(tcp.fd(), bytes, flags)?)
            }
            Self::H2(stream) => stream.try_write(&[IoSlice::new(bytes)]),
            Self::Memory(duplex) => duplex.try_write(bytes),
        }
    }

    /// As [`try_write`](Self::try_write), from several places at once.
    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let mut nothing = SendAncillaryBuffer::default();
                Ok(rustix::net::sendmsg(tcp.fd(), slices, &mut nothing, flags)?)
            }
            Self::H2(stream) => stream.try_write(slices),
            Self::Memory(duplex) => {
                let mut sent = 0;
                for slice in slices {
                    match duplex.try_write(slice) {
                        Ok(count) if count == slice.len() => sent += count,
                        Ok(count) => return Ok(sent + count),
                        Err(_) if sent > 0 => return Ok(sent), // met again by the next call
                        Err(error) => return Err(error),
                    }
                }
                Ok(sent)
            }
        }
    }

    /// Waits until [`try_read`](Self::try_read) may have something. Dropping the future loses nothing.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.stream().readable(false).await,
            Self::H2(stream) => stream.readable().await,
            Self::Memory(duplex) => duplex.readable().await,
        }
    }

    /// Waits until [`try_write`](Self::try_write) may have room again.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.writable().await,
            Self::H2(stream) => stream.writable().await,
            Self::Memory(duplex) => duplex.writable().await,
        }
    }

    /// Says that nothing more will be sent: the peer reads the end.
    pub(crate) fn shutdown_write(&self) {
        match self {
            // An error means that the connection is gone already, which is what was wanted.
            Self::Tcp(tcp) => drop(rustix::net::shutdown(tcp.fd(), Shutdown::Write)),
            Self::H2(stream) => stream.shutdown_write(),
            Self::Memory(duplex) => duplex.shutdown_write(),
        }
    }

    /// Ends it in both directions; a pending read returns. The one way to end a connection from outside its task.
    pub(crate) fn abort(&self) {
        match self {
            Self::Tcp(tcp) => drop(rustix::net::shutdown(tcp.fd(), Shutdown::Both)),
            Self::H2(stream) => stream.abort(),
            Self::Memory(duplex) => duplex.abort(),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Tcp(Tcp(UnsafeCell::new(tcp)))
    }
}

impl From<Http2Stream> for Stream {
    fn from(stream: Http2Stream) -> Self {
        Self::H2(stream)
    }
}

impl From<Duplex> for Stream {
    fn from(duplex: Duplex) -> Self {
        Self::Memory(duplex)
    }
}

/// A TCP connection that reads and writes at the same time.
#[derive(Debug)]
pub struct Tcp(UnsafeCell<TcpStream>);

impl Tcp {
    #[expect(unsafe_code, reason = "monoio reads by `&mut`, and a read stays armed while others write")]
    async fn read(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        // SAFETY: the exclusive reference lives for this call only. `read` clones the descriptor into the operation
        // and keeps nothing borrowed; monoio's `unsafe impl Split for TcpStream` promises the same. The type is
        // neither `Send` nor `Sync`, so no other thread is here.
        let stream = unsafe { &mut *self.0.get() };
        if buffer.is_empty() {
            return stream.read(buffer).await;
        }
        let (start, end) = (buffer.len(), buffer.capacity());
        let (result, slice) = stream.read(SliceMut::new(buffer, start, end)).await;
        (result, slice.into_inner())
    }

    async fn writable(&self) -> io::Result<()> {
        self.stream().writable(false).await
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
