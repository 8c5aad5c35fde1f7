//! What was asked and what was answered, and whether that is right.
//! Owns: the records of one or more runs of the stamped client on one area.
//! Not here: making them (`driver`), the check itself (`linearizability`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use crate::linearizability::{self, Kind, Operation, Summary, Value};
use crate::stamp::{self, BLOCK_BYTES, Content};

/// A kind of request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// WRITE_ZEROES.
    WriteZeroes,
    /// TRIM.
    Trim,
    /// FLUSH.
    Flush,
    /// CACHE.
    Cache,
}

impl Action {
    /// Whether it changes blocks.
    pub fn changes(self) -> bool {
        matches!(self, Self::Write | Self::WriteZeroes | Self::Trim)
    }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered well.
    Done,
    /// Answered with an error number.
    Error(u32),
    /// Not answered: the connection ended, or the run did.
    Unknown,
}

/// So many blocks in a row with one value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Run {
    /// 0 for zeros, else the id of the write.
    pub value: u64,
    /// Blocks.
    pub count: u64,
}

/// One request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Record {
    /// Index of the node in the run's configuration.
    pub node: usize,
    /// Which of its connections; a new number after every reconnection.
    pub connection: u64,
    /// What.
    pub action: Action,
    /// With FUA.
    pub fua: bool,
    /// Unique in the history; the value that a WRITE leaves in its blocks.
    pub id: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
    /// CLOCK_MONOTONIC before the first byte was sent.
    pub begin_ns: u64,
    /// CLOCK_MONOTONIC after the last byte of the reply was received.
    pub end_ns: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
    /// What a READ returned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<Run>,
}

impl Record {
    /// Numbers of its blocks.
    pub fn blocks(&self) -> std::ops::Range<u64> {
        let first = self.offset / BLOCK_BYTES as u64;
        first..first + u64::from(self.length) / BLOCK_BYTES as u64
    }

    /// Whether it was acknowledged.
    pub fn is_done(&self) -> bool {
        self.outcome == Outcome::Done
    }
}

/// What TRIM does on the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrimMeaning {
    /// Reads as zeros afterwards, every block of it.
    Zeroes,
    /// Reads as zeros or as before, block by block.
    Either,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct History {
    /// The run that all stamps name.
    pub writer: u64,
    /// What TRIM does.
    pub trim: TrimMeaning,
    /// The next free operation id.
    pub next_id: u64,
    /// What the blocks held at first, if not zeros: block and value. An earlier history's end.
    pub initial: Vec<(u64, Value)>,
    /// All requests, by begin.
    pub records: Vec<Record>,
    /// Answers that are wrong whatever the order: damaged blocks, blocks of other places or
    /// writers, broken protocol.
    pub wrong: Vec<String>,
    /// Connections that ended before we ended them, by node.
    pub connections_lost: Vec<u64>,
    /// Those of them on which requests were not answered for longer than the configured silence.
    pub connections_silent: u64,
}

/// Numbers of a history that was found right.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Counts {
    /// Acknowledged requests by kind.
    pub done: BTreeMap<Action, u64>,
    /// Requests answered with an error.
    pub errors: u64,
    /// Requests without an answer.
    pub unknown: u64,
    /// Acknowledged requests that overlap in time and in bytes with one at another node, one of the
    /// two being a change.
    pub overlapping: u64,
    /// Blocks that were touched.
    pub blocks: usize,
    /// Operations on single blocks that were put in order.
    pub block_operations: usize,
    /// Connections that ended before we ended them, by node.
    pub connections_lost: Vec<u64>,
    /// Those of them on which requests were not answered for longer than the configured silence.
    pub connections_silent: u64,
    /// Longest time between two acknowledgements, by node, in milliseconds.
    pub longest_gap_ms: Vec<u64>,
}

impl Counts {
    /// Connections that ended before we ended them, to all nodes.
    pub fn connections_lost_total(&self) -> u64 {
        self.connections_lost.iter().sum()
    }

    /// Acknowledged requests.
    pub fn done_total(&self) -> u64 {
        self.done.values().sum()
    }
}

impl History {
    /// A history of nothing, on an area that holds zeros.
    pub fn new(writer: u64, trim: TrimMeaning) -> Self {
        let (records, wrong, connections_lost) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            writer,
            trim,
            next_id: 1,
            initial: Vec::new(),
            records,
            wrong,
            connections_lost,
            connections_silent: 0,
        }
    }

    /// A new history on what an image holds now, for operations of the same writer: whatever
    /// happened before, and was lost, is forgotten.
    ///
    /// # Errors
    /// What is wrong with which block.
    pub fn resume(&self, data: &[u8], first_block: u64) -> Result<Self, String> {
        let mut resumed = Self { next_id: self.next_id, ..Self::new(self.writer, self.trim) };
        let values = expand(&self.decode(data, first_block)?);
        let initial = (first_block..).zip(values).filter(|(_, value)| *value != Value::ZERO);
        resumed.initial = initial.collect();
        Ok(resumed)
    }

    /// The values of `data`, whole blocks from `first_block` on. A block that cannot be right is
    /// the error.
    ///
    /// # Errors
    /// What is wrong with which block.
    pub fn decode(&self, data: &[u8], first_block: u64) -> Result<Vec<Run>, String> {
        decode_blocks(self.writer, data, first_block)
    }

    /// Adds what an image held at rest, as a read of `first_block` on by nobody's connection,
    /// `node` being the one whose image it is.
    pub fn add_image(&mut self, node: usize, now_ns: u64, first_block: u64, data: &[u8]) {
        let seen = match self.decode(data, first_block) {
            Ok(seen) => seen,
            Err(finding) => {
                self.wrong.push(format!("image of node {node}: {finding}"));
                return;
            }
        };
        let id = self.next_id;
        self.next_id += 1;
        self.records.push(Record {
            node,
            connection: 0,
            action: Action::Read,
            fua: false,
            id,
            offset: first_block * BLOCK_BYTES as u64,
            length: u32::try_from(data.len()).expect("an area is smaller than 4 GiB"),
            begin_ns: now_ns,
            end_ns: Some(now_ns),
            outcome: Outcome::Done,
            seen,
        });
    }

    /// The history as the checker reads it.
    pub fn operations(&self) -> Vec<Operation> {
        // The first moment there is: ended before anything else begins.
        let initial = self.initial.iter().map(|(block, value)| Operation {
            kind: Kind::Write(value.id().expect("zeros are there by themselves")),
            blocks: *block..block + 1,
            invoke: 1,
            end: Some(1),
        });
        initial.chain(self.records.iter().filter_map(|record| self.operation(record))).collect()
    }

    fn operation(&self, record: &Record) -> Option<Operation> {
        let kind = match record.action {
            Action::Read if !record.is_done() => return None,
            Action::Read => {
                let values = record.seen.iter().flat_map(|run| {
                    let value =
                        if run.value == 0 { Value::ZERO } else { Value::written(run.value) };
                    (0..run.count).map(move |_| value)
                });
                Kind::Read(values.collect())
            }
            Action::Write => Kind::Write(record.id),
            Action::WriteZeroes => Kind::Zero,
            Action::Trim => match self.trim {
                TrimMeaning::Zeroes => Kind::Zero,
                TrimMeaning::Either => Kind::MayZero,
            },
            Action::Flush | Action::Cache => return None,
        };
        let end = if record.is_done() { record.end_ns } else { None };
        Some(Operation { kind, blocks: record.blocks(), invoke: record.begin_ns, end })
    }

    /// Whether every answer was right.
    ///
    /// # Errors
    /// The first wrong answers, for people.
    pub fn check(&self) -> Result<Counts, String> {
        if let Some(first) = self.wrong.first() {
            return Err(format!("{first} (wrong answers of this kind: {})", self.wrong.len()));
        }
        let operations = self.operations();
        let summary =
            linearizability::check(&operations).map_err(|found| found.describe(&operations))?;
        Ok(self.counts(summary))
    }

    fn counts(&self, summary: Summary) -> Counts {
        let mut done = BTreeMap::new();
        for record in self.records.iter().filter(|record| record.is_done()) {
            *done.entry(record.action).or_insert(0) += 1;
        }
        let count = |wanted: fn(&Outcome) -> bool| {
            self.records.iter().filter(|record| wanted(&record.outcome)).count() as u64
        };
        let nodes = self.records.iter().map(|record| record.node + 1).max().unwrap_or(0);
        Counts {
            done,
            errors: count(|outcome| matches!(outcome, Outcome::Error(_))),
            unknown: count(|outcome| *outcome == Outcome::Unknown),
            overlapping: self.overlapping(),
            blocks: summary.blocks,
            block_operations: summary.block_operations,
            connections_lost: self.connections_lost.clone(),
            connections_silent: self.connections_silent,
            longest_gap_ms: (0..nodes).map(|node| self.longest_gap_ns(node) / 1_000_000).collect(),
        }
    }

    /// Acknowledged requests that overlap in time and in bytes with one at another node, one of the
    /// two being a change.
    pub fn overlapping(&self) -> u64 {
        let mut order: Vec<usize> = (0..self.records.len())
            .filter(|index| {
                let record = &self.records[*index];
                record.is_done() && record.length > 0 && record.action != Action::Cache
            })
            .collect();
        order.sort_unstable_by_key(|index| self.records[*index].begin_ns);
        let mut overlaps = vec![false; self.records.len()];
        let mut running: Vec<usize> = Vec::new();
        for index in order {
            let record = &self.records[index];
            running.retain(|other| self.records[*other].end_ns >= Some(record.begin_ns));
            for other_index in &running {
                let other = &self.records[*other_index];
                let (mine, theirs) = (record.blocks(), other.blocks());
                if other.node != record.node
                    && (other.action.changes() || record.action.changes())
                    && mine.start < theirs.end
                    && theirs.start < mine.end
                {
                    overlaps[index] = true;
                    overlaps[*other_index] = true;
                }
            }
            running.push(index);
        }
        overlaps.iter().filter(|overlaps| **overlaps).count() as u64
    }

    /// Longest time between two acknowledgements of `node`.
    pub fn longest_gap_ns(&self, node: usize) -> u64 {
        let mut ends: Vec<u64> = self
            .records
            .iter()
            .filter(|record| record.node == node && record.is_done())
            .filter_map(|record| record.end_ns)
            .collect();
        ends.sort_unstable();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    /// Writes one JSON object a line: first the run, then every request.
    ///
    /// # Errors
    /// As the file system.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let head = serde_json::json!({
            "writer": self.writer, "trim": self.trim, "wrong": self.wrong,
            "connections_lost": self.connections_lost,
        });
        writeln!(file, "{head}")?;
        for record in &self.records {
            serde_json::to_writer(&mut file, record)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    }
}

/// One value a block.
pub fn expand(runs: &[Run]) -> Vec<Value> {
    let values = runs.iter().flat_map(|run| {
        let value = if run.value == 0 { Value::ZERO } else { Value::written(run.value) };
        (0..run.count).map(move |_| value)
    });
    values.collect()
}

/// See [`History::decode`].
pub(crate) fn decode_blocks(
    writer: u64,
    data: &[u8],
    first_block: u64,
) -> Result<Vec<Run>, String> {
    let mut runs: Vec<Run> = Vec::new();
    for (block, bytes) in (first_block..).zip(data.chunks(BLOCK_BYTES)) {
        let value = match stamp::decode(bytes) {
            Content::Zero => 0,
            Content::Stamp(stamp) if stamp.writer == writer && stamp.block == block => {
                stamp.operation
            }
            Content::Stamp(stamp) => return Err(format!("block {block} holds {stamp:?}")),
            Content::Damaged => return Err(format!("block {block} is damaged")),
        };
        match runs.last_mut() {
            Some(run) if run.value == value => run.count += 1,
            _ => runs.push(Run { value, count: 1 }),
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(node: usize, action: Action, block: u64, begin_ns: u64, end_ns: u64) -> Record {
        Record {
            node,
            connection: 0,
            action,
            fua: false,
            id: begin_ns,
            offset: block * 512,
            length: 1024,
            begin_ns,
            end_ns: Some(end_ns),
            outcome: Outcome::Done,
            seen: Vec::new(),
        }
    }

    #[test]
    fn overlap_needs_two_nodes_common_blocks_common_time_and_a_change() {
        let mut history = History::new(1, TrimMeaning::Either);
        history.records = vec![
            record(0, Action::Write, 0, 1, 5),
            record(1, Action::Read, 1, 4, 8),
            record(1, Action::Read, 2, 4, 8),
            record(0, Action::Read, 1, 6, 9),
            record(0, Action::Write, 0, 10, 12),
            record(1, Action::Write, 0, 13, 14),
        ];
        assert_eq!(history.overlapping(), 2);
        assert_eq!(history.longest_gap_ns(0), 4);
    }

    #[test]
    fn blocks_of_another_place_or_writer_and_damaged_ones_are_named() {
        let history = History::new(7, TrimMeaning::Either);
        let mut data = vec![0; 4 * 512];
        stamp::fill_blocks(&mut data[512..1536], 7, 3, 11);
        let runs = [(0, 1), (3, 2), (0, 1)].map(|(value, count)| Run { value, count });
        assert_eq!(history.decode(&data, 10), Ok(runs.to_vec()));
        assert!(history.decode(&data, 11).expect_err("moved").contains("block 12 holds"));
        assert!(History::new(8, TrimMeaning::Either).decode(&data, 10).is_err());
        data[600] ^= 1;
        assert_eq!(history.decode(&data, 10), Err("block 11 is damaged".to_owned()));
    }

    #[test]
    fn a_resumed_history_begins_with_what_the_image_holds() {
        let mut history = History::new(7, TrimMeaning::Either);
        history.next_id = 50;
        let mut image = vec![0; 2048];
        stamp::fill_blocks(&mut image[..1024], 7, 5, 0);
        let mut resumed = history.resume(&image, 0).expect("decoded");
        assert_eq!((resumed.next_id, resumed.initial.len()), (50, 2));
        resumed.add_image(0, 90, 0, &image);
        assert!(resumed.check().is_ok());
        resumed.add_image(1, 91, 0, &[0; 2048]);
        assert!(resumed.check().is_err());
    }

    #[test]
    fn an_image_that_lost_a_write_is_found() {
        let mut history = History::new(7, TrimMeaning::Either);
        history.next_id = 100;
        history.records.push(record(0, Action::Write, 0, 5, 6));
        let mut image = vec![0; 2048];
        let mut lost = history.clone();
        lost.add_image(1, 50, 0, &image);
        assert!(lost.check().expect_err("lost").contains("read zeros"));
        stamp::fill_blocks(&mut image[..1024], 7, 5, 0);
        history.add_image(1, 50, 0, &image);
        assert_eq!(history.check().expect("kept").done_total(), 2);
    }
}
