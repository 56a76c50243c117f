//! One core: its connections, its pacer, and the ticker that looks after them.
//!
//! ```text
//! open all connections | all threads have | phase | phase | … | grace: replies still come, nothing is sent | cut
//!                                         start               over
//! ```

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    io,
    net::SocketAddr,
    ops::Range,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, Sender},
    },
    time::{Duration, Instant},
};

use monoio::{FusionRuntime, task::JoinHandle};
use switchpoint::{Driver, ws::Contexts};

use crate::{
    connection::{self, Connection, Opened},
    content::Content,
    fanout,
    fault::Fault,
    pace::{self, Pacer},
    plan::{COHORTS, Kind, Plan, What},
    record::{Interval, Record},
    scenario::Scenario,
    scenarios::{Echo, WebSocket},
    schedule::Arrivals,
    server::{self, Reading, Usage},
    storm,
    units::{Nanos, nanos},
};

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
    match plan.what {
        What::WebSocket(_) => {
            let worker = Worker::<WebSocket>::new(plan, content, shared, address, index, pipe);
            runtime.block_on(worker.run(driver))
        }
        What::Echo => {
            let worker = Worker::<Echo>::new(plan, content, shared, address, index, pipe);
            runtime.block_on(worker.run(driver))
        }
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
    /// Connections that messages can be sent on.
    live: RefCell<Vec<Rc<Connection<S>>>>,
    /// Connections that are not over, or being opened again.
    busy: Cell<usize>,
    /// Whose turn it is.
    next: Cell<usize>,
    /// Messages for which there was no connection.
    orphans: RefCell<VecDeque<(Nanos, usize)>>,
    /// A connection timed out, so the others are not tried.
    gave_up: Cell<bool>,
    /// Nothing more is to be sent.
    over: Cell<Option<Nanos>>,
    cut_at: Cell<Nanos>,
    schedule: OnceCell<Schedule>,
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

/// When which phase is. Invariant: it has one; each begins where the one before ends.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) start: Nanos,
    phases: Vec<Window>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    from: Nanos,
    until: Nanos,
    is_open: bool,
    is_measured: bool,
}

impl Schedule {
    fn new(plan: &Plan, start: Nanos) -> Self {
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

    fn end(&self) -> Nanos {
        self.phases.last().expect("a plan has a phase").until
    }

    /// From the first measured phase on.
    fn measured_from(&self) -> Nanos {
        self.phases.iter().find(|phase| phase.is_measured).map_or(Nanos::MAX, |phase| phase.from)
    }
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
            record: RefCell::new(Record::new(plan.slots())),
            timeout: plan.timeout.map(nanos),
            plan,
            content,
            contexts: Contexts::new(),
            address,
            index,
            out: RefCell::new(Vec::new()),
            live: RefCell::default(),
            busy: Cell::new(0),
            next: Cell::new(0),
            orphans: RefCell::default(),
            gave_up: Cell::new(false),
            over: Cell::new(None),
            is_cut: Cell::new(false),
            cut_at: Cell::new(0),
            schedule: OnceCell::new(),
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
        self.window(usize::from(slot) / COHORTS).is_some_and(|phase| phase.is_open)
    }

    /// Up to when what has no reply `now`, and will not get one, has waited: what nobody answers waits to the end.
    pub(crate) fn given_up_at(&self, now: Nanos) -> Nanos {
        let end = self.schedule.get().map_or(Nanos::MAX, Schedule::end);
        match self.over.get() {
            _ if self.is_cut.get() => self.cut_at.get(),
            None if end < Nanos::MAX => now.max(end),
            _ => now,
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
                self.start(opened.len()).await;
                begun_cpu = cpu_time();
                self.load(opened, &pacer).await
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
        let start = *self.shared.start.get_or_init(|| self.now() + nanos(HEAD_START));
        self.schedule.get_or_init(|| Schedule::new(&self.plan, start));
        monoio::time::sleep(Duration::from_nanos(start.saturating_sub(self.now()))).await;
        monoio::spawn(Rc::clone(self).tick());
    }

    /// Messages over connections that stay.
    async fn load(self: &Rc<Self>, opened: Vec<Opened<S>>, pacer: &Rc<Pacer>) -> io::Result<()> {
        opened.into_iter().for_each(|opened| self.join(opened));
        for (index, phase) in self.plan.phases.iter().enumerate() {
            if self.live.borrow().is_empty() && !self.plan.reconnects && !phase.is_storm {
                break;
            }
            let window = *self.window(index).expect("each phase has its window");
            pacer.wait(window.from).await?;
            if phase.is_storm && !self.is_over() {
                self.storm(pacer, window.from);
            }
            if phase.profile.is_some() {
                self.pace(index, window, pacer).await?;
            } else {
                self.kick_all();
                self.wait_for(window.until).await;
            }
            if self.is_over() {
                break;
            }
        }
        if self.over.get().is_none() {
            let end = self.schedule.get().map_or(0, Schedule::end);
            self.over.set(Some(self.now().min(end)));
        }
        self.finish().await;
        Ok(())
    }

    /// Lets replies come for as long as the grace says, then cuts what is left.
    async fn finish(self: &Rc<Self>) {
        self.kick_all();
        let over = self.over.get().unwrap_or_else(|| self.now());
        while self.busy.get() > 0 {
            let longest = self.record.borrow().longest;
            let grace = self.plan.grace.map_or_else(|| grace(longest), nanos);
            if self.now() >= over + grace {
                self.cut_at.set(over + grace);
                self.is_cut.set(true);
                self.live.borrow().iter().for_each(|connection| connection.abort());
                let limit = self.now() + nanos(CUT_TIME);
                while self.busy.get() > 0 && self.now() < limit {
                    monoio::time::sleep(TICK).await;
                }
                break;
            }
            let left = (over + grace).saturating_sub(self.now());
            monoio::time::sleep(TICK.min(Duration::from_nanos(left))).await;
        }
        let given_up_at = self.given_up_at(self.now());
        for (intended, phase) in self.orphans.borrow_mut().drain(..) {
            self.record.borrow_mut().never_sent(intended, given_up_at, (phase * COHORTS) as u16);
        }
    }

    /// A closed loop's phase, or the rest of an open one.
    async fn wait_for(&self, until: Nanos) {
        while self.now() < until && !self.is_over() && self.busy.get() > 0 {
            let left = until.saturating_sub(self.now());
            monoio::time::sleep(TICK.min(Duration::from_nanos(left))).await;
        }
    }

    fn kick_all(&self) {
        let live = self.live.borrow().clone();
        live.iter().for_each(|connection| connection.kick(self));
    }

    /// Sends what is due when it is due.
    async fn pace(self: &Rc<Self>, index: usize, window: Window, pacer: &Pacer) -> io::Result<()> {
        let plan = &*self.plan;
        let profile = plan.phases[index].profile.clone().expect("an open phase has a profile");
        let mut arrivals =
            Arrivals::new(profile, plan.arrival, self.index, plan.threads, plan.seed ^ (index as u64) << 20);
        let mut dirty: Vec<Rc<Connection<S>>> = Vec::with_capacity(BATCH);
        while let Some(due) = arrivals.peek().map(|due| window.from + due).filter(|due| *due < window.until) {
            if self.is_stopped() {
                return Ok(());
            }
            let now = pacer.wait(due.min(pacer.now() + pace::LOOK_UP)).await?;
            if now < due {
                continue;
            }
            if now > window.until.saturating_add(BEHIND) {
                // We cannot keep up, and the phase is over: what is left was planned, and not offered.
                self.plan_the_rest(&mut arrivals, index, window);
                return Ok(());
            }
            let mut count = 0;
            let mut next = Some(due);
            while let Some(due) = next.filter(|due| *due <= now && count < BATCH) {
                if window.is_measured && plan.requests.is_some() {
                    let Some(left) = self.budget.get().checked_sub(1) else {
                        dirty.drain(..).for_each(|connection| connection.flush(self));
                        self.over.set(Some(now));
                        return Ok(());
                    };
                    self.budget.set(left);
                }
                self.release(due, index, now, &mut dirty);
                arrivals.advance();
                count += 1;
                next = arrivals.peek().map(|due| window.from + due).filter(|due| *due < window.until);
            }
            dirty.drain(..).for_each(|connection| connection.flush(self));
            if self.busy.get() == 0 && !plan.reconnects {
                self.plan_the_rest(&mut arrivals, index, window);
                return Ok(());
            }
            // Behind the schedule, or close to it: what has arrived meanwhile is taken all the same.
            if next.is_some_and(|due| due <= self.now() + PASS) {
                pacer.pass().await?;
            }
        }
        self.wait_for(window.until).await;
        Ok(())
    }

    /// A message is due. Whichever connection's turn it is sends it.
    #[inline]
    fn release(&self, due: Nanos, phase: usize, now: Nanos, dirty: &mut Vec<Rc<Connection<S>>>) {
        let live = self.live.borrow();
        if live.is_empty() {
            self.count_planned((phase * COHORTS) as u16);
            let mut record = self.record.borrow_mut();
            record.lag(due, now, (phase * COHORTS) as u16);
            record.slots[phase * COHORTS].ledger.held += 1;
            drop(record);
            self.orphans.borrow_mut().push_back((due, phase));
            return;
        }
        let turn = self.next.get();
        let turn = if turn < live.len() { turn } else { 0 };
        self.next.set(turn + 1);
        let connection = &live[turn];
        self.count_planned((phase * COHORTS) as u16 + connection.cohort());
        if connection.release(self, due, phase, now) {
            dirty.push(Rc::clone(connection));
        }
    }

    #[inline]
    fn count_planned(&self, slot: u16) {
        let mut record = self.record.borrow_mut();
        record.slots[usize::from(slot)].ledger.planned += 1;
        record.interval.planned += 1;
    }

    /// Nobody is left to send anything: the rest of the plan goes unanswered, and is not waited for.
    fn plan_the_rest(&self, arrivals: &mut Arrivals, index: usize, window: Window) {
        let slot = (index * COHORTS) as u16;
        while let Some(due) = arrivals.peek().map(|due| window.from + due).filter(|due| *due < window.until) {
            if window.is_measured && self.plan.requests.is_some() {
                let Some(left) = self.budget.get().checked_sub(1) else { break };
                self.budget.set(left);
            }
            self.count_planned(slot);
            self.record.borrow_mut().never_sent(due, window.until, slot);
            arrivals.advance();
        }
    }

    /// A connection that has switched takes part.
    pub(crate) fn join(self: &Rc<Self>, opened: Opened<S>) {
        let (connection, buffer) = Connection::new(self, opened);
        self.live.borrow_mut().push(Rc::clone(&connection));
        self.busy.set(self.busy.get() + 1);
        let orphans = std::mem::take(&mut *self.orphans.borrow_mut());
        for (due, phase) in orphans {
            connection.adopt(due, phase);
        }
        monoio::spawn(connection.drive(Rc::clone(self), buffer));
    }

    /// A connection is over.
    pub(crate) fn gone(self: &Rc<Self>, connection: &Rc<Connection<S>>) {
        self.live.borrow_mut().retain(|live| !Rc::ptr_eq(live, connection));
        if self.plan.reconnects && !self.is_over() && !connection.is_closing() {
            monoio::spawn(Rc::clone(self).open_again(connection.number));
        } else {
            self.busy.set(self.busy.get() - 1);
        }
    }

    async fn open_again(self: Rc<Self>, number: u32) {
        let mut pause = REOPEN_MIN;
        loop {
            match self.attempt(number, None).await {
                Ok(opened) => {
                    self.join(opened);
                    break;
                }
                Err(fault) => self.record.borrow_mut().fault(&fault),
            }
            if self.is_over() {
                break;
            }
            monoio::time::sleep(pause).await;
            pause = (pause * 2).min(REOPEN_MAX);
        }
        self.busy.set(self.busy.get() - 1);
    }

    /// All connections are closed and opened again, which is meant to happen `now`.
    fn storm(self: &Rc<Self>, pacer: &Rc<Pacer>, now: Nanos) {
        let live = std::mem::take(&mut *self.live.borrow_mut());
        live.iter().for_each(|connection| connection.leave(now));
        let (worker, pacer) = (Rc::clone(self), Rc::clone(pacer));
        self.busy.set(self.busy.get() + 1);
        monoio::spawn(async move {
            let opened = worker.open_all(worker.plan.share(worker.index), Some(now), &pacer).await;
            for opened in opened {
                worker.join(opened);
            }
            worker.busy.set(worker.busy.get() - 1);
        });
    }

    /// Opens connections, at the plan's rate or as many at once as a server's backlog takes, until all were tried.
    async fn open_all(
        self: &Rc<Self>,
        share: Range<u32>,
        intended: Option<Nanos>,
        pacer: &Rc<Pacer>,
    ) -> Vec<Opened<S>> {
        if let Some(rate) = self.plan.connection_rate {
            return self.open_at_rate(share, rate, pacer).await;
        }
        let openers = OPENERS.min(share.len());
        let next = Rc::new(Cell::new(share));
        let open_some = |next: Rc<Cell<Range<u32>>>, worker: Rc<Self>| async move {
            let mut opened = Vec::new();
            loop {
                let mut left = next.take();
                let number = left.next();
                next.set(left);
                let Some(number) = number else { return opened };
                match worker.attempt(number, intended).await {
                    Ok(connection) => opened.push(connection),
                    Err(fault) => worker.record.borrow_mut().fault(&fault),
                }
            }
        };
        let openers: Vec<JoinHandle<Vec<Opened<S>>>> =
            (0..openers).map(|_| monoio::spawn(open_some(Rc::clone(&next), Rc::clone(self)))).collect();
        let mut all = Vec::new();
        for opener in openers {
            all.extend(opener.await);
        }
        all.sort_by_key(|opened| opened.number);
        all
    }

    async fn open_at_rate(self: &Rc<Self>, share: Range<u32>, rate: f64, pacer: &Pacer) -> Vec<Opened<S>> {
        let begun = self.now();
        let mut tasks = Vec::new();
        for (at, number) in share.enumerate() {
            let order = at as f64 * f64::from(self.plan.threads) + f64::from(self.index);
            let due = begun + (order / rate * 1e9) as Nanos;
            if pacer.wait(due).await.is_err() {
                break;
            }
            let worker = Rc::clone(self);
            tasks.push(monoio::spawn(async move { worker.attempt(number, Some(due)).await }));
        }
        let mut all = Vec::new();
        for task in tasks {
            match task.await {
                Ok(opened) => all.push(opened),
                Err(fault) => self.record.borrow_mut().fault(&fault),
            }
        }
        all
    }

    /// Opens a connection within its time, or until the user wants an end.
    pub(crate) async fn attempt(
        self: &Rc<Self>,
        number: u32,
        intended: Option<Nanos>,
    ) -> Result<Opened<S>, Fault> {
        if self.is_stopped() || self.gave_up.get() {
            return Err(Fault::NotTried);
        }
        // In a box, so that what only the handshake needs is gone when it is over.
        let mut attempt = Box::pin(connection::open(Rc::clone(self), number, intended));
        let mut left = self.plan.connect_timeout;
        loop {
            let slice = left.min(LOOK_UP);
            if let Ok(result) = monoio::time::timeout(slice, &mut attempt).await {
                return result;
            }
            left -= slice;
            if left.is_zero() {
                // A storm measures how many time out; others only want to begin.
                self.gave_up.set(!matches!(self.plan.kind, Kind::Storm { .. }));
                return Err(Fault::TimedOut(self.plan.connect_timeout));
            }
            if self.is_stopped() {
                return Err(Fault::NotTried);
            }
        }
    }

    /// Everything that has to be looked at now and then, until the run is over.
    async fn tick(self: Rc<Self>) {
        let schedule = self.schedule.get().expect("the start has set it").clone();
        let mut progress = (0, self.now());
        let mut begin = None;
        let mut looked = self.now();
        let mut pinged = self.now();
        let look = self.timeout.map_or(Nanos::MAX, |timeout| timeout / 50).clamp(nanos(TICK), nanos(LOOK_UP));
        let ping = match &self.plan.what {
            What::WebSocket(how) => how.ping.map(nanos),
            What::Echo => None,
        };
        let stall = nanos(self.plan.timeout.unwrap_or(STALL));
        while !self.is_cut.get() {
            monoio::time::sleep(TICK).await;
            let now = self.now();
            let replies = self.record.borrow().replies();
            self.shared.replies[self.index as usize].store(replies, Ordering::Relaxed);
            if replies != progress.0 {
                progress = (replies, now);
            }
            let second = now.saturating_sub(schedule.start) / 1_000_000_000;
            if second > self.record.borrow().interval.second {
                self.hand_over_interval();
                self.begin_interval(second, now);
            } else if !self.record.borrow().interval.is_measured && self.measures(now) {
                self.record.borrow_mut().interval.is_measured = true;
            }
            if let Some(pid) = self.plan.server_pid.filter(|_| self.index == 0) {
                let all = || self.shared.replies.iter().map(|replies| replies.load(Ordering::Relaxed)).sum();
                let read = || {
                    Some(Reading {
                        at: now,
                        replies: all(),
                        cpu: server::cpu_time(pid).ok()?,
                        memory: server::memory(pid),
                    })
                };
                match begin {
                    None if now >= schedule.measured_from() => begin = read(),
                    // The last look while messages are still sent.
                    Some(begin) if self.server.get().is_none() && now + nanos(TICK) >= schedule.end() => {
                        self.server.set(read().map(|end| Usage::between(begin, end)));
                    }
                    _ => {}
                }
            }
            if now >= looked + look {
                looked = now;
                let live = self.live.borrow().clone();
                live.iter().for_each(|connection| connection.look_after(&self, now));
            }
            if let Some(ping) = ping.filter(|ping| now >= pinged + ping) {
                pinged += ping;
                let live = self.live.borrow().clone();
                live.iter().for_each(|connection| connection.ping());
            }
            // Without a time only the replies could end the run.
            let is_stalled =
                self.plan.kind == Kind::Load && schedule.end() == Nanos::MAX && now - progress.1 >= stall;
            // An open loop's last phase is over when its last message is sent.
            let is_past = !self.plan.is_open() && now >= schedule.end();
            if self.over.get().is_none() && (is_past || is_stalled || self.is_stopped()) {
                self.over.set(Some(now.min(schedule.end())));
            }
        }
    }

    fn measures(&self, now: Nanos) -> bool {
        let Some(schedule) = self.schedule.get() else { return false };
        schedule.phases.iter().any(|phase| phase.is_measured && (phase.from..phase.until).contains(&now))
    }

    fn begin_interval(&self, second: u64, now: Nanos) {
        let mut record = self.record.borrow_mut();
        record.interval.second = second;
        record.interval.is_measured = self.measures(now);
    }

    /// Gives the interval to whoever adds them up, who is gone at the very end only.
    fn hand_over_interval(&self) {
        let pipe = self.pipe.borrow();
        let Some(pipe) = &*pipe else { return };
        let mut next = pipe.empty.try_recv().unwrap_or_else(|_| Box::new(Interval::new()));
        std::mem::swap(&mut *next, &mut self.record.borrow_mut().interval);
        let _ = pipe.full.send(next);
    }

    /// One more that the end waits for, for those who have no [`Connection`].
    pub(crate) fn enter(&self) {
        self.busy.set(self.busy.get() + 1);
    }

    /// One less.
    pub(crate) fn leave(&self) {
        self.busy.set(self.busy.get() - 1);
    }

    /// Waits for those who have [entered](Self::enter); once all is over they have the grace, then `cut` ends them.
    pub(crate) async fn wait_for_all(&self, cut: impl Fn()) {
        let is_answered = || {
            let ledger = self.record.borrow().slots[0].ledger;
            self.plan.threads == 1 && ledger.planned <= ledger.answered + ledger.errors()
        };
        while self.busy.get() > 0 {
            let now = self.now();
            let longest = self.record.borrow().longest;
            let grace = self.plan.grace.map_or_else(|| grace(longest), nanos);
            if let Some(over) = self.over.get()
                && (now >= over + grace || self.is_stopped() || (self.is_fanout() && is_answered()))
            {
                self.set_cut(now);
                cut();
                let limit = self.now() + nanos(CUT_TIME);
                while self.busy.get() > 0 && self.now() < limit {
                    monoio::time::sleep(TICK).await;
                }
                return;
            }
            monoio::time::sleep(TICK).await;
        }
        self.set_over(self.now());
        self.set_cut(self.now());
    }

    fn is_fanout(&self) -> bool {
        matches!(self.plan.kind, Kind::Fanout { .. })
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
/// Without a time and a timeout, how long no reply at all may come.
const STALL: Duration = Duration::from_secs(5);
/// How coarse the end is for those who wait; whoever sends reads the clock for each message.
const TICK: Duration = Duration::from_millis(5);
/// How soon an interrupt is noticed by whoever waits for a handshake.
const LOOK_UP: Duration = Duration::from_millis(100);
/// How many handshakes of a thread may be under way: a server's backlog holds more, and beyond it a SYN is lost for 1 s.
const OPENERS: usize = 64;
/// How many messages are sent before replies are looked at.
const BATCH: usize = 64;
/// How long after its end a phase's last messages are still sent.
const BEHIND: Nanos = 50_000_000;
/// A message that is due so soon leaves no time for a look at what has arrived, unless one is taken.
const PASS: Nanos = 1_500;
/// So that every thread is there when the run starts.
const HEAD_START: Duration = Duration::from_millis(5);
/// How long the tasks of connections that were cut may take to notice.
const CUT_TIME: Duration = Duration::from_secs(1);
/// Between attempts to reach a server again.
const REOPEN_MIN: Duration = Duration::from_millis(10);
const REOPEN_MAX: Duration = Duration::from_secs(1);

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
