//! Settings that userspace hands to the programs before they are loaded.

use crate::golang::GoOffsets;
use crate::outcome::Correlation;

/// Bytes of a head that are looked at in one piece; also the most that one record carries.
pub const WINDOW: usize = 1024;

/// Bytes of a request head that are sent to userspace, in pieces of [`WINDOW`].
pub const HEAD_CAPTURE: u32 = 4 * WINDOW as u32;

/// Bytes of a header block of HTTP/2 that are sent to userspace, in pieces of [`WINDOW`]: of longer
/// ones it does not know what they leave in the dynamic table.
pub const BLOCK_CAPTURE: u32 = 64 * WINDOW as u32;

/// The longest head that is given a header, in bytes.
pub const MAX_INJECTED_HEAD: u32 = 64 * 1024;

/// Requests in flight on one connection that are followed at once.
pub const PIPELINE_DEPTH: usize = 16;

/// Propagation is on: HTTP/1.x requests are given a header.
pub const PROPAGATE_HTTP1: u32 = 1;

/// Contexts of requests over TLS go in a TCP option, and come so.
pub const PROPAGATE_TCP_OPTION: u32 = 2;

/// Sockets may leave the socket map, as the kernel loses nothing by that.
pub const PROPAGATE_MAY_LEAVE: u32 = 4;

/// A port rule: connections to or from the port are left alone.
pub const PORT_EXCLUDED: u8 = 1;
/// A port rule: with any such rule, only these ports are looked at.
pub const PORT_INCLUDED: u8 = 2;

/// A process verdict: its requests may be given a header.
pub const PROCESS_ALLOWED: u8 = 1;
/// A process verdict: nothing of it is touched.
pub const PROCESS_EXCLUDED: u8 = 2;

/// The programs' settings, written to their map before any program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KernelConfig {
    /// New traces below this are not sampled; see [`crate::context::sampling_threshold`].
    pub sampling_threshold: u64,
    /// The cgroup in scope: the id of its directory.
    pub scope_cgroup: u64,
    /// The depth of the cgroup in scope below the root (root is 0).
    pub scope_level: u32,
    /// The agent's own process id; its traffic is never looked at.
    pub agent_tgid: u32,
    /// `PROPAGATE_` bits.
    pub propagate: u32,
    /// Non-zero if some port rule includes: then other ports are left alone.
    pub ports_listed: u32,
    /// Non-zero if processes need [`PROCESS_ALLOWED`] before their requests are touched.
    pub processes_listed: u32,
    /// Bytes waiting in the ring buffer from which the agent is woken.
    pub wakeup_bytes: u32,
    /// Offset of `sock.sk_sndbuf`, in bytes, from the kernel's BTF; so are those below.
    pub off_sock_sndbuf: u32,
    /// Offset of `sock.sk_wmem_queued`.
    pub off_sock_wmem_queued: u32,
    /// Offset of `sock.sk_lock.owned`: non-zero while a task is in a call on the socket.
    pub off_sock_owned: u32,
    /// Offset of `sock.sk_socket`.
    pub off_sock_socket: u32,
    /// Offset of `socket.file`.
    pub off_socket_file: u32,
    /// Offset of `file.f_flags`.
    pub off_file_flags: u32,
    /// Offset of `tcp_sock.notsent_lowat`.
    pub off_tcp_notsent_lowat: u32,
    /// `net.ipv4.tcp_notsent_lowat`, in bytes; `u32::MAX` if that sets no limit.
    pub notsent_lowat: u32,
    /// Explicit padding.
    pub pad: u32,
    /// Offset of `tcp_sock.write_seq`.
    pub off_tcp_write_seq: u32,
    /// Offset of `task_struct.pid`.
    pub off_task_pid: u32,
    /// Offset of `task_struct.tgid`.
    pub off_task_tgid: u32,
    /// Offset of `task_struct.nvcsw`.
    pub off_task_nvcsw: u32,
    /// Offset of `task_struct.mm`.
    pub off_task_mm: u32,
    /// Offset of `mm_struct.arg_start`.
    pub off_mm_arg_start: u32,
    /// Offset of `mm_struct.arg_end`.
    pub off_mm_arg_end: u32,
    /// Offset of `mm_struct.env_start`.
    pub off_mm_env_start: u32,
    /// Offset of `mm_struct.env_end`.
    pub off_mm_env_end: u32,
    /// Offset of `linux_binprm.interp`.
    pub off_binprm_interp: u32,
    /// The slots for activities, a power of two, less one.
    pub activity_mask: u32,
    /// Rules that find no parent: for each [`crate::outcome::Correlation`] the bit of that number.
    pub rules_off: u32,
    /// What leads to goroutines and to their sockets; all 0 where they are not looked for.
    pub go: GoOffsets,
}

impl KernelConfig {
    /// Whether the rule may find parents.
    #[inline(always)]
    pub fn rule_is_on(&self, rule: Correlation) -> bool {
        self.rules_off & rule.bit() == 0
    }
}
