//! Requests that are no calls: curl, Node's http2, nghttpd, Go's net/http.

use serde_json::json;
use tracewire_tests::grpc::{Go, Next, go_program, nghttpd, node_requests, node_server};
use tracewire_tests::otlp::{Kind, describe};
use tracewire_tests::services::{curl, free_port, nginx};
use tracewire_tests::world::{World, is_control};

use crate::judge::{joined, one, received_their_clients, requested};

const PRIOR: &str = "--http2-prior-knowledge";

#[test]
fn a_request_of_curl_to_node_is_one_trace() {
    let mut world = World::traced();
    let server = node_server(&world, Next::Nobody, None);
    let base = format!("http://127.0.0.1:{}", server.port);
    let answer = curl(&world, &[PRIOR, &format!("{base}/one?secret=1")]);
    assert!(answer.contains("\"length\":0"), "{answer}");
    let answer = curl(&world, &[PRIOR, "--data", "1234", &format!("{base}/status/201")]);
    assert!(answer.contains("\"length\":4"), "{answer}");
    let Some(outcome) = world.stop_agent() else { return };
    let (client, server_span) = requested(&outcome.spans, "/one", "GET", "200");
    assert_eq!((client.service(), server_span.service()), ("curl", "server"), "names");
    assert_eq!(client.attribute("server.port"), server.port.to_string());
    assert!(client.parent.is_empty(), "{client:?}");
    assert!(!client.is_error && !server_span.is_error, "{client:?} {server_span:?}");
    requested(&outcome.spans, "/status/201", "POST", "201");
    assert_eq!(outcome.spans.len(), 4, "{:?}", outcome.spans);
    received_their_clients(&server, &outcome.spans, 2);
}

#[test]
fn an_error_status_is_an_error_at_the_end_that_it_concerns() {
    let mut world = World::traced();
    let server = node_server(&world, Next::Nobody, None);
    let requests: Vec<_> =
        ["/status/404", "/status/500"].iter().map(|path| json!({ "path": path })).collect();
    let got = node_requests(&world, server.port, &json!({ "requests": requests }));
    assert_eq!(got.iter().map(|one| one.status).collect::<Vec<_>>(), [404, 500]);
    let Some(outcome) = world.stop_agent() else { return };
    let (client, server) = requested(&outcome.spans, "/status/404", "GET", "404");
    assert_eq!((client.is_error, server.is_error), (true, false));
    let (client, server) = requested(&outcome.spans, "/status/500", "GET", "500");
    assert_eq!((client.is_error, server.is_error), (true, true));
}

#[test]
fn a_file_from_nghttpd_arrives_whole() {
    let mut world = World::traced();
    let directory = world.scratch();
    let wanted = tracewire_tests::script::fill(3 << 20);
    std::fs::write(directory.join("file"), &wanted).expect("the scratch directory is writable");
    let server = nghttpd(&world, &[], &directory);
    let copy = directory.join("copy");
    let url = format!("http://127.0.0.1:{}/file", server.port);
    curl(&world, &[PRIOR, "--output", &copy.to_string_lossy(), &url]);
    assert!(std::fs::read(&copy).is_ok_and(|got| got == wanted), "the file differs");
    let received = server.output();
    let Some(outcome) = world.stop_agent() else { return };
    let (client, _) = requested(&outcome.spans, "/file", "GET", "200");
    // nghttpd prints the fields of each request.
    let fields = received.lines().filter(|line| line.contains("traceparent:"));
    let fields: Vec<_> = fields.collect();
    assert_eq!(fields.len(), 1, "{received}");
    assert!(fields[0].contains(&client.span_id), "{fields:?} {client:?}");
}

#[test]
fn a_request_to_nginx_over_http_2_is_one_trace() {
    let mut world = World::traced();
    let port = free_port();
    let server =
        format!("listen 127.0.0.1:{port} http2;\nlocation / {{ return 200 \"hello\\n\"; }}");
    let web = nginx(&world, None, &server);
    let got = curl(&world, &[PRIOR, &format!("http://127.0.0.1:{port}/hello")]);
    assert_eq!(got, "hello");
    let Some(outcome) = world.stop_agent() else { return };
    requested(&outcome.spans, "/hello", "GET", "200");
    assert_eq!(web.headers_seen(), [("/hello".to_owned(), 1)]);
}

#[test]
fn the_requests_of_gos_net_http_are_joined() {
    const REQUESTS: usize = 100;
    let mut world = World::traced();
    let Some(program) = go_program(&world) else { return };
    let leaf = Go::H2c.server(&world, &program, None);
    let front = Go::H2c.server(&world, &program, Some(leaf.port));
    Go::H2c.ask(&world, &program, front.port, REQUESTS);
    if is_control() {
        received_their_clients(&leaf, &[], REQUESTS);
    }
    let Some(outcome) = world.stop_agent() else { return };
    // A client's and a server's at each of the two hops.
    assert_eq!(outcome.spans.len(), 4 * REQUESTS);
    received_their_clients(&front, &outcome.spans, REQUESTS);
    received_their_clients(&leaf, &outcome.spans, REQUESTS);
}

#[test]
fn what_follows_an_upgrade_of_http_1_1_is_traced() {
    let mut world = World::traced();
    let Some(program) = go_program(&world) else { return };
    let server = Go::H2c.server(&world, &program, None);
    let url = |path| format!("http://127.0.0.1:{}{path}", server.port);
    // Without prior knowledge: `Upgrade: h2c` (RFC 7540 §3.2); the others are HTTP/2.
    let got = curl(&world, &["--http2", &url("/first"), &url("/second"), &url("/third")]);
    assert_eq!(got, "go /first\ngo /second\ngo /third");
    let seen = server.headers_seen();
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(is_control() || seen.iter().all(|(_, count)| *count == 1), "{seen:?}");
    let Some(outcome) = world.stop_agent() else { return };
    assert_eq!(outcome.spans.len(), 6, "{}", describe(&outcome.spans));
    for path in ["/second", "/third"] {
        requested(&outcome.spans, path, "GET", "200");
    }
    // The answer to the first comes over HTTP/2, behind the 101 with which its spans end.
    let first = |kind| one(&outcome.spans, kind, "/first");
    assert_eq!(first(Kind::Server).parent, first(Kind::Client).span_id);
    assert_eq!((first(Kind::Server).status(), first(Kind::Client).status()), ("101", "101"));
}

#[test]
fn a_stream_is_reset_by_either_side_and_the_others_go_on() {
    let mut world = World::traced();
    let server = node_server(&world, Next::Nobody, None);
    let requests: Vec<_> = (0..40)
        .map(|number| match number % 4 {
            0 => json!({ "path": format!("/reset/{number}") }),
            1 => json!({ "path": format!("/large/2000000/{number}"), "cancel": true }),
            _ => json!({ "path": format!("/fine/{number}"), "bytes": 1000 }),
        })
        .collect();
    let work = json!({ "requests": requests, "parallel": true });
    let got = node_requests(&world, server.port, &work);
    for (number, one) in got.iter().enumerate() {
        match number % 4 {
            0 => assert!(one.error.contains("INTERNAL_ERROR"), "{one:?}"),
            1 => assert!(one.status == 200 && one.length < 2_000_000, "{one:?}"),
            _ => assert!(one.error.is_empty() && one.status == 200, "{one:?}"),
        }
    }
    assert!(!server.output().contains("session:"), "{}", server.output());
    let Some(outcome) = world.stop_agent() else { return };
    for (number, one) in got.iter().enumerate() {
        match number % 4 {
            0 => {
                let (client, server) = joined(&outcome.spans, &one.path);
                assert!(client.is_error && server.is_error, "{client:?} {server:?}");
            }
            1 => drop(joined(&outcome.spans, &one.path)),
            _ => drop(requested(&outcome.spans, &one.path, "POST", "200")),
        }
    }
    received_their_clients(&server, &outcome.spans, 40);
}
