//! Votes: three for each session, two make a majority (PROTOCOL 2.3).
//!
//! Owns: what the record says of votes. The giver writes that a vote is gone before it sends it,
//! the receiver writes that it is held before it counts it; a number of transfers makes late
//! copies of a GIVE harmless.
//! Invariants: I1, I4, I8. Votes leave a node only while its record says Active, or Stopped after
//! Active, or before the first session.

use base::ids::Session;
use base::rules::Rule;

use super::durable::{Job, Purpose};
use super::group::{Group, Phase};
use super::message::{Give, GiveFrom, Message};
use super::state::State;
use super::table::NUMBER_MAX;
use crate::record::{Continuity, NodeRecord, RecordState};

/// GIVEs that wait for the record, at most: a node has three of its own to send.
const TAKING_MAX: usize = 4;

/// Who needs whom to go on alone; derived from votes, never stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Each node has its own vote, the witness decides.
    Witnessed,
    /// This node has both node votes.
    PreferredSelf,
    /// The peer has both, as far as this node knows.
    PreferredPeer,
    /// Neither: a vote is under way, or there is no witness.
    None,
}

/// Votes that are to be given as soon as the record may be written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum GiveWish {
    /// All of them; the sender has stopped.
    All,
    /// Only the peer's, with the token that this node has proposed (T1).
    PeersWithToken,
    /// Only this node's own (T2).
    Own,
}

impl Group {
    /// This node's place in every array of votes.
    pub(super) fn me(&self) -> usize {
        usize::from(self.config.node > self.config.peer)
    }

    /// Whether this node holds both node votes.
    pub(super) fn holds_both(&self) -> bool {
        self.record.votes.iter().all(|vote| vote.held)
    }

    fn holds_any(&self) -> bool {
        self.record.votes.iter().any(|vote| vote.held)
    }

    /// Votes that count, at most 3.
    pub(super) fn votes(&self) -> usize {
        count(&self.record)
    }

    /// Derived from this node's votes.
    pub fn mode(&self) -> Mode {
        let [mine, peers] = [self.me(), 1 - self.me()].map(|i| self.record.votes[i].held);
        match (mine, peers) {
            (true, true) => Mode::PreferredSelf,
            (true, false) if self.record.witness_token.is_some() => Mode::Witnessed,
            (false, false) => Mode::PreferredPeer,
            (true, false) | (false, true) => Mode::None,
        }
    }

    /// Whether the copy may be the one that goes on (PROTOCOL 2.4 "Eligibility").
    pub(super) fn is_eligible(&self) -> bool {
        let whole = match self.record.continuity {
            Continuity::Continuous | Continuity::ProcessRestart => true,
            Continuity::Unclean => {
                (self.peer_unclean_too && self.record.by_reset)
                    || !self.config.rules.hold(Rule::UncleanNeverWins)
            }
            Continuity::Amnesia => false,
        };
        whole && self.failure.is_none() && self.record.is_whole()
    }

    /// Votes that would be given with this wish, by their place.
    fn wished(&self, wish: GiveWish) -> [bool; 2] {
        let held = self.record.votes.map(|vote| vote.held);
        match wish {
            GiveWish::All => [0, 1].map(|index| held[index] && !self.returned[index]),
            GiveWish::PeersWithToken => [0, 1].map(|index| held[index] && index != self.me()),
            GiveWish::Own => [0, 1].map(|index| held[index] && index == self.me()),
        }
    }

    pub(super) fn is_giving_all(&self) -> bool {
        self.giving == Some(GiveWish::All)
    }

    /// Whether votes may leave this node now.
    fn may_give(&self) -> bool {
        match self.record.state {
            RecordState::Active | RecordState::Stopped => true,
            RecordState::Virgin => self.record.session == Session(0),
            RecordState::Solo
            | RecordState::Target { .. }
            | RecordState::Ready
            | RecordState::Broken => false,
        }
    }

    /// F1: the record without the votes first, then GIVE. All votes only after this node has
    /// stopped.
    pub(super) fn submit_give(&mut self, wish: GiveWish) {
        let moved = self.wished(wish);
        if !self.may_give() || moved == [false, false] {
            self.giving = None;
            if wish == GiveWish::All {
                self.say_stopped();
            }
            return;
        }
        let stopped = wish == GiveWish::All;
        assert!(
            !stopped || self.has_stopped_reading(),
            "a GIVE says `stopped` only after the gate is closed"
        );
        let mut record = self.record.clone();
        let mut give = self.give_of(GiveFrom::Active, stopped);
        if record.state == RecordState::Virgin {
            give.from = GiveFrom::Virgin;
        }
        if let (GiveWish::PeersWithToken, Some(token)) = (wish, self.token_move.take_agreed()) {
            record.witness_token = Some(token.clone());
            record.witness_won = false;
            give.token = Some(token);
        }
        for index in [0, 1].into_iter().filter(|index| moved[*index]) {
            let vote = &mut record.votes[index];
            assert!(vote.held, "I1: only who holds a vote gives it");
            vote.held = false;
            vote.transfers += 1;
            give.votes[index] = Some(vote.transfers);
        }
        if !record.votes.iter().any(|vote| vote.held) {
            record.witness_token = None;
            record.witness_won = false;
        }
        if self.failure.is_some() {
            super::failure::mark_failed(&mut record);
        }
        let mut job = Job::new(Purpose::Give(Box::new(give)));
        if self.config.rules.hold(Rule::GiveDurable) {
            job.record(record);
        }
        self.submit(job);
    }

    fn give_of(&self, from: GiveFrom, stopped: bool) -> Give {
        Give {
            session: self.record.session,
            votes: [None, None],
            from,
            stopped,
            token: self.record.witness_token.clone(),
            continuity: self.record.continuity,
            by_reset: self.record.by_reset,
        }
    }

    pub(super) fn give_done(&mut self, give: Give) {
        let held = self.record.votes.map(|vote| vote.held);
        let gone = give.votes.iter().zip(held).all(|(vote, held)| vote.is_none() || !held);
        assert!(
            gone || !self.config.rules.hold(Rule::GiveDurable),
            "F1: a vote that is given is durably gone"
        );
        self.giving = None;
        self.is_narrowed = false;
        if self.link.is_some() {
            self.send(Message::Give(give));
        }
    }

    /// A GIVE came. What it says of the peer counts at once, its votes when they are durable.
    pub(super) fn on_give(&mut self, give: Give) {
        if give.session != self.record.session {
            return;
        }
        let absurd = give.votes.iter().flatten().any(|transfers| *transfers >= NUMBER_MAX);
        if absurd || self.taking.len() == TAKING_MAX {
            self.out_of_turn("more votes than there are, or moved impossibly often");
            return;
        }
        if give.stopped {
            self.note_stopped(give.continuity, give.by_reset);
        }
        self.taking.push_back(give);
    }

    /// The peer serves nothing any more in this session: no promise binds this node to it.
    pub(super) fn note_stopped(&mut self, continuity: Continuity, by_reset: bool) {
        match self.state {
            State::Target | State::Ready | State::Broken | State::Stopped => return,
            State::Active => {
                let why = format!("{} has stopped serving", self.config.peer);
                self.leave(&why);
            }
            State::Starting
            | State::Deciding
            | State::Solo
            | State::Source
            | State::Fenced
            | State::Limbo => {}
        }
        self.peer_stopped = true;
        self.note_peer_unclean(continuity, by_reset);
    }

    /// Dual power loss: neither copy is better, so one may go on (2.8.1).
    pub(super) fn note_peer_unclean(&mut self, continuity: Continuity, by_reset: bool) {
        if continuity == Continuity::Unclean
            && by_reset
            && self.record.continuity == Continuity::Unclean
        {
            self.peer_unclean_too = true;
        }
    }

    /// Part of `settle`, while the record may be written: F2.
    pub(super) fn submit_take(&mut self) {
        if self.state == State::Ready && !(self.phase == Phase::Idle && self.is_quiet()) {
            return;
        }
        let Some(give) = self.taking.pop_front() else { return };
        if give.session != self.record.session || self.record.continuity == Continuity::Amnesia {
            return;
        }
        let newer = |index: usize| {
            give.votes[index].filter(|transfers| {
                *transfers > self.record.votes[index].transfers
                    || !self.config.rules.hold(Rule::TransfersCounted)
            })
        };
        let fresh = [newer(0), newer(1)];
        if fresh == [None, None] || !self.accepts_from(give.from) {
            self.acknowledge_votes();
            return;
        }
        let twice = |index: usize| fresh[index].is_some() && self.record.votes[index].held;
        if (twice(0) || twice(1)) && self.config.rules.hold(Rule::TransfersCounted) {
            self.out_of_turn("it gives a vote that this node holds");
            return;
        }
        let hold = self.may_hold(&give);
        let mut record = self.record.clone();
        let mut back = self.give_of(GiveFrom::Returned, self.has_stopped_reading());
        for (index, transfers) in fresh.iter().enumerate() {
            let Some(transfers) = *transfers else { continue };
            let vote = &mut record.votes[index];
            vote.held = hold;
            vote.transfers = transfers + u64::from(!hold);
            if hold && give.from == GiveFrom::Returned {
                self.returned[index] = true;
            }
            if !hold {
                back.votes[index] = Some(vote.transfers);
            }
        }
        if hold && give.token.is_some() && give.token != record.witness_token {
            record.witness_token.clone_from(&give.token);
            record.witness_won = false;
        }
        let goes_solo = self.state == State::Ready && count(&record) >= 2;
        let mut job = Job::new(Purpose::Take(Box::new(back)));
        if goes_solo {
            // Votes and Solo in one record write (2.4); the giver reads nothing any more.
            self.peer_stopped = true;
            self.fill_solo(&mut job, record);
        } else {
            job.record(record);
        }
        self.submit(job);
    }

    fn accepts_from(&self, from: GiveFrom) -> bool {
        let mine = self.record.state;
        let is_open = !matches!(self.state, State::Target | State::Broken | State::Stopped)
            && self.record.is_whole();
        let fits = match from {
            GiveFrom::Active => mine != RecordState::Virgin,
            GiveFrom::Virgin => mine == RecordState::Virgin,
            GiveFrom::Returned => matches!(mine, RecordState::Active | RecordState::Stopped),
        };
        is_open && fits
    }

    /// Whether a vote may stay here; else it goes back.
    fn may_hold(&self, give: &Give) -> bool {
        if give.from == GiveFrom::Returned {
            return true;
        }
        let refuses = self.is_stopping() && !self.has_answered_handoff;
        match self.state {
            State::Solo | State::Source => true,
            State::Ready => {
                self.record.continuity <= Continuity::ProcessRestart
                    && give.from == GiveFrom::Active
                    && give.stopped
            }
            State::Active | State::Starting | State::Deciding | State::Fenced | State::Limbo => {
                self.is_eligible() && !refuses
            }
            State::Target | State::Broken | State::Stopped => false,
        }
    }

    pub(super) fn take_done(&mut self, back: Give) {
        if self.link.is_some() && back.votes != [None, None] {
            self.send(Message::Give(back));
        } else {
            self.acknowledge_votes();
        }
        if self.record.state == RecordState::Solo && self.state == State::Ready {
            self.solo_is_durable();
        }
        self.wake_up("it has two of three votes");
    }

    fn acknowledge_votes(&mut self) {
        if self.link.is_some() {
            let session = self.record.session;
            self.send(Message::GiveAck { session, votes: self.record.votes });
        }
    }

    /// A node that had given up and holds a majority all the same goes on (2.4).
    pub(super) fn wake_up(&mut self, why: &str) {
        let asleep = matches!(self.state, State::Fenced | State::Limbo | State::Starting);
        let may = self.record.state != RecordState::Stopped || self.holds_any();
        if asleep && self.started && self.votes() >= 2 && self.is_eligible() && may {
            self.transition(State::Deciding, why);
        }
    }

    /// Neither node holds it: the one with the larger number of transfers gives it again.
    pub(super) fn give_again(&mut self) {
        let Some(peer) = self.peer_hello().cloned() else { return };
        if peer.session != self.record.session || peer.continuity == Continuity::Amnesia {
            return;
        }
        let from = match self.record.state {
            RecordState::Active | RecordState::Stopped => GiveFrom::Active,
            RecordState::Virgin => GiveFrom::Virgin,
            RecordState::Solo
            | RecordState::Target { .. }
            | RecordState::Ready
            | RecordState::Broken => GiveFrom::Returned,
        };
        let mut give = self.give_of(from, self.has_stopped_reading());
        for index in [0, 1] {
            let (mine, theirs) = (self.record.votes[index], peer.votes[index]);
            if !mine.held && !theirs.held && mine.transfers > theirs.transfers {
                give.votes[index] = Some(mine.transfers);
            }
        }
        if give.votes != [None, None] {
            self.send(Message::Give(give));
        }
    }

    /// The peer's situation is another one: what it sent back may be offered again.
    pub(super) fn forget_returned(&mut self) {
        self.returned = [false, false];
    }
}

/// Votes that count in a record.
pub(super) fn count(record: &NodeRecord) -> usize {
    let won = record.witness_won && record.witness_token.is_some();
    record.votes.iter().filter(|vote| vote.held).count() + usize::from(won)
}
