//! What each fuzz target does with its input. Ordinary tests replay the corpora
//! through the same functions.

use crate::http2;
use crate::machine::{Asked, Garbage, Layout, Noise, Pieces, Seen, read};
use crate::reference;
use tracewire_common::config::WINDOW;
use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::traceparent::{HEADER_LEN, TraceparentValue, parse, write_header};
use tracewire_common::records::{self, Record};
use tracewire_common::tcp_option::{self, LENGTH};

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// The targets.
pub const TARGETS: &[Target] = &[
    ("http1_request", http1_request),
    ("http1_response", http1_response),
    ("http1_split", http1_split),
    ("http2_request", http2_request),
    ("http2_response", http2_response),
    ("http2_split", http2_split),
    ("traceparent", traceparent),
    ("records_decode", records_decode),
    ("tcp_option", tcp_option),
];

/// A stream of requests, against the reference.
pub fn http1_request(data: &[u8]) {
    let seen = whole(data, HeadKind::Request, &[]);
    reference::check(data, HeadKind::Request, &[], &seen);
}

/// A stream of responses, against the reference. The first byte says what they answer.
pub fn http1_response(data: &[u8]) {
    let Some((&choice, stream)) = data.split_first() else {
        return;
    };
    let asked = asked(choice);
    let seen = whole(stream, HeadKind::Response, &asked);
    reference::check(stream, HeadKind::Response, &asked, &seen);
}

/// A stream cut in several ways, and lying in the window in several ways, reads the
/// same. The first four bytes choose the direction, the answers and the cuts.
pub fn http1_split(data: &[u8]) {
    let Some((&[direction, choice, low, high], stream)) = data.split_first_chunk() else {
        return;
    };
    let kind = if direction & 1 == 0 { HeadKind::Request } else { HeadKind::Response };
    let asked = asked(choice);
    let expected = whole(stream, kind, &asked);
    let seed = u64::from(u16::from_le_bytes([low, high]));
    let mut noise = Noise::new(seed);
    for pieces in [
        Pieces::Each(1),
        Pieces::Each(1 + noise.draw() as usize % 40),
        Pieces::CutAt(noise.draw() as usize % stream.len().max(1)),
        Pieces::Random(seed),
        Pieces::Random(seed ^ 0x5555),
    ] {
        let layout = layout(&mut noise);
        let seen = read(stream, kind, &asked, &pieces, &layout);
        assert_eq!(seen, expected, "cut as {pieces:?}, lying as {layout:?}");
    }
}

/// The requests' direction of an HTTP/2 connection, against the reference.
pub fn http2_request(data: &[u8]) {
    http2_whole(data, HeadKind::Request);
}

/// The responses' direction, against the reference.
pub fn http2_response(data: &[u8]) {
    http2_whole(data, HeadKind::Response);
}

/// A direction of an HTTP/2 connection cut in several ways, and lying in the window in several
/// ways, reads the same. The first three bytes choose which, and the cuts.
pub fn http2_split(data: &[u8]) {
    let Some((&[direction, low, high], stream)) = data.split_first_chunk() else {
        return;
    };
    let kind = if direction & 1 == 0 { HeadKind::Request } else { HeadKind::Response };
    let expected = http2::machine::read(stream, kind, &Pieces::Whole, &Layout::PLAIN);
    let seed = u64::from(u16::from_le_bytes([low, high]));
    let mut noise = Noise::new(seed);
    for pieces in [
        Pieces::Each(1),
        Pieces::Each(1 + noise.draw() as usize % 40),
        Pieces::CutAt(noise.draw() as usize % stream.len().max(1)),
        Pieces::Random(seed),
        Pieces::Random(seed ^ 0x5555),
    ] {
        let layout = layout(&mut noise);
        let seen = http2::machine::read(stream, kind, &pieces, &layout);
        assert_eq!(seen, expected, "cut as {pieces:?}, lying as {layout:?}");
    }
}

fn http2_whole(data: &[u8], kind: HeadKind) {
    let seen = http2::machine::read(data, kind, &Pieces::Whole, &Layout::PLAIN);
    assert!(seen.steps.0 <= data.len() + 1, "{} steps for {} bytes", seen.steps.0, data.len());
    http2::reference::check(data, kind, &seen);
}

/// A value, against the reference; a valid one survives being written.
pub fn traceparent(data: &[u8]) {
    let context = parse(data);
    if data.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        return;
    }
    assert_eq!(context, reference::traceparent(data));
    let mut value = TraceparentValue::default();
    value.push(b'x');
    value.clear();
    data.iter().for_each(|byte| value.push(*byte));
    assert_eq!(value.finish(), context, "a value that was cleared reads as a new one");
    if let Some(context) = context {
        let mut line = [0; HEADER_LEN];
        write_header(&mut line, &context);
        assert_eq!(parse(&line[12..HEADER_LEN - 2]), Some(context));
    }
}

/// The bytes of a TCP option, as many as there are at most: no context, or one that is written as it came.
pub fn tcp_option(data: &[u8]) {
    let mut room = [0; 4 + LENGTH];
    let len = data.len().min(LENGTH);
    room[4..4 + len].copy_from_slice(&data[..len]);
    let (words, _) = room.as_chunks::<8>();
    let words: [u64; 4] = std::array::from_fn(|at| u64::from_ne_bytes(words[at]));
    let Some(context) = tcp_option::decode(&words) else { return };
    assert!(context.is_valid());
    assert_eq!(tcp_option::encode(&context), words);
    let tag = tcp_option::tag_of(context.span_id);
    assert_eq!(tcp_option::tagged(context.span_id, tag) & 0xff_ffff, u64::from(tag));
}

/// A record: what is decoded lies inside the bytes and decodes the same again.
pub fn records_decode(data: &[u8]) {
    let Ok(record) = records::decode(data) else {
        return;
    };
    let within = |part: &[u8]| {
        let range = data.as_ptr_range();
        assert!(part.is_empty() || (range.contains(&part.as_ptr()) && part.len() <= data.len()));
        let end = part.as_ptr() as usize + part.len();
        assert!(end <= range.end as usize, "data reaches past the record");
    };
    match record {
        Record::HeadFragment(fixed, part) => {
            within(part);
            assert_eq!(part.len(), fixed.header.data_len as usize);
        }
        Record::HeaderBlock(fixed, part) => {
            within(part);
            assert_eq!(part.len(), fixed.header.data_len as usize);
        }
        Record::ExchangeOpened(fixed, part) | Record::StreamOpened(fixed, part) => {
            within(part);
            assert_eq!(part.len(), fixed.header.data_len as usize);
            let _ = (fixed.role(), fixed.correlation(), fixed.outcome());
        }
        Record::ExchangeClosed(fixed) | Record::StreamClosed(fixed) => {
            let _ = fixed.reason();
        }
        Record::ProcessExec(fixed, args, env) => {
            within(args);
            within(env);
            assert_eq!(args.len(), fixed.args_len as usize);
            assert_eq!(args.len() + env.len(), fixed.header.data_len as usize);
        }
        Record::ExchangeCandidates(_)
        | Record::ProcessFork(_)
        | Record::ProcessExit(_)
        | Record::ConnectionOpaque(_)
        | Record::Http2Started(_)
        | Record::Http2Ended(_)
        | Record::SocketSpared(_) => {}
    }
    let mut longer = data.to_vec();
    longer.extend_from_slice(&[0xff; 7]);
    assert_eq!(records::decode(&longer), Ok(record), "bytes behind a record change it");
}

fn whole(stream: &[u8], kind: HeadKind, asked: &[Asked]) -> Seen {
    read(stream, kind, asked, &Pieces::Whole, &Layout::PLAIN)
}

/// What the responses answer: four of them, two bits each.
fn asked(choice: u8) -> [Asked; 4] {
    [0, 2, 4, 6].map(|shift| match (choice >> shift) & 3 {
        2 => Asked::Head,
        3 => Asked::Connect,
        _ => Asked::Plain,
    })
}

/// Some way to lie in the window.
pub fn layout(noise: &mut Noise) -> Layout {
    let garbage = match noise.draw() % 5 {
        0 => Garbage::Byte(b'\n'),
        1 => Garbage::Byte(b'\r'),
        2 => Garbage::Byte(0),
        3 => Garbage::HeadEnds,
        _ => Garbage::Random(noise.draw()),
    };
    let load = [1, 7, 8, 9, 33, 100, WINDOW][noise.draw() as usize % 7];
    let offset = if noise.draw().is_multiple_of(2) { 0 } else { noise.draw() as usize % WINDOW };
    Layout { load, offset, garbage }
}
