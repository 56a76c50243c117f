//! `switchpoint serve`: the server, until it is told to end.

use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
#[cfg(feature = "tls")]
use switchpoint::{Config, Listener};
use switchpoint::{
    Handle, Server, Stats,
    admin::{Handshakes, Hooks},
};

use super::{
    admin,
    config::{Layers, Settled},
    debug_head,
    log::{self, Log},
};

/// How to serve. Flags come before the environment, the environment before the file, and the file before the defaults.
#[derive(Args, Clone, Debug, Default)]
#[group(skip)]
pub(super) struct Arguments {
    /// A file of settings (docs/configuration.md; `switchpoint print-config --sample` prints one).
    #[arg(long, value_name = "FILE", env = "SWITCHPOINT_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Any setting of the file, such as `limits.head_time=5s`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// An address to listen on, such as `0.0.0.0:8080`, `[::1]:8080`, `localhost:8080`, `:8080`, `unix:/run/x.sock` or
    /// `fd://3`; may be repeated. Port 0 takes a free one [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Worker threads; 0 for one a core [default: 0].
    #[arg(long, value_name = "N")]
    threads: Option<String>,
    /// What waits for the kernel: `auto` (io_uring where it is allowed, else epoll), `uring` or `epoll` [default: auto].
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    /// How long SIGTERM or Ctrl-C may take: every session is told, what is left after this time is cut [default: 10s].
    #[arg(long, value_name = "TIME")]
    drain_time: Option<String>,
    /// How long `/readyz` fails before accepting stops, for load balancers that look at it [default: 0s].
    #[arg(long, value_name = "TIME")]
    drain_delay: Option<String>,
    /// Connections in all; beyond it new ones get 503. 0 for what the descriptor limit allows [default: 0].
    #[arg(long, value_name = "N")]
    connections_max: Option<String>,
    /// How long a request's head may take to arrive [default: 10s].
    #[arg(long, value_name = "TIME")]
    head_time: Option<String>,
    /// How long an `echo` session may be silent [default: 5m].
    #[arg(long, value_name = "TIME")]
    idle_time: Option<String>,
    /// The longest WebSocket message, such as `65536`, `1MiB`; a longer one is closed with 1009 [default: 1MiB].
    #[arg(long, value_name = "SIZE")]
    message_max: Option<String>,
    /// Compresses WebSocket messages (permessage-deflate) for clients that offer it.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    deflate: Option<String>,
    /// A silent WebSocket is sent a ping after this time [default: 30s].
    #[arg(long, value_name = "TIME")]
    ping_after: Option<String>,
    /// Another origin whose pages may connect, such as `https://example.org`; may be repeated. `*` allows all.
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Switches to HTTP/2 whoever asks for it by `Upgrade: h2c`. A request that came through a proxy is answered in
    /// HTTP/1.1 all the same. HTTP/2 by prior knowledge needs no switch, and is always spoken.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    h2c: Option<String>,
    /// Switches to HTTP/2 also where a proxy has passed the request on: only if the proxy drops `Upgrade: h2c`, or has no
    /// rules that a client could get around.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    h2c_behind_proxies: Option<String>,
    /// The longest body of an ordinary request, such as `65536`, `1MiB`; a longer one is answered with 413
    /// [default: 64KiB].
    #[arg(long, value_name = "SIZE")]
    body_max: Option<String>,
    /// Sends back at this path, which nothing else may have, the head of each request, as it arrived, for
    /// `switchpoint explain --through`. What could be a secret is left out. Off by default.
    #[arg(long, value_name = "PATH", value_parser = path)]
    debug_head: Option<String>,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: super::tls::TlsArguments,
    #[command(flatten)]
    admin: admin::Arguments,
    /// How much to log: `error`, `warn`, `info` (sessions that end, and refusals), `debug` (more of every session), or a
    /// filter such as `switchpoint=debug` [default: info]. `switchpoint ctl log` changes it at run time.
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    #[command(flatten)]
    logging: log::Arguments,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a setting is KEY=VALUE, such as limits.head_time=5s")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && !text.contains(['?', '#', ' ']) {
        Ok(text.to_owned())
    } else {
        Err("a path begins with `/`".into())
    }
}

impl Arguments {
    /// All that the program is told, settled.
    ///
    /// # Errors
    /// All that is wrong with it, for people.
    pub(super) fn settle(&self) -> Result<Settled, String> {
        let mut layers = Layers::default().environment(variables());
        if let Some(path) = &self.config {
            layers = layers.file(path).map_err(|error| format!("error: {error}\n"))?;
        }
        for (key, value) in &self.set {
            layers.flag(&format!("--set {key}"), key, value.clone());
        }
        for address in &self.listen {
            layers.flag("--listen", "listen", address.clone());
        }
        if !self.allow_origin.is_empty() {
            layers.flag("--allow-origin", "websocket.origins", self.allow_origin.join(","));
        }
        for (flag, key, value) in [
            ("--threads", "threads", &self.threads),
            ("--driver", "driver", &self.driver),
            ("--log", "log", &self.log),
            ("--drain-time", "limits.drain_time", &self.drain_time),
            ("--drain-delay", "limits.drain_delay", &self.drain_delay),
            ("--connections-max", "limits.connections_max", &self.connections_max),
            ("--head-time", "limits.head_time", &self.head_time),
            ("--idle-time", "limits.idle_time", &self.idle_time),
            ("--message-max", "limits.message_max", &self.message_max),
            ("--ping-after", "limits.ping_after", &self.ping_after),
            ("--body-max", "limits.body_max", &self.body_max),
            ("--deflate", "websocket.deflate", &self.deflate),
            ("--h2c", "http2.h2c", &self.h2c),
            ("--h2c-behind-proxies", "http2.h2c_behind_proxies", &self.h2c_behind_proxies),
        ] {
            if let Some(value) = value {
                layers.flag(flag, key, value.clone());
            }
        }
        let settled = layers.settle().map_err(|problems| problems.to_string())?;
        for warning in &settled.warnings {
            eprintln!("switchpoint: warning: {warning}");
        }
        Ok(settled)
    }
}

/// The environment, as far as it is text.
fn variables() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let settings = match arguments.settle() {
        Ok(settled) => settled.settings,
        Err(problems) => return refuse(&problems),
    };
    let config = match settings.config() {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    #[cfg(feature = "tls")]
    let config = match arguments.tls.acceptor() {
        Ok(Some(acceptor)) => {
            let secure = |listener| Listener { tls: Some(acceptor.clone()), ..listener };
            Config { listen: config.listen.into_iter().map(secure).collect(), ..config }
        }
        Ok(None) => config,
        Err(error) => return fail(&error),
    };
    let drain_time = config.drain_time;
    let mut config = config;
    config.telemetry = arguments.logging.telemetry();
    config.telemetry.recent_handshakes = arguments.admin.recent_handshakes();
    let log = match arguments.logging.install(&settings.log) {
        Ok(log) => log,
        Err(error) => return fail(&format!("cannot begin to log: {error}")),
    };
    raise_descriptor_limit();

    // Before the workers are there, so that no signal is missed.
    let signals = match signals() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot wait for signals: {error}")),
    };
    let handshakes = Handshakes::new();
    let shown = (config.telemetry.recent_handshakes > 0).then(|| handshakes.clone());
    // It lives as long as the process.
    let debug_head: Option<&'static str> = arguments.debug_head.clone().map(|path| &*path.leak());
    let registry = move |_core| {
        let registry = settings.registry(shown.as_ref());
        match debug_head {
            Some(path) => registry.get(path, debug_head::answer),
            None => registry,
        }
    };
    let server = match Server::start(config, registry) {
        Ok(server) => server,
        Err(error) => return fail(&error.to_string()),
    };
    handshakes.of(&server.handle());
    let admin = match arguments.admin.start(&server.handle(), &hooks(&log, server.handle())) {
        Ok(admin) => admin,
        Err(error) => return fail(&error.to_string()),
    };
    say(&start_line(&server));
    #[cfg(feature = "tls")]
    super::tls::self_signed_lines(&server).for_each(|line| say(&line));
    for address in admin.addresses() {
        say(&format!("switchpoint: metrics at http://{address}/metrics"));
    }
    if let Some(path) = arguments.admin.socket() {
        say(&format!("switchpoint: admin socket at {}", path.display()));
    }

    let first = asked_to_end(&signals, &server.handle());
    let before = server.stats();
    let begun = Instant::now();
    server.drain();
    say(&format!(
        "switchpoint: {} received, draining {} sessions within {}; a second signal ends it now",
        match first {
            Some(SIGINT) => "SIGINT",
            Some(_) => "SIGTERM",
            None => "an operator's order",
        },
        before.sessions,
        humantime::format_duration(drain_time)
    ));
    while !server.is_over() {
        match signals.recv_timeout(Duration::from_millis(10)) {
            Ok(SIGHUP) => {}
            Ok(_) => server.stop(),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(10)),
        }
    }
    let after = server.join();
    admin.end();
    log.flush(Duration::from_millis(500));
    say(&last_line(&before, &after, begun.elapsed()));
    ExitCode::SUCCESS
}

/// What an operator can do besides what every server can.
fn hooks(log: &Log, handle: Handle) -> Hooks {
    let mut hooks = Hooks::default();
    let (changed, counted) = (log.clone(), log.clone());
    hooks.reload = Some(Arc::new(move || reload(&handle)));
    hooks.set_log = Some(Arc::new(move |level| changed.set(level)));
    hooks.log_lines_dropped = Some(Arc::new(move || counted.lost()));
    hooks
}

/// Waits for a signal to end, or for an operator's order: then it is `None`.
fn asked_to_end(signals: &mpsc::Receiver<i32>, handle: &Handle) -> Option<i32> {
    loop {
        match signals.recv_timeout(Duration::from_millis(50)) {
            Ok(SIGHUP) => drop(reload(handle)), // the log says what has become of it
            Ok(signal) => return Some(signal),
            Err(RecvTimeoutError::Timeout) if handle.is_draining() => return None,
            Err(RecvTimeoutError::Timeout) => {}
            // The thread ends with the process; the channel cannot close before.
            Err(RecvTimeoutError::Disconnected) => return Some(SIGTERM),
        }
    }
}

/// Reads anew what can be read anew, and says what that was.
fn reload(handle: &Handle) -> Result<String, String> {
    #[cfg(feature = "tls")]
    {
        handle.reload_certificates().map_err(|error| error.to_string())?;
        let certificates = handle.certificates();
        if !certificates.is_empty() {
            let names: Vec<String> = certificates.iter().map(|each| each.names.join(" ")).collect();
            return Ok(format!("certificates: {}", names.join("; ")));
        }
    }
    let _ = handle;
    Err("there is nothing to reload".into())
}

/// Says something on standard output, if anybody still listens there.
fn say(line: &str) {
    drop(writeln!(io::stdout(), "{line}"));
}

fn fail(message: &str) -> ExitCode {
    eprintln!("switchpoint: {message}");
    ExitCode::FAILURE
}

/// Says what is wrong with the settings. Its exit code is that of wrong arguments: to start again will not help.
pub(super) fn refuse(problems: &str) -> ExitCode {
    let count = problems.lines().filter(|line| line.starts_with("error: ")).count();
    let errors = if count == 1 { "an error".into() } else { format!("{count} errors") };
    eprintln!("{problems}switchpoint: {errors} in the configuration");
    ExitCode::from(2)
}

/// A server's connections are descriptors: it takes all that it may have.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        // Where it is refused, the limit stays as it is, and `Config` reads it.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

fn signals() -> io::Result<mpsc::Receiver<i32>> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn start_line(server: &Server) -> String {
    let list = |items: Vec<String>| items.join(", ");
    format!(
        "switchpoint {}: listening on {} with {} {} on {}; protocols: {}",
        env!("CARGO_PKG_VERSION"),
        list(server.places().collect()),
        server.workers(),
        if server.workers() == 1 { "worker" } else { "workers" },
        server.driver(),
        list(server.tokens().iter().map(ToString::to_string).collect()),
    )
}

fn last_line(before: &Stats, after: &Stats, time: Duration) -> String {
    let lost = match after.lost - before.lost {
        0 => String::new(),
        lost => format!(", {lost} lost"),
    };
    format!(
        "switchpoint: drained in {:.1} s: {} closed cleanly, {} cut{lost}",
        time.as_secs_f64(),
        after.closed_clean - before.closed_clean,
        after.cut - before.cut
    )
}
