//! A connection that speaks HTTP/2: one task drives it, takes the requests as they come, and answers those that it can at
//! once. What has to wait is a task of its own.
//!
//! All requests that have arrived are taken before the first is answered, so that the answers go out in one write: each
//! look for another request makes the `h2` crate send what it has.

use std::{
    cell::Cell,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use ::http::{HeaderValue, Method};
use bytes::Bytes;
use h2::{Reason as Code, RecvStream, server};

use super::{
    exchange::{self, Asked, Exchange},
    gate::Gate,
    io::{Io, Watch},
    request,
    stream::Inlet,
};
use crate::{
    Error, Reason, Rejection, Response, Upgraded,
    connection::{ALLOW, report_panic},
    metrics::add,
    observe,
    resource::{Answerer, Choice},
    sessions::{Link, Millis, NEVER, Side},
    upgrade::Kept,
};

/// The request that came with an upgrade, to be answered on stream 1.
#[derive(Debug)]
pub(crate) struct First {
    /// Its settings, decoded.
    pub(crate) settings: Vec<u8>,
    /// Its head, as it arrived.
    pub(crate) head: Vec<u8>,
    /// Its body, whole.
    pub(crate) body: Vec<u8>,
}

/// Speaks HTTP/2 on `connection` until one side is done: after an upgrade with its `first` request, or from the start.
pub(crate) async fn run(connection: Upgraded, first: Option<First>) -> Result<(), Error> {
    let (link, buf) = connection.into_parts();
    let config = &link.worker.config;
    link.goodbye_within(Duration::MAX); // its lifetime is one of HTTP/2's own limits
    let watch = Rc::new(Watch::new(&link));
    let (gate, first) = match first {
        Some(First { settings, head, body }) => (Gate::upgraded(settings), Some((head, Bytes::from(body)))),
        None => (Gate::new(), None),
    };
    let io = Io::new(Rc::clone(&link), Rc::clone(&watch), gate, buf.unread());
    drop(buf);
    let limits = &config.http2;
    let handshake = server::Builder::new()
        .max_concurrent_streams(limits.streams_max)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.head_max)
        .max_send_buffer_size(limits.send_max)
        .max_concurrent_reset_streams(limits.streams_max as usize)
        .max_local_error_reset_streams(Some(RESETS_OF_OURS_MAX))
        .data_frame_budget(TINY_FRAMES_MAX)
        .enable_connect_protocol()
        .handshake(io);
    link.within(Side::Read, config.head_time);
    // A request that was upgraded is answered first, also in a drain.
    let connection = match link.wait(Side::Read, first.is_none(), handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            let Some(fault) = watch.fault() else { return Err(failure(error)) };
            // Our SETTINGS have been sent, so this is a frame like any other. What the socket does not take is lost.
            drop(link.stream.try_write(GO_AWAY));
            return Err(Error::peer(fault));
        }
        Err(crate::sessions::Interrupt::Goodbye) => return Ok(()),
        Err(crate::sessions::Interrupt::Expired) => return Err(Error::TimedOut),
    };
    link.deadline(Side::Read, NEVER);
    link.within(Side::Close, limits.lifetime);
    let mut driver = Driver {
        date: Date::new(&link),
        link: Rc::clone(&link),
        watch,
        connection,
        first,
        inlets: Rc::default(),
        live: Rc::default(),
        stage: Stage::Open,
        waits: Waits::Nothing,
        balance: 0,
        batch: Vec::new(),
    };
    let result = poll_fn(|cx| driver.poll(cx)).await;
    for side in [Side::Read, Side::Write, Side::Close] {
        link.deadline(side, NEVER);
    }
    result
}

/// Errors of the peer on streams, in a connection's life; beyond, the crate ends it (CVE-2025-8671).
const RESETS_OF_OURS_MAX: usize = 1024;
/// What the crate may hold of small DATA frames beside their bytes. They are taken from it after each turn, which brings
/// about ten thousand of the smallest at most, each counted as 256 bytes.
const TINY_FRAMES_MAX: usize = 4 << 20;
/// GOAWAY with PROTOCOL_ERROR; no stream was looked at.
const GO_AWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

struct Driver {
    link: Rc<Link>,
    watch: Rc<Watch>,
    connection: server::Connection<Io, Bytes>,
    /// What stream 1 is the answer to after an upgrade: head and body.
    first: Option<(Vec<u8>, Bytes)>,
    /// The streams that carry a protocol of their own.
    inlets: Rc<std::cell::RefCell<Vec<Inlet>>>,
    /// Tasks that were started for its requests.
    live: Rc<Cell<usize>>,
    stage: Stage,
    waits: Waits,
    /// What was sent beyond what was received, when the peer was last seen to take something.
    balance: i64,
    /// Requests that were taken and not looked at.
    batch: Vec<Option<(::http::Request<RecvStream>, server::SendResponse<Bytes>)>>,
    date: Date,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The peer was asked to open another connection. What has begun goes on; requests that are taken from this moment on
    /// cannot have crossed the GOAWAY.
    Leaving(Millis),
    /// The peer was told of this error, and gets no more than the time to hear it.
    Failing(&'static str),
}

/// What the peer is waited for, with a deadline that begins when that does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// Nothing: what is open has limits of its own.
    Nothing,
    /// Any request.
    Request,
    /// The rest of this head.
    Head(u64),
    /// That it takes what is queued for it: all answers are made.
    Taking,
    /// The end, as nothing is left to do.
    End,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.link.listen(Side::Read, cx.waker());
        self.watch.next_turn();
        if let Some(result) = self.heed() {
            return Poll::Ready(result);
        }
        loop {
            let over = loop {
                match self.connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok((_, mut respond)))) if self.is_too_late_for(&respond) => {
                        self.refuse(&mut respond);
                    }
                    Poll::Ready(Some(Ok(taken))) => self.batch.push(Some(taken)),
                    Poll::Ready(Some(Err(error))) => break Some(self.ended(error)),
                    Poll::Ready(None) => break Some(Ok(())),
                    Poll::Pending => break None,
                }
                if self.batch.len() == BATCH_MAX {
                    break None;
                }
            };
            self.watch.has_sent();
            self.inlets.borrow_mut().retain(Inlet::pump);
            if let Some(result) = over {
                return Poll::Ready(match self.stage {
                    Stage::Failing(why) => Err(Error::peer(why)),
                    _ => result,
                });
            }
            if self.watch.is_flooded() && !matches!(self.stage, Stage::Failing(_)) {
                self.fail("more than it may, of frames that lead nowhere");
                continue;
            }
            if self.batch.is_empty() {
                self.set_deadlines();
                return Poll::Pending;
            }
            self.answer();
        }
    }

    /// Heeds passed deadlines and the server's drain; `Some` is the end.
    fn heed(&mut self) -> Option<Result<(), Error>> {
        let link = &self.link;
        if link.is_overdue(Side::Write) {
            return Some(Err(Error::TimedOut));
        }
        if link.is_overdue(Side::Close) {
            link.deadline(Side::Close, NEVER);
            match self.stage {
                Stage::Open => self.leave(),
                Stage::Leaving(_) => return Some(Ok(())),
                Stage::Failing(why) => return Some(Err(Error::peer(why))),
            }
        }
        if self.link.is_overdue(Side::Read) {
            self.link.deadline(Side::Read, NEVER);
            match self.waits {
                Waits::Head(_) => self.fail("a head without an end"),
                Waits::Taking if balance(&self.link) > self.balance => {
                    self.balance = balance(&self.link);
                    self.link.within(Side::Read, self.link.worker.config.write_time);
                }
                Waits::Taking => self.fail("answers that are not taken"),
                Waits::Request => self.leave(),
                Waits::Nothing | Waits::End => {}
            }
        }
        if self.link.is_goodbye() && self.stage == Stage::Open {
            self.leave();
        }
        None
    }

    /// GOAWAY, twice: the first names no last stream, so that nothing on its way is lost (RFC 9113 6.8).
    fn leave(&mut self) {
        let crossing = self.link.worker.config.close_time.as_millis().try_into().unwrap_or(NEVER);
        self.stage = Stage::Leaving(self.link.worker.now().saturating_add(crossing));
        self.connection.graceful_shutdown();
        self.link.deadline(Side::Close, NEVER); // its lifetime
        self.set_deadlines();
    }

    fn fail(&mut self, why: &'static str) {
        self.stage = Stage::Failing(why);
        self.waits = Waits::Nothing;
        self.connection.abrupt_shutdown(Code::ENHANCE_YOUR_CALM);
        self.link.deadline(Side::Read, NEVER);
        self.link.within(Side::Close, self.link.worker.config.close_time);
    }

    /// Whether the time has passed in which a request may have crossed the GOAWAY.
    fn has_left(&self) -> bool {
        matches!(self.stage, Stage::Leaving(crossed) if crossed <= self.link.worker.now())
    }

    /// Whether a request is not taken any more. What an upgrade came with was asked before.
    fn is_too_late_for(&self, respond: &server::SendResponse<Bytes>) -> bool {
        self.has_left() && !(self.first.is_some() && respond.stream_id().as_u32() == 1)
    }

    /// Nothing was done about the request, so that it can be sent again elsewhere (RFC 9113 8.7). A peer that asks on
    /// whatever it was told has its streams ended one by one, and puts off nothing by it.
    fn refuse(&mut self, respond: &mut server::SendResponse<Bytes>) {
        add(&self.link.worker.counters.requests, 1);
        respond.send_reset(Code::REFUSED_STREAM);
        self.balance += RST_STREAM_SIZE; // that it takes this is no sign that it takes its answers
    }

    fn set_deadlines(&mut self) {
        let is_live = self.live.get() > 0;
        let has_streams = || self.connection.has_streams();
        let waits = match (self.watch.head_under_way(), self.stage) {
            (_, Stage::Failing(_)) => return,
            // What begins now is refused, so nothing of it is waited for.
            _ if self.has_left() && (self.waits == Waits::End || !(is_live || has_streams())) => Waits::End,
            (Some(number), _) => Waits::Head(number),
            _ if is_live => Waits::Nothing,
            _ if has_streams() => Waits::Taking,
            (None, Stage::Open) => Waits::Request,
            (None, Stage::Leaving(_)) => Waits::End,
        };
        self.wait_for(waits);
    }

    fn wait_for(&mut self, waits: Waits) {
        if waits == self.waits {
            return;
        }
        let (link, config) = (&self.link, &self.link.worker.config);
        if self.waits == Waits::End {
            // A request has crossed the GOAWAY, and gets its answer.
            link.deadline(Side::Close, NEVER);
        }
        self.waits = waits;
        match waits {
            Waits::Nothing => link.deadline(Side::Read, NEVER),
            Waits::Head(_) => link.within(Side::Read, config.head_time),
            Waits::Taking => {
                self.balance = balance(link);
                link.within(Side::Read, config.write_time);
            }
            Waits::Request => link.within(Side::Read, config.keep_alive_time),
            Waits::End => {
                link.deadline(Side::Read, NEVER);
                link.within(Side::Close, config.close_time);
            }
        }
    }

    /// How an error of the crate is to be taken.
    fn ended(&self, error: h2::Error) -> Result<(), Error> {
        let is_farewell = error.is_go_away() && error.is_remote() && error.reason() == Some(Code::NO_ERROR);
        if is_farewell { Ok(()) } else { Err(failure(error)) }
    }

    /// Answers the requests that were taken, or has them answered. They stay where they are: moving them costs as much
    /// as much of the rest.
    fn answer(&mut self) {
        self.wait_for(Waits::Nothing);
        let mut batch = std::mem::take(&mut self.batch);
        for place in &mut batch {
            let Some((here, respond)) = place else { continue };
            let (mut before, mut body) = (None, None);
            if self.first.is_some() && respond.stream_id().as_u32() == 1 {
                (before, body) = self.first.take().unzip();
            } else {
                add(&self.link.worker.counters.requests, 1);
                request::join_cookies(here.headers_mut());
                if here.body().is_end_stream() {
                    body = Some(Bytes::new());
                }
            }
            match self.plan(Asked { here, before: before.as_deref() }, body.as_deref()) {
                Plan::Answer(response, is_to_head) => {
                    let date = self.date.get(&self.link);
                    exchange::send(&self.link, respond, response, is_to_head, date, Live::new(&self.live));
                }
                Plan::Wait(_) if self.live.get() >= self.link.worker.config.http2.streams_max as usize => {
                    respond.send_reset(Code::REFUSED_STREAM);
                }
                Plan::Wait(todo) => {
                    let (here, respond) = place.take().expect("it was there");
                    let exchange = Exchange {
                        link: Rc::clone(&self.link),
                        here,
                        before,
                        body,
                        respond,
                        inlets: Rc::clone(&self.inlets),
                        watch: Rc::clone(&self.watch),
                        date: self.date.get(&self.link),
                        live: Live::new(&self.live),
                    };
                    crate::spawn(exchange.run(todo));
                }
            }
        }
        batch.clear();
        self.batch = batch; // empty, with its room
    }

    /// What is to be done about a request, as far as it can be said at once.
    fn plan(&self, asked: Asked<'_>, body: Option<&[u8]>) -> Plan {
        let link = &self.link;
        let kept = Kept::default();
        let refuse = |rejection: Rejection, is_to_head: bool| {
            observe::refused(link, &rejection, None, None);
            Plan::Answer(rejection.to_response(false), is_to_head)
        };
        let request = match asked.request(link, body.unwrap_or_default(), &kept) {
            Ok(request) => request,
            Err(fault) => return refuse(fault.into(), asked.method() == Method::HEAD),
        };
        let is_to_head = request.method() == "HEAD";
        let answer = |response| Plan::Answer(response, is_to_head);
        if asked.protocol().is_some() {
            return Plan::Wait(Todo::Connect);
        }
        if request.is_options_asterisk() {
            return answer(Response::new(204).field("Allow", ALLOW));
        }
        let choice = exchange::choose(&link.worker, &request);
        match choice {
            Ok(Choice::Answer(response)) => answer(response),
            Ok(Choice::Ask(Answerer::AtOnce(resource))) if body.is_some() => {
                match catch_unwind(AssertUnwindSafe(|| resource(&request))) {
                    Ok(response) => answer(response),
                    Err(panic) => {
                        report_panic(link, &*panic);
                        answer(Rejection::from(Reason::Internal).to_response(false))
                    }
                }
            }
            Ok(Choice::Ask(answerer)) => Plan::Wait(Todo::Answer(answerer)),
            Err(rejection) => {
                observe::refused(link, &rejection, Some(&request), None);
                answer(rejection.answer_to(&request))
            }
        }
    }
}

/// A peer that only asks for replies, with PING or SETTINGS, gets no more than it sends; one that takes an answer does.
fn balance(link: &Link) -> i64 {
    link.sent.get().cast_signed() - link.received.get().cast_signed()
}

/// A frame's header, and the code.
const RST_STREAM_SIZE: i64 = 9 + 4;

/// Requests that are taken before they are answered: as many answers go out in one write.
const BATCH_MAX: usize = 64;

enum Plan {
    /// The answer, and whether it is one to HEAD.
    Answer(Response, bool),
    /// A task of its own.
    Wait(Todo),
}

/// What a request's task has to do.
pub(super) enum Todo {
    Answer(Answerer),
    Connect,
}

/// One of the tasks of a connection.
pub(super) struct Live(Rc<Cell<usize>>);

impl Live {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        for inlet in self.inlets.borrow_mut().drain(..) {
            inlet.lost();
        }
    }
}

/// The `Date` of answers, made once a second.
struct Date {
    value: HeaderValue,
    second: Millis,
}

impl Date {
    fn new(link: &Link) -> Self {
        let value = HeaderValue::from_str(&link.worker.date()).expect("a date is ASCII");
        Self { value, second: link.worker.now() / 1000 }
    }

    fn get(&mut self, link: &Link) -> HeaderValue {
        if self.second != link.worker.now() / 1000 {
            *self = Self::new(link);
        }
        self.value.clone()
    }
}

/// Who is to blame for the end.
fn failure(error: h2::Error) -> Error {
    if error.is_io() {
        return match error.into_io() {
            Some(error) => error.into(),
            None => std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into(),
        };
    }
    Error::peer(error)
}
