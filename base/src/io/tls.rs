//! The only file that knows how TLS is set up: mutual, no early data, no resumption, pinned names.
//!
//! The library verifies chain, validity and key usage against the deployment's CA; the name in the
//! certificate's URI SAN is compared afterwards (`peer_identity`), so that the connection is still
//! there to carry the reason to the other side.
//!
//! Not here: making certificates (`control-plane/src/pki.rs`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Identity, IdentityError};

/// File names of an identity's folder, as QEMU and libnbd read them.
pub const CA_CERT: &str = "ca-cert.pem";
/// Certificate shown when we listen.
pub const SERVER_CERT: &str = "server-cert.pem";
/// Key of [`SERVER_CERT`].
pub const SERVER_KEY: &str = "server-key.pem";
/// Certificate shown when we dial.
pub const CLIENT_CERT: &str = "client-cert.pem";
/// Key of [`CLIENT_CERT`].
pub const CLIENT_KEY: &str = "client-key.pem";

/// Why an identity's folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is missing or cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM of the right kind.
    #[error("{path} holds no usable {what}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Certificate or key.
        what: &'static str,
    },
    /// The library refuses the material, for example a key that does not fit its certificate.
    #[error("the certificates in {path} cannot be used")]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The CA certificate cannot be used to verify others.
    #[error("{path} cannot be used as a CA certificate")]
    Authority {
        /// The file.
        path: PathBuf,
    },
    /// The other side showed no certificate.
    #[error("the other side showed no certificate")]
    NoCertificate,
    /// A certificate without exactly one `stretch:` name.
    #[error("the certificate names no holder (a URI SAN of the form stretch:node/a)")]
    NoIdentity,
    /// A certificate whose `stretch:` name is malformed.
    #[error("the certificate's name is malformed")]
    Identity(#[from] IdentityError),
}

/// From when until when a certificate is valid, in seconds of UNIX time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Term {
    /// Its file.
    pub path: PathBuf,
    /// Not before this.
    pub begin: i64,
    /// Not after this.
    pub end: i64,
}

/// The two halves of one identity, ready to listen and to dial.
#[derive(Clone, Debug)]
pub struct TlsIdentity {
    /// Who we are, as our own certificate says.
    pub identity: Identity,
    /// When our certificate ends, in seconds of UNIX time.
    pub not_after: i64,
    /// Of the CA's certificates and of our own.
    pub terms: Vec<Term>,
    /// For connections between nodes, to the witness and to the admin port: TLS 1.3 only.
    pub server: Arc<ServerConfig>,
    /// As [`Self::server`] for NBD clients, which may be limited to TLS 1.2 (NBD.md 1.5).
    pub nbd_server: Arc<ServerConfig>,
    /// For dialling.
    pub client: Arc<ClientConfig>,
}

impl TlsIdentity {
    /// Loads the folder `dir`.
    ///
    /// # Errors
    /// Which file is missing or unusable, and why.
    pub fn load(dir: &Path) -> Result<Self, TlsError> {
        let roots = load_roots(&dir.join(CA_CERT))?;
        let server_certs = load_certs(&dir.join(SERVER_CERT))?;
        let identity = certificate_identity(&server_certs[0])?;
        let not_after = certificate_term(&server_certs[0], &dir.join(SERVER_CERT))?.end;
        let mut terms = Vec::new();
        for path in [CA_CERT, SERVER_CERT, CLIENT_CERT].map(|file| dir.join(file)) {
            for cert in load_certs(&path)? {
                terms.push(certificate_term(&cert, &path)?);
            }
        }
        let server = server_config(dir, &roots, &server_certs, &[&TLS13])?;
        let nbd_server = server_config(dir, &roots, &server_certs, &[&TLS13, &TLS12])?;
        let client = client_config(dir, roots)?;
        Ok(Self { identity, not_after, terms, server, nbd_server, client })
    }

    /// Loads the dialling half only: an operator's or a host's folder may hold no server
    /// certificate.
    ///
    /// # Errors
    /// Which file is missing or unusable, and why.
    pub fn load_client(dir: &Path) -> Result<Arc<ClientConfig>, TlsError> {
        client_config(dir, load_roots(&dir.join(CA_CERT))?)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn server_config(
    dir: &Path,
    roots: &Arc<RootCertStore>,
    certs: &[CertificateDer<'static>],
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, TlsError> {
    let unusable = |source| TlsError::Unusable { path: dir.to_owned(), source };
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
        .build()
        .map_err(|_| TlsError::Authority { path: dir.join(CA_CERT) })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certs.to_vec(), load_key(&dir.join(SERVER_KEY))?)
        .map_err(unusable)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn client_config(dir: &Path, roots: Arc<RootCertStore>) -> Result<Arc<ClientConfig>, TlsError> {
    let unusable = |source| TlsError::Unusable { path: dir.to_owned(), source };
    let certs = load_certs(&dir.join(CLIENT_CERT))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ChainVerifier { roots, provider: provider() }))
        .with_client_auth_cert(certs, load_key(&dir.join(CLIENT_KEY))?)
        .map_err(unusable)?;
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

fn load_roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for cert in load_certs(path)? {
        roots.add(cert).map_err(|_| TlsError::Authority { path: path.to_owned() })?;
    }
    Ok(Arc::new(roots))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn load_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certs {
        Ok(certs) if !certs.is_empty() => Ok(certs),
        _ => Err(TlsError::Pem { path: path.to_owned(), what: "certificate" }),
    }
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|_| TlsError::Pem { path: path.to_owned(), what: "private key" })
}

/// The holder that `cert` names.
///
/// # Errors
/// No `stretch:` name, more than one, or a malformed one.
pub fn certificate_identity(cert: &CertificateDer<'_>) -> Result<Identity, TlsError> {
    let (_, parsed) = X509Certificate::from_der(cert).map_err(|_| TlsError::NoIdentity)?;
    let names = parsed.subject_alternative_name().map_err(|_| TlsError::NoIdentity)?;
    let mut found = None;
    for name in names.map(|n| n.value.general_names.as_slice()).unwrap_or_default() {
        if let GeneralName::URI(uri) = name
            && uri.starts_with("stretch:")
        {
            if found.is_some() {
                return Err(TlsError::NoIdentity);
            }
            found = Some(uri.parse::<Identity>()?);
        }
    }
    found.ok_or(TlsError::NoIdentity)
}

fn certificate_term(cert: &CertificateDer<'_>, path: &Path) -> Result<Term, TlsError> {
    let (_, parsed) = X509Certificate::from_der(cert)
        .map_err(|_| TlsError::Pem { path: path.to_owned(), what: "X.509 certificate" })?;
    let validity = parsed.validity();
    let (begin, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Ok(Term { path: path.to_owned(), begin, end })
}

/// Who is on the other side of a finished handshake.
///
/// # Errors
/// No certificate, or one without exactly one well-formed name.
pub fn peer_identity(certs: Option<&[CertificateDer<'_>]>) -> Result<Identity, TlsError> {
    let cert = certs.and_then(|certs| certs.first()).ok_or(TlsError::NoCertificate)?;
    certificate_identity(cert)
}

/// The name sent in a ClientHello. Nothing is verified against it.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("stretch").expect("a valid DNS name")
}

/// Verifies chain, validity and signatures of a server; its name is compared after the handshake.
#[derive(Debug)]
struct ChainVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let cert = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &cert,
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
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
