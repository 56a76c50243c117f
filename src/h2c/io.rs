//! What the `h2` crate reads and writes: the connection, behind the gate, with an eye on what passes.
//!
//! The crate reads on for as long as there is something to read, and the runtime lets it. So the turns end here: who has
//! had its share gets no more bytes until the others had theirs.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    flood::Allowance,
    frames::{Frames, Kind},
    gate::{Gate, GateFault},
};
use crate::{
    registry::LocalBoxFuture,
    sessions::{Link, NEVER, Side},
};

/// One connection, as `h2` sees it.
pub(super) struct Io {
    link: Rc<Link>,
    watch: Rc<Watch>,
    /// Until it has opened.
    gate: Option<Gate>,
    /// What has arrived; of it, `passed` bytes were read by the crate.
    input: Vec<u8>,
    passed: usize,
    /// The last read has taken all that there was.
    is_drained: bool,
    readable: Option<Waiting>,
    /// The driver's turn in which there was nothing to read, once it has had to wait for that.
    waits_since: Option<u64>,
    writable: Option<Waiting>,
    turn: Option<LocalBoxFuture<'static, ()>>,
}

type Waiting = LocalBoxFuture<'static, io::Result<()>>;

/// What has been seen to pass.
pub(super) struct Watch {
    turn: Cell<u64>,
    frames: RefCell<Frames>,
    resets: RefCell<Allowance>,
    free: RefCell<Allowance>,
    heads: Cell<u64>,
    is_in_head: Cell<bool>,
    is_flooded: Cell<bool>,
    /// The socket has no room.
    is_full: Cell<bool>,
    /// Frames of sessions that were queued since it had taken all.
    queued: Cell<u32>,
    fault: Cell<Option<GateFault>>,
}

impl Watch {
    pub(super) fn new(link: &Link) -> Self {
        let (limits, now) = (&link.worker.config.http2, link.worker.now());
        Self {
            turn: Cell::new(0),
            frames: RefCell::default(),
            resets: RefCell::new(Allowance::new(limits.resets, now)),
            free: RefCell::new(Allowance::new(limits.free_frames, now)),
            heads: Cell::new(0),
            is_in_head: Cell::new(false),
            is_flooded: Cell::new(false),
            is_full: Cell::new(false),
            queued: Cell::new(0),
            fault: Cell::new(None),
        }
    }

    /// The driver is polled again: it has let go of the core since the last time.
    pub(super) fn next_turn(&self) {
        self.turn.set(self.turn.get() + 1);
    }

    /// The number of the head that has begun and not ended.
    pub(super) fn head_under_way(&self) -> Option<u64> {
        self.is_in_head.get().then(|| self.heads.get())
    }

    /// More has come of what costs the peer nothing than it may send: nothing is read any more.
    pub(super) fn is_flooded(&self) -> bool {
        self.is_flooded.get()
    }

    /// Whether a session may queue another frame. The window counts bytes only, and the smallest frame costs the crate
    /// hundreds of them: for a peer that sends and does not read, they would pile up.
    pub(super) fn has_room(&self) -> bool {
        self.queued.get() < QUEUED_MAX
    }

    /// The crate has sent what it could.
    pub(super) fn has_sent(&self) {
        if !self.is_full.get() {
            self.queued.set(0);
        }
    }

    /// A session has queued a frame.
    pub(super) fn has_queued(&self) {
        self.queued.set(self.queued.get() + 1);
    }

    /// Why the gate has not opened.
    pub(super) fn fault(&self) -> Option<GateFault> {
        self.fault.get()
    }

    /// Looks at what has arrived, and says how many frames it was.
    fn look(&self, bytes: &[u8], now: u64) -> usize {
        let (mut count, mut heads, mut resets, mut free) = (0, 0, 0, 0);
        let mut frames = self.frames.borrow_mut();
        frames.walk(bytes, |kind| {
            count += 1;
            match kind {
                Kind::Headers => heads += 1,
                Kind::Reset => resets += 1,
                Kind::Free => free += 1,
                Kind::Bounded => {}
            }
        });
        self.heads.set(self.heads.get() + heads);
        self.is_in_head.set(frames.is_in_head());
        let is_within = (resets == 0 || self.resets.borrow_mut().take(resets, now))
            && (free == 0 || self.free.borrow_mut().take(free, now));
        if !is_within {
            self.is_flooded.set(true);
        }
        count
    }
}

impl Io {
    /// Behind `gate`, with what has arrived already.
    pub(super) fn new(link: Rc<Link>, watch: Rc<Watch>, gate: Gate, arrived: &[u8]) -> Self {
        Self {
            link,
            watch,
            gate: Some(gate),
            input: arrived.to_vec(),
            passed: 0,
            is_drained: arrived.is_empty(),
            readable: None,
            waits_since: None,
            writable: None,
            turn: None,
        }
    }

    /// Lets the gate look at what has arrived; `true` when it is open.
    fn is_open(&mut self) -> io::Result<bool> {
        let Some(gate) = &self.gate else { return Ok(true) };
        match gate.look(&self.input) {
            Ok(None) => Ok(false),
            Ok(Some((mut opening, replaced))) => {
                let rest = &self.input[replaced..];
                self.watch.look(rest, self.link.worker.now());
                opening.extend_from_slice(rest);
                self.give_back();
                self.input = opening;
                self.gate = None;
                Ok(true)
            }
            Err(fault) => {
                self.watch.fault.set(Some(fault));
                Err(io::Error::new(io::ErrorKind::InvalidData, fault))
            }
        }
    }

    /// Reads what is there; `Ok(false)` when nothing is.
    fn take(&mut self) -> io::Result<bool> {
        let pool = &self.link.worker.pool;
        if self.input.capacity() - self.input.len() < READ_MIN {
            let mut larger = pool.take();
            larger.extend_from_slice(&self.input);
            self.input = larger;
        }
        let before = self.input.len();
        match self.link.take_arrived(&mut self.input) {
            Ok(count) => {
                let link = &self.link;
                link.has_received(count);
                let frames = match &self.gate {
                    Some(_) => 0,
                    None => self.watch.look(&self.input[before..], link.worker.now()),
                };
                link.spend(count + frames * FRAME_COST);
                self.is_drained = self.input.len() < self.input.capacity();
                if count == 0 {
                    // The end; it is met again by the next read.
                    self.is_drained = false;
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            // TLS without close_notify: HTTP/2 knows by itself what is whole.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn give_back(&mut self) {
        self.passed = 0;
        self.link.worker.pool.give_back(std::mem::take(&mut self.input));
    }

    /// The socket is full: it may be so for the write time.
    fn wait_for_room(&mut self) {
        self.link.within(Side::Write, self.link.worker.config.write_time);
        self.watch.is_full.set(true);
        let link = Rc::clone(&self.link);
        self.watch.is_full.set(true);
        self.writable = Some(Box::pin(async move { link.stream.writable().await }));
    }

    /// Waits for room, if there was none.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(writable) = &mut self.writable {
            ready!(writable.as_mut().poll(cx))?;
            self.writable = None;
            self.watch.is_full.set(false);
            self.link.deadline(Side::Write, NEVER);
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for bytes: in the core's readiness set if that can be.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.readable.is_none() {
            if self.link.is_watched() {
                self.link.listen(Side::Read, cx.waker());
                return self.link.poll_arrival().map(Ok);
            }
            let link = Rc::clone(&self.link);
            self.readable = Some(Box::pin(async move { link.stream.readable().await }));
        }
        let readable = self.readable.as_mut().expect("it was just put there");
        let result = ready!(readable.as_mut().poll(cx));
        self.readable = None;
        Poll::Ready(result)
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.turn.is_none() && self.link.is_spent() {
            let link = Rc::clone(&self.link);
            self.turn = Some(Box::pin(async move { link.pass().await }));
        }
        if let Some(turn) = &mut self.turn {
            ready!(turn.as_mut().poll(cx));
            self.turn = None;
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.poll_turn(cx));
            if this.watch.is_flooded() {
                return Poll::Pending; // for good: the driver ends the connection
            }
            if this.passed < this.input.len() && this.is_open()? {
                let count = into.remaining().min(this.input.len() - this.passed);
                into.put_slice(&this.input[this.passed..this.passed + count]);
                this.passed += count;
                if this.passed == this.input.len() {
                    this.give_back();
                }
                return Poll::Ready(Ok(()));
            }
            if this.is_drained {
                let turn = this.watch.turn.get();
                let Poll::Ready(is_readable) = this.poll_arrival(cx) else {
                    this.waits_since.get_or_insert(turn);
                    return Poll::Pending;
                };
                // What has come meanwhile may be readable at once: nobody else had a turn.
                if this.waits_since.take().is_some_and(|since| since != turn) {
                    this.link.has_waited();
                }
                is_readable?;
            }
            this.is_drained = false;
            let before = this.input.len();
            match this.take() {
                Ok(true) if this.input.len() == before => {
                    if this.gate.is_none() {
                        this.give_back();
                    }
                    return Poll::Ready(Ok(())); // the end
                }
                Ok(true) => {}
                Ok(false) => {
                    if this.gate.is_none() {
                        this.give_back();
                    }
                    this.is_drained = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            ready!(this.poll_room(cx))?;
            let link = &this.link;
            match link.stream.try_write_vectored(slices) {
                Ok(count) => {
                    link.has_sent(count);
                    link.spend(count);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => this.wait_for_room(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.poll_room(cx))?;
            if this.link.stream.is_flushed() {
                return Poll::Ready(Ok(()));
            }
            this.wait_for_room();
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.stream.shutdown_write();
        Poll::Ready(Ok(()))
    }
}

/// A read into less room than this is not worth its system call.
const READ_MIN: usize = 4096;
/// Frames of a connection's sessions that may wait for the socket.
const QUEUED_MAX: u32 = 4096;
/// What a frame counts for in a connection's turn, beside its bytes: the smallest take as long as these.
const FRAME_COST: usize = 256;

/// Waits for a moment at most; the timer is made only if there is something to wait for.
pub(super) async fn within<T>(limit: std::time::Duration, operation: impl Future<Output = T>) -> Option<T> {
    let mut operation = std::pin::pin!(operation);
    let mut timer = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = operation.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        let timer = timer.get_or_insert_with(|| Box::pin(monoio::time::sleep(limit)));
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Registry, Worker, duplex, h2c::PREFACE, runtime::Driver};

    #[test]
    fn a_peer_that_is_always_in_time_gives_up_its_turn() {
        Driver::Epoll.build().unwrap().block_on(async {
            // In memory, what is there is readable at once, without a look at anything else.
            let (stream, peer) = duplex::pair();
            let worker = Worker::new(Config::default(), Registry::new());
            let tracked = worker.sessions.track(stream.into(), None, None, &worker);
            let link = Rc::clone(&tracked.0);
            let watch = Rc::new(Watch::new(&link));
            let mut io = Io::new(link, Rc::clone(&watch), Gate::new(), b"");
            let mut buffer = [0; 1024];
            peer.try_write(PREFACE).unwrap();
            peer.try_write(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
            poll_fn(|cx| Pin::new(&mut io).poll_read(cx, &mut ReadBuf::new(&mut buffer))).await.unwrap();
            let mut count = 0;
            poll_fn(|cx| {
                watch.next_turn();
                loop {
                    // What the peer sends next is there before it is looked for.
                    peer.try_write(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap();
                    let mut into = ReadBuf::new(&mut buffer);
                    match Pin::new(&mut io).poll_read(cx, &mut into) {
                        Poll::Ready(read) => read.unwrap(),
                        Poll::Pending => return Poll::Ready(()),
                    }
                    count += 1;
                    assert!(count < 100_000, "its turn never ends");
                }
            })
            .await;
            assert!(count > 100, "{count}");
        });
    }
}
