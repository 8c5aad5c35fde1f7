//! A log of lines in a file, bounded, and never in the way.
//!
//! Owns: the thread that alone touches the file. Whoever adds a line hands it over and goes on.
//! Faults assumed: the disk may be full, gone, or hang; the log then misses entries and the process
//! log says so, everything else goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{info, warn};

use super::clock;
use super::threads::Thread;

/// Size at which the log is turned over; one older file is kept.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// A log, as its owner holds it. Dropped, it ends the log's thread when that has written everything.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    /// What its lines are, for people.
    what: &'static str,
    lines: SyncSender<String>,
    /// Lines that found no room since one last did.
    lost: u64,
}

impl LogFile {
    /// Starts the log's thread, which opens or makes the file; one that cannot be opened is only a
    /// warning. No more than `lines_max` lines wait to be written.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start(path: &Path, what: &'static str, lines_max: usize) -> io::Result<(Self, Thread)> {
        let (lines, queue) = sync_channel(lines_max);
        let log = Self { path: path.to_owned(), what, lines, lost: 0 };
        let path = path.to_owned();
        let thread = Thread::spawn(what, move || Writer::open(path, what).run(&queue))?;
        Ok((log, thread))
    }

    /// Adds a line, without waiting.
    pub fn append(&mut self, line: &str) {
        let Self { path, what, .. } = self;
        let path = path.display();
        match (self.lines.try_send(format!("{line}\n")), self.lost) {
            (Ok(()), 0) => {}
            (Ok(()), lost) => {
                info!("{path}: written again; {lost} {what} are in the process log only");
                self.lost = 0;
            }
            (Err(_), lost) => {
                if lost == 0 {
                    warn!("{path}: its disk hangs; {what} go to the process log only");
                }
                self.lost += 1;
            }
        }
    }

    /// Lines that found no room since one last did.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

/// The file that a log was turned over to.
pub fn older(path: &Path) -> PathBuf {
    path.with_extension("jsonl.old")
}

/// The wall clock as people write it.
pub fn wall_time() -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(clock::unix_nanos());
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// The file, as its thread holds it.
#[derive(Debug)]
struct Writer {
    path: PathBuf,
    what: &'static str,
    file: Option<File>,
    bytes: u64,
    failing: bool,
}

impl Writer {
    fn open(path: PathBuf, what: &'static str) -> Self {
        let mut writer = Self { path, what, file: None, bytes: 0, failing: false };
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
            fs::rename(&self.path, older(&self.path))?;
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
            let Self { path, what, .. } = self;
            warn!("{}: {error}; {what} go to the process log only", path.display());
        }
        self.failing = true;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);
    const LINES_MAX: usize = 64;

    #[test]
    fn lines_are_written_and_an_end_waits_for_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let (mut log, thread) = LogFile::start(&path, "lines", LINES_MAX).expect("a thread");
        log.append("first");
        log.append("second");
        drop(log);
        assert!(thread.wait(LIMIT));
        assert_eq!(fs::read_to_string(&path).expect("written"), "first\nsecond\n");
    }

    #[test]
    fn the_log_is_turned_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mut writer = Writer::open(path.clone(), "lines");
        writer.append("first");
        writer.bytes = FILE_BYTES_MAX;
        writer.append("second");
        assert_eq!(fs::read_to_string(&path).expect("new"), "second");
        let old = fs::read_to_string(folder.path().join("events.jsonl.old"));
        assert_eq!(old.expect("kept"), "first");
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nothing() {
        let mut writer = Writer::open(PathBuf::from("/nonexistent/events.jsonl"), "lines");
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
        let (mut log, thread) = LogFile::start(&path, "lines", LINES_MAX).expect("a thread");
        for number in 0..LINES_MAX + 3 {
            log.append(&number.to_string());
        }
        assert_eq!(log.lost(), 3);
        let reader = path.clone();
        let reader = std::thread::spawn(move || fs::read_to_string(reader));
        while log.lost() > 0 {
            std::thread::yield_now();
            log.append("last");
        }
        drop(log);
        assert!(thread.wait(LIMIT));
        let text = reader.join().expect("no panic").expect("read");
        assert_eq!(text.lines().count(), LINES_MAX + 1, "{text}");
    }
}
