//! Messages to frames: headers and small bodies share one buffer, payloads are not copied.

use base::frame::Header;
use base::ids::{ConnNonce, Session};
use base::limits::{FRAME_BODY_MAX, FRAME_PAYLOAD_MAX};
use base::request::{Content, Write};
use bytes::{BufMut, Bytes, BytesMut};

use super::*;

/// What a write puts there, on the wire.
pub(super) const CONTENT_DATA: u8 = 0;
pub(super) const CONTENT_ZEROES: u8 = 1;
pub(super) const CONTENT_TRIM: u8 = 2;
pub(super) const FLAG_FUA: u8 = 1;
pub(super) const FLAG_ALLOCATE: u8 = 2;
/// id, offset, length, part offset, content, flags, reserved.
pub(super) const WRITE_BODY_BYTES: usize = 40;

/// The sending half of one data connection.
#[derive(Debug)]
pub struct LinkEncoder {
    conn_nonce: ConnNonce,
    sequence: u64,
    small: BytesMut,
}

impl LinkEncoder {
    /// For a fresh connection; `sequence` frames (its binding) were sent before.
    pub fn new(conn_nonce: ConnNonce, sequence: u64) -> Self {
        Self { conn_nonce, sequence, small: BytesMut::new() }
    }

    /// Adds the frames of `message` to `out`. The last piece may stay inside until [`Self::finish`].
    pub fn encode(&mut self, session: Session, message: &DataMessage, out: &mut Vec<Bytes>) {
        match message {
            DataMessage::Repl { seq, write } => self.write(session, KIND_REPL, *seq, write, out),
            DataMessage::WriteRequest { fid, write } => {
                self.write(session, KIND_WRITE_REQUEST, *fid, write, out);
            }
            DataMessage::SyncBlock { id, range, data } => {
                let payload = data.clone().unwrap_or_default();
                self.header(session, KIND_SYNC_BLOCK, 24, payload.len());
                for value in [*id, range.offset(), range.length()] {
                    self.small.put_u64_le(value);
                }
                self.payload(payload, out);
            }
            DataMessage::Ordered(_)
            | DataMessage::Ack(_)
            | DataMessage::Applied(_)
            | DataMessage::Commit { .. }
            | DataMessage::Nak { .. }
            | DataMessage::Flush { .. }
            | DataMessage::FlushAck { .. }
            | DataMessage::DigestRequest { .. }
            | DataMessage::Digests { .. }
            | DataMessage::SyncBlockAck { .. } => self.numbers(session, message),
        }
    }

    /// Adds what is still inside to `out`; called once at the end of a turn.
    pub fn finish(&mut self, out: &mut Vec<Bytes>) {
        if !self.small.is_empty() {
            out.push(self.small.split().freeze());
        }
    }

    fn header(&mut self, session: Session, kind: u16, body: usize, payload: usize) {
        assert!(body <= FRAME_BODY_MAX as usize && payload <= FRAME_PAYLOAD_MAX as usize);
        let header = Header {
            kind,
            body_bytes: body as u32,
            payload_bytes: payload as u32,
            session,
            conn_nonce: self.conn_nonce,
            sequence: self.sequence,
        };
        self.sequence += 1;
        self.small.reserve(4096);
        self.small.put_slice(&header.encode());
    }

    fn payload(&mut self, payload: Bytes, out: &mut Vec<Bytes>) {
        if !payload.is_empty() {
            self.finish(out);
            out.push(payload);
        }
    }

    fn write(&mut self, session: Session, kind: u16, id: u64, write: &Write, out: &mut Vec<Bytes>) {
        let (content, allocate, data) = match &write.content {
            Content::Data(data) => (CONTENT_DATA, false, data.clone()),
            Content::Zeroes { allocate } => (CONTENT_ZEROES, *allocate, Bytes::new()),
            Content::Trim => (CONTENT_TRIM, false, Bytes::new()),
        };
        let mut flags = if write.fua { FLAG_FUA } else { 0 };
        flags |= if allocate { FLAG_ALLOCATE } else { 0 };
        let mut start = 0;
        loop {
            let part = data.slice(start..data.len().min(start + FRAME_PAYLOAD_MAX as usize));
            self.header(session, kind, WRITE_BODY_BYTES, part.len());
            for value in [id, write.range.offset(), write.range.length(), start as u64] {
                self.small.put_u64_le(value);
            }
            self.small.put_slice(&[content, flags, 0, 0, 0, 0, 0, 0]);
            start += part.len();
            self.payload(part, out);
            if start == data.len() {
                return;
            }
        }
    }

    fn numbers(&mut self, session: Session, message: &DataMessage) {
        let (kind, numbers): (u16, Vec<u64>) = match message {
            DataMessage::Ordered(pairs) => {
                (KIND_ORDERED, pairs.iter().flat_map(|(fid, seq)| [*fid, *seq]).collect())
            }
            DataMessage::Ack(seqs) => (KIND_ACK, seqs.clone()),
            DataMessage::Applied(seqs) => (KIND_APPLIED, seqs.clone()),
            DataMessage::Commit { watermark, more } => {
                (KIND_COMMIT, std::iter::once(*watermark).chain(more.iter().copied()).collect())
            }
            DataMessage::Nak { seq } => (KIND_NAK, vec![*seq]),
            DataMessage::Flush { id } => (KIND_FLUSH, vec![*id]),
            DataMessage::FlushAck { id } => (KIND_FLUSH_ACK, vec![*id]),
            DataMessage::SyncBlockAck { id } => (KIND_SYNC_BLOCK_ACK, vec![*id]),
            DataMessage::DigestRequest { id, range } => {
                (KIND_DIGEST_REQUEST, vec![*id, range.offset(), range.length()])
            }
            DataMessage::Digests { id, digests } => {
                let halves = digests.iter().flat_map(|d| [*d as u64, (*d >> 64) as u64]);
                (KIND_DIGESTS, std::iter::once(*id).chain(halves).collect())
            }
            DataMessage::Repl { .. }
            | DataMessage::WriteRequest { .. }
            | DataMessage::SyncBlock { .. } => unreachable!("has a payload"),
        };
        self.header(session, kind, numbers.len() * 8, 0);
        for number in numbers {
            self.small.put_u64_le(number);
        }
    }
}
