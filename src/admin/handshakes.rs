//! The recent handshakes, as JSON: for the operator with their peers, for a page without.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use serde_json::{Value, json};

use super::{answer, rfc3339};
use crate::{Handle, Response, http::Version, observe::Recent};

/// A way from a registry to the server that it is part of, whose handshakes a page of it shows. The registry is built
/// before the server is there.
#[derive(Clone, Debug, Default)]
pub struct Handshakes(Arc<OnceLock<Handle>>);

impl Handshakes {
    /// Of no server yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of this server, whose [`recent_handshakes`](crate::Telemetry::recent_handshakes) says how many there are. The
    /// first one counts.
    pub fn of(&self, handle: &Handle) {
        drop(self.0.set(handle.clone()));
    }

    /// The list for a page: of a peer it shows no more than the network.
    pub(crate) fn response(&self) -> Response {
        let list = self.0.get().map(|handle| list(handle, Shows::Networks));
        answer(&list.unwrap_or_else(|| json!({ "handshakes": [] })))
    }
}

/// What is shown of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shows {
    Peers,
    Networks,
}

/// The newest first.
pub(super) fn list(handle: &Handle, shows: Shows) -> Value {
    let recent = handle.recent();
    json!({ "handshakes": recent.iter().take(LISTED_MAX).map(|recent| entry(recent, shows)).collect::<Vec<_>>() })
}

/// However many cores there are.
const LISTED_MAX: usize = 500;

fn entry(recent: &Recent, shows: Shows) -> Value {
    let peer = recent.peer.map(|peer| match shows {
        Shows::Peers => peer.to_string(),
        Shows::Networks => network(peer),
    });
    let http = recent.http.map(|version| match version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
        Version::Http2 => "2",
    });
    let mut entry = json!({
        "at": rfc3339(recent.at),
        "session": recent.session.to_string(),
        "peer": peer,
        "http": http,
        "path": recent.path.as_deref(),
        "asked": recent.asked.as_deref(),
        "status": recent.status,
    });
    match recent.outcome {
        Ok(token) => {
            entry["outcome"] = "switched".into();
            entry["protocol"] = token.as_str().into();
            entry["subprotocol"] = recent.subprotocol.as_deref().into();
            entry["microseconds"] = recent.time.map(|time| time.as_micros() as u64).into();
        }
        Err(reason) => {
            entry["outcome"] = "refused".into();
            entry["reason"] = reason.code().into();
            entry["cure"] = reason.explanation().into();
        }
    }
    entry
}

/// As much of an address as tells a neighbour from a stranger: 24 bits, of IPv6 48.
fn network(peer: SocketAddr) -> String {
    match peer.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}::/48")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_learns_the_network_only() {
        assert_eq!(network("192.0.2.77:5000".parse().unwrap()), "192.0.2.0/24");
        assert_eq!(network("[::ffff:192.0.2.77]:5000".parse().unwrap()), "192.0.2.0/24");
        assert_eq!(network("[2001:db8:1:2:3::4]:5000".parse().unwrap()), "2001:db8:1::/48");
    }
}
