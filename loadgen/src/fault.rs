//! What can go wrong: with a connection, which ends it, or with a reply, which is counted.

use std::{borrow::Cow, io};

use switchpoint::{
    tls,
    ws::{
        self,
        extension::Misfit,
        opening::{OpeningFault, Refusal},
    },
};

/// What ends a connection before its time. The text says whose fault it is and what can be done about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// There was no connection to be had.
    #[error("cannot connect: {0}{hint}", hint = connect_hint(.0))]
    Connect(io::Error),
    /// The connection or the answer to the handshake did not come in time.
    #[error("no answer to the handshake within {}", humantime::format_duration(*.0))]
    TimedOut(std::time::Duration),
    /// Others timed out, or the user wants an end, so it was not tried, or not to its end.
    #[error("given up, because other connections timed out or the run was interrupted")]
    NotTried,
    /// TLS has not come about.
    #[error("{0}{hint}", hint = tls_hint(.0))]
    Tls(#[from] tls::Fault),
    /// It has, but not for HTTP/2.
    #[error("the server has not agreed to HTTP/2 by ALPN")]
    NoAlpn,
    /// The server said no.
    #[error("the server refused the switch: {0}{hint}", hint = refusal_hint(.0))]
    Refused(Refusal),
    /// The answer to the handshake was not one.
    #[error(transparent)]
    Handshake(#[from] OpeningFault),
    /// The end, in the middle of the handshake.
    #[error("the server ended the connection before its answer was whole")]
    Cut,
    /// The connection failed under us.
    #[error("the connection was lost: {0}")]
    Lost(io::Error),
    /// The end of the server's bytes, unasked.
    #[error("the server ended the connection without a word")]
    Ended,
    /// A WebSocket close frame, unasked.
    #[error("the server closed the connection: {}", close_text(.code, .reason))]
    Closed { code: Option<ws::Code>, reason: String },
    /// The server's frames break RFC 6455.
    #[error("the server broke the protocol: {0}")]
    Protocol(#[from] ws::Fault),
    /// The server's frames break HTTP/2, or it gives up.
    #[error("HTTP/2 ended: {0}")]
    Http2(String),
    /// A stream for a WebSocket was refused.
    #[error("the server refused a WebSocket on a stream: {0}{1}")]
    RefusedStream(u16, String),
    /// There can be none.
    #[error("the server does not offer WebSocket over HTTP/2 (SETTINGS_ENABLE_CONNECT_PROTOCOL, RFC 8441 3)")]
    NoExtendedConnect,
    /// A reply, and nothing was asked.
    #[error("a reply came that answers nothing")]
    Surplus,
    /// The reply to the one message of a connection was not the right one.
    #[error("{0}")]
    Reply(Wrong),
    /// No reply to the one message of a connection.
    #[error("no reply to the first message within {}", humantime::format_duration(*.0))]
    Silent(std::time::Duration),
    /// Our goodbye was not answered.
    #[error("the server did not end the connection after our goodbye")]
    NoGoodbye,
    /// We cannot go on ourselves.
    #[error("loadgen itself failed: {0}")]
    Own(io::Error),
}

impl Fault {
    /// The name that it is counted under.
    pub(crate) fn kind(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Connect(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => "connect-refused",
                io::ErrorKind::AddrNotAvailable => "connect-no-address",
                _ => "connect",
            },
            Self::TimedOut(_) => "handshake-timeout",
            Self::NotTried => "not-tried",
            Self::Tls(fault) => return format!("tls-{}", fault.code()).into(),
            Self::NoAlpn => "no-alpn-h2",
            Self::Refused(refusal) => return format!("refused-{}", refusal.status()).into(),
            Self::Handshake(fault) => match fault {
                OpeningFault::NoHttp => "handshake-no-http",
                OpeningFault::LongHead => "handshake-long-head",
                OpeningFault::TooManyFields => "handshake-too-many-fields",
                OpeningFault::OldVersion => "handshake-old-version",
                OpeningFault::WrongUpgrade => "handshake-wrong-upgrade",
                OpeningFault::NoConnectionUpgrade => "handshake-no-connection-upgrade",
                OpeningFault::NoAccept => "handshake-no-accept",
                OpeningFault::WrongAccept => "handshake-wrong-accept",
                OpeningFault::UnaskedSubprotocol => "handshake-unasked-subprotocol",
                OpeningFault::Extension(Misfit::NotOffered) => "handshake-unasked-extension",
                OpeningFault::Extension(_) => "handshake-extension",
            },
            Self::Cut => "handshake-cut",
            Self::Lost(_) => "connection-lost",
            Self::Ended => "connection-ended",
            Self::Closed { code: None, .. } => "closed",
            Self::Closed { code: Some(code), .. } => return format!("closed-{code}").into(),
            Self::Protocol(fault) => fault.code(),
            Self::Http2(_) => "http2",
            Self::RefusedStream(status, _) => return format!("refused-{status}").into(),
            Self::NoExtendedConnect => "no-extended-connect",
            Self::Surplus => "surplus-reply",
            Self::Reply(wrong) => wrong.kind(),
            Self::Silent(_) => "no-first-reply",
            Self::NoGoodbye => "no-goodbye",
            Self::Own(_) => "own",
        })
    }
}

fn connect_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "; nobody listens there: is the server running, and is this its port?"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this machine has no more free ports for that address: use fewer connections, or --source with several addresses"
        }
        io::ErrorKind::InvalidInput => "; can the server be reached from that --source?",
        _ => "",
    }
}

fn tls_hint(fault: &tls::Fault) -> &'static str {
    match fault.code() {
        "certificate-untrusted" => "; name its authority with --ca FILE, or trust anybody with --insecure",
        "certificate-invalid" => "; is it for this host? --sni NAME asks for another",
        "not-tls" | "left" => "; does this port speak TLS? ws:// and http:// do without",
        _ => "",
    }
}

fn refusal_hint(refusal: &Refusal) -> &'static str {
    match refusal.status() {
        200..300 => "; there is an ordinary resource at this path, which does not switch to that protocol",
        _ => "",
    }
}

fn close_text(code: &Option<ws::Code>, reason: &str) -> String {
    match code {
        None => "without a code".to_owned(),
        Some(code) if reason.is_empty() => code.to_string(),
        Some(code) => format!("{code} {reason:?}"),
    }
}

/// A reply that is not what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    /// Text for binary, or the other way round.
    #[error("the reply is of the other type (text, binary)")]
    Type,
    /// Too long or too short.
    #[error("the reply has {0} bytes, and the message had another number")]
    Length(usize),
    /// Later messages of this connection were answered before.
    #[error("the reply to message {0} came after that to a later one")]
    Order(u64),
    /// Another connection's message.
    #[error("the reply belongs to connection {0}")]
    Foreign(u32),
    /// An answer of HTTP, and not a good one.
    #[error("the answer's status is {0}")]
    Status(u16),
    /// The stream was reset, or could not be opened.
    #[error("the stream was reset (error code {0})")]
    Reset(u32),
    /// Not what any message said.
    #[error("the reply differs from its message, first in byte {0}")]
    Content(usize),
}

impl Wrong {
    /// The name that it is counted under.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Type => "wrong-type",
            Self::Length(_) => "wrong-length",
            Self::Order(_) => "wrong-order",
            Self::Foreign(_) => "foreign-reply",
            Self::Status(_) => "wrong-status",
            Self::Reset(_) => "stream-reset",
            Self::Content(_) => "wrong-content",
        }
    }
}
