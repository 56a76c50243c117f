//! What there is to talk to: a server of ours, and some that do one thing only.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use switchpoint::{
    Config, Error, Listener, Registry, Server,
    protocols::{
        self, WebSocket,
        websocket::{Settings, Socket},
    },
    ws::{Code, accept_key},
};

/// Ours, with paths for what a client may meet.
pub(crate) struct Ours {
    server: Option<Server>,
    address: String,
}

impl Ours {
    pub(crate) fn start() -> Self {
        Self::listen("127.0.0.1:0".parse().unwrap())
    }

    pub(crate) fn listen(listener: Listener) -> Self {
        let config = Config { listen: vec![listener], threads: 1, ..Config::default() };
        let server = Server::start(config, |_| registry()).unwrap();
        let address = server.addresses()[0].to_string();
        Self { server: Some(server), address }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.handle().stop();
            server.join();
        }
    }
}

fn registry() -> Registry {
    let settings =
        Settings { deflate: cfg!(feature = "deflate").then(Default::default), ..Settings::default() };
    protocols::demonstration(settings)
        .at(
            "/greeting",
            WebSocket::new(async |mut socket: Socket| {
                socket.send("welcome").await?;
                echo(&mut socket).await
            }),
        )
        .at(
            "/later",
            WebSocket::new(async |mut socket: Socket| {
                // Each message comes back after half a second.
                while let Some(message) = socket.recv().await? {
                    let text = message.text().unwrap_or_default().to_owned();
                    monoio::time::sleep(Duration::from_millis(500)).await;
                    socket.send(&text).await?;
                }
                Ok(())
            }),
        )
        .at(
            "/policy",
            WebSocket::new(async |mut socket: Socket| {
                let _ = socket.recv().await?;
                socket.close(Code::POLICY_VIOLATION, "not here");
                drop(socket.recv().await);
                Ok(())
            }),
        )
        .at(
            "/bye",
            WebSocket::new(async |mut socket: Socket| {
                socket.send("one").await?;
                socket.close(Code::NORMAL, "");
                drop(socket.recv().await);
                Ok(())
            }),
        )
        .at(
            "/flood",
            WebSocket::new(async |socket: Socket| {
                let text = "x".repeat(1000);
                loop {
                    socket.send(&text).await?;
                }
            }),
        )
        .at(
            "/bytes",
            WebSocket::new(async |mut socket: Socket| {
                socket.send(&[0_u8, 1, 254, 255][..]).await?;
                echo(&mut socket).await
            }),
        )
        .at(
            "/multiline",
            WebSocket::new(async |mut socket: Socket| {
                socket.send("two\nlines").await?;
                echo(&mut socket).await
            }),
        )
}

async fn echo(socket: &mut Socket) -> Result<(), Error> {
    while let Some(message) = socket.recv().await? {
        let bytes = message.bytes().to_owned();
        match message.text() {
            Some(text) => {
                let text = text.to_owned();
                socket.send(&text).await?;
            }
            None => socket.send(&bytes).await?,
        }
    }
    Ok(())
}

/// A server for one connection, which does what it is told to; what that returns is what `end` gives.
pub(crate) struct Once<T> {
    pub(crate) url: String,
    pub(crate) address: String,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Once<T> {
    pub(crate) fn start(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            serve(stream)
        });
        Self { url: format!("ws://{address}/"), address, thread }
    }

    pub(crate) fn end(self) -> T {
        self.thread.join().unwrap()
    }
}

/// Reads a request's head.
pub(crate) fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// The value of a field in a head.
pub(crate) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Reads the head and answers it with a 101, which has these `lines` besides what it must.
pub(crate) fn switch(stream: &mut (impl Read + Write), lines: &str) -> String {
    let head = read_head(stream);
    let accept = accept_key(field(&head, "sec-websocket-key").unwrap().as_bytes());
    let accept = str::from_utf8(&accept).unwrap();
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{lines}\r\n"
    )
    .unwrap();
    head
}

/// Reads a frame of less than 126 bytes: its first byte and its payload; `None` at the end.
pub(crate) fn read_frame(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 6];
    match stream.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
        Err(error) => panic!("{error}"),
    }
    assert!(head[1] & 0x80 != 0, "a client masks");
    let mut payload = vec![0; usize::from(head[1] & 127)];
    stream.read_exact(&mut payload).unwrap();
    payload.iter_mut().zip(head[2..].iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Some((head[0], payload))
}

/// Switches, and reads frames until the close; it is answered. Gives the head, and the frames.
pub(crate) fn listen(mut stream: TcpStream, lines: &str) -> (String, Vec<(u8, Vec<u8>)>) {
    let head = switch(&mut stream, lines);
    let mut frames = Vec::new();
    while let Some(frame) = read_frame(&mut stream) {
        let is_close = frame.0 == 0x88;
        frames.push(frame);
        if is_close {
            let payload = &frames.last().unwrap().1;
            stream.write_all(&[&[0x88, payload.len() as u8], &payload[..]].concat()).unwrap();
            break;
        }
    }
    (head, frames)
}
