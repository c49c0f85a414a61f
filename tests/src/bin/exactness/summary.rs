//! What was tested, counted, so that one sees that something was.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::protocols::Protocol;
use crate::report::Report;

/// What was seen of one protocol.
#[derive(Clone, Debug, Default)]
struct Counts {
    connections: u64,
    bytes: u64,
    injected: u64,
    /// Contexts that were passed on, with another parent.
    passed_on: u64,
    without: u64,
}

/// How often calls did something that they should not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oddity {
    pub(crate) count: u64,
    /// The first connections in which they did, [`KEPT`] at most.
    pub(crate) connections: Vec<u64>,
}

/// Of each oddity.
const KEPT: usize = 4;

/// Everything that was seen in one phase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    protocols: BTreeMap<Protocol, Counts>,
    /// Bytes sent and heads that came with a header, by way to send.
    ways: BTreeMap<String, (u64, u64)>,
    takes: BTreeMap<String, u64>,
    /// What calls did that they should not.
    pub(crate) oddities: BTreeMap<String, Oddity>,
    /// Connections on which nothing happened for so many whole seconds.
    pub(crate) idle: BTreeMap<u32, u64>,
    /// The calls in which nothing happened for a second, and whose they were.
    idle_in: BTreeMap<String, u64>,
}

impl Summary {
    /// Adds what both ends said of a connection.
    pub(crate) fn add(&mut self, protocol: Protocol, client: &Report, server: &Report) {
        let counts = self.protocols.entry(protocol).or_default();
        counts.connections += 1;
        counts.bytes += client.sent.0 + server.sent.0;
        let changed = server.changed.values().sum::<u64>();
        counts.injected += changed.saturating_sub(server.passed_on);
        counts.passed_on += server.passed_on;
        counts.without += server.without;
        for (side, report) in [("client", client), ("server", server)] {
            for call in &report.idle_in {
                *self.idle_in.entry(format!("{side} {call}")).or_default() += 1;
            }
            for (way, bytes) in &report.ways {
                self.ways.entry(way.clone()).or_default().0 += bytes;
            }
            for (take, bytes) in &report.takes {
                *self.takes.entry(take.clone()).or_default() += bytes;
            }
            for (what, count) in &report.oddities {
                let oddity = self.oddities.entry(what.clone()).or_default();
                oddity.count += count;
                if oddity.connections.len() < KEPT && !oddity.connections.contains(&report.number) {
                    oddity.connections.push(report.number);
                }
            }
        }
        for (way, count) in &server.changed {
            self.ways.entry(way.clone()).or_default().1 += count;
        }
        *self.idle.entry(client.idle.max(server.idle)).or_default() += 1;
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> u64 {
        self.protocols.values().map(|counts| counts.connections).sum()
    }

    /// Heads that came with a header, or with another one than they were sent with.
    pub(crate) fn changed(&self) -> u64 {
        self.protocols.values().map(|counts| counts.injected + counts.passed_on).sum()
    }

    /// What should have been given headers, or another parent, and never was, where so many threads
    /// were at work.
    pub(crate) fn never_injected(&self, workers: u64) -> Vec<String> {
        let protocols = self.protocols.iter().filter(|(protocol, counts)| {
            protocol.is_given_headers() && counts.connections >= 20 && counts.injected == 0
        });
        // An urgent byte is one byte; no head ends in one of its own that is beyond doubt.
        let ways = self.ways.iter().filter(|(way, (bytes, injected))| {
            *way != "Urgent" && *bytes > 5_000_000 && *injected == 0
        });
        let protocols = protocols.map(|(protocol, _)| format!("{protocol:?}"));
        let passing = self.protocols.iter().filter(|(protocol, counts)| {
            protocol.passes_contexts_on(workers)
                && counts.connections >= 200
                && counts.passed_on == 0
        });
        let passing = passing.map(|(protocol, _)| format!("{protocol:?} that passes contexts on"));
        protocols.chain(passing).chain(ways.map(|(way, _)| way.clone())).collect()
    }

    /// Tables of all counts.
    pub(crate) fn tables(&self) -> String {
        let mut text = format!(
            "{:<14} {:>11} {:>10} {:>9} {:>9} {:>9}\n",
            "protocol", "connections", "MiB", "injected", "passed on", "without"
        );
        let mebi = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        for (protocol, counts) in &self.protocols {
            let _infallible = writeln!(
                text,
                "{:<14} {:>11} {:>10.1} {:>9} {:>9} {:>9}",
                format!("{protocol:?}"),
                counts.connections,
                mebi(counts.bytes),
                counts.injected,
                counts.passed_on,
                counts.without
            );
        }
        let _infallible = writeln!(text, "\n{:<14} {:>10} {:>9}", "sent by", "MiB", "changed");
        for (way, (bytes, injected)) in &self.ways {
            let _infallible = writeln!(text, "{way:<14} {:>10.1} {injected:>9}", mebi(*bytes));
        }
        let _infallible = writeln!(text, "\n{:<14} {:>10}", "received by", "MiB");
        for (take, bytes) in &self.takes {
            let _infallible = writeln!(text, "{take:<14} {:>10.1}", mebi(*bytes));
        }
        let slow: Vec<_> = self.idle.iter().filter(|(seconds, _)| **seconds > 0).collect();
        let _infallible =
            writeln!(text, "\nwaits in whole seconds, connections: {slow:?} {:?}", self.idle_in);
        for (what, Oddity { count, connections }) in &self.oddities {
            let _infallible = writeln!(text, "odd: {what}: {count}, as in {connections:?}");
        }
        text
    }
}
