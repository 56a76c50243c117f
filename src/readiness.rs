//! Where connections wait for bytes: one readiness set for each core.
//!
//! A read that waits in the ring holds a buffer and an operation. A connection that waits here holds its descriptor, which
//! is put in once: when bytes arrive, its session is gone on with, and takes them at once into the core's hot buffer.
//!
//! The set tells each change once (edge-triggered), so a connection keeps in mind that something is there until it has taken
//! all of it.

use std::{
    cell::Cell,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::net,
    },
    rc::{Rc, Weak},
    time::{Duration, Instant},
};

use monoio::net::UnixStream;
use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, EventData, EventFlags},
};

use crate::worker::Worker;

/// A core's readiness set.
#[derive(Debug)]
pub(crate) struct Readiness {
    set: Rc<UnixStream>,
    /// Somebody looks after it: the runtime of the task that does may be gone.
    is_watched: Rc<Cell<bool>>,
}

impl Readiness {
    /// A set for `worker`, and the task on this thread's runtime that looks after it.
    pub(crate) fn new(worker: Weak<Worker>) -> io::Result<Self> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        // What waits for a stream to be readable waits for a set, too.
        let set = Rc::new(UnixStream::from_std(net::UnixStream::from(set))?);
        let is_watched = Rc::new(Cell::new(true));
        monoio::spawn(watch(Rc::clone(&set), worker, Watch(Rc::clone(&is_watched))));
        Ok(Self { set, is_watched })
    }

    /// From now on, until `socket` is closed, the connection that the `key` names is told what arrives there.
    pub(crate) fn add(&self, socket: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        if !self.is_watched.get() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(fd(&self.set), socket, EventData::new_u64(key), flags)?)
    }
}

/// Says so when nobody watches any more.
struct Watch(Rc<Cell<bool>>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

async fn watch(set: Rc<UnixStream>, worker: Weak<Worker>, _watch: Watch) {
    // In the ring each wait of ours lets the others have their turn. On epoll it returns at once where something is there, and
    // sessions that were gone on with here would see to it that something is: there they are woken, and run when we wait.
    let goes_on = !monoio::utils::is_legacy();
    let mut events = [const { MaybeUninit::uninit() }; BURST_MAX];
    let mut odds = Odds::default();
    loop {
        if set.readable(false).await.is_err() {
            // Out of memory, for instance. Those who wait rely on us.
            monoio::time::sleep(Worker::TICK).await;
        }
        let Some(worker) = worker.upgrade() else { return };
        let sessions = &worker.sessions;
        let is_fetched = !sessions.are_cached();
        let most = if is_fetched { BURST_FETCHED } else { BURST_MAX };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let begun = Instant::now();
        let mut is_second_look = false;
        // An error says that a signal came in between; what is ready stays so.
        while let Ok((events, _)) = epoll::wait(fd(&set), &mut events[..most], Some(&now)) {
            if is_fetched {
                events.iter().for_each(|event| sessions.prefetch(event.data.u64()));
            }
            if is_second_look {
                odds.learn(!events.is_empty());
            }
            is_second_look = true;
            let looks_again = goes_on && !events.is_empty() && (events.len() >= BUSY || odds.are_good());
            for event in events {
                let flags = event.flags;
                let is_end = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
                sessions.arrived(event.data.u64(), is_end, goes_on);
            }
            if !looks_again || begun.elapsed() >= ROUND_MAX {
                break;
            }
        }
    }
}

/// Whether the set will tell of more if it is asked at once, by how that went before: a wait in the ring that finds
/// something at once costs several times what a look does that finds nothing.
#[derive(Debug, Default)]
struct Odds {
    /// Higher with each look that found something, lower with each that did not.
    score: u8,
    /// How often it was passed over, up to when it is tried in spite of a bad score.
    passed: u8,
}

impl Odds {
    const SCORE_MAX: u8 = 16;
    /// How often it is tried in spite of a bad score.
    const TRIED_EVERY: u8 = 16;

    fn learn(&mut self, has_found: bool) {
        self.score =
            if has_found { Self::SCORE_MAX.min(self.score + 2) } else { self.score.saturating_sub(1) };
    }

    fn are_good(&mut self) -> bool {
        if self.score > 0 {
            return true;
        }
        self.passed = (self.passed + 1) % Self::TRIED_EVERY;
        self.passed == 0
    }
}

/// After so many at once there are more, as a rule.
const BUSY: usize = 4;
/// How many are told of at once.
const BURST_MAX: usize = 256;
/// The same where their state is fetched ahead, so that it is still there when they are gone on with.
const BURST_FETCHED: usize = 32;
/// For how long the set is asked again before others have their turn, as seen between bursts.
const ROUND_MAX: Duration = Duration::from_micros(500);

#[expect(unsafe_code, reason = "monoio names its descriptors only by number")]
fn fd(set: &UnixStream) -> BorrowedFd<'_> {
    // SAFETY: the set owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(set.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 1600 times it was tried, where so many of a hundred looks find something.
    fn tried(percent: u64) -> u32 {
        let mut odds = Odds::default();
        let mut state: u64 = 7;
        let mut tried = 0;
        for _ in 0..1600 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if odds.are_good() {
                tried += 1;
                odds.learn((state >> 33) % 100 < percent);
            }
        }
        tried
    }

    #[test]
    fn a_second_look_is_taken_where_it_mostly_finds_something() {
        let shares = [0, 5, 20, 60, 100].map(tried);
        assert!(shares[0] == 100 && shares[1] < 200 && shares[2] < 600, "{shares:?}");
        assert!(shares[3] > 1400 && shares[4] > 1580, "{shares:?}");
    }
}
