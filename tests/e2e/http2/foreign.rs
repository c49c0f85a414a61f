//! What only begins like HTTP/2 arrives as it was sent.

use fastrand::Rng;
use tracewire_tests::otlp::Span;
use tracewire_tests::script::Step;
use tracewire_tests::stream::untouched;
use tracewire_tests::world::{World, serve};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const REQUEST: &[u8] = b"GET /look-alike HTTP/1.1\r\nHost: a\r\n\r\n";

/// Each stream on a connection of its own, its pieces in a send each; none may make a span.
fn check(what: &str, streams: &[Vec<Vec<u8>>]) {
    let spans = arrive(what, streams);
    assert!(spans.is_empty(), "{what}: {spans:?}");
}

/// Each stream on a connection of its own, its pieces in a send each. Gives the spans that they made.
fn arrive(what: &str, streams: &[Vec<Vec<u8>>]) -> Vec<Span> {
    let mut world = World::traced();
    let steps = streams.iter().map(|pieces| {
        let len = pieces.iter().map(Vec::len).sum();
        vec![Step::UntilMore(len), Step::send("over"), Step::UntilClosed]
    });
    let server = world.peer(|directory| serve(directory, steps.collect()));
    let address = server.address();
    let steps = streams.iter().enumerate().flat_map(|(number, pieces)| {
        let sends = pieces.iter().map(Step::send);
        let steps = std::iter::once(Step::Connect(address)).chain(sends);
        let steps = steps.chain([Step::until("over"), Step::Close]);
        steps.map(move |step| (number, step)).collect::<Vec<_>>()
    });
    world.client(streams.len(), steps.collect());
    for (number, pieces) in streams.iter().enumerate() {
        untouched(&format!("{what}, {number}"), &pieces.concat(), &server.received(number));
    }
    world.stop_agent().map_or_else(Vec::new, |outcome| outcome.spans)
}

#[test]
fn half_a_preface_is_no_preface() {
    let in_one = |at: usize| vec![[&PREFACE[..at], SETTINGS].concat(), REQUEST.to_vec()];
    check("half a preface", &(1..PREFACE.len()).map(in_one).collect::<Vec<_>>());
    let alone = |at: usize| vec![PREFACE[..at].to_vec(), SETTINGS.to_vec(), REQUEST.to_vec()];
    check("half a preface in a send", &(1..PREFACE.len()).map(alone).collect::<Vec<_>>());
}

#[test]
fn random_bytes_after_a_preface_arrive_as_they_are() {
    let mut rng = Rng::with_seed(1);
    let streams: Vec<Vec<Vec<u8>>> = (0..40)
        .map(|number| {
            let noise = |rng: &mut Rng| {
                let len = rng.usize(1..3000);
                std::iter::repeat_with(|| rng.u8(..)).take(len).collect::<Vec<u8>>()
            };
            let mut first = PREFACE.to_vec();
            if number % 2 == 0 {
                // Where frames should be there is text.
                first.extend_from_slice(REQUEST);
            }
            vec![first, noise(&mut rng), REQUEST.to_vec(), noise(&mut rng)]
        })
        .collect();
    check("noise after a preface", &streams);
}

#[test]
fn what_follows_a_preface_without_settings_arrives_as_it_is() {
    // RFC 9113 §3.4: SETTINGS come first.
    let request = b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\x82\x86\x84\x81".to_vec();
    // A span of what looks like a request so far is no harm.
    arrive(
        "no SETTINGS",
        &[
            vec![PREFACE.to_vec(), request.clone()],
            vec![[PREFACE, &request].concat(), SETTINGS.to_vec(), request.clone()],
        ],
    );
}

#[test]
fn frames_without_a_preface_arrive_as_they_are() {
    let request = b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\x82\x86\x84\x81".to_vec();
    check(
        "no preface",
        &[vec![SETTINGS.to_vec(), request.clone()], vec![[SETTINGS, &request].concat(), request]],
    );
}

#[test]
fn yamux_arrives_as_it_is() {
    // github.com/hashicorp/yamux/spec.md: version, type, flags, stream, length.
    let frame = |kind: u8, flags: u16, stream: u32, data: &[u8]| {
        let mut bytes = vec![0, kind];
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(data);
        bytes
    };
    let inner = [PREFACE, SETTINGS].concat();
    check(
        "yamux",
        &[vec![
            frame(1, 1, 1, b""),
            frame(0, 0, 1, REQUEST),
            frame(0, 0, 1, &inner),
            frame(2, 1, 0, b""),
            frame(0, 4, 1, b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\x82\x86\x84\x81"),
        ]],
    );
}
