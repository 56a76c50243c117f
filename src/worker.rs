//! One core: what its connections share, and the ticker that looks after them all.

use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use monoio::net::UnixStream;
use pin_project_lite::pin_project;

use crate::{
    Config, Reason, Registry, Stats, Stream,
    buffer::{HOT, LARGE, Pool, SMALL_MAX, Spares},
    connection::{self, Catch},
    limits::{Admission, Permit},
    listener::Listening,
    metrics::Counters,
    observe::{Details, Recent, Recents},
    protocols::websocket::{Batch, Inbound, Unsent},
    readiness::Readiness,
    sessions::{Millis, Sessions, Tracked},
    trace::Tracing,
    ws::Contexts,
};

/// A core's share of a server: its registry, its connections, its counters. Nothing in it is shared with another core, but the counts of
/// the [limits](crate::Limits).
pub struct Worker {
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) sessions: Sessions,
    pub(crate) counters: Counters,
    pub(crate) pool: Pool,
    pub(crate) hot: Pool,
    /// Its small ones, for those who read what is there.
    pub(crate) small: Pool,
    pub(crate) batches: Spares<Rc<Batch>>,
    pub(crate) inbounds: Spares<Box<Inbound>>,
    pub(crate) unsents: Spares<Box<Unsent>>,
    /// Compression contexts, of connections that keep none between their messages.
    pub(crate) contexts: Rc<Contexts>,
    /// What all workers of the server count together.
    pub(crate) admission: Arc<Admission>,
    /// Connections that have a place here.
    pub(crate) open: Cell<usize>,
    /// Connections that are being told why they have none.
    turned_away: Cell<usize>,
    started: Instant,
    now: Cell<Millis>,
    date: RefCell<(u64, Rc<str>)>,
    stage: Cell<Stage>,
    /// Another process accepts on the same sockets, so nobody is refused, and readiness is for that one to tell.
    handed_over: Cell<bool>,
    /// The second that it is, and the lines that peers have caused in it.
    logged: Cell<(Millis, u64)>,
    /// Sessions that ended well since one had its line.
    unlogged: Cell<u32>,
    /// Which of the server's workers it is.
    core: u32,
    /// What sessions have in common, the newest first.
    pub(crate) details: RefCell<VecDeque<Rc<Details>>>,
    pub(crate) recents: Recents,
    pub(crate) tracing: Tracing,
    turnstile: OnceCell<Option<(UnixStream, UnixStream)>>,
    readiness: OnceCell<Option<Readiness>>,
}

/// How far the server's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// Readiness fails, so that nobody sends us new clients; those who come are served.
    Unready {
        since: Millis,
    },
    /// Nothing is accepted, every session was told.
    Closing {
        since: Millis,
    },
    /// What was left has been cut.
    Cut {
        since: Millis,
    },
}

impl Worker {
    /// A core of its own, without listeners: what [`serve`](Self::serve) is given is all that it sees. For tests, and
    /// for those who bring connections of their own; [`Server`](crate::Server) makes one for each thread.
    pub fn new(config: Config, registry: Registry) -> Rc<Self> {
        let admission = Arc::new(Admission::new(&config));
        Self::of_server(0, config, registry, admission)
    }

    /// One of the workers that share `admission`.
    pub(crate) fn of_server(
        core: u32,
        config: Config,
        registry: Registry,
        admission: Arc<Admission>,
    ) -> Rc<Self> {
        let counters = Counters::for_protocols(&registry.tokens());
        Rc::new(Self {
            admission,
            open: Cell::new(0),
            config,
            registry,
            sessions: Sessions::default(),
            counters,
            pool: Pool::new(LARGE, 16),
            hot: Pool::new(HOT, 2),
            small: Pool::new(SMALL_MAX, 16),
            batches: Spares::new(),
            inbounds: Spares::new(),
            unsents: Spares::new(),
            contexts: Contexts::new(),
            turned_away: Cell::new(0),
            started: Instant::now(),
            now: Cell::new(0),
            date: RefCell::new((0, Rc::from(""))),
            stage: Cell::new(Stage::Serving),
            handed_over: Cell::new(false),
            logged: Cell::new((0, 0)),
            unlogged: Cell::new(0),
            core,
            details: RefCell::default(),
            recents: Recents::default(),
            tracing: Tracing::default(),
            turnstile: OnceCell::new(),
            readiness: OnceCell::new(),
        })
    }

    /// Serves one connection until its handshake is over; the session that may follow is a task of its own. Where the
    /// [limits](crate::Limits) leave no place for it, it is told so.
    pub fn serve(
        self: &Rc<Self>,
        stream: Stream,
        peer: Option<SocketAddr>,
    ) -> impl Future<Output = ()> + use<> {
        self.serve_from(stream, peer, None)
    }

    /// Takes a connection into the core's list.
    pub(crate) fn track(
        self: &Rc<Self>,
        stream: Stream,
        peer: Option<SocketAddr>,
        listener: Option<u16>,
    ) -> Tracked {
        let stream = if self.tracing.is_on() { stream.tapped() } else { stream };
        self.sessions.track(stream, peer, listener, self)
    }

    /// Which of the server's workers it is.
    pub(crate) fn core(&self) -> u32 {
        self.core
    }

    /// As [`serve`](Self::serve), of a connection that came through a listener.
    pub(crate) fn serve_from(
        self: &Rc<Self>,
        stream: Stream,
        peer: Option<SocketAddr>,
        listener: Option<u16>,
    ) -> impl Future<Output = ()> + use<> {
        self.serve_with(Permit::new(self, peer, true), stream, peer, listener)
    }

    /// Serves a connection that has a place, and tells it why it has none otherwise.
    pub(crate) fn serve_with(
        self: &Rc<Self>,
        permit: Result<Permit, Reason>,
        stream: Stream,
        peer: Option<SocketAddr>,
        listener: Option<u16>,
    ) -> impl Future<Output = ()> + use<> {
        let worker = Rc::clone(self);
        let tracked = match &permit {
            Err(reason) if self.turned_away.get() >= TURNED_AWAY_MAX => {
                self.counters.refused(*reason, None);
                None
            }
            _ => Some(self.track(stream, peer, listener)),
        };
        let refused = match (permit, &tracked) {
            (Ok(permit), Some(tracked)) => {
                permit.settle(&tracked.0);
                None
            }
            (Ok(_), None) => None,
            (Err(reason), _) => Some(reason),
        };
        async move {
            match (tracked, refused) {
                (Some(tracked), None) => {
                    drop(worker);
                    connection::serve(tracked).await;
                }
                (Some(tracked), Some(reason)) => Box::pin(turn_away(worker, tracked, reason)).await,
                (None, _) => {}
            }
        }
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.counters.snapshot(self.sessions.len(), self.sessions.upgraded())
    }

    /// Moves the clock on and does what is due: deadlines, goodbyes, cuts. To be called about every
    /// [`TICK`](Self::TICK); a server's workers do.
    pub fn tick(&self) {
        let now = self.started.elapsed().as_millis() as Millis;
        self.now.set(now);
        self.admission.tick();
        self.sessions.tick(now);
        self.tracing.tick();
    }

    /// [Ticks](Self::tick) for as long as the worker is somebody's. For a worker of one's own, as a task beside its
    /// connections.
    pub fn keep_time(self: &Rc<Self>) -> impl Future<Output = ()> + use<> {
        let worker = Rc::downgrade(self);
        async move {
            while let Some(worker) = worker.upgrade() {
                worker.tick();
                drop(worker);
                monoio::time::sleep(Self::TICK).await;
            }
        }
    }

    /// How coarse the deadlines are.
    pub const TICK: Duration = Duration::from_millis(50);

    /// Readiness fails from now on, unless another process has taken over.
    pub fn begin_drain(&self) {
        if self.stage.get() == Stage::Serving {
            self.stage.set(Stage::Unready { since: self.now() });
        }
    }

    /// Tells every session that the end has come, in its protocol's words, spread over a part of the drain time that
    /// grows with their number: a few are told at once, a crowd does not come back all in one moment.
    pub fn say_goodbye(&self) {
        let now = self.now();
        self.stage.set(Stage::Closing { since: now });
        let longest = self.goodbyes_longest();
        let window = longest.min(self.sessions.upgraded() as Millis * GOODBYE_EACH);
        // Between requests a close may cross the next one on its way. Where somebody else takes new connections there is
        // time to answer that one, and to say in its answer that it was the last.
        let idle = if self.handed_over.get() { longest } else { 0 };
        self.sessions.say_goodbye(now, window, idle);
    }

    /// When a connection is told that comes after the goodbyes, if one may.
    pub(crate) fn last_goodbye(&self) -> Option<Millis> {
        match self.stage.get() {
            Stage::Closing { since } => Some(since + self.goodbyes_longest()),
            _ => None,
        }
    }

    fn goodbyes_longest(&self) -> Millis {
        self.config.drain_time.as_millis() as Millis * 7 / 10
    }

    /// Ends every connection now.
    pub fn cut_all(&self) {
        self.stage.set(Stage::Cut { since: self.now() });
        self.sessions.cut_all();
    }

    /// Waits for the kernel, but for nothing in particular: a socket that always has room.
    pub(crate) async fn turnstile(&self) {
        let is_legacy = monoio::utils::is_legacy();
        let sockets = self.turnstile.get_or_init(|| if is_legacy { None } else { UnixStream::pair().ok() });
        match sockets {
            Some((socket, _)) => drop(socket.writable(false).await),
            // epoll says at once that there is room, without a look at anything else.
            None => Box::pin(monoio::time::sleep(Duration::from_millis(1))).await,
        }
    }

    /// Where connections wait for bytes; `None` where the system has no readiness set left.
    pub(crate) fn readiness(self: &Rc<Self>) -> Option<&Readiness> {
        self.readiness.get_or_init(|| Readiness::new(Rc::downgrade(self)).ok()).as_ref()
    }

    /// Milliseconds since the start, as of the last tick.
    pub(crate) fn now(&self) -> Millis {
        self.now.get()
    }

    /// Whether this server's clients shall go elsewhere: what `/readyz` tells.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_ending() && !self.handed_over.get()
    }

    /// Whether an answer is the last of its connection.
    pub(crate) fn is_ending(&self) -> bool {
        self.stage.get() != Stage::Serving
    }

    /// Whether goodbyes are being said, so that no session may begin. Who was accepted before another process took over
    /// cannot choose that one, and is served.
    pub(crate) fn is_closing(&self) -> bool {
        match self.stage.get() {
            Stage::Serving | Stage::Unready { .. } => false,
            Stage::Closing { .. } => !self.handed_over.get(),
            Stage::Cut { .. } => true,
        }
    }

    /// Whether a line that a peer has caused may be logged: peers could cause more of them than any log takes.
    pub(crate) fn may_log(&self) -> bool {
        let second = self.now() / 1000;
        let (last, count) = self.logged.get();
        let count = if second == last { count + 1 } else { 1 };
        self.logged.set((second, count));
        let lines_max = self.config.telemetry.log_lines_max;
        if count == lines_max + 1 {
            tracing::warn!("more happens than is logged; the counters have it all");
        }
        count <= lines_max
    }

    /// Whether a session that ended well is one of those that have a line.
    pub(crate) fn is_sampled(&self) -> bool {
        let count = self.unlogged.get() + 1;
        let is_sampled = count >= self.config.telemetry.log_sample;
        self.unlogged.set(if is_sampled { 0 } else { count });
        is_sampled
    }

    /// The `Date` of an answer, made once a second.
    pub(crate) fn date(&self) -> Rc<str> {
        let mut cached = self.date.borrow_mut();
        let second = self.now() / 1000 + 1;
        if cached.0 != second {
            *cached = (second, Rc::from(httpdate::fmt_http_date(SystemTime::now())));
        }
        Rc::clone(&cached.1)
    }

    /// Serves until the control says otherwise and the drain is over.
    pub(crate) async fn run(self: Rc<Self>, listening: Vec<Listening>, control: Arc<Control>) {
        let mut ticked = Instant::now();
        loop {
            monoio::time::sleep(Self::TICK).await;
            self.counters.ticked(ticked.elapsed().saturating_sub(Self::TICK));
            ticked = Instant::now();
            self.tick();
            control.tick();
            let is_over = self.follow(&control, &listening);
            control.do_orders(&self);
            control.publish(self.stats(), self.recents.take_changes());
            if is_over {
                break;
            }
        }
        for listening in listening {
            listening.ended().await;
        }
    }

    /// Moves the drain on; `true` when it is over.
    fn follow(self: &Rc<Self>, control: &Control, listening: &[Listening]) -> bool {
        let command = control.command();
        if command == Command::Stop && !matches!(self.stage.get(), Stage::Cut { .. }) {
            listening.iter().for_each(|listening| listening.stop(self));
            self.cut_all();
        }
        if command == Command::HandOver && self.stage.get() < (Stage::Closing { since: 0 }) {
            self.handed_over.set(true);
            listening.iter().for_each(|listening| listening.stop(self));
            self.say_goodbye();
        }
        let now = self.now();
        let limit = |limit: Duration| limit.as_millis() as Millis;
        match self.stage.get() {
            Stage::Serving if command == Command::Drain => self.begin_drain(),
            Stage::Serving => {}
            Stage::Unready { since } => {
                if now - since >= limit(self.config.drain_delay) {
                    listening.iter().for_each(|listening| listening.stop(self));
                    self.say_goodbye();
                }
            }
            Stage::Closing { since } => {
                if now - since >= limit(self.config.drain_time) {
                    self.cut_all();
                }
                return self.sessions.len() == 0;
            }
            Stage::Cut { since } => return self.sessions.len() == 0 || now - since >= CUT_TIME,
        }
        false
    }
}

/// Tells a connection why it has no place.
async fn turn_away(worker: Rc<Worker>, tracked: Tracked, reason: Reason) {
    worker.turned_away.set(worker.turned_away.get() + 1);
    connection::turn_away(tracked, reason).await;
    worker.turned_away.set(worker.turned_away.get() - 1);
}

/// Connections of a core that are told at one time; beyond it the others are closed without a word.
const TURNED_AWAY_MAX: usize = 64;
/// Milliseconds between two goodbyes, as long as the drain time allows.
const GOODBYE_EACH: Millis = 5;
/// How long the tasks of cut connections may take to notice, in milliseconds.
const CUT_TIME: Millis = 1_000;

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("registry", &self.registry)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// What the main thread asks of a worker, and what the worker tells: read and written at each tick.
#[derive(Debug, Default)]
pub(crate) struct Control {
    command: AtomicU8,
    ticks: AtomicU64,
    is_over: AtomicBool,
    published: Mutex<Published>,
    orders: Mutex<Orders>,
}

/// What a worker tells.
#[derive(Debug, Default)]
struct Published {
    stats: Stats,
    /// What those have counted who were lost to a panic.
    past: Stats,
    recent: Vec<Recent>,
}

/// What a worker is to do at its next tick.
#[derive(Default)]
struct Orders {
    waiting: Vec<Order>,
    /// Nobody does them any more.
    is_over: bool,
}

pub(crate) type Order = Box<dyn FnOnce(&Rc<Worker>) + Send>;

impl std::fmt::Debug for Orders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} orders", self.waiting.len())
    }
}

/// Orders that may wait for one tick of a worker; more are dropped, which their senders notice.
const ORDERS_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Serve,
    Drain,
    HandOver,
    Stop,
}

impl Control {
    fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ticks(&self) -> Option<u64> {
        (!self.is_over.load(Ordering::Relaxed)).then(|| self.ticks.load(Ordering::Relaxed))
    }

    /// The worker's thread has ended: nothing is done any more.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        *self.orders.lock().unwrap_or_else(PoisonError::into_inner) =
            Orders { waiting: Vec::new(), is_over: true };
    }

    pub(crate) fn give(&self, command: Command) {
        self.command.fetch_max(command as u8, Ordering::Relaxed);
    }

    fn command(&self) -> Command {
        match self.command.load(Ordering::Relaxed) {
            0 => Command::Serve,
            1 => Command::Drain,
            2 => Command::HandOver,
            _ => Command::Stop,
        }
    }

    fn publish(&self, stats: Stats, recent: Option<Vec<Recent>>) {
        let mut published = self.published();
        published.stats = stats;
        if let Some(recent) = recent {
            published.recent = recent;
        }
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stats(&self) -> Stats {
        let published = self.published();
        let mut stats = published.stats.clone();
        stats.merge(&published.past);
        stats
    }

    /// The worker's recent handshakes, the oldest first.
    pub(crate) fn recent(&self) -> Vec<Recent> {
        self.published().recent.clone()
    }

    /// The worker was lost, and another one takes its place: what it has counted stays.
    pub(crate) fn begins_anew(&self, stats: Stats) {
        let mut published = self.published();
        published.past.merge(&stats.past());
        published.past.restarts += 1;
        published.stats = Stats::default();
    }

    /// Has the worker do something at its next tick. If it never will, the order is dropped.
    pub(crate) fn order(&self, order: Order) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if !orders.is_over && orders.waiting.len() < ORDERS_MAX {
            orders.waiting.push(order);
        }
    }

    fn do_orders(&self, worker: &Rc<Worker>) {
        let waiting = std::mem::take(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner).waiting);
        for order in waiting {
            order(worker);
        }
    }
}

/// Runs a task of its own on this core, beside the handler that starts it. A panic costs that task only, where one of
/// [`monoio::spawn`]'s tasks would take the core with it.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    monoio::spawn(Guarded { task: connection::catch(task) });
}

pin_project! {
    struct Guarded<F> {
        #[pin]
        task: Catch<F>,
    }
}

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Poll::Ready(ended) = self.project().task.poll(cx) else { return Poll::Pending };
        if let Err(panic) = ended {
            tracing::error!(message = panic_message(&*panic), "a task of a handler panicked");
        }
        Poll::Ready(())
    }
}

/// A panic's message, where it has one.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
