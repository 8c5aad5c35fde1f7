//! Makes keys and writes the folders of `stretch pki`: `ca-cert.pem` and `ca-key.pem`, and one
//! folder per holder in the layout that QEMU and libnbd read.
//!
//! Keys are readable by their owner only. Nothing is ever overwritten: a holder's folder appears
//! whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base::io::tls::{CA_CERT, CLIENT_CERT, CLIENT_KEY, SERVER_CERT, SERVER_KEY};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use x509_parser::pem::Pem;

use crate::pki::{self, Half, PkiError, Request, Validity};

/// Name of the CA's key.
pub const CA_KEY: &str = "ca-key.pem";

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiFileError {
    /// It is there already.
    #[error("{0} exists and is never overwritten; remove it first if it is really to be replaced")]
    Exists(PathBuf),
    /// No CA in the folder.
    #[error("{0} cannot be read; stretch pki ca --dir DIR makes the CA first")]
    NoAuthority(PathBuf, #[source] io::Error),
    /// The CA's files hold something else.
    #[error("{0} holds no usable key")]
    Key(PathBuf, #[source] rcgen::Error),
    /// The system refuses.
    #[error("{0} cannot be written")]
    Write(PathBuf, #[source] io::Error),
    /// The certificate cannot be made.
    #[error(transparent)]
    Certificate(#[from] PkiError),
}

fn new_key() -> Result<KeyPair, PkiError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// Makes a CA in `dir`, which is made if need be.
///
/// # Errors
/// There is one already, or the system refuses.
pub fn make_authority(dir: &Path, validity: Validity) -> Result<(), PkiFileError> {
    let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
    if let Some(there) = [&key_path, &cert_path].into_iter().find(|path| path.exists()) {
        return Err(PkiFileError::Exists(there.clone()));
    }
    make_dir(dir, true)?;
    let key = new_key()?;
    let cert = pki::authority(&key, validity)?;
    write_new(&key_path, &key.serialize_pem(), 0o600)?;
    write_new(&cert_path, &cert, 0o644)
}

/// Makes the identity `request` asks for in `dir/NAME`; returns that folder.
///
/// # Errors
/// It exists, there is no CA, or the system refuses.
pub fn issue(dir: &Path, request: &Request) -> Result<PathBuf, PkiFileError> {
    let folder = dir.join(request.holder.name.as_str());
    if folder.exists() {
        return Err(PkiFileError::Exists(folder));
    }
    let ca_cert = read(&dir.join(CA_CERT))?;
    let ca_key_path = dir.join(CA_KEY);
    let ca_key = KeyPair::from_pem(&read(&ca_key_path)?)
        .map_err(|error| PkiFileError::Key(ca_key_path, error))?;
    let mut files = vec![(CA_CERT, ca_cert.clone(), 0o644)];
    for (half, cert_name, key_name) in
        [(Half::Server, SERVER_CERT, SERVER_KEY), (Half::Client, CLIENT_CERT, CLIENT_KEY)]
    {
        let key = new_key()?;
        let cert = pki::certificate(request, half, &key, &ca_cert, &ca_key)?;
        files.push((cert_name, cert, 0o644));
        files.push((key_name, key.serialize_pem(), 0o600));
    }
    // Written beside and renamed: a crash leaves no half identity under the holder's name.
    let beside = dir.join(format!(".{}.{}", request.holder.name, std::process::id()));
    make_dir(&beside, false)?;
    let written = files
        .iter()
        .try_for_each(|(name, contents, mode)| write_new(&beside.join(name), contents, *mode))
        .and_then(|()| {
            fs::rename(&beside, &folder).map_err(|error| PkiFileError::Write(folder.clone(), error))
        });
    if let Err(error) = written {
        // Best effort: what was there stays, what we began goes.
        let _ = fs::remove_dir_all(&beside);
        return Err(error);
    }
    Ok(folder)
}

/// Who signed the first certificate of the file at `path`; none if that cannot be told.
pub fn issuer(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let pem = Pem::iter_from_buffer(&bytes).next()?.ok()?;
    let cert = pem.parse_x509().ok()?;
    let name = cert.issuer().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

fn read(path: &Path) -> Result<String, PkiFileError> {
    fs::read_to_string(path).map_err(|error| PkiFileError::NoAuthority(path.to_owned(), error))
}

fn make_dir(path: &Path, recursive: bool) -> Result<(), PkiFileError> {
    DirBuilder::new()
        .recursive(recursive)
        .mode(0o755)
        .create(path)
        .map_err(|error| PkiFileError::Write(path.to_owned(), error))
}

fn write_new(path: &Path, contents: &str, mode: u32) -> Result<(), PkiFileError> {
    let write = |mut file: File| {
        file.write_all(contents.as_bytes())?;
        file.sync_all()
    };
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(write)
        .map_err(|error| PkiFileError::Write(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use base::identity::Identity;
    use base::io::tls::{TlsError, TlsIdentity};

    use super::*;

    const YEAR_2020: Validity = Validity { begin: 1_577_836_800, end: 1_577_923_200 };

    fn request(holder: &str) -> Request {
        Request {
            holder: holder.parse().unwrap(),
            addresses: vec!["127.0.0.11".parse().unwrap(), "::1".parse().unwrap()],
            dns_names: vec!["a.example.org".to_owned()],
            validity: YEAR_2020,
        }
    }

    #[test]
    fn an_identity_loads_and_its_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("pki");
        make_authority(&dir, YEAR_2020).unwrap();
        let folder = issue(&dir, &request("stretch:node/a")).unwrap();
        let loaded = TlsIdentity::load(&folder).unwrap();
        assert_eq!(loaded.identity, "stretch:node/a".parse::<Identity>().unwrap());
        assert_eq!(loaded.not_after, YEAR_2020.end);
        let terms: Vec<_> =
            loaded.terms.iter().map(|t| (t.path.as_path(), t.begin, t.end)).collect();
        let files = [CA_CERT, SERVER_CERT, CLIENT_CERT].map(|file| folder.join(file));
        let expected =
            files.each_ref().map(|path| (path.as_path(), YEAR_2020.begin, YEAR_2020.end));
        assert_eq!(terms, expected);
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(dir.join(CA_KEY)), 0o600);
        assert_eq!(mode(folder.join(SERVER_KEY)), 0o600);
        assert_eq!(mode(folder.join(CLIENT_KEY)), 0o600);
        let mut names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a", CA_CERT, CA_KEY]);
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let missing = issue(dir.path(), &request("stretch:node/a")).unwrap_err();
        assert!(matches!(missing, PkiFileError::NoAuthority(..)), "{missing}");
        make_authority(dir.path(), YEAR_2020).unwrap();
        let key = fs::read(dir.path().join(CA_KEY)).unwrap();
        let again = make_authority(dir.path(), YEAR_2020).unwrap_err();
        assert!(matches!(again, PkiFileError::Exists(_)), "{again}");
        issue(dir.path(), &request("stretch:node/a")).unwrap();
        let again = issue(dir.path(), &request("stretch:host/a")).unwrap_err();
        assert!(matches!(again, PkiFileError::Exists(_)), "{again}");
        assert_eq!(fs::read(dir.path().join(CA_KEY)).unwrap(), key);
    }

    #[test]
    fn a_key_of_another_identity_does_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        make_authority(dir.path(), YEAR_2020).unwrap();
        let a = issue(dir.path(), &request("stretch:node/a")).unwrap();
        let b = issue(dir.path(), &request("stretch:node/b")).unwrap();
        fs::copy(b.join(SERVER_KEY), a.join(SERVER_KEY)).unwrap();
        assert!(matches!(TlsIdentity::load(&a), Err(TlsError::Unusable { .. })));
    }

    #[test]
    fn certificates_say_what_they_are_for() {
        let dir = tempfile::tempdir().unwrap();
        make_authority(dir.path(), YEAR_2020).unwrap();
        let folder = issue(dir.path(), &request("stretch:node/a")).unwrap();
        let mut report = String::new();
        for path in [dir.path().join(CA_CERT), folder.join(SERVER_CERT), folder.join(CLIENT_CERT)] {
            report.push_str(&describe(&path));
        }
        let key_id = report.split("Stretch CA ").nth(1).and_then(|rest| rest.get(..8)).unwrap();
        insta::assert_snapshot!(report.replace(key_id, "KEY-ID"));
    }

    fn describe(path: &Path) -> String {
        let bytes = fs::read(path).unwrap();
        let pem = Pem::iter_from_buffer(&bytes).next().unwrap().unwrap();
        let cert = pem.parse_x509().unwrap();
        let name = path.file_name().unwrap().display();
        let mut lines = vec![format!("{name}: {} by {}", cert.subject(), cert.issuer())];
        lines.push(format!("{} {}", cert.validity().not_before, cert.validity().not_after));
        let ca = cert.basic_constraints().unwrap().unwrap();
        lines.push(format!("critical {} {:?}", ca.critical, ca.value));
        lines.push(format!("{}", cert.key_usage().unwrap().unwrap().value));
        if let Some(usage) = cert.extended_key_usage().unwrap() {
            lines.push(format!(
                "server {} client {}",
                usage.value.server_auth, usage.value.client_auth
            ));
        }
        if let Some(names) = cert.subject_alternative_name().unwrap() {
            lines.push(format!("{:?}", names.value.general_names));
        }
        lines.push(format!("{}\n", cert.signature_algorithm.algorithm));
        lines.join("\n  ")
    }
}
