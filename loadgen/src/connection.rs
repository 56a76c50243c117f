//! One connection: connect → handshake → messages → goodbye.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
};

use switchpoint::ws::Code;

use crate::{
    content::Random,
    fault::Fault,
    handshake::{self, Answer, Broken},
    record::Nanos,
    scenario::Scenario,
    socket::Socket,
    worker::{Schedule, Worker},
};

/// A connection that has switched.
pub(crate) struct Opened<S> {
    pub(crate) socket: Rc<Socket>,
    scenario: S,
    /// The buffer of its reads, with what came behind the 101.
    buffer: Vec<u8>,
}

/// Connects, asks for the switch, and verifies the answer. Whoever drops this gives the connection up.
pub(crate) async fn open<S: Scenario>(worker: Rc<Worker>, number: u32) -> Result<Opened<S>, Fault> {
    let plan = &*worker.plan;
    let random = Random::new(plan.seed ^ (u64::from(number) + 1) << 32);
    let scenario = S::new(plan, &worker.content, number, random);
    let socket = Socket::connect(worker.address).await.map_err(Fault::Connect)?;
    let request = handshake::request(&plan.url, S::TOKEN, &scenario.fields(), &plan.headers);
    write_all(&socket, &request).await.map_err(Fault::Lost)?;

    let mut buffer = Vec::with_capacity(buffer_size(scenario.reply_max(), plan.depth));
    let answer = loop {
        match Answer::parse(&buffer)? {
            Some((answer, size)) => {
                buffer.drain(..size);
                if !answer.is_interim() {
                    break answer;
                }
            }
            None if !read_more(&socket, &mut buffer).await? => return Err(Broken::Cut.into()),
            None => {}
        }
    };
    if answer.status != 101 {
        while !answer.has_whole_body(&buffer) && read_more(&socket, &mut buffer).await.unwrap_or(false) {}
        return Err(Fault::Refused(answer.refusal(&buffer)));
    }
    answer.switches_to(S::TOKEN)?;
    scenario.admit(&answer, &plan.headers)?;
    Ok(Opened { socket: Rc::new(socket), scenario, buffer })
}

/// Room for a whole reply, so that it is verified where it lies, and for all that are in flight if they are small.
fn buffer_size(reply_max: usize, depth: usize) -> usize {
    reply_max.max(reply_max.saturating_mul(depth).clamp(BUFFER_MIN, BUFFER_MAX))
}

const BUFFER_MIN: usize = 4 << 10;
const BUFFER_MAX: usize = 64 << 10;

async fn read_more(socket: &Socket, buffer: &mut Vec<u8>) -> Result<bool, Fault> {
    buffer.reserve(1);
    let (result, back) = socket.read(std::mem::take(buffer)).await;
    *buffer = back;
    Ok(result.map_err(Fault::Lost)? > 0)
}

async fn write_all(socket: &Socket, mut bytes: &[u8]) -> io::Result<()> {
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

/// Sends messages and verifies replies until the schedule, or the server, ends it.
pub(crate) async fn drive<S: Scenario>(worker: Rc<Worker>, opened: Opened<S>, schedule: Schedule) {
    let Opened { socket, scenario, buffer } = opened;
    let mut session = Session {
        worker: &worker,
        socket: &socket,
        scenario,
        schedule,
        in_flight: VecDeque::with_capacity(worker.plan.depth),
        unsent: Unsent::default(),
        is_closing: false,
    };
    let result = session.run(buffer).await;
    session.settle(result);
    socket.abort();
    worker.live.set(worker.live.get() - 1);
}

struct Session<'a, S> {
    worker: &'a Worker,
    socket: &'a Socket,
    scenario: S,
    schedule: Schedule,
    /// When each message that has no reply yet was sent.
    in_flight: VecDeque<Nanos>,
    unsent: Unsent,
    /// We have said goodbye.
    is_closing: bool,
}

impl<S: Scenario> Session<'_, S> {
    async fn run(&mut self, mut buffer: Vec<u8>) -> Result<(), Fault> {
        loop {
            self.turn(&mut buffer)?;
            let result;
            (result, buffer) = self.read(buffer).await;
            if result.map_err(Fault::Lost)? == 0 {
                return Err(Fault::Ended);
            }
        }
    }

    /// Everything between two reads: all replies that have come, then, in one write, all messages that may follow.
    fn turn(&mut self, buffer: &mut Vec<u8>) -> Result<(), Fault> {
        let (worker, schedule) = (self.worker, self.schedule);
        let now = worker.now();
        let mut record = worker.record.borrow_mut();
        let out = &mut *worker.out.borrow_mut();
        out.clear();

        let in_flight = &mut self.in_flight;
        let consumed = self.scenario.receive(buffer, out, |verdict| {
            let sent = in_flight.pop_front().expect("a scenario names no more replies than it sent messages");
            record.reply(sent, now, schedule.measures(sent), verdict);
        })?;
        buffer.drain(..consumed);

        let room = worker.plan.depth - self.in_flight.len();
        let count = if self.is_closing { 0 } else { worker.draw(room, now, schedule) };
        if count > 0 {
            (0..count).for_each(|_| self.scenario.send(out));
            // What was drawn as warm-up stays warm-up.
            let sent = worker.now();
            let sent = if schedule.measures(now) { sent } else { sent.min(schedule.from - 1) };
            self.in_flight.extend(std::iter::repeat_n(sent, count));
            record.sent(count, schedule.measures(sent));
        } else if self.in_flight.is_empty() && !self.is_closing {
            self.is_closing = true;
            let before = out.len();
            self.scenario.goodbye(out);
            if out.len() == before {
                self.socket.shutdown_write();
            }
        }
        self.unsent.send(self.socket, out);
        Ok(())
    }

    /// Waits for bytes, and meanwhile sends what the socket had no room for: the server may be waiting for that.
    async fn read(&mut self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let mut read = pin!(self.socket.read(buffer));
        while !self.unsent.is_empty() {
            let mut room = pin!(self.socket.writable());
            let poll = |cx: &mut Context<'_>| match read.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => room.as_mut().poll(cx).map(|_| None),
            };
            if let Some(done) = poll_fn(poll).await {
                return done;
            }
            self.unsent.send(self.socket, &[]);
        }
        read.await
    }

    /// Accounts for what is left when the connection is over.
    fn settle(&mut self, result: Result<(), Fault>) {
        let now = self.worker.now();
        let mut record = self.worker.record.borrow_mut();
        for sent in self.in_flight.drain(..) {
            record.unanswered(sent, now, self.schedule.measures(sent));
        }
        let Err(fault) = result else { return };
        let is_wanted = match &fault {
            _ if !self.is_closing && !self.worker.is_cut.get() => false,
            Fault::Ended | Fault::Lost(_) => true,
            // The answer to our goodbye; any other code is a complaint.
            Fault::Closed { code, .. } => code.is_none_or(|code| FAREWELLS.contains(&code)),
            _ => false,
        };
        if !is_wanted {
            record.fault(&fault);
        }
    }
}

const FAREWELLS: [Code; 2] = [Code::NORMAL, Code::GOING_AWAY];

/// What the socket had no room for.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    /// Invariant: `start < bytes.len()`, or both are 0.
    start: usize,
}

impl Unsent {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Sends what is left and then `more`; what the socket does not take is kept.
    ///
    /// A connection that is gone takes nothing, and says so at its next read, with what the server said before.
    fn send(&mut self, socket: &Socket, more: &[u8]) {
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
        }
    }
}

fn send(socket: &Socket, bytes: &[u8]) -> usize {
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
