//! Functions that an extension of CPython offers as methods: by the table of them (`PyMethodDef`),
//! which is there without symbols too.

use object::LittleEndian as Le;
use object::elf::{R_X86_64_RELATIVE, Rela64};
use object::pod;

use crate::elf::{Elf, Section};

/// `struct PyMethodDef`: name, function, flags, documentation.
const ENTRY: u64 = 32;
/// Methods of one type that are looked at, before and after the one by which its table is found.
const MOST: u64 = 16;
/// Tables that are looked at for one with all names.
const MOST_TABLES: usize = 64;

/// Finds the functions of these names in the one table that has all of them. It is found by the first.
pub(super) fn find<const N: usize>(elf: &mut Elf<'_>, names: [&[u8]; N]) -> Option<[u64; N]> {
    let at = string(elf, names.first()?)?;
    let relocations = elf.section(b".rela.dyn");
    let tables = places_of_pointer(elf, relocations, at);
    tables.into_iter().find_map(|table| functions(elf, relocations, table, names))
}

/// The functions of these names, in the table that has an entry there. It ends, either way, where an entry
/// has no name or no function.
fn functions<const N: usize>(
    elf: &mut Elf<'_>,
    relocations: Option<Section>,
    table: u64,
    names: [&[u8]; N],
) -> Option<[u64; N]> {
    let mut found = [0; N];
    let mut look_at = |entry: u64| {
        let name = pointer(elf, relocations, entry)?;
        let function = pointer(elf, relocations, entry.checked_add(8)?)?;
        elf.offset_of_code(function)?;
        for (wanted, place) in names.iter().zip(found.iter_mut()) {
            if *place == 0 && is_string(elf, name, wanted) {
                *place = function;
            }
        }
        Some(())
    };
    let before = (1..=MOST).map_while(|step| table.checked_sub(step * ENTRY));
    let after = (0..=MOST).map_while(|step| table.checked_add(step * ENTRY));
    for entries in
        [&mut after.into_iter() as &mut dyn Iterator<Item = u64>, &mut before.into_iter()]
    {
        for entry in entries {
            if look_at(entry).is_none() {
                break;
            }
        }
    }
    found.iter().all(|function| *function != 0).then_some(found)
}

/// The address that the file has at a place of a structure.
pub(super) fn slot(elf: &mut Elf<'_>, place: u64) -> Option<u64> {
    let relocations = elf.section(b".rela.dyn");
    pointer(elf, relocations, place)
}

/// The address of a string of constants.
fn string(elf: &mut Elf<'_>, text: &[u8]) -> Option<u64> {
    let section = elf.section(b".rodata")?;
    let wanted = [&[0], text, &[0]].concat();
    Some(section.address + elf.window.find(section.at, section.len, &wanted)? + 1)
}

fn is_string(elf: &mut Elf<'_>, address: u64, text: &[u8]) -> bool {
    let wanted = [text, &[0]].concat();
    let at = elf.offset_of(address);
    at.is_some_and(|at| elf.window.bytes(at, wanted.len()) == Some(&wanted))
}

fn relocation(elf: &mut Elf<'_>, section: Section, index: u64) -> Option<Rela64<Le>> {
    let size = size_of::<Rela64<Le>>() as u64;
    let bytes = elf.window.bytes(section.at.checked_add(index * size)?, size as usize)?;
    let (one, _) = pod::from_bytes::<Rela64<Le>>(bytes).ok()?;
    (one.r_info.get(Le) as u32 == R_X86_64_RELATIVE).then_some(*one)
}

/// The relocations by which addresses of the file itself come to where they are kept.
fn relocations_of<T>(
    elf: &mut Elf<'_>,
    section: Section,
    mut wanted: impl FnMut(u64, u64) -> Option<T>,
) -> Option<T> {
    let count = section.len / size_of::<Rela64<Le>>() as u64;
    (0..count).find_map(|index| {
        let one = relocation(elf, section, index)?;
        wanted(one.r_offset.get(Le), one.r_addend.get(Le) as u64)
    })
}

/// Where that address is kept in the file's data, as far as is looked.
fn places_of_pointer(elf: &mut Elf<'_>, relocations: Option<Section>, to: u64) -> Vec<u64> {
    let mut places = Vec::new();
    if let Some(section) = relocations {
        relocations_of(elf, section, |place, value| {
            if value == to {
                places.push(place);
            }
            (places.len() >= MOST_TABLES).then_some(())
        });
    }
    // A program that is not moved has it where it is.
    for name in [&b".data"[..], b".data.rel.ro"] {
        let Some(section) = elf.section(name) else { continue };
        let mut from = 0;
        while places.len() < MOST_TABLES && from < section.len {
            let rest = section.len - from;
            let Some(found) = elf.window.find(section.at + from, rest, &to.to_le_bytes()) else {
                break;
            };
            places.push(section.address + from + found);
            from += found + 8;
        }
    }
    places
}

/// The address that is kept there.
fn pointer(elf: &mut Elf<'_>, relocations: Option<Section>, place: u64) -> Option<u64> {
    let moved = relocations.and_then(|section| {
        relocations_of(elf, section, |at, value| (at == place).then_some(value))
    });
    moved.or_else(|| elf.word(place)).filter(|address| *address != 0)
}
