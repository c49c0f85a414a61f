//! Whether probes at the ends of functions harm processes that filter their system calls.
//!
//! Since 6.11 such a probe enters the kernel by a system call of its own, `uretprobe`, and until
//! that was mended (6.14, and stable releases of early 2025) filters saw it: one that does not
//! know it ends the process. What a kernel does is tried on a child.

use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};

use super::requirements::is_at_least;
use super::uprobes::{Place, Uprobe};

/// `uretprobe` and `uprobe` (arch/x86/entry/syscalls/syscall_64.tbl).
const URETPROBE: u32 = 335;
const UPROBE: u32 = 336;

/// What the child does at the end of which there is a probe.
#[inline(never)]
extern "C" fn probed() -> u64 {
    std::hint::black_box(0)
}

/// Whether functions of all threads of a process can be probed, where they begin and where they end,
/// without harm. `back` is to be a program for ends, as for [`is_safe_from`].
///
/// # Errors
///
/// If not; the message says why.
pub(super) fn require_probes_of_runtimes(back: &Uprobe) -> Result<()> {
    require_all_threads()?;
    require_probes(back)
}

/// Whether functions of all threads of a process can be probed, where they begin.
///
/// # Errors
///
/// If not; the message says why.
pub(super) fn require_all_threads() -> Result<()> {
    if !is_at_least((6, 10)) {
        bail!("Linux before 6.10 shows to such probes only the first thread of a process");
    }
    Ok(())
}

/// As [`require_probes_of_runtimes`], where the first thread that runs the code is enough to see.
///
/// # Errors
///
/// As there.
pub(super) fn require_probes(back: &Uprobe) -> Result<()> {
    if !is_safe_from(back).context("it cannot be tried whether probes harm processes")? {
        bail!(
            "this kernel ends processes that filter their system calls when the end of a function is probed: it has to be updated (6.11 to 6.13 are concerned)"
        );
    }
    Ok(())
}

/// Whether a process that ends when it makes these system calls survives such a probe. `program`
/// is to be one that does nothing at the end of a call of which it has not seen the beginning.
///
/// # Errors
///
/// If that could not be tried.
pub(super) fn is_safe_from(program: &Uprobe) -> io::Result<bool> {
    if !cfg!(target_arch = "x86_64") {
        // No other machine has these system calls.
        return Ok(true);
    }
    let place = Place { offset: file_offset(probed as *const () as u64)?, cookie: 0 };
    let file = File::open("/proc/self/exe")?;
    let [receiver, mut sender] = pipe()?;
    // SAFETY: the child has this thread alone, and calls only what may be called after a fork.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        drop(sender);
        run_child(&receiver);
    }
    drop(receiver);
    let probe = program.attach_returns(&file, &[place], child as u32);
    let told = io::Write::write_all(&mut sender, b"x");
    drop(sender);
    let mut status = 0;
    // SAFETY: a child of this process, which ends by itself.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    if waited != child {
        return Err(io::Error::last_os_error());
    }
    drop(probe?);
    told?;
    Ok(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
}

/// The child: waits until it is probed, filters its system calls, and runs the function.
fn run_child(receiver: &File) -> ! {
    let statement = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let number = offset_of!(libc::seccomp_data, nr) as u32;
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, number),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 2, 0, URETPROBE),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, UPROBE),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
    ];
    let rules = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let mut byte = MaybeUninit::<u8>::uninit();
    // SAFETY: system calls alone, with memory of this frame; the function is our own.
    unsafe {
        let descriptor = receiver.as_raw_fd();
        // Also at the end of the pipe: the parent could not attach, and says so itself.
        libc::read(descriptor, byte.as_mut_ptr().cast(), 1);
        let ready = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const rules) == 0;
        let answer = probed();
        libc::_exit(i32::from(!ready || answer != 0));
    }
}

/// Where in the executable what is at an address lies.
fn file_offset(address: u64) -> io::Result<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let found = maps.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (range, _, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        (start..end).contains(&address).then_some(address - start + number(offset)?)
    });
    found.ok_or_else(|| io::Error::other("the agent does not find itself in memory"))
}

fn pipe() -> io::Result<[File; 2]> {
    let (receiver, sender) = io::pipe()?;
    Ok([OwnedFd::from(receiver), OwnedFd::from(sender)].map(File::from))
}
