//! What has arrived and was not consumed yet, and the core's large buffers.
//!
//! A connection that waits holds a small buffer, or none, unless it waits for the rest of something. When a read fills it
//! there is probably more: then a large one is borrowed from the core's [`Pool`], filled without waiting, and given back
//! before the next wait. The pool hands out the buffer that came back last, so that it is the one that is still in the
//! cache.
//!
//! ```text
//!   data   [ consumed | unread          | spare ]
//!          0          start             len     capacity
//! ```

use std::{
    cell::RefCell,
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use monoio::BufResult;
use pin_project_lite::pin_project;

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
        Self { data: Vec::with_capacity(HEAD + 1), start: 0, small: None }
    }

    /// What has arrived and was not consumed.
    #[inline]
    pub fn unread(&self) -> &[u8] {
        &self.data[self.start..]
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

    /// Makes room for a read of about `expected` bytes, in a small buffer as long as that will do.
    fn make_room(&mut self, pool: &Pool, expected: usize) {
        self.shrink(pool);
        if self.start > 0 {
            self.data.drain(..self.start);
            self.start = 0;
        }
        let is_small = self.small.is_none();
        let room = (expected + 1).next_power_of_two().clamp(TINY, SMALL_MAX);
        let room = room.min(SMALL_MAX.saturating_sub(self.data.len()));
        if is_small && self.data.len() + room > self.data.capacity() {
            self.data.reserve_exact(room);
        }
        if self.data.len() == self.data.capacity() {
            if is_small {
                self.enlarge(pool);
            } else {
                self.data.reserve(pool.size); // beyond a large one: the caller has a limit
            }
        }
    }

    /// Goes back to the small buffer if what is unread fits.
    fn shrink(&mut self, pool: &Pool) {
        let unread = self.data.len() - self.start;
        if let Some(mut small) = self.small.take_if(|_| unread < SMALL_MAX) {
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

    /// Takes what `read` finds without waiting, about `expected` bytes: by way of a small buffer of the core's where that is
    /// likely to do, or else a large one, which it keeps if there is much.
    pub(crate) fn fill_now(
        &mut self,
        small: &Pool,
        large: &Pool,
        expected: usize,
        mut read: impl FnMut(&mut Vec<u8>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let unread = self.data.len() - self.start;
        if self.small.is_some() || unread.saturating_add(expected) >= SMALL_MAX {
            let result = self.fill_large(large, read);
            if let Some(few) = self.small.as_mut().filter(|few| few.capacity() != SMALL_MAX) {
                *few = small.take();
            }
            self.shrink(large);
            return result;
        }
        if self.data.capacity() < SMALL_MAX {
            let mut data = small.take();
            data.extend_from_slice(self.unread());
            self.data = data;
            self.start = 0;
        }
        let mut count = read(&mut self.data)?;
        if count > 0 && self.data.len() == self.data.capacity() {
            // An error or the end will be met again by the next read, after what is here was dealt with.
            count += self.fill_large(large, read).unwrap_or(0);
        }
        Ok(count)
    }

    fn fill_large(
        &mut self,
        large: &Pool,
        mut read: impl FnMut(&mut Vec<u8>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.small.is_none() {
            self.enlarge(large);
        } else if self.data.len() == self.data.capacity() {
            self.data.drain(..self.start);
            self.start = 0;
            self.data.reserve(large.size); // beyond a large one: the caller has a limit
        }
        read(&mut self.data)
    }

    /// Lets go of what it need not hold while it waits for who [takes all at once](Self::fill_now).
    pub(crate) fn rest(&mut self, small: &Pool, large: &Pool) {
        self.shrink(large);
        let unread = self.unread().to_vec();
        self.start = 0;
        let pool = match self.small.take() {
            Some(few) => {
                small.give_back(few);
                large
            }
            None => small,
        };
        pool.give_back(std::mem::replace(&mut self.data, unread));
    }

    /// Lets go of the buffer, of which nothing is unread.
    pub(crate) fn release(&mut self, pool: &Pool) {
        debug_assert!(self.unread().is_empty());
        self.shrink(pool);
        self.data = Vec::new();
    }

    /// Gives a read its buffer: with room for what is `expected`, and behind what is unread. Where much is expected it
    /// gives none, for then it is better to take it all at once when it is there. What has become of it goes to
    /// [`arrived`](Self::arrived).
    pub(crate) fn lend(&mut self, pool: &Pool, expected: usize) -> Vec<u8> {
        if expected > SMALL_MAX && self.unread().is_empty() {
            self.release(pool);
            return Vec::new();
        }
        self.make_room(pool, expected);
        std::mem::take(&mut self.data)
    }

    /// What has become of a read, with the buffer that it was [lent](Self::lend). Where that was too small, the rest is
    /// taken at once.
    pub(crate) fn arrived(
        &mut self,
        (result, data): BufResult<usize, Vec<u8>>,
        stream: &Stream,
        pool: &Pool,
    ) -> io::Result<usize> {
        if data.capacity() == 0 {
            result?;
            let result = self.fill_large(pool, |data| stream.try_read(data));
            // Who hears a few bytes may wait with them in its hands, and had better not do so with a large buffer.
            self.shrink(pool);
            return result;
        }
        self.data = data;
        let mut count = result?;
        if count > 0 && self.data.len() == self.data.capacity() && self.small.is_none() {
            // As in `fill_now`.
            count += self.fill_large(pool, |data| stream.try_read(data)).unwrap_or(0);
        }
        Ok(count)
    }

    /// Waits for more bytes; `Ok(0)` is the end. How many may be unread is for the caller to limit.
    ///
    /// The buffer goes in and comes out, because the kernel owns it meanwhile: dropping the future loses it with its
    /// bytes, so drop it only to close.
    pub(crate) fn fill<'a>(
        mut self,
        stream: &'a Stream,
        pool: &'a Pool,
    ) -> impl Future<Output = (io::Result<usize>, Self)> + use<'a> {
        let read = stream.read(self.lend(pool, HEAD));
        Filling { buf: self, stream, pool, read }
    }
}

pin_project! {
    /// A type and not an `async fn`, which would have room for the read twice.
    struct Filling<'a, R> {
        buf: ReadBuf,
        stream: &'a Stream,
        pool: &'a Pool,
        #[pin]
        read: R,
    }
}

impl<R: Future<Output = BufResult<usize, Vec<u8>>>> Future for Filling<'_, R> {
    type Output = (io::Result<usize>, ReadBuf);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let read = ready!(this.read.poll(cx));
        let mut buf = std::mem::take(this.buf);
        let result = buf.arrived(read, this.stream, this.pool);
        Poll::Ready((result, buf))
    }
}

impl fmt::Debug for ReadBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadBuf({} unread)", self.unread().len())
    }
}

/// Fits a small frame or two.
const TINY: usize = 128;
/// What most heads have, and most of what a byte stream brings.
const HEAD: usize = 511;
/// The longest small buffer. What is longer is read into a large one.
pub(crate) const SMALL_MAX: usize = 4096;

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

/// Things of a core that are lent to who needs one for a while, and kept for the next: the last one given back is the
/// next one taken, so that it is still in the cache.
#[derive(Debug)]
pub(crate) struct Spares<T>(RefCell<Vec<T>>);

impl<T: Default> Spares<T> {
    pub(crate) const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    #[inline]
    pub(crate) fn take(&self) -> T {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    #[inline]
    pub(crate) fn give_back(&self, spare: T) {
        let mut spares = self.0.borrow_mut();
        if spares.len() < SPARES_MAX {
            spares.push(spare);
        }
    }
}

/// More are in use at once only while handlers wait in the middle of something.
const SPARES_MAX: usize = 16;

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
    fn who_has_little_in_its_hands_holds_no_large_buffer() {
        block_on(async {
            let (near, far) = duplex::pair();
            let near = Stream::from(near);
            let (few, pool) = (Pool::new(SMALL_MAX, 1), Pool::new(LARGE, 1));
            let mut buf = ReadBuf::default();
            // A few bytes, taken at once; then many of which a few are left, and a wait for more.
            for (sent, left) in [(7, 7), (3000, 8), (SMALL_MAX + 100, 100), (LARGE - 1, SMALL_MAX - 1)] {
                assert_eq!(far.try_write(&vec![1; sent]).unwrap(), sent);
                let result = buf.fill_now(&few, &pool, sent / 2, |data| near.try_read(data));
                assert_eq!(result.unwrap(), sent);
                assert_eq!(buf.small.is_some(), sent >= SMALL_MAX);
                buf.consume(sent - left);
                let lent = buf.lend(&pool, sent.min(SMALL_MAX));
                assert!(lent.len() == left && lent.capacity() <= SMALL_MAX && lent.len() < lent.capacity());
                buf.put(lent, 0);
                buf.consume(left);
                buf.release(&pool);
            }
            // Much that is unread waits in a place of its own.
            assert_eq!(far.try_write(&[7; 60_000]).unwrap(), 60_000);
            buf.fill_now(&few, &pool, LARGE, |data| near.try_read(data)).unwrap();
            buf.consume(20_000);
            buf.rest(&few, &pool);
            assert_eq!((buf.unread(), buf.data.capacity()), (&[7; 40_000][..], 40_000));
            assert!(buf.small.is_none() && pool.free.borrow().len() == 1);
            assert_eq!(far.try_write(&[8; 20_000]).unwrap(), 20_000);
            buf.fill_now(&few, &pool, 1, |data| near.try_read(data)).unwrap();
            assert!(buf.unread()[..40_000] == [7; 40_000] && buf.unread()[40_000..] == [8; 20_000]);
            buf.consume(60_000);
            buf.rest(&few, &pool);
            assert_eq!(buf.data.capacity(), 0);
            let nothing = buf.fill_now(&few, &pool, 1, |data| near.try_read(data));
            assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert!(buf.small.is_none());
            assert_eq!(pool.free.borrow().len(), 1);
        });
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
