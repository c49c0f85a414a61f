//! What calls belong to which request, and what the spans say of that.

use std::collections::{BTreeMap, HashMap};

use tracewire_tests::otlp::{Kind, Span};

/// A way in which a request causes calls.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// The first part of the paths.
    pub(crate) name: &'static str,
    /// Calls that each request causes.
    pub(crate) calls: usize,
}

/// All of them, as the services know them.
pub(crate) const PATTERNS: &[Pattern] = &[
    Pattern { name: "one", calls: 1 },
    Pattern { name: "sequence", calls: 3 },
    Pattern { name: "parallel", calls: 3 },
    Pattern { name: "timer", calls: 1 },
    Pattern { name: "background", calls: 1 },
    Pattern { name: "retry", calls: 2 },
];

/// What became of a pattern's calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Calls whose parent is the request that caused them.
    pub(crate) right: usize,
    /// Calls without a parent.
    pub(crate) missing: usize,
    /// Calls with another parent.
    pub(crate) wrong: usize,
    /// Calls without a span.
    pub(crate) unseen: usize,
    /// By rule: calls with a right, a missing, a wrong parent.
    pub(crate) rules: BTreeMap<String, [usize; 3]>,
}

/// Compares the spans with the truth.
pub(crate) fn judge(pattern: &Pattern, requests: usize, spans: &[Span]) -> Verdict {
    let prefix = format!("/{}/", pattern.name);
    let servers: HashMap<usize, &Span> = spans
        .iter()
        .filter(|span| span.kind == Kind::Server)
        .filter_map(|span| Some((span.path().strip_prefix(&prefix)?.parse().ok()?, span)))
        .collect();
    let mut verdict = Verdict::default();
    for span in spans.iter().filter(|span| span.kind == Kind::Client) {
        let Some((number, _call)) =
            span.path().strip_prefix(&prefix).and_then(|rest| rest.split_once('/'))
        else {
            continue;
        };
        let Some(number) = number.parse().ok().filter(|&number: &usize| number < requests) else {
            continue;
        };
        let is_right = servers.get(&number).is_some_and(|server| {
            span.parent == server.span_id && span.trace_id == server.trace_id
        });
        let place = if is_right {
            verdict.right += 1;
            0
        } else if span.parent.is_empty() {
            verdict.missing += 1;
            1
        } else {
            verdict.wrong += 1;
            2
        };
        let rule = span.attribute("tracewire.correlation").to_owned();
        if let Some(count) = verdict.rules.entry(rule).or_default().get_mut(place) {
            *count += 1;
        }
    }
    let seen = verdict.right + verdict.missing + verdict.wrong;
    verdict.unseen = (requests * pattern.calls).saturating_sub(seen);
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(kind: Kind, path: &str, id: &str, parent: &str) -> Span {
        Span {
            trace_id: "t".to_owned(),
            span_id: id.to_owned(),
            parent: parent.to_owned(),
            links: Vec::new(),
            kind,
            name: "GET".to_owned(),
            attributes: [("url.path".to_owned(), path.to_owned())].into(),
            resource: BTreeMap::new(),
            is_error: false,
            start: 0,
            end: 1,
        }
    }

    #[test]
    fn calls_are_right_missing_wrong_or_unseen() {
        let pattern = &PATTERNS[0];
        let spans = [
            span(Kind::Server, "/one/0", "a", ""),
            span(Kind::Server, "/one/1", "b", ""),
            span(Kind::Server, "/one/2", "c", ""),
            span(Kind::Client, "/one/0/0", "d", "a"),
            span(Kind::Client, "/one/1/0", "e", "a"),
            span(Kind::Client, "/one/2/0", "f", ""),
            // Another pattern's, and one that only opened a connection.
            span(Kind::Client, "/sequence/0/0", "g", "a"),
            span(Kind::Client, "/one/10000000/0", "h", "a"),
        ];
        let verdict = judge(pattern, 4, &spans);
        assert_eq!(
            (verdict.right, verdict.missing, verdict.wrong, verdict.unseen),
            (1, 1, 1, 1),
            "{verdict:?}"
        );
        assert_eq!(verdict.rules.get(""), Some(&[1, 1, 1]));
    }
}
