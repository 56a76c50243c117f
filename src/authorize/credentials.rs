//! Where a request may carry a token, and how it is asked for.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{Reason, Rejection, Request};

/// Where a token is looked for, in this order; the first place that has one counts. Only `Authorization` unless others are
/// named: a browser cannot send that one with a WebSocket, so it needs another.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sources {
    /// `Authorization: Bearer TOKEN` (RFC 6750 2.1); it is.
    pub authorization: bool,
    /// An item of `Sec-WebSocket-Protocol` that begins with this, such as `bearer.`; the token follows. The client has to
    /// offer the subprotocol that it means to speak as well, as this one is never chosen.
    pub subprotocol: Option<String>,
    /// A cookie of this name. Browsers send it with requests of other sites, too, so let the handler look at origins.
    pub cookie: Option<String>,
    /// A parameter of the query (RFC 6750 2.3). The URL may end up in the logs of proxies: let it be short-lived.
    pub query: Option<String>,
}

impl Default for Sources {
    fn default() -> Self {
        Self { authorization: true, subprotocol: None, cookie: None, query: None }
    }
}

impl Sources {
    /// Whether there is any.
    pub(super) fn is_empty(&self) -> bool {
        !self.authorization && self.subprotocol.is_none() && self.cookie.is_none() && self.query.is_none()
    }

    /// The token that the request carries.
    pub(super) fn find<'a>(&self, request: &Request<'a>) -> Option<Cow<'a, str>> {
        let authorization = || authorization(request, "bearer").map(Cow::Borrowed);
        let subprotocol = || {
            let start = self.subprotocol.as_deref()?;
            let item = request.list("sec-websocket-protocol").find_map(|item| item.strip_prefix(start))?;
            Some(Cow::Borrowed(item))
        };
        let cookie = || request.cookie(self.cookie.as_deref()?).map(Cow::Borrowed);
        let query = || parameter(request.query()?, self.query.as_deref()?);
        let found = self.authorization.then(authorization).flatten();
        found.or_else(subprotocol).or_else(cookie).or_else(query)
    }
}

/// The credentials of a scheme. A second line would leave open which counts.
pub(super) fn authorization<'a>(request: &Request<'a>, scheme: &str) -> Option<&'a str> {
    let mut lines = request.fields("authorization");
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    let (found, credentials) = line.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| credentials.trim())
}

/// A parameter of a query, decoded.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.into_iter().find_map(|(key, value)| (key == name).then_some(value))?;
    if value.contains('%') { decoded(value).map(Cow::Owned) } else { Some(Cow::Borrowed(value)) }
}

/// Percent-decoding (RFC 3986 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            let digit = |byte: u8| char::from(byte).to_digit(16);
            bytes.push(u8::try_from(digit(digits[0])? << 4 | digit(digits[1])?).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// What credentials of a kind are asked for with (RFC 9110 11.6.1).
#[derive(Clone, Debug)]
pub(super) struct Challenge(String);

impl Challenge {
    /// # Errors
    /// A realm that cannot stand in quotes.
    pub(super) fn new(scheme: &str, realm: &str) -> Result<Self, String> {
        if !realm.bytes().all(|byte| (b' '..=b'~').contains(&byte) && !b"\"\\".contains(&byte)) {
            return Err(
                "the realm has a quote, a backslash or another sign that cannot stand in a header".into()
            );
        }
        Ok(Self(format!("{scheme} realm=\"{realm}\"")))
    }

    /// User and password may be in any language (RFC 7617 2.1).
    pub(super) fn is_utf_8(&mut self) {
        self.0.push_str(", charset=\"UTF-8\"");
    }

    /// Nothing was there.
    pub(super) fn missing(&self) -> Rejection {
        Rejection::unauthorized(self.0.clone())
    }

    /// What was there is not believed.
    pub(super) fn invalid(&self) -> Rejection {
        Rejection::from(Reason::InvalidCredentials).field("WWW-Authenticate", self.0.clone())
    }

    /// As [`invalid`](Self::invalid) and [`expired`](Self::expired), in the words of RFC 6750 3.1.
    pub(super) fn invalid_token(&self, is_expired: bool) -> Rejection {
        let reason = if is_expired { Reason::ExpiredCredentials } else { Reason::InvalidCredentials };
        Rejection::from(reason).field("WWW-Authenticate", format!("{}, error=\"invalid_token\"", self.0))
    }

    /// What was there was good once.
    pub(super) fn expired(&self) -> Rejection {
        Rejection::from(Reason::ExpiredCredentials).field("WWW-Authenticate", self.0.clone())
    }
}

pub(super) fn default_realm() -> String {
    "switchpoint".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_by_its_name_and_decoded() {
        let find = |query| parameter(query, "token");
        assert_eq!(find("a=b&token=x.y-z&token=2").as_deref(), Some("x.y-z"));
        assert_eq!(find("token=a%2Bb%3d").as_deref(), Some("a+b="));
        assert_eq!(find("token=").as_deref(), Some(""));
        for none in ["", "token", "atoken=x", "token=%", "token=%4", "token=%zz", "token=%ff", "Token=x"] {
            assert_eq!(find(none), None, "{none}");
        }
    }

    #[test]
    fn a_realm_cannot_break_the_challenge() {
        assert!(Challenge::new("Basic", "a \"b\"").is_err());
        assert!(Challenge::new("Basic", "a\r\nb").is_err());
        assert!(Challenge::new("Basic", "the chat").unwrap().missing().has_field("www-authenticate"));
    }
}
