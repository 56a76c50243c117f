//! What is examined: a URL, taken apart.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    str::FromStr,
};

/// `ws`, `wss`, `http` or `https`, with what a request to it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `wss` and `https`.
    pub(crate) is_tls: bool,
    /// As in the URL: an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query, at least `/`.
    pub(crate) path: String,
}

impl Target {
    /// What `Host` says: without the port where it is the scheme's own.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.default_port() { host } else { format!("{host}:{}", self.port) }
    }

    fn default_port(&self) -> u16 {
        if self.is_tls { 443 } else { 80 }
    }

    /// The addresses of the name.
    pub(crate) fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "a URL is such as ws://127.0.0.1:8080/echo; the schemes are ws, wss, http and https";
        let text = if text.contains("://") { text.to_owned() } else { format!("ws://{text}") };
        let uri: http::Uri = text.parse().map_err(|error| format!("{error}; {hint}"))?;
        let is_tls = match uri.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            _ => return Err(hint.into()),
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("give the user by --user, not in the URL".into());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(hint)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let mut target = Self { is_tls, host, port: 0, path };
        target.port = uri.port_u16().unwrap_or_else(|| target.default_port());
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let parse = |text: &str| text.parse::<Target>().unwrap();
        let target = parse("wss://example.org/chat?room=1");
        assert_eq!((target.is_tls, target.port, target.path.as_str()), (true, 443, "/chat?room=1"));
        assert_eq!(target.authority(), "example.org");
        assert_eq!(parse("ws://example.org:8080").authority(), "example.org:8080");
        assert_eq!(parse("http://[::1]:80/").authority(), "[::1]");
        assert_eq!(parse("[::1]:81").authority(), "[::1]:81");
        assert_eq!(parse("localhost:8080/echo").path, "/echo");
        for wrong in ["ftp://a/", "ws://", "ws://u:p@a/", "ws://a b/"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
