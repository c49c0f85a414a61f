//! What the agent's own half counts, by reason. Nothing is lost without a number.

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the counts and their names.
macro_rules! metrics {
    ($($(#[$meta:meta])* $variant:ident => $text:literal,)+) => {
        /// Something that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub(crate) enum Metric {
            $($(#[$meta])* $variant,)+
        }

        impl Metric {
            /// Every metric, in the order of the integers.
            pub(crate) const ALL: &'static [Metric] = &[$(Metric::$variant,)+];

            /// The name in logs.
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Metric::$variant => $text,)+
                }
            }
        }
    };
}

metrics! {
    /// Bytes from the ring buffer that are no record of this version.
    RecordsInvalid => "records_invalid",
    /// Spans made of an opened and a closed exchange.
    SpansFinished => "spans_finished",
    /// Spans that the exporter delivered (or printed).
    SpansExported => "spans_exported",
    /// Exchanges that the application traces itself: no span.
    OwnTracing => "exchanges_own_tracing",
    /// Exchanges of a process that the filter leaves out: no span.
    ProcessExcluded => "exchanges_process_excluded",
    /// Exchanges whose end was seen but not their beginning.
    DropUnpaired => "drop_closed_unpaired",
    /// Exchanges that were opened anew before they were closed.
    DropReopened => "drop_reopened",
    /// Exchanges whose end never came.
    DropExpired => "drop_exchange_expired",
    /// Exchanges that were open when the agent stopped.
    Unfinished => "exchanges_unfinished",
    /// Exchanges that found the table of open ones full.
    DropPendingFull => "drop_pending_full",
    /// Exchanges whose role was no role.
    DropRoleUnknown => "drop_role_unknown",
    /// Lists of what may be the parent of an exchange, that came too late or found no room.
    DropCandidates => "drop_candidates",
    /// Pieces of a long head that found their table full.
    DropFragmentsFull => "drop_fragments_full",
    /// Pieces of a long head whose rest never came.
    DropFragmentsExpired => "drop_fragments_expired",
    /// Heads longer than what is captured: parsed as far as they go.
    HeadsCut => "heads_cut",
    /// Heads that no parser understands: a span with what little is known.
    HeadsUnparsed => "heads_unparsed",
    /// Header blocks of HTTP/2 that no encoder writes.
    HeaderBlocksInvalid => "header_blocks_invalid",
    /// Tables of HTTP/2's header compression of which something was missed: their next fields may
    /// not be known.
    HeaderTablesLost => "header_tables_lost",
    /// Connections of HTTP/2 whose tables were forgotten to keep within bounds.
    Http2Evicted => "http2_connections_evicted",
    /// Spans of a process about which nothing is known.
    ProcessesUnknown => "spans_process_unknown",
    /// Processes forgotten since their table was full.
    ProcessesEvicted => "processes_evicted",
    /// Spans that found the queue to the exporter full (the newest are dropped).
    DropQueueFull => "drop_queue_full",
    /// Spans that the collector took and then rejected (partial success).
    DropRejected => "drop_rejected",
    /// Spans refused by the collector for good.
    DropExportFailed => "drop_export_failed",
    /// Spans given up after retrying for as long as is allowed.
    DropRetriesExhausted => "drop_retries_exhausted",
    /// Spans not delivered before the deadline of the shutdown.
    DropShutdown => "drop_shutdown",
    /// Spans that could not be written to standard output.
    DropConsole => "drop_console",
    /// Traces printed before they were finished, to keep within bounds.
    TracesCutShort => "traces_cut_short",
    /// Export requests sent, first tries and retries.
    ExportRequests => "export_requests",
    /// Export requests that were tried again.
    ExportRetries => "export_retries",
}

/// The counts. Shared between threads; every operation is a relaxed atomic.
#[derive(Debug)]
pub(crate) struct Metrics {
    counts: [AtomicU64; Metric::ALL.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; Metric::ALL.len()] }
    }
}

impl Metrics {
    /// Counts one.
    pub(crate) fn increment(&self, metric: Metric) {
        self.add(metric, 1);
    }

    /// Counts `n`.
    pub(crate) fn add(&self, metric: Metric, n: u64) {
        self.counts[metric as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// The count so far.
    pub(crate) fn get(&self, metric: Metric) -> u64 {
        self.counts[metric as usize].load(Ordering::Relaxed)
    }

    /// Names and counts of all that is not zero, in the order of declaration.
    pub(crate) fn snapshot(&self) -> Vec<(&'static str, u64)> {
        Metric::ALL
            .iter()
            .map(|&metric| (metric.as_str(), self.get(metric)))
            .filter(|&(_, count)| count != 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_snapshot_holds_what_is_not_zero() {
        let metrics = Metrics::default();
        assert!(metrics.snapshot().is_empty());
        metrics.add(Metric::SpansExported, 3);
        metrics.increment(Metric::DropQueueFull);
        metrics.increment(Metric::DropQueueFull);
        assert_eq!(metrics.snapshot(), [("spans_exported", 3), ("drop_queue_full", 2)]);
    }

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = Metric::ALL.iter().map(|m| m.as_str()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
    }
}
