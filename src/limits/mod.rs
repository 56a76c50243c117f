//! How many may come, how fast, and what it may cost: what a server refuses before it refuses service.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the settings |
//! | `pace.rs` | a rate as one number |
//! | `addresses.rs` | what each address has, in a table that has a bound |
//! | `admission.rs` | the counts of the process, which all cores share |
//! | `memory.rs` | what the process occupies |
//!
//! All cores share these counts, so they are exact. What is not limited costs nothing; a connection costs one atomic
//! addition, and one lock of a small part of the table where addresses are limited.

mod addresses;
mod admission;
mod memory;
mod pace;

use std::time::Duration;

pub(crate) use admission::{Admission, Admitted, Permit, opened, release};

use crate::{Network, h2c::Rate};

/// Limits on those who come. 0 is for no limit, which is the default of all of them: how much one address may do depends on
/// who is behind it. docs/limits.md has the whole table, with those of [`Config`](crate::Config) itself.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of one core; beyond is 503 `too-many-connections`. Those in all are
    /// [`Config::connections_max`](crate::Config::connections_max).
    pub connections_core: usize,
    /// Connections of one address; beyond is 429 `too-many-from-address`. A session on a stream of HTTP/2 is one, too.
    pub connections_address: u32,
    /// Connections whose first request has not arrived whole, in all; beyond is 503 `too-many-half-open`.
    pub half_open: usize,
    /// The same of one address; beyond is 429 `too-many-half-open-from-address`.
    pub half_open_address: u32,
    /// Requests for a switch, in all; beyond is 503 `too-many-handshakes`. With 0 a second there is no limit; with a burst of
    /// 0 it is as many as come in a second.
    pub handshakes: Rate,
    /// The same of one address; beyond is 429 `too-many-handshakes-from-address`.
    pub handshakes_address: Rate,
    /// How many bits of an IPv4 address are «one address»; 32.
    pub ipv4_prefix: u8,
    /// How many bits of an IPv6 address are «one address»; 64, as that is what one site has.
    pub ipv6_prefix: u8,
    /// Whose addresses have no limits of their own: proxies, monitoring. Nobody's.
    pub exempt: Vec<Network>,
    /// Addresses that are told apart at one time; 65,536. Who comes beyond them has only the limits in all.
    pub addresses_max: usize,
    /// Resident memory of the process, in bytes, above which connections and switches are answered with 503
    /// `over-memory-budget`, until it has fallen a twentieth below. What is there goes on.
    pub memory_max: u64,
    /// How long a session may last, whatever it speaks, before it is told goodbye as in a drain; it has
    /// [`Config::drain_time`](crate::Config::drain_time) to end, and is cut then. For ever.
    pub session_time: Duration,
}

const NO_LIMIT: Rate = Rate { burst: 0, per_second: 0 };

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_core: 0,
            connections_address: 0,
            half_open: 0,
            half_open_address: 0,
            handshakes: NO_LIMIT,
            handshakes_address: NO_LIMIT,
            ipv4_prefix: 32,
            ipv6_prefix: 64,
            exempt: Vec::new(),
            addresses_max: 1 << 16,
            memory_max: 0,
            session_time: Duration::MAX,
        }
    }
}

impl Limits {
    /// Whether anything is asked of single addresses.
    fn knows_addresses(&self) -> bool {
        self.connections_address > 0 || self.half_open_address > 0 || self.handshakes_address.per_second > 0
    }
}
