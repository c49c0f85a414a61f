//! Connections of HTTP/2 that are older than the agent.

use tracewire_tests::grpc::{Next, node_server, python_front, rust_server};
use tracewire_tests::otlp::{Kind, Span, describe};
use tracewire_tests::services::{curl, nginx};
use tracewire_tests::world::World;

use crate::judge::path;

fn is_service(span: &Span, name: &str) -> bool {
    span.service().split('.').next() == Some(name)
}

/// A path that both ends of the connections have in their tables.
const OLD: &str = "/shop.Item/Old";

/// HTTP/1.1 to a Python service, gRPC to one in Rust, gRPC to one in Node, HTTP/1.1 to nginx: on connections on
/// which each was asked before.
#[test]
fn calls_on_connections_older_than_the_agent_are_joined() {
    let mut world = World::new();
    let leaf = nginx(&world, None, "location / { return 200 \"nginx $uri\\n\"; }");
    let node = node_server(&world, Next::Http(leaf.port), None);
    let rust = rust_server(&world, Next::Grpc(node.port));
    let front = python_front(&world, rust.port);
    let ask = |world: &World, path: &str| {
        let url = format!("http://127.0.0.1:{}{path}", front.port);
        let answer = format!("front rust {path} 0 bytes\nnode {path}\nnginx {path}");
        assert_eq!(curl(world, &[&url]), answer);
    };
    for _ in 0..3 {
        ask(&world, OLD);
    }
    world.start_agent(&[]);
    // Paths that are spelt, and one that may be told by its number.
    let paths: Vec<String> = (0..10).map(|number| format!("/shop.Item/N{number}")).collect();
    for path in &paths {
        ask(&world, path);
        ask(&world, OLD);
    }
    for service in [&rust, &node] {
        let seen = std::fs::read_to_string(&service.seen).expect("what the service has seen");
        assert_eq!(seen.lines().count(), 3 + 2 * paths.len(), "requests");
        // Nothing is written where it is not certain what the peer's table holds.
        assert!(seen.lines().all(|line| line.ends_with(' ')), "{seen}");
    }
    let Some(outcome) = world.stop_agent() else { return };
    assert_eq!(outcome.spans.len(), 2 * 8 * paths.len(), "{}", describe(&outcome.spans));
    let fronts =
        outcome.spans.iter().filter(|span| span.kind == Kind::Server && is_service(span, "front"));
    for first in fronts {
        let spans: Vec<Span> = (outcome.spans.iter())
            .filter(|span| span.trace_id == first.trace_id)
            .cloned()
            .collect();
        let all = describe(&spans);
        assert_eq!(spans.len(), 8, "{all}");
        let mut parent = "";
        for (caller, callee) in
            [("curl", "front"), ("front", "grpc"), ("grpc", "server"), ("server", "nginx")]
        {
            for (kind, name) in [(Kind::Client, caller), (Kind::Server, callee)] {
                let span = spans.iter().find(|span| span.kind == kind && is_service(span, name));
                let span = span.unwrap_or_else(|| panic!("no {kind:?} span of {name}; {all}"));
                assert_eq!(span.parent, parent, "{kind:?} span of {name}; {all}");
                // What was sent anew is known, and what is not is unknown, never another's.
                let is_new = path(first) != OLD;
                let is_unknown = path(span) == "/" && span.attribute("url.full").is_empty();
                assert!(path(span) == path(first) || is_unknown && !is_new, "{span:?}");
                parent = &span.span_id;
            }
        }
    }
}
