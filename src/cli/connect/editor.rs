//! A line editor without I/O: keys in, lines out, and what has to be written for the terminal to show it.
//!
//! Whoever prints something else in between [erases](Editor::erase) the line, prints, and [draws](Editor::draw) it again.

use unicode_width::UnicodeWidthChar;

/// The line that is typed, and those before it.
#[derive(Debug, Default)]
pub(super) struct Editor {
    line: String,
    /// Where the cursor is, in bytes.
    at: usize,
    history: Vec<String>,
    /// Which line of the history is shown; its length for the new one.
    shown: usize,
    /// The new line, while another is shown.
    kept: String,
    /// What was last cut.
    cut: String,
    /// Bytes of a key that is not whole.
    partial: Vec<u8>,
    is_pasting: bool,
    columns: usize,
    /// On which of the rows that were drawn the cursor is; `None` if nothing is drawn.
    row: Option<usize>,
}

/// What a key has led to, besides a changed line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    Line(String),
    /// Ctrl-C, or Ctrl-D on an empty line.
    End,
    /// Ctrl-Z.
    Suspend,
    /// Ctrl-L.
    Clear,
}

/// A key, as far as it means something.
enum Key {
    Char(char),
    Control(u8),
    /// With Alt.
    Alt(u8),
    /// A sequence: its last byte, and its first number.
    Sequence(u8, u16),
    Unknown,
}

impl Editor {
    pub(super) fn new(history: Vec<String>) -> Self {
        Self { shown: history.len(), history, ..Self::default() }
    }

    /// Takes the next bytes of the terminal.
    pub(super) fn types(&mut self, bytes: &[u8]) -> Vec<Typed> {
        self.partial.extend_from_slice(bytes);
        let mut typed = Vec::new();
        let keys = std::mem::take(&mut self.partial);
        let mut rest = &keys[..];
        while let Some((key, size)) = key(rest) {
            rest = &rest[size..];
            typed.extend(self.press(key));
        }
        self.partial = rest.to_owned();
        typed
    }

    fn press(&mut self, key: Key) -> Option<Typed> {
        match key {
            Key::Sequence(b'~', 200) => self.is_pasting = true,
            Key::Sequence(b'~', 201) => self.is_pasting = false,
            // What is pasted is one line, whatever is in it.
            Key::Control(b'\r') if self.is_pasting => self.insert('\n'),
            Key::Control(byte @ (b'\n' | b'\t')) if self.is_pasting => self.insert(char::from(byte)),
            Key::Control(_) | Key::Alt(_) if self.is_pasting => {}
            Key::Char(char) => self.insert(char),
            Key::Control(b'\r' | b'\n') => return Some(Typed::Line(self.enter())),
            Key::Control(byte) => return self.control(byte | 0x40),
            Key::Alt(b'b') | Key::Sequence(b'D', 1) => self.at = self.word_before(),
            Key::Alt(b'f') | Key::Sequence(b'C', 1) => self.at = self.word_behind(),
            Key::Alt(b'd') => self.cut(self.at, self.word_behind()),
            Key::Alt(0x7f | 8) => self.cut(self.word_before(), self.at),
            Key::Sequence(b'A', _) => self.show(self.shown.saturating_sub(1)),
            Key::Sequence(b'B', _) => self.show(self.shown + 1),
            Key::Sequence(b'C', _) => self.at = self.behind(),
            Key::Sequence(b'D', _) => self.at = self.before(),
            Key::Sequence(b'H', _) | Key::Sequence(b'~', 1 | 7) => self.at = 0,
            Key::Sequence(b'F', _) | Key::Sequence(b'~', 4 | 8) => self.at = self.line.len(),
            Key::Sequence(b'~', 3) => self.remove(self.at, self.behind()),
            Key::Alt(_) | Key::Sequence(..) | Key::Unknown => {}
        }
        None
    }

    /// A control key, by its letter.
    fn control(&mut self, letter: u8) -> Option<Typed> {
        match letter {
            b'A' => self.at = 0,
            b'B' => self.at = self.before(),
            b'C' => return Some(Typed::End),
            b'D' if self.line.is_empty() => return Some(Typed::End),
            b'D' => self.remove(self.at, self.behind()),
            b'E' => self.at = self.line.len(),
            b'F' => self.at = self.behind(),
            b'H' | 0x7f => self.remove(self.before(), self.at),
            b'K' => self.cut(self.at, self.line.len()),
            b'L' => return Some(Typed::Clear),
            b'N' => self.show(self.shown + 1),
            b'P' => self.show(self.shown.saturating_sub(1)),
            b'U' => self.cut(0, self.at),
            b'W' => self.cut(self.word_before(), self.at),
            b'Y' => {
                self.line.insert_str(self.at, &self.cut);
                self.at += self.cut.len();
            }
            b'Z' => return Some(Typed::Suspend),
            _ => {}
        }
        None
    }

    fn enter(&mut self) -> String {
        let line = std::mem::take(&mut self.line);
        self.at = 0;
        if is_kept(&line) && self.history.last() != Some(&line) {
            self.history.push(line.clone());
        }
        self.shown = self.history.len();
        self.kept.clear();
        line
    }

    /// Shows a line of the history, or the new one behind it.
    fn show(&mut self, place: usize) {
        if place > self.history.len() || place == self.shown {
            return;
        }
        if self.shown == self.history.len() {
            self.kept = std::mem::take(&mut self.line);
        }
        self.shown = place;
        self.line = self.history.get(place).unwrap_or(&self.kept).clone();
        self.at = self.line.len();
    }

    fn insert(&mut self, char: char) {
        if self.line.len() < LINE_MAX {
            self.line.insert(self.at, char);
            self.at += char.len_utf8();
        }
    }

    fn remove(&mut self, start: usize, end: usize) {
        self.line.drain(start..end);
        self.at = start;
    }

    fn cut(&mut self, start: usize, end: usize) {
        if start < end {
            self.cut = self.line[start..end].to_owned();
            self.remove(start, end);
        }
    }

    /// A character to the left, with the marks that stand upon it.
    fn before(&self) -> usize {
        let mut chars = self.line[..self.at].char_indices().rev();
        chars.find(|(_, char)| width(*char) > 0).map_or(0, |(place, _)| place)
    }

    fn behind(&self) -> usize {
        let mut chars = self.line[self.at..].char_indices().skip(1);
        chars.find(|(_, char)| width(*char) > 0).map_or(self.line.len(), |(place, _)| self.at + place)
    }

    fn word_before(&self) -> usize {
        let before = self.line[..self.at].trim_end();
        before
            .rfind(char::is_whitespace)
            .map_or(0, |place| place + before[place..].chars().next().map_or(0, char::len_utf8))
    }

    fn word_behind(&self) -> usize {
        let rest = &self.line[self.at..];
        let start = rest.len() - rest.trim_start().len();
        self.at + rest[start..].find(char::is_whitespace).map_or(rest.len(), |end| start + end)
    }

    // ---- shown --------------------------------------------------------------------------------------------------

    /// What takes the line off the terminal; the cursor is where the line began.
    pub(super) fn erase(&mut self) -> String {
        match self.row.take() {
            None => String::new(),
            Some(0) => "\r\x1b[J".into(),
            Some(row) => format!("\r\x1b[{row}A\x1b[J"),
        }
    }

    /// What shows the line on a terminal of so many columns, from the beginning of a row on.
    pub(super) fn draw(&mut self, columns: u16) -> String {
        self.columns = usize::from(columns).max(2);
        let mut out = String::from(PROMPT);
        let (mut row, mut column) = (0, PROMPT.len());
        let mut cursor = (row, column);
        for (place, char) in self.line.char_indices() {
            let width = width(char);
            if column + width > self.columns {
                (row, column) = (row + 1, 0);
            }
            if place == self.at {
                cursor = (row, column);
            }
            out.push(picture(char));
            column += width;
        }
        if column == self.columns {
            // The terminal waits for one character more before it goes to the next row.
            out.push_str("\r\n");
            (row, column) = (row + 1, 0);
        }
        if self.at == self.line.len() {
            cursor = (row, column);
        }
        if cursor.0 == row && cursor.1 == self.columns {
            cursor = (row + 1, 0);
        }
        if row > cursor.0 {
            out += &format!("\x1b[{}A", row - cursor.0);
        }
        if (row, column) != cursor {
            out += &format!("\x1b[{}G", cursor.1 + 1);
        }
        self.row = Some(cursor.0);
        out
    }

    /// What ends the line that is shown, so that it stays.
    pub(super) fn finish(&mut self, line: &str, columns: u16) -> String {
        let mut out = self.erase();
        // As it was entered, with the cursor behind it.
        let (now, at) = (std::mem::replace(&mut self.line, line.to_owned()), self.at);
        self.at = self.line.len();
        out += &self.draw(columns);
        (self.line, self.at) = (now, at);
        self.row = None;
        out.push_str("\r\n");
        out
    }
}

const PROMPT: &str = "> ";
/// The longest line that can be typed or pasted.
const LINE_MAX: usize = 1 << 20;

/// Whether a line goes into the history: not one that begins with a space, and none of several lines.
pub(super) fn is_kept(line: &str) -> bool {
    !line.is_empty() && !line.starts_with(' ') && !line.contains(char::is_control)
}

fn width(char: char) -> usize {
    picture(char).width().unwrap_or(0)
}

/// What stands for a character: for a control character its picture.
fn picture(char: char) -> char {
    match char as u32 {
        code @ 0..32 => char::from_u32(0x2400 + code).unwrap_or(char),
        0x7f..=0x9f => '\u{fffd}',
        _ => char,
    }
}

/// The first key in `bytes`, and its size; `None` if more is to come.
fn key(bytes: &[u8]) -> Option<(Key, usize)> {
    let first = *bytes.first()?;
    match first {
        0x1b => escape(bytes),
        0..32 | 0x7f => Some((Key::Control(first), 1)),
        _ => {
            let size = match first {
                0xc0..0xe0 => 2,
                0xe0..0xf0 => 3,
                0xf0.. => 4,
                _ => 1,
            };
            match str::from_utf8(bytes.get(..size)?) {
                Ok(text) => Some((text.chars().next().map_or(Key::Unknown, Key::Char), size)),
                Err(_) => Some((Key::Unknown, 1)),
            }
        }
    }
}

/// `ESC [ … letter`, `ESC O letter`, or a key with Alt.
fn escape(bytes: &[u8]) -> Option<(Key, usize)> {
    match *bytes.get(1)? {
        b'O' => Some((Key::Sequence(*bytes.get(2)?, 0), 3)),
        b'[' => {
            let end = bytes[2..].iter().position(|byte| (0x40..0x7f).contains(byte));
            let Some(end) = end else {
                // Nothing that a terminal sends is that long.
                return (bytes.len() > 32).then_some((Key::Unknown, bytes.len()));
            };
            let parameters = &bytes[2..2 + end];
            let first = parameters.split(|byte| *byte == b';').next().unwrap_or_default();
            let number = str::from_utf8(first).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            Some((Key::Sequence(bytes[2 + end], number), 3 + end))
        }
        byte => Some((Key::Alt(byte), 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was entered after these keys.
    fn entered(keys: &str) -> String {
        let mut editor = Editor::new(vec!["first".into(), "second".into()]);
        let mut typed = editor.types(format!("{keys}\r").as_bytes());
        match typed.pop() {
            Some(Typed::Line(line)) => line,
            other => panic!("{keys:?}: {other:?}"),
        }
    }

    #[test]
    fn keys_edit_the_line() {
        for (keys, line) in [
            ("abc", "abc"),
            ("ac\x1b[Db", "abc"),
            ("bc\x01a", "abc"),
            ("bc\x1b[Ha\x1b[Fd", "abcd"),
            ("abx\x7fc", "abc"),
            ("xabc\x01\x1b[3~", "abc"),
            ("xabc\x01\x04", "abc"),
            ("one two\x17three", "one three"),
            ("one two\x1bb\x1b\x7f", "two"),
            ("one two\x01\x1bd", " two"),
            ("one two\x01\x1b[1;5C!", "one! two"),
            ("one two\x1b[1;5D!", "one !two"),
            ("ab\x02\x0b.\x19", "a.b"),
            ("ab\x15c\x19", "cab"),
            ("ü€😀\x7f\x1b[D\x7f", "€"),
            ("e\u{301}x\x1b[D\x1b[D!", "!e\u{301}x"),
            ("\x1bOHa\x1b[99~\x1b[<1;2;3Mb", "ab"),
        ] {
            assert_eq!(entered(keys), line, "{keys:?}");
        }
    }

    #[test]
    fn keys_may_arrive_in_pieces() {
        let mut editor = Editor::default();
        for byte in "ü\x1b[D\x1b[200~a\rb\x1b[201~\x1b[F€".bytes() {
            assert_eq!(editor.types(&[byte]), []);
        }
        assert_eq!(editor.types(b"\r\rx"), [Typed::Line("a\nbü€".into()), Typed::Line(String::new())]);
        assert_eq!(editor.line, "x");
    }

    #[test]
    fn the_history_is_gone_through_and_back() {
        assert_eq!(entered("\x1b[A"), "second");
        assert_eq!(entered("\x1b[A\x1b[A\x1b[A"), "first");
        assert_eq!(entered("new\x10\x10\x0e!"), "second!");
        assert_eq!(entered("new\x1b[A\x1b[B"), "new");
        assert_eq!(entered("\x1b[B"), "");
        let mut editor = Editor::default();
        editor.types(b"a\ra\r secret\rb\r\r");
        assert_eq!(editor.history, ["a", "b"]);
    }

    #[test]
    fn other_keys_are_told() {
        let mut editor = Editor::default();
        assert_eq!(editor.types(b"\x04\x03\x1a\x0c"), [Typed::End, Typed::End, Typed::Suspend, Typed::Clear]);
        assert_eq!(editor.types(b"a\x04"), [], "only on an empty line");
    }

    #[test]
    fn a_long_line_takes_rows_and_gives_them_back() {
        let mut editor = Editor::default();
        assert_eq!(editor.erase(), "", "there is nothing yet");
        assert_eq!(editor.draw(10), "> ");
        assert_eq!(editor.erase(), "\r\x1b[J");
        editor.types(b"abc");
        editor.types(b"\x1b[D");
        assert_eq!(editor.draw(10), "> abc\x1b[5G");
        editor.types(b"\x1b[Fdefgh");
        assert_eq!(editor.draw(10), "> abcdefgh\r\n");
        assert_eq!(editor.erase(), "\r\x1b[1A\x1b[J");
        editor.types(b"i\x01");
        assert_eq!(editor.draw(10), "> abcdefghi\x1b[1A\x1b[3G");
        assert_eq!(editor.erase(), "\r\x1b[J");
        editor.types("\x15\x0b漢字漢字漢".as_bytes());
        // A wide character that has no room goes to the next row whole.
        assert_eq!(editor.draw(9), "> 漢字漢字漢");
        assert_eq!(editor.row, Some(1));
    }

    #[test]
    fn a_control_character_is_shown_as_its_picture() {
        let mut editor = Editor::default();
        editor.types(b"\x1b[200~a\nb\tc\x1b[201~");
        assert_eq!(editor.draw(80), "> a␊b␉c");
        assert_eq!(editor.finish("x", 80), "\r\x1b[J> x\r\n");
        assert_eq!(editor.line, "a\nb\tc");
    }
}
