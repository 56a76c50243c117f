//! Text (RFC 6455 8.1): a message as the receiver takes it, whole and in pieces, beside the validators alone.
//!
//! `cargo bench --bench utf8`. The receiver's role is the client's, so nothing is masked: what it costs above `simdutf8`
//! is a header, and in pieces putting the message together.

use std::fmt;

use divan::{Bencher, black_box, counter::BytesCount};
use switchpoint::ws::{self, Event, Opcode, Receiver, Role};

fn main() {
    divan::main();
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    pattern: &'static str,
    size: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.size)
    }
}

const PIECE: usize = 100;

fn cases() -> Vec<Case> {
    let texts = [
        ("ascii", "The quick brown fox jumps over the lazy dog. "),
        ("mixed", "Grüße, κόσμε! Съешь ещё этих булок. 色は匂へど 🦀 ok. "),
    ];
    let case = |(name, pattern)| [20, 125, 1024, 64 << 10].map(|size| Case { name, pattern, size });
    texts.into_iter().flat_map(case).collect()
}

/// Without those that are one piece.
fn cases_in_pieces() -> Vec<Case> {
    cases().into_iter().filter(|case| case.size > PIECE).collect()
}

impl Case {
    fn text(self) -> String {
        let mut text = String::new();
        for character in self.pattern.chars().cycle() {
            if text.len() + character.len_utf8() > self.size {
                break;
            }
            text.push(character);
        }
        text.extend((text.len()..self.size).map(|_| 'x'));
        text
    }

    fn frame(self) -> Vec<u8> {
        let mut frame = Vec::new();
        ws::write_frame(&mut frame, true, Opcode::Text, self.text().as_bytes(), None);
        frame
    }

    fn counter(self) -> BytesCount {
        BytesCount::new(self.size)
    }
}

#[divan::bench(args = cases())]
fn std(bencher: Bencher<'_, '_>, case: Case) {
    let text = case.text();
    bencher.counter(case.counter()).bench_local(|| {
        assert_eq!(str::from_utf8(black_box(text.as_bytes())).unwrap().len(), case.size);
    });
}

/// What no receiver can beat.
#[divan::bench(args = cases())]
fn simdutf8(bencher: Bencher<'_, '_>, case: Case) {
    let text = case.text();
    bencher.counter(case.counter()).bench_local(|| {
        assert_eq!(simdutf8::basic::from_utf8(black_box(text.as_bytes())).unwrap().len(), case.size);
    });
}

/// A message that has arrived as a whole is validated where it lies.
#[divan::bench(args = cases())]
fn receiver(bencher: Bencher<'_, '_>, case: Case) {
    let (text, mut frame) = (case.text(), case.frame());
    let mut receiver = Receiver::new(Role::Client, ws::Limits::default());
    assert_eq!(receiver.receive(&mut frame).unwrap().event, Some(Event::Text(&text)));
    bencher.counter(case.counter()).bench_local(|| {
        let Some(Event::Text(text)) = receiver.receive(black_box(&mut frame)).unwrap().event else {
            panic!()
        };
        assert_eq!(text.len(), case.size);
    });
}

/// One that arrives in pieces is validated piece by piece, and put together.
#[divan::bench(args = cases_in_pieces())]
fn receiver_in_pieces(bencher: Bencher<'_, '_>, case: Case) {
    let (text, mut frame) = (case.text(), case.frame());
    let mut receiver = Receiver::new(Role::Client, ws::Limits::default());
    let mut receive = |text: Option<&str>| {
        let mut length = None;
        for piece in black_box(&mut frame).chunks_mut(PIECE) {
            let size = piece.len();
            let received = receiver.receive(piece).unwrap();
            assert_eq!((received.consumed, length), (size, None));
            if let Some(Event::Text(whole)) = received.event {
                assert!(text.is_none_or(|text| text == whole));
                length = Some(whole.len());
            }
        }
        assert_eq!(length, Some(case.size));
    };
    receive(Some(&text));
    bencher.counter(case.counter()).bench_local(|| receive(None));
}

/// The other way: put together first, and validated once at the end. Bad text is noticed only then.
#[divan::bench(args = cases_in_pieces())]
fn collected_then_simdutf8(bencher: Bencher<'_, '_>, case: Case) {
    let text = case.text();
    let collect = || {
        let mut whole = Vec::new();
        for piece in black_box(text.as_bytes()).chunks(PIECE) {
            whole.extend_from_slice(piece);
        }
        assert_eq!(simdutf8::basic::from_utf8(&whole).unwrap().len(), case.size);
    };
    collect(); // or the allocator's first page is what the length of a sample is chosen by
    bencher.counter(case.counter()).bench_local(collect);
}
