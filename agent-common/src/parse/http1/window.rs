//! Words out of the window.

use super::Window;
use crate::config::WINDOW;

/// The eight bytes at `at`, the first in the lowest byte.
#[inline(always)]
pub(in crate::parse) fn read_word(window: &Window, at: u32) -> u64 {
    let at = at as usize & (WINDOW - 1);
    let place = window.0.as_ptr().wrapping_add(at);
    // SAFETY: `at` is below WINDOW and the window is more than eight bytes longer than that.
    u64::from_le(unsafe { load_unaligned(place) })
}

/// The byte at `at`.
#[inline(always)]
pub(in crate::parse) fn byte_at(window: &Window, at: u32) -> u8 {
    read_word(window, at) as u8
}

/// Sets the highest bit of the first byte that is zero; of bytes behind it nothing is said.
#[inline(always)]
pub(super) fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080
}

/// # Safety
///
/// `place` must point to eight readable bytes.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
unsafe fn load_unaligned(place: *const u8) -> u64 {
    // SAFETY: the caller's promise; the read is unaligned.
    unsafe { place.cast::<u64>().read_unaligned() }
}

/// The compiler makes eight loads of bytes out of an unaligned read for this target.
/// The kernel allows the one load from map memory; the target feature that would let
/// the compiler use it makes it misalign the stack too, and the verifier says
/// `misaligned stack access off 0+0+-20 size 8`.
///
/// # Safety
///
/// `place` must point to eight readable bytes.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn load_unaligned(place: *const u8) -> u64 {
    let word: u64;
    // SAFETY: the caller's promise; reads only.
    unsafe {
        core::arch::asm!(
            "{word} = *(u64 *)({place} + 0)",
            word = out(reg) word,
            place = in(reg) place,
            options(readonly, nostack, preserves_flags, pure),
        );
    }
    word
}
