//! When which phase is.

use crate::{
    plan::Plan,
    units::{Nanos, nanos},
};

/// When which phase is. Invariant: it has one; each begins where the one before ends.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) start: Nanos,
    pub(super) phases: Vec<Window>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) from: Nanos,
    pub(crate) until: Nanos,
    pub(crate) is_open: bool,
    pub(crate) is_measured: bool,
}

impl Schedule {
    pub(super) fn new(plan: &Plan, start: Nanos) -> Self {
        let mut from = start;
        let phases = plan.phases.iter().map(|phase| {
            let until = phase.time.map_or(Nanos::MAX, |time| from.saturating_add(nanos(time)));
            let is_open = phase.profile.is_some();
            let window = Window { from, until, is_open, is_measured: phase.is_measured };
            from = until;
            window
        });
        Self { start, phases: phases.collect() }
    }

    pub(super) fn end(&self) -> Nanos {
        self.phases.last().expect("a plan has a phase").until
    }

    /// From the first measured phase on.
    pub(super) fn measured_from(&self) -> Nanos {
        self.phases.iter().find(|phase| phase.is_measured).map_or(Nanos::MAX, |phase| phase.from)
    }
}
