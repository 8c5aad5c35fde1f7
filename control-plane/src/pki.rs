//! The certificates of a deployment: one CA, and for every node, witness, host and operator an
//! identity with a server's and a client's half. ECDSA P-256.
//!
//! A certificate names its holder in a URI SAN, `stretch:node/a`. A server's half also carries the
//! holder's addresses and DNS names, for NBD clients that check them (libnbd, QEMU).
//! Keys and times are handed in.
//! Not here: making keys, files (`io/pki_files.rs`), verifying (`base::io::tls`).

use std::net::IpAddr;

use base::identity::Identity;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

/// Days that a certificate is valid if nothing else is said: ten years.
pub const DAYS_DEFAULT: u32 = 3650;
/// How long before its making a certificate begins to be valid, so that a machine whose clock is a
/// little behind accepts it, in seconds.
pub const BACKDATED_SECONDS: i64 = 3600;

/// Begins the common name of a CA; its key's id follows, so that the certificates of another
/// deployment are told apart by their issuer's name already.
const CA_NAME: &str = "Stretch CA";

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A DNS name with characters that a certificate cannot hold.
    #[error("'{0}' is no DNS name")]
    Dns(String),
    /// The library refuses.
    #[error("the certificate cannot be made")]
    Library(#[from] rcgen::Error),
    /// A time that no certificate can express.
    #[error("the time {0} (seconds since 1970) cannot be in a certificate")]
    Time(i64),
}

/// From when to when a certificate is valid, in seconds of UNIX time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// Not before.
    pub begin: i64,
    /// Not after.
    pub end: i64,
}

impl Validity {
    /// `days` from `now`, begun a little earlier.
    pub fn days(now: i64, days: u32) -> Self {
        Self { begin: now - BACKDATED_SECONDS, end: now + i64::from(days) * 86_400 }
    }

    fn apply(self, params: &mut CertificateParams) -> Result<(), PkiError> {
        params.not_before = to_time(self.begin)?;
        params.not_after = to_time(self.end)?;
        Ok(())
    }
}

/// The day (UTC) of a time in seconds since 1970, as people write it.
pub fn day(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds);
    time.map_or_else(|_| format!("{seconds} s since 1970"), |time| time.date().to_string())
}

fn to_time(seconds: i64) -> Result<OffsetDateTime, PkiError> {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .filter(|time| (1950..=9999).contains(&time.year()))
        .ok_or(PkiError::Time(seconds))
}

/// Which half of an identity a certificate is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    /// Shown by the side that listens.
    Server,
    /// Shown by the side that dials.
    Client,
}

/// What a certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Whose it is.
    pub holder: Identity,
    /// Addresses that the holder is reached at; in the server's half only.
    pub addresses: Vec<IpAddr>,
    /// DNS names that the holder is reached at; in the server's half only.
    pub dns_names: Vec<String>,
    /// How long it is valid.
    pub validity: Validity,
}

/// The CA's own certificate, as PEM.
///
/// # Errors
/// The times are impossible.
pub fn authority(key: &KeyPair, validity: Validity) -> Result<String, PkiError> {
    let mut params = CertificateParams::default();
    let id: String =
        params.key_identifier(key).iter().take(4).map(|b| format!("{b:02x}")).collect();
    params.distinguished_name = common_name(&format!("{CA_NAME} {id}"));
    // It signs holders, never another CA.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity.apply(&mut params)?;
    Ok(params.self_signed(key)?.pem())
}

/// One half of an identity, signed by the CA, as PEM.
///
/// # Errors
/// A name or time cannot be in a certificate, or the CA's certificate and key are unusable.
pub fn certificate(
    request: &Request,
    half: Half,
    key: &KeyPair,
    ca_cert_pem: &str,
    ca_key: &KeyPair,
) -> Result<String, PkiError> {
    let issuer = Issuer::from_ca_cert_pem(ca_cert_pem, ca_key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(request.holder.name.as_str());
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    // An EC key enciphers nothing, but QEMU before 10 refuses a certificate that does not allow it.
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    let uri = Ia5String::try_from(request.holder.to_string())?;
    params.subject_alt_names.push(SanType::URI(uri));
    match half {
        Half::Client => {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        Half::Server => {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            for address in &request.addresses {
                params.subject_alt_names.push(SanType::IpAddress(*address));
            }
            for name in &request.dns_names {
                params.subject_alt_names.push(SanType::DnsName(dns_name(name)?));
            }
        }
    }
    request.validity.apply(&mut params)?;
    Ok(params.signed_by(key, &issuer)?.pem())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn dns_name(name: &str) -> Result<Ia5String, PkiError> {
    let label = |label: &str| {
        let wildcard = label == "*";
        let edge = label.starts_with('-') || label.ends_with('-');
        let good = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        wildcard || (!label.is_empty() && label.len() <= 63 && good && !edge)
    };
    let refuse = || PkiError::Dns(name.to_owned());
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(refuse());
    }
    Ia5String::try_from(name).map_err(|_| refuse())
}
