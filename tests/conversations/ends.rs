//! How connections end that do not end by themselves: time limits, the drain, cuts, panics.

use std::time::{Duration, Instant};

use switchpoint::{
    Config, Decision, Error, Registry, Response, Upgraded,
    protocols::{self, Echo, websocket::Settings},
};

use crate::harness::{
    Custom, Site, Transport, close, config, everywhere, everywhere_with, handshake, milliseconds, on, settle,
    text, upgrade,
};

fn registry() -> Registry {
    protocols::demonstration(Settings { close_time: Duration::from_millis(200), ..Settings::default() })
}

const GET: &str = "GET /healthz HTTP/1.1\r\nHost: a.example\r\n\r\n";

#[test]
fn a_head_that_dribbles_does_not_buy_time() {
    let config = Config { head_time: Duration::from_millis(200), ..config() };
    everywhere_with(config, registry, async |site| {
        // The first request of a connection, and one after another.
        for is_first in [true, false] {
            let mut client = site.connect();
            if !is_first {
                client.send(GET).await;
                client.answer().await;
                milliseconds(250).await; // the keep-alive time is another
            }
            let start = Instant::now();
            for byte in upgrade("/echo", "echo").bytes() {
                client.send([byte]).await;
                milliseconds(20).await;
                if site.stats().rejections.get("head-timeout") == Some(&if is_first { 1 } else { 2 }) {
                    break;
                }
            }
            let taken = start.elapsed();
            assert!(taken >= Duration::from_millis(180) && taken < Duration::from_millis(1000), "{taken:?}");
            client.answer().await.refuses(408, "head-timeout");
            client.end().await;
        }
    });
}

#[test]
fn a_connection_that_never_says_anything_is_closed_without_an_answer() {
    let config = Config { head_time: Duration::from_millis(100), ..config() };
    everywhere_with(config, registry, async |site| {
        let mut client = site.connect();
        client.end().await;
        site.is_left_alone().await;
        assert_eq!((site.stats().requests, site.stats().rejections.len()), (0, 0));
    });
}

#[test]
fn a_refused_client_that_stays_is_closed_after_the_close_time() {
    let config = Config { close_time: Duration::from_millis(100), ..config() };
    everywhere_with(config, registry, async |site| {
        let mut client = site.connect();
        client.send("nonsense\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 400);
        client.end().await;
        site.is_left_alone().await;
        // We have the descriptor no more, so there is nobody to send to.
        let mut is_gone = false;
        for _ in 0..100 {
            is_gone = is_gone || client.try_send("x").await.is_err();
            milliseconds(5).await;
        }
        assert!(is_gone, "the connection is still open");
    });
}

#[test]
fn a_silent_session_ends_after_its_idle_time() {
    let config = Config { idle_time: Duration::from_millis(400), ..config() };
    everywhere_with(config, registry, async |site| {
        let mut client = site.switched(upgrade("/echo", "echo")).await;
        for _ in 0..5 {
            milliseconds(100).await;
            client.send("a").await;
            client.expect("a").await;
        }
        client.ends_somehow().await;
        site.is_left_alone().await;
        assert_eq!(site.stats().ends.get("timed-out"), Some(&1));
    });
}

#[test]
fn a_protocol_may_set_its_own_idle_time_and_its_own_bound() {
    let registry = || {
        Registry::new()
            .on("short", async |mut connection: Upgraded| {
                connection.idle_time(Duration::from_millis(60));
                while connection.fill().await? {
                    connection.consume(connection.unread().len());
                }
                Ok(())
            })
            .on("bound", async |mut connection: Upgraded| {
                connection.unread_max(1000);
                while connection.fill().await? {}
                Ok(())
            })
    };
    everywhere(registry, async |site| {
        let mut client = site.switched(upgrade("/", "short")).await;
        client.ends_somehow().await;
        let mut client = site.switched(upgrade("/", "bound")).await;
        // It may be gone before it has taken all of this.
        let _ = client.try_send(vec![b'a'; 100_000]).await;
        client.ends_somehow().await;
        site.is_left_alone().await;
        let stats = site.stats();
        assert_eq!((stats.ends.get("timed-out"), stats.ends.get("peer")), (Some(&1), Some(&1)));
    });
}

#[test]
fn a_drain_says_goodbye_in_each_protocols_words() {
    everywhere(registry, async |site| {
        let mut socket = site.switched(handshake("/echo", "")).await;
        let mut echo = site.switched(upgrade("/echo", "echo")).await;
        let mut idle = site.connect();
        idle.send(GET).await;
        idle.answer().await;
        let mut fresh = site.connect();
        socket.send(text("before")).await;
        socket.frame().await.is_text("before");
        settle(site.transport).await;

        site.worker.begin_drain();
        // Nothing ends yet, and who comes is served; only that a kept connection is not kept any more.
        let mut late = site.switched(upgrade("/echo", "echo")).await;
        let answer = site.ask("GET /readyz HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        assert_eq!((answer.status, answer.has_token("connection", "close")), (503, true));
        socket.send(text("still served")).await;
        socket.frame().await.is_text("still served");

        site.worker.say_goodbye();
        socket.frame().await.is_close(1001);
        socket.send(close(1001)).await;
        socket.end().await;
        for client in [&mut echo, &mut late, &mut idle, &mut fresh] {
            client.end().await;
        }
        drop((echo, late));
        site.is_left_alone().await;
        let stats = site.stats();
        assert_eq!((stats.closed_clean, stats.cut, stats.rejections.len()), (3, 0, 0), "{stats:?}");
    });
}

#[test]
fn no_session_begins_after_the_goodbye() {
    everywhere(registry, async |site| {
        // One that had begun its request, and one that comes new.
        let mut begun = site.connect();
        begun.send(GET).await;
        begun.answer().await;
        let request = handshake("/echo", "");
        begun.send(&request[..40]).await;
        milliseconds(20).await;
        site.worker.begin_drain();
        site.worker.say_goodbye();
        milliseconds(20).await;
        begun.send(&request[40..]).await;
        let answer = begun.answer().await;
        answer.refuses(503, "draining");
        assert!(answer.has_token("connection", "close"));
        begun.end().await;

        site.ask(&request).await.refuses(503, "draining");
        assert_eq!(site.ask(GET).await.status, 200, "an ordinary answer is still given");
        assert_eq!(site.stats().upgrades.len(), 0);
    });
}

#[test]
fn a_session_that_begins_at_the_goodbye_hears_it() {
    let registry = || {
        let slowly = Custom::new("slow").authorize(|_| {
            Box::pin(async {
                milliseconds(60).await;
                Ok(())
            })
        });
        Registry::new().at("/", slowly)
    };
    everywhere(registry, async |site| {
        let mut client = site.connect();
        client.send(upgrade("/", "slow")).await;
        site.until("it is being decided", |stats| stats.requests == 1).await;
        site.worker.begin_drain();
        site.worker.say_goodbye();
        // Either it is told no, or it begins and ends.
        if client.answer().await.status == 101 {
            client.expect("slow\n").await;
        }
        client.end().await;
    });
}

#[test]
fn goodbyes_are_spread_and_reach_everybody() {
    let config = Config { drain_time: Duration::from_millis(1000), ..config() };
    on(Transport::Memory, config, registry(), async |site: &Site| {
        let mut clients = Vec::new();
        for _ in 0..100 {
            clients.push(site.switched(upgrade("/echo", "echo")).await);
        }
        let start = Instant::now();
        site.worker.say_goodbye();
        for client in &mut clients {
            client.end().await;
        }
        let taken = start.elapsed();
        // 5 ms each: neither all at once nor too late.
        assert!(taken > Duration::from_millis(350) && taken < Duration::from_millis(1000), "{taken:?}");
        drop(clients);
        site.is_left_alone().await;
        assert_eq!(site.stats().closed_clean, 100);
    });
}

#[test]
fn a_cut_ends_whatever_there_is() {
    let registry =
        || registry().at("/never", Custom::new("never").authorize(|_| Box::pin(std::future::pending())));
    everywhere(registry, async |site| {
        let mut undecided = site.connect();
        undecided.send(upgrade("/never", "never")).await;
        let mut clients = vec![site.connect(), undecided];
        for request in [handshake("/echo", ""), upgrade("/echo", "echo")] {
            clients.push(site.switched(request).await);
        }
        let mut half = site.connect();
        half.send("GET / HT").await;
        clients.push(half);
        let mut idle = site.connect();
        idle.send(GET).await;
        idle.answer().await;
        clients.push(idle);
        settle(site.transport).await;
        milliseconds(10).await;
        site.worker.cut_all();
        for mut client in clients {
            client.ends_somehow().await;
        }
        site.is_left_alone().await;
        assert_eq!(site.stats().cut, 2);
        assert_eq!(site.stats().ends.get("cut"), Some(&2));
    });
}

#[test]
fn a_panic_costs_its_own_connection_only() {
    let registry = || {
        Registry::new()
            .at("/negotiate", Custom::new("p").negotiate(|_| -> Decision<String> { panic!("negotiate") }))
            .at("/authorize", Custom::new("p").authorize(|_| panic!("authorize")))
            .at("/later", {
                Custom::new("p").authorize(|_| {
                    Box::pin(async {
                        milliseconds(5).await;
                        panic!("authorize, later")
                    })
                })
            })
            .get("/resource", |_| -> Response { panic!("a resource") })
            .on("run", async |mut connection: Upgraded| -> Result<(), Error> {
                connection.fill().await?;
                panic!("run")
            })
            .at("/echo", Echo)
    };
    everywhere(registry, async |site| {
        let mut other = site.switched(upgrade("/echo", "echo")).await;
        for path in ["/negotiate", "/authorize", "/later", "/resource"] {
            let mut client = site.connect();
            client.send(upgrade(path, "p")).await;
            client.answer().await.refuses(500, "internal");
            client.end().await;
        }
        assert_eq!(site.stats().panics, 4);
        let mut client = site.switched(upgrade("/run", "run")).await;
        client.send("go").await;
        client.ends_somehow().await;
        assert_eq!(site.stats().panics, 5);
        other.send("still here").await;
        other.expect("still here").await;
        site.until("only the other one is left", |stats| stats.connections == 1).await;
    });
}
