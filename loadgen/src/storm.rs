//! A storm of connections: each is opened at its time, says one message if it is told to, stays for a while, and goes.
//!
//! What is planned here are connections. The time of one is that from its intended connect to the verified 101.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    connection::{Opened, is_wanted, write_all},
    fault::Fault,
    flights::{Flights, Reply},
    pace::Pacer,
    plan::Plan,
    scenario::{Answer, Scenario, Sink},
    socket::Socket,
    units::{Nanos, nanos},
    worker::Worker,
};

/// All connections of this thread, from the first to the end of the last.
pub(crate) async fn run<S: Scenario>(
    worker: &Rc<Worker<S>>,
    pacer: &Rc<Pacer>,
    hold: Duration,
    says: bool,
) -> io::Result<()> {
    let plan = &*worker.plan;
    let share = plan.share(worker.index);
    let begun = worker.schedule().start;
    let busy = Rc::new(Cell::new(0_usize));
    let sockets: Rc<std::cell::RefCell<Vec<std::rc::Weak<Socket>>>> = Rc::default();
    for (at, number) in share.enumerate() {
        let intended = plan.connection_rate.map(|rate| due(plan, worker.index, at, rate, begun));
        if let Some(intended) = intended {
            while pacer.wait(intended.min(pacer.now() + crate::pace::LOOK_UP)).await? < intended
                && !worker.is_over()
            {}
        } else {
            // As many at once as a server's backlog takes.
            while busy.get() >= OPENERS_AT_ONCE && !worker.is_over() {
                pacer.wait(pacer.now() + nanos(Duration::from_micros(200))).await?;
            }
        }
        if worker.is_over() {
            break;
        }
        {
            let mut record = worker.record.borrow_mut();
            record.slots[0].ledger.planned += 1;
            record.slots[0].ledger.sent += 1;
            record.interval.planned += 1;
            record.interval.sent += 1;
        }
        busy.set(busy.get() + 1);
        let (worker, busy, sockets) = (Rc::clone(worker), Rc::clone(&busy), Rc::clone(&sockets));
        worker.enter();
        monoio::spawn(async move {
            // In a box, so that what only the opening needs is gone while it stays.
            let stays = open(&worker, number, intended)
                .await
                .map(|opened| (Rc::clone(&opened.socket), Box::pin(stay(&worker, opened, hold, says))));
            busy.set(busy.get() - 1);
            if let Some((socket, stays)) = stays {
                sockets.borrow_mut().push(Rc::downgrade(&socket));
                if let Err(fault) = stays.await {
                    worker.record.borrow_mut().fault(&fault);
                }
                socket.abort();
            }
            worker.leave();
        });
        // What has arrived meanwhile is taken even if we are late.
        pacer.pass().await?;
    }
    worker
        .wait_for_all(|| {
            sockets.borrow().iter().filter_map(std::rc::Weak::upgrade).for_each(|socket| socket.abort())
        })
        .await;
    Ok(())
}

fn due(plan: &Plan, index: u32, at: usize, rate: f64, begun: Nanos) -> Nanos {
    let order = at as f64 * f64::from(plan.lanes()) + f64::from(plan.lane(index));
    begun + (order / rate * 1e9) as Nanos
}

async fn open<S: Scenario>(
    worker: &Rc<Worker<S>>,
    number: u32,
    intended: Option<Nanos>,
) -> Option<Opened<S>> {
    let begun = worker.now();
    let result = worker.attempt(number, intended).await;
    let now = worker.now();
    let mut record = worker.record.borrow_mut();
    let slot = &mut record.slots[0];
    if let Some(intended) = intended {
        slot.lag.saturating_record(begun.saturating_sub(intended));
    }
    match result {
        Ok(opened) => {
            worker.shared.opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            slot.ledger.answered += 1;
            slot.ledger.in_time += 1;
            slot.service.saturating_record(now - begun);
            let mut latency = now - begun;
            if let Some(intended) = intended {
                latency = now.saturating_sub(intended);
                slot.response.saturating_record(latency);
            }
            record.interval.latency.saturating_record(latency);
            record.interval.answered += 1;
            record.last = now;
            Some(opened)
        }
        Err(fault) => {
            match fault {
                Fault::TimedOut(_) => {
                    slot.ledger.timed_out += 1;
                    slot.censored += 1;
                    slot.service.saturating_record(now - begun);
                    if let Some(intended) = intended {
                        slot.response.saturating_record(now.saturating_sub(intended));
                    }
                }
                _ => slot.ledger.wrong += 1,
            }
            record.fault(&fault);
            None
        }
    }
}

/// What a connection does once it is there.
async fn stay<S: Scenario>(
    worker: &Rc<Worker<S>>,
    opened: Opened<S>,
    hold: Duration,
    says: bool,
) -> Result<(), Fault> {
    let Opened { number, socket, mut scenario, mut buffer, .. } = opened;
    let flights = Flights::default();
    let mut flights = if S::IS_ORDERED { flights } else { flights.in_any_order() };
    let mut out = Vec::new();
    if says {
        let content = &worker.content;
        scenario.send(&mut out, content.size(number, 0), |out, key| {
            content.append(number, 0, key, out);
        });
        scenario.flush(&mut out);
        let now = worker.now();
        flights.push(1, now, now, 0);
        write_all(&socket, &out).await.map_err(Fault::Lost)?;
        buffer.reserve(S::reply_max(worker.plan.sizes.max()));
    } else {
        buffer.shrink_to(64);
    }
    let mut closing = None;
    let mut is_staying = !says;
    // A message has the same time as the handshake; without one the connection only stays.
    let time = if says { worker.plan.connect_timeout } else { hold };
    let mut timer = pin!(monoio::time::sleep(time));
    loop {
        let full = buffer.len() == buffer.capacity();
        buffer.reserve(if full { 64 } else { 0 });
        let mut read = pin!(socket.read(std::mem::take(&mut buffer)));
        let (result, back) = loop {
            let either = |cx: &mut Context<'_>| match read.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
            };
            if let Some(done) = poll_fn(either).await {
                break done;
            }
            if flights.waiting() > 0 {
                return Err(Fault::Silent(worker.plan.connect_timeout));
            }
            if closing.is_some() {
                return Err(Fault::NoGoodbye);
            }
            closing = Some(say_goodbye(worker, &socket, &mut scenario).await?);
            timer.as_mut().reset(monoio::time::Instant::now() + CLOSE_TIME);
        };
        buffer = back;
        out.clear();
        let fault = match result {
            Ok(0) => Err(Fault::Ended),
            Err(error) => Err(Fault::Lost(error)),
            Ok(_) => {
                let mut first = First { worker, number, flights: &mut flights };
                scenario.receive(&mut buffer, &mut out, &mut first)
            }
        };
        match fault {
            Ok(consumed) => drop(buffer.drain(..consumed)),
            Err(_) if worker.is_stopped() => return Ok(()),
            Err(fault) if is_wanted(&fault, closing.is_some()) => {
                let begun = closing.unwrap_or_default();
                worker.record.borrow_mut().opening.close.saturating_record(worker.now() - begun);
                return Ok(());
            }
            Err(fault) => return Err(fault),
        }
        if !out.is_empty() {
            write_all(&socket, &out).await.map_err(Fault::Lost)?;
        }
        if !is_staying && flights.waiting() == 0 {
            is_staying = true;
            // An idle connection need not keep room for a message.
            buffer.shrink_to(64);
            timer.as_mut().reset(monoio::time::Instant::now() + hold);
        }
    }
}

async fn say_goodbye<S: Scenario>(
    worker: &Worker<S>,
    socket: &Socket,
    scenario: &mut S,
) -> Result<Nanos, Fault> {
    let mut out = Vec::new();
    scenario.goodbye(&mut out);
    if out.is_empty() {
        socket.shutdown_write();
    }
    let now = worker.now();
    write_all(socket, &out).await.map_err(Fault::Lost)?;
    Ok(now)
}

/// How many handshakes may be under way where there is no rate.
const OPENERS_AT_ONCE: usize = 64;
const CLOSE_TIME: Duration = Duration::from_secs(3);

/// Takes the reply to a connection's one message.
struct First<'a, S> {
    worker: &'a Worker<S>,
    number: u32,
    flights: &'a mut Flights,
}

impl<S: Scenario> Sink for First<'_, S> {
    fn expected(&self) -> Option<usize> {
        (self.flights.waiting() > 0).then(|| self.worker.content.size(self.number, 0))
    }

    fn reply(&mut self, payload: &[u8], is_right_type: bool) -> Result<(), Fault> {
        let Worker { content, plan, .. } = self.worker;
        let reply = self.flights.judge(content, self.number, plan.verify, payload, is_right_type);
        self.count(reply)
    }

    fn answer(&mut self, number: u64, answer: Answer<'_>) -> Result<(), Fault> {
        let Worker { content, plan, .. } = self.worker;
        let reply = self.flights.judge_numbered(content, self.number, plan.verify, number, answer);
        self.count(reply)
    }
}

impl<S: Scenario> First<'_, S> {
    fn count(&self, reply: Reply) -> Result<(), Fault> {
        let mut record = self.worker.record.borrow_mut();
        match reply {
            Reply::Answers(flight) => {
                record.opening.first.saturating_record(self.worker.now() - flight.sent);
            }
            // What is planned here are connections, and this one is of no use.
            Reply::Wrong(_, wrong) => return Err(Fault::Reply(wrong)),
            Reply::Late | Reply::Duplicate | Reply::Surplus => return Err(Fault::Surplus),
        }
        Ok(())
    }
}
