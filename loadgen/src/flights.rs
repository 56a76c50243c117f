//! One connection's messages under way, and which of them a reply answers.
//!
//! ```text
//!   queue   [ 16 waiting | 3 answered | 1 waiting | 40 expired | … ]      by sequence number
//!             base         base + 16                                next
//! ```
//!
//! Messages that were sent together, and have the same fate, are one entry: of a thousand connections, what each has under
//! way is one line of the cache. In an open loop each message was meant for a time of its own, and is an entry of its own.
//!
//! A reply names its message by the stamp, so one that was lost, doubled or overtaken costs only itself. What is too short
//! for a stamp answers the oldest.

use std::{collections::VecDeque, iter::repeat_n};

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
}

/// Messages that follow each other and are alike.
#[derive(Clone, Copy, Debug)]
struct Run {
    intended: Nanos,
    sent: Nanos,
    /// Invariant: at least one.
    count: u32,
    slot: u16,
    state: State,
}

impl Run {
    #[inline]
    fn flight(&self) -> Flight {
        Flight { intended: self.intended, sent: self.sent, slot: self.slot }
    }
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

impl Verify {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Length => "len",
            Self::Off => "off",
        }
    }
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
    /// A reply may overtake another one. Then each message is an entry of its own, found by its number.
    is_unordered: bool,
    /// Invariant: the first one is not done.
    queue: VecDeque<Run>,
    /// The number of the first message in `queue`.
    base: u64,
    /// The number of the next message.
    next: u64,
    waiting: usize,
    /// The highest number that was answered out of its turn.
    done_max: u64,
    /// Those before this number need not be looked at for their time.
    looked: u64,
    /// Those before this number may have been given up without a reply.
    forgotten: u64,
}

impl Flights {
    /// The bytes that an entry takes.
    pub(crate) const ENTRY: usize = size_of::<Run>();

    /// With room for so many, of which all is there: memory that is only promised would come in the midst of a measurement.
    pub(crate) fn with_room(room: usize) -> Self {
        let none = Run { intended: 0, sent: 0, count: 0, slot: 0, state: State::Done };
        let mut queue = VecDeque::from(vec![none; room]);
        queue.clear();
        Self { queue, ..Self::default() }
    }

    /// For a protocol whose replies come in any order.
    pub(crate) fn in_any_order(mut self) -> Self {
        self.is_unordered = true;
        self
    }

    /// Has those fetched that a reply answers next.
    #[inline]
    pub(crate) fn prefetch(&self) {
        if let Some(front) = self.queue.front() {
            prefetch(front);
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
        self.next
    }

    /// The number of the oldest that a reply may come for.
    #[inline]
    pub(crate) fn oldest(&self) -> Option<u64> {
        (!self.queue.is_empty()).then_some(self.base)
    }

    /// The next `count` messages, at least one, are on their way; `sent` is 0 if that is told later, by [`sent`](Self::sent).
    #[inline]
    pub(crate) fn push(&mut self, count: usize, intended: Nanos, sent: Nanos, slot: u16) {
        debug_assert!(count > 0);
        self.next += count as u64;
        self.waiting += count;
        let run = Run { intended, sent, count: count as u32, slot, state: State::Waiting };
        if self.is_unordered {
            self.queue.extend(repeat_n(Run { count: 1, ..run }, count));
        } else {
            self.queue.push_back(run);
        }
    }

    /// The latest `count` were sent `now`; they were put here one by one.
    #[inline]
    pub(crate) fn sent(&mut self, count: usize, now: Nanos, mut each: impl FnMut(&Flight)) {
        let start = self.queue.len() - count;
        for run in self.queue.range_mut(start..) {
            debug_assert_eq!(run.count, 1);
            run.sent = now;
            each(&run.flight());
        }
    }

    /// Finds the message that a reply answers: nearly always the one whose turn it is.
    #[inline(always)]
    pub(crate) fn judge(
        &mut self,
        content: &Content,
        connection: u32,
        verify: Verify,
        payload: &[u8],
        is_right_type: bool,
    ) -> Reply {
        let is_it = !self.queue.is_empty()
            && match verify {
                Verify::Full => content.is_message(connection, self.base, payload),
                Verify::Length => {
                    payload.len() == content.size(connection, self.base)
                        && content.stamp(payload).is_none_or(|stamp| stamp == (connection, self.base))
                }
                Verify::Off => true,
            }
            && (is_right_type || verify == Verify::Off)
            || is_broken(Break::BelieveAll);
        // Then none was answered before its turn, and none given up.
        let are_all_waiting = self.waiting as u64 == self.next - self.base;
        match self.queue.front() {
            Some(front) if is_it && are_all_waiting => {
                let flight = front.flight();
                self.pop();
                Reply::Answers(flight)
            }
            _ => self.judge_slowly(content, connection, verify, payload, is_right_type, is_it),
        }
    }

    #[cold]
    fn judge_slowly(
        &mut self,
        content: &Content,
        connection: u32,
        verify: Verify,
        payload: &[u8],
        is_right_type: bool,
        is_it: bool,
    ) -> Reply {
        // Where a later one was answered, the front one was overtaken.
        let is_in_turn = self.is_unordered || verify == Verify::Off || self.done_max <= self.base;
        if let Some(front) = self.queue.front().filter(|_| is_it && is_in_turn) {
            let (state, flight) = (front.state, front.flight());
            self.pop();
            return if state == State::Waiting { Reply::Answers(flight) } else { Reply::Late };
        }
        match self.judge_by_stamp(content, connection, payload) {
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
        if number < self.base {
            return Reply::Duplicate;
        }
        let Some((index, offset)) = self.find(number) else { return Reply::Surplus };
        let run = self.queue[index];
        self.answer(number, index, offset);
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
        match (run.state, wrong) {
            (State::Done, _) => Reply::Duplicate,
            (State::Expired, _) => Reply::Late,
            (State::Waiting, Some(wrong)) => Reply::Wrong(run.flight(), wrong),
            (State::Waiting, None) => Reply::Answers(run.flight()),
        }
    }

    fn judge_by_stamp(&mut self, content: &Content, connection: u32, payload: &[u8]) -> Reply {
        let stamp = content.stamp(payload);
        let is_whole = |(connection, sequence)| content.is_message(connection, sequence, payload);
        let mut wrong = None;
        let named = match stamp {
            Some((other, sequence)) if other == connection => {
                if sequence < self.base && is_whole((connection, sequence)) {
                    return if sequence < self.forgotten { Reply::Late } else { Reply::Duplicate };
                }
                self.find(sequence).map(|place| (sequence, place))
            }
            Some((other, _)) if stamp.is_some_and(is_whole) => {
                wrong = Some(Wrong::Foreign(other));
                None
            }
            _ => None,
        };
        // Who does not say which message it answers, answers the oldest.
        let oldest = || self.oldest().map(|sequence| (sequence, (0, 0)));
        let Some((sequence, (index, offset))) = named.or_else(oldest) else { return Reply::Surplus };
        let wrong = wrong.or_else(|| {
            let is_message = content.is_message(connection, sequence, payload);
            (!is_message).then(|| content.difference(connection, sequence, payload))
        });
        let is_overtaken = !self.is_unordered && self.done_max > sequence;
        let run = self.queue[index];
        self.answer(sequence, index, offset);
        match (run.state, wrong) {
            (State::Done, _) => Reply::Duplicate,
            (State::Expired, _) => Reply::Late,
            (State::Waiting, Some(wrong)) => Reply::Wrong(run.flight(), wrong),
            (State::Waiting, None) if is_overtaken => Reply::Wrong(run.flight(), Wrong::Order(sequence)),
            (State::Waiting, None) => Reply::Answers(run.flight()),
        }
    }

    /// Where a message is: its entry, and how many of that are before it.
    fn find(&self, number: u64) -> Option<(usize, u32)> {
        let before = number.checked_sub(self.base)?;
        let from = self.next.checked_sub(number).filter(|from| *from > 0)?;
        if self.is_unordered {
            return Some((before as usize, 0));
        }
        // From the nearer end.
        if before < from {
            let mut left = before;
            for (index, run) in self.queue.iter().enumerate() {
                let Some(behind) = left.checked_sub(run.count.into()) else {
                    return Some((index, left as u32));
                };
                left = behind;
            }
        } else {
            let mut left = from;
            for (index, run) in self.queue.iter().enumerate().rev() {
                if let Some(offset) = u64::from(run.count).checked_sub(left) {
                    return Some((index, offset as u32));
                }
                left -= u64::from(run.count);
            }
        }
        None
    }

    /// The message of this number, which is there, has had its reply.
    fn answer(&mut self, number: u64, mut index: usize, offset: u32) {
        let run = self.queue[index];
        if run.state == State::Done {
            return;
        }
        self.done_max = self.done_max.max(number);
        self.waiting -= usize::from(run.state == State::Waiting);
        let behind = run.count - offset - 1;
        if behind > 0 {
            self.queue.insert(index + 1, Run { count: behind, ..run });
        }
        if offset > 0 {
            self.queue[index].count = offset;
            index += 1;
            self.queue.insert(index, run);
        }
        self.queue[index] = Run { count: 1, state: State::Done, ..run };
        index = self.join(index);
        if index + 1 < self.queue.len() {
            self.join(index + 1);
        }
        self.pop_done();
    }

    /// Makes one entry of this one and the one before it, if they are of one state in which times do not count any more.
    /// Where it is then.
    fn join(&mut self, index: usize) -> usize {
        let run = self.queue[index];
        let before = index.checked_sub(1).map(|before| &mut self.queue[before]);
        match before {
            Some(before)
                if !self.is_unordered && run.state == before.state && run.state != State::Waiting =>
            {
                before.count += run.count;
                self.queue.remove(index);
                index - 1
            }
            _ => index,
        }
    }

    /// The first message has had its reply.
    #[inline]
    fn pop(&mut self) {
        let Some(front) = self.queue.front_mut() else { return };
        self.base += 1;
        self.waiting -= usize::from(front.state == State::Waiting);
        front.count -= 1;
        if front.count == 0 {
            self.queue.pop_front();
            self.pop_done();
        }
    }

    fn pop_done(&mut self) {
        while let Some(front) = self.queue.front().filter(|front| front.state == State::Done) {
            self.base += u64::from(front.count);
            self.queue.pop_front();
        }
        if self.queue.is_empty() {
            // The next one lies where the last one lay, which is in the cache.
            self.queue.clear();
        }
    }

    /// Gives up those that were sent and should have been before `limit`.
    pub(crate) fn expire(&mut self, limit: Nanos, mut each: impl FnMut(Flight)) {
        self.looked = self.looked.max(self.base);
        let Some((index, offset)) = self.find(self.looked) else { return };
        // Those behind it may have been joined to the entry that ended there.
        self.looked -= u64::from(offset);
        let (mut kept, mut at) = (index, index);
        while let Some(mut run) = self.queue.get(at).copied() {
            if run.state == State::Waiting {
                if run.intended >= limit || run.sent == 0 {
                    break;
                }
                run.state = State::Expired;
                self.waiting -= run.count as usize;
                (0..run.count).for_each(|_| each(run.flight()));
            }
            self.looked += u64::from(run.count);
            at += 1;
            let before = kept.checked_sub(1).map(|before| &mut self.queue[before]);
            match before.filter(|before| !self.is_unordered && before.state == run.state) {
                Some(before) => before.count += run.count,
                None => {
                    self.queue[kept] = run;
                    kept += 1;
                }
            }
        }
        self.queue.drain(kept..at);
    }

    /// Gives up the oldest while a lot of later ones were answered, so that what was lost is not remembered for ever.
    pub(crate) fn forget_lost(&mut self, mut each: impl FnMut(Flight)) {
        loop {
            let over = self.next - self.base - self.waiting as u64;
            let Some(front) = self.queue.front_mut().filter(|_| over > OVERTAKEN_MAX) else { break };
            let mut count = front.count;
            if front.state == State::Waiting {
                self.waiting -= count as usize;
                let flight = front.flight();
                (0..count).for_each(|_| each(flight));
            } else {
                count = u64::from(count).min(over - OVERTAKEN_MAX) as u32;
            }
            front.count -= count;
            self.base += u64::from(count);
            self.forgotten = self.base;
            if front.count == 0 {
                self.queue.pop_front();
                self.pop_done();
            }
        }
    }

    /// What is still waiting, and whether a later one has overtaken it: then it is lost, and not only late.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (Flight, bool)> {
        let last_done = self.queue.iter().rposition(|run| run.state == State::Done);
        let last_done = last_done.filter(|_| !self.is_unordered);
        (self.base, self.waiting) = (self.next, 0);
        let is_lost = move |at| last_done.is_some_and(|last| at < last);
        let runs = self.queue.drain(..).enumerate().filter(|(_, run)| run.state == State::Waiting);
        runs.flat_map(move |(at, run)| repeat_n((run.flight(), is_lost(at)), run.count as usize))
    }
}

/// How many later replies make it certain that one is lost.
const OVERTAKEN_MAX: u64 = if cfg!(test) { 16 } else { 4096 };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        content::{Random, Sizes},
        scenario::PLAIN,
    };

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
        let mut flights = Flights::with_room(4);
        for intended in [0, 10, 20, 30] {
            flights.push(1, intended, intended + 1, 0);
        }
        flights
    }

    /// Four that were sent together.
    fn burst() -> Flights {
        let mut flights = Flights::with_room(4);
        flights.push(4, 10, 10, 0);
        flights
    }

    fn name(reply: Reply) -> &'static str {
        match reply {
            Reply::Answers(_) => "right",
            Reply::Wrong(_, wrong) => wrong.kind(),
            Reply::Late => "late",
            Reply::Duplicate => "duplicate",
            Reply::Surplus => "surplus",
        }
    }

    fn hear(flights: &mut Flights, content: &Content, replies: &[Vec<u8>]) -> Vec<&'static str> {
        replies.iter().map(|reply| name(flights.judge(content, 5, Verify::Full, reply, true))).collect()
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
            for mut flights in [flights(), burst()] {
                assert_eq!(hear(&mut flights, &content, &replies), expected);
                assert_eq!(flights.drain().filter(|(_, is_lost)| *is_lost).count(), lost);
            }
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

    /// What becomes of each message is the same however many of them are one entry.
    #[test]
    fn what_was_sent_together_is_judged_one_by_one() {
        let content = content(32);
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut flights = Flights::default();
            // Of each message: when it was sent, and what has become of it.
            let mut all: Vec<(Nanos, State)> = Vec::new();
            // Those before it were given up for good, or answered.
            let mut forgotten = 0;
            let mut below = |limit: usize| (random.next() % limit as u64) as usize;
            for now in (1..300).map(|step| 10 * step) {
                match below(9) {
                    0..3 => {
                        let count = 1 + below(5);
                        flights.push(count, now, now, 0);
                        all.extend(repeat_n((now, State::Waiting), count));
                    }
                    3 => {
                        let limit = now.saturating_sub(10 * below(20) as Nanos);
                        let mut expired = Vec::new();
                        flights.expire(limit, |flight| expired.push(flight.intended));
                        let due =
                            all.iter_mut().filter(|(sent, state)| *sent < limit && *state == State::Waiting);
                        let due = due.map(|message| {
                            message.1 = State::Expired;
                            message.0
                        });
                        assert_eq!(expired, due.collect::<Vec<_>>());
                    }
                    4 => {
                        let mut dropped = Vec::new();
                        flights.forget_lost(|flight| dropped.push(flight.intended));
                        let mut expected = Vec::new();
                        while let Some(open) = all.iter().position(|(_, state)| *state != State::Done) {
                            let over = all[open..].iter().filter(|(_, state)| *state != State::Waiting);
                            if over.count() as u64 <= OVERTAKEN_MAX {
                                break;
                            }
                            let (sent, state) = std::mem::replace(&mut all[open], (0, State::Done));
                            expected.extend((state == State::Waiting).then_some(sent));
                            forgotten = open + 1;
                        }
                        assert_eq!(dropped, expected);
                    }
                    _ if all.is_empty() => {}
                    // Most replies are the next one.
                    what => {
                        let next = all.iter().position(|(_, state)| *state != State::Done).unwrap_or(0);
                        let at = if what < 7 { below(all.len()) } else { next };
                        let is_overtaken = all[at..].iter().any(|(_, state)| *state == State::Done);
                        let expected = match all[at].1 {
                            State::Done if at < forgotten => "late",
                            State::Done => "duplicate",
                            State::Expired => "late",
                            State::Waiting if is_overtaken => "wrong-order",
                            State::Waiting => "right",
                        };
                        all[at].1 = State::Done;
                        let reply = message(&content, 5, at as u64);
                        let judged = flights.judge(&content, 5, Verify::Full, &reply, true);
                        assert_eq!(name(judged), expected, "{seed} {now}");
                        if let Reply::Answers(flight) | Reply::Wrong(flight, _) = judged {
                            assert_eq!(flight.sent, all[at].0);
                        }
                    }
                }
                let open = all.iter().position(|(_, state)| *state != State::Done).unwrap_or(all.len());
                let waiting = all.iter().filter(|(_, state)| *state == State::Waiting).count();
                assert_eq!(
                    (flights.waiting(), flights.base, flights.next()),
                    (waiting, open as u64, all.len() as u64)
                );
                assert_eq!(
                    flights.queue.iter().map(|run| run.count as usize).sum::<usize>(),
                    all.len() - open
                );
            }
            let last = all.iter().rposition(|(_, state)| *state == State::Done).unwrap_or(0);
            let left: Vec<_> = flights.drain().map(|(flight, is_lost)| (flight.sent, is_lost)).collect();
            let waiting = all.iter().enumerate().filter(|(_, (_, state))| *state == State::Waiting);
            assert_eq!(left, waiting.map(|(at, (sent, _))| (*sent, at < last)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_was_lost_is_not_remembered_for_ever() {
        let content = content(32);
        let mut flights = Flights::default();
        let mut lost = 0;
        for sequence in 0..20_000 {
            flights.push(1, sequence, sequence, 0);
            if sequence != 100 {
                let reply = message(&content, 5, sequence);
                assert!(matches!(flights.judge(&content, 5, Verify::Full, &reply, true), Reply::Answers(_)));
            }
            flights.forget_lost(|flight| lost += u64::from(flight.intended == 100));
        }
        assert_eq!((lost, flights.waiting(), flights.queue.len()), (1, 0, 0));
    }
}
