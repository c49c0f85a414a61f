//! Records that the kernel half writes to the ring buffer, and their checked decoder.
//!
//! A record is a fixed `repr(C)` header, whose first field says what it is and
//! how long, and after it `data_len` bytes. Integers are in the machine's order
//! (both halves run on one machine); addresses are in network order.

use crate::outcome::{Correlation, EndReason, Outcome, Role};

/// The version of every record; a decoder refuses others.
pub const RECORD_VERSION: u16 = 2;

/// [`RecordHeader::kind`] of [`HeadFragment`].
pub const KIND_HEAD_FRAGMENT: u16 = 1;
/// [`RecordHeader::kind`] of [`ExchangeOpened`].
pub const KIND_EXCHANGE_OPENED: u16 = 2;
/// [`RecordHeader::kind`] of [`ExchangeClosed`].
pub const KIND_EXCHANGE_CLOSED: u16 = 3;
/// [`RecordHeader::kind`] of [`ProcessExec`].
pub const KIND_PROCESS_EXEC: u16 = 4;
/// [`RecordHeader::kind`] of [`ProcessEvent`] for a fork.
pub const KIND_PROCESS_FORK: u16 = 5;
/// [`RecordHeader::kind`] of [`ProcessEvent`] for an exit.
pub const KIND_PROCESS_EXIT: u16 = 6;
/// [`RecordHeader::kind`] of [`ConnectionEvent`]: not HTTP/1.x, needs no program any more.
pub const KIND_CONNECTION_OPAQUE: u16 = 7;

/// [`RecordHeader::kind`] of [`ExchangeCandidates`].
pub const KIND_EXCHANGE_CANDIDATES: u16 = 8;

/// [`RecordHeader::kind`] of [`ExchangeOpened`] for a stream of HTTP/2: its `sequence` is the stream's
/// id, its data the last captured piece of the raw header block (RFC 7541).
pub const KIND_STREAM_OPENED: u16 = 9;
/// [`RecordHeader::kind`] of [`HeaderBlock`].
pub const KIND_HEADER_BLOCK: u16 = 10;
/// [`RecordHeader::kind`] of [`ExchangeClosed`] for a stream of HTTP/2: its `sequence` is the stream's
/// id, its `status` the error code where the stream was reset, and else 0.
pub const KIND_STREAM_CLOSED: u16 = 11;
/// [`RecordHeader::kind`] of [`ConnectionEvent`]: the connection carries HTTP/2 from its start, both
/// dynamic tables are empty.
pub const KIND_HTTP2_STARTED: u16 = 12;
/// [`RecordHeader::kind`] of [`ConnectionEvent`]: a connection that carried HTTP/2 is gone.
pub const KIND_HTTP2_ENDED: u16 = 13;

/// [`RecordHeader::kind`] of [`ConnectionEvent`]: the socket, older than the agent, is to leave the
/// socket map.
pub const KIND_SOCKET_SPARED: u16 = 14;

/// The most candidates for one request's parent that are named.
pub const CANDIDATES: usize = 8;

/// What every record starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RecordHeader {
    /// One of the `KIND_` constants.
    pub kind: u16,
    /// [`RECORD_VERSION`].
    pub version: u16,
    /// Bytes after the fixed part.
    pub data_len: u32,
}

/// A part of a long request head, sent before its [`ExchangeOpened`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HeadFragment {
    /// What the record is.
    pub header: RecordHeader,
    /// The connection's socket cookie.
    pub connection: u64,
    /// The number of the exchange on its connection.
    pub sequence: u32,
    /// Where in the head the data belongs, in bytes.
    pub offset: u32,
}

/// A request's head was read to its end. Data: the last captured piece of the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExchangeOpened {
    /// What the record is.
    pub header: RecordHeader,
    /// The connection's socket cookie.
    pub connection: u64,
    /// When the first byte of the request passed, in ns of `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// The upper half of the trace id.
    pub trace_id_hi: u64,
    /// The lower half of the trace id.
    pub trace_id_lo: u64,
    /// The span's id.
    pub span_id: u64,
    /// The parent span's id; 0 for a root.
    pub parent_span_id: u64,
    /// The process's cgroup id; 0 if not known (yet).
    pub cgroup_id: u64,
    /// This end's address; an IPv4 address is in the first four bytes.
    pub local_addr: [u8; 16],
    /// The peer's address.
    pub remote_addr: [u8; 16],
    /// This end's port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
    /// 4 or 6.
    pub ip_version: u8,
    /// [`Role`].
    pub role: u8,
    /// [`Correlation`].
    pub correlation: u8,
    /// [`Outcome`].
    pub outcome: u8,
    /// The number of the exchange on its connection.
    pub sequence: u32,
    /// The process, in the initial pid namespace; 0 if not known yet (servers).
    pub tgid: u32,
    /// The task (thread); 0 if not known yet.
    pub tid: u32,
    /// The whole length of the head as sent by the application, in bytes.
    pub head_len: u32,
    /// Where in the head the data belongs, in bytes.
    pub head_offset: u32,
    /// HTTP/2: the number of the header block among those of its direction, from 0; else 0.
    pub block: u32,
    /// `OPENED_` bits.
    pub flags: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// In [`ExchangeOpened::flags`]: the request was read as plaintext of TLS.
pub const OPENED_TLS: u32 = 1;

/// A part of a header block of HTTP/2 as it crossed the wire (RFC 7541), padding and frame headers
/// taken off. The last part of a sampled request's comes as [`ExchangeOpened`] instead. Parts of one
/// direction of a connection come in order; what is missing shows by `block` and `offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HeaderBlock {
    /// What the record is.
    pub header: RecordHeader,
    /// The connection's socket cookie.
    pub connection: u64,
    /// When this part passed, `CLOCK_MONOTONIC` ns.
    pub time_ns: u64,
    /// The stream's id.
    pub stream: u32,
    /// The number of the block among those of its direction, from 0.
    pub block: u32,
    /// Where in the block the data belongs, in bytes.
    pub offset: u32,
    /// With [`BLOCK_END`]: the length of the whole block; the data ends there, unless some of the block
    /// was not captured.
    pub block_len: u32,
    /// [`crate::outcome::HeadKind`]: who sent it. Trailers of either side are here as well.
    pub direction: u8,
    /// `BLOCK_` bits.
    pub flags: u8,
    /// Explicit padding.
    pub pad: [u8; 6],
}

/// [`HeaderBlock::flags`]: the block ends here.
pub const BLOCK_END: u8 = 1;
/// [`HeaderBlock::flags`]: with it, its sender ended the stream.
pub const BLOCK_END_STREAM: u8 = 2;

/// A response ended, or its connection did. No data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExchangeClosed {
    /// What the record is.
    pub header: RecordHeader,
    /// The connection's socket cookie.
    pub connection: u64,
    /// When the first byte of the final response passed; 0 if none did. `CLOCK_MONOTONIC` ns.
    pub response_ns: u64,
    /// When the exchange ended. `CLOCK_MONOTONIC` ns.
    pub ended_ns: u64,
    /// The span's id, as in [`ExchangeOpened`].
    pub span_id: u64,
    /// Bytes of the request's content, transfer coding taken off.
    pub request_body_bytes: u64,
    /// Bytes of the response's content, transfer coding taken off.
    pub response_body_bytes: u64,
    /// The process's cgroup id; 0 if not known.
    pub cgroup_id: u64,
    /// The number of the exchange on its connection.
    pub sequence: u32,
    /// The process; 0 if not known.
    pub tgid: u32,
    /// The task; 0 if not known.
    pub tid: u32,
    /// The status code of the final response; 0 if there was none.
    pub status: u16,
    /// [`EndReason`].
    pub reason: u8,
    /// [`CLOSED_OWN_TRACING`] or 0.
    pub flags: u8,
}

/// [`ExchangeClosed::flags`]: the application traces this exchange itself; emit no span.
pub const CLOSED_OWN_TRACING: u8 = 1;
/// [`ExchangeClosed::flags`]: of [`EndReason::StreamReset`]: it was the client that did so.
pub const CLOSED_BY_CLIENT: u8 = 2;

/// A span that may be a request's parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Candidate {
    /// The upper half of the trace id.
    pub trace_id_hi: u64,
    /// The lower half of the trace id.
    pub trace_id_lo: u64,
    /// The span's id; 0 where there is none.
    pub span_id: u64,
}

/// All spans that may be the parent of a request, sent after its [`ExchangeOpened`]. No data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExchangeCandidates {
    /// What the record is.
    pub header: RecordHeader,
    /// The connection's socket cookie.
    pub connection: u64,
    /// The number of the exchange on its connection.
    pub sequence: u32,
    /// How many there are.
    pub count: u32,
    /// They, with gaps.
    pub candidates: [Candidate; CANDIDATES],
}

/// A process started a program. Data: its arguments, then its environment, both
/// NUL-separated as in `/proc/PID/cmdline` and `/proc/PID/environ`, maybe cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessExec {
    /// What the record is.
    pub header: RecordHeader,
    /// When, in ns of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The process's cgroup id.
    pub cgroup_id: u64,
    /// The process.
    pub tgid: u32,
    /// Bytes of arguments in the data; the rest is environment.
    pub args_len: u32,
    /// The command name of the kernel, NUL-padded.
    pub comm: [u8; 16],
    /// The path of the executable (an interpreter's, for a script), NUL-terminated; cut
    /// where the last byte is not NUL. In rows, since larger arrays have no `Default`.
    pub exe: [[u8; 32]; 4],
}

impl ProcessExec {
    /// The path of the executable; `None` if it was not read, or not to its end.
    pub fn executable(&self) -> Option<&[u8]> {
        let bytes = self.exe.as_flattened();
        let end = bytes.iter().position(|&byte| byte == 0)?;
        bytes.get(..end).filter(|path| !path.is_empty())
    }
}

/// A process (not a thread) was born of, or left. No data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessEvent {
    /// What the record is.
    pub header: RecordHeader,
    /// When, in ns of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The process.
    pub tgid: u32,
    /// Its parent; 0 for an exit.
    pub parent_tgid: u32,
}

/// Something happened to a connection. No data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ConnectionEvent {
    /// What the record is.
    pub header: RecordHeader,
    /// The connection's socket cookie.
    pub connection: u64,
    /// The process; 0 if not known.
    pub tgid: u32,
    /// `EVENT_` bits.
    pub flags: u32,
}

/// In [`ConnectionEvent::flags`]: the connection carries TLS.
pub const EVENT_TLS: u32 = 1;

const _: () = assert!(size_of::<RecordHeader>() == 8);
const _: () = assert!(size_of::<HeadFragment>() == 24);
const _: () = assert!(size_of::<ExchangeOpened>() == 136);
const _: () = assert!(size_of::<ExchangeClosed>() == 80);
const _: () = assert!(size_of::<ExchangeCandidates>() == 216);
const _: () = assert!(size_of::<HeaderBlock>() == 48);
const _: () = assert!(size_of::<ProcessExec>() == 176);
const _: () = assert!(size_of::<ProcessEvent>() == 24);
const _: () = assert!(size_of::<ConnectionEvent>() == 24);

/// A plain record: `repr(C)`, every bit pattern valid, no padding.
///
/// # Safety
///
/// The type must be `repr(C)`, `Copy`, have no padding bytes, and accept every bit pattern.
unsafe trait Plain: Copy {}
// SAFETY: integers and byte arrays only, explicit padding, sizes asserted above.
unsafe impl Plain for RecordHeader {}
// SAFETY: as above.
unsafe impl Plain for HeadFragment {}
// SAFETY: as above.
unsafe impl Plain for ExchangeOpened {}
// SAFETY: as above.
unsafe impl Plain for HeaderBlock {}
// SAFETY: as above.
unsafe impl Plain for ExchangeClosed {}
// SAFETY: as above.
unsafe impl Plain for ExchangeCandidates {}
// SAFETY: as above.
unsafe impl Plain for ProcessExec {}
// SAFETY: as above.
unsafe impl Plain for ProcessEvent {}
// SAFETY: as above.
unsafe impl Plain for ConnectionEvent {}

/// A decoded record. Data borrows from the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A part of a long request head.
    HeadFragment(HeadFragment, &'a [u8]),
    /// A request's head was read to its end.
    ExchangeOpened(ExchangeOpened, &'a [u8]),
    /// A response ended, or its connection did.
    ExchangeClosed(ExchangeClosed),
    /// What a request may be for.
    ExchangeCandidates(ExchangeCandidates),
    /// A process started a program; its arguments and environment.
    ProcessExec(ProcessExec, &'a [u8], &'a [u8]),
    /// A process was born.
    ProcessFork(ProcessEvent),
    /// A process left.
    ProcessExit(ProcessEvent),
    /// A connection turned out not to be HTTP/1.x.
    ConnectionOpaque(ConnectionEvent),
    /// A socket is to leave the socket map.
    SocketSpared(ConnectionEvent),
    /// A request's header block was read to its end.
    StreamOpened(ExchangeOpened, &'a [u8]),
    /// A part of a header block.
    HeaderBlock(HeaderBlock, &'a [u8]),
    /// A stream ended, or its connection did.
    StreamClosed(ExchangeClosed),
    /// A connection carries HTTP/2 from its start.
    Http2Started(ConnectionEvent),
    /// A connection that carried HTTP/2 is gone.
    Http2Ended(ConnectionEvent),
}

/// Why bytes from the ring buffer are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Shorter than its kind needs.
    Truncated,
    /// Of a version that this agent does not read.
    Version(u16),
    /// Of no known kind.
    Kind(u16),
    /// A length inside is larger than the record.
    Length,
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated => f.write_str("record is shorter than its kind needs"),
            Self::Version(v) => write!(f, "record version {v}, expected {RECORD_VERSION}"),
            Self::Kind(k) => write!(f, "unknown record kind {k}"),
            Self::Length => f.write_str("record holds a length larger than itself"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// Reads a plain value off the front of `bytes`.
fn take<T: Plain>(bytes: &[u8]) -> Result<(T, &[u8]), DecodeError> {
    let (front, rest) = bytes.split_at_checked(size_of::<T>()).ok_or(DecodeError::Truncated)?;
    // SAFETY: `front` has exactly the size of `T`, the read is unaligned, and
    // `T: Plain` accepts every bit pattern.
    let value = unsafe { front.as_ptr().cast::<T>().read_unaligned() };
    Ok((value, rest))
}

/// Decodes one record. Bytes after its data are ignored: the ring buffer rounds sizes up.
///
/// # Errors
///
/// If the bytes are no record of this version; nothing is assumed of them.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let (header, _) = take::<RecordHeader>(bytes)?;
    if header.version != RECORD_VERSION {
        return Err(DecodeError::Version(header.version));
    }
    let data_len = header.data_len as usize;
    match header.kind {
        KIND_HEAD_FRAGMENT => {
            let (record, rest) = take::<HeadFragment>(bytes)?;
            Ok(Record::HeadFragment(record, rest.get(..data_len).ok_or(DecodeError::Length)?))
        }
        KIND_EXCHANGE_OPENED => {
            let (record, rest) = take::<ExchangeOpened>(bytes)?;
            Ok(Record::ExchangeOpened(record, rest.get(..data_len).ok_or(DecodeError::Length)?))
        }
        KIND_STREAM_OPENED => {
            let (record, rest) = take::<ExchangeOpened>(bytes)?;
            Ok(Record::StreamOpened(record, rest.get(..data_len).ok_or(DecodeError::Length)?))
        }
        KIND_HEADER_BLOCK => {
            let (record, rest) = take::<HeaderBlock>(bytes)?;
            Ok(Record::HeaderBlock(record, rest.get(..data_len).ok_or(DecodeError::Length)?))
        }
        KIND_STREAM_CLOSED => Ok(Record::StreamClosed(take(bytes)?.0)),
        KIND_HTTP2_STARTED => Ok(Record::Http2Started(take(bytes)?.0)),
        KIND_HTTP2_ENDED => Ok(Record::Http2Ended(take(bytes)?.0)),
        KIND_EXCHANGE_CLOSED => Ok(Record::ExchangeClosed(take(bytes)?.0)),
        KIND_EXCHANGE_CANDIDATES => Ok(Record::ExchangeCandidates(take(bytes)?.0)),
        KIND_PROCESS_EXEC => {
            let (record, rest) = take::<ProcessExec>(bytes)?;
            let data = rest.get(..data_len).ok_or(DecodeError::Length)?;
            let (args, env) =
                data.split_at_checked(record.args_len as usize).ok_or(DecodeError::Length)?;
            Ok(Record::ProcessExec(record, args, env))
        }
        KIND_PROCESS_FORK => Ok(Record::ProcessFork(take(bytes)?.0)),
        KIND_PROCESS_EXIT => Ok(Record::ProcessExit(take(bytes)?.0)),
        KIND_CONNECTION_OPAQUE => Ok(Record::ConnectionOpaque(take(bytes)?.0)),
        KIND_SOCKET_SPARED => Ok(Record::SocketSpared(take(bytes)?.0)),
        other => Err(DecodeError::Kind(other)),
    }
}

impl ExchangeOpened {
    /// The role, if the integer is one.
    pub fn role(&self) -> Option<Role> {
        Role::try_from(self.role).ok()
    }

    /// The correlation rule, if the integer is one.
    pub fn correlation(&self) -> Option<Correlation> {
        Correlation::try_from(self.correlation).ok()
    }

    /// The propagation outcome, if the integer is one.
    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::try_from(self.outcome).ok()
    }
}

impl ExchangeClosed {
    /// The end reason, if the integer is one.
    pub fn reason(&self) -> Option<EndReason> {
        EndReason::try_from(self.reason).ok()
    }
}
