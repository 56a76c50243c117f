//! The in-memory transport: two ends, each a [`Stream`](crate::Stream), with the faults of a network on request.
//!
//! The fake is as good as the kernel: bounded buffers, short reads and writes, delays, half-closes, resets. Every
//! fault comes from a seed that the test prints, so a failure can be played again.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    future::poll_fn,
    io,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

/// Two ends of one connection in memory.
pub fn pair() -> (Duplex, Duplex) {
    pair_with_faults(Faults::none(), 0)
}

/// As [`pair`], with faults drawn from `seed` on both ends.
pub fn pair_with_faults(faults: Faults, seed: u64) -> (Duplex, Duplex) {
    let (there, back) = (Rc::new(Pipe::default()), Rc::new(Pipe::default()));
    let end = |incoming: &Rc<Pipe>, outgoing: &Rc<Pipe>, seed| Duplex {
        incoming: Rc::clone(incoming),
        outgoing: Rc::clone(outgoing),
        faults,
        dice: Dice(Cell::new(seed)),
    };
    (end(&back, &there, seed), end(&there, &back, !seed))
}

/// How often each fault happens: 0.0 never, 1.0 each time.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// A read gets fewer bytes than there are.
    pub partial_read: f64,
    /// A write takes fewer bytes than there is room for.
    pub partial_write: f64,
    /// A read waits up to three milliseconds first.
    pub delay: f64,
    /// The connection is reset.
    pub reset: f64,
}

impl Faults {
    /// A perfect network.
    pub const fn none() -> Self {
        Self { partial_read: 0.0, partial_write: 0.0, delay: 0.0, reset: 0.0 }
    }
}

/// One end. Dropping it closes the connection, as the kernel would.
#[derive(Debug)]
pub struct Duplex {
    incoming: Rc<Pipe>,
    outgoing: Rc<Pipe>,
    faults: Faults,
    dice: Dice,
}

impl Duplex {
    /// Waits for bytes and appends them to `buffer`, at most its spare capacity; `Ok(0)` is the end.
    pub async fn read(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        if self.dice.roll(self.faults.delay) {
            // Boxed: a timer is large, and every read would have room for it.
            Box::pin(monoio::time::sleep(Duration::from_millis(self.dice.next() % 4))).await;
        }
        let result = poll_fn(|cx| match self.try_read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.incoming.reader.set(Some(cx.waker().clone()));
                Poll::Pending
            }
            result => Poll::Ready(result),
        });
        let result = result.await;
        (result, buffer)
    }

    /// Appends what is there to `buffer`; `WouldBlock` if nothing is.
    pub fn try_read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.maybe_reset();
        let pipe = &*self.incoming;
        if pipe.reset.get() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut bytes = pipe.bytes.borrow_mut();
        if bytes.is_empty() {
            return if pipe.closed.get() { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let mut count = bytes.len().min(buffer.capacity() - buffer.len());
        if self.dice.roll(self.faults.partial_read) {
            count = self.dice.at_most(count);
        }
        buffer.extend(bytes.drain(..count));
        pipe.wake_writer();
        Ok(count)
    }

    /// Waits until there is something to read, or the end.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let pipe = &*self.incoming;
            if pipe.closed.get() || pipe.reset.get() || !pipe.bytes.borrow().is_empty() {
                return Poll::Ready(Ok(()));
            }
            pipe.reader.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }

    /// Takes what there is room for; `WouldBlock` if there is none.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.maybe_reset();
        let pipe = &*self.outgoing;
        if pipe.reset.get() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if pipe.closed.get() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut count = bytes.len().min(CAPACITY - pipe.bytes.borrow().len());
        if count == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.dice.roll(self.faults.partial_write) {
            count = self.dice.at_most(count);
        }
        pipe.bytes.borrow_mut().extend(&bytes[..count]);
        pipe.wake_reader();
        Ok(count)
    }

    /// Waits for room.
    pub async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let pipe = &*self.outgoing;
            if pipe.closed.get() || pipe.reset.get() || pipe.bytes.borrow().len() < CAPACITY {
                return Poll::Ready(Ok(()));
            }
            pipe.writer.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }

    /// Sends all of it, waiting for room.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The other end reads what was sent, then the end.
    pub fn shutdown_write(&self) {
        self.outgoing.close();
    }

    /// Ends both directions: as `shutdown(SHUT_RDWR)`.
    pub fn abort(&self) {
        self.outgoing.close();
        self.incoming.close();
    }

    /// As a peer that was killed with data unread: both ends get `ConnectionReset`.
    pub fn reset(&self) {
        for pipe in [&self.incoming, &self.outgoing] {
            pipe.reset.set(true);
            pipe.wake_reader();
            pipe.wake_writer();
        }
    }

    fn maybe_reset(&self) {
        if self.dice.roll(self.faults.reset) {
            self.reset();
        }
    }
}

impl Drop for Duplex {
    fn drop(&mut self) {
        self.abort();
    }
}

/// As much as a socket's send and receive buffers hold together, roughly.
const CAPACITY: usize = 64 * 1024;

/// One direction.
#[derive(Default)]
struct Pipe {
    bytes: RefCell<VecDeque<u8>>,
    closed: Cell<bool>,
    reset: Cell<bool>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pipe({} bytes)", self.bytes.borrow().len())
    }
}

impl Pipe {
    fn close(&self) {
        self.closed.set(true);
        self.wake_reader();
        self.wake_writer();
    }

    fn wake_reader(&self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_writer(&self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

/// SplitMix64: small, seeded, good enough to choose faults.
#[derive(Debug)]
struct Dice(Cell<u64>);

impl Dice {
    fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn roll(&self, probability: f64) -> bool {
        probability > 0.0 && ((self.next() >> 11) as f64) < probability * (1_u64 << 53) as f64
    }

    /// A number from 1 to `count`.
    fn at_most(&self, count: usize) -> usize {
        1 + (self.next() % count.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        crate::Driver::Epoll.build().unwrap().block_on(future)
    }

    #[test]
    fn bytes_arrive_in_order_whatever_the_faults() {
        let faults = Faults { partial_read: 0.7, partial_write: 0.7, delay: 0.05, reset: 0.0 };
        for seed in 0..10 {
            block_on(async {
                let (near, far) = pair_with_faults(faults, seed);
                let sent: Vec<u8> = (0..200_000_u32).map(|i| (i / 3) as u8).collect();
                let expected = sent.clone();
                let writer = monoio::spawn(async move {
                    near.write_all(&sent).await.unwrap();
                    near.shutdown_write();
                    near
                });
                let mut got = Vec::new();
                loop {
                    got.reserve(4096);
                    let (result, back) = far.read(got).await;
                    got = back;
                    if result.unwrap() == 0 {
                        break;
                    }
                }
                assert!(got == expected, "seed {seed}");
                drop(writer.await);
            });
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let counts = |seed| {
            let faults = Faults { partial_write: 1.0, ..Faults::none() };
            let (near, _far) = pair_with_faults(faults, seed);
            (0..20).map(|_| near.try_write(&[0; 1000]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(counts(7), counts(7));
        assert_ne!(counts(7), counts(8));
    }

    #[test]
    fn a_dropped_end_is_the_end_and_a_reset_is_an_error() {
        let (near, far) = pair();
        far.try_write(b"last words").unwrap();
        drop(far);
        let mut buffer = Vec::with_capacity(64);
        assert_eq!(near.try_read(&mut buffer).unwrap(), 10);
        assert_eq!(near.try_read(&mut buffer).unwrap(), 0);
        assert_eq!(near.try_write(b"?").unwrap_err().kind(), io::ErrorKind::BrokenPipe);

        let (near, far) = pair();
        far.reset();
        assert_eq!(near.try_read(&mut buffer).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
