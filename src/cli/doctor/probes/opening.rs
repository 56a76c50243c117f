//! The opening handshake as clients make it: RFC 6455 section 4, and RFC 9110 15.2.2.

use std::{thread, time::Duration};

use crate::cli::doctor::{
    client::Trouble,
    probe::{
        Answered, Finding,
        Level::{Must, Should},
        Need::WebSocket,
        Probe, accept_of, failed, key,
    },
};

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "opening/switches",
        level: Must,
        rule: "RFC 6455 4.2.2",
        needs: &[],
        what: "a good handshake: 101",
        means: "No client gets in at this URL.",
        cure: "Check the path, and that every proxy on the way passes `Upgrade` and `Connection` on (nginx: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;`).",
        judge: |talk| talk.ask(&talk.offer())?.1.accepted(),
    },
    Probe {
        id: "opening/again",
        level: Must,
        rule: "RFC 6455 4.2.2",
        needs: &[],
        what: "three good handshakes, one after the other: each is answered with 101",
        means: "Some clients do not get in: perhaps those that meet one of several servers behind a balancer.",
        cure: "Look for a backend that differs, or for a limit on connections.",
        judge: |talk| {
            for _ in 0..3 {
                talk.ask(&talk.offer())?.1.accepted()?;
            }
            Ok("101 each time".into())
        },
    },
    Probe {
        id: "opening/version-of-http",
        level: Must,
        rule: "RFC 6455 4.2.2",
        needs: &[],
        what: "a good handshake: the status line says HTTP/1.1",
        means: "HTTP/1.0 knows no 101; strict clients give up.",
        cure: "Let the proxy speak HTTP/1.1 to its clients and to its backend.",
        judge: |talk| {
            let (_line, answer) = talk.switched_by(&talk.offer())?;
            if answer.version == "HTTP/1.1" { Ok(answer.version) } else { failed(answer.version) }
        },
    },
    Probe {
        id: "opening/upgrade",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "a good handshake: the 101 names the protocol in one `Upgrade`",
        means: "Clients check this field, and fail the connection where it is missing or different (RFC 6455 4.1).",
        cure: "Send `Upgrade` with the 101; a proxy that drops it must be told to keep it.",
        judge: |talk| {
            let (_line, answer) = talk.switched_by(&talk.offer())?;
            let named: Vec<_> = answer.items("upgrade").collect();
            match &named[..] {
                [token] if token.eq_ignore_ascii_case(&talk.setting.token) => Ok(format!("Upgrade: {token}")),
                _ => failed(format!("Upgrade: {}", named.join(", "))),
            }
        },
    },
    Probe {
        id: "opening/connection",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "a good handshake: the 101 has `Connection: upgrade`",
        means: "Clients check it (RFC 6455 4.1), and proxies that go by it drop `Upgrade`.",
        cure: "Send `Connection: upgrade` with every `Upgrade`.",
        judge: |talk| {
            let (_line, answer) = talk.switched_by(&talk.offer())?;
            if answer.has_token("connection", "upgrade") {
                Ok(answer.brief())
            } else {
                failed(answer.brief())
            }
        },
    },
    Probe {
        id: "opening/accept",
        level: Must,
        rule: "RFC 6455 4.2.2",
        needs: &[WebSocket],
        what: "a good handshake: the one `Sec-WebSocket-Accept` is the key's",
        means: "Every client fails the connection: the answer may be a cache's, or of something that is no WebSocket server.",
        cure: "Compute base64(SHA-1(key + GUID)) over the key as it came, without its surrounding spaces.",
        judge: |talk| {
            let head = talk.offer();
            let (_line, answer) = talk.switched_by(&head)?;
            let expected = accept_of(head.field("sec-websocket-key").unwrap_or_default());
            let found: Vec<_> = answer.all("sec-websocket-accept").collect();
            match &found[..] {
                [accept] if *accept == expected => Ok(expected),
                [] => failed("no Sec-WebSocket-Accept"),
                _ => failed(format!("{} where {expected} is right", found.join(" and "))),
            }
        },
    },
    Probe {
        id: "opening/accept-of-another-key",
        level: Must,
        rule: "RFC 6455 4.2.2",
        needs: &[WebSocket],
        what: "a handshake with the key of RFC 6455 1.3: `s3pPLMBiTxaQ9kYGzzhZRbK+xOo=`",
        means: "The server does not read the key, or somebody keeps answers for others.",
        cure: "No cache may keep a 101; look for one on the way.",
        judge: |talk| {
            let head = talk.offer().set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
            let (_line, answer) = talk.switched_by(&head)?;
            match answer.field("sec-websocket-accept") {
                Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") => Ok("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into()),
                other => failed(other.unwrap_or("no Sec-WebSocket-Accept")),
            }
        },
    },
    Probe {
        id: "opening/no-length",
        level: Must,
        rule: "RFC 9110 8.6",
        needs: &[],
        what: "a good handshake: the 101 has neither Content-Length nor Transfer-Encoding",
        means: "A proxy that goes by them takes the first frames for a body, or waits for one.",
        cure: "A 1xx has no content: leave both fields out of the 101.",
        judge: |talk| {
            let (_line, answer) = talk.switched_by(&talk.offer())?;
            match answer.field("content-length").or_else(|| answer.field("transfer-encoding")) {
                Some(_) => failed(answer.brief()),
                None => Ok("neither".into()),
            }
        },
    },
    Probe {
        id: "opening/frames-follow",
        level: Must,
        rule: "RFC 9112 6.3",
        needs: &[WebSocket],
        what: "a good handshake, then silence: what comes behind the 101, if anything, is frames, and the connection stays",
        means: "The client reads the rest of an HTTP answer as frames, and fails.",
        cure: "A 101 ends at its blank line: no body, no chunk.",
        judge: |talk| {
            let mut line = talk.switched()?;
            let end = line.ending_within(Duration::from_millis(400));
            let came = line.unread().to_vec();
            let is_frame = came.first().is_none_or(|first| {
                first & 0x30 == 0
                    && matches!(first & 0x0f, 0..=2 | 8..=10)
                    && came.get(1).is_none_or(|second| second & 0x80 == 0)
            });
            match end {
                _ if !is_frame => failed(format!("{:?} behind the 101", came.escape_ascii().to_string())),
                Trouble::Silence(_) => Ok("it stays".into()),
                end => failed(format!("{end}")),
            }
        },
    },
    Probe {
        id: "opening/token-in-capitals",
        level: Must,
        rule: "RFC 6455 4.2.1",
        needs: &[WebSocket],
        what: "`Upgrade: WebSocket`: 101, because the case of the name does not count",
        means: "Some clients write it so, and do not get in.",
        cure: "Compare the token without regard to case.",
        judge: |talk| talk.ask(&talk.offer().set("Upgrade", "WebSocket"))?.1.accepted(),
    },
    Probe {
        id: "opening/connection-in-capitals",
        level: Must,
        rule: "RFC 6455 4.2.1",
        needs: &[],
        what: "`Connection: UPGRADE`: 101, because the case of the option does not count",
        means: "Some clients write it so, and do not get in.",
        cure: "Compare the option without regard to case.",
        judge: |talk| {
            let options = talk.offer().field("connection").unwrap_or_default().to_ascii_uppercase();
            talk.ask(&talk.offer().set("Connection", &options))?.1.accepted()
        },
    },
    Probe {
        id: "opening/small-names",
        level: Must,
        rule: "RFC 9110 5.1",
        needs: &[],
        what: "all field names in small letters: 101",
        means: "Clients and proxies that write names in small letters, as HTTP/2 does, do not get in.",
        cure: "Compare field names without regard to case.",
        judge: |talk| talk.ask(&talk.offer().names(str::to_ascii_lowercase))?.1.accepted(),
    },
    Probe {
        id: "opening/white-space",
        level: Must,
        rule: "RFC 9110 5.5",
        needs: &[WebSocket],
        what: "a key between tabs and spaces: 101, with the accept of the key alone",
        means: "A proxy may add such white space, and the handshake fails then.",
        cure: "Trim spaces and tabs around a value before it is used.",
        judge: |talk| {
            let key = key();
            let (_line, answer) = talk
                .switched_by(&talk.offer().set("Sec-WebSocket-Key", &format!("\t {key} \t")))
                .map_err(as_failure)?;
            match answer.field("sec-websocket-accept") {
                Some(accept) if accept == accept_of(&key) => Ok(accept.into()),
                other => failed(format!("{} where {} is right", other.unwrap_or("nothing"), accept_of(&key))),
            }
        },
    },
    Probe {
        id: "opening/in-pieces",
        level: Must,
        rule: "RFC 9112 2.2",
        needs: &[],
        what: "the head in three pieces, cut within a name and within CR LF: 101",
        means: "The handshake fails at random, whenever the network cuts it.",
        cure: "Read until the blank line; a segment is no unit of TCP.",
        judge: |talk| {
            let bytes = talk.offer().bytes();
            let cuts = [0, bytes.len() / 2, bytes.len() - 1, bytes.len()];
            let mut line = talk.connect()?;
            for cut in cuts.windows(2) {
                line.send(&bytes[cut[0]..cut[1]]);
                thread::sleep(Duration::from_millis(40));
            }
            Answered(line.answer()).accepted()
        },
    },
    Probe {
        id: "opening/cookies",
        level: Should,
        rule: "RFC 6455 4.1",
        needs: &[],
        what: "a handshake with the fields that browsers add (Cookie, User-Agent, Cache-Control, Accept-Encoding): 101",
        means: "Browsers do not get in.",
        cure: "Ignore fields that are not known.",
        judge: |talk| {
            let head = talk.offer();
            let head = if head.field("cookie").is_some() { head } else { head.add("Cookie", "a=b; c=\"d\"") };
            let head = head
                .add("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
                .add("Accept", "*/*")
                .add("Accept-Language", "en-US,en;q=0.5")
                .add("Accept-Encoding", "gzip, deflate, br, zstd")
                .add("Pragma", "no-cache")
                .add("Cache-Control", "no-cache")
                .add("Sec-Fetch-Dest", "empty")
                .add("Sec-Fetch-Mode", "websocket")
                .add("Sec-Fetch-Site", "same-origin");
            talk.ask(&head)?.1.accepted()
        },
    },
    Probe {
        id: "opening/own-origin",
        level: Should,
        rule: "RFC 6455 10.2",
        needs: &[WebSocket],
        what: "a handshake whose `Origin` is the server's own: 101",
        means: "The site's own pages do not get in.",
        cure: "Allow the origin; behind a proxy, pass `Host` on (nginx: `proxy_set_header Host $host`).",
        judge: |talk| {
            let target = &talk.setting.target;
            let scheme = if target.is_tls { "https" } else { "http" };
            talk.ask(&talk.offer().set("Origin", &format!("{scheme}://{}", target.authority())))?.1.accepted()
        },
    },
    Probe {
        id: "opening/errors-are-http",
        level: Must,
        rule: "RFC 6455 4.2.1",
        needs: &[WebSocket],
        what: "a handshake with a bad key and a bad version: an error in HTTP, not a silent close",
        means: "Whose handshake is wrong is never told why, and proxies report a broken server (502).",
        cure: "Answer with 400 or 426 and a reason before closing.",
        judge: |talk| {
            let head = talk.offer().set("Sec-WebSocket-Key", "x").set("Sec-WebSocket-Version", "x");
            talk.ask(&head)?.1.refused()
        },
    },
];

/// The handshake is itself what is examined.
fn as_failure(finding: Finding) -> Finding {
    match finding {
        Finding::Unclear(what) => Finding::Failed(what),
        other => other,
    }
}
