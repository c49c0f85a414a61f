//! Signals held back while programs are loaded.
//!
//! The verifier gives up with `EAGAIN` when a signal is pending (kernel/bpf/verifier.c),
//! and the loader tries again with the verifier's log, which takes many seconds.

use std::mem::MaybeUninit;

/// Signals are held back until this is dropped; then those that came are delivered.
pub(super) struct Quiet {
    before: libc::sigset_t,
}

impl Quiet {
    /// Holds back all signals of this thread that can be.
    pub(super) fn new() -> Self {
        let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: both sets are plain data, written by the calls before they are read.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
            Self { before: before.assume_init() }
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: a set that the kernel gave.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut())
        };
    }
}
