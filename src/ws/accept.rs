//! The handshake's proof that the server speaks WebSocket (4.2.2).

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

/// The value of `Sec-WebSocket-Accept` for this `Sec-WebSocket-Key`.
pub fn accept_key(key: &[u8]) -> [u8; 28] {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; 28];
    STANDARD.encode_slice(digest, &mut accept).expect("20 bytes are 28 in base64");
    accept
}

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether this is a `Sec-WebSocket-Key`: 16 bytes in base64, canonical and padded (4.2.1).
pub fn is_key(key: &[u8]) -> bool {
    // Room for 24 characters without padding, which is what the decoder asks for.
    let mut nonce = [0; 18];
    key.len() == 24 && STANDARD.decode_slice(key, &mut nonce) == Ok(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_section_1_3() {
        assert_eq!(&accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_canonical_base64() {
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(is_key(b"AAAAAAAAAAAAAAAAAAAAAA=="));
        for wrong in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",    // no padding
            "dGhlIHNhbXBsZSBub25jZQ= ",  // half of it
            "dGhlIHNhbXBsZSBub25jZR==",  // bits behind the last byte
            "dGhlIHNhbXBsZSBub25jZTE=",  // 17 bytes
            "dGhlIHNhbXBsZSBub25jZTEy",  // 18
            "dGhlIHNhbXBsZSBub24=",      // 14
            "dGhlIHNhbXBsZSBub25jZ!==",  // not the alphabet
            "dGhlIHNhbXBsZSBub25j_Q==",  // another alphabet
            " dGhlIHNhbXBsZSBub25jZQ==", // the caller trims
        ] {
            assert!(!is_key(wrong.as_bytes()), "{wrong}");
        }
    }
}
