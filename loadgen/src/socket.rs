//! A connection that reads and writes at the same time, and can be ended from outside its task: TCP, or TLS over it.
//!
//! Waiting for bytes is an operation of the ring that owns its buffer, or a readiness set's business that reads what is there.
//! Sending is a system call, at once: the clock of a message is read right before it, and not before a queue.

use std::{
    cell::UnsafeCell,
    io,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    rc::Rc,
};

use monoio::{buf::SliceMut, io::AsyncReadRent, net::TcpStream};
use rustix::{
    buffer::spare_capacity,
    net::{RecvFlags, SendFlags, Shutdown},
};
use switchpoint::Stream;

pub(crate) enum Socket {
    Tcp(Tcp),
    Tls(Stream),
}

impl Socket {
    /// As [`Tcp::read`].
    #[inline]
    pub(crate) async fn read(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Self::Tcp(tcp) => tcp.read(buffer).await,
            Self::Tls(tls) => tls.read(buffer).await,
        }
    }

    /// Sends what there is room for, without waiting. What TLS has taken and the socket has not goes out while
    /// somebody reads.
    #[inline]
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => send(tcp.fd(), bytes),
            Self::Tls(tls) => tls.try_write(bytes),
        }
    }

    /// The descriptor, where what arrives on it is what is read.
    pub(crate) fn plain(&self) -> Option<&Tcp> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Tls(_) => None,
        }
    }

    /// Waits until [`try_write`](Self::try_write) may have room again.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.stream().writable(false).await,
            Self::Tls(tls) => tls.writable().await,
        }
    }

    /// Says that nothing more will be sent: the peer reads the end.
    pub(crate) fn shutdown_write(&self) {
        match self {
            // An error means that the connection is gone already.
            Self::Tcp(tcp) => drop(rustix::net::shutdown(tcp.fd(), Shutdown::Write)),
            Self::Tls(tls) => tls.shutdown_write(),
        }
    }

    /// Ends it in both directions; a pending read returns.
    pub(crate) fn abort(&self) {
        match self {
            Self::Tcp(tcp) => drop(rustix::net::shutdown(tcp.fd(), Shutdown::Both)),
            Self::Tls(tls) => tls.abort(),
        }
    }
}

/// A socket, and its descriptor's number beside it: what is done for each message need not look for that in two other places.
pub(crate) struct Held {
    socket: Rc<Socket>,
    /// Where it is plain.
    fd: Option<RawFd>,
}

impl Held {
    pub(crate) fn new(socket: Rc<Socket>) -> Self {
        let fd = socket.plain().map(|tcp| tcp.fd().as_raw_fd());
        Self { socket, fd }
    }

    /// Appends what has arrived, at most the spare capacity of `buffer`, without waiting. `Ok(0)` is the end. Of TLS nothing
    /// ever comes: it is read by who waits for it.
    #[inline]
    pub(crate) fn try_read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        debug_assert!(buffer.len() < buffer.capacity(), "a read into no room looks like the end");
        let fd = self.fd().ok_or(io::ErrorKind::WouldBlock)?;
        let (_, count) = rustix::net::recv(fd, spare_capacity(buffer), RecvFlags::DONTWAIT)?;
        Ok(count)
    }

    /// As [`Socket::try_write`].
    #[inline]
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.fd().map_or_else(|| self.socket.try_write(bytes), |fd| send(fd, bytes))
    }

    #[expect(unsafe_code, reason = "the number of a descriptor says nothing of its owner")]
    #[inline]
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the socket owns the descriptor, and is held for as long as the borrow.
        self.fd.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) })
    }
}

impl Deref for Held {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.socket
    }
}

#[inline]
fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// A TCP connection.
pub(crate) struct Tcp {
    stream: UnsafeCell<TcpStream>,
}

impl Tcp {
    /// Dropping the future gives the attempt up. With `source` the connection comes from there; with `receive_buffer` the
    /// kernel holds about as many bytes for us and no more.
    pub(crate) async fn connect(
        address: SocketAddr,
        source: Option<IpAddr>,
        receive_buffer: Option<usize>,
    ) -> io::Result<Self> {
        if source.is_none() && receive_buffer.is_none() {
            let stream = TcpStream::connect_addr(address).await?;
            return Self::new(stream);
        }
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )?;
        if let Some(size) = receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(source) = source {
            // Then the port is chosen at the connect, and may be that of a connection to elsewhere, or from elsewhere.
            // Refused by other kernels than Linux; then ports are only scarcer.
            let _ = bind_without_port(&socket);
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        let again = socket.try_clone()?;
        // io_uring waits by itself where the descriptor blocks, and does not wait where it does not.
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable(false).await?;
        if let Some(error) = again.take_error()? {
            return Err(error);
        }
        again.set_nonblocking(monoio::utils::is_legacy())?;
        Self::new(stream)
    }

    fn new(stream: TcpStream) -> io::Result<Self> {
        // Messages are written whole; waiting for more of them would only be measured as latency.
        stream.set_nodelay(true)?;
        Ok(Self { stream: UnsafeCell::new(stream) })
    }

    /// Waits for bytes and appends them to `buffer`, at most its spare capacity. `Ok(0)` is the end.
    ///
    /// Dropping the future loses the buffer with what has arrived in it, so drop it only to close.
    #[expect(unsafe_code, reason = "monoio reads by `&mut`, and a read stays armed while others write")]
    async fn read(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        debug_assert!(buffer.len() < buffer.capacity(), "a read into no room looks like the end");
        // SAFETY: the exclusive reference lives for this call only. `read` clones the descriptor into the operation
        // and keeps nothing borrowed; monoio's `unsafe impl Split for TcpStream` promises the same. The type is
        // neither `Send` nor `Sync`, so no other thread is here.
        let stream = unsafe { &mut *self.stream.get() };
        let (start, end) = (buffer.len(), buffer.capacity());
        let (result, slice) = stream.read(SliceMut::new(buffer, start, end)).await;
        (result, slice.into_inner())
    }

    /// The same as the library has it, which TLS runs over.
    pub(crate) fn into_stream(self) -> io::Result<Stream> {
        self.stream.into_inner().try_into()
    }

    #[expect(unsafe_code, reason = "the counterpart of `read`")]
    fn stream(&self) -> &TcpStream {
        // SAFETY: no exclusive reference outlives the call in `read` that made it.
        unsafe { &*self.stream.get() }
    }

    #[expect(unsafe_code, reason = "monoio names its descriptors only by number")]
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.stream().as_raw_fd()) }
    }
}

/// `IP_BIND_ADDRESS_NO_PORT`, which neither socket2 nor rustix has.
#[expect(unsafe_code, reason = "the option has no safe name in the crates that we use")]
fn bind_without_port(socket: &socket2::Socket) -> io::Result<()> {
    let yes: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel reads one `c_int` from the address of
    // one, whose size is what it is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const yes).cast(),
            size_of_val(&yes) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
