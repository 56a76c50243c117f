//! What a run is to do: plain data, checked by the time it exists.

use std::time::Duration;

use switchpoint::Driver;

use crate::url::Url;

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What is spoken.
    pub(crate) what: What,
    /// Where.
    pub(crate) url: Url,
    /// Connections in all, at least one.
    pub(crate) connections: u32,
    /// How long to measure; without it, until the requests are done.
    pub(crate) duration: Option<Duration>,
    /// How many messages to measure. Invariant: this or `duration` is there.
    pub(crate) requests: Option<u64>,
    /// A message's length in bytes.
    pub(crate) size: usize,
    /// Messages in flight on each connection, at least one.
    pub(crate) depth: usize,
    /// Invariant: `1 <= threads <= connections`.
    pub(crate) threads: u32,
    /// How long to run before measuring.
    pub(crate) warmup: Duration,
    /// For a connection and its handshake.
    pub(crate) timeout: Duration,
    /// More fields for the handshake.
    pub(crate) headers: Vec<(String, String)>,
    /// What waits for the kernel.
    pub(crate) driver: Driver,
    /// Whose CPU time to read. Invariant: then `threads` is 1, and `duration` is there.
    pub(crate) server_pid: Option<u32>,
    /// Where the content comes from.
    pub(crate) seed: u64,
    /// How to tell.
    pub(crate) output: Output,
}

/// Which scenario; [`scenarios`](crate::scenarios) has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Messages over WebSocket.
    WebSocket { text: bool },
    /// Bytes over a raw `Upgrade: echo`.
    Echo,
}

/// Who reads the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Text,
    Quiet,
    Json,
}

impl Plan {
    /// Whether messages are made of text.
    pub(crate) fn is_text(&self) -> bool {
        self.what == What::WebSocket { text: true }
    }

    /// The connections of one thread, by their numbers.
    pub(crate) fn share(&self, thread: u32) -> std::ops::Range<u32> {
        let begin =
            |thread: u32| (u64::from(self.connections) * u64::from(thread) / u64::from(self.threads)) as u32;
        begin(thread)..begin(thread + 1)
    }

    /// The messages that one thread may measure.
    pub(crate) fn budget(&self, thread: u32) -> u64 {
        let Some(requests) = self.requests else { return u64::MAX };
        let share = self.share(thread);
        let up_to = |connection: u32| {
            (u128::from(requests) * u128::from(connection) / u128::from(self.connections)) as u64
        };
        up_to(share.end) - up_to(share.start)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plan for tests.
    pub(crate) fn plan(what: What, size: usize) -> Plan {
        Plan {
            what,
            url: "ws://example.org/echo".parse().unwrap(),
            connections: 7,
            duration: None,
            requests: Some(100),
            size,
            depth: 1,
            threads: 3,
            warmup: Duration::ZERO,
            timeout: Duration::from_secs(1),
            headers: Vec::new(),
            driver: Driver::Auto,
            server_pid: None,
            seed: 7,
            output: Output::Text,
        }
    }

    #[test]
    fn threads_share_everything_and_nothing_twice() {
        for (connections, threads, requests) in
            [(1, 1, 1), (7, 3, 100), (u32::MAX, 1024, u64::MAX), (5, 5, 2)]
        {
            let plan = Plan { connections, threads, requests: Some(requests), ..plan(What::Echo, 1) };
            let shares: Vec<_> = (0..threads).map(|thread| plan.share(thread)).collect();
            assert_eq!((shares[0].start, shares[threads as usize - 1].end), (0, connections));
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(shares.iter().all(|share| !share.is_empty()));
            assert_eq!((0..threads).map(|thread| plan.budget(thread)).sum::<u64>(), requests);
        }
    }
}
