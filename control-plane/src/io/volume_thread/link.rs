//! The data connection of a volume as the loop sees it: messages in, messages out.

use base::ids::{ConnNonce, Session};
use base::io::socket::Socket;
use bytes::Bytes;
use datapath::wire::{DataMessage, Incoming, LinkDecoder, LinkEncoder};

pub(super) struct Link {
    socket: Socket,
    conn_nonce: ConnNonce,
    decoder: LinkDecoder,
    encoder: LinkEncoder,
    pieces: Vec<Bytes>,
    readable: bool,
    gone: bool,
}

impl Link {
    pub(super) fn new(socket: Socket, conn_nonce: ConnNonce, (sent, received): (u64, u64)) -> Self {
        Self {
            socket,
            conn_nonce,
            decoder: LinkDecoder::new(received),
            encoder: LinkEncoder::new(conn_nonce, sent),
            pieces: Vec::new(),
            readable: true,
            gone: false,
        }
    }

    pub(super) fn conn_nonce(&self) -> ConnNonce {
        self.conn_nonce
    }

    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Bytes that the kernel has not taken.
    pub(super) fn backlog(&self) -> usize {
        self.socket.backlog()
    }

    pub(super) fn note(&mut self, readable: bool, gone: bool) {
        self.readable |= readable;
        self.gone |= gone;
    }

    /// Plain text that came with the binding.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.decoder.handle_bytes(bytes).map_err(|error| error.to_string())?;
        let mut result = Ok(());
        let decoder = &mut self.decoder;
        self.socket
            .receive_decrypted(|bytes| {
                if result.is_ok() {
                    result = decoder.handle_bytes(bytes);
                }
            })
            .map_err(|error| error.to_string())?;
        result.map_err(|error| error.to_string())
    }

    /// Receives what there is, at most `budget` bytes. Messages that came whole are there even if
    /// the connection ended behind them.
    pub(super) fn receive(&mut self, scratch: &mut [u8], budget: usize) -> Result<(), String> {
        while self.readable {
            let mut result = Ok(());
            let decoder = &mut self.decoder;
            let received = self
                .socket
                .receive(scratch, budget, |bytes| {
                    if result.is_ok() {
                        result = decoder.handle_bytes(bytes);
                    }
                })
                .map_err(|error| format!("the data connection broke: {error}"))?;
            result.map_err(|error| error.to_string())?;
            if received.closed {
                return Err("the peer closed the data connection".to_owned());
            }
            self.readable = received.more || (self.gone && received.bytes > 0);
            if received.more {
                break;
            }
        }
        if self.gone && !self.readable {
            return Err("the data connection was reset".to_owned());
        }
        Ok(())
    }

    pub(super) fn poll_message(&mut self) -> Option<Incoming> {
        self.decoder.poll_message()
    }

    pub(super) fn send(&mut self, session: Session, message: &DataMessage) {
        self.encoder.encode(session, message, &mut self.pieces);
        for piece in self.pieces.drain(..) {
            self.socket.queue(piece);
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), String> {
        self.encoder.finish(&mut self.pieces);
        for piece in self.pieces.drain(..) {
            self.socket.queue(piece);
        }
        if !self.socket.wants_write() {
            return Ok(());
        }
        match self.socket.flush() {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("the data connection broke: {error}")),
        }
    }
}
