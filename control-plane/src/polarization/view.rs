//! What the group knows, for status, wait, metrics and the demo.

use base::ids::{NodeName, Session};
use base::time::Instant;
use datapath::port::{Progress, Role, Scope, SyncRole};

use super::durable::{Failure, RETRY_AFTER, lost_place_text};
use super::group::{Group, Phase, Situation};
use super::state::State;
use crate::record::Continuity;
use crate::state_word::StateWord;

/// The group at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupView {
    /// The state.
    pub state: StateWord,
    /// Whether hosts are served by this node.
    pub serving: bool,
    /// The session, or the last one.
    pub session: Session,
    /// Who orders writes in the running session.
    pub orderer: Option<NodeName>,
    /// What happened and what still works; empty when all is well.
    pub cause: String,
    /// What to do; empty when nothing is to be done.
    pub advice: String,
    /// The peer.
    pub peer: PeerView,
    /// The volumes, in order.
    pub volumes: Vec<VolumeView>,
}

/// The peer as seen from here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerView {
    /// Its name.
    pub name: NodeName,
    /// A control connection is up and not silent.
    pub reachable: bool,
    /// Its last report.
    pub state: Option<StateWord>,
    /// Age of its last message.
    pub last_seen_ms: Option<u64>,
}

/// A volume as the group sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeView {
    /// A comparison under way.
    pub resync: Option<ResyncView>,
}

/// A comparison under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResyncView {
    /// "source" or "target".
    pub role: &'static str,
    /// Compared.
    pub done_bytes: u64,
    /// Still to compare.
    pub todo_bytes: u64,
    /// Differed and was copied.
    pub copied_bytes: u64,
    /// Average since the join began.
    pub bytes_per_s: u64,
    /// Estimate from that average; none while it is unknown.
    pub eta_ms: Option<u64>,
}

impl Group {
    /// What the group knows, for people.
    pub fn view(&self, now: Instant) -> GroupView {
        let orderer = match &self.phase {
            Phase::Active { role: Role::Orderer, .. } => Some(self.config.node.clone()),
            Phase::Active { role: Role::Follower, .. } => Some(self.config.peer.clone()),
            Phase::Idle | Phase::Joining(_) | Phase::Leaving(_) | Phase::Stopping(_) => None,
        };
        let (cause, advice) = self.texts(now);
        GroupView {
            state: self.state_word(now),
            serving: self.is_serving(),
            session: self.session(),
            orderer,
            cause,
            advice,
            peer: self.peer_view(now),
            volumes: self.progress.iter().map(|p| self.volume_view(now, *p)).collect(),
        }
    }

    /// The word of CONTRACT: active-active only if this node serves and the peer's last report,
    /// not older than T_sus, says that it serves.
    pub(super) fn state_word(&self, now: Instant) -> StateWord {
        match self.state {
            State::Active if !self.is_serving() => StateWord::Deciding,
            State::Active if !self.is_peer_serving(now) => StateWord::Ready,
            State::Starting
            | State::Source
            | State::Target
            | State::Ready
            | State::Active
            | State::Deciding
            | State::Limbo
            | State::Broken
            | State::Stopped => self.state.word(),
        }
    }

    fn is_peer_serving(&self, now: Instant) -> bool {
        let current = self.link.as_ref().and_then(|link| link.peer_incarnation);
        self.peer_report.is_some_and(|report| {
            report.beat.serving
                && Some(report.beat.incarnation) == current
                && now.since(report.at) <= self.timings().suspect_after
        })
    }

    fn peer_view(&self, now: Instant) -> PeerView {
        let heard = self.peer_report.map(|report| report.at);
        let link = self.link.as_ref().filter(|link| link.peer_incarnation.is_some());
        let last = link.map(|link| link.heard).max(heard);
        let silent = |at: Instant| now.since(at) > self.timings().suspect_after;
        PeerView {
            name: self.config.peer.clone(),
            reachable: link.is_some_and(|link| !silent(link.heard)),
            state: self.peer_report.map(|report| report.beat.state),
            last_seen_ms: last.map(|at| u64::try_from(now.since(at).as_millis()).unwrap_or(0)),
        }
    }

    fn volume_view(&self, now: Instant, progress: Progress) -> VolumeView {
        let Phase::Joining(join) = &self.phase else { return VolumeView { resync: None } };
        if !join.has_touched_volumes() || join.scope == Scope::Nothing {
            return VolumeView { resync: None };
        }
        let role = match join.role {
            SyncRole::Source => "source",
            SyncRole::Target => "target",
        };
        let elapsed_ms = u64::try_from(now.since(join.began).as_millis()).unwrap_or(u64::MAX);
        let per_second = |bytes: u64| bytes.saturating_mul(1000) / elapsed_ms.max(1);
        let bytes_per_s = per_second(progress.done_bytes);
        let eta_ms =
            (bytes_per_s > 0).then(|| progress.todo_bytes.saturating_mul(1000) / bytes_per_s);
        let Progress { done_bytes, todo_bytes, copied_bytes } = progress;
        let resync =
            Some(ResyncView { role, done_bytes, todo_bytes, copied_bytes, bytes_per_s, eta_ms });
        VolumeView { resync }
    }

    /// What happened, what still works, what to do.
    fn texts(&self, now: Instant) -> (String, String) {
        let (mut cause, mut advice) = self.situation_texts(now);
        // What nobody may copy from is healed by the peer's copy, if that one is good.
        let amnesia = self.record.continuity == Continuity::Amnesia;
        let forfeited = (amnesia && !self.start_texts.is_empty()).then(|| {
            let Self { config, .. } = self;
            format!(
                "the copy of {} is never the source of a resync: it is made equal to {}'s, if \
                 that one is good",
                config.node, config.peer
            )
        });
        let findings = self.start_texts.iter().cloned().chain(forfeited);
        let lost = self.lost_place.iter().map(|text| lost_place_text(text));
        for text in findings.chain(lost) {
            if !cause.is_empty() {
                cause.push_str("; ");
            }
            cause.push_str(&text);
        }
        if self.lost_place.is_some() && advice.is_empty() {
            advice.push_str("mend the record directory and restart this node");
        }
        (cause, advice)
    }

    /// Of the situation, but for what is not over yet: a disk that has just failed, and a peer
    /// that has not said yet, or for a while, that it serves.
    fn situation_texts(&self, now: Instant) -> (String, String) {
        if let Some(failure) = self.failure.as_ref().filter(|failure| !failure.settled) {
            return self.failure_texts(failure);
        }
        if self.is_serving() && !self.is_peer_serving(now) {
            let Self { config, .. } = self;
            return (
                format!("this node serves; {} has not said that it does, too", config.peer),
                format!("none if it says so in a moment; else look at node {}", config.peer),
            );
        }
        let Situation { cause, advice } = &self.situation;
        (cause.clone(), advice.clone())
    }

    pub(super) fn failure_texts(&self, failure: &Failure) -> (String, String) {
        let Self { config, .. } = self;
        let cause = format!("a disk of node {} failed: {}", config.node, failure.text);
        if self.peer_report.is_some_and(|report| report.beat.io_failed) {
            return (
                format!("{cause}; a disk of node {} failed, too; nobody serves", config.peer),
                format!(
                    "free space or mend the disks of both nodes {} and {}; they try again every \
                     {} s, and the copy that lost least is then copied to the other",
                    config.node,
                    config.peer,
                    RETRY_AFTER.as_secs()
                ),
            );
        }
        let cause = format!(
            "{cause}; nothing was acknowledged that is not on the copy of {}{}",
            config.peer,
            if self.peer_report.is_some() { ", which is intact" } else { "" }
        );
        let advice = format!(
            "free space or mend the disk of node {}; it tries again every {} s and is then made \
             equal to {}",
            config.node,
            RETRY_AFTER.as_secs(),
            config.peer
        );
        (cause, advice)
    }

    /// What the join that ends had to do; the source alone counts all of it.
    pub(super) fn compared_text(&self) -> String {
        let Phase::Joining(join) = &self.phase else { panic!("a session begins with a join") };
        let done: u64 = self.progress.iter().map(|progress| progress.done_bytes).sum();
        let copied: u64 = self.progress.iter().map(|progress| progress.copied_bytes).sum();
        match (join.scope, join.role) {
            (Scope::Nothing, _) => "nothing was compared".to_owned(),
            (Scope::Everything, SyncRole::Source) => {
                format!("compared {done} bytes, copied {copied}")
            }
            (Scope::Rewrite, SyncRole::Source) => format!("copied all {copied} bytes"),
            (Scope::Everything | Scope::Rewrite, SyncRole::Target) => {
                "made equal to its source".to_owned()
            }
        }
    }
}
