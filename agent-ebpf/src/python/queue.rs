//! Jobs that threads hand to others through a `queue.SimpleQueue`, as `ThreadPoolExecutor` does.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use tracewire_common::python::PyObject;

use super::{context, process_of_python};
use crate::golang::goroutine::read_user;
use crate::task::work::{self, Work};

/// For what jobs were put in queues that nobody has taken yet, by the address of the object.
#[btf_map]
static PY_JOBS: LruHashMap<PyObject, u64, 8192> = LruHashMap::new();

/// `put` was entered; its first argument is the first of an array, of which there may be none: who
/// says its name says all by name.
#[inline(always)]
pub(crate) fn put(id: u64, arguments: u64, count: u64) {
    let tgid = (id >> 32) as u32;
    // The highest bit says that the place before the first may be used (PY_VECTORCALL_ARGUMENTS_OFFSET).
    if process_of_python(tgid).is_none() || count & !(1 << 63) == 0 {
        return;
    }
    let job = PyObject { tgid: tgid as u64, address: read_user(arguments) };
    if job.address == 0 {
        return;
    }
    let mut found = Work::NONE;
    if !context::work_here(id, &mut found) {
        found = work::of(id, 0);
    }
    if found.activity != 0 {
        let _no_parent_then = PY_JOBS.insert(job, found.activity, 0);
    } else {
        let _was_never_there = PY_JOBS.remove(job);
    }
}

/// `get` has returned the object.
#[inline(always)]
pub(crate) fn taken(id: u64, object: u64) {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    if process_of_python(tgid).is_none() {
        return;
    }
    let job = PyObject { tgid: tgid as u64, address: object };
    // SAFETY: one word, read once.
    let activity = match unsafe { PY_JOBS.get(job) } {
        Some(activity) => *activity,
        None => 0,
    };
    if activity != 0 {
        let _was_there = PY_JOBS.remove(job);
    }
    context::takes_job(tgid, tid, activity);
}
