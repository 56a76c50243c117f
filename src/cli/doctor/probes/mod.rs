//! The probes: one file a section, and the list. To add one, write it into its section; the test of broken servers
//! (`tests.rs`) then asks for a server that it finds fault with.

mod closing;
mod deflate;
mod early;
mod echo;
mod fields;
mod framing;
mod h2c;
mod limits;
mod opening;
mod smuggling;
mod upgrade;

use super::probe::Probe;

/// Every probe there is, by section.
pub(crate) fn all() -> impl Iterator<Item = &'static Probe> {
    SECTIONS.iter().flat_map(|(_, probes)| probes.iter())
}

/// Each section: what it is about, and its probes.
pub(crate) const SECTIONS: &[(&str, &[Probe])] = &[
    ("the opening handshake", opening::PROBES),
    ("the rules of Upgrade", upgrade::PROBES),
    ("the Sec-WebSocket fields", fields::PROBES),
    ("bytes and bodies before the 101", early::PROBES),
    ("requests that two readers read in two ways", smuggling::PROBES),
    ("frames and messages", framing::PROBES),
    ("the closing handshake", closing::PROBES),
    ("permessage-deflate", deflate::PROBES),
    ("limits", limits::PROBES),
    ("the upgrade to HTTP/2", h2c::PROBES),
    ("echo, byte by byte", echo::PROBES),
];
