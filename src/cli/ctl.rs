//! `switchpoint ctl`: asks a running server, by its admin socket, and shows what it says.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Failure, Socket};

/// Looks after a running server.
#[derive(Args, Clone, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    socket: Socket,
    /// Writes what the server answers, as JSON, instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// The live sessions.
    Sessions {
        /// At most so many; 0 for all.
        #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Only those that fit: `peer=ADDRESS`, `path=PATH*`, `token=TOKEN`, with commas between them.
        #[arg(long, value_name = "FILTER", default_value = "")]
        filter: String,
    },
    /// One session.
    Session {
        /// As the list shows it, such as `0-3-17`.
        id: String,
    },
    /// Ends sessions: their goodbye now, and their end a little later.
    Kill {
        /// As the list shows them.
        #[arg(required = true)]
        id: Vec<String>,
    },
    /// Ends the server: no new clients, a goodbye to all sessions, and the end within the drain time.
    Drain,
    /// Changes what is logged.
    Log {
        /// `error`, `warn`, `info`, `debug`, `trace`, or a filter.
        level: String,
    },
    /// Reads again what can change at run time, as SIGHUP does.
    Reload,
    /// What the server has counted.
    Stats,
    /// The last handshakes, made and refused, if the server keeps them (`--recent-handshakes`).
    Handshakes,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match carry_out(arguments) {
        Ok(text) => {
            // Who reads it may have gone.
            drop(io::stdout().write_all(text.as_bytes()));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("switchpoint: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(arguments: &Arguments) -> Result<String, Failure> {
    let socket = &arguments.socket;
    let (answer, show): (Value, fn(&Value) -> String) = match &arguments.command {
        Command::Sessions { limit, filter } => (sessions(socket, *limit, filter)?, session_table),
        Command::Session { id } => (socket.ask("GET", "/session", &[("id", id.clone())])?, members),
        Command::Kill { id } => {
            let mut killed = Vec::new();
            for id in id {
                let answer = socket.ask("POST", "/kill", &[("id", id.clone())]);
                killed.push(answer.map_err(|failure| format!("{id}: {failure}"))?["killed"].clone());
            }
            (serde_json::json!({ "sessions": killed }), session_table)
        }
        Command::Drain => (socket.ask("POST", "/drain", &[])?, members),
        Command::Log { level } => (socket.ask("POST", "/log", &[("level", level.clone())])?, members),
        Command::Reload => (socket.ask("POST", "/reload", &[])?, members),
        Command::Stats => (socket.ask("GET", "/stats", &[])?, members),
        Command::Handshakes => (socket.ask("GET", "/handshakes", &[])?, handshake_table),
    };
    Ok(if arguments.json { format!("{answer}\n") } else { show(&answer) })
}

/// Page by page, as many as are asked for.
fn sessions(socket: &Socket, limit: usize, filter: &str) -> Result<Value, Failure> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut all = Vec::new();
    let mut next = None;
    loop {
        let mut query =
            vec![("limit", (limit - all.len()).min(1000).to_string()), ("filter", filter.to_owned())];
        query.extend(next.take().map(|after| ("after", after)));
        let mut page = socket.ask("GET", "/sessions", &query)?;
        if let Value::Array(page) = page["sessions"].take() {
            all.extend(page);
        }
        next = page["next"].as_str().map(ToOwned::to_owned);
        if next.is_none() || all.len() >= limit {
            return Ok(
                serde_json::json!({ "sessions": all, "next": next, "silent_cores": page["silent_cores"] }),
            );
        }
    }
}

fn session_table(answer: &Value) -> String {
    let mut table =
        Table::new(&["ID", "PEER", "PROTOCOL", "PATH", "SUBPROTOCOL", "SINCE", "LASTED", "IN", "OUT"]);
    for session in answer["sessions"].as_array().into_iter().flatten() {
        table.row([
            text(&session["id"]),
            text(&session["peer"]),
            text(&session["protocol"]),
            text(&session["path"]),
            text(&session["subprotocol"]),
            text(&session["since"]).chars().skip(11).take(8).collect(),
            lasted(session["seconds"].as_f64().unwrap_or_default()),
            bytes(session["received"].as_u64().unwrap_or_default()),
            bytes(session["sent"].as_u64().unwrap_or_default()),
        ]);
    }
    let more = if answer["next"].is_string() { "there are more; -n 0 shows all\n" } else { "" };
    let silent = match answer["silent_cores"].as_array() {
        Some(cores) if !cores.is_empty() => {
            format!("no answer from the cores {}\n", text(&answer["silent_cores"]))
        }
        _ => String::new(),
    };
    format!("{}{more}{silent}", table.show())
}

fn handshake_table(answer: &Value) -> String {
    let mut table = Table::new(&["AT", "PEER", "HTTP", "PATH", "ASKED", "STATUS", "OUTCOME"]);
    for handshake in answer["handshakes"].as_array().into_iter().flatten() {
        let outcome = match text(&handshake["outcome"]) {
            outcome if outcome == "refused" => text(&handshake["reason"]),
            outcome => format!("{outcome} in {} µs", text(&handshake["microseconds"])),
        };
        table.row([
            text(&handshake["at"]).chars().skip(11).take(12).collect(),
            text(&handshake["peer"]),
            text(&handshake["http"]),
            text(&handshake["path"]),
            text(&handshake["asked"]),
            text(&handshake["status"]),
            outcome,
        ]);
    }
    table.show()
}

/// An object's members, one a line, those of its objects behind their names.
fn members(answer: &Value) -> String {
    fn add(lines: &mut Vec<(String, String)>, name: &str, value: &Value) {
        match value {
            Value::Object(members) => {
                for (member, value) in members {
                    let name = if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
                    add(lines, &name, value);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (place, item) in items.iter().enumerate() {
                    add(lines, &format!("{name}.{place}"), item);
                }
            }
            value => lines.push((name.to_owned(), text(value))),
        }
    }
    let mut lines = Vec::new();
    add(&mut lines, "", answer);
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    lines.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A value for people. What a peer has written may hold escapes for the terminal: they are shown as escapes.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text
            .chars()
            .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
            .collect(),
        value => value.to_string(),
    }
}

fn lasted(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3600 % 24),
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(|title| (*title).to_owned()).collect()] }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    fn show(&self) -> String {
        let columns = self.rows[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut shown = String::new();
        for row in &self.rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            shown.push_str(cells.join("  ").trim_end());
            shown.push('\n');
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_its_columns_and_no_escapes() {
        let answer = json!({ "sessions": [
            { "id": "0-3-17", "peer": "127.0.0.1:5000", "protocol": "websocket", "path": "/e\u{1b}[2J", "since": "2026-11-22T21:40:00.123Z", "seconds": 75.2, "received": 5, "sent": 2048 },
        ], "next": null });
        assert_eq!(
            session_table(&answer),
            "ID      PEER            PROTOCOL   PATH         SUBPROTOCOL  SINCE     LASTED  IN   OUT\n\
             0-3-17  127.0.0.1:5000  websocket  /e\\u{1b}[2J  -            21:40:00  1m15s   5 B  2.0 KiB\n"
        );
    }

    #[test]
    fn members_are_shown_with_their_names() {
        let shown = members(&json!({ "ready": true, "cores": [{ "core": 0 }], "a": { "b": "c" } }));
        assert_eq!(shown, "a.b           c\ncores.0.core  0\nready         true\n");
    }
}
