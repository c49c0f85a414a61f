//! A finished span, before it becomes anybody's wire format.
//!
//! Kept small and typed: at 100,000 spans a second a list of key-value pairs for
//! each would cost more than all the rest. Attributes come into being when a
//! span is exported. Names and rules are those of the OpenTelemetry semantic
//! conventions for HTTP spans (stable since 1.23), and for spans of gRPC.

use crate::grpc::GrpcStatus;
use crate::resolve::Resource;
use std::net::SocketAddr;
use std::sync::Arc;
use tracewire_common::outcome::{Correlation, EndReason, Outcome};
use tracewire_common::records::Candidate;

/// What a span says of its process's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanKind {
    /// The process answered the request.
    Server,
    /// The process sent the request.
    Client,
}

/// A request method. Known are those of RFC 9110 §9 and `PATCH` (RFC 5789), the
/// conventions' default list; names are case-sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// `CONNECT`
    Connect,
    /// `DELETE`
    Delete,
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `OPTIONS`
    Options,
    /// `PATCH`
    Patch,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `TRACE`
    Trace,
    /// Any other.
    Other,
}

impl Method {
    /// The method with exactly this name, else [`Method::Other`].
    pub(crate) fn parse(name: &[u8]) -> Self {
        match name {
            b"CONNECT" => Self::Connect,
            b"DELETE" => Self::Delete,
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }

    /// The value of `http.request.method`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Trace => "TRACE",
            Self::Other => "_OTHER",
        }
    }
}

/// The version of HTTP of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1, and later ones that only claim to be (RFC 9110 §2.5).
    Http11,
    /// HTTP/2
    Http2,
    /// What a server hands to an application in records of FastCGI.
    FastCgi,
}

impl Version {
    /// The value of `network.protocol.version`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2",
            // `FCGI_VERSION_1`
            Self::FastCgi => "1",
        }
    }

    /// The value of `network.protocol.name`.
    pub(crate) const fn protocol(self) -> &'static str {
        match self {
            Self::FastCgi => "fastcgi",
            Self::Http10 | Self::Http11 | Self::Http2 => "http",
        }
    }
}

/// A piece of [`RequestHead::text`]. Heads are cut long before 64 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TextRange {
    /// First byte.
    pub(crate) start: u16,
    /// One past the last byte.
    pub(crate) end: u16,
}

/// What is kept of a request's head: all of it in one allocation, already redacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestHead {
    /// The bytes that the ranges below refer to.
    pub(crate) text: Box<str>,
    /// The method.
    pub(crate) method: Method,
    /// The version; of HTTP/1.x only if the request line was read to its end.
    pub(crate) version: Option<Version>,
    /// The method as sent, if it is not a known one.
    pub(crate) method_original: Option<TextRange>,
    /// The scheme of an absolute-form target, or of a request of HTTP/2, in lower case.
    pub(crate) scheme: Option<TextRange>,
    /// Host and port as in the target or the `Host` header, without user information.
    pub(crate) authority: Option<TextRange>,
    /// The host of the authority, without the brackets of an IPv6 address.
    pub(crate) host: Option<TextRange>,
    /// The port of the authority.
    pub(crate) port: Option<u16>,
    /// Whether the target held user information; it is not kept.
    pub(crate) has_userinfo: bool,
    /// The path; for `OPTIONS *` the asterisk.
    pub(crate) path: Option<TextRange>,
    /// The query, without the question mark, signature values redacted.
    pub(crate) query: Option<TextRange>,
    /// The `User-Agent` header.
    pub(crate) user_agent: Option<TextRange>,
    /// Whether it came over TLS.
    pub(crate) over_tls: bool,
    /// Whether this is a call of gRPC; `None` where HTTP/2's fields are not known well enough.
    pub(crate) is_grpc: Option<bool>,
}

impl RequestHead {
    /// The text of a range.
    pub(crate) fn get(&self, range: TextRange) -> &str {
        self.text.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    /// The text of a range, if there is one.
    pub(crate) fn text_of(&self, range: Option<TextRange>) -> Option<&str> {
        range.map(|range| self.get(range))
    }

    /// The scheme of the request's URL. Requests of HTTP/1.x do not name it, as a rule; those of
    /// HTTP/2 do, so there it is not known unless it was read.
    pub(crate) fn scheme(&self) -> Option<&str> {
        let unnamed = if self.over_tls { "https" } else { "http" };
        self.text_of(self.scheme).or((!self.is_http2()).then_some(unnamed))
    }

    /// Whether the request came over HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.version == Some(Version::Http2)
    }

    /// Whether the method was read, be it a known one or not.
    pub(crate) fn has_method(&self) -> bool {
        self.method != Method::Other || self.method_original.is_some()
    }

    /// The method of a call of gRPC, `package.Service/Method`, if the path is of that form
    /// (`grpc/doc/PROTOCOL-HTTP2.md`, "Requests").
    pub(crate) fn rpc_method(&self) -> Option<&str> {
        let name = self.text_of(self.path)?.strip_prefix('/')?;
        let (service, method) = name.rsplit_once('/')?;
        (!service.is_empty() && !method.is_empty()).then_some(name)
    }
}

/// One finished span.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// The trace id, in the order of the wire.
    pub(crate) trace_id: [u8; 16],
    /// The span id; big-endian on the wire.
    pub(crate) span_id: u64,
    /// The parent's span id; 0 for a root.
    pub(crate) parent_span_id: u64,
    /// What may be the parent, if that is not known for certain, and these are all.
    pub(crate) candidates: Box<[Candidate]>,
    /// The part of the process.
    pub(crate) kind: SpanKind,
    /// The rule that found the parent.
    pub(crate) correlation: Correlation,
    /// Why the request was, or was not, given a header.
    pub(crate) outcome: Outcome,
    /// How the exchange ended.
    pub(crate) end: EndReason,
    /// The status code of the response; 0 if there was none.
    pub(crate) status: u16,
    /// First byte of the request, in ns since the Unix epoch.
    pub(crate) start_unix_ns: u64,
    /// End of the response or of its connection, in ns since the Unix epoch.
    pub(crate) end_unix_ns: u64,
    /// Bytes of the request's content.
    pub(crate) request_body_bytes: u64,
    /// Bytes of the response's content.
    pub(crate) response_body_bytes: u64,
    /// This end of the connection.
    pub(crate) local: SocketAddr,
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// What was asked.
    pub(crate) request: RequestHead,
    /// What makes this a call of gRPC; else it is a request of HTTP.
    pub(crate) grpc: Option<GrpcCall>,
    /// The process.
    pub(crate) resource: Arc<Resource>,
}

/// A call of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GrpcCall {
    /// Its status, if that is known.
    pub(crate) status: Option<GrpcStatus>,
}

/// Why a span's status is `Error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanError {
    /// The status code of HTTP says so.
    Status(u16),
    /// The status code of gRPC does.
    Grpc(GrpcStatus),
    /// The exchange was cut off.
    Broken(EndReason),
}

impl Span {
    /// The span's name: the method alone, since the path is not of low
    /// cardinality; `HTTP` for a method that is not known. Of a call of gRPC its method, which
    /// is of low cardinality; `grpc` for one that is not known.
    pub(crate) fn name(&self) -> &str {
        if self.grpc.is_some() {
            return self.rpc_method().unwrap_or("grpc");
        }
        match self.request.method {
            Method::Other => "HTTP",
            method => method.as_str(),
        }
    }

    /// The method of a call of gRPC, if it is one that exists. Anybody may ask a server for any;
    /// where it answers `UNIMPLEMENTED` that is no name of low cardinality
    /// (semantic conventions, `rpc.method`).
    pub(crate) fn rpc_method(&self) -> Option<&str> {
        let call = self.grpc?;
        let is_refused =
            self.kind == SpanKind::Server && call.status == Some(GrpcStatus::UNIMPLEMENTED);
        if is_refused { None } else { self.request.rpc_method() }
    }

    /// The error, if the span is one.
    ///
    /// Codes from 400 are errors of a client's span, codes from 500 of a
    /// server's; so are exchanges that were cut off. A response whose end was not
    /// seen ([`EndReason::Lost`]) says nothing bad of the exchange itself. The status of a call
    /// of gRPC, if it is known, says all.
    pub(crate) fn error(&self) -> Option<SpanError> {
        if let Some(GrpcCall { status }) = self.grpc {
            let Some(status) = status else { return self.broken() };
            let is_error = match self.kind {
                SpanKind::Client => status != GrpcStatus::OK,
                SpanKind::Server => status.is_server_error(),
            };
            return is_error.then_some(SpanError::Grpc(status));
        }
        let first_error = match self.kind {
            SpanKind::Client => 400,
            SpanKind::Server => 500,
        };
        if self.status >= first_error {
            return Some(SpanError::Status(self.status));
        }
        self.broken()
    }

    /// The error, if the exchange was cut off.
    fn broken(&self) -> Option<SpanError> {
        match self.end {
            EndReason::Reset | EndReason::Closed | EndReason::Aborted | EndReason::StreamReset => {
                Some(SpanError::Broken(self.end))
            }
            EndReason::Complete | EndReason::Lost | EndReason::Switched => None,
        }
    }

    /// The duration, in ns.
    pub(crate) fn duration_ns(&self) -> u64 {
        self.end_unix_ns.saturating_sub(self.start_unix_ns)
    }

    /// The value of `server.port`: the port that the request named, the scheme's
    /// default if it named only a host, else the port of the server's end. A client's
    /// `Host` without a port may be any name (nginx sends that of an upstream group), so
    /// there the port that it is connected to is the truth, unless it asks a proxy.
    pub(crate) fn server_port(&self) -> u16 {
        match (self.request.port, self.request.host) {
            (Some(port), _) => port,
            (None, Some(_)) if self.kind == SpanKind::Client && !self.asks_a_proxy() => {
                self.peer.port()
            }
            (None, Some(_)) if self.request.scheme() == Some("https") => 443,
            (None, Some(_)) => 80,
            (None, None) => self.server_end().port(),
        }
    }

    /// Whether the request is in the form that is for proxies (RFC 9112 §3.2.2). HTTP/2 has one
    /// form for all.
    fn asks_a_proxy(&self) -> bool {
        self.request.scheme.is_some() && !self.request.is_http2()
    }

    /// The server's end of the connection.
    pub(crate) fn server_end(&self) -> SocketAddr {
        match self.kind {
            SpanKind::Client => self.peer,
            SpanKind::Server => self.local,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// A server span of `GET /` that went well, for tests to change.
    pub(crate) fn example(resource: Arc<Resource>) -> Span {
        Span {
            trace_id: [0x11; 16],
            span_id: 0x22,
            parent_span_id: 0,
            candidates: Box::default(),
            kind: SpanKind::Server,
            correlation: Correlation::None,
            outcome: Outcome::NotApplicable,
            end: EndReason::Complete,
            status: 200,
            start_unix_ns: 1_000_000_000,
            end_unix_ns: 1_002_000_000,
            request_body_bytes: 0,
            response_body_bytes: 0,
            local: (Ipv4Addr::LOCALHOST, 8080).into(),
            peer: (Ipv4Addr::LOCALHOST, 40000).into(),
            request: crate::assemble::parse_head(
                b"GET / HTTP/1.1\r\nHost: a.test:8080\r\n\r\n",
                false,
            ),
            grpc: None,
            resource,
        }
    }

    fn span(kind: SpanKind, status: u16, end: EndReason) -> Span {
        Span { kind, status, end, ..example(Arc::new(Resource::unknown())) }
    }

    #[test]
    fn client_errors_are_errors_of_the_client_alone() {
        assert_eq!(span(SpanKind::Server, 404, EndReason::Complete).error(), None);
        assert_eq!(
            span(SpanKind::Client, 404, EndReason::Complete).error(),
            Some(SpanError::Status(404))
        );
    }

    #[test]
    fn server_errors_are_errors_of_both() {
        for kind in [SpanKind::Server, SpanKind::Client] {
            assert_eq!(span(kind, 503, EndReason::Complete).error(), Some(SpanError::Status(503)));
            assert_eq!(span(kind, 302, EndReason::Complete).error(), None);
        }
    }

    #[test]
    fn a_cut_off_exchange_is_an_error_with_and_without_a_status() {
        for (status, end) in
            [(0, EndReason::Reset), (0, EndReason::Closed), (200, EndReason::Aborted)]
        {
            assert_eq!(span(SpanKind::Server, status, end).error(), Some(SpanError::Broken(end)));
        }
    }

    #[test]
    fn lost_and_switched_are_no_errors() {
        assert_eq!(span(SpanKind::Client, 200, EndReason::Lost).error(), None);
        assert_eq!(span(SpanKind::Client, 101, EndReason::Switched).error(), None);
    }

    #[test]
    fn the_name_is_the_method_and_never_the_path() {
        let mut span = span(SpanKind::Server, 200, EndReason::Complete);
        assert_eq!(span.name(), "GET");
        span.request.method = Method::parse(b"get");
        assert_eq!(span.name(), "HTTP");
        assert_eq!(span.request.method.as_str(), "_OTHER");
    }

    #[test]
    fn a_host_without_port_means_the_schemes_port() {
        let mut span = span(SpanKind::Server, 200, EndReason::Complete);
        assert_eq!(span.server_port(), 8080);
        span.request =
            crate::assemble::parse_head(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", false);
        assert_eq!(span.server_port(), 80);
        span.request = crate::assemble::parse_head(b"GET / HTTP/1.0\r\n\r\n", false);
        assert_eq!(span.server_port(), 8080);
    }

    #[test]
    fn a_clients_host_without_port_means_the_port_that_it_is_connected_to() {
        let mut span = span(SpanKind::Client, 200, EndReason::Complete);
        span.request = crate::assemble::parse_head(b"GET / HTTP/1.1\r\nHost: pool\r\n\r\n", false);
        assert_eq!(span.server_port(), span.peer.port());
        span.request = crate::assemble::parse_head(
            b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
            false,
        );
        assert_eq!(span.server_port(), 80);
    }
}
