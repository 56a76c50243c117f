//! A connection before its switch: head → authorize → choice → answer → session.
//!
//! It waits for a head with little in hand; what only an answer needs is boxed for as long as it is given, and freed
//! when the session begins.

use std::{
    any::Any,
    io, panic,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use pin_project_lite::pin_project;

#[cfg(feature = "tls")]
use crate::tls::{Fault, Tls};
use crate::{
    Error, Reason, Rejection, Request, Response, Stream, Token,
    buffer::ReadBuf,
    h2c::{self, PREFACE},
    http::{BodyReader, Framing, Head, HeadScanner, Version},
    limits,
    metrics::add,
    observe,
    registry::{Accepted, Found, Handler, LocalBoxFuture},
    resource::{Answerer, Choice, METHODS},
    response,
    seats::Ended,
    sessions::{Interrupt, Link, NEVER, Side, Tracked},
    upgrade::{Accept, Decision, EarlyBytes, Kept},
    upgraded::{Upgraded, write_all},
    worker::panic_message,
};

/// Answers the requests of a connection, until it is switched or closed.
pub(crate) async fn serve(tracked: Tracked) {
    let link = Rc::clone(&tracked.0);
    let mut buf = ReadBuf::new();
    let mut is_first = true;
    #[cfg(feature = "tls")]
    if let Some(tls) = link.stream.as_tls() {
        match Box::pin(secure(&link, tls)).await {
            Some(Version::Http2) => return speak_http2(tracked, buf),
            Some(_) => {}
            None => return,
        }
    }
    loop {
        let head_len = match next_arrival(&link, &mut buf, is_first).await {
            Ok(Arrival::Head(head_len)) => head_len,
            Ok(Arrival::Http2) => return speak_http2(tracked, buf),
            Ok(Arrival::Nothing) => return,
            Err(Error::Rejected(rejection)) => return Box::pin(refuse_and_close(&link, *rejection)).await,
            Err(_) => return,
        };
        if is_first {
            limits::opened(&link);
        }
        is_first = false;
        add(&link.worker.counters.requests, 1);
        // Boxed, as the ends are: they are large, and an idle connection does not keep room for them.
        let answered = Box::pin(catch(answer(&link, &mut buf, head_len))).await;
        match answered {
            Ok(Ok(Next::Request)) => {}
            Ok(Ok(Next::Close)) => return Box::pin(linger(&link)).await,
            Ok(Ok(Next::Switch(accepted))) => {
                monoio::spawn(session(tracked, buf, accepted.token, accepted.run));
                return;
            }
            Ok(Err(_)) => return,
            Err(panic) => {
                report_panic(&link, &*panic);
                return Box::pin(refuse_and_close(&link, Reason::Internal.into())).await;
            }
        }
    }
}

fn speak_http2(tracked: Tracked, buf: ReadBuf) {
    monoio::spawn(session(tracked, buf, HTTP2, |connection| Box::pin(h2c::run(connection, None))));
}

/// Agrees with the client on TLS, within the time of a head, and says which HTTP follows; `None` where nothing does.
#[cfg(feature = "tls")]
async fn secure(link: &Link, tls: &Tls) -> Option<Version> {
    let worker = &link.worker;
    link.within(Side::Read, worker.config.head_time);
    let fault = match link.wait(Side::Read, true, tls.handshake()).await {
        Ok(Ok(())) => {
            let info = tls.info();
            worker.counters.secured(info.is_resumed);
            tracing::debug!(id = link.id, peer = link.peer.map(tracing::field::display), ?info, "secured");
            return Some(if info.alpn.as_deref() == Some("h2") { Version::Http2 } else { Version::Http11 });
        }
        Ok(Err(fault)) => fault,
        Err(Interrupt::Expired) => Fault::TimedOut,
        Err(Interrupt::Goodbye) => return None,
    };
    worker.counters.not_secured(fault.code());
    if worker.may_log() {
        let peer = link.peer.map(tracing::field::display);
        tracing::info!(peer, reason = fault.code(), error = %fault, "no TLS");
    }
    if let Fault::PlainHttp = fault {
        let rejection = Rejection::from(Reason::TlsRequired);
        worker.counters.refused(rejection.reason(), None);
        let mut bytes = Vec::new();
        rejection.to_response(false).encode(&mut bytes, &worker.date(), Some("close"), false);
        // Only what the socket takes at once, which is all of it.
        drop(tls.transport().try_write(&bytes));
    }
    if let Fault::PlainHttp | Fault::Tls(_) = fault {
        tls.shutdown_write();
        drain(link, tls.transport()).await; // so that it reads our answer, or alert
    }
    None
}

/// What a connection brings next.
enum Arrival {
    /// A whole head, of so many bytes.
    Head(usize),
    /// HTTP/2, by prior knowledge.
    Http2,
    /// Nothing: it has ended, or idled, between requests.
    Nothing,
}

/// HTTP/2 without an upgrade to it, under its name in ALPN (RFC 9113 3.1).
const HTTP2: Token = Token::new("h2");

/// Waits for what comes next.
async fn next_arrival(link: &Link, buf: &mut ReadBuf, is_first: bool) -> Result<Arrival, Error> {
    let config = &link.worker.config;
    let mut scanner = HeadScanner::default();
    // The deadline is absolute: bytes that dribble in do not move it.
    let mut head_has_begun = is_first;
    // By TLS, ALPN has said which it is.
    let mut may_be_http2 = is_first && config.http2.prior_knowledge && !link.stream.is_secure();
    link.within(Side::Read, if is_first { config.head_time } else { config.keep_alive_time });
    loop {
        let is_idle = buf.unread().is_empty();
        if !is_idle {
            if !head_has_begun {
                head_has_begun = true;
                link.within(Side::Read, config.head_time);
            }
            // Its preface looks like a head, so it is compared first, as it arrives.
            may_be_http2 &= PREFACE.starts_with(buf.unread()) || buf.unread().starts_with(PREFACE);
            if may_be_http2 && buf.unread().len() >= PREFACE.len() {
                return Ok(Arrival::Http2);
            }
            if !may_be_http2
                && let Some(head_len) = scanner.find(buf.unread(), &config.head).map_err(Rejection::from)?
            {
                return Ok(Arrival::Head(head_len));
            }
        }
        match fill(link, buf, is_idle).await? {
            Ok(0) | Err(Interrupt::Goodbye) => return Ok(Arrival::Nothing),
            Ok(_) => {}
            Err(Interrupt::Expired) if is_idle => return Ok(Arrival::Nothing),
            Err(Interrupt::Expired) => return Err(Rejection::from(Reason::HeadTimeout).into()),
        }
    }
}

async fn fill(
    link: &Link,
    buf: &mut ReadBuf,
    heeds_goodbye: bool,
) -> Result<Result<usize, Interrupt>, Error> {
    let filling = std::mem::take(buf).fill(&link.stream, &link.worker.pool);
    match link.wait(Side::Read, heeds_goodbye, filling).await {
        Ok((result, back)) => {
            *buf = back;
            Ok(Ok(result?))
        }
        Err(interrupt) => Ok(Err(interrupt)),
    }
}

/// What becomes of a connection after an answer.
enum Next {
    Request,
    Close,
    Switch(Accepted),
}

/// Answers one request.
async fn answer(link: &Rc<Link>, buf: &mut ReadBuf, head_len: usize) -> Result<Next, Error> {
    let began = Instant::now();
    let worker = &link.worker;
    link.within(Side::Read, worker.config.answer_time);
    let kept = Kept::default();
    let raw = buf.unread()[..head_len].to_vec();
    buf.consume(head_len);
    let head = match Head::parse(&raw, &worker.config.head) {
        Ok(head) => head,
        Err(fault) => {
            refuse(link, &fault.into()).await?;
            return Ok(Next::Close);
        }
    };
    let request = Request {
        head,
        body: b"",
        peer: link.peer,
        listener: link.listener(),
        draining: worker.is_draining(),
        stream: &link.stream,
        raw: &raw,
        kept: &kept,
    };
    let asks = Asks::of(&request);
    if let (Some(tap), true) = (link.stream.tap(), asks != Asks::Not) {
        tap.request(link, &request, request.list("upgrade").next().unwrap_or_default());
    }
    let mut exchange = Exchange { link, buf, asks, body: Body::new(&request), continued: false };
    let found = worker.registry.find(request.path(), request.may_change_http());
    let outcome = match asks {
        Asks::Properly if worker.is_closing() => Outcome::Refused(Reason::Draining.into()),
        Asks::Properly => match worker.admission.may_ask(link.peer) {
            Ok(()) => exchange.negotiate(&request, &found).await?,
            Err(reason) => Outcome::Refused(reason.into()),
        },
        _ => Outcome::Ordinary,
    };
    match outcome {
        Outcome::Switch(accepted) => {
            if let Some(kept) = kept.take() {
                // It is the first: a connection is switched once.
                drop(link.kept.set(kept));
            }
            if let (Some(tap), body @ [_, ..]) = (link.stream.tap(), exchange.body.bytes()) {
                tap.body(body);
            }
            exchange.send_switching(&accepted).await?;
            observe::switched(link, &request, &accepted, None, began.elapsed());
            Ok(Next::Switch(accepted))
        }
        Outcome::Refused(rejection) => exchange.refuse(&request, rejection, &found).await,
        Outcome::Ordinary => match exchange.ordinary(&request, &found).await? {
            Ok(response) => {
                observe::ignored(link, &request);
                let is_offered = (200..300).contains(&response.status) && found.has_protocols();
                exchange.send(&request, response, is_offered.then(|| found.advertisement())).await
            }
            Err(rejection) => exchange.refuse(&request, rejection, &found).await,
        },
    }
}

/// How a request asks for an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Not,
    /// In HTTP/1.0, where it has to be ignored (RFC 9110 7.8).
    InHttp10,
    /// Without `Connection: upgrade`, as a field that some proxy forgot.
    WithoutConnection,
    Properly,
}

impl Asks {
    fn of(request: &Request<'_>) -> Self {
        if request.list("upgrade").next().is_none() {
            Self::Not
        } else if request.head.version == Version::Http10 {
            Self::InHttp10
        } else if !request.head.fields.has_token("connection", "upgrade") {
            Self::WithoutConnection
        } else {
            Self::Properly
        }
    }
}

enum Outcome {
    Switch(Accepted),
    Refused(Rejection),
    Ordinary,
}

/// A request's body, as far as it was read.
enum Body {
    None,
    Unread(Framing),
    Read(Vec<u8>),
}

impl Body {
    fn new(request: &Request<'_>) -> Self {
        if request.has_body() { Self::Unread(request.head.framing) } else { Self::None }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            _ => b"",
        }
    }
}

/// One request and its answer.
struct Exchange<'a> {
    link: &'a Rc<Link>,
    buf: &'a mut ReadBuf,
    asks: Asks,
    body: Body,
    /// 100 has been sent.
    continued: bool,
}

impl Exchange<'_> {
    /// Asks the handlers whose protocols are offered, one after the other.
    async fn negotiate(&mut self, request: &Request<'_>, found: &Found) -> Result<Outcome, Error> {
        let mut refusal = None;
        for handler in found.offered(request.list("upgrade")) {
            // `OPTIONS *` is about the server, not about a path that a protocol could be for.
            if !handler.considers(request) || (request.is_options_asterisk() && !handler.is_http()) {
                continue;
            }
            let accepts = handler.accepts();
            if !accepts.methods.contains(&request.method()) {
                refusal.get_or_insert_with(|| Rejection::method_not_allowed(accepts.methods.join(", ")));
                continue;
            }
            match self.ask(request, handler).await? {
                Decision::Accept(accept) => return Ok(Outcome::Switch(accept.session)),
                Decision::Reject(rejection) => return Ok(Outcome::Refused(rejection)),
                Decision::Decline => {}
            }
        }
        Ok(refusal.map_or(Outcome::Ordinary, Outcome::Refused))
    }

    async fn ask(
        &mut self,
        request: &Request<'_>,
        handler: Rc<dyn Handler>,
    ) -> Result<Decision<Accepted>, Error> {
        let accepts = handler.accepts();
        if accepts.body_max == 0 && request.has_body() {
            return Ok(Decision::Reject(Reason::UnexpectedBody.into()));
        }
        match self.link.wait(Side::Read, false, handler.authorize(request)).await {
            Ok(Ok(())) => {}
            Ok(Err(rejection)) => return Ok(Decision::Reject(rejection)),
            Err(_) => return Ok(Decision::Reject(Reason::AuthorizationTimeout.into())),
        }
        let body_max = match handler.is_http() {
            true => accepts.body_max.min(self.link.worker.config.body_max), // a request like any other
            false => accepts.body_max,
        };
        if let Err(rejection) = self.read_body(request, body_max).await? {
            return Ok(Decision::Reject(rejection));
        }
        // RFC 9110 7.8: who asks for both gets the 100 before the 101, also where there is no body to continue with.
        if request.head.expects_continue {
            self.send_continue().await?;
        }
        let early = self.buf.unread();
        match accepts.early {
            EarlyBytes::Refuse if !early.is_empty() => {
                return Ok(Decision::Reject(Reason::EarlyBytes.into()));
            }
            EarlyBytes::KeepIf(start) if !start.starts_with(early) && !early.starts_with(start) => {
                return Ok(Decision::Decline);
            }
            _ => {}
        }
        let request = Request { body: self.body.bytes(), head: request.head.clone(), ..*request };
        let decision = handler.negotiate(&request);
        if let Decision::Accept(Accept { session, .. }) = &decision {
            let invalid = session.fields.iter().find(|(name, value)| !response::is_valid_field(name, value));
            if let Some((name, _)) = invalid {
                tracing::error!(token = %session.token, name, "a handler's field cannot stand in a 101");
                return Ok(Decision::Reject(Reason::Internal.into()));
            }
        }
        Ok(decision)
    }

    async fn send_continue(&mut self) -> Result<(), Error> {
        if !std::mem::replace(&mut self.continued, true) {
            write_all(self.link, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        Ok(())
    }

    /// Reads the body whole, if it was not yet: what follows it is somebody else's. A body that is too long by its own
    /// word is not even asked for.
    async fn read_body(&mut self, request: &Request<'_>, max: usize) -> Result<Result<(), Rejection>, Error> {
        let Body::Unread(framing) = self.body else {
            let fits = self.body.bytes().len() <= max;
            return Ok(if fits {
                Ok(())
            } else {
                Err(Reason::Body(crate::http::BodyFault::TooLarge).into())
            });
        };
        let mut reader = match BodyReader::new(framing, max) {
            Ok(reader) => reader,
            Err(fault) => return Ok(Err(fault.into())),
        };
        if request.head.expects_continue {
            self.send_continue().await?;
        }
        let mut body = Vec::new();
        loop {
            let progress = match reader.read(self.buf.unread(), &mut body) {
                Ok(progress) => progress,
                Err(fault) => return Ok(Err(fault.into())),
            };
            self.buf.consume(progress.consumed);
            if progress.done {
                self.body = Body::Read(body);
                return Ok(Ok(()));
            }
            match fill(self.link, self.buf, false).await? {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(_) => {}
                Err(_) => return Ok(Err(Reason::BodyTimeout.into())),
            }
        }
    }

    async fn send_switching(&mut self, accepted: &Accepted) -> Result<(), Error> {
        let head = response::switching_protocols(accepted.token, &accepted.fields);
        write_all(self.link, head.as_bytes()).await
    }

    /// What the path answers to who does not switch.
    async fn ordinary(
        &mut self,
        request: &Request<'_>,
        found: &Found,
    ) -> Result<Result<Response, Rejection>, Error> {
        let method = request.method();
        if request.is_options_asterisk() {
            return Ok(Ok(Response::new(204).field("Allow", ALLOW)));
        }
        if !METHODS.contains(&method) {
            return Ok(Err(Reason::UnknownMethod.into()));
        }
        let Some(resources) = found.resources() else {
            let reason = match self.asks {
                _ if !found.has_protocols() => Reason::NoSuchPath,
                Asks::Not => Reason::UpgradeRequired,
                Asks::InHttp10 => Reason::UpgradeInHttp10,
                Asks::WithoutConnection => Reason::MissingConnectionUpgrade,
                Asks::Properly => Reason::NoCommonProtocol,
            };
            return Ok(Err(reason.into()));
        };
        let answerer = match resources.choose(method) {
            Ok(Choice::Answer(response)) => return Ok(Ok(response)),
            Ok(Choice::Ask(answerer)) => answerer,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let body_max = self.link.worker.config.body_max;
        if let Body::Unread(_) = self.body
            && let Err(rejection) = self.read_body(request, body_max).await?
        {
            return Ok(Err(rejection));
        }
        let request = Request { body: self.body.bytes(), head: request.head.clone(), ..*request };
        Ok(match &answerer {
            Answerer::AtOnce(answer) => Ok(answer(&request)),
            Answerer::InTime(resource) => {
                let answer = self.link.wait(Side::Read, false, resource.answer(&request)).await;
                answer.unwrap_or_else(|_late| Err(Reason::AnswerTimeout.into()))
            }
        })
    }

    async fn refuse(
        &mut self,
        request: &Request<'_>,
        mut rejection: Rejection,
        found: &Found,
    ) -> Result<Next, Error> {
        observe::refused(self.link, &rejection, Some(request), None);
        // RFC 9110 15.5.22, 15.5.6: what this answer owes, and only the route knows.
        let is_offered = rejection.status() == 426 && found.has_protocols();
        if rejection.status() == 405 && !rejection.has_field("allow") {
            rejection = rejection.field("Allow", ALLOW);
        }
        let response = rejection.answer_to(request);
        self.send(request, response, is_offered.then(|| found.advertisement())).await
    }

    /// Sends an answer, with `Upgrade: offered` where there is something to offer, and says what comes next.
    async fn send(
        &mut self,
        request: &Request<'_>,
        mut response: Response,
        offered: Option<String>,
    ) -> Result<Next, Error> {
        let worker = &self.link.worker;
        // From here on the peer's reading is what is waited for, and that has a limit of its own.
        self.link.deadline(Side::Read, NEVER);
        if !response.has_valid_fields() {
            tracing::error!(path = request.path(), "a handler's field cannot stand in an answer");
            response = Rejection::from(Reason::Internal).to_response(false);
        }
        let asked = self.asks != Asks::Not || request.method() == "CONNECT";
        // Who asked for a switch and sent on regardless may have meant another protocol: none of it is a request
        // (RFC 9931). After a refused CONNECT nothing is (its section on CONNECT).
        let has_early_bytes = asked && !self.buf.unread().is_empty();
        if has_early_bytes {
            add(&worker.counters.refused_with_early_bytes, 1);
        }
        let body_is_read = !matches!(self.body, Body::Unread(_));
        // A proxy may have taken a refused upgrade for a made one, and relays from here on what it has not looked at.
        let is_refused = response.status >= 400 && self.asks == Asks::Properly;
        let is_final = is_refused
            || matches!(response.status, 400 | 408 | 413 | 429 | 500 | 503)
            || request.method() == "CONNECT";
        let keeps =
            request.head.keep_alive && body_is_read && !has_early_bytes && !is_final && !worker.is_ending();
        let connection = match (keeps, offered.is_some()) {
            (true, false) => None,
            (true, true) => Some("upgrade"),
            (false, false) => Some("close"),
            (false, true) => Some("close, upgrade"),
        };
        if let Some(offered) = offered {
            response.fields.push(("Upgrade", offered.into()));
        }
        let mut bytes = Vec::new();
        response.encode(&mut bytes, &worker.date(), connection, request.method() == "HEAD");
        write_all(self.link, &bytes).await?;
        if let Some(tap) = self.link.stream.tap() {
            tap.answered(response.status);
        }
        Ok(if keeps { Next::Request } else { Next::Close })
    }
}

/// What every server takes (RFC 9110 9.1); what a path takes besides, it says itself.
pub(crate) const ALLOW: &str = "GET, HEAD, OPTIONS";

/// Answers a request that could not be read.
async fn refuse(link: &Link, rejection: &Rejection) -> Result<(), Error> {
    observe::refused(link, rejection, None, None);
    let mut bytes = Vec::new();
    rejection.to_response(false).encode(&mut bytes, &link.worker.date(), Some("close"), false);
    write_all(link, &bytes).await
}

async fn refuse_and_close(link: &Link, rejection: Rejection) {
    if refuse(link, &rejection).await.is_ok() {
        linger(link).await;
    }
}

/// Speaks the new protocol, and sees to its end.
// Not an `async fn`, which would have room for its arguments for as long as it runs.
pub(crate) fn session(
    tracked: Tracked,
    buf: ReadBuf,
    token: Token,
    run: impl FnOnce(Upgraded) -> LocalBoxFuture<'static, Result<(), Error>>,
) -> impl Future<Output = Ended> {
    let running = run(begin(&tracked, buf, token));
    async move {
        let ended = tracked.0.run(running).await;
        Box::pin(see_off(&tracked.0, ended)).await
    }
}

/// As [`session`], for what stays in the task of who has asked for it.
pub(crate) fn session_here<'a>(
    tracked: Tracked,
    buf: ReadBuf,
    token: Token,
    run: impl FnOnce(Upgraded) -> LocalBoxFuture<'a, Result<(), Error>>,
) -> impl Future<Output = Ended> {
    let mut running = catch(run(begin(&tracked, buf, token)));
    async move {
        let ended = Pin::new(&mut running).await;
        Box::pin(see_off(&tracked.0, ended)).await
    }
}

/// From here on the connection is the protocol's.
fn begin(tracked: &Tracked, buf: ReadBuf, token: Token) -> Upgraded {
    let link = &tracked.0;
    tracked.switched(token);
    observe::begins(link, token);
    if let Some(tap) = link.stream.tap() {
        tap.switched(token, buf.unread());
    }
    link.deadline(Side::Read, NEVER);
    link.received.set(0);
    link.has_received(buf.unread().len());
    link.sent.set(0);
    Upgraded::new(Rc::clone(link), buf)
}

/// Counts how a session has ended, and says so; lets the peer have our last words.
async fn see_off(link: &Link, ended: Ended) -> Ended {
    let kind = observe::ends(link, &ended);
    link.end();
    if !matches!(ended, Ok(Err(Error::Io(_) | Error::TimedOut))) && !link.was_cut() {
        Box::pin(linger(link)).await;
    }
    observe::ended(link, kind, &ended);
    ended
}

/// What a panic leaves.
pub(crate) type Panic = Box<dyn Any + Send>;

pub(crate) fn report_panic(link: &Link, panic: &(dyn Any + Send)) {
    add(&link.worker.counters.panics, 1);
    let token = link.token.get().map(tracing::field::display);
    tracing::error!(
        id = %link.session_id(),
        protocol = token,
        message = panic_message(panic),
        "a handler panicked; its connection ends"
    );
}

/// Closes our side, and gives the peer a moment to close its own: closing with its bytes unread would reset the
/// connection, and could destroy our last words on their way (RFC 9112 9.6).
async fn linger(link: &Link) {
    link.stream.shutdown_write();
    drain(link, &link.stream).await;
}

/// Reads what the peer still sends, to its end, within the close time.
async fn drain(link: &Link, stream: &Stream) {
    link.deadline(Side::Read, NEVER);
    link.within(Side::Close, link.worker.config.close_time);
    let mut buffer = Vec::with_capacity(LINGER_READ);
    let mut left = LINGER_MAX;
    loop {
        buffer.clear();
        match link.wait(Side::Close, false, stream.read(buffer)).await {
            Ok((Ok(count), back)) if count > 0 && count < left => {
                link.spend(count);
                if link.is_spent() {
                    link.pass().await;
                }
                left -= count;
                buffer = back;
            }
            _ => return,
        }
    }
}

const LINGER_READ: usize = 4096;
/// What a peer may still send that was told of the end: enough for a head or a body that was too large.
const LINGER_MAX: usize = 8 << 20;

/// Tells a connection for which there is no place why that is so, whatever it was going to ask.
pub(crate) async fn turn_away(tracked: Tracked, reason: Reason) {
    #[cfg(feature = "tls")]
    if let Some(tls) = tracked.0.stream.as_tls()
        && Box::pin(secure(&tracked.0, tls)).await != Some(Version::Http11)
    {
        return;
    }
    refuse_and_close(&tracked.0, reason.into()).await;
}

/// Runs a future whose panic is ours to deal with, and costs nobody else anything.
pub(crate) fn catch<F: Future>(future: F) -> Catch<F> {
    Catch { future }
}

pin_project! {
    /// A type and not an `async fn`, which would have room for the future twice.
    pub(crate) struct Catch<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Catch<F> {
    type Output = Result<F::Output, Panic>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        poll_caught(self.project().future, cx)
    }
}

/// Polls what [`catch`] runs, for who keeps the future by itself.
pub(crate) fn poll_caught<F: Future + ?Sized>(
    future: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<Result<F::Output, Panic>> {
    // After a panic the future is dropped and never polled again, so nothing sees it half done.
    match panic::catch_unwind(panic::AssertUnwindSafe(|| future.poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    }
}
