//! A run: starts the threads, adds up what they send each second, and puts it all together in the end.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use switchpoint::Driver;

use crate::{
    archive::Archive,
    content::Content,
    fanout,
    kernel::{self, Counters},
    pace::Pace,
    plan::{Kind, Plan},
    progress::Progress,
    record::{Interval, Record, Second},
    server::{self, Usage},
    units::{Nanos, nanos},
    worker::{self, Pipe, Shared},
};

/// A run that is over.
pub(crate) struct Finished {
    pub(crate) record: Record,
    /// In their order, from the start on.
    pub(crate) seconds: Vec<Second>,
    /// Connections that have switched.
    pub(crate) opened: u32,
    /// How long was measured.
    pub(crate) measured: Duration,
    /// When it began.
    pub(crate) began: SystemTime,
    /// What the threads stood on.
    pub(crate) driver: Driver,
    /// How they have waited.
    pub(crate) pace: &'static str,
    /// The part of its core that the busiest thread has used.
    pub(crate) cpu: f64,
    /// What the server used meanwhile, if that was asked for and could be read.
    pub(crate) server: Option<Usage>,
    /// What the kernel has counted meanwhile.
    pub(crate) kernel: Counters,
    pub(crate) fanout: Option<fanout::Figures>,
    /// Who has done it, if not this process.
    pub(crate) agents: Option<String>,
    /// A signal ended it.
    pub(crate) is_interrupted: bool,
}

/// What one process of several has to say in the end.
#[derive(Serialize, Deserialize)]
pub(crate) struct Share {
    record: Record,
    seconds: Vec<Second>,
    opened: u32,
    measured: Nanos,
    cpu: f64,
    is_epoll: bool,
    pace: String,
    is_interrupted: bool,
    kernel: Counters,
}

impl Finished {
    /// As another process may have it.
    pub(crate) fn into_share(self) -> Share {
        Share {
            opened: self.opened,
            measured: nanos(self.measured),
            cpu: self.cpu,
            is_epoll: self.driver == Driver::Epoll,
            pace: self.pace.to_owned(),
            is_interrupted: self.is_interrupted,
            record: self.record,
            seconds: self.seconds,
            kernel: self.kernel,
        }
    }

    /// The sum of what several have done.
    pub(crate) fn of_shares(
        plan: &Plan,
        shares: Vec<Share>,
        agents: String,
        is_interrupted: bool,
    ) -> io::Result<Self> {
        let mut sum = Self {
            record: Record::new(plan.slots()),
            seconds: Vec::new(),
            opened: 0,
            measured: Duration::ZERO,
            began: SystemTime::now(),
            driver: Driver::Uring,
            pace: "auto",
            cpu: 0.0,
            server: None,
            kernel: Counters::default(),
            fanout: None,
            agents: Some(agents),
            is_interrupted,
        };
        let mut seconds: BTreeMap<u64, Vec<Second>> = BTreeMap::new();
        for share in shares {
            let has_phase = |phase: &usize| *phase < plan.phases.len();
            if share.record.slots.len() != sum.record.slots.len()
                || !share.record.reopening.keys().all(has_phase)
            {
                return Err(io::Error::other("an agent has carried out another plan"));
            }
            sum.record.merge(&share.record);
            sum.kernel.merge(&share.kernel);
            for second in share.seconds {
                seconds.entry(second.second).or_default().push(second);
            }
            sum.opened += share.opened;
            sum.measured = sum.measured.max(Duration::from_nanos(share.measured));
            sum.cpu = sum.cpu.max(share.cpu);
            if share.is_epoll {
                sum.driver = Driver::Epoll;
            }
            sum.pace = share.pace.parse::<Pace>().map_or("auto", Pace::name);
            sum.is_interrupted |= share.is_interrupted && is_interrupted;
        }
        sum.began -= sum.measured;
        let sum_of = |(second, shares): (u64, Vec<Second>)| {
            let mut sum = Interval { second, ..Interval::new() };
            shares.iter().for_each(|share| sum.merge(&share.unpacked()));
            sum.packed()
        };
        sum.seconds = seconds.into_iter().map(sum_of).collect();
        Ok(sum)
    }
}

/// Says when to start, given the instant that times count from; called once all connections are there.
pub(crate) type Begin<'a> = Box<dyn FnOnce(Instant) -> io::Result<Nanos> + 'a>;

/// Carries out the plan. With `begin` somebody else says when.
pub(crate) fn run(
    plan: &Arc<Plan>,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    mut progress: Progress,
    begin: Option<Begin<'_>>,
) -> io::Result<Finished> {
    // A process that is not there had better be noticed now.
    plan.server_pid.map(server::cpu_time).transpose()?;
    let content = Arc::new(Content::new(plan.sizes, plan.is_text(), plan.seed));
    if matches!(plan.kind, Kind::Fanout { .. }) {
        fanout::SENT.get_or_init(|| fanout::Sent::new(plan));
    }
    let shared = Arc::new(Shared {
        stop,
        epoch: Instant::now(),
        ready: AtomicU32::new(0),
        opened: AtomicU32::new(0),
        start: OnceLock::new(),
        is_start_given: begin.is_some(),
        connector: plan.connector().map_err(io::Error::other)?,
        replies: (0..plan.threads).map(|_| AtomicU64::new(0)).collect(),
    });
    let began = SystemTime::now();
    let kernel = Counters::read();
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let (full, intervals) = mpsc::channel();
    let mut empties = Vec::new();
    let mut threads = Vec::new();
    for index in 0..plan.threads {
        // From the last one downwards: a server that is pinned from the first one on is left alone.
        let core = match plan.cores {
            Some((first, count)) => {
                cores.iter().find(|core| core.id == first + index as usize % count).copied()
            }
            None => cores.iter().rev().cycle().nth(index as usize).copied(),
        };
        let (give, empty) = mpsc::channel();
        for _ in 0..SPARE {
            let _ = give.send(Box::new(Interval::brought()));
        }
        empties.push(give);
        let pipe = Pipe { full: full.clone(), empty };
        let (plan, content, shared) = (Arc::clone(plan), Arc::clone(&content), Arc::clone(&shared));
        let body = move || {
            if let Some(core) = core {
                // Where it is refused the thread runs all the same, only less evenly.
                core_affinity::set_for_current(core);
            }
            worker::run_thread(plan, content, shared, address, index, pipe)
        };
        threads.push(thread::Builder::new().name(format!("loadgen-{index}")).spawn(body)?);
    }
    drop(full);
    let is_running = || threads.iter().any(|thread| !thread.is_finished());
    let mut begun = Ok(());
    if let Some(begin) = begin {
        while shared.ready.load(Ordering::Acquire) < plan.threads && is_running() {
            thread::sleep(Duration::from_millis(1));
        }
        match begin(shared.epoch) {
            Ok(start) => drop(shared.start.set(start)),
            Err(error) => {
                shared.stop.store(true, Ordering::Relaxed);
                begun = Err(error);
            }
        }
    }
    let seconds = gather(plan, &intervals, &empties, &mut progress, is_running);
    progress.finish();

    begun?;
    let seconds = seconds.unwrap_or_else(|error| {
        eprintln!(
            "loadgen: the temporary file with the run's seconds cannot be read, so they are missing: {error}"
        );
        Vec::new()
    });
    let mut record = Record::new(plan.slots());
    let mut heard: Option<fanout::Heard> = None;
    let (mut driver, mut pace, mut server, mut over, mut cpu) = (plan.driver, "auto", None, 0, 0.0_f64);
    for thread in threads {
        let done =
            thread.join().map_err(|_| io::Error::other("a thread panicked; its message stands above"))??;
        record.merge(&done.record);
        (driver, pace) = (done.driver, done.pace);
        server = done.server.or(server);
        over = over.max(done.over);
        cpu = cpu.max(done.cpu);
        if let Some(other) = done.fanout {
            heard.get_or_insert_default().merge(&other);
        }
    }
    let fanout = heard.and_then(|heard| Some(heard.figures(&mut record, fanout::SENT.get()?, over)));
    Ok(Finished {
        // A server that went silent does not make the measurement shorter, nor the grace make it longer.
        measured: shared
            .start
            .get()
            .map_or(Duration::ZERO, |start| measured(plan, *start, end(plan, &record, over))),
        record,
        seconds,
        opened: shared.opened.load(Ordering::Relaxed),
        began,
        driver,
        pace,
        cpu,
        server,
        kernel: Counters::read().since(&kernel),
        fanout,
        agents: None,
        is_interrupted: shared.stop.load(Ordering::Relaxed),
    })
}

/// How long the phases that are measured were, in a run from `start` to `end`.
fn measured(plan: &Plan, start: Nanos, end: Nanos) -> Duration {
    let (mut from, mut sum) = (start, 0);
    for phase in &plan.phases {
        let until = phase.time.map_or(Nanos::MAX, |time| from.saturating_add(nanos(time)));
        if phase.is_measured {
            sum += until.min(end).saturating_sub(from);
        }
        from = until;
    }
    Duration::from_nanos(sum)
}

/// Where the messages decide, the run was over with the last reply, if all were answered.
fn end(plan: &Plan, record: &Record, over: Nanos) -> Nanos {
    let are_all = record.slots.iter().all(|slot| slot.ledger.unanswered == 0);
    if plan.requests.is_some() && record.last > 0 && are_all { record.last.min(over) } else { over }
}

/// Takes the threads' intervals until all threads are done.
fn gather(
    plan: &Plan,
    intervals: &mpsc::Receiver<Box<Interval>>,
    empties: &[mpsc::Sender<Box<Interval>>],
    progress: &mut Progress,
    is_running: impl Fn() -> bool,
) -> io::Result<Vec<Second>> {
    let mut open: BTreeMap<u64, (Interval, u32)> = BTreeMap::new();
    let mut over = Archive::new();
    // Each has the room for all that might occur, and a new one for each second would be memory that comes and goes.
    let mut spares: Vec<Interval> = Vec::new();
    let mut turn = 0;
    loop {
        let mut interval = match intervals.recv_timeout(LOOK_UP) {
            Ok(interval) => interval,
            // A thread that has panicked may have left its end behind.
            Err(mpsc::RecvTimeoutError::Timeout) if is_running() => {
                progress.look_up();
                continue;
            }
            Err(_) => match intervals.try_recv() {
                Ok(interval) => interval,
                Err(_) => break,
            },
        };
        let entry = open.entry(interval.second);
        let (second, threads) = entry.or_insert_with(|| {
            let spare = spares.pop().unwrap_or_else(Interval::brought);
            (Interval { second: interval.second, is_measured: false, ..spare }, 0)
        });
        second.merge(&interval);
        *threads += 1;
        if *threads == plan.threads
            && let Some((mut second, _)) = open.remove(&interval.second)
        {
            progress.second(&second);
            over.push(&second);
            second.clear();
            spares.push(second);
        }
        interval.clear();
        // Whoever needs none any more has hung up.
        let _ = empties[turn % empties.len()].send(interval);
        turn += 1;
    }
    let mut seconds = over.read()?;
    seconds.extend(open.into_values().map(|(second, _)| second.packed()));
    seconds.sort_by_key(|second| second.second);
    Ok(seconds)
}

const LOOK_UP: Duration = Duration::from_millis(100);
/// Empty intervals that each thread begins with, so that it allocates none while it measures.
const SPARE: usize = 2;

/// What the machine was, for the results.
pub(crate) fn environment() -> Vec<(&'static str, String)> {
    kernel::environment()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Phase, What, tests::plan};

    #[test]
    fn what_is_measured_is_the_sum_of_the_phases_that_are() {
        let like = plan(What::Echo, 1).phases.remove(0);
        let phase = |seconds, is_measured| Phase {
            time: Some(Duration::from_secs(seconds)),
            is_measured,
            ..like.clone()
        };
        let plan = Plan {
            phases: vec![phase(1, false), phase(2, true), phase(3, false), phase(4, true)],
            ..plan(What::Echo, 1)
        };
        let seconds = |count: u64| count * 1_000_000_000;
        for (end, expected) in [(15, 6), (14, 5), (11, 2), (8, 2), (7, 1), (6, 0)] {
            let measured = measured(&plan, seconds(5), seconds(end));
            assert_eq!(measured, Duration::from_secs(expected), "{end}");
        }
    }
}
