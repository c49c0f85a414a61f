//! A span as protobuf (`opentelemetry/proto/trace/v1/trace.proto`).
//!
//! Written straight from the typed span: the generated types want two
//! allocations for each of some twenty attributes, which is more work than all
//! else that the agent does for a span. The tests read every field back with
//! the generated types of `opentelemetry-proto`.

use crate::assemble::REDACTED;
use crate::resolve::{Resource, ResourceValue};
use crate::span::{GrpcCall, Method, Span, SpanError, SpanKind, Version};
use std::fmt::Write as _;
use std::net::IpAddr;
use tracewire_common::context::{FLAG_SAMPLED, TraceContext};
use tracewire_common::outcome::{Correlation, EndReason, Outcome};
use tracewire_common::records::Candidate;

/// The instrumentation scope of every span.
const SCOPE_NAME: &str = "tracewire";

// `SpanFlags` of trace.proto.
const FLAG_HAS_IS_REMOTE: u32 = 0x100;
const FLAG_IS_REMOTE: u32 = 0x200;

const WIRE_VARINT: u32 = 0;
const WIRE_FIXED64: u32 = 1;
const WIRE_BYTES: u32 = 2;
const WIRE_FIXED32: u32 = 5;

/// Writes spans, with buffers that are used again.
#[derive(Debug, Default)]
pub(crate) struct SpanEncoder {
    body: Vec<u8>,
    link: Vec<u8>,
    text: String,
}

impl SpanEncoder {
    /// Appends a span to `out`, as an element of `ScopeSpans.spans`.
    pub(crate) fn append(&mut self, span: &Span, out: &mut Vec<u8>) {
        self.body.clear();
        self.write(span);
        put_bytes(out, 2, &self.body);
    }

    fn write(&mut self, span: &Span) {
        let out = &mut self.body;
        put_bytes(out, 1, &span.trace_id);
        put_bytes(out, 2, &span.span_id.to_be_bytes());
        if span.parent_span_id != 0 {
            put_bytes(out, 4, &span.parent_span_id.to_be_bytes());
        }
        put_bytes(out, 5, span.name().as_bytes());
        let kind = match span.kind {
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        };
        put_tag(out, 6, WIRE_VARINT);
        put_varint(out, kind);
        put_fixed64(out, 7, span.start_unix_ns);
        put_fixed64(out, 8, span.end_unix_ns);
        self.attributes(span);
        for candidate in &span.candidates {
            self.link(candidate);
        }
        let out = &mut self.body;
        if span.error().is_some() {
            // Status { code: STATUS_CODE_ERROR }; the reason is in the attributes.
            put_bytes(out, 15, &[3 << 3 | WIRE_VARINT as u8, 2]);
        }
        let is_remote = matches!(
            span.correlation,
            Correlation::Wire | Correlation::Local | Correlation::TcpOption
        );
        let remote = if is_remote { FLAG_IS_REMOTE } else { 0 };
        put_tag(out, 16, WIRE_FIXED32);
        // What is not sampled is never recorded.
        let flags = u32::from(FLAG_SAMPLED) | FLAG_HAS_IS_REMOTE | remote;
        out.extend_from_slice(&flags.to_le_bytes());
    }

    /// A `Span.Link` to what may be the parent.
    fn link(&mut self, candidate: &Candidate) {
        let context = TraceContext {
            trace_id_hi: candidate.trace_id_hi,
            trace_id_lo: candidate.trace_id_lo,
            ..TraceContext::default()
        };
        self.link.clear();
        put_bytes(&mut self.link, 1, &context.trace_id());
        put_bytes(&mut self.link, 2, &candidate.span_id.to_be_bytes());
        Attributes { out: &mut self.link, field: 4 }.text("tracewire.link", "candidate");
        put_tag(&mut self.link, 6, WIRE_FIXED32);
        self.link.extend_from_slice(&FLAG_HAS_IS_REMOTE.to_le_bytes());
        put_bytes(&mut self.body, 13, &self.link);
    }

    fn attributes(&mut self, span: &Span) {
        let Self { body, text, .. } = self;
        let mut out = Attributes { out: body, field: 9 };
        let request = &span.request;

        match span.grpc {
            Some(call) => grpc_attributes(&mut out, span, call),
            None => http_attributes(&mut out, span),
        }
        match span.error() {
            Some(SpanError::Status(status)) => {
                write_into(text, format_args!("{status}"));
                out.text("error.type", text);
            }
            Some(SpanError::Grpc(status)) => out.text("error.type", &status.name()),
            Some(SpanError::Broken(end)) => out.text("error.type", end.as_str()),
            None => {}
        }
        match request.text_of(request.host) {
            Some(host) => out.text("server.address", host),
            None => {
                write_ip(text, span.server_end().ip());
                out.text("server.address", text);
            }
        }
        out.integer("server.port", span.server_port().into());
        write_ip(text, span.peer.ip());
        out.text("network.peer.address", text);
        if span.kind == SpanKind::Server {
            // The peer of the connection. Forwarding headers are written by whoever
            // likes to, and headers beyond those named here do not leave the process.
            out.text("client.address", text);
        }
        out.integer("network.peer.port", span.peer.port().into());
        if let Some(version) = request.version {
            // Spans of HTTP need no name of what they are a version of.
            if span.grpc.is_some() || version == Version::FastCgi {
                out.text("network.protocol.name", version.protocol());
            }
            out.text("network.protocol.version", version.as_str());
        }
        match span.kind {
            // The conventions of RPC know no URLs.
            _ if span.grpc.is_some() => {}
            SpanKind::Server => {
                if let Some(scheme) = request.scheme() {
                    out.text("url.scheme", scheme);
                }
                if let Some(path) = request.text_of(request.path) {
                    out.text("url.path", path);
                }
                if let Some(query) = request.text_of(request.query) {
                    out.text("url.query", query);
                }
            }
            SpanKind::Client => {
                if write_url(text, span) {
                    out.text("url.full", text);
                }
            }
        }
        // Recommended for servers, opt-in for clients: it says which program asks.
        if let Some(agent) = request.text_of(request.user_agent) {
            out.text("user_agent.original", agent);
        }
        out.text("tracewire.correlation", span.correlation.as_str());
        if span.outcome != Outcome::NotApplicable {
            out.text("tracewire.propagation", span.outcome.as_str());
        }
        if span.end != EndReason::Complete {
            out.text("tracewire.end", span.end.as_str());
        }
    }
}

/// The resource as an element of `ResourceSpans`.
pub(crate) fn append_resource(resource: &Resource, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(512);
    let mut attributes = Attributes { out: &mut body, field: 1 };
    attributes.text("service.name", &resource.service_name);
    for (key, value) in &resource.attributes {
        match value {
            ResourceValue::Text(text) => attributes.text(key, text),
            ResourceValue::Integer(number) => attributes.integer(key, *number),
        }
    }
    put_bytes(out, 1, &body);
}

/// The scope as an element of `ScopeSpans`.
pub(crate) fn append_scope(out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(32);
    put_bytes(&mut body, 1, SCOPE_NAME.as_bytes());
    put_bytes(&mut body, 2, env!("CARGO_PKG_VERSION").as_bytes());
    put_bytes(out, 1, &body);
}

/// What the conventions of HTTP say of a request and its response alone.
fn http_attributes(out: &mut Attributes<'_>, span: &Span) {
    let request = &span.request;
    // What is not known of a request of HTTP/2 was not read, rather than not sent.
    if request.has_method() || !request.is_http2() {
        out.text("http.request.method", request.method.as_str());
    }
    if let Some(original) = request.text_of(request.method_original) {
        out.text("http.request.method_original", original);
    }
    if span.status != 0 {
        out.integer("http.response.status_code", span.status.into());
    }
    out.integer("http.request.body.size", clamp(span.request_body_bytes));
    if span.status != 0 {
        out.integer("http.response.body.size", clamp(span.response_body_bytes));
    }
}

/// What the conventions of gRPC say of a call. They have no place for the request of HTTP under it.
fn grpc_attributes(out: &mut Attributes<'_>, span: &Span, call: GrpcCall) {
    out.text("rpc.system.name", "grpc");
    match (span.rpc_method(), span.request.text_of(span.request.path)) {
        (Some(method), _) => out.text("rpc.method", method),
        (None, Some(path)) => {
            out.text("rpc.method", "_OTHER");
            out.text("rpc.method_original", path.strip_prefix('/').unwrap_or(path));
        }
        (None, None) => {}
    }
    if let Some(status) = call.status {
        out.text("rpc.response.status_code", &status.name());
    }
}

/// `url.full`: credentials are replaced, the query is redacted already. `false` if too little of
/// it is known.
fn write_url(text: &mut String, span: &Span) -> bool {
    let request = &span.request;
    text.clear();
    if request.is_http2() && request.method != Method::Connect && request.path.is_none() {
        return false;
    }
    // `CONNECT` has no scheme; the conventions' own form for an authority alone.
    if request.path.is_some() || request.authority.is_none() {
        let Some(scheme) = request.scheme() else { return false };
        text.push_str(scheme);
        text.push(':');
    }
    text.push_str("//");
    if request.has_userinfo {
        text.push_str(REDACTED);
        text.push(':');
        text.push_str(REDACTED);
        text.push('@');
    }
    match request.text_of(request.authority) {
        Some(authority) => text.push_str(authority),
        // Writing to a string cannot fail.
        None => drop(write!(text, "{}", span.server_end())),
    }
    match request.text_of(request.path) {
        // RFC 9112 §3.2.4: `OPTIONS *` is about the authority alone.
        None | Some("*") => {}
        Some(path) => text.push_str(path),
    }
    if let Some(query) = request.text_of(request.query) {
        text.push('?');
        text.push_str(query);
    }
    true
}

fn write_into(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.clear();
    // Writing to a string cannot fail.
    let _ = text.write_fmt(arguments);
}

fn write_ip(text: &mut String, ip: IpAddr) {
    text.clear();
    match ip {
        IpAddr::V4(ip) => {
            for (at, octet) in ip.octets().into_iter().enumerate() {
                if at != 0 {
                    text.push('.');
                }
                push_octet(text, octet);
            }
        }
        // Writing to a string cannot fail.
        IpAddr::V6(ip) => drop(write!(text, "{ip}")),
    }
}

fn push_octet(text: &mut String, octet: u8) {
    if octet >= 100 {
        text.push(char::from(b'0' + octet / 100));
    }
    if octet >= 10 {
        text.push(char::from(b'0' + octet / 10 % 10));
    }
    text.push(char::from(b'0' + octet % 10));
}

fn clamp(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Writes `KeyValue`s into a repeated field.
struct Attributes<'a> {
    out: &'a mut Vec<u8>,
    field: u32,
}

impl Attributes<'_> {
    fn text(&mut self, key: &str, value: &str) {
        self.entry(key, 1 + varint_len(value.len() as u64) + value.len());
        put_bytes(self.out, 1, value.as_bytes());
    }

    fn integer(&mut self, key: &str, value: i64) {
        // Negative numbers are written as their two's complement.
        self.entry(key, 1 + varint_len(value as u64));
        put_tag(self.out, 3, WIRE_VARINT);
        put_varint(self.out, value as u64);
    }

    /// Everything before the contents of the `AnyValue`, which has `value_len` bytes.
    fn entry(&mut self, key: &str, value_len: usize) {
        let key_len = 1 + varint_len(key.len() as u64) + key.len();
        put_tag(self.out, self.field, WIRE_BYTES);
        put_varint(self.out, (key_len + 1 + varint_len(value_len as u64) + value_len) as u64);
        put_bytes(self.out, 1, key.as_bytes());
        put_tag(self.out, 2, WIRE_BYTES);
        put_varint(self.out, value_len as u64);
    }
}

/// Appends a length-delimited field.
pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_header(out, field, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends tag and length of a length-delimited field.
pub(crate) fn put_header(out: &mut Vec<u8>, field: u32, len: usize) {
    put_tag(out, field, WIRE_BYTES);
    put_varint(out, len as u64);
}

/// Bytes that a length-delimited field takes; for fields below 16.
pub(crate) fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn put_fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    put_tag(out, field, WIRE_FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_tag(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    put_varint(out, u64::from(field << 3 | wire_type));
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_len(value: u64) -> usize {
    // Seven bits a byte, at least one byte.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
