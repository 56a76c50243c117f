//! Seeded choices, and what they do to bytes that were valid.

/// SplitMix64: small, seeded, good enough to choose by.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `count`; 0 where there is none.
    pub fn below(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }

    /// True once in `count` times.
    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// One of several, of which there is at least one.
    pub fn pick<T: Clone>(&mut self, several: &[T]) -> T {
        several[self.below(several.len())].clone()
    }

    /// Fewer than `max` bytes, of any kind.
    pub fn bytes(&mut self, max: usize) -> Vec<u8> {
        (0..self.below(max)).map(|_| self.next() as u8).collect()
    }

    /// The bytes cut in two, a few, or very many pieces; some of them may be empty.
    pub fn pieces<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let longest = match self.below(3) {
            0 => 2,
            1 => 9,
            _ => bytes.len() + 1,
        };
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.below(longest + 1).min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }

    /// One of the `seeds`, or two, changed in a few places; at times something else altogether.
    pub fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        if self.one_in(16) {
            return self.bytes(64);
        }
        let mut bytes = self.pick(seeds);
        if self.one_in(4) {
            bytes.extend(self.pick(seeds));
        }
        for _ in 0..self.below(5) {
            self.mutate(&mut bytes, seeds);
        }
        bytes
    }

    /// Changes one thing.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(bytes.len());
        let end = (at + self.below(17)).min(bytes.len());
        match self.below(10) {
            0 => bytes[at..end].iter_mut().take(1).for_each(|byte| *byte ^= 1 << self.below(8)),
            1 => bytes[at..end].iter_mut().take(1).for_each(|byte| *byte = self.pick(BYTES)),
            2 => drop(bytes.splice(at..at, self.pick(WORDS).bytes())),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.extend_from_within(at..end),
            5 => bytes[at..end]
                .iter_mut()
                .for_each(|byte| *byte ^= if byte.is_ascii_alphabetic() { 0x20 } else { 0 }),
            6 if !seeds.is_empty() => {
                let other = self.pick(seeds);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[self.below(other.len())..]);
            }
            way => {
                // A line more, or a line less.
                let mut lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
                let line = self.below(lines.len());
                match way {
                    6 => {}
                    7 if !lines.is_empty() => lines.insert(self.below(lines.len()), lines[line]),
                    8 if !lines.is_empty() => drop(lines.remove(line)),
                    _ => lines.insert(line.max(1).min(lines.len()), self.pick(LINES).as_bytes()),
                }
                *bytes = lines.concat();
            }
        }
    }
}

const BYTES: &[u8] = b"\0\t\n\r \"%,/:;=\\\x7f\x80\xff0A";

const WORDS: &[&str] = &[
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    ",",
    ";",
    "=",
    "\"",
    "\\",
    ": ",
    "\0",
    "é",
    "🦀",
    "10",
    "ffffffffffffffff",
    ";a=b",
    "?a=b",
    "http://a",
    "/2",
    "upgrade, ",
    ", echo",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "\x7e\0",
    "\x7f\0\0\0",
    "; server_max_window_bits=9",
    "; client_max_window_bits",
    "; server_no_context_takeover",
    ", permessage-deflate",
];

const LINES: &[&str] = &[
    "\r\n",
    " folded\r\n",
    "Accept: application/problem+json\r\n",
    "Connection: close\r\n",
    "Connection: upgrade\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 99999999999999999999\r\n",
    "Expect: 100-continue\r\n",
    "Host: b\r\n",
    "Origin: http://b\r\n",
    "Sec-WebSocket-Extensions: permessage-deflate\r\n",
    "Sec-WebSocket-Protocol: switchpoint.handshake\r\n",
    "Sec-WebSocket-Version: 8\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip\r\n",
    "Upgrade: echo\r\n",
    "Upgrade: websocket\r\n",
];
