//! One connection to an NBD server, blocking: dialling, option haggling, and requests one by one or
//! many at once. At every stage the socket can be had to send whatever a test wants to send.
//! Not here: the meaning of replies (`session`), a workload (`driver`).

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use rustls::ClientConfig;

use crate::session::{ProtocolError, Reply, Session};
use crate::transport::Transport;
use crate::wire::{
    ExportInfo, FIXED_NEWSTYLE, GREETING_MAGIC, NO_ZEROES, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    RECEIVE_BYTES_MAX, Request, RequestHeader, command, encode_info_request, encode_option, info,
    option, reply,
};

/// Why a connection or a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The socket failed, was closed or timed out.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The server broke the protocol in the transmission phase.
    #[error("the server broke the protocol")]
    Protocol(#[from] ProtocolError),
    /// The server broke the protocol while haggling.
    #[error("the server broke the handshake: {0}")]
    Handshake(&'static str),
    /// The server answered an option with an error.
    #[error("option {option} was refused with {kind:#x}: {text}")]
    Refused {
        /// The option.
        option: u32,
        /// The error, a [`reply`].
        kind: u32,
        /// The server's words.
        text: String,
    },
    /// The server answered a request with an error.
    #[error("the request failed with error {0}")]
    Failed(u32),
}

impl ClientError {
    /// Whether the server closed the connection, as opposed to answering or to saying nothing.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionAborted
            ),
            Self::Protocol(_) | Self::Handshake(_) | Self::Refused { .. } | Self::Failed(_) => {
                false
            }
        }
    }
}

/// Which export of which server, and how it is to be used.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// Our own address, if the kernel is not to choose it.
    pub source: Option<IpAddr>,
    /// Name of the export.
    pub export: String,
    /// Ask for structured replies.
    pub structured: bool,
    /// Ask for TLS first, with this identity.
    pub tls: Option<Arc<ClientConfig>>,
    /// Longest wait for a connection, and for any reply of a blocking call.
    pub timeout: Duration,
}

impl Target {
    /// `export` at `address`, with structured replies and 10 s of patience.
    pub fn new(address: SocketAddr, export: &str) -> Self {
        let timeout = Duration::from_secs(10);
        let export = export.to_owned();
        Self { address, source: None, export, structured: true, tls: None, timeout }
    }
}

/// Connects to `address`, from `source` if given.
///
/// # Errors
/// As connect(2), or `TimedOut`.
pub fn dial(
    address: SocketAddr,
    source: Option<IpAddr>,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, SocketType::STREAM, flags, None)?;
    if let Some(source) = source {
        bind(&fd, &SocketAddr::new(source, 0))?;
    }
    match connect(&fd, &address) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => {
            let limit = Timespec::try_from(timeout).map_err(io::Error::other)?;
            if poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&limit))? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            sockopt::socket_error(&fd)??;
        }
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

/// The answer to one option.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OptionReply {
    /// Which option.
    pub option: u32,
    /// A [`reply`].
    pub kind: u32,
    /// What came with it.
    pub data: Vec<u8>,
}

/// A connection before GO.
#[derive(Debug)]
pub struct Haggling {
    transport: Transport,
    address: SocketAddr,
    server_flags: u16,
}

impl Haggling {
    /// Connects and takes the greeting in; nothing is sent yet.
    ///
    /// # Errors
    /// The connection fails or something else than a newstyle NBD server answers.
    pub fn begin(
        address: SocketAddr,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let mut transport = Transport::plain(dial(address, source, timeout)?);
        if u64::from_be_bytes(receive(&mut transport)?) != GREETING_MAGIC {
            return Err(ClientError::Handshake("no NBD greeting"));
        }
        if u64::from_be_bytes(receive(&mut transport)?) != OPTION_MAGIC {
            return Err(ClientError::Handshake("an oldstyle greeting"));
        }
        let server_flags = u16::from_be_bytes(receive(&mut transport)?);
        Ok(Self { transport, address, server_flags })
    }

    /// Handshake flags of the server.
    pub fn server_flags(&self) -> u16 {
        self.server_flags
    }

    /// Sends our flags.
    ///
    /// # Errors
    /// As the socket.
    pub fn answer(&mut self, client_flags: u32) -> Result<(), ClientError> {
        Ok(send_all(&mut self.transport, &client_flags.to_be_bytes())?)
    }

    /// Sends our flags, as many of the server's as we know.
    ///
    /// # Errors
    /// As the socket.
    pub fn answer_usual(&mut self) -> Result<(), ClientError> {
        self.answer(u32::from(self.server_flags & (FIXED_NEWSTYLE | NO_ZEROES)))
    }

    /// Sends one option.
    ///
    /// # Errors
    /// As the socket.
    pub fn send(&mut self, option: u32, data: &[u8]) -> Result<(), ClientError> {
        Ok(send_all(&mut self.transport, &encode_option(option, data))?)
    }

    /// Takes one option reply in.
    ///
    /// # Errors
    /// The socket fails or the reply is malformed. An error reply is a reply.
    pub fn receive(&mut self) -> Result<OptionReply, ClientError> {
        if u64::from_be_bytes(receive(&mut self.transport)?) != OPTION_REPLY_MAGIC {
            return Err(ClientError::Handshake("an option reply without its magic"));
        }
        let option = u32::from_be_bytes(receive(&mut self.transport)?);
        let kind = u32::from_be_bytes(receive(&mut self.transport)?);
        let length = u32::from_be_bytes(receive(&mut self.transport)?);
        if length > RECEIVE_BYTES_MAX {
            return Err(ClientError::Handshake("an option reply of an absurd length"));
        }
        let mut data = vec![0; length as usize];
        self.transport.read_exact(&mut data)?;
        Ok(OptionReply { option, kind, data })
    }

    /// Sends one option and takes its last reply in; those before it come with it.
    ///
    /// # Errors
    /// As [`Self::receive`], and if the replies are about another option.
    pub fn ask(&mut self, option: u32, data: &[u8]) -> Result<Vec<OptionReply>, ClientError> {
        self.send(option, data)?;
        let mut replies = Vec::new();
        loop {
            let answer = self.receive()?;
            if answer.option != option {
                return Err(ClientError::Handshake("a reply to another option"));
            }
            let last = answer.kind == reply::ACK || answer.kind & reply::ERROR_BIT != 0;
            replies.push(answer);
            if last {
                return Ok(replies);
            }
        }
    }

    /// As [`Self::ask`]; an error reply is an error.
    ///
    /// # Errors
    /// As [`Self::ask`], or `Refused`.
    pub fn ask_ok(&mut self, option: u32, data: &[u8]) -> Result<Vec<OptionReply>, ClientError> {
        let replies = self.ask(option, data)?;
        match replies.last() {
            Some(last) if last.kind != reply::ACK => {
                let text = String::from_utf8_lossy(&last.data).into_owned();
                Err(ClientError::Refused { option, kind: last.kind, text })
            }
            _ => Ok(replies),
        }
    }

    /// Asks for TLS and goes on inside it; the handshake itself happens with the next bytes.
    ///
    /// # Errors
    /// A refusal, a malformed reply, or the socket's.
    pub fn start_tls(&mut self, config: Arc<ClientConfig>) -> Result<(), ClientError> {
        self.ask_ok(option::STARTTLS, &[])?;
        Ok(self.transport.start_tls(config, self.address.ip())?)
    }

    /// Agrees on structured replies if wished, and enters transmission by GO.
    ///
    /// # Errors
    /// A refusal, a malformed reply, or the socket's.
    pub fn go(mut self, export: &str, structured: bool) -> Result<Connection, ClientError> {
        if structured {
            self.ask_ok(option::STRUCTURED_REPLY, &[])?;
        }
        let request = encode_info_request(export, &[info::BLOCK_SIZE]);
        let mut told = ExportInfo::default();
        for answer in self.ask_ok(option::GO, &request)? {
            if answer.kind == reply::INFO {
                told.absorb(&answer.data).ok_or(ClientError::Handshake("malformed INFO"))?;
            }
        }
        let session = Session::new(structured);
        Ok(Connection { transport: self.transport, export: told, session, output: Vec::new() })
    }

    /// The socket, for sending anything.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.transport.stream()
    }
}

fn send_all(transport: &mut Transport, bytes: &[u8]) -> io::Result<()> {
    transport.write_all(bytes)?;
    transport.flush()
}

fn receive<const N: usize>(transport: &mut Transport) -> Result<[u8; N], ClientError> {
    let mut bytes = [0; N];
    transport.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A connection in the transmission phase.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    export: ExportInfo,
    session: Session,
    output: Vec<u8>,
}

impl Connection {
    /// Connects, haggles and enters transmission.
    ///
    /// # Errors
    /// The connection fails, or the server refuses.
    pub fn open(target: &Target) -> Result<Self, ClientError> {
        let mut haggling = Haggling::begin(target.address, target.source, target.timeout)?;
        haggling.answer_usual()?;
        if let Some(config) = &target.tls {
            haggling.start_tls(config.clone())?;
        }
        haggling.go(&target.export, target.structured)
    }

    /// What the server said of the export.
    pub fn export(&self) -> ExportInfo {
        self.export
    }

    /// The socket, for sending anything.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.transport.stream()
    }

    /// Replies that are awaited.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Socket and session apart, for a loop of the caller's own.
    pub fn into_parts(self) -> (Transport, Session) {
        (self.transport, self.session)
    }

    /// Sends a request and does not wait; returns its cookie.
    ///
    /// # Errors
    /// As the socket.
    pub fn send(&mut self, request: &Request) -> Result<u64, ClientError> {
        self.output.clear();
        let cookie = self.session.ask(request, &mut self.output);
        send_all(&mut self.transport, &self.output)?;
        Ok(cookie)
    }

    /// Sends any header, also a forbidden one, and any bytes after it. A reply is expected.
    ///
    /// # Errors
    /// As the socket.
    pub fn send_raw(&mut self, header: RequestHeader, payload: &[u8]) -> Result<(), ClientError> {
        let read = (header.command == command::READ).then_some((header.offset, header.length));
        self.session.expect(header.cookie, read);
        send_all(&mut self.transport, &header.encode())?;
        Ok(send_all(&mut self.transport, payload)?)
    }

    /// Waits for the next reply, whichever request it answers.
    ///
    /// # Errors
    /// The socket fails or the server breaks the protocol. An error reply is a reply.
    pub fn receive(&mut self) -> Result<Reply, ClientError> {
        let mut bytes = vec![0; 64 << 10];
        loop {
            if let Some(reply) = self.session.poll_reply()? {
                return Ok(reply);
            }
            match self.transport.read(&mut bytes) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => self.session.feed(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a request, waits for its reply and returns the bytes of a READ. No other request may
    /// be out.
    ///
    /// # Errors
    /// As [`Self::receive`], or `Failed`.
    pub fn call(&mut self, request: &Request) -> Result<Vec<u8>, ClientError> {
        assert_eq!(self.session.outstanding(), 0, "call() is for one request at a time");
        let cookie = self.send(request)?;
        let reply = self.receive()?;
        assert_eq!(reply.cookie, cookie, "the session knows no other cookie");
        if reply.error == 0 { Ok(reply.data) } else { Err(ClientError::Failed(reply.error)) }
    }

    /// READ.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, ClientError> {
        self.call(&Request::Read { offset, length })
    }

    /// WRITE.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        let data = Bytes::copy_from_slice(data);
        self.call(&Request::Write { offset, data, fua: false }).map(|_| ())
    }

    /// FLUSH.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.call(&Request::Flush).map(|_| ())
    }

    /// TRIM.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn trim(&mut self, offset: u64, length: u32) -> Result<(), ClientError> {
        self.call(&Request::Trim { offset, length, fua: false }).map(|_| ())
    }

    /// WRITE_ZEROES.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn write_zeroes(&mut self, offset: u64, length: u32) -> Result<(), ClientError> {
        let request = Request::WriteZeroes { offset, length, fua: false, no_hole: false };
        self.call(&request).map(|_| ())
    }

    /// CACHE.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn cache(&mut self, offset: u64, length: u32) -> Result<(), ClientError> {
        self.call(&Request::Cache { offset, length }).map(|_| ())
    }

    /// Says DISC and waits until the server has closed the connection, as it must.
    ///
    /// # Errors
    /// As the socket, and if the server sends anything but awaited replies first.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        send_all(&mut self.transport, &disconnect_header().encode())?;
        loop {
            match self.receive() {
                Ok(_) => {}
                Err(error) if error.is_closed() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The header that says DISC.
pub(crate) fn disconnect_header() -> RequestHeader {
    RequestHeader { flags: 0, command: command::DISC, cookie: 0, offset: 0, length: 0 }
}
