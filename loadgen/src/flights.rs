//! One connection's messages under way, and which of them a reply answers.
//!
//! ```text
//!   queue   [ waiting | answered | waiting | expired | … ]      by sequence number
//!             base      base + 1
//! ```
//!
//! A reply names its message by the stamp, so one that was lost, doubled or overtaken costs only itself. What is too short
//! for a stamp answers the oldest.

use std::collections::VecDeque;

use crate::{
    content::Content,
    fault::Wrong,
    prefetch::prefetch,
    proof::{Break, is_broken},
    scenario::Answer,
    units::Nanos,
};

/// A message under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flight {
    /// When it was to be sent.
    pub(crate) intended: Nanos,
    /// When it was sent; 0 until then.
    pub(crate) sent: Nanos,
    /// Where it is counted.
    pub(crate) slot: u16,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// It took too long: it is counted already, and its reply will only be late.
    Expired,
    Done,
}

/// How much of a reply is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Every byte.
    Full,
    /// The length and the stamp.
    Length,
    /// Nothing: the next reply answers the oldest message.
    Off,
}

/// What a reply was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The right one.
    Answers(Flight),
    /// One to this message, but not the right one.
    Wrong(Flight, Wrong),
    /// The answer to one that was given up.
    Late,
    /// Another one to a message that was answered.
    Duplicate,
    /// To nothing.
    Surplus,
}

#[derive(Debug, Default)]
pub(crate) struct Flights {
    /// A reply may overtake another one.
    is_unordered: bool,
    queue: VecDeque<Flight>,
    /// The sequence number of the first one in `queue`.
    base: u64,
    waiting: usize,
    /// How many at the front need not be looked at for their time.
    looked: usize,
    /// Those up to here may have been given up without a reply.
    forgotten: u64,
}

/// As many as are answered at once, as a rule.
const AT_ONCE: usize = 16;

impl Flights {
    /// With room for so many.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { queue: VecDeque::with_capacity(capacity), ..Self::default() }
    }

    /// For a protocol whose replies come in any order.
    pub(crate) fn in_any_order(mut self) -> Self {
        self.is_unordered = true;
        self
    }

    /// Has those fetched that a reply may answer next.
    #[inline]
    pub(crate) fn prefetch(&self) {
        let (first, second) = self.queue.as_slices();
        for part in [first, second] {
            prefetch(&part[..part.len().min(AT_ONCE)]);
        }
    }

    /// How many are waiting for their reply.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The number of the next message.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.base + self.queue.len() as u64
    }

    /// The number of the oldest that a reply may come for.
    #[inline]
    pub(crate) fn oldest(&self) -> Option<u64> {
        let at = self.queue.iter().position(|flight| flight.state != State::Done)?;
        Some(self.base + at as u64)
    }

    /// The next message is on its way; `sent` is 0 if that is told later, by [`sent`](Self::sent).
    #[inline]
    pub(crate) fn push(&mut self, intended: Nanos, sent: Nanos, slot: u16) {
        self.queue.push_back(Flight { intended, sent, slot, state: State::Waiting });
        self.waiting += 1;
    }

    /// The latest `count` were sent `now`.
    #[inline]
    pub(crate) fn sent(&mut self, count: usize, now: Nanos, mut each: impl FnMut(&Flight)) {
        let start = self.queue.len() - count;
        for flight in self.queue.range_mut(start..) {
            flight.sent = now;
            each(flight);
        }
    }

    /// The latest `count` were sent `now`, and meant for no other time.
    #[inline]
    pub(crate) fn sent_closed(&mut self, count: usize, now: Nanos) {
        let start = self.queue.len() - count;
        for flight in self.queue.range_mut(start..) {
            (flight.intended, flight.sent) = (now, now);
        }
    }

    /// Finds the message that a reply answers.
    #[inline]
    pub(crate) fn judge(
        &mut self,
        content: &Content,
        connection: u32,
        verify: Verify,
        payload: &[u8],
        is_right_type: bool,
    ) -> Reply {
        let Some(front) = self.queue.front() else { return self.judge_slowly(content, connection, payload) };
        let is_it = match verify {
            Verify::Full => content.is_message(connection, self.base, payload),
            Verify::Length => {
                payload.len() == content.size(connection, self.base)
                    && content.stamp(payload).is_none_or(|stamp| stamp == (connection, self.base))
            }
            Verify::Off => true,
        };
        let is_it = is_it && (is_right_type || verify == Verify::Off) || is_broken(Break::BelieveAll);
        // Where a later one was answered, the front one was overtaken.
        let is_overtaken =
            self.waiting < self.queue.len() && self.queue.iter().any(|flight| flight.state == State::Done);
        if is_it && is_overtaken && !self.is_unordered && verify != Verify::Off {
            return self.judge_slowly(content, connection, payload);
        }
        if is_it && front.state == State::Waiting {
            let front = *front;
            self.waiting -= 1;
            self.pop();
            return Reply::Answers(front);
        }
        if is_it {
            self.pop();
            return Reply::Late;
        }
        let reply = self.judge_slowly(content, connection, payload);
        match reply {
            Reply::Answers(flight) if !is_right_type => Reply::Wrong(flight, Wrong::Type),
            other => other,
        }
    }

    /// Takes the reply to the message of this number.
    pub(crate) fn judge_numbered(
        &mut self,
        content: &Content,
        connection: u32,
        verify: Verify,
        number: u64,
        answer: Answer<'_>,
    ) -> Reply {
        let Some(at) = number.checked_sub(self.base).map(|at| at as usize) else { return Reply::Duplicate };
        let Some(flight) = self.queue.get_mut(at) else { return Reply::Surplus };
        let (state, taken) = (flight.state, *flight);
        flight.state = State::Done;
        self.waiting -= usize::from(state == State::Waiting);
        self.pop_done();
        let wrong = match answer {
            _ if verify == Verify::Off => None,
            Answer::Judged(wrong) => wrong,
            Answer::Message(payload) => {
                let is_message = match verify {
                    Verify::Full => content.is_message(connection, number, payload),
                    _ => payload.len() == content.size(connection, number),
                };
                (!is_message).then(|| content.difference(connection, number, payload))
            }
        };
        match (state, wrong) {
            (State::Done, _) => Reply::Duplicate,
            (State::Expired, _) => Reply::Late,
            (State::Waiting, Some(wrong)) => Reply::Wrong(taken, wrong),
            (State::Waiting, None) => Reply::Answers(taken),
        }
    }

    #[cold]
    fn judge_slowly(&mut self, content: &Content, connection: u32, payload: &[u8]) -> Reply {
        let stamp = content.stamp(payload);
        let is_whole = |(connection, sequence)| content.is_message(connection, sequence, payload);
        let mut wrong = None;
        let at = match stamp {
            Some((other, sequence)) if other == connection => {
                if sequence < self.base && is_whole((connection, sequence)) {
                    return if sequence < self.forgotten { Reply::Late } else { Reply::Duplicate };
                }
                usize::try_from(sequence.wrapping_sub(self.base)).ok().filter(|at| *at < self.queue.len())
            }
            Some((other, _)) if stamp.is_some_and(is_whole) => {
                wrong = Some(Wrong::Foreign(other));
                None
            }
            _ => None,
        };
        // Who does not say which message it answers, answers the oldest.
        let oldest = || self.queue.iter().position(|flight| flight.state != State::Done);
        let Some(at) = at.or_else(oldest) else { return Reply::Surplus };
        let sequence = self.base + at as u64;
        let wrong = wrong.or_else(|| {
            let is_message = content.is_message(connection, sequence, payload);
            (!is_message).then(|| content.difference(connection, sequence, payload))
        });
        match self.queue[at].state {
            State::Done => return Reply::Duplicate,
            State::Expired => {
                self.queue[at].state = State::Done;
                self.pop_done();
                return Reply::Late;
            }
            State::Waiting => {}
        }
        let is_overtaken =
            !self.is_unordered && self.queue.range(at + 1..).any(|flight| flight.state == State::Done);
        let flight = self.queue[at];
        self.queue[at].state = State::Done;
        self.waiting -= 1;
        self.pop_done();
        match wrong {
            Some(wrong) => Reply::Wrong(flight, wrong),
            None if is_overtaken => Reply::Wrong(flight, Wrong::Order(sequence)),
            None => Reply::Answers(flight),
        }
    }

    #[inline]
    fn pop(&mut self) {
        self.queue.pop_front();
        self.base += 1;
        self.looked = self.looked.saturating_sub(1);
        if self.queue.front().is_some_and(|flight| flight.state == State::Done) {
            self.pop_done();
        }
    }

    fn pop_done(&mut self) {
        while self.queue.front().is_some_and(|flight| flight.state == State::Done) {
            self.queue.pop_front();
            self.base += 1;
            self.looked = self.looked.saturating_sub(1);
        }
    }

    /// Gives up those that were sent and should have been before `limit`.
    pub(crate) fn expire(&mut self, limit: Nanos, mut each: impl FnMut(Flight)) {
        while let Some(flight) = self.queue.get_mut(self.looked) {
            if flight.state == State::Waiting {
                if flight.intended >= limit || flight.sent == 0 {
                    break;
                }
                flight.state = State::Expired;
                self.waiting -= 1;
                each(*flight);
            }
            self.looked += 1;
        }
    }

    /// Gives up the oldest while a lot of later ones were answered, so that what was lost is not remembered for ever.
    pub(crate) fn forget_lost(&mut self, mut each: impl FnMut(Flight)) {
        while self.queue.len() - self.waiting > OVERTAKEN_MAX {
            let Some(flight) = self.queue.pop_front() else { return };
            self.base += 1;
            self.forgotten = self.base;
            self.looked = self.looked.saturating_sub(1);
            if flight.state == State::Waiting {
                self.waiting -= 1;
                each(flight);
            }
        }
    }

    /// What is still waiting, and whether a later one has overtaken it: then it is lost, and not only late.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (Flight, bool)> {
        let last_done = self.queue.iter().rposition(|flight| flight.state == State::Done);
        let last_done = last_done.filter(|_| !self.is_unordered);
        self.base += self.queue.len() as u64;
        (self.waiting, self.looked) = (0, 0);
        let is_lost = move |at| last_done.is_some_and(|last| at < last);
        let all = self.queue.drain(..).enumerate().map(move |(at, flight)| (flight, is_lost(at)));
        all.filter(|(flight, _)| flight.state == State::Waiting)
    }
}

/// How many later replies make it certain that one is lost.
const OVERTAKEN_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{content::Sizes, scenario::PLAIN};

    fn content(size: usize) -> Content {
        Content::new(Sizes::Fixed(size), false, 7)
    }

    fn message(content: &Content, connection: u32, sequence: u64) -> Vec<u8> {
        let mut out = Vec::new();
        content.append(connection, sequence, PLAIN, &mut out);
        out
    }

    /// Four messages of connection 5 under way, intended at 0, 10, 20, 30.
    fn flights() -> Flights {
        let mut flights = Flights::with_capacity(4);
        for intended in [0, 10, 20, 30] {
            flights.push(intended, intended + 1, 0);
        }
        flights
    }

    fn hear(flights: &mut Flights, content: &Content, replies: &[Vec<u8>]) -> Vec<&'static str> {
        let judge = |reply: &Vec<u8>| match flights.judge(content, 5, Verify::Full, reply, true) {
            Reply::Answers(_) => "right",
            Reply::Wrong(_, wrong) => wrong.kind(),
            Reply::Late => "late",
            Reply::Duplicate => "duplicate",
            Reply::Surplus => "surplus",
        };
        replies.iter().map(judge).collect()
    }

    #[test]
    fn each_fault_costs_only_itself() {
        let content = content(32);
        let reply = |sequence| message(&content, 5, sequence);
        let mut flipped = reply(1);
        flipped[20] ^= 1;
        for (replies, expected, lost) in [
            (vec![reply(0), reply(1), reply(2), reply(3)], vec!["right"; 4], 0),
            (vec![reply(0), reply(2), reply(3)], vec!["right"; 3], 1),
            (vec![reply(0), reply(2), reply(1), reply(3)], vec!["right", "right", "wrong-order", "right"], 0),
            (vec![reply(0), reply(0), reply(1)], vec!["right", "duplicate", "right"], 0),
            (vec![reply(1), reply(1), reply(0)], vec!["right", "duplicate", "wrong-order"], 0),
            (vec![reply(0), flipped.clone(), reply(2)], vec!["right", "wrong-content", "right"], 0),
            (vec![message(&content, 6, 0), reply(1)], vec!["foreign-reply", "right"], 0),
            (vec![reply(0)[..31].to_vec(), reply(1)], vec!["wrong-length", "right"], 0),
        ] {
            let mut flights = flights();
            assert_eq!(hear(&mut flights, &content, &replies), expected);
            assert_eq!(flights.drain().filter(|(_, is_lost)| *is_lost).count(), lost);
        }
        let mut none = Flights::default();
        assert_eq!(hear(&mut none, &content, &[reply(0)]), ["surplus"]);
    }

    #[test]
    fn what_has_expired_is_late_and_answers_nothing_else() {
        let content = content(32);
        let mut flights = flights();
        let mut expired = Vec::new();
        flights.expire(20, |flight| expired.push(flight.intended));
        flights.expire(20, |flight| expired.push(flight.intended));
        assert_eq!((expired, flights.waiting()), (vec![0, 10], 2));
        let replies: Vec<_> = (0..4).map(|sequence| message(&content, 5, sequence)).collect();
        assert_eq!(hear(&mut flights, &content, &replies), ["late", "late", "right", "right"]);
        assert_eq!((flights.waiting(), flights.queue.len(), flights.next()), (0, 0, 4));
    }

    #[test]
    fn streams_answer_in_any_order() {
        let content = content(32);
        let mut flights = flights().in_any_order();
        let mut hear = |number: u64, answer: Answer<'_>| match flights.judge_numbered(
            &content,
            5,
            Verify::Full,
            number,
            answer,
        ) {
            Reply::Answers(flight) => format!("right {}", flight.intended),
            Reply::Wrong(_, wrong) => wrong.kind().to_owned(),
            other => format!("{other:?}"),
        };
        let reply = message(&content, 5, 2);
        assert_eq!(hear(2, Answer::Message(&reply)), "right 20");
        assert_eq!(hear(1, Answer::Message(&reply)), "wrong-content");
        assert_eq!(hear(2, Answer::Judged(None)), "Duplicate");
        assert_eq!(hear(0, Answer::Judged(None)), "right 0");
        assert_eq!(hear(0, Answer::Judged(None)), "Duplicate");
        assert_eq!(hear(3, Answer::Judged(Some(Wrong::Status(500)))), "wrong-status");
        assert_eq!(hear(4, Answer::Judged(None)), "Surplus");
        assert_eq!((flights.waiting(), flights.queue.len()), (0, 0));
    }

    #[test]
    fn too_short_for_a_stamp_is_answered_in_turn() {
        let content = content(3);
        let mut flights = flights();
        let replies: Vec<_> = (0..2).map(|sequence| message(&content, 5, sequence)).collect();
        assert_eq!(hear(&mut flights, &content, &replies), ["right", "right"]);
        assert_eq!(hear(&mut flights, &content, &[vec![9; 3]]), ["wrong-content"]);
        assert_eq!(flights.waiting(), 1);
    }

    #[test]
    fn unverified_replies_are_counted_in_turn() {
        let content = content(32);
        let mut flights = flights();
        flights.expire(10, |_| {});
        let mut judge = || flights.judge(&content, 5, Verify::Off, b"?", true);
        assert_eq!(judge(), Reply::Late);
        assert!((0..3).all(|_| matches!(judge(), Reply::Answers(_))));
        assert_eq!(judge(), Reply::Surplus);
    }

    #[test]
    fn what_was_lost_is_not_remembered_for_ever() {
        let content = content(32);
        let mut flights = Flights::default();
        let mut lost = 0;
        for sequence in 0..20_000 {
            flights.push(sequence, sequence, 0);
            if sequence != 100 {
                let reply = message(&content, 5, sequence);
                assert!(matches!(flights.judge(&content, 5, Verify::Full, &reply, true), Reply::Answers(_)));
            }
            flights.forget_lost(|flight| lost += u64::from(flight.intended == 100));
        }
        assert_eq!((lost, flights.waiting(), flights.queue.len()), (1, 0, 0));
    }
}
