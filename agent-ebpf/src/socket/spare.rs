//! Sockets that would come to harm in the socket map.
//!
//! A blocking `recv()` on a socket in a socket map waits once. If it is woken and there is nothing to
//! receive, it returns `EAGAIN` (`tcp_bpf_recvmsg`, net/ipv4/tcp_bpf.c). What wakes it so is room in the
//! send buffer for which a send had waited (`SOCK_NOSPACE`). So a socket leaves the map where a process
//! that blocks sends more than fits, with the header already written.
//!
//! The program that sees the send may not take it out. Room is made by an acknowledgement, and before that
//! wakes anybody the kernel measures the round trip (`tcp_ack`, net/ipv4/tcp_input.c): a program that is called
//! then may. The send that waits for the room holds on to the socket's old ways until it ends, and who then
//! receives does so as if the socket had never been in the map. Of sockets that are older than the agent no
//! round trips are told; userspace takes these out, as soon as it can.

use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::cty::c_void;
use tracewire_common::config::KernelConfig;
use tracewire_common::connection::{CONN_ADOPTED, CONN_SPARED, Connection};
use tracewire_common::counter::Counter;
use tracewire_common::records::{ConnectionEvent, KIND_SOCKET_SPARED};

use crate::emit;
use crate::socket::rewrite::send_buffer;
use crate::state::{self, count};
use crate::task::birth::read_u32;
use crate::task::exec::read_u64;

/// A send of a whole request that is no longer than this is taken to fit.
const SHORT: u32 = 4096;

/// `O_NONBLOCK` (include/uapi/asm-generic/fcntl.h).
const NONBLOCK: u32 = 0o4000;

/// Has the socket taken out of the map, if the process blocks in sends and this one, of `len` bytes, does
/// not fit.
///
/// # Safety
///
/// `connection` must be live.
#[inline(always)]
pub(crate) unsafe fn if_it_blocks(connection: *mut Connection, config: &KernelConfig, len: u32) {
    // SAFETY: the caller's promise.
    let connection = unsafe { &mut *connection };
    // A request without a body, mostly.
    if connection.requests.http1.is_at_start() && len <= SHORT {
        return;
    }
    if connection.flags & CONN_SPARED == 0
        && !fits(connection, config, len)
        && blocks(connection, config)
    {
        // Before anything is acknowledged of what is sent.
        connection.flags |= CONN_SPARED;
        count(Counter::SocketsSpared);
        if connection.flags & CONN_ADOPTED != 0 {
            tell(connection.cookie);
        }
    }
}

/// A round trip of a client's socket was measured.
#[inline(always)]
pub(crate) fn on_round_trip(ops: *mut bpf_sock_ops) {
    // SAFETY: the program's context; the socket and its state are checked for null.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let connection = state::connection(sk.cast());
        if !connection.is_null() && (*connection).flags & CONN_SPARED != 0 {
            state::take_out((*connection).cookie);
        }
    }
}

/// Whether the send buffer takes the bytes, so that no send waits: the kernel charges an eighth of that for its
/// own headers at the most. Nor does it take more where so many bytes have not been sent yet as the
/// process or the administrator allow (`TCP_NOTSENT_LOWAT`, `sk_stream_memory_free`).
#[inline(always)]
fn fits(connection: &Connection, config: &KernelConfig, len: u32) -> bool {
    let (used, limit) = send_buffer(connection, config);
    let len = len as u64;
    let unsent = read_u32(connection.sock as *const c_void, config.off_tcp_notsent_lowat);
    let unsent = if unsent == 0 { config.notsent_lowat } else { unsent };
    used + len < unsent as u64 && used + len + len / 8 + (SHORT as u64) < limit
}

/// Whether calls on the socket wait.
#[inline(always)]
fn blocks(connection: &Connection, config: &KernelConfig) -> bool {
    let socket = read_u64(connection.sock as *const c_void, config.off_sock_socket);
    let file = read_u64(socket as *const c_void, config.off_socket_file);
    file != 0 && read_u32(file as *const c_void, config.off_file_flags) & NONBLOCK == 0
}

#[inline(never)]
fn tell(connection: u64) {
    let header = emit::header(KIND_SOCKET_SPARED, 0);
    let record = ConnectionEvent { header, connection, tgid: 0, flags: 0 };
    // SAFETY: a whole record on the stack.
    unsafe { emit::output_at_once((&raw const record).cast(), size_of::<ConnectionEvent>() as u64) }
}
