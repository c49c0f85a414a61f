use super::*;
use crate::assemble::http2::fields::{Fields, Name};
use crate::assemble::{head_of_fields, parse_head};
use crate::resolve::Resource;
use crate::span::GrpcCall;
use crate::span::tests::example;
use std::sync::Arc;
use tracewire_common::outcome::EndReason;

fn span(service: &str, kind: SpanKind, id: u64, parent: u64, start_us: u64, end_us: u64) -> Span {
    let resource = Resource { service_name: service.into(), attributes: Vec::new() };
    Span {
        kind,
        span_id: id,
        parent_span_id: parent,
        start_unix_ns: 1_000_000_000 + start_us * 1_000,
        end_unix_ns: 1_000_000_000 + end_us * 1_000,
        request: parse_head(b"GET /cart HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ..example(Arc::new(resource))
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim_end).collect()
}

#[test]
fn a_trace_is_an_indented_waterfall() {
    // In the order in which they end, as they come.
    let mut spans = vec![
        span("stock", SpanKind::Server, 4, 3, 2_000, 6_000),
        span("cart", SpanKind::Client, 3, 2, 1_500, 6_500),
        span("cart", SpanKind::Client, 5, 2, 7_000, 7_100),
        span("cart", SpanKind::Server, 2, 1, 1_000, 8_000),
        span("nginx", SpanKind::Client, 1, 9, 0, 8_000),
    ];
    spans[2].status = 404;
    assert_eq!(
        lines(&render(&spans, false)),
        [
            "trace 11111111111111111111111111111111  5 spans, 3 services, 8.00 ms, 1 error",
            "  nginx         client  GET /cart  200       +0.00 µs      8.00 ms  ━━━━━━━━━━━━━━━━━━━━━━━━",
            "  └─ cart       server  GET /cart  200       +1.00 ms      7.00 ms     ━━━━━━━━━━━━━━━━━━━━━",
            "    ├─ cart     client  GET /cart  200       +1.50 ms      5.00 ms      ━━━━━━━━━━━━━━━",
            "    │ └─ stock  server  GET /cart  200       +2.00 ms      4.00 ms        ━━━━━━━━━━━━",
            "    └─ cart     client  GET /cart  404       +7.00 ms    100.00 µs                       ━",
            "",
        ]
    );
}

#[test]
fn plain_text_has_no_escapes_and_coloured_text_is_the_same_without_them() {
    let spans = [span("a", SpanKind::Server, 1, 0, 0, 10)];
    let (plain, coloured) = (render(&spans, false), render(&spans, true));
    assert!(!plain.contains('\x1b'));
    let mut stripped = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once('\x1b') {
        stripped.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    stripped.push_str(rest);
    assert_eq!(stripped, plain);
}

#[test]
fn spans_with_unknown_parents_are_roots_in_the_order_of_time() {
    let spans = [
        span("late", SpanKind::Server, 1, 77, 50, 60),
        span("soon", SpanKind::Server, 2, 88, 0, 60),
    ];
    let text = render(&spans, false);
    let rows = lines(&text);
    assert!(
        rows[1].starts_with("  soon  server") && rows[2].starts_with("  late  server"),
        "{text}"
    );
}

#[test]
fn control_characters_of_the_wire_do_not_reach_the_terminal() {
    let mut span = span("a\x1b[2J", SpanKind::Server, 1, 0, 0, 10);
    span.request = parse_head(b"GET /\x1b[31mred\x07 HTTP/1.1\r\n\r\n", false);
    let text = render(&[span], false);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

#[test]
fn a_broken_exchange_says_how_it_ended() {
    let mut broken = span("a", SpanKind::Client, 1, 0, 0, 10);
    broken.status = 0;
    broken.end = EndReason::Reset;
    assert!(render(&[broken.clone()], false).contains("  reset  "));
    broken.status = 200;
    assert!(render(&[broken], false).contains("  200!   "));
}

#[test]
fn a_span_that_is_its_own_parent_and_a_deep_chain_are_drawn() {
    assert_eq!(lines(&render(&[span("a", SpanKind::Server, 1, 1, 0, 1)], false)).len(), 3);
    let chain: Vec<_> =
        (1..=500).map(|id| span("a", SpanKind::Server, id, id - 1, id, 600)).collect();
    let text = render(&chain, false);
    assert_eq!(text.lines().count(), 502);
    assert!(text.lines().all(|line| line.chars().count() < 200));
}

#[test]
fn a_long_path_is_shortened() {
    let mut long = span("a", SpanKind::Server, 1, 0, 0, 10);
    let head = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(500));
    long.request = parse_head(head.as_bytes(), false);
    let text = render(&[long], false);
    assert!(text.contains("xxx…") && text.lines().all(|line| line.chars().count() < 140));
}

#[test]
fn a_call_of_grpc_shows_its_method_once_and_its_status_by_name() {
    let mut fields = Fields::default();
    fields.add(Name::Path, Some(b"/shop.Cart/Add"));
    let call = |id, status: &[u8], kind| {
        let mut span = span("cart", kind, id, 0, id, 10);
        span.request = head_of_fields(&fields);
        span.grpc = Some(GrpcCall { status: GrpcStatus::parse(status) });
        span
    };
    let mut reset = call(4, b"", SpanKind::Client);
    (reset.status, reset.end) = (0, EndReason::StreamReset);
    let spans = [
        call(1, b"0", SpanKind::Client),
        call(2, b"5", SpanKind::Server),
        call(3, b"12", SpanKind::Server),
        reset,
    ];
    let text = render(&spans, false);
    let line = |number: usize| lines(&text)[number].split_whitespace().take(4).collect::<Vec<_>>();
    assert_eq!(line(1), ["cart", "client", "shop.Cart/Add", "OK"]);
    assert_eq!(line(2), ["cart", "server", "shop.Cart/Add", "NOT_FOUND"]);
    assert_eq!(line(3), ["cart", "server", "grpc", "/shop.Cart/Add"]);
    assert_eq!(line(4), ["cart", "client", "shop.Cart/Add", "stream_reset"]);
    assert!(lines(&text)[0].ends_with("2 errors"), "{text}");
    let coloured = render(&spans[1..2], true);
    assert!(coloured.contains("\x1b[33mNOT_FOUND"), "{coloured:?}");
}
