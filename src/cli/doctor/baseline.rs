//! What is learnt before the probes: is there a switch at all, and what else can be asked for.

use super::{
    answer::{Answer, printable},
    client::{Connection, Trouble},
    frame::{FIN, PING, PONG, TEXT, masked},
    probe::{Finding, Known, Setting, Talk},
};

/// What the first handshakes showed.
#[derive(Debug)]
pub(crate) enum Baseline {
    /// It switches: what is known of it.
    Switches(Known),
    /// An answer, and not a 101: there is nothing here to examine.
    IsNoRoute(Answer),
    /// No answer of HTTP.
    IsNoHttp(Trouble),
    /// No connection.
    Unreachable(String),
}

impl Baseline {
    pub(crate) fn of(setting: &Setting) -> Self {
        let nothing = Known::default();
        let talk = Talk::new(setting, &nothing);
        let (mut line, answered) = match talk.ask(&talk.offer()) {
            Ok(found) => found,
            Err(Finding::Unclear(why) | Finding::Failed(why) | Finding::Skipped(why)) => {
                return Self::Unreachable(why);
            }
        };
        match answered.0 {
            Ok(answer) if answer.status == 101 => {}
            Ok(answer) => return Self::IsNoRoute(answer),
            Err(trouble) => return Self::IsNoHttp(trouble),
        }
        let mut known = Known::default();
        if setting.is_websocket() {
            known.greets = !line.unread().is_empty();
            known.pongs = comes_back(&mut line, PING, PONG);
            known.echoes = comes_back(&mut line, TEXT, TEXT);
            known.deflate = agreed(&talk);
        } else if setting.token != "h2c" {
            line.send(ASKED);
            known.echoes = line.take(ASKED.len()).is_ok_and(|bytes| bytes == ASKED);
        }
        known.h2c = !setting.target.is_tls
            && (setting.token == "h2c"
                || talk.ask(&talk.h2c_offer()).is_ok_and(|(_, answered)| {
                    answered.0.is_ok_and(|answer| answer.status == 101 && answer.has_token("upgrade", "h2c"))
                }));
        Self::Switches(known)
    }
}

const ASKED: &[u8] = b"is this echoed?";

fn comes_back(line: &mut Connection, sent: u8, expected: u8) -> bool {
    line.send(&masked(FIN | sent, ASKED));
    // What it says of itself comes first.
    while let Ok(frame) = line.frame() {
        if (frame.opcode(), &frame.payload[..]) == (expected, ASKED) {
            return true;
        }
    }
    false
}

fn agreed(talk: &Talk<'_>) -> Option<String> {
    let offer = talk.offer().set("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits");
    let (_, answer) = talk.switched_by(&offer).ok()?;
    let agreed = answer.field("sec-websocket-extensions")?;
    agreed.starts_with("permessage-deflate").then(|| agreed.to_owned())
}

/// What an answer that is no 101 says to who expected one, and what is likely to help.
pub(crate) fn diagnosis(answer: &Answer, token: &str) -> (String, String) {
    let location = printable(answer.field("location").unwrap_or("elsewhere"));
    let spoken = printable(&answer.items("upgrade").collect::<Vec<_>>().join(", "));
    let (means, cure) = match answer.status {
        200..=299 => (
            format!("an ordinary resource is here, and `Upgrade: {token}` was ignored"),
            "Check the path. If it is right, a proxy on the way drops `Upgrade` or `Connection`: nginx needs `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;`.".to_owned(),
        ),
        300..=399 => (format!("it is at {location}"), "Examine that URL.".to_owned()),
        400 => (
            "a handshake that is right was found wrong".to_owned(),
            "Usually a proxy has changed `Connection`, `Upgrade` or the version of HTTP; or the server wants a subprotocol, an Origin or another field: give it by -H.".to_owned(),
        ),
        401 | 407 => ("it wants to know who asks".to_owned(), "Give --user, --bearer, or a cookie by -H.".to_owned()),
        403 => (
            "it does not want this client".to_owned(),
            "Often it is the origin: give that of your page, such as -H 'Origin: https://example.org'. Else credentials.".to_owned(),
        ),
        404 | 410 => (
            "nothing is at this path, or nothing that can be upgraded".to_owned(),
            "Check the path, and whether a proxy rewrites it.".to_owned(),
        ),
        405 => ("what is at this path takes no GET".to_owned(), "Check the path.".to_owned()),
        426 if !spoken.is_empty() && !answer.has_token("upgrade", token) => (
            format!("this path speaks {spoken}"),
            format!("Ask for one of them: --proto {}", spoken.split(',').next().unwrap_or_default()),
        ),
        426 => (
            "it asks for an upgrade that this handshake has asked for".to_owned(),
            "A proxy on the way drops `Upgrade` or `Connection`, or speaks HTTP/1.0 to the server.".to_owned(),
        ),
        429 => ("it has had enough requests".to_owned(), "Wait, or raise its limit.".to_owned()),
        502 | 504 => (
            "a proxy got no answer that it understands from its backend".to_owned(),
            "Look into the proxy's log; the backend may have closed without an answer.".to_owned(),
        ),
        503 => ("it has no room, or is shutting down".to_owned(), "Try again.".to_owned()),
        500..=599 => ("the server failed".to_owned(), "Look into its log.".to_owned()),
        _ => ("that is no answer to a handshake".to_owned(), "See what answers at this port.".to_owned()),
    };
    match answer.reason() {
        Some(code) => (format!("{means}; the server's reason: {code}"), cure),
        None => (means, cure),
    }
}
