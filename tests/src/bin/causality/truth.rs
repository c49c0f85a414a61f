//! What the spans say of the calls of a request, compared with what is true.

use std::collections::{BTreeMap, HashMap};

use tracewire_tests::otlp::{Kind, Span};

use crate::load::Load;

/// What became of a load's calls.
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

/// The spans of a service, by the requests in whose paths their numbers are.
pub(crate) struct Spans<'a> {
    /// Of a request that one server hands on to another, which makes the calls, there are two.
    requests: HashMap<(&'a str, usize), Vec<&'a Span>>,
    calls: Vec<(&'a str, usize, &'a Span)>,
}

impl<'a> Spans<'a> {
    /// Of all spans, those of requests and of their calls.
    pub(crate) fn new(spans: &'a [Span]) -> Self {
        let mut sorted = Self { requests: HashMap::new(), calls: Vec::new() };
        for span in spans {
            let mut parts = span.path().trim_start_matches('/').split('/');
            let (Some(pattern), Some(Ok(number))) =
                (parts.next(), parts.next().map(str::parse::<usize>))
            else {
                continue;
            };
            match (span.kind, parts.next()) {
                (Kind::Server, None) => {
                    sorted.requests.entry((pattern, number)).or_default().push(span);
                }
                (Kind::Client, Some(_call)) => sorted.calls.push((pattern, number, span)),
                _ => {}
            }
        }
        sorted
    }

    /// Compares with the truth.
    pub(crate) fn judge(&self, load: &Load) -> Verdict {
        let mut verdict = Verdict::default();
        for &(pattern, number, span) in &self.calls {
            if !load.numbers.contains(&number) || load.pattern(number).name != pattern {
                continue;
            }
            let requests = self.requests.get(&(pattern, number)).map_or(&[][..], Vec::as_slice);
            let is_right = is_caused_by(span, requests);
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
        verdict.unseen = load.calls().saturating_sub(seen);
        verdict
    }
}

/// Whether the call's parent is the request that caused it: the one that was handed on by FastCGI, if
/// any was. That has to be in the trace of what came before it.
fn is_caused_by(call: &Span, requests: &[&Span]) -> bool {
    let is_handed_on = |span: &Span| span.attribute("network.protocol.name") == "fastcgi";
    let is_any = requests.iter().any(|request| is_handed_on(request));
    requests.iter().all(|request| request.trace_id == call.trace_id)
        && requests
            .iter()
            .any(|request| call.parent == request.span_id && is_handed_on(request) == is_any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::PATTERNS;

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
        let verdict = Spans::new(&spans).judge(&Load::of(&PATTERNS[0], 0..4));
        assert_eq!(
            (verdict.right, verdict.missing, verdict.wrong, verdict.unseen),
            (1, 1, 1, 1),
            "{verdict:?}"
        );
        assert_eq!(verdict.rules.get(""), Some(&[1, 1, 1]));
    }

    #[test]
    fn of_a_request_that_is_handed_on_the_parent_is_who_makes_the_calls() {
        let mut behind = span(Kind::Server, "/one/0", "b", "c");
        let protocol = ("network.protocol.name".to_owned(), "fastcgi".to_owned());
        behind.attributes.extend([protocol]);
        let front = span(Kind::Server, "/one/0", "a", "");
        let right = span(Kind::Client, "/one/0/0", "d", "b");
        let wrong = span(Kind::Client, "/one/0/0", "d", "a");
        assert!(is_caused_by(&right, &[&front, &behind]));
        assert!(!is_caused_by(&wrong, &[&front, &behind]));
        behind.trace_id = "another".to_owned();
        assert!(!is_caused_by(&right, &[&front, &behind]));
        assert!(!is_caused_by(&right, &[]));
    }

    #[test]
    fn of_a_mixed_load_the_calls_of_each_request_are_compared() {
        let load = Load::mixed(PATTERNS.iter().collect(), 70..90);
        let spans: Vec<Span> = load
            .numbers
            .clone()
            .flat_map(|number| {
                let pattern = load.pattern(number);
                let request = format!("/{}/{number}", pattern.name);
                let id = format!("s{number}");
                let call = |i| span(Kind::Client, &format!("{request}/{i}"), "c", &id);
                let calls: Vec<Span> = (0..pattern.calls).map(call).collect();
                [vec![span(Kind::Server, &request, &id, "")], calls].concat()
            })
            .collect();
        let verdict = Spans::new(&spans).judge(&load);
        assert_eq!((verdict.right, verdict.unseen), (load.calls(), 0), "{verdict:?}");
        assert_eq!(verdict.missing + verdict.wrong, 0, "{verdict:?}");
    }
}
