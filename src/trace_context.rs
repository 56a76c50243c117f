//! W3C Trace Context: the `traceparent` of a request, so that its log line can be found from the client's own trace.

use std::fmt;

/// A valid `traceparent` (W3C Trace Context, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

impl TraceParent {
    /// Reads `00-<trace id>-<parent id>-<flags>`. A later version may have more behind it, which is not looked at.
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = value.splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let parent_id = hex(parts.next()?, 16)?;
        let flags = hex(parts.next()?, 2)?;
        let is_known = version != 0xff && (version > 0 || parts.next().is_none());
        (is_known && trace_id != 0 && parent_id != 0).then_some(Self {
            trace_id,
            parent_id: parent_id as u64,
            flags: flags as u8,
        })
    }

    /// The trace that the request is a part of.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The client's span.
    pub fn parent_id(&self) -> u64 {
        self.parent_id
    }

    /// Whether the client may have recorded its part.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 != 0
    }
}

/// As it stands in a version 0 field.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

/// So many hexadecimal digits, in lower case.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == digits && text.bytes().all(is_hex)).then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_recommendation_is_read() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!(parent.trace_id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(parent.parent_id(), 0x00f0_67aa_0ba9_02b7);
        assert!(parent.is_sampled());
        assert_eq!(parent.to_string(), GOOD);
        let later = GOOD.replacen("00", "cc", 1);
        assert_eq!(TraceParent::parse(&format!("{later}-what-the-future-brings")), Some(parent));
    }

    #[test]
    fn what_is_not_one_is_ignored() {
        let zeros = "0".repeat(32);
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("{GOOD}0"),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replace("4bf9", "4BF9"),
            &GOOD.replace("4bf9", "+bf9"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &zeros),
            &GOOD.replace("00f067aa0ba902b7", &zeros[..16]),
            &GOOD.replace('-', "_"),
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad:?}");
        }
    }
}
