//! A proxy in front, which says who the client is (PROXY protocol).

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use switchpoint::{Config, Driver, Limits, Listener, Registry, Server, Upgraded};

use super::{Client, config, drivers, until};

/// Who the peer is, as the handler sees it: the first line of the session.
fn telling() -> Registry {
    Registry::new().on("who", async |mut connection: Upgraded| {
        let peer = connection.peer().map_or_else(|| "nobody".into(), |peer| peer.to_string());
        connection.write_all(format!("{peer}\n").as_bytes()).await?;
        while connection.fill().await? {
            connection.write_all(connection.unread()).await?;
            connection.consume(connection.unread().len());
        }
        Ok(())
    })
}

fn behind_proxies(driver: Driver, networks: &[&str], limits: Limits) -> (Server, SocketAddr) {
    let proxy_protocol = networks.iter().map(|network| network.parse().unwrap()).collect();
    let listener = Listener { proxy_protocol, .."127.0.0.1:0".parse().unwrap() };
    let head_time = Duration::from_millis(400);
    let config = Config { listen: vec![listener], head_time, limits, ..config(driver) };
    let server = Server::start(config, |_| telling()).unwrap();
    let address = server.addresses()[0];
    (server, address)
}

#[test]
fn a_trusted_proxy_says_who_the_client_is() {
    let version_2 = |command: u8, rest: &[u8]| {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, 0x11][..], &length, rest].concat()
    };
    let long = [&[203, 0, 113, 9, 192, 0, 2, 1, 0x30, 0x39, 1, 0xbb][..], &[0; 1000]].concat();
    for driver in drivers() {
        let (server, address) = behind_proxies(driver, &["10.0.0.0/8", "127.0.0.0/8"], Limits::default());
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: who\r\n\r\n";
        for (header, expected) in [
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 12345 443\r\n".to_vec(), Some("203.0.113.9:12345")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 443\r\n".to_vec(), Some("[2001:db8::7]:12345")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (version_2(0x21, &long), Some("203.0.113.9:12345")),
            (version_2(0x20, &[]), None),
        ] {
            // At once with the request, and byte by byte: what follows the header is not lost.
            for dribbles in [false, true] {
                let mut client = Client::connect(address);
                if dribbles && header.len() < 100 {
                    for byte in &header {
                        client.send([*byte]);
                        thread::sleep(Duration::from_millis(2));
                    }
                    client.send(request);
                } else {
                    client.send([&header[..], request].concat());
                }
                let own = client.0.local_addr().unwrap().to_string();
                assert!(client.head().starts_with("HTTP/1.1 101 "));
                client.expect(format!("{}\n", expected.unwrap_or(&own)));
                client.echoes("and on it goes");
            }
        }
        assert!(server.stats().rejections.is_empty(), "{:?}", server.stats());
    }
}

#[test]
fn without_a_proxys_header_nobody_is_served() {
    for driver in drivers() {
        let (server, address) = behind_proxies(driver, &["127.0.0.0/8"], Limits::default());
        let ends = |bytes: &[u8]| {
            let mut client = Client::connect(address);
            client.send(bytes);
            // Unread bytes make it a reset.
            let rest = client.rest().unwrap_or_default();
            assert!(rest.is_empty(), "{}", rest.escape_ascii());
        };
        ends(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: who\r\n\r\n");
        ends(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\nGET / HTTP/1.1\r\n");
        ends(&[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat());
        ends(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff");
        let start = Instant::now();
        ends(b"PROXY TCP4 1.2.3.4 ");
        assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
        until(&server, "each is counted", |stats| {
            let count = |code| stats.rejections.get(code).copied();
            count("proxy-header-missing") == Some(1)
                && count("proxy-header-malformed") == Some(1)
                && count("proxy-header-too-long") == Some(2)
                && count("proxy-header-timeout") == Some(1)
        });
        assert_eq!((server.stats().requests, server.stats().connections), (0, 0));

        let (server, address) = behind_proxies(driver, &["192.0.2.0/24", "::/0"], Limits::default());
        let mut client = Client::connect(address);
        assert!(client.rest().unwrap_or_default().is_empty());
        until(&server, "it is counted", |stats| stats.rejections.get("proxy-untrusted") == Some(&1));
    }
}

#[test]
fn behind_a_proxy_it_is_the_client_that_is_limited() {
    let limits = Limits { connections_address: 1, ..Limits::default() };
    let (server, address) = behind_proxies(Driver::Auto, &["127.0.0.1"], limits);
    let ask = |from: &str| {
        let mut client = Client::connect(address);
        client.send(format!(
            "PROXY TCP4 {from} 192.0.2.1 12345 443\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\
             Upgrade: who\r\n\r\n"
        ));
        let head = client.head();
        (head, client)
    };
    let (first, _stays) = ask("203.0.113.1");
    let (other, _stays_too) = ask("203.0.113.2");
    let (refused, _) = ask("203.0.113.1");
    assert!(first.starts_with("HTTP/1.1 101 ") && other.starts_with("HTTP/1.1 101 "), "{first} {other}");
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("\r\nRetry-After: "), "{refused}");
    until(&server, "it is counted", |stats| stats.rejections.get("too-many-from-address") == Some(&1));
}
