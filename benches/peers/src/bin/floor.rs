//! The floor: as little as a WebSocket echo can do. A yardstick and no server, for it believes whatever it is told.
//!
//! One level-triggered epoll loop. All connections share one receive buffer, which so stays in the cache; frames are
//! unmasked and moved together where they lie; one `send` answers each `recv`. Memory is taken only for the beginning
//! of a frame whose rest has not come, and for what a socket does not take.

use std::{
    io,
    mem::take,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
};

use peers::{accept, field, head_length, port};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, listen, recv, send,
        socket_with, sockopt,
    },
};
use slab::Slab;

fn main() -> io::Result<()> {
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port()))?;
    listen(&listener, 1024)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, LISTENER, EventFlags::IN)?;

    let mut connections: Slab<Connection> = Slab::new();
    let mut shared = vec![0; 512 << 10];
    let mut events = Vec::with_capacity(1024);
    loop {
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            if event.data.u64() == LISTENER.u64() {
                while let Ok(socket) = accept_with(&listener, SocketFlags::NONBLOCK) {
                    sockopt::set_tcp_nodelay(&socket, true)?;
                    let entry = connections.vacant_entry();
                    epoll::add(&epoll, &socket, EventData::new_u64(entry.key() as u64), EventFlags::IN)?;
                    entry.insert(Connection {
                        socket,
                        has_switched: false,
                        unread: Vec::new(),
                        unsent: Vec::new(),
                    });
                }
                continue;
            }
            let number = event.data.u64() as usize;
            let connection = &mut connections[number];
            let was_full = !connection.unsent.is_empty();
            let result = if was_full { connection.flush() } else { connection.turn(&mut shared) };
            let is_full = !connection.unsent.is_empty();
            match result {
                Ok(()) if is_full == was_full => {}
                Ok(()) => {
                    // Whoever does not take its answers is not read any further.
                    let flags = if is_full { EventFlags::OUT } else { EventFlags::IN };
                    epoll::modify(&epoll, &connection.socket, event.data, flags)?;
                }
                Err(Errno::AGAIN) => {}
                Err(_) => drop(connections.remove(number)),
            }
        }
    }
}

const LISTENER: EventData = EventData::new_u64(u64::MAX);

struct Connection {
    socket: OwnedFd,
    has_switched: bool,
    /// The beginning of a frame, or of the request's head.
    unread: Vec<u8>,
    /// What the socket had no room for.
    unsent: Vec<u8>,
}

impl Connection {
    /// One `recv`, and what follows from it. The end of the connection is an error, too.
    fn turn(&mut self, shared: &mut Vec<u8>) -> Result<(), Errno> {
        let left = self.unread.len();
        if shared.len() < left + ROOM {
            shared.resize(left + ROOM, 0);
        }
        let (received, _) = recv(&self.socket, &mut shared[left..], RecvFlags::empty())?;
        if received == 0 {
            return Err(Errno::CONNRESET);
        }
        shared[..left].copy_from_slice(&self.unread);
        let bytes = &mut shared[..left + received];
        let read = self.answer(bytes)?;
        // An empty vector holds no memory.
        self.unread = bytes[read..].to_vec();
        Ok(())
    }

    /// Answers what stands whole in `bytes`, and says how much that was.
    fn answer(&mut self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let mut read = 0;
        if !self.has_switched {
            let Some(length) = head_length(bytes) else { return Ok(0) };
            let key = field(&bytes[..length], "sec-websocket-key").ok_or(Errno::INVAL)?;
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                accept(key)
            );
            self.send(answer.as_bytes())?;
            self.has_switched = true;
            read = length;
        }
        let frames = &mut bytes[read..];
        let turned = turn(frames);
        if turned.written > 0 {
            self.send(&frames[..turned.written])?;
        }
        Ok(read + turned.read)
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), Errno> {
        if self.unsent.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Errno> {
        let unsent = take(&mut self.unsent);
        self.send(&unsent)
    }
}

/// How much is received at once, at least; only a frame longer than the shared buffer makes that grow.
const ROOM: usize = 64 << 10;

/// How many bytes of frames were read, and how many there are to be sent instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turned {
    read: usize,
    written: usize,
}

/// Makes the server's frames out of the client's, where they lie.
///
/// ```text
/// | head | key | payload | head | key | payload | head | ke
/// | head | payload | head | payload |
/// ```
fn turn(bytes: &mut [u8]) -> Turned {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "what a CPU can do is known only when it runs")]
        // SAFETY: this CPU has AVX2.
        return unsafe { turn_avx2(bytes) };
    }
    turn_body(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn turn_avx2(bytes: &mut [u8]) -> Turned {
    turn_body(bytes)
}

#[inline(always)]
fn turn_body(bytes: &mut [u8]) -> Turned {
    let mut turned = Turned { read: 0, written: 0 };
    while let Some((head, length)) = head(&bytes[turned.read..]) {
        let payload = turned.read + head + 4;
        if (bytes.len() - payload) < length {
            break;
        }
        let key: [u8; 4] = bytes[payload - 4..payload].try_into().expect("a key has four bytes");
        bytes.copy_within(turned.read..turned.read + head, turned.written);
        bytes[turned.written + 1] &= 0x7f;
        unmask_to(bytes, turned.written + head, payload, length, key);
        turned.written += head + length;
        turned.read = payload + length;
    }
    turned
}

/// How long a frame's head is without its key, and how long its payload, once all of the head is there.
#[inline(always)]
fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let (head, length) = match bytes.get(1)? & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        length => (2, u64::from(length)),
    };
    (bytes.len() >= head + 4).then_some((head, length as usize))
}

/// Moves a payload to the front and unmasks it on the way, in blocks whose length is a multiple of the key's.
#[inline(always)]
fn unmask_to(bytes: &mut [u8], mut to: usize, mut from: usize, length: usize, key: [u8; 4]) {
    let mut keys = [0; 64];
    keys.chunks_exact_mut(4).for_each(|chunk| chunk.copy_from_slice(&key));
    let end = from + length;
    while end - from >= 64 {
        unmask_block::<64>(bytes, to, from, &keys);
        (to, from) = (to + 64, from + 64);
    }
    while end - from >= 8 {
        unmask_block::<8>(bytes, to, from, &keys);
        (to, from) = (to + 8, from + 8);
    }
    for (at, from) in (from..end).enumerate() {
        bytes[to + at] = bytes[from] ^ key[at % 4];
    }
}

#[inline(always)]
fn unmask_block<const N: usize>(bytes: &mut [u8], to: usize, from: usize, keys: &[u8; 64]) {
    let mut block: [u8; N] = bytes[from..from + N].try_into().expect("it is that long");
    block.iter_mut().zip(keys).for_each(|(byte, key)| *byte ^= key);
    bytes[to..to + N].copy_from_slice(&block);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let mask = if key.is_some() { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match payload.len() {
            length @ ..126 => frame.push(mask | length as u8),
            length @ ..65_536 => frame.extend([&[mask | 126][..], &(length as u16).to_be_bytes()].concat()),
            length => frame.extend([&[mask | 127][..], &(length as u64).to_be_bytes()].concat()),
        }
        frame.extend(key.iter().flatten());
        frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ key.map_or(0, |key| key[at % 4])));
        frame
    }

    #[test]
    fn whole_frames_are_turned_and_the_rest_is_left() {
        for turn in [turn, turn_body] {
            for length in (0..300).chain([65_535, 65_536, 70_001]) {
                let payload: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
                let one = frame(Some([1, 20, 130, 255]), &payload);
                let mut wire =
                    [&one[..], &frame(Some([9, 8, 7, 6]), b"hello"), &one[..one.len() - 1]].concat();
                let turned = turn(&mut wire);
                assert_eq!(turned.read, one.len() + 11, "{length}");
                let expected = [frame(None, &payload), frame(None, b"hello")].concat();
                assert!(wire[..turned.written] == expected, "{length}");
            }
        }
    }
}
