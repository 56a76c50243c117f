//! The live sessions of all cores: a page of them, one, and the end of one.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{answer, answers, missing, parameter, parsed, rfc3339};
use crate::{
    Handle, Rejection, Request, Response, Token,
    authorize::Identity,
    observe::{Details, SessionId},
    sessions::{Link, Millis},
    trace::Filter,
};

/// What is told of a session, to another core.
struct Told {
    id: SessionId,
    peer: Option<SocketAddr>,
    token: Option<Token>,
    user: Option<String>,
    details: Option<Details>,
    age: Millis,
    received: u64,
    sent: u64,
    is_ending: bool,
    time_left: [Option<Millis>; 3],
}

impl Told {
    fn of(link: &Link) -> Self {
        Self {
            id: link.session_id(),
            peer: link.peer,
            token: link.token.get(),
            user: link.identity().and_then(Identity::subject).map(ToOwned::to_owned),
            details: link.details.get().map(|details| Details::clone(details)),
            age: link.worker.now().saturating_sub(link.since.get()),
            received: link.received.get(),
            sent: link.sent.get(),
            is_ending: link.is_goodbye() || link.close_code().is_some(),
            time_left: link.time_left(),
        }
    }

    fn to_json(&self) -> Value {
        let details = self.details.as_ref();
        let since = SystemTime::now() - Duration::from_millis(self.age);
        json!({
            "id": self.id.to_string(),
            "core": self.id.core,
            "peer": self.peer.map(|peer| peer.to_string()),
            "protocol": self.token.map(|token| token.as_str()),
            "user": self.user,
            "path": details.map(|details| &*details.path),
            "subprotocol": details.and_then(|details| details.subprotocol.as_deref()),
            "trace_id": details.and_then(|details| details.trace).map(|trace| format!("{:032x}", trace.trace_id())),
            "since": rfc3339(since),
            "seconds": self.age as f64 / 1e3,
            "received": self.received,
            "sent": self.sent,
            "ending": self.is_ending,
        })
    }
}

/// `GET /sessions?limit=…&after=…&filter=…`: a page, in the order of the cores' lists. `next` is where the next one
/// begins; a page may be short, or empty, before the last one, for no core looks through more than a part of its list at
/// a time.
pub(super) async fn list(handle: &Handle, request: &Request<'_>) -> Result<Response, Rejection> {
    let limit = parsed::<usize>(request, "limit")?.unwrap_or(LIMIT).clamp(1, LIMIT_MAX);
    let filter = parsed::<Filter>(request, "filter")?.unwrap_or_default();
    let (first, slot) = match parameter(request, "after") {
        Some(place) => place_of(&place).ok_or_else(|| Rejection::bad_request("after: it is CORE-SLOT"))?,
        None => (0, 0),
    };
    let last = handle.workers().saturating_sub(1);
    let asked = handle.ask(first as usize..=last, move |worker| {
        let from = if worker.core() == first { slot } else { 0 };
        worker.sessions.page(from, limit, |link| {
            let path = link.details.get().map(|details| &*details.path);
            let token = link.token.get();
            let takes = filter.takes(link.peer, path, token.as_ref().map(Token::as_str));
            takes.then(|| Told::of(link))
        })
    });
    let mut sessions = Vec::new();
    let mut next = None;
    let mut silent = Vec::new();
    for (core, page) in (first..).zip(answers(asked).await) {
        let Some((page, rest)) = page else {
            silent.push(core);
            continue;
        };
        let room = limit - sessions.len();
        let cut = page.get(room).map(|told| told.id.slot);
        sessions.extend(page.iter().take(room).map(Told::to_json));
        next = cut.or(rest).map(|slot| format!("{core}-{slot}"));
        if next.is_none() && sessions.len() == limit && (core as usize) < last {
            next = Some(format!("{}-0", core + 1));
        }
        if next.is_some() {
            break;
        }
    }
    Ok(answer(&json!({ "sessions": sessions, "next": next, "silent_cores": silent })))
}

/// Sessions of a page, if nothing else is asked for.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

fn place_of(text: &str) -> Option<(u32, u32)> {
    let (core, slot) = text.split_once('-')?;
    Some((core.parse().ok()?, slot.parse().ok()?))
}

/// `GET /session?id=…`: one, with what it waits for.
pub(super) async fn inspect(handle: &Handle, request: &Request<'_>) -> Result<Response, Rejection> {
    let found = ask_one(handle, request, |link| Told::of(link)).await?;
    Ok(found.map_or_else(unknown, |told| {
        let mut value = told.to_json();
        let [read, write, close] = told.time_left;
        value["waits_ms"] = json!({ "read": read, "write": write, "close": close });
        answer(&value)
    }))
}

/// `POST /kill?id=…`: its goodbye now, and its end when the close time is over.
pub(super) async fn kill(handle: &Handle, request: &Request<'_>) -> Result<Response, Rejection> {
    let found = ask_one(handle, request, |link| {
        let worker = &link.worker;
        let grace = worker.config.close_time.as_millis() as Millis;
        worker.sessions.kill(link, worker.now(), grace);
        Told::of(link)
    })
    .await?;
    Ok(found.map_or_else(unknown, |told| {
        tracing::warn!(id = %told.id, "an operator ends a session");
        answer(&json!({ "killed": told.to_json() }))
    }))
}

fn unknown() -> Response {
    missing("there is no such session; it may have ended")
}

/// Asks the core of a session for it.
async fn ask_one<T: Send + 'static>(
    handle: &Handle,
    request: &Request<'_>,
    question: impl Fn(&Rc<Link>) -> T + Send + Sync + 'static,
) -> Result<Option<T>, Rejection> {
    let id =
        parsed::<SessionId>(request, "id")?.ok_or_else(|| Rejection::bad_request("id: it is missing"))?;
    let core = id.core as usize;
    let asked = handle.ask(core..=core, move |worker| worker.sessions.find(id).map(|link| question(&link)));
    if asked.is_empty() {
        return Ok(None);
    }
    match answers(asked).await.pop() {
        Some(Some(found)) => Ok(found),
        _ => Err(Rejection::unavailable(1).detail("The session's core does not answer.")),
    }
}
