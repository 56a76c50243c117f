//! What a line at the prompt means: a text, or a command behind a slash.

use std::fs;

use switchpoint::ws::Code;

use super::{show::parse_hex, talk::Payload};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Send(Payload),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Code, String),
    Stats,
    Frames(bool),
    Time(bool),
    Pings(bool),
    Help,
    /// An empty line.
    Nothing,
}

/// What `/help` says.
pub(super) const HELP: &str = "\
a line is sent as a text message; // at its start stands for one slash
/text TEXT             sends TEXT, also an empty one
/binary HEX | @FILE    sends bytes: 0a ff 00, or those of a file
/file FILE             sends a file: as text if it is UTF-8, else as bytes
/ping [TEXT]           sends a ping, and shows how long its pong took
/pong [TEXT]           sends a pong that nobody has asked for
/close [CODE [REASON]] closes, with 1000 unless it says otherwise; so do /quit, Ctrl-C and Ctrl-D
/stats                 counts and round-trip times
/frames on | off       shows each frame
/pings on | off        shows pings and pongs
/time on | off         shows when things happened
/help                  this";

/// Reads a line. `is_raw`: it is for a protocol of bytes, which have the line's end with them.
pub(super) fn parse(line: &str, is_raw: bool) -> Result<Command, String> {
    let text = |text: &str| {
        let end = if is_raw { "\n" } else { "" };
        Command::Send(Payload::Text(format!("{text}{end}")))
    };
    let Some(rest) = line.strip_prefix('/') else {
        return Ok(if line.is_empty() && !is_raw { Command::Nothing } else { text(line) });
    };
    if rest.starts_with('/') {
        return Ok(text(rest));
    }
    let (name, argument) = rest.split_once(' ').unwrap_or((rest, ""));
    let argument = argument.trim_start_matches(' ');
    let command = match name {
        "text" | "t" => text(argument),
        "binary" | "b" => Command::Send(Payload::Binary(bytes(argument)?)),
        "file" | "f" => Command::Send(file(argument.strip_prefix('@').unwrap_or(argument))?),
        "ping" => Command::Ping(control(argument)?),
        "pong" => Command::Pong(control(argument)?),
        "close" | "quit" | "q" | "exit" => {
            let (code, reason) = close(argument)?;
            Command::Close(code, reason)
        }
        "stats" => Command::Stats,
        "frames" => Command::Frames(switch(argument)?),
        "time" => Command::Time(switch(argument)?),
        "pings" => Command::Pings(switch(argument)?),
        "help" | "h" | "?" => Command::Help,
        _ => {
            return Err(format!(
                "there is no /{name}; /help lists what there is, and //{name} sends it as text"
            ));
        }
    };
    let needs_websocket =
        matches!(command, Command::Ping(_) | Command::Pong(_) | Command::Frames(_) | Command::Pings(_));
    if is_raw && needs_websocket {
        return Err(format!("/{name} is for WebSocket, and this is another protocol"));
    }
    Ok(command)
}

fn switch(argument: &str) -> Result<bool, String> {
    match argument.trim_end() {
        "on" | "" => Ok(true),
        "off" => Ok(false),
        _ => Err("it is `on` or `off`".into()),
    }
}

/// Hex digits, or a file's bytes behind an `@`.
pub(super) fn bytes(argument: &str) -> Result<Vec<u8>, String> {
    match argument.strip_prefix('@') {
        Some(path) => read(path),
        None => parse_hex(argument.trim_end()),
    }
}

/// A file's content, as text if it is that.
pub(super) fn file(path: &str) -> Result<Payload, String> {
    let bytes = read(path)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => Payload::Text(text),
        Err(error) => Payload::Binary(error.into_bytes()),
    })
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    let no = |error| format!("cannot read {path}: {error}");
    let meta = fs::metadata(path).map_err(no)?;
    if meta.is_file() && meta.len() > FILE_MAX {
        return Err(format!("{path} has {} bytes, and a message here at most {FILE_MAX}", meta.len()));
    }
    fs::read(path).map_err(no)
}

/// The longest file that is sent as a message.
const FILE_MAX: u64 = 256 << 20;

/// The payload of a ping or pong (RFC 6455 5.5).
pub(super) fn control(argument: &str) -> Result<Vec<u8>, String> {
    if argument.len() > 125 {
        return Err(format!("a ping or pong has at most 125 bytes, and this is {}", argument.len()));
    }
    Ok(argument.into())
}

/// A code and a reason; 1000 if there is none.
pub(super) fn close(argument: &str) -> Result<(Code, String), String> {
    let (code, reason) = argument.split_once(' ').unwrap_or((argument, ""));
    if code.is_empty() {
        return Ok((Code::NORMAL, String::new()));
    }
    let code = code.parse().ok().and_then(Code::new).ok_or_else(|| {
        format!(
            "{code:?} is no code that may be sent; these are 1000–1003, 1007–1014 and 3000–4999 (RFC 6455 7.4), and \
             4000–4999 are the application's own"
        )
    })?;
    if reason.len() > 123 {
        return Err(format!("a reason has at most 123 bytes, and this is {}", reason.len()));
    }
    Ok((code, reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Command {
        parse(line, false).unwrap()
    }

    fn text(text: &str) -> Command {
        Command::Send(Payload::Text(text.into()))
    }

    #[test]
    fn a_line_is_a_text_unless_it_begins_with_a_slash() {
        assert_eq!(said("hello / world"), text("hello / world"));
        assert_eq!(said(" /text"), text(" /text"));
        assert_eq!(said("//text"), text("/text"));
        assert_eq!(said("/text"), text(""));
        assert_eq!(said("/text  a b "), text("a b "));
        assert_eq!(said(""), Command::Nothing);
        assert_eq!(parse("", true), Ok(text("\n")));
        assert_eq!(parse("a", true), Ok(text("a\n")));
    }

    #[test]
    fn commands_take_what_they_need() {
        assert_eq!(said("/binary 00 ff"), Command::Send(Payload::Binary(vec![0, 255])));
        assert_eq!(said("/ping"), Command::Ping(vec![]));
        assert_eq!(said("/ping a b"), Command::Ping(b"a b".into()));
        assert_eq!(said("/close"), Command::Close(Code::NORMAL, String::new()));
        assert_eq!(said("/close 4001 so long"), Command::Close(Code::new(4001).unwrap(), "so long".into()));
        assert_eq!(said("/frames off"), Command::Frames(false));
        for (line, hint) in [
            ("/nonsense", "//nonsense"),
            ("/close 1005", "1000–1003"),
            ("/close x", "4000–4999"),
            (&format!("/close 1000 {}", "x".repeat(124)), "123"),
            (&format!("/ping {}", "x".repeat(126)), "125"),
            ("/binary xyz", "hex"),
            ("/binary @/nonexistent", "cannot read"),
            ("/file @/nonexistent", "cannot read"),
            ("/time maybe", "on"),
        ] {
            let error = parse(line, false).unwrap_err();
            assert!(error.contains(hint), "{line}: {error}");
        }
        assert!(parse("/ping", true).unwrap_err().contains("WebSocket"));
    }

    #[test]
    fn the_help_names_every_command() {
        for line in HELP.lines().filter(|line| line.starts_with('/')) {
            let name = line.split([' ', '/']).nth(1).unwrap();
            let argument = if matches!(name, "file" | "binary") { "@/dev/null" } else { "" };
            assert!(parse(&format!("/{name} {argument}"), false).is_ok(), "{line}");
        }
    }
}
