//! The program and its configuration, from outside: what a file says has effect, and what is wrong with it is said.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

/// A folder that goes with its test, and the program in it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("switchpoint-config-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, text: &str) -> &Self {
        fs::write(self.0.join("a.toml"), text).unwrap();
        self
    }

    /// The program, with an environment in which nothing sets anything but what waits for the kernel.
    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchpoint"));
        for (name, _) in
            env::vars().filter(|(name, _)| name.starts_with("SWITCHPOINT_") && name != "SWITCHPOINT_DRIVER")
        {
            command.env_remove(name);
        }
        command.current_dir(&self.0);
        command
    }

    /// What ends by itself needs no driver.
    fn ends(&self, arguments: &[&str]) -> Output {
        self.program().env_remove("SWITCHPOINT_DRIVER").args(arguments).output().unwrap()
    }

    fn serves(&self, arguments: &[&str]) -> Program {
        Program::start(self.program().args(["--config", "a.toml"]).args(arguments))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A running program; it is asked to end, and has to.
struct Program {
    child: Child,
    /// What it listens on, as it says itself.
    places: Vec<String>,
    /// What else it says.
    lines: Receiver<String>,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        Self::of(command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap())
    }

    fn of(mut child: Child) -> Self {
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut line).unwrap();
        let (said, others) = mpsc::channel();
        thread::spawn(move || lines.lines().map_while(Result::ok).for_each(|line| drop(said.send(line))));
        let (_, places) = line.split_once("listening on ").unwrap_or_else(|| panic!("it says {line:?}"));
        let places = places.split_once(" with ").unwrap().0.split(", ").map(str::to_owned).collect();
        Self { child, places, lines: others }
    }

    fn address(&self) -> SocketAddr {
        self.places.iter().find_map(|place| place.strip_prefix("http://")).unwrap().parse().unwrap()
    }

    fn ask(&self, request: &str) -> String {
        ask(TcpStream::connect(self.address()).unwrap(), request)
    }

    fn end(mut self) {
        self.signal();
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
        assert!(self.child.wait().unwrap().success());
    }

    fn signal(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The answer to `request`, to the end of its connection.
fn ask(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        // A refusal may be followed by a reset, after which there is nothing more.
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&answer).into_owned(),
            Ok(count) => answer.extend(&buffer[..count]),
        }
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

fn upgrade(path: &str, token: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {token}\r\n{fields}\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// A client's frame, with a key of zeros, and the code that a session which began with it was closed with.
fn close_code(program: &Program, path: &str, payload: usize) -> Option<u16> {
    let mut stream = TcpStream::connect(program.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(upgrade(path, "websocket", "").as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
    let mut frame = vec![0x82, 0x80 | 126];
    frame.extend(u16::try_from(payload).unwrap().to_be_bytes());
    frame.extend([0; 4]);
    frame.resize(frame.len() + payload, b'x');
    stream.write_all(&frame).unwrap();
    let mut start = [0; 4];
    stream.read_exact(&mut start).unwrap();
    (start[0] == 0x88).then(|| u16::from_be_bytes([start[2], start[3]]))
}

#[test]
fn what_a_file_says_has_effect() {
    let folder = Folder::new("effect");
    folder.file(
        r#"
        threads = 1
        [limits]
        head_time = "200ms"
        body_max = 10
        message_max = 500
        target_max = 100
        [[listen]]
        address = "127.0.0.1:0"
        [[route]]
        path = "/only-websocket"
        protocols = ["websocket"]
        [[route]]
        path = "/both"
        protocols = ["websocket", "echo"]
        fallback = "page"
        limits.message_max = 1000
        websocket.origins = ["https://friend.example"]
        [[route]]
        path = "/up"
        fallback = "health"
        [[route]]
        path = "/mirror"
        fallback = "mirror"
        "#,
    );
    let program = folder.serves(&[]);
    // Protocols and fallbacks are those of the route.
    let refused = program.ask(&upgrade("/only-websocket", "echo", ""));
    assert!(refused.starts_with("HTTP/1.1 426 ") && refused.contains("Upgrade: websocket\r\n"), "{refused}");
    assert!(program.ask(&get("/only-websocket")).starts_with("HTTP/1.1 426 "));
    let page = program.ask(&get("/both"));
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("Upgrade: websocket, echo\r\n"), "{page}");
    assert!(program.ask(&get("/up")).ends_with("ok\n"));
    assert!(program.ask(&get("/healthz")).starts_with("HTTP/1.1 404 "), "routes replace the program's own");
    // Limits are those of the file, or the route's own.
    assert_eq!(close_code(&program, "/only-websocket", 500), None);
    assert_eq!(close_code(&program, "/only-websocket", 501), Some(1009));
    assert_eq!(close_code(&program, "/both", 1000), None);
    assert_eq!(close_code(&program, "/both", 1001), Some(1009));
    let post = |length: usize| {
        let body = "x".repeat(length);
        format!(
            "POST /mirror HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    assert!(program.ask(&post(10)).ends_with("\r\n\r\nxxxxxxxxxx"));
    assert!(program.ask(&post(11)).starts_with("HTTP/1.1 413 "));
    assert!(program.ask(&get(&format!("/{}", "x".repeat(100)))).starts_with("HTTP/1.1 414 "));
    // Origins are the route's own.
    let origin =
        |path, origin| program.ask(&upgrade(path, "websocket", &format!("Origin: https://{origin}\r\n")));
    assert!(origin("/only-websocket", "friend.example").starts_with("HTTP/1.1 403 "));
    assert!(origin("/both", "stranger.example").starts_with("HTTP/1.1 403 "));
    // The time for a head.
    let start = Instant::now();
    assert!(program.ask("GET / HTTP/1.1\r\nHost: ").starts_with("HTTP/1.1 408 "));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    program.end();
}

#[test]
fn what_a_file_says_of_the_log_and_of_the_operator_has_effect() {
    let folder = Folder::new("operator");
    folder.file(
        r#"
        threads = 1
        log_format = "json"
        log_sample = 2
        pid_file = "a.pid"
        [admin]
        listen = ["127.0.0.1:0"]
        socket = "admin.sock"
        recent_handshakes = 3
        debug_head = "/head"
        [[listen]]
        address = "127.0.0.1:0"
        "#,
    );
    let log = folder.0.join("log");
    let mut command = folder.program();
    command.args(["--config", "a.toml"]).stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap());
    let program = Program::of(command.spawn().unwrap());
    let metrics = program.lines.recv_timeout(PATIENCE).unwrap();
    let metrics = metrics.strip_prefix("switchpoint: metrics at http://").unwrap();
    let metrics: SocketAddr = metrics.strip_suffix("/metrics").unwrap().parse().unwrap();
    assert_eq!(program.lines.recv_timeout(PATIENCE).unwrap(), "switchpoint: admin socket at admin.sock");

    // Two sessions that end well, of which one has a line, and a refusal.
    for _ in 0..2 {
        let mut stream = TcpStream::connect(program.address()).unwrap();
        stream.write_all(upgrade("/echo", "echo", "").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    }
    assert!(program.ask(&upgrade("/echo", "other", "")).starts_with("HTTP/1.1 426 "));
    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let has = |message: &str| lines().iter().filter(|line| line["message"] == message).count();
    until("one of two that ended has a line, and the refusal", || (has("ended"), has("refused")) == (1, 1));

    let ask_metrics = |path: &str| ask(TcpStream::connect(metrics).unwrap(), &get(path));
    assert!(ask_metrics("/metrics").contains("\nswitchpoint_build_info{"));
    assert!(ask_metrics("/echo").starts_with("HTTP/1.1 404 "), "nothing else is there");
    let head = program.ask(&get("/head"));
    assert!(head.contains("X-Switchpoint-Head: 1\r\n") && head.contains("\nGET /head HTTP/1.1\n"), "{head}");
    until("the three handshakes are shown", || {
        let shown = program.ask(&get("/handshakes"));
        let shown: Value = serde_json::from_str(shown.split_once("\r\n\r\n").unwrap().1).unwrap();
        shown["handshakes"].as_array().unwrap().len() == 3
    });
    let pid = program.child.id().to_string();
    until("the number of the process is written", || {
        fs::read_to_string(folder.0.join("a.pid")).is_ok_and(|text| text.trim() == pid)
    });
    let stats = folder.ends(&["ctl", "stats", "--socket", "admin.sock", "--json"]);
    assert!(stats.status.success(), "{stats:?}");
    program.end();

    // A flag switches off what the file has, and is named where it is wrong.
    let shown = folder.ends(&["print-config", "--config", "a.toml", "--recent-handshakes", "--debug-head="]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    for line in [
        "log_format = \"json\" # a.toml:3",
        "listen = [\"127.0.0.1:0\"] # a.toml:7",
        "recent_handshakes = 64 # --recent-handshakes",
        "debug_head = \"\" # --debug-head",
    ] {
        let has = |shown: &str| shown.split_whitespace().collect::<Vec<_>>().join(" ") == line;
        assert!(shown.lines().any(has), "{line}: {shown}");
    }
    let taken = folder.ends(&["--config", "a.toml", "--debug-head", "/healthz"]);
    assert_eq!(
        (taken.status.code(), &*String::from_utf8_lossy(&taken.stderr)),
        (
            Some(2),
            "error: `admin.debug_head`: there is a route for /healthz already, of the program's own\n \
             --> --debug-head\n  = help: choose a path that nothing else has, such as /debug/head\n\n\
             switchpoint: an error in the configuration\n"
        )
    );
}

#[test]
fn a_flag_comes_before_a_variable_before_the_file() {
    let folder = Folder::new("layers");
    folder.file("[limits]\nmessage_max = 150\n[[listen]]\naddress = \"127.0.0.1:0\"\n");
    let program = folder.serves(&[]);
    assert_eq!(close_code(&program, "/echo", 151), Some(1009));
    program.end();
    let mut command = folder.program();
    command.env("SWITCHPOINT_CONFIG", "a.toml").env("SWITCHPOINT_LIMITS_MESSAGE_MAX", "200");
    let program = Program::start(&mut command);
    assert_eq!((close_code(&program, "/echo", 200), close_code(&program, "/echo", 201)), (None, Some(1009)));
    program.end();
    let program = Program::start(command.args(["--message-max", "300"]));
    assert_eq!((close_code(&program, "/echo", 300), close_code(&program, "/echo", 301)), (None, Some(1009)));
    program.end();
    let shown = command.args(["print-config", "--message-max", "300"]).output();
    // Flags before a subcommand are not the subcommand's.
    assert_eq!(shown.unwrap().status.code(), Some(2));
    let mut command = folder.program();
    command.env("SWITCHPOINT_LIMITS_MESSAGE_MAX", "200").args([
        "print-config",
        "--config",
        "a.toml",
        "--threads",
        "1",
    ]);
    let shown = String::from_utf8(command.output().unwrap().stdout).unwrap();
    for line in [
        "message_max = 200 # SWITCHPOINT_LIMITS_MESSAGE_MAX",
        "threads = 1 # --threads",
        "address = \"127.0.0.1:0\" # a.toml:4",
    ] {
        let has = |shown: &str| shown.split_whitespace().collect::<Vec<_>>().join(" ") == line;
        assert!(shown.lines().any(has), "{line}: {shown}");
    }
}

#[test]
fn what_is_wrong_is_said_before_anything_is_served() {
    let folder = Folder::new("wrong");
    folder.file("[limits]\nhead_tim = \"5s\"\nbody_max = true\n");
    let expected = "\
error: unknown key `head_tim` in [limits]
 --> a.toml:2:1
  |
2 | head_tim = \"5s\"
  | ^^^^^^^^
  = help: did you mean `head_time`?

error: `limits.body_max`: it is a size, and true or false was given
 --> a.toml:3:12
  |
3 | body_max = true
  |            ^^^^
  = help: write a number of bytes, such as 65536, or \"64KiB\" or \"16MiB\" in quotes

error: `threads`: `many` is not a number
 --> --threads
  = help: write a whole number, such as 100

switchpoint: 3 errors in the configuration
";
    for command in
        [&["check-config", "a.toml"][..], &["print-config", "--config", "a.toml"], &["--config", "a.toml"]]
    {
        let output = folder.ends(&[command, &["--threads", "many"]].concat());
        assert_eq!(String::from_utf8(output.stderr).unwrap(), expected, "{command:?}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{command:?}");
    }
    let missing = folder.ends(&["check-config", "missing.toml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot read missing.toml: No such file"));
    folder.file("threads = 1\n");
    let fine = folder.ends(&["check-config", "a.toml"]);
    assert_eq!(
        (fine.status.code(), &*String::from_utf8_lossy(&fine.stdout)),
        (Some(0), "a.toml: no errors; 1 setting of its own, 1 listener, 5 routes\n")
    );
}

#[cfg(all(feature = "auth", feature = "tls"))]
#[test]
fn a_route_lets_in_who_has_the_token_and_a_listener_speaks_tls() {
    let folder = Folder::new("auth");
    folder.file(
        r#"
        [limits]
        handshakes_address_per_second = 1
        handshakes_address_burst = 3
        [[listen]]
        address = "127.0.0.1:0"
        [[listen]]
        address = "127.0.0.1:0"
        tls.self_signed = true
        [[route]]
        path = "/echo"
        protocols = ["echo"]
        auth.bearer = { tokens = ["alice:a-secret-of-some-length"] }
        "#,
    );
    let program = folder.serves(&[]);
    assert!(program.places[1].starts_with("https://"), "{:?}", program.places);
    let asks = |fields: &str| {
        let mut stream = TcpStream::connect(program.address()).unwrap();
        stream.write_all(upgrade("/echo", "echo", fields).as_bytes()).unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        String::from_utf8_lossy(&start).into_owned()
    };
    assert_eq!(asks(""), "HTTP/1.1 401");
    assert_eq!(asks("Authorization: Bearer a-secret-of-another\r\n"), "HTTP/1.1 401");
    assert_eq!(asks("Authorization: Bearer a-secret-of-some-length\r\n"), "HTTP/1.1 101");
    assert_eq!(asks("Authorization: Bearer a-secret-of-some-length\r\n"), "HTTP/1.1 429", "the file's limit");
    let tls: SocketAddr = program.places[1].strip_prefix("https://").unwrap().parse().unwrap();
    let answer = ask(TcpStream::connect(tls).unwrap(), &get("/echo"));
    assert!(answer.contains("reason: tls-required"), "{answer:?}");
    program.end();
    let shown = folder.ends(&["print-config", "--config", "a.toml"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("[redacted]") && !shown.contains("a-secret"), "{shown}");
    folder.file(
        "[[listen]]\naddress = \":1\"\ntls.certificates = [{ chain = \"no.pem\", key = \"no.key\" }]\n",
    );
    let missing = folder.ends(&["check-config", "a.toml"]);
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(
        missing.status.code() == Some(2) && said.contains("a.toml:3: ") && said.contains("no."),
        "{said}"
    );
}

#[test]
fn a_unix_socket_beside_tcp_each_with_its_own_h2c() {
    let folder = Folder::new("unix");
    folder.file(
        "[[listen]]\naddress = \"unix:a.sock\"\nmode = \"0600\"\nh2c = true\n[[listen]]\naddress = \"127.0.0.1:0\"\n",
    );
    let program = folder.serves(&[]);
    assert_eq!(program.places[0], "unix:a.sock");
    let socket = folder.0.join("a.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let asks = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                HTTP2-Settings: AAMAAABk\r\n\r\n";
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(asks.as_bytes()).unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 101");
    drop(stream);
    let ordinary = program.ask(&asks.replace("Upgrade, ", "close, Upgrade, "));
    assert!(ordinary.starts_with("HTTP/1.1 200 "), "{ordinary}");
    let twice = folder.ends(&["--config", "a.toml"]);
    assert_eq!(twice.status.code(), Some(1));
    let said = String::from_utf8_lossy(&twice.stderr).into_owned();
    assert!(said.contains("cannot listen on unix:a.sock: the address is in use"), "{said}");
    program.end();
    assert!(!socket.exists());
}

#[test]
fn a_socket_that_the_program_is_started_with_outlives_it() {
    let folder = Folder::new("inherited");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Passed on as whatever number it has here, and named as socket activation does.
    rustix::io::fcntl_setfd(listener.as_fd(), rustix::io::FdFlags::empty()).unwrap();
    let number = listener.as_raw_fd();
    folder.file(&format!("[[listen]]\naddress = \"fd://{number}\"\n"));
    for _ in 0..2 {
        let program = folder.serves(&[]);
        assert_eq!(program.places, [format!("http://{address}")]);
        assert!(program.ask(&get("/healthz")).ends_with("ok\n"));
        program.end();
    }
    rustix::io::fcntl_setfd(listener.as_fd(), rustix::io::FdFlags::CLOEXEC).unwrap();
    // Between two servers clients wait.
    let waiting = TcpStream::connect(address).unwrap();
    drop(waiting);
    let script =
        format!("exec 3<&{number}; LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID=$$ exec \"$0\" \"$@\"");
    rustix::io::fcntl_setfd(listener.as_fd(), rustix::io::FdFlags::empty()).unwrap();
    let mut shell = Command::new("bash"); // dash has no descriptors of two digits
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_switchpoint"), "--listen", "fd://web"]);
    let program = Program::start(&mut shell);
    assert!(program.ask(&get("/healthz")).ends_with("ok\n"));
    program.end();
    let nobody = folder.ends(&["--listen", "fd://web"]);
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(said.contains("cannot listen on fd://web: no sockets were passed on by name"), "{said}");
}
