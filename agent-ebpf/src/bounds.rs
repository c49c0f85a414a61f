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

/// A length from 1 to `MOST`, a power of two, if it is; in a way that every verifier can
/// follow. Those before 6.7 learn nothing from a comparison with zero, and say `invalid
/// access to map value ... size=0`.
#[inline(always)]
pub(crate) fn filling<const MOST: u32>(len: u32) -> Option<u32> {
    const { assert!(MOST.is_power_of_two()) };
    if len == 0 || len > MOST {
        return None;
    }
    Some(1 + masked::<MOST>(len - 1))
}

/// A number below `LIMIT`, a power of two, by a mask that the compiler cannot leave out,
/// however sure it is of the number.
#[inline(always)]
pub(crate) fn masked<const LIMIT: u32>(number: u32) -> u32 {
    const { assert!(LIMIT.is_power_of_two()) };
    let mut hidden = number as u64;
    // SAFETY: adds nothing to a number, and masks it.
    unsafe {
        core::arch::asm!(
            "{0} &= {1}",
            inout(reg) hidden,
            const LIMIT - 1,
            options(nomem, nostack, preserves_flags),
        );
    }
    hidden as u32
}
