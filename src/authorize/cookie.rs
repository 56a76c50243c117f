//! Cookies that we have signed: who has one has been here before, and was believed.
//!
//! ```text
//!   NAME=CLAIMS.MAC      CLAIMS  base64url of a JSON object, with `exp` and as a rule `sub`
//!                        MAC     base64url of HMAC-SHA-256(key, "NAME=CLAIMS")
//! ```

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::Sha256;

use super::{
    Authorize, Identity, Secret,
    credentials::{Challenge, default_realm},
    jwt::SECRET_MIN,
    secret,
};
use crate::{Rejection, Request};

/// Signed cookies. Browsers send them with requests of other sites, too: see to it that the handler looks at origins, as a
/// WebSocket does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cookie {
    /// The cookie's name; `session`.
    pub name: String,
    /// The keys, of 32 bytes at least: the first signs, and all are believed, so that keys can be changed.
    pub keys: Vec<Secret>,
    /// Files with a key each, after those.
    pub key_files: Vec<PathBuf>,
    /// What the challenge calls this place.
    pub realm: String,
}

impl Default for Cookie {
    fn default() -> Self {
        Self { name: "session".into(), keys: Vec::new(), key_files: Vec::new(), realm: default_realm() }
    }
}

/// Makes the cookies that [`Cookie`] believes, for who checks passwords elsewhere in the program.
///
/// ```
/// use std::time::Duration;
/// use switchpoint::authorize::{Cookie, Identity, Issuer};
///
/// let settings = Cookie { keys: vec!["a key of thirty-two bytes or more".into()], ..Cookie::default() };
/// let cookie = Issuer::new(&settings)?.issue(&Identity::new("login").named("alice"), Duration::from_secs(3600));
/// let field = format!("{cookie}; Path=/; HttpOnly; Secure; SameSite=Lax"); // of `Set-Cookie`
/// # Ok::<(), String>(())
/// ```
pub struct Issuer {
    name: String,
    keys: Vec<Secret>,
}

impl Issuer {
    /// With the settings of those who will read them.
    ///
    /// # Errors
    /// No key, one that is too short or cannot be read, a name that is not one.
    pub fn new(settings: &Cookie) -> Result<Self, String> {
        let mut keys = settings.keys.clone();
        for path in &settings.key_files {
            keys.push(secret::read(path)?);
        }
        if keys.is_empty() {
            return Err("there are no keys: give `keys` or `key_files`".into());
        }
        if keys.iter().any(|key| key.expose().len() < SECRET_MIN) {
            return Err("a key is shorter than 32 bytes".into());
        }
        if !crate::http::list::is_token(&settings.name) {
            return Err(format!("`{}` is not a name for a cookie", settings.name));
        }
        Ok(Self { name: settings.name.clone(), keys })
    }

    /// `NAME=VALUE`, for somebody who is believed for `lifetime` from now on.
    pub fn issue(&self, identity: &Identity, lifetime: Duration) -> String {
        let mut claims = identity.claims().clone();
        if let Some(subject) = identity.subject() {
            claims.insert("sub".into(), subject.into());
        }
        claims.insert("exp".into(), seconds_now().saturating_add(lifetime.as_secs()).into());
        let claims = BASE64.encode(Value::Object(claims).to_string());
        let mac = BASE64.encode(self.mac(&self.keys[0], &claims).finalize().into_bytes());
        format!("{}={claims}.{mac}", self.name)
    }

    fn mac(&self, key: &Secret, claims: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()).expect("any length will do");
        // With its name, so that a cookie signed for something else is not believed.
        mac.update(format!("{}={claims}", self.name).as_bytes());
        mac
    }

    fn read(&self, value: &str, now: u64) -> Result<Map<String, Value>, Fault> {
        let (claims, mac) = value.split_once('.').ok_or(Fault::Invalid)?;
        let mac = BASE64.decode(mac).map_err(|_| Fault::Invalid)?;
        // In constant time.
        let is_ours = self.keys.iter().any(|key| self.mac(key, claims).verify_slice(&mac).is_ok());
        if !is_ours {
            return Err(Fault::Invalid);
        }
        let claims = BASE64.decode(claims).map_err(|_| Fault::Invalid)?;
        let claims: Map<String, Value> = serde_json::from_slice(&claims).map_err(|_| Fault::Invalid)?;
        match claims.get("exp").and_then(Value::as_u64) {
            Some(end) if now < end => Ok(claims),
            Some(_) => Err(Fault::Expired),
            None => Err(Fault::Invalid),
        }
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Invalid,
    Expired,
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub(super) struct SignedCookies {
    issuer: Issuer,
    challenge: Challenge,
}

impl SignedCookies {
    pub(super) fn new(settings: &Cookie) -> Result<Self, String> {
        // No scheme is registered for cookies; a 401 owes one all the same (RFC 9110 15.5.2).
        Ok(Self { issuer: Issuer::new(settings)?, challenge: Challenge::new("Cookie", &settings.realm)? })
    }
}

impl Authorize for SignedCookies {
    async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection> {
        let value = request.cookie(&self.issuer.name).ok_or_else(|| self.challenge.missing())?;
        match self.issuer.read(value, seconds_now()) {
            Ok(claims) => {
                let identity = Identity::new("cookie");
                let identity = match claims.get("sub").and_then(Value::as_str) {
                    Some(subject) => identity.named(subject),
                    None => identity,
                };
                Ok(identity.with_claims(claims))
            }
            Err(Fault::Invalid) => Err(self.challenge.invalid()),
            Err(Fault::Expired) => Err(self.challenge.expired()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(name: &str, keys: &[&str]) -> Issuer {
        let keys =
            keys.iter().map(|key| format!("{key}-and-thirty-two-bytes-or-more-of-it").into()).collect();
        Issuer::new(&Cookie { name: name.into(), keys, ..Cookie::default() }).unwrap()
    }

    #[test]
    fn what_was_issued_is_believed_until_its_time_is_over() {
        let issuer = issuer("session", &["a"]);
        let alice = Identity::new("login").named("alice").with("role", "admin");
        let cookie = issuer.issue(&alice, Duration::from_secs(60));
        let value = cookie.strip_prefix("session=").unwrap();
        let now = seconds_now();
        let claims = issuer.read(value, now).unwrap();
        assert_eq!((claims["sub"].as_str(), claims["role"].as_str()), (Some("alice"), Some("admin")));
        assert_eq!(issuer.read(value, now + 61), Err(Fault::Expired));
        assert!(value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{value}");
    }

    #[test]
    fn nothing_of_it_can_be_changed() {
        let own = issuer("session", &["a"]);
        let cookie = own.issue(&Identity::new("login").named("alice"), Duration::from_secs(60));
        let value = cookie.strip_prefix("session=").unwrap();
        let now = seconds_now();
        for at in 0..value.len() {
            let mut changed = value.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(own.read(&changed, now).is_err(), "{at}: {changed}");
            assert!(own.read(&value[..at], now).is_err());
        }
        assert_eq!(issuer("session", &["b"]).read(value, now), Err(Fault::Invalid), "another key");
        assert_eq!(issuer("other", &["a"]).read(value, now), Err(Fault::Invalid), "another name");
        assert!(issuer("session", &["b", "a"]).read(value, now).is_ok(), "the key before");
        for text in ["", ".", "e30.", "e30.e30"] {
            assert_eq!(own.read(text, now), Err(Fault::Invalid), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        let error = |cookie: Cookie| Issuer::new(&cookie).unwrap_err();
        assert!(error(Cookie::default()).contains("no keys"));
        assert!(error(Cookie { keys: vec!["short".into()], ..Cookie::default() }).contains("shorter"));
        let keys = vec!["a-key-and-thirty-two-bytes-or-more-of-it".into()];
        assert!(error(Cookie { name: "a b".into(), keys, ..Cookie::default() }).contains("`a b`"));
    }
}
