//! Streams as a client opens them, and the context that is written into them (`sk_msg`).

use aya_ebpf::bindings::sk_msg_md;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_msg_pop_data, bpf_msg_pull_data,
    bpf_msg_push_data,
};
use aya_ebpf::programs::SkMsgContext;
use tracewire_common::config::{MAX_INJECTED_HEAD, PROPAGATE_HTTP1};
use tracewire_common::connection::Connection;
use tracewire_common::outcome::Outcome;
use tracewire_common::parse::http2::SAFE_FRAME;
use tracewire_common::parse::http2::hpack::{FACT_INDEXED, FACT_TRACEPARENT, FACT_UNKNOWN_FIELD};
use tracewire_common::parse::traceparent::{
    CODED_VALUE_LEN, FIELD_LEN, PARENT_OFFSET, VALUE_LEN, hex_id, write_coded_value, write_field,
};
use tracewire_common::stream::{Placement, place};

use crate::http2::connections;
use crate::http2::drive::{self, Carrier, Work};
use crate::http2::exchange::{find_origin, open_client, own_context};
use crate::socket::drive::Piece;
use crate::socket::exchange::{Origin, OwnHeader};
use crate::socket::rewrite::{
    CONN_POISONED, Message, SK_DROP, SK_PASS, first_piece, has_room, send_head_alone_if_large,
};
use crate::state::{self, config};
use crate::task::birth::read_u32;

/// A process sends on an enrolled socket that carries HTTP/2. Runs in the task that does.
#[inline(always)]
pub(crate) fn on_send(ctx: &SkMsgContext) -> u32 {
    let msg = ctx.msg;
    let Some(config) = config() else { return SK_PASS };
    // SAFETY: the program's context; the socket and its state are checked for null.
    unsafe {
        let sk: *mut c_void = (*msg).__bindgen_anon_3.sk.cast();
        if sk.is_null() {
            return SK_PASS;
        }
        let connection = state::connection(sk);
        let http2 = connections::of(sk);
        if connection.is_null() || http2.is_null() {
            return SK_PASS;
        }
        let seq = read_u32(state::sock_address(connection, sk), config.off_tcp_write_seq);
        let len = (*msg).size;
        // Only what continues the stream is read here; the rest when it leaves as packets.
        if place((*http2).requests.next_seq, seq, len) != Placement::New(0) {
            return SK_PASS;
        }
        let piece = Piece {
            source: msg.cast(),
            base: 0,
            len,
            seq,
            now: bpf_ktime_get_ns(),
            task: bpf_get_current_pid_tgid(),
        };
        drive::read::<Message, true>(connection, http2, &piece);
        if (*connection).flags & CONN_POISONED != 0 { SK_DROP } else { SK_PASS }
    }
}

/// Whether this is where a connection turns out to carry HTTP/2.
///
/// # Safety
///
/// `msg` and `sk` must be the program's, `connection` live.
#[inline(always)]
pub(crate) unsafe fn is_http2(
    msg: *mut sk_msg_md,
    sk: *mut c_void,
    connection: *mut Connection,
    seq: u32,
) -> bool {
    // SAFETY: the caller's promise; what is read lies before the end of the first piece.
    unsafe {
        if (*msg).size < 8 || !connections::is_unread::<true>(connection, seq) {
            return false;
        }
        if bpf_msg_pull_data(msg, 0, 8, 0) != 0 {
            return false;
        }
        let (data, data_end) = first_piece(msg);
        if data.wrapping_add(8) > data_end {
            return false;
        }
        let first = data.cast::<u64>().read_unaligned();
        connections::is_start::<true>(first) && connections::begin(sk, connection)
    }
}

impl Carrier for Message {
    #[inline(always)]
    unsafe fn request_block(work: &mut Work, number: u32) {
        // SAFETY: the trait's promise.
        unsafe { propagate(work, number) }
    }

    #[inline(always)]
    unsafe fn finish(work: &Work) {
        // SAFETY: the trait's promise.
        unsafe {
            if (*work.http2).inserted != 0 {
                let msg = work.drive.source.cast::<sk_msg_md>();
                // Into one piece, as in `socket::rewrite::insert`. If memory is too short they are sent as they are.
                let _pieces = bpf_msg_pull_data(msg, 0, (*work.http2).inserted_to, 0);
            }
        }
    }
}

/// Chooses the context of a stream whose header block ends at `drive.at`, and writes it there.
///
/// # Safety
///
/// `work.drive.source` must be the program's context, the pointers live.
#[inline(always)]
unsafe fn propagate(work: &mut Work, number: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        find_origin(work);
        let own = own_context(work);
        // Through memory, so that the verifier forgets it: as in `socket::rewrite::propagate`.
        let written = &raw mut (*work.http2).written;
        written.write_volatile(write_context(work, own));
        let written = written.read_volatile();
        // What was written, and by how much the message grew.
        let (outcome, grown) = (written as u8, (written >> 32) as u32);
        open_client(work, number, outcome, own);
        if grown > 0 {
            // The window holds what stood there before.
            work.drive.window_start = 0;
            work.drive.window_end = 0;
            work.drive.end = work.drive.end.wrapping_add(grown);
            work.drive.at = work.drive.at.wrapping_add(grown);
            send_head_alone_if_large(&mut work.drive);
        }
    }
}

/// Writes the context, or says why not: an [`Outcome`], and in the upper half by how many bytes the
/// message grew. A number, since the verifier would follow all that comes after it once for each
/// outcome.
///
/// # Safety
///
/// As for [`propagate`].
#[inline(never)]
unsafe fn write_context(work: &mut Work, own: OwnHeader) -> u64 {
    // SAFETY: the caller's promise.
    let (outcome, grown) = unsafe {
        let origin = &(*work.http2).origin;
        try_to_write(work, origin, own)
    };
    outcome as u64 | ((grown as u64) << 32)
}

/// # Safety
///
/// As for [`propagate`].
#[inline(always)]
unsafe fn try_to_write(work: &mut Work, origin: &Origin, own: OwnHeader) -> (Outcome, u32) {
    let Some(config) = config() else { return (Outcome::Off, 0) };
    if config.propagate & PROPAGATE_HTTP1 == 0 {
        return (Outcome::Off, 0);
    }
    // SAFETY: the caller's promise.
    unsafe {
        let direction = &(*work.http2).requests;
        let http2 = &direction.http2;
        let facts = http2.scanner.facts();
        if own == OwnHeader::Own || own == OwnHeader::Invalid {
            let is_unknown = facts & (FACT_TRACEPARENT | FACT_UNKNOWN_FIELD) == FACT_UNKNOWN_FIELD;
            return (if is_unknown { Outcome::UnknownField } else { Outcome::OwnContext }, 0);
        }
        if !state::process_may_be_touched(config, (work.drive.task >> 32) as u32) {
            return (Outcome::ProcessExcluded, 0);
        }
        if direction.is_trusted == 0 {
            return (Outcome::Unsynchronised, 0);
        }
        if http2.block_len() > MAX_INJECTED_HEAD {
            return (Outcome::HeadTooLong, 0);
        }
        // The header of the frame, which says how long it is, must not have been sent already.
        let since_frame = http2.since_frame();
        if since_frame > work.drive.at {
            return (Outcome::HeaderAlreadySent, 0);
        }
        if !has_room(&*work.drive.connection, config, work.drive.at) {
            return (Outcome::NoRoom, 0);
        }
        let frame_at = work.drive.at.wrapping_sub(since_frame);
        let frame_len = http2.frame_len();
        if own == OwnHeader::PassedOn {
            if facts & FACT_INDEXED != 0 {
                return (Outcome::Indexed, 0);
            }
            let (value_at, value_len) = http2.scanner.value_place();
            let back = http2.block_len().wrapping_sub(value_at);
            if !http2.is_block_in_one_frame() || back > since_frame {
                return (Outcome::HeaderAlreadySent, 0);
            }
            let at = work.drive.at.wrapping_sub(back);
            if http2.scanner.value_is_coded() {
                return replace(work, origin, (at, value_len), (frame_at, frame_len));
            }
            return (overwrite(work, origin, at), 0);
        }
        if frame_len > SAFE_FRAME - FIELD_LEN as u32 {
            return (Outcome::FrameFull, 0);
        }
        insert(work, origin, frame_at, frame_len)
    }
}

/// Writes our span's id over the parent id of a plain value at `at`.
///
/// # Safety
///
/// As for [`propagate`].
#[inline(always)]
unsafe fn overwrite(work: &mut Work, origin: &Origin, at: u32) -> Outcome {
    let msg = work.drive.source.cast::<sk_msg_md>();
    let place = at.wrapping_add(PARENT_OFFSET);
    // SAFETY: the caller's promise; the pointer is compared with the piece's end.
    unsafe {
        if bpf_msg_pull_data(msg, place, place.wrapping_add(16), 0) != 0 {
            return Outcome::KernelRefused;
        }
        let (data, data_end) = first_piece(msg);
        if data.wrapping_add(16) > data_end {
            return Outcome::KernelRefused;
        }
        data.cast::<[u64; 2]>().write_unaligned(hex_id(origin.context.span_id));
    }
    Outcome::Rewritten
}

/// Writes a plain value in place of a Huffman coded one, of which `value` says where in the message
/// it is and how long.
///
/// # Safety
///
/// As for [`propagate`].
#[inline(always)]
unsafe fn replace(
    work: &mut Work,
    origin: &Origin,
    value: (u32, u32),
    frame: (u32, u32),
) -> (Outcome, u32) {
    let msg = work.drive.source.cast::<sk_msg_md>();
    let (at, len) = value;
    if len == 0 || len >= VALUE_LEN as u32 || at == 0 {
        return (Outcome::OwnContext, 0);
    }
    let grown = VALUE_LEN as u32 - len;
    if frame.1 > SAFE_FRAME - grown {
        return (Outcome::FrameFull, 0);
    }
    // SAFETY: the caller's promise; pointers are taken anew after each helper that moves the
    // message, and compared with its end.
    unsafe {
        if bpf_msg_pull_data(msg, 0, work.drive.at, 0) != 0
            || !write_frame_len(msg, frame.0, frame.1)
            || bpf_msg_push_data(msg, at, grown, 0) != 0
        {
            return (Outcome::KernelRefused, 0);
        }
        let _pieces = bpf_msg_pull_data(msg, 0, work.drive.at.wrapping_add(grown), 0);
        let from = at.wrapping_sub(1);
        if bpf_msg_pull_data(msg, from, from.wrapping_add(CODED_VALUE_LEN as u32), 0) == 0 {
            let (data, data_end) = first_piece(msg);
            if data.wrapping_add(CODED_VALUE_LEN) <= data_end {
                write_coded_value(&mut *data.cast::<[u8; CODED_VALUE_LEN]>(), &origin.context);
                if !write_frame_len(msg, frame.0, frame.1.wrapping_add(grown)) {
                    // The old value is gone: neither can this be sent.
                    (*work.drive.connection).flags |= CONN_POISONED;
                }
                return (Outcome::Rewritten, grown);
            }
        }
        if bpf_msg_pop_data(msg, at, grown, 0) != 0 {
            (*work.drive.connection).flags |= CONN_POISONED;
            return (Outcome::KernelRefused, grown);
        }
    }
    (Outcome::KernelRefused, 0)
}

/// Inserts the field at the end of the block. All before it is put in one piece first: where the
/// place is inside of another piece than the first, kernels before the summer of 2026 take wrong bytes
/// for what follows it (`rsge.offset += start` in `bpf_msg_push_data`, net/core/filter.c).
///
/// # Safety
///
/// As for [`propagate`].
#[inline(always)]
unsafe fn insert(
    work: &mut Work,
    origin: &Origin,
    frame_at: u32,
    frame_len: u32,
) -> (Outcome, u32) {
    let msg = work.drive.source.cast::<sk_msg_md>();
    let (at, len) = (work.drive.at, FIELD_LEN as u32);
    // SAFETY: as in `replace`.
    unsafe {
        // First the frame's header as it is: so it lies where it can be written to.
        if bpf_msg_pull_data(msg, 0, at, 0) != 0
            || !write_frame_len(msg, frame_at, frame_len)
            || bpf_msg_push_data(msg, at, len, 0) != 0
        {
            return (Outcome::KernelRefused, 0);
        }
        if bpf_msg_pull_data(msg, at, at.wrapping_add(len), 0) == 0 {
            let (data, data_end) = first_piece(msg);
            if data.wrapping_add(FIELD_LEN) <= data_end {
                write_field(&mut *data.cast::<[u8; FIELD_LEN]>(), &origin.context);
                if write_frame_len(msg, frame_at, frame_len.wrapping_add(len)) {
                    (*work.http2).inserted = 1;
                    (*work.http2).inserted_to = at.wrapping_add(len);
                    return (Outcome::Injected, len);
                }
            }
        }
        if bpf_msg_pop_data(msg, at, len, 0) != 0 {
            (*work.drive.connection).flags |= CONN_POISONED;
            return (Outcome::KernelRefused, len);
        }
    }
    (Outcome::KernelRefused, 0)
}

/// Writes the length of the frame whose header starts at `at`. Answers whether it could.
///
/// # Safety
///
/// `msg` must be the program's context.
#[inline(always)]
unsafe fn write_frame_len(msg: *mut sk_msg_md, at: u32, len: u32) -> bool {
    // SAFETY: the caller's promise; the pointer is compared with the piece's end.
    unsafe {
        if bpf_msg_pull_data(msg, at, at.wrapping_add(3), 0) != 0 {
            return false;
        }
        let (data, data_end) = first_piece(msg);
        if data.wrapping_add(3) > data_end {
            return false;
        }
        data.write((len >> 16) as u8);
        data.wrapping_add(1).write((len >> 8) as u8);
        data.wrapping_add(2).write(len as u8);
    }
    true
}
