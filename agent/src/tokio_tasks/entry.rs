//! Where at the start of a function a probe is put.
//!
//! The kernel carries out some instructions by itself where a probe is, as `push` and jumps
//! (`arch_uprobe_analyze_insn`, arch/x86/kernel/uprobes.c); others it has the processor step, which takes
//! a second trap.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};

use crate::elf::Elf;

/// In so many bytes from its start a function comes to such an instruction, or the start itself is
/// probed.
const START: usize = 64;

/// The place in the file, in bytes, of the first instruction of the function there that the kernel carries out by itself;
/// before it nothing is decided, and the first two arguments are where they were. The function's start, if there is none.
pub(super) fn cheapest(elf: &mut Elf<'_>, function: u64) -> u64 {
    elf.window
        .upto(function, START)
        .and_then(|code| first_cheap(code, function))
        .unwrap_or(function)
}

/// The same of a function whose first bytes these are, and that is at that place.
pub(super) fn first_cheap(code: &[u8], function: u64) -> Option<u64> {
    Decoder::with_ip(64, code, function, DecoderOptions::NONE)
        .iter()
        .map_while(|instruction| {
            let is_cheap = is_cheap(&instruction);
            (is_cheap || keeps_arguments(&instruction)).then_some((is_cheap, instruction.ip()))
        })
        .find_map(|(is_cheap, place)| is_cheap.then_some(place))
}

/// Whether the kernel carries it out by itself.
fn is_cheap(instruction: &Instruction) -> bool {
    instruction.code() == Code::Push_r64
        || matches!(
            instruction.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        ) && !matches!(instruction.mnemonic(), Mnemonic::Loop | Mnemonic::Jrcxz)
}

/// Whether what comes after an instruction finds the arguments where they were before.
fn keeps_arguments(instruction: &Instruction) -> bool {
    let is_known = matches!(
        instruction.mnemonic(),
        Mnemonic::Sub
            | Mnemonic::Mov
            | Mnemonic::Lea
            | Mnemonic::Nop
            | Mnemonic::Test
            | Mnemonic::Cmp
            | Mnemonic::And
            | Mnemonic::Endbr64
    );
    is_known && !matches!(instruction.op0_register().full_register(), Register::RDI | Register::RSI)
}
