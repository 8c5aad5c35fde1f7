//! Round trips, golden bytes, and hostile streams.

use base::limits::FRAME_PAYLOAD_MAX;
use base::request::Content;
use proptest::prelude::*;

use super::decode::Incoming;
use super::*;
use base::frame::FrameError;
use base::ids::{ConnNonce, Session};

const NONCE: ConnNonce = ConnNonce(*b"0123456789abcdef");

fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).expect("small")
}

fn write(offset: u64, length: usize) -> Write {
    let data: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
    Write { range: range(offset, length as u64), content: Content::Data(data.into()), fua: true }
}

fn samples() -> Vec<DataMessage> {
    let zeroes = Content::Zeroes { allocate: true };
    let big = 1 << 32;
    vec![
        DataMessage::Repl { seq: 7, write: write(4096, 4096) },
        DataMessage::WriteRequest { fid: 0, write: write(512, 512) },
        DataMessage::Repl { seq: 8, write: write(0, FRAME_PAYLOAD_MAX as usize * 2 + 512) },
        DataMessage::WriteRequest { fid: 1, write: write(0, FRAME_PAYLOAD_MAX as usize) },
        DataMessage::Repl {
            seq: 9,
            write: Write { range: range(0, big), content: zeroes, fua: false },
        },
        DataMessage::Repl {
            seq: 10,
            write: Write { range: range(512, big), content: Content::Trim, fua: true },
        },
        DataMessage::Ordered(vec![(1, 2), (3, 4)]),
        DataMessage::Ack(vec![1, 2, 3]),
        DataMessage::Applied(vec![9]),
        DataMessage::Commit { watermark: 5, more: vec![7, 9] },
        DataMessage::Nak { seq: 3 },
        DataMessage::Flush { id: 1 },
        DataMessage::FlushAck { id: 1 },
        DataMessage::DigestRequest { id: 2, range: range(0, 1 << 20) },
        DataMessage::Digests { id: 2, digests: vec![u128::MAX - 5, 1] },
        DataMessage::SyncBlock {
            id: 2,
            range: range(65536, 65536),
            data: Some(vec![3; 65536].into()),
        },
        DataMessage::SyncBlock { id: 2, range: range(65536, 65536), data: None },
        DataMessage::SyncBlockAck { id: 2 },
    ]
}

fn encode(messages: &[DataMessage]) -> Vec<u8> {
    let mut encoder = LinkEncoder::new(NONCE, 0);
    let mut pieces = Vec::new();
    for message in messages {
        encoder.encode(Session(3), message, &mut pieces);
    }
    encoder.finish(&mut pieces);
    pieces.concat()
}

fn decode(bytes: &[u8], step: usize) -> Result<Vec<Incoming>, FrameError> {
    let mut decoder = LinkDecoder::new(0);
    let mut messages = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        decoder.handle_bytes(piece)?;
        while let Some(message) = decoder.poll_message() {
            messages.push(message);
        }
    }
    Ok(messages)
}

#[test]
fn every_message_reads_back_however_it_is_cut() {
    let bytes = encode(&samples());
    for step in [1, 7, 56, 100, 4096, 70_001, usize::MAX] {
        let messages = decode(&bytes, step).expect("our own frames");
        assert!(messages.iter().all(|m| m.session == Session(3) && m.conn_nonce == NONCE));
        let messages: Vec<_> = messages.into_iter().map(|m| m.message).collect();
        assert_eq!(messages, samples(), "in steps of {step}");
    }
}

#[test]
fn golden_bytes_of_one_write_and_one_commit() {
    let zeroes = Content::Zeroes { allocate: true };
    let write = Write { range: range(0x200, 0x400), content: zeroes, fua: true };
    let bytes = encode(&[
        DataMessage::Repl { seq: 5, write },
        DataMessage::Commit { watermark: 4, more: vec![6] },
    ]);
    let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&bytes[..4]), "53545231");
    assert_eq!(
        hex(&bytes[56..96]),
        "0500000000000000\
         0002000000000000\
         0004000000000000\
         0000000000000000\
         0103000000000000"
    );
    assert_eq!(hex(&bytes[96 + 56..]), "04000000000000000600000000000000");
}

#[test]
fn a_missing_or_repeated_frame_is_noticed() {
    let one = encode(&[DataMessage::Flush { id: 1 }]);
    let twice = [one.clone(), one].concat();
    let error = decode(&twice, usize::MAX).expect_err("repeated");
    assert_eq!(error, FrameError::Sequence { expected: 1, found: 0 });
}

/// W5.
#[test]
fn a_write_of_several_frames_cannot_be_interrupted() {
    let big = DataMessage::Repl { seq: 1, write: write(0, FRAME_PAYLOAD_MAX as usize + 512) };
    let mut encoder = LinkEncoder::new(NONCE, 0);
    let mut pieces = Vec::new();
    encoder.encode(Session(3), &big, &mut pieces);
    // Header and body of the first part, its payload, then something else.
    let mut bytes = [pieces[0].clone(), pieces[1].clone()].concat();
    let mut other = LinkEncoder::new(NONCE, 1);
    let mut rest = Vec::new();
    other.encode(Session(3), &DataMessage::Flush { id: 1 }, &mut rest);
    other.finish(&mut rest);
    bytes.extend_from_slice(&rest.concat());
    assert!(matches!(decode(&bytes, usize::MAX), Err(FrameError::Body { .. })));
}

proptest! {
    #[test]
    fn damaged_streams_are_refused_or_read_but_never_panic(
        cut in 0usize..9000, bit in 0usize..72_000, step in 1usize..600
    ) {
        let mut bytes = encode(&[
            DataMessage::Repl { seq: 7, write: write(4096, 4096) },
            DataMessage::Commit { watermark: 5, more: vec![7, 9] },
            DataMessage::Digests { id: 2, digests: vec![1, 2] },
            DataMessage::SyncBlock { id: 2, range: range(0, 2048), data: Some(vec![1; 2048].into()) },
        ]);
        let index = (bit / 8) % bytes.len();
        bytes[index] ^= 1 << (bit % 8);
        bytes.truncate(cut.min(bytes.len()));
        let _ = decode(&bytes, step);
    }

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 56..300)) {
        prop_assert!(decode(&bytes, 64).is_err());
    }
}
