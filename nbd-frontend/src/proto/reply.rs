//! Replies of the transmission phase (NBD proto: "Simple reply message", "Structured reply chunk
//! message").

use base::limits::REQUEST_BYTES_MAX;
use bytes::{BufMut, BytesMut};

use super::errno::Failure;

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

const CHUNK_FLAG_DONE: u16 = 1 << 0;
const CHUNK_NONE: u16 = 0;
const CHUNK_OFFSET_DATA: u16 = 1;
const CHUNK_ERROR: u16 = 0x8001;

/// Bytes of the largest reply without the data of a read: the bound of what one request that is
/// answered at once can cause.
pub const REPLY_BYTES_MAX: usize = 160;

/// Done, or the header before the data of a read, without structured replies.
pub fn put_simple_done(out: &mut BytesMut, cookie: u64) {
    put_simple(out, 0, cookie);
}

/// Failed, without structured replies.
pub fn put_simple_error(out: &mut BytesMut, cookie: u64, failure: Failure) {
    put_simple(out, failure.errno() as u32, cookie);
}

/// The one and last chunk of an answer that has no data.
pub fn put_chunk_none(out: &mut BytesMut, cookie: u64) {
    put_chunk(out, CHUNK_NONE, cookie, 0);
}

/// What stands before the data in the one and last chunk of a read. `length` is not zero and at
/// most the largest payload.
pub fn put_chunk_data_header(out: &mut BytesMut, cookie: u64, offset: u64, length: usize) {
    assert!(length > 0 && length <= REQUEST_BYTES_MAX as usize, "a content chunk has content");
    put_chunk(out, CHUNK_OFFSET_DATA, cookie, 8 + length);
    out.put_u64(offset);
}

/// Failed, as the one and last chunk, with a text for people.
pub fn put_chunk_error(out: &mut BytesMut, cookie: u64, failure: Failure) {
    let text = failure.to_string();
    let length = u16::try_from(text.len()).expect("texts of failures are short");
    put_chunk(out, CHUNK_ERROR, cookie, 6 + text.len());
    out.put_u32(failure.errno() as u32);
    out.put_u16(length);
    out.put_slice(text.as_bytes());
}

fn put_simple(out: &mut BytesMut, error: u32, cookie: u64) {
    out.put_u32(SIMPLE_MAGIC);
    out.put_u32(error);
    out.put_u64(cookie);
}

fn put_chunk(out: &mut BytesMut, kind: u16, cookie: u64, length: usize) {
    out.put_u32(CHUNK_MAGIC);
    out.put_u16(CHUNK_FLAG_DONE);
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u32(u32::try_from(length).expect("a chunk is at most one payload and its header"));
}

#[cfg(test)]
mod tests {
    use base::request::RequestError;

    use super::*;

    fn put(fill: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        fill(&mut out);
        out.to_vec()
    }

    const COOKIE: u64 = 0x0102_0304_0506_0708;

    #[test]
    fn replies_have_their_golden_bytes() {
        let failure = Failure::Volume(RequestError::Io);
        let rows: [(Vec<u8>, &[u8]); 5] = [
            (
                put(|o| put_simple_done(o, COOKIE)),
                b"\x67\x44\x66\x98\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08",
            ),
            (
                put(|o| put_simple_error(o, COOKIE, failure)),
                b"\x67\x44\x66\x98\0\0\0\x05\x01\x02\x03\x04\x05\x06\x07\x08",
            ),
            (
                put(|o| put_chunk_none(o, COOKIE)),
                b"\x66\x8e\x33\xef\0\x01\0\0\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0",
            ),
            (
                put(|o| put_chunk_data_header(o, COOKIE, 0x1000, 512)),
                b"\x66\x8e\x33\xef\0\x01\0\x01\x01\x02\x03\x04\x05\x06\x07\x08\0\0\x02\x08\
                  \0\0\0\0\0\0\x10\0",
            ),
            (
                put(|o| put_chunk_error(o, COOKIE, failure)),
                b"\x66\x8e\x33\xef\0\x01\x80\x01\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x18\
                  \0\0\0\x05\0\x12input/output error",
            ),
        ];
        for (bytes, golden) in rows {
            assert_eq!(bytes, golden);
            assert!(bytes.len() <= REPLY_BYTES_MAX);
        }
    }
}
