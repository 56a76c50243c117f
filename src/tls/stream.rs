//! TLS as a transport: a session over another transport.
//!
//! The socket waits by readiness, as what is read from it goes through a buffer of the core. What was decrypted is given
//! out before the socket is looked at again. What was encrypted and does not fit into the socket, some 64 KiB at most, is
//! kept here, and goes out while anybody waits for anything.

use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    os::fd::BorrowedFd,
    pin::pin,
    task::{Poll, Waker},
};

use super::{
    Fault, PeerCertificate,
    session::{RECORD_MAX, Sealed, Session},
};
use crate::{Stream, registry::LocalBoxFuture, sessions::keep};

/// A TLS connection, over TCP or in memory.
pub struct Tls {
    transport: Stream,
    state: RefCell<State>,
    /// Who waits for room.
    writer: Cell<Option<Waker>>,
    peer: OnceCell<Option<Box<PeerCertificate>>>,
}

/// What the two sides of a TLS connection have agreed upon.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// `TLSv1_2` or `TLSv1_3`.
    pub version: &'static str,
    /// By its name in the registry, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher_suite: &'static str,
    /// The protocol that ALPN has settled (RFC 7301), such as `h2`.
    pub alpn: Option<String>,
    /// Whether it goes on from an earlier session.
    pub is_resumed: bool,
}

struct State {
    session: Session,
    /// Encrypted, and not taken by the socket; of it, `sent` bytes were.
    unsent: Vec<u8>,
    sent: usize,
    /// When all was sent, our side of the transport is shut down.
    is_closing: bool,
    has_received: bool,
}

/// What a core needs while it works on one of its sessions.
#[derive(Default)]
struct Scratch {
    arrived: Vec<u8>,
    gathered: Vec<u8>,
    sealed: Sealed,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    scratch.sealed.clear();
    let result = work(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}

impl Tls {
    pub(super) fn new(session: Session, transport: Stream) -> Self {
        let state = State { session, unsent: Vec::new(), sent: 0, is_closing: false, has_received: false };
        Self { transport, state: RefCell::new(state), writer: Cell::new(None), peer: OnceCell::new() }
    }

    /// What it runs over.
    pub(crate) fn transport(&self) -> &Stream {
        &self.transport
    }

    /// What the two sides have agreed upon, once the handshake is done.
    pub(crate) fn info(&self) -> Info {
        let state = self.state.borrow();
        let common = state.session.state();
        Info {
            version: common.protocol_version().and_then(|version| version.as_str()).unwrap_or_default(),
            cipher_suite: common
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or_default(),
            alpn: common.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            is_resumed: common.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        }
    }

    /// Who the peer has proved to be, if it was asked.
    pub(crate) fn peer_certificate(&self) -> Option<&PeerCertificate> {
        self.peer.get()?.as_deref()
    }

    /// Shakes hands. Dropping the future loses nothing.
    pub(crate) fn handshake(&self) -> LocalBoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            with_scratch(|scratch| {
                let state = &mut *self.state.borrow_mut();
                state.session.begin(&mut scratch.sealed);
                state.send(&self.transport, &scratch.sealed)
            })?;
            while !self.try_handshake()? {
                self.movable().await?;
            }
            let state = self.state.borrow();
            let chain = state.session.state().peer_certificates().unwrap_or_default();
            let certificate = chain.first().and_then(|leaf| PeerCertificate::read(leaf)).map(Box::new);
            drop(self.peer.set(certificate)); // it is the first
            Ok(())
        })
    }

    /// Goes on with the handshake as far as that is possible; `true` when it is done.
    fn try_handshake(&self) -> Result<bool, Fault> {
        let state = &mut *self.state.borrow_mut();
        self.flush(state)?;
        while state.session.is_handshaking() {
            // What follows the handshake is kept by the session.
            let received = self.receive(state, &mut Vec::new());
            if let Some(error) = state.session.fault() {
                return Err(Fault::Tls(error));
            }
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(Fault::PlainHttp),
                Err(error) => return Err(error.into()),
            }
            match state.session.take(&mut Vec::new()) {
                Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Fault::Left),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(_)) if state.session.is_handshaking() => return Err(Fault::Left),
                _ => {}
            }
        }
        Ok(true)
    }

    /// Takes what the transport has, and answers what TLS has to answer.
    fn receive(&self, state: &mut State, into: &mut Vec<u8>) -> io::Result<()> {
        with_scratch(|scratch| {
            let arrived = &mut scratch.arrived;
            arrived.clear();
            arrived.extend_from_slice(state.session.partial());
            let known = arrived.len();
            arrived.reserve(READ_MAX);
            let result = loop {
                match self.transport.try_read(arrived) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => break result,
                }
            };
            match result {
                Ok(0) => state.session.ends(None),
                Ok(_) => {
                    let is_first = !std::mem::replace(&mut state.has_received, true);
                    if is_first && state.session.is_server() && arrived[known].is_ascii_uppercase() {
                        return Err(io::ErrorKind::InvalidInput.into());
                    }
                    state.session.receive(arrived, into, &mut scratch.sealed);
                    // A failure is met again by who writes.
                    drop(state.send(&self.transport, &scratch.sealed));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) => state.session.ends(Some(error.kind())),
            }
            Ok(())
        })
    }

    /// As [`Stream::try_read`].
    pub(crate) fn try_read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let state = &mut *self.state.borrow_mut();
        let before = buffer.len();
        loop {
            if let Some(result) = state.session.take(buffer) {
                return result;
            }
            // It ends: so much of nothing is a fault of the peer's.
            self.receive(state, buffer)?;
            if buffer.len() > before {
                return Ok(buffer.len() - before);
            }
        }
    }

    /// As [`Stream::read`].
    pub(crate) fn read(&self, mut buffer: Vec<u8>) -> LocalBoxFuture<'_, (io::Result<usize>, Vec<u8>)> {
        Box::pin(async move {
            loop {
                match self.try_read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if let Err(error) = self.readable().await {
                            return (Err(error), buffer);
                        }
                    }
                    result => return (result, buffer),
                }
            }
        })
    }

    /// As [`Stream::try_write_vectored`]. What is taken is on its way when it [is flushed](Self::is_flushed).
    pub(crate) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let state = &mut *self.state.borrow_mut();
        if !self.flush(state)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        with_scratch(|scratch| {
            let data = match slices {
                [slice] => &slice[..slice.len().min(WRITE_MAX)],
                _ => {
                    scratch.gathered.clear();
                    for slice in slices {
                        let room = WRITE_MAX - scratch.gathered.len();
                        scratch.gathered.extend_from_slice(&slice[..slice.len().min(room)]);
                    }
                    &scratch.gathered
                }
            };
            if !data.is_empty() {
                state.session.seal(data, &mut scratch.sealed)?;
                state.send(&self.transport, &scratch.sealed)?;
            }
            Ok(data.len())
        })
    }

    /// As [`Stream::readable`].
    pub(crate) fn readable(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            if self.state.borrow().session.has_something() {
                return Ok(());
            }
            self.movable().await
        })
    }

    /// Waits until something has arrived, and sends meanwhile what is still to be sent.
    async fn movable(&self) -> io::Result<()> {
        let mut readable = pin!(self.transport.readable());
        loop {
            // A failure to send is met again by who reads.
            if self.flush(&mut self.state.borrow_mut()).unwrap_or(true) {
                return readable.await;
            }
            let mut writable = pin!(self.transport.writable());
            let is_readable = poll_fn(|cx| {
                if let Poll::Ready(result) = readable.as_mut().poll(cx) {
                    return Poll::Ready(result.map(|()| true));
                }
                writable.as_mut().poll(cx).map(|result| result.map(|()| false))
            });
            if is_readable.await? {
                return Ok(());
            }
        }
    }

    /// Waits until all that was taken is in the socket, so that it may take more.
    pub(crate) fn writable(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            while !self.flush(&mut self.state.borrow_mut())? {
                let mut room = pin!(self.transport.writable());
                poll_fn(|cx| {
                    // With epoll one task alone waits for room; it may be who reads, and then we hear of it from there.
                    if self.is_flushed() {
                        return Poll::Ready(Ok(()));
                    }
                    keep(&self.writer, cx.waker());
                    room.as_mut().poll(cx)
                })
                .await?;
            }
            Ok(())
        })
    }

    /// Whether the socket has all that was taken.
    pub(crate) fn is_flushed(&self) -> bool {
        self.state.borrow().unsent.is_empty()
    }

    /// Whether nothing is left to be done before the socket can be read.
    pub(crate) fn is_at_rest(&self) -> bool {
        let state = self.state.borrow();
        state.unsent.is_empty() && !state.session.has_something()
    }

    /// Sends what was not taken before; `true` when nothing is left of it.
    fn flush(&self, state: &mut State) -> io::Result<bool> {
        if state.unsent.is_empty() {
            return Ok(true);
        }
        let is_flushed = state.flush(&self.transport);
        if !matches!(is_flushed, Ok(false))
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
        is_flushed
    }

    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.transport.socket()
    }

    /// close_notify, and then the end of the transport's direction.
    pub(crate) fn shutdown_write(&self) {
        let state = &mut *self.state.borrow_mut();
        state.is_closing = true;
        with_scratch(|scratch| {
            state.session.close(&mut scratch.sealed);
            let sealed = scratch.sealed.bytes();
            match state.unsent.is_empty() {
                // An error means that the connection is gone already, which is what was wanted.
                true => drop(state.send(&self.transport, &scratch.sealed)),
                false => state.unsent.extend_from_slice(sealed),
            }
        });
        if self.flush(state).unwrap_or(true) && std::mem::take(&mut state.is_closing) {
            self.transport.shutdown_write();
        }
    }

    pub(crate) fn abort(&self) {
        self.transport.abort();
    }
}

impl State {
    /// Sends records; what the socket does not take is kept.
    fn send(&mut self, transport: &Stream, sealed: &Sealed) -> io::Result<()> {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(sealed.bytes());
            return Ok(());
        }
        let sent = push(transport, sealed.bytes())?;
        if sent < sealed.bytes().len() {
            self.unsent = sealed.bytes()[sent..].to_vec();
            self.sent = 0;
        }
        Ok(())
    }

    fn flush(&mut self, transport: &Stream) -> io::Result<bool> {
        self.sent += push(transport, &self.unsent[self.sent..])?;
        if self.sent < self.unsent.len() {
            return Ok(false);
        }
        (self.unsent, self.sent) = (Vec::new(), 0);
        if std::mem::take(&mut self.is_closing) {
            transport.shutdown_write();
        }
        Ok(true)
    }
}

/// Sends what there is room for, and says how much that was.
fn push(transport: &Stream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match transport.try_write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({:?})", self.transport)
    }
}

/// What is read at once, to be decrypted at once.
const READ_MAX: usize = 4 * RECORD_MAX;
/// What is encrypted at once, and so the most that is kept when the socket takes none of it.
const WRITE_MAX: usize = 4 * RECORD_MAX;
