//! The witness's vote: when it is asked for, and what its answer means (PROTOCOL 2.9.3).
//!
//! Invariants: I4 the vote counts only for the token that the record names, and only when that is
//! durable. A claim goes out only after every volume has left the session.

use base::ids::{NodeName, WitnessToken};
use base::rules::Rule;
use base::time::Duration;
use witness::wire::Verdict;

use super::durable::{Job, Purpose};
use super::group::Group;
use super::port::{Action, WitnessEvent, WitnessWish};
use super::state::State;
use super::timers::Timer;
use crate::record::RecordState;

/// What is known of the claim of the record's token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Claim {
    None,
    /// The witness was asked.
    Asked,
    /// It gave its vote; the record does not say so yet.
    Won,
    /// It gave it to the peer.
    Lost,
    /// It does not know the token.
    Unknown,
}

impl Group {
    fn token(&self) -> Option<WitnessToken> {
        self.record.witness_token.as_ref().map(|vote| vote.token)
    }

    /// Whether a claim could bring the majority.
    pub(super) fn may_claim(&self) -> bool {
        let own = self.record.votes.iter().any(|vote| vote.held);
        let from_session = self.record.state == RecordState::Active;
        own && from_session
            && self.token().is_some()
            && !self.record.witness_won
            && matches!(self.claim, Claim::None | Claim::Asked)
            && self.is_eligible()
            && !self.is_stopping()
    }

    /// The bias (2.9.3): the preferred node first, an unhealthy one last; it never decides whether
    /// two may win.
    pub(super) fn plan_claim(&mut self) {
        if self.claim != Claim::None {
            return;
        }
        let timers = self.timings();
        let mut delay = Duration::ZERO;
        if !self.peer_stopped {
            let preferred = self.record.preferred.as_ref() == Some(&self.config.node);
            let hostless = !self.health.has_host && self.peer_health.has_host;
            if !preferred || hostless {
                delay += timers.claim_delay;
            }
            if self.health.unhealthy {
                delay += timers.unhealthy_delay;
            }
        }
        self.timers.set(Timer::Claim, self.clock.time + delay);
    }

    /// Its moment has come; in LIMBO the client repeats it with every PING.
    pub(super) fn claim_now(&mut self) {
        if !matches!(self.state, State::Deciding | State::Limbo) || !self.may_claim() {
            return;
        }
        assert!(self.has_left(), "W7: a claim goes out after every volume has left");
        if let Some(token) = self.token() {
            self.claim = Claim::Asked;
            self.actions.push_back(Action::Witness(WitnessWish::Claim(token)));
        }
    }

    pub(super) fn on_witness(&mut self, event: WitnessEvent) {
        match event {
            WitnessEvent::Up { stable } => {
                self.ask_due |= !self.health.sees_witness;
                self.health.sees_witness = true;
                self.witness_stable = stable;
            }
            WitnessEvent::Lost => {
                self.ask_due |= self.health.sees_witness;
                self.health.sees_witness = false;
                self.witness_stable = false;
                self.token_move.forget();
            }
            WitnessEvent::Created(nonce, token) => self.on_token_created(nonce, token),
            WitnessEvent::Open(token) => self.on_token_open(token),
            WitnessEvent::Unknown(token) => self.on_token_unknown(token),
            WitnessEvent::Decided(token, winner) => self.on_decided(token, &winner),
            WitnessEvent::Verdict(token, verdict) => self.on_verdict(token, &verdict),
        }
    }

    fn on_verdict(&mut self, token: WitnessToken, verdict: &Verdict) {
        let current = self.token() == Some(token) || !self.config.rules.hold(Rule::TokenCompared);
        if !current || self.record.state != RecordState::Active || self.state == State::Active {
            return;
        }
        match verdict {
            Verdict::Won => {
                self.claim = Claim::Won;
                self.claimed = Some(token);
            }
            Verdict::Lost { winner } => {
                self.claim = Claim::Lost;
                let why = format!("the witness gave its vote to {winner}");
                if matches!(self.state, State::Deciding | State::Limbo) && self.votes() < 2 {
                    self.fence(&why);
                }
            }
            Verdict::Unknown => {
                self.claim = Claim::Unknown;
                if self.state == State::Deciding && self.votes() < 2 {
                    self.sink(State::Limbo, "the witness does not know the token any more");
                }
            }
        }
    }

    /// Part of `settle`, while the record may be written: the vote counts when it is durable.
    pub(super) fn submit_won(&mut self) -> bool {
        if self.claim != Claim::Won || self.record.state != RecordState::Active {
            return false;
        }
        self.claim = Claim::Asked;
        if self.token().is_none() || self.record.witness_won {
            return false;
        }
        assert!(
            self.claimed == self.token() || !self.config.rules.hold(Rule::TokenCompared),
            "I16: the vote that was won is that of the record's token"
        );
        let mut record = self.record.clone();
        record.witness_won = true;
        let mut job = Job::new(Purpose::Won);
        job.record(record);
        self.submit(job);
        true
    }

    pub(super) fn won_done(&mut self) {
        if self.votes() >= 2 {
            self.wake_up("the witness gave it its vote");
            self.await_promise();
        }
    }

    /// A PING says that the vote of the running session is gone: the peer is deciding.
    fn on_decided(&mut self, token: WitnessToken, winner: &NodeName) {
        if self.token() != Some(token) || *winner != self.config.peer {
            return;
        }
        if self.state == State::Active {
            let why = format!("the witness gave its vote to {winner}");
            self.claim = Claim::Lost;
            self.drop_gate();
            self.leave(&why);
        }
    }
}
