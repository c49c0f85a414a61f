use super::*;
use crate::assemble::http2::fields::{Fields, Name};
use crate::assemble::{head_of_fields, parse_head};
use crate::grpc::GrpcStatus;
use crate::span::tests::example;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{ScopeSpans, Span as ProtoSpan};
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;

fn decode(span: &Span) -> ProtoSpan {
    let mut bytes = Vec::new();
    SpanEncoder::default().append(span, &mut bytes);
    let mut scope =
        ScopeSpans::decode(&bytes[..]).expect("the generated types read what was written");
    assert_eq!(scope.encode_to_vec(), bytes, "nothing was unknown or out of order");
    scope.spans.remove(0)
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let texts: BTreeMap<_, _> = attributes
        .iter()
        .map(|attribute| {
            let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
            let text = match value.expect("every attribute has a value") {
                Value::StringValue(text) => text.clone(),
                Value::IntValue(number) => number.to_string(),
                other => panic!("no such value is written: {other:?}"),
            };
            (attribute.key.clone(), text)
        })
        .collect();
    assert_eq!(texts.len(), attributes.len(), "no key comes twice");
    texts
}

fn span(kind: SpanKind, head: &str) -> Span {
    Span {
        kind,
        request: parse_head(head.as_bytes(), false),
        ..example(Arc::new(Resource::unknown()))
    }
}

#[track_caller]
fn expect(attributes: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    let expected: BTreeMap<_, _> =
        expected.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    assert_eq!(*attributes, expected);
}

#[test]
fn a_server_span_has_the_attributes_of_the_conventions_and_no_others() {
    let mut span = span(
        SpanKind::Server,
        "POST /cart?id=7&sig=hush HTTP/1.1\r\nHost: shop.test:8080\r\nUser-Agent: curl/8\r\nCookie: hush\r\n\r\n",
    );
    span.request_body_bytes = 12;
    span.response_body_bytes = 300;
    span.correlation = Correlation::Wire;
    span.parent_span_id = 0x33;
    let proto = decode(&span);
    assert_eq!(proto.trace_id, [0x11; 16]);
    assert_eq!(proto.span_id, 0x22u64.to_be_bytes());
    assert_eq!(proto.parent_span_id, 0x33u64.to_be_bytes());
    assert_eq!((proto.name.as_str(), proto.kind), ("POST", 2));
    assert_eq!(
        (proto.start_time_unix_nano, proto.end_time_unix_nano),
        (1_000_000_000, 1_002_000_000)
    );
    assert_eq!(proto.status, None);
    assert_eq!(proto.flags, 0x301);
    expect(
        &texts(&proto.attributes),
        &[
            ("http.request.method", "POST"),
            ("http.response.status_code", "200"),
            ("http.request.body.size", "12"),
            ("http.response.body.size", "300"),
            ("server.address", "shop.test"),
            ("server.port", "8080"),
            ("network.peer.address", "127.0.0.1"),
            ("network.peer.port", "40000"),
            ("client.address", "127.0.0.1"),
            ("network.protocol.version", "1.1"),
            ("url.scheme", "http"),
            ("url.path", "/cart"),
            ("url.query", "id=7&sig=REDACTED"),
            ("user_agent.original", "curl/8"),
            ("tracewire.correlation", "wire"),
        ],
    );
}

#[test]
fn a_client_span_has_the_whole_url_and_no_parts_of_it() {
    let mut span = span(
        SpanKind::Client,
        "GET /stock?q=1 HTTP/1.1\r\nHost: stock.test\r\nUser-Agent: x\r\n\r\n",
    );
    span.outcome = Outcome::Injected;
    span.correlation = Correlation::Receive;
    let proto = decode(&span);
    assert_eq!((proto.kind, proto.flags), (3, 0x101));
    assert!(proto.parent_span_id.is_empty());
    expect(
        &texts(&proto.attributes),
        &[
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("http.request.body.size", "0"),
            ("http.response.body.size", "0"),
            ("server.address", "stock.test"),
            ("server.port", "40000"),
            ("network.peer.address", "127.0.0.1"),
            ("network.peer.port", "40000"),
            ("network.protocol.version", "1.1"),
            ("url.full", "http://stock.test/stock?q=1"),
            ("user_agent.original", "x"),
            ("tracewire.correlation", "receive"),
            ("tracewire.propagation", "injected"),
        ],
    );
}

fn url(head: &str) -> Option<String> {
    texts(&decode(&span(SpanKind::Client, head)).attributes).remove("url.full")
}

#[test]
fn credentials_of_a_url_are_redacted() {
    let url =
        url("GET http://me:hush@a.test:81/x?a=1&X-Amz-Signature=hush HTTP/1.1\r\nHost: b\r\n\r\n");
    assert_eq!(
        url.as_deref(),
        Some("http://REDACTED:REDACTED@a.test:81/x?a=1&X-Amz-Signature=REDACTED")
    );
}

#[test]
fn every_form_of_target_gives_a_url() {
    let cases = [
        ("GET /x HTTP/1.0\r\n\r\n", "http://127.0.0.1:40000/x"),
        ("OPTIONS * HTTP/1.1\r\nHost: a.test:81\r\n\r\n", "http://a.test:81"),
        ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", "//a.test:443"),
        ("GET http://a.test HTTP/1.1\r\n\r\n", "http://a.test/"),
        ("GET /x HTTP/1.1\r\nHost: [::1]:81\r\n\r\n", "http://[::1]:81/x"),
    ];
    for (head, expected) in cases {
        assert_eq!(url(head).as_deref(), Some(expected), "{head}");
    }
}

#[test]
fn an_unknown_method_is_other_with_its_original() {
    let proto = decode(&span(SpanKind::Server, "PURGE /x HTTP/1.1\r\nHost: a\r\n\r\n"));
    let attributes = texts(&proto.attributes);
    assert_eq!(proto.name, "HTTP");
    assert_eq!(attributes["http.request.method"], "_OTHER");
    assert_eq!(attributes["http.request.method_original"], "PURGE");
}

#[test]
fn an_error_has_a_status_and_a_type() {
    let mut span = span(SpanKind::Server, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    span.status = 503;
    let proto = decode(&span);
    assert_eq!(proto.status.map(|status| status.code), Some(2));
    assert_eq!(texts(&proto.attributes)["error.type"], "503");

    span.status = 0;
    span.end = EndReason::Reset;
    let proto = decode(&span);
    let attributes = texts(&proto.attributes);
    assert_eq!(proto.status.map(|status| status.code), Some(2));
    assert_eq!(attributes["error.type"], "connection_reset");
    assert_eq!(attributes["tracewire.end"], "connection_reset");
    assert!(!attributes.contains_key("http.response.status_code"));
}

#[test]
fn a_response_whose_end_was_lost_says_so_and_is_no_error() {
    let mut span = span(SpanKind::Server, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    span.end = EndReason::Lost;
    let proto = decode(&span);
    assert_eq!(proto.status, None);
    assert_eq!(texts(&proto.attributes)["tracewire.end"], "lost");
}

#[test]
fn addresses_are_written_as_everybody_writes_them() {
    let mut text = String::new();
    for ip in ["0.0.0.0", "10.9.99.100", "255.200.7.1", "::1", "2001:db8::7"] {
        write_ip(&mut text, ip.parse().expect("an address"));
        assert_eq!(text, ip);
    }
}

#[test]
fn lengths_of_numbers_are_right_at_every_edge() {
    for bits in 0..64 {
        for value in [1u64 << bits, (1u64 << bits) - 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value), "{value}");
        }
    }
}

#[test]
fn what_may_be_the_parent_is_linked_and_said_to_be_no_more_than_that() {
    let candidate = |span_id| Candidate { trace_id_hi: 0x0102 << 48, trace_id_lo: 0x0304, span_id };
    let mut span = span(SpanKind::Client, "GET / HTTP/1.1\r\n\r\n");
    span.correlation = Correlation::Ambiguous;
    span.candidates = [candidate(5), candidate(6)].into();
    let proto = decode(&span);
    assert!(proto.parent_span_id.is_empty());
    assert_eq!(proto.links.len(), 2);
    for (link, id) in proto.links.iter().zip([5u64, 6]) {
        assert_eq!(link.trace_id, [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4]);
        assert_eq!(link.span_id, id.to_be_bytes());
        assert_eq!(link.flags, 0x100);
        expect(&texts(&link.attributes), &[("tracewire.link", "candidate")]);
    }
}

/// A span of a request over HTTP/2 with these fields.
fn stream_span(kind: SpanKind, list: &[(Name, &str)]) -> Span {
    let mut fields = Fields::default();
    for (name, value) in list {
        fields.add(*name, Some(value.as_bytes()));
    }
    Span { kind, request: head_of_fields(&fields), ..example(Arc::new(Resource::unknown())) }
}

const CALL: &[(Name, &str)] = &[
    (Name::Method, "POST"),
    (Name::Scheme, "http"),
    (Name::Path, "/shop.v1.Cart/Add"),
    (Name::Authority, "cart.test:50051"),
    (Name::ContentType, "application/grpc"),
    (Name::UserAgent, "grpc-go/1.60"),
];

fn call(status: &[u8]) -> Option<GrpcCall> {
    Some(GrpcCall { status: GrpcStatus::parse(status) })
}

#[test]
fn a_call_of_grpc_has_the_attributes_of_its_conventions_and_none_of_http() {
    let mut span = stream_span(SpanKind::Client, CALL);
    span.grpc = call(b"5");
    span.outcome = Outcome::FrameFull;
    let proto = decode(&span);
    assert_eq!((proto.name.as_str(), proto.kind), ("shop.v1.Cart/Add", 3));
    assert_eq!(proto.status.as_ref().map(|status| status.code), Some(2));
    expect(
        &texts(&proto.attributes),
        &[
            ("rpc.system.name", "grpc"),
            ("rpc.method", "shop.v1.Cart/Add"),
            ("rpc.response.status_code", "NOT_FOUND"),
            ("error.type", "NOT_FOUND"),
            ("server.address", "cart.test"),
            ("server.port", "50051"),
            ("network.peer.address", "127.0.0.1"),
            ("network.peer.port", "40000"),
            ("network.protocol.name", "http"),
            ("network.protocol.version", "2"),
            ("user_agent.original", "grpc-go/1.60"),
            ("tracewire.correlation", "none"),
            ("tracewire.propagation", "frame_full"),
        ],
    );
    span.kind = SpanKind::Server;
    let proto = decode(&span);
    assert_eq!(proto.status, None);
    let attributes = texts(&proto.attributes);
    assert_eq!(attributes["rpc.response.status_code"], "NOT_FOUND");
    assert_eq!(attributes["client.address"], "127.0.0.1");
    assert!(!attributes.contains_key("error.type"));
}

#[test]
fn a_method_that_a_server_does_not_have_is_other() {
    let mut span = stream_span(SpanKind::Server, CALL);
    span.grpc = call(b"12");
    let proto = decode(&span);
    let attributes = texts(&proto.attributes);
    assert_eq!(proto.name, "grpc");
    assert_eq!(attributes["rpc.method"], "_OTHER");
    assert_eq!(attributes["rpc.method_original"], "shop.v1.Cart/Add");
    assert_eq!(attributes["error.type"], "UNIMPLEMENTED");
    // The client knows what it calls.
    span.kind = SpanKind::Client;
    assert_eq!(texts(&decode(&span).attributes)["rpc.method"], "shop.v1.Cart/Add");
}

#[test]
fn a_call_whose_fields_are_not_known_has_no_attributes_of_them() {
    let mut span = stream_span(SpanKind::Client, &[]);
    span.grpc = call(b"");
    let attributes = texts(&decode(&span).attributes);
    assert_eq!(attributes["rpc.system.name"], "grpc");
    assert!(!attributes.keys().any(|key| key.starts_with("rpc.m") || key.starts_with("rpc.r")));
}

#[test]
fn a_plain_request_over_http_2_is_described_as_one_over_http_1() {
    let list = [
        (Name::Method, "GET"),
        (Name::Scheme, "https"),
        (Name::Path, "/cart?sig=hush&a=1"),
        (Name::Authority, "me:hush@shop.test"),
    ];
    let attributes = texts(&decode(&stream_span(SpanKind::Server, &list)).attributes);
    expect(
        &attributes,
        &[
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("http.request.body.size", "0"),
            ("http.response.body.size", "0"),
            ("server.address", "shop.test"),
            ("server.port", "443"),
            ("network.peer.address", "127.0.0.1"),
            ("network.peer.port", "40000"),
            ("client.address", "127.0.0.1"),
            ("network.protocol.version", "2"),
            ("url.scheme", "https"),
            ("url.path", "/cart"),
            ("url.query", "sig=REDACTED&a=1"),
            ("tracewire.correlation", "none"),
        ],
    );
    let mut span = stream_span(SpanKind::Client, &list);
    span.status = 0;
    span.end = EndReason::StreamReset;
    let attributes = texts(&decode(&span).attributes);
    assert_eq!(attributes["url.full"], "https://REDACTED:REDACTED@shop.test/cart?sig=REDACTED&a=1");
    assert_eq!(attributes["error.type"], "stream_reset");
    assert_eq!(attributes["tracewire.end"], "stream_reset");
}

#[test]
fn what_is_not_known_of_a_request_over_http_2_is_left_out() {
    for kind in [SpanKind::Server, SpanKind::Client] {
        let proto = decode(&stream_span(kind, &[(Name::Authority, "a.test")]));
        let attributes = texts(&proto.attributes);
        assert_eq!(proto.name, "HTTP");
        assert!(!attributes.keys().any(|key| key.starts_with("url.")), "{attributes:?}");
        assert!(!attributes.contains_key("http.request.method"));
    }
    let list = [(Name::Path, "/a"), (Name::Authority, "a.test")];
    let span = stream_span(SpanKind::Client, &list);
    assert!(!texts(&decode(&span).attributes).contains_key("url.full"), "without a scheme");
    let list = [(Name::Method, "CONNECT"), (Name::Authority, "a.test:443")];
    let span = stream_span(SpanKind::Client, &list);
    assert_eq!(texts(&decode(&span).attributes)["url.full"], "//a.test:443");
}
