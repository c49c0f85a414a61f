//! Processes in which a request goes on in other threads than the one that received it: runtimes
//! that deal out coroutines to whichever thread is free (tokio, Go, virtual threads).
//!
//! There what a thread received says nothing of what it sends. They are known by their answers,
//! which leave in another thread than the one that received the request. While only one request
//! is open in such a process, that is what it sends for; else it is not known.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::{ACTIVITY_SCATTERED, TaskState};
use tracewire_common::outcome::Correlation;

use crate::activities;
use crate::state::add;
use crate::task::jobs;
use crate::task::work::Work;

/// Answers from another thread, at least so many and at least one in so many, that tell such a
/// process. Some are no sign: what is left in the send buffer leaves in the middle of any task.
const MOVED: u32 = 4;
const ONE_IN: u32 = 64;
/// Answers after which older ones count half.
const REMEMBERED: u32 = 1 << 16;

/// More open requests than there can be.
const NOT_COUNTED: u64 = 1 << 40;

/// The requests of such a process.
#[repr(C)]
struct Requests {
    /// Those that are open, of those that were received since it was known to be such a one.
    open: u64,
    /// The one that was received last.
    last: u64,
}

#[btf_map]
static SCATTERED: LruHashMap<u32, Requests, 4096> = LruHashMap::new();

/// Whether requests that the task receives are answered by others.
#[inline(always)]
pub(crate) fn is(state: &TaskState) -> bool {
    state.moved >= MOVED && state.moved.saturating_mul(ONE_IN) >= state.answered
}

/// A request that the task received is answered, by that task or by another of its process.
#[inline(always)]
pub(crate) fn answered(state: &mut TaskState, by_another: bool) {
    state.answered = state.answered.saturating_add(1);
    if by_another {
        state.moved = state.moved.saturating_add(1);
    }
    if state.answered >= REMEMBERED {
        state.answered /= 2;
        state.moved /= 2;
    }
}

/// The requests of a process are counted from now on: `first` was the only task that received some.
/// If it has several, it is not known when they are all gone, and nothing is believed.
#[inline(always)]
pub(crate) fn begin(tgid: u32, first: &TaskState) {
    let mut requests = Requests { open: 0, last: 0 };
    if first.open == 1 && activities::is_open(first.activity) {
        requests = Requests { open: 1, last: first.activity };
        activities::mark(first.activity, ACTIVITY_SCATTERED);
    } else if first.open > 0 {
        requests.open = NOT_COUNTED;
    }
    let _full_is_fine = SCATTERED.insert(tgid, requests, 0);
}

/// A request was received first.
#[inline(always)]
pub(crate) fn received(tgid: u32, activity: u64) {
    if SCATTERED.get_ptr_mut(tgid).is_none() {
        let _full_is_fine = SCATTERED.insert(tgid, Requests { open: 0, last: 0 }, 0);
    }
    let Some(requests) = SCATTERED.get_ptr_mut(tgid) else { return };
    // SAFETY: map memory.
    unsafe {
        add(&raw mut (*requests).open, 1);
        (*requests).last = activity;
    }
    activities::mark(activity, ACTIVITY_SCATTERED);
}

/// A request that [`received`] was told of is answered.
#[inline(always)]
pub(crate) fn closed(tgid: u32) {
    if let Some(requests) = SCATTERED.get_ptr_mut(tgid) {
        // SAFETY: map memory.
        unsafe { add(&raw mut (*requests).open, u64::MAX) };
    }
}

/// The process is gone.
#[inline(always)]
pub(crate) fn forget(tgid: u32) {
    let _was_never_there = SCATTERED.remove(tgid);
}

/// What the process sends to that port for.
#[inline(never)]
pub(crate) fn work_of(tgid: u32, port: u16) -> Work {
    let Some(requests) = SCATTERED.get_ptr_mut(tgid) else { return Work::AMBIGUOUS };
    // SAFETY: map memory.
    let (open, last) = unsafe { ((*requests).open, (*requests).last) };
    let destination = jobs::destination(tgid, port, false);
    let has_jobs = jobs::are_sent(destination);
    if open == 0 {
        jobs::note(destination);
    } else if open == 1 && !has_jobs && activities::is_open(last) {
        return Work { activity: last, rule: Correlation::Receive as u64 };
    }
    Work::AMBIGUOUS
}
