//! How it goes, while it goes: a screen (`screen.rs`) or a line (`line.rs`) on a terminal, and nothing where standard error
//! is piped, for that is read by programs.

mod line;
mod screen;

use std::{
    io::{self, IsTerminal},
    str::FromStr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use line::Line;
use screen::Screen;

use crate::{
    plan::Plan,
    record::{Interval, Times, merge_times, percentile, times},
    units::{grouped, short},
};

/// Where it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Show {
    /// On a screen if the terminal is capable of one, else in a line, else nowhere.
    #[default]
    Auto,
    Screen,
    Line,
    Off,
}

impl FromStr for Show {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "screen" => Ok(Self::Screen),
            "line" => Ok(Self::Line),
            "off" => Ok(Self::Off),
            _ => Err("progress is shown on a `screen`, in a `line`, or is `off`; `auto` chooses"),
        }
    }
}

/// Shows it.
pub(crate) struct Progress {
    so_far: SoFar,
    shown: Shown,
}

enum Shown {
    Nowhere,
    Line(Line),
    Screen(Box<Screen>),
}

/// What is known up to now.
pub(crate) struct SoFar {
    /// What is run, and where.
    heading: String,
    /// When phases are over, and their names.
    phases: Vec<(f64, String)>,
    total: Option<Duration>,
    is_open: bool,
    /// All that was measured.
    sum: Interval,
    latency: Times,
    /// Each second's answers, and its p99.
    seconds: Vec<(u64, u64)>,
    last: Interval,
}

impl Progress {
    /// For this plan. Whoever presses `q` on the screen sets `stop`.
    pub(crate) fn new(plan: &Plan, stop: &Arc<AtomicBool>) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let is_capable = || {
            let term = std::env::var("TERM").unwrap_or_default();
            is_terminal && io::stdin().is_terminal() && !matches!(&*term, "" | "dumb")
        };
        let so_far = SoFar::new(plan);
        let line = || Shown::Line(Line::default());
        let shown = match plan.output.progress {
            Show::Off => Shown::Nowhere,
            Show::Line => line(),
            Show::Auto if !is_terminal => Shown::Nowhere,
            Show::Auto if !is_capable() => line(),
            // A terminal that refuses is told in a line.
            Show::Auto | Show::Screen => Screen::open(Arc::clone(stop))
                .map_or_else(|_| line(), |screen| Shown::Screen(Box::new(screen))),
        };
        Self { so_far, shown }
    }

    /// Nothing is shown.
    pub(crate) fn none() -> Self {
        Self { so_far: SoFar::empty(), shown: Shown::Nowhere }
    }

    /// A second has passed.
    pub(crate) fn second(&mut self, second: &Interval) {
        if matches!(self.shown, Shown::Nowhere) {
            return;
        }
        self.so_far.add(second);
        match &mut self.shown {
            Shown::Nowhere => {}
            Shown::Line(line) => line.show(&self.so_far),
            Shown::Screen(screen) => screen.show(&self.so_far),
        }
    }

    /// Nothing has happened for a moment.
    pub(crate) fn look_up(&mut self) {
        if let Shown::Screen(screen) = &mut self.shown {
            screen.listen();
        }
    }

    /// It is over, and there has to be room for the summary.
    pub(crate) fn finish(self) {
        match self.shown {
            Shown::Nowhere => {}
            Shown::Line(line) => line.finish(),
            Shown::Screen(screen) => drop(screen),
        }
    }
}

impl SoFar {
    fn empty() -> Self {
        Self {
            heading: String::new(),
            phases: Vec::new(),
            total: None,
            is_open: false,
            sum: Interval::new(),
            latency: times(),
            seconds: Vec::new(),
            last: Interval::new(),
        }
    }

    fn new(plan: &Plan) -> Self {
        let mut end = 0.0;
        let phase = |phase: &crate::plan::Phase| {
            end += phase.time.map_or(f64::INFINITY, |time| time.as_secs_f64());
            (end, phase.name.clone())
        };
        Self {
            heading: crate::report::heading(plan),
            phases: plan.phases.iter().map(phase).collect(),
            total: plan.phases.iter().map(|phase| phase.time).sum(),
            is_open: plan.is_open(),
            ..Self::empty()
        }
    }

    fn add(&mut self, second: &Interval) {
        self.last = second.clone();
        self.seconds.push((second.answered, percentile(&second.latency, 99.0).unwrap_or_default()));
        if second.is_measured {
            self.sum.planned += second.planned;
            self.sum.sent += second.sent;
            self.sum.answered += second.answered;
            self.sum.errors += second.errors;
            self.sum.lag_max = self.sum.lag_max.max(second.lag_max);
            merge_times(&mut self.latency, &second.latency);
        }
    }

    /// How many seconds have passed.
    fn elapsed(&self) -> u64 {
        self.last.second + 1
    }

    /// Which phase it is.
    fn phase(&self) -> &str {
        let at = self.last.second as f64;
        self.phases
            .iter()
            .find(|(end, _)| at < *end)
            .or_else(|| self.phases.last())
            .map_or("", |(_, name)| name)
    }

    /// What would be said if it ended now.
    fn verdict(&self) -> String {
        let Interval { planned, sent, errors, lag_max, .. } = self.sum;
        let late = planned.saturating_sub(sent);
        if self.is_open && late as f64 > planned as f64 * 0.01 + 1.0 {
            return format!("behind: {} of {} are not sent", grouped(late), grouped(planned));
        }
        if errors > 0 {
            return format!("FAILED so far: {} errors", grouped(errors));
        }
        if self.is_open && lag_max > LATE {
            return format!("so far good, but we were late by {}", short(lag_max));
        }
        if planned == 0 { "warming up".to_owned() } else { "VALID so far".to_owned() }
    }
}

/// What the verdict calls late.
const LATE: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::{What, tests::plan},
        report::tests::second,
    };

    pub(super) fn so_far() -> SoFar {
        let mut so_far = SoFar::new(&plan(What::Echo, 64));
        so_far.total = Some(Duration::from_secs(10));
        (0..5).for_each(|at| so_far.add(&second(at, 2000 + at).unpacked()));
        so_far
    }

    #[test]
    fn the_verdict_so_far_says_what_is_wrong() {
        let mut so_far = so_far();
        assert_eq!(so_far.verdict(), "VALID so far");
        assert_eq!((so_far.elapsed(), so_far.phase(), so_far.sum.answered), (5, "run", 10_010));
        so_far.sum.errors = 3;
        assert_eq!(so_far.verdict(), "FAILED so far: 3 errors");
        (so_far.is_open, so_far.sum.sent) = (true, 5000);
        assert_eq!(so_far.verdict(), "behind: 5 010 of 10 010 are not sent");
        assert_eq!(SoFar::empty().verdict(), "warming up");
    }
}
