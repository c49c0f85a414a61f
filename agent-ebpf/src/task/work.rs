//! What a task works on, and how far that can be believed.
//!
//! A task that serves one request at a time works on the request that it last received, until
//! that is answered, whatever it waits for meanwhile. One that was seen with two at once is an
//! event loop (`event_loop`). Threads of a pool outlive what they were made for, and get no
//! parent from their birth. None is better than a wrong one.

use tracewire_common::connection::{
    Connection, SEVERAL_RECEIVERS, TASK_BORN, TASK_COUNTED, TASK_HAS_POOLS, TASK_MULTIPLEXES,
    TASK_SENT_UNKNOWN, UNKNOWN_ACTIVITY, UNKNOWN_UNCOUNTED,
};
use tracewire_common::outcome::Correlation;

use crate::activities;
use crate::golang::goroutine;
use crate::python::context;
use crate::state::{self, rule_is_on};
use crate::task::{candidates, event_loop, scattered};
use crate::tokio;

/// The task at work received bytes of a request.
#[inline(always)]
pub(crate) fn received(tgid: u32, tid: u32, activity: u64) {
    if !rule_is_on(Correlation::Receive) {
        return;
    }
    let Some(state) = state::task_or_new(tid) else { return };
    let is_first = activities::is_first_receiver(activity, tid);
    if is_first {
        state.open = state.open.wrapping_add(1);
        if state.tgid != tgid {
            state.tgid = tgid;
            note_receiver(tgid, tid);
        }
        if scattered::is(state) || state.flags & TASK_COUNTED != 0 {
            scattered::received(tgid, activity);
        }
    }
    if state.open > 1 && state.flags & TASK_MULTIPLEXES == 0 {
        event_loop::begin(state);
        candidates::add(tid, state.activity);
    }
    if state.flags & TASK_MULTIPLEXES != 0 {
        if is_first {
            candidates::add(tid, activity);
        }
        // More of what was received last is nothing new.
        if is_first || state.last != activity {
            event_loop::take_up(state, activity);
        }
    } else {
        state.flags &= !TASK_BORN;
        state.activity = activity;
    }
    state.correlation = Correlation::Receive as u8;
}

/// A task receives requests for the first time. Where it is not the only one of its process, their
/// requests are counted together from now on.
#[inline(never)]
fn note_receiver(tgid: u32, tid: u32) {
    let Some(main) = state::task_or_new(tgid) else { return };
    let before = main.receivers;
    if before == 0 {
        main.receivers = tid;
        return;
    }
    if before != tid {
        main.receivers = SEVERAL_RECEIVERS;
    }
    if before != SEVERAL_RECEIVERS
        && let Some(first) = state::task(before)
        && first.tgid == tgid
    {
        first.flags |= TASK_COUNTED;
        scattered::begin(tgid, first);
    }
    if let Some(state) = state::task(tid) {
        state.flags |= TASK_COUNTED;
    }
}

/// For what a stream of HTTP/2 is opened. Threads of one process share connections, and may write
/// what another asked for: of those that receive requests themselves, only one that is the only
/// such one of its process is believed; else there has to be only one request that it can be for.
/// A global function.
///
/// # Safety
///
/// The pointers must be null or valid.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn of_stream(
    connection: *const Connection,
    task: u64,
    stream: u32,
    found: *mut Work,
) -> u64 {
    if connection.is_null() || found.is_null() {
        return 0;
    }
    // SAFETY: checked for null, and valid by the caller's promise.
    let (connection, found) = unsafe { (&*connection, &mut *found) };
    let (tgid, tid, port) = (connection.tgid, task as u32, connection.remote_port);
    *found = Work::NONE;
    if goroutine::opens_stream(tgid, task, stream, found) {
        return 0;
    }
    let Some(main) = state::task(tgid) else { return 0 };
    let receiver = main.receivers;
    if receiver == SEVERAL_RECEIVERS {
        *found = scattered::work_of(tgid, port);
    } else if receiver == tid && (task >> 32) as u32 == tgid {
        *found = of(task, port);
    } else if let Some(state) = state::task(receiver)
        && state.tgid == tgid
    {
        *found = event_loop::only_work_of(state, tgid, port);
    }
    0
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
        event_loop::take_up(state, activity);
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
        let is_still_unknown = connection.awaited_for == UNKNOWN_UNCOUNTED && activity == 0;
        if connection.awaited_for == activity || is_still_unknown {
            return 0;
        }
        stop_waiting(connection, tid);
    }
    connection.awaited_for = begin_awaiting(activity, rule, tid);
    0
}

/// Something is awaited for the activity, or for one that is not known. Answers what
/// [`end_awaiting`] is to be told.
#[inline(always)]
pub(crate) fn begin_awaiting(activity: u64, rule: u32, tid: u32) -> u64 {
    if activity != 0 {
        activities::begin_waiting(activity);
        return activity;
    }
    if rule != Correlation::Ambiguous as u32 {
        return 0;
    }
    let Some(state) = state::task(tid) else { return 0 };
    if state.flags & TASK_SENT_UNKNOWN != 0 || state.runs_timers != 0 {
        // What timers have it send may be for no request.
        return UNKNOWN_UNCOUNTED;
    }
    state.flags |= TASK_SENT_UNKNOWN;
    state.waiting = state.waiting.wrapping_add(1);
    UNKNOWN_ACTIVITY
}

/// Nothing more is awaited on the connection.
#[inline(always)]
pub(crate) fn stop_waiting(connection: &mut Connection, tid: u32) {
    let awaited_for = connection.awaited_for;
    connection.awaited_for = 0;
    end_awaiting(awaited_for, tid);
}

/// Some of what is awaited has come. Where it is not known for what, nobody can be said to wait any more: who
/// passes that on goes on with something else, or ends what it was for.
#[inline(always)]
pub(crate) fn some_has_come(awaited_for: &mut u64, tid: u32) {
    if *awaited_for == UNKNOWN_ACTIVITY {
        *awaited_for = UNKNOWN_UNCOUNTED;
        end_awaiting(UNKNOWN_ACTIVITY, tid);
    }
}

/// What was awaited has come, or will not come any more.
#[inline(always)]
pub(crate) fn end_awaiting(awaited_for: u64, tid: u32) {
    if awaited_for == UNKNOWN_ACTIVITY {
        if let Some(state) = state::task(tid) {
            state.waiting = state.waiting.saturating_sub(1);
        }
    } else if awaited_for != 0 && awaited_for != UNKNOWN_UNCOUNTED {
        activities::end_waiting(awaited_for);
    }
}

/// The task at work takes a request up, whoever received it.
#[inline(always)]
pub(crate) fn taken_up(tid: u32, activity: u64) {
    if let Some(state) = state::task_or_new(tid) {
        state.taken = activity;
    }
}

/// The task at work goes on with something else than what it took up last.
#[inline(always)]
pub(crate) fn lays_down(tid: u32) {
    if let Some(state) = state::task(tid) {
        state.taken = 0;
    }
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
/// be believed. The task, as `bpf_get_current_pid_tgid` has it, is the one at work, and sends to
/// that port.
#[inline(always)]
pub(crate) fn of(task: u64, port: u16) -> Work {
    let Some(state) = state::task(task as u32) else { return Work::NONE };
    if activities::is_going_on(state.taken) {
        return Work { activity: state.taken, rule: Correlation::TakenUp as u64 };
    }
    if scattered::is(state) {
        return scattered::work_of((task >> 32) as u32, port);
    }
    // A process that was made for a request, and has received none itself, works for that (birth).
    if state.runs_timers != 0 && state.tgid != 0 {
        return event_loop::work_of_timer(state, (task >> 32) as u32, port);
    }
    if state.flags & TASK_MULTIPLEXES != 0 {
        return event_loop::work_of_turn(state, (task >> 32) as u32, port);
    }
    if state.flags & TASK_BORN != 0 {
        if !activities::is_going_on(state.activity) {
            // It has outlived what it was made for, and goes on with something else.
            state.flags &= !TASK_BORN;
            note_pools((task >> 32) as u32);
        } else if !threads_end((task >> 32) as u32) {
            return Work::AMBIGUOUS;
        }
    }
    let activity = state.activity;
    if activities::came_on_stream(activity) && has_several_receivers((task >> 32) as u32) {
        // Who reads a connection reads for all threads: what it works on itself is another thing.
        return scattered::work_of((task >> 32) as u32, port);
    }
    Work { activity, rule: state.correlation as u64 }
}

/// Whether several threads of the process receive requests.
#[inline(never)]
fn has_several_receivers(tgid: u32) -> bool {
    state::task(tgid).is_some_and(|main| main.receivers == SEVERAL_RECEIVERS)
}

/// Threads of a process that ended before the request that they were made for, and no
/// thread that outlived its: what it takes to believe that they are not a pool's, whose first
/// job may be another than that for which it was made.
const PROOF: u8 = 8;

/// Whether threads of the process end with what they were made for.
#[inline(never)]
fn threads_end(tgid: u32) -> bool {
    state::task(tgid).is_some_and(|main| main.ended >= PROOF && main.flags & TASK_HAS_POOLS == 0)
}

/// The task at work ends.
#[inline(always)]
pub(crate) fn ended(tgid: u32, tid: u32) {
    if let Some(state) = state::task(tid)
        && state.flags & TASK_BORN != 0
        && activities::is_going_on(state.activity)
        && let Some(main) = state::task_or_new(tgid)
    {
        main.ended = main.ended.saturating_add(1);
    }
}

/// Threads of the process outlive what they were made for.
#[inline(never)]
fn note_pools(tgid: u32) {
    if let Some(main) = state::task_or_new(tgid) {
        main.flags |= TASK_HAS_POOLS;
    }
}

/// What a task works on.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Work {
    /// The activity; 0 if it is not known.
    pub(crate) activity: u64,
    /// [`Correlation`]: the rule that says so.
    pub(crate) rule: u64,
}

impl Work {
    /// Nothing that is known of.
    pub(crate) const NONE: Self = Self { activity: 0, rule: Correlation::None as u64 };
    /// One of several things.
    pub(crate) const AMBIGUOUS: Self = Self { activity: 0, rule: Correlation::Ambiguous as u64 };
}

/// For what a task sends a request on the connection: of a Go program a goroutine, of Python a context, on
/// tokio a task, else [`of`]. A
/// global function.
///
/// # Safety
///
/// The pointers must be null or valid.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn work_of(
    connection: *const Connection,
    task: u64,
    found: *mut Work,
) -> u64 {
    if connection.is_null() || found.is_null() {
        return 0;
    }
    // SAFETY: checked for null, and valid by the caller's promise.
    let (connection, found) = unsafe { (&*connection, &mut *found) };
    if !goroutine::work_on(connection, task, found)
        && !context::work_on(connection, task, found)
        && !tokio::task::work_on(connection, task, found)
    {
        *found = of(task, connection.remote_port);
    }
    0
}
