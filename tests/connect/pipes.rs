//! Without a terminal: lines and blocks in, replies out, exit codes, and what each option does at the server.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixListener,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    connect, exit, program,
    server::{Once, Ours, field, listen, read_frame, read_head, switch},
    start,
};

const CLOSE: u8 = 0x88;

#[test]
fn each_line_is_a_message_and_each_reply_a_line() {
    let server = Ours::start();
    let echo = server.url("/echo");
    assert_eq!(connect(&[&echo], b"hi\n").is_fine().out(), "hi\n");
    let run = connect(&[&echo], "one\n\ntwo words \r\nü".as_bytes());
    assert_eq!((run.is_fine().out(), &*run.err), ("one\n\ntwo words \nü\n", ""));
    let lines: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
    assert_eq!(connect(&[&echo, "--wait", "3s"], lines.as_bytes()).is_fine().out(), lines);
    assert_eq!(connect(&[&echo, "--whole"], b"a\nb\n").is_fine().out(), "a\nb\n\n");
    assert_eq!(connect(&[&server.url("/multiline"), "-0"], b"a\n").is_fine().out(), "two\nlines\0a\0");
    assert_eq!(connect(&[&echo, "--send", "a", "--send", "b c"], b"not read\n").is_fine().out(), "a\nb c\n");
    assert_eq!(connect(&[&server.url("/greeting")], b"").is_fine().out(), "welcome\n");
}

#[test]
fn bytes_go_and_come_as_they_are() {
    let server = Ours::start();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|place| (place * 31 % 251) as u8).collect();
    let run = connect(&[&server.url("/echo"), "--binary", "--wait", "3s"], &bytes);
    assert!(run.is_fine().out == bytes, "{} bytes, {}", run.out.len(), run.err);
    assert_eq!(connect(&[&server.url("/echo"), "-b", "-1", "--whole"], &[0; 500]).is_fine().out, [0; 500]);
    // Where lines are expected, bytes are a line of hex.
    assert_eq!(connect(&[&server.url("/bytes")], b"x\n").is_fine().out(), "0001feff\nx\n");
    connect(&[&server.url("/echo")], b"ok\n\xff\n").fails(2, &["line 2 is not UTF-8", "--binary"]);
}

#[test]
fn another_protocol_is_bytes_in_and_bytes_out() {
    let server = Ours::start();
    let url = format!("http://{}/echo", server.address());
    let begun = Instant::now();
    assert_eq!(connect(&[&url, "--proto", "echo"], b"a\0b\n").is_fine().out, b"a\0b\n");
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "the end of the input is told to the server, which ends"
    );
    let long: Vec<u8> = (0..1_000_000_u32).map(|place| (place % 255) as u8).collect();
    assert!(connect(&[&url, "--proto", "echo"], &long).is_fine().out == long);
    assert_eq!(connect(&[&url, "--proto", "echo", "--send", "x"], b"").is_fine().out(), "x");
    connect(&[&url, "--proto", "echo", "--frames"], b"").fails(2, &["for WebSocket"]);
    connect(&[&url, "--proto", "a b"], b"").fails(2, &["token"]);
}

#[test]
fn a_count_of_replies_ends_it_while_the_input_is_open() {
    let server = Ours::start();
    let mut running = start(["connect", "-n", "2", &server.url("/greeting")]);
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(b"a\n").unwrap();
    assert_eq!(running.end().is_fine().out(), "welcome\na\n");
    drop(stdin);
    let run = connect(&["-n", "3", "--wait", "100ms", &server.url("/greeting")], b"a\n");
    run.fails(5, &["2 of 3 replies"]);
    connect(&["-n", "3", &server.url("/bye")], b"").fails(4, &["after 1 of 3 replies"]);
}

#[test]
fn it_waits_for_replies_until_there_is_silence() {
    let server = Ours::start();
    let later = server.url("/later");
    assert_eq!(connect(&[&later, "--wait", "5s", "-1"], b"a\n").is_fine().out(), "a\n");
    connect(&[&later, "--wait", "100ms", "-1"], b"a\n").fails(5, &["0 of 1 replies, and 100ms of silence"]);
    let begun = Instant::now();
    let run =
        connect(&[&later, "--wait", "forever", "--max-time", "1500ms", "--ping-interval", "1s"], b"a\n");
    run.fails(5, &["--max-time"]);
    assert_eq!(run.out(), "a\n");
    assert!(begun.elapsed() >= Duration::from_millis(1500));
    // Pings and their pongs are not what is waited for.
    let begun = Instant::now();
    connect(&[&server.url("/echo"), "--wait", "500ms", "--ping-interval", "100ms"], b"a\n").is_fine();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_exit_code_says_how_it_ended() {
    let server = Ours::start();
    connect(&[&server.url("/bye")], b"").is_fine();
    connect(&[&server.url("/nowhere")], b"").fails(1, &["404", "no-such-path", "cure: check the path"]);
    for usage in [
        &["--nonsense"][..],
        &["ws://a b/"],
        &["localhost/echo"],
        &["ws://localhost/", "-H", "no colon"],
        &["ws://localhost/", "-H", "Host: x"],
        &["ws://localhost/", "--user", "nameonly"],
        &["ws://localhost/", "--subprotocol", "a b"],
        &["ws://localhost/", "--script", "/nonexistent"],
    ] {
        connect(usage, b"").fails(2, &[]);
    }
    connect(&["ws://127.0.0.1:1/"], b"").fails(3, &["connection refused", "nothing listens"]);
    connect(&["ws://no-such-host.invalid/"], b"").fails(3, &["no-such-host.invalid"]);
    connect(&["ws://x/", "--unix", "/nonexistent"], b"").fails(3, &["/nonexistent"]);
    let run = connect(&[&server.url("/policy")], b"x\n");
    run.fails(4, &["1008 policy violation", "\"not here\""]);

    let silent = Once::start(|mut stream| {
        read_head(&mut stream);
        drop(stream.read(&mut [0; 1]));
    });
    connect(&[&silent.url, "--timeout", "200ms"], b"").fails(5, &["no answer", "200ms"]);
    silent.end();
    let lost = Once::start(|mut stream| drop(switch(&mut stream, "")));
    connect(&[&lost.url, "--wait", "5s"], b"").fails(4, &["without a close (1006)"]);
    lost.end();
    let rude = Once::start(|mut stream| {
        switch(&mut stream, "");
        stream.write_all(&[0x81, 0x80, 1, 2, 3, 4]).unwrap();
        read_frame(&mut stream)
    });
    connect(&[&rude.url, "--wait", "5s"], b"").fails(4, &["a server's frame is masked"]);
    let (first, payload) = rude.end().unwrap();
    assert_eq!((first, &payload[..2]), (CLOSE, &1002_u16.to_be_bytes()[..]));
}

#[test]
fn a_refusal_is_explained() {
    for (answer, hints) in [
        (
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n",
            &["401 Unauthorized", "--bearer", "asks for Bearer"][..],
        ),
        ("HTTP/1.1 403 Forbidden\r\n\r\nno entry\n", &["403", "it says: no entry", "--origin"]),
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", &["200 OK", "nothing at this path switches"]),
        ("HTTP/1.1 302 Found\r\nLocation: wss://b/c\r\n\r\n", &["connect to wss://b/c"]),
        ("HTTP/1.1 426 X\r\nUpgrade: h2c, chat\r\n\r\n", &["switches to h2c, chat", "--proto"]),
        ("HTTP/1.1 426 X\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n\r\n", &["version 8"]),
        ("HTTP/1.1 503 X\r\nRetry-After: 7\r\n\r\n", &["again after 7"]),
        (
            "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            &["Sec-WebSocket-Accept", "cure:"],
        ),
        ("\x15\x03\x01\x00\x02\x02\x46", &["it speaks TLS: use wss://"]),
        ("SSH-2.0-OpenSSH\r\n", &["not HTTP/1.1", "check the port"]),
    ] {
        let server = Once::start(move |mut stream| {
            read_head(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        connect(&[&server.url], b"").fails(1, hints);
        server.end();
    }
    let server = Once::start(|mut stream| drop(read_head(&mut stream)));
    connect(&[&server.url], b"").fails(3, &["without an answer", "wss://"]);
    server.end();
}

#[test]
fn the_options_are_in_the_request() {
    let folder = std::env::temp_dir().join(format!("switchpoint-connect-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let token = folder.join("token");
    fs::write(&token, "a secret\n").unwrap();
    let bearer = format!("@{}", token.display());
    let server = Once::start(|stream| listen(stream, "Sec-WebSocket-Protocol: v1\r\n").0);
    let run = connect(
        &[
            &server.url,
            "-s",
            "v2",
            "--subprotocol",
            "v1",
            "-H",
            "X-A: 1",
            "--header",
            "X-A:2",
            "--cookie",
            "a=b",
            "--cookie",
            "c=d",
            "--origin",
            "https://o.example",
            "--bearer",
            &bearer,
            "--deflate",
            "-v",
        ],
        b"",
    );
    run.is_fine();
    let head = server.end();
    assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
    for (name, value) in [
        ("Sec-WebSocket-Protocol", "v2, v1"),
        ("Cookie", "a=b; c=d"),
        ("Origin", "https://o.example"),
        ("Authorization", "Bearer a secret"),
        ("User-Agent", concat!("switchpoint/", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(field(&head, name), Some(value), "{head}");
    }
    assert!(head.contains("\r\nX-A: 1\r\nX-A: 2\r\n"), "{head}");
    #[cfg(feature = "deflate")]
    assert!(field(&head, "Sec-WebSocket-Extensions").unwrap().starts_with("permessage-deflate"), "{head}");
    for shown in ["> GET / HTTP/1.1", "< HTTP/1.1 101", "subprotocol v1", "not compressed"] {
        assert!(run.err.contains(shown), "no {shown:?} in {}", run.err);
    }
    fs::remove_dir_all(&folder).unwrap();

    let server = Once::start(|stream| listen(stream, "").0);
    connect(
        &[
            "ws://name.example/p?q=1",
            "--connect-to",
            &server.address,
            "--user",
            "u:p:w",
            "-H",
            "User-Agent: x",
        ],
        b"",
    )
    .is_fine();
    let head = server.end();
    assert!(head.starts_with("GET /p?q=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "Host"), Some("name.example"));
    assert_eq!(field(&head, "Authorization"), Some("Basic dTpwOnc="));
    assert_eq!(field(&head, "User-Agent"), Some("x"));
}

#[cfg(feature = "deflate")]
#[test]
fn messages_are_compressed_where_both_want_it() {
    let server = Ours::start();
    let text = "so much of the same ".repeat(100);
    let run = connect(&[&server.url("/echo"), "--deflate", "-v", "--frames", "-1"], text.as_bytes());
    assert_eq!(run.is_fine().out().trim_end_matches('\n'), text);
    assert!(run.err.contains("; compressed"), "{}", run.err);
    assert!(run.err.contains("> text(0x1) fin=1 rsv=100 mask="), "{}", run.err);
    assert!(run.err.contains("< text(0x1) fin=1 rsv=100 mask=no"), "{}", run.err);
}

#[test]
fn a_unix_socket_is_as_good() {
    let path = std::env::temp_dir().join(format!("switchpoint-connect-{}.sock", std::process::id()));
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = switch(&mut stream, "");
        stream.write_all(b"\x81\x02hi").unwrap();
        assert_eq!(read_frame(&mut stream).unwrap().0, CLOSE);
        stream.write_all(b"\x88\x02\x03\xe8").unwrap();
        head
    });
    let run = connect(&["ws://inside/x", "--unix", path.to_str().unwrap(), "-1"], b"");
    assert_eq!(run.is_fine().out(), "hi\n");
    assert_eq!(field(&server.join().unwrap(), "Host"), Some("inside"));
    fs::remove_file(&path).unwrap();
}

#[test]
fn frames_and_pings_are_shown_when_asked_for() {
    let server = Once::start(|mut stream| {
        switch(&mut stream, "");
        stream.write_all(b"\x01\x02he\x89\x01p\x80\x03llo").unwrap();
        let pong = read_frame(&mut stream).unwrap();
        let close = read_frame(&mut stream).unwrap();
        stream.write_all(b"\x88\x02\x03\xe8").unwrap();
        (pong, close)
    });
    let run = connect(&[&server.url, "--frames", "--pings", "--time", "-1"], b"");
    let (pong, close) = server.end();
    assert_eq!(pong, (0x8a, b"p".to_vec()));
    assert_eq!(close, (CLOSE, 1000_u16.to_be_bytes().to_vec()));
    assert!(run.is_fine().out().ends_with(" hello\n"));
    let time: Vec<&str> = run.out().split(' ').next().unwrap().split([':', '.']).collect();
    assert_eq!(time.len(), 4, "{}", run.out());
    for line in [
        " < text(0x1) fin=0 rsv=000 mask=no length=2 \"he\"\n",
        " < ping(0x9) fin=1 rsv=000 mask=no length=1 \"p\"\n",
        " < continuation(0x0) fin=1 rsv=000 mask=no length=3 \"llo\"\n",
        " ping \"p\", answered\n",
        " < close(0x8) fin=1 rsv=000 mask=no length=2 1000 \"\"\n",
    ] {
        assert!(run.err.contains(line), "no {line:?} in {}", run.err);
    }
    assert!(run.err.contains("> pong(0xa) fin=1 rsv=000 mask="), "{}", run.err);
}

#[test]
fn who_does_not_answer_pings_is_given_up() {
    let server = Once::start(|mut stream| {
        switch(&mut stream, "");
        let first = read_frame(&mut stream).unwrap();
        while let Some((first, _)) = read_frame(&mut stream)
            && first != CLOSE
        {}
        first
    });
    let run = connect(&[&server.url, "--ping-interval", "100ms", "--wait", "forever"], b"");
    run.fails(5, &["no pong within 100ms"]);
    assert_eq!(server.end(), (0x89, b"1".to_vec()));
    connect(&["ws://a/", "--ping-interval", "0s"], b"").fails(2, &[]);
}

#[test]
fn a_message_that_is_too_long_is_not_taken() {
    let server = Ours::start();
    let run = connect(&[&server.url("/echo"), "--message-max", "1KiB"], &[b'x'; 2000]);
    run.fails(4, &["longer than we take"]);
    connect(&[&server.url("/echo"), "--max-message", "2000"], &[b'x'; 2000]).is_fine();
}

#[test]
fn an_interrupt_says_goodbye() {
    for signal in [Signal::INT, Signal::TERM] {
        let server = Once::start(|stream| listen(stream, "").1);
        let mut running = start(["connect", &server.url, "--frames"]);
        // A message, so that we know that it is there.
        running.child.stdin.as_mut().unwrap().write_all(b"x\n").unwrap();
        thread::sleep(Duration::from_millis(300));
        running.signal(signal);
        running.end().is_fine();
        let frames = server.end();
        assert_eq!(frames, [(0x81, b"x".to_vec()), (CLOSE, 1000_u16.to_be_bytes().to_vec())]);
    }
}

#[test]
fn who_reads_no_more_ends_it_quietly() {
    let server = Ours::start();
    let mut command = program();
    command.args(["connect", &server.url("/flood"), "--wait", "forever"]);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line.len(), 1001);
    drop(out);
    assert_eq!(exit(&mut child), Some(0));
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(err, "");
    // The same while nothing comes at all.
    let mut command = program();
    command.args(["connect", &server.url("/echo"), "--wait", "forever"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(exit(&mut child), Some(0));
}

#[test]
fn a_slow_reader_slows_the_server_down() {
    let server = Ours::start();
    let mut command = program();
    command.args(["connect", &server.url("/flood"), "--wait", "forever"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_millis(1500));
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(resident < 64 << 10, "{resident} kB while nobody reads");
    // It can be interrupted all the same; what was printed stays in the pipe.
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    assert!(exit(&mut child).is_some());
}
