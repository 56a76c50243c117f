//! Every key: its table and name, what it sets, and what it means. The file, the environment, the flags, `print-config`
//! and the sample file are all made from this list; to add a setting, add a line.

use std::time::Duration;

use switchpoint::{Driver, protocols::websocket::WhenFull};

use super::{
    Settings, WebSockets, admin,
    kind::{Given, Kind, Wrong, count, filter, networks, origins, size, switch, time, time_or_never, word},
};
use crate::cli::log::Format;

/// Sets a value.
type Set<S> = dyn Fn(&mut S, &Given<'_>) -> Result<(), Wrong>;

/// A setting of `S`.
pub(super) struct Key<S> {
    /// The table that it is in; nothing for the top.
    pub(super) table: &'static str,
    pub(super) name: &'static str,
    pub(super) means: &'static str,
    pub(super) set: Box<Set<S>>,
    /// Its value as TOML.
    pub(super) show: Box<dyn Fn(&mut S) -> String>,
}

impl<S: 'static> Key<S> {
    fn new<T: 'static>(
        table: &'static str,
        name: &'static str,
        kind: Kind<T>,
        field: fn(&mut S) -> &mut T,
        means: &'static str,
    ) -> Self {
        let Kind { read, show } = kind;
        Self {
            table,
            name,
            means,
            set: Box::new(move |settings, given| read(given).map(|value| *field(settings) = value)),
            show: Box::new(move |settings| show(field(settings))),
        }
    }

    /// The same setting, as a part of something larger.
    fn within<W: 'static>(self, part: fn(&mut W) -> &mut S) -> Key<W> {
        let Self { table, name, means, set, show } = self;
        Key {
            table,
            name,
            means,
            set: Box::new(move |whole, given| set(part(whole), given)),
            show: Box::new(move |whole| show(part(whole))),
        }
    }

    /// Table and name.
    pub(super) fn full(&self) -> String {
        full(self.table, self.name)
    }

    /// Its variable in the environment.
    pub(super) fn variable(&self) -> String {
        format!("SWITCHPOINT_{}", self.full().replace('.', "_").to_uppercase())
    }

    /// Whether this variable sets it: its own, or the short one of `--admin`.
    pub(super) fn is_variable(&self, name: &str) -> bool {
        self.variable() == name || name == "SWITCHPOINT_ADMIN" && self.full() == "admin.listen"
    }
}

pub(super) fn full(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

/// The tables of settings, in their order.
pub(super) const TABLES: &[&str] = &["", "limits", "http2", "websocket", "admin"];

/// The settings of the server, those of its WebSockets included.
pub(super) fn of_server() -> Vec<Key<Settings>> {
    let instant = Duration::from_millis(1);
    let window = (1 << 31) - 1;
    let mut keys = vec![
        Key::new(
            "",
            "threads",
            count(0, 4096),
            |s: &mut Settings| &mut s.config.threads,
            "Worker threads, each on its own core; 0 for one a core.",
        ),
        Key::new(
            "",
            "driver",
            word(DRIVERS),
            |s| &mut s.config.driver,
            "What waits for the kernel: \"auto\" (io_uring where it is allowed, else epoll), \"uring\" or \"epoll\".",
        ),
        Key::new(
            "",
            "log",
            filter(),
            |s| &mut s.log,
            "How much to log: \"error\", \"warn\", \"info\" (sessions that end, and refusals), \"debug\" (more of every \
             session), or a filter such as \"switchpoint=debug\".",
        ),
        Key::new(
            "",
            "log_format",
            word(FORMATS),
            |s| &mut s.log_format,
            "The form of a line: \"text\", or \"json\" with an object a line.",
        ),
        Key::new(
            "",
            "log_sample",
            count(1, u32::MAX.into()),
            |s| &mut s.config.telemetry.log_sample,
            "Of the sessions that ended well, one of so many has a line. Refusals and errors always have one.",
        ),
        Key::new(
            "",
            "log_lines_max",
            count(0, u64::MAX),
            |s| &mut s.config.telemetry.log_lines_max,
            "Lines a second that peers may cause on a core; the counters have the rest.",
        ),
        Key::new(
            "",
            "pid_file",
            admin::file(),
            |s| &mut s.pid_file,
            "A file for the number of the process, for `switchpoint upgrade-binary --pid-file`; \"\" for none.",
        ),
        Key::new(
            "limits",
            "connections_max",
            count(0, u64::MAX),
            |s| &mut s.config.connections_max,
            "Connections in all; beyond it new ones get 503. 0 for what the descriptor limit allows.",
        ),
        Key::new(
            "limits",
            "connections_core",
            count(0, u64::MAX),
            |s| &mut s.config.limits.connections_core,
            "Connections of one core; beyond it 503. 0 for no limit, as for all of the following.",
        ),
        Key::new(
            "limits",
            "connections_address",
            count(0, u32::MAX.into()),
            |s| &mut s.config.limits.connections_address,
            "Connections of one address; beyond it 429.",
        ),
        Key::new(
            "limits",
            "half_open",
            count(0, u64::MAX),
            |s| &mut s.config.limits.half_open,
            "Connections whose first request has not arrived whole, in all; beyond it 503.",
        ),
        Key::new(
            "limits",
            "half_open_address",
            count(0, u32::MAX.into()),
            |s| &mut s.config.limits.half_open_address,
            "The same of one address; beyond it 429.",
        ),
        Key::new(
            "limits",
            "handshakes_per_second",
            count(0, u32::MAX.into()),
            |s| &mut s.config.limits.handshakes.per_second,
            "Requests for a switch, in all; beyond it 503.",
        ),
        Key::new(
            "limits",
            "handshakes_burst",
            count(0, u32::MAX.into()),
            |s| &mut s.config.limits.handshakes.burst,
            "How many of them may come at once; 0 for as many as in a second.",
        ),
        Key::new(
            "limits",
            "handshakes_address_per_second",
            count(0, u32::MAX.into()),
            |s| &mut s.config.limits.handshakes_address.per_second,
            "Requests for a switch of one address; beyond it 429.",
        ),
        Key::new(
            "limits",
            "handshakes_address_burst",
            count(0, u32::MAX.into()),
            |s| &mut s.config.limits.handshakes_address.burst,
            "How many of them may come at once; 0 for as many as in a second.",
        ),
        Key::new(
            "limits",
            "ipv4_prefix",
            count(1, 32),
            |s| &mut s.config.limits.ipv4_prefix,
            "How many bits of an IPv4 address are one address.",
        ),
        Key::new(
            "limits",
            "ipv6_prefix",
            count(1, 128),
            |s| &mut s.config.limits.ipv6_prefix,
            "How many bits of an IPv6 address are one address; one site has 64.",
        ),
        Key::new(
            "limits",
            "exempt",
            networks(),
            |s| &mut s.config.limits.exempt,
            "Networks whose addresses have no limits of their own, such as those of proxies and monitoring.",
        ),
        Key::new(
            "limits",
            "addresses_max",
            count(16, 1 << 32),
            |s| &mut s.config.limits.addresses_max,
            "Addresses that are told apart at one time; who comes beyond them has only the limits in all.",
        ),
        Key::new(
            "limits",
            "memory_max",
            size(0, u64::MAX),
            |s| &mut s.config.limits.memory_max,
            "Resident memory of the process above which new connections and switches get 503; 0 for no limit.",
        ),
        Key::new(
            "limits",
            "session_time",
            time_or_never(Duration::from_secs(1)),
            |s| &mut s.config.limits.session_time,
            "How long a session may last, whatever it speaks, before it is told goodbye as in a drain.",
        ),
        Key::new(
            "limits",
            "head_max",
            size(256, 16 << 20),
            |s| &mut s.config.head.head_max,
            "Bytes of a request's head; beyond it 431.",
        ),
        Key::new(
            "limits",
            "fields_max",
            count(1, 10_000),
            |s| &mut s.config.head.fields_max,
            "Field lines of a request's head; beyond it 431.",
        ),
        Key::new(
            "limits",
            "target_max",
            size(16, 16 << 20),
            |s| &mut s.config.head.target_max,
            "Bytes of a request's target; beyond it 414. RFC 9112 wants 8000 to be possible.",
        ),
        Key::new(
            "limits",
            "body_max",
            size(0, 1 << 30),
            |s| &mut s.config.body_max,
            "Bytes of an ordinary request's body; beyond it 413.",
        ),
        Key::new(
            "limits",
            "head_time",
            time(instant),
            |s| &mut s.config.head_time,
            "How long a request's head may take to arrive, from its first byte (or the accept); then 408.",
        ),
        Key::new(
            "limits",
            "answer_time",
            time(instant),
            |s| &mut s.config.answer_time,
            "How long the body and the decision may take, from the end of the head; then 408 or 503.",
        ),
        Key::new(
            "limits",
            "keep_alive_time",
            time(instant),
            |s| &mut s.config.keep_alive_time,
            "How long a kept-alive connection waits for its next request; then it is closed.",
        ),
        Key::new(
            "limits",
            "write_time",
            time(instant),
            |s| &mut s.config.write_time,
            "How long a peer may take nothing of what is sent to it; then it is cut.",
        ),
        Key::new(
            "limits",
            "idle_time",
            time(instant),
            |s| &mut s.config.idle_time,
            "How long an upgraded peer may be silent, where its protocol has no rule of its own (a WebSocket has: \
             `ping_after`).",
        ),
        Key::new(
            "limits",
            "close_time",
            time(instant),
            |s| &mut s.config.close_time,
            "How long a peer may take to close its side after ours was closed.",
        ),
        Key::new(
            "limits",
            "drain_delay",
            time(Duration::ZERO),
            |s| &mut s.config.drain_delay,
            "After SIGTERM: how long `/readyz` fails before accepting stops, for load balancers that look at it.",
        ),
        Key::new(
            "limits",
            "drain_time",
            time(Duration::ZERO),
            |s| &mut s.config.drain_time,
            "After that: how long sessions have to end; what is left is cut.",
        ),
        Key::new(
            "limits",
            "http2_streams_max",
            count(1, window),
            |s| &mut s.config.http2.streams_max,
            "Streams of one HTTP/2 connection at a time; beyond it REFUSED_STREAM.",
        ),
        Key::new(
            "limits",
            "http2_stream_window",
            size(1, window),
            |s| &mut s.config.http2.stream_window,
            "Bytes that a peer may send on one stream before they are taken.",
        ),
        Key::new(
            "limits",
            "http2_connection_window",
            size(65_535, window),
            |s| &mut s.config.http2.connection_window,
            "Bytes that a peer may send on all streams of a connection before they are taken.",
        ),
        Key::new(
            "limits",
            "http2_send_max",
            size(1, 1 << 30),
            |s| &mut s.config.http2.send_max,
            "Bytes of an answer that are queued on one stream.",
        ),
        Key::new(
            "limits",
            "http2_head_max",
            size(256, 16 << 20),
            |s| &mut s.config.http2.head_max,
            "Bytes of a request's head in HTTP/2, each field with 32 on top; beyond it 431.",
        ),
        Key::new(
            "limits",
            "http2_resets_burst",
            count(1, u32::MAX.into()),
            |s| &mut s.config.http2.resets.burst,
            "Requests that a peer may take back at once (RST_STREAM); beyond it the connection is ended.",
        ),
        Key::new(
            "limits",
            "http2_resets_per_second",
            count(1, u32::MAX.into()),
            |s| &mut s.config.http2.resets.per_second,
            "How many more of these it may each second.",
        ),
        Key::new(
            "limits",
            "http2_free_frames_burst",
            count(1, u32::MAX.into()),
            |s| &mut s.config.http2.free_frames.burst,
            "SETTINGS, PING, PRIORITY and unknown frames that a peer may send at once; beyond it the connection is ended.",
        ),
        Key::new(
            "limits",
            "http2_free_frames_per_second",
            count(1, u32::MAX.into()),
            |s| &mut s.config.http2.free_frames.per_second,
            "How many more of these it may each second.",
        ),
        Key::new(
            "limits",
            "http2_lifetime",
            time(Duration::from_secs(1)),
            |s| &mut s.config.http2.lifetime,
            "How long an HTTP/2 connection may last before its client is asked to open another one.",
        ),
        Key::new(
            "http2",
            "prior_knowledge",
            switch(),
            |s| &mut s.config.http2.prior_knowledge,
            "Whether a client that begins with HTTP/2 is understood.",
        ),
        Key::new(
            "http2",
            "h2c",
            switch(),
            |s| &mut s.h2c,
            "Whether `Upgrade: h2c` is taken, by listeners that do not say so themselves.",
        ),
        Key::new(
            "http2",
            "h2c_behind_proxies",
            switch(),
            |s| &mut s.h2c_behind_proxies,
            "Whether it is taken of a request that a proxy has passed on: only if the proxy drops `Upgrade: h2c`, or has no \
             rules that a client could get around.",
        ),
    ];
    keys.extend(of_admin());
    keys.extend(of_websockets().into_iter().map(|key| key.within(|s: &mut Settings| &mut s.websocket)));
    keys
}

/// What an operator reaches.
fn of_admin() -> Vec<Key<Settings>> {
    vec![
        Key::new(
            "admin",
            "listen",
            admin::hosts(),
            |s: &mut Settings| &mut s.admin.listen,
            "Addresses for `/metrics`, `/healthz` and `/readyz`, such as [\"127.0.0.1:9090\"]; keep them off the internet.",
        ),
        Key::new(
            "admin",
            "socket",
            admin::socket(),
            |s| &mut s.admin.socket,
            "A Unix socket for `switchpoint ctl` and `switchpoint trace`, which only this user may open; \"\" for none.",
        ),
        Key::new(
            "admin",
            "recent_handshakes",
            count(0, 1000),
            |s| &mut s.config.telemetry.recent_handshakes,
            "How many of the last handshakes of each core are shown at `/`, made and refused; 0 for none.",
        ),
        Key::new(
            "admin",
            "debug_head",
            admin::path(),
            |s| &mut s.admin.debug_head,
            "A path, which nothing else may have, that sends back the head of each request, as it arrived, for \
             `switchpoint explain --through`. What could be a secret is left out. \"\" for none.",
        ),
    ]
}

/// The settings of WebSockets, which a route can have its own of.
pub(super) fn of_websockets() -> Vec<Key<WebSockets>> {
    let instant = Duration::from_millis(1);
    vec![
        Key::new(
            "limits",
            "message_max",
            size(1, 1 << 32),
            |w: &mut WebSockets| &mut w.settings.limits.message_max,
            "Bytes of a WebSocket message; beyond it the connection is closed with 1009.",
        ),
        Key::new(
            "limits",
            "fragments_max",
            count(1, 1 << 32),
            |w| &mut w.settings.limits.fragments_max,
            "Frames that a WebSocket message may come in; beyond it 1009.",
        ),
        Key::new(
            "limits",
            "queue_max",
            size(1, 1 << 30),
            |w| &mut w.settings.queue_max,
            "Bytes that may wait to be sent on a WebSocket; beyond it `websocket.when_full` says what happens.",
        ),
        Key::new(
            "limits",
            "ping_after",
            time(instant),
            |w| &mut w.settings.ping_after,
            "A WebSocket that was silent for so long is sent a ping.",
        ),
        Key::new(
            "limits",
            "pong_time",
            time(instant),
            |w| &mut w.settings.pong_time,
            "How long it may answer nothing after a ping; then it is given up.",
        ),
        Key::new(
            "limits",
            "websocket_close_time",
            time(instant),
            |w| &mut w.settings.close_time,
            "How long a WebSocket's closing handshake may take.",
        ),
        Key::new(
            "limits",
            "websocket_lifetime",
            time_or_never(Duration::from_secs(1)),
            |w| &mut w.settings.lifetime,
            "How long a WebSocket may last before it is closed with 1001.",
        ),
        Key::new(
            "websocket",
            "origins",
            origins(),
            |w| &mut w.settings.origins,
            "Whose pages may connect, besides those of the same host and clients that are no browsers: a list of origins; \
             [\"*\"] for all.",
        ),
        Key::new(
            "websocket",
            "when_full",
            word(WHEN_FULL),
            |w| &mut w.settings.when_full,
            "What becomes of a message when the queue is full: \"wait\" (its sender does), \"drop-newest\", \"drop-oldest\", \
             or \"close\" (with 1013).",
        ),
        Key::new(
            "websocket",
            "deflate",
            switch(),
            |w| &mut w.is_deflated,
            "Whether messages are compressed for clients that offer it (permessage-deflate).",
        ),
        Key::new(
            "websocket",
            "deflate_level",
            count(1, 9),
            |w| &mut w.deflate.level,
            "From 1, the fastest, to 9.",
        ),
        Key::new(
            "websocket",
            "deflate_size_min",
            size(0, 1 << 30),
            |w| &mut w.deflate.size_min,
            "Messages of fewer bytes are sent as they are.",
        ),
        Key::new(
            "websocket",
            "deflate_server_no_context_takeover",
            switch(),
            |w| &mut w.deflate.server_no_context_takeover,
            "Whether the server forgets each message once it is sent. If not, each connection costs hundreds of KiB.",
        ),
        Key::new(
            "websocket",
            "deflate_client_no_context_takeover",
            switch(),
            |w| &mut w.deflate.client_no_context_takeover,
            "The same for the client. If not, each connection costs 46 KiB.",
        ),
        Key::new(
            "websocket",
            "deflate_server_max_window_bits",
            count(8, 15),
            |w| &mut w.deflate.server_max_window_bits,
            "How far back the server refers, as a power of two.",
        ),
        Key::new(
            "websocket",
            "deflate_client_max_window_bits",
            count(8, 15),
            |w| &mut w.deflate.client_max_window_bits,
            "The same for the client.",
        ),
        Key::new(
            "websocket",
            "shows_handshake",
            switch(),
            |w| &mut w.shows_handshake,
            "Whether the subprotocol `switchpoint.handshake` is spoken, by which the page at `/` shows the handshake.",
        ),
    ]
}

const DRIVERS: &[(&str, Driver)] = &[
    ("auto", Driver::Auto),
    ("uring", Driver::Uring),
    ("epoll", Driver::Epoll),
    ("io_uring", Driver::Uring),
];
const FORMATS: &[(&str, Format)] = &[("text", Format::Text), ("json", Format::Json)];
const WHEN_FULL: &[(&str, WhenFull)] = &[
    ("wait", WhenFull::Wait),
    ("drop-newest", WhenFull::DropNewest),
    ("drop-oldest", WhenFull::DropOldest),
    ("close", WhenFull::Close),
];
