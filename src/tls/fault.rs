//! Why there is no TLS: a handshake that failed, or certificates that cannot be used.

use std::{io, path::PathBuf};

use rustls::{AlertDescription, CertificateError, Error as Tls};

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The transport failed.
    #[error("the connection failed during the TLS handshake: {0}")]
    Io(#[from] io::Error),
    /// The peer left before it was done.
    #[error("the peer closed the connection during the TLS handshake")]
    Left,
    /// It took longer than it may.
    #[error("the TLS handshake was not done in time")]
    TimedOut,
    /// The client speaks HTTP without TLS.
    #[error("a plain HTTP request came to a port that speaks TLS")]
    PlainHttp,
    /// The two do not agree, or do not trust each other.
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] Tls),
    /// The name that the server is to prove is neither a DNS name nor an address.
    #[error("`{0}` is no name that a server could have a certificate for")]
    Name(String),
}

impl Fault {
    /// A stable code for counters and logs: one of [`CODES`](Self::CODES).
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::Left => "left",
            Self::TimedOut => "timed-out",
            Self::PlainHttp => "plain-http",
            Self::Name(_) => "name",
            Self::Tls(error) => match error {
                Tls::PeerIncompatible(_) => "incompatible",
                Tls::NoApplicationProtocol => "no-application-protocol",
                Tls::NoCertificatesPresented => "no-certificate",
                Tls::InvalidCertificate(
                    CertificateError::Expired | CertificateError::ExpiredContext { .. },
                ) => "certificate-expired",
                Tls::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                    "certificate-untrusted"
                }
                Tls::InvalidCertificate(_) => "certificate-invalid",
                Tls::AlertReceived(
                    AlertDescription::UnknownCA
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::CertificateExpired,
                ) => "distrusted",
                Tls::AlertReceived(_) => "alert",
                Tls::InvalidMessage(_) => "not-tls",
                _ => "broken",
            },
        }
    }

    /// Every code there is.
    pub const CODES: &[&str] = &[
        "alert",
        "broken",
        "certificate-expired",
        "certificate-invalid",
        "certificate-untrusted",
        "distrusted",
        "incompatible",
        "io",
        "left",
        "name",
        "no-application-protocol",
        "no-certificate",
        "not-tls",
        "plain-http",
        "timed-out",
    ];
}

impl From<Fault> for crate::Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Io(error) => error.into(),
            Fault::TimedOut => Self::TimedOut,
            Fault::Left => io::Error::new(io::ErrorKind::UnexpectedEof, fault).into(),
            Fault::Name(_) => io::Error::new(io::ErrorKind::InvalidInput, fault).into(),
            _ => io::Error::new(io::ErrorKind::InvalidData, fault).into(),
        }
    }
}

/// Why certificates, or a key, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What should be a chain of certificates in PEM has none.
    #[error(
        "{place} has no certificate; it is a chain in PEM, from `-----BEGIN CERTIFICATE-----` on, the server's own first"
    )]
    NoCertificate {
        /// The file, or what it stands for.
        place: String,
    },
    /// What should be a private key in PEM has none.
    #[error("{place} has no private key; it is in PEM (PKCS #8, PKCS #1 or SEC 1), and not encrypted")]
    NoKey {
        /// The file, or what it stands for.
        place: String,
    },
    /// A certificate that is none, or not of use for this.
    #[error("a certificate in {place} cannot be used: {why}")]
    InvalidCertificate {
        /// The file, or what it stands for.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// A key of a kind that is not known, or not the certificate's.
    #[error("the key in {place} cannot be used: {why}")]
    InvalidKey {
        /// The file, or what it stands for.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// A server without a certificate.
    #[error("TLS needs a certificate and its key")]
    NoIdentity,
    /// What the TLS library cannot do.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] Tls),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_list() {
        for fault in [
            Fault::Io(io::ErrorKind::ConnectionReset.into()),
            Fault::Left,
            Fault::TimedOut,
            Fault::PlainHttp,
            Fault::Name(String::new()),
            Fault::Tls(Tls::NoApplicationProtocol),
            Fault::Tls(Tls::NoCertificatesPresented),
            Fault::Tls(Tls::InvalidCertificate(CertificateError::Expired)),
            Fault::Tls(Tls::InvalidCertificate(CertificateError::UnknownIssuer)),
            Fault::Tls(Tls::InvalidCertificate(CertificateError::BadEncoding)),
            Fault::Tls(Tls::AlertReceived(AlertDescription::UnknownCA)),
            Fault::Tls(Tls::AlertReceived(AlertDescription::DecodeError)),
            Fault::Tls(Tls::InvalidMessage(rustls::InvalidMessage::InvalidContentType)),
            Fault::Tls(Tls::DecryptError),
        ] {
            assert!(Fault::CODES.contains(&fault.code()), "{fault}");
        }
        assert!(Fault::CODES.is_sorted());
    }
}
