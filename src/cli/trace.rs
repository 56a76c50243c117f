//! `switchpoint trace`: records the exact bytes around a switch on a running server, and shows them.

use std::{
    fs::File,
    io::{self, BufRead, BufWriter, Write},
    path::PathBuf,
    process::ExitCode,
    thread,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Args;
use serde_json::Value;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use switchpoint::{
    trace::Filter,
    ws::{Header, Opcode, mask},
};

use super::client::{self, Failure, Socket};

/// What to record.
#[derive(Args, Clone, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    socket: Socket,
    /// Which requests: `peer=ADDRESS` (or a network, such as `192.0.2.0/24`), `path=PATH` (`*` at its end for all that
    /// begin so), `token=TOKEN`, with commas between them. Without it, the next one that asks for an upgrade.
    #[arg(long, value_name = "FILTER", default_value = "", value_parser = str::parse::<Filter>, visible_alias = "listen-filter")]
    filter: Filter,
    /// Ends after so many switches, made or refused.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    switches: u32,
    /// Frames that are recorded each way; of other protocols than websocket, reads and writes.
    #[arg(long, value_name = "N", default_value_t = 10)]
    frames: u32,
    /// Bytes that are recorded in all.
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = size)]
    bytes: usize,
    /// Gives up after this time.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    time: std::time::Duration,
    /// Writes the trace to a file, as JSON lines, for `switchpoint replay`; `-` for standard output, instead of text.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn size(text: &str) -> Result<usize, String> {
    let size =
        parse_size::parse_size(text).map_err(|error| format!("{error}; a size is such as 65536 or 4MiB"))?;
    usize::try_from(size).map_err(|_| "that is more than this machine can address".into())
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match record(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("switchpoint: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn record(arguments: &Arguments) -> Result<(), Failure> {
    let as_lines = arguments.output.as_deref().is_some_and(|path| path.as_os_str() == "-");
    // Before the server is asked: a file that cannot be written had better be known now.
    let mut file = match &arguments.output {
        Some(path) if !as_lines => {
            let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
            Some(BufWriter::new(file))
        }
        _ => None,
    };
    let query = [
        ("filter", arguments.filter.to_string()),
        ("switches", arguments.switches.to_string()),
        ("frames", arguments.frames.to_string()),
        ("bytes", arguments.bytes.to_string()),
        ("seconds", arguments.time.as_secs().max(1).to_string()),
    ];
    let (lines, ends) = arguments.socket.switch("switchpoint-trace/1", "/trace", &query)?;
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| error.to_string())?;
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            client::end(&ends);
        }
    });
    let mut out = io::stdout();
    let broken = |error: io::Error| format!("the trace cannot be written: {error}");
    for line in lines.lines() {
        let Ok(line) = line else { break }; // the server is gone, or we were told to end
        if let Some(file) = &mut file {
            // Each at once: a trace that is broken off is still one.
            writeln!(file, "{line}").and_then(|()| file.flush()).map_err(broken)?;
        }
        let shown = if as_lines {
            format!("{line}\n")
        } else {
            serde_json::from_str(&line).map_or_else(|_| String::new(), |record| show(&record))
        };
        out.write_all(shown.as_bytes()).and_then(|()| out.flush()).map_err(broken)?;
    }
    Ok(())
}

/// A record as people read it.
fn show(record: &Value) -> String {
    let text = |name: &str| record[name].as_str().unwrap_or_default();
    let bytes = BASE64_STANDARD.decode(text("bytes")).unwrap_or_default();
    let arrow = if text("dir") == "out" { "<" } else { ">" };
    let at = format!("{:>12.6}  {}", record["t"].as_f64().unwrap_or_default(), text("session"));
    match text("kind") {
        "trace" => match text("filter") {
            "" => "waiting for the next request that asks for an upgrade\n".to_owned(),
            filter => format!("waiting for requests with {filter}\n"),
        },
        "request" => {
            format!(
                "{at}  request from {}, HTTP/{}, at {}\n{}{}",
                record["peer"].as_str().unwrap_or("somebody"),
                text("http"),
                text("at"),
                head(&bytes, arrow),
                redacted(record)
            )
        }
        "response" => format!("{at}  response\n{}{}", head(&bytes, arrow), redacted(record)),
        "switched" => format!("{at}  switched to {}\n", text("token")),
        "frame" => format!("{at}  {arrow} {}\n", frame(&bytes, record["length"].as_u64())),
        "data" => format!("{at}  {arrow} {} B  {}\n", bytes.len(), preview(&bytes)),
        "body" => format!("{at}  {arrow} body, {} B  {}\n", bytes.len(), preview(&bytes)),
        "end" => format!("{at}  end of the record: {}\n", text("why")),
        "over" => {
            let lost = match record["lost"].as_u64() {
                Some(0) | None => String::new(),
                Some(lost) => format!("; {lost} records were lost on the way"),
            };
            match text("why") {
                "time" => format!("the time is over{lost}\n"),
                _ => format!("all that was asked for is recorded{lost}\n"),
            }
        }
        _ => String::new(),
    }
}

fn head(bytes: &[u8], arrow: &str) -> String {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let text = line.escape_ascii().to_string();
        format!("{:16}{arrow} {}\n", "", text.trim_end_matches("\\r\\n"))
    });
    lines.collect()
}

fn redacted(record: &Value) -> String {
    let places = record["redacted"].as_array().into_iter().flatten();
    let places: Vec<String> = places
        .map(|place| format!("{} ({} B)", place["what"].as_str().unwrap_or_default(), place["length"]))
        .collect();
    if places.is_empty() { String::new() } else { format!("{:18}redacted: {}\n", "", places.join(", ")) }
}

/// A WebSocket frame: what it is, and what it says.
fn frame(bytes: &[u8], length: Option<u64>) -> String {
    let Ok(Some((header, size))) = Header::decode(bytes) else {
        return format!("no frame, {} B  {}", bytes.len(), preview(bytes));
    };
    let mut payload = bytes[size..].to_vec();
    if let Some(key) = header.mask {
        mask::apply(&mut payload, key, 0);
    }
    let name = header.opcode.name();
    let flags = [(header.fin, "FIN"), (header.rsv1, "RSV1"), (header.mask.is_some(), "masked")];
    let flags: Vec<&str> = flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name).collect();
    let content = match (header.opcode, payload.split_first_chunk()) {
        (Opcode::Close, Some((code, reason))) => {
            format!("{} {}", u16::from_be_bytes(*code), preview(reason))
        }
        _ if header.rsv1 => format!("compressed {}", preview(&payload)),
        _ => preview(&payload),
    };
    let cut = length.map_or_else(String::new, |length| format!(" of {length} B with its header"));
    format!("{name} [{}] {} B{cut}  {content}", flags.join(" "), header.length)
}

/// The beginning of some bytes, on one line.
fn preview(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(PREVIEW)];
    let more = if shown.len() < bytes.len() { "…" } else { "" };
    match str::from_utf8(shown) {
        Ok(text) => format!("{text:?}{more}"),
        Err(_) => format!("\"{}\"{more}", shown.escape_ascii()),
    }
}

const PREVIEW: usize = 120;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn frame_record(bytes: &[u8]) -> Value {
        json!({ "kind": "frame", "session": "0-0-0", "t": 0.25, "dir": "in", "bytes": BASE64_STANDARD.encode(bytes) })
    }

    #[test]
    fn frames_are_read_for_people() {
        let masked = frame_record(b"\x81\x85\x01\x02\x03\x04igohn");
        assert_eq!(show(&masked), "    0.250000  0-0-0  > text [FIN masked] 5 B  \"hello\"\n");
        let close = frame_record(b"\x88\x05\x03\xe9bye");
        assert_eq!(show(&close), "    0.250000  0-0-0  > close [FIN] 5 B  1001 \"bye\"\n");
        assert!(show(&frame_record(b"\xff")).contains("no frame, 1 B"));
    }

    #[test]
    fn a_head_is_shown_with_what_was_hidden() {
        let record = json!({
            "kind": "request", "session": "0-0-0", "t": 0.0, "at": "now", "dir": "in", "peer": "a", "http": "1.1",
            "bytes": BASE64_STANDARD.encode("GET / HTTP/1.1\r\nCookie: ***\r\n\r\n"),
            "redacted": [{ "what": "cookie", "at": 24, "length": 3 }],
        });
        let shown = show(&record);
        assert!(shown.contains("> GET / HTTP/1.1\n") && shown.contains("> Cookie: ***\n"), "{shown}");
        assert!(shown.ends_with("redacted: cookie (3 B)\n"), "{shown}");
    }
}
