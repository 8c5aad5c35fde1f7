//! Makes the two copies of one volume equal while nobody is served: digests first, so that only
//! what differs is sent (PROTOCOL 2.8.2, with everything to compare); no digests where the target
//! cannot know what it has.
//!
//! Owns: which pieces are under way. In: the peer's sync messages, completions. Out: actions.
//! Invariants: D8 the source says that it is done only when it compared every byte and the target
//! acknowledged every block that was sent. D10 a copy whose disk failed gets every block.
//! Not here: flushes and records around it (F5 to F8: the group), choosing the source.

use std::collections::BTreeMap;

use base::limits::{BLOCK_BYTES, DIGEST_BLOCK_BYTES};
use base::range::ByteRange;
use base::rules::{Rule, Rules};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::outbox::{IoUse, Outbox};
use crate::port::{Progress, Scope, SyncRole};
use crate::queues::Queue;
use crate::storage::IoOperation;
use crate::wire::DataMessage;

/// Bytes compared with one request; a whole number of digest blocks.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;
/// Pieces under way at the same time.
pub(crate) const WINDOW: usize = 8;
/// At the target, pieces being read and blocks being written, at most.
pub(crate) const TARGET_IO_MAX: usize = WINDOW * (1 + (PIECE_BYTES / DIGEST_BLOCK_BYTES) as usize);

const _: () = assert!(PIECE_BYTES.is_multiple_of(DIGEST_BLOCK_BYTES));

/// The peer broke a rule of the comparison; the connection cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CompareError {
    /// A message that this role never gets.
    #[error("a sync message that this node's role does not take")]
    Role,
    /// A range outside the volume or longer than a piece.
    #[error("a sync range outside the volume")]
    Range,
    /// An answer to something that was not asked.
    #[error("an answer for piece {0}, which is not under way")]
    Piece(u64),
    /// More at once than a source asks for.
    #[error("more than {WINDOW} pieces at once")]
    TooMany,
    /// A block or a mirrored write where the earlier one has not been acknowledged.
    #[error("two changes of the same bytes at once")]
    Overlap,
    /// Not one digest per block.
    #[error("{found} digests where {expected} were due")]
    Digests {
        /// Blocks in the piece.
        expected: usize,
        /// Digests in the message.
        found: usize,
    },
}

#[derive(Debug)]
struct Piece {
    range: ByteRange,
    data: Option<Bytes>,
    digests: Option<Vec<u128>>,
    acks_missing: usize,
    sent: bool,
}

/// One comparison at one node.
#[derive(Debug)]
pub(crate) struct Compare {
    role: SyncRole,
    scope: Scope,
    seed: u64,
    size: u64,
    rules: Rules,
    next_offset: u64,
    next_id: u64,
    pieces: BTreeMap<u64, Piece>,
    /// At the target: pieces being read and blocks being written.
    reading: usize,
    writing: usize,
    /// Where, the blocks as often as they are.
    under_way: Vec<ByteRange>,
    progress: Progress,
    told: bool,
}

impl Compare {
    pub(crate) fn new(role: SyncRole, scope: Scope, seed: u64, size: u64, rules: Rules) -> Self {
        let todo_bytes = if scope == Scope::Nothing { 0 } else { size };
        Self {
            role,
            scope,
            seed,
            size,
            rules,
            next_offset: size - todo_bytes,
            next_id: 0,
            pieces: BTreeMap::new(),
            reading: 0,
            writing: 0,
            under_way: Vec::new(),
            progress: Progress { done_bytes: 0, todo_bytes, copied_bytes: 0 },
            told: false,
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    pub(crate) fn queues(&self) -> [Queue; 2] {
        [
            Queue::of("pieces being compared", self.pieces.len(), WINDOW),
            Queue::of("I/O of the target", self.reading + self.writing, TARGET_IO_MAX),
        ]
    }

    /// At the target: whether something that the source asked for is under way.
    pub(crate) fn is_asked_for_more(&self) -> bool {
        self.reading > 0 || self.writing > 0
    }

    /// At the target: whether a piece is being read or a block being written there.
    pub(crate) fn is_under_way(&self, range: ByteRange) -> bool {
        self.under_way.iter().any(|other| other.overlaps(range))
    }

    /// At the target: what is about to be done where something is being changed already is refused.
    pub(crate) fn check_free(&self, is_taken: bool) -> Result<(), CompareError> {
        let refused = is_taken && self.rules.hold(Rule::MirroredWhenCopied);
        if refused { Err(CompareError::Overlap) } else { Ok(()) }
    }

    fn no_longer(&mut self, range: ByteRange) {
        let at = self.under_way.iter().position(|other| *other == range);
        self.under_way.swap_remove(at.expect("it was under way"));
    }

    /// At the source: asks for more; `true` once, when everything is equal.
    pub(crate) fn advance(&mut self, out: &mut Outbox) -> bool {
        if self.role == SyncRole::Target || self.told {
            return false;
        }
        while self.pieces.len() < WINDOW && self.next_offset < self.size {
            let end = self.size.min(self.next_offset + PIECE_BYTES);
            let range = ByteRange::between(self.next_offset, end);
            self.next_offset = end;
            if !self.rules.hold(Rule::CompareEverything) && range.offset() == 0 {
                continue;
            }
            let id = self.next_id;
            self.next_id += 1;
            out.send(DataMessage::DigestRequest { id, range });
            out.submit(IoUse::SourceRead { id }, IoOperation::Read { range });
            let piece = Piece { range, data: None, digests: None, acks_missing: 0, sent: false };
            self.pieces.insert(id, piece);
        }
        self.told = self.pieces.is_empty();
        if self.told && self.rules.hold(Rule::CompareEverything) {
            let Progress { todo_bytes, copied_bytes, .. } = self.progress;
            assert_eq!(
                todo_bytes, 0,
                "D8: every byte was compared before the copies count as equal"
            );
            assert!(
                self.scope != Scope::Rewrite || copied_bytes == self.size,
                "D10: a copy whose disk failed gets every byte"
            );
        }
        self.told
    }

    pub(crate) fn handle_message(
        &mut self,
        message: DataMessage,
        out: &mut Outbox,
    ) -> Result<(), CompareError> {
        match (self.role, message) {
            (SyncRole::Target, DataMessage::DigestRequest { id, range }) => {
                self.check_range(range)?;
                if self.scope == Scope::Rewrite {
                    out.send(DataMessage::Digests { id, digests: Vec::new() });
                } else {
                    count_up(&mut self.reading, WINDOW)?;
                    self.under_way.push(range);
                    out.submit(IoUse::TargetRead { id, range }, IoOperation::Read { range });
                }
                Ok(())
            }
            (SyncRole::Target, DataMessage::SyncBlock { id, range, data }) => {
                self.check_range(range)?;
                if self.is_under_way(range) && self.rules.hold(Rule::RereadWhenAcked) {
                    return Err(CompareError::Overlap);
                }
                count_up(&mut self.writing, TARGET_IO_MAX - WINDOW)?;
                self.under_way.push(range);
                self.progress.copied_bytes += range.length();
                if self.scope == Scope::Rewrite {
                    self.count_done(range.length());
                }
                let operation = match data {
                    Some(data) => IoOperation::Write { range, data, durable: false },
                    None => IoOperation::Zero { range, allocate: false, durable: false },
                };
                out.submit(IoUse::TargetWrite { id, range }, operation);
                Ok(())
            }
            (SyncRole::Source, DataMessage::Digests { id, digests }) => {
                let piece = self.pieces.get_mut(&id).ok_or(CompareError::Piece(id))?;
                let expected = digests_due(self.scope, piece.range);
                if digests.len() != expected || piece.digests.is_some() {
                    return Err(CompareError::Digests { expected, found: digests.len() });
                }
                piece.digests = Some(digests);
                self.send_differing(id, out);
                Ok(())
            }
            (SyncRole::Source, DataMessage::SyncBlockAck { id }) => {
                let piece = self.pieces.get_mut(&id).ok_or(CompareError::Piece(id))?;
                if !piece.sent || piece.acks_missing == 0 {
                    return Err(CompareError::Piece(id));
                }
                piece.acks_missing -= 1;
                self.finish_piece(id);
                Ok(())
            }
            _ => Err(CompareError::Role),
        }
    }

    /// At the source: its half of a piece was read.
    pub(crate) fn source_read(&mut self, id: u64, data: Bytes, out: &mut Outbox) {
        self.pieces.get_mut(&id).expect("a piece is kept until it is done").data = Some(data);
        self.send_differing(id, out);
    }

    /// At the target: its half of a piece was read.
    pub(crate) fn target_read(&mut self, id: u64, range: ByteRange, data: &[u8], out: &mut Outbox) {
        self.reading -= 1;
        self.no_longer(range);
        self.count_done(range.length());
        let digests = digests(data, self.seed).collect();
        out.send(DataMessage::Digests { id, digests });
    }

    /// At the target: a block is written.
    pub(crate) fn target_wrote(&mut self, id: u64, range: ByteRange, out: &mut Outbox) {
        self.writing -= 1;
        self.no_longer(range);
        out.send(DataMessage::SyncBlockAck { id });
    }

    fn send_differing(&mut self, id: u64, out: &mut Outbox) {
        let piece = &self.pieces[&id];
        let (Some(data), Some(theirs)) = (piece.data.clone(), &piece.digests) else {
            return;
        };
        let mut acks_missing = 0;
        for (range, data) in differing(piece.range, &data, theirs, self.seed) {
            acks_missing += 1;
            self.progress.copied_bytes += range.length();
            out.send(DataMessage::SyncBlock { id, range, data });
        }
        let piece = self.pieces.get_mut(&id).expect("looked up above");
        piece.sent = true;
        piece.acks_missing = acks_missing;
        piece.data = None;
        self.finish_piece(id);
    }

    fn finish_piece(&mut self, id: u64) {
        let piece = &self.pieces[&id];
        if piece.sent && piece.acks_missing == 0 {
            let length = piece.range.length();
            self.pieces.remove(&id);
            self.count_done(length);
        }
    }

    fn count_done(&mut self, bytes: u64) {
        self.progress.done_bytes += bytes;
        self.progress.todo_bytes = self.progress.todo_bytes.saturating_sub(bytes);
    }

    fn check_range(&self, range: ByteRange) -> Result<(), CompareError> {
        let whole = range.offset().is_multiple_of(BLOCK_BYTES)
            && range.length().is_multiple_of(BLOCK_BYTES);
        let inside = range.end() <= self.size && range.length() <= PIECE_BYTES;
        if whole && inside && !range.is_empty() { Ok(()) } else { Err(CompareError::Range) }
    }
}

fn digests(data: &[u8], seed: u64) -> impl Iterator<Item = u128> {
    data.chunks(DIGEST_BLOCK_BYTES as usize).map(move |block| xxh3_128_with_seed(block, seed))
}

/// How many digests the target sends of a piece.
pub(crate) fn digests_due(scope: Scope, range: ByteRange) -> usize {
    match scope {
        Scope::Rewrite => 0,
        Scope::Everything | Scope::Nothing => blocks(range.length()),
    }
}

/// The blocks of `data` that the target does not have, `None` for zeros. A block without a digest
/// is one that it does not know.
pub(crate) fn differing(
    range: ByteRange,
    data: &Bytes,
    theirs: &[u128],
    seed: u64,
) -> impl Iterator<Item = (ByteRange, Option<Bytes>)> {
    let differs = move |(index, ours): &(usize, u128)| theirs.get(*index) != Some(ours);
    digests(data, seed).enumerate().filter(differs).map(move |(index, _)| {
        let start = index * DIGEST_BLOCK_BYTES as usize;
        let end = data.len().min(start + DIGEST_BLOCK_BYTES as usize);
        let offset = range.offset();
        let block = data.slice(start..end);
        let data = block.iter().any(|byte| *byte != 0).then_some(block);
        (ByteRange::between(offset + start as u64, offset + end as u64), data)
    })
}

fn count_up(count: &mut usize, max: usize) -> Result<(), CompareError> {
    if *count == max {
        return Err(CompareError::TooMany);
    }
    *count += 1;
    Ok(())
}

/// Digest blocks in so many bytes.
fn blocks(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(DIGEST_BLOCK_BYTES)).expect("a piece is small")
}
