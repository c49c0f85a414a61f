//! Who is blocked in reading from which socket.
//!
//! A verdict program moves what is received to a queue of its own. A task that began to
//! wait before the socket entered the map waits at the old queue, and would wait for
//! ever. So such a socket is not enrolled while anybody waits there.

use std::fs;

/// System calls that wait for bytes of the descriptor in their first argument.
const READS: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_splice,
];

/// The descriptors from which threads of a process are reading right now.
pub(crate) fn descriptors_being_read(pid: u32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("syscall")).ok())
        .filter_map(|text| descriptor(&text))
        .collect()
}

/// `proc_pid_syscall(5)`: the number of the system call, then its arguments in hex.
pub(crate) fn descriptor(text: &str) -> Option<i32> {
    let mut fields = text.split(' ');
    let number: libc::c_long = fields.next()?.trim().parse().ok()?;
    let first = fields.next()?.strip_prefix("0x")?;
    READS.contains(&number).then(|| i32::from_str_radix(first, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_read_names_its_descriptor() {
        let blocked =
            format!("{} 0x7 0x7ffe 0x400 0x0 0x0 0x0 0x7ffd 0x7f12\n", libc::SYS_recvfrom);
        assert_eq!(descriptor(&blocked), Some(7));
        let polling =
            format!("{} 0x5 0x7ffe 0x1 0x64 0x0 0x0 0x7ffd 0x7f12\n", libc::SYS_epoll_wait);
        assert_eq!(descriptor(&polling), None);
        assert_eq!(descriptor("running\n"), None);
        assert_eq!(descriptor("-1 0x7ffd 0x7f12\n"), None);
    }
}
