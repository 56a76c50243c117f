//! What has arrived, with the rules that read it.
//!
//! A buffer is read at once: every frame in it is unmasked and noted, and from then on its bytes stay as they are, so
//! that who sends a payload on can borrow it. When all of it was looked at, and the queue has let go, the same buffer
//! takes the next bytes.

use std::{cell::Cell, ops::ControlFlow, rc::Rc};

use super::shared::Shared;
use crate::{
    buffer::{HOT, ReadBuf},
    metrics::Sizes,
    ws::{self, Event, Fault, Found, Header, Opcode, Plain, Role, mask},
};

/// A buffer that was read as a whole.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    found: Vec<Found>,
    /// Of what was found, the first that nobody has looked at.
    next: Cell<usize>,
    /// Where frames lie, one behind the other, that go back as they came and are not in the queue yet. Invariant: the queue
    /// is empty meanwhile.
    back: Cell<Option<(usize, usize)>>,
    /// What was wrong behind the last thing found.
    fault: Option<Fault>,
    /// Up to where it was read.
    end: usize,
}

impl Batch {
    /// A message that was put together, to be lent.
    pub(super) fn of_message(bytes: Vec<u8>) -> Rc<Self> {
        Rc::new(Self { bytes, ..Self::default() })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where `piece` lies in it, if it does.
    pub(super) fn place_of(&self, piece: &[u8]) -> Option<(usize, usize)> {
        let start = (piece.as_ptr() as usize).checked_sub(self.bytes.as_ptr() as usize)?;
        let end = start.checked_add(piece.len())?;
        (end <= self.bytes.len()).then_some((start, end))
    }

    /// The frame that says what was looked at last, if that is this message as it was received, and all of it.
    #[inline]
    pub(super) fn frame_of(&self, opcode: Opcode, message: &[u8]) -> Option<(usize, usize)> {
        let found = self.found.get(self.next.get().checked_sub(1)?)?;
        let &Found::Frame { opcode: was, start, end } = found else { return None };
        let is_it = self.place_of(message) == Some((start, end)) && opcode == was;
        is_it.then(|| (start - Header::size(end - start, false), end))
    }

    /// Has a frame sent back with those before it, or as the first where the queue `is_free`; `false`: it is not the next.
    #[inline]
    pub(super) fn gives_back(&self, (start, end): (usize, usize), is_free: impl FnOnce() -> bool) -> bool {
        let first = match self.back.get() {
            Some((first, last)) if last == start && end - first <= HOT => first,
            None if is_free() => start,
            _ => return false,
        };
        self.back.set(Some((first, end)));
        true
    }

    /// What the queue is to have now.
    #[inline]
    pub(super) fn take_back(&self) -> Option<(usize, usize)> {
        self.back.take()
    }

    /// Reads all frames from `start` on, up to what a single look at the decoder can tell.
    ///
    /// A masked frame is longer than one that is not, so a message can be moved forward behind a header of our own. Then
    /// those that are sent back as they came lie one behind the other, as they are to be sent. A long one stays, behind a
    /// header where its key was: it is a piece of its own, which is cheaper than to move it.
    ///
    /// ```text
    ///   head key payload | head key payload | head key long payload |
    ///   head payload head payload |               head long payload |
    /// ```
    #[inline]
    fn read(&mut self, start: usize, decoder: &mut ws::Receiver, sizes: &Sizes) {
        self.end = start;
        let free = self.read_plain(start, decoder, sizes);
        if self.end < self.bytes.len() || !decoder.is_between() {
            self.read_on(free, decoder, sizes);
        }
    }

    /// The same for anything, from the first that is not plain on.
    #[inline(never)]
    fn read_on(&mut self, mut free: usize, decoder: &mut ws::Receiver, sizes: &Sizes) {
        loop {
            let unmask = |bytes: &mut [u8], header: &Header, start: usize| {
                let length = header.length as usize;
                match header.mask {
                    Some(key) if header.length >= STAYS as u64 => {
                        mask::apply(&mut bytes[start..start + length], key, 0);
                        Header { mask: None, ..*header }
                            .encode_at(bytes, start - Header::size(length, false));
                    }
                    Some(key) if !header.opcode.is_control() => {
                        let size = Header { mask: None, ..*header }.encode_at(bytes, free);
                        mask::apply_moving(bytes, free + size, start, length, key);
                        free += size + length;
                        return free - length;
                    }
                    Some(key) => mask::apply(&mut bytes[start..start + length], key, 0),
                    None => {}
                }
                free = start + length;
                start
            };
            match decoder.step_from(&mut self.bytes, self.end, |_| ControlFlow::Break(()), unmask) {
                Ok(step) => {
                    self.end = step.consumed;
                    match step.found {
                        Some(found @ Found::Frame { opcode, start, end }) => {
                            self.found.push(found);
                            if !opcode.is_control() {
                                sizes.record(end - start);
                                free = self.read_plain(free, decoder, sizes);
                            } else if opcode == Opcode::Close {
                                // What follows means nothing (RFC 6455 5.5.1).
                                self.end = self.bytes.len();
                                return;
                            }
                        }
                        Some(found @ Found::Part { end, .. }) => {
                            self.found.push(found);
                            free = end;
                        }
                        // The decoder holds it, and can go on only when it was delivered.
                        Some(found @ (Found::Message | Found::Held(_))) => return self.found.push(found),
                        None => return,
                    }
                }
                Err(fault) => return self.fault = Some(fault),
            }
        }
    }

    /// Reads on past whole messages in plain frames, which is what mostly comes; what it moves, it moves to `free`. Returns
    /// where the next may be moved to.
    #[inline]
    fn read_plain(&mut self, mut free: usize, decoder: &mut ws::Receiver, sizes: &Sizes) -> usize {
        let Some(length_max) = decoder.plain_max() else { return free };
        let from = self.end;
        let bytes = &mut self.bytes[..];
        let mut at = self.end;
        while let Some(frame) = Plain::decode(&bytes[at..]) {
            let (mut start, length) = (at + frame.size, frame.length);
            if length > bytes.len() - start || length > length_max {
                break;
            }
            at = start + length;
            if length >= STAYS {
                mask::apply(&mut bytes[start..at], frame.key, 0);
                frame.encode_at(bytes, start - 4);
                free = at;
            } else {
                let payload = start;
                start = free + frame.encode_at(bytes, free);
                mask::apply_moving(bytes, start, payload, length, frame.key);
                free = start + length;
            }
            self.found.push(Found::Frame { opcode: frame.opcode, start, end: start + length });
            sizes.record(length);
        }
        self.end = at;
        if at > from {
            decoder.has_read_plain();
        }
        free
    }
}

/// What has arrived of a connection, and what was made of it so far. Where nothing has, a connection does without.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(super) buf: ReadBuf,
    pub(super) decoder: ws::Receiver,
    batch: Option<Rc<Batch>>,
    /// A long message that was put together, while it is looked at.
    message: Option<Rc<Batch>>,
}

impl Inbound {
    pub(super) fn new(buf: ReadBuf, decoder: ws::Receiver) -> Self {
        Self { buf, decoder, batch: None, message: None }
    }

    /// Whether it holds nothing of the connection, so that the core may lend it to another.
    pub(super) fn is_at_rest(&self) -> bool {
        self.batch.is_none() && self.buf.unread().is_empty() && self.decoder.is_at_rest()
    }

    /// Reads up to the next message on the driver's behalf, so that pings and a close are seen to while the handler does
    /// something else; `false`: there is none, and all was read.
    pub(super) fn look(&mut self, shared: &Shared) -> Result<bool, Fault> {
        match self.find(shared)? {
            Some(found @ Found::Frame { opcode: Opcode::Close, .. }) => {
                self.advance();
                if let Event::Close(frame) = self.event(found, shared)? {
                    shared.peer_closes(frame);
                }
                Ok(false)
            }
            found => Ok(found.is_some()),
        }
    }

    /// Reads up to the next message or close; answers pings on the way. `None`: all was read.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<Option<Found>, Fault> {
        self.forget(shared);
        let found = self.find(shared)?;
        if found.is_some() {
            self.advance();
        }
        Ok(found)
    }

    /// Lets go of the long message that was looked at.
    #[inline]
    pub(super) fn forget(&mut self, shared: &Shared) {
        if self.message.take().is_some() {
            shared.lent_message.take();
        }
    }

    /// The same where the next thing is a message by itself, which is what it mostly is: whether it is text, and where it
    /// [lies](Self::payload).
    #[inline]
    pub(super) fn next_frame(&self) -> Option<(bool, usize, usize)> {
        let batch = self.batch.as_ref().filter(|_| self.message.is_none())?;
        let next = batch.next.get();
        match *batch.found.get(next)? {
            Found::Frame { opcode: opcode @ (Opcode::Text | Opcode::Binary), start, end } => {
                batch.next.set(next + 1);
                Some((opcode == Opcode::Text, start, end))
            }
            _ => None,
        }
    }

    /// The payload of a frame that was found.
    #[inline]
    pub(super) fn payload(&self, start: usize, end: usize) -> &[u8] {
        self.batch.as_ref().map_or(&[], |batch| &batch.bytes[start..end])
    }

    fn advance(&self) {
        let batch = self.batch.as_ref().expect("something was found in it");
        batch.next.set(batch.next.get() + 1);
    }

    /// What comes next, but for pings, which are answered, and pongs.
    fn find(&mut self, shared: &Shared) -> Result<Option<Found>, Fault> {
        loop {
            let Some(batch) = &self.batch else {
                if self.buf.unread().is_empty() && self.decoder.is_between() {
                    return Ok(None);
                }
                if shared.in_parts.get() {
                    self.decoder.in_parts();
                }
                self.freeze(shared);
                let batch = self.batch.as_ref().expect("it was just made");
                if batch.found.is_empty() && batch.fault.is_none() {
                    self.thaw(shared);
                    return Ok(None);
                }
                continue;
            };
            match batch.found.get(batch.next.get()) {
                Some(&Found::Frame { opcode: Opcode::Ping, start, end }) => {
                    shared.pong(&batch.bytes[start..end]);
                }
                Some(Found::Frame { opcode: Opcode::Pong, .. }) => {}
                Some(found) => return Ok(Some(*found)),
                None => {
                    let fault = batch.fault;
                    self.thaw(shared);
                    match fault {
                        Some(fault) => return Err(fault),
                        None => continue,
                    }
                }
            }
            self.advance();
        }
    }

    /// What was found by the last step, for who takes messages in parts.
    pub(super) fn part(&mut self, found: Found, shared: &Shared) -> Result<ws::Part<'_>, Fault> {
        let bytes = self.batch.as_ref().map_or(&[][..], |batch| &batch.bytes);
        let part = self.decoder.part(found, bytes)?;
        if let (Found::Part { .. } | Found::Held(_), Event::Text(_) | Event::Binary(_)) = (found, part.event)
        {
            shared.link.worker.counters.messages_received.record(part.event.len());
        }
        Ok(part)
    }

    /// What was found by the last step, borrowed from where it lies.
    pub(super) fn event(&mut self, found: Found, shared: &Shared) -> Result<Event<'_>, Fault> {
        if found == Found::Message
            && let Some(bytes) = self.decoder.take_long()
        {
            shared.link.worker.counters.messages_received.record(bytes.len());
            let message = Batch::of_message(bytes);
            *shared.lent_message.borrow_mut() = Some(Rc::clone(&message));
            return Ok(Event::Binary(&self.message.insert(message).bytes));
        }
        let bytes = self.batch.as_ref().map_or(&[][..], |batch| &batch.bytes);
        let event = self.decoder.event(found, bytes)?;
        if !matches!(found, Found::Frame { .. }) {
            shared.link.worker.counters.messages_received.record(event.len());
        }
        Ok(event)
    }

    /// Reads to the end without anybody to hear the messages.
    pub(super) fn discard(&mut self, shared: &Shared) -> Result<(), Fault> {
        while let Some(found) = self.step(shared)? {
            if let Event::Close(frame) = self.event(found, shared)? {
                shared.peer_closes(frame);
            }
        }
        Ok(())
    }

    fn freeze(&mut self, shared: &Shared) {
        let mut batch = shared.link.worker.batches.take();
        let inner = Rc::get_mut(&mut batch).expect("an empty batch has one owner");
        let (bytes, start) = self.buf.take();
        inner.bytes = bytes;
        inner.read(start, &mut self.decoder, &shared.link.worker.counters.messages_received);
        *shared.lent.borrow_mut() = Some(Rc::clone(&batch));
        self.batch = Some(batch);
    }

    fn thaw(&mut self, shared: &Shared) {
        let Some(mut batch) = self.batch.take() else { return };
        // It is ours, and lent. More owners are in the queue: sending makes them let go; an error is met again by the driver.
        if Rc::strong_count(&batch) > 2 || batch.back.get().is_some() {
            drop(shared.send());
        }
        shared.lent.take();
        let inner = Rc::get_mut(&mut batch).expect("the queue has let go of it");
        self.buf.put(std::mem::take(&mut inner.bytes), inner.end);
        inner.found.clear();
        inner.found.shrink_to(FOUND_KEPT);
        inner.next.set(0);
        inner.fault = None;
        shared.link.worker.batches.give_back(batch);
    }
}

impl Default for Inbound {
    fn default() -> Self {
        Self::new(ReadBuf::default(), ws::Receiver::new(Role::Server, ws::Limits::default()))
    }
}

/// From this length on a message is not moved. Where it lies it can be unmasked by whole cache lines.
const STAYS: usize = 4096;
/// A peer can fill the buffer with the smallest frames.
const FOUND_KEPT: usize = 1024;
