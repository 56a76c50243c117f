//! Scenario files, several runs and several processes: the built program against a server that behaves.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use switchpoint::{Config, Server, protocols};

fn serve() -> (Server, SocketAddr) {
    let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], threads: 1, ..Config::default() };
    let server = Server::start(config, |_| protocols::demonstration(Default::default())).unwrap();
    let address = server.addresses()[0];
    (server, address)
}

fn loadgen(line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(line.split(' '))
        .env("LOADGEN_TOKEN", "a secret")
        .output()
        .unwrap()
}

fn json(line: &str) -> (i32, Value) {
    let output = loadgen(&format!("{line} --json"));
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text} {error}"));
    (output.status.code().unwrap(), value)
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("loadgen-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_phases_of_a_file_have_their_own_figures_and_verdicts() {
    let (_server, address) = serve();
    let folder = Folder::new("phases");
    let file = folder.path("a.toml");
    let text = format!(
        r#"
        url = "ws://{address}/echo"
        connections = 8
        max-errors = 0

        [[phase]]
        name = "warm-up"
        time = "200ms"
        rate = 200
        measured = false

        [[phase]]
        name = "steady"
        time = "400ms"
        rate = 500
        threshold = "p50<1s"

        [[phase]]
        name = "spike"
        time = "500ms"
        rate = 200
        profile = "spike:2k@200ms"
        threshold = ["errors==0", "p50<1us"]

        [[phase]]
        name = "storm"
        time = "500ms"
        rate = 200
        reconnect-all = true
        "#
    );
    fs::write(&file, text).unwrap();
    let (code, value) = json(&format!("run {file} --seed 7 --html {}", folder.path("a.html")));
    let phases = value["phases"].as_array().unwrap();
    let of = |name: &str| phases.iter().find(|phase| phase["name"] == name).unwrap();
    let planned = |name: &str| of(name)["messages"]["planned"].as_u64().unwrap();
    assert_eq!(
        [planned("warm-up"), planned("steady"), planned("spike"), planned("storm")],
        [40, 200, 460, 100],
        "{value:#}"
    );
    assert_eq!((&value["messages"]["planned"], &value["plan"]["seed"]), (&760.into(), &7.into()));
    assert!(code == 4 || value["messages"]["answered"] == 760, "{value:#}");
    assert_eq!((of("warm-up")["verdict"].is_null(), of("steady")["verdict"].is_string()), (true, true));
    assert_eq!(of("steady")["thresholds"][0]["met"], true);
    assert_eq!(
        (&of("spike")["thresholds"][0]["met"], &of("spike")["thresholds"][1]["met"]),
        (&true.into(), &false.into())
    );
    // A phase's threshold counts like the run's.
    assert!(code == 2 || code == 4, "{code}: {value:#}");
    // All connections were opened again for the storm.
    assert_eq!(value["opening_ns"]["upgrade"]["count"], 8, "{:#}", value["opening_ns"]);
    assert_eq!(of("storm")["opening_ns"]["upgrade"]["count"], 8, "{:#}", of("storm"));
    assert_eq!(of("storm")["opening_ns"]["ready"]["count"], 8);
    assert!(of("steady")["opening_ns"].is_null());
    assert_eq!(value["connections"]["failed"], 0);
    let html = fs::read_to_string(folder.path("a.html")).unwrap();
    assert!(html.contains("<h2>Phases</h2>") && html.contains("<td>spike<td"));

    let output = loadgen(&format!("run {file} --no-progress"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("spike response") && text.contains("planned 460 = answered 4"), "{text}");

    fs::write(&file, "url = \"ws://h/\"\n\n[[phase]]\ntyme = \"1s\"\n").unwrap();
    let output = loadgen(&format!("run {file}"));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(text.contains("a.toml:4: a phase has no `tyme`; it has name, time"), "{text}");
}

/// A process that waits for a coordinator.
struct Agent {
    child: Child,
    address: String,
}

impl Agent {
    fn start(token: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .arg("agent")
            .env("LOADGEN_TOKEN", token)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("agent on ").unwrap().to_owned();
        Self { child, address }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn agents_share_one_schedule_and_their_figures_add_up() {
    let (_server, address) = serve();
    let agents = [Agent::start("a secret"), Agent::start("a secret"), Agent::start("a secret")];
    let names = agents.each_ref().map(|agent| &*agent.address).join(",");
    // Twice: an agent serves one after the other.
    for arrival in ["fixed", "poisson"] {
        let line =
            format!("ws ws://{address}/echo -c 10 -r 600 -d 1s --warmup 100ms --arrival {arrival} --seed 3");
        let (code, value) = json(&format!("{line} --agents {names}"));
        assert!(code == 0 || code == 4, "{value:#}");
        let (_, alone) = json(&line);
        let planned = |value: &Value| value["messages"]["planned"].as_u64().unwrap();
        if arrival == "fixed" {
            assert_eq!((planned(&value), planned(&alone)), (600, 600));
        }
        let messages = &value["messages"];
        // Where the machine is so busy that an agent was late, it is said.
        assert!(code == 4 || messages["answered"] == messages["planned"], "{value:#}");
        assert_eq!(value["response_ns"]["count"], messages["planned"]);
        assert_eq!(value["connections"]["opened"], 10);
        let seconds = value["seconds"].as_array().unwrap().iter();
        let of_seconds: u64 = seconds.map(|second| second["answered"].as_u64().unwrap()).sum();
        assert_eq!(of_seconds, planned(&value) + value["warmup"]["answered"].as_u64().unwrap());
        assert!(value["agents"].as_str().unwrap().starts_with("3 agents, whose clocks are known to"));
    }
    let line = format!("ws ws://{address}/echo -c 10 -r 600 -d 1s");
    let stranger = Agent::start("another secret");
    for (flags, hint) in [
        (format!("{line} --agents {}", stranger.address), "the token is not mine"),
        (format!("{line} --agents 127.0.0.1:1"), "agent 127.0.0.1:1: "),
        (format!("ws ws://127.0.0.1:1/ -c 2 -d 1s --agents {names}"), "at least 3 connections"),
        (format!("{line} --agents {names} --token-file /nowhere"), "/nowhere"),
    ] {
        let output = loadgen(&flags);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(64) && error.contains(hint), "{flags}: {error}");
    }
}

#[test]
fn a_search_prints_its_points_and_says_what_it_found() {
    let (_server, address) = serve();
    let line = format!("search ws://{address}/echo -c 4 -d 200ms --warmup 0s --allow-degraded");
    let flags = "--slo p50<5s --slo errors==0 --min 50 --max 100 --confirm 1 --grace 5s";
    let output = loadgen(&format!("{line} {flags}"));
    let text = String::from_utf8(output.stdout).unwrap();
    // On a machine that is very busy no point is valid, which is said, too.
    let found = text.contains("100/s holds, and is the highest that was asked for");
    assert!(found || text.contains("did not count"), "{text}");
    assert!(text.contains("p50<5s "), "{text}");
    let (code, value) = json(&format!("{line} --slo p50<1ns --min 50 --max 100 --confirm 1"));
    assert_eq!((code, &value["best"]), (2, &Value::Null), "{value:#}");
    assert!(value["points"].as_array().unwrap().iter().all(|point| point["fate"] != "holds"));
    for (flags, hint) in
        [("", "--slo"), ("--slo p99<1ms -r 5", "leave out -r"), ("--slo nonsense<1", "not measured")]
    {
        let output = loadgen(format!("search ws://{address}/echo {flags}").trim());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(64) && error.contains(hint), "{flags}: {error}");
    }
}

#[test]
fn a_and_b_take_turns() {
    let (_server, address) = serve();
    let loadgen_itself = env!("CARGO_BIN_EXE_loadgen");
    let output = Command::new(loadgen_itself)
        .args([
            "ab",
            "--pairs",
            "2",
            "-c",
            "2",
            "-r",
            "200",
            "-d",
            "2s",
            "--warmup",
            "0s",
            "--max-errors",
            "0",
        ])
        .args(["--a", &format!("ws://{address}/echo")])
        .args(["--b", &format!("{loadgen_itself} oracle --mode fixed:30ms --listen 127.0.0.1:{{port}}")])
        .arg("--json")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    if output.status.code() == Some(64) {
        // A machine so busy that the generator was late three times.
        assert!(error.contains("is no side to compare: INVALID"), "{error}");
        return;
    }
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&value["different"], &value["changes"][0]["said"]),
        (&true.into(), &"slower".into()),
        "{value:#}"
    );
    assert!(value["changes"][0]["b_ns"].as_u64().unwrap() > 29_900_000, "{value:#}");
    assert_eq!(value["verdicts"]["b"].as_array().unwrap().len(), 2);
    for (side, hint) in [("nonsense", "a side is a URL"), ("/nowhere {port}", "cannot start `/nowhere`")] {
        let output =
            Command::new(loadgen_itself).args(["ab", "--a", side, "--b", side, "-d", "1s"]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(64) && error.contains(hint), "{side}: {error}");
    }
}

#[test]
fn results_are_what_their_schema_says() {
    let (_server, address) = serve();
    let schema: Value = serde_json::from_str(include_str!("../../docs/loadgen.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let folder = Folder::new("schema");
    let file = folder.path("a.toml");
    let phases = "[[phase]]\ntime = \"200ms\"\nrate = 500\n[[phase]]\ntime = \"200ms\"\nrate = 500\nthreshold = \"p50<1s\"\n";
    fs::write(&file, format!("url = \"ws://{address}/echo\"\n{phases}")).unwrap();
    let pid = std::process::id();
    for line in [
        format!(
            "ws ws://{address}/echo -c 4 -r 500 -d 300ms --server-pid {pid} --label a=b --threshold errors==0"
        ),
        format!("ws ws://{address}/echo -c 4 -d 300ms --slow-readers 50%:1KB/s"),
        format!("h2c http://{address}/healthz --prior-knowledge -c 2 -n 100"),
        format!("storm ws://{address}/echo -c 20"),
        format!("connect ws://{address}/echo -c 5 --hold 50ms"),
        format!("fanout ws://{address}/echo --receivers 2 -r 20 -d 300ms --grace 0"),
        "ws ws://127.0.0.1:1/ -c 3 -d 200ms".to_owned(),
        format!("run {file}"),
    ] {
        let (_, value) = json(&line);
        let faults: Vec<String> = validator
            .iter_errors(&value)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{line}: {faults:#?}");
    }
    // It is not a schema that takes everything.
    let (_, mut value) = json(&format!("ws ws://{address}/echo -c 1 -n 5"));
    value["messages"]["planned"] = "five".into();
    assert!(!validator.is_valid(&value));
    value["messages"]["planned"] = 5.into();
    value["surplus"] = 1.into();
    assert!(!validator.is_valid(&value));
}
