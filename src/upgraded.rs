//! A switched connection, as its protocol sees it: bytes in, bytes out, every wait with a limit.

use std::{io, net::SocketAddr, rc::Rc, time::Duration};

use crate::{
    Error,
    authorize::Identity,
    buffer::ReadBuf,
    sessions::{Interrupt, Link, NEVER, Side},
};

/// A connection after its 101. Whatever the client sent right behind its request is the first thing
/// [`unread`](Self::unread).
///
/// Idle time, drain and the end of the process are seen to by the core: [`fill`](Self::fill) returns `false` when the
/// peer has finished or the server drains, and fails when the peer is silent for too long.
#[derive(Debug)]
pub struct Upgraded {
    reader: Reader,
    writer: Writer,
}

impl Upgraded {
    pub(crate) fn new(link: Rc<Link>, buf: ReadBuf) -> Self {
        let idle = link.worker.config.idle_time;
        Self {
            reader: Reader { link: Rc::clone(&link), buf, idle, lost: false, unread_max: UNREAD_MAX },
            writer: Writer { link },
        }
    }

    /// What has arrived and was not consumed.
    #[inline]
    pub fn unread(&self) -> &[u8] {
        self.reader.unread()
    }

    /// Marks the first `count` unread bytes as dealt with.
    ///
    /// # Panics
    /// If fewer are unread.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        self.reader.consume(count);
    }

    /// Waits for more bytes; `false` when there will be none: the peer has finished, or the server drains.
    ///
    /// # Errors
    /// As [`Reader::fill`].
    pub async fn fill(&mut self) -> Result<bool, Error> {
        self.reader.fill().await
    }

    /// Sends all of it.
    ///
    /// # Errors
    /// As [`Writer::write_all`].
    pub async fn write_all(&self, bytes: &[u8]) -> Result<(), Error> {
        self.writer.write_all(bytes).await
    }

    /// What [`Request::keep`](crate::Request::keep) has kept, if it is a `T`.
    pub fn kept<T: 'static>(&self) -> Option<&T> {
        self.writer.link.kept()
    }

    /// Who asked for it, if it was asked for behind an [`Authorizer`](crate::authorize::Authorizer).
    pub fn identity(&self) -> Option<&Identity> {
        self.writer.link.identity()
    }

    /// Whether the server drains, or the session has lasted as long as it may: that is then why [`fill`](Self::fill) has returned `false`.
    pub fn is_draining(&self) -> bool {
        self.writer.link.is_goodbye()
    }

    /// Who is on the other side; `None` for a connection in memory.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.writer.link.peer
    }

    /// How long the peer may be silent; the default is the server's setting. [`Duration::MAX`] is for ever.
    pub fn idle_time(&mut self, limit: Duration) {
        self.reader.idle = limit;
    }

    /// How many bytes may be left unread when more are asked for; beyond it [`fill`](Self::fill) fails: 64 KiB by
    /// default. It bounds what a peer can make us hold that sends a line or a record without an end.
    pub fn unread_max(&mut self, bytes: usize) {
        self.reader.unread_max = bytes;
    }

    /// The two directions, to be used at the same time.
    pub fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    pub(crate) fn into_parts(self) -> (Rc<Link>, ReadBuf) {
        (self.writer.link, self.reader.buf)
    }
}

/// The direction from the peer.
#[derive(Debug)]
pub struct Reader {
    link: Rc<Link>,
    buf: ReadBuf,
    idle: Duration,
    unread_max: usize,
    /// A dropped `fill` took the buffer with it.
    lost: bool,
}

impl Reader {
    /// What has arrived and was not consumed.
    #[inline]
    pub fn unread(&self) -> &[u8] {
        self.buf.unread()
    }

    /// Marks the first `count` unread bytes as dealt with.
    ///
    /// # Panics
    /// If fewer are unread.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        self.buf.consume(count);
    }

    /// Waits for more bytes; `false` when there will be none: the peer has finished, or the server drains.
    ///
    /// Drop the future only to close: the kernel may be writing into its buffer, and bytes would be lost. To wait for
    /// several things at once keep it pinned, and poll it again.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when the peer was silent for the idle time, [`Error::Io`] when the connection failed,
    /// [`Error::Peer`] when more is unread than the limit.
    pub async fn fill(&mut self) -> Result<bool, Error> {
        if self.lost {
            return Err(io::Error::other("an earlier `fill` was dropped, and bytes with it").into());
        }
        let link = &*self.link;
        if self.unread().len() >= self.unread_max {
            return Err(Error::peer("it sent more without an end than the protocol takes"));
        }
        if link.is_goodbye() {
            return Ok(false);
        }
        if link.is_spent() {
            link.pass().await;
        }
        link.within(Side::Read, self.idle);
        self.lost = true;
        // A drain takes the buffer back from nobody, so what is unread is kept beside it; as a rule that is nothing.
        let kept = self.unread().to_vec();
        let buf = std::mem::take(&mut self.buf);
        let filled = link.wait(Side::Read, true, buf.fill(&link.stream, &link.worker.pool)).await;
        link.deadline(Side::Read, NEVER);
        match filled {
            Ok((result, buf)) => {
                self.buf = buf;
                self.lost = false;
                let count = result?;
                link.spend(count);
                link.has_received(count);
                Ok(count > 0)
            }
            Err(Interrupt::Goodbye) => {
                self.buf.put(kept, 0);
                self.lost = false;
                Ok(false)
            }
            Err(Interrupt::Expired) => Err(Error::TimedOut),
        }
    }
}

/// The direction to the peer.
#[derive(Debug)]
pub struct Writer {
    link: Rc<Link>,
}

impl Writer {
    /// Sends all of it: at once what the socket takes, the rest as it makes room.
    ///
    /// Two of these at the same time on one connection would mix their bytes.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when the peer takes nothing for the server's write time, [`Error::Io`] when the connection
    /// failed.
    pub async fn write_all(&self, bytes: &[u8]) -> Result<(), Error> {
        write_all(&self.link, bytes).await
    }
}

/// Sends all of it, under the write deadline, which each byte that the peer takes moves on.
pub(crate) async fn write_all(link: &Link, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() || !link.stream.is_flushed() {
        let taken = match bytes {
            [] => Err(io::ErrorKind::WouldBlock.into()),
            _ => link.stream.try_write(bytes),
        };
        match taken {
            Ok(count) => {
                bytes = &bytes[count..];
                link.has_sent(count);
                link.spend(count);
                if link.is_spent() {
                    link.pass().await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                link.within(Side::Write, link.worker.config.write_time);
                let room = link.wait(Side::Write, false, link.stream.writable()).await;
                link.deadline(Side::Write, NEVER);
                room.map_err(|_expired| Error::TimedOut)??;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// As much as one large buffer, so that a peer without an end of line costs no more than that.
const UNREAD_MAX: usize = crate::buffer::LARGE;
