//! Ruby's servers of threads. Puma's requests are received by one thread, and served by another, which
//! took them from a queue. Before that does so, it looks whether the client is still there: it asks for the
//! state of the connection (`TCP_INFO`). Whoever does that takes up the request that came on it.

use aya_ebpf::btf_maps::{Array, LruHashMap};
use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::ProbeContext;
use tracewire_common::outcome::Correlation;

use crate::activities;
use crate::golang::round_trip::cookie;
use crate::state::rule_is_on;
use crate::task::work;

/// getsockopt(2): level and name of what is asked for (include/uapi/linux/in.h, tcp.h).
const IPPROTO_TCP: u64 = 6;
const TCP_INFO: u64 = 11;

/// Processes that were seen to ask.
#[btf_map]
static RUBY_SERVERS: LruHashMap<u32, u32, 1024> = LruHashMap::new();

/// Whether there was any: hosts without do not look for them.
#[btf_map]
static RUBY_COUNT: Array<u32, 1> = Array::new();

/// What such processes received last on connections, by cookie.
#[btf_map]
static RUBY_REQUESTS: LruHashMap<u64, u64, 8192> = LruHashMap::new();

/// The process received bytes of a request.
#[inline(always)]
pub(crate) fn received(tgid: u32, cookie: u64, activity: u64) {
    if RUBY_COUNT.get(0).is_none_or(|count| *count == 0) || RUBY_SERVERS.get_ptr(tgid).is_none() {
        return;
    }
    let _whoever_received_it_then = RUBY_REQUESTS.insert(cookie, activity, 0);
}

/// getsockopt(2) is called.
#[inline(always)]
pub(crate) fn on_socket_option(ctx: &ProbeContext) {
    // Integers have 32 bits there.
    let argument = |at| ctx.arg::<u64>(at).unwrap_or(0) & 0xffff_ffff;
    if argument(1) != IPPROTO_TCP || argument(2) != TCP_INFO || !rule_is_on(Correlation::TakenUp) {
        return;
    }
    // SAFETY: no arguments.
    let id = unsafe { bpf_get_current_pid_tgid() };
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    if RUBY_SERVERS.get_ptr(tgid).is_none() {
        let _its_requests_are_their_receivers = RUBY_SERVERS.insert(tgid, 1, 0);
        if let Some(count) = RUBY_COUNT.get_ptr_mut(0) {
            // SAFETY: map memory, one word: whether it is zero is of interest.
            unsafe { count.write_volatile(1) };
        }
        return;
    }
    // SAFETY: map memory, one word, read once.
    match unsafe { RUBY_REQUESTS.get(cookie(argument(0))) } {
        Some(&activity) if activities::is_open(activity) => work::taken_up(tid, activity),
        // Of a connection that is not read, as one of TLS: the thread is done with what it took before, though
        // some of the answer may still be on its way.
        _ => work::lays_down(tid),
    }
}
