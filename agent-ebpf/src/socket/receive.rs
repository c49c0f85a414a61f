//! Rules 1 and 2, receive and reply: which task works on which exchange.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid};
use tracewire_common::connection::{
    CONN_HTTP2, CONN_OPAQUE, CONN_TLS, Connection, UNKNOWN_UNCOUNTED,
};
use tracewire_common::outcome::Role;

use crate::golang::goroutine;
use crate::http2;
use crate::python::context;
use crate::ruby;
use crate::socket::opaque;
use crate::state;
use crate::task::{shown, work};
use crate::tls;
use crate::tokio;

/// The task at work received bytes from a socket. `SEES_END` says that [`on_end`] is called as well.
#[inline(always)]
pub(crate) fn on_receive<const SEES_END: bool>(sk: *const c_void) {
    // SAFETY: the tracepoint's argument, which the verifier knows as a socket.
    let connection = unsafe { state::connection(sk.cast_mut()) };
    if connection.is_null() {
        return;
    }
    // SAFETY: checked for null; live while the program runs.
    let connection = unsafe { &mut *connection };
    // SAFETY: no arguments.
    let id = unsafe { bpf_get_current_pid_tgid() };
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    if connection.flags & CONN_OPAQUE != 0 {
        if connection.flags & CONN_TLS != 0 && tls::socket::received(connection, tgid, tid) {
            return;
        }
        return opaque::received(connection, tid);
    }
    if connection.tgid != tgid {
        connection.tgid = tgid;
        // SAFETY: no arguments.
        connection.cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    }
    connection.tid = tid;
    if connection.flags & CONN_HTTP2 != 0 {
        if connection.awaited_for != 0 {
            work::stop_waiting(connection, tid);
        }
        // SAFETY: the tracepoint's argument.
        return unsafe { http2::receive::received(sk.cast_mut(), connection, tgid, tid) };
    }
    if SEES_END && is_until_close(connection) {
        return replied(connection, tgid, tid);
    }
    associate(connection, tgid, tid);
}

/// The task at work was told that no more bytes come from a socket. Where that is what ends a response,
/// an event loop goes on with it only now, however long the last of it was there before.
#[inline(always)]
pub(crate) fn on_end(sk: *const c_void) {
    // SAFETY: the tracepoint's argument, which the verifier knows as a socket.
    let connection = unsafe { state::connection(sk.cast_mut()) };
    if connection.is_null() {
        return;
    }
    // SAFETY: checked for null; live while the program runs.
    let connection = unsafe { &mut *connection };
    let is_http1 = connection.flags & (CONN_OPAQUE | CONN_HTTP2) == 0;
    // Once: it is told so as often as it asks.
    if is_http1 && is_until_close(connection) && connection.awaited_for != 0 {
        // SAFETY: no arguments.
        let id = unsafe { bpf_get_current_pid_tgid() };
        let (tgid, tid) = ((id >> 32) as u32, id as u32);
        work::stop_waiting(connection, tid);
        replied(connection, tgid, tid);
    }
}

/// Whether the end of the connection ends the response on it.
#[inline(always)]
fn is_until_close(connection: &Connection) -> bool {
    connection.role == Role::Client as u8
        && (connection.responses.http1.is_until_close()
            || connection.requests.http1.closes_behind())
}

/// The task at work received something of a response.
#[inline(always)]
fn replied(connection: &mut Connection, tgid: u32, tid: u32) {
    work::some_has_come(&mut connection.awaited_for, tid);
    tokio::task::replied((tgid as u64) << 32 | tid as u64);
    work::replied(tid, connection.reply_activity);
}

/// The task at work received bytes of a connection that carries HTTP/1.x.
#[inline(always)]
pub(crate) fn associate(connection: &mut Connection, tgid: u32, tid: u32) {
    if connection.role == Role::Server as u8 {
        if connection.opened == connection.answered {
            return;
        }
        let place = connection.place_of(connection.answered);
        if let Some(exchange) = connection.exchanges.get(place) {
            shown::received(tgid, exchange.span_id);
            if connection.opened.wrapping_sub(connection.answered) > 1 {
                shown::received_behind(connection, tgid);
            }
            match goroutine::process(tgid) {
                Some(process) => goroutine::received(process, tgid, exchange.span_id),
                None => {
                    let task = (tgid as u64) << 32 | tid as u64;
                    context::received(connection, task, exchange.span_id);
                    tokio::task::received(task, connection.cookie, exchange.span_id);
                    ruby::received(tgid, connection.cookie, exchange.span_id);
                    work::received(tgid, tid, exchange.span_id);
                }
            }
        }
    } else if connection.role == Role::Client as u8 {
        if connection.awaited_for != 0 && connection.opened == connection.answered {
            if connection.opened == 0 && connection.awaited_for < UNKNOWN_UNCOUNTED {
                // Of the connection itself, in records, and no request was sent: for what it was opened goes on.
                return work::replied(tid, connection.awaited_for);
            }
            work::stop_waiting(connection, tid);
        }
        replied(connection, tgid, tid);
    }
}
