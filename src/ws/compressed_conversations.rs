//! The same with permessage-deflate: however bytes are cut, what they inflate to is the same.

use super::{
    Agreed, Compressor, Contexts, Deflate, Event, Fault, Header, Limits, Opcode, Prepared, Receiver, Role,
    conversations::{Heard, Random, events, hear_by, hear_by_many},
    extension, mask, write_frame, write_message,
};
use Opcode::{Binary, Continuation, Ping, Text};

fn agreed(takeover: bool, bits: u8) -> (Deflate, Agreed) {
    let settings = Deflate {
        server_no_context_takeover: !takeover,
        client_no_context_takeover: !takeover,
        server_max_window_bits: bits,
        client_max_window_bits: bits,
        size_min: 0,
        ..Deflate::default()
    };
    let offer = extension::offer(&settings).unwrap();
    let (agreed, answer) = extension::accept(&settings, [&*offer]).unwrap();
    assert_eq!(extension::agree(&settings, [&*answer]), Ok(Some(agreed)));
    (settings, agreed)
}

fn receiver(role: Role, limits: Limits, takeover: bool) -> Receiver {
    Receiver::with_deflate(role, limits, agreed(takeover, 15).1, &Contexts::new())
}

fn frame(out: &mut Vec<u8>, (fin, rsv1): (bool, bool), opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>) {
    let header = Header { fin, rsv1, opcode, mask: key, length: payload.len() as u64 };
    let mut head = [0; Header::SIZE_MAX];
    let size = header.encode(&mut head);
    out.extend_from_slice(&head[..size]);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = key {
        mask::apply(&mut out[start..], key, 0);
    }
}

fn heard(takeover: bool, limits: Limits, bytes: &[u8]) -> Heard {
    hear_by_many(&|| receiver(Role::Client, limits, takeover), bytes)
}

const WHOLE: (bool, bool) = (true, true);

#[test]
fn the_examples_of_rfc_7692_section_7_2_3() {
    let hello = events(&[Event::Text("Hello")]);
    let twice = events(&[Event::Text("Hello"), Event::Text("Hello")]);
    for (bytes, expected) in [
        (&b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00"[..], &hello), // 7.2.3.1
        (b"\x41\x03\xf2\x48\xcd\x80\x04\xc9\xc9\x07\x00", &hello),
        (b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00", &twice), // 7.2.3.2
        (b"\xc1\x0b\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", &hello),                     // 7.2.3.3
        (b"\xc1\x08\xf3\x48\xcd\xc9\xc9\x07\x00\x00", &hello),                                 // 7.2.3.4
        (b"\xc1\x0d\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", &hello),             // 7.2.3.5
        (b"\xc1\x01\x00", &events(&[Event::Text("")])),                                        // 7.2.3.6
    ] {
        for takeover in [false, true] {
            assert_eq!(heard(takeover, Limits::default(), bytes), *expected, "{bytes:x?}");
        }
    }
    let shared = b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00\xc1\x05\xf2\x00\x11\x00\x00"; // 7.2.3.2
    assert_eq!(heard(true, Limits::default(), shared), twice);
    let without = Heard(vec!["Text(\"Hello\")".into()], Some(Fault::InvalidDeflate));
    assert_eq!(heard(false, Limits::default(), shared), without);
}

#[test]
fn a_final_block_ends_nothing_but_its_data_set() {
    let hello = b"\xf3\x48\xcd\xc9\xc9\x07\x00";
    let mut bytes = Vec::new();
    // Two final blocks, one that is not final, then the byte of 7.2.3.4.
    frame(&mut bytes, WHOLE, Text, &[&hello[..], hello, b"\xf2\x48\xcd\xc9\xc9\x07\x00"].concat(), None);
    frame(&mut bytes, WHOLE, Text, &[&hello[..], b"\x00"].concat(), None);
    // Without that byte, and with nothing at all: what else could it mean?
    frame(&mut bytes, WHOLE, Text, hello, None);
    frame(&mut bytes, WHOLE, Text, b"", None);
    frame(&mut bytes, WHOLE, Text, b"\xf2\x48\xcd\xc9\xc9\x07\x00", None);
    let expected =
        ["HelloHelloHello", "Hello", "Hello", "", "Hello"].map(|text| format!("{:?}", Event::Text(text)));
    for takeover in [false, true] {
        assert_eq!(heard(takeover, Limits::default(), &bytes), Heard(expected.to_vec(), None));
    }
    // Nothing refers back over it.
    bytes.clear();
    frame(&mut bytes, WHOLE, Text, &[&hello[..], b"\xf2\x00\x11\x00\x00"].concat(), None);
    assert_eq!(heard(true, Limits::default(), &bytes).1, Some(Fault::InvalidDeflate));
}

#[test]
fn fragments_are_inflated_with_control_frames_between_them() {
    let text = "κόσμε 🦀 ".repeat(20);
    for role in [Role::Client, Role::Server] {
        let key = (role == Role::Server).then_some([7, 0xf0, 1, 0x55]);
        for takeover in [false, true] {
            let (settings, agreed) = agreed(takeover, 15);
            let sender = if role == Role::Server { Role::Client } else { Role::Server };
            let mut compressor = Compressor::new(sender, agreed, &settings, &Contexts::new());
            let mut bytes = Vec::new();
            for _ in 0..3 {
                let mut compressed = Vec::new();
                compressor.compress(text.as_bytes(), &mut compressed);
                for (i, piece) in compressed.chunks(5).enumerate() {
                    let (rsv1, opcode) = if i == 0 { (true, Text) } else { (false, Continuation) };
                    frame(&mut bytes, (false, rsv1), opcode, piece, key);
                    write_frame(&mut bytes, true, Ping, b"p", key);
                }
                frame(&mut bytes, (true, false), Continuation, b"", key);
                write_frame(&mut bytes, true, Binary, b"plain", key);
            }
            let heard = hear_by_many(&|| receiver(role, Limits::default(), takeover), &bytes);
            let messages: Vec<_> = heard.0.iter().filter(|event| !event.starts_with("Ping")).collect();
            let expected = [format!("{:?}", Event::Text(&text)), format!("{:?}", Event::Binary(b"plain"))];
            assert_eq!(messages, expected.iter().cycle().take(6).collect::<Vec<_>>());
            assert_eq!(heard.1, None);
        }
    }
}

#[test]
fn rsv1_has_a_meaning_on_the_first_frame_of_a_message_only() {
    for bytes in [
        &b"\xc9\x00"[..],        // ping
        b"\xc8\x00",             // close
        b"\x41\x01\x00\xc0\x00", // continuation of a compressed message
        b"\x01\x01a\xc0\x00",    // of one that is not
        b"\xc0\x00",             // of none
        b"\xe1\x00",             // with RSV2
        b"\xd1\x07\xf2\x48\xcd", // with RSV3
    ] {
        assert_eq!(heard(true, Limits::default(), bytes).1, Some(Fault::ReservedBits), "{bytes:x?}");
    }
    let not_agreed = hear_by_many(&|| Receiver::new(Role::Client, Limits::default()), b"\xc1\x01\x00");
    assert_eq!(not_agreed, Heard(vec![], Some(Fault::ReservedBits)));
}

#[test]
fn what_cannot_be_inflated_is_a_fault_after_what_came_before_it() {
    let limits = Limits { message_max: 100, ..Limits::default() };
    let deflate = |message: &[u8]| {
        let (settings, agreed) = agreed(false, 15);
        let mut out = Vec::new();
        Compressor::new(Role::Server, agreed, &settings, &Contexts::new()).compress(message, &mut out);
        out
    };
    let long = deflate(&[b'x'; 101]);
    let not_utf8 = deflate(b"hello \xed\xa0\x80");
    let cut_utf8 = deflate("🦀".as_bytes().split_last().unwrap().1);
    for (payload, fault) in [
        (&b"\x07"[..], Fault::InvalidDeflate),            // block type 3
        (b"\x00\x05\x00\x00\x00", Fault::InvalidDeflate), // a stored block's lengths
        (b"\xf2\x48\xcd", Fault::InvalidDeflate),         // ends within a block
        (b"\xf3\x48\xcd\xc9\xc9", Fault::InvalidDeflate),
        (b"\x00\x05\x00\xfa\xffHel", Fault::InvalidDeflate),
        (b"Hello, this is not compressed", Fault::InvalidDeflate),
        (&long, Fault::MessageTooLong),
        (&not_utf8, Fault::TextNotUtf8),
        (&cut_utf8, Fault::TextNotUtf8),
    ] {
        let mut bytes = b"\x81\x06before".to_vec();
        frame(&mut bytes, WHOLE, Text, payload, None);
        for takeover in [false, true] {
            let expected = Heard(vec!["Text(\"before\")".into()], Some(fault));
            assert_eq!(heard(takeover, limits, &bytes), expected, "{payload:x?}");
        }
    }
    assert_eq!(Fault::InvalidDeflate.close_code().number(), 1007);
    // Just as long as it may be, in any form.
    let mut bytes = Vec::new();
    frame(&mut bytes, WHOLE, Binary, &deflate(&[b'x'; 100]), None);
    frame(&mut bytes, WHOLE, Binary, &[b"\x00\x64\x00\x9b\xff", &[0xfe; 100][..], b"\x00"].concat(), None);
    assert_eq!(heard(false, limits, &bytes).1, None);
}

#[test]
fn text_fails_at_the_piece_that_is_not() {
    let mut receiver = receiver(Role::Client, Limits::default(), false);
    // A stored block of which three of ten bytes have come.
    let mut bytes = *b"\xc1\x20\x00\x0a\x00\xf5\xff\x61\xf4\x90";
    assert_eq!(receiver.receive(&mut bytes), Err(Fault::TextNotUtf8));
}

#[test]
fn all_windows_both_roles_with_and_without_takeover() {
    let mut random = Random(7);
    let mut messages: Vec<Vec<u8>> = [0, 1, 2, 100, 125, 126, 300, 511, 512, 513, 4096, 40_000]
        .map(|size| {
            (0..size).map(|i: usize| b"{\"id\":,wxyz}"[(i / 3 + i * i % 7 + random.below(2)) % 12]).collect()
        })
        .into();
    messages.push((0..5000).map(|_| random.below(256) as u8).collect()); // incompressible
    for bits in 8..=15 {
        for takeover in [false, true] {
            for sender in [Role::Client, Role::Server] {
                for level in [1, 6] {
                    let (settings, agreed) = agreed(takeover, bits);
                    let settings = Deflate { level, ..settings };
                    let contexts = Contexts::new();
                    let mut compressor = Compressor::new(sender, agreed, &settings, &contexts);
                    let role = if sender == Role::Client { Role::Server } else { Role::Client };
                    let key = (sender == Role::Client).then_some([1, 2, 3, 4]);
                    let mut receiver = Receiver::with_deflate(role, Limits::default(), agreed, &contexts);
                    for (i, message) in messages.iter().chain(messages.iter().rev()).enumerate() {
                        let mut bytes = b"before".to_vec();
                        // A broadcast now and then, in a server's connection.
                        if i % 3 == 2 && key.is_none() {
                            let prepared = Prepared::new(Binary, message);
                            bytes.extend_from_slice(prepared.frame(Some(&mut compressor)));
                        } else {
                            write_message(&mut bytes, Binary, message, key, Some(&mut compressor));
                        }
                        let received = receiver.receive(&mut bytes[6..]).unwrap();
                        assert_eq!(received.event, Some(Event::Binary(message)), "{bits} {takeover} {i}");
                        let consumed = received.consumed;
                        assert_eq!(consumed + 6, bytes.len());
                        assert_eq!(receiver.receive(&mut []).unwrap().event, None);
                    }
                }
            }
        }
    }
}

#[test]
fn a_bomb_goes_off_in_a_small_room() {
    // A MiB that refers to nothing before it, 1024 times.
    let mut compress = flate2::Compress::new(flate2::Compression::best(), false);
    let mut bomb = Vec::with_capacity(4096);
    compress.compress_vec(&[0; 1 << 20], &mut bomb, flate2::FlushCompress::Sync).unwrap();
    let bomb = bomb.repeat(1024);
    assert!(bomb.len() < 1200 << 10, "{}: 1 GiB in about 1 MiB", bomb.len());
    for (opcode, message_max) in [(Text, 1_000_000), (Binary, 1_000_000), (Binary, 1 << 20), (Binary, 10)] {
        let mut bytes = Vec::new();
        frame(&mut bytes, WHOLE, opcode, &bomb, None);
        let limits = Limits { message_max, ..Limits::default() };
        let mut receiver = receiver(Role::Client, limits, false);
        let mut fault = None;
        for piece in bytes.chunks_mut(16 << 10) {
            fault = receiver.receive(piece).err();
            assert!(receiver.capacity() <= message_max, "{}", receiver.capacity());
            if fault.is_some() {
                break;
            }
        }
        assert_eq!(fault, Some(Fault::MessageTooLong));
    }
    // One that brings nothing at all is no message without an end, either.
    let nothing = [0, 0, 0, 0xff, 0xff].repeat(1 << 16);
    let limits = Limits { message_max: 1 << 16, ..Limits::default() };
    let mut bytes = Vec::new();
    frame(&mut bytes, WHOLE, Binary, &nothing, None);
    assert_eq!(hear_by(receiver(Role::Client, limits, false), [&bytes[..]]).1, Some(Fault::MessageTooLong));
}

#[test]
fn whatever_a_peer_sends_compressed_is_heard_the_same_way_in_any_pieces() {
    let limits = Limits { message_max: 3000, fragments_max: 8 };
    let (mut well, contexts) = (0, Contexts::new());
    for seed in 0..10_000 {
        let mut random = Random(seed);
        let takeover = random.below(2) == 0;
        let (settings, agreed) = agreed(takeover, 8 + random.below(8) as u8);
        let settings = Deflate { level: 1 + random.below(9) as u8, ..settings };
        let mut compressor = Compressor::new(Role::Server, agreed, &settings, &contexts);
        let mut bytes = Vec::new();
        for _ in 0..random.below(8) {
            let text = "\u{3}é🦀 and some more".repeat(150).into_bytes();
            let length = [0, 1, 7, 125, 126, 300, 2999, 3100][random.below(8)];
            let mut payload = Vec::new();
            compressor.compress(&text[..length], &mut payload);
            if random.below(3) == 0 && !payload.is_empty() {
                let at = random.below(payload.len());
                payload[at] ^= 1 << random.below(8);
            }
            let opcode = if random.below(2) == 0 { Text } else { Binary };
            let cut = random.below(payload.len() + 1);
            if random.below(2) == 0 {
                frame(&mut bytes, WHOLE, opcode, &payload, None);
            } else {
                frame(&mut bytes, (false, true), opcode, &payload[..cut], None);
                frame(&mut bytes, (true, false), Continuation, &payload[cut..], None);
            }
        }
        if random.below(4) == 0 {
            let noise: Vec<u8> = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
            frame(&mut bytes, WHOLE, Binary, &noise, None);
        }
        let make = || Receiver::with_deflate(Role::Client, limits, agreed, &contexts);
        let whole = hear_by(make(), [&bytes[..]]);
        let size = 1 + random.below(9);
        assert_eq!(hear_by(make(), bytes.chunks(size)), whole, "seed {seed}, {size} at a time");
        well += whole.0.len();

        // A caller that goes on after a fault is wrong, but nothing panics.
        let mut receiver = make();
        for piece in bytes.chunks_mut(size) {
            let _ = receiver.receive(piece);
        }
    }
    assert!(well > 5_000, "{well} events: the seeds make too few");
}
