//! `switchpoint serve`: the server, until it is told to end.

use std::{
    io::{self, Write},
    net::{SocketAddr, ToSocketAddrs},
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
use switchpoint::Listener;
use switchpoint::{
    Config, Driver, Handle, Server, Stats,
    admin::{Handshakes, Hooks},
    protocols::{self, H2c, websocket},
    ws::Deflate,
};

use super::{
    admin,
    log::{self, Log},
};

/// How to serve.
#[derive(Args, Clone, Debug)]
pub(super) struct Arguments {
    /// An address to listen on, such as `0.0.0.0:8080`, `[::1]:8080`, `localhost:8080` or `:8080`; may be repeated.
    /// Port 0 takes a free one.
    #[arg(long, value_name = "ADDR", value_parser = addresses, default_value = "127.0.0.1:8080")]
    listen: Vec<Vec<SocketAddr>>,
    /// Worker threads; 0 for one a core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// What waits for the kernel: `auto` (io_uring where it is allowed, else epoll), `uring` or `epoll`.
    #[arg(long, value_name = "DRIVER", env = "SWITCHPOINT_DRIVER", default_value = "auto", value_parser = str::parse::<Driver>)]
    driver: Driver,
    /// How long SIGTERM or Ctrl-C may take: every session is told, what is left after this time is cut.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    drain_time: Duration,
    /// How long `/readyz` fails before accepting stops, for load balancers that look at it.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    drain_delay: Duration,
    /// Connections in all; beyond it new ones get 503. 0 for what the descriptor limit allows.
    #[arg(long, value_name = "N", default_value_t = 0)]
    connections_max: usize,
    /// How long a request's head may take to arrive.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    head_time: Duration,
    /// How long an `echo` session may be silent.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    idle_time: Duration,
    /// The longest WebSocket message, such as `65536`, `1MiB`; a longer one is closed with 1009.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = size)]
    message_max: usize,
    /// Compresses WebSocket messages (permessage-deflate) for clients that offer it.
    #[arg(long)]
    deflate: bool,
    /// A silent WebSocket is sent a ping after this time.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    ping_after: Duration,
    /// Another origin whose pages may connect, such as `https://example.org`; may be repeated. `*` allows all.
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Switches to HTTP/2 whoever asks for it by `Upgrade: h2c`. A request that came through a proxy is answered in
    /// HTTP/1.1 all the same. HTTP/2 by prior knowledge needs no switch, and is always spoken.
    #[arg(long)]
    h2c: bool,
    /// Switches to HTTP/2 also where a proxy has passed the request on: only if the proxy drops `Upgrade: h2c`, or has no
    /// rules that a client could get around.
    #[arg(long, requires = "h2c")]
    h2c_behind_proxies: bool,
    /// The longest body of an ordinary request, such as `65536`, `1MiB`; a longer one is answered with 413.
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = size)]
    body_max: usize,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: super::tls::TlsArguments,
    #[command(flatten)]
    admin: admin::Arguments,
    #[command(flatten)]
    log: log::Arguments,
}

pub(super) fn addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    let hint = "an address is HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080";
    let found: Vec<SocketAddr> =
        full.to_socket_addrs().map_err(|error| format!("{error}; {hint}"))?.collect();
    if found.is_empty() { Err(format!("the name has no address; {hint}")) } else { Ok(found) }
}

pub(super) fn size(text: &str) -> Result<usize, String> {
    let size = parse_size::parse_size(text)
        .map_err(|error| format!("{error}; a size is a number such as 65536, 64KiB or 16MiB"))?;
    usize::try_from(size).map_err(|_| "that is more than this machine can address".into())
}

impl Arguments {
    fn config(&self) -> Config {
        let mut config = Config::default();
        let mut listen: Vec<SocketAddr> = self.listen.iter().flatten().copied().collect();
        listen.dedup();
        config.listen = listen.into_iter().map(Into::into).collect();
        config.threads = self.threads;
        config.driver = self.driver;
        config.drain_time = self.drain_time;
        config.drain_delay = self.drain_delay;
        config.connections_max = self.connections_max;
        config.head_time = self.head_time;
        config.idle_time = self.idle_time;
        config.body_max = self.body_max;
        config.telemetry = self.log.telemetry();
        config.telemetry.recent_handshakes = self.admin.recent_handshakes();
        config
    }

    fn h2c(&self) -> Option<H2c> {
        let h2c = H2c::new().body_max(self.body_max);
        self.h2c.then(|| if self.h2c_behind_proxies { h2c.behind_proxies() } else { h2c })
    }

    fn websocket(&self) -> websocket::Settings {
        let mut settings = websocket::Settings::default();
        settings.limits.message_max = self.message_max;
        settings.ping_after = self.ping_after;
        settings.deflate = self.deflate.then(Deflate::default);
        if self.allow_origin.iter().any(|origin| origin == "*") {
            settings.origins = websocket::Origins::Any;
        } else if !self.allow_origin.is_empty() {
            settings.origins = websocket::Origins::List(self.allow_origin.clone());
        }
        settings
    }
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let (config, websocket, h2c) = (arguments.config(), arguments.websocket(), arguments.h2c());
    let log = match arguments.log.install() {
        Ok(log) => log,
        Err(error) => return fail(&format!("cannot begin to log: {error}")),
    };
    raise_descriptor_limit();
    #[cfg(feature = "tls")]
    let (config, certificate) = match arguments.tls.acceptor() {
        Ok(acceptor) => {
            let certificate = acceptor.as_ref().and_then(|acceptor| arguments.tls.line(acceptor));
            let secure = |listener| Listener { tls: acceptor.clone(), ..listener };
            (Config { listen: config.listen.into_iter().map(secure).collect(), ..config }, certificate)
        }
        Err(error) => return fail(&error),
    };
    #[cfg(not(feature = "tls"))]
    let certificate = None::<String>;

    // Before the workers are there, so that no signal is missed.
    let signals = match signals() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot wait for signals: {error}")),
    };
    let handshakes = Handshakes::new();
    let shown = (config.telemetry.recent_handshakes > 0).then(|| handshakes.clone());
    let registry = move |_core| {
        let registry = protocols::demonstration_with(websocket.clone(), shown.clone());
        match h2c {
            Some(h2c) => registry.with(h2c),
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
    if let Some(line) = certificate {
        say(&line);
    }
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
        humantime::format_duration(arguments.drain_time)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_all_their_forms() {
        assert_eq!(addresses("127.0.0.1:80").unwrap(), ["127.0.0.1:80".parse().unwrap()]);
        assert_eq!(addresses("[::1]:80").unwrap(), ["[::1]:80".parse().unwrap()]);
        assert_eq!(addresses(":80").unwrap(), ["0.0.0.0:80".parse().unwrap()]);
        for wrong in ["", "nonsense", "127.0.0.1", "127.0.0.1:99999", "1.2.3:x"] {
            assert!(addresses(wrong).unwrap_err().contains("HOST:PORT"), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_with_and_without_unit() {
        assert_eq!(size("65536").unwrap(), 65536);
        assert_eq!(size("16MiB").unwrap(), 16 << 20);
        assert!(size("much").unwrap_err().contains("16MiB"));
    }
}
