//! What a task works on that was seen with two requests at once.
//!
//! An event loop may receive several requests and then take them up in any order, or be woken by a
//! timer, and neither can be seen. So what it sends is its only candidate's, or nobody's.
//! Candidates are the requests that it received, or received a response for, since it slept and
//! before it sent something; and all those that wait for nothing that can be seen. What is awaited for a
//! request that is not known counts until some of it has come: who passes it on may be done with that request.
//!
//! A loop can earn more belief: *prompt* is one that does something about each thing which it
//! receives before it receives the next. What such a loop sends is for what it received last,
//! whatever else is open. One request that it neither answers nor sends anything for at once
//! shows that it goes on with requests at other times as well, and the belief is gone.
//!
//! What a timer has a loop send is not for what that received last. In Node it is known when timers
//! run (`node`); elsewhere a timer that is set for a request takes the belief away, as above.
//!
//! Jobs that no request asks for show when a loop sends while each open request waits for a
//! response. Where a process sends by itself more than seldom (`jobs`), only the first request after
//! each thing that was received is for that.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel};
use tracewire_common::connection::{
    ACTIVITY_SENT_UNKNOWN, PENDING, TASK_ACTED, TASK_AMBIGUOUS, TASK_MULTIPLEXES,
    TASK_SENT_UNKNOWN, TASK_SLEPT, TaskState,
};
use tracewire_common::outcome::Correlation;

use crate::activities;
use crate::state::{config, rule_is_on};
use crate::task::jobs;
use crate::task::work::Work;

/// Things in a row of which a loop has to do something at once, before it is believed to be
/// prompt; twice as many after each time that it lost the belief. Eight times as many take one
/// doubling back, and are all that is remembered.
const PROBATION: u32 = 128;
const PROVEN: u32 = 8 * PROBATION;
/// The most doublings.
const MOST_LOSSES: u8 = 12;
/// Things in a row without which not even an only candidate is believed: a loop that receives
/// a batch of things and then takes them up makes every count of what waits doubtful.
const TIDY: u32 = 16;

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

/// The task was seen with a second request, beside the one that it works on.
#[inline(always)]
pub(crate) fn begin(state: &mut TaskState) {
    state.flags |= TASK_MULTIPLEXES;
    state.prompt = TIDY;
    state.sleeps = sleeps();
    if !activities::is_waiting(state.activity) {
        // Which of the two it takes up first is not known.
        state.pending[0] = state.activity;
    }
}

/// The loop received something of a request, or of a response to a request of the activity,
/// which is 0 if that is not known.
#[inline(always)]
pub(crate) fn take_up(state: &mut TaskState, activity: u64) {
    if state.last != activity {
        judge(state);
    }
    forget_if_slept(state);
    state.last = activity;
    state.flags &= !(TASK_SENT_UNKNOWN | TASK_ACTED | TASK_SLEPT);
    if activity == 0 {
        return;
    }
    let mut place = 0;
    while place < PENDING {
        let other = state.pending[place];
        if other == activity {
            return;
        }
        if other == 0 || !activities::is_open(other) {
            state.pending[place] = activity;
            return;
        }
        place += 1;
    }
    state.flags |= TASK_AMBIGUOUS;
}

/// Whether the loop did at once what it had to do about the last thing that it received.
#[inline(always)]
fn judge(state: &mut TaskState) {
    let last = state.last;
    if last == 0 {
        return;
    }
    let acted = state.flags & TASK_ACTED != 0;
    if acted || !activities::is_open(last) || activities::is_waiting(last) {
        if state.prompt < PROVEN << (state.losses & 15) {
            state.prompt += 1;
        } else {
            state.losses = state.losses.saturating_sub(1);
        }
    } else if !activities::has_sent_unknown(last) {
        distrust(state);
    }
}

#[inline(always)]
fn is_prompt(state: &TaskState) -> bool {
    state.prompt >= PROBATION << (state.losses & 15)
}

#[inline(always)]
fn distrust(state: &mut TaskState) {
    if is_prompt(state) && state.losses < MOST_LOSSES {
        state.losses += 1;
    }
    state.prompt = 0;
}

/// What came before the task slept does not say what it does now.
#[inline(never)]
fn forget_if_slept(state: &mut TaskState) {
    let sleeps = sleeps();
    if state.sleeps != sleeps {
        state.sleeps = sleeps;
        state.flags &= !(TASK_AMBIGUOUS | TASK_SENT_UNKNOWN);
        state.flags |= TASK_SLEPT;
        state.activity = 0;
        state.pending = [0; PENDING];
    }
}

/// What the loop sends to that port for. In small functions: where a send is rewritten, little
/// of the stack is left.
#[inline(always)]
pub(crate) fn work_of_turn(state: &mut TaskState, tgid: u32, port: u16) -> Work {
    forget_if_slept(state);
    let destination = jobs::destination(tgid, port, false);
    let has_jobs = jobs::are_sent(destination);
    let mut rule = Correlation::Turn as u8;
    let mut activity = if has_jobs { 0 } else { last_of_prompt(state) };
    if activity == 0 {
        rule = state.correlation;
        let timers_have = jobs::are_known(jobs::destination(tgid, port, true));
        activity = only_candidate(state, has_jobs || timers_have);
    }
    if activity == 0 {
        doubt(state, destination);
        return Work::AMBIGUOUS;
    }
    state.flags |= TASK_ACTED;
    state.activity = activity;
    state.pending = [0; PENDING];
    Work { activity, rule: rule as u64 }
}

/// What a timer has the task send to that port for. In a loop that is not known. A task that was never seen
/// with two requests at once sends for the one that it has, if that waits for nothing else and timers of the
/// process send nothing of their own there.
#[inline(never)]
pub(crate) fn work_of_timer(state: &mut TaskState, tgid: u32, port: u16) -> Work {
    let destination = jobs::destination(tgid, port, true);
    let has_jobs = jobs::are_sent(destination);
    if no_request_asks(state) {
        jobs::note(destination);
    } else if state.flags & TASK_MULTIPLEXES != 0 {
        excuse_last(state);
    } else if !has_jobs
        && activities::is_open(state.activity)
        && !activities::is_waiting(state.activity)
    {
        return Work { activity: state.activity, rule: state.correlation as u64 };
    }
    Work::AMBIGUOUS
}

/// If only one request is open, it waited for the timer, if any did: the loop need not have done
/// anything for it at once. That it has timers at all makes it less believed.
#[inline(never)]
fn excuse_last(state: &mut TaskState) {
    forget_if_slept(state);
    if state.open == 1 && activities::is_open(state.last) {
        activities::mark(state.last, ACTIVITY_SENT_UNKNOWN);
        if state.flags & TASK_SLEPT != 0 {
            state.prompt /= 2;
        }
    }
}

/// What another task of the process sends to that port for, if the one that receives, `state`, has
/// only one request that it can be.
#[inline(never)]
pub(crate) fn only_work_of(state: &TaskState, tgid: u32, port: u16) -> Work {
    let destination = jobs::destination(tgid, port, false);
    let has_jobs = jobs::are_sent(destination);
    let open = state.open;
    if open == 0 {
        jobs::note(destination);
        return Work { activity: 0, rule: Correlation::None as u64 };
    }
    let multiplexes = state.flags & TASK_MULTIPLEXES != 0;
    let activity = if multiplexes { state.last } else { state.activity };
    if open > 1 || has_jobs || !activities::is_open(activity) {
        return Work::AMBIGUOUS;
    }
    Work { activity, rule: Correlation::Receive as u64 }
}

/// What a prompt loop received last; 0 if it is none, or slept since, or that is over.
#[inline(never)]
fn last_of_prompt(state: &TaskState) -> u64 {
    let last = state.last;
    let goes_on = state.flags & TASK_SLEPT == 0 && is_prompt(state);
    if goes_on && rule_is_on(Correlation::Turn) && activities::is_open(last) { last } else { 0 }
}

/// The loop sends something of which it is not known for what.
#[inline(never)]
fn doubt(state: &mut TaskState, destination: u64) {
    let has_slept = state.flags & TASK_SLEPT != 0;
    state.flags |= TASK_ACTED;
    if activities::is_open(state.last) {
        activities::mark(state.last, ACTIVITY_SENT_UNKNOWN);
        if has_slept {
            // For a timer, or only to collect garbage: that happens to prompt loops, seldom.
            state.prompt /= 2;
        }
    } else if state.last != 0 || has_slept {
        if no_request_asks(state) {
            jobs::note(destination);
        } else {
            distrust(state);
        }
    }
}

/// Whether each open request waits for a response.
#[inline(always)]
fn no_request_asks(state: &TaskState) -> bool {
    state.open.wrapping_sub(state.waiting) as i32 <= 0
}

/// The one thing that the loop can be at; 0 if there are several, or none.
#[inline(never)]
fn only_candidate(state: &TaskState, has_jobs: bool) -> u64 {
    let mut found = 0;
    let mut several = state.flags & TASK_AMBIGUOUS != 0;
    let mut place = 0;
    while place < PENDING {
        let one = state.pending[place];
        if one != 0 && activities::is_open(one) {
            several |= found != 0;
            found = one;
        }
        place += 1;
    }
    // What was sent since the last event, of which it is not known for what, may have been for
    // the candidate, and what is sent now for the other.
    if several || state.prompt < TIDY || state.flags & TASK_SENT_UNKNOWN != 0 {
        return 0;
    }
    if found == 0 && !has_jobs {
        // Nothing new since it took up the last.
        found = state.activity;
    }
    if found == 0 || !activities::is_open(found) {
        return 0;
    }
    // Each other open request waits for a response that will be seen, or else it may be the
    // one: for a timer, or for what is no HTTP.
    let idle = if activities::is_waiting(found) { 0 } else { 1 };
    if state.open.wrapping_sub(state.waiting).wrapping_sub(idle) as i32 > 0 {
        return 0;
    }
    found
}
