//! What the server said then, and what it says now. That the clock has gone on is no difference, nor is a proof that fits
//! the key.

use switchpoint::ws::{Header, Opcode, accept_key};

use crate::cli::connect::show::{excerpt, printable};

/// A response's head, and what came behind it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    fields: Vec<(String, String)>,
}

impl Answer {
    /// The last response in `bytes` that is not interim, and where it ends; `None` if there is no whole one.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let mut at = 0;
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 128];
            let mut head = httparse::Response::new(&mut fields);
            let size = match head.parse(&bytes[at..]) {
                Ok(httparse::Status::Complete(size)) => size,
                Ok(httparse::Status::Partial) if bytes.len() - at > HEAD_MAX => {
                    return Err("its head has no end".into());
                }
                Ok(httparse::Status::Partial) => return Ok(None),
                Err(error) => return Err(format!("its answer is no HTTP/1.1: {error}")),
            };
            at += size;
            let status = head.code.unwrap_or_default();
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let field = |field: &httparse::Header<'_>| {
                (field.name.to_owned(), printable(&String::from_utf8_lossy(field.value)))
            };
            return Ok(Some((Self { status, fields: head.headers.iter().map(field).collect() }, at)));
        }
    }

    /// The length of the body, if it says so.
    pub(super) fn body_length(&self) -> Option<usize> {
        self.values("content-length").first()?.parse().ok()
    }

    fn values(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// What differs from what was recorded. `request` has the key that the proof belongs to.
    pub(super) fn differences(&self, now: &Self, request: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        if self.status != now.status {
            found.push(format!("status: recorded {}, now {}", self.status, now.status));
        }
        let mut names: Vec<String> = Vec::new();
        for (name, _) in self.fields.iter().chain(&now.fields) {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name.clone());
            }
        }
        for name in names {
            let (then, now) = (self.values(&name), now.values(&name));
            match &*name.to_ascii_lowercase() {
                "date" => {}
                "sec-websocket-accept" if !now.is_empty() && now == proofs(request) => {}
                _ if then == now => {}
                _ => found.push(format!("field {name}: recorded {}, now {}", list(&then), list(&now))),
            }
        }
        found
    }
}

/// No head is longer.
const HEAD_MAX: usize = 64 << 10;

fn list(values: &[&str]) -> String {
    if values.is_empty() { "none".into() } else { format!("{:?}", values.join(", ")) }
}

/// The proof for each key in a request; there should be one.
fn proofs(request: &[u8]) -> Vec<String> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut head = httparse::Request::new(&mut fields);
    if head.parse(request).is_err() {
        return Vec::new();
    }
    let keys = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("sec-websocket-key"));
    keys.map(|key| String::from_utf8_lossy(&accept_key(key.value.trim_ascii())).into_owned()).collect()
}

/// A frame of a server.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    first: u8,
    /// As much of it as is known.
    payload: Vec<u8>,
    length: u64,
}

impl Frame {
    /// The first frame in `bytes`, and its size; `None` if it is not whole.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let Some((header, size)) = Header::decode(bytes).map_err(|fault| fault.to_string())? else {
            return Ok(None);
        };
        if header.length > FRAME_MAX {
            return Err(format!("a frame of {} bytes is longer than is taken here", header.length));
        }
        let end = size + header.length as usize;
        if bytes.len() < end {
            return Ok(None);
        }
        let payload = bytes[size..end].to_owned();
        Ok(Some((Self { first: bytes[0], payload, length: header.length }, end)))
    }

    /// A recorded one, of which only the beginning may have been kept.
    pub(super) fn parse_beginning(bytes: &[u8]) -> Result<Option<Self>, String> {
        let Some((header, size)) = Header::decode(bytes).map_err(|fault| fault.to_string())? else {
            return Ok(None);
        };
        let payload = bytes[size..].to_owned();
        Ok(Some(Self { first: bytes[0], payload, length: header.length }))
    }

    /// Pings come with time, and not with what was said.
    pub(super) fn is_ping(&self) -> bool {
        self.first & 15 == 9
    }

    pub(super) fn is_close(&self) -> bool {
        self.first & 15 == 8
    }

    /// Whether it is the recorded one, as far as that is known.
    pub(super) fn is_as(&self, recorded: &Self) -> bool {
        self.first == recorded.first
            && self.length == recorded.length
            && self.payload.starts_with(&recorded.payload)
    }

    pub(super) fn describe(&self) -> String {
        let name = Opcode::new(self.first & 15).map_or("reserved", Opcode::name);
        let fin = if self.first & 0x80 == 0 { ", not the last" } else { "" };
        let rsv = if self.first & 0x40 != 0 { ", compressed" } else { "" };
        let shown = &self.payload[..self.payload.len().min(64)];
        let is_cut = (shown.len() as u64) < self.length;
        if self.is_close()
            && let [high, low, reason @ ..] = shown
        {
            let code = u16::from_be_bytes([*high, *low]);
            return format!("close {code} {}", excerpt(reason, is_cut));
        }
        format!("{name}{fin}{rsv}, {} bytes: {}", self.length, excerpt(shown, is_cut))
    }
}

/// The longest frame that is held.
const FRAME_MAX: u64 = 64 << 20;

/// What differs between the frames of then and now.
pub(super) fn frame_differences(then: &[Frame], now: &[Frame]) -> Vec<String> {
    let describe = |frame: Option<&Frame>| frame.map_or_else(|| "none".to_owned(), Frame::describe);
    (0..then.len().max(now.len()))
        .filter_map(|at| {
            let (then, now) = (then.get(at), now.get(at));
            let is_same = then.zip(now).is_some_and(|(then, now)| now.is_as(then));
            (!is_same)
                .then(|| format!("frame {}: recorded {}, now {}", at + 1, describe(then), describe(now)))
        })
        .collect()
}

/// The same for bytes that are no frames.
pub(super) fn byte_differences(what: &str, then: &[u8], now: &[u8]) -> Vec<String> {
    if then == now {
        return Vec::new();
    }
    let at = then.iter().zip(now).take_while(|(then, now)| then == now).count();
    let from = |bytes: &[u8]| {
        let rest = &bytes[at..];
        if rest.is_empty() {
            "the end".to_owned()
        } else {
            excerpt(&rest[..rest.len().min(64)], rest.len() > 64)
        }
    };
    vec![format!(
        "{what}, from byte {at} on: recorded {} ({} bytes in all), now {} ({})",
        from(then),
        then.len(),
        from(now),
        now.len()
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] =
        b"GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    const ANSWER: &str = "HTTP/1.1 101 x\r\nDate: then\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    fn answer(text: &str) -> Answer {
        Answer::parse(text.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn the_date_and_a_right_proof_are_no_differences() {
        let old = answer(&ANSWER.replace("s3pP", "abcd").replace("then", "long ago"));
        assert_eq!(old.differences(&answer(ANSWER), REQUEST), Vec::<String>::new());
        let found = answer(ANSWER).differences(&old, REQUEST);
        assert!(found.len() == 1 && found[0].starts_with("field Sec-WebSocket-Accept"), "{found:?}");
    }

    #[test]
    fn status_and_fields_are_compared() {
        let now =
            answer("HTTP/1.1 100 x\r\n\r\nHTTP/1.1 403 x\r\nX-A: 1\r\nX-a: 2\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(
            answer(ANSWER).differences(&now, REQUEST),
            [
                "status: recorded 101, now 403",
                "field Sec-WebSocket-Accept: recorded \"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\", now none",
                "field X-A: recorded none, now \"1, 2\"",
            ]
        );
        assert!(Answer::parse(b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 403").unwrap().is_none());
        assert!(Answer::parse(b"SSH-2.0\r\n").is_err());
    }

    #[test]
    fn frames_are_compared_one_by_one() {
        let frames = |list: &[&[u8]]| -> Vec<Frame> {
            list.iter().map(|bytes| Frame::parse(bytes).unwrap().unwrap().0).collect()
        };
        let then = frames(&[b"\x81\x01a", b"\x81\x01b"]);
        assert_eq!(frame_differences(&then, &then), Vec::<String>::new());
        assert_eq!(
            frame_differences(&then, &frames(&[b"\x81\x01a", b"\x82\x01b", b"\x88\x02\x03\xe8"])),
            [
                "frame 2: recorded text, 1 bytes: \"b\", now binary, 1 bytes: \"b\"",
                "frame 3: recorded none, now close 1000 \"\"",
            ]
        );
        let long = [&[0x82, 126, 1, 0][..], &[7; 256]].concat();
        let beginning = Frame::parse_beginning(&long[..20]).unwrap().unwrap();
        assert_eq!(frame_differences(&[beginning], &frames(&[&long])), Vec::<String>::new());
    }

    #[test]
    fn bytes_are_compared_from_the_first_that_differs() {
        assert_eq!(byte_differences("data", b"abc", b"abc"), Vec::<String>::new());
        let found = byte_differences("data", b"abc", b"abX!");
        let expected = "data, from byte 2 on: recorded \"c\" (3 bytes in all), now \"X!\" (4)";
        assert_eq!(found, [expected]);
    }
}
