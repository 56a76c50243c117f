//! `[[listen]]`: where connections come from.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use switchpoint::{Address, Listener, Network, UNIX_MODE, inherited};
use toml::de::DeValue;

use super::{
    file::{Reader, Table},
    kind::{self, Given, Wrong},
    problem::Source,
};

/// A listener as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    pub(super) place: Place,
    pub(super) at: Source,
    /// Of a Unix socket.
    pub(super) mode: (u32, Source),
    /// `None` for what `http2.h2c` says.
    pub(super) h2c: Option<(bool, Source)>,
    /// The proxies who say who their clients are.
    pub(super) proxy_protocol: (Vec<Network>, Source),
    #[cfg(feature = "tls")]
    pub(super) tls: Option<(super::tls::Tls, Source)>,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A host and its port, and what addresses it has.
    Tcp(String, Vec<SocketAddr>),
    Unix(PathBuf),
    /// A socket that the program is started with, by its number or name.
    Passed(String),
}

#[cfg(feature = "tls")]
pub(super) const KEYS: &[&str] = &["address", "mode", "h2c", "proxy_protocol", "tls"];
#[cfg(not(feature = "tls"))]
pub(super) const KEYS: &[&str] = &["address", "mode", "h2c", "proxy_protocol"];

impl Listen {
    /// A listener that is only an address.
    pub(super) fn new(place: Place, at: Source) -> Self {
        Self {
            place,
            at,
            mode: (UNIX_MODE, Source::Default),
            h2c: None,
            proxy_protocol: (Vec::new(), Source::Default),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// What the library is told. Sockets that are passed on have to be there by now, and the files of certificates.
    pub(crate) fn listeners(&self, h2c: bool) -> Result<Vec<Listener>, String> {
        let h2c = self.takes_h2c(h2c);
        let addresses: Vec<Address> = match &self.place {
            Place::Tcp(_, addresses) => addresses.iter().copied().map(Address::Tcp).collect(),
            Place::Unix(path) => vec![Address::Unix { path: path.clone(), mode: self.mode.0 }],
            Place::Passed(name) => {
                inherited::find(name).map_err(|error| format!("cannot listen on fd://{name}: {error}"))?
            }
        };
        #[cfg(feature = "tls")]
        let tls = match &self.tls {
            Some((tls, at)) => Some(tls.acceptor().map_err(|error| format!("{at}: {error}"))?),
            None => None,
        };
        let listener = |address: Address| Listener {
            h2c,
            proxy_protocol: self.proxy_protocol.0.clone(),
            #[cfg(feature = "tls")]
            tls: tls.clone(),
            ..address.into()
        };
        Ok(addresses.into_iter().map(listener).collect())
    }

    pub(super) fn takes_h2c(&self, general: bool) -> bool {
        self.h2c.as_ref().map_or(general, |(h2c, _)| *h2c)
    }
}

impl Place {
    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        const HELP: &str = "write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080, :8080 for every IPv4 address, \
                            unix:PATH, or fd://3 or fd://NAME for a socket of socket activation";
        if let Some(name) = text.strip_prefix("fd://") {
            return match name {
                "" => Err(Wrong::new("`fd://` names no socket", HELP)),
                name => Ok(Self::Passed(name.to_owned())),
            };
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err(Wrong::new("`unix:` names no file", HELP)),
                1..=107 => Ok(Self::Unix(path.into())),
                _ => Err(Wrong::new("the path of the socket is too long", "it can have at most 107 bytes")),
            };
        }
        if text.starts_with(['/', '.']) {
            return Err(Wrong::new(
                format!("`{text}` is no address"),
                format!("for a Unix socket write unix:{text}"),
            ));
        }
        let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
        let is_host_and_port =
            full.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !is_host_and_port {
            return Err(Wrong::new(format!("`{text}` is no address"), HELP));
        }
        match full.to_socket_addrs() {
            Ok(found) => {
                let mut addresses: Vec<SocketAddr> = found.collect();
                addresses.dedup();
                Ok(Self::Tcp(text.to_owned(), addresses))
            }
            Err(error) => Err(Wrong::new(format!("the address of `{text}` cannot be found: {error}"), HELP)),
        }
    }

    /// As it is written in a file.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Tcp(text, _) => text.clone(),
            Self::Unix(path) => format!("unix:{}", path.display()),
            Self::Passed(name) => format!("fd://{name}"),
        }
    }
}

/// The listeners of a file.
pub(super) fn read(reader: &mut Reader<'_>, value: &toml::Spanned<DeValue<'_>>) -> Vec<Listen> {
    let mut listeners: Vec<Listen> = Vec::new();
    for table in reader.tables("listen", value) {
        reader.only(&table, KEYS);
        let Some(listen) = one(reader, &table) else { continue };
        let is_known = |known: &&Listen| known.place == listen.place && !is_any_port(&listen.place);
        if let Some(known) = listeners.iter().find(is_known) {
            let what = format!("{} is listened on already, by {}", listen.place.text(), known.at);
            reader.problem(what, listen.at.clone(), "remove one of the two");
        }
        listeners.push(listen);
    }
    listeners
}

fn is_any_port(place: &Place) -> bool {
    matches!(place, Place::Tcp(_, addresses) if addresses.iter().all(|address| address.port() == 0))
}

fn one(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<Listen> {
    let address = reader.required(table, "address", "such as address = \"127.0.0.1:8080\"")?;
    let place = reader.value(table, "address", address, |given| {
        Place::parse(&kind::text(given, "an address", "such as \"127.0.0.1:8080\"")?)
    })?;
    let mut listen = Listen::new(place, reader.source(address));
    if let Some(value) = table.get("mode") {
        let source = reader.source(value);
        if !matches!(listen.place, Place::Unix(_)) {
            reader.problem(
                "`mode` is for Unix sockets, and this is none".into(),
                source,
                "remove it, or let `address` begin with unix:",
            );
        } else if let Some(mode) = reader.value(table, "mode", value, mode) {
            listen.mode = (mode, source);
        }
    }
    if let Some(value) = table.get("h2c") {
        let source = reader.source(value);
        listen.h2c = reader.value(table, "h2c", value, &*kind::switch().read).map(|h2c| (h2c, source));
    }
    if let Some(value) = table.get("proxy_protocol") {
        let source = reader.source(value);
        if let Some(networks) = reader.value(table, "proxy_protocol", value, &*kind::networks().read) {
            listen.proxy_protocol = (networks, source);
        }
    }
    #[cfg(feature = "tls")]
    if let Some(value) = table.get("tls") {
        let source = reader.source(value);
        listen.tls = super::tls::read(reader, value).map(|tls| (tls, source));
    }
    Some(listen)
}

/// Permissions, in octal: `"0660"`, or TOML's `0o660`.
fn mode(given: &Given<'_>) -> Result<u32, Wrong> {
    const HELP: &str = "write the permissions of the file in octal and in quotes, such as \"0660\"";
    let digits = match given {
        Given::Toml(DeValue::Integer(integer)) if integer.radix() == 8 => integer.as_str().to_owned(),
        Given::Toml(DeValue::Integer(number)) => {
            let help = format!("write it in quotes: \"0{number}\"");
            return Err(Wrong::new("a mode is octal, and a number in TOML is not", help));
        }

        given => kind::text(given, "a mode", HELP)?,
    };
    match u32::from_str_radix(&digits, 8) {
        Ok(mode) if mode & !0o777 == 0 => Ok(mode),
        _ => Err(Wrong::new(format!("`{digits}` is no mode of a socket"), HELP)),
    }
}

pub(super) fn show_mode(mode: u32) -> String {
    format!("\"{mode:04o}\"")
}
