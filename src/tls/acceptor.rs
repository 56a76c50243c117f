//! The server's role: which certificate for whom, whom to believe, and all of that anew when its files change.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use rustls::{
    ServerConfig,
    crypto::ring::Ticketer,
    server::{
        ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
    },
    sign::CertifiedKey,
};

use super::{
    Identity, LoadError, PeerCertificate, Pem,
    identity::{Loaded, Stamp, roots, stamp},
    provider,
    session::Session,
    stream::Tls,
};
use crate::Stream;

/// How a server speaks TLS: plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its certificates. A client gets the one for the name that it asks for; the first if it asks for none, or for one
    /// that nobody has.
    pub identities: Vec<Identity>,
    /// The authorities whose certificates clients may show; without them no client is asked.
    pub client_authorities: Option<Pem>,
    /// Whether a client has to show one; otherwise it may.
    pub client_required: bool,
    /// Whether HTTP/2 is offered (by ALPN, as `h2`), before `http/1.1`; it is.
    pub http2: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { identities: Vec::new(), client_authorities: None, client_required: false, http2: true }
    }
}

impl From<Identity> for Settings {
    fn from(identity: Identity) -> Self {
        Self { identities: vec![identity], ..Self::default() }
    }
}

/// A certificate that a server shows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateStatus {
    /// Where it was read, if that is a file.
    pub path: Option<PathBuf>,
    /// The names that it is for.
    pub names: Vec<String>,
    /// Its SHA-256, in hexadecimal.
    pub fingerprint: String,
    /// When it expires.
    pub not_after: SystemTime,
}

/// Makes connections secure, in the server's role. Clones are the same one, also on other threads: they share the keys of
/// the tickets, and what one of them reloads is there for all.
#[derive(Clone)]
pub struct Acceptor(Arc<Shared>);

struct Shared {
    settings: Settings,
    current: RwLock<Current>,
}

/// What was read last.
#[derive(Clone)]
struct Current {
    config: Arc<ServerConfig>,
    certificates: Vec<CertificateStatus>,
    /// The authorities of the clients, as they were in the file.
    authorities: Option<Vec<u8>>,
    stamps: Vec<Stamp>,
}

impl Acceptor {
    /// Reads what the settings name.
    ///
    /// # Errors
    /// If a file cannot be read, or has not what it should have.
    pub fn new(settings: Settings) -> Result<Self, LoadError> {
        let current = load(&settings, None)?;
        Ok(Self(Arc::new(Shared { settings, current: RwLock::new(current) })))
    }

    /// The server's end of TLS over `stream`. Nothing is said yet: a [`Worker`](crate::Worker) shakes hands when it
    /// [serves](crate::Worker::serve) it.
    pub fn accept(&self, stream: Stream) -> Stream {
        let config = Arc::clone(&self.current().config);
        let session =
            Session::server(config).expect("the configuration has no fragment size, the one thing checked");
        Stream::Tls(Box::new(Tls::new(session, stream)))
    }

    /// Reads its files anew, for all connections that come from now on. Sessions that were begun before can be resumed,
    /// unless the authorities of the clients are others.
    ///
    /// # Errors
    /// As [`new`](Self::new); then all stays as it was.
    pub fn reload(&self) -> Result<(), LoadError> {
        let before = self.current().clone();
        let current = load(&self.0.settings, Some(before))?;
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    /// Whether a file looks other than when it was read last.
    pub(crate) fn has_changed(&self) -> bool {
        let stamps = self.current().stamps.clone(); // not under the lock: a disk may be slow
        stamps.iter().any(|then| stamp(&then.0) != *then)
    }

    /// Takes note of how the files look, when they cannot be used: once is enough to say so.
    pub(crate) fn disregard(&self) {
        let stamps = stamps(&self.0.settings);
        self.0.current.write().unwrap_or_else(PoisonError::into_inner).stamps = stamps;
    }

    #[cfg(test)]
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().config)
    }

    /// What it was made from.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The certificates that are shown now.
    pub fn certificates(&self) -> Vec<CertificateStatus> {
        self.current().certificates.clone()
    }

    fn current(&self) -> std::sync::RwLockReadGuard<'_, Current> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acceptor").field(&self.0.settings).finish()
    }
}

fn stamps(settings: &Settings) -> Vec<Stamp> {
    let identities = settings.identities.iter().flat_map(|identity| [&identity.chain, &identity.key]);
    identities.chain(&settings.client_authorities).filter_map(Pem::path).map(stamp).collect()
}

fn load(settings: &Settings, before: Option<Current>) -> Result<Current, LoadError> {
    if settings.identities.is_empty() {
        return Err(LoadError::NoIdentity);
    }
    let provider = provider();
    // Before the files, so that what changes meanwhile is seen to have changed.
    let stamps = stamps(settings);
    let mut names = Names::default();
    let mut certificates = Vec::new();
    for identity in &settings.identities {
        let Loaded { certified, facts } = identity.load(&provider)?;
        names.add(&facts, certified);
        certificates.push(CertificateStatus {
            path: identity.chain.path().cloned(),
            names: facts.names,
            fingerprint: facts.fingerprint,
            not_after: facts.not_after,
        });
    }
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let (builder, authorities) = match &settings.client_authorities {
        None => (builder.with_no_client_auth(), None),
        Some(pem) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pem)?), provider);
            let verifier = if settings.client_required { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
            (builder.with_client_cert_verifier(verifier), Some(pem.read()?))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(names));
    config.alpn_protocols = match settings.http2 {
        true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        false => vec![b"http/1.1".to_vec()],
    };
    // Sessions are in their tickets, which any worker can open; the keys change every six hours. A ticket also says who
    // the client is, so it does not outlive the authority that said so.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = match before {
        Some(before) if before.authorities == authorities => Arc::clone(&before.config.ticketer),
        _ => tickets()?,
    };
    Ok(Current { config: Arc::new(config), certificates, authorities, stamps })
}

fn tickets() -> Result<Arc<dyn ProducesTickets>, LoadError> {
    Ok(Ticketer::new()?)
}

/// Which certificate is whose.
#[derive(Debug, Default)]
struct Names {
    /// Lower-case DNS names; a wildcard under what follows its `*`, with the dot.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
}

impl Names {
    fn add(&mut self, facts: &PeerCertificate, certified: Arc<CertifiedKey>) {
        for name in &facts.names {
            let name = name.to_ascii_lowercase();
            let key = name.strip_prefix('*').unwrap_or(&name);
            self.names.entry(key.to_owned()).or_default().push(Arc::clone(&certified));
        }
        self.all.push(certified);
    }

    /// For a name exactly; else for its parent's wildcard, which stands for one label (RFC 6125 6.4.3); else any.
    fn find(&self, name: Option<&str>, can: impl Fn(&CertifiedKey) -> bool) -> Option<&Arc<CertifiedKey>> {
        let name = name.map(|name| name.trim_end_matches('.').to_ascii_lowercase()).unwrap_or_default();
        let parent = name.find('.').map(|dot| &name[dot..]);
        let found = self.names.get(&name).into_iter().chain(parent.and_then(|parent| self.names.get(parent)));
        found.flatten().chain(&self.all).find(|certified| can(certified))
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Of several kinds of keys for a name, one that the client can verify.
        let schemes = hello.signature_schemes();
        self.find(hello.server_name(), |certified| certified.key.choose_scheme(schemes).is_some()).cloned()
    }
}
