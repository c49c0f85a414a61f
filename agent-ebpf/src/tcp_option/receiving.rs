//! Options that arrive.

use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG,
    bpf_sock_ops,
};
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_load_hdr_opt};
use aya_ebpf::macros::btf_map;
use tracewire_common::config::PROPAGATE_TCP_OPTION;
use tracewire_common::connection::Connection;
use tracewire_common::context::TraceContext;
use tracewire_common::counter::Counter;
use tracewire_common::outcome::Role;
use tracewire_common::tcp_option::{self, KIND, LENGTH, SAMPLED, UNSAMPLED};

use crate::state::{config, count};
use crate::tcp_option::{change_callbacks, connection, sending};
use crate::tls::sessions;

/// A request on a connection, by what the span id of its context says of it.
#[derive(Clone, Copy)]
#[repr(C)]
struct RequestKey {
    cookie: u64,
    tag: u64,
}

/// Contexts whose request was not read yet.
#[btf_map]
static CONTEXTS_RECEIVED: LruHashMap<RequestKey, TraceContext, 8192> = LruHashMap::new();

/// A segment with an option that the kernel does not know came on a socket that asked to be told.
#[inline(always)]
pub(crate) fn parse(ops: *mut bpf_sock_ops) {
    let Some(connection) = connection(ops) else { return };
    if connection.role == Role::Client as u8 {
        let mut option = searched(4, SAMPLED);
        if load(ops, &mut option) == 4 && sending::begin(ops) {
            let asked = BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG;
            change_callbacks(ops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, asked);
        }
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
    // SAFETY: the program's context.
    let cookie = unsafe { bpf_get_socket_cookie(ops.cast()) };
    let key = RequestKey { cookie, tag: tcp_option::tag_of(context.span_id) as u64 };
    // A segment that is sent again brings the same.
    if CONTEXTS_RECEIVED.insert(key, context, BPF_NOEXIST as u64).is_ok() {
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
        let position = seq.wrapping_sub(sessions::first_position_of(connection));
        let tag = tcp_option::tag(position) as u64;
        let key = RequestKey { cookie: connection.cookie, tag };
        let Some(context) = CONTEXTS_RECEIVED.get_ptr(key) else { return 0 };
        *into = *context;
        // It may have gone, and another come to its place.
        let is_this = tcp_option::tag_of((*into).span_id) as u64 == tag
            && CONTEXTS_RECEIVED.remove(key).is_ok();
        if is_this {
            count(Counter::OptionsTaken);
        }
        is_this as u64
    }
}
