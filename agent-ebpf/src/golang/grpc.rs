//! Calls of grpc-go. One goroutine writes all streams of a connection, and gets each as a list of
//! header fields from the goroutine that calls. So it is noted for whom a list was made, and on
//! which stream it leaves: in the goroutine that writes, by the stream's number, which is known before a
//! byte is written.
//!
//! The places of fields are those of grpc-go since 1.33. What is read of them is believed only if it leads to
//! a list that was noted.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::ProbeContext;
use tracewire_common::golang::{GoCall, GoProcess, GoroutineId};

use crate::golang::goroutine::{self, read_user};

/// `headerFrame.hf`, behind the stream's number: a slice's address.
const FRAME_FIELDS: u64 = 8;
/// `outStream.itl`, a pointer to a list whose first node has an interface to the frame first.
const STREAM_ITEMS: u64 = 16;

/// For what lists of header fields were made, by their address.
#[btf_map]
static GO_GRPC_FIELDS: LruHashMap<GoroutineId, GoCall, 4096> = LruHashMap::new();

/// A stream that a goroutine is about to write.
#[derive(Clone, Copy)]
#[repr(C)]
struct Writing {
    tgid: u32,
    stream: u32,
    /// The `runtime.g`.
    g: u64,
}

/// For what streams are opened that are about to be written.
#[btf_map]
static GO_GRPC_STREAMS: LruHashMap<Writing, GoCall, 4096> = LruHashMap::new();

#[inline(always)]
fn tgid_at_work() -> u32 {
    // SAFETY: no arguments.
    (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32
}

/// `(*http2Client).createHeaderFields` returns, in the goroutine that calls: the list comes first.
#[inline(always)]
pub(crate) fn on_fields(ctx: &ProbeContext) {
    let tgid = tgid_at_work();
    let Some(process) = goroutine::process(tgid) else { return };
    // SAFETY: the context of a probe is the registers at it.
    let fields = unsafe { (*ctx.regs).rax };
    if fields == 0 {
        return;
    }
    let call = goroutine::call(process, tgid);
    let list = GoroutineId { tgid: tgid as u64, goid: fields };
    let _no_parent_then = GO_GRPC_FIELDS.insert(list, call, 0);
}

/// `(*loopyWriter).originateStream` is entered, in the goroutine that writes: with the stream and, of late,
/// the frame, which before was the first that the stream has to send.
#[inline(always)]
pub(crate) fn on_stream(ctx: &ProbeContext) {
    let tgid = tgid_at_work();
    let Some(process) = goroutine::process(tgid) else { return };
    // SAFETY: as above.
    let (stream, frame) = unsafe { ((*ctx.regs).rbx, (*ctx.regs).rcx) };
    let number = read_user(stream) as u32;
    let writing = Writing { tgid, stream: number, g: goroutine::running(process) };
    let call = match made_for(tgid, frame) {
        None => {
            let node = read_user(read_user(stream.wrapping_add(STREAM_ITEMS)));
            made_for(tgid, read_user(node.wrapping_add(8)))
        }
        known => known,
    };
    match call {
        Some(call) => {
            let _no_parent_then = GO_GRPC_STREAMS.insert(writing, call, 0);
        }
        None => {
            // Of another goroutine at that address.
            let _none_was_left = GO_GRPC_STREAMS.remove(writing);
        }
    }
}

/// For what the list of a frame was made.
#[inline(always)]
fn made_for(tgid: u32, frame: u64) -> Option<GoCall> {
    let fields = read_user(frame.wrapping_add(FRAME_FIELDS));
    let list = GoroutineId { tgid: tgid as u64, goid: fields };
    // SAFETY: written by the goroutine that handed the list on, before it did so; copied.
    let call = unsafe { *GO_GRPC_FIELDS.get_ptr(list)? };
    let _was_there = GO_GRPC_FIELDS.remove(list);
    Some(call)
}

/// For what the goroutine at work opens a stream, if it does so for others by such a list.
#[inline(always)]
pub(crate) fn opened(process: &GoProcess, tgid: u32, stream: u32) -> Option<GoCall> {
    let writing = Writing { tgid, stream, g: goroutine::running(process) };
    // SAFETY: written by the same goroutine; copied.
    let call = unsafe { *GO_GRPC_STREAMS.get_ptr(writing)? };
    let _was_there = GO_GRPC_STREAMS.remove(writing);
    Some(call)
}
