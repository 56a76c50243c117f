//! `[[route]]`: what a path speaks, and what it answers to who does not switch.

use switchpoint::{
    Registry,
    protocols::{self, Echo},
};
use toml::{Spanned, de::DeValue};

use super::{
    WebSockets,
    file::{Reader, Table, suggestion},
    keys::{self, Key},
    kind::{self, Given, Wrong, nearest, one_of},
    problem::Source,
};

/// A path.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(super) path: String,
    pub(super) protocols: Vec<Protocol>,
    /// Without one the path is upgrade-only.
    pub(super) fallback: Option<Fallback>,
    pub(super) websocket: WebSockets,
    /// What of it is the route's own: table, name, value, source.
    pub(super) own: Vec<(&'static str, &'static str, String, Source)>,
    /// Who may pass; everybody.
    #[cfg(feature = "auth")]
    pub(super) auth: Option<(switchpoint::authorize::Settings, Source)>,
    pub(super) at: Source,
}

/// A protocol that the program has a handler for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Every message comes back.
    WebSocket,
    /// Every byte comes back.
    Echo,
}

impl Protocol {
    const ALL: &[(&str, Self)] = &[("websocket", Self::WebSocket), ("echo", Self::Echo)];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, protocol)| *protocol == self).map_or("", |(name, _)| name)
    }
}

/// What a path answers to who asks for no upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fallback {
    /// The page that shows the switch.
    Page,
    /// 200.
    Health,
    /// 200, or 503 in a drain.
    Readiness,
    /// What is posted to it.
    Mirror,
}

impl Fallback {
    const ALL: &[(&str, Self)] = &[
        ("page", Self::Page),
        ("health", Self::Health),
        ("readiness", Self::Readiness),
        ("mirror", Self::Mirror),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, fallback)| *fallback == self).map_or("", |(name, _)| name)
    }
}

#[cfg(feature = "auth")]
pub(super) const KEYS: &[&str] = &["path", "protocols", "fallback", "websocket", "limits", "auth"];
#[cfg(not(feature = "auth"))]
pub(super) const KEYS: &[&str] = &["path", "protocols", "fallback", "websocket", "limits"];

impl Route {
    /// The program's own routes.
    pub(super) fn defaults(websocket: &WebSockets) -> Vec<Self> {
        let route = |path: &str, protocols: &[Protocol], fallback| Self {
            path: path.into(),
            protocols: protocols.into(),
            fallback,
            websocket: websocket.clone(),
            own: Vec::new(),
            #[cfg(feature = "auth")]
            auth: None,
            at: Source::Default,
        };
        vec![
            route("/", &[], Some(Fallback::Page)),
            route("/healthz", &[], Some(Fallback::Health)),
            route("/readyz", &[], Some(Fallback::Readiness)),
            route("/echo-body", &[], Some(Fallback::Mirror)),
            route("/echo", &[Protocol::WebSocket, Protocol::Echo], None),
        ]
    }

    /// Where it was asked for, for people.
    pub(super) fn whence(&self) -> String {
        match &self.at {
            Source::Default => "of the program's own".into(),
            at => format!("at {at}"),
        }
    }

    /// Adds the path to what is served.
    pub(crate) fn add_to(&self, mut registry: Registry, shows_handshakes: bool) -> Registry {
        let path = || self.path.clone();
        registry = match self.fallback {
            Some(Fallback::Page) if shows_handshakes => registry.get(path(), protocols::page_with_handshakes),
            Some(Fallback::Page) => registry.get(path(), protocols::page),
            Some(Fallback::Health) => registry.get(path(), protocols::health),
            Some(Fallback::Readiness) => registry.get(path(), protocols::readiness),
            Some(Fallback::Mirror) => registry.post(path(), protocols::mirror),
            None => registry,
        };
        for protocol in &self.protocols {
            registry = match protocol {
                Protocol::WebSocket => {
                    let echo = protocols::echo_messages(self.websocket.settings());
                    registry.at(
                        path(),
                        if self.websocket.shows_handshake { echo.shows_handshake() } else { echo },
                    )
                }
                Protocol::Echo => registry.at(path(), Echo),
            };
        }
        #[cfg(feature = "auth")]
        if let Some((auth, _)) = &self.auth {
            return super::auth::guard(registry, path(), auth);
        }
        registry
    }
}

/// The routes of a file. `general` holds for those that have no settings of their own.
pub(super) fn read(
    reader: &mut Reader<'_>,
    value: &Spanned<DeValue<'_>>,
    general: &WebSockets,
) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for table in reader.tables("route", value) {
        reader.only(&table, KEYS);
        let Some(route) = one(reader, &table, general) else { continue };
        if let Some(known) = routes.iter().find(|known| known.path == route.path) {
            let what = format!("there is a route for {} already, at {}", route.path, known.at);
            reader.problem(what, route.at.clone(), "put both into one [[route]]");
        }
        routes.push(route);
    }
    routes
}

fn one(reader: &mut Reader<'_>, table: &Table<'_>, general: &WebSockets) -> Option<Route> {
    let path = reader.required(table, "path", "such as path = \"/chat\"");
    let at = path.map_or_else(|| reader.source_of(table.at.clone()), |path| reader.source(path));
    let path = path.and_then(|value| reader.value(table, "path", value, path_of));
    let protocols = match table.get("protocols") {
        Some(value) => reader.value(table, "protocols", value, protocols_of),
        None => Some(Vec::new()),
    };
    let fallback = match table.get("fallback") {
        Some(value) => reader.value(table, "fallback", value, &*kind::word(Fallback::ALL).read).map(Some),
        None => Some(None),
    };
    let mut websocket = general.clone();
    let mut own = Vec::new();
    let speaks_websocket =
        protocols.as_ref().is_none_or(|protocols| protocols.contains(&Protocol::WebSocket));
    for name in ["limits", "websocket"] {
        let Some(value) = table.get(name) else { continue };
        let Some(part) = reader.table(&format!("route.{name}"), value) else { continue };
        if !speaks_websocket {
            let what = format!("[{}] has no effect: the route does not speak `websocket`", part.name);
            reader.problem(
                what,
                reader.source(value),
                "add \"websocket\" to its protocols, or remove the table",
            );
        }
        settings(reader, name, &part, &mut websocket, &mut own);
    }
    #[cfg(feature = "auth")]
    let auth = match table.get("auth") {
        // One that cannot be read is an error, so that no path is open for want of it.
        Some(value) => super::auth::read(reader, value).map(|auth| (auth, reader.source(value))),
        None => None,
    };
    let (path, protocols, fallback) = (path?, protocols?, fallback?);
    if protocols.is_empty() && fallback.is_none() {
        let what = format!("the route {path} has neither protocols nor a fallback: nothing is there");
        reader.problem(what, at, "add protocols = [\"websocket\"], or a fallback such as \"page\"");
        return None;
    }
    Some(Route {
        path,
        protocols,
        fallback,
        websocket,
        own,
        #[cfg(feature = "auth")]
        auth,
        at,
    })
}

/// The settings that a route has of its own.
fn settings(
    reader: &mut Reader<'_>,
    name: &str,
    part: &Table<'_>,
    websocket: &mut WebSockets,
    own: &mut Vec<(&'static str, &'static str, String, Source)>,
) {
    let known: Vec<Key<WebSockets>> =
        keys::of_websockets().into_iter().filter(|key| key.table == name).collect();
    for (key, value) in part.entries {
        let Some(setting) = known.iter().find(|known| known.name == key.get_ref()) else {
            let names: Vec<&str> = known.iter().map(|known| known.name).collect();
            let general = keys::of_server().into_iter().find(|known| known.name == key.get_ref());
            let help = match general.map(|known| known.table) {
                Some(table @ ("limits" | "websocket")) if table != name => {
                    format!("it belongs in [{table}], or in the route's own {table}")
                }
                Some("") => "it holds for the whole server, and belongs before the first table".into(),
                Some(table) => format!("it holds for the whole server, and belongs in [{table}]"),
                None => suggestion(key.get_ref(), &names),
            };
            reader.unknown(&format!("[{}]", part.name), key.get_ref(), key.span(), help);
            continue;
        };
        if reader.value(part, setting.name, value, |given| (setting.set)(websocket, given)).is_some() {
            own.push((setting.table, setting.name, (setting.show)(websocket), reader.source(value)));
        }
    }
}

pub(super) fn path_of(given: &Given<'_>) -> Result<String, Wrong> {
    const HELP: &str = "a path begins with `/`, and is compared as it is sent: without query, in ASCII, with what is \
                        beyond it percent-encoded";
    let path = kind::text(given, "a path", HELP)?;
    let is_path = path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte));
    match is_path {
        true => Ok(path),
        false if path.starts_with('/') => Err(Wrong::new(format!("`{path}` is no path"), HELP)),
        false => Err(Wrong::new(format!("`{path}` is no path"), format!("did you mean \"/{path}\"?"))),
    }
}

fn protocols_of(given: &Given<'_>) -> Result<Vec<Protocol>, Wrong> {
    let known = || Protocol::ALL.iter().map(|(name, _)| *name);
    let help = "write a list such as [\"websocket\", \"echo\"]";
    let Given::Toml(value) = given else { return Err(Wrong::new("it is a list of protocols", help)) };
    let mut protocols = Vec::new();
    for name in kind::strings(value, "a list of protocols", help)? {
        let Some((_, protocol)) = Protocol::ALL.iter().find(|(known, _)| *known == name) else {
            let help = match name.as_str() {
                "h2c" => "`h2c` is a setting of listeners: h2c = true in [[listen]] or [http2]".into(),
                _ => nearest(&name, known())
                    .map_or_else(|| one_of(known()), |near| format!("did you mean \"{near}\"?")),
            };
            return Err(Wrong::new(format!("the program does not speak `{name}`"), help));
        };
        if protocols.contains(protocol) {
            return Err(Wrong::new(format!("`{name}` is there twice"), "remove one of the two"));
        }
        protocols.push(*protocol);
    }
    Ok(protocols)
}
