//! The life of a volume at its group's word: prepare, compare, enter, serve alone, drain, leave.
//!
//! Invariants: W7 (reads change nothing, and are answered in their own time or asked again), D9, L5. Not here: what happens within a session (`order`) or a comparison
//! (`compare`).

use base::ids::{ClientId, ConnNonce, Session};
use base::request::{Completion, RequestError};
use base::rules::Rule;
use base::time::Instant;

use super::{Drain, Phase, Volume, VolumeConfig};
use crate::compare::Compare;
use crate::order::copy::Target;
use crate::order::mirror::{Mirror, SessionInfo};
use crate::order::writes;
use crate::outbox::{CloseReason, IoUse};
use crate::port::{Role, SyncRole, VolumeCommand, VolumeReport};
use crate::rewrite::Rewrite;

impl Volume {
    /// The group decided.
    pub fn handle_command(&mut self, now: Instant, command: VolumeCommand) {
        match command {
            VolumeCommand::Prepare { session, role, rewrite } => {
                self.prepare(session, role, rewrite);
            }
            VolumeCommand::Compare { session, conn_nonce, role, scope, seed } => {
                self.assert_quiet();
                let Phase::Idle = self.phase else {
                    panic!("a comparison follows its preparation")
                };
                let VolumeConfig { size, rules, .. } = self.config;
                let compare = Compare::new(role, scope, seed, size, rules);
                let mirror = self.mirror_of_target(role, session, conn_nonce);
                self.phase = Phase::Comparing(compare, mirror);
                self.progress_at = Instant::ZERO;
                self.begin(now, session, conn_nonce);
            }
            VolumeCommand::Enter { session, .. } if self.has_target() => {
                self.enter_with_target(session);
            }
            VolumeCommand::Enter { session, conn_nonce, role, granule_bytes } => {
                let VolumeConfig { size, rules, .. } = self.config;
                let info = SessionInfo {
                    session,
                    conn_nonce: Some(conn_nonce),
                    role,
                    size,
                    granule_bytes,
                    rules,
                };
                self.enter(now, info, conn_nonce);
            }
            VolumeCommand::EnterSolo { session, granule_bytes } => {
                self.enter_solo(now, session, granule_bytes);
            }
            VolumeCommand::Attach { session, conn_nonce, scope, seed, granule_bytes } => {
                self.attach(now, Target { session, conn_nonce, scope, seed, granule_bytes });
            }
            VolumeCommand::Detach { session } => self.detach(now, session),
            VolumeCommand::Leave { session } => self.leave(session),
            VolumeCommand::DiscardHeld => {
                self.refusing = true;
                self.close_everything(CloseReason::HeldTooLong);
            }
            VolumeCommand::Drain { .. } => self.drain = Drain::Wanted,
            VolumeCommand::FailureRecorded => {
                if let Phase::Active(mirror) | Phase::Comparing(_, Some(mirror)) = &mut self.phase {
                    mirror.failure_recorded(&mut self.out);
                }
            }
            VolumeCommand::Shutdown => {
                while let Some(arrival) = self.held.pop_front() {
                    let completion = Completion::Failed(RequestError::ShuttingDown);
                    self.out.reply(arrival.id, completion);
                }
                self.refusing = true;
                self.close_everything(CloseReason::Stopping);
            }
        }
    }

    fn close_everything(&mut self, why: CloseReason) {
        self.held.clear();
        // A write whose apply is under way stays until that has completed, unanswered.
        self.carried.clear();
        self.late_reads.forget(None);
        self.out.close_all(why);
        self.prepare_next();
    }

    fn prepare(&mut self, session: Session, role: SyncRole, rewrite: bool) {
        self.assert_quiet();
        self.end_late_reads();
        assert!(matches!(self.phase, Phase::Idle), "a join begins outside a session");
        self.failed = false;
        self.progress_at = Instant::ZERO;
        self.phase = Phase::Preparing(session, rewrite.then(|| Rewrite::new(self.config.size)));
        if role == SyncRole::Target {
            for carried in std::mem::take(&mut self.carried) {
                if self.config.rules.hold(Rule::TargetDropsOwn) {
                    self.drop_client(carried.id.client, CloseReason::WriteGivenUp);
                } else {
                    self.out.reply(carried.id, Completion::Done);
                }
            }
        }
        self.prepare_next();
    }

    fn drop_client(&mut self, client: ClientId, why: CloseReason) {
        self.held.retain(|arrival| arrival.id.client != client);
        self.out.close(client, why);
    }

    /// At the source: applies its own un-acknowledged writes, one after the other.
    pub(super) fn prepare_next(&mut self) {
        let Phase::Preparing(session, rewrite) = &self.phase else { return };
        let busy = if self.config.rules.hold(Rule::QuietBeforeNext) {
            self.out.in_flight() > 0
        } else {
            self.carried.iter().any(|carried| carried.in_flight)
        };
        if busy || self.failed {
            return;
        }
        if let Some(carried) = self.carried.iter_mut().find(|carried| !carried.applied) {
            carried.in_flight = true;
            let used_for = IoUse::Carried { arrival: carried.arrival };
            self.out.submit(used_for, writes::operation(&carried.write, carried.write.fua));
            return;
        }
        if rewrite.as_ref().is_some_and(|rewrite| rewrite.advance(&mut self.out)) {
            return;
        }
        let session = *session;
        self.phase = Phase::Idle;
        self.out.report(VolumeReport::Prepared { session });
    }

    fn enter(&mut self, now: Instant, info: SessionInfo, conn_nonce: ConnNonce) {
        let SessionInfo { session, role, .. } = info;
        let Phase::Comparing(compare, mirror) = &mut self.phase else {
            panic!("a session begins with a comparison, if only of nothing");
        };
        if compare.is_asked_for_more() {
            let why = "the source goes on comparing after it has said that all is equal".to_owned();
            self.handle_link_lost(conn_nonce, why);
            return;
        }
        let mirror = mirror.take();
        if mirror.is_none() {
            self.assert_quiet();
        }
        self.assert_granule(info.granule_bytes);
        assert!(
            role == Role::Orderer || self.carried.is_empty(),
            "D9: the target of a join has given its own unanswered writes up"
        );
        let mirror = match mirror {
            Some(mut mirror) => {
                assert_eq!(role, Role::Follower, "a target follows its source");
                mirror.follow(info.granule_bytes);
                mirror
            }
            None => Box::new(Mirror::new(info)),
        };
        self.serve(mirror);
        self.begin(now, session, conn_nonce);
        self.out.report(VolumeReport::Entered { session });
    }

    /// From here on this copy alone counts. What the session before left unanswered comes first:
    /// what is applied is answered when the gate is open, the rest is written as any other write.
    fn enter_solo(&mut self, now: Instant, session: Session, granule_bytes: u32) {
        assert!(matches!(self.phase, Phase::Idle), "a node serves alone outside a session");
        self.assert_quiet();
        self.assert_granule(granule_bytes);
        let VolumeConfig { size, rules, .. } = self.config;
        let (conn_nonce, role) = (None, Role::Orderer);
        let info = SessionInfo { session, conn_nonce, role, size, granule_bytes, rules };
        self.end_late_reads();
        let mut mirror = Mirror::alone(info);
        for (slot, range) in self.late_reads.ranges_under_way() {
            self.late_reads.keep_lock(slot, Some(mirror.keep_unwritten(range)));
        }
        for carried in self.carried.extract_if(.., |carried| !carried.applied) {
            mirror.carry_out(now, carried, &mut self.out);
        }
        self.serve(Box::new(mirror));
        self.current = None;
        self.out.report(VolumeReport::Entered { session });
    }

    /// What a target keeps of the writes that the source mirrors: it is the follower's from the
    /// first of them on.
    fn mirror_of_target(
        &self,
        role: SyncRole,
        session: Session,
        conn_nonce: ConnNonce,
    ) -> Option<Box<Mirror>> {
        let VolumeConfig { size, granule_bytes, rules, .. } = self.config;
        let (conn_nonce, follower) = (Some(conn_nonce), Role::Follower);
        let info = SessionInfo { session, conn_nonce, role: follower, size, granule_bytes, rules };
        (role == SyncRole::Target).then(|| Box::new(Mirror::new(info)))
    }

    fn has_target(&self) -> bool {
        matches!(&self.phase, Phase::Active(mirror) if mirror.copy_progress().is_some())
    }

    fn served(&mut self) -> &mut Mirror {
        let Phase::Active(mirror) = &mut self.phase else {
            panic!("a target comes to a node that serves alone, and goes from there")
        };
        mirror
    }

    fn attach(&mut self, now: Instant, target: Target) {
        self.assert_granule(target.granule_bytes);
        self.served().attach(now, target);
        self.stuck_reported = false;
        self.progress_at = Instant::ZERO;
        self.begin(now, target.session, target.conn_nonce);
    }

    fn detach(&mut self, now: Instant, session: Session) {
        self.current = None;
        self.stuck_reported = false;
        let Self { phase: Phase::Active(mirror), out, .. } = self else {
            panic!("a target goes from a node that serves")
        };
        assert_eq!(mirror.info().session, session, "the target that is lost is ours");
        mirror.detach(now, out);
    }

    fn enter_with_target(&mut self, session: Session) {
        let mirror = self.served();
        assert_eq!(mirror.info().session, session, "the session that begins is the target's");
        mirror.complete_copy();
        self.out.report(VolumeReport::Entered { session });
    }

    fn serve(&mut self, mirror: Box<Mirror>) {
        self.phase = Phase::Active(mirror);
        self.open_gen = None;
        self.refusing = false;
        self.stuck_reported = false;
        self.drain = Drain::No;
    }

    fn assert_granule(&self, granule_bytes: u32) {
        assert!(
            granule_bytes >= self.config.granule_bytes,
            "W9: locks cover whole blocks of this node's direct I/O"
        );
    }

    /// From here on messages of this session and connection count.
    fn begin(&mut self, now: Instant, session: Session, conn_nonce: ConnNonce) {
        self.current = Some((session, conn_nonce));
        for incoming in std::mem::take(&mut self.early) {
            self.handle_message(now, incoming);
        }
    }

    fn leave(&mut self, session: Session) {
        self.current = None;
        self.drain = Drain::No;
        let mut uncommitted = Vec::new();
        match std::mem::replace(&mut self.phase, Phase::Leaving(session)) {
            Phase::Active(mirror) => {
                assert_eq!(mirror.info().session, session, "the session that is left is ours");
                let next = &mut self.next_arrival;
                let number = || {
                    *next += 1;
                    *next - 1
                };
                let granule_bytes = mirror.info().granule_bytes;
                for (slot, _) in self.late_reads.ranges_under_way() {
                    self.late_reads.keep_lock(slot, None);
                }
                let leftovers = mirror.leave(number, &mut self.late_reads, &mut self.out);
                uncommitted = leftovers.uncommitted;
                if let Some(serve_gen) = self.open_gen.take() {
                    self.late_reads.begin(session, serve_gen, granule_bytes, &uncommitted);
                }
                self.carried.extend(leftovers.carried);
                self.held.put_before(leftovers.held);
            }
            Phase::Comparing(_, mirror) => {
                if let Some(mirror) = mirror {
                    let none = || unreachable!("a target has no request of a host");
                    let leftovers = mirror.leave(none, &mut self.late_reads, &mut self.out);
                    uncommitted = leftovers.uncommitted;
                }
                self.orphan();
            }
            Phase::Preparing(..) | Phase::Idle | Phase::Leaving(_) => self.orphan(),
        }
        self.out.report(VolumeReport::Left { session, uncommitted });
        self.report_quiet();
    }

    fn orphan(&mut self) {
        self.out.reassign(|used_for| match used_for {
            IoUse::Carried { .. } | IoUse::LateRead { .. } => used_for.clone(),
            _ => IoUse::Orphan,
        });
    }

    fn end_late_reads(&mut self) {
        let held = self.late_reads.end(self.config.rules);
        self.held.put_before(held);
    }

    /// Whether nothing is under way but reads, which change nothing.
    fn is_quiet(&self) -> bool {
        self.out.in_flight() == self.late_reads.under_way()
    }

    pub(super) fn report_quiet(&mut self) {
        let Phase::Leaving(session) = self.phase else { return };
        if self.is_quiet() || !self.config.rules.hold(Rule::QuietBeforeNext) {
            self.phase = Phase::Idle;
            self.out.report(VolumeReport::Quiet { session });
        }
    }

    fn assert_quiet(&self) {
        assert!(
            self.is_quiet() || !self.config.rules.hold(Rule::QuietBeforeNext),
            "W7: everything of the last session has completed"
        );
    }
}
