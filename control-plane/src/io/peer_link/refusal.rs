//! Why a connection between the nodes was refused, in words: whose certificate, and what to do.
//!
//! Invariants: two refusals for the same reason are the same text, whenever they happen, so that
//! log and status tell them once.
//! Not here: the check itself (`base::io::tls`), one's own certificates (`certificates`).

use std::io;

use base::ids::NodeName;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

use super::SetupError;

/// Why there is no connection to the peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// What happened.
    pub why: String,
    /// What to do, where more is known than that the peer does not answer; else empty.
    pub advice: String,
}

impl Trouble {
    /// Of a connection between `node`, which is this one, and `peer`.
    pub(super) fn new(error: &SetupError, node: &NodeName, peer: &NodeName) -> Self {
        refusal(error, node, peer)
            .unwrap_or_else(|| Self { why: error.to_string(), advice: String::new() })
    }

    /// Whether it is about certificates: the other side is there, and waiting does not help.
    pub fn is_refusal(&self) -> bool {
        !self.advice.is_empty()
    }
}

fn refusal(error: &SetupError, node: &NodeName, peer: &NodeName) -> Option<Trouble> {
    match error {
        SetupError::Io(error) => match tls_error(error)? {
            Error::InvalidCertificate(error) => Some(refused_here(error, node, peer)),
            Error::AlertReceived(alert) => refused_there(*alert, node, peer),
            // Not about certificates: a stranger, or a connection that broke.
            _ => None,
        },
        SetupError::Certificate(error) => Some(Trouble {
            why: format!("{node} refuses the certificate of {peer}: {error}"),
            advice: new_certificate(peer),
        }),
        SetupError::Holder { found, expected } => Some(Trouble {
            why: format!(
                "{node} expects the certificate of {expected}, the other side has that of {found}"
            ),
            advice: format!(
                "look at [peer] name and address of node {node}, and at tls.dir of the other side"
            ),
        }),
        SetupError::Timeout | SetupError::Frame(_) => None,
    }
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// This node does not accept what the other side showed.
fn refused_here(error: &CertificateError, node: &NodeName, peer: &NodeName) -> Trouble {
    let (reason, advice) = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            ("it has expired".to_owned(), new_certificate(peer))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            "it is not valid yet".to_owned(),
            format!("look at the clocks of both machines; else {}", new_certificate(peer)),
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            (format!("it is not from the CA that {node} knows"), one_authority(node, peer))
        }
        other => (format!("{other:?}"), new_certificate(peer)),
    };
    Trouble { why: format!("{node} refuses the certificate of {peer}: {reason}"), advice }
}

/// The other side does not accept what this node showed; a TLS alert says no more.
fn refused_there(alert: AlertDescription, node: &NodeName, peer: &NodeName) -> Option<Trouble> {
    let (reason, advice) = match alert {
        AlertDescription::CertificateExpired => (
            "it has expired, or is not valid yet".to_owned(),
            format!("{}; look at the clocks of both machines, too", new_certificate(node)),
        ),
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            (format!("it is not from the CA that {peer} knows"), one_authority(node, peer))
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRequired
        | AlertDescription::AccessDenied => (format!("{alert:?}"), new_certificate(node)),
        _ => return None,
    };
    let why = format!("{peer} refuses the certificate of {node}: {reason}");
    Some(Trouble { why, advice })
}

fn new_certificate(node: &NodeName) -> String {
    format!(
        "issue node {node} a new certificate (`stretch pki issue`), put it into its tls.dir and \
         restart node {node}"
    )
}

fn one_authority(node: &NodeName, peer: &NodeName) -> String {
    format!(
        "the certificates of {node} and {peer} must come from one CA: give both the same \
         ca-cert.pem and certificates of that CA, and restart them"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn trouble(error: Error) -> Trouble {
        let [a, b] = ["a", "b"].map(|name| name.parse().expect("a name"));
        Trouble::new(&SetupError::Io(io::Error::new(io::ErrorKind::InvalidData, error)), &a, &b)
    }

    #[test]
    fn a_refusal_names_the_certificate_and_says_what_to_do() {
        for (error, why, advice) in [
            (
                Error::InvalidCertificate(CertificateError::Expired),
                "a refuses the certificate of b: it has expired",
                "issue node b a new certificate",
            ),
            (
                Error::InvalidCertificate(CertificateError::NotValidYet),
                "a refuses the certificate of b: it is not valid yet",
                "look at the clocks",
            ),
            (
                Error::InvalidCertificate(CertificateError::UnknownIssuer),
                "a refuses the certificate of b: it is not from the CA that a knows",
                "must come from one CA",
            ),
            (
                Error::AlertReceived(AlertDescription::CertificateExpired),
                "b refuses the certificate of a: it has expired",
                "issue node a a new certificate",
            ),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                "b refuses the certificate of a: it is not from the CA that b knows",
                "must come from one CA",
            ),
            (
                Error::AlertReceived(AlertDescription::BadCertificate),
                "b refuses the certificate of a: BadCertificate",
                "issue node a",
            ),
        ] {
            let found = trouble(error);
            assert!(found.is_refusal(), "{found:?}");
            assert!(found.why.contains(why), "{found:?}");
            assert!(found.advice.contains(advice), "{found:?}");
        }
        let broken = trouble(Error::AlertReceived(AlertDescription::InternalError));
        assert!(!broken.is_refusal(), "{broken:?}");
    }

    #[test]
    fn a_text_does_not_count_the_time() {
        let seconds =
            |s| tokio_rustls::rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(s));
        let expired = |now| {
            trouble(Error::InvalidCertificate(CertificateError::ExpiredContext {
                time: seconds(now),
                not_after: seconds(10),
            }))
        };
        assert_eq!(expired(11), expired(4000));
    }
}
