//! TLS 1.2 and 1.3, by rustls: a transport over a transport, in either role.
//!
//! - A session without I/O (`session.rs`) around rustls's unbuffered state machine, and the transport that it makes
//!   of another one (`stream.rs`).
//! - The server's role: [`Acceptor`], from [`Settings`].
//! - The client's role: [`Connector`], from [`ClientSettings`].
//! - [`Identity`] and [`Pem`]: certificates and keys, from files or from memory; [`PeerCertificate`]: who is there.

mod acceptor;
mod certificate;
mod connector;
#[cfg(test)]
mod conversations;
mod fault;
mod identity;
mod session;
mod stream;
pub(crate) mod watch;

pub use acceptor::{Acceptor, CertificateStatus, Settings};
pub use certificate::PeerCertificate;
pub use connector::{ClientSettings, Connector, Trust};
pub use fault::{Fault, LoadError};
pub use identity::{Identity, Pem};
pub use stream::{Info, Tls};

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, ring};

/// The cryptography: ring's, whatever else is in the program.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));
    Arc::clone(&PROVIDER)
}
