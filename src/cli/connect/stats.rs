//! What was sent and heard, and how long answers took.

use std::{
    collections::VecDeque,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

/// The counts of a connection.
#[derive(Debug)]
pub(super) struct Stats {
    since: Instant,
    pub(super) sent: Count,
    pub(super) heard: Count,
    /// Bytes on the wire, behind the handshake.
    pub(super) wire_sent: u64,
    pub(super) wire_heard: u64,
    pub(super) pings: Times,
    echoes: Times,
    /// Messages that may come back, by their hashes, and when they were sent.
    flights: VecDeque<(u64, Instant)>,
}

/// Messages, and the bytes in them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// How long some answers took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    count: u32,
    least: Duration,
    most: Duration,
    sum: Duration,
}

impl Stats {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            sent: Count::default(),
            heard: Count::default(),
            wire_sent: 0,
            wire_heard: 0,
            pings: Times::default(),
            echoes: Times::default(),
            flights: VecDeque::new(),
        }
    }

    pub(super) fn sends(&mut self, is_text: bool, payload: &[u8], now: Instant) {
        self.sent.add(payload.len());
        if self.flights.len() == FLIGHTS_MAX {
            self.flights.pop_front();
        }
        self.flights.push_back((hash(is_text, payload), now));
    }

    /// Counts a message, and says how long it was under way if it is one of ours that has come back.
    pub(super) fn hears(&mut self, is_text: bool, payload: &[u8], now: Instant) {
        self.heard.add(payload.len());
        let hash = hash(is_text, payload);
        if let Some(place) = self.flights.iter().position(|(sent, _)| *sent == hash) {
            let (_, at) = self.flights[place];
            self.flights.drain(..=place);
            self.echoes.add(now - at);
        }
    }
}

/// No more messages than these are remembered, to see whether they come back.
const FLIGHTS_MAX: usize = 1024;

fn hash(is_text: bool, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (is_text, payload).hash(&mut hasher);
    hasher.finish()
}

impl Count {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}

impl Times {
    pub(super) fn add(&mut self, time: Duration) {
        self.least = if self.count == 0 { time } else { self.least.min(time) };
        self.most = self.most.max(time);
        self.sum += time;
        self.count += 1;
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return f.write_str("none");
        }
        write!(
            f,
            "{}; least {}, mean {}, most {}",
            self.count,
            milliseconds(self.least),
            milliseconds(self.sum / self.count),
            milliseconds(self.most)
        )
    }
}

/// As `0.123 ms`.
pub(super) fn milliseconds(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: Count, wire| {
            format!("{} messages, {} bytes ({wire} on the wire)", count.messages, count.bytes)
        };
        writeln!(f, "connected for {:.1} s", self.since.elapsed().as_secs_f64())?;
        writeln!(f, "sent: {}", count(self.sent, self.wire_sent))?;
        writeln!(f, "received: {}", count(self.heard, self.wire_heard))?;
        writeln!(f, "round trips of pings: {}", self.pings)?;
        write!(f, "round trips of messages that came back: {}", self.echoes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_timed_and_what_does_not_is_not() {
        let now = Instant::now();
        let mut stats = Stats::new(now);
        for text in ["a", "b", "c"] {
            stats.sends(true, text.as_bytes(), now);
        }
        let later = now + Duration::from_millis(5);
        stats.hears(true, b"b", later);
        stats.hears(false, b"c", later);
        stats.hears(true, b"a", later); // too late: what came back in order was `b`
        assert_eq!((stats.echoes.count, stats.echoes.most), (1, Duration::from_millis(5)));
        for _ in 0..2 * FLIGHTS_MAX {
            stats.sends(true, b"x", now);
        }
        assert_eq!(stats.flights.len(), FLIGHTS_MAX);
        let text = stats.to_string();
        assert!(text.contains("received: 3 messages, 3 bytes"), "{text}");
        assert!(text.contains("came back: 1; least 5.000 ms"), "{text}");
    }
}
