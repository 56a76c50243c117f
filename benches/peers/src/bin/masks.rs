//! Masking (RFC 6455 5.3) by the peers' algorithms, ours and the definition, in alternation: ns for each message.
//!
//! A round times every algorithm once, and the rounds rotate where they begin. What is printed, as JSON, is the median and
//! the quartiles over the rounds. Each message begins one byte behind a cache line, as a payload behind its header is
//! mostly misaligned; up to 16 KiB of them lie one behind the other, so that none waits for the stores of the one before.
//!
//! Two peers keep their function to themselves. Theirs is the time in which they receive a message that is masked, less
//! that of one that is not, of the same round: the smallest that can be asked of them.

use std::{
    hint::black_box,
    io::{self, Read, Write},
    ops::Deref,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::Stream;
use switchpoint::ws::mask;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{
    WebSocket,
    protocol::{Role, WebSocketConfig},
};
use tokio_websockets::{ClientBuilder, ServerBuilder, WebSocketStream};

const SIZES: [usize; 6] = [20, 125, 1024, 16 << 10, 64 << 10, 1 << 20];
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const ROUNDS: usize = 101;
/// How long an algorithm is timed in each round.
const SLICE: Duration = Duration::from_micros(300);

fn main() {
    verify();
    // By algorithm, then by size.
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for size in SIZES {
        let mut timed: Vec<Timed> = algorithms(size).into_iter().map(Timed::new).collect();
        for round in 0..ROUNDS {
            let count = timed.len();
            for step in 0..count {
                timed[(round + step) % count].round();
            }
        }
        rows.resize_with(timed.len(), Default::default);
        for ((name, cells), timed) in rows.iter_mut().zip(&mut timed) {
            *name = timed.algorithm.name.clone();
            cells.push(timed.quartiles());
        }
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|(name, cells)| format!("{{\"name\": \"{name}\", \"ns\": [{}]}}", cells.join(", ")))
        .collect();
    println!("{{\"sizes\": {SIZES:?}, \"rounds\": {ROUNDS}, \"algorithms\": [{}]}}", rows.join(", "));
}

struct Algorithm {
    name: String,
    run: Run,
    /// What is part of `run` and not masking.
    less: Option<Run>,
}

/// Takes so many bursts, and says of how many messages.
type Run = Box<dyn FnMut(usize) -> usize>;

fn algorithms(size: usize) -> Vec<Algorithm> {
    let new = |name: &str, run| Algorithm { name: name.to_owned(), run, less: None };
    let mut all = vec![
        new("memcpy", copy(size)),
        new("switchpoint", in_place(size, |payload| mask::apply(payload, KEY, 0))),
    ];
    for variant in mask::available() {
        let name = format!("switchpoint, {} only", variant.name);
        all.push(new(&name, in_place(size, move |payload| variant.apply(payload, KEY, 0))));
    }
    all.extend([
        new("fastwebsockets", in_place(size, |payload| fastwebsockets::unmask(payload, KEY))),
        new("sockudo", in_place(size, |payload| sockudo_ws::simd::apply_mask(payload, KEY))),
        Algorithm {
            name: "tokio-websockets (difference)".to_owned(),
            run: tokio_websockets(size, true),
            less: Some(tokio_websockets(size, false)),
        },
        Algorithm {
            name: "tungstenite (difference)".to_owned(),
            run: tungstenite(size, true),
            less: Some(tungstenite(size, false)),
        },
        new("byte by byte", in_place(size, definition)),
    ]);
    all
}

fn definition(payload: &mut [u8]) {
    for (place, byte) in payload.iter_mut().enumerate() {
        *byte ^= KEY[place & 3];
    }
}

/// Every algorithm does what the definition does, at each short length and all that are timed, however it is aligned.
/// Those that receive are verified while they do.
fn verify() {
    let mut functions: Vec<(String, Function)> = vec![
        ("switchpoint".to_owned(), Box::new(|payload| mask::apply(payload, KEY, 0))),
        ("fastwebsockets".to_owned(), Box::new(|payload| fastwebsockets::unmask(payload, KEY))),
        ("sockudo".to_owned(), Box::new(|payload| sockudo_ws::simd::apply_mask(payload, KEY))),
    ];
    for variant in mask::available() {
        functions.push((variant.name.to_owned(), Box::new(move |payload| variant.apply(payload, KEY, 0))));
    }
    for size in (0..=300).chain(SIZES) {
        let mut masked = plain(size);
        definition(&mut masked);
        for (name, apply) in &functions {
            for start in [0, 1, 7, 33] {
                let mut bytes = vec![0; start];
                bytes.extend(plain(size));
                apply(&mut bytes[start..]);
                assert!(bytes[start..] == masked, "{name}, {size} bytes");
            }
        }
    }
}

type Function = Box<dyn Fn(&mut [u8])>;

fn plain(size: usize) -> Vec<u8> {
    (0..size).map(|place| (place * 31 % 251) as u8).collect()
}

struct Timed {
    algorithm: Algorithm,
    /// So many fill a slice, of each of the two.
    bursts: (usize, usize),
    rounds: Vec<f64>,
}

impl Timed {
    fn new(mut algorithm: Algorithm) -> Self {
        let bursts = (fill(&mut algorithm.run), algorithm.less.as_mut().map_or(0, fill));
        Self { algorithm, bursts, rounds: Vec::new() }
    }

    fn round(&mut self) {
        let whole = ns(&mut self.algorithm.run, self.bursts.0);
        let rest = self.algorithm.less.as_mut().map_or(0.0, |less| ns(less, self.bursts.1));
        self.rounds.push(whole - rest);
    }

    fn quartiles(&mut self) -> String {
        self.rounds.sort_by(f64::total_cmp);
        let quarter = (ROUNDS - 1) / 4;
        let [first, median, third] = [1, 2, 3].map(|place| self.rounds[place * quarter]);
        format!("[{median:.2}, {first:.2}, {third:.2}]")
    }
}

/// How many bursts take a slice; warms up on the way.
fn fill(run: &mut Run) -> usize {
    let mut bursts = 1;
    loop {
        let begin = Instant::now();
        run(bursts);
        if begin.elapsed() >= SLICE {
            return bursts;
        }
        bursts *= 2;
    }
}

fn ns(run: &mut Run, bursts: usize) -> f64 {
    let begin = Instant::now();
    let messages = run(bursts);
    begin.elapsed().as_nanos() as f64 / messages as f64
}

/// So many messages are one burst.
fn burst(size: usize) -> usize {
    (BURST_BYTES / size).clamp(1, 32)
}

/// Half of a first-level cache.
const BURST_BYTES: usize = 16 << 10;

/// Messages of one size, each one byte behind a cache line.
struct Burst {
    bytes: Vec<u8>,
    begin: usize,
    stride: usize,
}

impl Burst {
    fn new(size: usize) -> Self {
        let stride = size.next_multiple_of(LINE);
        let mut bytes = vec![7; PAGE + stride * burst(size)];
        let begin = bytes.as_ptr().align_offset(PAGE) + 1;
        bytes.truncate(begin + stride * burst(size));
        Self { bytes, begin, stride }
    }

    fn messages(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.bytes[self.begin..].chunks_exact_mut(self.stride)
    }
}

const LINE: usize = 64;
const PAGE: usize = 4096;

fn in_place(size: usize, apply: impl Fn(&mut [u8]) + 'static) -> Run {
    let mut burst = Burst::new(size);
    Box::new(move |bursts| {
        let mut count = 0;
        for _ in 0..bursts {
            for message in burst.messages() {
                apply(black_box(&mut message[..size]));
                count += 1;
            }
        }
        count
    })
}

/// For scale. It has two buffers to go through, so masking one in place can take less.
fn copy(size: usize) -> Run {
    let (mut from, mut to) = (Burst::new(size), Burst::new(size));
    Box::new(move |bursts| {
        let mut count = 0;
        for _ in 0..bursts {
            for (from, to) in from.messages().zip(to.messages()) {
                black_box(&mut to[..size]).copy_from_slice(black_box(&from[..size]));
                count += 1;
            }
        }
        count
    })
}

/// A peer that sends the same burst again and again, a burst for each read, and does not care what it gets.
struct Source {
    bytes: Vec<u8>,
    at: usize,
}

impl Source {
    fn new(size: usize, is_masked: bool) -> Self {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match size {
            ..126 => frame.push(mask | size as u8),
            126..65_536 => frame.extend([&[mask | 126][..], &(size as u16).to_be_bytes()].concat()),
            _ => frame.extend([&[mask | 127][..], &(size as u64).to_be_bytes()].concat()),
        }
        let mut payload = plain(size);
        if is_masked {
            frame.extend(KEY);
            definition(&mut payload);
        }
        frame.extend(payload);
        Self { bytes: frame.repeat(burst(size)), at: 0 }
    }

    fn next(&mut self, most: usize) -> &[u8] {
        let start = self.at;
        let end = self.bytes.len().min(start + most);
        self.at = end % self.bytes.len();
        &self.bytes[start..end]
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.next(buffer.len());
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl Write for Source {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Source {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = self.next(buffer.remaining());
        buffer.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Source {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buffer.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Receives bursts; the first message is compared with what was sent, the others by their length.
fn receive<M: Deref<Target = [u8]>>(size: usize, mut next: impl FnMut() -> M + 'static) -> Run {
    assert!(*next() == *plain(size), "{size} bytes");
    Box::new(move |bursts| {
        let count = bursts * burst(size);
        for _ in 0..count {
            assert_eq!(black_box(next()).len(), size);
        }
        count
    })
}

fn tungstenite(size: usize, is_masked: bool) -> Run {
    let config = WebSocketConfig::default().accept_unmasked_frames(true);
    let mut socket = WebSocket::from_raw_socket(Source::new(size, is_masked), Role::Server, Some(config));
    receive(size, move || socket.read().expect("a message").into_data())
}

fn tokio_websockets(size: usize, is_masked: bool) -> Run {
    let source = Source::new(size, is_masked);
    // Only a client takes what is not masked.
    let mut socket: WebSocketStream<Source> =
        if is_masked { ServerBuilder::new().serve(source) } else { ClientBuilder::new().take_over(source) };
    receive(size, move || match Pin::new(&mut socket).poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(message))) => message.into_payload(),
        other => panic!("{other:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_does_what_the_rfc_defines() {
        verify();
        for size in SIZES {
            for mut algorithm in algorithms(size) {
                assert_eq!((algorithm.run)(3), 3 * burst(size), "{}", algorithm.name);
            }
        }
    }
}
