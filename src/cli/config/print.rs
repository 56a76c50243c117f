//! What holds, and where it comes from; and the sample file. Both are TOML that can be loaded again.

use std::fmt::Write;

use super::{
    LISTEN, Settings, Settled,
    keys::{self, Key, TABLES},
    kind::{networks, quoted, show_list},
    listen::{Place, show_mode},
    problem::Source,
    route::Route,
};

/// Every value that holds, with its source.
pub(crate) fn effective(settled: &Settled) -> String {
    let mut settings = settled.settings.clone();
    let mut text = String::new();
    for table in TABLES {
        head(&mut text, table);
        for key in keys::of_server().iter().filter(|key| key.table == *table) {
            let value = (key.show)(&mut settings);
            line(&mut text, &format!("{} = {value}", key.name), &settled.source(&key.full()));
        }
    }
    let networks_kind = networks();
    for listen in &settings.listen {
        text.push_str("\n[[listen]]\n");
        line(&mut text, &format!("address = {}", quoted(&listen.place.text())), &listen.at);
        if let Place::Unix(_) = listen.place {
            line(&mut text, &format!("mode = {}", show_mode(listen.mode.0)), &listen.mode.1);
        }
        let general = (settings.h2c, settled.source("http2.h2c"));
        let (h2c, source) = listen.h2c.clone().unwrap_or(general);
        line(&mut text, &format!("h2c = {h2c}"), &source);
        let (networks, source) = &listen.proxy_protocol;
        line(&mut text, &format!("proxy_protocol = {}", (networks_kind.show)(networks)), source);
        #[cfg(feature = "tls")]
        if let Some((tls, source)) = &listen.tls {
            for (key, value) in tls.lines() {
                line(&mut text, &format!("tls.{key} = {value}"), source);
            }
        }
    }
    for route in &settings.routes {
        text.push_str("\n[[route]]\n");
        show_route(&mut text, route);
    }
    text
}

fn show_route(text: &mut String, route: &Route) {
    line(text, &format!("path = {}", quoted(&route.path)), &route.at);
    if !route.protocols.is_empty() {
        let names = route.protocols.iter().map(|protocol| protocol.name());
        line(text, &format!("protocols = {}", show_list(names)), &route.at);
    }
    if let Some(fallback) = route.fallback {
        line(text, &format!("fallback = {}", quoted(fallback.name())), &route.at);
    }
    #[cfg(feature = "auth")]
    if let Some((auth, source)) = &route.auth {
        line(text, &format!("auth = {}", super::auth::show(auth)), source);
    }
    for (table, name, value, source) in &route.own {
        line(text, &format!("{table}.{name} = {value}"), source);
    }
}

fn head(text: &mut String, table: &str) {
    if !table.is_empty() {
        let _ = write!(text, "\n[{table}]\n");
    }
}

fn line(text: &mut String, setting: &str, source: &Source) {
    let _ = writeln!(text, "{setting:<48} # {source}");
}

/// A file with every key at its default, and what it means.
pub(crate) fn sample() -> String {
    let mut defaults = Settings::default();
    let mut text = String::from(HEAD);
    for table in TABLES {
        head(&mut text, table);
        if let Some((_, words)) = ABOUT.iter().find(|(about, _)| about == table) {
            comment(&mut text, words);
        }
        for key in keys::of_server().iter().filter(|key| key.table == *table) {
            sample_key(&mut text, key, &mut defaults);
        }
    }
    let _ = write!(text, "{}", LISTEN_SAMPLE.replace("ADDRESS", LISTEN));
    text.push_str(ROUTE_SAMPLE);
    for route in &defaults.routes {
        let _ = writeln!(text, "\n[[route]]\npath = {}", quoted(&route.path));
        if !route.protocols.is_empty() {
            let names = route.protocols.iter().map(|protocol| protocol.name());
            let _ = writeln!(text, "protocols = {}", show_list(names));
        }
        if let Some(fallback) = route.fallback {
            let _ = writeln!(text, "fallback = {}", quoted(fallback.name()));
        }
    }
    text.push_str(OWN_SAMPLE);
    text
}

fn sample_key(text: &mut String, key: &Key<Settings>, defaults: &mut Settings) {
    text.push('\n');
    comment(text, key.means);
    let _ = writeln!(text, "{} = {}", key.name, (key.show)(defaults));
}

/// A paragraph, in lines.
fn comment(text: &mut String, words: &str) {
    let mut length = WIDTH;
    for word in words.split(' ') {
        if length + word.len() + 1 > WIDTH {
            text.push_str(if text.is_empty() || text.ends_with('\n') { "#" } else { "\n#" });
            length = 1;
        }
        text.push(' ');
        text.push_str(word);
        length += word.len() + 1;
    }
    text.push('\n');
}

const WIDTH: usize = 100;

const HEAD: &str = "\
# Switchpoint's settings: every key, at its default. `switchpoint print-config --sample` prints this file,
# `switchpoint check-config FILE` looks for errors, `switchpoint --config FILE` serves.
#
# Each can be set in the environment as well, as SWITCHPOINT_ and its table and name in upper case
# (SWITCHPOINT_LIMITS_HEAD_TIME), and by a flag, --set limits.head_time=5s. Flags come before the environment,
# and the environment before this file.
";

const ABOUT: &[(&str, &str)] = &[
    ("limits", "Times are written as \"250ms\", \"10s\", \"5m\", \"1h\"; sizes as 65536 or \"64KiB\"."),
    ("http2", "HTTP/2 on the port of HTTP/1.1. Its limits are above."),
    ("websocket", "What holds for WebSockets. Their limits are above; a route can have its own of both."),
    (
        "admin",
        "What an operator reaches of the server: docs/metrics.md, docs/admin.md. All of it is off by default.",
    ),
];

const LISTEN_SAMPLE: &str = "
# Where to listen: HOST:PORT, :PORT for every IPv4 address, unix:PATH, fd://3 or fd://NAME for a socket that the
# program is started with (socket activation). SWITCHPOINT_LISTEN and --listen replace all of these.
[[listen]]
address = \"ADDRESS\"
# Whether `Upgrade: h2c` is taken here; http2.h2c where it is not said.
h2c = false

# [[listen]]
# address = \"unix:/run/switchpoint/http.sock\"
# # Who may connect, in octal: by default its user and its group. The file of a dead server is replaced.
# mode = \"0660\"

# [[listen]]
# address = \":8443\"
# # TLS, with a certificate for each name; docs/tls.md. `self_signed = true` is for development.
# tls.certificates = [{ chain = \"/etc/switchpoint/cert.pem\", key = \"/etc/switchpoint/key.pem\" }]
# # The proxies who send a header of the PROXY protocol; whoever else connects here is not served.
# proxy_protocol = [\"10.0.0.0/8\"]
";

const ROUTE_SAMPLE: &str = "
# What each path speaks. Routes of a file replace these, which are the program's own.
#
# `protocols`: \"websocket\" (every message comes back), \"echo\" (every byte does). `fallback`: what is answered to who
# asks for no upgrade: \"page\", \"health\" (200), \"readiness\" (200, or 503 in a drain), \"mirror\" (what is posted). A path
# without a fallback is upgrade-only: any other request gets 426.
";

const OWN_SAMPLE: &str = "
# A route can have WebSocket settings and limits of its own:
#
# [[route]]
# path = \"/chat\"
# protocols = [\"websocket\"]
# limits.message_max = \"64KiB\"
# limits.ping_after = \"10s\"
# websocket.origins = [\"https://example.org\"]
# # Who may pass; docs/authentication.md.
# auth.bearer = { file = \"/etc/switchpoint/tokens\" }
";
