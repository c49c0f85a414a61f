//! What sockets with TLS say about the sessions on them.

use tracewire_common::connection::{CONN_OPAQUE, Connection};
use tracewire_common::tls::SessionKey;

use crate::golang::goroutine;
use crate::task::work;
use crate::tls::sessions::{self, Peers};
use crate::tls::{calls, golang};

/// The task at work received bytes from a socket with TLS. Answers whether nothing is to be made of
/// them, since their plaintext is read, or will be: during a handshake an event loop takes up nothing
/// that it would send something for at once.
#[inline(always)]
pub(crate) fn received(connection: &mut Connection, tgid: u32, tid: u32) -> bool {
    if !sessions::are_seen(tgid) {
        return false;
    }
    // What announces that contexts are read asks whose connection it is.
    connection.tgid = tgid;
    if let Some(session) = sessions::of_socket(connection.cookie) {
        // SAFETY: map memory.
        let is_read = unsafe { (*session).connection.flags & CONN_OPAQUE == 0 };
        if is_read && connection.awaited_for != 0 {
            work::stop_waiting(connection, tid);
        }
        return is_read;
    }
    let peers = Peers {
        cookie: connection.cookie,
        opener: connection.awaited_for,
        established_ns: connection.established_ns(),
        local_addr: connection.local_addr,
        remote_addr: connection.remote_addr,
        local_port: connection.local_port,
        remote_port: connection.remote_port,
        ip_version: connection.ip_version,
        role: connection.role,
        pad: 0,
    };
    let Some(session) = calls::session_at_work(tid) else {
        if goroutine::process(tgid).is_some() {
            golang::note_received(&peers);
            return true;
        }
        return sessions::note_received(tid, &peers);
    };
    let key = SessionKey { tgid: tgid as u64, session };
    let Some(session) = sessions::session(&key) else { return false };
    // SAFETY: map memory.
    unsafe {
        if (*session).connection.cookie == 0 {
            sessions::bind(&key, session, &peers);
        }
        (*session).connection.cookie == peers.cookie
    }
}

/// Whether the plaintext of a socket with TLS is read. With a stack of its own: the caller's is short
/// where it calls others.
#[inline(never)]
pub(crate) fn is_read(connection: &Connection) -> bool {
    // SAFETY: map memory.
    sessions::of_socket(connection.cookie)
        .is_some_and(|session| unsafe { (*session).connection.flags & CONN_OPAQUE == 0 })
}
