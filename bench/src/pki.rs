//! Throw-away certificates in the layout that Stretch, QEMU and nbdkit read.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Writes a new CA and, signed by it, one folder for each of `names`, each with a server's and a
/// client's half for `localhost` and 127.0.0.1.
///
/// # Errors
/// The folder cannot be written.
pub fn write(dir: &Path, names: &[&str]) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "bench CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let ca_pem = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    for name in names {
        let folder = dir.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        fs::write(folder.join("ca-cert.pem"), &ca_pem)?;
        for (half, usage) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let (cert, key) = issue(&issuer, name, usage)?;
            fs::write(folder.join(format!("{half}-cert.pem")), cert)?;
            fs::write(folder.join(format!("{half}-key.pem")), key)?;
        }
    }
    Ok(())
}

fn issue(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    usage: ExtendedKeyUsagePurpose,
) -> Result<(String, String)> {
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    let uri = Ia5String::try_from(format!("stretch:node/{name}"))?;
    params.subject_alt_names.push(SanType::URI(uri));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}
