//! Node.js: where in its executable, or its library, the functions are of which it is of interest that
//! they run. They are exported, for modules that are compiled, also where symbols are stripped.

use std::fs::File;

use crate::elf::{Elf, Window};

/// `node::Environment::RunTimers(uv_timer_s*)` (src/env.cc), since Node 11: runs what timers are due.
const RUN_TIMERS: &[u8] = b"_ZN4node11Environment9RunTimersEP10uv_timer_s";

/// What a file has of Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeBinary {
    /// The function that runs timers, as a place in the file in bytes.
    pub(crate) run_timers: u64,
}

/// Reads a file. `None` if it has nothing of Node.
pub(crate) fn inspect(file: &File) -> Option<NodeBinary> {
    let mut elf = Elf::open(Window::new(file))?;
    let address = elf.exported(RUN_TIMERS)?;
    Some(NodeBinary { run_timers: elf.offset_of_code(address)? })
}
