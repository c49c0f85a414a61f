//! What a task works on, and how far that can be believed.
//!
//! A task that serves one request at a time works on the request that it last received, until
//! that is answered, whatever it waits for meanwhile. One that was seen with two at once does
//! not: an event loop may receive several and then take them up in any order, or be woken by a
//! timer. What it sends is its only candidate's, or nobody's. Candidates are the requests that it
//! received, or received a response for, since it slept and before it sent something; and all
//! those that wait for nothing that can be seen. Threads of a pool outlive what they were made
//! for, and get no parent from their birth. None is better than a wrong one.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel};
use tracewire_common::connection::{
    Connection, PENDING, TASK_AMBIGUOUS, TASK_BORN, TASK_HAS_POOLS, TASK_MULTIPLEXES,
    TASK_SENT_UNKNOWN, TaskState, UNKNOWN_ACTIVITY,
};
use tracewire_common::outcome::Correlation;

use crate::activities;
use crate::state::{self, config, rule_is_on};

/// How often the task at work has gone to sleep (`task_struct.nvcsw`).
#[inline(always)]
fn sleeps() -> u64 {
    let Some(config) = config() else { return 0 };
    let mut value = 0u64;
    // SAFETY: the helper checks the address; the destination is a local of that size.
    unsafe {
        let task = bpf_get_current_task() as *const u8;
        bpf_probe_read_kernel(
            (&raw mut value).cast::<c_void>(),
            8,
            task.wrapping_add(config.off_task_nvcsw as usize).cast(),
        );
    }
    value
}

/// The task at work received bytes of a request.
#[inline(always)]
pub(crate) fn received(tid: u32, activity: u64) {
    if !rule_is_on(Correlation::Receive) {
        return;
    }
    let Some(state) = state::task_or_new(tid) else { return };
    let is_first = activities::is_first_receiver(activity, tid);
    if is_first {
        state.open = state.open.wrapping_add(1);
    }
    if state.open > 1 && state.flags & TASK_MULTIPLEXES == 0 {
        state.flags |= TASK_MULTIPLEXES;
        state.sleeps = sleeps();
        if !activities::is_waiting(state.activity) {
            // Which of the two it takes up first is not known.
            state.pending[0] = state.activity;
        }
    }
    if state.flags & TASK_MULTIPLEXES != 0 {
        // More of a request that has led to something is nothing new.
        if is_first || state.activity != activity {
            take_up(state, activity);
        }
    } else {
        state.flags &= !TASK_BORN;
        state.activity = activity;
    }
    state.correlation = Correlation::Receive as u8;
}

/// The task at work received bytes of the response to a request of `activity`, which is 0 if
/// that had none.
#[inline(always)]
pub(crate) fn replied(tid: u32, activity: u64) {
    if !rule_is_on(Correlation::Reply) {
        return;
    }
    // Who has received nothing of its own is a thread of a pool: what it does next is not known.
    let Some(state) = state::task(tid) else { return };
    if state.flags & TASK_MULTIPLEXES != 0 {
        take_up(state, activity);
    } else if state.activity != activity {
        return;
    }
    state.correlation = Correlation::Reply as u8;
}

/// A request is sent on the connection, or the connection opened for one: what it is for waits
/// from now on. Where that is not known, it is noted that one of the task's open requests does;
/// several at once may be one's. A global function: the verifier looks at it once, by itself.
///
/// # Safety
///
/// The pointer must be null or valid: the verifier asks for no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn await_on(
    connection: *mut Connection,
    activity: u64,
    rule: u32,
    tid: u32,
) -> u64 {
    if connection.is_null() {
        return 0;
    }
    // SAFETY: checked for null, and valid by the caller's promise.
    let connection = unsafe { &mut *connection };
    if connection.awaited_for != 0 {
        if connection.awaited_for == activity {
            return 0;
        }
        stop_waiting(connection, tid);
    }
    if activity != 0 {
        activities::begin_waiting(activity);
        connection.awaited_for = activity;
    } else if rule == Correlation::Ambiguous as u32
        && let Some(state) = state::task(tid)
        && state.flags & TASK_SENT_UNKNOWN == 0
    {
        state.flags |= TASK_SENT_UNKNOWN;
        state.waiting = state.waiting.wrapping_add(1);
        connection.awaited_for = UNKNOWN_ACTIVITY;
    }
    0
}

/// Nothing more is awaited on the connection.
#[inline(always)]
pub(crate) fn stop_waiting(connection: &mut Connection, tid: u32) {
    let awaited_for = connection.awaited_for;
    connection.awaited_for = 0;
    if awaited_for == UNKNOWN_ACTIVITY {
        if let Some(state) = state::task(tid) {
            state.waiting = state.waiting.saturating_sub(1);
        }
    } else if awaited_for != 0 {
        activities::end_waiting(awaited_for);
    }
}

/// A task that multiplexes has one more thing to do.
#[inline(always)]
fn take_up(state: &mut TaskState, activity: u64) {
    forget_if_slept(state);
    state.flags &= !TASK_SENT_UNKNOWN;
    if activity == 0 {
        return;
    }
    let mut place = 0;
    while place < PENDING {
        let other = state.pending[place];
        if other == activity {
            return;
        }
        if other == 0 || !activities::is_going_on(other) {
            state.pending[place] = activity;
            return;
        }
        place += 1;
    }
    state.flags |= TASK_AMBIGUOUS;
}

/// What came before the task slept does not say what it does now.
#[inline(always)]
fn forget_if_slept(state: &mut TaskState) {
    let sleeps = sleeps();
    if state.sleeps != sleeps {
        state.sleeps = sleeps;
        state.flags &= !(TASK_AMBIGUOUS | TASK_SENT_UNKNOWN);
        state.activity = 0;
        state.pending = [0; PENDING];
    }
}

/// The one thing that a task which multiplexes can be at; 0 if there are several, or none.
#[inline(always)]
fn only_candidate(state: &mut TaskState) -> u64 {
    forget_if_slept(state);
    let mut found = 0;
    let mut several = state.flags & TASK_AMBIGUOUS != 0;
    let mut place = 0;
    while place < PENDING {
        let one = state.pending[place];
        if one != 0 && activities::is_going_on(one) {
            several |= found != 0;
            found = one;
        }
        place += 1;
    }
    if several {
        return 0;
    }
    if found == 0 {
        // Nothing new since it took up the last.
        found = state.activity;
    }
    if found == 0 {
        return 0;
    }
    // Each other open request waits for a response that will be seen, or else it may be the
    // one: for a timer, or for what is no HTTP.
    let idle = if activities::is_waiting(found) { 0 } else { 1 };
    if state.open.wrapping_sub(state.waiting).wrapping_sub(idle) as i32 > 0 {
        return 0;
    }
    state.activity = found;
    state.pending = [0; PENDING];
    found
}

/// A task was made by one that works on `activity`. Nothing follows for the threads of a
/// process that has pools of them.
#[inline(always)]
pub(crate) fn born(tid: u32, activity: u64, tgid: u32, is_thread: bool) {
    if !rule_is_on(Correlation::Birth) {
        return;
    }
    if is_thread && state::task(tgid).is_some_and(|main| main.flags & TASK_HAS_POOLS != 0) {
        return;
    }
    let Some(state) = state::task_or_new(tid) else { return };
    state.activity = activity;
    state.correlation = Correlation::Birth as u8;
    state.flags = if is_thread { TASK_BORN } else { 0 };
}

/// The activity that a task sends for, and the rule that says so; 0 if there is none that can
/// be believed. The task, as `bpf_get_current_pid_tgid` has it, is the one at work.
#[inline(always)]
pub(crate) fn of(task: u64) -> (u64, u8) {
    let Some(state) = state::task(task as u32) else { return (0, Correlation::None as u8) };
    let activity = if state.flags & TASK_MULTIPLEXES != 0 {
        only_candidate(state)
    } else {
        if state.flags & TASK_BORN != 0 && !activities::is_going_on(state.activity) {
            // It has outlived what it was made for, and goes on with something else.
            state.flags &= !TASK_BORN;
            if let Some(main) = state::task_or_new((task >> 32) as u32) {
                main.flags |= TASK_HAS_POOLS;
            }
        }
        return (state.activity, state.correlation);
    };
    if activity == 0 {
        return (0, Correlation::Ambiguous as u8);
    }
    (activity, state.correlation)
}

/// What [`of`] answers.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Work {
    pub(crate) activity: u64,
    pub(crate) rule: u64,
}

/// [`of`], as a global function.
///
/// # Safety
///
/// The pointer must be null or valid.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn work_of(task: u64, found: *mut Work) -> u64 {
    if found.is_null() {
        return 0;
    }
    let (activity, rule) = of(task);
    // SAFETY: checked for null, and valid by the caller's promise.
    unsafe { found.write(Work { activity, rule: rule as u64 }) };
    0
}
