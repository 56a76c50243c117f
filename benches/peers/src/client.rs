//! The client's side of a handshake, and the addresses that it comes from.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use crate::{accept, field};

/// What a client asks with, and what it has to hear. Every one has a key of its own.
pub struct Handshake {
    pub request: String,
    accept: String,
}

impl Handshake {
    pub fn new(path: &str, port: u16, number: u64) -> Self {
        // Bytes that differ are all that a server can see of a nonce.
        let key = STANDARD.encode(
            (u128::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes(),
        );
        let accept = accept(key.as_bytes());
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        );
        Self { request, accept }
    }

    /// Whether this head is the right answer.
    pub fn verify(&self, head: &[u8]) -> io::Result<()> {
        let text = || String::from_utf8_lossy(head).into_owned();
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(io::Error::other(format!("not a 101: {}", text())));
        }
        if field(head, "sec-websocket-accept") != Some(self.accept.as_bytes()) {
            return Err(io::Error::other(format!("not the Accept {}: {}", self.accept, text())));
        }
        Ok(())
    }
}

/// Connects to a port of this machine. `number` decides from which of 64 addresses, because one has ports for a second.
pub fn dial(port: u16, number: usize, flags: SocketFlags) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 1 + (number % 64) as u8), 0))?;
    match connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
        Err(rustix::io::Errno::INPROGRESS) | Ok(()) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}
