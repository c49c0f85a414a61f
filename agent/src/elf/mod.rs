//! What is needed of an ELF file: a few sections, its segments, a symbol. The file is somebody
//! else's, so everything is bounded.

mod window;

use std::collections::BTreeSet;

use object::LittleEndian as Le;
use object::elf::{
    self, EM_X86_64, FileHeader64, ProgramHeader64, R_X86_64_RELATIVE, Rela64, SectionHeader64,
    Sym64,
};
use object::pod::{self, Pod};

pub(crate) use window::Window;

/// Segments, and sections, that are looked at. Go programs have some ten and some forty; those
/// with C code in them, more.
const MOST_SEGMENTS: u16 = 64;
const MOST_SECTIONS: u16 = 1024;

/// Sections longer than this are not looked at, in bytes. The largest Go programs have function
/// tables of some 100 MiB.
const LONGEST_SECTION: u64 = 1 << 30;

/// Names of symbols longer than this are not found by a part of them, in bytes.
const LONGEST_NAME: u64 = 4096;
/// As many are looked for by a part of their names, at most.
const MOST_NAMES: usize = 64;

/// A section in its file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    /// Where it starts, in bytes.
    pub(crate) at: u64,
    /// How long it is, in bytes.
    pub(crate) len: u64,
    /// The address that the program has it at, before it is moved.
    pub(crate) address: u64,
    /// Of a table of symbols: the index of the section with their names.
    link: u32,
}

/// A file for this machine, of 64 bits.
pub(crate) struct Elf<'a> {
    pub(crate) window: Window<'a>,
    /// Where the program starts: an address.
    pub(crate) entry: u64,
    segments: Vec<ProgramHeader64<Le>>,
    sections: Vec<SectionHeader64<Le>>,
    names: u16,
}

fn read<T: Pod + Copy>(window: &mut Window<'_>, at: u64) -> Option<T> {
    let bytes = window.bytes(at, size_of::<T>())?;
    Some(*pod::from_bytes::<T>(bytes).ok()?.0)
}

fn read_all<T: Pod + Copy>(window: &mut Window<'_>, at: u64, count: u16) -> Option<Vec<T>> {
    (0..u64::from(count))
        .map(|index| read(window, at.checked_add(index * size_of::<T>() as u64)?))
        .collect()
}

impl<'a> Elf<'a> {
    /// Reads the headers. `None` if it is no such file, or one with too many of anything.
    pub(crate) fn open(mut window: Window<'a>) -> Option<Self> {
        let header: FileHeader64<Le> = read(&mut window, 0)?;
        let ident = &header.e_ident;
        let (segments, sections) = (header.e_phnum.get(Le), header.e_shnum.get(Le));
        if ident.magic != elf::ELFMAG
            || ident.class != elf::ELFCLASS64
            || ident.data != elf::ELFDATA2LSB
            || header.e_machine.get(Le) != EM_X86_64
            || segments > MOST_SEGMENTS
            || sections > MOST_SECTIONS
        {
            return None;
        }
        let segments = read_all(&mut window, header.e_phoff.get(Le), segments)?;
        let sections = read_all(&mut window, header.e_shoff.get(Le), sections)?;
        let (entry, names) = (header.e_entry.get(Le), header.e_shstrndx.get(Le));
        Some(Self { window, entry, segments, sections, names })
    }

    /// What is at that place in the file.
    pub(crate) fn read<T: Pod + Copy>(&mut self, at: u64) -> Option<T> {
        read(&mut self.window, at)
    }

    fn section_at(&self, index: usize) -> Option<Section> {
        let header = self.sections.get(index)?;
        let len = header.sh_size.get(Le);
        (header.sh_type.get(Le) != elf::SHT_NOBITS && len <= LONGEST_SECTION).then(|| Section {
            at: header.sh_offset.get(Le),
            len,
            address: header.sh_addr.get(Le),
            link: header.sh_link.get(Le),
        })
    }

    /// The section of that name.
    pub(crate) fn section(&mut self, name: &[u8]) -> Option<Section> {
        let names = self.section_at(usize::from(self.names))?;
        let mut wanted = name.to_vec();
        wanted.push(0);
        let found = (0..self.sections.len()).find(|&index| {
            let named = self.sections.get(index).map(|one| u64::from(one.sh_name.get(Le)));
            let at = named.and_then(|offset| names.at.checked_add(offset));
            at.and_then(|at| self.window.bytes(at, wanted.len())) == Some(&wanted)
        })?;
        self.section_at(found)
    }

    /// Where in the file the instruction at an address is.
    pub(crate) fn offset_of_code(&self, address: u64) -> Option<u64> {
        self.segments
            .iter()
            .filter(|one| one.p_type.get(Le) == elf::PT_LOAD)
            .filter(|one| one.p_flags.get(Le) & elf::PF_X != 0)
            .find_map(|one| {
                let into = address.checked_sub(one.p_vaddr.get(Le))?;
                (into < one.p_filesz.get(Le)).then(|| one.p_offset.get(Le).checked_add(into))?
            })
    }

    /// Where in the file what the program has at an address is.
    pub(crate) fn offset_of(&self, address: u64) -> Option<u64> {
        self.segments.iter().filter(|one| one.p_type.get(Le) == elf::PT_LOAD).find_map(|one| {
            let into = address.checked_sub(one.p_vaddr.get(Le))?;
            (into < one.p_filesz.get(Le)).then(|| one.p_offset.get(Le).checked_add(into))?
        })
    }

    /// The eight bytes that the file has for an address, as a number.
    pub(crate) fn word(&mut self, address: u64) -> Option<u64> {
        let at = self.offset_of(address)?;
        self.window.u64(at)
    }

    /// Tells of each relocation by which an address of the file itself comes to where it is kept: the place, and
    /// the address, before the file is moved. Of none if the table is longer than `longest` bytes.
    pub(crate) fn for_each_relative(&mut self, longest: u64, mut tell: impl FnMut(u64, u64)) {
        let Some(table) = self.section(b".rela.dyn").filter(|table| table.len <= longest) else {
            return;
        };
        let size = size_of::<Rela64<Le>>() as u64;
        for index in 0..table.len / size {
            let at = table.at.checked_add(index * size);
            let Some(one) = at.and_then(|at| self.read::<Rela64<Le>>(at)) else { return };
            if one.r_type(Le, false) == R_X86_64_RELATIVE {
                tell(one.r_offset.get(Le), one.r_addend.get(Le) as u64);
            }
        }
    }

    /// The thread-local block of the executable: its address, its length and its alignment.
    pub(crate) fn thread_local_block(&self) -> Option<(u64, u64, u64)> {
        let block = self.segments.iter().find(|one| one.p_type.get(Le) == elf::PT_TLS)?;
        Some((block.p_vaddr.get(Le), block.p_memsz.get(Le), block.p_align.get(Le)))
    }

    /// Where in that block the variable of that name is.
    pub(crate) fn thread_local(&mut self, name: &[u8]) -> Option<u64> {
        self.symbol(name, elf::STT_TLS)
    }

    /// The address of the function of that name, where symbols were not removed.
    pub(crate) fn function(&mut self, name: &[u8]) -> Option<u64> {
        self.symbol(name, elf::STT_FUNC)
    }

    /// The addresses of functions whose names have `part` in them and are wanted, where symbols were not removed;
    /// none if these are more than [`MOST_NAMES`].
    pub(crate) fn functions_named_like(
        &mut self,
        part: &[u8],
        is_wanted: impl Fn(&[u8]) -> bool,
    ) -> BTreeSet<u64> {
        self.section(b".symtab")
            .and_then(|table| {
                let names = self.names_with(table, part, is_wanted)?;
                self.functions_of(table, &names)
            })
            .unwrap_or_default()
    }

    /// Where in that table's strings names begin that have `part` in them and are wanted; `None` if these are more
    /// than [`MOST_NAMES`].
    fn names_with(
        &mut self,
        table: Section,
        part: &[u8],
        is_wanted: impl Fn(&[u8]) -> bool,
    ) -> Option<BTreeSet<u64>> {
        let strings = self.section_at(usize::try_from(table.link).ok()?)?;
        let mut names = BTreeSet::new();
        let mut from = 0;
        loop {
            let rest = strings.len.checked_sub(from)?;
            let Some(found) = self.window.find(strings.at.checked_add(from)?, rest, part) else {
                return Some(names);
            };
            let at = from + found;
            let before = at.min(LONGEST_NAME);
            let len = (before + LONGEST_NAME).min(strings.len - (at - before));
            let text = self.window.upto(strings.at + (at - before), usize::try_from(len).ok()?)?;
            let (head, tail) = text.split_at_checked(usize::try_from(before).ok()?)?;
            let start = head.iter().rposition(|&byte| byte == 0).map_or(0, |nul| nul + 1);
            let end = tail.iter().position(|&byte| byte == 0)?;
            if is_wanted(text.get(start..head.len() + end)?) {
                names.insert(at - before + start as u64);
            }
            if names.len() > MOST_NAMES {
                return None;
            }
            from = at + end as u64;
        }
    }

    fn functions_of(&mut self, table: Section, names: &BTreeSet<u64>) -> Option<BTreeSet<u64>> {
        let size = size_of::<Sym64<Le>>() as u64;
        let mut found = BTreeSet::new();
        if names.is_empty() {
            return Some(found);
        }
        for index in 0..table.len / size {
            let symbol: Sym64<Le> = self.read(table.at.checked_add(index * size)?)?;
            let is_here =
                symbol.st_info & 0xf == elf::STT_FUNC && symbol.st_shndx.get(Le) != elf::SHN_UNDEF;
            if is_here && names.contains(&u64::from(symbol.st_name.get(Le))) {
                found.insert(symbol.st_value.get(Le));
            }
            if found.len() > MOST_NAMES {
                return None;
            }
        }
        Some(found)
    }

    fn symbol(&mut self, name: &[u8], kind: u8) -> Option<u64> {
        let table = self.section(b".symtab")?;
        self.symbol_in(table, name, kind)
    }

    /// The address of a function that the file offers to others under that name.
    pub(crate) fn exported(&mut self, name: &[u8]) -> Option<u64> {
        let table = self.section(b".dynsym")?;
        self.symbol_in(table, name, elf::STT_FUNC)
    }

    /// The address of a variable that the file offers to others under that name.
    pub(crate) fn exported_object(&mut self, name: &[u8]) -> Option<u64> {
        let table = self.section(b".dynsym")?;
        self.symbol_in(table, name, elf::STT_OBJECT)
    }

    /// Whether the file uses something of that name that others offer.
    pub(crate) fn imports(&mut self, name: &[u8]) -> bool {
        let table = self.section(b".dynsym");
        let symbol = table.and_then(|table| {
            self.find_symbol(table, name, |one| one.st_shndx.get(Le) == elf::SHN_UNDEF)
        });
        symbol.is_some()
    }

    fn symbol_in(&mut self, table: Section, name: &[u8], kind: u8) -> Option<u64> {
        let symbol = self.find_symbol(table, name, |one| {
            one.st_info & 0xf == kind && one.st_shndx.get(Le) != elf::SHN_UNDEF
        })?;
        Some(symbol.st_value.get(Le))
    }

    fn find_symbol(
        &mut self,
        table: Section,
        name: &[u8],
        is_wanted: impl Fn(&Sym64<Le>) -> bool,
    ) -> Option<Sym64<Le>> {
        let names = self.section_at(usize::try_from(table.link).ok()?)?;
        let mut wanted = name.to_vec();
        wanted.push(0);
        // Where the name is, which comes after another: the symbols are gone through once.
        let at = self.window.find(names.at, names.len, &[&[0], wanted.as_slice()].concat())? + 1;
        let size = size_of::<Sym64<Le>>() as u64;
        for index in 0..table.len / size {
            let at_symbol = table.at.checked_add(index * size)?;
            let symbol: Sym64<Le> = read(&mut self.window, at_symbol)?;
            if u64::from(symbol.st_name.get(Le)) == at && is_wanted(&symbol) {
                return Some(symbol);
            }
        }
        None
    }
}
