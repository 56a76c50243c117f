//! Messages taken in parts: however bytes are cut, the parts make up the same messages, and none of them is long.

use super::{Event, Fault, Limits, Opcode, Part, Receiver, Role, conversations::hear_by, write_frame};
use Opcode::{Binary, Close, Continuation, Ping, Pong, Text};

/// Messages put together from their parts, and the rest in words.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    events: Vec<String>,
    fault: Option<Fault>,
}

fn hear<'a>(mut receiver: Receiver, pieces: impl IntoIterator<Item = &'a [u8]>) -> Heard {
    receiver.in_parts();
    let (mut buffer, mut heard, mut message) = (Vec::new(), Heard::default(), None::<Vec<u8>>);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let arrived = buffer.len();
            let step = receiver.step(&mut buffer, |_| std::ops::ControlFlow::Break(()));
            let is_found = step.as_ref().is_ok_and(|step| step.found.is_some());
            let consumed = step.as_ref().map_or(0, |step| step.consumed);
            assert!(consumed <= arrived);
            let part =
                step.and_then(|step| step.found.map(|found| receiver.part(found, &buffer)).transpose());
            match part {
                Err(fault) => return Heard { fault: Some(fault), ..heard },
                Ok(None) => {}
                Ok(Some(Part { event, is_first, is_last })) => match event {
                    Event::Text(_) | Event::Binary(_) => {
                        let bytes = match event {
                            Event::Text(text) => text.as_bytes(),
                            Event::Binary(bytes) => bytes,
                            _ => unreachable!(),
                        };
                        assert!(bytes.len() <= Receiver::PART_MAX);
                        assert!(!bytes.is_empty() || is_last, "a part that says nothing");
                        assert_eq!(is_first, message.is_none());
                        message.get_or_insert_default().extend_from_slice(bytes);
                        if is_last {
                            let message = message.take().unwrap();
                            heard.events.push(match event {
                                Event::Text(_) => {
                                    format!("{:?}", Event::Text(str::from_utf8(&message).unwrap()))
                                }
                                _ => format!("{:?}", Event::Binary(&message)),
                            });
                        }
                    }
                    event => heard.events.push(format!("{event:?}")),
                },
            }
            buffer.drain(..consumed);
            if !is_found {
                break;
            }
        }
        assert!(buffer.len() <= Receiver::UNREAD_MAX, "{} unread", buffer.len());
        assert!(receiver.capacity() <= 32 << 10, "{} held", receiver.capacity()); // of text and of bytes
    }
    heard
}

/// In parts and as a whole, cut at every byte, it is the same.
fn is_the_same(receiver: &dyn Fn() -> Receiver, bytes: &[u8]) {
    let whole = hear_by(receiver(), [bytes]);
    let whole = Heard { events: whole.0, fault: whole.1 };
    for size in [1, 2, 3, 1000, 5000, 70_000, usize::MAX] {
        assert_eq!(hear(receiver(), bytes.chunks(size)), whole, "{size} at a time");
    }
    if bytes.len() < 1500 {
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(hear(receiver(), [head, tail]), whole, "cut at {cut}");
        }
    }
}

fn written(key: Option<[u8; 4]>, frames: &[(bool, Opcode, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for &(fin, opcode, payload) in frames {
        write_frame(&mut out, fin, opcode, payload, key);
    }
    out
}

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

#[test]
fn parts_make_up_the_message_with_control_frames_between_them() {
    let long = "κόσμε 🦀 ".repeat(10_000);
    let (head, tail) = long.as_bytes().split_at(long.len() / 2 + 1);
    let noise: Vec<u8> = (0..200_000_u32).map(|i| i.wrapping_mul(i) as u8).collect();
    let small: &[(bool, Opcode, &[u8])] = &[
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
        (false, Binary, b"abc"),
        (true, Continuation, b""),
        (false, Text, b"never ended"),
        (true, Close, b""),
        (true, Text, b"nobody listens"),
    ];
    let large: &[(bool, Opcode, &[u8])] = &[
        (true, Text, long.as_bytes()),
        (false, Text, head),
        (true, Ping, b"2"),
        (true, Continuation, tail),
        (true, Binary, &noise),
        (false, Binary, &noise[..70_001]),
        (true, Ping, b"3"),
        (true, Continuation, &noise[70_001..]),
    ];
    for frames in [small, large] {
        for (role, key) in [(Role::Client, None), (Role::Server, Some(KEY))] {
            is_the_same(&|| Receiver::new(role, Limits::default()), &written(key, frames));
        }
    }
}

#[test]
fn bad_text_is_refused_as_it_arrives() {
    for frames in [
        &[(true, Text, &b"\xff"[..])][..],
        &[(false, Text, b"ab\xf0"), (true, Continuation, b"\x28")],
        &[(false, Text, b"ab"), (true, Continuation, b"\xf0\x9f")],
        &[(false, Text, b"\xce"), (true, Continuation, b"")],
    ] {
        let heard = hear(Receiver::new(Role::Client, Limits::default()), [&*written(None, frames)]);
        assert_eq!(heard, Heard { events: vec![], fault: Some(Fault::TextNotUtf8) });
    }
}

#[test]
fn a_message_of_64_mib_is_never_held() {
    const PIECE: usize = 100_000;
    let length = (64_u64 << 20) / PIECE as u64 * PIECE as u64;
    for opcode in [Binary, Text] {
        let mut receiver = Receiver::new(Role::Server, Limits { message_max: 1000, fragments_max: 10 });
        receiver.in_parts();
        let mut buffer = vec![0x80 | opcode as u8, 0xff];
        buffer.extend(length.to_be_bytes());
        buffer.extend([0; 4]);
        let (mut sent, mut got, mut parts, mut is_over) = (0, 0, 0, false);
        while sent < length {
            buffer.resize(buffer.len() + PIECE, b'x');
            sent += PIECE as u64;
            loop {
                let step = receiver.step(&mut buffer, |_| std::ops::ControlFlow::Break(())).unwrap();
                let Some(found) = step.found else { break drop(buffer.drain(..step.consumed)) };
                let part = receiver.part(found, &buffer).unwrap();
                let bytes = match part.event {
                    Event::Text(text) => text.as_bytes(),
                    Event::Binary(bytes) => bytes,
                    event => panic!("{event:?}"),
                };
                got += bytes.len() as u64;
                assert_eq!(part.is_first, parts == 0);
                parts += 1;
                is_over = part.is_last;
                drop(buffer.drain(..step.consumed));
                assert!(receiver.capacity() <= 16 << 10);
            }
        }
        assert_eq!((got, is_over), (length, true));
    }
}

#[test]
fn only_empty_fragments_in_a_row_are_counted() {
    let limits = Limits { message_max: 10, fragments_max: 3 };
    let some = (false, Continuation, &b"x"[..]);
    let none = (false, Continuation, &b""[..]);
    let long: Vec<_> =
        [(false, Binary, &b"x"[..])].into_iter().chain([some, none, none].repeat(50)).collect();
    let heard = hear(Receiver::new(Role::Client, limits), [&*written(None, &long)]);
    assert_eq!(heard, Heard::default());
    let empty = [long, vec![none, none]].concat();
    let heard = hear(Receiver::new(Role::Client, limits), [&*written(None, &empty)]);
    assert_eq!(heard.fault, Some(Fault::TooManyFragments));
}

#[test]
fn what_was_put_together_before_is_the_first_part() {
    for (opcode, is_text) in [(Text, true), (Binary, false)] {
        let mut receiver = Receiver::new(Role::Client, Limits::default());
        let mut first = written(None, &[(false, opcode, b"put together \xf0\x9f")]);
        assert_eq!(receiver.receive(&mut first).unwrap().event, None);
        receiver.in_parts();
        let mut second = written(None, &[(true, Continuation, b"\xa6\x80.")]);
        let mut parts = Vec::new();
        let mut at = 0;
        loop {
            let step = receiver.step(&mut second[at..], |_| std::ops::ControlFlow::Break(())).unwrap();
            let Some(found) = step.found else { break };
            parts.push(format!("{:?}", receiver.part(found, &second[at..]).unwrap()));
            at += step.consumed;
        }
        assert_eq!(parts.len(), 2, "{parts:?}");
        assert!(!is_text || parts[1].contains("🦀."), "{parts:?}");
        assert!(parts[0].contains("is_first: true, is_last: false"), "{parts:?}");
        assert!(parts[1].contains("is_first: false, is_last: true"), "{parts:?}");
    }
}

#[cfg(feature = "deflate")]
mod compressed {
    use super::{
        super::{Compressor, Contexts, Deflate, Header, conversations::Random, extension, mask},
        *,
    };

    fn agreed(takeover: bool) -> (Deflate, super::super::Agreed) {
        let settings = Deflate {
            server_no_context_takeover: !takeover,
            client_no_context_takeover: !takeover,
            size_min: 0,
            ..Deflate::default()
        };
        let offer = extension::offer(&settings).unwrap();
        let (agreed, _) = extension::accept(&settings, [&*offer]).unwrap();
        (settings, agreed)
    }

    /// In fragments of `size` bytes, with a ping behind each.
    fn compressed(takeover: bool, messages: &[(Opcode, &[u8])], size: usize) -> Vec<u8> {
        let (settings, agreed) = agreed(takeover);
        let mut compressor = Compressor::new(Role::Client, agreed, &settings, &Contexts::new());
        let mut out = Vec::new();
        for &(opcode, message) in messages {
            let mut payload = Vec::new();
            compressor.compress(message, &mut payload);
            let count = payload.len().div_ceil(size);
            for (i, piece) in payload.chunks(size).enumerate() {
                let opcode = if i == 0 { opcode } else { Continuation };
                let length = piece.len() as u64;
                let header = Header { fin: i + 1 == count, rsv1: i == 0, opcode, mask: Some(KEY), length };
                let mut head = [0; Header::SIZE_MAX];
                let head_size = header.encode(&mut head);
                out.extend_from_slice(&head[..head_size]);
                let start = out.len();
                out.extend_from_slice(piece);
                mask::apply(&mut out[start..], KEY, 0);
                write_frame(&mut out, true, Ping, b"p", Some(KEY));
            }
        }
        out
    }

    #[test]
    fn what_is_inflated_is_the_same_in_parts() {
        let mut random = Random(7);
        let noise: Vec<u8> = (0..100_000).map(|_| random.below(256) as u8).collect();
        let long = "κόσμε 🦀 ".repeat(5_000);
        let zeros = vec![0; 300_000];
        for takeover in [false, true] {
            let receiver = || {
                Receiver::with_deflate(Role::Server, Limits::default(), agreed(takeover).1, &Contexts::new())
            };
            let small: &[(Opcode, &[u8])] =
                &[(Text, b"Hello"), (Binary, b""), (Text, "κόσμε 🦀".as_bytes()), (Text, b"Hello")];
            let large: &[(Opcode, &[u8])] =
                &[(Text, long.as_bytes()), (Binary, &noise), (Binary, &zeros), (Text, b"and")];
            for size in [1, 5, 100_000] {
                is_the_same(&receiver, &compressed(takeover, small, size));
            }
            for size in [37, 4096, 1 << 20] {
                is_the_same(&receiver, &compressed(takeover, large, size));
            }
            // Lengths around those of a part.
            for length in (16_370..16_400).chain(32_760..32_770) {
                let bytes =
                    compressed(takeover, &[(Binary, &zeros[..length]), (Text, &long.as_bytes()[..6])], 9);
                let heard = hear(receiver(), [&*bytes]);
                let whole = hear_by(receiver(), [&*bytes]);
                assert_eq!((heard.events, heard.fault), (whole.0, whole.1), "{length}");
            }
        }
    }

    #[test]
    fn a_bomb_is_a_stream_of_small_parts() {
        let bytes = compressed(false, &[(Binary, &vec![0; 64 << 20])], usize::MAX);
        let limits = Limits { message_max: 1000, ..Limits::default() };
        let mut receiver = Receiver::with_deflate(Role::Server, limits, agreed(false).1, &Contexts::new());
        receiver.in_parts();
        let (mut bytes, mut at, mut total) = (bytes, 0, 0);
        loop {
            let step = receiver.step(&mut bytes[at..], |_| std::ops::ControlFlow::Continue(())).unwrap();
            let Some(found) = step.found else { break };
            let part = receiver.part(found, &bytes[at..]).unwrap();
            let Event::Binary(piece) = part.event else { panic!("{part:?}") };
            assert!(piece.len() <= 16 << 10);
            total += piece.len();
            at += step.consumed;
            assert!(receiver.capacity() <= 16 << 10);
        }
        assert_eq!(total, 64 << 20);
    }
}
