//! The upgrade to HTTP/2 (RFC 7540 3.2), frame by frame: what is answered on stream 1, and what is not upgraded.

use std::{cell::Cell, rc::Rc, time::Duration};

use switchpoint::{
    Config, Registry, Request, Response,
    protocols::{H2c, WebSocket, websocket::Socket},
};

use crate::harness::{
    Answer, Client, Site, Transport, config, everywhere, everywhere_with, handshake,
    http2::{
        ACK, DATA, END_STREAM, GET, GOAWAY, HEADERS, Http2Frame, PING, PRIORITY, SETTINGS, WINDOW_UPDATE,
        frame, preface,
    },
    milliseconds, on,
};

fn registry() -> Registry {
    Registry::new()
        .get("/", |_| Response::text("hello"))
        .get("/none", |_| Response::new(204))
        .get("/query", |request| Response::text(request.query().unwrap_or("none").to_owned()))
        .post("/echo", async |request: &Request<'_>| {
            Ok(Response::new(200).with_bytes("application/octet-stream", request.body().to_vec()))
        })
        .at("/ws", WebSocket::new(async |_: Socket| Ok(())))
        .with(H2c::new())
}

/// What curl 8 sends, `AAMAAABkAAQAAQAAAAIAAAAA`, with more field lines, each with its line end.
fn asking(line: &str, fields: &str) -> String {
    asking_with(line, "AAMAAABkAAQAAQAAAAIAAAAA", fields)
}

fn asking_with(line: &str, settings: &str, fields: &str) -> String {
    format!(
        "{line} HTTP/1.1\r\nHost: a.example\r\n{fields}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: {settings}\r\n\r\n"
    )
}

/// What is answered on stream 1: the first byte of the head, which is the status in HPACK's static table, and the body.
struct OnStream1 {
    status: u8,
    body: Vec<u8>,
    acks: usize,
}

const OK: u8 = 0x88;
const NO_CONTENT: u8 = 0x89;

/// Reads until stream 1 has ended.
async fn stream_1(client: &mut Client) -> OnStream1 {
    let mut answer = OnStream1 { status: 0, body: Vec::new(), acks: 0 };
    loop {
        let frame = client.http2_frame().await;
        match (frame.kind, frame.stream) {
            (HEADERS, 1) => answer.status = frame.payload[0],
            (DATA, 1) => answer.body.extend_from_slice(&frame.payload),
            (SETTINGS, 0) => answer.acks += usize::from(frame.flags == ACK),
            (WINDOW_UPDATE, _) => continue,
            _ => panic!("{frame:?}"),
        }
        if frame.stream == 1 && frame.flags & END_STREAM != 0 {
            return answer;
        }
    }
}

async fn switched(site: &Site, request: impl AsRef<[u8]>) -> Client {
    let mut client = site.connect();
    client.send(request).await;
    is_switched(client.answer().await);
    client
}

fn is_switched(answer: Answer) {
    assert_eq!((answer.status, answer.field("upgrade")), (101, Some("h2c")), "{answer:?}");
    // There are clients that compare it as it stands.
    assert_eq!(answer.field("connection"), Some("upgrade"));
}

#[test]
fn the_request_is_answered_on_stream_1_with_one_acknowledgement() {
    everywhere(registry, async |site| {
        let mut client = switched(site, asking("GET /query?a=b", "")).await;
        // The server's SETTINGS come before the client has said anything.
        let settings = client.http2_frame().await;
        assert_eq!((settings.kind, settings.flags), (SETTINGS, 0));
        client.silence(10).await;
        client.send(preface(&[(4, 100_000)])).await;
        let answer = stream_1(&mut client).await;
        assert_eq!((answer.status, &answer.body[..], answer.acks), (OK, &b"a=b"[..], 1));

        // And the connection goes on, also as nghttp does: priorities of streams that are not there, then number 13.
        client.send(frame(SETTINGS, ACK, 0, "")).await;
        for stream in [3, 5, 7, 9, 11, 1] {
            client.send(frame(PRIORITY, 0, stream, [0, 0, 0, 0, 15])).await;
        }
        client.send(frame(HEADERS, 5, 13, GET)).await;
        let head = client.http2_frame_of(HEADERS).await;
        assert_eq!((head.stream, head.payload[0]), (13, OK));
        let body = client.http2_frame().await;
        assert_eq!((body.kind, body.flags, &body.payload[..]), (DATA, END_STREAM, &b"hello"[..]));

        assert_eq!(site.stats().upgrades.get("h2c"), Some(&1));
        assert_eq!(site.stats().requests, 2);
        client.finish();
        client.ends_somehow().await;
        site.is_left_alone().await;
        assert_eq!(site.stats().ends.get("ok"), Some(&1), "{:?}", site.stats());
    });
}

#[test]
fn it_does_not_matter_how_the_preface_is_cut() {
    on(Transport::Memory, config(), registry(), async |site: &Site| {
        let said = [preface(&[(3, 7)]), frame(HEADERS, 5, 3, GET)].concat();
        for cut in 1..said.len() {
            let mut client = switched(site, asking("GET /", "")).await;
            client.send(&said[..cut]).await;
            crate::harness::settle(Transport::Memory).await;
            client.send(&said[cut..]).await;
            let answer = stream_1_of_two(&mut client).await;
            assert_eq!(
                (answer.status, &answer.body[..], answer.acks),
                (OK, &b"hello"[..], 1),
                "cut at {cut}"
            );
        }
    });
}

/// As [`stream_1`], beside stream 3.
async fn stream_1_of_two(client: &mut Client) -> OnStream1 {
    let (mut answer, mut ended) = (OnStream1 { status: 0, body: Vec::new(), acks: 0 }, 0);
    while ended < 2 {
        let Http2Frame { kind, flags, stream, payload } = client.http2_frame().await;
        match (kind, stream) {
            (HEADERS, 1) => answer.status = payload[0],
            (DATA, 1) => answer.body.extend(payload),
            (SETTINGS, _) => answer.acks += usize::from(flags == ACK),
            _ => {}
        }
        ended += usize::from(kind == DATA && flags & END_STREAM != 0);
    }
    answer
}

#[test]
fn the_settings_of_the_field_hold_until_those_of_the_frame_do() {
    everywhere(registry, async |site| {
        // A window of 100 bytes, for a body of 250.
        let body = "x".repeat(250);
        let request = asking_with("POST /echo", "AAQAAABk", &format!("Content-Length: {}\r\n", body.len()));
        let mut client = switched(site, request + &body).await;
        client.send(preface(&[])).await;
        let mut got = 0;
        while got < 100 {
            let data = client.http2_frame_of(DATA).await;
            assert_eq!(data.flags & END_STREAM, 0);
            got += data.payload.len();
        }
        assert_eq!(got, 100);
        client.silence(20).await;
        client.send(frame(WINDOW_UPDATE, 0, 1, [0, 0, 1, 0])).await;
        while got < 250 {
            got += client.http2_frame_of(DATA).await.payload.len();
        }
        assert_eq!(got, 250);
    });
}

#[test]
fn what_is_wrong_with_the_offer_makes_it_an_ordinary_request() {
    everywhere(registry, async |site| {
        let good = asking("GET /", "");
        let with = |from: &str, to: &str| {
            assert!(good.contains(from));
            good.replace(from, to)
        };
        for request in [
            with("HTTP2-Settings: AAMAAABkAAQAAQAAAAIAAAAA\r\n", ""),
            with("\r\n\r\n", "\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"),
            with(", HTTP2-Settings", ""),
            with("AAMAAABkAAQAAQAAAAIAAAAA", "AAMAAABkAAQAAQAAAAIAAAA"),
            with("AAMAAABkAAQAAQAAAAIAAAAA", "!"),
            with("AAMAAABkAAQAAQAAAAIAAAAA", "AAIAAAAC"), // ENABLE_PUSH = 2
            with("AAMAAABkAAQAAQAAAAIAAAAA", &"AAMAAABk".repeat(65)),
            with("Upgrade: h2c", "Upgrade: h2"),
            with("Upgrade: h2c", "Upgrade: h2c/1"),
            asking("GET /", "Via: 1.1 proxy\r\n"),
            asking("GET /", "Forwarded: for=192.0.2.1\r\n"),
            asking("GET /", "x-forwarded-FOR: 192.0.2.1\r\n"),
            asking("GET /", "X-Forwarded-Anything: 1\r\n"),
            asking("GET /", "X-Real-IP: 192.0.2.1\r\n"),
        ] {
            let mut client = site.connect();
            client.send(&request).await;
            let answer = client.answer().await;
            assert_eq!(
                (answer.status, &answer.body[..], answer.field("upgrade")),
                (200, "hello", None),
                "{request}"
            );
            client.send(&good).await;
            is_switched(client.answer().await); // it was a request like any other, and the connection goes on
        }
        assert_eq!(site.stats().rejections.len(), 0);
    });
}

#[test]
fn what_is_right_in_another_form_is_taken() {
    everywhere(registry, async |site| {
        let good = asking("GET /", "");
        for request in [
            good.replace("Upgrade: h2c", "Upgrade: foo, H2C"),
            good.replace("Upgrade: h2c", "Upgrade: foo\r\nUpgrade: h2c"),
            good.replace("Connection: Upgrade, HTTP2-Settings", "Connection: HTTP2-Settings,upgrade"),
            good.replace("AAMAAABkAAQAAQAAAAIAAAAA", ""),
            good.replace("GET /", "GET http://a.example/"),
            good.replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"),
            asking("GET /", &format!("X-Long: {}\r\n", "x".repeat(14_000))), // more than one frame of HEADERS
        ] {
            let mut client = switched(site, &request).await;
            client.send(preface(&[])).await;
            assert_eq!(stream_1(&mut client).await.body, b"hello", "{request}");
        }
        // No `http::Uri` is like this.
        let mut client = switched(site, asking("GET /query?<a>|`b`\"", "")).await;
        client.send(preface(&[])).await;
        assert_eq!(stream_1(&mut client).await.body, b"<a>|`b`\"");
    });
}

#[test]
fn a_websocket_is_preferred_where_both_are_asked_for() {
    everywhere(registry, async |site| {
        let both = handshake("/ws", "HTTP2-Settings: AAMAAABk\r\nConnection: HTTP2-Settings\r\n")
            .replace("Upgrade: websocket", "Upgrade: h2c, websocket");
        let answer = site.ask(both).await;
        assert_eq!((answer.status, answer.field("upgrade")), (101, Some("websocket")));
    });
}

#[test]
fn a_path_is_what_it_is_without_the_offer_of_h2c() {
    everywhere(registry, async |site| {
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        site.ask(get("/nowhere")).await.refuses(404, "no-such-path");
        assert_eq!(site.ask(get("/")).await.field("upgrade"), None);
        let answer = site.ask(get("/ws")).await;
        answer.refuses(426, "upgrade-required");
        assert_eq!(answer.field("upgrade"), Some("websocket, h2c"));
    });
}

#[test]
fn bodies_are_read_before_the_101_and_come_back_whole() {
    everywhere_with(Config { body_max: 64 << 10, ..config() }, registry, async |site| {
        let body: Vec<u8> = (0..60_000_u32).map(|i| (i / 7) as u8).collect();
        let fixed = [asking("POST /echo", "Content-Length: 60000\r\n").as_bytes(), &body].concat();
        let mut chunked = asking("POST /echo", "Transfer-Encoding: chunked\r\n").into_bytes();
        for chunk in body.chunks(7000) {
            chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            chunked.extend_from_slice(chunk);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        for request in [&fixed, &chunked] {
            let mut client = switched(site, request).await;
            client.send(preface(&[])).await;
            let answer = stream_1(&mut client).await;
            assert!(answer.body == body);
            // The client's window is what it was: nothing was sent as DATA.
            client.send([frame(SETTINGS, ACK, 0, ""), frame(PING, 0, 0, [7; 8])].concat()).await;
            assert_eq!(client.http2_frame().await.kind, PING);
        }
        // With Expect, in the JDK's spelling: the 100 comes before the body, the 101 after it.
        let mut client = site.connect();
        client.send(asking("POST /echo", "Content-Length: 4\r\nExpect: 100-Continue\r\n")).await;
        assert_eq!(client.answer().await.status, 100);
        client.silence(10).await;
        client.send("body").await;
        is_switched(client.answer().await);
        client.send(preface(&[])).await;
        assert_eq!(stream_1(&mut client).await.body, b"body");
    });
}

#[test]
fn a_body_over_the_limit_is_answered_in_http_1_1() {
    let small = || {
        Registry::new()
            .post("/echo", async |request: &Request<'_>| Ok(Response::text(request.body().len().to_string())))
            .with(H2c::new().body_max(10))
    };
    everywhere(small, async |site| {
        let body = "x".repeat(11);
        let answer = site.ask(asking("POST /echo", "Content-Length: 11\r\n") + &body).await;
        assert_eq!((answer.status, &answer.body[..]), (200, "11"));
        let chunked =
            asking("POST /echo", "Transfer-Encoding: chunked\r\n") + "b\r\n" + &body + "\r\n0\r\n\r\n";
        site.ask(chunked).await.refuses(413, "body-too-large");
    });
    // What holds for every request holds for this one.
    everywhere_with(Config { body_max: 10, ..config() }, registry, async |site| {
        let request = asking("POST /echo", "Content-Length: 11\r\n") + &"x".repeat(11);
        site.ask(request).await.refuses(413, "body-too-large");
    });
}

#[test]
fn a_request_that_was_upgraded_is_answered_in_a_drain() {
    // Without a time to cross the GOAWAY, too: it was asked before.
    for close_time in [config().close_time, Duration::ZERO] {
        everywhere_with(Config { close_time, ..config() }, registry, async |site| {
            let mut client = switched(site, asking("GET /", "")).await;
            site.worker.say_goodbye();
            milliseconds(100).await;
            client.send(preface(&[])).await;
            let mut body = Vec::new();
            let (mut is_told, mut is_ended) = (false, false);
            while !(is_told && is_ended) {
                let frame = client.http2_frame().await;
                match frame.kind {
                    GOAWAY => {
                        assert_eq!(frame.code(), 0);
                        is_told = true;
                    }
                    DATA => body.extend_from_slice(&frame.payload),
                    _ => {}
                }
                is_ended |= frame.stream == 1 && frame.flags & END_STREAM != 0;
            }
            assert_eq!(body, b"hello");
        });
    }
}

#[test]
fn head_and_options_are_answered_on_stream_1() {
    everywhere(registry, async |site| {
        for (line, status) in
            [("HEAD /", OK), ("OPTIONS *", NO_CONTENT), ("OPTIONS /", NO_CONTENT), ("GET /none", NO_CONTENT)]
        {
            let mut client = switched(site, asking(line, "")).await;
            client.send(preface(&[])).await;
            let answer = stream_1(&mut client).await;
            assert_eq!((answer.status, answer.body.len()), (status, 0), "{line}");
        }
    });
}

#[test]
fn a_client_may_send_its_preface_early_and_nothing_else() {
    everywhere(registry, async |site| {
        let early = [asking("GET /", "").as_bytes(), &preface(&[(3, 7)])].concat();
        for length in [early.len(), early.len() - 1, early.len() - 20, early.len() - 38] {
            let mut client = site.connect();
            client.send(&early[..length]).await;
            is_switched(client.answer().await);
            client.send(&early[length..]).await;
            assert_eq!(stream_1(&mut client).await.body, b"hello");
        }
        // Both are answered in HTTP/1.1, or rather the first: the second may have meant something else.
        let mut client = site.connect();
        client.send(asking("GET /", "") + "GET / HTTP/1.1\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, &answer.body[..], answer.field("connection")),
            (200, "hello", Some("close"))
        );
        client.end().await;
    });
}

/// A registry whose resource counts how often it was asked.
fn counting() -> (impl Fn() -> Registry, Rc<Cell<usize>>) {
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    let registry = move || {
        let counted = Rc::clone(&counted);
        Registry::new()
            .get("/", move |_| {
                counted.set(counted.get() + 1);
                Response::text("hello")
            })
            .with(H2c::new())
    };
    (registry, count)
}

#[test]
fn what_does_not_begin_as_http_2_is_told_so_and_its_request_is_not_carried_out() {
    let (registry, count) = counting();
    everywhere(registry, async |site| {
        for wrong in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(PING, 0, 0, [0; 8])[..]].concat(),
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, ACK, 0, "")[..]].concat(),
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 1, "")[..]].concat(),
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, [0; 5])[..]].concat(),
        ] {
            let mut client = switched(site, asking("GET /", "")).await;
            client.send(&wrong).await;
            let goaway = client.http2_frame_of(GOAWAY).await;
            assert_eq!(goaway.code(), 1, "PROTOCOL_ERROR: {}", wrong.escape_ascii());
            client.finish();
            client.end().await;
        }
        // A client that leaves instead.
        switched(site, asking("GET /", "")).await.reset();
        site.is_left_alone().await;
        assert_eq!(count.get(), 0);
        assert_eq!(site.stats().ends.get("peer"), Some(&6), "{:?}", site.stats());
        switched(site, asking("GET /", "")).await.send(preface(&[])).await;
    });
}

#[test]
fn a_request_is_carried_out_once() {
    let (registry, count) = counting();
    everywhere(registry, async |site| {
        let before = count.get();
        let mut client = switched(site, asking("GET /", "")).await;
        client.send(preface(&[])).await;
        assert_eq!(stream_1(&mut client).await.body, b"hello");
        milliseconds(20).await;
        assert_eq!(count.get(), before + 1);
    });
}

#[test]
fn a_client_that_does_not_send_its_preface_is_given_up() {
    let config = Config { head_time: Duration::from_millis(150), ..config() };
    everywhere_with(config, registry, async |site| {
        let mut client = switched(site, asking("GET /", "")).await;
        client.send(&preface(&[])[..30]).await;
        client.ends_somehow().await;
        site.is_left_alone().await;
        assert_eq!(site.stats().ends.get("timed-out"), Some(&1));
    });
}

#[test]
fn behind_proxies_it_may_be_allowed() {
    everywhere(
        || Registry::new().get("/", |_| Response::text("hello")).with(H2c::new().behind_proxies()),
        async |site| {
            let request = asking("GET /", "Via: 1.1 proxy\r\nX-Forwarded-For: 192.0.2.1\r\n");
            switched(site, request).await;
        },
    );
}
