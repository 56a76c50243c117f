//! RFC 9112 requests without I/O: bytes in, a [`Head`] and its body out, or a fault that names the
//! rule that was broken.
//!
//! The bytes pass through three hands, each with its own bound:
//!
//! ```text
//! POST /chat HTTP/1.1␍␊Host: a␍␊Content-Length: 5␍␊␍␊hello\x81\x85
//! └─ HeadScanner finds the end, Head::parse judges ─┘└─┬─┘└─ another protocol's
//!                                                      BodyReader
//! ```
//!
//! The one idea: where two readers of HTTP could disagree about where something ends, we refuse.
//! Most request smuggling is a lenient reader behind a strict one, or the other way round (RFC 9112
//! section 11.2), and what follows a request here is another protocol's bytes. So there is no
//! lenient mode; there is a fault for each rule instead, so that the sender learns which one it was.
//!
//! | file         | what is in it                                                    |
//! |--------------|------------------------------------------------------------------|
//! | `scan.rs`    | the end of the head, looked for once while it dribbles in        |
//! | `head.rs`    | the request line, and what the fields mean for the message       |
//! | `framing.rs` | where the body ends, told from the fields                        |
//! | `target.rs`  | the four forms of a request target, and what an authority is     |
//! | `fields.rs`  | the field lines, looked up by name                               |
//! | `list.rs`    | `#rule` lists and the parameters of their items (RFC 9110 5.6)   |
//! | `body.rs`    | the body, by length or in chunks                                 |
//! | `fault.rs`   | everything that can be wrong: status, reason code, sentence      |

mod body;
mod fault;
mod fields;
mod framing;
mod head;
pub mod list;
mod scan;
pub(crate) mod target;

pub use body::{BodyReader, Progress};
pub use fault::{BodyFault, HeadFault};
pub use fields::{Fields, Repeated};
pub use framing::Framing;
pub use head::{Head, Version};
pub use scan::HeadScanner;
pub use target::Target;

/// What a request head may cost us. Whatever is longer is refused before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in a head, from its first to its blank line.
    pub head_max: usize,
    /// Field lines in a head.
    pub fields_max: usize,
    /// Bytes in a request target. RFC 9112 section 3 wants request lines of 8000 to be possible.
    pub target_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_max: 16 * 1024, fields_max: 100, target_max: 8192 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\r\nGET /chat?a=b&c HTTP/1.1\r\nHost: a:80\r\nUpgrade: foo/1, bar\r\nConnection: upgrade\r\n\r\n",
        b"POST http://a/b HTTP/1.1\r\nhost:a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
        b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\nContent-Length: 5\r\n\r\n",
        b"OPTIONS * HTTP/1.0\r\nX-Quoted: \"a, \\\"b\", c\r\nX-Empty:\r\n\r\n",
    ];

    const CHUNKED: &[u8] = b"5;a=\"b\"\r\nhello\r\n0B ;c\r\n, the world\r\n000\r\nTrailer: dropped\r\n\r\n";

    #[test]
    fn a_head_cut_at_every_byte_ends_where_the_whole_one_does() {
        let limits = Limits::default();
        for head in HEADS {
            // What follows is the new protocol's; even a NUL there is none of our business.
            let stream = [*head, b"\0\n\r\xff"].concat();
            for cut in 0..stream.len() {
                let mut scanner = HeadScanner::default();
                let first = scanner.find(&stream[..cut], &limits).unwrap();
                assert_eq!(first, (cut >= head.len()).then_some(head.len()));
                assert_eq!(scanner.find(&stream, &limits), Ok(Some(head.len())), "cut at {cut}");
            }
            assert!(Head::parse(head, &limits).is_ok(), "{}", head.escape_ascii());
        }
    }

    #[test]
    fn a_fault_does_not_depend_on_where_the_bytes_were_cut() {
        let limits = Limits { head_max: 160, fields_max: 8, target_max: 16 };
        let mut random = Random(0x5eed);
        for round in 0..2_000 {
            let stream = random.mutated(HEADS[round % HEADS.len()]);
            let whole = HeadScanner::default().find(&stream, &limits);
            let mut scanner = HeadScanner::default();
            let dribbled = (0..=stream.len())
                .find_map(|end| scanner.find(&stream[..end], &limits).transpose())
                .transpose();
            assert_eq!(dribbled, whole, "round {round}: {}", stream.escape_ascii());
        }
    }

    #[test]
    fn mutated_requests_never_panic_and_what_is_accepted_is_what_was_scanned() {
        let limits = Limits { head_max: 512, ..Limits::default() };
        let (seed, mut accepted) = (0xfeed_f00d, 0);
        let mut random = Random(seed);
        for round in 0..10_000 {
            let stream = random.mutated(HEADS[round % HEADS.len()]);
            // `parse` must stand on its own, also where the scanner has said no.
            let direct = Head::parse(&stream, &limits);
            match HeadScanner::default().find(&stream, &limits) {
                Ok(Some(end)) => {
                    let Ok(head) = Head::parse(&stream[..end], &limits) else {
                        continue;
                    };
                    accepted += 1;
                    assert!(list::is_token(head.method));
                    assert!(head.version == Version::Http10 || head.authority().is_some());
                    let mut reader = BodyReader::new(head.framing, 64).unwrap();
                    let _ = reader.read(&stream[end..], &mut Vec::new());
                }
                _ => assert!(direct.is_err(), "seed {seed:#x}: {}", stream.escape_ascii()),
            }
        }
        assert!(accepted > 1_000, "the mutations are so wild that they test little: {accepted}");
    }

    #[test]
    fn mutated_bodies_never_panic_nor_grow_past_their_limit() {
        let seed = 0xb0d1e5;
        let mut random = Random(seed);
        for _ in 0..10_000 {
            let stream = random.mutated(CHUNKED);
            let mut body = Vec::new();
            let mut reader = BodyReader::new(Framing::Chunked, 20).unwrap();
            if let Ok(progress) = reader.read(&stream, &mut body) {
                assert!(progress.consumed <= stream.len());
                assert!(progress.done || progress.consumed == stream.len());
            }
            assert!(body.len() <= 20, "seed {seed:#x}: {}", stream.escape_ascii());
        }
    }

    /// xorshift64: the same numbers on every machine, so that a printed seed is a whole report.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as usize % bound
        }

        /// `bytes` with none to three faults, mostly of the bytes that the grammar cares about.
        fn mutated(&mut self, bytes: &[u8]) -> Vec<u8> {
            const SPICE: &[u8] = b"\r\n\0 \t:;,\"\\/#*[]0f\x7f\xff";
            let mut bytes = bytes.to_vec();
            for _ in 0..self.below(4) {
                let at = self.below(bytes.len());
                match self.below(5) {
                    0 => bytes[at] = self.below(256) as u8,
                    1 => bytes[at] = SPICE[self.below(SPICE.len())],
                    2 => bytes.insert(at, SPICE[self.below(SPICE.len())]),
                    3 => _ = bytes.remove(at),
                    _ => bytes.extend_from_within(at..),
                }
            }
            bytes
        }
    }
}
