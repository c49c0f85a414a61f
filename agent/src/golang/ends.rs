//! Where functions return. The return address must be left alone, for Go's runtime looks at it, so it is
//! the instructions that return which are probed.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

use super::{Code, Unknown};
use crate::elf::{Elf, Window};

/// The longest function that is looked into, in bytes.
const LONGEST: usize = Window::LONGEST;

/// The instructions by which a function returns: where they are in the file.
///
/// # Errors
///
/// If not all of the function is understood.
pub(super) fn ends(elf: &mut Elf<'_>, code: Code) -> Result<Vec<u64>, Unknown> {
    let start = elf.offset_of_code(code.address).ok_or(Unknown::Malformed)?;
    let len = usize::try_from(code.len).ok().filter(|len| *len <= LONGEST);
    let len = len.ok_or(Unknown::Functions)?;
    let bytes = elf.window.bytes(start, len).ok_or(Unknown::Malformed)?;
    let mut ends = Vec::new();
    for instruction in Decoder::with_ip(64, bytes, start, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            return Err(Unknown::Functions);
        }
        if instruction.mnemonic() == Mnemonic::Ret {
            ends.push(instruction.ip());
        }
    }
    if ends.is_empty() { Err(Unknown::Functions) } else { Ok(ends) }
}
