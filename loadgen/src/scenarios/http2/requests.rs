//! A request on each stream. What is posted has to come back; what is only asked for has to be the same each time.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{RecvStream, client::ResponseFuture};
use http::{Method, Request, Uri};
use switchpoint::ws::{
    Contexts, Opening,
    opening::{Switched, Unfit},
};

use super::client::{Client, drain, fields, how};
use crate::{
    content::{Content, Random},
    fault::{Fault, Wrong},
    plan::Plan,
    scenario::{Answer, PLAIN, Scenario, Sink},
};

pub(crate) struct Requests {
    client: Client,
    request: Request<()>,
    posts: bool,
    content: Arc<Content>,
    under_way: VecDeque<Exchange>,
    /// The number of the next message.
    next: u64,
    /// The body of one answer, before it is looked at.
    body: Vec<u8>,
}

struct Exchange {
    number: u64,
    /// `Err`: it could not even be sent, or was reset.
    state: Result<State, Wrong>,
}

enum State {
    Asked(ResponseFuture),
    /// Status, what is still to come, and what has come.
    Answering(u16, RecvStream, Vec<u8>),
}

impl Exchange {
    /// The status and the body, once they are there.
    fn poll(&mut self) -> Option<Result<(u16, &[u8]), Wrong>> {
        let state = match &mut self.state {
            Err(wrong) => return Some(Err(*wrong)),
            Ok(state) => state,
        };
        if let State::Asked(answer) = state {
            match Pin::new(answer).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => return None,
                Poll::Ready(Err(error)) => return Some(Err(reset(&error))),
                Poll::Ready(Ok(answer)) => {
                    *state = State::Answering(answer.status().as_u16(), answer.into_body(), Vec::new());
                }
            }
        }
        let State::Answering(status, recv, body) = state else { return None };
        match drain(recv, |piece| body.extend_from_slice(piece)) {
            Ok(false) => None,
            Ok(true) => Some(Ok((*status, body))),
            Err(error) => Some(Err(reset(&error))),
        }
    }
}

fn reset(error: &h2::Error) -> Wrong {
    Wrong::Reset(error.reason().map_or(0, u32::from))
}

impl Scenario for Requests {
    const IS_ORDERED: bool = false;

    fn opening(plan: &Plan, _: &mut Random) -> Result<Option<Opening>, Unfit> {
        Ok(Client::opening(plan))
    }

    fn new(
        plan: &Plan,
        switched: Option<&Switched>,
        _: Random,
        _: &Rc<Contexts>,
        content: &Arc<Content>,
    ) -> Result<Self, Fault> {
        let mut client = Client::new();
        if switched.is_some() {
            client.switched();
        }
        let posts = how(plan).posts;
        let mut request = Request::new(());
        *request.method_mut() = if posts { Method::POST } else { Method::GET };
        *request.uri_mut() = uri(plan)?;
        request.headers_mut().extend(fields(plan)?);
        Ok(Self {
            client,
            request,
            posts,
            content: Arc::clone(content),
            under_way: VecDeque::new(),
            next: 0,
            body: Vec::new(),
        })
    }

    fn settle(&mut self, bytes: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, Fault> {
        self.client.feed(bytes)?;
        bytes.clear();
        self.client.write(out);
        Ok(self.client.is_settled() && self.client.has_first_answer())
    }

    /// All that has arrived is taken at once.
    fn reply_max(_: usize) -> usize {
        READ
    }

    fn send(&mut self, _: &mut Vec<u8>, length: usize, content: impl FnOnce(&mut Vec<u8>, [u8; 4])) {
        let number = self.next;
        self.next += 1;
        let posted = self.client.ask(self.request.clone(), !self.posts).and_then(|(answer, mut stream)| {
            if self.posts {
                let mut body = Vec::with_capacity(length);
                content(&mut body, PLAIN);
                stream.send_data(Bytes::from(body), true)?;
            }
            Ok(State::Asked(answer))
        });
        // A connection that is gone says so at the next read.
        self.under_way.push_back(Exchange { number, state: posted.map_err(|_| Wrong::Reset(0)) });
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        // A fault is met again by the next read.
        let _ = self.client.poll();
        self.client.write(out);
    }

    fn receive(&mut self, bytes: &mut [u8], out: &mut Vec<u8>, sink: &mut impl Sink) -> Result<usize, Fault> {
        self.client.feed(bytes)?;
        let mut result = Ok(bytes.len());
        let (posts, content, shown) = (self.posts, &self.content, &mut self.body);
        self.under_way.retain_mut(|exchange| {
            let Some(answer) = exchange.poll() else { return true };
            let judged = match answer {
                Err(wrong) => Answer::Judged(Some(wrong)),
                Ok((status, _)) if !(200..300).contains(&status) => {
                    Answer::Judged(Some(Wrong::Status(status)))
                }
                Ok((_, body)) if posts => {
                    shown.clear();
                    shown.extend_from_slice(body);
                    Answer::Message(shown)
                }
                Ok((_, body)) => Answer::Judged(content.differs_from_first(body)),
            };
            if let Err(fault) = sink.answer(exchange.number, judged) {
                result = Err(fault);
            }
            false
        });
        // Windows that are open again.
        self.client.poll()?;
        self.client.write(out);
        result
    }

    fn goodbye(&mut self, out: &mut Vec<u8>) {
        self.under_way.clear();
        self.client.goodbye();
        self.client.write(out);
    }
}

/// Where requests go.
pub(super) fn uri(plan: &Plan) -> Result<Uri, Fault> {
    let url = &plan.target.url;
    Uri::builder()
        .scheme(if url.is_secure() { "https" } else { "http" })
        .authority(url.authority())
        .path_and_query(url.target())
        .build()
        .map_err(|error| Fault::Own(std::io::Error::other(error)))
}

/// How much is read at a time.
pub(super) const READ: usize = 64 << 10;
