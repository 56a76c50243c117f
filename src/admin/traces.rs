//! `switchpoint-trace/1`: who asks to be switched to it is sent the lines of a trace until it closes, or all is recorded.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, TryRecvError},
    },
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;

use super::{answers, parsed, rfc3339};
use crate::{
    Accept, Decision, Error, Handle, Rejection, Request, Token, Upgrade, Upgraded,
    trace::{Filter, Record, Rest, Trace},
};

/// The protocol, on the server behind a handle.
pub(super) struct Traces {
    handle: Handle,
    running: Rc<Cell<usize>>,
}

impl Traces {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle, running: Rc::default() }
    }
}

/// What is asked for in the query.
pub(super) struct Asked {
    filter: Filter,
    switches: usize,
    frames: usize,
    bytes: usize,
    seconds: u64,
}

impl Asked {
    fn of(request: &Request<'_>) -> Result<Self, Rejection> {
        let number = |name: &str, default: usize, max: usize| -> Result<usize, Rejection> {
            Ok(parsed::<usize>(request, name)?.unwrap_or(default).min(max))
        };
        Ok(Self {
            filter: parsed(request, "filter")?.unwrap_or_default(),
            switches: number("switches", 1, 10_000)?,
            frames: number("frames", 10, 100_000)?,
            bytes: number("bytes", 4 << 20, 64 << 20)?,
            seconds: number("seconds", 600, 86_400)? as u64,
        })
    }
}

impl Upgrade for Traces {
    type Session = Asked;

    fn token(&self) -> Token {
        Token::new("switchpoint-trace/1")
    }

    fn negotiate(&self, request: &Request<'_>) -> Decision<Asked> {
        if self.running.get() >= TRACES_MAX {
            return Decision::Reject(
                Rejection::unavailable(10).detail("There are as many traces as there may be."),
            );
        }
        Asked::of(request).map(Accept::new).into()
    }

    async fn run(&self, asked: Asked, mut connection: Upgraded) -> Result<(), Error> {
        let _running = Running::new(&self.running);
        let (records, received) = mpsc::sync_channel::<Record>(RECORDS_MAX);
        let until = Instant::now() + Duration::from_secs(asked.seconds);
        let rest = Arc::new(Rest {
            switches: AtomicUsize::new(asked.switches),
            bytes: AtomicUsize::new(asked.bytes),
            is_over: AtomicBool::new(false),
            lost: AtomicUsize::new(0),
        });
        let _over = Over(Arc::clone(&rest));
        let filter = asked.filter.to_string();
        let trace =
            Trace { filter: asked.filter, frames: asked.frames, until, rest: Arc::clone(&rest), records };
        // The workers have it now, and nobody else: when the last of them lets go of it, all was recorded.
        let last = self.handle.workers().saturating_sub(1);
        answers(self.handle.ask(0..=last, move |worker| worker.tracing.begin(trace.clone()))).await;

        connection.idle_time(Duration::MAX);
        let (mut reader, writer) = connection.split();
        let first = json!({
            "kind": "trace",
            "version": 1,
            "server": concat!("switchpoint ", env!("CARGO_PKG_VERSION")),
            "at": rfc3339(SystemTime::now()),
            "filter": filter,
        });
        writer.write_all(format!("{first}\n").as_bytes()).await?;
        let mut gone = pin!(reader.fill());
        let why = loop {
            let mut lines = String::new();
            let is_over = loop {
                match received.try_recv() {
                    Ok(record) => {
                        lines.push_str(&record.to_json().to_string());
                        lines.push('\n');
                        if lines.len() > LINES_MAX {
                            break false;
                        }
                    }
                    Err(TryRecvError::Empty) => break false,
                    Err(TryRecvError::Disconnected) => break true,
                }
            };
            if !lines.is_empty() {
                writer.write_all(lines.as_bytes()).await?;
            }
            if Instant::now() >= until {
                break "time";
            }
            if is_over {
                break "switches";
            }
            let mut nap = pin!(monoio::time::sleep(NAP));
            let is_gone = poll_fn(|cx| match gone.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(true),
                Poll::Pending => nap.as_mut().poll(cx).map(|()| false),
            });
            if is_gone.await {
                return Ok(());
            }
        };
        let last = json!({ "kind": "over", "why": why, "lost": rest.lost.load(Ordering::Relaxed) });
        writer.write_all(format!("{last}\n").as_bytes()).await
    }
}

/// Traces at a time.
const TRACES_MAX: usize = 4;
/// Records that wait to be sent; their bytes have a limit of their own.
const RECORDS_MAX: usize = 4096;
/// Lines that are sent at once, in bytes.
const LINES_MAX: usize = 256 << 10;
const NAP: Duration = Duration::from_millis(20);

/// Tells the workers that nobody listens any more.
struct Over(Arc<Rest>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

struct Running(Rc<Cell<usize>>);

impl Running {
    fn new(running: &Rc<Cell<usize>>) -> Self {
        running.set(running.get() + 1);
        Self(Rc::clone(running))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
