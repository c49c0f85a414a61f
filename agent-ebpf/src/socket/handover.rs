//! Contexts handed over inside of the host, beside the bytes.
//!
//! Where a request gets no header, the two ends of its connection can still be joined if both
//! are on this host: the client's end leaves the context here as the request's head leaves, and
//! the server's end takes it as the head arrives. Who they are is told by both addresses, both
//! ports, and the sequence number of the head's first byte, which are the same at both ends, and
//! the number a random one: there is no guess in it. Address translation in between hides that
//! they are the same, and then there is no parent.

use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::Connection;
use tracewire_common::context::TraceContext;
use tracewire_common::counter::Counter;

use crate::scratch::{try_lock, unlock};
use crate::socket::drive::Drive;
use crate::state::{self, config, count};
use tracewire_common::stream::Stream;

/// Requests on their way from one end to the other, a power of two. On a loopback interface
/// that takes no time; what is left by requests to other hosts is written over.
const SLOTS: u32 = 1 << 14;

/// A request on its way.
#[repr(C)]
struct Slot {
    /// Non-zero while the slot is read or written.
    busy: u64,
    client_addr: [u64; 2],
    server_addr: [u64; 2],
    client_port: u16,
    server_port: u16,
    /// The sequence number of the head's first byte.
    seq: u32,
    /// The client's span; a span id of 0 says that there is none.
    context: TraceContext,
}

#[btf_map]
static HANDED_OVER: Array<Slot, { SLOTS as usize }> = Array::new();

#[inline(always)]
fn slot(seq: u32, client_port: u16) -> Option<*mut Slot> {
    let mixed = (seq ^ client_port as u32).wrapping_mul(0x9e37_79b1);
    HANDED_OVER.get_ptr_mut(mixed >> 18 & (SLOTS - 1))
}

/// An address as two numbers.
///
/// # Safety
///
/// `address` must be readable, and aligned to eight bytes, as all in a `Connection` are.
#[inline(always)]
unsafe fn words(address: *const [u8; 16]) -> [u64; 2] {
    // SAFETY: the caller's promise.
    unsafe { *address.cast::<[u64; 2]>() }
}

/// Where the head that was just read to its end starts, as a sequence number. (Where it ends
/// is not the same at both ends, if a send does between the last CR and LF.)
#[inline(always)]
pub(crate) fn head_start(drive: &Drive, stream: &Stream) -> u32 {
    drive.seq.wrapping_add(drive.at).wrapping_sub(stream.http1.head_len())
}

/// Leaves the context of a request that a client sends, whose head starts at `seq`. A global
/// function, as [`take`]: verified once, by itself.
///
/// # Safety
///
/// The pointers must be null or valid: the verifier asks for no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn leave(
    connection: *const Connection,
    context: *const TraceContext,
    seq: u32,
) -> u64 {
    if connection.is_null() || context.is_null() {
        return 0;
    }
    // SAFETY: checked for null, and valid by the caller's promise; the slot is map memory,
    // written to only by who has it.
    unsafe {
        let connection = &*connection;
        let Some(config) = config() else { return 0 };
        if !state::process_may_be_touched(config, connection.tgid) {
            return 0;
        }
        let Some(slot) = slot(seq, connection.local_port) else { return 0 };
        if !try_lock(&raw mut (*slot).busy) {
            return 0;
        }
        (*slot).client_addr = words(&raw const connection.local_addr);
        (*slot).server_addr = words(&raw const connection.remote_addr);
        (*slot).client_port = connection.local_port;
        (*slot).server_port = connection.remote_port;
        (*slot).seq = seq;
        (*slot).context = *context;
        unlock(&raw mut (*slot).busy);
        1
    }
}

/// Takes the context of a request that a server receives, whose head starts at `seq`. Answers
/// 1 if one was left by the other end.
///
/// # Safety
///
/// As for [`leave`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn take(
    connection: *const Connection,
    into: *mut TraceContext,
    seq: u32,
) -> u64 {
    if connection.is_null() || into.is_null() {
        return 0;
    }
    // SAFETY: as in `leave`.
    unsafe {
        let connection = &*connection;
        let Some(slot) = slot(seq, connection.remote_port) else { return 0 };
        // Most requests find another's, or none: a look without the lock tells.
        if (&raw const (*slot).seq).read_volatile() != seq
            || (*slot).client_port != connection.remote_port
            || !try_lock(&raw mut (*slot).busy)
        {
            return 0;
        }
        let (client, server) =
            (words(&raw const connection.remote_addr), words(&raw const connection.local_addr));
        let is_this = (*slot).seq == seq
            && (*slot).client_port == connection.remote_port
            && (*slot).server_port == connection.local_port
            && (*slot).client_addr[0] == client[0]
            && (*slot).client_addr[1] == client[1]
            && (*slot).server_addr[0] == server[0]
            && (*slot).server_addr[1] == server[1]
            && (*slot).context.span_id != 0;
        if is_this {
            *into = (*slot).context;
            // It is taken once: the same bytes sent again are another request's.
            (*slot).context.span_id = 0;
        }
        unlock(&raw mut (*slot).busy);
        if is_this {
            count(Counter::ContextsHandedOver);
        }
        is_this as u64
    }
}
