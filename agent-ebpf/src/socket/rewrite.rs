//! Requests as a client sends them, and the context that is written into them (`sk_msg`).

use aya_ebpf::bindings::sk_msg_md;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_msg_apply_bytes,
    bpf_msg_pop_data, bpf_msg_pull_data, bpf_msg_push_data, bpf_probe_read_kernel,
};
use aya_ebpf::programs::SkMsgContext;
use tracewire_common::config::{
    KernelConfig, MAX_INJECTED_HEAD, PROPAGATE_HTTP1, PROPAGATE_MAY_LEAVE, WINDOW,
};
use tracewire_common::connection::{CONN_HTTP2, CONN_OPAQUE, Connection};
use tracewire_common::outcome::{Outcome, Role};
use tracewire_common::parse::traceparent::{HEADER_LEN, PARENT_OFFSET, hex_id, write_header};
use tracewire_common::stream::{Placement, Stream};

use crate::bounds::{filling, masked};
use crate::http2;
use crate::socket::drive::{self, Drive, Piece, Source};
use crate::socket::exchange::{self, Origin, OwnHeader};
use crate::socket::spare;
use crate::state::{self, config};
use crate::task::birth::read_u32;

pub(crate) const SK_DROP: u32 = 0;
pub(crate) const SK_PASS: u32 = 1;

/// Send buffer, in bytes, that must be free beyond twice what is sent: the kernel
/// charges for its own headers too, and a send that stops halfway after bytes were
/// pushed miscounts what the application sent (`tcp_bpf_send_verdict`, net/ipv4/tcp_bpf.c).
const HEADROOM: u32 = 4096;

/// The program that sockets keep: see [`state::call_rewriting_stage`].
#[inline(always)]
pub(crate) fn enter(ctx: &SkMsgContext) {
    state::call_rewriting_stage(ctx);
}

/// A process sends on an enrolled socket. Runs in the task that does.
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
        if connection.is_null() || (*connection).flags & CONN_OPAQUE != 0 {
            // Not ours to read: let the next 4 GiB pass without asking again.
            bpf_msg_apply_bytes(msg, u32::MAX);
            return SK_PASS;
        }
        if (*connection).role != Role::Client as u8 {
            return SK_PASS;
        }
        let id = bpf_get_current_pid_tgid();
        (*connection).tid = id as u32;
        if (*connection).tgid != (id >> 32) as u32 {
            (*connection).tgid = (id >> 32) as u32;
            (*connection).cgroup_id = bpf_get_current_cgroup_id();
        }
        let seq = read_u32(state::sock_address(connection, sk), config.off_tcp_write_seq);
        if (*connection).flags & CONN_HTTP2 != 0
            || http2::rewrite::is_http2(msg, sk, connection, seq)
        {
            http2::connections::call_rewriter(ctx);
            return SK_PASS;
        }
        if http2::older::may_be_sent(msg, connection) {
            return SK_PASS;
        }
        let stream = &mut (*connection).requests;
        let len = (*msg).size;
        // Only what continues the stream is read here. Bytes that passed without this
        // program (the retry of a failed send) are read when they leave as packets.
        match stream.place(seq, len) {
            Placement::New(0) => {}
            Placement::Gap(missing) if stream.http1.pass_over_body(missing) => {
                stream.next_seq = seq;
            }
            _ => return SK_PASS,
        }
        let piece =
            Piece { source: msg.cast(), base: 0, len, seq, now: bpf_ktime_get_ns(), task: id };
        drive::read::<Message, true>(connection, &piece);
        if config.propagate & PROPAGATE_MAY_LEAVE != 0 {
            spare::if_it_blocks(connection, config, len);
        }
        if (*connection).flags & CONN_POISONED != 0 { SK_DROP } else { SK_PASS }
    }
}

/// Bytes were pushed into a message and can neither be written nor taken out again:
/// sending them would leak kernel memory to the peer. Not seen to happen.
pub(crate) const CONN_POISONED: u16 = 1 << 15;

/// The bytes of one `send()`.
pub(crate) struct Message;

impl Source for Message {
    const SENDS: bool = true;

    #[inline(always)]
    unsafe fn load(drive: &mut Drive, at: u32, len: u32) -> bool {
        let msg = drive.source.cast::<sk_msg_md>();
        let Some(len) = filling::<{ WINDOW as u32 }>(len) else { return false };
        // SAFETY: the trait's promise. After the pull the first piece starts at `at`
        // and holds `len` bytes; the helper checks what it reads all the same.
        unsafe {
            if bpf_msg_pull_data(msg, at, at.wrapping_add(len), 0) != 0 {
                return false;
            }
            let data = (*msg).__bindgen_anon_1.data;
            bpf_probe_read_kernel((&raw mut (*drive.scratch).window).cast(), len, data.cast()) == 0
        }
    }

    #[inline(always)]
    unsafe fn request_head(drive: &mut Drive, stream: &mut Stream, end_len: u32) {
        // SAFETY: the trait's promise.
        unsafe { propagate(drive, stream, end_len) }
    }
}

/// Chooses the context of a request whose head ends at `drive.at`, and writes it there.
///
/// # Safety
///
/// `drive.source` must be the program's context.
#[inline(never)]
unsafe fn propagate(drive: &mut Drive, stream: &mut Stream, end_len: u32) {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *drive.connection };
    stream.http1.confirm();
    stream.http1.announce();
    if exchange::is_full(connection) {
        exchange::refuse(connection);
        return;
    }
    let (origin, own) = exchange::origin_and_own_header(drive, stream);
    let head_end = drive.at;
    // SAFETY: the caller's promise.
    let (outcome, grown) =
        unsafe { write_context(drive, stream, connection, &origin, own, end_len) };
    // Through memory, so that the verifier forgets them: it would else follow what comes
    // now once for each outcome (`BPF program is too large`).
    // SAFETY: the claimed buffer is this program's.
    let (outcome, grown) = unsafe {
        let record = &raw mut (*drive.scratch).record;
        (&raw mut (*record).outcome).write_volatile(outcome as u8);
        (&raw mut (*record).head_len).write_volatile(grown);
        (
            (&raw const (*record).outcome).read_volatile(),
            (&raw const (*record).head_len).read_volatile(),
        )
    };
    exchange::open_client(drive, stream, &origin, outcome, own);
    if grown > 0 {
        // The window holds what stood there before.
        drive.window_start = 0;
        drive.window_end = 0;
        drive.end = drive.end.wrapping_add(grown);
        drive.at = head_end.wrapping_add(grown);
        if outcome == Outcome::Injected as u8 {
            // SAFETY: the caller's promise.
            unsafe { send_head_alone_if_large(drive) };
        }
    }
}

/// Writes the context, or says why not. Answers also by how many bytes the message grew.
///
/// # Safety
///
/// As for [`propagate`].
#[inline(always)]
unsafe fn write_context(
    drive: &mut Drive,
    stream: &Stream,
    connection: &mut Connection,
    origin: &Origin,
    own: OwnHeader,
    end_len: u32,
) -> (Outcome, u32) {
    let Some(config) = config() else { return (Outcome::Off, 0) };
    if config.propagate & PROPAGATE_HTTP1 == 0 {
        return (Outcome::Off, 0);
    }
    if own == OwnHeader::Own || own == OwnHeader::Invalid {
        return (Outcome::OwnContext, 0);
    }
    if !state::process_may_be_touched(config, (drive.task >> 32) as u32) {
        return (Outcome::ProcessExcluded, 0);
    }
    if stream.http1.is_doubtful() {
        return (Outcome::Ambiguous, 0);
    }
    if !stream.is_trusted() {
        return (Outcome::Unsynchronised, 0);
    }
    let head_len = stream.http1.head_len();
    if head_len > MAX_INJECTED_HEAD {
        return (Outcome::HeadTooLong, 0);
    }
    // SAFETY: the caller's promise.
    unsafe {
        if own == OwnHeader::PassedOn {
            return (rewrite(drive, stream, origin), 0);
        }
        if stream.http1.is_fastcgi() {
            return (Outcome::FastCgi, 0);
        }
        // The empty line that ends the head must not have been sent already.
        if drive.at < end_len {
            return (Outcome::HeaderAlreadySent, 0);
        }
        if !has_room(connection, config, drive.at) {
            return (Outcome::NoRoom, 0);
        }
        if state::may_build_heads() && drive.window_start == 0 && drive.at <= drive.window_end {
            return build(drive, connection, origin, end_len);
        }
        insert(drive, connection, origin, drive.at.wrapping_sub(end_len))
    }
}

/// Whether the send buffer takes the first `len` bytes of the message, and a header.
#[inline(always)]
pub(crate) fn has_room(connection: &Connection, config: &KernelConfig, len: u32) -> bool {
    let (used, limit) = send_buffer(connection, config);
    used + 2 * (len as u64 + HEADER_LEN as u64) + (HEADROOM as u64) < limit
}

/// The bytes that are in the send buffer, and those that may be.
#[inline(always)]
pub(crate) fn send_buffer(connection: &Connection, config: &KernelConfig) -> (u64, u64) {
    let sk = connection.sock as *const c_void;
    let used = read_u32(sk, config.off_sock_wmem_queued);
    let limit = read_u32(sk, config.off_sock_sndbuf);
    (used as u64, limit as u64)
}

/// Builds the head anew, header included, in front of the message, and takes the old one out:
/// one page is allocated, and only the head is copied, where growing the message and then
/// pulling it together takes two.
///
/// # Safety
///
/// As for [`propagate`]; the window holds the message from its start to `drive.at`.
#[inline(always)]
unsafe fn build(
    drive: &mut Drive,
    connection: &mut Connection,
    origin: &Origin,
    end_len: u32,
) -> (Outcome, u32) {
    let msg = drive.source.cast::<sk_msg_md>();
    let old_len = drive.at;
    let new_len = old_len + HEADER_LEN as u32;
    // SAFETY: the caller's promise; what is written lies below the end of the first piece.
    unsafe {
        if bpf_msg_push_data(msg, 0, new_len, 0) != 0 {
            return (Outcome::KernelRefused, 0);
        }
        if write_head(drive, msg, new_len, origin, end_len)
            && bpf_msg_pop_data(msg, new_len, old_len, 0) == 0
        {
            return (Outcome::Injected, HEADER_LEN as u32);
        }
        if bpf_msg_pop_data(msg, 0, new_len, 0) != 0 {
            connection.flags |= CONN_POISONED;
            return (Outcome::KernelRefused, new_len);
        }
    }
    (Outcome::KernelRefused, 0)
}

/// Writes the head and the header to the front of a message. Answers whether all of it was.
///
/// # Safety
///
/// As for [`build`]; `msg` is the program's context.
#[inline(always)]
unsafe fn write_head(
    drive: &Drive,
    msg: *mut sk_msg_md,
    new_len: u32,
    origin: &Origin,
    end_len: u32,
) -> bool {
    // SAFETY: the caller's promise; pointers are compared with the end of the piece, and the
    // window is longer than what is read of it.
    unsafe {
        let (data, data_end) = first_piece(msg);
        let window = (&raw const (*drive.scratch).window).cast::<u8>();
        let mut at = 0usize;
        // All that is written lies in the new piece, which is only that if it was not put
        // together with an old one. What is copied behind the head is written over below.
        if (data_end as usize).wrapping_sub(data as usize) != new_len as usize {
            return false;
        }
        while at < WINDOW + HEADER_LEN / 8 * 8 {
            let to = data.wrapping_add(at);
            if to.wrapping_add(8) > data_end {
                break;
            }
            copy_word(window.wrapping_add(at), to);
            at += 8;
        }
        // Asked for again: the pointers would else carry how far they were compared, other in
        // each round, and all that follows would be verified for each.
        let (data, data_end) = first_piece(msg);
        let place = masked::<{ 2 * WINDOW as u32 }>(drive.at.wrapping_sub(end_len)) as usize;
        let header = data.wrapping_add(place);
        let line_end = header.wrapping_add(HEADER_LEN);
        if line_end.wrapping_add(1) > data_end {
            return false;
        }
        write_header(&mut *header.cast::<[u8; HEADER_LEN]>(), &origin.context);
        // A head that was scanned to its end, and is not ambiguous, ends with CR LF.
        *line_end = b'\r';
        if end_len > 1 {
            if line_end.wrapping_add(2) > data_end {
                return false;
            }
            *line_end.wrapping_add(1) = b'\n';
        }
    }
    true
}

/// Where the first piece of a message starts and ends.
///
/// # Safety
///
/// `msg` must be the program's context.
#[inline(always)]
pub(crate) unsafe fn first_piece(msg: *mut sk_msg_md) -> (*mut u8, *mut u8) {
    // SAFETY: the caller's promise; volatile, or the compiler asks once.
    unsafe {
        let data = (&raw const (*msg).__bindgen_anon_1.data).read_volatile();
        let data_end = (&raw const (*msg).__bindgen_anon_2.data_end).read_volatile();
        (data as usize as *mut u8, data_end as usize as *mut u8)
    }
}

/// Copies eight bytes, wherever they lie: the compiler would make eight loads and stores of
/// it, for this target.
///
/// # Safety
///
/// `from` must point to eight readable bytes, `to` to eight writable ones.
#[inline(always)]
unsafe fn copy_word(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "{word} = *(u64 *)({from} + 0)",
            "*(u64 *)({to} + 0) = {word}",
            word = out(reg) _,
            from = in(reg) from,
            to = in(reg) to,
            options(nostack, preserves_flags),
        );
    }
}

/// Inserts the header before the empty line that ends the head.
///
/// # Safety
///
/// As for [`propagate`].
#[inline(always)]
unsafe fn insert(
    drive: &mut Drive,
    connection: &mut Connection,
    origin: &Origin,
    place: u32,
) -> (Outcome, u32) {
    let msg = drive.source.cast::<sk_msg_md>();
    let len = HEADER_LEN as u32;
    // SAFETY: the caller's promise; pointers are taken anew after each helper that
    // moves the message, and compared with its end.
    unsafe {
        // All before the place in one piece, or older kernels send wrong bytes for what follows it:
        // see `http2::rewrite::insert`. (A head may have ended with the send before, but for the
        // empty line: then there is nothing before it, which the helper refuses.)
        if place != 0 && bpf_msg_pull_data(msg, 0, place, 0) != 0 {
            return (Outcome::KernelRefused, 0);
        }
        if bpf_msg_push_data(msg, place, len, 0) != 0 {
            return (Outcome::KernelRefused, 0);
        }
        // Back into one piece, so that the head leaves as one segment: three pieces
        // halve the throughput, and show the peer half a head at its first read. If
        // memory is too short for that the pieces are sent as they are.
        let _three_pieces = bpf_msg_pull_data(msg, 0, drive.at.wrapping_add(len), 0);
        if bpf_msg_pull_data(msg, place, place.wrapping_add(len), 0) == 0 {
            let data = (*msg).__bindgen_anon_1.data as usize;
            let data_end = (*msg).__bindgen_anon_2.data_end as usize;
            if data + HEADER_LEN <= data_end {
                write_header(&mut *(data as *mut [u8; HEADER_LEN]), &origin.context);
                return (Outcome::Injected, len);
            }
        }
        if bpf_msg_pop_data(msg, place, len, 0) != 0 {
            connection.flags |= CONN_POISONED;
            return (Outcome::KernelRefused, len);
        }
    }
    (Outcome::KernelRefused, 0)
}

/// Writes our span's id over the parent id of a header that was passed on.
///
/// # Safety
///
/// As for [`propagate`].
#[inline(always)]
unsafe fn rewrite(drive: &mut Drive, stream: &Stream, origin: &Origin) -> Outcome {
    let msg = drive.source.cast::<sk_msg_md>();
    // From the end of the head back to the parent id.
    let back = stream
        .http1
        .head_len()
        .wrapping_sub(stream.http1.traceparent_at())
        .wrapping_sub(PARENT_OFFSET);
    if back > drive.at {
        return Outcome::HeaderAlreadySent;
    }
    let place = drive.at.wrapping_sub(back);
    // SAFETY: the caller's promise; the pointer is compared with the message's end.
    unsafe {
        if bpf_msg_pull_data(msg, place, place.wrapping_add(16), 0) != 0 {
            return Outcome::KernelRefused;
        }
        let data = (*msg).__bindgen_anon_1.data as usize;
        let data_end = (*msg).__bindgen_anon_2.data_end as usize;
        if data + 16 > data_end {
            return Outcome::KernelRefused;
        }
        let (id, expected) = (data as *mut [u64; 2], stream.http1.traceparent().parent_id());
        // Whatever went wrong with the place: nothing else is written over.
        if id.read_unaligned() != hex_id(expected) {
            return Outcome::Missed;
        }
        id.write_unaligned(hex_id(origin.context.span_id));
    }
    Outcome::Rewritten
}

/// If the rest of the message may not fit in the send buffer, the head is sent by itself:
/// then what the kernel miscounts after a partial send cannot include our bytes.
///
/// # Safety
///
/// As for [`propagate`].
#[inline(always)]
pub(crate) unsafe fn send_head_alone_if_large(drive: &mut Drive) {
    let Some(config) = config() else { return };
    // SAFETY: the caller's promise.
    unsafe {
        if drive.at < drive.end && !has_room(&*drive.connection, config, drive.end) {
            bpf_msg_apply_bytes(drive.source.cast(), drive.at);
            // The rest comes again, as a message of its own.
            drive.end = drive.at;
            drive.stop = 1;
        }
    }
}
