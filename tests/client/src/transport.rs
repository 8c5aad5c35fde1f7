//! A connected socket, plain or inside TLS, blocking or not, to read from and write to.
//! Owns: the socket, and what TLS holds on its way.
//! Faults assumed: an end without close_notify is an end of the connection, not of the data.
//! Not here: what the bytes mean (`connection`, `session`).

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Plain text that waits inside TLS, at most, in bytes.
const TLS_BACKLOG_MAX: usize = 256 << 10;

/// Why a folder of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be used: {why}")]
pub struct IdentityError {
    path: PathBuf,
    why: String,
}

/// A host's identity from the folder `dir`, as QEMU and libnbd read it: `ca-cert.pem`,
/// `client-cert.pem`, `client-key.pem`. The library verifies the server, its address included.
///
/// # Errors
/// Which file is missing or unusable, and why.
pub fn load_identity(dir: &Path) -> Result<Arc<ClientConfig>, IdentityError> {
    let refuse = |name: &str, why: String| IdentityError { path: dir.join(name), why };
    let certificates = |name: &str| {
        let read = CertificateDer::pem_file_iter(dir.join(name))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>);
        read.map_err(|error| refuse(name, error.to_string()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca-cert.pem")? {
        roots.add(certificate).map_err(|error| refuse("ca-cert.pem", error.to_string()))?;
    }
    let key = PrivateKeyDer::from_pem_file(dir.join("client-key.pem"))
        .map_err(|error| refuse("client-key.pem", error.to_string()))?;
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse("", error.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates("client-cert.pem")?, key)
        .map(Arc::new)
        .map_err(|error| refuse("client-cert.pem", error.to_string()))
}

/// See the module.
#[derive(Debug)]
pub struct Transport {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Transport {
    /// A plain connection.
    pub fn plain(stream: TcpStream) -> Self {
        Self { stream, tls: None }
    }

    /// From here on inside TLS, with a server that is called by its address. Nothing is sent yet.
    ///
    /// # Errors
    /// The library refuses the configuration.
    pub fn start_tls(&mut self, config: Arc<ClientConfig>, server: IpAddr) -> io::Result<()> {
        let name = ServerName::IpAddress(server.into());
        let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(TLS_BACKLOG_MAX));
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// The socket itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// The socket itself, to wait for.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether something waits inside TLS for the socket to take it.
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Says goodbye, if TLS is there to say it; sends what waits.
    ///
    /// # Errors
    /// As the socket.
    pub fn close(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.flush()
    }
}

impl Read for Transport {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.read(bytes) };
        loop {
            match tls.reader().read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            // Reading goes on while the socket takes nothing: the server may wait for that.
            while tls.wants_write() {
                match tls.write_tls(&mut self.stream) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    done => done?,
                };
            }
            if tls.read_tls(&mut self.stream)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Err(error) = tls.process_new_packets() {
                // The alert tells the server why; if it cannot be sent, the error is still ours.
                let _unsent = tls.write_tls(&mut self.stream);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.write(bytes) };
        let mut taken = tls.writer().write(bytes)?;
        if taken == 0 && !bytes.is_empty() {
            // Full: what waits has to leave first.
            tls.write_tls(&mut self.stream)?;
            taken = tls.writer().write(bytes)?;
            if taken == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        // What was taken is taken: the socket's refusal is met at the next call.
        while tls.wants_write() && tls.write_tls(&mut self.stream).is_ok_and(|count| count > 0) {}
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.stream)?;
            }
        }
        Ok(())
    }
}
