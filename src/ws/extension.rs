//! What two sides settle about permessage-deflate in the handshake (RFC 7692 5 and 7.1), as plain data.
//!
//! A client offers one or more sets of parameters, dearest first; the server takes the first that it can honour, and its
//! answer says how. An offer with anything in it that we do not know is not an error but an offer for somebody else.

use std::fmt::{self, Display};

use crate::http::list;

/// How we like to compress. Numbers outside of their range are taken for the nearest one inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// The server forgets each message once it is sent. True: a context costs hundreds of KiB for as long as the
    /// connection lives, and none is needed for it if the core has one for all (7.1.1.1).
    pub server_no_context_takeover: bool,
    /// The same for the client, where it is what the server holds to inflate: 46 KiB; true (7.1.1.2).
    pub client_no_context_takeover: bool,
    /// How far back the server refers, as a power of two, 8–15; 15. What a connection with context takeover costs
    /// depends on it: 371 KiB with 15, 245 KiB with 9 (7.1.2.1).
    pub server_max_window_bits: u8,
    /// The same for the client; 15. A server that wants less says so only to a client that can do it; it saves nothing
    /// here, for the window that we inflate with has always 32 KiB (7.1.2.2).
    pub client_max_window_bits: u8,
    /// Messages below this many bytes are sent as they are; 128. Without the context of others a shorter text hardly
    /// shrinks, and what it saves is less than the packet around it.
    pub size_min: usize,
    /// From 1, the fastest, to 9; 1. The step to 2 costs two to three times the time for a fifth of the bytes.
    pub level: u8,
}

impl Default for Deflate {
    fn default() -> Self {
        Self {
            server_no_context_takeover: true,
            client_no_context_takeover: true,
            server_max_window_bits: BITS_MAX,
            client_max_window_bits: BITS_MAX,
            size_min: 128,
            level: 1,
        }
    }
}

/// What holds for a connection that uses permessage-deflate. Only a negotiation makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Agreed {
    /// The server's messages do not refer to those before them.
    pub server_no_context_takeover: bool,
    /// The client's messages do not refer to those before them.
    pub client_no_context_takeover: bool,
    /// How far back the server's messages refer, 8–15.
    pub server_max_window_bits: u8,
    /// How far back the client's messages refer, 8–15.
    pub client_max_window_bits: u8,
}

/// The server's part: takes the first of the `offers`, the items of `Sec-WebSocket-Extensions`, that it can honour, and
/// says with what value to answer. `None`: the connection goes without compression, and the field is left out.
pub fn accept<'a>(settings: &Deflate, offers: impl IntoIterator<Item = &'a str>) -> Option<(Agreed, String)> {
    if !cfg!(feature = "deflate") {
        return None;
    }
    let offer = offers.into_iter().find_map(|offer| Parameters::parse(offer).ok())?;
    let agreed = Agreed {
        server_no_context_takeover: settings.server_no_context_takeover || offer.server_no_context_takeover,
        client_no_context_takeover: settings.client_no_context_takeover || offer.client_no_context_takeover,
        server_max_window_bits: bits(settings.server_max_window_bits)
            .min(offer.server_max_window_bits.unwrap_or(BITS_MAX)),
        // A client that did not offer it may not know how to do it.
        client_max_window_bits: offer
            .client_max_window_bits
            .map_or(BITS_MAX, |most| bits(settings.client_max_window_bits).min(most.unwrap_or(BITS_MAX))),
    };
    let answer = Parameters {
        server_no_context_takeover: agreed.server_no_context_takeover,
        client_no_context_takeover: agreed.client_no_context_takeover,
        // What was asked for is granted by repeating it.
        server_max_window_bits: Some(agreed.server_max_window_bits)
            .filter(|&bits| bits < BITS_MAX || offer.server_max_window_bits.is_some()),
        client_max_window_bits: Some(agreed.client_max_window_bits).filter(|&bits| bits < BITS_MAX).map(Some),
    };
    Some((agreed, answer.to_string()))
}

/// The client's part, before: the value of `Sec-WebSocket-Extensions`. `None` in a build without `deflate`.
pub fn offer(settings: &Deflate) -> Option<String> {
    cfg!(feature = "deflate").then(|| Parameters::offered(settings).to_string())
}

/// The client's part, after: whether what the server answered to our [`offer`] fits it (7.1). `answers` are the items
/// of all its `Sec-WebSocket-Extensions`; without any, the connection goes without compression.
pub fn agree<'a>(
    settings: &Deflate,
    answers: impl IntoIterator<Item = &'a str>,
) -> Result<Option<Agreed>, Misfit> {
    let mut answers = answers.into_iter();
    let Some(answer) = answers.next() else { return Ok(None) };
    if !cfg!(feature = "deflate") || answers.next().is_some() {
        return Err(Misfit::NotOffered);
    }
    let answer = Parameters::parse(answer)?;
    let offered = Parameters::offered(settings);
    if offered.server_no_context_takeover && !answer.server_no_context_takeover {
        return Err(Misfit::NotHonoured);
    }
    let server_max_window_bits = answer.server_max_window_bits.unwrap_or(BITS_MAX);
    if server_max_window_bits > offered.server_max_window_bits.unwrap_or(BITS_MAX) {
        return Err(Misfit::NotHonoured);
    }
    let own_max = bits(settings.client_max_window_bits);
    let client_max_window_bits = match answer.client_max_window_bits {
        Some(None) => return Err(Misfit::InvalidParameter), // only an offer may leave the value out
        Some(Some(bits)) if bits > own_max => return Err(Misfit::NotHonoured),
        Some(Some(bits)) => bits,
        None => own_max,
    };
    Ok(Some(Agreed {
        server_no_context_takeover: answer.server_no_context_takeover,
        // What we want for ourselves needs nobody's consent.
        client_no_context_takeover: answer.client_no_context_takeover || settings.client_no_context_takeover,
        server_max_window_bits,
        client_max_window_bits,
    }))
}

/// Why a server's answer fails the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// An extension, or a second one, that we did not offer.
    #[error("the server uses an extension that we did not offer (RFC 6455 4.1)")]
    NotOffered,
    /// A parameter that is not known, not well-formed, there twice, or has a value that it cannot have.
    #[error("the server's permessage-deflate has a parameter that is invalid (RFC 7692 7.1)")]
    InvalidParameter,
    /// The answer grants less than we asked for, or takes more.
    #[error("the server's permessage-deflate does not fit our offer (RFC 7692 7.1)")]
    NotHonoured,
}

/// The parameters of an offer or an answer (7.1).
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// `Some(None)`: without a value.
    client_max_window_bits: Option<Option<u8>>,
}

impl Parameters {
    fn parse(item: &str) -> Result<Self, Misfit> {
        let (name, parameters) = list::parameters(item);
        if name != NAME {
            return Err(Misfit::NotOffered);
        }
        let mut all = Self::default();
        for parameter in parameters {
            let list::Parameter { name, value } = parameter.map_err(|_| Misfit::InvalidParameter)?;
            let value = value.as_deref();
            let is_new = match name {
                "server_no_context_takeover" if value.is_none() => set(&mut all.server_no_context_takeover),
                "client_no_context_takeover" if value.is_none() => set(&mut all.client_no_context_takeover),
                "server_max_window_bits" => {
                    let bits = window_bits(value.unwrap_or_default())?;
                    all.server_max_window_bits.replace(bits).is_none()
                }
                "client_max_window_bits" => {
                    let bits = value.map(window_bits).transpose()?;
                    all.client_max_window_bits.replace(bits).is_none()
                }
                _ => false,
            };
            if !is_new {
                return Err(Misfit::InvalidParameter);
            }
        }
        Ok(all)
    }

    fn offered(settings: &Deflate) -> Self {
        let below_max = |wanted| Some(bits(wanted)).filter(|&bits| bits < BITS_MAX);
        Self {
            server_no_context_takeover: settings.server_no_context_takeover,
            client_no_context_takeover: settings.client_no_context_takeover,
            server_max_window_bits: below_max(settings.server_max_window_bits),
            client_max_window_bits: Some(below_max(settings.client_max_window_bits)),
        }
    }
}

impl Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        if self.server_no_context_takeover {
            f.write_str("; server_no_context_takeover")?;
        }
        if self.client_no_context_takeover {
            f.write_str("; client_no_context_takeover")?;
        }
        if let Some(bits) = self.server_max_window_bits {
            write!(f, "; server_max_window_bits={bits}")?;
        }
        match self.client_max_window_bits {
            Some(Some(bits)) => write!(f, "; client_max_window_bits={bits}"),
            Some(None) => f.write_str("; client_max_window_bits"),
            None => Ok(()),
        }
    }
}

const NAME: &str = "permessage-deflate";

/// Whether it was not set before.
fn set(flag: &mut bool) -> bool {
    !std::mem::replace(flag, true)
}

/// A decimal without leading zeros, 8–15 (7.1.2).
fn window_bits(value: &str) -> Result<u8, Misfit> {
    match value {
        "8" => Ok(8),
        "9" => Ok(9),
        "10" => Ok(10),
        "11" => Ok(11),
        "12" => Ok(12),
        "13" => Ok(13),
        "14" => Ok(14),
        "15" => Ok(15),
        _ => Err(Misfit::InvalidParameter),
    }
}

fn bits(wanted: u8) -> u8 {
    wanted.clamp(BITS_MIN, BITS_MAX)
}

const BITS_MIN: u8 = 8;
const BITS_MAX: u8 = 15;

#[cfg(all(test, feature = "deflate"))]
mod tests {
    use super::*;

    fn takeover() -> Deflate {
        Deflate { server_no_context_takeover: false, client_no_context_takeover: false, ..Deflate::default() }
    }

    fn accepted(settings: &Deflate, offers: &str) -> Option<String> {
        accept(settings, list::items(offers.as_bytes())).map(|(_, answer)| answer)
    }

    #[test]
    fn the_first_offer_that_can_be_honoured_is_taken() {
        for (offers, answer) in [
            // The examples of 7.1.3.
            ("permessage-deflate", "permessage-deflate"),
            (
                "permessage-deflate; client_max_window_bits; server_max_window_bits=10",
                "permessage-deflate; server_max_window_bits=10",
            ),
            (
                "permessage-deflate; client_max_window_bits; server_max_window_bits=10, \
                 permessage-deflate; client_max_window_bits",
                "permessage-deflate; server_max_window_bits=10",
            ),
            // What browsers send.
            ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
            ("x-webkit-deflate-frame, permessage-deflate", "permessage-deflate"),
            (
                "permessage-deflate;server_max_window_bits=\"9\"",
                "permessage-deflate; server_max_window_bits=9",
            ),
            ("permessage-deflate;server_max_window_bits=15", "permessage-deflate; server_max_window_bits=15"),
            ("permessage-deflate;client_max_window_bits=15", "permessage-deflate"),
            ("permessage-deflate;client_max_window_bits=8", "permessage-deflate; client_max_window_bits=8"),
            (
                "permessage-deflate;client_no_context_takeover;server_no_context_takeover",
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            ),
            (
                "permessage-deflate; mode=turbo, permessage-deflate; server_max_window_bits=12",
                "permessage-deflate; server_max_window_bits=12",
            ),
        ] {
            assert_eq!(accepted(&takeover(), offers).as_deref(), Some(answer), "{offers}");
        }
    }

    #[test]
    fn an_offer_with_anything_wrong_is_declined() {
        for parameter in [
            "mode",
            "server_no_context_takeover=1",
            "client_no_context_takeover=\"\"",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover; client_no_context_takeover",
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=08",
            "server_max_window_bits=+9",
            "server_max_window_bits=\"9 \"",
            "server_max_window_bits=",
            "server_max_window_bits=9; server_max_window_bits=9",
            "client_max_window_bits=0",
            "client_max_window_bits=010",
            "client_max_window_bits=256",
            "client_max_window_bits=1000000000000000000000",
            "client_max_window_bits; client_max_window_bits=9",
            "Server_max_window_bits=9",
            "",
        ] {
            let bad = format!("permessage-deflate; {parameter}");
            assert_eq!(accepted(&takeover(), &bad), None, "{bad}");
            let with_fall_back = format!("{bad}, permessage-deflate; client_no_context_takeover");
            let answer = "permessage-deflate; client_no_context_takeover";
            assert_eq!(accepted(&takeover(), &with_fall_back).as_deref(), Some(answer), "{bad}");
        }
        for other in ["", "permessage-bzip2", "permessage_deflate", "permessage-deflate2"] {
            assert_eq!(accepted(&takeover(), other), None, "{other}");
        }
    }

    #[test]
    fn the_server_asks_for_what_it_wants_and_the_client_can_do() {
        let small = Deflate { server_max_window_bits: 10, client_max_window_bits: 11, ..Deflate::default() };
        let both = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        for (offer, answer, (server, client)) in [
            ("permessage-deflate", "; server_max_window_bits=10", (10, 15)),
            (
                "permessage-deflate; client_max_window_bits",
                "; server_max_window_bits=10; client_max_window_bits=11",
                (10, 11),
            ),
            (
                "permessage-deflate; client_max_window_bits=9; server_max_window_bits=8",
                "; server_max_window_bits=8; client_max_window_bits=9",
                (8, 9),
            ),
        ] {
            let (agreed, value) = accept(&small, [offer]).unwrap();
            assert_eq!(value, format!("{both}{answer}"), "{offer}");
            assert_eq!((agreed.server_max_window_bits, agreed.client_max_window_bits), (server, client));
            assert!(agreed.server_no_context_takeover && agreed.client_no_context_takeover);
        }
    }

    #[test]
    fn the_client_takes_no_answer_that_does_not_fit_its_offer() {
        let small = Deflate { server_max_window_bits: 10, client_max_window_bits: 11, ..Deflate::default() };
        for (settings, answer, expected) in [
            (&takeover(), "permessage-deflate", Ok((15, 15))),
            (
                &takeover(),
                "permessage-deflate; server_max_window_bits=8; client_max_window_bits=9",
                Ok((8, 9)),
            ),
            (&takeover(), "permessage-deflate; client_max_window_bits", Err(Misfit::InvalidParameter)),
            (&takeover(), "permessage-deflate; mode", Err(Misfit::InvalidParameter)),
            (&takeover(), "permessage-bzip2", Err(Misfit::NotOffered)),
            (&takeover(), "permessage-deflate, permessage-deflate", Err(Misfit::NotOffered)),
            (&small, "permessage-deflate", Err(Misfit::NotHonoured)),
            (&small, "permessage-deflate; server_no_context_takeover", Err(Misfit::NotHonoured)),
            (
                &small,
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=11",
                Err(Misfit::NotHonoured),
            ),
            (
                &small,
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=10; \
                 client_max_window_bits=12",
                Err(Misfit::NotHonoured),
            ),
            (
                &small,
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=10",
                Ok((10, 11)),
            ),
        ] {
            let agreed = agree(settings, list::items(answer.as_bytes()));
            let found = agreed.map(|agreed| {
                agreed.map(|agreed| (agreed.server_max_window_bits, agreed.client_max_window_bits)).unwrap()
            });
            assert_eq!(found, expected, "{answer}");
        }
        assert_eq!(agree(&small, []), Ok(None));
    }

    #[test]
    fn what_our_server_answers_to_our_client_is_agreed_on_both_sides() {
        let mut all = Vec::new();
        for server_max_window_bits in [0, 8, 9, 12, 15, 99] {
            for client_max_window_bits in [8, 10, 15] {
                for flags in 0..4 {
                    all.push(Deflate {
                        server_no_context_takeover: flags & 1 != 0,
                        client_no_context_takeover: flags & 2 != 0,
                        server_max_window_bits,
                        client_max_window_bits,
                        ..Deflate::default()
                    });
                }
            }
        }
        for client in &all {
            for server in &all {
                let (agreed, answer) = accept(server, [&*offer(client).unwrap()]).unwrap();
                assert_eq!(agree(client, [&*answer]), Ok(Some(agreed)), "{client:?} {server:?} {answer}");
            }
        }
    }
}
