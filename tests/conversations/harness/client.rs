//! The client's end: says bytes, and waits for bytes, whole answers, frames or the end.
//!
//! The `try_` methods tell what went wrong, for conversations that may be cut off; the others panic with it.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::{Shutdown, SocketAddr},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use monoio::{
    io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable},
    net::TcpStream,
    time,
};
use switchpoint::duplex::Duplex;

use super::{Answer, Frame, PATIENCE, Transport};

pub(crate) struct Client {
    pub(super) writer: Writer,
    /// `None` while `reading` has it.
    reader: Option<Reader>,
    reading: Option<Reading>,
    /// What has arrived and was not looked at.
    pub(super) got: Vec<u8>,
    pub(super) end: Option<End>,
}

pub(super) enum Writer {
    Memory(Rc<Duplex>),
    /// The handle is for what monoio's halves cannot do: half-close at once, reset.
    Tcp(OwnedWriteHalf<TcpStream>, std::net::TcpStream),
}

enum Reader {
    Memory(Rc<Duplex>),
    Tcp(OwnedReadHalf<TcpStream>),
}

type Reading = Pin<Box<dyn Future<Output = (Reader, io::Result<usize>, Vec<u8>)>>>;

/// How the server's side ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Clean,
    Failed(io::ErrorKind),
}

/// Why a conversation did not go as it should.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection ended too early: what a reset does.
    Lost(String),
    /// Something else came, or nothing: never right.
    Wrong(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(what) => write!(f, "the connection was lost: {what}"),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

impl Client {
    pub(super) fn memory(duplex: Duplex) -> Self {
        let duplex = Rc::new(duplex);
        Self::new(Writer::Memory(Rc::clone(&duplex)), Reader::Memory(duplex))
    }

    pub(super) fn tcp(address: SocketAddr, is_uring: bool) -> Self {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        // epoll needs it; a ring would return EAGAIN for it.
        stream.set_nonblocking(!is_uring).unwrap();
        let handle = stream.try_clone().unwrap();
        let (reader, writer) = TcpStream::from_std(stream).unwrap().into_split();
        Self::new(Writer::Tcp(writer, handle), Reader::Tcp(reader))
    }

    fn new(writer: Writer, reader: Reader) -> Self {
        Self { writer, reader: Some(reader), reading: None, got: Vec::new(), end: None }
    }

    pub(super) fn transport(&self) -> Transport {
        match self.writer {
            Writer::Memory(_) => Transport::Memory,
            Writer::Tcp(..) => Transport::Tcp,
        }
    }

    // ---- saying -----------------------------------------------------------------------------------------------

    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
        let bytes = bytes.as_ref();
        let sent = match &mut self.writer {
            Writer::Memory(duplex) => time::timeout(PATIENCE, duplex.write_all(bytes)).await,
            Writer::Tcp(writer, _) => {
                let writing = async { writer.write_all(bytes.to_vec()).await.0.map(drop) };
                time::timeout(PATIENCE, writing).await
            }
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::Lost(format!("sending: {error}"))),
            Err(_) => Err(Failure::Wrong(format!("{} bytes were not taken in time", bytes.len()))),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap_or_else(|failure| panic!("{failure}"));
    }

    /// Says that nothing more will come.
    pub(crate) fn finish(&mut self) {
        match &self.writer {
            Writer::Memory(duplex) => duplex.shutdown_write(),
            Writer::Tcp(_, handle) => drop(handle.shutdown(Shutdown::Write)),
        }
    }

    /// Ends the connection as a killed process would.
    pub(crate) fn reset(self) {
        match &self.writer {
            Writer::Memory(duplex) => duplex.reset(),
            Writer::Tcp(_, handle) => rustix::net::connect_unspec(handle).unwrap(),
        }
    }

    // ---- hearing ----------------------------------------------------------------------------------------------

    /// Waits for more bytes: `Some(true)` when there are, `Some(false)` at the end, `None` when time is up.
    async fn fill(&mut self, patience: Duration) -> Option<bool> {
        if self.end.is_some() {
            return Some(false);
        }
        time::timeout(patience, poll_fn(|cx| self.poll_fill(cx))).await.ok()?;
        Some(self.end.is_none())
    }

    /// Takes what comes next: bytes, or the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(reader) = self.reader.take() {
            self.reading = Some(Box::pin(reader.read(Vec::with_capacity(16 * 1024))));
        }
        let reading = self.reading.as_mut().expect("either has the reader");
        let (reader, result, bytes) = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        self.reader = Some(reader);
        match result {
            Ok(0) => self.end = Some(End::Clean),
            Ok(_) => self.got.extend_from_slice(&bytes),
            Err(error) => self.end = Some(End::Failed(error.kind())),
        }
        Poll::Ready(())
    }

    /// Takes what `whole` finds in the bytes that have arrived, once it finds it.
    pub(super) async fn hear<T>(
        &mut self,
        what: &str,
        mut whole: impl FnMut(&[u8]) -> Option<(T, usize)>,
    ) -> Result<T, Failure> {
        loop {
            if let Some((found, length)) = whole(&self.got) {
                self.got.drain(..length);
                return Ok(found);
            }
            let filled = self.fill(PATIENCE).await;
            let got = shown(&self.got);
            match filled {
                Some(true) => {}
                Some(false) => {
                    return Err(Failure::Lost(format!("{what} was awaited, then {:?}: {}", self.end, got)));
                }
                None => return Err(Failure::Wrong(format!("{what} did not come: {got}"))),
            }
        }
    }

    /// The next bytes are these.
    pub(crate) async fn try_expect(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
        let bytes = bytes.as_ref();
        let same = self
            .hear("what was expected", |got| {
                let seen = got.len().min(bytes.len());
                (got[..seen] != bytes[..seen] || seen == bytes.len())
                    .then(|| (got[..seen] == *bytes, if got[..seen] == *bytes { seen } else { 0 }))
            })
            .await?;
        if same {
            return Ok(());
        }
        let (got, bytes) = (shown(&self.got), shown(bytes));
        Err(Failure::Wrong(format!("{got}\n  came, but expected was\n{bytes}")))
    }

    pub(crate) async fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_expect(bytes).await.unwrap_or_else(|failure| panic!("{failure}"));
    }

    /// The next bytes are a whole, legal answer.
    pub(crate) async fn try_answer(&mut self, is_to_head: bool) -> Result<Answer, Failure> {
        let answer = self.hear("an answer", |got| Answer::parse(got, is_to_head)).await?;
        answer.check().map_err(|illegal| Failure::Wrong(format!("{illegal}: {answer:?}")))?;
        Ok(answer)
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer(false).await.unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// The next bytes are a WebSocket frame.
    pub(crate) async fn frame(&mut self) -> Frame {
        self.hear("a frame", Frame::parse).await.unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Nothing more comes, and the end is clean.
    pub(crate) async fn try_end(&mut self) -> Result<(), Failure> {
        while self.got.is_empty() {
            match (self.fill(PATIENCE).await, self.end) {
                (Some(true), _) => {}
                (_, Some(End::Clean)) => return Ok(()),
                (_, Some(End::Failed(kind))) => {
                    return Err(Failure::Lost(format!("the end is not clean: {kind}")));
                }
                (_, None) => return Err(Failure::Wrong("the connection stays open".into())),
            }
        }
        Err(Failure::Wrong(format!("{} came before the end", shown(&self.got))))
    }

    pub(crate) async fn end(&mut self) {
        self.try_end().await.unwrap_or_else(|failure| panic!("{failure}"));
    }

    /// Whatever comes, it ends, cleanly or not.
    pub(crate) async fn ends_somehow(&mut self) -> Vec<u8> {
        while let Some(true) = self.fill(PATIENCE).await {}
        assert!(self.end.is_some(), "the connection stays open");
        std::mem::take(&mut self.got)
    }

    /// Nothing comes for so long, and the connection stays open.
    pub(crate) async fn silence(&mut self, milliseconds: u64) {
        if self.got.is_empty() {
            let filled = self.fill(Duration::from_millis(milliseconds)).await;
            assert_eq!(filled, None, "{:?} {}", self.end, shown(&self.got));
        } else {
            panic!("{} has come", shown(&self.got));
        }
    }
}

/// Bytes for a message, and not a megabyte of them.
fn shown(bytes: &[u8]) -> String {
    let (start, more) = bytes.split_at(bytes.len().min(600));
    let rest = if more.is_empty() { String::new() } else { format!(" and {} bytes more", more.len()) };
    format!("{}{rest}", start.escape_ascii())
}

impl Drop for Client {
    fn drop(&mut self) {
        match &self.writer {
            Writer::Memory(duplex) => duplex.abort(),
            // A pending read would keep the descriptor open.
            Writer::Tcp(_, handle) => drop(handle.shutdown(Shutdown::Both)),
        }
    }
}

impl Reader {
    async fn read(self, buffer: Vec<u8>) -> (Self, io::Result<usize>, Vec<u8>) {
        match self {
            Self::Memory(duplex) => {
                let (result, buffer) = duplex.read(buffer).await;
                (Self::Memory(duplex), result, buffer)
            }
            Self::Tcp(mut half) => {
                let (result, buffer) = half.read(buffer).await;
                (Self::Tcp(half), result, buffer)
            }
        }
    }
}
