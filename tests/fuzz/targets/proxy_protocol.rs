//! The header that a proxy sends first.

use switchpoint::proxy_protocol::{Fault, Header, parse};

use crate::random::Random;

/// A header is found at its last byte and not before, whatever follows; a fault stays one; addresses that are written out
/// are read again.
pub fn proxy_protocol(bytes: &[u8], _: &mut Random) -> bool {
    let found = parse(bytes);
    let mut fault: Option<Fault> = None;
    for end in 0..=bytes.len() {
        match (parse(&bytes[..end]), fault) {
            (Ok(None), None) => assert!(!matches!(found, Ok(Some(Header { size, .. })) if size <= end)),
            (Ok(Some(header)), None) => assert!(header.size <= end && found == Ok(Some(header))),
            (Err(now), None) => fault = Some(now),
            (now, Some(before)) => assert_eq!(now, Err(before)),
        }
    }
    let Ok(Some(Header { addresses, size })) = found else { return false };
    assert!(size <= 4096);
    if let Some((source, destination)) = addresses {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (from, to) = (source.ip(), destination.ip());
        let line = format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port());
        assert_eq!(parse(line.as_bytes()), Ok(Some(Header { addresses, size: line.len() })));
    }
    true
}
