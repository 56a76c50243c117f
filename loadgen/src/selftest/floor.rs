//! What the tool adds to a latency, and the highest rate that it can vouch for: figures of this machine.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::bench::{Oracle, program, run};
use crate::{
    record::{Times, times},
    units::{Nanos, rate_text, short},
};

/// The simplest client that there is: it sends a message, and blocks until its reply is there; or asks for it again and again,
/// if it never sleeps. Who blocks leaves its core to the server; who does not may have the server woken on another one,
/// which takes a virtual machine tens of microseconds.
///
/// Before each message it is awake, as the pacer is.
fn ping_pong(address: &str, rate: f64, time: Duration, never_sleeps: bool) -> io::Result<Times> {
    if let Some(core) = core_affinity::get_core_ids().unwrap_or_default().last() {
        core_affinity::set_for_current(*core);
    }
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    // A binary frame of 64 bytes, under a key of zeros.
    let mut frame = vec![0x82, 0x80 | 64, 0, 0, 0, 0];
    frame.resize(6 + 64, 7);
    let mut reply = [0; 2 + 64];
    stream.set_nonblocking(never_sleeps)?;
    let mut taken = times();
    let begun = Instant::now();
    for step in 0..(rate * time.as_secs_f64()) as u32 {
        let due = begun + Duration::from_secs_f64(f64::from(step) / rate);
        let awake_from = Instant::now() + Duration::from_micros(80);
        if let Some(early) = due.checked_duration_since(awake_from).filter(|_| !never_sleeps) {
            thread::sleep(early);
        }
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        let sent = Instant::now();
        stream.write_all(&frame)?;
        let mut at = 0;
        while at < reply.len() {
            match stream.read(&mut reply[at..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => at += count,
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && never_sleeps
                        && sent.elapsed() < PATIENCE => {}
                Err(error) => return Err(error),
            }
        }
        taken.saturating_record(sent.elapsed().as_nanos() as Nanos);
    }
    Ok(taken)
}

/// Our median with a pace, in nanoseconds.
pub(super) struct Median {
    pub(super) pace: &'static str,
    pub(super) time: f64,
    /// That of a ping-pong that sleeps when the pace does.
    pub(super) bare: f64,
    /// We were not late ourselves.
    pub(super) is_valid: bool,
}

/// Those of each pace.
pub(super) fn medians(time: Duration) -> io::Result<Vec<Median>> {
    let oracle = Oracle::start("echo");
    let mut medians = Vec::new();
    for pace in ["hybrid", "spin"] {
        let address = oracle.address().to_owned();
        // On a thread of its own, which it pins.
        let bare = thread::spawn(move || ping_pong(&address, RATE, time, pace == "spin"))
            .join()
            .map_err(|_| io::Error::other("the ping-pong has panicked"))??;
        let bare = bare.value_at_quantile(0.5) as f64;
        let line = format!("ws -c 1 -r {RATE} -d {}ms --warmup 100ms --pace {pace}", time.as_millis());
        let (_, value) = run(&oracle, &line);
        let time = value["response_ns"]["p50"].as_f64().unwrap_or(f64::NAN);
        medians.push(Median { pace, time, bare, is_valid: value["verdict"] == "VALID" });
    }
    Ok(medians)
}

const RATE: f64 = 1000.0;
const PATIENCE: Duration = Duration::from_secs(5);

/// A line for people.
pub(super) fn floor(time: Duration) -> io::Result<String> {
    let mut out = String::from("latency floor, p50:\n");
    for Median { pace, time, bare, is_valid } in medians(time)? {
        let (added, bare) = ((time - bare) / 1e3, short(bare as Nanos));
        let how = if pace == "spin" { "never sleeps" } else { "blocks" };
        let note = if is_valid { "" } else { ", but we were late: the machine is busy" };
        let time = short(time as Nanos);
        out += &format!(
            "  --pace {pace:<7} {time}, {added:+.1} \u{b5}s to the {bare} of a ping-pong that {how}{note}\n"
        );
    }
    Ok(out)
}

/// The highest rate against an echo for which the verdict is VALID.
pub(super) fn honest_rate(time: Duration, is_quick: bool) -> io::Result<String> {
    let oracle = Oracle::start("echo");
    let precision = if is_quick { "20" } else { "5" };
    let output = Command::new(program())
        .args(["search", &format!("ws://{}/", oracle.address()), "-c", "16", "--slo", "errors==0"])
        .args(["--min", "1k", "--max", "4M", "--precision", precision, "--confirm", "2", "--json"])
        .args(["-d", &format!("{}ms", time.as_millis()), "--warmup", "100ms"])
        .output()?;
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(io::Error::other)?;
    let said = match (value["best"].as_f64(), &value["beyond"]) {
        (Some(best), beyond) => {
            let at = beyond["rate"].as_f64().unwrap_or(f64::NAN);
            let why = beyond["verdict"].as_str().unwrap_or("");
            format!("{}/s; at {}/s: {why}", rate_text(best), rate_text(at))
        }
        (None, beyond) => format!("none; {}", beyond["verdict"].as_str().unwrap_or("")),
    };
    Ok(format!(
        "highest honest rate, 64-byte echo, 16 connections, one thread, the oracle beside it: {said}\n"
    ))
}
