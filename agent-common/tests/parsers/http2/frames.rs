//! However a stream is cut, and however it lies in the window, the machine finds in it what the
//! reference finds.

use super::encoder::{Encoder, exchange, frame, start, stream};
use super::machine::{Ending, Seen, read, read_with_gaps};
use super::reference;
use crate::bodies;
use crate::machine::{Garbage, Layout, Noise, Pieces};
use proptest::prelude::*;
use tracewire_common::config::WINDOW;
use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::http2::Event;

const KINDS: [HeadKind; 2] = [HeadKind::Request, HeadKind::Response];

fn whole(bytes: &[u8], kind: HeadKind) -> Seen {
    read(bytes, kind, &Pieces::Whole, &Layout::PLAIN)
}

/// Against the reference, and cut at random against itself.
fn check(bytes: &[u8], kind: HeadKind, seed: u64) -> Seen {
    let seen = whole(bytes, kind);
    reference::check(bytes, kind, &seen);
    let mut noise = Noise::new(seed);
    for pieces in [Pieces::Each(1), Pieces::Random(seed), Pieces::Random(!seed)] {
        let layout = bodies::layout(&mut noise);
        assert_eq!(read(bytes, kind, &pieces, &layout), seen, "{pieces:?} {layout:?}");
    }
    seen
}

fn legal(kind: HeadKind, seed: u64, frames: usize) -> Vec<u8> {
    stream(kind, seed, frames, &mut Encoder::new(seed ^ 0x77, 4096))
}

#[test]
fn a_stream_cut_at_any_byte_reads_the_same() {
    for kind in KINDS {
        for seed in 0..6 {
            let bytes = legal(kind, seed, 8);
            let seen = check(&bytes, kind, seed);
            assert_eq!(seen.ending, Ending::Between);
            for cut in 1..bytes.len() {
                let layout = Layout { garbage: Garbage::Random(cut as u64), ..Layout::PLAIN };
                let cut = read(&bytes, kind, &Pieces::CutAt(cut), &layout);
                assert_eq!(cut, seen, "{kind:?} {seed}");
            }
        }
    }
}

#[test]
fn a_stream_that_ends_at_any_byte_reads_as_the_reference_reads_it() {
    for kind in KINDS {
        let bytes = legal(kind, 0, 8);
        for end in 0..bytes.len() {
            let seen = whole(&bytes[..end], kind);
            reference::check(&bytes[..end], kind, &seen);
        }
    }
}

#[test]
fn a_stream_anywhere_in_the_window_reads_the_same() {
    for kind in KINDS {
        let bytes = legal(kind, 5, 8);
        let seen = check(&bytes, kind, 5);
        for offset in 0..WINDOW {
            let layout = Layout { load: WINDOW, offset, garbage: Garbage::Random(9) };
            assert_eq!(read(&bytes, kind, &Pieces::Whole, &layout), seen, "at {offset}");
        }
        for load in 1..80 {
            let layout = Layout { load, offset: 3, garbage: Garbage::Byte(0) };
            assert_eq!(read(&bytes, kind, &Pieces::Whole, &layout), seen, "loads of {load}");
        }
    }
}

#[test]
fn frames_of_types_that_nobody_knows_are_passed_over() {
    // RFC 9113 §5.5.
    for kind in KINDS {
        for unknown in 0xb..=0xff {
            let bytes = [
                start(kind),
                frame(unknown, 0xff, 1, b"something"),
                frame(1, 4, 1, &[0x82]),
                frame(unknown, 0, 0, &[]),
            ]
            .concat();
            let seen = check(&bytes, kind, 1);
            assert_eq!(seen.ending, Ending::Between);
            let events: Vec<Event> = seen.found.iter().map(|found| found.event).collect();
            assert_eq!(events, [Event::BlockStart, Event::BlockEnd], "{unknown:#x}");
        }
    }
}

#[test]
fn bytes_that_may_be_missed_make_no_difference() {
    let mut unseen = 0;
    for seed in 0..300 {
        for kind in KINDS {
            let bytes = legal(kind, seed, 10);
            let mut noise = Noise::new(seed);
            let mut gap = |left: usize| noise.draw() as usize % (left + 1).min(40);
            let pieces = Pieces::Random(seed);
            let (seen, missed) = read_with_gaps(&bytes, kind, &pieces, &Layout::PLAIN, &mut gap);
            assert_eq!(seen, whole(&bytes, kind), "{kind:?} {seed}");
            unseen += missed;
        }
    }
    assert!(unseen > 10_000, "{unseen} bytes");
}

/// Breaks a stream in some way.
fn harm(bytes: &mut Vec<u8>, kind: HeadKind, noise: &mut Noise) {
    let at = noise.draw() as usize % bytes.len();
    match noise.draw() % 6 {
        0 => bytes[at] = noise.draw() as u8,
        1 => bytes[at] ^= 1 << (noise.draw() % 8),
        2 => drop(bytes.remove(at)),
        3 => bytes.insert(at, noise.draw() as u8),
        4 => bytes.truncate(at),
        _ => {
            let flags = noise.draw() as u8;
            let stream = (noise.draw() % 4) as u32;
            let payload = vec![noise.draw() as u8; noise.draw() as usize % 12];
            bytes.extend(frame((noise.draw() % 18) as u8, flags, stream, &payload));
            bytes.extend(exchange(kind, noise, &mut Encoder::new(1, 4096)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn legal_streams_read_as_the_reference_reads_them(
        seed in any::<u64>(), frames in 1..30usize, request in any::<bool>(),
    ) {
        let kind = KINDS[usize::from(!request)];
        let seen = check(&legal(kind, seed, frames), kind, seed);
        prop_assert_eq!(seen.ending, Ending::Between);
    }

    #[test]
    fn broken_streams_read_as_the_reference_reads_them(
        seed in any::<u64>(), frames in 1..12usize, request in any::<bool>(), times in 1..4,
    ) {
        let kind = KINDS[usize::from(!request)];
        let mut bytes = legal(kind, seed, frames);
        let mut noise = Noise::new(seed);
        for _ in 0..times {
            if !bytes.is_empty() {
                harm(&mut bytes, kind, &mut noise);
            }
        }
        check(&bytes, kind, seed);
    }

    #[test]
    fn any_bytes_behind_the_start_read_as_the_reference_reads_them(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), request in any::<bool>(), seed in any::<u64>(),
    ) {
        let kind = KINDS[usize::from(!request)];
        // As one header block, and as frames.
        let block = [start(kind), frame(1, 4, 1, &bytes), frame(1, 4, 3, &bytes)].concat();
        check(&block, kind, seed);
        check(&[start(kind), bytes].concat(), kind, seed);
    }
}
