//! Messages over connections that stay: phase by phase, each message at its time, and what is owed at the end.

use std::{io, rc::Rc, sync::atomic::Ordering, time::Duration};

use super::{CUT_TIME, Readers, Schedule, TICK, Window, Worker, grace};
use crate::{
    connection::Connection,
    pace::{self, Pacer},
    plan::Cohort,
    proof,
    scenario::Scenario,
    schedule::Arrivals,
    units::{Nanos, nanos},
};

impl<S: Scenario> Worker<S> {
    /// Messages over connections that stay.
    pub(super) async fn load(
        self: &Rc<Self>,
        connections: Vec<(Rc<Connection<S>>, Vec<u8>)>,
        pacer: &Rc<Pacer>,
    ) -> io::Result<()> {
        if !self.plan.is_open() {
            let readers = Readers::new(connections.len())?;
            let readers = self.readers.get_or_init(|| Rc::new(readers));
            monoio::spawn(Rc::clone(readers).read(Rc::clone(self), Rc::clone(pacer)));
        }
        // Without any, the run is not one.
        let has_any = self.shared.opened.load(Ordering::Relaxed) > 0;
        connections.into_iter().for_each(|connection| self.join(connection));
        for (index, phase) in self.plan.phases.iter().enumerate() {
            let window = *self.window(index).expect("each phase has its window");
            if self.is_deserted() && !phase.is_storm {
                // All have ended: what was to be sent was planned all the same.
                if let Some(mut arrivals) = self.arrivals(index).filter(|_| has_any) {
                    self.plan_the_rest(&mut arrivals, index, window, pacer, Blame::Server).await?;
                }
                continue;
            }
            while !self.is_stopped()
                && pacer.wait(window.from.min(pacer.now() + pace::LOOK_UP)).await? < window.from
            {}
            if self.is_stopped() {
                break;
            }
            if phase.is_storm && !self.is_over() {
                self.reopen_all(pacer, index, window.from);
            }
            let allocated = proof::allocations();
            if let Some(arrivals) = self.arrivals(index) {
                self.pace(arrivals, index, window, pacer).await?;
            } else {
                self.kick_all();
                self.wait_for(window.until).await;
            }
            if phase.is_measured {
                self.record.borrow_mut().allocations += proof::allocations() - allocated;
            }
            if self.is_over() {
                break;
            }
        }
        if self.over.get().is_none() {
            let end = self.schedule.get().map_or(0, Schedule::end);
            // What nobody was left for was planned to the end.
            let is_planned = has_any && self.plan.is_open() && self.is_deserted();
            self.over.set(Some(if is_planned { end } else { self.now().min(end) }));
        }
        self.finish().await;
        Ok(())
    }

    /// Lets replies come for as long as the grace says, then cuts what is left.
    async fn finish(self: &Rc<Self>) {
        self.kick_all();
        self.wake_idle().await;
        let over = self.over.get().unwrap_or_else(|| self.now());
        let over = if self.plan.has(Cohort::Idle) { over.max(self.now()) } else { over };
        while self.busy.get() > 0 {
            let longest = self.record.borrow().longest;
            let grace = self.plan.grace.map_or_else(|| grace(longest), nanos);
            if self.now() >= over + grace {
                self.cut_at.set(over + grace);
                self.is_cut.set(true);
                self.live.borrow().iter().for_each(|connection| connection.abort());
                let limit = self.now() + nanos(CUT_TIME);
                while self.busy.get() > 0 && self.now() < limit {
                    monoio::time::sleep(TICK).await;
                }
                break;
            }
            let left = (over + grace).saturating_sub(self.now());
            monoio::time::sleep(TICK.min(Duration::from_nanos(left))).await;
        }
        let given_up_at = self.given_up_at(self.now());
        for (intended, phase) in self.orphans.borrow_mut().drain(..) {
            let slot = Cohort::Active.slot(phase);
            self.record.borrow_mut().never_sent(intended, given_up_at, slot);
        }
    }

    /// A closed loop's phase, or the rest of an open one.
    async fn wait_for(&self, until: Nanos) {
        while self.now() < until && !self.is_over() && self.busy.get() > self.idle.get() {
            let left = until.saturating_sub(self.now());
            monoio::time::sleep(TICK.min(Duration::from_nanos(left))).await;
        }
    }

    /// Begins with messages, or ends.
    fn kick_all(&self) {
        let speakers = self.speakers.borrow().clone();
        speakers.iter().for_each(|connection| connection.kick(self));
    }

    /// Lets those speak that were silent so far: a few at a time, for it is them that are measured, and not a crowd.
    async fn wake_idle(&self) {
        let live = self.live.borrow().clone();
        let idle: Vec<_> = live.iter().filter(|live| live.cohort() == Cohort::Idle).collect();
        for some in idle.chunks(IDLE_AT_ONCE) {
            some.iter().for_each(|connection| connection.kick(self));
            if !self.is_stopped() {
                monoio::time::sleep(TICK).await;
            }
        }
    }

    /// No connection is left, none will come, and it is not us who has ended them.
    fn is_deserted(&self) -> bool {
        self.busy.get() == 0 && !self.plan.reconnects && !self.is_stopped()
    }

    /// This thread's messages of a phase with a rate.
    fn arrivals(&self, phase: usize) -> Option<Arrivals> {
        let plan = &*self.plan;
        let profile = plan.phases[phase].profile.clone()?;
        let (lane, seed) = (plan.lane(self.index), plan.seed ^ (phase as u64) << 20);
        Some(Arrivals::new(profile, plan.arrival, lane, plan.lanes(), seed))
    }

    /// Sends what is due when it is due.
    async fn pace(
        self: &Rc<Self>,
        mut arrivals: Arrivals,
        index: usize,
        window: Window,
        pacer: &Pacer,
    ) -> io::Result<()> {
        let plan = &*self.plan;
        let mut dirty: Vec<Rc<Connection<S>>> = Vec::with_capacity(BATCH);
        while let Some(due) = arrivals.peek().map(|due| window.from + due).filter(|due| *due < window.until) {
            if self.is_stopped() {
                return Ok(());
            }
            let now = pacer.wait(due.min(pacer.now() + pace::LOOK_UP)).await?;
            if now < due {
                continue;
            }
            if now > window.until.saturating_add(BEHIND) {
                // We cannot keep up, and the phase is over: what is left was planned, and not offered.
                self.plan_the_rest(&mut arrivals, index, window, pacer, Blame::Us).await?;
                return Ok(());
            }
            let mut count = 0;
            let mut next = Some(due);
            while let Some(due) = next.filter(|due| *due <= now && count < BATCH) {
                if window.is_measured && plan.requests.is_some() {
                    let Some(left) = self.budget.get().checked_sub(1) else {
                        dirty.drain(..).for_each(|connection| connection.flush(self));
                        self.over.set(Some(now));
                        return Ok(());
                    };
                    self.budget.set(left);
                }
                self.release(due, index, now, &mut dirty);
                arrivals.advance();
                count += 1;
                next = arrivals.peek().map(|due| window.from + due).filter(|due| *due < window.until);
            }
            dirty.drain(..).for_each(|connection| connection.flush(self));
            if self.is_deserted() {
                self.plan_the_rest(&mut arrivals, index, window, pacer, Blame::Server).await?;
                return Ok(());
            }
            // Behind the schedule, or close to it: what has arrived meanwhile is taken all the same.
            if next.is_some_and(|due| due <= self.now() + PASS) {
                pacer.pass().await?;
            }
        }
        self.wait_for(window.until).await;
        Ok(())
    }

    /// A message is due. Whichever connection's turn it is sends it.
    #[inline]
    fn release(&self, due: Nanos, phase: usize, now: Nanos, dirty: &mut Vec<Rc<Connection<S>>>) {
        let speakers = self.speakers.borrow();
        if speakers.is_empty() {
            let slot = Cohort::Active.slot(phase);
            self.count_planned(slot);
            let mut record = self.record.borrow_mut();
            record.lag(due, now, slot);
            record.slots[usize::from(slot)].ledger.held += 1;
            drop(record);
            self.orphans.borrow_mut().push_back((due, phase));
            return;
        }
        let turn = self.next.get();
        let turn = if turn < speakers.len() { turn } else { 0 };
        self.next.set(turn + 1);
        let connection = &speakers[turn];
        self.count_planned(connection.cohort().slot(phase));
        if connection.release(self, due, phase, now) {
            dirty.push(Rc::clone(connection));
        }
    }

    #[inline]
    fn count_planned(&self, slot: u16) {
        let mut record = self.record.borrow_mut();
        record.slots[usize::from(slot)].ledger.planned += 1;
        record.interval.planned += 1;
    }

    /// The rest of the plan goes unanswered, and is not waited for. It is in no second's figures: it never came to be.
    async fn plan_the_rest(
        &self,
        arrivals: &mut Arrivals,
        index: usize,
        window: Window,
        pacer: &Pacer,
        blame: Blame,
    ) -> io::Result<()> {
        let slot = Cohort::Active.slot(index);
        let mut count = 0_u64;
        while let Some(due) = arrivals.peek().map(|due| window.from + due).filter(|due| *due < window.until) {
            if window.is_measured && self.plan.requests.is_some() {
                let Some(left) = self.budget.get().checked_sub(1) else { break };
                self.budget.set(left);
            }
            {
                let mut record = self.record.borrow_mut();
                let ledger = &mut record.slots[usize::from(slot)].ledger;
                ledger.planned += 1;
                match blame {
                    Blame::Us => ledger.unoffered += 1,
                    Blame::Server => ledger.held += 1,
                }
                record.never_sent(due, window.until, slot);
            }
            arrivals.advance();
            // An hour's plan is long.
            count += 1;
            if count.is_multiple_of(PLANNED_AT_ONCE) {
                pacer.pass().await?;
                if self.is_stopped() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Why the rest of a plan is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// We are too late for it.
    Us,
    /// No connection is left.
    Server,
}

/// How many messages are given up before others have their turn.
const PLANNED_AT_ONCE: u64 = 4096;
/// How many idle connections speak at a time: some ten thousand a second.
const IDLE_AT_ONCE: usize = 64;
/// How many messages are sent before replies are looked at.
const BATCH: usize = 64;
/// How long after its end a phase's last messages are still sent.
const BEHIND: Nanos = 50_000_000;
/// A message that is due so soon leaves no time for a look at what has arrived, unless one is taken.
const PASS: Nanos = 1_500;
