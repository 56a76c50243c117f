//! What an operator reaches of a server: an address for its metrics, and a socket to control it.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use switchpoint::{
    Address, Config, Handle, Listener, Server, StartError,
    admin::{self, Hooks},
};

use super::{config::Admin, life::say};

impl Admin {
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
        let listen: Vec<Listener> = self.addresses().map(Into::into).collect();
        if !listen.is_empty() {
            let (handle, hooks) = (handle.clone(), hooks.clone());
            servers.push(Server::start(config(listen), move |_| admin::metrics(&handle, &hooks))?);
        }
        if let Some(path) = &self.socket {
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
    admin: Admin,
    hooks: Hooks,
    servers: Vec<Server>,
}

impl Operator {
    pub(super) fn new(admin: Admin, hooks: Hooks) -> Self {
        Self { admin, hooks, servers: Vec::new() }
    }

    /// Begins to serve it, for the server behind `handle`, and says where.
    pub(super) fn begin(&mut self, handle: &Handle) -> Result<(), StartError> {
        self.servers = self.admin.start(handle, &self.hooks)?;
        for address in self.servers.iter().flat_map(Server::addresses) {
            say(&format!("switchpoint: metrics at http://{address}/metrics"));
        }
        if let Some(path) = &self.admin.socket {
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
