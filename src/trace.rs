//! Records the exact bytes around a switch on a running server: head, answer, first frames.
//!
//! While nobody traces, it costs a look at a flag for each connection that is accepted. While somebody does, new
//! connections get a transport with a `Tap` in it, which takes note of nothing until a request comes that is looked
//! for. What it notes goes over a bounded channel to who traces; nobody waits for it.
//!
//! The file that a trace is written to is described in docs/admin.md.

use std::{
    cell::{Cell, RefCell},
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::SyncSender,
    },
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    Request, Token,
    http::Version,
    observe::SessionId,
    redact::{self, Redacted},
    sessions::Link,
    ws::Header,
};

/// Which requests are looked for: those for which all that is given fits.
///
/// ```
/// use switchpoint::trace::Filter;
///
/// let filter: Filter = "peer=192.0.2.0/24,path=/chat*,token=websocket".parse()?;
/// assert_eq!(filter.to_string(), "peer=192.0.2.0/24,path=/chat*,token=websocket");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    peer: Option<Network>,
    path: Option<String>,
    token: Option<String>,
}

/// An address, or those that begin as it does; perhaps one port of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
    port: Option<u16>,
}

impl Network {
    fn has(&self, peer: SocketAddr) -> bool {
        let is_same = match (self.address, peer.ip().to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                (net.to_bits() ^ ip.to_bits()).leading_zeros() >= self.bits.into()
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                (net.to_bits() ^ ip.to_bits()).leading_zeros() >= self.bits.into()
            }
            _ => false,
        };
        is_same && self.port.is_none_or(|port| port == peer.port())
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || format!("`{text}` is no address, such as 192.0.2.1, 192.0.2.1:5000 or 192.0.2.0/24");
        if let Ok(peer) = text.parse::<SocketAddr>() {
            let address = peer.ip();
            return Ok(Self { address, bits: width(address), port: Some(peer.port()) });
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| hint())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| hint())?;
        let bits = bits.unwrap_or_else(|| width(address));
        if bits > width(address) { Err(hint()) } else { Ok(Self { address, bits, port: None }) }
    }
}

const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None if self.bits == width(self.address) => self.address.fmt(f),
            None => write!(f, "{}/{}", self.address, self.bits),
        }
    }
}

impl Filter {
    /// Whether a request, or a session, is looked for. What is not known of it fits no demand.
    pub(crate) fn takes(&self, peer: Option<SocketAddr>, path: Option<&str>, token: Option<&str>) -> bool {
        let has_peer = self.peer.is_none_or(|network| peer.is_some_and(|peer| network.has(peer)));
        let has_path = self.path.as_ref().is_none_or(|wanted| {
            path.is_some_and(|path| match wanted.strip_suffix('*') {
                Some(start) => path.starts_with(start),
                None => path == wanted,
            })
        });
        let has_token = |wanted: &String| token.is_some_and(|token| token.eq_ignore_ascii_case(wanted));
        has_peer && has_path && self.token.as_ref().is_none_or(has_token)
    }
}

impl FromStr for Filter {
    type Err = String;

    /// `peer=ADDRESS`, `path=PATH` (`*` at its end for all that begin so) and `token=TOKEN`, with commas between them.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for demand in text.split(',').map(str::trim).filter(|demand| !demand.is_empty()) {
            let known = || format!("`{demand}` is not one of peer=ADDRESS, path=PATH and token=TOKEN");
            let (name, value) = demand.split_once('=').ok_or_else(known)?;
            let is_new = match name {
                "peer" => filter.peer.replace(value.parse()?).is_none(),
                "path" => filter.path.replace(value.to_owned()).is_none(),
                "token" => filter.token.replace(value.to_owned()).is_none(),
                _ => return Err(known()),
            };
            if !is_new {
                return Err(format!("there is more than one {name}"));
            }
        }
        Ok(filter)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer.map(|peer| format!("peer={peer}"));
        let path = self.path.as_ref().map(|path| format!("path={path}"));
        let token = self.token.as_ref().map(|token| format!("token={token}"));
        let demands: Vec<String> = [peer, path, token].into_iter().flatten().collect();
        f.write_str(&demands.join(","))
    }
}

/// A trace that is under way, as each core has it.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) filter: Filter,
    /// Frames that are recorded each way.
    pub(crate) frames: usize,
    pub(crate) until: Instant,
    pub(crate) rest: Arc<Rest>,
    pub(crate) records: SyncSender<Record>,
}

/// What all cores have in common of a trace.
#[derive(Debug)]
pub(crate) struct Rest {
    /// Switches that are still to be recorded.
    pub(crate) switches: AtomicUsize,
    /// Bytes that may still be recorded.
    pub(crate) bytes: AtomicUsize,
    /// Who traces has gone.
    pub(crate) is_over: AtomicBool,
    /// What was left out because who traces did not keep up.
    pub(crate) lost: AtomicUsize,
}

impl Trace {
    fn is_over(&self) -> bool {
        self.rest.is_over.load(Ordering::Relaxed) || Instant::now() >= self.until
    }

    /// Takes one of the switches that are still to be recorded.
    fn takes_one(&self) -> bool {
        let one_less = |switches: usize| switches.checked_sub(1);
        self.rest.switches.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    /// As many of `count` bytes as may still be recorded.
    fn takes_bytes(&self, count: usize) -> usize {
        let less = |bytes: usize| Some(bytes.saturating_sub(count));
        let before = self.rest.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        before.unwrap_or_default().min(count)
    }
}

/// The traces of a core.
#[derive(Debug, Default)]
pub(crate) struct Tracing {
    is_on: Cell<bool>,
    traces: RefCell<Vec<Trace>>,
}

impl Tracing {
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.get()
    }

    pub(crate) fn begin(&self, trace: Trace) {
        self.traces.borrow_mut().push(trace);
        self.is_on.set(true);
    }

    /// Lets go of those that are over.
    pub(crate) fn tick(&self) {
        if self.is_on() {
            let mut traces = self.traces.borrow_mut();
            traces.retain(|trace| !trace.is_over() && trace.rest.switches.load(Ordering::Relaxed) > 0);
            self.is_on.set(!traces.is_empty());
        }
    }
}

/// Something that was recorded.
#[derive(Debug)]
pub(crate) struct Record {
    session: SessionId,
    /// Since the request.
    time: Duration,
    what: What,
}

#[derive(Debug)]
enum What {
    Request {
        at: SystemTime,
        peer: Option<SocketAddr>,
        http: Version,
        bytes: Vec<u8>,
        redacted: Vec<Redacted>,
    },
    Body(Vec<u8>),
    Response {
        bytes: Vec<u8>,
        redacted: Vec<Redacted>,
    },
    Switched(Token),
    Frame {
        direction: &'static str,
        bytes: Vec<u8>,
        length: u64,
    },
    Data {
        direction: &'static str,
        bytes: Vec<u8>,
    },
    End(&'static str),
}

impl Record {
    /// As it stands in the file.
    pub(crate) fn to_json(&self) -> Value {
        let time = self.time.as_micros() as f64 / 1e6;
        let mut line = json!({ "kind": "", "session": self.session.to_string(), "t": time });
        let mut set = |kind: &str, members: &[(&str, Value)]| {
            line["kind"] = kind.into();
            for (name, value) in members {
                line[*name] = value.clone();
            }
        };
        let base64 = |bytes: &[u8]| Value::from(BASE64_STANDARD.encode(bytes));
        match &self.what {
            What::Request { at, peer, http, bytes, .. } => {
                let http = if *http < Version::Http2 { "1.1" } else { "2" };
                set(
                    "request",
                    &[
                        ("at", crate::admin::rfc3339(*at).into()),
                        ("dir", "in".into()),
                        ("peer", peer.map(|peer| peer.to_string()).into()),
                        ("http", http.into()),
                        ("bytes", base64(bytes)),
                    ],
                );
            }
            What::Body(bytes) => set("body", &[("dir", "in".into()), ("bytes", base64(bytes))]),
            What::Response { bytes, .. } => {
                set("response", &[("dir", "out".into()), ("bytes", base64(bytes))]);
            }
            What::Switched(token) => set("switched", &[("token", token.as_str().into())]),
            What::Frame { direction, bytes, length } => {
                set("frame", &[("dir", (*direction).into()), ("bytes", base64(bytes))]);
                if *length > bytes.len() as u64 {
                    line["length"] = (*length).into();
                }
            }
            What::Data { direction, bytes } => {
                set("data", &[("dir", (*direction).into()), ("bytes", base64(bytes))]);
            }
            What::End(why) => set("end", &[("why", (*why).into())]),
        }
        if let What::Request { redacted, .. } | What::Response { redacted, .. } = &self.what
            && !redacted.is_empty()
        {
            let places = redacted.iter().map(
                |Redacted { what, place }| json!({ "what": what, "at": place.start, "length": place.len() }),
            );
            line["redacted"] = places.collect();
        }
        line
    }
}

/// Takes note of what passes through a transport, once somebody looks for it.
#[derive(Debug, Default)]
pub(crate) struct Tap(RefCell<State>);

#[derive(Debug, Default)]
enum State {
    /// Nobody looks for it, or all was recorded.
    #[default]
    Off,
    /// A request came, and is not answered yet.
    Asked(Recorder),
    Switched(Recorder),
}

#[derive(Debug)]
struct Recorder {
    trace: Trace,
    session: SessionId,
    began: Instant,
    /// Frames that are told from each other; of other protocols what comes and goes is recorded as it does.
    frames: Option<[Frames; 2]>,
    /// What is still to be recorded each way: in, out.
    left: [usize; 2],
}

/// A direction's bytes, on their way to be frames.
#[derive(Debug, Default)]
struct Frames {
    bytes: Vec<u8>,
    /// Of the frame that `bytes` begins with, what is not kept.
    skip: u64,
}

const IN: usize = 0;
const OUT: usize = 1;
const DIRECTIONS: [&str; 2] = ["in", "out"];

impl Recorder {
    /// `false`: who traces has gone.
    fn record(&self, what: What) -> bool {
        let time = if matches!(what, What::Request { .. }) { Duration::ZERO } else { self.began.elapsed() };
        let record = Record { session: self.session, time, what };
        if self.trace.is_over() {
            return false;
        }
        if self.trace.records.try_send(record).is_err() {
            self.trace.rest.lost.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Up to as many of `bytes` as may still be recorded.
    fn keep(&self, bytes: &[u8]) -> Vec<u8> {
        let count = self.trace.takes_bytes(bytes.len().min(PIECE_MAX));
        bytes[..count].to_vec()
    }

    /// Takes note of what has passed; `Some` says why it was the last.
    fn pass(&mut self, direction: usize, bytes: &[u8]) -> Option<&'static str> {
        if self.left[direction] == 0 {
            return None;
        }
        let Some(frames) = &mut self.frames else {
            self.left[direction] -= 1;
            let bytes = self.keep(bytes);
            if bytes.is_empty() {
                return Some("bytes");
            }
            let is_on = self.record(What::Data { direction: DIRECTIONS[direction], bytes });
            return self.why_over(is_on);
        };
        let mut found = Vec::new();
        let is_sound = frames[direction].cut(bytes, self.left[direction], &mut found);
        for (length, bytes) in found {
            self.left[direction] -= 1;
            let bytes = self.keep(&bytes);
            if bytes.is_empty() {
                return Some("bytes");
            }
            if !self.record(What::Frame { direction: DIRECTIONS[direction], bytes, length }) {
                return Some("time");
            }
        }
        if !is_sound {
            // No frames: what follows is shown as it is.
            self.frames = None;
        }
        self.why_over(true)
    }

    fn why_over(&self, is_on: bool) -> Option<&'static str> {
        match self.left {
            _ if !is_on => Some("time"),
            [0, 0] => Some("frames"),
            _ => None,
        }
    }
}

impl Frames {
    /// Cuts frames off what has come: the length of each, and as much of it as is kept. `false`: it is no frame.
    fn cut(&mut self, mut bytes: &[u8], max: usize, found: &mut Vec<(u64, Vec<u8>)>) -> bool {
        while found.len() < max {
            if self.skip > 0 {
                let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= skipped as u64;
                bytes = &bytes[skipped..];
                if self.skip > 0 {
                    return true;
                }
            }
            let taken = bytes.len().min((PIECE_MAX + Header::SIZE_MAX).saturating_sub(self.bytes.len()));
            self.bytes.extend_from_slice(&bytes[..taken]);
            let (header, size) = match Header::decode(&self.bytes) {
                Ok(Some(header)) => header,
                Ok(None) => return true,
                Err(_) => {
                    found.push((self.bytes.len() as u64, std::mem::take(&mut self.bytes)));
                    return false;
                }
            };
            let length = header.length + size as u64;
            let kept = usize::try_from(length).unwrap_or(usize::MAX).min(PIECE_MAX);
            if self.bytes.len() < kept {
                return true; // all that is there was taken
            }
            // What was taken beyond it is still there to be cut.
            let before = self.bytes.len() - taken;
            self.bytes.truncate(kept);
            found.push((length, std::mem::take(&mut self.bytes)));
            bytes = &bytes[kept.saturating_sub(before)..];
            self.skip = length - kept as u64;
        }
        true
    }
}

/// The longest piece that is recorded.
const PIECE_MAX: usize = 64 << 10;

impl Tap {
    /// A request that asks for `token`, as it was written.
    pub(crate) fn request(&self, link: &Link, request: &Request<'_>, token: &str) {
        let mut bytes = request.raw_head().into_owned();
        bytes.extend_from_slice(b"\r\n\r\n");
        let redacted = redact::head(&mut bytes);
        let traces = link.worker.tracing.traces.borrow();
        let wanted = traces.iter().find(|trace| {
            trace.filter.takes(link.peer, Some(request.path()), Some(token))
                && !trace.is_over()
                && trace.takes_one()
        });
        let Some(trace) = wanted.cloned() else { return };
        drop(traces);
        let recorder = Recorder {
            left: [trace.frames; 2],
            trace,
            session: link.session_id(),
            began: Instant::now(),
            frames: None,
        };
        let (peer, http) = (link.peer, request.version());
        let bytes = recorder.keep(&bytes);
        recorder.record(What::Request { at: SystemTime::now(), peer, http, bytes, redacted });
        *self.0.borrow_mut() = State::Asked(recorder);
    }

    /// The request's body.
    pub(crate) fn body(&self, bytes: &[u8]) {
        if let State::Asked(recorder) = &*self.0.borrow() {
            recorder.record(What::Body(recorder.keep(bytes)));
        }
    }

    /// An answer's bytes.
    pub(crate) fn response(&self, bytes: &[u8]) {
        if let State::Asked(recorder) = &*self.0.borrow() {
            let mut bytes = recorder.keep(bytes);
            let redacted = redact::head(&mut bytes);
            recorder.record(What::Response { bytes, redacted });
        }
    }

    /// The request was not switched.
    pub(crate) fn answered(&self, status: u16) {
        self.end(if status >= 400 { "refused" } else { "ordinary" });
    }

    /// From here on it speaks `token`; `unread` has come already.
    pub(crate) fn switched(&self, token: Token, unread: &[u8]) {
        let mut state = self.0.borrow_mut();
        let State::Asked(mut recorder) = std::mem::take(&mut *state) else { return };
        recorder.record(What::Switched(token));
        recorder.frames = (token.name() == "websocket").then(Default::default);
        *state = State::Switched(recorder);
        drop(state);
        if !unread.is_empty() {
            self.pass(IN, unread);
        }
    }

    /// Bytes that have arrived.
    pub(crate) fn received(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.pass(IN, bytes);
        }
    }

    /// Bytes that the transport has taken.
    pub(crate) fn sent(&self, bytes: &[u8]) {
        self.response(bytes);
        self.pass(OUT, bytes);
    }

    fn pass(&self, direction: usize, bytes: &[u8]) {
        let why = match &mut *self.0.borrow_mut() {
            State::Switched(recorder) => recorder.pass(direction, bytes),
            State::Off | State::Asked(_) => None,
        };
        if let Some(why) = why {
            self.end(why);
        }
    }

    fn end(&self, why: &'static str) {
        if let State::Asked(recorder) | State::Switched(recorder) = self.0.take() {
            recorder.record(What::End(why));
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.end("closed");
    }
}

/// A transport with a tap in it.
#[derive(Debug)]
pub struct Tapped {
    pub(crate) inner: crate::Stream,
    pub(crate) tap: Tap,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_what_fits_all_that_it_names() {
        let filter = |text: &str| text.parse::<Filter>();
        let peer = Some("192.0.2.77:5000".parse().unwrap());
        let takes = |text: &str| filter(text).unwrap().takes(peer, Some("/chat/room"), Some("websocket"));
        for text in ["", "peer=192.0.2.77", "peer=192.0.2.64/26", "peer=192.0.2.77:5000", "peer=0.0.0.0/0"] {
            assert!(takes(text), "{text}");
        }
        for text in [
            "path=/chat*",
            "path=/chat/room",
            "token=WebSocket",
            "peer=192.0.0.0/16, path=/c*,token=websocket",
        ] {
            assert!(takes(text), "{text}");
        }
        for text in ["peer=192.0.2.0/26", "peer=192.0.2.77:1", "peer=::/0", "path=/chat", "token=echo"] {
            assert!(!takes(text), "{text}");
        }
        assert!(!filter("path=/*").unwrap().takes(peer, None, None));
        for text in ["nonsense", "peer=nobody", "peer=1.2.3.4/33", "path=/a,path=/b", "colour=red"] {
            assert!(filter(text).is_err(), "{text}");
        }
        assert_eq!(filter("peer=::1/64").unwrap().to_string(), "peer=::1/64");
    }

    #[test]
    fn frames_are_cut_wherever_the_bytes_are() {
        let long = vec![7; PIECE_MAX + 1000];
        let mut header = [0; Header::SIZE_MAX];
        let size = Header {
            fin: true,
            rsv1: false,
            opcode: crate::ws::Opcode::Binary,
            mask: None,
            length: long.len() as u64,
        }
        .encode(&mut header);
        let stream =
            [b"\x81\x02hi".as_slice(), &header[..size], &long, b"\x81\x80abcd", b"\x88\x00", b"\x81\x01x"]
                .concat();
        for step in [1, 2, 3, 7, 1000, 70_000, stream.len()] {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for bytes in stream.chunks(step) {
                let mut more = Vec::new();
                assert!(frames.cut(bytes, 4 - found.len(), &mut more));
                found.extend(more);
                if found.len() == 4 {
                    break;
                }
            }
            let lengths: Vec<(u64, usize)> =
                found.iter().map(|(length, bytes)| (*length, bytes.len())).collect();
            let whole = (long.len() + size) as u64;
            assert_eq!(lengths, [(4, 4), (whole, PIECE_MAX), (6, 6), (2, 2)], "in steps of {step}");
            assert_eq!(found[0].1, b"\x81\x02hi");
            assert_eq!(found[2].1, b"\x81\x80abcd");
        }
        let mut found = Vec::new();
        assert!(!Frames::default().cut(b"HTTP/1.1 400", 5, &mut found), "that is no frame");
        assert_eq!(found, [(12, b"HTTP/1.1 400".to_vec())]);
    }
}
