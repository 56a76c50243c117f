//! The replies of a closed loop: all connections of a core wait in one readiness set, and are read into one buffer.
//!
//! Nothing is ever due there but the next reply, so the core may sleep in the set itself, and look after everything else
//! once in a while. In an open loop messages are due at their times: there the ring waits for replies and for the clock.

use std::{
    cell::RefCell,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::net,
    },
    rc::Rc,
};

use monoio::net::UnixStream;
use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, EventData, EventFlags},
};

use super::Worker;
use crate::{
    connection::{Connection, Taken},
    pace::Pacer,
    prefetch::prefetch,
    scenario::Scenario,
    socket::Tcp,
    units::Nanos,
};

/// Those of one core.
pub(crate) struct Readers<S> {
    set: UnixStream,
    /// By their places. One that leaves has its own beside the one that has come for it.
    connections: RefCell<Vec<Option<Rc<Connection<S>>>>>,
    /// Places that are free.
    free: RefCell<Vec<usize>>,
}

impl<S: Scenario> Readers<S> {
    /// For the calling thread's runtime, and about so many connections.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        // What waits for a stream to be readable waits for a set, too.
        let set = UnixStream::from_std(net::UnixStream::from(set))?;
        Ok(Self { set, connections: RefCell::new(Vec::with_capacity(count)), free: RefCell::default() })
    }

    /// From now on all that arrives on `tcp` is the connection's to [take](Connection::take), until this is dropped.
    pub(crate) fn add<'a>(
        &'a self,
        connection: &Rc<Connection<S>>,
        tcp: &'a Tcp,
    ) -> io::Result<Reader<'a, S>> {
        let mut connections = self.connections.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            connections.push(None);
            connections.len() - 1
        });
        // Whoever fails to be added is dropped, and leaves the place.
        let reader = Reader { readers: self, tcp, index };
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let added = epoll::add(self.fd(), tcp.fd(), EventData::new_u64(index as u64), flags);
        connections[index] = Some(Rc::clone(connection));
        drop(connections);
        added.map(|()| reader).map_err(Into::into)
    }

    /// Hands over what arrives, as long as the runtime runs.
    pub(super) async fn read(self: Rc<Self>, worker: Rc<Worker<S>>, pacer: Rc<Pacer>) {
        let mut events = [const { MaybeUninit::uninit() }; BURST_MAX];
        let mut shared = Vec::with_capacity(SHARED);
        // Those that may have more, and whether they have ended.
        let mut again: Vec<(u64, bool)> = Vec::new();
        let mut turn = Vec::new();
        let mut look_up = 0;
        loop {
            if worker.now() >= look_up {
                // Lets the others have their turn. An error says that there is no memory to wait with; the set is asked anyway.
                if again.is_empty() {
                    let _ = self.set.readable(false).await;
                } else {
                    let _ = pacer.pass().await;
                }
                look_up = worker.now() + LOOK_UP;
            }
            // Whoever opens a connection needs the ring.
            let may_sleep = again.is_empty() && worker.busy.get() == worker.live.borrow().len();
            let timeout = Timespec { tv_sec: 0, tv_nsec: if may_sleep { LOOK_UP as _ } else { 0 } };
            let are_cached = worker.live.borrow().len() <= CACHED;
            let events = &mut events[..if are_cached { BURST_MAX } else { BURST_FETCHED }];
            // An error says that a signal came in between; what is ready stays so.
            let events =
                epoll::wait(self.fd(), events, Some(&timeout)).map_or(&mut [][..], |(events, _)| events);
            if events.is_empty() && again.is_empty() {
                look_up = 0;
            }
            if !are_cached {
                self.prefetch(events);
            }
            let told = events.iter().map(|event| {
                let flags = event.flags;
                let is_ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
                (event.data.u64(), is_ended)
            });
            turn.append(&mut again);
            for (index, is_ended) in turn.drain(..).chain(told) {
                let Some(connection) = &self.connections.borrow()[index as usize] else { continue };
                match connection.take(&worker, &mut shared, is_ended) {
                    Taken::All => {}
                    Taken::Some => again.push((index, is_ended)),
                    Taken::Over => look_up = 0,
                }
            }
        }
    }

    /// Has the state fetched of those that were told: of all side by side, for each would else wait for its own piece by piece.
    fn prefetch(&self, events: &[epoll::Event]) {
        let connections = self.connections.borrow();
        let told = || events.iter().filter_map(|event| connections[event.data.u64() as usize].as_ref());
        told().for_each(|connection| prefetch(&**connection));
        told().for_each(|connection| connection.prefetch());
    }

    #[expect(unsafe_code, reason = "monoio names its descriptors only by number")]
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the set owns the descriptor and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.set.as_raw_fd()) }
    }
}

/// A connection's place in the set.
pub(crate) struct Reader<'a, S: Scenario> {
    readers: &'a Readers<S>,
    tcp: &'a Tcp,
    index: usize,
}

impl<S: Scenario> Drop for Reader<'_, S> {
    fn drop(&mut self) {
        // It fails for a descriptor that is not there, which is what is wanted.
        let _ = epoll::delete(self.readers.fd(), self.tcp.fd());
        self.readers.connections.borrow_mut()[self.index] = None;
        self.readers.free.borrow_mut().push(self.index);
    }
}

/// How many are told before they are read.
const BURST_MAX: usize = 256;
/// The same where their state is fetched ahead, so that it is still there when they are.
const BURST_FETCHED: usize = 96;
/// The state of so many connections stays in a core's own cache.
const CACHED: usize = 512;
/// Room for what a server sends while we look elsewhere, and small enough to stay in the cache.
const SHARED: usize = 256 << 10;
/// How long everything else may have to wait.
const LOOK_UP: Nanos = 1_000_000;
