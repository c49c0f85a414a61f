//! CPython. A thread of it may serve many requests at once, as asyncio does, and threads of a pool
//! take what others have put in a queue; so what a thread received last says little. But all that runs
//! does so in a `contextvars.Context`, and each task and each callback has one that was copied from
//! that of who made it.

pub(crate) mod context;
pub(crate) mod queue;
pub(crate) mod thread_state;
pub(crate) mod threads;

use aya_ebpf::EbpfContext;
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::helpers::generated::{bpf_get_attach_cookie, bpf_get_current_pid_tgid};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use tracewire_common::python::{PyPlace, PyProcess};

/// Processes of Python; written by userspace, which knows executables.
#[btf_map]
static PY_PROCESSES: HashMap<u32, PyProcess, 4096> = HashMap::new();

/// `PyObject.ob_type`, in bytes.
const OBJECT_TYPE: u64 = 8;

/// How many processes there are, about: hosts without any do not look for them.
#[btf_map]
static PY_COUNT: Array<u32, 1> = Array::new();

/// What is known of the process of the thread at work, if it is one of Python.
#[inline(always)]
pub(crate) fn process(tgid: u32) -> Option<&'static PyProcess> {
    if PY_COUNT.get(0).is_none_or(|count| *count == 0) {
        return None;
    }
    // SAFETY: map memory, written by userspace before, and then only completed: two threads may find
    // out the same.
    let process = unsafe { &mut *PY_PROCESSES.get_ptr_mut(tgid)? };
    // Its threads may have contexts that are older than what is known of it, so this cannot wait
    // for a probe.
    thread_state::find_slot_if_python(process);
    Some(process)
}

/// As [`process`], for a thread that runs Python for certain, and came to a probe that costs so much.
#[inline(always)]
fn process_at_probe(tgid: u32, cost: u64) -> Option<&'static mut PyProcess> {
    // SAFETY: map memory, as in `process`; a count that is lost does no harm.
    let process = unsafe { &mut *PY_PROCESSES.get_ptr_mut(tgid)? };
    process.cost = process.cost.wrapping_add(cost);
    if !thread_state::find_slot(process) {
        thread_state::count_attempt(process);
    }
    Some(process)
}

/// A process that runs another program, or none any more, has no contexts.
#[inline(always)]
pub(crate) fn forget(tgid: u32) {
    let _was_never_there = PY_PROCESSES.remove(tgid);
}

/// A thread has ended: its number may be another's next.
#[inline(always)]
pub(crate) fn forget_thread(tgid: u32, tid: u32) {
    if PY_COUNT.get(0).is_some_and(|count| *count != 0) {
        threads::forget(tgid, tid);
    }
}

/// A thread enters a function: [`PyPlace`] says which.
#[inline(always)]
pub(crate) fn on_entry(ctx: &ProbeContext) {
    // SAFETY: the program's context; no arguments.
    let (place, id) = unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), bpf_get_current_pid_tgid()) };
    if place == PyPlace::Enters as u64 {
        context::enters(id, ctx.arg(0).unwrap_or(0));
    } else if place == PyPlace::Put as u64 {
        queue::put(id, ctx.arg(1).unwrap_or(0), ctx.arg(2).unwrap_or(0));
    }
}

/// A thread returns from a function: [`PyPlace`] says from which.
#[inline(always)]
pub(crate) fn on_return(ctx: &RetProbeContext) {
    // SAFETY: the program's context; no arguments.
    let (place, id) = unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), bpf_get_current_pid_tgid()) };
    let object: u64 = ctx.ret();
    if object == 0 {
        if place == PyPlace::Taken as u64 {
            queue::found_empty(id);
        }
    } else if place == PyPlace::Copied as u64 {
        context::born(id, object);
    } else if place == PyPlace::Made as u64 {
        context::made(id, object);
    } else if place == PyPlace::Taken as u64 {
        queue::taken(id, object);
    }
}
