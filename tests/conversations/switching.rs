//! The handshake of any protocol: who is asked, in which order, with which bytes.

use std::{future::ready, time::Duration};

use switchpoint::{
    Accept, Accepts, Config, Decision, EarlyBytes, Preference, Registry, Rejection, Response, Upgraded,
    protocols::Echo,
};

use crate::harness::{Conversation, Custom, config, everywhere, everywhere_with, milliseconds, upgrade};

fn echo() -> Registry {
    Registry::new().at("/echo", Echo)
}

#[test]
fn echo_sends_back_early_bytes_later_bytes_and_the_end() {
    Conversation::with(echo)
        .say(upgrade("/echo", "echo"))
        .answer(101, |answer| {
            let fields: Vec<_> = answer.fields.iter().map(|(name, value)| (&**name, &**value)).collect();
            assert_eq!(fields, [("upgrade", "echo"), ("connection", "upgrade")]);
        })
        .say("GET / HTTP/1.1\r\n\r\n")
        .hear("GET / HTTP/1.1\r\n\r\n")
        .say("\0\x01\x02 and more")
        .hear("\0\x01\x02 and more")
        .finish()
        .end()
        .keeps_early_bytes()
        .many_ways();
}

#[test]
fn much_is_echoed_both_ways_at_once() {
    everywhere(echo, async |site| {
        let mut client = site.switched(upgrade("/echo", "echo")).await;
        let part: Vec<u8> = (0..48 << 10).map(|i: u32| (i / 7) as u8).collect();
        for _ in 0..20 {
            client.send(&part).await;
            client.expect(&part).await;
        }
        client.finish();
        client.end().await;
        site.is_left_alone().await;
        let stats = site.stats();
        assert_eq!((stats.closed_clean, stats.cut, stats.upgrades["echo"]), (1, 0, 1));
        assert_eq!(stats.received, 20 * 48 * 1024);
        assert_eq!(stats.ends["ok"], 1);
    });
}

#[test]
fn what_a_session_sent_and_received_is_counted_and_nothing_else() {
    let registry = || echo().get("/", |_| Response::text("hello"));
    everywhere(registry, async |site| {
        let mut client = site.connect();
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        client.answer().await;
        client.send(upgrade("/echo", "echo") + "early").await;
        client.answer().await;
        client.expect("early").await;
        client.send("late").await;
        client.expect("late").await;
        client.finish();
        client.end().await;
        site.is_left_alone().await;
        assert_eq!((site.stats().received, site.stats().sent), (9, 9));
    });
}

#[test]
fn a_closure_is_a_handler() {
    fn registry() -> Registry {
        Registry::new().on("lines/1", async |mut connection: Upgraded| {
            loop {
                while let Some(end) = connection.unread().iter().position(|byte| *byte == b'\n') {
                    let line = connection.unread()[..=end].to_ascii_uppercase();
                    connection.consume(end + 1);
                    if line == b"BYE\n" {
                        return connection.write_all(b"bye\n").await;
                    }
                    connection.write_all(&line).await?;
                }
                if !connection.fill().await? {
                    return Ok(());
                }
            }
        })
    }
    Conversation::with(registry)
        .say(upgrade("/anywhere?at=all", "Lines/1"))
        .answer(101, |answer| assert_eq!(answer.field("upgrade"), Some("lines/1")))
        .say("one\ntw")
        .hear("ONE\n")
        .say("o\nbye\n")
        .hear("TWO\nbye\n")
        .end()
        .many_ways();
}

fn posting() -> Registry {
    let accepts = Accepts::default().methods(&["POST"]).body_max(64).early(EarlyBytes::Keep);
    let settle = |request: &switchpoint::Request<'_>| {
        let body = String::from_utf8(request.body().to_vec()).unwrap();
        Decision::Accept(Accept::new(format!("[{body}]")).field("X-Body", body.len().to_string()))
    };
    Registry::new().at("/post", Custom::new("post/1").accepts(accepts).negotiate(settle))
}

const POST: &str = "POST /post HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: post/1\r\n";

#[test]
fn a_body_is_not_mistaken_for_the_new_protocol() {
    Conversation::with(posting)
        .say(format!("{POST}Content-Length: 11\r\n\r\nhello world"))
        .answer(101, |answer| assert_eq!(answer.field("x-body"), Some("11")))
        .hear("[hello world]")
        .say("and echo")
        .hear("and echo")
        .finish()
        .end()
        .keeps_early_bytes()
        .many_ways();
}

#[test]
fn a_chunked_body_ends_where_its_last_chunk_does() {
    Conversation::with(posting)
        .say(format!(
            "{POST}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nA: b\r\n\r\n"
        ))
        .answer(101, |_| {})
        .hear("[hello world]")
        .say("0\r\n\r\n")
        .hear("0\r\n\r\n")
        .finish()
        .end()
        .keeps_early_bytes()
        .many_ways();
}

#[test]
fn the_100_comes_before_the_101() {
    Conversation::with(posting)
        .say(format!("{POST}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"))
        .answer(100, |_| {})
        .say("hello")
        .answer(101, |_| {})
        .hear("[hello]")
        .finish()
        .end()
        .many_ways();
}

#[test]
fn a_body_that_will_not_be_taken_is_not_asked_for() {
    let registry = || {
        posting()
            .at("/secret", {
                let accepts = Accepts::default().methods(&["POST"]).body_max(64);
                let refused = || Err(Rejection::unauthorized("Bearer"));
                Custom::new("post/1").accepts(accepts).authorize(move |_| Box::pin(ready(refused())))
            })
            .at("/echo", Echo)
    };
    everywhere(registry, async |site| {
        let expecting = |path: &str, method: &str, token: &str, length: usize| {
            POST.replace("/post HTTP", &format!("{path} HTTP"))
                .replace("POST", method)
                .replace("post/1", token)
                + &format!("Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n")
        };
        // Who is not authorized has not sent the body yet, and need not.
        let mut client = site.connect();
        client.send(expecting("/secret", "POST", "post/1", 5)).await;
        client.answer().await.refuses(401, "unauthorized");
        client.end().await;
        let mut client = site.connect();
        client.send(expecting("/echo", "GET", "echo", 5)).await;
        client.answer().await.refuses(400, "unexpected-body");
        client.end().await;
    });
}

#[test]
fn a_body_that_is_too_long_by_its_own_word_is_refused_before_it_is_sent() {
    everywhere(posting, async |site| {
        let mut client = site.connect();
        client.send(format!("{POST}Content-Length: 65\r\nExpect: 100-continue\r\n\r\n")).await;
        client.answer().await.refuses(413, "body-too-large");
        client.end().await;
    });
}

#[test]
fn credentials_decide_before_the_switch() {
    let registry = || {
        Registry::new().at(
            "/",
            Custom::new("secret").authorize(|request| {
                let decided = match (request.cookie("session"), request.authorization()) {
                    (Some("alice"), _) => Ok(()),
                    (_, Some((scheme, "letmein"))) if scheme.eq_ignore_ascii_case("bearer") => Ok(()),
                    (None, None) => Err(Rejection::unauthorized("Bearer realm=\"tests\"")),
                    _ => Err(Rejection::forbidden()),
                };
                Box::pin(async move {
                    milliseconds(10).await;
                    decided
                })
            }),
        )
    };
    everywhere(registry, async |site| {
        let with = |field: &str| upgrade("/", "secret").replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"));
        for field in [
            "Cookie: a=b; session=alice; c=d",
            "Cookie: a=b\r\nCookie: session=alice",
            "Authorization: Bearer letmein",
            "authorization: BEARER  letmein",
        ] {
            site.switched(with(field)).await.expect("secret\n").await;
        }
        let answer = site.ask(upgrade("/", "secret")).await;
        answer.refuses(401, "unauthorized");
        assert_eq!(answer.field("www-authenticate"), Some("Bearer realm=\"tests\""));
        for field in
            ["Cookie: session=mallory", "Authorization: Bearer guess", "Cookie: xsession=alice; session=b"]
        {
            site.ask(with(field)).await.refuses(403, "forbidden");
        }
        site.ask(with("Cookie: xsession=alice")).await.refuses(401, "unauthorized");
    });
}

#[test]
fn a_decision_that_does_not_come_is_answered_and_other_connections_do_not_wait() {
    let registry = || {
        Registry::new()
            .at("/never", Custom::new("never").authorize(|_| Box::pin(std::future::pending())))
            .at("/echo", Echo)
    };
    let config = Config { answer_time: Duration::from_millis(150), ..config() };
    everywhere_with(config, registry, async |site| {
        let mut stuck = site.connect();
        stuck.send(upgrade("/never", "never")).await;
        let mut other = site.switched(upgrade("/echo", "echo")).await;
        other.send("meanwhile").await;
        other.expect("meanwhile").await;
        assert_eq!(site.stats().rejections.len(), 0);
        stuck.answer().await.refuses(503, "authorization-timeout");
        stuck.end().await;
        // The answer time was the handshake's; the session's own limits hold from here on.
        other.silence(200).await;
        other.send("afterwards").await;
        other.expect("afterwards").await;
    });
}

#[test]
fn a_client_that_leaves_while_its_handler_decides_leaves_nothing_behind() {
    let registry =
        || Registry::new().at("/never", Custom::new("never").authorize(|_| Box::pin(std::future::pending())));
    let config = Config { answer_time: Duration::from_millis(100), ..config() };
    everywhere_with(config, registry, async |site| {
        let mut client = site.connect();
        client.send(upgrade("/never", "never")).await;
        site.until("the request has arrived", |stats| stats.requests == 1).await;
        client.reset();
        site.is_left_alone().await;
    });
}

#[test]
fn who_declines_lets_the_next_one_answer_and_at_last_the_resource() {
    let only = |name: &'static str, who: &'static str| {
        Custom::new("chat").negotiate(move |request| match request.field("x-who") {
            Some(asked) if asked == who => Decision::Accept(Accept::new(name.to_owned())),
            _ => Decision::Decline,
        })
    };
    let registry = move || {
        Registry::new()
            .at("/", only("first", "a"))
            .at("/", only("second", "b"))
            .with(only("everywhere", "c"))
            .get("/", |_| Response::text("hello"))
    };
    everywhere(registry, async |site| {
        let with = |who: &str| upgrade("/", "chat").replace("\r\n\r\n", &format!("\r\nX-Who: {who}\r\n\r\n"));
        for (who, name) in [("a", "first"), ("b", "second"), ("c", "everywhere")] {
            site.switched(with(who)).await.expect(name).await;
        }
        let answer = site.ask(with("d")).await;
        assert_eq!(
            (answer.status, answer.body.as_str(), answer.field("upgrade")),
            (200, "hello", Some("chat"))
        );
        // Where there is no resource, it is 426.
        let elsewhere = with("d").replace("GET / ", "GET /elsewhere ");
        site.ask(elsewhere).await.refuses(426, "no-common-protocol");
    });
}

#[test]
fn several_offers_are_one_list_and_the_preference_decides() {
    let registry = |preference| {
        move || {
            Registry::new()
                .with(Custom::new("a"))
                .with(Custom::new("b/1"))
                .with(Custom::new("b/2"))
                .prefer(preference)
        }
    };
    let lines = |lines: &[&str]| {
        let lines: String = lines.iter().map(|line| format!("Upgrade: {line}\r\n")).collect();
        format!("GET / HTTP/1.1\r\nHost: a.example\r\n{lines}Connection: keep-alive, Upgrade\r\n\r\n")
    };
    let cases: &[(&[&str], &str, &str)] = &[
        (&["b/2, a"], "b/2", "a"),
        (&["foo, b/2, a, b/1"], "b/2", "a"),
        (&["foo/1", "B/2, , bar", "b/1"], "b/2", "b/1"),
        (&["b/2", "b/1"], "b/2", "b/1"),
        (&["b, b/3, A"], "a", "a"),
        (&["  b/1\t,a "], "b/1", "a"),
    ];
    for (preference, ours) in [(Preference::Client, false), (Preference::Server, true)] {
        everywhere(registry(preference), async |site| {
            for (offers, by_client, by_server) in cases {
                let chosen = if ours { by_server } else { by_client };
                let answer = site.ask(lines(offers)).await;
                assert_eq!((answer.status, answer.field("upgrade")), (101, Some(*chosen)), "{offers:?}");
            }
            // A version counts.
            for offer in ["b", "b/3", "a/1", "b/", "/1", "b /1", "\"a\""] {
                site.ask(lines(&[offer])).await.refuses(426, "no-common-protocol");
            }
            let answer = site.ask(lines(&["foo"])).await;
            assert_eq!(answer.field("upgrade"), Some("a, b/1, b/2"));
        });
    }
}

#[test]
fn a_method_that_one_handler_does_not_take_may_be_anothers() {
    let registry = || {
        Registry::new()
            .at("/", Custom::new("a").accepts(Accepts::default().methods(&["POST", "PUT"])))
            .at("/", Custom::new("b"))
    };
    everywhere(registry, async |site| {
        assert_eq!(site.ask(upgrade("/", "a, b")).await.field("upgrade"), Some("b"));
        let answer = site.ask(upgrade("/", "a")).await;
        answer.refuses(405, "method-not-allowed");
        assert_eq!(answer.field("allow"), Some("POST, PUT"));
        assert_eq!(site.ask(upgrade("/", "a, b").replace("GET", "PUT")).await.field("upgrade"), Some("a"));
    });
}

#[test]
fn early_bytes_are_refused_where_the_client_has_to_wait() {
    let registry = || Registry::new().at("/", Custom::new("waits")).at("/keeps", Echo);
    everywhere(registry, async |site| {
        let mut client = site.connect();
        client.send(upgrade("/", "waits") + "early").await;
        client.answer().await.refuses(400, "early-bytes");
        client.end().await;
        assert_eq!(site.stats().refused_with_early_bytes, 1);
        let mut client = site.switched(upgrade("/keeps", "echo") + "early").await;
        client.expect("early").await;
        assert_eq!(site.stats().refused_with_early_bytes, 1);
    });
}

#[test]
fn a_refused_upgrade_ends_its_connection() {
    // A proxy that takes it for a made one would relay the next request without a look at it.
    Conversation::with(|| Registry::new().get("/", |_| Response::text("hello")).at("/echo", Echo))
        .say("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .answer(200, |answer| assert_eq!(answer.field("connection"), None))
        .say(upgrade("/echo", "irc"))
        .answer(426, |answer| assert_eq!(answer.field("connection"), Some("close, upgrade")))
        .end()
        .many_ways();
}

#[test]
fn an_upgrade_after_ordinary_requests_on_the_same_connection() {
    fn registry() -> Registry {
        Registry::new().get("/", |_| Response::text("hello")).at("/echo", Echo)
    }
    Conversation::with(registry)
        .say("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .answer(200, |answer| assert_eq!(answer.body, "hello"))
        .say(upgrade("/echo", "irc, echo"))
        .answer(101, |_| {})
        .say("bytes")
        .hear("bytes")
        .finish()
        .end()
        .many_ways();
}

#[test]
fn a_long_url_with_many_fields_is_still_fine() {
    everywhere(echo, async |site| {
        // RFC 9112 3 wants request lines of 8000 octets to be possible.
        let path = format!("/echo?{}", "a".repeat(7980));
        let fields: String = (0..90).map(|i| format!("X-{i}: {i}\r\n")).collect();
        let request = upgrade(&path, "echo").replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
        let mut client = site.switched(request).await;
        client.send("still fine").await;
        client.expect("still fine").await;
    });
}
