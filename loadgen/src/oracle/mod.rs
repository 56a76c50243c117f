//! A server that misbehaves as it is told, and counts what it did: what a load generator reports is held against it.
//!
//! It has nothing in common with the engine, nor with the library (`units` reads its arguments): one thread, epoll, frames of its own. An
//! error that both sides had would cancel out.

mod frames;
mod script;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::event::{Timespec, epoll};
use serde_json::json;

use frames::{Handshake, Incoming};
pub(crate) use script::Script;

/// Serves until SIGTERM or SIGINT, then prints its ledger as JSON. The first line that it prints is its address.
pub(crate) fn serve(listen: SocketAddr, script: Script) -> io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let listener = TcpListener::bind(listen)?;
    rustix::net::listen(&listener, script.backlog.map_or(BACKLOG, |(backlog, _)| backlog))?;
    listener.set_nonblocking(true)?;
    println!("oracle on {}", listener.local_addr()?);
    io::stdout().flush()?;
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZero::new(1));
    let mut oracle = Oracle::new(listener, script)?;
    while !stop.load(Ordering::Relaxed) {
        oracle.turn(&stop)?;
    }
    // Whoever started it may have gone.
    let _ = writeln!(io::stdout(), "{:#}", oracle.ledger());
    Ok(())
}

const BACKLOG: i32 = 4096;

struct Oracle {
    script: Script,
    listener: TcpListener,
    epoll: std::os::fd::OwnedFd,
    connections: BTreeMap<u64, Connection>,
    next_id: u64,
    /// What is to be sent later, the earliest first.
    later: BinaryHeap<Reverse<(u64, u64, Later)>>,
    order: u64,
    /// When the first message came, from which the script counts.
    zero: Option<Instant>,
    epoch: Instant,
    first_connection: Option<Instant>,
    has_stalled: bool,
    /// When the one server of a queue is free again.
    free: u64,
    random: u64,
    counts: Counts,
    /// Messages in each 10 ms since the first one.
    bins: Vec<u32>,
    /// How long each message stayed, in nanoseconds.
    residences: Vec<u64>,
    /// A reply that another one is to overtake.
    held: Option<(u64, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Later {
    /// Bytes for a connection; `since` is when the message came that they answer.
    Send { connection: u64, bytes: Vec<u8>, since: u64, is_reply: bool },
    /// The answer to a handshake.
    Switch { connection: u64, bytes: Vec<u8> },
}

#[derive(Debug, Default)]
struct Counts {
    connections: u64,
    upgrades: u64,
    messages: u64,
    replies: u64,
    corrupted: u64,
    doubled: u64,
    dropped: u64,
    reordered: u64,
    flipped: u64,
    deliveries: u64,
    drops_of_deliveries: u64,
    closes: u64,
    pings: u64,
    /// The sum of a hash of each message, in whatever order they came.
    hash: u64,
}

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    out: Vec<u8>,
    is_waiting_for_room: bool,
    /// `None` until it has switched; then whether it is WebSocket.
    switched: Option<bool>,
    has_replied: bool,
    messages: u64,
    /// When the latest of its answers is due that must not be overtaken.
    last_due: u64,
    /// How many of its answers are still to be sent.
    pending: u32,
    is_closing: bool,
}

impl Oracle {
    fn new(listener: TcpListener, script: Script) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        Ok(Self {
            script,
            listener,
            epoll,
            connections: BTreeMap::new(),
            next_id: 1,
            later: BinaryHeap::new(),
            order: 0,
            zero: None,
            epoch: Instant::now(),
            first_connection: None,
            has_stalled: false,
            free: 0,
            random: 0x2545_f491_4f6c_dd1d,
            counts: Counts::default(),
            bins: Vec::new(),
            residences: Vec::new(),
            held: None,
        })
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn since_zero(&self) -> Option<Duration> {
        self.zero.map(|zero| zero.elapsed())
    }

    fn turn(&mut self, stop: &AtomicBool) -> io::Result<()> {
        if let (Some((at, time)), Some(since)) = (self.script.stall, self.since_zero())
            && !self.has_stalled
            && since >= at
        {
            self.has_stalled = true;
            std::thread::sleep((at + time).saturating_sub(self.since_zero().unwrap_or_default()));
        }
        if let (Some(at), Some(since)) = (self.script.dead, self.since_zero())
            && since >= at
        {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            return Ok(());
        }
        self.send_what_is_due()?;
        let timeout = self.timeout();
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 256];
        let timeout = Timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos().into() };
        let ready = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let ids: Vec<(u64, bool)> = ready
            .iter()
            .map(|event| {
                let flags = event.flags;
                (event.data.u64(), flags.contains(epoll::EventFlags::OUT))
            })
            .collect();
        for (id, has_room) in ids {
            if id == 0 {
                self.accept()?;
                continue;
            }
            if has_room {
                self.write(id, &[]);
            }
            if !self.script.is_deaf || self.connections.get(&id).is_some_and(|it| it.switched.is_none()) {
                self.read(id);
            }
        }
        Ok(())
    }

    /// Until the next thing that the script, or a delay, wants done.
    fn timeout(&self) -> Duration {
        let mut timeout = Duration::from_millis(100);
        if let Some(Reverse((due, ..))) = self.later.peek() {
            let left = Duration::from_nanos(due.saturating_sub(self.now()));
            // The last bit is spent awake, so that a delay is what it says.
            timeout = timeout.min(left.saturating_sub(AWAKE));
        }
        if let Some(since) = self.since_zero() {
            let marks = [self.script.stall.filter(|_| !self.has_stalled).map(|(at, _)| at), self.script.dead];
            for at in marks.into_iter().flatten() {
                timeout = timeout.min(at.saturating_sub(since));
            }
        }
        timeout
    }

    fn accept(&mut self) -> io::Result<()> {
        let first = *self.first_connection.get_or_insert_with(Instant::now);
        if let Some((_, pause)) = self.script.backlog
            && first.elapsed() < pause
        {
            std::thread::sleep(pause - first.elapsed());
        }
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let id = self.next_id;
            self.next_id += 1;
            self.counts.connections += 1;
            epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(id), epoll::EventFlags::IN)?;
            let connection = Connection {
                stream,
                read: Vec::new(),
                out: Vec::new(),
                is_waiting_for_room: false,
                switched: None,
                has_replied: false,
                messages: 0,
                last_due: 0,
                pending: 0,
                is_closing: false,
            };
            self.connections.insert(id, connection);
        }
    }

    fn read(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut piece = [0; 16 << 10];
        loop {
            match connection.stream.read(&mut piece) {
                Ok(0) => {
                    // What is still to be sent goes out; a raw echo's client says its goodbye so.
                    connection.is_closing = true;
                    let _ = epoll::modify(
                        &self.epoll,
                        connection.stream.as_fd(),
                        epoll::EventData::new_u64(id),
                        epoll::EventFlags::empty(),
                    );
                    if connection.out.is_empty() {
                        self.connections.remove(&id);
                    }
                    break;
                }
                Ok(count) => {
                    connection.read.extend_from_slice(&piece[..count]);
                    if count < piece.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.connections.remove(&id);
                    return;
                }
            }
        }
        self.understand(id);
    }

    fn understand(&mut self, id: u64) {
        let now = self.now();
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            match connection.switched {
                None => {
                    let Some(handshake) = Handshake::take(&mut connection.read) else { return };
                    let Some(answer) = handshake.answer(&self.script) else { return };
                    connection.switched = answer.switches.then_some(handshake.is_websocket);
                    self.counts.upgrades += u64::from(answer.switches);
                    match self.script.handshake_delay {
                        Some(delay) => {
                            let due = now + delay.as_nanos() as u64;
                            self.push(due, Later::Switch { connection: id, bytes: answer.bytes });
                        }
                        None => self.write(id, &answer.bytes),
                    }
                }
                Some(false) => {
                    let bytes = std::mem::take(&mut connection.read);
                    if bytes.is_empty() {
                        return;
                    }
                    self.message(id, bytes, now);
                }
                Some(true) => match frames::take(&mut connection.read) {
                    None => return,
                    Some(Incoming::Ping(payload)) => {
                        self.counts.pings += 1;
                        self.write(id, &frames::frame(0x8a, &payload));
                    }
                    Some(Incoming::Pong) => {}
                    Some(Incoming::Close(payload)) => {
                        self.counts.closes += 1;
                        self.write(id, &frames::frame(0x88, &payload));
                        if let Some(connection) = self.connections.get(&id) {
                            let _ = connection.stream.shutdown(std::net::Shutdown::Write);
                        }
                        self.connections.remove(&id);
                        return;
                    }
                    Some(Incoming::Data { first, payload }) => {
                        self.message(id, frames::frame(first, &payload), now);
                    }
                },
            }
        }
    }

    /// A message has come; `reply` is what a server without faults would send back.
    fn message(&mut self, id: u64, mut reply: Vec<u8>, now: u64) {
        let zero = *self.zero.get_or_insert_with(Instant::now);
        let bin = (zero.elapsed().as_millis() / 10) as usize;
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, 0);
        }
        self.bins[bin] += 1;
        self.counts.messages += 1;
        // FNV-1a.
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = reply.iter().fold(0xcbf2_9ce4_8422_2325, step);
        self.counts.hash = self.counts.hash.wrapping_add(hash);
        let count = self.counts.messages;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.messages += 1;
        let is_first = !std::mem::replace(&mut connection.has_replied, true);
        if self.script.reset_after.is_some_and(|after| connection.messages > after) {
            let _ = rustix::net::sockopt::set_socket_linger(&connection.stream, Some(Duration::ZERO));
            self.connections.remove(&id);
            return;
        }
        if let Some((after, code)) = self.script.close_after
            && connection.messages > after
        {
            self.write(id, &frames::frame(0x88, &code.to_be_bytes()));
            return;
        }
        if let Some((stagger, drop)) = self.script.fanout {
            self.fan_out(id, &reply, now, stagger, drop);
            return;
        }
        let every = |each: Option<u64>| each.is_some_and(|each| count.is_multiple_of(each));
        if every(self.script.drop) {
            self.counts.dropped += 1;
            return;
        }
        if every(self.script.corrupt) {
            self.counts.corrupted += 1;
            if let Some(last) = reply.last_mut() {
                *last ^= 1;
            }
        }
        if every(self.script.flip) {
            self.counts.flipped += 1;
            reply[0] ^= 0x03;
        }
        if every(self.script.masked) {
            // A server's frame that is masked: the rest of it is as if it were not.
            reply[1] |= 0x80;
        }
        if every(self.script.reserved) {
            reply[0] |= 0x40;
        }
        if every(self.script.reorder) {
            self.held = Some((id, reply));
            return;
        }
        let mut replies = vec![reply.clone()];
        if every(self.script.double) {
            self.counts.doubled += 1;
            replies.push(reply);
        }
        match self.held.take() {
            // The next of the same connection overtakes it.
            Some((held, late)) if held == id => {
                self.counts.reordered += 1;
                replies.push(late);
            }
            other => self.held = other,
        }
        let mut due = self.due(now, is_first);
        // A server that is only slow at first keeps the order of what it answers.
        if (self.script.slow_first.is_some() || self.script.first_delay.is_some())
            && let Some(connection) = self.connections.get_mut(&id)
        {
            connection.last_due = connection.last_due.max(due.unwrap_or(now));
            due = Some(connection.last_due).filter(|due| *due > now || connection.pending > 0);
        }
        for bytes in replies {
            self.counts.replies += 1;
            match due {
                None => {
                    self.write(id, &bytes);
                    self.residences.push(self.now() - now);
                }
                Some(due) => {
                    self.push(due, Later::Send { connection: id, bytes, since: now, is_reply: true })
                }
            }
        }
    }

    /// When the answer to a message is due that has come `now`; `None` for at once.
    fn due(&mut self, now: u64, is_first: bool) -> Option<u64> {
        let nanos = |time: Duration| time.as_nanos() as u64;
        if let Some(delay) = self.script.first_delay.filter(|_| is_first) {
            return Some(now + nanos(delay));
        }
        if let Some((time, delay)) = self.script.slow_first
            && self.since_zero().is_some_and(|since| since < time)
        {
            return Some(now + nanos(delay));
        }
        if let Some((mean, is_random)) = self.script.queue {
            let service = if is_random { self.exponential(nanos(mean)) } else { nanos(mean) };
            self.free = self.free.max(now) + service;
            return Some(self.free);
        }
        if let Some(delay) = self.script.fixed {
            return Some(now + nanos(delay));
        }
        if let Some(mean) = self.script.exponential {
            return Some(now + self.exponential(nanos(mean)));
        }
        if let Some((short, long, part)) = self.script.bimodal {
            let delay = if self.uniform() < part { long } else { short };
            return Some(now + nanos(delay));
        }
        None
    }

    fn fan_out(&mut self, sender: u64, bytes: &[u8], now: u64, stagger: Duration, drop: Option<u64>) {
        let receivers: Vec<u64> = self
            .connections
            .iter()
            .filter(|(id, connection)| **id != sender && connection.switched == Some(true))
            .map(|(id, _)| *id)
            .collect();
        for (at, id) in receivers.into_iter().enumerate() {
            self.counts.deliveries += 1;
            if drop.is_some_and(|drop| self.counts.deliveries.is_multiple_of(drop)) {
                self.counts.drops_of_deliveries += 1;
                continue;
            }
            let is_doubled =
                self.script.double.is_some_and(|each| self.counts.deliveries.is_multiple_of(each));
            self.counts.doubled += u64::from(is_doubled);
            for _ in 0..if is_doubled { 2 } else { 1 } {
                if stagger.is_zero() {
                    self.write(id, bytes);
                } else {
                    let due = now + stagger.as_nanos() as u64 * at as u64;
                    let bytes = bytes.to_vec();
                    self.push(due, Later::Send { connection: id, bytes, since: now, is_reply: false });
                }
            }
        }
    }

    fn push(&mut self, due: u64, what: Later) {
        if let Later::Send { connection, is_reply: true, .. } = &what
            && let Some(connection) = self.connections.get_mut(connection)
        {
            connection.pending += 1;
        }
        self.order += 1;
        self.later.push(Reverse((due, self.order, what)));
    }

    fn send_what_is_due(&mut self) -> io::Result<()> {
        while let Some(Reverse((due, ..))) = self.later.peek() {
            let due = *due;
            if due > self.now() + AWAKE.as_nanos() as u64 {
                return Ok(());
            }
            while self.now() < due {
                std::hint::spin_loop();
            }
            let Some(Reverse((_, _, what))) = self.later.pop() else { return Ok(()) };
            match what {
                Later::Send { connection, bytes, since, is_reply } => {
                    self.write(connection, &bytes);
                    if is_reply {
                        self.residences.push(self.now() - since);
                        if let Some(connection) = self.connections.get_mut(&connection) {
                            connection.pending -= 1;
                        }
                    }
                }
                Later::Switch { connection, bytes } => {
                    self.write(connection, &bytes);
                    self.understand(connection);
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, id: u64, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.out.extend_from_slice(bytes);
        while !connection.out.is_empty() {
            match connection.stream.write(&connection.out) {
                Ok(count) => drop(connection.out.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.connections.remove(&id);
                    return;
                }
            }
        }
        let is_full = !connection.out.is_empty();
        if is_full != connection.is_waiting_for_room {
            connection.is_waiting_for_room = is_full;
            let reading =
                if connection.is_closing { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
            let flags = if is_full { reading | epoll::EventFlags::OUT } else { reading };
            let _ =
                epoll::modify(&self.epoll, connection.stream.as_fd(), epoll::EventData::new_u64(id), flags);
        }
        if !is_full && connection.is_closing {
            self.connections.remove(&id);
        }
    }

    /// Xorshift; what the rest of the program draws from is another one.
    fn uniform(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: u64) -> u64 {
        (-self.uniform().ln() * mean as f64) as u64
    }

    fn ledger(&mut self) -> serde_json::Value {
        self.residences.sort_unstable();
        let quantile = |quantile: f64| {
            let at = ((self.residences.len() as f64 * quantile).ceil() as usize).max(1) - 1;
            self.residences.get(at).copied()
        };
        let Counts {
            connections,
            upgrades,
            messages,
            replies,
            corrupted,
            doubled,
            dropped,
            reordered,
            flipped,
            ..
        } = self.counts;
        json!({
            "connections": connections,
            "upgrades": upgrades,
            "messages": messages,
            "replies": replies,
            "corrupted": corrupted,
            "doubled": doubled,
            "dropped": dropped,
            "reordered": reordered,
            "flipped": flipped,
            "deliveries": self.counts.deliveries,
            "deliveries_dropped": self.counts.drops_of_deliveries,
            "closes": self.counts.closes,
            "pings": self.counts.pings,
            "payload_hash": format!("{:016x}", self.counts.hash),
            "messages_in_10ms": self.bins,
            "residence_ns": {
                "min": self.residences.first(),
                "p50": quantile(0.5),
                "p90": quantile(0.9),
                "p99": quantile(0.99),
                "p99.9": quantile(0.999),
                "permille": (0..=1000).map(|permille| quantile(f64::from(permille) / 1000.0)).collect::<Vec<_>>(),
                "mean": self.residences.iter().sum::<u64>() as f64 / self.residences.len().max(1) as f64,
            },
        })
    }
}

/// How long before its time something that is due is waited for awake.
const AWAKE: Duration = Duration::from_micros(60);
