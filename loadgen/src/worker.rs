//! One core: what its connections share, and the ticker that looks after them. And how the threads run together.
//!
//! ```text
//! open all connections | all threads have | warm-up | measurement | grace: replies still come, nothing is sent | cut
//!                                         start     from          until
//! ```

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use monoio::{FusionRuntime, task::JoinHandle};
use switchpoint::Driver;

use crate::{
    connection::{self, Opened},
    content::Content,
    fault::Fault,
    plan::{Plan, What},
    record::{Nanos, Record},
    scenario::Scenario,
    scenarios::{Echo, WebSocket},
    server::{self, Reading, Usage},
};

/// A run that is over.
pub(crate) struct Finished {
    pub(crate) record: Record,
    /// Connections that have switched.
    pub(crate) opened: u32,
    /// How long was measured.
    pub(crate) measured: Duration,
    /// What the threads stood on.
    pub(crate) driver: Driver,
    /// What the server used meanwhile, if that was asked for and could be read.
    pub(crate) server: Option<Usage>,
    /// A signal ended it.
    pub(crate) is_interrupted: bool,
}

/// Carries out the plan.
pub(crate) fn run(plan: &Arc<Plan>, address: SocketAddr, stop: Arc<AtomicBool>) -> io::Result<Finished> {
    // A process that is not there had better be noticed now.
    plan.server_pid.map(server::cpu_time).transpose()?;
    let content = Arc::new(Content::new(plan.size, plan.is_text(), plan.seed));
    let shared = Arc::new(Shared {
        stop,
        epoch: Instant::now(),
        ready: AtomicU32::new(0),
        opened: AtomicU32::new(0),
        start: OnceLock::new(),
    });
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let mut threads = Vec::new();
    for index in 0..plan.threads {
        // From the last one downwards: a server that is pinned from the first one on is left alone.
        let core = cores.iter().rev().cycle().nth(index as usize).copied();
        let (plan, content, shared) = (Arc::clone(plan), Arc::clone(&content), Arc::clone(&shared));
        let body = move || {
            if let Some(core) = core {
                // Where it is refused the thread runs all the same, only less evenly.
                core_affinity::set_for_current(core);
            }
            run_thread(plan, content, shared, address, index)
        };
        threads.push(thread::Builder::new().name(format!("loadgen-{index}")).spawn(body)?);
    }
    let mut record = Record::new();
    let mut driver = plan.driver;
    let mut server = None;
    let mut over = 0;
    for thread in threads {
        let done =
            thread.join().map_err(|_| io::Error::other("a thread panicked; its message stands above"))??;
        record.merge(&done.record);
        driver = done.driver;
        server = done.server.or(server);
        over = over.max(done.over);
    }
    let from = shared.start.get().map_or(Nanos::MAX, |start| start + nanos(plan.warmup));
    Ok(Finished {
        // A server that went silent does not make the measurement shorter, nor the grace make it longer.
        measured: Duration::from_nanos(over.max(record.last).saturating_sub(from)),
        record,
        opened: shared.opened.load(Ordering::Relaxed),
        driver,
        server,
        is_interrupted: shared.stop.load(Ordering::Relaxed),
    })
}

/// What the threads have in common. It is written when phases change, not for each message.
struct Shared {
    /// The user wants an end.
    stop: Arc<AtomicBool>,
    epoch: Instant,
    /// Threads that have opened what they could.
    ready: AtomicU32,
    /// Connections that have switched.
    opened: AtomicU32,
    /// When everyone starts, once all are ready.
    start: OnceLock<Nanos>,
}

/// What one thread brings home.
struct Done {
    record: Record,
    driver: Driver,
    server: Option<Usage>,
    /// When nothing was to be sent any more.
    over: Nanos,
}

fn run_thread(
    plan: Arc<Plan>,
    content: Arc<Content>,
    shared: Arc<Shared>,
    address: SocketAddr,
    index: u32,
) -> io::Result<Done> {
    let built = plan.driver.build();
    let mut runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => {
            // The others must not wait for this one.
            shared.ready.fetch_add(1, Ordering::AcqRel);
            return Err(error);
        }
    };
    let driver = match runtime {
        FusionRuntime::Uring(_) => Driver::Uring,
        FusionRuntime::Legacy(_) => Driver::Epoll,
    };
    let worker = Rc::new(Worker {
        budget: Cell::new(plan.budget(index)),
        plan,
        content,
        address,
        record: RefCell::new(Record::new()),
        out: RefCell::new(Vec::new()),
        live: Cell::new(0),
        gave_up: Cell::new(false),
        is_over: Cell::new(false),
        is_cut: Cell::new(false),
        server: Cell::new(None),
        shared,
    });
    let over = match worker.plan.what {
        What::WebSocket { .. } => runtime.block_on(Rc::clone(&worker).run::<WebSocket>(index)),
        What::Echo => runtime.block_on(Rc::clone(&worker).run::<Echo>(index)),
    };
    let record = worker.record.replace(Record::new());
    Ok(Done { record, driver, server: worker.server.get(), over })
}

/// What the connections of one core share. Nothing in it is shared with another core, but for what the plan says.
pub(crate) struct Worker {
    pub(crate) plan: Arc<Plan>,
    pub(crate) content: Arc<Content>,
    pub(crate) address: SocketAddr,
    pub(crate) record: RefCell<Record>,
    /// Where every write is put together: one buffer that stays in the cache.
    pub(crate) out: RefCell<Vec<u8>>,
    /// Connections that are not over.
    pub(crate) live: Cell<usize>,
    /// What still waits was given up.
    pub(crate) is_cut: Cell<bool>,
    /// A connection timed out, so the others are not tried.
    gave_up: Cell<bool>,
    /// Nothing more is to be sent.
    is_over: Cell<bool>,
    /// Messages that may still be measured.
    budget: Cell<u64>,
    /// What the server has used, once that is known.
    server: Cell<Option<Usage>>,
    shared: Arc<Shared>,
}

/// When to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Messages sent from here on are measured.
    pub(crate) from: Nanos,
    /// No message is sent from here on.
    until: Nanos,
}

impl Schedule {
    /// Whether a message that was sent at this time is measured.
    #[inline]
    pub(crate) fn measures(&self, sent: Nanos) -> bool {
        sent >= self.from
    }
}

impl Worker {
    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        self.shared.epoch.elapsed().as_nanos() as Nanos
    }

    /// How many messages a connection may send that has room for so many.
    #[inline]
    pub(crate) fn draw(&self, room: usize, now: Nanos, schedule: Schedule) -> usize {
        if now >= schedule.until || self.is_over.get() || self.is_stopped() {
            return 0;
        }
        if !schedule.measures(now) {
            return room;
        }
        let left = self.budget.get();
        let count = left.min(room as u64);
        self.budget.set(left - count);
        count as usize
    }

    fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// Opens, drives and ends this core's connections; returns when it was over.
    async fn run<S: Scenario>(self: Rc<Self>, index: u32) -> Nanos {
        let opened = self.open_all::<S>(index).await;
        self.shared.opened.fetch_add(opened.len() as u32, Ordering::Relaxed);
        self.shared.ready.fetch_add(1, Ordering::AcqRel);
        while self.shared.ready.load(Ordering::Acquire) < self.plan.threads {
            monoio::time::sleep(Duration::from_millis(1)).await;
        }
        let start = *self.shared.start.get_or_init(|| self.now() + nanos(HEAD_START));
        // From 1 on, because a warm-up message is dated before `from`.
        let from = (start + nanos(self.plan.warmup)).max(1);
        let until = self.plan.duration.map_or(Nanos::MAX, |duration| from.saturating_add(nanos(duration)));
        let schedule = Schedule { from, until };
        monoio::time::sleep(Duration::from_nanos(start.saturating_sub(self.now()))).await;

        let sockets: Vec<_> = opened.iter().map(|opened| Rc::clone(&opened.socket)).collect();
        self.live.set(opened.len());
        for opened in opened {
            monoio::spawn(connection::drive(Rc::clone(&self), opened, schedule));
        }
        self.look_after(schedule, || sockets.iter().for_each(|socket| socket.abort())).await
    }

    /// Opens as many connections at once as a server's backlog takes, until all were tried.
    async fn open_all<S: Scenario>(self: &Rc<Self>, index: u32) -> Vec<Opened<S>> {
        let share = self.plan.share(index);
        let openers = OPENERS.min(share.len());
        let next = Rc::new(Cell::new(share));
        let openers: Vec<JoinHandle<Vec<Opened<S>>>> =
            (0..openers).map(|_| monoio::spawn(open_some(Rc::clone(self), Rc::clone(&next)))).collect();
        let mut all = Vec::new();
        for opener in openers {
            all.extend(opener.await);
        }
        all
    }

    /// Watches the clock until no connection is left, and cuts off what the grace does not save.
    async fn look_after(&self, schedule: Schedule, cut: impl Fn()) -> Nanos {
        let mut over = None;
        let mut progress = (0, self.now());
        let mut begin = None;
        while self.live.get() > 0 {
            monoio::time::sleep(TICK).await;
            let now = self.now();
            let replies = self.record.borrow().replies();
            if replies != progress.0 {
                progress = (replies, now);
            }
            if let Some(pid) = self.plan.server_pid {
                let read = || Some(Reading { at: now, replies, cpu: server::cpu_time(pid).ok()? });
                match begin {
                    None if schedule.measures(now) => begin = read(),
                    // The last look while messages are still sent.
                    Some(begin) if self.server.get().is_none() && now + nanos(TICK) >= schedule.until => {
                        self.server.set(read().map(|end| Usage::between(begin, end)));
                    }
                    _ => {}
                }
            }
            // Without a duration only the replies could end the run.
            let is_stalled = self.plan.duration.is_none() && now - progress.1 >= nanos(self.plan.timeout);
            if over.is_none() && (now >= schedule.until || is_stalled || self.is_stopped()) {
                self.is_over.set(true);
                over = Some(now.min(schedule.until));
            }
            let longest = self.record.borrow().longest;
            if over.is_some_and(|over| now >= over + grace(longest)) {
                self.is_cut.set(true);
                cut();
                let limit = now + nanos(CUT_TIME);
                while self.live.get() > 0 && self.now() < limit {
                    monoio::time::sleep(TICK).await;
                }
                break;
            }
        }
        // All connections are gone: because the messages were used up, or by the server's doing, just now.
        over.unwrap_or_else(|| if self.plan.requests.is_some() { 0 } else { schedule.until.min(self.now()) })
    }
}

/// What one of several openers does.
async fn open_some<S: Scenario>(worker: Rc<Worker>, next: Rc<Cell<std::ops::Range<u32>>>) -> Vec<Opened<S>> {
    let mut opened = Vec::new();
    loop {
        let mut left = next.take();
        let number = left.next();
        next.set(left);
        let Some(number) = number else { return opened };
        if worker.is_stopped() || worker.gave_up.get() {
            worker.record.borrow_mut().fault(&Fault::NotTried);
            continue;
        }
        let begun = worker.now();
        let result = attempt(&worker, number).await;
        let mut record = worker.record.borrow_mut();
        match result {
            Ok(connection) => {
                record.handshake.saturating_record(worker.now() - begun);
                opened.push(connection);
            }
            Err(fault) => {
                worker.gave_up.set(worker.gave_up.get() || matches!(fault, Fault::TimedOut(_)));
                record.fault(&fault);
            }
        }
    }
}

/// Opens a connection within its time, or until the user wants an end.
async fn attempt<S: Scenario>(worker: &Rc<Worker>, number: u32) -> Result<Opened<S>, Fault> {
    // In a box, so that what only the handshake needs is gone when it is over.
    let mut attempt = Box::pin(connection::open(Rc::clone(worker), number));
    let mut left = worker.plan.timeout;
    loop {
        let slice = left.min(LOOK_UP);
        if let Ok(result) = monoio::time::timeout(slice, &mut attempt).await {
            return result;
        }
        left -= slice;
        if left.is_zero() {
            return Err(Fault::TimedOut(worker.plan.timeout));
        }
        if worker.is_stopped() {
            return Err(Fault::NotTried);
        }
    }
}

/// How long outstanding replies are waited for: longer for a server that was seen to be slow.
fn grace(longest: Nanos) -> Nanos {
    longest.saturating_mul(2).min(nanos(GRACE_MAX)).max(nanos(GRACE_MIN))
}

const GRACE_MIN: Duration = Duration::from_secs(1);
const GRACE_MAX: Duration = Duration::from_secs(5);

fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

/// How coarse the end is for those who wait; whoever sends reads the clock for each message.
const TICK: Duration = Duration::from_millis(5);
/// How soon an interrupt is noticed by whoever waits for a handshake.
const LOOK_UP: Duration = Duration::from_millis(100);
/// How many handshakes of a thread may be under way: a server's backlog holds more, and beyond it a SYN is lost for 1 s.
const OPENERS: usize = 64;
/// So that every thread is there when the run starts.
const HEAD_START: Duration = Duration::from_millis(5);
/// How long the tasks of connections that were cut may take to notice.
const CUT_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_server_gets_twice_its_time_within_limits() {
        let seconds = |time: f64| nanos(Duration::from_secs_f64(time));
        assert_eq!(grace(0), seconds(1.0));
        assert_eq!(grace(seconds(0.3)), seconds(1.0));
        assert_eq!(grace(seconds(1.5)), seconds(3.0));
        assert_eq!(grace(seconds(60.0)), seconds(5.0));
        assert_eq!(grace(Nanos::MAX), seconds(5.0));
    }
}
