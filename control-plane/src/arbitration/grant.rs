//! TTL grants: the right to answer reads until a moment, and the promise not to go on alone before
//! it is over (PROTOCOL 2.5).
//!
//! Owns: what the peer granted, what was promised to it, when a grant was asked for.
//! Invariants: I6 a holder stops reading before its grantor may count the promise as over: the
//! grant counts from before its request was sent and ends by whichever of two clocks ran further;
//! the promise counts from when it was given and ends by whichever ran less. I7 nothing is granted
//! after a session was left.
//! Faults assumed: clocks that differ by their bound, stop, or jump forward; messages late or lost.

use std::collections::BTreeMap;

use base::ids::Session;
use base::rules::Rule;
use base::time::{Duration, Instant};

use super::group::{Group, Phase};
use super::message::{GrantRequest, Message};
use super::renumber::{relative, relative_past};
use super::state::State;
use super::timers::Timer;
use crate::record::RecordState;

/// Requests for a grant that are remembered, at most: all that can come back in time.
const ASKED_MAX: usize = 64;
/// What is added to a promise for the granularity of clocks (PROTOCOL 2.5.2, "1 tick").
const TICK: Duration = Duration::from_millis(1);

/// One sample of the two clocks of PROTOCOL 2.1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Moment {
    /// CLOCK_BOOTTIME: runs while the machine is suspended.
    pub time: Instant,
    /// CLOCK_MONOTONIC_RAW: is not steered.
    pub raw: Instant,
}

impl Moment {
    /// Before every sample.
    pub const ZERO: Self = Self { time: Instant::ZERO, raw: Instant::ZERO };
    /// After every sample.
    pub const NEVER: Self = Self { time: Instant::NEVER, raw: Instant::NEVER };

    fn after(self, duration: Duration) -> Self {
        Self { time: self.time + duration, raw: self.raw + duration }
    }

    /// Whether a right that lasts until here is over at `now`: by either clock.
    pub fn has_ended(self, now: Self) -> bool {
        now.time >= self.time || now.raw >= self.raw
    }

    /// Whether a promise that lasts until here is over at `now`: by both clocks.
    fn is_over(self, now: Self) -> bool {
        now.time >= self.time && now.raw >= self.raw
    }

    fn later(self, other: Self) -> Self {
        Self { time: self.time.max(other.time), raw: self.raw.max(other.raw) }
    }
}

/// The right to answer hosts, as volumes take it (PROTOCOL 2.5.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReadRight {
    /// Changes whenever the node enters or leaves a serving state or session.
    pub serve_gen: u64,
    /// The session it speaks of.
    pub session: Session,
    /// Until when.
    pub until: Moment,
}

impl ReadRight {
    /// Nobody is served.
    pub const NONE: Self = Self { serve_gen: 0, session: Session(0), until: Moment::ZERO };
}

/// As what a node serves: the serve_gen changes with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Serving {
    Nobody,
    /// As a member of this session, or what is left of its grant.
    Member(Session),
    /// Alone, since it has won the session before, or with a target in this one.
    Alone(Session),
}

/// Both directions.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Grants {
    /// Until when the peer lets this node answer reads.
    pub(super) until: Moment,
    /// The requests that may still be answered: when each was sent.
    asked: BTreeMap<u64, Moment>,
    /// Until when this node has promised not to go on alone.
    pub(super) promised: Moment,
    next_id: u64,
}

impl Grants {
    pub(super) fn new(promised: Moment) -> Self {
        Self { until: Moment::ZERO, asked: BTreeMap::new(), promised, next_id: 0 }
    }

    pub(super) fn renumber(&mut self, clock: Moment) -> AskedIds {
        let shift = self.next_id;
        self.next_id = ID_BASE;
        let asked = std::mem::take(&mut self.asked);
        self.asked = asked
            .into_iter()
            .map(|(id, sent)| (renumber_id(id, shift), relative_past(sent, clock)))
            .collect();
        let has_ended = self.until.has_ended(clock);
        self.until = if has_ended { Moment::ZERO } else { relative(self.until, clock) };
        self.promised = if self.promised.is_over(clock) {
            Moment::ZERO
        } else {
            relative(self.promised, clock)
        };
        AskedIds { shift, oldest: self.asked.keys().next().copied() }
    }
}

impl Group {
    /// What a grant of this length binds its grantor to (PROTOCOL 2.5.2 `G`).
    fn promise_for(&self, ttl: Duration) -> Duration {
        if ttl.is_zero() || !self.config.rules.hold(Rule::PromiseOutlasts) {
            return ttl;
        }
        let drift_ppm = self.record.drift_ppm;
        let (over, under) = (1_000_000 + u64::from(drift_ppm), 1_000_000 - u64::from(drift_ppm));
        let nanos = u64::try_from(ttl.as_nanos()).expect("a grant is short");
        Duration::from_nanos(nanos.saturating_mul(over).div_ceil(under)) + TICK
    }

    /// A restarted process behaves as if it had granted at its start (2.5.2).
    pub(super) fn promise_at_start(&mut self) {
        let ttl = Duration::from_millis(u64::from(self.record.grant_ttl_max_ms));
        let promise = self.promise_for(ttl);
        if self.config.rules.hold(Rule::PromiseRemembered) {
            self.grants.promised = self.clock.after(promise);
        }
    }

    /// The session in which this node takes part and may give and use grants.
    pub(super) fn member_session(&self) -> Option<Session> {
        match (self.state, &self.phase) {
            (State::Active, Phase::Idle) => Some(self.record.session),
            // From AA_GO on the source answers (2.8.2 step 5).
            (State::Source, Phase::Joining(join)) if join.has_said_go() => Some(join.session),
            _ => None,
        }
    }

    /// Part of `settle`: asks for a grant, or shows a sign of life.
    pub(super) fn settle_ask(&mut self) {
        if !self.ask_due || self.link.is_none() {
            return;
        }
        self.ask_due = false;
        let now = self.clock;
        self.timers.set(Timer::Ask, now.time + self.timings().grant_interval);
        // A pause of this node itself is no silence of the peer.
        let suspect = self.timers.at(Timer::Suspect);
        let heard = (now.time + self.timings().suspect_after).since(suspect);
        self.grants.next_id += 1;
        let id = self.grants.next_id;
        if self.member_session().is_some() {
            // t_req is from before the request is sent.
            let ttl = self.grant_ttl();
            self.grants.asked.retain(|_, sent| !sent.after(ttl).has_ended(now));
            self.grants.asked.insert(id, now);
            while self.grants.asked.len() > ASKED_MAX {
                self.grants.asked.pop_first();
            }
        }
        let request = GrantRequest {
            session: self.member_session().unwrap_or(self.record.session),
            id,
            incarnation: self.record.incarnation,
            heard_ms: u32::try_from(heard.as_millis()).unwrap_or(u32::MAX),
            serving: self.is_serving(),
            health: self.health,
        };
        self.send(Message::GrantReq(request));
    }

    pub(super) fn on_grant_request(&mut self, request: GrantRequest) {
        self.peer_health = request.health;
        let heard = Duration::from_millis(u64::from(request.heard_ms));
        let mut in_session = self.member_session() == Some(request.session);
        if !self.config.rules.hold(Rule::GrantInSession) {
            // Broken on purpose: granted while deciding, and without a promise.
            in_session |= self.state == State::Deciding && self.record.session == request.session;
        }
        let both_ways = heard <= self.timings().suspect_after / 2;
        let ttl = self.grant_ttl();
        if !in_session || !both_ways || ttl.is_zero() || self.is_giving_all() {
            return;
        }
        assert!(
            self.record.grant_ttl_max_ms >= u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX),
            "F12: the length of a grant is durable before it is given"
        );
        // The promise first, then the word.
        let promise = self.promise_for(ttl);
        if self.member_session().is_some() {
            self.grants.promised = self.grants.promised.later(self.clock.after(promise));
        }
        self.send(Message::Grant { session: request.session, id: request.id });
    }

    pub(super) fn on_grant(&mut self, session: Session, id: u64) {
        let Some(sent) = self.grants.asked.remove(&id) else { return };
        if self.member_session() != Some(session) {
            return;
        }
        // Those before it bring less.
        self.grants.asked = self.grants.asked.split_off(&id);
        let from = if self.config.rules.hold(Rule::GrantFromRequest) { sent } else { self.clock };
        self.grants.until = self.grants.until.later(from.after(self.grant_ttl()));
    }

    /// Nothing of the session's grants is left, in either direction but for the promise.
    pub(super) fn forget_grants(&mut self) {
        self.grants.until = Moment::ZERO;
        self.grants.asked.clear();
    }

    fn grant_ttl(&self) -> Duration {
        self.timings().grant_ttl
    }

    /// Whether nothing binds this node to the peer any more.
    pub(super) fn is_promise_over(&self) -> bool {
        self.peer_stopped
            || self.grants.promised.is_over(self.clock)
            || !self.config.rules.hold(Rule::PromiseKept)
    }

    /// As what this node serves now.
    fn serving(&self) -> Serving {
        match self.state {
            State::Solo | State::Source if self.is_open_alone => Serving::Alone(self.alone_session),
            State::Active | State::Deciding if self.member_of == Some(self.record.session) => {
                Serving::Member(self.record.session)
            }
            _ => Serving::Nobody,
        }
    }

    /// Until when reads may be answered (PROTOCOL 2.5.3 `usable`).
    fn read_until(&self, serving: Serving) -> Moment {
        match serving {
            Serving::Nobody => Moment::ZERO,
            Serving::Alone(_) => {
                let alone = self.record.state == RecordState::Solo || self.state == State::Source;
                assert!(alone, "F4: Solo is durable before the first operation alone");
                Moment::NEVER
            }
            Serving::Member(_) if self.is_gate_dropped => Moment::ZERO,
            // Nobody else can win.
            Serving::Member(_) if self.holds_both() && !self.is_narrowed => Moment::NEVER,
            Serving::Member(_)
                if self.config.dials() && !self.config.rules.hold(Rule::GrantForAll) =>
            {
                Moment::NEVER
            }
            Serving::Member(_) if self.grants.until.has_ended(self.clock) => Moment::ZERO,
            Serving::Member(_) => self.grants.until,
        }
    }

    /// Part of `settle`: publishes what has changed.
    pub(super) fn settle_gate(&mut self) {
        let serving = self.serving();
        let mut right = self.right;
        if serving != self.serving_as {
            self.serving_as = serving;
            right.serve_gen += 1;
            right.session = match serving {
                Serving::Nobody => right.session,
                Serving::Member(session) | Serving::Alone(session) => session,
            };
        }
        right.until = self.read_until(serving);
        if right.until != Moment::NEVER && right.until != Moment::ZERO {
            self.timers.set(
                Timer::Lapse,
                right.until.time.min(self.clock.time + self.raw_left(right.until)),
            );
        }
        if right != self.right {
            self.right = right;
            self.actions.push_back(super::port::Action::PublishGate(right));
        }
    }

    fn raw_left(&self, until: Moment) -> Duration {
        until.raw.since(self.clock.raw)
    }

    /// Whether hosts are served.
    pub(super) fn is_serving(&self) -> bool {
        self.right.until != Moment::ZERO
    }

    /// The last answer to a read of this session has been given: STOPPED may be said.
    pub(super) fn has_stopped_reading(&self) -> bool {
        self.read_until(self.serving()) == Moment::ZERO
    }
}

/// The newest id of a renumbered node.
const ID_BASE: u64 = 1000;

fn renumber_id(id: u64, shift: u64) -> u64 {
    id + ID_BASE - shift
}

/// How the ids of a node's requests were renumbered.
#[derive(Clone, Copy, Debug, Default)]
pub struct AskedIds {
    shift: u64,
    oldest: Option<u64>,
}

impl AskedIds {
    /// The number of one that is under way; all that mean nothing any more are one.
    pub(super) fn renumber(self, id: u64) -> u64 {
        let id = renumber_id(id.max(self.shift.saturating_sub(ID_BASE)), self.shift);
        if self.oldest.is_some_and(|oldest| id >= oldest) { id } else { 0 }
    }
}

/// When a promise may be looked at again.
pub(super) fn look_again(promised: Moment, now: Moment) -> Instant {
    let raw = promised.raw.since(now.raw);
    promised.time.max(now.time + raw)
}
