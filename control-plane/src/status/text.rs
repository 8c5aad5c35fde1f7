//! A status in words, for people.

use std::fmt::Write;

use base::time::Duration;
use bytesize::ByteSize;
use comfy_table::{Table, presets};

use super::{NodeStatus, ResyncRole, VolumeStatus};

/// The whole status, some lines.
pub fn render(status: &NodeStatus) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_head(&mut text, status);
    if !status.volumes.is_empty() {
        let table = volume_table(&status.volumes);
        let _ = writeln!(text);
        for line in table.lines() {
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

fn write_head(text: &mut String, status: &NodeStatus) -> std::fmt::Result {
    let serving = if status.serving { "serving" } else { "not serving" };
    let label = format!("node {}", status.node);
    writeln!(text, "{label:<10} {}, {serving}", status.state)?;
    if !status.cause.is_empty() {
        writeln!(text, "cause      {}", status.cause)?;
    }
    if !status.advice.is_empty() {
        writeln!(text, "advice     {}", status.advice)?;
    }
    let orderer = status.orderer.as_ref().map_or("none", |name| name.as_str());
    writeln!(text, "session    {}, orderer {orderer}", status.session)?;
    writeln!(text, "mode       {}, preferred {}", status.mode, status.preferred)?;
    let reachable = |up| if up { "reachable" } else { "not reachable" };
    let seen = |ms: Option<u64>| {
        ms.map_or("never heard".to_owned(), |ms| format!("heard {} ago", milliseconds(ms)))
    };
    let peer = &status.peer;
    // What it said last may be long over.
    let last = if peer.reachable { "" } else { "was " };
    let state = peer.state.map_or(String::new(), |state| format!(", {last}{state}"));
    let heard = seen(peer.last_seen_ms);
    let label = format!("peer {}", peer.name);
    writeln!(text, "{label:<10} {}{state}, {heard}", reachable(peer.reachable))?;
    match &status.witness {
        None => writeln!(text, "witness    none")?,
        Some(w) => {
            let heard = seen(w.last_seen_ms);
            writeln!(text, "witness    {}, {}, {heard}", w.name, reachable(w.reachable))?;
        }
    }
    let survives: Vec<String> = status.survives.iter().map(ToString::to_string).collect();
    let survives =
        if survives.is_empty() { "no single fault".to_owned() } else { survives.join(", ") };
    writeln!(text, "survives   {survives}")?;
    let supervisor =
        status.pids.supervisor.map_or(String::new(), |pid| format!(", supervisor {pid}"));
    let up = milliseconds(status.uptime_ms);
    writeln!(text, "process    {}{supervisor}, up {up}", status.pids.node)
}

fn volume_table(volumes: &[VolumeStatus]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["VOLUME", "SIZE", "CLIENTS", "DIRTY", "MARKED", "RESYNC"]);
    for volume in volumes {
        table.add_row([
            volume.name.to_string(),
            ByteSize(volume.size).to_string(),
            volume.clients.to_string(),
            bytes(volume.dirty_bytes),
            bytes(volume.marked_bytes),
            resync(volume),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string()
}

fn bytes(count: Option<u64>) -> String {
    count.map_or("-".to_owned(), |count| ByteSize(count).to_string())
}

fn resync(volume: &VolumeStatus) -> String {
    let Some(resync) = &volume.resync else { return "-".to_owned() };
    let role = match resync.role {
        ResyncRole::Source => "source",
        ResyncRole::Target => "target",
    };
    let all = u128::from(resync.done_bytes) + u128::from(resync.todo_bytes);
    let percent = (u128::from(resync.done_bytes) * 100).checked_div(all).unwrap_or(100);
    let speed =
        resync.bytes_per_s.map_or(String::new(), |speed| format!(", {}/s", ByteSize(speed)));
    let eta = resync.eta_ms.map_or(String::new(), |ms| format!(", {} left", milliseconds(ms)));
    format!("{role} {percent}%{speed}{eta}")
}

/// A time as people say it: to the millisecond below a second, to the second from there on.
fn milliseconds(ms: u64) -> String {
    let shown = if ms < 1000 { ms } else { ms - ms % 1000 };
    humantime::format_duration(Duration::from_millis(shown)).to_string()
}

/// What changes seldom, in one line: two equal lines mean that nothing happened worth telling.
pub fn change_line(status: &NodeStatus) -> String {
    let mut line = format!("{}: {}", status.node, status.state);
    let clients: u64 = status.volumes.iter().map(|volume| u64::from(volume.clients)).sum();
    let clients = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
    let _ = write!(line, ", session {}, mode {}, {clients}", status.session, status.mode);
    if !status.peer.reachable {
        let _ = write!(line, ", peer {} not reachable", status.peer.name);
    }
    for volume in &status.volumes {
        if volume.resync.is_some() {
            let _ = write!(line, ", {} {}", volume.name, resync_tenths(volume));
        }
    }
    if !status.cause.is_empty() {
        let _ = write!(line, "; {}", status.cause);
    }
    if !status.advice.is_empty() {
        let _ = write!(line, "; {}", status.advice);
    }
    line
}

/// Progress in steps of ten percent: a line per step and not one per poll.
fn resync_tenths(volume: &VolumeStatus) -> String {
    let Some(resync) = &volume.resync else { return String::new() };
    let all = u128::from(resync.done_bytes) + u128::from(resync.todo_bytes);
    let tenths = (u128::from(resync.done_bytes) * 10).checked_div(all).unwrap_or(10);
    format!("compared {}0%", tenths)
}
