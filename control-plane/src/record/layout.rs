//! The bytes of a record: 4096 of them, version first, CRC-32C last (`docs/ONDISK.md`).

use base::ids::{
    BootId, Generation, Incarnation, MachineId, NAME_BYTES_MAX, NodeName, PairId, Session,
    WitnessToken,
};
use base::limits::ANCESTORS_MAX;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Continuity, NodeRecord, RecordState, Vote, WitnessVote};

/// Bytes of a record, and of a volume's header.
pub const BLOCK_BYTES: usize = 4096;
/// Distance of the two slots in their file: far enough that no torn or misplaced write, and no
/// erase block of a small device, takes both.
pub const SLOT_DISTANCE: u64 = 64 << 10;
/// Bytes of a place's file.
pub const PLACE_BYTES: u64 = SLOT_DISTANCE + BLOCK_BYTES as u64;

const MAGIC: [u8; 4] = *b"STRR";

/// What this program writes, as a number.
pub const VERSION: u32 = RecordVersion::First as u32;

/// Version of the record. 1: the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum RecordVersion {
    First = 1,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawVote {
    transfers: U64,
    held: u8,
    reserved: [u8; 7],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawFlags {
    clean: u8,
    io_failed: u8,
    single: u8,
    source: u8,
    forced: u8,
    by_reset: u8,
    witness_won: u8,
    has_witness_token: u8,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawRecord {
    version: U32,
    magic: [u8; 4],
    record_seq: U64,
    start_seq: U64,
    config_seq: U64,
    pair_id: [u8; 16],
    node: [u8; NAME_BYTES_MAX],
    volumes_digest: [u8; 16],
    session: U64,
    votes: [RawVote; 2],
    witness: [u8; NAME_BYTES_MAX],
    witness_token: [u8; 16],
    flags: RawFlags,
    state: u8,
    continuity: u8,
    reserved_small: [u8; 2],
    ancestor_count: U32,
    source_generation: [u8; 16],
    source_session: U64,
    generation: [u8; 16],
    session_boot_id: [u8; 16],
    boot_id: [u8; 16],
    machine_id: [u8; 16],
    vm_generation_id: [u8; 16],
    incarnation: [u8; 16],
    solo_io_count: U64,
    grant_ttl_max_ms: U32,
    drift_ppm: U32,
    preferred: [u8; NAME_BYTES_MAX],
    ancestors: [[u8; 16]; ANCESTORS_MAX],
    reserved: [u8; RESERVED_BYTES],
    crc: U32,
}

/// What is left of the block for later versions.
const RESERVED_BYTES: usize = 3212;
const CRC_OFFSET: usize = BLOCK_BYTES - 4;
const _: () = assert!(size_of::<RawRecord>() == BLOCK_BYTES);
const _: () = assert!(std::mem::offset_of!(RawRecord, version) == 0);
const _: () = assert!(std::mem::offset_of!(RawRecord, crc) == CRC_OFFSET);
const _: () = assert!(SLOT_DISTANCE >= 64 << 10);

/// Why a block is not a record, a header or a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Nothing was ever written there.
    #[error("it is blank")]
    Blank,
    /// Another kind of block, or none.
    #[error("it does not begin like one")]
    Magic,
    /// Damaged.
    #[error("its checksum is wrong")]
    Crc,
    /// Written by a newer Stretch.
    #[error("it has version {found}, this program knows {known}")]
    Version {
        /// In the block.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// A field that this version cannot have written.
    #[error("its field {field} is out of range")]
    Field {
        /// Which.
        field: &'static str,
    },
}

fn name_from(
    bytes: &[u8; NAME_BYTES_MAX],
    field: &'static str,
) -> Result<Option<NodeName>, LayoutError> {
    NodeName::from_field(bytes).map_err(|_| LayoutError::Field { field })
}

fn flag(byte: u8, field: &'static str) -> Result<bool, LayoutError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(LayoutError::Field { field }),
    }
}

/// The number of a state, on disk and on the wire.
pub const fn state_number(state: RecordState) -> u8 {
    match state {
        RecordState::Virgin => 1,
        RecordState::Active => 2,
        RecordState::Solo => 3,
        RecordState::Target { .. } => 4,
        RecordState::Ready => 5,
        RecordState::Stopped => 6,
        RecordState::Broken => 7,
    }
}

/// The state with this number; the two ids must be zero unless it is a target.
pub fn state_from(
    number: u8,
    source_generation: Generation,
    source_session: Session,
) -> Option<RecordState> {
    let state = match number {
        1 => RecordState::Virgin,
        2 => RecordState::Active,
        3 => RecordState::Solo,
        4 => return Some(RecordState::Target { source_generation, source_session }),
        5 => RecordState::Ready,
        6 => RecordState::Stopped,
        7 => RecordState::Broken,
        _ => return None,
    };
    (source_generation.is_none() && source_session == Session(0)).then_some(state)
}

/// The source's generation and session of a target, zero of anything else.
pub const fn source_of(state: RecordState) -> (Generation, Session) {
    match state {
        RecordState::Target { source_generation, source_session } => {
            (source_generation, source_session)
        }
        RecordState::Virgin
        | RecordState::Active
        | RecordState::Solo
        | RecordState::Ready
        | RecordState::Stopped
        | RecordState::Broken => (Generation::NONE, Session(0)),
    }
}

impl NodeRecord {
    /// The record's bytes.
    pub fn encode(&self) -> [u8; BLOCK_BYTES] {
        assert!(self.ancestors.len() <= ANCESTORS_MAX, "a record's ancestors are bounded");
        let (source_generation, source_session) = source_of(self.state);
        let mut ancestors = [[0; 16]; ANCESTORS_MAX];
        for (slot, generation) in ancestors.iter_mut().zip(&self.ancestors) {
            *slot = generation.0;
        }
        let token = self.witness_token.as_ref();
        let mut raw = RawRecord {
            version: (RecordVersion::First as u32).into(),
            magic: MAGIC,
            record_seq: self.record_seq.into(),
            start_seq: self.start_seq.into(),
            config_seq: self.config_seq.into(),
            pair_id: self.pair_id.0,
            node: self.node.to_field(),
            volumes_digest: self.volumes_digest,
            session: self.session.0.into(),
            votes: self.votes.map(|vote| RawVote {
                transfers: vote.transfers.into(),
                held: vote.held.into(),
                reserved: [0; 7],
            }),
            witness: token.map_or([0; NAME_BYTES_MAX], |t| t.witness.to_field()),
            witness_token: token.map_or([0; 16], |t| t.token.0),
            flags: self.raw_flags(),
            state: state_number(self.state),
            continuity: self.continuity.number(),
            reserved_small: [0; 2],
            ancestor_count: u32::try_from(self.ancestors.len()).expect("bounded above").into(),
            source_generation: source_generation.0,
            source_session: source_session.0.into(),
            generation: self.generation.0,
            session_boot_id: self.session_boot_id.0,
            boot_id: self.boot_id.0,
            machine_id: self.machine_id.0,
            vm_generation_id: self.vm_generation_id,
            incarnation: self.incarnation.0,
            solo_io_count: self.solo_io_count.into(),
            grant_ttl_max_ms: self.grant_ttl_max_ms.into(),
            drift_ppm: self.drift_ppm.into(),
            preferred: self.preferred.as_ref().map_or([0; NAME_BYTES_MAX], NodeName::to_field),
            ancestors,
            reserved: [0; RESERVED_BYTES],
            crc: 0.into(),
        };
        raw.crc = crc32c::crc32c(&raw.as_bytes()[..CRC_OFFSET]).into();
        let mut bytes = [0; BLOCK_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    fn raw_flags(&self) -> RawFlags {
        RawFlags {
            clean: self.clean.into(),
            io_failed: self.io_failed.into(),
            single: self.single.into(),
            source: self.source.into(),
            forced: self.forced.into(),
            by_reset: self.by_reset.into(),
            witness_won: self.witness_won.into(),
            has_witness_token: self.witness_token.is_some().into(),
        }
    }

    /// Reads and checks a record.
    ///
    /// # Errors
    /// Anything that this version cannot have written.
    pub fn decode(bytes: &[u8; BLOCK_BYTES]) -> Result<Self, LayoutError> {
        check_block(bytes, MAGIC, RecordVersion::First as u32)?;
        let raw = RawRecord::ref_from_bytes(bytes).expect("the length is the record's");
        let field = |field| LayoutError::Field { field };
        let reserved = raw.votes.iter().any(|v| v.reserved != [0; 7])
            || raw.reserved_small != [0; 2]
            || raw.reserved.iter().any(|b| *b != 0);
        if reserved {
            return Err(field("reserved"));
        }
        let count = usize::try_from(raw.ancestor_count.get()).map_err(|_| field("ancestors"))?;
        let (used, unused) = raw.ancestors.split_at_checked(count).ok_or(field("ancestors"))?;
        if unused.iter().any(|g| *g != [0; 16]) {
            return Err(field("ancestors"));
        }
        let source_session = Session(raw.source_session.get());
        let state = state_from(raw.state, Generation(raw.source_generation), source_session);
        Ok(Self {
            pair_id: PairId(raw.pair_id),
            node: name_from(&raw.node, "node")?.ok_or(field("node"))?,
            volumes_digest: raw.volumes_digest,
            record_seq: raw.record_seq.get(),
            start_seq: raw.start_seq.get(),
            session: Session(raw.session.get()),
            votes: [read_vote(&raw.votes[0])?, read_vote(&raw.votes[1])?],
            witness_won: flag(raw.flags.witness_won, "witness_won")?,
            witness_token: read_token(raw)?,
            state: state.ok_or(field("state"))?,
            continuity: Continuity::from_number(raw.continuity).ok_or(field("continuity"))?,
            by_reset: flag(raw.flags.by_reset, "by_reset")?,
            session_boot_id: BootId(raw.session_boot_id),
            generation: Generation(raw.generation),
            ancestors: used.iter().map(|g| Generation(*g)).collect(),
            boot_id: BootId(raw.boot_id),
            machine_id: MachineId(raw.machine_id),
            vm_generation_id: raw.vm_generation_id,
            incarnation: Incarnation(raw.incarnation),
            clean: flag(raw.flags.clean, "clean")?,
            io_failed: flag(raw.flags.io_failed, "io_failed")?,
            single: flag(raw.flags.single, "single")?,
            source: flag(raw.flags.source, "source")?,
            forced: flag(raw.flags.forced, "forced")?,
            solo_io_count: raw.solo_io_count.get(),
            grant_ttl_max_ms: raw.grant_ttl_max_ms.get(),
            drift_ppm: raw.drift_ppm.get(),
            preferred: name_from(&raw.preferred, "preferred")?,
            config_seq: raw.config_seq.get(),
        })
    }
}

fn read_vote(raw: &RawVote) -> Result<Vote, LayoutError> {
    Ok(Vote { held: flag(raw.held, "votes")?, transfers: raw.transfers.get() })
}

fn read_token(raw: &RawRecord) -> Result<Option<WitnessVote>, LayoutError> {
    let field = LayoutError::Field { field: "witness_token" };
    let witness = name_from(&raw.witness, "witness")?;
    let token = WitnessToken(raw.witness_token);
    match (flag(raw.flags.has_witness_token, "witness_token")?, witness) {
        (true, Some(witness)) => Ok(Some(WitnessVote { witness, token })),
        (false, None) if token.is_none() => Ok(None),
        (true, None) | (false, _) => Err(field),
    }
}

/// What every 4096-byte block has: version first, then its magic, CRC last. Used for records and
/// headers.
pub(super) fn check_block(
    bytes: &[u8; BLOCK_BYTES],
    magic: [u8; 4],
    known: u32,
) -> Result<(), LayoutError> {
    if bytes.iter().all(|b| *b == 0) {
        return Err(LayoutError::Blank);
    }
    if bytes[4..8] != magic {
        return Err(LayoutError::Magic);
    }
    let number =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if crc32c::crc32c(&bytes[..CRC_OFFSET]) != number(CRC_OFFSET) {
        return Err(LayoutError::Crc);
    }
    let found = number(0);
    if found == 0 || found > known {
        return Err(LayoutError::Version { found, known });
    }
    Ok(())
}
