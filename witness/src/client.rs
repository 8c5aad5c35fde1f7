//! A node's side of the witnesses of its list: one connection to one of them, which wishes of the
//! group go over it, and what the group is told.
//!
//! Owns: which witness is in use, the connection's state, the highest counter seen of each witness's
//! run, since when it can be relied upon.
//! In: connected, lost, answers, time, wishes of the group.   Out: [`Action`]s.
//! Invariants: I14 the highest counter of a run outlives connections, and ends with the run.
//! Faults assumed: any answer, a witness that is silent, restarts, or is another one at the same
//! address; this process may have been stopped for any time.
//! Not here: votes. It repeats what it is told and decides nothing by it.

use std::collections::VecDeque;

use base::ids::{NodeName, PairId, TokenNonce, WitnessRun, WitnessToken};
use base::limits::WitnessTimers;
use base::rules::{Rule, Rules};
use base::time::{Duration, Instant};
use tracing::warn;

use crate::wire::{Answer, NOTES_MAX, Note, Question, Reply, Request, TokenState, Verdict};

#[cfg(test)]
mod tests;

/// Pause before another attempt to connect; doubles with each failure.
const PAUSE: Duration = Duration::from_millis(100);
/// Up to this.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Time for one attempt to connect.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// What does not change while a node runs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ClientConfig {
    /// The pair.
    pub pair_id: PairId,
    /// The other node of it.
    pub peer: NodeName,
    /// The witnesses by name, best first.
    pub witnesses: Vec<NodeName>,
    /// PROTOCOL 4.3.
    pub timers: WitnessTimers,
    /// Which rules hold.
    pub rules: Rules,
}

/// A token, and the witness that has made it: nobody else knows it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TokenAt {
    /// Which witness.
    pub witness: NodeName,
    /// Its token.
    pub token: WitnessToken,
}

/// What the shell is to do, in this order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Connect; answered by `handle_connected` or `handle_lost`.
    Dial {
        /// Position of the witness in the list.
        witness: usize,
        /// Names the connection.
        attempt: u64,
    },
    /// Give a connection or an attempt up; nothing more is heard of it.
    Close {
        /// Which.
        attempt: u64,
    },
    /// Send a request.
    Send {
        /// On which connection.
        attempt: u64,
        /// It.
        request: Request,
    },
    /// For the group.
    Tell(Event),
}

/// What the group is told.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// A witness answers.
    Reachable {
        /// Which.
        witness: NodeName,
        /// Its run.
        run: WitnessRun,
    },
    /// A reachable witness can be relied upon from now on: it was never lost, or was back for long.
    Stable {
        /// Which.
        witness: NodeName,
    },
    /// A witness that was reachable is not, or not the same any more.
    Lost {
        /// Which.
        witness: NodeName,
        /// How.
        why: Loss,
    },
    /// The wished token.
    Created {
        /// The wish.
        nonce: TokenNonce,
        /// The token.
        token: TokenAt,
    },
    /// The watched token's state, at first and whenever it changes.
    Token {
        /// Which.
        token: TokenAt,
        /// What its witness says.
        state: TokenState,
    },
    /// The answer to a claim, which is not repeated any more.
    Verdict {
        /// Of which token.
        token: TokenAt,
        /// What its witness says.
        verdict: Verdict,
    },
    /// The answer to `ask_who`.
    Journal {
        /// Whose.
        witness: NodeName,
        /// The newest first.
        notes: Vec<Note>,
    },
    /// A witness does not serve this node; told again when the reason is another.
    Refused {
        /// Which.
        witness: NodeName,
        /// Why, in its words.
        reason: String,
    },
}

/// How a witness was lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Loss {
    /// It was silent for T_wlost.
    Silent,
    /// It has forgotten everything.
    Restarted,
    /// It answers, but another one is asked now, because the group wishes something of that.
    Left,
}

/// A witness of the list.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Witness {
    name: NodeName,
    run: WitnessRun,
    /// The highest counter seen in that run.
    seen: u64,
    /// How long it must be back before it is stable; zero while it was never lost.
    hold: Duration,
    /// The reason that was told last.
    refused: Option<String>,
}

/// The connection to the witness in use.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Link {
    Down { dial_at: Instant },
    Dialing { attempt: u64, until: Instant },
    Up { attempt: u64, requests: u64, ping_at: Instant, asked: Vec<Asked> },
}

/// A request without an answer; of each kind there is one at most.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Asked {
    id: u64,
    at: Instant,
    question: Question,
}

/// Whether the witness in use answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Presence {
    Trying,
    Here { since: Instant, stable: bool },
}

/// What the group wants.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Wishes {
    watch: Option<TokenAt>,
    /// The state of `watch` that was told.
    watched: Option<TokenState>,
    claim: Option<TokenAt>,
    create: Option<TokenNonce>,
    notes: VecDeque<Note>,
    who: bool,
}

/// A node's side of its witnesses.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    config: ClientConfig,
    witnesses: Vec<Witness>,
    /// The one in use.
    current: usize,
    presence: Presence,
    /// When it was heard last, or first tried.
    heard: Instant,
    link: Link,
    /// Connections tried so far: each has a number of its own.
    attempts: u64,
    /// Of the attempts since a witness was heard.
    failures: u32,
    wishes: Wishes,
    actions: VecDeque<Action>,
}

impl Client {
    /// Begins with the first witness of the list.
    pub fn new(now: Instant, config: ClientConfig) -> Self {
        let witness = |name: &NodeName| Witness {
            name: name.clone(),
            run: WitnessRun::NONE,
            seen: 0,
            hold: Duration::ZERO,
            refused: None,
        };
        Self {
            witnesses: config.witnesses.iter().map(witness).collect(),
            config,
            current: 0,
            presence: Presence::Trying,
            heard: now,
            link: Link::Down { dial_at: now },
            attempts: 0,
            failures: 0,
            wishes: Wishes::default(),
            actions: VecDeque::new(),
        }
    }

    /// The witness in use; none if the list is empty.
    pub fn witness(&self) -> Option<&NodeName> {
        self.witnesses.get(self.current).map(|witness| &witness.name)
    }

    /// Whether it answers.
    pub fn is_reachable(&self) -> bool {
        matches!(self.presence, Presence::Here { .. })
    }

    /// Whether it answers and can be relied upon (T_wstable).
    pub fn is_stable(&self) -> bool {
        matches!(self.presence, Presence::Here { stable: true, .. })
    }

    /// When it answered last; none if it does not.
    pub fn heard_at(&self) -> Option<Instant> {
        self.is_reachable().then_some(self.heard)
    }

    /// From when on it can be relied upon, if it goes on answering.
    pub fn stable_at(&self) -> Option<Instant> {
        match self.presence {
            Presence::Here { since, .. } => Some(since + self.witnesses[self.current].hold),
            Presence::Trying => None,
        }
    }

    /// Wishes a new token of the witness in use, whichever that is when it can be asked; none: not
    /// any more. A nonce is used for one wish only.
    pub fn create(&mut self, now: Instant, nonce: Option<TokenNonce>) {
        self.wishes.create = nonce;
        self.hurry(now);
    }

    /// Asks for the state of this token with every ping. Its witness is used while it answers.
    pub fn watch(&mut self, now: Instant, token: Option<TokenAt>) {
        if self.wishes.watch == token {
            return;
        }
        self.wishes.watched = None;
        self.wishes.watch = token;
        if let Some(wanted) = self.wishes.watch.as_ref().map(|token| token.witness.clone()) {
            self.turn_to(now, &wanted);
        }
        self.hurry(now);
    }

    /// Claims this token until there is a verdict; none: not any more. Until then no witness but
    /// the token's own is asked.
    pub fn claim(&mut self, now: Instant, token: Option<TokenAt>) {
        if self.wishes.claim == token {
            return;
        }
        self.wishes.claim = token;
        if let Some(wanted) = self.wishes.claim.as_ref().map(|token| token.witness.clone()) {
            self.turn_to(now, &wanted);
        }
        self.hurry(now);
    }

    /// Tells the journal; of more than it keeps the oldest that was not told yet is dropped.
    pub fn note(&mut self, now: Instant, note: Note) {
        if self.wishes.notes.len() >= NOTES_MAX {
            self.wishes.notes.pop_front();
        }
        self.wishes.notes.push_back(note);
        self.hurry(now);
    }

    /// Asks for the journal.
    pub fn ask_who(&mut self, now: Instant) {
        self.wishes.who = true;
        self.hurry(now);
    }

    /// A connection is up, and its certificate is the witness's.
    pub fn handle_connected(&mut self, now: Instant, attempt: u64) {
        if matches!(self.link, Link::Dialing { attempt: dialed, .. } if dialed == attempt) {
            self.link = Link::Up { attempt, requests: 0, ping_at: now, asked: Vec::new() };
            if !self.config.rules.hold(Rule::SeenCounterKept) {
                self.witnesses[self.current].seen = 0;
            }
            self.settle(now);
        }
    }

    /// A connection ended, or an attempt failed.
    pub fn handle_lost(&mut self, now: Instant, attempt: u64) {
        if self.attempt() != Some(attempt) {
            return;
        }
        let pause = if matches!(self.link, Link::Up { .. }) && self.failures == 0 {
            Duration::ZERO
        } else {
            (PAUSE * (1 << self.failures.min(8))).min(PAUSE_MAX)
        };
        self.failures = self.failures.saturating_add(1);
        self.link = Link::Down { dial_at: now + pause };
        if self.presence == Presence::Trying {
            self.take_next();
        }
        self.settle(now);
    }

    /// An answer came on a connection.
    pub fn handle_answer(&mut self, now: Instant, attempt: u64, answer: Answer) {
        let Link::Up { attempt: up, asked, .. } = &mut self.link else { return };
        if *up != attempt {
            return;
        }
        let place = asked.iter().position(|asked| asked.id == answer.id);
        let question = place.map(|place| asked.remove(place).question);
        if let Reply::Refused { reason } = answer.reply {
            self.refused(question, reason);
        } else if !question.is_some_and(|question| self.take_answer(now, question, answer)) {
            let witness = &self.witnesses[self.current].name;
            warn!("witness {witness}: an answer to nothing that was asked; connecting again");
            self.actions.push_back(Action::Close { attempt });
            self.handle_lost(now, attempt);
        }
        self.settle(now);
    }

    /// Time passed; called at `next_deadline`, after all received answers were handed in.
    pub fn handle_time(&mut self, now: Instant) {
        if let Link::Dialing { attempt, until } = self.link
            && now >= until
        {
            self.actions.push_back(Action::Close { attempt });
            self.handle_lost(now, attempt);
        }
        if self.silent_at().is_some_and(|at| now >= at) {
            self.give_up(now);
        }
        self.settle(now);
    }

    /// When `handle_time` has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.witnesses.is_empty() {
            return None;
        }
        let link = match &self.link {
            Link::Down { dial_at } => *dial_at,
            Link::Dialing { until, .. } => *until,
            Link::Up { ping_at, asked, .. } if !asked.iter().any(Asked::is_ping) => *ping_at,
            Link::Up { .. } => Instant::NEVER,
        };
        let stable = self.stable_at().filter(|_| !self.is_stable());
        [Some(link), self.silent_at(), stable].into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Shows every instant that it holds. They are only compared with `now`, so a model may compare
    /// states by the time since or until them.
    pub fn each_instant(&mut self, mut visit: impl FnMut(&mut Instant)) {
        visit(&mut self.heard);
        if let Presence::Here { since, .. } = &mut self.presence {
            visit(since);
        }
        match &mut self.link {
            Link::Down { dial_at } => visit(dial_at),
            Link::Dialing { until, .. } => visit(until),
            Link::Up { ping_at, asked, .. } => {
                visit(ping_at);
                asked.iter_mut().for_each(|asked| visit(&mut asked.at));
            }
        }
    }

    /// Shows the counter seen of each witness, by its position in the list: only compared, with that
    /// witness's own.
    pub fn each_counter(&mut self, mut visit: impl FnMut(usize, &mut u64)) {
        let witnesses = self.witnesses.iter_mut().enumerate();
        witnesses.for_each(|(index, witness)| visit(index, &mut witness.seen));
    }

    /// Shows the numbers of connections: the next one is one more than the highest.
    pub fn each_attempt(&mut self, mut visit: impl FnMut(&mut u64)) {
        visit(&mut self.attempts);
        if let Link::Dialing { attempt, .. } | Link::Up { attempt, .. } = &mut self.link {
            visit(attempt);
        }
    }

    /// Shows the numbers of the requests on the connection that is up: the next one is one more than
    /// the highest.
    pub fn each_request(&mut self, mut visit: impl FnMut(&mut u64)) {
        if let Link::Up { requests, asked, .. } = &mut self.link {
            visit(requests);
            asked.iter_mut().for_each(|asked| visit(&mut asked.id));
        }
    }

    fn attempt(&self) -> Option<u64> {
        match &self.link {
            Link::Down { .. } => None,
            Link::Dialing { attempt, .. } | Link::Up { attempt, .. } => Some(*attempt),
        }
    }

    /// When the witness in use is given up. One that is connected must have been asked long enough:
    /// a node that was stopped itself asks again first.
    fn silent_at(&self) -> Option<Instant> {
        let WitnessTimers { ping, lost, .. } = self.config.timers;
        match &self.link {
            Link::Up { asked, .. } => {
                let oldest = asked.iter().map(|asked| asked.at).min()?;
                Some((self.heard + lost).max(oldest + (lost - ping)))
            }
            Link::Down { .. } | Link::Dialing { .. } => {
                self.is_reachable().then(|| self.heard + lost)
            }
        }
    }

    /// The witness in use was silent for too long: the next one is tried.
    fn give_up(&mut self, now: Instant) {
        self.end_presence(now, Loss::Silent);
        if self.take_next() || matches!(self.link, Link::Up { .. }) {
            self.drop_link(now);
        }
        self.heard = now;
        self.failures = 0;
    }

    /// What is told and remembered when a witness was lost.
    fn end_presence(&mut self, now: Instant, why: Loss) {
        let Presence::Here { since, .. } = self.presence else { return };
        self.presence = Presence::Trying;
        let WitnessTimers { stable, stable_max, .. } = self.config.timers;
        let witness = &mut self.witnesses[self.current];
        if why != Loss::Left {
            let trusted = now.since(since) >= stable_max;
            let doubled = if trusted { stable } else { witness.hold * 2 };
            witness.hold = doubled.clamp(stable, stable_max);
        }
        let witness = witness.name.clone();
        self.wishes.watched = None;
        self.actions.push_back(Action::Tell(Event::Lost { witness, why }));
    }

    /// Another witness is in use from now on, if there is one and no claim says which it must be.
    fn take_next(&mut self) -> bool {
        let claimed = self.wishes.claim.as_ref().and_then(|claim| self.index(&claim.witness));
        let next = claimed.unwrap_or((self.current + 1) % self.witnesses.len());
        let other = next != self.current;
        self.current = next;
        other
    }

    fn index(&self, name: &NodeName) -> Option<usize> {
        self.witnesses.iter().position(|witness| witness.name == *name)
    }

    /// The group wants something of this witness.
    fn turn_to(&mut self, now: Instant, name: &NodeName) {
        let Some(index) = self.index(name).filter(|index| *index != self.current) else { return };
        self.end_presence(now, Loss::Left);
        self.current = index;
        self.heard = now;
        self.drop_link(now);
    }

    fn drop_link(&mut self, now: Instant) {
        if let Some(attempt) = self.attempt() {
            self.actions.push_back(Action::Close { attempt });
        }
        self.link = Link::Down { dial_at: now };
    }

    /// A wish need not wait for the next ping or the next attempt.
    fn hurry(&mut self, now: Instant) {
        match &mut self.link {
            Link::Down { dial_at } => *dial_at = now,
            Link::Dialing { .. } => {}
            Link::Up { ping_at, .. } => *ping_at = now,
        }
        self.settle(now);
    }

    fn refused(&mut self, question: Option<Question>, reason: String) {
        if let Some(Question::Note(note)) = question {
            self.wishes.notes.retain(|other| *other != note);
        }
        let witness = &mut self.witnesses[self.current];
        if witness.refused.as_ref() != Some(&reason) {
            witness.refused = Some(reason.clone());
            let witness = witness.name.clone();
            self.actions.push_back(Action::Tell(Event::Refused { witness, reason }));
        }
    }

    /// Whether the answer was one to the question.
    fn take_answer(&mut self, now: Instant, question: Question, answer: Answer) -> bool {
        let Answer { run, counter, reply, .. } = answer;
        let fits = matches!(
            (&question, &reply),
            (Question::Create { .. }, Reply::Created { .. })
                | (Question::Ping { .. }, Reply::Pong(_))
                | (Question::Claim { .. }, Reply::Verdict(_))
                | (Question::Note(_), Reply::Noted)
                | (Question::Who, Reply::Journal(_))
        );
        if !fits || run.is_none() {
            return false;
        }
        self.hear(now, run, counter);
        let witness = self.witnesses[self.current].name.clone();
        match (question, reply) {
            (Question::Create { nonce }, Reply::Created { token })
                if self.wishes.create == Some(nonce) =>
            {
                self.wishes.create = None;
                let token = TokenAt { witness, token };
                self.actions.push_back(Action::Tell(Event::Created { nonce, token }));
            }
            (Question::Ping { token: Some(token) }, Reply::Pong(state)) => {
                let token = TokenAt { witness, token };
                if self.wishes.watch.as_ref() == Some(&token)
                    && self.wishes.watched.as_ref() != Some(&state)
                {
                    self.wishes.watched = Some(state.clone());
                    self.actions.push_back(Action::Tell(Event::Token { token, state }));
                }
            }
            (Question::Claim { token }, Reply::Verdict(verdict)) => {
                let token = TokenAt { witness, token };
                if self.wishes.claim.as_ref() == Some(&token) {
                    self.wishes.claim = None;
                    self.actions.push_back(Action::Tell(Event::Verdict { token, verdict }));
                }
            }
            (Question::Note(note), _) => self.wishes.notes.retain(|other| *other != note),
            (Question::Who, Reply::Journal(notes)) => {
                self.wishes.who = false;
                self.actions.push_back(Action::Tell(Event::Journal { witness, notes }));
            }
            _ => {}
        }
        true
    }

    /// The witness in use has answered.
    fn hear(&mut self, now: Instant, run: WitnessRun, counter: u64) {
        let known = self.witnesses[self.current].run;
        if known != run {
            self.end_presence(now, Loss::Restarted);
            self.witnesses[self.current].seen = 0;
        }
        let witness = &mut self.witnesses[self.current];
        witness.run = run;
        witness.seen = witness.seen.max(counter);
        witness.refused = None;
        self.heard = now;
        self.failures = 0;
        if self.presence == Presence::Trying {
            self.presence = Presence::Here { since: now, stable: false };
            let witness = witness.name.clone();
            self.actions.push_back(Action::Tell(Event::Reachable { witness, run }));
        }
    }

    /// Whatever is due now.
    fn settle(&mut self, now: Instant) {
        if self.witnesses.is_empty() {
            return;
        }
        if let Presence::Here { since, stable: false } = self.presence
            && self.stable_at().is_some_and(|at| now >= at)
        {
            self.presence = Presence::Here { since, stable: true };
            let witness = self.witnesses[self.current].name.clone();
            self.actions.push_back(Action::Tell(Event::Stable { witness }));
        }
        match self.link {
            Link::Down { dial_at } if now >= dial_at => {
                self.attempts += 1;
                let (witness, attempt) = (self.current, self.attempts);
                self.actions.push_back(Action::Dial { witness, attempt });
                self.link = Link::Dialing { attempt, until: now + DIAL_TIMEOUT };
            }
            Link::Up { ping_at, .. } if now >= ping_at => self.ask(now),
            Link::Down { .. } | Link::Dialing { .. } | Link::Up { .. } => {}
        }
        self.check_invariants();
    }

    /// Sends what is wished and has not been asked on this connection, and a ping.
    fn ask(&mut self, now: Instant) {
        let witness = &self.witnesses[self.current];
        let here = |token: &&TokenAt| token.witness == witness.name;
        let claim = self.wishes.claim.as_ref().filter(here).map(|token| token.token);
        let watch = self.wishes.watch.as_ref().filter(here).map(|token| token.token);
        let wished = [
            claim.map(|token| Question::Claim { token }),
            self.wishes.create.map(|nonce| Question::Create { nonce }),
            self.wishes.notes.front().cloned().map(Question::Note),
            self.wishes.who.then_some(Question::Who),
            Some(Question::Ping { token: watch }),
        ];
        let Link::Up { attempt, requests, ping_at, asked } = &mut self.link else { return };
        *ping_at = now + self.config.timers.ping;
        for question in wished.into_iter().flatten() {
            let like = |asked: &Asked| {
                std::mem::discriminant(&asked.question) == std::mem::discriminant(&question)
            };
            if asked.iter().any(like) {
                continue;
            }
            *requests += 1;
            let request = Request {
                id: *requests,
                pair_id: self.config.pair_id,
                peer: self.config.peer.clone(),
                run: witness.run,
                seen_counter: witness.seen,
                question: question.clone(),
            };
            asked.push(Asked { id: *requests, at: now, question });
            self.actions.push_back(Action::Send { attempt: *attempt, request });
        }
    }

    fn check_invariants(&self) {
        assert!(self.current < self.witnesses.len(), "one of the list is in use");
        let witness = &self.witnesses[self.current];
        assert!(
            !witness.run.is_none() || (witness.seen == 0 && !self.is_reachable()),
            "I14: a counter is one of a run that is known"
        );
        if let Link::Up { asked, .. } = &self.link {
            assert!(asked.len() <= 5, "of each kind one request is under way at most");
        }
    }
}

impl Asked {
    fn is_ping(&self) -> bool {
        matches!(self.question, Question::Ping { .. })
    }
}
