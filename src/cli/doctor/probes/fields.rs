//! `Sec-WebSocket-*`, and `Origin`: RFC 6455 sections 4.2 and 11.3.

use crate::cli::doctor::{
    client::Trouble,
    probe::{
        Finding, Judgement,
        Level::{Advice, Must, Should},
        Need::{Subprotocol, WebSocket},
        Probe, Talk, failed, key,
    },
};

const KEY_CURE: &str = "Accept exactly one key, which is 16 bytes in base64 (24 characters, the last two `==`); answer others with 400.";
const ORIGIN_CURE: &str =
    "Compare `Origin` with a list of your own pages, or at least with `Host`, and answer others with 403.";
const KEY_MEANS: &str =
    "What is not a WebSocket client, such as a page's script or a confused proxy, can get a session.";

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "fields/other-version",
        level: Must,
        rule: "RFC 6455 4.4",
        needs: &[WebSocket],
        what: "version 12: an error, with `Sec-WebSocket-Version` that lists 13",
        means: "A client of another version cannot learn which one is spoken.",
        cure: "Answer with 426 (or 400), and with `Sec-WebSocket-Version: 13`.",
        judge: |talk| {
            let answered = talk.ask(&talk.offer().set("Sec-WebSocket-Version", "12"))?.1;
            let seen = answered.refused()?;
            if answered.answered()?.has_token("sec-websocket-version", "13") {
                Ok(seen)
            } else {
                failed(seen)
            }
        },
    },
    Probe {
        id: "fields/no-version",
        level: Must,
        rule: "RFC 6455 4.2.1",
        needs: &[WebSocket],
        what: "no `Sec-WebSocket-Version`: an error",
        means: "Clients of drafts that were given up get a session, and misunderstand it.",
        cure: "Ask for `Sec-WebSocket-Version: 13`.",
        judge: |talk| talk.ask(&talk.offer().without("Sec-WebSocket-Version"))?.1.refused(),
    },
    Probe {
        id: "fields/two-versions",
        level: Must,
        rule: "RFC 6455 11.3.5",
        needs: &[WebSocket],
        what: "two lines, versions 13 and 8: an error",
        means: "Two readers of the request may see two versions.",
        cure: "Refuse a request with more than one `Sec-WebSocket-Version`.",
        judge: |talk| {
            let head = talk.offer().set("Sec-WebSocket-Version", "13").add("Sec-WebSocket-Version", "8");
            talk.ask(&head)?.1.refused()
        },
    },
    Probe {
        id: "fields/odd-version",
        level: Should,
        rule: "RFC 6455 4.1",
        needs: &[WebSocket],
        what: "version `013`, which the grammar does not know: an error",
        means: "Harmless by itself; the version is read more loosely than it is written.",
        cure: "Compare the version with `13`.",
        judge: |talk| talk.ask(&talk.offer().set("Sec-WebSocket-Version", "013"))?.1.refused(),
    },
    Probe {
        id: "fields/no-key",
        level: Must,
        rule: "RFC 6455 4.2.1",
        needs: &[WebSocket],
        what: "no `Sec-WebSocket-Key`: an error",
        means: KEY_MEANS,
        cure: KEY_CURE,
        judge: |talk| talk.ask(&talk.offer().without("Sec-WebSocket-Key"))?.1.refused(),
    },
    Probe {
        id: "fields/empty-key",
        level: Must,
        rule: "RFC 6455 4.2.1",
        needs: &[WebSocket],
        what: "an empty key: an error",
        means: KEY_MEANS,
        cure: KEY_CURE,
        judge: |talk| talk.ask(&talk.offer().set("Sec-WebSocket-Key", ""))?.1.refused(),
    },
    Probe {
        id: "fields/short-key",
        level: Must,
        rule: "RFC 6455 4.2.1",
        needs: &[WebSocket],
        what: "a key of five bytes: an error",
        means: KEY_MEANS,
        cure: KEY_CURE,
        judge: |talk| talk.ask(&talk.offer().set("Sec-WebSocket-Key", "c2hvcnQ="))?.1.refused(),
    },
    Probe {
        id: "fields/long-key",
        level: Must,
        rule: "RFC 6455 4.2.1",
        needs: &[WebSocket],
        what: "a key of 24 bytes: an error",
        means: KEY_MEANS,
        cure: KEY_CURE,
        judge: |talk| {
            talk.ask(&talk.offer().set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZSBhbmQgbW9y"))?.1.refused()
        },
    },
    Probe {
        id: "fields/key-not-base64",
        level: Must,
        rule: "RFC 6455 4.2.1",
        needs: &[WebSocket],
        what: "a key of 24 characters that are not base64: an error",
        means: KEY_MEANS,
        cure: KEY_CURE,
        judge: |talk| {
            talk.ask(&talk.offer().set("Sec-WebSocket-Key", "!!!!!!!!!!!!!!!!!!!!!!=="))?.1.refused()
        },
    },
    Probe {
        id: "fields/key-without-padding",
        level: Should,
        rule: "RFC 4648 3.2",
        needs: &[WebSocket],
        what: "a key without its `==`: an error",
        means: "Harmless by itself; the key is read more loosely than it is written.",
        cure: KEY_CURE,
        judge: |talk| {
            talk.ask(&talk.offer().set("Sec-WebSocket-Key", key().trim_end_matches('=')))?.1.refused()
        },
    },
    Probe {
        id: "fields/two-keys",
        level: Must,
        rule: "RFC 6455 11.3.1",
        needs: &[WebSocket],
        what: "two lines with two keys: an error",
        means: "A proxy and the server may each answer for another key: a way to fool the one in front.",
        cure: KEY_CURE,
        judge: |talk| talk.ask(&talk.offer().add("Sec-WebSocket-Key", &key()))?.1.refused(),
    },
    Probe {
        id: "fields/subprotocol-of-nobody",
        level: Must,
        rule: "RFC 6455 4.2.2",
        needs: &[WebSocket],
        what: "no subprotocol offered: none in the 101",
        means: "Browsers fail the connection.",
        cure: "Choose only from what the client offers.",
        judge: |talk| {
            let (_line, answer) = talk.switched_by(&talk.offer().without("Sec-WebSocket-Protocol"))?;
            if answer.field("sec-websocket-protocol").is_none() {
                Ok("none".into())
            } else {
                failed(answer.brief())
            }
        },
    },
    Probe {
        id: "fields/unknown-subprotocols",
        level: Must,
        rule: "RFC 6455 4.2.2",
        needs: &[WebSocket],
        what: "subprotocols that nobody speaks: none in the 101, or an error",
        means: "The client believes that a protocol was agreed to which the server has never heard of.",
        cure: "Name the subprotocols that are spoken (`ws`: `handleProtocols`), and choose none else.",
        judge: |talk| {
            let head = talk.offer().set("Sec-WebSocket-Protocol", "x-doctor-1, x-doctor-2");
            match &talk.ask(&head)?.1.0 {
                Ok(answer) if answer.field("sec-websocket-protocol").is_some() => failed(answer.brief()),
                Ok(answer) => Ok(answer.brief()),
                Err(trouble) => failed(trouble.to_string()),
            }
        },
    },
    Probe {
        id: "fields/chosen-subprotocol",
        level: Must,
        rule: "RFC 6455 4.2.2",
        needs: &[WebSocket, Subprotocol],
        what: "an unknown subprotocol and the one of `--subprotocol`: that one, once",
        means: "The client does not get the subprotocol that both know.",
        cure: "Look through the whole list.",
        judge: |talk| chosen(talk, |own| vec![format!("x-doctor, {own}")]),
    },
    Probe {
        id: "fields/subprotocols-on-two-lines",
        level: Must,
        rule: "RFC 6455 11.3.4",
        needs: &[WebSocket, Subprotocol],
        what: "the same on two lines: that one, once",
        means: "Clients behind a proxy that splits the line do not get their subprotocol.",
        cure: "Lines of one name are one list.",
        judge: |talk| chosen(talk, |own| vec!["x-doctor".to_owned(), own.to_owned()]),
    },
    Probe {
        id: "fields/bad-subprotocol",
        level: Should,
        rule: "RFC 6455 4.1",
        needs: &[WebSocket],
        what: "`Sec-WebSocket-Protocol: a b, c@`, which are no tokens: an error, or none in the 101",
        means: "What is not a token ends up in the answer, and in programs that trust it.",
        cure: "Refuse a list with what is no token.",
        judge: |talk| {
            let head = talk.offer().set("Sec-WebSocket-Protocol", "a b, c@");
            match &talk.ask(&head)?.1.0 {
                Ok(answer) if answer.field("sec-websocket-protocol").is_some() => failed(answer.brief()),
                Ok(answer) => Ok(answer.brief()),
                Err(trouble) => Ok(trouble.to_string()),
            }
        },
    },
    Probe {
        id: "fields/extension-of-nobody",
        level: Must,
        rule: "RFC 6455 9.1",
        needs: &[WebSocket],
        what: "no extension offered: none in the 101",
        means: "Every client fails the connection.",
        cure: "Agree only to what the client offers.",
        judge: |talk| {
            let (_line, answer) = talk.switched_by(&talk.offer().without("Sec-WebSocket-Extensions"))?;
            if answer.field("sec-websocket-extensions").is_none() {
                Ok("none".into())
            } else {
                failed(answer.brief())
            }
        },
    },
    Probe {
        id: "fields/unknown-extension",
        level: Must,
        rule: "RFC 6455 9.1",
        needs: &[WebSocket],
        what: "an extension that nobody knows: 101 without it",
        means: "Clients with newer extensions do not get in, or believe that theirs was agreed to.",
        cure: "Ignore offers that are not known.",
        judge: |talk| {
            let head = talk.offer().set("Sec-WebSocket-Extensions", "x-doctor; a=\"b\"; c");
            let answered = talk.ask(&head)?.1;
            let seen = answered.accepted()?;
            let agreed = answered.answered()?.field("sec-websocket-extensions").is_some();
            if agreed { failed(seen) } else { Ok(seen) }
        },
    },
    Probe {
        id: "fields/foreign-origin",
        level: Advice,
        rule: "RFC 6455 10.2",
        needs: &[WebSocket],
        what: "a handshake from `https://doctor.invalid`: 403",
        means: "Any page that a user visits can open a session with the user's cookies (cross-site WebSocket hijacking).",
        cure: ORIGIN_CURE,
        judge: |talk| talk.ask(&talk.offer().set("Origin", "https://doctor.invalid"))?.1.not_switched(),
    },
    Probe {
        id: "fields/null-origin",
        level: Advice,
        rule: "RFC 6455 10.2",
        needs: &[WebSocket],
        what: "a handshake from the origin `null`: 403",
        means: "A sandboxed frame of any page can open a session.",
        cure: ORIGIN_CURE,
        judge: |talk| talk.ask(&talk.offer().set("Origin", "null"))?.1.not_switched(),
    },
    Probe {
        id: "fields/no-accept-without-switch",
        level: Should,
        rule: "RFC 6455 4.2.2",
        needs: &[WebSocket],
        what: "version 12: the error has no `Sec-WebSocket-Accept`",
        means: "A proxy that looks only for this field takes the error for a switch.",
        cure: "Send it with the 101 only.",
        judge: |talk| match &talk.ask(&talk.offer().set("Sec-WebSocket-Version", "12"))?.1.0 {
            Ok(answer) if answer.status != 101 && answer.field("sec-websocket-accept").is_some() => {
                failed(answer.brief())
            }
            Ok(answer) if answer.status == 101 => Err(Finding::Skipped("it switches".into())),
            Ok(answer) => Ok(answer.brief()),
            Err(trouble @ (Trouble::Closed | Trouble::Reset)) => Ok(trouble.to_string()),
            Err(trouble) => Err(Finding::Unclear(trouble.to_string())),
        },
    },
];

fn chosen(talk: &Talk<'_>, lines: fn(&str) -> Vec<String>) -> Judgement {
    let own = talk.setting.subprotocol.as_deref().unwrap_or_default();
    let head = talk.offer().without("Sec-WebSocket-Protocol");
    let head = lines(own).iter().fold(head, |head, line| head.add("Sec-WebSocket-Protocol", line));
    let answered = talk.ask(&head)?.1;
    let seen = answered.accepted()?;
    let found: Vec<_> = answered.answered()?.all("sec-websocket-protocol").collect();
    if found == [own] { Ok(seen) } else { failed(seen) }
}
