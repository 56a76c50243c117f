//! May this request have what it asks for, and as whom: decided before the switch, and before an ordinary answer.
//!
//! An [`Authorizer`] stands before a handler, a resource or a whole path. It reads the request, waits if it has to, and
//! finds an [`Identity`] or refuses. What it finds is at hand in the handler.
//!
//! ```
//! # #[cfg(feature = "auth")] {
//! use switchpoint::{Registry, Upgrade, authorize::{Bearer, Settings}, protocols::Echo};
//!
//! let bearer = Bearer { tokens: vec!["alice:a-secret-of-some-length".into()], ..Bearer::default() };
//! let authorizer = Settings::from(bearer).build()?;
//! Registry::new().at("/echo", Echo.authorized_by(authorizer));
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the trait |
//! | `identity.rs` | what it finds |
//! | `authorizer.rs` | any of several, all of several, only some of whom it finds |
//! | `authorized.rs` | a handler or a resource behind it |
//! | `settings.rs` | all of it as plain data |
//! | `credentials.rs` | where a request may carry a token |
//! | `bearer.rs` `jwt.rs` `cookie.rs` `basic.rs` `certificate.rs` `forward.rs` | the kinds |
//! | `secret.rs` `watched.rs` `passwords.rs` `turns.rs` | what they need: secrets, files that change, threads for slow hashes, a bound on calls |

mod authorized;
mod authorizer;
mod identity;

#[cfg(feature = "auth")]
mod basic;
#[cfg(feature = "auth")]
mod bearer;
#[cfg(all(feature = "auth", feature = "tls"))]
mod certificate;
#[cfg(feature = "auth")]
mod cookie;
#[cfg(feature = "auth")]
mod credentials;
#[cfg(feature = "auth")]
mod forward;
#[cfg(feature = "auth")]
mod jwt;
#[cfg(feature = "auth")]
mod passwords;
#[cfg(feature = "auth")]
mod secret;
#[cfg(feature = "auth")]
mod settings;
#[cfg(feature = "auth")]
mod turns;
#[cfg(feature = "auth")]
mod watched;

pub use authorized::Authorized;
pub(crate) use authorized::{GuardedAnswers, GuardedHandler};
pub use authorizer::Authorizer;
pub use identity::Identity;

#[cfg(all(feature = "auth", feature = "tls"))]
pub use certificate::Certificate;
#[cfg(feature = "auth")]
pub use {
    basic::Basic,
    bearer::Bearer,
    cookie::{Cookie, Issuer},
    credentials::Sources,
    forward::Forward,
    jwt::{Algorithm, Jwt},
    secret::Secret,
    settings::{Allow, Settings, SettingsError},
};

use crate::{Rejection, Request};

/// Decides whether a request may have what it asks for, and as whom.
///
/// ```
/// use switchpoint::{Rejection, Request, authorize::{Authorize, Identity}};
///
/// /// Whoever comes from this machine.
/// struct Local;
///
/// impl Authorize for Local {
///     async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection> {
///         match request.peer() {
///             Some(peer) if peer.ip().is_loopback() => Ok(Identity::new("local")),
///             _ => Err(Rejection::forbidden()),
///         }
///     }
/// }
/// ```
#[expect(async_fn_in_trait, reason = "a connection never leaves its core, so nothing has to be `Send`")]
pub trait Authorize: 'static {
    /// Who asks. It runs under the handshake's deadline ([`Config::answer_time`](crate::Config::answer_time)), and is
    /// dropped when that has passed.
    ///
    /// # Errors
    /// The answer instead: 401 with its challenge where other credentials could help, 403 where they could not, 503 where
    /// it cannot be decided.
    async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection>;
}
