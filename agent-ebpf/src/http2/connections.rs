//! What is kept of connections that carry HTTP/2, beside their [`Connection`].

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::btf_maps::{ProgramArray, SkStorage};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_sk_storage_get, bpf_skb_load_bytes};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::{SkBuffContext, SkMsgContext};
use tracewire_common::connection::{CONN_ADOPTED, CONN_HTTP2, CONN_SWITCHED, Connection};
use tracewire_common::counter::Counter;
use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::http2::{Http2, PREFACE_START};
use tracewire_common::records::{ConnectionEvent, KIND_HTTP2_STARTED};

use crate::emit;
use crate::scratch::try_lock;
use crate::socket::drive::stream_of;
use crate::socket::exchange::Origin;
use crate::state::{self, count};

/// One direction of a connection.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Direction {
    pub(crate) http2: Http2,
    /// Non-zero while a program works on it.
    pub(crate) busy: u64,
    /// When the header block that is being read began, `CLOCK_MONOTONIC` ns.
    pub(crate) started_ns: u64,
    /// The sequence number of the next byte that was not seen.
    pub(crate) next_seq: u32,
    /// Non-zero while the position was never lost.
    pub(crate) is_trusted: u32,
}

/// A connection that carries HTTP/2. All zero while it is set up.
#[repr(C)]
pub(crate) struct Http2Connection {
    pub(crate) requests: Direction,
    pub(crate) responses: Direction,
    /// Non-zero once somebody sets it up.
    taken: u64,
    /// Streams that are open.
    pub(crate) open: u64,
    /// On a client: what the responses, of which something arrived since the process last received,
    /// were for.
    pub(crate) reply_activity: u64,
    /// So many of them: 0, 1, or 2 for more.
    pub(crate) replies: u32,
    /// The newest stream.
    pub(crate) last_stream: u32,
    /// On a server: the newest stream that the process has received.
    pub(crate) received: u32,
    pub(crate) pad: u32,
    /// The place in its trace of the request at work: on the stack it is too much, and the verifier
    /// says `combined stack size of 5 calls is 592. Too large`.
    pub(crate) origin: Origin,
    /// What was written of it: see [`crate::http2::rewrite`].
    pub(crate) written: u64,
    /// Non-zero once a context was inserted into the send at work. (On the stack the verifier would
    /// know it, and look at each round of the loop for itself.)
    pub(crate) inserted: u32,
    /// Where the last of them ends.
    pub(crate) inserted_to: u32,
}

#[btf_map]
static HTTP2: SkStorage<Http2Connection> = SkStorage::new();

/// The programs that read packets of HTTP/2, at 0: they are only called, attached to nothing.
#[btf_map]
static HTTP2_EGRESS: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static HTTP2_INGRESS: ProgramArray<1> = ProgramArray::new();

/// The one that writes contexts into streams, likewise.
#[btf_map]
static HTTP2_STAGE: ProgramArray<1> = ProgramArray::new();

/// Goes on with the program that writes contexts into streams; comes back if there is none.
#[inline(always)]
pub(crate) fn call_rewriter(ctx: &SkMsgContext) {
    // SAFETY: the context of the program at work.
    unsafe { HTTP2_STAGE.tail_call(ctx, 0) };
}

/// Goes on with the program for HTTP/2; comes back if there is none.
#[inline(always)]
pub(crate) fn call_reader<const EGRESS: bool>(ctx: &SkBuffContext) {
    // SAFETY: the context of the program at work.
    unsafe {
        if EGRESS {
            HTTP2_EGRESS.tail_call(ctx, 0)
        } else {
            HTTP2_INGRESS.tail_call(ctx, 0)
        };
    }
}

/// What is kept of the connection.
///
/// # Safety
///
/// `sk` must be a socket that the verifier knows as such.
#[inline(always)]
pub(crate) unsafe fn of(sk: *mut c_void) -> *mut Http2Connection {
    // SAFETY: the caller's promise; a null value without the create flag only looks up.
    unsafe { bpf_sk_storage_get(state::map_of(&raw const HTTP2), sk, core::ptr::null_mut(), 0) }
        .cast()
}

/// How often is looked whether the other direction has set the connection up: some microseconds.
const SETTING_UP: u32 = 512;

/// The header of a SETTINGS frame on no stream, without its length, as bytes 3 to 8.
const SETTINGS_FRAME: u64 = 4;

/// Whether the first bytes of a direction are those of HTTP/2: the client's preface, or the SETTINGS
/// of a server, which need not wait for that (RFC 9113 §3.4). They decide; what follows has to be in
/// order, or nothing is looked at.
#[inline(always)]
pub(crate) fn is_start<const REQUESTS: bool>(first: u64) -> bool {
    if REQUESTS {
        return first == PREFACE_START;
    }
    // A length of at most 64 settings, the type, no flags, and three bytes of the stream, 0.
    let len = (first.swap_bytes() >> 40) as u32;
    first >> 24 == SETTINGS_FRAME && len <= 64 * 6 && len.is_multiple_of(6)
}

/// Whether nothing of this direction has been seen yet, nor any request, or none since the connection left
/// HTTP/1.x. Of requests nothing may
/// have been seen in either case: where they are read as HTTP/2, their first byte is the preface's.
#[inline(always)]
pub(crate) fn is_unread<const REQUESTS: bool>(connection: *mut Connection, seq: u32) -> bool {
    // SAFETY: live while the program runs.
    unsafe {
        let stream = stream_of::<REQUESTS>(connection);
        let flags = (*connection).flags;
        let is_new = (*connection).opened == 0 && flags & CONN_ADOPTED == 0;
        (is_new || flags & CONN_SWITCHED != 0)
            && (*stream).next_seq == seq
            && (*stream).is_unread()
            && (*connection).requests.is_unread()
    }
}

/// Looks at the first bytes of a direction. Answers whether the connection carries HTTP/2.
///
/// # Safety
///
/// `skb` and `sk` must be the program's, `connection` live; `payload` says where in the packet the
/// bytes are, and how many.
#[inline(always)]
pub(crate) unsafe fn recognise<const REQUESTS: bool>(
    skb: *mut __sk_buff,
    sk: *mut c_void,
    connection: *mut Connection,
    seq: u32,
    payload: (u32, u32),
) -> bool {
    if payload.1 < 8 || !is_unread::<REQUESTS>(connection, seq) {
        return false;
    }
    let mut first = 0u64;
    // SAFETY: the caller's promise; the destination is a local of that length.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), payload.0, (&raw mut first).cast(), 8) != 0
            || !is_start::<REQUESTS>(first)
        {
            return false;
        }
        begin(sk, connection)
    }
}

/// The connection carries HTTP/2 from here on. Answers whether it does.
///
/// # Safety
///
/// As for [`recognise`].
#[inline(always)]
pub(crate) unsafe fn begin(sk: *mut c_void, connection: *mut Connection) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let http2: *mut Http2Connection =
            state::storage_or_new(state::map_of(&raw const HTTP2), sk).cast();
        if http2.is_null() {
            count(Counter::DropNoState);
            return false;
        }
        set_up(connection, http2)
    }
}

/// Sets up what is kept of such a connection, which is all zero. Answers whether it is.
///
/// # Safety
///
/// The pointers must be live.
#[inline(always)]
pub(crate) unsafe fn set_up(connection: *mut Connection, http2: *mut Http2Connection) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if !try_lock(&raw mut (*http2).taken) {
            // The other direction began on another CPU in this moment.
            let mut patience = 0;
            while patience < SETTING_UP {
                if (&raw const (*connection).flags).read_volatile() & CONN_HTTP2 != 0 {
                    return true;
                }
                patience += 1;
            }
            return false;
        }
        (*http2).requests.http2.start(HeadKind::Request);
        (*http2).requests.next_seq = (*connection).requests.next_seq;
        (*http2).requests.is_trusted = 1;
        (*http2).responses.http2.start(HeadKind::Response);
        (*http2).responses.next_seq = (*connection).responses.next_seq;
        (*http2).responses.is_trusted = 1;
        (&raw mut (*connection).flags).write_volatile((*connection).flags | CONN_HTTP2);
        count(Counter::ConnectionsHttp2);
        tell(KIND_HTTP2_STARTED, (*connection).cookie);
    }
    true
}

/// As [`begin`], for a connection of which the first bytes, up to `next_seq`, came before it was
/// established. They are not read; what follows is, from the next frame on.
///
/// # Safety
///
/// As for [`recognise`].
#[inline(always)]
pub(crate) unsafe fn begin_behind(sk: *mut c_void, connection: *mut Connection, next_seq: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        if !begin(sk, connection) {
            return;
        }
        let http2 = of(sk);
        if !http2.is_null() {
            (*http2).requests.http2.lose();
            (*http2).requests.is_trusted = 0;
            (*http2).requests.next_seq = next_seq;
        }
    }
}

/// As [`begin`], for a connection of which nothing was seen before a client's stream of this number.
/// Requests are read from the first of the two sequence numbers on, responses from the second.
///
/// # Safety
///
/// As for [`recognise`].
#[inline(always)]
pub(crate) unsafe fn begin_in_the_middle(
    sk: *mut c_void,
    connection: *mut Connection,
    next_seqs: (u32, u32),
    stream: u32,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if !begin(sk, connection) {
            return false;
        }
        let http2 = of(sk);
        if http2.is_null() {
            return false;
        }
        // Nobody else reads it yet that would not find the same: both directions are lost until then.
        (*http2).last_stream = stream.wrapping_sub(2);
        let both =
            [(&raw mut (*http2).requests, next_seqs.0), (&raw mut (*http2).responses, next_seqs.1)];
        for (direction, next_seq) in both {
            (*direction).http2.lose();
            (*direction).is_trusted = 0;
            (*direction).next_seq = next_seq;
        }
    }
    true
}

/// Tells userspace something of the connection.
#[inline(always)]
pub(crate) fn tell(kind: u16, connection: u64) {
    let record = ConnectionEvent { header: emit::header(kind, 0), connection, tgid: 0, flags: 0 };
    // SAFETY: a whole record on the stack.
    unsafe { emit::output((&raw const record).cast(), size_of::<ConnectionEvent>() as u64, 0) };
}
