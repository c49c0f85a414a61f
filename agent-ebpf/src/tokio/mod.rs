//! Rust programs on tokio. Its threads run any task, and what one task asks for another may write, as
//! that of a pooled connection: in such processes, work is the task's.

pub(crate) mod births;
pub(crate) mod task;
mod threads;

use aya_ebpf::EbpfContext;
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::helpers::generated::{bpf_get_attach_cookie, bpf_get_current_pid_tgid};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::ProbeContext;
use tracewire_common::tokio::{TOKIO_PROCESS_STREAMS, TokioPlace, TokioProcess};

/// Processes of programs on tokio; written by userspace, which knows executables.
#[btf_map]
static TOKIO_PROCESSES: HashMap<u32, TokioProcess, 4096> = HashMap::new();

/// How many processes there were at once, about: hosts without any do not look for them.
#[btf_map]
static TOKIO_COUNT: Array<u32, 1> = Array::new();

/// Whether tasks of the process are told apart.
#[inline(always)]
fn is_followed(tgid: u32) -> bool {
    TOKIO_COUNT.get(0).is_some_and(|count| *count != 0) && TOKIO_PROCESSES.get_ptr(tgid).is_some()
}

/// A process that runs another program, or none any more, has no tasks.
#[inline(always)]
pub(crate) fn forget(tgid: u32) {
    let _was_never_there = TOKIO_PROCESSES.remove(tgid);
    // Its first thread is there after it runs another program.
    forget_thread(tgid, tgid);
}

/// The process received a request over HTTP/2.
#[inline(always)]
pub(crate) fn receives_streams(tgid: u32) {
    if is_followed(tgid)
        && let Some(process) = TOKIO_PROCESSES.get_ptr_mut(tgid)
    {
        // SAFETY: map memory; nobody takes the flag away.
        unsafe { (*process).flags |= TOKIO_PROCESS_STREAMS };
    }
}

/// Whether it did.
#[inline(always)]
fn has_streams(tgid: u32) -> bool {
    // SAFETY: one word, read once.
    unsafe { TOKIO_PROCESSES.get(tgid) }
        .is_some_and(|process| process.flags & TOKIO_PROCESS_STREAMS != 0)
}

/// A thread has ended: its number may be another's next.
#[inline(always)]
pub(crate) fn forget_thread(tgid: u32, tid: u32) {
    if TOKIO_COUNT.get(0).is_some_and(|count| *count != 0) {
        threads::forget(tgid, tid);
    }
}

/// Counts what the probes cost. Answers whether the process is one that is followed.
#[inline(always)]
fn is_followed_at_probe(tgid: u32) -> bool {
    let Some(process) = TOKIO_PROCESSES.get_ptr_mut(tgid) else { return false };
    // SAFETY: map memory; a count that is lost does no harm.
    unsafe { (*process).cost = (*process).cost.wrapping_add(1) };
    true
}

/// A thread enters a function: [`TokioPlace`] says which.
#[inline(always)]
pub(crate) fn on_entry(ctx: &ProbeContext) {
    // SAFETY: the program's context; no arguments.
    let (cookie, id) = unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), bpf_get_current_pid_tgid()) };
    if !is_followed_at_probe((id >> 32) as u32) {
        return;
    }
    let (place, id_offset) = (cookie & 0xff, cookie >> 8);
    if place == TokioPlace::Runs as u64 {
        task::runs(id, task::number(ctx.arg(0).unwrap_or(0), id_offset));
    } else if place == TokioPlace::Woken as u64 {
        // SAFETY: the context of a probe is the registers at it.
        let stack = unsafe { (*ctx.regs).rsp };
        task::woken(id, task::number(ctx.arg(0).unwrap_or(0), id_offset), stack);
    } else if place == TokioPlace::Made as u64 {
        births::made(id, ctx.arg(1).unwrap_or(0));
    }
}

/// A task has run, for now: `runtime::task::raw::poll` returns.
#[inline(always)]
pub(crate) fn on_return() {
    // SAFETY: no arguments.
    let id = unsafe { bpf_get_current_pid_tgid() };
    if is_followed_at_probe((id >> 32) as u32) {
        threads::runs_no_more((id >> 32) as u32, id as u32);
    }
}
