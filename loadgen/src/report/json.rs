//! The result for programs. What is not known is `null`; times are in nanoseconds. docs/loadgen.md describes them.

use std::{fs, path::Path, time::SystemTime};

use serde_json::{Value, json};

use super::{Report, kind, options, schedule};
use crate::{
    plan::{COHORTS, Cohort, Kind, What},
    record::{Ledger, Opening, Packed, Times, percentile},
    stats,
    threshold::Outcome,
};

impl Report {
    pub(super) fn json(&self) -> Value {
        let finished = &self.finished;
        let plan = &self.plan;
        let record = &finished.record;
        let ledger = &self.total.ledger;
        let mut object = json!({
            "loadgen": env!("CARGO_PKG_VERSION"),
            "began_unix_s": finished.began.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64()),
            "verdict": self.verdict.grade.name(),
            "good": self.verdict.is_good(),
            "exit_code": self.verdict.exit_code(),
            "problems": self.verdict.reasons,
            "not_sustained": self.verdict.sustained,
            "interrupted": finished.is_interrupted,
            "arguments": arguments(),
            "labels": plan.labels.iter().map(|(name, value)| (name.clone(), Value::from(value.clone()))).collect::<serde_json::Map<_, _>>(),
            "environment": crate::run::environment().into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect::<serde_json::Map<_, _>>(),
            "plan": self.plan_json(),
            "driver": finished.driver.to_string(),
            "pace": finished.pace,
            "agents": finished.agents,
            "generator_cpu": finished.cpu,
            "measured_s": finished.measured.as_secs_f64(),
            "messages": ledger_json(ledger),
            "warmup": ledger_json(&self.warmup),
            "censored": self.total.censored,
            "late_replies": record.late,
            "duplicates": record.duplicates,
            "stray": record.stray,
            "rate": self.rate(),
            "server": finished.server.map(|server| json!({
                "time_s": server.time as f64 / 1e9,
                "replies": server.replies,
                "cpu_ns": server.cpu,
                "cpu_ns_per_message": server.cpu_per_message(),
                "cores": server.cores(),
                "memory_bytes": server.memory,
            })),
            "kernel": finished.kernel.values().iter().map(|(name, value)| (name.to_string(), Value::from(*value))).collect::<serde_json::Map<_, _>>(),
            "connections": { "wanted": plan.connections, "opened": finished.opened, "failed": record.failed },
            "errors": record.errors.iter()
                .map(|(kind, errors)| json!({ "kind": kind, "count": errors.count, "example": errors.example }))
                .collect::<Vec<_>>(),
            "thresholds": outcomes(&self.verdict.thresholds),
            "latency_ns": times_json(self.latency()),
            "response_ns": times_json(&self.total.response),
            "service_ns": times_json(&self.total.service),
            "send_lag_ns": times_json(&self.total.lag),
            "handshake_ns": times_json(&record.opening.ready),
            "opening_ns": opening_json(&record.opening),
        });
        if cfg!(feature = "proof") {
            object["allocations"] = record.allocations.into();
        }
        object["phases"] = self.phases_json();
        object["fanout"] = self.fanout_json();
        object["seconds"] = self.seconds_json();
        object
    }

    fn plan_json(&self) -> Value {
        let plan = &self.plan;
        let measured = plan.phases.iter().filter(|phase| phase.is_measured);
        let time = measured.map(|phase| phase.time).sum::<Option<std::time::Duration>>();
        json!({
            "scenario": match &plan.what { What::WebSocket(_) => "ws", What::Echo => "echo", What::Http2(_) => "h2c" },
            "kind": match plan.kind { Kind::Load => "load", Kind::Storm { .. } => "storm", Kind::Fanout { .. } => "fanout" },
            "description": kind(plan),
            "schedule": schedule(plan),
            "url": plan.target.to_string(),
            "loop": if plan.is_open() { "open" } else { "closed" },
            "rate": plan.phases.iter().find(|phase| phase.is_measured).and_then(|phase| Some(phase.profile.as_ref()?.mean())),
            "connections": plan.connections,
            "depth": plan.depth,
            "size": plan.sizes.max(),
            "sizes": plan.sizes.to_string(),
            "idle": plan.idle,
            "arrival": plan.arrival.to_string(),
            "verify": plan.verify.name(),
            "secure": plan.target.url.is_secure(),
            "options": options(plan),
            "text": plan.is_text(),
            "threads": plan.threads,
            "duration_s": time.map(|time| time.as_secs_f64()),
            "requests": plan.requests,
            "seed": plan.seed,
        })
    }

    fn phases_json(&self) -> Value {
        let record = &self.finished.record;
        let slots = record.slots.iter().enumerate().filter(|(_, slot)| slot.ledger.planned > 0);
        slots
            .map(|(index, slot)| {
                let phase = &self.plan.phases[index / COHORTS];
                let verdict = self.verdict.phases.iter().find(|verdict| verdict.index == index / COHORTS);
                json!({
                    "name": phase.name,
                    "verdict": verdict.map(|verdict| verdict.grade.name()),
                    "problems": verdict.map_or(&[][..], |verdict| &verdict.reasons),
                    "thresholds": outcomes(verdict.map_or(&[][..], |verdict| &verdict.thresholds)),
                    "duration_s": phase.time.map(|time| time.as_secs_f64()),
                    "rate": phase.profile.as_ref().map(crate::schedule::Profile::mean),
                    "reconnects": phase.is_storm,
                    "cohort": Cohort::of(index).name().unwrap_or("all"),
                    "measured": phase.is_measured,
                    "messages": ledger_json(&slot.ledger),
                    "response_ns": times_json(&slot.response),
                    "service_ns": times_json(&slot.service),
                    "send_lag_ns": times_json(&slot.lag),
                    "opening_ns": record.reopening.get(&(index / COHORTS)).map(opening_json),
                })
            })
            .collect()
    }

    fn fanout_json(&self) -> Value {
        let Some(fanout) = &self.finished.fanout else { return Value::Null };
        json!({
            "messages": fanout.heard.messages,
            "receivers": fanout.heard.receivers,
            "expected": fanout.heard.messages * fanout.heard.receivers,
            "delivered": self.total.ledger.answered,
            "incomplete": fanout.incomplete,
            "gaps": fanout.heard.gaps,
            "duplicates": fanout.heard.duplicates,
            "disorder": fanout.heard.disorder,
            "last_receiver_ns": times_json(&fanout.last),
        })
    }

    fn seconds_json(&self) -> Value {
        let seconds = self.finished.seconds.iter().map(|second| {
            json!({
                "second": second.second,
                "measured": second.is_measured,
                "planned": second.planned,
                "sent": second.sent,
                "answered": second.answered,
                "errors": second.errors,
                "lag_max_ns": second.lag_max,
                "latency": second.latency.text(),
            })
        });
        seconds.collect()
    }
}

fn outcomes(all: &[Outcome]) -> Value {
    let one = |outcome: &Outcome| json!({ "threshold": outcome.text, "value": outcome.value, "met": outcome.is_met });
    all.iter().map(one).collect()
}

fn ledger_json(ledger: &Ledger) -> Value {
    json!({
        "planned": ledger.planned,
        "sent": ledger.sent,
        "answered": ledger.answered,
        "in_time": ledger.in_time,
        "errors": ledger.errors(),
        "timed_out": ledger.timed_out,
        "unanswered": ledger.unanswered,
        "held": ledger.held,
        "unoffered": ledger.unoffered,
    })
}

fn opening_json(opening: &Opening) -> Value {
    opening.all().into_iter().map(|(name, times)| (name.to_owned(), times_json(times))).collect()
}

fn times_json(times: &Times) -> Value {
    let mut object =
        json!({ "count": times.len(), "min": null, "max": null, "mean": null, "p99_interval": null });
    for (name, percent) in PERCENTILES {
        object[name] = percentile(times, percent).into();
    }
    if !times.is_empty() {
        object["min"] = times.min().into();
        object["max"] = times.max().into();
        object["mean"] = times.mean().into();
    }
    if times.len() >= 1000 {
        object["p99_interval"] = stats::interval(times, 0.99).map(|(low, high)| vec![low, high]).into();
    }
    object
}

const PERCENTILES: [(&str, f64); 7] = [
    ("p50", 50.0),
    ("p75", 75.0),
    ("p90", 90.0),
    ("p99", 99.0),
    ("p99.9", 99.9),
    ("p99.99", 99.99),
    ("p99.999", 99.999),
];

/// The command line, without what may be a secret.
fn arguments() -> Vec<String> {
    masked(std::env::args().skip(1))
}

fn masked(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_secret = false;
    let hidden = |value: &str| format!("{}:***", value.split_once(':').map_or("", |(name, _)| name));
    let mask = |argument: String| {
        if std::mem::take(&mut is_secret) {
            return hidden(&argument);
        }
        if let Some(value) = argument.strip_prefix("--") {
            let (name, value) =
                value.split_once('=').map_or((value, None), |(name, value)| (name, Some(value)));
            if ["header", "auth", "subprotocol"].contains(&name) {
                is_secret = value.is_none();
                return value.map_or_else(|| argument.clone(), |value| format!("--{name}={}", hidden(value)));
            }
            return match value.map(str::parse::<crate::target::Target>) {
                Some(Ok(target)) => format!("--{name}={target}"),
                _ => argument,
            };
        }
        // Behind flags without a value, in one argument: `-kA user:password`.
        if let Some(cluster) = argument.strip_prefix('-')
            && let Some((before, value)) = cluster.split_once(['H', 'A'])
            && before.chars().all(|flag| flag == 'k')
        {
            let flag = &argument[..before.len() + 2];
            is_secret = value.is_empty();
            return if is_secret { argument } else { format!("{flag}{}", hidden(value)) };
        }
        match argument.parse::<crate::target::Target>() {
            Ok(target) => target.to_string(),
            Err(_) => argument,
        }
    };
    arguments.map(mask).collect()
}

/// A result that was written before.
pub(crate) struct Read {
    pub(crate) value: Value,
    /// Of the seconds that were measured.
    pub(crate) seconds: Vec<Packed>,
}

/// Reads a result.
pub(crate) fn read(path: &Path) -> Result<Read, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(|error| named(&error))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| named(&error))?;
    let all = value["seconds"].as_array().ok_or_else(|| named(&"this is no result of loadgen"))?;
    let mut seconds = Vec::new();
    for second in all.iter().filter(|second| second["measured"] == true) {
        let text = second["latency"].as_str().unwrap_or_default();
        seconds.push(Packed::try_from(text.to_owned()).map_err(|error| named(&error))?);
    }
    Ok(Read { value, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_repeated() {
        let line = "ws ws://h/?token=abc -H Authorization:secret --header=Cookie:id=1 -A user:secret -HX:y -c 5 \
             -kA user:secret -kHX:secret --subprotocol secret --auth=user:secret --a=ws://h/?secret -k";
        let shown = masked(line.split(' ').map(str::to_owned)).join(" ");
        assert_eq!(
            shown,
            "ws ws://h/?token=*** -H Authorization:*** --header=Cookie:*** -A user:*** -HX:*** -c 5 \
             -kA user:*** -kHX:*** --subprotocol :*** --auth=user:*** --a=ws://h/?*** -k"
        );
    }

    #[test]
    fn a_histogram_survives_its_text() {
        let mut times = crate::record::times();
        (1..1000).for_each(|value| times.record(value * value).unwrap());
        let packed = Packed::new(&times);
        assert_eq!(Packed::try_from(packed.text().to_owned()).unwrap().times(), times);
    }
}
