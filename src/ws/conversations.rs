//! One conversation, many ways: what a peer says means the same however its bytes are cut.

use super::{CloseFrame, Code, Event, Fault, Limits, Opcode, Receiver, Role, write_frame};
use Opcode::{Binary, Close, Continuation, Ping, Pong, Text};

/// What was heard, in words, and how it ended.
#[derive(Debug, PartialEq)]
pub(super) struct Heard(pub(super) Vec<String>, pub(super) Option<Fault>);

/// Keeps what is not consumed, as a connection does, and checks what `receive` promises.
fn hear<'a>(role: Role, limits: Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Heard {
    hear_by(Receiver::new(role, limits), pieces)
}

pub(super) fn hear_by<'a>(mut receiver: Receiver, pieces: impl IntoIterator<Item = &'a [u8]>) -> Heard {
    let (mut buffer, mut events) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let arrived = buffer.len();
            let received = match receiver.receive(&mut buffer) {
                Ok(received) => received,
                Err(fault) => return Heard(events, Some(fault)),
            };
            let (consumed, is_event) = (received.consumed, received.event.is_some());
            events.extend(received.event.map(|event| format!("{event:?}")));
            assert!(consumed <= arrived);
            assert!(consumed > 0 || !is_event, "an event is made of bytes");
            buffer.drain(..consumed);
            if !is_event {
                let again = receiver.receive(&mut buffer);
                assert!(again.is_ok_and(|again| again.consumed == 0 && again.event.is_none()));
                break;
            }
        }
        assert!(buffer.len() <= receiver.unread_max(), "{} unread", buffer.len());
    }
    Heard(events, None)
}

/// Whole, a byte and two bytes at a time, and, unless that takes too long, cut at every byte; by who takes what has
/// arrived, and by who waits for the rest of it.
fn hear_in_many_ways(role: Role, limits: Limits, bytes: &[u8]) -> Heard {
    hear_by_many(&|| Receiver::new(role, limits), bytes)
}

pub(super) fn hear_by_many(receiver: &dyn Fn() -> Receiver, bytes: &[u8]) -> Heard {
    let whole = hear_by(receiver(), [bytes]);
    for whole_max in [0, 100, 64 << 10] {
        let receiver = || {
            let mut receiver = receiver();
            receiver.wait_for(whole_max);
            receiver
        };
        for size in [1, 2, 1000] {
            let heard = hear_by(receiver(), bytes.chunks(size));
            assert_eq!(heard, whole, "{size} at a time, waiting for {whole_max}");
        }
        if bytes.len() < 1000 {
            for cut in 0..=bytes.len() {
                let (head, tail) = bytes.split_at(cut);
                assert_eq!(hear_by(receiver(), [head, tail]), whole, "cut at {cut}, waiting for {whole_max}");
            }
        }
    }
    whole
}

type Frame<'a> = (bool, Opcode, &'a [u8]);

/// As the peer of `role` writes it: a client masks, each frame with a key of its own.
fn written(role: Role, frames: &[Frame<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, &(fin, opcode, payload)) in frames.iter().enumerate() {
        let key = [0x37, 0xfa, 0x21, i as u8];
        write_frame(&mut out, fin, opcode, payload, (role == Role::Server).then_some(key));
    }
    out
}

fn told(frames: &[Frame<'_>], limits: Limits) -> Heard {
    let client = hear_in_many_ways(Role::Client, limits, &written(Role::Client, frames));
    let server = hear_in_many_ways(Role::Server, limits, &written(Role::Server, frames));
    assert_eq!(client, server);
    client
}

pub(super) fn events(expected: &[Event<'_>]) -> Heard {
    Heard(expected.iter().map(|event| format!("{event:?}")).collect(), None)
}

#[test]
fn the_frames_of_section_5_7() {
    let limits = Limits::default();
    let hello = events(&[Event::Text("Hello")]);
    assert_eq!(hear_in_many_ways(Role::Client, limits, b"\x81\x05Hello"), hello);
    let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(hear_in_many_ways(Role::Server, limits, masked), hello);
    assert_eq!(hear_in_many_ways(Role::Client, limits, b"\x01\x03Hel\x80\x02lo"), hello);
    let ping = events(&[Event::Ping(b"Hello")]);
    assert_eq!(hear_in_many_ways(Role::Client, limits, b"\x89\x05Hello"), ping);
    let pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(hear_in_many_ways(Role::Server, limits, pong), events(&[Event::Pong(b"Hello")]));
    for (length, head) in [(256, &[0x82, 0x7e, 1, 0][..]), (65536, &[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0])] {
        let payload = vec![7; length];
        let binary = events(&[Event::Binary(&payload)]);
        assert_eq!(hear_in_many_ways(Role::Client, limits, &[head, &payload].concat()), binary);
    }
}

#[test]
fn control_frames_come_between_fragments() {
    let bye = CloseFrame { code: Code::GOING_AWAY, reason: "κόσμε" };
    let close = [&[0x03, 0xe9], "κόσμε".as_bytes()].concat();
    let frames: &[Frame<'_>] = &[
        (true, Text, "κόσμε".as_bytes()),
        (false, Text, b"\xf0"), // a crab, in fragments that cut it
        (true, Ping, b"1"),
        (false, Continuation, b""),
        (false, Continuation, b"\x9f\xa6"),
        (true, Pong, &[b'p'; 125]),
        (true, Continuation, b"\x80!"),
        (false, Binary, b""),
        (true, Continuation, b""),
        (true, Binary, &[0xff; 200]),
        (true, Text, b""),
        (true, Ping, b""),
        (false, Text, b"never ended"),
        (true, Close, &close),
        (true, Text, b"nobody listens"),
        (true, Continuation, b"\xff"),
    ];
    let expected = events(&[
        Event::Text("κόσμε"),
        Event::Ping(b"1"),
        Event::Pong(&[b'p'; 125]),
        Event::Text("🦀!"),
        Event::Binary(b""),
        Event::Binary(&[0xff; 200]),
        Event::Text(""),
        Event::Ping(b""),
        Event::Close(Some(bye)),
    ]);
    assert_eq!(told(frames, Limits::default()), expected);
}

#[test]
fn every_form_of_length() {
    for length in [0, 1, 125, 126, 127, 65535, 65536] {
        let payload = vec![b'x'; length];
        let text = str::from_utf8(&payload).unwrap();
        let limits = Limits { message_max: length, ..Limits::default() };
        let frames: [Frame<'_>; 2] = [(true, Binary, &payload), (true, Text, &payload)];
        assert_eq!(told(&frames, limits), events(&[Event::Binary(&payload), Event::Text(text)]));
    }
}

#[test]
fn what_breaks_the_rules_is_a_fault_after_what_came_before_it() {
    let cases: &[(&[Frame<'_>], Fault)] = &[
        (&[(true, Continuation, b"")], Fault::NothingToContinue),
        (&[(false, Continuation, b"x")], Fault::NothingToContinue),
        (&[(false, Text, b"a"), (true, Text, b"b")], Fault::MessageInMessage),
        (&[(false, Text, b"a"), (false, Binary, b"b")], Fault::MessageInMessage),
        (&[(false, Ping, b"")], Fault::FragmentedControl),
        (&[(true, Pong, &[0; 126])], Fault::LongControl),
        (&[(true, Close, b"\x03")], Fault::CloseCodeCut),
        (&[(true, Close, b"\x03\xed")], Fault::CloseCodeInvalid),
        (&[(true, Close, b"\x03\xe8\xed\xa0\x80")], Fault::CloseReasonNotUtf8),
        (&[(true, Text, b"\xed\xa0\x80")], Fault::TextNotUtf8),
        (&[(true, Text, b"\xf0\x9f\xa6")], Fault::TextNotUtf8),
        (&[(false, Text, b"\xf4"), (true, Ping, b""), (false, Continuation, b"\x90")], Fault::TextNotUtf8),
        (&[(false, Text, b"\xc3"), (true, Continuation, b"")], Fault::TextNotUtf8),
        (&[(true, Binary, &[0; 101])], Fault::MessageTooLong),
        (&[(false, Text, &[0; 99]), (true, Continuation, b"ab")], Fault::MessageTooLong),
        (
            &[
                (false, Text, b""),
                (false, Continuation, b""),
                (false, Continuation, b""),
                (true, Continuation, b""),
            ],
            Fault::TooManyFragments,
        ),
    ];
    let limits = Limits { message_max: 100, fragments_max: 3 };
    for &(frames, fault) in cases {
        let frames = [&[(true, Text, &b"before"[..])], frames].concat();
        let heard = told(&frames, limits);
        assert_eq!(heard.0[0], "Text(\"before\")", "{fault:?}");
        assert_eq!(heard.1, Some(fault));
        assert!(fault.to_string().contains("RFC 6455") && fault.close_code().number() >= 1002);
    }
}

#[test]
fn faults_that_a_writer_cannot_make() {
    let cases: &[(Role, &[u8], Fault)] = &[
        (Role::Server, b"\x81\x00", Fault::Unmasked),
        (Role::Client, b"\x89\x80....", Fault::Masked),
        (Role::Client, b"\xc1\x00", Fault::ReservedBits),
        (Role::Client, b"\xc9\x00", Fault::ReservedBits),
        (Role::Client, b"\x01\x00\xc0\x00", Fault::ReservedBits),
        (Role::Client, b"\xa1\x00", Fault::ReservedBits),
        (Role::Client, b"\x91\x00", Fault::ReservedBits),
        (Role::Client, b"\x83\x00", Fault::ReservedOpcode),
        (Role::Client, b"\x8b\x00", Fault::ReservedOpcode),
        (Role::Client, b"\x82\x7e\x00\x7d", Fault::LengthNotMinimal),
        (Role::Client, b"\x82\x7f\0\0\0\0\0\0\xff\xff", Fault::LengthNotMinimal),
        (Role::Client, b"\x82\x7f\x80\0\0\0\0\0\0\0", Fault::LengthNot63Bits),
        (Role::Client, b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", Fault::LengthNot63Bits),
        (Role::Client, b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", Fault::MessageTooLong),
    ];
    for &(role, bytes, fault) in cases {
        assert_eq!(hear_in_many_ways(role, Limits::default(), bytes), Heard(vec![], Some(fault)));
    }
}

#[test]
fn text_fails_before_its_frame_has_arrived() {
    let mut bytes = *b"\x81\x7e\x10\x00hello \xf4\x90";
    let mut receiver = Receiver::new(Role::Client, Limits::default());
    assert_eq!(receiver.receive(&mut bytes), Err(Fault::TextNotUtf8));
}

#[test]
fn a_million_fragments_are_too_many() {
    for payload in [&b""[..], b"x"] {
        let mut bytes = written(Role::Server, &[(false, Binary, payload)]);
        for _ in 0..1_000_000 {
            write_frame(&mut bytes, false, Continuation, payload, Some([1, 2, 3, 4]));
        }
        let limits = Limits::default();
        let size = bytes.len() / 1_000_001;
        let last = &bytes[..limits.fragments_max * size];
        assert_eq!(hear(Role::Server, limits, last.chunks(16 << 10)), Heard(vec![], None));
        let heard = hear(Role::Server, limits, bytes.chunks(16 << 10));
        assert_eq!(heard, Heard(vec![], Some(Fault::TooManyFragments)));
    }
}

/// splitmix64: a seed is all that a run needs to be repeated.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[test]
fn whatever_a_peer_sends_is_heard_the_same_way_in_any_pieces() {
    let limits = Limits { message_max: 600, fragments_max: 8 };
    let mut well = 0;
    for seed in 0..10_000 {
        let mut random = Random(seed);
        let role = [Role::Client, Role::Server][random.below(2)];
        let mut bytes = Vec::new();
        for _ in 0..random.below(12) {
            let opcode = [Text, Binary, Continuation, Continuation, Ping, Pong, Close][random.below(7)];
            let length = [0, 1, 7, 125, 126, 300][random.below(6)];
            let payload = "\u{3}\u{fc}é🦀".repeat(50).into_bytes();
            let key = (role == Role::Server).then_some([3, 1, 4, random.below(256) as u8]);
            let fin = random.below(3) > 0 || opcode.is_control();
            write_frame(&mut bytes, fin, opcode, &payload[..length], key);
        }
        if random.below(4) == 0 {
            bytes.extend((0..random.below(200)).map(|_| random.below(256) as u8));
        }
        for _ in 0..random.below(4).saturating_sub(1) {
            if !bytes.is_empty() {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
        }
        let whole = hear(role, limits, [&bytes[..]]);
        let size = 1 + random.below(9);
        assert_eq!(hear(role, limits, bytes.chunks(size)), whole, "seed {seed}, {size} at a time");
        well += whole.0.len();

        // A caller that goes on after a fault is wrong, but nothing panics.
        let mut receiver = Receiver::new(role, limits);
        for piece in bytes.chunks_mut(size) {
            let _ = receiver.receive(piece);
        }
    }
    assert!(well > 5_000, "{well} events: the seeds make too few");
}
