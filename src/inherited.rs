//! Sockets that the process was started with: by number, or by the name that socket activation has given them.
//!
//! A service manager binds them and passes them on as descriptors 3, 4, …; `LISTEN_PID` says to whom, `LISTEN_FDS` how
//! many, and `LISTEN_FDNAMES` what they are called (sd_listen_fds(3)). Who else starts a server with a socket in its hands
//! knows the number.

use std::{
    collections::BTreeSet,
    env, io,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    process,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    io::FdFlags,
    net::{AddressFamily, SocketType, sockopt},
};

use crate::Address;

/// The listening sockets called `name`: one by its number, or all that socket activation has given this name.
///
/// The descriptors are duplicated, so that it can be asked again; the originals stay open, and are not passed on to
/// programs that this one starts.
///
/// # Errors
/// Where there is no such socket, with what there is.
pub fn find(name: &str) -> io::Result<Vec<Address>> {
    if let Ok(number) = name.parse() {
        return Ok(vec![Address::Inherited(vec![Arc::new(take(number)?)])]);
    }
    let variable = |name: &str| env::var(name).ok();
    let passed = Passed::read(variable, whom()).map_err(not_found)?;
    let numbers = passed.named(name).map_err(not_found)?;
    numbers.into_iter().map(|number| Ok(Address::Inherited(vec![Arc::new(take(number)?)]))).collect()
}

/// To whom the sockets were passed that this process has: to itself, or to the one that it takes over from.
fn whom() -> u32 {
    let predecessor = env::var(TAKES_OVER).ok().and_then(|passed| passed.split(':').next()?.parse().ok());
    predecessor.unwrap_or_else(process::id)
}

/// What a process has in its environment that takes over from another one: the number of that one, and more after a colon.
#[doc(hidden)]
pub const TAKES_OVER: &str = "SWITCHPOINT_TAKES_OVER";

/// Whether programs that this one starts get the sockets that were [found](find), under the numbers that these have here.
///
/// # Errors
/// If somebody has closed one.
#[expect(unsafe_code, reason = "a descriptor that was passed on is known only by its number")]
pub fn pass_on(passed_on: bool) -> io::Result<()> {
    for &number in &*FOUND.lock().unwrap_or_else(PoisonError::into_inner) {
        // SAFETY: as in `take`.
        let original = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(original, if passed_on { FdFlags::empty() } else { FdFlags::CLOEXEC })?;
    }
    Ok(())
}

/// The numbers of those that were found.
static FOUND: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

fn not_found(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, message)
}

/// A descriptor of our own for a socket that has to be there, and to listen.
#[expect(unsafe_code, reason = "a descriptor that was passed on is known only by its number")]
fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(not_found(format!("{number} is no descriptor")));
    }
    // SAFETY: the borrow ends with this function. Descriptors of the process's start belong to nobody in it, so nobody
    // closes them; a number that was not passed on fails with EBADF, or is duplicated, which does it no harm.
    let original = unsafe { BorrowedFd::borrow_raw(number) };
    let socket = original
        .try_clone_to_owned()
        .map_err(|_| not_found(format!("descriptor {number} is not open: nothing was passed on under it")))?;
    check(&socket).map_err(|what| io::Error::new(what.kind(), format!("descriptor {number} {what}")))?;
    rustix::io::fcntl_setfd(original, FdFlags::CLOEXEC)?;
    FOUND.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
    Ok(socket)
}

/// Whether connections can be accepted from `socket`.
pub(crate) fn check(socket: &OwnedFd) -> io::Result<()> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let kind = sockopt::socket_type(socket).map_err(|_| invalid("is not a socket"))?;
    let family = sockopt::socket_domain(socket)?;
    let families = [AddressFamily::INET, AddressFamily::INET6, AddressFamily::UNIX];
    if kind != SocketType::STREAM || !families.contains(&family) {
        return Err(invalid("is not a stream socket of TCP or Unix"));
    }
    if !sockopt::socket_acceptconn(socket)? {
        return Err(invalid("is a socket that does not listen"));
    }
    Ok(())
}

/// What socket activation has passed on: the names, of descriptors that begin with 3.
#[derive(Debug, PartialEq, Eq)]
struct Passed(Vec<String>);

impl Passed {
    fn read(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Result<Self, String> {
        let Some(count) = variable("LISTEN_FDS") else {
            return Err("no sockets were passed on by name: LISTEN_FDS is not set".into());
        };
        let count: usize = match count.parse() {
            Ok(count) if count <= PASSED_MAX => count,
            _ => return Err(format!("LISTEN_FDS is `{count}`, which is no number of sockets")),
        };
        match variable("LISTEN_PID") {
            Some(own) if own == pid.to_string() => {}
            Some(other) => {
                return Err(format!("LISTEN_PID is {other}, and this process is {pid}: they are another's"));
            }
            None => return Err("LISTEN_PID is not set, so it is not known whose sockets they are".into()),
        }
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        let mut names: Vec<String> =
            names.split(':').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        names.resize(count, UNNAMED.to_owned());
        Ok(Self(names))
    }

    fn named(&self, name: &str) -> Result<Vec<RawFd>, String> {
        let numbers: Vec<RawFd> =
            (FIRST..).zip(&self.0).filter(|(_, own)| *own == name).map(|(number, _)| number).collect();
        if numbers.is_empty() {
            let mut names = self.0.clone();
            names.sort();
            names.dedup();
            return Err(format!("no socket called `{name}` was passed on; there is {}", names.join(", ")));
        }
        Ok(numbers)
    }
}

/// SD_LISTEN_FDS_START.
const FIRST: RawFd = 3;
/// What sd_listen_fds_with_names(3) calls those that have no name.
const UNNAMED: &str = "unknown";
/// More were not meant seriously.
const PASSED_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use std::{fs::File, net::TcpListener, os::fd::AsRawFd};

    use super::*;

    fn passed(variables: &[(&str, &str)]) -> Result<Passed, String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Passed::read(variable, 77)
    }

    #[test]
    fn names_count_from_descriptor_3() {
        let activation = [("LISTEN_FDS", "3"), ("LISTEN_PID", "77"), ("LISTEN_FDNAMES", "web:admin:web")];
        let passed = passed(&activation).unwrap();
        assert_eq!(passed.named("web"), Ok(vec![3, 5]));
        assert_eq!(passed.named("admin"), Ok(vec![4]));
        assert_eq!(
            passed.named("mail").unwrap_err(),
            "no socket called `mail` was passed on; there is admin, web"
        );
    }

    #[test]
    fn sockets_without_names_and_for_others_are_told_apart() {
        let unnamed = passed(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "77")]).unwrap();
        assert_eq!(unnamed.named("unknown"), Ok(vec![3, 4]));
        assert!(passed(&[]).unwrap_err().contains("LISTEN_FDS is not set"));
        assert!(passed(&[("LISTEN_FDS", "-1"), ("LISTEN_PID", "77")]).unwrap_err().contains("`-1`"));
        assert!(passed(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "8")]).unwrap_err().contains("another's"));
        assert!(passed(&[("LISTEN_FDS", "1")]).unwrap_err().contains("LISTEN_PID is not set"));
    }

    #[test]
    fn only_a_socket_that_listens_can_be_had() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.as_raw_fd().to_string();
        assert!(matches!(&find(&number).unwrap()[..], [Address::Inherited(sockets)] if sockets.len() == 1));
        assert!(find(&number).is_ok(), "it can be asked again");
        let file = File::open("/dev/null").unwrap();
        for (number, what) in
            [(file.as_raw_fd(), "is not a socket"), (987_654, "is not open"), (-1, "no descriptor")]
        {
            let error = find(&number.to_string()).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let error = find(&stream.as_raw_fd().to_string()).unwrap_err().to_string();
        assert!(error.contains("does not listen"), "{error}");
    }
}
