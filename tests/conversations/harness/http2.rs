//! HTTP/2 from the client's side: frames by hand, and the `h2` crate's client over any of the transports.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest, ext::Protocol};
use http::{Request, Response};
use monoio::time;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Client, PATIENCE,
    client::{End, Writer},
};

/// A frame, as it is on the wire.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Http2Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// `GET http://a.example/`, of the static table but for the authority.
pub(crate) const GET: &[u8] = b"\x82\x86\x84\x01\x09a.example";

impl Http2Frame {
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (header, rest) = bytes.split_first_chunk::<9>()?;
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *header;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let payload = rest.get(..length)?.to_vec();
        Some((Self { kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]), payload }, 9 + length))
    }

    /// The code of a GOAWAY or RST_STREAM.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

impl std::fmt::Debug for Http2Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.payload[..self.payload.len().min(60)];
        write!(f, "kind {} flags {} on {}: {}", self.kind, self.flags, self.stream, shown.escape_ascii())
    }
}

/// A frame to be sent.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let [.., l0, l1, l2] = payload.len().to_be_bytes();
    [&[l0, l1, l2, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// What a client sends first, with these settings.
pub(crate) fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, payload)[..]].concat()
}

impl Client {
    pub(crate) async fn http2_frame(&mut self) -> Http2Frame {
        self.hear("a frame of HTTP/2", Http2Frame::parse).await.unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Reads frames until one is of this kind, and gives it; our acknowledgement of its SETTINGS is not sent.
    pub(crate) async fn http2_frame_of(&mut self, kind: u8) -> Http2Frame {
        loop {
            let frame = self.http2_frame().await;
            if frame.kind == kind && !(kind == SETTINGS && frame.flags == ACK) {
                return frame;
            }
        }
    }

    /// Speaks HTTP/2 by prior knowledge, with the `h2` crate's settings changed by `build`.
    pub(crate) async fn http2_with(
        self,
        build: impl FnOnce(&mut h2::client::Builder) -> &mut h2::client::Builder,
    ) -> Http2 {
        let mut builder = h2::client::Builder::new();
        let (requests, connection) = build(&mut builder).handshake(self).await.unwrap();
        let ended = monoio::spawn(connection);
        Http2 { requests, ended }
    }

    pub(crate) async fn http2(self) -> Http2 {
        self.http2_with(|builder| builder).await
    }
}

/// A connection that speaks HTTP/2.
pub(crate) struct Http2 {
    pub(crate) requests: SendRequest<Bytes>,
    pub(crate) ended: monoio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Http2 {
    /// Sends a request and reads its whole answer.
    pub(crate) async fn ask(&self, request: Request<()>, body: &[u8]) -> Response<Vec<u8>> {
        time::timeout(PATIENCE, self.try_ask(request, body)).await.expect("an answer in time").unwrap()
    }

    pub(crate) async fn try_ask(
        &self,
        request: Request<()>,
        body: &[u8],
    ) -> Result<Response<Vec<u8>>, h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let (answer, mut sender) = requests.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            // An error: it was answered before it was read.
            drop(send_all(&mut sender, body, true).await);
        }
        let (head, mut recv) = answer.await?.into_parts();
        let mut body = Vec::new();
        while let Some(chunk) = recv.data().await {
            let chunk = chunk?;
            body.extend_from_slice(&chunk);
            recv.flow_control().release_capacity(chunk.len())?;
        }
        Ok(Response::from_parts(head, body))
    }

    pub(crate) async fn get(&self, path: &str) -> Response<Vec<u8>> {
        self.ask(Request::get(format!("http://a.example{path}")).body(()).unwrap(), b"").await
    }

    /// An extended CONNECT for `protocol` at `path`; the stream, if it is a session.
    pub(crate) async fn connect(
        &self,
        path: &str,
        protocol: &str,
        fields: &[(&str, &str)],
    ) -> Result<(Response<()>, OnStream), u16> {
        let mut request = Request::connect(format!("http://a.example{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        request.extensions_mut().insert(Protocol::from(protocol));
        let connecting = async {
            let mut requests = self.requests.clone().ready().await.unwrap();
            // Its own check waits for the server's SETTINGS.
            for _ in 0..500 {
                if requests.is_extended_connect_protocol_enabled() {
                    break;
                }
                time::sleep(Duration::from_millis(2)).await;
            }
            let (answer, send) = requests.send_request(request, false).unwrap();
            let (head, recv) = answer.await.unwrap().into_parts();
            (Response::from_parts(head, ()), recv, send)
        };
        let (answer, recv, send) = time::timeout(PATIENCE, connecting).await.expect("an answer in time");
        if answer.status() == 200 {
            Ok((answer, OnStream { recv, send, got: Vec::new() }))
        } else {
            Err(answer.status().as_u16())
        }
    }

    /// A WebSocket at `path`.
    pub(crate) async fn websocket(&self, path: &str) -> OnStream {
        self.connect(path, "websocket", &[("sec-websocket-version", "13")]).await.unwrap().1
    }
}

/// Sends all of it, as the server takes it.
pub(crate) async fn send_all(
    sender: &mut SendStream<Bytes>,
    mut bytes: &[u8],
    is_last: bool,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        sender.reserve_capacity(bytes.len());
        while sender.capacity() == 0 {
            match std::future::poll_fn(|cx| sender.poll_capacity(cx)).await {
                Some(result) => drop(result?),
                None => return Err(h2::Reason::CANCEL.into()),
            }
        }
        let (now, rest) = bytes.split_at(sender.capacity().min(bytes.len()));
        sender.send_data(Bytes::copy_from_slice(now), is_last && rest.is_empty())?;
        bytes = rest;
    }
    Ok(())
}

/// A session on a stream, from the client's side.
pub(crate) struct OnStream {
    pub(crate) recv: RecvStream,
    pub(crate) send: SendStream<Bytes>,
    got: Vec<u8>,
}

impl OnStream {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sending = send_all(&mut self.send, bytes.as_ref(), false);
        time::timeout(PATIENCE, sending).await.expect("the window opens").unwrap();
    }

    /// END_STREAM.
    pub(crate) fn finish(&mut self) {
        self.send.send_data(Bytes::new(), true).unwrap();
    }

    /// More bytes; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let chunk = time::timeout(PATIENCE, self.recv.data()).await.expect("something comes")?;
        if let Ok(chunk) = &chunk {
            self.recv.flow_control().release_capacity(chunk.len()).unwrap();
        }
        Some(chunk)
    }

    /// The next bytes are a WebSocket frame.
    pub(crate) async fn frame(&mut self) -> super::Frame {
        loop {
            if let Some((frame, length)) = super::Frame::parse(&self.got) {
                self.got.drain(..length);
                return frame;
            }
            let chunk = self.chunk().await.expect("a frame before the end").unwrap();
            self.got.extend_from_slice(&chunk);
        }
    }

    /// The next bytes are these.
    pub(crate) async fn expect(&mut self, bytes: &[u8]) {
        while self.got.len() < bytes.len() {
            let chunk = self.chunk().await.expect("more before the end").unwrap();
            self.got.extend_from_slice(&chunk);
        }
        assert!(self.got.starts_with(bytes), "{}", self.got.escape_ascii());
        self.got.drain(..bytes.len());
    }

    /// Nothing more comes, and the end is END_STREAM.
    pub(crate) async fn end(&mut self) {
        assert!(self.got.is_empty());
        while let Some(chunk) = self.chunk().await {
            assert!(chunk.unwrap().is_empty());
        }
    }
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.got.is_empty() {
            match this.end {
                Some(End::Clean) => return Poll::Ready(Ok(())),
                Some(End::Failed(kind)) => return Poll::Ready(Err(kind.into())),
                None => ready!(this.poll_fill(cx)),
            }
        }
        let count = into.remaining().min(this.got.len());
        into.put_slice(&this.got[..count]);
        this.got.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &self.writer {
            Writer::Memory(duplex) => duplex.try_write(bytes),
            Writer::Tcp(_, handle) => {
                let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
                rustix::net::send(handle, bytes, flags).map_err(io::Error::from)
            }
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A client of a test may be slow.
                let waker = cx.waker().clone();
                monoio::spawn(async move {
                    time::sleep(Duration::from_millis(1)).await;
                    waker.wake();
                });
                Poll::Pending
            }
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}
