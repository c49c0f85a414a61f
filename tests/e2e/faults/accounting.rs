//! What became of every exchange, by the counters of an agent's last line.

use tracewire_tests::agent::Counters;

/// The counters, of which those that are zero are left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts(Counters);

impl Accounts {
    /// Checks that nothing is missing and nothing counted twice.
    pub(crate) fn of(counters: Counters) -> Self {
        let accounts = Self(counters);
        accounts.check_beginnings();
        accounts.check_ends();
        accounts.check_spans();
        accounts
    }

    /// A counter.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    fn sum(&self, names: &[&str]) -> u64 {
        names.iter().map(|name| self.get(name)).sum()
    }

    /// Exchanges of which both records came to userspace.
    fn paired(&self) -> u64 {
        self.sum(&[
            "spans_finished",
            "exchanges_own_tracing",
            "exchanges_process_excluded",
            "drop_role_unknown",
        ])
    }

    /// Every beginning that the kernel half saw has an end, or is accounted for.
    fn check_beginnings(&self) {
        let lost = [
            "drop_ring_full_opened",
            "drop_exchange_expired",
            "drop_pending_full",
            "drop_reopened",
            "exchanges_unfinished",
        ];
        self.same("beginnings", self.get("exchanges_opened"), self.paired() + self.sum(&lost));
    }

    /// Every end that the kernel half saw has a beginning, or is accounted for.
    fn check_ends(&self) {
        let lost = ["drop_ring_full_closed", "drop_closed_unpaired"];
        self.same("ends", self.get("exchanges_closed"), self.paired() + self.sum(&lost));
    }

    /// Every span that was made was delivered, or is accounted for.
    fn check_spans(&self) {
        let gone = [
            "spans_exported",
            "drop_queue_full",
            "drop_rejected",
            "drop_export_failed",
            "drop_retries_exhausted",
            "drop_shutdown",
            "drop_console",
        ];
        self.same("spans", self.get("spans_finished"), self.sum(&gone));
        assert_eq!(self.get("records_invalid"), 0, "{:?}", self.0);
    }

    /// With an agent there from the first request to the last, the kernel half saw every
    /// request at both of its ends, and every one of them end.
    pub(crate) fn saw_all(&self, requests: u64) {
        let at_both_ends = 2 * requests;
        let opened = self.get("exchanges_opened") + self.get("drop_pipeline_full");
        self.same("requests made, at both ends", at_both_ends, opened);
        self.same("requests answered, at both ends", at_both_ends, self.get("exchanges_closed"));
    }

    /// Nothing at all was lost.
    pub(crate) fn lost_nothing(&self) {
        let lost: Vec<_> = self
            .0
            .iter()
            .filter(|(name, count)| name.starts_with("drop_") && **count > 0)
            .collect();
        assert!(lost.is_empty(), "something was lost: {lost:?}; all: {:?}", self.0);
    }

    /// What was lost, for people.
    pub(crate) fn losses(&self) -> String {
        let lost = self.0.iter().filter(|(name, _)| {
            name.starts_with("drop_") || name.starts_with("stream_") || name.contains("unfinished")
        });
        lost.map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>().join(" ")
    }

    fn same(&self, what: &str, left: u64, right: u64) {
        assert_eq!(left, right, "{what} do not add up; the counters: {:#?}", self.0);
    }
}
