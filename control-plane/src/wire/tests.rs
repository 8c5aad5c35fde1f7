use base::frame::{FrameError, HEADER_BYTES, Header};
use base::ids::{
    ConnNonce, DiskId, Generation, Incarnation, MachineId, PairId, Session, VolumeId, VolumeIndex,
};
use base::limits::FRAME_BODY_MAX;
use datapath::port::Scope;
use proptest::prelude::*;

use super::*;

const NONCE: ConnNonce = ConnNonce(*b"0123456789abcdef");

fn volume() -> VolumeHello {
    VolumeHello {
        volume_id: VolumeId([1; 16]),
        disk_id: DiskId([2; 16]),
        peer_disk_id: DiskId([3; 16]),
        bitmap_base: Generation([4; 16]),
        round: 5,
        peer_round: 6,
        size: 7 << 20,
        granule_bytes: 512,
        trim_zeroes: true,
        empty: false,
    }
}

fn hello() -> Hello {
    Hello {
        pair_id: PairId([8; 16]),
        node: "a".parse().expect("a name"),
        incarnation: Incarnation([9; 16]),
        machine_id: MachineId([10; 16]),
        session: Session(11),
        session_seen: Session(12),
        state: RecordState::Target {
            source_generation: Generation([13; 16]),
            source_session: Session(14),
        },
        continuity: Continuity::Unclean,
        by_reset: true,
        clean: false,
        io_failed: true,
        source: false,
        forced: false,
        stopping: false,
        solo_io_count: 15,
        generation: Generation([16; 16]),
        ancestors: vec![Generation([17; 16])],
        volumes: vec![volume()],
    }
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        id: 1,
        incarnation: Incarnation([2; 16]),
        heard_ms: 3,
        state: StateWord::ActiveActive,
        serving: true,
        io_failed: false,
    }
}

/// One of each, with the bytes of its body.
fn golden() -> Vec<(ControlMessage, &'static str)> {
    let session = Session(11);
    let text = || "x".to_owned();
    vec![
        (ControlMessage::Hello(Box::new(hello())), HELLO_BYTES),
        (
            ControlMessage::Heartbeat(heartbeat()),
            "0100000000000000020202020202020202020202020202020300000002010000",
        ),
        (ControlMessage::Left { session, io_failed: true, why: text() }, "0100010078"),
        (
            ControlMessage::SyncStart { session, scope: Scope::Everything, seed: 2 },
            "02000000000000000100000000000000",
        ),
        (ControlMessage::SyncReady { session }, ""),
        (ControlMessage::SyncDone { session, rounds: vec![3] }, "01000000000000000300000000000000"),
        (ControlMessage::SyncDoneAck { session }, ""),
        (ControlMessage::AaGo { session }, ""),
        (ControlMessage::AaGoAck { session }, ""),
        (ControlMessage::Freeze { session }, ""),
        (ControlMessage::FreezeAck { session }, ""),
        (ControlMessage::RoundDone { session, rounds: Vec::new() }, "0000000000000000"),
        (ControlMessage::Refuse { reason: text() }, "0000010078"),
        (
            ControlMessage::DataBind {
                volume: VolumeIndex(1),
                volume_id: VolumeId([2; 16]),
                conn_nonce: NONCE,
            },
            "020202020202020202020202020202020100000000000000",
        ),
    ]
}

const HELLO_BYTES: &str = "08080808080808080808080808080808610000000000000000000000000000000000000000000000\
     0000000000000000090909090909090909090909090909090a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a\
     0c000000000000000f00000000000000101010101010101010101010101010100d0d0d0d0d0d0d0d\
     0d0d0d0d0d0d0d0d0e00000000000000040201000100000001000100000000001111111111111111\
     11111111111111110101010101010101010101010101010102020202020202020202020202020202\
     03030303030303030303030303030303040404040404040404040404040404040500000000000000\
     060000000000000000007000000000000002000001000000";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn split(frame: &[u8]) -> (Header, &[u8]) {
    let (header, body) = frame.split_first_chunk::<HEADER_BYTES>().expect("a header");
    (Header::decode(header).expect("our own header"), body)
}

#[test]
fn golden_bytes_of_every_message() {
    for (index, (message, expected)) in golden().into_iter().enumerate() {
        let frame = message.encode(NONCE, 7);
        let (header, body) = split(&frame);
        assert_eq!(usize::from(header.kind), index + 1, "{}: kinds count from 1", message.name());
        assert_eq!((header.conn_nonce, header.sequence), (NONCE, 7));
        assert_eq!(header.session, message.session());
        assert_eq!(hex(body), expected, "{}", message.name());
        assert_eq!(ControlMessage::decode(&header, body), Ok(message));
    }
}

#[test]
fn every_body_is_checked_to_its_last_byte() {
    for (message, _) in golden() {
        let frame = message.encode(NONCE, 0);
        let (header, body) = split(&frame);
        for end in 0..body.len() {
            let short = ControlMessage::decode(&header, &body[..end]);
            assert!(short.is_err(), "{} cut at {end}", message.name());
        }
        let mut long = body.to_vec();
        long.push(0);
        let error = ControlMessage::decode(&header, &long).expect_err("one byte too many");
        assert!(matches!(error, FrameError::Body { .. }), "{}", message.name());
    }
}

#[test]
fn a_control_frame_has_no_payload_and_a_known_kind() {
    let frame = ControlMessage::AaGo { session: Session(1) }.encode(NONCE, 0);
    let (header, _) = split(&frame);
    let paid = Header { payload_bytes: 1, ..header };
    assert!(ControlMessage::decode(&paid, &[]).is_err());
    for kind in [0, 15, 0x100, u16::MAX] {
        let unknown = Header { kind, ..header };
        assert_eq!(ControlMessage::decode(&unknown, &[]), Err(FrameError::Kind { kind }));
    }
}

#[test]
fn a_long_text_is_cut_at_a_character_and_cleaned() {
    let why = "\u{e9}".repeat(TEXT_BYTES_MAX);
    let frame = ControlMessage::Refuse { reason: why }.encode(NONCE, 0);
    let (header, body) = split(&frame);
    let Ok(ControlMessage::Refuse { reason }) = ControlMessage::decode(&header, body) else {
        panic!("it reads back");
    };
    assert_eq!(reason.len(), TEXT_BYTES_MAX);
    let frame = ControlMessage::Refuse { reason: "a\u{1b}[2Jb".to_owned() }.encode(NONCE, 0);
    let (header, body) = split(&frame);
    let cleaned = ControlMessage::decode(&header, body);
    assert_eq!(cleaned, Ok(ControlMessage::Refuse { reason: "a [2Jb".to_owned() }));
}

#[test]
fn the_largest_hello_fits_a_frame() {
    let mut hello = hello();
    hello.ancestors = vec![Generation([1; 16]); base::limits::ANCESTORS_MAX];
    hello.volumes = vec![volume(); base::limits::VOLUMES_MAX];
    let frame = ControlMessage::Hello(Box::new(hello.clone())).encode(NONCE, 0);
    assert!(frame.len() - HEADER_BYTES <= FRAME_BODY_MAX as usize);
    let (header, body) = split(&frame);
    let read = ControlMessage::decode(&header, body);
    assert_eq!(read, Ok(ControlMessage::Hello(Box::new(hello))));
}

#[test]
fn counts_beyond_the_limits_are_refused() {
    let frame = ControlMessage::Hello(Box::new(hello())).encode(NONCE, 0);
    let (header, body) = split(&frame);
    for at in [144, 146] {
        let mut bad = body.to_vec();
        bad[at..at + 2].copy_from_slice(&u16::MAX.to_le_bytes());
        assert!(ControlMessage::decode(&header, &bad).is_err());
    }
}

proptest! {
    /// Any bytes are refused or mean exactly one message (texts aside, which are cleaned).
    #[test]
    fn wild_bodies_are_refused_or_read_back(
        kind in 0u16..20,
        body in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        check_wild(kind, &body)?;
    }

    /// The same for bodies that are nearly right.
    #[test]
    fn nearly_right_bodies_are_refused_or_read_back(
        index in 0usize..14,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (message, _) = golden().swap_remove(index);
        let frame = message.encode(NONCE, 0);
        let (header, body) = split(&frame);
        let mut body = body.to_vec();
        if !body.is_empty() {
            for (at, byte) in changes {
                let at = at.index(body.len());
                body[at] = byte;
            }
        }
        check_wild(header.kind, &body)?;
    }
}

fn check_wild(kind: u16, body: &[u8]) -> Result<(), TestCaseError> {
    let header = Header {
        kind,
        body_bytes: u32::try_from(body.len()).expect("small"),
        payload_bytes: 0,
        session: Session(0),
        conn_nonce: NONCE,
        sequence: 0,
    };
    let Ok(message) = ControlMessage::decode(&header, body) else { return Ok(()) };
    let is_text = matches!(message, ControlMessage::Left { .. } | ControlMessage::Refuse { .. });
    if !is_text {
        let frame = message.encode(NONCE, 0);
        prop_assert_eq!(&frame[HEADER_BYTES..], body);
    }
    Ok(())
}
