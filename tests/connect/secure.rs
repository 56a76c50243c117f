//! Over TLS.

use std::{fs, path::PathBuf};

use switchpoint::{
    Listener,
    tls::{Acceptor, Identity, Pem, Settings},
};

use crate::{
    connect,
    server::{Once, Ours},
};

/// A server for `localhost`, and a file with the authority that it is believed by.
struct Secure {
    server: Ours,
    ca: PathBuf,
}

impl Secure {
    fn start(name: &str) -> Self {
        let identity = Identity::self_signed(&["localhost".to_owned()]).unwrap();
        let Pem::Text(certificate) = &identity.chain else { panic!("{identity:?}") };
        let ca = std::env::temp_dir().join(format!("switchpoint-ca-{}-{name}", std::process::id()));
        fs::write(&ca, certificate).unwrap();
        let mut listener: Listener = "127.0.0.1:0".parse().unwrap();
        listener.tls =
            Some(Acceptor::new(Settings { identities: vec![identity], ..Settings::default() }).unwrap());
        Self { server: Ours::listen(listener), ca }
    }

    fn port(&self) -> &str {
        self.server.address().rsplit(':').next().unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("wss://localhost:{}{path}", self.port())
    }

    fn ca(&self) -> &str {
        self.ca.to_str().unwrap()
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.ca));
    }
}

#[test]
fn who_is_believed_is_talked_to() {
    let secure = Secure::start("believed");
    let run = connect(&[&secure.url("/echo"), "--ca", secure.ca(), "-v", "-1"], b"hi\n");
    assert_eq!(run.is_fine().out(), "hi\n");
    assert!(run.err.contains("; TLS 1.3 in "), "{}", run.err);
    assert_eq!(connect(&[&secure.url("/echo"), "-k", "-1"], b"hi\n").is_fine().out(), "hi\n");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|place| (place * 31 % 251) as u8).collect();
    let run = connect(&[&secure.url("/echo"), "-k", "--binary", "--wait", "3s"], &bytes);
    assert!(run.is_fine().out == bytes, "{} bytes", run.out.len());
    let url = secure.url("/echo").replace("wss", "https");
    let run = connect(&[&url, "-k", "--proto", "echo"], &bytes);
    assert!(run.is_fine().out == bytes, "{} bytes", run.out.len());
    connect(&[&secure.url("/policy"), "-k"], b"x\n").fails(4, &["1008"]);
    connect(&[&secure.url("/nowhere"), "-k"], b"").fails(1, &["no-such-path"]);
}

#[test]
fn who_is_not_believed_is_explained() {
    let secure = Secure::start("not");
    connect(&[&secure.url("/echo")], b"").fails(3, &["TLS handshake failed", "cure:", "--ca"]);
    let elsewhere = ["wss://example.org/echo", "--connect-to", secure.server.address(), "--ca", secure.ca()];
    connect(&elsewhere, b"").fails(3, &["TLS handshake failed", "for another name"]);
    connect(&[&secure.url("/echo"), "--ca", "/nonexistent"], b"").fails(2, &["/nonexistent"]);
    connect(&[&secure.url("/echo"), "--cert", "/nonexistent"], b"").fails(2, &["--key"]);
}

#[test]
fn the_wrong_scheme_is_explained() {
    let secure = Secure::start("scheme");
    let run = connect(&[&secure.url("/echo").replace("wss", "ws")], b"");
    assert!(run.code != Some(0) && run.err.contains("TLS"), "{run:?}");
    let plain = Ours::start();
    connect(&[&plain.url("/echo").replace("ws:", "wss:")], b"").fails(3, &["use ws:// instead of wss://"]);
    let silent = Once::start(|mut stream| {
        let _ = std::io::Read::read(&mut stream, &mut [0; 1]);
    });
    connect(&[&silent.url.replace("ws:", "wss:")], b"").fails(3, &["in the TLS handshake"]);
    silent.end();
    let slow = Once::start(|mut stream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    connect(&[&slow.url.replace("ws:", "wss:"), "--timeout", "200ms"], b"").fails(5, &["200ms"]);
    slow.end();
}
