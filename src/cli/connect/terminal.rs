//! The terminal: keys as they are typed, the line that is edited below what is printed, and a history that is kept.

use std::{
    env, fs,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    process::{Signal, getpid, kill_process},
    termios::{
        InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize,
        tcsetattr,
    },
};

use super::editor::{Editor, Typed, is_kept};

/// Standard input and output, as one terminal. When this is dropped, it is as it was.
pub(super) struct Terminal {
    editor: Editor,
    /// Where its lines are kept.
    history: Option<PathBuf>,
    before: Termios,
}

impl Terminal {
    /// Takes over the terminal; what has to be written to it first comes with it.
    ///
    /// # Errors
    /// If it is none, or one that cannot move its cursor.
    pub(super) fn new(keeps_history: bool) -> io::Result<(Self, String)> {
        if env::var_os("TERM").is_none_or(|term| term == "dumb") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let before = tcgetattr(io::stdin())?;
        let history = if keeps_history { history_file() } else { None };
        let lines = history.as_deref().map(load).unwrap_or_default();
        let mut terminal = Self { editor: Editor::new(lines), history, before };
        terminal.enter()?;
        let line = terminal.editor.draw(terminal.columns());
        Ok((terminal, format!("{PASTE_ON}{line}")))
    }

    /// Keys come at once, and all of them as bytes; what is written stays as it is.
    fn enter(&self) -> io::Result<()> {
        let mut termios = self.before.clone();
        termios.input_modes -= InputModes::ICRNL | InputModes::INLCR | InputModes::IXON | InputModes::ISTRIP;
        termios.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::IEXTEN | LocalModes::ISIG;
        termios.special_codes[SpecialCodeIndex::VMIN] = 1;
        termios.special_codes[SpecialCodeIndex::VTIME] = 0;
        Ok(tcsetattr(io::stdin(), OptionalActions::Drain, &termios)?)
    }

    fn leave(&self) {
        // Without a terminal there is nothing to be put right.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }

    fn columns(&self) -> u16 {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 => size.ws_col,
            _ => 80,
        }
    }

    /// Reads what was typed: what it led to, and what has to be written. `None` at the end.
    pub(super) fn read(&mut self) -> io::Result<Option<(Vec<Typed>, String)>> {
        let mut bytes = [0; 1024];
        let count = rustix::io::read(io::stdin(), &mut bytes)?;
        if count == 0 {
            return Ok(None);
        }
        let mut out = self.editor.erase();
        let mut lines = Vec::new();
        for typed in self.editor.types(&bytes[..count]) {
            match typed {
                Typed::Line(line) => {
                    out += &self.editor.finish(&line, self.columns());
                    self.keep(&line);
                    lines.push(Typed::Line(line));
                }
                Typed::Clear => out += "\x1b[H\x1b[2J",
                Typed::End | Typed::Suspend => lines.push(typed),
            }
        }
        out += &self.editor.draw(self.columns());
        Ok(Some((lines, out)))
    }

    /// Stops, as any program does by Ctrl-Z; what has to be written when it goes on.
    pub(super) fn suspend(&mut self) -> String {
        self.leave();
        // It comes back when somebody brings it to the foreground.
        let _ = kill_process(getpid(), Signal::TSTP);
        let _ = self.enter();
        self.redraw()
    }

    /// A text above the line, which is drawn again below it.
    pub(super) fn above(&mut self, text: &str) -> String {
        let end = if text.ends_with('\n') { "" } else { "\n" };
        format!("{}{text}{end}{}", self.editor.erase(), self.editor.draw(self.columns()))
    }

    fn redraw(&mut self) -> String {
        format!("{}{}", self.editor.erase(), self.editor.draw(self.columns()))
    }

    /// What takes the line away at the end.
    pub(super) fn erase(&mut self) -> String {
        format!("{}{PASTE_OFF}", self.editor.erase())
    }

    /// After each line, because nobody knows which is the last. A history that cannot be kept is no reason to stop.
    fn keep(&self, line: &str) {
        if let Some(path) = self.history.as_deref().filter(|_| is_kept(line)) {
            let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
            drop(file.and_then(|mut file| writeln!(file, "{line}")));
        }
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        rustix::stdio::stdin()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Pasted text is marked as such.
const PASTE_ON: &str = "\x1b[?2004h";
const PASTE_OFF: &str = "\x1b[?2004l";

/// In `$XDG_STATE_HOME`, or `~/.local/state`; `None` if there is no such place.
fn history_file() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let folder = state.join("switchpoint");
    fs::create_dir_all(&folder).ok()?;
    Some(folder.join("connect_history"))
}

/// The last lines of the history. A file that has grown to twice as many is cut to them.
fn load(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| is_kept(line)).collect();
    let last = &lines[lines.len().saturating_sub(HISTORY_LINES)..];
    if lines.len() > 2 * HISTORY_LINES {
        drop(fs::write(path, last.join("\n") + "\n"));
    }
    last.iter().map(|line| (*line).to_owned()).collect()
}

const HISTORY_LINES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_that_has_grown_is_cut_to_its_last_lines() {
        let path = env::temp_dir().join(format!("switchpoint-history-{}", std::process::id()));
        let text: String = (0..2 * HISTORY_LINES + 1).map(|number| format!("line {number}\n")).collect();
        fs::write(&path, text).unwrap();
        let lines = load(&path);
        assert_eq!((lines.len(), &*lines[0]), (HISTORY_LINES, "line 1001"));
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), HISTORY_LINES);
        fs::remove_file(&path).unwrap();
        assert_eq!(load(&path), Vec::<String>::new());
    }
}
