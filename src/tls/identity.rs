//! Certificates and keys, from files or from memory.

use std::{fs, io, path::PathBuf, sync::Arc};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};

use super::{LoadError, PeerCertificate};

/// What is in PEM, and where.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In a file, which is read anew when it changes.
    File(PathBuf),
    /// Here.
    Text(String),
}

impl Pem {
    pub(super) fn read(&self) -> Result<Vec<u8>, LoadError> {
        match self {
            Self::File(path) => {
                fs::read(path).map_err(|source| LoadError::Read { path: path.clone(), source })
            }
            Self::Text(text) => Ok(text.clone().into_bytes()),
        }
    }

    fn place(&self, what: &str) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Text(_) => what.to_owned(),
        }
    }

    pub(super) fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::File(path) => Some(path),
            Self::Text(_) => None,
        }
    }

    /// The certificates in it, of which there is one at least.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, LoadError> {
        let place = || self.place("the certificate");
        let invalid = |why: String| LoadError::InvalidCertificate { place: place(), why };
        let bytes = self.read()?;
        let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
        let found = found.map_err(|error| invalid(error.to_string()))?;
        if found.is_empty() { Err(LoadError::NoCertificate { place: place() }) } else { Ok(found) }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, LoadError> {
        let place = || self.place("the key");
        PrivateKeyDer::from_pem_slice(&self.read()?).map_err(|error| match error {
            pem::Error::NoItemsFound => LoadError::NoKey { place: place() },
            error => LoadError::InvalidKey { place: place(), why: error.to_string() },
        })
    }
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// A key is not for logs.
impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Text(_) => f.write_str("Text"),
        }
    }
}

/// Who one is: a chain of certificates, one's own first, and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The chain, without the root.
    pub chain: Pem,
    /// The key, not encrypted.
    pub key: Pem,
}

impl Identity {
    /// From two files, which may be one.
    pub fn files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { chain: Pem::File(chain.into()), key: Pem::File(key.into()) }
    }

    /// A new certificate for these names and addresses, signed by itself: nobody trusts it who was not told to. For
    /// development.
    ///
    /// # Errors
    /// If a name cannot be in a certificate.
    pub fn self_signed(names: &[String]) -> Result<Self, LoadError> {
        let invalid = |error: rcgen::Error| LoadError::InvalidCertificate {
            place: "a self-signed certificate".into(),
            why: error.to_string(),
        };
        let made = rcgen::generate_simple_self_signed(names).map_err(invalid)?;
        Ok(Self { chain: Pem::Text(made.cert.pem()), key: Pem::Text(made.signing_key.serialize_pem()) })
    }

    /// Reads it, and sees to it that the key is the certificate's.
    pub(super) fn load(&self, provider: &CryptoProvider) -> Result<Loaded, LoadError> {
        let chain = self.chain.certificates()?;
        let invalid = |why: String| LoadError::InvalidKey { place: self.key.place("the key"), why };
        let key =
            provider.key_provider.load_private_key(self.key.key()?).map_err(|e| invalid(e.to_string()))?;
        let facts = PeerCertificate::read(&chain[0]).ok_or_else(|| LoadError::InvalidCertificate {
            place: self.chain.place("the certificate"),
            why: "it is not X.509".into(),
        })?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(invalid("it is not the certificate's".into())),
        }
        Ok(Loaded { certified: Arc::new(certified), facts })
    }
}

/// An identity that can be used.
pub(super) struct Loaded {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) facts: PeerCertificate,
}

/// The authorities in a file, all of which are trusted.
pub(super) fn roots(pem: &Pem) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    for certificate in pem.certificates()? {
        roots.add(certificate).map_err(|error| LoadError::InvalidCertificate {
            place: pem.place("the authorities"),
            why: error.to_string(),
        })?;
    }
    Ok(roots)
}

/// What tells whether a file has changed.
pub(super) type Stamp = (PathBuf, Option<(std::time::SystemTime, u64, u64)>);

pub(super) fn stamp(path: &PathBuf) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let facts = |meta: fs::Metadata| -> io::Result<_> { Ok((meta.modified()?, meta.len(), meta.ino())) };
    (path.clone(), fs::metadata(path).and_then(facts).ok())
}
