//! The field lines of a head, looked up by name.
//!
//! A name is compared without case; a value is bytes without the whitespace around it. Lines of one
//! name are one list (RFC 9110 section 5.3), so [`Fields::tokens`] reads them all, in order; a name
//! that may come only once is asked for with [`Fields::only`].

use super::list;

/// The field lines of one head, in the order they came. Lookups walk it: a head has few lines, and
/// the limit on them bounds the walk.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a> {
    lines: Vec<httparse::Header<'a>>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(lines: Vec<httparse::Header<'a>>) -> Self {
        Self { lines }
    }

    /// The value of the first line called `name`.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The same, if it is UTF-8. Control characters other than HTAB never get this far.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        str::from_utf8(self.get(name)?).ok()
    }

    /// The values of all lines called `name`.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// How many lines are called `name`.
    pub fn count(&self, name: &str) -> usize {
        self.all(name).count()
    }

    /// The value of the one line called `name`, where a second would leave open which counts.
    pub fn only(&self, name: &str) -> Result<Option<&'a [u8]>, Repeated> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() { Err(Repeated) } else { Ok(first) }
    }

    /// The items of the list that all lines called `name` make together. A quoted-string ends with
    /// its line at the latest.
    pub fn tokens(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.all(name).flat_map(list::items)
    }

    /// Whether that list has `token` in it, in any case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|item| item.eq_ignore_ascii_case(token))
    }

    /// Every line: its name as it was sent, and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.lines.iter().map(|line| (line.name, line.value))
    }
}

/// A field that may come once came again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("A field that may be sent once was repeated; send exactly one.")]
pub struct Repeated;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields<'static> {
        let line = |name, value| httparse::Header { name, value };
        Fields::new(vec![
            line("Upgrade", b"foo/1, \"a, b\""),
            line("Host", b"a"),
            line("UPGRADE", b"websocket,"),
            line("X-Latin", b"caf\xe9"),
            line("X-Empty", b""),
        ])
    }

    #[test]
    fn a_name_is_found_in_any_case_and_the_first_line_counts() {
        assert_eq!(fields().get("upgrade"), Some(&b"foo/1, \"a, b\""[..]));
        assert_eq!(fields().text("HOST"), Some("a"));
        assert_eq!(fields().get("x-empty"), Some(&b""[..]));
        assert_eq!((fields().get("x-none"), fields().count("x-none")), (None, 0));
        assert_eq!((fields().count("Upgrade"), fields().iter().count()), (2, 5));
    }

    #[test]
    fn text_is_only_what_is_utf_8() {
        assert_eq!(fields().text("X-Latin"), None);
        assert_eq!(fields().get("X-Latin"), Some(&b"caf\xe9"[..]));
    }

    #[test]
    fn lines_of_one_name_are_one_list() {
        assert_eq!(fields().tokens("upgrade").collect::<Vec<_>>(), ["foo/1", "\"a, b\"", "websocket"]);
        assert!(fields().has_token("Upgrade", "WebSocket"));
        assert!(!fields().has_token("Upgrade", "foo") && !fields().has_token("Upgrade", "b"));
    }

    #[test]
    fn only_refuses_to_choose_between_two_lines() {
        assert_eq!(fields().only("host"), Ok(Some(&b"a"[..])));
        assert_eq!(fields().only("x-none"), Ok(None));
        assert_eq!(fields().only("upgrade"), Err(Repeated));
    }
}
