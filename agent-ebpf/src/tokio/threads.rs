//! Which task a thread runs.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use tracewire_common::tokio::{TokioThread, TokioWake};

/// Threads that have run tasks, by their id.
#[btf_map]
static TOKIO_THREADS: LruHashMap<u32, TokioThread, 8192> = LruHashMap::new();

/// What a thread does, if it has run tasks.
#[inline(always)]
pub(super) fn thread(tgid: u32, tid: u32) -> Option<&'static mut TokioThread> {
    // SAFETY: map memory, written to by the thread itself.
    let thread = unsafe { &mut *TOKIO_THREADS.get_ptr_mut(tid)? };
    (thread.tgid == tgid).then_some(thread)
}

/// The thread runs a task, which was woken by that one before.
#[inline(always)]
pub(super) fn runs(tgid: u32, tid: u32, task: u64, woken: TokioWake) {
    match thread(tgid, tid) {
        Some(thread) => {
            thread.task = task;
            thread.woken = woken;
        }
        None => {
            let new = TokioThread { tgid, pad: 0, task, woken, received: 0, received_on: 0 };
            let _no_parent_then = TOKIO_THREADS.insert(tid, new, 0);
        }
    }
}

/// The thread has run a task. (One that ran within another is followed by nobody's work: nothing says that
/// the other goes on.)
#[inline(always)]
pub(super) fn runs_no_more(tgid: u32, tid: u32) {
    if let Some(thread) = thread(tgid, tid) {
        thread.task = 0;
    }
}

/// The thread has ended.
#[inline(always)]
pub(super) fn forget(tgid: u32, tid: u32) {
    if thread(tgid, tid).is_some() {
        let _was_there = TOKIO_THREADS.remove(tid);
    }
}
