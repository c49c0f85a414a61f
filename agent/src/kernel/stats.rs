//! How often the programs ran and for how long, and what the verifier walked of each.
//!
//! The kernel shows these with a program's descriptor (`bpf_prog_show_fdinfo` in
//! kernel/bpf/syscall.c). It counts runs only while somebody asks for that, since two
//! looks at the clock a run cost more than some of the programs do.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::sys::{Stats, enable_stats};

/// What one program did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProgramRuns {
    /// The program.
    pub(crate) name: &'static str,
    /// How often it ran since it was loaded, while runs were counted.
    pub(crate) runs: u64,
    /// How long it ran, in ns, on all processors together.
    pub(crate) nanoseconds: u64,
}

/// While it lives, the kernel counts and times runs: those of every program of the host.
#[derive(Debug)]
pub(super) struct Timing(#[expect(dead_code, reason = "what counts is that it is open")] OwnedFd);

impl Timing {
    /// Asks the kernel to count (`BPF_ENABLE_STATS`, since 5.8).
    ///
    /// # Errors
    ///
    /// Without `CAP_SYS_ADMIN`.
    pub(super) fn start() -> Result<Self> {
        enable_stats(Stats::RunTime).map(Self).context(
            "the kernel does not count the runs of programs: --program-times needs CAP_SYS_ADMIN at the start",
        )
    }
}

/// The runs of those of the programs that ran.
pub(super) fn runs(ebpf: &Ebpf, names: impl Iterator<Item = &'static str>) -> Vec<ProgramRuns> {
    names.filter_map(|name| runs_of(name, ebpf.program(name)?.fd().ok()?)).collect()
}

/// The runs of a program, if it ran.
pub(super) fn runs_of(name: &'static str, program: &impl AsFd) -> Option<ProgramRuns> {
    let text = fdinfo(program)?;
    let runs = field(&text, "run_cnt").filter(|&runs| runs > 0)?;
    Some(ProgramRuns { name, runs, nanoseconds: field(&text, "run_time_ns")? })
}

/// Instructions that the verifier walked, over all paths, until it took the program
/// (since 5.16).
pub(super) fn verified_instructions(program: &impl AsFd) -> Option<u64> {
    field(&fdinfo(program)?, "verified_insns")
}

fn fdinfo(program: &impl AsFd) -> Option<String> {
    let number = program.as_fd().as_raw_fd();
    std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()
}

fn field(fdinfo: &str, name: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "pos:\t0\nrun_time_ns:\t420\nrun_cnt:\t3\nverified_insns:\t77\n";
        assert_eq!(field(text, "run_cnt"), Some(3));
        assert_eq!(field(text, "run_time_ns"), Some(420));
        assert_eq!(field(text, "run"), None);
        assert_eq!(field("map_id:\t3\n", "run_cnt"), None);
    }
}
