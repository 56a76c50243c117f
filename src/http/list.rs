//! The grammar that fields share (RFC 9110 section 5.6): tokens, lists, parameters.
//!
//! The one idea: a comma or semicolon inside a quoted-string is text, so every split asks first
//! whether a quote is open. Slices in, slices out; nothing here allocates but an escaped value.

use std::borrow::Cow;

/// Whether `text` is a token: one or more tchar (RFC 9110 section 5.6.2).
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_tchar)
}

pub(super) fn is_tchar(byte: u8) -> bool {
    TCHAR[usize::from(byte)]
}

const TCHAR: [bool; 256] = super::target::letters_digits_and(b"!#$%&'*+-.^_`|~");

/// The items of a `#rule` list, without whitespace around them and without empty ones (RFC 9110
/// section 5.6.1.2). An item that is not UTF-8 is left out: it is no name that anybody registered.
/// A quote that is never closed hides the rest of the value.
pub fn items(value: &[u8]) -> impl Iterator<Item = &str> {
    value
        .split(outside_quotes(b','))
        .filter_map(|item| str::from_utf8(item.trim_ascii()).ok())
        .filter(|item| !item.is_empty())
}

/// Takes `name; a; b=c; d="e"` apart: the name, and its parameters as they come.
///
/// This is the grammar of RFC 6455 section 9.1, where a parameter may lack a value but may not be
/// empty. Whether the name is known, or a parameter repeated, is for the caller to say.
pub fn parameters(item: &str) -> (&str, impl Iterator<Item = Result<Parameter<'_>, MalformedParameter>>) {
    let mut parts = item
        .as_bytes()
        .split(outside_quotes(b';'))
        .map(|part| str::from_utf8(part).map_err(|_| MalformedParameter));
    let name = parts.next().and_then(Result::ok).unwrap_or_default().trim_ascii();
    (name, parts.map(|part| Parameter::parse(part?)))
}

/// One parameter of a list item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    /// A token, as it was sent.
    pub name: &'a str,
    /// A token, or what a quoted-string stands for.
    pub value: Option<Cow<'a, str>>,
}

/// A parameter is neither `name`, `name=token` nor `name="text"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("A parameter is not `name`, `name=token` or `name=\"text\"`; mend it.")]
pub struct MalformedParameter;

impl<'a> Parameter<'a> {
    fn parse(part: &'a str) -> Result<Self, MalformedParameter> {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_ascii(), Some(value.trim_ascii())),
            None => (part.trim_ascii(), None),
        };
        let value = match value {
            Some(token) if is_token(token) => Some(Cow::Borrowed(token)),
            Some(quoted) => Some(unquote(quoted).ok_or(MalformedParameter)?),
            None => None,
        };
        if is_token(name) { Ok(Self { name, value }) } else { Err(MalformedParameter) }
    }
}

fn unquote(quoted: &str) -> Option<Cow<'_, str>> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains(['"', '\\']) {
        return Some(Cow::Borrowed(inner));
    }
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => return None,
            '\\' => text.push(chars.next()?),
            _ => text.push(char),
        }
    }
    Some(Cow::Owned(text))
}

/// Says of one byte after the other whether it is a `delimiter` outside of quotes.
fn outside_quotes(delimiter: u8) -> impl FnMut(&u8) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    move |&byte| {
        let literal = std::mem::take(&mut escaped);
        match byte {
            _ if literal => false,
            b'\\' if quoted => {
                escaped = true;
                false
            }
            b'"' => {
                quoted = !quoted;
                false
            }
            _ => byte == delimiter && !quoted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_of_tchar_only() {
        assert!(is_token("Sec-WebSocket-Key") && is_token("!#$%&'*+-.^_`|~0aZ"));
        for not in ["", "a b", "a,", "a/1", "\"a\"", "é", "a\t", "a:", "{a}"] {
            assert!(!is_token(not), "{not}");
        }
    }

    #[test]
    fn a_list_is_split_at_the_commas_that_no_quote_hides() {
        let items = |value: &'static str| items(value.as_bytes()).collect::<Vec<_>>();
        assert_eq!(items("foo/1, websocket"), ["foo/1", "websocket"]);
        assert_eq!(items(" ,\t, a ,,b,"), ["a", "b"]);
        assert_eq!(items("a;b=\"c, d\", e"), ["a;b=\"c, d\"", "e"]);
        assert_eq!(items("a=\"\\\", b\", c"), ["a=\"\\\", b\"", "c"]);
        assert_eq!(items("a\\, b"), ["a\\", "b"], "no escape outside of quotes");
        assert_eq!(items("a\", b"), ["a\", b"]);
        assert!(items("").is_empty() && items(" , ,").is_empty());
        assert_eq!(super::items(b"\xff, a").collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn parameters_come_with_and_without_values() {
        let item = "permessage-deflate ; a; b=10;c = \"d;\\\"e\"";
        let (name, parameters) = parameters(item);
        let parameters: Vec<_> = parameters.map(Result::unwrap).collect();
        let pairs: Vec<_> = parameters.iter().map(|p| (p.name, p.value.as_deref())).collect();
        assert_eq!(name, "permessage-deflate");
        assert_eq!(pairs, [("a", None), ("b", Some("10")), ("c", Some("d;\"e"))]);
    }

    #[test]
    fn malformed_parameters_are_said_to_be() {
        for item in [
            "x;",
            "x;;a",
            "x;a=",
            "x;a=b c",
            "x;=b",
            "x;a=\"",
            "x;a=\"b",
            "x;a=\"b\\\"",
            "x;a=\"b\"c\"",
            "x;a b",
        ] {
            let (name, mut parameters) = parameters(item);
            assert_eq!(name, "x");
            assert_eq!(parameters.next(), Some(Err(MalformedParameter)), "{item}");
        }
        assert_eq!(parameters("").0, "");
    }
}
