//! What a message handler can rely on: dropped waits, clones elsewhere, backpressure, its own end.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use switchpoint::{
    Config, Error, Registry,
    protocols::{
        WebSocket,
        websocket::{Sender, Settings, Socket},
    },
    ws::Code,
};

use crate::harness::{
    Site, Transport, close, config, everywhere, everywhere_with, handshake, milliseconds, on, ping, text,
};

/// `handler` at `/`.
fn at_root<H>(handler: H) -> Registry
where
    H: AsyncFn(Socket) -> Result<(), Error> + 'static,
{
    with(Settings::default(), handler)
}

fn with<H>(settings: Settings, handler: H) -> Registry
where
    H: AsyncFn(Socket) -> Result<(), Error> + 'static,
{
    let settings = Settings { close_time: Duration::from_millis(300), ..settings };
    Registry::new().at("/", WebSocket::new(handler).with(settings))
}

#[test]
fn what_goes_back_keeps_its_place_among_what_else_is_sent() {
    async fn talkative(socket: Socket) -> Result<(), Error> {
        let (mut receiver, sender) = socket.split();
        while let Some(message) = receiver.recv().await? {
            sender.send(message).await?;
            match message.text() {
                Some("twice") => sender.send(message).await?,
                Some("part of it") => sender.send(&message.bytes()[5..]).await?,
                Some("as bytes") => sender.send(message.bytes()).await?,
                Some("more") => sender.send("and more").await?,
                Some("skip") => drop(receiver.recv().await?),
                _ => {}
            }
        }
        Ok(())
    }
    everywhere(
        || at_root(talkative),
        async |site| {
            let mut client = site.switched(handshake("/", "")).await;
            let said = [
                text("a"),
                text("twice"),
                text("b"),
                ping("there?"),
                text("part of it"),
                text("more"),
                text("skip"),
                text("skipped"),
                text("c"),
                text("as bytes"),
                text("d"),
            ];
            client.send(said.concat()).await;
            for due in ["a", "twice", "twice", "b"] {
                client.frame().await.is_text(due);
            }
            client.frame().await.is(10, "there?");
            client.frame().await.is_text("part of it");
            client.frame().await.is(2, "of it");
            for due in ["more", "and more", "skip", "c", "as bytes"] {
                client.frame().await.is_text(due);
            }
            client.frame().await.is(2, "as bytes");
            client.frame().await.is_text("d");
            client.send(close(1000)).await;
            client.frame().await.is_close(1000);
            client.end().await;
        },
    );
}

#[test]
fn a_recv_that_is_dropped_loses_nothing() {
    /// Polls `recv` once at a time, and drops it each time it has to wait.
    async fn impatient(socket: Socket) -> Result<(), Error> {
        let (mut receiver, sender) = socket.split();
        loop {
            let polled = {
                let mut receiving = pin!(receiver.recv());
                let echo = poll_fn(|cx| match receiving.as_mut().poll(cx) {
                    Poll::Ready(Ok(Some(message))) => {
                        Poll::Ready(Some(Ok(Some(message.text().unwrap().to_owned()))))
                    }
                    Poll::Ready(Ok(None)) => Poll::Ready(Some(Ok(None))),
                    Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
                    Poll::Pending => Poll::Ready(None),
                });
                echo.await.transpose()?
            };
            match polled {
                Some(Some(text)) => sender.send(&text).await?,
                Some(None) => return Ok(()),
                None => milliseconds(1).await,
            }
        }
    }
    everywhere(
        || at_root(impatient),
        async |site| {
            let mut client = site.switched(handshake("/", "")).await;
            let said: Vec<u8> = (0..200).flat_map(|i| text(format!("message {i}"))).collect();
            for part in said.chunks(77) {
                client.send(part).await;
                milliseconds(1).await;
            }
            for i in 0..200 {
                client.frame().await.is_text(&format!("message {i}"));
            }
            client.send(close(1000)).await;
            client.frame().await.is_close(1000);
            client.end().await;
        },
    );
}

#[test]
fn a_clone_of_the_sender_is_heard_at_once() {
    let registry = || {
        at_root(async |socket: Socket| {
            let (mut receiver, sender) = socket.split();
            monoio::spawn({
                let sender = sender.clone();
                async move {
                    milliseconds(20).await;
                    sender.send("from elsewhere").await.unwrap();
                    sender.ping(b"too").await.unwrap();
                }
            });
            while receiver.recv().await?.is_some() {}
            Ok(())
        })
    };
    everywhere(registry, async |site| {
        let mut client = site.switched(handshake("/", "")).await;
        let start = Instant::now();
        client.frame().await.is_text("from elsewhere");
        client.frame().await.is(9, "too");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        client.send(close(1000)).await;
        client.frame().await.is_close(1000);
        client.end().await;
    });
}

#[test]
fn a_sender_that_outlives_its_connection_is_told() {
    let kept: Rc<RefCell<Option<Sender>>> = Rc::default();
    let registry = at_root({
        let kept = Rc::clone(&kept);
        async move |socket: Socket| {
            let (mut receiver, sender) = socket.split();
            *kept.borrow_mut() = Some(sender);
            while receiver.recv().await?.is_some() {}
            Ok(())
        }
    });
    on(Transport::Tcp, config(), registry, async |site: &Site| {
        let client = site.switched(handshake("/", "")).await;
        site.until("the handler runs", |stats| stats.sessions == 1).await;
        milliseconds(5).await;
        let sender = kept.borrow().clone().unwrap();
        assert!(!sender.is_closed());
        client.reset();
        site.is_left_alone().await;
        assert!(sender.is_closed());
        assert!(matches!(sender.send("anybody?").await, Err(Error::Closed)));
    });
}

#[test]
fn without_a_receiver_messages_are_dropped_and_pings_and_the_close_answered() {
    let registry = || {
        at_root(async |socket: Socket| {
            let (receiver, sender) = socket.split();
            drop(receiver);
            while !sender.is_closed() {
                milliseconds(2).await;
            }
            Ok(())
        })
    };
    everywhere(registry, async |site| {
        let mut client = site.switched(handshake("/", "")).await;
        for i in 0..50 {
            client.send([text("x".repeat(3000)), ping(i.to_string())].concat()).await;
            client.frame().await.is(10, i.to_string());
        }
        client.send(close(1000)).await;
        client.frame().await.is_close(1000);
        client.end().await;
        site.is_left_alone().await;
        assert_eq!(site.stats().closed_clean, 1);
    });
}

#[test]
fn without_a_receiver_a_broken_rule_is_still_one() {
    let registry = || {
        at_root(async |socket: Socket| {
            let (_, sender) = socket.split();
            while !sender.is_closed() {
                milliseconds(2).await;
            }
            Ok(())
        })
    };
    everywhere(registry, async |site| {
        let mut client = site.switched(handshake("/", "")).await;
        client.send(b"\x81\x05Hello").await;
        client.frame().await.is_close(1002);
        client.end().await;
    });
}

#[test]
fn behind_a_fault_nothing_is_heard_whoever_asks() {
    let heard = Rc::new(RefCell::new(Vec::new()));
    let listening = || {
        let heard = Rc::clone(&heard);
        at_root(async move |mut socket: Socket| {
            for _ in 0..3 {
                let outcome = match socket.recv().await {
                    Ok(message) => format!("{message:?}"),
                    Err(error) => error.to_string(),
                };
                heard.borrow_mut().push(outcome);
            }
            Ok(())
        })
    };
    everywhere(listening, async |site| {
        heard.borrow_mut().clear();
        let mut client = site.switched(handshake("/", "")).await;
        // All three have arrived together; the second is no UTF-8.
        client.send([text("before"), text(b"\xff"), text("behind")].concat()).await;
        client.frame().await.is_close(1007);
        client.send(close(1007)).await;
        client.end().await;
        let heard = heard.borrow();
        assert!(heard[0].contains("before") && heard[1].contains("UTF-8"), "{heard:?}");
        assert_eq!(heard[2], heard[1]);
    });
}

/// Sends without an end, and notes the longest queue.
fn flooding(queued_max: &Rc<Cell<usize>>) -> Registry {
    let queued_max = Rc::clone(queued_max);
    with(Settings { queue_max: 10_000, ..Settings::default() }, async move |socket: Socket| {
        let (_receiver, sender) = socket.split();
        loop {
            sender.send(&"x".repeat(1000)).await?;
            queued_max.set(queued_max.get().max(sender.queued()));
        }
    })
}

#[test]
fn a_peer_that_never_reads_is_cut_and_holds_no_more_than_the_queue() {
    for transport in [Transport::Memory, Transport::Tcp] {
        let queued_max = Rc::new(Cell::new(0));
        let config = Config { write_time: Duration::from_millis(200), ..config() };
        on(transport, config, flooding(&queued_max), async |site: &Site| {
            let start = Instant::now();
            let mut client = site.connect();
            client.send(handshake("/", "")).await;
            site.until("it was cut", |stats| stats.ends.contains_key("timed-out")).await;
            assert!(start.elapsed() >= Duration::from_millis(190), "{:?}", start.elapsed());
            site.is_left_alone().await;
            client.ends_somehow().await;
        });
        let queued_max = queued_max.get();
        assert!((10_000..=11_100).contains(&queued_max), "{transport:?}: {queued_max} bytes were queued");
    }
}

#[test]
fn a_peer_that_reads_slowly_is_not_cut_and_gets_everything() {
    const COUNT: usize = 400;
    let registry = || {
        with(Settings { queue_max: 10_000, ..Settings::default() }, async |socket: Socket| {
            for i in 0..COUNT {
                socket.send(&format!("{i:01000}")).await?;
            }
            Ok(())
        })
    };
    let config = Config { write_time: Duration::from_millis(500), ..config() };
    on(Transport::Memory, config, registry(), async |site: &Site| {
        let mut client = site.switched(handshake("/", "")).await;
        for i in 0..COUNT {
            if i % 10 == 0 {
                milliseconds(15).await;
            }
            client.frame().await.is_text(&format!("{i:01000}"));
        }
        client.frame().await.is_close(1000);
    });
}

#[test]
fn pings_are_answered_while_the_handler_is_busy_elsewhere() {
    let registry = || {
        at_root(async |mut socket: Socket| {
            socket.recv().await?;
            std::future::pending().await
        })
    };
    everywhere(registry, async |site| {
        let mut client = site.switched(handshake("/", "")).await;
        client.send([text("go"), ping("there?")].concat()).await;
        // The handler holds what has arrived, so nobody can read on. The drain reaches it all the same.
        milliseconds(20).await;
        site.worker.say_goodbye();
        let mut frame = client.frame().await;
        while frame.opcode == 10 {
            frame = client.frame().await;
        }
        frame.is_close(1001);
        client.end().await;
        site.is_left_alone().await;
    });
}

#[test]
fn what_the_handler_returns_is_what_the_client_is_told() {
    let registry = || {
        Registry::new()
            .at("/ok", WebSocket::new(async |socket: Socket| socket.send("bye").await))
            .at(
                "/code",
                WebSocket::new(async |socket: Socket| {
                    socket.close(Code::new(4000).unwrap(), "because");
                    assert!(matches!(socket.send("too late").await, Err(Error::Closed)));
                    Ok(())
                }),
            )
            .at(
                "/error",
                WebSocket::new(async |socket: Socket| {
                    socket.send("before").await?;
                    Err(std::io::Error::other("the database is gone").into())
                }),
            )
            .at(
                "/panic",
                WebSocket::new(async |mut socket: Socket| {
                    socket.recv().await?;
                    panic!("the handler's own")
                }),
            )
    };
    everywhere(registry, async |site| {
        let mut client = site.switched(handshake("/ok", "")).await;
        client.frame().await.is_text("bye");
        client.frame().await.is_close(1000);
        client.send(close(1000)).await;
        client.end().await;

        let mut client = site.switched(handshake("/code", "")).await;
        assert_eq!(client.frame().await.is_close(4000), "because");
        client.send(close(4000)).await;
        client.end().await;

        let mut client = site.switched(handshake("/error", "")).await;
        client.frame().await.is_text("before");
        assert_eq!(client.frame().await.is_close(1011), "", "the client is told nothing about our insides");
        client.send(close(1011)).await;
        client.end().await;

        let mut client = site.switched(handshake("/panic", "")).await;
        client.send(text("go")).await;
        client.frame().await.is_close(1011);
        client.send(close(1011)).await;
        client.end().await;
        site.is_left_alone().await;
        let stats = site.stats();
        assert_eq!((stats.panics, stats.ends.get("panic"), stats.ends.get("io")), (1, Some(&1), Some(&1)));
        // And the worker lives on.
        site.switched(handshake("/ok", "")).await.frame().await.is_text("bye");
    });
}

#[test]
fn messages_that_are_on_their_way_arrive_after_our_close() {
    let heard: Rc<RefCell<Vec<String>>> = Rc::default();
    let registry = at_root({
        let heard = Rc::clone(&heard);
        async move |mut socket: Socket| {
            socket.close(Code::NORMAL, "");
            while let Some(message) = socket.recv().await? {
                heard.borrow_mut().push(message.text().unwrap().to_owned());
            }
            Ok(())
        }
    });
    on(Transport::Tcp, config(), registry, async |site: &Site| {
        let mut client = site.switched(handshake("/", "")).await;
        client.frame().await.is_close(1000);
        client.send([text("one"), ping("no pong after a close"), text("two"), close(1000)].concat()).await;
        client.end().await;
        assert_eq!(*heard.borrow(), ["one", "two"]);
    });
}

#[test]
fn a_close_time_that_passes_ends_a_handler_that_waits_for_the_peer() {
    let registry = || {
        at_root(async |mut socket: Socket| {
            socket.close(Code::NORMAL, "");
            while socket.recv().await?.is_some() {}
            Ok(())
        })
    };
    everywhere_with(config(), registry, async |site| {
        let mut client = site.switched(handshake("/", "")).await;
        client.frame().await.is_close(1000);
        // It never closes.
        client.ends_somehow().await;
        site.is_left_alone().await;
    });
}
