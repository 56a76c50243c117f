//! One wait for everything that may happen: the socket, what other threads have, signals, and time.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd},
    io::Errno,
};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Wakes the loop from another thread.
#[derive(Clone, Debug)]
pub(super) struct Wake(Arc<OwnedFd>);

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)))
    }

    pub(super) fn wake(&self) {
        // It fails only when the count is at its end, and then the loop wakes anyway.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Takes back what was woken for.
    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// SIGINT and SIGTERM, as bytes on a socket.
#[derive(Debug)]
pub(super) struct Signals(UnixStream);

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self(read))
    }

    /// How many have come since the last call.
    pub(super) fn take(&self) -> usize {
        rustix::io::read(&self.0, &mut [0; 16]).unwrap_or(0)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of `wanted` is there, or until `deadline`; what has happened to each comes back in its place.
pub(super) fn wait(
    wanted: &[(BorrowedFd<'_>, PollFlags)],
    deadline: Option<Instant>,
) -> io::Result<Vec<PollFlags>> {
    let mut fds: Vec<_> = wanted.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
    let left = deadline.map(|deadline| {
        // Never a moment too early, or the loop would turn until it is there.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(50);
        Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
    });
    match rustix::event::poll(&mut fds, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(fds.iter().map(PollFd::revents).collect()),
        Err(error) => Err(error.into()),
    }
}
