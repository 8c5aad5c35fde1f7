//! Replies to options (NBD proto: "Option reply types").

use base::limits::{BLOCK_BYTES, PAGE_BYTES, REQUEST_BYTES_MAX, STRING_BYTES_MAX};
use bytes::{BufMut, BytesMut};

use super::option::OptionCode;
use crate::exports::ExportInfo;

const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const REPLY_ACK: u32 = 1;
const REPLY_SERVER: u32 = 2;
const REPLY_INFO: u32 = 3;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;

/// Why an option is refused. The numbers are the protocol's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum OptionError {
    /// The option is not known or not offered.
    Unsupported = (1 << 31) + 1,
    /// Forbidden here.
    Policy = (1 << 31) + 2,
    /// Malformed, or not legal at this point.
    Invalid = (1 << 31) + 3,
    /// Nothing is answered before STARTTLS.
    TlsRequired = (1 << 31) + 5,
    /// No such export.
    Unknown = (1 << 31) + 6,
    /// The server, or its service of this export, is not there now.
    Shutdown = (1 << 31) + 7,
    /// The data is longer than anything this option could need.
    TooBig = (1 << 31) + 9,
}

/// Done; the last reply to an option.
pub fn put_ack(out: &mut BytesMut, option: OptionCode) {
    put_header(out, option, REPLY_ACK, 0);
}

/// Refused, with a text for people; the last reply to an option.
pub fn put_error(out: &mut BytesMut, option: OptionCode, error: OptionError, text: &str) {
    let text = bounded(text);
    put_header(out, option, error as u32, text.len());
    out.put_slice(text.as_bytes());
}

/// One line of the answer to LIST.
pub fn put_server(out: &mut BytesMut, option: OptionCode, export: &ExportInfo) {
    let name = export.name.as_str();
    let description = bounded(&export.description);
    put_header(out, option, REPLY_SERVER, 4 + name.len() + description.len());
    out.put_u32(wire_length(name.len()));
    out.put_slice(name.as_bytes());
    out.put_slice(description.as_bytes());
}

/// Size and flags: sent with every granted INFO and GO.
pub fn put_info_export(out: &mut BytesMut, option: OptionCode, size: u64, flags: u16) {
    put_header(out, option, REPLY_INFO, 12);
    out.put_u16(INFO_EXPORT);
    out.put_u64(size);
    out.put_u16(flags);
}

/// The name under which the export is known, also if it was asked for by the empty one.
pub fn put_info_name(out: &mut BytesMut, option: OptionCode, export: &ExportInfo) {
    put_info_text(out, option, INFO_NAME, export.name.as_str());
}

/// The description.
pub fn put_info_description(out: &mut BytesMut, option: OptionCode, export: &ExportInfo) {
    put_info_text(out, option, INFO_DESCRIPTION, bounded(&export.description));
}

/// Smallest and preferred block and largest payload.
pub fn put_info_block_size(out: &mut BytesMut, option: OptionCode) {
    const MINIMUM: u32 = BLOCK_BYTES as u32;
    const PREFERRED: u32 = PAGE_BYTES as u32;
    const _: () = assert!(MINIMUM.is_power_of_two() && MINIMUM <= 65536);
    const _: () = assert!(PREFERRED.is_power_of_two() && PREFERRED >= MINIMUM);
    const _: () = assert!(REQUEST_BYTES_MAX >= 1 << 20 && REQUEST_BYTES_MAX >= PREFERRED);
    put_header(out, option, REPLY_INFO, 14);
    out.put_u16(INFO_BLOCK_SIZE);
    out.put_u32(MINIMUM);
    out.put_u32(PREFERRED);
    out.put_u32(REQUEST_BYTES_MAX);
}

fn put_info_text(out: &mut BytesMut, option: OptionCode, kind: u16, text: &str) {
    put_header(out, option, REPLY_INFO, 2 + text.len());
    out.put_u16(kind);
    out.put_slice(text.as_bytes());
}

fn put_header(out: &mut BytesMut, option: OptionCode, kind: u32, length: usize) {
    out.put_u64(REPLY_MAGIC);
    out.put_u32(option.number());
    out.put_u32(kind);
    out.put_u32(wire_length(length));
}

fn wire_length(length: usize) -> u32 {
    u32::try_from(length).expect("every text was cut to the limit of a string")
}

/// The longest beginning of `text` that is a string of the protocol.
fn bounded(text: &str) -> &str {
    let mut end = text.len().min(STRING_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(fill: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        fill(&mut out);
        out.to_vec()
    }

    const GO: OptionCode = OptionCode::Go;

    fn golden(kind: [u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, 0, 0, 0, 7];
        bytes.extend_from_slice(&kind);
        bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn export() -> ExportInfo {
        ExportInfo {
            description: "words".into(),
            ..ExportInfo::new("vol0".parse().expect("a name"), 512)
        }
    }

    #[test]
    fn replies_have_their_golden_bytes() {
        let info = export();
        let rows = [
            (put(|o| put_ack(o, GO)), golden([0, 0, 0, 1], b"")),
            (put(|o| put_server(o, GO, &info)), golden([0, 0, 0, 2], b"\0\0\0\x04vol0words")),
            (
                put(|o| put_info_export(o, GO, 512, 0x0102)),
                golden([0, 0, 0, 3], b"\0\0\0\0\0\0\0\0\x02\0\x01\x02"),
            ),
            (put(|o| put_info_name(o, GO, &info)), golden([0, 0, 0, 3], b"\0\x01vol0")),
            (put(|o| put_info_description(o, GO, &info)), golden([0, 0, 0, 3], b"\0\x02words")),
            (
                put(|o| put_info_block_size(o, GO)),
                golden([0, 0, 0, 3], b"\0\x03\0\0\x02\0\0\0\x10\0\x02\0\0\0"),
            ),
        ];
        for (bytes, golden) in rows {
            assert_eq!(bytes, golden);
        }
    }

    #[test]
    fn errors_have_their_numbers() {
        let rows = [
            (OptionError::Unsupported, 1),
            (OptionError::Policy, 2),
            (OptionError::Invalid, 3),
            (OptionError::TlsRequired, 5),
            (OptionError::Unknown, 6),
            (OptionError::Shutdown, 7),
            (OptionError::TooBig, 9),
        ];
        for (error, number) in rows {
            let bytes = put(|o| put_error(o, GO, error, "why"));
            assert_eq!(bytes, golden([0x80, 0, 0, number], b"why"));
        }
    }

    #[test]
    fn a_text_is_cut_at_the_limit_between_characters() {
        let text = "\u{e9}".repeat(3000);
        let bytes = put(|o| put_error(o, GO, OptionError::Unknown, &text));
        assert_eq!(bytes.len(), 20 + 4096);
        let odd = format!("x{text}");
        let bytes = put(|o| put_error(o, GO, OptionError::Unknown, &odd));
        assert_eq!(bytes.len(), 20 + 4095);
        assert!(std::str::from_utf8(&bytes[20..]).is_ok());
    }
}
