//! Spans gathered into one request, already encoded.

use super::encode::{SpanEncoder, append_resource, append_scope, field_len, put_header};
use crate::resolve::Resource;
use crate::span::Span;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Bounds of one request. Collectors take 4 MiB by default (gRPC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    /// Spans.
    pub(crate) spans: usize,
    /// Bytes, exceeded by less than the size of one span.
    pub(crate) bytes: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { spans: 2_000, bytes: 1024 * 1024 }
    }
}

/// Bytes of tags and lengths around the spans of one resource, at most.
const GROUP_OVERHEAD: usize = 24;

/// A request's body and how many spans are in it.
#[derive(Clone, Debug)]
pub(crate) struct SealedBatch {
    /// An encoded `ExportTraceServiceRequest`.
    pub(crate) body: Bytes,
    /// Spans in it.
    pub(crate) spans: u64,
}

/// A request that is still filling.
#[derive(Debug)]
pub(crate) struct Batch {
    groups: Vec<Group>,
    /// Groups by the address of their resource, which they keep alive.
    index: FxHashMap<usize, usize>,
    encoder: SpanEncoder,
    scope: Vec<u8>,
    limits: BatchLimits,
    spans: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Group {
    _resource: Arc<Resource>,
    encoded_resource: Vec<u8>,
    spans: Vec<u8>,
}

impl Batch {
    /// An empty batch.
    pub(crate) fn new(limits: BatchLimits) -> Self {
        let mut scope = Vec::new();
        append_scope(&mut scope);
        Self {
            groups: Vec::new(),
            index: FxHashMap::default(),
            encoder: SpanEncoder::default(),
            scope,
            limits,
            spans: 0,
            bytes: 0,
        }
    }

    /// Adds a span.
    pub(crate) fn push(&mut self, span: &Span) {
        let at = match self.index.get(&Arc::as_ptr(&span.resource).addr()) {
            Some(&at) => at,
            None => self.add_group(&span.resource),
        };
        let group = &mut self.groups[at].spans;
        let before = group.len();
        self.encoder.append(span, group);
        self.bytes += group.len() - before;
        self.spans += 1;
    }

    /// Whether a limit is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.spans >= self.limits.spans || self.bytes >= self.limits.bytes
    }

    /// Spans in it.
    pub(crate) fn len(&self) -> usize {
        self.spans
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.spans == 0
    }

    /// Takes all out as one request.
    pub(crate) fn seal(&mut self) -> SealedBatch {
        let mut body = Vec::with_capacity(self.bytes);
        for group in &self.groups {
            let scope_spans = self.scope.len() + group.spans.len();
            put_header(&mut body, 1, group.encoded_resource.len() + field_len(scope_spans));
            body.extend_from_slice(&group.encoded_resource);
            put_header(&mut body, 2, scope_spans);
            body.extend_from_slice(&self.scope);
            body.extend_from_slice(&group.spans);
        }
        let spans = self.spans as u64;
        self.groups.clear();
        self.index.clear();
        self.spans = 0;
        self.bytes = 0;
        SealedBatch { body: body.into(), spans }
    }

    fn add_group(&mut self, resource: &Arc<Resource>) -> usize {
        let mut encoded_resource = Vec::new();
        append_resource(resource, &mut encoded_resource);
        self.bytes += encoded_resource.len() + self.scope.len() + GROUP_OVERHEAD;
        self.groups.push(Group {
            _resource: Arc::clone(resource),
            encoded_resource,
            spans: Vec::new(),
        });
        let at = self.groups.len() - 1;
        self.index.insert(Arc::as_ptr(resource).addr(), at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::tests::example;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use prost::Message as _;

    fn decode(batch: &SealedBatch) -> ExportTraceServiceRequest {
        let request = ExportTraceServiceRequest::decode(&batch.body[..]);
        let request = request.expect("the generated types read what was written");
        assert_eq!(request.encode_to_vec(), batch.body);
        request
    }

    #[test]
    fn spans_are_grouped_by_resource_under_one_scope() {
        let (one, two) = (Arc::new(Resource::unknown()), Arc::new(Resource::unknown()));
        let mut batch = Batch::new(BatchLimits::default());
        for resource in [&one, &two, &one] {
            batch.push(&example(Arc::clone(resource)));
        }
        let sealed = batch.seal();
        assert_eq!(sealed.spans, 3);
        let request = decode(&sealed);
        let counts: Vec<_> =
            request.resource_spans.iter().map(|group| group.scope_spans[0].spans.len()).collect();
        assert_eq!(counts, [2, 1]);
        for group in request.resource_spans {
            let scope = group.scope_spans[0].scope.clone().expect("a scope is written");
            assert_eq!((scope.name.as_str(), scope.version.is_empty()), ("tracewire", false));
            let resource = group.resource.expect("a resource is written");
            assert_eq!(resource.attributes[0].key, "service.name");
        }
        assert!(batch.is_empty());
    }

    #[test]
    fn a_batch_is_full_by_spans() {
        let mut batch = Batch::new(BatchLimits { spans: 2, bytes: usize::MAX });
        let span = example(Arc::new(Resource::unknown()));
        batch.push(&span);
        assert!(!batch.is_full());
        batch.push(&span);
        assert!(batch.is_full());
    }

    #[test]
    fn a_body_stays_within_its_bytes_but_for_the_last_span() {
        let limits = BatchLimits { spans: usize::MAX, bytes: 64 * 1024 };
        let mut batch = Batch::new(limits);
        let mut largest = 0;
        while !batch.is_full() {
            // A resource of its own for each span: the worst case for the overhead.
            let before = batch.bytes;
            batch.push(&example(Arc::new(Resource::unknown())));
            largest = largest.max(batch.bytes - before);
        }
        let sealed = batch.seal();
        assert!(sealed.body.len() <= limits.bytes + largest, "{}", sealed.body.len());
        decode(&sealed);
    }
}
