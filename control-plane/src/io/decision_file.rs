//! The decision log `events.jsonl`: one JSON object per transition, bounded, and never in the way.
//!
//! Not here: the file (`base::io::log_file`), whose thread alone touches it.

use std::io;
use std::path::Path;

use base::io::log_file::{LogFile, wall_time};
use serde::Serialize;

use super::threads::Thread;
use crate::polarization::Decision;

/// Entries that wait to be written, at most; a state changes a few times a minute at worst.
const LINES_MAX: usize = 64;

/// The log of one node, as the group thread holds it. Dropped, it ends the log's thread when that
/// has written everything.
#[derive(Debug)]
pub struct DecisionFile {
    node: String,
    file: LogFile,
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
    /// Starts the log's thread, which opens or makes the file; one that cannot be opened is only a
    /// warning.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start(path: &Path, node: &str) -> io::Result<(Self, Thread)> {
        let (file, thread) = LogFile::start(path, "decisions", LINES_MAX)?;
        Ok((Self { node: node.to_owned(), file }, thread))
    }

    /// Adds an entry, without waiting; the group core has put it into the process log.
    pub fn append(&mut self, decision: &Decision) {
        let Decision { from, to, session, why } = decision;
        let (from, to) = (from.word(), to.word());
        let line = Line { time: wall_time(), node: &self.node, from, to, session: session.0, why };
        self.file.append(&serde_json::to_string(&line).expect("plain fields are JSON"));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use base::ids::Session;

    use super::*;
    use crate::state_word::StateWord;

    #[test]
    fn entries_are_lines_of_json() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let (mut log, thread) = DecisionFile::start(&path, "a").expect("a thread");
        log.append(&Decision {
            from: StateWord::Starting,
            to: StateWord::ActiveActive,
            session: Session(3),
            why: "first".to_owned(),
        });
        drop(log);
        assert!(thread.wait(Duration::from_secs(60)));
        let text = fs::read_to_string(&path).expect("written");
        let value: serde_json::Value = serde_json::from_str(text.trim()).expect("JSON");
        assert_eq!(value["to"], "active-active");
        assert_eq!(value["session"], 3);
    }
}
