//! The bytes of requests and answers; one fixed part each, then what it counts.

use base::body::Body;
use base::frame::{FrameError, Header, frame_of};
use base::ids::{
    ConnNonce, Generation, NAME_BYTES_MAX, NodeName, PairId, Session, TokenNonce, WitnessRun,
    WitnessToken,
};
use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    Answer, COUNTER_MAX, NOTES_MAX, Note, Question, REASON_BYTES_MAX, Reply, Request, TokenState,
    Verdict,
};

/// Message kinds on a witness's connections; never used again for something else.
mod kind {
    pub(super) const CREATE: u16 = 0x300;
    pub(super) const CREATED: u16 = 0x301;
    pub(super) const PING: u16 = 0x302;
    pub(super) const PONG: u16 = 0x303;
    pub(super) const CLAIM: u16 = 0x304;
    pub(super) const VERDICT: u16 = 0x305;
    pub(super) const NOTE: u16 = 0x306;
    pub(super) const NOTED: u16 = 0x307;
    pub(super) const WHO: u16 = 0x308;
    pub(super) const JOURNAL: u16 = 0x309;
    pub(super) const REFUSED: u16 = 0x30a;
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRequest {
    id: U64,
    pair_id: [u8; 16],
    peer: [u8; NAME_BYTES_MAX],
    run: [u8; 16],
    seen_counter: U64,
}
const _: () = assert!(size_of::<RawRequest>() == 80);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawAnswer {
    id: U64,
    run: [u8; 16],
    counter: U64,
}
const _: () = assert!(size_of::<RawAnswer>() == 32);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawNote {
    session: U64,
    generation: [u8; 16],
    winner: [u8; NAME_BYTES_MAX],
    forced: u8,
    reserved: [u8; 7],
}
const _: () = assert!(size_of::<RawNote>() == 64);

/// 0 unknown, 1 open or won, 2 decided or lost; then the node.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawOutcome {
    outcome: u8,
    reserved: [u8; 7],
    winner: [u8; NAME_BYTES_MAX],
}
const _: () = assert!(size_of::<RawOutcome>() == 40);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawCount {
    count: U16,
    reserved: [u8; 6],
}
const _: () = assert!(size_of::<RawCount>() == 8);

/// A note is the longest question, the notes of a journal and a reason the longest replies.
pub(super) const LARGEST_REQUEST: usize = size_of::<RawRequest>() + size_of::<RawNote>();
pub(super) const LARGEST_ANSWER: usize =
    size_of::<RawAnswer>() + size_of::<RawCount>() + NOTES_MAX * size_of::<RawNote>();
const _: () = assert!(REASON_BYTES_MAX <= NOTES_MAX * size_of::<RawNote>());

impl Request {
    /// Its number.
    pub const fn kind(&self) -> u16 {
        match self.question {
            Question::Create { .. } => kind::CREATE,
            Question::Ping { .. } => kind::PING,
            Question::Claim { .. } => kind::CLAIM,
            Question::Note(_) => kind::NOTE,
            Question::Who => kind::WHO,
        }
    }

    /// The whole frame: envelope and body.
    pub fn encode(&self, conn_nonce: ConnNonce, sequence: u64) -> Vec<u8> {
        let raw = RawRequest {
            id: self.id.into(),
            pair_id: self.pair_id.0,
            peer: self.peer.to_field(),
            run: self.run.0,
            seen_counter: self.seen_counter.into(),
        };
        let mut body = raw.as_bytes().to_vec();
        match &self.question {
            Question::Create { nonce } => body.extend_from_slice(&nonce.0),
            Question::Ping { token } => body.extend_from_slice(&token.unwrap_or_default().0),
            Question::Claim { token } => body.extend_from_slice(&token.0),
            Question::Note(note) => body.extend_from_slice(raw_note(note).as_bytes()),
            Question::Who => {}
        }
        frame_of(self.kind(), Session(0), conn_nonce, sequence, &body)
    }

    /// Reads a body whose envelope was checked.
    ///
    /// # Errors
    /// Not a request, or a body that does not fit its kind.
    pub fn decode(header: &Header, body: &[u8]) -> Result<Self, FrameError> {
        let mut body = open(header, body)?;
        let kind = header.kind;
        if !matches!(kind, kind::CREATE | kind::PING | kind::CLAIM | kind::NOTE | kind::WHO) {
            return Err(FrameError::Kind { kind });
        }
        let raw: &RawRequest = body.take()?;
        let question = match kind {
            kind::CREATE => Question::Create { nonce: TokenNonce(*body.take()?) },
            kind::PING => {
                let token = WitnessToken(*body.take()?);
                Question::Ping { token: (!token.is_none()).then_some(token) }
            }
            kind::CLAIM => Question::Claim { token: read_token(&mut body)? },
            kind::NOTE => Question::Note(read_note(&mut body)?),
            _ => Question::Who,
        };
        body.end()?;
        let peer = read_name(&body, &raw.peer)?.ok_or(body.error("a request names no peer"))?;
        let (id, seen_counter) = (raw.id.get(), read_counter(&body, raw.seen_counter)?);
        let (pair_id, run) = (PairId(raw.pair_id), WitnessRun(raw.run));
        Ok(Self { id, pair_id, peer, run, seen_counter, question })
    }
}

const ANSWERS: [u16; 6] =
    [kind::CREATED, kind::PONG, kind::VERDICT, kind::NOTED, kind::JOURNAL, kind::REFUSED];

impl Answer {
    /// Its number.
    pub const fn kind(&self) -> u16 {
        match self.reply {
            Reply::Created { .. } => kind::CREATED,
            Reply::Pong(_) => kind::PONG,
            Reply::Verdict(_) => kind::VERDICT,
            Reply::Noted => kind::NOTED,
            Reply::Journal(_) => kind::JOURNAL,
            Reply::Refused { .. } => kind::REFUSED,
        }
    }

    /// The whole frame: envelope and body.
    pub fn encode(&self, conn_nonce: ConnNonce, sequence: u64) -> Vec<u8> {
        let raw = RawAnswer { id: self.id.into(), run: self.run.0, counter: self.counter.into() };
        let mut body = raw.as_bytes().to_vec();
        match &self.reply {
            Reply::Created { token } => body.extend_from_slice(&token.0),
            Reply::Pong(state) => body.extend_from_slice(raw_token_state(state).as_bytes()),
            Reply::Verdict(verdict) => body.extend_from_slice(raw_verdict(verdict).as_bytes()),
            Reply::Noted => {}
            Reply::Journal(notes) => {
                assert!(notes.len() <= NOTES_MAX, "a journal's answer is bounded");
                let count = u16::try_from(notes.len()).expect("bounded above").into();
                body.extend_from_slice(RawCount { count, reserved: [0; 6] }.as_bytes());
                notes.iter().for_each(|note| body.extend_from_slice(raw_note(note).as_bytes()));
            }
            Reply::Refused { reason } => {
                let text = sayable(reason);
                let count = u16::try_from(text.len()).expect("bounded").into();
                body.extend_from_slice(RawCount { count, reserved: [0; 6] }.as_bytes());
                body.extend_from_slice(text.as_bytes());
            }
        }
        frame_of(self.kind(), Session(0), conn_nonce, sequence, &body)
    }

    /// Reads a body whose envelope was checked.
    ///
    /// # Errors
    /// Not an answer, or a body that does not fit its kind.
    pub fn decode(header: &Header, body: &[u8]) -> Result<Self, FrameError> {
        let mut body = open(header, body)?;
        let kind = header.kind;
        if !ANSWERS.contains(&kind) {
            return Err(FrameError::Kind { kind });
        }
        let raw: &RawAnswer = body.take()?;
        let reply = match kind {
            kind::CREATED => Reply::Created { token: read_token(&mut body)? },
            kind::PONG => Reply::Pong(read_token_state(&mut body)?),
            kind::VERDICT => Reply::Verdict(read_verdict(&mut body)?),
            kind::NOTED => Reply::Noted,
            kind::JOURNAL => Reply::Journal(read_journal(&mut body)?),
            _ => Reply::Refused { reason: read_reason(&mut body)? },
        };
        body.end()?;
        let (id, counter) = (raw.id.get(), read_counter(&body, raw.counter)?);
        Ok(Self { id, run: WitnessRun(raw.run), counter, reply })
    }
}

fn open<'a>(header: &Header, body: &'a [u8]) -> Result<Body<'a>, FrameError> {
    let body = Body::new(header.kind, body);
    if header.payload_bytes != 0 {
        return Err(body.error("a witness frame has no payload"));
    }
    if header.session != Session(0) {
        return Err(body.error("a witness frame is of no session"));
    }
    Ok(body)
}

fn read_token(body: &mut Body<'_>) -> Result<WitnessToken, FrameError> {
    let token = WitnessToken(*body.take()?);
    if token.is_none() { Err(body.error("it names no token")) } else { Ok(token) }
}

fn read_counter(body: &Body<'_>, counter: U64) -> Result<u64, FrameError> {
    let counter = counter.get();
    if counter > COUNTER_MAX { Err(body.error("a counter is too high")) } else { Ok(counter) }
}

/// A reason that fits, without control characters: it goes to a log and to a terminal.
fn sayable(reason: &str) -> String {
    let mut text = reason.replace(char::is_control, " ");
    while text.len() > REASON_BYTES_MAX {
        text.pop();
    }
    text
}

fn read_reason(body: &mut Body<'_>) -> Result<String, FrameError> {
    let raw: &RawCount = body.take()?;
    body.zero(&raw.reserved)?;
    let count = usize::from(raw.count.get());
    if count > REASON_BYTES_MAX {
        return Err(body.error("its reason is too long"));
    }
    let text = std::str::from_utf8(body.take_bytes(count)?);
    let text = text.map_err(|_| body.error("its reason is no text"))?;
    if text.contains(char::is_control) {
        return Err(body.error("its reason has control characters"));
    }
    Ok(text.to_owned())
}

fn raw_note(note: &Note) -> RawNote {
    RawNote {
        session: note.session.0.into(),
        generation: note.generation.0,
        winner: note.winner.to_field(),
        forced: note.forced.into(),
        reserved: [0; 7],
    }
}

fn read_note(body: &mut Body<'_>) -> Result<Note, FrameError> {
    let raw: &RawNote = body.take()?;
    body.zero(&raw.reserved)?;
    Ok(Note {
        session: Session(raw.session.get()),
        generation: Generation(raw.generation),
        winner: read_name(body, &raw.winner)?.ok_or(body.error("a note names no node"))?,
        forced: body.flag(raw.forced)?,
    })
}

fn read_journal(body: &mut Body<'_>) -> Result<Vec<Note>, FrameError> {
    let raw: &RawCount = body.take()?;
    body.zero(&raw.reserved)?;
    let count = usize::from(raw.count.get());
    if count > NOTES_MAX {
        return Err(body.error("it counts too many notes"));
    }
    (0..count).map(|_| read_note(body)).collect()
}

fn raw_outcome(outcome: u8, winner: Option<&NodeName>) -> RawOutcome {
    let winner = winner.map_or([0; NAME_BYTES_MAX], NodeName::to_field);
    RawOutcome { outcome, reserved: [0; 7], winner }
}

fn raw_token_state(state: &TokenState) -> RawOutcome {
    match state {
        TokenState::Unknown => raw_outcome(0, None),
        TokenState::Open => raw_outcome(1, None),
        TokenState::Decided(winner) => raw_outcome(2, Some(winner)),
    }
}

fn raw_verdict(verdict: &Verdict) -> RawOutcome {
    match verdict {
        Verdict::Unknown => raw_outcome(0, None),
        Verdict::Won => raw_outcome(1, None),
        Verdict::Lost { winner } => raw_outcome(2, Some(winner)),
    }
}

fn read_outcome(body: &mut Body<'_>) -> Result<(u8, Option<NodeName>), FrameError> {
    let raw: &RawOutcome = body.take()?;
    body.zero(&raw.reserved)?;
    Ok((raw.outcome, read_name(body, &raw.winner)?))
}

fn read_token_state(body: &mut Body<'_>) -> Result<TokenState, FrameError> {
    match read_outcome(body)? {
        (0, None) => Ok(TokenState::Unknown),
        (1, None) => Ok(TokenState::Open),
        (2, Some(winner)) => Ok(TokenState::Decided(winner)),
        _ => Err(body.error("it says no state of a token")),
    }
}

fn read_verdict(body: &mut Body<'_>) -> Result<Verdict, FrameError> {
    match read_outcome(body)? {
        (0, None) => Ok(Verdict::Unknown),
        (1, None) => Ok(Verdict::Won),
        (2, Some(winner)) => Ok(Verdict::Lost { winner }),
        _ => Err(body.error("it says no verdict")),
    }
}

fn read_name(
    body: &Body<'_>,
    field: &[u8; NAME_BYTES_MAX],
) -> Result<Option<NodeName>, FrameError> {
    NodeName::from_field(field).map_err(|_| body.error("a node's name is not one"))
}
