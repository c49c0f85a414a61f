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
use tracewire_common::outcome::Correlation;

use crate::scratch::{try_lock, unlock};
use crate::socket::drive::Drive;
use crate::state::{self, config, count};
use tracewire_common::stream::Stream;

/// Places for requests on their way from one end to the other: so many for the connections
/// whose ports come to the same number, which is a power of two of numbers.
const PLACES: usize = 16;
const BUCKETS: u32 = 1 << 10;
/// Buckets over which the streams of a connection of HTTP/2 are spread.
const STREAM_BUCKETS: u32 = 64;
/// How long a context waits at least, in ns. What goes to other hosts is not taken by anybody.
const PATIENCE_NS: u64 = 1_000_000_000;

/// How often the lock of a bucket is tried: others hold it for some tens of ns.
const TRIES: u32 = 64;

/// A request on its way.
#[repr(C)]
struct Waiting {
    client_addr: [u64; 2],
    server_addr: [u64; 2],
    client_port: u16,
    server_port: u16,
    pad: u32,
    since_ns: u64,
    /// The client's span.
    context: TraceContext,
}

/// The requests of some connections. One that does not pipeline finds the first place free,
/// and so stays in few cache lines.
#[repr(C)]
struct Bucket {
    /// Non-zero while the bucket is written.
    busy: u64,
    /// For each place the sequence number of the head's first byte; 0 if it is free.
    seqs: [u32; PLACES],
    waiting: [Waiting; PLACES],
}

#[btf_map]
static HANDED_OVER: Array<Bucket, { BUCKETS as usize }> = Array::new();

#[inline(always)]
fn bucket(client_port: u16, server_port: u16, stream: u32) -> Option<*mut Bucket> {
    let ports = ((client_port as u32) << 16) | server_port as u32;
    let first = ports.wrapping_mul(0x9e37_79b1) >> 22;
    // Streams of one connection are many at once: their ids are odd.
    let number = first.wrapping_add((stream >> 1) & (STREAM_BUCKETS - 1));
    HANDED_OVER.get_ptr_mut(number & (BUCKETS - 1))
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
    let seq = drive.seq.wrapping_add(drive.at).wrapping_sub(stream.http1.head_len());
    if seq == 0 { 1 } else { seq }
}

/// Where a context lies while it is handed over: where the record will, which is not written
/// yet. On the stack it is too much for older kernels, which say `combined stack size of 4
/// calls is 576. Too large`.
#[inline(always)]
pub(crate) fn room(drive: &Drive) -> *mut TraceContext {
    // SAFETY: only the address is taken.
    unsafe { (&raw mut (*drive.scratch).record).cast() }
}

/// Leaves the context of a request that a client sends, whose head starts at `seq`, on a stream of
/// HTTP/2 or on 0. A global function, as [`take`]: verified once, by itself.
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
    stream: u32,
    now: u64,
) -> u64 {
    if connection.is_null() || context.is_null() {
        return 0;
    }
    // SAFETY: checked for null, and valid by the caller's promise; the bucket is map memory,
    // written to only by who has it.
    unsafe {
        let connection = &*connection;
        let Some(config) = config() else { return 0 };
        let is_on = config.rule_is_on(Correlation::Local);
        if !is_on || !state::process_may_be_touched(config, connection.tgid) {
            return 0;
        }
        let Some(bucket) = bucket(connection.local_port, connection.remote_port, stream) else {
            return 0;
        };
        let mut tries = 0;
        while !try_lock(&raw mut (*bucket).busy) {
            tries += 1;
            if tries >= TRIES {
                return 0;
            }
        }
        let mut place = 0;
        while place < PLACES {
            let since = (&raw const (*bucket).waiting).cast::<Waiting>().add(place);
            if (*bucket).seqs[place] == 0 || now.wrapping_sub((*since).since_ns) > PATIENCE_NS {
                break;
            }
            place += 1;
        }
        // All wait: one of them goes.
        let place = if place < PLACES { place } else { seq as usize } & (PLACES - 1);
        (*bucket).seqs[place] = seq;
        let waiting = (&raw mut (*bucket).waiting).cast::<Waiting>().add(place);
        (*waiting).client_addr = words(&raw const connection.local_addr);
        (*waiting).server_addr = words(&raw const connection.remote_addr);
        (*waiting).client_port = connection.local_port;
        (*waiting).server_port = connection.remote_port;
        (*waiting).since_ns = now;
        (*waiting).context = *context;
        unlock(&raw mut (*bucket).busy);
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
    stream: u32,
) -> u64 {
    if connection.is_null() || into.is_null() {
        return 0;
    }
    // SAFETY: as in `leave`.
    unsafe {
        let connection = &*connection;
        let Some(bucket) = bucket(connection.remote_port, connection.local_port, stream) else {
            return 0;
        };
        let mut place = 0;
        // Without the lock: what was left was so before the bytes left that came here, and nobody
        // writes to the place while it has their number, and has not waited too long.
        while place < PLACES {
            if (&raw const (*bucket).seqs[place]).read_volatile() == seq {
                break;
            }
            place += 1;
        }
        if place >= PLACES {
            return 0;
        }
        let client = words(&raw const connection.remote_addr);
        let server = words(&raw const connection.local_addr);
        let waiting = (&raw const (*bucket).waiting).cast::<Waiting>().add(place);
        *into = (*waiting).context;
        let is_this = (&raw const (*bucket).seqs[place]).read_volatile() == seq
            && (*waiting).client_port == connection.remote_port
            && (*waiting).server_port == connection.local_port
            && (*waiting).client_addr[0] == client[0]
            && (*waiting).client_addr[1] == client[1]
            && (*waiting).server_addr[0] == server[0]
            && (*waiting).server_addr[1] == server[1];
        if is_this {
            // It is taken once: the same bytes sent again are another request's.
            (&raw mut (*bucket).seqs[place]).write_volatile(0);
            count(Counter::ContextsHandedOver);
        }
        is_this as u64
    }
}
