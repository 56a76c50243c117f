//! Messages that the handler takes in parts.

use std::time::Duration;

use monoio::time;
use switchpoint::{
    Error, Registry,
    protocols::{
        WebSocket,
        websocket::{Settings, Socket},
    },
    ws::Limits,
};

use crate::harness::{close, everywhere, fragment, handshake, masked, ping, text};

const LONG: usize = 5 << 20;

fn settings() -> Settings {
    let limits = Limits { message_max: 100_000, fragments_max: 8 };
    Settings { limits, close_time: Duration::from_millis(300), ..Settings::default() }
}

fn registry(handler: impl AsyncFn(Socket) -> Result<(), Error> + 'static) -> Registry {
    Registry::new().at("/parts", WebSocket::new(handler).with(settings()))
}

/// Tells of each message how long it is, and of what.
async fn measure(mut socket: Socket) -> Result<(), Error> {
    let (mut length, mut parts) = (0, 0);
    while let Some(part) = socket.recv_part().await? {
        assert_eq!(part.is_first, parts == 0);
        assert!(part.content.len() <= 64 << 10);
        length += part.content.len();
        parts += 1;
        if part.is_last {
            let answer =
                format!("{:?} {length} {}", part.content.kind(), if parts == 1 { "whole" } else { "cut" });
            socket.send(&answer).await?;
            (length, parts) = (0, 0);
        }
    }
    Ok(())
}

#[test]
fn a_message_in_parts_has_no_longest_length_and_pings_are_answered_within_it() {
    everywhere(
        || registry(measure),
        async |site| {
            let mut client = site.switched(handshake("/parts", "")).await;
            client.send(text("small")).await;
            client.frame().await.is_text("Text 5 whole");
            client.send(masked(0x82, vec![7; LONG])).await;
            client.frame().await.is_text(&format!("Binary {LONG} cut"));
            let crabs = "🦀".repeat(50_000);
            let (head, tail) = crabs.as_bytes().split_at(100_000);
            client.send(fragment(false, 1, head)).await;
            client.send(ping("there?")).await;
            client.frame().await.is(10, "there?");
            for _ in 0..20 {
                client.send(fragment(false, 0, "🦀")).await; // more than `fragments_max`
            }
            client.send(fragment(true, 0, tail)).await;
            client.frame().await.is_text("Text 200080 cut");
            client.send([text("a"), text(""), text("b")].concat()).await;
            for length in [1, 0, 1] {
                client.frame().await.is_text(&format!("Text {length} whole"));
            }
            client.send(fragment(false, 1, "\u{e9}")).await;
            client.send(masked(0x80, b"\xff")).await;
            client.frame().await.is_close(1007);
            client.ends_somehow().await;
        },
    );
}

#[test]
fn a_recv_returns_what_recv_part_has_left() {
    async fn head_and_body(mut socket: Socket) -> Result<(), Error> {
        loop {
            let Some(part) = socket.recv_part().await? else { return Ok(()) };
            let (head, is_last) = (part.content.len(), part.is_last);
            let rest = if is_last {
                None
            } else {
                // Dropped while it waits, it loses nothing.
                if let Ok(message) = time::timeout(Duration::from_millis(20), socket.recv()).await {
                    match message? {
                        Some(message) => {
                            let answer = format!("{head} and {}", message.len());
                            socket.send(&answer).await?;
                            return finish(socket).await;
                        }
                        None => return Ok(()),
                    }
                }
                let again = socket.recv_part().await?.expect("what was there");
                Some((again.is_first, again.content.len()))
            };
            socket.send(&format!("{head} then {rest:?}")).await?;
            if let Some(message) = socket.recv().await? {
                let answer = format!("and {}", message.len());
                socket.send(&answer).await?;
            }
        }
    }

    /// Whole messages, after the mode was set.
    async fn finish(mut socket: Socket) -> Result<(), Error> {
        while let Some(message) = socket.recv().await? {
            let answer = format!("whole {}", message.len());
            socket.send(&answer).await?;
        }
        Ok(())
    }

    everywhere(
        || registry(head_and_body),
        async |site| {
            let mut client = site.switched(handshake("/parts", "")).await;
            client.send([fragment(false, 1, "head"), fragment(false, 0, "bo")].concat()).await;
            client.frame().await.is_text("4 then Some((false, 2))");
            client.send(fragment(true, 0, "dy")).await;
            client.frame().await.is_text("and 2");
            client
                .send(
                    [fragment(false, 2, "head"), fragment(false, 0, [1; 40]), fragment(true, 0, "body")]
                        .concat(),
                )
                .await;
            client.frame().await.is_text("4 and 44");
            client.send(text("é".repeat(40_000))).await;
            client.frame().await.is_text("whole 80000");
            client.send([fragment(false, 1, "o"), fragment(true, 0, "ne"), text("two")].concat()).await;
            client.frame().await.is_text("whole 3");
            client.frame().await.is_text("whole 3");
            client.send(masked(0x82, vec![1; 100_000])).await;
            client.frame().await.is_text("whole 100000");
            // Put together it is limited again.
            client.send(masked(0x82, vec![1; 100_001])).await;
            client.frame().await.is_close(1009);
            client.ends_somehow().await;
        },
    );
}

#[test]
fn the_driver_may_look_before_the_first_call() {
    async fn late(mut socket: Socket) -> Result<(), Error> {
        time::sleep(Duration::from_millis(50)).await;
        assert_eq!(socket.recv().await?.map(|message| message.len()), Some(5));
        time::sleep(Duration::from_millis(50)).await;
        measure(socket).await
    }
    everywhere(
        || registry(late),
        async |site| {
            let mut client = site.switched(handshake("/parts", "")).await;
            client.send([text("first"), text("second"), fragment(false, 1, [b'x'; 50_000])].concat()).await;
            client.frame().await.is_text("Text 6 whole");
            client
                .send([fragment(false, 0, [b'y'; 90_000]), fragment(true, 0, "z"), close(1000)].concat())
                .await;
            client.frame().await.is_text("Text 140001 cut");
            client.frame().await.is_close(1000);
            client.end().await;
        },
    );
}

#[test]
fn a_close_in_the_middle_of_a_message_is_a_close() {
    async fn whole(mut socket: Socket) -> Result<(), Error> {
        let Some(part) = socket.recv_part().await? else { return Ok(()) };
        assert!(part.is_last);
        socket.send("now whole").await?;
        while let Some(message) = socket.recv().await? {
            let answer = format!("heard {}", message.len());
            socket.send(&answer).await?;
        }
        Ok(())
    }
    for opcode in [1, 2] {
        everywhere(
            || registry(whole),
            async |site| {
                let mut client = site.switched(handshake("/parts", "")).await;
                client.send(text("the mode is set")).await;
                client.frame().await.is_text("now whole");
                client.send([text("whole"), fragment(false, opcode, "trunc"), close(1000)].concat()).await;
                client.frame().await.is_text("heard 5");
                client.frame().await.is_close(1000);
                client.end().await;
            },
        );
    }
}

#[test]
fn who_leaves_in_the_middle_of_a_part_is_missed() {
    everywhere(
        || registry(measure),
        async |site| {
            let mut client = site.switched(handshake("/parts", "")).await;
            client.send(&masked(0x82, vec![7; LONG])[..LONG / 2]).await;
            client.finish();
            client.ends_somehow().await;
            site.is_left_alone().await;
            assert_eq!(site.stats().ends.get("io"), Some(&1));
        },
    );
}
