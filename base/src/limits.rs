//! Every bound in one place. Full means back-pressure, never growth.

use crate::time::Duration;

/// Unit of range locks and the smallest NBD block, in bytes (PROTOCOL 2.6).
pub const BLOCK_BYTES: u64 = 512;
/// Coarsest unit of range locks and of direct I/O, in bytes: the blocks of 4Kn disks.
pub const GRANULE_BYTES_MAX: u64 = 4096;
/// Preferred I/O size told to clients and the alignment of payloads, in bytes.
pub const PAGE_BYTES: usize = 4096;
/// Unit of the dirty-region bitmap, in bytes.
pub const REGION_BYTES: u64 = 1 << 20;
/// Largest NBD payload, in bytes (NBD proto: "Block size constraints").
pub const REQUEST_BYTES_MAX: u32 = 32 << 20;
/// The whole blocks that a largest request touches, in bytes.
pub const WHOLE_BLOCKS_BYTES_MAX: u64 = REQUEST_BYTES_MAX as u64 + GRANULE_BYTES_MAX;
/// Requests of one client that are taken before their replies, at most.
pub const CLIENT_REQUESTS_MAX: usize = 256;
/// Payload bytes of one client's requests in flight, at most (one largest request always fits).
pub const CLIENT_BYTES_MAX: u64 = 64 << 20;
/// Reply bytes of one client that the kernel has not taken, above which its requests wait.
pub const CLIENT_BACKLOG_MAX: usize = 4 << 20;
/// Longest payload of a refused NBD write that is read and dropped to stay in step with the
/// client, in bytes; above it the connection ends.
pub const SKIPPED_BYTES_MAX: u32 = 2 * REQUEST_BYTES_MAX;
/// Payload bytes of requests and of unsent replies of all clients of one volume, above which
/// nothing new is begun.
pub const VOLUME_BYTES_MAX: u64 = 256 << 20;
/// NBD connections of one node, negotiating and attached, at most.
pub const CLIENTS_MAX: usize = 1024;
/// Attached clients of one host at one node, at most: none keeps the others out.
pub const HOST_CLIENTS_MAX: usize = CLIENTS_MAX / 4;
/// Bytes received from one client at a time while a request's header is due: what has come is handed
/// on, so that this bounds how many requests without payload are taken above a bound.
pub const CLIENT_PIECE_MAX: usize = 64 << 10;
/// What one client may hold, in bytes, even while the others hold all that the volume allows: hosts
/// that stop in the middle of a large write or do not read hold up nobody's small requests.
pub const CLIENT_BYTES_MIN: u64 = 256 << 10;
const _: () =
    assert!(CLIENTS_MAX as u64 * CLIENT_BYTES_MIN <= VOLUME_BYTES_MAX, "large ones get in");
/// NBD connections of one node that have not reached GO, at most.
pub const NEGOTIATING_MAX: usize = 256;
/// Time from accept to GO (NBD.md 1.5: CVE-2024-7409).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest NBD option data that is read, in bytes; longer is skipped and refused.
pub const OPTION_BYTES_MAX: u32 = 16 << 10;
/// Longest NBD string, in bytes (NBD proto: "Strings").
pub const STRING_BYTES_MAX: usize = 4096;
/// Largest payload of one frame between nodes, in bytes; a larger write takes several frames.
pub const FRAME_PAYLOAD_MAX: u32 = 1 << 20;
/// Largest body of one frame between nodes, in bytes.
pub const FRAME_BODY_MAX: u32 = 64 << 10;
/// Volumes of one group, at most.
pub const VOLUMES_MAX: usize = 64;
/// Bytes queued on the data link of one volume before hosts' writes are no longer read.
pub const LINK_BACKLOG_MAX: usize = 48 << 20;
/// Requests under way on one volume at one node above which nothing more is taken from hosts; those
/// of one turn of the loop come on top.
pub const WRITES_MAX: usize = 4096;
/// A disk that needs no longer than this for each request, and for the bytes at this rate, is slow
/// but not hung: what is under way already is added to T_io.
pub const SLOW_DISK_REQUEST: Duration = Duration::from_millis(5);
/// As [`SLOW_DISK_REQUEST`], in bytes per second.
pub const SLOW_DISK_BYTES_PER_S: u64 = 64 << 20;
/// Writes of the peer under way on one volume, at most: twice what a node takes from its hosts.
pub const PEER_WRITES_MAX: usize = 2 * WRITES_MAX;
const _: () = assert!(
    WRITES_MAX + CLIENT_PIECE_MAX / NBD_REQUEST_BYTES <= PEER_WRITES_MAX,
    "no host makes its node break the peer's bound"
);
/// Bytes of the header of an NBD request (NBD proto: "Request message").
pub const NBD_REQUEST_BYTES: usize = 28;
/// Their bytes, at most, likewise.
pub const PEER_BYTES_MAX: u64 = 2 * VOLUME_BYTES_MAX;
/// Bytes taken from one socket in one turn of the loop, at most.
pub const TURN_BYTES_MAX: usize = 1 << 20;
/// Ids in one COMMIT frame beside its watermark, at most (PROTOCOL 2.6: bounded per frame).
pub const COMMIT_MORE_MAX: usize = 1024;
/// Size of one block of the digest comparison, in bytes (PROTOCOL 2.7).
pub const DIGEST_BLOCK_BYTES: u64 = 64 << 10;
/// Largest volume: 1 PiB, in bytes.
pub const VOLUME_SIZE_MAX: u64 = 1 << 50;
/// Connections that one listener of the admin API or of the metrics serves at once, at most.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Time for one step of an admin or metrics connection: the handshake, the head of a request.
pub const ADMIN_STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a whole admin or metrics connection.
pub const ADMIN_CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer of the admin API, in bytes.
pub const ADMIN_ANSWER_BYTES_MAX: usize = 1 << 20;
/// Generations remembered in a record (PROTOCOL 2.2 `hist`).
pub const ANCESTORS_MAX: usize = 32;

/// Groups that one witness knows, at most.
pub const WITNESS_GROUPS_MAX: usize = 4096;
/// Groups in which one node's name occurs, at most: none keeps the others' pairs out.
pub const WITNESS_NODE_GROUPS_MAX: usize = 1024;
/// Connections of one witness, at most: of each group two nodes, and some that have not asked yet.
pub const WITNESS_CONNECTIONS_MAX: usize = 2 * WITNESS_GROUPS_MAX + 256;
/// Requests of one node in a second, at most; more wait.
pub const WITNESS_REQUESTS_PER_S: u32 = 100;
/// A group that has said nothing for so long may make room for another.
pub const WITNESS_GROUP_SILENT: Duration = Duration::from_secs(10);
/// A token that nobody has asked about for so long is forgotten (PROTOCOL 2.9.1).
pub const WITNESS_TOKEN_AGE: Duration = Duration::from_secs(24 * 3600);

/// The timers of a node's side of a witness (PROTOCOL 4.3), the same in every preset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct WitnessTimers {
    /// Time between two pings.
    pub ping: Duration,
    /// Silence after which a witness is lost (T_wlost).
    pub lost: Duration,
    /// How long a witness must be back after its last loss before it counts as stable
    /// (T_wstable); doubles with each loss.
    pub stable: Duration,
    /// Up to this; a witness that was there for so long is trusted as at first.
    pub stable_max: Duration,
}

impl WitnessTimers {
    /// PROTOCOL 4.3.
    pub const DEFAULT: Self = Self {
        ping: Duration::from_millis(300),
        lost: Duration::from_secs(1),
        stable: Duration::from_secs(10),
        stable_max: Duration::from_secs(600),
    };
}

/// The timers of PROTOCOL 4.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Timers {
    /// Time between two messages on the control connection (H).
    pub grant_interval: Duration,
    /// How long a grant lasts (L).
    pub grant_ttl: Duration,
    /// Silence of the peer after which the session is left (T_sus).
    pub suspect_after: Duration,
    /// Age of an un-acknowledged mirrored write after which the session is left (T_io).
    pub io_timeout: Duration,
    /// How long requests are held after the session was left (T_hold).
    pub hold: Duration,
    /// A host connection that the kernel has not heard of for so long is closed (T_alive).
    pub alive: Duration,
    /// How far the rate of a clock may be off, in parts per million (rho).
    pub drift_ppm: u32,
    /// How much later than the preferred node the other one claims (d_np).
    pub claim_delay: Duration,
    /// How much later an unhealthy node claims (d_unhealthy).
    pub unhealthy_delay: Duration,
    /// How long a node that was alone looks for a successor when it starts (T_probe).
    pub probe: Duration,
}

impl Timers {
    /// The preset `default` of PROTOCOL 4.3.
    pub const DEFAULT: Self = Self {
        grant_interval: Duration::from_millis(50),
        grant_ttl: Duration::from_millis(400),
        suspect_after: Duration::from_millis(360),
        io_timeout: Duration::from_secs(2),
        hold: Duration::from_secs(5),
        alive: Duration::from_secs(3),
        drift_ppm: 2000,
        claim_delay: Duration::from_millis(30),
        unhealthy_delay: Duration::from_secs(2),
        probe: Duration::from_secs(2),
    };
    /// The preset `lan-fast`.
    pub const LAN_FAST: Self = Self {
        grant_interval: Duration::from_millis(20),
        grant_ttl: Duration::from_millis(150),
        suspect_after: Duration::from_millis(130),
        claim_delay: Duration::from_millis(15),
        unhealthy_delay: Duration::from_secs(1),
        ..Self::DEFAULT
    };
    /// The preset `metro`.
    pub const METRO: Self = Self {
        grant_interval: Duration::from_millis(100),
        grant_ttl: Duration::from_secs(1),
        suspect_after: Duration::from_millis(900),
        claim_delay: Duration::from_millis(80),
        unhealthy_delay: Duration::from_secs(3),
        hold: Duration::from_secs(7),
        ..Self::DEFAULT
    };
    /// The preset `noisy`.
    pub const NOISY: Self = Self {
        grant_interval: Duration::from_millis(200),
        grant_ttl: Duration::from_secs(2),
        suspect_after: Duration::from_millis(1800),
        drift_ppm: 5000,
        claim_delay: Duration::from_millis(150),
        unhealthy_delay: Duration::from_secs(5),
        hold: Duration::from_secs(10),
        ..Self::DEFAULT
    };
}
