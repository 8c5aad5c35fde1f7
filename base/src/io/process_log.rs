//! The process log: what a node or a witness says, on stderr.
//!
//! Owns: the thread `log`, which alone writes. stderr may be a file on a disk that hangs, or a pipe
//! that nobody reads: whoever says something hands it over and goes on.
//! Invariants: what waits to be written is bounded; what does not fit is dropped, counted, and the
//! count is written as soon as anything can be. At the end what waits is written out, within
//! [`END_TIMEOUT`].

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::error;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::threads::Thread;

/// Lines that wait to be written, at most; room for them is taken at once.
pub const LINES_MAX: usize = 8192;
/// How long the end of a process waits for them, at most.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a panic may take to be told.
const PANIC_TIMEOUT: Duration = Duration::from_secs(2);

/// The log of this process, while it is open.
static OPEN: Mutex<Option<Log>> = Mutex::new(None);

#[derive(Debug)]
struct Log {
    lines: NonBlocking,
    /// Dropped, it waits for what was handed over, a second at most.
    guard: WorkerGuard,
}

/// Opens the log; once per process. `filter` says what of it is wanted.
pub fn begin(filter: &str) {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(open(LINES_MAX))
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// As [`begin`], smaller: with another bound on lines that wait, and a filter that needs no regular
/// expressions.
pub fn begin_small(filter: Targets, lines_max: usize) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(open(lines_max))
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
}

fn open(lines_max: usize) -> NonBlocking {
    let lost = Arc::new(OnceLock::new());
    let outlet = Outlet { to: io::stderr(), lost: lost.clone(), lost_told: 0 };
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(lines_max);
    let (lines, guard) = builder.thread_name("log").finish(outlet);
    let _ = lost.set(lines.error_counter());
    let log = Log { lines: lines.clone(), guard };
    *OPEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
    lines
}

/// Writes a line that no filter holds back.
pub fn say(line: &str) {
    if let Some(log) = &mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner) {
        // It is dropped if it does not fit, as any line.
        let _ = log.lines.write_all(format!("{line}\n").as_bytes());
    }
}

/// Waits until everything was written, but not for a disk that hangs. Nothing is written any more
/// afterwards.
pub fn end() {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(Log { lines, guard }) = open.take() else { return };
    drop(lines);
    // Beside this one: with no room left for its last message the guard would print.
    if let Ok(ending) = Thread::spawn("log-end", move || drop(guard)) {
        ending.wait(END_TIMEOUT);
    }
}

/// From now on a panic of any thread is told and ends the process, at the latest after
/// [`PANIC_TIMEOUT`].
pub fn end_process_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        // Whatever keeps its last words from being said.
        let _ = Thread::spawn("panic", || {
            thread::sleep(PANIC_TIMEOUT);
            std::process::abort();
        });
        let current = thread::current();
        let name = current.name().unwrap_or("without a name");
        say(&format!("stretch: thread {name} {panic}"));
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            say(&trace.to_string());
        }
        error!("{panic}");
        end();
        std::process::abort();
    }));
}

/// Where the thread `log` writes.
struct Outlet<W> {
    to: W,
    lost: Arc<OnceLock<ErrorCounter>>,
    lost_told: usize,
}

impl<W: Write> Write for Outlet<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let lost = self.lost.get().map_or(0, ErrorCounter::dropped_lines);
        if lost > self.lost_told {
            let count = lost - self.lost_told;
            let text = "this log could not be written for a while: lines that are missing";
            writeln!(self.to, "stretch: {text}: {count}")?;
            self.lost_told = lost;
        }
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use super::*;

    /// Set in a process that is to panic.
    const PANICS: &str = "STRETCH_TEST_PANICS";

    /// A process that says a lot, and panics in a thread.
    fn panicking(test: &str, stderr: impl Into<Stdio>) -> Child {
        let mut process = Command::new(env::current_exe().expect("our own path"));
        process.args([&format!("io::process_log::tests::{test}"), "--exact", "--nocapture"]);
        process.env(PANICS, "1").stdout(Stdio::null()).stderr(stderr);
        process.spawn().expect("it can be started")
    }

    fn panic_if_asked() {
        if env::var_os(PANICS).is_none() {
            return;
        }
        begin("info");
        end_process_on_panic();
        (0..1000).for_each(|number| tracing::info!(number, "something to say"));
        let thread = Thread::spawn("unlucky", || panic!("out of luck")).expect("a thread");
        thread.wait(Duration::from_secs(60));
    }

    #[test]
    fn a_panic_is_told_behind_everything_else_and_ends_the_process() {
        panic_if_asked();
        let name = "a_panic_is_told_behind_everything_else_and_ends_the_process";
        let output = panicking(name, Stdio::piped()).wait_with_output().expect("our own child");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(6), "{text}");
        assert_eq!(text.matches("something to say").count(), 1000, "{text}");
        let (before, last) = text.split_once("stretch: thread unlucky panicked at ").expect(&text);
        assert!(before.contains("number=999") && last.contains("\nout of luck\n"), "{text}");
    }

    #[test]
    fn a_panic_ends_the_process_though_nobody_reads_what_it_says() {
        panic_if_asked();
        let (read, mut write) = io::pipe().expect("a pipe");
        let bytes = rustix::pipe::fcntl_getpipe_size(&write).expect("its size");
        write.write_all(&vec![b'.'; bytes]).expect("there is room");
        let name = "a_panic_ends_the_process_though_nobody_reads_what_it_says";
        let mut process = panicking(name, write);
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = process.try_wait().expect("our own child") {
                break status;
            }
            if begin.elapsed() > Duration::from_secs(30) {
                process.kill().expect("our own child");
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.signal(), Some(6));
        drop(read);
    }

    #[test]
    fn lines_that_found_no_room_are_counted_when_there_is_some_again() {
        // A pipe that is full: whoever writes into it waits.
        let (mut read, mut write) = io::pipe().expect("a pipe");
        let bytes = rustix::pipe::fcntl_getpipe_size(&write).expect("its size");
        write.write_all(&vec![b'.'; bytes]).expect("there is room");
        let lost = Arc::new(OnceLock::new());
        let outlet = Outlet { to: write, lost: lost.clone(), lost_told: 0 };
        let (mut lines, guard) =
            NonBlockingBuilder::default().buffered_lines_limit(2).finish(outlet);
        let counter = lines.error_counter();
        lost.set(lines.error_counter()).expect("set once");
        let mut handed_over = 0;
        while counter.dropped_lines() < 5 {
            lines.write_all(b"line\n").expect("it never fails");
            handed_over += 1;
        }
        let reader = thread::spawn(move || {
            let mut text = String::new();
            io::Read::read_to_string(&mut read, &mut text).map(|_| text)
        });
        drop(guard);
        drop(lines);
        let text = reader.join().expect("no panic").expect("UTF-8");
        assert_eq!(text.matches("line\n").count(), handed_over - 5, "{handed_over}");
        assert!(text.contains("lines that are missing: 5\n"), "{}", text.trim_matches('.'));
    }
}
