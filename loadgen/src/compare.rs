//! Two runs beside each other, and several logs added up.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hdrhistogram::serialization::{
    Deserializer, V2DeflateSerializer,
    interval_log::{IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag},
};

use crate::{
    content::Random,
    record::{Times, times},
    report,
    stats::{Blocks, middle},
    units::short,
};

/// For each percentile, the second result against the first, with a 95 % interval of the difference by the block bootstrap.
///
/// "Different" takes both: an interval without 0, and a change of at least `practical` percent.
pub(crate) fn compare(results: &[PathBuf], practical: f64) -> io::Result<String> {
    let [a, b] = [&results[0], &results[1]].map(|path| report::read(path).map_err(io::Error::other));
    let (a, b) = (a?, b?);
    for (path, read) in results.iter().zip([&a, &b]) {
        let verdict = read.value["verdict"].as_str().unwrap_or("?");
        if verdict != "VALID" && verdict != "DEGRADED" {
            return Err(io::Error::other(format!(
                "{} is {verdict}: its figures say nothing",
                path.display()
            )));
        }
        if read.seconds.len() < SECONDS_MIN {
            return Err(io::Error::other(format!(
                "{} has {} measured seconds; a comparison needs {SECONDS_MIN}",
                path.display(),
                read.seconds.len()
            )));
        }
    }
    for key in ["scenario", "kind", "loop", "rate", "connections", "depth", "size", "text"] {
        let (one, other) = (&a.value["plan"][key], &b.value["plan"][key]);
        if one != other {
            return Err(io::Error::other(format!(
                "these runs cannot be compared: {key} is {one} and {other}"
            )));
        }
    }
    let mut out = String::new();
    let blocks = [Blocks::new(&a.seconds), Blocks::new(&b.seconds)];
    let mut random = Random::new(1);
    for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
        let total: [u64; 2] = [&a, &b].map(|read| read.seconds.iter().map(Times::len).sum());
        if total.iter().any(|total| (*total as f64) * (1.0 - quantile) < 10.0) {
            let _ = writeln!(out, "  {name:<6} \u{2013}  too few samples");
            continue;
        }
        let value = |read: &report::Read| {
            let mut sum = times();
            read.seconds.iter().for_each(|second| crate::record::merge_times(&mut sum, second));
            sum.value_at_quantile(quantile)
        };
        let (before, after) = (value(&a), value(&b));
        let mut changes: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let [before, after] = [0, 1].map(|at| blocks[at].draw(quantile, &mut random) as f64);
                (after / before.max(1.0) - 1.0) * 100.0
            })
            .collect();
        changes.sort_unstable_by(f64::total_cmp);
        let (low, high) = middle(&changes);
        let change = (after as f64 / before.max(1) as f64 - 1.0) * 100.0;
        let is_different = (low > 0.0 || high < 0.0) && change.abs() >= practical;
        let verdict = match (is_different, change > 0.0) {
            (false, _) => "no difference",
            (true, true) => "slower",
            (true, false) => "faster",
        };
        let _ = writeln!(
            out,
            "  {name:<6} {:>10} -> {:>10}   {change:+.1} % ({low:+.1} to {high:+.1})   {verdict}",
            short(before),
            short(after)
        );
    }
    out.push_str("  A difference is one that 95 % of resampled runs show, and that is large enough to matter. One pair of runs can\n  still differ by luck of their start: repeat it, in alternation, before you believe it.\n");
    Ok(out)
}

const SECONDS_MIN: usize = 5;
const ROUNDS: usize = 4000;

/// Adds up the histograms of the same name and the same second.
pub(crate) fn merge(logs: &[PathBuf], output: &Path) -> io::Result<String> {
    let mut sums: BTreeMap<(String, u64, u64), Times> = BTreeMap::new();
    for path in logs {
        let wrong = |what: &dyn std::fmt::Display| io::Error::other(format!("{}: {what}", path.display()));
        let log = fs::read(path).map_err(|error| wrong(&error))?;
        let mut count = 0;
        for entry in IntervalLogIterator::new(&log) {
            let LogEntry::Interval(interval) = entry.map_err(|_| wrong(&"this is no HdrHistogram log"))?
            else {
                continue;
            };
            let bytes = STANDARD.decode(interval.encoded_histogram()).map_err(|error| wrong(&error))?;
            let read: Times =
                Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(|error| wrong(&error))?;
            if read.sigfig() != times().sigfig() {
                return Err(wrong(&"its histograms have another precision"));
            }
            let tag = interval.tag().map_or("", |tag| tag.as_str()).to_owned();
            let key =
                (tag, interval.start_timestamp().as_millis() as u64, interval.duration().as_millis() as u64);
            sums.entry(key).or_insert_with(times).add(&read).map_err(|error| wrong(&error))?;
            count += 1;
        }
        if count == 0 {
            return Err(wrong(&"it has no histogram"));
        }
    }
    let mut written = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    {
        let failed = |_| io::Error::other("the log cannot be written");
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment(concat!(
                "[merged by loadgen ",
                env!("CARGO_PKG_VERSION"),
                ", values in nanoseconds]"
            ))
            .with_max_value_divisor(1_000_000.0)
            .begin_log_with(&mut written, &mut serializer)?;
        for ((tag, start, length), times) in &sums {
            let (start, length) = (Duration::from_millis(*start), Duration::from_millis(*length));
            log.write_histogram(times, start, length, Tag::new(tag)).map_err(failed)?;
        }
    }
    fs::write(output, written)?;
    let samples: u64 = sums.values().map(Times::len).sum();
    Ok(format!("{} histograms of {} logs, {samples} samples\n", sums.len(), logs.len()))
}
