//! What the thread at work runs, as the interpreter keeps it (`PyThreadState`).

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use tracewire_common::python::{NO_SLOT, PyProcess};

use crate::golang::goroutine::{fs_base, read_user};

/// [`current`]: that is not known.
pub(crate) const UNKNOWN: u64 = 0;
/// [`current`]: the thread is in no context, or in the one that it started with.
pub(crate) const BASE: u64 = 1;

/// Where in `struct pthread` of glibc (nptl/descr.h) the values of `pthread_setspecific` may begin, as a
/// distance in bytes from the fs base, and how many words those of the first block, and some before it, are. They have been at 0x310
/// for long, on x86-64. What is found there is believed only if it knows the thread.
const SPECIFIC: u64 = 0x2f0;
const SPECIFIC_WORDS: u64 = 72;

/// After so many the slot is not looked for any more: it is no C library that is known.
const MOST_ATTEMPTS: u16 = 64;

/// After so many it is looked for by those alone that run Python for certain.
const MOST_SEARCHES: u16 = 1024;

/// `PyContext`, from CPython 3.7 on (Include/internal/pycore_context.h).
#[repr(C)]
struct Context {
    refcount: u64,
    object_type: u64,
    previous: u64,
    vars: u64,
    weak_references: u64,
    is_entered: u32,
    pad: u32,
}

/// Finds out where threads keep the address of their state: in one of those places that belong to
/// keys of the C library, and the state has the thread's own number in it. Answers whether that is
/// settled.
#[inline(always)]
pub(crate) fn find_slot(process: &mut PyProcess) -> bool {
    // SAFETY: a reference.
    process.state_slot != 0 || unsafe { search_slot(process) } != 0
}

/// As [`find_slot`]. A global function: the verifier walks the places once, and not again wherever the
/// slot is of interest. Answers 1 if it is found.
///
/// # Safety
///
/// The pointer must be null or valid.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn search_slot(process: *mut PyProcess) -> u64 {
    // SAFETY: the caller's promise.
    let Some(process) = (unsafe { process.as_mut() }) else { return 0 };
    let base = fs_base();
    if base == 0 {
        return 0;
    }
    let mut word = 0;
    while word < SPECIFIC_WORDS {
        let slot = SPECIFIC + word * 8;
        let state = read_user(base.wrapping_add(slot));
        if state != 0 && read_user(state.wrapping_add(process.off_thread_id as u64)) == base {
            process.state_slot = slot;
            return 1;
        }
        word += 1;
    }
    0
}

/// As [`find_slot`], for a thread that may run something else, as one of a library's own.
#[inline(always)]
pub(crate) fn find_slot_if_python(process: &mut PyProcess) {
    if process.state_slot == 0 && process.searches < MOST_SEARCHES && !find_slot(process) {
        process.searches += 1;
    }
}

/// A thread that runs Python has not found it.
#[inline(always)]
pub(crate) fn count_attempt(process: &mut PyProcess) {
    process.attempts = process.attempts.saturating_add(1);
    if process.attempts >= MOST_ATTEMPTS {
        process.state_slot = NO_SLOT;
    }
}

/// Pieces of a stack that are gone through. A piece is 16 KiB or more: some hundred calls.
const PIECES: u32 = 16;

/// Each greenlet has a stack of its own for what Python calls, and keeps its first piece as long as it
/// runs: the address of that stands for the greenlet. `place` holds the address of the newest piece.
#[inline(always)]
fn greenlet(place: u64) -> u64 {
    let mut piece = read_user(place);
    let mut round = 0;
    while round < PIECES && piece != 0 {
        // `_PyStackChunk.previous` (Include/cpython/pystate.h)
        let previous = read_user(piece);
        if previous == 0 {
            return piece;
        }
        piece = previous;
        round += 1;
    }
    UNKNOWN
}

/// The address of the context that the thread at work is in, or [`UNKNOWN`] or [`BASE`]. Where greenlets
/// are told apart, what stands for the one at work.
#[inline(never)]
pub(crate) fn current(process: &PyProcess) -> u64 {
    if process.state_slot == 0 || process.state_slot == NO_SLOT {
        return UNKNOWN;
    }
    let base = fs_base();
    let state = read_user(base.wrapping_add(process.state_slot));
    if base == 0
        || state == 0
        || read_user(state.wrapping_add(process.off_thread_id as u64)) != base
    {
        return UNKNOWN;
    }
    if process.off_stack != 0 {
        return greenlet(state.wrapping_add(process.off_stack as u64));
    }
    let address = read_user(state.wrapping_add(process.off_context as u64));
    if address == 0 {
        return BASE;
    }
    let mut context = Context {
        refcount: 0,
        object_type: 0,
        previous: 0,
        vars: 0,
        weak_references: 0,
        is_entered: 0,
        pad: 0,
    };
    // SAFETY: the helper checks the address; the destination is a local of that size.
    unsafe {
        bpf_probe_read_user(
            (&raw mut context).cast(),
            size_of::<Context>() as u32,
            address as *const c_void,
        );
    }
    if context.object_type != process.context_type {
        return UNKNOWN;
    }
    // One that was not entered is the thread's own, made as it was first asked for.
    if context.is_entered == 0 { BASE } else { address }
}
