use super::*;
use crate::assemble::parse_head;
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
