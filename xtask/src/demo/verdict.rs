//! Whether what the agent printed is what was sent: joined traces, parents right.

use std::collections::BTreeSet;
use std::fmt;

/// The services and kinds of the spans of one request, each the child of the one before:
/// curl only asks, and the inventory only answers.
const CHAIN: [(&str, &str); 6] = [
    ("curl", "client"),
    ("nginx", "server"),
    ("nginx", "client"),
    ("storefront", "server"),
    ("storefront", "client"),
    ("inventory", "server"),
];

/// A line that shows a span.
struct Line {
    depth: usize,
    service: &'static str,
    kind: &'static str,
}

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
    let mut spans = Vec::new();
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
    fn finish(&mut self, spans: &mut Vec<Line>) {
        self.spans += spans.len();
        self.services.extend(spans.iter().map(|span| span.service));
        let names = spans.iter().map(|span| (span.service, span.kind));
        let nested = spans.windows(2).all(|pair| pair[0].depth < pair[1].depth);
        if names.eq(CHAIN) && nested {
            self.joined += 1;
        }
        spans.clear();
    }
}

/// Reads `BRANCHES SERVICE KIND …`.
fn span(line: &str) -> Option<Line> {
    let start = line.find(|c: char| c.is_ascii_alphanumeric())?;
    let (branches, text) = line.split_at(start);
    let mut words = text.split_ascii_whitespace();
    let (service, kind) = (words.next()?, words.next()?);
    let service = CHAIN.into_iter().map(|(name, _)| name).find(|name| *name == service)?;
    let kind = ["client", "server"].into_iter().find(|name| *name == kind)?;
    Some(Line { depth: branches.chars().count(), service, kind })
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
trace 4bf92f3577b34da6a3ce929d0e0e4736  6 spans, 4 services, 9.10 ms
  curl                   client  GET /a  200     +0.00 µs      9.10 ms  ━━━━
  └─ nginx               server  GET /a  200     +0.10 ms      8.90 ms  ━━━━
    └─ nginx             client  GET /a  200     +0.20 ms      8.70 ms  ━━━━
      └─ storefront      server  GET /a  200     +0.30 ms      8.50 ms  ━━━━
        └─ storefront    client  GET /a  200     +1.00 ms      7.00 ms   ━━━
          └─ \x1b[32minventory\x1b[0m   server  GET /a  200     +1.20 ms      6.80 ms   ━━━
";

    #[test]
    fn a_whole_chain_is_one_joined_trace() {
        let verdict = judge(JOINED);
        assert_eq!(verdict.to_string(), "1 trace, 4 services, 6 spans, 1 joined from end to end");
        assert!(verdict.expect(1).is_ok());
        assert!(verdict.expect(2).is_err());
    }

    #[test]
    fn a_trace_that_falls_apart_is_not_joined() {
        let broken = JOINED.replace(
            "      └─ storefront      server",
            "trace 5bf92f3577b34da6a3ce929d0e0e4736\n  storefront      server",
        );
        assert_eq!((judge(&broken).traces, judge(&broken).joined), (2, 0));
    }

    #[test]
    fn a_wrong_parent_is_not_joined() {
        let flat = JOINED.replace("          └─ \x1b[32m", "        └─ \x1b[32m");
        assert_eq!((judge(&flat).traces, judge(&flat).joined), (1, 0));
    }
}
