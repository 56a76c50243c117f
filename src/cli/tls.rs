//! What the program is told about TLS.

use std::path::PathBuf;

use clap::Args;
use switchpoint::{
    Server,
    tls::{Acceptor, Identity, Pem, Settings},
};

/// TLS, on every address.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct TlsArguments {
    /// A chain of certificates in PEM, the server's own first: TLS is spoken then, and nothing else. May be repeated, for
    /// several names: a client gets the one for the name that it asks for, or else the first. Read anew when it changes,
    /// and with SIGHUP.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Vec<PathBuf>,
    /// The certificate's private key in PEM; for each `--tls-cert` one, in the same order.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Vec<PathBuf>,
    /// Authorities whose certificates clients may show, in PEM.
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// Clients have to show a certificate; one that does not is refused.
    #[arg(long, requires = "tls_client_ca")]
    tls_client_required: bool,
    /// TLS with a certificate that is made now, for `localhost` and its addresses, and trusted by nobody: for
    /// development. Its fingerprint is printed.
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key"])]
    self_signed: bool,
}

impl TlsArguments {
    /// Who speaks TLS, if anybody does.
    pub(super) fn acceptor(&self) -> Result<Option<Acceptor>, String> {
        if self.tls_cert.len() != self.tls_key.len() {
            return Err(format!(
                "there are {} --tls-cert and {} --tls-key; each certificate has its key",
                self.tls_cert.len(),
                self.tls_key.len()
            ));
        }
        let files = self.tls_cert.iter().zip(&self.tls_key);
        let mut identities: Vec<_> = files.map(|(chain, key)| Identity::files(chain, key)).collect();
        if self.self_signed {
            let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
            identities.push(Identity::self_signed(&names).map_err(|error| error.to_string())?);
        }
        if identities.is_empty() {
            let is_alone = self.tls_client_ca.is_some();
            return if is_alone {
                Err("--tls-client-ca is of use with --tls-cert only".into())
            } else {
                Ok(None)
            };
        }
        let settings = Settings {
            identities,
            client_authorities: self.tls_client_ca.clone().map(Pem::File),
            client_required: self.tls_client_required,
            ..Settings::default()
        };
        Acceptor::new(settings).map(Some).map_err(|error| error.to_string())
    }
}

/// What there is to say about certificates that nobody can know: those that were made for this process.
pub(super) fn self_signed_lines(server: &Server) -> impl Iterator<Item = String> {
    let made = server.handle().certificates().into_iter().filter(|certificate| certificate.path.is_none());
    made.map(|certificate| {
        let pairs = certificate.fingerprint.as_bytes().chunks(2).filter_map(|pair| str::from_utf8(pair).ok());
        let fingerprint = pairs.collect::<Vec<_>>().join(":").to_uppercase();
        let names = certificate.names.join(", ");
        format!("switchpoint: self-signed certificate for {names}; SHA-256 {fingerprint}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_signed_certificate_is_for_this_machine() {
        let arguments = TlsArguments { self_signed: true, ..TlsArguments::default() };
        let certificates = arguments.acceptor().unwrap().unwrap().certificates();
        assert_eq!(certificates[0].names, ["localhost", "127.0.0.1", "::1"]);
        assert_eq!(certificates[0].fingerprint.len(), 64);
        assert!(TlsArguments::default().acceptor().unwrap().is_none());
    }

    #[test]
    fn what_does_not_fit_together_is_said() {
        let file = || PathBuf::from("/nowhere.pem");
        let two =
            TlsArguments { tls_cert: vec![file(), file()], tls_key: vec![file()], ..TlsArguments::default() };
        assert!(two.acceptor().unwrap_err().contains("2 --tls-cert and 1 --tls-key"));
        let alone = TlsArguments { tls_client_ca: Some(file()), ..TlsArguments::default() };
        assert!(alone.acceptor().unwrap_err().contains("--tls-cert"));
        let missing =
            TlsArguments { tls_cert: vec![file()], tls_key: vec![file()], ..TlsArguments::default() };
        assert!(missing.acceptor().unwrap_err().contains("/nowhere.pem"));
    }
}
