//! A line that is written anew each second.

use std::io::Write;

use super::SoFar;
use crate::{
    record::percentile,
    units::{grouped, short},
};

#[derive(Default)]
pub(super) struct Line {
    is_dirty: bool,
}

impl Line {
    pub(super) fn show(&mut self, so_far: &SoFar) {
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "\r\x1b[2K{}", text(so_far)).and_then(|()| err.flush());
        self.is_dirty = true;
    }

    /// Makes room.
    pub(super) fn finish(self) {
        if self.is_dirty {
            eprint!("\r\x1b[2K");
        }
    }
}

fn text(so_far: &SoFar) -> String {
    let last = &so_far.last;
    let of = so_far.total.map_or_else(String::new, |total| format!("/{}", total.as_secs_f64().ceil()));
    let time = |percent| percentile(&last.latency, percent).map_or_else(|| "\u{2013}".to_owned(), short);
    let errors = if last.errors > 0 { format!("  errors {}", grouped(last.errors)) } else { String::new() };
    format!(
        "  {}{of} s  {}  {}/s  p50 {}  p99 {}{errors}",
        so_far.elapsed(),
        so_far.phase(),
        grouped(last.answered),
        time(50.0),
        time(99.0)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_last_second() {
        let text = text(&super::super::tests::so_far());
        assert_eq!(text, "  5/10 s  run  2 004/s  p50 1.01 ms  p99 1.99 ms");
    }
}
