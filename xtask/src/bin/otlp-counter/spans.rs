//! Counts the spans of an `ExportTraceServiceRequest` without building them.

use prost::Message;

/// Of the request: what is on the way to a span (opentelemetry-proto, `trace/v1/trace.proto`).
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

/// A span, of which nothing is kept.
#[derive(Clone, PartialEq, Message)]
struct Span {}

/// The spans in an encoded request; nothing if it is not well formed.
pub(crate) fn count(message: &[u8]) -> Option<u64> {
    let request = Request::decode(message).ok()?;
    let scopes = request.resource_spans.iter().flat_map(|one| &one.scope_spans);
    Some(scopes.map(|scope| scope.spans.len() as u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).expect("test content is short");
        assert!(length < 0x80);
        [&[number << 3 | 2, length], content].concat()
    }

    #[test]
    fn spans_are_counted_over_all_resources_and_scopes() {
        let span = field(2, &field(1, &[7; 16]));
        // The resource is field 1 of ResourceSpans, the scope field 1 of ScopeSpans.
        let scope = field(2, &[field(1, b"\x0a\x01s"), span.clone(), span.clone()].concat());
        let one = field(1, &[field(1, b""), scope.clone(), scope.clone()].concat());
        let other = field(1, &scope);
        assert_eq!(count(&[one, other].concat()), Some(6));
        assert_eq!(count(&[]), Some(0));
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let whole = field(1, &field(2, &field(2, &field(1, &[7; 16]))));
        assert_eq!(count(&whole), Some(1));
        for cut in 1..whole.len() {
            assert_eq!(count(&whole[..cut]), None, "{cut}");
        }
    }
}
