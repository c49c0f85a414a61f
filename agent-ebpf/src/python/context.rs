//! For which request a context is at work.
//!
//! - A context in which a request is received is at work for that, until it receives the next.
//! - One that is copied is at work for what the other was at work for then, for good: what a request
//!   has set going is never another's, however long it goes on.
//! - A task that serves a connection, and whose bytes a callback receives, has a common ancestor with
//!   it that was made for that connection: after it was established, and no other is received below
//!   that. What is received on the connection is for all of those that descend from it, unless they
//!   were made for a request themselves.
//! - A greenlet counts as a context in which it receives. None is seen to be made by another.
//! - Where no such ancestor is known, since the loop receives in no context of its own or all of that is
//!   older than what is known, the task is known by its answers: those who answer on the connection descend
//!   from it, it is younger than that or as old, and nothing below it answers on another.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::Connection;
use tracewire_common::outcome::Correlation;
use tracewire_common::python::{
    ANCESTORS, MADE_FOR, PY_COST_OF_COPY, PY_PROCESS_THREADS_HAVE_CONTEXTS, PY_THREAD_ENTERS,
    PY_THREAD_HAS_RECEIVED, PY_THREAD_IS_LOOP, PY_THREAD_TAKES_JOBS, PyContext, PyObject,
    PyProcess, PyScope, RECEIVED, RECEIVED_BEFORE, SEVERAL,
};

use super::thread_state::{self, BASE, UNKNOWN};
use super::threads::{thread, thread_or_new, work_at_base};
use super::{process, process_at_probe};
use crate::activities;
use crate::task::work::Work;

/// When a connection was established, if no context is younger for it.
const NOT_SEEN: u64 = u64::MAX;

/// Contexts, by address. That is used again, and what is here is set anew as one is made.
#[btf_map]
static PY_CONTEXTS: LruHashMap<PyObject, PyContext, 16384> = LruHashMap::new();

/// Contexts that were made for connections, by the time at which they were made.
#[btf_map]
static PY_SCOPES: LruHashMap<PyObject, PyScope, 16384> = LruHashMap::new();

/// The scopes that are known by their answers, by the cookies of the connections on which they answer.
#[btf_map]
static PY_ANSWERERS: LruHashMap<u64, PyObject, 4096> = LruHashMap::new();

/// The address of the context that the thread at work is in, or [`UNKNOWN`] or [`BASE`]. From CPython
/// 3.14 on threads start in a context of their own, the birth of which is not seen.
#[inline(always)]
fn current(process: &PyProcess, tgid: u32, tid: u32) -> u64 {
    let current = thread_state::current(process);
    if current == UNKNOWN || current == BASE {
        return current;
    }
    match thread(tgid, tid) {
        Some(thread) if thread.flags & PY_THREAD_TAKES_JOBS != 0 => {
            let key = PyObject { tgid: tgid as u64, address: current };
            // SAFETY: map memory, one word, read once.
            match unsafe { PY_CONTEXTS.get(key) } {
                Some(context) if PyContext::birth_was_seen(context.born_ns) => current,
                _ => BASE,
            }
        }
        _ => current,
    }
}

/// Of a context whose birth was not seen: when it was first come across.
#[inline(always)]
fn late() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() | 1 }
}

/// Beside how it is known: the context is the stack of a greenlet. That may end before the last of
/// what it answered has left, and the next one's be where it was: it is for no request any more when it has
/// begun to answer.
const OF_GREENLET: u64 = 1 << 32;

/// A request is received in the context.
#[inline(never)]
fn receives(key: &PyObject, activity: u64, cookie: u64, established_ns: u64, known_by: u64) {
    let of_greenlet = known_by & OF_GREENLET != 0;
    let known_by = known_by & !OF_GREENLET;
    match PY_CONTEXTS.get_ptr_mut(*key) {
        None => {
            let new = PyContext { born_ns: late(), activity, known_by, ..PyContext::default() };
            let _nothing_is_known_then = PY_CONTEXTS.insert(*key, new, 0);
        }
        // SAFETY: map memory; a process of Python runs one thing at a time, but for a thread that
        // is in a system call, and only what is for itself is written here.
        Some(context) => unsafe {
            let before = (*context).activity;
            let goes_on = if of_greenlet {
                activities::is_open(before)
            } else {
                activities::is_going_on(before)
            };
            let is_another = before != activity && goes_on;
            if known_by == RECEIVED
                && (*context).known_by == RECEIVED
                && (is_another || before == SEVERAL)
            {
                // It serves several connections, in an order that is its own.
                (*context).activity = SEVERAL;
                return;
            }
            (*context).activity = activity;
            (*context).known_by = known_by;
            if established_ns != 0 && cookie != 0 {
                tell_scope(key.tgid, (*context).born_ns, activity, cookie, established_ns);
                let mut place = 0;
                while place < ANCESTORS {
                    let born_ns = (*context).ancestors[place];
                    tell_scope(key.tgid, born_ns, activity, cookie, established_ns);
                    place += 1;
                }
            }
        },
    }
}

/// A request was received below a context that was made then.
#[inline(always)]
fn tell_scope(tgid: u64, born_ns: u64, activity: u64, cookie: u64, established_ns: u64) {
    if born_ns == 0 {
        return;
    }
    let key = PyObject { tgid, address: born_ns };
    match PY_SCOPES.get_ptr_mut(key) {
        // SAFETY: map memory, as above.
        Some(scope) => unsafe {
            if (*scope).cookie != cookie {
                (*scope).cookie = SEVERAL;
                (*scope).activity = SEVERAL;
            } else if born_ns > established_ns {
                (*scope).activity = activity;
            }
        },
        // One that is older than the connection is that of a server, and serves others as well.
        None if born_ns > established_ns && PyContext::birth_was_seen(born_ns) => {
            let _nothing_is_known_then = PY_SCOPES.insert(key, PyScope { cookie, activity }, 0);
        }
        None => {}
    }
}

/// A connection that is older than the first context of its process waited until somebody was there
/// to accept it: all contexts are younger, also those that serve others. [`NOT_SEEN`] then.
#[inline(always)]
fn seen_to_be_established(process: &PyProcess, established_ns: u64) -> u64 {
    let is_seen = process.first_ns != 0 && established_ns > process.first_ns;
    if established_ns == 0 || is_seen { established_ns } else { NOT_SEEN }
}

/// For what the context is, or was last, at work; 0 for nothing, `None` if nothing is known of it.
#[inline(never)]
fn activity_of(key: &PyObject) -> Option<u64> {
    // SAFETY: map memory, read once each.
    let context = unsafe { PY_CONTEXTS.get(*key) }?;
    let activity = context.activity;
    if context.known_by == MADE_FOR || activities::is_going_on(activity) {
        return Some(activity);
    }
    let mut place = 0;
    let mut born_ns = context.born_ns;
    while place < ANCESTORS {
        if born_ns != 0 {
            let scope = PyObject { tgid: key.tgid, address: born_ns };
            // SAFETY: as above.
            if let Some(scope) = unsafe { PY_SCOPES.get(scope) } {
                // What is above one that serves several serves no fewer.
                return Some(scope.activity);
            }
        }
        born_ns = context.ancestors[place];
        place += 1;
    }
    Some(activity)
}

/// For what the thread at work is there, if that can be told by its process being one of Python; it
/// may be over. `false` if not, and then only how threads behave can tell.
#[inline(never)]
pub(crate) fn work_here(id: u64, found: &mut Work) -> bool {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    let Some(process) = process(tgid) else { return false };
    let current = current(process, tgid, tid);
    if current == UNKNOWN {
        return false;
    }
    if current == BASE {
        let Some(thread) = thread(tgid, tid) else { return false };
        let has_received = thread.flags & PY_THREAD_HAS_RECEIVED != 0;
        let rule = if has_received { Correlation::Receive } else { Correlation::Queue };
        *found = Work { activity: thread.job, rule: rule as u64 };
        return thread.flags & PY_THREAD_TAKES_JOBS != 0;
    }
    match activity_of(&PyObject { tgid: tgid as u64, address: current }) {
        Some(activity) => {
            let is_over = process.off_stack != 0 && !activities::is_open(activity);
            let activity = if is_over { 0 } else { activity };
            *found = Work { activity, rule: Correlation::PythonContext as u64 };
            true
        }
        // It may be the one that the thread started in.
        None if process.flags & PY_PROCESS_THREADS_HAVE_CONTEXTS != 0 && tid != tgid => false,
        None => {
            // It is older than what is known, and so is what it is at work for; or it was made empty.
            *found = Work::NONE;
            true
        }
    }
}

/// For what a request is sent, as [`work_here`]; nothing, if that is over.
#[inline(always)]
pub(crate) fn work_on(connection: &Connection, task: u64, found: &mut Work) -> bool {
    // Of a packet that leaves late, the task at work may be any.
    if connection.tgid != (task >> 32) as u32 || !work_here(task, found) {
        return false;
    }
    if !activities::is_going_on(found.activity) {
        *found = Work::NONE;
    }
    true
}

/// The thread at work received bytes of a request on a connection of its own.
#[inline(always)]
pub(crate) fn received(connection: &Connection, id: u64, activity: u64) {
    received_on(connection.cookie, connection.established_ns(), id, activity);
}

/// The thread at work received bytes of a request that is one stream of a connection: what else
/// serves that is not for this request. It is [`SEVERAL`] if there are.
#[inline(always)]
pub(crate) fn received_stream(id: u64, activity: u64) {
    received_on(0, NOT_SEEN, id, activity);
}

#[inline(never)]
fn received_on(cookie: u64, established_ns: u64, id: u64, activity: u64) {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    let Some(process) = process(tgid) else { return };
    let current = current(process, tgid, tid);
    if current == UNKNOWN {
        return;
    }
    if current == BASE {
        let Some(thread) = thread_or_new(tgid, tid) else { return };
        let is_second = thread.flags & PY_THREAD_HAS_RECEIVED != 0
            && thread.job != activity
            && activities::is_going_on(thread.job);
        if is_second {
            // It serves several at once, and what it takes out of queues is not its job.
            thread.flags = (thread.flags | PY_THREAD_IS_LOOP) & !PY_THREAD_TAKES_JOBS;
        }
        thread.received = activity;
        thread.cookie = cookie;
        thread.established_ns = seen_to_be_established(process, established_ns);
        // Of one that takes jobs, this is the newer one.
        thread.job = activity;
        thread.flags |= PY_THREAD_HAS_RECEIVED;
        return;
    }
    let key = PyObject { tgid: tgid as u64, address: current };
    let established_ns = seen_to_be_established(process, established_ns);
    let known_by = match thread(tgid, tid) {
        Some(thread) if thread.flags & PY_THREAD_ENTERS != 0 => RECEIVED_BEFORE,
        // One stream of several.
        _ if cookie == 0 => RECEIVED_BEFORE,
        _ => RECEIVED,
    };
    let of_greenlet = if process.off_stack != 0 { OF_GREENLET } else { 0 };
    receives(&key, activity, cookie, established_ns, known_by | of_greenlet);
    tell_answerer(cookie, activity);
}

/// Who answers on the connection gets the next request, if it answers on no other.
#[inline(always)]
fn tell_answerer(cookie: u64, activity: u64) {
    // SAFETY: map memory, read once.
    let Some(scope) = (unsafe { PY_ANSWERERS.get(cookie) }) else { return };
    if let Some(scope) = PY_SCOPES.get_ptr_mut(*scope) {
        // SAFETY: map memory, as in `receives`.
        unsafe {
            if (*scope).cookie == cookie {
                (*scope).activity = activity;
            }
        }
    }
}

/// The thread at work answers a request on the connection: who serves that is what it descends from,
/// and that was made for the connection, or is as old.
#[inline(never)]
pub(crate) fn answers(connection: &Connection, id: u64) {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    let Some(process) = process(tgid) else { return };
    if process.off_stack != 0 {
        // A greenlet receives itself what it answers, and the next may have the same address.
        return;
    }
    let current = current(process, tgid, tid);
    if current == UNKNOWN || current == BASE {
        return;
    }
    let key = PyObject { tgid: tgid as u64, address: current };
    come_across(&key);
    let established_ns = seen_to_be_established(process, connection.established_ns());
    let born_ns = oldest_of(&key, established_ns, connection.cookie);
    if born_ns == 0 {
        return;
    }
    let cookie = connection.cookie;
    let scope = PyObject { tgid: tgid as u64, address: born_ns };
    if PY_SCOPES.get_ptr(scope).is_some() {
        return;
    }
    let _is_not_told_then = PY_SCOPES.insert(scope, PyScope { cookie, activity: 0 }, 0);
    let _is_not_told_then = PY_ANSWERERS.insert(cookie, scope, 0);
}

/// Of a context whose birth was not seen, it is known from now on which it is.
#[inline(always)]
fn come_across(key: &PyObject) {
    if PY_CONTEXTS.get_ptr(*key).is_none() {
        let new = PyContext { born_ns: late(), ..PyContext::default() };
        let _nothing_is_known_then = PY_CONTEXTS.insert(*key, new, 0);
    }
}

/// When the oldest of those was made of which the context is a copy, and that is younger than the
/// connection; of one that is older than what is known, that is as old. 0 if there is none.
/// Those that serve others as well are told so.
#[inline(never)]
fn oldest_of(key: &PyObject, established_ns: u64, cookie: u64) -> u64 {
    // SAFETY: map memory, read once each.
    let Some(context) = (unsafe { PY_CONTEXTS.get(*key) }) else { return 0 };
    let mut oldest = 0;
    let mut born_ns = context.born_ns;
    let mut place = 0;
    while place < ANCESTORS {
        let is_younger = PyContext::birth_was_seen(born_ns) && born_ns > established_ns;
        let is_late = born_ns != 0 && !PyContext::birth_was_seen(born_ns);
        let is_of_the_connection = if established_ns != 0 { is_younger } else { is_late };
        if is_of_the_connection {
            oldest = born_ns;
        }
        let scope = PyObject { tgid: key.tgid, address: born_ns };
        if let Some(scope) = PY_SCOPES.get_ptr_mut(scope) {
            // SAFETY: map memory, as in `receives`.
            unsafe {
                if (*scope).cookie != cookie {
                    (*scope).cookie = SEVERAL;
                    (*scope).activity = SEVERAL;
                }
            }
        }
        born_ns = context.ancestors[place];
        place += 1;
    }
    oldest
}

/// A context was made that is no copy of the one at work. Its address may have been another's.
#[inline(always)]
pub(crate) fn made(id: u64, address: u64) {
    let _was_never_there = PY_CONTEXTS.remove(PyObject { tgid: id >> 32, address });
}

/// A context was copied from the one at work.
#[inline(always)]
pub(crate) fn born(id: u64, child: u64) {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    let Some(process) = process_at_probe(tgid, PY_COST_OF_COPY) else { return };
    let key = PyObject { tgid: tgid as u64, address: child };
    let current = current(process, tgid, tid);
    if current == UNKNOWN {
        let _nothing_was_known = PY_CONTEXTS.remove(key);
        return;
    }
    let mut new = PyContext {
        // SAFETY: no arguments.
        born_ns: unsafe { bpf_ktime_get_ns() & !1 },
        ..PyContext::default()
    };
    if current == BASE {
        new.activity = work_at_base(id, tgid, tid);
    } else {
        let parent = PyObject { tgid: tgid as u64, address: current };
        come_across(&parent);
        new.activity = activity_of(&parent).unwrap_or(0);
        // SAFETY: map memory, as in `receives`.
        if let Some(parent) = unsafe { PY_CONTEXTS.get(parent) } {
            new.ancestors[0] = parent.born_ns;
            let mut place = 1;
            while place < ANCESTORS {
                new.ancestors[place] = parent.ancestors[place - 1];
                place += 1;
            }
        }
    }
    if process.first_ns == 0 {
        process.first_ns = new.born_ns;
    }
    new.known_by = if new.activity != 0 { MADE_FOR } else { RECEIVED };
    if PY_CONTEXTS.insert(key, new, 0).is_err() {
        // Nothing rather than what had the address before.
        let _was_never_there = PY_CONTEXTS.remove(key);
    }
}

/// The thread at work enters a context. uvloop receives before it does so.
#[inline(always)]
pub(crate) fn enters(id: u64, address: u64) {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    if process_at_probe(tgid, 1).is_none() {
        return;
    }
    let key = PyObject { tgid: tgid as u64, address };
    if let Some(context) = PY_CONTEXTS.get_ptr_mut(key) {
        // SAFETY: map memory, as in `receives`.
        unsafe {
            if (*context).known_by == RECEIVED_BEFORE {
                (*context).activity = 0;
            }
        }
    }
    let Some(thread) = thread_or_new(tgid, tid) else { return };
    let (activity, cookie, established_ns) =
        (thread.received, thread.cookie, thread.established_ns);
    thread.flags |= PY_THREAD_ENTERS;
    if activity == 0 {
        return;
    }
    thread.flags = (thread.flags | PY_THREAD_IS_LOOP) & !PY_THREAD_TAKES_JOBS;
    thread.received = 0;
    receives(&key, activity, cookie, established_ns, RECEIVED_BEFORE);
    tell_answerer(cookie, activity);
}
