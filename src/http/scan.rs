//! Where a request head ends, found while it dribbles in.
//!
//! The scanner remembers how far it has looked, so that a peer that sends one byte at a time costs
//! as much as one that sends all at once. It knows lines, not their meaning; what it can see to be
//! wrong (RFC 9112 section 2.2) it refuses at once, rather than wait for an end that cannot help.

use super::{HeadFault, Limits};

/// Finds the end of one head. The fault or the end is the same however the bytes were cut.
#[derive(Clone, Debug, Default)]
pub struct HeadScanner {
    /// Invariant: everything before this has been judged.
    seen: usize,
    /// Where the line that `seen` is in starts.
    line: usize,
    empty_lines: u8,
    past_request_line: bool,
}

impl HeadScanner {
    /// Looks at what is new in `bytes`, which is everything unread so far: each call starts at the
    /// same byte. `Some(n)` says that the head is `bytes[..n]`, with its blank line and with the
    /// empty lines before it; asked again, it says so again.
    pub fn find(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, HeadFault> {
        let line_max = limits.target_max.saturating_add(REQUEST_LINE_MARGIN);
        // A head must end inside this window, so what lies behind it need not be looked at.
        let window = &bytes[..bytes.len().min(limits.head_max)];

        loop {
            let found = memchr::memchr3(b'\r', b'\n', 0, &window[self.seen..]);
            self.seen = found.map_or(window.len(), |at| self.seen + at);

            if !self.past_request_line && self.seen - self.line > line_max {
                return Err(HeadFault::TargetTooLong);
            }
            match (window.get(self.seen), window.get(self.seen + 1)) {
                (Some(b'\r'), Some(b'\n')) => {}
                // The CR is looked at again when its LF may be there.
                (None, _) | (Some(b'\r'), None) if window.len() == limits.head_max => {
                    return Err(HeadFault::HeadTooLarge);
                }
                (None, _) | (Some(b'\r'), None) => return Ok(None),
                (Some(b'\r'), _) => return Err(HeadFault::BareCr),
                (Some(b'\n'), _) => return Err(HeadFault::BareLf),
                (Some(_), _) => return Err(HeadFault::InvalidByte),
            }

            if self.seen > self.line {
                self.past_request_line = true;
            } else if self.past_request_line {
                return Ok(Some(self.seen + 2));
            } else if self.empty_lines == EMPTY_LINES_MAX {
                return Err(HeadFault::MalformedRequestLine);
            } else {
                self.empty_lines += 1;
            }
            self.seen += 2;
            self.line = self.seen;
        }
    }

    /// Starts over, for the next request on the connection.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Room in the request line for the method, the version and two spaces.
const REQUEST_LINE_MARGIN: usize = 64;

/// RFC 9112 section 2.2 wants one ignored, for clients that end a body with a CR LF that it does not
/// count. Two is generous; without a bound a peer could keep a connection in this state.
pub(super) const EMPTY_LINES_MAX: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn find(bytes: &[u8]) -> Result<Option<usize>, HeadFault> {
        HeadScanner::default().find(bytes, &Limits::default())
    }

    #[test]
    fn a_fault_is_seen_before_the_head_has_ended() {
        assert_eq!(find(b"GET / HTTP/1.1\n"), Err(HeadFault::BareLf));
        assert_eq!(find(b"\n"), Err(HeadFault::BareLf));
        assert_eq!(find(b"GET / HTTP/1.1\r\nA: b\n"), Err(HeadFault::BareLf));
        assert_eq!(find(b"GET /\rx"), Err(HeadFault::BareCr));
        assert_eq!(find(b"\r\r"), Err(HeadFault::BareCr));
        assert_eq!(find(b"\x16\x03\x01\0"), Err(HeadFault::InvalidByte));
        assert_eq!(find(b"GET / HTTP/1.1\r\nA: \0"), Err(HeadFault::InvalidByte));
    }

    #[test]
    fn two_empty_lines_are_skipped_and_a_third_is_refused() {
        assert_eq!(find(b"\r\n\r\n"), Ok(None));
        assert_eq!(find(b"\r\n\r\nA\r\n\r\nrest"), Ok(Some(9)));
        assert_eq!(find(b"\r\n\r\n\r\n"), Err(HeadFault::MalformedRequestLine));
    }

    #[test]
    fn a_long_request_line_is_refused_without_its_end() {
        let limits = Limits { target_max: 10, ..Limits::default() };
        let line_max = 10 + REQUEST_LINE_MARGIN;
        let mut scanner = HeadScanner::default();
        assert_eq!(scanner.find(&vec![b'a'; line_max], &limits), Ok(None));
        let longer = vec![b'a'; line_max + 1];
        assert_eq!(scanner.find(&longer, &limits), Err(HeadFault::TargetTooLong));
        // The same where a later fault is already in sight.
        let faulty = [&longer[..], b"\n"].concat();
        let whole = HeadScanner::default().find(&faulty, &limits);
        assert_eq!(whole, Err(HeadFault::TargetTooLong));
    }

    #[test]
    fn a_head_may_be_as_long_as_head_max_and_not_a_byte_longer() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let limits = |head_max| Limits { head_max, ..Limits::default() };
        let find = |bytes, head_max| HeadScanner::default().find(bytes, &limits(head_max));
        assert_eq!(find(head, head.len()), Ok(Some(head.len())));
        assert_eq!(find(head, head.len() - 1), Err(HeadFault::HeadTooLarge));
        // With a full window and no end, more bytes cannot help.
        assert_eq!(find(&head[..20], 20), Err(HeadFault::HeadTooLarge));
        assert_eq!(find(&head[..20], 21), Ok(None));
        assert_eq!(find(b"", 0), Err(HeadFault::HeadTooLarge));
    }

    #[test]
    fn a_dribbled_head_costs_one_look_at_each_byte() {
        let limits = Limits { head_max: 8 << 20, ..Limits::default() };
        let mut head = b"GET / HTTP/1.1\r\nA: ".to_vec();
        head.resize(4 << 20, b'a');
        let mut scanner = HeadScanner::default();
        for end in 0..head.len() {
            // Four million calls: looking twice at each byte seen before would take hours.
            assert_eq!(scanner.find(&head[..end], &limits), Ok(None));
            assert_eq!(scanner.seen, end - usize::from(head[..end].ends_with(b"\r")));
        }
    }

    #[test]
    fn a_scanner_that_was_reset_finds_the_next_head() {
        let (limits, mut scanner) = (Limits::default(), HeadScanner::default());
        assert_eq!(scanner.find(b"A\r\n\r\n", &limits), Ok(Some(5)));
        scanner.reset();
        assert_eq!(scanner.find(b"\r\nBB\r\n\r\n", &limits), Ok(Some(8)));
    }
}
