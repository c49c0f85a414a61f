//! The kernel half's counters, by name.

use std::collections::HashMap;

use aya::maps::{MapData, PerCpuArray};
use tracewire_common::counter::{Counter, OUTCOME_BASE};
use tracewire_common::outcome::Outcome;

/// Those that are not zero, summed over the processors.
pub(super) fn read_counters(counts: &PerCpuArray<MapData, u64>) -> HashMap<&'static str, u64> {
    let read =
        |index: u32| -> u64 { counts.get(&index, 0).map_or(0, |values| values.iter().sum()) };
    Counter::ALL
        .iter()
        .map(|&counter| (counter.as_str(), read(counter as u32)))
        .chain(
            Outcome::ALL
                .iter()
                .map(|&outcome| (propagation_name(outcome), read(OUTCOME_BASE + outcome as u32))),
        )
        .filter(|&(_, value)| value > 0)
        .collect()
}

/// The name of an outcome's counter.
fn propagation_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotApplicable => "propagation_not_applicable",
        Outcome::Injected => "propagation_injected",
        Outcome::Rewritten => "propagation_rewritten",
        Outcome::OwnContext => "propagation_own_context",
        Outcome::Off => "propagation_off",
        Outcome::NotEnrolled => "propagation_not_enrolled",
        Outcome::HeadTooLong => "propagation_head_too_long",
        Outcome::Ambiguous => "propagation_ambiguous",
        Outcome::NoRoom => "propagation_no_room",
        Outcome::Unsynchronised => "propagation_unsynchronised",
        Outcome::KernelRefused => "propagation_kernel_refused",
        Outcome::HeaderAlreadySent => "propagation_header_already_sent",
        Outcome::TcpOption => "propagation_tcp_option",
        Outcome::FastCgi => "propagation_fastcgi",
        Outcome::ProcessExcluded => "propagation_process_excluded",
        Outcome::Missed => "propagation_missed",
        Outcome::FrameFull => "propagation_frame_full",
        Outcome::UnknownField => "propagation_unknown_field",
        Outcome::Indexed => "propagation_indexed",
        Outcome::Encrypted => "propagation_encrypted",
    }
}
