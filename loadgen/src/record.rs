//! What was counted and timed: one for each thread, merged at the end. Histograms are added, never averaged.

use std::{borrow::Cow, collections::BTreeMap, fmt::Display};

use hdrhistogram::Histogram;

use crate::fault::{Fault, Wrong};

/// Nanoseconds since the run began, the same zero for all threads.
pub(crate) type Nanos = u64;

/// What became of messages. Invariant, once the run is over: `sent == answered + wrong + unanswered`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) sent: u64,
    /// With a reply that was verified.
    pub(crate) answered: u64,
    /// With a reply that was not the right one.
    pub(crate) wrong: u64,
    pub(crate) unanswered: u64,
}

impl Ledger {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.wrong += other.wrong;
        self.unanswered += other.unanswered;
    }

    /// Whether every message is accounted for.
    pub(crate) fn is_balanced(&self) -> bool {
        self.sent == self.answered + self.wrong + self.unanswered
    }
}

/// How often something went wrong, and how it looked the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Errors {
    pub(crate) count: u64,
    pub(crate) example: String,
}

/// What one thread knows, or all of them.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Of measured messages: from the write to the whole reply.
    pub(crate) latency: Histogram<u64>,
    /// From the connect to the verified 101.
    pub(crate) handshake: Histogram<u64>,
    pub(crate) measured: Ledger,
    /// Messages that were sent before the measurement began: not timed, but not forgotten.
    pub(crate) warmup: Ledger,
    pub(crate) errors: BTreeMap<Cow<'static, str>, Errors>,
    /// Connections that did not end by our own will, or never began.
    pub(crate) failed: u64,
    /// The longest latency so far, warm-up and wrong replies included.
    pub(crate) longest: Nanos,
    /// How long the oldest unanswered message had waited when we gave it up.
    pub(crate) waited: Nanos,
    /// When the last measured reply came.
    pub(crate) last: Nanos,
}

impl Record {
    pub(crate) fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("the bounds are constants that are valid")
        };
        Self {
            latency: histogram(),
            handshake: histogram(),
            measured: Ledger::default(),
            warmup: Ledger::default(),
            errors: BTreeMap::new(),
            failed: 0,
            longest: 0,
            waited: 0,
            last: 0,
        }
    }

    #[inline]
    fn ledger(&mut self, is_measured: bool) -> &mut Ledger {
        if is_measured { &mut self.measured } else { &mut self.warmup }
    }

    /// `count` messages are on their way.
    #[inline]
    pub(crate) fn sent(&mut self, count: usize, is_measured: bool) {
        self.ledger(is_measured).sent += count as u64;
    }

    /// The reply to a message has come `now`.
    #[inline]
    pub(crate) fn reply(&mut self, sent: Nanos, now: Nanos, is_measured: bool, verdict: Result<(), Wrong>) {
        let latency = now.saturating_sub(sent);
        self.longest = self.longest.max(latency);
        match verdict {
            Ok(()) => {
                self.ledger(is_measured).answered += 1;
                if is_measured {
                    self.latency.saturating_record(latency);
                    self.last = now;
                }
            }
            Err(wrong) => {
                self.ledger(is_measured).wrong += 1;
                self.error(wrong.kind().into(), &wrong);
            }
        }
    }

    /// No reply to a message will be waited for any more.
    pub(crate) fn unanswered(&mut self, sent: Nanos, now: Nanos, is_measured: bool) {
        self.ledger(is_measured).unanswered += 1;
        self.waited = self.waited.max(now.saturating_sub(sent));
    }

    /// A connection has failed.
    pub(crate) fn fault(&mut self, fault: &Fault) {
        self.failed += 1;
        self.error(fault.kind(), fault);
    }

    /// Writes the example only the first time: a server that gets everything wrong should not slow us down.
    #[cold]
    fn error(&mut self, kind: Cow<'static, str>, what: &dyn Display) {
        let errors =
            self.errors.entry(kind).or_insert_with(|| Errors { count: 0, example: what.to_string() });
        errors.count += 1;
    }

    /// How many replies there were, right or wrong.
    pub(crate) fn replies(&self) -> u64 {
        [self.measured, self.warmup].iter().map(|ledger| ledger.answered + ledger.wrong).sum()
    }

    /// Adds what another thread knows.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("all have the same bounds");
        self.handshake.add(&other.handshake).expect("all have the same bounds");
        self.measured.add(&other.measured);
        self.warmup.add(&other.warmup);
        for (kind, errors) in &other.errors {
            let mine = self
                .errors
                .entry(kind.clone())
                .or_insert_with(|| Errors { count: 0, example: errors.example.clone() });
            mine.count += errors.count;
        }
        self.failed += other.failed;
        self.longest = self.longest.max(other.longest);
        self.waited = self.waited.max(other.waited);
        self.last = self.last.max(other.last);
    }
}

/// A minute: nothing waits longer than a run's grace, and a record beyond it still counts as the longest.
const LONGEST: Nanos = 60_000_000_000;
const DIGITS: u8 = 3;

/// A percentile, unless fewer than ten samples lie beyond it: then it would be hearsay.
pub(crate) fn percentile(histogram: &Histogram<u64>, percent: f64) -> Option<Nanos> {
    let beyond = histogram.len() as f64 * (100.0 - percent) / 100.0;
    // 1000 samples have ten beyond p99, whatever the floating point says.
    (beyond + 1e-6 >= BEYOND_MIN).then(|| histogram.value_at_percentile(percent))
}

const BEYOND_MIN: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_needs_ten_samples_beyond_it() {
        let mut record = Record::new();
        for count in 1..=10_000 {
            record.latency.record(count * 1000).unwrap();
            let has = |percent| percentile(&record.latency, percent).is_some();
            assert_eq!(
                [has(50.0), has(90.0), has(99.0), has(99.9)],
                [count >= 20, count >= 100, count >= 1000, count >= 10_000],
                "{count}"
            );
        }
    }

    #[test]
    fn every_message_is_in_its_ledger_and_the_merged_are_the_sum() {
        let mut record = Record::new();
        record.sent(3, true);
        record.sent(1, false);
        record.reply(100, 350, true, Ok(()));
        record.reply(100, 1100, true, Err(Wrong::Length(3)));
        record.unanswered(100, 5100, true);
        record.reply(0, 50, false, Ok(()));
        assert_eq!(record.measured, Ledger { sent: 3, answered: 1, wrong: 1, unanswered: 1 });
        assert_eq!(record.warmup, Ledger { sent: 1, answered: 1, wrong: 0, unanswered: 0 });
        assert!(record.measured.is_balanced() && record.warmup.is_balanced());
        assert_eq!((record.longest, record.waited, record.last), (1000, 5000, 350));
        assert_eq!(record.latency.len(), 1);

        let mut sum = record.clone();
        sum.fault(&Fault::Ended);
        sum.merge(&record);
        assert_eq!((sum.latency.len(), sum.measured.sent, sum.replies(), sum.failed), (2, 6, 6, 1));
        assert_eq!(sum.errors["wrong-length"].count, 2);
        assert_eq!(sum.errors["connection-ended"].count, 1);
    }
}
