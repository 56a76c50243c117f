//! Where connections wait that have been quiet for a while: one readiness set for each core.
//!
//! A read that waits holds a buffer, an operation and a place in the ring. A quiet connection gives them up, and
//! waits here as a descriptor: when bytes arrive, its task is woken and takes them without waiting. It costs two system
//! calls more for each wait, so those who talk all the time wait in the ring.

use std::{
    io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::net,
    },
    rc::{Rc, Weak},
};

use monoio::net::UnixStream;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
};

use crate::worker::Worker;

/// A core's readiness set.
#[derive(Debug)]
pub(crate) struct Parking(Rc<UnixStream>);

impl Parking {
    /// A set for `worker`, and the task on this thread's runtime that looks after it.
    pub(crate) fn new(worker: Weak<Worker>) -> io::Result<Self> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        // What waits for a stream to be readable waits for a set, too.
        let set = Rc::new(UnixStream::from_std(net::UnixStream::from(set))?);
        monoio::spawn(watch(Rc::clone(&set), worker));
        Ok(Self(set))
    }

    /// Waits for bytes on `socket`, or its end: then the connection that the `key` names is woken, once.
    pub(crate) fn park(&self, socket: BorrowedFd<'_>, key: u64, is_known: bool) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT;
        let add_or_modify = if is_known { epoll::modify } else { epoll::add };
        Ok(add_or_modify(fd(&self.0), socket, EventData::new_u64(key), flags)?)
    }
}

async fn watch(set: Rc<UnixStream>, worker: Weak<Worker>) {
    let mut events = Vec::with_capacity(BURST_MAX);
    while set.readable(false).await.is_ok() {
        let Some(worker) = worker.upgrade() else { return };
        loop {
            // An error says that a signal came in between; what is ready stays so.
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let count = epoll::wait(fd(&set), spare_capacity(&mut events), Some(&now)).unwrap_or(0);
            for event in events.drain(..) {
                worker.sessions.arrived(event.data.u64());
            }
            if count < BURST_MAX {
                break;
            }
        }
    }
}

const BURST_MAX: usize = 256;

#[expect(unsafe_code, reason = "monoio names its descriptors only by number")]
fn fd(set: &UnixStream) -> BorrowedFd<'_> {
    // SAFETY: the set owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(set.as_raw_fd()) }
}
