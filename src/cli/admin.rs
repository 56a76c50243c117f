//! What an operator reaches of a server: an address for its metrics, and a socket to control it.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use switchpoint::{
    Address, Config, Handle, Server, StartError,
    admin::{self, Hooks},
};

use super::life::say;

/// How the server is looked after.
#[derive(Args, Clone, Debug, Default)]
#[group(skip)]
pub(super) struct Arguments {
    /// An address for `/metrics`, `/healthz` and `/readyz`, such as `127.0.0.1:9090`; keep it off the internet.
    #[arg(long, value_name = "ADDR", env = "SWITCHPOINT_ADMIN", value_parser = addresses)]
    admin: Vec<Vec<SocketAddr>>,
    /// A unix socket for `switchpoint ctl` and `switchpoint trace`, which only this user may open.
    #[arg(long, value_name = "PATH", env = "SWITCHPOINT_ADMIN_SOCKET")]
    admin_socket: Option<PathBuf>,
    /// Shows the last handshakes of each core at `/`, made and refused: 64 of them, or as many as are asked for.
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "64", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1000))]
    recent_handshakes: u64,
}

fn addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    let hint = "an address is HOST:PORT, such as 127.0.0.1:9090 or [::1]:9090";
    let found: Vec<SocketAddr> =
        text.to_socket_addrs().map_err(|error| format!("{error}; {hint}"))?.collect();
    if found.is_empty() { Err(format!("the name has no address; {hint}")) } else { Ok(found) }
}

impl Arguments {
    pub(super) fn recent_handshakes(&self) -> usize {
        self.recent_handshakes as usize
    }

    /// Serves what was asked for, each on a thread of its own, beside the server behind `handle`.
    fn start(&self, handle: &Handle, hooks: &Hooks) -> Result<Vec<Server>, StartError> {
        let config = |listen| Config {
            listen,
            threads: 1,
            pinned: false,
            drain_time: Duration::from_secs(1),
            connections_max: CONNECTIONS_MAX,
            telemetry: switchpoint::Telemetry { log_lines_max: 0, ..Default::default() },
            ..Config::default()
        };
        let mut servers = Vec::new();
        if !self.admin.is_empty() {
            let (handle, hooks) = (handle.clone(), hooks.clone());
            let listen = self.admin.iter().flatten().copied().map(Into::into).collect();
            servers.push(Server::start(config(listen), move |_| admin::metrics(&handle, &hooks))?);
        }
        if let Some(path) = &self.admin_socket {
            let (handle, hooks) = (handle.clone(), hooks.clone());
            let listen = vec![Address::Unix { path: path.clone(), mode: 0o600 }.into()];
            servers.push(Server::start(config(listen), move |_| admin::control(&handle, &hooks))?);
        }
        Ok(servers)
    }
}

/// Scrapers and operators.
const CONNECTIONS_MAX: usize = 64;

/// What an operator reaches, beside the server.
#[derive(Debug)]
pub(super) struct Operator {
    arguments: Arguments,
    hooks: Hooks,
    servers: Vec<Server>,
}

impl Operator {
    pub(super) fn new(arguments: Arguments, hooks: Hooks) -> Self {
        Self { arguments, hooks, servers: Vec::new() }
    }

    /// Begins to serve it, for the server behind `handle`, and says where.
    pub(super) fn begin(&mut self, handle: &Handle) -> Result<(), StartError> {
        self.servers = self.arguments.start(handle, &self.hooks)?;
        for address in self.servers.iter().flat_map(Server::addresses) {
            say(&format!("switchpoint: metrics at http://{address}/metrics"));
        }
        if let Some(path) = &self.arguments.admin_socket {
            say(&format!("switchpoint: admin socket at {}", path.display()));
        }
        Ok(())
    }

    /// The same, once the process before this one has let go of it.
    pub(super) fn begin_when_free(&mut self, handle: &Handle) {
        let begun = Instant::now();
        loop {
            match self.begin(handle) {
                Ok(()) => return,
                Err(StartError::Listen { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < FREE_TIME =>
                {
                    thread::sleep(Duration::from_millis(20));
                }
                // The server serves; that is more than to be looked after.
                Err(error) => return tracing::error!(%error, "nothing can be asked of this process"),
            }
        }
    }

    /// Ends it, when nothing is left to look after, or another process is to have it.
    pub(super) fn end(&mut self) {
        for server in &self.servers {
            server.drain();
        }
        for server in self.servers.drain(..) {
            drop(server.join());
        }
    }
}

/// How long a process that is replaced may hold what its successor waits for.
const FREE_TIME: Duration = Duration::from_secs(5);
