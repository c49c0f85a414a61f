//! Records on their way to userspace.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::btf_maps::RingBuf;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_ringbuf_output, bpf_ringbuf_query};
use aya_ebpf::macros::btf_map;
use tracewire_common::config::WINDOW;
use tracewire_common::counter::Counter;
use tracewire_common::records::{
    ExchangeCandidates, ExchangeClosed, ExchangeOpened, HeadFragment, HeaderBlock,
    KIND_HEAD_FRAGMENT, KIND_HEADER_BLOCK, RECORD_VERSION, RecordHeader,
};

use crate::bounds::masked;
use crate::scratch::Scratch;
use crate::state::{config, count};

/// Records for userspace. Its size is set before loading.
#[btf_map]
static RECORDS: RingBuf<u8, { 8 * 1024 * 1024 }> = RingBuf::new();

/// Bytes past the limit at which the agent is still woken.
const PASSING: u64 = 64 * 1024;

/// One record in so many asks how much is waiting.
const ASKING: u64 = 16;

#[inline(always)]
pub(crate) fn header(kind: u16, data_len: u32) -> RecordHeader {
    RecordHeader { kind, version: RECORD_VERSION, data_len }
}

/// Waking the agent for each record costs more than the record: it looks by itself
/// every few milliseconds, and is woken only when much is waiting. `now`: any time in ns, as
/// a number that differs from record to record.
#[inline(always)]
fn wakeup_flags(now: u64) -> u64 {
    if !(now >> 4).is_multiple_of(ASKING) {
        return BPF_RB_NO_WAKEUP as u64;
    }
    // SAFETY: a query of the map, without side effects.
    let waiting = unsafe {
        bpf_ringbuf_query((&raw const RECORDS).cast_mut().cast(), BPF_RB_AVAIL_DATA as u64)
    };
    let limit = match config() {
        Some(config) => config.wakeup_bytes as u64,
        None => 0,
    };
    // Only as the limit is passed: an agent that stands back behind a busy workload would
    // be woken, by an interrupt, for each record until it gets to run.
    let passes_limit = waiting > limit && waiting - limit < PASSING;
    if passes_limit { BPF_RB_FORCE_WAKEUP as u64 } else { BPF_RB_NO_WAKEUP as u64 }
}

/// Writes a record that lies at `from`. Answers whether there was room; counts it if not.
///
/// # Safety
///
/// `from` must point to `len` readable bytes that the verifier knows as such.
#[inline(always)]
pub(crate) unsafe fn output(from: *const c_void, len: u64, now: u64) -> bool {
    let flags = wakeup_flags(now);
    // SAFETY: the caller's promise.
    let result = unsafe {
        bpf_ringbuf_output((&raw const RECORDS).cast_mut().cast(), from.cast_mut(), len, flags)
    };
    if result != 0 {
        count(Counter::DropRingFull);
    }
    result == 0
}

/// As [`output`], and wakes the agent: it has something to do that does not wait.
///
/// # Safety
///
/// As for [`output`].
#[inline(always)]
pub(crate) unsafe fn output_at_once(from: *const c_void, len: u64) {
    let flags = BPF_RB_FORCE_WAKEUP as u64;
    // SAFETY: the caller's promise.
    let result = unsafe {
        bpf_ringbuf_output((&raw const RECORDS).cast_mut().cast(), from.cast_mut(), len, flags)
    };
    if result != 0 {
        count(Counter::DropRingFull);
    }
}

/// Writes the record in `scratch` with the first `data_len` bytes of its window.
#[inline(always)]
pub(crate) fn exchange_opened(scratch: *mut Scratch, data_len: u32, now: u64) {
    const FIXED: u32 = size_of::<ExchangeOpened>() as u32;
    let len = FIXED + masked::<{ 2 * WINDOW as u32 }>(data_len);
    // SAFETY: the record and the window lie behind one another in `Scratch`.
    if !unsafe { output(scratch.cast(), len as u64, now) } {
        count(Counter::DropRingOpened);
    }
}

/// Writes a finished exchange, right into the ring buffer: the stack has no room for it.
#[inline(always)]
pub(crate) fn exchange_closed(now: u64, fill: impl FnOnce(&mut ExchangeClosed)) {
    let Some(mut entry) = RECORDS.reserve_untyped::<ExchangeClosed>(0) else {
        count(Counter::DropRingFull);
        count(Counter::DropRingClosed);
        return;
    };
    // SAFETY: reserved memory of the record's size, aligned to eight bytes; every bit
    // pattern is a record, and `fill` writes each field.
    fill(unsafe { entry.assume_init_mut() });
    entry.submit(wakeup_flags(now));
}

/// Writes what a request may be for, unless `fill` says that it is not worth it.
#[inline(always)]
pub(crate) fn exchange_candidates(now: u64, fill: impl FnOnce(&mut ExchangeCandidates) -> bool) {
    let Some(mut entry) = RECORDS.reserve_untyped::<ExchangeCandidates>(0) else {
        return count(Counter::DropRingFull);
    };
    // SAFETY: as above.
    if fill(unsafe { entry.assume_init_mut() }) {
        entry.submit(wakeup_flags(now));
    } else {
        entry.discard(BPF_RB_NO_WAKEUP as u64);
    }
}

/// Writes the first `len` bytes of the window as a part of a header block.
#[inline(always)]
pub(crate) fn header_block(scratch: *mut Scratch, len: u32, fill: impl FnOnce(&mut HeaderBlock)) {
    const AT: usize = size_of::<ExchangeOpened>() - size_of::<HeaderBlock>();
    const FIXED: u32 = size_of::<HeaderBlock>() as u32;
    let whole = FIXED + masked::<{ 2 * WINDOW as u32 }>(len);
    // SAFETY: the last bytes of the record's room, right before the window, are large enough for
    // it and eight-byte aligned; every bit pattern is a record, and `fill` writes each field.
    let written = unsafe {
        let place = scratch.cast::<u8>().add(AT).cast::<HeaderBlock>();
        (*place).header = header(KIND_HEADER_BLOCK, len);
        fill(&mut *place);
        output(place.cast(), whole as u64, (*place).time_ns)
    };
    if !written {
        count(Counter::DropRingBlocks);
    }
}

/// Writes the first `len` bytes of the window as a part of a head.
#[inline(always)]
pub(crate) fn head_fragment(
    scratch: *mut Scratch,
    connection: u64,
    sequence: u32,
    offset: u32,
    len: u32,
) {
    const AT: usize = size_of::<ExchangeOpened>() - size_of::<HeadFragment>();
    const FIXED: u32 = size_of::<HeadFragment>() as u32;
    let whole = FIXED + masked::<{ 2 * WINDOW as u32 }>(len);
    let record =
        HeadFragment { header: header(KIND_HEAD_FRAGMENT, len), connection, sequence, offset };
    // SAFETY: the last bytes of the record's room, right before the window, are large
    // enough for a fragment and eight-byte aligned.
    unsafe {
        let place = scratch.cast::<u8>().add(AT);
        place.cast::<HeadFragment>().write(record);
        output(place.cast(), whole as u64, 0);
    }
}
