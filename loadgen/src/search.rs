//! The highest rate at which a server keeps its promises: doubling until it does not, then halving the distance.
//!
//! A point counts only if the generator has done its part: what it could not offer says nothing of the server.

use std::{fmt::Write as _, io, time::Duration};

use serde_json::json;

use crate::{
    plan::{Phase, Plan},
    report::Report,
    schedule::Shape,
    threshold::Threshold,
    units::{Nanos, rate_text, short},
    verdict::Grade,
};

/// What is searched for, and where.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    /// All but the rate.
    pub(crate) plan: Plan,
    /// All of them have to be met.
    pub(crate) slos: Vec<Threshold>,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// How long each point is measured, and how long before that.
    pub(crate) time: Duration,
    pub(crate) warmup: Duration,
    /// How far apart, as a part, the highest good and the lowest bad rate may be in the end.
    pub(crate) precision: f64,
    /// How often the rate has to hold again.
    pub(crate) confirm: u32,
    /// Points with blurred figures count, too.
    pub(crate) takes_degraded: bool,
}

impl Search {
    /// The plan of a point.
    pub(crate) fn plan(&self, rate: f64) -> Plan {
        let phase = |name: &str, time, is_measured| Phase {
            name: name.into(),
            time: Some(time),
            profile: Some(Shape::Constant.profile(rate, time)),
            is_measured,
            is_storm: false,
            thresholds: Vec::new(),
        };
        let mut phases = Vec::new();
        if !self.warmup.is_zero() {
            phases.push(phase("warm-up", self.warmup, false));
        }
        phases.push(phase("run", self.time, true));
        Plan { phases, thresholds: self.slos.clone(), ..self.plan.clone() }
    }

    /// What a point's result says.
    pub(crate) fn judge(&self, rate: f64, report: &Report) -> Point {
        let verdict = report.verdict();
        let values: Vec<String> =
            verdict.thresholds.iter().map(|outcome| format!("{} {}", outcome.text, outcome.value)).collect();
        let missed = verdict.thresholds.iter().any(|outcome| !outcome.is_met);
        let fate = match verdict.grade {
            Grade::Invalid => Fate::Void,
            Grade::Degraded if !self.takes_degraded => Fate::Void,
            // The server could not, and it is not ours to say how long it takes then.
            _ if verdict.sustained.is_some() => Fate::Breaks,
            Grade::Failed => Fate::Breaks,
            _ if missed => Fate::Breaks,
            _ => Fate::Holds,
        };
        Point {
            rate,
            fate,
            values: values.join(", "),
            interval: report.p99_interval(),
            verdict: verdict.to_string(),
        }
    }
}

/// A rate that was tried.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) rate: f64,
    pub(crate) fate: Fate,
    values: String,
    /// Between what p99 lies.
    interval: Option<(Nanos, Nanos)>,
    verdict: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// All is as promised.
    Holds,
    /// It is not.
    Breaks,
    /// The generator was not good enough.
    Void,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// In the order in which they were tried.
    pub(crate) points: Vec<Point>,
    /// The highest rate that holds, and has held again.
    pub(crate) best: Option<f64>,
    /// The lowest at which it did not.
    pub(crate) beyond: Option<Point>,
}

/// Searches, by what `measure` says of a rate. `tell` hears of each point.
pub(crate) fn search(
    search: &Search,
    mut measure: impl FnMut(f64) -> io::Result<Point>,
    mut tell: impl FnMut(&Point),
) -> io::Result<Found> {
    let mut found = Found::default();
    let mut attempt = |rate: f64, found: &mut Found| -> io::Result<Point> {
        // One that does not count is tried again: it may have been the machine's doing.
        let mut tries = 0;
        loop {
            let point = measure(rate)?;
            tell(&point);
            found.points.push(point.clone());
            tries += 1;
            if point.fate != Fate::Void || tries == TRIES {
                return Ok(point);
            }
        }
    };
    let (mut low, mut rate) = (None, search.min);
    while found.beyond.is_none() {
        let point = attempt(rate, &mut found)?;
        if point.fate == Fate::Holds {
            low = Some(rate);
            if rate >= search.max {
                break;
            }
            rate = (rate * 2.0).min(search.max);
        } else {
            found.beyond = Some(point);
        }
    }
    let Some(mut low) = low else { return Ok(found) };
    loop {
        while let Some(high) = found.beyond.as_ref().map(|point| point.rate)
            && high / low > 1.0 + search.precision
        {
            let point = attempt((low * high).sqrt(), &mut found)?;
            if point.fate == Fate::Holds { low = point.rate } else { found.beyond = Some(point) }
        }
        // The edge is blurred: what has held once may have been lucky.
        let mut held = 0;
        let mut broke = None;
        for _ in 0..search.confirm {
            let point = attempt(low, &mut found)?;
            if point.fate == Fate::Holds { held += 1 } else { broke = Some(point) }
        }
        match broke {
            Some(point) if held * 2 <= search.confirm => {
                found.beyond = Some(point);
                low /= 1.0 + search.precision;
                if low < search.min {
                    return Ok(found);
                }
                if attempt(low, &mut found)?.fate == Fate::Holds {
                    continue;
                }
            }
            _ => {
                found.best = Some(low);
                return Ok(found);
            }
        }
        if found.points.len() > POINTS_MAX {
            return Ok(found);
        }
    }
}

const TRIES: u32 = 3;
const POINTS_MAX: usize = 200;

impl Point {
    /// A line for people.
    pub(crate) fn line(&self) -> String {
        let fate = match self.fate {
            Fate::Holds => "holds",
            Fate::Breaks => "breaks",
            Fate::Void => "does not count",
        };
        let interval = self
            .interval
            .map_or_else(String::new, |(low, high)| format!("  (p99 {} to {})", short(low), short(high)));
        format!("  {:>12}/s  {fate:<15} {}{interval}   {}\n", rate_text(self.rate), self.values, self.verdict)
    }
}

impl Found {
    /// What is said in the end.
    pub(crate) fn text(&self) -> String {
        let mut out = String::from("\n");
        match (self.best, &self.beyond) {
            (Some(best), Some(beyond)) => {
                let _ = write!(out, "{}/s", rate_text(best));
                let what = match beyond.fate {
                    Fate::Void => "is the highest that the generator can vouch for; it could not offer",
                    _ => "is the highest rate that holds; it breaks at",
                };
                let _ = writeln!(out, " {what} {}/s", rate_text(beyond.rate));
            }
            (Some(best), None) => {
                let _ = writeln!(
                    out,
                    "{}/s holds, and is the highest that was asked for (--max)",
                    rate_text(best)
                );
            }
            (None, Some(beyond)) if beyond.fate == Fate::Void => {
                let _ = writeln!(out, "nothing was found: not even at --min was a point VALID");
            }
            (None, _) => {
                let _ = writeln!(out, "no rate from --min on holds");
            }
        }
        let rejected = self.points.iter().filter(|point| point.fate == Fate::Void).count();
        let _ = writeln!(out, "{} points, of which {rejected} did not count", self.points.len());
        out
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        let point = |point: &Point| {
            json!({
                "rate": point.rate,
                "fate": match point.fate {
                    Fate::Holds => "holds",
                    Fate::Breaks => "breaks",
                    Fate::Void => "void",
                },
                "slos": point.values,
                "p99_interval_ns": point.interval.map(|(low, high)| [low, high]),
                "verdict": point.verdict,
            })
        };
        json!({
            "best": self.best,
            "beyond": self.beyond.as_ref().map(point),
            "points": self.points.iter().map(point).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{What, tests::plan};

    fn searching(min: f64, max: f64) -> Search {
        Search {
            plan: plan(What::Echo, 1),
            slos: Vec::new(),
            min,
            max,
            time: Duration::from_secs(1),
            warmup: Duration::ZERO,
            precision: 0.02,
            confirm: 3,
            takes_degraded: false,
        }
    }

    fn found(min: f64, max: f64, mut fate: impl FnMut(f64) -> Fate) -> Found {
        let measure = |rate| {
            Ok(Point {
                rate,
                fate: fate(rate),
                values: String::new(),
                interval: None,
                verdict: String::new(),
            })
        };
        search(&searching(min, max), measure, |_| {}).unwrap()
    }

    #[test]
    fn the_edge_is_found_and_what_does_not_count_is_no_edge_of_the_server() {
        let fate = |rate: f64| if rate <= 1234.0 { Fate::Holds } else { Fate::Breaks };
        let edge = found(10.0, 1e6, fate);
        let best = edge.best.unwrap();
        assert!((1234.0 / 1.02..=1234.0).contains(&best), "{best}");
        assert!(edge.points.len() < 25 && edge.text().contains("it breaks at"));

        let ours = found(10.0, 1e6, |rate| if rate <= 500.0 { Fate::Holds } else { Fate::Void });
        assert!((490.0..=500.0).contains(&ours.best.unwrap()));
        assert!(ours.text().contains("could not offer"), "{}", ours.text());

        assert_eq!(found(10.0, 100.0, |_| Fate::Holds).best, Some(100.0));
        assert_eq!(found(10.0, 100.0, |_| Fate::Breaks).best, None);
        assert!(found(10.0, 100.0, |_| Fate::Void).text().contains("nothing was found"));
    }

    #[test]
    fn a_lucky_point_does_not_hold_again() {
        let mut tried = 0;
        // At 80 it holds once and never again.
        let fate = |rate: f64| {
            tried += u32::from(rate == 80.0);
            let holds = rate < 80.0 || rate == 80.0 && tried == 1;
            if holds { Fate::Holds } else { Fate::Breaks }
        };
        let best = found(10.0, 80.0, fate).best.unwrap();
        assert!((76.0..80.0).contains(&best), "{best}");
    }

    #[test]
    fn a_point_that_does_not_count_is_tried_again() {
        let mut tries = 0;
        let fate = |_| {
            tries += 1;
            if tries % 3 == 0 { Fate::Holds } else { Fate::Void }
        };
        assert_eq!(found(10.0, 20.0, fate).best, Some(20.0));
    }
}
