//! A connection of HTTP/2, from its preface to its GOAWAY.
//!
//! After an upgrade, stream 1 is the request that was made in HTTP/1.1 (RFC 7540 3.2). The crate has no way to begin
//! there, so it is told to ask for something, and its HEADERS are not sent: they consist of the static table alone, so
//! the compression's state is the same as if they had been.
//!
//! ```text
//! `h2` writes   magic SETTINGS │ HEADERS of stream 1 │ HEADERS of stream 3 …
//! the wire has  magic SETTINGS │                     │ HEADERS of stream 3 …
//! ```

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{Connection, ResponseFuture, SendRequest},
};
use http::{HeaderName, HeaderValue, Method, Request, Version};
use switchpoint::ws::Opening;

use super::pipe::Pipe;
use crate::{
    fault::Fault,
    plan::{Http2, Plan, What},
};

pub(super) struct Client {
    pipe: Pipe,
    /// `None` once it has ended by itself.
    connection: Option<Connection<Pipe, Bytes>>,
    /// `None` once we have said goodbye.
    requests: Option<SendRequest<Bytes>>,
    /// The answer to what was asked in HTTP/1.1.
    first: Option<ResponseFuture>,
    /// HEADERS that are not to be sent are still in the pipe.
    withholds: bool,
    /// What has been heard of the server's first frame, until that is whole.
    preface: Option<Vec<u8>>,
    wakes: Arc<Wakes>,
}

/// The crate wants to be polled again.
#[derive(Default)]
struct Wakes(AtomicBool);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The plan's part for HTTP/2.
pub(super) fn how(plan: &Plan) -> &Http2 {
    match &plan.what {
        What::Http2(how) => how,
        _ => unreachable!("the worker chooses the scenario by the plan"),
    }
}

impl Client {
    /// What an upgrade asks for; `None` by prior knowledge.
    pub(super) fn opening(plan: &Plan) -> Option<Opening> {
        if how(plan).has_prior_knowledge {
            return None;
        }
        let mut preface = Vec::new();
        Self::new().pipe.take(&mut preface);
        let settings = &preface[MAGIC + HEADER..];
        let length = usize::from(u16::from_be_bytes([preface[MAGIC + 1], preface[MAGIC + 2]]));
        let mut opening = Opening::to("h2c");
        opening
            .hop_field("HTTP2-Settings", &URL_SAFE_NO_PAD.encode(&settings[..length]))
            .expect("base64 fits into a field");
        Some(opening)
    }

    /// It has said its preface, into the pipe.
    pub(super) fn new() -> Self {
        let pipe = Pipe::default();
        let mut builder = h2::client::Builder::new();
        // The windows should not be what is measured.
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false);
        let mut handshake = pin!(builder.handshake(pipe.clone()));
        let Poll::Ready(Ok((requests, connection))) =
            handshake.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        else {
            unreachable!("memory takes the preface at once");
        };
        let mut client = Self {
            pipe,
            connection: Some(connection),
            requests: Some(requests),
            first: None,
            withholds: false,
            preface: Some(Vec::new()),
            wakes: Arc::default(),
        };
        // SETTINGS leave with the first poll.
        let _ = client.poll();
        client
    }

    /// The 101 has come: stream 1 is the request that was made.
    pub(super) fn switched(&mut self) {
        let mut request = Request::new(());
        (*request.method_mut(), *request.version_mut()) = (Method::GET, Version::HTTP_11);
        *request.uri_mut() = http::Uri::from_static("/");
        if let Some(requests) = &self.requests
            && let Ok((answer, _)) = requests.clone().send_request(request, true)
        {
            self.first = Some(answer);
            self.withholds = true;
        }
    }

    /// Takes all that has arrived.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if let Some(preface) = &mut self.preface {
            preface.extend_from_slice(bytes);
            if let Some([l0, l1, l2, kind]) = preface.first_chunk() {
                if *kind != SETTINGS {
                    return Err(Fault::Http2("it does not begin with SETTINGS".into()));
                }
                let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
                if preface.len() >= HEADER + length {
                    self.preface = None;
                }
            }
        }
        self.pipe.feed(bytes);
        self.poll()
    }

    /// Whether the server's settings are known.
    pub(super) fn is_settled(&self) -> bool {
        self.preface.is_none()
    }

    /// Whether WebSockets may be opened on streams.
    pub(super) fn has_extended_connect(&self) -> bool {
        self.requests.as_ref().is_some_and(SendRequest::is_extended_connect_protocol_enabled)
    }

    /// Whether the answer to the request in HTTP/1.1 is there, or there was none.
    pub(super) fn has_first_answer(&mut self) -> bool {
        let Some(first) = &mut self.first else { return true };
        match Pin::new(first).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(_) => {
                // Its body comes, and is dropped with it.
                self.first = None;
                true
            }
            Poll::Pending => false,
        }
    }

    /// Asks for something on a stream of its own.
    pub(super) fn ask(
        &mut self,
        request: Request<()>,
        is_all: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Fault> {
        let requests = self.requests.as_ref().ok_or(Fault::Ended)?;
        // Each clone may wait for a stream of its own.
        Ok(requests.clone().send_request(request, is_all)?)
    }

    /// Lets the crate do what it can do now.
    pub(super) fn poll(&mut self) -> Result<(), Fault> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        for _ in 0..POLLS {
            let Some(connection) = &mut self.connection else { return Ok(()) };
            self.wakes.0.store(false, Ordering::Relaxed);
            match Pin::new(connection).poll(&mut Context::from_waker(&waker)) {
                Poll::Pending if self.wakes.0.load(Ordering::Relaxed) => {}
                Poll::Pending => break,
                Poll::Ready(result) => {
                    self.connection = None;
                    result?;
                    // GOAWAY, and nothing left to do.
                    return if self.requests.is_some() { Err(Fault::Ended) } else { Ok(()) };
                }
            }
        }
        Ok(())
    }

    /// Appends what is to be sent.
    pub(super) fn write(&mut self, out: &mut Vec<u8>) {
        let start = out.len();
        self.pipe.take(out);
        if self.withholds {
            self.withholds = !withhold(out, start);
        }
    }

    /// Says GOAWAY, once all streams are done.
    pub(super) fn goodbye(&mut self) {
        self.requests = None;
        self.first = None;
        // Whatever it says now, nobody listens any more.
        let _ = self.poll();
    }
}

impl From<h2::Error> for Fault {
    fn from(error: h2::Error) -> Self {
        if error.is_io() {
            return error.into_io().map_or(Self::Ended, Self::Lost);
        }
        Self::Http2(error.to_string())
    }
}

/// Cuts the HEADERS of stream 1 out of what is to be sent; whether they were there.
fn withhold(out: &mut Vec<u8>, start: usize) -> bool {
    let mut at = start;
    if out[at..].starts_with(b"PRI * HTTP/2.0") {
        at += MAGIC;
    }
    while let Some([l0, l1, l2, kind, _, s0, s1, s2, s3]) = out.get(at..).and_then(|rest| rest.first_chunk())
    {
        let end = at + HEADER + u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
        if (*kind, u32::from_be_bytes([*s0, *s1, *s2, *s3])) == (HEADERS, 1) {
            out.drain(at..end);
            return true;
        }
        at = end;
    }
    false
}

/// A field of the command line, as HTTP/2 has it.
pub(super) fn fields(plan: &Plan) -> Result<Vec<(HeaderName, HeaderValue)>, Fault> {
    let wrong = |_| Fault::Own(io::Error::other("a field of the command line does not fit into HTTP/2"));
    let field = |(name, value): &(String, String)| {
        let name =
            HeaderName::try_from(name.to_ascii_lowercase()).map_err(http::Error::from).map_err(wrong)?;
        Ok((name, HeaderValue::try_from(value).map_err(http::Error::from).map_err(wrong)?))
    };
    plan.headers.iter().map(field).collect()
}

/// Takes what has come of a body into `into`; `true` at its end.
pub(super) fn drain(body: &mut RecvStream, mut into: impl FnMut(&[u8])) -> Result<bool, h2::Error> {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match body.poll_data(&mut context) {
            Poll::Pending => return Ok(false),
            Poll::Ready(None) => return Ok(true),
            Poll::Ready(Some(piece)) => {
                let piece = piece?;
                into(&piece);
                body.flow_control().release_capacity(piece.len())?;
            }
        }
    }
}

const MAGIC: usize = 24;
const HEADER: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
/// How often the crate may ask to be polled again at once.
const POLLS: usize = 1000;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const SEND_BUFFER: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let [.., l0, l1, l2] = payload.len().to_be_bytes();
        [&[l0, l1, l2, kind, 0][..], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn only_the_first_question_is_withheld() {
        let magic = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let parts =
            [magic.to_vec(), frame(SETTINGS, 0, b"123456"), frame(8, 0, b"wind"), frame(HEADERS, 1, b"abc")];
        let mut out = [&b"before"[..], &parts.concat(), &frame(HEADERS, 3, b"x")].concat();
        assert!(withhold(&mut out, 6));
        assert_eq!(out, [&b"before"[..], &parts[..3].concat(), &frame(HEADERS, 3, b"x")].concat());
        assert!(!withhold(&mut out, 6));
    }
}
