//! Jobs that threads hand to others through a `queue.SimpleQueue`, as `ThreadPoolExecutor` does.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use tracewire_common::python::{PY_COST_OF_COPY, PyObject};

use super::{OBJECT_TYPE, context, process_at_probe, threads};
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
    if process_at_probe(tgid, PY_COST_OF_COPY).is_none() || count & !(1 << 63) == 0 {
        return;
    }
    let job = PyObject { tgid: tgid as u64, address: read_user(arguments) };
    if !is_job(job.address) {
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
    if process_at_probe(tgid, PY_COST_OF_COPY).is_none() || !is_job(object) {
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
    threads::takes_job(tgid, tid, activity);
}

/// `get` has returned without an object: who waits for jobs has none.
#[inline(always)]
pub(crate) fn found_empty(id: u64) {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    if process_at_probe(tgid, PY_COST_OF_COPY).is_some() {
        threads::has_no_job(tgid, tid);
    }
}

/// Whether the object is one of what pools of threads put in their queues: queues serve for other
/// things as well, as connections that nobody uses.
#[inline(always)]
fn is_job(object: u64) -> bool {
    /// `PyTypeObject.tp_name`, in bytes.
    const TYPE_NAME: u64 = 24;
    if object == 0 {
        return false;
    }
    let name = read_user(read_user(object.wrapping_add(OBJECT_TYPE)).wrapping_add(TYPE_NAME));
    let (first, rest) = (read_user(name), read_user(name.wrapping_add(8)));
    // concurrent.futures.thread, and multiprocessing.pool.
    (first == u64::from_le_bytes(*b"_WorkIte") && rest & 0xffff == u64::from(b'm'))
        || first & 0xffff_ffff_ffff == u64::from_le_bytes(*b"tuple\0\0\0")
}
