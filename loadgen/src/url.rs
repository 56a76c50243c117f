//! Where to: as much of a URL as a handshake needs.

use std::{
    fmt, io,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    str::FromStr,
    time::Duration,
};

/// `ws://` or `http://`, which mean the same here: a TCP connection, and a GET that asks for the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    text: String,
    /// Host and port as they stand, for the `Host` field (RFC 9110 7.2).
    pub(crate) authority: String,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// Path and query; never empty.
    pub(crate) target: String,
}

impl Url {
    /// The address to connect to. A name that has several, as `localhost` has, gets the first that takes a connection.
    pub(crate) fn resolve(&self, time: Duration) -> io::Result<SocketAddr> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot find {}: {error}", self.host));
        let found: Vec<SocketAddr> = (&*self.host, self.port).to_socket_addrs().map_err(named)?.collect();
        let first = found
            .first()
            .copied()
            .ok_or_else(|| io::Error::other(format!("{} has no address", self.host)))?;
        if found.len() == 1 {
            return Ok(first);
        }
        let answers = |address: &SocketAddr| TcpStream::connect_timeout(address, time).is_ok();
        Ok(found.iter().copied().find(answers).unwrap_or(first))
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("a URL begins with its scheme: did you mean ws://{text} ?"))?;
        match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => {}
            "wss" | "https" => {
                return Err(format!(
                    "{scheme} needs TLS, which loadgen cannot do yet; use ws:// on a plain port"
                ));
            }
            _ => return Err(format!("`{scheme}` is not a scheme that loadgen knows; use ws:// or http://")),
        }
        if rest.contains('#') {
            return Err("a fragment (`#…`) is never sent; leave it out (RFC 6455 3)".into());
        }
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a URL has no spaces or special characters; write them as %20 and so on".into());
        }
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        if authority.contains('@') {
            return Err("a user in the URL is not sent; use -H 'Authorization: …'".into());
        }
        let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
            rest.split_once(']').ok_or("the IPv6 address has no closing bracket")?
        } else {
            authority.split_at(authority.find(':').unwrap_or(authority.len()))
        };
        if host.is_empty() {
            return Err("there is no host; a URL is such as ws://127.0.0.1:8080/echo".into());
        }
        let port = match port.strip_prefix(':') {
            Some(port) => port
                .parse()
                .map_err(|_| format!("`{port}` is not a port (an IPv6 address stands in brackets)"))?,
            None if port.is_empty() => 80,
            None => {
                return Err(format!(
                    "`{port}` does not belong behind the host; a URL is such as ws://[::1]:8080/echo"
                ));
            }
        };
        let target = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self {
            text: text.to_owned(),
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            target,
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let parts = |text: &str| {
            let url: Url = text.parse().unwrap();
            (url.authority, url.host, url.port, url.target)
        };
        let owned = |authority: &str, host: &str, port, target: &str| {
            (authority.to_owned(), host.to_owned(), port, target.to_owned())
        };
        assert_eq!(parts("ws://a.b:81/echo?x=1"), owned("a.b:81", "a.b", 81, "/echo?x=1"));
        assert_eq!(parts("HTTP://a.b"), owned("a.b", "a.b", 80, "/"));
        assert_eq!(parts("ws://a.b?x"), owned("a.b", "a.b", 80, "/?x"));
        assert_eq!(parts("ws://[::1]:9000/"), owned("[::1]:9000", "::1", 9000, "/"));
        assert_eq!(parts("ws://[::1]"), owned("[::1]", "::1", 80, "/"));
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        for (text, hint) in [
            ("localhost:8080/echo", "did you mean ws://localhost:8080/echo"),
            ("wss://a/", "TLS"),
            ("ftp://a/", "`ftp`"),
            ("ws://a/#b", "fragment"),
            ("ws://a b/", "%20"),
            ("ws://u:p@a/", "Authorization"),
            ("ws:///echo", "no host"),
            ("ws://a:99999/", "not a port"),
            ("ws://::1/", "no host"),
            ("ws://a:b:1/", "brackets"),
            ("ws://[::1/", "closing bracket"),
            ("ws://[::1]80/", "behind the host"),
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
