//! How many there is room for.

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    iter,
    net::SocketAddr,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use switchpoint::{Config, Driver, Server, Upgraded, monoio};

use super::{Client, PATIENCE, config, drivers, registry, start, until};

#[test]
fn there_is_no_room_for_more_connections_than_the_limit() {
    for driver in drivers() {
        // Two for each of two workers: at least one of five is too many, wherever the kernel puts them.
        let (server, address) = start(Config { connections_max: 4, ..config(driver) });
        let mut let_in = Vec::new();
        let mut turned_away = 0;
        for _ in 0..5 {
            let mut client = Client::connect(address);
            let head = client.ask("echo");
            if head.starts_with("HTTP/1.1 101 ") {
                let_in.push(client);
                continue;
            }
            assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: "), "{head}");
            assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
            let body = String::from_utf8(client.rest().unwrap()).unwrap();
            assert!(body.contains("reason: too-many-connections\n"), "{body}");
            turned_away += 1;
        }
        assert!(turned_away >= 1 && let_in.len() <= 4);
        until(&server, "they are counted", |stats| {
            stats.rejections.get("too-many-connections") == Some(&turned_away)
        });
        for client in &mut let_in {
            client.echoes("undisturbed");
        }
    }
}

#[test]
fn who_was_turned_away_does_not_take_the_room_of_others() {
    let config = Config { threads: 1, connections_max: 2, ..config(Driver::Auto) };
    let (server, address) = start(config);
    let let_in = [Client::switched(address, "echo"), Client::switched(address, "echo")];
    until(&server, "they are counted", |stats| stats.sessions == 2);
    // They are told, and stay as long as they may.
    let _staying: Vec<_> = (0..4)
        .map(|_| {
            let mut client = Client::connect(address);
            assert!(client.head().starts_with("HTTP/1.1 503 "));
            client
        })
        .collect();
    drop(let_in);
    until(&server, "the room is free", |stats| stats.sessions == 0);
    let head = Client::connect(address).ask("echo");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

/// Names the driver to the child process of the next test.
const CHILD: &str = "SWITCHPOINT_TEST_CHILD";

/// The limit of descriptors is a process's, so the server has one of its own: this test, run again.
#[test]
fn a_server_without_descriptors_waits_and_goes_on() {
    if let Ok(driver) = env::var(CHILD) {
        return serve_with_few_descriptors(driver.parse().unwrap());
    }
    for driver in drivers() {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "limits::a_server_without_descriptors_waits_and_goes_on", "--nocapture"])
            .env(CHILD, driver.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut asks = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
        // What the test harness prints around it is not for us.
        let mut told = |what: &str| {
            let mut lines = answers.by_ref().map(Result::unwrap);
            lines.find_map(|line| Some(line.split_once(what)?.1.to_owned())).expect(what)
        };
        let address: SocketAddr = told("listening on ").parse().unwrap();
        let mut accept_errors = || -> u64 {
            writeln!(asks, "tell").unwrap();
            told("accept errors: ").parse().unwrap()
        };

        let mut clients: Vec<_> = (0..ROOM * 2).map(|_| Client::connect(address)).collect();
        // Those that came first are served, the others wait in the kernel's queue.
        let switched = |client: &mut Client| client.ask("echo").starts_with("HTTP/1.1 101 ");
        assert!(clients[..ROOM / 2].iter_mut().all(switched));
        let start = Instant::now();
        while accept_errors() == 0 {
            assert!(start.elapsed() < PATIENCE, "descriptors did not run out");
            thread::sleep(Duration::from_millis(10));
        }
        let before = accept_errors();
        let start = Instant::now();
        thread::sleep(Duration::from_millis(500));
        clients[0].echoes("still served");
        let grown = accept_errors() - before;
        // It tries again every 20 ms.
        let tries = start.elapsed().as_millis() as u64 / 20 + 2;
        assert!((1..=tries).contains(&grown), "{grown} errors, and {tries} tries were to be expected");

        // Clients leave, and those who waited get their turn.
        let mut waiting = clients.split_off(ROOM * 2 - 4);
        drop(clients);
        for client in &mut waiting {
            assert!(switched(client));
        }
        Client::switched(address, "echo").echoes("new ones, too");
        drop(asks);
        assert!(child.wait().unwrap().success());
    }
}

/// Connections that fit.
const ROOM: usize = 24;

/// More descriptors than a test process has.
const LIMIT: u64 = 1024;

fn serve_with_few_descriptors(driver: Driver) {
    // One worker: with two, either could take the descriptors before those who came first.
    let (server, address) = start(Config { threads: 1, ..config(driver) });
    // Only now: a server that starts with few keeps some back. What this process has inherited leaves holes below its
    // highest descriptor, so they are all taken, and as many given back as there is to be room.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), ..limit }).unwrap();
    let mut taken: Vec<File> = iter::from_fn(|| File::open("/dev/null").ok()).collect();
    taken.truncate(taken.len() - ROOM);
    println!("\nlistening on {address}");
    for line in io::stdin().lock().lines() {
        assert_eq!(line.unwrap(), "tell");
        println!("\naccept errors: {}", server.stats().accept_errors);
    }
    server.stop();
    server.join();
}

#[test]
fn the_limit_in_all_is_exact_wherever_the_kernel_puts_connections() {
    let config = Config { threads: 4, connections_max: 10, ..config(Driver::Auto) };
    let (server, address) = start(config);
    let mut let_in = Vec::new();
    for _ in 0..10 {
        let_in.push(Client::switched(address, "echo"));
    }
    let head = Client::connect(address).ask("echo");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let_in.pop();
    until(&server, "one is gone", |stats| stats.sessions == 9);
    Client::switched(address, "echo");
}

#[test]
fn a_worker_that_starts_anew_has_all_its_places_again() {
    let config = Config { threads: 1, connections_max: 4, ..config(Driver::Auto) };
    let server = Server::start(config, |_| {
        registry().on("wreck", async |_: Upgraded| {
            // Not a task that the library guards: it takes the runtime with it.
            monoio::spawn(async { panic!("as asked for") });
            monoio::time::sleep(PATIENCE).await;
            Ok(())
        })
    });
    let server = server.unwrap();
    let address = server.addresses()[0];
    for _ in 0..3 {
        let mut lost: Vec<_> = (0..3).map(|_| Client::switched(address, "echo")).collect();
        Client::switched(address, "wreck");
        for client in &mut lost {
            assert!(client.rest().unwrap_or_default().is_empty());
        }
    }
    let _all: Vec<_> = (0..4).map(|_| Client::switched(address, "echo")).collect();
}
