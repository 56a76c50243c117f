//! Sockets that listen: bound once so that a port in use is an error, then one for each worker.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
    rc::Rc,
    time::Duration,
};

use monoio::net::TcpListener;
use rustix::net::Shutdown;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{connection, metrics::add, worker::Worker};

/// Binds `address` once for each of `workers`, so that the kernel spreads connections over them.
///
/// The first socket is bound without SO_REUSEPORT: with it a second server would share the port without a word.
pub(crate) fn bind(
    address: SocketAddr,
    workers: usize,
) -> io::Result<(SocketAddr, Vec<std::net::TcpListener>)> {
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
    /// Stops accepting. The pending accept is never dropped, which would leak a descriptor: it returns.
    #[expect(unsafe_code, reason = "monoio names its descriptors only by number")]
    pub(crate) fn stop(&self) {
        // SAFETY: the listener owns the descriptor and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) };
        // It fails only where it was stopped before.
        let _ = rustix::net::shutdown(fd, Shutdown::Both);
    }
}

/// Accepts connections in a task of its own.
pub(crate) fn listen(worker: Rc<Worker>, listener: TcpListener) -> Listening {
    let listener = Rc::new(listener);
    monoio::spawn(accept(worker, Rc::clone(&listener)));
    Listening(listener)
}

async fn accept(worker: Rc<Worker>, listener: Rc<TcpListener>) {
    let mut failures = 0_u64;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                failures = 0;
                add(&worker.counters.accepted, 1);
                // Frames are written whole; waiting for more of them only costs latency. A connection that is gone
                // already fails here, and says so at its first read.
                drop(stream.set_nodelay(true));
                if worker.sessions.len() < worker.connections_max {
                    monoio::spawn(worker.serve(stream.into(), Some(peer)));
                } else if worker.turned_away.get() < TURNED_AWAY_MAX {
                    monoio::spawn(turn_away(Rc::clone(&worker), stream, peer));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return, // stopped
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                add(&worker.counters.accept_errors, 1);
                if failures == 0 {
                    tracing::warn!(%error, "accepting fails; trying again every {} ms", BACK_OFF.as_millis());
                }
                failures += 1;
                monoio::time::sleep(BACK_OFF).await;
                if worker.is_closing() {
                    return;
                }
            }
        }
    }
}

/// The client was gone before we took it: nothing is wrong with us (accept(2), "Error handling").
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionReset
    )
}

/// Without descriptors an accept fails at once, again and again: 1.6 million times a second were measured.
const BACK_OFF: Duration = Duration::from_millis(20);
/// Beyond this the others are closed without a word.
const TURNED_AWAY_MAX: usize = 64;

async fn turn_away(worker: Rc<Worker>, stream: monoio::net::TcpStream, peer: SocketAddr) {
    worker.turned_away.set(worker.turned_away.get() + 1);
    connection::turn_away(worker.sessions.track(stream.into(), Some(peer), &worker)).await;
    worker.turned_away.set(worker.turned_away.get() - 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_an_error_also_when_a_switchpoint_uses_it() {
        let (bound, sockets) = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(sockets.len(), 3);
        assert_ne!(bound.port(), 0);
        assert_eq!(bind(bound, 3).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        bind(bound, 1).unwrap();
    }
}
