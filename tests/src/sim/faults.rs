//! What goes wrong in a run: drawn from the seed before it begins.
//!
//! A fault is a list of steps with pauses between them, so that "the power of both fails while the
//! copies are being made equal" is one fault. Steps that make no sense when they are due (killing
//! what is dead) do nothing.
//! Not here: carrying them out (`inject.rs`).

use base::time::Duration;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::event::Side;

/// The kinds of fault; each must occur in a long run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FaultKind {
    /// The link lets nothing through, silently.
    CutBoth,
    /// The link lets nothing through in one direction.
    CutOneWay,
    /// The link comes and goes.
    Flap,
    /// Every connection is reset.
    ResetAll,
    /// The data connection is reset, or the control connection.
    ResetOne,
    /// Connections are reset and new ones refused for a while.
    Refused,
    /// kill -9 of one node.
    Kill,
    /// kill -9 of both.
    KillBoth,
    /// Power loss of one machine.
    Power,
    /// Power loss of both at once.
    PowerBoth,
    /// Power loss of one after the other, before they could meet again.
    PowerInTurn,
    /// Power loss of one machine and two starts of its process after it.
    PowerAndKill,
    /// SIGSTOP.
    Freeze,
    /// SIGSTOP between two steps of one turn of a volume's loop.
    FreezeInTurn,
    /// A slow disk.
    SlowDisk,
    /// A disk that does not answer.
    HungDisk,
    /// Writes fail: EIO or a full disk.
    WriteError,
    /// Flushes fail.
    FlushError,
    /// Flushes fail for a while, and power loss of both after it was healed.
    FlushErrorThenPower,
    /// Likewise, and the process ends before its record says so; then the other copy is lost.
    FlushErrorAndKill,
    /// Reads fail.
    ReadError,
    /// A clean stop of one node.
    Stop,
    /// A clean stop of both.
    StopBoth,
    /// A crash while the node stops cleanly.
    CrashInStop,
    /// A crash between two durable steps.
    CrashInSteps,
    /// Likewise, and power loss soon after the process was started again.
    CrashInStepsThenPower,
    /// A crash while the copies are made equal.
    CrashInCopy,
    /// The source and then the target lose power while the copies are made equal.
    PowerInCopy,
    /// A blank file in place of an image.
    BlankImage,
    /// An older image with its older stamp.
    OldImage,
    /// An older copy of the whole folder.
    OldFolder,
    /// A copy of the folder of the same session, put back after a clean stop.
    OldFolderSameSession,
    /// An older copy of the folder that only the machine's own memory shows to be one.
    OldFolderSeenOnce,
    /// A replaced image, and power loss of both right after it was healed.
    BlankThenPower,
    /// The wrong image in place of the source's, and later the right one again.
    WrongImageForAWhile,
    /// One place of the record is gone.
    LostPlace,
    /// A slot of the record is damaged.
    DamagedSlot,
    /// A place of the record cannot be written.
    PlaceError,
    /// A host closes its connections.
    HostLeaves,
    /// The session ends while a disk is slow, and begins again at once.
    ResetWhileSlow,
    /// What was sent in one session arrives in the next.
    LateMessages,
    /// The data connection says nothing, the control connection goes on.
    DataStall,
    /// Everything takes long on the way.
    SlowLink,
    /// Both processes are stopped at the same time.
    FreezeBoth,
    /// The bitmap file of a volume is gone.
    LostHeader,
    /// An older bitmap file.
    OldHeader,
}

impl FaultKind {
    /// All of them with how often each is drawn.
    pub const WEIGHTS: [(Self, u32); 46] = [
        (Self::CutBoth, 6),
        (Self::CutOneWay, 4),
        (Self::Flap, 3),
        (Self::ResetAll, 6),
        (Self::ResetOne, 4),
        (Self::Refused, 2),
        (Self::Kill, 6),
        (Self::KillBoth, 4),
        (Self::Power, 5),
        (Self::PowerBoth, 4),
        (Self::PowerInTurn, 3),
        (Self::PowerAndKill, 3),
        (Self::Freeze, 4),
        (Self::FreezeInTurn, 4),
        (Self::SlowDisk, 3),
        (Self::HungDisk, 2),
        (Self::WriteError, 3),
        (Self::FlushError, 3),
        (Self::FlushErrorThenPower, 3),
        (Self::FlushErrorAndKill, 4),
        (Self::ReadError, 2),
        (Self::Stop, 3),
        (Self::StopBoth, 3),
        (Self::CrashInStop, 3),
        (Self::CrashInSteps, 5),
        (Self::CrashInStepsThenPower, 4),
        (Self::CrashInCopy, 5),
        (Self::PowerInCopy, 4),
        (Self::BlankImage, 3),
        (Self::OldImage, 3),
        (Self::OldFolder, 3),
        (Self::OldFolderSameSession, 4),
        (Self::OldFolderSeenOnce, 3),
        (Self::BlankThenPower, 3),
        (Self::WrongImageForAWhile, 2),
        (Self::LostPlace, 2),
        (Self::DamagedSlot, 2),
        (Self::PlaceError, 2),
        (Self::HostLeaves, 3),
        (Self::ResetWhileSlow, 4),
        (Self::LateMessages, 4),
        (Self::DataStall, 2),
        (Self::SlowLink, 2),
        (Self::FreezeBoth, 2),
        (Self::LostHeader, 2),
        (Self::OldHeader, 2),
    ];

    /// For tables.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    fn draw(rng: &mut ChaCha8Rng) -> Self {
        let total: u32 = Self::WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut at = rng.random_range(0..total);
        for (kind, weight) in Self::WEIGHTS {
            if at < weight {
                return kind;
            }
            at -= weight;
        }
        unreachable!("the weights were added up")
    }
}

/// What makes armed steps happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trigger {
    /// The n-th next part of a durable job at this node begins.
    Durable(Side, u32),
    /// The n-th next write of a resync is submitted at either node.
    CopyWrite(u32),
    /// A node begins to compare as the source.
    CompareBegins,
    /// Either gate opens.
    GateOpens,
    /// A node notices that a disk has failed.
    DiskFails,
}

/// One thing that is done to the world.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Which directions are blocked, by where they lead to.
    Cut([bool; 2]),
    Refuse(bool),
    Reset {
        control: bool,
        data: bool,
    },
    Kill(Side),
    Power(Side),
    Start(Side),
    Freeze(Side, Duration),
    FreezeInTurn(Side, Duration),
    /// Factor on every latency of the disk.
    Slow(Side, u32),
    Hang(Side, bool),
    WriteFault(Side, bool),
    FlushFault(Side),
    ReadFault(Side, u32),
    Mend(Side),
    Stop(Side),
    /// Keeps a copy of the node's folder.
    Snapshot(Side),
    BlankImage(Side),
    OldImage(Side),
    OldFolder(Side),
    /// Likewise, where only the newest number in the machine's memory tells.
    OldFolderSeen(Side),
    /// The image of the node that would be the source is put aside, and put back.
    PutAside,
    PutBack,
    LoseHeader(Side),
    OldHeader(Side),
    LosePlace(Side, usize),
    DamageSlot(Side),
    PlaceFault(Side, usize),
    HostLeaves(Side),
    /// Factor on the delays of the link.
    SlowLink(u64),
    HoldData,
    ReleaseData,
    /// Kills, or cuts the power of, whichever node is the source, and then the target.
    PowerSource,
    PowerTarget,
    CrashTarget,
    CrashSource,
    Burst(u32),
    Arm(Trigger, Vec<(Duration, Step)>),
}

/// A fault of the plan.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) at: Duration,
    pub(super) kind: FaultKind,
    pub(super) steps: Vec<(Duration, Step)>,
}

/// Draws the faults of a run; their first steps lie in `from..to`.
pub(super) fn draw(rng: &mut ChaCha8Rng, from: Duration, to: Duration) -> Vec<Fault> {
    let count = rng.random_range(3..=5);
    let mut times: Vec<u64> = (0..count)
        .map(|_| rng.random_range(from.as_millis() as u64..to.as_millis() as u64))
        .collect();
    if rng.random_bool(0.25) {
        // The very first join, too, does not go undisturbed.
        times[0] = rng.random_range(1..100);
    }
    times.sort_unstable();
    times
        .into_iter()
        .map(|at| {
            let kind = FaultKind::draw(rng);
            let mut steps = vec![(Duration::ZERO, Step::Burst(rng.random_range(4..14)))];
            steps.push((micros(rng, 0, 3000), Step::Burst(0)));
            expand(kind, rng, &mut steps);
            Fault { at: Duration::from_millis(at), kind, steps }
        })
        .collect()
}

fn micros(rng: &mut ChaCha8Rng, from: u64, to: u64) -> Duration {
    Duration::from_micros(rng.random_range(from..to))
}

fn millis(rng: &mut ChaCha8Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.random_range(from..to))
}

/// Mostly short, sometimes longer than T_hold.
fn outage(rng: &mut ChaCha8Rng) -> Duration {
    match rng.random_range(0..10) {
        0..=4 => millis(rng, 5, 900),
        5..=7 => millis(rng, 300, 3000),
        _ => millis(rng, 4500, 7000),
    }
}

/// How long a process or machine is away.
fn away(rng: &mut ChaCha8Rng) -> Duration {
    match rng.random_range(0..8) {
        0..=5 => millis(rng, 10, 600),
        6 => millis(rng, 600, 2500),
        _ => millis(rng, 5000, 6500),
    }
}

fn expand(kind: FaultKind, rng: &mut ChaCha8Rng, steps: &mut Vec<(Duration, Step)>) {
    let x: Side = rng.random_range(0..2);
    let y = 1 - x;
    match kind {
        FaultKind::CutBoth
        | FaultKind::CutOneWay
        | FaultKind::Flap
        | FaultKind::ResetAll
        | FaultKind::ResetOne
        | FaultKind::Refused
        | FaultKind::Freeze
        | FaultKind::FreezeInTurn
        | FaultKind::LateMessages
        | FaultKind::DataStall
        | FaultKind::SlowLink
        | FaultKind::FreezeBoth
        | FaultKind::HostLeaves => expand_net(kind, rng, x, steps),
        FaultKind::Kill
        | FaultKind::KillBoth
        | FaultKind::Power
        | FaultKind::PowerBoth
        | FaultKind::PowerInTurn
        | FaultKind::PowerAndKill => expand_crash(kind, rng, x, steps),
        FaultKind::SlowDisk
        | FaultKind::HungDisk
        | FaultKind::WriteError
        | FaultKind::FlushError
        | FaultKind::FlushErrorThenPower
        | FaultKind::FlushErrorAndKill
        | FaultKind::ReadError
        | FaultKind::PlaceError
        | FaultKind::ResetWhileSlow => expand_disk(kind, rng, x, steps),
        FaultKind::Stop
        | FaultKind::StopBoth
        | FaultKind::CrashInStop
        | FaultKind::CrashInSteps
        | FaultKind::CrashInStepsThenPower
        | FaultKind::CrashInCopy
        | FaultKind::PowerInCopy => expand_steps(kind, rng, x, steps),
        FaultKind::BlankImage
        | FaultKind::OldImage
        | FaultKind::OldFolder
        | FaultKind::OldFolderSameSession
        | FaultKind::OldFolderSeenOnce
        | FaultKind::BlankThenPower
        | FaultKind::WrongImageForAWhile
        | FaultKind::LostPlace
        | FaultKind::LostHeader
        | FaultKind::OldHeader
        | FaultKind::DamagedSlot => expand_folder(kind, rng, x, steps),
    }
    for side in [x, y] {
        steps.push((millis(rng, 5, 300), Step::Start(side)));
    }
    steps.push((millis(rng, 50, 500), Step::Burst(rng.random_range(4..10))));
}

fn expand_net(kind: FaultKind, rng: &mut ChaCha8Rng, x: Side, steps: &mut Vec<(Duration, Step)>) {
    let now = Duration::ZERO;
    let one_way = [x == 0, x == 1];
    match kind {
        FaultKind::CutBoth => steps.push((now, Step::Cut([true; 2]))),
        FaultKind::CutOneWay => steps.push((now, Step::Cut(one_way))),
        FaultKind::Flap => {
            for _ in 0..rng.random_range(2..5) {
                steps.push((millis(rng, 20, 400), Step::Cut([true; 2])));
                steps.push((millis(rng, 20, 500), Step::Cut([false; 2])));
            }
        }
        FaultKind::ResetAll => steps.push((now, Step::Reset { control: true, data: true })),
        FaultKind::ResetOne => {
            let control = rng.random_bool(0.3);
            steps.push((now, Step::Reset { control, data: !control }));
        }
        FaultKind::Refused => {
            steps.push((now, Step::Refuse(true)));
            steps.push((now, Step::Reset { control: true, data: true }));
            steps.push((outage(rng), Step::Refuse(false)));
        }
        FaultKind::LateMessages => {
            let next = vec![(now, Step::Burst(8)), (micros(rng, 50, 2500), Step::ReleaseData)];
            let first = vec![
                (now, Step::Burst(8)),
                (micros(rng, 300, 2000), Step::HoldData),
                (now, Step::Cut([true; 2])),
                (millis(rng, 380, 600), Step::Arm(Trigger::GateOpens, next)),
                (now, Step::Cut([false; 2])),
            ];
            steps.push((now, Step::Arm(Trigger::GateOpens, first)));
            steps.push((now, Step::Reset { control: true, data: true }));
        }
        FaultKind::DataStall => {
            steps.push((now, Step::HoldData));
            steps.push((now, Step::Burst(4)));
            steps.push((millis(rng, 100, 3500), Step::ReleaseData));
        }
        FaultKind::SlowLink => {
            steps.push((now, Step::SlowLink(rng.random_range(20..1500))));
            steps.push((now, Step::Burst(4)));
            steps.push((millis(rng, 100, 2500), Step::SlowLink(1)));
        }
        FaultKind::FreezeBoth => {
            steps.push((now, Step::Freeze(x, outage(rng))));
            steps.push((millis(rng, 0, 500), Step::Freeze(1 - x, outage(rng))));
        }
        FaultKind::Freeze => steps.push((now, Step::Freeze(x, outage(rng)))),
        FaultKind::FreezeInTurn => steps.push((now, Step::FreezeInTurn(x, outage(rng)))),
        _ => steps.push((now, Step::HostLeaves(x))),
    }
    if matches!(kind, FaultKind::CutBoth | FaultKind::CutOneWay) {
        if rng.random_bool(0.3) {
            steps.push((millis(rng, 1, 50), Step::Reset { control: true, data: true }));
        }
        steps.push((outage(rng), Step::Cut([false; 2])));
    }
}

fn expand_crash(kind: FaultKind, rng: &mut ChaCha8Rng, x: Side, steps: &mut Vec<(Duration, Step)>) {
    let y = 1 - x;
    let now = Duration::ZERO;
    match kind {
        FaultKind::Kill => steps.push((now, Step::Kill(x))),
        FaultKind::KillBoth => {
            steps.push((now, Step::Kill(x)));
            steps.push((micros(rng, 0, 4000), Step::Kill(y)));
        }
        FaultKind::Power => steps.push((now, Step::Power(x))),
        FaultKind::PowerBoth => {
            steps.push((now, Step::Power(x)));
            steps.push((micros(rng, 0, 2000), Step::Power(y)));
        }
        FaultKind::PowerInTurn => {
            steps.push((now, Step::Power(x)));
            if rng.random_bool(0.5) {
                steps.push((millis(rng, 1, 40), Step::Start(x)));
            }
            steps.push((millis(rng, 1, 60), Step::Power(y)));
        }
        _ => {
            // Its second start must not forget what the first one knew.
            steps.push((now, Step::Cut([true; 2])));
            steps.push((now, Step::Power(x)));
            steps.push((millis(rng, 5, 50), Step::Start(x)));
            steps.push((millis(rng, 60, 200), Step::Kill(x)));
            if rng.random_bool(0.7) {
                steps.push((millis(rng, 1, 20), Step::Kill(y)));
            }
            steps.push((millis(rng, 5, 50), Step::Start(x)));
            steps.push((millis(rng, 1, 50), Step::Cut([false; 2])));
            return;
        }
    }
    steps.push((away(rng), Step::Start(x)));
}

/// As soon as both serve again.
fn power_of_both(rng: &mut ChaCha8Rng) -> Step {
    let steps = vec![
        (Duration::ZERO, Step::Burst(6)),
        (millis(rng, 5, 150), Step::Power(0)),
        (micros(rng, 0, 1000), Step::Power(1)),
    ];
    Step::Arm(Trigger::GateOpens, steps)
}

fn expand_disk(kind: FaultKind, rng: &mut ChaCha8Rng, x: Side, steps: &mut Vec<(Duration, Step)>) {
    let now = Duration::ZERO;
    match kind {
        FaultKind::SlowDisk => {
            steps.push((now, Step::Slow(x, rng.random_range(20..400))));
            steps.push((now, Step::Burst(4)));
            steps.push((millis(rng, 100, 1500), Step::Slow(x, 1)));
        }
        FaultKind::HungDisk => {
            steps.push((now, Step::Hang(x, true)));
            steps.push((now, Step::Burst(4)));
            steps.push((millis(rng, 500, 4000), Step::Hang(x, false)));
        }
        FaultKind::WriteError => steps.push((now, Step::WriteFault(x, rng.random_bool(0.5)))),
        FaultKind::FlushError => steps.push((now, Step::FlushFault(x))),
        FaultKind::FlushErrorThenPower => {
            // The smaller name breaks a tie.
            let x = usize::from(rng.random_bool(0.3));
            steps.push((now, Step::FlushFault(x)));
            steps.push((now, Step::Burst(6)));
            steps.push((millis(rng, 50, 300), Step::Mend(x)));
            steps.push((now, power_of_both(rng)));
            if rng.random_bool(0.4) {
                // Then the failed copy is the source.
                steps.push((now, Step::Kill(1 - x)));
                steps.push((millis(rng, 1, 20), Step::BlankImage(1 - x)));
            }
            if rng.random_bool(0.5) {
                steps.push((now, Step::Kill(x)));
            }
            for side in [x, 1 - x] {
                steps.push((millis(rng, 1, 50), Step::Start(side)));
            }
            return;
        }
        FaultKind::FlushErrorAndKill => {
            // As above.
            let x = usize::from(rng.random_bool(0.2));
            let dies = vec![
                (micros(rng, 0, 300), Step::Kill(x)),
                (now, Step::Kill(1 - x)),
                (now, Step::Mend(x)),
                (now, Step::BlankImage(1 - x)),
                (now, power_of_both(rng)),
                (millis(rng, 1, 20), Step::Start(x)),
                (millis(rng, 1, 20), Step::Start(1 - x)),
            ];
            if rng.random_bool(0.6) {
                steps.push((now, Step::Arm(Trigger::DiskFails, dies)));
                steps.push((now, Step::FlushFault(x)));
                steps.push((now, Step::Burst(6)));
                return;
            }
            // The flush has not come back yet.
            steps.push((now, Step::Burst(6)));
            steps.push((millis(rng, 1, 10), Step::Hang(x, true)));
            steps.push((now, Step::FlushFault(x)));
            steps.push((millis(rng, 2000, 4500), Step::Burst(0)));
            steps.extend(dies);
            return;
        }
        FaultKind::ReadError => {
            steps.push((now, Step::ReadFault(x, rng.random_range(1..4))));
            return;
        }
        FaultKind::PlaceError => {
            let place = rng.random_range(0..2);
            steps.push((now, Step::PlaceFault(x, place)));
            if rng.random_bool(0.4) {
                steps.push((millis(rng, 0, 40), Step::PlaceFault(x, 1 - place)));
            }
            steps.push((now, Step::Reset { control: true, data: true }));
            if rng.random_bool(0.5) {
                steps.push((millis(rng, 20, 6000), Step::Mend(x)));
            }
        }
        _ => {
            steps.push((now, Step::Slow(x, rng.random_range(300..3000))));
            steps.push((now, Step::Burst(6)));
            steps.push((millis(rng, 1, 8), Step::Reset { control: true, data: true }));
            steps.push((millis(rng, 1, 10), Step::Slow(x, 1)));
            return;
        }
    }
    if matches!(kind, FaultKind::WriteError | FaultKind::FlushError) {
        steps.push((now, Step::Burst(6)));
        steps.push((millis(rng, 100, 1500), Step::Mend(x)));
        steps.push((now, Step::Kill(x)));
        steps.push((millis(rng, 10, 300), Step::Start(x)));
    }
}

fn expand_steps(kind: FaultKind, rng: &mut ChaCha8Rng, x: Side, steps: &mut Vec<(Duration, Step)>) {
    let y = 1 - x;
    let now = Duration::ZERO;
    let crash = |rng: &mut ChaCha8Rng, side| {
        if rng.random_bool(0.5) { Step::Kill(side) } else { Step::Power(side) }
    };
    match kind {
        FaultKind::Stop => steps.push((now, Step::Stop(x))),
        FaultKind::StopBoth => {
            steps.push((now, Step::Stop(x)));
            steps.push((millis(rng, 0, 30), Step::Stop(y)));
            steps.push((millis(rng, 50, 500), Step::Stop(y)));
        }
        FaultKind::CrashInStop => {
            let side = rng.random_range(0..2);
            let step = crash(rng, side);
            let trigger = Trigger::Durable(side, rng.random_range(0..8));
            steps.push((now, Step::Arm(trigger, vec![(now, step)])));
            steps.push((now, Step::Stop(x)));
        }
        FaultKind::CrashInStepsThenPower => {
            let side = rng.random_range(0..2);
            let after = vec![
                (now, Step::Kill(side)),
                (millis(rng, 1, 5), Step::Start(side)),
                (millis(rng, 2, 60), Step::Power(side)),
            ];
            // The source's rounds are raised early in a join.
            let trigger = Trigger::Durable(side, rng.random_range(0..5));
            steps.push((now, Step::Arm(trigger, after)));
            steps.push((now, Step::Reset { control: true, data: true }));
        }
        FaultKind::CrashInSteps => {
            let side = rng.random_range(0..2);
            let mut after = vec![(now, crash(rng, side))];
            if rng.random_bool(0.3) {
                after.push((micros(rng, 0, 5000), crash(rng, 1 - side)));
            }
            let trigger = Trigger::Durable(side, rng.random_range(0..12));
            steps.push((now, Step::Arm(trigger, after)));
            steps.push((now, Step::Reset { control: true, data: true }));
        }
        FaultKind::CrashInCopy => {
            let trigger = if rng.random_bool(0.5) {
                Trigger::CopyWrite(rng.random_range(0..4))
            } else {
                Trigger::CompareBegins
            };
            let step = if rng.random_bool(0.5) { Step::CrashTarget } else { Step::CrashSource };
            steps.push((now, Step::Arm(trigger, vec![(micros(rng, 0, 3000), step)])));
            let first = if rng.random_bool(0.5) {
                Step::Power(x)
            } else {
                Step::Reset { control: true, data: true }
            };
            steps.push((now, first));
        }
        _ => {
            let trigger = if rng.random_bool(0.7) {
                Trigger::CopyWrite(rng.random_range(0..3))
            } else {
                Trigger::CompareBegins
            };
            let mut after = Vec::new();
            if rng.random_bool(0.6) {
                after.push((micros(rng, 0, 2000), Step::CrashTarget));
                after.push((micros(rng, 0, 2000), Step::PowerSource));
            } else {
                after.push((micros(rng, 0, 1000), Step::PowerSource));
                if rng.random_bool(0.5) {
                    after.push((micros(rng, 0, 2000), Step::PowerTarget));
                }
            }
            steps.push((now, Step::Arm(trigger, after)));
            let first = if rng.random_bool(0.6) {
                Step::Power(x)
            } else {
                Step::Reset { control: true, data: true }
            };
            steps.push((now, first));
        }
    }
    steps.push((away(rng), Step::Start(x)));
}

fn expand_folder(
    kind: FaultKind,
    rng: &mut ChaCha8Rng,
    x: Side,
    steps: &mut Vec<(Duration, Step)>,
) {
    let y = 1 - x;
    let now = Duration::ZERO;
    let end = match rng.random_range(0..4) {
        0 => Step::Kill(x),
        1 => Step::Power(x),
        _ => Step::Stop(x),
    };
    let replace = match kind {
        FaultKind::BlankImage => Step::BlankImage(x),
        FaultKind::OldImage => Step::OldImage(x),
        FaultKind::OldFolder => Step::OldFolder(x),
        FaultKind::LostHeader => Step::LoseHeader(x),
        FaultKind::OldHeader => Step::OldHeader(x),
        FaultKind::LostPlace => Step::LosePlace(x, rng.random_range(0..2)),
        FaultKind::DamagedSlot => Step::DamageSlot(x),
        FaultKind::OldFolderSameSession => {
            // The smaller name breaks a tie, and both have started again since.
            let x = usize::from(rng.random_bool(0.2));
            steps.push((now, Step::Snapshot(x)));
            steps.push((now, Step::Burst(8)));
            steps.push((millis(rng, 20, 100), Step::Stop(x)));
            steps.push((millis(rng, 100, 400), Step::OldFolder(x)));
            if rng.random_bool(0.7) {
                steps.push((now, Step::Kill(1 - x)));
                steps.push((millis(rng, 1, 50), Step::Start(1 - x)));
            }
            steps.push((now, Step::Start(x)));
            return;
        }
        FaultKind::OldFolderSeenOnce => {
            let x = usize::from(rng.random_bool(0.2));
            let y = 1 - x;
            steps.push((now, Step::Snapshot(x)));
            steps.push((now, Step::Burst(8)));
            steps.push((millis(rng, 2, 60), Step::Cut([true; 2])));
            steps.push((now, Step::Kill(x)));
            // The number of this start is higher than the snapshot's.
            steps.push((millis(rng, 1, 20), Step::Start(x)));
            steps.push((millis(rng, 60, 150), Step::Kill(x)));
            steps.push((now, Step::OldFolderSeen(x)));
            steps.push((now, Step::Start(x)));
            steps.push((millis(rng, 60, 150), Step::Kill(x)));
            steps.push((millis(rng, 1, 20), Step::Start(x)));
            steps.push((now, Step::Kill(y)));
            steps.push((millis(rng, 1, 20), Step::Start(y)));
            steps.push((millis(rng, 1, 20), Step::Cut([false; 2])));
            return;
        }
        FaultKind::BlankThenPower => {
            steps.push((now, Step::Kill(x)));
            steps.push((millis(rng, 1, 20), Step::BlankImage(x)));
            let mut after = vec![(micros(rng, 0, 3000), Step::Power(0))];
            after.push((micros(rng, 0, 1000), Step::Power(1)));
            steps.push((now, Step::Arm(Trigger::GateOpens, after)));
            steps.push((now, Step::Start(x)));
            steps.push((millis(rng, 500, 1500), Step::Start(y)));
            return;
        }
        _ => {
            let after = vec![
                (micros(rng, 0, 2000), Step::CrashTarget),
                (micros(rng, 0, 100), Step::CrashSource),
                (now, Step::PutAside),
                (millis(rng, 1, 50), Step::Start(x)),
                (now, Step::Start(y)),
                (millis(rng, 300, 900), Step::PutBack),
            ];
            steps.push((now, Step::Arm(Trigger::CopyWrite(rng.random_range(0..3)), after)));
            let first = if rng.random_bool(0.5) {
                Step::Power(x)
            } else {
                Step::Reset { control: true, data: true }
            };
            steps.push((now, first));
            steps.push((millis(rng, 5, 100), Step::Start(x)));
            return;
        }
    };
    steps.push((now, end));
    steps.push((millis(rng, 100, 400), Step::Kill(x)));
    steps.push((now, replace));
    if rng.random_bool(0.2) {
        steps.push((now, Step::Kill(y)));
    }
    steps.push((millis(rng, 5, 200), Step::Start(x)));
}
