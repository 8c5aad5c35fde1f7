//! The steps of a join, and what each waits for.

use datapath::port::VolumeReport;

/// What a join waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Source: the data connections.
    Linking,
    /// Source: Prepared from all volumes.
    Preparing,
    /// Source: F6.
    Flushing,
    /// Source: SYNC_READY.
    AwaitTarget,
    /// Source: Compared from all volumes.
    Comparing,
    /// Source: its own rounds.
    Raising,
    /// Source: SYNC_DONE_ACK.
    AwaitReady,
    /// Source: F8.
    Activating,
    /// Source: Entered from all volumes.
    Entering,
    /// Source: AA_GO_ACK.
    AwaitAck,
    /// Target: SYNC_START.
    AwaitStart,
    /// Target: the data connections, after SYNC_START.
    TargetLinking,
    /// Target: Prepared from all volumes.
    TargetPreparing,
    /// Target: F5.
    Marking,
    /// Target: SYNC_DONE.
    TargetComparing,
    /// Target: F7.
    Finishing,
    /// Target: AA_GO.
    AwaitGo,
    /// Target: F8b.
    TargetActivating,
    /// Target: Entered from all volumes.
    TargetEntering,
}

impl Step {
    /// What it waits for, in words.
    pub(super) fn awaits(self) -> &'static str {
        match self {
            Self::Linking | Self::TargetLinking => "the data connections",
            Self::Preparing | Self::TargetPreparing => "own writes of the last session",
            Self::Flushing => "this node's disk to flush",
            Self::AwaitTarget => "the target's record (SYNC_READY)",
            Self::Comparing | Self::TargetComparing => "the comparison",
            Self::Raising => "this node's disk to take the new round",
            Self::AwaitReady => "the target's disk to flush (SYNC_DONE_ACK)",
            Self::Activating | Self::Marking | Self::TargetActivating => {
                "this node's disk to take the record"
            }
            Self::Entering | Self::TargetEntering => "the volumes to enter the session",
            Self::AwaitAck => "the target to serve (AA_GO_ACK)",
            Self::AwaitStart => "the source to begin (SYNC_START)",
            Self::Finishing => "this node's disk to flush and to take the record",
            Self::AwaitGo => "the source to serve (AA_GO)",
        }
    }

    /// Whether a volume knows of the join and has to leave it.
    pub(super) fn has_touched_volumes(self) -> bool {
        !matches!(self, Self::Linking | Self::AwaitStart | Self::TargetLinking)
    }

    /// Whether a volume may have entered the session.
    pub(super) fn is_entered(self) -> bool {
        matches!(self, Self::Entering | Self::AwaitAck | Self::TargetEntering)
    }

    /// Whether a volume answers its command of this step with `report`.
    pub(super) fn is_answered_by(self, report: &VolumeReport) -> bool {
        matches!(
            (self, report),
            (Self::Preparing | Self::TargetPreparing, VolumeReport::Prepared { .. })
                | (Self::Comparing, VolumeReport::Compared { .. })
                | (Self::Entering | Self::TargetEntering, VolumeReport::Entered { .. })
        )
    }
}
