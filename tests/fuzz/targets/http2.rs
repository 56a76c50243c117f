//! HTTP/2's own parts: the settings of an upgrade, the gate, the frames that pass, and a worker that counts them.

use std::collections::BTreeMap;

use switchpoint::{
    Config, Http2, Worker,
    h2c::{Allowance, Frames, Gate, GateFault, Kind, PREFACE, Rate, SettingsFault, decode},
    protocols,
};

use super::handshake::{Site, converse};
use crate::random::Random;

/// A field's value is read as base64url is defined, bit by bit (RFC 4648 5), to settings that a client may send, and the
/// gate passes them on.
pub fn settings(bytes: &[u8], _: &mut Random) -> bool {
    let decoded = decode(bytes);
    assert_eq!(decoded, read_settings(bytes));
    let Ok(payload) = decoded else { return false };
    let said_again: Vec<u8> =
        payload.chunks(3).flat_map(|three| digits(three.try_into().expect("whole settings"))).collect();
    assert_eq!(said_again, bytes);
    let (opening, _) = Gate::upgraded(payload.clone()).look(&opened(&[])).unwrap().unwrap();
    assert_eq!(opening, [&opened(&payload), STREAM_1].concat());
    !payload.is_empty()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn digits([a, b, c]: [u8; 3]) -> [u8; 4] {
    [a >> 2, (a & 3) << 4 | b >> 4, (b & 15) << 2 | c >> 6, c & 63].map(|digit| ALPHABET[usize::from(digit)])
}

fn read_settings(value: &[u8]) -> Result<Vec<u8>, SettingsFault> {
    if value.len() > 512 {
        return Err(SettingsFault::TooLong);
    }
    let length = value.iter().rposition(|digit| *digit != b'=').map_or(0, |last| last + 1);
    let (text, padding) = (&value[..length], value.len() - length);
    let (mut bits, mut count, mut payload) = (0_u32, 0, Vec::new());
    for digit in text {
        let digit = ALPHABET.iter().position(|known| known == digit).ok_or(SettingsFault::NotBase64)?;
        (bits, count) = (bits << 6 | digit as u32, count + 6);
        if count >= 8 {
            count -= 8;
            payload.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // A digit that brings no byte, bits that belong to none, more padding than there is a need for.
    if count == 6 || bits != 0 || padding > (4 - text.len() % 4) % 4 {
        return Err(SettingsFault::NotBase64);
    }
    if !payload.len().is_multiple_of(6) {
        return Err(SettingsFault::NotEntries);
    }
    let is_valid = |(name, value): (u16, u32)| match name {
        2 | 8 => value < 2,
        4 => value <= 0x7fff_ffff,
        5 => (0x4000..=0xff_ffff).contains(&value),
        _ => true,
    };
    if entries(&payload).all(is_valid) { Ok(payload) } else { Err(SettingsFault::OutOfRange) }
}

fn entries(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload.chunks_exact(6).map(|entry| {
        let (name, value) = entry.split_at(2);
        (u16::from_be_bytes(name.try_into().unwrap()), u32::from_be_bytes(value.try_into().unwrap()))
    })
}

/// The client's preface with these settings, in one frame.
fn opened(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [PREFACE, &[0, length[0], length[1], 4, 0, 0, 0, 0, 0][..], payload].concat()
}

/// HEADERS of stream 1, the whole of a request: `GET http:/`, of the static table (RFC 7541 A).
const STREAM_1: &[u8] = &[0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84];

/// The gate opens at the last byte of a preface and not before, whatever follows; what can be none is refused at the
/// same byte however it is cut. What passes is what came, with the settings of the upgrade in front of its own.
pub fn gate(bytes: &[u8], random: &mut Random) -> bool {
    let early = random.pick(&[None, Some(0), Some(1), Some(64)]).map(|count| {
        (0..count).flat_map(|_| [0, 1 + random.below(9) as u8, 0, 0, random.below(256) as u8, 1]).collect()
    });
    let gate = match &early {
        None => Gate::new(),
        Some(early) => Gate::upgraded(Vec::clone(early)),
    };
    let whole = gate.look(bytes);
    let mut decided = None;
    for end in 0..=bytes.len().min(PREFACE_MAX + 3) {
        match (gate.look(&bytes[..end]), &decided) {
            (Ok(None), None) => {}
            (now, None) => decided = Some((now, end)),
            (now, Some((before, at))) => assert_eq!(&now, before, "decided at {at}, and again at {end}"),
        }
    }
    let decided = decided.unwrap_or((Ok(None), 0));
    assert_eq!(decided.0, whole);

    let expected = read_preface(bytes);
    let (opening, replaced) = match whole {
        Ok(Some(passes)) => passes,
        Ok(None) => {
            assert_eq!(expected, Ok(None));
            return false;
        }
        Err(fault) => {
            assert_eq!(expected, Err(fault));
            return false;
        }
    };
    let (early, is_upgrade) = (early.as_deref().unwrap_or_default(), early.is_some());
    let own = expected.unwrap().expect("it has passed");
    assert_eq!((replaced, decided.1), (PREFACE.len() + 9 + own.len(), PREFACE.len() + 9 + own.len()));
    let behind = if is_upgrade { STREAM_1 } else { &[] };
    assert_eq!(opening, [&opened(&[early, own].concat()), behind].concat());
    if !is_upgrade {
        // Byte by byte what came, but for flags that mean nothing and a bit that is to be ignored.
        let differs = opening.iter().zip(bytes).enumerate().filter(|(_, (passed, came))| passed != came);
        assert!(differs.into_iter().all(|(place, (passed, came))| match place {
            28 => (*passed, came & 1) == (0, 0),
            29 => *passed == came & 0x7f,
            _ => false,
        }));
    }
    // Of a setting that is in both, the frame's counts.
    let mut expected: BTreeMap<u16, u32> = entries(early).collect();
    expected.extend(entries(own));
    let passed = &opening[PREFACE.len() + 9..opening.len() - behind.len()];
    assert_eq!(entries(passed).collect::<BTreeMap<_, _>>(), expected);
    let kinds = if is_upgrade { &[Kind::Free, Kind::Headers][..] } else { &[Kind::Free] };
    assert_eq!(read_frames(&opening[PREFACE.len()..]), (kinds.to_vec(), false));
    true
}

/// The longest: 64 settings.
const PREFACE_MAX: usize = PREFACE.len() + 9 + 64 * 6;

/// What the client's own SETTINGS hold, as RFC 9113 3.4 and 6.5 have it.
fn read_preface(bytes: &[u8]) -> Result<Option<&[u8]>, GateFault> {
    if !bytes.starts_with(PREFACE) {
        return if PREFACE.starts_with(bytes) { Ok(None) } else { Err(GateFault::NoMagic) };
    }
    let frame = &bytes[PREFACE.len()..];
    if frame.len() > 3 && frame[3] != 4 || frame.len() > 4 && frame[4] % 2 == 1 {
        return Err(GateFault::NoSettings);
    }
    if frame.len() < 9 {
        return Ok(None);
    }
    if !matches!(frame[5], 0 | 0x80) || frame[6..9] != [0, 0, 0] {
        return Err(GateFault::NoSettings);
    }
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
    if length > 64 * 6 || !length.is_multiple_of(6) {
        return Err(GateFault::WrongSize);
    }
    Ok(frame.get(9..9 + length))
}

/// Frames are told apart by their headers however they are cut, a head is under way from its first byte to its last, and
/// a pace allows the same however it is asked: never more, and never less.
pub fn frames(bytes: &[u8], random: &mut Random) -> bool {
    let bytes = &bytes[..bytes.len().min(4096)];
    let (mut frames, mut seen, mut arrived) = (Frames::default(), Vec::new(), 0);
    let rate = Rate {
        burst: random.pick(&[0, 1, 5, 1000, u32::MAX]),
        per_second: random.pick(&[0, 1, 100, u32::MAX]),
    };
    let start = random.below(1000) as u64;
    let (mut now, mut taken, mut allowance) = (start, 0, Allowance::new(rate, start));
    for piece in random.pieces(bytes) {
        arrived += piece.len();
        let before = seen.len();
        frames.walk(piece, |kind| seen.push(kind));
        let (kinds, is_in_head) = read_frames(&bytes[..arrived]);
        assert_eq!((&seen, frames.is_in_head()), (&kinds, is_in_head));

        let count = (seen.len() - before) as u32;
        now += random.pick(&[0, 0, 1, 999, 5000]);
        let (mut one_by_one, mut at_once) = (allowance, allowance);
        let singly = (0..count).filter(|_| one_by_one.take(1, now)).count() as u32;
        assert_eq!(at_once.take(count, now), singly == count, "all of them, or one too many");
        assert!(singly == count || at_once.take(singly, now), "a refusal takes nothing");
        taken += u64::from(singly);
        let earned = u128::from(now - start) * u128::from(rate.per_second) / 1000;
        assert!(u128::from(taken) <= u128::from(rate.burst) + earned);
        if singly < count {
            // What is left is less than one, and each that is earned is there in time.
            let mut later = one_by_one;
            let wait = 1000_u64.div_ceil(u64::from(rate.per_second.max(1)));
            assert_eq!(later.take(1, now + wait), rate.burst > 0 && rate.per_second > 0);
        }
        allowance = one_by_one;
    }
    whole_frames(bytes).1.is_empty() && !frames.is_in_head()
}

/// The kinds of the frames whose headers are whole, and whether a head has begun and not ended.
fn read_frames(mut bytes: &[u8]) -> (Vec<Kind>, bool) {
    let (mut kinds, mut is_in_head) = (Vec::new(), false);
    while let Some((header, rest)) = bytes.split_first_chunk::<9>() {
        let [l0, l1, l2, kind, flags, ..] = *header;
        kinds.push(match kind {
            1 => Kind::Headers,
            3 => Kind::Reset,
            0 | 5 | 7 | 8 | 9 => Kind::Bounded,
            2 | 4 | 6 | 10.. => Kind::Free,
        });
        is_in_head |= kind == 1;
        let Some(behind) = rest.get(u32::from_be_bytes([0, l0, l1, l2]) as usize..) else { break };
        is_in_head &= !(matches!(kind, 1 | 9) && flags & 4 != 0);
        bytes = behind;
    }
    (kinds, is_in_head)
}

/// Whatever frames a client sends behind its preface, a worker answers in legal frames on streams that were opened, has
/// the same enough of what it counts however that is cut, never panics, and keeps nothing.
pub fn http2(bytes: &[u8], random: &mut Random) -> bool {
    SITE.with_borrow_mut(|Site { runtime, worker }| {
        worker.tick();
        let sent = [PREFACE, &bytes[..bytes.len().min(8 << 10)]].concat();
        let heard = runtime.block_on(converse(worker, &sent, random)).0;
        let stats = worker.stats();
        assert_eq!((stats.panics, stats.connections, stats.sessions), (0, 0, 0), "{stats:?}");
        is_answered(&sent, &heard)
    })
}

thread_local! {
    static SITE: std::cell::RefCell<&'static mut Site> = Site::new(|| {
        let pace = Rate { burst: BURST, per_second: 0 };
        let http2 = Http2 { resets: pace, free_frames: pace, streams_max: 8, ..Http2::default() };
        let config = Config { threads: 1, http2, ..Config::default() };
        Worker::new(config, protocols::demonstration(Default::default()))
    });
}

/// Fewer than the `h2` crate has limits of its own for.
const BURST: u32 = 10;

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const PROTOCOL_ERROR: u32 = 1;
/// GOAWAY with PROTOCOL_ERROR, when no stream was looked at.
const NO_PREFACE: &[u8] = &[0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ENHANCE_YOUR_CALM: u32 = 11;

/// A whole frame.
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl Frame<'_> {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// The frames that are whole, and what is left.
fn whole_frames(mut bytes: &[u8]) -> (Vec<Frame<'_>>, &[u8]) {
    let mut frames = Vec::new();
    while let Some((&[l0, l1, l2, kind, flags, s0, s1, s2, s3], rest)) = bytes.split_first_chunk::<9>()
        && let Some((payload, behind)) = rest.split_at_checked(u32::from_be_bytes([0, l0, l1, l2]) as usize)
    {
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        frames.push(Frame { kind, flags, stream, payload });
        bytes = behind;
    }
    (frames, bytes)
}

fn is_answered(sent: &[u8], heard: &[u8]) -> bool {
    let (heard, cut) = whole_frames(heard);
    let first = heard.first().expect("its SETTINGS come first");
    assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0));
    let codes: Vec<u32> =
        heard.iter().filter(|frame| frame.kind == GOAWAY).map(|frame| frame.number(4)).collect();
    let behind = match Gate::new().look(sent) {
        Ok(Some((_, replaced))) => &sent[replaced..],
        Ok(None) => {
            assert_eq!((heard.len(), cut.len()), (1, 0));
            return false;
        }
        Err(_) => {
            // What the transport does not take of this at once is lost.
            assert!(codes == [PROTOCOL_ERROR] || (codes.is_empty() && NO_PREFACE.starts_with(cut)));
            assert_eq!(heard.len(), 1 + codes.len());
            return false;
        }
    };
    assert_eq!(cut, b"", "a frame is sent whole");
    let said = whole_frames(behind).0;
    let opened = |stream: u32| said.iter().any(|frame| frame.kind == 1 && frame.stream == stream);
    let pings: Vec<&[u8]> =
        said.iter().filter(|frame| frame.kind == PING).map(|frame| frame.payload).collect();
    let (all, mut acknowledged) = (whole_frames(&sent[PREFACE.len()..]).0, 0);
    let set = all.iter().filter(|frame| frame.kind == SETTINGS).flat_map(|frame| entries(frame.payload));
    let length_max =
        set.filter(|(name, _)| *name == 5).map(|(_, value)| value).max().unwrap_or(0).max(16 << 10);
    for Frame { kind, flags, stream, payload } in &heard[1..] {
        assert!(payload.len() <= length_max as usize);
        match *kind {
            0 | 1 => assert!(opened(*stream) && stream % 2 == 1, "answered on {stream}"),
            3 => assert!(payload.len() == 4 && *stream != 0),
            SETTINGS => {
                assert_eq!((*flags, payload.len(), *stream), (1, 0, 0));
                acknowledged += 1;
            }
            PING => assert!(*flags == 1 && pings.contains(payload)),
            GOAWAY | 8 => {}
            _ => panic!("a frame of kind {kind}"),
        }
    }
    // One for the preface.
    let asked = said.iter().filter(|frame| frame.kind == SETTINGS && frame.flags & 1 == 0).count();
    assert!(acknowledged <= asked + 1);

    let kinds = read_frames(behind).0;
    let count = |kind: Kind| kinds.iter().filter(|seen| **seen == kind).count() as u32;
    let is_flooded = count(Kind::Reset) > BURST || count(Kind::Free) > BURST;
    let is_told = codes.contains(&ENHANCE_YOUR_CALM);
    if is_flooded {
        // Unless the conversation was over before.
        let is_over = said.iter().any(|frame| frame.kind == GOAWAY);
        assert!(is_over || codes.iter().any(|code| *code != 0), "{codes:?}");
    } else {
        let of_kind = |kind: u8| said.iter().filter(move |frame| frame.kind == kind);
        // The crate has had enough of these by itself.
        let is_odd =
            of_kind(9).count() > 4 || of_kind(0).filter(|frame| frame.payload.is_empty()).count() > 99;
        assert!(is_odd || !is_told, "{codes:?}");
    }
    heard.iter().any(|frame| frame.kind == 1)
}
