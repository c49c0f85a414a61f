//! What spans must say, given the headers that were seen on the wire.

use crate::otlp::{Kind, Span, describe};
use crate::trace_parent::TraceParent;
use crate::world::is_control;

/// Every request must have been given a header; in a control run, none. Gives the headers.
///
/// # Panics
///
/// If a header is missing, or there where no agent was.
pub fn all_injected(what: &str, found: Vec<Option<TraceParent>>) -> Vec<TraceParent> {
    let total = found.len();
    let headers: Vec<TraceParent> = found.into_iter().flatten().collect();
    if is_control() {
        assert!(headers.is_empty(), "{what}: a header without an agent: {headers:?}");
    } else {
        assert_eq!(headers.len(), total, "{what}: heads that were given a header, of all heads");
    }
    headers
}

/// The only span that `matches`.
///
/// # Panics
///
/// If there is none or more than one.
pub fn only<'a>(what: &str, spans: &'a [Span], matches: impl Fn(&Span) -> bool) -> &'a Span {
    let mut found = spans.iter().filter(|span| matches(span));
    match (found.next(), found.next()) {
        (Some(span), None) => span,
        (first, _) => panic!(
            "{what}: {} such span; {}",
            if first.is_none() { "no" } else { "more than one" },
            describe(spans)
        ),
    }
}

/// For each header on the wire: one client span with its id, and one server span below it.
/// Gives the pairs in the order of the headers.
///
/// # Panics
///
/// If a span is missing or twice, or any span is of another trace than its header says.
pub fn pairs<'a>(
    what: &str,
    spans: &'a [Span],
    headers: &[TraceParent],
) -> Vec<(&'a Span, &'a Span)> {
    let pair = |header: &TraceParent| {
        let client = only(&format!("{what}: client span of {header:?}"), spans, |span| {
            span.kind == Kind::Client && span.span_id == header.span_id
        });
        let server = only(&format!("{what}: server span below {header:?}"), spans, |span| {
            span.kind == Kind::Server && span.parent == header.span_id
        });
        assert_eq!(client.trace_id, header.trace_id, "{what}: trace of the client span");
        assert_eq!(server.trace_id, header.trace_id, "{what}: trace of the server span");
        (client, server)
    };
    headers.iter().map(pair).collect()
}

/// As [`pairs`], and there are no other spans.
///
/// # Panics
///
/// As [`pairs`], and if there are others.
pub fn exactly_pairs<'a>(
    what: &str,
    spans: &'a [Span],
    headers: &[TraceParent],
) -> Vec<(&'a Span, &'a Span)> {
    let pairs = pairs(what, spans, headers);
    assert_eq!(
        spans.len(),
        2 * headers.len(),
        "{what}: spans for {} requests seen at both ends; {}",
        headers.len(),
        describe(spans)
    );
    pairs
}
