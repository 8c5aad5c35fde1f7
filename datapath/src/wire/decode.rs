//! Frames to messages. Everything is checked against the limits before memory is taken for it.

use std::collections::VecDeque;

use base::frame::{FrameError, HEADER_BYTES, Header};
use base::ids::{ConnNonce, Session};
use base::limits::{COMMIT_MORE_MAX, DIGEST_BLOCK_BYTES, FRAME_PAYLOAD_MAX, REQUEST_BYTES_MAX};
use base::payload::PayloadBuf;
use base::request::{Content, Write};

use super::encode::{
    CONTENT_DATA, CONTENT_TRIM, CONTENT_ZEROES, FLAG_ALLOCATE, FLAG_FUA, WRITE_BODY_BYTES,
};
use super::*;

/// A message with the two values that bind it to a session (G1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incoming {
    /// The sender's session.
    pub session: Session,
    /// The control connection it belongs to.
    pub conn_nonce: ConnNonce,
    /// What it says.
    pub message: DataMessage,
}

/// A write of which parts are still missing.
#[derive(Debug)]
struct Assembly {
    kind: u16,
    id: u64,
    write: Write,
    payload: PayloadBuf,
}

/// A frame whose payload is being received.
#[derive(Debug)]
struct Frame {
    header: Header,
    /// What the body said.
    target: Target,
    payload_missing: usize,
}

#[derive(Debug)]
enum Target {
    /// The payload belongs to the write under assembly.
    Write,
    /// The payload is a block of a resync.
    Block { id: u64, range: ByteRange, payload: PayloadBuf },
}

/// The receiving half of one data connection.
#[derive(Debug)]
pub struct LinkDecoder {
    sequence: u64,
    /// Header and body of a frame that has not arrived whole.
    partial: Vec<u8>,
    frame: Option<Frame>,
    assembly: Option<Assembly>,
    messages: VecDeque<Incoming>,
}

impl LinkDecoder {
    /// For a fresh connection; `sequence` frames (its binding) were received before.
    pub fn new(sequence: u64) -> Self {
        Self {
            sequence,
            partial: Vec::new(),
            frame: None,
            assembly: None,
            messages: VecDeque::new(),
        }
    }

    /// The next whole message.
    pub fn poll_message(&mut self) -> Option<Incoming> {
        self.messages.pop_front()
    }

    /// Takes bytes as they come off the connection.
    ///
    /// # Errors
    /// The stream breaks a rule; the connection cannot go on.
    pub fn handle_bytes(&mut self, mut input: &[u8]) -> Result<(), FrameError> {
        loop {
            if let Some(frame) = &mut self.frame {
                let take = frame.payload_missing.min(input.len());
                let buffer = match &mut frame.target {
                    Target::Write => {
                        &mut self.assembly.as_mut().expect("a write frame has a write").payload
                    }
                    Target::Block { payload, .. } => payload,
                };
                let taken = buffer.fill_from(&input[..take]);
                assert_eq!(taken, take, "W5: the frames of a write carry its payload and no more");
                frame.payload_missing -= take;
                input = &input[take..];
                if frame.payload_missing > 0 {
                    return Ok(());
                }
                self.finish_frame();
            }
            if input.is_empty() {
                return Ok(());
            }
            if !self.start_frame(&mut input)? {
                return Ok(());
            }
        }
    }

    /// Reads header and body; `false` if more bytes are needed.
    fn start_frame(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        if self.partial.is_empty()
            && let Some((head, rest)) = input.split_first_chunk::<HEADER_BYTES>()
        {
            // The usual case: header and body lie in one piece.
            let header = self.check_header(head)?;
            let body_bytes = header.body_bytes as usize;
            if rest.len() >= body_bytes {
                let (body, rest) = rest.split_at(body_bytes);
                *input = rest;
                self.handle_body(header, body)?;
                return Ok(true);
            }
        }
        if !self.fill_partial(input, HEADER_BYTES) {
            return Ok(false);
        }
        let head = self.partial.first_chunk::<HEADER_BYTES>().expect("filled");
        let header = self.check_header(head)?;
        if !self.fill_partial(input, HEADER_BYTES + header.body_bytes as usize) {
            return Ok(false);
        }
        let partial = std::mem::take(&mut self.partial);
        self.handle_body(header, &partial[HEADER_BYTES..])?;
        Ok(true)
    }

    fn fill_partial(&mut self, input: &mut &[u8], length: usize) -> bool {
        let take = length.saturating_sub(self.partial.len()).min(input.len());
        self.partial.extend_from_slice(&input[..take]);
        *input = &input[take..];
        self.partial.len() >= length
    }

    fn check_header(&self, head: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let header = Header::decode(head)?;
        if header.sequence != self.sequence {
            return Err(FrameError::Sequence { expected: self.sequence, found: header.sequence });
        }
        Ok(header)
    }

    fn handle_body(&mut self, header: Header, body: &[u8]) -> Result<(), FrameError> {
        self.sequence += 1;
        let kind = header.kind;
        let wrong = |what| FrameError::Body { kind, what };
        let is_write = matches!(kind, KIND_REPL | KIND_WRITE_REQUEST);
        if self.assembly.is_some() && !is_write {
            return Err(wrong("another message inside a write of several frames"));
        }
        match kind {
            KIND_REPL | KIND_WRITE_REQUEST => self.handle_write(header, body),
            KIND_SYNC_BLOCK => {
                let [id, offset, length] = numbers(body).ok_or(wrong("length"))?;
                let range = checked_range(offset, length).ok_or(wrong("range"))?;
                let payload_bytes = u64::from(header.payload_bytes);
                if payload_bytes != 0 && payload_bytes != length {
                    return Err(wrong("payload is not the range's length"));
                }
                let payload = PayloadBuf::with_length(header.payload_bytes as usize);
                let target = Target::Block { id, range, payload };
                self.begin_payload(header, target);
                Ok(())
            }
            _ => {
                if header.payload_bytes != 0 {
                    return Err(wrong("no payload belongs to this message"));
                }
                let message = decode_numbers(kind, body)?;
                self.push(header, message);
                Ok(())
            }
        }
    }

    fn handle_write(&mut self, header: Header, body: &[u8]) -> Result<(), FrameError> {
        let kind = header.kind;
        let wrong = |what| FrameError::Body { kind, what };
        let body: &[u8; WRITE_BODY_BYTES] = body.try_into().map_err(|_| wrong("length"))?;
        let [id, offset, length, part] = numbers(&body[..32]).expect("four numbers");
        let (content, flags) = (body[32], body[33]);
        if body[34..] != [0; 6] || flags & !(FLAG_FUA | FLAG_ALLOCATE) != 0 {
            return Err(wrong("reserved bits are not zero"));
        }
        let range = checked_range(offset, length).ok_or(wrong("range"))?;
        let payload_bytes = header.payload_bytes as usize;
        if part == 0 && self.assembly.is_none() {
            let (content, total) = match content {
                CONTENT_DATA if length <= u64::from(REQUEST_BYTES_MAX) => {
                    (Content::Data(Bytes::new()), length as usize)
                }
                CONTENT_ZEROES => (Content::Zeroes { allocate: flags & FLAG_ALLOCATE != 0 }, 0),
                CONTENT_TRIM => (Content::Trim, 0),
                _ => return Err(wrong("content")),
            };
            if payload_bytes != total.min(FRAME_PAYLOAD_MAX as usize) {
                return Err(wrong("payload length"));
            }
            let write = Write { range, content, fua: flags & FLAG_FUA != 0 };
            let payload = PayloadBuf::with_length(total);
            self.assembly = Some(Assembly { kind, id, write, payload });
        } else {
            let assembly = self.assembly.as_ref().ok_or(wrong("a part without a beginning"))?;
            let missing = assembly.payload.missing();
            let same = assembly.kind == kind && assembly.id == id && assembly.write.range == range;
            let fits = part == length - missing as u64
                && payload_bytes == missing.min(FRAME_PAYLOAD_MAX as usize);
            if !same || !fits {
                return Err(wrong("a part that does not continue its write"));
            }
        }
        self.begin_payload(header, Target::Write);
        Ok(())
    }

    fn begin_payload(&mut self, header: Header, target: Target) {
        let payload_missing = header.payload_bytes as usize;
        self.frame = Some(Frame { header, target, payload_missing });
        if payload_missing == 0 {
            self.finish_frame();
        }
    }

    fn finish_frame(&mut self) {
        let frame = self.frame.take().expect("a frame is under way");
        match frame.target {
            Target::Write => {
                let assembly = self.assembly.take().expect("a write frame has a write");
                if assembly.payload.missing() > 0 {
                    self.assembly = Some(assembly);
                    return;
                }
                let Assembly { kind, id, mut write, payload } = assembly;
                if let Content::Data(data) = &mut write.content {
                    *data = payload.freeze();
                }
                let message = match kind {
                    KIND_REPL => DataMessage::Repl { seq: id, write },
                    _ => DataMessage::WriteRequest { fid: id, write },
                };
                self.push(frame.header, message);
            }
            Target::Block { id, range, payload } => {
                let data = (frame.header.payload_bytes > 0).then(|| payload.freeze());
                self.push(frame.header, DataMessage::SyncBlock { id, range, data });
            }
        }
    }

    fn push(&mut self, header: Header, message: DataMessage) {
        let (session, conn_nonce) = (header.session, header.conn_nonce);
        self.messages.push_back(Incoming { session, conn_nonce, message });
    }
}

fn decode_numbers(kind: u16, body: &[u8]) -> Result<DataMessage, FrameError> {
    let wrong = |what| FrameError::Body { kind, what };
    if !body.len().is_multiple_of(8) {
        return Err(wrong("length"));
    }
    let one = || numbers::<1>(body).map(|[n]| n).ok_or(wrong("length"));
    let all = || body.chunks_exact(8).map(le_u64);
    // A list of pairs is the longest that fits its bound.
    if body.len() / 8 > COMMIT_MORE_MAX * 2 + 1 {
        return Err(wrong("too many numbers"));
    }
    Ok(match kind {
        KIND_ORDERED => {
            if !body.len().is_multiple_of(16) {
                return Err(wrong("length"));
            }
            let pairs = body.chunks_exact(16).map(|c| (le_u64(&c[..8]), le_u64(&c[8..])));
            DataMessage::Ordered(pairs.collect())
        }
        KIND_ACK => DataMessage::Ack(all().collect()),
        KIND_APPLIED => DataMessage::Applied(all().collect()),
        KIND_COMMIT => {
            let watermark = all().next().ok_or(wrong("length"))?;
            DataMessage::Commit { watermark, more: all().skip(1).collect() }
        }
        KIND_NAK => DataMessage::Nak { seq: one()? },
        KIND_FLUSH => DataMessage::Flush { id: one()? },
        KIND_FLUSH_ACK => DataMessage::FlushAck { id: one()? },
        KIND_SYNC_BLOCK_ACK => DataMessage::SyncBlockAck { id: one()? },
        KIND_DIGEST_REQUEST => {
            let [id, offset, length] = numbers(body).ok_or(wrong("length"))?;
            let range = checked_range(offset, length).ok_or(wrong("range"))?;
            if length > DIGEST_BLOCK_BYTES * COMMIT_MORE_MAX as u64 {
                return Err(wrong("range"));
            }
            DataMessage::DigestRequest { id, range }
        }
        KIND_DIGESTS => {
            let id = all().next().ok_or(wrong("length"))?;
            if body.len() % 16 != 8 {
                return Err(wrong("length"));
            }
            let digests = body[8..]
                .chunks_exact(16)
                .map(|c| u128::from(le_u64(&c[..8])) | u128::from(le_u64(&c[8..])) << 64);
            DataMessage::Digests { id, digests: digests.collect() }
        }
        _ => return Err(FrameError::Kind { kind }),
    })
}

fn checked_range(offset: u64, length: u64) -> Option<ByteRange> {
    ByteRange::new(offset, length).filter(|range| !range.is_empty())
}

fn le_u64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn numbers<const N: usize>(body: &[u8]) -> Option<[u64; N]> {
    if body.len() != N * 8 {
        return None;
    }
    let mut result = [0; N];
    for (number, bytes) in result.iter_mut().zip(body.chunks_exact(8)) {
        *number = le_u64(bytes);
    }
    Some(result)
}
