//! Every answer that says no: its status, its reason in the body and in the counter, what it owes, and what becomes of
//! the connection.

use std::{collections::BTreeSet, time::Duration};

use switchpoint::{
    Accept, Accepts, Config, Decision, Reason, Registry, Rejection, Request, Resource, Response,
    protocols::{Echo, WebSocket, websocket::Socket},
};

use crate::harness::{Custom, Site, config, everywhere, everywhere_with, handshake, upgrade};

const HOST: &str = "Host: a.example\r\n";

/// Does not answer.
struct Late;

impl Resource for Late {
    async fn answer(&self, _: &Request<'_>) -> Result<Response, Rejection> {
        std::future::pending().await
    }
}

fn registry() -> Registry {
    Registry::new()
        .get("/", |_| Response::text("hello"))
        .resource("/late", Late)
        .at("/echo", Echo)
        .at("/ws", WebSocket::new(async |_: Socket| Ok(())))
        .at("/post", Custom::new("post").accepts(Accepts::default().methods(&["POST"]).body_max(16)))
        .at("/401", refusing("401", || Rejection::unauthorized("Bearer")))
        .at("/403", refusing("403", Rejection::forbidden))
        .at("/400", refusing("400", || Rejection::bad_request("Not so.")))
        .at("/503", refusing("503", || Rejection::unavailable(30)))
        .at("/slow", Custom::new("slow").authorize(|_| Box::pin(std::future::pending())))
        .get("/panic", |_| panic!("the resource's own"))
}

fn refusing(token: &'static str, why: impl Fn() -> Rejection + 'static) -> Custom {
    Custom::new(token).negotiate(move |_| Decision::Reject(why()))
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{HOST}{fields}\r\n")
}

/// A request, and what it is answered with.
fn refusals() -> Vec<(String, u16, &'static str)> {
    let post = |fields: &str, body: &str| {
        let head = format!("POST /post HTTP/1.1\r\n{HOST}Connection: upgrade\r\nUpgrade: post\r\n");
        format!("{head}{fields}\r\n{body}")
    };
    let chunked = |chunks: &str| post("Transfer-Encoding: chunked\r\n", chunks);
    let websocket = |from: &str, to: &str| {
        let good = handshake("/ws", "");
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let long = |length| "a".repeat(length);
    vec![
        // RFC 9112: the head.
        ("GET  / HTTP/1.1\r\n\r\n".into(), 400, "malformed-request-line"),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n".into(), 400, "bare-lf"),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n".into(), 400, "bare-cr"),
        ("GET /\0 HTTP/1.1\r\n\r\n".into(), 400, "invalid-byte"),
        (get("/", "A: b\r\n c\r\n"), 400, "obs-fold"),
        ("GET / HTTP/1.1\r\n A: b\r\n\r\n".into(), 400, "whitespace-before-first-field"),
        (get("/", "A : b\r\n"), 400, "space-before-colon"),
        (get("/", "A\r\n"), 400, "invalid-field-name"),
        (get("/", "A: \x01\r\n"), 400, "invalid-field-value"),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400, "missing-host"),
        (get("/", HOST), 400, "duplicate-host"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), 400, "invalid-host"),
        ("GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400, "invalid-target"),
        (get(&format!("/{}", long(8192)), ""), 414, "target-too-long"),
        (get("/", &format!("A: {}\r\n", long(17 << 10))), 431, "head-too-large"),
        (get("/", &"A: b\r\n".repeat(100)), 431, "too-many-fields"),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n".into(), 505, "unsupported-http-version"),
        (get("/", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400, "conflicting-framing"),
        (get("/", "Content-Length: +1\r\n"), 400, "invalid-content-length"),
        (get("/", "Content-Length: 1\r\nContent-Length: 1\r\n"), 400, "duplicate-content-length"),
        (get("/", "Transfer-Encoding: gzip\r\n"), 400, "chunked-not-last"),
        (get("/", "Transfer-Encoding: gzip, chunked\r\n"), 501, "unsupported-transfer-coding"),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), 400, "transfer-encoding-in-http-1-0"),
        (get("/", "Expect: more\r\n"), 417, "unknown-expectation"),
        // The body.
        (post("Content-Length: 17\r\n", &long(17)), 413, "body-too-large"),
        (chunked(&format!("11\r\n{}\r\n0\r\n\r\n", long(17))), 413, "body-too-large"),
        (chunked("x\r\n"), 400, "invalid-chunk"),
        (chunked("1\r\nab\r\n"), 400, "invalid-chunk"),
        (chunked(&format!("1;{}\r\n", long(4096))), 400, "chunk-extension-too-long"),
        (chunked("0\r\nA : b\r\n\r\n"), 400, "invalid-trailer"),
        (chunked(&format!("0\r\nA: {}\r\n\r\n", long(32 << 10))), 431, "trailers-too-large"),
        (get("/", "Content-Length: 65537\r\n"), 413, "body-too-large"),
        // Time.
        ("GET / HTTP/1.1\r\n".into(), 408, "head-timeout"),
        (post("Content-Length: 9\r\n", "abc"), 408, "body-timeout"),
        (upgrade("/slow", "slow"), 503, "authorization-timeout"),
        // The route.
        (get("/nowhere", ""), 404, "no-such-path"),
        (format!("POST / HTTP/1.1\r\n{HOST}\r\n"), 405, "method-not-allowed"),
        (upgrade("/post", "post"), 405, "method-not-allowed"),
        (format!("CONNECT a.example:443 HTTP/1.1\r\n{HOST}\r\n"), 404, "no-such-path"),
        (format!("BREW / HTTP/1.1\r\n{HOST}\r\n"), 501, "unknown-method"),
        (get("/echo", ""), 426, "upgrade-required"),
        (get("/echo", "Upgrade: echo\r\n"), 426, "missing-connection-upgrade"),
        (
            "GET /echo HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n".into(),
            426,
            "upgrade-in-http-1-0",
        ),
        (upgrade("/echo", "echo/2, ech"), 426, "no-common-protocol"),
        // The handshake.
        (websocket("\r\nConn", "\r\nContent-Length: 1\r\nConn"), 400, "unexpected-body"),
        (format!("{}early", handshake("/ws", "")), 400, "early-bytes"),
        (websocket("Version: 13", "Version: 12"), 426, "unsupported-version"),
        (websocket("Sec-WebSocket-Version: 13\r\n", ""), 400, "missing-version"),
        (handshake("/ws", "Sec-WebSocket-Version: 13\r\n"), 400, "duplicate-version"),
        (websocket("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400, "missing-key"),
        (websocket("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="), 400, "invalid-key"),
        (handshake("/ws", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400, "duplicate-key"),
        (handshake("/ws", "Sec-WebSocket-Protocol: a b\r\n"), 400, "invalid-list"),
        (handshake("/ws", &"Sec-WebSocket-Protocol: a\r\n".repeat(33)), 400, "invalid-list"),
        (handshake("/ws", "Origin: http://b.example\r\n"), 403, "origin-not-allowed"),
        // The handlers.
        (upgrade("/401", "401"), 401, "unauthorized"),
        (upgrade("/403", "403"), 403, "forbidden"),
        (upgrade("/400", "400"), 400, "bad-request"),
        (upgrade("/503", "503"), 503, "unavailable"),
        (get("/panic", ""), 500, "internal"),
        (get("/late", ""), 503, "answer-timeout"),
    ]
}

fn short_times() -> Config {
    Config { head_time: Duration::from_millis(200), answer_time: Duration::from_millis(200), ..config() }
}

#[test]
fn each_refusal_has_its_reason_in_the_body_and_in_the_counter() {
    everywhere_with(short_times(), registry, async |site| {
        for (request, status, reason) in refusals() {
            eprintln!("{reason}");
            let counted = |site: &Site| site.stats().rejections.get(reason).copied().unwrap_or_default();
            let before = counted(site);
            let mut client = site.connect();
            client.send(&request).await;
            let answer = client.answer().await;
            answer.refuses(status, reason);
            assert_eq!(counted(site), before + 1);
            let closes = answer.has_token("connection", "close");
            // Where we no longer know where the next request begins there is none.
            let must_close = matches!(status, 400 | 408 | 413 | 414 | 417 | 431 | 501 | 505)
                && !matches!(reason, "unknown-method" | "bad-request")
                || status >= 500 && reason != "unknown-method";
            assert!(closes || !must_close, "{answer:?}");
            if closes {
                client.end().await;
            } else {
                client.send(get("/", "")).await;
                assert_eq!(client.answer().await.body, "hello", "after {reason}");
            }
        }
    });
}

#[test]
fn no_reason_is_left_out() {
    let tried: BTreeSet<_> = refusals().into_iter().map(|(_, _, reason)| reason).collect();
    // Those have tests of their own: they need a server that is full, or on its way out, or HTTP/2 (here), limits
    // (`limits.rs`), who is asked for credentials (`authorization.rs`), a proxy in front (tests/server/proxies.rs).
    let elsewhere = [
        "too-many-connections",
        "too-many-from-address",
        "too-many-half-open",
        "too-many-half-open-from-address",
        "too-many-handshakes",
        "too-many-handshakes-from-address",
        "over-memory-budget",
        "invalid-credentials",
        "expired-credentials",
        "authorization-unavailable",
        "draining",
        "unknown-protocol",
        "tls-required",
    ];
    let is_elsewhere = |code: &&str| elsewhere.contains(code) || code.starts_with("proxy-");
    let all: BTreeSet<_> = Reason::all().map(Reason::code).filter(|code| !is_elsewhere(code)).collect();
    assert_eq!(tried, all);
}

#[test]
fn a_refusal_carries_what_it_owes() {
    everywhere(registry, async |site| {
        let answer = site.ask(upgrade("/401", "401")).await;
        assert_eq!(answer.field("www-authenticate"), Some("Bearer"));
        let answer = site.ask(upgrade("/503", "503")).await;
        assert_eq!(answer.field("retry-after"), Some("30"));
        let answer = site.ask(upgrade("/post", "post")).await;
        assert_eq!(answer.field("allow"), Some("POST"));
        let answer = site.ask(handshake("/ws", "").replace("GET", "POST")).await;
        answer.refuses(405, "method-not-allowed");
        assert_eq!(answer.field("allow"), Some("GET"));
        let answer = site.ask(handshake("/ws", "").replace(": 13", ": 8")).await;
        assert_eq!(answer.field("sec-websocket-version"), Some("13"));
        let answer = site.ask(get("/echo", "")).await;
        assert_eq!((answer.field("upgrade"), answer.field("connection")), (Some("echo"), Some("upgrade")));
        let answer = site.ask(upgrade("/400", "400")).await;
        assert!(answer.body.ends_with("\nNot so.\n"), "{answer:?}");
    });
}

#[test]
fn a_refusal_is_a_problem_where_that_is_asked_for() {
    everywhere(registry, async |site| {
        for (accept, is_problem) in [
            ("application/problem+json", true),
            ("text/html, application/problem+json;q=0.9", true),
            ("*/*", false),
            ("application/problem+jsonx", false),
        ] {
            let answer = site.ask(get("/echo", &format!("Accept: {accept}\r\n"))).await;
            assert_eq!(answer.status, 426);
            if is_problem {
                assert_eq!(answer.field("content-type"), Some("application/problem+json"));
                let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
                assert_eq!(
                    (&problem["status"], &problem["reason"]),
                    (&426.into(), &"upgrade-required".into())
                );
                assert_eq!(problem["type"], "about:blank");
            } else {
                assert_eq!(answer.reason(), Some("upgrade-required"), "{accept}");
            }
        }
    });
}

#[test]
fn a_refusal_to_head_has_no_body() {
    everywhere(registry, async |site| {
        let mut client = site.connect();
        client.send(format!("HEAD /nowhere HTTP/1.1\r\n{HOST}\r\n")).await;
        let answer = client.try_answer(true).await.unwrap();
        assert_eq!(answer.status, 404);
        client.send(get("/", "")).await;
        assert_eq!(client.answer().await.body, "hello");
    });
}

#[test]
fn what_follows_a_refused_upgrade_is_not_a_request() {
    everywhere(registry, async |site| {
        let second = get("/", "");
        for (first, status) in [
            (upgrade("/echo", "irc/2.0"), 426),
            (upgrade("/", "irc/2.0"), 200),
            (upgrade("/nowhere", "echo"), 404),
            (get("/echo", "Upgrade: echo\r\n"), 426),
            (upgrade("/401", "401"), 401),
            (handshake("/ws", "").replace(": 13", ": 8"), 426),
        ] {
            let before = site.stats().refused_with_early_bytes;
            let mut client = site.connect();
            client.send(format!("{first}{second}")).await;
            let answer = client.answer().await;
            assert!(answer.has_token("connection", "close"), "{answer:?}");
            // Handlers that take no early bytes are not asked at all.
            assert!(answer.status == status || answer.reason() == Some("early-bytes"), "{answer:?}");
            client.end().await;
            assert_eq!(site.stats().refused_with_early_bytes, before + 1, "{first}");
        }
        // After a refused CONNECT nothing is a request, also what comes later (RFC 9931).
        let mut client = site.connect();
        client.send(format!("CONNECT a.example:443 HTTP/1.1\r\n{HOST}\r\n")).await;
        assert!(client.answer().await.has_token("connection", "close"));
        client.end().await;
    });
}

#[test]
fn a_large_head_or_body_is_refused_and_its_answer_arrives() {
    everywhere(registry, async |site| {
        let mut client = site.connect();
        // Much more than was read when it is refused: closing at once would reset the connection, and the answer be lost.
        client.send(get("/", &format!("A: {}\r\n", "a".repeat(1 << 20)))).await;
        client.answer().await.refuses(431, "head-too-large");
        client.end().await;

        let mut client = site.connect();
        let length = 1 << 20;
        client.send(get("/", &format!("Content-Length: {length}\r\n"))).await;
        client.send(vec![b'a'; length]).await;
        client.answer().await.refuses(413, "body-too-large");
        client.end().await;
    });
}

/// A handler whose 101 would carry this field.
fn carrying(name: &'static str, value: &'static str) -> Custom {
    Custom::new("split").negotiate(move |_| {
        Decision::Accept(Accept::new(String::new()).field("X-Fine", "yes").field(name, value))
    })
}

#[test]
fn a_handlers_field_can_neither_split_the_101_nor_frame_it() {
    let registry = || {
        Registry::new()
            .at("/crlf", carrying("X-A", "b\r\nSet-Cookie: c"))
            .at("/lf", carrying("X-A", "b\nSet-Cookie: c"))
            .at("/name", carrying("X A", "b"))
            .at("/length", carrying("Content-Length", "0"))
            .at("/coding", carrying("Transfer-Encoding", "chunked"))
    };
    everywhere(registry, async |site| {
        for path in ["/crlf", "/lf", "/name", "/length", "/coding"] {
            let mut client = site.connect();
            client.send(upgrade(path, "split")).await;
            let answer = client.answer().await;
            answer.refuses(500, "internal");
            assert_eq!((answer.field("set-cookie"), answer.field("x-fine")), (None, None));
            client.end().await;
        }
    });
}

#[test]
fn a_handler_cannot_name_a_second_protocol_in_its_101() {
    let registry = || Registry::new().at("/", carrying("Upgrade", "other"));
    everywhere(registry, async |site| site.ask(upgrade("/", "split")).await.refuses(500, "internal"));
}

#[test]
fn a_resources_field_cannot_split_its_answer() {
    let registry = || Registry::new().get("/", |_| Response::text("x").field("X-A", "b\r\nSet-Cookie: c"));
    everywhere(registry, async |site| {
        let answer = site.ask(get("/", "")).await;
        answer.refuses(500, "internal");
        assert_eq!(answer.field("set-cookie"), None);
    });
}

#[test]
fn a_rejections_field_cannot_split_its_answer() {
    let registry = || {
        Registry::new()
            .at("/", refusing("split", || Rejection::forbidden().field("X-A", "b\r\nSet-Cookie: c")))
            .at("/length", refusing("split", || Rejection::forbidden().field("Content-Length", "3")))
    };
    everywhere(registry, async |site| {
        for path in ["/", "/length"] {
            let answer = site.ask(upgrade(path, "split")).await;
            assert_eq!(answer.field("set-cookie"), None, "{answer:?}");
            answer.refuses(500, "internal");
        }
    });
}
