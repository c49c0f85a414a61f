//! Functions that an extension of CPython offers as methods: by the table of them (`PyMethodDef`),
//! which is there without symbols too.

use std::collections::BTreeMap;

use crate::elf::Elf;

/// `struct PyMethodDef`: name, function, flags, documentation.
const ENTRY: u64 = 32;
/// Methods of one type that are looked at, before and after the one by which its table is found.
const MOST: u64 = 16;
/// Tables that are looked at for one with all names.
const MOST_TABLES: usize = 64;
/// Tables of relocations longer than this are not looked at, in bytes. Those of CPython have some hundred KiB,
/// with all its modules in one file.
const LONGEST: u64 = 8 << 20;

/// Where the loader writes addresses of the file itself, and which.
pub(super) struct Relocations(BTreeMap<u64, u64>);

impl Relocations {
    pub(super) fn of(elf: &mut Elf<'_>) -> Self {
        let mut known = BTreeMap::new();
        elf.for_each_relative(LONGEST, |place, address| {
            known.entry(place).or_insert(address);
        });
        Self(known)
    }

    fn places_of(&self, address: u64) -> impl Iterator<Item = u64> {
        let places = self.0.iter().filter(move |(_, value)| **value == address);
        places.map(|(place, _)| *place)
    }
}

/// Finds the functions of these names in the one table that has all of them. It is found by the first.
pub(super) fn find<const N: usize>(
    elf: &mut Elf<'_>,
    relocations: &Relocations,
    names: [&[u8]; N],
) -> Option<[u64; N]> {
    let at = string(elf, names.first()?)?;
    let tables = places_of_pointer(elf, relocations, at);
    tables.into_iter().find_map(|table| functions(elf, relocations, table, names))
}

/// The functions of these names, in the table that has an entry there. It ends, either way, where an entry
/// has no name or no function.
fn functions<const N: usize>(
    elf: &mut Elf<'_>,
    relocations: &Relocations,
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
pub(super) fn slot(elf: &mut Elf<'_>, relocations: &Relocations, place: u64) -> Option<u64> {
    pointer(elf, relocations, place)
}

/// The address of a string of constants.
fn string(elf: &mut Elf<'_>, text: &[u8]) -> Option<u64> {
    let section = elf.section(b".rodata")?;
    let wanted = [&[0], text, &[0]].concat();
    let found = elf.window.find(section.at, section.len, &wanted)?;
    section.address.checked_add(found + 1)
}

fn is_string(elf: &mut Elf<'_>, address: u64, text: &[u8]) -> bool {
    let wanted = [text, &[0]].concat();
    let at = elf.offset_of(address);
    at.is_some_and(|at| elf.window.bytes(at, wanted.len()) == Some(&wanted))
}

/// Where that address is kept in the file's data, as far as is looked.
fn places_of_pointer(elf: &mut Elf<'_>, relocations: &Relocations, to: u64) -> Vec<u64> {
    let mut places: Vec<u64> = relocations.places_of(to).take(MOST_TABLES).collect();
    // A program that is not moved has it where it is.
    for name in [&b".data"[..], b".data.rel.ro"] {
        let Some(section) = elf.section(name) else { continue };
        let mut from = 0;
        while places.len() < MOST_TABLES && from < section.len {
            let rest = section.len - from;
            let at = section.at.saturating_add(from);
            let Some(found) = elf.window.find(at, rest, &to.to_le_bytes()) else {
                break;
            };
            places.push(section.address.saturating_add(from + found));
            from += found + 8;
        }
    }
    places
}

/// The address that is kept there.
fn pointer(elf: &mut Elf<'_>, relocations: &Relocations, place: u64) -> Option<u64> {
    let moved = relocations.0.get(&place).copied();
    moved.or_else(|| elf.word(place)).filter(|address| *address != 0)
}
