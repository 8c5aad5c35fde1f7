//! What a node asks a witness and what it is answered (PROTOCOL 2.9). Bytes: `docs/WIRE.md`.
//!
//! Who asks is not in a request: the node's certificate says so. Pair id, this node and the peer that
//! it names are the group, so that a node of another pair speaks of another group whatever it sends.
//! One connection belongs to one group, and every answer carries the number of its request, so that
//! a late one is recognised.
//! Not here: what a witness decides.

mod codec;
#[cfg(test)]
mod tests;

use base::ids::{Generation, NodeName, PairId, Session, TokenNonce, WitnessRun, WitnessToken};

/// Notes that a witness returns, at most.
pub const NOTES_MAX: usize = 8;
/// Largest body of a request, in bytes.
pub const REQUEST_BYTES_MAX: usize = codec::LARGEST_REQUEST;
/// Largest body of an answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = codec::LARGEST_ANSWER;
/// Longest reason of a refusal, in bytes.
pub const REASON_BYTES_MAX: usize = 512;
/// Highest counter that is believed: counting on from it never ends.
pub const COUNTER_MAX: u64 = 1 << 62;

/// A node's request.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// Counts up from 1 on each connection; comes back in the answer.
    pub id: u64,
    /// The pair that it is about: a witness arbitrates one group for each.
    pub pair_id: PairId,
    /// The other node of that pair.
    pub peer: NodeName,
    /// The run of the witness that the node knows; none before the first answer.
    pub run: WitnessRun,
    /// The highest counter that the node has seen in that run. A witness that has told this node
    /// none so high was rolled back, and forgets the group's tokens.
    pub seen_counter: u64,
    /// What is asked.
    pub question: Question,
}

/// What a node asks.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Question {
    /// CREATE: a new token for the group, whose older ones are forgotten. The same nonce makes the
    /// same token.
    Create {
        /// The wish.
        nonce: TokenNonce,
    },
    /// PING: whether the witness is there, and still knows a token.
    Ping {
        /// Which, if any.
        token: Option<WitnessToken>,
    },
    /// CLAIM: the vote of a token, for the node that asks.
    Claim {
        /// Which.
        token: WitnessToken,
    },
    /// NOTE: for the witness's journal, from which nothing is ever decided.
    Note(Note),
    /// WHO: the newest notes about the pair.
    Who,
}

/// That a node has gone on alone.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Note {
    /// The session that it has won.
    pub session: Session,
    /// The generation that it has begun.
    pub generation: Generation,
    /// Which node.
    pub winner: NodeName,
    /// A person has promoted it.
    pub forced: bool,
}

/// The witness's answer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Answer {
    /// The request's.
    pub id: u64,
    /// This run of the witness.
    pub run: WitnessRun,
    /// Counts up with every message about the pair.
    pub counter: u64,
    /// What is answered.
    pub reply: Reply,
}

/// What a witness answers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reply {
    /// To CREATE.
    Created {
        /// The token; nobody can guess it.
        token: WitnessToken,
    },
    /// To PING.
    Pong(TokenState),
    /// To CLAIM.
    Verdict(Verdict),
    /// To NOTE.
    Noted,
    /// To WHO: the newest first, at most [`NOTES_MAX`].
    Journal(Vec<Note>),
    /// To anything that is not done, and (with id 0) before the witness closes a connection.
    Refused {
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// What a witness knows of a token.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum TokenState {
    /// Nothing: it is of another run, or was forgotten, or none was named.
    Unknown,
    /// Nobody has claimed it.
    Open,
    /// It went to this node, for good.
    Decided(NodeName),
}

/// The end of a claim; the same for every repetition.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// The token is of another run, or was forgotten: nobody wins by it any more.
    Unknown,
    /// The vote is the asking node's.
    Won,
    /// It went to the other node before.
    Lost {
        /// Which.
        winner: NodeName,
    },
}
