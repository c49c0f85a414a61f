//! What an event loop's request may be for, where that is not known for certain: all requests
//! that are open there, if they are few enough to name.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::Connection;
use tracewire_common::records::{CANDIDATES, KIND_EXCHANGE_CANDIDATES};

use crate::activities;
use crate::emit;
use crate::state;

/// By task: requests that an event loop received, in no order. Some are over.
#[btf_map]
static LOOPS: LruHashMap<u32, [u64; CANDIDATES], 1024> = LruHashMap::new();

/// The event loop received a request. One for which there is no place is not named, and then
/// none is.
#[inline(never)]
pub(crate) fn add(tid: u32, activity: u64) {
    if LOOPS.get_ptr_mut(tid).is_none() {
        let _full_is_fine = LOOPS.insert(tid, [0; CANDIDATES], 0);
    }
    let Some(received) = LOOPS.get_ptr_mut(tid) else { return };
    let mut place = 0;
    while place < CANDIDATES {
        // SAFETY: map memory; written to by the task alone.
        unsafe {
            let one = received.cast::<u64>().add(place);
            if !activities::is_open(*one) {
                *one = activity;
                return;
            }
        }
        place += 1;
    }
}

/// Tells userspace what the request that the connection's task sends may be for, if that is
/// all of what is open. A global function: the verifier looks at it once, by itself.
///
/// # Safety
///
/// The pointer must be null or valid: the verifier asks for no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn tell_candidates(
    connection: *const Connection,
    sequence: u32,
    tid: u32,
    now: u64,
) -> u64 {
    if connection.is_null() {
        return 0;
    }
    let (Some(state), Some(received)) = (state::task(tid), LOOPS.get_ptr_mut(tid)) else {
        return 0;
    };
    // SAFETY: checked for null, and valid by the caller's promise.
    let cookie = unsafe { (*connection).cookie };
    emit::exchange_candidates(now, |record| {
        record.header = emit::header(KIND_EXCHANGE_CANDIDATES, 0);
        record.connection = cookie;
        record.sequence = sequence;
        let mut count = 0;
        let mut place = 0;
        while place < CANDIDATES {
            // SAFETY: map memory.
            let id = unsafe { *received.cast::<u64>().add(place) };
            let one = &mut record.candidates[place];
            one.span_id = 0;
            if activities::is_open(id) && activities::read_trace(id, one) {
                count += 1;
            }
            place += 1;
        }
        record.count = count;
        count > 0 && count == state.open
    });
    0
}
