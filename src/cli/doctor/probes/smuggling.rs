//! Requests that two readers may read in two ways: RFC 9112. Each is a handshake, because a switch ends all later checks
//! of a proxy.

use crate::cli::doctor::{
    client::Trouble,
    probe::{
        Answered, Judgement,
        Level::{Advice, Must, Should},
        Need::WebSocket,
        Probe, failed,
    },
};

const FRAMING_MEANS: &str = "A proxy in front and the server may disagree about where the request ends: a way to smuggle requests past the proxy's rules.";
const FRAMING_CURE: &str = "Answer with 400, and close the connection.";
const FIELD_MEANS: &str =
    "A proxy in front and the server may read different fields: a way around rules that look at fields.";
const HOST_MEANS: &str = "Which site is meant is ambiguous: caches and filters in front can be fooled, and origin checks that compare with `Host` have nothing to compare with.";

pub(super) const PROBES: &[Probe] = &[
    Probe {
        id: "smuggling/no-host",
        level: Must,
        rule: "RFC 9112 3.2",
        needs: &[],
        what: "no `Host`: 400",
        means: HOST_MEANS,
        cure: "Answer with 400. (Rust: hyper does not check it, so do; node: `requireHostHeader`, and check it in the `upgrade` event.)",
        judge: |talk| bad_request(&talk.ask(&talk.offer().without("Host"))?.1),
    },
    Probe {
        id: "smuggling/two-hosts",
        level: Must,
        rule: "RFC 9112 3.2",
        needs: &[],
        what: "two `Host` lines: 400",
        means: HOST_MEANS,
        cure: "Answer with 400.",
        judge: |talk| bad_request(&talk.ask(&talk.offer().add("Host", "doctor.invalid"))?.1),
    },
    Probe {
        id: "smuggling/bad-host",
        level: Must,
        rule: "RFC 9112 3.2",
        needs: &[],
        what: "`Host: a b@c/d`, which is no host: 400",
        means: HOST_MEANS,
        cure: "Answer with 400.",
        judge: |talk| bad_request(&talk.ask(&talk.offer().set("Host", "a b@c/d"))?.1),
    },
    Probe {
        id: "smuggling/absolute-form",
        level: Must,
        rule: "RFC 9112 3.2.2",
        needs: &[],
        what: "the target as a whole URL, which every server has to take: 101",
        means: "Clients that speak as to a proxy do not get in.",
        cure: "Take the path from the URL, and its authority for `Host`.",
        judge: |talk| {
            let target = &talk.setting.target;
            let scheme = if target.is_tls { "https" } else { "http" };
            let url = format!("{scheme}://{}{}", target.authority(), target.path);
            talk.ask(&talk.offer().target(&url))?.1.accepted()
        },
    },
    Probe {
        id: "smuggling/length-and-chunked",
        level: Must,
        rule: "RFC 9112 6.1",
        needs: &[],
        what: "both Content-Length and Transfer-Encoding: no 101, because the connection has to be closed",
        means: FRAMING_MEANS,
        cure: FRAMING_CURE,
        judge: |talk| {
            let head = talk.offer().add("Content-Length", "5").add("Transfer-Encoding", "chunked");
            talk.ask_raw(&head.then(b"0\r\n\r\n"))?.1.not_switched()
        },
    },
    Probe {
        id: "smuggling/two-lengths",
        level: Must,
        rule: "RFC 9112 6.3",
        needs: &[],
        what: "two different Content-Length: 400",
        means: FRAMING_MEANS,
        cure: FRAMING_CURE,
        judge: |talk| {
            let head = talk.offer().add("Content-Length", "0").add("Content-Length", "5");
            bad_request(&talk.ask_raw(&head.then(b"hello"))?.1)
        },
    },
    Probe {
        id: "smuggling/bad-length",
        level: Must,
        rule: "RFC 9112 6.3",
        needs: &[],
        what: "`Content-Length: +0`: 400",
        means: FRAMING_MEANS,
        cure: FRAMING_CURE,
        judge: |talk| bad_request(&talk.ask(&talk.offer().add("Content-Length", "+0"))?.1),
    },
    Probe {
        id: "smuggling/chunked-not-last",
        level: Must,
        rule: "RFC 9112 6.3",
        needs: &[],
        what: "`Transfer-Encoding: chunked, identity`: an error, because the body has no end",
        means: FRAMING_MEANS,
        cure: FRAMING_CURE,
        judge: |talk| {
            let head = talk.offer().add("Transfer-Encoding", "chunked, identity");
            refused_or_closed(&talk.ask_raw(&head.then(b"0\r\n\r\n"))?.1)
        },
    },
    Probe {
        id: "smuggling/hidden-coding",
        level: Must,
        rule: "RFC 9112 6.3",
        needs: &[],
        what: "`Transfer-Encoding: xchunked`, which nobody knows: an error",
        means: FRAMING_MEANS,
        cure: "Answer with 501 or 400, and close the connection.",
        judge: |talk| {
            let head = talk.offer().add("Transfer-Encoding", "xchunked");
            refused_or_closed(&talk.ask_raw(&head.then(b"0\r\n\r\n"))?.1)
        },
    },
    Probe {
        id: "smuggling/huge-chunk",
        level: Must,
        rule: "RFC 9112 7.1",
        needs: &[WebSocket],
        what: "a body with a chunk of 2^64 + 5 bytes: no session behind it, because the number must not overflow",
        means: FRAMING_MEANS,
        cure: FRAMING_CURE,
        judge: |talk| {
            let head = talk.offer().add("Transfer-Encoding", "chunked");
            let (mut line, answered) =
                talk.ask_raw(&head.then(b"10000000000000005\r\nhello\r\n0\r\n\r\n"))?;
            match &answered.0 {
                // Who switches without reading the body has another fault (`early/body-awaited`).
                Ok(answer) if answer.status == 101 => match talk.goes_on(&mut line) {
                    Ok(()) => failed(format!("{}, and a session behind it", answer.brief())),
                    Err(trouble) => Ok(format!("101, then: {trouble}")),
                },
                _ => answered.not_switched(),
            }
        },
    },
    Probe {
        id: "smuggling/space-before-colon",
        level: Must,
        rule: "RFC 9112 5.1",
        needs: &[],
        what: "`Upgrade : TOKEN`, with a space before the colon: 400",
        means: FIELD_MEANS,
        cure: "Answer with 400.",
        judge: |talk| {
            bad_request(
                &talk
                    .ask(
                        &talk
                            .offer()
                            .names(|name| if name == "Upgrade" { "Upgrade ".into() } else { name.into() }),
                    )?
                    .1,
            )
        },
    },
    Probe {
        id: "smuggling/folded-line",
        level: Must,
        rule: "RFC 9112 5.2",
        needs: &[],
        what: "`Upgrade` only on a line that continues another one: no 101, because it is no field",
        means: FIELD_MEANS,
        cure: "Answer with 400 to folded lines.",
        judge: |talk| {
            let line = format!("X-Doctor: a\r\n Upgrade: {}\r\n", talk.setting.token);
            talk.ask_raw(&talk.offer().without("Upgrade").with_lines("", &line))?.1.not_switched()
        },
    },
    Probe {
        id: "smuggling/space-before-first-field",
        level: Must,
        rule: "RFC 9112 2.2",
        needs: &[],
        what: "`Upgrade` only behind white space on the first line: no 101, because the line does not count",
        means: FIELD_MEANS,
        cure: "Answer with 400 to such a request.",
        judge: |talk| {
            let line = format!(" Upgrade: {}\r\n", talk.setting.token);
            talk.ask_raw(&talk.offer().without("Upgrade").with_lines(&line, ""))?.1.not_switched()
        },
    },
    Probe {
        id: "smuggling/bare-cr",
        level: Must,
        rule: "RFC 9112 2.2",
        needs: &[],
        what: "`Upgrade` only behind a CR without LF: no 101, because a CR alone ends no line",
        means: FIELD_MEANS,
        cure: "Answer with 400 to a CR that is not followed by LF.",
        judge: |talk| {
            let line = format!("X-Doctor: a\rUpgrade: {}\r\n", talk.setting.token);
            talk.ask_raw(&talk.offer().without("Upgrade").with_lines("", &line))?.1.not_switched()
        },
    },
    Probe {
        id: "smuggling/bare-lf",
        level: Advice,
        rule: "RFC 9112 2.2",
        needs: &[],
        what: "`Upgrade` behind a LF without CR: no 101, though it may count as a line's end",
        means: FIELD_MEANS,
        cure: "Answer with 400 to a LF without CR.",
        judge: |talk| {
            let line = format!("X-Doctor: a\nUpgrade: {}\r\n", talk.setting.token);
            talk.ask_raw(&talk.offer().without("Upgrade").with_lines("", &line))?.1.not_switched()
        },
    },
    Probe {
        id: "smuggling/nul",
        level: Should,
        rule: "RFC 9110 5.5",
        needs: &[],
        what: "a NUL in a field's value: an error",
        means: FIELD_MEANS,
        cure: "Answer with 400.",
        judge: |talk| refused_or_closed(&talk.ask(&talk.offer().add("X-Doctor", "a\0b"))?.1),
    },
    Probe {
        id: "smuggling/bad-name",
        level: Should,
        rule: "RFC 9110 5.1",
        needs: &[],
        what: "a field's name with a space in it: an error",
        means: FIELD_MEANS,
        cure: "Answer with 400.",
        judge: |talk| refused_or_closed(&talk.ask(&talk.offer().add("X Doctor", "a"))?.1),
    },
    Probe {
        id: "smuggling/no-colon",
        level: Should,
        rule: "RFC 9112 5",
        needs: &[],
        what: "a line without a colon: an error",
        means: FIELD_MEANS,
        cure: "Answer with 400.",
        judge: |talk| refused_or_closed(&talk.ask_raw(&talk.offer().with_lines("", "nonsense\r\n"))?.1),
    },
    Probe {
        id: "smuggling/http-2-line",
        level: Should,
        rule: "RFC 9110 2.5",
        needs: &[],
        what: "a request line that says HTTP/2.0: no 101",
        means: "What is no HTTP/1.1 is read as if it were.",
        cure: "Answer with 505.",
        judge: |talk| talk.ask(&talk.offer().version("HTTP/2.0"))?.1.not_switched(),
    },
    Probe {
        id: "smuggling/space-in-target",
        level: Advice,
        rule: "RFC 9112 3.2",
        needs: &[],
        what: "a target with a space in it: no 101",
        means: "A proxy and the server may see different paths.",
        cure: "Answer with 400.",
        judge: |talk| {
            talk.ask(&talk.offer().target(&format!("{} x", talk.setting.target.path)))?.1.not_switched()
        },
    },
    Probe {
        id: "smuggling/empty-line-first",
        level: Should,
        rule: "RFC 9112 2.2",
        needs: &[],
        what: "an empty line before the request: 101",
        means: "Old clients that send one behind a body do not get in.",
        cure: "Skip at least one empty line before a request line.",
        judge: |talk| talk.ask_raw(&[b"\r\n", &talk.offer().bytes()[..]].concat())?.1.accepted(),
    },
];

/// It must be 400.
fn bad_request(answered: &Answered) -> Judgement {
    match &answered.0 {
        Ok(answer) if answer.status == 400 => Ok(answer.brief()),
        Ok(answer) => failed(answer.brief()),
        Err(trouble @ Trouble::Silence(_)) => failed(trouble.to_string()),
        // No answer, and no harm: what says so is `opening/errors-are-http`.
        Err(trouble) => Ok(trouble.to_string()),
    }
}

/// It must be an error, or the end.
fn refused_or_closed(answered: &Answered) -> Judgement {
    match &answered.0 {
        Err(trouble @ (Trouble::Closed | Trouble::Reset)) => Ok(trouble.to_string()),
        _ => answered.refused(),
    }
}
