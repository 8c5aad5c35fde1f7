//! The group's thread of a node: events in, actions carried out, durable jobs part by part.
//!
//! Not here: what must be true of it (`checks.rs`), connections (`network.rs`).

use base::ids::VolumeIndex;
use base::time::{Duration, Instant};
use control_plane::polarization::{Action, DurableDone, DurableFault, DurableStep};
use control_plane::record::slots::SlotWrite;
use control_plane::record::{NodeRecord, VolumeHeader};
use datapath::port::VolumeReport;
use datapath::storage::IoFault;

use super::event::{Event, Letter, Side};
use super::faults::Trigger;
use super::medium::MediumWrite;
use super::process::{DurableJob, Process};
use super::world::World;

impl World {
    /// The group of a running process.
    pub(super) fn process(&mut self, side: Side) -> &mut Process {
        self.nodes[side].process.as_mut().expect("events of the dead are dropped")
    }

    pub(super) fn group_timer(&mut self, side: Side) {
        let now = self.now;
        let process = self.process(side);
        process.timer_at = None;
        if process.group.next_deadline().is_some_and(|at| at <= now) {
            process.group.handle_time(now);
        }
        self.drain_group(side);
    }

    pub(super) fn group_report(&mut self, side: Side, volume: usize, report: VolumeReport) {
        let now = self.now;
        self.trace.line(now, || format!("{side} volume {volume} reports {report:?}"));
        let process = self.process(side);
        process.group.handle_volume(now, VolumeIndex(volume as u16), report);
        self.drain_group(side);
    }

    /// Carries out what the group wants, and looks at when it wants to be called.
    pub(super) fn drain_group(&mut self, side: Side) {
        while let Some(process) = self.nodes[side].process.as_mut()
            && let Some(action) = process.group.poll_action()
        {
            self.check_group_action(side, &action);
            self.act(side, action);
        }
        self.check_group_queues(side);
        let life = self.nodes[side].life;
        let Some(process) = self.nodes[side].process.as_mut() else { return };
        let deadline = process.group.next_deadline();
        if let Some(at) = deadline
            && process.timer_at.is_none_or(|scheduled| at < scheduled)
        {
            process.timer_at = Some(at);
            self.queue.push(at.max(self.now), Event::GroupTimer { side, life });
        }
        self.maybe_dial(side);
    }

    fn act(&mut self, side: Side, action: Action) {
        let life = self.nodes[side].life;
        match action {
            Action::SendControl { conn_nonce, message } => {
                self.trace.line(self.now, || format!("{side} says {message:?}"));
                self.send_control(side, conn_nonce, message);
            }
            Action::CloseControl { conn_nonce, why } => {
                self.trace.line(self.now, || format!("{side} closes the connection: {why}"));
                self.close_control(side, conn_nonce);
            }
            Action::ConnectData { conn_nonce } => self.connect_data(side, conn_nonce),
            Action::Volume(volume, command) => {
                let volume = usize::from(volume.0);
                self.trace.line(self.now, || format!("{side} tells volume {volume} {command:?}"));
                self.post(side, volume, Letter::Command(command));
            }
            Action::Durable { ticket, steps } => {
                let job = DurableJob {
                    ticket,
                    steps: steps.into(),
                    parts: Default::default(),
                    lost_place: None,
                };
                let before = self.process(side).job.replace(job);
                assert!(before.is_none(), "one durable job at a time");
                self.begin_step(side);
            }
            Action::DiskLate(late) => self.disk_late(side, late),
            Action::PublishGate(gate) => {
                self.process(side).gate = gate;
                for volume in 0..self.plan.volumes.len() {
                    self.wake(side, volume);
                }
            }
            Action::Decision(decision) => {
                self.trace.line(self.now, || {
                    format!(
                        "{side} {} -> {} ({}): {}",
                        decision.from.word(),
                        decision.to.word(),
                        decision.session,
                        decision.why
                    )
                });
                let (from, to) = (decision.from.word(), decision.to.word());
                self.coverage.count("transition", format!("{from} -> {to}"));
            }
            Action::Stopped => {
                let delay = self.jitter(500_000) + Duration::from_millis(1);
                self.after(delay, Event::Exit { side, life });
            }
        }
    }

    /// A letter for a volume; letters of one node keep their order.
    pub(super) fn post(&mut self, side: Side, volume: usize, letter: Letter) {
        let delay = self.hop();
        let (now, life) = (self.now, self.nodes[side].life);
        let thread = self.process(side).volumes[volume].as_mut().expect("no turn is under way");
        let at = (now + delay).max(thread.letter_at);
        thread.letter_at = at;
        self.queue.push(at, Event::Letter { side, life, volume, letter });
    }

    /// The next step of the job begins, or the job is done.
    fn begin_step(&mut self, side: Side) {
        let life = self.nodes[side].life;
        let Some(step) = self.process(side).job.as_ref().and_then(|job| job.steps.front().cloned())
        else {
            let job = self.process(side).job.take().expect("called with a job");
            let done = DurableDone { lost_place: job.lost_place };
            let now = self.now;
            self.process(side).group.handle_durable(now, job.ticket, Ok(done));
            self.drain_group(side);
            return;
        };
        self.trace.line(self.now, || format!("{side} makes durable {step:?}"));
        let parts = self.parts(side, &step);
        let process = self.process(side);
        let job = process.job.as_mut().expect("there is a job");
        job.parts = match step {
            DurableStep::WriteRecord(record) => record_parts(&record, process.plan.begin()),
            DurableStep::SyncData(_)
            | DurableStep::WriteStamp(..)
            | DurableStep::WriteHeader(..) => parts,
        }
        .into();
        let delay = self.part_delay(side);
        self.after(delay, Event::Durable { side, life });
        self.trigger_durable(side);
    }

    fn part_delay(&mut self, side: Side) -> Duration {
        let sync = self.plan.latencies.sync;
        self.jitter(sync) * self.nodes[side].slowness.min(50)
    }

    fn parts(&self, side: Side, step: &DurableStep) -> Vec<MediumWrite> {
        match step {
            DurableStep::SyncData(_) | DurableStep::WriteRecord(_) => Vec::new(),
            DurableStep::WriteStamp(volume, stamp) => {
                vec![MediumWrite::Stamp { volume: usize::from(volume.0), bytes: stamp.encode(0) }]
            }
            DurableStep::WriteHeader(volume, header) => {
                vec![self.header_write(side, *volume, header)]
            }
        }
    }

    fn header_write(&self, side: Side, volume: VolumeIndex, header: &VolumeHeader) -> MediumWrite {
        let volume = usize::from(volume.0);
        let slot = self.nodes[side].medium.next_header_slot(volume);
        MediumWrite::Header { volume, slot, bytes: Box::new(header.encode()) }
    }

    /// One part of the job has reached the medium, or failed.
    pub(super) fn durable_part_done(&mut self, side: Side) {
        let life = self.nodes[side].life;
        if self.nodes[side].hung.is_some() {
            self.after(Duration::from_millis(20), Event::Durable { side, life });
            return;
        }
        let job = self.process(side).job.as_mut().expect("a job is under way");
        let step = job.steps.front().cloned().expect("a step is under way");
        let result = match job.parts.pop_front() {
            None => match &step {
                DurableStep::SyncData(volume) => self.sync(side, *volume),
                _ => unreachable!("every other step has its parts"),
            },
            Some(write) => self.write_part(side, &write),
        };
        if let Err(fault) = result {
            let job = self.process(side).job.take().expect("it is under way");
            let now = self.now;
            self.process(side).group.handle_durable(now, job.ticket, Err(fault));
            self.drain_group(side);
            return;
        }
        let job = self.process(side).job.as_mut().expect("it is under way");
        if job.parts.is_empty() {
            job.steps.pop_front();
            self.check_step_done(side, &step);
            self.begin_step(side);
        } else {
            let delay = self.part_delay(side);
            self.after(delay, Event::Durable { side, life });
        }
    }

    fn sync(&mut self, side: Side, volume: VolumeIndex) -> Result<(), DurableFault> {
        let node = &mut self.nodes[side];
        let result = node.disks[usize::from(volume.0)].sync(&mut self.rng);
        if result.is_err() {
            self.history.lost(side);
            self.coverage.count("disk", "sync failed");
            self.remember_failure(side);
        }
        result.map_err(|error| fault(Some(volume), "flush the data", error))
    }

    /// Below /run, at once, where there is such a folder.
    pub(super) fn remember_failure(&mut self, side: Side) {
        self.trigger(Trigger::DiskFails);
        if self.plan.run_files {
            let node = &mut self.nodes[side];
            node.machine.tells_of_failure = true;
            node.disks.iter_mut().for_each(|disk| disk.failed_untold = false);
        }
    }

    fn disk_late(&mut self, side: Side, late: bool) {
        self.coverage.count("disk", if late { "does not answer" } else { "answers again" });
        if self.plan.run_files {
            self.nodes[side].machine.tells_of_late_disk = late;
        }
    }

    fn write_part(&mut self, side: Side, write: &MediumWrite) -> Result<(), DurableFault> {
        let MediumWrite::Record { to, .. } = write else {
            if let MediumWrite::Stamp { volume, .. } = write {
                self.nodes[side].machine.unsynced_stamps[*volume] = None;
            }
            self.nodes[side].medium.write(write);
            return Ok(());
        };
        let node = &mut self.nodes[side];
        if !node.bad_places[to.place] {
            // The production writer makes a missing file anew.
            node.medium.places[to.place].get_or_insert([[0; 4096]; 2]);
            node.medium.write(write);
            self.process(side).plan.written(*to);
            return Ok(());
        }
        self.coverage.count("record", "a place failed");
        let process = self.process(side);
        let job = process.job.as_mut().expect("it is under way");
        let Some(DurableStep::WriteRecord(record)) = job.steps.front() else {
            unreachable!("a record is being written");
        };
        job.lost_place = Some(format!("place {}", to.place));
        job.parts = record_parts(record, process.plan.failed(*to)).into();
        if job.parts.is_empty() {
            self.coverage.count("record", "both places failed");
            return Err(fault(None, "write the record", IoFault::System(5)));
        }
        Ok(())
    }

    /// The record as it would be found now.
    pub(super) fn durable_record(&self, side: Side) -> Option<NodeRecord> {
        self.nodes[side].medium.record()
    }

    /// When something of this node was last delivered to its group in order.
    pub(super) fn send_report(&mut self, side: Side, volume: usize, report: VolumeReport) {
        let delay = self.hop();
        let (now, life) = (self.now, self.nodes[side].life);
        let process = self.process(side);
        let at: Instant = (now + delay).max(process.report_at);
        process.report_at = at;
        self.queue.push(at, Event::Report { side, life, volume, report });
    }
}

fn record_parts(record: &NodeRecord, writes: Vec<SlotWrite>) -> Vec<MediumWrite> {
    let encode = |single| Box::new(NodeRecord { single, ..record.clone() }.encode());
    let parts = writes.into_iter().map(|to| MediumWrite::Record { to, bytes: encode(to.single) });
    parts.collect()
}

fn fault(volume: Option<VolumeIndex>, operation: &'static str, fault: IoFault) -> DurableFault {
    DurableFault { volume, operation, path: "a file".to_owned(), fault }
}
