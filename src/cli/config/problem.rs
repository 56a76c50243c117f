//! What is wrong with what the program was told: where it stands, and what would be right.

use std::{fmt, ops::Range};

/// A file of settings.
#[derive(Debug)]
pub(super) struct File {
    /// As it was named.
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    /// Line and column of a place, each from 1.
    pub(super) fn line_and_column(&self, at: usize) -> (usize, usize) {
        let boundary = (0..=at.min(self.text.len())).rev().find(|at| self.text.is_char_boundary(*at));
        let before = &self.text[..boundary.unwrap_or(0)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Source {
    #[default]
    Default,
    File {
        path: String,
        line: usize,
        /// The bytes of the file that say so.
        span: Range<usize>,
    },
    Variable(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, .. } => write!(f, "{path}:{line}"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) what: String,
    pub(super) at: Source,
    pub(super) help: String,
}

/// All that is wrong.
#[derive(Debug)]
pub(crate) struct Problems {
    pub(super) file: Option<File>,
    /// Where the file has values that are nobody's business: what is quoted there is not shown.
    pub(super) secrets: Vec<Range<usize>>,
    pub(super) list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            let readable = |text: &str| text.chars().map(shown).collect::<String>();
            writeln!(f, "error: {}", readable(&problem.what))?;
            let margin = match (&problem.at, &self.file) {
                (Source::File { span, .. }, Some(file)) => excerpt(f, file, span, &self.secrets)?,
                (Source::Default, _) => 1,
                (source, _) => {
                    writeln!(f, " --> {source}")?;
                    1
                }
            };
            if !problem.help.is_empty() {
                writeln!(f, "{:margin$} = help: {}", "", readable(&problem.help))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The line, and what of it is meant. Tells how wide its margin is.
fn excerpt(
    f: &mut fmt::Formatter<'_>,
    file: &File,
    span: &Range<usize>,
    secrets: &[Range<usize>],
) -> Result<usize, fmt::Error> {
    let (number, column) = file.line_and_column(span.start);
    let line = line_of(file, number, secrets);
    let (_, end) = file.line_and_column(span.end);
    let is_one_line = file.line_and_column(span.end).0 == number;
    let end = if is_one_line { end } else { line.trim_end().chars().count() + 1 };
    let number = number.to_string();
    let margin = " ".repeat(number.len());
    writeln!(f, "{margin}--> {}:{number}:{column}", file.path)?;
    writeln!(f, "{margin} |")?;
    writeln!(f, "{number} | {line}")?;
    if column <= LINE_MAX {
        let indent: String =
            line.chars().take(column - 1).map(|char| if char == '\t' { '\t' } else { ' ' }).collect();
        let marks = "^".repeat(end.min(LINE_MAX).saturating_sub(column).max(1));
        writeln!(f, "{margin} | {indent}{marks}")?;
    }
    Ok(margin.len())
}

/// A line as it can be shown.
fn line_of(file: &File, number: usize, secrets: &[Range<usize>]) -> String {
    let start: usize = file.text.split_inclusive('\n').take(number - 1).map(str::len).sum();
    let line = file.text[start..].lines().next().unwrap_or("");
    let mut is_quoted = false;
    let show = |(at, char): (usize, char)| {
        let is_secret = secrets.iter().any(|secret| secret.contains(&(start + at)));
        is_quoted ^= is_secret && matches!(char, '"' | '\'');
        if is_secret && is_quoted && !matches!(char, '"' | '\'') { '*' } else { shown(char) }
    };
    line.char_indices().take(LINE_MAX).map(show).collect()
}

/// What was given is shown as far as it can be read; it neither moves the cursor nor turns the line around.
fn shown(char: char) -> char {
    let is_hidden = char.is_control() && char != '\t';
    let turns = matches!(char, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    if is_hidden || turns { '\u{FFFD}' } else { char }
}

const LINE_MAX: usize = 160;
