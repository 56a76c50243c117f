//! What came out, for people and for programs, and the verdict that both begin with.

use std::{fmt, fmt::Write as _, sync::Arc, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{
    plan::{Plan, What},
    record::{Ledger, Nanos, percentile},
    worker::Finished,
};

/// A run and its plan.
pub(crate) struct Report {
    plan: Arc<Plan>,
    finished: Finished,
    verdict: Verdict,
}

/// Whether the run was good, in a line.
pub(crate) struct Verdict {
    /// Why not; empty for a good run.
    problems: Vec<String>,
    answered: u64,
    is_interrupted: bool,
}

impl Verdict {
    fn new(plan: &Plan, finished: &Finished) -> Self {
        let record = &finished.record;
        let (measured, warmup) = (&record.measured, &record.warmup);
        let mut problems = Vec::new();
        let mut count = |count: u64, one: &str, many: &str| {
            if count > 0 {
                problems.push(format!("{} {}", grouped(count), if count == 1 { one } else { many }));
            }
        };
        count(record.failed, "connection failed", "connections failed");
        count(measured.wrong + warmup.wrong, "reply was wrong", "replies were wrong");
        count(measured.unanswered + warmup.unanswered, "message is unanswered", "messages are unanswered");
        if measured.answered == 0 {
            problems.push("nothing was measured".into());
        } else if let Some(requests) = plan.requests
            && plan.duration.is_none()
            && !finished.is_interrupted
            && measured.sent < requests
        {
            problems.push(format!(
                "only {} of {} messages were sent",
                grouped(measured.sent),
                grouped(requests)
            ));
        }
        if !(measured.is_balanced() && warmup.is_balanced()) {
            problems.push("the books do not balance, which is a bug of loadgen".into());
        }
        Self { problems, answered: measured.answered, is_interrupted: finished.is_interrupted }
    }

    /// Whether every message was answered rightly, and there were some.
    pub(crate) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_good() {
            write!(f, "GOOD: {} messages answered, every reply verified", grouped(self.answered))?;
        } else {
            write!(f, "FAILED: {}", self.problems.join(", "))?;
        }
        if self.is_interrupted { f.write_str(" (interrupted)") } else { Ok(()) }
    }
}

/// What is about to run.
pub(crate) fn heading(plan: &Plan) -> String {
    let plural =
        |count: u64, what: &str| format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" });
    let kind = match plan.what {
        What::WebSocket { text: false } => "binary messages over websocket",
        What::WebSocket { text: true } => "text messages over websocket",
        What::Echo => "messages over a raw echo",
    };
    let mut limit: Vec<String> = Vec::new();
    limit.extend(plan.duration.map(|duration| humantime::format_duration(duration).to_string()));
    limit.extend(plan.requests.map(|requests| plural(requests, "message")));
    format!(
        "loadgen {}  {}\n  {} of {}, {} with {} in flight each, {}\n  {} after {} of warm-up, closed loop, seed {}",
        env!("CARGO_PKG_VERSION"),
        plan.url,
        kind,
        plural(plan.size as u64, "byte"),
        plural(plan.connections.into(), "connection"),
        plan.depth,
        plural(plan.threads.into(), "thread"),
        limit.join(" or "),
        humantime::format_duration(plan.warmup),
        plan.seed,
    )
}

impl Report {
    pub(crate) fn new(plan: Arc<Plan>, finished: Finished) -> Self {
        let verdict = Verdict::new(&plan, &finished);
        Self { plan, finished, verdict }
    }

    pub(crate) fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// For people: what is not known is a dash.
    pub(crate) fn text(&self) -> String {
        let Finished { record, measured, driver, opened, server, .. } = &self.finished;
        let ledger = &record.measured;
        let mut out = format!("\n{}\n\n", self.verdict);
        let mut line = |name: &str, text: &str| {
            let _ = writeln!(out, "  {name:<12}{text}");
        };
        line(
            "messages",
            &match (self.rate(), self.throughput()) {
                (Some(rate), Some(throughput)) => format!(
                    "{} answered in {:.2} s   {}/s   {throughput:.2} MiB/s each way",
                    grouped(ledger.answered),
                    measured.as_secs_f64(),
                    grouped(rate.round() as u64),
                ),
                _ => "none".to_owned(),
            },
        );
        let waited = match record.waited {
            0 => String::new(),
            waited => format!("   the oldest was given up after {}", short(waited)),
        };
        line("unanswered", &(grouped(ledger.unanswered) + &waited));
        line("wrong", &grouped(ledger.wrong));
        if record.warmup.wrong + record.warmup.unanswered > 0 {
            let Ledger { sent, wrong, unanswered, .. } = record.warmup;
            line("warm-up", &format!("{} sent, {wrong} wrong, {unanswered} unanswered", grouped(sent)));
        }
        line(
            "connections",
            &format!(
                "{} of {} opened, {} failed   on {driver}",
                grouped((*opened).into()),
                grouped(self.plan.connections.into()),
                grouped(record.failed)
            ),
        );
        if let Some(server) = server
            && let Some(cpu) = server.cpu_per_message()
        {
            let cpu = grouped(cpu.round() as u64);
            line("server", &format!("{cpu} ns of CPU for a message   {:.2} of a core", server.cores()));
        }
        for (kind, errors) in &record.errors {
            line("error", &format!("{} \u{d7} {kind}: {}", grouped(errors.count), errors.example));
        }
        let _ = write!(out, "\n  {:<10}", "");
        for heading in ["p50", "p90", "p99", "p99.9", "max", "mean"] {
            let _ = write!(out, "{heading:>10}");
        }
        out.push('\n');
        for (name, histogram) in [("latency", &record.latency), ("handshake", &record.handshake)] {
            let _ = write!(out, "  {name:<10}");
            for value in PERCENTILES.map(|(_, percent)| percentile(histogram, percent)) {
                let _ = write!(out, "{:>10}", value.map_or_else(|| DASH.into(), short));
            }
            let some = |value: Nanos| if histogram.is_empty() { DASH.into() } else { short(value) };
            let _ = writeln!(out, "{:>10}{:>10}", some(histogram.max()), some(histogram.mean() as Nanos));
        }
        out.push_str(NOTE);
        out
    }

    /// For programs: what is not known is `null`, times are in nanoseconds.
    pub(crate) fn json(&self) -> Value {
        let Finished { record, measured, driver, opened, server, is_interrupted } = &self.finished;
        let plan = &self.plan;
        let seconds = |time: Duration| time.as_secs_f64();
        json!({
            "loadgen": env!("CARGO_PKG_VERSION"),
            "good": self.verdict.is_good(),
            "problems": self.verdict.problems,
            "interrupted": is_interrupted,
            "plan": {
                "scenario": match plan.what { What::WebSocket { .. } => "ws", What::Echo => "echo" },
                "url": plan.url.to_string(),
                "loop": "closed",
                "connections": plan.connections,
                "depth": plan.depth,
                "size": plan.size,
                "text": plan.is_text(),
                "threads": plan.threads,
                "duration_s": plan.duration.map(seconds),
                "requests": plan.requests,
                "warmup_s": seconds(plan.warmup),
                "seed": plan.seed,
            },
            "driver": driver.to_string(),
            "measured_s": seconds(*measured),
            "messages": ledger_json(&record.measured),
            "warmup": ledger_json(&record.warmup),
            "rate": self.rate(),
            "mib_per_s_each_way": self.throughput(),
            "server": server.map(|server| json!({
                "time_s": seconds(Duration::from_nanos(server.time)),
                "replies": server.replies,
                "cpu_ns": server.cpu,
                "cpu_ns_per_message": server.cpu_per_message(),
                "cores": server.cores(),
            })),
            "connections": { "wanted": plan.connections, "opened": opened, "failed": record.failed },
            "errors": record.errors.iter()
                .map(|(kind, errors)| json!({ "kind": kind, "count": errors.count, "example": errors.example }))
                .collect::<Vec<_>>(),
            "unanswered_oldest_ns": (record.waited > 0).then_some(record.waited),
            "latency_ns": histogram_json(&record.latency),
            "handshake_ns": histogram_json(&record.handshake),
        })
    }

    /// Messages answered a second.
    fn rate(&self) -> Option<f64> {
        let seconds = self.finished.measured.as_secs_f64();
        (seconds > 0.0).then(|| self.finished.record.measured.answered as f64 / seconds)
    }

    /// Payload in one direction; the other has the same.
    fn throughput(&self) -> Option<f64> {
        self.rate().map(|rate| rate * self.plan.size as f64 / f64::from(1 << 20))
    }
}

const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];
const DASH: &str = "\u{2013}";
const NOTE: &str = "
  Latency is from a message's write to its whole reply; \u{2013} stands where fewer than 10 samples lie beyond.
  Closed loop: while the server stalls nothing new is sent, so stalls are under-counted (coordinated omission).
";

fn ledger_json(ledger: &Ledger) -> Value {
    json!({
        "sent": ledger.sent,
        "answered": ledger.answered,
        "errors": ledger.wrong,
        "unanswered": ledger.unanswered,
    })
}

fn histogram_json(histogram: &Histogram<u64>) -> Value {
    let mut object = json!({ "count": histogram.len(), "max": null, "mean": null });
    for (name, percent) in PERCENTILES {
        object[name] = percentile(histogram, percent).into();
    }
    if !histogram.is_empty() {
        object["max"] = histogram.max().into();
        object["mean"] = histogram.mean().into();
    }
    object
}

/// Digits in threes: `1 234 567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Three digits and a unit: `1.23 ms`.
fn short(time: Nanos) -> String {
    let (value, unit) = match time {
        0..1_000 => return format!("{time} ns"),
        1_000..999_500 => (time as f64 / 1e3, "\u{b5}s"),
        999_500..999_500_000 => (time as f64 / 1e6, "ms"),
        _ => (time as f64 / 1e9, "s"),
    };
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use switchpoint::Driver;

    use super::*;
    use crate::{fault::Wrong, plan::tests::plan, record::Record};

    fn report(fill: impl FnOnce(&mut Record)) -> Report {
        let mut record = Record::new();
        fill(&mut record);
        let plan =
            Plan { requests: None, duration: Some(Duration::from_secs(1)), ..plan(What::Echo, 1 << 20) };
        let measured = Duration::from_secs(2);
        Report::new(
            Arc::new(plan),
            Finished {
                record,
                opened: 7,
                measured,
                driver: Driver::Epoll,
                server: None,
                is_interrupted: false,
            },
        )
    }

    fn answer(record: &mut Record, count: usize) {
        record.sent(count, true);
        (0..count).for_each(|_| record.reply(0, 1500, true, Ok(())));
    }

    #[test]
    fn a_good_run_says_how_fast_it_was() {
        let report = report(|record| answer(record, 1000));
        let text = report.text();
        assert!(report.verdict().is_good());
        assert!(text.contains("GOOD: 1 000 messages answered"), "{text}");
        assert!(text.contains("500/s   500.00 MiB/s"), "{text}");
        let latency = text.lines().find(|line| line.contains("latency")).unwrap();
        assert_eq!(latency.matches("1.50 \u{b5}s").count(), 5, "{latency}");
        assert_eq!(latency.matches(DASH).count(), 1, "no p99.9 of 1000 samples: {latency}");
        assert_eq!(report.json()["latency_ns"]["p99.9"], Value::Null);
        assert_eq!(report.json()["rate"], 500.0);
    }

    #[test]
    fn every_way_to_fail_is_named() {
        let verdict = |fill: &dyn Fn(&mut Record)| {
            let report = report(|record| {
                answer(record, 1);
                fill(record);
            });
            assert!(!report.verdict().is_good());
            report.verdict().to_string()
        };
        assert!(report(|_| {}).verdict().to_string().contains("nothing was measured"));
        let unanswered = verdict(&|record| {
            record.sent(1, false);
            record.unanswered(0, 9, false);
        });
        assert_eq!(unanswered, "FAILED: 1 message is unanswered", "in the warm-up, too");
        let wrong = verdict(&|record| {
            record.sent(2, true);
            (0..2).for_each(|_| record.reply(0, 9, true, Err(Wrong::Type)));
        });
        assert_eq!(wrong, "FAILED: 2 replies were wrong");
        assert!(verdict(&|record| record.fault(&crate::fault::Fault::Ended)).contains("1 connection failed"));
        assert!(verdict(&|record| record.sent(1, true)).contains("books"));
    }

    #[test]
    fn numbers_are_short_and_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
        let times = [0, 999, 1_000, 9_994, 9_996, 99_960, 999_499, 999_500, 12_345_678, 1_500_000_000];
        let expected = [
            "0 ns", "999 ns", "1.00 µs", "9.99 µs", "10.0 µs", "100 µs", "999 µs", "1.00 ms", "12.3 ms",
            "1.50 s",
        ];
        assert_eq!(times.map(short), expected);
    }
}
