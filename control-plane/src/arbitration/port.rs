//! All that the group's core and its shell say to each other.

use base::ids::{ConnNonce, NodeName, Session, Ticket, TokenNonce, VolumeIndex, WitnessToken};
use datapath::port::VolumeCommand;
use witness::wire::{Note, Verdict};

use super::grant::ReadRight;
use super::message::Message;
use super::state::State;
use crate::polarization::DurableStep;

/// An entry of the decision log (events.jsonl).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Decision {
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// The session that it is about.
    pub session: Session,
    /// Why.
    pub why: String,
}

/// What the witness client is to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum WitnessWish {
    /// A new token for the group.
    Create(TokenNonce),
    /// From now on PINGs speak of this token, or of none.
    Watch(Option<WitnessToken>),
    /// Claim it, again with every PING, until there is a verdict or another token is watched.
    Claim(WitnessToken),
    /// For the journal.
    Note(Note),
}

/// What the witness client reports.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum WitnessEvent {
    /// It answers; `stable`: for as long as a token may be asked of it.
    Up {
        /// See PROTOCOL 2.9.2, "flapping".
        stable: bool,
    },
    /// It has not answered for T_wlost.
    Lost,
    /// A token was made for this wish.
    Created(TokenNonce, WitnessToken),
    /// The watched token is known there and nobody has claimed it.
    Open(WitnessToken),
    /// The watched token is not known there.
    Unknown(WitnessToken),
    /// The watched token went to this node.
    Decided(WitnessToken, NodeName),
    /// The answer to a claim.
    Verdict(WitnessToken, Verdict),
}

/// What the shell is to do, in this order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Send on this control connection.
    SendControl {
        /// Which connection.
        conn_nonce: ConnNonce,
        /// What.
        message: Box<Message>,
    },
    /// Flush and close this control connection.
    CloseControl {
        /// Which connection.
        conn_nonce: ConnNonce,
        /// For the log.
        why: String,
    },
    /// Only at the node that dials: open one data connection for each volume.
    ConnectData {
        /// What they are bound by.
        data_nonce: ConnNonce,
    },
    /// Tell a volume.
    Volume(VolumeIndex, VolumeCommand),
    /// Execute the steps in order, each durable before the next one begins, and answer with the
    /// ticket. Never more than one job is under way.
    Durable {
        /// Comes back in `Group::handle_durable`.
        ticket: Ticket,
        /// What to do.
        steps: Vec<DurableStep>,
    },
    /// Publish the right to serve to all volume threads.
    PublishGate(ReadRight),
    /// Tell the witness client.
    Witness(WitnessWish),
    /// Append to the decision log.
    Decision(Decision),
    /// Remember across the end of the process that the disk does not answer, or no more (D11).
    DiskLate(bool),
    /// Nothing more comes; the process may end when its volumes have handled `Shutdown`.
    Stopped,
}
