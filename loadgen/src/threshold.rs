//! What has to be so in the end: `p99(response)<1ms`, `errors==0`, `rate>=50k`.

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    plan::Plan,
    record::{Slot, Times, percentile},
    run::Finished,
    units::{self, Nanos, short},
};

/// A measure, a comparison, a limit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Threshold {
    text: String,
    measure: Measure,
    comparison: Comparison,
    limit: f64,
}

#[derive(Clone, Debug, PartialEq)]
enum Measure {
    /// `pN`, `min`, `max` or `mean` of a histogram.
    Time(Statistic, String),
    /// A number of the ledger, or a rate.
    Number(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Statistic {
    Percentile(f64),
    Min,
    Max,
    Mean,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    Equal,
}

const TIMES: [&str; 11] = [
    "response",
    "service",
    "send-lag",
    "connect-lag",
    "tcp-connect",
    "tls",
    "upgrade",
    "settle",
    "ready",
    "first-message",
    "close",
];
const NUMBERS: [&str; 6] = ["errors", "unanswered", "failed", "answered", "rate", "offered"];

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "a threshold is such as 'p99(response)<1ms', 'errors==0' or 'rate>=50k'";
        let at = text.find(['<', '>', '=']).ok_or(hint)?;
        let (name, rest) = text.split_at(at);
        let (comparison, limit) = [
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::MoreOrEqual),
            ("==", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::More),
        ]
        .into_iter()
        .find_map(|(sign, comparison)| Some((comparison, rest.strip_prefix(sign)?.trim())))
        .ok_or(hint)?;
        let name = name.trim();
        let measure = match name.strip_suffix(')').and_then(|name| name.split_once('(')) {
            Some((statistic, histogram)) => {
                if !TIMES.contains(&histogram) {
                    return Err(format!("`{histogram}` is not a histogram; there are {}", TIMES.join(", ")));
                }
                Measure::Time(statistic_of(statistic)?, histogram.to_owned())
            }
            // `p99<1ms` means the response.
            None if statistic_of(name).is_ok() => Measure::Time(statistic_of(name)?, "response".to_owned()),
            None if NUMBERS.contains(&name) => Measure::Number(name.to_owned()),
            None => {
                let all = NUMBERS.join(", ");
                return Err(format!("`{name}` is not measured; there are {all}, and p99(response); {hint}"));
            }
        };
        let limit = match measure {
            Measure::Time(..) => units::nanos(units::time(limit)?) as f64,
            Measure::Number(_) => units::rate(limit)?,
        };
        Ok(Self { text: text.to_owned(), measure, comparison, limit })
    }
}

fn statistic_of(text: &str) -> Result<Statistic, String> {
    match text {
        "min" => Ok(Statistic::Min),
        "max" => Ok(Statistic::Max),
        "mean" => Ok(Statistic::Mean),
        _ => match text.strip_prefix('p').and_then(|percent| percent.parse::<f64>().ok()) {
            Some(percent) if (0.0..100.0).contains(&percent) => Ok(Statistic::Percentile(percent)),
            _ => Err(format!("`{text}` is not a statistic; there are p50, p99.9 and so on, min, max, mean")),
        },
    }
}

/// How it came out.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) text: String,
    /// As it is printed; a dash if there were not enough samples.
    pub(crate) value: String,
    pub(crate) is_met: bool,
}

impl Threshold {
    /// Holds it against what was measured in `time`: of a phase, or of the whole run.
    pub(crate) fn judge(
        &self,
        plan: &Plan,
        finished: &Finished,
        phase: Option<usize>,
        slot: &Slot,
        time: Duration,
    ) -> Outcome {
        let value = match &self.measure {
            Measure::Time(statistic, name) => histogram(plan, finished, phase, slot, name)
                .filter(|times| !times.is_empty())
                .and_then(|times| match statistic {
                    Statistic::Percentile(percent) => percentile(times, *percent),
                    Statistic::Min => Some(times.min()),
                    Statistic::Max => Some(times.max()),
                    Statistic::Mean => Some(times.mean() as Nanos),
                })
                .map(|time| (time as f64, short(time))),
            Measure::Number(name) => {
                let ledger = &slot.ledger;
                let seconds = time.as_secs_f64().max(1e-9);
                let number = match &**name {
                    "errors" => (ledger.errors() + finished.record.duplicates + finished.record.stray) as f64,
                    "unanswered" => ledger.unanswered as f64,
                    "failed" => finished.record.failed as f64,
                    "answered" => ledger.answered as f64,
                    "rate" => ledger.in_time as f64 / seconds,
                    _ => ledger.sent as f64 / seconds,
                };
                Some((number, units::rate_text(number)))
            }
        };
        let is_met = value.as_ref().is_some_and(|(value, _)| match self.comparison {
            Comparison::Less => *value < self.limit,
            Comparison::LessOrEqual => *value <= self.limit,
            Comparison::More => *value > self.limit,
            Comparison::MoreOrEqual => *value >= self.limit,
            Comparison::Equal => (*value - self.limit).abs() < 1e-9,
        });
        let value = value.map_or_else(|| "\u{2013} (too few samples)".to_owned(), |(_, text)| text);
        Outcome { text: self.text.clone(), value, is_met }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A histogram by its name. In a closed loop the response is the service. A phase that opens all connections again has their
/// openings; others have those of the begin.
fn histogram<'a>(
    plan: &Plan,
    finished: &'a Finished,
    phase: Option<usize>,
    slot: &'a Slot,
    name: &str,
) -> Option<&'a Times> {
    let record = &finished.record;
    let opening = phase.and_then(|phase| record.reopening.get(&phase)).unwrap_or(&record.opening);
    match name {
        "response" if !plan.is_open() && slot.response.is_empty() => Some(&slot.service),
        "response" => Some(&slot.response),
        "service" => Some(&slot.service),
        "send-lag" => Some(&slot.lag),
        _ => opening.all().into_iter().find(|(known, _)| *known == name).map(|(_, times)| times),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_said() {
        for (text, hint) in [
            ("p99(reponse)<1ms", "response, service"),
            ("p101(response)<1ms", "not a statistic"),
            ("latency<1ms", "not measured"),
            ("p99(response)<1 parsec", "500us"),
            ("errors", "such as"),
            ("errors=0", "such as"),
        ] {
            let error = text.parse::<Threshold>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
        for text in [
            "p99.9(send-lag)<=50us",
            "p99<1ms",
            "errors==0",
            "rate>=50k/s",
            "max(upgrade)<1s",
            "mean(service)>0",
        ] {
            assert_eq!(text.parse::<Threshold>().unwrap().to_string(), text);
        }
    }
}
