//! Where to: a URL, and the address behind it.

use std::{
    fmt, io,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    str::FromStr,
    time::Duration,
};

use switchpoint::ws::opening::{Url, UrlFault};

/// `ws://` or `http://`, which mean the same here: a TCP connection, and a GET that asks for the switch; `wss://` and
/// `https://` with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    text: String,
    pub(crate) url: Url,
    /// A host and a port to connect to instead of the URL's.
    connect_to: Option<String>,
}

impl Target {
    /// The same, at another host and port than the URL's, if that is said.
    pub(crate) fn at(self, connect_to: Option<String>) -> Self {
        Self { connect_to, ..self }
    }

    /// The address to connect to. A name that has several, as `localhost` has, gets the first that takes a connection.
    pub(crate) fn resolve(&self, time: Duration) -> io::Result<SocketAddr> {
        let name = self.connect_to.as_deref().unwrap_or_else(|| self.url.host());
        let found = match &self.connect_to {
            Some(other) => other.to_socket_addrs(),
            None => (name, self.url.port()).to_socket_addrs(),
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot find {name}: {error}"));
        let found: Vec<SocketAddr> = found.map_err(named)?.collect();
        let first =
            found.first().copied().ok_or_else(|| io::Error::other(format!("{name} has no address")))?;
        if found.len() == 1 {
            return Ok(first);
        }
        let answers = |address: &SocketAddr| TcpStream::connect_timeout(address, time).is_ok();
        Ok(found.iter().copied().find(answers).unwrap_or(first))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let ws = match lower.strip_prefix("http://") {
            Some(_) => format!("ws://{}", &text["http://".len()..]),
            None if lower.starts_with("https://") => format!("wss://{}", &text["https://".len()..]),
            None => text.to_owned(),
        };
        let url = ws.parse().map_err(|fault: UrlFault| match fault {
            UrlFault::Scheme if !text.contains("://") => {
                format!("a URL begins with its scheme: did you mean ws://{text} ?")
            }
            UrlFault::Scheme => "the schemes are ws, wss, http and https".to_owned(),
            UrlFault::User => "a user in the URL is not sent; use --auth USER:PASSWORD".to_owned(),
            fault => fault.to_string(),
        })?;
        Ok(Self { text: text.to_owned(), url, connect_to: None })
    }
}

impl fmt::Display for Target {
    /// As it was given, but for what may be a secret: the values of the query.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((path, query)) = self.text.split_once('?') else { return f.write_str(&self.text) };
        f.write_str(path)?;
        for (at, pair) in query.split('&').enumerate() {
            let name = pair.split_once('=').map_or(String::new(), |(name, _)| format!("{name}="));
            write!(f, "{}{name}***", if at == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_and_ws_mean_the_same() {
        for text in ["ws://a.b:81/echo?x=1", "HTTP://a.b:81/echo?x=1"] {
            let target: Target = text.parse().unwrap();
            let url = &target.url;
            assert_eq!((url.host(), url.port(), url.target()), ("a.b", 81, "/echo?x=1"));
        }
        for text in ["wss://a.b/", "https://a.b/"] {
            let url = text.parse::<Target>().unwrap().url;
            assert_eq!((url.is_secure(), url.port()), (true, 443));
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        for (text, hint) in [
            ("localhost:8080/echo", "did you mean ws://localhost:8080/echo"),
            ("ftp://a/", "the schemes are ws"),
            ("ws://a/#b", "fragment"),
            ("ws://a b/", "%20"),
            ("ws://u:p@a/", "--auth"),
            ("ws:///echo", "no host"),
            ("ws://a:99999/", "not a port"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn a_token_in_the_query_is_not_shown() {
        let target: Target = "ws://a/b?token=secret&v=1&x".parse().unwrap();
        assert_eq!(target.to_string(), "ws://a/b?token=***&v=***&***");
    }
}
