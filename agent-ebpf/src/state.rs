//! The maps, each behind functions that keep its invariant.

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::btf_maps::{
    Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, SkStorage, SockHash,
};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_map_delete_elem, bpf_sk_storage_get,
    bpf_sock_hash_update,
};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::SkMsgContext;
use tracewire_common::config::{
    KernelConfig, PORT_EXCLUDED, PORT_INCLUDED, PROCESS_ALLOWED, PROCESS_EXCLUDED, WINDOW,
};
use tracewire_common::connection::{Connection, PENDING, TaskState};
use tracewire_common::counter::{COUNTERS, Counter, OUTCOME_BASE};
use tracewire_common::outcome::Correlation;

use crate::golang::goroutine;
use crate::python;
use crate::task::birth::read_u32;
use crate::tokio;

/// Whether packet programs may ask for the task at work by `bpf_get_current_pid_tgid`: not
/// on older kernels. Set before loading; since it cannot change after that, the verifier
/// does not look at the way that is not taken.
#[unsafe(no_mangle)]
static PACKETS_KNOW_TASK: u32 = 1;

/// Whether `bpf_msg_pop_data` can be trusted. Set before loading.
#[unsafe(no_mangle)]
static HEADS_ARE_BUILT: u32 = 0;

/// Whether a request's head may be built anew: see `build` of the rewriting program.
#[inline(always)]
pub(crate) fn may_build_heads() -> bool {
    // SAFETY: a static of this object, which the loader writes to.
    unsafe { (&raw const HEADS_ARE_BUILT).read_volatile() != 0 }
}

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

/// Whether parents may be found by the rule.
#[inline(always)]
pub(crate) fn rule_is_on(rule: Correlation) -> bool {
    config().is_some_and(|config| config.rule_is_on(rule))
}

/// The socket's address as a number: `pointer arithmetic on sock prohibited`, says the
/// verifier, but a number read back from map memory may be added to.
///
/// # Safety
///
/// `connection` must be live.
#[inline(always)]
pub(crate) unsafe fn sock_address(connection: *mut Connection, sk: *mut c_void) -> *const c_void {
    // SAFETY: the caller's promise; volatile, or the compiler keeps the pointer.
    unsafe {
        (&raw mut (*connection).sock).cast::<*mut c_void>().write_volatile(sk);
        (&raw const (*connection).sock).read_volatile() as *const c_void
    }
}

/// The task that sends a packet, process and thread as `bpf_get_current_pid_tgid` has them; 0 where
/// the kernel sends, for what came before was acknowledged or a timer ran out: then the packet
/// leaves in the middle of any task, and of another process's too.
///
/// # Safety
///
/// As for [`sock_address`].
#[inline(always)]
pub(crate) unsafe fn task_of_packet(connection: *mut Connection, sk: *mut c_void) -> u64 {
    let Some(config) = config() else { return 0 };
    // A task in a call on a socket owns it, and what arrives or fires meanwhile is put off until it
    // lets go of it (`sock_owned_by_user`, `tcp_v4_rcv`, `tcp_tsq_handler` in net/ipv4).
    // SAFETY: the caller's promise.
    if read_u32(unsafe { sock_address(connection, sk) }, config.off_sock_owned) == 0 {
        return 0;
    }
    // SAFETY: a static of this object, which the loader writes to.
    if unsafe { (&raw const PACKETS_KNOW_TASK).read_volatile() } != 0 {
        // SAFETY: no arguments.
        return unsafe { bpf_get_current_pid_tgid() };
    }
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() } as *const c_void;
    let tgid = read_u32(task, config.off_task_tgid);
    ((tgid as u64) << 32) | read_u32(task, config.off_task_pid) as u64
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    count_at(counter as u32);
}

/// Adds one to the counter of an outcome.
#[inline(always)]
pub(crate) fn count_outcome(outcome: u8) {
    count_at(OUTCOME_BASE + outcome as u32);
}

#[inline(always)]
fn count_at(index: u32) {
    if let Some(value) = COUNTS.get_ptr_mut(index) {
        // One instruction: a program in softirq may run between a load and a store of the
        // one that it interrupts, and then a count is lost. What was lost of the traces is
        // told by differences of these numbers, so each has to be exact.
        // SAFETY: an aligned word of map memory.
        unsafe { add(value, 1) };
    }
}

/// Adds to a word, in one instruction.
///
/// # Safety
///
/// The word must be map memory, and aligned.
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u64, number: u64) {
    // SAFETY: the caller's promise; the instruction touches the word alone.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({place} + 0) += {number}",
            place = in(reg) word,
            number = in(reg) number,
            options(nostack, preserves_flags),
        );
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
/// `sk` must be a socket that the verifier knows as such.
#[inline(always)]
pub(crate) unsafe fn connection_or_new(sk: *mut c_void) -> *mut Connection {
    // SAFETY: the caller's promise.
    unsafe { storage_or_new(map_of(&raw const CONNECTIONS), sk).cast() }
}

/// What such a map keeps for a socket, all zero if there was nothing. Null if memory is short.
///
/// # Safety
///
/// `map` must be one of socket storage, `sk` a socket that the verifier knows as such.
#[inline(always)]
pub(crate) unsafe fn storage_or_new(map: *mut c_void, sk: *mut c_void) -> *mut c_void {
    // SAFETY: the caller's promise; a null value gives zeroed memory.
    unsafe {
        let create = BPF_SK_STORAGE_GET_F_CREATE as u64;
        let made = bpf_sk_storage_get(map, sk, core::ptr::null_mut(), create);
        if !made.is_null() {
            return made;
        }
        // Another CPU made it in this moment: then the kernel answers with nothing, not with that
        // (`bpf_local_storage_update` with BPF_NOEXIST, kernel/bpf/bpf_local_storage.c).
        bpf_sk_storage_get(map, sk, core::ptr::null_mut(), 0)
    }
}

/// The address of a map, as the helpers want it.
#[inline(always)]
pub(crate) fn map_of<T>(map: *const T) -> *mut c_void {
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

/// Takes a socket out of the socket map, if it is there.
#[inline(always)]
pub(crate) fn take_out(mut cookie: u64) {
    // SAFETY: the key is read by the helper.
    let _gone_already =
        unsafe { bpf_map_delete_elem(map_of(&raw const ENROLLED), (&raw mut cookie).cast()) };
}

/// What a task works on.
#[inline(always)]
pub(crate) fn task(tid: u32) -> Option<&'static mut TaskState> {
    // SAFETY: a task's state is written on behalf of that task alone, save for its
    // birth and its end, when it does not run.
    TASKS.get_ptr_mut(tid).map(|p| unsafe { &mut *p })
}

/// What a task works on; nothing, if that was not known. `None`, and counted, if there is no
/// room for one more.
#[inline(always)]
pub(crate) fn task_or_new(tid: u32) -> Option<&'static mut TaskState> {
    if let Some(state) = task(tid) {
        return Some(state);
    }
    let state = TaskState {
        activity: 0,
        sleeps: 0,
        open: 0,
        waiting: 0,
        pending: [0; PENDING],
        last: 0,
        prompt: 0,
        losses: 0,
        correlation: Correlation::None as u8,
        flags: 0,
        ended: 0,
        answered: 0,
        moved: 0,
        tgid: 0,
        receivers: 0,
        runs_timers: 0,
        pad: 0,
        taken: 0,
    };
    if TASKS.insert(tid, state, 0).is_err() {
        count(Counter::DropTasksFull);
        return None;
    }
    task(tid)
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
    goroutine::forget(tgid);
    python::forget(tgid);
    tokio::forget(tgid);
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
