//! What is sent: a full queue and its policies, messages for many, messages in pieces, and the end of their time.

use std::{cell::Cell, rc::Rc, time::Duration};

use switchpoint::{
    Error, Registry,
    protocols::{
        WebSocket,
        websocket::{Kind, Settings, Socket, WhenFull},
    },
    ws::{Opcode, Prepared},
};

use crate::harness::{Transport, close, config, everywhere, handshake, on, text};

fn with<H>(settings: Settings, handler: H) -> Registry
where
    H: AsyncFn(Socket) -> Result<(), Error> + 'static,
{
    let settings = Settings { close_time: Duration::from_millis(300), ..settings };
    Registry::new().at("/", WebSocket::new(handler).with(settings))
}

const MESSAGES: usize = 400;

/// Sends numbered messages to a client that does not read yet; which of them it then got, and how many were dropped.
fn numbers_that_arrive(when_full: WhenFull) -> (Vec<usize>, usize) {
    let dropped = Rc::new(Cell::new(0));
    let registry = {
        let dropped = Rc::clone(&dropped);
        let settings = Settings { when_full, queue_max: 10_000, ..Settings::default() };
        with(settings, async move |mut socket: Socket| {
            socket.recv().await?;
            let (_receiver, sender) = socket.split();
            for number in 0..MESSAGES {
                sender.send(&format!("{number:01000}")).await?;
            }
            dropped.set(sender.dropped() as usize);
            Ok(())
        })
    };
    let mut numbers = Vec::new();
    on(Transport::Memory, config(), registry, async |site| {
        let mut client = site.switched(handshake("/", "")).await;
        client.send(text("go")).await;
        loop {
            let frame = client.frame().await;
            if frame.opcode == 8 {
                frame.is_close(1000);
                break;
            }
            numbers.push(str::from_utf8(&frame.payload).unwrap().parse().unwrap());
        }
        client.send(close(1000)).await;
        client.end().await;
    });
    (numbers, dropped.get())
}

#[test]
fn with_drop_newest_a_slow_peer_gets_what_was_sent_first() {
    let (numbers, dropped) = numbers_that_arrive(WhenFull::DropNewest);
    assert!(dropped > 100, "{dropped}");
    assert_eq!(numbers, (0..MESSAGES - dropped).collect::<Vec<_>>());
}

#[test]
fn with_drop_oldest_a_slow_peer_gets_what_is_new() {
    let (numbers, dropped) = numbers_that_arrive(WhenFull::DropOldest);
    assert!(dropped > 100, "{dropped}");
    assert_eq!(numbers.len() + dropped, MESSAGES);
    assert_eq!(numbers.last(), Some(&(MESSAGES - 1)));
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

#[test]
fn with_wait_nothing_is_dropped() {
    assert_eq!(numbers_that_arrive(WhenFull::Wait), ((0..MESSAGES).collect(), 0));
}

#[test]
fn with_close_a_slow_peer_is_sent_away() {
    let registry = || {
        let settings = Settings { when_full: WhenFull::Close, queue_max: 10_000, ..Settings::default() };
        with(settings, async |mut socket: Socket| {
            socket.recv().await?;
            loop {
                socket.send(&"x".repeat(1000)).await?;
            }
        })
    };
    on(Transport::Memory, config(), registry(), async |site| {
        let mut client = site.switched(handshake("/", "")).await;
        client.send(text("go")).await;
        let mut frame = client.frame().await;
        while frame.opcode == 1 {
            frame = client.frame().await;
        }
        frame.is_close(1013);
        client.send(close(1013)).await;
        client.end().await;
    });
}

#[test]
fn a_prepared_message_arrives_as_any_other_among_others() {
    let registry = || {
        with(Settings::default(), async |mut socket: Socket| {
            let long = Prepared::new(Opcode::Text, "long ".repeat(2000).as_bytes());
            let short = Prepared::new(Opcode::Text, b"short");
            socket.recv().await?;
            let (_receiver, sender) = socket.split();
            for _ in 0..3 {
                sender.send("before").await?;
                sender.send_prepared(&long).await?;
                sender.send_prepared(&short).await?;
            }
            Ok(())
        })
    };
    everywhere(registry, async |site| {
        let mut client = site.switched(handshake("/", "")).await;
        client.send(text("go")).await;
        for _ in 0..3 {
            client.frame().await.is_text("before");
            client.frame().await.is_text(&"long ".repeat(2000));
            client.frame().await.is_text("short");
        }
        client.frame().await.is_close(1000);
    });
}

#[test]
fn a_message_in_pieces_keeps_others_from_coming_in_between() {
    let registry = || {
        with(Settings::default(), async |socket: Socket| {
            let (_receiver, sender) = socket.split();
            let mut message = sender.begin(Kind::Text).await?;
            message.part(b"Hel").await?;
            let other = sender.clone();
            switchpoint::spawn(async move { other.send("other").await.unwrap() });
            monoio::time::sleep(Duration::from_millis(20)).await;
            message.part(b"lo").await?;
            message.end().await?;
            monoio::time::sleep(Duration::from_millis(20)).await;
            // This one is forgotten, and cannot be made whole.
            sender.begin(Kind::Binary).await?.part(b"half").await?;
            Ok(())
        })
    };
    everywhere(registry, async |site| {
        let mut client = site.switched(handshake("/", "")).await;
        client.expect(b"\x01\x03Hel").await;
        client.expect(b"\x00\x02lo\x80\x00").await;
        client.frame().await.is_text("other");
        client.expect(b"\x02\x04half").await;
        client.frame().await.is_close(1011);
    });
}

#[test]
fn a_connection_that_has_served_its_time_is_asked_to_come_back() {
    let registry = || {
        let settings = Settings { lifetime: Duration::from_millis(80), ..Settings::default() };
        with(settings, async |mut socket: Socket| {
            while socket.recv().await?.is_some() {}
            Ok(())
        })
    };
    everywhere(registry, async |site| {
        let mut client = site.switched(handshake("/", "")).await;
        client.frame().await.is_close(1001);
        client.send(close(1001)).await;
        client.end().await;
        site.is_left_alone().await;
    });
}
