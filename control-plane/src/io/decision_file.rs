//! The decision log `events.jsonl`: one JSON object per transition, bounded, and never in the way.
//!
//! Owns: the thread `decisions`, which alone touches the file. The group thread hands it lines and
//! goes on.
//! Faults assumed: the disk may be full, gone, or hang; the log then misses entries and the process
//! log says so, everything else goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use base::io::clock;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{info, warn};

use super::threads::Thread;
use crate::polarization::Decision;

/// Size at which the log is turned over; one older file is kept.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Entries that wait to be written, at most; a state changes a few times a minute at worst.
const LINES_MAX: usize = 64;

/// The log of one node, as the group thread holds it. Dropped, it ends the log's thread when that
/// has written everything.
#[derive(Debug)]
pub struct DecisionFile {
    path: PathBuf,
    node: String,
    lines: SyncSender<String>,
    /// Entries that found no room since one last did.
    lost: u64,
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
        let (log, queue) = Self::new(path, node);
        let path = path.to_owned();
        let thread = Thread::spawn("decisions", move || Writer::open(path).run(&queue))?;
        Ok((log, thread))
    }

    fn new(path: &Path, node: &str) -> (Self, Receiver<String>) {
        let (lines, queue) = sync_channel(LINES_MAX);
        (Self { path: path.to_owned(), node: node.to_owned(), lines, lost: 0 }, queue)
    }

    /// Adds an entry, without waiting; the group core has put it into the process log.
    pub fn append(&mut self, decision: &Decision) {
        let Decision { from, to, session, why } = decision;
        let (from, to) = (from.word(), to.word());
        let line = Line { time: wall_time(), node: &self.node, from, to, session: session.0, why };
        let mut text = serde_json::to_string(&line).expect("plain fields are JSON");
        text.push('\n');
        let path = self.path.display();
        match (self.lines.try_send(text), self.lost) {
            (Ok(()), 0) => {}
            (Ok(()), lost) => {
                info!("{path}: written again; {lost} decisions are in the process log only");
                self.lost = 0;
            }
            (Err(_), lost) => {
                if lost == 0 {
                    warn!("{path}: its disk hangs; decisions go to the process log only");
                }
                self.lost += 1;
            }
        }
    }
}

/// The file, as its thread holds it.
#[derive(Debug)]
struct Writer {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    failing: bool,
}

impl Writer {
    fn open(path: PathBuf) -> Self {
        let mut writer = Self { path, file: None, bytes: 0, failing: false };
        if let Err(error) = writer.reopen() {
            writer.complain(&error);
        }
        writer
    }

    /// Until nobody adds anything any more.
    fn run(mut self, queue: &Receiver<String>) {
        while let Ok(line) = queue.recv() {
            self.append(&line);
        }
    }

    fn append(&mut self, line: &str) {
        if let Err(error) = self.write(line.as_bytes()) {
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
    use std::time::Duration;

    use base::ids::Session;

    use super::*;
    use crate::state_word::StateWord;

    const LIMIT: Duration = Duration::from_secs(60);

    fn decision(why: &str) -> Decision {
        Decision {
            from: StateWord::Starting,
            to: StateWord::ActiveActive,
            session: Session(3),
            why: why.to_owned(),
        }
    }

    #[test]
    fn entries_are_lines_of_json_and_an_end_waits_for_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let (mut log, thread) = DecisionFile::start(&path, "a").expect("a thread");
        log.append(&decision("first"));
        drop(log);
        assert!(thread.wait(LIMIT));
        let text = fs::read_to_string(&path).expect("written");
        let value: serde_json::Value = serde_json::from_str(text.trim()).expect("JSON");
        assert_eq!(value["to"], "active-active");
        assert_eq!(value["session"], 3);
    }

    #[test]
    fn the_log_is_turned_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mut writer = Writer::open(path.clone());
        writer.append("first");
        writer.bytes = FILE_BYTES_MAX;
        writer.append("second");
        assert_eq!(fs::read_to_string(&path).expect("new"), "second");
        let old = fs::read_to_string(folder.path().join("events.jsonl.old"));
        assert_eq!(old.expect("kept"), "first");
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nothing() {
        let mut writer = Writer::open(PathBuf::from("/nonexistent/events.jsonl"));
        writer.append("lost");
        assert!(writer.failing);
    }

    #[test]
    fn a_log_that_hangs_keeps_nobody_waiting() {
        // A pipe that nobody reads from yet: its opening hangs.
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).expect("a pipe");
        let (mut log, thread) = DecisionFile::start(&path, "a").expect("a thread");
        for number in 0..LINES_MAX + 3 {
            log.append(&decision(&number.to_string()));
        }
        assert_eq!(log.lost, 3);
        let (reader, last) = (path.clone(), decision("last"));
        let reader = std::thread::spawn(move || fs::read_to_string(reader));
        while log.lost > 0 {
            std::thread::yield_now();
            log.append(&last);
        }
        drop(log);
        assert!(thread.wait(LIMIT));
        let text = reader.join().expect("no panic").expect("read");
        assert_eq!(text.lines().count(), LINES_MAX + 1, "{text}");
    }
}
