//! Connections as they are established and closed (`sock_ops`).

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTT_CB,
    BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_TCP_CLOSE,
    bpf_sock_ops,
};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set,
};
use aya_ebpf::programs::SockOpsContext;
use tracewire_common::config::{PROPAGATE_HTTP1, PROPAGATE_MAY_LEAVE, WINDOW};
use tracewire_common::connection::{
    CONN_ENROLLED, CONN_HTTP2, CONN_OPAQUE, CONN_SPARED, CONN_TLS, Connection,
};
use tracewire_common::counter::Counter;
use tracewire_common::outcome::{EndReason, HeadKind, Role};
use tracewire_common::records::KIND_HTTP2_ENDED;
use tracewire_common::stream::Stream;

use crate::bounds::filling;
use crate::http2::{connections, streams};
use crate::socket::drive::{self, Drive, Piece, Source};
use crate::socket::{ending, exchange, spare};
use crate::state::{self, EarlyKey, config, count};
use crate::task::work;
use crate::tls::sessions;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// A socket opened, accepted or closed; or a round trip of one was measured.
#[inline(always)]
pub(crate) fn on_event(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => on_established(ctx.ops, Role::Client),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => on_established(ctx.ops, Role::Server),
        BPF_SOCK_OPS_RTT_CB => spare::on_round_trip(ctx.ops),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => on_closed(ctx.ops),
        _ => {}
    }
}

#[inline(always)]
fn on_established(ops: *mut bpf_sock_ops, role: Role) {
    let Some(config) = config() else { return };
    // SAFETY: `ops` is the program's context; its fields are read as the verifier
    // rewrites them, and the socket is checked for null.
    unsafe {
        let family = (*ops).family;
        if family != AF_INET && family != AF_INET6 {
            return;
        }
        let local_port = (*ops).local_port as u16;
        // `remote_port` is in network order (include/uapi/linux/bpf.h).
        let remote_port = u32::from_be((*ops).remote_port) as u16;
        let service_port = if role as u8 == Role::Client as u8 { remote_port } else { local_port };
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let connection = state::connection_or_new(sk.cast());
        if connection.is_null() {
            count(Counter::DropNoState);
            return;
        }
        let connection = &mut *connection;
        if state::port_is_left_alone(config, service_port) {
            connection.flags |= CONN_OPAQUE;
        }
        if connection.flags & CONN_OPAQUE != 0 {
            return;
        }
        connection.cookie = bpf_get_socket_cookie(ops.cast());
        connection.role = role as u8;
        connection.local_port = local_port;
        connection.remote_port = remote_port;
        set_addresses(connection, ops, family);
        let (snd_nxt, rcv_nxt) = ((*ops).snd_nxt, (*ops).rcv_nxt);
        if role as u8 == Role::Client as u8 {
            connection.requests = Stream::at_start(HeadKind::Request, snd_nxt);
            connection.responses = Stream::at_start(HeadKind::Response, rcv_nxt);
        } else {
            connection.reply_activity = bpf_ktime_get_ns();
            connection.requests = Stream::at_start(HeadKind::Request, rcv_nxt);
            connection.responses = Stream::at_start(HeadKind::Response, snd_nxt);
        }
        count(Counter::ConnectionsTracked);
        // Others may have asked for more.
        let mut callbacks = (*ops).bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG;
        if role as u8 == Role::Client as u8 && config.propagate & PROPAGATE_MAY_LEAVE != 0 {
            callbacks |= BPF_SOCK_OPS_RTT_CB_FLAG;
        }
        bpf_sock_ops_cb_flags_set(ops, callbacks as i32);
        if role as u8 == Role::Client as u8 {
            if config.propagate & PROPAGATE_HTTP1 != 0 {
                enrol(ops, connection);
            }
        } else {
            read_early(sk.cast(), connection, rcv_nxt);
        }
    }
}

/// # Safety
///
/// `ops` must be the program's context.
#[inline(always)]
unsafe fn enrol(ops: *mut bpf_sock_ops, connection: &mut Connection) {
    // The state must say so before the first send can.
    // A socket may be connected once more, and have left the map before.
    connection.flags = connection.flags & !CONN_SPARED | CONN_ENROLLED;
    // SAFETY: the caller's promise.
    if unsafe { state::enrol(ops, connection.cookie) } {
        count(Counter::SocketsEnrolled);
    } else {
        connection.flags &= !CONN_ENROLLED;
        count(Counter::EnrolFailed);
    }
}

/// Reads the ends off the event; an IPv4 address inside an IPv6 one is taken out.
///
/// # Safety
///
/// `ops` must be the program's context.
#[inline(always)]
unsafe fn set_addresses(connection: &mut Connection, ops: *mut bpf_sock_ops, family: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        if family == AF_INET {
            set_ip4(connection, (*ops).local_ip4, (*ops).remote_ip4);
            return;
        }
        let l =
            [(*ops).local_ip6[0], (*ops).local_ip6[1], (*ops).local_ip6[2], (*ops).local_ip6[3]];
        let r = [
            (*ops).remote_ip6[0],
            (*ops).remote_ip6[1],
            (*ops).remote_ip6[2],
            (*ops).remote_ip6[3],
        ];
        set_ip6(connection, l, r);
    }
}

/// Sets IPv4 ends, in network order.
#[inline(always)]
pub(crate) fn set_ip4(connection: &mut Connection, local: u32, remote: u32) {
    connection.ip_version = 4;
    put_words(&mut connection.local_addr, [local, 0, 0, 0]);
    put_words(&mut connection.remote_addr, [remote, 0, 0, 0]);
}

/// Sets IPv6 ends, in network order; `::ffff:0:0/96` is IPv4 (RFC 4291 §2.5.5.2).
#[inline(always)]
pub(crate) fn set_ip6(connection: &mut Connection, local: [u32; 4], remote: [u32; 4]) {
    if remote[0] == 0 && remote[1] == 0 && remote[2] == 0xffff_u32.to_be() {
        set_ip4(connection, local[3], remote[3]);
        return;
    }
    connection.ip_version = 6;
    put_words(&mut connection.local_addr, local);
    put_words(&mut connection.remote_addr, remote);
}

#[inline(always)]
fn put_words(to: &mut [u8; 16], words: [u32; 4]) {
    // SAFETY: sixteen bytes either way; the write is unaligned.
    unsafe { to.as_mut_ptr().cast::<[u32; 4]>().write_unaligned(words) };
}

/// The socket is closed: what is still in flight was never answered.
#[inline(always)]
fn on_closed(ops: *mut bpf_sock_ops) {
    // SAFETY: as in `on_established`.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let connection = state::connection(sk.cast());
        if connection.is_null() {
            return;
        }
        if (*connection).flags & CONN_TLS != 0 {
            sessions::socket_closed((*connection).cookie);
        }
        if (*connection).flags & CONN_HTTP2 != 0 {
            let http2 = connections::of(sk.cast());
            if !http2.is_null() {
                work::stop_waiting(&mut *connection, (*connection).tid);
                streams::end_all(connection, http2, bpf_ktime_get_ns(), EndReason::Aborted);
                connections::tell(KIND_HTTP2_ENDED, (*connection).cookie);
            }
            return;
        }
        ending::abandon(connection, bpf_ktime_get_ns());
    }
}

/// Reads the data that came with the packet that completed the handshake
/// (`TCP_DEFER_ACCEPT`): it was seen on the listener.
///
/// # Safety
///
/// `connection` must be live state, `sk` its socket as the verifier knows it.
#[inline(always)]
unsafe fn read_early(sk: *mut c_void, connection: &mut Connection, rcv_nxt: u32) {
    let key = EarlyKey {
        remote_addr: connection.remote_addr,
        local_addr: connection.local_addr,
        remote_port: connection.remote_port,
        local_port: connection.local_port,
        pad: 0,
    };
    let Some(data) = state::early(&key) else { return };
    let first = data.bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if data.seq == rcv_nxt && data.len >= 8 && connections::is_start::<true>(first) {
        // SAFETY: the caller's promise.
        unsafe { connections::begin_behind(sk, connection, data.seq.wrapping_add(data.len)) };
    } else if data.seq == rcv_nxt && data.len > 0 {
        let piece = Piece {
            source: (&raw const *data).cast_mut().cast(),
            base: 0,
            len: if data.len > WINDOW as u32 { WINDOW as u32 } else { data.len },
            seq: data.seq,
            // SAFETY: no arguments.
            now: unsafe { bpf_ktime_get_ns() },
            task: 0,
        };
        // SAFETY: live state, and the source that `Early` expects.
        unsafe { drive::read::<Early, true>(connection, &piece) };
    }
    state::forget_early(&key);
}

/// Data that was kept until its connection was established.
struct Early;

impl Source for Early {
    const SENDS: bool = false;

    #[inline(always)]
    unsafe fn load(drive: &mut Drive, at: u32, len: u32) -> bool {
        let at = at as usize & (WINDOW - 1);
        let left = (WINDOW - at) as u32;
        let len = if len > left { left } else { len };
        let Some(len) = filling::<{ WINDOW as u32 }>(len) else { return false };
        // SAFETY: source and window both hold WINDOW bytes, `at + len` is no more.
        unsafe {
            let from = drive.source.cast::<state::EarlyData>();
            aya_ebpf::helpers::generated::bpf_probe_read_kernel(
                (&raw mut (*drive.scratch).window).cast(),
                len,
                (&raw const (*from).bytes).cast::<u8>().wrapping_add(at).cast(),
            ) == 0
        }
    }

    #[inline(always)]
    unsafe fn request_head(drive: &mut Drive, stream: &mut Stream, _end_len: u32) {
        exchange::open_server(drive, stream);
    }
}
