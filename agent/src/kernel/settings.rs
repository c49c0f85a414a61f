//! What the programs are told before they run: by the command line, and about this kernel.

use anyhow::Result;
use tracewire_common::config::{
    KernelConfig, PORT_EXCLUDED, PORT_INCLUDED, PROPAGATE_HTTP1, PROPAGATE_MAY_LEAVE,
    PROPAGATE_TCP_OPTION,
};
use tracewire_common::context::sampling_threshold;
use tracewire_common::golang::GoOffsets;
use tracewire_common::outcome::Correlation;

use super::btf::KernelTypes;
use super::scope::Scope;

/// What the programs are told before they run.
#[derive(Clone, Debug)]
pub(crate) struct KernelSettings {
    /// Which requests are given a header.
    pub(crate) propagation: Propagation,
    /// The share of new traces that is sampled, 0 to 1.
    pub(crate) sample_ratio: f64,
    /// If any: only connections to these service ports are looked at.
    pub(crate) include_ports: Vec<u16>,
    /// Connections to these service ports are left alone.
    pub(crate) exclude_ports: Vec<u16>,
    /// Whether each process needs a verdict before its requests are touched.
    pub(crate) processes_listed: bool,
    /// The ring buffer's size, in bytes, a power of two.
    pub(crate) ring_bytes: u32,
    /// Client sockets that can be enrolled at once.
    pub(crate) max_connections: u32,
    /// Activities and tasks that are followed at once.
    pub(crate) max_activities: u32,
    /// Rules that find no parent.
    pub(crate) rules_off: Vec<Correlation>,
    /// Whether plaintext is read in TLS libraries.
    pub(crate) tls: bool,
    /// Whether contexts of requests over TLS go in a TCP option.
    pub(crate) tcp_option: bool,
    /// Whether the kernel counts and times the programs' runs.
    pub(crate) program_times: bool,
}

/// When requests are given a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// Never.
    Never,
    /// If that takes nothing that harms connections on this kernel.
    WhereHarmless,
    /// Whatever it takes.
    Always,
}

/// Slots for activities: a power of two, so that a mask finds one.
pub(super) fn activity_slots(settings: &KernelSettings) -> u32 {
    settings.max_activities.checked_next_power_of_two().unwrap_or(1 << 31)
}

/// The settings as the programs read them.
///
/// # Errors
///
/// If the kernel's types cannot be read, or lack a field.
pub(super) fn kernel_config(
    scope: &Scope,
    settings: &KernelSettings,
    propagating: bool,
    sockets_may_leave: bool,
) -> Result<KernelConfig> {
    let types = KernelTypes::of_kernel()?;
    let offset = |structure: &str, member: &str| types.offset(structure, member);
    let mut ports_listed = 0;
    if !settings.exclude_ports.is_empty() {
        ports_listed |= u32::from(PORT_EXCLUDED);
    }
    if !settings.include_ports.is_empty() {
        ports_listed |= u32::from(PORT_INCLUDED);
    }
    Ok(KernelConfig {
        sampling_threshold: sampling_threshold(settings.sample_ratio),
        scope_cgroup: scope.id,
        scope_level: scope.level,
        agent_tgid: std::process::id(),
        propagate: if propagating { PROPAGATE_HTTP1 } else { 0 }
            | if sockets_may_leave { PROPAGATE_MAY_LEAVE } else { 0 }
            | if settings.tcp_option { PROPAGATE_TCP_OPTION } else { 0 },
        ports_listed,
        processes_listed: u32::from(settings.processes_listed),
        wakeup_bytes: settings.ring_bytes / 4,
        off_sock_sndbuf: offset("sock", "sk_sndbuf")?,
        off_sock_wmem_queued: offset("sock", "sk_wmem_queued")?,
        off_sock_owned: offset("sock", "sk_lock.owned")?,
        off_sock_socket: offset("sock", "sk_socket")?,
        off_socket_file: offset("socket", "file")?,
        off_file_flags: offset("file", "f_flags")?,
        off_tcp_notsent_lowat: offset("tcp_sock", "notsent_lowat")?,
        notsent_lowat: notsent_lowat(),
        pad: 0,
        off_tcp_write_seq: offset("tcp_sock", "write_seq")?,
        off_task_pid: offset("task_struct", "pid")?,
        off_task_tgid: offset("task_struct", "tgid")?,
        off_task_nvcsw: offset("task_struct", "nvcsw")?,
        off_task_mm: offset("task_struct", "mm")?,
        off_mm_arg_start: offset("mm_struct", "arg_start")?,
        off_mm_arg_end: offset("mm_struct", "arg_end")?,
        off_mm_env_start: offset("mm_struct", "env_start")?,
        off_mm_env_end: offset("mm_struct", "env_end")?,
        off_binprm_interp: offset("linux_binprm", "interp")?,
        activity_mask: activity_slots(settings) - 1,
        rules_off: settings.rules_off.iter().fold(0, |bits, rule| bits | rule.bit()),
        go: go_offsets(&types)?,
    })
}

/// How many bytes may wait to be sent where a process does not say, as the administrator has set it for the
/// network namespace of the agent. No limit if that cannot be read.
fn notsent_lowat() -> u32 {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_notsent_lowat")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u32::MAX)
}

/// What leads to goroutines: all zero on machines where that way is not known.
fn go_offsets(types: &KernelTypes) -> Result<GoOffsets> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(GoOffsets::default());
    }
    let thread = types.offset("task_struct", "thread")?;
    Ok(GoOffsets {
        task_fsbase: thread + types.offset("thread_struct", "fsbase")?,
        task_files: types.offset("task_struct", "files")?,
        files_fdt: types.offset("files_struct", "fdt")?,
        fdt_max_fds: types.offset("fdtable", "max_fds")?,
        fdt_fd: types.offset("fdtable", "fd")?,
        file_private_data: types.offset("file", "private_data")?,
        socket_file: types.offset("socket", "file")?,
        socket_sk: types.offset("socket", "sk")?,
        sock_cookie: types.offset("sock_common", "skc_cookie")?,
        pad: 0,
    })
}
