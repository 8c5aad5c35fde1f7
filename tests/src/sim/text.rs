//! Messages for a person who reads a trace: without payloads.

use base::request::{Content, Write};
use datapath::wire::DataMessage;

pub(super) fn message(message: &DataMessage) -> String {
    match message {
        DataMessage::Repl { seq, write } => format!("REPL {seq} {}", describe(write)),
        DataMessage::WriteRequest { fid, write } => format!("WREQ {fid} {}", describe(write)),
        DataMessage::SyncBlock { id, range, .. } => format!("SYNC_BLOCK {id} {range:?}"),
        DataMessage::Digests { id, .. } => format!("DIGESTS {id}"),
        other => format!("{other:?}"),
    }
}

fn describe(write: &Write) -> String {
    let what = match &write.content {
        Content::Data(_) => "data",
        Content::Zeroes { .. } => "zeroes",
        Content::Trim => "trim",
    };
    format!("{what} {:?}{}", write.range, if write.fua { " fua" } else { "" })
}
