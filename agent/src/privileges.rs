//! Capabilities: which the agent needs, when, and letting go of the others.
//!
//! All that needs most of them happens before the agent is ready: programs are loaded and
//! attached, maps are made. What is left to do then is to read the kernel half's records,
//! which takes none, and to look at processes, which takes two.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What happens without a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    /// The agent does not start.
    Nothing,
    /// The agent works, with less.
    Less(&'static str),
}

/// A capability that is of use.
#[derive(Debug)]
struct Use {
    capability: CapabilitySet,
    name: &'static str,
    /// What it is for; goes with "to".
    purpose: &'static str,
    without: Without,
    /// Whether it is kept for as long as the agent runs.
    kept: bool,
}

/// Every capability that the agent makes use of. `CAP_BPF` and `CAP_PERFMON` came with
/// Linux 5.8, which is older than anything that the agent runs on; `CAP_SYS_ADMIN` stands
/// for both (`bpf_capable`, `perfmon_capable` in include/linux/capability.h).
const USES: &[Use] = &[
    Use {
        capability: CapabilitySet::BPF,
        name: "CAP_BPF",
        purpose: "make maps and load programs",
        without: Without::Nothing,
        kept: false,
    },
    Use {
        capability: CapabilitySet::PERFMON,
        name: "CAP_PERFMON",
        purpose: "load the programs that follow tasks",
        without: Without::Nothing,
        kept: false,
    },
    Use {
        capability: CapabilitySet::NET_ADMIN,
        name: "CAP_NET_ADMIN",
        purpose: "load the programs that read and write traffic, and attach them",
        without: Without::Nothing,
        kept: false,
    },
    Use {
        capability: CapabilitySet::SYS_PTRACE,
        name: "CAP_SYS_PTRACE",
        purpose: "name processes by their environment and executable, and enrol connections older than the agent",
        without: Without::Less(
            "processes of other users, and those with more capabilities, may lack a name, and their connections that are older than the agent get no headers",
        ),
        kept: true,
    },
    Use {
        capability: CapabilitySet::DAC_READ_SEARCH,
        name: "CAP_DAC_READ_SEARCH",
        purpose: "read what /proc has of other users' processes",
        without: Without::Less(
            "processes of other users may lack a name, and their connections that are older than the agent get no headers",
        ),
        kept: true,
    },
    Use {
        capability: CapabilitySet::SYS_ADMIN,
        name: "CAP_SYS_ADMIN",
        purpose: "take over connections that an earlier agent enrolled, and switch the programs' run times on",
        without: Without::Less(
            "connections that an earlier agent enrolled get no headers until they are closed, and --program-times cannot be used",
        ),
        kept: false,
    },
    Use {
        capability: CapabilitySet::SETPCAP,
        name: "CAP_SETPCAP",
        purpose: "empty the bounding set",
        without: Without::Less(
            "the bounding set stays as it is; nothing can be gained from it all the same (no_new_privs)",
        ),
        kept: false,
    },
];

/// The inode of the initial user namespace, `PROC_USER_INIT_INO` (include/linux/proc_ns.h).
const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;

/// How a missing capability can be had.
pub(crate) const HOW: &str = "run it with sudo, or give it what is missing (systemd: AmbientCapabilities=, Kubernetes: securityContext.capabilities.add, podman: --cap-add, a binary: setcap)";

/// A line of the report on capabilities.
#[derive(Debug)]
pub(crate) struct Line {
    /// The capability, `CAP_…`.
    pub(crate) name: &'static str,
    /// Whether it is there.
    pub(crate) held: bool,
    /// Whether the agent starts without it.
    pub(crate) optional: bool,
    /// What it is for, for how long, and what to do where it is missing.
    pub(crate) text: String,
}

/// What the agent may do: each capability that it makes use of.
pub(crate) fn report() -> Vec<Line> {
    let held = effective();
    let mut lines: Vec<Line> = USES.iter().map(|one| line(one, holds(held, one))).collect();
    lines.push(memlock_line(held));
    lines
}

/// What keeps the agent from starting, if anything does.
pub(crate) fn obstacle() -> Option<String> {
    let outside =
        fs::metadata("/proc/self/ns/user").is_ok_and(|m| m.ino() != INITIAL_USER_NAMESPACE);
    if outside {
        return Some("Tracewire is in a user namespace of its own, where capabilities say nothing to the kernel's BPF: run it as root of the host, in a container without user namespaces (rootless containers have one)".to_owned());
    }
    let held = effective();
    let missing: Vec<&str> = USES
        .iter()
        .filter(|one| one.without == Without::Nothing && !holds(held, one))
        .map(|one| one.name)
        .collect();
    (!missing.is_empty()).then(|| {
        format!("Tracewire lacks the privileges {}: {HOW}; `tracewire check` lists all that it makes use of", missing.join(", "))
    })
}

/// What is not there and could be missed, one sentence each.
pub(crate) fn losses() -> Vec<String> {
    let held = effective();
    USES.iter()
        .filter(|one| !holds(held, one))
        .filter_map(|one| match one.without {
            Without::Less(loss) => Some(format!("without {} {loss}", one.name)),
            Without::Nothing => None,
        })
        .collect()
}

fn line(one: &Use, held: bool) -> Line {
    let optional = matches!(one.without, Without::Less(_));
    let text = match (held, one.without) {
        (true, _) => {
            let until = if one.kept { "as long as it runs" } else { "until it is ready" };
            format!("there (to {}; {until})", one.purpose)
        }
        (false, Without::Nothing) => format!("cannot {}: {HOW}", one.purpose),
        (false, Without::Less(loss)) => {
            format!("{loss} (to {}); if that matters, {HOW}", one.purpose)
        }
    };
    Line { name: one.name, held, optional, text }
}

/// Before 5.11 maps count against `RLIMIT_MEMLOCK`, which only `CAP_SYS_RESOURCE` raises
/// past its hard limit. The loader raises it where the kernel needs that.
fn memlock_line(held: CapabilitySet) -> Line {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let unlimited = limit.maximum.is_none();
    let has = held.contains(CapabilitySet::SYS_RESOURCE);
    let text = match (has, unlimited) {
        (true, _) => "there (to lock memory for maps, before Linux 5.11 only; until it is ready)".to_owned(),
        (false, true) => "not there, and not needed: RLIMIT_MEMLOCK has no hard limit".to_owned(),
        (false, false) => "not there, and needed before Linux 5.11 only, to lock memory for maps; there, start the agent with an unlimited RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=infinity) or add the capability".to_owned(),
    };
    Line { name: "CAP_SYS_RESOURCE", held: has || unlimited, optional: true, text }
}

fn effective() -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

fn holds(held: CapabilitySet, one: &Use) -> bool {
    let stands_for = [CapabilitySet::BPF, CapabilitySet::PERFMON].contains(&one.capability)
        && held.contains(CapabilitySet::SYS_ADMIN);
    held.contains(one.capability) || stands_for
}

/// Why capabilities could not be let go of.
#[derive(Debug)]
pub(crate) struct DropError(&'static str, Errno);

impl fmt::Display for DropError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.0, self.1)
    }
}

impl std::error::Error for DropError {}

/// Lets go of everything that a running agent has no use for. To be called when all is
/// attached, while the process has one thread: capabilities are a thread's own.
/// Answers the names of what is kept.
///
/// `bpf` says that this kernel lets nobody ask for a map's entries without `CAP_BPF`.
///
/// # Errors
///
/// If the kernel refuses, which it does for no reason that is known.
pub(crate) fn drop_unneeded(bpf: bool) -> Result<Vec<&'static str>, DropError> {
    let failed = |what| move |errno| DropError(what, errno);
    let kept = USES.iter().filter(|one| one.kept || (bpf && one.capability == CapabilitySet::BPF));
    let held = capabilities(None).map_err(failed("read the capabilities"))?;
    let mut keep = kept.clone().fold(CapabilitySet::empty(), |all, one| all | one.capability);
    if bpf && !held.effective.contains(CapabilitySet::BPF) {
        // It stood for the other one.
        keep |= CapabilitySet::SYS_ADMIN;
    }
    let keep = keep & held.permitted;

    set_no_new_privs(true).map_err(failed("set no_new_privs"))?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            match remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // Past the last one that this kernel knows.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(DropError("empty the bounding set", errno)),
            }
        }
    }
    clear_ambient_capability_set().map_err(failed("empty the ambient set"))?;
    let sets =
        CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(failed("let go of capabilities"))?;
    Ok(USES.iter().filter(|one| keep.contains(one.capability)).map(|one| one.name).collect())
}

/// Answers `ask`'s answer as it is without any capability.
pub(crate) fn without_any<T: Send>(ask: impl FnOnce() -> T + Send) -> Option<T> {
    // Capabilities are a thread's own, so this one's stay as they are.
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let none = CapabilitySet::empty();
                let sets = capabilities(None).ok()?;
                set_capabilities(None, CapabilitySets { effective: none, ..sets }).ok()?;
                Some(ask())
            })
            .join()
            .ok()
            .flatten()
    })
}

/// Keeps the agent's memory, which holds pieces of traffic, out of core dumps, also of
/// those that `core_pattern` hands to a program. A failure leaves things as they were.
pub(crate) fn forbid_core_dumps() {
    let _kept_as_it_was = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_general_capability_stands_for_the_two_made_of_it() {
        let held = CapabilitySet::SYS_ADMIN;
        let stands: Vec<_> = USES.iter().filter(|one| holds(held, one)).map(|o| o.name).collect();
        assert_eq!(stands, ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"]);
    }

    #[test]
    fn the_table_for_users_has_every_capability_and_says_how_long_it_is_kept() {
        let readme = include_str!("../../README.md");
        let rows: Vec<Vec<&str>> = readme
            .lines()
            .filter(|line| line.starts_with("| `CAP_"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let mut expected: Vec<(String, bool, bool)> = USES
            .iter()
            .map(|one| (format!("`{}`", one.name), one.without == Without::Nothing, one.kept))
            .collect();
        expected.push(("`CAP_SYS_RESOURCE`".to_owned(), false, false));
        let told: Vec<(String, bool, bool)> = rows
            .iter()
            .map(|row| {
                let [name, needed, _purpose, kept, _without] = row.as_slice() else {
                    panic!("a row has five cells: {row:?}")
                };
                ((*name).to_owned(), *needed == "yes", *kept == "yes")
            })
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn a_question_without_capabilities_leaves_the_others_theirs() {
        let before = effective();
        assert_eq!(without_any(effective), Some(CapabilitySet::empty()));
        assert_eq!(effective(), before);
    }

    #[test]
    fn what_is_let_go_of_is_gone_from_every_set() {
        // In a thread of its own, which takes nothing from the others. What a thread
        // holds here depends on who runs the tests; that it holds no more, does not.
        std::thread::spawn(|| {
            let before = effective();
            let kept = drop_unneeded(false).expect("capabilities can always be let go of");
            let sets = capabilities(None).expect("they can be read");
            let few = CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH;
            assert_eq!(sets.effective, before & few);
            assert_eq!(sets.permitted, sets.effective);
            assert_eq!(sets.inheritable, CapabilitySet::empty());
            assert_eq!(kept.len() as u32, sets.effective.bits().count_ones());
            assert_eq!(rustix::thread::no_new_privs(), Ok(true));
        })
        .join()
        .expect("the assertions above hold");
    }
}
