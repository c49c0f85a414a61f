//! From finished spans to somebody who reads them.
//!
//! Spans come in batches through a bounded queue. Nothing here ever makes the
//! thread at the other end of it wait.

mod batch;
mod console;
mod encode;
mod headers;
mod otlp;
pub(crate) mod queue;
mod retry;
mod waterfall;

pub(crate) use console::{Console, ConsoleConfig};
pub(crate) use headers::parse_headers;
pub(crate) use otlp::{OtlpConfig, OtlpExporter};
pub(crate) use queue::{QueueLimits, SpanSink, SpanSource, queue};
