//! For other tools of the HdrHistogram family: a log of intervals, and the percentile distribution as text.

use std::{fmt::Write as _, time::Duration};

use hdrhistogram::serialization::{
    V2DeflateSerializer,
    interval_log::{IntervalLogWriterBuilder, Tag},
};

use super::Report;
use crate::record::Times;

impl Report {
    /// One line for each second, tagged `latency`, then one for each histogram of the whole run, tagged with its name.
    pub(super) fn hlog(&self) -> String {
        let mut out = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let began = self.finished.began;
        {
            let mut log = IntervalLogWriterBuilder::new()
                .add_comment(concat!("[loadgen ", env!("CARGO_PKG_VERSION"), ", values in nanoseconds]"))
                .with_start_time(began)
                .with_base_time(began)
                .with_max_value_divisor(1_000_000.0)
                .begin_log_with(&mut out, &mut serializer)
                .expect("memory takes what is written");
            let mut write = |times: &Times, from: u64, length: Duration, tag: &str| {
                let tag = Tag::new(tag).expect("names have no commas and no spaces");
                log.write_histogram(times, Duration::from_secs(from), length, Some(tag))
                    .expect("memory takes what is written");
            };
            for second in self.finished.seconds.iter().filter(|second| second.is_measured) {
                write(&second.latency.times(), second.second, Duration::from_secs(1), "latency");
            }
            for (name, times) in self.histograms() {
                if !times.is_empty() {
                    write(times, 0, self.finished.measured, &name);
                }
            }
        }
        String::from_utf8(out).expect("the log is text")
    }
}

/// The percentile distribution, in milliseconds, as `HistogramLogProcessor` and `hdr-plot` write and read it.
pub(super) fn hgrm(times: &Times) -> String {
    let mut out = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let milliseconds = |value: f64| value / 1e6;
    let mut total = 0;
    for value in times.iter_quantiles(5) {
        total += value.count_since_last_iteration();
        let quantile = value.quantile_iterated_to();
        let _ = write!(
            out,
            "{:12.6} {quantile:14.12} {total:10}",
            milliseconds(value.value_iterated_to() as f64)
        );
        let _ =
            if quantile < 1.0 { writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(out) };
    }
    let _ = writeln!(
        out,
        "#[Mean    = {:12.6}, StdDeviation   = {:12.6}]\n#[Max     = {:12.6}, Total count    = {:12}]\n#[Buckets = {:12}, SubBuckets     = {:12}]",
        milliseconds(times.mean()),
        milliseconds(times.stdev()),
        milliseconds(times.max() as f64),
        times.len(),
        times.buckets(),
        2048
    );
    out
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    };
    use std::sync::Arc;

    use super::*;
    use crate::{
        plan::{What, tests::plan},
        report::tests::{finished, second},
    };

    #[test]
    fn the_log_is_read_back_as_it_was() {
        let plan = plan(What::Echo, 1);
        let mut finished = finished(&plan);
        finished.seconds = vec![second(0, 100), second(1, 50)];
        finished.record.slots[0].service.record_n(5000, 150).unwrap();
        let log = Report::new(Arc::new(plan), finished).hlog();
        let mut counts = Vec::new();
        for entry in IntervalLogIterator::new(log.as_bytes()) {
            let Ok(LogEntry::Interval(interval)) = entry else { continue };
            let bytes = base64::Engine::decode(
                &base64::engine::general_purpose::STANDARD,
                interval.encoded_histogram(),
            )
            .unwrap();
            let times: Times = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
            counts.push((interval.tag().unwrap().as_str().to_owned(), times.len()));
        }
        let named = |name: &str, count| (name.to_owned(), count);
        assert_eq!(counts, [named("latency", 100), named("latency", 50), named("run/service", 150)]);
    }

    #[test]
    fn a_distribution_ends_with_all_of_it() {
        let mut times = crate::record::times();
        (1..=1000).for_each(|value| times.record(value * 1_000_000).unwrap());
        let text = hgrm(&times);
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        assert!(last.contains(" 1.000000000000") && last.trim_end().ends_with("1000"), "{last}");
        assert!(text.contains("Total count    =         1000"), "{text}");
    }
}
