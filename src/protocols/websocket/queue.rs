//! Frames that wait to be sent: as a rule one write for all that a round has queued.
//!
//! A small payload is copied behind its header. A large one that lies in a [`Batch`] stays there, and is sent from
//! where it has arrived; the batch is lent to the queue meanwhile. A frame that goes to many is shared.
//!
//! ```text
//!   frames  [ sent | header, header, payload, header | header ... ]
//!                                                    ^ cut.at: somebody else's bytes come in between
//! ```

use std::{collections::VecDeque, io, io::IoSlice, rc::Rc};

use super::{RandomMasks, batch::Batch};
use crate::{
    buffer::HOT,
    sessions::Link,
    ws::{self, Compressor, Header, Opcode, Prepared},
};

#[derive(Debug, Default)]
pub(super) struct Queue {
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
    /// The client's masks (RFC 6455 5.3); a server has none.
    masks: Option<RandomMasks>,
    compressor: Option<Box<Compressor>>,
    /// Where the waiting messages end, if the oldest may have to go.
    ends: Option<VecDeque<Waiting>>,
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
        Self {
            masks,
            compressor: compressor.map(Box::new),
            ends: drops_oldest.then(VecDeque::new),
            ..Self::default()
        }
    }

    /// Bytes that wait.
    pub(super) fn unsent(&self) -> usize {
        self.frames.len() - self.sent + self.cut
    }

    /// Whether more may be queued. What lies in a batch costs nothing as long as the socket takes everything, so that a
    /// whole round of large messages is one write.
    pub(super) fn has_room(&self, queue_max: usize) -> bool {
        let held = if self.is_stalled { self.unsent() } else { self.unsent() - self.cut };
        held <= queue_max && self.unsent() <= queue_max.max(HOT)
    }

    /// Whether the socket had no room for all of it.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    /// Whether a payload of this size can be sent from where it lies: not masked, not compressed, not to be dropped.
    pub(super) fn borrows(&self, size: usize) -> bool {
        size >= LENT_MIN
            && self.masks.is_none()
            && self.ends.is_none()
            && !self.compressor.as_ref().is_some_and(|compressor| compressor.is_for(size))
    }

    pub(super) fn push(&mut self, opcode: Opcode, payload: &[u8], link: &Link) {
        self.make_buffer(link);
        let start = self.frames.len();
        let mask = self.masks.as_mut().map(RandomMasks::next);
        ws::write_message(&mut self.frames, opcode, payload, mask, self.compressor.as_deref_mut());
        if let Some(ends) = &mut self.ends
            && !opcode.is_control()
        {
            ends.push_back(Waiting { start, end: self.frames.len() });
        }
    }

    /// Queues a piece of a message, never compressed.
    pub(super) fn push_fragment(&mut self, fin: bool, opcode: Opcode, payload: &[u8], link: &Link) {
        self.make_buffer(link);
        let mask = self.masks.as_mut().map(RandomMasks::next);
        ws::write_frame(&mut self.frames, fin, opcode, payload, mask);
    }

    /// Queues a frame whose payload lies in a batch, without copying it.
    pub(super) fn push_lent(
        &mut self,
        opcode: Opcode,
        batch: &Rc<Batch>,
        start: usize,
        end: usize,
        link: &Link,
    ) {
        self.make_buffer(link);
        let length = (end - start) as u64;
        let mut header = [0; Header::SIZE_MAX];
        let size = Header { fin: true, rsv1: false, opcode, mask: None, length }.encode(&mut header);
        self.frames.extend_from_slice(&header[..size]);
        self.cut_in(Source::Batch(Rc::clone(batch)), start, end);
    }

    /// Queues a message that goes to many.
    pub(super) fn push_prepared(&mut self, prepared: &Prepared, link: &Link) {
        if self.masks.is_some() {
            return self.push(prepared.opcode(), prepared.payload(), link);
        }
        self.make_buffer(link);
        let frame = prepared.frame(self.compressor.as_deref_mut());
        let start = self.frames.len();
        if frame.len() >= LENT_MIN && self.ends.is_none() {
            return self.cut_in(Source::Frame(Rc::clone(frame)), 0, frame.len());
        }
        self.frames.extend_from_slice(frame);
        if let Some(ends) = &mut self.ends {
            ends.push_back(Waiting { start, end: self.frames.len() });
        }
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

    /// Makes room by dropping the oldest messages of which nothing was sent; how many it were.
    pub(super) fn drop_oldest(&mut self, queue_max: usize) -> u64 {
        let Some(ends) = &mut self.ends else { return 0 };
        let mut dropped = 0;
        let mut place = ends.iter().take_while(|waiting| waiting.start < self.sent).count();
        while self.frames.len() - self.sent > queue_max {
            let Some(Waiting { start, end }) = ends.remove(place) else { break };
            self.frames.drain(start..end);
            for later in ends.iter_mut().skip(place) {
                later.start -= end - start;
                later.end -= end - start;
            }
            dropped += 1;
            place = place.min(ends.len());
        }
        dropped
    }

    /// Answers a ping. A burst of more than [`PONGS_MAX`] gets one answer more, to its last (RFC 6455 5.5.3).
    pub(super) fn pong(&mut self, payload: &[u8], link: &Link) {
        if self.pongs < PONGS_MAX {
            self.pongs += 1;
            self.push(Opcode::Pong, payload, link);
        } else {
            self.last_pong = Some(payload.into());
        }
    }

    /// Sends what the socket takes; an error of kind `WouldBlock` says that there is more. Either way every batch has
    /// been let go of.
    pub(super) fn send(&mut self, link: &Link) -> io::Result<()> {
        if let Some(payload) = self.last_pong.take() {
            self.push(Opcode::Pong, &payload, link);
        }
        while self.unsent() > 0 {
            let sent = if self.cuts.is_empty() {
                link.stream.try_write(&self.frames[self.sent..])
            } else {
                self.gather(|slices| link.stream.try_write_vectored(slices))
            };
            match sent {
                Ok(count) => {
                    self.advance(count);
                    link.sent.set(link.sent.get() + count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.keep_rest(link);
                    return Err(error);
                }
            }
        }
        self.is_stalled = false;
        self.pongs = 0;
        self.sent = 0;
        if let Some(ends) = &mut self.ends {
            ends.clear();
        }
        let frames = std::mem::take(&mut self.frames);
        if std::mem::take(&mut self.is_pooled) {
            link.worker.pool.give_back(frames);
        }
        Ok(())
    }

    /// What waits, in its order; of very many pieces the first.
    fn gather<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut at = self.sent;
        for cut in self.cuts.iter().take(SLICES / 2) {
            for piece in [&self.frames[at..cut.at], cut.bytes()] {
                if !piece.is_empty() {
                    slices[count] = IoSlice::new(piece);
                    count += 1;
                }
            }
            at = cut.at;
        }
        if self.cuts.len() < SLICES / 2 && at < self.frames.len() {
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
        if let Some(ends) = &mut self.ends {
            // They begin where the rest will begin.
            ends.retain(|waiting| waiting.start >= self.sent);
            for waiting in ends.iter_mut() {
                waiting.start -= self.sent;
                waiting.end -= self.sent;
            }
        }
        let mut rest = Vec::with_capacity(self.unsent());
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
