//! The safety rules that can be broken on purpose, to see that a checker notices.
//!
//! A core is built with a [`Rules`] value. Without the cargo feature `sabotage`, which no released
//! binary has, the only value is "all rules hold" and every question folds to a constant.

/// A rule of the protocol with a switch. Ids are PROTOCOL's and `docs/INVARIANTS.md`'s.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// W1: the follower never applies its own write before ORDERED.
    OrderedBeforeApply,
    /// W2: the orderer keeps the range lock until both copies have the write and it knows.
    LockUntilCommit,
    /// W2: overlapping writes are ordered one after the other, under a range lock.
    RangeLocked,
    /// W9: locks cover whole blocks of the direct I/O of both nodes.
    GranuleLocked,
    /// W3: a read waits for overlapping uncommitted writes.
    ReadCommitted,
    /// W4: no reply before both copies have the write.
    AckFromBoth,
    /// W5: zeroes and trims are writes: ordered before they are applied.
    ZeroesOrdered,
    /// W5: a trim means the same on both nodes.
    TrimOnBoth,
    /// W5: a write larger than a frame is acknowledged when all of it is applied.
    AckWholeWrite,
    /// COMMIT's watermark stays below every write that is not committed.
    CommitWatermark,
    /// COMMIT speaks of the sender's own writes only.
    CommitOwnOnly,
    /// W7: all submitted I/O of a session has completed before the next one begins.
    QuietBeforeNext,
    /// G1: a message of an earlier session or connection is dead.
    SessionCheckedAtApply,
    /// G2a: a follower sends its own read writes before it acknowledges an overlapping one.
    WriteRequestBeforeAck,
    /// 2.5.3: a read is answered only if the gate has not changed since it was admitted.
    GateAtReply,
    /// 2.7: FLUSH covers both nodes.
    FlushBoth,
    /// 2.7: FUA is durable on both nodes before the reply.
    FuaBoth,
    /// F5: the Target record is durable before the first overwritten byte.
    TargetRecordFirst,
    /// F6: the source flushes before it sends the first block.
    SourceFlushFirst,
    /// F7: the target flushes before it says that it is done.
    TargetFlushLast,
    /// F8: the source's Active record is durable before AA_GO.
    ActiveBeforeGo,
    /// 2.2: a replaced or rolled-back data file is noticed by its stamp.
    StampChecked,
    /// 2.8.1: a round smaller than the one the peer saw is a rollback.
    RoundChecked,
    /// F0: continuity is durable and never recomputed away.
    ContinuityKept,
    /// F0: a stamp that was seen is durable before a header says its round.
    SeenStampWritten,
    /// Nothing-to-compare needs both records clean in the same session.
    CleanMeansBoth,
    /// A Target is never the source of a join.
    TargetNeverSource,
    /// 2.8.1: who is the source of a join follows from both records, not from a name alone.
    SourceByRecord,
    /// W8: a failed write is never acknowledged.
    FailedWriteNeverAcked,
    /// A copied block counts only when its digest was compared after both sides were quiet.
    CompareEverything,
    /// Own writes that the peer may have are dropped by the target of a join, unanswered.
    TargetDropsOwn,
    /// D10: a copy whose disk failed is written whole before it counts: what it shows may not be
    /// what it has.
    FailedCopyRewritten,
    /// D12: a write is mirrored only where the target has acknowledged the copy; else the copy
    /// overtakes it.
    MirroredWhenCopied,
    /// D13: a region is read again only when every block of its earlier copy is acknowledged.
    RereadWhenAcked,
    /// D14: the lock of a mirrored write does not go with its early reply.
    LockOutlivesReply,
    /// D15: the copies count as equal only when the target has acknowledged every write that was
    /// answered without it; else the final flush overtakes one.
    ComparedWhenAcked,
    /// D11: a failed disk is remembered across the end of the process, before the record says so.
    FailureRemembered,
    /// I4: a token's first claim decides it, for good.
    FirstClaimDecides,
    /// I4: a token is of one run of the witness.
    TokensDieWithRun,
    /// I14: a witness that was rolled back grants nothing of what it had.
    RollbackNoticed,
    /// I14: a node remembers the highest counter of a run over all its connections.
    SeenCounterKept,
    /// I15: only the two nodes of a group touch its token.
    TokenOfItsGroup,
    /// 2.5.2: a restarted process behaves as if it had granted at its start.
    PromiseRemembered,
    /// 2.5: a winner waits until its own promise is over.
    PromiseKept,
    /// 2.5.2: a promise outlasts its grant by what clocks may differ.
    PromiseOutlasts,
    /// 2.5.3: a grant counts from before its request was sent.
    GrantFromRequest,
    /// I7: nothing is granted after the session was left.
    GrantInSession,
    /// 2.5.6: where the witness may decide the preferred node, too, reads by a grant.
    GrantForAll,
    /// 2.4: an unclean node never goes on alone.
    UncleanNeverWins,
    /// F1: a vote is gone from the record before it is sent.
    GiveDurable,
    /// 2.3: the number of transfers tells a late GIVE from a new one.
    TransfersCounted,
    /// I4: a verdict counts only for the record's token.
    TokenCompared,
}

impl Rule {
    /// Every rule, for tests that break one after the other.
    pub const ALL: [Self; 52] = [
        Self::OrderedBeforeApply,
        Self::LockUntilCommit,
        Self::RangeLocked,
        Self::GranuleLocked,
        Self::ReadCommitted,
        Self::AckFromBoth,
        Self::ZeroesOrdered,
        Self::TrimOnBoth,
        Self::AckWholeWrite,
        Self::CommitWatermark,
        Self::CommitOwnOnly,
        Self::QuietBeforeNext,
        Self::SessionCheckedAtApply,
        Self::WriteRequestBeforeAck,
        Self::GateAtReply,
        Self::FlushBoth,
        Self::FuaBoth,
        Self::TargetRecordFirst,
        Self::SourceFlushFirst,
        Self::TargetFlushLast,
        Self::ActiveBeforeGo,
        Self::StampChecked,
        Self::RoundChecked,
        Self::ContinuityKept,
        Self::SeenStampWritten,
        Self::CleanMeansBoth,
        Self::TargetNeverSource,
        Self::SourceByRecord,
        Self::FailedWriteNeverAcked,
        Self::CompareEverything,
        Self::TargetDropsOwn,
        Self::FailedCopyRewritten,
        Self::MirroredWhenCopied,
        Self::RereadWhenAcked,
        Self::LockOutlivesReply,
        Self::ComparedWhenAcked,
        Self::FailureRemembered,
        Self::FirstClaimDecides,
        Self::TokensDieWithRun,
        Self::RollbackNoticed,
        Self::SeenCounterKept,
        Self::TokenOfItsGroup,
        Self::PromiseRemembered,
        Self::PromiseKept,
        Self::PromiseOutlasts,
        Self::GrantFromRequest,
        Self::GrantInSession,
        Self::GrantForAll,
        Self::UncleanNeverWins,
        Self::GiveDurable,
        Self::TransfersCounted,
        Self::TokenCompared,
    ];
}

/// Which rules hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rules {
    #[cfg(feature = "sabotage")]
    broken: Option<Rule>,
}

impl Rules {
    /// All of them: the only value that a released binary can make.
    pub const ALL_HOLD: Self = Self {
        #[cfg(feature = "sabotage")]
        broken: None,
    };

    /// All but one.
    #[cfg(feature = "sabotage")]
    pub const fn breaking(rule: Rule) -> Self {
        Self { broken: Some(rule) }
    }

    /// Whether `rule` holds.
    #[cfg(feature = "sabotage")]
    pub fn hold(self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    /// Whether `rule` holds: always.
    #[cfg(not(feature = "sabotage"))]
    #[inline(always)]
    pub const fn hold(self, _rule: Rule) -> bool {
        true
    }
}
