//! What a seed decides before the run begins.

use base::ids::{ConnNonce, DiskId, Generation, MachineId, NodeName, PairId, VolumeId};
use base::limits::{BLOCK_BYTES, GRANULE_BYTES_MAX, Timers};
use base::range::ByteRange;
use base::rules::Rules;
use base::time::Duration;
use control_plane::polarization::{GroupConfig, GroupVolume};
use control_plane::record::assess::volumes_digest;
use control_plane::record::{Continuity, NodeRecord, RecordState, Stamp, VolumeHeader, Vote};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::faults::{self, Fault};
use super::hosts::Workload;

/// When faults may begin.
const FAULTS_FROM: Duration = Duration::from_millis(600);
const FAULTS_TO: Duration = Duration::from_millis(10_500);
/// When everything heals at the latest.
pub(super) const HEAL_AT: Duration = Duration::from_secs(15);
/// A run lasts at least so long.
pub(super) const END_AT: Duration = Duration::from_secs(20);

/// Latencies of a run, in nanoseconds.
#[derive(Clone, Copy)]
pub(super) struct Latencies {
    pub(super) net: u64,
    pub(super) disk: u64,
    pub(super) sync: u64,
    pub(super) hop: u64,
}

/// Everything that is drawn before the first event.
pub(super) struct Plan {
    pub(super) rules: Rules,
    pub(super) rng: ChaCha8Rng,
    pub(super) faults: Vec<Fault>,
    pub(super) bursts: Vec<(Duration, u32)>,
    pub(super) volumes: Vec<VolumePlan>,
    pub(super) hosts_per_volume: usize,
    pub(super) depth: usize,
    pub(super) latencies: Latencies,
    /// Connections may deliver after they were replaced.
    pub(super) late_links: bool,
    /// The machines keep the number of the newest record in memory.
    pub(super) run_files: bool,
    /// Which node was initialised with `--source`, if any, and whether its image holds something.
    pub(super) source: Option<usize>,
    pub(super) adopted: bool,
    pub(super) pair_id: PairId,
}

pub(super) struct VolumePlan {
    pub(super) id: VolumeId,
    pub(super) disks: [DiskId; 2],
    /// Size of the blocks of each node's disk, in bytes.
    pub(super) granules: [u32; 2],
    pub(super) work: Workload,
}

impl Plan {
    pub(super) fn new(seed: u64, rules: Rules) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let count = if rng.random_bool(0.2) { 2 } else { 1 };
        let volumes = (0..count).map(|_| VolumePlan::draw(&mut rng)).collect();
        let faults = faults::draw(&mut rng, FAULTS_FROM, FAULTS_TO);
        let source = [None, Some(0), Some(1)][rng.random_range(0..3)];
        let bursts = (0..3)
            .map(|_| {
                let at = Duration::from_millis(rng.random_range(300..14_000));
                (at, rng.random_range(4..12))
            })
            .collect();
        Self {
            rules,
            faults,
            bursts,
            volumes,
            hosts_per_volume: if count == 2 { 1 } else { rng.random_range(2..=3) },
            depth: rng.random_range(2..=6),
            latencies: Latencies {
                net: rng.random_range(10_000..300_000),
                disk: rng.random_range(10_000..200_000),
                sync: rng.random_range(50_000..3_000_000),
                hop: rng.random_range(2_000..40_000),
            },
            late_links: rng.random_bool(0.3),
            run_files: rng.random_bool(0.5),
            source,
            adopted: source.is_some() && rng.random_bool(0.4),
            pair_id: PairId(bytes(&mut rng)),
            rng,
        }
    }

    pub(super) fn name(side: usize) -> NodeName {
        ["a", "b"][side].parse().expect("a name")
    }

    pub(super) fn config(&self, side: usize) -> GroupConfig {
        let volumes = self.volumes.iter().enumerate().map(|(index, volume)| GroupVolume {
            name: format!("vol{index}").parse().expect("a name"),
            id: volume.id,
            size: volume.work.size,
            path: format!("{}/vol{index}.img", Self::name(side)),
            granule_bytes: volume.granules[side],
            trim_zeroes: true,
        });
        GroupConfig {
            node: Self::name(side),
            peer: Self::name(1 - side),
            pair_id: self.pair_id,
            volumes: volumes.collect(),
            timers: Timers::DEFAULT,
            rules: self.rules,
        }
    }

    /// What `stretch init` leaves at a node.
    pub(super) fn initial(
        &mut self,
        side: usize,
        machine_id: MachineId,
    ) -> (NodeRecord, Vec<(VolumeHeader, Stamp)>) {
        let generation = Generation(bytes(&mut self.rng));
        let ids = self.volumes.iter().map(|volume| (volume.id, volume.disks[side]));
        let record = virgin(self, side, machine_id, generation, volumes_digest(ids));
        let volumes = self.volumes.iter().map(|volume| {
            let (volume_id, disk_id) = (volume.id, volume.disks[side]);
            let header = VolumeHeader {
                header_seq: 1,
                volume_id,
                disk_id,
                peer_disk_id: DiskId::NONE,
                bitmap_base: generation,
                next_generation: generation,
                round: 0,
                peer_round: 0,
                start_seq: 0,
                size: volume.work.size,
                diskseq: 0,
            };
            (header, Stamp { volume_id, disk_id, generation, round: 0 })
        });
        (record, volumes.collect())
    }
}

fn virgin(
    plan: &Plan,
    side: usize,
    machine_id: MachineId,
    generation: Generation,
    volumes_digest: [u8; 16],
) -> NodeRecord {
    NodeRecord {
        pair_id: plan.pair_id,
        node: Plan::name(side),
        volumes_digest,
        record_seq: 1,
        start_seq: 0,
        session: base::ids::Session(0),
        votes: [Vote::default(); 2],
        witness_won: false,
        witness_token: None,
        state: RecordState::Virgin,
        continuity: Continuity::Continuous,
        by_reset: false,
        session_boot_id: base::ids::BootId::NONE,
        generation,
        ancestors: Vec::new(),
        boot_id: base::ids::BootId::NONE,
        machine_id,
        vm_generation_id: [0; 16],
        incarnation: base::ids::Incarnation::NONE,
        clean: false,
        io_failed: false,
        single: false,
        source: Some(side) == plan.source,
        forced: false,
        solo_io_count: 0,
        grant_ttl_max_ms: 0,
        drift_ppm: 0,
        preferred: None,
        config_seq: 1,
    }
}

impl VolumePlan {
    fn draw(rng: &mut ChaCha8Rng) -> Self {
        let size = match rng.random_range(0..10) {
            0..=3 => 256 << 10,
            4..=6 => 1 << 20,
            7 | 8 => (1 << 20) + (64 << 10) * 3 + 512 * 5,
            _ => (2 << 20) + 4096,
        };
        let hot = (16 << 10) << rng.random_range(0..3);
        let start = rng.random_range(0..=(size - hot) / BLOCK_BYTES) * BLOCK_BYTES;
        let work =
            Workload { size, hot: ByteRange::between(start, start + hot), large: size > 1 << 20 };
        let (id, disks) = (VolumeId(bytes(rng)), [DiskId(bytes(rng)), DiskId(bytes(rng))]);
        // Direct I/O needs a volume of whole blocks.
        let coarse = size.is_multiple_of(GRANULE_BYTES_MAX);
        let granules = match rng.random_range(0..6) {
            0 if coarse => [4096, 4096],
            1 if coarse => [4096, 512],
            2 if coarse => [512, 4096],
            _ => [512, 512],
        };
        Self { id, disks, granules, work }
    }
}

/// Sixteen bytes that nobody guesses.
pub(super) fn bytes(rng: &mut ChaCha8Rng) -> [u8; 16] {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    bytes
}

pub(super) fn nonce(rng: &mut ChaCha8Rng) -> ConnNonce {
    ConnNonce(bytes(rng))
}
