use base::frame::{FrameError, HEADER_BYTES, Header};
use base::ids::{
    ConnNonce, Generation, NodeName, PairId, Session, TokenNonce, WitnessRun, WitnessToken,
};
use proptest::prelude::*;

use super::*;

const NONCE: ConnNonce = ConnNonce(*b"0123456789abcdef");

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn note() -> Note {
    let (session, generation) = (Session(7), Generation([8; 16]));
    Note { session, generation, winner: name("b"), forced: true }
}

fn request(question: Question) -> Request {
    let (pair_id, run) = (PairId([2; 16]), WitnessRun([3; 16]));
    Request { id: 1, pair_id, peer: name("b"), run, seen_counter: 4, question }
}

fn answer(reply: Reply) -> Answer {
    Answer { id: 1, run: WitnessRun([3; 16]), counter: 5, reply }
}

const REQUEST: &str = "010000000000000002020202020202020202020202020202\
     6200000000000000000000000000000000000000000000000000000000000000\
     030303030303030303030303030303030400000000000000";
const ANSWER: &str = "0100000000000000030303030303030303030303030303030500000000000000";
const TOKEN: &str = "06060606060606060606060606060606";
const NO_TOKEN: &str = "00000000000000000000000000000000";
const NOTE: &str = "070000000000000008080808080808080808080808080808\
     62000000000000000000000000000000000000000000000000000000000000000100000000000000";
const NOBODY: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const B: &str = "6200000000000000000000000000000000000000000000000000000000000000";

/// One of each question, with its kind and the bytes that follow the common part.
fn questions() -> Vec<(Question, u16, String)> {
    let token = WitnessToken([6; 16]);
    vec![
        (Question::Create { nonce: TokenNonce([6; 16]) }, 0x300, TOKEN.to_owned()),
        (Question::Ping { token: Some(token) }, 0x302, TOKEN.to_owned()),
        (Question::Ping { token: None }, 0x302, NO_TOKEN.to_owned()),
        (Question::Claim { token }, 0x304, TOKEN.to_owned()),
        (Question::Note(note()), 0x306, NOTE.to_owned()),
        (Question::Who, 0x308, String::new()),
    ]
}

/// Likewise of each reply.
fn replies() -> Vec<(Reply, u16, String)> {
    let outcome = |number: u8, winner: &str| format!("{number:02x}00000000000000{winner}");
    let lost = Verdict::Lost { winner: name("b") };
    vec![
        (Reply::Created { token: WitnessToken([6; 16]) }, 0x301, TOKEN.to_owned()),
        (Reply::Pong(TokenState::Unknown), 0x303, outcome(0, NOBODY)),
        (Reply::Pong(TokenState::Open), 0x303, outcome(1, NOBODY)),
        (Reply::Pong(TokenState::Decided(name("b"))), 0x303, outcome(2, B)),
        (Reply::Verdict(Verdict::Unknown), 0x305, outcome(0, NOBODY)),
        (Reply::Verdict(Verdict::Won), 0x305, outcome(1, NOBODY)),
        (Reply::Verdict(lost), 0x305, outcome(2, B)),
        (Reply::Noted, 0x307, String::new()),
        (Reply::Journal(Vec::new()), 0x309, "0000000000000000".to_owned()),
        (Reply::Journal(vec![note()]), 0x309, format!("0100000000000000{NOTE}")),
        (Reply::Refused { reason: "why".to_owned() }, 0x30a, "0300000000000000776879".to_owned()),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn split(frame: &[u8]) -> (Header, &[u8]) {
    let (header, body) = frame.split_first_chunk::<HEADER_BYTES>().expect("a header");
    (Header::decode(header).expect("our own header"), body)
}

#[test]
fn golden_bytes_of_every_request() {
    for (question, kind, bytes) in questions() {
        let request = request(question);
        let frame = request.encode(NONCE, 7);
        let (header, body) = split(&frame);
        assert_eq!((header.kind, header.conn_nonce, header.sequence), (kind, NONCE, 7));
        assert_eq!(hex(body), format!("{REQUEST}{bytes}"));
        assert_eq!(Request::decode(&header, body), Ok(request));
        assert_eq!(Answer::decode(&header, body), Err(FrameError::Kind { kind }));
    }
}

#[test]
fn golden_bytes_of_every_answer() {
    for (reply, kind, bytes) in replies() {
        let answer = answer(reply);
        let frame = answer.encode(NONCE, 7);
        let (header, body) = split(&frame);
        assert_eq!((header.kind, header.conn_nonce, header.sequence), (kind, NONCE, 7));
        assert_eq!(hex(body), format!("{ANSWER}{bytes}"));
        assert_eq!(Answer::decode(&header, body), Ok(answer));
        assert_eq!(Request::decode(&header, body), Err(FrameError::Kind { kind }));
    }
}

#[test]
fn every_body_is_checked_to_its_last_byte() {
    let requests = questions().into_iter().map(|(q, ..)| request(q).encode(NONCE, 0));
    let answers = replies().into_iter().map(|(r, ..)| answer(r).encode(NONCE, 0));
    for frame in requests.chain(answers) {
        let (header, body) = split(&frame);
        let reads = |body: &[u8]| {
            Request::decode(&header, body).is_ok() || Answer::decode(&header, body).is_ok()
        };
        assert!(reads(body));
        assert!((0..body.len()).all(|end| !reads(&body[..end])), "{header:?}");
        let is_request = Request::decode(&header, body).is_ok();
        let most = if is_request { REQUEST_BYTES_MAX } else { ANSWER_BYTES_MAX };
        assert!(body.len() <= most, "{header:?}");
        let mut long = body.to_vec();
        long.push(0);
        assert!(!reads(&long), "{header:?}");
    }
}

#[test]
fn a_frame_with_payload_or_session_is_refused() {
    let frame = request(Question::Who).encode(NONCE, 0);
    let (header, body) = split(&frame);
    for bad in [Header { payload_bytes: 1, ..header }, Header { session: Session(1), ..header }] {
        assert!(matches!(Request::decode(&bad, body), Err(FrameError::Body { .. })));
    }
}

#[test]
fn an_answer_that_contradicts_itself_is_refused() {
    for (verdict, winner) in [(0, B), (1, B), (2, NOBODY), (3, NOBODY)] {
        let frame = answer(Reply::Verdict(Verdict::Won)).encode(NONCE, 0);
        let (header, body) = split(&frame);
        let mut body = body.to_vec();
        body[32] = verdict;
        body[40] = if winner == B { b'b' } else { 0 };
        assert!(Answer::decode(&header, &body).is_err(), "{verdict}");
        let pong = Header { kind: 0x303, ..header };
        assert!(Answer::decode(&pong, &body).is_err(), "{verdict}");
    }
}

#[test]
fn more_notes_than_may_be_are_refused_before_they_are_read() {
    let frame = answer(Reply::Journal(vec![note(); NOTES_MAX])).encode(NONCE, 0);
    let (header, body) = split(&frame);
    assert!(Answer::decode(&header, body).is_ok());
    let mut body = body.to_vec();
    body[32..34].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(Answer::decode(&header, &body).is_err());
}

#[test]
fn what_names_no_peer_or_no_token_is_refused() {
    let frame = request(Question::Claim { token: WitnessToken([6; 16]) }).encode(NONCE, 0);
    let (header, body) = split(&frame);
    for part in [24..56, 80..96] {
        let mut body = body.to_vec();
        body[part].fill(0);
        assert!(Request::decode(&header, &body).is_err());
    }
    let frame = answer(Reply::Created { token: WitnessToken::NONE }).encode(NONCE, 0);
    let (header, body) = split(&frame);
    assert!(Answer::decode(&header, body).is_err());
}

#[test]
fn a_counter_that_could_not_count_on_is_refused() {
    for (counter, reads) in [(COUNTER_MAX, true), (COUNTER_MAX + 1, false)] {
        let request = Request { seen_counter: counter, ..request(Question::Who) };
        let frame = request.encode(NONCE, 0);
        let (header, body) = split(&frame);
        assert_eq!(Request::decode(&header, body).is_ok(), reads);
        let frame = Answer { counter, ..answer(Reply::Noted) }.encode(NONCE, 0);
        let (header, body) = split(&frame);
        assert_eq!(Answer::decode(&header, body).is_ok(), reads);
    }
}

#[test]
fn a_reason_is_cut_to_its_bound_and_has_no_control_characters() {
    let reason = format!("a\nb{}", "\u{e9}".repeat(REASON_BYTES_MAX));
    let frame = answer(Reply::Refused { reason }).encode(NONCE, 0);
    let (header, body) = split(&frame);
    let Ok(Answer { reply: Reply::Refused { reason }, .. }) = Answer::decode(&header, body) else {
        panic!("our own reason reads back");
    };
    assert!(reason.starts_with("a b\u{e9}") && reason.len() == REASON_BYTES_MAX - 1, "{reason}");
    let mut body = body.to_vec();
    body[41] = 0x1b;
    assert!(Answer::decode(&header, &body).is_err(), "a terminal's escape");
}

proptest! {
    /// Any bytes are refused or mean exactly one message.
    #[test]
    fn wild_bodies_are_refused_or_read_back(
        kind in 0x2ffu16..0x30c,
        body in prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..200),
    ) {
        let header = Header {
            kind,
            body_bytes: u32::try_from(body.len()).expect("short"),
            payload_bytes: 0,
            session: Session(0),
            conn_nonce: NONCE,
            sequence: 3,
        };
        if let Ok(request) = Request::decode(&header, &body) {
            let frame = request.encode(NONCE, 3);
            prop_assert_eq!(split(&frame), (header, &body[..]));
        }
        if let Ok(answer) = Answer::decode(&header, &body) {
            let frame = answer.encode(NONCE, 3);
            prop_assert_eq!(split(&frame), (header, &body[..]));
        }
    }
}
