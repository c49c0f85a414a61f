//! Calls of `net/http.(*persistConn).roundTrip`. It runs in the goroutine that wants the
//! request sent, and hands it to the goroutine that writes on the connection, which lives as
//! long as the connection does.
//!
//! Fields of `persistConn`, `netFD` and `poll.FD` have been where they are from Go 1.18 to 1.27.
//! What is read is believed only if all of it fits together.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task};

use crate::golang::goroutine::{self, read_user};
use crate::state::config;
use crate::task::birth::read_u32;
use crate::task::exec::read_u64;

/// `persistConn.alt`: set on connections that speak HTTP/2.
const ALT: u64 = 0;
/// The data word of the interface `persistConn.conn`.
const CONN_DATA: u64 = 80 + 8;
/// `netFD.pfd.Sysfd`.
const SYSFD: u64 = 16;
/// `netFD.family`.
const FAMILY: u64 = 56;
/// `netFD.sotype`.
const SOTYPE: u64 = 64;

const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const SOCK_STREAM: u64 = 1;

/// Connections inside one another that are looked into: an application may dial its own type,
/// which mostly begins with the connection that it embeds.
const WRAPPED: u32 = 3;

/// The function was entered; its receiver is the connection.
#[inline(always)]
pub(crate) fn on_entry(persist_conn: u64) {
    // SAFETY: no arguments.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    // The same program may run outside of the cgroup in scope, where no process is noted.
    let Some(process) = goroutine::process(tgid) else { return };
    if read_user(persist_conn.wrapping_add(ALT)) != 0 {
        return;
    }
    let cookie = cookie_of(read_user(persist_conn.wrapping_add(CONN_DATA)));
    if cookie != 0 {
        goroutine::calls(process, tgid, cookie);
    }
}

/// The cookie of the socket of a `net.TCPConn`, or of what begins with an interface to such a one, as
/// a `crypto/tls.Conn` does; 0 if that is not known.
#[inline(always)]
pub(crate) fn cookie_of(conn: u64) -> u64 {
    match descriptor(conn) {
        Some(number) => cookie(number),
        None => 0,
    }
}

/// The descriptor on which the connection sends, if it does so over TCP.
#[inline(always)]
fn descriptor(mut conn: u64) -> Option<u64> {
    let mut depth = 0;
    while depth < WRAPPED {
        // A `TCPConn` is a pointer to a `netFD`, and no more.
        let fd = read_user(conn);
        let family = read_user(fd.wrapping_add(FAMILY));
        if (family == AF_INET || family == AF_INET6)
            && read_user(fd.wrapping_add(SOTYPE)) == SOCK_STREAM
        {
            return Some(read_user(fd.wrapping_add(SYSFD)));
        }
        // An embedded interface: its data word comes second.
        conn = read_user(conn.wrapping_add(8));
        depth += 1;
    }
    None
}

/// The cookie of the socket that has this number in the process at work; 0 if it is none, or
/// has no cookie yet, which all have that are followed.
#[inline(always)]
pub(crate) fn cookie(number: u64) -> u64 {
    let Some(config) = config() else { return 0 };
    let go = &config.go;
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() } as *const c_void;
    let files = read_u64(task, go.task_files) as *const c_void;
    let table = read_u64(files, go.files_fdt) as *const c_void;
    if number >= read_u32(table, go.fdt_max_fds) as u64 {
        return 0;
    }
    let entries = read_u64(table, go.fdt_fd) as *const u8;
    let file = read_u64(entries.wrapping_add(number as usize * 8).cast(), 0);
    let socket = read_u64(file as *const c_void, go.file_private_data) as *const c_void;
    // A socket knows its file; what else a file may have there does not.
    if file == 0 || read_u64(socket, go.socket_file) != file {
        return 0;
    }
    let sk = read_u64(socket, go.socket_sk) as *const c_void;
    read_u64(sk, go.sock_cookie)
}
