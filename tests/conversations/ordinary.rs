//! HTTP without a switch: resources, pipelining, bodies, and when the connection stays.

use std::time::Duration;

use switchpoint::{Config, Registry, Response, protocols::Echo};

use crate::harness::{Conversation, config, everywhere, everywhere_with, milliseconds};

fn registry() -> Registry {
    Registry::new()
        .get("/", |_| Response::text("hello"))
        .get("/query", |request| Response::text(request.query().unwrap_or("none").to_owned()))
        .get("/length", |request| Response::text(request.body().len().to_string()))
        .get("/none", |_| Response::new(204))
        .get("/both", |_| Response::text("both"))
        .at("/both", Echo)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")
}

#[test]
fn requests_on_one_connection_are_answered_in_their_order() {
    Conversation::with(registry)
        .say(get("/"))
        .answer(200, |answer| assert_eq!(answer.body, "hello"))
        .say("HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .answer_to_head(200, |answer| assert_eq!(answer.field("content-length"), Some("5")))
        .say(get("/query?a=b"))
        .answer(200, |answer| assert_eq!(answer.body, "a=b"))
        .say(get("/nowhere"))
        .answer(404, |answer| assert_eq!(answer.reason(), Some("no-such-path")))
        .say("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .answer(204, |answer| assert_eq!(answer.field("allow"), Some("GET, HEAD, OPTIONS")))
        .say(get("/none"))
        .answer(204, |_| {})
        .say("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
        .answer(200, |answer| assert!(answer.has_token("connection", "close")))
        .end()
        .keeps_early_bytes()
        .many_ways();
}

#[test]
fn a_body_is_not_mistaken_for_the_next_request() {
    let smuggled = "GET /nowhere HTTP/1.1\r\nHost: a.example\r\n\r\n";
    Conversation::with(registry)
        .say(format!(
            "GET /length HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n{smuggled}",
            smuggled.len()
        ))
        .answer(200, move |answer| assert_eq!(answer.body, smuggled.len().to_string()))
        .say(format!(
            "GET /length HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n\
             {:x};a=b\r\n{smuggled}\r\n3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
            smuggled.len()
        ))
        .answer(200, move |answer| assert_eq!(answer.body, (smuggled.len() + 3).to_string()))
        .say(get("/"))
        .answer(200, |answer| assert_eq!(answer.body, "hello"))
        .finish()
        .end()
        .keeps_early_bytes()
        .many_ways();
}

#[test]
fn who_expects_a_100_gets_it_before_the_body_is_read() {
    Conversation::with(registry)
        .say("GET /length HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .answer(100, |_| {})
        .say("body")
        .answer(200, |answer| assert_eq!(answer.body, "4"))
        .say(get("/"))
        .answer(200, |_| {})
        .many_ways();
}

#[test]
fn http_1_0_is_answered_and_closed() {
    Conversation::with(registry)
        .say("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .answer(200, |answer| {
            assert_eq!((answer.body.as_str(), answer.field("connection")), ("hello", Some("close")));
        })
        .end()
        .many_ways();
}

#[test]
fn an_offer_is_advertised_and_what_is_not_spoken_is_ignored() {
    everywhere(registry, async |site| {
        let mut client = site.connect();
        client.send(get("/both")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("upgrade")), (200, Some("echo")));
        assert_eq!(answer.field("connection"), Some("upgrade"));
        // JDK's and curl's clients offer h2c with each request, and have to be served (RFC 9110 7.8).
        let offer = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
        client.send(offer).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("upgrade"), answer.body.as_str()), (200, None, "hello"));
        // And the connection goes on.
        client.send(get("/")).await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(site.stats().requests, 3);
        assert_eq!(site.stats().rejections.len(), 0);
    });
}

#[test]
fn a_resource_answers_head_without_its_body_and_options_with_its_methods() {
    everywhere(registry, async |site| {
        let mut client = site.connect();
        client.send("HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        assert_eq!(client.try_answer(true).await.unwrap().field("content-length"), Some("5"));
        client.silence(20).await;
        client.send("OPTIONS / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        assert_eq!(client.answer().await.field("allow"), Some("GET, HEAD, OPTIONS"));
        client.finish();
        client.end().await;
    });
}

#[test]
fn a_connection_that_idles_between_requests_is_closed_without_a_word() {
    let config = Config { keep_alive_time: Duration::from_millis(300), ..config() };
    everywhere_with(config, registry, async |site| {
        let mut client = site.connect();
        for _ in 0..5 {
            client.send(get("/")).await;
            assert_eq!(client.answer().await.status, 200);
            milliseconds(80).await;
        }
        client.end().await;
        assert_eq!(site.stats().rejections.len(), 0);
    });
}

#[test]
fn an_answer_that_nobody_reads_does_not_hold_its_connection() {
    let config = Config { write_time: Duration::from_millis(150), ..config() };
    let large = || Registry::new().get("/", |_| Response::text("x".repeat(8 << 20)));
    everywhere_with(config, large, async |site| {
        let mut client = site.connect();
        client.send(get("/")).await;
        site.until("a request has arrived", |stats| stats.requests == 1).await;
        // Nothing is read: the buffers are full, and the write time runs out.
        site.is_left_alone().await;
        assert!(client.ends_somehow().await.len() < 8 << 20);
    });
}
