//! The gate: what the client's preface has to be, and what the `h2` crate reads in its place.
//!
//! Until the client's magic and the whole of its first SETTINGS frame are there, nothing passes: the crate acknowledges
//! every SETTINGS frame that it reads, and the client waits for one acknowledgement only. So what came in the field and
//! what came in the frame go through as one frame; of a setting that is in both, the later one counts (RFC 9113 6.5.3).

use super::settings::{ENTRIES_MAX, ENTRY};

/// What a client sends first (RFC 9113 3.4). No method of HTTP/1.1 is called like this on purpose.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The gate of one connection.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// The settings of the field, and with them the stand-in for stream 1.
    upgrade: Option<Vec<u8>>,
}

impl Gate {
    /// For a client with prior knowledge: it has to begin with its magic and SETTINGS, and that is all.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a client that was upgraded, with the [decoded](super::decode) settings of its request.
    pub fn upgraded(settings: Vec<u8>) -> Self {
        Self { upgrade: Some(settings) }
    }

    /// Looks at all that has arrived so far. Once the preface is whole it gives what is to be read in its place, and how
    /// many bytes that replaces; `None` asks for more.
    ///
    /// # Errors
    /// As soon as the bytes cannot become a preface.
    pub fn look(&self, bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, GateFault> {
        let start = bytes.len().min(PREFACE.len());
        if bytes[..start] != PREFACE[..start] {
            return Err(GateFault::NoMagic);
        }
        let frame = &bytes[start..];
        if frame.get(3).is_some_and(|kind| *kind != SETTINGS)
            || frame.get(4).is_some_and(|flags| flags & ACK != 0)
        {
            return Err(GateFault::NoSettings);
        }
        let Some((header, rest)) = frame.split_first_chunk::<FRAME_HEADER>() else { return Ok(None) };
        let [length @ .., _kind, _flags, s0, s1, s2, s3] = *header;
        let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
        // The first bit of a stream's number is reserved, and ignored (RFC 9113 4.1).
        if u32::from_be_bytes([s0, s1, s2, s3]) << 1 != 0 {
            return Err(GateFault::NoSettings);
        }
        if length > ENTRIES_MAX * ENTRY || !length.is_multiple_of(ENTRY) {
            return Err(GateFault::WrongSize);
        }
        let Some(settings) = rest.get(..length) else { return Ok(None) };

        let early = self.upgrade.as_deref().unwrap_or_default();
        let mut opening =
            Vec::with_capacity(PREFACE.len() + FRAME_HEADER + early.len() + length + STREAM_1.len());
        opening.extend_from_slice(PREFACE);
        let both = u16::try_from(early.len() + length).expect("each has at most 64 settings");
        opening.extend_from_slice(&[
            0,
            both.to_be_bytes()[0],
            both.to_be_bytes()[1],
            SETTINGS,
            0,
            0,
            0,
            0,
            0,
        ]);
        opening.extend_from_slice(early);
        opening.extend_from_slice(settings);
        if self.upgrade.is_some() {
            opening.extend_from_slice(STREAM_1);
        }
        Ok(Some((opening, PREFACE.len() + FRAME_HEADER + length)))
    }
}

/// The stand-in for the request on stream 1, from the static table of HPACK, which leaves the dynamic one alone:
/// HEADERS with END_STREAM and END_HEADERS; `:method: GET`, `:scheme: http`, `:path: /`.
///
/// There is no body, though the request may have had one: a DATA frame that the client has not sent would have us hand
/// back a window that it has not used.
const STREAM_1: &[u8] = &[0, 0, 3, 1, 0x5, 0, 0, 0, 1, 0x82, 0x86, 0x84];

pub(super) const FRAME_HEADER: usize = 9;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;

/// Why a client's first bytes open nothing. Each is a connection error of type PROTOCOL_ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateFault {
    /// Something other than the magic.
    #[error("the client did not begin with the HTTP/2 preface (RFC 9113 3.4)")]
    NoMagic,
    /// A frame other than SETTINGS, or an acknowledgement of ours.
    #[error("the client's first frame is not its SETTINGS (RFC 9113 3.4)")]
    NoSettings,
    /// Not a list of at most 64 settings.
    #[error("the client's first SETTINGS frame has the wrong size (RFC 9113 6.5)")]
    WrongSize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 100];
    const STREAMS: [u8; 6] = [0, 3, 0, 0, 0, 7];

    fn settings(payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, 4, 0, 0, 0, 0, 0], payload].concat()
    }

    #[test]
    fn what_came_in_the_field_and_in_the_frame_goes_through_as_one_frame() {
        let sent = [PREFACE, &settings(&STREAMS)[..], b"the rest"].concat();
        let (opening, replaced) = Gate::upgraded(WINDOW.to_vec()).look(&sent).unwrap().unwrap();
        assert_eq!(opening, [PREFACE, &settings(&[WINDOW, STREAMS].concat())[..], STREAM_1].concat());
        assert_eq!(&sent[replaced..], b"the rest");
    }

    #[test]
    fn prior_knowledge_passes_as_it_is() {
        let sent = [PREFACE, &settings(&[])[..], b"the rest"].concat();
        let (opening, replaced) = Gate::new().look(&sent).unwrap().unwrap();
        assert_eq!((&opening[..], &sent[replaced..]), (&sent[..replaced], &b"the rest"[..]));
    }

    #[test]
    fn it_opens_at_the_last_byte_and_not_before() {
        let sent = [PREFACE, &settings(&STREAMS)[..]].concat();
        for cut in 0..sent.len() {
            assert_eq!(Gate::upgraded(Vec::new()).look(&sent[..cut]), Ok(None), "{cut}");
        }
        assert!(Gate::upgraded(Vec::new()).look(&sent).unwrap().is_some());
    }

    #[test]
    fn what_cannot_become_a_preface_is_refused_at_once() {
        assert_eq!(Gate::new().look(b"PRI * HTTP/2.0\r\n\r\nXX"), Err(GateFault::NoMagic));
        assert_eq!(Gate::new().look(b"GET / HTTP/1.1"), Err(GateFault::NoMagic));
        for (header, fault) in [
            (&[0, 0, 0, 1][..], GateFault::NoSettings),
            (&[0, 0, 0, 4, 1], GateFault::NoSettings),
            (&[0, 0, 0, 4, 0, 0, 0, 0, 1], GateFault::NoSettings),
            (&[0, 0, 5, 4, 0, 0, 0, 0, 0], GateFault::WrongSize),
            (&[0, 1, 134, 4, 0, 0, 0, 0, 0], GateFault::WrongSize),
            (&[1, 0, 0, 4, 0, 0, 0, 0, 0], GateFault::WrongSize),
        ] {
            assert_eq!(Gate::new().look(&[PREFACE, header].concat()), Err(fault), "{header:?}");
        }
        let reserved = [PREFACE, &[0, 0, 0, 4, 0, 0x80, 0, 0, 0][..]].concat();
        assert!(Gate::new().look(&reserved).unwrap().is_some());
    }
}
