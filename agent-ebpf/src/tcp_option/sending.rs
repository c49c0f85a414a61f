//! Options that leave.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST, bpf_sock_ops};
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_reserve_hdr_opt, bpf_store_hdr_opt};
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::{CONN_TLS, CONN_WHOLE, Connection};
use tracewire_common::context::TraceContext;
use tracewire_common::counter::Counter;
use tracewire_common::outcome::Role;
use tracewire_common::stream::{OPTION_ANNOUNCED, OPTION_WRITES};
use tracewire_common::tcp_option::{self, ANNOUNCEMENT, LENGTH};

use crate::scratch::{try_lock, unlock};
use crate::state::count;
use crate::tcp_option::{begin_writing, connection, end_writing, is_read};
use crate::tls::sessions;

/// Contexts of one connection that are kept until they arrived; a power of two.
const PLACES: usize = 4;

/// How often one goes out at most: what stands in between may drop segments with what it does not know.
const MOST_TIMES: u32 = 2;

/// How many in a row may have to go out twice until no more are sent on the connection.
const MOST_DOUBTS: u32 = 3;

/// A context waits for a segment.
const WAITS: u32 = 1;
/// It left with one.
const LEFT: u32 = 2;

/// A context on its way.
#[derive(Clone, Copy)]
#[repr(C)]
struct Place {
    context: TraceContext,
    /// [`WAITS`], [`LEFT`], or 0 if there is none.
    state: u32,
    /// The sequence number of the segment with which it left.
    seq: u32,
    /// How often.
    times: u32,
    pad: u32,
}

/// What is kept of a client's socket whose server reads contexts.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sending {
    /// Non-zero while it is written to.
    busy: u64,
    /// The socket's: an element that is removed may be used again at once.
    cookie: u64,
    /// How many contexts there were.
    offered: u64,
    /// How many in a row had to go out twice.
    doubts: u32,
    /// Non-zero if room is kept in segments that are cut from now on.
    has_room: u32,
    places: [Place; PLACES],
}

/// By cookie. Removed when the socket is closed.
#[btf_map]
static CONTEXTS_TO_SEND: HashMap<u64, Sending, 65536, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// One with nothing to send: all zero, and never written to. It is too large for the stack.
#[btf_map]
static NOTHING_TO_SEND: Array<Sending, 1> = Array::new();

/// The server of the socket at work reads contexts.
#[inline(always)]
pub(crate) fn begin(ops: *mut bpf_sock_ops, connection: &mut Connection) {
    let Some(nothing) = NOTHING_TO_SEND.get(0) else { return };
    let cookie = cookie(ops);
    if CONTEXTS_TO_SEND.insert(cookie, nothing, BPF_NOEXIST as u64).is_err() {
        return count(Counter::DropOptionConnections);
    }
    let Some(sending) = CONTEXTS_TO_SEND.get_ptr_mut(cookie) else { return };
    // SAFETY: map memory.
    unsafe { (*sending).cookie = cookie };
    if begin_writing(ops, connection) {
        count(Counter::OptionConnections);
    } else {
        let _was_there = CONTEXTS_TO_SEND.remove(cookie);
    }
}

/// The socket at work is closed.
#[inline(always)]
pub(crate) fn forget(ops: *mut bpf_sock_ops) {
    let _of_most_there_is_none = CONTEXTS_TO_SEND.remove(cookie(ops));
}

#[inline(always)]
fn cookie(ops: *mut bpf_sock_ops) -> u64 {
    // SAFETY: the program's context.
    unsafe { bpf_get_socket_cookie(ops.cast()) }
}

/// Leaves the context of a request, whose head starts at `seq` of a session's plaintext, to be sent
/// with the next data of its socket, and says in its span id which request it is for. Answers 1 if
/// it will be. A global function: verified once, by itself.
///
/// # Safety
///
/// The pointers must be null or valid: the verifier asks for no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn offer_context(
    connection: *const Connection,
    context: *mut TraceContext,
    seq: u32,
) -> u64 {
    if connection.is_null() || context.is_null() {
        return 0;
    }
    // SAFETY: checked for null, and valid by the caller's promise; map memory, written to only by
    // who has its lock.
    unsafe {
        let connection = &*connection;
        if connection.flags & CONN_WHOLE == 0 {
            // Its place in the plaintext is not known.
            return 0;
        }
        let Some(sending) = CONTEXTS_TO_SEND.get_ptr_mut(connection.cookie) else { return 0 };
        if !try_lock(&raw mut (*sending).busy) {
            // A segment leaves just now. Without a context is better than late.
            count(Counter::OptionsNoRoom);
            return 0;
        }
        if (*sending).cookie != connection.cookie {
            unlock(&raw mut (*sending).busy);
            return 0;
        }
        let position = seq.wrapping_sub(sessions::first_position_of(connection));
        (*context).span_id = tcp_option::tagged((*context).span_id, tcp_option::tag(position));
        let number = (*sending).offered;
        (*sending).offered = number.wrapping_add(1);
        let place = place(sending, number as usize);
        if (*place).state == WAITS {
            // More requests at once than segments: the older one goes.
            count(Counter::OptionsNoRoom);
        }
        (*place).context = *context;
        (*place).times = 0;
        (*place).state = WAITS;
        unlock(&raw mut (*sending).busy);
        1
    }
}

#[inline(always)]
fn place(sending: *mut Sending, number: usize) -> *mut Place {
    // SAFETY: only the address is taken, of a place inside of the array.
    unsafe { (&raw mut (*sending).places).cast::<Place>().add(number & (PLACES - 1)) }
}

/// The socket at work makes a segment: room is kept for what is to go with it.
#[inline(always)]
pub(crate) fn reserve(ops: *mut bpf_sock_ops) {
    let Some(sending) = CONTEXTS_TO_SEND.get_ptr_mut(cookie(ops)) else {
        return reserve_announcement(ops);
    };
    // SAFETY: the program's context.
    let (len, flags, mss) = unsafe { ((*ops).skb_len, (*ops).skb_tcp_flags, (*ops).mss_cache) };
    let length = LENGTH as u32;
    if flags == 0 {
        // How much a segment holds is asked before there is one: always so that there is room.
        let has_room = reserve_bytes(ops, length);
        // SAFETY: map memory; the socket's lock is held.
        unsafe { (*sending).has_room = has_room as u32 };
        return;
    }
    if len == 0 || !has_some(ops, sending) {
        return;
    }
    // Of one segment its length tells whether it was cut with room, of several the answer before.
    let is_too_long = if len <= mss {
        len.wrapping_add(length) > mss
    } else {
        // SAFETY: map memory.
        unsafe { (*sending).has_room == 0 }
    };
    if is_too_long || !reserve_bytes(ops, length) {
        count(Counter::OptionsNoRoom);
    }
}

/// Whether a context waits, or may have to leave again. Those that have arrived are forgotten. Where
/// some in a row had to leave twice, something in between may not let them pass: the connection has no
/// more.
#[inline(always)]
fn has_some(ops: *mut bpf_sock_ops, sending: *mut Sending) -> bool {
    // SAFETY: the program's context, and map memory, written to only by who has its lock.
    unsafe {
        let arrived = (*ops).snd_una;
        if !try_lock(&raw mut (*sending).busy) {
            // One is left just now.
            return true;
        }
        let mut has_some = false;
        let mut number = 0;
        while number < PLACES {
            let place = place(sending, number);
            let has_left = (*place).state == LEFT;
            if has_left && arrived.wrapping_sub((*place).seq) as i32 > 0 {
                (*place).state = 0;
                (*sending).doubts =
                    if (*place).times > 1 { (*sending).doubts.wrapping_add(1) } else { 0 };
            } else {
                has_some |= (*place).state == WAITS || has_left && (*place).times < MOST_TIMES;
            }
            number += 1;
        }
        let is_doubtful = (*sending).doubts >= MOST_DOUBTS;
        unlock(&raw mut (*sending).busy);
        if is_doubtful {
            give_up(ops);
        }
        has_some && !is_doubtful
    }
}

/// No more contexts are sent on the connection.
#[inline(always)]
fn give_up(ops: *mut bpf_sock_ops) {
    forget(ops);
    count(Counter::OptionsGivenUp);
    if let Some(connection) = connection(ops) {
        end_writing(ops, connection);
    }
}

#[inline(always)]
fn reserve_bytes(ops: *mut bpf_sock_ops, bytes: u32) -> bool {
    // SAFETY: the program's context.
    unsafe { bpf_reserve_hdr_opt(ops, bytes, 0) == 0 }
}

/// A server's first data on a connection with TLS says that contexts are read, if its process's
/// plaintext is. Of other connections, and afterwards, no segment is looked at any more. It is said once:
/// what stands in between may drop segments with what it does not know.
#[inline(always)]
fn reserve_announcement(ops: *mut bpf_sock_ops) {
    let Some(connection) = connection(ops) else { return };
    if connection.responses.options & OPTION_WRITES == 0 {
        // Another program asked for this.
        return;
    }
    // SAFETY: the program's context.
    let (len, flags, segments, received) = unsafe {
        ((*ops).skb_len, (*ops).skb_tcp_flags, (*ops).data_segs_out, (*ops).bytes_received)
    };
    let is_data = flags != 0 && len > 0;
    let is_over = segments > 0 || connection.role != Role::Server as u8;
    // The first bytes that come say what it is, before they are acknowledged.
    let is_plain = connection.flags & CONN_TLS == 0 && (received > 0 || is_data);
    if is_over || is_plain || is_data && !is_read(connection) {
        end_writing(ops, connection);
    } else if is_data || flags == 0 {
        reserve_bytes(ops, ANNOUNCEMENT.len() as u32);
    }
}

/// The socket at work writes the header of a segment for which there was something.
#[inline(always)]
pub(crate) fn write(ops: *mut bpf_sock_ops) {
    let Some(sending) = CONTEXTS_TO_SEND.get_ptr_mut(cookie(ops)) else {
        return announce(ops);
    };
    let Some((seq, header)) = header(ops) else { return };
    // SAFETY: the program's context, and map memory, written to only by who has its lock.
    unsafe {
        if !try_lock(&raw mut (*sending).busy) {
            // What is not written is filled by the kernel, with options that mean nothing.
            return;
        }
        let len = (*ops).skb_len.saturating_sub(header);
        if let Some(place) = chosen(sending, seq, len) {
            let option = tcp_option::encode(&(*place).context);
            let from = option.as_ptr().cast::<u8>().wrapping_add(4);
            if bpf_store_hdr_opt(ops, from.cast(), LENGTH as u32, 0) == 0 {
                if (*place).state == WAITS {
                    (*place).state = LEFT;
                    (*place).seq = seq;
                    count(Counter::OptionsSent);
                }
                (*place).times += 1;
            }
        }
        unlock(&raw mut (*sending).busy);
    }
}

#[inline(always)]
fn announce(ops: *mut bpf_sock_ops) {
    let Some(connection) = connection(ops) else { return };
    let writes = connection.responses.options & OPTION_WRITES != 0;
    if !writes || connection.role != Role::Server as u8 {
        return;
    }
    let announcement = ANNOUNCEMENT;
    // SAFETY: the program's context, and as many bytes as there are.
    let result = unsafe {
        bpf_store_hdr_opt(ops, announcement.as_ptr().cast(), announcement.len() as u32, 0)
    };
    if result == 0 {
        connection.responses.options |= OPTION_ANNOUNCED;
    }
}

/// Which context goes with a segment: the one that left with it before, or the next that waits.
#[inline(always)]
fn chosen(sending: *mut Sending, seq: u32, len: u32) -> Option<*mut Place> {
    // SAFETY: map memory.
    unsafe {
        let mut number = 0;
        while number < PLACES {
            let place = place(sending, number);
            let is_in_it = (*place).seq.wrapping_sub(seq) < len;
            if (*place).state == LEFT && (*place).times < MOST_TIMES && is_in_it {
                return Some(place);
            }
            number += 1;
        }
        // The oldest is where the next but so many will be.
        let next = (*sending).offered as usize;
        number = 0;
        while number < PLACES {
            let place = place(sending, next.wrapping_add(number));
            if (*place).state == WAITS {
                return Some(place);
            }
            number += 1;
        }
        None
    }
}

/// The sequence number of the segment at work, and the length of its header (RFC 9293 §3.1).
#[inline(always)]
fn header(ops: *mut bpf_sock_ops) -> Option<(u32, u32)> {
    // SAFETY: the program's context; bytes of the header, behind whose end nothing is read.
    unsafe {
        let header = (*ops).__bindgen_anon_3.skb_data.cast::<u32>();
        let end = (*ops).__bindgen_anon_4.skb_data_end.cast::<u32>();
        if header.wrapping_add(4) > end {
            return None;
        }
        let (seq, offset) = (*header.wrapping_add(1), *header.wrapping_add(3));
        Some((u32::from_be(seq), u32::from_be(offset) >> 28 << 2))
    }
}
