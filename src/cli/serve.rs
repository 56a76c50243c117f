//! `switchpoint serve`: the server, until it is told to end.

use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use switchpoint::Server;
#[cfg(feature = "tls")]
use switchpoint::{Config, Listener};
use switchpoint::{
    Handle,
    admin::{Handshakes, Hooks},
};

use super::{
    admin::Operator,
    config::{Layers, Settled},
    life::{Life, complain},
    log::Log,
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
    #[arg(long, value_name = "PATH")]
    debug_head: Option<String>,
    /// A file for the number of the process, for `switchpoint upgrade-binary --pid-file`.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<String>,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: super::tls::TlsArguments,
    /// An address for `/metrics`, `/healthz` and `/readyz`, such as `127.0.0.1:9090`; keep it off the internet. May be
    /// repeated.
    #[arg(long, value_name = "ADDR")]
    admin: Vec<String>,
    /// A unix socket for `switchpoint ctl` and `switchpoint trace`, which only this user may open.
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<String>,
    /// Shows the last handshakes of each core at `/`, made and refused: 64 of them, or as many as are asked for
    /// [default: 0].
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "64")]
    recent_handshakes: Option<String>,
    /// How much to log: `error`, `warn`, `info` (sessions that end, and refusals), `debug` (more of every session), or a
    /// filter such as `switchpoint=debug` [default: info]. `switchpoint ctl log` changes it at run time.
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// The form of a line: `text`, or `json` with an object a line [default: text].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Of the sessions that ended well, one of so many has a line. Refusals and errors always have one [default: 1].
    #[arg(long, value_name = "N")]
    log_sample: Option<String>,
    /// Lines a second that peers may cause on a core; the counters have the rest [default: 500].
    #[arg(long, value_name = "N")]
    log_lines_max: Option<String>,
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
        if !self.admin.is_empty() {
            layers.flag("--admin", "admin.listen", self.admin.join(","));
        }
        for (flag, key, value) in [
            ("--threads", "threads", &self.threads),
            ("--driver", "driver", &self.driver),
            ("--log", "log", &self.log),
            ("--log-format", "log_format", &self.log_format),
            ("--log-sample", "log_sample", &self.log_sample),
            ("--log-lines-max", "log_lines_max", &self.log_lines_max),
            ("--pid-file", "pid_file", &self.pid_file),
            ("--admin-socket", "admin.socket", &self.admin_socket),
            ("--recent-handshakes", "admin.recent_handshakes", &self.recent_handshakes),
            ("--debug-head", "admin.debug_head", &self.debug_head),
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
            complain(&format!("warning: {warning}"));
        }
        Ok(settled)
    }
}

/// The environment, as far as it is text.
fn variables() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let mut life = match Life::begin() {
        Ok(life) => life,
        Err(error) => {
            complain(&format!("the process cannot be readied: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let settings = match arguments.settle() {
        Ok(settled) => settled.settings,
        Err(problems) => {
            life.tell_predecessor(&problems);
            return refuse(&problems);
        }
    };
    life = life.pid_file(settings.pid_file.clone());
    let config = match settings.config() {
        Ok(config) => config,
        Err(error) => return life.fail(&error),
    };
    #[cfg(feature = "tls")]
    let config = match arguments.tls.acceptor() {
        Ok(Some(acceptor)) => {
            let secure = |listener| Listener { tls: Some(acceptor.clone()), ..listener };
            Config { listen: config.listen.into_iter().map(secure).collect(), ..config }
        }
        Ok(None) => config,
        Err(error) => return life.fail(&error),
    };
    let log = match Log::install(&settings.log, settings.log_format) {
        Ok(log) => log,
        Err(error) => return life.fail(&format!("cannot begin to log: {error}")),
    };
    raise_descriptor_limit();

    let handshakes = Handshakes::new();
    let admin = settings.admin.clone();
    let shown = handshakes.clone();
    let registry = move |_core| settings.registry(&shown);
    match life.start(config, registry) {
        Ok(server) => {
            let lines = [start_line(&server)].into_iter();
            #[cfg(feature = "tls")]
            let lines = lines.chain(super::tls::self_signed_lines(&server));
            let lines: Vec<String> = lines.collect();
            handshakes.of(&server.handle());
            let mut hooks = hooks(&log, server.handle());
            hooks.drains = Some(Arc::new(life.ender()));
            life.live(server, &lines.join("\n"), Operator::new(admin, hooks), &log)
        }
        Err(error) => life.fail(&error.to_string()),
    }
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

/// Reads anew what can be read anew, and says what that was.
pub(super) fn reload(handle: &Handle) -> Result<String, String> {
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

/// Says what is wrong with the settings. Its exit code is that of wrong arguments: to start again will not help.
pub(super) fn refuse(problems: &str) -> ExitCode {
    let count = problems.lines().filter(|line| line.starts_with("error: ")).count();
    let errors = if count == 1 { "an error".into() } else { format!("{count} errors") };
    // Not `eprintln!`, which panics where standard error cannot be written to.
    drop(writeln!(io::stderr(), "{problems}switchpoint: {errors} in the configuration"));
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
