//! Starts the workers, reads what they publish, ends them.

use std::{
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    os::fd::OwnedFd,
    panic,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

#[cfg(feature = "tls")]
use crate::tls::{
    Acceptor, CertificateStatus, LoadError,
    watch::{self, Watch},
};
use crate::{
    Address, Config, Driver, Listener, Registry, Stats, Token,
    bound::{Bound, Place},
    limits::Admission,
    listener::{self, Listening},
    observe::Recent,
    runtime::driver_of,
    worker::{Command, Control, Worker},
};

/// A running server: one worker a core, each on its own pinned thread.
///
/// ```no_run
/// use switchpoint::{Config, Registry, Server, Upgraded};
///
/// let server = Server::start(Config::default(), |_core| {
///     Registry::new().on("hello", async |connection: Upgraded| connection.write_all(b"hello\n").await)
/// })?;
/// println!("listening on {:?}", server.addresses());
/// server.join();
/// # Ok::<(), switchpoint::StartError>(())
/// ```
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    bound: Vec<Arc<Bound>>,
    driver: Driver,
    tokens: Vec<Token>,
    threads: Vec<JoinHandle<()>>,
    handle: Handle,
    /// For each listener whether it speaks TLS.
    secure: Vec<bool>,
    #[cfg(feature = "tls")]
    _watch: Option<Watch>,
}

/// What can be asked of a running server, from any thread.
#[derive(Clone, Debug, Default)]
pub struct Handle {
    workers: Vec<Arc<Control>>,
    driver: Driver,
    is_draining: Arc<AtomicBool>,
    #[cfg(feature = "tls")]
    acceptors: Vec<Acceptor>,
}

impl Handle {
    /// What all workers have counted, as of their last [tick](Worker::TICK).
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for control in &self.workers {
            sum.merge(&control.stats());
        }
        sum
    }

    /// The same of each worker by itself.
    pub fn stats_by_core(&self) -> Vec<Stats> {
        self.workers.iter().map(|control| control.stats()).collect()
    }

    /// Whether it was told to drain or to stop.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Which driver the workers stand on.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// The recent handshakes of all workers, the newest first.
    pub(crate) fn recent(&self) -> Vec<Recent> {
        let mut recent: Vec<Recent> = self.workers.iter().flat_map(|control| control.recent()).collect();
        recent.sort_by_key(|recent| std::cmp::Reverse(recent.at));
        recent
    }

    /// Asks something of each worker from the `first` on, up to `last`. Each answers at its next tick; one that never
    /// will hangs up.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        cores: RangeInclusive<usize>,
        question: impl Fn(&Rc<Worker>) -> T + Send + Sync + 'static,
    ) -> Vec<mpsc::Receiver<T>> {
        let question = Arc::new(question);
        let asked = self.workers.iter().enumerate().filter(|(core, _)| cores.contains(core));
        asked
            .map(|(_, control)| {
                let (answer, answers) = mpsc::sync_channel(1);
                let question = Arc::clone(&question);
                // Who asked may have given up.
                control.order(Box::new(move |worker| drop(answer.send(question(worker)))));
                answers
            })
            .collect()
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Begins the drain: readiness fails, accepting stops, every session is told goodbye, and after the drain time
    /// what is left is cut. [`Server::join`] returns when it is over.
    pub fn drain(&self) {
        self.give(Command::Drain);
    }

    /// How often each worker has ticked so far; `None` for one that has ended. One whose number stays the same for longer
    /// than some [ticks](Worker::TICK) is stuck in a handler that blocks its thread.
    pub fn ticks(&self) -> Vec<Option<u64>> {
        self.workers.iter().map(|control| control.ticks()).collect()
    }

    /// Cuts everything at once.
    pub fn stop(&self) {
        self.give(Command::Stop);
    }

    /// Reads the files of all certificates anew, and says in the log which they are. A file that changes is also seen by
    /// itself, within some seconds.
    ///
    /// # Errors
    /// The first that cannot be used. What was there before stays then, where that is; all others are taken.
    #[cfg(feature = "tls")]
    pub fn reload_certificates(&self) -> Result<(), LoadError> {
        // All of them, and then the first error.
        let results: Vec<_> = self.acceptors.iter().map(watch::reload).collect();
        results.into_iter().collect()
    }

    /// The certificates that are shown now, of all listeners.
    #[cfg(feature = "tls")]
    pub fn certificates(&self) -> Vec<CertificateStatus> {
        self.acceptors.iter().flat_map(Acceptor::certificates).collect()
    }

    fn give(&self, command: Command) {
        self.is_draining.store(true, Ordering::Relaxed);
        for control in &self.workers {
            control.give(command);
        }
    }
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {}", listen_hint(.source))]
    Listen {
        /// The address.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
    /// A worker's runtime cannot be had.
    #[error("cannot start a worker: {0}")]
    Worker(#[from] io::Error),
    /// There is nothing to listen on.
    #[error("there is no address to listen on")]
    NoAddress,
}

fn listen_hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the address is in use; stop the program that uses it, or choose another port".into()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE".into()
        }
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address".into(),
        io::ErrorKind::NotFound => "the folder does not exist".into(),
        _ => error.to_string(),
    }
}

impl Server {
    /// Binds every address, then starts the workers. `registry` is called on each worker's own thread, with the
    /// worker's number.
    ///
    /// # Errors
    /// When an address cannot be bound or a runtime cannot be built. Workers that have started are told to stop.
    pub fn start(
        config: Config,
        registry: impl Fn(usize) -> Registry + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        Self::take_over(config, Vec::new(), registry)
    }

    /// As [`start`](Self::start), with the [`sockets`](Self::sockets) of a server that is about to
    /// [`retire`](Self::retire), of this process or another one: an address of `config` that one of them has is not bound
    /// again, and connections that wait there are not lost. Those that `config` has no use for are ended once the server
    /// runs. Nothing is accepted before all workers are ready; so if it fails, nothing has happened to the sockets.
    ///
    /// # Errors
    /// As `start`.
    pub fn take_over(
        config: Config,
        mut sockets: Vec<OwnedFd>,
        registry: impl Fn(usize) -> Registry + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        if config.listen.is_empty() {
            return Err(StartError::NoAddress);
        }
        let count = config.workers();
        let bound = bind(&config.listen, count, &mut sockets)?;
        let addresses = bound.iter().filter_map(|bound| match &bound.place {
            Place::Tcp(address) => Some(*address),
            Place::Unix(_) => None,
        });
        let cores = core_affinity::get_core_ids().filter(|cores| config.pinned && cores.len() >= count);
        let registry = Arc::new(registry);
        let mut all_go = Vec::new();
        let admission = Arc::new(Admission::new(&config));
        let mut server = Self {
            addresses: addresses.collect(),
            bound,
            driver: config.driver,
            tokens: Vec::new(),
            threads: Vec::new(),
            secure: config.listen.iter().map(Listener::is_secure).collect(),
            handle: Handle::default(),
            #[cfg(feature = "tls")]
            _watch: None,
        };
        #[cfg(feature = "tls")]
        {
            let acceptors: Vec<_> =
                config.listen.iter().filter_map(|listener| listener.tls.clone()).collect();
            server._watch = Watch::new(acceptors.clone());
            server.handle.acceptors = acceptors;
        }
        for index in 0..count {
            let core = cores.as_ref().map(|cores| cores[index]);
            let (config, registry) = (config.clone(), Arc::clone(&registry));
            let admission = Arc::clone(&admission);
            let control = Arc::new(Control::default());
            let (started, starting) = mpsc::sync_channel(1);
            let (go, may_go) = mpsc::sync_channel(1);
            all_go.push(go);
            let thread = thread::Builder::new().name(format!("switchpoint-{index}")).spawn({
                let (control, bound) = (Arc::clone(&control), server.bound.clone());
                move || {
                    if let Some(core) = core {
                        // Where it is refused the worker runs all the same, only less evenly.
                        core_affinity::set_for_current(core);
                    }
                    let mut start = Some((started, may_go));
                    let make = || {
                        let (config, admission) = (config.clone(), Arc::clone(&admission));
                        Worker::of_server(index as u32, config, registry(index), admission)
                    };
                    while !run_worker(&config, make, (index, &bound), &control, &mut start) {
                        tracing::error!(worker = index, "the worker lost its connections, and starts anew");
                    }
                    control.end();
                }
            })?;
            server.threads.push(thread);
            server.handle.workers.push(control);
            match starting.recv() {
                Ok(Ok((driver, tokens))) => {
                    server.driver = driver;
                    server.handle.driver = driver;
                    server.tokens = tokens;
                }
                Ok(Err(error)) => {
                    server.stop();
                    return Err(error.into());
                }
                Err(_) => {
                    server.stop();
                    return Err(io::Error::other("a worker panicked while it built its registry").into());
                }
            }
        }
        for go in all_go {
            // It fails only if the worker has panicked meanwhile, which it has said.
            let _ = go.send(());
        }
        for socket in sockets {
            // As for `Bound::close`.
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
        }
        Ok(server)
    }

    /// The addresses of TCP that it listens on, with the ports that were chosen for `:0`.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// All that it listens on, for people: `http://127.0.0.1:8080`, `https://127.0.0.1:8443`, `unix:/run/chat.sock`.
    pub fn places(&self) -> impl Iterator<Item = String> {
        self.bound.iter().zip(&self.secure).map(|(bound, is_secure)| match &bound.place {
            Place::Tcp(address) if *is_secure => format!("https://{address}"),
            place => place.to_string(),
        })
    }

    /// The sockets that it listens on, for another process to go on with ([`take_over`](Self::take_over)), and then to
    /// [`retire`](Self::retire). Those that are [inherited](Address::Inherited) are not among them: who has passed them to
    /// this process has them still.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let mut sockets = Vec::new();
        for bound in &self.bound {
            sockets.extend(bound.sockets()?);
        }
        Ok(sockets)
    }

    /// Ends as after [`drain`](Self::drain), but leaves the sockets to another process that accepts from them. So nobody is
    /// refused: who was accepted before has the request answered, and is switched, if need be; only then it is told
    /// goodbye. Readiness does not fail, for the other process is.
    pub fn retire(&self) {
        self.bound.iter().for_each(|bound| bound.hand_over());
        self.handle.give(Command::HandOver);
    }

    /// Which driver the workers stand on.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.threads.len()
    }

    /// What it speaks.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// A handle that outlives the borrow of the server, for another thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// As [`Handle::stats`].
    pub fn stats(&self) -> Stats {
        self.handle.stats()
    }

    /// As [`Handle::drain`].
    pub fn drain(&self) {
        self.handle.drain();
    }

    /// As [`Handle::stop`].
    pub fn stop(&self) {
        self.handle.stop();
    }

    /// Whether every worker has ended.
    pub fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits until every worker has ended, and returns what they counted.
    pub fn join(mut self) -> Stats {
        for thread in self.threads.drain(..) {
            // A worker's panic was reported by its own thread; the others go on.
            drop(thread.join());
        }
        self.stats()
    }
}

/// Listens on each address, with the sockets that are there already or new ones.
fn bind(
    listeners: &[Listener],
    workers: usize,
    sockets: &mut Vec<OwnedFd>,
) -> Result<Vec<Arc<Bound>>, StartError> {
    let mut bound: Vec<Option<Arc<Bound>>> = vec![None; listeners.len()];
    let takes_any = |address: &Address| matches!(address, Address::Tcp(address) if address.port() == 0);
    // Who takes any port leaves those that others name to them.
    for may_take_any in [false, true] {
        for (bound, Listener { address, .. }) in bound.iter_mut().zip(listeners) {
            if takes_any(address) != may_take_any {
                continue;
            }
            let taken = Bound::take_over(address, workers, sockets).transpose();
            let listens = taken.unwrap_or_else(|| Bound::new(address, workers));
            let listens =
                listens.map_err(|source| StartError::Listen { address: address.clone(), source })?;
            *bound = Some(Arc::new(listens));
        }
    }
    Ok(bound.into_iter().flatten().collect())
}

/// A server that is forgotten does not keep its port.
impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a worker says about its start.
type Started = mpsc::SyncSender<io::Result<(Driver, Vec<Token>)>>;

/// Runs a worker to its end. `false`: a task of a handler that was not [guarded](crate::spawn) has panicked and taken the
/// runtime with it; the listeners are still there for the next one.
fn run_worker(
    config: &Config,
    make: impl FnOnce() -> Rc<Worker>,
    (number, bound): (usize, &[Arc<Bound>]),
    control: &Arc<Control>,
    start: &mut Option<(Started, mpsc::Receiver<()>)>,
) -> bool {
    let mut runtime = match config.driver.build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a worker's runtime cannot be built");
            start.take().map(|(started, _)| started.send(Err(error)));
            return true;
        }
    };
    let worker = make();
    let (driver, tokens) = (driver_of(&runtime), worker.registry.tokens());
    let ended = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        runtime.block_on(async {
            let each = (0..).zip(bound);
            let listening: io::Result<Vec<Vec<Listening>>> =
                each.map(|(index, bound)| listener::listen(&worker, number, bound, index)).collect();
            match listening {
                Ok(listening) => {
                    if let Some((started, may_go)) = start.take() {
                        drop(started.send(Ok((driver, tokens))));
                        // No task has run yet, so nothing is accepted while another worker may still fail.
                        if may_go.recv().is_err() {
                            return;
                        }
                    }
                    Rc::clone(&worker)
                        .run(listening.into_iter().flatten().collect(), Arc::clone(control))
                        .await;
                }
                Err(error) => {
                    start.take().map(|(started, _)| started.send(Err(error)));
                }
            }
        });
    }));
    if ended.is_err() {
        // Nobody is left to serve them, and their peers shall know.
        worker.sessions.abort_all();
        control.begins_anew(worker.stats());
    }
    worker.sessions.seats.let_go();
    ended.is_ok()
}
