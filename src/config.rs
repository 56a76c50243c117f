//! What a server is told: plain data with defaults, checked once, here.

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use crate::{Driver, Limits, Network, h2c::Rate, http};

/// The settings of a server. Every limit has a default that suits the open internet.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; `127.0.0.1:8080`.
    pub listen: Vec<Listener>,
    /// Workers, each on its own core; 0 for one a core.
    pub threads: usize,
    /// Whether each worker keeps to its own core; it does.
    pub pinned: bool,
    /// Which driver waits for the kernel.
    pub driver: Driver,
    /// What a request's head may cost; 16 KiB, 100 fields, a target of 8 KiB.
    pub head: http::Limits,
    /// The longest body of an ordinary request, which its resource sees whole; beyond is 413; 64 KiB.
    pub body_max: usize,
    /// From a request's first byte (or the accept) to its whole head, whatever the dribble; 10 s.
    pub head_time: Duration,
    /// From the head to the end of the body and the handler's decision; 10 s.
    pub answer_time: Duration,
    /// How long a kept-alive connection waits for its next request; 60 s.
    pub keep_alive_time: Duration,
    /// How long a peer may take nothing of what we send; 30 s.
    pub write_time: Duration,
    /// How long an upgraded peer may be silent, unless its protocol says otherwise; 5 min.
    pub idle_time: Duration,
    /// How long a peer may take to close its side after we closed ours, and how long requests are taken that may have
    /// crossed a GOAWAY; 3 s.
    pub close_time: Duration,
    /// Connections in all, beyond which new ones get 503; 0 for what the descriptor limit allows.
    pub connections_max: usize,
    /// How long readiness fails before accepting stops; 0 s.
    pub drain_delay: Duration,
    /// How long a drain may take before the rest is cut; 10 s.
    pub drain_time: Duration,
    /// What holds for connections that speak HTTP/2.
    pub http2: Http2,
    /// How many may come, how fast, and what it may cost.
    pub limits: Limits,
    /// What is told of handshakes and sessions.
    pub telemetry: Telemetry,
}

/// What is told of handshakes and sessions, besides the counters.
#[derive(Clone, Copy, Debug)]
pub struct Telemetry {
    /// Of the sessions that ended well, one of so many has a line in the log; 1, that is each. Refusals and what ended
    /// otherwise are never left out.
    pub log_sample: u32,
    /// Lines a second that peers may cause on a core; the counters have the rest; 500.
    pub log_lines_max: u64,
    /// Handshakes that each core keeps for the list of recent ones; 0, that is none.
    pub recent_handshakes: usize,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { log_sample: 1, log_lines_max: 500, recent_handshakes: 0 }
    }
}

/// Where connections come from, and what holds for them.
///
/// ```
/// use switchpoint::{Config, Listener};
///
/// let config = Config {
///     listen: vec!["127.0.0.1:8080".parse()?, Listener { h2c: false, .."unix:/run/chat.sock".parse()? }],
///     ..Config::default()
/// };
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Listener {
    /// The address, or the sockets themselves.
    pub address: Address,
    /// Whether a request may be upgraded here to another version of HTTP, where the registry has one
    /// ([`H2c`](crate::protocols::H2c)); it may. Where not, it is answered in HTTP/1.1, and nothing is offered.
    pub h2c: bool,
    /// The networks of the proxies whose connections are taken here, each with a header of the PROXY protocol that says
    /// who the client is; whoever else connects is not served. None: connections are their clients' own.
    pub proxy_protocol: Vec<Network>,
    /// How TLS is spoken here, if it is: then nothing else is.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::tls::Acceptor>,
}

impl Listener {
    /// Whether it speaks TLS.
    pub fn is_secure(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        return false;
    }
}

/// What can be listened on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Address {
    /// An address of TCP; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket. A file that a dead server has left is replaced; one that answers is an error. The file is removed
    /// at the end, if it is still ours.
    Unix {
        /// Where its file is; at most 107 bytes.
        path: PathBuf,
        /// Who may connect: the file's permissions, such as `0o660`.
        mode: u32,
    },
    /// Sockets that listen already, of one address: all workers accept from them, and whoever else has them. They are not
    /// shut down at the end. [`inherited`](crate::inherited) has those that the process was started with.
    Inherited(Vec<Arc<OwnedFd>>),
}

/// Who may connect to a Unix socket unless its listener says otherwise: its user and its group.
pub const UNIX_MODE: u32 = 0o660;

impl From<Address> for Listener {
    fn from(address: Address) -> Self {
        Self {
            address,
            h2c: true,
            proxy_protocol: Vec::new(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl From<SocketAddr> for Listener {
    fn from(address: SocketAddr) -> Self {
        Address::Tcp(address).into()
    }
}

impl FromStr for Listener {
    type Err = io::Error;

    /// As an [`Address`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Address>().map(Self::from)
    }
}

impl FromStr for Address {
    type Err = io::Error;

    /// `IP:PORT`, or `unix:PATH` with [`UNIX_MODE`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix { path: path.into(), mode: UNIX_MODE });
        }
        let address = text.parse().map_err(|_| {
            let message = format!("`{text}` is neither IP:PORT nor unix:PATH");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        Ok(Self::Tcp(address))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
            Self::Inherited(sockets) => {
                let numbers: Vec<_> = sockets.iter().map(|socket| socket.as_raw_fd().to_string()).collect();
                write!(f, "inherited socket {}", numbers.join(", "))
            }
        }
    }
}

/// What holds for connections that speak HTTP/2. Times are those of the other settings: a preface or a request's head
/// has [`Config::head_time`], a connection without streams [`Config::keep_alive_time`], a body and its answer
/// [`Config::answer_time`], a peer that takes nothing [`Config::write_time`].
#[derive(Clone, Copy, Debug)]
pub struct Http2 {
    /// Whether a client that begins with HTTP/2 is understood, by prior knowledge (RFC 9113 3.3); it is.
    pub prior_knowledge: bool,
    /// Streams, and handlers, of one connection at a time; 128.
    pub streams_max: u32,
    /// Bytes that a peer may send on one stream before they are taken; 64 KiB.
    pub stream_window: u32,
    /// Bytes that a peer may send on all streams of a connection before they are taken; 1 MiB.
    pub connection_window: u32,
    /// Bytes of an answer, on one stream, that are queued before the peer takes them; 64 KiB.
    pub send_max: usize,
    /// A request's head, each field with 32 bytes on top (RFC 9113 10.5.1); 16 KiB.
    pub head_max: u32,
    /// Requests that the peer takes back, by RST_STREAM: 1000 at once, then 33 a second.
    pub resets: Rate,
    /// SETTINGS, PING, PRIORITY and unknown frames: 1000 at once, then 100 a second.
    pub free_frames: Rate,
    /// How long a connection may last before its client is asked to open another one, by GOAWAY; 1 h. Its streams go on;
    /// from [`Config::close_time`] later on, new ones are refused.
    pub lifetime: Duration,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            prior_knowledge: true,
            streams_max: 128,
            stream_window: 64 << 10,
            connection_window: 1 << 20,
            send_max: 64 << 10,
            head_max: 16 << 10,
            resets: Rate { burst: 1000, per_second: 33 },
            free_frames: Rate { burst: 1000, per_second: 100 },
            lifetime: Duration::from_secs(3600),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080)).into()],
            threads: 0,
            pinned: true,
            driver: Driver::Auto,
            head: http::Limits::default(),
            body_max: 64 * 1024,
            head_time: Duration::from_secs(10),
            answer_time: Duration::from_secs(10),
            keep_alive_time: Duration::from_secs(60),
            write_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(300),
            close_time: Duration::from_secs(3),
            connections_max: 0,
            drain_delay: Duration::ZERO,
            drain_time: Duration::from_secs(10),
            http2: Http2::default(),
            telemetry: Telemetry::default(),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// How many workers that makes on this machine.
    pub fn workers(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    /// Connections in all: the limit, and never more than the descriptors that there are.
    pub(crate) fn connections_in_all(&self) -> usize {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let descriptors =
            limit.current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let room = descriptors.saturating_sub(DESCRIPTORS_KEPT).max(1);
        if self.connections_max == 0 { room } else { self.connections_max.min(room) }
    }
}

/// Descriptors that are not connections: rings, listeners, files, and the answers to those for whom there is no room.
const DESCRIPTORS_KEPT: usize = 256;
