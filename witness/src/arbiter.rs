//! The witness itself: who was first to claim a token, and nothing else (PROTOCOL 2.9.1).
//!
//! Owns: the run, and of each group its counter, its token and who has it.
//! In: requests of nodes whose certificates were checked, time, a new run.   Out: one [`Answer`] for
//! each request, [`Event`]s for the log.
//! Invariants: I4 a token of this run is won by at most one node, and one of another run by nobody;
//! I14 a witness that was rolled back grants nothing of what it had; I15 a group's token is touched
//! by its two nodes only.
//! Faults assumed: any request, late, repeated or out of order; the process may end at any moment
//! and forgets everything; its memory may be set back to what it was (a snapshot with RAM).
//! Not here: certificates and connections (`io`); the journal of the disk, from which nothing is
//! ever decided (`journal`).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use base::ids::{NodeName, PairId, TokenNonce, WitnessRun, WitnessToken};
use base::limits::{
    WITNESS_GROUP_SILENT, WITNESS_GROUPS_MAX, WITNESS_NODE_GROUPS_MAX, WITNESS_TOKEN_AGE,
};
use base::rules::{Rule, Rules};
use base::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_128;

use crate::journal::Journal;
use crate::wire::{Answer, COUNTER_MAX, Note, Question, Reply, Request, TokenState, Verdict};

#[cfg(test)]
mod tests;

/// Wishes of a group that are remembered, so that a late repetition makes no new token.
const NONCES_MAX: usize = 4;
/// Time between two looks for what is not used any more.
const SWEEP: Duration = Duration::from_secs(600);

/// A pair as the witness knows it: its id and the names of both nodes. A node of another pair cannot
/// name this one: the asking node's own name comes from its certificate.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId {
    pair_id: PairId,
    /// The smaller name first.
    nodes: [NodeName; 2],
}

impl GroupId {
    /// The group of these two nodes; none if they have one name.
    pub fn new(pair_id: PairId, node: NodeName, peer: NodeName) -> Option<Self> {
        match node.cmp(&peer) {
            std::cmp::Ordering::Less => Some(Self { pair_id, nodes: [node, peer] }),
            std::cmp::Ordering::Greater => Some(Self { pair_id, nodes: [peer, node] }),
            std::cmp::Ordering::Equal => None,
        }
    }

    /// The pair's id.
    pub fn pair_id(&self) -> PairId {
        self.pair_id
    }

    /// Its nodes, the smaller name first.
    pub fn nodes(&self) -> &[NodeName; 2] {
        &self.nodes
    }

    /// Which of the two; none of them if it is of another group.
    fn index(&self, node: &NodeName) -> Option<usize> {
        self.nodes.iter().position(|name| name == node)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.pair_id, self.nodes[0], self.nodes[1])
    }
}

/// What is known of a group.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Group {
    /// Counts its messages.
    counter: u64,
    /// The highest counter that each node was told.
    told: [u64; 2],
    heard: Instant,
    token: Option<Token>,
    /// The newest last.
    made: Vec<(TokenNonce, WitnessToken)>,
    /// The last verdict of each node that is in the log: a claim is repeated until it is answered.
    logged: [Option<(WitnessToken, Verdict)>; 2],
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Token {
    id: WitnessToken,
    decided: Option<NodeName>,
    created: Instant,
    asked: Instant,
}

/// Something for the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// Everything before is forgotten.
    RunBegun {
        /// The new run.
        run: WitnessRun,
        /// Why.
        cause: RunCause,
    },
    /// A node asked for a token.
    Created {
        /// For this group.
        group: GroupId,
        /// Which node.
        node: NodeName,
        /// The token.
        token: WitnessToken,
    },
    /// A node claimed a token; once for each node, token and verdict.
    Claimed {
        /// Its group.
        group: GroupId,
        /// Which node.
        node: NodeName,
        /// The token.
        token: WitnessToken,
        /// What it was told.
        verdict: Verdict,
    },
    /// A node has seen what this witness has not told it: its memory went back in time.
    RolledBack {
        /// The group, whose token was forgotten.
        group: GroupId,
        /// The node that knows more.
        node: NodeName,
        /// What it has seen.
        seen: u64,
        /// What it was told as far as the witness knows.
        told: u64,
    },
    /// A token is forgotten because nobody asked about it.
    Forgotten {
        /// Its group.
        group: GroupId,
        /// The token.
        token: WitnessToken,
        /// How old it was.
        age: Duration,
    },
    /// A node told that it went on alone.
    Noted {
        /// Its group.
        group: GroupId,
        /// Which node.
        node: NodeName,
        /// What it told.
        note: Note,
    },
}

/// Why a run began.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RunCause {
    /// The process has started.
    Start,
    /// The virtual machine says that it is a copy or was set back.
    GenerationChanged,
}

/// The witness.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Arbiter {
    run: WitnessRun,
    groups: BTreeMap<GroupId, Group>,
    journal: Journal,
    /// When to look next for what is not used any more.
    sweep_at: Instant,
    events: VecDeque<Event>,
    rules: Rules,
}

impl Arbiter {
    /// One that knows nothing, with a run that was never used before (128 random bits). The
    /// journal is what earlier runs have kept.
    pub fn new(now: Instant, run: WitnessRun, journal: Journal, rules: Rules) -> Self {
        let events = VecDeque::from([Event::RunBegun { run, cause: RunCause::Start }]);
        let sweep_at = now + SWEEP;
        Self { run, groups: BTreeMap::new(), journal, sweep_at, events, rules }
    }

    /// This run.
    pub fn run(&self) -> WitnessRun {
        self.run
    }

    /// Groups that it knows.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Tokens that it knows.
    pub fn token_count(&self) -> usize {
        self.groups.values().filter(|group| group.token.is_some()).count()
    }

    /// The memory of this machine may be a copy, or an older one: everything is forgotten.
    pub fn handle_generation_change(&mut self, run: WitnessRun) {
        assert_ne!(run, self.run, "I4: a run is never used again");
        self.run = run;
        if self.rules.hold(Rule::TokensDieWithRun) {
            self.groups.clear();
        }
        self.events.push_back(Event::RunBegun { run, cause: RunCause::GenerationChanged });
    }

    /// Answers `node`, which its certificate names. `random` is 128 bits that nobody can guess, new
    /// for each call; CREATE alone needs them.
    pub fn handle_request(
        &mut self,
        now: Instant,
        node: &NodeName,
        request: &Request,
        random: [u8; 16],
    ) -> Answer {
        let Request { id, pair_id, peer, .. } = request;
        let answer = |counter, reply| Answer { id: *id, run: self.run, counter, reply };
        let Some(group_id) = GroupId::new(*pair_id, node.clone(), peer.clone()) else {
            let reason = format!("{node} names itself as its peer: look at its [peer] name");
            return answer(0, Reply::Refused { reason });
        };
        if let Err(reason) = self.make_room(now, &group_id) {
            return Answer { id: *id, run: self.run, counter: 0, reply: Reply::Refused { reason } };
        }
        let Some(index) = group_id.index(node) else {
            panic!("I15: {node} is not of its own group {group_id}");
        };
        let known = self.groups.remove(&group_id);
        let mut group = known.unwrap_or_else(|| Group::new(now));
        self.notice_rollback(&group_id, &mut group, index, request);
        self.forget_old(now, &group_id, &mut group);
        // Every counter is below this by one at least: `seen` is checked where it is read.
        group.counter = (group.counter + 1).min(COUNTER_MAX);
        group.heard = now;
        let reply = match &request.question {
            Question::Create { nonce } => {
                self.create(now, &group_id, &mut group, node, *nonce, random)
            }
            Question::Ping { token } => Reply::Pong(group.ping(now, *token)),
            Question::Claim { token } => {
                let verdict = self.claim(now, &mut group, node, *token);
                self.log_claim(&group_id, &mut group, index, *token, &verdict);
                Reply::Verdict(verdict)
            }
            Question::Note(note) => self.note(&group_id, node, note),
            Question::Who => Reply::Journal(self.journal.newest(&group_id)),
        };
        let counter = group.counter;
        group.told[index] = counter;
        self.groups.insert(group_id, group);
        Answer { id: *id, run: self.run, counter, reply }
    }

    /// It is `now`: forgets what nobody uses.
    pub fn handle_time(&mut self, now: Instant) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now + SWEEP;
        let silent = |group: &Group| now.since(group.heard) > WITNESS_TOKEN_AGE;
        let old: Vec<GroupId> = self
            .groups
            .iter()
            .filter(|(_, group)| silent(group) || group.is_forgotten(now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in old {
            let mut group = self.groups.remove(&id).expect("it was there");
            self.forget_old(now, &id, &mut group);
            if !silent(&group) {
                self.groups.insert(id, group);
            }
        }
    }

    /// When [`Self::handle_time`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        Some(self.sweep_at)
    }

    /// The next thing for the log.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Shows every instant that it holds. They are only compared with `now`, so a model may compare
    /// states by the time since them.
    pub fn each_instant(&mut self, mut visit: impl FnMut(&mut Instant)) {
        visit(&mut self.sweep_at);
        for group in self.groups.values_mut() {
            visit(&mut group.heard);
            if let Some(token) = &mut group.token {
                visit(&mut token.created);
                visit(&mut token.asked);
            }
        }
    }

    /// Shows every counter of messages. The next one is one more than the highest, and otherwise
    /// they are only compared, with each other and with what nodes have seen: a model may number them
    /// anew as long as their order stays.
    pub fn each_counter(&mut self, mut visit: impl FnMut(&GroupId, &mut u64)) {
        for (id, group) in &mut self.groups {
            visit(id, &mut group.counter);
            group.told.iter_mut().for_each(|told| visit(id, told));
        }
    }

    /// Whether there is room for the group. A silent one may have to go for it: its nodes find
    /// that nothing is known of their token, and agree on another.
    fn make_room(&mut self, now: Instant, id: &GroupId) -> Result<(), String> {
        if self.groups.contains_key(id) {
            return Ok(());
        }
        for name in &id.nodes {
            let of_node = |group: &GroupId| group.nodes.contains(name);
            self.make_room_among(now, of_node, WITNESS_NODE_GROUPS_MAX).map_err(|count| {
                format!("{count} pairs of a node {name} are here; one witness takes no more")
            })?;
        }
        self.make_room_among(now, |_| true, WITNESS_GROUPS_MAX)
            .map_err(|count| format!("{count} pairs are here; one witness takes no more"))
    }

    fn make_room_among(
        &mut self,
        now: Instant,
        counts: impl Fn(&GroupId) -> bool,
        max: usize,
    ) -> Result<(), usize> {
        let among = || self.groups.iter().filter(|(id, _)| counts(id));
        let count = among().count();
        if count < max {
            return Ok(());
        }
        let (id, group) = among().min_by_key(|(_, group)| group.heard).expect("there are some");
        if now.since(group.heard) < WITNESS_GROUP_SILENT {
            return Err(count);
        }
        let id = id.clone();
        self.groups.remove(&id);
        Ok(())
    }

    /// I14. The counter that a node was told is compared, not the group's: the other node's
    /// messages do not hide that this one's are missing.
    fn notice_rollback(
        &mut self,
        id: &GroupId,
        group: &mut Group,
        index: usize,
        request: &Request,
    ) {
        let (seen, told) = (request.seen_counter, group.told[index]);
        if request.run != self.run || seen <= told || !self.rules.hold(Rule::RollbackNoticed) {
            return;
        }
        let forgotten = group.counter == 0;
        group.token = None;
        group.made.clear();
        group.counter = group.counter.max(seen);
        if forgotten {
            // It was silent for long: that its numbers begin again is no sign of anything.
            return;
        }
        let (group, node) = (id.clone(), id.nodes[index].clone());
        self.events.push_back(Event::RolledBack { group, node, seen, told });
    }

    fn forget_old(&mut self, now: Instant, id: &GroupId, group: &mut Group) {
        if !group.is_forgotten(now) {
            return;
        }
        let Some(token) = group.token.take() else { return };
        group.made.clear();
        let (age, token) = (now.since(token.created), token.id);
        self.events.push_back(Event::Forgotten { group: id.clone(), token, age });
    }

    fn create(
        &mut self,
        now: Instant,
        id: &GroupId,
        group: &mut Group,
        node: &NodeName,
        nonce: TokenNonce,
        random: [u8; 16],
    ) -> Reply {
        if let Some((_, token)) = group.made.iter().find(|(made, _)| *made == nonce) {
            return Reply::Created { token: *token };
        }
        let token = self.new_token(id, nonce, random);
        if group.made.len() >= NONCES_MAX {
            group.made.remove(0);
        }
        group.made.push((nonce, token));
        group.token = Some(Token { id: token, decided: None, created: now, asked: now });
        let (group, node) = (id.clone(), node.clone());
        self.events.push_back(Event::Created { group, node, token });
        Reply::Created { token }
    }

    /// Nobody can guess it, because of `random`; and if that should ever repeat, it is still of
    /// this run, group and wish only.
    fn new_token(&self, id: &GroupId, nonce: TokenNonce, random: [u8; 16]) -> WitnessToken {
        let [a, b] = &id.nodes;
        let parts =
            [&self.run.0[..], &random, &nonce.0, &id.pair_id.0, &a.to_field(), &b.to_field()];
        let token = WitnessToken(xxh3_128(&parts.concat()).to_le_bytes());
        assert!(!token.is_none(), "I4: a token is not the sign for none");
        token
    }

    fn claim(
        &mut self,
        now: Instant,
        group: &mut Group,
        node: &NodeName,
        token: WitnessToken,
    ) -> Verdict {
        let mut found = group.token.as_mut().filter(|known| known.id == token);
        if found.is_none() && !self.rules.hold(Rule::TokenOfItsGroup) {
            let mut all = self.groups.values_mut().filter_map(|group| group.token.as_mut());
            found = all.find(|known| known.id == token);
        }
        let Some(known) = found else { return Verdict::Unknown };
        known.asked = now;
        let verdict = match &known.decided {
            Some(winner) if winner != node && self.rules.hold(Rule::FirstClaimDecides) => {
                Verdict::Lost { winner: winner.clone() }
            }
            _ => Verdict::Won,
        };
        if verdict == Verdict::Won {
            assert!(
                known.decided.as_ref().is_none_or(|winner| winner == node)
                    || !self.rules.hold(Rule::FirstClaimDecides),
                "I4: {token} is {:?}'s already, not {node}'s",
                known.decided
            );
            known.decided = Some(node.clone());
        }
        verdict
    }

    fn log_claim(
        &mut self,
        id: &GroupId,
        group: &mut Group,
        index: usize,
        token: WitnessToken,
        verdict: &Verdict,
    ) {
        let logged = Some((token, verdict.clone()));
        if group.logged[index] == logged {
            return;
        }
        group.logged[index] = logged;
        let (group, node) = (id.clone(), id.nodes[index].clone());
        self.events.push_back(Event::Claimed { group, node, token, verdict: verdict.clone() });
    }

    fn note(&mut self, id: &GroupId, node: &NodeName, note: &Note) -> Reply {
        if id.index(&note.winner).is_none() {
            let reason = format!("{} is not one of the pair {id}", note.winner);
            return Reply::Refused { reason };
        }
        if self.journal.add(id, note.clone()) {
            let (group, node, note) = (id.clone(), node.clone(), note.clone());
            self.events.push_back(Event::Noted { group, node, note });
        }
        Reply::Noted
    }
}

impl Group {
    fn new(now: Instant) -> Self {
        Self {
            counter: 0,
            told: [0; 2],
            heard: now,
            token: None,
            made: Vec::new(),
            logged: [const { None }; 2],
        }
    }

    fn ping(&mut self, now: Instant, token: Option<WitnessToken>) -> TokenState {
        let known = self.token.as_mut().filter(|known| Some(known.id) == token);
        let Some(known) = known else { return TokenState::Unknown };
        known.asked = now;
        known.decided.clone().map_or(TokenState::Open, TokenState::Decided)
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        self.token.as_ref().is_some_and(|token| now.since(token.asked) > WITNESS_TOKEN_AGE)
    }
}
