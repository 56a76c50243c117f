//! What each address has, at one time: how many connections, and how fast it asks.
//!
//! The table has a bound. An address that has no connection and has not asked lately is forgotten when its room is needed;
//! where there is no room all the same, a new address is not limited by itself, and nothing is kept for it.

use std::{
    collections::{HashMap, hash_map::Entry as Place},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Limits, pace::Pace};
use crate::{Network, Reason};

/// Parts, each with a lock of its own, so that cores seldom meet.
const PARTS: usize = 16;
/// How often a full part is looked through, in nanoseconds: a flood of addresses does not pay for each of them.
const SWEEP_EACH: u64 = 100_000_000;

#[derive(Debug)]
pub(super) struct Addresses {
    parts: [Mutex<Part>; PARTS],
    hasher: RandomState,
    part_max: usize,
    open_max: u32,
    half_open_max: u32,
    pace: Option<Pace>,
    prefixes: (u8, u8),
    exempt: Vec<Network>,
}

#[derive(Debug, Default)]
struct Part {
    known: HashMap<Network, Known>,
    swept: u64,
}

#[derive(Debug, Default)]
struct Known {
    open: u32,
    half_open: u32,
    paid_until: u64,
}

impl Known {
    fn is_idle(&self, now: u64) -> bool {
        self.open == 0 && self.half_open == 0 && self.paid_until <= now
    }
}

impl Addresses {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            part_max: limits.addresses_max.div_ceil(PARTS),
            open_max: limits.connections_address,
            half_open_max: limits.half_open_address,
            pace: Pace::new(limits.handshakes_address),
            prefixes: (limits.ipv4_prefix, limits.ipv6_prefix),
            exempt: limits.exempt.clone(),
        }
    }

    /// Counts a connection of `ip`; `false` if it is not counted, since it is exempt or there is no room to.
    pub(super) fn enter(&self, ip: IpAddr, is_half_open: bool, now: u64) -> Result<bool, Reason> {
        let Some(network) = self.network(ip) else { return Ok(false) };
        let mut part = self.part(&network);
        let Some(known) = part.room(network, self.part_max, now) else { return Ok(false) };
        if self.open_max > 0 && known.open >= self.open_max {
            return Err(Reason::TooManyFromAddress);
        }
        if is_half_open && self.half_open_max > 0 && known.half_open >= self.half_open_max {
            return Err(Reason::TooManyHalfOpenFromAddress);
        }
        known.open += 1;
        known.half_open += u32::from(is_half_open);
        Ok(true)
    }

    /// The first request of a connection that was counted is there.
    pub(super) fn opened(&self, ip: IpAddr) {
        self.change(ip, |known| known.half_open -= 1);
    }

    /// A connection that was counted has ended.
    pub(super) fn leave(&self, ip: IpAddr, was_half_open: bool, now: u64) {
        let Some(network) = self.network(ip) else { return };
        let mut part = self.part(&network);
        if let Place::Occupied(mut place) = part.known.entry(network) {
            let known = place.get_mut();
            known.open -= 1;
            known.half_open -= u32::from(was_half_open);
            if known.is_idle(now) {
                place.remove();
            }
        }
    }

    /// Takes one of the switches that `ip` may ask for; `false` if it asks too often.
    pub(super) fn take(&self, ip: IpAddr, now: u64) -> bool {
        let Some(pace) = self.pace else { return true };
        let Some(network) = self.network(ip) else { return true };
        let mut part = self.part(&network);
        let Some(known) = part.room(network, self.part_max, now) else { return true };
        let next = pace.take(known.paid_until, now);
        known.paid_until = next.unwrap_or(known.paid_until);
        next.is_some()
    }

    fn change(&self, ip: IpAddr, change: impl FnOnce(&mut Known)) {
        if let Some(network) = self.network(ip)
            && let Some(known) = self.part(&network).known.get_mut(&network)
        {
            change(known);
        }
    }

    /// What `ip` is counted under, if it is.
    fn network(&self, ip: IpAddr) -> Option<Network> {
        if self.exempt.iter().any(|network| network.contains(ip)) {
            return None;
        }
        let (four, six) = self.prefixes;
        let length = if ip.to_canonical().is_ipv4() { four } else { six };
        Some(Network::of(ip, length))
    }

    fn part(&self, network: &Network) -> MutexGuard<'_, Part> {
        let place = self.hasher.hash_one(network) as usize % PARTS;
        // Nothing panics while it holds one.
        self.parts[place].lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap().known.len()).sum()
    }
}

impl Part {
    /// What is known of `network`, with room made for it if that can be had.
    fn room(&mut self, network: Network, max: usize, now: u64) -> Option<&mut Known> {
        if self.known.len() >= max && !self.known.contains_key(&network) {
            if self.swept + SWEEP_EACH > now {
                return None;
            }
            self.swept = now;
            self.known.retain(|_, known| !known.is_idle(now));
            if self.known.len() >= max {
                return None;
            }
        }
        Some(self.known.entry(network).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h2c::Rate;

    const SECOND: u64 = 1_000_000_000;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_own_count_and_a_site_of_ipv6_is_one() {
        let addresses = Addresses::new(&Limits { connections_address: 2, ..Limits::default() });
        for peers in
            [["192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"], ["2001:db8::1", "2001:db8::2", "2001:db8::3"]]
        {
            assert_eq!(addresses.enter(ip(peers[0]), true, 0), Ok(true));
            assert_eq!(addresses.enter(ip(peers[1]), true, 0), Ok(true));
            assert_eq!(addresses.enter(ip(peers[2]), true, 0), Err(Reason::TooManyFromAddress));
            addresses.leave(ip(peers[0]), true, 0);
            assert_eq!(addresses.enter(ip(peers[2]), true, 0), Ok(true));
        }
        assert_eq!(addresses.enter(ip("192.0.2.2"), true, 0), Ok(true));
        assert_eq!(addresses.enter(ip("2001:db8:0:1::1"), true, 0), Ok(true));
    }

    #[test]
    fn half_open_ones_have_a_count_of_their_own() {
        let addresses = Addresses::new(&Limits { half_open_address: 1, ..Limits::default() });
        let peer = ip("192.0.2.1");
        assert_eq!(addresses.enter(peer, true, 0), Ok(true));
        assert_eq!(addresses.enter(peer, true, 0), Err(Reason::TooManyHalfOpenFromAddress));
        assert_eq!(addresses.enter(peer, false, 0), Ok(true));
        addresses.opened(peer);
        assert_eq!(addresses.enter(peer, true, 0), Ok(true));
        addresses.leave(peer, true, 0);
        addresses.leave(peer, false, 0);
        addresses.leave(peer, false, 0);
        assert_eq!(addresses.len(), 0, "who is gone is forgotten");
    }

    #[test]
    fn the_exempt_have_no_limits() {
        let exempt = vec!["10.0.0.0/8".parse().unwrap()];
        let addresses = Addresses::new(&Limits { connections_address: 1, exempt, ..Limits::default() });
        for _ in 0..3 {
            assert_eq!(addresses.enter(ip("10.1.1.1"), true, 0), Ok(false));
        }
        assert_eq!(addresses.len(), 0);
    }

    #[test]
    fn a_flood_of_addresses_stays_within_the_tables_bound() {
        let handshakes_address = Rate { burst: 1, per_second: 1 };
        let limits =
            Limits { connections_address: 1, handshakes_address, addresses_max: 1600, ..Limits::default() };
        let addresses = Addresses::new(&limits);
        let address = |number: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(number));
        let mut counted = 0;
        for number in 0..100_000 {
            assert!(addresses.take(address(number), SECOND));
            counted += u32::from(addresses.enter(address(number), true, SECOND).unwrap());
            assert!(addresses.len() <= 1600);
        }
        assert!((1000..=1600).contains(&counted), "{counted}");
        // Who is in it has its limits as before.
        assert_eq!(addresses.enter(address(0), true, SECOND), Err(Reason::TooManyFromAddress));
        assert!(!addresses.take(address(0), SECOND));
        // Who is idle makes room.
        for number in 0..100_000 {
            let was_counted = addresses
                .part(&addresses.network(address(number)).unwrap())
                .known
                .contains_key(&addresses.network(address(number)).unwrap());
            if was_counted {
                addresses.leave(address(number), true, SECOND);
            }
        }
        for number in 200_000..201_000 {
            assert!(addresses.take(address(number), 3 * SECOND));
        }
        assert!(!addresses.take(address(200_500), 3 * SECOND), "a new one is counted again");
    }
}
