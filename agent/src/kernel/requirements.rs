//! What the kernel must offer, and what to do if it does not.

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};

use super::btf::KernelTypes;
use crate::privileges;

/// One thing that is needed.
#[derive(Debug)]
pub(crate) struct Requirement {
    /// What it is.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) purpose: &'static str,
    /// `Ok`, or why it is not there and what to do.
    pub(crate) state: Result<String, String>,
}

impl Requirement {
    fn new(name: &'static str, purpose: &'static str, state: Result<String, String>) -> Self {
        Self { name, purpose, state }
    }
}

/// The kernel's release, as `uname -r` prints it.
pub(crate) fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Whether the kernel is of that release, major and minor, or a later one.
pub(super) fn is_at_least(wanted: (u32, u32)) -> bool {
    let release = release();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) >= wanted)
}

/// Looks at each, without attaching anything.
pub(crate) fn requirements() -> Vec<Requirement> {
    if let Some(obstacle) = privileges::obstacle() {
        // Without them nothing else can be told.
        return vec![Requirement::new("privileges", "load and attach programs", Err(obstacle))];
    }
    let mut found = Vec::new();
    let release = release();
    found.push(Requirement::new(
        "ring buffer",
        "bring records to the agent",
        supported(
            is_map_supported(MapType::RingBuf).ok(),
            format!("kernel {release} has no ring buffer; Tracewire needs 5.17 or newer"),
        ),
    ));
    found.push(Requirement::new(
        "bpf_loop",
        "follow heads of any length",
        supported(
            is_helper_supported(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_loop).ok(),
            format!("kernel {release} has no bpf_loop; Tracewire needs 5.17 or newer"),
        ),
    ));
    found.push(Requirement::new(
        "socket storage",
        "keep state on sockets",
        supported(
            is_map_supported(MapType::SkStorage).ok(),
            format!("kernel {release} has no socket storage; Tracewire needs 5.17 or newer"),
        ),
    ));
    found.push(Requirement::new(
        "kernel type information",
        "find fields of the kernel's structs",
        KernelTypes::of_kernel()
            .map(|_| "/sys/kernel/btf/vmlinux".to_owned())
            .map_err(|e| e.to_string()),
    ));
    found
}

fn supported(answer: Option<bool>, otherwise: String) -> Result<String, String> {
    match answer {
        Some(true) => Ok("there".to_owned()),
        // What cannot be told is tried when the programs are loaded.
        None => Ok("could not be probed".to_owned()),
        Some(false) => Err(otherwise),
    }
}
