//! Connections that are older than the agent.
//!
//! Packets of such connections are read from the first on, without help from here.
//! What the kernel half cannot do is put their sockets into the socket map: that is
//! done here, by borrowing each descriptor (`pidfd_getfd`, since 5.6).

use std::collections::{HashMap, HashSet};
use std::fs;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use aya::maps::{MapData, SkStorage, SockHash};
use tracewire_common::connection::{CONN_ADOPTED, CONN_ENROLLED, Connection};
use tracewire_common::outcome::{HeadKind, Role};
use tracewire_common::stream::{Stream, TRUSTED};

use super::blocked::descriptors_being_read;
use super::load::Shared;
use super::proc_net::listening_ports;
use super::scope::Scope;

/// `TCP_ESTABLISHED` (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;
/// `BPF_NOEXIST`: what the kernel half has found out by itself is not overwritten.
const NO_EXIST: u64 = 1;

/// How long a connection must have been idle before its socket is enrolled where that
/// is delicate, in ms: longer than a busy one ever is.
const IDLE_MS: u32 = 50;

/// Sockets that are put in the map before it is looked whether one of them came into use.
/// The look is at every thread of the process, so it cannot be for each socket; and the
/// sooner it comes, the less can have happened.
const BATCH: usize = 1024;
/// Connections that are looked at before something else has its turn.
const BETWEEN: usize = 256;

/// What was taken over.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Adopted {
    /// Connections given a role.
    pub(crate) connections: usize,
    /// Client sockets put in the socket map.
    pub(crate) enrolled: usize,
    /// Sockets that the map refused, for good.
    pub(crate) refused: usize,
    /// Sockets in use, to be tried again later.
    pub(crate) postponed: usize,
}

/// How old connections are enrolled.
pub(super) struct Enrolment<'a> {
    /// The socket map.
    pub(super) map: &'a mut SockHash<MapData, u64>,
    /// Sockets that are in it already.
    pub(super) inherited: &'a mut HashSet<u64>,
    /// Whether the map has a verdict program: a socket must not enter it while somebody
    /// waits for its bytes (see `blocked.rs`).
    pub(super) delicate: bool,
}

/// Takes over the established TCP connections of the processes in scope. `between` is
/// called again and again meanwhile: with many connections this takes long. When it breaks
/// off, what is left is left.
pub(super) fn adopt(
    scope: &Scope,
    connections: &mut SkStorage<MapData, Shared<Connection>>,
    mut enrolment: Option<Enrolment<'_>>,
    is_excluded: impl Fn(u32) -> bool,
    is_left_alone: impl Fn(u16) -> bool,
    between: &mut dyn FnMut() -> ControlFlow<()>,
) -> Adopted {
    let mut result = Adopted::default();
    let mut listening: HashMap<u64, HashSet<u16>> = HashMap::new();
    let mut seen = HashSet::new();
    let blocked = match &enrolment {
        Some(enrolment) if enrolment.delicate => sockets_being_read(scope),
        _ => HashSet::new(),
    };
    let mut batch = Batch::default();
    for_each_connection(scope, is_excluded, |connection| {
        let Some(Borrowed { pid, number, socket, cookie, info }) = connection else {
            // The last of a process.
            if let Some(enrolment) = &mut enrolment {
                batch.settle(enrolment, &mut result);
            }
            return between();
        };
        let Some(ends) = Ends::of(socket) else { return ControlFlow::Continue(()) };
        if !seen.insert(cookie) {
            return ControlFlow::Continue(());
        }
        if seen.len() % BETWEEN == 0 {
            between()?;
        }
        let ports = listening.entry(network_namespace(pid)).or_insert_with(|| listening_ports(pid));
        let role = if ports.contains(&ends.local_port) { Role::Server } else { Role::Client };
        if is_left_alone(if role == Role::Server { ends.local_port } else { ends.remote_port }) {
            return ControlFlow::Continue(());
        }
        let in_use =
            |delicate: bool| delicate && (blocked.contains(&cookie) || !is_idle_for_long(&info));
        let enrol = role == Role::Client
            && enrolment
                .as_ref()
                .is_some_and(|e| e.inherited.contains(&cookie) || !in_use(e.delicate));
        let state = state_of(&ends, cookie, role, pid, is_idle_client(&info) && enrol, enrol);
        if connections.insert(socket, Shared(state), NO_EXIST).is_ok() {
            result.connections += 1;
        }
        let (Role::Client, Some(enrolment)) = (role, &mut enrolment) else {
            return ControlFlow::Continue(());
        };
        if enrolment.inherited.contains(&cookie) {
            result.enrolled += 1;
        } else if in_use(enrolment.delicate) {
            result.postponed += 1;
        } else if enrolment.map.insert(cookie, socket.as_raw_fd(), 0).is_err() {
            result.refused += 1;
        } else if enrolment.delicate {
            batch.pid = pid;
            batch.entered.push(Entered { number, cookie, before: info });
            if batch.entered.len() >= BATCH {
                batch.settle(enrolment, &mut result);
            }
        } else {
            enrolment.inherited.insert(cookie);
            result.enrolled += 1;
        }
        ControlFlow::Continue(())
    });
    result
}

/// A socket that was put in the map a moment ago.
struct Entered {
    number: i32,
    cookie: u64,
    before: TcpInfo,
}

/// Sockets of one process that were put in the map where that is delicate.
#[derive(Default)]
struct Batch {
    pid: u32,
    entered: Vec<Entered>,
}

impl Batch {
    /// Takes out those that came into use in the moment in which they were put in.
    fn settle(&mut self, enrolment: &mut Enrolment<'_>, result: &mut Adopted) {
        if self.entered.is_empty() {
            return;
        }
        let read = reads_of(self.pid);
        let process = pidfd_open(self.pid);
        for Entered { number, cookie: entered, before } in self.entered.drain(..) {
            // The number may mean another socket by now, or none.
            let now = process
                .as_ref()
                .and_then(|process| pidfd_getfd(process, number))
                .filter(|socket| cookie(socket) == Some(entered))
                .and_then(|socket| tcp_info(&socket));
            let Some(now) = now else {
                let _gone_with_its_socket = enrolment.map.remove(&entered);
                continue;
            };
            let is_used = now.bytes_sent != before.bytes_sent || read.contains(&entered);
            // What was received since waits behind the verdict program, and would be lost
            // if the socket left.
            if is_used && now.bytes_received == before.bytes_received {
                let _closed_meanwhile = enrolment.map.remove(&entered);
                result.postponed += 1;
            } else {
                enrolment.inherited.insert(entered);
                result.enrolled += 1;
            }
        }
    }
}

/// Whether nothing has happened on a connection for a while, and nothing is on its way.
fn is_idle_for_long(info: &TcpInfo) -> bool {
    is_idle_client(info)
        && (info.bytes_sent == 0 || info.last_data_sent_ms >= IDLE_MS)
        && (info.bytes_received == 0 || info.last_data_recv_ms >= IDLE_MS)
}

/// The sockets from which threads of the processes in scope are reading.
fn sockets_being_read(scope: &Scope) -> HashSet<u64> {
    scope.processes().into_iter().flat_map(reads_of).collect()
}

fn reads_of(pid: u32) -> HashSet<u64> {
    let numbers = descriptors_being_read(pid);
    if numbers.is_empty() {
        return HashSet::new();
    }
    let Some(process) = pidfd_open(pid) else { return HashSet::new() };
    numbers.into_iter().filter_map(|number| cookie(&pidfd_getfd(&process, number)?)).collect()
}

/// The cookies of the established TCP connections of the processes in scope.
pub(super) fn sockets_in_scope(scope: &Scope) -> HashSet<u64> {
    let mut cookies = HashSet::new();
    for_each_connection(
        scope,
        |_| false,
        |connection| {
            cookies.extend(connection.map(|connection| connection.cookie));
            ControlFlow::Continue(())
        },
    );
    cookies
}

/// A connection of a process, as long as it is borrowed.
struct Borrowed<'a> {
    pid: u32,
    number: i32,
    socket: &'a OwnedFd,
    cookie: u64,
    info: TcpInfo,
}

/// Borrows each established TCP connection of the processes in scope, one after the
/// other: a socket that is held is not closed when its process closes it. `take` gets
/// nothing after the last one of a process. When it breaks off, that is the last process.
fn for_each_connection(
    scope: &Scope,
    is_excluded: impl Fn(u32) -> bool,
    mut take: impl FnMut(Option<Borrowed<'_>>) -> ControlFlow<()>,
) {
    for pid in scope.processes() {
        if is_excluded(pid) {
            continue;
        }
        let Some(process) = pidfd_open(pid) else { continue };
        for number in sockets_of(pid) {
            let Some(socket) = pidfd_getfd(&process, number) else { continue };
            let Some(info) = tcp_info(&socket) else { continue };
            let Some(cookie) = cookie(&socket) else { continue };
            let connection = Borrowed { pid, number, socket: &socket, cookie, info };
            if connection.info.state == ESTABLISHED && take(Some(connection)).is_break() {
                break;
            }
        }
        if take(None).is_break() {
            return;
        }
    }
}

/// Between two requests: nothing was ever sent, or the last thing on the connection was
/// received and nothing is on its way. What a client sends next then starts a request.
///
/// The kernel's times are in ticks of up to 10 ms. Within one tick the numbers of
/// segments tell: who sent more of them than were received may be in the middle of
/// a request.
fn is_idle_client(info: &TcpInfo) -> bool {
    if info.bytes_sent == 0 {
        return true;
    }
    let received_last = info.last_data_recv_ms < info.last_data_sent_ms
        || (info.last_data_recv_ms == info.last_data_sent_ms
            && info.data_segments_received > 0
            && info.data_segments_sent <= info.data_segments_received);
    received_last && info.unacknowledged == 0
}

fn state_of(
    ends: &Ends,
    cookie: u64,
    role: Role,
    pid: u32,
    trusted: bool,
    enrol: bool,
) -> Connection {
    let mut requests = Stream::in_the_middle(HeadKind::Request);
    if trusted {
        requests.flags |= TRUSTED;
        requests.http1.next_message();
    }
    Connection {
        cookie,
        local_addr: ends.local_addr,
        remote_addr: ends.remote_addr,
        local_port: ends.local_port,
        remote_port: ends.remote_port,
        ip_version: ends.ip_version,
        role: role as u8,
        flags: CONN_ADOPTED | if enrol { CONN_ENROLLED } else { 0 },
        tgid: pid,
        requests,
        responses: Stream::in_the_middle(HeadKind::Response),
        ..Connection::default()
    }
}

/// Both ends of a connection, as in [`Connection`].
struct Ends {
    local_addr: [u8; 16],
    remote_addr: [u8; 16],
    local_port: u16,
    remote_port: u16,
    ip_version: u8,
}

impl Ends {
    fn of(socket: &OwnedFd) -> Option<Self> {
        let (local_addr, local_port, version) = name(socket, libc::getsockname)?;
        let (remote_addr, remote_port, _) = name(socket, libc::getpeername)?;
        Some(Self { local_addr, remote_addr, local_port, remote_port, ip_version: version })
    }
}

type NameCall =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

/// An address, its port, and whether it is IPv4 or IPv6 (4 or 6).
fn name(socket: &OwnedFd, call: NameCall) -> Option<([u8; 16], u16, u8)> {
    // SAFETY: `sockaddr_storage` is plain data, valid all zero, and large enough for
    // every address; the length says so to the call.
    let storage = unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        if call(socket.as_raw_fd(), (&raw mut storage).cast(), &raw mut len) != 0 {
            return None;
        }
        storage
    };
    let mut addr = [0; 16];
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is one.
            let ip4 = unsafe { *(&raw const storage).cast::<libc::sockaddr_in>() };
            addr[..4].copy_from_slice(&ip4.sin_addr.s_addr.to_ne_bytes());
            Some((addr, u16::from_be(ip4.sin_port), 4))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is one.
            let ip6 = unsafe { *(&raw const storage).cast::<libc::sockaddr_in6>() };
            let port = u16::from_be(ip6.sin6_port);
            let full = std::net::Ipv6Addr::from(ip6.sin6_addr.s6_addr);
            match full.to_ipv4_mapped() {
                Some(ip4) => {
                    addr[..4].copy_from_slice(&ip4.octets());
                    Some((addr, port, 4))
                }
                None => Some((full.octets(), port, 6)),
            }
        }
        _ => None,
    }
}

/// The descriptors of a process that are sockets.
fn sockets_of(pid: u32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            fs::read_link(entry.path())
                .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
        })
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect()
}

fn network_namespace(pid: u32) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/{pid}/ns/net")).map_or(0, |m| m.ino())
}

fn pidfd_open(pid: u32) -> Option<OwnedFd> {
    // SAFETY: plain integers; a new descriptor is owned here alone.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))
    }
}

fn pidfd_getfd(process: &OwnedFd, number: i32) -> Option<OwnedFd> {
    // SAFETY: as in `pidfd_open`.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))
    }
}

fn option<T>(socket: &OwnedFd, level: i32, name: i32) -> Option<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the length bounds what the kernel writes; callers use integer structs,
    // for which zero is a value.
    unsafe {
        let result = libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut len,
        );
        (result == 0).then(|| value.assume_init())
    }
}

fn cookie(socket: &OwnedFd) -> Option<u64> {
    option(socket, libc::SOL_SOCKET, libc::SO_COOKIE)
}

/// What is needed of `struct tcp_info` (include/uapi/linux/tcp.h); the C library's
/// definition ends before `tcpi_bytes_sent` (kernel 4.19).
struct TcpInfo {
    state: u8,
    unacknowledged: u32,
    last_data_sent_ms: u32,
    last_data_recv_ms: u32,
    data_segments_received: u32,
    data_segments_sent: u32,
    bytes_received: u64,
    bytes_sent: u64,
}

/// Fails for everything that is not TCP.
fn tcp_info(socket: &OwnedFd) -> Option<TcpInfo> {
    let raw: [u64; 32] = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    let bytes: Vec<u8> = raw.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let u32_at = |at: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    Some(TcpInfo {
        state: *bytes.first()?,
        unacknowledged: u32_at(24)?,
        last_data_sent_ms: u32_at(44)?,
        last_data_recv_ms: u32_at(52)?,
        data_segments_received: u32_at(152)?,
        data_segments_sent: u32_at(156)?,
        bytes_received: *raw.get(16)?,
        bytes_sent: *raw.get(25)?,
    })
}
