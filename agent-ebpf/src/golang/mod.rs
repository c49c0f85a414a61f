//! Goroutines. The Go runtime moves them between threads, so what a thread did says nothing
//! about what it does: in processes of Go programs, work is the goroutine's.

pub(crate) mod goroutine;
pub(crate) mod grpc;
pub(crate) mod round_trip;
pub(crate) mod served;

use aya_ebpf::EbpfContext;
use aya_ebpf::btf_maps::ProgramArray;
use aya_ebpf::helpers::generated::{bpf_get_attach_cookie, bpf_get_current_pid_tgid};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::ProbeContext;
use tracewire_common::golang::GoPlace;

/// Never holds anything, see [`keep_own_stack`].
#[btf_map]
static NOWHERE: ProgramArray<1> = ProgramArray::new();

/// `runtime.g.sched`, since Go 1.5.
const G_SCHED: u64 = 56;

/// A tail call that leads nowhere. Kernels from 6.13 on give probes with 64 bytes of stack or
/// more one that those of the same CPU share, which may run in the midst of one another; but not
/// to those that have a tail call.
#[inline(always)]
pub(crate) fn keep_own_stack(ctx: &impl EbpfContext) {
    // SAFETY: the program's context; the array is empty.
    unsafe { NOWHERE.tail_call(ctx, 0) };
}

/// A goroutine is in a function of a client or of a server: [`GoPlace`] says in which.
#[inline(always)]
pub(crate) fn on_call(ctx: &ProbeContext) {
    // SAFETY: the program's context.
    let place = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    if place == GoPlace::GrpcFields as u64 {
        grpc::on_fields(ctx);
    } else if is_entered_again(ctx) {
        // Nothing yet.
    } else if place == GoPlace::GrpcStream as u64 {
        grpc::on_stream(ctx);
    } else if place == GoPlace::GrpcServed as u64 {
        served::on_request::<true>(ctx);
    } else if place == GoPlace::Http2Served as u64 {
        served::on_request::<false>(ctx);
    } else {
        round_trip::on_entry(first_argument(ctx));
    }
    keep_own_stack(ctx);
}

/// A goroutine is made: `runtime.gostartcallfn` was entered, which sets up the registers that it
/// starts with.
#[inline(always)]
pub(crate) fn on_birth(ctx: &ProbeContext) {
    // SAFETY: no arguments.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    goroutine::born(tgid, first_argument(ctx).wrapping_sub(G_SCHED));
    keep_own_stack(ctx);
}

/// Whether a function, in whose prologue the probe is, is about to be entered once more: the jump to where
/// the stack grows will be taken (`jbe`), and leads back to the start. That happens where there is too
/// little of it, and wherever the scheduler wants the goroutine to give way.
#[inline(always)]
pub(crate) fn is_entered_again(ctx: &ProbeContext) -> bool {
    const CARRY: u64 = 1;
    const ZERO: u64 = 1 << 6;
    // SAFETY: the context of a probe is the registers at it.
    unsafe { (*ctx.regs).eflags & (CARRY | ZERO) != 0 }
}

/// The first argument, or the receiver, of a function that was entered: since Go 1.17 it comes in
/// the first of the registers (src/cmd/compile/abi-internal.md).
#[inline(always)]
fn first_argument(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context of a probe is the registers at it.
    unsafe { (*ctx.regs).rax }
}
