//! Memory for a program at work, too large for its stack.
//!
//! Per-CPU memory alone is not safe: programs are only kept from migrating, so
//! another task, or a softirq, can run the same program on the same CPU before
//! the first has ended. Each CPU has several buffers, taken and given back by
//! atomic bits.

use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use tracewire_common::config::WINDOW;
use tracewire_common::counter::Counter;
use tracewire_common::parse::http1::Window;
use tracewire_common::records::ExchangeOpened;

use crate::state::count;

/// Programs that may be at work on one CPU at once.
const BUFFERS: u32 = 4;

/// A record, and right behind it the window whose front is the record's data.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) record: ExchangeOpened,
    pub(crate) window: Window,
    /// Never used: as far as the verifier takes a record with its data to reach.
    reach: [u8; WINDOW],
}

#[btf_map]
static SCRATCH: PerCpuArray<Scratch, { BUFFERS as usize }> = PerCpuArray::new();

/// One word a buffer: non-zero while it is taken.
#[btf_map]
static TAKEN: PerCpuArray<u64, { BUFFERS as usize }> = PerCpuArray::new();

/// A buffer that is this program's until it is given back.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Claim {
    pub(crate) scratch: *mut Scratch,
    taken: *mut u64,
}

/// A number, through memory: the verifier forgets what it may be. It would else follow what comes
/// now once for each value, and each way to it (`BPF program is too large`).
///
/// # Safety
///
/// `scratch` must be claimed, and its record not be written yet.
#[inline(always)]
pub(crate) unsafe fn forgotten(scratch: *mut Scratch, number: u64) -> u64 {
    // SAFETY: the caller's promise; volatile, or the compiler keeps the number.
    unsafe {
        let place = (&raw mut (*scratch).record).cast::<u64>();
        place.write_volatile(number);
        place.read_volatile()
    }
}

/// Takes a buffer. `None`, and counted, if all are in use.
#[inline(always)]
pub(crate) fn claim() -> Option<Claim> {
    let mut index = 0;
    while index < BUFFERS {
        let taken = TAKEN.get_ptr_mut(index)?;
        // SAFETY: map memory, valid while the program runs.
        if unsafe { swap(taken, 1) } == 0 {
            let scratch = SCRATCH.get_ptr_mut(index)?;
            return Some(Claim { scratch, taken });
        }
        index += 1;
    }
    count(Counter::DropScratchBusy);
    None
}

/// Gives a buffer back.
#[inline(always)]
pub(crate) fn release(claim: Claim) {
    // SAFETY: as in `claim`; nobody else gives this buffer back.
    unsafe { swap(claim.taken, 0) };
}

/// Exchanges a word atomically, and so orders what comes before and after it.
///
/// # Safety
///
/// `place` must point to an aligned word in map memory.
#[inline(always)]
unsafe fn swap(place: *mut u64, value: u64) -> u64 {
    let mut value = value;
    // `AtomicU64::swap` does not exist on this target, which is declared to have no
    // compare-and-swap; the kernel has had the instruction since 5.12.
    // SAFETY: the caller's promise; the instruction touches that word alone.
    unsafe {
        core::arch::asm!(
            "{value} = xchg_64({place} + 0, {value})",
            place = in(reg) place,
            value = inout(reg) value,
        );
    }
    value
}

/// Takes the lock of a stream; `false` if another program holds it.
///
/// # Safety
///
/// `place` must point to an aligned word in map memory.
#[inline(always)]
pub(crate) unsafe fn try_lock(place: *mut u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe { swap(place, 1) == 0 }
}

/// Gives the lock of a stream back.
///
/// # Safety
///
/// As for [`try_lock`]; the caller holds the lock.
#[inline(always)]
pub(crate) unsafe fn unlock(place: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe { swap(place, 0) };
}
