//! How a run ends: an exit code for whoever called, and a sentence for whoever reads.

use std::process::ExitCode;

use switchpoint::ws::{CloseFrame, Code};

/// Why it is over. What is not [`Clean`](Self::Clean) is said on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Ending {
    /// As it was meant to end: 0.
    Clean,
    /// The server did not switch: 1.
    Refused(String),
    /// A script's expectation was not met, or a replay's answers differ: 1.
    Unmet(String),
    /// What it was told makes no sense: 2, as for an unknown option.
    Usage(String),
    /// No address, no TCP, no TLS: 3.
    NoConnection(String),
    /// The connection was lost, or closed with a code that means an error, or the server broke the protocol: 4.
    Broken(String),
    /// Something took longer than its limit: 5.
    TimedOut(String),
    /// A second SIGINT or SIGTERM: 130.
    Interrupted,
}

impl Ending {
    fn code(&self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Refused(_) | Self::Unmet(_) => 1,
            Self::Usage(_) => 2,
            Self::NoConnection(_) => 3,
            Self::Broken(_) => 4,
            Self::TimedOut(_) => 5,
            Self::Interrupted => 130,
        }
    }

    /// What there is to say about it.
    pub(in crate::cli) fn text(&self) -> Option<&str> {
        match self {
            Self::Clean | Self::Interrupted => None,
            Self::Refused(text)
            | Self::Unmet(text)
            | Self::Usage(text)
            | Self::NoConnection(text)
            | Self::Broken(text)
            | Self::TimedOut(text) => Some(text),
        }
    }

    /// Says it, and gives the exit code.
    pub(in crate::cli) fn report(&self) -> ExitCode {
        if let Some(text) = self.text() {
            eprintln!("switchpoint: {text}");
        }
        self.code().into()
    }

    /// For a connection that the peer has closed: 1000 and 1001 say that nothing is wrong, and so does no code.
    pub(super) fn of_close(frame: Option<&(Code, String)>) -> Self {
        match frame {
            None => Self::Clean,
            Some((code, _)) if [Code::NORMAL, Code::GOING_AWAY].contains(code) => Self::Clean,
            Some(_) => Self::Broken(describe_close(frame)),
        }
    }
}

/// A close in words: `closed by the server: 1008 policy violation, "go away"`.
pub(super) fn describe_close(frame: Option<&(Code, String)>) -> String {
    match frame {
        None => "closed by the server, without a code (1005)".into(),
        Some((code, reason)) if reason.is_empty() => {
            format!("closed by the server: {code} {}", close_name(code.number()))
        }
        Some((code, reason)) => {
            format!("closed by the server: {code} {}, {reason:?}", close_name(code.number()))
        }
    }
}

/// The owned form of what a close frame says.
pub(super) fn own(frame: CloseFrame<'_>) -> (Code, String) {
    (frame.code, frame.reason.to_owned())
}

/// What a code means (RFC 6455 7.4, and IANA's registry).
pub(super) fn close_name(code: u16) -> &'static str {
    match code {
        1000 => "normal",
        1001 => "going away",
        1002 => "protocol error",
        1003 => "unsupported data",
        1005 => "no code",
        1006 => "lost without a close",
        1007 => "invalid payload",
        1008 => "policy violation",
        1009 => "message too big",
        1010 => "mandatory extension",
        1011 => "internal error",
        1012 => "service restart",
        1013 => "try again later",
        1014 => "bad gateway",
        1015 => "TLS handshake",
        3000 => "unauthorized",
        3003 => "forbidden",
        3008 => "timeout",
        3001..=3999 => "of a library or framework",
        4000..=4999 => "of the application",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_is_clean_unless_its_code_means_an_error() {
        let closed = |number: u16| Ending::of_close(Some(&(Code::new(number).unwrap(), "x".into())));
        assert_eq!(Ending::of_close(None), Ending::Clean);
        assert_eq!(closed(1000), Ending::Clean);
        assert_eq!(closed(1001), Ending::Clean);
        for number in [1002, 1008, 1011, 1013, 3000, 4001] {
            assert_eq!(closed(number).code(), 4, "{number}");
        }
        assert_eq!(closed(1008).text(), Some("closed by the server: 1008 policy violation, \"x\""));
    }

    #[test]
    fn every_code_that_can_be_sent_has_a_name() {
        for code in (1000..5000).filter_map(Code::new) {
            assert_ne!(close_name(code.number()), "unknown", "{code}");
        }
    }
}
