//! Streams over TLS: read in the library, and joined on one host.

use serde_json::json;
use tracewire_tests::grpc::{Next, node_tls_requests, node_tls_server};
use tracewire_tests::needs::probes;
use tracewire_tests::otlp::{Kind, Span, describe};
use tracewire_tests::services::{free_port, nginx};
use tracewire_tests::world::World;

use crate::judge::{joined, path};

/// Libraries are said to be probed at this level, each in each process.
const TALKATIVE: [&str; 2] = ["--log-level", "debug"];

/// A proxy from HTTP/2 over TLS to gRPC over TLS, with so many streams of a connection at once.
fn secure_proxy(port: u16) -> String {
    let at = concat!(env!("CARGO_MANIFEST_DIR"), "/services/tls");
    format!(
        "listen 127.0.0.1:{port} ssl http2; http2_max_concurrent_streams 1000;\n\
         ssl_certificate {at}/certificate.pem; ssl_certificate_key {at}/key.pem;\n\
         location / {{ grpc_pass grpcs://next; }}"
    )
}

/// Makes calls over TLS through a proxy, on one connection, and gives each one's spans: of the client,
/// the proxy as server and as client, and the server. Each hop has its two spans, joined, without a byte
/// written.
fn calls_through_a_proxy(calls: usize, at_once: bool) -> Option<Vec<[Span; 4]>> {
    let mut world = World::traced_with(&TALKATIVE);
    let server = node_tls_server(&world, Next::Nobody);
    let port = free_port();
    let front = nginx(&world, Some(server.address()), &secure_proxy(port));
    let headers = json!({ "content-type": "application/grpc", "te": "trailers" });
    let wanted: Vec<String> = (0..calls).map(|number| format!("/shop.Item/N{number}")).collect();
    let requests =
        wanted.iter().map(|path| json!({ "path": path, "headers": headers, "bytes": 9 }));
    let work = json!({ "requests": requests.collect::<Vec<_>>(), "parallel": at_once });
    // Two processes of nginx, two of Node.
    let got = node_tls_requests(&mut world, port, &work, 4);
    assert!(got.iter().all(|one| one.status == 200 && one.error.is_empty()), "{got:?}");
    for service in [&server, &front] {
        let seen = std::fs::read_to_string(&service.seen).unwrap_or_default();
        assert_eq!(seen.lines().count(), calls);
        assert!(!seen.contains(" 00-"), "{seen}");
    }
    let outcome = world.stop_agent()?;
    if !probes() {
        assert!(outcome.spans.is_empty(), "{}", describe(&outcome.spans));
        return None;
    }
    assert_eq!(outcome.spans.len(), 4 * calls, "{:?}", outcome.counters);
    let spans_of = |wanted: &String| {
        let spans: Vec<Span> =
            outcome.spans.iter().filter(|span| path(span) == *wanted).cloned().collect();
        let all = describe(&spans);
        let chain = [
            (Kind::Client, "client"),
            (Kind::Server, "nginx"),
            (Kind::Client, "nginx"),
            (Kind::Server, "server"),
        ]
        .map(|(kind, name)| {
            let mut found = spans.iter().filter(|one| one.kind == kind && one.service() == name);
            let (Some(span), None) = (found.next(), found.next()) else {
                panic!("not one {kind:?} span of {name}: {all}");
            };
            assert_eq!(span.attribute("rpc.response.status_code"), "OK", "{span:?}");
            let wanted = if kind == Kind::Client { "encrypted" } else { "" };
            assert_eq!(span.attribute("tracewire.propagation"), wanted, "{span:?}");
            span.clone()
        });
        for hop in chain.chunks(2) {
            assert_eq!(hop[1].parent, hop[0].span_id, "{all}");
            assert_eq!(hop[1].trace_id, hop[0].trace_id, "{all}");
        }
        chain
    };
    Some(wanted.iter().map(spans_of).collect())
}

#[test]
fn calls_over_tls_through_a_proxy_are_one_trace_each() {
    let Some(all) = calls_through_a_proxy(30, false) else { return };
    for [client, received, sent, _] in all {
        assert_eq!((client.parent.as_str(), sent.parent), ("", received.span_id.clone()));
        assert_eq!(sent.trace_id, client.trace_id);
    }
}

#[test]
fn five_hundred_calls_over_tls_at_once_have_no_wrong_parent() {
    let Some(all) = calls_through_a_proxy(500, true) else { return };
    for [_, received, sent, _] in all {
        // What the proxy received at once it cannot be told apart in.
        assert!(sent.parent.is_empty() || sent.parent == received.span_id, "{sent:?}");
    }
}

#[test]
fn what_streams_over_tls_carry_arrives_whole_and_ends_as_it_did() {
    let mut world = World::traced_with(&TALKATIVE);
    let server = node_tls_server(&world, Next::Nobody);
    let requests: Vec<_> = (0..40)
        .map(|number| match number % 4 {
            0 => json!({ "path": format!("/reset/{number}") }),
            1 => json!({ "path": format!("/large/2000000/{number}"), "cancel": true }),
            2 => json!({ "path": format!("/large/3000000/{number}") }),
            _ => json!({ "path": format!("/fine/{number}"), "bytes": 100_000 }),
        })
        .collect();
    let work = json!({ "requests": requests, "parallel": true });
    let got = node_tls_requests(&mut world, server.port, &work, 2);
    for (number, one) in got.iter().enumerate() {
        match number % 4 {
            0 => assert!(one.error.contains("INTERNAL_ERROR"), "{one:?}"),
            1 => {}
            2 => assert_eq!((one.status, one.length), (200, 3_000_000)),
            _ => assert!(one.body.contains("\"length\":100000"), "{one:?}"),
        }
    }
    let Some(outcome) = world.stop_agent() else { return };
    assert_eq!(outcome.spans.len(), 80, "{:?}", outcome.counters);
    for (number, one) in got.iter().enumerate() {
        let (client, server) = joined(&outcome.spans, &one.path);
        for span in [client, server] {
            let scheme = match span.kind {
                Kind::Client => span.attribute("url.full").split(':').next().unwrap_or_default(),
                _ => span.attribute("url.scheme"),
            };
            assert_eq!(scheme, "https", "{span:?}");
            match number % 4 {
                0 => assert_eq!(span.attribute("error.type"), "stream_reset", "{span:?}"),
                1 => {}
                2 => assert_eq!(span.attribute("http.response.body.size"), "3000000", "{span:?}"),
                _ => assert_eq!(span.attribute("http.request.body.size"), "100000", "{span:?}"),
            }
        }
    }
}
