//! The seconds of a run that are over. They are in a file without a name, for a run of hours has thousands of them, each
//! with a histogram, and what measures should not grow.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
};

use crate::record::{Interval, Second};

/// What was put there, in its order.
#[derive(Debug)]
pub(crate) struct Archive {
    /// Gone where there is none, or no room in it.
    file: Option<File>,
    /// How much of the file counts.
    written: u64,
    /// What the file did not take.
    rest: Vec<u8>,
    line: Vec<u8>,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self::in_file(tempfile::tempfile().ok())
    }

    fn in_file(file: Option<File>) -> Self {
        let mut line = Vec::new();
        // The memory that hangs on the longest time is taken now: what measures should be as large at the end as at its
        // beginning.
        let mut longest = Interval::new();
        longest.latency.saturating_record(u64::MAX);
        write(&longest, &mut line);
        Self { file, written: 0, rest: Vec::new(), line }
    }

    pub(crate) fn push(&mut self, second: &Interval) {
        self.line.clear();
        write(second, &mut self.line);
        // The order has to stay, so after a failure all that follows is kept in memory.
        let file = self.file.as_mut().filter(|_| self.rest.is_empty());
        if file.is_some_and(|file| file.write_all(&self.line).is_ok()) {
            self.written += self.line.len() as u64;
        } else {
            self.rest.extend_from_slice(&self.line);
        }
    }

    /// All of it.
    pub(crate) fn read(mut self) -> io::Result<Vec<Second>> {
        let mut text = Vec::new();
        if let Some(mut file) = self.file.take() {
            file.seek(SeekFrom::Start(0))?;
            file.take(self.written).read_to_end(&mut text)?;
        }
        text.append(&mut self.rest);
        Ok(serde_json::Deserializer::from_slice(&text).into_iter().collect::<Result<_, _>>()?)
    }
}

fn write(second: &Interval, line: &mut Vec<u8>) {
    serde_json::to_writer(&mut *line, &second.packed()).expect("memory takes what is written");
    line.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: u64) -> Interval {
        let mut interval = Interval { second, planned: second * 7, lag_max: 42, ..Interval::new() };
        (0..second).for_each(|at| interval.latency.record(1 + at * 1000).unwrap());
        interval
    }

    /// Whatever becomes of the file.
    #[test]
    fn what_was_put_there_comes_back_in_its_order() {
        let full = || File::options().read(true).write(true).open("/dev/full").unwrap();
        for file in [Some(tempfile::tempfile().unwrap()), None, Some(full())] {
            let is_in_file = file.as_ref().is_some_and(|file| file.metadata().unwrap().is_file());
            let mut archive = Archive::in_file(file);
            (0..50).for_each(|at| archive.push(&second(at)));
            assert_eq!((archive.written > 0, archive.rest.is_empty()), (is_in_file, is_in_file));
            let read = archive.read().unwrap();
            assert_eq!(read.len(), 50);
            for (at, read) in (0..).zip(&read) {
                let put = second(at);
                assert_eq!((read.second, read.planned, read.lag_max), (at, put.planned, 42));
                assert!(read.latency.times() == put.latency);
            }
        }
    }
}
