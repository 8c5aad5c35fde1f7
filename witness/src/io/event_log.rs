//! `events.jsonl` of a witness: every run, token, verdict and note with its cause, one JSON object a
//! line. The notes in it are the journal that outlives a run; nothing else is ever read from it.
//!
//! Faults assumed: the disk may be full, gone, or hang, when the witness starts as well: then it
//! goes on without the old notes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use base::ids::{Generation, NodeName, PairId, Session, WitnessRun, WitnessToken};
use base::io::log_file::{FILE_BYTES_MAX, LogFile, older, wall_time};
use base::io::threads::Thread;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::arbiter::{Event, GroupId, RunCause};
use crate::journal::Journal;
use crate::wire::{Note, Verdict};

/// Lines that wait to be written, at most; room for them is taken at once.
const LINES_MAX: usize = 1024;
/// How long the start may take to read old notes.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// How a note is recognised before it is parsed.
const NOTED: &str = "\"event\":\"noted\"";

/// The log, as the witness holds it.
#[derive(Debug)]
pub(super) struct EventLog {
    witness: NodeName,
    file: LogFile,
}

#[derive(Serialize, Deserialize)]
struct Line {
    time: String,
    witness: NodeName,
    event: String,
    #[serde(flatten)]
    group: Option<GroupFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<NodeName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<WitnessRun>,
    /// Its first digits: whoever knows a whole token may ask for its vote.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<String>,
    #[serde(flatten)]
    note: Option<NoteFields>,
    cause: String,
}

#[derive(Serialize, Deserialize)]
struct GroupFields {
    pair: PairId,
    nodes: [NodeName; 2],
}

#[derive(Serialize, Deserialize)]
struct NoteFields {
    session: u64,
    generation: Generation,
    winner: NodeName,
    forced: bool,
}

impl EventLog {
    /// Starts the thread that writes the file in `folder`.
    pub(super) fn start(folder: &Path, witness: &NodeName) -> io::Result<(Self, Thread)> {
        let (file, thread) = LogFile::start(&path(folder), "events", LINES_MAX)?;
        Ok((Self { witness: witness.clone(), file }, thread))
    }

    /// Adds an event, here and in the process log, without waiting.
    pub(super) fn append(&mut self, event: &Event) {
        let line = self.line_of(event);
        let Line { event, cause, .. } = &line;
        match &line.group {
            None => info!("{event}: {cause}"),
            Some(GroupFields { pair, nodes: [a, b] }) => {
                info!("{event}: pair {pair} ({a}, {b}): {cause}");
            }
        }
        self.write(&line);
    }

    /// Adds that the witness ends.
    pub(super) fn append_end(&mut self, run: WitnessRun, cause: &str) {
        let line = Line { run: Some(run), ..self.line("stopped", cause.to_owned()) };
        self.write(&line);
    }

    fn write(&mut self, line: &Line) {
        self.file.append(&serde_json::to_string(line).expect("plain fields are JSON"));
    }

    fn line(&self, event: &str, cause: String) -> Line {
        Line {
            time: wall_time(),
            witness: self.witness.clone(),
            event: event.to_owned(),
            group: None,
            node: None,
            run: None,
            token: None,
            verdict: None,
            note: None,
            cause,
        }
    }

    fn line_of(&self, event: &Event) -> Line {
        let of = |word: &str, group: &GroupId, cause: String| {
            let (pair, nodes) = (group.pair_id(), group.nodes().clone());
            Line { group: Some(GroupFields { pair, nodes }), ..self.line(word, cause) }
        };
        match event {
            Event::RunBegun { run, cause } => {
                let cause = match cause {
                    RunCause::Start => "the process has started; no earlier token is known",
                    RunCause::GenerationChanged => {
                        "this machine is a copy or was set back; no earlier token is known"
                    }
                };
                Line { run: Some(*run), ..self.line("run-begun", cause.to_owned()) }
            }
            Event::Created { group, node, token } => {
                let cause = format!("{node} asked for a token; older ones are forgotten");
                Line { token: short(token), ..by(node, of("created", group, cause)) }
            }
            Event::Claimed { group, node, token, verdict } => {
                let (word, cause) = match verdict {
                    Verdict::Won => ("won", format!("{node} was the first to claim the token")),
                    Verdict::Lost { winner } => {
                        ("lost", format!("{winner} had claimed the token before {node}"))
                    }
                    Verdict::Unknown => {
                        let cause = "claimed a token that is of another run, or was forgotten";
                        ("unknown", format!("{node} {cause}"))
                    }
                };
                let verdict = Some(word.to_owned());
                Line { verdict, token: short(token), ..by(node, of("claimed", group, cause)) }
            }
            Event::RolledBack { group, node, seen, told } => {
                let cause = format!(
                    "{node} has seen counter {seen}, this witness remembers {told}: its memory was \
                     set back; the pair's token is forgotten"
                );
                by(node, of("rolled-back", group, cause))
            }
            Event::Forgotten { group, token, age } => {
                let hours = age.as_secs() / 3600;
                let cause = format!("nobody asked about this token of {hours} h for a day");
                Line { token: short(token), ..of("forgotten", group, cause) }
            }
            Event::Noted { group, node, note } => {
                let cause = format!("{node} told that {} serves alone", note.winner);
                let Note { session, generation, winner, forced } = note.clone();
                let note = NoteFields { session: session.0, generation, winner, forced };
                Line { note: Some(note), ..by(node, of("noted", group, cause)) }
            }
        }
    }
}

fn by(node: &NodeName, line: Line) -> Line {
    Line { node: Some(node.clone()), ..line }
}

fn short(token: &WitnessToken) -> Option<String> {
    Some(token.to_string().chars().take(8).collect())
}

fn path(folder: &Path) -> PathBuf {
    folder.join("events.jsonl")
}

/// The notes of earlier runs; none if the disk does not give them in time.
pub(super) fn read_journal(folder: &Path) -> Journal {
    let (send, receive) = channel();
    let path = path(folder);
    let files = [older(&path), path.clone()];
    let reading = Thread::spawn("journal", move || {
        let mut journal = Journal::default();
        for file in files {
            if let Err(error) = read_notes(&file, &mut journal)
                && error.kind() != io::ErrorKind::NotFound
            {
                warn!("{}: {error}; notes of earlier runs may be missing", file.display());
            }
        }
        let _ = send.send(journal);
    });
    if let Err(error) = reading {
        warn!("{}: {error}; starting without the notes of earlier runs", path.display());
        return Journal::default();
    }
    receive.recv_timeout(READ_TIMEOUT).unwrap_or_else(|_| {
        warn!("{}: not read in time; starting without the notes of earlier runs", path.display());
        Journal::default()
    })
}

fn read_notes(path: &Path, journal: &mut Journal) -> io::Result<()> {
    let file = File::open(path)?.take(FILE_BYTES_MAX);
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        let Some(line) = std::str::from_utf8(&line).ok().filter(|line| line.contains(NOTED)) else {
            continue;
        };
        // A line that was cut off by a full disk is no note.
        let Ok(line) = serde_json::from_str::<Line>(line) else { continue };
        let (Some(GroupFields { pair, nodes: [a, b] }), Some(note)) = (line.group, line.note)
        else {
            continue;
        };
        let NoteFields { session, generation, winner, forced } = note;
        if let Some(group) = GroupId::new(pair, a, b) {
            journal.add(&group, Note { session: Session(session), generation, winner, forced });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    fn group() -> GroupId {
        GroupId::new(PairId([1; 16]), name("a"), name("b")).expect("two names")
    }

    fn note(session: u64) -> Note {
        let (session, generation) = (Session(session), Generation([2; 16]));
        Note { session, generation, winner: name("b"), forced: session.0 == 2 }
    }

    fn written(events: &[Event]) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut log, thread) = EventLog::start(folder.path(), &name("w")).expect("a thread");
        events.iter().for_each(|event| log.append(event));
        log.append_end(WitnessRun([3; 16]), "SIGTERM");
        drop(log);
        assert!(thread.wait(Duration::from_secs(60)));
        let text = fs::read_to_string(path(folder.path())).expect("written");
        (folder, text)
    }

    #[test]
    fn a_verdict_is_a_line_with_its_cause_and_without_the_whole_token() {
        let token = WitnessToken([7; 16]);
        let lost = Verdict::Lost { winner: name("a") };
        let node = name("b");
        let events = [Verdict::Won, lost, Verdict::Unknown].map(|verdict| Event::Claimed {
            group: group(),
            node: node.clone(),
            token,
            verdict,
        });
        let (_folder, text) = written(&events);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        for (line, verdict) in lines.iter().zip(["won", "lost", "unknown"]) {
            assert_eq!(line["event"], "claimed");
            assert_eq!(line["verdict"], verdict);
            assert_eq!(line["node"], "b");
            assert_eq!(line["witness"], "w");
            assert_eq!(line["nodes"], serde_json::json!(["a", "b"]));
            assert_eq!(line["token"], "07070707");
            assert!(line["cause"].as_str().is_some_and(|cause| cause.contains('b')), "{line}");
        }
        assert_eq!(lines[3]["event"], "stopped");
        assert!(!text.contains("07070707-"), "{text}");
    }

    #[test]
    fn notes_are_read_again_and_nothing_else_is() {
        let noted = |session| Event::Noted { group: group(), node: name("b"), note: note(session) };
        let token = WitnessToken([7; 16]);
        let created = Event::Created { group: group(), node: name("a"), token };
        let (folder, text) = written(&[noted(1), created, noted(2)]);
        let torn = format!("{text}{}", &text.lines().next().expect("a line")[..80]);
        fs::write(path(folder.path()), torn).expect("written");
        assert_eq!(read_journal(folder.path()).newest(&group()), [note(2), note(1)]);
    }

    #[test]
    fn old_notes_that_cannot_be_read_stop_nothing() {
        assert_eq!(read_journal(Path::new("/nonexistent")), Journal::default());
        let folder = tempfile::tempdir().expect("a folder");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        // A pipe that nobody writes to: its opening hangs.
        let pipe = path(folder.path());
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).expect("a pipe");
        assert_eq!(read_journal(folder.path()), Journal::default());
    }
}
