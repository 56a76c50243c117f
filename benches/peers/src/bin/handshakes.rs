//! Connect, upgrade, read the 101, close, and again, on 64 connections at once: `handshakes PORT PID PATH SECONDS`.
//!
//! Every 101 and every `Sec-WebSocket-Accept` is verified. The CPU time of process PID is read beside the count of
//! handshakes, at two instants while all goes on; one line of JSON says what lay between.

use std::{
    env, io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use peers::{
    client::{Handshake, dial},
    head_length,
    process::cpu_ns,
};
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, EventData, EventFlags},
    },
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, recv, send, sockopt::socket_error},
};

const SLOTS: usize = 64;
const WARM_UP: Duration = Duration::from_millis(500);

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [port, pid, path, seconds] = &arguments[..] else {
        return Err(io::Error::other("usage: handshakes PORT PID PATH SECONDS"));
    };
    let (port, pid) = (port.parse().map_err(io::Error::other)?, pid.parse().map_err(io::Error::other)?);
    let time = Duration::from_secs_f64(seconds.parse().map_err(io::Error::other)?);

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut begun = 0;
    let mut begin = |slot| {
        begun += 1;
        Attempt::begin(&epoll, slot, Handshake::new(path, port, begun), port)
    };
    let mut attempts = (0..SLOTS).map(&mut begin).collect::<io::Result<Vec<_>>>()?;
    let (mut done, mut last) = (0_u64, Instant::now());
    let start = Instant::now();
    let mut first = None;
    let mut events = Vec::with_capacity(SLOTS);
    loop {
        let tenth = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&tenth)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let slot = event.data.u64() as usize;
            if attempts[slot].go_on()? {
                (done, last) = (done + 1, Instant::now());
                // The old connection is closed here.
                attempts[slot] = begin(slot)?;
            }
        }
        let now = Instant::now();
        match first {
            _ if now - last > Duration::from_secs(2) => {
                return Err(io::Error::other("the server does not answer"));
            }
            None if now - start >= WARM_UP => first = Some((now, done, cpu_ns(pid)?)),
            Some((at, count, cpu)) if now - at >= time => {
                let (time, count, cpu) = ((now - at).as_secs_f64(), done - count, cpu_ns(pid)? - cpu);
                let each = cpu as f64 / 1e3 / count as f64;
                println!(
                    "{{\"time_s\": {time:.3}, \"handshakes\": {count}, \"cpu_ns\": {cpu}, \"cpu_us_each\": {each:.3}}}"
                );
                return Ok(());
            }
            _ => {}
        }
    }
}

/// One connection on its way to a 101.
struct Attempt {
    socket: OwnedFd,
    handshake: Handshake,
    has_asked: bool,
    head: Vec<u8>,
}

impl Attempt {
    fn begin(epoll: &OwnedFd, slot: usize, handshake: Handshake, port: u16) -> io::Result<Self> {
        let socket = dial(port, slot, SocketFlags::NONBLOCK)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        epoll::add(epoll, &socket, EventData::new_u64(slot as u64), flags)?;
        Ok(Self { socket, handshake, has_asked: false, head: Vec::with_capacity(1024) })
    }

    /// Does what can be done without waiting; whether the right 101 has come.
    fn go_on(&mut self) -> io::Result<bool> {
        if !self.has_asked {
            socket_error(&self.socket)??;
            let request = self.handshake.request.as_bytes();
            match send(&self.socket, request, SendFlags::NOSIGNAL) {
                Ok(sent) if sent == request.len() => self.has_asked = true,
                Err(Errno::AGAIN | Errno::NOTCONN) => return Ok(false),
                Ok(_) => return Err(io::Error::other("a new connection has no room for a request")),
                Err(error) => return Err(error.into()),
            }
        }
        loop {
            self.head.reserve(512);
            match recv(&self.socket, spare_capacity(&mut self.head), RecvFlags::empty()) {
                Ok((0, _)) => return Err(io::Error::other("the server closed before its answer was whole")),
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            if let Some(length) = head_length(&self.head) {
                return self.handshake.verify(&self.head[..length]).map(|()| true);
            }
        }
    }
}
