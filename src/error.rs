//! Why a connection ended, by blame: that decides what the peer is told and what is logged.

use std::io;

use crate::{rejection::Rejection, ws::opening::Refusal};

/// What ends a connection before its protocol was done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The transport failed: nothing can be said any more.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The peer broke its protocol's rules.
    #[error("the peer broke the protocol: {0}")]
    Peer(Box<dyn std::error::Error>),
    /// The request was answered with something other than 101.
    #[error("the request was refused: {0}")]
    Rejected(Box<Rejection>),
    /// Our own request was answered with something other than 101.
    #[error("the server refused: {0}")]
    Refused(Box<Refusal>),
    /// The peer was silent, or took nothing, for longer than a limit allows.
    #[error("the peer exceeded a time limit")]
    TimedOut,
    /// Our side has already said goodbye; nothing more can be sent.
    #[error("the connection is closing")]
    Closed,
}

impl Error {
    /// Blames the peer, with the rule that it broke.
    pub fn peer(cause: impl Into<Box<dyn std::error::Error>>) -> Self {
        Self::Peer(cause.into())
    }

    /// The name of its kind, for counters and logs: a closed set.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::Peer(_) => "peer",
            Self::Rejected(_) => "rejected",
            Self::Refused(_) => "refused",
            Self::TimedOut => "timed-out",
            Self::Closed => "closed",
        }
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(Box::new(rejection))
    }
}
