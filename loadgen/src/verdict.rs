//! Whether a run's figures can be trusted, whether the server did what it was asked, and what to do otherwise.

use std::{fmt, time::Duration};

use crate::{
    plan::{COHORTS, Cohort, Kind, Plan},
    record::{Ledger, Slot, percentile},
    run::Finished,
    threshold::{Outcome, Threshold},
    units::{Nanos, grouped, plural, rate_text, short},
};

/// How good a run was. The later ones are worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grade {
    /// All was sent on time and answered rightly.
    Valid,
    /// As `Valid`, but something has blurred the figures.
    Degraded,
    /// The server has not answered all of it, or not rightly.
    Failed,
    /// The generator has not done its part, so the figures say nothing of the server.
    Invalid,
}

impl Grade {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Valid => "VALID",
            Self::Degraded => "DEGRADED",
            Self::Failed => "FAILED",
            Self::Invalid => "INVALID",
        }
    }
}

/// The grade, and what led to it.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) grade: Grade,
    /// What was noticed, each with its cure where there is one; the gravest first.
    pub(crate) reasons: Vec<String>,
    /// Not as many a second were answered as planned: the percentiles are those of a queue that grows.
    pub(crate) sustained: Option<String>,
    pub(crate) is_interrupted: bool,
    pub(crate) thresholds: Vec<Outcome>,
    /// Of each measured phase, where there are several.
    pub(crate) phases: Vec<PhaseVerdict>,
}

/// How a phase was by itself.
#[derive(Clone, Debug)]
pub(crate) struct PhaseVerdict {
    /// Which one.
    pub(crate) index: usize,
    pub(crate) grade: Grade,
    pub(crate) reasons: Vec<String>,
    pub(crate) thresholds: Vec<Outcome>,
}

/// The sum over the phases that are measured, and over all who are not idle.
pub(crate) fn measured(plan: &Plan, finished: &Finished) -> Slot {
    let is_counted = |index: usize| is_measured(plan, index) && Cohort::of(index) != Cohort::Idle;
    let mut slots = finished.record.slots.iter().enumerate().filter(|(index, _)| is_counted(*index));
    let mut sum = slots.next().map_or_else(|| finished.record.slots[0].clone(), |(_, slot)| slot.clone());
    slots.for_each(|(_, slot)| sum.merge(slot));
    sum
}

/// The same of what came before.
pub(crate) fn warmup(plan: &Plan, finished: &Finished) -> Ledger {
    let mut sum = Ledger::default();
    let slots = finished.record.slots.iter().enumerate();
    slots.filter(|(index, _)| !is_measured(plan, *index)).for_each(|(_, slot)| sum.add(&slot.ledger));
    sum
}

/// What idle connections have said in the end.
pub(crate) fn idle(plan: &Plan, finished: &Finished) -> Ledger {
    finished.record.slots[usize::from(plan.idle_slot())].ledger
}

fn is_measured(plan: &Plan, slot: usize) -> bool {
    plan.phases[slot / COHORTS].is_measured
}

impl Verdict {
    pub(crate) fn new(plan: &Plan, finished: &Finished) -> Self {
        let slot = measured(plan, finished);
        let ledger = &slot.ledger;
        let mut beside = warmup(plan, finished);
        beside.add(&idle(plan, finished));
        let mut findings: Vec<(Grade, String)> = Vec::new();
        let mut find = |grade, reason: String| findings.push((grade, reason));

        if !(ledger.is_balanced() && beside.is_balanced()) {
            find(Grade::Invalid, "the books do not balance, which is a bug of loadgen".into());
        }
        generator(plan, finished, &slot, &mut find);
        machine(plan, finished, &mut find);
        server(plan, finished, ledger, &beside, &mut find);
        if ledger.answered == 0 {
            find(Grade::Failed, "nothing was measured".into());
        } else if let Some(requests) = plan.requests
            && plan.phases.iter().all(|phase| phase.time.is_none())
            && !finished.is_interrupted
            && ledger.sent < requests
        {
            let reason = format!("only {} of {} messages were sent", grouped(ledger.sent), grouped(requests));
            find(Grade::Failed, reason);
        }
        let phases = phases(plan, finished);
        for phase in &phases {
            let missed = phase.thresholds.iter().filter(|outcome| !outcome.is_met).count();
            // What a phase alone shows, the sum may hide.
            let name = &plan.phases[phase.index].name;
            if phase.grade == Grade::Invalid {
                find(Grade::Invalid, format!("phase {name}: {}", phase.reasons.join(", ")));
            } else if missed > 0 {
                find(Grade::Valid, format!("phase {name} misses {}", plural(missed as u64, "threshold")));
            }
        }
        findings.sort_by_key(|(grade, _)| std::cmp::Reverse(*grade));
        let judge = |threshold: &Threshold| threshold.judge(plan, finished, None, &slot, finished.measured);
        let thresholds = plan.thresholds.iter().map(judge).collect();
        Self {
            grade: findings.first().map_or(Grade::Valid, |(grade, _)| *grade),
            reasons: findings.into_iter().map(|(_, reason)| reason).collect(),
            sustained: not_sustained(plan, finished.measured, ledger),
            is_interrupted: finished.is_interrupted,
            thresholds,
            phases,
        }
    }

    /// All thresholds: those of the run, and those of its phases.
    fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.thresholds.iter().chain(self.phases.iter().flat_map(|phase| &phase.thresholds))
    }

    /// Whether the figures can be trusted, and the server did all of it.
    pub(crate) fn is_good(&self) -> bool {
        self.grade <= Grade::Degraded
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.grade {
            Grade::Invalid => INVALID,
            Grade::Failed => FAILED,
            _ if self.outcomes().any(|outcome| !outcome.is_met) => MISSED,
            _ if self.is_interrupted => INTERRUPTED,
            _ => 0,
        }
    }
}

/// Each measured phase by itself.
fn phases(plan: &Plan, finished: &Finished) -> Vec<PhaseVerdict> {
    let measured: Vec<usize> =
        (0..plan.phases.len()).filter(|index| plan.phases[*index].is_measured).collect();
    let has_own = plan.phases.iter().any(|phase| !phase.thresholds.is_empty());
    if measured.len() < 2 && !has_own {
        return Vec::new();
    }
    let verdict = |index: usize| {
        let phase = &plan.phases[index];
        let [mut slot, slow] =
            Cohort::BUSY.map(|cohort| finished.record.slots[usize::from(cohort.slot(index))].clone());
        slot.merge(&slow);
        let ledger = &slot.ledger;
        let time = phase.time.unwrap_or(finished.measured);
        let mut findings: Vec<(Grade, String)> = Vec::new();
        if phase.profile.is_some() {
            generator(plan, finished, &slot, &mut |grade, reason| findings.push((grade, reason)));
        }
        if ledger.errors() + ledger.unanswered > plan.errors_max {
            let text =
                format!("{} errors, {} unanswered", grouped(ledger.errors()), grouped(ledger.unanswered));
            findings.push((Grade::Failed, text));
        }
        if ledger.planned == 0 {
            findings.push((Grade::Failed, "nothing was measured".to_owned()));
        }
        if phase.profile.is_some()
            && let Some(text) = not_sustained(plan, time, ledger)
        {
            findings.push((Grade::Valid, text));
        }
        findings.sort_by_key(|(grade, _)| std::cmp::Reverse(*grade));
        PhaseVerdict {
            index,
            grade: findings.first().map_or(Grade::Valid, |(grade, _)| *grade),
            reasons: findings.into_iter().map(|(_, reason)| reason).collect(),
            thresholds: phase
                .thresholds
                .iter()
                .map(|threshold| threshold.judge(plan, finished, Some(index), &slot, time))
                .collect(),
        }
    };
    measured.into_iter().map(verdict).collect()
}

/// A threshold is not met.
pub(crate) const MISSED: u8 = 2;
/// Errors, or unanswered messages.
pub(crate) const FAILED: u8 = 3;
/// The generator was late, or too slow.
pub(crate) const INVALID: u8 = 4;
/// The arguments make no sense, or the run could not begin.
pub(crate) const USAGE: u8 = 64;
pub(crate) const INTERRUPTED: u8 = 130;

fn is_storm(plan: &Plan) -> bool {
    matches!(plan.kind, Kind::Storm { .. })
}

/// What the generator has done, and not done.
fn generator(plan: &Plan, finished: &Finished, slot: &Slot, find: &mut impl FnMut(Grade, String)) {
    if plan.is_open() || plan.connection_rate.is_some() && is_storm(plan) {
        // Of a few messages the latest says nothing: what ten of them have is their tail.
        let worst = |times| {
            [99.0, 90.0, 50.0].into_iter().find_map(|percent| percentile(times, percent)).unwrap_or_default()
        };
        let (lag, response) = (worst(&slot.lag), worst(&slot.response));
        let cure = cure(plan, finished);
        if lag > LAG_INVALID && lag as f64 > response as f64 * 0.2 {
            find(
                Grade::Invalid,
                format!("the generator was late: send-lag {} in the tail; {cure}", short(lag)),
            );
        } else if lag > LAG_MAX.max((response as f64 * 0.05) as Nanos) {
            let part = lag as f64 / response.max(1) as f64 * 100.0;
            let reason =
                format!("send-lag {} in the tail is {part:.0} % of the response's; {cure}", short(lag));
            find(Grade::Degraded, reason);
        }
        let ours = slot.ledger.unoffered;
        if ours as f64 > slot.ledger.planned as f64 * 0.001 {
            let part = (slot.ledger.planned - ours) as f64 / slot.ledger.planned as f64 * 100.0;
            find(Grade::Invalid, format!("the generator offered {part:.1} % of the plan; {cure}"));
        }
    }
}

/// What the machine has done to the figures.
fn machine(plan: &Plan, finished: &Finished, find: &mut impl FnMut(Grade, String)) {
    let is_timed = plan.is_open() || plan.connection_rate.is_some() && is_storm(plan);
    if !is_timed && finished.cpu > CPU_MAX {
        let reason = format!(
            "a thread of the generator was busy for {:.0} % of the time: these may be its limits, not the server's; add threads (-t)",
            finished.cpu * 100.0
        );
        find(Grade::Degraded, reason);
    }
    let stolen = finished.kernel.stolen();
    if stolen > STOLEN_MAX {
        let reason =
            format!("the hypervisor took {:.1} % of the machine's time; use a quieter host", stolen * 100.0);
        find(Grade::Degraded, reason);
    }
}

/// What the server owes.
fn server(
    plan: &Plan,
    finished: &Finished,
    ledger: &Ledger,
    beside: &Ledger,
    find: &mut impl FnMut(Grade, String),
) {
    let errors = ledger.errors() + beside.errors() + finished.record.duplicates + finished.record.stray;
    let unanswered = ledger.unanswered + beside.unanswered;
    if errors + unanswered + finished.record.failed <= plan.errors_max {
        return;
    }
    let wrong = ledger.wrong + beside.wrong;
    let timed_out = ledger.timed_out + beside.timed_out;
    for (count, one, many) in [
        (finished.record.failed, "connection failed", "connections failed"),
        (if is_storm(plan) { 0 } else { wrong }, "reply was wrong", "replies were wrong"),
        (finished.record.duplicates, "reply was doubled", "replies were doubled"),
        (
            finished.record.stray,
            "message was foreign or out of order",
            "messages were foreign or out of order",
        ),
        (if is_storm(plan) { 0 } else { timed_out }, "message timed out", "messages timed out"),
        (unanswered, "message is unanswered", "messages are unanswered"),
    ] {
        if count > 0 {
            find(Grade::Failed, format!("{} {}", grouped(count), if count == 1 { one } else { many }));
        }
    }
}

fn cure(plan: &Plan, finished: &Finished) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    if finished.cpu > CPU_MAX && plan.threads < cores {
        return "add threads (-t)".into();
    }
    if finished.pace == "sleep" {
        return "use --driver uring with --pace hybrid or spin".into();
    }
    "give the generator cores of its own (--pin), or lower the rate".into()
}

/// Of a response's p99, and at least, how late may we be.
const LAG_MAX: Nanos = 50_000;
const LAG_INVALID: Nanos = 1_000_000;
const CPU_MAX: f64 = 0.9;
const STOLEN_MAX: f64 = 0.01;

/// How far the server has stayed behind the plan.
fn not_sustained(plan: &Plan, time: Duration, ledger: &Ledger) -> Option<String> {
    let seconds = time.as_secs_f64();
    if !plan.is_open() || ledger.planned == 0 || seconds <= 0.0 {
        return None;
    }
    let part = ledger.in_time as f64 / ledger.planned as f64;
    if part >= SUSTAINED {
        return None;
    }
    let behind = ledger.planned.saturating_sub(ledger.in_time) as f64 / seconds;
    Some(format!(
        "not sustained: achieved {}/s ({:.0} %), the backlog grew by {}/s; percentiles are those of a growing queue",
        rate_text(ledger.in_time as f64 / seconds),
        part * 100.0,
        rate_text(behind),
    ))
}

/// What has to be answered while the run lasts: the last replies may come a little later.
const SUSTAINED: f64 = 0.98;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.grade.name())?;
        let all: Vec<&str> = self
            .sustained
            .iter()
            .map(String::as_str)
            .chain(self.reasons.iter().map(String::as_str))
            .collect();
        if !all.is_empty() {
            write!(f, ": {}", all.join(", "))?;
        }
        if self.is_interrupted { f.write_str(" (interrupted)") } else { Ok(()) }
    }
}

/// The line under the verdict: what was planned, and what became of it.
pub(crate) fn accounts(plan: &Plan, ledger: &Ledger) -> String {
    let what = if is_storm(plan) { "connection" } else { "message" };
    format!(
        "planned {} = answered {} + errors {} + unanswered {}",
        plural(ledger.planned, what),
        grouped(ledger.answered),
        grouped(ledger.errors()),
        grouped(ledger.unanswered)
    )
}
