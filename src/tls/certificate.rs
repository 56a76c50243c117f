//! What a certificate says: names, time, fingerprint.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// A certificate that the peer has proved to own, issued by an authority that we were told to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCertificate {
    /// The common name of its subject, if it has one.
    pub common_name: Option<String>,
    /// The subject as text, such as `CN=anna, O=Example`.
    pub subject: String,
    /// The issuer as text.
    pub issuer: String,
    /// The names it is for: DNS names, addresses, e-mail addresses and URIs, as they stand in it.
    pub names: Vec<String>,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// The SHA-256 of the certificate, in lower-case hexadecimal.
    pub fingerprint: String,
    /// When it becomes valid.
    pub not_before: SystemTime,
    /// When it expires.
    pub not_after: SystemTime,
    /// The certificate itself (DER).
    pub der: Vec<u8>,
}

impl PeerCertificate {
    /// What a certificate says; `None` where it is none.
    pub(super) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let names = certificate.subject_alternative_name().ok().flatten().map(|extension| {
            let names = &extension.value.general_names;
            names.iter().filter_map(name).collect::<Vec<_>>()
        });
        let subject = certificate.subject();
        let common_name =
            subject.iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned);
        let serial = certificate.tbs_certificate.raw_serial();
        Some(Self {
            common_name,
            subject: subject.to_string(),
            issuer: certificate.issuer().to_string(),
            names: names.unwrap_or_default(),
            serial: hexadecimal(serial),
            fingerprint: fingerprint(der),
            not_before: time(certificate.validity().not_before.timestamp()),
            not_after: time(certificate.validity().not_after.timestamp()),
            der: der.to_vec(),
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
            Some((*text).to_owned())
        }
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn time(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

/// The SHA-256 of a certificate, in hexadecimal.
fn fingerprint(der: &[u8]) -> String {
    hexadecimal(ring::digest::digest(&ring::digest::SHA256, der).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(b"0123456789abcdef"[usize::from(nibble)]))
        .collect()
}
