//! Where to, and by which way: the URL and the options that `connect` and `replay` share.

use std::{fs, path::PathBuf, str::FromStr, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
#[cfg(feature = "tls")]
use switchpoint::tls::{ClientSettings, Connector, Identity, LoadError, Trust};
use switchpoint::ws::opening::{Opening, Unfit, Url, UrlFault};

/// Where to, and what to say of oneself.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct Dial {
    /// Where to, such as `ws://127.0.0.1:8080/echo` or `wss://example.org/`; `http` and `https` mean the same.
    #[arg(value_name = "URL", value_parser = str::parse::<Target>)]
    pub(in crate::cli) url: Target,
    /// A field of the request, as `Name: value`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "FIELD", value_parser = field)]
    fields: Vec<(String, String)>,
    /// A cookie, as `name=value`; may be repeated.
    #[arg(long, value_name = "COOKIE")]
    cookie: Vec<String>,
    /// The origin of the page that a browser would have loaded, such as `https://example.org`.
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// Basic authentication, as `NAME:PASSWORD`, or `@FILE` for a file that holds it.
    #[arg(long, value_name = "USER", conflicts_with = "bearer")]
    user: Option<String>,
    /// A bearer token, or `@FILE` for a file that holds it.
    #[arg(long, value_name = "TOKEN")]
    bearer: Option<String>,
    /// Connects to this Unix socket; the URL says only what to ask for.
    #[arg(long, value_name = "PATH", conflicts_with = "connect_to")]
    pub(super) unix: Option<PathBuf>,
    /// Connects to this address instead of the URL's.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) connect_to: Option<String>,
    /// Believes the authorities in this file, in PEM, and no others.
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Believes any certificate, which protects from nobody.
    #[cfg(feature = "tls")]
    #[arg(short = 'k', long)]
    insecure: bool,
    /// A certificate of one's own, with its chain, for servers that ask for one.
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of that certificate.
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// How long it may take to connect and to be answered.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(in crate::cli) timeout: Duration,
}

impl Dial {
    /// Puts what the options say of the client into its request.
    ///
    /// # Errors
    /// With a sentence for the user.
    pub(in crate::cli) fn describe(&self, opening: &mut Opening) -> Result<(), String> {
        let fields = self.fields()?;
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
            opening.field("User-Agent", USER_AGENT).map_err(|unfit| unfit.to_string())?;
        }
        fields.iter().try_for_each(|(name, value)| {
            opening.field(name, value).map_err(|unfit| match unfit {
                Unfit::OurField if name.eq_ignore_ascii_case("sec-websocket-protocol") => {
                    "a subprotocol is offered by --subprotocol".to_owned()
                }
                Unfit::OurField if name.eq_ignore_ascii_case("host") => {
                    "`Host` is the URL's; --connect-to or --unix connect elsewhere than it says".to_owned()
                }
                unfit => format!("-H {name:?}: {unfit}"),
            })
        })
    }

    /// The fields that the options stand for.
    ///
    /// # Errors
    /// With a sentence for the user.
    pub(in crate::cli) fn fields(&self) -> Result<Vec<(String, String)>, String> {
        let mut fields = Vec::new();
        let mut put = |name: &str, value: String| fields.push((name.to_owned(), value));
        if let Some(origin) = &self.origin {
            put("Origin", origin.clone());
        }
        if !self.cookie.is_empty() {
            put("Cookie", self.cookie.join("; "));
        }
        if let Some(user) = &self.user {
            let user = secret(user)?;
            if !user.contains(':') {
                return Err("--user is NAME:PASSWORD".into());
            }
            put("Authorization", format!("Basic {}", STANDARD.encode(user)));
        }
        if let Some(token) = &self.bearer {
            put("Authorization", format!("Bearer {}", secret(token)?));
        }
        fields.extend(self.fields.iter().cloned());
        Ok(fields)
    }
}

#[cfg(feature = "tls")]
impl Dial {
    /// What is to secure the connection, where the URL wants it.
    pub(super) fn connector(&self) -> Result<Connector, LoadError> {
        let trust = match &self.ca {
            Some(path) => Trust::Authorities(path.clone().into()),
            None if self.insecure => Trust::Anyone,
            None => Trust::WebPki,
        };
        let identity = self.cert.as_ref().zip(self.key.as_ref());
        let identity = identity.map(|(chain, key)| Identity::files(chain, key));
        Connector::new(&ClientSettings { trust, identity, ..ClientSettings::default() })
    }
}

const USER_AGENT: &str = concat!("switchpoint/", env!("CARGO_PKG_VERSION"));

/// The value itself, or what the file holds that is named behind an `@`; so it need not stand in the process list.
fn secret(value: &str) -> Result<String, String> {
    match value.strip_prefix('@') {
        None => Ok(value.to_owned()),
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
            Ok(text.trim_end_matches(['\r', '\n']).to_owned())
        }
    }
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a field is `Name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// A URL, and how it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Target {
    pub(super) text: String,
    pub(in crate::cli) url: Url,
}

impl FromStr for Target {
    type Err = String;

    /// `http` and `https` mean the same as `ws` and `wss`.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("a URL begins with its scheme: did you mean ws://{text} ?"));
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => "ws",
            "wss" | "https" => "wss",
            _ => return Err("the schemes are ws, wss, http and https".into()),
        };
        let url = format!("{scheme}://{rest}").parse().map_err(|fault| match fault {
            UrlFault::User => "a user in the URL is not sent; use --user NAME:PASSWORD".to_owned(),
            fault => fault.to_string(),
        })?;
        Ok(Self { text: text.to_owned(), url })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_says_whether_there_is_tls_and_which_port() {
        for (text, is_tls, host, port, target) in [
            ("ws://a", false, "a", 80, "/"),
            ("http://a:81/x?y", false, "a", 81, "/x?y"),
            ("WSS://a/b", true, "a", 443, "/b"),
            ("https://a:80", true, "a", 80, "/"),
            ("wss://[::1]", true, "::1", 443, "/"),
            ("wss://[::1]:8443/x:9", true, "::1", 8443, "/x:9"),
        ] {
            let found: Target = text.parse().unwrap();
            let url = found.url;
            let facts = (url.is_secure(), url.host(), url.port(), url.target());
            assert_eq!(facts, (is_tls, host, port, target), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        for (text, hint) in [
            ("localhost/echo", "did you mean ws://localhost/echo"),
            ("ftp://a", "schemes"),
            ("ws://u:p@a/", "--user"),
            ("wss://a/#x", "fragment"),
        ] {
            assert!(text.parse::<Target>().unwrap_err().contains(hint), "{text}");
        }
    }

    #[test]
    fn a_field_has_a_name_and_a_value() {
        assert_eq!(field("X-A:  b:c "), Ok(("X-A".into(), "b:c".into())));
        assert!(field("X-A").is_err());
    }
}
