//! The span ids in an `ExportTraceServiceRequest`, and nothing else of it: a load makes
//! millions of spans.

use bytes::Bytes;
use prost::{DecodeError, Message};

/// Of the request: what is on the way to an id (opentelemetry-proto, `trace/v1/trace.proto`).
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

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "bytes", tag = "2")]
    span_id: Bytes,
}

/// Gives each id to `take`; one that has not eight bytes is given as 0, which none is.
///
/// # Errors
///
/// If the message is not well formed.
pub(crate) fn collect(message: &[u8], take: &mut impl FnMut(u64)) -> Result<(), DecodeError> {
    let request = Request::decode(message)?;
    let resources = request.resource_spans.iter();
    for span in resources.flat_map(|one| &one.scope_spans).flat_map(|one| &one.spans) {
        take(span.span_id.as_ref().try_into().map_or(0, u64::from_be_bytes));
    }
    Ok(())
}
