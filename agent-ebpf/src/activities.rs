//! Requests that processes are working on.

use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::{
    ACTIVITY_OWN_TRACING, ACTIVITY_SCATTERED, ACTIVITY_SENT_UNKNOWN, ACTIVITY_SHOWN,
    ACTIVITY_STREAM, Activity, RECEIVER_ANSWERS,
};
use tracewire_common::context::TraceContext;
use tracewire_common::counter::Counter;
use tracewire_common::records::Candidate;

use crate::scratch::{try_lock, unlock};
use crate::socket::exchange::Ids;
use crate::state::{config, count, task};
use crate::task::scattered;

/// Requests that processes are working on, in slots. An id is chosen so that its low bits
/// name a free slot: there is nothing to hash, to chain, or to lock but the slot.
#[btf_map]
static ACTIVITIES: Array<Activity, 65536> = Array::new();

/// Slots tried for an activity. With half of them taken one in 256 finds none.
const ATTEMPTS: u64 = 8;

#[inline(always)]
fn slot(id: u64) -> Option<*mut Activity> {
    let mask = match config() {
        Some(config) => config.activity_mask,
        None => 0,
    };
    ACTIVITIES.get_ptr_mut(id as u32 & mask)
}

/// Remembers a request that a process has begun to work on, and the parent id that it is shown in the
/// request. Answers the id of its span.
#[inline(always)]
pub(crate) fn begin_activity(ids: &Ids, context: &TraceContext, shown_parent: u64) -> u64 {
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let id = ids.span(attempt);
        let Some(slot) = slot(id) else { return id };
        // SAFETY: map memory; once the slot is taken nobody else writes to it, and the id,
        // by which it is found, is written last.
        unsafe {
            if try_lock(&raw mut (*slot).taken) {
                (*slot).trace_id_hi = context.trace_id_hi;
                (*slot).trace_id_lo = context.trace_id_lo;
                (*slot).shown_parent = shown_parent;
                (*slot).flags = context.flags;
                (*slot).marks = 0;
                (*slot).receiver = 0;
                (*slot).in_flight = 0;
                (&raw mut (*slot).id).write_volatile(id);
                return id;
            }
        }
        attempt += 1;
    }
    count(Counter::DropActivitiesFull);
    ids.span(0)
}

/// The activity, while it is not over.
#[inline(always)]
pub(crate) fn activity(id: u64) -> Option<Activity> {
    if id == 0 {
        return None;
    }
    let slot = slot(id)?;
    // SAFETY: map memory. What was read is what it was while the slot bore this id: ids are
    // not used again, and the id is compared after the rest was read as well.
    unsafe {
        if (&raw const (*slot).id).read_volatile() != id {
            return None;
        }
        let activity = slot.read_volatile();
        if (&raw const (*slot).id).read_volatile() == id { Some(activity) } else { None }
    }
}

/// The lower half of the trace id and the parent id that the application is shown, if there is one, for who
/// asks first.
#[inline(always)]
pub(crate) fn shown_first(id: u64) -> Option<(u64, u64)> {
    let slot = slot(id)?;
    // SAFETY: map memory. Who asks twice at once is told twice.
    unsafe {
        let is_told = (*slot).marks & ACTIVITY_SHOWN != 0 || (*slot).shown_parent == 0;
        if is_told || (&raw const (*slot).id).read_volatile() != id {
            return None;
        }
        let shown = ((*slot).trace_id_lo, (*slot).shown_parent);
        if (&raw const (*slot).id).read_volatile() != id {
            return None;
        }
        (*slot).marks |= ACTIVITY_SHOWN;
        Some(shown)
    }
}

/// Whether the activity is not over.
#[inline(always)]
pub(crate) fn is_going_on(id: u64) -> bool {
    // SAFETY: map memory.
    id != 0 && slot(id).is_some_and(|slot| unsafe { (&raw const (*slot).id).read_volatile() == id })
}

/// Notes something of the activity, by `ACTIVITY_` bits.
#[inline(always)]
pub(crate) fn mark(id: u64, marks: u8) {
    if let Some(slot) = slot(id) {
        // SAFETY: map memory. The activity that is asked about was just found; should it end
        // in this moment, a neighbour is marked: for own tracing its span is left out, not given
        // to a wrong parent, and the other marks make that less is believed.
        unsafe {
            if (&raw const (*slot).id).read_volatile() == id {
                (*slot).marks |= marks;
            }
        }
    }
}

/// Whether requests may have been sent for the activity of which that is not known.
#[inline(always)]
pub(crate) fn has_sent_unknown(id: u64) -> bool {
    // SAFETY: map memory.
    slot(id).is_some_and(|slot| unsafe {
        (&raw const (*slot).id).read_volatile() == id && (*slot).marks & ACTIVITY_SENT_UNKNOWN != 0
    })
}

/// Whether the request came on a stream of HTTP/2.
#[inline(always)]
pub(crate) fn came_on_stream(id: u64) -> bool {
    // SAFETY: map memory.
    slot(id).is_some_and(|slot| unsafe {
        (&raw const (*slot).id).read_volatile() == id && (*slot).marks & ACTIVITY_STREAM != 0
    })
}

/// Reads which span the activity is. Answers whether it is still there.
#[inline(always)]
pub(crate) fn read_trace(id: u64, into: &mut Candidate) -> bool {
    let Some(slot) = slot(id) else { return false };
    // SAFETY: map memory; the id is compared after the rest was read.
    unsafe {
        into.trace_id_hi = (*slot).trace_id_hi;
        into.trace_id_lo = (*slot).trace_id_lo;
        if (&raw const (*slot).id).read_volatile() != id {
            return false;
        }
    }
    into.span_id = id;
    true
}

/// Whether the activity is not over, and its response has not begun either.
#[inline(always)]
pub(crate) fn is_open(id: u64) -> bool {
    // SAFETY: map memory.
    id != 0
        && slot(id).is_some_and(|slot| unsafe {
            (&raw const (*slot).id).read_volatile() == id && (*slot).receiver != RECEIVER_ANSWERS
        })
}

/// Whether the task is the first that received of this activity's request; from now on it is.
#[inline(always)]
pub(crate) fn is_first_receiver(id: u64, tid: u32) -> bool {
    let Some(slot) = slot(id) else { return false };
    // SAFETY: map memory. Two tasks that receive of one request at once are both the first,
    // or none is: then a number is off by one, until the later one ends.
    unsafe {
        if (&raw const (*slot).id).read_volatile() != id || (*slot).receiver != 0 {
            return false;
        }
        (*slot).receiver = tid;
        true
    }
}

/// Whether a request was sent for the activity, and its response not received yet.
#[inline(always)]
pub(crate) fn is_waiting(id: u64) -> bool {
    // SAFETY: map memory.
    slot(id).is_some_and(|slot| unsafe {
        (&raw const (*slot).id).read_volatile() == id && (*slot).in_flight > 0
    })
}

/// A request was sent for the activity.
#[inline(always)]
pub(crate) fn begin_waiting(id: u64) {
    let Some(slot) = slot(id) else { return };
    // SAFETY: map memory, as in `is_first_receiver`.
    unsafe {
        if (&raw const (*slot).id).read_volatile() != id {
            return;
        }
        (*slot).in_flight = (*slot).in_flight.wrapping_add(1);
        if (*slot).in_flight == 1
            && let Some(receiver) = task((*slot).receiver)
        {
            receiver.waiting = receiver.waiting.wrapping_add(1);
        }
    }
}

/// The response to a request that was sent for the activity was received to its end.
#[inline(always)]
pub(crate) fn end_waiting(id: u64) {
    let Some(slot) = slot(id) else { return };
    // SAFETY: as above.
    unsafe {
        if (&raw const (*slot).id).read_volatile() != id || (*slot).in_flight == 0 {
            return;
        }
        (*slot).in_flight -= 1;
        if (*slot).in_flight == 0
            && let Some(receiver) = task((*slot).receiver)
        {
            receiver.waiting = receiver.waiting.saturating_sub(1);
        }
    }
}

/// The response to the request has begun: its receiver has no more to find out about it, and
/// may receive the next while this one still leaves. `answerer` is the task that answers, 0 if
/// that is not known.
#[inline(always)]
pub(crate) fn begin_answer(id: u64, answerer: u32) {
    let Some(slot) = slot(id) else { return };
    // SAFETY: map memory, as in `is_first_receiver`.
    unsafe {
        if (&raw const (*slot).id).read_volatile() == id {
            close_for_receiver(slot, answerer);
        }
    }
}

/// The receiver has one open request less.
///
/// # Safety
///
/// The slot must be one of the map's.
#[inline(always)]
unsafe fn close_for_receiver(slot: *mut Activity, answerer: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (tid, waits) = ((*slot).receiver, (*slot).in_flight > 0);
        (*slot).receiver = RECEIVER_ANSWERS;
        if tid == 0 || tid == RECEIVER_ANSWERS {
            return;
        }
        let Some(receiver) = task(tid) else { return };
        receiver.open = receiver.open.saturating_sub(1);
        if waits {
            receiver.waiting = receiver.waiting.saturating_sub(1);
        }
        if answerer != 0 {
            scattered::answered(receiver, answerer != tid);
        }
        if (*slot).marks & ACTIVITY_SCATTERED != 0 {
            scattered::closed(receiver.tgid);
        }
    }
}

/// The request was answered: no later work belongs to it. Answers whether the application
/// traced it itself; `None` if the activity was not there.
#[inline(always)]
pub(crate) fn end_activity(id: u64) -> Option<bool> {
    let slot = slot(id)?;
    // SAFETY: map memory; who bears the id has taken the slot, and gives it back.
    unsafe {
        if (&raw const (*slot).id).read_volatile() != id {
            return None;
        }
        let own_tracing = (*slot).marks & ACTIVITY_OWN_TRACING != 0;
        close_for_receiver(slot, 0);
        (&raw mut (*slot).id).write_volatile(0);
        unlock(&raw mut (*slot).taken);
        Some(own_tracing)
    }
}
