//! One end of TLS without I/O: what has arrived in, data out, and what is to be sent; in either role.
//!
//! It keeps no buffers of records: what it is given lies with the caller, and what is left of it is the beginning of one
//! record, so an idle session has its keys and little else.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, CommonState, Error, ServerConfig,
    client::UnbufferedClientConnection,
    pki_types::ServerName,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

/// One end of a connection.
pub(super) struct Session {
    role: Role,
    /// What has arrived of a record, or of a message of the handshake, that is not whole.
    partial: Vec<u8>,
    /// Data that was decrypted and not taken; of it, `taken` bytes were.
    data: Vec<u8>,
    taken: usize,
    end: Option<End>,
    /// Bytes that have arrived since the last of them that was data.
    barren: usize,
    is_closed: bool,
}

enum Role {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// Why nothing more will arrive.
enum End {
    /// The peer has said so: close_notify.
    Clean,
    /// The transport has ended without a word, so something may be missing (RFC 8446 6.1).
    Truncated,
    /// The transport failed.
    Io(io::ErrorKind),
    /// The peer broke TLS, or we cannot speak with it.
    Tls(Error),
}

/// Records that are to be sent.
#[derive(Default)]
pub(super) struct Sealed {
    bytes: Vec<u8>,
    len: usize,
}

impl Sealed {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Room for at least so many bytes. They stay as they were, so that nobody has to clear them.
    fn room(&mut self, size: usize) -> &mut [u8] {
        if self.bytes.len() < self.len + size {
            self.bytes.resize(self.len + size, 0);
        }
        &mut self.bytes[self.len..]
    }
}

/// What is asked of the session.
enum Order<'a> {
    Receive { into: &'a mut Vec<u8>, rest: &'a mut Vec<u8> },
    Seal(&'a [u8]),
    Close,
}

enum Step {
    /// Something was done; there may be more.
    Again,
    /// It is done, as far as it can be.
    Done,
    /// The peer has closed its side.
    PeerClosed,
}

impl Session {
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::new(Role::Server(UnbufferedServerConnection::new(config)?)))
    }

    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Self, Error> {
        Ok(Self::new(Role::Client(UnbufferedClientConnection::new_with_alpn(config, name, alpn)?)))
    }

    fn new(role: Role) -> Self {
        Self { role, partial: Vec::new(), data: Vec::new(), taken: 0, end: None, barren: 0, is_closed: false }
    }

    /// What the two sides have agreed upon.
    pub(super) fn state(&self) -> &CommonState {
        match &self.role {
            Role::Server(server) => server,
            Role::Client(client) => client,
        }
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self.role, Role::Server(_))
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Whether [`take`](Self::take) has something to give, be it the end.
    pub(super) fn has_something(&self) -> bool {
        self.end.is_some() || !self.data.is_empty()
    }

    /// What has arrived of something that is not whole: it belongs before what is [received](Self::receive) next.
    pub(super) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Appends data to `into`, at most its spare capacity. `Ok(0)` is the end, `None` asks for more from the peer.
    pub(super) fn take(&mut self, into: &mut Vec<u8>) -> Option<io::Result<usize>> {
        if !self.data.is_empty() {
            let rest = &self.data[self.taken..];
            let count = rest.len().min(into.capacity() - into.len());
            into.extend_from_slice(&rest[..count]);
            self.taken += count;
            if self.taken == self.data.len() {
                (self.data, self.taken) = (Vec::new(), 0);
            }
            return Some(Ok(count));
        }
        self.end.as_ref().map(|end| match end {
            End::Clean => Ok(0),
            End::Truncated => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer left without close_notify"))
            }
            End::Io(kind) => Err((*kind).into()),
            End::Tls(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error.clone())),
        })
    }

    /// What the handshake has failed with.
    pub(super) fn fault(&self) -> Option<Error> {
        match &self.end {
            Some(End::Tls(error)) => Some(error.clone()),
            _ => None,
        }
    }

    /// Takes in what has arrived, behind what was [partial](Self::partial), and appends data to `into`; what does not fit
    /// there is kept.
    pub(super) fn receive(&mut self, arrived: &mut [u8], into: &mut Vec<u8>, sealed: &mut Sealed) {
        let before = into.len();
        self.barren += arrived.len() - self.partial.len();
        let mut rest = std::mem::take(&mut self.data);
        let used = self.work(arrived, Order::Receive { into, rest: &mut rest }, sealed);
        self.data = rest;
        // What comes after the end is nobody's.
        self.partial = if self.end.is_some() { Vec::new() } else { arrived[used..].to_vec() };
        if into.len() > before || !self.data.is_empty() {
            self.barren = 0;
        }
        if self.end.is_none() && (self.barren > BARREN_MAX || self.partial.len() > PARTIAL_MAX) {
            self.end = Some(End::Tls(Error::General("much arrives, and none of it is data".into())));
        }
    }

    /// The transport has ended, or failed.
    pub(super) fn ends(&mut self, kind: Option<io::ErrorKind>) {
        self.partial = Vec::new();
        self.end.get_or_insert(kind.map_or(End::Truncated, End::Io));
    }

    /// Begins the handshake, in the client's role; a server has nothing to say yet.
    pub(super) fn begin(&mut self, sealed: &mut Sealed) {
        self.receive(&mut [], &mut Vec::new(), sealed);
    }

    /// Encrypts data.
    pub(super) fn seal(&mut self, data: &[u8], sealed: &mut Sealed) -> io::Result<()> {
        let failed = matches!(self.end, Some(End::Io(_) | End::Tls(_)));
        if self.is_closed || failed || self.is_handshaking() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let before = sealed.len;
        self.work_on_partial(Order::Seal(data), sealed);
        // Keys that are used up are the one thing that stands in the way (RFC 8446 5.5).
        if sealed.len == before { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    /// Says that nothing more will be sent.
    pub(super) fn close(&mut self, sealed: &mut Sealed) {
        if !self.is_closed && !self.is_handshaking() && self.fault().is_none() {
            self.work_on_partial(Order::Close, sealed);
        }
        self.is_closed = true;
    }

    fn work_on_partial(&mut self, order: Order<'_>, sealed: &mut Sealed) {
        let mut partial = std::mem::take(&mut self.partial);
        let used = self.work(&mut partial, order, sealed);
        partial.drain(..used);
        self.partial = partial;
    }

    /// Does what can be done with what has arrived, and says how much of it was used.
    fn work(&mut self, arrived: &mut [u8], mut order: Order<'_>, sealed: &mut Sealed) -> usize {
        let mut used = 0;
        loop {
            let (discard, step) = self.step(&mut arrived[used..], &mut order, sealed);
            used += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Done) => return used,
                Ok(Step::PeerClosed) => {
                    self.end.get_or_insert(End::Clean);
                }
                Err(error) => {
                    self.end.get_or_insert(End::Tls(error));
                    // Nothing is looked at any more; but the alert, that tells the peer why, goes out.
                    while self.state().wants_write() {
                        let (_, step) = self.step(&mut [], &mut order, sealed);
                        debug_assert!(step.is_ok(), "what is to be sent comes before what has arrived");
                    }
                    return used;
                }
            }
        }
    }

    fn step(
        &mut self,
        arrived: &mut [u8],
        order: &mut Order<'_>,
        sealed: &mut Sealed,
    ) -> (usize, Result<Step, Error>) {
        match &mut self.role {
            Role::Server(server) => step(server.process_tls_records(arrived), order, sealed),
            Role::Client(client) => step(client.process_tls_records(arrived), order, sealed),
        }
    }
}

/// One step of the state machine, in either role.
fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    order: &mut Order<'_>,
    sealed: &mut Sealed,
) -> (usize, Result<Step, Error>) {
    let mut discard = status.discard;
    let state = match status.state {
        Ok(state) => state,
        Err(error) => return (discard, Err(error)),
    };
    let step = match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = match record {
                    Ok(record) => record,
                    Err(error) => return (discard, Err(error)),
                };
                discard += record.discard;
                // Nothing is decrypted for who does not receive, as all that is whole was decrypted before.
                if let Order::Receive { into, rest } = order {
                    let count = match rest.is_empty() {
                        true => record.payload.len().min(into.capacity() - into.len()),
                        false => 0,
                    };
                    into.extend_from_slice(&record.payload[..count]);
                    rest.extend_from_slice(&record.payload[count..]);
                }
            }
            Step::Again
        }
        ConnectionState::EncodeTlsData(mut message) => {
            let mut size = 0;
            loop {
                match message.encode(sealed.room(size)) {
                    Ok(count) => {
                        sealed.len += count;
                        break Step::Again;
                    }
                    Err(EncodeError::InsufficientSize(insufficient)) => size = insufficient.required_size,
                    Err(EncodeError::AlreadyEncoded) => break Step::Again,
                }
            }
        }
        ConnectionState::TransmitTlsData(transmit) => {
            transmit.done(); // what is sealed goes out before anything that comes later
            Step::Again
        }
        ConnectionState::WriteTraffic(mut traffic) => {
            let mut size = match order {
                Order::Receive { .. } => 0,
                Order::Seal(data) => data.len() + (data.len() / RECORD_MAX + 1) * OVERHEAD,
                Order::Close => OVERHEAD,
            };
            loop {
                let room = sealed.room(size);
                let result = match order {
                    Order::Receive { .. } => Ok(0),
                    Order::Seal(data) => traffic.encrypt(data, room),
                    Order::Close => traffic.queue_close_notify(room),
                };
                match result {
                    Ok(count) => sealed.len += count,
                    Err(EncryptError::InsufficientSize(insufficient)) => {
                        size = insufficient.required_size;
                        continue;
                    }
                    Err(EncryptError::EncryptExhausted) => {}
                }
                break Step::Done;
            }
        }
        ConnectionState::PeerClosed => Step::PeerClosed,
        ConnectionState::Closed | ConnectionState::BlockedHandshake => Step::Done,
        // Early data is never accepted, for it can be replayed (RFC 8446 8).
        _ => Step::Done,
    };
    (discard, Ok(step))
}

/// The longest record's data (RFC 8446 5.1).
pub(super) const RECORD_MAX: usize = 16 << 10;
/// What a record is longer than its data, at most: header, nonce, type, tag.
const OVERHEAD: usize = 64;
/// The longest message of a handshake that is put together, such as a chain of certificates.
const PARTIAL_MAX: usize = 64 << 10;
/// What may arrive in one go that is no data: the handshake, tickets, updates of keys; but not empty records for ever.
const BARREN_MAX: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{ClientSettings, Connector, Identity, Settings, Trust, acceptor::Acceptor};

    /// SplitMix64.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            ((z ^ (z >> 27)) % limit.max(1) as u64) as usize
        }
    }

    struct End(Session, Vec<u8>);

    impl End {
        /// Takes what the other end has sent, in pieces, and gives what it answers.
        fn hear(&mut self, bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
            let mut answer = Vec::new();
            let mut rest = bytes;
            while !rest.is_empty() && self.0.end.is_none() {
                let (piece, behind) = rest.split_at(1 + dice.below(rest.len()));
                rest = behind;
                let mut arrived = [self.0.partial(), piece].concat();
                let mut sealed = Sealed::default();
                let mut into = Vec::with_capacity(dice.below(3000));
                self.0.receive(&mut arrived, &mut into, &mut sealed);
                self.1.extend(into);
                answer.extend_from_slice(sealed.bytes());
                let mut more = Vec::with_capacity(100_000);
                while let Some(Ok(1..)) = self.0.take(&mut more) {}
                self.1.extend(more);
            }
            answer
        }

        fn say(&mut self, data: &[u8]) -> Vec<u8> {
            let mut sealed = Sealed::default();
            drop(self.0.seal(data, &mut sealed));
            sealed.bytes().to_vec()
        }
    }

    fn talk(seed: u64, damage: usize, server: &Acceptor, client: &Connector) -> (End, End) {
        let mut dice = Dice(seed);
        let name = ServerName::try_from("localhost").unwrap();
        let (mut server, mut client) = (
            End(Session::server(server.config()).unwrap(), Vec::new()),
            End(Session::client(client.config(), name, Vec::new()).unwrap(), Vec::new()),
        );
        let mut sealed = Sealed::default();
        client.0.begin(&mut sealed);
        let mut to_server = sealed.bytes().to_vec();
        for round in 0..12 {
            // Now and then a byte is another, or is missing.
            if damage > 0 && dice.below(damage) == 0 && !to_server.is_empty() {
                let place = dice.below(to_server.len());
                match dice.below(2) {
                    0 => to_server[place] ^= 1 << dice.below(8),
                    _ => drop(to_server.remove(place)),
                }
            }
            let mut to_client = server.hear(&to_server, &mut dice);
            if round >= 4 {
                to_client.extend(server.say(&[round; 5000]));
            }
            to_server = client.hear(&to_client, &mut dice);
            if round >= 4 {
                to_server.extend(client.say(&[round; 20_000]));
            }
        }
        server.hear(&to_server, &mut dice);
        for end in [&mut server, &mut client] {
            let mut sealed = Sealed::default();
            end.0.close(&mut sealed);
            assert!(end.0.seal(b"after the end", &mut sealed).is_err());
        }
        (server, client)
    }

    #[test]
    fn damage_ends_a_session_and_nothing_else() {
        let identity = Identity::self_signed(&["localhost".into()]).unwrap();
        let trust = Trust::Authorities(identity.chain.clone());
        let server = Acceptor::new(Settings::from(identity)).unwrap();
        let client = Connector::new(&ClientSettings { trust, ..ClientSettings::default() }).unwrap();
        let all = |rounds: usize, size: usize| -> Vec<u8> {
            (4..4 + rounds).flat_map(|round| vec![round as u8; size]).collect()
        };
        for seed in 0..10 {
            let (server, client) = talk(seed, 0, &server, &client);
            assert!(server.1 == all(8, 20_000) && client.1 == all(8, 5000), "seed {seed}");
        }
        let mut ended = 0;
        for seed in 0..300 {
            let (server, client) = talk(seed, 1 + seed as usize % 8, &server, &client);
            // What has come is a beginning of what was sent.
            assert!(
                all(8, 20_000).starts_with(&server.1) && all(8, 5000).starts_with(&client.1),
                "seed {seed}"
            );
            ended += usize::from(server.0.fault().is_some() || client.0.fault().is_some());
        }
        assert!(ended > 150, "{ended}");
    }
}
