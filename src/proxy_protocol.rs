//! The PROXY protocol's header, versions 1 and 2, without I/O: who the client is, as a proxy in front of us says.
//!
//! ```text
//!   1   PROXY TCP4 192.0.2.1 198.51.100.7 56324 443␍␊                          at most 107 bytes
//!   2   ␍␊␍␊␀␍␊QUIT␊ │ version, command │ family │ length │ addresses, then what is not looked at
//!       12 bytes       1                  1        2        length
//! ```
//!
//! Rules: The PROXY protocol, versions 1 and 2, of 2020-03-05 (haproxy.org, `doc/proxy-protocol.txt`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client, and the address that it has connected to. `None` where the proxy speaks for itself (a health check),
    /// or for a client without an IP address: then the connection's own addresses hold.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// How many bytes the header has.
    pub size: usize,
}

/// What is wrong with a header, or with who sends it. The connection is closed without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer is not one of the proxies that are trusted here.
    Untrusted,
    /// What was sent is not the beginning of a header.
    Missing,
    /// It began as a header, and is none.
    Malformed,
    /// The header is longer than its limit.
    TooLong,
    /// The header was not whole in time.
    Late,
}

impl Fault {
    pub(crate) const ALL: &[Self] =
        &[Self::Untrusted, Self::Missing, Self::Malformed, Self::TooLong, Self::Late];

    /// The stable code, in the log line and the counter.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Untrusted => "proxy-untrusted",
            Self::Missing => "proxy-header-missing",
            Self::Malformed => "proxy-header-malformed",
            Self::TooLong => "proxy-header-too-long",
            Self::Late => "proxy-header-timeout",
        }
    }

    /// What it means, and what to do about it.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Untrusted => {
                "This listener takes connections from its proxies only, and the peer is not in one of their networks. The connection was closed without an answer."
            }
            Self::Missing => {
                "This listener expects a PROXY protocol header first, and the peer has sent something else. Let the proxy send it, or use another listener. The connection was closed without an answer."
            }
            Self::Malformed => {
                "The PROXY protocol header is not one of version 1 or 2. The connection was closed without an answer."
            }
            Self::TooLong => {
                "The PROXY protocol header is longer than 107 bytes (version 1) or 4 KiB (version 2). The connection was closed without an answer."
            }
            Self::Late => {
                "The PROXY protocol header did not arrive whole within the time limit of a head. The connection was closed without an answer."
            }
        }
    }
}

/// Reads the header that `bytes` begin with; `None` if there has to be more of it.
///
/// # Errors
/// What cannot become a header, as soon as that is certain.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    let begins_with = |signature: &[u8]| {
        let common = bytes.len().min(signature.len());
        bytes[..common] == signature[..common]
    };
    if begins_with(SIGNATURE_1) {
        version_1(bytes)
    } else if begins_with(SIGNATURE_2) {
        version_2(bytes)
    } else {
        Err(Fault::Missing)
    }
}

const SIGNATURE_1: &[u8] = b"PROXY ";
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line there is, for two whole IPv6 addresses (2.1).
pub(crate) const LINE_MAX: usize = 107;
/// No proxy has been seen to send more: addresses take 36 bytes, and a certificate's names some hundreds.
pub(crate) const SIZE_MAX: usize = 4096;

fn version_1(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    let window = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        // A lone line feed, or a carriage return before something else, can no longer become the end.
        let is_broken = window.contains(&b'\n') || window.iter().rev().skip(1).any(|byte| *byte == b'\r');
        return match window.len() {
            _ if is_broken => Err(Fault::Malformed),
            LINE_MAX => Err(Fault::TooLong),
            _ => Ok(None),
        };
    };
    let size = end + 2;
    let line = str::from_utf8(&bytes[SIGNATURE_1.len()..end]).map_err(|_| Fault::Malformed)?;
    if line.contains(['\n', '\r']) {
        return Err(Fault::Malformed);
    }
    let (family, rest) = line.split_once(' ').unwrap_or((line, ""));
    let addresses = match family {
        // What follows has to be ignored (2.1).
        "UNKNOWN" => None,
        "TCP4" => Some(line_addresses(rest, |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4))?),
        "TCP6" => Some(line_addresses(rest, |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6))?),
        _ => return Err(Fault::Malformed),
    };
    Ok(Some(Header { addresses, size }))
}

fn line_addresses(
    rest: &str,
    address: impl Fn(&str) -> Option<IpAddr>,
) -> Result<(SocketAddr, SocketAddr), Fault> {
    let mut parts = rest.split(' ');
    let mut next = || parts.next().ok_or(Fault::Malformed);
    let (source, destination, source_port, destination_port) = (next()?, next()?, next()?, next()?);
    if parts.next().is_some() {
        return Err(Fault::Malformed);
    }
    let whole = |ip, port| {
        let (Some(ip), Some(port)) = (address(ip), port_number(port)) else { return Err(Fault::Malformed) };
        Ok(SocketAddr::new(ip, port))
    };
    Ok((whole(source, source_port)?, whole(destination, destination_port)?))
}

/// Digits without a sign, and without zeros in front.
fn port_number(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

fn version_2(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<16>() else {
        // What is known of it is judged at once.
        if let Some(command) = bytes.get(12) {
            command_of(*command)?;
        }
        return Ok(None);
    };
    let is_local = command_of(fixed[12])? == Command::Local;
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let size = fixed.len() + length;
    if size > SIZE_MAX {
        return Err(Fault::TooLong);
    }
    // The rest is of this length whatever the family is, so a fault can be told before it is there.
    let needed = match fixed[13] {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(Fault::Malformed),
    };
    if length < needed && !is_local {
        return Err(Fault::Malformed);
    }
    let Some(rest) = rest.get(..length) else { return Ok(None) };
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    let addresses = match needed {
        _ if is_local => None,
        12 => {
            let ip = |at: usize| Ipv4Addr::new(rest[at], rest[at + 1], rest[at + 2], rest[at + 3]);
            Some(((ip(0), port(8)).into(), (ip(4), port(10)).into()))
        }
        36 => {
            let ip = |at: usize| {
                let bytes: [u8; 16] = rest[at..at + 16].try_into().expect("it is as long");
                Ipv6Addr::from(bytes)
            };
            Some(((ip(0), port(32)).into(), (ip(16), port(34)).into()))
        }
        // Unspecified, or a socket of the proxy's own machine.
        _ => None,
    };
    Ok(Some(Header { addresses, size }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    /// The proxy speaks for itself.
    Local,
    Proxy,
}

fn command_of(byte: u8) -> Result<Command, Fault> {
    match byte {
        0x20 => Ok(Command::Local),
        0x21 => Ok(Command::Proxy),
        _ => Err(Fault::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the specification's section 2.1.
    const LINES: &[(&str, Option<(&str, &str)>)] = &[
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            Some(("255.255.255.255:65535", "255.255.255.255:65535")),
        ),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Some((
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            )),
        ),
        ("PROXY UNKNOWN\r\n", None),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            None,
        ),
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            Some(("192.168.0.1:56324", "192.168.0.11:443")),
        ),
    ];

    fn version_2_of(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE_2, &[command, family], &length, rest].concat()
    }

    type Addresses = Option<(SocketAddr, SocketAddr)>;

    fn headers() -> Vec<(Vec<u8>, Addresses)> {
        let addresses = |(a, b): (&str, &str)| (a.parse().unwrap(), b.parse().unwrap());
        let mut headers: Vec<_> = LINES
            .iter()
            .map(|(line, expected)| (line.as_bytes().to_vec(), expected.map(addresses)))
            .collect();
        let four = [192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x01, 0xbb];
        let mut six = [0; 36];
        six[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        (six[15], six[31], six[33], six[35]) = (1, 2, 80, 81);
        let tlv = [4, 0, 1, 0xff]; // PP2_TYPE_NOOP
        let both = Some(addresses(("192.0.2.1:56324", "198.51.100.7:443")));
        headers.extend([
            (version_2_of(0x21, 0x11, &four), both),
            (version_2_of(0x21, 0x11, &[&four[..], &tlv].concat()), both),
            (version_2_of(0x21, 0x12, &four), both),
            (version_2_of(0x21, 0x21, &six), Some(addresses(("[2001:db8::1]:80", "[::2]:81")))),
            (version_2_of(0x20, 0x00, &[]), None),
            (version_2_of(0x20, 0x11, &four), None),
            (version_2_of(0x20, 0x11, &[]), None),
            (version_2_of(0x21, 0x00, &tlv), None),
            (version_2_of(0x21, 0x31, &[b'/'; 216]), None),
        ]);
        headers
    }

    #[test]
    fn headers_are_read_whole_and_not_before_and_what_follows_is_not_touched() {
        for (bytes, addresses) in headers() {
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Ok(None), "{end} of {:?}", bytes.escape_ascii().to_string());
            }
            let expected = Ok(Some(Header { addresses, size: bytes.len() }));
            assert_eq!(parse(&bytes), expected);
            assert_eq!(parse(&[&bytes[..], b"GET / HTTP/1.1\r\n\r\n"].concat()), expected);
        }
    }

    #[test]
    fn what_is_no_header_is_told_at_once() {
        for (bytes, fault) in [
            (&b"G"[..], Fault::Missing),
            (b"GET / HTTP/1.1\r\n", Fault::Missing),
            (b"PROXYTCP4", Fault::Missing),
            (b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Fault::Missing),
            (b"\r\n\r\n\0\r\nQUIX", Fault::Missing),
            (b"\x16\x03\x01", Fault::Missing),
            (b"PROXY \r\n", Fault::Malformed),
            (b"PROXY TCP4\r\n", Fault::Malformed),
            (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", Fault::Malformed),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Fault::Malformed),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", Fault::Malformed),
            (b"PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n", Fault::Malformed),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", Fault::Malformed),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", Fault::Malformed),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", Fault::Malformed),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n", Fault::Malformed),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n", Fault::Malformed),
            (b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", Fault::Malformed),
            (b"PROXY TCP4 1.2.3.4\n", Fault::Malformed),
            (b"PROXY TCP4 1.2.3.4\rx", Fault::Malformed),
            (b"PROXY UNKNOWN a\nb\r\n", Fault::Malformed),
            (b"PROXY TCP4 \xff\r\n", Fault::Malformed),
            (b"\r\n\r\n\0\r\nQUIT\n\x11", Fault::Malformed),
            (b"\r\n\r\n\0\r\nQUIT\n\x22", Fault::Malformed),
        ] {
            assert_eq!(parse(bytes), Err(fault), "{}", bytes.escape_ascii());
        }
        assert_eq!(parse(&[b"PROXY UNKNOWN ", &[b'x'; 93][..]].concat()), Err(Fault::TooLong));
        assert_eq!(
            parse(&[b"PROXY UNKNOWN ", &[b'x'; 91][..], b"\r\n"].concat()).map(|found| found.is_some()),
            Ok(true)
        );
        assert_eq!(parse(&version_2_of(0x21, 0x41, &[0; 12])), Err(Fault::Malformed));
        assert_eq!(parse(&version_2_of(0x21, 0x11, &[0; 11])), Err(Fault::Malformed));
        assert_eq!(parse(&version_2_of(0x21, 0x21, &[0; 35])), Err(Fault::Malformed));
        assert_eq!(parse(&version_2_of(0x21, 0x00, &[0; SIZE_MAX - 15])), Err(Fault::TooLong));
        assert!(parse(&version_2_of(0x21, 0x00, &[0; SIZE_MAX - 16])).unwrap().is_some());
        // Its limit is known from its sixteenth byte on, before anything else of it is there.
        assert_eq!(parse(&version_2_of(0x21, 0x00, &[0; 0x8000])[..16]), Err(Fault::TooLong));
    }

    #[test]
    fn every_fault_has_a_code_of_its_own() {
        let mut codes: Vec<_> = Fault::ALL.iter().map(|fault| fault.code()).collect();
        codes.dedup();
        assert_eq!(codes.len(), 5);
    }
}
