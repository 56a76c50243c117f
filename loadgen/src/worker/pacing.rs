//! Messages over connections that stay: phase by phase, each message at its time, and what is owed at the end.

use std::{io, rc::Rc, time::Duration};

use super::{CUT_TIME, Readers, Schedule, TICK, Window, Worker, grace};
use crate::{
    connection::Connection,
    pace::{self, Pacer},
    plan::COHORTS,
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
            let readers = Readers::new(self.plan.share(self.index))?;
            let readers = self.readers.get_or_init(|| Rc::new(readers));
            monoio::spawn(Rc::clone(readers).read(Rc::clone(self), Rc::clone(pacer)));
        }
        connections.into_iter().for_each(|connection| self.join(connection));
        for (index, phase) in self.plan.phases.iter().enumerate() {
            if self.live.borrow().is_empty() && !self.plan.reconnects && !phase.is_storm {
                break;
            }
            let window = *self.window(index).expect("each phase has its window");
            pacer.wait(window.from).await?;
            if phase.is_storm && !self.is_over() {
                self.storm(pacer, window.from);
            }
            let allocated = proof::allocations();
            if phase.profile.is_some() {
                self.pace(index, window, pacer).await?;
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
            self.over.set(Some(self.now().min(end)));
        }
        self.finish().await;
        Ok(())
    }

    /// Lets replies come for as long as the grace says, then cuts what is left.
    async fn finish(self: &Rc<Self>) {
        self.kick_all();
        let over = self.over.get().unwrap_or_else(|| self.now());
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
            self.record.borrow_mut().never_sent(intended, given_up_at, (phase * COHORTS) as u16);
        }
    }

    /// A closed loop's phase, or the rest of an open one.
    async fn wait_for(&self, until: Nanos) {
        while self.now() < until && !self.is_over() && self.busy.get() > 0 {
            let left = until.saturating_sub(self.now());
            monoio::time::sleep(TICK.min(Duration::from_nanos(left))).await;
        }
    }

    fn kick_all(&self) {
        let live = self.live.borrow().clone();
        live.iter().for_each(|connection| connection.kick(self));
    }

    /// Sends what is due when it is due.
    async fn pace(self: &Rc<Self>, index: usize, window: Window, pacer: &Pacer) -> io::Result<()> {
        let plan = &*self.plan;
        let profile = plan.phases[index].profile.clone().expect("an open phase has a profile");
        let (lane, seed) = (plan.lane(self.index), plan.seed ^ (index as u64) << 20);
        let mut arrivals = Arrivals::new(profile, plan.arrival, lane, plan.lanes(), seed);
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
                self.plan_the_rest(&mut arrivals, index, window);
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
            if self.busy.get() == 0 && !plan.reconnects {
                self.plan_the_rest(&mut arrivals, index, window);
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
        let live = self.live.borrow();
        if live.is_empty() {
            self.count_planned((phase * COHORTS) as u16);
            let mut record = self.record.borrow_mut();
            record.lag(due, now, (phase * COHORTS) as u16);
            record.slots[phase * COHORTS].ledger.held += 1;
            drop(record);
            self.orphans.borrow_mut().push_back((due, phase));
            return;
        }
        let turn = self.next.get();
        let turn = if turn < live.len() { turn } else { 0 };
        self.next.set(turn + 1);
        let connection = &live[turn];
        self.count_planned((phase * COHORTS) as u16 + connection.cohort());
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

    /// Nobody is left to send anything: the rest of the plan goes unanswered, and is not waited for.
    fn plan_the_rest(&self, arrivals: &mut Arrivals, index: usize, window: Window) {
        let slot = (index * COHORTS) as u16;
        while let Some(due) = arrivals.peek().map(|due| window.from + due).filter(|due| *due < window.until) {
            if window.is_measured && self.plan.requests.is_some() {
                let Some(left) = self.budget.get().checked_sub(1) else { break };
                self.budget.set(left);
            }
            self.count_planned(slot);
            self.record.borrow_mut().never_sent(due, window.until, slot);
            arrivals.advance();
        }
    }
}

/// How many messages are sent before replies are looked at.
const BATCH: usize = 64;
/// How long after its end a phase's last messages are still sent.
const BEHIND: Nanos = 50_000_000;
/// A message that is due so soon leaves no time for a look at what has arrived, unless one is taken.
const PASS: Nanos = 1_500;
