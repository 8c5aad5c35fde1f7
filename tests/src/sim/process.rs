//! One node: what a machine keeps, and the process that runs on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use base::ids::{ClientId, ConnNonce, Ticket, VolumeIndex};
use base::request::{Operation, RequestId};
use base::time::Instant;
use bytes::Bytes;
use control_plane::polarization::{DurableStep, Group, GroupConfig};
use control_plane::record::slots::SlotPlan;
use datapath::gate::Gate;
use datapath::storage::IoCompletion;
use datapath::volume::{Volume, VolumeConfig};
use datapath::wire::{LinkDecoder, LinkEncoder};

use super::disk::DataDisk;
use super::event::{Event, Letter};
use super::medium::{Machine, Medium, MediumWrite};
use super::net::ConnId;

/// A copy of everything that a node keeps on its disks.
#[derive(Clone)]
pub(super) struct Folder {
    pub(super) medium: Medium,
    pub(super) images: Vec<Vec<u8>>,
    pub(super) empty: Vec<bool>,
}

/// A node, running or not.
pub(super) struct Node {
    pub(super) machine: Machine,
    pub(super) medium: Medium,
    pub(super) disks: Vec<DataDisk>,
    /// Number of the running process, or of the last one.
    pub(super) life: u64,
    pub(super) process: Option<Process>,
    pub(super) frozen: bool,
    /// When its process started, went on, or stopped to serve, whatever came last.
    pub(super) unserved_since: Instant,
    /// Events that came while it was frozen.
    pub(super) deferred: Vec<Event>,
    /// The next turn of a volume stops in the middle for so long.
    pub(super) freeze_in_turn: Option<base::time::Duration>,
    pub(super) snapshot: Option<Folder>,
    /// What was there before something was replaced, since the last session.
    pub(super) stash: Option<Folder>,
    /// A slot of its record was damaged since the run began, or torn in the only place left.
    pub(super) slot_damaged: bool,
    /// Which places of the record cannot be written.
    pub(super) bad_places: [bool; 2],
    /// Factor on the latencies of its disks.
    pub(super) slowness: u32,
    /// Its disks do not answer; what would have completed by now.
    pub(super) hung: Option<Vec<(usize, datapath::storage::IoId)>>,
    /// Highest numbers that its records may not go back behind.
    pub(super) record_seq: u64,
    pub(super) record_session: u64,
}

/// A running process.
pub(super) struct Process {
    pub(super) group: Group,
    pub(super) gate: Gate,
    pub(super) volumes: Vec<Option<Box<VolumeThread>>>,
    pub(super) controls: BTreeMap<ConnNonce, ConnId>,
    pub(super) dialling: bool,
    pub(super) plan: SlotPlan,
    pub(super) job: Option<DurableJob>,
    pub(super) timer_at: Option<Instant>,
    pub(super) report_at: Instant,
    pub(super) stopping: bool,
}

/// A durable job under way, one part at a time.
pub(super) struct DurableJob {
    pub(super) ticket: Ticket,
    pub(super) steps: VecDeque<DurableStep>,
    /// Parts of the first step that are still to be written.
    pub(super) parts: VecDeque<MediumWrite>,
    pub(super) lost_place: Option<String>,
}

/// One volume's thread.
pub(super) struct VolumeThread {
    pub(super) core: Volume,
    pub(super) letters: VecDeque<Letter>,
    pub(super) letter_at: Instant,
    pub(super) link: Option<Link>,
    /// Links that were replaced: a shell that has not noticed yet may still deliver from them.
    pub(super) old_links: Vec<Link>,
    pub(super) requests: VecDeque<Incoming>,
    pub(super) completions: Vec<IoCompletion>,
    /// A turn is scheduled.
    pub(super) awake: bool,
    pub(super) deadline_at: Option<Instant>,
    /// It was stopped in the middle of a turn.
    pub(super) stopped_in: Option<MidTurn>,
    pub(super) watch: VolumeWatch,
}

/// From a host.
pub(super) enum Incoming {
    Request(RequestId, Box<Operation>),
    Gone(ClientId),
}

/// What a turn was about to do when its process was stopped.
#[derive(Clone, Copy, Debug)]
pub(super) enum MidTurn {
    Sample,
    Settle(Instant, Gate),
    Actions,
}

/// A data link as a volume's thread has it.
pub(super) struct Link {
    pub(super) conn: ConnId,
    pub(super) nonce: ConnNonce,
    pub(super) decoder: LinkDecoder,
    pub(super) encoder: LinkEncoder,
    /// Encoded in this turn.
    pub(super) pieces: Vec<Bytes>,
}

/// What the checkers remember of a volume.
#[derive(Default)]
pub(super) struct VolumeWatch {
    /// Between `Left` and the next `Entered`.
    pub(super) left: bool,
    /// History's clock at the last `Entered`.
    pub(super) entered: u64,
    /// The gate was open in the last sample.
    pub(super) open: bool,
    /// Clients up to this one were closed by the node.
    pub(super) closed_until: u64,
    /// And these.
    pub(super) closed: BTreeSet<ClientId>,
    /// An acknowledgement was sent in this turn.
    pub(super) acknowledged: bool,
    /// Comparing as the target.
    pub(super) target: bool,
    /// Comparing as the source.
    pub(super) source: bool,
}

impl Process {
    pub(super) fn new(
        group: Group,
        volumes: Vec<Option<Box<VolumeThread>>>,
        plan: SlotPlan,
    ) -> Self {
        Self {
            group,
            gate: Gate::CLOSED,
            volumes,
            controls: BTreeMap::new(),
            dialling: false,
            plan,
            job: None,
            timer_at: None,
            report_at: Instant::ZERO,
            stopping: false,
        }
    }
}

impl VolumeWatch {
    /// Whether the node has closed this client's connection.
    pub(super) fn has_closed(&self, client: ClientId) -> bool {
        client.0 <= self.closed_until || self.closed.contains(&client)
    }
}

impl VolumeThread {
    pub(super) fn new(config: &GroupConfig, index: usize) -> Self {
        let config = VolumeConfig {
            index: VolumeIndex(index as u16),
            size: config.volumes[index].size,
            granule_bytes: config.volumes[index].granule_bytes,
            io_timeout: config.timers.io_timeout,
            rules: config.rules,
        };
        Self {
            core: Volume::new(config),
            letters: VecDeque::new(),
            letter_at: Instant::ZERO,
            link: None,
            old_links: Vec::new(),
            requests: VecDeque::new(),
            completions: Vec::new(),
            awake: false,
            deadline_at: None,
            stopped_in: None,
            watch: VolumeWatch { left: true, ..VolumeWatch::default() },
        }
    }
}
