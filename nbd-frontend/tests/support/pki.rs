//! A deployment's CA and the folders of its identities, as QEMU and libnbd read them.

use std::fs;
use std::path::{Path, PathBuf};

use base::io::tls::{CA_CERT, CLIENT_CERT, CLIENT_KEY, SERVER_CERT, SERVER_KEY};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

pub struct Deployment {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

impl Deployment {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "test deployment");
        let key = KeyPair::generate().expect("a key");
        let ca_pem = params.self_signed(&key).expect("a CA").pem();
        let dir = tempfile::tempdir().expect("a folder");
        Self { dir, issuer: Issuer::new(params, key), ca_pem }
    }

    /// The folder of a holder, for example `stretch:host/host1`.
    pub fn issue(&self, identity: &str) -> PathBuf {
        self.issue_with(identity, |_| {})
    }

    pub fn issue_with(&self, identity: &str, change: fn(&mut CertificateParams)) -> PathBuf {
        let dir = self.dir.path().join(identity.replace([':', '/'], "-"));
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join(CA_CERT), &self.ca_pem).expect("written");
        self.write(&dir, identity, (SERVER_CERT, SERVER_KEY), change);
        self.write(&dir, identity, (CLIENT_CERT, CLIENT_KEY), change);
        dir
    }

    fn write(
        &self,
        dir: &Path,
        identity: &str,
        names: (&str, &str),
        change: fn(&mut CertificateParams),
    ) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, identity);
        params.subject_alt_names = vec![
            SanType::URI(identity.try_into().expect("ASCII")),
            SanType::DnsName("localhost".try_into().expect("ASCII")),
            SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
        ];
        // QEMU refuses a certificate without key encipherment, although ECDSA has no use for it.
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        fs::write(dir.join(names.0), cert.pem()).expect("written");
        fs::write(dir.join(names.1), key.serialize_pem()).expect("written");
    }
}
