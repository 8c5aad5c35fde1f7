//! The decision log `events.jsonl`: one JSON object per transition, bounded, and never in the way.
//!
//! Faults assumed: the disk may be full or gone; the log then misses entries and says so in the
//! process log, everything else goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base::io::clock;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::warn;

use crate::polarization::Decision;

/// Size at which the log is turned over; one older file is kept.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The open log of one node.
#[derive(Debug)]
pub struct DecisionFile {
    path: PathBuf,
    node: String,
    file: Option<File>,
    bytes: u64,
    failing: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    node: &'a str,
    from: &'a str,
    to: &'a str,
    session: u64,
    why: &'a str,
}

impl DecisionFile {
    /// Opens or makes the log; a log that cannot be opened is only a warning.
    pub fn open(path: &Path, node: &str) -> Self {
        let mut log = Self {
            path: path.to_owned(),
            node: node.to_owned(),
            file: None,
            bytes: 0,
            failing: false,
        };
        if let Err(error) = log.reopen() {
            log.complain(&error);
        }
        log
    }

    /// Adds an entry; the group core has put it into the process log.
    pub fn append(&mut self, decision: &Decision) {
        let Decision { from, to, session, why } = decision;
        let (from, to) = (from.word(), to.word());
        let line = Line { time: wall_time(), node: &self.node, from, to, session: session.0, why };
        let mut text = serde_json::to_string(&line).expect("plain fields are JSON");
        text.push('\n');
        if let Err(error) = self.write(text.as_bytes()) {
            self.complain(&error);
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.bytes + text.len() as u64 > FILE_BYTES_MAX {
            fs::rename(&self.path, self.path.with_extension("jsonl.old"))?;
            self.file = None;
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        let file = self.file.as_mut().expect("opened above");
        file.write_all(text)?;
        self.bytes += text.len() as u64;
        self.failing = false;
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn complain(&mut self, error: &io::Error) {
        self.file = None;
        if !self.failing {
            warn!("{}: {error}; decisions go to the process log only", self.path.display());
        }
        self.failing = true;
    }
}

fn wall_time() -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(clock::unix_nanos());
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use base::ids::Session;

    use super::*;
    use crate::state_word::StateWord;

    fn decision(why: &str) -> Decision {
        Decision {
            from: StateWord::Starting,
            to: StateWord::ActiveActive,
            session: Session(3),
            why: why.to_owned(),
        }
    }

    #[test]
    fn entries_are_lines_of_json_and_the_log_is_turned_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mut log = DecisionFile::open(&path, "a");
        log.append(&decision("first"));
        let text = fs::read_to_string(&path).expect("written");
        let value: serde_json::Value = serde_json::from_str(text.trim()).expect("JSON");
        assert_eq!(value["to"], "active-active");
        assert_eq!(value["session"], 3);
        log.bytes = FILE_BYTES_MAX;
        log.append(&decision("second"));
        assert!(fs::read_to_string(&path).expect("new").contains("second"));
        assert!(folder.path().join("events.jsonl.old").exists());
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nothing() {
        let mut log = DecisionFile::open(Path::new("/nonexistent/events.jsonl"), "a");
        log.append(&decision("lost"));
        assert!(log.failing);
    }
}
