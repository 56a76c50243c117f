//! The summary for people: the verdict first, then the accounts, then what everything took.

use std::{fmt::Write as _, time::Duration};

use comfy_table::{CellAlignment, Table, presets};

use super::Report;
use crate::{
    plan::{COHORTS, Cohort, Kind},
    record::{Ledger, Times, percentile},
    stats,
    units::{Nanos, grouped, plural, rate_text, short},
    verdict,
};

impl Report {
    /// What is not known is a dash.
    pub(super) fn text(&self) -> String {
        let finished = &self.finished;
        let mut out = format!("\n{}\n\n", self.verdict);
        let mut line = |name: &str, text: &str| {
            let _ = writeln!(out, "  {name:<12}{text}");
        };
        let ledger = &self.total.ledger;
        line("accounts", &verdict::accounts(&self.plan, ledger));
        let rate = self.rate().map_or_else(|| DASH.to_owned(), |rate| format!("{}/s", rate_text(rate)));
        let planned = match (self.plan.is_open(), finished.measured.as_secs_f64()) {
            (true, seconds) if seconds > 0.0 => {
                format!(" of {}/s planned", rate_text(ledger.planned as f64 / seconds))
            }
            _ => String::new(),
        };
        line("rate", &format!("{rate} answered{planned}, over {:.2} s", finished.measured.as_secs_f64()));
        if ledger.held > 0 {
            line(
                "held",
                &format!("{} had no connection with room for them at their time", grouped(ledger.held)),
            );
        }
        if self.plan.has(Cohort::Idle) {
            let ledger = verdict::idle(&self.plan, finished);
            line(
                "idle",
                &format!(
                    "{} of {} that were silent until the end were answered then",
                    grouped(ledger.answered),
                    plural(self.plan.count(Cohort::Idle).into(), "connection")
                ),
            );
        }
        if self.warmup.planned > 0 {
            let Ledger { planned, answered, unanswered, .. } = self.warmup;
            let errors = self.warmup.errors();
            line(
                "warm-up",
                &format!(
                    "{} excluded by their intended time: {} answered, {errors} errors, {unanswered} unanswered",
                    grouped(planned),
                    grouped(answered)
                ),
            );
        }
        line(
            "connections",
            &format!(
                "{} of {} opened, {} failed",
                grouped(finished.opened.into()),
                grouped(self.plan.connections.into()),
                grouped(finished.record.failed)
            ),
        );
        let lag = match percentile(&self.total.lag, 99.0) {
            Some(lag) => format!("send-lag p99 {}, ", short(lag)),
            None => String::new(),
        };
        line(
            "generator",
            &format!("{lag}cpu {:.0} %, {} on {}", finished.cpu * 100.0, finished.pace, finished.driver),
        );
        if let Some(agents) = &finished.agents {
            line("agents", agents);
        }
        if let Some(server) = &finished.server
            && let Some(cpu) = server.cpu_per_message()
        {
            let cpu = grouped(cpu.round() as u64);
            let memory = server.memory as f64 / f64::from(1 << 20);
            line(
                "server",
                &format!("{cpu} ns of CPU for a message, {:.2} of a core, {memory:.1} MiB", server.cores()),
            );
        }
        if let Some(fanout) = &finished.fanout {
            let heard = &fanout.heard;
            let expected = heard.messages * heard.receivers;
            let reach = if expected > 0 {
                format!("{:.4} %", ledger.answered as f64 / expected as f64 * 100.0)
            } else {
                DASH.to_owned()
            };
            line(
                "fan-out",
                &format!(
                    "{} to {}, reach {reach}, {} not heard by all; {} gaps, {} doubled, {} out of order",
                    plural(heard.messages, "message"),
                    plural(heard.receivers, "receiver"),
                    grouped(fanout.incomplete),
                    grouped(heard.gaps),
                    grouped(heard.duplicates),
                    grouped(heard.disorder)
                ),
            );
        }
        let kernel: Vec<String> = finished
            .kernel
            .values()
            .iter()
            .filter(|(_, value)| *value > 0)
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        if !kernel.is_empty() {
            line("kernel", &kernel.join("  "));
        }
        if finished.record.late > 0 {
            line(
                "late",
                &format!("{} replies came after their message was given up", grouped(finished.record.late)),
            );
        }
        for (kind, errors) in &finished.record.errors {
            line("error", &format!("{} \u{d7} {kind}: {}", grouped(errors.count), errors.example));
        }
        out.push('\n');
        out.push_str(&self.table());
        self.phases(&mut out);
        self.shape(&mut out);
        for outcome in &self.verdict.thresholds {
            let mark = if outcome.is_met { "ok  " } else { "FAIL" };
            let _ = writeln!(out, "  {mark}  {}  {}", outcome.text, outcome.value);
        }
        if !self.verdict.thresholds.is_empty() {
            out.push('\n');
        }
        self.notes(&mut out);
        out
    }

    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let percentiles = &self.plan.output.percentiles;
        let mut heads: Vec<String> = ["", "count", "min"].map(str::to_owned).to_vec();
        heads.extend(percentiles.iter().map(|percent| format!("p{percent}")));
        heads.extend(["max", "p99 \u{b1}"].map(str::to_owned));
        table.set_header(heads);
        let mut row = |name: &str, times: &Times| {
            if times.is_empty() {
                return;
            }
            let mut cells = vec![name.to_owned(), grouped(times.len()), short(times.min())];
            for percent in percentiles {
                cells.push(percentile(times, *percent).map_or_else(|| DASH.to_owned(), short));
            }
            cells.push(short(times.max()));
            let width = stats::interval(times, 0.99).map(|(low, high)| (high - low) / 2);
            cells.push(width.filter(|_| times.len() >= 1000).map_or_else(|| DASH.to_owned(), short));
            table.add_row(cells);
        };
        let is_several = self.plan.phases.iter().filter(|phase| phase.is_measured).count() > 1;
        for (index, slot) in self.finished.record.slots.iter().enumerate() {
            let phase = &self.plan.phases[index / COHORTS];
            if !phase.is_measured {
                continue;
            }
            let prefix = if is_several { format!("{} ", phase.name) } else { String::new() };
            let cohort = Cohort::of(index).name();
            let prefix = cohort.map_or_else(|| prefix.clone(), |cohort| format!("{prefix}{cohort} "));
            row(&format!("{prefix}response"), &slot.response);
            row(&format!("{prefix}service"), &slot.service);
            row(&format!("{prefix}send-lag"), &slot.lag);
        }
        if is_several {
            row("all response", &self.total.response);
            row("all service", &self.total.service);
        }
        if let Some(fanout) = &self.finished.fanout {
            row("last receiver", &fanout.last);
        }
        for (name, times) in self.finished.record.opening.all() {
            row(&name.replace('-', " "), times);
        }
        for (phase, opening) in &self.finished.record.reopening {
            for (name, times) in opening.all() {
                row(&format!("{} {}", self.plan.phases[*phase].name, name.replace('-', " ")), times);
            }
        }
        for (at, column) in table.column_iter_mut().enumerate() {
            if at > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
            column.set_padding((if at == 0 { 2 } else { 0 }, 2));
        }
        if self.finished.record.opening.tcp.is_empty() && self.latency().is_empty() {
            return String::new();
        }
        let text: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        text.join("\n") + "\n\n"
    }

    /// How each phase was by itself.
    fn phases(&self, out: &mut String) {
        for phase in &self.verdict.phases {
            let ledger = self.ledger_of(phase.index);
            let of = &self.plan.phases[phase.index];
            let rate = of.time.map_or_else(String::new, |time| {
                let rate = ledger.in_time as f64 / time.as_secs_f64();
                format!("{}/s for {}, ", rate_text(rate), humantime::format_duration(time))
            });
            let why = phase.reasons.join(", ");
            let _ = writeln!(
                out,
                "  {:<12}{}  {rate}planned {} = answered {} + errors {} + unanswered {}{}{why}",
                of.name,
                phase.grade.name(),
                grouped(ledger.planned),
                grouped(ledger.answered),
                grouped(ledger.errors()),
                grouped(ledger.unanswered),
                if why.is_empty() { "" } else { "; " },
            );
            for outcome in &phase.thresholds {
                let mark = if outcome.is_met { "ok  " } else { "FAIL" };
                let _ = writeln!(out, "  {:<12}{mark}  {}  {}", "", outcome.text, outcome.value);
            }
        }
        if !self.verdict.phases.is_empty() {
            out.push('\n');
        }
    }

    /// The latencies on a logarithmic scale, and how rate and p99 went.
    fn shape(&self, out: &mut String) {
        let latency = self.latency();
        if latency.len() < 100 {
            return;
        }
        let mut bins: Vec<(Nanos, u64)> = Vec::new();
        for value in latency.iter_log(latency.min().max(1_000), 2.0) {
            bins.push((value.value_iterated_to(), value.count_since_last_iteration()));
        }
        let most = bins.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
        for (upper, count) in bins {
            // A tail of one in a million shows as one.
            let width = ((count as f64).ln_1p() / (most as f64).ln_1p() * 40.0).ceil() as usize;
            if count > 0 {
                let _ = writeln!(
                    out,
                    "  {:>10}  {:<40} {}",
                    format!("\u{2264} {}", short(upper)),
                    "#".repeat(width),
                    grouped(count)
                );
            }
        }
        out.push('\n');
        let seconds: Vec<_> = self.finished.seconds.iter().filter(|second| second.is_measured).collect();
        if seconds.len() >= 3 {
            let rates: Vec<f64> = seconds.iter().map(|second| second.answered as f64).collect();
            let tails: Vec<f64> = seconds
                .iter()
                .map(|second| percentile(&second.latency.times(), 99.0).unwrap_or_default() as f64)
                .collect();
            let _ = writeln!(out, "  answered/s  {}   p99  {}\n", spark(&rates), spark(&tails));
        }
    }

    fn notes(&self, out: &mut String) {
        let mut note = |text: &str| {
            let _ = writeln!(out, "  {text}");
        };
        if self.total.censored > 0 {
            note(&format!(
                "{} of these times are what unanswered ones have waited: the true ones are longer.",
                grouped(self.total.censored)
            ));
        }
        match self.plan.kind {
            Kind::Load if !self.plan.is_open() => {
                let (longest, usual) = (self.finished.record.longest, self.total.service.mean());
                let missed = longest as f64 / usual.max(1.0)
                    * f64::from(self.plan.connections)
                    * self.plan.depth as f64;
                let missed = if longest > STALL && missed > 1.0 {
                    format!("; in the longest wait alone, {} or so", grouped(missed as u64))
                } else {
                    String::new()
                };
                note("Closed loop: while the server stalls nothing new is sent, so stalls are under-counted");
                note(&format!(
                    "(coordinated omission) and some messages were not offered{missed}. With --rate they are."
                ));
            }
            Kind::Storm { .. } => note("response and ready: from the intended connect to the verified 101."),
            _ => note(
                "response: from the intended time. service: from the actual one. send-lag: our own lateness.",
            ),
        }
        note("\u{2013}: fewer than 10 samples lie beyond.");
    }
}

const DASH: &str = "\u{2013}";
/// What is long enough to be called a stall.
const STALL: Nanos = Duration::from_millis(100).as_nanos() as Nanos;

/// A line of small bars, the highest for the most.
fn spark(values: &[f64]) -> String {
    let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let width = values.len().div_ceil(SPARKS);
    let bar = |values: &[f64]| {
        let value = values.iter().copied().fold(0.0, f64::max);
        BARS[((value / most * (BARS.len() - 1) as f64).round() as usize).min(BARS.len() - 1)]
    };
    values.chunks(width).map(bar).collect()
}

const SPARKS: usize = 30;
const BARS: [char; 8] =
    ['\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        fault::{Fault, Wrong},
        plan::{Plan, What, tests::plan},
        record::Record,
        report::tests::finished,
        verdict::Grade,
    };

    fn report(fill: impl FnOnce(&mut Record)) -> Report {
        let phases = plan(What::Echo, 1).phases;
        let plan = Plan { requests: None, phases, ..plan(What::Echo, 1 << 20) };
        let mut finished = finished(&plan);
        fill(&mut finished.record);
        Report::new(Arc::new(plan), finished)
    }

    fn answer(record: &mut Record, count: u64) {
        let slot = &mut record.slots[0];
        slot.ledger =
            Ledger { planned: count, sent: count, answered: count, in_time: count, ..Ledger::default() };
        slot.service.record_n(1500, count).unwrap();
    }

    #[test]
    fn a_good_run_says_how_fast_it_was() {
        let report = report(|record| answer(record, 1000));
        let text = report.text();
        assert_eq!((report.verdict().grade, report.verdict().exit_code()), (Grade::Valid, 0), "{text}");
        assert!(text.starts_with("\nVALID\n"), "{text}");
        assert!(text.contains("planned 1 000 messages = answered 1 000 + errors 0 + unanswered 0"), "{text}");
        assert!(text.contains("500/s answered"), "{text}");
        let service = text.lines().find(|line| line.trim_start().starts_with("service")).unwrap();
        assert_eq!(service.matches("1.50 \u{b5}s").count(), 5, "{service}");
        assert_eq!(service.matches(DASH).count(), 2, "no p99.9 of 1000 samples: {service}");
        assert!(text.contains("coordinated omission"));
    }

    #[test]
    fn every_way_to_fail_is_named_and_has_its_exit_code() {
        let verdict = |fill: &dyn Fn(&mut Record)| {
            let report = report(|record| {
                answer(record, 1);
                fill(record);
            });
            (report.verdict().to_string(), report.verdict().exit_code())
        };
        let empty = report(|_| {});
        assert_eq!(empty.verdict().exit_code(), verdict::FAILED);
        assert!(empty.text().contains("nothing was measured"));
        assert!(
            !empty.text().contains("NaN") && !empty.text().contains("inf") && !empty.text().contains("0 ns")
        );
        let unanswered = verdict(&|record| {
            record.slots[0].ledger.planned += 1;
            record.never_sent(0, 9, 0);
        });
        assert_eq!(unanswered, ("FAILED: 1 message is unanswered".to_owned(), 3));
        let wrong = verdict(&|record| {
            record.slots[0].ledger.planned += 2;
            record.slots[0].ledger.wrong += 2;
            record.error("wrong-type".into(), &Wrong::Type);
        });
        assert_eq!(wrong, ("FAILED: 2 replies were wrong".to_owned(), 3));
        assert!(verdict(&|record| record.fault(&Fault::Ended)).0.contains("1 connection failed"));
        let books = verdict(&|record| record.slots[0].ledger.planned += 1);
        assert!(books.0.starts_with("INVALID: the books do not balance") && books.1 == 4, "{books:?}");
    }

    #[test]
    fn bars_grow_with_their_values() {
        assert_eq!(spark(&[0.0, 7.0, 3.0]), "\u{2581}\u{2588}\u{2584}");
        assert_eq!(spark(&[1.0; 100]).chars().count(), 25);
    }
}
