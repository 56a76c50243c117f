//! The built program against servers that behave, and servers that do not.

use std::{
    net::{SocketAddr, TcpListener},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use switchpoint::{
    Config, Listener, Registry, Server, Upgraded, monoio, protocols,
    tls::{self, Acceptor, Identity},
};

fn serve(registry: impl Fn(usize) -> Registry + Send + Sync + 'static) -> (Server, SocketAddr) {
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { listen, threads: 1, ..Config::default() };
    let server = Server::start(config, registry).unwrap();
    let address = server.addresses()[0];
    (server, address)
}

fn demonstration() -> (Server, SocketAddr) {
    serve(|_| protocols::demonstration(Default::default()))
}

/// Sends back what comes, so many times at most, or until the peer ends.
async fn echo(connection: &mut Upgraded, times: usize) -> Result<(), switchpoint::Error> {
    for _ in 0..times {
        if !connection.fill().await? {
            break;
        }
        connection.write_all(connection.unread()).await?;
        connection.consume(connection.unread().len());
    }
    Ok(())
}

fn loadgen(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(line.split(' ')).output().unwrap()
}

/// Runs it with `--json`: the exit code, and what it says, which has to add up.
fn json(line: &str) -> (i32, Value) {
    let output = loadgen(&format!("{line} --json"));
    let text = String::from_utf8(output.stdout).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    for ledger in ["messages", "warmup"] {
        let number = |name: &str| value[ledger][name].as_u64().unwrap();
        assert_eq!(number("planned"), number("answered") + number("errors") + number("unanswered"), "{text}");
    }
    (output.status.code().unwrap(), value)
}

fn kinds(value: &Value) -> Vec<(&str, u64)> {
    let errors = value["errors"].as_array().unwrap();
    errors.iter().map(|error| (error["kind"].as_str().unwrap(), error["count"].as_u64().unwrap())).collect()
}

#[test]
fn every_reply_of_a_server_that_behaves_is_verified() {
    let (_server, address) = demonstration();
    for how in [
        "ws -c 8",
        "ws -c 8 --text --depth 16",
        "echo -c 8",
        "echo -c 3 --depth 7 -t 2 -s 1001",
        "ws -c 2 -s 0",
        "ws -c 2 -s 200KiB --depth 2",
        // Far more than the sockets hold: each side has to read while the other is full.
        "echo -c 2 -s 3MiB --depth 4",
        "ws -c 4 --driver epoll",
        "echo -c 4 --driver epoll -s 1MB --depth 4",
    ] {
        let (scenario, flags) = how.split_once(' ').unwrap();
        // On a busy machine a message of megabytes takes longer than the others' whole run.
        let time = if flags.contains("MiB") || flags.contains("MB") { "2s" } else { "300ms" };
        let (code, value) = json(&format!("{scenario} ws://{address}/echo {flags} -d {time} --warmup 50ms"));
        assert_eq!((code, &value["good"]), (0, &Value::Bool(true)), "{how}: {value:#}");
        assert!(value["messages"]["answered"].as_u64() > Some(0), "{how}");
        assert_eq!(value["messages"]["answered"], value["latency_ns"]["count"], "{how}");
        assert_eq!(value["connections"]["opened"], value["handshake_ns"]["count"], "{how}");
    }
}

fn demonstration_with_h2c() -> (Server, SocketAddr) {
    serve(|_| protocols::demonstration(Default::default()).with(protocols::H2c::new()))
}

#[test]
fn requests_over_http2_are_answered_and_verified() {
    let (_server, address) = demonstration_with_h2c();
    for how in [
        "/healthz -c 4",
        "/healthz -c 4 --prior-knowledge",
        "/healthz -c 2 --streams 50 -t 2",
        "/echo-body -c 2 --post -s 1KiB --streams 10",
        // More than a frame.
        "/echo-body -c 2 --post -s 60KiB --streams 4 --prior-knowledge",
        "/echo-body -c 2 --post -s uniform:1..2000 -r 500",
        "/healthz -c 3 -r 1000 --driver epoll",
    ] {
        let (code, value) = json(&format!("h2c http://{address}{how} -d 300ms --warmup 50ms"));
        assert!(code == 0 || code == 4, "{how}: {value:#}");
        assert_eq!(kinds(&value), [], "{how}");
        assert!(value["messages"]["answered"].as_u64() > Some(0), "{how}");
        // Where the machine is so busy that we were late, it is said.
        assert!(code == 4 || value["messages"]["answered"] == value["messages"]["planned"], "{how}");
        let opening = &value["opening_ns"];
        let upgrades =
            if how.contains("prior") { 0 } else { value["connections"]["opened"].as_u64().unwrap() };
        assert_eq!(opening["upgrade"]["count"], upgrades, "{how}: {opening:#}");
        assert_eq!(opening["settle"]["count"], value["connections"]["opened"], "{how}");
        // Each connection ends by GOAWAY, which the server answers with the end.
        assert_eq!(opening["close"]["count"], value["connections"]["opened"], "{how}");
    }
}

#[test]
fn websockets_over_http2_are_verified_stream_by_stream() {
    let (_server, address) = demonstration_with_h2c();
    for how in [
        "-c 2",
        "-c 2 --streams 10 -p 4 --prior-knowledge",
        "-c 1 --streams 5 --text -s 3000 -r 500",
        "-c 1 --streams 3 -s 100KiB -p 3 --ping 50ms",
    ] {
        let line = format!("h2c ws://{address}/echo --websocket {how} -d 300ms --warmup 50ms");
        let (code, value) = json(&line);
        assert!(code == 0 || code == 4, "{how}: {value:#}");
        assert_eq!(kinds(&value), [], "{how}");
        assert!(value["messages"]["answered"].as_u64() > Some(10), "{how}: {value:#}");
        // Where the machine is so busy that we were late, it is said.
        assert!(code == 4 || value["messages"]["answered"] == value["messages"]["planned"], "{how}");
    }
}

#[test]
fn what_http2_refuses_is_said() {
    let (_server, address) = demonstration();
    for (line, kind, hint) in [
        ("/healthz", "refused-200", "does not switch to that protocol"),
        ("/nowhere --prior-knowledge", "wrong-status", "404"),
        ("/nowhere --websocket --prior-knowledge", "refused-404", "no-such-path"),
    ] {
        let (code, value) = json(&format!("h2c http://{address}{line} -c 1 -d 100ms --warmup 0s"));
        assert_eq!((code, kinds(&value)[0].0), (3, kind), "{line}: {value:#}");
        assert!(value["errors"][0]["example"].as_str().unwrap().contains(hint), "{line}: {value:#}");
    }
    // What is posted has to come back.
    let (_server, address) = serve(|_| {
        Registry::new().post("/", async |request: &switchpoint::Request<'_>| {
            let mut body = request.body().to_vec();
            body[20] ^= 1;
            Ok(switchpoint::Response::new(200).with_bytes("application/octet-stream", body))
        })
    });
    let (code, value) = json(&format!("h2c http://{address}/ --prior-knowledge --post -c 1 -n 10"));
    assert_eq!((code, kinds(&value)), (3, vec![("wrong-content", 10)]), "{value:#}");
}

#[test]
fn a_storm_over_http2_times_its_steps() {
    let (_server, address) = demonstration_with_h2c();
    let (code, value) = json(&format!("storm ws://{address}/healthz --over h2c -c 20"));
    assert_eq!(code, 0, "{value:#}");
    for step in ["tcp-connect", "upgrade", "settle", "ready", "first-message", "close"] {
        assert_eq!(value["opening_ns"][step]["count"], 20, "{step}: {value:#}");
    }
}

/// A server with TLS, and the file that a client has to trust.
fn secure(name: &str) -> (Server, SocketAddr, std::path::PathBuf) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let folder = std::env::temp_dir().join(format!("loadgen-tls-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let acceptor = Acceptor::new(tls::Settings::from(Identity::files(&chain, &key))).unwrap();
    let listener =
        Listener { tls: Some(acceptor), ..Listener::from("127.0.0.1:0".parse::<SocketAddr>().unwrap()) };
    let config = Config { listen: vec![listener], threads: 1, ..Config::default() };
    let server = Server::start(config, |_| protocols::demonstration(Default::default())).unwrap();
    let address = server.addresses()[0];
    (server, address, chain)
}

#[test]
fn all_of_it_goes_over_tls_and_its_handshake_is_timed_apart() {
    let (_server, address, chain) = secure("all");
    let ca = chain.display();
    for (line, opened) in [
        (format!("ws wss://{address}/echo -c 4 -d 300ms --warmup 50ms --insecure"), 4),
        (format!("ws wss://{address}/echo -c 4 -d 300ms --warmup 50ms --ca {ca}"), 4),
        (format!("ws wss://{address}/echo -c 2 -s 1MiB -p 4 -d 300ms -k"), 2),
        (format!("ws https://{address}/echo -c 4 -r 500 -d 300ms --driver epoll -k"), 4),
        (format!("echo https://{address}/echo -c 4 -d 300ms -p 4 -k"), 4),
        (format!("h2c https://{address}/healthz -c 2 --streams 10 -d 300ms -k"), 2),
        (format!("h2c https://{address}/echo --websocket -c 2 --streams 3 -d 300ms -k"), 2),
        (format!("storm wss://{address}/echo -c 20 -k"), 20),
        (format!("storm wss://{address}/echo -c 10 --sni localhost --ca {ca}"), 10),
    ] {
        let (code, value) = json(&line);
        assert!(code == 0 || code == 4, "{line}: {value:#}");
        assert_eq!(kinds(&value), [], "{line}");
        assert!(value["messages"]["answered"].as_u64() > Some(0), "{line}");
        assert_eq!(value["opening_ns"]["tls"]["count"], opened, "{line}: {value:#}");
        assert!(value["opening_ns"]["tls"]["min"].as_u64() > Some(10_000), "{line}");
    }
}

#[test]
fn whom_nobody_vouches_for_is_not_believed() {
    let (_server, address, chain) = secure("whom");
    let (_plain, plain) = demonstration();
    for (line, kind, hint) in [
        (format!("wss://{address}/echo"), "tls-certificate-untrusted", "--insecure"),
        (
            format!("wss://{address}/echo --sni other.example --ca {}", chain.display()),
            "tls-certificate-invalid",
            "--sni",
        ),
        (format!("wss://{plain}/echo -k"), "tls-not-tls", "does this port speak TLS?"),
    ] {
        let (code, value) = json(&format!("ws {line} -c 2 -d 100ms"));
        assert_eq!((code, kinds(&value)), (3, vec![(kind, 2)]), "{line}: {value:#}");
        assert!(value["errors"][0]["example"].as_str().unwrap().contains(hint), "{line}: {value:#}");
    }
    let output = loadgen(&format!("ws wss://{address}/echo -c 2 --ca /nowhere"));
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nowhere"));
}

#[test]
fn compressed_messages_are_verified_as_any() {
    let deflate = switchpoint::ws::Deflate::default();
    let (_server, address) = serve(move |_| {
        protocols::demonstration(protocols::websocket::Settings {
            deflate: Some(deflate.clone()),
            ..Default::default()
        })
    });
    for how in ["-c 4 --text", "-c 2 -s 3000 -p 8", "-c 2 -s exp:500 --text -r 500 --fragment 100"] {
        let (code, value) = json(&format!("ws ws://{address}/echo {how} --deflate -d 300ms --warmup 0s"));
        assert!(code == 0 || code == 4, "{how}: {value:#}");
        assert_eq!(kinds(&value), [], "{how}");
        assert!(code == 4 || value["messages"]["answered"] == value["messages"]["planned"], "{how}");
        assert!(value["messages"]["answered"].as_u64() > Some(20), "{how}: {value:#}");
    }
}

#[test]
fn a_number_of_messages_is_kept_to_the_letter() {
    let (_server, address) = demonstration();
    for flags in ["-n 1 -c 5", "-n 1000 -c 7 -t 3 --depth 4", "-n 5000 -c 4 --warmup 100ms"] {
        let (code, value) = json(&format!("ws ws://{address}/echo {flags}"));
        assert_eq!(code, 0, "{flags}: {value:#}");
        assert_eq!(value["messages"]["sent"], value["plan"]["requests"], "{flags}");
    }
}

#[test]
fn the_servers_cpu_time_is_read_beside_the_replies() {
    let (_server, address) = demonstration();
    // The server is a thread of ours.
    let pid = std::process::id();
    let line = format!("ws ws://{address}/echo -c 4 -d 300ms --warmup 50ms");
    let (code, value) = json(&format!("{line} --server-pid {pid}"));
    assert_eq!(code, 0, "{value:#}");
    let number = |name: &str| value["server"][name].as_f64().unwrap();
    // Seconds, and about those of the run, however late a busy machine looks at the second instant.
    assert!((0.2..3.0).contains(&number("time_s")), "{value:#}");
    assert!(number("replies") <= value["messages"]["answered"].as_f64().unwrap() + 4.0, "{value:#}");
    // It is a rounded quotient on its way there, and another one on its way back.
    let quotient = number("cpu_ns") / number("replies");
    assert!((number("cpu_ns_per_message") - quotient).abs() <= 1e-9 * quotient, "{value:#}");
    let (_, value) = json(&line);
    assert_eq!(value["server"], Value::Null);
    let (_, value) = json(&format!("{line} --server-pid auto"));
    assert!(value["server"]["memory_bytes"].as_u64() > Some(1 << 20), "{value:#}");

    let output = loadgen(&format!("{line} --server-pid 4294967295"));
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("process 4294967295"));
}

#[test]
fn the_summary_names_what_was_run_and_the_verdict() {
    let (_server, address) = demonstration();
    let output = loadgen(&format!("ws http://{address}/echo -c 4 -d 200ms --warmup 0s --seed 7"));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "binary messages",
        "4 connections",
        "seed 7",
        "planned ",
        "4 of 4 opened",
        "unanswered 0",
        "p99.9",
        "coordinated omission",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = loadgen(&format!("echo http://{address}/echo -c 4 -d 200ms --quiet"));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
}

#[test]
fn a_refusal_is_shown_with_the_servers_reason() {
    let (_server, address) = demonstration();
    for (line, reason) in [
        (format!("ws ws://{address}/healthz"), "200 OK"),
        (format!("ws ws://{address}/nowhere"), "404 Not Found: no-such-path ("),
        (format!("echo http://{address}/healthz"), "200 OK"),
        (format!("ws ws://{address}/echo -H Origin:http://elsewhere"), "403 Forbidden: origin-not-allowed ("),
    ] {
        let output = loadgen(&format!("{line} -c 3 -d 1s"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains(reason) && text.contains("FAILED: 3 connections failed"), "{text}");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}

#[test]
fn nobody_listening_is_an_error_with_a_hint() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for driver in ["uring", "epoll"] {
        let (code, value) = json(&format!("echo http://{address}/ -c 3 -d 1s --driver {driver}"));
        assert_eq!(code, 3);
        assert_eq!(kinds(&value), [("connect-refused", 3)], "{value:#}");
        assert!(value["errors"][0]["example"].as_str().unwrap().contains("nobody listens there"));
        assert_eq!(value["latency_ns"]["p50"], Value::Null);
    }
}

#[test]
fn a_flipped_byte_is_an_error_each_time() {
    let (_server, address) = serve(|_| {
        Registry::new().on("echo", async |mut connection: Upgraded| {
            let mut total = 0;
            while connection.fill().await? {
                let mut bytes = connection.unread().to_vec();
                for byte in &mut bytes {
                    // In every third message of 32 bytes.
                    *byte ^= u8::from(total % 96 == 40);
                    total += 1;
                }
                connection.write_all(&bytes).await?;
                connection.consume(bytes.len());
            }
            Ok(())
        })
    });
    let (code, value) = json(&format!("echo http://{address}/ -c 1 -n 300 -s 32 --depth 5"));
    assert_eq!(code, 3);
    assert_eq!(kinds(&value), [("wrong-content", 100)], "{value:#}");
    assert!(value["errors"][0]["example"].as_str().unwrap().contains("byte 8"));
    assert_eq!(
        (value["messages"]["answered"].as_u64(), value["messages"]["errors"].as_u64()),
        (Some(200), Some(100))
    );
}

#[test]
fn what_a_silent_server_owes_is_counted() {
    let (_server, address) = serve(|_| {
        Registry::new().on("echo", async |mut connection: Upgraded| {
            while connection.fill().await? {
                connection.consume(connection.unread().len());
            }
            Ok(())
        })
    });
    for (flags, ledger, kind) in [
        ("--warmup 0s -d 100ms", "messages", "unanswered"),
        ("--warmup 50ms -d 50ms", "warmup", "unanswered"),
        ("-n 6 --timeout 100ms", "messages", "errors"),
    ] {
        let begun = Instant::now();
        let (code, value) = json(&format!("echo http://{address}/ -c 3 --depth 2 {flags}"));
        assert_eq!(code, 3);
        assert_eq!(value[ledger][kind], 6, "{value:#}");
        assert_eq!(value["connections"]["failed"], 0);
        if ledger == "messages" {
            // They are in the histogram, with what they have waited.
            assert!(value["latency_ns"]["max"].as_u64() >= Some(99_000_000), "{value:#}");
            assert_eq!((&value["censored"], &value["latency_ns"]["count"]), (&6.into(), &6.into()));
        }
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
}

#[test]
fn a_server_that_leaves_in_the_middle_is_not_forgiven() {
    let (_server, address) = serve(|_| {
        Registry::new().on("echo", async |mut connection: Upgraded| {
            echo(&mut connection, 10).await?;
            connection.fill().await?;
            Ok(())
        })
    });
    let (code, value) = json(&format!("echo http://{address}/ -c 3 -d 200ms --warmup 0s"));
    assert_eq!(code, 3);
    let messages = &value["messages"];
    assert_eq!(
        (messages["answered"].as_u64(), messages["unanswered"].as_u64()),
        (Some(30), Some(3)),
        "{value:#}"
    );
    assert_eq!(kinds(&value).iter().map(|(_, count)| count).sum::<u64>(), 3);
}

#[test]
fn what_was_planned_for_connections_that_are_gone_is_the_servers_to_answer() {
    let (_server, address) = serve(|_| {
        Registry::new().on("echo", async |mut connection: Upgraded| {
            echo(&mut connection, 10).await?;
            Ok(())
        })
    });
    let (code, value) = json(&format!("echo http://{address}/ -c 2 -r 1000 -d 1s --warmup 0s"));
    assert!(code == 3 || code == 4, "{value:#}");
    assert!(value["problems"].to_string().contains("messages are unanswered"), "{value:#}");
    let messages = &value["messages"];
    assert_eq!((&messages["planned"], &messages["unoffered"]), (&1000.into(), &0.into()), "{value:#}");
    // At least one message for each of the server's turns.
    let answered = messages["answered"].as_u64().unwrap();
    assert!((20..1000).contains(&answered), "{value:#}");
    // The rate is over the whole time that was planned.
    assert_eq!((&value["measured_s"], value["rate"].as_f64()), (&1.0.into(), Some(answered as f64)));
}

#[test]
fn who_ends_while_the_idle_are_asked_is_in_the_books() {
    // One after the other around the time when they are asked, which takes 30 ms.
    static ENDS: AtomicU64 = AtomicU64::new(0);
    let (_server, address) = serve(|_| {
        Registry::new().on("echo", async |mut connection: Upgraded| {
            let time = Duration::from_millis(500 + ENDS.fetch_add(7, Ordering::Relaxed) % 400);
            let _ = monoio::time::timeout(time, echo(&mut connection, usize::MAX)).await;
            Ok(())
        })
    });
    let (code, value) =
        json(&format!("echo http://{address}/ -c 400 --idle 90% -r 200 -d 500ms --warmup 0s"));
    // That we were late ourselves may be true on a busy machine, and is said then.
    assert!(code == 3 || code == 4, "{value:#}");
    let phases = value["phases"].as_array().unwrap();
    let idle = &phases.iter().find(|phase| phase["cohort"] == "idle").unwrap()["messages"];
    let number = |name: &str| idle[name].as_u64().unwrap();
    assert_eq!(number("planned"), number("answered") + number("errors") + number("unanswered"), "{value:#}");
    assert!(!value["problems"].to_string().contains("balance"), "{value:#}");
}

#[test]
fn a_number_of_messages_ends_a_run_with_idle_connections() {
    let (_server, address) = demonstration();
    let begun = Instant::now();
    let (code, value) = json(&format!("echo http://{address}/echo -c 10 --idle 50% -n 100"));
    assert_eq!((code, &value["messages"]["answered"]), (0, &100.into()), "{value:#}");
    let phases = value["phases"].as_array().unwrap();
    let idle = phases.iter().find(|phase| phase["cohort"] == "idle").unwrap();
    assert_eq!(idle["messages"]["answered"], 5);
    // Not once nothing has happened for a while.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn a_storm_does_not_count_who_answers_wrongly() {
    let (_server, address) = serve(|_| {
        Registry::new().on("echo", async |mut connection: Upgraded| {
            connection.fill().await?;
            let mut bytes = connection.unread().to_vec();
            bytes[20] ^= 1;
            connection.write_all(&bytes).await?;
            connection.consume(bytes.len());
            connection.fill().await?;
            Ok(())
        })
    });
    let (code, value) = json(&format!("storm http://{address}/ --over echo -c 5"));
    assert_eq!((code, &value["verdict"]), (3, &"FAILED".into()), "{value:#}");
    assert_eq!((kinds(&value), &value["connections"]["failed"]), (vec![("wrong-content", 5)], &5.into()));
}

#[test]
fn a_dry_run_sends_nothing_and_another_place_can_be_asked() {
    let output = loadgen("ws ws://127.0.0.1:1/echo --dry-run -c 40 --idle 50% -r 100 -d 3s");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("nothing was sent"), "{text}");
    assert!(text.contains("40 connections, 20 of them idle") && text.contains("run: 100/s for 3s"), "{text}");
    let (_server, address) = demonstration();
    let (code, value) = json(&format!("ws ws://nowhere.invalid/echo --connect-to {address} -c 2 -n 10"));
    assert_eq!((code, &value["messages"]["answered"]), (0, &10.into()), "{value:#}");
}

#[test]
fn a_handshake_without_an_answer_has_a_limit() {
    // The kernel takes the connections; nobody reads.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for driver in ["uring", "epoll"] {
        let (code, value) =
            json(&format!("ws ws://{address}/ -c 70 -d 1s --connect-timeout 100ms --driver {driver}"));
        assert_eq!(code, 3);
        assert_eq!(kinds(&value), [("handshake-timeout", 64), ("not-tried", 6)], "{value:#}");
    }
}

#[test]
fn an_interrupt_ends_the_run_with_its_summary() {
    let (_server, address) = demonstration();
    let url = format!("ws://{address}/echo");
    let arguments = ["ws", &url, "-c", "2", "-d", "1h", "--warmup", "0s", "--json"];
    let output = interrupted(&arguments, Duration::from_millis(400));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &value["interrupted"]), (Some(130), &Value::Bool(true)));
    let measured = value["measured_s"].as_f64().unwrap();
    assert!((0.1..10.0).contains(&measured), "{measured}");
}

#[test]
fn an_interrupt_does_not_wait_for_a_handshake() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let begun = Instant::now();
    let output = interrupted(&["ws", &url, "-c", "2", "--connect-timeout", "1m"], Duration::from_millis(200));
    assert_eq!(output.status.code(), Some(3));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

fn interrupted(arguments: &[&str], after: Duration) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    let child = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    thread::sleep(after);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn arguments_that_make_no_sense_are_usage() {
    for line in ["ws ftp://127.0.0.1/", "ws localhost:80", "echo ws://h/ -s 0", "ws ws://h/ -c none"] {
        let output = loadgen(line);
        assert_eq!(output.status.code(), Some(64), "{line}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
}
