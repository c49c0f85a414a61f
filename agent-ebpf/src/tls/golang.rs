//! Calls of Go's `crypto/tls`. A goroutine that waits in one may come back on another thread, and a
//! connection says itself which socket is its own: `crypto/tls.Conn` begins with what it is made over.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::ProbeContext;
use tracewire_common::golang::GoroutineId;
use tracewire_common::tls::{Call, Session, SessionKey};

use crate::golang::{goroutine, is_entered_again, round_trip};
use crate::tls::calls::{self, Running, Taken};
use crate::tls::sessions::{self, Peers};

/// Sockets with TLS of Go processes, of which the session is not known yet, by cookie.
#[btf_map]
static GO_TLS_PEERS: LruHashMap<u64, Peers, 4096> = LruHashMap::new();

/// Connections of which no plaintext is read yet, or ever: [`FRESH`], [`MISSED`] or [`UNREADABLE`].
#[btf_map]
static GO_TLS_CONNS: LruHashMap<SessionKey, u32, 4096> = LruHashMap::new();

/// Its handshake was seen, and no plaintext.
const FRESH: u32 = 1;
/// Plaintext of it went by.
const MISSED: u32 = 2;
/// It is read onto stacks: of what is said on it only one half would be seen.
const UNREADABLE: u32 = 3;

/// What goroutines read, by the address of their `runtime.g`.
#[btf_map]
static GO_TLS_READS: LruHashMap<GoroutineId, Running, 16384> = LruHashMap::new();

/// A process received from a socket with TLS.
#[inline(always)]
pub(crate) fn note_received(peers: &Peers) {
    if GO_TLS_PEERS.get_ptr(peers.cookie).is_none() {
        let _unread_then = GO_TLS_PEERS.insert(peers.cookie, peers, 0);
    }
}

/// The goroutine at work enters the library. Answers what plaintext that takes.
#[inline(always)]
pub(crate) fn enters(ctx: &ProbeContext, call: u64, tgid: u32) -> Option<Taken> {
    if is_entered_again(ctx) {
        // What is written would be counted twice.
        return None;
    }
    let process = goroutine::process(tgid)?;
    if process.off_goid == 0 {
        // Who comes back from reading could not be told.
        return None;
    }
    // The first registers for arguments: the receiver, then a slice's address and length
    // (src/cmd/compile/abi-internal.md).
    // SAFETY: the context of a probe is the registers at it.
    let (conn, buffer, len) = unsafe { ((*ctx.regs).rax, (*ctx.regs).rbx, (*ctx.regs).rcx) };
    let key = SessionKey { tgid: tgid as u64, session: conn };
    if call == Call::GoHandshake as u64 {
        // Also where another connection was at that address.
        sessions::end(&key);
        if state_of(&key) == UNREADABLE {
            let _was_there = GO_TLS_CONNS.remove(key);
        }
        let _missed_already = GO_TLS_CONNS.insert(key, FRESH, BPF_NOEXIST as u64);
        return None;
    }
    if call == Call::GoRead as u64 {
        let g = goroutine::running(process);
        if g == 0 {
            return None;
        }
        let reading = GoroutineId { tgid: tgid as u64, goid: g };
        if is_on_stack(g, buffer) {
            let _none_was_left = GO_TLS_READS.remove(reading);
            miss(&key, UNREADABLE);
            return None;
        }
        note_reader(&key, tgid, g);
        let running = Running { session: conn, buffer, taken_at: 0, call, len: 0, seq: 0 };
        let _unread_then = GO_TLS_READS.insert(reading, running, 0);
        return None;
    }
    if len > calls::MOST {
        miss(&key, MISSED);
    }
    if len == 0 || len > calls::MOST {
        return None;
    }
    let session = session_of(&key)?;
    // SAFETY: map memory.
    unsafe {
        let seq = (*session).written;
        (*session).written = seq.wrapping_add(len as u32);
        Some(Taken { session, address: conn, buffer, len: len as u32, seq, call })
    }
}

/// A goroutine reads. If that of the last read is still taken for reading, and what it reads was
/// forgotten, plaintext went by.
#[inline(always)]
fn note_reader(key: &SessionKey, tgid: u32, g: u64) {
    let Some(session) = sessions::session(key) else { return };
    // SAFETY: map memory.
    unsafe {
        let before = GoroutineId { tgid: tgid as u64, goid: (*session).reader };
        if before.goid != 0 && GO_TLS_READS.get_ptr(before).is_none() {
            return miss(key, MISSED);
        }
        (*session).reader = g;
    }
}

/// Plaintext goes by: what is known of the connection so far is worth nothing.
#[inline(always)]
fn miss(key: &SessionKey, state: u32) {
    sessions::end(key);
    let _seen_to_be_in_the_middle = GO_TLS_CONNS.insert(key, state, 0);
}

/// The goroutine at work returns from reading: its call becomes the task's, as others are.
#[inline(always)]
pub(crate) fn returns(tgid: u32, tid: u32) {
    let Some(process) = goroutine::process(tgid) else { return };
    let g = goroutine::running(process);
    let reading = GoroutineId { tgid: tgid as u64, goid: g };
    let Some(running) = GO_TLS_READS.get_ptr(reading) else { return };
    // SAFETY: map memory, written to on the goroutine's behalf alone, and copied before it is removed.
    let running = unsafe { *running };
    let _was_there = GO_TLS_READS.remove(reading);
    let key = SessionKey { tgid: tgid as u64, session: running.session };
    if let Some(session) = session_of(&key) {
        // SAFETY: map memory.
        unsafe { (*session).reader = 0 };
        calls::enter(tid, &running);
    }
}

/// Whether what is read lies on the goroutine's own stack, which may be moved meanwhile.
#[inline(always)]
fn is_on_stack(g: u64, buffer: u64) -> bool {
    // `runtime.g.stack`: its lowest address, and the one behind it.
    let (low, high) = (goroutine::read_user(g), goroutine::read_user(g.wrapping_add(8)));
    buffer >= low && buffer < high
}

/// [`FRESH`], [`MISSED`], [`UNREADABLE`], or 0 for none of these.
#[inline(always)]
fn state_of(key: &SessionKey) -> u32 {
    // SAFETY: one word, read once.
    match unsafe { GO_TLS_CONNS.get(key) } {
        Some(state) => *state,
        None => 0,
    }
}

/// What is known of a connection. It is followed from when its socket is known.
#[inline(never)]
fn session_of(key: &SessionKey) -> Option<*mut Session> {
    if let Some(session) = sessions::session(key) {
        return Some(session);
    }
    let cookie = round_trip::cookie_of(key.session);
    if cookie == 0 || state_of(key) == UNREADABLE {
        // Closed, and another may be made at its address; or of no use.
        return None;
    }
    let Some(peers) = GO_TLS_PEERS.get_ptr(cookie) else {
        // The handshake has yet to be made, in the midst of this call.
        let _unread_then = GO_TLS_CONNS.insert(key, MISSED, 0);
        return None;
    };
    let is_whole = state_of(key) == FRESH;
    let _was_there = GO_TLS_CONNS.remove(key);
    let session = sessions::begin(key, is_whole)?;
    // SAFETY: map memory.
    unsafe {
        (*session).is_go = 1;
        sessions::bind(key, session, &*peers);
        if (*session).connection.cookie == 0 {
            sessions::discard(key);
            return None;
        }
    }
    let _was_there = GO_TLS_PEERS.remove(cookie);
    Some(session)
}
