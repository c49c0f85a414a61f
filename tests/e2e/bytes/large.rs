//! Many bytes: full buffers, partial sends, slow readers.

use tracewire_tests::expect;
use tracewire_tests::script::{Step, fill};
use tracewire_tests::services::{curl, nginx};
use tracewire_tests::stream::{Part, compare};
use tracewire_tests::world::World;

use crate::wire::{OK, run, run_one};

const LARGE: usize = 10 << 20;
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

/// Reads what is left of a body after the head, whether or not a header came with it.
fn upload(nonblocking: bool, send_buffer: Option<i32>) {
    let what = format!("upload, non-blocking {nonblocking}, send buffer {send_buffer:?}");
    let mut world = World::traced();
    let head = format!("PUT /large HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n");
    let mut client: Vec<Step> = send_buffer.map(Step::SendBuffer).into_iter().collect();
    client.extend([
        Step::send(&head),
        Step::SendFill { len: LARGE, nonblocking },
        Step::until("\r\n\r\nok"),
        Step::send(NEXT),
        Step::until("\r\n\r\nok"),
    ]);
    let server = vec![
        Step::heads(1),
        Step::UntilMoreSlowly(LARGE),
        Step::send(OK),
        Step::heads(1),
        Step::send(OK),
        Step::UntilClosed,
    ];
    let (received, _) = run_one(&world, client, server);
    let sent = [Part::head(&head), Part::exact(fill(LARGE)), Part::head(NEXT)];
    let headers = expect::all_injected(&what, compare(&what, &sent, &received));
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    expect::exactly_pairs(&what, &outcome.spans, &headers);
}

#[test]
fn a_large_upload_arrives_whole() {
    upload(false, None);
}

#[test]
fn a_large_upload_into_full_buffers_arrives_whole() {
    upload(true, None);
}

#[test]
fn a_large_upload_with_a_small_send_buffer_arrives_whole() {
    upload(true, Some(16 * 1024));
}

#[test]
fn heads_that_meet_a_full_send_buffer_arrive_whole() {
    let mut world = World::traced();
    // Pipelined requests with bodies, more than the buffers hold, to a server that does not read.
    let body = fill(3000);
    let request = |number| {
        let head =
            format!("PUT /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        [Part::head(head), Part::exact(&body)]
    };
    let mut sent: Vec<Part> = (0..1000).flat_map(request).collect();
    sent.push(Part::head("GET /END HTTP/1.1\r\nHost: a\r\n\r\n"));
    let mut client = vec![Step::SendBuffer(16 * 1024)];
    client.extend(sent.iter().map(|part| Step::Send(part.bytes().into())));
    client.push(Step::until("\r\n\r\nok"));
    let server = vec![
        Step::Pause(300),
        Step::UntilMoreSlowly(2_000_000),
        Step::until("GET /END"),
        Step::send(OK),
        Step::UntilClosed,
    ];
    let (received, _) = run_one(&world, client, server);
    compare("full send buffer", &sent, &received);
    // No answers but one, so not all are followed: the counters of that are no failure here.
    world.kill_agent();
}

#[test]
fn a_large_download_does_not_hide_the_next_exchange() {
    let mut world = World::traced();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
    let client = vec![
        Step::send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n"),
        Step::UntilMoreSlowly(head.len() + LARGE),
        Step::send(NEXT),
        Step::until("\r\n\r\nok"),
    ];
    let server = vec![
        Step::heads(1),
        Step::send(&head),
        Step::SendFill { len: LARGE, nonblocking: true },
        Step::heads(1),
        Step::send(OK),
        Step::UntilClosed,
    ];
    let recorded = run(&world, vec![(client, server)]);
    let wanted = [head.as_bytes(), &fill(LARGE), OK.as_bytes()].concat();
    assert!(recorded.responses[0] == wanted, "the download differs");
    let sent = [Part::head("GET /large HTTP/1.1\r\nHost: a\r\n\r\n"), Part::head(NEXT)];
    let found = compare("download", &sent, &recorded.requests[0]);
    let headers = expect::all_injected("download", found);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    for (client, server) in expect::exactly_pairs("download", &outcome.spans, &headers) {
        assert_eq!((client.status(), server.status()), ("200", "200"), "download");
    }
}

#[test]
fn a_file_from_nginx_arrives_whole() {
    let mut world = World::traced();
    let directory = world.scratch();
    let file = directory.join("file");
    let wanted = fill(LARGE);
    std::fs::write(&file, &wanted).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let web = nginx(&world, None, &format!("root {};", directory.display()));
    let copy = directory.join("copy");
    let url = format!("http://127.0.0.1:{}/file", web.port);
    curl(&world, &["--output", &copy.to_string_lossy(), &url]);
    let got = std::fs::read(&copy).unwrap_or_else(|error| panic!("{}: {error}", copy.display()));
    assert!(got == wanted, "the file differs");
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    assert_eq!(outcome.spans.len(), 2, "{}", tracewire_tests::otlp::describe(&outcome.spans));
    for span in &outcome.spans {
        assert_eq!((span.status(), span.is_error), ("200", false), "{span:?}");
    }
}
