//! Looks after the certificates of a running server: files that change, days that pass.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{Acceptor, LoadError};

/// The thread that looks; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watch(#[expect(dead_code, reason = "its end is what is heard")] mpsc::Sender<()>);

impl Watch {
    /// Looks after `acceptors`; `None` where none has a certificate that could change or expire.
    pub(crate) fn new(acceptors: Vec<Acceptor>) -> Option<Self> {
        if acceptors.is_empty() {
            return None;
        }
        let (sender, receiver) = mpsc::channel();
        let watch = move || {
            let mut changed = vec![false; acceptors.len()];
            let mut warned: Option<Instant> = None;
            loop {
                if warned.is_none_or(|warned| warned.elapsed() >= DAY) {
                    acceptors.iter().for_each(warn_of_expiry);
                    warned = Some(Instant::now());
                }
                if let Ok(()) | Err(RecvTimeoutError::Disconnected) = receiver.recv_timeout(LOOK_EVERY) {
                    return;
                }
                for (acceptor, changed) in acceptors.iter().zip(&mut changed) {
                    // Certificate and key are two files: at the second look the other one is there, too.
                    let has_changed = acceptor.has_changed();
                    if has_changed && *changed {
                        drop(reload(acceptor)); // the log has it
                    }
                    *changed = has_changed && !*changed;
                }
            }
        };
        // Without the thread all goes on, but for what the thread would see.
        let thread = thread::Builder::new().name("certificates".into()).spawn(watch);
        thread.map(|_| Self(sender)).ok()
    }
}

/// Reads an acceptor's files anew, and says in the log what has become of it.
pub(crate) fn reload(acceptor: &Acceptor) -> Result<(), LoadError> {
    let result = acceptor.reload();
    match &result {
        Ok(()) => {
            for certificate in acceptor.certificates() {
                tracing::info!(
                    names = certificate.names.join(" "),
                    fingerprint = certificate.fingerprint,
                    expires = %httpdate::HttpDate::from(certificate.not_after),
                    "the certificate was read anew"
                );
            }
            warn_of_expiry(acceptor);
        }
        Err(error) => {
            acceptor.disregard();
            tracing::error!(%error, "the new certificates cannot be used; the old ones stay");
        }
    }
    result
}

fn warn_of_expiry(acceptor: &Acceptor) {
    for certificate in acceptor.certificates() {
        let names = certificate.names.join(" ");
        match certificate.not_after.duration_since(SystemTime::now()) {
            Err(_) => tracing::error!(names, "the certificate has expired"),
            Ok(left) if left < WARNING => {
                let days = left.as_secs() / DAY.as_secs();
                tracing::warn!(names, days, "the certificate expires soon");
            }
            Ok(_) => {}
        }
    }
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Who renews certificates by a program has a new one long before.
const WARNING: Duration = Duration::from_secs(14 * 24 * 3600);
