//! HTTP/2 by prior knowledge: the same resources, and the same protocols on its streams (RFC 8441).

use std::{cell::Cell, rc::Rc, time::Duration};

use http::{Method, Request as Http};
use monoio::time;
use switchpoint::{
    Accept, Accepts, Config, Decision, Error, Http2 as Limits, Registry, Rejection, Request, Resource,
    Response, Upgraded,
    h2c::Rate,
    protocols::{Echo, H2c, WebSocket, websocket::Socket},
};

use crate::harness::{
    Client, Custom, PATIENCE, Site, Transport, binary, close, config, everywhere, everywhere_with,
    http2::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, Http2, Http2Frame, PING,
        PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, preface,
    },
    milliseconds, on, ping, settle, text,
};

fn registry() -> Registry {
    Registry::new()
        .get("/", |_| Response::text("hello").field("Cache-Control", "no-store"))
        .get("/both", |_| Response::text("both"))
        .get("/large", |_| Response::text("x".repeat(1 << 20)))
        .get("/panic", |_| panic!("as it was told"))
        .get("/length", |request| Response::text(request.body().len().to_string()))
        .get("/agent", |request| {
            Response::text(format!(
                "{} {}",
                request.authority().unwrap(),
                request.field("User-Agent").unwrap()
            ))
        })
        .post("/echo", async |request: &Request<'_>| {
            Ok(Response::new(200).with_bytes("application/octet-stream", request.body().to_vec()))
        })
        .resource("/teapot", Teapot)
        .at("/both", Echo)
        .at("/ws", WebSocket::new(echo).subprotocols(&["v2", "v1"]).shows_handshake())
        .at("/bytes", Echo)
        .at("/no", Custom::new("no").authorize(|_| Box::pin(std::future::ready(Err(Rejection::forbidden())))))
        .at(
            "/settled",
            Custom::new("settled").accepts(Accepts::default().methods(&["POST"])).negotiate(|request| {
                Decision::Accept(
                    Accept::new(request.field("x-name").unwrap_or("?").to_owned()).field("X-Seen", "yes"),
                )
            }),
        )
        .with(H2c::new())
}

async fn echo(socket: Socket) -> Result<(), Error> {
    let (mut receiver, sender) = socket.split();
    while let Some(message) = receiver.recv().await? {
        sender.send(message).await?;
    }
    Ok(())
}

/// Takes a while, and then refuses.
struct Teapot;

impl Resource for Teapot {
    fn methods(&self) -> &'static [&'static str] {
        &["DELETE"]
    }

    async fn answer(&self, _: &Request<'_>) -> Result<Response, Rejection> {
        time::sleep(Duration::from_millis(5)).await;
        Err(Rejection::forbidden())
    }
}

fn request(method: Method, path: &str) -> Http<()> {
    Http::builder().method(method).uri(format!("http://a.example{path}")).body(()).unwrap()
}

fn reason(body: &[u8]) -> &str {
    str::from_utf8(body).unwrap().lines().find_map(|line| line.strip_prefix("reason: ")).unwrap_or("none")
}

#[test]
fn a_resource_is_written_once_and_served_over_each_version() {
    everywhere(registry, async |site| {
        let http2 = site.connect().http2().await;
        let answer = http2.get("/").await;
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"hello"[..]));
        let over_1 = site.ask("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        for field in ["content-type", "content-length", "cache-control"] {
            assert_eq!(answer.headers()[field].to_str().ok(), over_1.field(field), "{field}");
        }
        assert!(answer.headers().contains_key("date"));

        let head = http2.ask(request(Method::HEAD, "/"), b"").await;
        assert_eq!((head.body().len(), &head.headers()["content-length"]), (0, &"5".parse().unwrap()));
        let agent = Http::get("http://b.example:80/agent").header("user-agent", "test").body(()).unwrap();
        assert_eq!(http2.ask(agent, b"").await.body(), b"b.example:80 test");
        let options = http2.ask(request(Method::OPTIONS, "/"), b"").await;
        assert_eq!(
            (options.status().as_u16(), &options.headers()["allow"]),
            (204, &"GET, HEAD, OPTIONS".parse().unwrap())
        );
        assert_eq!(http2.ask(request(Method::GET, "/length"), b"12345").await.body(), b"5");
        let refused = http2.ask(request(Method::DELETE, "/teapot"), b"").await;
        assert_eq!((refused.status().as_u16(), reason(refused.body())), (403, "forbidden"));
        assert_eq!(site.stats().requests, 7);
        assert_eq!(site.stats().upgrades.get("h2"), Some(&1));
    });
}

#[test]
fn a_cookie_that_came_in_parts_is_whole() {
    let cookies = || {
        registry()
            .get("/cookie", |request| Response::text(request.field("Cookie").unwrap_or("none").to_owned()))
    };
    everywhere(cookies, async |site| {
        let http2 = site.connect().http2().await;
        let split = Http::get("http://a.example/cookie").header("cookie", "a=1").header("cookie", "b=2");
        assert_eq!(http2.ask(split.body(()).unwrap(), b"").await.body(), b"a=1; b=2");
        assert_eq!(http2.get("/cookie").await.body(), b"none");
    });
}

#[test]
fn bodies_come_back_whole_and_have_a_limit() {
    everywhere_with(Config { body_max: 1 << 20, ..config() }, registry, async |site| {
        let http2 = site.connect().http2().await;
        for size in [1, 65_535, 65_536, 1 << 20] {
            let body: Vec<u8> = (0..size as u32).map(|i| (i / 5) as u8).collect();
            let answer = http2.ask(request(Method::POST, "/echo"), &body).await;
            assert!(answer.body() == &body, "{size}");
        }
        let answer = http2.ask(request(Method::POST, "/echo"), &vec![0; (1 << 20) + 1]).await;
        assert_eq!((answer.status().as_u16(), reason(answer.body())), (413, "body-too-large"));
        assert_eq!(http2.get("/large").await.body().len(), 1 << 20);
        assert_eq!(http2.get("/").await.status(), 200, "the connection goes on");
    });
}

#[test]
fn a_refusal_has_its_status_and_its_reason() {
    everywhere(registry, async |site| {
        let http2 = site.connect().http2().await;
        for (method, path, status, code) in [
            ("GET", "/nowhere", 404, "no-such-path"),
            ("POST", "/", 405, "method-not-allowed"),
            ("BREW", "/", 501, "unknown-method"),
            ("GET", "/ws", 405, "method-not-allowed"),
            ("GET", "/panic", 500, "internal"),
        ] {
            let answer = http2.ask(request(method.parse().unwrap(), path), b"").await;
            assert_eq!((answer.status().as_u16(), reason(answer.body())), (status, code), "{method} {path}");
            assert_eq!(answer.headers().contains_key("allow"), status == 405);
        }
        assert_eq!(http2.get("/").await.status(), 200, "a panic costs its own stream");
        assert_eq!((site.stats().panics, site.stats().rejections["no-such-path"]), (1, 1));

        let problem = Http::get("http://a.example/nowhere").header("accept", "application/problem+json");
        let problem = http2.ask(problem.body(()).unwrap(), b"").await;
        assert_eq!(problem.headers()["content-type"], "application/problem+json");
        let long = Http::get("http://a.example/").header("x-long", "x".repeat(20_000)).body(()).unwrap();
        assert_eq!(http2.ask(long, b"").await.status(), 431);
    });
}

#[test]
fn a_connect_that_is_no_session_is_refused_at_once() {
    everywhere(registry, async |site| {
        let http2 = site.connect().http2().await;
        let plain = Http::connect("a.example:443").body(()).unwrap();
        let mut requests = http2.requests.clone().ready().await.unwrap();
        let (answer, _send) = requests.send_request(plain, false).unwrap();
        let answer = time::timeout(PATIENCE, answer).await.expect("no wait for a body").unwrap();
        assert_eq!(answer.status(), 405);
        for (path, protocol, status) in [
            ("/ws", "connect-udp", 501),
            ("/ws", "h2c", 501),
            ("/bytes", "websocket", 501),
            ("/nowhere", "websocket", 404),
            ("/no", "no", 403),
            ("/ws", "websocket", 400), // without a version
        ] {
            assert_eq!(http2.connect(path, protocol, &[]).await.err(), Some(status), "{protocol} at {path}");
        }
        let wrong = http2.connect("/ws", "websocket", &[("sec-websocket-version", "12")]).await;
        assert_eq!(wrong.err(), Some(426));
        let foreign = [("sec-websocket-version", "13"), ("origin", "http://b.example")];
        assert_eq!(http2.connect("/ws", "websocket", &foreign).await.err(), Some(403));
        assert_eq!(site.stats().rejections["origin-not-allowed"], 1);
        assert_eq!(site.stats().rejections["unknown-protocol"], 3);
    });
}

#[test]
fn a_websocket_on_a_stream_is_one_like_any_other() {
    everywhere(registry, async |site| {
        let http2 = site.connect().http2().await;
        let fields = [
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "v0, v1"),
            ("origin", "http://a.example"),
        ];
        let (answer, mut socket) = http2.connect("/ws", "websocket", &fields).await.unwrap();
        assert_eq!(answer.headers()["sec-websocket-protocol"], "v1");
        assert!(!answer.headers().contains_key("sec-websocket-accept"), "there is no key");
        socket.send(text("hello")).await;
        socket.frame().await.is_text("hello");
        socket.send(ping("are you there?")).await;
        socket.frame().await.is(10, "are you there?");
        let large = vec![0xfe; 300_000];
        socket.send(binary(&large)).await;
        socket.frame().await.is(2, &large);
        assert_eq!(site.stats().sessions, 2, "the connection, and the stream");
        socket.send(close(1000)).await;
        socket.frame().await.is_close(1000);
        socket.finish();
        socket.end().await;
        site.until("the stream's session has ended", |stats| stats.sessions == 1).await;
        assert_eq!(site.stats().upgrades.get("websocket"), Some(&1));
        assert_eq!(site.stats().ends.get("ok"), Some(&1));
        let counted = site.stats();
        let websocket = &counted.protocols["websocket"];
        assert_eq!((websocket.switched, websocket.sessions, websocket.handshake_time.count()), (1, 0, 1));
        assert_eq!((counted.messages_received.count(), counted.messages_received.sum()), (2, 300_005));
        assert_eq!(counted.messages_sent, counted.messages_received);
        assert!(http2.connect("/ws", "websocket", &[]).await.is_err());
        assert_eq!(site.stats().protocols["websocket"].refused["missing-version"], 1);
        assert_eq!(http2.get("/").await.status(), 200);
    });
}

#[test]
fn the_handshake_is_shown_in_the_form_of_its_version() {
    everywhere(registry, async |site| {
        let http2 = site.connect().http2().await;
        let fields = [
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "switchpoint.handshake"),
            ("cookie", "secret"),
        ];
        let (_, mut socket) = http2.connect("/ws", "websocket", &fields).await.unwrap();
        let shown = String::from_utf8(socket.frame().await.payload).unwrap();
        assert!(shown.contains("CONNECT /ws HTTP/2") && shown.contains("HTTP/2 200"), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
    });
}

#[test]
fn every_handler_runs_on_a_stream_as_behind_a_101() {
    everywhere(registry, async |site| {
        let http2 = site.connect().http2().await;
        let (_, mut bytes) = http2.connect("/bytes", "echo", &[]).await.unwrap();
        for size in [1, 1000, 200_000] {
            let sent: Vec<u8> = (0..size as u32).map(|i| i as u8).collect();
            bytes.send(&sent[..sent.len() / 2]).await;
            bytes.expect(&sent[..sent.len() / 2]).await;
            bytes.send(&sent[sent.len() / 2..]).await;
            bytes.expect(&sent[sent.len() / 2..]).await;
        }
        bytes.finish();
        bytes.end().await;
        let (answer, mut settled) = http2.connect("/settled", "settled", &[("x-name", "you")]).await.unwrap();
        assert_eq!(answer.headers()["x-seen"], "yes");
        settled.expect(b"you").await;
        settled.finish();
    });
}

#[test]
fn fifty_websockets_share_a_connection() {
    everywhere(registry, async |site| {
        let http2 = Rc::new(site.connect().http2().await);
        let tasks: Vec<_> = (0..50)
            .map(|number| {
                let http2 = Rc::clone(&http2);
                monoio::spawn(async move {
                    let mut socket = http2.websocket("/ws").await;
                    let large = vec![0x80 | number; 30_000];
                    for _ in 0..3 {
                        socket.send(binary(&large)).await;
                        socket.frame().await.is(2, &large);
                    }
                    socket.send(close(1000)).await;
                    socket.frame().await.is_close(1000);
                    socket.finish();
                    socket.end().await;
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        site.until("the sessions have ended", |stats| stats.ends.get("ok") == Some(&50)).await;
    });
}

#[test]
fn tiny_messages_that_nobody_reads_do_not_cost_the_connection() {
    let stalled = || {
        registry().on("asleep", async |mut connection: Upgraded| {
            time::sleep(Duration::from_millis(300)).await;
            let mut count = 0;
            while connection.fill().await? {
                count += connection.unread().len();
                connection.consume(connection.unread().len());
            }
            connection.write_all(format!("{count} bytes").as_bytes()).await
        })
    };
    everywhere(stalled, async |site| {
        let http2 = site.connect().http2().await;
        let mut sleepers = Vec::new();
        for _ in 0..3 {
            let (_, mut sleeper) = http2.connect("/ws", "asleep", &[]).await.unwrap();
            for _ in 0..5000 {
                sleeper.send(b"tiny msg").await;
            }
            sleeper.finish();
            sleepers.push(sleeper);
        }
        assert_eq!(http2.get("/").await.status(), 200);
        for mut sleeper in sleepers {
            sleeper.expect(b"40000 bytes").await;
            sleeper.end().await;
        }
    });
}

#[test]
fn a_handler_that_does_not_read_stops_its_sender_and_nobody_else() {
    let deaf = || {
        registry().on("deaf", async |connection: Upgraded| {
            time::sleep(Duration::from_millis(300)).await;
            drop(connection);
            Ok(())
        })
    };
    everywhere(deaf, async |site| {
        let http2 = site.connect().http2().await;
        let (_, mut stalled) = http2.connect("/ws", "deaf", &[]).await.unwrap();
        stalled.send(vec![0; 64 << 10]).await;
        stalled.send.reserve_capacity(1);
        milliseconds(20).await;
        assert_eq!(stalled.send.capacity(), 0, "its window is full");
        let answer = http2.ask(request(Method::POST, "/echo"), &[7; 50_000]).await;
        assert!(answer.body() == &[7; 50_000]);
    });
}

#[test]
fn a_stream_that_is_reset_ends_its_session() {
    everywhere(registry, async |site| {
        let http2 = site.connect().http2().await;
        let mut socket = http2.websocket("/ws").await;
        socket.send.send_reset(h2::Reason::CANCEL);
        site.until("the session was lost", |stats| stats.lost == 1 && stats.sessions == 1).await;
        let kept = http2.websocket("/ws").await;
        drop(http2.requests);
        drop((socket, kept));
        http2.ended.await.ok();
        site.until("all have ended", |stats| stats.sessions == 0).await;
    });
}

#[test]
fn a_request_that_is_taken_back_is_not_answered_any_more() {
    let ended = Rc::new(Cell::new(0));
    let dropped = Rc::clone(&ended);
    struct Guard(Rc<Cell<usize>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let slow = move || {
        let dropped = Rc::clone(&dropped);
        registry().post("/slow", async move |_: &Request<'_>| {
            let _guard = Guard(Rc::clone(&dropped));
            std::future::pending().await
        })
    };
    everywhere(slow, async |site| {
        let before = ended.get();
        let http2 = site.connect().http2().await;
        let mut requests = http2.requests.clone().ready().await.unwrap();
        let (answer, mut send) = requests.send_request(request(Method::POST, "/slow"), true).unwrap();
        site.until("it has arrived", |stats| stats.requests == 1).await;
        settle(site.transport).await;
        send.send_reset(h2::Reason::CANCEL);
        drop(answer);
        site.until("nothing", |_| ended.get() == before + 1).await;
    });
}

#[test]
fn a_drain_says_goodbye_to_sessions_and_lets_answers_go_out() {
    let slow = || {
        registry().post("/slow", async |_: &Request<'_>| {
            time::sleep(Duration::from_millis(100)).await;
            Ok(Response::text("late"))
        })
    };
    everywhere(slow, async |site| {
        let Http2 { requests, ended } = site.connect().http2().await;
        let http2 = Http2 { requests, ended: monoio::spawn(async { Ok(()) }) };
        let mut socket = http2.websocket("/ws").await;
        let mut ready = http2.requests.clone().ready().await.unwrap();
        let (answer, _) = ready.send_request(request(Method::POST, "/slow"), true).unwrap();
        site.until("it has arrived", |stats| stats.requests == 2).await;
        site.worker.say_goodbye();
        assert_eq!(socket.frame().await.is_close(1001), "the server is shutting down");
        socket.send(close(1001)).await;
        socket.finish();
        socket.end().await;
        let answer = time::timeout(PATIENCE, answer).await.expect("in time").unwrap();
        assert_eq!(answer.status(), 200);
        drop((http2, socket, ready));
        time::timeout(PATIENCE, ended).await.expect("the connection ends").unwrap();
        site.is_left_alone().await;
        assert_eq!((site.stats().closed_clean, site.stats().cut, site.stats().lost), (2, 0, 0));
    });
}

// ---- frame by frame -------------------------------------------------------------------------------------------

#[test]
fn the_preface_may_come_byte_by_byte() {
    on(Transport::Memory, config(), registry(), async |site: &Site| {
        let mut client = site.connect();
        for byte in [preface(&[]), frame(HEADERS, 5, 1, GET)].concat() {
            client.send([byte]).await;
            settle(Transport::Memory).await;
        }
        let data = client.http2_frame_of(DATA).await;
        assert_eq!((data.stream, &data.payload[..]), (1, &b"hello"[..]));
    });
}

#[test]
fn what_only_looks_like_the_preface_is_no_request() {
    let config = Config { head_time: Duration::from_millis(200), ..config() };
    everywhere_with(config, registry, async |site| {
        let mut client = site.connect();
        client.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
        assert!(client.answer().await.status >= 400);
        client.end().await;
        assert_eq!(site.ask("PRI /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 501);
        assert_eq!(site.ask("P").await.status, 408);
    });
}

#[test]
fn prior_knowledge_can_be_refused() {
    let http2 = Limits { prior_knowledge: false, ..Limits::default() };
    everywhere_with(Config { http2, ..config() }, registry, async |site| {
        let mut client = site.connect();
        client.send(preface(&[])).await;
        assert!(client.answer().await.status >= 400);
        client.end().await;
    });
}

/// Sends `flood` until the server has had enough, and gives the code of its GOAWAY.
async fn flooded(site: &Site, flood: &[u8]) -> u32 {
    let mut client = site.connect();
    client.send(preface(&[])).await;
    client.send(frame(SETTINGS, ACK, 0, "")).await;
    for _ in 0..200 {
        if client.try_send(flood).await.is_err() {
            break;
        }
        settle(Transport::Memory).await;
    }
    let got = client.ends_somehow().await;
    let mut rest = &got[..];
    while let Some((frame, length)) = Http2Frame::parse(rest) {
        if frame.kind == GOAWAY {
            return frame.code();
        }
        rest = &rest[length..];
    }
    panic!("no GOAWAY among {} bytes", got.len());
}

const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;

#[test]
fn frames_that_lead_nowhere_have_a_limit() {
    let http2 = Limits {
        free_frames: Rate { burst: 100, per_second: 10 },
        resets: Rate { burst: 50, per_second: 10 },
        ..Limits::default()
    };
    on(Transport::Memory, Config { http2, ..config() }, registry(), async |site: &Site| {
        for (name, one) in [
            ("PING", frame(PING, 0, 0, [0; 8])),
            ("PING that is answered", frame(PING, ACK, 0, [0; 8])),
            ("SETTINGS", frame(SETTINGS, 0, 0, [0, 3, 0, 0, 0, 1])),
            ("PRIORITY", frame(PRIORITY, 0, 1001, [0, 0, 0, 0, 1])),
            ("unknown", frame(0x99, 0, 0, [0; 5])),
        ] {
            assert_eq!(flooded(site, &one.repeat(50)).await, ENHANCE_YOUR_CALM, "{name}");
        }
        // Below the limit nothing happens.
        let mut client = site.connect();
        client.send(preface(&[])).await;
        client.send(frame(PRIORITY, 0, 1001, [0, 0, 0, 0, 1]).repeat(90)).await;
        client.send(frame(HEADERS, 5, 1, GET)).await;
        assert_eq!(client.http2_frame_of(DATA).await.payload, b"hello");
    });
}

#[test]
fn requests_that_are_taken_back_one_by_one_have_a_limit() {
    let http2 = Limits { resets: Rate { burst: 50, per_second: 10 }, ..Limits::default() };
    everywhere_with(Config { http2, ..config() }, registry, async |site| {
        let mut client = site.connect();
        client.send(preface(&[])).await;
        for number in 0..200 {
            let stream = 2 * number + 1;
            // The paced form of CVE-2023-44487: each is accepted before it is reset.
            let sent =
                client.try_send(frame(HEADERS, END_HEADERS, stream, b"\x83\x86\x84\x01\x09a.example")).await;
            settle(site.transport).await;
            if sent.is_err() || client.try_send(frame(RST_STREAM, 0, stream, [0, 0, 0, 8])).await.is_err() {
                break;
            }
            settle(site.transport).await;
        }
        let goaway = client.http2_frame_of(GOAWAY).await;
        assert_eq!(goaway.code(), ENHANCE_YOUR_CALM);
        client.ends_somehow().await;
        assert!(site.stats().requests < 100, "{}", site.stats().requests);
        site.is_left_alone().await;
        assert_eq!(site.stats().ends.get("peer"), Some(&1), "{:?}", site.stats());
    });
}

#[test]
fn handlers_of_a_connection_are_as_many_as_its_streams() {
    let http2 = Limits { streams_max: 5, ..Limits::default() };
    let slow = || registry().post("/slow", async |_: &Request<'_>| std::future::pending().await);
    everywhere_with(Config { http2, ..config() }, slow, async |site| {
        let mut client = site.connect();
        client.send(preface(&[])).await;
        for number in 0..6 {
            let head = b"\x83\x86\x04\x05/slow\x01\x09a.example";
            client.send(frame(HEADERS, 5, 2 * number + 1, head)).await;
        }
        let refused = client.http2_frame_of(RST_STREAM).await;
        assert_eq!((refused.stream, refused.code()), (11, 7), "REFUSED_STREAM");
        site.worker.cut_all();
    });
}

#[test]
fn a_head_that_never_ends_does_not_buy_time() {
    let config = Config { head_time: Duration::from_millis(200), ..config() };
    everywhere_with(config, registry, async |site| {
        let mut client = site.connect();
        client.send(preface(&[])).await;
        client.send(frame(HEADERS, 0, 1, b"\x82")).await;
        for _ in 0..3 {
            milliseconds(60).await;
            client.send(frame(CONTINUATION, 0, 1, b"")).await;
        }
        let goaway = client.http2_frame_of(GOAWAY).await;
        assert_eq!(goaway.code(), ENHANCE_YOUR_CALM);
        client.ends_somehow().await;
    });
}

#[test]
fn a_body_that_never_comes_has_its_time() {
    let config = Config { answer_time: Duration::from_millis(150), ..config() };
    everywhere_with(config, registry, async |site| {
        let http2 = site.connect().http2().await;
        let mut requests = http2.requests.clone().ready().await.unwrap();
        let (answer, _send) = requests.send_request(request(Method::POST, "/echo"), false).unwrap();
        let answer = time::timeout(PATIENCE, answer).await.expect("in time").unwrap();
        assert_eq!(answer.status(), 408);
        assert_eq!(http2.get("/").await.status(), 200, "only the stream is given up");
    });
}

#[test]
fn a_connection_without_streams_is_asked_to_leave() {
    let config = Config { keep_alive_time: Duration::from_millis(200), ..config() };
    everywhere_with(config, registry, async |site| {
        let mut client = site.connect();
        client.send(preface(&[])).await;
        for number in 0..4 {
            client.send(frame(HEADERS, 5, 2 * number + 1, GET)).await;
            client.http2_frame_of(DATA).await;
            milliseconds(80).await;
        }
        // A PING is no request.
        client.send(frame(PING, 0, 0, [1; 8])).await;
        let goaway = client.http2_frame_of(GOAWAY).await;
        assert_eq!((goaway.code(), &goaway.payload[..4]), (0, &[0x7f, 0xff, 0xff, 0xff][..]), "first of two");
        let ping = client.http2_frame_of(PING).await;
        client.send(frame(PING, ACK, 0, ping.payload)).await;
        let goaway = client.http2_frame_of(GOAWAY).await;
        assert_eq!(
            (goaway.code(), &goaway.payload[..4]),
            (0, &[0, 0, 0, 7][..]),
            "the last that was answered"
        );
        client.finish();
        client.ends_somehow().await;
        site.is_left_alone().await;
        assert_eq!(site.stats().ends.get("ok"), Some(&1), "{:?}", site.stats());
    });
}

#[test]
fn a_request_that_crosses_the_goaway_is_answered() {
    let config = Config {
        keep_alive_time: Duration::from_millis(200),
        close_time: Duration::from_millis(200),
        ..config()
    };
    let slow = || {
        registry().post("/slow", async |_: &Request<'_>| {
            time::sleep(Duration::from_millis(600)).await;
            Ok(Response::text("late"))
        })
    };
    everywhere_with(config, slow, async |site| {
        for is_drain in [false, true] {
            let mut client = site.connect();
            client.send(preface(&[])).await;
            if is_drain {
                client.http2_frame_of(SETTINGS).await;
                site.worker.say_goodbye();
            }
            let goaway = client.http2_frame_of(GOAWAY).await;
            assert_eq!((goaway.code(), &goaway.payload[..4]), (0, &[0x7f, 0xff, 0xff, 0xff][..]));
            client.send(frame(HEADERS, 5, 1, b"\x83\x86\x04\x05/slow\x01\x09a.example")).await;
            let data = client.http2_frame_of(DATA).await;
            assert_eq!((data.stream, &data.payload[..]), (1, &b"late"[..]), "drain: {is_drain}");
            client.ends_somehow().await; // it is idle again
        }
    });
}

#[test]
fn a_connection_that_has_lived_its_time_ends_when_its_streams_do() {
    let http2 = Limits { lifetime: Duration::from_millis(150), ..Limits::default() };
    everywhere_with(Config { http2, ..config() }, registry, async |site| {
        let http2 = site.connect().http2().await;
        let mut socket = http2.websocket("/ws").await;
        milliseconds(300).await;
        socket.send(text("still here")).await;
        socket.frame().await.is_text("still here");
        assert!(http2.try_ask(request(Method::GET, "/"), b"").await.is_err(), "nothing new begins");
        socket.send(close(1000)).await;
        socket.frame().await.is_close(1000);
        socket.finish();
        socket.end().await;
        drop(http2.requests);
        time::timeout(PATIENCE, http2.ended).await.expect("it ends").ok();
    });
}

/// Asks for more, from a stream on, until the connection has ended, and gives the frames that came. The PING behind the
/// GOAWAY is never answered, so the server does not know that it has arrived.
async fn asks_on(
    mut client: Client,
    mut stream: u32,
    mut asking: impl FnMut(u32) -> Vec<u8>,
) -> Vec<Http2Frame> {
    while client.try_send(asking(stream)).await.is_ok() {
        assert!(stream < 1000, "it is served for ever");
        stream += 2;
        milliseconds(10).await;
    }
    let got = client.ends_somehow().await;
    let (mut rest, mut frames) = (&got[..], Vec::new());
    while let Some((frame, length)) = Http2Frame::parse(rest) {
        frames.push(frame);
        rest = &rest[length..];
    }
    frames
}

/// The places of the frames of this kind, with their streams.
fn places(frames: &[Http2Frame], kind: u8) -> Vec<(usize, u32)> {
    let of_kind = frames.iter().enumerate().filter(|(_, frame)| frame.kind == kind);
    of_kind.map(|(place, frame)| (place, frame.stream)).collect()
}

#[test]
fn a_peer_that_asks_on_behind_the_goaway_is_refused_and_then_left() {
    let http2 = Limits { lifetime: Duration::from_millis(200), ..Limits::default() };
    let config = Config { close_time: Duration::from_millis(300), http2, ..config() };
    // Whole heads; and each with the start of the next one behind it, so that always one is under way.
    let whole = |stream| frame(HEADERS, 5, stream, GET);
    let entwined = |stream| {
        let start = frame(HEADERS, END_STREAM, stream, b"");
        let end = frame(CONTINUATION, END_HEADERS, stream.wrapping_sub(2), GET);
        if stream == 1 { start } else { [end, start].concat() }
    };
    let ways: [&dyn Fn(u32) -> Vec<u8>; 2] = [&whole, &entwined];
    for asking in ways {
        everywhere_with(config.clone(), registry, async |site| {
            let mut client = site.connect();
            client.send(preface(&[])).await;
            let heard = asks_on(client, 1, asking).await;
            let goaway = places(&heard, GOAWAY)[0].0;
            assert_eq!(
                (heard[goaway].code(), &heard[goaway].payload[..4]),
                (0, &[0x7f, 0xff, 0xff, 0xff][..])
            );
            let (answers, refusals) = (places(&heard, DATA), places(&heard, RST_STREAM));
            assert!(heard.iter().all(|frame| frame.kind != RST_STREAM || frame.code() == REFUSED_STREAM));
            let (last, first) = (answers.last().unwrap(), refusals.first().expect("it is refused"));
            assert!(goaway < last.0, "who asks while it is on its way is answered");
            assert!(last < first && last.1 + 2 == first.1, "{last:?} was answered, {first:?} refused");
            assert!(refusals.len() > 1, "one puts nothing off");
            assert_eq!(site.stats().ends.get("ok"), Some(&1), "{:?}", site.stats());
        });
    }
}

#[test]
fn a_request_that_was_taken_before_the_goaway_is_answered_whatever_else_is_refused() {
    let http2 = Limits { lifetime: Duration::from_millis(100), ..Limits::default() };
    let config = Config { close_time: Duration::from_millis(200), http2, ..config() };
    let slow = || {
        registry().post("/slow", async |_: &Request<'_>| {
            time::sleep(Duration::from_millis(800)).await;
            Ok(Response::text("late"))
        })
    };
    everywhere_with(config, slow, async |site| {
        let mut client = site.connect();
        client.send(preface(&[])).await;
        client.send(frame(HEADERS, 5, 1, b"\x83\x86\x04\x05/slow\x01\x09a.example")).await;
        let heard = asks_on(client, 3, |stream| frame(HEADERS, 5, stream, GET)).await;
        let answers = places(&heard, DATA);
        let (late, others) = answers.split_last().unwrap();
        assert_eq!((late.1, &heard[late.0].payload[..]), (1, &b"late"[..]));
        let refusals = places(&heard, RST_STREAM);
        assert!(refusals.first().expect("it is refused") < late && late < refusals.last().unwrap());
        assert!(others.iter().all(|other| other < &refusals[0]), "{others:?}");
        assert_eq!(site.stats().ends.get("ok"), Some(&1), "{:?}", site.stats());
    });
}

/// A client whose windows are shut after its four answers of `/some` were made, and before they are taken; and its PING.
async fn who_shuts_its_windows(site: &Site) -> Client {
    let mut client = site.connect();
    client.send(preface(&[])).await;
    client.send(frame(WINDOW_UPDATE, 0, 0, [0, 0x10, 0, 0])).await;
    for stream in [1, 3, 5, 7] {
        client.send(frame(HEADERS, 5, stream, b"\x82\x86\x04\x05/some\x01\x09a.example")).await;
    }
    settle(site.transport).await;
    client.send(frame(SETTINGS, 0, 0, [0, 4, 0, 0, 0, 0])).await;
    client.send(frame(PING, 0, 0, [0; 8])).await;
    client
}

#[test]
fn refusals_are_not_taken_for_a_sign_of_answers_that_are() {
    const SIZE: usize = 60_000;
    let http2 = Limits { lifetime: Duration::from_millis(100), ..Limits::default() };
    let times = Duration::from_millis(200);
    let config = Config { close_time: times, write_time: times, http2, ..config() };
    let registry = registry().get("/some", |_| Response::text("x".repeat(SIZE)));
    on(Transport::Memory, config, registry, async |site: &Site| {
        let mut client = who_shuts_its_windows(site).await;
        let mut taken = 0;
        loop {
            let frame = client.http2_frame().await;
            taken += if frame.kind == DATA { frame.payload.len() } else { 0 };
            if frame.kind == PING && frame.flags == ACK {
                break;
            }
        }
        assert!(taken < 4 * SIZE, "it was all taken before");
        // The shortest request there is, and so a byte less than its refusal.
        let heard = asks_on(client, 9, |stream| frame(HEADERS, 5, stream, b"\x82\x86\x84")).await;
        assert_eq!(heard.iter().rfind(|frame| frame.kind == GOAWAY).unwrap().code(), ENHANCE_YOUR_CALM);
        assert!(places(&heard, RST_STREAM).len() > 10, "{heard:?}");
    });
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let config = Config { write_time: Duration::from_millis(200), ..config() };
    everywhere_with(config, registry, async |site| {
        // Its socket is full.
        let mut client = site.connect();
        client.send(preface(&[(4, (1 << 31) - 1)])).await;
        client.send(frame(WINDOW_UPDATE, 0, 0, [0x7f, 0, 0, 0])).await;
        for number in 0..20 {
            let head = b"\x82\x86\x04\x06/large\x01\x09a.example";
            client.send(frame(HEADERS, 5, 2 * number + 1, head)).await;
        }
        site.until("it was cut", |stats| stats.cut == 1).await;
        client.ends_somehow().await;

        // Its window is shut: only the stream is given up.
        let mut client = site.connect();
        client.send(preface(&[(4, 0)])).await;
        client.send(frame(HEADERS, 5, 1, GET)).await;
        assert_eq!(client.http2_frame_of(RST_STREAM).await.code(), 8, "CANCEL");
    });
}

#[test]
fn tiny_frames_for_a_peer_that_does_not_read_do_not_pile_up() {
    const SENT: usize = 30_000;
    let written = Rc::new(Cell::new(0));
    let count = Rc::clone(&written);
    let registry = registry().on("drip", async move |connection: Upgraded| {
        for _ in 0..SENT {
            connection.write_all(b"x").await?;
            count.set(count.get() + 1);
        }
        Ok(())
    });
    on(Transport::Memory, config(), registry, async |site: &Site| {
        let mut client = site.connect();
        client.send(preface(&[(4, 1 << 20)])).await;
        client.send(frame(WINDOW_UPDATE, 0, 0, [0, 0x10, 0, 0])).await;
        let head = b"\x02\x07CONNECT\x86\x04\x01/\x01\x09a.example\x00\x09:protocol\x04drip";
        client.send(frame(HEADERS, END_HEADERS, 1, head)).await;
        milliseconds(100).await;
        let before = written.get();
        milliseconds(100).await;
        assert!(before > 0 && before == written.get(), "it waits: {before}, {}", written.get());
        // The crate's queue, its buffer, and what the pipe holds.
        assert!(before < SENT / 2, "{before}");
        let mut taken = 0;
        while taken < SENT {
            taken += client.http2_frame_of(DATA).await.payload.len();
        }
        assert_eq!(written.get(), SENT);
    });
}

#[test]
fn answers_that_are_queued_do_not_wait_for_ever() {
    const SIZE: usize = 60_000;
    let config = Config { write_time: Duration::from_millis(200), ..config() };
    let registry = registry().get("/some", |_| Response::text("x".repeat(SIZE)));
    on(Transport::Memory, config, registry, async |site: &Site| {
        // A PING is no sign that it takes anything.
        let mut client = who_shuts_its_windows(site).await;
        settle(site.transport).await;
        let mut taken = 0;
        let goaway = loop {
            let frame = client.http2_frame().await;
            match frame.kind {
                DATA => taken += frame.payload.len(),
                PING => {
                    milliseconds(60).await;
                    client.send(crate::harness::http2::frame(PING, 0, 0, [0; 8])).await;
                }
                GOAWAY => break frame,
                _ => {}
            }
        };
        assert!(taken < 4 * SIZE, "it was all taken before");
        assert_eq!(goaway.code(), ENHANCE_YOUR_CALM);
        client.ends_somehow().await;
        site.is_left_alone().await;
        assert_eq!(site.stats().ends.get("peer"), Some(&1), "{:?}", site.stats());
    });
}

#[test]
fn sessions_that_are_decided_together_find_no_more_room_than_there_is() {
    let slow = || {
        registry().at(
            "/slow",
            Custom::new("slow").authorize(|_| {
                Box::pin(async {
                    time::sleep(Duration::from_millis(50)).await;
                    Ok(())
                })
            }),
        )
    };
    everywhere_with(Config { connections_max: 2, ..config() }, slow, async |site| {
        let http2 = Rc::new(site.connect().http2().await);
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let http2 = Rc::clone(&http2);
                monoio::spawn(async move { http2.connect("/slow", "slow", &[]).await })
            })
            .collect();
        // A session that ends makes room for who is decided after it, so all are kept until then.
        let mut sessions = Vec::new();
        for task in tasks {
            sessions.push(task.await);
        }
        let mut got: Vec<_> =
            sessions.iter().map(|session| session.as_ref().map_or_else(|status| *status, |_| 200)).collect();
        got.sort_unstable();
        assert_eq!(got, [200, 503, 503]);
    });
}

#[test]
fn nobody_is_starved_by_a_flood() {
    // No limit on frames, so that it is only the turns that help.
    let http2 = Limits { free_frames: Rate { burst: u32::MAX, per_second: u32::MAX }, ..Limits::default() };
    on(Transport::Tcp, Config { http2, ..config() }, registry(), async |site: &Site| {
        let address = site.address();
        let flooder = std::thread::spawn(move || {
            use std::io::Write;
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            // Once the test is over nobody reads any more.
            stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            stream.write_all(&preface(&[])).unwrap();
            let flood = frame(PRIORITY, 0, 1001, [0, 0, 0, 0, 1]).repeat(5000);
            let start = std::time::Instant::now();
            let mut sent = 0_u64;
            while start.elapsed() < Duration::from_millis(1500) && stream.write_all(&flood).is_ok() {
                sent += 5000;
            }
            sent
        });
        let http2 = site.connect().http2().await;
        let mut answered = 0;
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(1200) {
            assert_eq!(http2.get("/").await.status(), 200);
            answered += 1;
            milliseconds(1).await;
        }
        while !flooder.is_finished() {
            milliseconds(10).await;
        }
        let sent = flooder.join().unwrap();
        // Without turns the first request would wait for the end of the flood. How long they take is not for a test to
        // say; docs/benchmarks has it.
        assert!(answered > 5 && sent > 50_000, "{answered} requests, {sent} frames");
    });
}
