//! Addresses that are bound: the sockets of each, whose they are, and the file that a Unix socket leaves.
//!
//! TCP has a socket for each worker, and the kernel spreads connections over them. Of a Unix socket, or one that was
//! inherited, there is only one: all workers wait for it, and the first to accept has the connection.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rustix::{
    fs::Mode,
    net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{Address, inherited};

/// An address that is listened on.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) place: Place,
    sockets: Vec<Arc<OwnedFd>>,
    workers: usize,
    /// How many workers accept from each of them no more.
    left: Vec<AtomicUsize>,
    /// Whether others have the sockets as well, so that their end is not ours to make.
    is_inherited: bool,
    is_handed_over: AtomicBool,
    file: Option<SocketFile>,
}

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Place {
    fn is_that_of(&self, address: &Address) -> bool {
        match (self, address) {
            (Self::Tcp(bound), Address::Tcp(address)) => {
                bound.ip() == address.ip() && [0, bound.port()].contains(&address.port())
            }
            (Self::Unix(bound), Address::Unix { path, .. }) => bound == path,
            _ => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Bound {
    /// Listens on `address`, for so many workers.
    pub(crate) fn new(address: &Address, workers: usize) -> io::Result<Self> {
        let mut file = None;
        let (place, sockets) = match address {
            Address::Tcp(address) => {
                let (bound, sockets) = tcp(*address, workers)?;
                (Place::Tcp(bound), sockets.into_iter().map(|socket| Arc::new(socket.into())).collect())
            }
            Address::Unix { path, mode } => {
                let socket = unix(path, *mode)?;
                file = Some(SocketFile::new(path)?);
                (Place::Unix(path.clone()), vec![Arc::new(socket.into())])
            }
            Address::Inherited(sockets) => (adopt(sockets)?, sockets.clone()),
        };
        let is_inherited = matches!(address, Address::Inherited(_));
        Ok(Self::with(place, sockets, workers, is_inherited, file))
    }

    /// Goes on with those of `passed` that listen on `address`, which another process has bound; `None` if there are none.
    pub(crate) fn take_over(
        address: &Address,
        workers: usize,
        passed: &mut Vec<OwnedFd>,
    ) -> io::Result<Option<Self>> {
        let mut place: Option<Place> = None;
        let mut sockets = Vec::new();
        for socket in std::mem::take(passed) {
            let socket = Arc::new(socket);
            let found = adopt(std::slice::from_ref(&socket))?;
            let is_wanted = match &place {
                Some(place) => *place == found,
                None => found.is_that_of(address),
            };
            if is_wanted {
                place = Some(found);
                sockets.push(socket);
            } else {
                passed.extend(Arc::into_inner(socket));
            }
        }
        let Some(place) = place else { return Ok(None) };
        let file = match address {
            Address::Unix { path, mode } => {
                fs::set_permissions(path, fs::Permissions::from_mode(*mode))?;
                Some(SocketFile::new(path)?)
            }
            _ => None,
        };
        Ok(Some(Self::with(place, sockets, workers, false, file)))
    }

    fn with(
        place: Place,
        sockets: Vec<Arc<OwnedFd>>,
        workers: usize,
        is_inherited: bool,
        file: Option<SocketFile>,
    ) -> Self {
        let left = sockets.iter().map(|_| AtomicUsize::new(0)).collect();
        Self { place, sockets, workers, left, is_inherited, is_handed_over: false.into(), file }
    }

    /// Which of the sockets a worker accepts from: one of its own where there are enough, else one that it shares.
    pub(crate) fn of_worker(&self, worker: usize) -> impl Iterator<Item = usize> {
        let (count, workers) = (self.sockets.len(), self.workers);
        let own = (0..count).filter(move |socket| socket % workers == worker);
        own.chain((worker >= count).then_some(worker % count.max(1)))
    }

    pub(crate) fn socket(&self, number: usize) -> &Arc<OwnedFd> {
        &self.sockets[number]
    }

    /// A worker accepts from this socket no more. After the last one who connects is refused, unless others go on with it.
    pub(crate) fn leave(&self, number: usize) {
        let left = self.left[number].fetch_add(1, Ordering::AcqRel) + 1;
        let users = (0..self.workers).filter(|worker| self.of_worker(*worker).any(|own| own == number));
        if left >= users.count() {
            self.end(number);
        }
    }

    fn end(&self, number: usize) {
        if !self.is_inherited && !self.is_handed_over.load(Ordering::Acquire) {
            if let Some(file) = &self.file {
                file.remove();
            }
            // It fails only where it was shut down before.
            let _ = rustix::net::shutdown(&self.sockets[number], Shutdown::Both);
        }
    }

    /// The sockets, for another process; none where others than this server have bound them.
    pub(crate) fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        if self.is_inherited {
            return Ok(Vec::new());
        }
        self.sockets.iter().map(|socket| socket.try_clone()).collect()
    }

    /// From now on the end of the sockets is not ours.
    pub(crate) fn hand_over(&self) {
        self.is_handed_over.store(true, Ordering::Release);
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        (0..self.sockets.len()).for_each(|number| self.end(number));
    }
}

/// Binds `address` once for each of `workers`, so that the kernel spreads connections over them.
///
/// The first socket is bound without SO_REUSEPORT: with it a second server would share the port without a word.
fn tcp(address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<Socket>)> {
    let first = tcp_socket(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let bound = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..workers {
        let next = tcp_socket(bound)?;
        next.set_reuse_port(true)?;
        next.bind(&bound.into())?;
        sockets.push(next);
    }
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    Ok((bound, sockets))
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // An accept must not wait: others may have been quicker.
    socket.set_nonblocking(true)?;
    // Each connection has it from its listener. Frames are written whole; waiting for more of them only costs latency.
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` can be listened on side by side.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// The kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Binds a Unix socket. Nobody can connect whom `mode` does not allow to, not even for a moment.
fn unix(path: &Path, mode: u32) -> io::Result<Socket> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    if mode & !0o777 != 0 {
        return Err(invalid("the mode of a socket is made of 0o777"));
    }
    let address = SockAddr::unix(path)
        .map_err(|_| invalid("the path is too long: a socket's has at most 107 bytes"))?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // The file is made with what the socket has of these, less the umask; so never with more.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Removes what a dead server has left at `path`, and nothing else.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.file_type().is_socket() {
        let message = "there is a file at this path, and it is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    // Not to wait where a live server's queue is full.
    let probe = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    let address = rustix::net::SocketAddrUnix::new(path)?;
    match rustix::net::connect(&probe, &address) {
        Err(rustix::io::Errno::CONNREFUSED) => fs::remove_file(path),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ACCESS) => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The file of a Unix socket. It is known by its number, which no other file has for as long as the socket is open: so
/// another server's is not taken for it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }

    fn remove(&self) {
        if let Ok(now) = fs::symlink_metadata(&self.path)
            && (now.dev(), now.ino()) == (self.device, self.inode)
        {
            // Where it is refused, the next server finds that nobody answers there.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Readies sockets that were bound by others, and tells where they are.
fn adopt(sockets: &[Arc<OwnedFd>]) -> io::Result<Place> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    for socket in sockets {
        inherited::check(socket)?;
        // An accept must not wait: others may have been quicker, in this process or elsewhere.
        rustix::io::ioctl_fionbio(socket, true)?;
        if sockopt::socket_domain(socket)? != AddressFamily::UNIX {
            sockopt::set_tcp_nodelay(socket, true)?;
        }
    }
    let first = sockets.first().ok_or_else(|| invalid("there is no socket"))?;
    let name = rustix::net::getsockname(first.as_fd())?;
    if let Ok(address) = SocketAddr::try_from(name.clone()) {
        return Ok(Place::Tcp(address));
    }
    let unix = rustix::net::SocketAddrUnix::try_from(name)?;
    let path = unix.path_bytes().map(|path| String::from_utf8_lossy(path).into_owned());
    Ok(Place::Unix(path.unwrap_or_else(|| "@".into()).into()))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
    };

    use super::*;

    fn places(bound: &Bound) -> Vec<Vec<usize>> {
        (0..bound.workers).map(|worker| bound.of_worker(worker).collect()).collect()
    }

    #[test]
    fn a_port_in_use_is_an_error_also_when_a_switchpoint_uses_it() {
        let (bound, sockets) = tcp("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(sockets.len(), 3);
        let _client = TcpStream::connect(bound).unwrap();
        let taken = (0..500).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            sockets.iter().find_map(|socket| socket.accept().ok())
        });
        assert!(taken.unwrap().0.tcp_nodelay().unwrap(), "a connection has it from its listener");
        assert_ne!(bound.port(), 0);
        assert_eq!(tcp(bound, 3).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        tcp(bound, 1).unwrap();
    }

    #[test]
    fn each_worker_has_a_socket_and_each_socket_a_worker() {
        let address = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let own = Bound::new(&address, 3).unwrap();
        assert_eq!(places(&own), [[0], [1], [2]]);
        let sockets: Vec<_> = own.sockets().unwrap().into_iter().map(Arc::new).collect();
        own.hand_over();
        drop(own);
        let inherited = Bound::new(&Address::Inherited(sockets.clone()), 2).unwrap();
        assert_eq!(places(&inherited), [vec![0, 2], vec![1]], "as of a server with more workers");
        drop(inherited);
        let inherited = Bound::new(&Address::Inherited(sockets.clone()), 5).unwrap();
        assert_eq!(places(&inherited), [[0], [1], [2], [0], [1]], "as of one with fewer");
        inherited.leave(2);
        drop(inherited);
        let Place::Tcp(address) = adopt(&sockets).unwrap() else { panic!("it was TCP") };
        TcpStream::connect(address).expect("what was handed over outlives who had it");
        assert!(adopt(&[]).is_err());
        drop(sockets);
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn the_last_worker_to_leave_a_socket_ends_it() {
        let folder = Folder::new("leave");
        let path = folder.0.join("a.sock");
        let bound = Bound::new(&Address::Unix { path: path.clone(), mode: 0o600 }, 2).unwrap();
        bound.leave(0);
        UnixStream::connect(&path).expect("another worker is still there");
        bound.leave(0);
        assert!(!path.exists());
        let own = Bound::new(&Address::Tcp("127.0.0.1:0".parse().unwrap()), 2).unwrap();
        let Place::Tcp(address) = own.place else { panic!("it was TCP") };
        own.leave(0);
        assert!((0..20).all(|_| TcpStream::connect(address).is_ok()), "the other socket takes them all");
        own.leave(1);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn sockets_are_taken_over_by_their_address_and_then_ended() {
        let [a, b] = [(); 2].map(|()| Bound::new(&"127.0.0.1:0".parse().unwrap(), 2).unwrap());
        let [Place::Tcp(at_a), Place::Tcp(at_b)] = [&a.place, &b.place] else { panic!("it was TCP") };
        let (at_a, at_b) = (*at_a, *at_b);
        let mut passed = Vec::new();
        for bound in [a, b] {
            passed.extend(bound.sockets().unwrap());
            bound.hand_over();
        }
        let mut other = at_b;
        other.set_ip([127, 0, 0, 2].into());
        assert!(Bound::take_over(&Address::Tcp(other), 2, &mut passed).unwrap().is_none());
        let next_b = Bound::take_over(&Address::Tcp(at_b), 2, &mut passed).unwrap().unwrap();
        assert!((0..2).all(|worker| next_b.of_worker(worker).count() == 1));
        assert_eq!(passed.len(), 2);
        let next_a = Bound::take_over(&"127.0.0.1:0".parse().unwrap(), 2, &mut passed).unwrap().unwrap();
        assert_eq!(
            (next_a.place.clone(), passed.len()),
            (Place::Tcp(at_a), 0),
            "a free port is the one that it had"
        );
        TcpStream::connect(at_a).unwrap();
        drop(next_a);
        TcpStream::connect(at_a).expect_err("it was ours to end");
    }

    /// A directory that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("switchpoint-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn a_dead_servers_file_is_replaced_and_a_live_ones_is_not() {
        let folder = Folder::new("stale");
        let path = folder.0.join("a.sock");
        let address = Address::Unix { path: path.clone(), mode: 0o600 };
        let bound = Bound::new(&address, 2).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Bound::new(&address, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).expect("the first one goes on");
        drop(bound);
        assert!(!path.exists(), "the file goes with the server");

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "this server is dead, and has left its file");
        let bound = Bound::new(&address, 2).unwrap();
        UnixStream::connect(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let other = Bound::new(&Address::Unix { path: path.clone(), mode: 0o666 }, 2).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666, "whatever the umask");
        drop(bound);
        UnixStream::connect(&path).expect("another server's file is left alone");
        let mut sockets = other.sockets().unwrap();
        other.hand_over();
        drop(other);
        assert!(path.exists(), "who goes on with the socket needs its file");
        assert!(Bound::take_over(&"127.0.0.1:0".parse().unwrap(), 2, &mut sockets).unwrap().is_none());
        let address = Address::Unix { path: path.clone(), mode: 0o600 };
        let next = Bound::take_over(&address, 2, &mut sockets).unwrap().unwrap();
        UnixStream::connect(&path).expect("it listens as before");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "as it is wanted now");
        drop(next);
        assert!(!path.exists(), "the last one removes it");
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let folder = Folder::new("file");
        let path = folder.0.join("precious");
        fs::write(&path, "data").unwrap();
        let error = Bound::new(&Address::Unix { path: path.clone(), mode: 0o600 }, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"data");
        let long = Address::Unix { path: folder.0.join("x".repeat(120)), mode: 0o600 };
        assert!(Bound::new(&long, 1).unwrap_err().to_string().contains("107 bytes"));
    }
}
