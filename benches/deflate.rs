//! permessage-deflate (RFC 7692): messages of JSON out and in, and one for many receivers.
//!
//! `cargo bench --bench deflate`. Without context takeover the connections of a core share one context, and each message
//! begins with clearing its tables; with it each has its own, and refers to the messages before.

use std::{fmt, fmt::Write, rc::Rc};

use divan::{
    Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};
use switchpoint::ws::{
    self, Agreed, Compressor, Contexts, Deflate, Event, Opcode, Prepared, Receiver, Role, extension,
};

fn main() {
    divan::main();
}

#[derive(Clone, Copy)]
struct Case {
    size: usize,
    takeover: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.size, if self.takeover { " takeover" } else { "" })
    }
}

fn cases() -> Vec<Case> {
    let sizes = [100, 1024, 16 << 10];
    sizes.into_iter().flat_map(|size| [false, true].map(|takeover| Case { size, takeover })).collect()
}

impl Case {
    /// So many that none is still in the window when its turn comes again: takeover would have an easy life.
    fn count(self) -> usize {
        (96 << 10) / self.size + 16
    }

    fn messages(self) -> Vec<Vec<u8>> {
        let mut seed = 1_u32;
        let mut random = move |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        let mut message = || {
            let mut text = String::from("[");
            while text.len() < self.size {
                let symbol: String = (0..4).map(|_| char::from(b'A' + random(26) as u8)).collect();
                let (price, volume, buys) = (random(100_000), random(10_000), random(2) == 0);
                write!(
                    text,
                    "{{\"symbol\":\"{symbol}\",\"price\":{}.{:02},\"volume\":{volume},\"buy\":{buys}}},",
                    price / 100,
                    price % 100,
                )
                .unwrap();
            }
            text.truncate(self.size);
            text.into_bytes()
        };
        (0..self.count()).map(|_| message()).collect()
    }

    fn agree(self) -> (Deflate, Agreed) {
        let settings = Deflate {
            server_no_context_takeover: !self.takeover,
            client_no_context_takeover: !self.takeover,
            size_min: 0,
            ..Deflate::default()
        };
        let (agreed, _) = extension::accept(&settings, ["permessage-deflate"]).unwrap();
        (settings, agreed)
    }

    fn compressor(self, contexts: &Rc<Contexts>) -> Compressor {
        let (settings, agreed) = self.agree();
        Compressor::new(Role::Server, agreed, &settings, contexts)
    }

    fn receiver(self) -> Receiver {
        Receiver::with_deflate(Role::Client, ws::Limits::default(), self.agree().1, &Contexts::new())
    }
}

fn text<'a>(receiver: &'a mut Receiver, frame: &'a mut [u8]) -> &'a str {
    let Some(Event::Text(text)) = receiver.receive(frame).unwrap().event else { panic!() };
    text
}

/// Frames as they go out.
#[divan::bench(args = cases())]
fn compress(bencher: Bencher<'_, '_>, case: Case) {
    let messages = case.messages();
    let (mut compressor, mut receiver) = (case.compressor(&Contexts::new()), case.receiver());
    let mut frame = Vec::new();
    let mut compress = |message: &[u8], receiver: Option<&mut Receiver>| {
        frame.clear();
        ws::write_message(&mut frame, Opcode::Text, message, None, Some(&mut compressor));
        assert!(frame[0] & 0x40 != 0 && frame.len() < case.size);
        if let Some(receiver) = receiver {
            assert_eq!(text(receiver, &mut frame).as_bytes(), message);
        }
    };
    for message in &messages {
        compress(message, Some(&mut receiver));
    }
    let mut messages = messages.iter().cycle();
    bencher
        .counter(BytesCount::new(case.size))
        .bench_local(|| compress(black_box(messages.next().unwrap()), None));
}

/// As they come in, up to the text.
#[divan::bench(args = cases())]
fn inflate(bencher: Bencher<'_, '_>, case: Case) {
    let messages = case.messages();
    let (mut compressor, mut receiver) = (case.compressor(&Contexts::new()), case.receiver());
    let frame = |message: &Vec<u8>| {
        let mut frame = Vec::new();
        ws::write_message(&mut frame, Opcode::Text, message, None, Some(&mut compressor));
        assert!(frame[0] & 0x40 != 0);
        frame
    };
    // The first refers to nothing, and the others to nothing before it: so they may come again, in this order.
    let mut frames: Vec<_> = messages.iter().map(frame).collect();
    for (frame, message) in frames.iter_mut().zip(&messages) {
        assert_eq!(text(&mut receiver, frame).as_bytes(), message);
    }
    let mut place = 0;
    bencher.counter(BytesCount::new(case.size)).bench_local(|| {
        let text = text(&mut receiver, black_box(&mut frames[place]));
        assert!(text.len() == case.size && text.as_bytes()[case.size - 1] == messages[place][case.size - 1]);
        place = (place + 1) % frames.len();
    });
}

const RECEIVERS: usize = 100;

/// One message to many, compressed once.
#[divan::bench(args = cases())]
fn to_100_prepared(bencher: Bencher<'_, '_>, case: Case) {
    to_many(bencher, case, |compressors, message, out| {
        let prepared = Prepared::new(Opcode::Text, message);
        for compressor in compressors {
            out.clear();
            out.extend_from_slice(prepared.frame(Some(compressor)));
        }
    });
}

/// The same, compressed for each.
#[divan::bench(args = cases())]
fn to_100_each(bencher: Bencher<'_, '_>, case: Case) {
    to_many(bencher, case, |compressors, message, out| {
        for compressor in compressors {
            out.clear();
            ws::write_message(out, Opcode::Text, message, None, Some(compressor));
        }
    });
}

fn to_many(bencher: Bencher<'_, '_>, case: Case, send: impl Fn(&mut [Compressor], &[u8], &mut Vec<u8>)) {
    let messages = case.messages();
    let contexts = Contexts::new();
    let mut compressors: Vec<_> = (0..RECEIVERS).map(|_| case.compressor(&contexts)).collect();
    let mut last = case.receiver();
    let mut out = Vec::new();
    // The first ones make the contexts, and show that the last receiver gets what was sent.
    let (first, others) = messages.split_at(16);
    for message in first {
        send(&mut compressors, message, &mut out);
        assert_eq!(text(&mut last, &mut out).as_bytes(), message);
    }
    let mut messages = others.iter().cycle();
    bencher.counter(ItemsCount::new(RECEIVERS)).bench_local(|| {
        send(&mut compressors, black_box(messages.next().unwrap()), &mut out);
        assert!(out[0] & 0x40 != 0 && out.len() < case.size);
    });
}
