//! Replies of one client on their way out: small ones are gathered, data is passed on.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::proto::errno::Failure;
use crate::proto::reply;
use crate::proto::request::Command;

/// Room made for small replies at a time.
const GATHER_BYTES: usize = 16 << 10;

/// Output that the shell has not taken.
#[derive(Debug)]
pub(super) struct Replies {
    structured: bool,
    muted: bool,
    pieces: VecDeque<Bytes>,
    piece_bytes: usize,
    /// What follows the last piece.
    gathered: BytesMut,
}

impl Replies {
    pub(super) fn new(structured: bool) -> Self {
        Self {
            structured,
            muted: false,
            pieces: VecDeque::new(),
            piece_bytes: 0,
            gathered: BytesMut::new(),
        }
    }

    /// Nobody will read what is queued or comes later.
    pub(super) fn mute(&mut self) {
        self.muted = true;
        self.pieces = VecDeque::new();
        self.piece_bytes = 0;
        self.gathered = BytesMut::new();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.gathered.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.piece_bytes + self.gathered.len()
    }

    pub(super) fn poll(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.pieces.pop_front() {
            self.piece_bytes -= piece.len();
            return Some(piece);
        }
        (!self.gathered.is_empty()).then(|| self.gathered.split().freeze())
    }

    /// Success without data.
    pub(super) fn put_done(&mut self, cookie: u64, command: Command) {
        let structured = self.structured;
        self.gather(|out| match (structured, command) {
            // NBD proto: a read is answered by chunks, also when it asked for nothing.
            (true, Command::Read) => reply::put_chunk_none(out, cookie),
            _ => reply::put_simple_done(out, cookie),
        });
    }

    /// The data of a read, in one piece: DF holds whether it was asked for or not.
    pub(super) fn put_data(&mut self, cookie: u64, offset: u64, data: Bytes) {
        let (structured, length) = (self.structured, data.len());
        self.gather(|out| match structured {
            true => reply::put_chunk_data_header(out, cookie, offset, length),
            false => reply::put_simple_done(out, cookie),
        });
        if !self.muted {
            let gathered = self.gathered.split().freeze();
            self.piece_bytes += gathered.len() + data.len();
            self.pieces.extend([gathered, data]);
        }
    }

    pub(super) fn put_error(&mut self, cookie: u64, failure: Failure) {
        let structured = self.structured;
        self.gather(|out| match structured {
            true => reply::put_chunk_error(out, cookie, failure),
            false => reply::put_simple_error(out, cookie, failure),
        });
    }

    fn gather(&mut self, put: impl FnOnce(&mut BytesMut)) {
        if self.muted {
            return;
        }
        if self.gathered.capacity() - self.gathered.len() < reply::REPLY_BYTES_MAX {
            self.gathered.reserve(GATHER_BYTES);
        }
        put(&mut self.gathered);
    }
}
