//! What a core counts: cells that only it touches, and a copy that others may read.
//!
//! The text that a Prometheus server reads is made of the copies, in [`exposition`](crate::exposition).

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use crate::{Token, rejection::Reason};

/// A core's counters. Counting costs an addition, and no other core's cache line.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: Cell<u64>,
    pub(crate) accept_errors: Cell<u64>,
    pub(crate) requests: Cell<u64>,
    pub(crate) refused_with_early_bytes: Cell<u64>,
    pub(crate) panics: Cell<u64>,
    pub(crate) closed_clean: Cell<u64>,
    pub(crate) cut: Cell<u64>,
    pub(crate) lost: Cell<u64>,
    pub(crate) received: Cell<u64>,
    pub(crate) sent: Cell<u64>,
    pub(crate) messages_received: Sizes,
    pub(crate) messages_sent: Sizes,
    pub(crate) messages_dropped: Cell<u64>,
    pub(crate) queue_depth: Sizes,
    pub(crate) tls_handshakes: Cell<u64>,
    pub(crate) tls_resumed: Cell<u64>,
    tls_failures: RefCell<BTreeMap<&'static str, u64>>,
    rejections: RefCell<BTreeMap<&'static str, u64>>,
    protocols: RefCell<BTreeMap<&'static str, Protocol>>,
    lag: RefCell<Lag>,
}

/// Adds to a counter.
pub(crate) fn add(cell: &Cell<u64>, count: u64) {
    cell.set(cell.get() + count);
}

impl Counters {
    /// With a row for each protocol, so that what never happened is there as a zero.
    pub(crate) fn for_protocols(tokens: &[Token]) -> Self {
        let counters = Self::default();
        for token in tokens {
            counters.of(token.as_str(), |_| {});
        }
        counters
    }

    fn of(&self, protocol: &'static str, note: impl FnOnce(&mut Protocol)) {
        note(self.protocols.borrow_mut().entry(protocol).or_default());
    }

    /// A session has begun.
    pub(crate) fn session_begins(&self, token: Token) {
        self.of(token.as_str(), |protocol| {
            protocol.sessions += 1;
            protocol.upgrades += 1;
        });
    }

    /// A session's connection is gone.
    pub(crate) fn session_is_gone(&self, token: Token) {
        self.of(token.as_str(), |protocol| protocol.sessions -= 1);
    }

    /// A handshake of TLS is done.
    #[cfg(feature = "tls")]
    pub(crate) fn secured(&self, is_resumed: bool) {
        add(&self.tls_handshakes, 1);
        add(&self.tls_resumed, is_resumed.into());
    }

    /// A handshake of TLS has failed, with a [code](crate::tls::Fault::code).
    #[cfg(feature = "tls")]
    pub(crate) fn not_secured(&self, code: &'static str) {
        *self.tls_failures.borrow_mut().entry(code).or_default() += 1;
    }

    /// How a session ended: `ok`, or the kind of its error.
    pub(crate) fn session_ended(&self, token: Token, outcome: &'static str, length: Duration) {
        self.of(token.as_str(), |protocol| {
            *protocol.ends.entry(outcome).or_default() += 1;
            protocol.session_time.record(micros(length));
        });
    }

    /// A request was switched, so long after its head was there.
    pub(crate) fn switched(&self, token: Token, time: Duration) {
        self.of(token.as_str(), |protocol| {
            protocol.switched += 1;
            protocol.handshake_time.record(micros(time));
        });
    }

    /// A request that asked for an upgrade was answered as if it had not.
    pub(crate) fn ignored(&self, protocol: &'static str) {
        self.of(protocol, |protocol| protocol.ignored += 1);
    }

    /// A request was refused; `asked` is the protocol that it asked for, if it did.
    pub(crate) fn refused(&self, reason: Reason, asked: Option<&'static str>) {
        *self.rejections.borrow_mut().entry(reason.code()).or_default() += 1;
        if let Some(asked) = asked {
            self.of(asked, |protocol| *protocol.refused.entry(reason.code()).or_default() += 1);
        }
    }

    /// How late the ticker was.
    pub(crate) fn ticked(&self, late: Duration) {
        self.lag.borrow_mut().record(late);
    }

    pub(crate) fn snapshot(&self, live: usize, sessions: usize) -> Stats {
        let owned = |counts: &BTreeMap<&'static str, u64>| -> BTreeMap<String, u64> {
            counts.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect()
        };
        let mut stats = Stats {
            connections: live as u64,
            sessions: sessions as u64,
            accepted: self.accepted.get(),
            accept_errors: self.accept_errors.get(),
            requests: self.requests.get(),
            refused_with_early_bytes: self.refused_with_early_bytes.get(),
            panics: self.panics.get(),
            closed_clean: self.closed_clean.get(),
            cut: self.cut.get(),
            lost: self.lost.get(),
            received: self.received.get(),
            sent: self.sent.get(),
            messages_received: self.messages_received.snapshot(),
            messages_sent: self.messages_sent.snapshot(),
            messages_dropped: self.messages_dropped.get(),
            queue_depth: self.queue_depth.snapshot(),
            lag: self.lag.borrow().worst(),
            rejections: owned(&self.rejections.borrow()),
            tls_handshakes: self.tls_handshakes.get(),
            tls_resumed: self.tls_resumed.get(),
            tls_failures: owned(&self.tls_failures.borrow()),
            ..Stats::default()
        };
        for (name, protocol) in &*self.protocols.borrow() {
            if protocol.upgrades > 0 {
                stats.upgrades.insert((*name).to_owned(), protocol.upgrades);
            }
            for (kind, count) in &protocol.ends {
                *stats.ends.entry((*kind).to_owned()).or_default() += count;
            }
            let protocol = ProtocolStats {
                sessions: protocol.sessions,
                switched: protocol.switched,
                ignored: protocol.ignored,
                refused: owned(&protocol.refused),
                ends: owned(&protocol.ends),
                handshake_time: protocol.handshake_time.clone(),
                session_time: protocol.session_time.clone(),
            };
            stats.protocols.insert((*name).to_owned(), protocol);
        }
        stats
    }
}

/// What is counted of a protocol.
#[derive(Debug)]
struct Protocol {
    sessions: u64,
    /// Sessions that have begun, also those that are no answer to a request of HTTP/1.1.
    upgrades: u64,
    switched: u64,
    ignored: u64,
    refused: BTreeMap<&'static str, u64>,
    ends: BTreeMap<&'static str, u64>,
    handshake_time: Histogram,
    session_time: Histogram,
}

impl Default for Protocol {
    fn default() -> Self {
        Self {
            sessions: 0,
            upgrades: 0,
            switched: 0,
            ignored: 0,
            refused: BTreeMap::new(),
            ends: BTreeMap::new(),
            handshake_time: Histogram::new(HANDSHAKE_TIMES),
            session_time: Histogram::new(SESSION_TIMES),
        }
    }
}

/// Counts sizes by powers of two: to count one is an addition in an array of the core's.
#[derive(Debug)]
pub(crate) struct Sizes {
    /// Those of at most 2^i bytes that are more than 2^(i-1).
    counts: [Cell<u64>; 65],
    sum: Cell<u64>,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| Cell::default()), sum: Cell::default() }
    }
}

impl Sizes {
    #[inline]
    pub(crate) fn record(&self, size: usize) {
        let bits = u64::BITS - (size as u64).saturating_sub(1).leading_zeros();
        add(&self.counts[bits as usize], 1);
        add(&self.sum, size as u64);
    }

    fn snapshot(&self) -> Histogram {
        let mut histogram = Histogram::new(SIZES);
        for (bits, count) in self.counts.iter().enumerate().filter(|(_, count)| count.get() > 0) {
            let largest = 1_u128 << bits;
            histogram.counts[SIZES.partition_point(|bound| u128::from(*bound) < largest)] += count.get();
        }
        histogram.sum = self.sum.get();
        histogram
    }
}

/// 16 B to 16 MiB.
const SIZES: &[u64] =
    &[16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

/// 25 µs to 10 s, in microseconds.
const HANDSHAKE_TIMES: &[u64] = &[
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// 100 ms to a day, in microseconds.
const SESSION_TIMES: &[u64] = &[
    100_000,
    1_000_000,
    10_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
    14_400_000_000,
    86_400_000_000,
];

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// How late a core's ticker was: its worst in this stretch of time and the one before.
#[derive(Debug, Default)]
struct Lag {
    ticks: u32,
    now: Duration,
    before: Duration,
}

impl Lag {
    fn record(&mut self, late: Duration) {
        self.now = self.now.max(late);
        self.ticks += 1;
        if self.ticks >= LAG_TICKS {
            *self = Self { ticks: 0, now: Duration::ZERO, before: self.now };
        }
    }

    fn worst(&self) -> Duration {
        self.now.max(self.before)
    }
}

/// Half a minute.
const LAG_TICKS: u32 = 600;

/// What was measured, by size: how many in each bucket, and what they add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    pub(crate) bounds: &'static [u64],
    pub(crate) counts: Vec<u64>,
    pub(crate) sum: u64,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    fn record(&mut self, value: u64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum = self.sum.saturating_add(value);
    }

    /// How many were measured.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What they add up to: bytes of sizes, microseconds of times.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The buckets: an upper bound, which belongs to it, and how many are in it and in none before. The last one has no
    /// bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        bounds.zip(self.counts.iter().copied())
    }

    fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() {
            return self.clone_from(other);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.sum = self.sum.saturating_add(other.sum);
    }
}

/// What was counted, at one moment; of one core or, added up, of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that are open now.
    pub connections: u64,
    /// Of them, those that were switched.
    pub sessions: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Accepts that failed, most of them for want of descriptors.
    pub accept_errors: u64,
    /// Requests read.
    pub requests: u64,
    /// Requests for an upgrade that was not made, with bytes behind them: the connection was closed.
    pub refused_with_early_bytes: u64,
    /// Handlers that panicked; each cost its own connection.
    pub panics: u64,
    /// Sessions that ended as their protocol has it.
    pub closed_clean: u64,
    /// Sessions that a deadline or the end of a drain has cut.
    pub cut: u64,
    /// Sessions that a failed transport, a peer's fault or a handler's panic has ended.
    pub lost: u64,
    /// Bytes received by sessions.
    pub received: u64,
    /// Bytes sent by sessions.
    pub sent: u64,
    /// Handshakes of TLS that were done.
    pub tls_handshakes: u64,
    /// Of them, those that went on from an earlier session.
    pub tls_resumed: u64,
    /// Handshakes of TLS that failed, by the code of the reason (`tls::Fault::code`).
    pub tls_failures: BTreeMap<String, u64>,
    /// Switches, by protocol.
    pub upgrades: BTreeMap<String, u64>,
    /// Refusals, by [reason code](crate::Reason::code).
    pub rejections: BTreeMap<String, u64>,
    /// Ends of sessions: `ok`, or the [kind](crate::Error::kind) of the error.
    pub ends: BTreeMap<String, u64>,
    /// The same, and more, of each protocol that is spoken; what is not spoken here is `other`.
    pub protocols: BTreeMap<String, ProtocolStats>,
    /// WebSocket messages that were received, by their size.
    pub messages_received: Histogram,
    /// WebSocket messages that were sent, by their size before compression.
    pub messages_sent: Histogram,
    /// WebSocket messages that were not sent because their queue was full.
    pub messages_dropped: u64,
    /// What a WebSocket had queued when it was about to send, in bytes.
    pub queue_depth: Histogram,
    /// The latest that a core has looked after its connections, of the last half minute or more.
    pub lag: Duration,
    /// Workers that lost their connections to a panic, and began anew.
    pub restarts: u64,
}

/// What was counted of a protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProtocolStats {
    /// Sessions that are open now.
    pub sessions: u64,
    /// Requests that were switched.
    pub switched: u64,
    /// Requests that asked for it, and were answered as if they had not.
    pub ignored: u64,
    /// Requests for it that were refused, by [reason code](crate::Reason::code).
    pub refused: BTreeMap<String, u64>,
    /// Ends of sessions: `ok`, or the [kind](crate::Error::kind) of the error.
    pub ends: BTreeMap<String, u64>,
    /// From the end of a request's head to its 101, in microseconds.
    pub handshake_time: Histogram,
    /// How long sessions have lasted that have ended, in microseconds.
    pub session_time: Histogram,
}

impl Stats {
    /// Adds another core's.
    pub fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        self.sessions += other.sessions;
        self.accepted += other.accepted;
        self.accept_errors += other.accept_errors;
        self.requests += other.requests;
        self.refused_with_early_bytes += other.refused_with_early_bytes;
        self.panics += other.panics;
        self.closed_clean += other.closed_clean;
        self.cut += other.cut;
        self.lost += other.lost;
        self.received += other.received;
        self.sent += other.sent;
        self.messages_received.merge(&other.messages_received);
        self.messages_sent.merge(&other.messages_sent);
        self.messages_dropped += other.messages_dropped;
        self.queue_depth.merge(&other.queue_depth);
        self.lag = self.lag.max(other.lag);
        self.restarts += other.restarts;
        merge_counts(&mut self.upgrades, &other.upgrades);
        merge_counts(&mut self.rejections, &other.rejections);
        merge_counts(&mut self.ends, &other.ends);
        self.tls_handshakes += other.tls_handshakes;
        self.tls_resumed += other.tls_resumed;
        merge_counts(&mut self.tls_failures, &other.tls_failures);
        for (name, theirs) in &other.protocols {
            let mine = self.protocols.entry(name.clone()).or_default();
            mine.sessions += theirs.sessions;
            mine.switched += theirs.switched;
            mine.ignored += theirs.ignored;
            merge_counts(&mut mine.refused, &theirs.refused);
            merge_counts(&mut mine.ends, &theirs.ends);
            mine.handshake_time.merge(&theirs.handshake_time);
            mine.session_time.merge(&theirs.session_time);
        }
    }

    /// Only what has happened, and nothing of what is: for a core that begins anew.
    pub(crate) fn past(mut self) -> Self {
        self.connections = 0;
        self.sessions = 0;
        self.lag = Duration::ZERO;
        for protocol in self.protocols.values_mut() {
            protocol.sessions = 0;
        }
        self
    }
}

fn merge_counts(mine: &mut BTreeMap<String, u64>, theirs: &BTreeMap<String, u64>) {
    for (key, count) in theirs {
        *mine.entry(key.clone()).or_default() += count;
    }
}

/// The row of what is asked for and not spoken here: names that peers make up are not kept.
pub(crate) const OTHER: &str = "other";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_in_the_bucket_of_its_bound() {
        let sizes = Sizes::default();
        for size in [0, 1, 16, 17, 64, 65, 16 << 20, (16 << 20) + 1, usize::MAX >> 8] {
            sizes.record(size);
        }
        let histogram = sizes.snapshot();
        let counted: Vec<u64> = histogram.buckets().map(|(_, count)| count).collect();
        assert_eq!(counted, [3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(histogram.count(), 9);
        for bits in 0..40 {
            let sizes = Sizes::default();
            sizes.record(1 << bits);
            let mut expected = Histogram::new(SIZES);
            expected.record(1 << bits);
            assert_eq!(sizes.snapshot(), expected, "2^{bits}");
        }
    }

    #[test]
    fn what_two_cores_have_counted_adds_up() {
        let token = Token::new("echo");
        let counters = Counters::for_protocols(&[token]);
        counters.session_begins(token);
        counters.switched(token, Duration::from_micros(70));
        counters.refused(Reason::EarlyBytes, Some("echo"));
        counters.session_ended(token, "ok", Duration::from_secs(2));
        counters.ticked(Duration::from_millis(3));
        let one = counters.snapshot(1, 1);
        let mut two = Stats::default();
        two.merge(&one);
        assert_eq!(two, one, "nothing is lost on the way");
        two.merge(&one);
        let echo = &two.protocols["echo"];
        assert_eq!(
            (echo.sessions, echo.switched, echo.refused["early-bytes"], echo.ends["ok"]),
            (2, 2, 2, 2)
        );
        assert_eq!((echo.handshake_time.count(), echo.handshake_time.sum()), (2, 140));
        assert_eq!((two.upgrades["echo"], two.lag), (2, Duration::from_millis(3)));
        assert_eq!(two.past().protocols["echo"].sessions, 0);
    }
}
