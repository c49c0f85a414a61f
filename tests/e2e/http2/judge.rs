//! What the spans of HTTP/2 must say.

use tracewire_tests::expect::only;
use tracewire_tests::otlp::{Kind, Span, describe};
use tracewire_tests::services::Service;
use tracewire_tests::trace_parent::TraceParent;
use tracewire_tests::world::is_control;

/// The path of a request, or of a call: both are what stood in `:path`. Of a method that there is
/// not, a server's span has the name apart.
pub(crate) fn path(span: &Span) -> String {
    match (span.path(), span.attribute("rpc.method")) {
        ("", "_OTHER") => format!("/{}", span.attribute("rpc.method_original")),
        ("", method) => format!("/{method}"),
        (path, _) => path.to_owned(),
    }
}

/// The one span of a kind with this path.
pub(crate) fn one<'a>(spans: &'a [Span], kind: Kind, wanted: &str) -> &'a Span {
    only(&format!("{kind:?} span of {wanted}"), spans, |span| {
        span.kind == kind && path(span) == wanted
    })
}

/// The client's and the server's span of the only request with this path, the latter below the
/// former.
pub(crate) fn joined<'a>(spans: &'a [Span], wanted: &str) -> (&'a Span, &'a Span) {
    let (client, server) = (one(spans, Kind::Client, wanted), one(spans, Kind::Server, wanted));
    assert_eq!(server.parent, client.span_id, "{wanted}: {}", describe(spans));
    assert_eq!(server.trace_id, client.trace_id, "{wanted}: {}", describe(spans));
    for span in [client, server] {
        assert_eq!(span.attribute("network.protocol.version"), "2", "{span:?}");
        assert!(span.start <= span.end, "{span:?}");
    }
    (client, server)
}

/// As [`joined`], for a request that is no call: with this method and status at both ends.
pub(crate) fn requested<'a>(
    spans: &'a [Span],
    wanted: &str,
    method: &str,
    status: &str,
) -> (&'a Span, &'a Span) {
    let pair = joined(spans, wanted);
    for span in [pair.0, pair.1] {
        assert_eq!(span.attribute("http.request.method"), method, "{span:?}");
        assert_eq!(span.status(), status, "{span:?}");
        assert_eq!(span.attribute("rpc.system.name"), "", "{span:?}");
    }
    pair
}

/// As [`joined`], for a gRPC call that ended with a status code at both ends.
pub(crate) fn called<'a>(spans: &'a [Span], wanted: &str, code: &str) -> (&'a Span, &'a Span) {
    let pair = joined(spans, wanted);
    for span in [pair.0, pair.1] {
        assert_eq!(span.attribute("rpc.system.name"), "grpc", "{span:?}");
        if span.kind == Kind::Client || code != "UNIMPLEMENTED" {
            assert_eq!(span.attribute("rpc.method"), &wanted[1..], "{span:?}");
        }
        assert_eq!(span.attribute("rpc.response.status_code"), code, "{span:?}");
    }
    pair
}

/// The context that a service received with each request, in order: exactly one and in the form of
/// the standard, or in a control run none.
pub(crate) fn contexts(service: &Service) -> Vec<(String, Option<TraceParent>)> {
    let text = std::fs::read_to_string(&service.seen)
        .unwrap_or_else(|error| panic!("{}: {error}", service.seen.display()));
    let context = |line: &str| {
        let (path, values) = line.split_once(' ').unwrap_or((line, ""));
        // nginx writes a dash for nothing.
        let values = values.strip_prefix('-').unwrap_or(values);
        if is_control() {
            assert_eq!(values, "", "a context without an agent: {line}");
            return (path.to_owned(), None);
        }
        let context = TraceParent::parse(values.as_bytes());
        assert!(context.is_some(), "not one good context: {line:?}");
        (path.to_owned(), context)
    };
    text.lines().map(context).collect()
}

/// The service received exactly one context with each of so many requests: its path's client span's.
pub(crate) fn received_their_clients(service: &Service, spans: &[Span], count: usize) {
    let contexts = contexts(service);
    assert_eq!(contexts.len(), count, "requests received");
    for (path, context) in contexts {
        let Some(context) = context else { continue };
        let client = only(&format!("client span of {context:?}"), spans, |span| {
            span.kind == Kind::Client && span.span_id == context.span_id
        });
        assert_eq!(client.trace_id, context.trace_id, "{path}");
        assert_eq!(Some(self::path(client).as_str()), path.split('?').next());
    }
}
