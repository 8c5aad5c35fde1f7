//! What each event leads to, and what is due after it, in this order: the record first, as nothing
//! that waits for it may be said before.

use base::rules::Rules;
use base::time::Duration;
use datapath::port::VolumeReport;

use super::group::{Group, Phase};
use super::hand_off::Stop;
use super::message::Message;
use super::state::State;
use super::timers::Timer;
use crate::record::RecordState;

impl Group {
    /// After each event.
    pub(super) fn settle(&mut self) {
        if self.stop != Stop::Done {
            self.settle_record();
            self.settle_health();
            self.settle_stop();
            self.settle_start();
            self.settle_mode();
            self.settle_record();
            self.settle_gate();
            self.settle_stopped();
            self.settle_hello();
            self.submit_open();
            self.settle_record();
            self.settle_gate();
            self.settle_ask();
        }
        self.check_invariants();
    }

    /// The next thing that the record has to say, if the writer is free.
    fn settle_record(&mut self) {
        if self.job.is_some() || !self.started {
            return;
        }
        if self.submit_failure() || self.submit_won() {
            return;
        }
        if !self.taking.is_empty() {
            self.submit_take();
        }
        if self.job.is_none()
            && self.may_give_now()
            && let Some(wish) = self.giving
        {
            self.settle_gate();
            self.submit_give(wish);
        }
        if self.job.is_none() {
            self.submit_solo();
        }
    }

    /// GIVE(all) only after all volumes have left.
    fn may_give_now(&self) -> bool {
        self.giving.is_some() && (!self.is_giving_all() || self.has_left())
    }

    /// STOPPED as soon as the lease is over, where it has not the votes to win (2.4).
    fn settle_stopped(&mut self) {
        let idle = matches!(self.state, State::Fenced | State::Limbo)
            || (self.state == State::Deciding && self.votes() < 2);
        let member = matches!(self.record.state, RecordState::Active | RecordState::Stopped);
        if idle && member && self.giving.is_none() {
            self.say_stopped();
        }
    }

    pub(super) fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Ask => self.ask_due = true,
            Timer::Suspect => self.on_silence(),
            Timer::Hold => self.on_hold_over(),
            Timer::Quiet | Timer::Flush => {
                self.actions.push_back(super::port::Action::DiskLate(true));
            }
            Timer::Step => self.on_step_over(),
            Timer::Claim => self.claim_now(),
            // Looked at again by `settle`.
            Timer::Promise | Timer::Lapse | Timer::HoldOff => {}
            Timer::Probe => self.enough_probing(),
            Timer::Retry => self.retry_after_failure(),
            Timer::HandOff => self.on_hand_off_over(),
            Timer::StopBy => self.finish_stop(),
        }
    }

    /// A step that needs the peer or the disk took too long: what was begun is given up.
    fn on_step_over(&mut self) {
        if matches!(self.phase, Phase::Joining(_)) {
            self.close_link("the join went no further");
        }
    }

    pub(super) fn on_message(&mut self, message: Message) {
        match message {
            Message::Hello(hello) => self.on_hello(hello),
            Message::GrantReq(request) => {
                let deaf = Duration::from_millis(u64::from(request.heard_ms));
                if let Some(link) = &mut self.link {
                    let known = *link.peer_incarnation.get_or_insert(request.incarnation);
                    if known != request.incarnation {
                        self.out_of_turn("another process speaks on the connection");
                        return;
                    }
                }
                if deaf > self.timings().suspect_after {
                    let peer = self.config.peer.clone();
                    self.close_link(&format!("{peer} does not hear this node"));
                    return;
                }
                self.on_grant_request(request);
            }
            Message::Grant { session, id } => self.on_grant(session, id),
            Message::Give(give) => self.on_give(give),
            Message::GiveAck { .. } => self.note_handed_off(),
            Message::Left { session, io_failed, why } => {
                self.on_peer_left(session, io_failed, &why)
            }
            Message::Stopped { session, continuity, by_reset, .. } => {
                if session == self.record.session {
                    self.note_stopped(continuity, by_reset);
                    self.wake_up("the peer has stopped");
                }
            }
            Message::TokenPropose { session, token } => self.on_token_proposed(session, token),
            Message::TokenOk { session, token } => self.on_token_ok(session, token),
            Message::LendReq { session } => self.on_lend_request(session),
            Message::HandoffReq { session } => self.on_handoff_request(session),
            Message::HandoffOk { session } => self.on_handoff_ok(session),
            Message::SyncStart { session, scope, seed } => self.on_sync_start(session, scope, seed),
            Message::SyncReady { session }
            | Message::SyncDone { session, .. }
            | Message::SyncDoneAck { session }
            | Message::AaGo { session }
            | Message::AaGoAck { session } => self.on_join_message(message, session),
            Message::Refuse { reason } => self.on_refused(&reason),
        }
    }

    fn on_peer_left(&mut self, session: base::ids::Session, io_failed: bool, why: &str) {
        let concerns = match &self.phase {
            Phase::Joining(join) => join.session == session,
            Phase::Idle => self.state == State::Active && self.record.session == session,
            Phase::Leaving(_) => false,
        };
        if concerns {
            let peer = &self.config.peer;
            let how = if io_failed { "left because its disk failed" } else { "left" };
            let text = format!("{peer} {how} ({why})");
            self.leave(&text);
        }
    }

    pub(super) fn on_report(&mut self, volume: base::ids::VolumeIndex, report: VolumeReport) {
        match report {
            VolumeReport::LinkUp { conn_nonce } => self.on_data_link(volume, conn_nonce),
            VolumeReport::LinkLost { conn_nonce, why } => {
                self.on_data_link_lost(volume, conn_nonce, &why);
            }
            VolumeReport::Entered { session } if !self.awaiting_solo.is_empty() => {
                if session == self.alone_session {
                    self.on_entered_solo(volume);
                }
            }
            VolumeReport::Prepared { session }
            | VolumeReport::Compared { session, .. }
            | VolumeReport::Entered { session } => {
                self.on_join_report(volume, session, &report);
            }
            VolumeReport::CopyFailed { session, fault } => {
                if matches!(&self.phase, Phase::Joining(join) if join.session == session) {
                    self.close_link(&format!("this copy cannot be read: {fault}"));
                }
            }
            VolumeReport::Progress(_) => self.note_progress(),
            VolumeReport::Left { session, uncommitted } => {
                self.on_left(volume, session, uncommitted.is_empty());
            }
            VolumeReport::Quiet { session } => self.on_quiet(volume, session),
            VolumeReport::Drained { session } => self.on_drained(volume, session),
            VolumeReport::PeerStuck { session, waited_ms } => {
                if session == self.session() {
                    let peer = &self.config.peer;
                    let why = format!("{peer} has not acknowledged a request for {waited_ms} ms");
                    self.leave(&why);
                }
            }
            VolumeReport::DiskStuck { session, waited_ms } => {
                if session == self.session() {
                    self.health.unhealthy = true;
                    let why = format!("a request has waited for this disk for {waited_ms} ms");
                    self.actions.push_back(super::port::Action::DiskLate(true));
                    self.leave(&why);
                }
            }
            VolumeReport::PeerDiskFailed { session } => {
                if session == self.session() {
                    let why = format!("the disk of {} failed", self.config.peer);
                    self.leave(&why);
                }
            }
            VolumeReport::DiskFailed { fault, operation } => {
                let path = &self.config.volumes[usize::from(volume.0)].path;
                let text = format!("{path}: {operation} failed: {fault}");
                self.fail(Some(volume), text, false);
            }
        }
    }

    fn note_progress(&mut self) {
        if matches!(self.phase, Phase::Joining(_)) {
            self.limit_step();
        }
    }

    fn check_invariants(&self) {
        if self.config.rules != Rules::ALL_HOLD {
            return;
        }
        assert!(self.session_seen >= self.record.session, "I8: sessions never go back");
        assert!(self.record_seq_used >= self.record.record_seq, "I8: record_seq never goes back");
        assert!(
            self.state != State::Active || self.record.state == RecordState::Active,
            "F8: the record says Active"
        );
        assert!(self.is_whole_or_silent(), "I5: a target, or a node in amnesia, serves nobody");
        self.check_solo();
    }

    fn is_whole_or_silent(&self) -> bool {
        let whole =
            self.record.is_whole() && self.record.continuity < crate::record::Continuity::Amnesia;
        whole || !self.is_serving()
    }
}
