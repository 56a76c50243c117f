//! A file, read with a view of where everything in it stands.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    kind::{Given, Wrong, nearest, unexpected},
    problem::{File, Problem, Source},
};

/// Reads a file's values, and notes what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) file: &'a File,
    pub(super) problems: &'a mut Vec<Problem>,
}

/// A table of a file, and what it is called.
pub(super) struct Table<'a> {
    pub(super) name: String,
    pub(super) at: Range<usize>,
    pub(super) entries: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.entries.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }
}

impl Reader<'_> {
    pub(super) fn source_of(&self, span: Range<usize>) -> Source {
        let (line, _) = self.file.line_and_column(span.start);
        Source::File { path: self.file.path.clone(), line, span }
    }

    pub(super) fn source(&self, value: &Spanned<DeValue<'_>>) -> Source {
        self.source_of(value.span())
    }

    pub(super) fn problem(&mut self, what: String, at: Source, help: impl Into<String>) {
        self.problems.push(Problem { what, at, help: help.into() });
    }

    /// Reads a value, or notes what is wrong with it.
    pub(super) fn value<T>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        read: impl FnOnce(&Given<'_>) -> Result<T, Wrong>,
    ) -> Option<T> {
        match read(&Given::Toml(value.get_ref())) {
            Ok(value) => Some(value),
            Err(Wrong { what, help }) => {
                let name =
                    if table.name.is_empty() { key.to_owned() } else { format!("{}.{key}", table.name) };
                self.problem(format!("`{name}`: {what}"), self.source(value), help);
                None
            }
        }
    }

    /// A value that has to be there.
    pub(super) fn required<'t>(
        &mut self,
        table: &Table<'t>,
        key: &str,
        example: &str,
    ) -> Option<&'t Spanned<DeValue<'t>>> {
        let value = table.get(key);
        if value.is_none() {
            let what = format!("this [[{}]] has no `{key}`", table.name);
            self.problem(what, self.source_of(table.at.clone()), format!("add one, {example}"));
        }
        value
    }

    /// A table, by its name.
    pub(super) fn table<'t>(&mut self, name: &str, value: &'t Spanned<DeValue<'t>>) -> Option<Table<'t>> {
        match value.get_ref() {
            DeValue::Table(entries) => Some(Table { name: name.to_owned(), at: value.span(), entries }),
            other => {
                let wrong = unexpected("a table", other, "");
                self.problem(
                    format!("`{name}`: {}", wrong.what),
                    self.source(value),
                    format!("write [{name}]"),
                );
                None
            }
        }
    }

    /// A list of tables, by its name.
    pub(super) fn tables<'t>(&mut self, name: &str, value: &'t Spanned<DeValue<'t>>) -> Vec<Table<'t>> {
        let help = format!("write [[{name}]], once for each");
        let items: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            other => {
                let wrong = unexpected("a list of tables", other, "");
                self.problem(format!("`{name}`: {}", wrong.what), self.source(value), help);
                return Vec::new();
            }
        };
        let mut tables = Vec::new();
        for item in items {
            match item.get_ref() {
                DeValue::Table(entries) => {
                    tables.push(Table { name: name.to_owned(), at: item.span(), entries })
                }
                other => {
                    let wrong = unexpected("a table", other, "");
                    self.problem(format!("`{name}`: {}", wrong.what), self.source(item), help.clone());
                }
            }
        }
        tables
    }

    /// Notes every key that is none of those known.
    pub(super) fn only(&mut self, table: &Table<'_>, known: &[&str]) {
        for (key, _) in table.entries {
            if !known.contains(&key.get_ref().as_ref()) {
                let help = suggestion(key.get_ref(), known);
                self.unknown(&format!("[[{}]]", table.name), key.get_ref(), key.span(), help);
            }
        }
    }

    pub(super) fn unknown(&mut self, place: &str, key: &str, span: Range<usize>, help: String) {
        let what = match place {
            "" => format!("unknown key `{key}`"),
            place => format!("unknown key `{key}` in {place}"),
        };
        self.problem(what, self.source_of(span), help);
    }
}

/// What was probably meant, else what there is.
pub(super) fn suggestion(key: &str, known: &[&str]) -> String {
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let known: Vec<String> = known.iter().map(|known| format!("`{known}`")).collect();
            format!("there is {}", known.join(", "))
        }
    }
}
