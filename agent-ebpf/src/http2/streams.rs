//! Streams: an exchange each (RFC 9113 §8.1).

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::{Connection, EXCHANGE_OWN_TRACING, EXCHANGE_SAMPLED};
use tracewire_common::counter::Counter;
use tracewire_common::outcome::{EndReason, Role};
use tracewire_common::records::{CLOSED_BY_CLIENT, CLOSED_OWN_TRACING, KIND_STREAM_CLOSED};

use crate::activities;
use crate::emit;
use crate::http2::connections::Http2Connection;
use crate::state::{add, count};
use crate::task::work;

/// A stream of a connection, by its socket's cookie.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct StreamKey {
    pub(crate) connection: u64,
    pub(crate) stream: u64,
}

/// An open stream.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct StreamState {
    /// The span's id; on a server also the id of the activity.
    pub(crate) span_id: u64,
    /// On a client: the activity that opened the stream; 0 for none.
    pub(crate) activity: u64,
    /// On a client: what is awaited, as [`work::begin_awaiting`] says.
    pub(crate) awaited: u64,
    /// When the response began, `CLOCK_MONOTONIC` ns; 0 if it did not.
    pub(crate) response_ns: u64,
    /// Bytes of data in the request, padding included.
    pub(crate) request_bytes: u64,
    /// Likewise in the response.
    pub(crate) response_bytes: u64,
    /// `EXCHANGE_` bits.
    pub(crate) flags: u32,
    /// The task that sent the request.
    pub(crate) tid: u32,
}

/// The streams that are open. The least recently used goes, so that none of which the end was
/// missed takes a place for ever.
#[btf_map]
static STREAMS: LruHashMap<StreamKey, StreamState, 16384> = LruHashMap::new();

/// The open stream, if it is one that is followed.
#[inline(always)]
pub(crate) fn stream(key: StreamKey) -> Option<&'static mut StreamState> {
    // SAFETY: map memory; its fields are written by one direction each, under its lock, and a
    // number that is late makes a size a little wrong.
    STREAMS.get_ptr_mut(key).map(|state| unsafe { &mut *state })
}

/// A stream opens.
#[inline(always)]
pub(crate) fn open(http2: *mut Http2Connection, key: StreamKey, state: &StreamState) -> bool {
    if STREAMS.insert(key, state, 0).is_err() {
        count(Counter::DropStreamsFull);
        return false;
    }
    // SAFETY: live while the program runs.
    unsafe { add(&raw mut (*http2).open, 1) };
    true
}

/// How a stream ends.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct End {
    pub(crate) now: u64,
    /// [`EndReason`].
    pub(crate) reason: u32,
    /// The error code of a reset.
    pub(crate) error_code: u32,
    pub(crate) by_client: u32,
    pub(crate) pad: u32,
}

/// A stream ends: a global function, verified once, by itself.
///
/// # Safety
///
/// The pointers must be null or valid: the verifier asks for no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn close_stream(
    connection: *const Connection,
    http2: *mut Http2Connection,
    number: u32,
    end: *const End,
) -> u64 {
    if connection.is_null() || http2.is_null() || end.is_null() {
        return 0;
    }
    // SAFETY: checked for null, and valid by the caller's promise.
    let (connection, end) = unsafe { (&*connection, &*end) };
    let key = StreamKey { connection: connection.cookie, stream: number as u64 };
    let Some(state) = stream(key) else { return 0 };
    let (span_id, flags, awaited, tid) = (state.span_id, state.flags, state.awaited, state.tid);
    let (response_ns, sent, received) =
        (state.response_ns, state.request_bytes, state.response_bytes);
    if STREAMS.remove(key).is_err() {
        // Both ends of it at once, on two CPUs.
        return 0;
    }
    // SAFETY: live while the program runs.
    unsafe { add(&raw mut (*http2).open, u64::MAX) };
    let mut own = flags & EXCHANGE_OWN_TRACING as u32 != 0;
    if connection.role == Role::Server as u8 {
        if let Some(own_tracing) = activities::end_activity(span_id) {
            own = own_tracing;
        }
    } else {
        work::end_awaiting(awaited, tid);
        if own {
            // A client's stream of the application's own tracing was never recorded.
            return 1;
        }
    }
    if flags & EXCHANGE_SAMPLED as u32 == 0 {
        return 1;
    }
    count(Counter::ExchangesClosed);
    if end.reason != EndReason::Complete as u32 {
        count(Counter::ExchangesBroken);
    }
    emit::exchange_closed(end.now, |record| {
        record.header = emit::header(KIND_STREAM_CLOSED, 0);
        record.connection = connection.cookie;
        record.response_ns = response_ns;
        record.ended_ns = end.now;
        record.span_id = span_id;
        record.request_body_bytes = sent;
        record.response_body_bytes = received;
        record.cgroup_id = connection.cgroup_id;
        record.sequence = number;
        record.tgid = connection.tgid;
        record.tid = connection.tid;
        record.status = end.error_code as u16;
        record.reason = end.reason as u8;
        let by_client = if end.by_client != 0 { CLOSED_BY_CLIENT } else { 0 };
        record.flags = by_client | if own { CLOSED_OWN_TRACING } else { 0 };
    });
    1
}

/// The most streams that are looked at when a connection ends: so many of the newest, and of the
/// oldest, which may be there as long as the connection is.
const LOOKED_AT: u32 = 1024;

/// What [`end_all`] hands to its loop.
#[repr(C)]
struct Ending {
    connection: *const Connection,
    http2: *mut Http2Connection,
    end: End,
    next: u32,
    /// What is added to it for the one after: 2, or less 2.
    step: u32,
}

unsafe extern "C" fn end_one(_index: u32, ending: *mut Ending) -> i64 {
    // SAFETY: `end_all` passes its own `ending`, whose pointers are live.
    unsafe {
        let ending = &mut *ending;
        if (*ending.http2).open == 0 || ending.next == 0 || ending.next > i32::MAX as u32 {
            return 1;
        }
        close_stream(ending.connection, ending.http2, ending.next, &raw const ending.end);
        ending.next = ending.next.wrapping_add(ending.step);
    }
    0
}

/// Every open stream of the connection ends. With a stack of its own: where it is called others are
/// deep, and old verifiers say `combined stack size of 4 calls is 544. Too large`.
#[inline(never)]
pub(crate) fn end_all(
    connection: *const Connection,
    http2: *mut Http2Connection,
    now: u64,
    reason: EndReason,
) {
    // SAFETY: live while the program runs.
    let next = unsafe {
        if (*http2).open == 0 {
            return;
        }
        (*http2).last_stream
    };
    let end = End { now, reason: reason as u32, error_code: 0, by_client: 0, pad: 0 };
    let mut ending = Ending { connection, http2, end, next, step: 0u32.wrapping_sub(2) };
    // SAFETY: the callback gets the `ending` that it expects.
    unsafe {
        bpf_loop(LOOKED_AT, end_one as *mut c_void, (&raw mut ending).cast(), 0);
        ending.next = next & 1;
        ending.step = 2;
        if ending.next != 0 {
            bpf_loop(LOOKED_AT, end_one as *mut c_void, (&raw mut ending).cast(), 0);
        }
    }
}
