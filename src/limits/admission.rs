//! The counts of the process, shared by all cores: who is there, who may come.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Instant,
};

use super::{addresses::Addresses, memory::Memory, pace::Pace};
use crate::{Config, Reason, sessions::Link, worker::Worker};

/// What all cores of a server count together.
#[derive(Debug)]
pub(crate) struct Admission {
    started: Instant,
    open: AtomicUsize,
    open_max: usize,
    core_max: usize,
    half_open: AtomicUsize,
    half_open_max: usize,
    handshakes: Option<Pace>,
    paid_until: AtomicU64,
    addresses: Option<Addresses>,
    memory: Memory,
}

/// Under what a connection was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Admitted {
    is_open: bool,
    is_half_open: bool,
    has_address: bool,
}

impl Admission {
    pub(crate) fn new(config: &Config) -> Self {
        let limits = &config.limits;
        let or_none = |max: usize| if max == 0 { usize::MAX } else { max };
        Self {
            started: Instant::now(),
            open: AtomicUsize::new(0),
            open_max: config.connections_in_all(),
            core_max: or_none(limits.connections_core),
            half_open: AtomicUsize::new(0),
            half_open_max: or_none(limits.half_open),
            handshakes: Pace::new(limits.handshakes),
            paid_until: AtomicU64::new(0),
            addresses: limits.knows_addresses().then(|| Addresses::new(limits)),
            memory: Memory::new(limits.memory_max),
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Measures what is measured in time.
    pub(crate) fn tick(&self) {
        self.memory.tick(self.now());
    }

    /// Whether `peer` may ask for a switch now; it has asked.
    pub(crate) fn may_ask(&self, peer: Option<SocketAddr>) -> Result<(), Reason> {
        if self.memory.is_over() {
            return Err(Reason::OverMemoryBudget);
        }
        if let (Some(addresses), Some(peer)) = (&self.addresses, peer)
            && !addresses.take(peer.ip(), self.now())
        {
            return Err(Reason::TooManyHandshakesFromAddress);
        }
        if let Some(pace) = &self.handshakes {
            let now = self.now();
            let take = |paid_until| pace.take(paid_until, now);
            if self.paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
                return Err(Reason::TooManyHandshakes);
            }
        }
        Ok(())
    }

    fn enter(&self, peer: Option<SocketAddr>, is_half_open: bool) -> Result<Admitted, Reason> {
        if self.memory.is_over() {
            return Err(Reason::OverMemoryBudget);
        }
        let mut admitted = Admitted::default();
        let entered = self.enter_each(peer, is_half_open, &mut admitted);
        if entered.is_err() {
            self.leave(peer, admitted);
        }
        entered.map(|()| admitted)
    }

    fn enter_each(
        &self,
        peer: Option<SocketAddr>,
        is_half_open: bool,
        admitted: &mut Admitted,
    ) -> Result<(), Reason> {
        admitted.is_open = true;
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.open_max {
            return Err(Reason::TooManyConnections);
        }
        if is_half_open {
            admitted.is_half_open = true;
            if self.half_open.fetch_add(1, Ordering::Relaxed) >= self.half_open_max {
                return Err(Reason::TooManyHalfOpen);
            }
        }
        if let (Some(addresses), Some(peer)) = (&self.addresses, peer) {
            admitted.has_address = addresses.enter(peer.ip(), is_half_open, self.now())?;
        }
        Ok(())
    }

    fn leave(&self, peer: Option<SocketAddr>, admitted: Admitted) {
        if admitted.is_open {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        if admitted.is_half_open {
            self.half_open.fetch_sub(1, Ordering::Relaxed);
        }
        if admitted.has_address
            && let (Some(addresses), Some(peer)) = (&self.addresses, peer)
        {
            addresses.leave(peer.ip(), admitted.is_half_open, self.now());
        }
    }

    fn opened(&self, peer: Option<SocketAddr>, admitted: Admitted) -> Admitted {
        if admitted.is_half_open {
            self.half_open.fetch_sub(1, Ordering::Relaxed);
            if admitted.has_address
                && let (Some(addresses), Some(peer)) = (&self.addresses, peer)
            {
                addresses.opened(peer.ip());
            }
        }
        Admitted { is_half_open: false, ..admitted }
    }
}

/// A place that was taken, given back if it comes to nothing.
#[derive(Debug)]
pub(crate) struct Permit {
    worker: Rc<Worker>,
    peer: Option<SocketAddr>,
    admitted: Admitted,
}

impl Permit {
    /// A place for a connection of `peer`; `is_half_open` if its first request is still to come.
    pub(crate) fn new(
        worker: &Rc<Worker>,
        peer: Option<SocketAddr>,
        is_half_open: bool,
    ) -> Result<Self, Reason> {
        if worker.open.get() >= worker.admission.core_max {
            return Err(Reason::TooManyConnections);
        }
        let admitted = worker.admission.enter(peer, is_half_open)?;
        worker.open.set(worker.open.get() + 1);
        Ok(Self { worker: Rc::clone(worker), peer, admitted })
    }

    /// Hands the place to `link`, which has it until its [`release`].
    pub(crate) fn settle(mut self, link: &Link) {
        debug_assert_eq!(self.peer, link.peer, "the place is another one's");
        link.admitted.set(std::mem::take(&mut self.admitted));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        give_back(&self.worker, self.peer, self.admitted);
    }
}

fn give_back(worker: &Worker, peer: Option<SocketAddr>, admitted: Admitted) {
    if admitted.is_open {
        worker.open.set(worker.open.get() - 1);
        worker.admission.leave(peer, admitted);
    }
}

/// Its first request is there.
pub(crate) fn opened(link: &Link) {
    link.admitted.set(link.worker.admission.opened(link.peer, link.admitted.get()));
}

/// Gives back the place of a connection, if it has one.
pub(crate) fn release(link: &Link) {
    give_back(&link.worker, link.peer, link.admitted.take());
}
