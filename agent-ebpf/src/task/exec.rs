//! A process runs a new program: its name is read while it is certainly there.

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
    bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_kernel_str,
    bpf_probe_read_user,
};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::RawTracePointContext;
use aya_log_ebpf::warn;
use tracewire_common::config::KernelConfig;
use tracewire_common::records::{KIND_PROCESS_EXEC, ProcessExec};

use crate::bounds::bounded;
use crate::emit;
use crate::state::{config, forget_process, forget_task, task as state_of};
use crate::task::scattered;

/// The most that is read of the arguments, and of the environment, in bytes.
const MOST_ARGS: usize = 2048;
const MOST_ENV: usize = 4096;

/// A record with room for its data. Tracepoints on one CPU do not interrupt one
/// another here: the program runs with preemption off, and not in softirq.
#[repr(C)]
struct ExecRecord {
    record: ProcessExec,
    data: [u8; MOST_ARGS + MOST_ENV],
}

#[btf_map]
static EXEC: PerCpuArray<ExecRecord, 1> = PerCpuArray::new();

/// Whether the task at work is in the cgroup that is looked at.
#[inline(always)]
pub(crate) fn is_in_scope(config: &KernelConfig) -> bool {
    // SAFETY: no pointers.
    let id = unsafe { bpf_get_current_ancestor_cgroup_id(config.scope_level as i32) };
    id == config.scope_cgroup
}

/// Reads a word of a kernel struct; 0 if it cannot be read.
#[inline(always)]
pub(crate) fn read_u64(base: *const c_void, offset: u32) -> u64 {
    let mut value = 0u64;
    // SAFETY: the helper checks the address; the destination is a local.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            8,
            base.cast::<u8>().wrapping_add(offset as usize).cast(),
        )
    };
    value
}

/// The task at work has begun to run a new program.
#[inline(always)]
pub(crate) fn on_exec(ctx: &RawTracePointContext, task: *const c_void, binprm: *const c_void) {
    let Some(config) = config() else { return };
    // SAFETY: no arguments.
    let id = unsafe { bpf_get_current_pid_tgid() };
    // A new program knows nothing of what the old one worked on, but a shell that
    // calls `curl` in consequence of a request does: rule 4 holds across `exec`.
    if !is_in_scope(config) {
        forget_task(id as u32);
        return;
    }
    let tgid = (id >> 32) as u32;
    if let Some(state) = state_of(id as u32) {
        // What ran timers is gone, and will not say that it has run them.
        state.runs_timers = 0;
    }
    forget_process(tgid);
    scattered::forget(tgid);

    let mm = read_u64(task, config.off_task_mm) as *const c_void;
    let arg_start = read_u64(mm, config.off_mm_arg_start);
    let arg_len = read_u64(mm, config.off_mm_arg_end).wrapping_sub(arg_start);
    let env_start = read_u64(mm, config.off_mm_env_start);
    let env_len = read_u64(mm, config.off_mm_env_end).wrapping_sub(env_start);

    let Some(place) = EXEC.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's record; lengths are clamped to its room before each use, and
    // the helpers check the addresses that they read.
    unsafe {
        let data = (&raw mut (*place).data).cast::<u8>();
        let args = read_user(data, arg_start, arg_len, MOST_ARGS);
        let Some(after_args) = bounded(args + 1, MOST_ARGS as u32 + 1) else { return };
        let args = after_args - 1;
        if args == 0 && arg_len > 0 {
            warn!(ctx, "cannot read the arguments of process {}: it may lack its name", tgid);
        }
        let env = read_user(data.add(args as usize), env_start, env_len, MOST_ENV);
        let record = &mut (*place).record;
        record.header = emit::header(KIND_PROCESS_EXEC, args + env);
        record.time_ns = bpf_ktime_get_ns();
        record.cgroup_id = bpf_get_current_cgroup_id();
        record.tgid = tgid;
        record.args_len = args;
        bpf_get_current_comm(record.comm.as_mut_ptr().cast(), 16);
        let exe = read_u64(binprm, config.off_binprm_interp) as *const c_void;
        let room = size_of_val(&record.exe) as u32;
        if bpf_probe_read_kernel_str(record.exe.as_mut_ptr().cast(), room, exe) < 0 {
            record.exe[0][0] = 0;
        }
        const FIXED: u32 = size_of::<ProcessExec>() as u32;
        let most = FIXED + (MOST_ARGS + MOST_ENV) as u32;
        let Some(len) = bounded(FIXED + args + env, most) else { return };
        emit::output_at_once(place.cast(), len as u64);
    }
}

/// Copies up to `most` bytes of the process's own memory. Answers how many.
///
/// # Safety
///
/// `to` must point to `most` writable bytes that the verifier knows as such.
#[inline(always)]
unsafe fn read_user(to: *mut u8, from: u64, len: u64, most: usize) -> u32 {
    let len = if len > most as u64 { most as u32 } else { len as u32 };
    let Some(len) = bounded(len, most as u32) else { return 0 };
    // SAFETY: the caller's promise; the helper checks the address that it reads.
    if unsafe { bpf_probe_read_user(to.cast(), len, from as *const c_void) } == 0 { len } else { 0 }
}
