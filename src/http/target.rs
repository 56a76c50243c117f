//! What a request asks for: the four forms of a request target (RFC 9112 section 3.2).
//!
//! The method chooses the form: CONNECT names an authority, OPTIONS may name the whole server with
//! `*`, all others name a resource. We ask for printable ASCII without `#`, which RFC 3986 never
//! lets through unencoded, and leave `|`, `^` and their like in peace, because browsers send them.

use super::HeadFault;

/// A request target, taken apart and as it was sent (`raw`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `/chat?a=b`, what nearly everyone sends.
    Origin {
        /// All of it.
        raw: &'a str,
        /// From its first slash, still encoded.
        path: &'a str,
        /// What follows the first `?`.
        query: Option<&'a str>,
    },
    /// `http://a/chat?a=b`, meant for a proxy; a server has to accept it too.
    Absolute {
        /// All of it.
        raw: &'a str,
        /// As it was sent, in any case.
        scheme: &'a str,
        /// `host[:port]`, which wins over the Host field (RFC 9112 section 3.2.2).
        authority: &'a str,
        /// `/` where none was sent.
        path: &'a str,
        /// What follows the first `?`.
        query: Option<&'a str>,
    },
    /// `host:port`, with CONNECT only.
    Authority(&'a str),
    /// `*`, with OPTIONS only.
    Asterisk,
}

impl<'a> Target<'a> {
    pub(super) fn parse(method: &str, raw: &'a str) -> Result<Self, HeadFault> {
        let target = match method {
            "CONNECT" => connect(raw),
            "OPTIONS" if raw == "*" => Some(Self::Asterisk),
            _ if raw.starts_with('/') => {
                let (path, query) = split_query(raw);
                Some(Self::Origin { raw, path, query })
            }
            _ => absolute(raw),
        };
        target.filter(|_| is_printable(raw)).ok_or(HeadFault::InvalidTarget)
    }

    /// The path, still encoded. `*` for the whole server and nothing for an authority, so that
    /// neither is taken for a resource.
    pub fn path(&self) -> &'a str {
        match *self {
            Self::Origin { path, .. } | Self::Absolute { path, .. } => path,
            Self::Authority(_) => "",
            Self::Asterisk => "*",
        }
    }

    /// The query, still encoded, without its `?`.
    pub fn query(&self) -> Option<&'a str> {
        match *self {
            Self::Origin { query, .. } | Self::Absolute { query, .. } => query,
            Self::Authority(_) | Self::Asterisk => None,
        }
    }

    /// The target as it was sent.
    pub fn raw(&self) -> &'a str {
        match *self {
            Self::Origin { raw, .. } | Self::Absolute { raw, .. } | Self::Authority(raw) => raw,
            Self::Asterisk => "*",
        }
    }
}

pub(crate) fn is_printable(target: &str) -> bool {
    target.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

/// RFC 9110 section 9.3.6: there is no default port, and an invalid one must be refused.
fn connect(raw: &str) -> Option<Target<'_>> {
    let ported = split_port(raw).1.is_some_and(|port| !port.is_empty());
    (ported && is_authority(raw)).then_some(Target::Authority(raw))
}

fn absolute(raw: &str) -> Option<Target<'_>> {
    let (scheme, rest) = raw.split_once("://")?;
    let in_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(in_scheme) {
        return None;
    }
    // Userinfo is refused with the rest of what is no authority (RFC 9110 section 4.2.4).
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = split_query(rest);
    let path = if path.is_empty() { "/" } else { path };
    is_authority(authority).then_some(Target::Absolute { raw, scheme, authority, path, query })
}

fn split_query(path: &str) -> (&str, Option<&str>) {
    path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)))
}

/// Whether this is `uri-host [ ":" port ]` (RFC 3986 section 3.2). An empty host is refused, though
/// RFC 9112 section 3.2 has it for targets without an authority: http never lacks one, and what no
/// route can match should not reach the routes. IPvFuture and zone ids are refused; nobody can
/// connect with them.
pub(crate) fn is_authority(text: &str) -> bool {
    let (host, port) = split_port(text);
    let host_is_valid = match host.strip_prefix('[') {
        Some(literal) => literal.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => is_reg_name(host),
    };
    host_is_valid && port.is_none_or(is_port)
}

/// Takes the port off, which follows the last colon that is outside of an IPv6 literal.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.bytes().rposition(|byte| matches!(byte, b':' | b']')) {
        Some(at) if authority.as_bytes()[at] == b':' => (&authority[..at], Some(&authority[at + 1..])),
        _ => (authority, None),
    }
}

/// A port may be empty (RFC 3986 section 3.2.3). `parse` alone would let `+80` pass.
fn is_port(port: &str) -> bool {
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    digits && (port.is_empty() || port.parse::<u16>().is_ok())
}

/// A registered name; every IPv4 address is one by its looks.
fn is_reg_name(host: &str) -> bool {
    let plain = |b: u8| PLAIN[usize::from(b)];
    if host.bytes().all(plain) {
        return !host.is_empty();
    }
    let mut parts = host.split('%').map(str::as_bytes);
    parts.next().is_some_and(|first| first.iter().all(|&b| plain(b)))
        && parts.all(|part| match part {
            [a, b, rest @ ..] => {
                a.is_ascii_hexdigit() && b.is_ascii_hexdigit() && rest.iter().all(|&b| plain(b))
            }
            _ => false,
        })
}

/// What stands in a registered name as it is (RFC 3986 3.2.2).
const PLAIN: [bool; 256] = letters_digits_and(b"-._~!$&'()*+,;=");

/// The bytes of a class, by their value: a look for each instead of a search.
pub(super) const fn letters_digits_and(mut marks: &[u8]) -> [bool; 256] {
    let mut class = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        class[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    while let [mark, rest @ ..] = marks {
        class[*mark as usize] = true;
        marks = rest;
    }
    class
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_taken_apart() {
        let parts = |method, raw| {
            let target = Target::parse(method, raw).unwrap();
            assert_eq!(target.raw(), raw);
            (target.path(), target.query())
        };
        assert_eq!(parts("GET", "/chat?a=b?c"), ("/chat", Some("a=b?c")));
        assert_eq!(parts("GET", "/"), ("/", None));
        assert_eq!(parts("GET", "//a/../b?"), ("//a/../b", Some("")));
        assert_eq!(parts("GET", "/caf%C3%A9|{}"), ("/caf%C3%A9|{}", None));
        assert_eq!(parts("GET", "http://a:80/b?c"), ("/b", Some("c")));
        assert_eq!(parts("GET", "ws://a"), ("/", None));
        assert_eq!(parts("GET", "http://a?b/c"), ("/", Some("b/c")));
        assert_eq!(parts("OPTIONS", "*"), ("*", None));
        assert_eq!(parts("OPTIONS", "/a"), ("/a", None));
        assert_eq!(parts("CONNECT", "a:443"), ("", None));
        let absolute = Target::parse("GET", "Http://[::1]:8/").unwrap();
        assert!(matches!(absolute, Target::Absolute { scheme: "Http", authority: "[::1]:8", .. }));
    }

    #[test]
    fn a_form_that_the_method_does_not_take_is_invalid() {
        let invalid = [
            ("GET", "*"),
            ("GET", "a:443"),
            ("GET", "a"),
            ("GET", "?a"),
            ("GET", "urn:a"),
            ("OPTIONS", "**"),
            ("CONNECT", "/"),
            ("CONNECT", "a"),
            ("CONNECT", "a:"),
            ("CONNECT", "a:65536"),
            ("CONNECT", "http://a:1"),
            ("CONNECT", ":443"),
            ("GET", "http://"),
            ("GET", "http:///a"),
            ("GET", "http://u@a/"),
            ("GET", "1http://a/"),
            ("GET", "://a/"),
            ("GET", "http://a:x/"),
            ("GET", "/a#b"),
            ("GET", "/a b"),
            ("GET", "/\u{e9}"),
            ("GET", "/\x7f"),
            ("GET", "http://a/#b"),
        ];
        for (method, raw) in invalid {
            assert_eq!(Target::parse(method, raw), Err(HeadFault::InvalidTarget), "{method} {raw}");
        }
    }

    #[test]
    fn an_authority_is_a_host_with_or_without_a_port() {
        for valid in [
            "a",
            "a.example:80",
            "127.0.0.1:0",
            "[::1]",
            "[2001:db8::1.2.3.4]:443",
            "a:",
            "a_b",
            "%41b",
            "a:00080",
        ] {
            assert!(is_authority(valid), "{valid}");
        }
        for invalid in [
            "",
            ":80",
            "a b",
            "a/b",
            "a@b",
            "a:b",
            "a:80:80",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]x:80",
            "[v1.a]",
            "[fe80::1%25eth0]",
            "[1.2.3.4]",
            "a:+80",
            "a:65536",
            "%4",
            "%4g",
            "a%",
            "a?",
            "a#",
            "a\t",
            "[]",
            "]",
            "a]:80",
            "é",
        ] {
            assert!(!is_authority(invalid), "{invalid}");
        }
    }
}
