//! Layers, values and every error, as a user meets them.

use std::time::Duration;

use super::*;

/// The layers of a file with this text, of variables and of flags.
fn layers(text: &str, variables: &[(&str, &str)], flags: &[(&str, &str, &str)]) -> Layers {
    let file = File { path: "a.toml".into(), text: text.into() };
    let own = |text: &&str| (*text).to_owned();
    let variables = variables.iter().map(|(name, value)| (own(name), own(value)));
    let mut layers = Layers { file: Some(file), ..Layers::default() }.environment(variables);
    for (flag, key, value) in flags {
        layers.flag(flag, key, (*value).into());
    }
    layers
}

fn settled(text: &str) -> Settled {
    layers(text, &[], &[]).settle().unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(text: &str) -> String {
    layers(text, &[], &[]).settle().unwrap_err().to_string()
}

/// What `print-config` says of `key`.
fn printed(settled: &Settled, key: &str) -> String {
    let text = effective(settled);
    let line = text.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_flag_comes_before_the_environment_before_the_file_before_the_default() {
    let text = "[limits]\nhead_time = \"1s\"\nidle_time = \"2s\"\nwrite_time = \"3s\"\n";
    let variables = [("SWITCHPOINT_LIMITS_HEAD_TIME", "4s"), ("SWITCHPOINT_LIMITS_IDLE_TIME", "5s")];
    let flags = [("--head-time", "limits.head_time", "6s")];
    let settled = layers(text, &variables, &flags).settle().unwrap();
    let config = settled.settings.config().unwrap();
    let seconds = |time: Duration| time.as_secs();
    assert_eq!(seconds(config.head_time), 6);
    assert_eq!(seconds(config.idle_time), 5);
    assert_eq!(seconds(config.write_time), 3);
    assert_eq!(config.answer_time, Config::default().answer_time);
    assert_eq!(printed(&settled, "head_time"), "head_time = \"6s\" # --head-time");
    assert_eq!(printed(&settled, "idle_time"), "idle_time = \"5s\" # SWITCHPOINT_LIMITS_IDLE_TIME");
    assert_eq!(printed(&settled, "write_time"), "write_time = \"3s\" # a.toml:4");
    assert_eq!(printed(&settled, "answer_time"), "answer_time = \"10s\" # default");
}

#[test]
fn every_key_can_be_set_in_every_layer_and_reaches_what_it_sets() {
    for key in keys::of_server() {
        let mut settings = Settings::default();
        let default = (key.show)(&mut settings);
        // Another value of the same kind, for each kind that there is.
        let other = match default.trim_matches('"') {
            "true" => "false",
            "false" => "true",
            "auto" => "\"epoll\"",
            "info" => "\"debug\"",
            "wait" => "\"close\"",
            "[]" => "[\"https://a.example\"]",
            "never" => "\"9h\"",
            "text" => "\"json\"",
            "" => "\"/a/b\"",
            "1" => "2",
            "15" => "9",
            _ if default.ends_with("s\"") || default.ends_with("m\"") || default.ends_with("h\"") => "\"9m\"",
            _ => "70000",
        };
        let other = match key.name {
            "threads" | "fields_max" | "ipv4_prefix" | "ipv6_prefix" | "recent_handshakes" => "7",
            "listen" => "[\"127.0.0.1:9090\"]",
            "exempt" => "[\"10.0.0.0/8\"]",
            _ => other,
        };
        let text = match key.table {
            "" => format!("{} = {other}\n", key.name),
            table => format!("[{table}]\n{} = {other}\n", key.name),
        };
        // Alone it has no effect, which is said.
        let text = if key.name == "h2c_behind_proxies" { format!("{text}h2c = true\n") } else { text };
        let mut by_file = settled(&text);
        let shown = (key.show)(&mut by_file.settings);
        assert_ne!(shown, default, "{}", key.full());
        let plain = match other {
            "[\"https://a.example\"]" => "https://a.example",
            "[\"10.0.0.0/8\"]" => "10.0.0.0/8",
            "[\"127.0.0.1:9090\"]" => "127.0.0.1:9090",
            other => other.trim_matches('"'),
        };
        let also = [("--h2c", "http2.h2c", "true")];
        let also = if key.name == "h2c_behind_proxies" { &also[..] } else { &[] };
        let mut by_variable = layers("", &[(&key.variable(), plain)], also).settle().unwrap();
        assert_eq!((key.show)(&mut by_variable.settings), shown, "{}", key.variable());
        let set = ("--set", &*key.full(), plain);
        let mut by_flag = layers("", &[], &[also, &[set]].concat()).settle().unwrap();
        assert_eq!((key.show)(&mut by_flag.settings), shown, "{}", key.full());
    }
}

#[test]
fn what_is_printed_can_be_loaded_again_and_means_the_same() {
    let text = "
        threads = 2
        [limits]
        body_max = 1000
        websocket_lifetime = \"90s\"
        [websocket]
        origins = [\"https://a.example\"]
        deflate = true
        [[listen]]
        address = \"unix:/tmp/a b\"
        mode = \"0600\"
        h2c = true
        [[listen]]
        address = \"[::1]:80\"
        [[route]]
        path = \"/chat\"
        protocols = [\"echo\", \"websocket\"]
        fallback = \"page\"
        limits.message_max = \"4KiB\"
        websocket = { when_full = \"close\", shows_handshake = false }
    ";
    let without_sources = |settled: &Settled| -> Vec<String> {
        effective(settled)
            .lines()
            .map(|line| line.split(" # ").next().unwrap().trim_end().to_owned())
            .collect()
    };
    let first = settled(text);
    let printed = effective(&first);
    assert!(printed.contains("limits.message_max = \"4KiB\""), "{printed}");
    let again = settled(&printed);
    assert_eq!(without_sources(&again), without_sources(&first));
}

#[test]
fn the_sample_file_has_every_key_at_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/switchpoint.toml");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        text == sample(),
        "docs/switchpoint.toml is stale: `switchpoint print-config --sample` prints it"
    );
    let mut loaded = settled(&text);
    for key in keys::of_server() {
        let mut defaults = Settings::default();
        assert_eq!((key.show)(&mut loaded.settings), (key.show)(&mut defaults), "{}", key.full());
        assert_ne!(loaded.source(&key.full()), Source::Default, "{} is not in the sample", key.full());
    }
    let shape = |settings: &Settings| {
        let listen: Vec<_> = settings.listen.iter().map(|listen| listen.place.clone()).collect();
        let route = |route: &Route| (route.path.clone(), route.protocols.clone(), route.fallback);
        (listen, settings.routes.iter().map(route).collect::<Vec<_>>())
    };
    assert_eq!(shape(&loaded.settings), shape(&Settings::default()));
}

#[test]
fn the_page_about_the_settings_has_every_key_at_its_default() {
    let page = include_str!("../../../docs/configuration.md");
    for key in keys::of_server() {
        let default = (key.show)(&mut Settings::default());
        let row = format!("| `{}` | `{default}` |", key.name);
        assert!(page.contains(&row), "docs/configuration.md has no row that begins {row}");
    }
}

#[test]
fn an_unknown_key_is_an_error_that_shows_where_it_is_and_what_may_be_meant() {
    assert_eq!(
        problems("threads = 2\n\n[limits]\nhead_tim = \"5s\"\n"),
        "error: unknown key `head_tim` in [limits]\n \
         --> a.toml:4:1\n  \
         |\n\
         4 | head_tim = \"5s\"\n  \
         | ^^^^^^^^\n  \
         = help: did you mean `head_time`?\n\n"
    );
    for (text, help) in [
        ("head_time = \"5s\"", "`head_time` belongs in [limits]"),
        ("[limits]\nthreads = 2", "`threads` belongs before the first table"),
        ("[limits]\ndeflat = true", "did you mean `deflate` in [websocket]?"),
        ("[lemits]\nx = 1", "did you mean `limits`?"),
        ("[[listen]]\naddress = \":1\"\nmod = 1", "did you mean `mode`?"),
        ("[[route]]\npath = \"/\"\nfalback = \"page\"", "did you mean `fallback`?"),
        ("zzz = 1", "there is `threads`, `driver`, `log`, `log_format`"),
    ] {
        assert!(problems(text).contains(&format!("help: {help}")), "{}", problems(text));
    }
}

#[test]
fn a_wrong_value_is_an_error_with_what_would_be_right() {
    for (text, what, help) in [
        ("head_time = 5", "a number alone is no time", "write \"5s\" for seconds"),
        ("head_time = \"5\"", "`5` is not a time without a unit", "\"10s\""),
        ("head_time = \"0s\"", "`0s` is too short", "at least 1ms"),
        ("head_time = \"900000y\"", "`900000y` is too long", "at most 100 years"),
        ("head_time = true", "it is a time, and true or false was given", "\"10s\""),
        ("body_max = \"much\"", "`much` is not a size", "64KiB"),
        ("body_max = -1", "-1 is too small", "cannot be negative"),
        ("body_max = 99999999999999999999999", "is too large", "from 0 to 1GiB"),
        ("head_max = 10", "10 is too small", "from 256 to 16MiB"),
        ("fields_max = \"10\"", "it is a number, and a string was given", "such as 100"),
        ("fields_max = 1.5", "it is a number, and a fraction was given", "such as 100"),
    ] {
        let said = problems(&format!("[limits]\n{text}"));
        assert!(said.contains(what) && said.contains(help), "{said}");
    }
    for (text, what, help) in [
        ("driver = \"eppol\"", "there is no `eppol`", "did you mean \"epoll\"?"),
        ("driver = \"kqueue\"", "there is no `kqueue`", "one of \"auto\", \"uring\", \"epoll\""),
        ("log = \"x=y=z\"", "`x=y=z` is not a level", "error, warn, info"),
        ("limits = 1", "it is a table, and a number was given", "write [limits]"),
        ("[listen]\naddress = \":1\"", "it is a list of tables, and a table was given", "write [[listen]]"),
        ("[websocket]\norigins = [\"a.example\"]", "`a.example` is not an origin", "https://example.org"),
        ("[websocket]\norigins = [\"https://a.example/x\"]", "is not an origin", "no path"),
        ("[websocket]\norigins = [1]", "it is a string, and a number was given", "[\"*\"] for all"),
        ("[http2]\nh2c_behind_proxies = true", "has no effect", "h2c = true"),
        ("a = ", "this is not TOML", ""),
        ("threads = 1\nthreads = 2", "this is not TOML: duplicate key", ""),
    ] {
        let said = problems(text);
        assert!(said.contains(what) && said.contains(help), "{said}");
    }
}

#[test]
fn a_listener_that_cannot_be_is_an_error() {
    let listen = |text: &str| problems(&format!("[[listen]]\n{text}"));
    for (text, what, help) in [
        ("h2c = true", "this [[listen]] has no `address`", "add one"),
        ("address = \"8080\"", "`8080` is no address", "HOST:PORT"),
        ("address = \"127.0.0.1:99999\"", "is no address", "HOST:PORT"),
        ("address = \"/run/a.sock\"", "is no address", "write unix:/run/a.sock"),
        ("address = \"unix:\"", "names no file", "unix:PATH"),
        ("address = \"fd://\"", "names no socket", "fd://3"),
        ("address = \":1\"\nmode = \"0600\"", "`mode` is for Unix sockets", "begin with unix:"),
        ("address = \"unix:/a\"\nmode = 600", "a mode is octal", "write it in quotes: \"0600\""),
        ("address = \"unix:/a\"\nmode = \"1777\"", "`1777` is no mode", "in octal"),
        (
            "address = \":1\"\n[[listen]]\naddress = \":1\"",
            ":1 is listened on already, by a.toml:2",
            "remove one",
        ),
    ] {
        let said = listen(text);
        assert!(said.contains(what) && said.contains(help), "{said}");
    }
    let two = settled("[[listen]]\naddress = \"127.0.0.1:0\"\n[[listen]]\naddress = \"127.0.0.1:0\"");
    assert_eq!(two.settings.config().unwrap().listen.len(), 2, "each takes a port of its own");
    let octal = settled("[[listen]]\naddress = \"unix:/a\"\nmode = 0o640");
    assert_eq!(octal.settings.listen[0].mode.0, 0o640);
    let missing = settled("[[listen]]\naddress = \"fd://987654\"").settings.config().unwrap_err();
    assert!(missing.contains("fd://987654") && missing.contains("not open"), "{missing}");
}

#[test]
fn a_route_that_cannot_be_is_an_error() {
    let route = |text: &str| problems(&format!("[[route]]\n{text}"));
    for (text, what, help) in [
        ("protocols = [\"echo\"]", "this [[route]] has no `path`", "add one"),
        ("path = \"chat\"\nfallback = \"page\"", "`chat` is no path", "did you mean \"/chat\"?"),
        ("path = \"/a?b\"\nfallback = \"page\"", "`/a?b` is no path", "without query"),
        ("path = \"/a\"", "neither protocols nor a fallback", "\"websocket\""),
        ("path = \"/a\"\nfallback = \"pages\"", "there is no `pages`", "did you mean \"page\"?"),
        ("path = \"/a\"\nprotocols = \"echo\"", "it is a list of protocols, and a string", "[\"websocket\""),
        ("path = \"/a\"\nprotocols = [\"websockets\"]", "does not speak `websockets`", "\"websocket\"?"),
        ("path = \"/a\"\nprotocols = [\"h2c\"]", "does not speak `h2c`", "a setting of listeners"),
        ("path = \"/a\"\nprotocols = [\"echo\", \"echo\"]", "`echo` is there twice", "remove one"),
        ("path = \"/a\"\nprotocols = [\"echo\"]\nlimits.message_max = 1", "has no effect", "\"websocket\""),
        (
            "path = \"/a\"\nprotocols = [\"websocket\"]\nlimits.head_time = \"1s\"",
            "unknown key `head_time`",
            "holds for the whole server, and belongs in [limits]",
        ),
        (
            "path = \"/a\"\nprotocols = [\"websocket\"]\nlimits.deflate = true",
            "unknown key `deflate`",
            "the route's own websocket",
        ),
        (
            "path = \"/a\"\nfallback = \"page\"\n[[route]]\npath = \"/a\"\nfallback = \"page\"",
            "there is a route for /a already, at a.toml:2",
            "into one",
        ),
    ] {
        let said = route(text);
        assert!(said.contains(what) && said.contains(help), "{said}");
    }
}

#[test]
fn all_errors_are_told_at_once_in_their_order() {
    let text = "zzz = 1\n[limits]\nhead_time = 5\n[[route]]\npath = \"x\"\n[[listen]]\naddress = \"y\"\n";
    let variables = [("SWITCHPOINT_THREADS", "many")];
    let flags = [("--body-max", "limits.body_max", "\"1\""), ("--listen", "listen", "z")];
    let said = layers(text, &variables, &flags).settle().unwrap_err().to_string();
    let places: Vec<&str> = said.lines().filter_map(|line| line.trim_start().strip_prefix("--> ")).collect();
    assert_eq!(
        places,
        [
            "a.toml:1:1",
            "a.toml:3:13",
            "a.toml:5:8",
            "a.toml:7:11",
            "SWITCHPOINT_THREADS",
            "--body-max",
            "--listen"
        ]
    );
    assert!(said.contains("`threads`: `many` is not a number"), "{said}");
}

#[test]
fn what_a_variable_or_a_flag_names_replaces_the_files_listeners() {
    let text = "[[listen]]\naddress = \":1\"\nh2c = true\n";
    let places = |layers: Layers| -> Vec<String> {
        layers.settle().unwrap().settings.listen.iter().map(|listen| listen.place.text()).collect()
    };
    let variables = [("SWITCHPOINT_LISTEN", ":2, unix:/a")];
    assert_eq!(places(layers(text, &[], &[])), [":1"]);
    assert_eq!(places(layers(text, &variables, &[])), [":2", "unix:/a"]);
    let flags = [("--listen", "listen", ":3"), ("--listen", "listen", ":4"), ("--listen", "listen", ":3")];
    assert_eq!(places(layers(text, &variables, &flags)), [":3", ":4"]);
}

#[test]
fn variables_of_others_are_left_alone_and_misspelt_ones_are_not() {
    let variables =
        [("SWITCHPOINT_PORT", "tcp://10.0.0.1:80"), ("SWITCHPOINT_LIMITS_HEAD_TIM", "1s"), ("PATH", "/")];
    let settled = layers("", &variables, &[]).settle().unwrap();
    assert_eq!(
        settled.warnings,
        ["SWITCHPOINT_LIMITS_HEAD_TIM sets nothing; did you mean SWITCHPOINT_LIMITS_HEAD_TIME?"]
    );
}

#[test]
fn the_short_name_of_the_admin_address_gives_way_to_the_full_one() {
    let short = ("SWITCHPOINT_ADMIN", "127.0.0.1:1");
    let full = ("SWITCHPOINT_ADMIN_LISTEN", "127.0.0.1:2, 127.0.0.1:3");
    let ports = |variables: &[(&str, &str)]| -> Vec<u16> {
        let settled = layers("", variables, &[]).settle().unwrap();
        settled.settings.admin.addresses().map(|address| address.port()).collect()
    };
    assert_eq!(ports(&[short]), [1]);
    assert_eq!(ports(&[short, full]), [2, 3]);
    assert_eq!(ports(&[full, short]), [2, 3]);
}

#[test]
fn what_an_operator_cannot_have_is_an_error() {
    let long = format!("socket = \"/{}\"", "x".repeat(107));
    for (text, what, help) in [
        ("listen = \"127.0.0.1:9090\"", "a list of addresses, and a string", "127.0.0.1:9090"),
        ("listen = [\"9090\"]", "`9090` is no address", "HOST:PORT"),
        ("listen = [\":9090\"]", "`:9090` is no address", "HOST:PORT"),
        (&long, "too long", "at most 107 bytes"),
        ("socket = 1", "it is a path, and a number was given", "\"\" for none"),
        ("recent_handshakes = 1001", "1001 is too large", "from 0 to 1000"),
        ("debug_head = \"head\"", "`head` is no path", "did you mean \"/head\"?"),
        ("debug_head = \"/a?b\"", "`/a?b` is no path", "without query"),
        ("debug_head = \"/echo\"", "there is a route for /echo already", "that nothing else has"),
        (
            "debug_head = \"/a\"\n[[route]]\npath = \"/a\"\nfallback = \"page\"",
            "`admin.debug_head`: there is a route for /a already, at a.toml:4",
            "/debug/head",
        ),
        (
            "recent_handshakes = 1\ndebug_head = \"/handshakes\"",
            "the recent handshakes are at /handshakes",
            "that nothing else has",
        ),
    ] {
        let said = problems(&format!("[admin]\n{text}"));
        assert!(said.contains(what) && said.contains(help) && said.contains("a.toml:"), "{said}");
    }
    // Each of these is free.
    for text in [
        "debug_head = \"/handshakes\"",
        "debug_head = \"/debug/head\"\nrecent_handshakes = 1",
        "debug_head = \"/echo\"\n[[route]]\npath = \"/a\"\nfallback = \"page\"",
    ] {
        drop(settled(&format!("[admin]\n{text}")).settings.registry(&Handshakes::new()));
    }
}

#[test]
fn a_routes_own_settings_come_before_the_general_ones() {
    let text = "
        [limits]
        message_max = 1000
        ping_after = \"7s\"
        [[route]]
        path = \"/a\"
        protocols = [\"websocket\"]
        limits.message_max = 2000
    ";
    let flags = [("--message-max", "limits.message_max", "3000")];
    let settled = layers(text, &[], &flags).settle().unwrap();
    let own = &settled.settings.routes[0].websocket.settings;
    assert_eq!((own.limits.message_max, own.ping_after), (2000, Duration::from_secs(7)));
    assert_eq!(settled.settings.websocket.settings.limits.message_max, 3000);
}

#[cfg(feature = "tls")]
#[test]
fn a_listener_has_tls_and_proxies() {
    let text = "
        [[listen]]
        address = \":1\"
        proxy_protocol = [\"10.0.0.0/8\"]
        tls = { self_signed = true, http2 = false }
    ";
    let loaded = settled(text);
    let config = loaded.settings.config().unwrap();
    assert!(config.listen[0].is_secure());
    assert_eq!(config.listen[0].proxy_protocol, ["10.0.0.0/8".parse().unwrap()]);
    let printed = effective(&loaded);
    assert!(printed.contains("tls.self_signed = true") && printed.contains("tls.http2 = false"), "{printed}");
    assert!(settled(&printed).settings.config().unwrap().listen[0].is_secure());
    let listen = |text: &str| problems(&format!("[[listen]]\naddress = \":1\"\n{text}"));
    for (text, what, help) in [
        ("tls = true", "it is a table, and true or false was given", "[listen.tls]"),
        ("tls = {}", "`listen.tls` has no certificate", "self_signed = true"),
        ("tls = { certificates = [{ chain = \"a\" }] }", "has no `key`", "in PEM"),
        ("tls = { self_signd = true }", "unknown key `self_signd`", "did you mean `self_signed`?"),
        (
            "tls = { self_signed = true, client_required = true }",
            "would refuse everybody",
            "client_authorities",
        ),
        ("proxy_protocol = [\"10.0.0.0/99\"]", "`10.0.0.0/99` is no network", "10.0.0.0/8"),
    ] {
        let said = listen(text);
        assert!(said.contains(what) && said.contains(help), "{said}");
    }
    let missing = "[[listen]]\naddress = \":1\"\ntls.certificates = [{ chain = \"/no/a\", key = \"/no/b\" }]";
    let said = settled(missing).settings.config().unwrap_err();
    assert!(said.starts_with("a.toml:3: ") && said.contains("/no/"), "{said}");
}

#[cfg(feature = "auth")]
#[test]
fn a_route_has_its_guard_and_secrets_are_not_printed() {
    let text = "
        [[route]]
        path = \"/a\"
        protocols = [\"echo\"]
        auth.bearer = { tokens = [\"alice:a-secret-of-some-length\"], realm = \"here\" }
    ";
    let loaded = settled(text);
    let printed = effective(&loaded);
    assert!(printed.contains("auth = { bearer = {") && printed.contains("realm = \"here\""), "{printed}");
    assert!(printed.contains("[redacted]") && !printed.contains("a-secret-of"), "{printed}");
    assert!(printed.contains("# a.toml:5"), "{printed}");
    drop(loaded.settings.registry(&Handshakes::new()));
    let route = |text: &str| problems(&format!("[[route]]\npath = \"/a\"\nprotocols = [\"echo\"]\n{text}"));
    for (text, what) in [
        ("auth = 1", "it is a table, and a number was given"),
        ("auth = {}", "it names no kind"),
        ("auth.bearr = {}", "unknown field `bearr`"),
        ("auth.bearer = { tokns = [] }", "unknown field `tokns`"),
        ("auth.bearer = { tokens = [1] }", "invalid type"),
        ("auth.bearer = { tokens = \"bob:a-secret-of-bob\" }", "a string was given, and it is a sequence"),
        ("auth.bearer = { tokens = ['bob:a-secret-of-bob'], x = 1 }", "unknown field `x`"),
        ("auth.bearer = { tokens = ['bob:a-secret-of-bob'], x = }", "this is not TOML"),
        ("oauth.bearer = { tokens = ['bob:a-secret-of-bob'] }", "unknown key `oauth`"),
        ("auth.bearer = { file = \"/no/such/file\" }", "`route.auth.bearer`: "),
    ] {
        let said = route(text);
        assert!(said.contains(what) && said.contains("a.toml:4:"), "{said}");
        assert!(!said.contains("a-secret"), "{said}");
    }
}

#[test]
fn an_odd_file_is_an_error_that_can_be_read() {
    let long = format!("a = \"{}\"", "x".repeat(10_000));
    assert!(problems(&long).len() < 1_000);
    let hidden = "[limits]\nhead_time = \"\u{202e}\\u001b\u{e9}\" # \u{1f600}\n";
    assert!(problems(hidden).contains("a.toml:2:13"));
    assert!(!problems("x = '\u{1b}[31m'").contains('\u{1b}'), "{}", problems("x = '\u{1b}[31m'"));
}
