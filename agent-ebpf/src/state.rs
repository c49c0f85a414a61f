//! The maps, each behind functions that keep its invariant.

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::btf_maps::{
    Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, SkStorage, SockHash,
};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_sk_storage_get, bpf_sock_hash_update};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SkMsgContext;
use tracewire_common::config::{
    KernelConfig, PORT_EXCLUDED, PORT_INCLUDED, PROCESS_ALLOWED, PROCESS_EXCLUDED, WINDOW,
};
use tracewire_common::connection::{Activity, Connection, TaskState};
use tracewire_common::counter::{COUNTERS, Counter, OUTCOME_BASE};
use tracewire_common::outcome::{Correlation, Outcome};

/// The settings. One entry, written before any program is attached, never after.
#[btf_map]
static CONFIG: Array<KernelConfig, 1> = Array::new();

/// What is kept on sockets. Its memory is the sockets' own: it goes when they go.
#[btf_map]
static CONNECTIONS: SkStorage<Connection> = SkStorage::new();

/// Client sockets whose sends pass `rewrite_request`, by cookie.
#[btf_map]
static ENROLLED: SockHash<u64, 65536> = SockHash::new();

/// The program that does the rewriting, at 0. The kernel empties a program array when
/// the last descriptor of it is closed, that is when the agent is gone.
#[btf_map]
static STAGES: ProgramArray<1> = ProgramArray::new();

/// Requests that processes are working on, by the id of the server span.
#[btf_map]
static ACTIVITIES: HashMap<u64, Activity, 65536> = HashMap::new();

/// What tasks are working on, by thread id in the initial pid namespace.
#[btf_map]
static TASKS: HashMap<u32, TaskState, 65536> = HashMap::new();

/// Verdicts on processes, by process id; written by userspace, inherited at fork.
#[btf_map]
static PROCESSES: LruHashMap<u32, u8, 16384> = LruHashMap::new();

/// Rules on ports; written by userspace before the programs are attached.
#[btf_map]
static PORTS: HashMap<u16, u8, 1024> = HashMap::new();

/// Data that came with the packet that completed a handshake, by 4-tuple.
#[btf_map]
static EARLY_DATA: LruHashMap<EarlyKey, EarlyData, 256> = LruHashMap::new();

/// Counters, by `Counter`, and from `OUTCOME_BASE` by `Outcome`.
#[btf_map]
static COUNTS: PerCpuArray<u64, { COUNTERS as usize }> = PerCpuArray::new();

/// The ends of a connection that is not established yet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct EarlyKey {
    pub(crate) remote_addr: [u8; 16],
    pub(crate) local_addr: [u8; 16],
    pub(crate) remote_port: u16,
    pub(crate) local_port: u16,
    pub(crate) pad: u32,
}

/// The first bytes of such a connection.
#[repr(C)]
pub(crate) struct EarlyData {
    pub(crate) seq: u32,
    pub(crate) len: u32,
    pub(crate) bytes: [u8; WINDOW],
}

/// The settings; `None` never happens for index 0, but the verifier wants it asked.
#[inline(always)]
pub(crate) fn config() -> Option<&'static KernelConfig> {
    CONFIG.get(0)
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    count_at(counter as u32);
}

/// Adds one to the counter of an outcome.
#[inline(always)]
pub(crate) fn count_outcome(outcome: Outcome) {
    count_at(OUTCOME_BASE + outcome as u32);
}

#[inline(always)]
fn count_at(index: u32) {
    if let Some(value) = COUNTS.get_ptr_mut(index) {
        // SAFETY: a slot of this CPU; an interrupted increment may lose one count,
        // which is accepted for a number that tells a reason and not an amount.
        unsafe { *value += 1 };
    }
}

/// The state of a socket, if there is some.
///
/// # Safety
///
/// `sk` must be a socket that the verifier knows as such.
#[inline(always)]
pub(crate) unsafe fn connection(sk: *mut c_void) -> *mut Connection {
    // SAFETY: the caller's promise; a null value without the create flag only looks up.
    unsafe { bpf_sk_storage_get(map_of(&raw const CONNECTIONS), sk, core::ptr::null_mut(), 0) }
        .cast()
}

/// The state of a socket, all zero if there was none. Null if memory is short.
///
/// # Safety
///
/// As for [`connection`].
#[inline(always)]
pub(crate) unsafe fn connection_or_new(sk: *mut c_void) -> *mut Connection {
    // SAFETY: the caller's promise; a null value gives zeroed memory.
    unsafe {
        bpf_sk_storage_get(
            map_of(&raw const CONNECTIONS),
            sk,
            core::ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE as u64,
        )
    }
    .cast()
}

/// The address of a map, as the helpers want it.
#[inline(always)]
fn map_of<T>(map: *const T) -> *mut c_void {
    map.cast_mut().cast()
}

/// Goes on with the rewriting program, if an agent lives; comes back if none does.
///
/// The program that calls this is kept by every enrolled socket, and keeps the socket
/// map by naming it. So the map outlives an agent that was killed, as long as its
/// sockets do. Without that the kernel would take the sockets out of the map at once,
/// and with them throw away received bytes that wait behind a verdict program
/// (`sk_psock_destroy`, net/core/skmsg.c): a stalled connection.
#[inline(always)]
pub(crate) fn call_rewriting_stage(ctx: &SkMsgContext) {
    // SAFETY: no instruction at all; the program only has to name the map.
    unsafe {
        core::arch::asm!("/* {0} */", in(reg) &raw const ENROLLED, options(nostack, preserves_flags));
        STAGES.tail_call(ctx, 0);
    }
}

/// Puts the client socket of a `sock_ops` event in the socket map.
///
/// # Safety
///
/// `ops` must be the context of the program at work.
#[inline(always)]
pub(crate) unsafe fn enrol(ops: *mut aya_ebpf::bindings::bpf_sock_ops, mut cookie: u64) -> bool {
    // SAFETY: the caller's promise; the key is copied by the helper.
    unsafe {
        bpf_sock_hash_update(ops, map_of(&raw const ENROLLED), (&raw mut cookie).cast(), 0) == 0
    }
}

/// Remembers a request that a process has begun to work on.
#[inline(always)]
pub(crate) fn begin_activity(id: u64, activity: &Activity) {
    if ACTIVITIES.insert(id, activity, 0).is_err() {
        count(Counter::DropActivitiesFull);
    }
}

/// The activity, while it is not over.
#[inline(always)]
pub(crate) fn activity(id: u64) -> Option<&'static mut Activity> {
    if id == 0 {
        return None;
    }
    // SAFETY: the value stays readable until the program ends, even if it is removed;
    // concurrent writers only ever set `own_tracing`, one byte.
    ACTIVITIES.get_ptr_mut(id).map(|p| unsafe { &mut *p })
}

/// The request was answered: no later work belongs to it.
#[inline(always)]
pub(crate) fn end_activity(id: u64) {
    let _gone_already = ACTIVITIES.remove(id);
}

/// What a task works on.
#[inline(always)]
pub(crate) fn task(tid: u32) -> Option<&'static mut TaskState> {
    // SAFETY: a task's state is written on behalf of that task alone, save for its
    // birth and its end, when it does not run.
    TASKS.get_ptr_mut(tid).map(|p| unsafe { &mut *p })
}

/// A task works on an activity from now on.
#[inline(always)]
pub(crate) fn assign_task(tid: u32, activity: u64, correlation: Correlation) {
    if let Some(state) = task(tid) {
        state.activity = activity;
        state.correlation = correlation as u8;
        return;
    }
    if activity == 0 {
        return;
    }
    let state = TaskState { activity, correlation: correlation as u8, pad: [0; 7] };
    if TASKS.insert(tid, state, 0).is_err() {
        count(Counter::DropTasksFull);
    }
}

/// A task is gone.
#[inline(always)]
pub(crate) fn forget_task(tid: u32) {
    let _was_never_there = TASKS.remove(tid);
}

/// Whether requests of a process may be touched.
#[inline(always)]
pub(crate) fn process_may_be_touched(config: &KernelConfig, tgid: u32) -> bool {
    if config.processes_listed == 0 {
        return true;
    }
    // SAFETY: one byte, read once.
    matches!(unsafe { PROCESSES.get(tgid) }, Some(&PROCESS_ALLOWED))
}

/// Whether a process is known to be excluded.
#[inline(always)]
pub(crate) fn process_is_excluded(config: &KernelConfig, tgid: u32) -> bool {
    if tgid == config.agent_tgid {
        return true;
    }
    // SAFETY: one byte, read once.
    config.processes_listed != 0
        && matches!(unsafe { PROCESSES.get(tgid) }, Some(&PROCESS_EXCLUDED))
}

/// A new process starts with the verdict on its parent.
#[inline(always)]
pub(crate) fn inherit_verdict(parent: u32, child: u32) {
    // SAFETY: one byte, read once.
    if let Some(verdict) = unsafe { PROCESSES.get(parent) } {
        let verdict = *verdict;
        let _full_is_fine = PROCESSES.insert(child, verdict, 0);
    }
}

/// A process that runs another program, or none any more, has no verdict.
#[inline(always)]
pub(crate) fn forget_process(tgid: u32) {
    let _was_never_there = PROCESSES.remove(tgid);
}

/// Whether the rules leave connections with this service port alone.
#[inline(always)]
pub(crate) fn port_is_left_alone(config: &KernelConfig, port: u16) -> bool {
    if config.ports_listed == 0 {
        return false;
    }
    // SAFETY: one byte, read once.
    match unsafe { PORTS.get(port) } {
        Some(&PORT_EXCLUDED) => true,
        Some(&PORT_INCLUDED) => false,
        _ => config.ports_listed & PORT_INCLUDED as u32 != 0,
    }
}

/// Whether the rules leave a connection alone of which it is not known which of its
/// ports is the service's: one is excluded, or neither is among those listed.
#[inline(always)]
pub(crate) fn ports_are_left_alone(config: &KernelConfig, one: u16, other: u16) -> bool {
    if config.ports_listed == 0 {
        return false;
    }
    // SAFETY: one byte each, read once.
    let (one, other) = unsafe { (PORTS.get(one), PORTS.get(other)) };
    let is = |rule: Option<&u8>, wanted: u8| matches!(rule, Some(&found) if found == wanted);
    is(one, PORT_EXCLUDED)
        || is(other, PORT_EXCLUDED)
        || (config.ports_listed & PORT_INCLUDED as u32 != 0
            && !is(one, PORT_INCLUDED)
            && !is(other, PORT_INCLUDED))
}

/// Keeps the first bytes of a connection whose socket does not exist yet.
#[inline(always)]
pub(crate) fn keep_early(key: &EarlyKey, data: &EarlyData) {
    if EARLY_DATA.insert(key, data, 0).is_ok() {
        count(Counter::EarlyHeadsKept);
    }
}

/// The first bytes of a connection that is established now.
#[inline(always)]
pub(crate) fn early(key: &EarlyKey) -> Option<&'static EarlyData> {
    // SAFETY: written once, before the connection that it belongs to is established.
    unsafe { EARLY_DATA.get(key) }
}

/// The first bytes were read.
#[inline(always)]
pub(crate) fn forget_early(key: &EarlyKey) {
    let _was_never_there = EARLY_DATA.remove(key);
}
