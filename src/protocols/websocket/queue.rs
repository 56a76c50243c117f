//! Frames that wait to be sent: as a rule one write for all that a round has queued.
//!
//! A small payload is copied behind its header. One that lies in a [`Batch`] stays there, and is sent from where it has
//! arrived; the batch is lent to the queue meanwhile. A frame that goes to many is shared.
//!
//! ```text
//!   frames  [ sent | header, header, payload, header | header ... ]
//!                                                    ^ cut.at: somebody else's bytes come in between
//! ```
//!
//! What only a queue with something in it needs is the core's, and lent to it until all was sent.

use std::{collections::VecDeque, io, io::IoSlice, rc::Rc};

use super::{RandomMasks, batch::Batch};
use crate::{
    buffer::HOT,
    sessions::Link,
    ws::{self, Compressor, Header, Opcode, Prepared},
};

#[derive(Debug)]
pub(super) struct Queue {
    unsent: Option<Box<Unsent>>,
    /// The client's masks (RFC 6455 5.3); a server has none.
    masks: Option<Box<RandomMasks>>,
    compressor: Option<Box<Compressor>>,
    /// The oldest messages may have to go.
    drops_oldest: bool,
}

/// What a queue has in it. A core keeps empty ones.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    frames: Vec<u8>,
    /// Invariant: `sent <= frames.len()`, and no cut lies before it.
    sent: usize,
    cuts: VecDeque<Cut>,
    /// Bytes of the cuts.
    cut: usize,
    is_pooled: bool,
    /// The socket had no room for all of it.
    is_stalled: bool,
    /// Pongs since everything was last sent.
    pongs: usize,
    last_pong: Option<Box<[u8]>>,
    /// Where the waiting messages end, if the oldest may have to go.
    ends: VecDeque<Waiting>,
}

/// Somebody else's bytes, between the frames before `at` and those behind.
#[derive(Debug)]
struct Cut {
    at: usize,
    source: Source,
    start: usize,
    end: usize,
}

#[derive(Debug)]
enum Source {
    Batch(Rc<Batch>),
    Frame(Rc<[u8]>),
}

impl Cut {
    fn bytes(&self) -> &[u8] {
        match &self.source {
            Source::Batch(batch) => &batch.bytes()[self.start..self.end],
            Source::Frame(frame) => &frame[self.start..self.end],
        }
    }
}

/// A message in `frames`, while none of it was sent.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    start: usize,
    end: usize,
}

impl Queue {
    pub(super) fn new(
        masks: Option<RandomMasks>,
        compressor: Option<Compressor>,
        drops_oldest: bool,
    ) -> Self {
        // A compressed message may refer to those before it, so none of them can go.
        let drops_oldest = drops_oldest && !compressor.as_ref().is_some_and(Compressor::has_takeover);
        Self { unsent: None, masks: masks.map(Box::new), compressor: compressor.map(Box::new), drops_oldest }
    }

    /// Bytes that wait.
    pub(super) fn unsent(&self) -> usize {
        self.unsent.as_ref().map_or(0, |unsent| unsent.len())
    }

    /// Whether more may be queued. What lies in a batch costs nothing as long as the socket takes everything, so that a
    /// whole round of messages is one write.
    #[inline]
    pub(super) fn has_room(&self, queue_max: usize) -> bool {
        let Some(unsent) = &self.unsent else { return true };
        let held = if unsent.is_stalled { unsent.len() } else { unsent.len() - unsent.cut };
        held <= queue_max && unsent.len() <= queue_max.max(HOT)
    }

    /// Whether nothing waits, and what goes back as it came need not be looked at: not masked, not compressed, not to be
    /// dropped.
    #[inline]
    pub(super) fn can_be_passed_by(&self) -> bool {
        let is_plain = self.masks.is_none() && self.compressor.is_none() && !self.drops_oldest;
        self.unsent.is_none() && is_plain
    }

    /// Whether the socket had no room for all of it.
    pub(super) fn is_stalled(&self) -> bool {
        self.unsent.as_ref().is_some_and(|unsent| unsent.is_stalled)
    }

    /// Whether a payload of this size can be sent from where it lies: not masked, not compressed, not to be dropped.
    #[inline]
    pub(super) fn borrows(&self, size: usize) -> bool {
        self.masks.is_none()
            && !self.drops_oldest
            && !self.compressor.as_ref().is_some_and(|compressor| compressor.is_for(size))
    }

    pub(super) fn push(&mut self, opcode: Opcode, payload: &[u8], link: &Link) {
        let unsent = open(&mut self.unsent, link);
        unsent.make_buffer(link);
        let start = unsent.frames.len();
        let mask = self.masks.as_mut().map(|masks| masks.next());
        ws::write_message(&mut unsent.frames, opcode, payload, mask, self.compressor.as_deref_mut());
        if self.drops_oldest && !opcode.is_control() {
            unsent.ends.push_back(Waiting { start, end: unsent.frames.len() });
        }
    }

    /// Queues a piece of a message, never compressed.
    pub(super) fn push_fragment(&mut self, fin: bool, opcode: Opcode, payload: &[u8], link: &Link) {
        let unsent = open(&mut self.unsent, link);
        unsent.make_buffer(link);
        let mask = self.masks.as_mut().map(|masks| masks.next());
        ws::write_frame(&mut unsent.frames, fin, opcode, payload, mask);
    }

    /// Queues a whole frame that lies in a batch.
    #[inline]
    pub(super) fn push_frame(&mut self, batch: &Rc<Batch>, start: usize, end: usize, link: &Link) {
        let unsent = open(&mut self.unsent, link);
        unsent.cut += end - start;
        if let Some(last) = unsent.cuts.back_mut()
            && last.at == unsent.frames.len()
            && last.end == start
            && matches!(&last.source, Source::Batch(last) if Rc::ptr_eq(last, batch))
        {
            last.end = end;
            return;
        }
        if unsent.cuts.len() >= CUTS_MAX && end - start < LENT_MIN {
            // Many that are no neighbours are better put together.
            unsent.cut -= end - start;
            unsent.make_buffer(link);
            return unsent.frames.extend_from_slice(&batch.bytes()[start..end]);
        }
        let source = Source::Batch(Rc::clone(batch));
        unsent.cuts.push_back(Cut { at: unsent.frames.len(), source, start, end });
    }

    /// Queues a frame whose payload lies in a batch and is worth a piece of its own; `false`: it is not.
    pub(super) fn push_lent(
        &mut self,
        opcode: Opcode,
        batch: &Rc<Batch>,
        start: usize,
        end: usize,
        link: &Link,
    ) -> bool {
        if end - start < LENT_MIN {
            return false;
        }
        let unsent = open(&mut self.unsent, link);
        unsent.make_buffer(link);
        let length = (end - start) as u64;
        let mut header = [0; Header::SIZE_MAX];
        let size = Header { fin: true, rsv1: false, opcode, mask: None, length }.encode(&mut header);
        unsent.frames.extend_from_slice(&header[..size]);
        unsent.cut_in(Source::Batch(Rc::clone(batch)), start, end);
        true
    }

    /// Queues a message that goes to many.
    pub(super) fn push_prepared(&mut self, prepared: &Prepared, link: &Link) {
        if self.masks.is_some() {
            return self.push(prepared.opcode(), prepared.payload(), link);
        }
        let unsent = open(&mut self.unsent, link);
        let frame = prepared.frame(self.compressor.as_deref_mut());
        if frame.len() >= LENT_MIN && !self.drops_oldest {
            return unsent.cut_in(Source::Frame(Rc::clone(frame)), 0, frame.len());
        }
        unsent.make_buffer(link);
        let start = unsent.frames.len();
        unsent.frames.extend_from_slice(frame);
        if self.drops_oldest {
            unsent.ends.push_back(Waiting { start, end: unsent.frames.len() });
        }
    }

    /// Makes room by dropping the oldest messages of which nothing was sent; how many it were.
    pub(super) fn drop_oldest(&mut self, queue_max: usize) -> u32 {
        let Some(unsent) = self.unsent.as_mut().filter(|_| self.drops_oldest) else { return 0 };
        unsent.drop_oldest(queue_max)
    }

    /// Answers a ping. A burst of more than [`PONGS_MAX`] gets one answer more, to its last (RFC 6455 5.5.3).
    pub(super) fn pong(&mut self, payload: &[u8], link: &Link) {
        let unsent = open(&mut self.unsent, link);
        if unsent.pongs < PONGS_MAX {
            unsent.pongs += 1;
            self.push(Opcode::Pong, payload, link);
        } else {
            unsent.last_pong = Some(payload.into());
        }
    }

    /// Sends frames that lie in a batch while nothing else waits: mostly the socket takes them, and the queue stays as it
    /// is. If not, as [`send`](Self::send).
    pub(super) fn send_from(
        &mut self,
        batch: &Rc<Batch>,
        start: usize,
        end: usize,
        link: &Link,
    ) -> io::Result<()> {
        debug_assert!(self.unsent.is_none(), "nothing else waits");
        link.worker.counters.queue_depth.record(end - start);
        let sent = link.stream.try_write(&batch.bytes()[start..end]);
        let count = *sent.as_ref().unwrap_or(&0);
        link.has_sent(count);
        if count == end - start {
            return Ok(());
        }
        self.push_frame(batch, start + count, end, link);
        match sent {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.unsent.as_mut().expect("it was just put there").keep_rest(link);
                Err(error)
            }
            _ => self.send_on(link),
        }
    }

    /// Sends what the socket takes; an error of kind `WouldBlock` says that there is more. Either way every batch has
    /// been let go of.
    pub(super) fn send(&mut self, link: &Link) -> io::Result<()> {
        let Some(mut unsent) = self.unsent.take() else { return Ok(()) };
        if let Some(payload) = unsent.last_pong.take() {
            self.unsent = Some(unsent);
            self.push(Opcode::Pong, &payload, link);
            return self.send(link);
        }
        link.worker.counters.queue_depth.record(unsent.len());
        self.unsent = Some(unsent);
        self.send_on(link)
    }

    /// The same, without counting it.
    fn send_on(&mut self, link: &Link) -> io::Result<()> {
        let Some(mut unsent) = self.unsent.take() else { return Ok(()) };
        match unsent.send(link) {
            Ok(()) => {
                unsent.clear(link);
                link.worker.unsents.give_back(unsent);
                Ok(())
            }
            Err(error) => {
                unsent.keep_rest(link);
                self.unsent = Some(unsent);
                Err(error)
            }
        }
    }
}

#[inline]
fn open<'a>(unsent: &'a mut Option<Box<Unsent>>, link: &Link) -> &'a mut Unsent {
    unsent.get_or_insert_with(|| link.worker.unsents.take())
}

impl Unsent {
    fn len(&self) -> usize {
        self.frames.len() - self.sent + self.cut
    }

    fn cut_in(&mut self, source: Source, start: usize, end: usize) {
        self.cuts.push_back(Cut { at: self.frames.len(), source, start, end });
        self.cut += end - start;
    }

    fn make_buffer(&mut self, link: &Link) {
        if self.frames.capacity() == 0 {
            self.frames = link.worker.pool.take();
            self.is_pooled = true;
        }
    }

    fn drop_oldest(&mut self, queue_max: usize) -> u32 {
        let mut dropped = 0;
        let mut place = self.ends.iter().take_while(|waiting| waiting.start < self.sent).count();
        while self.frames.len() - self.sent > queue_max {
            let Some(Waiting { start, end }) = self.ends.remove(place) else { break };
            self.frames.drain(start..end);
            for later in self.ends.iter_mut().skip(place) {
                later.start -= end - start;
                later.end -= end - start;
            }
            dropped += 1;
            place = place.min(self.ends.len());
        }
        dropped
    }

    fn send(&mut self, link: &Link) -> io::Result<()> {
        while self.len() > 0 {
            let sent = match self.cuts.front() {
                None => link.stream.try_write(&self.frames[self.sent..]),
                Some(cut) if self.cuts.len() == 1 && self.frames.len() == self.sent => {
                    link.stream.try_write(cut.bytes())
                }
                Some(_) => self.gather(|slices| link.stream.try_write_vectored(slices)),
            };
            match sent {
                Ok(count) => {
                    self.advance(count);
                    link.has_sent(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// All was sent: what it had borrowed goes back.
    fn clear(&mut self, link: &Link) {
        self.is_stalled = false;
        self.pongs = 0;
        self.sent = 0;
        self.ends.clear();
        self.ends.shrink_to(CUTS_MAX);
        self.cuts.shrink_to(CUTS_MAX);
        let frames = std::mem::take(&mut self.frames);
        if std::mem::take(&mut self.is_pooled) {
            link.worker.pool.give_back(frames);
        }
    }

    /// What waits, in its order; of very many pieces the first.
    fn gather<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut at = self.sent;
        for cut in self.cuts.iter().take(CUTS_MAX) {
            for piece in [&self.frames[at..cut.at], cut.bytes()] {
                if !piece.is_empty() {
                    slices[count] = IoSlice::new(piece);
                    count += 1;
                }
            }
            at = cut.at;
        }
        if self.cuts.len() < CUTS_MAX && at < self.frames.len() {
            slices[count] = IoSlice::new(&self.frames[at..]);
            count += 1;
        }
        write(&slices[..count])
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            match self.cuts.front_mut() {
                Some(cut) if cut.at == self.sent => {
                    let taken = count.min(cut.end - cut.start);
                    cut.start += taken;
                    self.cut -= taken;
                    count -= taken;
                    if cut.start == cut.end {
                        self.cuts.pop_front();
                    }
                }
                front => {
                    let end = front.map_or(self.frames.len(), |cut| cut.at);
                    let taken = count.min(end - self.sent);
                    self.sent += taken;
                    count -= taken;
                }
            }
        }
    }

    /// A queue that waits does so in a buffer of its own size: the large ones are for who runs. What goes to many is
    /// still shared.
    fn keep_rest(&mut self, link: &Link) {
        self.is_stalled = true;
        // They begin where the rest will begin.
        self.ends.retain(|waiting| waiting.start >= self.sent);
        for waiting in &mut self.ends {
            waiting.start -= self.sent;
            waiting.end -= self.sent;
        }
        let of_batches = |cut: &Cut| if let Source::Batch(_) = cut.source { cut.end - cut.start } else { 0 };
        let copied: usize = self.cuts.iter().map(of_batches).sum();
        let mut rest = Vec::with_capacity(self.frames.len() - self.sent + copied);
        let mut at = self.sent;
        for mut cut in std::mem::take(&mut self.cuts) {
            rest.extend_from_slice(&self.frames[at..cut.at]);
            at = cut.at;
            if let Source::Batch(_) = cut.source {
                rest.extend_from_slice(cut.bytes());
                self.cut -= cut.end - cut.start;
            } else {
                cut.at = rest.len();
                self.cuts.push_back(cut);
            }
        }
        rest.extend_from_slice(&self.frames[at..]);
        self.sent = 0;
        let frames = std::mem::replace(&mut self.frames, rest);
        if std::mem::take(&mut self.is_pooled) {
            link.worker.pool.give_back(frames);
        }
    }
}

/// Below this a copy is cheaper than a piece more for the kernel to gather.
const LENT_MIN: usize = 2048;
/// Autobahn sends ten in a row, and wants ten answers.
const PONGS_MAX: usize = 16;
/// Pieces for one system call; the kernel takes 1024.
const SLICES: usize = 128;
/// Each cut is a piece, and has one before it.
const CUTS_MAX: usize = SLICES / 2;
