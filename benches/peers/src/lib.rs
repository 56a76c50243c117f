//! What the servers and the clients of this crate share.

pub mod client;
pub mod process;

use std::{env, future::Future, net::Ipv4Addr};

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};
use tokio::net::{TcpListener, TcpStream};

/// The port that the command line names.
pub fn port() -> u16 {
    let port = env::args().nth(1).and_then(|port| port.parse().ok());
    port.expect("the only argument is a port")
}

/// Runs a server on one thread: a task for each connection. How a connection ends is its own affair.
pub fn serve<F: Future<Output: Send> + Send + 'static>(connection: impl Fn(TcpStream) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port())).await.expect("a port that is free");
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            // The one thing that the documented examples do not all do. Without it a burst waits for an ACK.
            let _ = stream.set_nodelay(true);
            tokio::spawn(connection(stream));
        }
    });
}

/// What proves that a server has read the key (RFC 6455 4.2.2).
pub fn accept(key: &[u8]) -> String {
    let digest = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest.finalize())
}

/// The value of a field in a head, without the rules of HTTP.
pub fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (start, value) = line.split_at_checked(name.len() + 1)?;
        let is_it = start.ends_with(b":") && start[..name.len()].eq_ignore_ascii_case(name.as_bytes());
        is_it.then(|| value.trim_ascii())
    })
}

/// The length of a head that stands whole at the start of `bytes`.
pub fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_is_that_of_rfc_6455_1_3() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        let head = b"GET / HTTP/1.1\r\nsec-websocket-KEY:  abc \r\nX: y\r\n\r\nmore";
        assert_eq!(field(head, "Sec-WebSocket-Key"), Some(&b"abc"[..]));
        assert_eq!(field(head, "Sec-WebSocket"), None);
        assert_eq!(head_length(head), Some(head.len() - 4));
        assert_eq!(head_length(&head[..20]), None);
    }
}
