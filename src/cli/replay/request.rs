//! The recorded request, made fit for another server: its host, and what may not be recorded.

use switchpoint::ws::opening::Url;

/// What is sent, and what was missing from the record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) bytes: Vec<u8>,
    /// Fields whose values were redacted, and not given anew.
    pub(super) redacted: Vec<String>,
}

/// The recorded bytes, with the URL's host, its path if it has one, and `fields` in place of those of the same name.
pub(super) fn adapt(recorded: &[u8], redacted: &[usize], url: &Url, fields: &[(String, String)]) -> Request {
    let end = memchr::memmem::find(recorded, b"\r\n\r\n").map_or(recorded.len(), |end| end + 2);
    let (head, rest) = recorded.split_at(end);
    let is_given = |name: &str| fields.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    let mut bytes = Vec::new();
    let mut missing = Vec::new();
    let mut at = 0;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let is_redacted = redacted.iter().any(|place| (at..at + line.len()).contains(place));
        let is_first = at == 0;
        at += line.len();
        if is_first {
            bytes.extend(request_line(line, url));
            if is_redacted && url.target() == "/" {
                missing.push("the target".to_owned());
            }
            continue;
        }
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        if is_given(&name) {
            continue;
        }
        if name.eq_ignore_ascii_case("host") {
            bytes.extend_from_slice(format!("{name}: {}\r\n", url.authority()).as_bytes());
            continue;
        }
        if is_redacted {
            missing.push(name);
        }
        bytes.extend_from_slice(line);
    }
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(rest);
    Request { bytes, redacted: missing }
}

/// With the URL's target, unless that is only `/`.
fn request_line(line: &[u8], url: &Url) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    if url.target() != "/" && parts.len() == 3 {
        parts[1] = url.target().as_bytes();
    }
    parts.join(&b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &[u8] =
        b"GET /a?t=* HTTP/1.1\r\nHost: old:1\r\nCookie: ***\r\nX-A: 1\r\n\r\nearly\r\nHost: kept";

    fn adapted(url: &str, fields: &[(&str, &str)]) -> (String, Vec<String>) {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let cookie = memchr::memmem::find(RECORDED, b"***").unwrap();
        let request = adapt(RECORDED, &[9, cookie], &url.parse().unwrap(), &fields);
        (String::from_utf8(request.bytes).unwrap(), request.redacted)
    }

    #[test]
    fn the_host_is_the_urls_and_the_rest_stays() {
        let (request, redacted) = adapted("ws://new:2", &[]);
        let expected =
            "GET /a?t=* HTTP/1.1\r\nHost: new:2\r\nCookie: ***\r\nX-A: 1\r\n\r\nearly\r\nHost: kept";
        assert_eq!(request, expected);
        assert_eq!(redacted, ["the target", "Cookie"]);
    }

    #[test]
    fn what_is_given_takes_the_place_of_what_was_recorded() {
        let (request, redacted) = adapted("ws://new/b?t=1", &[("cookie", "a=b"), ("X-B", "2")]);
        let expected =
            "GET /b?t=1 HTTP/1.1\r\nHost: new\r\nX-A: 1\r\ncookie: a=b\r\nX-B: 2\r\n\r\nearly\r\nHost: kept";
        assert_eq!(request, expected);
        assert_eq!(redacted, Vec::<String>::new());
    }
}
