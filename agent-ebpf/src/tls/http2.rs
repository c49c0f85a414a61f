//! Sessions that carry HTTP/2: plaintext as a source of frames.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{Array, HashMap, ProgramArray};
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user,
};
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::{CONN_HTTP2, Connection};
use tracewire_common::counter::Counter;
use tracewire_common::outcome::{EndReason, Role};
use tracewire_common::records::KIND_HTTP2_ENDED;
use tracewire_common::tls::{Call, MAX_SESSIONS, SessionKey};

use crate::http2::connections::{self, Http2Connection};
use crate::http2::drive::{self, Carrier, Work};
use crate::http2::{exchange, receive, streams};
use crate::socket::drive::Piece;
use crate::state::count;
use crate::task::work;
use crate::tcp_option::send_beside;
use crate::tls::plaintext::{ClientText, ServerText};
use crate::tls::{calls, sessions};

/// What is kept of those sessions, by the cookie of the socket.
#[btf_map]
static TLS_HTTP2: HashMap<u64, Http2Connection, MAX_SESSIONS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// One about which nothing is known: all zero, and never written to. It is too large for the stack.
#[btf_map]
static TLS_HTTP2_BLANK: Array<Http2Connection, 1> = Array::new();

/// The programs that read frames of what goes in and of what came out, at 0: they are only called,
/// attached to nothing.
#[btf_map]
static TLS_HTTP2_WRITTEN: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static TLS_HTTP2_READ: ProgramArray<1> = ProgramArray::new();

/// Goes on with the program that reads what the call takes (`WRITES`), or has given; comes back if
/// there is none.
#[inline(always)]
pub(crate) fn call_reader<const WRITES: bool>(ctx: &impl EbpfContext) {
    // SAFETY: the context of the program at work.
    unsafe {
        if WRITES {
            TLS_HTTP2_WRITTEN.tail_call(ctx, 0)
        } else {
            TLS_HTTP2_READ.tail_call(ctx, 0)
        };
    }
}

/// Looks at the first bytes of a direction, and notes it if they are those of HTTP/2. With a stack of
/// its own: the caller's is short, and the verifier says `combined stack size of 4 calls is 528. Too
/// large`.
///
/// # Safety
///
/// `connection` must be live, and that of a session with a socket.
#[inline(never)]
pub(crate) unsafe fn recognise<const REQUESTS: bool>(
    connection: *mut Connection,
    seq: u32,
    buffer: u64,
    len: u32,
) {
    if len < 8 || !connections::is_unread::<REQUESTS>(connection, seq) {
        return;
    }
    let mut first = 0u64;
    // SAFETY: the helper checks the address; the destination is a local of that length.
    let failed =
        unsafe { bpf_probe_read_user((&raw mut first).cast(), 8, buffer as *const _) != 0 };
    if failed || !connections::is_start::<REQUESTS>(first) {
        return;
    }
    // SAFETY: the caller's promise.
    let cookie = unsafe { (*connection).cookie };
    let Some(blank) = TLS_HTTP2_BLANK.get(0) else { return };
    // The other direction may have begun.
    let _there_already = TLS_HTTP2.insert(cookie, blank, BPF_NOEXIST as u64);
    let Some(http2) = TLS_HTTP2.get_ptr_mut(cookie) else {
        return count(Counter::DropTlsSessions);
    };
    // SAFETY: map memory, and the caller's promise.
    unsafe { connections::set_up(connection, http2) };
}

/// The session is over, or its socket is closed: what is in flight was never answered.
#[inline(always)]
pub(crate) fn end(connection: &Connection, now: u64) {
    if connection.flags & CONN_HTTP2 == 0 {
        return;
    }
    if let Some(http2) = TLS_HTTP2.get_ptr_mut(connection.cookie) {
        streams::end_all(connection, http2, now, EndReason::Aborted);
        forget(connection.cookie);
    }
}

/// The socket is closed, and its session may be gone.
#[inline(always)]
pub(crate) fn forget(cookie: u64) {
    if TLS_HTTP2.remove(cookie).is_ok() {
        connections::tell(KIND_HTTP2_ENDED, cookie);
    }
}

/// The task is in a call that takes plaintext.
#[inline(always)]
pub(crate) fn on_write() {
    read::<true>();
}

/// The task comes back from a call that gave plaintext.
#[inline(always)]
pub(crate) fn on_read() {
    read::<false>();
}

#[inline(always)]
fn read<const WRITES: bool>() {
    // SAFETY: no arguments.
    let id = unsafe { bpf_get_current_pid_tgid() };
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    let Some(call) = calls::at_work(tid) else { return };
    if !WRITES || Call::is_go(call.call) {
        calls::forget(tid);
    }
    let key = SessionKey { tgid: tgid as u64, session: call.session };
    let Some(session) = sessions::session(&key) else { return };
    // SAFETY: map memory; no arguments.
    unsafe {
        let connection = &raw mut (*session).connection;
        let Some(http2) = TLS_HTTP2.get_ptr_mut((*connection).cookie) else { return };
        let piece = Piece {
            source: call.buffer as *mut _,
            base: 0,
            len: call.len,
            seq: call.seq,
            now: bpf_ktime_get_ns(),
            task: id,
        };
        let is_client = (*connection).role == Role::Client as u8;
        match (is_client, WRITES) {
            (true, true) => drive::read::<ClientText, true>(connection, http2, &piece),
            (true, false) => drive::read::<ClientText, false>(connection, http2, &piece),
            (false, true) => drive::read::<ServerText, false>(connection, http2, &piece),
            (false, false) => drive::read::<ServerText, true>(connection, http2, &piece),
        }
        if !WRITES {
            if (*connection).awaited_for != 0 {
                work::stop_waiting(&mut *connection, tid);
            }
            receive::on_connection(&mut *http2, &*connection, tgid, tid);
        }
    }
}

impl Carrier for ServerText {
    #[inline(always)]
    unsafe fn request_block(work: &mut Work, number: u32) {
        // SAFETY: the trait's promise.
        unsafe { exchange::open_server(work, number) }
    }
}

impl Carrier for ClientText {
    #[inline(always)]
    unsafe fn request_block(work: &mut Work, number: u32) {
        // SAFETY: the trait's promise.
        unsafe {
            exchange::find_origin(work);
            let own = exchange::own_context(work);
            let start = exchange::block_start(work, &(*work.http2).requests);
            let context = &raw mut (*work.http2).origin.context;
            let outcome = send_beside(work.drive.connection, context, own, start);
            exchange::open_client(work, number, outcome as u8, own);
        }
    }
}
