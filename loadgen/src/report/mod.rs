//! What came out: for people (`text.rs`, `html.rs`), for programs (`json.rs`, `csv.rs`), for other histogram tools
//! (`hdr.rs`).

mod csv;
mod hdr;
mod html;
mod json;
mod text;

use std::{fs, io, path::Path, sync::Arc};

use crate::{
    plan::{COHORTS, Cohort, Format, Http2, Kind, Plan, What},
    record::{Ledger, Packed, Slot, Times},
    run::Finished,
    stats,
    units::{Nanos, grouped, plural, rate_text},
    verdict::{self, Verdict},
};

pub(crate) use json::read;

/// A run and its plan.
pub(crate) struct Report {
    plan: Arc<Plan>,
    finished: Finished,
    verdict: Verdict,
    /// All phases that are measured, as one.
    total: Slot,
    warmup: Ledger,
}

impl Report {
    pub(crate) fn new(plan: Arc<Plan>, finished: Finished) -> Self {
        let verdict = Verdict::new(&plan, &finished);
        let total = verdict::measured(&plan, &finished);
        let warmup = verdict::warmup(&plan, &finished);
        Self { plan, finished, verdict, total, warmup }
    }

    pub(crate) fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The latencies of each second that was measured.
    pub(crate) fn measured_seconds(&self) -> Vec<Packed> {
        let seconds = self.finished.seconds.iter().filter(|second| second.is_measured);
        seconds.map(|second| second.latency.clone()).collect()
    }

    /// Between what p99 lies, if there are enough samples to say.
    pub(crate) fn p99_interval(&self) -> Option<(Nanos, Nanos)> {
        let latency = self.latency();
        stats::interval(latency, 0.99).filter(|_| latency.len() >= 1000)
    }

    /// What goes to the standard output.
    pub(crate) fn standard(&self) -> String {
        match self.plan.output.format {
            Format::Text => self.text(),
            Format::Quiet => self.verdict.to_string() + "\n",
            Format::Json => format!("{:#}\n", self.json()),
            Format::Csv => self.csv(),
        }
    }

    /// Writes the files that were asked for.
    pub(crate) fn write(&self) -> io::Result<()> {
        let output = &self.plan.output;
        let write = |path: &Path, content: &dyn Fn() -> String| {
            let named =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            fs::write(path, content()).map_err(named)
        };
        if let Some(path) = &output.json {
            write(path, &|| format!("{:#}\n", self.json()))?;
        }
        if let Some(path) = &output.csv {
            write(path, &|| self.csv())?;
        }
        if let Some(path) = &output.hlog {
            write(path, &|| self.hlog())?;
        }
        if let Some(path) = &output.html {
            write(path, &|| self.html())?;
        }
        if let Some(folder) = &output.hgrm {
            fs::create_dir_all(folder)?;
            for (name, times) in self.histograms() {
                if !times.is_empty() {
                    write(&folder.join(format!("{}.hgrm", name.replace('/', "-"))), &|| hdr::hgrm(times))?;
                }
            }
        }
        Ok(())
    }

    /// All histograms by their names: those of each phase and cohort, and those of the connections.
    fn histograms(&self) -> Vec<(String, &Times)> {
        let mut all = Vec::new();
        for (index, slot) in self.finished.record.slots.iter().enumerate() {
            let phase = &self.plan.phases[index / COHORTS].name;
            let name = match Cohort::of(index).name() {
                Some(cohort) => format!("{phase}/{cohort}"),
                None => phase.clone(),
            };
            for (kind, times) in
                [("response", &slot.response), ("service", &slot.service), ("send-lag", &slot.lag)]
            {
                all.push((format!("{name}/{kind}"), times));
            }
        }
        all.extend(self.finished.record.opening.all().map(|(name, times)| (name.to_owned(), times)));
        for (phase, opening) in &self.finished.record.reopening {
            let phase = &self.plan.phases[*phase].name;
            all.extend(opening.all().map(|(name, times)| (format!("{phase}/{name}"), times)));
        }
        if let Some(fanout) = &self.finished.fanout {
            all.push(("last-receiver".to_owned(), &fanout.last));
        }
        all
    }

    /// What became of a phase's messages, but for those of idle connections.
    fn ledger_of(&self, phase: usize) -> Ledger {
        let mut ledger = Ledger::default();
        for cohort in Cohort::BUSY {
            ledger.add(&self.finished.record.slots[usize::from(cohort.slot(phase))].ledger);
        }
        ledger
    }

    /// What counts as the latency of the run: the response where there are intended times, else the service.
    fn latency(&self) -> &Times {
        if self.is_open() { &self.total.response } else { &self.total.service }
    }

    fn is_open(&self) -> bool {
        self.plan.is_open() || !self.total.response.is_empty()
    }

    /// Answered a second, while it was measured.
    fn rate(&self) -> Option<f64> {
        let seconds = self.finished.measured.as_secs_f64();
        (seconds > 0.0).then(|| self.total.ledger.in_time as f64 / seconds)
    }
}

/// What the run is, in words.
fn kind(plan: &Plan) -> String {
    let what = match &plan.what {
        What::WebSocket(how) if how.is_text => "text messages over websocket",
        What::WebSocket(_) => "binary messages over websocket",
        What::Echo => "messages over a raw echo",
        What::Http2(Http2 { websocket: Some(how), .. }) if how.is_text => {
            "text messages over websockets on http/2"
        }
        What::Http2(Http2 { websocket: Some(_), .. }) => "binary messages over websockets on http/2",
        What::Http2(Http2 { posts: true, .. }) => "posts over http/2",
        What::Http2(_) => "requests over http/2",
    };
    let how = match &plan.what {
        What::Http2(how) => {
            let by = match (plan.target.url.is_secure(), how.has_prior_knowledge) {
                (true, _) => "ALPN",
                (_, true) => "prior knowledge",
                _ => "upgrade",
            };
            let streams = plural(how.streams as u64, "stream");
            let asks = !how.posts && how.websocket.is_none();
            let size = if asks { String::new() } else { format!(" of {}", plan.sizes) };
            return format!("{what}{size}, by {by}, {streams} each");
        }
        _ => what,
    };
    match plan.kind {
        Kind::Load => format!("{how} of {}", plan.sizes),
        Kind::Storm { says: true, .. } => {
            format!("a storm of connections, each with one of {what} of {}", plan.sizes)
        }
        Kind::Storm { .. } => "connections that stay".to_owned(),
        Kind::Fanout { senders } => {
            let receivers = u64::from(plan.connections - senders);
            format!(
                "{} to {}, {what} of {}",
                plural(senders.into(), "sender"),
                plural(receivers, "receiver"),
                plan.sizes
            )
        }
    }
}

/// What is not as usual, in words.
fn options(plan: &Plan) -> Vec<String> {
    let mut options = Vec::new();
    if let Some(how) = plan.websocket() {
        options.extend(how.deflate.then(|| "permessage-deflate".to_owned()));
        options.extend(how.fragment.map(|size| format!("frames of {size} bytes")));
        options.extend(how.has_zero_mask.then(|| "masks of zeroes".to_owned()));
        options.extend(how.ping.map(|time| format!("a ping each {}", humantime::format_duration(time))));
    }
    options.extend(
        plan.slow
            .map(|slow| format!("{} % slow, of {} bytes a second", slow.part * 100.0, slow.bytes_a_second)),
    );
    options.extend(plan.timeout.map(|time| format!("a timeout of {}", humantime::format_duration(time))));
    options.extend(plan.reconnects.then(|| "reconnects".to_owned()));
    options.extend(plan.connection_rate.map(|rate| format!("{} connections/s", rate_text(rate))));
    options
}

/// When messages, or connections, are due.
fn schedule(plan: &Plan) -> String {
    let mut parts: Vec<String> = Vec::new();
    for phase in &plan.phases {
        let rate = match &phase.profile {
            Some(profile) => format!("{}/s", rate_text(profile.mean())),
            None => "closed loop".to_owned(),
        };
        let time =
            phase.time.map_or_else(String::new, |time| format!(" for {}", humantime::format_duration(time)));
        parts.push(format!("{}: {rate}{time}", phase.name));
    }
    if let (Kind::Storm { .. }, Some(rate)) = (plan.kind, plan.connection_rate) {
        parts = vec![format!("{} connections/s", rate_text(rate))];
    }
    parts.extend(plan.requests.map(|requests| plural(requests, "message")));
    parts.join(", ")
}

/// What is about to run.
pub(crate) fn heading(plan: &Plan) -> String {
    let in_flight = match plan.kind {
        Kind::Load if plan.is_open() => String::new(),
        Kind::Load => format!(" with {} in flight each", plan.depth),
        _ => String::new(),
    };
    let mut apart = String::new();
    for (count, name) in [(plan.count(Cohort::Idle), "idle"), (plan.count(Cohort::Slow), "slow")] {
        if count > 0 {
            apart += &format!(", {} of them {name}", grouped(count.into()));
        }
    }
    format!(
        "loadgen {}  {}\n  {}\n  {}{apart}{in_flight}, {}, seed {}\n  {}",
        env!("CARGO_PKG_VERSION"),
        plan.target,
        kind(plan),
        plural(plan.connections.into(), "connection"),
        plural(plan.threads.into(), "thread"),
        plan.seed,
        schedule(plan),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::{Duration, SystemTime};

    use switchpoint::Driver;

    use super::*;
    use crate::{
        kernel::Counters,
        record::{Interval, Record, Second, times},
    };

    /// An empty run of two seconds.
    pub(crate) fn finished(plan: &Plan) -> Finished {
        Finished {
            record: Record::new(plan.slots()),
            seconds: Vec::new(),
            opened: plan.connections,
            measured: Duration::from_secs(2),
            began: SystemTime::UNIX_EPOCH,
            driver: Driver::Epoll,
            pace: "sleep",
            cpu: 0.5,
            server: None,
            kernel: Counters::default(),
            agents: None,
            fanout: None,
            is_interrupted: false,
        }
    }

    /// A second with so many answers.
    pub(crate) fn second(second: u64, count: u64) -> Second {
        let mut latency = times();
        (0..count).for_each(|at| latency.record(10_000 + at * 1000).unwrap());
        Interval {
            second,
            latency,
            planned: count,
            sent: count,
            answered: count,
            errors: 0,
            lag_max: 0,
            is_measured: true,
        }
        .packed()
    }
}
