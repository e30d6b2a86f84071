//! Certificates for tests of TLS, made afresh each time and written as PEM files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// A certificate and its private key, as PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The private key's file, in PKCS#8.
    pub key: PathBuf,
}

/// A certificate authority with certificates for the usual cases; its folder is removed on drop.
#[derive(Debug)]
pub struct TlsMaterial {
    folder: tempfile::TempDir,
    /// The authority that signed all certificates here.
    pub ca: PathBuf,
    /// An authority that signed none of them.
    pub other_ca: PathBuf,
    /// A server's certificate for `localhost` and 127.0.0.1.
    pub server: Certificate,
    /// A server's certificate for a host that is neither.
    pub wrong_host: Certificate,
    /// A client's certificate, its common name being `client`.
    pub client: Certificate,
}

impl TlsMaterial {
    /// Makes the authorities and certificates and writes them to a temporary folder.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn generate() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("outbox-testbed-tls-").tempdir()?;
        let path = folder.path();
        let issuer = authority("testbed authority")?;
        let ca = write(path, "ca.pem", &issuer.pem())?;
        let other_ca = write(path, "other-ca.pem", &authority("unrelated authority")?.pem())?;
        let server = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let client = [ExtendedKeyUsagePurpose::ClientAuth];
        Ok(Self {
            ca,
            other_ca,
            server: certificate(path, "server", &["localhost", "127.0.0.1", "::1"], &server, &issuer)?,
            wrong_host: certificate(path, "wrong-host", &["elsewhere.example"], &server, &issuer)?,
            client: certificate(path, "client", &["client"], &client, &issuer)?,
            folder,
        })
    }

    /// The folder of the files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn certificate(
    folder: &Path,
    name: &str,
    hosts: &[&str],
    usages: &[ExtendedKeyUsagePurpose],
    issuer: &CertifiedIssuer<'_, KeyPair>,
) -> Result<Certificate> {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let signed = params.signed_by(&key, issuer)?;
    Ok(Certificate {
        certificate: write(folder, &format!("{name}.pem"), &signed.pem())?,
        key: write(folder, &format!("{name}-key.pem"), &key.serialize_pem())?,
    })
}

fn write(folder: &Path, name: &str, pem: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, pem)?;
    Ok(path)
}
