//! RFC 6455 behind its handshake, as a client sees it.

use std::time::Duration;

use switchpoint::{
    Config, Registry,
    protocols::{
        self, WebSocket,
        websocket::{Origins, Settings, Socket},
    },
    ws,
};

use crate::harness::{
    ACCEPT, Client, Conversation, Site, Transport, binary, close, config, everywhere, everywhere_with,
    fragment, handshake, masked, milliseconds, on, ping, pong, text,
};

fn echo() -> Registry {
    demonstration(Settings::default())
}

fn demonstration(settings: Settings) -> Registry {
    let close_time = Duration::from_millis(300);
    protocols::demonstration(Settings { close_time, ..settings })
}

async fn connected(site: &Site) -> Client {
    site.switched(handshake("/echo", "")).await
}

/// Says goodbye, and sees to the rest.
async fn leave(mut client: Client) {
    client.send(close(1000)).await;
    client.frame().await.is_close(1000);
    client.end().await;
}

#[test]
fn messages_are_echoed_however_they_are_cut() {
    let medium = "é".repeat(150);
    let ping_between = [fragment(false, 1, "frag"), ping("still there?"), fragment(false, 0, "men")].concat();
    Conversation::with(echo)
        .say(handshake("/echo", ""))
        .answer(101, |answer| {
            let fields: Vec<_> = answer.fields.iter().map(|(name, value)| (&**name, &**value)).collect();
            let accept = ("sec-websocket-accept", ACCEPT);
            assert_eq!(fields, [("upgrade", "websocket"), ("connection", "upgrade"), accept]);
        })
        .say(text("Hello"))
        .hear(b"\x81\x05Hello")
        .say(binary([0, 255, 128]))
        .hear(b"\x82\x03\x00\xff\x80")
        .say(text(""))
        .hear(b"\x81\x00")
        .say(text(&medium))
        .hear([&b"\x81\x7e\x01\x2c"[..], medium.as_bytes()].concat())
        .say(ping_between)
        .hear(b"\x8a\x0cstill there?")
        .say([fragment(true, 0, "ted"), ping("")].concat())
        .hear(b"\x81\x0afragmented\x8a\x00")
        .say(pong("nobody asked"))
        .say(close(4321))
        .hear(b"\x88\x02\x10\xe1")
        .end()
        .many_ways();
}

#[test]
fn a_length_of_64_bits_and_every_length_around_the_borders() {
    everywhere(echo, async |site| {
        let mut client = connected(site).await;
        for length in [0, 1, 124, 125, 126, 127, 511, 512, 513, 65_535, 65_536, 70_000, 300_000, 1 << 20] {
            let payload: Vec<u8> = (0..length).map(|i: u32| (i % 251) as u8).collect();
            client.send(binary(&payload)).await;
            client.frame().await.is(2, &payload);
        }
        leave(client).await;
        site.is_left_alone().await;
        assert_eq!((site.stats().closed_clean, site.stats().cut), (1, 0));
        assert_eq!(site.stats().ends.get("ok"), Some(&1));
    });
}

#[test]
fn a_large_message_survives_faults() {
    use switchpoint::duplex::Faults;
    let faults = Faults { partial_read: 0.7, partial_write: 0.7, delay: 0.02, reset: 0.0 };
    for seed in 1..=8 {
        eprintln!("seed {seed}");
        on(Transport::Faulty(faults, seed), config(), echo(), async |site: &Site| {
            let mut client = connected(site).await;
            let payload: Vec<u8> = (0..100_000_u32).map(|i| (i % 253) as u8).collect();
            for part in payload.chunks(30_000).enumerate() {
                let (place, bytes) = part;
                client.send(fragment(place == 3, if place == 0 { 2 } else { 0 }, bytes)).await;
            }
            client.frame().await.is(2, &payload);
            leave(client).await;
        });
    }
}

#[test]
fn many_messages_at_once_are_answered_in_their_order() {
    everywhere(echo, async |site| {
        let mut client = connected(site).await;
        let said: Vec<u8> = (0..2_000).flat_map(|i| text(format!("message {i}"))).collect();
        client.send(said).await;
        for i in 0..2_000 {
            client.frame().await.is_text(&format!("message {i}"));
        }
        leave(client).await;
    });
}

#[test]
fn long_and_short_messages_in_a_burst_come_back_in_their_order() {
    // What is short is moved together where it has arrived, what is long stays.
    let lengths = [5, 4095, 4096, 0, 3, 4097, 70_000, 125, 126, 66_000, 4096, 1];
    let payload = |place: usize, length| -> Vec<u8> { (0..length).map(|i| (i * 7 + place) as u8).collect() };
    everywhere(echo, async |site| {
        let mut client = connected(site).await;
        for _ in 0..3 {
            let all = || lengths.into_iter().enumerate();
            let said: Vec<u8> = all().flat_map(|(place, length)| binary(payload(place, length))).collect();
            client.send(said).await;
            for (place, length) in all() {
                client.frame().await.is(2, payload(place, length));
            }
        }
        leave(client).await;
    });
}

#[test]
fn bursts_survive_faults_in_their_order() {
    use switchpoint::duplex::Faults;
    let faults = Faults { partial_read: 0.3, partial_write: 0.3, delay: 0.01, reset: 0.0 };
    let lengths = [0, 1, 3, 7, 8, 15, 20, 33, 64, 125, 126, 130, 1000, 4095, 4096, 9000];
    for seed in 1..=12 {
        eprintln!("seed {seed}");
        on(Transport::Faulty(faults, seed), config(), echo(), async |site: &Site| {
            let mut client = connected(site).await;
            let mut state = seed;
            let mut random = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as usize % below
            };
            for _ in 0..10 {
                let (mut said, mut due) = (Vec::new(), Vec::new());
                for place in 0..random(20) {
                    let payload: Vec<u8> =
                        (0..lengths[random(lengths.len())]).map(|i| (i * 7 + place) as u8 & 0x7f).collect();
                    match random(8) {
                        0 => {
                            let payload = &payload[..payload.len().min(125)];
                            said.extend(ping(payload));
                            due.push((10, payload.to_vec()));
                        }
                        1 => {
                            let (head, tail) = payload.split_at(payload.len() / 2);
                            said.extend([fragment(false, 2, head), fragment(true, 0, tail)].concat());
                            due.push((2, payload));
                        }
                        2 => {
                            said.extend(text(&payload));
                            due.push((1, payload));
                        }
                        _ => {
                            said.extend(binary(&payload));
                            due.push((2, payload));
                        }
                    }
                }
                client.send(said).await;
                for (opcode, payload) in due {
                    client.frame().await.is(opcode, payload);
                }
            }
            leave(client).await;
        });
    }
}

/// What the server says to a peer that breaks a rule: one close frame, then the end.
async fn is_closed_with(site: &Site, said: impl AsRef<[u8]>, code: u16) {
    let mut client = connected(site).await;
    client.send(said).await;
    let reason = client.frame().await.is_close(code);
    assert!(!reason.is_empty(), "who broke a rule is told which");
    client.end().await;
}

#[test]
fn who_breaks_a_rule_is_told_with_the_fitting_code() {
    everywhere(echo, async |site| {
        let rules: Vec<(&str, Vec<u8>, u16)> = vec![
            ("unmasked", b"\x81\x05Hello".to_vec(), 1002),
            ("a reserved bit", masked(0xc1, "Hello"), 1002),
            ("a reserved opcode", masked(0x83, ""), 1002),
            ("a reserved control opcode", masked(0x8b, ""), 1002),
            ("a fragmented ping", masked(0x09, ""), 1002),
            ("a long ping", ping([b'a'; 126]), 1002),
            ("nothing to continue", fragment(true, 0, "a"), 1002),
            ("a message in a message", [fragment(false, 1, "a"), text("b")].concat(), 1002),
            ("half a close code", masked(0x88, [3]), 1002),
            ("a close code for nobody", close(1005), 1002),
            ("a length that could be shorter", b"\x82\xfe\x00\x05\0\0\0\0abcde".to_vec(), 1002),
            ("a length of 64 bits", b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0".to_vec(), 1002),
            ("invalid UTF-8", text([0xc3, 0x28]), 1007),
            ("invalid UTF-8, seen early", fragment(false, 1, [0xed, 0xa0, 0x80]), 1007),
            ("UTF-8 that is cut off", text([0xe2, 0x82]), 1007),
            ("a close reason that is not UTF-8", masked(0x88, [3, 232, 0xff]), 1007),
        ];
        let count = rules.len() as u64;
        for (rule, said, code) in rules {
            eprintln!("{rule}");
            is_closed_with(site, said, code).await;
        }
        site.is_left_alone().await;
        assert_eq!(site.stats().ends.get("peer"), Some(&count));
    });
}

#[test]
fn a_message_over_the_limit_is_refused_by_its_announcement() {
    let limits = ws::Limits { message_max: 1000, fragments_max: 5 };
    let registry = || demonstration(Settings { limits, ..Settings::default() });
    everywhere(registry, async |site| {
        // Its header is enough: nothing is held.
        is_closed_with(site, b"\x82\xff\0\0\0\0\x7f\xff\xff\xff\0\0\0\0", 1009).await;
        is_closed_with(site, binary([0; 1001]), 1009).await;
        is_closed_with(site, [fragment(false, 2, [0; 600]), fragment(true, 0, [0; 401])].concat(), 1009)
            .await;
        let empty: Vec<u8> = (0..6).flat_map(|i| fragment(false, if i == 0 { 2 } else { 0 }, "")).collect();
        is_closed_with(site, empty, 1009).await;
        let mut client = connected(site).await;
        client.send(binary([7; 1000])).await;
        client.frame().await.is(2, [7; 1000]);
        leave(client).await;
    });
}

#[test]
fn the_last_words_reach_a_client_that_is_still_sending() {
    everywhere(echo, async |site| {
        let mut client = connected(site).await;
        // 4 MiB in one message: refused at its header, with most of it still on its way. Closing with bytes unread would
        // reset the connection under the sender, and where its system drops what it has not read, the close frame, too
        // (RFC 9112 9.6, as for the answer to a body that is too large).
        client.send(binary(vec![0; 4 << 20])).await;
        client.frame().await.is_close(1009);
        client.end().await;
    });
}

#[test]
fn a_burst_of_pings_is_answered_by_few_pongs_the_last_of_them_to_the_last() {
    everywhere(echo, async |site| {
        let mut client = connected(site).await;
        let burst: Vec<u8> = (0..1000).flat_map(|i| ping(format!("{i:04}"))).collect();
        client.send(burst).await;
        let (mut count, mut last) = (0, -1);
        while last < 999 {
            let frame = client.frame().await;
            assert_eq!(frame.opcode, 10);
            let number: i32 = str::from_utf8(&frame.payload).unwrap().parse().unwrap();
            assert!(number > last, "{number} after {last}");
            (count, last) = (count + 1, number);
        }
        assert!(count < 200, "{count} pongs");
        client.silence(20).await;
        leave(client).await;
    });
}

#[test]
fn ten_pings_in_a_row_get_ten_pongs() {
    everywhere(echo, async |site| {
        let mut client = connected(site).await;
        client.send((0..10).flat_map(|i| ping(i.to_string())).collect::<Vec<_>>()).await;
        for i in 0..10 {
            client.frame().await.is(10, i.to_string());
        }
        leave(client).await;
    });
}

#[test]
fn a_silent_peer_is_pinged_and_kept_as_long_as_it_answers() {
    let settings = Settings {
        ping_after: Duration::from_millis(60),
        pong_time: Duration::from_millis(400),
        ..Settings::default()
    };
    let registry = move || demonstration(settings.clone());
    everywhere(registry, async |site| {
        let mut client = connected(site).await;
        for _ in 0..6 {
            client.frame().await.is(9, "");
            client.send(pong("")).await;
        }
        client.send(text("still here")).await;
        let mut frame = client.frame().await;
        while frame.opcode == 9 {
            frame = client.frame().await;
        }
        frame.is_text("still here");
        // From now on it answers nothing.
        client.frame().await.is(9, "");
        client.frame().await.is_close(1001);
        client.end().await;
        site.is_left_alone().await;
        assert_eq!(site.stats().ends.get("timed-out"), Some(&1));
    });
}

#[test]
fn a_message_is_a_sign_of_life_as_good_as_a_pong() {
    let settings = Settings {
        ping_after: Duration::from_millis(150),
        pong_time: Duration::from_millis(150),
        ..Settings::default()
    };
    let registry = move || demonstration(settings.clone());
    everywhere(registry, async |site| {
        let mut client = connected(site).await;
        for i in 0..8 {
            milliseconds(60).await;
            client.send(text(i.to_string())).await;
            let mut frame = client.frame().await;
            while frame.opcode == 9 {
                frame = client.frame().await;
            }
            frame.is_text(&i.to_string());
        }
        leave(client).await;
    });
}

#[test]
fn a_client_that_leaves_without_a_close_is_missed_and_leaves_nothing_behind() {
    everywhere(echo, async |site| {
        for said in [vec![], text("a"), fragment(false, 1, "half"), text("cut")[..4].to_vec()] {
            let mut client = connected(site).await;
            client.send(&said).await;
            client.finish();
            client.ends_somehow().await;
        }
        site.is_left_alone().await;
        assert_eq!(site.stats().ends.get("io"), Some(&4));
        assert_eq!(site.stats().closed_clean, 0);
    });
}

#[test]
fn a_client_that_does_not_close_is_not_waited_for_without_end() {
    let settings = Settings { close_time: Duration::from_millis(100), ..Settings::default() };
    let registry = move || {
        let hangs_up = async |mut socket: Socket| {
            socket.recv().await?;
            Ok(())
        };
        Registry::new().at("/echo", WebSocket::new(hangs_up).with(settings.clone()))
    };
    let config = Config { close_time: Duration::from_millis(100), ..config() };
    everywhere_with(config, registry, async |site| {
        let mut client = connected(site).await;
        client.send(text("go")).await;
        assert_eq!(client.frame().await.is_close(1000), "");
        client.end().await;
        site.is_left_alone().await;
    });
}

#[test]
fn the_first_subprotocol_that_both_speak_is_chosen() {
    let registry = || {
        let socket =
            WebSocket::new(async |socket: Socket| socket.send(socket.subprotocol().unwrap_or("none")).await);
        Registry::new().at("/echo", socket.subprotocols(&["v2", "v1"]))
    };
    everywhere(registry, async |site| {
        for (offers, chosen) in [
            ("", None),
            ("Sec-WebSocket-Protocol: foo, V1\r\n", None),
            ("Sec-WebSocket-Protocol: foo, v1, v2\r\n", Some("v1")),
            ("Sec-WebSocket-Protocol: foo\r\nSec-WebSocket-Protocol: v2,v1\r\n", Some("v2")),
        ] {
            let mut client = site.connect();
            client.send(handshake("/echo", offers)).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.field("sec-websocket-protocol")), (101, chosen));
            client.frame().await.is_text(chosen.unwrap_or("none"));
        }
    });
}

#[test]
fn no_extension_is_agreed_to() {
    everywhere(echo, async |site| {
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        let answer = site.ask(handshake("/echo", offer)).await;
        assert_eq!((answer.status, answer.field("sec-websocket-extensions")), (101, None));
    });
}

#[test]
fn pages_connect_by_their_origin() {
    let policy = |origins: Origins| {
        move || {
            let socket = WebSocket::new(async |_: Socket| Ok(()));
            Registry::new().at("/echo", socket.origins(origins.clone()))
        }
    };
    let list = Origins::List(vec!["https://b.example".into(), "http://c.example:3000/".into()]);
    let (same, b, c) = ("http://a.example", "https://B.example", "http://c.example:3000");
    // Those that are let in, and those that are not.
    let cases: [(Origins, &[&str], &[&str]); 3] = [
        (
            Origins::SameHost,
            &[same, "https://a.example"],
            &[b, "null", "http://a.example:8080", "a.example", ""],
        ),
        (list, &[same, b, c], &["null", "http://b.example", "http://c.example", "https://b.example.evil"]),
        (Origins::Any, &[same, b, "null", "x"], &[]),
    ];
    for (origins, let_in, refused) in cases {
        let is_any = origins == Origins::Any;
        everywhere(policy(origins), async |site| {
            assert_eq!(site.ask(handshake("/echo", "")).await.status, 101, "no browser");
            let with = |origin: &str| handshake("/echo", &format!("Origin: {origin}\r\n"));
            for origin in let_in {
                assert_eq!(site.ask(with(origin)).await.status, 101, "{origin}");
            }
            for origin in refused {
                site.ask(with(origin)).await.refuses(403, "origin-not-allowed");
            }
            let twice = handshake("/echo", &format!("Origin: {same}\r\nOrigin: {b}\r\n"));
            let answer = site.ask(twice).await;
            if is_any {
                assert_eq!(answer.status, 101);
            } else {
                answer.refuses(403, "origin-not-allowed");
            }
        });
    }
}

#[test]
fn a_page_that_asks_is_shown_the_handshake() {
    everywhere(echo, async |site| {
        let fields = "Sec-WebSocket-Protocol: switchpoint.handshake\r\nCookie: id=secret\r\n";
        let mut client = site.connect();
        client.send(handshake("/echo", fields)).await;
        let answer = client.answer().await;
        assert_eq!(answer.field("sec-websocket-protocol"), Some("switchpoint.handshake"));
        let greeting = client.frame().await;
        assert_eq!(greeting.opcode, 1);
        let shown: serde_json::Value = serde_json::from_slice(&greeting.payload).unwrap();
        let (request, response) = (shown["request"].as_str().unwrap(), shown["response"].as_str().unwrap());
        assert!(request.starts_with("GET /echo HTTP/1.1\r\nHost: a.example\r\n"), "{request}");
        assert!(request.contains("Cookie: [redacted]\r\n") && !request.contains("secret"), "{request}");
        assert!(response.starts_with("HTTP/1.1 101 Switching Protocols\r\n") && response.contains(ACCEPT));
        assert!(response.ends_with("\r\n\r\n"), "{response:?}");
        client.send(text("and then it echoes")).await;
        client.frame().await.is_text("and then it echoes");
        leave(client).await;
        // Who does not ask is not greeted.
        let mut client = connected(site).await;
        client.silence(20).await;
    });
}

#[test]
fn nothing_behind_a_close_frame_is_heard() {
    everywhere(echo, async |site| {
        let mut client = connected(site).await;
        client.send([text("before"), close(1000), text("behind"), b"\x81\x05Hello".to_vec()].concat()).await;
        client.frame().await.is_text("before");
        client.frame().await.is_close(1000);
        client.end().await;
    });
}

#[test]
fn a_close_without_a_code_is_answered_without_one() {
    everywhere(echo, async |site| {
        let mut client = connected(site).await;
        client.send(masked(0x88, "")).await;
        client.frame().await.is(8, "");
        client.end().await;
    });
}
