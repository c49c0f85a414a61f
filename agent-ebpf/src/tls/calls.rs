//! Calls of a TLS library: what goes in, and what comes out.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::helpers::generated::{
    bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user,
};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use tracewire_common::connection::{CONN_HTTP2, CONN_OPAQUE, Connection};
use tracewire_common::counter::Counter;
use tracewire_common::outcome::Role;
use tracewire_common::tls::{Call, Session, SessionKey};

use crate::socket::drive::{self, Piece};
use crate::socket::{packets, receive};
use crate::state::count;
use crate::tls::plaintext::{ClientText, ServerText};
use crate::tls::{golang, http2, sessions};

/// A call that a task is in.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Running {
    /// The session's address.
    pub(crate) session: u64,
    /// The address of the buffer.
    pub(crate) buffer: u64,
    /// Where the library writes how many bytes it took; 0 if it answers that.
    pub(crate) taken_at: u64,
    /// [`Call`].
    pub(crate) call: u64,
    /// Of plaintext that is to be read as HTTP/2: how long it is.
    pub(crate) len: u32,
    /// And where in its stream it starts.
    pub(crate) seq: u32,
}

/// By task: the call that it is in.
#[btf_map]
static TLS_CALLS: HashMap<u32, Running, 16384, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// More than this in one call is no length.
pub(crate) const MOST: u64 = 1 << 30;

/// The call that a task is in.
#[inline(always)]
pub(crate) fn at_work(tid: u32) -> Option<Running> {
    // SAFETY: map memory, written to by the task alone.
    unsafe { Some(*TLS_CALLS.get_ptr(tid)?) }
}

/// The session that a task is in a call for.
#[inline(always)]
pub(crate) fn session_at_work(tid: u32) -> Option<u64> {
    // SAFETY: as above.
    unsafe { Some((*TLS_CALLS.get_ptr(tid)?).session) }
}

/// The task is in no call any more; or it ends, maybe in the midst of one.
#[inline(always)]
pub(crate) fn forget(tid: u32) {
    if TLS_CALLS.get_ptr(tid).is_some() {
        let _was_there = TLS_CALLS.remove(tid);
    }
}

#[inline(always)]
fn key_of(tgid: u32, session: u64) -> SessionKey {
    SessionKey { tgid: tgid as u64, session }
}

/// `SSL_new` has made a session, or has failed.
#[inline(always)]
fn made(tgid: u32, session: u64) {
    if session != 0 {
        let key = key_of(tgid, session);
        sessions::end(&key);
        let _is_counted = sessions::begin(&key, true);
    }
}

/// A session is freed or cleared. Where others hold one that is freed still, it is found in the
/// middle. The library itself clears sessions as their handshakes begin.
#[inline(always)]
fn over(key: &SessionKey, is_cleared: bool) {
    if !is_cleared {
        return sessions::end(key);
    }
    if let Some(session) = sessions::session(key)
        // SAFETY: map memory.
        && unsafe { (*session).has_text } != 0
    {
        sessions::end(key);
        let _is_counted = sessions::begin(key, true);
    }
}

/// Plaintext that a call takes.
pub(crate) struct Taken {
    pub(crate) session: *mut Session,
    /// The address of the session.
    pub(crate) address: u64,
    /// Where the plaintext is.
    pub(crate) buffer: u64,
    pub(crate) len: u32,
    /// Where in its stream it starts.
    pub(crate) seq: u32,
    /// [`Call`].
    pub(crate) call: u64,
}

/// A task enters the library, for what [`Call`] says.
#[inline(always)]
pub(crate) fn on_entry(ctx: &ProbeContext) {
    // SAFETY: the program's context; no arguments.
    let (call, id) = unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), bpf_get_current_pid_tgid()) };
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    sessions::count_call(tgid);
    let taken =
        if Call::is_go(call) { golang::enters(ctx, call, tgid) } else { enters(ctx, call, id) };
    let Some(taken) = taken else { return };
    // Before the library has it: who receives it may do so before the call returns. What it does
    // not take is written once more, and known then.
    // SAFETY: map memory.
    let text = unsafe { read_text::<true>(taken.session, id, taken.buffer, taken.len, taken.seq) };
    if text != Text::Http2 {
        return;
    }
    let Taken { address, buffer, len, seq, call, .. } = taken;
    if Call::is_go(call) {
        enter(tid, &Running { session: address, buffer, taken_at: 0, call, len, seq });
    } else if let Some(running) = TLS_CALLS.get_ptr_mut(tid) {
        // SAFETY: map memory, written to by the task alone.
        unsafe {
            (*running).len = len;
            (*running).seq = seq;
        }
    }
    http2::call_reader::<true>(ctx);
    if Call::is_go(call) {
        forget(tid);
    }
}

/// The task is in a call. Answers whether there is room to know that.
#[inline(always)]
pub(crate) fn enter(tid: u32, running: &Running) -> bool {
    let is_known = TLS_CALLS.insert(tid, running, 0).is_ok();
    if !is_known {
        count(Counter::DropTlsCalls);
    }
    is_known
}

/// As [`on_entry`], of a library in C. Answers what plaintext that takes.
#[inline(always)]
fn enters(ctx: &ProbeContext, call: u64, id: u64) -> Option<Taken> {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    let (address, buffer) = (ctx.arg::<u64>(0)?, ctx.arg::<u64>(1)?);
    let (len, taken_at) = (ctx.arg::<u64>(2)?, ctx.arg::<u64>(3)?);
    let key = key_of(tgid, address);
    if call >= Call::Free as u64 {
        over(&key, call == Call::Clear as u64);
        return None;
    }
    if call == Call::EarlyData as u64 {
        // The server may refuse it, which is seen by nobody but the client: where what follows is, is
        // not known.
        sessions::end(&key);
        let _is_counted = sessions::begin(&key, false);
        let _ends_unseen =
            enter(tid, &Running { session: address, buffer, taken_at, call, len: 0, seq: 0 });
        return None;
    }
    if let Some(Running { session: outer, call: outer_call, .. }) = at_work(tid) {
        let is_own = call == Call::Handshake as u64 || outer_call == Call::EarlyData as u64;
        if outer == address && is_own {
            // The library's own, in the midst of a read or a write.
            return None;
        }
        // The library's own, in the midst of a call to the same end, counts instead of that. A call
        // for another session is one whose end will find nothing here: what it takes is not known.
        if outer != address {
            sessions::end(&key_of(tgid, outer));
        }
    }
    let session = match sessions::session(&key) {
        Some(session) => session,
        // A handshake comes before any plaintext.
        None => sessions::begin(&key, call == Call::Handshake as u64)?,
    };
    let is_ex = call == Call::ReadEx as u64 || call == Call::WriteEx as u64;
    let taken_at = if is_ex { taken_at } else { 0 };
    if !enter(tid, &Running { session: address, buffer, taken_at, call, len: 0, seq: 0 }) {
        // What it reads or writes now would be missing.
        sessions::end(&key);
        return None;
    }
    if call == Call::SendFile as u64 {
        return None;
    }
    if !Call::writes(call) {
        sessions::take_received(tid, &key, session);
        return None;
    }
    // Where the other form has a `size_t` this has an `int`, and what is above that is anything.
    let len = if is_ex { len } else { len & 0xffff_ffff };
    if len == 0 || len > MOST {
        return None;
    }
    // SAFETY: map memory.
    let seq = unsafe { (*session).written };
    Some(Taken { session, address, buffer, len: len as u32, seq, call })
}

/// A task comes back from the library.
#[inline(always)]
pub(crate) fn on_return(ctx: &RetProbeContext) {
    // SAFETY: no arguments.
    let id = unsafe { bpf_get_current_pid_tgid() };
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    // SAFETY: the program's context.
    let call = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    if call == Call::New as u64 {
        return made(tgid, ctx.ret());
    }
    if call == Call::GoRead as u64 {
        golang::returns(tgid, tid);
    }
    let Some(running) = TLS_CALLS.get_ptr_mut(tid) else { return };
    // SAFETY: map memory, written to by the task alone.
    unsafe {
        if call != (*running).call {
            return;
        }
        // What Go answers first is in the same register.
        if take_answer(running, ctx.ret::<u64>() as i32, id) {
            http2::call_reader::<false>(ctx);
        }
    }
    forget(tid);
}

/// A call has ended, and this is what the library answers. Answers whether it gave plaintext of HTTP/2.
///
/// # Safety
///
/// `running` must be live.
#[inline(always)]
unsafe fn take_answer(running: *mut Running, answer: i32, id: u64) -> bool {
    let (tgid, tid) = ((id >> 32) as u32, id as u32);
    // SAFETY: the caller's promise.
    let call = unsafe { (*running).call };
    if answer <= 0 || call == Call::Handshake as u64 {
        return false;
    }
    let mut taken = answer as u64;
    // SAFETY: the caller's promise; the helper checks the address; the destination is a local of that
    // length.
    unsafe {
        if (*running).taken_at != 0
            && bpf_probe_read_user((&raw mut taken).cast(), 8, (*running).taken_at as *const _) != 0
        {
            return false;
        }
    }
    if taken == 0 {
        return false;
    }
    // SAFETY: map memory.
    unsafe {
        let key = key_of(tgid, (*running).session);
        let Some(session) = sessions::session(&key) else { return false };
        if taken > MOST {
            // Of a file, maybe: where what follows is, is not known.
            sessions::end(&key);
            return false;
        }
        let len = taken as u32;
        if !Call::reads(call) {
            (*session).written = (*session).written.wrapping_add(len);
            return false;
        }
        let seq = (*session).read;
        (*session).read = seq.wrapping_add(len);
        match read_text::<false>(session, id, (*running).buffer, len, seq) {
            Text::Unread => false,
            Text::Http1 => {
                receive::associate(&mut (*session).connection, tgid, tid);
                false
            }
            Text::Http2 => {
                (*running).len = len;
                (*running).seq = seq;
                true
            }
        }
    }
}

/// What plaintext is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    /// Of no interest, or nobody's.
    Unread,
    /// Read as HTTP/1.x.
    Http1,
    /// To be read as HTTP/2, by another program.
    Http2,
}

/// Reads plaintext that the process writes (`WRITES`) or has read, unless that is HTTP/2.
///
/// # Safety
///
/// `session` must be live.
#[inline(always)]
unsafe fn read_text<const WRITES: bool>(
    session: *mut Session,
    task: u64,
    buffer: u64,
    len: u32,
    seq: u32,
) -> Text {
    // SAFETY: the caller's promise; no arguments.
    unsafe {
        let connection: *mut Connection = &raw mut (*session).connection;
        (*session).has_text = 1;
        if (*connection).cookie == 0 {
            // Whose plaintext it is, is not known.
            (*session).is_whole = 0;
            return Text::Unread;
        }
        if (*connection).flags & CONN_OPAQUE != 0 {
            return Text::Unread;
        }
        (*connection).tgid = (task >> 32) as u32;
        (*connection).tid = task as u32;
        let piece =
            Piece { source: buffer as *mut _, base: 0, len, seq, now: bpf_ktime_get_ns(), task };
        if (*connection).role == Role::Unknown as u8 {
            guess_role::<WRITES>(connection, buffer, len);
        }
        let role = (*connection).role;
        if role == Role::Unknown as u8 {
            return Text::Unread;
        }
        let is_client = role == Role::Client as u8;
        if (*connection).flags & CONN_HTTP2 == 0 {
            if is_client == WRITES {
                http2::recognise::<true>(connection, seq, buffer, len);
            } else {
                http2::recognise::<false>(connection, seq, buffer, len);
            }
        }
        if (*connection).flags & CONN_HTTP2 != 0 {
            return Text::Http2;
        }
        match (is_client, WRITES) {
            (true, true) => drive::read::<ClientText, true>(connection, &piece),
            (true, false) => drive::read::<ClientText, false>(connection, &piece),
            (false, true) => drive::read::<ServerText, false>(connection, &piece),
            (false, false) => drive::read::<ServerText, true>(connection, &piece),
        }
    }
    Text::Http1
}

/// The role of a process on a connection that is older than the agent, by what it says.
///
/// # Safety
///
/// `connection` must be live.
#[inline(always)]
unsafe fn guess_role<const WRITES: bool>(connection: *mut Connection, buffer: u64, len: u32) {
    let mut front = 0u64;
    if len < 8 {
        return;
    }
    // SAFETY: the helper checks the address; the destination is a local of that length.
    unsafe {
        if bpf_probe_read_user((&raw mut front).cast(), 8, buffer as *const _) == 0 {
            (*connection).role = packets::role_by_front(front, WRITES) as u8;
        }
    }
}
