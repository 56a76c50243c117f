//! Whose pages may connect (RFC 6455 10.2). A browser sends cookies along with any page's WebSocket, so without this
//! rule every page on the internet could act as the user who looks at it.

use crate::{Reason, Rejection, Request};

/// The origins that are let in. Clients without an `Origin` are no browsers, and always are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// The pages of the host that the request is for; by TLS, those that came by TLS.
    #[default]
    SameHost,
    /// These, as browsers write them: `https://example.org`, `http://localhost:3000`; and the same host's.
    List(Vec<String>),
    /// Every page. Only for services that look at no cookie.
    Any,
}

impl Origins {
    pub(super) fn check(&self, request: &Request<'_>) -> Result<(), Rejection> {
        if *self == Self::Any {
            return Ok(());
        }
        let refused = || Rejection::from(Reason::OriginNotAllowed);
        let origin = match request.head.fields.only("origin") {
            Ok(None) => return Ok(()),
            Ok(Some(origin)) => str::from_utf8(origin).map_err(|_| refused())?,
            Err(_) => return Err(refused()),
        };
        let is_listed = match self {
            Self::List(list) => {
                list.iter().any(|item| item.trim_end_matches('/').eq_ignore_ascii_case(origin))
            }
            _ => false,
        };
        if is_listed || is_same_host(origin, request.authority().unwrap_or_default(), request.is_secure()) {
            return Ok(());
        }
        Err(refused())
    }
}

/// Compares host and port; a port that is the scheme's own may be left out on either side. A page that came without TLS
/// can be anybody's, so it is not of the host that is asked by TLS. The other way round, a proxy may have done TLS for us.
fn is_same_host(origin: &str, authority: &str, is_secure: bool) -> bool {
    let Some((scheme, host)) = origin.split_once("://") else {
        return false; // `null`, of a page that has no origin
    };
    let default = match scheme {
        "http" if is_secure => return false,
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |authority: &str| authority.strip_suffix(default).unwrap_or(authority).to_ascii_lowercase();
    !host.is_empty() && bare(host) == bare(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_the_same_host_and_port_is_let_in_and_no_other() {
        for (origin, host) in [
            ("http://a.example", "a.example"),
            ("https://A.example", "a.example:443"),
            ("http://a.example:80", "a.example"),
            ("http://[::1]:8080", "[::1]:8080"),
        ] {
            assert!(is_same_host(origin, host, false), "{origin} at {host}");
            assert_eq!(is_same_host(origin, host, true), origin.starts_with("https"), "{origin} at {host}");
        }
        for (origin, host) in [
            ("http://evil.example", "a.example"),
            ("http://a.example:8080", "a.example"),
            ("http://a.example.evil.example", "a.example"),
            ("https://a.example:80", "a.example"),
            ("null", "a.example"),
            ("http://", ""),
            ("file://a.example", "a.example"),
            ("", ""),
        ] {
            assert!(!is_same_host(origin, host, false), "{origin} at {host}");
            assert!(!is_same_host(origin, host, true), "{origin} at {host}");
        }
    }
}
