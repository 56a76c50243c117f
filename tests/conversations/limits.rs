//! Who is turned away, by which limit, and that nobody else is; what a session may last. A row of docs/limits.md each.

use std::time::{Duration, Instant};

use switchpoint::{
    Config, Limits, Registry, Response, Stream, duplex,
    h2c::Rate,
    protocols::{Echo, WebSocket, websocket::Socket},
};

use crate::harness::{
    Client, Site, Transport, close, config, everywhere_with, handshake, milliseconds, on, upgrade,
};

fn registry() -> Registry {
    Registry::new().get("/", |_| Response::text("hello")).at("/echo", Echo).at(
        "/ws",
        WebSocket::new(async |mut socket: Socket| {
            while let Some(message) = socket.recv().await? {
                let text = message.text().unwrap_or_default().to_owned();
                socket.send(&text).await?;
            }
            Ok(())
        }),
    )
}

fn limits(limits: Limits) -> Config {
    Config { limits, ..config() }
}

fn counted(site: &Site, reason: &str) -> u64 {
    site.stats().rejections.get(reason).copied().unwrap_or(0)
}

/// A client of `peer` that was switched.
async fn switched(site: &Site, peer: &str) -> Client {
    let mut client = site.connect_from(peer);
    client.send(upgrade("/echo", "echo")).await;
    assert_eq!(client.answer().await.status, 101);
    client
}

/// A client of `peer` that is turned away, with what an answer of 429 or 503 owes.
async fn refused(site: &Site, peer: &str, status: u16, reason: &str) {
    let before = counted(site, reason);
    let mut client = site.connect_from(peer);
    client.send(upgrade("/echo", "echo")).await;
    let answer = client.answer().await;
    answer.refuses(status, reason);
    assert!(answer.field("retry-after").is_some() && answer.has_token("connection", "close"), "{answer:?}");
    client.end().await;
    assert_eq!(counted(site, reason), before + 1);
}

#[test]
fn a_core_and_the_server_have_as_many_connections_as_they_may() {
    let in_all = Config { connections_max: 2, ..config() };
    let of_a_core = limits(Limits { connections_core: 2, ..Limits::default() });
    for config in [in_all, of_a_core] {
        on(Transport::Memory, config, registry(), async |site| {
            let (first, _second) = (switched(site, "192.0.2.1").await, switched(site, "192.0.2.2").await);
            refused(site, "192.0.2.3", 503, "too-many-connections").await;
            drop(first);
            site.until("the room is free", |stats| stats.connections == 1).await;
            switched(site, "192.0.2.3").await;
        });
    }
}

#[test]
fn an_address_has_as_many_connections_as_it_may() {
    let exempt = vec!["10.0.0.0/8".parse().unwrap()];
    let config = limits(Limits { connections_address: 2, exempt, ..Limits::default() });
    on(Transport::Memory, config, registry(), async |site| {
        for [first, second, third, other] in [
            ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"],
            ["2001:db8::1", "2001:db8::2:2", "2001:db8::3:3:3:3", "2001:db8:0:1::1"],
        ] {
            let (gone, _stays) = (switched(site, first).await, switched(site, second).await);
            refused(site, third, 429, "too-many-from-address").await;
            drop(switched(site, other).await);
            drop(gone);
            site.until("it is gone", |stats| stats.sessions <= 1).await;
            drop(switched(site, third).await);
            site.until("it is gone", |stats| stats.sessions <= 1).await;
        }
        let trusted = [switched(site, "10.0.0.1").await, switched(site, "10.0.0.1").await];
        drop((switched(site, "10.0.0.1").await, trusted));
    });
}

#[test]
fn a_session_on_a_stream_is_a_connection_of_its_address() {
    let config = limits(Limits { connections_address: 3, ..Limits::default() });
    on(Transport::Memory, config, registry(), async |site| {
        let http2 = site.connect_from("192.0.2.1").http2().await;
        let mut sessions = Vec::new();
        for _ in 0..2 {
            sessions.push(http2.websocket("/ws").await);
        }
        let refused = http2.connect("/ws", "websocket", &[("sec-websocket-version", "13")]).await;
        assert_eq!(refused.err(), Some(429));
        assert_eq!(counted(site, "too-many-from-address"), 1);
        assert_eq!(http2.get("/").await.status(), 200, "the connection goes on");
        let mut gone = sessions.pop().unwrap();
        gone.send(close(1000)).await;
        gone.finish();
        site.until("it is gone", |stats| stats.sessions == 2).await;
        http2.websocket("/ws").await;
    });
}

#[test]
fn who_says_nothing_is_half_open_until_the_first_request_is_there() {
    for (limits_of, reason, status) in [
        (Limits { half_open: 2, ..Limits::default() }, "too-many-half-open", 503),
        (Limits { half_open_address: 2, ..Limits::default() }, "too-many-half-open-from-address", 429),
    ] {
        on(Transport::Memory, limits(limits_of), registry(), async |site| {
            let mut silent = [site.connect_from("192.0.2.1"), site.connect_from("192.0.2.1")];
            milliseconds(5).await;
            refused(site, "192.0.2.1", status, reason).await;
            // A whole request makes room, a part of one does not; nor does it matter what is answered.
            silent[0].send("GET / HT").await;
            milliseconds(5).await;
            refused(site, "192.0.2.1", status, reason).await;
            silent[0].send("TP/1.1\r\nHost: a.example\r\n\r\n").await;
            assert_eq!(silent[0].answer().await.status, 200);
            let sessions = [switched(site, "192.0.2.1").await, switched(site, "192.0.2.1").await];
            // So does HTTP/2, and who goes.
            let mut again = site.connect_from("192.0.2.1");
            milliseconds(5).await;
            refused(site, "192.0.2.1", status, reason).await;
            again.finish();
            again.end().await;
            let [_, silent] = silent;
            let _http2 = silent.http2().await;
            drop((switched(site, "192.0.2.1").await, sessions));
        });
    }
}

#[test]
fn an_address_that_asks_too_fast_is_told_so() {
    let handshakes_address = Rate { burst: 3, per_second: 1 };
    let config = limits(Limits { handshakes_address, ..Limits::default() });
    on(Transport::Memory, config, registry(), async |site| {
        for _ in 0..3 {
            drop(switched(site, "192.0.2.1").await);
        }
        refused(site, "192.0.2.1", 429, "too-many-handshakes-from-address").await;
        drop(switched(site, "192.0.2.2").await);
        // What is no switch is not counted.
        let mut client = site.connect_from("192.0.2.1");
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
        // An hour's patience is not needed: one comes back each second.
        milliseconds(1050).await;
        drop(switched(site, "192.0.2.1").await);
    });
}

#[test]
fn no_more_are_switched_in_a_second_than_may_be() {
    let handshakes = Rate { burst: 3, per_second: 1 };
    let config = limits(Limits { handshakes, ..Limits::default() });
    on(Transport::Memory, config, registry(), async |site| {
        let http2 = site.connect_from("192.0.2.9").http2().await;
        let _session = http2.websocket("/ws").await;
        for number in 1..3 {
            drop(switched(site, &format!("192.0.2.{number}")).await);
        }
        refused(site, "192.0.2.3", 503, "too-many-handshakes").await;
        let refused = http2.connect("/ws", "websocket", &[("sec-websocket-version", "13")]).await;
        assert_eq!(refused.err(), Some(503), "a stream of HTTP/2 is no way around it");
        assert_eq!(counted(site, "too-many-handshakes"), 2);
    });
}

#[test]
fn over_the_memory_budget_new_work_is_refused_and_old_work_goes_on() {
    // Any process is larger than this. The first measurement is some time after the start.
    let config = limits(Limits { memory_max: 1 << 20, ..Limits::default() });
    on(Transport::Memory, config, registry(), async |site| {
        let mut session = switched(site, "192.0.2.1").await;
        let mut ordinary = site.connect_from("192.0.2.1");
        milliseconds(120).await;
        refused(site, "192.0.2.1", 503, "over-memory-budget").await;
        session.send("still here").await;
        session.expect("still here").await;
        ordinary.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        assert_eq!(ordinary.answer().await.status, 200);
        ordinary.send(upgrade("/echo", "echo")).await;
        ordinary.answer().await.refuses(503, "over-memory-budget");
    });
}

#[test]
fn a_session_that_lasts_too_long_is_told_and_then_cut() {
    let session_time = Duration::from_millis(200);
    let config = Config {
        drain_time: Duration::from_millis(300),
        limits: Limits { session_time, ..Limits::default() },
        ..config()
    };
    let registry = || {
        registry().on("deaf", async |connection: switchpoint::Upgraded| {
            milliseconds(1000).await;
            drop(connection);
            Ok(())
        })
    };
    everywhere_with(config, registry, async |site| {
        let start = Instant::now();
        let mut websocket = site.switched(handshake("/ws", "")).await;
        let mut echo = site.switched(upgrade("/echo", "echo")).await;
        let mut deaf = site.switched(upgrade("/", "deaf")).await;
        let http2 = site.connect().http2().await;
        let goodbye = websocket.frame().await;
        assert_eq!((goodbye.opcode, &goodbye.payload[..2]), (8, &1001_u16.to_be_bytes()[..]));
        let told = start.elapsed();
        websocket.send(close(1001)).await;
        websocket.end().await;
        echo.end().await;
        deaf.ends_somehow().await;
        let cut = start.elapsed();
        assert!(told >= Duration::from_millis(180) && cut >= Duration::from_millis(450), "{told:?}, {cut:?}");
        assert_eq!(http2.get("/").await.status(), 200, "HTTP/2 has a lifetime of its own");
        site.until("one was cut", |stats| (stats.closed_clean, stats.cut) == (2, 1)).await;
    });
}

#[test]
fn who_was_never_served_has_given_the_place_back() {
    on(Transport::Memory, Config { connections_max: 1, ..config() }, registry(), async |site| {
        let (_near, far) = duplex::pair();
        drop(site.worker.serve(Stream::from(far), None));
        drop(switched(site, "192.0.2.1").await);
    });
}
