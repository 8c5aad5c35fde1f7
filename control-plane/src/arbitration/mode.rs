//! Moving votes inside a running session: to a witness that may decide (T1), and to one node when
//! there is none (T2). I/O never stops for it (PROTOCOL 2.3 "Transitions", 2.9.2, 2.9.4).

use base::ids::{NodeName, TokenNonce, WitnessToken};

use super::group::{Group, Phase};
use super::message::Message;
use super::port::{Action, WitnessWish};
use super::state::State;
use super::vote::{GiveWish, Mode};
use crate::record::WitnessVote;

/// T1 at the node that has both votes, or the question to its peer.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum TokenMove {
    #[default]
    Idle,
    /// The witness was asked for a token.
    Creating(TokenNonce),
    /// The peer was asked whether the witness knows it.
    Proposed(WitnessVote),
    /// The peer does; the record and GIVE follow.
    Agreed(WitnessVote),
    /// The peer has proposed it; the witness is being asked.
    Checking(WitnessVote),
}

impl TokenMove {
    pub(super) fn forget(&mut self) {
        if !matches!(self, Self::Agreed(_)) {
            *self = Self::Idle;
        }
    }

    pub(super) fn take_agreed(&mut self) -> Option<WitnessVote> {
        match std::mem::take(self) {
            Self::Agreed(token) => Some(token),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Group {
    /// Whether votes may move in the running session.
    fn may_move(&self) -> bool {
        self.state == State::Active
            && self.phase == Phase::Idle
            && self.link.is_some()
            && self.giving.is_none()
            && self.taking.is_empty()
            && self.job.is_none()
            && !self.is_handing_off()
            && !self.has_answered_handoff
            && self.failure.is_none()
    }

    /// Part of `settle`: the mode follows the witness.
    pub(super) fn settle_mode(&mut self) {
        if !self.may_move() {
            return;
        }
        match self.mode() {
            Mode::PreferredSelf
                if self.witness_stable
                    && self.token_move == TokenMove::Idle
                    && self.can_read_by_grant() =>
            {
                let nonce = self.token_nonce();
                self.token_move = TokenMove::Creating(nonce);
                self.actions.push_back(Action::Witness(WitnessWish::Create(nonce)));
            }
            Mode::Witnessed if self.has_lost_witness() && self.is_orderer => self.lend(),
            Mode::Witnessed | Mode::PreferredSelf | Mode::PreferredPeer | Mode::None => {}
        }
    }

    /// Both have lost it, or it knows the token no more (2.9.4).
    fn has_lost_witness(&self) -> bool {
        let nobody_sees = !self.health.sees_witness && !self.peer_health.sees_witness;
        nobody_sees || self.is_token_unknown
    }

    /// T2 towards the preferred node: its peer lends its vote.
    fn lend(&mut self) {
        if self.preferred() == &self.config.node {
            if !self.has_asked_to_lend {
                self.has_asked_to_lend = true;
                let session = self.record.session;
                self.send(Message::LendReq { session });
            }
        } else {
            self.giving = Some(GiveWish::Own);
        }
    }

    fn preferred(&self) -> &NodeName {
        let smaller = (&self.config.node).min(&self.config.peer);
        self.record.preferred.as_ref().unwrap_or(smaller)
    }

    pub(super) fn on_lend_request(&mut self, session: base::ids::Session) {
        let in_session = self.state == State::Active && session == self.record.session;
        if in_session && self.may_move() && self.mode() == Mode::Witnessed {
            self.giving = Some(GiveWish::Own);
        }
    }

    /// Giving up the second vote stops no read.
    fn can_read_by_grant(&self) -> bool {
        let by_grant = self.timings().grant_ttl > base::time::Duration::ZERO;
        !by_grant || !self.grants.until.has_ended(self.clock)
    }

    fn token_nonce(&self) -> TokenNonce {
        let mut bytes = self.record.incarnation.0;
        let mark = self.record_seq_used ^ (self.record.session.0 << 32);
        for (byte, part) in bytes.iter_mut().zip(mark.to_le_bytes()) {
            *byte ^= part;
        }
        TokenNonce(bytes)
    }

    pub(super) fn on_token_created(&mut self, nonce: TokenNonce, token: WitnessToken) {
        if self.token_move != TokenMove::Creating(nonce) || self.link.is_none() {
            return;
        }
        let vote = WitnessVote { witness: self.config.witness.clone(), token };
        self.token_move = TokenMove::Proposed(vote.clone());
        let session = self.record.session;
        self.send(Message::TokenPropose { session, token: vote });
    }

    /// The peer proposes a token: can this node claim it, too?
    pub(super) fn on_token_proposed(&mut self, session: base::ids::Session, token: WitnessVote) {
        if self.state != State::Active || session != self.record.session {
            return;
        }
        self.actions.push_back(Action::Witness(WitnessWish::Watch(Some(token.token))));
        self.token_move = TokenMove::Checking(token);
    }

    pub(super) fn on_token_open(&mut self, token: WitnessToken) {
        if self.record.witness_token.as_ref().is_some_and(|vote| vote.token == token) {
            self.is_token_unknown = false;
        }
        let checked = matches!(&self.token_move, TokenMove::Checking(vote) if vote.token == token);
        if checked && self.state == State::Active && self.link.is_some() {
            self.token_move = TokenMove::Idle;
            let session = self.record.session;
            self.send(Message::TokenOk { session, token });
        }
    }

    /// The peer can claim it, too. This node reads by its grant alone before it gives the vote.
    pub(super) fn on_token_ok(&mut self, session: base::ids::Session, token: WitnessToken) {
        let TokenMove::Proposed(vote) = &self.token_move else { return };
        if vote.token != token || session != self.record.session || !self.may_move() {
            return;
        }
        if self.mode() != Mode::PreferredSelf || !self.can_read_by_grant() {
            self.token_move = TokenMove::Idle;
            return;
        }
        self.token_move = TokenMove::Agreed(vote.clone());
        self.is_narrowed = true;
        self.giving = Some(GiveWish::PeersWithToken);
    }

    pub(super) fn on_token_unknown(&mut self, token: WitnessToken) {
        if self.record.witness_token.as_ref().is_some_and(|vote| vote.token == token) {
            self.is_token_unknown = true;
        }
    }
}
