//! How the server is reached: what `doctor` and `explain` are told in common.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use rustls::ClientConfig;

use super::{
    client::Connection,
    probe::Setting,
    target::Target,
    tls::{self, Trust},
};

/// What is examined, and how it is reached.
#[derive(Args, Clone, Debug)]
pub(crate) struct Access {
    /// What is examined: `ws://`, `wss://`, `http://` or `https://`.
    #[arg(value_name = "URL", value_parser = str::parse::<Target>)]
    pub(crate) url: Option<Target>,
    /// The protocol that is asked for: `websocket`, `h2c`, `echo` (bytes that come back) or any other token.
    #[arg(long, value_name = "TOKEN", default_value = "websocket", value_parser = token)]
    pub(crate) proto: String,
    /// A field that every request carries, such as `Origin: https://example.org`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = field)]
    pub(crate) header: Vec<(String, String)>,
    /// Basic credentials.
    #[arg(long, value_name = "NAME:PASSWORD", conflicts_with = "bearer")]
    pub(crate) user: Option<String>,
    /// A bearer token.
    #[arg(long, value_name = "TOKEN", env = "SWITCHPOINT_BEARER", hide_env_values = true)]
    pub(crate) bearer: Option<String>,
    /// The certificate authorities to believe, in PEM, instead of the public ones.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Believes any certificate.
    #[arg(long, conflicts_with = "ca")]
    pub(crate) insecure: bool,
    /// The limit of each wait: for the connection, an answer, a frame.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
}

impl Access {
    pub(crate) fn fields(&self) -> Vec<(String, String)> {
        let mut fields = self.header.clone();
        let credentials = match (&self.user, &self.bearer) {
            (Some(user), _) => Some(format!("Basic {}", STANDARD.encode(user))),
            (None, Some(bearer)) => Some(format!("Bearer {bearer}")),
            (None, None) => None,
        };
        fields.extend(credentials.map(|value| ("Authorization".to_owned(), value)));
        fields
    }

    pub(crate) fn tls(&self, target: &Target) -> Result<Option<Arc<ClientConfig>>, String> {
        let trust = match &self.ca {
            _ if self.insecure => Trust::Anybody,
            Some(path) => Trust::File(path),
            None => Trust::Public,
        };
        target.is_tls.then(|| tls::config(trust)).transpose()
    }

    /// What the probes are given, once `address` has answered.
    pub(crate) fn setting(
        &self,
        target: &Target,
        address: SocketAddr,
        tls: Option<Arc<ClientConfig>>,
    ) -> Setting {
        Setting {
            target: target.clone(),
            address,
            token: self.proto.clone(),
            fields: self.fields(),
            subprotocol: None,
            time: self.timeout,
            head_time_max: Duration::from_secs(35),
            slow: false,
            tls,
        }
    }
}

/// The first of the addresses that takes a connection, and how long that took.
pub(crate) fn reach(
    addresses: &[SocketAddr],
    time: Duration,
) -> Result<(Connection, SocketAddr, Duration), String> {
    let mut refusal = "the name has no address".to_owned();
    for address in addresses {
        let begun = Instant::now();
        match Connection::open(*address, time) {
            Ok(connection) => return Ok((connection, *address, begun.elapsed())),
            Err(error) => refusal = format!("{address}: {error}"),
        }
    }
    Err(refusal)
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a field is `Name: value`")?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) || value.contains(['\r', '\n', '\0']) {
        return Err("a field is `Name: value`, on one line".into());
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

fn token(text: &str) -> Result<String, String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_token) {
        return Err("a protocol is a token such as `websocket` or `chat/2`".into());
    }
    // The one name that is compared with.
    Ok(if text.eq_ignore_ascii_case("websocket") { "websocket".into() } else { text.to_owned() })
}
