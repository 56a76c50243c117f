//! What an operator sees of a running server, and does to it: ordinary resources, in the registry of another [`Server`].
//!
//! [`metrics`] may be reached over a network; [`control`] belongs on a unix socket that only its owner may open. Both
//! ask the workers by way of the server's [`Handle`]: a worker answers at its next tick.
//!
//! ```no_run
//! use switchpoint::{Config, Registry, Server, admin};
//!
//! let server = Server::start(Config::default(), |_core| Registry::new())?;
//! let (handle, hooks) = (server.handle(), admin::Hooks::default());
//! let listen = vec!["127.0.0.1:9090".parse().unwrap()];
//! let admin = Server::start(
//!     Config { listen, threads: 1, ..Config::default() },
//!     move |_core| admin::metrics(&handle, &hooks),
//! )?;
//! # Ok::<(), switchpoint::StartError>(())
//! ```
//!
//! [`Server`]: crate::Server

mod handshakes;
mod sessions;
mod traces;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant, SystemTime},
};

pub use handshakes::Handshakes;
use serde_json::{Value, json};

use crate::{
    Handle, Registry, Rejection, Request, Response,
    exposition::{self, Facts, Format},
    process::Process,
    resource::Closure,
};

/// What a server's program can do besides its server; what it cannot is answered with 404.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Hooks {
    /// Reads again what can change at run time, such as certificates, and says what was read.
    pub reload: Option<Arc<Reload>>,
    /// Changes what is logged, to a level or a filter.
    pub set_log: Option<Arc<SetLog>>,
    /// Is told of a drain by order, so that the program can end with its server.
    pub drains: Option<Arc<Drains>>,
    /// How many lines of the log were lost.
    pub log_lines_dropped: Option<Arc<Count>>,
}

type Reload = dyn Fn() -> Result<String, String> + Send + Sync;
type SetLog = dyn Fn(&str) -> Result<(), String> + Send + Sync;
type Drains = dyn Fn() + Send + Sync;
type Count = dyn Fn() -> u64 + Send + Sync;

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("reload", &self.reload.is_some())
            .field("set_log", &self.set_log.is_some())
            .field("drains", &self.drains.is_some())
            .field("log_lines_dropped", &self.log_lines_dropped.is_some())
            .finish()
    }
}

/// `/metrics`, `/healthz` and `/readyz`, of the server behind `handle`: nothing that changes it, and nobody's address.
pub fn metrics(handle: &Handle, hooks: &Hooks) -> Registry {
    let (handle, hooks) = (handle.clone(), hooks.clone());
    let ready = handle.clone();
    let no_store = |response: Response| response.field("Cache-Control", "no-store");
    Registry::new()
        .get("/metrics", move |request| no_store(expose(&handle, &hooks, request)))
        .get("/healthz", move |_| no_store(Response::text("ok\n")))
        .get("/readyz", move |_| {
            let (status, text) = if ready.is_draining() { (503, "draining\n") } else { (200, "ready\n") };
            no_store(Response::text(text).with_status(status))
        })
}

/// The same, and everything that `switchpoint ctl` and `switchpoint trace` ask for.
pub fn control(handle: &Handle, hooks: &Hooks) -> Registry {
    let handle = || handle.clone();
    let (stats, drain, recent) = (handle(), handle(), handle());
    let (log, reload, drains) = (hooks.set_log.clone(), hooks.reload.clone(), hooks.drains.clone());
    let registry = metrics(&handle(), hooks)
        .get("/stats", move |_| answer(&statistics(&stats)))
        .get("/handshakes", move |_| answer(&handshakes::list(&recent, handshakes::Shows::Peers)))
        .post("/drain", async move |_: &Request<'_>| {
            drain.drain();
            if let Some(drains) = &drains {
                drains();
            }
            Ok(answer(&json!({ "draining": drain.stats().sessions })))
        })
        .post("/log", async move |request: &Request<'_>| {
            let level = parameter(request, "level").unwrap_or_default();
            match log.as_ref().map(|set| set(&level)) {
                Some(Ok(())) => {
                    tracing::info!(level, "the log's level was changed");
                    Ok(answer(&json!({ "level": level })))
                }
                Some(Err(error)) => Err(Rejection::bad_request(error)),
                None => Ok(missing("this program's log cannot be changed")),
            }
        })
        .post("/reload", async move |_: &Request<'_>| {
            Ok(match reload.as_ref().map(|reload| reload()) {
                Some(Ok(what)) => answer(&json!({ "reloaded": what })),
                Some(Err(error)) => answer(&json!({ "error": error })).with_status(500),
                None => missing("there is nothing to reload"),
            })
        })
        .at("/trace", traces::Traces::new(handle()));
    let (list, one, kill) = (handle(), handle(), handle());
    registry
        .resource("/sessions", get(async move |request: &Request<'_>| sessions::list(&list, request).await))
        .resource("/session", get(async move |request: &Request<'_>| sessions::inspect(&one, request).await))
        .post("/kill", async move |request: &Request<'_>| sessions::kill(&kill, request).await)
}

fn get<F>(answer: F) -> Closure<F> {
    Closure { methods: &["GET"], answer }
}

fn expose(handle: &Handle, hooks: &Hooks, request: &Request<'_>) -> Response {
    let format = Format::asked_for(request.list("accept"));
    let cores = handle.stats_by_core();
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION"),
        driver: &handle.driver().to_string(),
        is_ready: !handle.is_draining(),
        cores: &cores,
        log_lines_dropped: hooks.log_lines_dropped.as_ref().map_or(0, |count| count()),
        certificates: certificates(handle),
        process: Process::now(),
    };
    Response::new(200).with_body(format.content_type(), exposition::write(&facts, format))
}

/// The certificates that are shown, by their first name, and when they expire. Several listeners may show one.
#[cfg(feature = "tls")]
fn certificates(handle: &Handle) -> BTreeMap<String, f64> {
    let mut by_name = BTreeMap::new();
    for certificate in handle.certificates() {
        let expiry = certificate.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = certificate.names.first().cloned().unwrap_or_default();
        let soonest = by_name.entry(name).or_insert(f64::MAX);
        *soonest = expiry.as_secs_f64().min(*soonest);
    }
    by_name
}

#[cfg(not(feature = "tls"))]
fn certificates(_: &Handle) -> BTreeMap<String, f64> {
    BTreeMap::new()
}

fn statistics(handle: &Handle) -> Value {
    let (sum, process) = (handle.stats(), Process::now());
    let cores = handle.stats_by_core();
    let cores = cores.iter().enumerate().map(|(core, stats)| {
        json!({
            "core": core,
            "connections": stats.connections,
            "sessions": stats.sessions,
            "lag_ms": stats.lag.as_secs_f64() * 1e3,
        })
    });
    let protocols: serde_json::Map<String, Value> = sum
        .protocols
        .iter()
        .map(|(name, counted)| {
            let counted = json!({
                "sessions": counted.sessions,
                "switched": counted.switched,
                "ignored": counted.ignored,
                "refused": counted.refused,
                "ended": counted.ends,
            });
            (name.clone(), counted)
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "driver": handle.driver().to_string(),
        "ready": !handle.is_draining(),
        "started": rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(process.start_time_seconds.max(0.0))),
        "resident_bytes": process.resident_bytes,
        "open_fds": process.open_fds,
        "connections": sum.connections,
        "sessions": sum.sessions,
        "accepted": sum.accepted,
        "requests": sum.requests,
        "refusals": sum.rejections,
        "received_bytes": sum.received,
        "sent_bytes": sum.sent,
        "cores": cores.collect::<Vec<_>>(),
        "protocols": protocols,
    })
}

fn answer(value: &Value) -> Response {
    Response::new(200).with_body("application/json", format!("{value}\n")).field("Cache-Control", "no-store")
}

fn missing(what: &str) -> Response {
    answer(&json!({ "error": what })).with_status(404)
}

/// A parameter of the query.
fn parameter(request: &Request<'_>, name: &str) -> Option<String> {
    let query = request.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// A parameter that has to be in its form, if it is there.
fn parsed<T>(request: &Request<'_>, name: &str) -> Result<Option<T>, Rejection>
where
    T: std::str::FromStr<Err: fmt::Display>,
{
    let Some(value) = parameter(request, name) else { return Ok(None) };
    value.parse().map(Some).map_err(|error| Rejection::bad_request(format!("{name}: {error}")))
}

/// Waits for what the workers answer; `None` for one that does not, within the time for it.
async fn answers<T>(asked: Vec<Receiver<T>>) -> Vec<Option<T>> {
    let begun = Instant::now();
    let mut answers: Vec<Option<T>> = asked.iter().map(|_| None).collect();
    loop {
        let mut is_waiting = false;
        for (answer, receiver) in answers.iter_mut().zip(&asked) {
            if answer.is_none() {
                match receiver.try_recv() {
                    Ok(value) => *answer = Some(value),
                    Err(TryRecvError::Empty) => is_waiting = true,
                    Err(TryRecvError::Disconnected) => {}
                }
            }
        }
        if !is_waiting || begun.elapsed() >= ANSWER_TIME {
            return answers;
        }
        monoio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A worker answers at its next tick; one that is busy for longer than this has its operator told so.
const ANSWER_TIME: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A moment as text, in UTC.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
