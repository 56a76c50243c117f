//! Connections come about, and come back: all at once, at a rate, or one after it was lost.

use std::{cell::Cell, ops::Range, rc::Rc, time::Duration};

use monoio::task::JoinHandle;

use super::{LOOK_UP, Worker};
use crate::{
    connection::{self, Connection, Opened},
    fault::Fault,
    pace::Pacer,
    plan::Cohort,
    scenario::Scenario,
    units::Nanos,
};

impl<S: Scenario> Worker<S> {
    /// A connection that has switched takes part.
    pub(crate) fn join(self: &Rc<Self>, (connection, buffer): (Rc<Connection<S>>, Vec<u8>)) {
        self.live.borrow_mut().push(Rc::clone(&connection));
        self.busy.set(self.busy.get() + 1);
        if connection.cohort() == Cohort::Idle {
            self.idle.set(self.idle.get() + 1);
        } else {
            self.speakers.borrow_mut().push(Rc::clone(&connection));
            let orphans = std::mem::take(&mut *self.orphans.borrow_mut());
            for (due, phase) in orphans {
                connection.adopt(due, phase);
            }
        }
        monoio::spawn(connection.drive(Rc::clone(self), buffer));
    }

    /// A connection is over.
    pub(crate) fn gone(self: &Rc<Self>, connection: &Rc<Connection<S>>) {
        let is_another = |other: &Rc<Connection<S>>| !Rc::ptr_eq(other, connection);
        self.live.borrow_mut().retain(is_another);
        self.speakers.borrow_mut().retain(is_another);
        if connection.cohort() == Cohort::Idle {
            self.idle.set(self.idle.get() - 1);
        }
        if self.plan.reconnects && !self.is_over() && !connection.is_closing() {
            monoio::spawn(Rc::clone(self).open_again(connection.number));
        } else {
            self.busy.set(self.busy.get() - 1);
        }
    }

    async fn open_again(self: Rc<Self>, number: u32) {
        let mut pause = REOPEN_MIN;
        loop {
            match self.attempt(number, None).await {
                Ok(opened) => {
                    self.join(Connection::new(&self, opened));
                    break;
                }
                Err(fault) => self.record.borrow_mut().fault(&fault),
            }
            if self.is_over() {
                break;
            }
            monoio::time::sleep(pause).await;
            pause = (pause * 2).min(REOPEN_MAX);
        }
        self.busy.set(self.busy.get() - 1);
    }

    /// All connections are closed and opened again, which is meant to happen `now`.
    pub(super) fn reopen_all(self: &Rc<Self>, pacer: &Rc<Pacer>, phase: usize, now: Nanos) {
        self.storm.set(Some(phase));
        self.speakers.borrow_mut().clear();
        let live = self.live.borrow().clone();
        // Those of an earlier storm may still be about to leave.
        live.iter().filter(|live| !live.is_closing()).for_each(|connection| connection.leave(now));
        let (worker, pacer) = (Rc::clone(self), Rc::clone(pacer));
        self.busy.set(self.busy.get() + 1);
        monoio::spawn(async move {
            let opened = worker.open_all(worker.plan.share(worker.index), Some(now), &pacer).await;
            for opened in opened {
                worker.join(Connection::new(&worker, opened));
            }
            worker.busy.set(worker.busy.get() - 1);
        });
    }

    /// Opens connections, at the plan's rate or as many at once as a server's backlog takes, until all were tried.
    pub(super) async fn open_all(
        self: &Rc<Self>,
        share: Range<u32>,
        intended: Option<Nanos>,
        pacer: &Rc<Pacer>,
    ) -> Vec<Opened<S>> {
        self.gave_up.set(false);
        if let Some(rate) = self.plan.connection_rate {
            return self.open_at_rate(share, rate, pacer).await;
        }
        let openers = OPENERS.min(share.len());
        let next = Rc::new(Cell::new(share));
        let open_some = |next: Rc<Cell<Range<u32>>>, worker: Rc<Self>| async move {
            let mut opened = Vec::new();
            loop {
                let mut left = next.take();
                let number = left.next();
                next.set(left);
                let Some(number) = number else { return opened };
                match worker.attempt_with_others(number, intended).await {
                    Ok(connection) => opened.push(connection),
                    Err(fault) => worker.record.borrow_mut().fault(&fault),
                }
            }
        };
        let openers: Vec<JoinHandle<Vec<Opened<S>>>> =
            (0..openers).map(|_| monoio::spawn(open_some(Rc::clone(&next), Rc::clone(self)))).collect();
        let mut all = Vec::new();
        for opener in openers {
            all.extend(opener.await);
        }
        all.sort_by_key(|opened| opened.number);
        all
    }

    async fn open_at_rate(self: &Rc<Self>, share: Range<u32>, rate: f64, pacer: &Pacer) -> Vec<Opened<S>> {
        let begun = self.now();
        let mut tasks = Vec::new();
        for (at, number) in share.enumerate() {
            let order = at as f64 * f64::from(self.plan.lanes()) + f64::from(self.plan.lane(self.index));
            let due = begun + (order / rate * 1e9) as Nanos;
            if pacer.wait(due).await.is_err() {
                break;
            }
            let worker = Rc::clone(self);
            tasks.push(monoio::spawn(async move { worker.attempt_with_others(number, Some(due)).await }));
        }
        let mut all = Vec::new();
        for task in tasks {
            match task.await {
                Ok(opened) => all.push(opened),
                Err(fault) => self.record.borrow_mut().fault(&fault),
            }
        }
        all
    }

    /// Opens one of many connections. Once one has timed out, the others are not tried: they would only take as long.
    async fn attempt_with_others(
        self: &Rc<Self>,
        number: u32,
        intended: Option<Nanos>,
    ) -> Result<Opened<S>, Fault> {
        if self.gave_up.get() {
            return Err(Fault::NotTried);
        }
        let result = self.attempt(number, intended).await;
        if matches!(result, Err(Fault::TimedOut(_))) {
            self.gave_up.set(true);
        }
        result
    }

    /// Opens a connection within its time, or until the user wants an end.
    pub(crate) async fn attempt(
        self: &Rc<Self>,
        number: u32,
        intended: Option<Nanos>,
    ) -> Result<Opened<S>, Fault> {
        if self.is_stopped() {
            return Err(Fault::NotTried);
        }
        // In a box, so that what only the handshake needs is gone when it is over.
        let mut attempt = Box::pin(connection::open(Rc::clone(self), number, intended));
        let mut left = self.plan.connect_timeout;
        loop {
            let slice = left.min(LOOK_UP);
            if let Ok(result) = monoio::time::timeout(slice, &mut attempt).await {
                return result;
            }
            left -= slice;
            if left.is_zero() {
                return Err(Fault::TimedOut(self.plan.connect_timeout));
            }
            if self.is_stopped() {
                return Err(Fault::NotTried);
            }
        }
    }
}

/// How many handshakes of a thread may be under way: a server's backlog holds more, and beyond it a SYN is lost for 1 s.
const OPENERS: usize = 64;
/// Between attempts to reach a server again.
const REOPEN_MIN: Duration = Duration::from_millis(10);
const REOPEN_MAX: Duration = Duration::from_secs(1);
