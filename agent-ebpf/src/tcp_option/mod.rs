//! Contexts beside ciphertext, in a TCP option ([`tracewire_common::tcp_option`]).
//!
//! A server's end says with the first data that it sends on a connection with TLS that it reads
//! contexts. Only a client's end that has received that sends any: nothing is added to what goes to
//! clients and servers without an agent but these four bytes to clients, once, and a way that drops
//! options carries none. A client's request leaves its context here as its plaintext goes into the
//! library, before there is ciphertext of it, and it goes with the next data; a server's takes it when
//! its plaintext comes out.

mod receiving;
mod request;
mod sending;

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_HDR_OPT_LEN_CB, BPF_SOCK_OPS_PARSE_HDR_OPT_CB,
    BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_WRITE_HDR_OPT_CB,
    BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, BPF_TCP_CLOSE, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::bpf_sock_ops_cb_flags_set;
use aya_ebpf::programs::SockOpsContext;
use tracewire_common::connection::{CONN_OPAQUE, Connection};
use tracewire_common::stream::OPTION_WRITES;

use crate::state::{self, config};
use crate::tls::sessions;

pub(crate) use request::{discard, received, send_beside};

/// A socket opened or closed, sends a segment, or received one with an option that the kernel does
/// not know.
#[inline(always)]
pub(crate) fn on_event(ctx: &SockOpsContext) {
    let ops = ctx.ops;
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => on_established(ops, false),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => on_established(ops, true),
        BPF_SOCK_OPS_HDR_OPT_LEN_CB => sending::reserve(ops),
        BPF_SOCK_OPS_WRITE_HDR_OPT_CB => sending::write(ops),
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB => receiving::parse(ops),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => sending::forget(ops),
        _ => {}
    }
}

/// A connection that may come to carry contexts. Clients wait for an announcement; servers make one,
/// and wait for contexts.
#[inline(always)]
fn on_established(ops: *mut bpf_sock_ops, is_server: bool) {
    let Some(connection) = connection(ops) else { return };
    if connection.flags & CONN_OPAQUE != 0 || is_loopback(connection) {
        return;
    }
    if !is_server || begin_writing(ops, connection) {
        change_callbacks(ops, BPF_SOCK_OPS_PARSE_UNKNOWN_HDR_OPT_CB_FLAG, 0);
    }
}

/// Asks to be called for each segment of the socket at work. Not where another program did: room that it
/// has kept for itself could not be told from ours.
#[inline(always)]
fn begin_writing(ops: *mut bpf_sock_ops, connection: &mut Connection) -> bool {
    // SAFETY: the program's context.
    let callbacks = unsafe { (*ops).bpf_sock_ops_cb_flags };
    if callbacks & BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG != 0 {
        return false;
    }
    connection.responses.options |= OPTION_WRITES;
    // The end of the socket, too, whoever else asked for less than that since.
    change_callbacks(ops, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG, 0);
    true
}

/// No segment is looked at any more.
#[inline(always)]
fn end_writing(ops: *mut bpf_sock_ops, connection: &mut Connection) {
    connection.responses.options &= !OPTION_WRITES;
    change_callbacks(ops, 0, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

/// Whether the plaintext of the socket's process is read, and may be touched.
#[inline(always)]
fn is_read(connection: &Connection) -> bool {
    match config() {
        Some(config) => {
            sessions::are_seen(connection.tgid)
                && state::process_may_be_touched(config, connection.tgid)
        }
        None => false,
    }
}

/// Whether the other end can only be on this host, where contexts are handed over without.
#[inline(always)]
fn is_loopback(connection: &Connection) -> bool {
    let address = &connection.remote_addr;
    if connection.ip_version == 4 {
        return address[0] == 127;
    }
    // SAFETY: two words of sixteen bytes, which are aligned to these in a `Connection`.
    let words = unsafe { address.as_ptr().cast::<[u64; 2]>().read() };
    words[0] == 0 && words[1] == 1u64.to_be()
}

/// What is kept of the socket at work.
#[inline(always)]
fn connection(ops: *mut bpf_sock_ops) -> Option<&'static mut Connection> {
    // SAFETY: the program's context, whose socket is checked for null; map memory.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let connection = state::connection(sk.cast());
        if connection.is_null() { None } else { Some(&mut *connection) }
    }
}

/// Asks for callbacks of the socket at work, and asks no more for others. Those are kept that other
/// programs asked for.
#[inline(always)]
fn change_callbacks(ops: *mut bpf_sock_ops, more: u32, fewer: u32) {
    // SAFETY: the program's context.
    unsafe {
        let callbacks = ((*ops).bpf_sock_ops_cb_flags | more) & !fewer;
        bpf_sock_ops_cb_flags_set(ops, callbacks as i32);
    }
}
