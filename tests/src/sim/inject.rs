//! Faults as they happen, and how everything heals.

use base::ids::BootId;
use base::time::{Duration, Instant};
use control_plane::record::header::choose_header;
use control_plane::record::{RecordState, Stamp, VolumeHeader};
use datapath::storage::IoFault;
use rand::Rng;

use super::event::{Event, Side};
use super::faults::{Step, Trigger};
use super::finding::Finding;
use super::medium::Medium;
use super::plan::bytes;
use super::process::Folder;
use super::world::{Stage, World};

/// After everything healed both nodes are active within this time: a failed disk is left alone for
/// 5 s.
const HEALS_WITHIN: Duration = Duration::from_secs(8);
/// From then on nothing of the faults is left.
const SETTLES_WITHIN: Duration = Duration::from_millis(1500);
/// How often the end of a run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Operations that a run has at least, and how many of them are acknowledged, and at the same time
/// as an overlapping one at the other node.
const OPERATIONS_MIN: usize = 300;
const ACKNOWLEDGED_MIN: u64 = 100;
const CONTENDED_MIN: u64 = 30;

impl World {
    pub(super) fn fault(&mut self, index: usize) {
        let fault = self.plan.faults[index].clone();
        self.trace.line(self.now, || format!("FAULT {:?}", fault.kind));
        self.coverage.count("fault", fault.kind.name());
        self.faults_done += 1;
        if self.rng.random_bool(0.3) {
            let side = self.rng.random_range(0..2);
            self.snapshot(side);
        }
        self.schedule(fault.steps);
    }

    fn schedule(&mut self, steps: Vec<(Duration, Step)>) {
        let mut at = self.now;
        for (pause, step) in steps {
            at = at + pause;
            self.queue.push(at, Event::Action { action: Box::new(step) });
        }
    }

    pub(super) fn inject(&mut self, step: Step) {
        if self.stage != Stage::Faulty {
            return;
        }
        if self.must_wait(&step) {
            self.after(Duration::from_millis(1), Event::Action { action: Box::new(step) });
            return;
        }
        self.trace.line(self.now, || format!("STEP {step:?}"));
        match step {
            Step::Cut(cut) => self.set_cut(cut),
            Step::Refuse(refuse) => self.refusing = refuse,
            Step::Reset { control, data } => self.reset_some(control, data),
            Step::Kill(side) => self.end_process(side, false),
            Step::Power(side) => self.cut_power(side),
            Step::Start(side) => self.start(side),
            Step::Freeze(side, length) => {
                if self.nodes[side].process.is_some() && !self.nodes[side].frozen {
                    self.freeze(side, length);
                }
            }
            Step::FreezeInTurn(side, length) => {
                if self.nodes[side].process.is_some() && !self.nodes[side].frozen {
                    self.nodes[side].freeze_in_turn = Some(length);
                    self.wake(side, 0);
                }
            }
            Step::Slow(side, factor) => self.nodes[side].slowness = factor,
            Step::Hang(side, hang) => self.hang(side, hang),
            Step::HostLeaves(side) => self.hosts_leave(side),
            Step::SlowLink(factor) => self.slow_link = factor,
            Step::HoldData => self.hold_data(),
            Step::ReleaseData => self.release_data(),
            Step::Stop(side) => self.stop(side),
            Step::Burst(length) => self.burst(length),
            Step::Arm(trigger, steps) => self.armed.push((trigger, steps)),
            Step::PowerSource | Step::PowerTarget | Step::CrashTarget | Step::CrashSource => {
                self.crash_role(&step);
            }
            Step::WriteFault(..)
            | Step::FlushFault(_)
            | Step::ReadFault(..)
            | Step::Mend(_)
            | Step::PlaceFault(..) => self.disk_fault(&step),
            Step::Snapshot(_)
            | Step::BlankImage(_)
            | Step::OldImage(_)
            | Step::OldFolder(_)
            | Step::OldFolderSeen(_)
            | Step::PutAside
            | Step::PutBack
            | Step::LoseHeader(_)
            | Step::OldHeader(_)
            | Step::LosePlace(..)
            | Step::DamageSlot(_) => self.folder_fault(&step),
        }
    }

    /// No process is killed during a flush that fails before there is a word of it, a mark below
    /// /run or, without such a folder, the record: the next one would know nothing of it and
    /// believe what it reads (docs/INVARIANTS.md, D11).
    fn must_wait(&self, step: &Step) -> bool {
        let fails = |side: Side| {
            let node = &self.nodes[side];
            let told = node.machine.tells_of_failing();
            let failed = node.disks.iter().any(|disk| disk.failed_untold);
            node.process.is_some() && (failed || (!told && self.is_flush_failing(side)))
        };
        let rolled_back = |side: Side| self.is_rollback_untold(side);
        match step {
            Step::Kill(side) => fails(*side),
            Step::Power(side) => rolled_back(*side),
            Step::PowerSource | Step::PowerTarget => rolled_back(0) || rolled_back(1),
            Step::CrashTarget | Step::CrashSource | Step::PutAside => {
                fails(0) || fails(1) || rolled_back(0) || rolled_back(1)
            }
            _ => false,
        }
    }

    /// Only the machine's memory tells that the folder is an older one: no record says so yet. One
    /// of the same round that is found after the power was cut is not noticed, and the manual says
    /// so.
    fn is_rollback_untold(&self, side: Side) -> bool {
        let node = &self.nodes[side];
        let found = node.medium.record().map(|record| record.record_seq);
        node.machine.run_record_seq.is_some_and(|newest| found.is_some_and(|found| found < newest))
    }

    fn disk_fault(&mut self, step: &Step) {
        match *step {
            Step::WriteFault(side, full) => {
                let fault = if full { IoFault::NoSpace } else { IoFault::System(5) };
                for disk in &mut self.nodes[side].disks {
                    disk.faults.write = Some(fault);
                }
            }
            Step::FlushFault(side) => {
                for disk in &mut self.nodes[side].disks {
                    disk.faults.flush = Some(IoFault::System(5));
                }
            }
            Step::ReadFault(side, count) => self.nodes[side].disks[0].faults.reads = count,
            Step::PlaceFault(side, place) => self.nodes[side].bad_places[place] = true,
            _ => {
                let Step::Mend(side) = *step else { unreachable!("the caller sorts") };
                self.mend(side);
            }
        }
    }

    fn mend(&mut self, side: Side) {
        for disk in &mut self.nodes[side].disks {
            disk.faults = Default::default();
        }
        self.nodes[side].bad_places = [false; 2];
        self.nodes[side].slowness = 1;
        self.hang(side, false);
    }

    fn hang(&mut self, side: Side, hang: bool) {
        let life = self.nodes[side].life;
        if hang {
            self.nodes[side].hung.get_or_insert_default();
        } else if let Some(waiting) = self.nodes[side].hung.take() {
            for (volume, io) in waiting {
                self.queue.push(self.now, Event::DiskDone { side, life, volume, io });
            }
        }
    }

    fn reset_some(&mut self, control: bool, data: bool) {
        for conn in 0..self.conns.len() {
            let is_control = self.conns[conn].kind == super::net::ConnKind::Control;
            if (is_control && control) || (!is_control && data) {
                self.reset(conn);
            }
        }
    }

    fn stop(&mut self, side: Side) {
        let now = self.now;
        if self.nodes[side].process.is_none() || self.nodes[side].frozen {
            return;
        }
        let process = self.process(side);
        process.stopping = true;
        process.group.handle_stop(now);
        self.drain_group(side);
    }

    fn crash_role(&mut self, step: &Step) {
        let is_source = |side: Side| {
            let process = self.nodes[side].process.as_ref();
            process.is_some_and(|p| p.volumes.iter().flatten().any(|t| t.watch.source))
        };
        let is_target = |side: Side| {
            let state = self.durable_record(side).map(|record| record.state);
            matches!(state, Some(RecordState::Target { .. }))
        };
        let source = match (is_source(0), is_source(1), is_target(0), is_target(1)) {
            (true, _, _, _) => 0,
            (_, true, _, _) => 1,
            (_, _, true, _) => 1,
            (_, _, _, true) => 0,
            _ => return,
        };
        let power = self.rng.random_bool(0.5);
        match step {
            Step::PowerSource => self.cut_power(source),
            Step::PowerTarget => self.cut_power(1 - source),
            Step::CrashSource if power => self.cut_power(source),
            Step::CrashSource => self.end_process(source, false),
            _ if power => self.cut_power(1 - source),
            _ => self.end_process(1 - source, false),
        }
    }

    fn folder(&self, side: Side) -> Folder {
        let node = &self.nodes[side];
        Folder {
            medium: node.medium.clone(),
            images: node.disks.iter().map(|disk| disk.current().to_vec()).collect(),
            empty: node.machine.empty.clone(),
        }
    }

    fn snapshot(&mut self, side: Side) {
        self.nodes[side].snapshot = Some(self.folder(side));
    }

    fn folder_fault(&mut self, step: &Step) {
        match *step {
            Step::Snapshot(side) => self.snapshot(side),
            Step::BlankImage(side) if self.may_replace(side) => self.blank(side, "blank image"),
            Step::OldImage(side) if self.may_replace(side) => self.old_image(side),
            Step::OldFolder(side) if self.may_replace(side) => self.old_folder(side),
            Step::OldFolderSeen(side) if self.may_replace(side) => self.old_folder_seen(side),
            Step::LosePlace(side, place) if self.may_replace(side) => {
                self.nodes[side].stash = Some(self.folder(side));
                self.nodes[side].medium.places[place] = None;
                // The other place may be an old one that could not be written for a while.
                (self.nodes[side].record_seq, self.nodes[side].record_session) = (0, 0);
                self.history.lost(side);
                self.coverage.count("folder", "place lost");
            }
            Step::LoseHeader(side) if self.may_replace(side) => self.lose_header(side),
            Step::OldHeader(side) if self.may_replace(side) => self.old_header(side),
            Step::DamageSlot(side) if self.may_replace(side) => self.damage_slot(side),
            Step::PutAside => self.put_aside(),
            Step::PutBack => self.put_back_folder(),
            _ => self.coverage.count("folder", "left as it is"),
        }
    }

    /// Whether the node's data may be damaged: the other one must be able to be a source.
    fn may_replace(&self, side: Side) -> bool {
        let other = &self.nodes[1 - side];
        let sound = |side: Side| {
            let record = self.durable_record(side);
            record.is_some_and(|record| {
                !matches!(record.state, RecordState::Target { .. } | RecordState::Virgin)
            })
        };
        let marking = other
            .process
            .as_ref()
            .and_then(|process| process.job.as_ref())
            .is_some_and(|job| !job.parts.is_empty());
        self.nodes[side].process.is_none()
            && self.sessions > 0
            && self.put_aside.is_none()
            && self.nodes[side].stash.is_none()
            && other.stash.is_none()
            && sound(1 - side)
            && !marking
    }

    fn blank(&mut self, side: Side, what: &'static str) {
        self.nodes[side].stash = Some(self.folder(side));
        let node = &mut self.nodes[side];
        for (volume, disk) in node.disks.iter_mut().enumerate() {
            let length = disk.current().len();
            disk.replace(vec![0; length]);
            node.medium.stamps[volume] = None;
            node.machine.unsynced_stamps[volume] = None;
            node.machine.empty[volume] = true;
        }
        self.history.lost(side);
        self.coverage.count("folder", what);
    }

    fn lose_header(&mut self, side: Side) {
        self.nodes[side].stash = Some(self.folder(side));
        let volume = self.rng.random_range(0..self.plan.volumes.len());
        self.nodes[side].medium.headers[volume] = [[0; 4096]; 2];
        self.history.lost(side);
        self.coverage.count("folder", "header lost");
    }

    /// An older bitmap file with the data of now: the node stays eligible.
    fn old_header(&mut self, side: Side) {
        let Some(old) = &self.nodes[side].snapshot else { return };
        self.nodes[side].medium.headers = old.medium.headers.clone();
        self.coverage.count("folder", "older header");
    }

    fn round(&self, stamp: &Option<[u8; 80]>) -> Option<u64> {
        stamp.as_ref().and_then(|stamp| Stamp::decode(stamp).ok()).map(|(_, stamp)| stamp.round)
    }

    /// None where it was lost and not made again yet.
    fn header(medium: &Medium, volume: usize) -> Option<VolumeHeader> {
        let slots = medium.headers[volume].each_ref().map(VolumeHeader::decode);
        choose_header(slots).ok().map(|(_, header)| header)
    }

    /// An older image with its older stamp. One of the same round is not noticed, and the manual
    /// says so.
    fn old_image(&mut self, side: Side) {
        let Some(old) = self.nodes[side].snapshot.clone() else { return };
        let medium = &self.nodes[side].medium;
        let older = (0..self.plan.volumes.len()).all(|volume| {
            let now = Self::header(medium, volume).map(|header| header.round);
            self.round(&old.medium.stamps[volume]).is_some_and(|round| Some(round) < now)
        });
        if !older {
            return;
        }
        self.nodes[side].stash = Some(self.folder(side));
        let node = &mut self.nodes[side];
        for (volume, image) in old.images.into_iter().enumerate() {
            node.disks[volume].replace(image);
            node.medium.stamps[volume] = old.medium.stamps[volume];
            node.machine.unsynced_stamps[volume] = None;
        }
        self.history.lost(side);
        self.coverage.count("folder", "older image");
    }

    fn old_folder(&mut self, side: Side) {
        let Some(old) = self.nodes[side].snapshot.clone() else { return };
        let medium = &self.nodes[1 - side].medium;
        let older = (0..self.plan.volumes.len()).all(|volume| {
            let known = Self::header(medium, volume).map(|header| header.peer_round);
            Self::header(&old.medium, volume).is_some_and(|header| Some(header.round) < known)
        });
        if !older {
            return;
        }
        self.nodes[side].stash = Some(self.folder(side));
        self.restore_folder(side, old);
        self.history.lost(side);
        if self.rng.random_bool(0.3) {
            self.nodes[side].machine.reboot(BootId(bytes(&mut self.rng)));
        }
        self.coverage.count("folder", "older folder");
    }

    /// A copy of the same round: only the newest record's number in the machine's memory tells.
    fn old_folder_seen(&mut self, side: Side) {
        let Some(old) = self.nodes[side].snapshot.clone() else { return };
        let then = old.medium.record().map(|record| record.record_seq);
        if self.nodes[side].machine.run_record_seq <= then {
            return;
        }
        self.nodes[side].stash = Some(self.folder(side));
        self.restore_folder(side, old);
        self.history.lost(side);
        self.coverage.count("folder", "older folder, told by the machine");
    }

    fn restore_folder(&mut self, side: Side, folder: Folder) {
        let node = &mut self.nodes[side];
        for (disk, image) in node.disks.iter_mut().zip(folder.images) {
            disk.replace(image);
        }
        node.medium = folder.medium;
        node.machine.empty = folder.empty;
        node.machine.unsynced_stamps.fill(None);
        (node.record_seq, node.record_session) = (0, 0);
    }

    fn damage_slot(&mut self, side: Side) {
        let (place, slot) = (self.rng.random_range(0..2), self.rng.random_range(0..2));
        let at = self.rng.random_range(0..4096);
        if let Some(slots) = &mut self.nodes[side].medium.places[place] {
            slots[slot][at] ^= 0x40;
            self.nodes[side].slot_damaged = true;
            self.coverage.count("folder", "slot damaged");
        }
    }

    /// While one node is a half-made target, the other one's image is mistaken for another.
    fn put_aside(&mut self) {
        let target = |side: Side| {
            let state = self.durable_record(side).map(|record| record.state);
            matches!(state, Some(RecordState::Target { .. }))
        };
        let source = match (target(0), target(1)) {
            (true, false) => 1,
            (false, true) => 0,
            _ => return,
        };
        if self.nodes.iter().any(|node| node.stash.is_some()) {
            return;
        }
        self.end_process(source, false);
        self.blank(source, "wrong image for a while");
        self.put_aside = Some(source);
    }

    fn put_back_folder(&mut self) {
        let Some(side) = self.put_aside.take() else { return };
        self.put_back_stash(side);
    }

    /// The right folder comes back, on a machine that has been off.
    fn put_back_stash(&mut self, side: Side) {
        let Some(folder) = self.nodes[side].stash.take() else { return };
        self.end_process(side, true);
        self.restore_folder(side, folder);
        self.nodes[side].machine.reboot(BootId(bytes(&mut self.rng)));
        self.coverage.count("folder", "put back");
        self.start(side);
    }

    pub(super) fn trigger(&mut self, happened: Trigger) {
        let fired = self.armed.extract_if(.., |(trigger, _)| *trigger == happened);
        let fired: Vec<_> = fired.collect();
        for (_, steps) in fired {
            self.schedule(steps);
        }
    }

    pub(super) fn trigger_durable(&mut self, side: Side) {
        self.count_down(|trigger| match trigger {
            Trigger::Durable(at, left) if *at == side => Some(left),
            _ => None,
        });
    }

    pub(super) fn trigger_copy_write(&mut self) {
        self.count_down(|trigger| match trigger {
            Trigger::CopyWrite(left) => Some(left),
            _ => None,
        });
    }

    fn count_down(&mut self, counts: impl Fn(&mut Trigger) -> Option<&mut u32>) {
        let mut fired = Vec::new();
        self.armed.retain_mut(|(trigger, steps)| match counts(trigger) {
            Some(0) => {
                fired.push(std::mem::take(steps));
                false
            }
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        });
        for steps in fired {
            self.schedule(steps);
        }
    }

    /// No fault any more.
    pub(super) fn heal_all(&mut self) {
        self.trace.line(self.now, || "everything heals".to_owned());
        self.put_back_folder();
        self.stage = Stage::Healing(self.now + HEALS_WITHIN);
        self.armed.clear();
        self.release_data();
        self.set_cut([false; 2]);
        self.refusing = false;
        self.slow_link = 1;
        for side in [0, 1] {
            if self.nodes[side].frozen {
                self.thaw(side);
            }
            self.nodes[side].freeze_in_turn = None;
            self.mend(side);
        }
        self.after(LOOK_EVERY, Event::Closing);
    }

    /// The end of a run: active again, some work in peace, everything read through both nodes,
    /// the copies equal.
    pub(super) fn closing(&mut self) {
        let active = self.open[0].is_some() && self.open[0] == self.open[1];
        match self.stage {
            Stage::Faulty | Stage::Done => return,
            Stage::Healing(until) => self.wait_for_active(active, until),
            Stage::Peace | Stage::Reading if !active => {
                self.report(Finding::liveness("the session ended without a fault".to_owned()));
            }
            Stage::Peace => {
                if self.hosts_are_idle() {
                    self.work_or_read();
                }
            }
            Stage::Reading => {
                if self.hosts_are_idle() && self.is_over() {
                    self.finish();
                }
            }
        }
        if self.now > Instant::ZERO + Duration::from_secs(60) {
            self.report(Finding::liveness("a host waits for ever".to_owned()));
        }
        self.after(LOOK_EVERY, Event::Closing);
    }

    fn wait_for_active(&mut self, active: bool, until: Instant) {
        for side in [0, 1] {
            self.start(side);
        }
        // What was held up comes within a second, and a link that was cut may be given up then.
        if active && self.now + (HEALS_WITHIN - SETTLES_WITHIN) >= until {
            self.stage = Stage::Peace;
            self.burst(8);
            return;
        }
        if self.now < until {
            return;
        }
        let stashed = [0, 1].into_iter().find(|side| self.nodes[*side].stash.is_some());
        match stashed {
            // Neither copy may be the source: somebody has to bring the right one back.
            Some(side) => {
                self.coverage.count("session", "nobody serves until a copy is put back");
                self.put_back_stash(side);
                self.stage = Stage::Healing(self.now + HEALS_WITHIN);
            }
            None => {
                let states = [0, 1].map(|side| {
                    let process = self.nodes[side].process.as_ref();
                    process.map(|process| process.group.view(self.now))
                });
                self.report(Finding::liveness(format!("it does not heal: {states:#?}")));
            }
        }
    }

    fn work_or_read(&mut self) {
        let enough = self.history.operations.len() >= OPERATIONS_MIN
            && self.acknowledged >= ACKNOWLEDGED_MIN
            && self.contended >= CONTENDED_MIN;
        if enough {
            self.read_everything();
        } else {
            self.burst(8);
        }
    }

    fn finish(&mut self) {
        for volume in 0..self.plan.volumes.len() {
            self.check_equal(volume, "at the end");
        }
        if let Err(finding) = self.history.check() {
            self.report(finding);
        }
        self.stage = Stage::Done;
    }
}
