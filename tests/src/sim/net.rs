//! Connections between the two nodes: each direction is a stream that arrives in order or ends.
//!
//! Faults assumed: any delay; a link that lets nothing through in one direction or both and gives
//! everything back when it heals, as TCP does; a reset that eats what is under way; an end that
//! vanishes without a word.

use std::collections::VecDeque;

use base::ids::{ConnNonce, VolumeIndex};
use base::time::Instant;
use bytes::Bytes;

use super::event::Side;

/// One connection; never used again.
pub(super) type ConnId = usize;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnKind {
    Control,
    Data(VolumeIndex),
}

pub(super) enum Segment {
    /// A frame of the control connection.
    Control(Vec<u8>),
    /// First frame of a data connection.
    Bind,
    Bytes(Bytes),
    /// The other end closed or the connection was reset.
    End(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Open,
    /// Closed by its own process; the kernel says so to the other end.
    Closed,
    /// The machine has lost its memory of it.
    Vanished,
}

/// One direction of a connection, named by where it leads to.
#[derive(Default)]
pub(super) struct Direction {
    pub(super) under_way: VecDeque<Segment>,
    /// Deliveries that found the link cut.
    pub(super) stalled: usize,
    pub(super) last_arrival: Instant,
    /// Arrived, not yet taken by a volume thread.
    pub(super) arrived: VecDeque<Segment>,
    /// Control frames sent and taken.
    pub(super) sent: u64,
    pub(super) taken: u64,
}

pub(super) struct Conn {
    pub(super) kind: ConnKind,
    pub(super) nonce: ConnNonce,
    pub(super) ends: [End; 2],
    /// Process at each end.
    pub(super) lives: [u64; 2],
    pub(super) to: [Direction; 2],
    /// The accepting end has seen the first frame.
    pub(super) known: bool,
    /// What is under way is held up, whatever the link does.
    pub(super) held: bool,
}

impl Conn {
    pub(super) fn new(kind: ConnKind, nonce: ConnNonce, lives: [u64; 2]) -> Self {
        Self {
            kind,
            nonce,
            ends: [End::Open; 2],
            lives,
            to: Default::default(),
            known: false,
            held: false,
        }
    }

    pub(super) fn is_open(&self, side: Side) -> bool {
        self.ends[side] == End::Open
    }
}
