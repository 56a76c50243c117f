//! Conversations that were written down.

use std::io::Write;

use crate::{
    connect, run,
    server::{Once, Ours, listen, switch},
};

/// Runs a script, given by standard input.
fn script(url: &str, steps: &str) -> crate::Run {
    run(&["connect", url, "--script", "-", "--timeout", "5s"], steps.as_bytes())
}

#[test]
fn what_is_as_expected_ends_with_0() {
    let server = Ours::start();
    let steps = "\
# a greeting, then an echo
expect welcome
send hello there
expect hello there
send 2026-11-22
expect /^\\d{4}-\\d\\d-\\d\\d$/
send-binary 00 ff
expect-binary 00ff
ping are you there
sleep 20ms
send skipped
send not skipped
await /^NOT/i
close 4001 so long
expect-close 4001
";
    let run = script(&server.url("/greeting"), steps);
    assert!(run.is_fine().out().starts_with("welcome\nhello there\n2026-11-22\n00ff\n"));
    script(&server.url("/policy"), "send x\nexpect-close 1008").is_fine();
    script(&server.url("/policy"), "send x\nexpect-close").is_fine();
    let lost = Once::start(|mut stream| drop(switch(&mut stream, "")));
    script(&lost.url, "expect-close 1006").is_fine();
    lost.end();
}

#[test]
fn what_is_not_says_where_and_what_came_instead() {
    let server = Ours::start();
    let run = script(&server.url("/greeting"), "\nexpect hello\n");
    run.fails(1, &["script, line 2: expected \"hello\", got \"welcome\""]);
    let run = script(&server.url("/echo"), "send a\nexpect /b+/\n");
    run.fails(1, &["script, line 2: expected /b+/, got \"a\""]);
    let run = script(&server.url("/echo"), "timeout 100ms\nexpect a\n");
    run.fails(1, &["script, line 2: expected \"a\", got nothing within 100ms"]);
    let run = script(&server.url("/policy"), "send a\nexpect a\n");
    run.fails(1, &["line 2: expected \"a\", got closed by the server: 1008 policy violation"]);
    let run = script(&server.url("/policy"), "send a\nexpect-close 1000\n");
    run.fails(1, &["expected a close with 1000, got closed by the server: 1008"]);
    let lost = Once::start(|mut stream| drop(switch(&mut stream, "")));
    script(&lost.url, "expect a").fails(1, &["line 1", "without a close (1006)"]);
    lost.end();
}

#[test]
fn a_script_is_read_before_anybody_is_asked() {
    connect(&["ws://127.0.0.1:1/", "--script", "/nonexistent"], b"").fails(2, &["/nonexistent"]);
    script("ws://127.0.0.1:1/", "send a\nshout b").fails(2, &["script, line 2", "\"shout\" is no step"]);
    script("ws://127.0.0.1:1/", "expect /(/").fails(2, &["script, line 1"]);
}

#[test]
fn a_script_of_a_file_closes_at_its_end() {
    let path = std::env::temp_dir().join(format!("switchpoint-script-{}", std::process::id()));
    std::fs::File::create(&path).unwrap().write_all(b"send bye\n").unwrap();
    let server = Once::start(|stream| listen(stream, "").1);
    connect(&[&server.url, "--script", path.to_str().unwrap()], b"not read").is_fine();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(server.end(), [(0x81, b"bye".to_vec()), (0x88, 1000_u16.to_be_bytes().to_vec())]);
}
