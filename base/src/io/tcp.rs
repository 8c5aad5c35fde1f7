//! TCP sockets bound to a node's own address, with the options of PROTOCOL 2.6 G2b.
//!
//! Not here: TLS (`tls`), moving bytes in the hot loop (`socket`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections waiting to be accepted, at most.
const BACKLOG: u32 = 1024;

/// Listens on exactly `address`.
///
/// # Errors
/// The address is in use, not this machine's, or needs a privilege.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(address)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Connects to `remote` from `local`'s address (any port).
///
/// # Errors
/// As connect(2); the caller sets the time limit.
pub async fn connect(local: SocketAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = new_socket(remote)?;
    socket.bind(SocketAddr::new(local.ip(), 0))?;
    socket.connect(remote).await
}

fn new_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// No delay, keep-alive every second, and the kernel gives the connection up when nothing it sent
/// was acknowledged for `alive`.
///
/// # Errors
/// As setsockopt(2).
pub fn tune(socket: impl AsFd, alive: Duration) -> io::Result<()> {
    let fd = socket.as_fd();
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, Duration::from_secs(1))?;
    sockopt::set_tcp_keepintvl(fd, Duration::from_secs(1))?;
    let alive_ms = u32::try_from(alive.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(fd, alive_ms)?;
    Ok(())
}
