//! The accept loop.
//!
//! A worker waits until there is somebody, and then takes all who are there: one wait and one system call for each
//! connection, where an accept operation for each would cost a wait as well.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use monoio::task::JoinHandle;
use rustix::net::{RecvFlags, SocketFlags};

use crate::{
    Reason, Stream,
    bound::Bound,
    limits::Permit,
    metrics::add,
    proxy_protocol::{self, Fault, Header},
    sessions::keep,
    worker::Worker,
};

/// Sockets whose connections are being accepted.
pub(crate) struct Listening {
    bound: Arc<Bound>,
    /// Which of its sockets.
    number: usize,
    /// Which of the listeners.
    index: u16,
    stop: Rc<Stop>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Stops accepting. Only the wait ends here; the socket ends with its last worker, unless others go on with it.
    pub(crate) fn stop(&self, worker: &Rc<Worker>) {
        if !self.stop.is_asked.replace(true) {
            // Closing a socket resets those who wait in its queue. An error is met again by the next accept.
            let _ = take(worker, self.bound.socket(self.number), self.index);
            if let Some(waker) = self.stop.waker.take() {
                waker.wake();
            }
            self.bound.leave(self.number);
        }
    }

    /// Waits, after the [`stop`](Self::stop), until nothing holds the socket for it: tasks that the runtime still has at
    /// its end are forgotten with all that they have.
    pub(crate) async fn ended(self) {
        self.task.await;
    }
}

/// How an accept loop is told to end.
#[derive(Default)]
struct Stop {
    is_asked: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Stop {
    /// Waits for `operation`, or to be asked to stop: then it is `None`, and the operation is dropped.
    async fn or<T>(&self, operation: impl Future<Output = T>) -> Option<T> {
        let mut operation = pin!(operation);
        poll_fn(|cx| {
            if self.is_asked.get() {
                return Poll::Ready(None);
            }
            keep(&self.waker, cx.waker());
            operation.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

/// Accepts connections from each of a worker's sockets, in tasks of their own. `index`: which of the listeners it is.
pub(crate) fn listen(
    worker: &Rc<Worker>,
    number_of_worker: usize,
    bound: &Arc<Bound>,
    index: u16,
) -> io::Result<Vec<Listening>> {
    let mut listening = Vec::new();
    for number in bound.of_worker(number_of_worker) {
        let socket = bound.socket(number);
        // What waits for a stream to be readable waits for a listener, too; the runtime's own listener only accepts.
        let readiness = monoio::net::TcpStream::from_std(TcpStream::from(socket.try_clone()?))?;
        let stop = Rc::<Stop>::default();
        let accepting = accept(Rc::clone(worker), readiness, Arc::clone(socket), index, Rc::clone(&stop));
        let task = monoio::spawn(accepting);
        listening.push(Listening { bound: Arc::clone(bound), number, index, stop, task });
    }
    Ok(listening)
}

async fn accept(
    worker: Rc<Worker>,
    readiness: monoio::net::TcpStream,
    socket: Arc<OwnedFd>,
    index: u16,
    stop: Rc<Stop>,
) {
    let mut failures = 0_u64;
    // A wait for readiness loses nothing when it is dropped; a pending accept would lose its connection.
    while let Some(ready) = stop.or(readiness.readable(false)).await {
        match ready.and_then(|()| take(&worker, &socket, index)) {
            Ok(()) => failures = 0,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return tracing::warn!("a listening socket was shut down: nothing comes from it any more");
            }
            Err(error) => {
                add(&worker.counters.accept_errors, 1);
                if failures == 0 {
                    tracing::warn!(%error, "accepting fails; trying again every {} ms", BACK_OFF.as_millis());
                }
                failures += 1;
                monoio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// Takes who is there, as many as do not keep the others waiting.
fn take(worker: &Rc<Worker>, listener: &OwnedFd, index: u16) -> io::Result<()> {
    let mut flags = SocketFlags::CLOEXEC;
    if monoio::utils::is_legacy() {
        flags |= SocketFlags::NONBLOCK; // io_uring waits by itself, and older kernels would not on such a socket
    }
    for _ in 0..BURST_MAX {
        match rustix::net::acceptfrom_with(listener, flags) {
            Ok((socket, peer)) => welcome(worker, socket, peer.and_then(|peer| peer.try_into().ok()), index),
            Err(errno) => {
                let error = io::Error::from(errno);
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    // The client was gone before we took it: nothing is wrong with us (accept(2), "Error handling").
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                }
            }
        }
    }
    Ok(())
}

fn welcome(worker: &Rc<Worker>, socket: OwnedFd, peer: Option<SocketAddr>, index: u16) {
    add(&worker.counters.accepted, 1);
    let stream = match Stream::try_from(TcpStream::from(socket)) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "a connection could not be taken"),
    };
    let proxies =
        worker.config.listen.get(usize::from(index)).map_or(&[][..], |listener| &listener.proxy_protocol);
    if proxies.is_empty() {
        crate::spawn(worker.serve_from(secured(worker, stream, index), peer, Some(index)));
    } else if peer.is_some_and(|peer| !proxies.iter().any(|network| network.contains(peer.ip()))) {
        note(worker, peer, Fault::Untrusted);
    } else {
        crate::spawn(introduce(Rc::clone(worker), stream, peer, index));
    }
}

/// The connection as its listener speaks: with TLS over it, where it does. Nothing is said yet.
fn secured(worker: &Worker, stream: Stream, index: u16) -> Stream {
    #[cfg(feature = "tls")]
    if let Some(acceptor) =
        worker.config.listen.get(usize::from(index)).and_then(|listener| listener.tls.as_ref())
    {
        return acceptor.accept(stream);
    }
    #[cfg(not(feature = "tls"))]
    let _ = (worker, index);
    stream
}

/// Waits for the header by which a proxy says who the client is, and serves that client.
async fn introduce(worker: Rc<Worker>, stream: Stream, proxy: Option<SocketAddr>, index: u16) {
    // Until it is known who comes, the place is the proxy's; what is limited by address is not limited yet.
    let permit = match Permit::new(&worker, None, true) {
        Ok(permit) => permit,
        refused => return worker.serve_with(refused, stream, proxy, Some(index)).await,
    };
    let header = monoio::time::timeout(worker.config.head_time, header(&stream)).await;
    let header = header.unwrap_or(Err(Unheard::Fault(Fault::Late)));
    drop(permit);
    match header {
        Ok(header) => {
            let client = header.addresses.map(|(source, _)| source);
            let stream = secured(&worker, stream, index);
            worker.serve_from(stream, client.or(proxy), Some(index)).await;
        }
        Err(Unheard::Fault(fault)) => note(&worker, proxy, fault),
        Err(Unheard::Ended) => {} // a health check of the simplest kind
    }
}

/// Why there was no header.
enum Unheard {
    Fault(Fault),
    /// The connection ended before it.
    Ended,
}

/// Takes the header from the connection, and nothing behind it: what has arrived is looked at, then as much is taken as is
/// the header's.
async fn header(stream: &Stream) -> Result<Header, Unheard> {
    let mut taken: Vec<u8> = Vec::new();
    loop {
        stream.readable().await.map_err(|_| Unheard::Ended)?;
        let Some(socket) = stream.socket() else { return Err(Unheard::Ended) };
        let mut piece = [0; PIECE];
        let size = match rustix::net::recv(socket, &mut piece, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Unheard::Ended),
            Ok((size, _)) => size,
            Err(errno) if io::Error::from(errno).kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(Unheard::Ended),
        };
        let before = taken.len();
        taken.extend_from_slice(&piece[..size]);
        let found = proxy_protocol::parse(&taken).map_err(Unheard::Fault)?;
        let own = found.map_or(size, |header| header.size - before);
        // It is there, so all of it is taken.
        rustix::net::recv(socket, &mut piece[..own], RecvFlags::DONTWAIT).map_err(|_| Unheard::Ended)?;
        if let Some(header) = found {
            return Ok(header);
        }
    }
}

/// How much of a header is looked at in one step.
const PIECE: usize = 256;

/// Counts a connection that is closed for its header, and says so.
fn note(worker: &Worker, peer: Option<SocketAddr>, fault: Fault) {
    worker.counters.refused(Reason::Proxy(fault), None);
    if worker.may_log() {
        tracing::info!(peer = peer.map(tracing::field::display), reason = fault.code(), "closed");
    }
}

/// Connections that are taken at once, before those who are served have their turn.
const BURST_MAX: usize = 64;
/// Without descriptors an accept fails at once, again and again: 1.6 million times a second were measured.
const BACK_OFF: Duration = Duration::from_millis(20);
