//! The doctor's own examination: every probe has to find fault with a server that was broken for it, and none with ours.

use std::{
    collections::HashSet,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use clap::Parser;
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use switchpoint::{
    Config, Server,
    protocols::{self, H2c, websocket},
};

use crate::cli::debug_head;

use super::{
    Arguments, HEALTHY, NO_CONNECTION, NO_ROUTE, USAGE, examine,
    frame::{FIN, Frame, PING, PONG, unmasked},
    probe::{Known, Need, Probe, Setting, accept_of},
    probes,
    run::{Verdict, one},
    target::Target,
};

// ---- scripted servers ---------------------------------------------------------------------------------------------

/// How a scripted server behaves.
#[derive(Clone, Copy)]
enum Script {
    /// Answers each head with what this makes of it; nothing is a close. Behind a 101 it goes on as `After` says.
    Answers(fn(&str) -> String, After),
    /// Answers the first head, and nothing else.
    Once(fn(&str) -> String),
    /// Answers what comes with the first read, whole or not.
    AtOnce(fn(&str) -> String),
    /// Reads, and says nothing.
    Silent,
}

#[derive(Clone, Copy)]
enum After {
    /// Every frame comes back as it is, and nothing is checked.
    Echo,
    /// The same, but what came with the head is lost.
    Lost,
    /// These bytes, then nothing; the connection stays open.
    Bytes(&'static [u8]),
}

use After::{Bytes, Echo, Lost};
use Script::{Answers, AtOnce, Once, Silent};

/// Switches whatever comes.
const LENIENT: Script = Answers(switch, Echo);
/// Switches, and says nothing more.
const MUTE: Script = Answers(switch, Bytes(b""));
/// Refuses whatever comes.
const STRICT: Script = Answers(|_| said("400 Bad Request", ""), Echo);

fn switch(head: &str) -> String {
    switch_with(head, "")
}

/// A 101 to what `head` asks for, with more fields.
fn switch_with(head: &str, more: &str) -> String {
    let token = field(head, "upgrade").unwrap_or("websocket");
    let token = if token.contains("h2") { "h2c" } else { token.split(',').next().unwrap_or_default().trim() };
    let accept = accept_of(field(head, "sec-websocket-key").unwrap_or_default());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: {token}\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
}

fn said(status: &str, fields: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n{fields}\r\n")
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(found, _)| found.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// What is longer than any of a probe's waits here.
const LONG: Duration = Duration::from_secs(3);

fn play(script: Script, mut stream: impl Read + Write) {
    let mut bytes = Vec::new();
    let (mut answers, mut looked_at) = (0, 0);
    loop {
        let mut buffer = [0; 16 << 10];
        let end =
            bytes[looked_at..].windows(4).position(|end| end == b"\r\n\r\n").map(|at| looked_at + at + 4);
        looked_at = if end.is_some() { 0 } else { bytes.len().saturating_sub(3) };
        let end = match (script, end) {
            (AtOnce(_), _) if !bytes.is_empty() => bytes.len(),
            (Answers(..), Some(end)) => end,
            (Once(_), Some(end)) if answers == 0 => end,
            _ => match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return thread::sleep(if answers > 0 { LONG } else { Duration::ZERO }),
                Ok(length) => {
                    bytes.extend_from_slice(&buffer[..length]);
                    continue;
                }
            },
        };
        let head = String::from_utf8_lossy(&bytes.drain(..end).collect::<Vec<_>>()).into_owned();
        let answer = match script {
            Answers(answer, _) | Once(answer) | AtOnce(answer) => answer(&head),
            Silent => return,
        };
        answers += 1;
        if answer.is_empty() || stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
        if let Answers(_, after) = script
            && answer.contains(" 101 ")
        {
            return behind(after, stream, bytes);
        }
    }
}

fn behind(after: After, mut stream: impl Read + Write, mut bytes: Vec<u8>) {
    match after {
        Lost => bytes.clear(),
        Bytes(said) => {
            drop(stream.write_all(said).and_then(|()| stream.flush()));
            // The end of the other side is nothing to it.
            return thread::sleep(LONG);
        }
        Echo => {}
    }
    let mut buffer = [0; 64 << 10];
    loop {
        let mut echo = Vec::new();
        while let Some((frame, end)) = Frame::take(&bytes) {
            bytes.drain(..end);
            let first = if frame.opcode() == PING { FIN | PONG } else { frame.first };
            echo.extend(unmasked(first, &frame.payload));
        }
        if stream.write_all(&echo).and_then(|()| stream.flush()).is_err() {
            return;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Answers one head with `answer`, whatever it asks for.
pub(super) fn said_to(mut stream: impl Read + Write, answer: &str) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length > 0) {
        head.push(byte[0]);
    }
    drop(stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()));
    // Until the other side has had enough.
    drop(stream.read(&mut byte));
}

/// Listens, and plays for each connection on a thread of its own.
pub(super) fn listen(play: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let play = Arc::new(play);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let play = Arc::clone(&play);
            thread::spawn(move || play(stream));
        }
    });
    address
}

// ---- a broken server for each probe -------------------------------------------------------------------------------

/// For each probe a server that is wrong in just its way.
#[rustfmt::skip]
fn broken(id: &str) -> Option<Script> {
    const H2_PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0doctor00";
    const H2_TWO_ACKS: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0\0\0\0\x04\x01\0\0\0\0\0\0\x08\x06\x01\0\0\0\0doctor00";
    Some(match id {
        "opening/switches" => Answers(|_| said("404 Not Found", ""), Echo),
        "opening/again" => Answers(|_| said("503 Service Unavailable", ""), Echo),
        "opening/version-of-http" => Answers(|head| switch(head).replace("HTTP/1.1", "HTTP/1.0"), Echo),
        "opening/upgrade" => Answers(|head| switch(head).replace("Upgrade: websocket", "Upgrade: echo"), Echo),
        "opening/connection" => Answers(|head| switch(head).replace("Connection: upgrade\r\n", ""), Echo),
        "opening/accept" | "opening/accept-of-another-key" | "opening/white-space" => Answers(|head| switch(&head.replace("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: x")), Echo),
        "opening/no-length" => Answers(|head| switch_with(head, "Content-Length: 0\r\n"), Echo),
        "opening/frames-follow" => Answers(switch, Bytes(b"0\r\n\r\n")),
        "opening/in-pieces" => AtOnce(|head| if head.ends_with("\r\n\r\n") { switch(head) } else { said("400 Bad Request", "") }),
        "opening/errors-are-http" | "limits/long-target" | "limits/many-offers" => Answers(|_| String::new(), Echo),
        "opening/token-in-capitals" | "opening/connection-in-capitals" | "opening/small-names" | "opening/cookies" | "opening/own-origin" => STRICT,

        "upgrade/list" | "upgrade/list-with-version" => Answers(|head| switch(head).replace("x-doctor", "websocket").replace("foo/1", "websocket"), Bytes(b"0\r\n\r\n")),
        "upgrade/two-lines" | "upgrade/connection-list" | "upgrade/connection-two-lines" => STRICT,
        "upgrade/no-connection" | "upgrade/connection-part" | "upgrade/token-part" | "upgrade/unknown" | "upgrade/version" | "upgrade/http-1-0"
        | "upgrade/plain-get" | "upgrade/post" | "upgrade/head" | "upgrade/small-get" | "upgrade/continue-first" => LENIENT,
        "upgrade/405-allow" => Answers(|_| said("405 Method Not Allowed", ""), Echo),
        "upgrade/426-upgrade" => Answers(|_| said("426 Upgrade Required", "Connection: upgrade\r\n"), Echo),
        "upgrade/426-connection" => Answers(|_| said("426 Upgrade Required", "Upgrade: websocket\r\n"), Echo),
        "upgrade/unknown-as-plain" => Answers(|head| said(if field(head, "upgrade").is_some() { "400 Bad Request" } else { "200 OK" }, ""), Echo),
        "upgrade/http-goes-on" => Once(|_| said("404 Not Found", "")),
        "upgrade/not-forever" => Answers(|head| said(if field(head, "upgrade").is_some() { "400 Bad Request" } else { "200 OK" }, ""), Echo),

        "fields/other-version" => STRICT,
        "fields/subprotocol-of-nobody" | "fields/unknown-subprotocols" | "fields/bad-subprotocol" => Answers(|head| switch_with(head, "Sec-WebSocket-Protocol: x\r\n"), Echo),
        "fields/extension-of-nobody" | "fields/unknown-extension" => Answers(|head| switch_with(head, "Sec-WebSocket-Extensions: x-doctor\r\n"), Echo),
        "fields/no-accept-without-switch" => Answers(|_| said("400 Bad Request", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), Echo),
        id if id.starts_with("fields/") => LENIENT,

        "early/frame" => Answers(switch, Lost),
        "early/refused" | "early/get-body-ignored" => Answers(|_| said("404 Not Found", ""), Echo),
        id if id.starts_with("early/") => LENIENT,

        "smuggling/huge-chunk" => Answers(switch, Lost),
        "smuggling/absolute-form" | "smuggling/empty-line-first" => STRICT,
        id if id.starts_with("smuggling/") => LENIENT,

        "framing/unasked-pong" => Answers(switch, Bytes(b"\x88\x02\x03\xea")),
        "framing/servers-frames" => Answers(switch, Bytes(b"\x8a\x85\0\0\0\0hello")),
        "framing/lengths" => Answers(switch, Bytes(b"\x82\x00\x82\x00")),
        "framing/kind" => Answers(switch, Bytes(b"\x81\x04text\x81\x02\0\xff")),
        "framing/fragments" => Answers(switch, Bytes(b"\x81\x05one, ")),
        "framing/utf-8-across-fragments" => Answers(switch, Bytes(b"\x88\x02\x03\xef")),
        "framing/empty-message" => Answers(switch, Bytes(b"\x81\x04next")),
        "framing/in-order" => Answers(switch, Bytes(b"\x81\x09message 1\x81\x09message 0")),
        "framing/ping" | "framing/empty-ping" | "framing/full-ping" | "framing/last-ping" | "framing/ping-in-a-message" | "framing/in-pieces" => MUTE,
        id if id.starts_with("framing/") => LENIENT,

        "closing/answered" | "closing/half-close" => MUTE,
        "closing/same-code" => Answers(switch, Bytes(b"\x88\x02\x03\xe9")),
        "closing/own-code" => Answers(switch, Bytes(b"\x88\x02\x03\xea")),
        "closing/without-code" => Answers(switch, Bytes(b"\x88\x02\x03\xed")),
        id if id.starts_with("closing/") => LENIENT,

        "deflate/agreed" => Answers(|head| switch_with(head, "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=16\r\n"), Echo),
        "deflate/unasked-window" => Answers(|head| switch_with(head, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=15\r\n"), Echo),
        "deflate/second-offer" => LENIENT,
        "deflate/message" | "deflate/fragments" | "deflate/plain-message" => Answers(deflating, Bytes(b"\xc1\x02\xff\xff")),
        id if id.starts_with("deflate/") => Answers(deflating, Echo),

        "limits/target" => Answers(|_| said("414 URI Too Long", ""), Echo),
        "limits/length-with-the-highest-bit" | "limits/announced-length" => MUTE,
        "limits/slow-head" => Silent,
        "limits/bomb" => Answers(deflating, Echo),
        id if id.starts_with("limits/") => LENIENT,

        "h2c/switches" => Answers(switch, Bytes(H2_PING)),
        "h2c/connection-in-small" => Answers(|head| switch(head).replace("Connection: upgrade", "Connection: Upgrade"), Echo),
        "h2c/one-acknowledgement" => Answers(switch, Bytes(H2_TWO_ACKS)),
        "h2c/errors-are-plain" => Answers(|_| said("500 Internal Server Error", ""), Echo),
        "h2c/list" | "h2c/two-lines" => STRICT,
        "h2c/prior-knowledge" => Answers(|_| said("200 OK", ""), Echo),
        id if id.starts_with("h2c/") => MUTE,

        "echo/bytes" => Answers(switch, Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        "echo/looks-like-http" => Answers(switch, Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n------------------------------------------------------------")),
        "echo/early" => Answers(switch, Lost),
        "echo/much" => MUTE,
        "echo/half-close" => Answers(switch, Bytes(b"last")),
        _ => return None,
    })
}

fn deflating(head: &str) -> String {
    switch_with(head, "Sec-WebSocket-Extensions: permessage-deflate\r\n")
}

fn setting_for(probe: &Probe, address: SocketAddr) -> Setting {
    Setting {
        target: Target {
            is_tls: probe.needs.contains(&Need::Tls),
            host: "127.0.0.1".into(),
            port: address.port(),
            path: "/".into(),
        },
        address,
        token: if probe.needs.contains(&Need::RawEcho) { "echo" } else { "websocket" }.into(),
        fields: Vec::new(),
        subprotocol: Some("chat".into()),
        time: Duration::from_millis(800),
        head_time_max: Duration::from_millis(800),
        slow: true,
        tls: None,
    }
}

/// What a probe says that finds no fault with the server that is broken for it.
fn overlooked(probe: &'static Probe) -> Option<String> {
    let Some(script) = broken(probe.id) else {
        return Some(format!("{}: no server is broken for it", probe.id));
    };
    let address = listen(move |stream| play(script, stream));
    let known = Known {
        echoes: true,
        pongs: true,
        deflate: Some("permessage-deflate".into()),
        h2c: probe.needs.contains(&Need::H2c),
        greets: false,
    };
    let outcome = one(&setting_for(probe, address), &known, probe);
    (!matches!(outcome.verdict, Verdict::Failed(_))).then(|| format!("{}: {:?}", probe.id, outcome.verdict))
}

#[test]
fn every_probe_finds_fault_with_a_server_that_is_broken_for_it() {
    // Most of them wait for what does not come.
    let probes: Vec<_> = probes::all().collect();
    let wrong: Vec<_> = thread::scope(|scope| {
        let look = |probes: &[&'static Probe]| {
            probes.iter().filter_map(|probe| overlooked(probe)).collect::<Vec<_>>()
        };
        let parts: Vec<_> =
            probes.chunks(probes.len() / 16).map(|part| scope.spawn(move || look(part))).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_probe_says_what_a_user_needs() {
    let mut ids = HashSet::new();
    for (_, section) in probes::SECTIONS {
        let name = section[0].section();
        for probe in *section {
            assert!(ids.insert(probe.id), "{} stands twice", probe.id);
            assert_eq!(probe.section(), name, "{}", probe.id);
            assert!(probe.rule.starts_with("RFC "), "{}", probe.id);
            assert!(probe.means.ends_with('.'), "{}", probe.id);
            assert!(probe.cure.ends_with(['.', ')']), "{}", probe.id);
            assert!(!probe.what.ends_with('.') && probe.what.contains([':', ',']), "{}", probe.id);
        }
    }
    assert!(ids.len() >= 60, "{}", ids.len());
}

#[test]
fn the_documentation_counts_the_probes() {
    let page = include_str!("../../../docs/doctor.md");
    for (_, section) in probes::SECTIONS {
        let row = format!("| `{}` | {} |", section[0].section(), section.len());
        assert!(page.contains(&row), "docs/doctor.md lacks: {row}");
    }
    let count = format!("{} probes", probes::all().count());
    assert!(page.contains(&count) && include_str!("../../../README.md").contains(&count), "{count}");
}

// ---- ours -----------------------------------------------------------------------------------------------------------

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    arguments: Arguments,
}

/// Runs the doctor: its exit code, what it wrote, and what it complained about.
fn doctor(arguments: &[&str]) -> (u8, String) {
    let arguments = Program::try_parse_from(["doctor"].iter().chain(arguments)).unwrap().arguments;
    let mut out = Vec::new();
    match examine(&arguments, &mut out) {
        Ok(code) => (code, String::from_utf8(out).unwrap()),
        Err((code, message)) => (code, message),
    }
}

/// The program's server, with what its flags would turn on.
pub(super) fn ours(has_deflate: bool, has_h2c: bool) -> Server {
    let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], threads: 1, ..Config::default() };
    let deflate = has_deflate.then(switchpoint::ws::Deflate::default);
    let settings = websocket::Settings { deflate, ..websocket::Settings::default() };
    Server::start(config, move |_| {
        let registry = protocols::demonstration(settings.clone()).get("/debug/head", debug_head::answer);
        if has_h2c { registry.with(H2c::new()) } else { registry }
    })
    .unwrap()
}

fn is_healthy(server: Server, arguments: &[&str], path: &str) -> serde_json::Value {
    let url = format!("ws://{}{path}", server.addresses()[0]);
    let (code, out) = doctor(&[arguments, &["--json", "--timeout", "4s", &url]].concat());
    server.stop();
    server.join();
    let found: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{code}: {out}"));
    let bad: Vec<_> = found["probes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|probe| probe["verdict"] == "failed" || probe["verdict"] == "unclear")
        .map(|probe| format!("{}: {}", probe["id"], probe["came"]))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(code, HEALTHY);
    assert_eq!(found["score"], 100);
    found
}

fn passed(found: &serde_json::Value, section: &str) -> usize {
    let probes = found["probes"].as_array().unwrap();
    probes.iter().filter(|probe| probe["section"] == section && probe["verdict"] == "passed").count()
}

#[test]
fn ours_passes_all_of_it() {
    let found = is_healthy(ours(false, false), &["--subprotocol", "switchpoint.handshake"], "/echo");
    assert_eq!((found["known"]["echoes"].as_bool(), found["known"]["deflate"].is_null()), (Some(true), true));
    assert_eq!((passed(&found, "framing"), passed(&found, "deflate")), (29, 0));
}

#[test]
#[cfg(feature = "deflate")]
fn ours_passes_all_of_it_with_compression_and_h2c() {
    let found = is_healthy(ours(true, true), &[], "/echo");
    assert_eq!((passed(&found, "deflate"), passed(&found, "h2c")), (17, 23));
}

#[test]
fn ours_passes_all_of_it_as_an_h2c_server() {
    let found = is_healthy(ours(false, true), &["--proto", "h2c"], "/healthz");
    assert_eq!((passed(&found, "framing"), passed(&found, "h2c")), (0, 23));
}

#[test]
fn ours_passes_all_of_it_as_an_echo() {
    let found = is_healthy(ours(false, false), &["--proto", "echo"], "/echo");
    assert_eq!((passed(&found, "framing"), passed(&found, "echo")), (0, 5));
}

#[test]
fn a_server_that_never_stops_talking_is_examined_all_the_same() {
    let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], threads: 1, ..Config::default() };
    let server = Server::start(config, |_| {
        let feed = async |socket: websocket::Socket| {
            let (mut receiver, sender) = socket.split();
            switchpoint::spawn(async move {
                while sender.send("tick").await.is_ok() {
                    monoio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            while receiver.recv().await?.is_some() {}
            Ok(())
        };
        switchpoint::Registry::new().at("/", protocols::WebSocket::new(feed))
    })
    .unwrap();
    let url = format!("ws://{}/", server.addresses()[0]);
    let (code, said) =
        doctor(&["--only", "framing", "--only", "closing", "--timeout", "1s", "--parallel", "8", &url]);
    server.stop();
    server.join();
    assert!(
        code == HEALTHY && said.contains("messages do not come back") && !said.contains('✗'),
        "{code}: {said}"
    );
}

// ---- what is no route, and the rest of the program ------------------------------------------------------------------

#[test]
fn what_does_not_switch_is_told_from_what_is_wrong() {
    let server = ours(false, false);
    let at = |path: &str| format!("ws://{}{path}", server.addresses()[0]);
    for (path, told) in
        [("/nothing", "404 Not Found"), ("/", "an ordinary resource is here"), ("/echo-body", "takes no GET")]
    {
        let (code, said) = doctor(&[&at(path)]);
        assert_eq!(code, NO_ROUTE, "{said}");
        assert!(said.contains("not a WebSocket route") && said.contains(told), "{said}");
    }
    let (code, said) = doctor(&["--proto", "chat/2", &at("/echo")]);
    assert_eq!((code, said.contains("this path speaks websocket, echo")), (NO_ROUTE, true), "{said}");
    assert!(said.contains("no-common-protocol"), "{said}");
    server.stop();
    server.join();

    let silent = listen(|mut stream| drop(stream.write_all(b"\x16\x03\x01 no HTTP")));
    assert_eq!(doctor(&[&format!("ws://{silent}/")]).0, super::FAILED);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(doctor(&[&format!("ws://{nobody}/")]).0, NO_CONNECTION);
    assert_eq!(doctor(&["--only", "opening/nothing", "ws://127.0.0.1:1/"]).0, USAGE);
    assert_eq!(doctor(&[]).0, USAGE);
}

#[test]
fn probes_are_chosen_by_id_section_and_pattern() {
    let count = |patterns: &[&str]| {
        let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
        super::chosen(&patterns).map(|probes| probes.len())
    };
    assert_eq!(count(&["closing"]).unwrap(), 13);
    assert_eq!(count(&["closing/1005", "closing/1006"]).unwrap(), 2);
    assert_eq!(count(&["closing/10*"]).unwrap(), 3);
    assert_eq!(count(&[]).unwrap(), probes::all().count());
    assert!(count(&["nonsense*"]).is_err());
    let (code, list) = doctor(&["--list", "--only", "upgrade/http-1-0"]);
    assert_eq!(code, HEALTHY);
    assert!(list.contains("RFC 9110 7.8") && list.ends_with("1 probes\n"), "{list}");
}

#[test]
fn a_failure_is_explained_and_reported() {
    let address = listen(|stream| play(LENIENT, stream));
    let junit = std::env::temp_dir().join(format!("doctor-{}.xml", std::process::id()));
    let arguments = [
        "--only",
        "upgrade/http-1-0",
        "--only",
        "upgrade/version",
        "--show-bytes",
        "-H",
        "Cookie: a=b",
        "--bearer",
        "abc",
        "--junit",
        junit.to_str().unwrap(),
        "--timeout",
        "400ms",
    ];
    let (code, said) = doctor(&[&arguments[..], &[&format!("ws://{address}/")]].concat());
    assert_eq!(code, super::FAILED);
    for part in [
        "✗ upgrade/http-1-0",
        "proxy_http_version 1.1",
        "101 Switching Protocols",
        "MUST 0/1",
        "score 0 of 100",
        "> GET / HTTP/1.0\\r\\n",
        "Authorization: Bearer abc",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    let xml = fs::read_to_string(&junit).unwrap();
    fs::remove_file(&junit).unwrap();
    assert!(
        xml.contains("tests=\"2\" failures=\"1\"") && xml.contains("<failure message=\"MUST RFC 9110 7.8"),
        "{xml}"
    );
}

/// A server's half of TLS for `localhost`, and its certificate in PEM.
pub(super) fn certified() -> (Arc<ServerConfig>, String) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), certified.cert.pem())
}

#[test]
fn over_tls_a_certificate_is_believed_by_its_authority_only() {
    let (config, certificate) = certified();
    let address = listen(move |stream| {
        let session = ServerConnection::new(Arc::clone(&config)).unwrap();
        play(LENIENT, StreamOwned::new(session, stream));
    });
    let pem = std::env::temp_dir().join(format!("doctor-{}.pem", std::process::id()));
    fs::write(&pem, certificate).unwrap();
    let url = format!("wss://localhost:{}/", address.port());
    let only = [
        "--only",
        "opening/accept",
        "--only",
        "framing/ping",
        "--only",
        "h2c/not-over-tls",
        "--timeout",
        "2s",
        "--json",
    ];
    for trust in [&["--ca", pem.to_str().unwrap()][..], &["--insecure"]] {
        let (code, said) = doctor(&[&only[..], trust, &[&url]].concat());
        let found: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
        let verdicts: Vec<_> = found["probes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|probe| probe["verdict"].as_str().unwrap())
            .collect();
        // A lenient server switches to h2c over TLS as well.
        assert_eq!((code, &verdicts[..]), (super::FAILED, &["passed", "passed", "failed"][..]), "{said}");
    }
    fs::remove_file(&pem).unwrap();
    let (code, said) = doctor(&[&only[..], &[&url]].concat());
    assert_eq!(code, NO_CONNECTION);
    assert!(said.contains("no TLS with localhost"), "{said}");
}
