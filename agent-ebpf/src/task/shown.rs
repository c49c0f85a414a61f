//! Which requests came with which context: who passes one on, as proxies do with the headers that they
//! receive, sends for that request, whatever else is open meanwhile.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::Connection;
use tracewire_common::context::TraceContext;
use tracewire_common::python::SEVERAL;

use crate::activities;

/// A context as a process was shown it.
#[derive(Clone, Copy)]
#[repr(C)]
struct ShownContext {
    tgid: u64,
    trace_id_lo: u64,
    parent: u64,
}

/// The request that came with it; [`SEVERAL`] if several did at once.
#[btf_map]
static SHOWN: LruHashMap<ShownContext, u64, 16384> = LruHashMap::new();

/// The process received bytes of a request.
#[inline(always)]
pub(crate) fn received(tgid: u32, activity: u64) {
    if let Some((trace_id_lo, parent)) = activities::shown_first(activity) {
        remember(&ShownContext { tgid: tgid as u64, trace_id_lo, parent }, activity);
    }
}

#[inline(never)]
fn remember(key: &ShownContext, activity: u64) {
    match SHOWN.get_ptr_mut(*key) {
        None => {
            let _nothing_is_known_then = SHOWN.insert(*key, activity, 0);
        }
        // SAFETY: map memory, one word. Two that come at once leave one of them, or several.
        Some(known) => unsafe {
            let before = known.read_volatile();
            let is_another = before == SEVERAL || activities::is_going_on(before);
            known.write_volatile(if is_another { SEVERAL } else { activity });
        },
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
