//! From frames to events (5.4–5.6): fragments, control frames between them, limits.
//!
//! Most messages are one frame that has arrived as a whole. They are unmasked where they lie and
//! the event borrows them. Any other payload is taken as it arrives, so that a long message needs
//! no long read buffer, and bad text fails at its first bad byte. A compressed one is inflated on
//! the way, and only what comes out of it counts.
//!
//! Who does not want a long message as a whole takes it [in parts](Receiver::in_parts): where they arrived if they are
//! bytes as they stand, else copied, a few KiB at a time.

use std::{ops::ControlFlow, rc::Rc};

use super::{
    Agreed, CloseFrame, Contexts, Fault, Header, Limits, Opcode, Role, deflate::Decompressor, mask,
    utf8::Validator,
};

/// What the bytes of one side meant so far.
#[derive(Debug)]
pub struct Receiver {
    role: Role,
    limits: Limits,
    state: State,
    /// The message of which some frame has begun but the last has not ended.
    open: Option<Open>,
    assembly: Assembly,
    /// For compressed messages, if they were agreed on.
    decompressor: Option<Box<Decompressor>>,
    /// Messages are not put together.
    is_in_parts: bool,
    /// A message of bytes up to this length is waited for where it has arrived, once.
    whole_max: usize,
    /// How much of the frame that comes next was there when it was waited for; 0 if it was not.
    waited_with: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// A header comes next.
    Header,
    /// The rest of a data frame's payload comes next.
    Payload(Rest),
    /// As `Header`, but the last event may have borrowed the message.
    Delivered,
    /// The peer has sent its close frame: nothing behind it means anything (5.5.1).
    Closed,
}

/// What is still to come of a data frame.
#[derive(Clone, Copy, Debug)]
struct Rest {
    fin: bool,
    mask: Option<[u8; 4]>,
    /// How much of the payload has been taken.
    taken: usize,
    left: usize,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    is_text: bool,
    is_compressed: bool,
    /// A part of it was found.
    is_begun: bool,
    /// Announced so far; never above what `length_max` says. In parts it is not counted.
    length: usize,
    /// In parts, the empty ones since the last that was not.
    fragments: usize,
}

/// Where a message is put together. Text is text as soon as it is here.
#[derive(Debug, Default)]
struct Assembly {
    text: String,
    binary: Vec<u8>,
    validator: Validator,
}

/// What [`Receiver::receive`] made of its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// How many bytes are done with. Invariant: `consumed <= bytes.len()`.
    pub consumed: usize,
    /// `None`: the rest can only be read together with what comes next.
    pub event: Option<Event<'a>>,
}

/// What [`Receiver::step`] made of its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// How many bytes are done with once the event was looked at.
    pub consumed: usize,
    /// To be turned into an event; `None` as in [`Received`].
    pub found: Option<Found>,
}

/// Where an event lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In the bytes: a frame that is an event by itself, unmasked. Text is not validated yet.
    Frame {
        /// What it is.
        opcode: Opcode,
        /// Where its payload begins.
        start: usize,
        /// And where it ends.
        end: usize,
    },
    /// In the receiver: a message that was put together.
    Message,
    /// In the bytes: a part of a message of bytes, unmasked.
    Part {
        /// What it is of its message.
        place: Place,
        /// Where it begins.
        start: usize,
        /// And where it ends.
        end: usize,
    },
    /// In the receiver: a part that is text, or was inflated.
    Held(Place),
}

/// What a part is of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The message is text.
    pub is_text: bool,
    /// The message begins with it.
    pub is_first: bool,
    /// The message ends with it.
    pub is_last: bool,
}

/// Something whole that the peer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A message of text.
    Text(&'a str),
    /// A message of bytes.
    Binary(&'a [u8]),
    /// To be answered by a pong with the same payload (5.5.2).
    Ping(&'a [u8]),
    /// The answer to a ping, or a sign of life.
    Pong(&'a [u8]),
    /// To be answered by a close frame, if we have not sent one (5.5.1).
    Close(Option<CloseFrame<'a>>),
}

impl Event<'_> {
    /// How many bytes of a message there are; none of what is no message.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
            Self::Ping(_) | Self::Pong(_) | Self::Close(_) => 0,
        }
    }
}

/// A part of a message, or all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// [`Event::Text`], which is whole characters, or [`Event::Binary`].
    pub event: Event<'a>,
    /// The message begins with it.
    pub is_first: bool,
    /// The message ends with it.
    pub is_last: bool,
}

impl Receiver {
    /// The most that `receive` leaves unread while it waits for more: a control frame, less one
    /// byte. Precondition: the caller's buffer holds more than this, or a peer could stall it.
    pub const UNREAD_MAX: usize = 2 + 4 + 125 - 1;
    /// The longest part. One that is copied has at most 16 KiB.
    pub const PART_MAX: usize = 64 << 10;

    /// For our role: a server's receiver reads what a client sent.
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            role,
            limits,
            state: State::Header,
            open: None,
            assembly: Assembly::default(),
            decompressor: None,
            is_in_parts: false,
            whole_max: 0,
            waited_with: 0,
        }
    }

    /// The same where permessage-deflate was agreed on. `Limits::message_max` holds for what a
    /// message is inflated to, while it is.
    pub fn with_deflate(role: Role, limits: Limits, agreed: Agreed, contexts: &Rc<Contexts>) -> Self {
        let decompressor = Decompressor::new(role, agreed, contexts);
        Self { decompressor: Some(Box::new(decompressor)), ..Self::new(role, limits) }
    }

    /// From now on messages are found in parts, as they arrive: of at most [`PART_MAX`](Self::PART_MAX) bytes, and text
    /// cut only between characters. What was put together of a message before is its first part.
    ///
    /// No more than a part is held, so a message has no longest length, and no most fragments: of these only as many
    /// empty ones in a row as [`Limits::fragments_max`] says.
    pub fn in_parts(&mut self) {
        if std::mem::replace(&mut self.is_in_parts, true) {
            return;
        }
        self.limits.message_max = usize::MAX;
        if let Some(open) = &mut self.open {
            (open.length, open.fragments) = (0, 0);
        }
    }

    /// Reads up to the first event. Call it again with what was not consumed, until there is no
    /// event; then also a long message's memory is given back. The payload is unmasked in place.
    ///
    /// A fault is final: the connection is failed (7.1.7), and further events mean nothing.
    #[inline]
    pub fn receive<'a>(&'a mut self, bytes: &'a mut [u8]) -> Result<Received<'a>, Fault> {
        let Step { consumed, found } = self.step(bytes, |_| ControlFlow::Break(()))?;
        let event = found.map(|found| self.event(found, bytes)).transpose()?;
        Ok(Received { consumed, event })
    }

    /// The first half of [`receive`](Self::receive): reads on past each ping and pong for which
    /// `control` says to continue, until something else is found. In two halves a caller can wait
    /// in a loop for what it then borrows.
    #[inline]
    pub fn step(
        &mut self,
        bytes: &mut [u8],
        control: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Step, Fault> {
        self.step_from(bytes, 0, control, |bytes, header, start| {
            let end = start + header.length as usize;
            if let Some(key) = header.mask {
                mask::apply(&mut bytes[start..end], key, 0);
            }
            start
        })
    }

    /// As [`step`](Self::step), for `bytes` that have been read up to `at`, and with the caller's own way of unmasking
    /// what is an event by itself: its header, where it begins, and where it is put.
    #[inline]
    pub(crate) fn step_from(
        &mut self,
        bytes: &mut [u8],
        mut at: usize,
        mut control: impl FnMut(Event<'_>) -> ControlFlow<()>,
        mut unmask: impl FnMut(&mut [u8], &Header, usize) -> usize,
    ) -> Result<Step, Fault> {
        loop {
            match self.state {
                State::Header => {}
                State::Payload(rest) if self.is_in_parts => {
                    let Step { consumed, found } = self.take_part(rest, bytes, at)?;
                    let is_stuck = consumed == at && matches!(self.state, State::Payload(_));
                    at = consumed;
                    if found.is_some() || is_stuck {
                        return Ok(Step { consumed: at, found });
                    }
                    continue;
                }
                State::Payload(rest) => {
                    at += self.take(rest, &mut bytes[at..])?;
                    match self.state {
                        State::Payload(_) => return Ok(Step { consumed: at, found: None }),
                        State::Delivered => {
                            return Ok(Step { consumed: at, found: Some(Found::Message) });
                        }
                        _ => {}
                    }
                }
                State::Delivered => self.forget(),
                State::Closed => return Ok(Step { consumed: bytes.len(), found: None }),
            }
            let Some((header, size)) = Header::decode(&bytes[at..])? else {
                return Ok(Step { consumed: at, found: None });
            };
            self.admit(&header)?;
            let start = at + size;
            let is_whole = header.length <= (bytes.len() - start) as u64;
            let is_event = header.opcode.is_control() || (header.fin && self.open.is_none() && !header.rsv1);
            let is_small = !self.is_in_parts || header.length <= Self::PART_MAX as u64;
            if !(is_whole && is_event && is_small) {
                if header.opcode.is_control()
                    || (is_event && self.is_worth_waiting(&header, bytes.len() - at))
                {
                    return Ok(Step { consumed: at, found: None });
                }
                self.begin(&header);
                at = start;
                continue;
            }
            self.waited_with = 0;
            // It has arrived whole, so its length is a `usize`.
            let (end, length) = (start + header.length as usize, header.length as usize);
            let start = unmask(bytes, &header, start);
            let payload = &bytes[start..start + length];
            let is_sign_of_life = matches!(header.opcode, Opcode::Ping | Opcode::Pong);
            if is_sign_of_life && control(sign_of_life(header.opcode, payload)).is_continue() {
                at = end;
                continue;
            }
            let found = Found::Frame { opcode: header.opcode, start, end: start + length };
            return Ok(Step { consumed: end, found: Some(found) });
        }
    }

    /// The longest message that may come now in a [plain](super::Plain) frame; `None`: none may. The caller can read such
    /// frames itself, one behind the other, if it [says so](Self::has_read_plain), and has the rest read by
    /// [`step_from`](Self::step_from).
    #[inline]
    pub(crate) fn plain_max(&self) -> Option<usize> {
        let is_between = matches!(self.state, State::Header) && self.open.is_none();
        let is_allowed = self.role == Role::Server && self.limits.fragments_max > 0;
        (is_between && is_allowed).then_some(self.limits.message_max)
    }

    #[inline]
    pub(crate) fn has_read_plain(&mut self) {
        self.waited_with = 0;
    }

    /// The second half of [`receive`](Self::receive): what the last [`step`](Self::step) found in
    /// `bytes`, which are the same and unchanged.
    #[inline]
    pub fn event<'a>(&'a mut self, found: Found, bytes: &'a [u8]) -> Result<Event<'a>, Fault> {
        let (opcode, payload) = match found {
            Found::Frame { opcode, start, end } => (opcode, &bytes[start..end]),
            Found::Message => return Ok(self.deliver()),
            Found::Part { start, end, .. } => return Ok(Event::Binary(&bytes[start..end])),
            Found::Held(place) => return Ok(self.assembly.event(place.is_text)),
        };
        Ok(match opcode {
            Opcode::Text => Event::Text(text(payload)?),
            Opcode::Ping | Opcode::Pong => sign_of_life(opcode, payload),
            Opcode::Close => {
                let frame = CloseFrame::parse(payload)?;
                self.state = State::Closed;
                Event::Close(frame)
            }
            // `admit` has refused a continuation, for no message is open.
            Opcode::Binary | Opcode::Continuation => Event::Binary(payload),
        })
    }

    /// The same for who takes messages in parts: what is a message by itself is its first part and its last.
    pub fn part<'a>(&'a mut self, found: Found, bytes: &'a [u8]) -> Result<Part<'a>, Fault> {
        let (is_first, is_last) = match found {
            Found::Part { place, .. } | Found::Held(place) => (place.is_first, place.is_last),
            Found::Frame { .. } | Found::Message => (true, true),
        };
        Ok(Part { event: self.event(found, bytes)?, is_first, is_last })
    }

    /// After [`Found::Message`], instead of [`event`](Self::event): the message itself, if it is a
    /// long one of bytes, whose memory would be given back anyway.
    pub fn take_long(&mut self) -> Option<Vec<u8>> {
        let is_text = self.open.is_none_or(|open| open.is_text);
        if is_text || self.assembly.binary.len() <= CAPACITY_KEPT {
            return None;
        }
        self.open = None;
        Some(std::mem::take(&mut self.assembly.binary))
    }

    /// Whether it could find nothing without more bytes.
    pub(crate) fn is_between(&self) -> bool {
        matches!(self.state, State::Header | State::Delivered | State::Closed)
    }

    /// Whether it holds nothing of the connection, so that another one may take its place.
    pub(crate) fn is_at_rest(&self) -> bool {
        let is_open = matches!(self.state, State::Header | State::Delivered);
        is_open && self.open.is_none() && self.decompressor.is_none()
    }

    /// Makes one that is [at rest](Self::is_at_rest) another connection's.
    pub(crate) fn reset(&mut self, role: Role, limits: Limits) {
        debug_assert!(self.is_at_rest());
        self.forget();
        (self.role, self.limits, self.is_in_parts) = (role, limits, false);
        (self.whole_max, self.waited_with) = (0, 0);
    }

    /// From now on up to so many bytes of a message, and its header, are left unread until the next bytes are there.
    /// Returns what held before.
    pub(crate) fn wait_for(&mut self, whole_max: usize) -> usize {
        std::mem::replace(&mut self.whole_max, whole_max)
    }

    /// Whether a message has begun that has not ended.
    pub fn in_message(&self) -> bool {
        self.open.is_some()
    }

    /// Whether the peer has sent its close frame.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// The most that is left unread.
    #[cfg(test)]
    pub(super) fn unread_max(&self) -> usize {
        Self::UNREAD_MAX.max(self.whole_max + Header::SIZE_MAX)
    }

    /// What the message that is put together takes in memory.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.assembly.text.capacity() + self.assembly.binary.capacity()
    }

    /// May this frame come now, and is there room for it? Changes nothing.
    #[inline]
    fn admit(&self, header: &Header) -> Result<(), Fault> {
        // On the first frame of a message it says that all of it is compressed (RFC 7692 6).
        if header.rsv1
            && (self.decompressor.is_none() || !matches!(header.opcode, Opcode::Text | Opcode::Binary))
        {
            return Err(Fault::ReservedBits);
        }
        match (self.role, header.mask) {
            (Role::Server, None) => return Err(Fault::Unmasked),
            (Role::Client, Some(_)) => return Err(Fault::Masked),
            _ => {}
        }
        if header.opcode.is_control() {
            return Ok(());
        }
        let (is_compressed, length, fragments) = match (self.open, header.opcode) {
            (None, Opcode::Continuation) => return Err(Fault::NothingToContinue),
            (None, _) => (header.rsv1, 0, 0),
            (Some(open), Opcode::Continuation) => (open.is_compressed, open.length, open.fragments),
            (Some(_), _) => return Err(Fault::MessageInMessage),
        };
        if header.length > (self.length_max(is_compressed) - length) as u64 {
            return Err(Fault::MessageTooLong);
        }
        if fragments >= self.limits.fragments_max {
            return Err(Fault::TooManyFragments);
        }
        Ok(())
    }

    /// Whether what has come of a message is left where it is until more has: then it is not taken in two pieces, and put
    /// together elsewhere. Only once, or who sends it byte by byte would have it carried about at each of them; and no text,
    /// which fails at its first bad byte.
    fn is_worth_waiting(&mut self, header: &Header, there: usize) -> bool {
        let is_whole_soon = header.opcode == Opcode::Binary && header.length <= self.whole_max as u64;
        // Whoever looks again, and nothing has come, waits on.
        let is_first_wait = self.waited_with == 0 || self.waited_with == there;
        let is_worth_it = is_whole_soon && !self.is_in_parts && is_first_wait;
        self.waited_with = if is_worth_it { there } else { 0 };
        is_worth_it
    }

    /// The most bytes that a message may have on the wire. Compressing may make one longer, but not
    /// twice as long; what is inflated is counted when it comes out.
    #[inline]
    fn length_max(&self, is_compressed: bool) -> usize {
        let message_max = self.limits.message_max;
        if is_compressed { message_max.saturating_mul(2).saturating_add(64) } else { message_max }
    }

    /// Begins a data frame that was admitted.
    fn begin(&mut self, header: &Header) {
        // It was admitted, so it is not longer than `length_max` says, which is a `usize`.
        let length = header.length as usize;
        let (is_text, is_compressed) = (header.opcode == Opcode::Text, header.rsv1);
        let open = self.open.get_or_insert(Open {
            is_text,
            is_compressed,
            is_begun: false,
            length: 0,
            fragments: 0,
        });
        if !self.is_in_parts {
            open.length += length;
            open.fragments += 1;
        } else {
            open.fragments = if length == 0 { open.fragments + 1 } else { 0 };
        }
        let (fin, mask) = (header.fin, header.mask);
        self.state = State::Payload(Rest { fin, mask, taken: 0, left: length });
    }

    /// Takes what has arrived of a data frame's payload, and says how much that was.
    fn take(&mut self, rest: Rest, bytes: &mut [u8]) -> Result<usize, Fault> {
        let size = rest.left.min(bytes.len());
        let piece = &mut bytes[..size];
        if let Some(key) = rest.mask {
            mask::apply(piece, key, rest.taken);
        }
        let open = self.open.expect("a payload is taken only after `begin`");
        let is_last = rest.fin && size == rest.left;
        if open.is_compressed {
            self.inflate(open.is_text, piece, is_last)?;
        } else {
            self.assembly.append(open.is_text, piece, self.limits.message_max)?;
        }
        if is_last {
            self.assembly.finish()?;
        }
        self.state = if is_last {
            State::Delivered
        } else if size == rest.left {
            State::Header
        } else {
            State::Payload(Rest { taken: rest.taken + size, left: rest.left - size, ..rest })
        };
        Ok(size)
    }

    /// Takes a piece of a compressed message, and of what comes out as much as the message may have.
    #[inline(never)] // it would make `step` slower for all who do not compress
    fn inflate(&mut self, is_text: bool, piece: &[u8], is_last: bool) -> Result<(), Fault> {
        let Self { assembly, decompressor, limits, .. } = self;
        let decompressor = decompressor.as_mut().expect("`admit` has refused the message without it");
        decompressor.inflate(piece, |inflated| {
            let fits = inflated.len().min(limits.message_max - assembly.len());
            assembly.append(is_text, &inflated[..fits], limits.message_max)?;
            if fits < inflated.len() { Err(Fault::MessageTooLong) } else { Ok(()) }
        })?;
        if is_last { decompressor.finish() } else { Ok(()) }
    }

    /// Takes what has arrived of a data frame's payload from `at` on, until it is a part.
    #[inline(never)] // as `inflate`
    fn take_part(&mut self, rest: Rest, bytes: &mut [u8], at: usize) -> Result<Step, Fault> {
        let Self { assembly, decompressor, open: message, .. } = self;
        let open = message.as_mut().expect("a payload is taken only after `begin`");
        let (is_text, is_first) = (open.is_text, !open.is_begun);
        if is_first && !assembly.is_empty() {
            // It was put together before anybody wanted parts.
            open.is_begun = true;
            let place = Place { is_text, is_first, is_last: false };
            return Ok(Step { consumed: at, found: Some(Found::Held(place)) });
        }
        assembly.clear();
        let is_in_place = !is_text && !open.is_compressed;
        let piece_max = if open.is_compressed {
            INPUT
        } else if is_text {
            HELD_MAX
        } else {
            Self::PART_MAX
        };
        let end = at + rest.left.min(bytes.len() - at).min(piece_max);
        let piece = &mut bytes[at..end];
        if let Some(key) = rest.mask {
            mask::apply(piece, key, rest.taken);
        }
        let (mut size, mut is_drained) = (piece.len(), true);
        if open.is_compressed {
            let decompressor = decompressor.as_mut().expect("`admit` has refused the message without it");
            (size, is_drained) = decompressor
                .inflate_part(piece, HELD_MAX, |inflated| assembly.append(is_text, inflated, usize::MAX))?;
            if let Some(key) = rest.mask {
                mask::apply(&mut piece[size..], key, rest.taken + size); // it will be read once more
            }
        } else if is_text {
            assembly.append(true, piece, usize::MAX)?;
        }
        let is_frame_over = size == rest.left && is_drained;
        let is_last = rest.fin && is_frame_over;
        if is_last {
            if open.is_compressed {
                decompressor.as_mut().map_or(Ok(()), |decompressor| decompressor.finish())?;
            }
            assembly.finish()?;
        }
        let is_empty = if is_in_place { size == 0 } else { assembly.is_empty() };
        let found = (is_last || !is_empty).then(|| {
            open.is_begun = true;
            let place = Place { is_text, is_first, is_last };
            if is_in_place { Found::Part { place, start: at, end: at + size } } else { Found::Held(place) }
        });
        if is_last {
            *message = None;
        }
        self.state = if is_last && !is_in_place {
            State::Delivered
        } else if is_frame_over {
            State::Header
        } else {
            State::Payload(Rest { taken: rest.taken + size, left: rest.left - size, ..rest })
        };
        Ok(Step { consumed: at + size, found })
    }

    /// The message that has just ended.
    fn deliver(&mut self) -> Event<'_> {
        let is_text = self.open.take().is_some_and(|open| open.is_text);
        self.assembly.event(is_text)
    }

    /// Forgets the message that was delivered.
    fn forget(&mut self) {
        self.assembly.clear();
        self.state = State::Header;
    }
}

impl Assembly {
    fn event(&self, is_text: bool) -> Event<'_> {
        if is_text { Event::Text(&self.text) } else { Event::Binary(&self.binary) }
    }

    /// Whether nothing can be handed out: the beginning of a character cannot.
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.binary.is_empty()
    }

    /// How much of the message is here.
    fn len(&self) -> usize {
        self.text.len() + self.validator.pending() + self.binary.len()
    }

    /// Takes a piece, with which the message is no longer than `max`.
    fn append(&mut self, is_text: bool, piece: &[u8], max: usize) -> Result<(), Fault> {
        if is_text {
            let more = self.validator.pending() + piece.len();
            self.text.reserve_exact(room(self.text.len(), self.text.capacity(), more, max));
            return self.validator.feed(piece, &mut self.text).map_err(|_| Fault::TextNotUtf8);
        }
        self.binary.reserve_exact(room(self.binary.len(), self.binary.capacity(), piece.len(), max));
        self.binary.extend_from_slice(piece);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.validator.finish().map_err(|_| Fault::TextNotUtf8)
    }

    /// Makes room for the next. What was small is used again.
    fn clear(&mut self) {
        self.text.clear();
        self.binary.clear();
        if self.text.capacity() > CAPACITY_KEPT {
            self.text = String::new();
        }
        if self.binary.capacity() > CAPACITY_KEPT {
            self.binary = Vec::new();
        }
    }
}

/// What to reserve for `more` bytes that are here. Doubling, but not past [`CAPACITY_KEPT`] for a
/// message that fits in it, for then its buffer would not be kept; and not past `max` for any.
fn room(length: usize, capacity: usize, more: usize, max: usize) -> usize {
    let needed = length + more;
    if needed <= capacity {
        return 0;
    }
    let enough = if needed <= CAPACITY_KEPT { CAPACITY_KEPT } else { max };
    needed.max(enough.min(2 * capacity)) - length
}

const CAPACITY_KEPT: usize = 16 << 10;
/// What is taken of a part that is copied: with the beginning of a character before it, it fits in what is kept.
const HELD_MAX: usize = CAPACITY_KEPT - 3;
/// Compressed bytes that are looked at for a part. What is not taken of them is masked again.
const INPUT: usize = 4 << 10;

fn sign_of_life(opcode: Opcode, payload: &[u8]) -> Event<'_> {
    if opcode == Opcode::Ping { Event::Ping(payload) } else { Event::Pong(payload) }
}

/// The text of a whole frame.
#[inline]
pub(crate) fn text(payload: &[u8]) -> Result<&str, Fault> {
    // Below one step of the wide validator, all that it adds is a call.
    let text = if payload.len() < 64 {
        str::from_utf8(payload).ok()
    } else {
        simdutf8::basic::from_utf8(payload).ok()
    };
    text.ok_or(Fault::TextNotUtf8)
}

#[cfg(test)]
mod tests {
    use super::{super::write_frame, *};

    fn client(message_max: usize) -> Receiver {
        Receiver::new(Role::Client, Limits { message_max, ..Limits::default() })
    }

    fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_frame(&mut out, fin, opcode, payload, None);
        out
    }

    #[test]
    fn a_whole_frame_is_borrowed_and_not_copied() {
        let mut bytes = frame(true, Opcode::Binary, &[7; 1000]);
        let payload = bytes[4..].as_ptr();
        let mut receiver = client(1000);
        let received = receiver.receive(&mut bytes).unwrap();
        let Some(Event::Binary(event)) = received.event else { panic!("{received:?}") };
        assert_eq!((event.as_ptr(), event.len()), (payload, 1000));
        assert_eq!(receiver.assembly.binary.capacity(), 0);
    }

    #[test]
    fn a_message_whose_rest_is_waited_for_is_borrowed_too_unless_it_takes_its_time() {
        let message = frame(true, Opcode::Binary, &[7; 1000]);
        for (whole_max, cuts, is_borrowed) in [
            (0, &[700][..], false),
            (999, &[700], false),
            (1000, &[700], true),
            (1000, &[4], true),
            (1000, &[700, 701], false),
        ] {
            let mut receiver = client(1000);
            receiver.wait_for(whole_max);
            let (mut bytes, mut at) = (Vec::new(), 0);
            for cut in cuts {
                bytes.extend_from_slice(&message[at..*cut]);
                at = *cut;
                let received = receiver.receive(&mut bytes).unwrap();
                assert_eq!(received.event, None);
                let consumed = received.consumed;
                bytes.drain(..consumed);
                // Looking again where nothing has come changes nothing.
                assert_eq!(receiver.receive(&mut bytes).unwrap(), Received { consumed: 0, event: None });
            }
            bytes.extend_from_slice(&message[at..]);
            let place = bytes.as_ptr_range();
            let received = receiver.receive(&mut bytes).unwrap();
            let Some(Event::Binary(event)) = received.event else { panic!("{received:?}") };
            assert!(event == [7; 1000]);
            assert_eq!(place.contains(&event.as_ptr()), is_borrowed, "{whole_max} {cuts:?}");
        }
        // Text fails at its first bad byte, and what comes in parts does not wait.
        let mut receiver = client(1000);
        receiver.wait_for(1000);
        let mut text = frame(true, Opcode::Text, b"\xff and more");
        assert_eq!(receiver.receive(&mut text[..3]), Err(Fault::TextNotUtf8));
        let mut receiver = client(1000);
        receiver.wait_for(1000);
        receiver.in_parts();
        assert!(receiver.receive(&mut message[..700].to_vec()).unwrap().event.is_some());
    }

    #[test]
    fn an_announced_length_reserves_nothing() {
        let mut receiver = client(usize::MAX);
        let mut bytes = [0x82, 127, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        let received = receiver.receive(&mut bytes).unwrap();
        assert_eq!(received, Received { consumed: 13, event: None });
        assert_eq!(receiver.assembly.binary, [1, 2, 3]);
        assert!(receiver.assembly.binary.capacity() < 64);
    }

    #[test]
    fn a_small_message_leaves_its_buffer_and_a_long_one_gives_it_back() {
        for opcode in [Opcode::Binary, Opcode::Text] {
            let mut receiver = client(1 << 20);
            for size in [CAPACITY_KEPT, 9_000, 100, CAPACITY_KEPT, 100_000] {
                let mut bytes = frame(false, opcode, &vec![b'x'; size - 7]);
                bytes.extend(frame(false, Opcode::Continuation, b"xyz\xf0\x9f"));
                bytes.extend(frame(true, Opcode::Continuation, b"\xa6\x80"));
                let received = receiver.receive(&mut bytes).unwrap();
                assert!(received.event.is_some());
                assert_eq!(receiver.receive(&mut []).unwrap().event, None);
                let capacity = receiver.assembly.binary.capacity() + receiver.assembly.text.capacity();
                if size > CAPACITY_KEPT {
                    assert_eq!(capacity, 0);
                } else {
                    assert_eq!(capacity, CAPACITY_KEPT, "{opcode:?} {size}");
                }
            }
        }
    }

    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Receiver>() <= 192, "{}", size_of::<Receiver>());
    }
}
