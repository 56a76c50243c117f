//! How it goes, a line at a time, while it goes: on a terminal only, for what is piped is for programs.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use crate::{
    plan::Plan,
    record::Interval,
    record::percentile,
    units::{grouped, short},
};

/// Where progress is shown.
pub(crate) struct Progress {
    is_shown: bool,
    total: Option<Duration>,
    is_dirty: bool,
}

impl Progress {
    pub(crate) fn new(plan: &Plan) -> Self {
        let is_shown = plan.output.progress.unwrap_or_else(|| std::io::stderr().is_terminal());
        let total = plan.phases.iter().map(|phase| phase.time).sum::<Option<Duration>>();
        Self { is_shown, total, is_dirty: false }
    }

    /// A second has passed.
    pub(crate) fn second(&mut self, second: &Interval) {
        if !self.is_shown {
            return;
        }
        let at = second.second + 1;
        let of = self.total.map_or_else(String::new, |total| format!("/{}", total.as_secs_f64().ceil()));
        let time =
            |percent| percentile(&second.latency, percent).map_or_else(|| "\u{2013}".to_owned(), short);
        let phase = if second.is_measured { "" } else { "  warm-up" };
        let errors =
            if second.errors > 0 { format!("  errors {}", grouped(second.errors)) } else { String::new() };
        let mut err = std::io::stderr().lock();
        let _ = write!(
            err,
            "\r\x1b[2K  {at}{of} s{phase}  {}/s  p50 {}  p99 {}{errors}",
            grouped(second.answered),
            time(50.0),
            time(99.0)
        );
        let _ = err.flush();
        self.is_dirty = true;
    }

    /// It is over: the line makes room for the summary.
    pub(crate) fn finish(&mut self) {
        if self.is_dirty {
            eprint!("\r\x1b[2K");
        }
    }
}
