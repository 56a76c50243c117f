//! One core: what its connections share, and the ticker that looks after them all.

use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU8, atomic::Ordering},
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use monoio::net::UnixStream;
use pin_project_lite::pin_project;

use crate::{
    Config, Reason, Registry, Stats, Stream,
    buffer::{HOT, LARGE, Pool, Spares},
    connection::{self, Catch},
    limits::{Admission, Permit},
    listener::Listening,
    metrics::Counters,
    parking::Parking,
    protocols::websocket::{Batch, Inbound, Unsent},
    sessions::{Millis, Sessions, Tracked},
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
    /// The second that it is, and the lines that peers have caused in it.
    logged: Cell<(Millis, u64)>,
    turnstile: OnceCell<Option<(UnixStream, UnixStream)>>,
    parking: OnceCell<Option<Parking>>,
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
        Self::of_server(config, registry, admission)
    }

    /// One of the workers that share `admission`.
    pub(crate) fn of_server(config: Config, registry: Registry, admission: Arc<Admission>) -> Rc<Self> {
        Rc::new(Self {
            admission,
            open: Cell::new(0),
            config,
            registry,
            sessions: Sessions::default(),
            counters: Counters::default(),
            pool: Pool::new(LARGE, 16),
            hot: Pool::new(HOT, 2),
            batches: Spares::new(),
            inbounds: Spares::new(),
            unsents: Spares::new(),
            contexts: Contexts::new(),
            turned_away: Cell::new(0),
            started: Instant::now(),
            now: Cell::new(0),
            date: RefCell::new((0, Rc::from(""))),
            stage: Cell::new(Stage::Serving),
            logged: Cell::new((0, 0)),
            turnstile: OnceCell::new(),
            parking: OnceCell::new(),
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
                self.counters.rejected(*reason);
                None
            }
            _ => Some(self.sessions.track(stream, peer, listener, self)),
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

    /// Readiness fails from now on.
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
        let window = self.config.drain_time.as_millis() as Millis * 7 / 10;
        self.sessions.say_goodbye(now, window.min(self.sessions.upgraded() as Millis * GOODBYE_EACH));
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

    /// Where quiet connections wait; `None` where the system has no readiness set left.
    pub(crate) fn parking(self: &Rc<Self>) -> Option<&Parking> {
        self.parking.get_or_init(|| Parking::new(Rc::downgrade(self)).ok()).as_ref()
    }

    /// Milliseconds since the start, as of the last tick.
    pub(crate) fn now(&self) -> Millis {
        self.now.get()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.stage.get() != Stage::Serving
    }

    /// Whether goodbyes are being said, so that no session may begin.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.stage.get(), Stage::Closing { .. } | Stage::Cut { .. })
    }

    /// Whether a line that a peer has caused may be logged: peers could cause more of them than any log takes.
    pub(crate) fn may_log(&self) -> bool {
        let second = self.now() / 1000;
        let (last, count) = self.logged.get();
        let count = if second == last { count + 1 } else { 1 };
        self.logged.set((second, count));
        if count == LINES_MAX + 1 {
            tracing::warn!("more is refused than is logged; the counters have it all");
        }
        count <= LINES_MAX
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
        loop {
            monoio::time::sleep(Self::TICK).await;
            self.tick();
            let is_over = self.follow(&control, &listening);
            control.publish(self.stats());
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
        let now = self.now();
        let limit = |limit: Duration| limit.as_millis() as Millis;
        match self.stage.get() {
            Stage::Serving if command == Command::Drain => self.begin_drain(),
            Stage::Serving => {}
            Stage::Unready { since } => {
                // Others take who comes now. Those who are here already are served for as long as the delay lasts.
                let handed_over = listening.iter().filter(|listening| listening.is_handed_over());
                handed_over.for_each(|listening| listening.stop(self));
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
/// Lines a second that peers may cause on a core.
const LINES_MAX: u64 = 50;
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
    published: Mutex<Stats>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Serve,
    Drain,
    Stop,
}

impl Control {
    pub(crate) fn give(&self, command: Command) {
        self.command.fetch_max(command as u8, Ordering::Relaxed);
    }

    fn command(&self) -> Command {
        match self.command.load(Ordering::Relaxed) {
            0 => Command::Serve,
            1 => Command::Drain,
            _ => Command::Stop,
        }
    }

    fn publish(&self, stats: Stats) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    pub(crate) fn stats(&self) -> Stats {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
