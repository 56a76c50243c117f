//! permessage-deflate (RFC 7692) on the streams of HTTP/2 (RFC 8441).

use switchpoint::{
    Error, Registry,
    protocols::{
        WebSocket,
        websocket::{Settings, Socket},
    },
    ws::{
        Agreed, Compressor, Contexts, Deflate, Event, Header, Limits, Opcode, Receiver, Role, extension,
        write_message,
    },
};

use crate::harness::{
    Site, close, everywhere,
    http2::{Http2, OnStream},
    masked,
};

fn registry() -> Registry {
    let with = |deflate| WebSocket::new(echo).with(Settings { deflate, ..Settings::default() });
    Registry::new()
        .at("/none", with(None))
        .at("/default", with(Some(Deflate::default())))
        .at("/takeover", with(Some(TAKEOVER)))
}

async fn echo(socket: Socket) -> Result<(), Error> {
    let (mut receiver, sender) = socket.split();
    while let Some(message) = receiver.recv().await? {
        sender.send(message).await?;
    }
    Ok(())
}

/// Everything otherwise than by default.
const TAKEOVER: Deflate = Deflate {
    server_no_context_takeover: false,
    client_no_context_takeover: false,
    server_max_window_bits: 11,
    client_max_window_bits: 12,
    size_min: 0,
    level: 6,
};

/// What a client wants that takes any answer.
const ANY: Deflate = Deflate { server_max_window_bits: 15, client_max_window_bits: 15, ..TAKEOVER };

/// "Hello", and then "Hello" again by a reference to the first (RFC 7692 7.2.3.1, 7.2.3.2).
const HELLO: &[u8] = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
const HELLO_AGAIN: &[u8] = b"\xf2\x00\x11\x00\x00";
/// The first byte of a text that is compressed, in one frame: FIN, RSV1.
const COMPRESSED_TEXT: u8 = 0xc1;

/// Asks for a WebSocket with this offer, and gives the answer to it.
async fn open(http2: &Http2, path: &str, offer: &str) -> (Option<String>, OnStream) {
    let fields = [("sec-websocket-version", "13"), ("sec-websocket-extensions", offer)];
    let (answer, stream) = http2.connect(path, "websocket", &fields).await.unwrap();
    let mut values = answer.headers().get_all("sec-websocket-extensions").iter();
    let value = values.next().map(|value| value.to_str().unwrap().to_owned());
    assert!(values.next().is_none(), "one field says it all");
    (value, stream)
}

/// A WebSocket whose messages are compressed, from the client's side.
struct Compressed {
    stream: OnStream,
    agreed: Agreed,
    compressor: Compressor,
    receiver: Receiver,
    got: Vec<u8>,
}

/// A message, and how it came.
struct Came {
    message: Vec<u8>,
    is_compressed: bool,
    /// The length of each DATA frame that brought some of it.
    pieces: Vec<usize>,
}

impl Came {
    fn length(&self) -> usize {
        self.pieces.iter().sum()
    }
}

impl Compressed {
    async fn open(http2: &Http2, path: &str) -> Self {
        let offer = extension::offer(&ANY).unwrap();
        let (answer, stream) = open(http2, path, &offer).await;
        Self::over(stream, &answer.expect("it is agreed to"))
    }

    fn over(stream: OnStream, answer: &str) -> Self {
        let agreed = extension::agree(&ANY, [answer]).unwrap().unwrap();
        let contexts = Contexts::new();
        Self {
            stream,
            agreed,
            compressor: Compressor::new(Role::Client, agreed, &ANY, &contexts),
            receiver: Receiver::with_deflate(Role::Client, Limits::default(), agreed, &contexts),
            got: Vec::new(),
        }
    }

    /// Sends it compressed, and gives the length of its frame.
    async fn send(&mut self, opcode: Opcode, message: &[u8]) -> usize {
        let mut frame = Vec::new();
        write_message(&mut frame, opcode, message, Some([1, 2, 3, 4]), Some(&mut self.compressor));
        assert!(frame[0] & 0x40 != 0, "RSV1");
        self.stream.send(&frame).await;
        frame.len()
    }

    async fn came(&mut self) -> Came {
        let (mut header, mut pieces) = (None, Vec::new());
        loop {
            if header.is_none() {
                header = Header::decode(&self.got).unwrap().map(|(header, _)| header);
            }
            let received = self.receiver.receive(&mut self.got).unwrap();
            let message = received.event.map(|event| match event {
                Event::Text(text) => text.as_bytes().to_vec(),
                Event::Binary(bytes) => bytes.to_vec(),
                event => panic!("{event:?}"),
            });
            let consumed = received.consumed;
            self.got.drain(..consumed);
            if let Some(message) = message {
                let header = header.expect("a message has one");
                assert!(self.got.is_empty() && header.fin);
                return Came { message, is_compressed: header.rsv1, pieces };
            }
            let chunk = self.stream.chunk().await.expect("more before the end").unwrap();
            pieces.push(chunk.len());
            self.got.extend_from_slice(&chunk);
        }
    }

    async fn says(&mut self, text: &str) -> Came {
        let came = self.came().await;
        assert_eq!(str::from_utf8(&came.message), Ok(text));
        came
    }

    async fn close(mut self, site: &Site) {
        let before = site.stats().closed_clean;
        self.stream.send(close(1000)).await;
        self.stream.expect(b"\x88\x02\x03\xe8").await;
        self.stream.finish();
        self.stream.end().await;
        site.until("it was closed", |stats| stats.closed_clean == before + 1).await;
    }
}

/// Text of which more than a third remains, and less than two, however it is compressed.
fn noise(length: usize) -> String {
    let mut state = 1_u32;
    let mut next = |place: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if place % 16 < 8 { char::from(b'0' + (state >> 26) as u8) } else { '-' }
    };
    (0..length).map(&mut next).collect()
}

#[test]
fn an_offer_is_answered_with_what_was_made_of_it() {
    const FORGETFUL: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    everywhere(registry, async |site| {
        let http2 = site.connect().http2().await;
        for (path, offer, expected) in [
            ("/default", "permessage-deflate", Some(FORGETFUL.to_owned())),
            (
                "/default",
                "permessage-deflate; server_max_window_bits=10; client_max_window_bits",
                Some(format!("{FORGETFUL}; server_max_window_bits=10")),
            ),
            // The first is for somebody else.
            (
                "/default",
                "permessage-deflate; mode=turbo, permessage-deflate; client_max_window_bits=9",
                Some(format!("{FORGETFUL}; client_max_window_bits=9")),
            ),
            (
                "/takeover",
                "permessage-deflate; client_max_window_bits",
                Some("permessage-deflate; server_max_window_bits=11; client_max_window_bits=12".into()),
            ),
            (
                "/takeover",
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
                Some("permessage-deflate; server_no_context_takeover; server_max_window_bits=9".into()),
            ),
            ("/default", "permessage-deflate; server_max_window_bits=7", None),
            ("/default", "x-webkit-deflate-frame", None),
            ("/none", "permessage-deflate", None),
        ] {
            let (answer, mut stream) = open(&http2, path, offer).await;
            assert_eq!(answer, expected, "{offer} at {path}");
            stream.send(masked(COMPRESSED_TEXT, HELLO)).await;
            if let Some(answer) = answer {
                Compressed::over(stream, &answer).says("Hello").await;
            } else {
                // A bit that nobody has agreed on (RFC 6455 5.2).
                stream.frame().await.is_close(1002);
            }
        }
    });
}

#[test]
fn messages_go_there_and_back_compressed() {
    everywhere(registry, async |site| {
        let http2 = site.connect().http2().await;
        for path in ["/default", "/takeover"] {
            let mut socket = Compressed::open(&http2, path).await;
            let takes_over = path == "/takeover";
            assert_eq!(socket.agreed.server_no_context_takeover, !takes_over);
            for hello in if takes_over { &[HELLO, HELLO_AGAIN][..] } else { &[HELLO, HELLO] } {
                socket.stream.send(masked(COMPRESSED_TEXT, hello)).await;
                // Below `size_min` it comes back as it is.
                assert_eq!(socket.says("Hello").await.is_compressed, takes_over);
            }
            // What the client does not compress is heard as well.
            socket.stream.send(masked(0x81, "plain")).await;
            socket.says("plain").await;

            let text = "κόσμε 🦀, ".repeat(1000);
            let sent = socket.send(Opcode::Text, text.as_bytes()).await;
            let came = socket.says(&text).await;
            assert!(came.is_compressed && sent < text.len() / 10);
            assert!(came.length() < text.len() / 10, "{:?}", came.pieces);

            // More than fits a DATA frame, or the window of a stream, though compressed.
            for size in [60_000, 300_000] {
                let noise = noise(size);
                let sent = socket.send(Opcode::Binary, noise.as_bytes()).await;
                let came = socket.came().await;
                assert!(came.message == noise.as_bytes() && came.is_compressed, "{size} bytes at {path}");
                for length in [sent, came.length()] {
                    assert!((DATA_MAX + 1..size * 3 / 4).contains(&length), "{length} of {size} at {path}");
                }
                let is_cut = came.pieces.len() > 1 && came.pieces.iter().all(|piece| *piece <= DATA_MAX);
                assert!(is_cut, "{:?}", came.pieces);
            }
            socket.close(site).await;
        }
    });
}

/// The payload of a DATA frame to a peer that has not asked for longer ones (RFC 9113 6.5.2).
const DATA_MAX: usize = 16 << 10;

#[test]
fn each_stream_refers_to_what_was_said_on_it() {
    everywhere(registry, async |site| {
        let http2 = site.connect().http2().await;
        let mut one = Compressed::open(&http2, "/takeover").await;
        let mut other = Compressed::open(&http2, "/takeover").await;
        let words = noise(300);
        one.stream.send(masked(COMPRESSED_TEXT, HELLO)).await;
        let first = other.send(Opcode::Text, words.as_bytes()).await;
        one.says("Hello").await;
        let came_first = other.says(&words).await.length();
        one.stream.send(masked(COMPRESSED_TEXT, HELLO_AGAIN)).await;
        let second = other.send(Opcode::Text, words.as_bytes()).await;
        one.says("Hello").await;
        let came_second = other.says(&words).await.length();
        assert!(second < first && came_second < came_first, "a reference is shorter");
        one.close(site).await;
        other.close(site).await;
    });
}

#[test]
fn what_cannot_be_inflated_costs_its_own_stream() {
    everywhere(registry, async |site| {
        let http2 = site.connect().http2().await;
        let mut kept = Compressed::open(&http2, "/default").await;
        // A reference to what was never said, and nothing of the kind.
        for wrong in [HELLO_AGAIN, b"\xff\xff\xff"] {
            let (_, mut stream) = open(&http2, "/default", "permessage-deflate").await;
            stream.send(masked(COMPRESSED_TEXT, wrong)).await;
            stream.frame().await.is_close(CANNOT_BE_INFLATED);
        }
        kept.stream.send(masked(COMPRESSED_TEXT, HELLO)).await;
        kept.says("Hello").await;
        kept.close(site).await;
    });
}

const CANNOT_BE_INFLATED: u16 = 1007;
