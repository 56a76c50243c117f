//! A worker in memory, and a client that says anything.

#[path = "../../conversations/harness/answer.rs"]
#[allow(dead_code, reason = "conversations look at more of an answer")]
mod answer;

use std::{cell::RefCell, rc::Rc, time::Duration};

use answer::Answer;
use switchpoint::{
    Config, Driver, Runtime, Stream, Worker,
    duplex::{self, Faults},
    http::{self, BodyReader, Framing, Head, HeadScanner, Version, list},
    monoio, protocols,
    ws::{self, Contexts, Deflate, Receiver, Role, extension},
};

use super::websocket::hear;
use crate::random::Random;

/// Whatever a client says, it is answered in legal HTTP, switched only if it asked for it, and nothing of it is left.
pub fn handshake(bytes: &[u8], random: &mut Random) -> bool {
    SITE.with_borrow_mut(|Site { runtime, worker }| {
        worker.tick();
        let sent = &bytes[..bytes.len().min(16 << 10)];
        let (heard, is_reset) = runtime.block_on(converse(worker, sent, random));
        assert!(!is_reset, "nobody resets");
        let stats = worker.stats();
        assert_eq!((stats.panics, stats.connections, stats.sessions), (0, 0, 0), "{stats:?}");
        is_answered(sent, &heard)
    })
}

/// One for all inputs.
pub(super) struct Site {
    pub(super) runtime: Runtime,
    pub(super) worker: Rc<Worker>,
}

impl Site {
    /// Leaked, for monoio's own thread-locals may be gone before a target's.
    pub(super) fn new(worker: impl FnOnce() -> Rc<Worker>) -> RefCell<&'static mut Self> {
        let runtime = Driver::Epoll.build().unwrap();
        RefCell::new(Box::leak(Box::new(Self { runtime, worker: worker() })))
    }
}

thread_local! {
    static SITE: RefCell<&'static mut Site> = Site::new(|| {
        let config = Config { threads: 1, ..Config::default() };
        Worker::new(config, protocols::demonstration(Default::default()))
    });
}

/// Says it in pieces, then that no more will come, and hears all that is said; and whether the end was a reset.
pub(super) async fn converse(worker: &Rc<Worker>, sent: &[u8], random: &mut Random) -> (Vec<u8>, bool) {
    let often = random.pick(&[0.0, 0.5]);
    let faults = Faults { partial_read: often, partial_write: often, ..Faults::none() };
    let (near, far) = duplex::pair_with_faults(faults, random.below(usize::MAX) as u64);
    let server = monoio::spawn(worker.serve(Stream::from(far), None));
    for piece in random.pieces(sent) {
        near.write_all(piece).await.unwrap_or_default(); // the server may have hung up
        if random.one_in(3) {
            monoio::spawn(async {}).await; // its turn
        }
    }
    near.shutdown_write();
    let mut heard = Vec::new();
    let end = loop {
        heard.reserve(4096);
        let reading = monoio::time::timeout(Duration::from_secs(5), near.read(heard));
        let (result, back) = reading.await.expect("the server says no more, and does not hang up");
        heard = back;
        match result {
            Ok(0) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    drop(near);
    server.await;
    for _ in 0..100 {
        // A session is a task of its own.
        if worker.stats().connections == 0 {
            break;
        }
        monoio::spawn(async {}).await;
    }
    (heard, end.is_err())
}

/// Goes through requests and answers side by side; whether it ends with a switch.
fn is_answered(mut sent: &[u8], mut heard: &[u8]) -> bool {
    let limits = http::Limits::default();
    loop {
        let end = HeadScanner::default().find(sent, &limits);
        let head = match end {
            Ok(None) => {
                assert!(heard.is_empty(), "nothing was asked");
                return false;
            }
            Ok(Some(end)) => Head::parse(&sent[..end], &limits).map(|head| (head, &sent[end..])),
            Err(fault) => Err(fault),
        };
        let (head, behind) = match head {
            Ok(head) => head,
            Err(fault) => {
                let (answer, length) = Answer::parse(heard, false).expect("a fault has its answer");
                assert_eq!((answer.check(), answer.status, length), (Ok(()), fault.status(), heard.len()));
                assert!(answer.has_token("connection", "close") && answer.reason() == Some(fault.code()));
                return false;
            }
        };
        let mut body = Vec::new();
        let read =
            BodyReader::new(head.framing, 1 << 20).and_then(|mut reader| reader.read(behind, &mut body));
        let answer = loop {
            let Some((answer, length)) = Answer::parse(heard, head.method == "HEAD") else {
                assert!(
                    heard.is_empty() && read.is_ok_and(|read| !read.done),
                    "no answer: {}",
                    heard.escape_ascii()
                );
                return false;
            };
            assert_eq!(answer.check(), Ok(()), "{answer:?}");
            heard = &heard[length..];
            if answer.status != 100 {
                break answer;
            }
            assert!(head.expects_continue);
        };
        if answer.status == 101 {
            is_switched(&head, behind, &answer, heard);
            return true;
        }
        if answer.has_token("connection", "close") {
            assert!(heard.is_empty(), "nothing follows the last answer: {}", heard.escape_ascii());
            return false;
        }
        let read = read.expect("who reads on has read the body");
        assert!(head.keep_alive && read.done && head.method != "CONNECT");
        sent = &behind[read.consumed..];
    }
}

/// A 101 is what the client has asked for (RFC 6455 4.2.2, RFC 9110 7.8), and what follows is that.
fn is_switched(head: &Head<'_>, behind: &[u8], answer: &Answer, heard: &[u8]) {
    let fields = &head.fields;
    let spoken = answer.field("upgrade").unwrap();
    assert!(head.version == Version::Http11 && head.method == "GET" && head.target.path() == "/echo");
    assert!(fields.has_token("connection", "upgrade") && fields.has_token("upgrade", spoken));
    assert!(matches!(head.framing, Framing::None | Framing::Length(0)));
    if spoken == "echo" {
        return assert_eq!(heard, behind);
    }
    assert_eq!((spoken, fields.only("sec-websocket-version")), ("websocket", Ok(Some(&b"13"[..]))));
    let key = fields.only("sec-websocket-key").unwrap().unwrap();
    let accept = ws::accept_key(key);
    assert!(ws::is_key(key) && answer.field("sec-websocket-accept").unwrap().as_bytes() == accept);
    let chosen = answer.field("sec-websocket-protocol");
    assert!(chosen.is_none_or(|chosen| fields.tokens("sec-websocket-protocol").any(|offer| offer == chosen)));
    let limits = ws::Limits::default();
    let extensions = answer.all("sec-websocket-extensions").flat_map(|value| list::items(value.as_bytes()));
    let receiver = match extension::agree(&ANY, extensions).unwrap() {
        None => Receiver::new(Role::Client, limits),
        Some(agreed) => {
            let mut offers = fields.tokens("sec-websocket-extensions");
            assert!(offers.any(|offer| list::parameters(offer).0 == "permessage-deflate"));
            Receiver::with_deflate(Role::Client, limits, agreed, &Contexts::new())
        }
    };
    let heard = hear(receiver, limits, usize::MAX, false, &[heard]);
    assert!(heard.fault.is_none() && !heard.is_open, "a server says nothing that is wrong: {heard:?}");
}

/// What a client wants that takes any answer.
const ANY: Deflate = Deflate {
    server_no_context_takeover: false,
    client_no_context_takeover: false,
    server_max_window_bits: 15,
    client_max_window_bits: 15,
    size_min: 0,
    level: 1,
};
