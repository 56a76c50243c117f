//! What peers say when nobody has touched it.

use switchpoint::{
    h2c::PREFACE,
    ws::{Opcode, write_frame},
};

use crate::random::Random;

fn all(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub(crate) fn requests() -> Vec<Vec<u8>> {
    let handshake = |fields: &str| {
        format!(
            "GET /echo HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
        )
    };
    let handshakes = [
        handshake(""),
        handshake("Origin: http://a.example\r\nSec-WebSocket-Protocol: v1, switchpoint.handshake\r\n"),
        handshake("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"),
        handshake("User-Agent: \"a, b\"\r\nExpect: 100-continue\r\n"),
    ];
    let mut requests = all(&handshakes.each_ref().map(String::as_str));
    requests.extend(all(&[
        "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, echo\r\nConnection: upgrade\r\n\r\nearly bytes",
        "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n",
        "GET /echo HTTP/1.0\r\nHost: a\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:80\r\nAccept: text/html;q=0.9, */*\r\n\r\n",
        "\r\nHEAD /healthz?a=b HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
        "GET /readyz HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
        "GET http://a.example/nowhere HTTP/1.1\r\nHost: b\r\nAccept: application/problem+json\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nTrailer: a\r\n\r\n",
    ]));
    requests
}

pub(crate) fn bodies() -> Vec<Vec<u8>> {
    all(&[
        "5\r\nhello\r\n0\r\n\r\n",
        "5 ;a=\"b;c\"\r\nhello\r\n00B\r\n, the world\r\n0\r\nA: b\r\nC:\r\n\r\nGET / HTTP/1.1\r\n",
        "1\r\na\r\n1\r\nb\r\n1;x\r\nc\r\n000\t;last\r\nA:\tb\r\n\r\n",
        "fF\r\n",
        "0\r\n\r\n",
    ])
}

pub(crate) fn lists() -> Vec<Vec<u8>> {
    let mut lists = offers();
    lists.extend(all(&[
        "upgrade, keep-alive",
        ",a , b;c=\"d, e\", f;g; h = i ;j",
        "a;b=\"\\\"\\\\;,\";c, \"never closed; a=b, c",
        "websocket/13, h2c, caf\u{e9}; n=\"\u{e9}\"",
    ]));
    lists
}

pub(crate) fn offers() -> Vec<Vec<u8>> {
    all(&[
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=9; server_max_window_bits=\"10\"",
        "x-webkit-deflate-frame, permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; mode=turbo, permessage-deflate; server_max_window_bits=15",
    ])
}

#[cfg(feature = "deflate")]
pub(crate) fn texts() -> Vec<Vec<u8>> {
    let mut texts = all(&[
        "",
        "Hello",
        "κόσμε 🦀, κόσμε 🦀, κόσμε 🦀",
        "{\"symbol\":\"ABC\",\"price\":12.34,\"currency\":\"CHF\"},{\"symbol\":\"XYZ\",\"price\":12.43}",
    ]);
    // The examples of RFC 7692 7.2.3, compressed already: a target may take them for either.
    texts.extend([
        b"\xf2\x48\xcd\xc9\xc9\x07\x00".to_vec(),
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00".to_vec(),
        b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00".to_vec(),
        b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00".to_vec(),
    ]);
    texts.push((0..600_u32).map(|place| ((place * place) >> 3) as u8).collect());
    texts
}

/// One header with its length in any form, fitting or not, and a few bytes behind it or too few of its own.
pub(crate) fn headers(random: &mut Random) -> Vec<u8> {
    let length = random.pick(&[0, 5, 125, 126, 127, 0xffff, 0x1_0000, u64::MAX >> 1, 1 << 63, u64::MAX]);
    let first = random.pick(&[0x81, 0x02, 0xc1, 0x80, 0x88, 0x89, random.clone().below(256) as u8]);
    let mask = random.pick(&[0, 0x80]);
    let mut bytes = match random.below(3) {
        0 => vec![first, mask | (length & 0x7f) as u8],
        1 => [&[first, mask | 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[first, mask | 127][..], &length.to_be_bytes()].concat(),
    };
    bytes.extend(random.bytes(9));
    bytes
}

/// A few messages with control frames between their fragments, for one role or the other, and then changed.
pub(crate) fn frames(random: &mut Random) -> Vec<u8> {
    let mask = random.pick(&[None, Some([0x37, 0xfa, 0x21, 0x3d])]);
    let text = "κόσμε 🦀 ".repeat(random.pick(&[1, 1, 20]));
    let mut bytes = Vec::new();
    for _ in 0..random.below(4) {
        let is_text = random.one_in(2);
        let payload = if is_text { text.clone().into_bytes() } else { random.bytes(300) };
        let mut opcode = if is_text { Opcode::Text } else { Opcode::Binary };
        for piece in random.pieces(&payload).into_iter().take(random.pick(&[1, 3, 9])) {
            write_frame(&mut bytes, false, opcode, piece, mask);
            opcode = Opcode::Continuation;
            if random.one_in(3) {
                let sign = random.pick(&[Opcode::Ping, Opcode::Pong]);
                write_frame(&mut bytes, true, sign, &random.bytes(126), mask);
            }
        }
        let last = if opcode == Opcode::Continuation { b"" } else { text.as_bytes() };
        write_frame(&mut bytes, true, opcode, last, mask);
    }
    if random.one_in(3) {
        let payload = random.pick(&[&b""[..], b"\x03\xe8", b"\x0f\xa0bye", b"\x03\xed", b"\x03"]);
        write_frame(&mut bytes, true, Opcode::Close, payload, mask);
    }
    for _ in 0..random.pick(&[0, 0, 1, 3]) {
        random.mutate(&mut bytes, &[]);
    }
    bytes
}

pub(crate) fn proxy_headers() -> Vec<Vec<u8>> {
    let version_2 = |command: u8, family: u8, rest: &[u8]| {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
    };
    vec![
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 0 65535\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN whatever stands here\r\n".to_vec(),
        version_2(0x21, 0x11, &[192, 0, 2, 1, 198, 51, 100, 7, 1, 2, 3, 4]),
        version_2(0x21, 0x21, &[7; 36 + 40]),
        version_2(0x21, 0x31, &[b'/'; 216]),
        version_2(0x20, 0x00, &[]),
    ]
}

/// A frame of HTTP/2.
fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [.., l0, l1, l2] = payload.len().to_be_bytes();
    [&[l0, l1, l2, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// Settings of every name, with values inside and outside of their bounds.
fn settings(random: &mut Random) -> Vec<u8> {
    let values = [0, 1, 100, 0x3fff, 0x4000, 0xffff, 0xff_ffff, 1 << 24, (1 << 31) - 1, 1 << 31, u32::MAX];
    let mut settings = Vec::new();
    for _ in 0..random.pick(&[0, 1, 1, 2, 2, 3, 64, 65]) {
        let name = random.pick(&[1, 3, 3, 3, 6, 2, 4, 5, 8, 0x99_u16]);
        let is_any = random.one_in(16);
        let value: u32 = match name {
            _ if is_any => random.pick(&values),
            2 | 8 => random.pick(&[0, 1]),
            5 => random.pick(&[0x4000, 0xff_ffff]),
            4 => random.pick(&[0, 65_535, (1 << 31) - 1]),
            _ => random.pick(&values),
        };
        settings.extend([&name.to_be_bytes()[..], &value.to_be_bytes()].concat());
    }
    settings
}

/// What real clients send in `HTTP2-Settings`, and values made up.
pub(crate) fn settings_fields(random: &mut Random) -> Vec<u8> {
    use base64::{
        Engine,
        engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
    };
    let real = all(&[
        "AAMAAABkAAQAAQAAAAIAAAAA",
        "AAMAAABkAAQAAP__",
        "AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA",
    ]);
    let mut payload = settings(random);
    if random.one_in(8) {
        payload.extend(random.bytes(12));
    }
    let mut value = match random.below(4) {
        0 => random.pick(&real),
        1 => URL_SAFE.encode(payload).into_bytes(),
        _ => URL_SAFE_NO_PAD.encode(payload).into_bytes(),
    };
    for _ in 0..random.pick(&[0, 0, 1, 2]) {
        match random.below(3) {
            0 => value.extend(random.pick(&[&b"="[..], b"==", b"A", b"_w"])),
            _ => random.mutate(&mut value, &real),
        }
    }
    value
}

/// A client's preface, and what may stand behind it.
pub(crate) fn prefaces(random: &mut Random) -> Vec<u8> {
    let (flags, stream) = (random.pick(&[0, 0, 0, 0xfe, 1]), random.pick(&[0, 0, 0, 1 << 31, 1]));
    let mut bytes = [&PREFACE[..], &http2_frame(4, flags, stream, &settings(random))].concat();
    match random.below(4) {
        0 => bytes.extend(http2_frames(random)),
        1 => bytes.truncate(random.below(bytes.len() + 1)),
        2 => random.mutate(&mut bytes, &[]),
        _ => {}
    }
    bytes
}

/// SETTINGS, and then requests with their bodies, sessions, and frames that cost nothing.
pub(crate) fn http2_frames(random: &mut Random) -> Vec<u8> {
    let mut bytes = http2_frame(4, 0, 0, &settings(random));
    let heads = [
        &b"\x82\x86\x84\x41\x01a"[..],                          // GET /
        b"\x82\x86\x44\x08/healthz\x41\x01a",                  // by the dynamic table from then on
        b"\x83\x86\x04\x0a/echo-body\x01\x01a",                // POST
        b"\x02\x07CONNECT\x86\x04\x05/echo\x01\x01a\x00\x09:protocol\x04echo",
        b"\x02\x07CONNECT\x86\x04\x05/echo\x01\x01a\x00\x09:protocol\x09websocket\x00\x15sec-websocket-version\x0213",
    ];
    let mut last = 1;
    for _ in 0..random.below(12) {
        let head = random.pick(&heads);
        match random.below(11) {
            0..=3 => {
                bytes.extend(http2_frame(1, random.pick(&[4, 5, 5]), last, head));
                last += 2;
            }
            4 => {
                let (start, end) = head.split_at(random.below(head.len()));
                bytes.extend([http2_frame(1, 1, last, start), http2_frame(9, 4, last, end)].concat());
                last += 2;
            }
            5 | 6 => bytes.extend(http2_frame(0, random.pick(&[0, 1]), last.max(3) - 2, &random.bytes(300))),
            7 => {
                let reset = http2_frame(3, 0, last.max(3) - 2, &[0, 0, 0, 8]);
                bytes.extend(reset.repeat(random.pick(&[1, 1, 12])));
            }
            8 => bytes.extend(http2_frame(8, 0, random.pick(&[0, last.max(3) - 2]), &[0, 0, 4, 0])),
            9 => bytes.extend(http2_frame(7, 0, 0, &[0; 8])),
            _ => {
                let free = random.pick(&[(2, 5), (4, 0), (6, 8), (0x99, 3)]);
                let count = random.pick(&[1, 2, 5, 12]);
                let stream = if free.0 == 2 { 1001 } else { 0 };
                bytes.extend(http2_frame(free.0, 0, stream, &[0; 8][..free.1]).repeat(count));
            }
        }
    }
    for _ in 0..random.pick(&[0, 0, 0, 1, 3]) {
        random.mutate(&mut bytes, &[]);
    }
    bytes
}
