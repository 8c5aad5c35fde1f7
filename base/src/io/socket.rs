//! One non-blocking connection of the hot loop, plain or TLS: bytes in, bytes out, no waiting.
//!
//! Owns: the descriptor and, with TLS, the rustls connection. Output is queued and leaves at the
//! end of a turn in one record and one system call where it fits (PEERS: coalescing).
//! Not here: who waits for readiness (the volume thread's epoll), what the bytes mean.

use std::collections::VecDeque;
use std::io::{self, BufRead, IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::{Buf, Bytes};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Slices handed to one writev, at most.
const SLICES_MAX: usize = 64;
/// Pieces encrypted together, in bytes, at most, or one larger piece; the rest waits in our queue.
/// So small that it is still in the cache when the kernel copies it: 5 to 10 % of a large write.
const TLS_BATCH_MAX: usize = 96 << 10;

/// What one call of [`Socket::receive`] met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes of plain text that were handed on.
    pub bytes: usize,
    /// The other side will send no more.
    pub closed: bool,
    /// The budget ended before the socket was empty.
    pub more: bool,
}

/// A connected, non-blocking socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    tls: Option<Box<rustls::Connection>>,
    output: VecDeque<Bytes>,
    output_bytes: usize,
    /// Of the batches that the TLS library has not sent as a whole.
    encrypted_bytes: usize,
}

impl Socket {
    /// Takes over a connected socket that is already non-blocking, with its TLS state if any.
    pub fn new(fd: OwnedFd, tls: Option<rustls::Connection>) -> Self {
        let mut tls = tls.map(Box::new);
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(None);
        }
        Self { fd, tls, output: VecDeque::new(), output_bytes: 0, encrypted_bytes: 0 }
    }

    /// The descriptor, to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes queued and not known to be taken by the kernel, counted as plain text: with TLS a
    /// batch that was encrypted counts until all of it has left the library.
    pub fn backlog(&self) -> usize {
        self.output_bytes + self.encrypted_bytes
    }

    /// Whether [`Self::flush`] has something to do.
    pub fn wants_write(&self) -> bool {
        !self.output.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Receives until the socket is empty or `budget` bytes were handed to `sink`, in pieces of at
    /// most `scratch`'s length.
    ///
    /// # Errors
    /// The connection is broken, or its TLS stream is.
    pub fn receive(
        &mut self,
        scratch: &mut [u8],
        budget: usize,
        mut sink: impl FnMut(&[u8]),
    ) -> io::Result<Received> {
        let mut total = 0;
        loop {
            if total >= budget {
                return Ok(Received { bytes: total, closed: false, more: true });
            }
            let count = match rustix::net::recv(&self.fd, &mut *scratch, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Ok(Received { bytes: total, closed: true, more: false }),
                Ok((_, count)) => count,
                Err(Errno::AGAIN) => {
                    return Ok(Received { bytes: total, closed: false, more: false });
                }
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let filled = count == scratch.len();
            let mut closed = false;
            match &mut self.tls {
                None => {
                    total += count;
                    sink(&scratch[..count]);
                }
                Some(tls) => {
                    let (bytes, done) = decrypt(tls, &scratch[..count], &mut sink)?;
                    total += bytes;
                    closed = done;
                }
            }
            if closed || !filled {
                // A short read means that the kernel's queue was empty: no call to learn it again.
                return Ok(Received { bytes: total, closed, more: false });
            }
        }
    }

    /// Plain text that the TLS library has already decrypted: bytes that came together with the
    /// end of the negotiation and that no readiness event will announce.
    ///
    /// # Errors
    /// The TLS stream is broken.
    pub fn receive_decrypted(&mut self, mut sink: impl FnMut(&[u8])) -> io::Result<usize> {
        match &mut self.tls {
            None => Ok(0),
            Some(tls) => decrypt(tls, &[], &mut sink).map(|(bytes, _)| bytes),
        }
    }

    /// Queues bytes to send.
    pub fn queue(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.output_bytes += bytes.len();
            self.output.push_back(bytes);
        }
    }

    /// Sends what is queued; `true` when nothing is left.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<bool> {
        match self.tls.take() {
            None => self.flush_plain(),
            Some(mut tls) => {
                let result = self.flush_tls(&mut tls);
                self.tls = Some(tls);
                result
            }
        }
    }

    /// Says goodbye: TLS close_notify is queued and sent as far as the kernel takes it, then the
    /// sending direction is shut down.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        let _ = self.flush();
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Write);
    }

    fn flush_plain(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut used = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.output) {
                *slice = IoSlice::new(bytes);
                used += 1;
            }
            let sent = match send_slices(self.fd.as_fd(), &slices[..used]) {
                Ok(sent) => sent,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            self.output_bytes -= sent;
            self.advance(sent);
        }
        Ok(true)
    }

    fn advance(&mut self, mut sent: usize) {
        while sent > 0 {
            let front = self.output.front_mut().expect("no more was sent than was queued");
            if front.len() > sent {
                front.advance(sent);
                return;
            }
            sent -= front.len();
            self.output.pop_front();
        }
    }

    fn flush_tls(&mut self, tls: &mut rustls::Connection) -> io::Result<bool> {
        loop {
            // What the library already encrypted goes first: a peer that does not read must not
            // make it encrypt more.
            let mut wire = Wire { fd: self.fd.as_fd() };
            while tls.wants_write() {
                match tls.write_tls(&mut wire) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            self.encrypted_bytes = 0;
            if self.output.is_empty() {
                return Ok(true);
            }
            self.encrypt_some(tls)?;
        }
    }

    fn encrypt_some(&mut self, tls: &mut rustls::Connection) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut used = 0;
        let mut bytes = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.output) {
            if used > 0 && bytes + piece.len() > TLS_BATCH_MAX {
                break;
            }
            *slice = IoSlice::new(piece);
            bytes += piece.len();
            used += 1;
        }
        let count = tls.writer().write_vectored(&slices[..used])?;
        self.output_bytes -= count;
        self.encrypted_bytes += count;
        self.advance(count);
        Ok(())
    }
}

fn decrypt(
    tls: &mut rustls::Connection,
    mut wire: &[u8],
    sink: &mut impl FnMut(&[u8]),
) -> io::Result<(usize, bool)> {
    let mut total = 0;
    let mut closed = false;
    loop {
        if !wire.is_empty() {
            tls.read_tls(&mut wire)?;
        }
        let state = tls
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        closed |= state.peer_has_closed();
        if state.plaintext_bytes_to_read() > 0 {
            total += drain_plaintext(tls, sink)?;
        }
        if wire.is_empty() || closed {
            return Ok((total, closed));
        }
    }
}

fn drain_plaintext(
    tls: &mut rustls::Connection,
    sink: &mut impl FnMut(&[u8]),
) -> io::Result<usize> {
    let mut total = 0;
    let mut reader = tls.reader();
    loop {
        let count = match reader.fill_buf() {
            Ok([]) => return Ok(total),
            Ok(bytes) => {
                sink(bytes);
                bytes.len()
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(total),
            Err(error) => return Err(error),
        };
        reader.consume(count);
        total += count;
    }
}

fn send_slices(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> Result<usize, Errno> {
    loop {
        let mut no_ancillary = rustix::net::SendAncillaryBuffer::default();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(fd, slices, &mut no_ancillary, flags) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// The kernel's side of the socket, as rustls writes to it.
struct Wire<'a> {
    fd: BorrowedFd<'a>,
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(send_slices(self.fd, slices)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
