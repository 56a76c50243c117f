//! Networks: an address and how much of it counts.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A network such as `10.0.0.0/8` or `2001:db8::/32`. An address alone is a network of one.
///
/// An IPv4 address that came as an IPv6 one (`::ffff:192.0.2.1`, RFC 4291 2.5.5.2) is an IPv4 address here.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    /// With zeros behind the prefix.
    first: IpAddr,
    length: u8,
}

impl Network {
    /// The network of `length` bits that `address` is in; a length beyond the address's own is cut to it.
    pub fn of(address: IpAddr, length: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let length = length.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Self { first: Ipv4Addr::from_bits(address.to_bits() & mask).into(), length }
            }
            IpAddr::V6(address) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Self { first: Ipv6Addr::from_bits(address.to_bits() & mask).into(), length }
            }
        }
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && Self::of(address, self.length) == *self
    }
}

/// Why a text is not a [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkFault {
    /// There is no address in it.
    #[error("a network is an address with a prefix, such as 10.0.0.0/8 or 2001:db8::/32")]
    NotANetwork,
    /// The prefix is longer than the address.
    #[error("the prefix is longer than the address")]
    TooLong,
    /// The address goes on behind the prefix.
    #[error("the address has bits behind its prefix; the network is {0}")]
    BitsBehind(Network),
}

impl FromStr for Network {
    type Err = NetworkFault;

    fn from_str(text: &str) -> Result<Self, NetworkFault> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkFault::NotANetwork)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length: u8 = match length {
            None => most,
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                digits.parse().map_err(|_| NetworkFault::NotANetwork)?
            }
            Some(_) => return Err(NetworkFault::NotANetwork),
        };
        if length > most {
            return Err(NetworkFault::TooLong);
        }
        // `::ffff:10.0.0.0/104` is 10.0.0.0/8.
        let is_mapped = address.is_ipv6() && address.to_canonical().is_ipv4();
        let length = if is_mapped { length.saturating_sub(96) } else { length };
        let network = Self::of(address, length);
        if network.first == address.to_canonical() {
            Ok(network)
        } else {
            Err(NetworkFault::BitsBehind(network))
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_networks_and_in_no_other() {
        let contains = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        for (network, address) in [
            ("10.0.0.0/8", "10.255.0.1"),
            ("192.0.2.1", "192.0.2.1"),
            ("0.0.0.0/0", "203.0.113.9"),
            ("10.0.0.0/8", "::ffff:10.1.2.3"),
            ("::ffff:10.0.0.0/104", "10.1.2.3"),
            ("2001:db8::/32", "2001:db8:1::1"),
            ("::/0", "2001:db8::1"),
            ("::1", "::1"),
        ] {
            assert!(contains(network, address), "{address} is in {network}");
        }
        for (network, address) in [
            ("10.0.0.0/8", "11.0.0.0"),
            ("10.0.0.0/8", "a00::"),
            ("0.0.0.0/0", "::1"),
            ("::/0", "192.0.2.1"),
            ("2001:db8::/32", "2001:db9::"),
            ("192.0.2.1", "192.0.2.2"),
        ] {
            assert!(!contains(network, address), "{address} is not in {network}");
        }
    }

    #[test]
    fn a_text_is_a_network_or_says_why_it_is_none() {
        for same in ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", "::/0"] {
            assert_eq!(same.parse::<Network>().unwrap().to_string(), same);
        }
        assert_eq!("192.0.2.7".parse::<Network>().unwrap().to_string(), "192.0.2.7/32");
        for wrong in
            ["", "/8", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/x", "10.0.0.0/999", "localhost", "1.2.3/8"]
        {
            assert_eq!(wrong.parse::<Network>(), Err(NetworkFault::NotANetwork), "{wrong}");
        }
        assert_eq!("10.0.0.0/33".parse::<Network>(), Err(NetworkFault::TooLong));
        assert_eq!("::/129".parse::<Network>(), Err(NetworkFault::TooLong));
        let behind = "10.0.0.1/8".parse::<Network>().unwrap_err();
        assert!(behind.to_string().ends_with("the network is 10.0.0.0/8"), "{behind}");
    }
}
