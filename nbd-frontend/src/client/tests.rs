use base::limits::{CLIENT_BYTES_MIN, CLIENT_REQUESTS_MAX, TURN_BYTES_MAX, VOLUME_BYTES_MAX};
use base::range::ByteRange;
use proptest::prelude::*;

use super::*;
use crate::exports::ExportInfo;
use crate::proto::reply::REPLY_BYTES_MAX;
use crate::proto::request::REQUEST_MAGIC;

const SIZE: u64 = 1 << 40;
const NOW: Instant = Instant::from_nanos(1_000);

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const ZEROES: u16 = 6;
const STATUS: u16 = 7;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ESHUTDOWN: u32 = 108;

fn attached(terms: Terms) -> Client {
    Client::new(terms, &Budget::default())
}

fn terms(structured: bool) -> Terms {
    Terms { export: ExportInfo::new("vol0".parse().expect("a name"), SIZE), structured }
}

fn header(command: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

fn write(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(WRITE, 0, cookie, offset, data.len() as u32);
    bytes.extend_from_slice(data);
    bytes
}

/// One reply as a client reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Reply {
    Simple { cookie: u64, errno: u32 },
    None { cookie: u64 },
    Data { cookie: u64, offset: u64, length: usize },
    Error { cookie: u64, errno: u32 },
}

use Reply::Simple;

fn done(cookie: u64) -> Reply {
    Simple { cookie, errno: 0 }
}

/// Splits simple replies; `reads` gives the length of data behind a cookie's successful reply.
fn split_simple(mut bytes: &[u8], reads: impl Fn(u64) -> usize) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[..4], [0x67, 0x44, 0x66, 0x98]);
        let errno = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
        let cookie = u64::from_be_bytes(bytes[8..16].try_into().unwrap());
        let data = if errno == 0 { reads(cookie) } else { 0 };
        assert!(bytes[16..16 + data].iter().all(|byte| *byte == 0x5a));
        replies.push(Simple { cookie, errno });
        bytes = &bytes[16 + data..];
    }
    replies
}

fn split_structured(mut bytes: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        if bytes[..4] == [0x67, 0x44, 0x66, 0x98] {
            replies.extend(split_simple(&bytes[..16], |_| 0));
            bytes = &bytes[16..];
            continue;
        }
        assert_eq!(bytes[..6], [0x66, 0x8e, 0x33, 0xef, 0, 1], "one chunk, and it is the last");
        let kind = u16::from_be_bytes(bytes[6..8].try_into().unwrap());
        let cookie = u64::from_be_bytes(bytes[8..16].try_into().unwrap());
        let length = u32::from_be_bytes(bytes[16..20].try_into().unwrap()) as usize;
        let body = &bytes[20..20 + length];
        replies.push(match kind {
            0 => {
                assert_eq!(length, 0);
                Reply::None { cookie }
            }
            1 => {
                assert!(length > 8);
                let offset = u64::from_be_bytes(body[..8].try_into().unwrap());
                assert!(body[8..].iter().all(|byte| *byte == 0x5a));
                Reply::Data { cookie, offset, length: length - 8 }
            }
            0x8001 => {
                let errno = u32::from_be_bytes(body[..4].try_into().unwrap());
                let text = u16::from_be_bytes(body[4..6].try_into().unwrap());
                assert_eq!(length, 6 + usize::from(text));
                assert!(text > 0 && std::str::from_utf8(&body[6..]).is_ok());
                Reply::Error { cookie, errno }
            }
            other => panic!("chunk type {other}"),
        });
        bytes = &bytes[20 + length..];
    }
    replies
}

fn output(client: &mut Client) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = client.poll_output() {
        assert!(!piece.is_empty());
        bytes.extend_from_slice(&piece);
    }
    client.handle_backlog(0);
    client.resume(NOW);
    bytes
}

fn completion_of(operation: &Operation) -> Completion {
    match operation {
        Operation::Read { range } => {
            Completion::Data(Bytes::from(vec![0x5a; range.length() as usize]))
        }
        Operation::Write(_) | Operation::Flush | Operation::Cache { .. } => Completion::Done,
    }
}

/// Completes everything there is, as a volume without faults.
fn complete_all(client: &mut Client) -> Vec<Operation> {
    let mut asked = Vec::new();
    loop {
        while let Some((tag, operation)) = client.poll_request() {
            client.handle_completion(tag, completion_of(&operation));
            asked.push(operation);
        }
        if !client.can_resume() {
            return asked;
        }
        client.resume(NOW);
    }
}

/// Feeds one request to a fresh client and returns what the volume was asked and what was said.
fn one(structured: bool, bytes: &[u8]) -> (Vec<Operation>, Vec<Reply>) {
    let mut client = attached(terms(structured));
    client.handle_bytes(NOW, bytes);
    let asked = complete_all(&mut client);
    let said = output(&mut client);
    assert_eq!(client.ended(), None);
    assert_eq!(client.requests_in_flight(), 0);
    let replies = if structured { split_structured(&said) } else { split_simple(&said, |_| 512) };
    (asked, replies)
}

fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).expect("small")
}

#[test]
fn reads_return_their_data() {
    let read = header(READ, 0, 9, 4096, 512);
    let asked = vec![Operation::Read { range: range(4096, 512) }];
    assert_eq!(one(false, &read), (asked.clone(), vec![done(9)]));
    let data = Reply::Data { cookie: 9, offset: 4096, length: 512 };
    assert_eq!(one(true, &read), (asked, vec![data]));
}

#[test]
fn the_data_of_a_read_is_not_copied() {
    for structured in [false, true] {
        let mut client = attached(terms(structured));
        client.handle_bytes(NOW, &header(READ, 0, 1, 0, 4096));
        client.handle_bytes(NOW, &header(FLUSH, 0, 2, 0, 0));
        let (tag, _) = client.poll_request().expect("a read");
        let (flush, _) = client.poll_request().expect("a flush");
        let data = Bytes::from(vec![0x5a; 4096]);
        client.handle_completion(tag, Completion::Data(data.clone()));
        client.handle_completion(flush, Completion::Done);
        let pieces: Vec<_> = std::iter::from_fn(|| client.poll_output()).collect();
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[1].as_ptr(), data.as_ptr());
    }
}

#[test]
fn small_replies_of_a_turn_leave_in_one_piece() {
    let mut client = attached(terms(true));
    let requests: Vec<u8> = (0..50).flat_map(|n| header(FLUSH, 0, n, 0, 0)).collect();
    client.handle_bytes(NOW, &requests);
    assert_eq!(complete_all(&mut client).len(), 50);
    let piece = client.poll_output().expect("replies");
    assert_eq!(piece.len(), 50 * 16);
    assert_eq!(client.poll_output(), None);
}

#[test]
fn writes_carry_their_payload_aligned_and_once() {
    let data: Vec<u8> = (0..8192u32).map(|n| n as u8).collect();
    let mut bytes = write(3, 512, &data);
    bytes.extend(header(FLUSH, 0, 4, 0, 0));
    let mut client = attached(terms(false));
    client.handle_bytes(NOW, &bytes);
    let (_, operation) = client.poll_request().expect("a write");
    let Operation::Write(Write { range: at, content: Content::Data(payload), fua: false }) =
        operation
    else {
        panic!("a write with data");
    };
    assert_eq!((at, payload.as_ref()), (range(512, 8192), data.as_slice()));
    assert_eq!(payload.as_ptr().align_offset(4096), 0);
    assert_eq!(client.poll_request(), Some((1, Operation::Flush)));
}

/// Each row is refused and the next request is understood: both sides stay in step.
#[test]
fn every_refusal_keeps_both_sides_in_step() {
    let end = SIZE;
    let rows: [(Vec<u8>, u32); 18] = [
        (header(READ, 0, 1, end, 512), EINVAL),
        (header(READ, 4, 1, 0, 512), EINVAL),
        (header(READ, 0, 1, 0, 33 << 20), EINVAL),
        (header(READ, 0, 1, 0, u32::MAX), EINVAL),
        (header(READ, 0, 1, 1, 1), EINVAL),
        (write(1, end - 512, &[1; 1024]), ENOSPC),
        (write(1, 3, &[1; 7]), EINVAL),
        ([header(WRITE, 1 << 9, 1, 0, 512), vec![0x25; 512]].concat(), EINVAL),
        ([header(WRITE, 0, 1, 0, (32 << 20) + 512), vec![0x25; (32 << 20) + 512]].concat(), EINVAL),
        ([header(WRITE, 0, 1, 0, 64 << 20), vec![0x25; 64 << 20]].concat(), EINVAL),
        (header(FLUSH, 0, 1, 512, 0), EINVAL),
        (header(TRIM, 2, 1, 0, 512), EINVAL),
        (header(TRIM, 0, 1, end, 512), EINVAL),
        (header(CACHE, 2, 1, 0, 512), EINVAL),
        (header(ZEROES, 0, 1, end, 512), ENOSPC),
        (header(ZEROES, 16, 1, 0, 512), EINVAL),
        (header(STATUS, 0, 1, 0, 512), EINVAL),
        (header(99, 0, 1, 0, 512), EINVAL),
    ];
    for structured in [false, true] {
        for (bytes, errno) in &rows {
            // DF is a flag of reads in structured mode.
            if structured && bytes[5] == 4 {
                continue;
            }
            let mut bytes = bytes.clone();
            bytes.extend(header(READ, 0, 2, 0, 512));
            let (asked, replies) = one(structured, &bytes);
            assert_eq!(asked, [Operation::Read { range: range(0, 512) }]);
            let refused = match structured {
                false => Simple { cookie: 1, errno: *errno },
                true => Reply::Error { cookie: 1, errno: *errno },
            };
            assert_eq!(replies[0], refused);
            assert_eq!(replies.len(), 2);
        }
    }
}

#[test]
fn a_read_only_export_consumes_the_payload_and_says_so() {
    let mut client = attached(Terms {
        export: ExportInfo { read_only: true, ..terms(false).export },
        structured: false,
    });
    client.handle_bytes(NOW, &write(5, 0, &[1; 4096]));
    client.handle_bytes(NOW, &header(FLUSH, 0, 6, 0, 0));
    assert_eq!(complete_all(&mut client), [Operation::Flush]);
    let said = split_simple(&output(&mut client), |_| 0);
    assert_eq!(said, [Simple { cookie: 5, errno: EPERM }, done(6)]);
}

#[test]
fn nothing_is_asked_for_nothing_and_answered_at_once() {
    for command in [READ, WRITE, TRIM, CACHE, ZEROES] {
        let bytes = header(command, 1, 4, 0, 0);
        let mut client = attached(terms(false));
        client.handle_bytes(NOW, &bytes);
        assert_eq!(client.poll_request(), None);
        assert_eq!(split_simple(&output(&mut client), |_| 0), [done(4)]);
        let expected = if command == READ { Reply::None { cookie: 4 } } else { done(4) };
        assert_eq!(one(true, &bytes), (vec![], vec![expected]));
    }
}

#[test]
fn zeroes_and_trims_of_four_gib_are_one_operation() {
    let length = u32::MAX - 511;
    let (asked, replies) = one(true, &header(ZEROES, 3, 1, 512, length));
    let content = Content::Zeroes { allocate: true };
    let whole = range(512, u64::from(length));
    assert_eq!(asked, [Operation::Write(Write { range: whole, content, fua: true })]);
    assert_eq!(replies, [done(1)]);
    let (asked, _) = one(true, &header(TRIM, 0, 1, 512, length));
    let content = Content::Trim;
    assert_eq!(asked, [Operation::Write(Write { range: whole, content, fua: false })]);
}

#[test]
fn failures_of_the_volume_are_told() {
    for (error, errno) in [(RequestError::Io, EIO), (RequestError::ShuttingDown, ESHUTDOWN)] {
        for structured in [false, true] {
            for bytes in [header(READ, 0, 8, 0, 512), write(8, 0, &[0; 512])] {
                let mut client = attached(terms(structured));
                client.handle_bytes(NOW, &bytes);
                let (tag, _) = client.poll_request().expect("a request");
                client.handle_completion(tag, Completion::Failed(error));
                let said = output(&mut client);
                let expected = match structured {
                    false => Simple { cookie: 8, errno },
                    true => Reply::Error { cookie: 8, errno },
                };
                assert_eq!(split_structured(&said), [expected]);
            }
        }
    }
}

#[test]
fn completions_come_in_any_order_and_find_their_cookies() {
    let mut client = attached(terms(true));
    for cookie in 0..10 {
        let command = if cookie % 2 == 0 { READ } else { TRIM };
        client.handle_bytes(NOW, &header(command, 0, 100 + cookie, cookie * 512, 512));
    }
    let mut asked: Vec<_> = std::iter::from_fn(|| client.poll_request()).collect();
    asked.reverse();
    for (tag, operation) in &asked {
        client.handle_completion(*tag, completion_of(operation));
    }
    let said = split_structured(&output(&mut client));
    let expected: Vec<_> = (0..10)
        .rev()
        .map(|n| match n % 2 {
            0 => Reply::Data { cookie: 100 + n, offset: n * 512, length: 512 },
            _ => done(100 + n),
        })
        .collect();
    assert_eq!(said, expected);
}

#[test]
fn a_wrong_magic_number_ends_the_connection_at_once() {
    for magic in [0u32, 0x21e4_1c71, 0x2560_9512] {
        let mut client = attached(terms(false));
        let mut bytes = header(TRIM, 0, 1, 0, 512);
        bytes.extend(header(FLUSH, 0, 2, 0, 0));
        bytes[28..32].copy_from_slice(&magic.to_be_bytes());
        client.handle_bytes(NOW, &bytes);
        assert_eq!(client.ended(), Some(End::BadMagic(magic)));
        assert_eq!(client.poll_request(), None, "what was not asked for is dropped");
        assert_eq!(client.requests_in_flight(), 0);
        assert!(!client.wants_input());
        client.handle_bytes(NOW, &header(FLUSH, 0, 3, 0, 0));
        assert_eq!(client.poll_request(), None);
    }
}

#[test]
fn an_absurd_payload_ends_the_connection_and_a_sane_one_does_not() {
    let mut client = attached(terms(false));
    client.handle_bytes(NOW, &header(WRITE, 0, 1, 0, SKIPPED_BYTES_MAX));
    assert_eq!(client.ended(), None);
    let mut client = attached(terms(false));
    client.handle_bytes(NOW, &header(WRITE, 0, 1, 0, SKIPPED_BYTES_MAX + 1));
    assert_eq!(client.ended(), Some(End::AbsurdLength(SKIPPED_BYTES_MAX + 1)));
    let mut client = attached(terms(false));
    client.handle_bytes(NOW, &header(WRITE, 0, 1, 0, u32::MAX));
    assert!(client.ended().is_some_and(|end| !end.is_orderly()));
}

#[test]
fn a_goodbye_completes_what_is_outstanding() {
    let mut client = attached(terms(false));
    for cookie in 0..20 {
        client.handle_bytes(NOW, &write(cookie, cookie * 512, &[1; 512]));
    }
    let (first, _) = client.poll_request().expect("a write");
    let mut goodbye = header(DISC, 1 << 7, 99, 5, 5);
    goodbye.extend(header(FLUSH, 0, 100, 0, 0));
    client.handle_bytes(NOW, &goodbye);
    assert!(client.has_said_goodbye() && !client.wants_input());
    client.handle_peer_closed();
    assert_eq!(client.ended(), None);
    client.handle_completion(first, Completion::Done);
    assert_eq!(complete_all(&mut client).len(), 19);
    assert_eq!(client.ended(), None, "replies are still to be sent");
    let said = split_simple(&output(&mut client), |_| 0);
    let expected: Vec<_> = (0..20).map(done).collect();
    assert_eq!(said, expected, "no reply to the goodbye, nothing read behind it");
    assert_eq!(client.ended(), Some(End::Disconnected));
    assert!(End::Disconnected.is_orderly());
}

#[test]
fn after_a_goodbye_a_broken_connection_only_costs_the_replies() {
    let mut client = attached(terms(false));
    for cookie in 0..3 {
        client.handle_bytes(NOW, &write(cookie, cookie * 512, &[1; 512]));
    }
    client.handle_bytes(NOW, &header(DISC, 0, 0, 0, 0));
    client.handle_connection_lost();
    assert_eq!(client.ended(), None);
    assert_eq!(complete_all(&mut client).len(), 3);
    assert_eq!(client.poll_output(), None);
    assert_eq!(client.ended(), Some(End::Disconnected));
}

#[test]
fn without_a_goodbye_what_was_not_asked_for_is_dropped() {
    type Event = fn(&mut Client);
    let rows: [(Event, End); 2] = [
        (Client::handle_peer_closed, End::PeerClosed),
        (Client::handle_connection_lost, End::ConnectionLost),
    ];
    for (event, end) in rows {
        let mut client = attached(terms(false));
        client.handle_bytes(NOW, &write(1, 0, &[1; 512]));
        client.handle_bytes(NOW, &write(2, 0, &[1; 512]));
        client.handle_bytes(NOW, &header(WRITE, 0, 3, 0, 512));
        let (tag, _) = client.poll_request().expect("the first write");
        event(&mut client);
        assert_eq!(client.ended(), Some(end));
        assert_eq!(client.poll_request(), None);
        assert_eq!(client.requests_in_flight(), 1);
        client.handle_completion(tag, Completion::Done);
        assert_eq!((client.requests_in_flight(), client.poll_output()), (0, None));
        assert!(!end.is_orderly());
    }
}

#[test]
fn a_stopping_node_answers_everything_and_leaves() {
    let mut client = attached(terms(false));
    client.handle_bytes(NOW, &write(1, 0, &[1; 512]));
    client.handle_bytes(NOW, &write(2, 512, &[1; 512]));
    let (tag, _) = client.poll_request().expect("the first write");
    client.handle_bytes(NOW, &header(WRITE, 0, 3, 0, 512));
    client.handle_shutdown(NOW);
    assert_eq!(client.poll_request(), None);
    client.handle_bytes(NOW, &[7; 512]);
    client.handle_bytes(NOW, &write(4, 0, &[1; 512]));
    client.handle_bytes(NOW, &header(FLUSH, 0, 5, 0, 0));
    let refused = |cookie| Simple { cookie, errno: ESHUTDOWN };
    let said = split_simple(&output(&mut client), |_| 0);
    assert_eq!(said, [2, 3, 4, 5].map(refused));
    assert_eq!(client.ended(), None, "one write is under way");
    client.handle_completion(tag, Completion::Done);
    assert_eq!(client.ended(), None);
    assert_eq!(split_simple(&output(&mut client), |_| 0), [done(1)]);
    assert_eq!(client.ended(), Some(End::ShuttingDown));
}

#[test]
fn requests_are_bounded_and_the_rest_waits_in_order() {
    let mut client = attached(terms(false));
    let count = CLIENT_REQUESTS_MAX as u64 + 10;
    let bytes: Vec<u8> = (0..count).flat_map(|n| header(FLUSH, 0, n, 0, 0)).collect();
    client.handle_bytes(NOW, &bytes);
    assert!(!client.wants_input());
    assert_eq!(client.requests_in_flight(), CLIENT_REQUESTS_MAX);
    let mut asked = Vec::new();
    while let Some((tag, _)) = client.poll_request() {
        asked.push(tag);
    }
    assert_eq!(asked.len(), CLIENT_REQUESTS_MAX);
    for tag in asked {
        client.handle_completion(tag, Completion::Done);
    }
    assert!(!client.wants_input() && client.can_resume());
    client.resume(NOW);
    assert!(client.wants_input());
    assert_eq!(complete_all(&mut client).len(), 10);
    let said = split_simple(&output(&mut client), |_| 0);
    assert_eq!(said, (0..count).map(done).collect::<Vec<_>>());
}

/// G2a: above the caps a change that has come is known to the volume all the same; a write of
/// which a part is missing waits, and so does what changes nothing.
#[test]
fn changes_that_came_are_handed_out_above_the_caps() {
    let mut client = attached(terms(false));
    let full: Vec<u8> =
        (0..CLIENT_REQUESTS_MAX as u64).flat_map(|n| header(READ, 0, n, 0, 256 << 10)).collect();
    client.handle_bytes(NOW, &full);
    assert_eq!(client.bytes_in_flight(), CLIENT_BYTES_MAX);
    while client.poll_request().is_some() {}
    let mut rest = header(READ, 0, 1000, 0, 512);
    rest.extend(write(1001, 512, &[1; 512]));
    rest.extend(header(TRIM, 0, 1002, 1024, 512));
    rest.extend(header(FLUSH, 0, 1003, 0, 0));
    rest.extend(write(1004, 2048, &[4; 1024]));
    let (come, missing) = rest.split_at(rest.len() - 100);
    client.handle_bytes(NOW, come);
    let changed: Vec<_> = std::iter::from_fn(|| client.poll_request())
        .map(|(_, operation)| match operation {
            Operation::Write(Write { range, .. }) => range,
            other => panic!("{other:?} has no room"),
        })
        .collect();
    assert_eq!(changed, [range(512, 512), range(1024, 512)]);
    assert!(!client.wants_input(), "nothing is received above the caps");
    client.handle_bytes(NOW, missing);
    assert!(
        matches!(client.poll_request(), Some((_, Operation::Write(w))) if w.range.offset() == 2048)
    );
    assert_eq!(client.poll_request(), None, "the read and the flush wait");
}

#[test]
fn nothing_is_received_above_the_caps_whatever_the_next_byte_is() {
    let part = |length: u32| [header(WRITE, 0, 0, 0, length), vec![1; 2]].concat();
    for last in [vec![], vec![0x25, 0x60], part(512), part(3), header(WRITE, 0, 0, 0, 512)] {
        let mut client = attached(terms(false));
        let count = CLIENT_REQUESTS_MAX as u64;
        let full: Vec<u8> = (0..count).flat_map(|n| header(TRIM, 0, n, 0, 512)).collect();
        client.handle_bytes(NOW, &[full, last].concat());
        assert!(!client.wants_input());
        complete_all(&mut client);
        output(&mut client);
        assert!(client.wants_input());
    }
}

#[test]
fn what_waits_at_a_goodbye_is_done_before_the_end() {
    let mut client = attached(terms(false));
    let count = CLIENT_REQUESTS_MAX as u64 + 1;
    let mut bytes: Vec<u8> = (0..count).flat_map(|n| header(FLUSH, 0, n, 0, 0)).collect();
    bytes.extend(header(DISC, 0, 0, 0, 0));
    client.handle_bytes(NOW, &bytes);
    assert!(client.has_said_goodbye());
    assert_eq!(complete_all(&mut client).len() as u64, count);
    assert_eq!(split_simple(&output(&mut client), |_| 0).len() as u64, count);
    assert_eq!(client.ended(), Some(End::Disconnected));
}

#[test]
fn what_waits_for_room_is_refused_when_the_node_stops() {
    let mut client = attached(terms(false));
    let full: Vec<u8> =
        (0..CLIENT_REQUESTS_MAX as u64).flat_map(|n| header(FLUSH, 0, n, 0, 0)).collect();
    client.handle_bytes(NOW, &full);
    while client.poll_request().is_some() {}
    client.handle_bytes(NOW, &header(FLUSH, 0, 1000, 0, 0));
    client.handle_bytes(NOW, &write(1001, 0, &[1; 512])[..100]);
    client.handle_shutdown(NOW);
    client.handle_bytes(NOW, &[1; 512 + REQUEST_BYTES - 100]);
    let refused = |cookie| Simple { cookie, errno: ESHUTDOWN };
    assert_eq!(split_simple(&output(&mut client), |_| 0), [1000, 1001].map(refused));
}

#[test]
fn bytes_in_flight_are_bounded() {
    for command in [READ, WRITE] {
        let mut client = attached(terms(false));
        let mut fed = 0;
        while client.wants_input() {
            client.handle_bytes(NOW, &header(command, 0, fed, 0, 24 << 20));
            if command == WRITE && client.wants_input() {
                client.handle_bytes(NOW, &vec![1; 24 << 20]);
            }
            fed += 1;
        }
        assert_eq!(client.bytes_in_flight(), 48 << 20);
        assert_eq!(fed, 3, "the third one waits");
        let (tag, operation) = client.poll_request().expect("the first one");
        client.handle_completion(tag, completion_of(&operation));
        output(&mut client);
        assert!(client.wants_input(), "there is room again");
    }
}

#[test]
fn the_clients_of_a_volume_share_its_room_and_finish_what_they_have_begun() {
    let budget = Budget::default();
    let mut clients: Vec<_> = (0..12).map(|_| Client::new(terms(false), &budget)).collect();
    for client in &mut clients {
        client.handle_bytes(NOW, &header(WRITE, 0, 1, 0, REQUEST_BYTES_MAX));
    }
    assert_eq!(budget.used_bytes(), VOLUME_BYTES_MAX);
    let (begun, waiting) = clients.split_at_mut(8);
    assert!(begun.iter().all(|c| c.wants_input() && !c.is_waiting()));
    assert!(begun.iter().all(|c| c.input_bytes_max() == REQUEST_BYTES_MAX as usize));
    assert!(waiting.iter().all(|c| c.is_waiting() && !c.wants_input() && !c.can_resume()));
    begun[0].handle_bytes(NOW, &vec![7; REQUEST_BYTES_MAX as usize]);
    assert!(!begun[0].wants_input(), "a new one has no room");
    let (tag, _) = begun[0].poll_request().expect("the write is whole");
    begun[0].handle_completion(tag, Completion::Done);
    output(&mut begun[0]);
    for client in waiting.iter_mut() {
        assert!(client.can_resume(), "whose turn it is takes the room");
    }
    waiting[2].resume(NOW);
    assert!(waiting[2].wants_input() && waiting.iter().all(|c| !c.can_resume()));
    clients.clear();
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn hosts_that_stop_in_large_writes_do_not_hold_up_small_requests() {
    let budget = Budget::default();
    let mut stopped: Vec<_> = (0..8).map(|_| Client::new(terms(false), &budget)).collect();
    for client in &mut stopped {
        client.handle_bytes(NOW, &header(WRITE, 0, 1, 0, REQUEST_BYTES_MAX));
    }
    assert!(budget.is_spent());
    let mut client = Client::new(terms(false), &budget);
    let share = CLIENT_BYTES_MIN as u32;
    for cookie in 0..4 {
        assert!(client.wants_input());
        client.handle_bytes(NOW, &header(READ, 0, cookie, 0, share / 4));
    }
    assert_eq!(client.requests_in_flight(), 4, "its own share");
    client.handle_bytes(NOW, &header(READ, 0, 4, 0, 512));
    assert!(!client.wants_input() && client.is_waiting(), "and no more than that");
    complete_all(&mut client);
    output(&mut client);
    client.resume(NOW);
    client.handle_bytes(NOW, &write(5, 0, &[1; 4096]));
    assert_eq!(client.requests_in_flight(), 2);
}

#[test]
fn a_client_that_does_not_read_is_not_read_either() {
    let mut client = attached(terms(true));
    client.handle_bytes(NOW, &header(READ, 0, 1, 0, 8 << 20));
    let (tag, operation) = client.poll_request().expect("a read");
    client.handle_completion(tag, completion_of(&operation));
    assert!(!client.wants_input(), "output waits here");
    let mut queued = 0;
    while let Some(piece) = client.poll_output() {
        queued += piece.len();
    }
    client.handle_backlog(queued);
    assert!(!client.wants_input(), "output waits in the socket");
    client.handle_bytes(NOW, &header(READ, 0, 2, 0, 512));
    client.handle_bytes(NOW, &header(READ, 0, 3, 0, 512));
    assert_eq!(client.poll_request(), None);
    assert!(client.is_quiet());
    client.handle_backlog(CLIENT_BACKLOG_MAX - 1);
    client.resume(NOW);
    assert!(client.wants_input() && !client.is_quiet(), "what was kept is asked for now");
    assert_eq!(complete_all(&mut client).len(), 2);
}

/// A turn of requests that are answered at once costs a few megabytes, and no second turn is read.
#[test]
fn refusals_do_not_pile_up() {
    let mut client = attached(terms(true));
    let turn: Vec<u8> =
        (0..TURN_BYTES_MAX as u64 / 28).flat_map(|n| header(99, 0, n, 0, 0)).collect();
    let mut turns = 0;
    while client.wants_input() {
        client.handle_bytes(NOW, &turn);
        turns += 1;
        assert!(turns < 10);
    }
    assert!(client.unsent_bytes() < CLIENT_BACKLOG_MAX + REPLY_BYTES_MAX);
    let mut replies = split_structured(&output(&mut client)).len();
    while client.unsent_bytes() > 0 {
        replies += split_structured(&output(&mut client)).len();
    }
    assert_eq!(replies, turns * (TURN_BYTES_MAX / 28), "each is answered in the end");
}

#[test]
fn a_request_in_flight_is_known_by_its_tag() {
    let mut client = attached(terms(false));
    client.handle_bytes(NOW, &header(TRIM, 0, 1, 0, 512));
    let (tag, _) = client.poll_request().expect("a trim");
    let expected = InFlight { command: Command::Trim, bytes: 0, begun: NOW };
    assert_eq!(client.in_flight(tag), Some(expected));
    client.handle_completion(tag, Completion::Done);
    assert_eq!(client.in_flight(tag), None);
    assert_eq!(client.in_flight(77), None);
}

#[test]
#[should_panic(expected = "a read returns what was asked for")]
fn a_read_of_another_length_is_a_bug() {
    let mut client = attached(terms(false));
    client.handle_bytes(NOW, &header(READ, 0, 1, 0, 1024));
    let (tag, _) = client.poll_request().expect("a read");
    client.handle_completion(tag, Completion::Data(Bytes::from_static(&[0; 512])));
}

/// Requests, most of them legal, some not, now and then noise.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let request = (
        prop::sample::select(vec![READ, WRITE, WRITE, FLUSH, TRIM, CACHE, ZEROES, STATUS, 8, 99]),
        prop::sample::select(vec![0u16, 0, 0, 1, 2, 4, 16, 0xffff]),
        any::<u64>(),
        prop::sample::select(vec![0, 512, 4096, 77, SIZE - 512, SIZE, u64::MAX]),
        prop::sample::select(vec![0u32, 512, 512, 1024, 4096, 100, 33 << 20]),
    )
        .prop_map(|(command, flags, cookie, offset, length)| {
            let length = if command == WRITE { length.min(5000) } else { length };
            let mut bytes = header(command, flags, cookie, offset, length);
            if command == WRITE {
                bytes.extend((0..length).map(|n| n as u8));
            }
            bytes
        });
    let goodbye = Just(header(DISC, 0, 0, 0, 0));
    let noise = prop::collection::vec(any::<u8>(), 0..60);
    let piece = prop_oneof![40 => request, 1 => goodbye, 1 => noise];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// Everything that `input` leads to, handed in in pieces of the given lengths to a volume that
/// answers in order and at once.
fn run(structured: bool, input: &[u8], cuts: &[usize]) -> (Vec<Operation>, Vec<u8>, Option<End>) {
    let mut client = attached(terms(structured));
    let (mut asked, mut said) = (Vec::new(), Vec::new());
    let mut cuts = cuts.iter().cycle();
    let mut rest = input;
    while !rest.is_empty() {
        let length = (*cuts.next().expect("endless")).min(rest.len());
        client.handle_bytes(NOW, &rest[..length]);
        rest = &rest[length..];
        asked.extend(complete_all(&mut client));
        said.extend(output(&mut client));
        asked.extend(complete_all(&mut client));
        said.extend(output(&mut client));
    }
    (asked, said, client.ended())
}

proptest! {
    #[test]
    fn how_bytes_are_cut_does_not_matter(
        input in requests(),
        cuts in prop::collection::vec(1usize..100, 1..20),
        structured in any::<bool>(),
    ) {
        // How many requests come in one piece decides which replies overtake others.
        let single = run(structured, &input, &[1]);
        let cut = run(structured, &input, &cuts);
        prop_assert_eq!(&cut.2, &single.2);
        if single.2.is_none() {
            prop_assert_eq!(&cut.0, &single.0);
            prop_assert_eq!(cut.1.len(), single.1.len());
        }
    }

    #[test]
    fn noise_never_panics_nor_holds_much(
        input in prop::collection::vec(any::<u8>(), 0..2000),
        valid_start in any::<bool>(),
    ) {
        let mut client = attached(terms(true));
        let mut bytes = if valid_start { REQUEST_MAGIC.to_be_bytes().to_vec() } else { vec![] };
        bytes.extend_from_slice(&input);
        client.handle_bytes(NOW, &bytes);
        prop_assert!(client.held.capacity() <= 4096);
        while let Some((tag, operation)) = client.poll_request() {
            let small = !matches!(operation, Operation::Read { range } if range.length() > 1 << 16);
            if small {
                client.handle_completion(tag, completion_of(&operation));
            }
        }
        output(&mut client);
    }

    /// Whatever happens in whatever order, each request is answered exactly once, and the bounds
    /// hold all the time.
    #[test]
    fn every_request_is_answered_exactly_once(
        steps in prop::collection::vec((0u8..9, any::<u16>()), 1..300),
        shutdown_at in prop::option::of(0usize..300),
    ) {
        let mut client = attached(terms(true));
        let mut open: Vec<(u32, Operation)> = Vec::new();
        let mut said = Vec::new();
        let (mut sent, mut backlog) = (0u64, 0usize);
        for (index, (step, number)) in steps.into_iter().enumerate() {
            match step {
                0..=2 if client.wants_input() => for n in 0..u64::from(number) % 60 {
                    client.handle_bytes(NOW, &any_request(sent, u64::from(number) + n));
                    sent += 1;
                },
                3 | 4 => open.extend(client.poll_request()),
                5 | 6 if !open.is_empty() => {
                    let (tag, operation) = open.swap_remove(usize::from(number) % open.len());
                    let completion = match number % 7 {
                        0 => Completion::Failed(RequestError::Io),
                        _ => completion_of(&operation),
                    };
                    client.handle_completion(tag, completion);
                }
                7 => while let Some(piece) = client.poll_output() {
                    backlog += piece.len();
                    said.extend_from_slice(&piece);
                },
                _ => {
                    backlog /= usize::from(number % 5) + 1;
                    client.handle_backlog(backlog);
                    client.resume(NOW);
                }
            }
            if shutdown_at == Some(index) {
                client.handle_shutdown(NOW);
            }
            prop_assert!(client.requests_in_flight() <= CLIENT_REQUESTS_MAX + 60);
            prop_assert!(client.bytes_in_flight() <= CLIENT_BYTES_MAX);
            prop_assert!(client.held.len() <= 1024);
        }
        let mut answers = split_structured(&said);
        while client.requests_in_flight() > 0 || client.unsent_bytes() > 0 {
            open.extend(std::iter::from_fn(|| client.poll_request()));
            for (tag, operation) in open.drain(..) {
                client.handle_completion(tag, completion_of(&operation));
            }
            answers.extend(split_structured(&output(&mut client)));
        }
        let mut cookies: Vec<u64> = answers.iter().map(Reply::cookie).collect();
        cookies.sort_unstable();
        prop_assert_eq!(cookies, (0..sent).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a client sends while nothing is completed and nobody reads its replies: every
    /// change that has come as a whole is at the volume (G2a), and memory has its bound.
    #[test]
    fn a_flood_is_known_to_the_volume_and_bounded(
        numbers in prop::collection::vec((0usize..6, any::<u16>()), 1..40),
        piece in 40usize..3000,
        completed in 0usize..4,
    ) {
        let mut client = attached(terms(true));
        let mut input = Vec::new();
        // Where each change ends in the input.
        let mut changes = Vec::new();
        while input.len() < 200_000 {
            for (kind, number) in &numbers {
                let length = u32::from(*number) % 4000 / 512 * 512 + 512;
                match kind {
                    0 => input.extend(header(READ, 0, 1, 0, length << 9)),
                    1 => input.extend(write(1, 0, &vec![1; length as usize])),
                    2 => input.extend(header(ZEROES, 0, 1, 0, length)),
                    3 => input.extend([header(WRITE, 0, 1, 7, 3), vec![0; 3]].concat()),
                    4 => input.extend(header(99, 0, 1, 0, 0)),
                    _ => input.extend(header(FLUSH, 0, 1, 0, 0)),
                }
                if matches!(kind, 1 | 2) {
                    changes.push(input.len());
                }
            }
        }
        let (mut fed, mut known) = (0, 0);
        while client.wants_input() && fed < input.len() {
            let end = (fed + piece).min(input.len());
            client.handle_bytes(NOW, &input[fed..end]);
            fed = end;
            for _ in 0..completed {
                let Some((tag, operation)) = client.poll_request() else { break };
                known += usize::from(matches!(operation, Operation::Write(_)));
                client.handle_completion(tag, completion_of(&operation));
            }
            while let Some((_, operation)) = client.poll_request() {
                known += usize::from(matches!(operation, Operation::Write(_)));
            }
            let come = changes.iter().filter(|change| **change <= fed).count();
            prop_assert_eq!(known, come, "G2a");
            let headers = piece / REQUEST_BYTES + 1;
            prop_assert!(client.requests_in_flight() <= CLIENT_REQUESTS_MAX + headers);
            prop_assert!(client.bytes_in_flight() <= CLIENT_BYTES_MAX + piece as u64);
            prop_assert!(client.parked.len() <= headers && client.held.len() <= piece);
            let replies = CLIENT_BACKLOG_MAX + (4 << 20) + headers * REPLY_BYTES_MAX;
            prop_assert!(client.unsent_bytes() <= replies);
        }
    }
}

/// A request of any kind, right or wrong.
fn any_request(cookie: u64, number: u64) -> Vec<u8> {
    let offset = number * 512;
    match number % 11 {
        0 | 1 => header(READ, 4, cookie, offset, 4096),
        2 => header(READ, 0, cookie, offset, 200 << 10),
        3 | 4 => write(cookie, offset, &[1; 1024]),
        5 => write(cookie, SIZE, &[1; 777]),
        6 => header(FLUSH, 1, cookie, 0, 0),
        7 => header(TRIM, 0, cookie, offset, 512),
        8 => header(ZEROES, 0xffff, cookie, offset, 512),
        9 => header(READ, 0, cookie, offset, 0),
        _ => header(STATUS, 0, cookie, offset, 512),
    }
}

impl Reply {
    fn cookie(&self) -> u64 {
        match self {
            Self::Simple { cookie, .. }
            | Self::None { cookie }
            | Self::Data { cookie, .. }
            | Self::Error { cookie, .. } => *cookie,
        }
    }
}
