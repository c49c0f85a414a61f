//! What threads of Python do that are in no context: the last job that they took, or the request that
//! they received since.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::TASK_MULTIPLEXES;
use tracewire_common::python::{
    PY_THREAD_HAS_RECEIVED, PY_THREAD_IS_LOOP, PY_THREAD_TAKES_JOBS, PyThread,
};

use crate::activities;
use crate::state;
use crate::task::work;

/// The threads of processes of Python, by their id.
#[btf_map]
static PY_THREADS: LruHashMap<u32, PyThread, 8192> = LruHashMap::new();

/// What a thread does that is in no context, if that is known.
#[inline(always)]
pub(crate) fn thread(tgid: u32, tid: u32) -> Option<&'static mut PyThread> {
    // SAFETY: map memory, written to by the thread itself.
    let thread = unsafe { &mut *PY_THREADS.get_ptr_mut(tid)? };
    (thread.tgid == tgid).then_some(thread)
}

/// As [`thread`], and from now on it is known.
#[inline(always)]
pub(crate) fn thread_or_new(tgid: u32, tid: u32) -> Option<&'static mut PyThread> {
    if thread(tgid, tid).is_none() {
        let new = PyThread { tgid, ..PyThread::default() };
        let _nothing_is_known_then = PY_THREADS.insert(tid, new, 0);
    }
    thread(tgid, tid)
}

/// For what a thread that is in no context makes one.
#[inline(always)]
pub(crate) fn work_at_base(id: u64, tgid: u32, tid: u32) -> u64 {
    if let Some(thread) = thread(tgid, tid) {
        if thread.flags & PY_THREAD_TAKES_JOBS != 0 {
            return thread.job;
        }
        if thread.flags & PY_THREAD_IS_LOOP != 0 {
            return 0;
        }
    }
    match state::task(tid) {
        Some(task) if task.flags & TASK_MULTIPLEXES == 0 => work::of(id, 0).activity,
        _ => 0,
    }
}

/// The thread at work takes a job, that was put in a queue for the activity.
#[inline(always)]
pub(crate) fn takes_job(tgid: u32, tid: u32, activity: u64) {
    if state::task(tid).is_some_and(|task| task.flags & TASK_MULTIPLEXES != 0) {
        return;
    }
    if let Some(thread) = thread_or_new(tgid, tid) {
        let has_received = thread.flags & PY_THREAD_HAS_RECEIVED != 0;
        if thread.flags & PY_THREAD_IS_LOOP != 0
            || (has_received && activities::is_going_on(thread.job))
        {
            // It has something else to do, and takes what it needs for that.
            return;
        }
        thread.flags = (thread.flags | PY_THREAD_TAKES_JOBS) & !PY_THREAD_HAS_RECEIVED;
        thread.job = activity;
    }
}

/// The thread at work waits for a job.
#[inline(always)]
pub(crate) fn has_no_job(tgid: u32, tid: u32) {
    if let Some(thread) = thread(tgid, tid)
        && thread.flags & (PY_THREAD_TAKES_JOBS | PY_THREAD_HAS_RECEIVED) == PY_THREAD_TAKES_JOBS
    {
        thread.job = 0;
    }
}

/// The thread has ended.
#[inline(always)]
pub(crate) fn forget(tgid: u32, tid: u32) {
    if thread(tgid, tid).is_some() {
        let _was_there = PY_THREADS.remove(tid);
    }
}
