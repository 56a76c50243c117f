//! Bearer tokens of a fixed set (RFC 6750).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    Authorize, Identity, Secret, Sources,
    credentials::{Challenge, default_realm},
    secret::Fingerprint,
    watched::Watched,
};
use crate::{Rejection, Request};

/// Tokens that are known one by one. Each is `SUBJECT:TOKEN`, or `SUBJECT:sha256:DIGITS` where the token itself is not to
/// be written down: its SHA-256 in hexadecimal digits. A token has 16 bytes at least.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bearer {
    /// The tokens.
    pub tokens: Vec<Secret>,
    /// A file with more of them, one a line; `#` begins a comment. It is read again when it changes.
    pub file: Option<PathBuf>,
    /// What the challenge calls this place.
    pub realm: String,
    /// Where a request may carry one.
    pub sources: Sources,
}

impl Default for Bearer {
    fn default() -> Self {
        Self { tokens: Vec::new(), file: None, realm: default_realm(), sources: Sources::default() }
    }
}

pub(super) struct BearerTokens {
    own: Vec<Known>,
    file: Option<Watched<Vec<Known>>>,
    sources: Sources,
    challenge: Challenge,
}

struct Known {
    subject: String,
    fingerprint: Fingerprint,
}

impl BearerTokens {
    pub(super) fn new(settings: &Bearer) -> Result<Self, String> {
        let own: Result<Vec<_>, _> = settings.tokens.iter().map(|token| known(token.expose())).collect();
        let (own, file) = (own?, settings.file.as_deref());
        if own.is_empty() && file.is_none() {
            return Err("there are no tokens: give `tokens` or `file`".into());
        }
        if settings.sources.is_empty() {
            return Err("there is no place to look for a token".into());
        }
        Ok(Self {
            own,
            file: file.map(|path| Watched::new(path, parse)).transpose()?,
            sources: settings.sources.clone(),
            challenge: Challenge::new("Bearer", &settings.realm)?,
        })
    }

    fn subject(&self, token: &str) -> Option<String> {
        let presented = Fingerprint::of(token);
        let file = self.file.as_ref().map(Watched::get);
        let mut found = None;
        // To the end, so that the time does not tell the place.
        for known in self.own.iter().chain(file.iter().flat_map(|file| file.iter())) {
            if known.fingerprint.equals(&presented) {
                found = Some(known.subject.clone());
            }
        }
        found
    }
}

fn parse(text: &str) -> Result<Vec<Known>, String> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| known(line).map_err(|what| format!("line {}: {what}", number + 1))).collect()
}

/// The errors do not repeat what is a secret.
fn known(line: &str) -> Result<Known, String> {
    let (subject, token) = line.split_once(':').ok_or("a token is written as SUBJECT:TOKEN")?;
    let fingerprint = match token.strip_prefix("sha256:") {
        Some(digits) => Fingerprint::from_hex(digits).ok_or("a SHA-256 has 64 hexadecimal digits")?,
        None if token.len() < TOKEN_MIN => {
            return Err(format!("the token of {subject} is shorter than 16 bytes"));
        }
        None => Fingerprint::of(token),
    };
    Ok(Known { subject: subject.to_owned(), fingerprint })
}

/// What is shorter can be guessed.
const TOKEN_MIN: usize = 16;

impl Authorize for BearerTokens {
    async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection> {
        let token = self.sources.find(request).ok_or_else(|| self.challenge.missing())?;
        let subject = self.subject(&token).ok_or_else(|| self.challenge.invalid_token(false))?;
        Ok(Identity::new("bearer").named(subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_as_it_stands_and_by_its_digest() {
        // printf hashed-token-of-bob | sha256sum
        let digest: String = {
            use sha2::Digest;
            sha2::Sha256::digest("hashed-token-of-bob").iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let settings = Bearer {
            tokens: vec!["alice:plain-token:with-colon".into(), format!("bob:sha256:{digest}").into()],
            ..Bearer::default()
        };
        let tokens = BearerTokens::new(&settings).unwrap();
        assert_eq!(tokens.subject("plain-token:with-colon").as_deref(), Some("alice"));
        assert_eq!(tokens.subject("hashed-token-of-bob").as_deref(), Some("bob"));
        for wrong in
            ["", "plain-token:with-colo", "plain-token:with-colon ", &digest, &format!("sha256:{digest}")]
        {
            assert_eq!(tokens.subject(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_an_error_that_keeps_the_secret() {
        for (token, what) in [
            ("just-a-long-secret-token", "SUBJECT:TOKEN"),
            ("alice:secret", "shorter"),
            ("alice:sha256:secret", "64 hexadecimal"),
        ] {
            let error =
                BearerTokens::new(&Bearer { tokens: vec![token.into()], ..Bearer::default() }).err().unwrap();
            assert!(error.contains(what) && !error.contains("secret"), "{error}");
        }
        assert!(BearerTokens::new(&Bearer::default()).err().unwrap().contains("no tokens"));
        assert!(parse("# a comment\n\nalice:0123456789abcdef\nbob\n").err().unwrap().starts_with("line 4:"));
    }
}
