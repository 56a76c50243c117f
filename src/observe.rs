//! What is told of a handshake and of a session: the counters, the log line, and the list of recent handshakes all
//! learn of it here.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    rc::Rc,
    str::FromStr,
    time::{Duration, SystemTime},
};

use crate::{
    Error, Reason, Rejection, Request, Token, TraceParent,
    authorize::Identity,
    connection::{Panic, report_panic},
    http::Version,
    metrics::{OTHER, add},
    redact,
    registry::Accepted,
    sessions::Link,
};

/// What a session is called, in the log and by the admin socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionId {
    pub(crate) core: u32,
    /// Its place in the core's list.
    pub(crate) slot: u32,
    /// The core's connections are numbered, since others have its place later.
    pub(crate) number: u64,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.core, self.slot, self.number)
    }
}

impl FromStr for SessionId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hint = "a session's id is CORE-SLOT-NUMBER, such as 0-3-17";
        let mut parts = text.splitn(3, '-');
        let mut next = || {
            let digits = parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse::<u64>().ok()).ok_or(hint)
        };
        let (core, slot, number) = (next()?, next()?, next()?);
        Ok(Self {
            core: u32::try_from(core).map_err(|_| hint)?,
            slot: u32::try_from(slot).map_err(|_| hint)?,
            number,
        })
    }
}

/// What a session's log line shows besides its counts. Sessions that have it in common share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Details {
    /// Without the query.
    pub(crate) path: Box<str>,
    pub(crate) subprotocol: Option<Box<str>>,
    pub(crate) trace: Option<TraceParent>,
}

impl Details {
    fn of(link: &Link, request: &Request<'_>, subprotocol: Option<&str>) -> Rc<Self> {
        let path = redact::path(request.path());
        let trace = request.trace_parent();
        let known = &link.worker.details;
        if trace.is_none()
            && let Some(details) = known.borrow().iter().find(|details| {
                details.trace.is_none()
                    && *details.path == *path
                    && details.subprotocol.as_deref() == subprotocol
            })
        {
            return Rc::clone(details);
        }
        let details = Rc::new(Self { path: path.into(), subprotocol: subprotocol.map(Into::into), trace });
        if trace.is_none() {
            let mut known = known.borrow_mut();
            known.truncate(DETAILS_KEPT - 1);
            known.push_front(Rc::clone(&details));
        }
        details
    }
}

/// Paths and subprotocols that are kept to be shared.
const DETAILS_KEPT: usize = 32;

/// A handshake that is over, for the list of recent ones.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    pub(crate) at: SystemTime,
    pub(crate) session: SessionId,
    pub(crate) peer: Option<SocketAddr>,
    /// What the request was for; of one that could not be read nothing is known.
    pub(crate) path: Option<Box<str>>,
    pub(crate) http: Option<Version>,
    /// The protocols that it asked for, as it wrote them.
    pub(crate) asked: Option<Box<str>>,
    pub(crate) status: u16,
    pub(crate) outcome: Result<Token, Reason>,
    pub(crate) subprotocol: Option<Box<str>>,
    pub(crate) time: Option<Duration>,
}

/// A core's recent handshakes, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Recents {
    ring: std::cell::RefCell<VecDeque<Recent>>,
    has_changed: Cell<bool>,
}

impl Recents {
    fn add(&self, max: usize, recent: impl FnOnce() -> Recent) {
        if max == 0 {
            return;
        }
        let mut ring = self.ring.borrow_mut();
        while ring.len() >= max {
            ring.pop_front();
        }
        ring.push_back(recent());
        self.has_changed.set(true);
    }

    /// A copy of all, if there is a new one.
    pub(crate) fn take_changes(&self) -> Option<Vec<Recent>> {
        self.has_changed.take().then(|| self.ring.borrow().iter().cloned().collect())
    }
}

/// What the request asks for, as it wrote it, up to a bound.
fn asked_for(request: &Request<'_>, protocol: Option<&str>) -> Option<Box<str>> {
    let asked = match protocol {
        Some(protocol) => protocol.to_owned(),
        None => request.list("upgrade").take(ASKED_SHOWN).collect::<Vec<_>>().join(", "),
    };
    (!asked.is_empty()).then(|| redact::path(&asked).into())
}

/// Protocols of a request that are shown.
const ASKED_SHOWN: usize = 4;

/// The row of the counters that a request for an upgrade belongs to; `None` where it asks for none. Of an extended
/// CONNECT the `protocol` is known.
fn row(link: &Link, request: &Request<'_>, protocol: Option<&str>) -> Option<&'static str> {
    let registry = &link.worker.registry;
    let row = |offer: &str| registry.token(offer).map(|token| token.as_str());
    match protocol {
        Some(protocol) => Some(row(protocol).unwrap_or(OTHER)),
        None => {
            request.list("upgrade").next()?;
            Some(request.list("upgrade").take(OFFERS_LOOKED_AT).find_map(row).unwrap_or(OTHER))
        }
    }
}

/// As many as the registry looks at.
const OFFERS_LOOKED_AT: usize = 16;

/// A request was refused. `protocol` is that of an extended CONNECT.
pub(crate) fn refused(
    link: &Link,
    rejection: &Rejection,
    request: Option<&Request<'_>>,
    protocol: Option<&str>,
) {
    let worker = &link.worker;
    let row = request.and_then(|request| row(link, request, protocol));
    worker.counters.refused(rejection.reason(), row);
    worker.recents.add(worker.config.telemetry.recent_handshakes, || Recent {
        at: SystemTime::now(),
        session: link.session_id(),
        peer: link.peer,
        path: request.map(|request| redact::path(request.path()).into()),
        http: request.map(Request::version),
        asked: request.and_then(|request| asked_for(request, protocol)),
        status: rejection.status(),
        outcome: Err(rejection.reason()),
        subprotocol: None,
        time: None,
    });
    if !worker.may_log() {
        return;
    }
    tracing::info!(
        id = %link.session_id(),
        peer = link.peer.map(tracing::field::display),
        protocol = row,
        status = rejection.status(),
        reason = rejection.reason().code(),
        path = request.map(|request| redact::path(request.path())),
        trace_id = request.and_then(Request::trace_parent).map(trace_id),
        "refused"
    );
}

/// A request that asked for an upgrade was answered as if it had not.
pub(crate) fn ignored(link: &Link, request: &Request<'_>) {
    if let Some(row) = row(link, request, None) {
        link.worker.counters.ignored(row);
    }
}

/// A request was switched, so long after its head was there.
pub(crate) fn switched(
    link: &Link,
    request: &Request<'_>,
    accepted: &Accepted,
    protocol: Option<&str>,
    time: Duration,
) {
    let worker = &link.worker;
    worker.counters.switched(accepted.token, time);
    let subprotocol = accepted.fields.iter().find(|(name, _)| *name == "Sec-WebSocket-Protocol");
    let subprotocol = subprotocol.map(|(_, value)| &**value);
    // It is the first: a connection is switched once.
    drop(link.details.set(Details::of(link, request, subprotocol)));
    worker.recents.add(worker.config.telemetry.recent_handshakes, || Recent {
        at: SystemTime::now(),
        session: link.session_id(),
        peer: link.peer,
        path: Some(redact::path(request.path()).into()),
        http: Some(request.version()),
        asked: asked_for(request, protocol),
        status: if request.version() < Version::Http2 { 101 } else { 200 },
        outcome: Ok(accepted.token),
        subprotocol: subprotocol.map(Into::into),
        time: Some(time),
    });
}

/// A session begins to speak `token`.
pub(crate) fn begins(link: &Link, token: Token) {
    link.worker.counters.session_begins(token);
    link.since.set(link.worker.now());
    tracing::debug!(
        id = %link.session_id(),
        peer = link.peer.map(tracing::field::display),
        protocol = token.as_str(),
        path = link.details.get().map(|details| &*details.path),
        "switched"
    );
}

/// A session's protocol is done: how it has ended, in a word of a closed set.
pub(crate) fn ends(link: &Link, ended: &Result<Result<(), Error>, Panic>) -> &'static str {
    let counters = &link.worker.counters;
    let kind = match ended {
        Ok(Ok(())) => "ok",
        Ok(Err(error)) => error.kind(),
        Err(panic) => {
            report_panic(link, &**panic);
            "panic"
        }
    };
    match ended {
        _ if link.was_cut() => {} // counted when it was cut
        Ok(Ok(()) | Err(Error::Closed)) => add(&counters.closed_clean, 1),
        Ok(Err(Error::TimedOut)) => add(&counters.cut, 1),
        _ => add(&counters.lost, 1),
    }
    kind
}

/// A session's connection is done, too; `kind` is what [`ends`] has found.
pub(crate) fn ended(link: &Link, kind: &'static str, ended: &Result<Result<(), Error>, Panic>) {
    let worker = &link.worker;
    let outcome = match kind {
        _ if worker.sessions.is_doomed(link) => "killed",
        _ if link.was_cut() => "cut",
        kind => kind,
    };
    let milliseconds = worker.now().saturating_sub(link.since.get());
    let token = link.token.get();
    if let Some(token) = token {
        worker.counters.session_ended(token, outcome, Duration::from_millis(milliseconds));
    }
    let went_well = matches!(outcome, "ok" | "closed");
    if !tracing::enabled!(tracing::Level::INFO) || (went_well && !worker.is_sampled()) || !worker.may_log() {
        return;
    }
    let details = link.details.get();
    let reason = match ended {
        Ok(Err(error)) => Some(tracing::field::display(error)),
        _ => None,
    };
    tracing::info!(
        id = %link.session_id(),
        peer = link.peer.map(tracing::field::display),
        protocol = token.as_ref().map(Token::as_str),
        user = link.identity().and_then(Identity::subject),
        path = details.map(|details| &*details.path),
        subprotocol = details.and_then(|details| details.subprotocol.as_deref()),
        outcome,
        reason,
        received = link.received.get(),
        sent = link.sent.get(),
        milliseconds,
        close_code = link.close_code(),
        trace_id = details.and_then(|details| details.trace).map(trace_id),
        "ended"
    );
}

fn trace_id(parent: TraceParent) -> tracing::field::DisplayValue<TraceId> {
    tracing::field::display(TraceId(parent.trace_id()))
}

struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = SessionId { core: 3, slot: 17, number: u64::MAX };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1", "1-2", "1-2-", "1-2-3-4", "a-b-c", "-1-2-3", "4294967296-0-0", "+1-2-3"] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad}");
        }
    }
}
