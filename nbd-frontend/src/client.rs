//! One attached NBD connection: requests in, replies out (NBD proto: "Transmission"; NBD.md 1.3).
//!
//! Owns: the client's requests in flight.   In: bytes, completions, the state of the socket.
//! Out: checked requests, bytes of replies, and that the connection is over.
//! Invariants: a request is answered exactly once or its connection ends; a tag is used again only
//! after its completion came; nothing is allocated by a length that was not checked. G2a a change
//! that is whole in memory goes to the volume at once, also above the caps: only what changes
//! nothing waits here for room.
//!
//! Memory of one client: the caps of `limits` bound what is begun while there is room, and above
//! them nothing is received. So a piece of input that was received below them brings at most
//! itself on top: `CLIENT_BYTES_MAX` and one piece of payload, `CLIENT_REQUESTS_MAX` and one
//! piece's headers of requests, one piece of what waits, and `CLIENT_BACKLOG_MAX`, one largest
//! read and one piece's worth of refusals of replies. All clients of a volume share a [`Budget`].
//! Faults assumed: the client may send anything, stop reading or vanish at any byte.
//! Not here: the socket (`base::io::socket`), who serves and when (datapath), ghost writes: the
//! shell checks the socket before a write gets its place (PROTOCOL 2.6 G2), except after a
//! goodbye ([`Client::has_said_goodbye`]).
//!
//! Replies of a turn are collected: small ones share one piece of output, the data of a read is
//! passed on as it came.

mod check;
mod end;
mod replies;
mod requests;

use std::collections::VecDeque;

use base::limits::{
    CLIENT_BACKLOG_MAX, CLIENT_BYTES_MAX, CLIENT_BYTES_MIN, CLIENT_PIECE_MAX, REQUEST_BYTES_MAX,
    SKIPPED_BYTES_MAX,
};
use base::payload::PayloadBuf;
use base::request::{Completion, Content, Operation, RequestError, Write};
use base::time::Instant;
use bytes::{Buf, Bytes, BytesMut};

use self::check::Checked;
pub use self::end::End;
use self::replies::Replies;
use self::requests::{Entry, Requests};
use crate::budget::{Budget, Share};
use crate::exports::Terms;
use crate::proto::errno::Failure;
use crate::proto::request::{Command, REQUEST_BYTES, Request};

const _: () = assert!(
    REQUEST_BYTES_MAX as u64 + CLIENT_BACKLOG_MAX as u64 <= CLIENT_BYTES_MAX,
    "one largest request always fits"
);

/// Where the connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Requests are taken.
    Open,
    /// The node stops: requests are answered with ESHUTDOWN until those under way are done.
    Stopping,
    /// The client said goodbye: nothing is read any more, what is under way is done.
    Leaving,
    /// Over; nothing goes in or out any more.
    Over(End),
}

/// What the next byte is.
#[derive(Debug)]
enum Input {
    /// Of a request's header, of which so many bytes are here. A whole one is of a write that has
    /// no room and has not come as a whole.
    Header(usize),
    /// Of the payload of a write that will be asked for.
    Payload { payload: PayloadBuf, request: Request, write: Write, begun: Instant },
    /// Of the payload of a write that is refused.
    Skip { missing: u32, cookie: u64, command: Command, failure: Failure },
}

/// A request that the volume works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InFlight {
    /// What was asked.
    pub command: Command,
    /// Payload, in either direction.
    pub bytes: u64,
    /// When it was read.
    pub begun: Instant,
}

/// One attached connection.
#[derive(Debug)]
pub struct Client {
    terms: Terms,
    phase: Phase,
    header: [u8; REQUEST_BYTES],
    input: Input,
    /// Bytes behind the header of a write that waits for room.
    held: BytesMut,
    /// What changes nothing and waits for room, oldest first.
    parked: VecDeque<Request>,
    requests: Requests,
    ready: VecDeque<(u32, Operation)>,
    replies: Replies,
    /// Reply bytes that the socket holds, as the shell said last.
    backlog: usize,
    /// Of the volume's memory.
    share: Share,
}

impl Client {
    /// A client that was attached on these terms, to a volume whose clients share `budget`.
    pub fn new(terms: Terms, budget: &Budget) -> Self {
        let replies = Replies::new(terms.structured);
        Self {
            terms,
            phase: Phase::Open,
            header: [0; REQUEST_BYTES],
            input: Input::Header(0),
            held: BytesMut::new(),
            parked: VecDeque::new(),
            requests: Requests::default(),
            ready: VecDeque::new(),
            replies,
            backlog: 0,
            share: budget.share(),
        }
    }

    /// What the client was promised.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Bytes came. All are taken, and every change that has come as a whole is handed out at once
    /// (G2a); so a shell that asks [`Self::wants_input`] before it receives bounds what is kept
    /// above the caps by what it receives at a time.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if self.held.is_empty() {
            let used = self.take_all(now, bytes);
            if self.reads_on() {
                self.held.extend_from_slice(&bytes[used..]);
            }
        } else {
            self.held.extend_from_slice(bytes);
            self.take_held(now);
        }
        self.settle();
    }

    /// The volume has finished a request that [`Self::poll_request`] handed out.
    pub fn handle_completion(&mut self, tag: u32, completion: Completion) {
        let entry = self.requests.finish(tag);
        if !matches!(self.phase, Phase::Over(_)) {
            self.reply(entry, completion);
        }
        self.settle();
    }

    /// `bytes` of the replies are queued in the socket and not taken by the kernel. To be told
    /// after each attempt to send.
    pub fn handle_backlog(&mut self, bytes: usize) {
        self.backlog = bytes;
        self.settle();
    }

    /// It is this client's turn: goes on with what waited for room. Nothing else does, so that
    /// the shell says who gets the room that came free.
    pub fn resume(&mut self, now: Instant) {
        while let Some(request) = self.parked.front().copied() {
            let checked = self.check(&request);
            if !self.answer(now, &request, checked) {
                break;
            }
            self.parked.pop_front();
        }
        self.take_held(now);
        self.settle();
    }

    /// Whether [`Self::resume`] would do something now.
    pub fn can_resume(&self) -> bool {
        match self.parked.front() {
            Some(request) => match self.check(request) {
                Ok(Checked::Ask(_)) => self.has_room(charge_of(request)),
                Ok(Checked::Nothing | Checked::Receive(_)) | Err(_) => !self.is_backlogged(),
            },
            None => match self.input {
                Input::Header(REQUEST_BYTES) => {
                    self.reads_on() && self.has_room(self.waiting_write().unwrap_or_default())
                }
                Input::Header(_) | Input::Payload { .. } | Input::Skip { .. } => false,
            },
        }
    }

    /// Whether something waits for room.
    pub fn is_waiting(&self) -> bool {
        let write_waits = matches!(self.input, Input::Header(REQUEST_BYTES)) && self.reads_on();
        write_waits || !self.parked.is_empty()
    }

    /// The client will send no more. Without a goodbye everything that the volume was not yet
    /// asked for is dropped: a host that lost its connection may already try elsewhere.
    pub fn handle_peer_closed(&mut self) {
        match self.phase {
            Phase::Open | Phase::Stopping => self.hang_up(End::PeerClosed),
            Phase::Leaving | Phase::Over(_) => {}
        }
        self.settle();
    }

    /// The connection broke. After a goodbye, what was asked for is done all the same.
    pub fn handle_connection_lost(&mut self) {
        match self.phase {
            Phase::Open | Phase::Stopping => self.hang_up(End::ConnectionLost),
            Phase::Leaving => self.replies.mute(),
            Phase::Over(_) => {}
        }
        self.settle();
    }

    /// This node stops: nothing new is begun, everything else is refused, and when what is under
    /// way is answered the connection ends.
    pub fn handle_shutdown(&mut self, now: Instant) {
        if self.phase == Phase::Open {
            self.phase = Phase::Stopping;
            while let Some((tag, _)) = self.ready.pop_front() {
                let entry = self.requests.withdraw(tag);
                self.fail(entry.command, entry.cookie, RequestError::ShuttingDown.into());
            }
            self.resume(now);
        }
        self.settle();
    }

    /// The next request for the volume, and the tag by which its completion is known.
    pub fn poll_request(&mut self) -> Option<(u32, Operation)> {
        let (tag, operation) = self.ready.pop_front()?;
        self.requests.hand_out(tag);
        Some((tag, operation))
    }

    /// The next piece of output.
    pub fn poll_output(&mut self) -> Option<Bytes> {
        self.replies.poll()
    }

    /// Whether there is nothing to poll. A shell that waits for its sockets before that may wait
    /// for ever: what is left may be all that the client will ever ask.
    pub fn is_quiet(&self) -> bool {
        self.ready.is_empty() && self.replies.is_empty() && !self.can_resume()
    }

    /// Whether bytes of the client should be received now. Asked again after every event.
    pub fn wants_input(&self) -> bool {
        if !self.reads_on() {
            return false;
        }
        match self.input {
            // Its bytes have their room.
            Input::Payload { .. } => true,
            Input::Header(REQUEST_BYTES) => false,
            Input::Header(_) | Input::Skip { .. } => self.is_below_caps(1),
        }
    }

    /// How many bytes to receive at a time, at most: while a header is due, few enough headers.
    /// While the volume has no room that is what the payload under way, which has its room, still
    /// misses.
    pub fn input_bytes_max(&self) -> usize {
        match &self.input {
            Input::Payload { payload, .. } if !self.share.has_room(self.memory_bytes()) => {
                payload.missing()
            }
            Input::Payload { payload, .. } => payload.missing().max(CLIENT_PIECE_MAX),
            Input::Header(_) | Input::Skip { .. } => CLIENT_PIECE_MAX,
        }
    }

    /// The connection is over and may be closed: at once, or because nothing is left to do or to
    /// send.
    pub fn ended(&self) -> Option<End> {
        let idle = self.requests.is_empty() && self.parked.is_empty() && self.replies.is_empty();
        match self.phase {
            Phase::Over(end) => Some(end),
            Phase::Leaving => idle.then_some(End::Disconnected),
            Phase::Stopping => idle.then_some(End::ShuttingDown),
            Phase::Open => None,
        }
    }

    /// Whether the client has announced that it will close the connection; its requests are to be
    /// done even if it has closed it already.
    pub fn has_said_goodbye(&self) -> bool {
        self.phase == Phase::Leaving
    }

    /// The request of this tag, while it is in flight.
    pub fn in_flight(&self, tag: u32) -> Option<InFlight> {
        let in_flight = |e: &requests::Entry| {
            let (command, bytes, begun) = (e.command, e.charge, e.begun);
            InFlight { command, bytes, begun }
        };
        self.requests.find(tag).map(in_flight)
    }

    /// Requests that have no reply yet.
    pub fn requests_in_flight(&self) -> usize {
        self.requests.len()
    }

    /// Payload bytes of those requests.
    pub fn bytes_in_flight(&self) -> u64 {
        self.requests.bytes()
    }

    fn reads_on(&self) -> bool {
        match self.phase {
            Phase::Open | Phase::Stopping => true,
            Phase::Leaving | Phase::Over(_) => false,
        }
    }

    fn unsent_bytes(&self) -> usize {
        self.replies.bytes() + self.backlog
    }

    fn is_backlogged(&self) -> bool {
        self.unsent_bytes() >= CLIENT_BACKLOG_MAX
    }

    /// What this client holds of the volume's memory.
    fn memory_bytes(&self) -> u64 {
        let payload = match &self.input {
            Input::Payload { request, .. } => u64::from(request.length),
            Input::Header(_) | Input::Skip { .. } => 0,
        };
        let waiting = self.held.len() + self.parked.len() * size_of::<Request>();
        self.requests.bytes() + payload + (self.unsent_bytes() + waiting) as u64
    }

    /// Payload bytes of the write that waits; none if the header is no request.
    fn waiting_write(&self) -> Option<u64> {
        Request::parse(&self.header).ok().map(|request| u64::from(request.payload_bytes()))
    }

    fn take_held(&mut self, now: Instant) {
        let mut held = std::mem::take(&mut self.held);
        let used = self.take_all(now, &held);
        held.advance(used);
        if self.reads_on() && !held.is_empty() {
            self.held = held;
        }
    }

    /// Takes of `bytes` what can be taken now, and returns how much that was.
    fn take_all(&mut self, now: Instant, bytes: &[u8]) -> usize {
        let mut used = 0;
        while self.reads_on() {
            let (count, done) = self.take(now, &bytes[used..]);
            used += count;
            if !done {
                break;
            }
        }
        used
    }

    /// One step of reading: how many bytes it took, and whether another one may follow.
    fn take(&mut self, now: Instant, bytes: &[u8]) -> (usize, bool) {
        match &mut self.input {
            Input::Header(filled) => {
                let count = bytes.len().min(REQUEST_BYTES - *filled);
                self.header[*filled..*filled + count].copy_from_slice(&bytes[..count]);
                *filled += count;
                let whole = *filled == REQUEST_BYTES;
                (count, whole && self.handle_header(now, &bytes[count..]))
            }
            Input::Payload { payload, .. } => {
                let count = payload.fill_from(bytes);
                let whole = payload.missing() == 0;
                if whole {
                    self.finish_payload();
                }
                (count, whole)
            }
            Input::Skip { missing, cookie, command, failure } => {
                let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(*missing);
                *missing -= count;
                let whole = *missing == 0;
                if whole {
                    let (cookie, command, failure) = (*cookie, *command, *failure);
                    self.input = Input::Header(0);
                    self.fail(command, cookie, failure);
                }
                (count as usize, whole)
            }
        }
    }

    /// A request's header is whole and `behind` has followed it. `false`: it is a write that waits.
    fn handle_header(&mut self, now: Instant, behind: &[u8]) -> bool {
        let request = match Request::parse(&self.header) {
            Ok(request) => request,
            Err(magic) => {
                self.hang_up(End::BadMagic(magic));
                return true;
            }
        };
        if request.command == Command::Disconnect {
            self.phase = Phase::Leaving;
            return true;
        }
        match self.check(&request) {
            Ok(Checked::Receive(write)) => return self.receive(now, request, write, behind),
            Err(failure) if request.payload_bytes() > 0 => self.skip(&request, failure),
            Ok(Checked::Ask(operation @ Operation::Write(_))) => {
                self.input = Input::Header(0);
                self.begin(now, &request, 0, operation);
            }
            checked => {
                self.input = Input::Header(0);
                if !self.parked.is_empty() || !self.answer(now, &request, checked) {
                    self.parked.push_back(request);
                }
            }
        }
        true
    }

    fn check(&self, request: &Request) -> Result<Checked, Failure> {
        match self.phase {
            Phase::Stopping => Err(RequestError::ShuttingDown.into()),
            Phase::Open | Phase::Leaving | Phase::Over(_) => {
                check::check(request, &self.terms).map_err(Failure::Refused)
            }
        }
    }

    /// Refuses a request when its payload has passed by.
    fn skip(&mut self, request: &Request, failure: Failure) {
        let missing = request.payload_bytes();
        if missing > SKIPPED_BYTES_MAX {
            self.hang_up(End::AbsurdLength(missing));
        } else {
            let Request { cookie, command, .. } = *request;
            self.input = Input::Skip { missing, cookie, command, failure };
        }
    }

    /// Does what a request without payload needs. `false`: there is no room for it now.
    fn answer(
        &mut self,
        now: Instant,
        request: &Request,
        checked: Result<Checked, Failure>,
    ) -> bool {
        if self.is_backlogged() {
            return false;
        }
        match checked {
            Err(failure) => self.fail(request.command, request.cookie, failure),
            Ok(Checked::Nothing) => self.replies.put_done(request.cookie, request.command),
            Ok(Checked::Ask(operation)) => {
                let charge = charge_of(request);
                if !self.has_room(charge) {
                    return false;
                }
                self.begin(now, request, charge, operation);
            }
            Ok(Checked::Receive(_)) => unreachable!("a payload is received before its answer"),
        }
        true
    }

    fn begin(&mut self, now: Instant, request: &Request, charge: u64, operation: Operation) {
        let tag = self.requests.begin(Entry::new(request, charge, now));
        self.ready.push_back((tag, operation));
    }

    /// Begins the payload of a write that has room, or that `behind` has as a whole already.
    fn receive(&mut self, now: Instant, request: Request, write: Write, behind: &[u8]) -> bool {
        // The check has bounded the length by the largest payload.
        let length = request.length as usize;
        if behind.len() < length && !self.is_below_caps(length as u64) {
            return false;
        }
        let payload = PayloadBuf::with_length(length);
        self.input = Input::Payload { payload, request, write, begun: now };
        true
    }

    fn finish_payload(&mut self) {
        let Input::Payload { payload, request, mut write, begun } =
            std::mem::replace(&mut self.input, Input::Header(0))
        else {
            unreachable!("called while a payload is read");
        };
        if self.phase == Phase::Stopping {
            let failure = RequestError::ShuttingDown.into();
            return self.fail(request.command, request.cookie, failure);
        }
        write.content = Content::Data(payload.freeze());
        let charge = write.range.length();
        self.begin(begun, &request, charge, Operation::Write(write));
    }

    /// Whether nothing waits and `charge` bytes more have room.
    fn is_below_caps(&self, charge: u64) -> bool {
        self.parked.is_empty() && self.has_room(charge)
    }

    /// Whether `charge` bytes more stay within the caps. The volume takes one largest request more
    /// than its bound, so that small ones cannot keep large ones out, and a little of each client
    /// whatever the others hold.
    fn has_room(&self, charge: u64) -> bool {
        let used = self.requests.bytes() + self.unsent_bytes() as u64;
        let memory = self.memory_bytes();
        let volume_has_room =
            charge == 0 || self.share.has_room(memory) || memory + charge <= CLIENT_BYTES_MIN;
        volume_has_room
            && self.requests.has_room()
            && !self.is_backlogged()
            && used + charge <= CLIENT_BYTES_MAX
    }

    fn reply(&mut self, entry: Entry, completion: Completion) {
        match completion {
            Completion::Failed(error) => self.fail(entry.command, entry.cookie, error.into()),
            Completion::Data(data) => {
                assert_eq!(entry.command, Command::Read, "only a read has data");
                assert_eq!(data.len() as u64, entry.charge, "a read returns what was asked for");
                self.replies.put_data(entry.cookie, entry.offset, data);
            }
            Completion::Done => {
                assert_ne!(entry.command, Command::Read, "a read returns data");
                self.replies.put_done(entry.cookie, entry.command);
            }
        }
    }

    fn fail(&mut self, command: Command, cookie: u64, failure: Failure) {
        tracing::debug!(export = %self.terms.export.name, command = command.name(), %failure,
            "request refused");
        self.replies.put_error(cookie, failure);
    }

    /// Ends the connection at once. The volume finishes what it was asked for; the rest is dropped.
    fn hang_up(&mut self, end: End) {
        self.phase = Phase::Over(end);
        self.input = Input::Header(0);
        self.held = BytesMut::new();
        self.parked.clear();
        self.replies.mute();
        while let Some((tag, _)) = self.ready.pop_front() {
            self.requests.withdraw(tag);
        }
    }

    /// The end of an event.
    fn settle(&mut self) {
        self.share.set(self.memory_bytes());
        self.check_invariants();
    }

    fn check_invariants(&self) {
        assert!(self.ready.len() <= self.requests.len(), "what waits is in flight");
        if !self.reads_on() {
            assert!(self.held.is_empty(), "nothing is kept of what will not be read");
        }
        if !self.held.is_empty() {
            assert!(matches!(self.input, Input::Header(REQUEST_BYTES)), "bytes wait for a reason");
            let whole = |length| self.held.len() as u64 >= length;
            assert!(
                self.waiting_write().is_some_and(|length| !whole(length)),
                "G2a: a write that is whole in memory is handed out"
            );
        }
    }
}

/// Payload bytes of the answer to a request without payload.
fn charge_of(request: &Request) -> u64 {
    if request.command == Command::Read { u64::from(request.length) } else { 0 }
}

#[cfg(test)]
mod tests;
