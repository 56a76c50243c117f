//! What has to be looked at now and then, and the seconds that are handed over.

use std::{rc::Rc, sync::atomic::Ordering, time::Duration};

use super::{CUT_TIME, LOOK_UP, TICK, Worker, grace};
use crate::{
    plan::Kind,
    record::Interval,
    scenario::Scenario,
    server::{self, Reading, Usage},
    units::{Nanos, nanos},
};

impl<S: Scenario> Worker<S> {
    /// Everything that has to be looked at now and then, until the run is over.
    pub(super) async fn tick(self: Rc<Self>) {
        let schedule = self.schedule.get().expect("the start has set it").clone();
        let mut progress = (0, self.now());
        let mut begin = None;
        let mut looked = self.now();
        let mut pinged = self.now();
        let look = self.timeout.map_or(Nanos::MAX, |timeout| timeout / 50).clamp(nanos(TICK), nanos(LOOK_UP));
        let ping = self.plan.websocket().and_then(|how| how.ping).map(nanos);
        let stall = nanos(self.plan.timeout.unwrap_or(STALL));
        while !self.is_cut.get() {
            monoio::time::sleep(TICK).await;
            let now = self.now();
            let replies = self.record.borrow().replies();
            self.shared.replies[self.index as usize].store(replies, Ordering::Relaxed);
            if replies != progress.0 {
                progress = (replies, now);
            }
            let second = now.saturating_sub(schedule.start) / 1_000_000_000;
            if second > self.record.borrow().interval.second {
                self.hand_over_interval();
                self.begin_interval(second, now);
            } else if !self.record.borrow().interval.is_measured && self.measures(now) {
                self.record.borrow_mut().interval.is_measured = true;
            }
            if let Some(pid) = self.plan.server_pid.filter(|_| self.index == 0) {
                let all = || self.shared.replies.iter().map(|replies| replies.load(Ordering::Relaxed)).sum();
                let read = || {
                    Some(Reading {
                        at: now,
                        replies: all(),
                        cpu: server::cpu_time(pid).ok()?,
                        memory: server::memory(pid),
                    })
                };
                match begin {
                    None if now >= schedule.measured_from() => begin = read(),
                    // The last look while messages are still sent.
                    Some(begin) if self.server.get().is_none() && now + nanos(TICK) >= schedule.end() => {
                        self.server.set(read().map(|end| Usage::between(begin, end)));
                    }
                    _ => {}
                }
            }
            if now >= looked + look {
                looked = now;
                let live = self.live.borrow().clone();
                live.iter().for_each(|connection| connection.look_after(&self, now));
            }
            if let Some(ping) = ping.filter(|ping| now >= pinged + ping) {
                pinged += ping;
                let live = self.live.borrow().clone();
                live.iter().for_each(|connection| connection.ping());
            }
            // Without a time only the replies could end the run.
            let is_stalled =
                self.plan.kind == Kind::Load && schedule.end() == Nanos::MAX && now - progress.1 >= stall;
            // An open loop's last phase is over when its last message is sent.
            let is_past = !self.plan.is_open() && now >= schedule.end();
            if self.over.get().is_none() && (is_past || is_stalled || self.is_stopped()) {
                self.over.set(Some(now.min(schedule.end())));
            }
        }
    }

    fn measures(&self, now: Nanos) -> bool {
        let Some(schedule) = self.schedule.get() else { return false };
        schedule.phases.iter().any(|phase| phase.is_measured && (phase.from..phase.until).contains(&now))
    }

    fn begin_interval(&self, second: u64, now: Nanos) {
        let mut record = self.record.borrow_mut();
        record.interval.second = second;
        record.interval.is_measured = self.measures(now);
    }

    /// Gives the interval to whoever adds them up, who is gone at the very end only.
    pub(super) fn hand_over_interval(&self) {
        let pipe = self.pipe.borrow();
        let Some(pipe) = &*pipe else { return };
        let mut next = pipe.empty.try_recv().unwrap_or_else(|_| Box::new(Interval::new()));
        std::mem::swap(&mut *next, &mut self.record.borrow_mut().interval);
        let _ = pipe.full.send(next);
    }

    /// One more that the end waits for, for those who have no `Connection`.
    pub(crate) fn enter(&self) {
        self.busy.set(self.busy.get() + 1);
    }

    /// One less.
    pub(crate) fn leave(&self) {
        self.busy.set(self.busy.get() - 1);
    }

    /// Waits for those who have [entered](Self::enter); once all is over they have the grace, then `cut` ends them.
    pub(crate) async fn wait_for_all(&self, cut: impl Fn()) {
        let is_answered = || {
            let ledger = self.record.borrow().slots[0].ledger;
            self.plan.threads == 1 && ledger.planned <= ledger.answered + ledger.errors()
        };
        while self.busy.get() > 0 {
            let now = self.now();
            let longest = self.record.borrow().longest;
            let grace = self.plan.grace.map_or_else(|| grace(longest), nanos);
            if let Some(over) = self.over.get()
                && (now >= over + grace || self.is_stopped() || (self.is_fanout() && is_answered()))
            {
                self.set_cut(now);
                cut();
                let limit = self.now() + nanos(CUT_TIME);
                while self.busy.get() > 0 && self.now() < limit {
                    monoio::time::sleep(TICK).await;
                }
                return;
            }
            monoio::time::sleep(TICK).await;
        }
        self.set_over(self.now());
        self.set_cut(self.now());
    }

    fn is_fanout(&self) -> bool {
        matches!(self.plan.kind, Kind::Fanout { .. })
    }
}

/// Without a time and a timeout, how long no reply at all may come.
const STALL: Duration = Duration::from_secs(5);
