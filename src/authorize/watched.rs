//! A file whose content is kept, and read again when it has changed.

use std::{
    cell::{Cell, RefCell},
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

/// A file, and what it says. It is looked at when it is asked for, every [`LOOK_EACH`] at most; what cannot be read or
/// understood leaves what was there before.
pub(super) struct Watched<T> {
    path: PathBuf,
    parse: Box<Parse<T>>,
    value: RefCell<Rc<T>>,
    stamp: Cell<Option<Stamp>>,
    looked: Cell<Instant>,
}

/// What makes something of a text.
type Parse<T> = dyn Fn(&str) -> Result<T, String>;

/// By what a change is seen: when it was written, how long it is, which file it is.
type Stamp = (i64, i64, u64, u64);

const LOOK_EACH: Duration = Duration::from_secs(5);
/// A longer file was not meant.
const SIZE_MAX: u64 = 1 << 20;

impl<T> Watched<T> {
    /// Reads the file for the first time, when it has to be right.
    pub(super) fn new(
        path: &Path,
        parse: impl Fn(&str) -> Result<T, String> + 'static,
    ) -> Result<Self, String> {
        let parse: Box<Parse<T>> = Box::new(parse);
        let stamp = stamp(path);
        let value = load(path, &*parse)?;
        Ok(Self {
            path: path.to_owned(),
            parse,
            value: RefCell::new(Rc::new(value)),
            stamp: Cell::new(stamp),
            looked: Cell::new(Instant::now()),
        })
    }

    /// What it says.
    pub(super) fn get(&self) -> Rc<T> {
        if self.looked.get().elapsed() >= LOOK_EACH {
            self.look();
        }
        Rc::clone(&self.value.borrow())
    }

    fn look(&self) {
        self.looked.set(Instant::now());
        let stamp = stamp(&self.path);
        if stamp.is_none() || self.stamp.replace(stamp) == stamp {
            return;
        }
        match load(&self.path, &*self.parse) {
            Ok(value) => {
                *self.value.borrow_mut() = Rc::new(value);
                tracing::info!(path = %self.path.display(), "read again");
            }
            Err(error) => tracing::error!(error, "what was read before still holds"),
        }
    }
}

fn load<T>(path: &Path, parse: &Parse<T>) -> Result<T, String> {
    let fail = |what: String| format!("{}: {what}", path.display());
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    file.take(SIZE_MAX + 1).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
    if text.len() as u64 > SIZE_MAX {
        return Err(fail("it is longer than 1 MiB".into()));
    }
    parse(&text).map_err(fail)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.mtime(), metadata.mtime_nsec(), metadata.len(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_and_a_broken_file_changes_nothing() {
        let path = std::env::temp_dir().join(format!("switchpoint-watched-{}", std::process::id()));
        let parse = |text: &str| text.trim().parse::<u32>().map_err(|error| error.to_string());
        assert!(Watched::new(&path, parse).is_err_and(|error| error.contains("switchpoint-watched")));
        fs::write(&path, "1").unwrap();
        let watched = Watched::new(&path, parse).unwrap();
        assert_eq!(*watched.get(), 1);
        fs::write(&path, "22").unwrap();
        assert_eq!(*watched.get(), 1, "it is not looked at each time");
        watched.look();
        assert_eq!(*watched.get(), 22);
        fs::write(&path, "none").unwrap();
        watched.look();
        assert_eq!(*watched.get(), 22);
        fs::remove_file(&path).unwrap();
        watched.look();
        assert_eq!(*watched.get(), 22);
        fs::write(&path, "4444").unwrap();
        watched.look();
        assert_eq!(*watched.get(), 4444);
        fs::write(&path, " ".repeat(2 << 20)).unwrap();
        assert!(Watched::new(&path, parse).is_err_and(|error| error.contains("1 MiB")));
        fs::remove_file(&path).unwrap();
    }
}
