//! Request heads: what a handshake costs before anybody has decided anything.
//!
//! `cargo bench --bench head`.

use divan::Bencher;
use switchpoint::http::{Head, HeadScanner, Limits};

fn main() {
    divan::main();
}

const CHROMIUM: &[u8] = b"GET /echo HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: Upgrade\r\nPragma: no-cache\r\n\
    Cache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\n\
    Upgrade: websocket\r\nOrigin: http://127.0.0.1:8080\r\nSec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

const SHORTEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[divan::bench(args = [SHORTEST.len(), CHROMIUM.len()])]
fn find_and_parse(bencher: Bencher<'_, '_>, length: usize) {
    let bytes = if length == SHORTEST.len() { SHORTEST } else { CHROMIUM };
    let limits = Limits::default();
    bencher.bench_local(|| {
        let bytes = divan::black_box(bytes);
        let end = HeadScanner::default().find(bytes, &limits).unwrap().unwrap();
        let head = Head::parse(&bytes[..end], &limits).unwrap();
        assert!(head.fields.has_token("connection", "upgrade"));
        assert_eq!(head.method, "GET");
    });
}
