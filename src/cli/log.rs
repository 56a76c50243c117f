//! The log: what is written, in which form, and how it gets to standard error without making anybody wait.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::{
    EnvFilter, Registry, fmt::MakeWriter, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    #[default]
    Text,
    Json,
}

/// The log that was begun.
#[derive(Clone, Debug)]
pub(super) struct Log {
    lines: Lines,
    level: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// Begins to log what this level or filter says.
    pub(super) fn install(level: &str, format: Format) -> io::Result<Self> {
        let lines = Lines::to(io::stderr())?;
        let (filter, level) = reload::Layer::new(EnvFilter::new(level));
        let registry = tracing_subscriber::registry().with(filter);
        let layer = tracing_subscriber::fmt::layer().with_writer(lines.clone()).with_target(false);
        match format {
            Format::Text => registry.with(layer.with_ansi(io::stderr().is_terminal())).init(),
            Format::Json => {
                registry.with(layer.json().flatten_event(true).with_current_span(false)).init();
            }
        }
        Ok(Self { lines, level })
    }

    /// Logs what this level or filter says, from now on.
    pub(super) fn set(&self, level: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(level)
            .map_err(|error| format!("{error}; the levels are error, warn, info, debug and trace"))?;
        self.level.reload(filter).map_err(|error| error.to_string())
    }

    /// Lines that were lost.
    pub(super) fn lost(&self) -> u64 {
        self.lines.lost.load(Ordering::Relaxed)
    }

    /// Waits until what was logged so far is written, if that does not take long.
    pub(super) fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let (written, is_written) = mpsc::sync_channel(1);
        let mut line = Line::Flush(written);
        while let Err(mpsc::TrySendError::Full(back)) = self.lines.queue.try_send(line) {
            if Instant::now() >= until {
                return;
            }
            line = back;
            thread::sleep(Duration::from_millis(5));
        }
        // Late or not, that was the time for it.
        let _ = is_written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Where lines go: a thread writes them, so that a destination that blocks stops nobody. What it has no room for is lost,
/// and counted.
#[derive(Clone, Debug)]
struct Lines {
    queue: SyncSender<Line>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Line {
    Text(Vec<u8>),
    /// Says when those before it are written.
    Flush(SyncSender<()>),
}

impl Lines {
    fn to(destination: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, waiting) = mpsc::sync_channel(LINES_MAX);
        let lost = Arc::<AtomicU64>::default();
        let lines = Self { queue, lost: Arc::clone(&lost) };
        thread::Builder::new().name("log".into()).spawn(move || write(&waiting, destination, &lost))?;
        Ok(lines)
    }
}

/// Lines that wait to be written; each is a few hundred bytes.
const LINES_MAX: usize = 8192;
/// Bytes that are written at once.
const BATCH_MAX: usize = 64 << 10;

fn write(waiting: &Receiver<Line>, mut destination: impl Write, lost: &AtomicU64) {
    let mut told = 0;
    let mut batch = Vec::new();
    while let Ok(first) = waiting.recv() {
        let mut lines = 0;
        let mut flushes = Vec::new();
        let mut next = Some(first);
        while let Some(line) = next {
            match line {
                Line::Text(text) => {
                    batch.extend_from_slice(&text);
                    lines += 1;
                }
                Line::Flush(written) => flushes.push(written),
            }
            next = if batch.len() < BATCH_MAX { waiting.try_recv().ok() } else { None };
        }
        match destination.write_all(&batch).and_then(|()| destination.flush()) {
            Ok(()) => {
                let count = lost.load(Ordering::Relaxed);
                if count > std::mem::replace(&mut told, count) {
                    tracing::warn!(lines = count, "so many lines of the log were lost in all");
                }
            }
            // Full, or gone. What follows may have room again.
            Err(_) => {
                lost.fetch_add(lines, Ordering::Relaxed);
            }
        }
        batch.clear();
        batch.shrink_to(BATCH_MAX);
        for written in flushes {
            let _ = written.send(()); // who waited may have given up
        }
    }
}

impl Write for Lines {
    /// Each call is a line, or several.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Line::Text(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::unix::net::UnixStream};

    use super::*;

    fn until(what: &str, condition: impl Fn() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < Duration::from_secs(5), "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_destination_that_blocks_costs_lines_and_no_time() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut lines = Lines::to(ours).unwrap();
        let line = [&[b'x'; 999][..], b"\n"].concat();
        let begun = Instant::now();
        let count = LINES_MAX as u64 + 2000;
        for _ in 0..count {
            lines.write_all(&line).unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let lost = lines.lost.load(Ordering::Relaxed);
        assert!(lost > 0, "nobody has read anything");
        // Who reads later has all the others, whole.
        let mut rest = vec![0; (count - lost) as usize * line.len()];
        theirs.read_exact(&mut rest).unwrap();
        assert!(rest.chunks(line.len()).all(|chunk| chunk == line));
    }

    #[test]
    fn a_full_destination_is_counted() {
        let mut lines = Lines::to(File::options().write(true).open("/dev/full").unwrap()).unwrap();
        for _ in 0..3 {
            lines.write_all(b"a line\n").unwrap();
        }
        until("three are lost", || lines.lost.load(Ordering::Relaxed) == 3);
    }
}
