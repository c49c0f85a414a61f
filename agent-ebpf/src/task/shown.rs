//! Which requests came with which context: who passes one on, as proxies do with the headers that they
//! receive, sends for that request, whatever else is open meanwhile.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::btf_map;
use tracewire_common::config::PIPELINE_DEPTH;
use tracewire_common::connection::Connection;
use tracewire_common::context::TraceContext;
use tracewire_common::outcome::Correlation;
use tracewire_common::python::SEVERAL;

use crate::activities;
use crate::state::rule_is_on;

/// A context as a process was shown it.
#[derive(Clone, Copy)]
#[repr(C)]
struct ShownContext {
    tgid: u64,
    trace_id_lo: u64,
    parent: u64,
}

/// The request that came with it; [`SEVERAL`] if several did, one after the other or at once: who received the
/// first may go on with it when it is over, and then sends what the next is shown as well.
#[btf_map]
static SHOWN: LruHashMap<ShownContext, u64, 16384> = LruHashMap::new();

/// The process received bytes of a request.
#[inline(always)]
pub(crate) fn received(tgid: u32, activity: u64) {
    if !rule_is_on(Correlation::PassedOn) {
        return;
    }
    if let Some((trace_id_lo, parent)) = activities::shown_first(activity) {
        remember(&ShownContext { tgid: tgid as u64, trace_id_lo, parent }, activity);
    }
}

/// What [`received_behind`] hands to its loop.
#[repr(C)]
struct Behind {
    connection: *const Connection,
    tgid: u32,
    sequence: u32,
}

unsafe extern "C" fn receive_next(_index: u32, behind: *mut Behind) -> i64 {
    // SAFETY: `received_behind` passes its own `behind`, whose connection is live.
    let (behind, connection) = unsafe { (&mut *behind, &*(*behind).connection) };
    behind.sequence = behind.sequence.wrapping_add(1);
    if behind.sequence == connection.opened {
        return 1;
    }
    if let Some(exchange) = connection.exchanges.get(connection.place_of(behind.sequence)) {
        received(behind.tgid, exchange.span_id);
    }
    0
}

/// The process received bytes of requests that wait behind the one that is answered next: it may go on with
/// any of them.
#[inline(never)]
pub(crate) fn received_behind(connection: &Connection, tgid: u32) {
    let mut behind = Behind { connection, tgid, sequence: connection.answered };
    // SAFETY: the callback gets what it expects.
    unsafe {
        bpf_loop(PIPELINE_DEPTH as u32, receive_next as *mut c_void, (&raw mut behind).cast(), 0)
    };
}

/// Of two that come at once one is entered, and finds itself to be one of several by the other.
#[inline(never)]
fn remember(key: &ShownContext, activity: u64) {
    if SHOWN.insert(*key, activity, BPF_NOEXIST as u64).is_ok() {
        return;
    }
    let Some(known) = SHOWN.get_ptr_mut(*key) else { return };
    // SAFETY: map memory, one word, which is only ever made to say that there are several.
    unsafe {
        if known.read_volatile() != activity {
            known.write_volatile(SEVERAL);
        }
    }
}

/// The request that came to the process with the context that it sends; 0 if none did that is not over, or
/// several. A global function: verified once, by itself.
///
/// # Safety
///
/// The pointers must be null or valid: the verifier asks for no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn shown_with(
    connection: *const Connection,
    sent: *const TraceContext,
) -> u64 {
    // SAFETY: the caller's promise.
    let (Some(connection), Some(sent)) = (unsafe { (connection.as_ref(), sent.as_ref()) }) else {
        return 0;
    };
    let key = ShownContext {
        tgid: connection.tgid as u64,
        trace_id_lo: sent.trace_id_lo,
        parent: sent.span_id,
    };
    // SAFETY: map memory, one word, read once.
    match unsafe { SHOWN.get(key) } {
        Some(&activity) if activity != SEVERAL && activities::is_going_on(activity) => activity,
        _ => 0,
    }
}
