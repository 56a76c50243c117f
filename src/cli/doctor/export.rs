//! What was found, for programs: JSON, and JUnit for those that show tests.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    client::{Direction, shown},
    probe::{Known, Level, Setting},
    report::{count, score},
    run::{Outcome, Verdict},
};

pub(crate) fn json(setting: &Setting, known: &Known, outcomes: &[Outcome], with_bytes: bool) -> Value {
    let levels: serde_json::Map<_, _> = Level::ALL
        .iter()
        .map(|level| {
            let count = count(outcomes.iter(), *level);
            (level.name().to_owned(), json!({ "passed": count.passed, "judged": count.judged }))
        })
        .collect();
    let probes: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            let probe = outcome.probe;
            let mut value = json!({
                "id": probe.id,
                "section": probe.section(),
                "level": probe.level.name(),
                "rule": probe.rule,
                "what": probe.what,
                "verdict": outcome.verdict.name(),
                "came": outcome.verdict.text(),
                "milliseconds": outcome.took.as_millis() as u64,
            });
            if matches!(outcome.verdict, Verdict::Failed(_)) {
                value["means"] = probe.means.into();
                value["cure"] = probe.cure.into();
            }
            if with_bytes {
                value["bytes"] = outcome
                    .logs
                    .iter()
                    .map(|log| {
                        let piece = |(direction, bytes): &(Direction, Vec<u8>)| {
                            let name = if *direction == Direction::Sent { "sent" } else { "came" };
                            json!({ name: shown(bytes) })
                        };
                        log.pieces.iter().map(piece).collect::<Value>()
                    })
                    .collect();
            }
            value
        })
        .collect();
    json!({
        "target": {
            "tls": setting.target.is_tls,
            "authority": setting.target.authority(),
            "path": setting.target.path,
            "address": setting.address.to_string(),
            "protocol": setting.token,
        },
        "known": {
            "pongs": known.pongs,
            "echoes": known.echoes,
            "greets": known.greets,
            "deflate": known.deflate,
            "h2c": known.h2c,
        },
        "levels": levels,
        "score": score(outcomes),
        "probes": probes,
    })
}

/// A failure of a MUST or SHOULD is one; advice that is not taken, and what was not judged, is skipped.
pub(crate) fn junit(outcomes: &[Outcome]) -> String {
    let is_failure = |outcome: &&Outcome| {
        matches!(outcome.verdict, Verdict::Failed(_)) && outcome.probe.level != Level::Advice
    };
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"switchpoint doctor\" tests=\"{}\" failures=\"{}\">\n",
        outcomes.len(),
        outcomes.iter().filter(is_failure).count()
    );
    for outcome in outcomes {
        let probe = outcome.probe;
        let _ = write!(
            text,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\">",
            probe.section(),
            probe.id,
            outcome.took.as_secs_f64()
        );
        let message = escape(&format!(
            "{} {}: {}: {}",
            probe.level.name(),
            probe.rule,
            probe.what,
            outcome.verdict.text()
        ));
        if is_failure(&outcome) {
            let more = escape(&format!("{} {}", probe.means, probe.cure));
            let _ = write!(text, "<failure message=\"{message}\">{more}</failure>");
        } else if !matches!(outcome.verdict, Verdict::Passed(_)) {
            let _ = write!(text, "<skipped message=\"{message}\"/>");
        }
        text += "</testcase>\n";
    }
    text + "</testsuite>\n"
}

/// For XML, which knows no control characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            control if control < ' ' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn xml_is_escaped() {
        assert_eq!(escape("<a b=\"c\">&\0"), "&lt;a b=&quot;c&quot;&gt;&amp;\u{fffd}");
    }
}
