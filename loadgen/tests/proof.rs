//! The self-test is seen to fail when the engine is broken on purpose, each time where it has to; and the path of a message
//! is seen to allocate nothing.

use std::{
    process::Command,
    sync::{Mutex, PoisonError},
};

use serde_json::Value;
use switchpoint::{Config, Server, protocols};

static TURN: Mutex<()> = Mutex::new(());

/// Whether a case of the self-test holds, and what is said of it.
fn holds(case: &str, broken: Option<&str>) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["selftest", case]);
    if let Some(how) = broken {
        command.env("LOADGEN_BREAK", how);
    }
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn an_engine_that_is_broken_is_found_out() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for (how, case, said) in [
        // Coordinated omission: what other tools report of a stall.
        ("from-send", "t1b", "p99: "),
        // The end of the run is not looked at.
        ("drop-unanswered", "t2", "p90: "),
        // Whatever comes back is taken for an echo.
        ("believe-all", "t11", "corrupt:100"),
        // The server is blamed for what we did.
        ("hide-lag", "t4", "send-lag p99: "),
    ] {
        let (is_found, text) = holds(case, Some(how));
        assert!(!is_found && text.contains("FAIL") && text.contains(said), "{how} is not found out: {text}");
        let (is_whole, text) = holds(case, None);
        assert!(is_whole, "{case} without {how}: {text}");
    }
}

/// T24, its second half.
#[test]
fn the_path_of_a_message_allocates_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], threads: 1, ..Config::default() };
    let server = Server::start(config, |_| protocols::demonstration(Default::default())).unwrap();
    let address = server.addresses()[0];
    for how in ["-c 8 -r 5000 -d 2s", "-c 8 -p 4 -d 1s", "-c 8 -r 5000 -s uniform:20..2000 -d 2s"] {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(format!("ws ws://{address}/echo {how} --json").split(' '))
            .output()
            .unwrap();
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |value: &Value| value.as_u64().unwrap() as f64;
        let each = number(&value["allocations"]) / number(&value["messages"]["answered"]);
        // What is left is the ticker's, and a buffer here and there that grows once.
        assert!(each < 0.02, "{how}: {each} allocations a message");
    }
}
