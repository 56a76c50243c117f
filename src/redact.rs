//! What may be shown of a request to others: to who reads the log, a trace, or the page.
//!
//! A trace is for the operator, and keeps every length: a secret is replaced byte by byte. A field is a secret's by its
//! name; a value of a query also by its length, since a name such as `t` tells nothing.

use std::ops::Range;

/// A secret that was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redacted {
    /// The field's name in lower case, or `query` and the parameter's name.
    pub(crate) what: String,
    /// Where it was, in bytes.
    pub(crate) place: Range<usize>,
}

/// Replaces the secrets of a request's or an answer's head by `*`, each by as many, and says where.
pub(crate) fn head(bytes: &mut [u8]) -> Vec<Redacted> {
    let mut found = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let length = bytes[start..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - start);
        let line = start..start + length;
        if bytes[line.clone()].trim_ascii().is_empty() && start > 0 {
            break; // what follows the head is no field
        }
        if start == 0 {
            target(bytes, line.clone(), &mut found);
        } else {
            field(bytes, line.clone(), &mut found);
        }
        start = line.end + 1;
    }
    for Redacted { place, .. } in &found {
        bytes[place.clone()].fill(b'*');
    }
    found
}

fn field(bytes: &[u8], line: Range<usize>, found: &mut Vec<Redacted>) {
    let text = &bytes[line.clone()];
    let Some(colon) = text.iter().position(|byte| *byte == b':') else { return };
    let name = String::from_utf8_lossy(&text[..colon]).to_ascii_lowercase();
    if !is_secret(&name) {
        return;
    }
    let value = &text[colon + 1..];
    let mut start = line.start + colon + 1 + (value.len() - value.trim_ascii_start().len());
    let end = line.start + colon + 1 + value.trim_ascii_end().len();
    if name.ends_with("authorization")
        && let Some(space) = bytes[start..end.max(start)].iter().position(|byte| *byte == b' ')
    {
        start += space + 1; // the scheme is nobody's secret
    }
    if start < end {
        found.push(Redacted { what: name, place: start..end });
    }
}

/// The query of the request line.
fn target(bytes: &[u8], line: Range<usize>, found: &mut Vec<Redacted>) {
    let text = &bytes[line.clone()];
    let Some(question) = text.iter().position(|byte| *byte == b'?') else { return };
    let end = text[question..].iter().position(|byte| *byte == b' ').map_or(text.len(), |end| question + end);
    let mut start = question + 1;
    for pair in text[start..end].split(|byte| matches!(byte, b'&' | b';')) {
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (name, value_at) = equals.map_or((&pair[..0], 0), |equals| (&pair[..equals], equals + 1));
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let value = &pair[value_at..];
        if !value.is_empty() && (is_secret(&name) || value.len() > QUERY_SHOWN) {
            let at = line.start + start + value_at;
            found.push(Redacted {
                what: format!("query {name}").trim_end().to_owned(),
                place: at..at + value.len(),
            });
        }
        start += pair.len() + 1;
    }
}

/// Whether a name, in lower case, is one of a secret.
fn is_secret(name: &str) -> bool {
    const PUBLIC: [&str; 3] = ["sec-websocket-key", "sec-websocket-accept", "www-authenticate"];
    const PARTS: [&str; 15] = [
        "auth",
        "cookie",
        "token",
        "secret",
        "passw",
        "pwd",
        "key",
        "session",
        "signature",
        "credential",
        "jwt",
        "cert",
        "ticket",
        "assertion",
        "code",
    ];
    const WHOLE: [&str; 4] = ["sig", "sid", "pass", "pin"];
    !PUBLIC.contains(&name)
        && !name.starts_with("accept-")
        && !name.ends_with("encoding")
        && (PARTS.iter().any(|part| name.contains(part)) || WHOLE.contains(&name))
}

/// The longest value of a query that is shown: tokens are longer.
const QUERY_SHOWN: usize = 15;

/// A path for a log line or a list: without the query, and not longer than is read.
pub(crate) fn path(path: &str) -> &str {
    let end = (0..=path.len().min(PATH_SHOWN)).rev().find(|end| path.is_char_boundary(*end));
    &path[..end.unwrap_or(0)]
}

/// Bytes of a path that are shown.
const PATH_SHOWN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_keeps_its_lengths_and_loses_its_secrets() {
        let head = "GET /chat?room=7&access_token=abc&t=eyJhbGciOiJIUzI1NiJ9&room HTTP/1.1\r\nHost: a\r\n\
            Cookie: id=secret\r\nauthorization: Bearer secret \r\nX-Api-Key:secret\r\nAccept-Encoding: gzip\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Empty-Token: \r\n\r\nCookie: of the body";
        let mut bytes = head.as_bytes().to_vec();
        let found = self::head(&mut bytes);
        let shown = String::from_utf8(bytes).unwrap();
        assert_eq!(shown.len(), head.len());
        assert_eq!(
            shown,
            head.replace("=abc", "=***")
                .replace("eyJhbGciOiJIUzI1NiJ9", "********************")
                .replace("id=secret", "*********")
                .replace(" secret ", " ****** ")
                .replace(":secret", ":******")
        );
        let what: Vec<&str> = found.iter().map(|redacted| &*redacted.what).collect();
        assert_eq!(what, ["query access_token", "query t", "cookie", "authorization", "x-api-key"]);
        assert_eq!(&head[found[2].place.clone()], "id=secret");
    }

    #[test]
    fn a_path_is_shown_up_to_a_bound() {
        assert_eq!(path("/chat"), "/chat");
        assert_eq!(path(&"/x".repeat(1000)).len(), PATH_SHOWN);
        assert_eq!(path(&format!("/{}", "é".repeat(1000))).len(), PATH_SHOWN - 1);
    }
}
