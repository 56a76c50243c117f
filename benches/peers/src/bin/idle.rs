//! What a connection costs that does nothing: `idle PORT PID PATH CONNECTIONS`.
//!
//! Opens them, reads the resident memory of process PID, sends a small and then a large message over each, and reads it
//! after either. One line of JSON has the bytes for each connection.

use std::{
    env,
    io::{self, Read, Write},
    net::TcpStream,
    thread::sleep,
    time::{Duration, Instant},
};

use peers::{
    client::{Handshake, dial},
    head_length,
    process::resident,
};
use rustix::net::SocketFlags;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [port, pid, path, count] = &arguments[..] else {
        return Err(io::Error::other("usage: idle PORT PID PATH CONNECTIONS"));
    };
    let (port, pid) = (port.parse().map_err(io::Error::other)?, pid.parse().map_err(io::Error::other)?);
    let count: usize = count.parse().map_err(io::Error::other)?;

    // What a server makes once is made before the first look.
    let mut first = open(port, path, 0)?;
    converse(&mut first, &[0; LARGE])?;
    let before = settled(pid)?;
    let mut connections =
        (1..=count).map(|number| open(port, path, number)).collect::<io::Result<Vec<_>>>()?;
    let each = |now: u64| (now as f64 - before as f64) / count as f64;
    let idle = each(settled(pid)?);
    connections.iter_mut().try_for_each(|connection| converse(connection, &[1; SMALL]))?;
    let small = each(settled(pid)?);
    connections.iter_mut().try_for_each(|connection| converse(connection, &[2; LARGE]))?;
    let large = each(settled(pid)?);
    println!(
        "{{\"connections\": {count}, \"rss_before\": {before}, \"idle_bytes_each\": {idle:.0}, \
         \"after_small_bytes_each\": {small:.0}, \"after_large_bytes_each\": {large:.0}}}"
    );
    Ok(())
}

const SMALL: usize = 20;
const LARGE: usize = 16 << 10;

fn open(port: u16, path: &str, number: usize) -> io::Result<TcpStream> {
    let mut stream = TcpStream::from(dial(port, number, SocketFlags::empty())?);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let handshake = Handshake::new(path, port, number as u64);
    stream.write_all(handshake.request.as_bytes())?;
    let (mut head, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        if let Some(length) = head_length(&head) {
            return handshake.verify(&head[..length]).map(|()| stream);
        }
        match stream.read(&mut piece)? {
            0 => return Err(io::Error::other("the server closed before its answer was whole")),
            read => head.extend_from_slice(&piece[..read]),
        }
    }
}

/// Sends a binary message and verifies its echo.
fn converse(stream: &mut TcpStream, payload: &[u8]) -> io::Result<()> {
    let length = payload.len() as u16;
    let head = |mask: u8| match length {
        ..126 => vec![0x82, mask | length as u8],
        126.. => [&[0x82, mask | 126][..], &length.to_be_bytes()].concat(),
    };
    let key = [3, 1, 4, 1];
    let masked = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
    let frame: Vec<u8> = head(0x80).into_iter().chain(key).chain(masked).collect();
    stream.write_all(&frame)?;
    let expected = [&head(0)[..], payload].concat();
    let mut echo = vec![0; expected.len()];
    stream.read_exact(&mut echo)?;
    if echo == expected { Ok(()) } else { Err(io::Error::other("the echo is not what was sent")) }
}

/// The memory of a process once it changes no more, or after a while.
fn settled(pid: u32) -> io::Result<u64> {
    let begun = Instant::now();
    let mut memory = 0;
    loop {
        sleep(Duration::from_millis(700));
        let now = resident(pid)?;
        if now == memory || begun.elapsed() > Duration::from_secs(4) {
            return Ok(now);
        }
        memory = now;
    }
}
