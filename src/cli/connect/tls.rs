//! TLS over a socket that does not block, by rustls.

use std::{
    io::{self, ErrorKind, Read, Write},
    time::Instant,
};

use rustix::event::PollFlags;
use rustls::ClientConnection;
use switchpoint::tls::Fault;

use super::{ending::Ending, stats::milliseconds, target::Dial, transport::Socket};

/// A session, its handshake done.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) session: ClientConnection,
    /// The version, and how long it took.
    pub(super) description: String,
}

impl Tls {
    /// A session for the URL's host, if it wants one.
    pub(super) fn prepare(dial: &Dial) -> Result<Option<ClientConnection>, Ending> {
        if !dial.url.url.is_secure() {
            return Ok(None);
        }
        let connector = dial.connector().map_err(|error| Ending::Usage(error.to_string()))?;
        connector.session(dial.url.url.host()).map(Some).map_err(|fault| Ending::Usage(fault.to_string()))
    }

    /// Shakes hands, before the deadline.
    pub(super) fn shake_hands(
        mut session: ClientConnection,
        mut socket: &Socket,
        dial: &Dial,
        deadline: Instant,
    ) -> Result<Self, Ending> {
        let begun = Instant::now();
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::TimedOut => Ending::TimedOut(format!(
                "the TLS handshake was not done within {}",
                humantime::format_duration(dial.timeout)
            )),
            _ => Ending::NoConnection(format!("the connection broke in the TLS handshake: {error}")),
        };
        while session.is_handshaking() || session.wants_write() {
            let (result, flags) = if session.wants_write() {
                (session.write_tls(&mut socket), PollFlags::OUT)
            } else {
                (session.read_tls(&mut socket), PollFlags::IN)
            };
            match result {
                Ok(0) if flags == PollFlags::IN => {
                    return Err(Ending::NoConnection(
                        "the server closed the connection in the TLS handshake; perhaps it speaks no TLS (ws://), or \
                         asks for a certificate (--cert)"
                            .into(),
                    ));
                }
                Ok(_) if flags == PollFlags::IN => {
                    if let Err(error) = session.process_new_packets() {
                        // The server is told why; it may not listen any more.
                        let _ = session.write_tls(&mut socket);
                        return Err(Ending::NoConnection(explain(Fault::Tls(error))));
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    socket.wait(flags, deadline).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
        let description =
            format!("{} in {}", version.replace("TLSv1_", "TLS 1."), milliseconds(begun.elapsed()));
        Ok(Self { session, description })
    }

    /// Reads what has been decrypted, and decrypts what has arrived. `Ok(0)` is the end.
    pub(super) fn read(&mut self, mut socket: &Socket, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(room) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Whether something is missing, the protocol inside tells.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            self.session.read_tls(&mut socket)?;
            self.session.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Takes what there is room for, if all before it was sent.
    pub(super) fn write(&mut self, socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        self.flush(socket)?;
        let count = self.session.writer().write(bytes)?;
        match self.flush(socket) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    pub(super) fn flush(&mut self, mut socket: &Socket) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut socket)?;
        }
        Ok(())
    }
}

/// A handshake that failed, and what may be done about it.
fn explain(fault: Fault) -> String {
    let cure = match fault.code() {
        "not-tls" => "the server speaks no TLS at this port: use ws:// instead of wss://",
        "certificate-untrusted" => {
            "name the authority that has signed it with --ca FILE; for a server of your own, --insecure believes anybody"
        }
        "certificate-expired" => "the server needs a new certificate; or this clock is wrong",
        "certificate-invalid" => {
            "the certificate is for another name: use that in the URL, and --connect-to for where it is"
        }
        "no-certificate" | "distrusted" | "alert" => {
            "the server may ask for a certificate, --cert and --key, or speak no version of TLS from 1.2 on"
        }
        _ => return fault.to_string(),
    };
    format!("{fault}\n  cure: {cure}")
}
