//! One request over HTTP/2, and its answer: a resource's, or a session on the stream.

use std::{
    cell::RefCell,
    future::poll_fn,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use ::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use bytes::{Bytes, BytesMut};
use h2::{Reason as Code, RecvStream, SendStream, ext::Protocol, server::SendResponse};

use super::{
    connection::{Live, Todo},
    io::{Watch, within},
    request,
    stream::{Http2Stream, Inlet},
};
use crate::{
    Decision, Reason, Rejection, Request, Response,
    buffer::ReadBuf,
    connection::{ALLOW, catch, report_panic, session},
    http::{BodyFault, Head, HeadFault},
    limits::Permit,
    observe,
    registry::Accepted,
    resource::{Answerer, Choice, METHODS},
    response::{is_valid_field, session_on_stream},
    sessions::Link,
    upgrade::Kept,
    worker::Worker,
};

/// A request, wherever its head came from.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// On its stream. After an upgrade, stream 1 has a stand-in.
    pub(super) here: &'a ::http::Request<RecvStream>,
    /// The head that came over HTTP/1.1, before the upgrade: then this is the request.
    pub(super) before: Option<&'a [u8]>,
}

impl<'a> Asked<'a> {
    /// Whether more of its body may come.
    pub(super) fn has_body(self) -> bool {
        self.before.is_none() && !self.here.body().is_end_stream()
    }

    pub(super) fn request(
        self,
        link: &'a Link,
        body: &'a [u8],
        kept: &'a Kept,
    ) -> Result<Request<'a>, HeadFault> {
        let limits = &link.worker.config.head;
        let (head, raw) = match self.before {
            None => {
                let (method, uri, headers) = (self.here.method(), self.here.uri(), self.here.headers());
                (request::head(method, uri, headers, self.has_body(), limits)?, &[][..])
            }
            Some(head) => (Head::parse(head, limits)?, head),
        };
        Ok(Request {
            head,
            body,
            peer: link.peer,
            listener: link.listener(),
            draining: link.worker.is_draining(),
            stream: &link.stream,
            raw,
            kept,
        })
    }

    /// The method, where it is known without a look at the head.
    pub(super) fn method(self) -> &'a Method {
        match self.before {
            None => self.here.method(),
            Some(_) => &Method::GET,
        }
    }

    /// What an extended CONNECT asks for.
    pub(super) fn protocol(self) -> Option<&'a str> {
        match self.before {
            None => self.here.extensions().get::<Protocol>().map(Protocol::as_str),
            Some(_) => None,
        }
    }
}

/// What an ordinary request gets, or who answers it.
pub(super) fn choose(worker: &Worker, request: &Request<'_>) -> Result<Choice, Rejection> {
    let method = request.method();
    if !METHODS.contains(&method) {
        return Err(Reason::UnknownMethod.into());
    }
    if method == "CONNECT" {
        return Err(Rejection::method_not_allowed(ALLOW)); // no proxy is here
    }
    match worker.registry.at_path(request.path()) {
        Some(route) if !route.resources.is_empty() => route.resources.choose(method),
        // 426 would owe an `Upgrade`, which HTTP/2 does not have (RFC 9113 8.2.2): its way is the extended CONNECT.
        Some(_) => Err(Rejection::method_not_allowed("CONNECT")),
        None => Err(Reason::NoSuchPath.into()),
    }
}

/// A request whose answer takes time.
pub(super) struct Exchange {
    pub(super) link: Rc<Link>,
    pub(super) here: ::http::Request<RecvStream>,
    pub(super) before: Option<Vec<u8>>,
    /// The body, if it is there.
    pub(super) body: Option<Bytes>,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) inlets: Rc<RefCell<Vec<Inlet>>>,
    pub(super) watch: Rc<Watch>,
    pub(super) date: HeaderValue,
    pub(super) live: Live,
}

impl Exchange {
    pub(super) async fn run(self, todo: Todo) {
        match todo {
            Todo::Answer(answerer) => self.answer(answerer).await,
            Todo::Connect => Box::pin(self.connect()).await,
        }
    }

    /// Reads the body, asks the resource, sends its answer.
    async fn answer(mut self, answerer: Answerer) {
        let link = Rc::clone(&self.link);
        let config = &link.worker.config;
        let is_to_head = *self.asked().method() == Method::HEAD || self.is_to_head();
        let answer = async {
            let body = match self.body.take() {
                Some(body) => body,
                None => match within(config.answer_time, self.read_body()).await {
                    Some(Ok(body)) => body,
                    Some(Err(Some(rejection))) => return Some(Err(rejection)),
                    Some(Err(None)) => return None,
                    None => return Some(Err(Reason::BodyTimeout.into())),
                },
            };
            let kept = Kept::default();
            let asked = Asked { here: &self.here, before: self.before.as_deref() };
            let request = match asked.request(&link, &body, &kept) {
                Ok(request) => request,
                Err(fault) => return Some(Err(fault.into())),
            };
            let answer = async {
                match &answerer {
                    Answerer::AtOnce(answer) => Ok(answer(&request)),
                    Answerer::InTime(resource) => resource.answer(&request).await,
                }
            };
            match within(config.answer_time, unless_reset(&mut self.respond, answer)).await {
                Some(answer) => answer,
                None => Some(Err(Reason::AnswerTimeout.into())),
            }
        };
        let response = match catch(answer).await {
            Ok(None) => return, // the client has taken it back
            Ok(Some(Ok(response))) => response,
            Ok(Some(Err(rejection))) => {
                observe::refused(&link, &rejection, None, None);
                rejection.to_response(false)
            }
            Err(panic) => {
                report_panic(&link, &*panic);
                Rejection::from(Reason::Internal).to_response(false)
            }
        };
        send(&link, &mut self.respond, response, is_to_head, self.date, self.live);
    }

    fn asked(&self) -> Asked<'_> {
        Asked { here: &self.here, before: self.before.as_deref() }
    }

    fn is_to_head(&self) -> bool {
        let kept = Kept::default();
        self.asked().request(&self.link, &[], &kept).is_ok_and(|request| request.method() == "HEAD")
    }

    /// The body, whole; `Err(None)` when the stream has ended before it.
    async fn read_body(&mut self) -> Result<Bytes, Option<Rejection>> {
        let max = self.link.worker.config.body_max;
        let too_large = || Some(Rejection::from(Reason::Body(BodyFault::TooLarge)));
        {
            let kept = Kept::default();
            let asked = Asked { here: &self.here, before: self.before.as_deref() };
            let request =
                asked.request(&self.link, &[], &kept).map_err(|fault| Some(Rejection::from(fault)))?;
            if matches!(request.head.framing, crate::http::Framing::Length(length) if length > max as u64) {
                return Err(too_large());
            }
            if request.head.expects_continue {
                let mut interim = ::http::Response::new(());
                *interim.status_mut() = StatusCode::CONTINUE;
                // It fails only where the stream is over.
                drop(self.respond.send_informational(interim));
            }
        }
        if self.before.is_some() {
            return Ok(Bytes::new());
        }
        let mut body = BytesMut::new();
        let recv = self.here.body_mut();
        while let Some(chunk) = recv.data().await {
            let chunk = chunk.map_err(|_| None)?;
            if body.len() + chunk.len() > max {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
            recv.flow_control().release_capacity(chunk.len()).map_err(|_| None)?;
        }
        Ok(body.freeze())
    }

    /// Opens a session on the stream: authorize → negotiate → 200, or the refusal (RFC 8441 5).
    async fn connect(mut self) {
        let link = Rc::clone(&self.link);
        let began = Instant::now();
        let kept = Kept::default();
        let asked = Asked { here: &self.here, before: self.before.as_deref() };
        let decided = match asked.request(&link, &[], &kept) {
            Ok(request) => {
                let protocol = asked.protocol().unwrap_or_default();
                let time = link.worker.config.answer_time;
                let deciding = decide(&link, &request, protocol);
                match within(time, catch(unless_reset(&mut self.respond, deciding))).await {
                    Some(Ok(None)) => return,
                    Some(Ok(Some(Ok(settled)))) => Ok(settled),
                    Some(Ok(Some(Err(rejection)))) => {
                        observe::refused(&link, &rejection, Some(&request), Some(protocol));
                        Err(rejection.answer_to(&request))
                    }
                    Some(Err(panic)) => {
                        report_panic(&link, &*panic);
                        Err(Rejection::from(Reason::Internal).to_response(false))
                    }
                    None => {
                        let rejection = Rejection::from(Reason::AuthorizationTimeout);
                        observe::refused(&link, &rejection, Some(&request), Some(protocol));
                        Err(rejection.answer_to(&request))
                    }
                }
            }
            Err(fault) => Err(Rejection::from(fault).to_response(false)),
        };
        let (accepted, permit) = match decided {
            Ok(settled) => settled,
            Err(refusal) => return send(&link, &mut self.respond, refusal, false, self.date, self.live),
        };
        let mut answer = Response::new(200);
        answer.fields.clone_from(&accepted.fields);
        let Ok(answered) = self.respond.send_response(head(&answer, false, self.date), false) else { return };
        let (asked, body) = self.here.into_parts();
        let (stream, inlet) = Http2Stream::new(body, answered, self.watch);
        self.inlets.borrow_mut().push(inlet);
        drop((self.inlets, self.respond));
        let tracked = link.worker.track(stream.into(), link.peer, link.listener);
        permit.settle(&tracked.0);
        if let Some(kept) = kept.take() {
            drop(tracked.0.kept.set(kept));
        }
        note_switch(&tracked.0, &asked, &accepted, began.elapsed());
        drop(asked);
        if link.is_goodbye() {
            tracked.0.told();
        }
        // How it ended was counted and logged; the connection goes on.
        drop(session(tracked, ReadBuf::new(), accepted.token, accepted.run).await);
    }
}

/// Tells of a session that begins, as its own link.
fn note_switch(link: &Rc<Link>, asked: &::http::request::Parts, accepted: &Accepted, time: Duration) {
    let limits = &link.worker.config.head;
    // It was valid before.
    let Ok(head) = request::head(&asked.method, &asked.uri, &asked.headers, false, limits) else { return };
    let request = Request {
        head,
        body: b"",
        peer: link.peer,
        listener: link.listener(),
        draining: link.worker.is_draining(),
        stream: &link.stream,
        raw: &[],
        kept: &Kept::default(),
    };
    let protocol = asked.extensions.get::<Protocol>().map(Protocol::as_str);
    if let Some(tap) = link.stream.tap() {
        tap.request(link, &request, protocol.unwrap_or_default());
        tap.response(session_on_stream(&accepted.fields).as_bytes());
    }
    observe::switched(link, &request, accepted, protocol, time);
}

/// Asks the handlers of the path that speak `protocol`.
async fn decide(link: &Link, request: &Request<'_>, protocol: &str) -> Result<(Accepted, Permit), Rejection> {
    let worker = &link.worker;
    if link.is_goodbye() || worker.is_closing() {
        return Err(Reason::Draining.into());
    }
    worker.admission.may_ask(link.peer)?;
    if !worker.registry.speaks(protocol) {
        return Err(Reason::UnknownProtocol.into());
    }
    for handler in worker.registry.find(request.path(), false).offered([protocol].into_iter()) {
        if !handler.considers(request) {
            continue;
        }
        handler.authorize(request).await?;
        // A session of its own has a place of its own.
        let permit = Permit::new(worker, link.peer, false)?;
        match handler.negotiate(request) {
            Decision::Accept(accept) => {
                let accepted = accept.session;
                let invalid = accepted.fields.iter().find(|(name, value)| !is_valid_field(name, value));
                if let Some((name, _)) = invalid {
                    tracing::error!(token = %accepted.token, name, "a handler's field cannot stand in an answer");
                    return Err(Reason::Internal.into());
                }
                return Ok((accepted, permit));
            }
            Decision::Reject(rejection) => return Err(rejection),
            Decision::Decline => {}
        }
    }
    let is_there = worker.registry.at_path(request.path()).is_some();
    Err(if is_there { Reason::UnknownProtocol.into() } else { Reason::NoSuchPath.into() })
}

/// Goes on with `operation` until the client takes its request back, which makes it `None`.
async fn unless_reset<T>(respond: &mut SendResponse<Bytes>, operation: impl Future<Output = T>) -> Option<T> {
    let mut operation = std::pin::pin!(operation);
    poll_fn(|cx| {
        if let Poll::Ready(output) = operation.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        respond.poll_reset(cx).map(|_| None)
    })
    .await
}

/// Sends an answer: at once if the peer's window takes it, else in a task of its own.
pub(super) fn send(
    link: &Rc<Link>,
    respond: &mut SendResponse<Bytes>,
    mut response: Response,
    is_to_head: bool,
    date: HeaderValue,
    live: Live,
) {
    if !response.has_valid_fields() {
        tracing::error!("a handler's field cannot stand in an answer");
        response = Rejection::from(Reason::Internal).to_response(false);
    }
    let has_body = !is_to_head && !response.body.is_empty() && !response.has_no_body();
    let head = head(&response, true, date);
    // An error means that the client has taken its request back, or is gone.
    let Ok(mut stream) = respond.send_response(head, !has_body) else { return };
    if !has_body {
        return;
    }
    let body = match response.body {
        std::borrow::Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        std::borrow::Cow::Owned(bytes) => Bytes::from(bytes),
    };
    stream.reserve_capacity(body.len().min(CHUNK_MAX));
    if stream.capacity() >= body.len() {
        drop(stream.send_data(body, true));
    } else {
        crate::spawn(deliver(Rc::clone(link), stream, body, live));
    }
}

/// Sends a body as the peer takes it.
async fn deliver(link: Rc<Link>, mut stream: SendStream<Bytes>, mut body: Bytes, _live: Live) {
    let limit = link.worker.config.write_time;
    while !body.is_empty() {
        stream.reserve_capacity(body.len().min(CHUNK_MAX));
        let room = poll_fn(|cx| {
            loop {
                match stream.capacity() {
                    0 => {}
                    count => return Poll::Ready(Some(count)),
                }
                match stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let count = match within(limit, room).await {
            Some(Some(count)) => count.min(body.len()),
            Some(None) => return,
            None => return stream.send_reset(Code::CANCEL),
        };
        let chunk = body.split_to(count);
        if stream.send_data(chunk, body.is_empty()).is_err() {
            return;
        }
        // The driver has taken note of what went out.
        if link.is_spent() {
            link.pass().await;
        }
    }
}

/// No more of a body is queued at once, so that others on the connection get their share of its window.
const CHUNK_MAX: usize = 64 << 10;

/// An answer's head; with its length if it `is_whole`.
fn head(response: &Response, is_whole: bool, date: HeaderValue) -> ::http::Response<()> {
    let mut head = ::http::Response::new(());
    *head.status_mut() = StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let fields = head.headers_mut();
    for (name, value) in &response.fields {
        let value = match value {
            std::borrow::Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            std::borrow::Cow::Owned(text) => Bytes::copy_from_slice(text.as_bytes()),
        };
        // They were found valid; what `http` thinks otherwise about is left out.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_maybe_shared(value))
        {
            fields.append(name, value);
        }
    }
    fields.insert(header::DATE, date);
    if is_whole && !response.has_no_body() {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(response.body.len()));
    }
    head
}
