//! `switchpoint serve`: the server, until it is told to end.

use std::{
    env,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{self, RecvTimeoutError},
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
use switchpoint::{Server, Stats};

use super::config::{Layers, Settled};

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
    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: super::tls::TlsArguments,
    /// How much to log: `error`, `warn`, `info` (refusals), `debug` (every session), or a filter such as
    /// `switchpoint=debug` [default: info].
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a setting is KEY=VALUE, such as limits.head_time=5s")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
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
    let drain_time = config.drain_time;
    tracing_subscriber::fmt()
        .with_env_filter(&settings.log)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    raise_descriptor_limit();

    // Before the workers are there, so that no signal is missed.
    let signals = match signals() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot wait for signals: {error}")),
    };
    let server = match Server::start(config, move |_core| settings.registry()) {
        Ok(server) => server,
        Err(error) => return fail(&error.to_string()),
    };
    say(&start_line(&server));
    if let Some(line) = certificate {
        say(&line);
    }

    let first = loop {
        // The thread ends with the process; the channel cannot close before.
        match signals.recv().unwrap_or(SIGTERM) {
            SIGHUP => reload(&server),
            signal => break signal,
        }
    };
    let before = server.stats();
    let begun = Instant::now();
    server.drain();
    say(&format!(
        "switchpoint: {} received, draining {} sessions within {}; a second signal ends it now",
        if first == SIGINT { "SIGINT" } else { "SIGTERM" },
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
    say(&last_line(&before, &server.join(), begun.elapsed()));
    ExitCode::SUCCESS
}

/// Reads anew what can be read anew.
fn reload(server: &Server) {
    #[cfg(feature = "tls")]
    drop(server.handle().reload_certificates()); // the log says what could not be read
    #[cfg(not(feature = "tls"))]
    let _ = server;
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
