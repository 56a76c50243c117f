//! The metrics as text, for a Prometheus server: its own format 0.0.4, or OpenMetrics 1.0 for who asks for it.
//!
//! Every metric has a row in [`FAMILIES`], which docs/metrics.md has to list; nothing can be written that is not there.
//! Labels are of closed sets: protocols that are spoken here and `other`, outcomes, reason codes, cores.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{ProtocolStats, Stats, metrics::Histogram};

/// What is known of a metric besides its values.
#[derive(Debug)]
pub(crate) struct Family {
    /// Without `_total`.
    name: &'static str,
    kind: Kind,
    help: &'static str,
    labels: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, help, labels }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, help, labels }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram, help, labels }
}

/// Every metric there is, in the order in which they are written.
#[rustfmt::skip]
pub(crate) const FAMILIES: &[Family] = &[
    gauge("switchpoint_build_info", &["version", "driver"], "Always 1; the labels say what runs."),
    gauge("switchpoint_ready", &[], "1 while new clients are welcome, 0 from the beginning of a drain."),
    gauge("switchpoint_connections", &["core"], "Connections that are open, switched or not."),
    gauge("switchpoint_sessions", &["core", "protocol"], "Connections, and streams of HTTP/2, that were switched and are open."),
    gauge("switchpoint_core_lag_seconds", &["core"], "The latest that the core has looked after its connections, of the last half minute or more."),
    counter("switchpoint_connections_accepted", &[], "Connections accepted."),
    counter("switchpoint_accept_errors", &[], "Accepts that failed, most of them for want of descriptors."),
    counter("switchpoint_requests", &[], "Requests read."),
    counter("switchpoint_handshakes", &["protocol", "outcome", "reason"], "Requests that asked for an upgrade: switched, refused for a reason, or ignored, that is, answered as if they had not asked."),
    counter("switchpoint_refusals", &["reason"], "Requests that were refused, also those that asked for no upgrade."),
    counter("switchpoint_early_bytes", &[], "Requests for an upgrade that was not made, with bytes behind them: the connection was closed."),
    counter("switchpoint_sessions_ended", &["protocol", "outcome"], "Sessions that have ended."),
    counter("switchpoint_handler_panics", &[], "Handlers that panicked; each cost its own connection."),
    counter("switchpoint_worker_restarts", &[], "Workers that lost their connections to a panic, and began anew."),
    counter("switchpoint_received_bytes", &[], "Bytes received by sessions."),
    counter("switchpoint_sent_bytes", &[], "Bytes sent by sessions."),
    counter("switchpoint_messages_dropped", &[], "WebSocket messages that were not sent because their queue was full."),
    counter("switchpoint_log_lines_dropped", &[], "Log lines that were lost because their destination was slow or full."),
    counter("switchpoint_tls_handshakes", &["resumed"], "Handshakes of TLS that were done: those that went on from an earlier session, and the others."),
    counter("switchpoint_tls_failures", &["reason"], "Handshakes of TLS that failed."),
    gauge("switchpoint_tls_certificate_expiry_timestamp_seconds", &["name"], "When a certificate expires that is shown now, by its first name, in seconds since 1970."),
    histogram("switchpoint_handshake_duration_seconds", &["protocol"], "From the end of a request's head to its 101."),
    histogram("switchpoint_session_duration_seconds", &["protocol"], "How long sessions have lasted that have ended."),
    histogram("switchpoint_message_size_bytes", &["direction"], "WebSocket messages by the size of their payload, uncompressed; one that is taken or sent in parts counts part by part."),
    histogram("switchpoint_queue_depth_bytes", &[], "What a WebSocket had queued when it was about to send."),
    counter("process_cpu_seconds", &[], "CPU time of the process, user and system."),
    gauge("process_resident_memory_bytes", &[], "Memory of the process that is in RAM."),
    gauge("process_virtual_memory_bytes", &[], "Address space of the process."),
    gauge("process_open_fds", &[], "Descriptors that are open."),
    gauge("process_max_fds", &[], "Descriptors that may be open."),
    gauge("process_threads", &[], "Threads of the process."),
    gauge("process_start_time_seconds", &[], "When the process began, in seconds since 1970."),
];

/// Which of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' own, 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What the items of an `Accept` ask for. A `q` is not looked at: who names OpenMetrics can read it.
    pub(crate) fn asked_for<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let mut names = accept.filter_map(|item| item.split(';').next());
        match names.any(|name| name.trim().eq_ignore_ascii_case("application/openmetrics-text")) {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What the text is made of.
pub(crate) struct Facts<'a> {
    pub(crate) version: &'a str,
    pub(crate) driver: &'a str,
    pub(crate) is_ready: bool,
    /// Each core's.
    pub(crate) cores: &'a [Stats],
    pub(crate) log_lines_dropped: u64,
    /// By name, when each certificate expires, in seconds since 1970.
    pub(crate) certificates: BTreeMap<String, f64>,
    pub(crate) process: crate::process::Process,
}

/// Writes all of them.
pub(crate) fn write(facts: &Facts<'_>, format: Format) -> String {
    let mut sum = Stats::default();
    for core in facts.cores {
        sum.merge(core);
    }
    let mut text = Text { out: String::with_capacity(16 << 10), format, families: FAMILIES.iter() };
    text.one("switchpoint_build_info", |out| {
        out.sample(&[("version", facts.version), ("driver", facts.driver)], 1.0);
    });
    text.one("switchpoint_ready", |out| out.sample(&[], f64::from(u8::from(facts.is_ready))));
    let cores: Vec<(String, &Stats)> =
        facts.cores.iter().enumerate().map(|(core, stats)| (core.to_string(), stats)).collect();
    text.one("switchpoint_connections", |out| {
        for (core, stats) in &cores {
            out.sample(&[("core", core)], stats.connections as f64);
        }
    });
    text.one("switchpoint_sessions", |out| {
        for (core, stats) in &cores {
            for (protocol, counted) in &stats.protocols {
                out.sample(&[("core", core), ("protocol", protocol)], counted.sessions as f64);
            }
        }
    });
    text.one("switchpoint_core_lag_seconds", |out| {
        for (core, stats) in &cores {
            out.sample(&[("core", core)], stats.lag.as_secs_f64());
        }
    });
    text.count("switchpoint_connections_accepted", sum.accepted);
    text.count("switchpoint_accept_errors", sum.accept_errors);
    text.count("switchpoint_requests", sum.requests);
    text.one("switchpoint_handshakes", |out| {
        for (protocol, counted) in &sum.protocols {
            let labels =
                |outcome, reason| [("protocol", &**protocol), ("outcome", outcome), ("reason", reason)];
            out.sample(&labels("switched", "none"), counted.switched as f64);
            out.sample(&labels("ignored", "none"), counted.ignored as f64);
            for (reason, count) in &counted.refused {
                out.sample(&labels("refused", reason), *count as f64);
            }
        }
    });
    text.one("switchpoint_refusals", |out| {
        for (reason, count) in &sum.rejections {
            out.sample(&[("reason", reason)], *count as f64);
        }
    });
    text.count("switchpoint_early_bytes", sum.refused_with_early_bytes);
    text.one("switchpoint_sessions_ended", |out| {
        for (protocol, counted) in &sum.protocols {
            for (outcome, count) in &counted.ends {
                out.sample(&[("protocol", protocol), ("outcome", outcome)], *count as f64);
            }
        }
    });
    text.count("switchpoint_handler_panics", sum.panics);
    text.count("switchpoint_worker_restarts", sum.restarts);
    text.count("switchpoint_received_bytes", sum.received);
    text.count("switchpoint_sent_bytes", sum.sent);
    text.count("switchpoint_messages_dropped", sum.messages_dropped);
    text.count("switchpoint_log_lines_dropped", facts.log_lines_dropped);
    text.one("switchpoint_tls_handshakes", |out| {
        out.sample(&[("resumed", "yes")], sum.tls_resumed as f64);
        out.sample(&[("resumed", "no")], (sum.tls_handshakes - sum.tls_resumed) as f64);
    });
    text.one("switchpoint_tls_failures", |out| {
        for (reason, count) in &sum.tls_failures {
            out.sample(&[("reason", reason)], *count as f64);
        }
    });
    text.one("switchpoint_tls_certificate_expiry_timestamp_seconds", |out| {
        for (name, expiry) in &facts.certificates {
            out.sample(&[("name", name)], *expiry);
        }
    });
    let by_protocol = |of: fn(&ProtocolStats) -> &Histogram| {
        let of_each = sum.protocols.iter().map(move |(protocol, counted)| (&**protocol, of(counted)));
        of_each.filter(|(_, histogram)| histogram.count() > 0)
    };
    text.one("switchpoint_handshake_duration_seconds", |out| {
        for (protocol, times) in by_protocol(|counted| &counted.handshake_time) {
            out.histogram(&[("protocol", protocol)], times, MICROS);
        }
    });
    text.one("switchpoint_session_duration_seconds", |out| {
        for (protocol, times) in by_protocol(|counted| &counted.session_time) {
            out.histogram(&[("protocol", protocol)], times, MICROS);
        }
    });
    text.one("switchpoint_message_size_bytes", |out| {
        out.histogram(&[("direction", "in")], &sum.messages_received, 1.0);
        out.histogram(&[("direction", "out")], &sum.messages_sent, 1.0);
    });
    text.one("switchpoint_queue_depth_bytes", |out| out.histogram(&[], &sum.queue_depth, 1.0));
    let process = &facts.process;
    text.one("process_cpu_seconds", |out| out.sample(&[], process.cpu_seconds));
    for (name, value) in [
        ("process_resident_memory_bytes", process.resident_bytes as f64),
        ("process_virtual_memory_bytes", process.virtual_bytes as f64),
        ("process_open_fds", process.open_fds as f64),
        ("process_max_fds", process.max_fds as f64),
        ("process_threads", process.threads as f64),
        ("process_start_time_seconds", process.start_time_seconds),
    ] {
        text.one(name, |out| out.sample(&[], value));
    }
    text.end()
}

/// Times are counted in microseconds, and written in seconds.
const MICROS: f64 = 1e-6;

struct Text {
    out: String,
    format: Format,
    families: std::slice::Iter<'static, Family>,
}

impl Text {
    /// Writes the next family, which is this one.
    fn one(&mut self, name: &str, samples: impl FnOnce(&mut Samples<'_>)) {
        let family = self.families.next().expect("every metric is in the list");
        assert_eq!(family.name, name, "they are written in the list's order");
        let suffix = match (family.kind, self.format) {
            (Kind::Counter, Format::Prometheus) => "_total",
            _ => "",
        };
        let Family { name, kind, help, .. } = family;
        let _ = writeln!(self.out, "# HELP {name}{suffix} {help}");
        let _ = writeln!(self.out, "# TYPE {name}{suffix} {}", kind.name());
        samples(&mut Samples { out: &mut self.out, family });
    }

    fn count(&mut self, name: &str, count: u64) {
        self.one(name, |out| out.sample(&[], count as f64));
    }

    fn end(mut self) -> String {
        assert!(self.families.next().is_none(), "every metric is written");
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}

struct Samples<'a> {
    out: &'a mut String,
    family: &'static Family,
}

impl Samples<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        let suffix = if self.family.kind == Kind::Counter { "_total" } else { "" };
        self.line(suffix, labels, None, value);
    }

    fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram, scale: f64) {
        let mut count = 0;
        for (bound, more) in histogram.buckets() {
            count += more;
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| number(bound as f64 * scale));
            self.line("_bucket", labels, Some(&bound), count as f64);
        }
        if histogram.counts.is_empty() {
            self.line("_bucket", labels, Some("+Inf"), 0.0); // of no core yet
        }
        self.line("_sum", labels, None, histogram.sum() as f64 * scale);
        self.line("_count", labels, None, count as f64);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: f64) {
        debug_assert!(
            labels.iter().map(|(name, _)| name).eq(self.family.labels),
            "the labels are the family's"
        );
        let _ = write!(self.out, "{}{suffix}", self.family.name);
        let mut open = '{';
        for (name, value) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            let _ = write!(self.out, "{open}{name}=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
            open = ',';
        }
        let close = if open == ',' { "}" } else { "" };
        let _ = writeln!(self.out, "{close} {}", number(value));
    }
}

/// A number as short as it can be: what was scaled has a last digit that means nothing.
fn number(value: f64) -> String {
    let rounded = format!("{value:.6}");
    if rounded.contains('.') {
        rounded.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        rounded
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashSet};

    use super::*;
    use crate::{Reason, Token, metrics::Counters};

    fn text(format: Format) -> String {
        let token = Token::new("websocket");
        let counters = Counters::for_protocols(&[token]);
        counters.session_begins(token);
        counters.switched(token, std::time::Duration::from_micros(120));
        counters.session_ended(token, "ok", std::time::Duration::from_secs(90));
        counters.refused(Reason::MissingKey, Some("websocket"));
        counters.messages_received.record(5);
        let mut cores = [counters.snapshot(3, 1), counters.snapshot(4, 1)];
        cores[1].tls_failures.insert("timed-out".to_owned(), 1);
        let facts = Facts {
            version: "1.2.3",
            driver: "a \"quoted\" one",
            is_ready: true,
            cores: &cores,
            log_lines_dropped: 7,
            certificates: BTreeMap::from([("localhost".to_owned(), 2e9)]),
            process: crate::process::Process::now(),
        };
        write(&facts, format)
    }

    #[test]
    fn the_two_formats_differ_where_they_have_to() {
        let prometheus = text(Format::Prometheus);
        for line in [
            "# TYPE switchpoint_handshakes_total counter",
            "switchpoint_handshakes_total{protocol=\"websocket\",outcome=\"switched\",reason=\"none\"} 2",
            "switchpoint_handshakes_total{protocol=\"websocket\",outcome=\"refused\",reason=\"missing-key\"} 2",
            "switchpoint_build_info{version=\"1.2.3\",driver=\"a \\\"quoted\\\" one\"} 1",
            "switchpoint_sessions{core=\"1\",protocol=\"websocket\"} 1",
            "switchpoint_handshake_duration_seconds_bucket{protocol=\"websocket\",le=\"0.0001\"} 0",
            "switchpoint_handshake_duration_seconds_bucket{protocol=\"websocket\",le=\"0.00025\"} 2",
            "switchpoint_handshake_duration_seconds_sum{protocol=\"websocket\"} 0.00024",
            "switchpoint_message_size_bytes_bucket{direction=\"in\",le=\"16\"} 2",
            "switchpoint_message_size_bytes_bucket{direction=\"out\",le=\"+Inf\"} 0",
            "switchpoint_log_lines_dropped_total 7",
            "switchpoint_tls_certificate_expiry_timestamp_seconds{name=\"localhost\"} 2000000000",
        ] {
            assert!(prometheus.lines().any(|found| found == line), "{line} is not in\n{prometheus}");
        }
        let open = text(Format::OpenMetrics);
        assert!(open.contains("# TYPE switchpoint_handshakes counter\n") && open.ends_with("\n# EOF\n"));
        assert!(!prometheus.contains("# EOF"));
    }

    #[test]
    fn who_names_openmetrics_gets_it() {
        let asked = |accept: &str| Format::asked_for(accept.split(','));
        assert_eq!(
            asked("application/openmetrics-text;version=1.0.0;q=0.5, text/plain;q=0.3"),
            Format::OpenMetrics
        );
        assert_eq!(asked("text/plain; version=0.0.4, */*"), Format::Prometheus);
    }

    #[test]
    fn no_name_stands_twice_and_each_is_documented_with_its_labels() {
        let documented = include_str!("../docs/metrics.md");
        let mut names = HashSet::new();
        for family in FAMILIES {
            assert!(names.insert(family.name));
            let total = if family.kind == Kind::Counter { "_total" } else { "" };
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let row = format!(
                "| `{}{total}` | {} | {} | {} |",
                family.name,
                family.kind.name(),
                labels.join(", "),
                family.help
            );
            assert!(documented.contains(&row), "docs/metrics.md lacks: {row}");
        }
        for line in documented
            .lines()
            .filter(|line| line.starts_with("| `switchpoint_") || line.starts_with("| `process_"))
        {
            let name = line.trim_start_matches("| `").split('`').next().unwrap_or_default();
            assert!(
                names.contains(name.trim_end_matches("_total")),
                "docs/metrics.md has {name}, which is not there"
            );
        }
    }

    #[test]
    fn the_dashboard_asks_for_what_is_there() {
        let samples: BTreeSet<String> = text(Format::Prometheus)
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split(['{', ' ']).next().unwrap_or_default().to_owned())
            .collect();
        let dashboard: serde_json::Value =
            serde_json::from_str(include_str!("../docs/grafana-dashboard.json")).unwrap();
        let mut expressions = Vec::new();
        collect(&dashboard, &mut expressions);
        assert!(expressions.len() > 10, "{expressions:?}");
        for expression in expressions {
            let names = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let names: Vec<&str> = names
                .filter(|word| word.starts_with("switchpoint_") || word.starts_with("process_"))
                .collect();
            assert!(!names.is_empty(), "{expression} asks for nothing of ours");
            for name in names {
                assert!(samples.contains(name), "{expression}: there is no {name}");
            }
        }
    }

    fn collect(value: &serde_json::Value, expressions: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(members) => {
                for (name, member) in members {
                    match member.as_str() {
                        Some(text) if name == "expr" => expressions.push(text.to_owned()),
                        _ => collect(member, expressions),
                    }
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, expressions)),
            _ => {}
        }
    }
}
