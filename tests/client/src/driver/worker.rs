//! One connection slot of a run: connects, keeps requests in flight, reconnects.
//! Owns: its records.
//! Not here: the run as a whole (the parent).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Config, Shared, now_ns};
use crate::connection::{ClientError, Connection, disconnect_header};
use crate::history::{Action, Outcome, Record, decode_blocks};
use crate::session::{Reply, Session};
use crate::stamp;
use crate::transport::Transport;
use crate::wire::{Request, errno};
use crate::workload::{Planned, Workload};

/// Pause between two attempts to connect.
const RETRY: Duration = Duration::from_millis(20);
/// Longest wait for each step of a connection's beginning: a stopped process still accepts.
const OPEN: Duration = Duration::from_secs(2);
/// Longest wait for the socket in one turn; the end of a run is noticed after it.
const TURN: Duration = Duration::from_millis(50);
/// How long the requests in flight at the end of a run are waited for.
const DRAIN: Duration = Duration::from_secs(10);
/// Bytes read from the socket in one call.
const READ_BYTES: usize = 256 << 10;
/// Wrong answers that one worker writes down; the first is what matters.
const WRONG_MAX: usize = 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) node: usize,
    structured: bool,
    config: Arc<Config>,
    shared: Arc<Shared>,
    workload: Workload,
    /// Number of the connection in the whole run.
    connection: u64,
    pub(super) records: Vec<Record>,
    pub(super) wrong: Vec<String>,
    pub(super) connections_lost: u64,
    pub(super) connections_silent: u64,
}

/// What one connection has in flight.
struct Flight {
    transport: Transport,
    session: Session,
    output: Vec<u8>,
    sent: usize,
    /// Cookie to index of the record.
    out: BTreeMap<u64, usize>,
    heard: Instant,
    drain_until: Option<Instant>,
    /// The server said that it stops: nothing more is asked here.
    server_stops: bool,
}

impl Worker {
    pub(super) fn new(node: usize, index: u64, config: Arc<Config>, shared: Arc<Shared>) -> Self {
        let slot = node as u64 * config.connections + index;
        let workload = Workload::new(config.seed, slot, config.mix, config.area);
        Self {
            node,
            structured: config.structured && index.is_multiple_of(2),
            config,
            shared,
            workload,
            connection: slot + 1,
            records: Vec::new(),
            wrong: Vec::new(),
            connections_lost: 0,
            connections_silent: 0,
        }
    }

    pub(super) fn run(mut self) -> Self {
        let mut unreachable_since = None;
        while !self.shared.is_stopped() {
            let mut target = self.config.target(self.node, self.structured);
            target.timeout = OPEN;
            match Connection::open(&target) {
                Ok(connection) => {
                    unreachable_since = None;
                    let (transport, session) = connection.into_parts();
                    if let Err(error) = self.serve(transport, session) {
                        self.note_end(&error);
                    }
                    self.connection += self.config.connections * self.config.nodes.len() as u64;
                }
                Err(ClientError::Io(_) | ClientError::Refused { .. }) => {
                    let since = *unreachable_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > self.config.patience {
                        break;
                    }
                    self.shared.pause(RETRY);
                }
                Err(error) => {
                    self.note_wrong(format!("node {}: {error}", self.node));
                    break;
                }
            }
        }
        self.shared.worker_ends();
        self
    }

    fn note_end(&mut self, error: &ClientError) {
        self.connections_lost += 1;
        match error {
            ClientError::Protocol(error) => {
                self.note_wrong(format!("node {}: {error}", self.node));
            }
            ClientError::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.connections_silent += 1;
            }
            _ => {}
        }
    }

    fn note_wrong(&mut self, finding: String) {
        if self.wrong.len() < WRONG_MAX {
            self.wrong.push(finding);
        }
    }

    /// Uses one connection until the run ends or the connection does.
    fn serve(&mut self, mut transport: Transport, session: Session) -> Result<(), ClientError> {
        transport.stream().set_nonblocking(true)?;
        let mut flight = Flight {
            transport,
            session,
            output: Vec::new(),
            sent: 0,
            out: BTreeMap::new(),
            heard: Instant::now(),
            drain_until: None,
            server_stops: false,
        };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            self.fill(&mut flight);
            flight.push_output()?;
            if flight.out.is_empty() && (flight.server_stops || self.shared.is_stopped()) {
                return flight.leave();
            }
            flight.wait()?;
            if flight.pull_input(&mut buffer)? {
                let end_ns = now_ns();
                while let Some(reply) = flight.session.poll_reply()? {
                    let index = flight.out.remove(&reply.cookie).expect("the session knows it");
                    flight.server_stops |= reply.error == errno::ESHUTDOWN;
                    self.take_reply(index, reply, end_ns);
                }
            }
            flight.check_time(self.config.silence, self.shared.is_stopped())?;
        }
    }

    /// Puts requests in flight up to the depth.
    fn fill(&mut self, flight: &mut Flight) {
        while flight.out.len() < self.config.depth
            && !flight.server_stops
            && !self.shared.is_stopped()
        {
            let Some(id) = self.shared.take_id() else { return };
            let planned = self.workload.plan();
            let request = self.request(planned, id);
            if flight.out.is_empty() {
                flight.heard = Instant::now();
            }
            self.records.push(Record {
                node: self.node,
                connection: self.connection,
                action: planned.action,
                fua: planned.fua,
                id,
                offset: planned.offset,
                length: planned.length,
                begin_ns: now_ns(),
                end_ns: None,
                outcome: Outcome::Unknown,
                seen: Vec::new(),
            });
            let cookie = flight.session.ask(&request, &mut flight.output);
            flight.out.insert(cookie, self.records.len() - 1);
        }
    }

    fn request(&self, planned: Planned, id: u64) -> Request {
        let Planned { action, offset, length, fua, no_hole } = planned;
        match action {
            Action::Read => Request::Read { offset, length },
            Action::Write => {
                let mut data = vec![0; length as usize];
                let first_block = offset / stamp::BLOCK_BYTES as u64;
                stamp::fill_blocks(&mut data, self.config.writer, id, first_block);
                Request::Write { offset, data: Bytes::from(data), fua }
            }
            Action::WriteZeroes => Request::WriteZeroes { offset, length, fua, no_hole },
            Action::Trim => Request::Trim { offset, length, fua },
            Action::Flush => Request::Flush,
            Action::Cache => Request::Cache { offset, length },
        }
    }

    fn take_reply(&mut self, index: usize, reply: Reply, end_ns: u64) {
        let record = &mut self.records[index];
        record.end_ns = Some(end_ns);
        if reply.error != 0 {
            record.outcome = Outcome::Error(reply.error);
            return;
        }
        record.outcome = Outcome::Done;
        self.shared.done[self.node].fetch_add(1, Ordering::Relaxed);
        if record.action != Action::Read {
            return;
        }
        match decode_blocks(self.config.writer, &reply.data, record.blocks().start) {
            Ok(seen) => record.seen = seen,
            Err(finding) => {
                // Without values it cannot be put in order; the run is wrong anyway.
                record.outcome = Outcome::Unknown;
                self.note_wrong(format!("read through node {}: {finding}", self.node));
            }
        }
    }
}

impl Flight {
    fn push_output(&mut self) -> io::Result<()> {
        while self.sent < self.output.len() {
            match self.transport.write(&self.output[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.sent = 0;
        match self.transport.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            done => done,
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut events = PollFlags::IN;
        if self.sent < self.output.len() || self.transport.wants_write() {
            events |= PollFlags::OUT;
        }
        let limit = Timespec::try_from(TURN).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(self.transport.socket(), events)], Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what has arrived; whether anything has.
    fn pull_input(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut any = false;
        loop {
            match self.transport.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.session.feed(&buffer[..count]);
                    any = true;
                    self.heard = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What came before a reset still counts.
                Err(_) if any => return Ok(any),
                Err(error) => return Err(error),
            }
        }
    }

    fn check_time(&mut self, silence: Duration, stopped: bool) -> io::Result<()> {
        let now = Instant::now();
        if stopped {
            let until = *self.drain_until.get_or_insert(now + DRAIN);
            if now >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        if !self.out.is_empty() && now.duration_since(self.heard) > silence {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Says DISC; nothing is in flight.
    fn leave(mut self) -> Result<(), ClientError> {
        self.transport.stream().set_nonblocking(false)?;
        self.transport.write_all(&disconnect_header().encode())?;
        Ok(self.transport.close()?)
    }
}
