//! What has arrived and was not consumed yet, and the core's large buffers.
//!
//! An idle connection holds a small buffer. When a read fills it there is probably more: then a large one is
//! borrowed from the core's [`Pool`], filled without waiting, and given back before the next wait. The pool hands out
//! the buffer that came back last, so that it is the one that is still in the cache.
//!
//! ```text
//!   data   [ consumed | unread          | spare ]
//!          0          start             len     capacity
//! ```

use std::{cell::RefCell, fmt, io};

use crate::stream::Stream;

/// Bytes that have arrived and were not consumed. It is handed over whole, from the handshake to the protocol.
#[derive(Default)]
pub struct ReadBuf {
    data: Vec<u8>,
    /// Invariant: `start <= data.len()`.
    start: usize,
    /// The small buffer, while `data` is one of the pool's.
    small: Option<Vec<u8>>,
}

impl ReadBuf {
    pub(crate) fn new() -> Self {
        Self { data: Vec::with_capacity(SMALL), start: 0, small: None }
    }

    /// What has arrived and was not consumed.
    #[inline]
    pub fn unread(&self) -> &[u8] {
        &self.data[self.start..]
    }

    #[inline]
    pub(crate) fn unread_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..]
    }

    /// Marks the first `count` unread bytes as dealt with.
    ///
    /// # Panics
    /// If fewer are unread.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.data.len() - self.start, "more was consumed than has arrived");
        self.start += count;
        if self.start == self.data.len() {
            self.start = 0;
            self.data.clear();
        }
    }

    /// Whether the bytes lie in a large buffer.
    pub(crate) fn is_large(&self) -> bool {
        self.small.is_some()
    }

    /// Takes the bytes out, with the place where the unread ones begin. Until [`put`](Self::put) nothing is unread.
    pub(crate) fn take(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.data), std::mem::take(&mut self.start))
    }

    /// Puts back what was taken out; what lies before `start` has been dealt with.
    pub(crate) fn put(&mut self, data: Vec<u8>, start: usize) {
        debug_assert!(self.data.capacity() == 0 && start <= data.len());
        self.data = data;
        self.start = 0;
        self.consume(start);
    }

    /// Makes room for a read, without allocating as long as the small buffer will do.
    fn make_room(&mut self, pool: &Pool) {
        self.shrink(pool);
        if self.start > 0 {
            self.data.drain(..self.start);
            self.start = 0;
        }
        if self.data.len() == self.data.capacity() {
            if self.small.is_none() {
                self.enlarge(pool);
            } else {
                self.data.reserve(pool.size); // beyond a large one: the caller has a limit
            }
        }
    }

    /// Goes back to the small buffer if what is unread fits.
    fn shrink(&mut self, pool: &Pool) {
        if let Some(mut small) = self.small.take_if(|_| self.data.len() - self.start < SMALL) {
            small.clear();
            small.extend_from_slice(&self.data[self.start..]);
            self.start = 0;
            pool.give_back(std::mem::replace(&mut self.data, small));
        }
    }

    fn enlarge(&mut self, pool: &Pool) {
        let mut large = pool.take();
        large.extend_from_slice(&self.data[self.start..]);
        self.start = 0;
        self.small = Some(std::mem::replace(&mut self.data, large));
    }

    /// Waits for more bytes; `Ok(0)` is the end. How many may be unread is for the caller to limit.
    ///
    /// The buffer goes in and comes out, because the kernel owns it meanwhile: dropping the future loses it with its
    /// bytes, so drop it only to close.
    pub(crate) async fn fill(mut self, stream: &Stream, pool: &Pool) -> (io::Result<usize>, Self) {
        self.make_room(pool);
        let before = self.data.len();
        let (result, data) = stream.read(std::mem::take(&mut self.data)).await;
        self.data = data;
        let Ok(mut count) = result else {
            self.data.truncate(before);
            return (result, self);
        };
        if count > 0 && self.data.len() == self.data.capacity() && self.small.is_none() {
            self.enlarge(pool);
            // An error or the end will be met again by the next read, after what is here was dealt with.
            count += stream.try_read(&mut self.data).unwrap_or(0);
        }
        (Ok(count), self)
    }
}

impl fmt::Debug for ReadBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadBuf({} unread)", self.unread().len())
    }
}

/// Fits most heads and small frames: 10,000 idle connections hold 5 MiB in all.
const SMALL: usize = 512;

/// A core's large buffers of one size: the last one given back is the next one taken.
#[derive(Debug)]
pub(crate) struct Pool {
    size: usize,
    /// How many free ones are kept.
    keep: usize,
    free: RefCell<Vec<Vec<u8>>>,
}

impl Pool {
    pub(crate) fn new(size: usize, keep: usize) -> Self {
        Self { size, keep, free: RefCell::default() }
    }

    pub(crate) fn take(&self) -> Vec<u8> {
        self.free.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(self.size))
    }

    /// Takes a buffer back. One of another pool, or that has grown, is freed instead.
    pub(crate) fn give_back(&self, mut buffer: Vec<u8>) {
        let mut free = self.free.borrow_mut();
        if free.len() < self.keep && buffer.capacity() == self.size {
            buffer.clear();
            free.push(buffer);
        }
    }
}

/// A large buffer for those who may wait with it in their hands: heads, byte streams, frames that are queued.
pub(crate) const LARGE: usize = 64 << 10;
/// The hot buffer of a core, for those who give it back before they wait: as much as a socket brings at once, and
/// half of the cache that a core has for itself.
pub(crate) const HOT: usize = 512 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::duplex;

    fn block_on<F: Future>(future: F) -> F::Output {
        crate::Driver::Epoll.build().unwrap().block_on(future)
    }

    #[test]
    fn what_is_unread_survives_growing_and_shrinking() {
        block_on(async {
            let (near, far) = duplex::pair();
            let near = Stream::from(near);
            let sent: Vec<u8> = (0..40_000_u32).map(|i| i as u8).collect();
            assert_eq!(far.try_write(&sent).unwrap(), sent.len());

            let pool = Pool::new(LARGE, 1);
            let mut buf = ReadBuf::new();
            let mut got = Vec::new();
            while got.len() < sent.len() {
                let (result, back) = buf.fill(&near, &pool).await;
                buf = back;
                assert!(result.unwrap() > 0);
                // Leaves a few bytes behind each time, as a frame cut in two would.
                let count = buf.unread().len().saturating_sub(3).max(1);
                got.extend_from_slice(&buf.unread()[..count]);
                buf.consume(count);
                if got.len() + buf.unread().len() == sent.len() {
                    got.extend_from_slice(buf.unread());
                    buf.consume(buf.unread().len());
                }
            }
            assert_eq!(got, sent);
            buf.shrink(&pool);
            assert!(buf.small.is_none(), "an idle connection holds no large buffer");
            assert_eq!(pool.free.borrow().len(), 1, "the one that was used is there for the next");
        });
    }
}
