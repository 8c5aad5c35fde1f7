use super::*;

const SIZE: u64 = 1 << 40;
const FUA: u16 = 1;
const NO_HOLE: u16 = 2;
const DF: u16 = 4;
const REQ_ONE: u16 = 8;
const FAST_ZERO: u16 = 16;
const PAYLOAD_LEN: u16 = 32;

fn export() -> ExportInfo {
    ExportInfo::new("vol0".parse().expect("a name"), SIZE)
}

fn simple() -> Terms {
    Terms { export: export(), structured: false }
}

fn structured() -> Terms {
    Terms { structured: true, ..simple() }
}

fn request(command: u16, flags: u16, offset: u64, length: u32) -> Request {
    let command = Command::from_number(command);
    Request { flags: CommandFlags(flags), command, cookie: 7, offset, length }
}

fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset, length).expect("small")
}

#[test]
fn each_command_becomes_its_operation() {
    let whole = range(4096, 512);
    let write = |content, fua| Write { range: whole, content, fua };
    let zeroes =
        |allocate, fua| Checked::Ask(Operation::Write(write(Content::Zeroes { allocate }, fua)));
    let empty = || Content::Data(Bytes::new());
    let fast = Terms { export: ExportInfo { fast_zero: true, ..export() }, structured: false };
    let rows = [
        (0, 0, simple(), Checked::Ask(Operation::Read { range: whole })),
        (0, FUA, simple(), Checked::Ask(Operation::Read { range: whole })),
        (0, DF, structured(), Checked::Ask(Operation::Read { range: whole })),
        (0, DF | FUA, structured(), Checked::Ask(Operation::Read { range: whole })),
        (1, 0, simple(), Checked::Receive(write(empty(), false))),
        (1, FUA, simple(), Checked::Receive(write(empty(), true))),
        (4, 0, simple(), Checked::Ask(Operation::Write(write(Content::Trim, false)))),
        (4, FUA, simple(), Checked::Ask(Operation::Write(write(Content::Trim, true)))),
        (5, 0, simple(), Checked::Ask(Operation::Cache { range: whole })),
        (5, FUA, simple(), Checked::Ask(Operation::Cache { range: whole })),
        (6, 0, simple(), zeroes(false, false)),
        (6, FUA, simple(), zeroes(false, true)),
        (6, NO_HOLE, simple(), zeroes(true, false)),
        (6, NO_HOLE | FUA, simple(), zeroes(true, true)),
        (6, FAST_ZERO, fast.clone(), zeroes(false, false)),
        (6, FAST_ZERO | NO_HOLE | FUA, fast, zeroes(true, true)),
    ];
    for (command, flags, terms, expected) in rows {
        let result = check(&request(command, flags, 4096, 512), &terms);
        assert_eq!(result, Ok(expected), "command {command} flags {flags:#x}");
    }
    for flags in [0, FUA] {
        let flush = check(&request(3, flags, 0, 0), &simple());
        assert_eq!(flush, Ok(Checked::Ask(Operation::Flush)));
    }
}

/// Flags that a command does not have are refused one by one; FUA is a flag of every command.
#[test]
fn every_other_flag_is_refused() {
    let fast = Terms { export: ExportInfo { fast_zero: true, ..export() }, structured: true };
    let rows: [(u16, &Terms, u16); 9] = [
        (0, &simple(), FUA),
        (0, &structured(), FUA | DF),
        (1, &structured(), FUA),
        (3, &structured(), FUA),
        (4, &structured(), FUA),
        (5, &structured(), FUA),
        (6, &structured(), FUA | NO_HOLE),
        (6, &fast, FUA | NO_HOLE | FAST_ZERO),
        (1, &fast, FUA),
    ];
    for (command, terms, allowed) in rows {
        let length = if command == 3 { 0 } else { 512 };
        for bit in 0..16 {
            let result = check(&request(command, 1 << bit, 0, length), terms);
            let what = format!("command {command} flag bit {bit}");
            match allowed & 1 << bit {
                0 => assert_eq!(result, Err(Refusal::UnknownFlag), "{what}"),
                _ => assert!(result.is_ok(), "{what}: {result:?}"),
            }
        }
        for flags in [REQ_ONE | FUA, PAYLOAD_LEN | FUA] {
            let result = check(&request(command, flags, 0, length), terms);
            assert_eq!(result, Err(Refusal::UnknownFlag));
        }
    }
}

#[test]
fn ranges_are_inside_the_export() {
    let write = Refusal::WriteBeyondEnd;
    for (command, beyond) in [
        (0, Refusal::BeyondEnd),
        (1, write),
        (4, Refusal::BeyondEnd),
        (5, Refusal::BeyondEnd),
        (6, write),
    ] {
        let check = |offset, length| check(&request(command, 0, offset, length), &simple());
        assert!(check(SIZE - 512, 512).is_ok(), "the last block of command {command}");
        for (offset, length) in [
            (SIZE - 512, 1024),
            (SIZE, 512),
            (SIZE, 1),
            (SIZE + 512, 0),
            (SIZE - 1, 2),
            (u64::MAX - 511, 512),
            (u64::MAX, 0xffff_ffff),
        ] {
            assert_eq!(check(offset, length), Err(beyond), "command {command} at {offset:#x}");
        }
    }
}

#[test]
fn nothing_is_asked_for_nothing() {
    for command in [0, 1, 4, 5, 6] {
        for offset in [0, 512, SIZE] {
            let result = check(&request(command, FUA, offset, 0), &simple());
            assert_eq!(result, Ok(Checked::Nothing), "command {command} at {offset}");
        }
        let beyond = check(&request(command, 0, SIZE + 1, 0), &simple());
        assert!(beyond.is_err(), "also nothing lies inside the export");
        let flag = check(&request(command, 1 << 15, 0, 0), &simple());
        assert_eq!(flag, Err(Refusal::UnknownFlag));
    }
}

#[test]
fn payloads_are_bounded_and_other_ranges_are_not() {
    let max = REQUEST_BYTES_MAX;
    for command in [0, 1] {
        assert!(check(&request(command, 0, 0, max), &simple()).is_ok());
        for length in [max + 512, max + 1, u32::MAX] {
            let result = check(&request(command, 0, 0, length), &simple());
            assert_eq!(result, Err(Refusal::TooLong), "command {command}");
        }
    }
    for command in [4, 5, 6] {
        let result = check(&request(command, 0, 512, u32::MAX - 511), &simple());
        assert!(matches!(result, Ok(Checked::Ask(_))), "command {command}");
    }
}

#[test]
fn ranges_are_whole_blocks() {
    for command in [0, 1, 4, 5, 6] {
        for (offset, length) in [(0, 1), (1, 512), (511, 1), (512, 513), (256, 256), (1, 0)] {
            let result = check(&request(command, 0, offset, length), &simple());
            assert_eq!(result, Err(Refusal::Misaligned), "command {command} {offset}+{length}");
        }
    }
}

#[test]
fn a_flush_has_no_range() {
    for (offset, length) in [(0, 512), (512, 0), (u64::MAX, u32::MAX)] {
        let result = check(&request(3, 0, offset, length), &simple());
        assert_eq!(result, Err(Refusal::FlushRange));
    }
}

#[test]
fn what_is_not_offered_is_refused() {
    let bare = Terms { export: ExportInfo { trim: false, ..export() }, structured: true };
    assert_eq!(check(&request(4, 0, 0, 512), &bare), Err(Refusal::NotOffered));
    for length in [0, 512] {
        for flags in [0, REQ_ONE] {
            let status = check(&request(7, flags, 0, length), &structured());
            assert_eq!(status, Err(Refusal::NoContext));
        }
    }
    for command in (8..40).chain([0x8000, 0xffff]) {
        let result = check(&request(command, 0, 0, 512), &structured());
        assert_eq!(result, Err(Refusal::UnknownCommand), "command {command}");
    }
}

#[test]
fn a_read_only_export_does_not_change() {
    let export = ExportInfo { read_only: true, ..export() };
    let terms = Terms { export, structured: true };
    for command in [1, 4, 6] {
        let result = check(&request(command, 0, 0, 512), &terms);
        assert_eq!(result, Err(Refusal::ReadOnly), "command {command}");
    }
    for (command, length) in [(0, 512), (3, 0), (5, 512)] {
        assert!(check(&request(command, 0, 0, length), &terms).is_ok());
    }
}
