use proptest::prelude::*;

use super::*;

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const PEEK_EXPORT: u32 = 4;
const STARTTLS: u32 = 5;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED: u32 = 8;
const LIST_META: u32 = 9;
const SET_META: u32 = 10;
const EXTENDED: u32 = 11;

const ACK: u32 = 1;
const SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const fn err(number: u32) -> u32 {
    (1 << 31) + number
}
const UNSUP: u32 = err(1);
const POLICY: u32 = err(2);
const INVALID: u32 = err(3);
const TLS_REQD: u32 = err(5);
const UNKNOWN: u32 = err(6);
const SHUTDOWN: u32 = err(7);
const TOO_BIG: u32 = err(9);

const SEND_DF: u16 = 1 << 7;

fn info(name: &str) -> ExportInfo {
    ExportInfo::new(name.parse().expect("a name"), 1 << 30)
}

fn table() -> ExportTable {
    ExportTable::new(vec![
        ExportInfo { description: "first volume".into(), ..info("vol0") },
        ExportInfo { availability: Availability::Refused("not now".into()), ..info("vol1") },
    ])
}

fn opt(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn info_data(name: &[u8], kinds: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name);
    data.extend_from_slice(&(kinds.len() as u16).to_be_bytes());
    kinds.iter().for_each(|kind| data.extend_from_slice(&kind.to_be_bytes()));
    data
}

fn go(name: &str) -> Vec<u8> {
    opt(GO, &info_data(name.as_bytes(), &[]))
}

/// A negotiation and everything it has said since it was last asked.
struct Talk {
    core: Negotiation,
    exports: ExportTable,
    said: Vec<u8>,
}

impl Talk {
    fn bare(tls: TlsMode) -> Self {
        Self { core: Negotiation::new(tls), exports: table(), said: Vec::new() }
    }

    /// After a greeting and the flags of a modern client.
    fn with(tls: TlsMode) -> Self {
        let mut talk = Self::bare(tls);
        assert_eq!(talk.feed(&[0, 0, 0, 3]), 4);
        assert_eq!(talk.said(), b"NBDMAGICIHAVEOPT\0\x03");
        talk
    }

    /// Inside TLS.
    fn in_tls(refusal: Option<&str>) -> Self {
        let mut talk = Self::with(TlsMode::Required);
        talk.feed(&opt(STARTTLS, b""));
        assert_eq!(talk.types(), [(STARTTLS, ACK)]);
        talk.core.handle_tls_established(refusal.map(str::to_owned));
        talk
    }

    /// Hands `input` in as a shell does, and returns how much was read.
    fn feed(&mut self, input: &[u8]) -> usize {
        let mut used = 0;
        loop {
            used += self.core.handle_bytes(&self.exports, &input[used..]);
            while let Some(bytes) = self.core.poll_output() {
                self.said.extend_from_slice(&bytes);
            }
            if used == input.len() || self.core.outcome().is_some() {
                return used;
            }
        }
    }

    fn said(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.said)
    }

    /// The replies since the last question: option, type, data.
    fn replies(&mut self) -> Vec<(u32, u32, Vec<u8>)> {
        let said = self.said();
        let mut rest = said.as_slice();
        let mut replies = Vec::new();
        while !rest.is_empty() {
            assert_eq!(rest[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
            let number = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().unwrap());
            let length = number(16) as usize;
            replies.push((number(8), number(12), rest[20..20 + length].to_vec()));
            rest = &rest[20 + length..];
        }
        replies
    }

    fn types(&mut self) -> Vec<(u32, u32)> {
        self.replies().into_iter().map(|(option, kind, _)| (option, kind)).collect()
    }

    fn ask(&mut self, option: u32, data: &[u8]) -> Vec<(u32, u32)> {
        self.feed(&opt(option, data));
        self.types()
    }

    fn close_reason(&self) -> Option<CloseReason> {
        match self.core.outcome() {
            Some(Outcome::Close(reason)) => Some(*reason),
            _ => None,
        }
    }

    fn attached(&self) -> Option<&Terms> {
        match self.core.outcome() {
            Some(Outcome::Attached(terms)) => Some(terms),
            _ => None,
        }
    }
}

#[test]
fn client_flags_that_were_not_offered_end_the_connection() {
    for bit in 2..32u32 {
        let mut talk = Talk::bare(TlsMode::Off);
        talk.feed(&(1u32 | 1 << bit).to_be_bytes());
        assert_eq!(talk.close_reason(), Some(CloseReason::ClientFlags), "bit {bit}");
    }
}

#[test]
fn without_a_place_nothing_is_attached_and_all_else_is_answered() {
    let mut talk = Talk::with(TlsMode::Off);
    talk.core.handle_place(Some("no place".into()));
    let whole = info_data(b"vol0", &[]);
    assert_eq!(talk.ask(INFO, &whole).last(), Some(&(INFO, ACK)));
    assert_eq!(talk.ask(GO, &info_data(b"vol1", &[])), [(GO, SHUTDOWN)]);
    assert!(!talk.core.poll_refused_place(), "none of these takes a place");
    talk.feed(&opt(GO, &whole));
    assert_eq!(talk.replies(), [(GO, POLICY, b"no place".to_vec())], "no terms come before it");
    assert!(talk.core.poll_refused_place() && !talk.core.poll_refused_place());
    talk.core.handle_place(None);
    talk.feed(&opt(GO, &whole));
    assert!(talk.attached().is_some() && !talk.core.poll_refused_place());

    let mut old = Talk::with(TlsMode::Off);
    old.core.handle_place(Some("no place".into()));
    old.feed(&opt(EXPORT_NAME, b"vol0"));
    assert_eq!(old.close_reason(), Some(CloseReason::NoPlace));
    assert!(old.core.poll_refused_place() && old.said().is_empty());
}

#[test]
fn a_client_without_fixed_newstyle_may_only_name_an_export() {
    for option in [ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, EXTENDED, 77] {
        let mut talk = Talk::bare(TlsMode::Off);
        talk.feed(&[0, 0, 0, 0]);
        talk.feed(&opt(option, b""));
        assert_eq!(talk.close_reason(), Some(CloseReason::NotFixedNewstyle), "option {option}");
    }
    let mut talk = Talk::bare(TlsMode::Off);
    talk.feed(&[0, 0, 0, 0]);
    talk.said();
    talk.feed(&opt(EXPORT_NAME, b"vol0"));
    assert_eq!(talk.said().len(), 8 + 2 + 124);
    assert!(talk.attached().is_some());
}

#[test]
fn a_wrong_magic_number_ends_the_connection() {
    let mut talk = Talk::with(TlsMode::Off);
    let mut bytes = opt(LIST, b"");
    bytes[3] ^= 1;
    talk.feed(&bytes);
    assert_eq!(talk.close_reason(), Some(CloseReason::OptionMagic));
    assert_eq!(talk.said(), b"");
}

#[test]
fn options_that_are_not_offered_leave_both_sides_in_step() {
    let mut talk = Talk::with(TlsMode::Off);
    for option in [PEEK_EXPORT, LIST_META, SET_META, EXTENDED, 0, 12, 77, u32::MAX] {
        for data in [&b""[..], b"some data", &[0xff; 5000]] {
            assert_eq!(talk.ask(option, data), [(option, UNSUP)]);
        }
    }
    talk.feed(&go("vol0"));
    assert!(talk.attached().is_some());
}

#[test]
fn abort_is_acknowledged_with_any_data_and_ends_the_connection() {
    for data in [&b""[..], b"junk", &[7; 20_000]] {
        for mut talk in [
            Talk::with(TlsMode::Off),
            Talk::with(TlsMode::Required),
            Talk::in_tls(None),
            Talk::in_tls(Some("no")),
        ] {
            assert_eq!(talk.ask(ABORT, data), [(ABORT, ACK)]);
            assert_eq!(talk.close_reason(), Some(CloseReason::Aborted));
            let mut after = Vec::from(b"IHAVE");
            after.extend(opt(LIST, b""));
            assert_eq!(talk.feed(&after), 0, "nothing is read after the end");
        }
    }
}

#[test]
fn list_shows_every_export_also_one_that_is_not_served() {
    let mut talk = Talk::with(TlsMode::Off);
    talk.feed(&opt(LIST, b""));
    let expected = [
        (LIST, SERVER, b"\0\0\0\x04vol0first volume".to_vec()),
        (LIST, SERVER, b"\0\0\0\x04vol1".to_vec()),
        (LIST, ACK, vec![]),
    ];
    assert_eq!(talk.replies(), expected);
    assert_eq!(talk.ask(LIST, b"x"), [(LIST, INVALID)]);
    assert_eq!(talk.ask(LIST, &[0; 20_000]), [(LIST, INVALID)]);
}

#[test]
fn structured_replies_take_no_data_and_bring_df() {
    let mut talk = Talk::with(TlsMode::Off);
    assert_eq!(talk.ask(STRUCTURED, b"x"), [(STRUCTURED, INVALID)]);
    let flags = |talk: &mut Talk| {
        talk.feed(&opt(INFO, &info_data(b"vol0", &[])));
        let replies = talk.replies();
        let export = replies.iter().find(|(_, kind, data)| *kind == REP_INFO && data.len() == 12);
        let data = &export.expect("INFO_EXPORT is there").2;
        u16::from_be_bytes([data[10], data[11]])
    };
    assert_eq!(flags(&mut talk) & SEND_DF, 0, "a refused option changes nothing");
    assert_eq!(talk.ask(STRUCTURED, b""), [(STRUCTURED, ACK)]);
    assert_eq!(talk.ask(STRUCTURED, b""), [(STRUCTURED, ACK)]);
    assert_ne!(flags(&mut talk) & SEND_DF, 0);
    talk.feed(&go("vol0"));
    assert!(talk.attached().expect("attached").structured);
}

#[test]
fn info_and_go_say_the_same_and_only_go_attaches() {
    for kinds in [&[][..], &[3], &[1, 2, 3], &[0, 0, 999, 1]] {
        let data = info_data(b"vol0", kinds);
        let mut talk = Talk::with(TlsMode::Off);
        talk.feed(&opt(INFO, &data));
        let info: Vec<_> = talk.replies().into_iter().map(|(_, kind, data)| (kind, data)).collect();
        assert!(talk.core.outcome().is_none());
        talk.feed(&opt(GO, &data));
        let go: Vec<_> = talk.replies().into_iter().map(|(_, kind, data)| (kind, data)).collect();
        assert_eq!(info, go);
        let terms = talk.attached().expect("attached");
        assert_eq!((terms.export.name.as_str(), terms.structured), ("vol0", false));

        let mut export = b"\0\0\0\0\0\0\x40\0\0\0".to_vec();
        export.extend_from_slice(&terms.transmission_flags().to_be_bytes());
        assert_eq!(go[0], (REP_INFO, export));
        assert_eq!(go[1], (REP_INFO, b"\0\x03\0\0\x02\0\0\0\x10\0\x02\0\0\0".to_vec()));
        let has = |data: &[u8]| go.contains(&(REP_INFO, data.to_vec()));
        assert_eq!(has(b"\0\x01vol0"), kinds.contains(&1));
        assert_eq!(has(b"\0\x02first volume"), kinds.contains(&2));
        assert_eq!(go.last(), Some(&(ACK, vec![])));
    }
}

#[test]
fn the_empty_name_is_answered_with_the_real_one() {
    let mut talk = Talk::with(TlsMode::Off);
    assert_eq!(talk.ask(GO, &info_data(b"", &[])), [(GO, UNKNOWN)], "two exports: no default");
    talk.exports = ExportTable::new(vec![info("only")]);
    talk.feed(&opt(GO, &info_data(b"", &[1])));
    assert!(talk.replies().contains(&(GO, REP_INFO, b"\0\x01only".to_vec())));
    assert_eq!(talk.attached().expect("attached").export.name.as_str(), "only");
}

#[test]
fn a_description_that_is_not_there_is_not_sent() {
    let mut talk = Talk::with(TlsMode::Off);
    talk.exports = ExportTable::new(vec![info("bare")]);
    assert_eq!(talk.ask(INFO, &info_data(b"bare", &[2])).len(), 3, "export, block size, ACK");
    talk.exports = table();
    assert_eq!(talk.ask(INFO, &info_data(b"vol0", &[2])).len(), 4);
}

#[test]
fn malformed_and_unknown_names_are_errors_and_the_client_may_go_on() {
    let mut absurd = info_data(b"vol0", &[1]);
    absurd[..4].fill(0xff);
    let mut longer = info_data(b"vol0", &[1]);
    longer.push(0);
    let rows: [(Vec<u8>, u32); 11] = [
        (vec![], INVALID),
        (vec![0; 5], INVALID),
        (absurd, INVALID),
        (longer, INVALID),
        (info_data(b"vol0\0junk", &[]), INVALID),
        (info_data(b"\xff\xfe", &[]), INVALID),
        (info_data(b"nobody", &[]), UNKNOWN),
        (info_data(b"vol", &[]), UNKNOWN),
        (info_data(&[b'a'; 4096], &[]), UNKNOWN),
        (info_data(&[b'a'; 4097], &[]), TOO_BIG),
        (vec![0; 20_000], TOO_BIG),
    ];
    let mut talk = Talk::with(TlsMode::Off);
    for (data, error) in rows {
        for option in [INFO, GO] {
            talk.feed(&opt(option, &data));
            let replies = talk.replies();
            assert_eq!(replies.len(), 1, "no information before an error");
            assert_eq!((replies[0].0, replies[0].1), (option, error));
            let text = std::str::from_utf8(&replies[0].2).expect("texts are UTF-8");
            assert!((1..=200).contains(&text.len()) && !text.contains('\0'));
        }
    }
    talk.feed(&go("vol0"));
    assert!(talk.attached().is_some());
}

#[test]
fn an_export_that_is_not_served_now_is_refused_with_the_reason() {
    let mut talk = Talk::with(TlsMode::Off);
    for option in [INFO, GO] {
        talk.feed(&opt(option, &info_data(b"vol1", &[1])));
        assert_eq!(talk.replies(), [(option, SHUTDOWN, b"not now".to_vec())]);
    }
    talk.feed(&opt(EXPORT_NAME, b"vol1"));
    assert!(matches!(talk.close_reason(), Some(CloseReason::ExportName(_))));
}

#[test]
fn a_node_that_stops_refuses_everything_but_leaving() {
    for mut talk in [Talk::with(TlsMode::Off), Talk::in_tls(None)] {
        talk.exports = table().with_shutdown();
        for option in [LIST, INFO, GO, STRUCTURED, STARTTLS, SET_META, 77] {
            assert_eq!(talk.ask(option, &info_data(b"vol0", &[])), [(option, SHUTDOWN)]);
        }
        assert_eq!(talk.ask(ABORT, b""), [(ABORT, ACK)]);
    }
    let mut talk = Talk::with(TlsMode::Off);
    talk.exports = table().with_shutdown();
    talk.feed(&opt(EXPORT_NAME, b"vol0"));
    assert!(matches!(talk.close_reason(), Some(CloseReason::ExportName(_))));
}

#[test]
fn export_name_attaches_or_ends_the_connection() {
    for (flags, length) in [([0, 0, 0, 1], 134), ([0, 0, 0, 3], 10)] {
        let mut talk = Talk::bare(TlsMode::Off);
        talk.feed(&flags);
        talk.said();
        talk.feed(&opt(EXPORT_NAME, b"vol0"));
        let said = talk.said();
        assert_eq!(said.len(), length);
        assert_eq!(said[..8], (1u64 << 30).to_be_bytes());
        let flags = talk.attached().expect("attached").transmission_flags();
        assert_eq!(said[8..10], flags.to_be_bytes());
        assert!(said[10..].iter().all(|byte| *byte == 0));
    }
    for name in [&b"nobody"[..], b"vol0\0junk", b"\xff", b"", &[b'a'; 4096], &[b'a'; 4097]] {
        let mut talk = Talk::with(TlsMode::Off);
        talk.feed(&opt(EXPORT_NAME, name));
        assert!(matches!(talk.close_reason(), Some(CloseReason::ExportName(_))));
        assert_eq!(talk.said(), b"");
    }
}

#[test]
fn export_name_keeps_structured_replies() {
    let mut talk = Talk::with(TlsMode::Off);
    assert_eq!(talk.ask(STRUCTURED, b""), [(STRUCTURED, ACK)]);
    talk.feed(&opt(EXPORT_NAME, b"vol0"));
    let terms = talk.attached().expect("attached");
    assert!(terms.structured && terms.transmission_flags() & SEND_DF != 0);
}

#[test]
fn where_tls_is_off_starttls_is_refused_and_nothing_is_required() {
    let mut talk = Talk::with(TlsMode::Off);
    assert_eq!(talk.ask(STRUCTURED, b""), [(STRUCTURED, ACK)]);
    assert_eq!(talk.ask(STARTTLS, b"x"), [(STARTTLS, INVALID)]);
    assert_eq!(talk.ask(STARTTLS, b""), [(STARTTLS, POLICY)]);
    talk.feed(&go("vol0"));
    assert!(talk.attached().expect("attached").structured, "a refused STARTTLS drops nothing");
}

#[test]
fn where_tls_is_required_nothing_is_told_before_it() {
    let mut talk = Talk::with(TlsMode::Required);
    let malformed = vec![0xff; 30];
    let long = vec![0; 20_000];
    let name = info_data(b"vol0", &[1]);
    for option in [LIST, PEEK_EXPORT, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED, 77] {
        for data in [&b""[..], &malformed, &long, &name] {
            assert_eq!(talk.ask(option, data), [(option, TLS_REQD)]);
        }
    }
    talk.exports = table().with_shutdown();
    assert_eq!(talk.ask(LIST, b""), [(LIST, TLS_REQD)]);
    talk.exports = table();
    for data in [&b"x"[..], &long] {
        assert_eq!(talk.ask(STARTTLS, data), [(STARTTLS, INVALID)]);
    }
    assert_eq!(talk.ask(STARTTLS, b""), [(STARTTLS, ACK)]);
    assert_eq!(talk.core.outcome(), Some(&Outcome::StartTls));

    let mut talk = Talk::with(TlsMode::Required);
    talk.feed(&opt(EXPORT_NAME, b"vol0"));
    assert_eq!(talk.close_reason(), Some(CloseReason::ExportName("TLS is required")));
    assert_eq!(talk.said(), b"");
}

#[test]
fn inside_tls_everything_is_there_and_starttls_is_not() {
    let mut talk = Talk::in_tls(None);
    for data in [&b""[..], b"x"] {
        assert_eq!(talk.ask(STARTTLS, data), [(STARTTLS, INVALID)]);
    }
    assert_eq!(talk.ask(LIST, b"").len(), 3);
    talk.feed(&go("vol0"));
    assert!(talk.attached().is_some());

    let mut talk = Talk::in_tls(None);
    talk.feed(&opt(EXPORT_NAME, b"vol0"));
    assert!(talk.attached().is_some());
}

/// CVE-2021-3716: an attacker in the middle negotiates something in plain text and lets the client
/// start TLS; the client must not find it in force. TLS is required here, so it cannot even be
/// negotiated; the state is dropped all the same.
#[test]
fn starttls_drops_what_was_negotiated_before() {
    let mut talk = Talk::with(TlsMode::Required);
    assert_eq!(talk.ask(STRUCTURED, b""), [(STRUCTURED, TLS_REQD)]);
    talk.core.structured = true;
    talk.feed(&opt(STARTTLS, b""));
    talk.types();
    talk.core.handle_tls_established(None);
    talk.feed(&go("vol0"));
    assert!(!talk.attached().expect("attached").structured);
}

#[test]
fn plain_text_behind_starttls_ends_the_connection() {
    let tail = opt(LIST, b"");
    for length in 1..=tail.len() {
        let mut talk = Talk::with(TlsMode::Required);
        let mut bytes = opt(STARTTLS, b"");
        bytes.extend_from_slice(&tail[..length]);
        talk.feed(&bytes);
        assert_eq!(talk.close_reason(), Some(CloseReason::PlaintextAfterStartTls));
    }
    let mut talk = Talk::with(TlsMode::Required);
    talk.feed(&opt(STARTTLS, b""));
    talk.feed(b"I");
    assert_eq!(talk.close_reason(), Some(CloseReason::PlaintextAfterStartTls));
}

#[test]
fn a_wrong_holder_gets_the_reason_whatever_it_asks() {
    let mut talk = Talk::in_tls(Some("a node may not attach"));
    for option in [LIST, STARTTLS, INFO, GO, STRUCTURED, SET_META, EXTENDED, 77] {
        for data in [&b""[..], &info_data(b"vol0", &[]), &[0; 20_000]] {
            talk.feed(&opt(option, data));
            let expected = [(option, POLICY, b"a node may not attach".to_vec())];
            assert_eq!(talk.replies(), expected);
        }
    }
    talk.feed(&opt(EXPORT_NAME, b"vol0"));
    assert!(matches!(talk.close_reason(), Some(CloseReason::ExportName(_))));
    assert_eq!(talk.said(), b"");
}

#[test]
fn what_follows_go_is_left_to_the_client() {
    for (mut bytes, what) in [(go("vol0"), "GO"), (opt(EXPORT_NAME, b"vol0"), "EXPORT_NAME")] {
        let length = bytes.len();
        bytes.extend_from_slice(b"first request");
        let mut talk = Talk::with(TlsMode::Off);
        assert_eq!(talk.feed(&bytes), length, "{what}");
        assert!(talk.attached().is_some());
        assert_eq!(talk.feed(b"more"), 0);
    }
}

#[test]
fn absurd_lengths_are_skipped_without_being_kept() {
    let mut talk = Talk::with(TlsMode::Off);
    let mut header = opt(GO, b"");
    header[12..].fill(0xff);
    talk.feed(&header);
    let mut left = u64::from(u32::MAX);
    let block = vec![0xaa; 1 << 20];
    while left > 0 {
        let count = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        assert_eq!(talk.feed(&block[..count]), count);
        assert!(talk.core.buffer.capacity() <= 64 << 10);
        left -= count as u64;
    }
    assert_eq!(talk.types(), [(GO, TOO_BIG)]);
    talk.feed(&go("vol0"));
    assert!(talk.attached().is_some());
}

#[test]
fn a_client_that_does_not_read_its_lists_is_not_read_either() {
    let exports: Vec<_> = (0..64).map(|n| info(&format!("vol{n}"))).collect();
    let exports = ExportTable::new(exports);
    let mut core = Negotiation::new(TlsMode::Off);
    assert_eq!(core.handle_bytes(&exports, &[0, 0, 0, 3]), 4);
    let lists: Vec<u8> = (0..1000).flat_map(|_| opt(LIST, b"")).collect();
    let used = core.handle_bytes(&exports, &lists);
    assert!(used < lists.len());
    assert!(core.output.len() < OUTPUT_BYTES_PAUSE + 64 * 64);
    assert_eq!(core.handle_bytes(&exports, &lists[used..]), 0);
    while core.poll_output().is_some() {}
    assert!(core.handle_bytes(&exports, &lists[used..]) > 0);
}

/// Options, whole and broken, among each other and among noise.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let data = prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..40),
        prop::sample::select(vec!["vol0", "vol1", "", "nobody", "vol0\0"])
            .prop_map(|name| info_data(name.as_bytes(), &[1, 2, 3])),
        prop::sample::select(vec![b"vol0".to_vec(), b"vol1".to_vec(), vec![0; 17_000]]),
    ];
    let option = (prop::sample::select(vec![1u32, 2, 3, 3, 4, 5, 6, 6, 7, 8, 8, 9, 77]), data)
        .prop_map(|(option, data)| opt(option, &data));
    let noise = prop::collection::vec(any::<u8>(), 0..30);
    let piece = prop_oneof![9 => option, 1 => noise];
    let flags =
        prop_oneof![9 => Just(vec![0, 0, 0, 3]), 1 => prop::collection::vec(any::<u8>(), 4)];
    (flags, prop::collection::vec(piece, 0..8))
        .prop_map(|(flags, pieces)| [flags, pieces.concat()].concat())
}

/// Everything that `input` leads to, handed in in pieces of the given lengths.
fn run(tls: TlsMode, input: &[u8], cuts: &[usize]) -> (Vec<u8>, usize, Option<Outcome>) {
    let mut talk = Talk::bare(tls);
    let mut used = 0;
    let mut cuts = cuts.iter().cycle();
    while used < input.len() && talk.core.outcome().is_none() {
        let length = (*cuts.next().expect("endless")).min(input.len() - used);
        used += talk.feed(&input[used..used + length]);
        assert!(talk.core.buffer.capacity() <= 2 * OPTION_BYTES_MAX as usize);
    }
    if talk.core.outcome() == Some(&Outcome::StartTls) && used < input.len() {
        talk.feed(&input[used..]);
    }
    (talk.said(), used, talk.core.outcome().cloned())
}

proptest! {
    #[test]
    fn how_bytes_are_cut_does_not_matter(
        input in input(),
        cuts in prop::collection::vec(1usize..50, 1..20),
        required in any::<bool>(),
    ) {
        let tls = if required { TlsMode::Required } else { TlsMode::Off };
        let whole = run(tls, &input, &[usize::MAX]);
        prop_assert_eq!(&run(tls, &input, &[1]), &whole);
        prop_assert_eq!(&run(tls, &input, &cuts), &whole);
        if required {
            let attached = matches!(whole.2, Some(Outcome::Attached(_)));
            prop_assert!(!attached, "nothing is attached in plain text");
        }
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut flags = vec![0, 0, 0, 3];
        flags.extend_from_slice(&noise);
        for input in [&noise, &flags] {
            for tls in [TlsMode::Off, TlsMode::Required] {
                run(tls, input, &[7, 1000]);
            }
        }
    }
}
