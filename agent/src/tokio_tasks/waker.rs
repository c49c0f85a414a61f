//! Where tasks are woken, in a program without symbols.
//!
//! A waker's table of functions (`core::task::RawWakerVTable`) is four of these: clone, wake, wake by
//! reference, drop. Those of tokio's tasks count in steps of 64, for the six lowest bits of the count
//! are the task's state (`REF_ONE`, tokio/src/runtime/task/state.rs); nobody else does.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

use crate::elf::Elf;

/// Functions of a table.
const CLONE: usize = 0;
const WAKES: [usize; 2] = [1, 2];
const DROP: usize = 3;

/// What one reference counts.
const REFERENCE: u64 = 64;

/// Runs of as many functions are looked at, at most: in large programs there are some ten thousand.
const MOST_TABLES: usize = 1 << 16;

/// In so many bytes from its start a function has counted.
const START: usize = 64;

/// Where tasks are woken, as places in the file in bytes. `words` are the data that has such tables in it.
pub(super) fn find(elf: &mut Elf<'_>, words: &[u64]) -> Option<Vec<u64>> {
    // By address: the file is read from its start to its end.
    let mut tables: BTreeMap<u64, &[u64]> = BTreeMap::new();
    for table in words.windows(DROP + 1) {
        if table.iter().all(|&function| elf.offset_of_code(function).is_some()) {
            tables.insert(*table.get(CLONE)?, table);
        }
        if tables.len() > MOST_TABLES {
            return None;
        }
    }
    tables.retain(|&clone, _| counts(elf, clone, REFERENCE));
    tables.retain(|_, table| {
        let dropping = table.get(DROP).copied().unwrap_or_default();
        counts(elf, dropping, REFERENCE.wrapping_neg())
    });
    let mut found = tables.into_iter();
    let table = found.next().map(|(_, table)| table)?;
    // Two versions of tokio in one program: which one the tasks are of is not known.
    if found.next().is_some() {
        return None;
    }
    WAKES.iter().map(|&place| elf.offset_of_code(*table.get(place)?)).collect()
}

/// Whether a function adds that to what its argument points at, as nobody else may do meanwhile.
fn counts(elf: &mut Elf<'_>, function: u64, step: u64) -> bool {
    let Some(place) = elf.offset_of_code(function) else { return false };
    let Some(bytes) = elf.window.upto(place, START) else { return false };
    let mut has_step = false;
    for instruction in &mut Decoder::with_ip(64, bytes, function, DecoderOptions::NONE) {
        has_step |= number_in(&instruction) == Some(step);
        if instruction.has_lock_prefix() && instruction.mnemonic() == Mnemonic::Xadd {
            return has_step;
        }
        if instruction.mnemonic() == Mnemonic::Ret {
            return false;
        }
    }
    false
}

/// The number that an instruction moves somewhere.
fn number_in(instruction: &Instruction) -> Option<u64> {
    let is_number = instruction.mnemonic() == Mnemonic::Mov
        && !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory);
    is_number.then(|| instruction.immediate(1))
}
