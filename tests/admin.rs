//! The real program, as its operator has it: metrics, the admin socket, the log, traces.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);
const PROGRAM: &str = env!("CARGO_BIN_EXE_switchpoint");

/// A program that serves, with all that an operator may ask for.
struct Program {
    child: Child,
    address: SocketAddr,
    metrics: SocketAddr,
    folder: PathBuf,
}

impl Program {
    fn start(options: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("switchpoint-admin-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let log = File::create(folder.join("log")).unwrap();
        Self::start_with(options, folder, log.into())
    }

    fn start_with(options: &[&str], folder: PathBuf, log: Stdio) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["--listen", "127.0.0.1:0"])
            .args(if options.contains(&"--admin") { &[][..] } else { &["--admin", "127.0.0.1:0"] })
            .args(if options.contains(&"--threads") { &[][..] } else { &["--threads", "2"] })
            .arg("--admin-socket")
            .arg(folder.join("admin.sock"))
            .args(options)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut address_in = |before: &str| {
            let mut line = String::new();
            while !line.contains(before) {
                line.clear();
                assert!(out.read_line(&mut line).unwrap() > 0, "it ends without {before}");
            }
            let (_, behind) = line.split_once(before).unwrap();
            behind[..behind.find([' ', '/', '\n']).unwrap_or(behind.len())].parse().unwrap()
        };
        let address = address_in("://");
        let metrics = address_in("metrics at http://");
        thread::spawn(move || {
            let mut rest = String::new();
            let _ = out.read_to_string(&mut rest); // so that it never blocks there
        });
        Self { child, address, metrics, folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--socket").arg(self.folder.join("admin.sock"));
        command
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        self.command(&[&["ctl"], arguments].concat()).output().unwrap()
    }

    /// What `ctl` answers.
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.ctl(&[&["--json"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn sessions(&self) -> Vec<Value> {
        self.json(&["sessions", "-n", "0"])["sessions"].as_array().unwrap().clone()
    }

    /// The metrics' text.
    fn scrape(&self, accept: &str) -> String {
        get(self.metrics, "/metrics", accept).1
    }

    /// The sum of the samples whose lines begin so.
    fn sum(&self, sample: &str) -> f64 {
        let text = self.scrape("*/*");
        let values = text.lines().filter(|line| line.starts_with(sample));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Waits until it is so many; what is published is up to a tick old.
    fn until(&self, sample: &str, value: f64) {
        let begun = Instant::now();
        while self.sum(sample) != value {
            assert!(begun.elapsed() < PATIENCE, "{sample} is {}, not {value}", self.sum(sample));
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// The lines of a JSON log with this message, once there are so many.
    fn lines(&self, message: &str, count: usize) -> Vec<Value> {
        let begun = Instant::now();
        loop {
            let log = self.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let lines: Vec<Value> = lines.filter(|line| line["message"] == message).collect();
            if lines.len() >= count {
                return lines;
            }
            assert!(begun.elapsed() < PATIENCE, "{} of {count} {message:?} in\n{log}", lines.len());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn websocket(&self, path: &str, fields: &str) -> Client {
        let mut client = Client::connect(self.address);
        let head = client.ask(path, "websocket", fields);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        client
    }

    fn refused(&self, path: &str, token: &str, fields: &str) {
        let head = Client::connect(self.address).ask(path, token, fields);
        assert!(head.starts_with("HTTP/1.1 4"), "{head}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn ask(&mut self, path: &str, token: &str, fields: &str) -> String {
        self.send(request(path, token, fields).as_bytes());
        self.head()
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        String::from_utf8(head).unwrap()
    }

    fn expect(&mut self, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        self.0.read_exact(&mut got).unwrap();
        assert_eq!(got.escape_ascii().to_string(), bytes.escape_ascii().to_string());
    }

    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest); // a reset is an end, too
        rest
    }

    /// Both close frames, and the end.
    fn close(mut self, code: u16) {
        let [high, low] = code.to_be_bytes();
        self.send(&[0x88, 0x82, 0, 0, 0, 0, high, low]);
        self.expect(&[0x88, 2, high, low]);
        assert_eq!(self.rest(), b"");
    }
}

fn request(path: &str, token: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {token}\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    )
}

/// A status and a body.
fn get(address: SocketAddr, path: &str, accept: &str) -> (u16, String) {
    let mut client = Client::connect(address);
    client.send(
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nConnection: close\r\n\r\n").as_bytes(),
    );
    let answer = String::from_utf8(client.rest()).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

const ECHO: &[u8] = b"\x81\x85\x00\x00\x00\x00hello";
const ECHOED: &[u8] = b"\x81\x05hello";

#[test]
fn the_metrics_have_what_has_happened() {
    let program = Program::start(&[]);
    let mut open = program.websocket("/echo", "");
    for _ in 0..3 {
        open.send(ECHO);
        open.expect(ECHOED);
    }
    program.websocket("/echo", "").close(1000);
    program.refused("/echo", "websocket", "Origin: http://elsewhere.example\r\n");
    program.refused("/echo", "never-heard-of-it", "");
    let mut ignored = Client::connect(program.address);
    assert!(ignored.ask("/", "websocket", "").starts_with("HTTP/1.1 200 "));
    let mut echo = Client::connect(program.address);
    assert!(echo.ask("/echo", "echo", "").starts_with("HTTP/1.1 101 "));

    program.until("switchpoint_sessions{", 2.0);
    program.until("switchpoint_sessions_ended_total{protocol=\"websocket\",outcome=\"ok\"}", 1.0);
    let handshakes = |labels: &str| program.sum(&format!("switchpoint_handshakes_total{{{labels}}}"));
    assert_eq!(handshakes("protocol=\"websocket\",outcome=\"switched\",reason=\"none\""), 2.0);
    assert_eq!(handshakes("protocol=\"websocket\",outcome=\"refused\",reason=\"origin-not-allowed\""), 1.0);
    assert_eq!(handshakes("protocol=\"websocket\",outcome=\"ignored\",reason=\"none\""), 1.0);
    assert_eq!(handshakes("protocol=\"other\",outcome=\"refused\",reason=\"no-common-protocol\""), 1.0);
    assert_eq!(program.sum("switchpoint_refusals_total"), 2.0);
    assert_eq!(program.sum("switchpoint_handshake_duration_seconds_count{protocol=\"websocket\"}"), 2.0);
    assert_eq!(program.sum("switchpoint_session_duration_seconds_count{protocol=\"websocket\"}"), 1.0);
    for direction in ["in", "out"] {
        let name = "switchpoint_message_size_bytes";
        assert_eq!(program.sum(&format!("{name}_count{{direction=\"{direction}\"}}")), 3.0);
        assert_eq!(program.sum(&format!("{name}_sum{{direction=\"{direction}\"}}")), 15.0);
        assert_eq!(program.sum(&format!("{name}_bucket{{direction=\"{direction}\",le=\"16\"}}")), 3.0);
    }
    assert!(program.sum("switchpoint_queue_depth_bytes_count") >= 3.0);
    assert!(program.sum("switchpoint_received_bytes_total") >= 33.0, "also of a session that goes on");
    assert_eq!(program.sum("switchpoint_ready"), 1.0);
    assert!(program.sum("process_resident_memory_bytes") > 1e6);

    assert!(program.scrape("application/openmetrics-text").ends_with("# EOF\n"));
    assert_eq!(get(program.metrics, "/healthz", "*/*"), (200, "ok\n".to_owned()));
    assert_eq!(get(program.metrics, "/readyz", "*/*").0, 200);
    for path in ["/sessions", "/kill", "/drain", "/handshakes"] {
        assert_eq!(get(program.metrics, path, "*/*").0, 404, "{path} is not for the network");
    }
}

#[test]
fn a_drain_by_order_ends_the_program_and_readiness_fails_first() {
    let mut program = Program::start(&["--drain-delay", "2s"]);
    let mut open = program.websocket("/echo", "");
    program.until("switchpoint_sessions{", 1.0);
    assert_eq!(program.json(&["drain"])["draining"], 1);
    assert_eq!(get(program.metrics, "/readyz", "*/*"), (503, "draining\n".to_owned()));
    assert_eq!(program.sum("switchpoint_ready"), 0.0);
    open.expect(&[&[0x88, 29, 3, 233][..], b"the server is shutting down"].concat());
    drop(open);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = program.child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
    assert!(!program.folder.join("admin.sock").exists(), "its socket is gone");
}

#[test]
fn a_new_binary_has_the_socket_and_the_metrics_after_the_old_one() {
    // Its address has to be known to both.
    let metrics = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let program = Program::start(&["--drain-time", "1s", "--admin", &metrics]);
    let pid = |stats: &Value| rustix::process::Pid::from_raw(stats["pid"].as_i64().unwrap() as i32).unwrap();
    let old = pid(&program.json(&["stats"]));
    rustix::process::kill_process(old, rustix::process::Signal::USR2).unwrap();
    let begun = Instant::now();
    let new = loop {
        // For a moment nobody may be there.
        let answer = program.ctl(&["--json", "stats"]).stdout;
        match serde_json::from_slice::<Value>(&answer) {
            Ok(stats) if pid(&stats) != old => break pid(&stats),
            _ => assert!(begun.elapsed() < PATIENCE, "the old one still has it\n{}", program.log()),
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(get(program.metrics, "/readyz", "*/*").0, 200);
    program.websocket("/echo", "").close(1000);
    program.until("switchpoint_sessions_ended_total{protocol=\"websocket\",outcome=\"ok\"}", 1.0);
    rustix::process::kill_process(new, rustix::process::Signal::TERM).unwrap();
    let begun = Instant::now();
    while program.folder.join("admin.sock").exists() {
        assert!(begun.elapsed() < PATIENCE, "the new one does not end");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_socket_is_its_owners_and_speaks_http() {
    let program = Program::start(&[]);
    let path = program.folder.join("admin.sock");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut socket = UnixStream::connect(&path).unwrap();
    socket.write_all(b"GET /stats HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let stats: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((stats["ready"].as_bool(), stats["cores"].as_array().unwrap().len()), (Some(true), 2));

    let nowhere = Command::new(PROGRAM).args(["ctl", "stats", "--socket", "/nonexistent"]).output().unwrap();
    assert!(!nowhere.status.success());
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("--admin-socket"));
}

#[test]
fn sessions_are_listed_looked_at_and_killed() {
    let program = Program::start(&["--log-format", "json"]);
    let mut quiet = program.websocket("/echo?token=secret", "");
    let mut other = Client::connect(program.address);
    assert!(other.ask("/echo", "echo", "").starts_with("HTTP/1.1 101 "));
    quiet.send(ECHO);
    quiet.expect(ECHOED);

    let sessions = program.sessions();
    assert_eq!(sessions.len(), 2);
    let listed = sessions.iter().find(|session| session["protocol"] == "websocket").unwrap();
    assert_eq!(
        (&listed["path"], &listed["received"], &listed["sent"]),
        (&"/echo".into(), &11.into(), &7.into())
    );
    assert_eq!(listed["peer"], quiet.0.local_addr().unwrap().to_string());
    let id = listed["id"].as_str().unwrap();
    let filtered = program.json(&["sessions", "--filter", "token=echo,path=/e*,peer=127.0.0.0/8"]);
    assert_eq!(filtered["sessions"].as_array().unwrap().len(), 1);
    let table = program.ctl(&["sessions"]);
    assert!(String::from_utf8_lossy(&table.stdout).starts_with("ID "), "{table:?}");

    let one = program.json(&["session", id]);
    assert_eq!(one["id"], id);
    assert!(one["waits_ms"]["read"].as_u64().unwrap() > 20_000, "a ping is due in half a minute: {one}");

    // It is told, and may say goodbye.
    assert_eq!(program.json(&["kill", id])["sessions"][0]["id"], id);
    quiet.expect(&[&[0x88, 36, 3, 233][..], b"the server's operator has ended it"].concat());
    quiet.send(&[0x88, 0x82, 0, 0, 0, 0, 3, 233]);
    assert_eq!(quiet.rest(), b"");
    let line = &program.lines("ended", 1)[0];
    assert_eq!(
        (&line["outcome"], &line["close_code"], &line["id"]),
        (&"killed".into(), &1001.into(), &id.into())
    );

    let gone = program.ctl(&["kill", id]);
    assert!(!gone.status.success() && String::from_utf8_lossy(&gone.stderr).contains("may have ended"));
    for bad in ["nonsense", "9-0-0"] {
        assert!(!program.ctl(&["session", bad]).status.success());
    }
    assert_eq!(program.sessions().len(), 1, "the other one is left alone");
}

#[test]
fn who_does_not_heed_its_end_is_cut() {
    let program = Program::start(&["--log-format", "json"]);
    let mut deaf = program.websocket("/echo", "");
    let id = program.sessions()[0]["id"].as_str().unwrap().to_owned();
    let begun = Instant::now();
    program.json(&["kill", &id]);
    assert!(deaf.rest().starts_with(&[0x88]), "a close, then the end");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(program.lines("ended", 1)[0]["outcome"], "killed");
    program.until("switchpoint_sessions{", 0.0);
}

#[test]
fn a_long_list_comes_in_pages_and_has_each_session_once() {
    let program = Program::start(&[]);
    let clients: Vec<Client> = (0..250).map(|_| program.websocket("/echo", "")).collect();
    program.until("switchpoint_sessions{", 250.0);
    let mut seen = HashSet::new();
    let mut after = String::new();
    let mut pages = 0;
    loop {
        let mut socket = UnixStream::connect(program.folder.join("admin.sock")).unwrap();
        let request =
            format!("GET /sessions?limit=40{after} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let page: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let sessions = page["sessions"].as_array().unwrap();
        assert!(sessions.len() <= 40);
        for session in sessions {
            assert!(seen.insert(session["id"].as_str().unwrap().to_owned()), "{session} comes twice");
        }
        pages += 1;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!((seen.len(), program.sessions().len()), (250, 250));
    assert!(pages >= 7);
    drop(clients);
}

#[test]
fn the_log_has_a_line_for_each_end_and_each_refusal_and_no_secret() {
    let program = Program::start(&["--log-format", "json"]);
    let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    let secret = "Authorization: Bearer geheim\r\nCookie: id=geheim\r\n";
    let mut client = program.websocket("/echo?token=geheim", &format!("{trace}{secret}"));
    client.send(ECHO);
    client.expect(ECHOED);
    client.close(3001);
    program.refused("/nowhere?token=geheim", "websocket", &format!("{trace}{secret}"));
    let ended = &program.lines("ended", 1)[0];
    for (name, value) in [
        ("level", Value::from("INFO")),
        ("protocol", "websocket".into()),
        ("path", "/echo".into()),
        ("outcome", "ok".into()),
        ("received", 19.into()),
        ("sent", 11.into()),
        ("close_code", 3001.into()),
        ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736".into()),
    ] {
        assert_eq!(ended[name], value, "{name} in {ended}");
    }
    assert!(
        ended["milliseconds"].is_u64() && ended["id"].is_string() && ended["peer"].is_string(),
        "{ended}"
    );
    let refused = &program.lines("refused", 1)[0];
    assert_eq!((&refused["reason"], &refused["status"]), (&"no-such-path".into(), &404.into()));
    assert_eq!((&refused["path"], &refused["protocol"]), (&"/nowhere".into(), &"websocket".into()));
    assert_eq!(refused["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(!program.log().contains("geheim"));
}

#[test]
fn of_what_ends_well_a_sample_is_logged_and_of_errors_each() {
    let program = Program::start(&["--log-format", "json", "--log-sample", "5", "--threads", "1"]);
    for _ in 0..20 {
        program.websocket("/echo", "").close(1000);
    }
    program.until("switchpoint_sessions_ended_total{protocol=\"websocket\",outcome=\"ok\"}", 20.0);
    for _ in 0..3 {
        let mut client = program.websocket("/echo", "");
        client.send(b"\xff\x80\x00\x00\x00\x00");
        client.rest();
    }
    program.lines("ended", 7);
    let lines = program.lines("ended", 7);
    let outcomes = |outcome: &str| lines.iter().filter(|line| line["outcome"] == outcome).count();
    assert_eq!((outcomes("ok"), outcomes("peer"), lines.len()), (4, 3, 7));
}

#[test]
fn what_is_logged_changes_at_run_time() {
    let program = Program::start(&["--log-format", "json"]);
    program.websocket("/echo", "").close(1000);
    program.lines("ended", 1);
    assert!(!program.log().contains("switched"));
    assert_eq!(program.json(&["log", "debug"])["level"], "debug");
    program.websocket("/echo", "").close(1000);
    program.lines("switched", 1);
    let wrong = program.ctl(&["log", "switchpoint=loud"]);
    assert!(
        !wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("levels are"),
        "{wrong:?}"
    );
    assert!(!program.ctl(&["reload"]).status.success(), "there is nothing to reload");
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let folder = std::env::temp_dir().join(format!("switchpoint-admin-{}-pipe", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (unread, written) = std::io::pipe().unwrap();
    let program = Program::start_with(&["--log-lines-max", "1000000"], folder, written.into());
    let flood = request("/nowhere", "never-heard-of-it", "");
    let ordinary = "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let mut client = Client::connect(program.address);
    let mut answered = client.0.try_clone().unwrap();
    let reading = thread::spawn(move || {
        let mut count = 0;
        let mut bytes = [0; 1 << 16];
        while let Ok(more @ 1..) = answered.read(&mut bytes) {
            count += more;
        }
        count
    });
    for _ in 0..150 {
        client.send(ordinary.as_bytes());
    }
    client.send(flood.as_bytes());
    assert!(reading.join().unwrap() > 1_000_000, "all of it was answered");
    assert!(program.sum("switchpoint_log_lines_dropped_total") > 0.0);
    assert_eq!(get(program.address, "/healthz", "*/*").0, 200);
    drop(unread);
}

/// The lines of a trace, of these kinds.
fn of_kind<'a>(trace: &'a [Value], kind: &str) -> Vec<&'a Value> {
    trace.iter().filter(|line| line["kind"] == kind).collect()
}

fn bytes_of(line: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(line["bytes"].as_str().unwrap()).unwrap()
}

/// A trace that has begun, with its first line.
fn trace(program: &Program, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child =
        program.command(&[&["trace"], arguments].concat()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert!(first.starts_with("waiting for") || first.contains("\"kind\":\"trace\""), "{first:?}");
    (child, out)
}

#[test]
fn a_trace_has_the_exact_bytes_and_no_secret() {
    let program = Program::start(&[]);
    let file = program.folder.join("trace.jsonl");
    let path = file.to_str().unwrap();
    let (mut child, mut out) = trace(
        &program,
        &["--filter", "path=/echo,token=websocket,peer=127.0.0.1", "--frames", "2", "-n", "1", "-o", path],
    );
    program.refused("/elsewhere", "websocket", "");
    let secret = "Cookie: id=geheim\r\nAuthorization: Bearer geheim\r\n";
    let mut client = program.websocket("/echo?access_token=geheim", secret);
    for text in ["hello", "again", "third"] {
        client.send(&[&ECHO[..6], text.as_bytes()].concat());
        client.expect(&[&ECHOED[..2], text.as_bytes()].concat());
    }
    let mut shown = String::new();
    out.read_to_string(&mut shown).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(shown.contains("> GET /echo?access_token=****** HTTP/1.1\n"), "{shown}");
    assert!(shown.contains("> text [FIN masked] 5 B  \"hello\"\n"), "{shown}");

    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("geheim"));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["trace", "request", "response", "switched", "frame", "frame", "frame", "frame", "end", "over"]
    );
    let sent = request("/echo?access_token=geheim", "websocket", secret);
    let asked = bytes_of(&lines[1]);
    assert_eq!(asked.len(), sent.len(), "lengths are kept");
    assert_eq!(
        String::from_utf8(asked).unwrap(),
        sent.replace("id=geheim", "*********").replace("geheim", "******")
    );
    let redacted = lines[1]["redacted"].as_array().unwrap();
    let what: Vec<&str> = redacted.iter().map(|place| place["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["query access_token", "cookie", "authorization"]);
    let at = redacted[1]["at"].as_u64().unwrap() as usize;
    assert_eq!(&sent[at..at + redacted[1]["length"].as_u64().unwrap() as usize], "id=geheim");
    assert!(bytes_of(&lines[2]).starts_with(b"HTTP/1.1 101 "), "{}", lines[2]);
    assert_eq!(lines[3]["token"], "websocket");
    assert_eq!((bytes_of(&lines[4]), &lines[4]["dir"]), (ECHO.to_vec(), &"in".into()));
    assert_eq!((bytes_of(&lines[5]), &lines[5]["dir"]), (ECHOED.to_vec(), &"out".into()));
    assert_eq!((&lines[8]["why"], &lines[9]["why"]), (&"frames".into(), &"switches".into()));
    let times: Vec<f64> = lines[1..9].iter().map(|line| line["t"].as_f64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] == 0.0 && times[7] < 10.0, "{times:?}");
}

#[test]
fn a_trace_has_refusals_and_other_protocols() {
    let program = Program::start(&[]);
    let (mut child, mut out) = trace(&program, &["-n", "2", "-o", "-"]);
    program.refused("/echo", "websocket", "Origin: http://elsewhere.example\r\n");
    let mut client = Client::connect(program.address);
    client.send(&[request("/echo", "echo", "").as_bytes(), b"early"].concat());
    client.head();
    client.expect(b"early");
    client.send(b"later");
    client.expect(b"later");
    drop(client);
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(of_kind(&lines, "request").len(), 2);
    let refusal = bytes_of(of_kind(&lines, "response")[0]);
    assert!(String::from_utf8(refusal).unwrap().contains("origin-not-allowed"));
    let ends: Vec<&str> = of_kind(&lines, "end").iter().map(|end| end["why"].as_str().unwrap()).collect();
    assert_eq!(ends, ["refused", "closed"]);
    let data: Vec<(String, Vec<u8>)> = of_kind(&lines, "data")
        .iter()
        .map(|line| (line["dir"].as_str().unwrap().to_owned(), bytes_of(line)))
        .collect();
    let expected = [("in", "early"), ("out", "early"), ("in", "later"), ("out", "later")];
    assert_eq!(data, expected.map(|(dir, text)| (dir.to_owned(), text.as_bytes().to_vec())));
}

#[test]
fn a_trace_ends_with_who_asked_for_it_and_there_are_not_many() {
    let program = Program::start(&[]);
    let mut traces: Vec<_> = (0..4).map(|_| trace(&program, &["--filter", "path=/nowhere"])).collect();
    let one_too_many = program.command(&["trace"]).output().unwrap();
    assert!(!one_too_many.status.success(), "{one_too_many:?}");
    let (mut child, _) = traces.pop().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // Its place is free again as soon as the server has noticed.
    let begun = Instant::now();
    loop {
        let next = program.command(&["trace", "--time", "1s"]).output().unwrap();
        if next.status.success() {
            assert!(String::from_utf8_lossy(&next.stdout).ends_with("the time is over\n"));
            break;
        }
        assert!(begun.elapsed() < PATIENCE);
    }
    for (mut child, _) in traces {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn recent_handshakes_are_shown_where_they_are_asked_for() {
    let program = Program::start(&["--recent-handshakes=4"]);
    program.websocket("/echo?token=geheim", "Cookie: id=geheim\r\n").close(1000);
    program.refused("/echo", "websocket", "Origin: http://elsewhere.example\r\n");
    program.until("switchpoint_refusals_total", 1.0);
    let (status, list) = get(program.address, "/handshakes", "*/*");
    assert_eq!(status, 200);
    let list: Value = serde_json::from_str(&list).unwrap();
    let [refused, switched] = &list["handshakes"].as_array().unwrap()[..] else { panic!("{list}") };
    assert_eq!((&refused["outcome"], &refused["reason"]), (&"refused".into(), &"origin-not-allowed".into()));
    assert!(refused["cure"].as_str().unwrap().contains("Allow the origin"));
    assert_eq!((&switched["outcome"], &switched["path"]), (&"switched".into(), &"/echo".into()));
    assert_eq!((&switched["peer"], &switched["status"]), (&"127.0.0.0/24".into(), &101.into()));
    assert!(!list.to_string().contains("geheim"));
    let to_operator = program.json(&["handshakes"]);
    assert!(to_operator["handshakes"][0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    for _ in 0..20 {
        program.refused("/nowhere", "websocket", "");
    }
    program.until("switchpoint_refusals_total", 21.0);
    let kept = program.json(&["handshakes"])["handshakes"].as_array().unwrap().len();
    assert!(kept <= 8, "each core keeps four, not {kept}");
    assert!(get(program.address, "/", "*/*").1.contains("data-handshakes"));

    let without = Program::start(&[]);
    assert_eq!(get(without.address, "/handshakes", "*/*").0, 404);
    assert!(!get(without.address, "/", "*/*").1.contains("<html lang=\"en\" data-handshakes"));
}

#[cfg(feature = "tls")]
#[test]
fn a_trace_sees_through_tls_and_certificates_are_told_of() {
    use switchpoint::{
        Config, Driver, Registry, Worker,
        protocols::websocket::{Client, Socket},
        tls::{ClientSettings, Connector, Trust},
    };
    let program = Program::start(&["--self-signed"]);
    let expiry = program.sum("switchpoint_tls_certificate_expiry_timestamp_seconds{name=\"localhost\"}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(expiry > now, "{expiry}");
    assert!(program.json(&["reload"])["reloaded"].as_str().unwrap().contains("localhost"));

    let (mut child, mut out) = trace(&program, &["--frames", "1", "-o", "-"]);
    let url = format!("wss://{}/echo", program.address);
    Driver::Auto.build().unwrap().block_on(async {
        let worker = Worker::new(Config::default(), Registry::new());
        switchpoint::spawn(worker.keep_time());
        let settings = ClientSettings { trust: Trust::Anyone, ..ClientSettings::default() };
        let client = Client::new().tls(Connector::new(&settings).unwrap());
        let handler = async |mut socket: Socket| {
            socket.send("through TLS").await?;
            assert_eq!(socket.recv().await?.unwrap().text(), Some("through TLS"));
            Ok(())
        };
        client.connect(&worker, &url, handler).await.unwrap();
    });
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(bytes_of(of_kind(&lines, "request")[0]).starts_with(b"GET /echo HTTP/1.1\r\n"));
    assert!(bytes_of(of_kind(&lines, "response")[0]).starts_with(b"HTTP/1.1 101 "));
    assert_eq!(bytes_of(of_kind(&lines, "frame")[1]), b"\x81\x0bthrough TLS");
    assert_eq!(program.sum("switchpoint_tls_handshakes_total"), 1.0);
}
