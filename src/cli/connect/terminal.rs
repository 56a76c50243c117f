//! The prompt: a line editor with a history, and the terminal as it was when it is over.

use std::{
    env, fs,
    io::{self, Write},
    path::PathBuf,
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::{Config, DefaultEditor, ExternalPrinter, error::ReadlineError};

/// The editor, for the thread that reads.
pub(super) struct Editor {
    editor: DefaultEditor,
    history: Option<PathBuf>,
}

impl Editor {
    /// With what prints above its line.
    ///
    /// # Errors
    /// On a terminal that cannot edit.
    pub(super) fn new(keeps_history: bool) -> Result<(Self, Box<dyn ExternalPrinter + Send>), ReadlineError> {
        let config = Config::builder()
            .auto_add_history(true)
            .history_ignore_space(true)
            .max_history_size(HISTORY_LINES)?
            .build();
        let mut editor = DefaultEditor::with_config(config)?;
        let printer = Box::new(editor.create_external_printer()?);
        let history = if keeps_history { history_file() } else { None };
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        Ok((Self { editor, history }, printer))
    }

    /// Reads lines until Ctrl-C or Ctrl-D, or until `give` says that nobody takes them.
    pub(super) fn read(mut self, mut give: impl FnMut(String) -> bool) -> io::Result<()> {
        loop {
            match self.editor.readline(PROMPT) {
                Ok(line) => {
                    // After each line, because the process may end while it waits for the next. A history that cannot
                    // be kept is no reason to stop.
                    if let Some(path) = &self.history {
                        let _ = self.editor.append_history(path);
                    }
                    if !give(line) {
                        return Ok(());
                    }
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(()),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

const PROMPT: &str = "> ";
const HISTORY_LINES: usize = 1000;

/// In `$XDG_STATE_HOME`, or `~/.local/state`; `None` if there is no such place.
fn history_file() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let folder = state.join("switchpoint");
    fs::create_dir_all(&folder).ok()?;
    Some(folder.join("connect_history"))
}

/// The terminal's settings, put back when this is dropped: the editor's thread is still at its prompt then.
pub(super) struct Saved(Option<Termios>);

impl Saved {
    pub(super) fn new() -> Self {
        Self(tcgetattr(io::stdin()).ok())
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        if let Some(termios) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, termios);
        }
        // The prompt goes, and the mode in which pasted text is marked.
        drop(write!(io::stdout(), "\r\x1b[K\x1b[?2004l"));
        drop(io::stdout().flush());
    }
}
