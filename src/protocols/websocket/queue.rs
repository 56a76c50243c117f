//! Frames that wait to be sent: as a rule one write for all that a round has queued.
//!
//! A small payload is copied behind its header. A large one that lies in a [`Batch`] stays there, and is sent from
//! where it has arrived; the batch is lent to the queue meanwhile.
//!
//! ```text
//!   frames  [ sent | header, header, payload, header | header ... ]
//!                                                    ^ cut.at: the bytes of a batch come in between
//! ```

use std::{collections::VecDeque, io, io::IoSlice, rc::Rc};

use super::batch::Batch;
use crate::{
    buffer::HOT,
    sessions::Link,
    ws::{self, Header, Opcode},
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
}

/// A piece of a batch, between the frames before `at` and those behind.
#[derive(Debug)]
struct Cut {
    at: usize,
    batch: Rc<Batch>,
    start: usize,
    end: usize,
}

impl Queue {
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

    pub(super) fn push(&mut self, opcode: Opcode, payload: &[u8], link: &Link) {
        self.make_buffer(link);
        ws::write_frame(&mut self.frames, true, opcode, payload, None);
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
        self.cuts.push_back(Cut { at: self.frames.len(), batch: Rc::clone(batch), start, end });
        self.cut += end - start;
    }

    fn make_buffer(&mut self, link: &Link) {
        if self.frames.capacity() == 0 {
            self.frames = link.worker.pool.take();
            self.is_pooled = true;
        }
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
            for piece in [&self.frames[at..cut.at], &cut.batch.bytes()[cut.start..cut.end]] {
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

    /// A queue that waits does so in a buffer of its own size: the large ones are for who runs.
    fn keep_rest(&mut self, link: &Link) {
        self.is_stalled = true;
        if !self.cuts.is_empty() || self.is_pooled {
            let mut rest = Vec::with_capacity(self.unsent());
            let mut at = self.sent;
            for cut in self.cuts.drain(..) {
                rest.extend_from_slice(&self.frames[at..cut.at]);
                rest.extend_from_slice(&cut.batch.bytes()[cut.start..cut.end]);
                at = cut.at;
            }
            rest.extend_from_slice(&self.frames[at..]);
            (self.sent, self.cut) = (0, 0);
            let frames = std::mem::replace(&mut self.frames, rest);
            if std::mem::take(&mut self.is_pooled) {
                link.worker.pool.give_back(frames);
            }
        } else if self.sent > self.frames.len() / 2 {
            self.frames.drain(..self.sent);
            self.sent = 0;
        }
    }
}

/// Autobahn sends ten in a row, and wants ten answers.
const PONGS_MAX: usize = 16;
/// Pieces for one system call; the kernel takes 1024.
const SLICES: usize = 128;
