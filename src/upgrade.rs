//! The trait that a protocol implements, and what it is given: a request to judge, then a connection to speak on.

use std::{any::Any, borrow::Cow, cell::RefCell, fmt, net::SocketAddr, rc::Rc};

use crate::{
    Error, Listener, Rejection, Stream, TraceParent, Upgraded,
    authorize::{Authorize, Authorized, Identity},
    http::{Framing, Head, Target, Version},
};

/// A protocol that an HTTP/1.1 connection can be switched to.
///
/// ```
/// use switchpoint::{Accept, Decision, Error, Request, Token, Upgrade, Upgraded};
///
/// struct Hello;
///
/// impl Upgrade for Hello {
///     type Session = String;
///
///     fn token(&self) -> Token {
///         Token::new("hello/1")
///     }
///
///     fn negotiate(&self, request: &Request<'_>) -> Decision<String> {
///         match request.field("x-name") {
///             Some(name) => Decision::Accept(Accept::new(name.to_owned())),
///             None => Decision::Decline,
///         }
///     }
///
///     async fn run(&self, name: String, connection: Upgraded) -> Result<(), Error> {
///         connection.write_all(format!("Hello, {name}!\n").as_bytes()).await
///     }
/// }
/// ```
#[expect(async_fn_in_trait, reason = "a connection never leaves its core, so nothing has to be `Send`")]
pub trait Upgrade: 'static {
    /// What the handshake settled, as data: a subprotocol, an extension's parameters, a user.
    type Session: 'static;

    /// The name that the client asks for, with its version if it has one: `websocket`, `h2c`, `echo/1`.
    fn token(&self) -> Token;

    /// Whether it is a version of HTTP, which answers the request itself once it is spoken. Such a protocol is offered
    /// with the others, but makes no path: where there is nothing else the answer is 404, and an ordinary answer does
    /// not advertise it.
    fn is_http(&self) -> bool {
        false
    }

    /// Whether the request is one for it at all. One that it does not consider is declined before its method, its body
    /// or anything else of it is looked at.
    fn considers(&self, request: &Request<'_>) -> bool {
        let _ = request;
        true
    }

    /// Which requests it takes: methods, body, early bytes. By default GET without either.
    fn accepts(&self) -> Accepts {
        Accepts::default()
    }

    /// May this client have it? Runs before the body is read and before [`negotiate`](Self::negotiate), under the
    /// handshake's deadline; cookies and `Authorization` are at hand in the request.
    ///
    /// # Errors
    /// The answer instead of the 101.
    async fn authorize(&self, request: &Request<'_>) -> Result<(), Rejection> {
        let _ = request;
        Ok(())
    }

    /// The same, behind an [`Authorizer`](crate::authorize::Authorizer) or another that
    /// [authorizes](crate::authorize::Authorize): it is asked first.
    fn authorized_by(self, authorize: impl Authorize) -> Authorized<Self>
    where
        Self: Sized,
    {
        Authorized::new(self, authorize)
    }

    /// Decides from the request alone. It neither waits nor writes: the answer is its result.
    fn negotiate(&self, request: &Request<'_>) -> Decision<Self::Session>;

    /// Speaks the protocol until one side is done. The 101 has been sent.
    ///
    /// On `Ok` the connection is half-closed, and the peer gets a moment to close its side.
    ///
    /// # Errors
    /// Whatever ended it early; counted by [kind](Error::kind).
    async fn run(&self, session: Self::Session, connection: Upgraded) -> Result<(), Error>;
}

/// What a handler makes of a request.
#[derive(Debug)]
pub enum Decision<S> {
    /// Switch: the 101 is sent, then [`Upgrade::run`].
    Accept(Accept<S>),
    /// Not mine: the next offer or handler is asked; if none takes it the request is ordinary HTTP.
    Decline,
    /// Nobody's: answer with this.
    Reject(Rejection),
}

impl<S> From<Result<Accept<S>, Rejection>> for Decision<S> {
    fn from(result: Result<Accept<S>, Rejection>) -> Self {
        match result {
            Ok(accept) => Self::Accept(accept),
            Err(rejection) => Self::Reject(rejection),
        }
    }
}

/// The settled session, and what the 101 says besides `Upgrade` and `Connection`.
#[derive(Debug)]
pub struct Accept<S> {
    pub(crate) session: S,
    pub(crate) fields: Vec<(&'static str, Cow<'static, str>)>,
}

impl<S> Accept<S> {
    /// Switches, with nothing to add to the 101.
    pub fn new(session: S) -> Self {
        Self { session, fields: Vec::new() }
    }

    /// Adds a header field to the 101. A value that could split the answer, or a field that a 1xx may not carry,
    /// turns the 101 into a 500: it is the handler's bug, never the peer's chance.
    pub fn field(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.fields.push((name, value.into()));
        self
    }
}

/// Which requests a handler takes; the engine sees to it before the handler is asked.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Accepts {
    /// Methods, as they stand in `Allow` when another one is used.
    pub methods: &'static [&'static str],
    /// The longest request body, in bytes, that is read before the switch. With 0 a body is refused: what follows
    /// the head would otherwise be taken for the new protocol.
    pub body_max: usize,
    /// What bytes behind the request mean.
    pub early: EarlyBytes,
}

impl Default for Accepts {
    fn default() -> Self {
        Self { methods: &["GET"], body_max: 0, early: EarlyBytes::Refuse }
    }
}

impl Accepts {
    /// The methods it takes.
    pub const fn methods(mut self, methods: &'static [&'static str]) -> Self {
        self.methods = methods;
        self
    }

    /// The longest request body it takes, in bytes.
    pub const fn body_max(mut self, body_max: usize) -> Self {
        self.body_max = body_max;
        self
    }

    /// What bytes behind the request mean.
    pub const fn early(mut self, early: EarlyBytes) -> Self {
        self.early = early;
        self
    }
}

/// What bytes mean that arrive behind a request, before its 101 (RFC 9931).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyBytes {
    /// The protocol makes the client wait, so they are answered with 400 and the connection is closed.
    #[default]
    Refuse,
    /// They are the new protocol's first bytes; [`Upgraded::unread`] has them.
    Keep,
    /// They are the new protocol's, which always begins with these. Where they are others the offer is declined.
    KeepIf(&'static [u8]),
}

/// A protocol's name, with an optional version (RFC 9110 7.8).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    text: &'static str,
}

impl Token {
    /// `name` or `name/version`.
    ///
    /// # Panics
    /// If a part is not an RFC 9110 token; at compile time when used in a constant.
    pub const fn new(text: &'static str) -> Self {
        let token = Self { text };
        assert!(is_tchars(token.name()), "a protocol's name is a token");
        if let Some(version) = token.version() {
            assert!(is_tchars(version), "a protocol's version is a token");
        }
        token
    }

    /// Both, as they were registered.
    pub const fn as_str(&self) -> &'static str {
        self.text
    }

    /// The name, as it was registered.
    pub const fn name(&self) -> &'static str {
        self.text.split_at(self.slash()).0
    }

    /// The version, if one was registered.
    pub const fn version(&self) -> Option<&'static str> {
        let rest = self.text.split_at(self.slash()).1;
        if rest.is_empty() { None } else { Some(rest.split_at(1).1) }
    }

    /// Where the name ends.
    const fn slash(&self) -> usize {
        let bytes = self.text.as_bytes();
        let mut slash = 0;
        while slash < bytes.len() && bytes[slash] != b'/' {
            slash += 1;
        }
        slash
    }

    /// Whether an item of the client's `Upgrade` list means this: the name in any case, the version as it stands.
    pub fn is_offered_as(&self, item: &str) -> bool {
        let (name, version) = match item.split_once('/') {
            Some((name, version)) => (name, Some(version)),
            None => (item, None),
        };
        self.name().eq_ignore_ascii_case(name) && self.version() == version
    }
}

const fn is_tchars(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let byte = bytes[i];
        if !byte.is_ascii_alphanumeric() {
            match byte {
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
                | b'|' | b'~' => {}
                _ => return false,
            }
        }
        i += 1;
    }
    !bytes.is_empty()
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

/// A request, borrowed from the bytes that arrived.
pub struct Request<'a> {
    pub(crate) head: Head<'a>,
    pub(crate) body: &'a [u8],
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) listener: Option<&'a Listener>,
    pub(crate) draining: bool,
    /// The connection; over HTTP/2, the one that all streams share.
    pub(crate) stream: &'a Stream,
    /// The head as it arrived; nothing over HTTP/2, which has its own form.
    pub(crate) raw: &'a [u8],
    pub(crate) kept: &'a Kept,
}

/// What is kept of a request for the session.
#[derive(Debug, Default)]
pub(crate) struct Kept(RefCell<ForSession>);

/// What a session has of its request: who asked, and what the handler has kept.
#[derive(Debug, Default)]
pub(crate) struct ForSession {
    pub(crate) identity: Option<Rc<Identity>>,
    pub(crate) value: Option<Box<dyn Any>>,
}

impl Kept {
    /// What there is of it.
    pub(crate) fn take(&self) -> Option<Box<ForSession>> {
        let kept = self.0.take();
        (kept.identity.is_some() || kept.value.is_some()).then(|| Box::new(kept))
    }
}

impl<'a> Request<'a> {
    /// The method, in upper case as the standard ones are.
    pub fn method(&self) -> &'a str {
        self.head.method
    }

    /// The path, as it was sent: not decoded, without the query.
    pub fn path(&self) -> &'a str {
        self.head.target.path()
    }

    /// What follows the `?`, as it was sent.
    pub fn query(&self) -> Option<&'a str> {
        self.head.target.query()
    }

    /// The first field of this name, in any case, if its value is text.
    pub fn field(&self, name: &str) -> Option<&'a str> {
        self.head.fields.text(name)
    }

    /// All field lines of this name, in their order; a value that is not text is left out.
    pub fn fields(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.head.fields.all(name).filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// The items of a list that may be spread over several field lines, such as `Sec-WebSocket-Protocol`.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.head.fields.tokens(name)
    }

    /// A cookie's value, as it was sent (RFC 6265 4.2).
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        self.fields("cookie")
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    /// The scheme and the credentials of `Authorization` (RFC 9110 11.6.2).
    pub fn authorization(&self) -> Option<(&'a str, &'a str)> {
        let (scheme, credentials) = self.field("authorization")?.split_once(' ')?;
        Some((scheme, credentials.trim_start()))
    }

    /// The host and port that the request is for: of an absolute-form target, else of `Host`.
    pub fn authority(&self) -> Option<&'a str> {
        self.head.authority()
    }

    /// The request's body, whole; empty where the handler takes none.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Who asks; `None` for a connection in memory, or through a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The W3C trace context that the client sent in `traceparent`, if it is valid.
    pub fn trace_parent(&self) -> Option<TraceParent> {
        let value = self.head.fields.only("traceparent").ok()??;
        TraceParent::parse(str::from_utf8(value).ok()?)
    }

    /// Whether it came by TLS: the scheme is `https` then, or `wss`. A proxy that did TLS for us is not asked.
    pub fn is_secure(&self) -> bool {
        self.stream.is_secure()
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.is_secure() { "https" } else { "http" }
    }

    /// What the client and we have agreed upon, by TLS.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<crate::tls::Info> {
        self.stream.tls()
    }

    /// Who the client has proved to be, by a certificate of an authority that we trust.
    #[cfg(feature = "tls")]
    pub fn peer_certificate(&self) -> Option<&'a crate::tls::PeerCertificate> {
        self.stream.peer_certificate()
    }

    /// Which listener the connection came through; `None` for one that was brought to its
    /// [`Worker`](crate::Worker).
    pub fn listener(&self) -> Option<&'a Listener> {
        self.listener
    }

    /// Keeps a value for the session, for instance the user whom [`authorize`](Upgrade::authorize) has found:
    /// [`Upgraded::kept`] and a WebSocket's `kept` give it back. The last one counts.
    pub fn keep<T: 'static>(&self, value: T) {
        self.kept.0.borrow_mut().value = Some(Box::new(value));
    }

    /// Looks at what was kept, for instance in [`negotiate`](Upgrade::negotiate).
    pub fn with_kept<T: 'static, R>(&self, look: impl FnOnce(Option<&T>) -> R) -> R {
        look(self.kept.0.borrow().value.as_deref().and_then(<dyn Any>::downcast_ref))
    }

    /// Who asks, as an [`Authorizer`](crate::authorize::Authorizer) before the handler has found. The session has it, too:
    /// [`Upgraded::identity`], and that of a WebSocket.
    pub fn identity(&self) -> Option<Rc<Identity>> {
        self.kept.0.borrow().identity.clone()
    }

    /// Says who asks, for handlers that find out by themselves.
    pub fn identify(&self, identity: Identity) {
        self.kept.0.borrow_mut().identity = Some(Rc::new(identity));
    }

    /// Whether the server is on its way out: a readiness check answers no.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// The version of HTTP that it came in.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// The head as it arrived, without its last blank line. What came over HTTP/2 is written in the same form.
    pub fn raw_head(&self) -> Cow<'a, [u8]> {
        if self.head.version < Version::Http2 {
            return Cow::Borrowed(self.raw.trim_ascii_end());
        }
        let mut head = format!("{} {} HTTP/2", self.method(), self.head.target.raw()).into_bytes();
        for (name, value) in self.head.fields.iter() {
            head.extend_from_slice(&[b"\r\n", name.as_bytes(), b": ", value].concat());
        }
        Cow::Owned(head)
    }

    /// Whether it may be upgraded to another version of HTTP where it came from. By TLS, ALPN has chosen one
    /// (RFC 7540 3.3).
    pub(crate) fn may_change_http(&self) -> bool {
        !self.is_secure() && self.listener.is_none_or(|listener| listener.h2c)
    }

    pub(crate) fn has_body(&self) -> bool {
        !matches!(self.head.framing, Framing::None | Framing::Length(0))
    }

    pub(crate) fn is_options_asterisk(&self) -> bool {
        matches!(self.head.target, Target::Asterisk)
    }
}

impl fmt::Debug for Request<'_> {
    /// Without the query, the values of fields and the body, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.head.fields.iter().map(|(name, _)| name).collect();
        f.debug_struct("Request")
            .field("method", &self.method())
            .field("path", &self.path())
            .field("version", &self.head.version)
            .field("fields", &names)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_in_any_case_and_a_version_as_it_stands() {
        let plain = Token::new("websocket");
        assert!(plain.is_offered_as("WebSocket"));
        assert!(
            !plain.is_offered_as("websocket/13"),
            "a version that was not registered is another protocol"
        );
        let versioned = Token::new("Echo/1.b");
        assert!(versioned.is_offered_as("echo/1.b"));
        assert!(!versioned.is_offered_as("echo/1.B"));
        assert!(!versioned.is_offered_as("echo"));
        assert_eq!(versioned.to_string(), "Echo/1.b");
    }

    #[test]
    fn a_token_cannot_split_a_header() {
        for text in ["", "a b", "a\r\n", "/1", "a/", "a/b/c", "a,b"] {
            assert!(std::panic::catch_unwind(|| Token::new(text)).is_err(), "{text:?}");
        }
    }
}
