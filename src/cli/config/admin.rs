//! `[admin]`: what an operator reaches of the server.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use super::{
    kind::{self, Given, Kind, Wrong, quoted, show_list},
    route,
};

/// What an operator reaches of the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Admin {
    /// Where metrics and health are.
    pub(super) listen: Vec<Host>,
    /// For `switchpoint ctl` and `switchpoint trace`.
    pub(crate) socket: Option<PathBuf>,
    /// Where the heads of requests are sent back.
    pub(super) debug_head: Option<String>,
}

impl Admin {
    /// Where metrics and health are.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listen.iter().flat_map(|host| &host.addresses).copied()
    }
}

/// A host and its port, and what addresses it has.
#[derive(Clone, Debug)]
pub(super) struct Host {
    name: String,
    addresses: Vec<SocketAddr>,
}

impl Host {
    fn parse(name: &str) -> Result<Self, Wrong> {
        const HELP: &str = "an address is HOST:PORT, such as 127.0.0.1:9090 or [::1]:9090";
        if !name.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        {
            return Err(Wrong::new(format!("`{name}` is no address"), HELP));
        }
        match name.to_socket_addrs() {
            Ok(found) => Ok(Self { name: name.into(), addresses: found.collect() }),
            Err(error) => Err(Wrong::new(format!("the address of `{name}` cannot be found: {error}"), HELP)),
        }
    }
}

/// Addresses of TCP.
pub(super) fn hosts() -> Kind<Vec<Host>> {
    let read = |given: &Given<'_>| {
        let help = "write a list such as [\"127.0.0.1:9090\", \"[::1]:9090\"]";
        let names = match given {
            Given::Text(text) => kind::items(text),
            Given::Toml(value) => kind::strings(value, "a list of addresses", help)?,
        };
        names.iter().map(|name| Host::parse(name)).collect()
    };
    let show = |hosts: &Vec<Host>| show_list(hosts.iter().map(|host| host.name.as_str()));
    Kind { read: Box::new(read), show: Box::new(show) }
}

/// A file, or none.
pub(super) fn file() -> Kind<Option<PathBuf>> {
    file_of(usize::MAX)
}

/// A Unix socket, or none.
pub(super) fn socket() -> Kind<Option<PathBuf>> {
    file_of(107)
}

fn file_of(length_max: usize) -> Kind<Option<PathBuf>> {
    let read = move |given: &Given<'_>| {
        let text = kind::text(given, "a path", "write a path in quotes, or \"\" for none")?;
        match text.len() {
            0 => Ok(None),
            length if length > length_max => {
                Err(Wrong::new("the path is too long", format!("it can have at most {length_max} bytes")))
            }
            _ => Ok(Some(text.into())),
        }
    };
    let show = |path: &Option<PathBuf>| {
        quoted(&path.as_ref().map_or_else(String::new, |path| path.display().to_string()))
    };
    Kind { read: Box::new(read), show: Box::new(show) }
}

/// A path of the server, or none.
pub(super) fn path() -> Kind<Option<String>> {
    let read = |given: &Given<'_>| match given {
        Given::Text("") => Ok(None),
        Given::Toml(toml::de::DeValue::String(text)) if text.is_empty() => Ok(None),
        given => route::path_of(given).map(Some),
    };
    Kind { read: Box::new(read), show: Box::new(|path| quoted(path.as_deref().unwrap_or_default())) }
}
