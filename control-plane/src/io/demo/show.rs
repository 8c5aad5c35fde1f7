//! What the demo shows while it runs: one live line on a terminal, a line per change elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::state_word::StateWord;
use crate::status::{NodeStatus, change_line};

/// Where the lines go.
pub(super) struct Show {
    live: Option<ProgressBar>,
    last: [String; 2],
    names: [&'static str; 2],
}

impl Show {
    pub(super) fn new(names: [&'static str; 2]) -> Self {
        let live = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            bar.set_style(
                ProgressStyle::with_template("{spinner} {wide_msg}").expect("a good template"),
            );
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { live, last: Default::default(), names }
    }

    /// Prints lines that stay.
    pub(super) fn line(&self, text: &str) {
        match &self.live {
            Some(bar) => bar.suspend(|| print_line(text)),
            None => print_line(text),
        }
    }

    /// Shows what both nodes say now.
    pub(super) fn statuses(&mut self, statuses: [&Result<NodeStatus, String>; 2]) {
        let mut short = Vec::new();
        for (index, status) in statuses.into_iter().enumerate() {
            let name = self.names[index];
            let line = match status {
                Ok(status) => line_of(status),
                Err(_) => format!("{name}: does not answer"),
            };
            short.push(match status {
                Ok(status) => live_part(status),
                Err(_) => line.clone(),
            });
            if self.live.is_none() && self.last[index] != line {
                print_line(&line);
            }
            self.last[index] = line;
        }
        if let Some(bar) = &self.live {
            bar.set_message(short.join("   "));
        }
    }

    /// Takes the live line away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.live {
            bar.finish_and_clear();
        }
    }
}

/// The first moments of a healthy start are no fault: what a node that is starting waits for is
/// not worth a word. If it waits for long its state is another one.
fn line_of(status: &NodeStatus) -> String {
    if status.state == StateWord::Starting {
        return format!("{}: {}", status.node, status.state);
    }
    change_line(status)
}

pub(super) fn live_part(status: &NodeStatus) -> String {
    let clients: u64 = status.volumes.iter().map(|volume| u64::from(volume.clients)).sum();
    let mut text = format!("{}: {}", status.node, status.state);
    for resync in status.volumes.iter().filter_map(|volume| volume.resync.as_ref()) {
        let all = u128::from(resync.done_bytes) + u128::from(resync.todo_bytes);
        match (u128::from(resync.done_bytes) * 100).checked_div(all) {
            Some(percent) => text.push_str(&format!(" {percent}%")),
            None => text.push_str(" (nothing to compare)"),
        }
    }
    if clients > 0 {
        text.push_str(&format!(" ({clients} clients)"));
    }
    if !status.cause.is_empty() && status.state != StateWord::Starting {
        text.push_str(&format!(" - {}", status.cause));
    }
    text
}

/// Nobody may be reading: the demo goes on, its nodes serve.
pub(super) fn print_line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
