//! For which request a task was made.
//!
//! A task that serves others, as that of a connection, is made within a request as well, and
//! outlives it. So of what a task does only the first call is for what it was made, until it is known that those
//! of its type come to an end. Where one does not, none of them is believed.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use tracewire_common::outcome::Correlation;
use tracewire_common::tokio::{
    TOKIO_TASKS_END, TOKIO_TASKS_STAY, TokioBirth, TokioObject, TokioTask,
};

use super::task;
use crate::activities;
use crate::state::rule_is_on;

/// Calls of a task for a request that is answered, by which it shows that it does not work
/// for that. One that goes on after the answer makes a few; one that serves others makes calls as long as it
/// lives.
const LATE_CALLS: u16 = 4;

/// Tasks that were made, by the address of the header. That is used again, and what is here is set anew by
/// each birth.
#[btf_map]
static TOKIO_BIRTHS: LruHashMap<TokioObject, TokioBirth, 16384> = LruHashMap::new();

/// What is known of types of tasks: `TOKIO_TASKS_` bits.
#[btf_map]
static TOKIO_KINDS: LruHashMap<TokioObject, u32, 4096> = LruHashMap::new();

/// A task was made by the one at work.
#[inline(always)]
pub(super) fn made(id: u64, header: u64) {
    if !rule_is_on(Correlation::Birth) {
        return;
    }
    let tgid = (id >> 32) as u32;
    let (kind, number) = (task::kind(header), task::number(header, 0));
    if number == 0 {
        return;
    }
    let (activity, _) = task::at_work(id);
    let key = TokioObject { tgid: tgid as u64, address: header };
    let birth = TokioBirth { kind, activity };
    match TOKIO_BIRTHS.get_ptr_mut(key) {
        // SAFETY: map memory; nobody else has the address.
        Some(place) => unsafe {
            let before = place.read();
            if activities::is_going_on(before.activity) {
                // It has ended with that, and did not outlive it.
                learn(tgid, before.kind, TOKIO_TASKS_END);
            }
            place.write(birth);
        },
        None if activity != 0 => {
            let _learned_later = TOKIO_BIRTHS.insert(key, birth, 0);
        }
        None => {}
    }
    if activity != 0 {
        let rule = Correlation::Birth as u32;
        task::remember(tgid, number, TokioTask { activity, kind, rule, ..TokioTask::default() });
    }
}

/// One more thing is known of a type of tasks.
#[inline(always)]
fn learn(tgid: u32, kind: u64, fact: u32) {
    let key = TokioObject { tgid: tgid as u64, address: kind };
    match TOKIO_KINDS.get_ptr_mut(key) {
        // SAFETY: map memory; a fact that is lost is learned again.
        Some(facts) => unsafe { *facts |= fact },
        None => {
            let _learned_again = TOKIO_KINDS.insert(key, fact, 0);
        }
    }
}

/// Whether a task works on what it was made for, which may be over. `is_call` says that it makes a call.
#[inline(always)]
pub(super) fn is_believed(
    tgid: u32,
    task: &mut TokioTask,
    is_going_on: bool,
    is_call: bool,
) -> bool {
    // SAFETY: one word, read once.
    let facts =
        match unsafe { TOKIO_KINDS.get(TokioObject { tgid: tgid as u64, address: task.kind }) } {
            Some(facts) => *facts,
            None => 0,
        };
    let is_first = task.calls == 0;
    if is_call {
        task.calls = task.calls.saturating_add(1);
        if !is_going_on {
            task.late_calls = task.late_calls.saturating_add(1);
            if task.late_calls == LATE_CALLS {
                learn(tgid, task.kind, TOKIO_TASKS_STAY);
            }
        }
    }
    facts & TOKIO_TASKS_STAY == 0 && (is_first || facts & TOKIO_TASKS_END != 0)
}

/// The task sends what others ask it for, and nothing for what it was made for.
#[inline(always)]
pub(super) fn is_for_others(task: &mut TokioTask) {
    if task.rule == Correlation::Birth as u32 {
        task.activity = 0;
        task.rule = Correlation::None as u32;
    }
}
