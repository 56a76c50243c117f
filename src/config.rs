//! What a server is told: plain data with defaults, checked once, here.

use std::{net::SocketAddr, time::Duration};

use crate::{Driver, http};

/// The settings of a server. Every limit has a default that suits the open internet.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to listen on; `127.0.0.1:8080`.
    pub listen: Vec<SocketAddr>,
    /// Workers, each on its own core; 0 for one a core.
    pub threads: usize,
    /// Which driver waits for the kernel.
    pub driver: Driver,
    /// What a request's head may cost; 16 KiB, 100 fields, a target of 8 KiB.
    pub head: http::Limits,
    /// The longest body of an ordinary request, which its resource sees whole; beyond is 413; 64 KiB.
    pub body_max: usize,
    /// From a request's first byte (or the accept) to its whole head, whatever the dribble; 10 s.
    pub head_time: Duration,
    /// From the head to the end of the body and the handler's decision; 10 s.
    pub answer_time: Duration,
    /// How long a kept-alive connection waits for its next request; 60 s.
    pub keep_alive_time: Duration,
    /// How long a peer may take nothing of what we send; 30 s.
    pub write_time: Duration,
    /// How long an upgraded peer may be silent, unless its protocol says otherwise; 5 min.
    pub idle_time: Duration,
    /// How long a peer may take to close its side after we closed ours; 3 s.
    pub close_time: Duration,
    /// Connections in all, beyond which new ones get 503; 0 for what the descriptor limit allows.
    pub connections_max: usize,
    /// How long readiness fails before accepting stops; 0 s.
    pub drain_delay: Duration,
    /// How long a drain may take before the rest is cut; 10 s.
    pub drain_time: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            threads: 0,
            driver: Driver::Auto,
            head: http::Limits::default(),
            body_max: 64 * 1024,
            head_time: Duration::from_secs(10),
            answer_time: Duration::from_secs(10),
            keep_alive_time: Duration::from_secs(60),
            write_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(300),
            close_time: Duration::from_secs(3),
            connections_max: 0,
            drain_delay: Duration::ZERO,
            drain_time: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// How many workers that makes on this machine.
    pub fn workers(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    /// Connections for each worker: their share of the limit, and never more than the descriptors that there are.
    pub(crate) fn connections_a_worker(&self) -> usize {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let descriptors =
            limit.current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let room = descriptors.saturating_sub(DESCRIPTORS_KEPT).max(1);
        let wanted = if self.connections_max == 0 { room } else { self.connections_max.min(room) };
        wanted.div_ceil(self.workers())
    }
}

/// Descriptors that are not connections: rings, listeners, files, and the answers to those for whom there is no room.
const DESCRIPTORS_KEPT: usize = 256;
