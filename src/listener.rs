//! Sockets that listen: bound once so that a port in use is an error, then one for each worker.
//!
//! A worker waits until there is somebody, and then takes all who are there: one wait and one system call for each
//! connection, where an accept operation for each would cost a wait as well.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use rustix::net::{Shutdown, SocketFlags};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Stream, connection, metrics::add, worker::Worker};

/// Binds `address` once for each of `workers`, so that the kernel spreads connections over them.
///
/// The first socket is bound without SO_REUSEPORT: with it a second server would share the port without a word.
pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = socket(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let bound = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..workers {
        let next = socket(bound)?;
        next.set_reuse_port(true)?;
        next.bind(&bound.into())?;
        sockets.push(next);
    }
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    Ok((bound, sockets.into_iter().map(Into::into).collect()))
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // An accept must not wait: others may have been quicker.
    socket.set_nonblocking(true)?;
    // Each connection has it from its listener. Frames are written whole; waiting for more of them only costs latency.
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` can be listened on side by side.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// The kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// A listener whose connections are being accepted.
#[derive(Debug)]
pub(crate) struct Listening(Rc<TcpListener>);

impl Listening {
    /// Stops accepting; the task that waits for connections takes those that are there already, and ends.
    pub(crate) fn stop(&self, worker: &Rc<Worker>) {
        // Closing the socket would reset those who wait in its queue. An error is met again by the next accept.
        let _ = take(worker, &self.0);
        // It fails only where it was stopped before.
        let _ = rustix::net::shutdown(&*self.0, Shutdown::Both);
    }
}

/// Accepts connections in a task of its own.
pub(crate) fn listen(worker: Rc<Worker>, listener: TcpListener) -> io::Result<Listening> {
    // What waits for a stream to be readable waits for a listener, too; the runtime's own listener only accepts.
    let readiness = monoio::net::TcpStream::from_std(TcpStream::from(OwnedFd::from(listener.try_clone()?)))?;
    let listener = Rc::new(listener);
    monoio::spawn(accept(worker, readiness, Rc::clone(&listener)));
    Ok(Listening(listener))
}

async fn accept(worker: Rc<Worker>, readiness: monoio::net::TcpStream, listener: Rc<TcpListener>) {
    let mut failures = 0_u64;
    loop {
        let taken = match readiness.readable(false).await {
            Ok(()) => take(&worker, &listener),
            Err(error) => Err(error),
        };
        match taken {
            Ok(()) => failures = 0,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return, // stopped
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
fn take(worker: &Rc<Worker>, listener: &TcpListener) -> io::Result<()> {
    let mut flags = SocketFlags::CLOEXEC;
    if monoio::utils::is_legacy() {
        flags |= SocketFlags::NONBLOCK; // io_uring waits by itself, and older kernels would not on such a socket
    }
    for _ in 0..BURST_MAX {
        match rustix::net::acceptfrom_with(listener.as_fd(), flags) {
            Ok((socket, peer)) => welcome(worker, socket, peer.and_then(|peer| peer.try_into().ok())),
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

fn welcome(worker: &Rc<Worker>, socket: OwnedFd, peer: Option<SocketAddr>) {
    add(&worker.counters.accepted, 1);
    let stream = match Stream::try_from(TcpStream::from(socket)) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "a connection could not be taken"),
    };
    if worker.has_room() {
        crate::spawn(worker.serve(stream, peer));
    } else if worker.turned_away.get() < TURNED_AWAY_MAX {
        crate::spawn(turn_away(Rc::clone(worker), stream, peer));
    }
}

/// Connections that are taken at once, before those who are served have their turn.
const BURST_MAX: usize = 64;
/// Without descriptors an accept fails at once, again and again: 1.6 million times a second were measured.
const BACK_OFF: Duration = Duration::from_millis(20);
/// Beyond this the others are closed without a word.
const TURNED_AWAY_MAX: usize = 64;

async fn turn_away(worker: Rc<Worker>, stream: Stream, peer: Option<SocketAddr>) {
    worker.turned_away.set(worker.turned_away.get() + 1);
    connection::turn_away(worker.track(stream, peer)).await;
    worker.turned_away.set(worker.turned_away.get() - 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_an_error_also_when_a_switchpoint_uses_it() {
        let (bound, sockets) = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(sockets.len(), 3);
        let _client = TcpStream::connect(bound).unwrap();
        let taken = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            sockets.iter().find_map(|socket| socket.accept().ok())
        });
        assert!(taken.unwrap().0.nodelay().unwrap(), "a connection has it from its listener");
        assert_ne!(bound.port(), 0);
        assert_eq!(bind(bound, 3).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        bind(bound, 1).unwrap();
    }
}
