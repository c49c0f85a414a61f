//! Confining a child before it runs: fewer capabilities, nothing that can be written to.

use std::ffi::CString;
use std::io::Error;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// `CAP_DAC_READ_SEARCH` (include/uapi/linux/capability.h); so are those below.
pub const CAP_DAC_READ_SEARCH: u32 = 2;
/// `CAP_SETPCAP`.
pub const CAP_SETPCAP: u32 = 8;
/// `CAP_NET_ADMIN`.
pub const CAP_NET_ADMIN: u32 = 12;
/// `CAP_SYS_PTRACE`.
pub const CAP_SYS_PTRACE: u32 = 19;
/// `CAP_SYS_ADMIN`.
pub const CAP_SYS_ADMIN: u32 = 21;
/// `CAP_PERFMON`.
pub const CAP_PERFMON: u32 = 38;
/// `CAP_BPF`.
pub const CAP_BPF: u32 = 39;

/// Makes `command` run with at most these capabilities. It still has to be root's. What
/// else is asked of the command and needs others has to be asked before.
pub fn capabilities(command: &mut Command, allowed: &[u32]) {
    let allowed = allowed.to_vec();
    // SAFETY: between fork and exec the closure only calls `prctl` with integers.
    unsafe {
        command.pre_exec(move || {
            for capability in (0..64).filter(|one| !allowed.contains(one)) {
                let dropped = libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
                let error = Error::last_os_error();
                // EINVAL: past the last one that the kernel knows.
                if dropped != 0 && error.raw_os_error() != Some(libc::EINVAL) {
                    return Err(error);
                }
            }
            Ok(())
        });
    }
}

/// Makes `command` see every file system read-only, but for new ones, empty and in
/// memory, on the directories `writable`.
///
/// # Panics
///
/// If a path holds a NUL.
pub fn read_only(command: &mut Command, writable: &[&Path]) {
    let writable: Vec<CString> = writable
        .iter()
        .map(|path| CString::new(path.as_os_str().as_encoded_bytes()))
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("a path with a NUL: {error}"));
    // SAFETY: between fork and exec the closure only makes system calls, with strings
    // that were allocated before.
    unsafe {
        command.pre_exec(move || {
            let none = std::ptr::null();
            check(libc::unshare(libc::CLONE_NEWNS))?;
            let slave = libc::MS_REC | libc::MS_SLAVE;
            check(libc::mount(none, c"/".as_ptr(), none, slave, none.cast()))?;
            set_read_only(c"/".as_ptr())?;
            for path in &writable {
                let kind = c"tmpfs".as_ptr();
                check(libc::mount(kind, path.as_ptr(), kind, 0, none.cast()))?;
            }
            Ok(())
        });
    }
}

/// `mount_setattr` (Linux 5.12) of `MOUNT_ATTR_RDONLY`, on all mounts below `path`.
///
/// # Safety
///
/// `path` must be a string that ends in NUL.
unsafe fn set_read_only(path: *const libc::c_char) -> Result<(), Error> {
    /// `struct mount_attr` (include/uapi/linux/mount.h).
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let attributes =
        Attributes { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: the caller's promise; the attributes live through the call, and their size
    // is what is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path,
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    check(i32::try_from(result).unwrap_or(-1))
}

fn check(result: libc::c_int) -> Result<(), Error> {
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
