//! The thread that decides: the group core, its connections to the peer, its timers and the record.
//!
//! Owns: the group core, the control connection, the gate. In: the peer's messages, volumes'
//! reports, durable jobs' ends, the operator's stop. Out: letters to the volumes, the gate, status.
//! Invariants: everything that was received is handed in before time is (2.4, self-stall rule);
//! actions are carried out in the order in which the core gave them.
//! Not here: any decision (`polarization`).

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::ids::{ConnNonce, VolumeId, VolumeIndex};
use base::io::clock;
use base::time::{Duration, Instant};
use datapath::gate::Gate;
use nbd_frontend::exports::{Availability, ExportInfo, ExportTable};
use nbd_frontend::io::shared_exports::SharedExports;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use super::decision_file::DecisionFile;
use super::mailbox::{Sender, SharedGate};
use super::metrics::Transitions;
use super::peer_link::{ControlLink, DataLink, PeerEvent, PeerLinks, Trouble};
use super::record_writer::RecordWriter;
use super::volume_thread::{Letter, Report, VolumeCounters};
use crate::polarization::{Action, Group, GroupView};
use crate::state_word::StateWord;
use crate::status::{NodeStatus, StatusReport};

/// Time between two attempts to reach the peer, at first and at most.
const DIAL_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a refusal of the peer's attempt counts; it makes one a second.
const REFUSAL_AGE_MAX: Duration = Duration::from_secs(10);
/// How often status is refreshed when nothing happens.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// A volume as the group thread knows it.
#[derive(Debug)]
pub struct VolumeHandle {
    /// Its id, for the binding of data connections.
    pub id: VolumeId,
    /// What is exported.
    pub export: ExportInfo,
    /// To its thread.
    pub letters: Sender<Letter>,
    /// Of its thread.
    pub counters: Arc<VolumeCounters>,
}

/// Makes a status of what the group knows; the rest (name, pids, uptime ...) is its own.
pub type Describe = Box<dyn Fn(&GroupView, &[VolumeHandle]) -> NodeStatus + Send>;

/// What the group thread is started with.
pub struct Parts {
    /// The core, with the record's F0 as its first action.
    pub group: Group,
    /// Connections to the peer; none are open.
    pub links: Rc<PeerLinks>,
    /// What happens on them.
    pub peer_events: mpsc::Receiver<PeerEvent>,
    /// Makes the record durable.
    pub writer: RecordWriter,
    /// The volumes, in order.
    pub volumes: Vec<VolumeHandle>,
    /// What they report.
    pub reports: mpsc::Receiver<Report>,
    /// The right to serve.
    pub gate: Arc<SharedGate>,
    /// What can be attached.
    pub exports: SharedExports,
    /// The decision log.
    pub decisions: DecisionFile,
    /// And how many there were.
    pub transitions: Transitions,
    /// Fills in what is not the group's: name, pids, uptime ...
    pub describe: Describe,
    /// Where status is read.
    pub status: watch::Sender<Arc<StatusReport>>,
    /// Becomes true when the operator stops the node.
    pub stop: watch::Receiver<bool>,
}

/// Runs until the node has stopped.
pub async fn run(parts: Parts) {
    GroupThread::new(parts).run().await;
}

struct GroupThread {
    parts: Parts,
    /// Usually one; the core closes all but the one it wants.
    controls: Vec<ControlLink>,
    dialling: bool,
    dial_at: Instant,
    dial_wait: Duration,
    /// Why there is no connection, and until when that counts.
    trouble: Option<(Trouble, Instant)>,
    /// The peer was heard since this process began.
    heard: bool,
    accepting: Option<Availability>,
    stop_seen: bool,
    stopped: bool,
    status_at: Instant,
}

enum Wake {
    Peer(PeerEvent),
    Report(Report),
    Durable(super::record_writer::JobDone),
    Stop,
    Time,
}

impl GroupThread {
    fn new(parts: Parts) -> Self {
        Self {
            parts,
            controls: Vec::new(),
            dialling: false,
            dial_at: Instant::ZERO,
            dial_wait: DIAL_RETRY.0,
            trouble: None,
            heard: false,
            accepting: None,
            stop_seen: false,
            stopped: false,
            status_at: Instant::ZERO,
        }
    }

    async fn run(mut self) {
        self.act();
        while !self.stopped {
            let wake = self.wait().await;
            self.handle(wake);
            // Everything else that is already here comes before time does.
            tokio::task::yield_now().await;
            while let Some(wake) = self.poll() {
                self.handle(wake);
            }
            let now = clock::now();
            if self.parts.group.next_deadline().is_some_and(|deadline| deadline <= now) {
                self.parts.group.handle_time(now);
                self.act();
            }
            self.dial_if_wanted(now);
            self.publish_status(now);
        }
        self.publish_status(Instant::NEVER);
    }

    async fn wait(&mut self) -> Wake {
        let now = clock::now();
        let mut deadline = self.status_at + STATUS_INTERVAL;
        deadline = deadline.min(self.parts.group.next_deadline().unwrap_or(Instant::NEVER));
        if self.parts.group.wants_control() && !self.dialling {
            deadline = deadline.min(self.dial_at);
        }
        let parts = &mut self.parts;
        tokio::select! {
            biased;
            Some(event) = parts.peer_events.recv() => Wake::Peer(event),
            Some(report) = parts.reports.recv() => Wake::Report(report),
            Some(done) = parts.writer.next_done() => Wake::Durable(done),
            Ok(()) = parts.stop.changed(), if !self.stop_seen => Wake::Stop,
            () = tokio::time::sleep(deadline.since(now)) => Wake::Time,
        }
    }

    fn poll(&mut self) -> Option<Wake> {
        let parts = &mut self.parts;
        if let Ok(event) = parts.peer_events.try_recv() {
            return Some(Wake::Peer(event));
        }
        if let Ok(report) = parts.reports.try_recv() {
            return Some(Wake::Report(report));
        }
        parts.writer.try_done().map(Wake::Durable)
    }

    fn handle(&mut self, wake: Wake) {
        let now = clock::now();
        let group = &mut self.parts.group;
        match wake {
            Wake::Peer(event) => self.handle_peer(now, event),
            Wake::Report(report) => group.handle_volume(now, report.volume, report.report),
            Wake::Durable(done) => group.handle_durable(now, done.ticket, done.result),
            Wake::Stop => {
                self.stop_seen = true;
                info!("stopping");
                group.handle_stop(now);
            }
            Wake::Time => {}
        }
        self.act();
    }

    fn handle_peer(&mut self, now: Instant, event: PeerEvent) {
        let group = &mut self.parts.group;
        match event {
            PeerEvent::Up(link) => {
                self.dialling = false;
                let conn_nonce = link.conn_nonce;
                self.controls.push(link);
                group.handle_control_up(now, conn_nonce);
            }
            PeerEvent::DialFailed { trouble } => {
                self.dialling = false;
                self.retry_later(now);
                self.note_trouble(trouble, Instant::NEVER);
            }
            PeerEvent::Refused { trouble } => {
                // The log has it already; who does not come again does not replace it either.
                self.trouble = Some((trouble, now + REFUSAL_AGE_MAX));
            }
            PeerEvent::Message { conn_nonce, message } => {
                // Whoever refuses our certificate closes a connection that seemed to be up.
                self.dial_wait = DIAL_RETRY.0;
                self.trouble = None;
                self.heard = true;
                group.handle_control(now, conn_nonce, message);
            }
            PeerEvent::Lost { conn_nonce, trouble } => {
                self.close_control(conn_nonce);
                self.parts.group.handle_control_lost(now, conn_nonce, &trouble.why);
                if trouble.is_refusal() {
                    self.note_trouble(trouble, Instant::NEVER);
                }
            }
            PeerEvent::Data(link) => self.attach_data(link),
            PeerEvent::DataFailed { conn_nonce, why } => {
                let why = format!("no data connection: {why}");
                self.close_control(conn_nonce);
                self.parts.group.handle_control_lost(now, conn_nonce, &why);
            }
        }
    }

    /// One line per change: an attempt is made every second.
    fn note_trouble(&mut self, trouble: Trouble, until: Instant) {
        let known = self.trouble.as_ref().is_some_and(|(known, _)| *known == trouble);
        if !known {
            let Trouble { why, advice } = &trouble;
            if trouble.is_refusal() {
                warn!("no connection to the peer: {why}; {advice}");
            } else if self.heard {
                warn!("cannot reach the peer: {why}; trying again until it answers");
            } else {
                info!("waiting for the peer, which does not answer yet ({why})");
            }
        }
        self.trouble = Some((trouble, until));
    }

    fn attach_data(&mut self, link: DataLink) {
        let DataLink { socket, conn_nonce, volume, volume_id, sequence } = link;
        let known = self.parts.volumes.get(usize::from(volume.0));
        let expected = self.parts.group.conn_nonce() == Some(conn_nonce);
        let Some(handle) = known.filter(|v| volume_id.is_none_or(|id| id == v.id) && expected)
        else {
            debug!(?conn_nonce, ?volume, "a data connection of an earlier connection is dropped");
            return;
        };
        let letter = Letter::Link { socket, conn_nonce, sequence, leftover: Vec::new() };
        post(handle, letter);
    }

    /// Carries out what the core wants.
    fn act(&mut self) {
        while let Some(action) = self.parts.group.poll_action() {
            match action {
                Action::SendControl { conn_nonce, message } => self.send(conn_nonce, message),
                Action::CloseControl { conn_nonce, why } => {
                    debug!(?conn_nonce, why, "closing the control connection");
                    self.close_control(conn_nonce);
                }
                Action::ConnectData { conn_nonce } => {
                    for (index, volume) in self.parts.volumes.iter().enumerate() {
                        let index = VolumeIndex(u16::try_from(index).expect("volumes are few"));
                        self.parts.links.dial_data(conn_nonce, index, volume.id);
                    }
                }
                Action::Volume(index, command) => {
                    post(&self.parts.volumes[usize::from(index.0)], Letter::Command(command));
                }
                Action::Durable { ticket, steps } => self.parts.writer.submit(ticket, steps),
                Action::PublishGate(gate) => self.publish_gate(gate),
                Action::DiskLate(late) => self.parts.writer.run_files().note_late(late),
                Action::Decision(decision) => {
                    self.parts.transitions.count(decision.from, decision.to);
                    self.parts.decisions.append(&decision);
                }
                Action::Stopped => {
                    self.stopped = true;
                    for volume in &self.parts.volumes {
                        post(volume, Letter::Exit);
                    }
                }
            }
        }
    }

    /// Volume threads sample the gate only when they are awake, and may hold what waits for it.
    fn publish_gate(&mut self, gate: Gate) {
        self.parts.gate.publish(gate);
        for volume in &self.parts.volumes {
            volume.letters.wake();
        }
    }

    fn send(&mut self, conn_nonce: ConnNonce, message: crate::wire::ControlMessage) {
        let Some(link) = self.controls.iter().find(|link| link.conn_nonce == conn_nonce) else {
            return;
        };
        if !link.send(message) {
            // The peer does not read: silence will tell the core, as on any dead link.
            warn!(?conn_nonce, "the control connection takes no more messages");
        }
    }

    fn close_control(&mut self, conn_nonce: ConnNonce) {
        let before = self.controls.len();
        self.controls.retain(|link| link.conn_nonce != conn_nonce);
        if self.controls.len() < before {
            self.retry_later(clock::now());
        }
    }

    fn retry_later(&mut self, now: Instant) {
        self.dial_at = now + self.dial_wait;
        self.dial_wait = (self.dial_wait * 2).min(DIAL_RETRY.1);
    }

    fn dial_if_wanted(&mut self, now: Instant) {
        let wanted = self.parts.group.wants_control() && !self.dialling;
        if wanted && now >= self.dial_at && !self.stopped {
            self.dialling = true;
            self.parts.links.dial();
        }
    }

    fn publish_status(&mut self, now: Instant) {
        let view_at = if now == Instant::NEVER { clock::now() } else { now };
        let view = self.parts.group.view(view_at);
        self.publish_exports(&view);
        let mut status = (self.parts.describe)(&view, &self.parts.volumes);
        if let Some((trouble, until)) = &self.trouble
            && view_at < *until
        {
            add_trouble(&mut status, trouble);
        }
        let changed = {
            let last = &self.parts.status.borrow().status;
            (last.state, last.serving, &last.cause) != (status.state, status.serving, &status.cause)
        };
        if changed || now.since(self.status_at) >= STATUS_INTERVAL {
            self.status_at = view_at;
            self.parts.status.send_replace(Arc::new(StatusReport { at: view_at, status }));
        }
    }

    /// New clients are taken while the node serves, or may again in a moment.
    fn publish_exports(&mut self, view: &GroupView) {
        let availability = if view.serving || view.state == StateWord::Deciding {
            Availability::Accepting
        } else {
            Availability::Refused(format!("this node does not serve now ({})", view.state.word()))
        };
        let shutting_down = self.stop_seen;
        if self.accepting.as_ref() == Some(&availability) && !shutting_down {
            return;
        }
        let exports = self.parts.volumes.iter().map(|volume| {
            let mut export = volume.export.clone();
            export.availability = availability.clone();
            export
        });
        let mut table = ExportTable::new(exports.collect());
        if shutting_down {
            table = table.with_shutdown();
        }
        self.parts.exports.replace(table);
        self.accepting = Some(availability);
    }
}

/// Puts a letter into a volume's mailbox. Letters are few: a full box is a thread that hangs.
fn post(volume: &VolumeHandle, letter: Letter) {
    assert!(volume.letters.send(letter).is_ok(), "the thread of a volume takes its letters");
}

/// Adds why there is no connection to the peer. Who is refused for a certificate need not look at
/// the link, nor start what runs.
fn add_trouble(status: &mut NodeStatus, trouble: &Trouble) {
    if status.peer.reachable || status.cause.is_empty() {
        return;
    }
    let Trouble { why, advice } = trouble;
    if !trouble.is_refusal() {
        status.cause = format!("{} (last attempt: {why})", status.cause);
        return;
    }
    if !status.cause.contains(why) {
        status.cause = format!("{}; {why}", status.cause);
    }
    status.advice.clone_from(advice);
}

/// Attached clients of one volume.
pub fn clients_of(volume: &VolumeHandle) -> u64 {
    volume.counters.clients.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> NodeStatus {
        let name = |name: &str| name.parse().expect("a name");
        let mut status = NodeStatus::starting(name("a"), name("b"), name("a"), 1);
        "b was stopped cleanly".clone_into(&mut status.cause);
        "start node b again".clone_into(&mut status.advice);
        status
    }

    fn trouble(why: &str, advice: &str) -> Trouble {
        Trouble { why: why.to_owned(), advice: advice.to_owned() }
    }

    #[test]
    fn a_refused_certificate_is_in_cause_and_advice() {
        let refusal = trouble("a refuses the certificate of b: it has expired", "issue a new one");
        let mut status = waiting();
        add_trouble(&mut status, &refusal);
        let expected = "b was stopped cleanly; a refuses the certificate of b: it has expired";
        assert_eq!((status.cause.as_str(), status.advice.as_str()), (expected, "issue a new one"));
        add_trouble(&mut status, &refusal);
        assert_eq!(status.cause, expected, "told once");
        let mut reachable = waiting();
        reachable.peer.reachable = true;
        add_trouble(&mut reachable, &refusal);
        assert_eq!(reachable.cause, "b was stopped cleanly");
    }

    #[test]
    fn an_attempt_that_failed_leaves_the_advice() {
        let mut status = waiting();
        add_trouble(&mut status, &trouble("connection refused", ""));
        assert_eq!(status.cause, "b was stopped cleanly (last attempt: connection refused)");
        assert_eq!(status.advice, "start node b again");
    }
}
