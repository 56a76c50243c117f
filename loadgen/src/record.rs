//! What was counted and timed: one for each thread, merged at the end. Histograms are added, never averaged.
//!
//! ```text
//!   intended          sent                      reply
//!      |-- send-lag --->|------- service --------->|
//!      |---------------- response ---------------->|
//! ```
//!
//! What was not answered is in the histograms, too, with the time that it has waited: its true one is longer.

use std::{borrow::Cow, collections::BTreeMap, fmt::Display};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{
    fault::Fault,
    flights::Flight,
    proof::{Break, is_broken},
    units::Nanos,
};

/// What became of messages. Invariant, once the run is over: `planned == answered + errors + unanswered`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// By the schedule; in a closed loop, what was sent.
    pub(crate) planned: u64,
    pub(crate) sent: u64,
    /// With a reply that was verified.
    pub(crate) answered: u64,
    /// Of these, before the phase was over.
    pub(crate) in_time: u64,
    /// With a reply that was not the right one.
    pub(crate) wrong: u64,
    /// Not within the timeout; a late reply does not change that.
    pub(crate) timed_out: u64,
    pub(crate) unanswered: u64,
    /// Sent later than meant, or never, because the connection had no room or was gone: the server's doing, and not lag.
    pub(crate) held: u64,
    /// Planned, and we did not get round to it: our own doing.
    pub(crate) unoffered: u64,
}

impl Ledger {
    /// Adds another one.
    pub(crate) fn add(&mut self, other: &Self) {
        self.planned += other.planned;
        self.sent += other.sent;
        self.answered += other.answered;
        self.in_time += other.in_time;
        self.wrong += other.wrong;
        self.timed_out += other.timed_out;
        self.unanswered += other.unanswered;
        self.held += other.held;
        self.unoffered += other.unoffered;
    }

    /// Replies that were wrong, or too late.
    pub(crate) fn errors(&self) -> u64 {
        self.wrong + self.timed_out
    }

    /// Whether every message is accounted for.
    pub(crate) fn is_balanced(&self) -> bool {
        self.planned == self.answered + self.errors() + self.unanswered
    }
}

/// A histogram of nanoseconds, from 1 to an hour, with three digits. All have the same bounds, so all can be added.
pub(crate) type Times = Histogram<u64>;

/// An empty one.
pub(crate) fn times() -> Times {
    Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("the bounds are constants that are valid")
}

const LONGEST: Nanos = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// Has all of its memory there. It is taken as zeroes, which the kernel may bring page by page when something is written
/// there: that would be in the midst of a measurement, for the first value of each magnitude. Nothing may be recorded yet.
fn bring(times: &mut Times) {
    debug_assert!(times.is_empty());
    // The compiler knows that there are zeroes, too.
    std::hint::black_box(times).reset();
}

/// A histogram as text, in the form that other HdrHistogram tools read.
pub(crate) mod text {
    use std::{cell::RefCell, io::Read};

    use base64::{Engine, engine::general_purpose::STANDARD};
    use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{DIGITS, LONGEST, Times};

    /// What a deflated histogram of version 2 begins with, without the bits for its word size.
    const COMPRESSED: u32 = 0x1c84_9304;
    /// Nine bytes for each of the values that are told apart, and more.
    const PAYLOAD_MAX: u32 = 1 << 20;

    thread_local! {
        /// Keeps its buffers, which are as long as a histogram is up to its largest value.
        static SERIALIZER: RefCell<V2DeflateSerializer> = RefCell::new(V2DeflateSerializer::new());
    }

    pub(crate) fn encoded(times: &Times) -> String {
        let mut bytes = Vec::new();
        let written = SERIALIZER.with_borrow_mut(|serializer| serializer.serialize(times, &mut bytes));
        written.expect("memory takes what is written");
        STANDARD.encode(bytes)
    }

    /// What somebody has written, in base64. The room for it is taken only when its bounds were looked at.
    pub(crate) fn read(text: &str) -> Result<Times, String> {
        let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
        let wrong = |_| "this is no HdrHistogram".to_owned();
        let mut head = [0; 40];
        match bytes.first_chunk().map(|cookie| u32::from_be_bytes(*cookie) & !0xf0) {
            // Behind its cookie and its length.
            Some(COMPRESSED) if bytes.len() > 8 => {
                flate2::read::ZlibDecoder::new(&bytes[8..]).read_exact(&mut head).map_err(wrong)?;
            }
            _ => bytes.as_slice().read_exact(&mut head).map_err(wrong)?,
        }
        let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (payload, digits) = (number(4), number(12));
        if digits != u32::from(DIGITS) {
            return Err(format!("a histogram has {digits} digits, and those of loadgen have {DIGITS}"));
        }
        if payload > PAYLOAD_MAX {
            return Err(format!("a histogram of {payload} bytes is none of loadgen"));
        }
        let mut reader = hdrhistogram::serialization::Deserializer::new();
        reader.deserialize(&mut bytes.as_slice()).map_err(|error| error.to_string())
    }

    /// What [`encoded`] has made.
    pub(crate) fn decoded(text: &str) -> Result<Times, String> {
        let times = read(text)?;
        if (times.low(), times.high(), times.sigfig()) == (1, LONGEST, DIGITS) {
            Ok(times)
        } else {
            Err("a histogram has other bounds than those of loadgen".into())
        }
    }

    pub(crate) fn serialize<S: Serializer>(times: &Times, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encoded(times))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Times, D::Error> {
        decoded(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A histogram that is only kept, as its text: that is as long as what occurs in it takes, and mostly a few hundred bytes
/// where [`Times`] are 270 kB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Packed(String);

impl Packed {
    pub(crate) fn new(times: &Times) -> Self {
        Self(text::encoded(times))
    }

    /// What it was.
    pub(crate) fn times(&self) -> Times {
        text::decoded(&self.0).expect("it was looked at when it was made")
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Packed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text::decoded(&text).map(|_| Self(text))
    }
}

impl From<Packed> for String {
    fn from(packed: Packed) -> Self {
        packed.0
    }
}

/// How often something went wrong, and how it looked the first time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Errors {
    pub(crate) count: u64,
    pub(crate) example: String,
}

/// A phase, seen by one kind of connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Slot {
    pub(crate) ledger: Ledger,
    /// From the intended time to the reply. Empty in a closed loop, which has no intended times.
    #[serde(with = "text")]
    pub(crate) response: Times,
    /// From the actual time to the reply.
    #[serde(with = "text")]
    pub(crate) service: Times,
    /// From the intended time to the actual one: our own lateness.
    #[serde(with = "text")]
    pub(crate) lag: Times,
    /// How many of the values in `response`, or `service`, are what an unanswered one has waited.
    pub(crate) censored: u64,
}

impl Slot {
    fn new() -> Self {
        Self { ledger: Ledger::default(), response: times(), service: times(), lag: times(), censored: 0 }
    }

    /// Adds what another thread knows.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.ledger.add(&other.ledger);
        merge_times(&mut self.response, &other.response);
        merge_times(&mut self.service, &other.service);
        merge_times(&mut self.lag, &other.lag);
        self.censored += other.censored;
    }
}

/// Adds `other`, which has the same bounds.
pub(crate) fn merge_times(to: &mut Times, other: &Times) {
    to.add(other).expect("all have the same bounds");
}

/// How connections came about, each step by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Opening {
    /// From the intended connect to ours.
    #[serde(with = "text")]
    pub(crate) lag: Times,
    /// From the connect to the established connection.
    #[serde(with = "text")]
    pub(crate) tcp: Times,
    /// From the request to the verified 101.
    #[serde(with = "text")]
    pub(crate) upgrade: Times,
    /// From the end of TCP's handshake to that of TLS.
    #[serde(with = "text")]
    pub(crate) tls: Times,
    /// From the verified 101, or the connect, to the moment when a message can be sent: HTTP/2's settings and streams.
    #[serde(with = "text")]
    pub(crate) settle: Times,
    /// From the intended connect, or ours where there is no rate, to that moment.
    #[serde(with = "text")]
    pub(crate) ready: Times,
    /// From a connection's first message to its reply.
    #[serde(with = "text")]
    pub(crate) first: Times,
    /// From our goodbye to the end.
    #[serde(with = "text")]
    pub(crate) close: Times,
}

impl Opening {
    fn new() -> Self {
        Self {
            lag: times(),
            tcp: times(),
            tls: times(),
            upgrade: times(),
            settle: times(),
            ready: times(),
            first: times(),
            close: times(),
        }
    }

    /// With their names.
    pub(crate) fn all(&self) -> [(&'static str, &Times); 8] {
        [
            ("connect-lag", &self.lag),
            ("tcp-connect", &self.tcp),
            ("tls", &self.tls),
            ("upgrade", &self.upgrade),
            ("settle", &self.settle),
            ("ready", &self.ready),
            ("first-message", &self.first),
            ("close", &self.close),
        ]
    }

    fn merge(&mut self, other: &Self) {
        merge_times(&mut self.lag, &other.lag);
        merge_times(&mut self.tcp, &other.tcp);
        merge_times(&mut self.tls, &other.tls);
        merge_times(&mut self.upgrade, &other.upgrade);
        merge_times(&mut self.settle, &other.settle);
        merge_times(&mut self.ready, &other.ready);
        merge_times(&mut self.first, &other.first);
        merge_times(&mut self.close, &other.close);
    }
}

/// About a second of the run, by when things happened: of one thread, or of all. Once it is over, its histogram is
/// [packed](Second).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Interval<H = Times> {
    /// Which second since the start.
    pub(crate) second: u64,
    /// Response times, or service times in a closed loop.
    pub(crate) latency: H,
    pub(crate) planned: u64,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) errors: u64,
    /// The longest that we were late.
    pub(crate) lag_max: Nanos,
    /// Of the phase that it began in.
    pub(crate) is_measured: bool,
}

/// A second that is over.
pub(crate) type Second = Interval<Packed>;

impl Second {
    /// As it was.
    pub(crate) fn unpacked(&self) -> Interval {
        self.with(self.latency.times())
    }
}

impl<H> Interval<H> {
    fn with<T>(&self, latency: T) -> Interval<T> {
        let &Self { second, planned, sent, answered, errors, lag_max, is_measured, .. } = self;
        Interval { second, latency, planned, sent, answered, errors, lag_max, is_measured }
    }
}

impl Interval {
    pub(crate) fn new() -> Self {
        Self {
            second: 0,
            latency: times(),
            planned: 0,
            sent: 0,
            answered: 0,
            errors: 0,
            lag_max: 0,
            is_measured: false,
        }
    }

    /// An empty one with the memory there that it needs.
    pub(crate) fn brought() -> Self {
        let mut interval = Self::new();
        bring(&mut interval.latency);
        interval
    }

    /// To be kept.
    pub(crate) fn packed(&self) -> Second {
        self.with(Packed::new(&self.latency))
    }

    /// Adds another thread's figures of the same second.
    pub(crate) fn merge(&mut self, other: &Self) {
        merge_times(&mut self.latency, &other.latency);
        self.planned += other.planned;
        self.sent += other.sent;
        self.answered += other.answered;
        self.errors += other.errors;
        self.lag_max = self.lag_max.max(other.lag_max);
        self.is_measured |= other.is_measured;
    }

    /// As new, but with the memory that it has.
    pub(crate) fn clear(&mut self) {
        self.latency.reset();
        (self.planned, self.sent, self.answered, self.errors, self.lag_max) = (0, 0, 0, 0, 0);
    }
}

/// What one thread knows, or all of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// By phase, and by cohort within it.
    pub(crate) slots: Vec<Slot>,
    pub(crate) opening: Opening,
    /// The same of connections that were opened again in a phase that begins with that.
    pub(crate) reopening: BTreeMap<usize, Opening>,
    /// The one that is under way. What is sent over the wire is over, and has none.
    #[serde(skip, default = "Interval::new")]
    pub(crate) interval: Interval,
    pub(crate) errors: BTreeMap<Cow<'static, str>, Errors>,
    /// Connections that did not end by our own will, or never began.
    pub(crate) failed: u64,
    /// The longest latency so far, warm-up and wrong replies included.
    pub(crate) longest: Nanos,
    /// Replies to what was given up.
    pub(crate) late: u64,
    /// Second replies to the same message.
    pub(crate) duplicates: u64,
    /// Messages that came to a receiver and are nobody's, or came after a later one of the same sender.
    pub(crate) stray: u64,
    /// When the last reply came that was measured.
    pub(crate) last: Nanos,
    /// How often memory was allocated while it was measured, in a build that counts.
    pub(crate) allocations: u64,
}

impl Record {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| Slot::new()).collect(),
            opening: Opening::new(),
            reopening: BTreeMap::new(),
            interval: Interval::new(),
            errors: BTreeMap::new(),
            failed: 0,
            longest: 0,
            late: 0,
            duplicates: 0,
            stray: 0,
            last: 0,
            allocations: 0,
        }
    }

    /// The same with the memory there that messages need, in the slots that will be used.
    pub(crate) fn brought(slots: usize, is_used: impl Fn(usize) -> bool) -> Self {
        let mut record = Self::new(slots);
        for (_, slot) in record.slots.iter_mut().enumerate().filter(|(index, _)| is_used(*index)) {
            [&mut slot.response, &mut slot.service, &mut slot.lag].into_iter().for_each(bring);
        }
        record.interval = Interval::brought();
        record
    }

    /// Where a connection's opening is counted: with those of the phase that has opened all again, or the first ones.
    pub(crate) fn opening_of(&mut self, storm: Option<usize>) -> &mut Opening {
        match storm {
            Some(phase) => self.reopening.entry(phase).or_insert_with(Opening::new),
            None => &mut self.opening,
        }
    }

    /// A message with an intended time was sent.
    #[inline]
    pub(crate) fn sent_as_planned(&mut self, flight: &Flight) {
        let slot = &mut self.slots[usize::from(flight.slot)];
        slot.ledger.sent += 1;
        self.interval.sent += 1;
    }

    /// It was our turn to send a message that was to be sent at `intended`.
    #[inline]
    pub(crate) fn lag(&mut self, intended: Nanos, now: Nanos, slot: u16) {
        let lag = if is_broken(Break::HideLag) { 0 } else { now.saturating_sub(intended) };
        self.slots[usize::from(slot)].lag.saturating_record(lag);
        self.interval.lag_max = self.interval.lag_max.max(lag);
    }

    /// The right replies to `count` messages that were sent together have come `now`.
    #[inline]
    pub(crate) fn answered(&mut self, flight: &Flight, count: u64, now: Nanos, until: Nanos, is_open: bool) {
        let service = now.saturating_sub(flight.sent);
        let slot = &mut self.slots[usize::from(flight.slot)];
        slot.ledger.answered += count;
        slot.ledger.in_time += if now <= until { count } else { 0 };
        slot.service.saturating_record_n(service, count);
        let latency = if is_open {
            let since = if is_broken(Break::FromSend) { flight.sent } else { flight.intended };
            let response = now.saturating_sub(since);
            slot.response.saturating_record_n(response, count);
            response
        } else {
            service
        };
        self.interval.latency.saturating_record_n(latency, count);
        self.interval.answered += count;
        self.longest = self.longest.max(latency);
        self.last = now;
    }

    /// An idle connection's one message was answered.
    pub(crate) fn idle_answered(&mut self, flight: &Flight, now: Nanos) {
        let slot = &mut self.slots[usize::from(flight.slot)];
        slot.ledger.answered += 1;
        slot.service.saturating_record(now.saturating_sub(flight.sent));
    }

    /// A reply that was not the right one.
    pub(crate) fn wrong(&mut self, flight: &Flight, now: Nanos, wrong: crate::fault::Wrong) {
        self.longest = self.longest.max(now.saturating_sub(flight.sent));
        self.slots[usize::from(flight.slot)].ledger.wrong += 1;
        self.error(wrong.kind().into(), &wrong);
    }

    /// A message has waited for its whole time.
    pub(crate) fn timed_out(&mut self, flight: &Flight, now: Nanos, is_open: bool) {
        let slot = &mut self.slots[usize::from(flight.slot)];
        slot.ledger.timed_out += 1;
        slot.waited(flight, now, is_open);
        self.error("timeout".into(), &"no reply within --timeout");
    }

    /// No reply to a message will be waited for any more.
    pub(crate) fn unanswered(&mut self, flight: &Flight, now: Nanos, is_open: bool, is_lost: bool) {
        let slot = &mut self.slots[usize::from(flight.slot)];
        slot.ledger.unanswered += 1;
        slot.waited(flight, now, is_open);
        if is_lost {
            self.error("missing-reply".into(), &"no reply, and later messages were answered");
        }
    }

    /// Messages that were planned and never sent, because their connection had no room, or there was none.
    pub(crate) fn never_sent(&mut self, intended: Nanos, now: Nanos, slot: u16) {
        let slot = &mut self.slots[usize::from(slot)];
        slot.ledger.unanswered += 1;
        slot.censored += 1;
        slot.response.saturating_record(now.saturating_sub(intended));
    }

    /// A connection has failed.
    pub(crate) fn fault(&mut self, fault: &Fault) {
        self.failed += 1;
        self.error(fault.kind(), fault);
    }

    /// A second reply to the same message has come.
    pub(crate) fn duplicate(&mut self, what: &dyn Display) {
        self.duplicates += 1;
        self.error("duplicate-reply".into(), what);
    }

    /// A message has come that should not have, or not now.
    pub(crate) fn stray(&mut self, kind: &'static str, what: &dyn Display) {
        self.stray += 1;
        self.error(kind.into(), what);
    }

    /// Writes the example only the first time: a server that gets everything wrong should not slow us down.
    #[cold]
    pub(crate) fn error(&mut self, kind: Cow<'static, str>, what: &dyn Display) {
        self.interval.errors += 1;
        let errors =
            self.errors.entry(kind).or_insert_with(|| Errors { count: 0, example: what.to_string() });
        errors.count += 1;
    }

    /// How many replies there were, right or wrong.
    pub(crate) fn replies(&self) -> u64 {
        let replies: u64 = self.slots.iter().map(|slot| slot.ledger.answered + slot.ledger.wrong).sum();
        replies + self.late
    }

    /// Adds what another thread knows.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, other) in self.slots.iter_mut().zip(&other.slots) {
            mine.merge(other);
        }
        self.opening.merge(&other.opening);
        for (phase, opening) in &other.reopening {
            self.opening_of(Some(*phase)).merge(opening);
        }
        for (kind, errors) in &other.errors {
            let mine = self
                .errors
                .entry(kind.clone())
                .or_insert_with(|| Errors { count: 0, example: errors.example.clone() });
            mine.count += errors.count;
        }
        self.failed += other.failed;
        self.late += other.late;
        self.duplicates += other.duplicates;
        self.stray += other.stray;
        self.longest = self.longest.max(other.longest);
        self.last = self.last.max(other.last);
        self.allocations += other.allocations;
    }
}

impl Slot {
    fn waited(&mut self, flight: &Flight, now: Nanos, is_open: bool) {
        if is_broken(Break::DropUnanswered) {
            return;
        }
        self.censored += 1;
        self.service.saturating_record(now.saturating_sub(flight.sent));
        if is_open {
            self.response.saturating_record(now.saturating_sub(flight.intended));
        }
    }
}

/// A percentile, unless fewer than ten samples lie beyond it: then it would be hearsay.
pub(crate) fn percentile(histogram: &Times, percent: f64) -> Option<Nanos> {
    let beyond = histogram.len() as f64 * (100.0 - percent) / 100.0;
    // 1000 samples have ten beyond p99, whatever the floating point says.
    (beyond + 1e-6 >= BEYOND_MIN).then(|| histogram.value_at_percentile(percent))
}

const BEYOND_MIN: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Wrong;

    #[test]
    fn a_percentile_needs_ten_samples_beyond_it() {
        let mut times = times();
        for count in 1..=10_000 {
            times.record(count * 1000).unwrap();
            let has = |percent| percentile(&times, percent).is_some();
            assert_eq!(
                [has(50.0), has(90.0), has(99.0), has(99.9)],
                [count >= 20, count >= 100, count >= 1000, count >= 10_000],
                "{count}"
            );
        }
    }

    fn flight(intended: Nanos, sent: Nanos, slot: u16) -> Flight {
        Flight { intended, sent, slot }
    }

    #[test]
    fn every_message_is_in_its_ledger_and_the_merged_are_the_sum() {
        let mut record = Record::new(2);
        record.slots[0].ledger.planned = 1;
        record.slots[1].ledger.planned = 5;
        record.answered(&flight(100, 150, 1), 1, 350, 1000, true);
        record.wrong(&flight(100, 150, 1), 1100, Wrong::Length(3));
        record.unanswered(&flight(100, 120, 1), 5100, true, true);
        record.timed_out(&flight(100, 120, 1), 2100, true);
        record.never_sent(100, 5100, 1);
        record.answered(&flight(0, 0, 0), 1, 50, 10, true);
        let ledger = record.slots[1].ledger;
        assert_eq!((ledger.answered, ledger.in_time, ledger.errors(), ledger.unanswered), (1, 1, 2, 2));
        assert!(record.slots.iter().all(|slot| slot.ledger.is_balanced()));
        assert_eq!(record.slots[0].ledger.in_time, 0);
        // The unanswered are in the histograms, with what they have waited; the wrong one is not.
        let slot = &record.slots[1];
        assert_eq!((slot.response.len(), slot.service.len(), slot.censored), (4, 3, 3));
        assert_eq!(slot.response.value_at_percentile(100.0) / 10, 500);
        assert_eq!((record.errors["missing-reply"].count, record.longest), (1, 950));

        let mut sum = record.clone();
        sum.fault(&Fault::Ended);
        sum.merge(&record);
        assert_eq!((sum.slots[1].response.len(), sum.replies(), sum.failed), (8, 6, 1));
        assert_eq!(sum.errors["wrong-length"].count, 2);
        assert_eq!(sum.errors["connection-ended"].count, 1);
    }

    /// T10: what is split over eight histograms and merged is the same, count by count.
    #[test]
    fn merged_is_single_count_by_count() {
        let mut random = crate::content::Random::new(7);
        let mut single = times();
        let mut parts: Vec<Times> = (0..8).map(|_| times()).collect();
        for index in 0..100_000 {
            // From 1 ns to an hour, as often in each power of two.
            let value = (random.next() >> (random.next() % 42 + 22)).clamp(1, LONGEST);
            single.record(value).unwrap();
            parts[index % 8].record(value).unwrap();
        }
        let mut merged = times();
        parts.iter().for_each(|part| merge_times(&mut merged, part));
        assert_eq!(merged, single);
        let counts = |times: &Times| -> Vec<_> {
            times.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect()
        };
        assert_eq!(counts(&merged), counts(&single));
    }
}
