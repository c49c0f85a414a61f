//! tokio: where a program runs, wakes and makes tasks, read off its executable.
//!
//! Each type of task has a table of functions (`runtime::task::raw::Vtable`), which is data: seven
//! functions, and then three distances from the header of a task, of which two are nearly the
//! same in all. So it is found without symbols.

mod entry;
mod waker;

use std::collections::BTreeMap;
use std::fs::File;

use tracewire_common::tokio::TokioPlace;

use crate::elf::{Elf, Section, Window};

/// Tables longer than this are not looked at, in bytes: one of relocations, or what is relocated.
const LONGEST: u64 = 16 << 20;

/// Types of tasks of a program, at most. A large one has some hundred.
const MOST_KINDS: usize = 4096;

/// Functions at the beginning of a table.
const FUNCTIONS: usize = 7;
/// Which of these runs a task.
const POLL: usize = 0;

/// The length of a task's header in bytes: in the builds that everybody has, and in those with what is
/// unstable, more.
const HEADERS: std::ops::RangeInclusive<u64> = 32..=64;
/// No task is larger than this, in bytes.
const LARGEST_TASK: u64 = 1 << 24;

/// Names that a program on tokio has in it: of its threads, or in what it says where there is no runtime.
const TRACES: [&[u8]; 2] = [b"tokio-r", b"Tokio 1.x"];

/// What has to be known of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokioBinary {
    /// Functions that run a task, as places in the file in bytes, and the distance from a task's header to its
    /// number.
    pub(crate) runs: Vec<(u64, u32)>,
    /// Functions that are called when a task is woken, as places in the file in bytes.
    pub(crate) wakes: Vec<u64>,
    /// Functions that every task passes that is made; none where symbols were removed.
    pub(crate) makes: Vec<u64>,
}

impl TokioBinary {
    /// Each place to probe where a function is entered, with the probe's cookie.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, u64)> {
        let runs = (self.runs.iter())
            .map(|&(offset, id_offset)| (offset, TokioPlace::Runs.cookie(id_offset)));
        let with = |place: TokioPlace| move |&offset: &u64| (offset, place.cookie(0));
        runs.chain(self.wakes.iter().map(with(TokioPlace::Woken)))
            .chain(self.makes.iter().map(with(TokioPlace::Made)))
    }
}

/// Reads an executable. `None` if it has no tasks of tokio.
pub(crate) fn inspect(file: &File) -> Option<TokioBinary> {
    let mut elf = Elf::open(Window::new(file))?;
    let strings = elf.section(b".rodata")?;
    let is_there = |elf: &mut Elf<'_>, name| elf.window.find(strings.at, strings.len, name);
    if !TRACES.iter().any(|name| is_there(&mut elf, name).is_some()) {
        return None;
    }
    let words = relocated(&mut elf)?;
    let mut runs = BTreeMap::new();
    for table in words.windows(FUNCTIONS + 3) {
        let Some(id_offset) = id_offset(&elf, table) else { continue };
        note(&mut runs, elf.offset_of_code(*table.get(POLL)?)?, id_offset);
    }
    let runs: Vec<(u64, u32)> =
        runs.into_iter().filter_map(|(place, offset)| Some((place, offset?))).collect();
    if runs.is_empty() || runs.len() > MOST_KINDS {
        return None;
    }
    let named = |elf: &mut Elf<'_>, function: &[u8], module: &[u8]| -> Vec<u64> {
        let functions = elf
            .functions_named_like(function, |name| is_in(name, b"5tokio") && is_in(name, module));
        functions.into_iter().filter_map(|address| elf.offset_of_code(address)).collect()
    };
    let makes = named(&mut elf, b"10bind_inner", b"OwnedTasks");
    // Both, or who asks for something would not always be seen to.
    let by_name =
        [&b"11wake_by_val"[..], b"11wake_by_ref"].map(|name| named(&mut elf, name, b"5waker"));
    let wakes = if by_name.iter().all(|found| !found.is_empty()) {
        by_name.concat()
    } else {
        waker::find(&mut elf, &words).unwrap_or_default()
    };
    let mut cheapest = |functions: Vec<u64>| -> Vec<u64> {
        functions.into_iter().map(|function| entry::cheapest(&mut elf, function)).collect()
    };
    let (wakes, makes) = (cheapest(wakes), cheapest(makes));
    Some(TokioBinary { runs, wakes, makes })
}

fn is_in(name: &[u8], part: &[u8]) -> bool {
    name.windows(part.len()).any(|some| some == part)
}

/// What is found at a place. Where a linker has made one of two functions that are alike, tasks of both
/// come there; if these differ nothing is known of them.
fn note(places: &mut BTreeMap<u64, Option<u32>>, place: u64, id_offset: u32) {
    places
        .entry(place)
        .and_modify(|known| {
            if *known != Some(id_offset) {
                *known = None;
            }
        })
        .or_insert(Some(id_offset));
}

/// The distance from a task's header to its number, if these words are such a table. (Those of the pool
/// for what blocks are not: behind their headers is no scheduler.)
fn id_offset(elf: &Elf<'_>, table: &[u64]) -> Option<u32> {
    let (functions, numbers) = table.split_at_checked(FUNCTIONS)?;
    let &[trailer, scheduler, id] = numbers else { return None };
    let is_table = HEADERS.contains(&scheduler)
        && scheduler % 8 == 0
        && id == scheduler + 8
        && trailer % 8 == 0
        && (id + 8..LARGEST_TASK).contains(&trailer)
        && functions.iter().all(|&function| elf.offset_of_code(function).is_some());
    if is_table { u32::try_from(id).ok() } else { None }
}

/// The words of the data that the loader relocates, and nobody writes to afterwards, as they are in
/// memory, but for the address at which the program is loaded.
fn relocated(elf: &mut Elf<'_>) -> Option<Vec<u64>> {
    let data = elf.section(b".data.rel.ro").filter(|data| data.len <= LONGEST)?;
    let mut words: Vec<u64> = read_words(elf, data)?;
    // Packed relocations have the words in the file.
    elf.for_each_relative(LONGEST, |place, address| {
        let Some(at) = place.checked_sub(data.address) else { return };
        let word = usize::try_from(at / 8).ok().and_then(|place| words.get_mut(place));
        if let (0, Some(word)) = (at % 8, word) {
            *word = address;
        }
    });
    Some(words)
}

fn read_words(elf: &mut Elf<'_>, section: Section) -> Option<Vec<u64>> {
    (0..section.len / 8).map(|index| elf.window.u64(section.at.checked_add(index * 8)?)).collect()
}

#[cfg(test)]
mod tokio_tasks_tests;
