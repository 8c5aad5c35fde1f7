//! The steps of a join, and what each waits for.

/// What a join waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(in crate::arbitration) enum Step {
    /// Source: the record of the new session, and F6.
    Recording,
    /// Source: the data connections and SYNC_READY.
    AwaitTarget,
    /// Source: Compared from all volumes.
    Copying,
    /// Source: its own rounds.
    Raising,
    /// Source: SYNC_DONE_ACK.
    AwaitReady,
    /// Source: F8. From here on it counts as active.
    Activating,
    /// Source: Entered from all volumes.
    Entering,
    /// Source: AA_GO_ACK.
    AwaitAck,
    /// Target: Prepared from all volumes.
    TargetPreparing,
    /// Target: F5.
    Marking,
    /// Target: SYNC_DONE.
    TargetCopying,
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
            Self::Recording => "this node's disk to flush and to take the record",
            Self::AwaitTarget => "the data connections and the target's record (SYNC_READY)",
            Self::Copying | Self::TargetCopying => "the copy",
            Self::Raising => "this node's disk to take the new round",
            Self::AwaitReady => "the target's disk to flush (SYNC_DONE_ACK)",
            Self::Activating | Self::Marking | Self::TargetActivating => {
                "this node's disk to take the record"
            }
            Self::Entering | Self::TargetEntering => "the volumes to enter the session",
            Self::AwaitAck => "the target to serve (AA_GO_ACK)",
            Self::TargetPreparing => "own writes of the last session",
            Self::Finishing => "this node's disk to flush and to take the record",
            Self::AwaitGo => "the source to serve (AA_GO)",
        }
    }
}
