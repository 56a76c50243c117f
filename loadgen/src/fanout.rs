//! One says it, all hear it: how long until each receiver has a message, and until the last one has; who has not.
//!
//! The first connections send, all others listen. The server passes each message on as it is.

use std::{
    collections::BTreeSet,
    io,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    connection::{Opened, is_wanted, write_all},
    fault::Fault,
    pace::{LOOK_UP, Pacer},
    plan::Plan,
    record::{Record, Times, times},
    scenario::{Scenario, Sink},
    schedule::Arrivals,
    units::Nanos,
    worker::Worker,
};

/// When each message was to be sent, and was: written by the sender, read by all receivers.
#[derive(Debug)]
pub(crate) struct Sent(Vec<[AtomicU64; 2]>);

impl Sent {
    /// With room for all that the plan has.
    pub(crate) fn new(plan: &Plan) -> Arc<Self> {
        let planned: f64 = plan
            .phases
            .iter()
            .filter_map(|phase| Some(phase.profile.as_ref()?.mean() * phase.time?.as_secs_f64()))
            .sum();
        // A Poisson process may have more; beyond 10 standard deviations it does not happen.
        let room = planned + 10.0 * planned.sqrt() + 16.0;
        Arc::new(Self((0..room as usize).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect()))
    }

    fn get(&self, index: usize) -> Option<(Nanos, Nanos)> {
        let [intended, sent] = self.0.get(index)?;
        let sent = sent.load(Ordering::Acquire);
        (sent > 0).then(|| (intended.load(Ordering::Relaxed), sent))
    }

    fn set(&self, index: usize, intended: Nanos, sent: Nanos) {
        if let Some(entry) = self.0.get(index) {
            entry[0].store(intended, Ordering::Relaxed);
            entry[1].store(sent, Ordering::Release);
        }
    }
}

/// The one of this process's run; a fan-out has one plan.
pub(crate) static SENT: OnceLock<Arc<Sent>> = OnceLock::new();

/// What a thread's receivers have heard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// By message: how many have it, and since when the last of them.
    by_message: Vec<(u32, Nanos)>,
    /// Messages that receivers have missed, although they got a later one of the same sender.
    pub(crate) gaps: u64,
    /// Messages that came twice.
    pub(crate) duplicates: u64,
    /// Messages that came after a later one.
    pub(crate) disorder: u64,
    /// How many were sent.
    pub(crate) messages: u64,
    pub(crate) receivers: u64,
}

/// What all threads' receivers have heard.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) heard: Heard,
    /// From the intended time until the last receiver has it; only of messages that all have.
    pub(crate) last: Times,
    /// Messages that some receiver has not got.
    pub(crate) incomplete: u64,
}

impl Heard {
    fn note(&mut self, index: usize, now: Nanos) {
        if self.by_message.len() <= index {
            self.by_message.resize(index + 1, (0, 0));
        }
        let (count, last) = &mut self.by_message[index];
        *count += 1;
        *last = now.max(*last);
    }

    /// Adds what another thread's receivers have heard.
    pub(crate) fn merge(&mut self, other: &Self) {
        if self.by_message.len() < other.by_message.len() {
            self.by_message.resize(other.by_message.len(), (0, 0));
        }
        for (mine, (count, last)) in self.by_message.iter_mut().zip(&other.by_message) {
            mine.0 += count;
            mine.1 = mine.1.max(*last);
        }
        self.gaps += other.gaps;
        self.duplicates += other.duplicates;
        self.disorder += other.disorder;
        self.messages += other.messages;
        self.receivers += other.receivers;
    }

    /// The sum over all threads; what was not delivered goes into `record`, with what it has waited at `end`.
    pub(crate) fn figures(mut self, record: &mut Record, sent: &Sent, end: Nanos) -> Figures {
        self.by_message.resize((self.messages as usize).max(self.by_message.len()), (0, 0));
        let mut last = times();
        let mut incomplete = 0;
        for (index, (count, since)) in self.by_message.iter().enumerate() {
            let Some((intended, _)) = sent.get(index) else { continue };
            let missing = self.receivers.saturating_sub(u64::from(*count));
            if missing == 0 {
                last.saturating_record(since.saturating_sub(intended));
                continue;
            }
            incomplete += 1;
            let slot = &mut record.slots[0];
            slot.ledger.unanswered += missing;
            slot.censored += missing;
            slot.response.saturating_record_n(end.saturating_sub(intended), missing);
        }
        Figures { heard: self, last, incomplete }
    }
}

/// Sends and listens to the end of the plan.
pub(crate) async fn run<S: Scenario>(
    worker: &Rc<Worker<S>>,
    opened: Vec<Opened<S>>,
    pacer: &Rc<Pacer>,
    senders: u32,
) -> (io::Result<()>, Heard) {
    let heard = Rc::new(std::cell::RefCell::new(Heard::default()));
    let mut sending = Vec::new();
    let mut sockets = Vec::new();
    for opened in opened {
        sockets.push(Rc::clone(&opened.socket));
        worker.enter();
        let is_sender = opened.number < senders;
        if !is_sender {
            heard.borrow_mut().receivers += 1;
        }
        let Opened { number, socket, scenario, buffer, .. } = opened;
        let scenario = Rc::new(std::cell::RefCell::new(scenario));
        if is_sender {
            sending.push((number, Rc::clone(&socket), Rc::clone(&scenario)));
        }
        let (worker, heard) = (Rc::clone(worker), Rc::clone(&heard));
        monoio::spawn(async move {
            let ended = listen(&worker, &heard, senders, is_sender, &socket, &scenario, buffer).await;
            if !is_wanted(&ended, worker.is_over()) {
                worker.record.borrow_mut().fault(&ended);
            }
            worker.leave();
        });
    }
    let result = send(worker, pacer, &sending, &heard).await;
    let end = worker.end();
    while worker.now() < end && !worker.is_over() {
        if pacer.wait(end.min(pacer.now() + LOOK_UP)).await.is_err() {
            break;
        }
    }
    worker.set_over(worker.now().min(end));
    // Who is still missing a message is waited for, within the grace.
    worker.wait_for_all(|| sockets.iter().for_each(|socket| socket.abort())).await;
    let heard = heard.borrow().clone();
    (result, heard)
}

type Sender<S> = (u32, Rc<crate::socket::Socket>, Rc<std::cell::RefCell<S>>);

async fn send<S: Scenario>(
    worker: &Rc<Worker<S>>,
    pacer: &Pacer,
    senders: &[Sender<S>],
    heard: &std::cell::RefCell<Heard>,
) -> io::Result<()> {
    if senders.is_empty() {
        return Ok(());
    }
    let plan = &*worker.plan;
    let receivers = u64::from(plan.connections) - senders.len() as u64;
    let sent = SENT.get().expect("set before the threads start");
    let (from, until) = worker.times_of(0);
    let profile = plan.phases[0].profile.clone().expect("a fan-out has a rate");
    let mut arrivals = Arrivals::new(profile, plan.arrival, 0, 1, plan.seed);
    let mut out = Vec::new();
    let mut index = 0_usize;
    while let Some(due) = arrivals.peek().map(|due| from + due).filter(|due| *due < until) {
        let now = pacer.wait(due.min(pacer.now() + LOOK_UP)).await?;
        if worker.is_over() {
            break;
        }
        if now < due {
            continue;
        }
        arrivals.advance();
        let (number, socket, scenario) = &senders[index % senders.len()];
        let sequence = (index / senders.len()) as u64;
        out.clear();
        let content = &worker.content;
        let size = content.size(*number, sequence);
        scenario.borrow_mut().send(&mut out, size, |out, key| {
            content.append(*number, sequence, key, out);
        });
        scenario.borrow_mut().flush(&mut out);
        let now = worker.now();
        sent.set(index, due, now);
        {
            let mut record = worker.record.borrow_mut();
            record.lag(due, now, 0);
            record.slots[0].ledger.planned += receivers;
            record.slots[0].ledger.sent += receivers;
            record.interval.planned += receivers;
            record.interval.sent += receivers;
        }
        heard.borrow_mut().messages += 1;
        if let Err(error) = write_all(socket, &out).await {
            // Its listening half says why; the messages that it should have sent are unanswered.
            worker.record.borrow_mut().error("sender-lost".into(), &error);
        }
        index += 1;
        pacer.pass().await?;
    }
    Ok(())
}

async fn listen<S: Scenario>(
    worker: &Rc<Worker<S>>,
    heard: &std::cell::RefCell<Heard>,
    senders: u32,
    is_sender: bool,
    socket: &Rc<crate::socket::Socket>,
    scenario: &std::cell::RefCell<S>,
    mut buffer: Vec<u8>,
) -> Fault {
    buffer.reserve(S::reply_max(worker.plan.sizes.max()).max(READ));
    let mut ear = Ear {
        worker,
        heard,
        senders,
        is_sender,
        now: worker.now(),
        next: vec![(0, BTreeSet::new()); senders as usize],
    };
    let mut out = Vec::new();
    loop {
        ear.now = worker.now();
        out.clear();
        let consumed = scenario.borrow_mut().receive(&mut buffer, &mut out, &mut ear);
        match consumed {
            Ok(consumed) => drop(buffer.drain(..consumed)),
            Err(fault) => return fault,
        }
        if !out.is_empty()
            && let Err(error) = write_all(socket, &out).await
        {
            return Fault::Lost(error);
        }
        if buffer.len() == buffer.capacity() {
            buffer.reserve(READ);
        }
        let result;
        (result, buffer) = socket.read(buffer).await;
        match result {
            Ok(0) => return Fault::Ended,
            Ok(_) => {}
            Err(error) => return Fault::Lost(error),
        }
    }
}

const READ: usize = 1 << 10;

struct Ear<'a, S> {
    worker: &'a Worker<S>,
    heard: &'a std::cell::RefCell<Heard>,
    senders: u32,
    is_sender: bool,
    now: Nanos,
    /// By sender: the next number, and those before it that have not come.
    next: Vec<(u64, BTreeSet<u64>)>,
}

impl<S: Scenario> Sink for Ear<'_, S> {
    fn expected(&self) -> Option<usize> {
        Some(self.worker.content.size_max())
    }

    fn reply(&mut self, payload: &[u8], is_right_type: bool) -> Result<(), Fault> {
        if self.is_sender {
            return Ok(()); // its own words, where the server sends them back
        }
        let worker = self.worker;
        let mut record = worker.record.borrow_mut();
        let stamp = worker.content.stamp(payload);
        let Some((sender, sequence)) = stamp.filter(|(sender, sequence)| {
            *sender < self.senders && is_right_type && worker.content.is_message(*sender, *sequence, payload)
        }) else {
            record.stray("wrong-content", &"a message that no sender has sent");
            return Ok(());
        };
        let index = sequence as usize * self.senders as usize + sender as usize;
        let Some((intended, sent)) = SENT.get().and_then(|all| all.get(index)) else {
            record.stray("wrong-content", &"a message that was not sent yet");
            return Ok(());
        };
        let mut heard = self.heard.borrow_mut();
        let (next, missing) = &mut self.next[sender as usize];
        if sequence < *next {
            if !missing.remove(&sequence) {
                heard.duplicates += 1;
                record.duplicate(&"a receiver got a message twice");
                return Ok(());
            }
            heard.gaps -= 1;
            heard.disorder += 1;
            record.stray("wrong-order", &"a receiver got a message after a later one of the same sender");
        } else {
            heard.gaps += sequence - *next;
            missing.extend(*next..sequence);
            while missing.len() > MISSING_MAX {
                missing.pop_first();
            }
            *next = sequence + 1;
        }
        heard.note(index, self.now);
        let slot = &mut record.slots[0];
        slot.ledger.answered += 1;
        slot.ledger.in_time += u64::from(self.now <= worker.until(0));
        let response = self.now.saturating_sub(intended);
        slot.response.saturating_record(response);
        slot.service.saturating_record(self.now.saturating_sub(sent));
        record.interval.latency.saturating_record(response);
        record.interval.answered += 1;
        record.longest = record.longest.max(response);
        record.last = self.now;
        Ok(())
    }
}

/// How many missing messages of a sender a receiver remembers; older ones that come after all count as doubled.
const MISSING_MAX: usize = 1024;
