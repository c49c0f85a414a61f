//! Go's table of functions (`runtime.pclntab`), which a program needs for its own stack traces,
//! and so has even where its symbols were removed.
//!
//! The format is that of `runtime.pcHeader` and `runtime._func` since Go 1.18
//! (src/runtime/symtab.go).

use super::Unknown;
use crate::elf::{Elf, Section, Window};

/// The format since Go 1.18, and since Go 1.20.
const MAGICS: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
/// Where Go programs start that Go's own linker made.
const ENTRY: &[u8] = b"_rt0_amd64_linux";

/// Where Go's code starts.
const START: &[u8] = b"runtime.text";

/// The table's header.
struct Header {
    functions: u64,
    text_start: u64,
    names_at: u64,
    names_end: u64,
    functions_at: u64,
}

/// A function's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code {
    /// Its address.
    pub(super) address: u64,
    /// How many bytes there are up to the next function's.
    pub(super) len: u64,
}

/// The code of a function. `None` if the program has it not.
///
/// # Errors
///
/// If the table is in a format that is not known.
pub(super) fn code_of(
    elf: &mut Elf<'_>,
    table: Section,
    text: Section,
    name: &[u8],
) -> Result<Option<Code>, Unknown> {
    let entry = elf.entry;
    let window = &mut elf.window;
    let header = header(window, table).ok_or(Unknown::Functions)?;
    let Some(name) = place_of_name(window, &header, name) else { return Ok(None) };
    let Some((offset, end)) = entry_of(window, table, &header, name) else { return Ok(None) };
    let (offset, end) = (u64::from(offset), u64::from(end));
    // Where functions are is counted from the start of Go's code. The header says where that is,
    // but not in programs that can be moved, nor from Go 1.26 on. Then it is the section's, if
    // nothing stands before it, as the start of the program shows; else a symbol has to say it.
    let start = if header.text_start != 0 {
        header.text_start
    } else {
        let starts_with_go = place_of_name(window, &header, ENTRY)
            .and_then(|name| entry_of(window, table, &header, name))
            .is_some_and(|(first, _)| text.address.checked_add(u64::from(first)) == Some(entry));
        let start = if starts_with_go { Some(text.address) } else { elf.function(START) };
        start.ok_or(Unknown::Functions)?
    };
    let address = start.checked_add(offset).ok_or(Unknown::Malformed)?;
    let len = end.checked_sub(offset).ok_or(Unknown::Malformed)?;
    let is_code = address
        .checked_sub(text.address)
        .and_then(|into| into.checked_add(len))
        .is_some_and(|end| len > 0 && end <= text.len);
    if is_code { Ok(Some(Code { address, len })) } else { Err(Unknown::Functions) }
}

/// Reads the header: magic, two zeros, the least length of an instruction, the size of a pointer;
/// then words: number of functions, of files, start of the code, and where in the table names,
/// units, files, tables of positions, and functions are.
fn header(window: &mut Window<'_>, table: Section) -> Option<Header> {
    let magic = window.u32(table.at)?;
    let sizes: [u8; 4] = window.bytes(table.at.checked_add(4)?, 4)?.try_into().ok()?;
    if !MAGICS.contains(&magic) || sizes != [0, 0, 1, 8] {
        return None;
    }
    let mut word = |index: u64| window.u64(table.at.checked_add(8 + index * 8)?);
    let (functions, text_start) = (word(0)?, word(2)?);
    let (names, units, functions_at) = (word(3)?, word(4)?, word(7)?);
    // Each function takes eight bytes in the index alone.
    let fits = names <= units
        && units <= functions_at
        && functions.checked_mul(8)?.checked_add(functions_at)? <= table.len;
    fits.then_some(Header {
        functions,
        text_start,
        names_at: table.at.checked_add(names)?,
        names_end: table.at.checked_add(units)?,
        functions_at: table.at.checked_add(functions_at)?,
    })
}

/// Where a function's name is among the names, each of which ends with a zero.
fn place_of_name(window: &mut Window<'_>, header: &Header, name: &[u8]) -> Option<u32> {
    let wanted = [&[0], name, &[0]].concat();
    let len = header.names_end - header.names_at;
    let found = window.find(header.names_at, len, &wanted)?;
    u32::try_from(found + 1).ok()
}

/// Where the function of that name starts, and where the next does, counted from the start of the code:
/// goes through the index, which says where a function is and where it is described. Behind the last
/// stands where the code ends.
fn entry_of(
    window: &mut Window<'_>,
    table: Section,
    header: &Header,
    name: u32,
) -> Option<(u32, u32)> {
    /// Entries of the index that are read at once.
    const ENTRIES: u64 = (Window::LONGEST / 8) as u64;
    let end = table.at.checked_add(table.len)?;
    let mut index = Vec::new();
    let mut first = 0;
    while first < header.functions {
        let count = ENTRIES.min(header.functions - first);
        let bytes = window.bytes(header.functions_at + first * 8, (count * 8) as usize)?;
        index.clear();
        index.extend(bytes.as_chunks::<8>().0.iter().map(|&entry| u64::from_le_bytes(entry)));
        for (number, &entry) in (first..).zip(&index) {
            // Two numbers of four bytes: where the function starts, where it is described. There
            // the name comes second.
            let described_at = header.functions_at.checked_add((entry >> 32) + 4)?;
            if described_at >= end {
                return None;
            }
            if window.u32(described_at)? == name {
                let next = window.u32(header.functions_at.checked_add((number + 1) * 8)?)?;
                return Some((entry as u32, next));
            }
        }
        first += count;
    }
    None
}
