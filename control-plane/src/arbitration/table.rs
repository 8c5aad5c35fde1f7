//! What a node concludes from its own HELLO and the peer's (PROTOCOL 2.8.1), as a function of both.
//!
//! Giving up is always safe for arbitration; for the data it asks that the other copy is at least
//! as complete. Only a node that is alone already becomes the source of a join.
//! Invariants: I5, I11, I12, I13.

use base::ids::{NodeName, VolumeName};
use base::limits::{BLOCK_BYTES, GRANULE_BYTES_MAX};
use base::rules::{Rule, Rules};
use datapath::port::Scope;

use super::message::Hello;
use crate::record::{Continuity, RecordState};

/// What this node does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The two can never make a session: say why.
    Refuse(String),
    /// It is alone, and the peer can be made equal.
    BeSource(Scope),
    /// The peer is alone, or will be: wait for its SYNC_START.
    AwaitSource,
    /// All votes to the peer.
    GiveUp,
    /// No votes to give, but the peer may go on: say STOPPED.
    SayStopped,
    /// It keeps its votes and goes on if they are enough; the peer cannot win with its own.
    GoOn {
        /// The peer lost as much as this node did.
        peer_unclean_too: bool,
    },
    /// Nothing until the peer, or a person, has done something.
    Wait(String),
}

/// What a node is to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Virgin,
    Amnesia,
    Solo,
    Target,
    Ready,
    /// Was active in its session, or stopped after it.
    Member,
    Broken,
}

fn kind(x: &Hello, y: &Hello, rules: Rules) -> Kind {
    if continuity(x, y, rules) == Continuity::Amnesia {
        return Kind::Amnesia;
    }
    match x.state {
        RecordState::Virgin => Kind::Virgin,
        RecordState::Solo => Kind::Solo,
        RecordState::Target { .. } => Kind::Target,
        RecordState::Ready => Kind::Ready,
        RecordState::Active | RecordState::Stopped => Kind::Member,
        RecordState::Broken => Kind::Broken,
    }
}

/// How much of its data `x` still has, as far as the two can tell together: a node whose round is
/// smaller than the one that the other has seen was rolled back.
fn continuity(x: &Hello, y: &Hello, rules: Rules) -> Continuity {
    let older = x.volumes.iter().zip(&y.volumes).any(|(v, w)| v.round < w.peer_round);
    if older && rules.hold(Rule::RoundChecked) { Continuity::Amnesia } else { x.continuity }
}

/// Whether `x` knows the generation that `y` has, or was being made equal to.
fn knows(x: &Hello, y: &Hello) -> bool {
    let own = |g| x.generation == g || x.ancestors.contains(&g);
    match y.state {
        RecordState::Target { source_generation, .. } => {
            own(y.generation) || own(source_generation)
        }
        RecordState::Virgin
        | RecordState::Active
        | RecordState::Solo
        | RecordState::Ready
        | RecordState::Stopped
        | RecordState::Broken => own(y.generation),
    }
}

/// The table, seen from `me`.
pub(super) fn verdict(me: &Hello, peer: &Hello, rules: Rules) -> Verdict {
    let (mine, theirs) = (kind(me, peer, rules), kind(peer, me, rules));
    match (mine, theirs) {
        (Kind::Broken, _) | (_, Kind::Broken) => {
            Verdict::Refuse("a record says that split-brain was found".to_owned())
        }
        (Kind::Solo, Kind::Solo) => split_brain(),
        (Kind::Solo, Kind::Virgin | Kind::Amnesia) => Verdict::BeSource(scope(me, peer)),
        (Kind::Solo, Kind::Target | Kind::Ready | Kind::Member) => {
            if knows(me, peer) {
                Verdict::BeSource(scope(me, peer))
            } else {
                split_brain()
            }
        }
        (Kind::Virgin | Kind::Amnesia, Kind::Solo) => Verdict::AwaitSource,
        (Kind::Target | Kind::Ready | Kind::Member, Kind::Solo) => {
            if knows(peer, me) {
                Verdict::AwaitSource
            } else {
                split_brain()
            }
        }
        (Kind::Virgin, Kind::Virgin) => both_new(me, peer),
        (Kind::Virgin, _) => Verdict::Wait("it was only just initialised".to_owned()),
        (Kind::Amnesia, _) if is_lost(peer, me, rules) => nobody(me, peer),
        (Kind::Amnesia, _) => Verdict::AwaitSource,
        (_, Kind::Amnesia | Kind::Virgin) if is_lost(me, peer, rules) => nobody(me, peer),
        (Kind::Target, Kind::Target) => nobody(me, peer),
        (Kind::Target, _) => Verdict::AwaitSource,
        (Kind::Ready, Kind::Member) if is_unclean(me) && is_unclean(peer) => Verdict::SayStopped,
        (Kind::Ready, _) => Verdict::AwaitSource,
        (Kind::Member, Kind::Amnesia | Kind::Virgin | Kind::Target) => go_on(),
        (Kind::Member, Kind::Ready) => with_ready(me, peer),
        (Kind::Member, Kind::Member) => members(me, peer),
    }
}

fn go_on() -> Verdict {
    Verdict::GoOn { peer_unclean_too: false }
}

fn is_unclean(x: &Hello) -> bool {
    x.continuity == Continuity::Unclean
}

/// Whether `x` may lack what was acknowledged, and has not been alone since.
fn is_lost(x: &Hello, y: &Hello, rules: Rules) -> bool {
    continuity(x, y, rules) >= Continuity::Unclean && x.state != RecordState::Solo
}

/// Neither has been in a session: the one that was initialised with `--source`, else the smaller
/// name.
fn both_new(me: &Hello, peer: &Hello) -> Verdict {
    let wins = if me.source == peer.source { me.node < peer.node } else { me.source };
    if wins { go_on() } else { Verdict::GiveUp }
}

/// A source that was left, and its target that has everything of the session.
fn with_ready(me: &Hello, peer: &Hello) -> Verdict {
    if me.session != peer.session {
        return go_on();
    }
    match (is_unclean(me), is_unclean(peer)) {
        (true, false) => Verdict::GiveUp,
        (unclean, too) => Verdict::GoOn { peer_unclean_too: unclean && too },
    }
}

/// Both were in a session with each other, or one is a session behind.
fn members(me: &Hello, peer: &Hello) -> Verdict {
    if me.session != peer.session {
        return if me.session > peer.session { go_on() } else { Verdict::AwaitSource };
    }
    if me.generation != peer.generation {
        return split_brain();
    }
    if is_certain(me) {
        return go_on();
    }
    if is_certain(peer) {
        return Verdict::GiveUp;
    }
    if is_unclean(me) && is_unclean(peer) {
        return match (me.by_reset, peer.by_reset) {
            // Dual power loss: no copy is better than the other.
            (true, true) if me.node < peer.node => Verdict::GoOn { peer_unclean_too: true },
            (true, true) => Verdict::GiveUp,
            _ => nobody(me, peer),
        };
    }
    let gives_up = worse(me) > worse(peer) || (worse(me) == worse(peer) && me.node > peer.node);
    if gives_up { Verdict::GiveUp } else { go_on() }
}

/// It has two votes and may go on: it gives up nothing, whatever the names.
fn is_certain(x: &Hello) -> bool {
    x.votes.iter().all(|vote| vote.held) && !is_unclean(x) && !x.stopping && !x.io_failed
}

/// Of two nodes the one that should give up: what it lost, then whether it stops, then its health.
fn worse(x: &Hello) -> (bool, bool, bool, Continuity) {
    let continuity = match x.state {
        // Clean: what it had is on its disk.
        RecordState::Stopped => x.continuity.max(Continuity::ProcessRestart),
        _ => x.continuity,
    };
    (is_unclean(x) || x.io_failed, x.stopping, x.health.unhealthy, continuity)
}

fn split_brain() -> Verdict {
    Verdict::Refuse(
        "their data have no common history (split-brain, or nodes of different origin): both \
         copies are kept as they are; a person must choose one"
            .to_owned(),
    )
}

fn nobody(me: &Hello, peer: &Hello) -> Verdict {
    Verdict::Wait(format!(
        "neither {} nor {} has a copy that is known to be complete",
        me.node, peer.node
    ))
}

/// What the join has to make equal, and how; `me` is alone.
pub(super) fn scope(me: &Hello, target: &Hello) -> Scope {
    if target.io_failed {
        return Scope::Rewrite;
    }
    let empty = |h: &Hello| h.volumes.iter().all(|v| v.empty);
    if target.state == RecordState::Virgin && me.session.0 == 0 && empty(me) && empty(target) {
        return Scope::Nothing;
    }
    let predecessor = me.ancestors.first() == Some(&target.generation);
    let untouched = me.solo_io_count == 0 && !me.forced && me.clean;
    let clean = target.state == RecordState::Stopped && target.clean;
    let whole = target.continuity <= Continuity::ProcessRestart
        && me.continuity <= Continuity::ProcessRestart;
    if untouched && clean && predecessor && whole && me.session == target.session {
        Scope::Nothing
    } else {
        Scope::Everything
    }
}

/// Numbers that two nodes count up together stay below this: no honest one comes near.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

fn has_absurd_numbers(hello: &Hello) -> bool {
    let rounds = hello.volumes.iter().any(|v| v.round.max(v.peer_round) >= NUMBER_MAX);
    let transfers = hello.votes.iter().any(|vote| vote.transfers >= NUMBER_MAX);
    rounds || transfers || hello.session.0.max(hello.session_seen.0) >= NUMBER_MAX
}

/// Whether ranges can be locked in such units.
fn is_lock_unit(bytes: u32) -> bool {
    bytes.is_power_of_two() && (BLOCK_BYTES..=GRANULE_BYTES_MAX).contains(&u64::from(bytes))
}

/// Why the two can never make a session whatever happened to them; `None` if they can.
pub(super) fn mismatch(x: &Hello, y: &Hello, names: &[VolumeName]) -> Option<String> {
    let (a, b): (&NodeName, &NodeName) = (&x.node, &y.node);
    if a == b {
        return Some(format!("both nodes are called {a}: each needs a name of its own"));
    }
    if x.pair_id != y.pair_id {
        return Some(format!("{a} belongs to pair {}, {b} to pair {}", x.pair_id, y.pair_id));
    }
    if x.volumes.len() != y.volumes.len() || x.volumes.len() != names.len() {
        return Some(format!("{a} and {b} have different numbers of volumes"));
    }
    if [x, y].into_iter().any(has_absurd_numbers) {
        return Some("a session, round or transfer number is out of range".to_owned());
    }
    if x.state == RecordState::Virgin && y.state == RecordState::Virgin && x.source && y.source {
        return Some(format!("{a} and {b} were both initialised with --source"));
    }
    for ((v, w), name) in x.volumes.iter().zip(&y.volumes).zip(names) {
        let foreign = |knows: base::ids::DiskId, shows: base::ids::DiskId| {
            shows.is_none() || (!knows.is_none() && knows != shows)
        };
        if (v.volume_id, v.size, v.trim_zeroes) != (w.volume_id, w.size, w.trim_zeroes) {
            return Some(format!("volume {name} is not the same at {a} and {b}"));
        }
        if [v, w].into_iter().any(|volume| !is_lock_unit(volume.granule_bytes)) {
            return Some(format!("volume {name} is to be locked in impossible units"));
        }
        if v.disk_id == w.disk_id
            || foreign(v.peer_disk_id, w.disk_id)
            || foreign(w.peer_disk_id, v.disk_id)
        {
            return Some(format!("{a} and {b} do not know each other's disk of volume {name}"));
        }
    }
    None
}
