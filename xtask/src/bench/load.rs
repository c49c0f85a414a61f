//! Load generators and what they say.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cgroup::Cgroup;
use crate::process;

/// What a load generator measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    /// Requests that were answered.
    pub(super) requests: u64,
    /// Answered requests a second.
    pub(super) rate: f64,
    /// The median latency, in microseconds.
    pub(super) p50_us: f64,
    /// The 99th percentile of the latency, in microseconds.
    pub(super) p99_us: f64,
}

/// As many requests as go: `wrk`, one thread, keep-alive connections.
///
/// # Errors
///
/// If it fails, or an answer was an error.
pub(super) fn saturate(
    scheme: &str,
    port: u16,
    connections: u32,
    span: Duration,
    cgroup: Option<&Cgroup>,
) -> Result<Load> {
    let mut command = Command::new("wrk");
    command
        .args(["--latency", "--threads", "1", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{}s", span.as_secs().max(1))])
        .arg(format!("{scheme}://127.0.0.1:{port}/"));
    if let Some(cgroup) = cgroup {
        cgroup.join(&mut command);
    }
    let text = process::output(&mut command)?;
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!("requests failed under load:\n{text}");
    }
    wrk_report(&text).with_context(|| format!("cannot read what wrk says:\n{text}"))
}

/// A fixed rate: `h2load` in HTTP/1.1, `clients` connections that share `rate` a second.
///
/// # Errors
///
/// If it fails, or an answer was an error.
pub(super) fn at_rate(
    port: u16,
    rate: u32,
    clients: u32,
    span: Duration,
    cgroup: &Cgroup,
    log: &Path,
) -> Result<Load> {
    let (clients, each) = (clients.to_string(), (rate / clients).to_string());
    let arguments = ["--h1", "--clients", &clients, "--rps", &each];
    h2load(port, &arguments, span, cgroup, log)
}

/// As many requests as go over HTTP/2: `h2load`, so many streams at once on each connection.
///
/// # Errors
///
/// If it fails, or an answer was an error.
pub(super) fn streams(
    port: u16,
    connections: u32,
    streams: u32,
    span: Duration,
    cgroup: &Cgroup,
    log: &Path,
) -> Result<Load> {
    let (connections, streams) = (connections.to_string(), streams.to_string());
    let arguments = ["--clients", &connections, "--max-concurrent-streams", &streams];
    h2load(port, &arguments, span, cgroup, log)
}

fn h2load(
    port: u16,
    arguments: &[&str],
    span: Duration,
    cgroup: &Cgroup,
    log: &Path,
) -> Result<Load> {
    // h2load appends.
    if log.exists() {
        std::fs::remove_file(log)?;
    }
    let mut command = Command::new("h2load");
    command
        .args(["--threads", "1"])
        .args(arguments)
        .args(["--duration", &span.as_secs().max(1).to_string()])
        .arg("--log-file")
        .arg(log)
        .arg(format!("http://127.0.0.1:{port}/hello"));
    cgroup.join(&mut command);
    process::output(&mut command)?;
    let text = std::fs::read_to_string(log).context("h2load wrote no log")?;
    h2load_log(&text, span).context("cannot read h2load's log, or a request failed")
}

/// The totals and percentiles in wrk's report.
fn wrk_report(text: &str) -> Option<Load> {
    let value =
        |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let total = text.lines().find_map(|line| line.trim().split_once(" requests in "))?.0;
    Some(Load {
        requests: total.parse().ok()?,
        rate: value("Requests/sec:")?.parse().ok()?,
        p50_us: microseconds(value("50%")?)?,
        p99_us: microseconds(value("99%")?)?,
    })
}

/// A time as wrk writes it: `84.00us`, `1.20ms`, `1.05s`.
fn microseconds(text: &str) -> Option<f64> {
    let (number, factor) = if let Some(number) = text.strip_suffix("us") {
        (number, 1.0)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1e3)
    } else {
        (text.strip_suffix('s')?, 1e6)
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// h2load's log has a line for each request: start, status, microseconds.
fn h2load_log(text: &str, span: Duration) -> Option<Load> {
    let mut times = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('\t').skip(1);
        let status: i32 = fields.next()?.parse().ok()?;
        if status != 200 {
            return None;
        }
        times.push(fields.next()?.parse::<u64>().ok()?);
    }
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).map(|&t| t as f64);
    Some(Load {
        requests: times.len() as u64,
        rate: times.len() as f64 / span.as_secs_f64(),
        p50_us: at(0.50)?,
        p99_us: at(0.99)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_wrk_is_read() {
        let text = "Running 3s test @ http://127.0.0.1:1/\n  1 threads and 32 connections\n  \
                    Latency Distribution\n     50%  223.00us\n     75%  260.00us\n     \
                    90%  300.00us\n     99%    1.20ms\n  301234 requests in 3.10s, 48.00MB read\n\
                    Requests/sec:  97172.26\nTransfer/sec:     15.48MB\n";
        let load = Load { requests: 301_234, rate: 97_172.26, p50_us: 223.0, p99_us: 1200.0 };
        assert_eq!(wrk_report(text), Some(load));
        assert_eq!(wrk_report("unable to connect"), None);
    }

    #[test]
    fn the_log_of_h2load_is_read_and_failures_are_not_ignored() {
        let log: String = (1..=100).map(|n| format!("170000{n}\t200\t{n}\n")).collect();
        let load = h2load_log(&log, Duration::from_secs(2));
        assert_eq!(load, Some(Load { requests: 100, rate: 50.0, p50_us: 51.0, p99_us: 100.0 }));
        assert_eq!(h2load_log("1700001\t502\t9\n", Duration::from_secs(1)), None);
    }
}
