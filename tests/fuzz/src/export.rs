//! What the exporter parses, as in the agent.

#[path = "../../../agent/src/export/headers.rs"]
mod headers;

pub(crate) use headers::parse_headers;
