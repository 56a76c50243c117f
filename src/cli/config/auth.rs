//! `auth` of a `[[route]]`: who may pass. What it can say is [`switchpoint::authorize::Settings`].

use serde::Deserialize;
use serde_json::Value;
use switchpoint::{
    Reason, Registry, Rejection, Request,
    authorize::{Authorize, Identity, Settings},
};
use toml::{
    Spanned,
    de::{DeValue, ValueDeserializer},
};

use super::{file::Reader, kind::quoted};

/// Reads it, and looks whether it can be meant. Files are read, names looked up.
pub(super) fn read(reader: &mut Reader<'_>, value: &Spanned<DeValue<'_>>) -> Option<Settings> {
    reader.table("route.auth", value)?;
    let at = reader.source(value);
    match Settings::deserialize(ValueDeserializer::from(value.clone())) {
        Ok(settings) => match settings.build() {
            Ok(_) => Some(settings),
            Err(error) => {
                let what = match error.place.as_str() {
                    "" | "auth" => format!("`route.auth`: {}", error.what),
                    place => format!("`route.auth.{place}`: {}", error.what),
                };
                reader.problem(what, at, HELP);
                None
            }
        },
        Err(error) => {
            let at = error.span().map_or(at, |span| reader.source_of(span));
            reader.problem(format!("`route.auth`: {}", without_value(error.message())), at, HELP);
            None
        }
    }
}

/// A message of serde's, which repeats a string of the wrong type.
fn without_value(message: &str) -> String {
    let message = message.trim_end();
    let repeats =
        message.starts_with("invalid type: string ") || message.starts_with("invalid value: string ");
    match message.rsplit_once(", expected ").filter(|_| repeats) {
        Some((_, expected)) => format!("a string was given, and it is {expected}"),
        None => message.to_owned(),
    }
}

const HELP: &str = "docs/authentication.md has all of it, with examples";

/// Guards `path`. What was there when the settings were read may be gone: then nobody passes.
pub(super) fn guard(registry: Registry, path: String, settings: &Settings) -> Registry {
    match settings.build() {
        Ok(authorizer) => registry.guard(path, authorizer),
        Err(error) => {
            tracing::error!(path, %error, "nobody can be let in");
            registry.guard(path, Closed)
        }
    }
}

/// Lets nobody pass.
struct Closed;

impl Authorize for Closed {
    async fn authorize(&self, _: &Request<'_>) -> Result<Identity, Rejection> {
        Err(Reason::Unavailable.into())
    }
}

/// As TOML, with secrets left out.
pub(super) fn show(settings: &Settings) -> String {
    serde_json::to_value(settings).map_or_else(|_| "{}".into(), |value| inline(&value))
}

fn inline(value: &Value) -> String {
    match value {
        Value::Null => "\"\"".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(entries) => {
            // TOML has no word for nothing.
            let entries = entries.iter().filter(|(_, value)| !value.is_null());
            let entries: Vec<String> =
                entries.map(|(key, value)| format!("{} = {}", key_of(key), inline(value))).collect();
            if entries.is_empty() { "{}".into() } else { format!("{{ {} }}", entries.join(", ")) }
        }
    }
}

fn key_of(key: &str) -> String {
    let is_bare =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if is_bare { key.to_owned() } else { quoted(key) }
}
