use super::*;
use crate::config::WINDOW;

/// A frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What a machine comes upon in a stream that comes in pieces which end at `cuts`: events with their
/// stream, and where in the stream they are.
fn events(http2: &mut Http2, stream: &[u8], cuts: &[usize]) -> Vec<(Event, u32, usize)> {
    let mut found = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([stream.len()]) {
        let mut at = start;
        while at < end {
            let len = (end - at).min(WINDOW);
            let mut window = Window([0; size_of::<Window>()]);
            window.0[..len].copy_from_slice(&stream[at..at + len]);
            let (taken, event) = http2.step(&window, 0, len as u32, (end - at) as u32);
            at += taken as usize;
            assert!(at <= end);
            match event {
                Event::None => assert!(taken > 0),
                Event::NotHttp2 => {
                    found.push((event, 0, at));
                    return found;
                }
                Event::BlockEnd => {
                    found.push((event, http2.stream(), at));
                    http2.next_block();
                }
                _ => found.push((event, http2.stream(), at)),
            }
        }
        start = end;
    }
    found
}

fn client_stream() -> Vec<u8> {
    let block = [0x82, 0x84, 0x86, 0x41, 1, b'a'];
    let padded = [&[2, 0, 0, 0, 0, 9][..], &block, &[0, 0]].concat();
    [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]),
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &block),
        frame(HEADERS, PADDED | PRIORITY, 3, &padded),
        frame(CONTINUATION, 0, 3, &[]),
        frame(CONTINUATION, END_HEADERS, 3, &[0x80 | 62]),
        frame(DATA, 0, 3, &[7; 3000]),
        frame(0xa, 0xff, 0, &[1, 2, 3]),
        frame(DATA, END_STREAM, 3, &[]),
        frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
    ]
    .concat()
}

#[test]
fn blocks_data_and_resets_are_found_wherever_the_stream_is_cut() {
    let stream = client_stream();
    let mut whole = Http2::new(HeadKind::Request);
    let expected = events(&mut whole, &stream, &[]);
    let kinds: Vec<(Event, u32)> = expected.iter().map(|found| (found.0, found.1)).collect();
    assert_eq!(
        kinds,
        [
            (Event::BlockStart, 1),
            (Event::BlockEnd, 1),
            (Event::BlockStart, 3),
            (Event::BlockPart, 3),
            (Event::BlockPart, 3),
            (Event::BlockStart, 3),
            (Event::BlockEnd, 3),
            (Event::Data, 3),
            (Event::Data, 3),
            (Event::Reset, 1),
        ]
    );
    assert_eq!(whole.error_code(), 8);
    for cut in 0..stream.len() {
        let mut http2 = Http2::new(HeadKind::Request);
        assert_eq!(events(&mut http2, &stream, &[cut]), expected, "cut at {cut}");
        assert_eq!(http2, whole, "cut at {cut}");
    }
    let all: Vec<usize> = (1..stream.len()).collect();
    let mut http2 = Http2::new(HeadKind::Request);
    assert_eq!(events(&mut http2, &stream, &all), expected);
}

#[test]
fn what_only_begins_like_http2_is_none() {
    let settings = frame(SETTINGS, 0, 0, &[]);
    let cases = [
        [PREFACE.as_slice(), &[0x55; 40]].concat(),
        [PREFACE.as_slice(), &frame(HEADERS, END_HEADERS, 1, &[0x82])].concat(),
        [PREFACE.as_slice(), &settings, &frame(HEADERS, END_HEADERS, 2, &[0x82])].concat(),
        [PREFACE.as_slice(), &settings, &frame(HEADERS, END_HEADERS, 0, &[0x82])].concat(),
        [PREFACE.as_slice(), &settings, &frame(CONTINUATION, END_HEADERS, 1, &[0x82])].concat(),
        [PREFACE.as_slice(), &settings, &frame(HEADERS, 0, 1, &[0x82]), &settings].concat(),
        [PREFACE.as_slice(), &settings, &frame(HEADERS, END_HEADERS, 1, &[0x40])].concat(),
        [PREFACE.as_slice(), &settings, &frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0x82])]
            .concat(),
        [PREFACE.as_slice(), &settings, &frame(DATA, 0, 0, &[1])].concat(),
        [PREFACE.as_slice(), &settings, &frame(RST_STREAM, 0, 1, &[1])].concat(),
        [PREFACE.as_slice(), &settings, &frame(RST_STREAM, 0, 0, &[0; 4])].concat(),
        [PREFACE.as_slice(), &settings, &frame(DATA, PADDED, 1, &[])].concat(),
        [PREFACE.as_slice(), &settings, &frame(DATA, PADDED, 1, &[200, 1, 2])].concat(),
        [PREFACE.as_slice(), &settings, &frame(SETTINGS, ACK, 0, &[0; 6])].concat(),
        [PREFACE.as_slice(), &settings, &frame(PRIORITY_FRAME, 0, 1, &[0; 9])].concat(),
        [PREFACE.as_slice(), &settings, &frame(PRIORITY_FRAME, 0, 0, &[0; 5])].concat(),
        [PREFACE.as_slice(), &settings, &frame(PING, 0, 0, &[0; 7])].concat(),
        [PREFACE.as_slice(), &settings, &frame(PING, 0, 1, &[0; 8])].concat(),
        [PREFACE.as_slice(), &settings, &frame(GOAWAY, 0, 0, &[0; 4])].concat(),
        [PREFACE.as_slice(), &settings, &frame(GOAWAY, 0, 1, &[0; 8])].concat(),
        [PREFACE.as_slice(), &settings, &frame(WINDOW_UPDATE, 0, 0, &[0; 7])].concat(),
        [&PREFACE[..20], &[b'x'; 30]].concat(),
    ];
    for (number, stream) in cases.iter().enumerate() {
        let mut http2 = Http2::new(HeadKind::Request);
        let found = events(&mut http2, stream, &[]);
        assert_eq!(found.last().map(|found| found.0), Some(Event::NotHttp2), "case {number}");
    }
}

#[test]
fn padded_data_ends_with_its_padding() {
    let mut http2 = Http2::new(HeadKind::Response);
    // The flag that has a meaning for other frames has none here.
    let stream = [
        frame(SETTINGS, 0, 0, &[]),
        frame(DATA, PADDED | PRIORITY, 1, &[2, 7, 0, 0]),
        frame(DATA, PADDED, 1, &[0]),
        frame(DATA, PADDED, 1, &[1, 0]),
    ]
    .concat();
    let expected = [(Event::Data, 1, 22), (Event::Data, 1, 32), (Event::Data, 1, 43)];
    assert_eq!(events(&mut http2, &stream, &[]), expected);
    let all: Vec<usize> = (1..stream.len()).collect();
    let mut http2 = Http2::new(HeadKind::Response);
    assert_eq!(events(&mut http2, &stream, &all), expected);
}

#[test]
fn missing_bytes_of_data_are_passed_over_and_others_lose_the_position() {
    let mut http2 = Http2::new(HeadKind::Response);
    let stream = [frame(SETTINGS, 0, 0, &[]), frame(DATA, 0, 1, &[0; 100])].concat();
    events(&mut http2, &stream[..stream.len() - 60], &[]);
    assert!(http2.pass_over(59));
    assert!(!http2.clone().pass_over(2));
    assert_eq!(events(&mut http2, &[0], &[]), [(Event::Data, 1, 1)]);
    assert!(!http2.pass_over(1));
    let block = http2.block();
    http2.lose();
    assert_eq!(http2.block(), block + 1);
}

#[test]
fn a_promise_that_goes_on_in_another_frame_is_one_to_its_end() {
    let stream = [
        frame(SETTINGS, 0, 0, &[]),
        frame(PUSH_PROMISE, 0, 1, &[0, 0, 0, 2, 0x82]),
        frame(CONTINUATION, END_HEADERS, 1, &[0x84]),
    ]
    .concat();
    let mut http2 = Http2::new(HeadKind::Response);
    assert_eq!(events(&mut http2, &stream, &[]).last().map(|found| found.0), Some(Event::BlockEnd));
    assert!(http2.is_promise() && !http2.ends_stream());
    let stream =
        [frame(HEADERS, END_STREAM, 1, &[0x88]), frame(CONTINUATION, END_HEADERS, 1, &[0x88])]
            .concat();
    assert_eq!(events(&mut http2, &stream, &[]).last().map(|found| found.0), Some(Event::BlockEnd));
    assert!(!http2.is_promise() && http2.ends_stream());
}

#[test]
fn a_type_that_nobody_knows_tells_that_a_guess_was_wrong() {
    let stream = [frame(SETTINGS, 0, 0, &[]), frame(0x4d, 0, 1, &[1; 4])].concat();
    let mut http2 = Http2::new(HeadKind::Response);
    assert_eq!(events(&mut http2, &stream, &[]), []);
    assert!(http2.is_at_frame());
    http2.lose();
    http2.guess_frame();
    assert_eq!(events(&mut http2, &stream, &[]).last().map(|found| found.0), Some(Event::NotHttp2));
}
