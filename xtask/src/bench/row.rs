//! Rounds made into rows, for people and for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::load::Load;

/// What the agent did in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct AgentUse {
    /// User and system time, in microseconds.
    pub(super) cpu_us: f64,
    /// The most memory resident, in MiB.
    pub(super) rss_mib: f64,
    /// Spans that the receiver counted.
    pub(super) spans: u64,
}

/// One round of one case in one mode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// What was measured.
    pub(super) load: Load,
    /// The same without agent, in the same round.
    pub(super) off: Load,
    /// Requests made, those of the warm-up too: the agent sees them all.
    pub(super) requests: u64,
    /// The agent, if there was one.
    pub(super) agent: Option<AgentUse>,
}

/// All rounds of one case in one mode.
pub(super) struct Row {
    /// The case.
    pub(super) case: &'static str,
    /// The mode.
    pub(super) mode: &'static str,
    /// Spans that one request makes.
    pub(super) spans_per_request: u64,
    /// The rounds.
    pub(super) rounds: Vec<Round>,
    /// Nanoseconds and program runs in the kernel for one request, where they were counted.
    pub(super) kernel: Option<(f64, f64)>,
}

impl Row {
    fn median(&self, value: impl Fn(&Round) -> f64) -> f64 {
        let mut values: Vec<f64> = self.rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.as_slice() {
            [] => f64::NAN,
            all if all.len() % 2 == 1 => all[middle],
            all => (all[middle - 1] + all[middle]) / 2.0,
        }
    }

    /// Throughput against the same round without agent.
    fn ratio(&self) -> f64 {
        self.median(|round| round.load.rate / round.off.rate)
    }

    fn p50_added(&self) -> f64 {
        self.median(|round| round.load.p50_us - round.off.p50_us)
    }

    fn p99_added(&self) -> f64 {
        self.median(|round| round.load.p99_us - round.off.p99_us)
    }

    fn requests(&self) -> u64 {
        self.rounds.iter().map(|round| round.requests).sum()
    }

    fn uses(&self) -> impl Iterator<Item = AgentUse> {
        self.rounds.iter().filter_map(|round| round.agent)
    }

    fn spans(&self) -> u64 {
        self.uses().map(|one| one.spans).sum()
    }

    fn cpu_per_span(&self) -> Option<f64> {
        let spans = self.spans();
        (spans > 0).then(|| self.uses().map(|one| one.cpu_us).sum::<f64>() / spans as f64)
    }

    fn rss(&self) -> Option<f64> {
        self.uses().map(|one| one.rss_mib).max_by(f64::total_cmp)
    }

    fn json(&self) -> Value {
        json!({
            "case": self.case,
            "mode": self.mode,
            "throughput_ratio": rounded(self.ratio(), 4),
            "p50_added_us": rounded(self.p50_added(), 1),
            "p99_added_us": rounded(self.p99_added(), 1),
            "agent_cpu_us_per_span": self.cpu_per_span().map(|value| rounded(value, 3)),
            "agent_rss_mib": self.rss().map(|value| rounded(value, 1)),
            "spans": self.spans(),
            "requests": self.requests(),
        })
    }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

/// One JSON object with all rows. What does not apply (an agent's use, with no agent) is null.
pub(super) fn json(rows: &[Row]) -> Value {
    json!({ "rows": rows.iter().map(Row::json).collect::<Vec<_>>() })
}

/// A table for people.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "case     mode         req/s  ratio  p50 added  p99 added  cpu/span  kernel/req  \
         peak rss       spans    expected\n",
    );
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for row in rows {
        let has_agent = row.uses().next().is_some();
        let counted = |count: u64| or_dash(has_agent.then(|| count.to_string()));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<8} {:<8} {:>9.0} {:>6.3} {:>7.0} us {:>7.0} us {:>9} {:>11} {:>9} {:>11} {:>11}",
            row.case,
            row.mode,
            row.median(|round| round.load.rate),
            row.ratio(),
            row.p50_added(),
            row.p99_added(),
            or_dash(row.cpu_per_span().map(|us| format!("{us:.2} us"))),
            or_dash(row.kernel.map(|(ns, _)| format!("{:.2} us", ns / 1e3))),
            or_dash(row.rss().map(|mib| format!("{mib:.1} MiB"))),
            counted(row.spans()),
            counted(row.requests() * row.spans_per_request),
        );
    }
    text.push_str(
        "ratio, p50, p99: medians over the rounds, each against the same round without agent\n\
         kernel/req: time in the agent's programs, from a round of its own that counts it\n\
         spans: may pass what is expected by one for each connection, cut off at a load's end\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_compare_each_round_with_its_own_round_without_agent() {
        let load = |rate, p50_us| Load { requests: 10, rate, p50_us, p99_us: 2.0 * p50_us };
        let round = |rate, off_rate| Round {
            load: load(rate, 30.0),
            off: load(off_rate, 20.0),
            requests: 10,
            agent: Some(AgentUse { cpu_us: 50.0, rss_mib: 9.0, spans: 20 }),
        };
        let row = Row {
            case: "hello",
            mode: "inject",
            spans_per_request: 2,
            rounds: vec![round(80.0, 100.0), round(45.0, 50.0), round(10.0, 20.0)],
            kernel: None,
        };
        let expected = json!({ "rows": [{
            "case": "hello", "mode": "inject", "throughput_ratio": 0.8, "p50_added_us": 10.0,
            "p99_added_us": 20.0, "agent_cpu_us_per_span": 2.5, "agent_rss_mib": 9.0,
            "spans": 60, "requests": 30,
        }]});
        assert_eq!(json(&[row]), expected);
    }
}
