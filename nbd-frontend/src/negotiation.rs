//! The handshake of one connection: bytes in, bytes out, until the client is attached, speaks TLS
//! or has to go (NBD proto: "Newstyle negotiation"; NBD.md 1.1 and 1.5).
//!
//! Owns: what was negotiated so far.   In: bytes, the end of a TLS handshake, a table of exports.
//! Out: bytes, and one [`Outcome`] at a time.
//! Invariants: nothing negotiated in plain text is in force inside TLS (CVE-2021-3716); no byte
//! that came in plain text is read as if it had come inside TLS; where TLS is required, nothing is
//! told before it, not even whether an option is known; no buffer is sized by a length that the
//! client chose.
//! Not here: sockets, the TLS library and the deadline (`io`), requests (`client`).

use base::limits::{OPTION_BYTES_MAX, STRING_BYTES_MAX};
use bytes::{Bytes, BytesMut};

use crate::exports::{Availability, ExportInfo, ExportTable, Terms};
use crate::proto::handshake::{self, CLIENT_FLAGS_BYTES, ClientFlags};
use crate::proto::option::{
    self, InfoRequest, OPTION_HEADER_BYTES, OptionCode, OptionDataError, OptionHeader,
};
use crate::proto::option_reply::{self, OptionError};

/// Output above which no further option is read before it is sent: a client that asks for lists
/// without reading them costs this much memory and no more.
const OUTPUT_BYTES_PAUSE: usize = 16 << 10;
/// The longest name that is repeated in an error text.
const ECHO_BYTES_MAX: usize = 64;

/// Whether TLS is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsMode {
    /// Never (NOTLS).
    Off,
    /// Always, before anything else (FORCEDTLS).
    Required,
}

/// Where the negotiation has come to. Bytes of [`Negotiation::poll_output`] go out first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The TLS handshake begins with the next byte of either side.
    StartTls,
    /// The transmission phase begins with the next byte of either side.
    Attached(Terms),
    /// The connection ends.
    Close(CloseReason),
}

/// Why a connection ends before it is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// NBD_OPT_ABORT.
    #[error("the client aborted the negotiation")]
    Aborted,
    /// A flag that was not offered.
    #[error("the client set a handshake flag that was not offered")]
    ClientFlags,
    /// An option without its magic number.
    #[error("an option does not begin with its magic number")]
    OptionMagic,
    /// Anything but EXPORT_NAME from a client that cannot read option replies.
    #[error("a client without fixed newstyle sent another option than EXPORT_NAME")]
    NotFixedNewstyle,
    /// EXPORT_NAME cannot be refused in another way.
    #[error("EXPORT_NAME was refused: {0}")]
    ExportName(&'static str),
    /// As [`Self::ExportName`], because no place is left for its host.
    #[error("its host has as many clients attached as one may have")]
    NoPlace,
    /// Bytes in plain text where the TLS handshake has to begin.
    #[error("bytes in plain text followed STARTTLS")]
    PlaintextAfterStartTls,
}

/// How the bytes come.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Channel {
    /// In plain text.
    Plain,
    /// Inside TLS, from a holder that may attach.
    Tls,
    /// Inside TLS, from a holder that may not: the reason is the answer to everything.
    TlsRefused(String),
}

/// What is read next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    ClientFlags,
    OptionHeader,
    OptionData(OptionHeader),
    /// Data of an option that is refused whatever it says.
    Skip {
        option: OptionCode,
        missing: u32,
    },
}

/// Data of an option, as far as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OptionData<'a> {
    Read(&'a [u8]),
    /// More than any option needs; skipped.
    TooLong,
}

impl OptionData<'_> {
    fn is_empty(self) -> bool {
        self == OptionData::Read(&[])
    }
}

/// One connection before it is attached.
#[derive(Debug)]
pub struct Negotiation {
    tls: TlsMode,
    channel: Channel,
    client: ClientFlags,
    structured: bool,
    step: Step,
    buffer: Vec<u8>,
    output: BytesMut,
    outcome: Option<Outcome>,
    /// Why nothing can be attached now: the answer to GO.
    no_place: Option<String>,
    refused_place: bool,
}

impl Negotiation {
    /// A new connection; its first output is the greeting.
    pub fn new(tls: TlsMode) -> Self {
        let mut output = BytesMut::new();
        handshake::put_greeting(&mut output);
        Self {
            tls,
            channel: Channel::Plain,
            client: ClientFlags::default(),
            structured: false,
            step: Step::ClientFlags,
            buffer: Vec::new(),
            output,
            outcome: None,
            no_place: None,
            refused_place: false,
        }
    }

    /// Whether there is a place for the client if the next bytes attach it; else what it is told.
    /// Holds until it is said anew.
    pub fn handle_place(&mut self, refusal: Option<String>) {
        self.no_place = refusal;
    }

    /// Whether the client would have been attached, had there been a place: said once each time.
    pub fn poll_refused_place(&mut self) -> bool {
        std::mem::take(&mut self.refused_place)
    }

    /// Takes bytes of the client and returns how many were read. Fewer than all means: either there
    /// is an outcome, and the rest belongs to what follows; or there is output to send before the
    /// rest is handed in again.
    pub fn handle_bytes(&mut self, exports: &ExportTable, input: &[u8]) -> usize {
        let mut used = 0;
        while self.outcome.is_none() && self.output.len() < OUTPUT_BYTES_PAUSE {
            let rest = &input[used..];
            if rest.is_empty() {
                break;
            }
            used += self.take(exports, rest);
        }
        if self.outcome == Some(Outcome::StartTls) && used < input.len() {
            self.close(CloseReason::PlaintextAfterStartTls);
        }
        assert!(self.buffer.len() <= OPTION_BYTES_MAX as usize, "option data is bounded");
        used
    }

    /// The TLS handshake is done. Everything negotiated before is void. `refusal` is why this
    /// holder may not attach anything.
    pub fn handle_tls_established(&mut self, refusal: Option<String>) {
        assert_eq!(self.outcome, Some(Outcome::StartTls), "TLS begins where it was agreed");
        assert!(self.output.is_empty(), "the plain ACK was sent before the TLS handshake");
        self.outcome = None;
        self.structured = false;
        self.step = Step::OptionHeader;
        self.buffer.clear();
        self.channel = match refusal {
            None => Channel::Tls,
            Some(reason) => Channel::TlsRefused(reason),
        };
    }

    /// Bytes for the client.
    pub fn poll_output(&mut self) -> Option<Bytes> {
        (!self.output.is_empty()).then(|| self.output.split().freeze())
    }

    /// What follows when all output is sent; `None`: more bytes.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Takes at least one byte of `input`.
    fn take(&mut self, exports: &ExportTable, input: &[u8]) -> usize {
        let wanted = match self.step {
            Step::ClientFlags => CLIENT_FLAGS_BYTES,
            Step::OptionHeader => OPTION_HEADER_BYTES,
            Step::OptionData(header) => header.length as usize,
            Step::Skip { option, missing } => return self.skip(exports, option, missing, input),
        };
        let count = input.len().min(wanted - self.buffer.len());
        self.buffer.extend_from_slice(&input[..count]);
        if self.buffer.len() == wanted {
            let bytes = std::mem::take(&mut self.buffer);
            self.handle_whole(exports, &bytes);
            self.buffer = bytes;
            self.buffer.clear();
        }
        count
    }

    fn skip(
        &mut self,
        exports: &ExportTable,
        option: OptionCode,
        missing: u32,
        input: &[u8],
    ) -> usize {
        let count = u32::try_from(input.len()).unwrap_or(u32::MAX).min(missing);
        if count == missing {
            self.step = Step::OptionHeader;
            self.answer(exports, option, OptionData::TooLong);
        } else {
            self.step = Step::Skip { option, missing: missing - count };
        }
        count as usize
    }

    /// A step's bytes are all there.
    fn handle_whole(&mut self, exports: &ExportTable, bytes: &[u8]) {
        match self.step {
            Step::ClientFlags => {
                let flags = bytes.try_into().ok().and_then(ClientFlags::parse);
                match flags {
                    Some(flags) => {
                        self.client = flags;
                        self.step = Step::OptionHeader;
                    }
                    None => self.close(CloseReason::ClientFlags),
                }
            }
            Step::OptionHeader => {
                let header = bytes.try_into().ok().and_then(OptionHeader::parse);
                match header {
                    Some(header) => self.handle_header(exports, header),
                    None => self.close(CloseReason::OptionMagic),
                }
            }
            Step::OptionData(header) => {
                self.step = Step::OptionHeader;
                self.answer(exports, header.option, OptionData::Read(bytes));
            }
            Step::Skip { .. } => unreachable!("skipped data is not collected"),
        }
    }

    fn handle_header(&mut self, exports: &ExportTable, header: OptionHeader) {
        if header.option == OptionCode::ExportName && header.length as usize > STRING_BYTES_MAX {
            return self.close(CloseReason::ExportName("the name is too long"));
        }
        if header.length == 0 {
            // Answered here and not when the next byte comes: none may come before the answer.
            self.answer(exports, header.option, OptionData::Read(&[]));
        } else if header.length > OPTION_BYTES_MAX {
            self.step = Step::Skip { option: header.option, missing: header.length };
        } else {
            self.step = Step::OptionData(header);
        }
    }

    fn answer(&mut self, exports: &ExportTable, option: OptionCode, data: OptionData<'_>) {
        if !self.client.fixed_newstyle && option != OptionCode::ExportName {
            return self.close(CloseReason::NotFixedNewstyle);
        }
        if option == OptionCode::Abort {
            self.ack(option);
            self.outcome = Some(Outcome::Close(CloseReason::Aborted));
            return;
        }
        if let Some((error, text)) = self.standing_refusal(exports, option) {
            return match option {
                OptionCode::ExportName => self.close(CloseReason::ExportName(refusal_word(error))),
                _ => self.refuse(option, error, &text),
            };
        }
        match option {
            OptionCode::ExportName => self.answer_export_name(exports, data),
            OptionCode::List if data.is_empty() => self.answer_list(exports),
            OptionCode::StartTls if data.is_empty() => self.answer_start_tls(),
            OptionCode::StructuredReply if data.is_empty() => {
                self.structured = true;
                self.ack(option);
            }
            OptionCode::List | OptionCode::StartTls | OptionCode::StructuredReply => {
                self.refuse(option, OptionError::Invalid, "this option has no data");
            }
            OptionCode::Info | OptionCode::Go => self.answer_info(exports, option, data),
            OptionCode::Abort => unreachable!("answered above"),
            OptionCode::Other(_) => {
                self.refuse(option, OptionError::Unsupported, "this option is not offered here");
            }
        }
    }

    /// What holds for every option but ABORT, whatever it says.
    fn standing_refusal(
        &self,
        exports: &ExportTable,
        option: OptionCode,
    ) -> Option<(OptionError, String)> {
        match (&self.channel, self.tls) {
            (Channel::Plain, TlsMode::Required) if option != OptionCode::StartTls => {
                let text = "this server speaks TLS only: STARTTLS comes first";
                return Some((OptionError::TlsRequired, text.to_owned()));
            }
            (Channel::TlsRefused(reason), _) => return Some((OptionError::Policy, reason.clone())),
            (Channel::Plain | Channel::Tls, TlsMode::Off | TlsMode::Required) => {}
        }
        let text = "this node is shutting down; the other node may serve the export";
        exports.is_shutting_down().then(|| (OptionError::Shutdown, text.to_owned()))
    }

    fn answer_export_name(&mut self, exports: &ExportTable, data: OptionData<'_>) {
        let OptionData::Read(bytes) = data else {
            return self.close(CloseReason::ExportName("the name is too long"));
        };
        let Ok(name) = option::parse_name(bytes) else {
            return self.close(CloseReason::ExportName("the name is no text"));
        };
        match exports.find(name) {
            None => self.close(CloseReason::ExportName("there is no such export")),
            Some(ExportInfo { availability: Availability::Refused(_), .. }) => {
                self.close(CloseReason::ExportName("the export is not served now"));
            }
            Some(_) if self.no_place.is_some() => {
                self.refused_place = true;
                self.close(CloseReason::NoPlace);
            }
            Some(export) => {
                let terms = self.terms(export);
                handshake::put_export_name_answer(
                    &mut self.output,
                    export.size,
                    terms.transmission_flags(),
                    self.client.no_zeroes,
                );
                self.outcome = Some(Outcome::Attached(terms));
            }
        }
    }

    fn answer_list(&mut self, exports: &ExportTable) {
        for export in exports.iter() {
            option_reply::put_server(&mut self.output, OptionCode::List, export);
        }
        self.ack(OptionCode::List);
    }

    fn answer_start_tls(&mut self) {
        let option = OptionCode::StartTls;
        match (&self.channel, self.tls) {
            (Channel::Tls | Channel::TlsRefused(_), _) => {
                self.refuse(option, OptionError::Invalid, "this connection speaks TLS already");
            }
            (Channel::Plain, TlsMode::Off) => {
                self.refuse(option, OptionError::Policy, "TLS is off in this server's settings");
            }
            (Channel::Plain, TlsMode::Required) => {
                self.ack(option);
                self.outcome = Some(Outcome::StartTls);
            }
        }
    }

    fn answer_info(&mut self, exports: &ExportTable, option: OptionCode, data: OptionData<'_>) {
        let OptionData::Read(bytes) = data else {
            return self.refuse(option, OptionError::TooBig, "more data than this option needs");
        };
        let request = match InfoRequest::parse(bytes) {
            Ok(request) => request,
            Err(error @ (OptionDataError::Lengths | OptionDataError::NameText)) => {
                return self.refuse(option, OptionError::Invalid, &error.to_string());
            }
            Err(error @ OptionDataError::NameLength) => {
                return self.refuse(option, OptionError::TooBig, &error.to_string());
            }
        };
        let Some(export) = exports.find(request.name) else {
            return self.refuse(option, OptionError::Unknown, &unknown_export(request.name));
        };
        if let Availability::Refused(reason) = &export.availability {
            return self.refuse(option, OptionError::Shutdown, reason);
        }
        if let Some(reason) = self.no_place.clone().filter(|_| option == OptionCode::Go) {
            self.refused_place = true;
            return self.refuse(option, OptionError::Policy, &reason);
        }
        let terms = self.terms(export);
        let out = &mut self.output;
        option_reply::put_info_export(out, option, export.size, terms.transmission_flags());
        option_reply::put_info_block_size(out, option);
        if request.wants_name {
            option_reply::put_info_name(out, option, export);
        }
        if request.wants_description && !export.description.is_empty() {
            option_reply::put_info_description(out, option, export);
        }
        self.ack(option);
        if option == OptionCode::Go {
            self.outcome = Some(Outcome::Attached(terms));
        }
    }

    fn terms(&self, export: &ExportInfo) -> Terms {
        let in_force = self.channel == Channel::Tls || self.tls == TlsMode::Off;
        assert!(in_force, "nothing is attached before TLS where TLS is required");
        Terms { export: export.clone(), structured: self.structured }
    }

    fn ack(&mut self, option: OptionCode) {
        option_reply::put_ack(&mut self.output, option);
    }

    fn refuse(&mut self, option: OptionCode, error: OptionError, text: &str) {
        option_reply::put_error(&mut self.output, option, error, text);
    }

    /// Ends the connection. What was answered before is still sent.
    fn close(&mut self, reason: CloseReason) {
        self.outcome = Some(Outcome::Close(reason));
    }
}

fn refusal_word(error: OptionError) -> &'static str {
    match error {
        OptionError::TlsRequired => "TLS is required",
        OptionError::Policy => "this certificate may not attach",
        OptionError::Shutdown => "the node is shutting down",
        OptionError::Unsupported
        | OptionError::Invalid
        | OptionError::Unknown
        | OptionError::TooBig => "it cannot be granted",
    }
}

/// CVE-2020-10761: a name of the greatest length has no room inside an error text.
fn unknown_export(name: &str) -> String {
    if name.is_empty() {
        return "there is no default export: name one (LIST shows them)".to_owned();
    }
    if name.len() > ECHO_BYTES_MAX {
        return "there is no export of that name (LIST shows them)".to_owned();
    }
    format!("there is no export named '{}' (LIST shows them)", name.escape_debug())
}

#[cfg(test)]
mod tests;
