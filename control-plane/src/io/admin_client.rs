//! Asks a node's admin API: through its UNIX socket, or over mutual TLS as an operator.
//!
//! Over TLS the other end must show a certificate of kind node, and its answers must bear the name
//! in that certificate.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::identity::{Identity, Kind};
use base::io::tls::{TlsError, TlsIdentity, peer_identity, server_name};
use base::limits;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, rustls};

use super::admin_server::short_path;
use crate::admin::{PAIR_CONFIG_PATH, Refusal, STATUS_PATH};
use crate::config::PairConfig;
use crate::status::NodeStatus;

/// Time for one question and its answer.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Which node, and how it is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// On this machine.
    Socket(PathBuf),
    /// Anywhere.
    Remote {
        /// HOST:PORT of its admin port.
        address: String,
        /// The folder of an operator's identity.
        identity: PathBuf,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Remote { address, .. } => f.write_str(address),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing listens there, or it does not answer.
    #[error("no node answers at {target}; is it running?")]
    Unreachable {
        /// Where.
        target: Target,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// It did not answer in time.
    #[error("the node at {target} did not answer within {} s", QUESTION_TIMEOUT.as_secs())]
    Slow {
        /// Where.
        target: Target,
    },
    /// The node answers but cannot say what was asked right now.
    #[error("the node at {target} cannot answer now: {}; {}", refusal.error, refusal.advice)]
    Unavailable {
        /// Where.
        target: Target,
        /// Why, in its words.
        refusal: Refusal,
    },
    /// The node refuses us.
    #[error("the node at {target} refuses: {}; {}", refusal.error, refusal.advice)]
    Refused {
        /// Where.
        target: Target,
        /// Why, in its words.
        refusal: Refusal,
    },
    /// The socket is somebody else's.
    #[error(
        "{target} may be used only by root and by the user that the node runs as; run this as that \
         user, or ask with --node HOST:PORT and an operator's identity"
    )]
    NotOwner {
        /// Where.
        target: Target,
    },
    /// Something answers, but neither TLS nor HTTP.
    #[error(
        "what answers at {target} is not a node's admin port; give the address of [admin] listen \
         in that node's file, for example 10.0.0.2:10811"
    )]
    WrongPort {
        /// Where.
        target: Target,
        /// What came.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// One side does not accept the other's certificate.
    #[error("no trust between {identity} and {target}: {}", distrust(source, identity))]
    Certificate {
        /// Where.
        target: Target,
        /// Our folder.
        identity: PathBuf,
        /// Who refuses whom, and why.
        #[source]
        source: Box<rustls::Error>,
    },
    /// Our own folder cannot be used.
    #[error("the operator's identity cannot be used (--identity)")]
    Identity(#[source] Box<TlsError>),
    /// The other end is trusted by the CA, but no node.
    #[error("{target} is no node")]
    Nameless {
        /// Where.
        target: Target,
        /// Why.
        #[source]
        source: Box<TlsError>,
    },
    /// The other end is trusted by the CA, but no node.
    #[error("{target} is {found}, not a node; nothing was sent to it")]
    NotANode {
        /// Where.
        target: Target,
        /// Who it is.
        found: Identity,
    },
    /// The certificate names one node, the answer another.
    #[error("{target} has the certificate of {found} but answers as {answered}")]
    WrongName {
        /// Where.
        target: Target,
        /// Who it is.
        found: Identity,
        /// Who it says it is.
        answered: base::ids::NodeName,
    },
    /// Not an answer of this API.
    #[error("{target} does not answer like a node of this version")]
    Malformed {
        /// Where.
        target: Target,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ClientError {
    /// Whether asking again later may help.
    pub fn unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Slow { .. } | Self::Unavailable { .. })
    }
}

/// The node's own status.
///
/// # Errors
/// It is not reachable, does not trust us or is not trusted.
pub async fn status(target: &Target) -> Result<NodeStatus, ClientError> {
    let (holder, status) = ask::<NodeStatus>(target, STATUS_PATH).await?;
    match holder {
        Some(found) if found.name != status.node => {
            Err(ClientError::WrongName { target: target.clone(), found, answered: status.node })
        }
        _ => Ok(status),
    }
}

/// The agreement of the pair, as the node has it.
///
/// # Errors
/// As [`status`].
pub async fn pair_config(target: &Target) -> Result<PairConfig, ClientError> {
    Ok(ask(target, PAIR_CONFIG_PATH).await?.1)
}

async fn ask<T: DeserializeOwned>(
    target: &Target,
    path: &str,
) -> Result<(Option<Identity>, T), ClientError> {
    match tokio::time::timeout(QUESTION_TIMEOUT, ask_once(target, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::Slow { target: target.clone() }),
    }
}

async fn ask_once<T: DeserializeOwned>(
    target: &Target,
    path: &str,
) -> Result<(Option<Identity>, T), ClientError> {
    let unreachable = |source: io::Error| failure(target, source.into());
    match target {
        Target::Socket(socket) => {
            let (_folder, short) = short_path(socket).map_err(unreachable)?;
            let stream = UnixStream::connect(short).await.map_err(unreachable)?;
            Ok((None, exchange(target, stream, path).await?))
        }
        Target::Remote { address, identity } => {
            let config = TlsIdentity::load_client(identity)
                .map_err(|error| ClientError::Identity(Box::new(error)))?;
            let stream = TcpStream::connect(address).await.map_err(unreachable)?;
            let connector = TlsConnector::from(config);
            let stream = connector.connect(server_name(), stream).await.map_err(unreachable)?;
            let holder = peer_identity(stream.get_ref().1.peer_certificates())
                .map_err(Box::new)
                .map_err(|source| ClientError::Nameless { target: target.clone(), source })?;
            if holder.kind != Kind::Node {
                return Err(ClientError::NotANode { target: target.clone(), found: holder });
            }
            Ok((Some(holder), exchange(target, stream, path).await?))
        }
    }
}

async fn exchange<T, S>(target: &Target, stream: S, path: &str) -> Result<T, ClientError>
where
    T: DeserializeOwned,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| failure(target, error.into());
    let (mut sender, connection) =
        http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(path)
        .header(header::HOST, "stretch")
        .body(Empty::new())
        .expect("a constant path and header");
    // Moved in: the connection ends when its sender is gone.
    let question = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), limits::ADMIN_ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| failure(target, error))?;
        Ok((status, body.to_bytes()))
    };
    // The connection ends with an error when the other side refuses our certificate: TLS 1.3 says
    // so only after our handshake is over, and the question then fails without a reason.
    let (answer, ended) = tokio::join!(question, async {
        let ended = connection.await;
        ended.err()
    });
    let (status, body) = match (answer, ended) {
        (Ok(answer), _) => answer,
        (Err(_), Some(reason)) if tls_reason(&reason).is_some() => return Err(broken(reason)),
        (Err(error), _) => return Err(error),
    };
    read_answer(target, status, &body)
}

fn read_answer<T: DeserializeOwned>(
    target: &Target,
    status: StatusCode,
    body: &[u8],
) -> Result<T, ClientError> {
    let malformed = |error: serde_json::Error| ClientError::Malformed {
        target: target.clone(),
        source: error.into(),
    };
    if status == StatusCode::OK {
        return serde_json::from_slice(body).map_err(malformed);
    }
    let refusal: Refusal = serde_json::from_slice(body).map_err(malformed)?;
    let target = target.clone();
    Err(if status == StatusCode::SERVICE_UNAVAILABLE {
        ClientError::Unavailable { target, refusal }
    } else {
        ClientError::Refused { target, refusal }
    })
}

/// Distrust is not the same as absence: the first needs another certificate, the second a retry.
fn failure(target: &Target, error: Box<dyn Error + Send + Sync>) -> ClientError {
    let reason = tls_reason(error.as_ref());
    let refused = find::<io::Error>(error.as_ref())
        .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    let garbled = reason.is_none()
        && (find::<rustls::Error>(error.as_ref()).is_some()
            || find::<hyper::Error>(error.as_ref()).is_some_and(hyper::Error::is_parse));
    let target = target.clone();
    match (&target, reason) {
        (Target::Remote { identity, .. }, Some(reason)) => ClientError::Certificate {
            identity: identity.clone(),
            source: Box::new(reason.clone()),
            target,
        },
        (Target::Socket(_), _) if refused => ClientError::NotOwner { target },
        _ if garbled => ClientError::WrongPort { target, source: error },
        _ => ClientError::Unreachable { target, source: error },
    }
}

/// What the TLS library says about certificates, if that is behind `error`.
fn tls_reason<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    find::<rustls::Error>(error).filter(|reason| {
        matches!(reason, rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
    })
}

/// The first `E` in the chain that begins with `error`; inside an `io::Error`, too.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(|io| io.get_ref());
        let found =
            error.downcast_ref::<E>().or_else(|| inner.and_then(|inner| inner.downcast_ref::<E>()));
        if found.is_some() {
            return found;
        }
        next = error.source();
    }
    None
}

/// Who refuses whose certificate, and what to do about it.
fn distrust(reason: &rustls::Error, identity: &Path) -> String {
    use rustls::{AlertDescription as Alert, CertificateError};
    let identity = identity.display();
    match reason {
        rustls::Error::AlertReceived(Alert::CertificateExpired) => format!(
            "the node refuses the certificate in {identity}, because it has ended or is not valid \
             yet; issue another with `stretch pki issue --kind operator`, or set the clock of the \
             node's machine"
        ),
        rustls::Error::AlertReceived(Alert::UnknownCA | Alert::DecryptError) => format!(
            "the node refuses the certificate in {identity}, because another CA issued it; use one \
             that the node's CA issued"
        ),
        rustls::Error::AlertReceived(_) => {
            format!("the node refuses the certificate in {identity}; its log says why")
        }
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the node's certificate has ended; issue the node another with `stretch pki issue`, \
              put it into its folder and restart the node"
            .to_owned(),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => format!(
            "the node's certificate was issued by another CA than the one in {identity}; use an \
             identity of the node's deployment"
        ),
        _ => "the node's certificate is refused".to_owned(),
    }
}
