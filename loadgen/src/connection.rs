//! One connection: connect → handshake → messages → goodbye.
//!
//! Its task waits for replies. Messages are sent from there in a closed loop, and by the pacer in an open one.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io,
    net::IpAddr,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use switchpoint::ws::{
    Code, Opening,
    opening::{Answer, Switched},
};

use crate::{
    content::{Content, Random},
    fault::Fault,
    flights::{Flight, Flights, Reply, Verify},
    plan::Cohort,
    record::Record,
    scenario::{self, Scenario, Sink},
    socket::{Held, Socket, Tcp},
    units::Nanos,
    worker::{Draw, Worker},
};

/// A connection that has switched.
pub(crate) struct Opened<S> {
    pub(crate) number: u32,
    pub(crate) socket: Rc<Socket>,
    pub(crate) scenario: S,
    /// The buffer of its reads, with what came behind the 101.
    pub(crate) buffer: Vec<u8>,
    /// The phase that has opened all connections again, if this is one of those.
    pub(crate) storm: Option<usize>,
}

/// Connects, asks for the switch, and verifies the answer. Whoever drops this gives the connection up.
///
/// `intended` is when that was to begin, if there was a plan for it.
pub(crate) async fn open<S: Scenario>(
    worker: Rc<Worker<S>>,
    number: u32,
    intended: Option<Nanos>,
) -> Result<Opened<S>, Fault> {
    let plan = &*worker.plan;
    let storm = worker.storm_phase().filter(|_| intended.is_some());
    let begun = worker.now();
    let mut random = Random::new(plan.seed ^ (u64::from(number) + 1) << 32);
    let own = |unfit| Fault::Own(io::Error::other(unfit));
    let opening = match S::opening(plan, &mut random).map_err(own)? {
        Some(mut opening) => {
            for (name, value) in &plan.headers {
                opening.field(name, value).map_err(own)?;
            }
            Some(opening)
        }
        None => None,
    };
    let source = source(&plan.sources, number);
    let slow = (plan.cohort(number) == Cohort::Slow).then_some(SLOW_BUFFER);
    let tcp = Tcp::connect(worker.address, source, slow).await.map_err(Fault::Connect)?;
    let mut connected = worker.now();
    if let Some(intended) = intended {
        worker.opening(storm).lag.saturating_record(begun.saturating_sub(intended));
    }
    worker.opening(storm).tcp.saturating_record(connected - begun);
    let socket = match &worker.shared.connector {
        None => Socket::Tcp(tcp),
        Some(connector) => {
            let stream = tcp.into_stream().map_err(Fault::Connect)?;
            let host = plan.target.url.host();
            let tls = connector.connect(stream, host, plan.connect_timeout).await?;
            let agreed = tls.tls().and_then(|tls| tls.alpn);
            if plan.alpn() == "h2" && agreed.as_deref() != Some("h2") {
                return Err(Fault::NoAlpn);
            }
            let since = std::mem::replace(&mut connected, worker.now());
            worker.opening(storm).tls.saturating_record(connected - since);
            Socket::Tls(tls)
        }
    };

    let mut buffer = Vec::with_capacity(HEAD_BUFFER);
    let switched = match &opening {
        Some(opening) => Some(switch(&worker, &socket, opening, &mut buffer).await?),
        None => None,
    };
    let switched_at = worker.now();
    if switched.is_some() {
        worker.opening(storm).upgrade.saturating_record(switched_at - connected);
    }
    let mut scenario = S::new(plan, switched.as_ref(), random, &worker.contexts, &worker.content)?;
    let mut out = Vec::new();
    let mut is_settled = scenario.settle(&mut buffer, &mut out)?;
    let settles = !is_settled;
    loop {
        write_all(&socket, &out).await.map_err(Fault::Lost)?;
        out.clear();
        if is_settled {
            break;
        }
        if !read_more(&socket, &mut buffer).await? {
            return Err(Fault::Cut);
        }
        is_settled = scenario.settle(&mut buffer, &mut out)?;
    }
    let now = worker.now();
    let mut opening = worker.opening(storm);
    if settles {
        opening.settle.saturating_record(now - switched_at);
    }
    opening.ready.saturating_record(now.saturating_sub(intended.unwrap_or(begun)));
    Ok(Opened { number, socket: Rc::new(socket), scenario, buffer, storm })
}

/// Asks for the switch, and reads the answer; what has come behind it is left in `buffer`.
async fn switch<S: Scenario>(
    worker: &Worker<S>,
    socket: &Socket,
    opening: &Opening,
    buffer: &mut Vec<u8>,
) -> Result<Switched, Fault> {
    write_all(socket, &opening.request(&worker.plan.target.url)).await.map_err(Fault::Lost)?;
    loop {
        match opening.read(buffer)? {
            Some((answer, size)) => {
                buffer.drain(..size);
                match answer {
                    Answer::Interim => {}
                    Answer::Switched(switched) => return Ok(switched),
                    Answer::Refused(mut refusal) => {
                        while !refusal.has_whole_body(buffer)
                            && read_more(socket, buffer).await.unwrap_or(false)
                        {}
                        refusal.read_body(buffer);
                        return Err(Fault::Refused(refusal));
                    }
                }
            }
            None if !read_more(socket, buffer).await? => return Err(Fault::Cut),
            None => {}
        }
    }
}

fn source(sources: &[IpAddr], number: u32) -> Option<IpAddr> {
    (!sources.is_empty()).then(|| sources[number as usize % sources.len()])
}

const HEAD_BUFFER: usize = 512;
/// What the kernel holds for a slow reader, about.
const SLOW_BUFFER: usize = 4 << 10;

async fn read_more(socket: &Socket, buffer: &mut Vec<u8>) -> Result<bool, Fault> {
    buffer.reserve(1);
    let (result, back) = socket.read(std::mem::take(buffer)).await;
    *buffer = back;
    Ok(result.map_err(Fault::Lost)? > 0)
}

/// Sends all of it, and waits for room where there is none.
pub(crate) async fn write_all(socket: &Socket, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What a look at a connection that can be read has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    All,
    /// There may be more, when others have had their turn.
    Some,
    /// It has ended; its own task sees to that.
    Over,
}

/// A connection that messages go over.
pub(crate) struct Connection<S> {
    pub(crate) number: u32,
    socket: Held,
    state: RefCell<State<S>>,
    /// Who waits for bytes, to be told that there is something to send.
    waiting: RefCell<Option<Waker>>,
    /// When we said goodbye, or cut it for a reconnect.
    closing: Cell<Option<Nanos>>,
    /// It is cut once nothing is under way.
    is_leaving: Cell<bool>,
    cohort: Cohort,
    /// The phase in which it was opened with all others.
    storm: Option<usize>,
    /// The begin of a reply whose rest has not come, where the core's buffer is read into.
    rest: RefCell<Vec<u8>>,
    /// What has ended it, if its own task does not read.
    fault: RefCell<Option<Box<Fault>>>,
}

struct State<S> {
    scenario: S,
    flights: Flights,
    /// Messages that had no room when they were to be sent: the intended time of each, and its slot.
    backlog: VecDeque<(Nanos, u16)>,
    unsent: Unsent,
    /// How many messages in `unsent` the pacer has put there and not sent yet.
    fresh: usize,
    is_first: bool,
    /// An idle one has said its message.
    has_spoken: bool,
}

impl<S: Scenario> Connection<S> {
    /// With room for what will be under way, and the buffer that [`drive`](Self::drive) reads into.
    pub(crate) fn new(worker: &Worker<S>, opened: Opened<S>) -> (Rc<Self>, Vec<u8>) {
        let Opened { number, socket, scenario, mut buffer, storm } = opened;
        let plan = &*worker.plan;
        let cohort = plan.cohort(number);
        // Where replies come in any order, each message is an entry of its own.
        let are_single = plan.is_open() || !S::IS_ORDERED;
        let entries = if are_single { plan.at_once() } else { plan.at_once().min(RUNS) };
        let share = TOUCHED_MAX / plan.share(worker.index).len().max(1);
        let flights = Flights::with_room(match cohort {
            Cohort::Idle => 1,
            _ => entries.min(share / Flights::ENTRY),
        });
        // Plain connections of a closed loop are read into the core's buffer; all others have their own.
        if cohort != Cohort::Slow && (plan.is_open() || socket.plain().is_none()) {
            // Room for a whole reply, so that it is verified where it lies, and for all that may come at once if they are small.
            let reply_max = S::reply_max(plan.sizes.max());
            let many = reply_max.saturating_mul(plan.at_once());
            let size = match cohort {
                Cohort::Idle => reply_max.min(BUFFER_MAX),
                _ => reply_max.max(many.clamp(BUFFER_MIN, BUFFER_MAX)),
            };
            let held = buffer.len();
            buffer.reserve_exact(size.saturating_sub(held));
            if !worker.has_begun() {
                // It is there from now on, and not when it is written for the first time.
                buffer.resize(size.min(BUFFER_MAX).min(share).max(held), 0);
                buffer.truncate(held);
            }
        }
        let state = State {
            scenario,
            flights: if S::IS_ORDERED { flights } else { flights.in_any_order() },
            backlog: VecDeque::new(),
            unsent: Unsent::default(),
            fresh: 0,
            is_first: true,
            has_spoken: false,
        };
        let connection = Self {
            number,
            socket: Held::new(socket),
            state: RefCell::new(state),
            waiting: RefCell::new(None),
            closing: Cell::new(None),
            is_leaving: Cell::new(false),
            cohort,
            storm,
            rest: RefCell::default(),
            fault: RefCell::default(),
        };
        (Rc::new(connection), buffer)
    }

    /// Ends it in both directions.
    pub(crate) fn abort(&self) {
        self.socket.abort();
    }

    /// The same, by our own will, as soon as what is under way was answered: that is not the server's to lose.
    pub(crate) fn leave(&self, now: Nanos) {
        self.closing.set(Some(now));
        self.is_leaving.set(true);
        self.abort_if_done(&self.state.borrow());
    }

    fn abort_if_done(&self, state: &State<S>) {
        if self.is_leaving.get() && state.flights.waiting() == 0 && state.backlog.is_empty() {
            self.abort();
        }
    }

    /// Waits for replies until the server, the schedule or `worker` ends it.
    pub(crate) async fn drive(self: Rc<Self>, worker: Rc<Worker<S>>, buffer: Vec<u8>) {
        let readers = worker.readers().filter(|_| self.cohort != Cohort::Slow);
        let result = if let Some((readers, tcp)) = readers.zip(self.socket.plain()) {
            match readers.add(&self, tcp) {
                Ok(_reader) => self.be_read(&worker, buffer).await,
                Err(error) => Err(Fault::Own(error)),
            }
        } else if self.cohort != Cohort::Slow {
            self.read_on(&worker, buffer).await
        } else {
            self.read_slowly(&worker, buffer).await
        };
        self.settle(&worker, result);
        self.socket.abort();
        worker.gone(&self);
    }

    async fn read_on(&self, worker: &Rc<Worker<S>>, mut buffer: Vec<u8>) -> Result<(), Fault> {
        loop {
            let was_full = buffer.len() == buffer.capacity();
            self.turn(worker, &mut buffer)?;
            if self.is_leaving.get() {
                self.abort_if_done(&self.state.borrow());
            }
            if was_full && (buffer.len() == buffer.capacity() || buffer.capacity() < BUFFER_MAX) {
                // Whoever fills it gets one that takes more at once.
                buffer.reserve_exact(2 * buffer.capacity() - buffer.len());
            }
            let result;
            (result, buffer) = self.read(worker, buffer).await;
            if result.map_err(Fault::Lost)? == 0 {
                return Err(Fault::Ended);
            }
        }
    }

    /// Waits for the end, while [`take`](Self::take) reads.
    async fn be_read(&self, worker: &Worker<S>, mut buffer: Vec<u8>) -> Result<(), Fault> {
        self.turn(worker, &mut buffer)?;
        // What has come meanwhile is behind it.
        self.rest.replace(buffer);
        poll_fn(|cx| {
            self.keep_waker(cx);
            self.fault.take().map_or(Poll::Pending, |fault| Poll::Ready(Err(*fault)))
        })
        .await
    }

    /// Has what [`take`](Self::take) will need fetched, once the connection itself was.
    #[inline]
    pub(crate) fn prefetch(&self) {
        self.state.borrow().flights.prefetch();
    }

    /// Takes what has arrived, by way of `shared`, which is empty before and after it; `is_ended` says that the server will
    /// send no more.
    #[inline]
    pub(crate) fn take(&self, worker: &Worker<S>, shared: &mut Vec<u8>, is_ended: bool) -> Taken {
        match self.try_take(worker, shared, is_ended) {
            Ok(true) => Taken::All,
            Ok(false) => Taken::Some,
            Err(fault) => {
                shared.clear();
                // The first one is the reason.
                self.fault.borrow_mut().get_or_insert_with(|| Box::new(fault));
                self.wake();
                Taken::Over
            }
        }
    }

    /// One read, and whether it has taken all.
    fn try_take(&self, worker: &Worker<S>, shared: &mut Vec<u8>, is_ended: bool) -> Result<bool, Fault> {
        if !self.state.borrow().unsent.is_empty() {
            self.send_unsent(worker);
        }
        let rest = &mut *self.rest.borrow_mut();
        // A long reply is put together in a place of its own.
        let is_long = rest.len() > shared.capacity() / 8;
        let buffer = if is_long {
            rest.reserve(BUFFER_MAX);
            &mut *rest
        } else {
            shared.append(rest);
            &mut *shared
        };
        let result = self.socket.try_read(buffer);
        let is_drained = buffer.len() < buffer.capacity() && !is_ended;
        let result = match result {
            Ok(0) => Err(Fault::Ended),
            Ok(_) => self.turn(worker, buffer).map(|()| is_drained),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(Fault::Lost(error)),
        };
        rest.append(shared);
        if self.is_leaving.get() {
            self.abort_if_done(&self.state.borrow());
        }
        result
    }

    /// As few bytes at a time as the plan says for a slow reader.
    async fn read_slowly(&self, worker: &Rc<Worker<S>>, mut buffer: Vec<u8>) -> Result<(), Fault> {
        let slow = worker.plan.slow.expect("the plan says who is slow");
        let step = (slow.bytes_a_second / 10).max(1);
        let mut held: Vec<u8> = Vec::new();
        held.append(&mut buffer);
        loop {
            self.turn(worker, &mut held)?;
            if self.is_leaving.get() {
                self.abort_if_done(&self.state.borrow());
            }
            let (result, back) = self.read(worker, Vec::with_capacity(step)).await;
            let count = result.map_err(Fault::Lost)?;
            if count == 0 {
                return Err(Fault::Ended);
            }
            held.extend_from_slice(&back);
            let time = count as f64 / slow.bytes_a_second as f64;
            if !worker.is_over() {
                monoio::time::sleep(std::time::Duration::from_secs_f64(time)).await;
            }
        }
    }

    /// Everything between two reads: all replies that have come, then, in one write, all messages that may follow.
    fn turn(&self, worker: &Worker<S>, buffer: &mut Vec<u8>) -> Result<(), Fault> {
        let now = worker.now();
        let State { scenario, flights, backlog, unsent, is_first, has_spoken, .. } =
            &mut *self.state.borrow_mut();
        let mut record = worker.record.borrow_mut();
        let out = &mut *worker.out.borrow_mut();
        out.clear();

        let mut replies = Replies {
            record: &mut record,
            flights,
            content: &worker.content,
            number: self.number,
            verify: worker.plan.verify,
            now,
            is_first,
            alike: None,
            is_idle: self.cohort == Cohort::Idle,
            storm: self.storm,
            until: |slot: u16| worker.until(slot),
            is_open: |slot: u16| worker.is_open(slot),
        };
        let consumed = scenario.receive(buffer, out, &mut replies);
        replies.count_alike();
        let consumed = consumed?;
        if consumed == buffer.len() {
            buffer.clear();
        } else {
            buffer.drain(..consumed);
        }

        let mut room = worker.plan.depth.saturating_sub(flights.waiting());
        let mut resent = 0;
        while room > 0 && out.len() < OUT_MAX && unsent.is_empty() {
            let Some((intended, slot)) = backlog.pop_front() else { break };
            append(scenario, worker, self.number, flights.next(), out);
            flights.push(1, intended, 0, slot);
            (room, resent) = (room - 1, resent + 1);
        }
        if resent > 0 {
            scenario.flush(out);
            let sent = worker.now();
            flights.sent(resent, sent, |flight| record.sent_as_planned(flight));
        }
        if self.closing.get().is_none() && backlog.is_empty() {
            let is_idle = self.cohort == Cohort::Idle;
            let due = match worker.draw(if is_idle { 0 } else { room }, now) {
                Draw::Nothing => None,
                Draw::Messages { count, phase } => Some((count, self.cohort.slot(phase))),
                Draw::Finish if is_idle && !*has_spoken && !worker.is_stopped() => {
                    *has_spoken = true;
                    Some((1, worker.plan.idle_slot()))
                }
                Draw::Finish => {
                    if flights.waiting() == 0 {
                        self.say_goodbye(scenario, out, now);
                    }
                    None
                }
            };
            if let Some((count, slot)) = due {
                let first = flights.next();
                for sequence in first..first + count as u64 {
                    append(scenario, worker, self.number, sequence, out);
                }
                scenario.flush(out);
                // They were meant for no other time.
                let sent = worker.now();
                flights.push(count, sent, sent, slot);
                let ledger = &mut record.slots[usize::from(slot)].ledger;
                ledger.planned += count as u64;
                ledger.sent += count as u64;
                if !is_idle {
                    record.interval.planned += count as u64;
                    record.interval.sent += count as u64;
                }
            }
        }
        if !out.is_empty() || !unsent.is_empty() {
            unsent.send(&self.socket, out);
        }
        Ok(())
    }

    fn say_goodbye(&self, scenario: &mut S, out: &mut Vec<u8>, now: Nanos) {
        self.closing.set(Some(now));
        let before = out.len();
        scenario.goodbye(out);
        if out.len() == before {
            self.socket.shutdown_write();
        }
    }

    /// Does what a turn does without a reply: for the begin of a phase, and for the end.
    pub(crate) fn kick(&self, worker: &Worker<S>) {
        // Its own task meets the fault again, and says so.
        let _ = self.turn(worker, &mut Vec::new());
        self.wake_if_unsent();
    }

    /// The pacer's: a message that was to be sent at `intended`. It is on its way after [`flush`](Self::flush), which is due
    /// if this says so.
    #[inline]
    pub(crate) fn release(&self, worker: &Worker<S>, intended: Nanos, phase: usize, now: Nanos) -> bool {
        let slot = self.cohort.slot(phase);
        let State { scenario, flights, backlog, unsent, fresh, .. } = &mut *self.state.borrow_mut();
        let has_room =
            flights.waiting() < worker.plan.depth && unsent.len() < UNSENT_MAX && backlog.is_empty();
        if !has_room {
            let mut record = worker.record.borrow_mut();
            record.lag(intended, now, slot);
            record.slots[usize::from(slot)].ledger.held += 1;
            backlog.push_back((intended, slot));
            return false;
        }
        append(scenario, worker, self.number, flights.next(), &mut unsent.bytes);
        flights.push(1, intended, 0, slot);
        *fresh += 1;
        *fresh == 1
    }

    /// Takes over a message that no connection was there for.
    pub(crate) fn adopt(&self, intended: Nanos, phase: usize) {
        self.state.borrow_mut().backlog.push_back((intended, Cohort::Active.slot(phase)));
    }

    /// Whether its end is our own will.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get().is_some()
    }

    /// Whom it is counted with.
    #[inline]
    pub(crate) fn cohort(&self) -> Cohort {
        self.cohort
    }

    /// Sends what was released.
    #[inline]
    pub(crate) fn flush(&self, worker: &Worker<S>) {
        let State { scenario, flights, unsent, fresh, .. } = &mut *self.state.borrow_mut();
        scenario.flush(&mut unsent.bytes);
        let now = worker.now();
        {
            let mut record = worker.record.borrow_mut();
            flights.sent(*fresh, now, |flight| {
                record.lag(flight.intended, now, flight.slot);
                record.sent_as_planned(flight);
            });
        }
        *fresh = 0;
        unsent.send(&self.socket, &[]);
        if !unsent.is_empty() {
            self.wake();
        }
    }

    /// What its messages' time is up for, and what was lost.
    pub(crate) fn look_after(&self, worker: &Worker<S>, now: Nanos) {
        let mut state = self.state.borrow_mut();
        let State { flights, .. } = &mut *state;
        let mut record = worker.record.borrow_mut();
        if let Some(timeout) = worker.timeout {
            flights.expire(now.saturating_sub(timeout), |flight| {
                let is_open = worker.is_open(flight.slot);
                record.timed_out(&flight, flight.intended.max(1) + timeout, is_open);
            });
        }
        flights.forget_lost(|flight| {
            let is_open = worker.is_open(flight.slot);
            record.unanswered(&flight, worker.given_up_at(now), is_open, true);
        });
        if self.is_leaving.get() {
            self.abort_if_done(&state);
        }
    }

    /// Sends a sign of life.
    pub(crate) fn ping(&self) {
        {
            let State { scenario, unsent, .. } = &mut *self.state.borrow_mut();
            if self.closing.get().is_none() && unsent.is_empty() {
                scenario.ping(&mut unsent.bytes);
                unsent.send(&self.socket, &[]);
            }
        }
        self.wake_if_unsent();
    }

    fn wake_if_unsent(&self) {
        if !self.state.borrow().unsent.is_empty() {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waiting.borrow() {
            waker.wake_by_ref();
        }
    }

    fn keep_waker(&self, cx: &Context<'_>) {
        let waiting = &mut *self.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
    }

    /// Sends what had no room; if that is all of it, the backlog may follow.
    fn send_unsent(&self, worker: &Worker<S>) {
        let is_empty = {
            let unsent = &mut self.state.borrow_mut().unsent;
            unsent.send(&self.socket, &[]);
            unsent.is_empty()
        };
        if is_empty {
            // A fault shows at the next read.
            let _ = self.turn(worker, &mut Vec::new());
        }
    }

    /// Waits for bytes, and meanwhile sends what the socket had no room for: the server may be waiting for that.
    async fn read(&self, worker: &Worker<S>, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let mut read = pin!(self.socket.read(buffer));
        loop {
            let bytes_or_unsent = |cx: &mut Context<'_>| match read.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => {
                    if !self.state.borrow().unsent.is_empty() {
                        return Poll::Ready(None);
                    }
                    self.keep_waker(cx);
                    Poll::Pending
                }
            };
            if let Some(done) = poll_fn(bytes_or_unsent).await {
                return done;
            }
            let mut room = pin!(self.socket.writable());
            let bytes_or_room = |cx: &mut Context<'_>| match read.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => room.as_mut().poll(cx).map(|_| None),
            };
            if let Some(done) = poll_fn(bytes_or_room).await {
                return done;
            }
            self.send_unsent(worker);
        }
    }

    /// Accounts for what is left when the connection is over.
    fn settle(&self, worker: &Worker<S>, result: Result<(), Fault>) {
        let now = worker.now();
        let State { flights, backlog, has_spoken, .. } = &mut *self.state.borrow_mut();
        // It was looked at for the last time.
        *has_spoken = true;
        let mut record = worker.record.borrow_mut();
        let given_up_at = worker.given_up_at(now);
        for (flight, is_lost) in flights.drain() {
            record.unanswered(&flight, given_up_at, worker.is_open(flight.slot), is_lost);
        }
        for (intended, slot) in backlog.drain(..) {
            record.never_sent(intended, given_up_at, slot);
        }
        if let Some(begun) = self.closing.get()
            && !worker.is_cut.get()
        {
            record.opening_of(self.storm).close.saturating_record(now - begun);
        }
        let Err(fault) = result else { return };
        if !is_wanted(&fault, self.closing.get().is_some() || worker.is_cut.get()) {
            record.fault(&fault);
        }
    }
}

/// Whether that end is what follows our goodbye.
pub(crate) fn is_wanted(fault: &Fault, is_closing: bool) -> bool {
    match fault {
        _ if !is_closing => false,
        Fault::Ended | Fault::Lost(_) => true,
        // The answer to our goodbye; any other code is a complaint.
        Fault::Closed { code, .. } => code.is_none_or(|code| FAREWELLS.contains(&code)),
        _ => false,
    }
}

const BUFFER_MIN: usize = 1 << 10;
const BUFFER_MAX: usize = 64 << 10;
/// For so many entries of what is under way there is room where what was sent together is one of them.
const RUNS: usize = 16;
/// Beyond so many bytes on a core, buffers take their memory when something comes; and so does what is under way.
const TOUCHED_MAX: usize = 32 << 20;
/// How much of a backlog is put together at a time.
const OUT_MAX: usize = 64 << 10;
/// Beyond it a connection has no room for further messages.
const UNSENT_MAX: usize = 1 << 20;
const FAREWELLS: [Code; 2] = [Code::NORMAL, Code::GOING_AWAY];

/// Appends a message as it goes on the wire.
#[inline]
fn append<S: Scenario>(scenario: &mut S, worker: &Worker<S>, number: u32, sequence: u64, out: &mut Vec<u8>) {
    let content = &worker.content;
    scenario.send(out, content.size(number, sequence), |out, key| {
        content.append(number, sequence, key, out);
    });
}

/// Holds replies against the messages that they answer.
struct Replies<'a, U, O> {
    record: &'a mut Record,
    flights: &'a mut Flights,
    content: &'a Content,
    number: u32,
    verify: Verify,
    now: Nanos,
    is_first: &'a mut bool,
    /// One of the messages that were answered and not counted yet, and how many there are: they were sent together, so all
    /// of them have taken the same time.
    alike: Option<(Flight, u64)>,
    /// It says one message, which is no part of what goes on in a second.
    is_idle: bool,
    storm: Option<usize>,
    until: U,
    is_open: O,
}

impl<U: Fn(u16) -> Nanos, O: Fn(u16) -> bool> Sink for Replies<'_, U, O> {
    #[inline]
    fn expected(&self) -> Option<usize> {
        self.flights.oldest().map(|sequence| self.content.size(self.number, sequence))
    }

    #[inline]
    fn reply(&mut self, payload: &[u8], is_right_type: bool) -> Result<(), Fault> {
        let reply = self.flights.judge(self.content, self.number, self.verify, payload, is_right_type);
        self.count(reply)
    }

    fn number(&self, payload: &[u8]) -> Option<u64> {
        let (connection, number) = self.content.stamp(payload)?;
        (connection == self.number).then_some(number)
    }

    fn answer(&mut self, number: u64, answer: scenario::Answer<'_>) -> Result<(), Fault> {
        let reply = self.flights.judge_numbered(self.content, self.number, self.verify, number, answer);
        self.count(reply)
    }
}

impl<U: Fn(u16) -> Nanos, O: Fn(u16) -> bool> Replies<'_, U, O> {
    /// Counts what was answered last.
    fn count_alike(&mut self) {
        let alike = self.alike.take();
        self.count_these(alike);
    }

    #[inline]
    fn count_these(&mut self, alike: Option<(Flight, u64)>) {
        if let Some((flight, _)) = alike.filter(|_| self.is_idle) {
            self.record.idle_answered(&flight, self.now);
        } else if let Some((flight, count)) = alike {
            let (until, is_open) = ((self.until)(flight.slot), (self.is_open)(flight.slot));
            self.record.answered(&flight, count, self.now, until, is_open);
        }
    }

    #[inline]
    fn count(&mut self, reply: Reply) -> Result<(), Fault> {
        match reply {
            Reply::Answers(flight) => {
                match &mut self.alike {
                    Some((alike, count)) if *alike == flight => *count += 1,
                    alike => {
                        let before = alike.replace((flight, 1));
                        self.count_these(before);
                    }
                }
                if *self.is_first {
                    *self.is_first = false;
                    let first = &mut self.record.opening_of(self.storm).first;
                    first.saturating_record(self.now - flight.sent);
                }
            }
            Reply::Wrong(flight, wrong) => self.record.wrong(&flight, self.now, wrong),
            Reply::Late => self.record.late += 1,
            Reply::Duplicate => self.record.duplicate(&"a second reply to the same message"),
            Reply::Surplus => return Err(Fault::Surplus),
        }
        Ok(())
    }
}

/// What the socket had no room for.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    /// Invariant: `start < bytes.len()`, or both are 0.
    start: usize,
}

impl Unsent {
    #[inline]
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[inline]
    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Sends what is left and then `more`; what the socket does not take is kept.
    ///
    /// A connection that is gone takes nothing, and says so at its next read, with what the server said before.
    fn send(&mut self, socket: &Held, more: &[u8]) {
        if self.is_empty() {
            let sent = send(socket, more);
            self.bytes.extend_from_slice(&more[sent..]);
            return;
        }
        self.bytes.extend_from_slice(more);
        self.start += send(socket, &self.bytes[self.start..]);
        if self.start == self.bytes.len() {
            self.start = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
        }
    }
}

/// How much of a buffer that is empty is kept.
const KEPT: usize = 16 << 10;

fn send(socket: &Held, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while sent < bytes.len() {
        match socket.try_write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return sent,
            Err(_) => return bytes.len(),
        }
    }
    sent
}
