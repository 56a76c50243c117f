//! A trace file, as `switchpoint trace` writes it: JSON lines, whose kinds docs/admin.md lists.

use std::{collections::HashMap, io::BufRead};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

/// One switch, and what came after it.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) session: String,
    /// `1.1` or `2`.
    pub(super) http: String,
    /// The request's head and body.
    pub(super) request: Vec<u8>,
    /// Where in the request something was replaced by asterisks.
    pub(super) redacted: Vec<usize>,
    /// What the server said up to the switch, or instead of it.
    pub(super) response: Vec<u8>,
    /// What was switched to, if anything was.
    pub(super) token: Option<String>,
    pub(super) moves: Vec<Move>,
    /// Why nothing more was recorded; `closed` and `lost` mean that there was nothing more.
    pub(super) why: Option<String>,
}

/// Bytes that went one way, behind the switch.
#[derive(Debug)]
pub(super) struct Move {
    /// Seconds since the request.
    pub(super) at: f64,
    /// From the client.
    pub(super) is_client: bool,
    pub(super) bytes: Vec<u8>,
    /// How many there were; not all may have been kept.
    pub(super) length: usize,
}

impl Move {
    pub(super) fn is_whole(&self) -> bool {
        self.bytes.len() == self.length
    }
}

/// Reads a file; the sessions come in the order of their requests.
///
/// # Errors
/// With the line, and what is wrong with it.
pub(super) fn read(input: impl BufRead) -> Result<Vec<Recorded>, String> {
    let mut found: Vec<Recorded> = Vec::new();
    // A connection may switch only once, but ask often.
    let mut last = HashMap::new();
    for (at, line) in input.lines().enumerate() {
        let line = line.map_err(|error| error.to_string())?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |what: &str| format!("line {}: {what}", at + 1);
        let entry: Value =
            serde_json::from_str(&line).map_err(|error| wrong(&format!("no JSON: {error}")))?;
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let kind = entry["kind"].as_str().ok_or_else(|| wrong("it has no kind; is this a trace?"))?;
        let session = text("session");
        let bytes = || match entry["bytes"].as_str().map(|bytes| STANDARD.decode(bytes)) {
            Some(Ok(bytes)) => Ok(bytes),
            _ => Err(wrong("its bytes are not base64")),
        };
        match kind {
            "trace" => match entry["version"].as_u64() {
                Some(1) => {}
                _ => return Err(wrong("this version of a trace is not known here; it is not 1")),
            },
            "request" => {
                let redacted = entry["redacted"].as_array().into_iter().flatten();
                let recorded = Recorded {
                    session: session.clone(),
                    http: text("http"),
                    request: bytes()?,
                    redacted: redacted.filter_map(|part| part["at"].as_u64()).map(|at| at as usize).collect(),
                    ..Recorded::default()
                };
                last.insert(session, found.len());
                found.push(recorded);
            }
            "body" | "response" | "switched" | "frame" | "data" | "end" => {
                let Some(recorded) = last.get(&session).and_then(|at| found.get_mut(*at)) else {
                    return Err(wrong(&format!("there is no request of session {session:?} before it")));
                };
                match kind {
                    "body" => recorded.request.extend(bytes()?),
                    "response" => recorded.response.extend(bytes()?),
                    "switched" => recorded.token = Some(text("token")),
                    "end" => recorded.why = Some(text("why")),
                    _ => {
                        let bytes = bytes()?;
                        let length = entry["length"].as_u64().map_or(bytes.len(), |length| length as usize);
                        let at = entry["t"].as_f64().unwrap_or_default();
                        let is_client = entry["dir"] == "in";
                        recorded.moves.push(Move { at, is_client, bytes, length });
                    }
                }
            }
            _ => {} // of a later writer
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_told_apart_and_what_is_unknown_is_skipped() {
        let file = r#"{"kind":"trace","version":1,"server":"x"}
{"kind":"request","session":"a","t":0.0,"http":"1.1","dir":"in","bytes":"R0VU","redacted":[{"what":"cookie","at":2,"length":1}]}
{"kind":"request","session":"b","t":0.0,"http":"1.1","dir":"in","bytes":""}

{"kind":"body","session":"a","t":0.0,"dir":"in","bytes":"Kg=="}
{"kind":"response","session":"a","t":0.1,"dir":"out","bytes":"SFRUUA=="}
{"kind":"switched","session":"a","t":0.1,"token":"echo","new":1}
{"kind":"smell","session":"a"}
{"kind":"data","session":"a","t":0.2,"dir":"in","bytes":"YQ=="}
{"kind":"frame","session":"a","t":0.3,"dir":"out","bytes":"YQ==","length":9}
{"kind":"end","session":"a","t":0.3,"why":"closed"}"#;
        let found = read(file.as_bytes()).unwrap();
        assert_eq!(found.len(), 2);
        let first = &found[0];
        assert_eq!((&*first.session, &*first.request, &*first.redacted), ("a", &b"GET*"[..], &[2][..]));
        assert_eq!((&*first.response, first.token.as_deref()), (&b"HTTP"[..], Some("echo")));
        assert_eq!(first.why.as_deref(), Some("closed"));
        let moves: Vec<_> = first.moves.iter().map(|m| (m.at, m.is_client, m.is_whole())).collect();
        assert_eq!(moves, [(0.2, true, true), (0.3, false, false)]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (file, hint) in [
            ("hello", "line 1: no JSON"),
            ("\n{}", "line 2: it has no kind"),
            (r#"{"kind":"trace","version":2}"#, "version"),
            (r#"{"kind":"request","session":"a","bytes":"*"}"#, "base64"),
            (r#"{"kind":"end","session":"a"}"#, "no request"),
        ] {
            let error = read(file.as_bytes()).unwrap_err();
            assert!(error.contains(hint), "{file}: {error}");
        }
    }
}
