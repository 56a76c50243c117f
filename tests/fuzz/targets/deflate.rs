//! permessage-deflate: what it is settled by, and what it makes of messages.

use std::collections::BTreeMap;

use switchpoint::{
    http::list,
    ws::{
        Compressor, Contexts, Deflate, Fault, Header, Limits, Opcode, Receiver, Role, extension, mask,
        write_message,
    },
};

use super::websocket::is_heard_however_cut;
use crate::random::Random;

/// What is compressed comes out as it went in, whatever was agreed on; and what pretends to be compressed is no worse
/// than any other bytes.
pub fn deflate(bytes: &[u8], random: &mut Random) -> bool {
    let settings = settings(random);
    let (agreed, _) = extension::accept(&settings, [random.pick(OFFERS)]).unwrap();
    let (role, peer, key) = random.pick(&[
        (Role::Client, Role::Server, None),
        (Role::Server, Role::Client, Some([0x37, 0xfa, 0x21, 0x3d])),
    ]);
    let limits = Limits { message_max: random.pick(&[50, 5_000, 100_000]), fragments_max: 8 };
    let contexts = Contexts::new();
    let hear = |wire: &[u8], random: &mut Random| {
        let new = || Receiver::with_deflate(role, limits, agreed, &contexts);
        is_heard_however_cut(&new, limits, 4 * limits.message_max + CONTEXT_MAX, wire, random)
    };
    let mut compressor = Compressor::new(peer, agreed, &settings, &contexts);
    let (mut wire, mut expected) = (Vec::new(), Vec::new());
    let long = bytes.repeat(random.pick(&[1, 1, 1, 60]));
    for piece in random.pieces(bytes).into_iter().take(9).chain([&*long]) {
        write_message(&mut wire, Opcode::Binary, piece, key, Some(&mut compressor));
        expected.push(("binary", piece.to_vec()));
    }
    let heard = hear(&wire, random);
    let fits = expected.iter().all(|(_, message)| message.len() <= limits.message_max);
    assert!(heard.events == expected || (!fits && heard.fault == Some(Fault::MessageTooLong)), "{heard:?}");

    let mut payload = bytes.to_vec();
    if random.one_in(2) {
        payload.clear();
        compressor.compress(&long, &mut payload);
        random.mutate(&mut payload, &[bytes.to_vec()]);
    }
    hear(&as_if_compressed(&payload, key, random), random).fault.is_none()
}

/// A message whose first frame says that it is compressed, in at most eight of them.
fn as_if_compressed(payload: &[u8], key: Option<[u8; 4]>, random: &mut Random) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut opcode = random.pick(&[Opcode::Text, Opcode::Binary]);
    let pieces = random.pieces(payload).into_iter().filter(|piece| !piece.is_empty());
    for piece in pieces.take(7).chain([&b""[..]]) {
        let (fin, rsv1) = (piece.is_empty(), opcode != Opcode::Continuation);
        let mut head = [0; Header::SIZE_MAX];
        let size = Header { fin, rsv1, opcode, mask: key, length: piece.len() as u64 }.encode(&mut head);
        wire.extend([&head[..size], piece].concat());
        let start = wire.len() - piece.len();
        mask::apply(&mut wire[start..], key.unwrap_or_default(), 0);
        opcode = Opcode::Continuation;
    }
    wire
}

/// What a context to inflate takes, and the piece that it inflates to.
const CONTEXT_MAX: usize = 80 << 10;

/// The server's part takes an offer only as it is, and the client's part no answer that goes beyond its offer.
pub fn extension(bytes: &[u8], random: &mut Random) -> bool {
    let (server, client) = (settings(random), settings(random));
    let offers: Vec<&str> = list::items(bytes).collect();
    let offer = extension::offer(&client).unwrap();
    let (agreed, answer) = extension::accept(&server, [&*offer]).unwrap();
    assert_eq!(extension::agree(&client, [&*answer]), Ok(Some(agreed)));
    if let Ok(Some(agreed)) = extension::agree(&client, offers.iter().copied()) {
        assert!(
            offers.len() == 1 && agreed.client_max_window_bits <= client.client_max_window_bits.clamp(8, 15)
        );
        assert!(agreed.server_max_window_bits <= client.server_max_window_bits.clamp(8, 15));
        assert!(agreed.server_no_context_takeover || !client.server_no_context_takeover);
    }
    let Some((agreed, answer)) = extension::accept(&server, offers.iter().copied()) else {
        assert!(offers.iter().all(|offer| extension::accept(&server, [*offer]).is_none()));
        return false;
    };
    let mut taken = offers.iter().filter(|offer| extension::accept(&server, [**offer]).is_some());
    let (offer, answer) = (parameters(taken.next().unwrap()), parameters(&answer));
    let bits = |side: &BTreeMap<String, String>, name: &str| {
        side.get(name).map_or(Ok(15), |bits| bits.parse::<u8>())
    };
    for (name, own) in [("server", agreed.server_max_window_bits), ("client", agreed.client_max_window_bits)]
    {
        let (takeover, window) = (format!("{name}_no_context_takeover"), format!("{name}_max_window_bits"));
        assert!(!offer.contains_key(&takeover) || answer.contains_key(&takeover));
        assert!((8..=15).contains(&own) && bits(&answer, &window) == Ok(own));
        assert!(own <= bits(&offer, &window).unwrap_or(15));
    }
    assert!(!answer.contains_key("client_max_window_bits") || offer.contains_key("client_max_window_bits"));
    assert!(answer.contains_key("server_max_window_bits") || !offer.contains_key("server_max_window_bits"));
    assert_eq!(agreed.server_no_context_takeover, answer.contains_key("server_no_context_takeover"));
    assert_eq!(agreed.client_no_context_takeover, answer.contains_key("client_no_context_takeover"));
    true
}

/// The parameters of an offer or answer that is valid: each known, and there once.
fn parameters(item: &str) -> BTreeMap<String, String> {
    let (name, parameters) = list::parameters(item);
    assert_eq!(name, "permessage-deflate");
    let mut all = BTreeMap::new();
    for list::Parameter { name, value } in parameters.map(Result::unwrap) {
        let has_value = value.is_some();
        match name.split_once('_') {
            Some(("server" | "client", "no_context_takeover")) => assert!(!has_value),
            Some(("server", "max_window_bits")) => assert!(has_value),
            Some(("client", "max_window_bits")) => {}
            _ => panic!("{name}"),
        }
        assert_eq!(all.insert(name.to_owned(), value.unwrap_or_default().into_owned()), None);
    }
    all
}

fn settings(random: &mut Random) -> Deflate {
    Deflate {
        server_no_context_takeover: random.one_in(2),
        client_no_context_takeover: random.one_in(2),
        server_max_window_bits: 7 + random.below(10) as u8,
        client_max_window_bits: 7 + random.below(10) as u8,
        size_min: random.pick(&[0, 0, 128]),
        level: random.below(11) as u8,
    }
}

const OFFERS: &[&str] = &["permessage-deflate", "permessage-deflate; client_max_window_bits"];
