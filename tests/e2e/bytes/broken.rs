//! Connections that end in the middle: an error span each, not a missing one.

use tracewire_tests::expect;
use tracewire_tests::script::Step;
use tracewire_tests::stream::{Part, compare};
use tracewire_tests::world::World;

use crate::wire::run_one;

const REQUEST: &str = "GET /broken HTTP/1.1\r\nHost: a\r\n\r\n";
const PARTIAL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this";

/// Which of a pair's spans (client, server) must be errors.
struct Errors {
    client: bool,
    server: bool,
}

const BOTH: Errors = Errors { client: true, server: true };

fn check(what: &str, client: Vec<Step>, server: Vec<Step>, errors: &Errors) {
    let mut world = World::traced();
    let (received, _) = run_one(&world, client, server);
    let headers = expect::all_injected(what, compare(what, &[Part::head(REQUEST)], &received));
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    for (client, server) in expect::exactly_pairs(what, &outcome.spans, &headers) {
        for (span, wanted) in [(client, errors.client), (server, errors.server)] {
            let told = span.is_error && !span.attribute("error.type").is_empty();
            assert!(told || !wanted, "{what}: no error on {span:?}");
        }
    }
}

#[test]
fn a_close_without_a_response_is_an_error() {
    let client = vec![Step::send(REQUEST), Step::UntilClosed];
    check("close", client, vec![Step::heads(1), Step::Close], &BOTH);
}

#[test]
fn a_reset_without_a_response_is_an_error() {
    let client = vec![Step::send(REQUEST), Step::UntilClosed];
    check("reset", client, vec![Step::heads(1), Step::Reset], &BOTH);
}

#[test]
fn a_close_inside_a_response_is_an_error() {
    let client = vec![Step::send(REQUEST), Step::UntilClosed];
    let server = vec![Step::heads(1), Step::send(PARTIAL), Step::Close];
    check("partial, close", client, server, &BOTH);
}

#[test]
fn a_reset_inside_a_response_is_an_error() {
    let client = vec![Step::send(REQUEST), Step::UntilClosed];
    let server = vec![Step::heads(1), Step::send(PARTIAL), Step::Pause(5), Step::Reset];
    check("partial, reset", client, server, &BOTH);
}

#[test]
fn a_client_that_gives_up_is_an_error() {
    let client = vec![Step::send(REQUEST), Step::Pause(20), Step::Reset];
    check("client resets", client, vec![Step::heads(1), Step::UntilClosed], &BOTH);
}

#[test]
fn a_client_that_closes_inside_a_response_is_an_error() {
    let client = vec![Step::send(REQUEST), Step::until("only this"), Step::Close];
    let server = vec![Step::heads(1), Step::send(PARTIAL), Step::UntilClosed];
    check("client closes", client, server, &BOTH);
}

#[test]
fn a_head_that_never_ends_is_no_exchange() {
    let mut world = World::traced();
    let client = vec![Step::send("GET /half HTTP/1.1\r\nHost: a\r\n"), Step::Pause(5), Step::Close];
    let (received, _) = run_one(&world, client, vec![Step::UntilClosed]);
    assert_eq!(received, b"GET /half HTTP/1.1\r\nHost: a\r\n");
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    assert!(outcome.spans.is_empty(), "{}", tracewire_tests::otlp::describe(&outcome.spans));
}
