//! A client that sends what it is told to, byte for byte.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

pub const ABORT: u32 = 2;
pub const LIST: u32 = 3;
pub const STARTTLS: u32 = 5;
pub const GO: u32 = 7;
pub const STRUCTURED: u32 = 8;

pub const ACK: u32 = 1;
pub const ERR_POLICY: u32 = (1 << 31) + 2;
pub const ERR_TLS_REQD: u32 = (1 << 31) + 5;
pub const ERR_SHUTDOWN: u32 = (1 << 31) + 7;

/// No answer within this time is a failure of the test.
const PATIENCE: Duration = Duration::from_secs(8);

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// From another address of this machine: another host.
pub fn connect_from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
    let socket = socket.expect("a socket");
    let from = SocketAddrV4::new(source, 0);
    rustix::net::bind(&socket, &from).expect("an address of this machine");
    rustix::net::connect(&socket, &address).expect("connected");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// After the greeting and the flags of a modern client.
pub fn greeted(address: SocketAddr) -> TcpStream {
    greet(connect(address))
}

/// The same on a connection that is there.
pub fn greet(mut stream: TcpStream) -> TcpStream {
    assert_eq!(read(&mut stream, 18).expect("a greeting"), b"NBDMAGICIHAVEOPT\0\x03");
    stream.write_all(&[0, 0, 0, 3]).expect("sent");
    stream
}

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Sends STARTTLS and speaks TLS from there on; the handshake happens with the first byte.
pub fn start_tls(mut stream: TcpStream, config: Arc<ClientConfig>) -> Tls {
    assert_eq!(ask(&mut stream, STARTTLS, b"").0, ACK);
    wrap(stream, config)
}

pub fn wrap(stream: TcpStream, config: Arc<ClientConfig>) -> Tls {
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(config, name);
    StreamOwned::new(connection.expect("a connection"), stream)
}

pub fn read(stream: &mut impl Read, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

pub fn go_data(name: &str) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&[0, 0]);
    data
}

/// One reply: type and data.
pub fn option_reply(stream: &mut impl Read) -> io::Result<(u32, Vec<u8>)> {
    let header = read(stream, 20)?;
    assert_eq!(header[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
    let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    Ok((number(12), read(stream, number(16) as usize)?))
}

/// Sends an option and returns its last reply.
pub fn ask(stream: &mut (impl Read + Write), code: u32, data: &[u8]) -> (u32, Vec<u8>) {
    stream.write_all(&option(code, data)).expect("sent");
    loop {
        let reply = option_reply(stream).expect("a reply");
        if reply.0 != 2 && reply.0 != 3 {
            return reply;
        }
    }
}

pub fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = vec![0x25, 0x60, 0x95, 0x13, 0, 0];
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

/// Error number and cookie of a simple reply.
pub fn simple_reply(stream: &mut impl Read) -> (u32, u64) {
    let bytes = read(stream, 16).expect("a reply");
    assert_eq!(bytes[..4], [0x67, 0x44, 0x66, 0x98]);
    let errno = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
    (errno, u64::from_be_bytes(bytes[8..].try_into().unwrap()))
}

/// Writes and reads back through an attached connection.
pub fn write_and_read_back(stream: &mut (impl Read + Write), cookie: u64, offset: u64) {
    let data: Vec<u8> = (0..4096u32).map(|n| (u64::from(n) * 7 + cookie) as u8).collect();
    let mut bytes = request(1, cookie, offset, 4096);
    bytes.extend_from_slice(&data);
    stream.write_all(&bytes).expect("sent");
    assert_eq!(simple_reply(stream), (0, cookie));
    stream.write_all(&request(0, cookie + 1, offset, 4096)).expect("sent");
    assert_eq!(simple_reply(stream), (0, cookie + 1));
    assert_eq!(read(stream, 4096).expect("data"), data);
}

/// Whether the other side has ended the connection, in whatever way.
pub fn is_closed(stream: &mut impl Read) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
    }
}
