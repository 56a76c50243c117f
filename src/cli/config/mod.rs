//! What the program is told, in layers: defaults, a file, `SWITCHPOINT_*` in the environment, flags. The last one counts,
//! and each value knows where it comes from.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the settings, and the layers |
//! | `keys.rs` | every key: what it sets, and what it means |
//! | `kind.rs` | what a value can be: how it is read and written |
//! | `file.rs` | a file, with a view of where everything in it stands |
//! | `listen.rs` `tls.rs` | `[[listen]]` |
//! | `route.rs` `auth.rs` | `[[route]]` |
//! | `admin.rs` | `[admin]` |
//! | `print.rs` | what holds, and the sample file |
//! | `problem.rs` | what is wrong, and how it is said |
//!
//! Everything that is wrong is found before anything is said.

mod admin;
#[cfg(feature = "auth")]
mod auth;
mod file;
mod keys;
mod kind;
mod listen;
mod print;
mod problem;
mod route;
#[cfg(test)]
mod tests;
#[cfg(feature = "tls")]
mod tls;

use std::{
    collections::BTreeMap,
    fs::File as OpenFile,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
};

use switchpoint::{
    Config, Listener, Registry,
    admin::Handshakes,
    protocols::{self, H2c, websocket},
    ws::Deflate,
};
use toml::de::{DeTable, DeValue};

use file::{Reader, Table, suggestion};
use keys::{Key, TABLES, full};
use kind::{Given, Wrong, nearest};
use listen::{Listen, Place};
use problem::{File, Problem, Source};
use route::Route;

use super::{debug_head, log::Format};

pub(crate) use admin::Admin;
pub(crate) use print::{effective, sample};
pub(crate) use problem::Problems;

/// What the program is told, settled.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How much is logged.
    pub(crate) log: String,
    pub(crate) log_format: Format,
    /// Where the number of the process is written.
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) admin: Admin,
    config: Config,
    /// Whether listeners take `Upgrade: h2c` that do not say so themselves.
    h2c: bool,
    h2c_behind_proxies: bool,
    websocket: WebSockets,
    listen: Vec<Listen>,
    routes: Vec<Route>,
}

/// What holds for WebSockets: of the server, or of a route.
#[derive(Clone, Debug)]
struct WebSockets {
    settings: websocket::Settings,
    is_deflated: bool,
    deflate: Deflate,
    shows_handshake: bool,
}

impl WebSockets {
    fn settings(&self) -> websocket::Settings {
        let deflate = self.is_deflated.then(|| self.deflate.clone());
        websocket::Settings { deflate, ..self.settings.clone() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let websocket = WebSockets {
            settings: websocket::Settings::default(),
            is_deflated: false,
            deflate: Deflate::default(),
            shows_handshake: true,
        };
        let address = Place::parse(LISTEN).expect("it is an address");
        Self {
            log: "info".into(),
            log_format: Format::default(),
            pid_file: None,
            admin: Admin::default(),
            config: Config::default(),
            h2c: false,
            h2c_behind_proxies: false,
            listen: vec![Listen::new(address, Source::Default)],
            routes: Route::defaults(&websocket),
            websocket,
        }
    }
}

/// Where the program listens unless it is told otherwise.
const LISTEN: &str = "127.0.0.1:8080";

impl Settings {
    /// What the library is told.
    ///
    /// # Errors
    /// Where a socket that is to be passed on was not.
    pub(crate) fn config(&self) -> Result<Config, String> {
        let mut listen: Vec<Listener> = Vec::new();
        for listener in &self.listen {
            listen.extend(listener.listeners(self.h2c)?);
        }
        Ok(Config { listen, ..self.config.clone() })
    }

    /// Whether the files of certificates can be used.
    ///
    /// # Errors
    /// The first that cannot.
    pub(crate) fn check_certificates(&self) -> Result<(), String> {
        #[cfg(feature = "tls")]
        for (tls, at) in self.listen.iter().filter_map(|listen| listen.tls.as_ref()) {
            tls.acceptor().map_err(|error| format!("{at}: {error}"))?;
        }
        Ok(())
    }

    /// What is served; where the page shows them, with the server's recent handshakes.
    pub(crate) fn registry(&self, handshakes: &Handshakes) -> Registry {
        let mut registry = Registry::new();
        for route in &self.routes {
            registry = route.add_to(registry, self.shows_handshakes());
        }
        if self.shows_handshakes() && self.route(HANDSHAKES).is_none() {
            registry = registry.get(HANDSHAKES, protocols::recent_handshakes(handshakes.clone()));
        }
        if let Some(path) = &self.admin.debug_head {
            registry = registry.get(path.clone(), debug_head::answer);
        }
        if !self.takes_h2c() {
            return registry;
        }
        let h2c = H2c::new().body_max(self.config.body_max);
        registry.with(if self.h2c_behind_proxies { h2c.behind_proxies() } else { h2c })
    }

    fn shows_handshakes(&self) -> bool {
        self.config.telemetry.recent_handshakes > 0
    }

    fn route(&self, path: &str) -> Option<&Route> {
        self.routes.iter().find(|route| route.path == path)
    }

    fn takes_h2c(&self) -> bool {
        self.listen.iter().any(|listen| listen.takes_h2c(self.h2c))
    }
}

/// Where the page looks for them.
const HANDSHAKES: &str = "/handshakes";

/// The layers above the defaults.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    file: Option<File>,
    variables: Vec<(String, String)>,
    flags: Vec<Flag>,
}

/// A flag, the key that it sets, and to what.
type Flag = (String, String, String);

impl Layers {
    /// The environment, of which only `SWITCHPOINT_*` is looked at.
    pub(crate) fn environment(mut self, variables: impl Iterator<Item = (String, String)>) -> Self {
        self.variables = variables.filter(|(name, _)| name.starts_with("SWITCHPOINT_")).collect();
        // So that what holds, and what is said, is the same each time.
        self.variables.sort();
        self
    }

    /// A file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn file(mut self, path: &Path) -> Result<Self, String> {
        let read = || {
            let mut text = String::new();
            OpenFile::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        };
        let text = read().map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        if text.len() as u64 == FILE_MAX {
            return Err(format!("{} is longer than 1 MiB, which no configuration is", path.display()));
        }
        self.file = Some(File { path: path.display().to_string(), text });
        Ok(self)
    }

    /// A flag that sets `key`.
    pub(crate) fn flag(&mut self, flag: &str, key: &str, value: String) {
        self.flags.push((flag.to_owned(), key.to_owned(), value));
    }

    /// Lays them over each other.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn settle(self) -> Result<Settled, Problems> {
        let mut settled = Settled::default();
        let mut problems = Vec::new();
        let keys = keys::of_server();
        let root = self.file.as_ref().and_then(|file| parse(file, &mut problems));
        let root = root.as_ref().zip(self.file.as_ref());
        if let Some((root, file)) = root {
            settled.read_tables(&keys, root, &mut Reader { file, problems: &mut problems });
        }
        settled.read_environment(&keys, &self.variables, &mut problems);
        settled.read_flags(&keys, &self.flags, &mut problems);
        settled.settings.routes = Route::defaults(&settled.settings.websocket);
        if let Some((root, file)) = root {
            settled.read_lists(root, &mut Reader { file, problems: &mut problems });
        }
        settled.check(&mut problems);
        if problems.is_empty() {
            return Ok(settled);
        }
        problems.sort_by_key(|problem| match &problem.at {
            Source::File { span, .. } => (0, span.start),
            _ => (1, 0),
        });
        let secrets = match (root, &self.file) {
            (Some((root, _)), _) => secrets(root),
            // What it is not known to be may be one.
            (None, file) => std::iter::once(0..file.as_ref().map_or(0, |file| file.text.len())).collect(),
        };
        Err(Problems { file: self.file, secrets, list: problems })
    }
}

/// Where a file has strings that may be secrets: in routes, all but what is known to be none.
fn secrets(root: &DeTable<'_>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (_, value) in root.iter().filter(|(name, _)| name.get_ref() == "route") {
        let DeValue::Array(routes) = value.get_ref() else {
            strings(value, &mut found);
            continue;
        };
        for route in routes.iter() {
            let DeValue::Table(entries) = route.get_ref() else { continue };
            let known = |name: &str| ["path", "protocols", "fallback", "limits", "websocket"].contains(&name);
            for (_, value) in entries.iter().filter(|(name, _)| !known(name.get_ref())) {
                strings(value, &mut found);
            }
        }
    }
    found
}

fn strings(value: &toml::Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::String(_) => found.push(value.span()),
        DeValue::Array(items) => items.iter().for_each(|item| strings(item, found)),
        DeValue::Table(entries) => entries.iter().for_each(|(_, value)| strings(value, found)),
        _ => {}
    }
}

const FILE_MAX: u64 = 1 << 20;

/// The settings, and where each comes from.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) settings: Settings,
    sources: BTreeMap<String, Source>,
    /// What is odd, but not wrong.
    pub(crate) warnings: Vec<String>,
    /// Listeners that a variable or a flag has named, instead of the file's.
    listen: Option<Vec<Listen>>,
}

/// A file's text as TOML; nothing where it is none, for what can be made of such a text is not what was meant.
fn parse<'a>(file: &'a File, problems: &mut Vec<Problem>) -> Option<DeTable<'a>> {
    let (root, errors) = DeTable::parse_recoverable(&file.text);
    let reader = Reader { file, problems };
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let what = format!("this is not TOML: {}", error.message().replace('\n', ", "));
        let (at, help) = (reader.source_of(span), "a string stands in quotes: name = \"value\"");
        let help = if error.message().contains("string values must be quoted") { help } else { "" };
        reader.problems.push(Problem { what, at, help: help.into() });
    }
    errors.is_empty().then(|| root.into_inner())
}

impl Settled {
    /// What it is made of, for people.
    pub(crate) fn summary(&self) -> String {
        let count = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            count => format!("{count} {what}s"),
        };
        let (listen, routes) = (self.settings.listen.len(), self.settings.routes.len());
        let own = count(self.sources.len(), "setting");
        format!("{own} of its own, {}, {}", count(listen, "listener"), count(routes, "route"))
    }

    fn source(&self, key: &str) -> Source {
        self.sources.get(key).cloned().unwrap_or_default()
    }

    /// The tables of a file that set one thing each.
    fn read_tables(&mut self, keys: &[Key<Settings>], root: &DeTable<'_>, reader: &mut Reader<'_>) {
        for (name, value) in root {
            let table = name.get_ref().as_ref();
            if LISTS.contains(&table) {
                continue;
            }
            if !table.is_empty() && TABLES.contains(&table) {
                let Some(table) = reader.table(table, value) else { continue };
                for (key, value) in table.entries {
                    self.read_key(keys, &table, key, value, reader);
                }
            } else {
                let top = Table { name: String::new(), at: 0..0, entries: root };
                self.read_key(keys, &top, name, value, reader);
            }
        }
    }

    fn read_key(
        &mut self,
        keys: &[Key<Settings>],
        table: &Table<'_>,
        name: &toml::Spanned<toml::de::DeString<'_>>,
        value: &toml::Spanned<DeValue<'_>>,
        reader: &mut Reader<'_>,
    ) {
        let found = keys.iter().find(|key| key.table == table.name && key.name == name.get_ref());
        let Some(key) = found else {
            let place = if table.name.is_empty() { String::new() } else { format!("[{}]", table.name) };
            return reader.unknown(
                &place,
                name.get_ref(),
                name.span(),
                self.hint(keys, &table.name, name.get_ref()),
            );
        };
        let settings = &mut self.settings;
        if reader.value(table, key.name, value, |given| (key.set)(settings, given)).is_some() {
            self.sources.insert(key.full(), reader.source(value));
        }
    }

    /// What an unknown key may have been meant to be.
    fn hint(&self, keys: &[Key<Settings>], table: &str, name: &str) -> String {
        let top = || TABLES.iter().chain(LISTS).copied().filter(|table| !table.is_empty());
        let here: Vec<&str> = keys.iter().filter(|key| key.table == table).map(|key| key.name).collect();
        if let Some(elsewhere) = keys.iter().find(|key| key.name == name && key.table != table) {
            return match elsewhere.table {
                "" => format!("`{name}` belongs before the first table"),
                table => format!("`{name}` belongs in [{table}]"),
            };
        }
        let known: Vec<&str> =
            if table.is_empty() { here.iter().copied().chain(top()).collect() } else { here };
        if nearest(name, known.iter().copied()).is_none()
            && let Some(near) = nearest(name, keys.iter().map(|key| key.name))
        {
            let near = keys.iter().find(|key| key.name == near).map_or("", |key| key.table);
            return format!(
                "did you mean `{}` in [{near}]?",
                nearest(name, keys.iter().map(|key| key.name)).unwrap_or("")
            );
        }
        match table {
            "limits" if nearest(name, known.iter().copied()).is_none() => {
                "`switchpoint print-config --sample` lists every key".into()
            }
            _ => suggestion(name, &known),
        }
    }

    fn read_environment(
        &mut self,
        keys: &[Key<Settings>],
        variables: &[(String, String)],
        problems: &mut Vec<Problem>,
    ) {
        for (name, value) in variables {
            let source = Source::Variable(name.clone());
            if name == "SWITCHPOINT_LISTEN" {
                let items: Vec<&str> = value.split(',').map(str::trim).collect();
                self.listen_instead(items.into_iter(), &source, problems);
            } else if let Some(key) = keys.iter().find(|key| key.is_variable(name)) {
                self.set(key, value, source, problems);
            } else if name != "SWITCHPOINT_CONFIG" {
                // Others are not ours to judge: Kubernetes sets SWITCHPOINT_PORT and the like for a service of this
                // name. But one that is nearly ours was meant to be.
                let known: Vec<String> = keys.iter().map(Key::variable).collect();
                let near = known.iter().find(|known| strsim::damerau_levenshtein(known, name) == 1);
                if let Some(near) = near {
                    self.warnings.push(format!("{name} sets nothing; did you mean {near}?"));
                }
            }
        }
    }

    fn read_flags(&mut self, keys: &[Key<Settings>], flags: &[Flag], problems: &mut Vec<Problem>) {
        for (flag, name, value) in flags {
            let source = Source::Flag(flag.clone());
            if let Some(key) = keys.iter().find(|key| key.full() == *name) {
                self.set(key, value, source, problems);
            } else if name != "listen" {
                let names: Vec<String> = keys.iter().map(Key::full).collect();
                let near = nearest(name, names.iter().map(String::as_str));
                let help = near.map_or_else(
                    || "`switchpoint print-config --sample` lists every key".into(),
                    |near| format!("did you mean `{near}`?"),
                );
                problems.push(Problem { what: format!("unknown key `{name}`"), at: source, help });
            }
        }
        let listen = flags.iter().filter(|(_, key, _)| key == "listen");
        let listen: Vec<&Flag> = listen.collect();
        if let Some((flag, ..)) = listen.first() {
            let source = Source::Flag(flag.clone());
            self.listen_instead(listen.iter().map(|(_, _, value)| value.as_str()), &source, problems);
        }
    }

    fn set(&mut self, key: &Key<Settings>, value: &str, source: Source, problems: &mut Vec<Problem>) {
        match (key.set)(&mut self.settings, &Given::Text(value)) {
            Ok(()) => _ = self.sources.insert(key.full(), source),
            Err(Wrong { what, help }) => {
                problems.push(Problem {
                    what: format!("`{}`: {what}", key.full()),
                    at: source,
                    help: unquoted(&help),
                });
            }
        }
    }

    fn listen_instead<'a>(
        &mut self,
        items: impl Iterator<Item = &'a str>,
        source: &Source,
        problems: &mut Vec<Problem>,
    ) {
        let mut listen: Vec<Listen> = Vec::new();
        for item in items {
            match Place::parse(item) {
                Ok(place) if listen.iter().any(|known| known.place == place) => {}
                Ok(place) => listen.push(Listen::new(place, source.clone())),
                Err(Wrong { what, help }) => problems.push(Problem { what, at: source.clone(), help }),
            }
        }
        self.listen = Some(listen);
    }

    /// Listeners and routes, for which the general settings have to be settled.
    fn read_lists(&mut self, root: &DeTable<'_>, reader: &mut Reader<'_>) {
        let find = |name: &str| root.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value);
        if let Some(value) = find("listen") {
            self.settings.listen = listen::read(reader, value);
        }
        if let Some(value) = find("route") {
            self.settings.routes = route::read(reader, value, &self.settings.websocket);
        }
    }

    /// What is wrong only together.
    fn check(&mut self, problems: &mut Vec<Problem>) {
        if let Some(listen) = self.listen.take() {
            self.settings.listen = listen;
        }
        if self.settings.listen.is_empty() && problems.is_empty() {
            let what = "there is no address to listen on".into();
            problems.push(Problem {
                what,
                at: Source::Default,
                help: "add a [[listen]] with an address".into(),
            });
        }
        if self.settings.h2c_behind_proxies && !self.settings.takes_h2c() {
            problems.push(Problem {
                what: format!(
                    "`{}` has no effect: no listener takes `Upgrade: h2c`",
                    full("http2", "h2c_behind_proxies")
                ),
                at: self.source("http2.h2c_behind_proxies"),
                help: "set h2c = true in [http2] or in a [[listen]] (--h2c), or leave it out".into(),
            });
        }
        if let Some(path) = &self.settings.admin.debug_head {
            let taken = match self.settings.route(path) {
                Some(route) => Some(format!("there is a route for {path} already, {}", route.whence())),
                None if self.settings.shows_handshakes() && path == HANDSHAKES => {
                    Some(format!("the recent handshakes are at {path}"))
                }
                None => None,
            };
            if let Some(taken) = taken {
                problems.push(Problem {
                    what: format!("`{}`: {taken}", full("admin", "debug_head")),
                    at: self.source("admin.debug_head"),
                    help: "choose a path that nothing else has, such as /debug/head".into(),
                });
            }
        }
    }
}

/// The tables that stand in a file as often as there are of them.
const LISTS: &[&str] = &["listen", "route"];

/// Help for a place where everything is text.
fn unquoted(help: &str) -> String {
    help.replace(" in quotes", "").replace('"', "")
}
