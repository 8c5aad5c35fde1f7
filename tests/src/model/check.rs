//! What must hold in every state (PROTOCOL 3.1).

use control_plane::arbitration::State;
use control_plane::arbitration::renumber::NOW;
use control_plane::record::{NodeRecord, RecordState};

use super::world::{Volume, World};

fn votes(record: &NodeRecord) -> usize {
    let won = record.witness_won && record.witness_token.is_some();
    record.votes.iter().filter(|vote| vote.held).count() + usize::from(won)
}

impl World {
    /// Which invariant is broken, in words.
    pub fn violation(&self) -> Option<String> {
        let [x, y] = &self.nodes;
        let (r, s) = (&x.disk.record, &y.disk.record);
        if r.session == s.session {
            if r.votes.iter().zip(&s.votes).any(|(v, w)| v.held && w.held) {
                return Some("I1: a vote is held twice".to_owned());
            }
            if votes(r) >= 2 && votes(s) >= 2 {
                return Some("I2: two nodes with two votes".to_owned());
            }
        }
        let alone = |side: usize| matches!(self.state(side), Some(State::Solo | State::Source));
        if alone(0) && alone(1) {
            return Some("I2: both nodes are alone".to_owned());
        }
        if let (Volume::Member(s), Volume::Member(t)) = (x.volume, y.volume)
            && s == t
            && !self.half_written
            && x.disk.value != y.disk.value
        {
            return Some("D4: two members of a session with different copies".to_owned());
        }
        for side in [0, 1] {
            let node = &self.nodes[side];
            let before_copy = matches!(node.volume, Volume::Alone(_) | Volume::Source(_, false));
            let open = |at: usize| {
                let group = self.nodes[at].group.as_ref();
                group.is_some_and(|group| !group.read_right().until.has_ended(NOW))
            };
            if alone(side) && before_copy && open(side) {
                if open(1 - side) {
                    return Some("I6: one is alone while the other may answer reads".to_owned());
                }
                if node.disk.value.is_none_or(|value| value < self.floor) {
                    return Some(format!(
                        "D2: the winner has {:?}, acknowledged is {}",
                        node.disk.value, self.floor
                    ));
                }
            }
            if open(side) && matches!(node.disk.record.state, RecordState::Target { .. }) {
                return Some("I5: a target serves".to_owned());
            }
        }
        None
    }

    /// Somebody can serve: one alone, or both together.
    pub fn is_good(&self) -> bool {
        let open_alone = |side: usize| {
            let group = self.nodes[side].group.as_ref();
            matches!(self.state(side), Some(State::Solo | State::Source))
                && group.is_some_and(|group| !group.read_right().until.has_ended(NOW))
        };
        let both = [0, 1].into_iter().all(|side| self.state(side) == Some(State::Active));
        open_alone(0) || open_alone(1) || (both && self.is_connected())
    }
}
