//! `switchpoint explain`: one handshake, drawn. Each phase with its time, each field with what it means, and what a
//! proxy on the way has made of it.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::ToSocketAddrs,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    FAILED, HEALTHY, NO_CONNECTION, NO_ROUTE, USAGE,
    access::{self, Access},
    answer::{Answer, printable},
    baseline::diagnosis,
    client::Connection,
    head::Head,
    paint,
    probe::{Known, Talk, accept_of},
    report::Paint,
    target::Target,
};

/// Which handshake to draw.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    access: Access,
    /// Connects to this address instead of the URL's, such as that of a reverse proxy, and compares what was sent with
    /// what the proxy has let through. The server behind it has to be a Switchpoint with `--debug-head`.
    #[arg(long, value_name = "HOST:PORT")]
    through: Option<String>,
    /// Where the server sends back the heads that it sees (its own `--debug-head`).
    #[arg(
        long,
        value_name = "PATH",
        default_value_if("through", clap::builder::ArgPredicate::IsPresent, "/debug/head")
    )]
    debug_head: Option<String>,
}

pub(in crate::cli) fn run(arguments: &Arguments) -> ExitCode {
    explain(&arguments.access, arguments.through.as_deref(), arguments.debug_head.as_deref())
}

pub(super) fn explain(access: &Access, through: Option<&str>, debug_head: Option<&str>) -> ExitCode {
    let (code, text) = drawn(access, through, debug_head, paint());
    drop(io::stdout().write_all(text.as_bytes()));
    code.into()
}

/// The exit code, and the drawing.
fn drawn(access: &Access, through: Option<&str>, debug_head: Option<&str>, paint: Paint) -> (u8, String) {
    let mut drawing = Drawing { text: String::new(), paint };
    let code = drawing.draw(access, through, debug_head).unwrap_or_else(|(code, message)| {
        drawing.bad(&message);
        code
    });
    (code, drawing.text)
}

struct Drawing {
    text: String,
    paint: Paint,
}

/// An exit code, and why.
type Failure = (u8, String);

impl Drawing {
    fn draw(
        &mut self,
        access: &Access,
        through: Option<&str>,
        debug_head: Option<&str>,
    ) -> Result<u8, Failure> {
        let target = access.url.as_ref().ok_or_else(|| (USAGE, "which URL?".to_owned()))?;
        let tls = access.tls(target).map_err(|message| (USAGE, message))?;
        let begun = Instant::now();
        let name = through.map_or_else(|| target.authority(), str::to_owned);
        let addresses = match through {
            Some(address) => address.to_socket_addrs().map(Iterator::collect),
            None => target.resolve(),
        };
        let addresses: Vec<_> =
            addresses.map_err(|error| (NO_CONNECTION, format!("{name} has no address: {error}")))?;
        let known: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
        self.phase("DNS", &format!("{name} → {}", known.join(", ")), begun.elapsed());

        let (connection, address, took) = access::reach(&addresses, access.timeout).map_err(|error| {
            let cure = "is the server started, and does a firewall let the port through?";
            (NO_CONNECTION, format!("no connection: {error}; {cure}"))
        })?;
        self.phase("TCP", &address.to_string(), took);
        let mut connection = match &tls {
            Some(config) => {
                let start = Instant::now();
                let connection = connection.secure(config, &target.host).map_err(|error| {
                    let cure = "--ca names the authority of a private certificate, --insecure believes any";
                    (NO_CONNECTION, format!("no TLS: {error}; {cure}"))
                })?;
                self.tls(&connection, start.elapsed());
                connection
            }
            None => connection,
        };

        let setting = access.setting(target, address, tls.clone());
        let nothing = Known::default();
        let head = Talk::new(&setting, &nothing).offer();
        self.line("");
        self.request(&head, &setting.token);
        let sent = Instant::now();
        connection.send(&head.bytes());
        let answer = connection.answer().map_err(|trouble| {
            (FAILED, format!("{trouble}; see whether this port speaks HTTP, and the server's log"))
        })?;
        self.line("");
        self.phase("HTTP", &answer.brief(), sent.elapsed());
        let is_right = self.response(&head, &answer, &setting.token);
        self.line("");
        let code = self.conclusion(&answer, &setting.token, is_right, begun.elapsed());

        if let Some(path) = debug_head {
            let mut connection = Connection::open(address, access.timeout)
                .map_err(|error| (NO_CONNECTION, format!("no second connection: {error}")))?;
            if let Some(config) = &tls {
                connection = connection
                    .secure(config, &target.host)
                    .map_err(|error| (NO_CONNECTION, error.to_string()))?;
            }
            self.line("");
            self.compare(&mut connection, &head.target(path), target, path)?;
        }
        Ok(code)
    }

    fn line(&mut self, text: &str) {
        self.text += text;
        self.text.push('\n');
    }

    fn bad(&mut self, message: &str) {
        let text = format!("{} {message}", self.paint.red("✗"));
        self.line(&text);
    }

    fn phase(&mut self, name: &str, what: &str, took: Duration) {
        let time = format!("{:.1} ms", took.as_secs_f64() * 1e3);
        let text = format!("{} {what}  {}", self.paint.bold(&format!("{name:<5}")), self.paint.faint(&time));
        self.line(&text);
    }

    /// A line of a head, with what it means. `None`: it neither helps nor harms.
    fn field(&mut self, direction: char, line: &str, judged: Option<(bool, String)>) {
        let line = printable(line);
        let note = match judged {
            Some((true, why)) => format!("{} {}", self.paint.green("✓"), self.paint.faint(&why)),
            Some((false, why)) => format!("{} {why}", self.paint.red("✗")),
            None => String::new(),
        };
        let text = format!("{} {line:<58} {note}", self.paint.faint(&format!("    {direction}")));
        self.line(text.trim_end());
    }

    fn tls(&mut self, connection: &Connection, took: Duration) {
        let Some(tls) = connection.tls() else { return };
        let version = tls.protocol_version().map_or_else(|| "?".to_owned(), |version| format!("{version:?}"));
        let suite = tls
            .negotiated_cipher_suite()
            .map_or_else(|| "?".to_owned(), |suite| format!("{:?}", suite.suite()));
        let alpn = tls
            .alpn_protocol()
            .map_or_else(|| "none".to_owned(), |name| String::from_utf8_lossy(name).into_owned());
        self.phase("TLS", &format!("{version}, {suite}, ALPN {alpn}"), took);
        for (place, certificate) in tls.peer_certificates().unwrap_or_default().iter().enumerate() {
            let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
                self.bad("a certificate that cannot be read");
                continue;
            };
            let left = certificate.validity().time_to_expiration();
            let expiry = match left {
                Some(left) => format!("expires in {} days", left.whole_days()),
                None => "not valid now".to_owned(),
            };
            let names = if place == 0 { names(&certificate) } else { String::new() };
            let what = format!("{}{names}, by {}, {expiry}", certificate.subject(), certificate.issuer());
            let mark = if left.is_some() { self.paint.green("✓") } else { self.paint.red("✗") };
            let text = format!("      {mark} {}", printable(&what));
            self.line(&text);
        }
    }

    fn request(&mut self, head: &Head, token: &str) {
        self.field(
            '>',
            &head.request_line(),
            good("HTTP/1.1: before it, and after it, an offer does not count (RFC 9110 7.8)"),
        );
        for (name, value) in head.fields() {
            let is_secret =
                ["authorization", "cookie"].iter().any(|secret| secret.eq_ignore_ascii_case(name));
            let value = if is_secret { "[redacted]" } else { value };
            let note = match name.to_ascii_lowercase().as_str() {
                "host" => good("which site (RFC 9112 3.2)"),
                "upgrade" => good(&format!("the offer: {token} (RFC 9110 7.8)")),
                "connection" => {
                    good("meant for the next hop: without it the offer does not count (RFC 9110 7.6.1)")
                }
                "sec-websocket-key" => {
                    good("16 random bytes, that an answer proves to have read (RFC 6455 4.1)")
                }
                "sec-websocket-version" => good("the only version there is (RFC 6455 4.1)"),
                "http2-settings" => good("the client's first SETTINGS, in base64url (RFC 7540 3.2.1)"),
                _ => None,
            };
            self.field('>', &format!("{name}: {value}"), note);
        }
    }

    /// Says for each line whether it is right, and whether all is.
    fn response(&mut self, head: &Head, answer: &Answer, token: &str) -> bool {
        let is_switched = answer.status == 101;
        let line = format!("{} {} {}", answer.version, answer.status, answer.phrase);
        let note = if is_switched { good("switched") } else { bad("101 is the only status that switches") };
        self.field('<', &line, note);
        let key = head.field("sec-websocket-key");
        let mut is_right = is_switched;
        for (name, value) in &answer.fields {
            let note = match name.to_ascii_lowercase().as_str() {
                "upgrade" if is_switched && value.eq_ignore_ascii_case(token) => good("what was asked for"),
                "upgrade" if is_switched => bad("not what was asked for"),
                "upgrade" => good("what can be asked for here"),
                "connection" if is_switched && !answer.has_token("connection", "upgrade") => {
                    bad("it lacks `upgrade`")
                }
                "connection" if is_switched => good("`Upgrade` is for this hop"),
                "sec-websocket-accept" => match key.map(accept_of) {
                    Some(expected) if expected == *value => good("the key's"),
                    Some(expected) => bad(&format!("the key's is {expected}")),
                    None => bad("nobody sent a key"),
                },
                "sec-websocket-protocol"
                    if head
                        .field(name)
                        .is_none_or(|offers| !offers.split(',').any(|offer| offer.trim() == value)) =>
                {
                    bad("it was not offered")
                }
                "sec-websocket-extensions" if head.field(name).is_none() => bad("none was offered"),
                "sec-websocket-protocol" | "sec-websocket-extensions" => good("it was offered"),
                "content-length" | "transfer-encoding" if is_switched => {
                    bad("a 101 has no content (RFC 9110 8.6)")
                }
                _ => None,
            };
            is_right &= !matches!(note, Some((false, _)));
            self.field('<', &format!("{name}: {value}"), note);
        }
        if is_switched {
            let missing = ["Upgrade", "Connection"].into_iter().chain(key.map(|_| "Sec-WebSocket-Accept"));
            for name in missing.filter(|name| answer.field(name).is_none()) {
                is_right = false;
                self.field(
                    '<',
                    &format!("({name} is missing)"),
                    bad("clients fail the connection without it"),
                );
            }
        }
        if is_switched && let Some(key) = key {
            let text = format!(
                "      {} base64(SHA-1(\"{key}\" + \"258EAFA5-E914-47DA-95CA-C5AB0DC85B11\")) = {}",
                self.paint.faint("Sec-WebSocket-Accept:"),
                accept_of(key)
            );
            self.line(&text);
        }
        is_right
    }

    fn conclusion(&mut self, answer: &Answer, token: &str, is_right: bool, took: Duration) -> u8 {
        if is_right {
            let text = format!(
                "{} switched to {token}, {:.1} ms in all",
                self.paint.green("✓"),
                took.as_secs_f64() * 1e3
            );
            self.line(&text);
            return HEALTHY;
        }
        if answer.status == 101 {
            self.bad("the 101 is wrong, and a careful client fails the connection");
            return FAILED;
        }
        let (means, cure) = diagnosis(answer, token);
        self.bad(&format!("not switched: {means}"));
        let text = format!("  {} {cure}", self.paint.faint("cure"));
        self.line(&text);
        for line in String::from_utf8_lossy(&answer.body).lines().filter(|line| !line.is_empty()).take(8) {
            let text = format!("  {} {}", self.paint.faint("body"), printable(line));
            self.line(&text);
        }
        NO_ROUTE
    }

    /// Sends the same head to the route that sends heads back, and tells what has become of it.
    fn compare(
        &mut self,
        connection: &mut Connection,
        head: &Head,
        target: &Target,
        path: &str,
    ) -> Result<(), Failure> {
        connection.send(&head.bytes());
        let answer = connection.answer().map_err(|trouble| (NO_CONNECTION, format!("{path}: {trouble}")))?;
        if answer.status != 200 || answer.field("x-switchpoint-head").is_none() {
            self.bad(&format!(
                "{} does not say which heads it sees: {path} got {}; start it with --debug-head {path}",
                target.authority(),
                answer.brief()
            ));
            return Ok(());
        }
        let text = self.paint.bold("what the server has seen of it");
        self.line(&text);
        let seen = String::from_utf8_lossy(&answer.body).into_owned();
        let mut lines = seen.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        if first == head.request_line() {
            self.field('=', &first, good("as it was sent"));
        } else {
            let is_old = first.ends_with("HTTP/1.0");
            let cure =
                if is_old { ": in HTTP/1.0 no offer counts (nginx: `proxy_http_version 1.1`)" } else { "" };
            self.field('~', &first, bad(&format!("sent as {}{cure}", head.request_line())));
        }
        let seen: Vec<_> =
            lines.filter_map(|line| line.split_once(": ").or_else(|| line.split_once(':'))).collect();
        for change in changes(head.fields(), &seen) {
            let (mark, line, note) = change;
            self.field(mark, &line, note);
        }
        Ok(())
    }
}

type Note = Option<(bool, String)>;

fn good(why: &str) -> Note {
    Some((true, why.to_owned()))
}

fn bad(why: &str) -> Note {
    Some((false, why.to_owned()))
}

/// What has become of each field: `=` as it was, `~` changed, `-` gone, `+` new.
fn changes(sent: &[(String, String)], seen: &[(&str, &str)]) -> Vec<(char, String, Note)> {
    let mut changes = Vec::new();
    let mut left: Vec<_> = seen.to_vec();
    for (name, value) in sent {
        let line = format!("{name}: {value}");
        let found = left.iter().position(|(other, _)| other.eq_ignore_ascii_case(name));
        changes.push(match found.map(|at| left.remove(at).1) {
            Some(seen) if seen == value => ('=', line, good("as it was sent")),
            Some("[redacted]") => ('=', format!("{name}: [redacted]"), good("it is there")),
            Some(seen) => ('~', format!("{name}: {seen}"), changed(name, value, seen)),
            None => ('-', line, lost(name)),
        });
    }
    changes.extend(
        left.iter().map(|(name, value)| {
            ('+', format!("{name}: {value}"), Some((true, "added on the way".to_owned())))
        }),
    );
    changes
}

fn changed(name: &str, sent: &str, seen: &str) -> Note {
    let is_kept = |token: &str| seen.split(',').any(|item| item.trim().eq_ignore_ascii_case(token));
    match name.to_ascii_lowercase().as_str() {
        "connection" if is_kept("upgrade") => {
            Some((true, format!("sent as {sent}; `upgrade` is still there")))
        }
        "connection" => bad(&format!(
            "sent as {sent}: without `upgrade` the server must not switch (nginx: `proxy_set_header Connection $connection_upgrade`)"
        )),
        "host" => bad(&format!(
            "sent as {sent}: origins are compared with it (nginx: `proxy_set_header Host $host`)"
        )),
        "upgrade" if sent.eq_ignore_ascii_case(seen) => Some((true, format!("sent as {sent}"))),
        _ => bad(&format!("sent as {sent}")),
    }
}

fn lost(name: &str) -> Note {
    let cure = match name.to_ascii_lowercase().as_str() {
        "upgrade" => {
            ": the server is never asked (nginx: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade`)"
        }
        "connection" => {
            ": without it the server must not switch (nginx: `proxy_set_header Connection $connection_upgrade`)"
        }
        _ => "",
    };
    bad(&format!("dropped on the way{cure}"))
}

/// The names that a certificate is for.
fn names(certificate: &X509Certificate<'_>) -> String {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return String::new();
    };
    let names: Vec<_> = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress([a, b, c, d]) => Some(format!("{a}.{b}.{c}.{d}")),
            GeneralName::IPAddress(bytes) => {
                let bytes: [u8; 16] = (*bytes).try_into().ok()?;
                Some(std::net::Ipv6Addr::from(bytes).to_string())
            }
            _ => None,
        })
        .take(8)
        .collect();
    let mut text = String::new();
    if !names.is_empty() {
        let _ = write!(text, " for {}", names.join(", "));
    }
    text
}

#[cfg(test)]
mod unit_tests {
    use std::{
        io::{BufRead, BufReader, Read},
        net::{SocketAddr, TcpStream},
    };

    use clap::Parser;

    use super::*;
    use crate::cli::doctor::tests::{certified, listen, ours, said_to};

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn explained(arguments: &[&str]) -> (u8, String) {
        let arguments = Program::try_parse_from(["explain"].iter().chain(arguments)).unwrap().arguments;
        drawn(&arguments.access, arguments.through.as_deref(), arguments.debug_head.as_deref(), Paint(false))
    }

    fn has(text: &str, parts: &[&str]) {
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    #[test]
    fn a_good_handshake_is_drawn() {
        let server = ours(false, false);
        let (code, text) =
            explained(&["--bearer", "secret", &format!("ws://{}/echo", server.addresses()[0])]);
        server.stop();
        server.join();
        assert_eq!(code, HEALTHY, "{text}");
        has(
            &text,
            &[
                "DNS   127.0.0.1",
                "TCP   127.0.0.1",
                "> GET /echo HTTP/1.1",
                "< HTTP/1.1 101 Switching Protocols",
            ],
        );
        has(&text, &["✓ the key's", "base64(SHA-1(", "✓ switched to websocket", "Authorization: [redacted]"]);
        assert!(!text.contains('✗') && !text.contains("secret"), "{text}");
    }

    #[test]
    fn a_refusal_is_explained() {
        let server = ours(false, false);
        let (code, text) = explained(&[
            "-H",
            "Origin: https://evil.example",
            &format!("ws://{}/echo", server.addresses()[0]),
        ]);
        server.stop();
        server.join();
        assert_eq!(code, NO_ROUTE, "{text}");
        has(
            &text,
            &[
                "✗ not switched",
                "the server's reason: origin-not-allowed",
                "cure",
                "-H 'Origin: https://example.org'",
            ],
        );
    }

    #[test]
    fn a_wrong_101_is_found_out() {
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let address = listen(move |stream| said_to(stream, answer));
        let (code, text) = explained(&[&format!("ws://{address}/")]);
        assert_eq!(code, FAILED, "{text}");
        has(&text, &["✗ not what was asked for", "✗ it lacks `upgrade`", "✗ a 101 has no content"]);
        has(&text, &["(Sec-WebSocket-Accept is missing)", "✗ the 101 is wrong"]);
    }

    #[test]
    fn tls_is_drawn_with_its_certificate() {
        let (config, pem) = certified();
        let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        let address = listen(move |stream| {
            let session = rustls::ServerConnection::new(std::sync::Arc::clone(&config)).unwrap();
            said_to(rustls::StreamOwned::new(session, stream), answer);
        });
        let file = std::env::temp_dir().join(format!("explain-{}.pem", std::process::id()));
        std::fs::write(&file, pem).unwrap();
        let url = format!("wss://localhost:{}/", address.port());
        let (code, text) = explained(&["--ca", file.to_str().unwrap(), &url]);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(code, NO_ROUTE, "{text}");
        has(
            &text,
            &["TLS   TLSv1_3", "ALPN none", "for localhost", "expires in ", "nothing is at this path"],
        );
        let (code, text) = explained(&[&url]);
        assert_eq!(code, NO_CONNECTION, "{text}");
        has(&text, &["✗ no TLS", "--ca names the authority"]);
    }

    /// A reverse proxy that knows nothing of upgrades.
    fn proxy(backend: SocketAddr, client: TcpStream) {
        let mut head = "GET".to_owned();
        let mut reader = BufReader::new(client.try_clone().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        head += line.strip_prefix("GET").unwrap();
        head += "Via: 1.1 proxy\r\nConnection: close\r\n";
        loop {
            line.clear();
            if reader.read_line(&mut line).unwrap() <= 2 {
                break;
            }
            if !line.starts_with("Upgrade:") && !line.starts_with("Connection:") {
                head += &line;
            }
        }
        let mut server = TcpStream::connect(backend).unwrap();
        server.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).unwrap();
        (&client).write_all(&answer).unwrap();
    }

    #[test]
    fn what_a_proxy_lets_through_is_compared() {
        let server = ours(false, false);
        let backend = server.addresses()[0];
        let front = listen(move |client| proxy(backend, client));
        let front = front.to_string();
        // The URL is the server's: its name is asked for, at the proxy's address.
        let (code, text) = explained(&["--through", &front, &format!("ws://{backend}/echo")]);
        assert_eq!(code, NO_ROUTE, "{text}");
        has(
            &text,
            &["reason: upgrade-required", "what the server has seen of it", "= GET /debug/head HTTP/1.1"],
        );
        has(
            &text,
            &["- Upgrade: websocket", "✗ dropped on the way: the server is never asked", "+ Via: 1.1 proxy"],
        );
        has(&text, &["~ Connection: close", "✗ sent as Upgrade: without `upgrade`"]);
        let (code, text) = explained(&["--debug-head", "/healthz", &format!("ws://{backend}/echo")]);
        assert_eq!(code, HEALTHY, "{text}");
        has(&text, &["does not say which heads it sees"]);
        server.stop();
        server.join();
    }

    #[test]
    fn what_a_proxy_does_is_told() {
        let sent: Vec<_> =
            [("Host", "a.example"), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Cookie", "a=b")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec();
        let seen =
            [("host", "backend:80"), ("Connection", "close"), ("cookie", "[redacted]"), ("Via", "1.1 proxy")];
        let told: Vec<_> = changes(&sent, &seen)
            .into_iter()
            .map(|(mark, line, note)| (mark, line, note.is_some_and(|(is_good, _)| is_good)))
            .collect();
        assert_eq!(
            told,
            [
                ('~', "Host: backend:80".to_owned(), false),
                ('-', "Upgrade: websocket".to_owned(), false),
                ('~', "Connection: close".to_owned(), false),
                ('=', "Cookie: [redacted]".to_owned(), true),
                ('+', "Via: 1.1 proxy".to_owned(), true),
            ]
        );
    }
}
