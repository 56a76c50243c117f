//! The connection itself, without waiting: TCP or a Unix socket, with TLS over it where the URL says so.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream, ToSocketAddrs},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Instant,
};

use rustix::event::PollFlags;

#[cfg(feature = "tls")]
use super::tls::Tls;
use super::{ending::Ending, target::Dial, wait::wait};

/// A connection that does not block.
#[derive(Debug)]
pub(in crate::cli) struct Transport {
    socket: Socket,
    #[cfg(feature = "tls")]
    tls: Option<Box<Tls>>,
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Transport {
    /// Connects to where `dial` says, by the first of its addresses that takes it, and secures the connection if the URL
    /// says so.
    ///
    /// # Errors
    /// [`Ending::NoConnection`] or [`Ending::TimedOut`], with a sentence.
    pub(in crate::cli) fn connect(dial: &Dial, deadline: Instant) -> Result<Self, Ending> {
        #[cfg(feature = "tls")]
        let session = Tls::prepare(dial)?;
        #[cfg(not(feature = "tls"))]
        if dial.url.url.is_secure() {
            return Err(Ending::Usage("this program was built without TLS".into()));
        }
        let socket = match &dial.unix {
            Some(path) => {
                let no = |error| {
                    Ending::NoConnection(format!("no connection to {}: {}", path.display(), plain(&error)))
                };
                Socket::Unix(UnixStream::connect(path).map_err(no)?)
            }
            None => Socket::Tcp(connect_tcp(dial, deadline)?),
        };
        match &socket {
            Socket::Tcp(tcp) => tcp.set_nonblocking(true),
            Socket::Unix(unix) => unix.set_nonblocking(true),
        }
        .map_err(|error| Ending::NoConnection(error.to_string()))?;
        Ok(Self {
            #[cfg(feature = "tls")]
            tls: match session {
                Some(session) => Some(Box::new(Tls::shake_hands(session, &socket, dial, deadline)?)),
                None => None,
            },
            socket,
        })
    }

    /// What secures it, if anything does.
    pub(super) fn secured(&self) -> Option<&str> {
        #[cfg(feature = "tls")]
        return self.tls.as_ref().map(|tls| &*tls.description);
        #[cfg(not(feature = "tls"))]
        None
    }

    /// Appends what is there. `Ok(0)` is the end; [`WouldBlock`](ErrorKind::WouldBlock) when there is nothing yet.
    pub(super) fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let start = buffer.len();
        buffer.resize(start + READ_SIZE, 0);
        let room = &mut buffer[start..];
        #[cfg(feature = "tls")]
        let result = match &mut self.tls {
            Some(tls) => tls.read(&self.socket, room),
            None => (&self.socket).read(room),
        };
        #[cfg(not(feature = "tls"))]
        let result = (&self.socket).read(room);
        buffer.truncate(start + result.as_ref().map_or(0, |count| *count));
        result
    }

    /// Takes what there is room for; what was taken and not sent is for [`flush`](Self::flush).
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            return tls.write(&self.socket, bytes);
        }
        (&self.socket).write(bytes)
    }

    /// Sends what was taken.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            return tls.flush(&self.socket);
        }
        Ok(())
    }

    /// Whether something was taken and not sent.
    pub(super) fn has_unsent(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.as_ref().is_some_and(|tls| tls.session.wants_write());
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Says that nothing more will be sent. An error means that the connection is gone, which its reader will see.
    pub(in crate::cli) fn shutdown_write(&mut self) {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            tls.session.send_close_notify();
            drop(tls.flush(&self.socket));
        }
        let _ = match &self.socket {
            Socket::Tcp(tcp) => tcp.shutdown(Shutdown::Write),
            Socket::Unix(unix) => unix.shutdown(Shutdown::Write),
        };
    }

    /// Sends all of it, before the deadline.
    pub(in crate::cli) fn write_all(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT, deadline)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            match self.flush() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT, deadline)?,
                result => return result,
            }
        }
    }

    /// Waits for bytes, and appends them; 0 is the end.
    pub(in crate::cli) fn read_some(&mut self, buffer: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
        loop {
            match self.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::IN, deadline)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> io::Result<()> {
        self.socket.wait(flags, deadline)
    }
}

impl Socket {
    pub(super) fn wait(&self, flags: PollFlags, deadline: Instant) -> io::Result<()> {
        let happened = wait(&[(self.as_fd(), flags)], Some(deadline))?;
        if happened[0].is_empty() && Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(tcp) => (&*tcp).read(buffer),
            Socket::Unix(unix) => (&*unix).read(buffer),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(tcp) => (&*tcp).write(bytes),
            Socket::Unix(unix) => (&*unix).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
        }
    }
}

/// What one read takes at most.
const READ_SIZE: usize = 64 << 10;

fn connect_tcp(dial: &Dial, deadline: Instant) -> Result<TcpStream, Ending> {
    let (host, port) = match &dial.connect_to {
        None => (dial.url.url.host().to_owned(), dial.url.url.port()),
        Some(elsewhere) => elsewhere
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?)))
            .ok_or_else(|| Ending::Usage("--connect-to is HOST:PORT".into()))?,
    };
    let addresses = (host.as_str(), port)
        .to_socket_addrs()
        .map_err(|error| Ending::NoConnection(format!("cannot find {host}: {error}")))?;
    let mut failure = Ending::NoConnection(format!("{host} has no address"));
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                // It may only cost time.
                drop(stream.set_nodelay(true));
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                failure = Ending::TimedOut(format!("no connection to {address} in time"));
            }
            Err(error) => {
                let hint = match error.kind() {
                    ErrorKind::ConnectionRefused => "; nothing listens there",
                    _ => "",
                };
                failure =
                    Ending::NoConnection(format!("no connection to {address}: {}{hint}", plain(&error)));
            }
        }
    }
    Err(failure)
}

/// An error of the system without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
