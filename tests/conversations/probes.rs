//! The opening handshakes that were sent to sixteen other servers, none of which passes all of them. Each as raw bytes,
//! with the answer that the RFCs demand; P for WebSocket, H for h2c, which is not spoken here.
//!
//! That every 426 lists its protocols under `Connection: upgrade`, and no 101 carries what a 1xx may not, is checked
//! for each answer that the harness reads.

use switchpoint::{
    Registry, Response,
    protocols::{Echo, WebSocket, websocket::Socket},
};

use crate::harness::{ACCEPT, Answer, Client, Site, everywhere, text};

/// Upgrade-only: there is no resource to fall back to.
fn registry() -> Registry {
    let echo = WebSocket::new(async |socket: Socket| {
        let (mut receiver, sender) = socket.split();
        while let Some(message) = receiver.recv().await? {
            sender.send(message).await?;
        }
        Ok(())
    });
    Registry::new().at("/echo", echo.subprotocols(&["chat"])).at("/echo", Echo)
}

/// What stands in the `Upgrade` of each 426.
const SPOKEN: &str = "websocket, echo";

fn probe(request: &str, check: impl AsyncFn(&Site, Client, Answer)) {
    everywhere(registry, async |site| {
        let mut client = site.connect();
        client.send(request).await;
        let answer = client.answer().await;
        check(site, client, answer).await;
    });
}

/// A WebSocket that works.
async fn switches(mut client: Client, answer: Answer) {
    assert_eq!((answer.status, answer.field("upgrade")), (101, Some("websocket")), "{answer:?}");
    assert_eq!(answer.field("sec-websocket-accept"), Some(ACCEPT));
    client.send(text("Hello")).await;
    client.expect(b"\x81\x05Hello").await;
}

fn accepted(request: &str) {
    probe(request, async |_, client, answer| {
        assert_eq!(answer.field("sec-websocket-protocol"), None);
        switches(client, answer).await;
    });
}

/// An answer that is no 101, and no session either.
fn refused(request: &str, status: u16, reason: &str) {
    probe(request, async |site, mut client, answer| {
        answer.refuses(status, reason);
        if status == 426 {
            assert_eq!(answer.field("upgrade"), Some(SPOKEN));
        }
        client.finish();
        client.end().await;
        let stats = site.stats();
        assert_eq!((stats.upgrades.len(), stats.rejections[reason]), (0, 1));
    });
}

#[test]
fn p01_a_good_handshake_is_switched() {
    accepted(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
}

#[test]
fn p02_a_list_of_offers_is_looked_through() {
    accepted(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: foo/1, websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
}

#[test]
fn p03_two_upgrade_lines_are_one_list() {
    accepted(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: foo/1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
}

#[test]
fn p04_connection_may_say_more_than_upgrade() {
    accepted(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
}

#[test]
fn p05_without_connection_upgrade_nothing_is_switched() {
    refused(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: keep-alive\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        426,
        "missing-connection-upgrade",
    );
}

#[test]
fn p06_another_version_is_told_which_one_is_spoken() {
    probe(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 12\r\n\r\n",
        async |_, _, answer| {
            answer.refuses(426, "unsupported-version");
            assert_eq!(answer.field("sec-websocket-version"), Some("13"));
            assert_eq!(answer.field("upgrade"), Some(SPOKEN));
        },
    );
}

#[test]
fn p07_a_version_has_to_be_there() {
    probe(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        async |_, _, answer| {
            answer.refuses(400, "missing-version");
            assert_eq!(answer.field("sec-websocket-version"), Some("13"));
        },
    );
}

#[test]
fn p08_http_1_0_is_never_switched() {
    refused(
        "GET /echo HTTP/1.0\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        426,
        "upgrade-in-http-1-0",
    );
}

#[test]
fn p09_a_post_is_told_to_be_a_get() {
    probe(
        "POST /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        async |_, _, answer| {
            answer.refuses(405, "method-not-allowed");
            assert_eq!(answer.field("allow"), Some("GET"));
        },
    );
}

#[test]
fn p10_a_key_has_sixteen_bytes() {
    refused(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: c2hvcnQ=\r\nSec-WebSocket-Version: 13\r\n\r\n",
        400,
        "invalid-key",
    );
}

#[test]
fn p11_a_key_has_to_be_there() {
    refused(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n",
        400,
        "missing-key",
    );
}

#[test]
fn p12_there_is_one_key() {
    refused(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n",
        400,
        "duplicate-key",
    );
}

#[test]
fn p13_a_host_has_to_be_there() {
    refused(
        "GET /echo HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        400,
        "missing-host",
    );
}

#[test]
fn p14_a_subprotocol_that_is_not_spoken_is_not_echoed() {
    accepted(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: foo, bar\r\n\r\n",
    );
}

#[test]
fn p15_the_subprotocol_that_is_spoken_is_chosen() {
    probe(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: foo, chat\r\n\r\n",
        async |_, client, answer| {
            let chosen: Vec<_> = answer.all("sec-websocket-protocol").collect();
            assert_eq!(chosen, ["chat"]);
            switches(client, answer.clone()).await;
        },
    );
}

#[test]
fn p16_a_plain_get_is_told_to_upgrade() {
    refused("GET /echo HTTP/1.1\r\nHost: a.example\r\n\r\n", 426, "upgrade-required");
}

#[test]
fn p17_a_protocols_name_matches_in_any_case() {
    accepted(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUPGRADE: WebSocket\r\nconnection: uPGRADE\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nSEC-WEBSOCKET-VERSION: 13\r\n\r\n",
    );
}

#[test]
fn p18_a_frame_in_the_same_packet_came_too_early() {
    // RFC 6455 4.1: the client waits. What it sends before may not be its own (RFC 9931).
    let head = b"GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    everywhere(registry, async |site| {
        let mut client = site.connect();
        client.send([head, &text("Hello")[..]].concat()).await;
        let answer = client.answer().await;
        answer.refuses(400, "early-bytes");
        assert!(answer.has_token("connection", "close"));
        client.end().await;
        assert_eq!(site.stats().refused_with_early_bytes, 1);
    });
}

#[test]
fn p19_a_page_from_elsewhere_is_refused() {
    refused(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Origin: http://evil.example\r\n\r\n",
        403,
        "origin-not-allowed",
    );
}

#[test]
fn p20_an_unknown_protocol_is_told_which_are_spoken() {
    refused(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: irc/2.0\r\nConnection: Upgrade\r\n\r\n",
        426,
        "no-common-protocol",
    );
}

#[test]
fn p21_what_follows_a_refused_upgrade_is_not_answered() {
    probe(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: irc/2.0\r\nConnection: Upgrade\r\n\r\n\
         GET /echo HTTP/1.1\r\nHost: a.example\r\n\r\n",
        async |site, mut client, answer| {
            answer.refuses(426, "no-common-protocol");
            assert_eq!(answer.field("connection"), Some("close, upgrade"));
            client.end().await;
            assert_eq!((site.stats().requests, site.stats().refused_with_early_bytes), (1, 1));
        },
    );
}

#[test]
fn p22_a_body_is_not_taken_for_frames() {
    let head = b"GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nContent-Length: 5\r\n\r\nhello";
    everywhere(registry, async |site| {
        let mut client = site.connect();
        client.send([head, &text("Hello")[..]].concat()).await;
        client.answer().await.refuses(400, "unexpected-body");
        client.end().await;
    });
}

#[test]
fn p23_two_ways_to_frame_a_body_are_one_too_many() {
    refused(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "conflicting-framing",
    );
}

#[test]
fn p24_websocket_13_is_another_protocol() {
    refused(
        "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket/13\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        426,
        "no-common-protocol",
    );
}

#[test]
fn the_same_path_speaks_echo_and_prefers_what_the_client_names_first() {
    everywhere(registry, async |site| {
        let request = "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: echo, websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        let mut client = site.connect();
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("upgrade")), (101, Some("echo")));
        assert_eq!(answer.field("sec-websocket-accept"), None);
        client.send("as it is").await;
        client.expect("as it is").await;
    });
}

// ---- h2c, which is not spoken here: RFC 9110 7.8 has it ignored, and RFC 9113 3.1 has forgotten it -------------------

/// Sent to a path with a resource and to one that is upgrade-only: never a 101, and no way to smuggle HTTP/2 past us.
fn is_ignored(request: &str) {
    let registry = || registry().get("/", |_| Response::text("hello"));
    everywhere(registry, async |site| {
        for (path, expected) in [("/", 200), ("/echo", 426)] {
            let mut client = site.connect();
            client.send(request.replace("PATH", path)).await;
            let mut answer = client.answer().await;
            if answer.status == 100 {
                client.send("hello").await;
                answer = client.answer().await;
            }
            // A body means a POST here, which neither path takes.
            let expected = if request.starts_with("POST") && path == "/" { 405 } else { expected };
            assert_eq!(answer.status, expected, "{answer:?}");
            if expected == 426 {
                assert_eq!(answer.field("upgrade"), Some(SPOKEN));
            }
        }
        assert_eq!(site.stats().upgrades.len(), 0);
    });
}

#[test]
fn h01_a_good_h2c_offer_is_ignored() {
    is_ignored(
        "GET PATH HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
}

#[test]
fn h02_without_its_settings_it_is_ignored() {
    is_ignored(
        "GET PATH HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
    );
}

#[test]
fn h03_with_two_settings_it_is_ignored() {
    is_ignored(
        "GET PATH HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
}

#[test]
fn h04_with_settings_that_connection_does_not_name_it_is_ignored() {
    is_ignored(
        "GET PATH HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
}

#[test]
fn h05_in_a_list_it_is_ignored() {
    is_ignored(
        "GET PATH HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: foo, h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
}

#[test]
fn h06_on_a_second_line_it_is_ignored() {
    is_ignored(
        "GET PATH HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: foo\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
}

#[test]
fn h07_in_http_1_0_it_is_ignored() {
    is_ignored(
        "GET PATH HTTP/1.0\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
}

#[test]
fn h08_with_settings_that_are_no_base64_it_is_ignored() {
    is_ignored(
        "GET PATH HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: !!!!\r\n\r\n",
    );
}

#[test]
fn h09_with_settings_of_a_wrong_length_it_is_ignored() {
    is_ignored(
        "GET PATH HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABk\r\n\r\n",
    );
}

#[test]
fn h10_with_a_body_it_is_ignored() {
    is_ignored(
        "POST PATH HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 5\r\n\r\nhello",
    );
}

#[test]
fn h11_with_an_expectation_it_is_ignored() {
    is_ignored(
        "POST PATH HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    );
}

#[test]
fn h12_another_unknown_protocol_is_ignored() {
    is_ignored("GET PATH HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: foo/1\r\n\r\n");
}
