//! What a task works on: the request that it received last, until that is answered; or the one for
//! which it was made ([`super::births`]).
//!
//! A pooled client has a task for each connection, which writes what others ask it for. Who asks
//! wakes it, even if it is awake, and on a connection of HTTP/1.x nobody else asks
//! before that is answered. So what such a task sends is for who woke it last, since it began to run
//! or before. Whose response it received before may have woken it as well, to get more of
//! that; any other is one too many.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::Connection;
use tracewire_common::outcome::Correlation;
use tracewire_common::tokio::{SEVERAL, TokioTask, TokioTaskId, TokioWake, UNKNOWN_WAKER};

use super::{births, has_streams, is_followed, threads};
use crate::activities;
use crate::golang::goroutine::read_user;
use crate::task::work::{self, Work};

/// What is known of tasks.
#[btf_map]
static TOKIO_TASKS: LruHashMap<TokioTaskId, TokioTask, 16384> = LruHashMap::new();

/// Offset of `Header.vtable`, and in that of `id_offset`, in bytes (tokio/src/runtime/task).
const HEADER_VTABLE: u64 = 16;
const VTABLE_ID_OFFSET: u64 = 72;

/// Numbers of tasks are not further behind their headers than this, in bytes.
const FURTHEST_ID: u64 = 256;

/// Who sent last on a connection, by its cookie: the number of a task.
#[btf_map]
static TOKIO_SENDERS: LruHashMap<u64, u64, 8192> = LruHashMap::new();

/// The table of functions of the task with that header; 0 if it cannot be read.
#[inline(always)]
pub(super) fn kind(header: u64) -> u64 {
    read_user(header.wrapping_add(HEADER_VTABLE))
}

/// The number of the task with that header; 0 if it cannot be read. It is so far behind that; 0 if the table
/// has to be asked.
#[inline(always)]
pub(super) fn number(header: u64, id_offset: u64) -> u64 {
    let id_offset = match id_offset {
        0 => read_user(kind(header).wrapping_add(VTABLE_ID_OFFSET)),
        known => known,
    };
    if id_offset == 0 || id_offset > FURTHEST_ID {
        return 0;
    }
    read_user(header.wrapping_add(id_offset))
}

/// What is known of a task, if anything is.
#[inline(always)]
pub(super) fn known(tgid: u32, id: u64) -> Option<&'static mut TokioTask> {
    // SAFETY: map memory. Two threads may write to it, one that runs the task and one that wakes it:
    // what they write are different words, and nobody wakes a task twice until it runs.
    TOKIO_TASKS.get_ptr_mut(TokioTaskId { tgid: tgid as u64, id }).map(|task| unsafe { &mut *task })
}

/// Something is known of a task of which nothing was.
#[inline(always)]
pub(super) fn remember(tgid: u32, id: u64, task: TokioTask) {
    let _no_parent_then = TOKIO_TASKS.insert(TokioTaskId { tgid: tgid as u64, id }, task, 0);
}

/// The thread at work runs a task.
#[inline(always)]
pub(super) fn runs(id: u64, number: u64) {
    let mut woken = TokioWake::default();
    if let Some(task) = known((id >> 32) as u32, number) {
        woken = task.woken;
        task.woken = TokioWake::default();
    }
    threads::runs((id >> 32) as u32, id as u32, number, woken);
}

/// The thread at work wakes a task. Its stack is there.
#[inline(always)]
pub(super) fn woken(id: u64, number: u64, stack: u64) {
    if number == 0 {
        return;
    }
    let tgid = (id >> 32) as u32;
    let (activity, by) = at_work(id);
    let is_known = activity != 0;
    let wake = TokioWake { activity: if is_known { activity } else { UNKNOWN_WAKER }, by };
    if let Some(task) = known(tgid, number) {
        if is_known && activity == task.asked_for {
            note_asked_again(task, stack);
        }
        task.woken = last(task.woken, wake, task.asked_for);
    } else if is_known {
        remember(tgid, number, TokioTask { woken: wake, ..TokioTask::default() });
    }
}

/// Whoever asked the task before wakes it once more. The probe may be in a loop that is gone through again where
/// others change the task's state meanwhile: from the same place it is the same wake.
#[inline(always)]
fn note_asked_again(task: &mut TokioTask, stack: u64) {
    if task.asked_sp != stack {
        task.asked_again = task.asked_again.saturating_add(1);
        task.asked_sp = stack;
    }
}

/// Nobody has woken the task since it was asked, or answered.
#[inline(always)]
fn forget_asked_again(task: &mut TokioTask) {
    task.asked_again = 0;
    task.asked_sp = 0;
}

/// Of two that have woken a task, one after the other, the one that asks it for something, if that is certain.
/// `asked_for` is for what it was asked before.
#[inline(always)]
fn last(before: TokioWake, now: TokioWake, asked_for: u64) -> TokioWake {
    let is_other = before.activity != 0
        && before.activity != UNKNOWN_WAKER
        && before.activity != now.activity
        && before.activity != asked_for;
    match now.activity {
        0 => before,
        // It has let go of the answer to what it had asked for, and another has asked meanwhile.
        _ if is_other && now.activity == asked_for => before,
        _ if is_other => TokioWake { activity: UNKNOWN_WAKER, by: 0 },
        _ => now,
    }
}

/// The activity that the thread at work goes on with, and the number of its task; 0 each if it
/// has none.
#[inline(always)]
pub(super) fn at_work(id: u64) -> (u64, u64) {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    match threads::thread(tgid, tid) {
        // One that only hands tasks in, or waits for what they do.
        None => (work::of(id, 0).activity, 0),
        Some(thread) if thread.task == 0 => (thread.received, 0),
        Some(thread) => (work_of(tgid, thread.task, false).activity, thread.task),
    }
}

/// What a task works on that is going on; nothing, if that is not known. `is_call` says that it makes a
/// call.
#[inline(never)]
pub(super) fn work_of(tgid: u32, number: u64, is_call: bool) -> Work {
    let Some(task) = known(tgid, number) else { return Work::NONE };
    let is_going_on = activities::is_going_on(task.activity);
    if task.rule == Correlation::Birth as u32
        && (is_going_on || is_call)
        && !births::is_believed(tgid, task, is_going_on, is_call)
    {
        return Work::NONE;
    }
    if is_going_on { Work { activity: task.activity, rule: task.rule as u64 } } else { Work::NONE }
}

/// The thread at work received bytes of a request.
#[inline(always)]
pub(crate) fn received(id: u64, cookie: u64, activity: u64) {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    if !is_followed(tgid) {
        return;
    }
    let Some(thread) = threads::thread(tgid, tid) else { return };
    if thread.task == 0 {
        thread.received = only(thread.received, thread.received_on, cookie, activity);
        thread.received_on = cookie;
        return;
    }
    let rule = Correlation::TokioTask as u32;
    match known(tgid, thread.task) {
        Some(task) => {
            let before = if task.rule == rule { task.activity } else { 0 };
            task.activity = only(before, task.received_on, cookie, activity);
            task.received_on = cookie;
            task.rule = rule;
        }
        None => {
            let new = TokioTask { activity, received_on: cookie, rule, ..TokioTask::default() };
            remember(tgid, thread.task, new);
        }
    }
}

/// What is worked on by who received this after what it had `before`. Who received it while that of another
/// connection was going on serves several, and goes on to do so.
#[inline(always)]
fn only(before: u64, before_on: u64, on: u64, now: u64) -> u64 {
    if before == SEVERAL || (before_on != on && activities::is_going_on(before)) {
        return SEVERAL;
    }
    now
}

/// The thread at work received bytes of a response.
#[inline(always)]
pub(crate) fn replied(id: u64) {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    if is_followed(tgid)
        && let Some(thread) = threads::thread(tgid, tid)
        && let Some(task) = known(tgid, thread.task)
    {
        forget_asked_again(task);
    }
}

/// The thread at work opens a connection. Answers whether its process is followed: then what is sent there is
/// for who sends it, since a pool may give what it opened for one to another.
#[inline(always)]
pub(crate) fn connects(id: u64) -> bool {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    if !is_followed(tgid) {
        return false;
    }
    if let Some(thread) = threads::thread(tgid, tid)
        && let Some(task) = known(tgid, thread.task)
    {
        task.cookie = SEVERAL;
    }
    true
}

/// Whether the task is that of the connection: it has sent on no other and opened none, and nobody else sends
/// on this.
#[inline(always)]
fn is_of_connection(tgid: u32, number: u64, cookie: u64) -> bool {
    let is_alone = match TOKIO_SENDERS.get_ptr_mut(cookie) {
        // SAFETY: map memory; one sends at a time.
        Some(sender) => unsafe {
            let before = sender.read();
            sender.write(number);
            before == number
        },
        None => {
            let _believed_again_then = TOKIO_SENDERS.insert(cookie, number, 0);
            true
        }
    };
    match known(tgid, number) {
        Some(task) => {
            let is_here = task.cookie == 0 || task.cookie == cookie;
            task.cookie = if is_here && is_alone { cookie } else { SEVERAL };
            is_here && is_alone
        }
        None => false,
    }
}

/// For what a request is sent on the connection, if the thread that does is one that runs tasks; `false` if it
/// is not.
#[inline(never)]
pub(crate) fn work_on(connection: &Connection, id: u64, found: &mut Work) -> bool {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    if !is_followed(tgid) {
        return false;
    }
    if connection.tgid != 0 && connection.tgid != tgid {
        return false;
    }
    let Some(thread) = threads::thread(tgid, tid) else { return false };
    *found = Work::NONE;
    let tokio = Correlation::TokioTask as u64;
    if thread.task == 0 {
        if activities::is_going_on(thread.received) {
            *found = Work { activity: thread.received, rule: tokio };
        }
        return true;
    }
    let has_body = connection.responses.http1.content() != 0;
    let wake = asks(tgid, thread.task, thread.woken, has_body);
    if !is_of_connection(tgid, thread.task, connection.cookie)
        || wake.activity == 0
        || has_received(tgid, thread.task)
    {
        *found = work_of(tgid, thread.task, true);
        return found.activity != 0 || !has_streams(tgid);
    }
    // What it is asked for is one request, and then another after the answer.
    thread.woken = TokioWake::default();
    if let Some(task) = known(tgid, thread.task) {
        births::is_for_others(task);
        task.woken = TokioWake::default();
        task.asked_for = wake.activity;
        forget_asked_again(task);
    }
    if wake.activity == UNKNOWN_WAKER {
        return !has_streams(tgid);
    }
    if wake.by == 0 {
        if activities::is_going_on(wake.activity) {
            *found = Work { activity: wake.activity, rule: tokio };
        }
    } else {
        let work = work_of(tgid, wake.by, true);
        // Who woke it may have gone on to another since.
        if work.activity == wake.activity {
            *found = work;
        }
    }
    found.activity != 0 || !has_streams(tgid)
}

/// Who asks the task at work for what it sends, if anybody does. `before` has woken it before it began to run,
/// and what was answered last on the connection had a body or not.
#[inline(always)]
fn asks(tgid: u32, number: u64, before: TokioWake, had_body: bool) -> TokioWake {
    let Some(task) = known(tgid, number) else { return before };
    let wake = last(before, task.woken, task.asked_for);
    if had_body && wake.activity == task.asked_for && task.asked_again < 2 {
        // It lets go of the body, which wakes once, and another may ask in this moment.
        return TokioWake { activity: UNKNOWN_WAKER, by: 0 };
    }
    wake
}

/// Whether a task received a request that is going on.
#[inline(always)]
fn has_received(tgid: u32, number: u64) -> bool {
    known(tgid, number).is_some_and(|task| {
        task.rule == Correlation::TokioTask as u32 && activities::is_going_on(task.activity)
    })
}
