//! What two nodes conclude from their two HELLOs (PROTOCOL 2.8.1, the rows that need no votes).
//!
//! Every function here is symmetric: both nodes apply it to the same two messages and come to the
//! same answer, whoever is `x` and whoever is `y`.
//! Invariants: I5, I11, I12, I13; P6 as far as a target is never a source.

use base::ids::{NodeName, VolumeName};
use base::limits::{BLOCK_BYTES, GRANULE_BYTES_MAX};
use base::rules::{Rule, Rules};
use datapath::port::Scope;

use crate::record::{Continuity, RecordState};
use crate::wire::{Hello, VolumeHello};

/// Numbers that two nodes count up together stay below this: no honest one comes near.
const NUMBER_MAX: u64 = 1 << 62;

/// Who is the source of the join.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Choice {
    /// This node; the other becomes the target.
    Source(NodeName),
    /// Nobody may be: for each node the reason, and what is safe.
    Nobody {
        /// What happened.
        cause: String,
        /// What to do.
        advice: String,
    },
}

/// What is to be done where a node cannot become right by itself.
const BEGIN_ANEW: &str = "docs/OPERATIONS.md, \"Replacing a node, or both of its records\", says how \
                          the pair begins anew with the image that is good";

/// Why the two can never make a session, in words; `None` if they can. `names` are those of the
/// volumes, in order.
pub(super) fn refusal(x: &Hello, y: &Hello, names: &[VolumeName]) -> Option<String> {
    let (x, y) = if x.node <= y.node { (x, y) } else { (y, x) };
    let (a, b) = (&x.node, &y.node);
    if a == b {
        return Some(format!("both nodes are called {a}: each needs a name of its own"));
    }
    if x.pair_id != y.pair_id {
        return Some(format!(
            "{a} belongs to pair {}, {b} to pair {}: {}",
            x.pair_id,
            y.pair_id,
            init_again("its [pair] id"),
        ));
    }
    if x.volumes.len() != y.volumes.len() {
        return Some(format!(
            "{a} has {} volumes, {b} has {}: {}",
            x.volumes.len(),
            y.volumes.len(),
            init_again("its [[volume]] list"),
        ));
    }
    if [x, y].into_iter().any(has_absurd_numbers) {
        return Some("a session or round number is out of range".to_owned());
    }
    if [x, y].into_iter().any(|h| h.state == RecordState::Broken) {
        return Some("a record says that split-brain was found: a person must decide".to_owned());
    }
    if x.state == RecordState::Virgin && y.state == RecordState::Virgin && x.source && y.source {
        return Some(format!(
            "{a} and {b} were both initialised with --source, only one of them can be right: stop \
             the other one, move its record folders and .meta files away, and run `stretch init` \
             there again without --source ({BEGIN_ANEW})"
        ));
    }
    for (index, (v, w)) in x.volumes.iter().zip(&y.volumes).enumerate() {
        let name = names.get(index).map_or("?", VolumeName::as_str);
        if let Some(reason) = volume_refusal(name, a, v, b, w) {
            return Some(reason);
        }
    }
    (!related(x, y)).then(|| {
        format!(
            "the data of {a} and {b} have no common history (split-brain, or nodes of different \
             origin): both copies are kept as they are; a person must choose one; {BEGIN_ANEW}"
        )
    })
}

/// For a node that never served with this pair: `init` makes no record over an old one.
fn init_again(mend: &str) -> String {
    format!(
        "both must be equal; at the node that is wrong: stop it, correct {mend}, move its record \
         folders and .meta files away, and run `stretch init` again ({BEGIN_ANEW})"
    )
}

fn has_absurd_numbers(hello: &Hello) -> bool {
    let rounds = hello.volumes.iter().any(|v| v.round.max(v.peer_round) >= NUMBER_MAX);
    rounds || hello.session.0.max(hello.session_seen.0) >= NUMBER_MAX
}

fn volume_refusal(
    name: &str,
    a: &NodeName,
    x: &VolumeHello,
    b: &NodeName,
    y: &VolumeHello,
) -> Option<String> {
    if x.volume_id != y.volume_id {
        return Some(format!(
            "volume {name} is {} at {a} and {} at {b}: volume ids and their order: {}",
            x.volume_id,
            y.volume_id,
            init_again("its [[volume]] list"),
        ));
    }
    if x.size != y.size {
        return Some(format!(
            "volume {name} has {} bytes at {a} and {} bytes at {b}: {}",
            x.size,
            y.size,
            init_again("the size (its image, if blank, has to go, too)"),
        ));
    }
    if x.trim_zeroes != y.trim_zeroes {
        return Some(format!(
            "TRIM of volume {name} means one thing at {a} and another at {b}: both nodes need \
             the same version of stretch"
        ));
    }
    if [x, y].into_iter().any(|v| !is_lock_unit(v.granule_bytes)) {
        return Some(format!(
            "volume {name} is to be locked in units of {} bytes at {a} and of {} bytes at {b}: \
             both nodes need the same version of stretch",
            x.granule_bytes, y.granule_bytes
        ));
    }
    if x.disk_id == y.disk_id {
        return Some(format!(
            "{a} and {b} carry the same disk id for volume {name}: one folder is a copy of the \
             other; {BEGIN_ANEW}"
        ));
    }
    let foreign = |knows: &VolumeHello, shows: &VolumeHello| {
        shows.disk_id.is_none()
            || (!knows.peer_disk_id.is_none() && knows.peer_disk_id != shows.disk_id)
    };
    let strange = |who: &NodeName, disk, other: &NodeName| {
        format!(
            "{who} shows disk {disk} for volume {name}, which {other} does not know: {who} was \
             initialised again, replaced, or lost its .meta file; put back a backup of {who}'s \
             whole folder; else {BEGIN_ANEW}"
        )
    };
    if foreign(y, x) {
        return Some(strange(a, x.disk_id, b));
    }
    foreign(x, y).then(|| strange(b, y.disk_id, a))
}

/// Whether ranges can be locked in such units. Two nodes with different ones use the larger.
fn is_lock_unit(bytes: u32) -> bool {
    bytes.is_power_of_two() && (BLOCK_BYTES..=GRANULE_BYTES_MAX).contains(&u64::from(bytes))
}

/// Whether one copy descends from the other. A node that knows nothing of its own copy, or never
/// had one, is related to everybody: it is only ever overwritten.
fn related(x: &Hello, y: &Hello) -> bool {
    let blank = |h: &Hello| h.state == RecordState::Virgin || h.continuity == Continuity::Amnesia;
    let knows = |h: &Hello, other: &Hello| {
        let own = |g| h.generation == g || h.ancestors.contains(&g);
        match other.state {
            RecordState::Target { source_generation, .. } => {
                own(other.generation) || own(source_generation)
            }
            RecordState::Virgin
            | RecordState::Active
            | RecordState::Solo
            | RecordState::Ready
            | RecordState::Stopped
            | RecordState::Broken => own(other.generation),
        }
    };
    blank(x) || blank(y) || knows(x, y) || knows(y, x)
}

/// How much of its data `x` still has, as far as the two can tell together: a node whose round is
/// smaller than the one that the other has seen was rolled back.
fn continuity(x: &Hello, y: &Hello, rules: Rules) -> Continuity {
    let older = x.volumes.iter().zip(&y.volumes).any(|(v, w)| v.round < w.peer_round);
    if older && rules.hold(Rule::RoundChecked) { Continuity::Amnesia } else { x.continuity }
}

/// Why `x` may not be the source of a join with `y`, in words; `None` if it may.
fn disqualified(x: &Hello, y: &Hello, rules: Rules) -> Option<&'static str> {
    let target = matches!(x.state, RecordState::Target { .. });
    if target && rules.hold(Rule::TargetNeverSource) {
        return Some("is the target of an unfinished resync");
    }
    if continuity(x, y, rules) == Continuity::Amnesia {
        return Some("has a record or data that was lost, replaced or rolled back");
    }
    if x.state == RecordState::Virgin && y.state != RecordState::Virgin && !is_first_join(x, y) {
        return Some("was only just initialised");
    }
    None
}

/// The first join of all was cut off: its source `x` is still new, its target `y` has begun to be
/// overwritten with that very data, or has all of it. No host was ever served.
fn is_first_join(x: &Hello, y: &Hello) -> bool {
    match y.state {
        RecordState::Target { source_generation, .. } => source_generation == x.generation,
        RecordState::Ready => y.generation == x.generation,
        RecordState::Virgin
        | RecordState::Active
        | RecordState::Solo
        | RecordState::Stopped
        | RecordState::Broken => false,
    }
}

/// Who is the source. Both HELLOs have passed [`refusal`].
pub(super) fn choose_source(x: &Hello, y: &Hello, rules: Rules) -> Choice {
    let (x, y) = if x.node <= y.node { (x, y) } else { (y, x) };
    if !rules.hold(Rule::SourceByRecord) {
        return Choice::Source(x.node.clone());
    }
    match (disqualified(x, y, rules), disqualified(y, x, rules)) {
        (None, Some(_)) => Choice::Source(x.node.clone()),
        (Some(_), None) => Choice::Source(y.node.clone()),
        (Some(why_x), Some(why_y)) => nobody(x, why_x, y, why_y),
        (None, None) => {
            let better = if is_better(y, x) { y } else { x };
            Choice::Source(better.node.clone())
        }
    }
}

fn nobody(x: &Hello, why_x: &str, y: &Hello, why_y: &str) -> Choice {
    Choice::Nobody {
        cause: format!(
            "nobody serves: {} {why_x}, {} {why_y}; neither copy may be copied over the other",
            x.node, y.node
        ),
        advice: "both copies are kept as they are; safe: stop both nodes, bring back the right \
                 data file or record of one of them (a backup of the whole folder), start again"
            .to_owned(),
    }
}

/// Whether `y` is to be the source rather than `x`, which has the smaller name. Both may be.
fn is_better(y: &Hello, x: &Hello) -> bool {
    if x.state == RecordState::Virgin && y.state == RecordState::Virgin {
        return y.source && !x.source;
    }
    if x.session != y.session {
        return y.session > x.session;
    }
    // What a disk refused was never acknowledged; a machine that was reset may lack what was.
    let lost = |h: &Hello| (h.continuity, h.by_reset, h.io_failed);
    lost(y) < lost(x)
}

/// What the join has to make equal, and how.
pub(super) fn scope(source: &Hello, target: &Hello, rules: Rules) -> Scope {
    if target.io_failed && rules.hold(Rule::FailedCopyRewritten) {
        return Scope::Rewrite;
    }
    let (x, y) = (source, target);
    let trusted = |a, b| continuity(a, b, rules) <= Continuity::ProcessRestart && !a.io_failed;
    if !trusted(x, y) || !trusted(y, x) {
        return Scope::Everything;
    }
    let both_new = [x, y]
        .into_iter()
        .all(|h| h.state == RecordState::Virgin && h.volumes.iter().all(|v| v.empty));
    let both_clean = is_clean(x) && is_clean(y) && agree(x, y);
    // Broken on purpose: one record that says clean is taken for both.
    let clean = both_clean || (!rules.hold(Rule::CleanMeansBoth) && (is_clean(x) || is_clean(y)));
    if both_new || clean { Scope::Nothing } else { Scope::Everything }
}

fn is_clean(hello: &Hello) -> bool {
    hello.state == RecordState::Stopped && hello.clean
}

/// Whether two clean records speak of the same moment.
fn agree(x: &Hello, y: &Hello) -> bool {
    let rounds = x
        .volumes
        .iter()
        .zip(&y.volumes)
        .all(|(v, w)| v.round == w.round && v.peer_round == w.round && w.peer_round == v.round);
    x.session == y.session && x.generation == y.generation && rounds
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
