//! What RFC 9110 7.8 says of `Upgrade`, whatever the protocol.

use crate::cli::doctor::{
    answer::Answer,
    client::Trouble,
    head::Head,
    probe::{
        Finding, Judgement,
        Level::{Advice, Must, Should},
        Need::WebSocket,
        Probe, Talk, failed,
    },
};

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "upgrade/list",
        level: Should,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "`Upgrade: x-doctor, TOKEN`: 101 to the one that is known",
        means: "A client that offers more than one protocol does not get any.",
        cure: "Read `Upgrade` as a list, and take the first protocol that is spoken.",
        judge: |talk| works(talk, &talk.offer().set("Upgrade", &format!("x-doctor, {}", talk.setting.token))),
    },
    Probe {
        id: "upgrade/list-with-version",
        level: Should,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "`Upgrade: foo/1, TOKEN`: 101 to the one that is known",
        means: "A client that offers more than one protocol does not get any; a proxy may see a broken answer.",
        cure: "A protocol is a name with an optional version: `name[/version]`.",
        judge: |talk| works(talk, &talk.offer().set("Upgrade", &format!("foo/1, {}", talk.setting.token))),
    },
    Probe {
        id: "upgrade/two-lines",
        level: Should,
        rule: "RFC 9110 5.3",
        needs: &[],
        what: "two lines, `Upgrade: foo/1` and `Upgrade: TOKEN`: 101 to the one that is known",
        means: "A client that offers more than one protocol does not get any.",
        cure: "Lines of one name are one list.",
        judge: |talk| works(talk, &talk.offer().set("Upgrade", "foo/1").add("Upgrade", &talk.setting.token)),
    },
    Probe {
        id: "upgrade/connection-list",
        level: Must,
        rule: "RFC 6455 4.2.1",
        needs: &[],
        what: "`Connection: keep-alive, Upgrade`, as Firefox writes it: 101",
        means: "Firefox does not get in.",
        cure: "Read `Connection` as a list.",
        judge: |talk| {
            let options = talk.offer().field("connection").unwrap_or_default().to_owned();
            talk.ask(&talk.offer().set("Connection", &format!("keep-alive, {options}")))?.1.accepted()
        },
    },
    Probe {
        id: "upgrade/connection-two-lines",
        level: Should,
        rule: "RFC 9110 5.3",
        needs: &[],
        what: "two lines, `Connection: keep-alive` and `Connection: Upgrade`: 101",
        means: "Clients behind a proxy that adds a line do not get in.",
        cure: "Lines of one name are one list.",
        judge: |talk| {
            let options = talk.offer().field("connection").unwrap_or_default().to_owned();
            talk.ask(&talk.offer().set("Connection", "keep-alive").add("Connection", &options))?.1.accepted()
        },
    },
    Probe {
        id: "upgrade/no-connection",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "`Upgrade` with `Connection: keep-alive`: no 101",
        means: "A proxy that does not know `Upgrade`, and forwards it, is led to mistake a session for HTTP: a way to smuggle requests.",
        cure: "Switch only with `upgrade` in `Connection`.",
        judge: |talk| talk.ask(&talk.offer().set("Connection", "keep-alive"))?.1.not_switched(),
    },
    Probe {
        id: "upgrade/connection-part",
        level: Must,
        rule: "RFC 9110 7.6.1",
        needs: &[],
        what: "`Connection: not-upgrade, upgraded`: no 101",
        means: "The option is searched for in the text, so what only looks like it switches.",
        cure: "Compare the items of the list, not parts of the text.",
        judge: |talk| talk.ask(&talk.offer().set("Connection", "not-upgrade, upgraded"))?.1.not_switched(),
    },
    Probe {
        id: "upgrade/token-part",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "`Upgrade: TOKENx, x-TOKEN`: no 101",
        means: "The server switches to a protocol that nobody offered.",
        cure: "Compare the items of the list, not parts of the text.",
        judge: |talk| {
            let token = &talk.setting.token;
            talk.ask(&talk.offer().set("Upgrade", &format!("{token}x, x-{token}")))?.1.not_switched()
        },
    },
    Probe {
        id: "upgrade/unknown",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "`Upgrade: irc/2.0`: no 101, and an answer",
        means: "The server switches to what was not offered, or leaves the client without a word.",
        cure: "Ignore what is unknown: answer as without `Upgrade`, or with 426.",
        judge: |talk| {
            let answered = talk.ask(&talk.offer().set("Upgrade", "irc/2.0"))?.1;
            answered.answered()?;
            answered.not_switched()
        },
    },
    Probe {
        id: "upgrade/version",
        level: Advice,
        rule: "RFC 9110 7.8",
        needs: &[WebSocket],
        what: "`Upgrade: websocket/13`, a version that is not registered: no 101",
        means: "Harmless by itself; it shows that the server searches instead of comparing.",
        cure: "`websocket` has no version: compare the whole protocol.",
        judge: |talk| talk.ask(&talk.offer().set("Upgrade", "websocket/13"))?.1.not_switched(),
    },
    Probe {
        id: "upgrade/http-1-0",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "the handshake in HTTP/1.0: no 101",
        means: "A proxy that speaks HTTP/1.0 to this server cannot carry a session: the client sees garbage, or another client's bytes.",
        cure: "Ignore `Upgrade` in HTTP/1.0. For a proxy in front: nginx needs `proxy_http_version 1.1`.",
        judge: |talk| talk.ask(&talk.offer().version("HTTP/1.0"))?.1.not_switched(),
    },
    Probe {
        id: "upgrade/plain-get",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "a GET without `Upgrade`: an answer of HTTP, and no 101",
        means: "Crawlers, health checks and people with a browser get no answer; a balancer may take the server for dead.",
        cure: "Answer with 426 or a page.",
        judge: |talk| {
            let answered = talk.ask(&talk.plain())?.1;
            answered.answered()?;
            answered.not_switched()
        },
    },
    Probe {
        id: "upgrade/post",
        level: Must,
        rule: "RFC 6455 4.2.1",
        needs: &[WebSocket],
        what: "the handshake as POST: no 101",
        means: "A page's form can be made to open sessions, and proxies treat the body in ways of their own.",
        cure: "A WebSocket is asked for by GET: answer others with 405.",
        judge: |talk| talk.ask(&talk.offer().method("POST").add("Content-Length", "0"))?.1.not_switched(),
    },
    Probe {
        id: "upgrade/head",
        level: Must,
        rule: "RFC 6455 4.2.1",
        needs: &[WebSocket],
        what: "the handshake as HEAD: no 101",
        means: "What only wants to look opens a session.",
        cure: "A WebSocket is asked for by GET.",
        judge: |talk| talk.ask(&talk.offer().method("HEAD"))?.1.not_switched(),
    },
    Probe {
        id: "upgrade/small-get",
        level: Must,
        rule: "RFC 9110 9.1",
        needs: &[WebSocket],
        what: "the handshake as `get`: no 101, because methods are case-sensitive",
        means: "A filter in front that knows GET lets `get` pass by other rules.",
        cure: "Compare methods byte by byte.",
        judge: |talk| talk.ask(&talk.offer().method("get"))?.1.not_switched(),
    },
    Probe {
        id: "upgrade/405-allow",
        level: Must,
        rule: "RFC 9110 15.5.6",
        needs: &[WebSocket],
        what: "the handshake as POST: a 405 has `Allow`",
        means: "Clients cannot learn which method is right.",
        cure: "Send `Allow: GET` with the 405.",
        judge: |talk| {
            let answered = talk.ask(&talk.offer().method("POST").add("Content-Length", "0"))?.1;
            match &answered.0 {
                Ok(answer) if answer.status == 405 => {
                    if answer.field("allow").is_some() {
                        Ok(answer.brief())
                    } else {
                        failed(answer.brief())
                    }
                }
                _ => Err(Finding::Skipped("it does not answer with 405".into())),
            }
        },
    },
    Probe {
        id: "upgrade/426-upgrade",
        level: Must,
        rule: "RFC 9110 15.5.22",
        needs: &[],
        what: "a plain GET, HTTP/1.0, an unknown token, no `Connection: upgrade`, another version: each 426 has `Upgrade`",
        means: "The client is told to upgrade, and not to what.",
        cure: "Send `Upgrade: websocket` with the 426.",
        judge: |talk| each_426(talk, |answer| answer.items("upgrade").next().is_some()),
    },
    Probe {
        id: "upgrade/426-connection",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "the same five: each 426 has `Connection: upgrade`",
        means: "A proxy on the way drops `Upgrade` from the answer, or forwards it where it does not belong.",
        cure: "Send `Connection: upgrade` with every `Upgrade`.",
        judge: |talk| each_426(talk, |answer| answer.has_token("connection", "upgrade")),
    },
    Probe {
        id: "upgrade/unknown-as-plain",
        level: Advice,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "a GET that offers `h2c`, as curl --http2 and Java's HttpClient do: answered as without the offer",
        means: "Such clients get errors for ordinary requests, only because a WebSocket is served as well.",
        cure: "Ignore offers that are not known. In node: answer ordinary requests in the `upgrade` event as well.",
        judge: |talk| {
            if talk.known.h2c || talk.setting.target.is_tls {
                return Err(Finding::Skipped("it speaks h2c, or is reached over TLS".into()));
            }
            let plain = talk.ask(&talk.plain())?.1;
            let offered = talk.ask(&talk.h2c_offer())?.1;
            match (&plain.0, &offered.0) {
                (Ok(plain), Ok(offered)) if plain.status == offered.status || offered.status == 426 => {
                    Ok(format!("{} both times", offered.status))
                }
                (Ok(plain), Ok(offered)) => {
                    failed(format!("{} without, {} with", plain.status, offered.brief()))
                }
                (Ok(plain), Err(trouble)) => failed(format!("{} without; with: {trouble}", plain.status)),
                (Err(trouble), _) => Err(Finding::Skipped(format!("a plain GET got: {trouble}"))),
            }
        },
    },
    Probe {
        id: "upgrade/continue-first",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "`Expect: 100-continue` and a body that waits for it: no 101 without a 100 before it",
        means: "The client never sends its body, and its first bytes are taken for it.",
        cure: "Send 100 before 101, or refuse the request.",
        judge: |talk| {
            let head = talk.offer().add("Content-Length", "5").add("Expect", "100-continue");
            let mut line = talk.connect()?;
            line.send(&head.bytes());
            let first = match line.one_answer() {
                Ok(first) => first,
                Err(Trouble::Silence(_)) => return failed("neither 100 nor a refusal"),
                Err(trouble) => return Ok(trouble.to_string()),
            };
            match first.status {
                101 => failed("101 without a 100"),
                100 => {
                    line.send(b"hello");
                    Ok(match line.answer() {
                        Ok(answer) => format!("100, then {}", answer.brief()),
                        Err(trouble) => format!("100, then {trouble}"),
                    })
                }
                _ => Ok(first.brief()),
            }
        },
    },
    Probe {
        id: "upgrade/http-goes-on",
        level: Should,
        rule: "RFC 9112 9.3",
        needs: &[],
        what: "an unknown token, then a GET on the same connection: answered, unless the first answer said `Connection: close`",
        means: "Clients and proxies that keep connections get errors at random.",
        cure: "Say `Connection: close` where the connection will be closed.",
        judge: |talk| {
            let (mut line, answered) = talk.ask(&talk.offer().set("Upgrade", "irc/2.0"))?;
            let Ok(answer) = &answered.0 else {
                return Err(Finding::Skipped("it does not answer to the first".into()));
            };
            if answer.says_close() {
                return Ok(answer.brief());
            }
            line.send(&talk.plain().bytes());
            match line.answer() {
                Ok(second) => Ok(format!("{}, then {}", answer.status, second.status)),
                Err(trouble) => failed(format!("{}, then: {trouble}", answer.brief())),
            }
        },
    },
    Probe {
        id: "upgrade/not-forever",
        level: Must,
        rule: "RFC 9110 7.8",
        needs: &[],
        what: "a GET without an offer, then a good handshake on the same connection: 101, unless the first answer closed",
        means: "Browsers and proxies reuse connections; the handshake on such a one fails.",
        cure: "Read each request of a connection by itself.",
        judge: |talk| {
            let (mut line, answered) = talk.ask(&talk.plain())?;
            let Ok(answer) = &answered.0 else {
                return Err(Finding::Skipped("it does not answer to the first".into()));
            };
            if answer.says_close() {
                return Ok(format!("{}: it closes", answer.brief()));
            }
            line.send(&talk.offer().bytes());
            match line.answer() {
                Ok(second) if second.status == 101 => Ok(format!("{}, then 101", answer.status)),
                Ok(second) => failed(format!("{}, then {}", answer.status, second.brief())),
                // RFC 9112 9.3.1: a connection may close at any time, and the client tries anew.
                Err(Trouble::Closed | Trouble::Reset) => {
                    Err(Finding::Skipped("it closes without saying so".into()))
                }
                Err(trouble) => failed(format!("{}, then: {trouble}", answer.status)),
            }
        },
    },
];

/// A 101 that names the protocol that was meant, and a session behind it.
fn works(talk: &Talk<'_>, head: &Head) -> Judgement {
    let (mut line, answered) = talk.ask(head)?;
    let seen = answered.accepted()?;
    let answer = answered.answered()?;
    if !answer.has_token("upgrade", &talk.setting.token) || answer.items("upgrade").count() != 1 {
        return failed(seen);
    }
    if talk.setting.is_websocket()
        && talk.known.pongs
        && let Err(trouble) = talk.goes_on(&mut line)
    {
        return failed(format!("{seen}, then: {trouble}"));
    }
    Ok(seen)
}

/// What is easily answered with 426: each such answer has to keep the rule.
fn each_426(talk: &Talk<'_>, keeps: fn(&Answer) -> bool) -> Judgement {
    let offer = talk.offer();
    let mut heads = vec![
        talk.plain(),
        offer.clone().version("HTTP/1.0"),
        offer.clone().set("Upgrade", "irc/2.0"),
        offer.clone().set("Connection", "keep-alive"),
    ];
    if talk.setting.is_websocket() {
        heads.push(offer.set("Sec-WebSocket-Version", "12"));
    }
    let mut seen = 0;
    for head in heads {
        if let Ok(answer) = &talk.ask(&head)?.1.0
            && answer.status == 426
        {
            seen += 1;
            if !keeps(answer) {
                return failed(format!("{} to {:?}", answer.brief(), head.request_line()));
            }
        }
    }
    if seen == 0 {
        Err(Finding::Skipped("it never answers with 426".into()))
    } else {
        Ok(format!("{seen} of five"))
    }
}
