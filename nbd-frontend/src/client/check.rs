//! Whether a request may reach the volume: every rule of NBD.md 1.3 that needs no more than the
//! request and what the client was promised. Checks all, then acts.

use base::limits::{BLOCK_BYTES, REQUEST_BYTES_MAX};
use base::range::ByteRange;
use base::request::{Content, Operation, Write};
use bytes::Bytes;

use crate::exports::{ExportInfo, Terms};
use crate::proto::errno::Refusal;
use crate::proto::request::{Command, CommandFlags, Request};

/// What a granted request needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Checked {
    /// Nothing: it asks for nothing and is done.
    Nothing,
    /// The volume.
    Ask(Operation),
    /// Its payload, then the volume.
    Receive(Write),
}

/// Checks `request`, which is not a goodbye.
pub(super) fn check(request: &Request, terms: &Terms) -> Result<Checked, Refusal> {
    let export = &terms.export;
    check_offered(request.command, export)?;
    if !request.flags.only(allowed_flags(request.command, terms)) {
        return Err(Refusal::UnknownFlag);
    }
    if request.command == Command::Flush {
        return match (request.offset, request.length) {
            (0, 0) => Ok(Checked::Ask(Operation::Flush)),
            _ => Err(Refusal::FlushRange),
        };
    }
    if changes(request.command) && export.read_only {
        return Err(Refusal::ReadOnly);
    }
    let range = check_range(request, export)?;
    if range.is_empty() {
        // A write of nothing has no payload to wait for.
        return Ok(Checked::Nothing);
    }
    Ok(grant(request, range))
}

fn check_offered(command: Command, export: &ExportInfo) -> Result<(), Refusal> {
    match command {
        Command::Other(_) | Command::Disconnect => Err(Refusal::UnknownCommand),
        Command::BlockStatus => Err(Refusal::NoContext),
        Command::Trim if !export.trim && !export.read_only => Err(Refusal::NotOffered),
        Command::Read
        | Command::Write
        | Command::Flush
        | Command::Trim
        | Command::Cache
        | Command::WriteZeroes => Ok(()),
    }
}

/// FUA is accepted everywhere (NBD proto: "Command flags").
fn allowed_flags(command: Command, terms: &Terms) -> CommandFlags {
    let fua = CommandFlags::FUA;
    match command {
        Command::Read if terms.structured => fua.with(CommandFlags::DF),
        Command::WriteZeroes if terms.export.fast_zero => {
            fua.with(CommandFlags::NO_HOLE).with(CommandFlags::FAST_ZERO)
        }
        Command::WriteZeroes => fua.with(CommandFlags::NO_HOLE),
        Command::Read
        | Command::Write
        | Command::Disconnect
        | Command::Flush
        | Command::Trim
        | Command::Cache
        | Command::BlockStatus
        | Command::Other(_) => fua,
    }
}

fn changes(command: Command) -> bool {
    match command {
        Command::Write | Command::Trim | Command::WriteZeroes => true,
        Command::Read
        | Command::Disconnect
        | Command::Flush
        | Command::Cache
        | Command::BlockStatus
        | Command::Other(_) => false,
    }
}

fn check_range(request: &Request, export: &ExportInfo) -> Result<ByteRange, Refusal> {
    let beyond = match request.command {
        Command::Write | Command::WriteZeroes => Refusal::WriteBeyondEnd,
        _ => Refusal::BeyondEnd,
    };
    let range = ByteRange::new(request.offset, u64::from(request.length)).ok_or(beyond)?;
    if range.end() > export.size {
        return Err(beyond);
    }
    let has_payload = matches!(request.command, Command::Read | Command::Write);
    if has_payload && request.length > REQUEST_BYTES_MAX {
        return Err(Refusal::TooLong);
    }
    let whole_blocks =
        range.offset().is_multiple_of(BLOCK_BYTES) && range.length().is_multiple_of(BLOCK_BYTES);
    if whole_blocks { Ok(range) } else { Err(Refusal::Misaligned) }
}

fn grant(request: &Request, range: ByteRange) -> Checked {
    let fua = request.flags.has(CommandFlags::FUA);
    let write = |content| Write { range, content, fua };
    match request.command {
        Command::Read => Checked::Ask(Operation::Read { range }),
        Command::Cache => Checked::Ask(Operation::Cache { range }),
        Command::Write => Checked::Receive(write(Content::Data(Bytes::new()))),
        Command::Trim => Checked::Ask(Operation::Write(write(Content::Trim))),
        Command::WriteZeroes => {
            let allocate = request.flags.has(CommandFlags::NO_HOLE);
            Checked::Ask(Operation::Write(write(Content::Zeroes { allocate })))
        }
        Command::Flush | Command::Disconnect | Command::BlockStatus | Command::Other(_) => {
            unreachable!("{} has no range", request.command.name())
        }
    }
}

#[cfg(test)]
mod tests;
