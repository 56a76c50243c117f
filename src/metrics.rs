//! What a core counts: cells that only it touches, and a copy that others may read.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use crate::{Token, rejection::Reason};

/// A core's counters. Counting costs an addition, and no other core's cache line.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: Cell<u64>,
    pub(crate) accept_errors: Cell<u64>,
    pub(crate) requests: Cell<u64>,
    pub(crate) refused_with_early_bytes: Cell<u64>,
    pub(crate) panics: Cell<u64>,
    pub(crate) closed_clean: Cell<u64>,
    pub(crate) cut: Cell<u64>,
    pub(crate) lost: Cell<u64>,
    pub(crate) received: Cell<u64>,
    pub(crate) sent: Cell<u64>,
    pub(crate) tls_handshakes: Cell<u64>,
    pub(crate) tls_resumed: Cell<u64>,
    tls_failures: RefCell<BTreeMap<&'static str, u64>>,
    upgrades: RefCell<BTreeMap<String, u64>>,
    rejections: RefCell<BTreeMap<&'static str, u64>>,
    ends: RefCell<BTreeMap<&'static str, u64>>,
}

/// Adds to a counter.
pub(crate) fn add(cell: &Cell<u64>, count: u64) {
    cell.set(cell.get() + count);
}

impl Counters {
    pub(crate) fn upgraded(&self, token: Token) {
        *self.upgrades.borrow_mut().entry(token.to_string()).or_default() += 1;
    }

    pub(crate) fn rejected(&self, reason: Reason) {
        *self.rejections.borrow_mut().entry(reason.code()).or_default() += 1;
    }

    /// A handshake of TLS is done.
    #[cfg(feature = "tls")]
    pub(crate) fn secured(&self, is_resumed: bool) {
        add(&self.tls_handshakes, 1);
        add(&self.tls_resumed, is_resumed.into());
    }

    /// A handshake of TLS has failed, with a [code](crate::tls::Fault::code).
    #[cfg(feature = "tls")]
    pub(crate) fn not_secured(&self, code: &'static str) {
        *self.tls_failures.borrow_mut().entry(code).or_default() += 1;
    }

    /// How a session ended: `ok`, or the kind of its error.
    pub(crate) fn ended(&self, kind: &'static str) {
        *self.ends.borrow_mut().entry(kind).or_default() += 1;
    }

    pub(crate) fn snapshot(&self, live: usize, sessions: usize) -> Stats {
        Stats {
            connections: live as u64,
            sessions: sessions as u64,
            accepted: self.accepted.get(),
            accept_errors: self.accept_errors.get(),
            requests: self.requests.get(),
            refused_with_early_bytes: self.refused_with_early_bytes.get(),
            panics: self.panics.get(),
            closed_clean: self.closed_clean.get(),
            cut: self.cut.get(),
            lost: self.lost.get(),
            received: self.received.get(),
            sent: self.sent.get(),
            tls_handshakes: self.tls_handshakes.get(),
            tls_resumed: self.tls_resumed.get(),
            tls_failures: self
                .tls_failures
                .borrow()
                .iter()
                .map(|(code, count)| ((*code).to_owned(), *count))
                .collect(),
            upgrades: self.upgrades.borrow().clone(),
            rejections: self
                .rejections
                .borrow()
                .iter()
                .map(|(code, count)| ((*code).to_owned(), *count))
                .collect(),
            ends: self.ends.borrow().iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
        }
    }
}

/// What was counted, at one moment; of one core or, added up, of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that are open now.
    pub connections: u64,
    /// Of them, those that were switched.
    pub sessions: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Accepts that failed, most of them for want of descriptors.
    pub accept_errors: u64,
    /// Requests read.
    pub requests: u64,
    /// Requests for an upgrade that was not made, with bytes behind them: the connection was closed.
    pub refused_with_early_bytes: u64,
    /// Handlers that panicked; each cost its own connection.
    pub panics: u64,
    /// Sessions that ended as their protocol has it.
    pub closed_clean: u64,
    /// Sessions that a deadline or the end of a drain has cut.
    pub cut: u64,
    /// Sessions that a failed transport, a peer's fault or a handler's panic has ended.
    pub lost: u64,
    /// Bytes received by sessions that have ended.
    pub received: u64,
    /// Bytes sent by sessions that have ended.
    pub sent: u64,
    /// Handshakes of TLS that were done.
    pub tls_handshakes: u64,
    /// Of them, those that went on from an earlier session.
    pub tls_resumed: u64,
    /// Handshakes of TLS that failed, by the code of the reason (`tls::Fault::code`).
    pub tls_failures: BTreeMap<String, u64>,
    /// Switches, by protocol.
    pub upgrades: BTreeMap<String, u64>,
    /// Refusals, by [reason code](crate::Reason::code).
    pub rejections: BTreeMap<String, u64>,
    /// Ends of sessions: `ok`, or the [kind](crate::Error::kind) of the error.
    pub ends: BTreeMap<String, u64>,
}

impl Stats {
    /// Adds another core's.
    pub fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        self.sessions += other.sessions;
        self.accepted += other.accepted;
        self.accept_errors += other.accept_errors;
        self.requests += other.requests;
        self.refused_with_early_bytes += other.refused_with_early_bytes;
        self.panics += other.panics;
        self.closed_clean += other.closed_clean;
        self.cut += other.cut;
        self.lost += other.lost;
        self.received += other.received;
        self.sent += other.sent;
        self.tls_handshakes += other.tls_handshakes;
        self.tls_resumed += other.tls_resumed;
        for (mine, theirs) in [
            (&mut self.upgrades, &other.upgrades),
            (&mut self.rejections, &other.rejections),
            (&mut self.ends, &other.ends),
            (&mut self.tls_failures, &other.tls_failures),
        ] {
            for (key, count) in theirs {
                *mine.entry(key.clone()).or_default() += count;
            }
        }
    }
}
