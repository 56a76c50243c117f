//! At a terminal: a pseudo terminal, whose other side types and looks.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{
    exit, program,
    server::{Once, Ours, listen, read_frame, switch},
};

/// Who sits there.
struct Typist {
    child: Child,
    master: File,
    slave: OwnedFd,
    /// What was seen, and how much of it was looked for.
    seen: String,
    looked: usize,
}

impl Typist {
    fn start(arguments: &[&str], home: &Path) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = OpenOptions::new().read(true).write(true).open(name).unwrap();
        tcsetwinsize(&slave, Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = program()
            .arg("connect")
            .args(arguments)
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .env("HOME", home)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Self { child, master: master.into(), slave: slave.into(), seen: String::new(), looked: 0 }
    }

    fn types(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` is seen, behind what was looked for before.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(at) = self.seen[self.looked..].find(text) {
                self.looked += at + text.len();
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", &self.seen[self.looked..]);
            self.read(Duration::from_millis(100));
        }
    }

    fn read(&mut self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        let limit = Timespec::try_from(limit).unwrap();
        if poll(&mut fds, Some(&limit)).unwrap() == 0 {
            return false;
        }
        let mut bytes = [0; 4096];
        let Ok(count) = self.master.read(&mut bytes) else { return false };
        self.seen += &String::from_utf8_lossy(&bytes[..count]);
        count > 0
    }

    /// The exit code, when it has ended; the terminal has to be as it was.
    fn ends(mut self) -> (Option<i32>, String) {
        let code = exit(&mut self.child);
        while self.read(Duration::from_millis(50)) {}
        let modes = tcgetattr(self.slave.as_fd()).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO), "the terminal is still raw");
        (code, self.seen)
    }
}

/// A home that goes with the test.
struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("switchpoint-home-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn history(&self) -> Option<String> {
        fs::read_to_string(self.0.join(".local/state/switchpoint/connect_history")).ok()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn what_is_typed_is_sent_and_the_answer_is_seen() {
    let server = Ours::start();
    let home = Home::new("typed");
    let mut typist = Typist::start(&[&server.url("/echo")], &home.0);
    typist.sees("connected to ws://");
    typist.sees("> ");
    typist.types("hello\r");
    typist.sees("< hello");
    typist.types("/binary 41 42 00 ff\r");
    typist.sees("< binary, 4 bytes");
    typist.sees("41 42 00 ff");
    typist.sees("|AB..|");
    typist.types("/ping x\r");
    typist.sees("pong \"x\", ");
    typist.sees(" ms");
    typist.types("//slash\r");
    typist.sees("< /slash");
    typist.types("/nonsense\r");
    typist.sees("there is no /nonsense");
    typist.types("/frames on\r/text framed\r");
    typist.sees("> text(0x1) fin=1 rsv=000 mask=");
    typist.sees("< text(0x1) fin=1 rsv=000 mask=no length=6 \"framed\"");
    typist.types("/stats\r");
    typist.sees("round trips of pings: 1; least");
    typist.sees("round trips of messages that came back: 4; least");
    typist.types("/close 4001 done\r");
    typist.sees("closed: 4001 of the application");
    let (code, _) = typist.ends();
    assert_eq!(code, Some(0));
    let history = home.history().unwrap();
    assert!(history.contains("hello\n") && history.contains("/stats\n"), "{history}");
}

#[test]
fn the_history_comes_back_with_the_next_run() {
    let server = Ours::start();
    let home = Home::new("history");
    let mut typist = Typist::start(&[&server.url("/echo")], &home.0);
    typist.sees("> ");
    typist.types("remember me\r");
    typist.sees("< remember me");
    typist.types(" not this\r");
    typist.sees("<  not this");
    typist.types("\x04");
    assert_eq!(typist.ends().0, Some(0));
    let mut typist = Typist::start(&[&server.url("/echo")], &home.0);
    typist.sees("> ");
    typist.types("\x1b[A\r");
    typist.sees("< remember me");
    typist.types("\x03");
    let (code, seen) = typist.ends();
    assert_eq!(code, Some(0));
    assert!(seen.contains("closed: 1000 normal"), "{seen:?}");
    assert!(!home.history().unwrap().contains("not this"), "what begins with a space is not kept");
}

#[test]
fn without_a_history_nothing_is_kept() {
    let server = Ours::start();
    let home = Home::new("none");
    let mut typist = Typist::start(&[&server.url("/echo"), "--no-history"], &home.0);
    typist.sees("> ");
    typist.types("a secret\r");
    typist.sees("< a secret");
    typist.types("\x04");
    assert_eq!(typist.ends().0, Some(0));
    assert_eq!(home.history(), None);
}

#[test]
fn what_arrives_leaves_the_line_that_is_typed_alone() {
    let server = Once::start(|mut stream| {
        switch(&mut stream, "");
        thread::sleep(Duration::from_millis(700));
        stream.write_all(b"\x81\x05\x1b[2Jx").unwrap();
        let frame = read_frame(&mut stream).unwrap();
        stream.write_all(b"\x88\x06\x03\xf0gone").unwrap();
        drop(read_frame(&mut stream));
        frame
    });
    let home = Home::new("async");
    let mut typist = Typist::start(&[&server.url], &home.0);
    typist.sees("> ");
    typist.types("half of ");
    typist.sees("half of ");
    // A peer does not get at the terminal.
    typist.sees("< \\u{1b}[2Jx");
    typist.sees("> half of ");
    typist.types("a line\r");
    assert_eq!(server.end(), (0x81, b"half of a line".to_vec()));
    let (code, seen) = typist.ends();
    assert_eq!(code, Some(4), "{seen:?}");
    assert!(seen.contains("closed by the server: 1008 policy violation, \"gone\""), "{seen:?}");
}

#[test]
fn a_file_is_sent_as_what_it_is() {
    let home = Home::new("file");
    fs::write(home.0.join("text"), "from a file").unwrap();
    let server = Once::start(|stream| listen(stream, "").1);
    let mut typist = Typist::start(&[&server.url], &home.0);
    typist.sees("> ");
    let file = home.0.join("text");
    typist.types(&format!("/file @{0}\r/binary @{0}\r/quit\r", file.display()));
    assert_eq!(typist.ends().0, Some(0));
    let content = b"from a file".to_vec();
    let close = (0x88, 1000_u16.to_be_bytes().to_vec());
    assert_eq!(server.end(), [(0x81, content.clone()), (0x82, content), close]);
}

#[test]
fn another_protocol_gets_lines() {
    let server = Ours::start();
    let home = Home::new("raw");
    let url = format!("http://{}/echo", server.address());
    let mut typist = Typist::start(&[&url, "--proto", "echo"], &home.0);
    typist.sees("> ");
    typist.types("plain\r");
    typist.sees("plain"); // as it is typed
    typist.sees("plain\r\n");
    typist.types("/ping\r");
    typist.sees("is for WebSocket");
    typist.types("\x04");
    assert_eq!(typist.ends().0, Some(0));
}
