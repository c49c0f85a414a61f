//! Which task works on which stream: what a process receives of a connection of HTTP/2.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_loop;
use tracewire_common::connection::Connection;
use tracewire_common::outcome::Role;
use tracewire_common::python::SEVERAL;

use crate::golang::{goroutine, served};
use crate::http2::connections::{self, Http2Connection};
use crate::http2::streams::{StreamKey, stream};
use crate::python::{self, context};
use crate::task::{shown, work};
use crate::tokio;

/// The most requests of one receive that are told apart.
const AT_ONCE: u32 = 1024;

/// What [`received`] hands to its loop.
#[repr(C)]
struct Receiving {
    cookie: u64,
    tgid: u32,
    tid: u32,
    next: u32,
    last: u32,
    /// Non-zero if the task that receives a request is taken to work on it.
    works: u64,
}

unsafe extern "C" fn receive_one(_index: u32, receiving: *mut Receiving) -> i64 {
    // SAFETY: `received` passes its own `receiving`.
    let receiving = unsafe { &mut *receiving };
    if receiving.next > receiving.last {
        return 1;
    }
    let key = StreamKey { connection: receiving.cookie, stream: receiving.next as u64 };
    if let Some(state) = stream(key) {
        shown::received(receiving.tgid, state.span_id);
        if receiving.works != 0 {
            work::received(receiving.tgid, receiving.tid, state.span_id);
        }
    }
    receiving.next = receiving.next.wrapping_add(2);
    0
}

/// A task of the process received bytes of the connection.
///
/// # Safety
///
/// `sk` must be a socket that the verifier knows as such.
#[inline(always)]
pub(crate) unsafe fn received(sk: *mut c_void, connection: &Connection, tgid: u32, tid: u32) {
    // SAFETY: the caller's promise.
    let http2 = unsafe { connections::of(sk) };
    if http2.is_null() {
        return;
    }
    // SAFETY: checked for null; live while the program runs.
    on_connection(unsafe { &mut *http2 }, connection, tgid, tid);
}

/// As [`received`], for a connection that may have no socket of its own.
#[inline(always)]
pub(crate) fn on_connection(
    http2: &mut Http2Connection,
    connection: &Connection,
    tgid: u32,
    tid: u32,
) {
    if connection.role == Role::Client as u8 {
        let (replies, activity) = (http2.replies, http2.reply_activity);
        http2.replies = 0;
        if replies > 0 {
            work::replied(tid, if replies == 1 { activity } else { 0 });
        }
        return;
    }
    let (before, last) = (http2.received, http2.last_stream);
    if before == last {
        return;
    }
    http2.received = last;
    let is_one = last.wrapping_sub(before) <= 2;
    if let Some(process) = goroutine::process(tgid) {
        // Who reads several requests at once makes a goroutine for each, and which is whose is
        // known where `served` sees it.
        let key = StreamKey { connection: connection.cookie, stream: last as u64 };
        let span_id = match stream(key) {
            Some(state) if is_one => state.span_id,
            _ => 0,
        };
        goroutine::received(process, tgid, span_id);
        served::note_reader(process, tgid, connection.cookie);
        return receive_each(connection.cookie, (tgid, tid), (before, last), false);
    }
    if let Some(_python) = python::process(tgid) {
        let key = StreamKey { connection: connection.cookie, stream: last as u64 };
        let span_id = match stream(key) {
            Some(state) if is_one => state.span_id,
            _ => SEVERAL,
        };
        context::received_stream((tgid as u64) << 32 | tid as u64, span_id);
    }
    tokio::receives_streams(tgid);
    receive_each(connection.cookie, (tgid, tid), (before, last), true);
}

/// The task received what came of requests between these streams.
#[inline(always)]
fn receive_each(cookie: u64, (tgid, tid): (u32, u32), (before, last): (u32, u32), works: bool) {
    let next = if before == 0 { last & 1 } else { before.wrapping_add(2) };
    let next = if last.wrapping_sub(next) > 2 * AT_ONCE { last } else { next };
    let mut receiving = Receiving { cookie, tgid, tid, next, last, works: works as u64 };
    // SAFETY: the callback gets what it expects.
    unsafe { bpf_loop(AT_ONCE, receive_one as *mut c_void, (&raw mut receiving).cast(), 0) };
}
