//! One core: its connections, its pacer, and the ticker that looks after them.
//!
//! ```text
//! open all connections | all threads have | phase | phase | … | grace: replies still come, nothing is sent | cut
//!                                         start               over
//! ```
//!
//! | file | what |
//! |---|---|
//! | `opening.rs` | connections come about, and come back |
//! | `readers.rs` | the replies of a closed loop |
//! | `schedule.rs` `pacing.rs` | phase by phase, each message at its time |
//! | `ticker.rs` | what has to be looked at now and then |

mod opening;
mod pacing;
mod readers;
mod schedule;
mod ticker;

use std::{
    cell::{Cell, OnceCell, RefCell, RefMut},
    collections::VecDeque,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, Sender},
    },
    time::{Duration, Instant},
};

use monoio::FusionRuntime;
use switchpoint::{Driver, tls::Connector, ws::Contexts};

use crate::{
    connection::Connection,
    content::Content,
    fanout,
    pace::Pacer,
    plan::{COHORTS, Cohort, Kind, Plan, What},
    record::{Interval, Opening, Record},
    scenario::Scenario,
    scenarios::{Echo, Requests, WebSocket, WebSockets},
    server::Usage,
    storm,
    units::{Nanos, nanos},
};
use readers::Readers;
use schedule::{Schedule, Window};

/// What the threads have in common. It is written when phases change and at each tick, not for each message.
pub(crate) struct Shared {
    /// The user wants an end.
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) epoch: Instant,
    /// Threads that have opened what they could.
    pub(crate) ready: AtomicU32,
    /// Connections that have switched.
    pub(crate) opened: AtomicU32,
    /// When everyone starts, once all are ready.
    pub(crate) start: OnceLock<Nanos>,
    /// Somebody else sets it.
    pub(crate) is_start_given: bool,
    /// What makes connections secure, if that is wanted.
    pub(crate) connector: Option<Connector>,
    /// Replies so far, by thread.
    pub(crate) replies: Vec<AtomicU64>,
}

/// Where a thread's intervals go, and where empty ones come from.
pub(crate) struct Pipe {
    pub(crate) full: Sender<Box<Interval>>,
    pub(crate) empty: Receiver<Box<Interval>>,
}

/// What one thread brings home.
pub(crate) struct Done {
    pub(crate) record: Record,
    pub(crate) driver: Driver,
    pub(crate) pace: &'static str,
    pub(crate) server: Option<Usage>,
    /// When nothing was to be sent any more.
    pub(crate) over: Nanos,
    /// The part of its core that it has used while messages were sent.
    pub(crate) cpu: f64,
    /// The fan-out's own figures.
    pub(crate) fanout: Option<fanout::Heard>,
}

/// The work of one thread, which is the calling one.
pub(crate) fn run_thread(
    plan: Arc<Plan>,
    content: Arc<Content>,
    shared: Arc<Shared>,
    address: SocketAddr,
    index: u32,
    pipe: Pipe,
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
    macro_rules! run {
        ($scenario:ty) => {{
            let worker = Worker::<$scenario>::new(plan, content, shared, address, index, pipe);
            runtime.block_on(worker.run(driver))
        }};
    }
    match &plan.what {
        What::WebSocket(_) => run!(WebSocket),
        What::Echo => run!(Echo),
        What::Http2(how) if how.websocket.is_some() => run!(WebSockets),
        What::Http2(_) => run!(Requests),
    }
}

/// What the connections of one core share. Nothing in it is shared with another core, but for what the plan says.
pub(crate) struct Worker<S> {
    pub(crate) plan: Arc<Plan>,
    pub(crate) content: Arc<Content>,
    pub(crate) contexts: Rc<Contexts>,
    pub(crate) address: SocketAddr,
    pub(crate) index: u32,
    pub(crate) record: RefCell<Record>,
    /// Where every write is put together: one buffer that stays in the cache.
    pub(crate) out: RefCell<Vec<u8>>,
    /// For a reply, in nanoseconds.
    pub(crate) timeout: Option<Nanos>,
    /// What still waits was given up.
    pub(crate) is_cut: Cell<bool>,
    /// All connections.
    live: RefCell<Vec<Rc<Connection<S>>>>,
    /// Those that messages are sent on: all but the idle ones.
    speakers: RefCell<Vec<Rc<Connection<S>>>>,
    /// Connections that are not over, or being opened again.
    busy: Cell<usize>,
    /// How many of them are idle.
    idle: Cell<usize>,
    /// Whose turn it is.
    next: Cell<usize>,
    /// Messages for which there was no connection.
    orphans: RefCell<VecDeque<(Nanos, usize)>>,
    /// The latest phase that has opened all connections again.
    storm: Cell<Option<usize>>,
    /// A connection timed out, so the others that are opened with it are not tried.
    gave_up: Cell<bool>,
    /// Nothing more is to be sent.
    over: Cell<Option<Nanos>>,
    cut_at: Cell<Nanos>,
    schedule: OnceCell<Schedule>,
    /// Who reads for all connections of a closed loop.
    readers: OnceCell<Rc<Readers<S>>>,
    /// Which phase it was at the last look.
    phase: Cell<usize>,
    /// Messages that may still be measured.
    budget: Cell<u64>,
    /// What the server has used, once that is known.
    server: Cell<Option<Usage>>,
    pub(crate) shared: Arc<Shared>,
    /// Gone once the thread is done: whoever adds up waits for that.
    pipe: RefCell<Option<Pipe>>,
}

/// What a connection with room may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Draw {
    /// Not now.
    Nothing,
    Messages {
        count: usize,
        phase: usize,
    },
    /// Never again.
    Finish,
}

impl<S: Scenario> Worker<S> {
    fn new(
        plan: Arc<Plan>,
        content: Arc<Content>,
        shared: Arc<Shared>,
        address: SocketAddr,
        index: u32,
        pipe: Pipe,
    ) -> Rc<Self> {
        Rc::new(Self {
            budget: Cell::new(plan.budget(index)),
            record: RefCell::new(Record::brought(plan.slots(), |slot| plan.has(Cohort::of(slot)))),
            timeout: plan.timeout.map(nanos),
            plan,
            content,
            contexts: Contexts::new(),
            address,
            index,
            out: RefCell::new(Vec::new()),
            live: RefCell::default(),
            speakers: RefCell::default(),
            busy: Cell::new(0),
            idle: Cell::new(0),
            next: Cell::new(0),
            orphans: RefCell::default(),
            storm: Cell::new(None),
            gave_up: Cell::new(false),
            over: Cell::new(None),
            is_cut: Cell::new(false),
            cut_at: Cell::new(0),
            schedule: OnceCell::new(),
            readers: OnceCell::new(),
            phase: Cell::new(0),
            server: Cell::new(None),
            shared,
            pipe: RefCell::new(Some(pipe)),
        })
    }

    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        self.shared.epoch.elapsed().as_nanos() as Nanos
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.get().is_some()
    }

    /// Messages are due, or soon will be.
    pub(crate) fn has_begun(&self) -> bool {
        self.schedule.get().is_some()
    }

    /// The latest phase that has opened all connections again.
    pub(crate) fn storm_phase(&self) -> Option<usize> {
        self.storm.get()
    }

    /// Where the opening of connections is counted: of the first ones, or of those that a phase has opened again.
    pub(crate) fn opening(&self, storm: Option<usize>) -> RefMut<'_, Opening> {
        RefMut::map(self.record.borrow_mut(), |record| record.opening_of(storm))
    }

    #[inline]
    fn window(&self, phase: usize) -> Option<&Window> {
        self.schedule.get()?.phases.get(phase)
    }

    /// When the phase of a slot is over.
    #[inline]
    pub(crate) fn until(&self, slot: u16) -> Nanos {
        self.window(usize::from(slot) / COHORTS).map_or(Nanos::MAX, |phase| phase.until)
    }

    /// Whether the messages of a slot have intended times.
    #[inline]
    pub(crate) fn is_open(&self, slot: u16) -> bool {
        let slot = usize::from(slot);
        self.window(slot / COHORTS).is_some_and(|phase| phase.is_open) && Cohort::of(slot) != Cohort::Idle
    }

    /// Up to when what has no reply `now`, and will not get one, has waited: what nobody answers waits to the end.
    pub(crate) fn given_up_at(&self, now: Nanos) -> Nanos {
        let end = self.schedule.get().map_or(Nanos::MAX, Schedule::end);
        match self.over.get() {
            _ if self.is_cut.get() => self.cut_at.get(),
            None if end < Nanos::MAX => now.max(end),
            None => now,
            // What nobody was left for was planned to an end that is still to come.
            Some(over) => now.max(over),
        }
    }

    /// How many messages a connection may send that has room for so many.
    #[inline]
    pub(crate) fn draw(&self, room: usize, now: Nanos) -> Draw {
        let Some(schedule) = self.schedule.get() else { return Draw::Nothing };
        if self.is_over() || self.is_stopped() {
            return Draw::Finish;
        }
        let mut phase = self.phase.get();
        while now >= schedule.phases[phase].until {
            phase += 1;
            if phase == schedule.phases.len() {
                // The pacer may be late with its last messages; it says when all is over.
                return if self.plan.is_open() { Draw::Nothing } else { Draw::Finish };
            }
            self.phase.set(phase);
        }
        let window = &schedule.phases[phase];
        if window.is_open {
            return Draw::Nothing;
        }
        if !window.is_measured {
            return if room > 0 { Draw::Messages { count: room, phase } } else { Draw::Nothing };
        }
        let left = self.budget.get();
        if left == 0 {
            return Draw::Finish;
        }
        let count = left.min(room as u64);
        self.budget.set(left - count);
        if count > 0 { Draw::Messages { count: count as usize, phase } } else { Draw::Nothing }
    }

    /// Does all of it.
    async fn run(self: Rc<Self>, driver: Driver) -> io::Result<Done> {
        let pacer = match Pacer::new(self.plan.pace, self.shared.epoch) {
            Ok(pacer) => Rc::new(pacer),
            Err(error) => {
                self.shared.ready.fetch_add(1, Ordering::AcqRel);
                return Err(error);
            }
        };
        let pace = self.plan.pace.settled(driver == Driver::Epoll).name();
        let mut heard = None;
        let begun_cpu;
        let result = match self.plan.kind {
            Kind::Load => {
                let opened = self.open_all(self.plan.share(self.index), None, &pacer).await;
                let connections: Vec<_> =
                    opened.into_iter().map(|opened| Connection::new(&self, opened)).collect();
                self.start(connections.len()).await;
                begun_cpu = cpu_time();
                self.load(connections, &pacer).await
            }
            Kind::Storm { hold, says } => {
                self.start(0).await;
                begun_cpu = cpu_time();
                storm::run(&self, &pacer, hold, says).await
            }
            Kind::Fanout { senders } => {
                let opened = self.open_all(self.plan.share(self.index), None, &pacer).await;
                self.start(opened.len()).await;
                begun_cpu = cpu_time();
                let (result, figures) = fanout::run(&self, opened, &pacer, senders).await;
                heard = Some(figures);
                result
            }
        };
        let used = cpu_time().saturating_sub(begun_cpu);
        let end = self.now();
        self.hand_over_interval();
        // The runtime may keep tasks that hold us, but nobody has to wait for them.
        self.set_cut(if self.is_cut.get() { self.cut_at.get() } else { end });
        self.pipe.replace(None);
        result?;
        let start = self.schedule.get().map_or(end, |schedule| schedule.start);
        let record = self.record.replace(Record::new(self.plan.slots()));
        Ok(Done {
            record,
            driver,
            pace,
            server: self.server.get(),
            over: self.over.get().unwrap_or(end),
            cpu: used as f64 / end.saturating_sub(start).max(1) as f64,
            fanout: heard,
        })
    }

    /// Waits until all threads have opened their connections, and begins with them.
    async fn start(self: &Rc<Self>, opened: usize) {
        self.shared.opened.fetch_add(opened as u32, Ordering::Relaxed);
        self.shared.ready.fetch_add(1, Ordering::AcqRel);
        while self.shared.ready.load(Ordering::Acquire) < self.plan.threads {
            monoio::time::sleep(Duration::from_millis(1)).await;
        }
        while self.shared.is_start_given && self.shared.start.get().is_none() && !self.is_stopped() {
            monoio::time::sleep(Duration::from_millis(1)).await;
        }
        let start = *self.shared.start.get_or_init(|| self.now() + nanos(HEAD_START));
        self.schedule.get_or_init(|| Schedule::new(&self.plan, start));
        monoio::time::sleep(Duration::from_nanos(start.saturating_sub(self.now()))).await;
        monoio::spawn(Rc::clone(self).tick());
    }

    /// Who reads for the connections, if they do not themselves.
    pub(crate) fn readers(&self) -> Option<&Rc<Readers<S>>> {
        self.readers.get()
    }

    /// When each phase is.
    pub(crate) fn schedule(&self) -> &Schedule {
        self.schedule.get().expect("the start has set it")
    }

    /// Nothing more is to be sent.
    pub(crate) fn set_over(&self, over: Nanos) {
        if self.over.get().is_none() {
            self.over.set(Some(over));
        }
    }

    /// The end of the ticker, for those who end without [`finish`](Self::finish).
    pub(crate) fn set_cut(&self, at: Nanos) {
        self.cut_at.set(at);
        self.is_cut.set(true);
    }

    /// When the last phase is over.
    pub(crate) fn end(&self) -> Nanos {
        self.schedule().end()
    }

    /// A phase's begin and end.
    pub(crate) fn times_of(&self, phase: usize) -> (Nanos, Nanos) {
        self.window(phase).map_or((0, 0), |window| (window.from, window.until))
    }
}

/// The processor time of this thread so far.
fn cpu_time() -> Nanos {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as Nanos * 1_000_000_000 + time.tv_nsec as Nanos
}

/// How long outstanding replies are waited for: longer for a server that was seen to be slow.
fn grace(longest: Nanos) -> Nanos {
    longest.saturating_mul(2).min(nanos(GRACE_MAX)).max(nanos(GRACE_MIN))
}

const GRACE_MIN: Duration = Duration::from_secs(1);
const GRACE_MAX: Duration = Duration::from_secs(5);
/// How coarse the end is for those who wait; whoever sends reads the clock for each message.
const TICK: Duration = Duration::from_millis(5);
/// How soon an interrupt is noticed by whoever waits for a handshake.
const LOOK_UP: Duration = Duration::from_millis(100);
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
