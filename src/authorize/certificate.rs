//! The certificate that the client has proved to own, in the handshake of TLS.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Authorize, Identity, secret::Fingerprint};
use crate::{Rejection, Request, tls::PeerCertificate};

/// Client certificates. The listener has to ask for them, and has checked by whom they are issued; here it is decided whose
/// are let through. Without names and fingerprints, any that the listener trusts. Who has none gets 403: a connection has
/// the certificate that it began with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Certificate {
    /// Common names, or alternative names: DNS names, addresses, e-mail addresses, URIs.
    pub names: Vec<String>,
    /// Digests of whole certificates: SHA-256 in 64 hexadecimal digits, with colons or without.
    pub fingerprints: Vec<String>,
}

pub(super) struct ClientCertificates {
    names: Vec<String>,
    fingerprints: Vec<Fingerprint>,
}

impl ClientCertificates {
    pub(super) fn new(settings: &Certificate) -> Result<Self, String> {
        let fingerprint = |digits: &String| {
            let plain = digits.replace(':', "");
            Fingerprint::from_hex(&plain)
                .ok_or_else(|| format!("`{digits}` is not a SHA-256 of 64 hexadecimal digits"))
        };
        let fingerprints: Result<_, _> = settings.fingerprints.iter().map(fingerprint).collect();
        Ok(Self { names: settings.names.clone(), fingerprints: fingerprints? })
    }

    /// Whether it is let through, and by which of the names.
    fn lets<'a>(&self, certificate: &'a PeerCertificate) -> (bool, Option<&'a String>) {
        let own = Fingerprint::of(&certificate.der);
        let names = || certificate.common_name.iter().chain(&certificate.names);
        let is_known = self.fingerprints.iter().any(|fingerprint| fingerprint.equals(&own));
        match names().find(|name| self.names.contains(name)) {
            Some(name) => (true, Some(name)),
            None => (is_known || (self.names.is_empty() && self.fingerprints.is_empty()), names().next()),
        }
    }
}

impl Authorize for ClientCertificates {
    async fn authorize(&self, request: &Request<'_>) -> Result<Identity, Rejection> {
        let Some(certificate) = request.peer_certificate() else {
            return Err(Rejection::forbidden().detail("This takes a client certificate."));
        };
        let (true, name) = self.lets(certificate) else { return Err(Rejection::forbidden()) };
        let names = certificate.names.iter().map(|name| Value::from(&**name)).collect::<Vec<_>>();
        let identity = Identity::new("certificate")
            .with("names", names)
            .with("issuer", &*certificate.issuer)
            .with("serial", &*certificate.serial)
            .with("fingerprint", &*certificate.fingerprint);
        Ok(match name {
            Some(name) => identity.named(name.clone()),
            None => identity,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_certificate_is_known_by_a_name_or_by_its_digest() {
        let certificate = PeerCertificate {
            common_name: Some("anna".into()),
            subject: "CN=anna".into(),
            issuer: "CN=authority".into(),
            names: vec!["anna.example".into(), "spiffe://example/anna".into()],
            serial: "01".into(),
            fingerprint: String::new(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            der: b"abc".to_vec(),
        };
        let abc = "BA:7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let lets = |names: &[&str], fingerprints: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            let settings = Certificate { names: owned(names), fingerprints: owned(fingerprints) };
            ClientCertificates::new(&settings).unwrap().lets(&certificate).0
        };
        assert!(lets(&[], &[]) && lets(&["anna"], &[]) && lets(&["x", "spiffe://example/anna"], &[]));
        assert!(lets(&[], &[abc]) && lets(&["x"], &[abc]));
        assert!(
            !lets(&["ann"], &[]) && !lets(&["authority"], &[]) && !lets(&[], &[&abc.replace("ad", "ae")])
        );
        let named = Certificate { names: vec!["spiffe://example/anna".into()], ..Certificate::default() };
        let named = ClientCertificates::new(&named).unwrap();
        assert_eq!(named.lets(&certificate).1.unwrap(), "spiffe://example/anna", "the name that lets it in");
        let wrong = Certificate { fingerprints: vec!["abc".into()], ..Certificate::default() };
        assert!(ClientCertificates::new(&wrong).is_err());
    }
}
