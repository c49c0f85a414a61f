//! Options that arrive.

use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_load_hdr_opt};
use aya_ebpf::macros::btf_map;
use tracewire_common::config::PROPAGATE_TCP_OPTION;
use tracewire_common::connection::{CONN_WHOLE, Connection};
use tracewire_common::context::TraceContext;
use tracewire_common::counter::Counter;
use tracewire_common::outcome::Role;
use tracewire_common::stream::{OPTION_ANNOUNCED, OPTION_WRITES};
use tracewire_common::tcp_option::{self, KIND, LENGTH, SAMPLED, UNSAMPLED};

use crate::state::{config, count};
use crate::tcp_option::{connection, is_read, sending};
use crate::tls::sessions;

/// A request on a connection, by what the span id of its context says of it.
#[derive(Clone, Copy)]
#[repr(C)]
struct RequestKey {
    cookie: u64,
    tag: u64,
}

/// A context that has come.
#[derive(Clone, Copy)]
#[repr(C)]
struct Received {
    context: TraceContext,
    /// When, `CLOCK_MONOTONIC` ns.
    at: u64,
}

/// Contexts whose request was not read yet.
#[btf_map]
static CONTEXTS_RECEIVED: LruHashMap<RequestKey, Received, 8192> = LruHashMap::new();

/// How long a context waits for its request, in ns. It comes with it or before it. What came too late
/// must not be there any more when the plaintext has come to the same place again, 16 MiB on.
const PATIENCE_NS: u64 = 4_000_000_000;

/// A segment with an option that the kernel does not know came on a socket that asked to be told.
#[inline(always)]
pub(crate) fn parse(ops: *mut bpf_sock_ops) {
    let Some(connection) = connection(ops) else { return };
    if connection.role == Role::Client as u8 {
        if connection.responses.options & OPTION_WRITES == 0 && is_read(connection) {
            let mut option = searched(4, SAMPLED);
            if load(ops, &mut option) == 4 {
                sending::begin(ops, connection);
            }
        }
        return;
    }
    if connection.responses.options & OPTION_ANNOUNCED == 0 {
        return;
    }
    let mut option = searched(4, SAMPLED);
    if load(ops, &mut option) != LENGTH as i64 {
        option = searched(4, UNSAMPLED);
        if load(ops, &mut option) != LENGTH as i64 {
            return;
        }
    }
    let Some(context) = tcp_option::decode(&option) else { return };
    // SAFETY: the program's context; no arguments.
    let (cookie, at) = unsafe { (bpf_get_socket_cookie(ops.cast()), bpf_ktime_get_ns()) };
    let key = RequestKey { cookie, tag: tcp_option::tag_of(context.span_id) as u64 };
    if CONTEXTS_RECEIVED.insert(key, Received { context, at }, 0).is_ok() {
        count(Counter::OptionsReceived);
    }
}

/// What is searched for, in words of which the first four bytes are not used.
#[inline(always)]
fn searched(length: u8, id: [u8; 2]) -> [u64; 4] {
    [u64::from_ne_bytes([0, 0, 0, 0, KIND, length, id[0], id[1]]), 0, 0, 0]
}

/// Looks for the option that begins so. Answers its length, or less than zero.
#[inline(always)]
fn load(ops: *mut bpf_sock_ops, option: &mut [u64; 4]) -> i64 {
    let place = option.as_mut_ptr().cast::<u8>().wrapping_add(4);
    // SAFETY: the program's context; as many bytes as there are from `place` on.
    unsafe { bpf_load_hdr_opt(ops, place.cast(), LENGTH as u32, 0) }
}

/// Takes the context that came for the request whose head starts at `seq` of a session's plaintext.
/// Answers 1 if there is one. A global function: verified once, by itself.
///
/// # Safety
///
/// The pointers must be null or valid: the verifier asks for no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn take_context(
    connection: *const Connection,
    into: *mut TraceContext,
    seq: u32,
) -> u64 {
    if connection.is_null() || into.is_null() {
        return 0;
    }
    // SAFETY: checked for null, and valid by the caller's promise.
    unsafe {
        let Some(config) = config() else { return 0 };
        if config.propagate & PROPAGATE_TCP_OPTION == 0 {
            return 0;
        }
        let connection = &*connection;
        if connection.flags & CONN_WHOLE == 0 {
            // Its place in the plaintext is not known.
            return 0;
        }
        let position = seq.wrapping_sub(sessions::first_position_of(connection));
        let tag = tcp_option::tag(position) as u64;
        let key = RequestKey { cookie: connection.cookie, tag };
        let Some(received) = CONTEXTS_RECEIVED.get_ptr(key) else { return 0 };
        *into = (*received).context;
        let is_old = bpf_ktime_get_ns().wrapping_sub((*received).at) > PATIENCE_NS;
        // It may have gone, and another come to its place.
        let is_this = tcp_option::tag_of((*into).span_id) as u64 == tag
            && CONTEXTS_RECEIVED.remove(key).is_ok()
            && !is_old;
        if is_this {
            count(Counter::OptionsTaken);
        }
        is_this as u64
    }
}
