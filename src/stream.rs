//! The transports: a closed set, so an enum.
//!
//! Waiting for bytes is a ring operation that owns its buffer, or has none and only waits; what is known to be there, or to have room, is taken
//! and sent at once by a system call, straight from the core's hot buffer. A pending read is never dropped while
//! the connection is to go on: its bytes would go with it.

use std::{
    cell::UnsafeCell,
    io::{self, IoSlice},
    net::TcpStream,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use monoio::{BufResult, buf::SliceMut, io::AsyncReadRent, net::UnixStream};
use pin_project_lite::pin_project;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

#[cfg(feature = "tls")]
use crate::tls::{Info, PeerCertificate, Tls};
use crate::{
    duplex::Duplex,
    h2c::Http2Stream,
    registry::LocalBoxFuture,
    trace::{Tap, Tapped},
};

/// A transport, now the protocol's own.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stream {
    /// A TCP connection.
    Tcp(Tcp),
    /// TLS, over one of the others.
    #[cfg(feature = "tls")]
    Tls(Box<Tls>),
    /// A stream of an HTTP/2 connection (RFC 8441).
    H2(Http2Stream),
    /// The in-memory pipe of the tests.
    Memory(Box<Duplex>),
    /// Another one, while somebody traces what passes through it.
    Tapped(Box<Tapped>),
}

impl Stream {
    /// Waits for bytes and appends them to `buffer`, at most its spare capacity. `Ok(0)` is the end.
    ///
    /// Without a buffer it waits until there is something to be read, and reads nothing: `Ok(0)`.
    ///
    /// Dropping the future loses the buffer with what has arrived in it, so drop it only to close.
    pub fn read(&self, buffer: Vec<u8>) -> impl Future<Output = BufResult<usize, Vec<u8>>> + use<'_> {
        if buffer.capacity() == 0 {
            return Reading::Ready { ready: self.readable() };
        }
        debug_assert!(buffer.len() < buffer.capacity(), "a read into no room looks like the end");
        match self {
            Self::Tcp(tcp) => Reading::Tcp { read: tcp.read(buffer) },
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Reading::Boxed { read: tls.read(buffer) },
            Self::H2(stream) => Reading::H2 { read: stream.read(buffer) },
            Self::Memory(duplex) => Reading::Memory { read: duplex.read(buffer) },
            Self::Tapped(tapped) => Reading::Boxed { read: Box::pin(tapped.read(buffer)) },
        }
    }

    /// Appends what has already arrived to `buffer`, at most its spare capacity, without waiting.
    pub fn try_read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => {
                let spare = rustix::buffer::spare_capacity(buffer);
                Ok(rustix::net::recv(tcp.fd(), spare, RecvFlags::DONTWAIT)?.0)
            }
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.try_read(buffer),
            Self::H2(stream) => stream.try_read(buffer),
            Self::Memory(duplex) => duplex.try_read(buffer),
            Self::Tapped(tapped) => {
                let before = buffer.len();
                let result = tapped.inner.try_read(buffer);
                tapped.tap.received(&buffer[before..]);
                result
            }
        }
    }

    /// Sends what there is room for, without waiting.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                Ok(rustix::net::send(tcp.fd(), bytes, flags)?)
            }
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.try_write(&[IoSlice::new(bytes)]),
            Self::H2(stream) => stream.try_write(&[IoSlice::new(bytes)]),
            Self::Memory(duplex) => duplex.try_write(bytes),
            Self::Tapped(tapped) => {
                let count = tapped.inner.try_write(bytes)?;
                tapped.tap.sent(&bytes[..count]);
                Ok(count)
            }
        }
    }

    /// As [`try_write`](Self::try_write), from several places at once.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let mut nothing = SendAncillaryBuffer::default();
                Ok(rustix::net::sendmsg(tcp.fd(), slices, &mut nothing, flags)?)
            }
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.try_write(slices),
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
            Self::Tapped(tapped) => {
                let mut left = tapped.inner.try_write_vectored(slices)?;
                let count = left;
                for slice in slices {
                    let taken = slice.len().min(left);
                    left -= taken;
                    if taken > 0 {
                        tapped.tap.sent(&slice[..taken]);
                    }
                }
                Ok(count)
            }
        }
    }

    /// Waits until [`try_read`](Self::try_read) may find something. Dropping the future loses nothing.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.stream().readable(false).await,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.readable().await,
            Self::H2(stream) => stream.readable().await,
            Self::Memory(duplex) => duplex.readable().await,
            Self::Tapped(tapped) => Box::pin(tapped.inner.readable()).await,
        }
    }

    /// Waits until [`try_write`](Self::try_write) may have room again.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.writable().await,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.writable().await,
            Self::H2(stream) => stream.writable().await,
            Self::Memory(duplex) => duplex.writable().await,
            Self::Tapped(tapped) => Box::pin(tapped.inner.writable()).await,
        }
    }

    /// What the kernel knows it by, if it does.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(tcp) => Some(tcp.fd()),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.socket(),
            Self::H2(_) | Self::Memory(_) => None,
            Self::Tapped(tapped) => tapped.inner.socket(),
        }
    }

    /// The same with a tap in it.
    pub(crate) fn tapped(self) -> Self {
        Self::Tapped(Box::new(Tapped { inner: self, tap: Tap::default() }))
    }

    /// Its tap, if it has one.
    pub(crate) fn tap(&self) -> Option<&Tap> {
        match self {
            Self::Tapped(tapped) => Some(&tapped.tap),
            _ => None,
        }
    }

    /// Whether all that was taken is with the kernel, or wherever it has to go. If not, [`writable`](Self::writable) waits
    /// for that.
    #[inline]
    pub fn is_flushed(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.is_flushed(),
            Self::Tapped(tapped) => tapped.inner.is_flushed(),
            _ => true,
        }
    }

    /// Whether what is read is what the [`socket`](Self::socket) has brought, and nothing else.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        match self {
            Self::Tcp(_) => true,
            Self::Tapped(tapped) => tapped.inner.is_plain(),
            _ => false,
        }
    }

    /// Whether nothing is left to be done before the [`socket`](Self::socket) can be read.
    #[inline]
    pub(crate) fn is_at_rest(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.is_at_rest(),
            Self::Tapped(tapped) => tapped.inner.is_at_rest(),
            _ => true,
        }
    }

    /// TLS, if that is what it is, also where somebody traces it.
    #[cfg(feature = "tls")]
    pub(crate) fn as_tls(&self) -> Option<&Tls> {
        match self {
            Self::Tls(tls) => Some(tls),
            Self::Tapped(tapped) => tapped.inner.as_tls(),
            _ => None,
        }
    }

    /// Whether nobody between the two ends can read it.
    pub fn is_secure(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(_) => true,
            Self::Tapped(tapped) => tapped.inner.is_secure(),
            _ => false,
        }
    }

    /// What the two sides of a TLS connection have agreed upon.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<Info> {
        match self {
            Self::Tls(tls) => Some(tls.info()),
            Self::Tapped(tapped) => tapped.inner.tls(),
            _ => None,
        }
    }

    /// Who the peer has proved to be: a client that was asked for its certificate, or a server.
    #[cfg(feature = "tls")]
    pub fn peer_certificate(&self) -> Option<&PeerCertificate> {
        match self {
            Self::Tls(tls) => tls.peer_certificate(),
            Self::Tapped(tapped) => tapped.inner.peer_certificate(),
            _ => None,
        }
    }

    /// Says that nothing more will be sent: the peer reads the end.
    pub fn shutdown_write(&self) {
        match self {
            // An error means that the connection is gone already, which is what was wanted.
            Self::Tcp(tcp) => drop(rustix::net::shutdown(tcp.fd(), Shutdown::Write)),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.shutdown_write(),
            Self::H2(stream) => stream.shutdown_write(),
            Self::Memory(duplex) => duplex.shutdown_write(),
            Self::Tapped(tapped) => tapped.inner.shutdown_write(),
        }
    }

    /// Ends it in both directions; a pending read returns. The one way to end a connection from outside its task.
    pub fn abort(&self) {
        match self {
            Self::Tcp(tcp) => drop(rustix::net::shutdown(tcp.fd(), Shutdown::Both)),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.abort(),
            Self::H2(stream) => stream.abort(),
            Self::Memory(duplex) => duplex.abort(),
            Self::Tapped(tapped) => tapped.inner.abort(),
        }
    }
}

impl TryFrom<TcpStream> for Stream {
    type Error = io::Error;

    /// Takes a connected socket into the runtime of this thread. On epoll it has to be non-blocking.
    fn try_from(socket: TcpStream) -> io::Result<Self> {
        // The runtime's type for TCP has room for addresses, 64 bytes of them; its other one is the descriptor alone.
        let socket = std::os::unix::net::UnixStream::from(OwnedFd::from(socket));
        let stream = UnixStream::from_std(socket)?;
        let fd = stream.as_raw_fd();
        Ok(Self::Tcp(Tcp { stream: UnsafeCell::new(stream), fd }))
    }
}

impl TryFrom<monoio::net::TcpStream> for Stream {
    type Error = io::Error;

    /// # Panics
    /// If an operation on it is under way.
    #[expect(unsafe_code, reason = "monoio gives its descriptors away only by number")]
    fn try_from(stream: monoio::net::TcpStream) -> io::Result<Self> {
        // SAFETY: `into_raw_fd` gives the descriptor away, and nobody else has it.
        TcpStream::from(unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) }).try_into()
    }
}

impl From<Http2Stream> for Stream {
    fn from(stream: Http2Stream) -> Self {
        Self::H2(stream)
    }
}

impl From<Duplex> for Stream {
    fn from(duplex: Duplex) -> Self {
        Self::Memory(Box::new(duplex))
    }
}

pin_project! {
    /// A wait for one of the transports; a type and not an `async fn`, which would have room for its parts twice.
    #[project = ReadingOf]
    enum Reading<'a, T, H, M, R> {
        Tcp { #[pin] read: T },
        Boxed { read: LocalBoxFuture<'a, BufResult<usize, Vec<u8>>> },
        H2 { #[pin] read: H },
        Memory { #[pin] read: M },
        Ready { #[pin] ready: R },
    }
}

impl<T, H, M, R> Future for Reading<'_, T, H, M, R>
where
    T: Future<Output = BufResult<usize, SliceMut<Vec<u8>>>>,
    H: Future<Output = BufResult<usize, Vec<u8>>>,
    M: Future<Output = BufResult<usize, Vec<u8>>>,
    R: Future<Output = io::Result<()>>,
{
    type Output = BufResult<usize, Vec<u8>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ReadingOf::Tcp { read } => {
                let (result, slice) = ready!(read.poll(cx));
                Poll::Ready((result, slice.into_inner()))
            }
            ReadingOf::Boxed { read } => read.as_mut().poll(cx),
            ReadingOf::H2 { read } => read.poll(cx),
            ReadingOf::Memory { read } => read.poll(cx),
            ReadingOf::Ready { ready } => ready.poll(cx).map(|result| (result.map(|()| 0), Vec::new())),
        }
    }
}

impl Tapped {
    async fn read(&self, buffer: Vec<u8>) -> BufResult<usize, Vec<u8>> {
        let before = buffer.len();
        let (result, buffer) = self.inner.read(buffer).await;
        if let Ok(count) = result {
            self.tap.received(&buffer[before..before + count]);
        }
        (result, buffer)
    }
}

/// A TCP connection that reads and writes at the same time.
#[derive(Debug)]
pub struct Tcp {
    stream: UnsafeCell<UnixStream>,
    /// Its descriptor's number, which is a place away in the stream.
    fd: RawFd,
}

impl Tcp {
    #[expect(unsafe_code, reason = "monoio reads by `&mut`, and a read stays armed while others write")]
    fn read(&self, buffer: Vec<u8>) -> impl Future<Output = BufResult<usize, SliceMut<Vec<u8>>>> + use<'_> {
        // SAFETY: the exclusive reference is used for this call only. `read` clones the descriptor into the operation
        // and keeps nothing borrowed; monoio's `unsafe impl Split for UnixStream` promises the same. The type is
        // neither `Send` nor `Sync`, so no other thread is here.
        let stream = unsafe { &mut *self.stream.get() };
        let (start, end) = (buffer.len(), buffer.capacity());
        stream.read(SliceMut::new(buffer, start, end))
    }

    async fn writable(&self) -> io::Result<()> {
        self.stream().writable(false).await
    }

    #[expect(unsafe_code, reason = "the counterpart of `read`")]
    fn stream(&self) -> &UnixStream {
        // SAFETY: no exclusive reference outlives the call in `read` that made it.
        unsafe { &*self.stream.get() }
    }

    #[expect(unsafe_code, reason = "monoio names its descriptors only by number")]
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}
