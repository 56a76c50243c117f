//! The small client: a blocking socket, with a limit on each wait and on what is kept.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use super::{
    answer::{self, Answer, BodyLength},
    frame::Frame,
};

/// Why nothing came that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It has closed the connection.
    Closed,
    /// It has reset the connection.
    Reset,
    /// The time is over.
    Silence(Duration),
    /// Something that is no answer.
    Malformed(String),
    /// More than is kept.
    TooMuch,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection was closed without an answer"),
            Self::Reset => f.write_str("the connection was reset without an answer"),
            Self::Silence(time) => write!(f, "nothing within {time:?}"),
            Self::Malformed(what) => f.write_str(what),
            Self::TooMuch => write!(f, "more than {} MiB", KEPT_MAX >> 20),
        }
    }
}

/// More than this of what a server sends is not looked at.
const KEPT_MAX: usize = 32 << 20;
/// A head or an error's body had better be shorter.
const ANSWER_MAX: usize = 256 << 10;

enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A connection to the server that is examined.
pub(crate) struct Connection {
    transport: Transport,
    time: Duration,
    /// When something was sent, or answered: from then on it waits, whatever else comes meanwhile.
    since: Instant,
    /// What has come and was not looked at yet.
    unread: Vec<u8>,
    end: Option<Trouble>,
    /// All that was sent, and all that has come.
    pub(crate) log: Log,
}

/// What has gone over a connection, in its order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) pieces: Vec<(Direction, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Sent,
    Came,
}

impl Log {
    /// What is shown of a piece.
    const PIECE_MAX: usize = 4096;

    fn note(&mut self, direction: Direction, bytes: &[u8]) {
        match self.pieces.last_mut() {
            Some((last, piece)) if *last == direction => {
                let room = Self::PIECE_MAX.saturating_sub(piece.len());
                piece.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            _ => self.pieces.push((direction, bytes[..bytes.len().min(Self::PIECE_MAX)].to_vec())),
        }
    }
}

impl Connection {
    /// Connects within `time`, which is also the limit of each later wait.
    pub(crate) fn open(address: SocketAddr, time: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, time)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(time))?;
        let transport = Transport::Plain(stream);
        Ok(Self {
            transport,
            time,
            since: Instant::now(),
            unread: Vec::new(),
            end: None,
            log: Log::default(),
        })
    }

    /// Goes on over TLS.
    pub(crate) fn secure(self, config: &Arc<ClientConfig>, host: &str) -> io::Result<Self> {
        let Transport::Plain(mut stream) = self.transport else {
            return Ok(self);
        };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let mut session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let deadline = Instant::now() + self.time;
        while session.is_handshaking() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))?;
            session.complete_io(&mut stream)?;
        }
        Ok(Self { transport: Transport::Tls(Box::new(StreamOwned::new(session, stream))), ..self })
    }

    /// What TLS has settled.
    pub(crate) fn tls(&self) -> Option<&ClientConnection> {
        match &self.transport {
            Transport::Tls(stream) => Some(&stream.conn),
            Transport::Plain(_) => None,
        }
    }

    /// Sends all of it. That the server is gone shows when its answer is read.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.log.note(Direction::Sent, bytes);
        let sent = match &mut self.transport {
            Transport::Plain(stream) => stream.write_all(bytes),
            Transport::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
        // What it said before is still to be read.
        drop(sent);
        self.since = Instant::now();
    }

    /// Our side is over; the server's may go on.
    pub(crate) fn finish(&mut self) {
        let stream = match &mut self.transport {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => {
                stream.conn.send_close_notify();
                drop(stream.flush());
                &mut stream.sock
            }
        };
        drop(stream.shutdown(Shutdown::Write));
    }

    /// What has come and was not read yet.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// Waits for more.
    fn more(&mut self, until: Instant) -> Result<(), Trouble> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Trouble::Silence(self.time));
        }
        if self.unread.len() > KEPT_MAX {
            return Err(Trouble::TooMuch);
        }
        let mut buffer = [0; 16 << 10];
        let socket = match &self.transport {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => &stream.sock,
        };
        drop(socket.set_read_timeout(Some(left)));
        let read = match &mut self.transport {
            Transport::Plain(stream) => stream.read(&mut buffer),
            Transport::Tls(stream) => stream.read(&mut buffer),
        };
        let end = match read {
            Ok(0) => Trouble::Closed,
            Ok(length) => {
                self.log.note(Direction::Came, &buffer[..length]);
                self.unread.extend_from_slice(&buffer[..length]);
                return Ok(());
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    return Err(Trouble::Silence(self.time));
                }
                io::ErrorKind::Interrupted => return Ok(()),
                // TLS without a close_notify.
                io::ErrorKind::UnexpectedEof => Trouble::Closed,
                _ => Trouble::Reset,
            },
        };
        self.end = Some(end.clone());
        Err(end)
    }

    /// The next final answer, or a 101. Its body is read as far as it comes.
    pub(crate) fn answer(&mut self) -> Result<Answer, Trouble> {
        let mut interim = Vec::new();
        loop {
            let mut answer = self.one_answer()?;
            if (100..200).contains(&answer.status) && answer.status != 101 {
                interim.push(answer.status);
                continue;
            }
            answer.interim = interim;
            if answer.status != 101 {
                self.read_body(&mut answer);
            }
            self.since = Instant::now();
            return Ok(answer);
        }
    }

    /// The next answer, an interim one too, without its body.
    pub(crate) fn one_answer(&mut self) -> Result<Answer, Trouble> {
        let until = Instant::now() + self.time;
        let end = loop {
            if let Some(end) = answer::head_end(&self.unread) {
                break end;
            }
            if self.unread.len() > ANSWER_MAX {
                return Err(Trouble::Malformed(format!("a head of more than {} KiB", ANSWER_MAX >> 10)));
            }
            match self.more(until) {
                Ok(()) => {}
                // Some bytes, which are no head.
                Err(_) if !self.unread.is_empty() => {
                    let start = &self.unread[..self.unread.len().min(60)];
                    return Err(Trouble::Malformed(format!("not an answer of HTTP/1.1: {}", shown(start))));
                }
                Err(trouble) => return Err(trouble),
            }
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        Answer::parse(&head).map_err(Trouble::Malformed)
    }

    fn read_body(&mut self, answer: &mut Answer) {
        let until = Instant::now() + self.time.min(Duration::from_secs(1));
        loop {
            let (end, is_whole) = match answer.body_length() {
                BodyLength::Known(length) => (length, self.unread.len() >= length),
                BodyLength::UntilClose => (self.unread.len(), false),
                BodyLength::Chunked => match answer::chunked(&self.unread) {
                    Some((body, end)) => {
                        answer.body = body;
                        self.unread.drain(..end);
                        return;
                    }
                    None => (self.unread.len(), false),
                },
            };
            if is_whole || self.unread.len() > ANSWER_MAX || self.more(until).is_err() {
                answer.body = self.unread.drain(..end.min(self.unread.len())).collect();
                return;
            }
        }
    }

    /// The next frame of a WebSocket. However many come, all of them have one limit together.
    pub(crate) fn frame(&mut self) -> Result<Frame, Trouble> {
        self.frame_by(self.since + self.time)
    }

    pub(crate) fn frame_within(&mut self, time: Duration) -> Result<Frame, Trouble> {
        self.frame_by(Instant::now() + time)
    }

    pub(crate) fn frame_by(&mut self, until: Instant) -> Result<Frame, Trouble> {
        loop {
            if Instant::now() >= until {
                return Err(Trouble::Silence(self.time));
            }
            if let Some((frame, end)) = Frame::take(&self.unread) {
                self.unread.drain(..end);
                return Ok(frame);
            }
            self.more(until)?;
        }
    }

    /// Waits until so many bytes are there, and takes them.
    pub(crate) fn take(&mut self, length: usize) -> Result<Vec<u8>, Trouble> {
        let until = self.since + self.time;
        while self.unread.len() < length {
            self.more(until)?;
        }
        Ok(self.unread.drain(..length).collect())
    }

    /// Waits for the end, and says how it came; what comes meanwhile is left in `unread`.
    pub(crate) fn ending(&mut self) -> Trouble {
        self.ending_within(self.time)
    }

    pub(crate) fn ending_within(&mut self, time: Duration) -> Trouble {
        let until = Instant::now() + time;
        loop {
            if let Err(trouble) = self.more(until) {
                return trouble;
            }
        }
    }

    /// The limit of each wait.
    pub(crate) fn time(&self) -> Duration {
        self.time
    }
}

/// Bytes as text: what is printable is, the rest is `\x..`.
pub(crate) fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
