//! Sessions of TLS libraries, and which sockets are theirs.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_prandom_u32, bpf_ktime_get_ns,
};
use aya_ebpf::macros::btf_map;
use tracewire_common::connection::{CONN_TLS, CONN_WHOLE, Connection, UNKNOWN_UNCOUNTED};
use tracewire_common::counter::Counter;
use tracewire_common::outcome::{HeadKind, Role};
use tracewire_common::stream::Stream;
use tracewire_common::tls::{MAX_SESSIONS, Session, SessionKey};

use crate::activities;
use crate::socket::ending;
use crate::state::{add, count};
use crate::tls::http2;

/// What is known of a socket that carries TLS.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Peers {
    pub(crate) cookie: u64,
    /// For what the connection was opened, as [`Connection::awaited_for`] says.
    ///
    /// [`Connection::awaited_for`]: tracewire_common::connection::Connection::awaited_for
    pub(crate) opener: u64,
    /// [`Connection::established_ns`].
    ///
    /// [`Connection::established_ns`]: tracewire_common::connection::Connection::established_ns
    pub(crate) established_ns: u64,
    pub(crate) local_addr: [u8; 16],
    pub(crate) remote_addr: [u8; 16],
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) ip_version: u8,
    pub(crate) role: u8,
    pub(crate) pad: u16,
}

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// The sessions. Userspace removes those of processes that end.
#[btf_map]
static TLS_SESSIONS: HashMap<SessionKey, Session, MAX_SESSIONS, ON_DEMAND> = HashMap::new();

/// The sessions of sockets, by cookie.
#[btf_map]
static TLS_SOCKETS: HashMap<u64, SessionKey, MAX_SESSIONS, ON_DEMAND> = HashMap::new();

/// A new session: all zero, and never written to. It is too large for the stack.
#[btf_map]
static TLS_BLANK: Array<Session, 1> = Array::new();

/// Processes whose library is probed, and how often they called it; entries are userspace's.
#[btf_map]
static TLS_PROCESSES: HashMap<u32, u64, 16384, ON_DEMAND> = HashMap::new();

/// By task: the socket with TLS from which it has received, and called no library since.
#[btf_map]
static TLS_RECEIVED: LruHashMap<u32, Peers, 4096> = LruHashMap::new();

/// Whether calls of the process's library are seen.
#[inline(always)]
pub(crate) fn are_seen(tgid: u32) -> bool {
    TLS_PROCESSES.get_ptr(tgid).is_some()
}

/// The process calls its library.
#[inline(always)]
pub(crate) fn count_call(tgid: u32) {
    if let Some(calls) = TLS_PROCESSES.get_ptr_mut(tgid) {
        // SAFETY: map memory, aligned.
        unsafe { add(calls, 1) };
    }
}

/// A session that is followed.
#[inline(always)]
pub(crate) fn session(key: &SessionKey) -> Option<*mut Session> {
    TLS_SESSIONS.get_ptr_mut(key)
}

/// Follows a session from now on: from its start, or from the middle.
#[inline(always)]
pub(crate) fn begin(key: &SessionKey, is_whole: bool) -> Option<*mut Session> {
    let blank = TLS_BLANK.get(0)?;
    if TLS_SESSIONS.insert(key, blank, 0).is_err() {
        count(Counter::DropTlsSessions);
        return None;
    }
    let session = TLS_SESSIONS.get_ptr_mut(key)?;
    // SAFETY: map memory.
    unsafe { (*session).is_whole = is_whole as u32 };
    Some(session)
}

/// The session is over, or used for another connection: what is in flight was never answered. With a
/// stack of its own, as [`http2::recognise`].
#[inline(never)]
pub(crate) fn end(key: &SessionKey) {
    let Some(session) = session(key) else { return };
    // SAFETY: map memory.
    let cookie = unsafe {
        abandon(&raw mut (*session).connection);
        (*session).connection.cookie
    };
    if cookie != 0 {
        let _gone_already = TLS_SOCKETS.remove(cookie);
    }
    let _was_there = TLS_SESSIONS.remove(key);
}

/// The session was begun, and could not be bound to a connection. Not [`end`], for there is nothing to
/// end: where this is called, verifiers before 6.8 would say `combined stack size of 6 calls is 544. Too
/// large`.
#[inline(always)]
pub(crate) fn discard(key: &SessionKey) {
    let _was_there = TLS_SESSIONS.remove(key);
}

/// The session of a socket.
#[inline(always)]
pub(crate) fn of_socket(cookie: u64) -> Option<*mut Session> {
    // SAFETY: map memory; a key is written once.
    session(unsafe { &*TLS_SOCKETS.get_ptr(cookie)? })
}

/// A socket is closed: what is in flight on its session was never answered.
#[inline(always)]
pub(crate) fn socket_closed(cookie: u64) {
    let Some(key) = TLS_SOCKETS.get_ptr(cookie) else { return };
    // SAFETY: map memory, copied before it is removed.
    let key = unsafe { *key };
    if let Some(session) = session(&key) {
        // SAFETY: map memory.
        let is_go = unsafe {
            abandon(&raw mut (*session).connection);
            (*session).is_go != 0
        };
        if is_go {
            let _was_there = TLS_SESSIONS.remove(key);
        }
    }
    // Of a session that is gone it may be left.
    http2::forget(cookie);
    let _was_there = TLS_SOCKETS.remove(cookie);
}

/// What is in flight was never answered.
///
/// # Safety
///
/// `connection` must be live.
#[inline(always)]
unsafe fn abandon(connection: *mut Connection) {
    // SAFETY: the caller's promise; no arguments.
    unsafe {
        let now = bpf_ktime_get_ns();
        http2::end(&*connection, now);
        ending::abandon(connection, now);
    }
}

/// In [`Peers::cookie`]: the task has received from several, and which the next call is for is not
/// known.
const SEVERAL: u64 = u64::MAX;

/// The task has received from a socket with TLS, of which the session is not known. Answers whether
/// it will be, as it seems: not if the task has received before, and called no library since.
#[inline(always)]
pub(crate) fn note_received(tid: u32, peers: &Peers) -> bool {
    if let Some(before) = TLS_RECEIVED.get_ptr_mut(tid) {
        // SAFETY: map memory, written to by the task alone.
        unsafe {
            if (*before).cookie != peers.cookie {
                (*before).cookie = SEVERAL;
            }
        }
        return false;
    }
    TLS_RECEIVED.insert(tid, peers, 0).is_ok()
}

/// The task calls the library for a session: what it has just received is that session's. Programs
/// that read from the socket themselves hand it over at once.
#[inline(always)]
pub(crate) fn take_received(tid: u32, key: &SessionKey, session: *mut Session) {
    let Some(peers) = TLS_RECEIVED.get_ptr(tid) else { return };
    // SAFETY: map memory, written to by the task alone.
    unsafe {
        if (*session).connection.cookie == 0 && (*peers).cookie != SEVERAL {
            bind(key, session, &*peers);
        }
    }
    let _was_there = TLS_RECEIVED.remove(tid);
}

/// The socket is the session's. Not if the socket has one that lives: one of them must be wrong.
///
/// # Safety
///
/// `session` must be live.
#[inline(always)]
pub(crate) unsafe fn bind(key: &SessionKey, session: *mut Session, peers: &Peers) {
    if of_socket(peers.cookie).is_some() {
        return;
    }
    if TLS_SOCKETS.insert(peers.cookie, key, 0).is_err() {
        count(Counter::DropTlsSessions);
        return;
    }
    // SAFETY: the caller's promise; no arguments.
    unsafe {
        let connection = &mut (*session).connection;
        connection.local_addr = peers.local_addr;
        connection.remote_addr = peers.remote_addr;
        connection.local_port = peers.local_port;
        connection.remote_port = peers.remote_port;
        connection.ip_version = peers.ip_version;
        connection.role = peers.role;
        connection.flags |= CONN_TLS;
        connection.cgroup_id = bpf_get_current_cgroup_id();
        if (*session).is_whole != 0 && peers.role != Role::Unknown as u8 {
            let start = first_position_of(connection);
            connection.requests = Stream::at_start(HeadKind::Request, start);
            connection.responses = Stream::at_start(HeadKind::Response, start);
            (*session).written = start;
            (*session).read = start;
            connection.flags |= CONN_WHOLE;
        } else {
            connection.requests = Stream::in_the_middle(HeadKind::Request);
            connection.responses = Stream::in_the_middle(HeadKind::Response);
            // Not where the other end may count from: it would find another request's context.
            (*session).written = bpf_get_prandom_u32();
            (*session).read = bpf_get_prandom_u32();
        }
        if peers.role == Role::Server as u8 {
            connection.reply_activity = peers.established_ns;
        }
        // The first request is sent when the handshake is over: in between a task does other things.
        if peers.opener >= UNKNOWN_UNCOUNTED {
            connection.awaited_for = UNKNOWN_UNCOUNTED;
        } else if peers.opener != 0 {
            connection.awaited_for = peers.opener;
            activities::begin_waiting(peers.opener);
        }
        connection.cookie = peers.cookie;
    }
    count(Counter::TlsSessions);
}

/// From which number on plaintext is counted: the same at both ends, and another for connections
/// with other ports, as numbers of sequence are.
#[inline(always)]
pub(crate) fn first_position_of(connection: &Connection) -> u32 {
    let (client, server) = if connection.role == Role::Client as u8 {
        (connection.local_port, connection.remote_port)
    } else {
        (connection.remote_port, connection.local_port)
    };
    (((client as u32) << 16) | server as u32).wrapping_mul(0x85eb_ca6b)
}
