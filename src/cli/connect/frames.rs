//! What is on the wire, frame by frame: a reader of its own, which also shows what no rule allows.

use switchpoint::ws::Opcode;

use super::show;

/// Follows the frames of one direction.
#[derive(Debug)]
pub(super) struct Watch {
    arrow: char,
    /// The frame's beginning, until there is enough of it to be shown.
    head: Vec<u8>,
    /// What is left of the frame that was shown.
    skip: u64,
}

impl Watch {
    pub(super) fn new(arrow: char) -> Self {
        Self { arrow, head: Vec::new(), skip: 0 }
    }

    /// Takes the next bytes, and tells of each frame whose beginning is in them, if that `is_wanted`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], is_wanted: bool, mut tell: impl FnMut(String)) {
        loop {
            let skipped = self.skip.min(bytes.len() as u64);
            self.skip -= skipped;
            bytes = &bytes[skipped as usize..];
            let wanted = wanted(&self.head);
            if self.head.len() < wanted {
                if bytes.is_empty() {
                    return;
                }
                let taken = (wanted - self.head.len()).min(bytes.len());
                self.head.extend_from_slice(&bytes[..taken]);
                bytes = &bytes[taken..];
                continue;
            }
            if is_wanted {
                tell(self.line());
            }
            self.skip = self.rest();
            self.head.clear();
        }
    }

    /// How many bytes of the frame are still to come.
    fn rest(&self) -> u64 {
        length(&self.head) - (self.head.len() - size(self.head[1])) as u64
    }

    /// The frame in a line.
    fn line(&self) -> String {
        let [first, second] = [self.head[0], self.head[1]];
        let size = size(second);
        let length = length(&self.head);
        let shown = &self.head[size..];
        let mut payload = shown.to_vec();
        let mask = if second & 0x80 != 0 {
            let key: [u8; 4] = self.head[size - 4..size].try_into().expect("the key is four bytes");
            switchpoint::ws::mask::apply(&mut payload, key, 0);
            show::hex(&key)
        } else {
            "no".to_owned()
        };
        let opcode = first & 15;
        let name = Opcode::new(opcode).map_or("reserved", Opcode::name);
        format!(
            "{} {name}({opcode:#x}) fin={} rsv={:03b} mask={mask} length={length} {}",
            self.arrow,
            first >> 7,
            first >> 4 & 7,
            describe(opcode, first & 0x40 != 0, &payload, self.rest() > 0)
        )
    }
}

fn describe(opcode: u8, is_compressed: bool, payload: &[u8], is_cut: bool) -> String {
    match (opcode, payload) {
        (8, [high, low, reason @ ..]) => {
            let code = u16::from_be_bytes([*high, *low]);
            format!("{code} {}", show::excerpt(reason, is_cut))
        }
        _ if is_compressed => format!("{}{}", show::hex(payload), if is_cut { "…" } else { "" }),
        _ => show::excerpt(payload, is_cut),
    }
}

/// How many bytes the frame that begins with `head` is shown by.
fn wanted(head: &[u8]) -> usize {
    let [_, second, ..] = head else { return 2 };
    let size = size(*second);
    if head.len() < size {
        return size;
    }
    size + usize::try_from(length(head)).unwrap_or(usize::MAX).min(EXCERPT)
}

/// The header's size (RFC 6455 5.2).
fn size(second: u8) -> usize {
    let length = match second & 127 {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    length + if second & 0x80 != 0 { 4 } else { 0 }
}

fn length(head: &[u8]) -> u64 {
    match head[1] & 127 {
        126 => u16::from_be_bytes([head[2], head[3]]).into(),
        127 => u64::from_be_bytes(head[2..10].try_into().expect("the header is there")),
        short => short.into(),
    }
}

/// How much of a payload is shown.
const EXCERPT: usize = 64;

#[cfg(test)]
mod tests {
    use switchpoint::ws::{Opcode, write_frame};

    use super::*;

    fn lines(bytes: &[u8], step: usize) -> Vec<String> {
        let mut watch = Watch::new('<');
        let mut lines = Vec::new();
        bytes.chunks(step).for_each(|chunk| watch.feed(chunk, true, |line| lines.push(line)));
        lines
    }

    #[test]
    fn each_frame_is_a_line_however_it_arrives() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, true, Opcode::Text, "hellö".as_bytes(), None);
        write_frame(&mut bytes, false, Opcode::Binary, &[0xff, 0], Some([1, 2, 3, 4]));
        write_frame(&mut bytes, true, Opcode::Continuation, &[b'x'; 70_000], None);
        write_frame(&mut bytes, true, Opcode::Ping, b"", None);
        write_frame(&mut bytes, true, Opcode::Close, b"\x03\xe8bye", None);
        bytes.extend([0xb3, 0x00]);
        let cut = "x".repeat(64);
        let expected = [
            "< text(0x1) fin=1 rsv=000 mask=no length=6 \"hellö\"",
            "< binary(0x2) fin=0 rsv=000 mask=01020304 length=2 ff00",
            &format!("< continuation(0x0) fin=1 rsv=000 mask=no length=70000 \"{cut}\"…"),
            "< ping(0x9) fin=1 rsv=000 mask=no length=0 \"\"",
            "< close(0x8) fin=1 rsv=000 mask=no length=5 1000 \"bye\"",
            "< reserved(0x3) fin=1 rsv=011 mask=no length=0 \"\"",
        ];
        for step in [1, 2, 3, 7, 100, bytes.len()] {
            assert_eq!(lines(&bytes, step), expected, "{step}");
        }
    }

    #[test]
    fn the_longest_length_is_only_a_number() {
        let line = lines(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255], 3);
        assert_eq!(line, Vec::<String>::new());
        let mut bytes = vec![0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255];
        bytes.extend([b'x'; 64]);
        assert!(lines(&bytes, 9)[0].contains("length=18446744073709551615"));
    }
}
