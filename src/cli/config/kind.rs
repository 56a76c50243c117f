//! What a value can be: how it is read, from a file or from text, and how it is written.

use std::time::Duration;

use switchpoint::{Network, protocols::websocket::Origins};
use toml::de::DeValue;
use tracing_subscriber::EnvFilter;

/// A value as it was given.
pub(super) enum Given<'a> {
    /// By a file, where it has a type.
    Toml(&'a DeValue<'a>),
    /// By the environment or a flag, where everything is text.
    Text(&'a str),
}

/// What is wrong with a value, and what would be right.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) help: String,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), help: help.into() }
    }
}

/// Reads a value.
type Read<T> = dyn Fn(&Given<'_>) -> Result<T, Wrong>;

/// A kind of value.
pub(super) struct Kind<T> {
    pub(super) read: Box<Read<T>>,
    /// As TOML.
    pub(super) show: Box<dyn Fn(&T) -> String>,
}

/// A number of bytes, from `least` to `most`.
pub(super) fn size<T>(least: u64, most: u64) -> Kind<T>
where
    T: TryFrom<u64> + TryInto<u64> + Copy,
{
    const HELP: &str = "write a number of bytes, such as 65536, or \"64KiB\" or \"16MiB\" in quotes";
    let read = move |given: &Given<'_>| {
        let size = match given {
            Given::Toml(DeValue::Integer(_)) => integer(given, HELP)?,
            Given::Toml(DeValue::String(text)) => parse_size(text, HELP)?,
            Given::Toml(other) => return Err(unexpected("a size", other, HELP)),
            Given::Text(text) => parse_size(text, HELP)?,
        };
        within(size, least, most, show_size)
    };
    Kind { read: Box::new(read), show: Box::new(|size| quoted_unless_number(show_size(to_u64(*size)))) }
}

fn parse_size(text: &str, help: &str) -> Result<u64, Wrong> {
    parse_size::parse_size(text).map_err(|_| Wrong::new(format!("`{text}` is not a size"), help))
}

fn show_size(size: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if size > 0 && size.is_multiple_of(1 << shift) {
            return format!("{}{unit}", size >> shift);
        }
    }
    size.to_string()
}

fn quoted_unless_number(text: String) -> String {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text } else { format!("\"{text}\"") }
}

/// A number, from `least` to `most`.
pub(super) fn count<T>(least: u64, most: u64) -> Kind<T>
where
    T: TryFrom<u64> + TryInto<u64> + Copy,
{
    const HELP: &str = "write a whole number, such as 100";
    let read = move |given: &Given<'_>| {
        let count = match given {
            Given::Toml(DeValue::Integer(_)) => integer(given, HELP)?,
            Given::Toml(other) => return Err(unexpected("a number", other, HELP)),
            Given::Text(text) => {
                text.parse().map_err(|_| Wrong::new(format!("`{text}` is not a number"), HELP))?
            }
        };
        within(count, least, most, |count| count.to_string())
    };
    Kind { read: Box::new(read), show: Box::new(|count| to_u64(*count).to_string()) }
}

/// A time, of `least` or more.
pub(super) fn time(least: Duration) -> Kind<Duration> {
    Kind { read: Box::new(move |given| read_time(given, least, TIME)), show: Box::new(show_time) }
}

/// A time, or `never`.
pub(super) fn time_or_never(least: Duration) -> Kind<Duration> {
    let read = move |given: &Given<'_>| match given {
        Given::Toml(DeValue::String(text)) if text == NEVER => Ok(Duration::MAX),
        Given::Text(NEVER) => Ok(Duration::MAX),
        _ => read_time(
            given,
            least,
            "write a number and its unit in quotes, such as \"90s\" or \"1h\", or \"never\"",
        ),
    };
    Kind { read: Box::new(read), show: Box::new(show_time) }
}

const NEVER: &str = "never";
const TIME: &str = "write a number and its unit in quotes, such as \"250ms\", \"10s\", \"5m\" or \"1h\"";
/// Beyond it the milliseconds that the server counts in would not be exact.
const TIME_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn read_time(given: &Given<'_>, least: Duration, help: &str) -> Result<Duration, Wrong> {
    let text = match given {
        Given::Toml(DeValue::String(text)) => text.as_ref(),
        Given::Toml(DeValue::Integer(number)) => {
            let help = format!(
                "a time has a unit: write \"{number}s\" for seconds, or \"{number}ms\", \"{number}m\", \"{number}h\""
            );
            return Err(Wrong::new("a number alone is no time", help));
        }
        Given::Toml(other) => return Err(unexpected("a time", other, help)),
        Given::Text(text) => text,
    };
    let time = humantime::parse_duration(text).map_err(|_| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let why = if is_number { " without a unit" } else { "" };
        Wrong::new(format!("`{text}` is not a time{why}"), help)
    })?;
    if time < least {
        let least = humantime::format_duration(least);
        return Err(Wrong::new(format!("`{text}` is too short"), format!("it has to be at least {least}")));
    }
    if time > TIME_MAX {
        return Err(Wrong::new(format!("`{text}` is too long"), "it can be at most 100 years"));
    }
    Ok(time)
}

fn show_time(time: &Duration) -> String {
    match *time {
        Duration::MAX => format!("\"{NEVER}\""),
        time => format!("\"{}\"", humantime::format_duration(time)),
    }
}

/// Yes or no.
pub(super) fn switch() -> Kind<bool> {
    const HELP: &str = "write true or false";
    let read = |given: &Given<'_>| match given {
        Given::Toml(DeValue::Boolean(value)) => Ok(*value),
        Given::Toml(other) => Err(unexpected("true or false", other, HELP)),
        Given::Text(text) => {
            text.parse().map_err(|_| Wrong::new(format!("`{text}` is neither true nor false"), HELP))
        }
    };
    Kind { read: Box::new(read), show: Box::new(bool::to_string) }
}

/// One of some words.
pub(super) fn word<T: Copy + PartialEq>(words: &'static [(&'static str, T)]) -> Kind<T> {
    let read = |given: &Given<'_>| {
        let text = text(given, "a word", &one_of(words.iter().map(|(word, _)| *word)))?;
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let known = words.iter().map(|(word, _)| *word);
            let help = nearest(&text, known.clone())
                .map_or_else(|| one_of(known), |near| format!("did you mean \"{near}\"?"));
            Wrong::new(format!("there is no `{text}`"), help)
        })
    };
    let show = |value: &T| {
        let word = words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word);
        format!("\"{word}\"")
    };
    Kind { read: Box::new(read), show: Box::new(show) }
}

pub(super) fn one_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    format!("it is one of {}", words.join(", "))
}

/// How much is logged.
pub(super) fn filter() -> Kind<String> {
    let read = |given: &Given<'_>| {
        let help = "write error, warn, info, debug or trace, or a filter such as \"switchpoint=debug\"";
        let text = text(given, "a level", help)?;
        match EnvFilter::try_new(&text) {
            Ok(_) => Ok(text),
            Err(error) => Err(Wrong::new(format!("`{text}` is not a level: {error}"), help)),
        }
    };
    Kind { read: Box::new(read), show: Box::new(|text: &String| quoted(text)) }
}

/// Whose pages may connect.
pub(super) fn origins() -> Kind<Origins> {
    let read = |given: &Given<'_>| {
        let help =
            "write a list such as [\"https://example.org\", \"http://localhost:3000\"], or [\"*\"] for all";
        let list: Vec<String> = match given {
            Given::Text(text) => items(text),
            Given::Toml(value) => strings(value, "a list of origins", help)?,
        };
        if list.iter().any(|origin| origin == "*") {
            return if list.len() == 1 {
                Ok(Origins::Any)
            } else {
                Err(Wrong::new(
                    "`*` allows all, so the others have no effect",
                    "leave the `*` out, or the others",
                ))
            };
        }
        if let Some(origin) = list.iter().find(|origin| !is_origin(origin)) {
            return Err(Wrong::new(
                format!("`{origin}` is not an origin"),
                "an origin is a scheme and a host, with a port if it is not the scheme's own, and no path: \
                 https://example.org",
            ));
        }
        Ok(if list.is_empty() { Origins::SameHost } else { Origins::List(list) })
    };
    let show = |origins: &Origins| match origins {
        Origins::SameHost => "[]".into(),
        Origins::Any => "[\"*\"]".into(),
        Origins::List(list) => show_list(list.iter().map(String::as_str)),
    };
    Kind { read: Box::new(read), show: Box::new(show) }
}

/// Networks of addresses.
pub(super) fn networks() -> Kind<Vec<Network>> {
    let show = |networks: &Vec<Network>| {
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        show_list(networks.iter().map(String::as_str))
    };
    Kind { read: Box::new(read_networks), show: Box::new(show) }
}

fn read_networks(given: &Given<'_>) -> Result<Vec<Network>, Wrong> {
    const HELP: &str = "write a list such as [\"10.0.0.0/8\", \"fd00::/8\", \"127.0.0.1\"]";
    let list: Vec<String> = match given {
        Given::Text(text) => items(text),
        Given::Toml(value) => strings(value, "a list of networks", HELP)?,
    };
    let network = |text: &String| {
        text.parse().map_err(|fault| Wrong::new(format!("`{text}` is no network: {fault}"), HELP))
    };
    list.iter().map(network).collect()
}

fn is_origin(text: &str) -> bool {
    if text == "null" {
        return true; // of pages that have none; whoever lists it knows why
    }
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let is_host = |host: &str| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ', '"', '*']);
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && is_host(host.strip_suffix('/').unwrap_or(host))
}

/// A list in text.
pub(super) fn items(text: &str) -> Vec<String> {
    text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// A list in TOML.
pub(super) fn show_list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let items: Vec<String> = items.map(quoted).collect();
    format!("[{}]", items.join(", "))
}

/// A string in TOML.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => quoted.push_str(&format!("\\u{:04X}", char as u32)),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

/// A string, whichever way it was given.
pub(super) fn text(given: &Given<'_>, what: &str, help: &str) -> Result<String, Wrong> {
    match given {
        Given::Text(text) => Ok((*text).to_owned()),
        Given::Toml(DeValue::String(text)) => Ok(text.clone().into_owned()),
        Given::Toml(other) => Err(unexpected(what, other, help)),
    }
}

/// A list of strings.
pub(super) fn strings(value: &DeValue<'_>, what: &str, help: &str) -> Result<Vec<String>, Wrong> {
    let DeValue::Array(items) = value else { return Err(unexpected(what, value, help)) };
    let mut list = Vec::new();
    for item in items.iter() {
        match item.get_ref() {
            DeValue::String(text) => list.push(text.clone().into_owned()),
            other => return Err(unexpected("a string", other, help)),
        }
    }
    Ok(list)
}

pub(super) fn unexpected(what: &str, found: &DeValue<'_>, help: &str) -> Wrong {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Wrong::new(format!("it is {what}, and {found} was given"), help)
}

/// A whole number that is not negative; beyond what can be held it is the largest.
fn integer(given: &Given<'_>, help: &str) -> Result<u64, Wrong> {
    let Given::Toml(DeValue::Integer(integer)) = given else {
        return Err(Wrong::new("it is a number", help));
    };
    if integer.as_str().starts_with('-') {
        return Err(Wrong::new(format!("{integer} is too small"), "it cannot be negative"));
    }
    Ok(u64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(u64::MAX))
}

fn within<T: TryFrom<u64>>(
    value: u64,
    least: u64,
    most: u64,
    show: impl Fn(u64) -> String,
) -> Result<T, Wrong> {
    let range = || match most {
        u64::MAX => format!("it has to be at least {}", show(least)),
        most => format!("it has to be from {} to {}", show(least), show(most)),
    };
    if value < least {
        return Err(Wrong::new(format!("{} is too small", show(value)), range()));
    }
    match T::try_from(value) {
        Ok(fitting) if value <= most => Ok(fitting),
        _ => Err(Wrong::new(format!("{} is too large", show(value)), range())),
    }
}

fn to_u64<T: TryInto<u64>>(value: T) -> u64 {
    value.try_into().unwrap_or(u64::MAX)
}

/// The known word that was probably meant.
pub(super) fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_lowercase().replace('-', "_");
    let distance = |known: &str| strsim::normalized_damerau_levenshtein(&text, known);
    let best = known.map(|known| (distance(known), known)).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(likeness, _)| *likeness >= 0.6).map(|(_, known)| known)
}
