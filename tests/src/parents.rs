//! Which of the calls that a service makes lead to the requests in consequence of which it does: the
//! number of the request is in the path of both.

use std::collections::HashMap;

use crate::otlp::{Kind, Span};

/// Of the calls that belong to requests of a kind: those with the right parent, with none, and
/// with a wrong one. What no request asks for has a wrong one or none.
#[must_use]
pub fn parents(spans: &[Span], kind: &str) -> (usize, usize, usize) {
    let prefix = format!("/{kind}/");
    let requests: HashMap<&str, &Span> = (spans.iter())
        .filter(|span| span.kind == Kind::Server)
        .filter_map(|span| Some((span.path().strip_prefix(&prefix)?, span)))
        .collect();
    let (mut right, mut none, mut wrong) = (0, 0, 0);
    let calls = spans.iter().filter(|span| span.kind == Kind::Client);
    for (call, number) in
        calls.filter_map(|span| Some((span, span.path().strip_prefix(&prefix)?.split_once('/')?.0)))
    {
        match requests.get(number) {
            _ if call.parent.is_empty() => none += 1,
            Some(request) if request.span_id == call.parent => right += 1,
            _ => wrong += 1,
        }
    }
    (right, none, wrong)
}
