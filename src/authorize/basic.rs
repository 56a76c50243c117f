//! User and password (RFC 7617), against a file of hashes.

use std::{
    cell::RefCell,
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{
    Authorize, Identity,
    credentials::{Challenge, authorization, default_realm},
    passwords::{self, PASSWORD_MAX},
    watched::Watched,
};
use crate::{Reason, Rejection, Request};

/// Users with passwords. The file has a line `USER:HASH` for each, with a hash by bcrypt, as `htpasswd -nB USER` prints it;
/// `#` begins a comment. It is read again when it changes. What is sent is not encrypted: use it behind TLS.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Basic {
    /// The file with the users.
    pub file: PathBuf,
    /// What the challenge calls this place: browsers show it.
    pub realm: String,
}

impl Default for Basic {
    fn default() -> Self {
        Self { file: PathBuf::new(), realm: default_realm() }
    }
}

pub(super) struct Passwords {
    users: Watched<HashMap<String, String>>,
    /// Passwords that were found right lately, under a key of this process, so that they are not hashed each time.
    known: RefCell<HashMap<[u8; 32], Instant>>,
    key: [u8; 32],
    challenge: Challenge,
}

/// How long a right password need not be hashed again.
const KNOWN_TIME: Duration = Duration::from_secs(300);
const KNOWN_MAX: usize = 1024;
/// A hash that costs more would take seconds.
const COST_MAX: u32 = 14;
impl Passwords {
    pub(super) fn new(settings: &Basic) -> Result<Self, String> {
        if settings.file.as_os_str().is_empty() {
            return Err("`file` is missing".into());
        }
        let mut challenge = Challenge::new("Basic", &settings.realm)?;
        challenge.is_utf_8();
        let mut key = [0; 32];
        fill_random(&mut key).map_err(|error| format!("no randomness: {error}"))?;
        let users = Watched::new(&settings.file, parse)?;
        Ok(Self { users, known: RefCell::default(), key, challenge })
    }

    fn mark(&self, user: &str, password: &str, hash: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length will do");
        for part in [user, hash, password] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }

    fn is_known(&self, mark: &[u8; 32]) -> bool {
        self.known.borrow().get(mark).is_some_and(|since| since.elapsed() < KNOWN_TIME)
    }

    fn remember(&self, mark: [u8; 32]) {
        let mut known = self.known.borrow_mut();
        if known.len() >= KNOWN_MAX {
            known.retain(|_, since| since.elapsed() < KNOWN_TIME);
        }
        if known.len() < KNOWN_MAX {
            known.insert(mark, Instant::now());
        }
    }
}

fn fill_random(bytes: &mut [u8]) -> std::io::Result<()> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom")?.read_exact(bytes)
}

fn parse(text: &str) -> Result<HashMap<String, String>, String> {
    let mut users = HashMap::new();
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fail = |what: &str| format!("line {}: {what}", number + 1);
        let (user, hash) = line.split_once(':').ok_or_else(|| fail("it is not USER:HASH"))?;
        hash.parse::<bcrypt::HashParts>()
            .map_err(|_| fail("the hash is not one of bcrypt; `htpasswd -nB USER` makes one"))?;
        // $2y$COST$…
        if hash.split('$').nth(2).and_then(|cost| cost.parse().ok()).is_none_or(|cost: u32| cost > COST_MAX) {
            return Err(fail("the hash costs more than 14, which takes seconds"));
        }
        if users.insert(user.to_owned(), hash.to_owned()).is_some() {
            return Err(fail("the user stands here twice"));
        }
    }
    if users.is_empty() { Err("it has no users".into()) } else { Ok(users) }
}

impl Authorize for Passwords {
    async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection> {
        let credentials = authorization(request, "basic").ok_or_else(|| self.challenge.missing())?;
        let invalid = || self.challenge.invalid();
        let decoded = BASE64_STANDARD.decode(credentials).map_err(|_| invalid())?;
        let decoded = String::from_utf8(decoded).map_err(|_| invalid())?;
        let (user, password) = decoded.split_once(':').ok_or_else(invalid)?;
        if password.len() > PASSWORD_MAX || password.contains('\0') {
            return Err(invalid());
        }
        let users = self.users.get();
        let hash = users.get(user);
        // Somebody else's for who is not known, so that it takes as long.
        let compared = hash.or_else(|| users.values().next()).map_or("", String::as_str);
        let mark = self.mark(user, password, compared);
        if hash.is_none() || !self.is_known(&mark) {
            let is_it = passwords::verify(password, compared).await;
            let is_it = is_it.map_err(|_| Rejection::from(Reason::AuthorizationUnavailable))?;
            if !is_it || hash.is_none() {
                return Err(invalid());
            }
            self.remember(mark);
        }
        Ok(Identity::new("basic").named(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_users_and_hashes_that_can_be_checked_in_time() {
        let hash = bcrypt::hash("secret", 4).unwrap();
        let users =
            parse(&format!("# staff\n\nalice:{hash}\n  bob:{}\n", hash.replacen("$2b$", "$2y$", 1))).unwrap();
        assert!(bcrypt::verify("secret", &users["alice"]).unwrap());
        assert!(bcrypt::verify("secret", &users["bob"]).unwrap(), "as htpasswd writes it");
        for (text, what) in [
            ("", "no users"),
            ("alice", "line 1: it is not USER:HASH"),
            ("\nalice:secret", "line 2: the hash is not one of bcrypt"),
            ("alice:$apr1$x$y", "not one of bcrypt"),
            (&format!("a:{}", hash.replacen("$04$", "$20$", 1)), "costs more"),
            (&format!("a:{hash}\na:{hash}"), "twice"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(what) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
