//! What can go wrong: with a connection, which ends it, or with a reply, which is counted.

use std::{borrow::Cow, io};

use switchpoint::ws;

use crate::handshake::{Broken, Refusal};

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
    /// The server said no.
    #[error("the server refused the switch: {0}")]
    Refused(Refusal),
    /// The answer to the handshake was not one.
    #[error("the answer to the handshake is broken: {0}")]
    Handshake(#[from] Broken),
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
    /// A reply, and nothing was asked.
    #[error("a reply came that answers nothing")]
    Surplus,
}

impl Fault {
    /// The name that it is counted under.
    pub(crate) fn kind(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Connect(_) => "connect",
            Self::TimedOut(_) => "handshake-timeout",
            Self::NotTried => "not-tried",
            Self::Refused(refusal) => return format!("refused-{}", refusal.status).into(),
            Self::Handshake(_) => "handshake",
            Self::Lost(_) => "connection-lost",
            Self::Ended => "connection-ended",
            Self::Closed { code: None, .. } => "closed",
            Self::Closed { code: Some(code), .. } => return format!("closed-{code}").into(),
            Self::Protocol(fault) => fault.code(),
            Self::Surplus => "surplus-reply",
        })
    }
}

fn connect_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "; nobody listens there: is the server running, and is this its port?"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this machine has no more free ports for that address: use fewer connections"
        }
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
    /// Another of this connection's messages.
    #[error("the reply to message {got} came when {expected} was due")]
    Order { expected: u64, got: u64 },
    /// Another connection's message.
    #[error("the reply belongs to connection {0}")]
    Foreign(u32),
    /// Not what any message said.
    #[error("the reply differs from its message, first in byte {0}")]
    Content(usize),
}

impl Wrong {
    /// The name that it is counted under.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Type => "wrong-type",
            Self::Length(_) => "wrong-length",
            Self::Order { .. } => "wrong-order",
            Self::Foreign(_) => "foreign-reply",
            Self::Content(_) => "wrong-content",
        }
    }
}
