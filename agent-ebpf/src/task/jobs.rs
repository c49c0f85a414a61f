//! Jobs of a process's own: what it sends while no request asks for it, as to report or to poll.
//! They tell themselves only when nothing else is going on; at other times they would be taken
//! for what a request causes.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;

/// What a process sends to a port, since it sent something there that no request asked for.
#[repr(C)]
struct Jobs {
    sent: u32,
    unasked: u32,
}

/// By process and port.
#[btf_map]
static UNASKED: LruHashMap<u64, Jobs, 4096> = LruHashMap::new();

/// One job in so many requests to a destination makes what is sent there doubtful.
const JOBS_IN: u32 = 512;
/// Requests after which older ones count half.
const REMEMBERED: u32 = 1 << 20;

/// The key of a process's destination. What timers have a process send there is counted by itself.
#[inline(always)]
pub(crate) fn destination(tgid: u32, port: u16, by_timer: bool) -> u64 {
    (by_timer as u64) << 63 | (tgid as u64) << 16 | port as u64
}

/// Whether the process sends to the destination by itself more than seldom. What it sends now
/// counts.
#[inline(never)]
pub(crate) fn are_sent(destination: u64) -> bool {
    let Some(jobs) = UNASKED.get_ptr_mut(destination) else { return false };
    // SAFETY: map memory. Two tasks at once may count one request for two.
    let jobs = unsafe { &mut *jobs };
    jobs.sent = jobs.sent.saturating_add(1);
    if jobs.sent >= REMEMBERED {
        jobs.sent /= 2;
        jobs.unasked /= 2;
    }
    jobs.unasked.saturating_mul(JOBS_IN) > jobs.sent
}

/// As [`are_sent`], but nothing is sent now.
#[inline(never)]
pub(crate) fn are_known(destination: u64) -> bool {
    // SAFETY: map memory.
    let jobs = UNASKED.get_ptr_mut(destination).map(|jobs| unsafe { &*jobs });
    jobs.is_some_and(|jobs| jobs.unasked.saturating_mul(JOBS_IN) > jobs.sent)
}

/// The process sent something to the destination that no request asked for.
#[inline(never)]
pub(crate) fn note(destination: u64) {
    if let Some(jobs) = UNASKED.get_ptr_mut(destination) {
        // SAFETY: map memory, as above.
        unsafe { (*jobs).unasked = (*jobs).unasked.saturating_add(1) };
    } else {
        let _full_is_fine = UNASKED.insert(destination, Jobs { sent: 1, unasked: 1 }, 0);
    }
}
