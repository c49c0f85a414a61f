//! Whether what the agent printed is what was sent: joined traces, parents right.

use std::collections::BTreeSet;
use std::fmt;

/// The services of one request's trace in the order of its spans: each one's server span,
/// then its client span; curl only asks and the inventory only answers.
const CHAIN: [&str; 6] = [
    "curl",
    "nginx",
    "nginx",
    "storefront",
    "storefront",
    "inventory",
];

/// What was seen on the agent's standard output.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Traces.
    pub(super) traces: usize,
    /// Traces whose spans are the whole chain, each the child of the one before.
    pub(super) joined: usize,
    services: BTreeSet<&'static str>,
    spans: usize,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        write!(
            f,
            "{} trace{}, {} services, {} span{}, {} joined from end to end",
            self.traces,
            plural(self.traces),
            self.services.len(),
            self.spans,
            plural(self.spans),
            self.joined
        )
    }
}

impl Verdict {
    /// Whether each of `requests` requests is one whole trace, and nothing else was seen.
    ///
    /// # Errors
    ///
    /// With what is wrong.
    pub(super) fn expect(&self, requests: usize) -> Result<(), String> {
        if self.traces == requests && self.joined == requests {
            return Ok(());
        }
        Err(format!(
            "{requests} request(s) should have made {requests} joined trace(s) of {} spans, \
             but made {self}",
            CHAIN.len()
        ))
    }
}

/// Reads the console exporter's text: a line with the trace id starts a trace, its spans
/// follow, one a line, children further in than their parents.
pub(super) fn judge(text: &str) -> Verdict {
    let mut verdict = Verdict::default();
    let mut spans: Vec<(usize, &'static str)> = Vec::new();
    for line in text.lines() {
        let line = without_colour(line);
        if has_trace_id(&line) {
            verdict.finish(&mut spans);
            verdict.traces += 1;
        } else if let Some(span) = span(&line) {
            spans.push(span);
        }
    }
    verdict.finish(&mut spans);
    verdict
}

impl Verdict {
    /// Takes the spans of one trace in.
    fn finish(&mut self, spans: &mut Vec<(usize, &'static str)>) {
        self.spans += spans.len();
        self.services
            .extend(spans.iter().map(|(_, service)| *service));
        let names = spans.iter().map(|(_, service)| *service);
        let nested = spans.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if names.eq(CHAIN) && nested {
            self.joined += 1;
        }
        spans.clear();
    }
}

/// The depth and the service of a line that shows a span.
fn span(line: &str) -> Option<(usize, &'static str)> {
    let start = line.find(|c: char| c.is_ascii_alphanumeric())?;
    let depth = line[..start].chars().count();
    let rest = &line[start..];
    let service = CHAIN.into_iter().find(|service| {
        rest.strip_prefix(service)
            .is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    })?;
    Some((depth, service))
}

fn has_trace_id(line: &str) -> bool {
    line.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Takes terminal colours (`ESC [ … m`) out.
fn without_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOINED: &str = "\
trace 4bf92f3577b34da6a3ce929d0e0e4736  6 spans  9.1 ms
curl        GET  client  200  +0.0 ms  9.1 ms
  nginx       GET  server  200  +0.1 ms  8.9 ms
    nginx       GET  client  200  +0.2 ms  8.7 ms
      storefront  GET  server  200  +0.3 ms  8.5 ms
        storefront  GET  client  200  +1.0 ms  7.0 ms
          \x1b[32minventory\x1b[0m   GET  server  200  +1.2 ms  6.8 ms
";

    #[test]
    fn a_whole_chain_is_one_joined_trace() {
        let verdict = judge(JOINED);
        assert_eq!(
            verdict.to_string(),
            "1 trace, 4 services, 6 spans, 1 joined from end to end"
        );
        assert!(verdict.expect(1).is_ok());
        assert!(verdict.expect(2).is_err());
    }

    #[test]
    fn a_trace_that_falls_apart_is_not_joined() {
        let broken = JOINED.replace(
            "      storefront",
            "trace 5bf92f3577b34da6a3ce929d0e0e4736\nstorefront",
        );
        assert_eq!((judge(&broken).traces, judge(&broken).joined), (3, 0));
    }

    #[test]
    fn a_wrong_parent_is_not_joined() {
        let flat = JOINED.replace("          \x1b[32minventory", "        \x1b[32minventory");
        assert_eq!((judge(&flat).traces, judge(&flat).joined), (1, 0));
    }
}
