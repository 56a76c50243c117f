//! The answers other than 101: each with the headers that it owes, and one reason from a closed list.
//!
//! The reason's code stands in the body, in the log line and in the counter, so that whoever debugs a handshake
//! finds the same word everywhere.

use std::{borrow::Cow, fmt};

use crate::{
    Request, Response,
    http::{BodyFault, HeadFault},
    proxy_protocol, response,
};

/// Why a request was not answered with 101 or an ordinary resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The request's head broke HTTP/1.1.
    Head(HeadFault),
    /// The request's body broke HTTP/1.1 or a limit.
    Body(BodyFault),
    /// The head did not arrive within its time.
    HeadTimeout,
    /// The body did not arrive within its time.
    BodyTimeout,
    /// Nothing is registered at this path.
    NoSuchPath,
    /// What is at this path does not take this method.
    MethodNotAllowed,
    /// Not a method of HTTP.
    UnknownMethod,
    /// The path is upgrade-only, and the request asks for no upgrade.
    UpgradeRequired,
    /// `Upgrade` without `Connection: upgrade`.
    MissingConnectionUpgrade,
    /// `Upgrade` in an HTTP/1.0 request.
    UpgradeInHttp10,
    /// None of the protocols that the client offers is spoken here.
    NoCommonProtocol,
    /// A body on a request whose protocol takes none.
    UnexpectedBody,
    /// Bytes behind the head of a protocol that makes the client wait for the 101.
    EarlyBytes,
    /// A WebSocket version other than 13.
    UnsupportedVersion,
    /// No `Sec-WebSocket-Version`.
    MissingVersion,
    /// More than one `Sec-WebSocket-Version`.
    DuplicateVersion,
    /// No `Sec-WebSocket-Key`.
    MissingKey,
    /// A `Sec-WebSocket-Key` that is not 16 bytes in base64.
    InvalidKey,
    /// More than one `Sec-WebSocket-Key`.
    DuplicateKey,
    /// A list of the handshake is malformed, or longer than its limit.
    InvalidList,
    /// A browser's page from elsewhere.
    OriginNotAllowed,
    /// The client did not say who it is, or it was not believed.
    Unauthorized,
    /// The credentials are not believed.
    InvalidCredentials,
    /// The credentials were good once.
    ExpiredCredentials,
    /// The client may not have this.
    Forbidden,
    /// The handler found fault with the request.
    BadRequest,
    /// The handler took too long to decide.
    AuthorizationTimeout,
    /// Who has to be asked about the client cannot say.
    AuthorizationUnavailable,
    /// The resource took too long to answer.
    AnswerTimeout,
    /// A request without TLS, to a port that speaks TLS.
    TlsRequired,
    /// An extended CONNECT for a protocol that is not spoken here (RFC 8441).
    UnknownProtocol,
    /// No room for another connection.
    TooManyConnections,
    /// Too many connections of one address.
    TooManyFromAddress,
    /// Too many connections whose first request is still to come.
    TooManyHalfOpen,
    /// Too many of those of one address.
    TooManyHalfOpenFromAddress,
    /// Too many requests for a switch at a time.
    TooManyHandshakes,
    /// Too many of those of one address.
    TooManyHandshakesFromAddress,
    /// The process occupies as much memory as it may.
    OverMemoryBudget,
    /// The PROXY protocol's header, where one is expected; closed without an answer.
    Proxy(proxy_protocol::Fault),
    /// The server is on its way out.
    Draining,
    /// The handler cannot serve it now.
    Unavailable,
    /// A handler of ours failed: the details are in the log.
    Internal,
}

impl Reason {
    /// The stable code, in the body, the log line and the counter.
    pub const fn code(self) -> &'static str {
        self.facts().1
    }

    /// The status that answers it.
    pub const fn status(self) -> u16 {
        self.facts().0
    }

    /// What it means, and what to do about it.
    pub const fn explanation(self) -> &'static str {
        self.facts().2
    }

    /// Every reason there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let heads = HeadFault::ALL.iter().map(|fault| Self::Head(*fault));
        let bodies = BodyFault::ALL.iter().map(|fault| Self::Body(*fault));
        let headers = proxy_protocol::Fault::ALL.iter().map(|fault| Self::Proxy(*fault));
        heads.chain(bodies).chain(OWN.iter().copied()).chain(headers)
    }

    #[rustfmt::skip]
    const fn facts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Head(fault) => (fault.status(), fault.code(), fault.explanation()),
            Self::Body(fault) => (fault.status(), fault.code(), fault.explanation()),
            Self::HeadTimeout => (408, "head-timeout", "The request's head did not arrive whole within the time limit. Send it at once."),
            Self::BodyTimeout => (408, "body-timeout", "The request's body did not arrive whole within the time limit."),
            Self::NoSuchPath => (404, "no-such-path", "Nothing is registered at this path. Check its spelling, and whether a proxy rewrites it."),
            Self::MethodNotAllowed => (405, "method-not-allowed", "This path does not take the request's method; the `Allow` field lists what it takes."),
            Self::UnknownMethod => (501, "unknown-method", "The request's method is not one that HTTP defines. Methods are written in upper case."),
            Self::UpgradeRequired => (426, "upgrade-required", "This path speaks only the protocols in the `Upgrade` field, and the request asks for no upgrade. If the client did ask, a proxy has removed the hop-by-hop fields `Upgrade` and `Connection`: let it pass them on."),
            Self::MissingConnectionUpgrade => (426, "missing-connection-upgrade", "The request has `Upgrade` but no `Connection: upgrade`, so it must not be switched (RFC 9110 7.8). Usually a proxy has replaced the `Connection` field: let it send `Connection: upgrade`."),
            Self::UpgradeInHttp10 => (426, "upgrade-in-http-1-0", "The request is HTTP/1.0, where `Upgrade` has to be ignored (RFC 9110 7.8). Use HTTP/1.1; a proxy may need to be told to (in nginx: `proxy_http_version 1.1`)."),
            Self::NoCommonProtocol => (426, "no-common-protocol", "None of the protocols in the request's `Upgrade` field is spoken at this path; the answer's `Upgrade` field lists those that are. A version counts: `websocket/13` is not `websocket`."),
            Self::UnexpectedBody => (400, "unexpected-body", "The request has a body, and the protocol it asks for takes none: the body's bytes would be taken for the new protocol's."),
            Self::EarlyBytes => (400, "early-bytes", "There are bytes behind the request's head. This protocol's client has to wait for the 101 before it sends anything (RFC 6455 4.1, RFC 9931)."),
            Self::UnsupportedVersion => (426, "unsupported-version", "The `Sec-WebSocket-Version` asked for is not spoken here; the answer's field of that name lists what is (RFC 6455 4.4)."),
            Self::MissingVersion => (400, "missing-version", "A WebSocket handshake needs `Sec-WebSocket-Version: 13` (RFC 6455 4.1)."),
            Self::DuplicateVersion => (400, "duplicate-version", "There is more than one `Sec-WebSocket-Version` (RFC 6455 11.3.5)."),
            Self::MissingKey => (400, "missing-key", "A WebSocket handshake needs a `Sec-WebSocket-Key` (RFC 6455 4.1)."),
            Self::InvalidKey => (400, "invalid-key", "The `Sec-WebSocket-Key` is not 16 bytes in base64 (RFC 6455 4.1)."),
            Self::DuplicateKey => (400, "duplicate-key", "There is more than one `Sec-WebSocket-Key` (RFC 6455 11.3.1)."),
            Self::InvalidList => (400, "invalid-list", "A list such as `Sec-WebSocket-Protocol` has an item that is not a token, repeats one, or is longer than its limit."),
            Self::OriginNotAllowed => (403, "origin-not-allowed", "The page that asks comes from another origin, and this server was not told to trust it. Allow the origin in its configuration if it is yours; behind a proxy, see to it that `Host` is passed on."),
            Self::Unauthorized => (401, "unauthorized", "The request carries no credentials that are accepted here; the `WWW-Authenticate` field says which are."),
            Self::InvalidCredentials => (401, "invalid-credentials", "The request carries credentials that are not accepted here: they are unknown, damaged, meant for somebody else or signed by nobody that is trusted."),
            Self::ExpiredCredentials => (401, "expired-credentials", "The request carries credentials whose time is over. Get new ones; if they are new, compare the clocks."),
            Self::Forbidden => (403, "forbidden", "The client is known, and may not have this."),
            Self::BadRequest => (400, "bad-request", "The handler found fault with the request."),
            Self::AuthorizationTimeout => (503, "authorization-timeout", "Whether the client may have this could not be decided in time. Try again."),
            Self::AuthorizationUnavailable => (503, "authorization-unavailable", "Who has to be asked whether the client may have this did not answer as it should. Try again after the time in `Retry-After`."),
            Self::AnswerTimeout => (503, "answer-timeout", "The resource did not answer in time. Try again."),
            Self::TlsRequired => (400, "tls-required", "This port speaks TLS, and a plain HTTP request came. Use https:// (or wss://) instead of http:// (or ws://)."),
            Self::UnknownProtocol => (501, "unknown-protocol", "The `:protocol` of the extended CONNECT is not spoken at this path (RFC 8441 4)."),
            Self::TooManyConnections => (503, "too-many-connections", "The server has no room for another connection. Try again after the time in `Retry-After`."),
            Self::TooManyFromAddress => (429, "too-many-from-address", "The address has as many connections as one may have. Close some, or try again after the time in `Retry-After`."),
            Self::TooManyHalfOpen => (503, "too-many-half-open", "Too many connections have not sent their first request yet. Try again after the time in `Retry-After`."),
            Self::TooManyHalfOpenFromAddress => (429, "too-many-half-open-from-address", "Too many connections of the address have not sent their first request yet. Send a request on each as soon as it is open."),
            Self::TooManyHandshakes => (503, "too-many-handshakes", "More switches are asked for than the server makes in a second. Try again after the time in `Retry-After`, and not all at once."),
            Self::TooManyHandshakesFromAddress => (429, "too-many-handshakes-from-address", "The address asks for switches faster than one may. Try again after the time in `Retry-After`, and wait longer each time."),
            Self::OverMemoryBudget => (503, "over-memory-budget", "The server has used up its memory budget, and takes no new work until some of it is done. Try again after the time in `Retry-After`."),
            Self::Proxy(fault) => (400, fault.code(), fault.explanation()),
            Self::Draining => (503, "draining", "The server is shutting down. Connect again: another one will answer."),
            Self::Unavailable => (503, "unavailable", "The handler cannot serve this now. Try again after the time in `Retry-After`."),
            Self::Internal => (500, "internal", "A handler of the server failed. Its log says more."),
        }
    }
}

const OWN: &[Reason] = &[
    Reason::HeadTimeout,
    Reason::BodyTimeout,
    Reason::NoSuchPath,
    Reason::MethodNotAllowed,
    Reason::UnknownMethod,
    Reason::UpgradeRequired,
    Reason::MissingConnectionUpgrade,
    Reason::UpgradeInHttp10,
    Reason::NoCommonProtocol,
    Reason::UnexpectedBody,
    Reason::EarlyBytes,
    Reason::UnsupportedVersion,
    Reason::MissingVersion,
    Reason::DuplicateVersion,
    Reason::MissingKey,
    Reason::InvalidKey,
    Reason::DuplicateKey,
    Reason::InvalidList,
    Reason::OriginNotAllowed,
    Reason::Unauthorized,
    Reason::InvalidCredentials,
    Reason::ExpiredCredentials,
    Reason::Forbidden,
    Reason::BadRequest,
    Reason::AuthorizationTimeout,
    Reason::AuthorizationUnavailable,
    Reason::AnswerTimeout,
    Reason::TlsRequired,
    Reason::UnknownProtocol,
    Reason::TooManyConnections,
    Reason::TooManyFromAddress,
    Reason::TooManyHalfOpen,
    Reason::TooManyHalfOpenFromAddress,
    Reason::TooManyHandshakes,
    Reason::TooManyHandshakesFromAddress,
    Reason::OverMemoryBudget,
    Reason::Draining,
    Reason::Unavailable,
    Reason::Internal,
];

/// An answer other than 101. Those that owe a header have a constructor that asks for it; what can be known from the
/// route (`Allow`, the `Upgrade` of a 426) is added by the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    reason: Reason,
    detail: Option<String>,
    fields: Vec<(&'static str, Cow<'static, str>)>,
}

impl Rejection {
    /// 401: who are you? `challenge` says how to tell, for instance `Bearer` or `Basic realm="chat"` (RFC 9110 11.6.1).
    pub fn unauthorized(challenge: impl Into<Cow<'static, str>>) -> Self {
        Self::from(Reason::Unauthorized).field("WWW-Authenticate", challenge)
    }

    /// 403: I know who you are, and no.
    pub fn forbidden() -> Self {
        Reason::Forbidden.into()
    }

    /// 400, with what is wrong. The text is the handler's own: nothing secret, and not the client's words.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::from(Reason::BadRequest).detail(detail)
    }

    /// 503, with the seconds after which to try again (RFC 9110 10.2.3).
    pub fn unavailable(retry_after: u32) -> Self {
        Self::from(Reason::Unavailable).field("Retry-After", retry_after.to_string())
    }

    /// 405, with the methods that are taken (RFC 9110 15.5.6).
    pub fn method_not_allowed(allow: impl Into<Cow<'static, str>>) -> Self {
        Self::from(Reason::MethodNotAllowed).field("Allow", allow)
    }

    /// Says more about this case.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a header field.
    pub fn field(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The status that it is answered with.
    pub fn status(&self) -> u16 {
        self.reason.status()
    }

    /// The ways to say who one is that a 401 names.
    pub(crate) fn challenges(&self) -> impl Iterator<Item = &Cow<'static, str>> {
        let fields = self.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate"));
        fields.map(|(_, value)| value)
    }

    pub(crate) fn without_challenges(mut self) -> Self {
        self.fields.retain(|(name, _)| !name.eq_ignore_ascii_case("www-authenticate"));
        self
    }

    pub(crate) fn has_field(&self, name: &str) -> bool {
        self.fields.iter().any(|(field, _)| field.eq_ignore_ascii_case(name))
    }

    /// The answer to `request`, in the form that it asks for.
    pub(crate) fn answer_to(&self, request: &Request<'_>) -> Response {
        let as_problem =
            request.list("accept").any(|item| item.split(';').next() == Some("application/problem+json"));
        self.to_response(as_problem)
    }

    /// The answer: plain text, or `application/problem+json` (RFC 9457) where the client asks for it.
    pub(crate) fn to_response(&self, as_problem: bool) -> Response {
        let phrase = response::phrase(self.status());
        let response = Response::new(self.status());
        let mut response = if as_problem {
            let mut problem = serde_json::json!({
                "type": "about:blank",
                "title": phrase,
                "status": self.status(),
                "reason": self.reason.code(),
                "detail": self.reason.explanation(),
            });
            if let Some(detail) = &self.detail {
                problem["instance_detail"] = detail.as_str().into();
            }
            response.with_body("application/problem+json", format!("{problem}\n"))
        } else {
            let detail = self.detail.as_ref().map_or_else(String::new, |detail| format!("{detail}\n"));
            let text = format!(
                "{} {phrase}\nreason: {}\n\n{}\n{detail}",
                self.status(),
                self.reason.code(),
                self.reason.explanation()
            );
            response.with_body("text/plain; charset=utf-8", text)
        };
        response.fields.extend(self.fields.iter().cloned());
        response
    }
}

impl From<Reason> for Rejection {
    fn from(reason: Reason) -> Self {
        let rejection = Self { reason, detail: None, fields: Vec::new() };
        match reason.status() {
            429 | 503 if reason != Reason::Unavailable => rejection.field("Retry-After", "1"),
            _ => rejection,
        }
    }
}

impl From<HeadFault> for Rejection {
    fn from(fault: HeadFault) -> Self {
        Reason::Head(fault).into()
    }
}

impl From<BodyFault> for Rejection {
    fn from(fault: BodyFault) -> Self {
        Reason::Body(fault).into()
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status(), self.reason.code())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_a_code_of_its_own_and_says_what_to_do() {
        let mut codes = HashSet::new();
        for reason in Reason::all() {
            assert!(codes.insert(reason.code()), "{} stands twice", reason.code());
            assert!(reason.code().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            assert!(reason.explanation().ends_with('.'), "{}", reason.code());
            assert_ne!(response::phrase(reason.status()), "Unknown");
        }
    }

    #[test]
    fn the_code_stands_in_both_forms_of_the_body() {
        let rejection = Rejection::from(Reason::OriginNotAllowed).detail("Origin: a \"quoted\" one");
        let text = String::from_utf8(rejection.to_response(false).body.into_owned()).unwrap();
        assert!(text.starts_with("403 Forbidden\nreason: origin-not-allowed\n"), "{text}");
        let problem: serde_json::Value = serde_json::from_slice(&rejection.to_response(true).body).unwrap();
        assert_eq!(problem["reason"], "origin-not-allowed");
        assert_eq!(problem["status"], 403);
        assert_eq!(problem["instance_detail"], "Origin: a \"quoted\" one");
    }

    #[test]
    fn the_documentation_lists_every_reason() {
        let documented = include_str!("../docs/protocols.md");
        for reason in Reason::all() {
            let row = format!("| {} | `{}` | {} |", reason.status(), reason.code(), reason.explanation());
            assert!(documented.contains(&row), "docs/protocols.md lacks: {row}");
        }
    }

    #[test]
    fn what_owes_a_header_has_it() {
        assert!(Rejection::unauthorized("Bearer").has_field("WWW-Authenticate"));
        assert!(Rejection::unavailable(30).has_field("Retry-After"));
        assert!(Rejection::from(Reason::Draining).has_field("Retry-After"));
        assert!(Rejection::method_not_allowed("GET").has_field("Allow"));
    }
}
