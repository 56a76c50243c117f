//! The payload of a SETTINGS frame (RFC 9113 6.5), which an upgrade carries in the field `HTTP2-Settings` (RFC 7540
//! 3.2.1).

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Decodes the value of an `HTTP2-Settings` field: base64url, of settings that a client may send. An empty value is an
/// empty list, which is legal; so is padding, which the RFC leaves out.
///
/// # Errors
/// The first rule that it breaks.
pub fn decode(value: &[u8]) -> Result<Vec<u8>, SettingsFault> {
    if value.len() > FIELD_MAX {
        return Err(SettingsFault::TooLong);
    }
    let payload = BASE64.decode(value).map_err(|_| SettingsFault::NotBase64)?;
    check(&payload)?;
    Ok(payload)
}

/// Checks a payload: its length, and the values of the settings that have bounds (RFC 9113 6.5.2, RFC 8441 3).
fn check(payload: &[u8]) -> Result<(), SettingsFault> {
    let (entries, rest) = payload.as_chunks::<ENTRY>();
    if !rest.is_empty() {
        return Err(SettingsFault::NotEntries);
    }
    if entries.len() > ENTRIES_MAX {
        return Err(SettingsFault::TooLong);
    }
    for [id_high, id_low, value @ ..] in entries {
        let is_valid = match (u16::from_be_bytes([*id_high, *id_low]), u32::from_be_bytes(*value)) {
            (ENABLE_PUSH | ENABLE_CONNECT_PROTOCOL, value) => value <= 1,
            (INITIAL_WINDOW_SIZE, value) => value < 1 << 31,
            (MAX_FRAME_SIZE, value) => (1 << 14..1 << 24).contains(&value),
            _ => true,
        };
        if !is_valid {
            return Err(SettingsFault::OutOfRange);
        }
    }
    Ok(())
}

/// An entry: sixteen bits of name, thirty-two of value.
pub(super) const ENTRY: usize = 6;
/// More settings than there are names for were not meant seriously.
pub(super) const ENTRIES_MAX: usize = 64;
const FIELD_MAX: usize = (ENTRIES_MAX * ENTRY).div_ceil(3) * 4;

const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a value is not that of an `HTTP2-Settings` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsFault {
    /// Not base64url.
    #[error("it is not base64url (RFC 7540 3.2.1)")]
    NotBase64,
    /// A setting has six bytes.
    #[error("its length is not a multiple of six (RFC 9113 6.5)")]
    NotEntries,
    /// More than 64 settings.
    #[error("it has more than 64 settings")]
    TooLong,
    /// A value that the setting cannot have.
    #[error("a setting has a value that it cannot have (RFC 9113 6.5.2)")]
    OutOfRange,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u16, value: u32) -> Vec<u8> {
        [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
    }

    fn encoded(payload: &[u8]) -> Vec<u8> {
        BASE64.encode(payload).into_bytes()
    }

    #[test]
    fn what_real_clients_send_is_read() {
        for (client, value) in [
            ("curl 7.88", "AAMAAABkAAQCAAAAAAIAAAAA"),
            ("curl 8.23", "AAMAAABkAAQAAQAAAAIAAAAA"),
            ("nghttp", "AAMAAABkAAQAAP__"),
            ("JDK", "AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA"),
            ("Netty", "AAEAABAAAAIAAAABAAN_____AAQAAP__AAUAAEAAAAYAACAA"),
            ("python h2", "AAEAABAAAAIAAAABAAQAAP__AAUAAEAAAAgAAAAAAAMAAABkAAYAAQAA"),
        ] {
            let payload = decode(value.as_bytes()).unwrap();
            assert!(!payload.is_empty() && payload.len().is_multiple_of(ENTRY), "{client}");
        }
        assert_eq!(decode(b"AAMAAABkAAQAAP__"), Ok([entry(3, 100), entry(4, 65_535)].concat()));
    }

    #[test]
    fn an_empty_value_is_an_empty_list_and_padding_is_tolerated() {
        assert_eq!(decode(b""), Ok(Vec::new()));
        let two = [entry(3, 100), entry(4, 1)].concat();
        assert_eq!(decode(&encoded(&two)), Ok(two));
        assert_eq!(
            decode(b"AAMAAABkAAQAAP__AAMAAABk"),
            decode(&encoded(&[entry(3, 100), entry(4, 65_535), entry(3, 100)].concat()))
        );
    }

    #[test]
    fn each_broken_rule_is_named() {
        use SettingsFault::*;
        for (value, fault) in [
            (&b"AAMAAABk AAQAAP__"[..], NotBase64),
            (b"AAMAAABkAAQAAP//", NotBase64),
            (b"!", NotBase64),
            (b"AAMAAABkAAQAAP_", NotBase64),
            (b"AAMAAABkAA", NotEntries),
            (b"AAMA", NotEntries),
        ] {
            assert_eq!(decode(value), Err(fault), "{}", value.escape_ascii());
        }
        for (id, value) in [(2, 2), (8, 2), (4, 1 << 31), (5, 16_383), (5, 1 << 24)] {
            assert_eq!(decode(&encoded(&entry(id, value))), Err(OutOfRange), "{id} = {value}");
        }
        for (id, value) in
            [(2, 1), (8, 1), (4, (1 << 31) - 1), (5, 16_384), (5, (1 << 24) - 1), (3, 0), (99, u32::MAX)]
        {
            assert!(decode(&encoded(&entry(id, value))).is_ok(), "{id} = {value}");
        }
        assert!(decode(&encoded(&entry(3, 1).repeat(ENTRIES_MAX))).is_ok());
        assert_eq!(decode(&encoded(&entry(3, 1).repeat(ENTRIES_MAX + 1))), Err(TooLong));
        assert_eq!(decode(&[b'A'; 1 << 20]), Err(TooLong));
    }
}
