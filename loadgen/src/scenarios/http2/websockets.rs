//! WebSockets on the streams of a connection (RFC 8441): each message goes on the stream that has least to do.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::ResponseFuture, ext::Protocol};
use http::{HeaderName, HeaderValue, Method, Request};
use switchpoint::ws::{
    Contexts, Opening,
    opening::{Switched, Unfit},
};

use super::{
    client::{Client, drain, fields, how},
    requests::{READ, uri},
};
use crate::{
    content::{Content, Random},
    fault::{Fault, Wrong},
    plan::Plan,
    scenario::{Answer, Scenario, Sink},
    scenarios::WebSocket,
};

pub(crate) struct WebSockets {
    client: Client,
    request: Request<()>,
    wanted: usize,
    asked: Vec<(ResponseFuture, SendStream<Bytes>)>,
    streams: Vec<OnStream>,
    /// For those that are asked for.
    spare: Vec<WebSocket>,
    /// The number of the next message.
    next: u64,
    /// Which stream has had the latest message.
    latest: usize,
    is_leaving: bool,
}

struct OnStream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    websocket: WebSocket,
    read: Vec<u8>,
    out: Vec<u8>,
    in_flight: usize,
    /// The latest message of this stream that was answered, counted from 1.
    answered: u64,
}

impl WebSockets {
    /// Asks for all streams, once the server's settings allow it.
    fn ask(&mut self) -> Result<(), Fault> {
        if !self.client.has_extended_connect() {
            return Err(Fault::NoExtendedConnect);
        }
        while self.asked.len() + self.streams.len() < self.wanted {
            let mut request = Request::new(());
            (*request.method_mut(), *request.uri_mut()) = (Method::CONNECT, self.request.uri().clone());
            *request.headers_mut() = self.request.headers().clone();
            request.extensions_mut().insert(Protocol::from_static("websocket"));
            self.asked.push(self.client.ask(request, false)?);
        }
        Ok(())
    }

    fn meet(&mut self) -> Result<(), Fault> {
        let mut context = Context::from_waker(Waker::noop());
        let mut at = 0;
        while at < self.asked.len() {
            match Pin::new(&mut self.asked[at].0).poll(&mut context) {
                Poll::Pending => at += 1,
                Poll::Ready(answer) => {
                    let (head, mut recv) = answer?.into_parts();
                    let (_, send) = self.asked.swap_remove(at);
                    if head.status != 200 {
                        let mut body = Vec::new();
                        let _ = drain(&mut recv, |piece| body.extend_from_slice(piece));
                        let body = String::from_utf8_lossy(&body);
                        let reason = body.lines().find_map(|line| line.strip_prefix("reason: "));
                        let reason = reason.map_or_else(String::new, |reason| format!(": {}", reason.trim()));
                        return Err(Fault::RefusedStream(head.status.as_u16(), reason));
                    }
                    let Some(websocket) = self.spare.pop() else { continue };
                    let (read, out) = (Vec::new(), Vec::new());
                    self.streams.push(OnStream {
                        send,
                        recv,
                        websocket,
                        read,
                        out,
                        in_flight: 0,
                        answered: 0,
                    });
                }
            }
        }
        Ok(())
    }
}

impl Scenario for WebSockets {
    const IS_ORDERED: bool = false;

    fn opening(plan: &Plan, _: &mut Random) -> Result<Option<Opening>, Unfit> {
        Ok(Client::opening(plan))
    }

    fn new(
        plan: &Plan,
        switched: Option<&Switched>,
        mut random: Random,
        contexts: &Rc<Contexts>,
        content: &Arc<Content>,
    ) -> Result<Self, Fault> {
        let mut client = Client::new();
        if switched.is_some() {
            client.switched();
        }
        let mut request = Request::new(());
        *request.uri_mut() = uri(plan)?;
        let headers = request.headers_mut();
        headers.extend(fields(plan)?);
        headers.insert(HeaderName::from_static("sec-websocket-version"), HeaderValue::from_static("13"));
        let websocket = how(plan).websocket.as_ref();
        if let Some(names) =
            websocket.map(|how| how.subprotocols.join(", ")).filter(|names| !names.is_empty())
            && let Ok(names) = HeaderValue::try_from(names)
        {
            headers.insert(HeaderName::from_static("sec-websocket-protocol"), names);
        }
        let wanted = how(plan).streams;
        let mut websocket = || WebSocket::new(plan, None, Random::new(random.next()), contexts, content);
        let spare = (0..wanted).map(|_| websocket()).collect::<Result<_, _>>()?;
        Ok(Self {
            client,
            request,
            wanted,
            asked: Vec::new(),
            streams: Vec::new(),
            spare,
            next: 0,
            latest: 0,
            is_leaving: false,
        })
    }

    fn settle(&mut self, bytes: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, Fault> {
        self.client.feed(bytes)?;
        bytes.clear();
        if self.client.is_settled() && self.client.has_first_answer() {
            self.ask()?;
            self.client.poll()?;
            self.meet()?;
        }
        self.client.write(out);
        Ok(self.streams.len() == self.wanted)
    }

    fn reply_max(_: usize) -> usize {
        READ
    }

    fn send(&mut self, _: &mut Vec<u8>, length: usize, content: impl FnOnce(&mut Vec<u8>, [u8; 4])) {
        self.next += 1;
        let count = self.streams.len();
        // Beginning behind the latest, so that those with equally much to do take turns.
        let least = (1..=count).map(|step| (self.latest + step) % count);
        let Some(at) = least.min_by_key(|at| self.streams[*at].in_flight) else { return };
        self.latest = at;
        let stream = &mut self.streams[at];
        stream.in_flight += 1;
        stream.websocket.send(&mut stream.out, length, content);
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        for stream in self.streams.iter_mut().filter(|stream| !stream.out.is_empty()) {
            // A stream that is gone says so at the next read.
            let _ = stream.send.send_data(Bytes::from(std::mem::take(&mut stream.out)), false);
        }
        let _ = self.client.poll();
        self.client.write(out);
    }

    fn receive(&mut self, bytes: &mut [u8], out: &mut Vec<u8>, sink: &mut impl Sink) -> Result<usize, Fault> {
        self.client.feed(bytes)?;
        for stream in &mut self.streams {
            let OnStream { recv, websocket, read, out, in_flight, answered, .. } = stream;
            let ended = drain(recv, |piece| read.extend_from_slice(piece));
            if !read.is_empty() {
                let mut sink = OfStream { sink, in_flight, answered };
                match websocket.receive(read, out, &mut sink) {
                    Ok(consumed) => drop(read.drain(..consumed)),
                    Err(Fault::Closed { .. }) if self.is_leaving => {}
                    Err(fault) => return Err(fault),
                }
            }
            match ended {
                Ok(false) => {}
                _ if self.is_leaving => {}
                Ok(true) => return Err(Fault::Ended),
                Err(error) => return Err(error.into()),
            }
        }
        self.flush(out);
        Ok(bytes.len())
    }

    fn ping(&mut self, out: &mut Vec<u8>) {
        self.streams.iter_mut().for_each(|stream| stream.websocket.ping(&mut stream.out));
        self.flush(out);
    }

    fn goodbye(&mut self, out: &mut Vec<u8>) {
        self.is_leaving = true;
        for mut stream in self.streams.drain(..) {
            let mut close = Vec::new();
            stream.websocket.goodbye(&mut close);
            let _ = stream.send.send_data(Bytes::from(close), true);
        }
        self.client.goodbye();
        self.client.write(out);
    }
}

/// Replies of one stream: within it the order counts.
struct OfStream<'a, S> {
    sink: &'a mut S,
    in_flight: &'a mut usize,
    answered: &'a mut u64,
}

impl<S: Sink> Sink for OfStream<'_, S> {
    fn expected(&self) -> Option<usize> {
        None
    }

    fn number(&self, payload: &[u8]) -> Option<u64> {
        self.sink.number(payload)
    }

    fn reply(&mut self, payload: &[u8], is_right_type: bool) -> Result<(), Fault> {
        *self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(number) = self.sink.number(payload) {
            if number + 1 < *self.answered {
                return self.sink.answer(number, Answer::Judged(Some(Wrong::Order(number))));
            }
            *self.answered = number + 1;
        }
        self.sink.reply(payload, is_right_type)
    }

    fn answer(&mut self, number: u64, answer: Answer<'_>) -> Result<(), Fault> {
        self.sink.answer(number, answer)
    }
}
