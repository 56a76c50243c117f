//! The handshake: the request goes out, the answer is judged by [`Opening`], and a refusal is explained.

use std::{io, time::Instant};

use switchpoint::ws::opening::{Answer, Opening, OpeningFault, Refusal, Switched};

use super::{ending::Ending, target::Dial, transport::Transport};

/// A connection that has switched.
pub(in crate::cli) struct Opened {
    pub(in crate::cli) transport: Transport,
    pub(super) switched: Switched,
    /// What came behind the 101.
    pub(super) early: Vec<u8>,
    /// The heads, as they were on the wire.
    pub(super) request: Vec<u8>,
    pub(super) answer: Vec<u8>,
    /// How long connecting took, and then the answer.
    pub(super) times: [std::time::Duration; 2],
}

/// Connects and asks.
///
/// # Errors
/// With what to say, and the exit code.
pub(in crate::cli) fn open(dial: &Dial, opening: &Opening) -> Result<Opened, Ending> {
    let begun = Instant::now();
    let deadline = begun + dial.timeout;
    let mut transport = Transport::connect(dial, deadline)?;
    let connected = Instant::now();
    let request = opening.request(&dial.url.url);
    let lost = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => Ending::TimedOut(format!(
            "no answer to the handshake within {}",
            humantime::format_duration(dial.timeout)
        )),
        _ => Ending::NoConnection(format!("the connection broke before the server's answer: {error}")),
    };
    transport.write_all(&request, deadline).map_err(lost)?;
    let mut early = Vec::new();
    let mut answer = Vec::new();
    loop {
        match opening.read(&early).map_err(|fault| Ending::Refused(explain_fault(fault, &early)))? {
            Some((found, size)) => {
                answer.extend(early.drain(..size));
                match found {
                    Answer::Interim => {}
                    Answer::Switched(switched) => {
                        let times = [connected - begun, connected.elapsed()];
                        return Ok(Opened { transport, switched, early, request, answer, times });
                    }
                    Answer::Refused(mut refusal) => {
                        let mut body = early;
                        while !refusal.has_whole_body(&body)
                            && transport.read_some(&mut body, deadline).is_ok_and(|count| count > 0)
                        {
                        }
                        refusal.read_body(&body);
                        return Err(Ending::Refused(explain(&refusal)));
                    }
                }
            }
            None if transport.read_some(&mut early, deadline).map_err(lost)? == 0 => {
                return Err(Ending::NoConnection(if early.is_empty() {
                    "the server closed the connection without an answer; perhaps it speaks TLS (wss://), or \
                     something in between dropped the request"
                        .into()
                } else {
                    "the server closed the connection within the head of its answer".into()
                }));
            }
            None => {}
        }
    }
}

/// A 101 that is none, or no HTTP at all.
fn explain_fault(fault: OpeningFault, bytes: &[u8]) -> String {
    let cure = match fault {
        OpeningFault::NoHttp if bytes.first() == Some(&0x15) => "it speaks TLS: use wss:// instead of ws://",
        OpeningFault::NoHttp | OpeningFault::LongHead | OpeningFault::TooManyFields => {
            "check the port: something else than an HTTP server may listen there"
        }
        OpeningFault::OldVersion | OpeningFault::NoConnectionUpgrade | OpeningFault::WrongUpgrade => {
            "a proxy may have rewritten the answer: let it pass `Upgrade` and `Connection` on, and speak HTTP/1.1 to \
             the server behind it"
        }
        OpeningFault::NoAccept | OpeningFault::WrongAccept => {
            "the server, or a cache before it, did not answer this request: the proof has to be made anew for each key"
        }
        OpeningFault::UnaskedSubprotocol => {
            "offer the one it insists on with --subprotocol, or mend the server"
        }
        OpeningFault::Extension(_) => {
            "try it with --deflate, or without it; the server does not keep to RFC 7692"
        }
    };
    format!("the handshake failed: {fault}\n  cure: {cure}")
}

/// An answer other than 101, and what may be done about it.
fn explain(refusal: &Refusal) -> String {
    let mut text = format!("the server refused the handshake: {}", refusal.status());
    if let Some(phrase) = phrase(refusal.status()) {
        text += &format!(" {phrase}");
    }
    if let Some(code) = refusal.code() {
        text += &format!("\n  reason: {code}");
    }
    if let Some(said) = refusal.text() {
        text += &format!("\n  it says: {said}");
    }
    if let Some(cure) = cure(refusal) {
        text += &format!("\n  cure: {cure}");
    }
    text
}

fn phrase(status: u16) -> Option<&'static str> {
    http::StatusCode::from_u16(status).ok()?.canonical_reason()
}

/// By the reason's code where the server is one of ours, else by the status.
fn cure(refusal: &Refusal) -> Option<String> {
    let field = |name: &str| refusal.field(name);
    if refusal.code() == Some("origin-not-allowed") {
        return Some("name an origin that it trusts with --origin, or allow this one in the server".into());
    }
    Some(match refusal.status() {
        200..=299 => {
            "nothing at this path switches protocols, or a proxy has dropped `Upgrade`: check the path, and \
                      the proxy's settings for WebSocket"
                .into()
        }
        301 | 302 | 303 | 307 | 308 => match field("location") {
            Some(location) => format!("it moved: connect to {location}"),
            None => "it moved, but does not say where to".into(),
        },
        400 => "the server, or a proxy, finds the request malformed: -v shows what was sent".into(),
        401 => {
            let asks = field("www-authenticate").map(|asks| format!(" (it asks for {asks})"));
            format!("say who you are with --user, --bearer or --cookie{}", asks.unwrap_or_default())
        }
        403 => "the credentials do not suffice, or the origin is not allowed: try --origin, --user, --bearer"
            .into(),
        404 => "check the path, and whether a proxy rewrites it".into(),
        405 => "this path takes no GET, so it is not one for an upgrade: check the path".into(),
        407 => "a proxy asks for credentials: -H 'Proxy-Authorization: …'".into(),
        421 => "the server does not serve this host: check the URL's host, and --connect-to".into(),
        426 => match (field("upgrade"), field("sec-websocket-version")) {
            (_, Some(versions)) => format!("it speaks version {versions} of WebSocket, and this is 13"),
            (Some(tokens), None) => {
                format!("it switches to {tokens} here: ask for one of these with --proto")
            }
            (None, None) => "a proxy may have dropped `Upgrade` or `Connection`: let it pass both on".into(),
        },
        429 | 503 => match field("retry-after") {
            Some(after) => format!("try again after {after} (seconds, or the date)"),
            None => "try again later".into(),
        },
        500 | 501 => "the server failed, or does not know `Upgrade`: its log says more".into(),
        502 | 504 => "a proxy could not reach the server behind it, or not in time".into(),
        _ => return None,
    })
}
