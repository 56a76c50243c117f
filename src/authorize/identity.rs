//! Who asks, as an authorizer has found.

use std::fmt;

use serde_json::{Map, Value};

/// Who asks: a subject, and what is claimed of it by somebody who is trusted.
#[derive(Clone, PartialEq)]
pub struct Identity {
    by: &'static str,
    subject: Option<String>,
    claims: Map<String, Value>,
}

impl Identity {
    /// Somebody whose name is not known; `by` says how it was found, such as `jwt`.
    pub fn new(by: &'static str) -> Self {
        Self { by, subject: None, claims: Map::new() }
    }

    /// Gives the subject's name.
    pub fn named(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Adds a claim.
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }

    /// With these claims, and no others.
    pub fn with_claims(mut self, claims: Map<String, Value>) -> Self {
        self.claims = claims;
        self
    }

    /// How it was found: `bearer`, `jwt`, `cookie`, `basic`, `certificate`, `forward`, or a name of yours.
    pub fn by(&self) -> &'static str {
        self.by
    }

    /// The subject's name.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// A claim, as it was made.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.claims.get(name)
    }

    /// All that is claimed.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// Whether the claim `name` is `value` or has it in its list; a text is also a list of words, as `scope` is
    /// (RFC 8693 4.2).
    pub fn has(&self, name: &str, value: &str) -> bool {
        match self.claims.get(name) {
            Some(Value::String(text)) => text == value || text.split(' ').any(|word| word == value),
            Some(Value::Array(list)) => list.iter().any(|item| item.as_str() == Some(value)),
            Some(Value::Bool(flag)) => value == if *flag { "true" } else { "false" },
            Some(Value::Number(number)) => number.to_string() == value,
            _ => false,
        }
    }

    /// Both, where both are needed: the first name counts, and of each claim the first.
    pub(super) fn and(mut self, other: Self) -> Self {
        if self.subject.is_none() {
            (self.by, self.subject) = (other.by, other.subject);
        }
        for (name, value) in other.claims {
            self.claims.entry(name).or_insert(value);
        }
        self
    }
}

impl fmt::Debug for Identity {
    /// Without the claims, which are nobody else's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("by", &self.by)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_a_value_a_list_or_words() {
        let identity = Identity::new("jwt")
            .with("role", "admin")
            .with("groups", vec!["a", "b c"])
            .with("scope", "read write")
            .with("verified", true)
            .with("level", 3)
            .with("address", serde_json::json!({ "city": "x" }));
        for (name, value) in [
            ("role", "admin"),
            ("groups", "a"),
            ("groups", "b c"),
            ("scope", "write"),
            ("scope", "read write"),
            ("verified", "true"),
            ("level", "3"),
        ] {
            assert!(identity.has(name, value), "{name} {value}");
        }
        for (name, value) in [
            ("role", "adm"),
            ("role", ""),
            ("groups", "b"),
            ("verified", "false"),
            ("address", "x"),
            ("none", ""),
        ] {
            assert!(!identity.has(name, value), "{name} {value}");
        }
    }

    #[test]
    fn of_two_the_first_name_counts_and_neither_shows_its_claims() {
        let first = Identity::new("certificate").with("role", "a");
        let both = first.and(Identity::new("jwt").named("alice").with("role", "b").with("secret", "hidden"));
        assert_eq!((both.by(), both.subject()), ("jwt", Some("alice")));
        assert!(both.has("role", "a") && !both.has("role", "b"));
        assert!(!format!("{both:?}").contains("hidden"));
    }
}
