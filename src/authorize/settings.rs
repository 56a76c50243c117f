//! Who is let through, as plain data: what a configuration file says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Authorizer, Basic, Bearer, Cookie, Forward, Identity, Jwt, basic::Passwords, bearer::BearerTokens,
    cookie::SignedCookies, forward::ForwardAuth, jwt::JwtTokens,
};
#[cfg(feature = "tls")]
use super::{Certificate, certificate::ClientCertificates};

/// One kind of authorizer, and who of those that it knows may pass.
///
/// ```
/// use switchpoint::authorize::{Allow, Bearer, Settings};
///
/// let mut settings = Settings::from(Bearer { tokens: vec!["alice:a-secret-of-some-length".into()], ..Bearer::default() });
/// settings.allow = Some(Allow { subjects: vec!["alice".into()], ..Allow::default() });
/// let authorizer = settings.build()?;
/// # Ok::<(), switchpoint::authorize::SettingsError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Tokens that are known one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer: Option<Bearer>,
    /// Tokens that somebody has signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
    /// Cookies that we have signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Cookie>,
    /// Users with passwords.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic: Option<Basic>,
    /// The certificate that the client has in TLS.
    #[cfg(feature = "tls")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// Another server, which is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
    /// The first of these that knows who asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub any_of: Option<Vec<Self>>,
    /// All of these together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_of: Option<Vec<Self>>,
    /// Who may pass of those that are known; everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Allow>,
}

/// Who may pass; others get 403.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Allow {
    /// By name; if there are any.
    pub subjects: Vec<String>,
    /// By what is claimed: of each of these, one of its values ([`Identity::has`]).
    pub claims: BTreeMap<String, Vec<String>>,
}

impl Allow {
    fn lets(&self, identity: &Identity) -> bool {
        let is_named = self.subjects.is_empty()
            || identity.subject().is_some_and(|subject| self.subjects.iter().any(|name| name == subject));
        let has =
            |(name, values): (&String, &Vec<String>)| values.iter().any(|value| identity.has(name, value));
        is_named && self.claims.iter().all(has)
    }
}

/// What is wrong with [`Settings`], and in which of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct SettingsError {
    /// The setting, such as `any_of[1].jwt`.
    pub place: String,
    /// What is wrong with it; no secret is repeated.
    pub what: String,
}

impl Settings {
    /// The authorizer. Files are read here, and names looked up, so this may wait; it is called once a core.
    ///
    /// # Errors
    /// The first setting that cannot be meant, or file that cannot be used.
    pub fn build(&self) -> Result<Authorizer, SettingsError> {
        self.build_at("")
    }

    fn build_at(&self, place: &str) -> Result<Authorizer, SettingsError> {
        let at = |kind: &str| if place.is_empty() { kind.to_owned() } else { format!("{place}.{kind}") };
        let wrong = |kind: &'static str| move |what| SettingsError { place: at(kind), what };
        let several = |kind: &'static str, list: &[Self]| {
            if list.is_empty() {
                return Err(wrong(kind)("the list is empty".into()));
            }
            let each = list.iter().enumerate();
            each.map(|(number, each)| each.build_at(&format!("{}[{number}]", at(kind))))
                .collect::<Result<Vec<_>, _>>()
        };
        let mut found = Vec::new();
        if let Some(settings) = &self.bearer {
            found.push(Authorizer::new(BearerTokens::new(settings).map_err(wrong("bearer"))?));
        }
        if let Some(settings) = &self.jwt {
            found.push(Authorizer::new(JwtTokens::new(settings).map_err(wrong("jwt"))?));
        }
        if let Some(settings) = &self.cookie {
            found.push(Authorizer::new(SignedCookies::new(settings).map_err(wrong("cookie"))?));
        }
        if let Some(settings) = &self.basic {
            found.push(Authorizer::new(Passwords::new(settings).map_err(wrong("basic"))?));
        }
        #[cfg(feature = "tls")]
        if let Some(settings) = &self.certificate {
            let certificates = ClientCertificates::new(settings);
            found.push(Authorizer::new(certificates.map_err(wrong("certificate"))?));
        }
        if let Some(settings) = &self.forward {
            found.push(Authorizer::new(ForwardAuth::new(settings).map_err(wrong("forward"))?));
        }
        if let Some(list) = &self.any_of {
            found.push(Authorizer::any_of(several("any_of", list)?));
        }
        if let Some(list) = &self.all_of {
            found.push(Authorizer::all_of(several("all_of", list)?));
        }
        let place = || if place.is_empty() { "auth".to_owned() } else { place.to_owned() };
        let found = match <[Authorizer; 1]>::try_from(found) {
            Ok([found]) => found,
            Err(found) if found.is_empty() => {
                let what =
                    "it names no kind: bearer, jwt, cookie, basic, certificate, forward, any_of or all_of";
                return Err(SettingsError { place: place(), what: what.into() });
            }
            Err(_) => {
                let what = "it names several kinds: put them into `any_of` or `all_of`";
                return Err(SettingsError { place: place(), what: what.into() });
            }
        };
        match self.allow.clone() {
            None => Ok(found),
            Some(allow) if allow.subjects.is_empty() && allow.claims.is_empty() => {
                Err(wrong("allow")("it names nobody; leave it out to allow everybody".into()))
            }
            Some(allow) => Ok(found.only(move |identity| allow.lets(identity))),
        }
    }
}

macro_rules! of_a_kind {
    ($($settings:ident $field:ident)*) => {$(
        impl From<$settings> for Settings {
            fn from(settings: $settings) -> Self {
                Self { $field: Some(settings), ..Self::default() }
            }
        }
    )*};
}

#[cfg(feature = "tls")]
of_a_kind! { Certificate certificate }
of_a_kind! { Bearer bearer Jwt jwt Cookie cookie Basic basic Forward forward }

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(token: &str) -> Settings {
        Bearer { tokens: vec![token.into()], ..Bearer::default() }.into()
    }

    #[test]
    fn an_error_says_where_it_is() {
        let good = || bearer("alice:0123456789abcdef");
        let list = |list| Settings { any_of: Some(list), ..Settings::default() };
        let error = |settings: Settings| settings.build().unwrap_err().to_string();
        assert!(good().build().is_ok() && list(vec![good(), list(vec![good()])]).build().is_ok());
        assert!(error(Settings::default()).starts_with("auth: it names no kind"));
        assert!(error(Settings { basic: Some(Basic::default()), ..good() }).starts_with("basic: "));
        assert!(
            error(Settings { any_of: Some(vec![good()]), ..good() }).starts_with("auth: it names several")
        );
        assert!(error(list(vec![])).starts_with("any_of: the list is empty"));
        let inner = Settings { all_of: Some(vec![bearer("alice:short")]), ..Settings::default() };
        assert_eq!(
            error(list(vec![good(), inner])),
            "any_of[1].all_of[0].bearer: the token of alice is shorter than 16 bytes"
        );
        assert!(
            error(Settings { allow: Some(Allow::default()), ..good() }).starts_with("allow: it names nobody")
        );
    }

    #[test]
    fn all_that_is_asked_for_has_to_be_so() {
        let claims = BTreeMap::from([
            ("role".into(), vec!["admin".into(), "editor".into()]),
            ("scope".into(), vec!["chat".into()]),
        ]);
        let allow = Allow { subjects: vec!["alice".into()], claims };
        let identity = |name: &str, role: &str, scope: &str| {
            Identity::new("jwt").named(name).with("role", role).with("scope", scope)
        };
        assert!(allow.lets(&identity("alice", "editor", "read chat")));
        assert!(!allow.lets(&identity("bob", "editor", "chat")));
        assert!(!allow.lets(&identity("alice", "reader", "chat")));
        assert!(!allow.lets(&identity("alice", "admin", "chats")));
        assert!(!allow.lets(&Identity::new("jwt")));
    }

    #[test]
    fn what_is_shown_has_no_secrets_and_what_is_unknown_is_an_error() {
        let text = serde_json::to_string(&bearer("alice:0123456789abcdef")).unwrap();
        assert!(text.contains("[redacted]") && !text.contains("0123456789"), "{text}");
        for wrong in [r#"{"bearer":{"token":[]}}"#, r#"{"berer":{}}"#, r#"{"jwt":{"algorithm":"none"}}"#] {
            assert!(serde_json::from_str::<Settings>(wrong).is_err(), "{wrong}");
        }
    }
}
