//! The C library's heap.

/// Gives the system what is not in use, some tens of MiB after the kernel's types and the programs were
/// parsed: the C library keeps what is free between things that stay.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; what is in use is left alone.
    unsafe {
        libc::malloc_trim(0);
    }
}
