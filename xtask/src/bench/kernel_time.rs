//! Time that the agent's programs spend in the kernel, as the kernel itself counts it.

use anyhow::{Context, Result};

/// The switch that makes the kernel time BPF programs.
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// While it lives, the kernel counts. Counting costs, so nothing else is measured then.
pub(super) struct Timing {
    before: String,
}

impl Timing {
    /// Switches the counting on.
    ///
    /// # Errors
    ///
    /// If this kernel has no such switch.
    pub(super) fn enable() -> Result<Self> {
        let before =
            std::fs::read_to_string(SWITCH).with_context(|| format!("cannot read {SWITCH}"))?;
        std::fs::write(SWITCH, "1").with_context(|| format!("cannot write {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(SWITCH, self.before.trim()) {
            crate::progress::say(format!("cannot restore {SWITCH}: {error}"));
        }
    }
}

/// Nanoseconds and runs of all programs that a process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelTime {
    /// Time, in nanoseconds.
    pub(super) nanoseconds: u64,
    /// How often a program ran.
    pub(super) runs: u64,
}

/// Sums up the programs of a process. A program that is held twice counts once.
///
/// # Errors
///
/// If there is no such process.
pub(super) fn of_process(pid: u32) -> Result<KernelTime> {
    let mut programs = std::collections::BTreeMap::new();
    let dir = format!("/proc/{pid}/fdinfo");
    for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot read {dir}"))? {
        // A descriptor may be closed while the directory is read.
        let Ok(text) = std::fs::read_to_string(entry?.path()) else {
            continue;
        };
        if let Some((id, time)) = program(&text) {
            programs.insert(id, time);
        }
    }
    Ok(programs.into_values().fold(KernelTime::default(), |sum, one| KernelTime {
        nanoseconds: sum.nanoseconds + one.nanoseconds,
        runs: sum.runs + one.runs,
    }))
}

/// The id and the time of a program, from the text of its descriptor's `fdinfo`
/// (`bpf_prog_show_fdinfo` in `kernel/bpf/syscall.c`).
fn program(fdinfo: &str) -> Option<(u64, KernelTime)> {
    let field = |name: &str| {
        fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")?.parse().ok())
    };
    let time = KernelTime { nanoseconds: field("run_time_ns")?, runs: field("run_cnt")? };
    Some((field("prog_id")?, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_time_is_read_from_its_descriptor() {
        let text = "pos:\t0\nprog_type:\t8\nprog_id:\t17\nrun_time_ns:\t420\nrun_cnt:\t3\n";
        assert_eq!(program(text), Some((17, KernelTime { nanoseconds: 420, runs: 3 })));
        assert_eq!(program("pos:\t0\nmap_id:\t3\n"), None);
    }
}
