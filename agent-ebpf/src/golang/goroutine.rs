//! What a goroutine works on: the request that it received last, until that is answered, or
//! the one for which it was made.
//!
//! Who serves a connection in Go is one goroutine, from request to request, so what it received
//! last is certain. What a goroutine was made for is asked at its birth: later on, the one that
//! made it may be at its next request.
//!
//! A goroutine of a pool is made for one request, and serves others later on. So of what a
//! goroutine does only the first call is for what it was made, until it is known that those which
//! the same statement makes come to an end. Where one does not, none of them is believed.

use aya_ebpf::btf_maps::{HashMap, LruHashMap};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_user};
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::Connection;
use tracewire_common::golang::{
    GOROUTINES_END, GOROUTINES_STAY, GoCall, GoProcess, GoStatement, Goroutine, GoroutineId,
};
use tracewire_common::outcome::Correlation;

use crate::activities;
use crate::golang::grpc;
use crate::state::config;
use crate::task::exec::read_u64;
use crate::task::work::Work;

/// `runtime.g.m`, since Go 1.5.
const G_M: u64 = 48;

/// Calls of a goroutine for a request that is answered, by which it shows that it does not work
/// for that. One that goes on after the answer makes a few; a pool's makes calls as long as it lives.
const LATE_CALLS: u16 = 4;

/// Processes of Go programs; written by userspace, which knows executables.
#[btf_map]
static GO_PROCESSES: HashMap<u32, GoProcess, 4096> = HashMap::new();

/// What goroutines work on that received a request, or were made for one and made calls.
#[btf_map]
static GOROUTINES: LruHashMap<GoroutineId, Goroutine, 16384> = LruHashMap::new();

/// The activities for which goroutines were made, by the address of the `runtime.g`. That is
/// used again, and what is here is set anew by each birth.
#[btf_map]
static GO_BIRTHS: LruHashMap<GoroutineId, u64, 16384> = LruHashMap::new();

/// What is known of statements that make goroutines for requests: `GOROUTINES_` bits.
#[btf_map]
static GO_STATEMENTS: LruHashMap<GoStatement, u32, 4096> = LruHashMap::new();

/// Requests that were handed to the goroutine that writes on a connection, by its cookie.
#[btf_map]
static GO_CALLS: LruHashMap<u64, GoCall, 16384> = LruHashMap::new();

/// How goroutines are found, if the process is one of a Go program.
#[inline(always)]
pub(crate) fn process(tgid: u32) -> Option<&'static GoProcess> {
    // SAFETY: written once for a program, before which its goroutines are not looked at.
    unsafe { GO_PROCESSES.get(tgid) }
}

/// A process that runs another program, or none any more, has no goroutines.
#[inline(always)]
pub(crate) fn forget(tgid: u32) {
    let _was_never_there = GO_PROCESSES.remove(tgid);
}

/// Reads a word of the memory of the process at work; 0 if it cannot be read.
#[inline(always)]
pub(crate) fn read_user(at: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the helper checks the address; the destination is a local of that size.
    unsafe { bpf_probe_read_user((&raw mut value).cast(), 8, at as *const c_void) };
    value
}

/// The fs base of the thread at work; 0 if that is not known. What the kernel keeps is what it was last
/// told, by `arch_prctl` or `clone`, which is how Go and C libraries set it.
#[inline(always)]
pub(crate) fn fs_base() -> u64 {
    let Some(config) = config() else { return 0 };
    if config.go.task_fsbase == 0 {
        return 0;
    }
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() } as *const c_void;
    read_u64(task, config.go.task_fsbase)
}

/// The `runtime.g` that the thread at work runs; 0 if that is not known.
#[inline(always)]
pub(crate) fn running(process: &GoProcess) -> u64 {
    let base = if process.off_goid == 0 { 0 } else { fs_base() };
    if base == 0 { 0 } else { read_user(base.wrapping_add(process.g_slot)) }
}

/// The number of a goroutine; 0 for none, as where the thread is on a stack of the scheduler's.
#[inline(always)]
fn id(process: &GoProcess, tgid: u32, g: u64) -> GoroutineId {
    let goid = if g == 0 { 0 } else { read_user(g.wrapping_add(process.off_goid as u64)) };
    GoroutineId { tgid: tgid as u64, goid }
}

/// The goroutine at work; its number is 0 if it is none of the application's.
#[inline(always)]
pub(crate) fn at_work(process: &GoProcess, tgid: u32) -> GoroutineId {
    id(process, tgid, running(process))
}

/// The goroutine at work received bytes of a request.
#[inline(always)]
pub(crate) fn received(process: &GoProcess, tgid: u32, activity: u64) {
    let id = id(process, tgid, running(process));
    if id.goid == 0 {
        return;
    }
    let state =
        Goroutine { activity, rule: Correlation::Goroutine as u32, calls: 0, late_calls: 0 };
    match GOROUTINES.get_ptr_mut(id) {
        // SAFETY: map memory; what is kept of a goroutine is written on its behalf alone.
        Some(place) => unsafe { place.write(state) },
        None => {
            let _no_parent_then = GOROUTINES.insert(id, state, 0);
        }
    }
}

/// The activity that the goroutine at work received, and that is going on; else 0.
#[inline(always)]
pub(crate) fn received_by(process: &GoProcess, tgid: u32) -> u64 {
    let id = id(process, tgid, running(process));
    // SAFETY: read once.
    match unsafe { GOROUTINES.get(id) } {
        Some(state)
            if state.rule == Correlation::Goroutine as u32
                && activities::is_going_on(state.activity) =>
        {
            state.activity
        }
        _ => 0,
    }
}

/// A goroutine is made by the one at work, on a stack of the scheduler's.
#[inline(always)]
pub(crate) fn born(tgid: u32, newborn: u64) {
    let Some(process) = GO_PROCESSES.get_ptr_mut(tgid) else { return };
    // SAFETY: map memory. A count that is lost now and then does no harm.
    let process = unsafe { &mut *process };
    if process.off_curg == 0 {
        return;
    }
    process.births = process.births.wrapping_add(1);
    let m = read_user(running(process).wrapping_add(G_M));
    let creator = read_user(m.wrapping_add(process.off_curg as u64));
    let activity = work_of(process, tgid, creator, false).activity;
    let key = GoroutineId { tgid: tgid as u64, goid: newborn };
    match GO_BIRTHS.get_ptr_mut(key) {
        // SAFETY: map memory; nobody runs the goroutine yet.
        Some(place) => unsafe {
            if place.read() != 0 {
                // Its statement stands there until the new one's does, in a moment.
                learn(statement(process, tgid, newborn), GOROUTINES_END);
            }
            place.write(activity);
        },
        None if activity != 0 => {
            let _no_parent_then = GO_BIRTHS.insert(key, activity, 0);
        }
        None => {}
    }
}

/// The statement that made a goroutine.
#[inline(always)]
fn statement(process: &GoProcess, tgid: u32, g: u64) -> GoStatement {
    let pc = read_user(g.wrapping_add(process.off_gopc as u64));
    GoStatement { tgid: tgid as u64, pc }
}

/// One more thing is known of a statement.
#[inline(always)]
fn learn(statement: GoStatement, fact: u32) {
    match GO_STATEMENTS.get_ptr_mut(statement) {
        // SAFETY: map memory; a fact that is lost is learned again.
        Some(facts) => unsafe { *facts |= fact },
        None => {
            let _learned_again = GO_STATEMENTS.insert(statement, fact, 0);
        }
    }
}

/// What a goroutine works on, that is going on; nothing, if that is not known. `is_call` says
/// that it is about to make a call.
#[inline(always)]
fn work_of(process: &GoProcess, tgid: u32, g: u64, is_call: bool) -> Work {
    let nothing = Work { activity: 0, rule: Correlation::None as u64 };
    let id = id(process, tgid, g);
    if id.goid == 0 {
        return nothing;
    }
    let state = match GOROUTINES.get_ptr_mut(id) {
        Some(state) => state,
        None => {
            let birth = GoroutineId { tgid: tgid as u64, goid: g };
            // SAFETY: one word, read once.
            let activity = match unsafe { GO_BIRTHS.get(birth) } {
                Some(activity) if process.off_curg != 0 => *activity,
                _ => 0,
            };
            if activity == 0 {
                return nothing;
            }
            let state =
                Goroutine { activity, rule: Correlation::Birth as u32, calls: 0, late_calls: 0 };
            // From now on by its number: what the address says ends with the goroutine.
            let _no_parent_then = GOROUTINES.insert(id, state, 0);
            match GOROUTINES.get_ptr_mut(id) {
                Some(state) => state,
                None => return nothing,
            }
        }
    };
    // SAFETY: map memory, as in `received`.
    let state = unsafe { &mut *state };
    let is_born = state.rule == Correlation::Birth as u32;
    let is_going_on = activities::is_going_on(state.activity);
    if is_born && (is_going_on || is_call) {
        let statement = statement(process, tgid, g);
        // SAFETY: one word, read once.
        let facts = match unsafe { GO_STATEMENTS.get(statement) } {
            Some(facts) => *facts,
            None => 0,
        };
        let is_first = state.calls == 0;
        if is_call {
            state.calls = state.calls.saturating_add(1);
            if !is_going_on {
                state.late_calls = state.late_calls.saturating_add(1);
                if state.late_calls == LATE_CALLS {
                    learn(statement, GOROUTINES_STAY);
                }
            }
        }
        if facts & GOROUTINES_STAY != 0 || (!is_first && facts & GOROUTINES_END == 0) {
            return nothing;
        }
    }
    if is_going_on { Work { activity: state.activity, rule: state.rule as u64 } } else { nothing }
}

/// For what the goroutine at work makes a call.
#[inline(always)]
pub(crate) fn call(process: &GoProcess, tgid: u32) -> GoCall {
    let work = work_of(process, tgid, running(process), true);
    // Also of a goroutine that works on nothing: that is known, then.
    let rule = if work.activity == 0 { Correlation::Goroutine as u64 } else { work.rule };
    GoCall { activity: work.activity, rule }
}

/// The goroutine at work is about to have a request sent on the connection.
#[inline(always)]
pub(crate) fn calls(process: &GoProcess, tgid: u32, cookie: u64) {
    let call = call(process, tgid);
    match GO_CALLS.get_ptr_mut(cookie) {
        // SAFETY: map memory. The request before was sent, and answered, before the connection
        // was free for this one; the one that sends this is told of it after this.
        Some(place) => unsafe { place.write(call) },
        None => {
            let _no_parent_then = GO_CALLS.insert(cookie, call, 0);
        }
    }
}

/// For what a stream of HTTP/2 is opened, if the process that does is one of a Go program; `false`
/// if it is not. Who writes may do so for all: if it is not known for whom, it is believed only of a goroutine that was made by
/// a statement whose goroutines are known to end with what they were made for, or that received the
/// request itself.
#[inline(never)]
pub(crate) fn opens_stream(tgid: u32, task: u64, stream: u32, found: &mut Work) -> bool {
    let Some(process) = process(tgid) else { return false };
    if (task >> 32) as u32 != tgid {
        return true;
    }
    if let Some(call) = grpc::opened(process, tgid, stream) {
        if activities::is_going_on(call.activity) {
            *found = Work { activity: call.activity, rule: call.rule };
        }
        return true;
    }
    let activity = received_by(process, tgid);
    if activity != 0 {
        *found = Work { activity, rule: Correlation::Goroutine as u64 };
        return true;
    }
    let g = running(process);
    // SAFETY: one word, read once.
    let facts = match unsafe { GO_STATEMENTS.get(statement(process, tgid, g)) } {
        Some(facts) => *facts,
        None => 0,
    };
    let work = work_of(process, tgid, g, true);
    if facts & (GOROUTINES_END | GOROUTINES_STAY) == GOROUTINES_END {
        *found = work;
    }
    true
}

/// For what a request is sent on the connection, if the process that does is one of a Go program;
/// `false` if it is not. With a stack of its own: the caller's is short where it calls others.
#[inline(never)]
pub(crate) fn work_on(connection: &Connection, task: u64, found: &mut Work) -> bool {
    let at_work = (task >> 32) as u32;
    // Of a packet that leaves late, the task at work may be any.
    let tgid = if connection.tgid != 0 { connection.tgid } else { at_work };
    let Some(process) = process(tgid) else { return false };
    let (mut activity, mut rule) = (0, Correlation::None as u64);
    if let Some(call) = GO_CALLS.get_ptr_mut(connection.cookie) {
        // SAFETY: map memory, as in `calls`. One call is one request.
        unsafe {
            let call = &mut *call;
            if call.rule != 0 && activities::is_going_on(call.activity) {
                (activity, rule) = (call.activity, call.rule);
            }
            call.rule = 0;
        }
    } else if tgid == at_work {
        activity = received_by(process, tgid);
        if activity != 0 {
            rule = Correlation::Goroutine as u64;
        }
    }
    *found = Work { activity, rule };
    true
}
