//! How bytes are shown to people, and read from them.

use std::fmt::Write;

/// Text for a terminal: what a peer sends must not move the cursor, or worse.
pub(in crate::cli) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' | '\t' => out.push(char),
            char if char.is_control() => out.extend(char.escape_default()),
            char => out.push(char),
        }
    }
    out
}

/// Bytes as a dump of sixteen a line: place, hex, and what is ASCII. Of more than `most` bytes it says how many there are.
pub(super) fn dump(bytes: &[u8], most: usize) -> String {
    let mut out = String::new();
    for (line, chunk) in bytes[..bytes.len().min(most)].chunks(16).enumerate() {
        let _ = write!(out, "{:08x} ", line * 16);
        for place in 0..16 {
            let gap = if place == 8 { " " } else { "" };
            let _ = match chunk.get(place) {
                Some(byte) => write!(out, "{gap} {byte:02x}"),
                None => write!(out, "{gap}   "),
            };
        }
        out.push_str("  |");
        out.extend(
            chunk.iter().map(
                |byte| {
                    if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }
                },
            ),
        );
        out.push_str("|\n");
    }
    if bytes.len() > most {
        let _ = writeln!(out, "… {} bytes more", bytes.len() - most);
    }
    out.pop();
    out
}

/// Bytes as hex digits without anything between them.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Reads hex digits, with or without `0x`, spaces, colons or commas between the bytes.
pub(super) fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text
        .split([' ', '\t', ':', ','])
        .flat_map(|part| part.strip_prefix("0x").unwrap_or(part).bytes())
        .collect();
    let wrong = || format!("{text:?} is not hex: two digits a byte, such as 0a ff, or @FILE");
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    if !digits.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let byte = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    digits.chunks(2).map(|pair| byte(pair).ok_or_else(wrong)).collect()
}

/// The beginning of a payload: as text if it is that, else as hex.
pub(in crate::cli) fn excerpt(bytes: &[u8], is_cut: bool) -> String {
    let end = if is_cut { "…" } else { "" };
    let text = match str::from_utf8(bytes) {
        Ok(text) => Some(text),
        // The cut may have gone through a character.
        Err(error) if is_cut && error.error_len().is_none() => {
            str::from_utf8(&bytes[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    match text.filter(|text| !text.chars().any(|char| char.is_control() && !"\n\r\t".contains(char))) {
        Some(text) => format!("{text:?}{end}"),
        None => format!("{}{end}", hex(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(printable("a\u{1b}[31m\r\nb\tü\u{9b}"), "a\\u{1b}[31m\\r\nb\tü\\u{9b}");
    }

    #[test]
    fn a_dump_has_sixteen_bytes_a_line() {
        let bytes: Vec<u8> = (60..80).collect();
        assert_eq!(
            dump(&bytes, 100),
            "00000000  3c 3d 3e 3f 40 41 42 43  44 45 46 47 48 49 4a 4b  |<=>?@ABCDEFGHIJK|\n\
             00000010  4c 4d 4e 4f                                       |LMNO|"
        );
        assert!(dump(&bytes, 16).ends_with("\n… 4 bytes more"));
        assert_eq!(dump(b"", 16), "");
    }

    #[test]
    fn hex_is_read_as_people_write_it() {
        for text in ["0aff00", "0a ff 00", "0x0a 0xff 0x00", "0A:FF:00", "0a,ff,00"] {
            assert_eq!(parse_hex(text), Ok(vec![10, 255, 0]), "{text}");
        }
        assert_eq!(parse_hex(""), Ok(vec![]));
        for wrong in ["0", "0g", "zz", "0a f", "ä"] {
            assert!(parse_hex(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_excerpt_is_text_or_hex() {
        assert_eq!(excerpt(b"a\"b\n", false), "\"a\\\"b\\n\"");
        assert_eq!(excerpt("aü".as_bytes().split_last().unwrap().1, true), "\"a\"…");
        assert_eq!(excerpt(b"\xff\x00", false), "ff00");
    }
}
