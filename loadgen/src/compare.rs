//! Two runs beside each other, and several logs added up.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hdrhistogram::serialization::{
    V2DeflateSerializer,
    interval_log::{IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag},
};

use crate::{
    content::Random,
    record::{Packed, Times, text, times},
    report,
    stats::{Blocks, middle},
    units::{Nanos, short},
};

/// For each percentile, the later results against the first, with an interval of the difference by the block bootstrap.
///
/// "Different" takes both: an interval without 0, and a change of at least `practical` percent.
pub(crate) fn compare(results: &[PathBuf], practical: f64) -> io::Result<String> {
    let (first, others) = results.split_first().expect("the command line has two at least");
    let mut out = String::new();
    for other in others {
        if others.len() > 1 {
            out += &format!("{} -> {}\n", first.display(), other.display());
        }
        out += &compare_two(first, other, practical)?;
    }
    out.push_str("  A difference is one that 95 % of resampled runs show, and that is large enough to matter. One pair of runs can\n  still differ by luck of their start: `loadgen ab` repeats it in alternation.\n");
    Ok(out)
}

fn compare_two(first: &Path, second: &Path, practical: f64) -> io::Result<String> {
    let [a, b] = [first, second].map(|path| report::read(path).map_err(io::Error::other));
    let (a, b) = (a?, b?);
    for (path, read) in [(first, &a), (second, &b)] {
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
    for key in [
        "scenario",
        "kind",
        "description",
        "loop",
        "rate",
        "arrival",
        "connections",
        "idle",
        "depth",
        "sizes",
        "text",
        "verify",
        "secure",
        "options",
        "threads",
    ] {
        let (one, other) = (&a.value["plan"][key], &b.value["plan"][key]);
        if one != other {
            return Err(io::Error::other(format!(
                "these runs cannot be compared: {key} is {one} and {other}"
            )));
        }
    }
    let changes = changes(&[a.seconds], &[b.seconds], practical, ROUNDS);
    let mut out = changes.iter().map(Change::line).collect::<String>();
    out.push_str(conclusion(&changes));
    Ok(out)
}

/// What all percentiles together say.
pub(crate) fn conclusion(changes: &[Change]) -> &'static str {
    if changes.iter().all(|change| matches!(change.said, Said::Same | Said::TooFew)) {
        "  no difference\n"
    } else {
        "  different\n"
    }
}

/// How a percentile has changed.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) name: &'static str,
    pub(crate) before: Nanos,
    pub(crate) after: Nanos,
    /// In percent, and between what it lies.
    pub(crate) change: f64,
    pub(crate) interval: (f64, f64),
    pub(crate) said: Said,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Same,
    Slower,
    Faster,
    /// The percentile has too few samples beyond it.
    TooFew,
}

impl Said {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Same => "no difference",
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::TooFew => "too few samples",
        }
    }
}

impl Change {
    /// A line for people.
    pub(crate) fn line(&self) -> String {
        let Self { name, before, after, change, interval: (low, high), said } = self;
        if *said == Said::TooFew {
            return format!("  {name:<6} \u{2013}  too few samples\n");
        }
        format!(
            "  {name:<6} {:>10} -> {:>10}   {change:+.1} % ({low:+.1} to {high:+.1})   {}\n",
            short(*before),
            short(*after),
            said.name()
        )
    }
}

const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// The second side against the first. Each side is runs, a run is its seconds; with several runs the n-th of one side
/// belongs to the n-th of the other.
pub(crate) fn changes(a: &[Vec<Packed>], b: &[Vec<Packed>], practical: f64, rounds: usize) -> Vec<Change> {
    let sum = |side: &[Vec<Packed>]| {
        let mut sum = times();
        side.iter().flatten().for_each(|second| crate::record::merge_times(&mut sum, &second.times()));
        sum
    };
    let (whole_a, whole_b) = (sum(a), sum(b));
    let blocks = |side: &[Vec<Packed>]| -> Vec<Blocks> { side.iter().map(|run| Blocks::new(run)).collect() };
    let (blocks_a, blocks_b) = (blocks(a), blocks(b));
    let quantiles = PERCENTILES.map(|(_, quantile)| quantile);
    let mut random = Random::new(1);
    let runs = a.len().min(b.len());
    // By percentile: what came out in each round.
    let mut drawn: Vec<Vec<f64>> = vec![Vec::with_capacity(rounds); quantiles.len()];
    for _ in 0..rounds {
        let mut sums = [[0.0_f64; 2]; PERCENTILES.len()];
        for at in 0..runs {
            // A run is a sample of its own: what one start has to itself is not in its seconds.
            let run = if runs > 1 { (random.next() % runs as u64) as usize } else { at };
            let one = blocks_a[run].draw(&quantiles, &mut random);
            let other = blocks_b[run].draw(&quantiles, &mut random);
            for (sum, (one, other)) in sums.iter_mut().zip(one.iter().zip(&other)) {
                sum[0] += (*one).max(1) as f64;
                sum[1] += *other as f64;
            }
        }
        for (drawn, [before, after]) in drawn.iter_mut().zip(sums) {
            drawn.push((after / before - 1.0) * 100.0);
        }
    }
    // All percentiles together are wrong once in twenty, not each of them.
    let part = 1.0 - 0.05 / PERCENTILES.len() as f64;
    // As Student has it: few samples know too little of how far they spread.
    let samples = if runs > 1 { runs as f64 } else { blocks_a[0].blocks().min(blocks_b[0].blocks()) };
    let widening = 1.0 + 2.5 / samples;
    let mut changes = Vec::new();
    for ((name, quantile), mut drawn) in PERCENTILES.into_iter().zip(drawn) {
        let (before, after) = (whole_a.value_at_quantile(quantile), whole_b.value_at_quantile(quantile));
        let change = (after as f64 / before.max(1) as f64 - 1.0) * 100.0;
        drawn.sort_unstable_by(f64::total_cmp);
        let (low, high) = middle(&drawn, part);
        let centre = drawn[drawn.len() / 2];
        let interval = (centre - (centre - low) * widening, centre + (high - centre) * widening);
        let is_too_few =
            [&whole_a, &whole_b].iter().any(|whole| whole.len() as f64 * (1.0 - quantile) < 10.0);
        let is_different = (interval.0 > 0.0 || interval.1 < 0.0) && change.abs() >= practical;
        let said = match (is_too_few, is_different) {
            (true, _) => Said::TooFew,
            (_, false) => Said::Same,
            _ if change > 0.0 => Said::Slower,
            _ => Said::Faster,
        };
        changes.push(Change { name, before, after, change, interval, said });
    }
    changes
}

const SECONDS_MIN: usize = 5;
pub(crate) const ROUNDS: usize = 2000;

/// Adds up the histograms of the same name and the same second.
pub(crate) fn merge(logs: &[PathBuf], output: &Path) -> io::Result<String> {
    let mut sums: BTreeMap<(String, u64), (Times, Duration)> = BTreeMap::new();
    for path in logs {
        let wrong = |what: &dyn std::fmt::Display| io::Error::other(format!("{}: {what}", path.display()));
        let log = fs::read(path).map_err(|error| wrong(&error))?;
        let mut count = 0;
        for entry in IntervalLogIterator::new(&log) {
            let LogEntry::Interval(interval) = entry.map_err(|_| wrong(&"this is no HdrHistogram log"))?
            else {
                continue;
            };
            let read = text::read(interval.encoded_histogram()).map_err(|error| wrong(&error))?;
            let tag = interval.tag().map_or("", |tag| tag.as_str()).to_owned();
            // Runs of the same plan are not of the same length to the millisecond: what begins together is one.
            let key = (tag, interval.start_timestamp().as_millis() as u64);
            let (sum, length) = sums.entry(key).or_insert_with(|| (times(), Duration::ZERO));
            sum.add(&read).map_err(|error| wrong(&error))?;
            *length = interval.duration().max(*length);
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
        for ((tag, start), (times, length)) in &sums {
            log.write_histogram(times, Duration::from_millis(*start), *length, Tag::new(tag))
                .map_err(failed)?;
        }
    }
    fs::write(output, written)?;
    let samples: u64 = sums.values().map(|(times, _)| times.len()).sum();
    Ok(format!("{} histograms of {} logs, {samples} samples\n", sums.len(), logs.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of so many seconds: lognormal times, in seconds that are sometimes slower and hang together, as on a machine
    /// that others use, too.
    fn run(random: &mut Random, seconds: usize, added: f64) -> Vec<Packed> {
        let mut uniform = || ((random.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let mut normal = move || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        let mut drift = 0.0;
        let mut second = || {
            drift = 0.5 * drift + 0.03 * normal();
            let mut times = times();
            for _ in 0..300 {
                let time = 1e6 * (drift + 0.3 * normal()).exp() + added;
                times.saturating_record(time as Nanos);
            }
            Packed::new(&times)
        };
        (0..seconds).map(|_| second()).collect()
    }

    /// T18, with runs that were made up, of which the truth is known.
    #[test]
    fn the_same_twice_is_no_difference_and_a_tenth_more_is_one() {
        let mut random = Random::new(18);
        let mut differ = |count: usize, added: f64| {
            (0..count)
                .filter(|_| {
                    let (a, b) = (run(&mut random, 30, 0.0), run(&mut random, 30, added));
                    changes(&[a], &[b], 2.0, 200).iter().any(|change| change.said == Said::Slower)
                })
                .count()
        };
        let (same, more) = (differ(40, 0.0), differ(20, 100_000.0));
        assert!(same <= 5, "{same} of 40 A/A pairs differ");
        assert!(more >= 19, "{more} of 20 pairs with a tenth more differ");
    }

    #[test]
    fn pairs_of_runs_are_compared_as_pairs() {
        let mut random = Random::new(5);
        let mut runs = |added| -> Vec<Vec<Packed>> { (0..6).map(|_| run(&mut random, 10, added)).collect() };
        let (a, same, slower) = (runs(0.0), runs(0.0), runs(200_000.0));
        assert_eq!(conclusion(&changes(&a, &same, 2.0, 200)), "  no difference\n");
        let found = changes(&a, &slower, 2.0, 200);
        assert_eq!((found[0].name, found[0].said), ("p50", Said::Slower));
        assert!((15.0..25.0).contains(&found[0].change), "{:?}", found[0]);
        assert!(found[0].line().contains("slower"));
    }

    #[test]
    fn merged_logs_are_count_by_count() {
        let folder = std::env::temp_dir().join(format!("loadgen-merge-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        // T10: from 1 ns to an hour, split over eight histograms in three logs.
        let values: Vec<Nanos> =
            (0..8000).map(|at| (1.0035_f64.powi(at) as Nanos).clamp(1, 3_600_000_000_000)).collect();
        let mut single = times();
        values.iter().for_each(|value| single.record(*value).unwrap());
        let parts: Vec<Times> = (0..8)
            .map(|part| {
                let mut times = times();
                values.iter().skip(part).step_by(8).for_each(|value| times.record(*value).unwrap());
                times
            })
            .collect();
        let logs: Vec<PathBuf> = (0..3).map(|log| folder.join(format!("{log}.hlog"))).collect();
        for (at, path) in logs.iter().enumerate() {
            let mut written = Vec::new();
            let mut serializer = V2DeflateSerializer::new();
            let mut log =
                IntervalLogWriterBuilder::new().begin_log_with(&mut written, &mut serializer).unwrap();
            for part in parts.iter().skip(at).step_by(3) {
                log.write_histogram(part, Duration::ZERO, Duration::from_secs(1), Tag::new("a")).unwrap();
            }
            fs::write(path, written).unwrap();
        }
        let output = folder.join("all.hlog");
        let said = merge(&logs, &output).unwrap();
        assert!(said.contains("3 logs") && said.contains("8000 samples"), "{said}");
        let merged = fs::read(&output).unwrap();
        let entry = IntervalLogIterator::new(&merged).find_map(|entry| match entry {
            Ok(LogEntry::Interval(interval)) => Some(interval),
            _ => None,
        });
        let merged = text::read(entry.unwrap().encoded_histogram()).unwrap();
        assert_eq!(merged, single);
        let (p999, true_one) = (merged.value_at_quantile(0.999) as f64, values[7991] as f64);
        assert!((p999 / true_one - 1.0).abs() < 0.005, "{p999} {true_one}");
        fs::remove_dir_all(folder).unwrap();
    }
}
