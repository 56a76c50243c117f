//! The client's role: connects, asks for the switch, and runs a handler, which is the same as a server's.
//!
//! The connection is one of the worker's: its deadlines, its drain and its counters hold for it, too.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    panic,
    rc::Rc,
    time::{Duration, Instant},
};

use monoio::{net::TcpStream, time::timeout};

use super::{RandomMasks, Session, Settings, Socket, driver};
#[cfg(feature = "tls")]
use crate::tls::{ClientSettings, Connector};
use crate::{
    Error, Stream, Token, Worker,
    buffer::ReadBuf,
    connection,
    registry::LocalBoxFuture,
    sessions::{Interrupt, Link, Side, Tracked},
    upgraded::write_all,
    ws::{
        Opening, Role,
        opening::{Answer, Refusal, Switched, Url, UrlFault},
    },
};

/// Opens WebSockets to servers.
///
/// ```no_run
/// use switchpoint::{Config, Driver, Registry, Worker, protocols::websocket::{Client, Socket}};
///
/// Driver::Auto.build()?.block_on(async {
///     let worker = Worker::new(Config::default(), Registry::new());
///     switchpoint::spawn(worker.keep_time());
///     let client = Client::new().subprotocols(["chat.v2"]).field("Authorization", "Bearer a secret");
///     client.connect(&worker, "ws://127.0.0.1:8080/chat", async |mut socket: Socket| {
///         socket.send("hello").await?;
///         while let Some(message) = socket.recv().await? {
///             println!("{} bytes", message.len());
///         }
///         Ok(())
///     }).await
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    settings: Rc<Settings>,
    subprotocols: Vec<String>,
    fields: Vec<(String, String)>,
    opening_time: Duration,
    #[cfg(feature = "tls")]
    connector: Option<Connector>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// With the default settings; no subprotocol is offered, and no compression.
    pub fn new() -> Self {
        Self {
            settings: Rc::default(),
            subprotocols: Vec::new(),
            fields: Vec::new(),
            opening_time: OPENING_TIME,
            #[cfg(feature = "tls")]
            connector: None,
        }
    }

    /// Changes the settings. [`Settings::deflate`] is what is offered; [`Settings::origins`] is a server's.
    pub fn with(mut self, settings: Settings) -> Self {
        self.settings = Rc::new(settings);
        self
    }

    /// Offers subprotocols, the dearest first. The server chooses one of them, or none: [`Socket::subprotocol`] tells.
    pub fn subprotocols(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.subprotocols.extend(names.into_iter().map(Into::into));
        self
    }

    /// Adds a field to the request, such as `Authorization` or `Origin`.
    pub fn field(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// How long it may take to connect, to agree on TLS, and then to be answered; 10 s each.
    pub fn opening_time(mut self, limit: Duration) -> Self {
        self.opening_time = limit;
        self
    }

    /// How `wss` is spoken; otherwise by the connector's defaults: to servers that browsers trust.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, connector: Connector) -> Self {
        self.connector = Some(connector);
        self
    }

    /// Connects to `ws://host:port/path` or `wss://…`, and runs `handler` until the WebSocket is closed. When the handler returns,
    /// it is closed: with 1000 after `Ok`, with 1011 after an error.
    ///
    /// A name is looked up by the system, which blocks the core meanwhile: use an address where others are served.
    ///
    /// # Errors
    /// [`Error::Refused`] when the server answers with something other than 101; [`Error::Peer`] when its answer or
    /// what follows breaks RFC 6455; [`Error::TimedOut`]; [`Error::Io`] when there is no connection, or the request is
    /// not one ([`InvalidInput`](io::ErrorKind::InvalidInput)); [`Error::Closed`] when the worker drains; and the
    /// handler's own.
    ///
    /// # Panics
    /// With the handler.
    pub async fn connect<H>(&self, worker: &Rc<Worker>, url: &str, handler: H) -> Result<(), Error>
    where
        H: AsyncFnOnce(Socket) -> Result<(), Error>,
    {
        let (url, opening) = self.prepare(url)?;
        if url.is_secure() && !cfg!(feature = "tls") {
            return Err(invalid(UrlFault::Tls));
        }
        let (stream, peer) = Box::pin(connect(&url, self.opening_time)).await?;
        let stream = if url.is_secure() { Box::pin(self.secure(stream, url.host())).await? } else { stream };
        self.open(worker, stream, Some(peer), url, opening, handler).await
    }

    #[cfg(feature = "tls")]
    async fn secure(&self, stream: Stream, host: &str) -> Result<Stream, Error> {
        let connector = match &self.connector {
            Some(connector) => connector.clone(),
            None => Connector::new(&ClientSettings::default()).map_err(invalid)?,
        };
        Ok(connector.connect(stream, host, self.opening_time).await?)
    }

    #[cfg(not(feature = "tls"))]
    async fn secure(&self, _: Stream, _: &str) -> Result<Stream, Error> {
        Err(invalid(UrlFault::Tls))
    }

    /// As [`connect`](Self::connect), over a connection that exists: through a tunnel, in memory, or made secure already.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    /// With the handler.
    pub async fn connect_over<H>(
        &self,
        worker: &Rc<Worker>,
        stream: Stream,
        url: &str,
        handler: H,
    ) -> Result<(), Error>
    where
        H: AsyncFnOnce(Socket) -> Result<(), Error>,
    {
        let (url, opening) = self.prepare(url)?;
        self.open(worker, stream, None, url, opening, handler).await
    }

    fn prepare(&self, url: &str) -> Result<(Url, Opening), Error> {
        let url = url.parse().map_err(invalid)?;
        let mut random = RandomMasks::default();
        let mut nonce = [0; 16];
        nonce.as_chunks_mut().0.iter_mut().for_each(|part| *part = random.next());
        let mut opening = Opening::new(nonce);
        for name in &self.subprotocols {
            opening.subprotocol(name).map_err(invalid)?;
        }
        for (name, value) in &self.fields {
            opening.field(name, value).map_err(invalid)?;
        }
        if let Some(deflate) = &self.settings.deflate {
            opening.deflate(deflate.clone());
        }
        Ok((url, opening))
    }

    async fn open<H>(
        &self,
        worker: &Rc<Worker>,
        stream: Stream,
        peer: Option<SocketAddr>,
        url: Url,
        opening: Opening,
        handler: H,
    ) -> Result<(), Error>
    where
        H: AsyncFnOnce(Socket) -> Result<(), Error>,
    {
        let tracked = worker.sessions.track(stream, peer, None, worker);
        let (settled, buf) = Box::pin(self.shake_hands(&tracked, url, opening)).await?;
        let session = Session {
            subprotocol: settled.subprotocol.map(Rc::from),
            deflate: settled.deflate,
            greeting: None,
        };
        let settings = Rc::clone(&self.settings);
        let run = |connection| -> LocalBoxFuture<'_, _> {
            let handler = |socket| handler(socket);
            Box::pin(driver::run(handler, settings, session, connection, Role::Client))
        };
        match connection::session_here(tracked, buf, const { Token::new("websocket") }, run).await {
            Ok(ended) => ended,
            // It was counted and reported like any other, but this task is the handler's own.
            Err(panic) => panic::resume_unwind(panic),
        }
    }

    /// Asks, and reads the answer; what has arrived behind it is the protocol's.
    async fn shake_hands(
        &self,
        tracked: &Tracked,
        url: Url,
        opening: Opening,
    ) -> Result<(Switched, ReadBuf), Error> {
        let link = &*tracked.0;
        // Who comes after the goodbyes would never hear one.
        if link.worker.is_closing() {
            return Err(Error::Closed);
        }
        link.within(Side::Read, self.opening_time);
        write_all(link, &opening.request(&url)).await?;
        let mut buf = ReadBuf::new();
        loop {
            match opening.read(buf.unread()).map_err(Error::peer)? {
                Some((Answer::Switched(_), _)) if link.worker.is_closing() => return Err(Error::Closed),
                Some((Answer::Switched(settled), size)) => {
                    buf.consume(size);
                    return Ok((settled, buf));
                }
                Some((Answer::Interim, size)) => buf.consume(size),
                Some((Answer::Refused(refusal), size)) => {
                    buf.consume(size);
                    return Err(Error::Refused(Box::new(reason(link, buf, refusal).await)));
                }
                None => fill(link, &mut buf).await?,
            }
        }
    }
}

const OPENING_TIME: Duration = Duration::from_secs(10);

fn invalid(fault: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    io::Error::new(io::ErrorKind::InvalidInput, fault).into()
}

/// Tries the addresses that the name has, one after the other.
async fn connect(url: &Url, limit: Duration) -> Result<(Stream, SocketAddr), Error> {
    let start = Instant::now();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address").into();
    for address in (url.host(), url.port()).to_socket_addrs()? {
        let left = limit.saturating_sub(start.elapsed());
        match timeout(left, TcpStream::connect_addr(address)).await {
            Ok(Ok(stream)) => {
                // It may only cost time.
                drop(stream.set_nodelay(true));
                return Ok((stream.try_into()?, address));
            }
            Ok(Err(error)) => failure = error.into(),
            Err(_elapsed) => return Err(Error::TimedOut),
        }
    }
    Err(failure)
}

async fn fill(link: &Link, buf: &mut ReadBuf) -> Result<(), Error> {
    let filling = std::mem::take(buf).fill(&link.stream, &link.worker.pool);
    let (result, back) = link.wait(Side::Read, true, filling).await.map_err(|interrupt| match interrupt {
        Interrupt::Expired => Error::TimedOut,
        Interrupt::Goodbye => Error::Closed,
    })?;
    *buf = back;
    if result? == 0 { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) } else { Ok(()) }
}

/// Reads as much of a refusal's body as says why; the refusal holds without it.
async fn reason(link: &Link, mut buf: ReadBuf, mut refusal: Refusal) -> Refusal {
    let mut body = Vec::new();
    loop {
        body.extend_from_slice(buf.unread());
        buf.consume(buf.unread().len());
        if refusal.has_whole_body(&body) || fill(link, &mut buf).await.is_err() {
            refusal.read_body(&body);
            return refusal;
        }
    }
}
