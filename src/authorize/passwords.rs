//! Passwords against slow hashes, on threads of their own: a hash takes a tenth of a second, and a core has no tenth of a
//! second to spare.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    sync::{
        Mutex, OnceLock, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use monoio::io::AsyncReadRent;

/// Threads for all cores: who guesses passwords takes no more of the machine than these.
const THREADS: usize = 2;
/// Passwords that may wait; with more nobody would wait for the last.
const QUEUE_MAX: usize = 32;
/// bcrypt looks at no more.
pub(super) const PASSWORD_MAX: usize = 72;

struct Job {
    password: Vec<u8>,
    hash: String,
    /// Gets one byte: whether it is the one.
    answer: UnixStream,
}

/// The threads cannot be had, or too many wait.
#[derive(Debug)]
pub(super) struct Busy;

/// Whether `password` is the one that `hash` was made of.
pub(super) async fn verify(password: &str, hash: &str) -> Result<bool, Busy> {
    let (answer, asked) = UnixStream::pair().map_err(|_| Busy)?;
    if monoio::utils::is_legacy() {
        asked.set_nonblocking(true).map_err(|_| Busy)?;
    }
    let mut asked = monoio::net::UnixStream::from_std(asked).map_err(|_| Busy)?;
    let job = Job { password: password.as_bytes().to_vec(), hash: hash.to_owned(), answer };
    queue().ok_or(Busy)?.try_send(job).map_err(|_| Busy)?;
    let (result, answer) = asked.read(vec![0_u8; 1]).await;
    match result {
        Ok(1) => Ok(answer[0] == 1),
        _ => Err(Busy),
    }
}

/// The way to the threads, which begin with the first password; `None` where they cannot be started.
fn queue() -> Option<&'static SyncSender<Job>> {
    static QUEUE: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();
    static JOBS: OnceLock<Mutex<Receiver<Job>>> = OnceLock::new();
    QUEUE
        .get_or_init(|| {
            let (sender, receiver) = sync_channel(QUEUE_MAX);
            let jobs = JOBS.get_or_init(|| Mutex::new(receiver));
            for number in 0..THREADS {
                let work = || {
                    loop {
                        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(Job { password, hash, mut answer }) = job else { return };
                        let is_it = bcrypt::verify(password, &hash).unwrap_or(false);
                        // Who has asked may be gone.
                        let _ = answer.write_all(&[u8::from(is_it)]);
                    }
                };
                thread::Builder::new().name(format!("passwords-{number}")).spawn(work).ok()?;
            }
            Some(sender)
        })
        .as_ref()
}
