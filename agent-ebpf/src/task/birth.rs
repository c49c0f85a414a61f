//! Rule 4, birth: a new thread or process starts with its creator's activity.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel,
};
use tracewire_common::records::{KIND_PROCESS_EXIT, KIND_PROCESS_FORK, ProcessEvent};

use crate::activities;
use crate::emit;
use crate::golang::goroutine;
use crate::python::{self, context};
use crate::state::{self, config, forget_process, forget_task, inherit_verdict};
use crate::task::exec::is_in_scope;
use crate::task::work::Work;
use crate::task::{scattered, work};
use crate::tls;
use crate::tokio;

/// Reads an `int` field of a kernel struct; 0 if it cannot be read.
#[inline(always)]
pub(crate) fn read_u32(base: *const c_void, offset: u32) -> u32 {
    let mut value = 0u32;
    // SAFETY: the helper checks the address; the destination is a local.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            4,
            base.cast::<u8>().wrapping_add(offset as usize).cast(),
        )
    };
    value
}

/// A task was made. Runs in the task that made it.
#[inline(always)]
pub(crate) fn on_fork(child: *const c_void) {
    let Some(config) = config() else { return };
    // SAFETY: no arguments.
    let parent = unsafe { bpf_get_current_pid_tgid() };
    let (parent_tgid, parent_tid) = ((parent >> 32) as u32, parent as u32);
    let child_tgid = read_u32(child, config.off_task_tgid);
    let mut known = Work::NONE;
    let activity = match goroutine::process(parent_tgid) {
        // Threads of Go are the scheduler's, and nobody's.
        Some(_) if child_tgid == parent_tgid => 0,
        Some(process) => goroutine::received_by(process, parent_tgid),
        // A process outlives the request within which it was made, as one of a pool.
        None if child_tgid == parent_tgid && context::work_here(parent, &mut known) => {
            known.activity
        }
        None if state::task(parent_tid).is_some() => work::of(parent, 0).activity,
        None => 0,
    };
    if activities::is_going_on(activity) {
        let tid = read_u32(child, config.off_task_pid);
        work::born(tid, activity, parent_tgid, child_tgid == parent_tgid);
    }
    if child_tgid == parent_tgid || !is_in_scope(config) {
        return;
    }
    inherit_verdict(parent_tgid, child_tgid);
    report(KIND_PROCESS_FORK, child_tgid, parent_tgid);
}

/// The task at work ends.
#[inline(always)]
pub(crate) fn on_exit() {
    // SAFETY: no arguments.
    let id = unsafe { bpf_get_current_pid_tgid() };
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    work::ended(tgid, tid);
    forget_task(tid);
    python::forget_thread(tgid, tid);
    tokio::forget_thread(tgid, tid);
    tls::calls::forget(tid);
    if tgid != tid {
        return;
    }
    let Some(config) = config() else { return };
    if is_in_scope(config) {
        forget_process(tgid);
        scattered::forget(tgid);
        report(KIND_PROCESS_EXIT, tgid, 0);
    }
}

#[inline(always)]
fn report(kind: u16, tgid: u32, parent_tgid: u32) {
    let record = ProcessEvent {
        header: emit::header(kind, 0),
        // SAFETY: no arguments.
        time_ns: unsafe { bpf_ktime_get_ns() },
        tgid,
        parent_tgid,
    };
    // SAFETY: a whole record on the stack.
    unsafe { emit::output_at_once((&raw const record).cast(), size_of::<ProcessEvent>() as u64) };
}
