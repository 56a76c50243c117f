//! The client's role: a connection to a server that has proved its name.

use std::{sync::Arc, time::Duration};

use monoio::time::timeout;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{Fault, Identity, LoadError, Pem, identity::roots, provider, session::Session, stream::Tls};
use crate::Stream;

/// Whom a client believes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The authorities that browsers trust, as of this build.
    #[default]
    WebPki,
    /// These, and no other: the certificates in a file.
    Authorities(Pem),
    /// Everybody, which protects from nobody: for development.
    Anyone,
}

/// How a client speaks TLS.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Whom it believes; the authorities of the web.
    pub trust: Trust,
    /// Who it is, for servers that ask; nobody.
    pub identity: Option<Identity>,
    /// The protocols that it offers by ALPN, the dearest first; `http/1.1`. With none the extension is left out.
    pub alpn: Vec<String>,
    /// The name to ask for and to verify, instead of the host that it connects to.
    pub server_name: Option<String>,
    /// Whether to go on from earlier sessions with the same server; yes.
    pub resumption: bool,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            trust: Trust::default(),
            identity: None,
            alpn: vec!["http/1.1".into()],
            server_name: None,
            resumption: true,
        }
    }
}

/// Makes connections secure, in the client's role. A clone shares its sessions, for resumption.
///
/// ```no_run
/// # use std::time::Duration;
/// use switchpoint::{Stream, monoio::net::TcpStream, tls::{ClientSettings, Connector}};
///
/// # async fn open() -> Result<Stream, Box<dyn std::error::Error>> {
/// let connector = Connector::new(&ClientSettings::default())?;
/// let stream = TcpStream::connect("example.org:443").await?;
/// Ok(connector.connect(stream.try_into()?, "example.org", Duration::from_secs(10)).await?)
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    alpn: Vec<Vec<u8>>,
    server_name: Option<String>,
}

impl Connector {
    /// Reads what the settings name.
    ///
    /// # Errors
    /// If a file cannot be read, or has not what it should have.
    pub fn new(settings: &ClientSettings) -> Result<Self, LoadError> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &settings.trust {
            Trust::WebPki => builder
                .with_root_certificates(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }),
            Trust::Authorities(pem) => builder.with_root_certificates(roots(pem)?),
            Trust::Anyone => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(Arc::clone(&provider))))
            }
        };
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let certified = identity.load(&provider)?.certified;
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
            }
        };
        if !settings.resumption {
            config.resumption = Resumption::disabled();
        }
        let alpn = settings.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        Ok(Self { config: Arc::new(config), alpn, server_name: settings.server_name.clone() })
    }

    /// The same, with other protocols to offer.
    pub fn with_alpn(&self, names: &[&str]) -> Self {
        let alpn = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { alpn, ..self.clone() }
    }

    #[cfg(test)]
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// A session of rustls's own with the server that is to be `host`, for a connection that is not a [`Stream`].
    ///
    /// # Errors
    /// If nobody could have a certificate for the host's name.
    pub fn session(&self, host: &str) -> Result<ClientConnection, Fault> {
        ClientConnection::new_with_alpn(Arc::clone(&self.config), self.name(host)?, self.alpn.clone())
            .map_err(Fault::Tls)
    }

    fn name(&self, host: &str) -> Result<ServerName<'static>, Fault> {
        let host = self.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(host.to_owned()).map_err(|_| Fault::Name(host.to_owned()))
    }

    /// Shakes hands over `stream`, within the limit, with the server that is to be `host`: a DNS name or an address.
    ///
    /// # Errors
    /// When the server cannot prove it, does not agree, or does not answer.
    pub async fn connect(&self, stream: Stream, host: &str, limit: Duration) -> Result<Stream, Fault> {
        let session = Session::client(Arc::clone(&self.config), self.name(host)?, self.alpn.clone())
            .map_err(Fault::Tls)?;
        let tls = Box::new(Tls::new(session, stream));
        timeout(limit, tls.handshake()).await.unwrap_or(Err(Fault::TimedOut))?;
        Ok(Stream::Tls(tls))
    }
}

/// Believes everybody; what they sign has to be signed by the key that they show.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
