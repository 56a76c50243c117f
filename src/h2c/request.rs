//! A request that came over HTTP/2, in the form that handlers and resources know (RFC 9113 8.3).

use ::http::{HeaderMap, HeaderValue, Method, Uri, header};

use crate::http::{
    Fields, Framing, Head, HeadFault, Limits, Target, Version,
    target::{is_authority, is_printable},
};

/// Makes one field of a `cookie` that was split to be compressed better (RFC 9113 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let cookies = headers.get_all(header::COOKIE);
    if cookies.iter().nth(1).is_none() {
        return;
    }
    let cookies: Vec<_> = cookies.iter().map(HeaderValue::as_bytes).collect();
    // It is made of valid ones, within the limit of the head.
    if let Ok(cookie) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookie);
    }
}

/// The head of a request, with `:authority` as its Host. The `h2` crate has checked what HTTP/2 asks for; these are the
/// rules that hold for every version.
pub(super) fn head<'a>(
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    has_body: bool,
    limits: &Limits,
) -> Result<Head<'a>, HeadFault> {
    if headers.len() > limits.fields_max {
        return Err(HeadFault::TooManyFields);
    }
    let mut lines = Vec::with_capacity(headers.len() + 1);
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (uri.authority(), hosts.next()) {
        // One that contradicts it is a request to two hosts (RFC 9113 8.3.1).
        (Some(authority), Some(host))
            if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return Err(HeadFault::InvalidHost);
        }
        (_, Some(host)) => str::from_utf8(host.as_bytes()).map_err(|_| HeadFault::InvalidHost)?,
        (Some(authority), None) => {
            lines.push(httparse::Header { name: "host", value: authority.as_str().as_bytes() });
            authority.as_str()
        }
        (None, None) => return Err(HeadFault::MissingHost),
    };
    if hosts.next().is_some() {
        return Err(HeadFault::DuplicateHost);
    }
    if !is_authority(host) {
        return Err(HeadFault::InvalidHost);
    }
    for (name, value) in headers {
        lines.push(httparse::Header { name: name.as_str(), value: value.as_bytes() });
    }
    let fields = Fields::new(lines);
    let length = || headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let framing = match has_body {
        false => Framing::None,
        true => length().map_or(Framing::Chunked, Framing::Length), // as little is known of its length
    };
    Ok(Head {
        method: method.as_str(),
        target: target(method, uri, limits)?,
        version: Version::Http2,
        expects_continue: has_body
            && headers
                .get(header::EXPECT)
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")),
        fields,
        framing,
        keep_alive: true,
    })
}

fn target<'a>(method: &Method, uri: &'a Uri, limits: &Limits) -> Result<Target<'a>, HeadFault> {
    let Some(raw) = uri.path_and_query().map(|path| path.as_str()) else {
        return Ok(Target::Authority(uri.authority().map_or("", |authority| authority.as_str())));
    };
    if raw.len() > limits.target_max {
        return Err(HeadFault::TargetTooLong);
    }
    match raw {
        "*" if *method == Method::OPTIONS => Ok(Target::Asterisk),
        _ if raw.starts_with('/') && is_printable(raw) => {
            Ok(Target::Origin { raw, path: uri.path(), query: uri.query() })
        }
        _ => Err(HeadFault::InvalidTarget),
    }
}

#[cfg(test)]
mod tests {
    use ::http::request::Parts;

    use super::*;

    fn head<'a>(parts: &'a Parts, has_body: bool, limits: &Limits) -> Result<Head<'a>, HeadFault> {
        super::head(&parts.method, &parts.uri, &parts.headers, has_body, limits)
    }

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = ::http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_authority_is_the_host_and_may_not_contradict_one() {
        let limits = Limits::default();
        let request = parts("GET", "http://a.example/chat?a=b", &[("x-a", "1"), ("x-a", "2")]);
        let request = head(&request, false, &limits).unwrap();
        assert_eq!(request.authority(), Some("a.example"));
        assert_eq!((request.target.path(), request.target.query()), ("/chat", Some("a=b")));
        assert_eq!(request.fields.tokens("x-a").collect::<Vec<_>>(), ["1", "2"]);
        for (uri, fields, fault) in [
            ("http://a/", &[("host", "b")][..], HeadFault::InvalidHost),
            ("http://a@b/", &[], HeadFault::InvalidHost),
            ("/", &[], HeadFault::MissingHost),
            ("/", &[("host", "a"), ("host", "a")], HeadFault::DuplicateHost),
            ("/", &[("host", "a b")], HeadFault::InvalidHost),
        ] {
            assert_eq!(
                head(&parts("GET", uri, fields), false, &limits).unwrap_err(),
                fault,
                "{uri} {fields:?}"
            );
        }
        assert!(head(&parts("GET", "http://a/", &[("host", "A")]), false, &limits).is_ok());
        assert!(head(&parts("GET", "/", &[("host", "a")]), false, &limits).is_ok());
    }

    #[test]
    fn a_head_has_the_limits_of_every_version() {
        let limits = Limits { fields_max: 2, target_max: 8, ..Limits::default() };
        let long = head(&parts("GET", "http://a/12345678", &[]), false, &limits).unwrap_err();
        assert_eq!(long, HeadFault::TargetTooLong);
        let many = parts("GET", "http://a/", &[("a", ""), ("b", ""), ("c", "")]);
        assert_eq!(head(&many, false, &limits).unwrap_err(), HeadFault::TooManyFields);
    }

    #[test]
    fn a_cookie_that_was_split_is_one() {
        let mut split = parts("GET", "http://a/", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3")]);
        join_cookies(&mut split.headers);
        let head = head(&split, false, &Limits::default()).unwrap();
        assert_eq!(head.fields.only("cookie").ok().flatten(), Some(&b"a=1; b=2; c=3"[..]));
        assert_eq!(head.fields.get("x"), Some(&b"y"[..]));
    }

    #[test]
    fn a_body_is_known_by_its_length_or_not_at_all() {
        let request = parts("POST", "http://a/", &[("content-length", "5"), ("expect", "100-Continue")]);
        let with = head(&request, true, &Limits::default()).unwrap();
        assert_eq!((with.framing, with.expects_continue), (Framing::Length(5), true));
        assert_eq!(head(&request, false, &Limits::default()).unwrap().framing, Framing::None);
        let unknown = parts("POST", "http://a/", &[]);
        assert_eq!(head(&unknown, true, &Limits::default()).unwrap().framing, Framing::Chunked);
    }
}
