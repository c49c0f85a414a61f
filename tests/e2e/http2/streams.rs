//! Many streams on a connection, large header blocks, tables of all sizes, large messages.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracewire_tests::grpc::{
    Next, call, nghttpd, node_requests, node_server, python_calls, python_server, rust_calls,
    rust_server,
};
use tracewire_tests::http2::{Frame, PREFACE, kind};
use tracewire_tests::otlp::{Kind, Span};
use tracewire_tests::process::patient;
use tracewire_tests::script::Step;
use tracewire_tests::world::{World, is_control};

use crate::accounting::Accounts;
use crate::judge::{called, received_their_clients, requested};

/// Streams at once on one connection.
const STREAMS: usize = 200;

/// Stops the agent, which saw so many requests at both ends: its counters add up, and what is
/// missing was said to be dropped. Answers also whether something was missed, and so what stood in
/// header blocks may be unknown.
fn settled(world: &mut World, requests: usize) -> Option<(Vec<Span>, bool)> {
    let counters = world.take_agent()?.stop();
    let spans = world.sink.spans();
    let dropped: u64 =
        counters.iter().filter(|(name, _)| name.starts_with("drop_")).map(|(_, count)| count).sum();
    let accounts = Accounts::of(counters);
    let missed = dropped + accounts.get("stream_gaps") + accounts.get("header_tables_lost") > 0;
    assert_eq!(accounts.get("spans_exported"), spans.len() as u64, "{}", accounts.losses());
    assert!(
        spans.len() as u64 + dropped >= 2 * requests as u64,
        "{requests} requests, {} spans; {}",
        spans.len(),
        accounts.losses()
    );
    assert!(spans.len() <= 2 * requests, "{requests} requests, {} spans", spans.len());
    Some((spans, missed))
}

/// h2load's requests for `/file` of nghttpd, so many at once on one connection.
fn h2load(server: &[&str], client: &[&str], requests: usize, at_once: usize) {
    let mut world = World::alone();
    world.start_agent(&[]);
    let directory = world.scratch();
    std::fs::write(directory.join("file"), "content").expect("the scratch directory is writable");
    let server = nghttpd(&world, server, &directory);
    let mut command = Command::new("h2load");
    command.args(["--clients=1", &format!("--max-concurrent-streams={at_once}")]);
    command.arg(format!("--requests={requests}")).args(client);
    command.arg(format!("http://127.0.0.1:{}/file", server.port));
    let told = world.start(command).succeed();
    let wanted = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
    assert!(told.contains(&wanted), "{told}");
    // What it writes comes by a pipe, and the last of it may be read after the client has its answers.
    let deadline = Instant::now() + patient(Duration::from_secs(5));
    let heads = |said: &str| said.lines().filter(|line| line.contains(":path: /file")).count();
    while heads(&server.output()) < requests && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let received = server.output();
    let contexts = received.lines().filter(|line| line.contains("traceparent: 00-")).count();
    assert!(contexts <= requests, "{contexts} contexts in {requests} requests");
    assert!(!received.contains("PROTOCOL_ERROR"), "{received}");
    assert!(!received.contains("COMPRESSION_ERROR"), "{received}");
    let Some((spans, _)) = settled(&mut world, requests) else {
        assert_eq!(contexts, 0, "contexts without an agent");
        return;
    };
    assert_eq!(contexts, requests, "contexts received");
    for span in spans.iter().filter(|span| span.kind == Kind::Server) {
        assert_eq!((span.path(), span.status()), ("/file", "200"), "{span:?}");
    }
}

#[test]
fn two_hundred_streams_at_once_do_not_fail() {
    h2load(&[], &[], 4000, STREAMS);
}

#[test]
fn a_table_of_no_size_does_not_fail() {
    h2load(&["--header-table-size=0"], &["--encoder-header-table-size=0"], 500, 10);
    h2load(&["--encoder-header-table-size=0"], &["--header-table-size=0"], 500, 10);
}

#[test]
fn a_table_of_64_kib_does_not_fail() {
    h2load(&["--header-table-size=65536"], &["--encoder-header-table-size=65536"], 500, 10);
    h2load(&["--encoder-header-table-size=65536"], &["--header-table-size=65536"], 500, 10);
}

#[test]
fn two_hundred_calls_at_once_are_all_answered_right() {
    // So many that a sender which changes processors meets what it sent before several times.
    const CALLS: usize = 5000;
    let mut world = World::alone();
    world.start_agent(&[]);
    let server = rust_server(&world, Next::Nobody);
    let streams = STREAMS.to_string();
    let arguments = ["--streams", &streams, "--calls", &CALLS.to_string(), "--bytes", "700"];
    let asked = rust_calls(&world, server.port, &arguments);
    assert_eq!(asked.calls, CALLS as u64);
    let seen = server.headers_seen();
    assert_eq!(seen.len(), CALLS);
    let wanted = usize::from(!is_control());
    let wrong: Vec<_> = seen.iter().filter(|(_, count)| *count != wanted).take(10).collect();
    assert!(wrong.is_empty(), "not {wanted} contexts: {wrong:?}");
    let Some((spans, missed)) = settled(&mut world, CALLS) else { return };
    let codes = spans.iter().map(|span| span.attribute("rpc.response.status_code"));
    let other = codes.filter(|code| *code != "OK" && !(missed && code.is_empty())).count();
    assert_eq!(other, 0, "something was missed: {missed}");
}

/// So many bytes in fields, besides one that is the same each time.
fn fields(bytes: usize, number: usize) -> Value {
    let mut fields = serde_json::Map::new();
    fields.insert("x-again".into(), json!("again"));
    // Characters that no Huffman code makes shorter; no field is larger than a receiver takes.
    let mut left = bytes;
    while left > 0 {
        let part = left.min(9000);
        let value = format!("{number}").repeat(part).chars().take(part).collect::<String>();
        fields.insert(format!("x-{left}"), json!(value.replace(char::is_numeric, "~")));
        left -= part;
    }
    Value::Object(fields)
}

fn header_blocks(table: Option<u32>) {
    let mut world = World::traced();
    let server = node_server(&world, Next::Nobody, table);
    let sizes = [1 << 10, 10 << 10, 60 << 10, 1 << 10, 60 << 10, 100];
    let requests: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(number, &bytes)| {
            json!({ "path": format!("/{number}"), "headers": fields(bytes, number) })
        })
        .collect();
    for parallel in [false, true] {
        let work = json!({ "requests": requests, "parallel": parallel });
        for (number, one) in node_requests(&world, server.port, &work).iter().enumerate() {
            assert_eq!((one.status, one.error.as_str()), (200, ""), "{number}: {one:?}");
            assert_eq!(one.received("x-again"), ["again"], "{number}");
            let sent = requests[number]["headers"].as_object().expect("it is made above");
            for (name, value) in sent {
                assert_eq!(one.received(name), [value.as_str().unwrap_or_default()], "{number}");
            }
            assert!(one.received("traceparent").len() <= 1, "{number}");
        }
    }
    assert!(!server.output().contains("session:"), "{}", server.output());
    let small: Vec<_> = server.headers_seen();
    let Some(outcome) = world.stop_agent() else { return };
    for (path, count) in &small {
        // The last frame of a larger block may have no room.
        assert!(*count == 1 || !["/0", "/3", "/5"].contains(&path.as_str()), "{path}: {count}");
    }
    for kind in [Kind::Client, Kind::Server] {
        let count = outcome.spans.iter().filter(|span| span.kind == kind).count();
        assert_eq!(count, 2 * sizes.len(), "{kind:?}: {:?}", outcome.spans);
    }
}

#[test]
fn header_blocks_in_many_frames_arrive_whole() {
    header_blocks(None);
}

#[test]
fn header_blocks_in_many_frames_arrive_whole_without_a_table_and_with_a_large_one() {
    header_blocks(Some(0));
    header_blocks(Some(65_536));
}

#[test]
fn large_messages_arrive_whole() {
    let mut world = World::traced();
    let server = python_server(&world, Next::Nobody);
    let calls = [
        json!({ "method": "/shop.Item/Put", "bytes": 8 << 20 }),
        call("/shop.Item/Large", &[]),
        call("/shop.Item/After", &[]),
    ];
    let got = python_calls(&world, server.port, false, &calls);
    assert_eq!(got[0].messages, [format!("python /shop.Item/Put {} bytes\n", 8 << 20)]);
    assert_eq!(got[1].messages, [format!("{} bytes", 1 << 20)]);
    assert_eq!(got[2].messages, ["python /shop.Item/After 0 bytes\n"]);
    let other = rust_server(&world, Next::Nobody);
    let bytes = (1 << 20).to_string();
    rust_calls(&world, other.port, &["--streams", "8", "--calls", "40", "--bytes", &bytes]);
    let Some(outcome) = world.stop_agent() else { return };
    for method in ["/shop.Item/Put", "/shop.Item/Large", "/shop.Item/After"] {
        called(&outcome.spans, method, "OK");
    }
    received_their_clients(&server, &outcome.spans, 3);
    received_their_clients(&other, &outcome.spans, 40);
}

#[test]
fn a_connection_that_is_told_to_go_away_ends_its_streams_first() {
    let mut world = World::traced();
    let server = node_server(&world, Next::Nobody, None);
    let words = ["goaway/0", "1", "2", "3", "4", "5", "6", "7"];
    let requests: Vec<_> = words
        .iter()
        .rev()
        .map(|word| json!({ "path": format!("/{word}"), "bytes": 100_000 }))
        .collect();
    let work = json!({ "requests": requests, "parallel": true });
    for one in node_requests(&world, server.port, &work) {
        assert_eq!((one.status, one.error.as_str()), (200, ""), "{one:?}");
    }
    // grpcio connects anew.
    let methods: Vec<_> =
        (0..6).map(|number| format!("/shop.goaway{}/{number}", number / 3)).collect();
    let calls: Vec<_> = methods.iter().map(|method| call(method, &[])).collect();
    for (method, one) in methods.iter().zip(python_calls(&world, server.port, false, &calls)) {
        assert_eq!(one.messages, [format!("node {method}\n")]);
    }
    let Some(outcome) = world.stop_agent() else { return };
    for word in words {
        requested(&outcome.spans, &format!("/{word}"), "POST", "200");
    }
    for method in &methods {
        called(&outcome.spans, method, "OK");
    }
}

/// Both ends may begin at once, and their first packets are then read on two processors.
#[test]
fn connections_whose_ends_begin_at_once_are_read_from_the_start() {
    const CONNECTIONS: usize = 3000;
    let mut world = World::traced();
    let settings = Frame { kind: kind::SETTINGS, flags: 0, stream: 0, payload: Vec::new() };
    let mut opening = PREFACE.to_vec();
    opening.extend(settings.bytes());
    let server = world.server(vec![
        Step::send(settings.bytes()),
        Step::UntilMore(opening.len()),
        Step::UntilClosed,
    ]);
    let steps = (0..CONNECTIONS).flat_map(|number| {
        let steps = [
            Step::Connect(server.address()),
            Step::send(&opening),
            Step::UntilMore(settings.bytes().len()),
            Step::Close,
        ];
        steps.map(|step| (number, step))
    });
    world.client(CONNECTIONS, steps.collect());
    let Some(outcome) = world.stop_agent() else { return };
    let counted = |name: &str| outcome.counters.get(name).copied().unwrap_or_default();
    assert_eq!(counted("connections_http2"), 2 * CONNECTIONS as u64, "{:?}", outcome.counters);
    assert_eq!(counted("stream_gaps"), 0, "{:?}", outcome.counters);
}
