//! What is printed: replies on standard output, all else on standard error, both by a thread, so that a reader who is
//! slow, or has stopped, stops neither the connection's clock nor Ctrl-C.
//!
//! What waits to be printed is bounded: who is full hears no more, and TCP slows the server down.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::wait::Wake;

/// The way to the printing thread.
pub(super) struct Output {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    wake: Wake,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    /// In the items, and in those that are being printed.
    bytes: usize,
    /// Nobody reads standard output any more.
    is_closed: bool,
    /// Nothing will be added.
    is_finished: bool,
    /// All was printed.
    is_done: bool,
}

enum Item {
    Reply(Vec<u8>),
    Note(String),
}

impl Output {
    pub(super) fn new(wake: Wake) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), wake });
        let for_thread = Arc::clone(&shared);
        thread::Builder::new().name("output".into()).spawn(move || for_thread.print_all())?;
        Ok(Self { shared })
    }

    /// Something for standard output, as it is.
    pub(super) fn reply(&self, bytes: Vec<u8>) {
        self.push(bytes.len(), Item::Reply(bytes));
    }

    /// A line for standard error.
    pub(super) fn note(&self, line: String) {
        self.push(line.len(), Item::Note(line));
    }

    fn push(&self, size: usize, item: Item) {
        let mut state = self.shared.lock();
        state.bytes += size + ITEM_SIZE;
        state.items.push_back(item);
        self.shared.changed.notify_all();
    }

    /// Whether as much waits as may; the loop is woken when it has become less.
    pub(super) fn is_full(&self) -> bool {
        self.shared.lock().bytes > WAITING_MAX
    }

    /// Whether standard output has lost its reader.
    pub(super) fn is_closed(&self) -> bool {
        self.shared.lock().is_closed
    }

    /// Standard output was seen to have no reader.
    pub(super) fn close(&self) {
        self.shared.lock().is_closed = true;
    }

    /// Waits until all is printed, if that is within `limit`.
    pub(super) fn finish(self, limit: Duration) {
        let mut state = self.shared.lock();
        state.is_finished = true;
        self.shared.changed.notify_all();
        drop(self.shared.changed.wait_timeout_while(state, limit, |state| !state.is_done));
    }
}

/// What an item costs besides its bytes.
const ITEM_SIZE: usize = 64;
/// How many bytes wait to be printed before nothing more is heard.
const WAITING_MAX: usize = 1 << 20;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print_all(&self) {
        loop {
            let (items, bytes, is_closed) = {
                let waits = |state: &mut State| state.items.is_empty() && !state.is_finished;
                let state = self.changed.wait_while(self.lock(), waits);
                let mut state = state.unwrap_or_else(PoisonError::into_inner);
                (std::mem::take(&mut state.items), state.bytes, state.is_closed)
            };
            let is_last = items.is_empty();
            let printed = print(items, is_closed);
            let mut state = self.lock();
            state.is_closed |= printed.is_err();
            state.bytes = state.bytes.saturating_sub(bytes);
            state.is_done |= is_last;
            self.changed.notify_all();
            self.wake.wake();
            if is_last {
                return;
            }
        }
    }
}

fn print(items: VecDeque<Item>, is_closed: bool) -> io::Result<()> {
    let mut batch = Vec::new();
    for item in items {
        match item {
            Item::Reply(bytes) if !is_closed => batch.extend_from_slice(&bytes),
            Item::Reply(_) => {}
            Item::Note(line) => {
                write_out(&batch)?;
                batch.clear();
                // Without a standard error there is nobody to be told.
                drop(writeln!(io::stderr(), "{line}"));
            }
        }
    }
    write_out(&batch)
}

fn write_out(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
