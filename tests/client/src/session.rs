//! The transmission phase of one connection: which requests are out, and the replies to them.
//! Owns: cookies, what each waits for, bytes that are not a whole reply yet.
//! In: requests, bytes from the server. Out: bytes for the server, replies.
//! Faults assumed: the server may send anything; whatever breaks the protocol is an error that
//! names the rule, never a panic.
//! Not here: sockets and time (`connection`, `driver`).

use std::collections::BTreeMap;

use crate::wire::{CHUNK_BYTES, CHUNK_MAGIC, Request, SIMPLE_BYTES, SIMPLE_MAGIC, chunk, take};

/// How a server broke the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Neither a simple reply nor a chunk.
    #[error("a reply with magic {0:#010x}")]
    Magic(u32),
    /// No such request is out.
    #[error("a reply to cookie {0}, which is not out")]
    Cookie(u64),
    /// A chunk although structured replies were not agreed on.
    #[error("a structured reply that was not agreed on")]
    NotAgreed,
    /// A READ answered by a simple reply although structured replies were agreed on.
    #[error("a read answered by a simple reply")]
    SimpleRead,
    /// A chunk longer than anything asked for.
    #[error("a chunk of {0} bytes")]
    ChunkLength(u32),
    /// A chunk of a type that does not belong to the request, or with malformed contents.
    #[error("a malformed or unexpected chunk of type {0}")]
    Chunk(u16),
    /// Content outside the request, or sent twice.
    #[error("content outside the request or sent twice, at {0}")]
    Content(u64),
    /// A read that ended well with bytes missing.
    #[error("a read that ended with bytes missing")]
    Incomplete,
}

/// The answer to one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Which request.
    pub cookie: u64,
    /// 0, or an [`crate::wire::errno`].
    pub error: u32,
    /// The bytes of a READ that ended well, else empty.
    pub data: Vec<u8>,
}

#[derive(Debug)]
struct Waiting {
    read: Option<ReadBuffer>,
    error: u32,
}

#[derive(Debug)]
struct ReadBuffer {
    offset: u64,
    data: Vec<u8>,
    /// Start and end of what has arrived, inside the request; no two of them overlap.
    arrived: BTreeMap<u64, u64>,
}

impl ReadBuffer {
    fn accept(&mut self, at: u64, length: u64) -> Result<usize, ProtocolError> {
        let refused = ProtocolError::Content(at);
        let start = at.checked_sub(self.offset).ok_or(refused)?;
        let end = start.checked_add(length).ok_or(refused)?;
        if length == 0 || end > self.data.len() as u64 {
            return Err(refused);
        }
        let before = self.arrived.range(..end).next_back();
        if before.is_some_and(|(_, before_end)| *before_end > start) {
            return Err(refused);
        }
        self.arrived.insert(start, end);
        Ok(usize::try_from(start).expect("inside a buffer"))
    }

    fn is_complete(&self) -> bool {
        let arrived: u64 = self.arrived.iter().map(|(start, end)| end - start).sum();
        arrived == self.data.len() as u64
    }
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    structured: bool,
    next_cookie: u64,
    waiting: BTreeMap<u64, Waiting>,
    input: Vec<u8>,
    consumed: usize,
}

enum Step {
    NeedMore,
    Continue,
    Reply(Reply),
}

impl Session {
    /// A session on which nothing was asked yet.
    pub fn new(structured: bool) -> Self {
        let waiting = BTreeMap::new();
        Self { structured, next_cookie: 1, waiting, input: Vec::new(), consumed: 0 }
    }

    /// Appends the bytes that ask for `request` to `output`; returns its cookie.
    pub fn ask(&mut self, request: &Request, output: &mut Vec<u8>) -> u64 {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let read = match request {
            Request::Read { offset, length } => Some(ReadBuffer {
                offset: *offset,
                data: vec![0; *length as usize],
                arrived: BTreeMap::new(),
            }),
            Request::Write { .. }
            | Request::WriteZeroes { .. }
            | Request::Trim { .. }
            | Request::Cache { .. }
            | Request::Flush => None,
        };
        self.waiting.insert(cookie, Waiting { read, error: 0 });
        output.extend_from_slice(&request.header(cookie).encode());
        output.extend_from_slice(request.payload());
        cookie
    }

    /// Expects a reply to a request that was sent as raw bytes. `read` is the offset and length of
    /// a READ.
    pub fn expect(&mut self, cookie: u64, read: Option<(u64, u32)>) {
        let read = read.map(|(offset, length)| ReadBuffer {
            offset,
            data: vec![0; length as usize],
            arrived: BTreeMap::new(),
        });
        self.waiting.insert(cookie, Waiting { read, error: 0 });
    }

    /// Requests that are out.
    pub fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    /// Takes bytes from the server in.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.consumed == self.input.len() {
            self.input.clear();
            self.consumed = 0;
        } else if self.consumed > 1 << 20 {
            self.input.drain(..self.consumed);
            self.consumed = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next reply that is whole.
    ///
    /// # Errors
    /// The server broke the protocol; nothing more can be said about this connection.
    pub fn poll_reply(&mut self) -> Result<Option<Reply>, ProtocolError> {
        loop {
            match self.step()? {
                Step::NeedMore => return Ok(None),
                Step::Continue => {}
                Step::Reply(reply) => return Ok(Some(reply)),
            }
        }
    }

    fn step(&mut self) -> Result<Step, ProtocolError> {
        let mut input = &self.input[self.consumed..];
        let Some(magic) = take(&mut input) else { return Ok(Step::NeedMore) };
        match u32::from_be_bytes(magic) {
            SIMPLE_MAGIC => self.step_simple(),
            CHUNK_MAGIC if self.structured => self.step_chunk(),
            CHUNK_MAGIC => Err(ProtocolError::NotAgreed),
            other => Err(ProtocolError::Magic(other)),
        }
    }

    fn step_simple(&mut self) -> Result<Step, ProtocolError> {
        let input = &self.input[self.consumed..];
        if input.len() < SIMPLE_BYTES {
            return Ok(Step::NeedMore);
        }
        let mut fields = &input[4..];
        let (Some(error), Some(cookie)) = (take(&mut fields), take(&mut fields)) else {
            return Ok(Step::NeedMore);
        };
        let (error, cookie) = (u32::from_be_bytes(error), u64::from_be_bytes(cookie));
        let waiting = self.waiting.get(&cookie).ok_or(ProtocolError::Cookie(cookie))?;
        if waiting.read.is_some() && self.structured {
            return Err(ProtocolError::SimpleRead);
        }
        let wanted = match &waiting.read {
            Some(read) if error == 0 => read.data.len(),
            _ => 0,
        };
        let Some(data) = fields.get(..wanted) else { return Ok(Step::NeedMore) };
        let reply = Reply { cookie, error, data: data.to_vec() };
        self.consumed += SIMPLE_BYTES + wanted;
        self.waiting.remove(&cookie);
        Ok(Step::Reply(reply))
    }

    fn step_chunk(&mut self) -> Result<Step, ProtocolError> {
        let input = &self.input[self.consumed..];
        if input.len() < CHUNK_BYTES {
            return Ok(Step::NeedMore);
        }
        let flags = u16::from_be_bytes([input[4], input[5]]);
        let kind = u16::from_be_bytes([input[6], input[7]]);
        let mut fields = &input[8..];
        let (Some(cookie), Some(length)) = (take(&mut fields), take(&mut fields)) else {
            return Ok(Step::NeedMore);
        };
        let (cookie, length) = (u64::from_be_bytes(cookie), u32::from_be_bytes(length));
        let waiting = self.waiting.get_mut(&cookie).ok_or(ProtocolError::Cookie(cookie))?;
        let content = waiting.read.as_ref().map_or(0, |read| read.data.len() as u64);
        if u64::from(length) > (content + 8).max(8192) {
            return Err(ProtocolError::ChunkLength(length));
        }
        let Some(body) = fields.get(..length as usize) else { return Ok(Step::NeedMore) };
        take_chunk(waiting, kind, flags & chunk::DONE != 0, body)?;
        self.consumed += CHUNK_BYTES + length as usize;
        if flags & chunk::DONE == 0 {
            return Ok(Step::Continue);
        }
        let done = self.waiting.remove(&cookie).expect("looked up above");
        let data = match done.read {
            Some(read) if done.error == 0 => {
                if !read.is_complete() {
                    return Err(ProtocolError::Incomplete);
                }
                read.data
            }
            _ => Vec::new(),
        };
        Ok(Step::Reply(Reply { cookie, error: done.error, data }))
    }
}

fn take_chunk(
    waiting: &mut Waiting,
    kind: u16,
    done: bool,
    mut body: &[u8],
) -> Result<(), ProtocolError> {
    let malformed = ProtocolError::Chunk(kind);
    match (kind, &mut waiting.read) {
        (chunk::NONE, _) if body.is_empty() && done => Ok(()),
        (chunk::OFFSET_DATA, Some(read)) => {
            let at = u64::from_be_bytes(take(&mut body).ok_or(malformed)?);
            let start = read.accept(at, body.len() as u64)?;
            read.data[start..start + body.len()].copy_from_slice(body);
            Ok(())
        }
        (chunk::OFFSET_HOLE, Some(read)) if body.len() == 12 => {
            let at = u64::from_be_bytes(take(&mut body).ok_or(malformed)?);
            let length = u32::from_be_bytes(take(&mut body).ok_or(malformed)?);
            read.accept(at, u64::from(length)).map(|_| ())
        }
        (chunk::ERROR | chunk::ERROR_OFFSET, _) => {
            let error = u32::from_be_bytes(take(&mut body).ok_or(malformed)?);
            let text = u16::from_be_bytes(take(&mut body).ok_or(malformed)?);
            let trailer = if kind == chunk::ERROR_OFFSET { 8 } else { 0 };
            if error == 0 || body.len() != usize::from(text) + trailer {
                return Err(malformed);
            }
            waiting.error = error;
            Ok(())
        }
        _ => Err(malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk_bytes(flags: u16, kind: u16, cookie: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = CHUNK_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&cookie.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(body.len()).expect("small").to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn data_chunk(flags: u16, cookie: u64, at: u64, data: &[u8]) -> Vec<u8> {
        let mut body = at.to_be_bytes().to_vec();
        body.extend_from_slice(data);
        chunk_bytes(flags, chunk::OFFSET_DATA, cookie, &body)
    }

    fn reading(structured: bool) -> (Session, u64) {
        let mut session = Session::new(structured);
        let cookie = session.ask(&Request::Read { offset: 100, length: 4 }, &mut Vec::new());
        (session, cookie)
    }

    #[test]
    fn a_read_is_put_together_from_data_and_holes() {
        let (mut session, cookie) = reading(true);
        let mut hole = 100u64.to_be_bytes().to_vec();
        hole.extend_from_slice(&2u32.to_be_bytes());
        let mut bytes = data_chunk(0, cookie, 102, b"xy");
        bytes.extend(chunk_bytes(chunk::DONE, chunk::OFFSET_HOLE, cookie, &hole));
        for byte in &bytes[..bytes.len() - 1] {
            session.feed(&[*byte]);
            assert_eq!(session.poll_reply(), Ok(None));
        }
        session.feed(&bytes[bytes.len() - 1..]);
        let reply = Reply { cookie, error: 0, data: b"\0\0xy".to_vec() };
        assert_eq!(session.poll_reply(), Ok(Some(reply)));
        assert_eq!(session.outstanding(), 0);
    }

    #[test]
    fn what_breaks_the_protocol_is_named() {
        let cases: [(Vec<u8>, ProtocolError); 8] = [
            (data_chunk(1, 1, 100, b"ab"), ProtocolError::Incomplete),
            (data_chunk(1, 2, 100, b"abcd"), ProtocolError::Cookie(2)),
            (data_chunk(1, 1, 101, b"abcd"), ProtocolError::Content(101)),
            (data_chunk(1, 1, 99, b"ab"), ProtocolError::Content(99)),
            (data_chunk(1, 1, 100, b""), ProtocolError::Content(100)),
            (chunk_bytes(1, 5, 1, b""), ProtocolError::Chunk(5)),
            (chunk_bytes(1, chunk::ERROR, 1, &[0; 6]), ProtocolError::Chunk(chunk::ERROR)),
            (0u64.to_be_bytes().to_vec(), ProtocolError::Magic(0)),
        ];
        for (bytes, error) in cases {
            let (mut session, _) = reading(true);
            session.feed(&bytes);
            assert_eq!(session.poll_reply(), Err(error));
        }
    }

    #[test]
    fn content_sent_twice_is_refused() {
        let (mut session, cookie) = reading(true);
        session.feed(&data_chunk(0, cookie, 101, b"b"));
        session.feed(&data_chunk(0, cookie, 100, b"abcd"));
        assert_eq!(session.poll_reply(), Err(ProtocolError::Content(100)));
    }

    #[test]
    fn simple_and_structured_are_not_mixed_for_reads() {
        let (mut session, cookie) = reading(true);
        let mut simple = SIMPLE_MAGIC.to_be_bytes().to_vec();
        simple.extend_from_slice(&0u32.to_be_bytes());
        simple.extend_from_slice(&cookie.to_be_bytes());
        simple.extend_from_slice(b"abcd");
        session.feed(&simple);
        assert_eq!(session.poll_reply(), Err(ProtocolError::SimpleRead));
        let (mut session, cookie) = reading(false);
        session.feed(&simple);
        let reply = Reply { cookie, error: 0, data: b"abcd".to_vec() };
        assert_eq!(session.poll_reply(), Ok(Some(reply)));
        let (mut session, cookie) = reading(false);
        session.feed(&data_chunk(1, cookie, 100, b"abcd"));
        assert_eq!(session.poll_reply(), Err(ProtocolError::NotAgreed));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut session, _) = reading(true);
            session.feed(&CHUNK_MAGIC.to_be_bytes());
            session.feed(&bytes);
            while let Ok(Some(_)) = session.poll_reply() {}
        }
    }
}
