//! Lengths that the verifier can follow.

/// A length that is known to be from 1 to `most`, if it is.
///
/// The compiler may prove a check needless, move it, or do it on another register, and
/// then the verifier says `R4 invalid zero-sized read: u64=[0,4294967295]` or `R3 min
/// value is outside of the allowed memory range`. An instruction that does nothing hides
/// where the value came from, so that the checks stay, on the register that is used. (No
/// instruction at all would do as well, but its line makes `Invalid line_info`.)
#[inline(always)]
pub(crate) fn bounded(len: u32, most: u32) -> Option<u32> {
    let mut hidden = len as u64;
    // SAFETY: adds nothing to a number.
    unsafe {
        core::arch::asm!("{0} += 0", inout(reg) hidden, options(nomem, nostack, preserves_flags));
    }
    if hidden == 0 || hidden > most as u64 { None } else { Some(hidden as u32) }
}
