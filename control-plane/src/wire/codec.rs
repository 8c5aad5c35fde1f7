//! The bytes of control messages; one fixed part each, then what it counts.

use base::body::Body;
use base::frame::{FrameError, Header, frame_of};
use base::ids::{
    ConnNonce, DiskId, Generation, Incarnation, MachineId, NodeName, PairId, Session, VolumeId,
    VolumeIndex,
};
use base::limits::{ANCESTORS_MAX, VOLUME_SIZE_MAX, VOLUMES_MAX};
use datapath::port::Scope;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ControlMessage, Heartbeat, Hello, TEXT_BYTES_MAX, VolumeHello};
use crate::record::Continuity;
use crate::record::layout::{source_of, state_from, state_number};
use crate::state_word::StateWord;

/// Message kinds on control connections; never used again for something else.
mod kind {
    pub(super) const HELLO: u16 = 1;
    pub(super) const HEARTBEAT: u16 = 2;
    pub(super) const LEFT: u16 = 3;
    pub(super) const SYNC_START: u16 = 4;
    pub(super) const SYNC_READY: u16 = 5;
    pub(super) const SYNC_DONE: u16 = 6;
    pub(super) const SYNC_DONE_ACK: u16 = 7;
    pub(super) const AA_GO: u16 = 8;
    pub(super) const AA_GO_ACK: u16 = 9;
    pub(super) const FREEZE: u16 = 10;
    pub(super) const FREEZE_ACK: u16 = 11;
    pub(super) const ROUND_DONE: u16 = 12;
    pub(super) const REFUSE: u16 = 13;
    pub(super) const DATA_BIND: u16 = 14;
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHello {
    pair_id: [u8; 16],
    node: [u8; 32],
    incarnation: [u8; 16],
    machine_id: [u8; 16],
    session_seen: U64,
    solo_io_count: U64,
    generation: [u8; 16],
    source_generation: [u8; 16],
    source_session: U64,
    state: u8,
    continuity: u8,
    by_reset: u8,
    clean: u8,
    io_failed: u8,
    source: u8,
    forced: u8,
    stopping: u8,
    ancestor_count: U16,
    volume_count: U16,
    reserved: [u8; 4],
}
const _: () = assert!(size_of::<RawHello>() == 152);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawVolume {
    volume_id: [u8; 16],
    disk_id: [u8; 16],
    peer_disk_id: [u8; 16],
    bitmap_base: [u8; 16],
    round: U64,
    peer_round: U64,
    size: U64,
    granule_bytes: U32,
    trim_zeroes: u8,
    empty: u8,
    reserved: [u8; 2],
}
const _: () = assert!(size_of::<RawVolume>() == 96);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeartbeat {
    id: U64,
    incarnation: [u8; 16],
    heard_ms: U32,
    state: u8,
    serving: u8,
    io_failed: u8,
    reserved: u8,
}
const _: () = assert!(size_of::<RawHeartbeat>() == 32);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSyncStart {
    seed: U64,
    scope: u8,
    reserved: [u8; 7],
}
const _: () = assert!(size_of::<RawSyncStart>() == 16);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawText {
    io_failed: u8,
    reserved: u8,
    text_bytes: U16,
}
const _: () = assert!(size_of::<RawText>() == 4);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRounds {
    count: U16,
    reserved: [u8; 6],
}
const _: () = assert!(size_of::<RawRounds>() == 8);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawDataBind {
    volume_id: [u8; 16],
    volume: U16,
    reserved: [u8; 6],
}
const _: () = assert!(size_of::<RawDataBind>() == 24);

impl ControlMessage {
    /// Its number.
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::Heartbeat(_) => kind::HEARTBEAT,
            Self::Left { .. } => kind::LEFT,
            Self::SyncStart { .. } => kind::SYNC_START,
            Self::SyncReady { .. } => kind::SYNC_READY,
            Self::SyncDone { .. } => kind::SYNC_DONE,
            Self::SyncDoneAck { .. } => kind::SYNC_DONE_ACK,
            Self::AaGo { .. } => kind::AA_GO,
            Self::AaGoAck { .. } => kind::AA_GO_ACK,
            Self::Freeze { .. } => kind::FREEZE,
            Self::FreezeAck { .. } => kind::FREEZE_ACK,
            Self::RoundDone { .. } => kind::ROUND_DONE,
            Self::Refuse { .. } => kind::REFUSE,
            Self::DataBind { .. } => kind::DATA_BIND,
        }
    }

    /// Its name in logs and documents.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "HELLO",
            Self::Heartbeat(_) => "HEARTBEAT",
            Self::Left { .. } => "LEFT",
            Self::SyncStart { .. } => "SYNC_START",
            Self::SyncReady { .. } => "SYNC_READY",
            Self::SyncDone { .. } => "SYNC_DONE",
            Self::SyncDoneAck { .. } => "SYNC_DONE_ACK",
            Self::AaGo { .. } => "AA_GO",
            Self::AaGoAck { .. } => "AA_GO_ACK",
            Self::Freeze { .. } => "FREEZE",
            Self::FreezeAck { .. } => "FREEZE_ACK",
            Self::RoundDone { .. } => "ROUND_DONE",
            Self::Refuse { .. } => "REFUSE",
            Self::DataBind { .. } => "DATA_BIND",
        }
    }

    /// The session it speaks of; it travels in the envelope.
    pub const fn session(&self) -> Session {
        match self {
            Self::Hello(hello) => hello.session,
            Self::Left { session, .. }
            | Self::SyncStart { session, .. }
            | Self::SyncReady { session }
            | Self::SyncDone { session, .. }
            | Self::SyncDoneAck { session }
            | Self::AaGo { session }
            | Self::AaGoAck { session }
            | Self::Freeze { session }
            | Self::FreezeAck { session }
            | Self::RoundDone { session, .. } => *session,
            Self::Heartbeat(_) | Self::Refuse { .. } | Self::DataBind { .. } => Session(0),
        }
    }

    /// The whole frame: envelope and body.
    pub fn encode(&self, conn_nonce: ConnNonce, sequence: u64) -> Vec<u8> {
        frame_of(self.kind(), self.session(), conn_nonce, sequence, &self.body())
    }

    fn body(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => hello_body(hello),
            Self::Heartbeat(heartbeat) => heartbeat_body(heartbeat),
            Self::Left { io_failed, why, .. } => text_body(why, *io_failed),
            Self::SyncStart { scope, seed, .. } => {
                let scope = match scope {
                    Scope::Everything => 1,
                    Scope::Nothing => 2,
                    Scope::Rewrite => 3,
                };
                let raw = RawSyncStart { seed: (*seed).into(), scope, reserved: [0; 7] };
                raw.as_bytes().to_vec()
            }
            Self::SyncDone { rounds, .. } | Self::RoundDone { rounds, .. } => rounds_body(rounds),
            Self::SyncReady { .. }
            | Self::SyncDoneAck { .. }
            | Self::AaGo { .. }
            | Self::AaGoAck { .. }
            | Self::Freeze { .. }
            | Self::FreezeAck { .. } => Vec::new(),
            Self::Refuse { reason } => text_body(reason, false),
            Self::DataBind { volume, volume_id, .. } => {
                let raw = RawDataBind {
                    volume_id: volume_id.0,
                    volume: volume.0.into(),
                    reserved: [0; 6],
                };
                raw.as_bytes().to_vec()
            }
        }
    }

    /// Reads a body whose envelope was checked.
    ///
    /// # Errors
    /// An unknown kind, or a body that does not fit its kind.
    pub fn decode(header: &Header, body: &[u8]) -> Result<Self, FrameError> {
        let mut body = Body::new(header.kind, body);
        if header.payload_bytes != 0 {
            return Err(body.error("a control frame has no payload"));
        }
        let session = header.session;
        let message = match header.kind {
            kind::HELLO => Self::Hello(Box::new(read_hello(&mut body, session)?)),
            kind::HEARTBEAT => Self::Heartbeat(read_heartbeat(&mut body)?),
            kind::LEFT => {
                let (io_failed, why) = read_text(&mut body)?;
                Self::Left { session, io_failed, why }
            }
            kind::SYNC_START => read_sync_start(&mut body, session)?,
            kind::SYNC_READY => Self::SyncReady { session },
            kind::SYNC_DONE => Self::SyncDone { session, rounds: read_rounds(&mut body)? },
            kind::SYNC_DONE_ACK => Self::SyncDoneAck { session },
            kind::AA_GO => Self::AaGo { session },
            kind::AA_GO_ACK => Self::AaGoAck { session },
            kind::FREEZE => Self::Freeze { session },
            kind::FREEZE_ACK => Self::FreezeAck { session },
            kind::ROUND_DONE => Self::RoundDone { session, rounds: read_rounds(&mut body)? },
            kind::REFUSE => Self::Refuse { reason: read_text(&mut body)?.1 },
            kind::DATA_BIND => read_data_bind(&mut body, header.conn_nonce)?,
            kind => return Err(FrameError::Kind { kind }),
        };
        body.end()?;
        Ok(message)
    }
}

fn hello_body(hello: &Hello) -> Vec<u8> {
    assert!(hello.ancestors.len() <= ANCESTORS_MAX, "a record's ancestors are bounded");
    assert!(hello.volumes.len() <= VOLUMES_MAX, "a group's volumes are bounded");
    let (source_generation, source_session) = source_of(hello.state);
    let count = |n: usize| U16::new(u16::try_from(n).expect("bounded above"));
    let raw = RawHello {
        pair_id: hello.pair_id.0,
        node: hello.node.to_field(),
        incarnation: hello.incarnation.0,
        machine_id: hello.machine_id.0,
        session_seen: hello.session_seen.0.into(),
        solo_io_count: hello.solo_io_count.into(),
        generation: hello.generation.0,
        source_generation: source_generation.0,
        source_session: source_session.0.into(),
        state: state_number(hello.state),
        continuity: hello.continuity.number(),
        by_reset: hello.by_reset.into(),
        clean: hello.clean.into(),
        io_failed: hello.io_failed.into(),
        source: hello.source.into(),
        forced: hello.forced.into(),
        stopping: hello.stopping.into(),
        ancestor_count: count(hello.ancestors.len()),
        volume_count: count(hello.volumes.len()),
        reserved: [0; 4],
    };
    let mut body = raw.as_bytes().to_vec();
    for generation in &hello.ancestors {
        body.extend_from_slice(&generation.0);
    }
    for volume in &hello.volumes {
        body.extend_from_slice(raw_volume(volume).as_bytes());
    }
    body
}

fn raw_volume(volume: &VolumeHello) -> RawVolume {
    RawVolume {
        volume_id: volume.volume_id.0,
        disk_id: volume.disk_id.0,
        peer_disk_id: volume.peer_disk_id.0,
        bitmap_base: volume.bitmap_base.0,
        round: volume.round.into(),
        peer_round: volume.peer_round.into(),
        size: volume.size.into(),
        granule_bytes: volume.granule_bytes.into(),
        trim_zeroes: volume.trim_zeroes.into(),
        empty: volume.empty.into(),
        reserved: [0; 2],
    }
}

fn read_hello(body: &mut Body<'_>, session: Session) -> Result<Hello, FrameError> {
    let raw: &RawHello = body.take()?;
    body.zero(&raw.reserved)?;
    let ancestor_count = usize::from(raw.ancestor_count.get());
    let volume_count = usize::from(raw.volume_count.get());
    if ancestor_count > ANCESTORS_MAX || volume_count > VOLUMES_MAX {
        return Err(body.error("it counts too many ancestors or volumes"));
    }
    let mut ancestors = Vec::with_capacity(ancestor_count);
    for _ in 0..ancestor_count {
        ancestors.push(Generation(*body.take::<[u8; 16]>()?));
    }
    let mut volumes = Vec::with_capacity(volume_count);
    for _ in 0..volume_count {
        volumes.push(read_volume(body)?);
    }
    let source_session = Session(raw.source_session.get());
    let state = state_from(raw.state, Generation(raw.source_generation), source_session);
    let node = NodeName::from_field(&raw.node).ok().flatten();
    Ok(Hello {
        pair_id: PairId(raw.pair_id),
        node: node.ok_or(body.error("the node's name is not one"))?,
        incarnation: Incarnation(raw.incarnation),
        machine_id: MachineId(raw.machine_id),
        session,
        session_seen: Session(raw.session_seen.get()),
        state: state.ok_or(body.error("unknown record state"))?,
        continuity: Continuity::from_number(raw.continuity)
            .ok_or(body.error("unknown continuity"))?,
        by_reset: body.flag(raw.by_reset)?,
        clean: body.flag(raw.clean)?,
        io_failed: body.flag(raw.io_failed)?,
        source: body.flag(raw.source)?,
        forced: body.flag(raw.forced)?,
        stopping: body.flag(raw.stopping)?,
        solo_io_count: raw.solo_io_count.get(),
        generation: Generation(raw.generation),
        ancestors,
        volumes,
    })
}

fn read_volume(body: &mut Body<'_>) -> Result<VolumeHello, FrameError> {
    let raw: &RawVolume = body.take()?;
    body.zero(&raw.reserved)?;
    if raw.size.get() > VOLUME_SIZE_MAX {
        return Err(body.error("a volume is too large"));
    }
    Ok(VolumeHello {
        volume_id: VolumeId(raw.volume_id),
        disk_id: DiskId(raw.disk_id),
        peer_disk_id: DiskId(raw.peer_disk_id),
        bitmap_base: Generation(raw.bitmap_base),
        round: raw.round.get(),
        peer_round: raw.peer_round.get(),
        size: raw.size.get(),
        granule_bytes: raw.granule_bytes.get(),
        trim_zeroes: body.flag(raw.trim_zeroes)?,
        empty: body.flag(raw.empty)?,
    })
}

fn heartbeat_body(heartbeat: &Heartbeat) -> Vec<u8> {
    let raw = RawHeartbeat {
        id: heartbeat.id.into(),
        incarnation: heartbeat.incarnation.0,
        heard_ms: heartbeat.heard_ms.into(),
        state: heartbeat.state.number(),
        serving: heartbeat.serving.into(),
        io_failed: heartbeat.io_failed.into(),
        reserved: 0,
    };
    raw.as_bytes().to_vec()
}

fn read_heartbeat(body: &mut Body<'_>) -> Result<Heartbeat, FrameError> {
    let raw: &RawHeartbeat = body.take()?;
    body.zero(&[raw.reserved])?;
    Ok(Heartbeat {
        id: raw.id.get(),
        incarnation: Incarnation(raw.incarnation),
        heard_ms: raw.heard_ms.get(),
        state: StateWord::from_number(raw.state).ok_or(body.error("unknown node state"))?,
        serving: body.flag(raw.serving)?,
        io_failed: body.flag(raw.io_failed)?,
    })
}

fn text_body(text: &str, io_failed: bool) -> Vec<u8> {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text_bytes = u16::try_from(end).expect("bounded above").into();
    let raw = RawText { io_failed: io_failed.into(), reserved: 0, text_bytes };
    let mut body = raw.as_bytes().to_vec();
    body.extend_from_slice(&text.as_bytes()[..end]);
    body
}

fn read_text(body: &mut Body<'_>) -> Result<(bool, String), FrameError> {
    let raw: &RawText = body.take()?;
    body.zero(&[raw.reserved])?;
    let io_failed = body.flag(raw.io_failed)?;
    let count = usize::from(raw.text_bytes.get());
    if count > TEXT_BYTES_MAX {
        return Err(body.error("its text is too long"));
    }
    let bytes = body.take_bytes(count)?;
    // It goes to a log and a terminal: no control characters.
    let text = String::from_utf8_lossy(bytes).replace(char::is_control, " ");
    Ok((io_failed, text))
}

fn read_sync_start(body: &mut Body<'_>, session: Session) -> Result<ControlMessage, FrameError> {
    let raw: &RawSyncStart = body.take()?;
    body.zero(&raw.reserved)?;
    let scope = match raw.scope {
        1 => Scope::Everything,
        2 => Scope::Nothing,
        3 => Scope::Rewrite,
        _ => return Err(body.error("unknown scope")),
    };
    Ok(ControlMessage::SyncStart { session, scope, seed: raw.seed.get() })
}

fn rounds_body(rounds: &[u64]) -> Vec<u8> {
    assert!(rounds.len() <= VOLUMES_MAX, "a group's volumes are bounded");
    let count = u16::try_from(rounds.len()).expect("bounded above").into();
    let mut body = RawRounds { count, reserved: [0; 6] }.as_bytes().to_vec();
    for round in rounds {
        body.extend_from_slice(&round.to_le_bytes());
    }
    body
}

fn read_rounds(body: &mut Body<'_>) -> Result<Vec<u64>, FrameError> {
    let raw: &RawRounds = body.take()?;
    body.zero(&raw.reserved)?;
    let count = usize::from(raw.count.get());
    if count > VOLUMES_MAX {
        return Err(body.error("it counts too many volumes"));
    }
    (0..count).map(|_| body.take::<U64>().map(|round| round.get())).collect()
}

fn read_data_bind(
    body: &mut Body<'_>,
    conn_nonce: ConnNonce,
) -> Result<ControlMessage, FrameError> {
    let raw: &RawDataBind = body.take()?;
    body.zero(&raw.reserved)?;
    Ok(ControlMessage::DataBind {
        volume: VolumeIndex(raw.volume.get()),
        volume_id: VolumeId(raw.volume_id),
        conn_nonce,
    })
}
