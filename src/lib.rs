//! A server and a library for HTTP/1.1 `Upgrade`: `101 Switching Protocols`, and what follows it.
//!
//! A protocol is one type with one `impl` of [`Upgrade`]; a [`Registry`] says where it is spoken; a [`Server`] runs one
//! worker a core, each with a registry of its own. A closure is a protocol, too:
//!
//! ```no_run
//! use switchpoint::{Config, Registry, Server, Upgraded, protocols::WebSocket, protocols::websocket::Socket};
//!
//! let server = Server::start(Config::default(), |_core| {
//!     Registry::new()
//!         .on("shout/1", async |mut connection: Upgraded| {
//!             while connection.fill().await? {
//!                 connection.write_all(&connection.unread().to_ascii_uppercase()).await?;
//!                 connection.consume(connection.unread().len());
//!             }
//!             Ok(())
//!         })
//!         .at("/chat", WebSocket::new(async |mut socket: Socket| {
//!             socket.send("welcome").await?;
//!             while let Some(message) = socket.recv().await? {
//!                 println!("{} bytes", message.len());
//!             }
//!             Ok(())
//!         }))
//! })?;
//! server.join();
//! # Ok::<(), switchpoint::StartError>(())
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`http`] | as much of HTTP/1.1 as an upgrade needs, without I/O |
//! | [`ws`] | RFC 6455 without I/O, both roles |
//! | [`h2c`] | HTTP/2 on the same port: what an upgrade to it needs, without I/O |
//! | [`protocols`] | the protocols that come with it |
//! | [`authorize`] | who may have what, and as whom |
//! | [`proxy_protocol`] | the header by which a proxy says who the client is, without I/O |
//! | `tls` | TLS in both roles (with the feature `tls`) |
//! | [`inherited`] | sockets that a process is started with |
//! | [`admin`] | what an operator sees of a running server, and does to it |
//! | [`trace`] | which requests a trace looks for |
//! | [`duplex`] | the in-memory transport of the tests, with faults from a seed |

pub mod admin;
pub mod authorize;
mod bound;
mod buffer;
mod config;
mod connection;
pub mod duplex;
mod error;
mod exposition;
pub mod h2c;
pub mod http;
pub mod inherited;
mod limits;
mod listener;
mod metrics;
mod network;
mod observe;
mod process;
pub mod protocols;
pub mod proxy_protocol;
mod readiness;
mod redact;
mod registry;
mod rejection;
mod resource;
mod response;
mod runtime;
mod seats;
mod server;
mod sessions;
mod stream;
#[cfg(feature = "tls")]
pub mod tls;
pub mod trace;
mod trace_context;
mod upgrade;
mod upgraded;
mod worker;
pub mod ws;

/// The runtime, in the version that connections need; for timers and files in handlers.
pub use monoio;

pub use buffer::ReadBuf;
pub use config::{Address, Config, Http2, Listener, Telemetry, UNIX_MODE};
pub use error::Error;
pub use limits::Limits;
pub use metrics::{Histogram, ProtocolStats, Stats};
pub use network::{Network, NetworkFault};
pub use registry::{Preference, Registry};
pub use rejection::{Reason, Rejection};
pub use resource::Resource;
pub use response::Response;
pub use runtime::{Driver, Runtime};
pub use server::{Handle, Server, StartError};
pub use stream::{Stream, Tcp};
pub use trace_context::TraceParent;
pub use upgrade::{Accept, Accepts, Decision, EarlyBytes, Request, Token, Upgrade};
pub use upgraded::{Reader, Upgraded, Writer};
pub use worker::{Worker, spawn};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../docs/protocols.md")]
struct Protocols;

#[cfg(doctest)]
#[doc = include_str!("../docs/websocket.md")]
struct WebSockets;

#[cfg(all(doctest, feature = "tls"))]
#[doc = include_str!("../docs/tls.md")]
struct TlsPage;

#[cfg(doctest)]
#[doc = include_str!("../docs/metrics.md")]
struct Metrics;

#[cfg(doctest)]
#[doc = include_str!("../docs/admin.md")]
struct Admin;

#[cfg(doctest)]
#[doc = include_str!("../docs/http2.md")]
struct Http2Page;

#[cfg(all(doctest, feature = "auth"))]
#[doc = include_str!("../docs/authentication.md")]
struct Authentication;

#[cfg(doctest)]
#[doc = include_str!("../docs/limits.md")]
struct LimitsPage;
