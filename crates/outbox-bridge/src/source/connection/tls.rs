//! TLS with MySQL's modes.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

use super::error::{ConnectionError, ConnectionErrorKind};
use super::options::{ConnectOptions, TlsMode, TlsOptions};
use super::transport::Transport;

/// What a connection needs to begin TLS, read before anything is sent.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    advice: &'static str,
}

impl Tls {
    /// Reads the certificates and keys that the options name. Blocks on files.
    pub(super) fn prepare(options: &ConnectOptions) -> Result<Self, ConnectionError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = verifier(&options.tls, &provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failure("TLS cannot be set up").because(error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match (&options.tls.cert_file, &options.tls.key_file) {
            (Some(cert_file), Some(key_file)) => {
                let chain = certificates(cert_file, "the client certificate")?;
                let key = PrivateKeyDer::from_pem_file(key_file)
                    .map_err(|error| unreadable(key_file, "the private key", error))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    failure(format!(
                        "the client certificate {} and the private key {} do not go together",
                        cert_file.display(),
                        key_file.display()
                    ))
                    .because(error)
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name: server_name(options)?,
            advice: match options.tls.mode {
                TlsMode::VerifyIdentity => {
                    "; the certificate must come from the configured authority and list the host among its \
                     subject alternative names"
                }
                TlsMode::VerifyCa => "; the certificate must come from the configured authority",
                TlsMode::Disabled | TlsMode::Preferred | TlsMode::Required => "",
            },
        })
    }

    pub(super) async fn wrap(&self, stream: Transport) -> Result<Transport, ConnectionError> {
        let local = stream.is_local();
        match self.connector.connect(self.name.clone(), stream).await {
            Ok(stream) => Ok(Transport::wrap(stream, local)),
            Err(error) => {
                Err(ConnectionError::io(format!("the TLS handshake failed{}", self.advice), error).or_tls())
            }
        }
    }
}

fn failure(message: impl Into<String>) -> ConnectionError {
    ConnectionError::new(ConnectionErrorKind::Tls, message)
}

fn unreadable(file: &Path, what: &str, error: pem::Error) -> ConnectionError {
    ConnectionError::new(
        ConnectionErrorKind::Options,
        format!("{what} cannot be read from {}: a PEM file is expected", file.display()),
    )
    .because(error)
}

fn server_name(options: &ConnectOptions) -> Result<ServerName<'static>, ConnectionError> {
    let name = match (&options.tls.server_name, &options.socket) {
        (Some(name), _) => name.clone(),
        (None, Some(_)) => "localhost".to_owned(),
        (None, None) => options.host.clone(),
    };
    match ServerName::try_from(name.clone()) {
        Ok(name) => Ok(name),
        // Only the identity depends on the name; without it, a host that is no DNS name (with `_`, say) is as good.
        Err(_) if options.tls.mode != TlsMode::VerifyIdentity => {
            ServerName::try_from("localhost").map_err(|error| failure("TLS cannot be set up").because(error))
        }
        Err(error) => Err(ConnectionError::new(
            ConnectionErrorKind::Options,
            format!("\"{name}\" is neither an IP address nor a DNS name that a certificate can carry"),
        )
        .because(error)),
    }
}

fn certificates(file: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, ConnectionError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read.map_err(|error| unreadable(file, what, error))? {
        empty if empty.is_empty() => Err(unreadable(file, what, pem::Error::NoItemsFound)),
        certificates => Ok(certificates),
    }
}

fn roots(options: &TlsOptions) -> Result<RootCertStore, ConnectionError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &options.ca_file {
        for certificate in certificates(file, "the TLS authority")? {
            roots.add(certificate).map_err(|error| {
                failure(format!("{} holds a certificate that cannot be trusted", file.display()))
                    .because(error)
            })?;
        }
        return Ok(roots);
    }
    // Some of a system's certificates may be unusable; what counts is that there are any.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(ConnectionError::new(
            ConnectionErrorKind::Options,
            "the system has no trusted TLS authorities: install its CA certificates, or name the server's authority \
             in a file",
        ));
    }
    Ok(roots)
}

fn verifier(
    options: &TlsOptions,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, ConnectionError> {
    Ok(match options.mode {
        TlsMode::Disabled | TlsMode::Preferred | TlsMode::Required => {
            Arc::new(Unverified { schemes: provider.signature_verification_algorithms.supported_schemes() })
        }
        TlsMode::VerifyCa => {
            Arc::new(ChainVerified { roots: roots(options)?, provider: Arc::clone(provider) })
        }
        TlsMode::VerifyIdentity => {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots(options)?), Arc::clone(provider))
                .build()
                .map_err(|error| failure("TLS cannot be set up").because(error))?
        }
    })
}

/// Takes any certificate, also one that only OpenSSL understands, such as those of X.509 version 1 that the servers'
/// manuals teach to make. A signature by a key that nobody vouches for proves nothing, so it is not looked at either.
#[derive(Debug)]
struct Unverified {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// Verifies everything but the name.
#[derive(Debug)]
struct ChainVerified {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ChainVerified {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(certificate)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
