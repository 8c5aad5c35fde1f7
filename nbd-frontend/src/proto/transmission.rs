//! Transmission flags: what an export offers once it is attached (NBD proto: "Transmission
//! flags").

use crate::exports::ExportInfo;

const HAS_FLAGS: u16 = 1 << 0;
const READ_ONLY: u16 = 1 << 1;
const SEND_FLUSH: u16 = 1 << 2;
const SEND_FUA: u16 = 1 << 3;
const ROTATIONAL: u16 = 1 << 4;
const SEND_TRIM: u16 = 1 << 5;
const SEND_WRITE_ZEROES: u16 = 1 << 6;
const SEND_DF: u16 = 1 << 7;
const CAN_MULTI_CONN: u16 = 1 << 8;
const SEND_CACHE: u16 = 1 << 10;
const SEND_FAST_ZERO: u16 = 1 << 11;

/// The flags of `export` for a client that has negotiated structured replies, or not.
///
/// CAN_MULTI_CONN is a promise about both nodes: FLUSH and FUA cover what any connection of either
/// node was told is written (PROTOCOL 2.7).
pub fn transmission_flags(export: &ExportInfo, structured: bool) -> u16 {
    let mut flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN | SEND_CACHE;
    let optional = [
        (export.read_only, READ_ONLY),
        (export.rotational, ROTATIONAL),
        (structured, SEND_DF),
        (export.trim && !export.read_only, SEND_TRIM),
        (!export.read_only, SEND_WRITE_ZEROES),
        (export.fast_zero && !export.read_only, SEND_FAST_ZERO),
    ];
    for (set, bit) in optional {
        if set {
            flags |= bit;
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export() -> ExportInfo {
        ExportInfo {
            rotational: false,
            trim: false,
            fast_zero: false,
            ..ExportInfo::new("vol0".parse().expect("a name"), 4096)
        }
    }

    #[test]
    fn each_flag_follows_its_condition() {
        let base = 0b0101_0100_1101;
        let rows: [(&str, ExportInfo, bool, u16); 7] = [
            ("bare", export(), false, base),
            ("structured replies bring DF", export(), true, base | 1 << 7),
            ("trim", ExportInfo { trim: true, ..export() }, false, base | 1 << 5),
            ("rotational", ExportInfo { rotational: true, ..export() }, false, base | 1 << 4),
            ("fast zero", ExportInfo { fast_zero: true, ..export() }, false, base | 1 << 11),
            (
                "read-only offers nothing that writes",
                ExportInfo { read_only: true, trim: true, fast_zero: true, ..export() },
                false,
                base & !(1 << 6) | 1 << 1,
            ),
            (
                "everything",
                ExportInfo { rotational: true, trim: true, fast_zero: true, ..export() },
                true,
                base | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 11,
            ),
        ];
        for (what, export, structured, expected) in rows {
            let flags = transmission_flags(&export, structured);
            assert_eq!(flags, expected, "{what}: {flags:#b}");
            assert_eq!(flags & 0b1111_0010_0000_0000, 0, "{what}: undefined or not offered bits");
        }
    }
}
