//! The bound on what reading costs: one step a byte, whatever the bytes are.

use super::encoder::{Encoder, frame, start, stream};
use super::machine::{Ending, read};
use crate::machine::{Layout, Pieces};
use tracewire_common::outcome::HeadKind;

/// Streams that are slow to read, of about `len` bytes each; what makes them so.
fn streams(len: usize) -> Vec<(&'static str, HeadKind, Vec<u8>)> {
    let block = |field: &[u8]| {
        let payload = field.repeat(len / field.len());
        let mut bytes = start(HeadKind::Request);
        for (number, part) in payload.chunks(1 << 14).enumerate() {
            bytes.extend(frame(if number == 0 { 1 } else { 9 }, 0, 1, part));
        }
        bytes.extend(frame(9, 4, 1, &[]));
        bytes
    };
    let frames = |kind, one: &[u8]| [start(kind), one.repeat(len / one.len())].concat();
    let value = |name: &[u8], value: &[u8]| {
        let mut field = vec![0, name.len() as u8];
        field.extend(name);
        field.push(value.len() as u8);
        field.extend(value);
        block(&field)
    };
    let mut coded = vec![0x40, 0x88];
    httlib_huffman::encode(b"traceparent", &mut coded).expect("every byte has a code");
    coded.extend([0x80 | 100]);
    coded.extend([0; 100]);
    vec![
        ("indexed fields", HeadKind::Request, block(&[0x82])),
        ("sizes of the table", HeadKind::Request, block(&[0x20])),
        ("empty fields", HeadKind::Request, block(&[0, 0, 0])),
        ("empty fields that are added", HeadKind::Request, block(&[0x40, 0, 0])),
        ("long integers", HeadKind::Request, block(&[0xff, 0x80, 0x80, 0x80, 0])),
        ("contexts", HeadKind::Request, value(b"traceparent", &[b'0'; 55])),
        ("almost contexts", HeadKind::Request, value(b"traceparenu", &[b'0'; 55])),
        ("coded contexts", HeadKind::Request, block(&coded)),
        ("empty contexts", HeadKind::Request, value(b"traceparent", b"")),
        ("empty data", HeadKind::Request, frames(HeadKind::Request, &frame(0, 0, 1, &[]))),
        ("data of a byte", HeadKind::Response, frames(HeadKind::Response, &frame(0, 0, 1, &[1]))),
        ("resets", HeadKind::Request, frames(HeadKind::Request, &frame(3, 0, 1, &[0; 4]))),
        (
            "parts without a byte",
            HeadKind::Request,
            [start(HeadKind::Request), frame(1, 0, 1, &[]), frame(9, 0, 1, &[]).repeat(len / 9)]
                .concat(),
        ),
        (
            "anything legal",
            HeadKind::Request,
            stream(HeadKind::Request, 7, len / 200, &mut Encoder::new(7, 4096)),
        ),
    ]
}

#[test]
fn no_stream_takes_more_than_a_step_a_byte() {
    for (name, kind, bytes) in streams(64 * 1024) {
        for layout in [Layout::PLAIN, Layout { load: 1, ..Layout::PLAIN }] {
            let seen = read(&bytes, kind, &Pieces::Whole, &layout);
            let (steps, len) = (seen.steps.0, bytes.len());
            println!("{name:<30} {len:>6} bytes {steps:>6} steps, loads of {}", layout.load);
            assert!(!matches!(seen.ending, Ending::NotHttp2(_)), "{name}: {:?}", seen.ending);
            assert!(steps <= len, "{name}: {steps} steps for {len} bytes");
        }
    }
}

#[test]
fn what_is_passed_over_takes_a_step_for_each_load_at_most() {
    let mut field = vec![0, 1, b'x', 0x7f, 0x81, 0x7e];
    field.resize(6 + 127 + 1 + (0x7e << 7), b'v');
    let bytes = [start(HeadKind::Request), frame(1, 4, 1, &field), frame(0, 0, 1, &[0; 60_000])];
    let bytes = bytes.concat();
    let seen = read(&bytes, HeadKind::Request, &Pieces::Whole, &Layout::PLAIN);
    assert_eq!((seen.ending, seen.found.len()), (Ending::Between, 3));
    assert!(seen.steps.0 < 64, "{} steps", seen.steps.0);
}
