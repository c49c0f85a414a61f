//! What the scanner says of header blocks is what a decoder with tables sees.

use super::encoder::Encoder;
use super::machine::Verdict;
use super::reference::{Tables, fields};
use crate::machine::Noise;
use proptest::prelude::*;
use tracewire_common::config::WINDOW;
use tracewire_common::parse::http1::Window;
use tracewire_common::parse::http2::hpack::{
    FACT_INDEXED, FACT_REPEATED, FACT_TRACEPARENT, FACT_UNKNOWN_FIELD, Scanner,
};

/// Reads a block in pieces of random lengths.
fn scan(scanner: &mut Scanner, block: &[u8], noise: &mut Noise) -> Verdict {
    scanner.begin();
    let longest = [1, 5, 60, 200, WINDOW][noise.draw() as usize % 5];
    let mut window = Window([0x66; size_of::<Window>()]);
    let mut at = 0;
    while at < block.len() {
        let here = (1 + noise.draw() as usize % longest).min(block.len() - at);
        let offset = noise.draw() as usize % (WINDOW - here + 1);
        window.0[offset..offset + here].copy_from_slice(&block[at..at + here]);
        let end = at + here;
        let mut place = offset;
        while at < end {
            let to = (offset + here) as u32;
            let taken = scanner.step(&window, place as u32, to, at as u32) as usize;
            assert!(taken > 0 && at + taken <= end, "{taken} of {}", end - at);
            at += taken;
            place += taken;
        }
    }
    assert!(scanner.is_between_fields());
    let (at, len) = scanner.value_place();
    Verdict {
        facts: scanner.facts(),
        context: scanner.context(),
        place: (at, len, scanner.value_is_coded()),
    }
}

/// What the blocks of a connection came to.
#[derive(Debug, Default)]
struct Tally {
    contexts: u32,
    out_of_table: u32,
    repeated: u32,
    unknown: u32,
    unknown_and_context: u32,
    most_entries: usize,
}

/// A connection of so many blocks. The position is lost now and then, if that is wanted.
fn connection(seed: u64, blocks: u32, allowed: usize, loses: bool, tally: &mut Tally) {
    let mut noise = Noise::new(seed);
    let mut encoder = Encoder::new(seed ^ 0x1234, allowed);
    let mut tables = Tables::default();
    let mut scanner = Scanner::default();
    for number in 0..blocks {
        let (block, list) = encoder.block(6);
        let parts = fields(&block).expect("whole fields");
        if loses && noise.draw().is_multiple_of(20) {
            // Nothing of this block is seen.
            tables.read(&block, &parts).expect("a legal block");
            scanner.lose();
            tables.lose();
            continue;
        }
        let verdict = scan(&mut scanner, &block, &mut noise);
        let expected = tables.read(&block, &parts).expect("a legal block");
        assert_eq!(expected.list, list, "the encoder writes something else");
        expected.check(&verdict);
        let is = |fact| u32::from(verdict.facts & fact != 0);
        let has_context = u32::from(verdict.context.is_some());
        tally.contexts += has_context;
        tally.out_of_table += has_context * is(FACT_INDEXED) * u32::from(verdict.place.1 == 0);
        tally.repeated += is(FACT_REPEATED);
        tally.unknown += is(FACT_UNKNOWN_FIELD);
        tally.unknown_and_context += is(FACT_UNKNOWN_FIELD) * is(FACT_TRACEPARENT) * has_context;
        tally.most_entries = tally.most_entries.max(encoder.entries());
        assert!(number > 0 || loses || verdict.facts & FACT_UNKNOWN_FIELD == 0);
    }
}

#[test]
fn every_kind_of_block_is_among_those_that_are_tried() {
    let mut tally = Tally::default();
    for seed in 0..5 {
        connection(seed, 400, 4096, false, &mut tally);
    }
    println!("{tally:?}");
    assert_eq!(tally.unknown, 0, "a table of the usual size is known: {tally:?}");
    assert!(tally.contexts > 150 && tally.out_of_table > 40, "{tally:?}");
    assert!(tally.repeated > 300 && tally.most_entries > 20, "{tally:?}");
    let mut tally = Tally::default();
    for seed in 0..4 {
        connection(seed, 600, 1 << 18, false, &mut tally);
    }
    println!("{tally:?}");
    assert!(tally.most_entries > 300 && tally.unknown > 100, "{tally:?}");
    let mut tally = Tally::default();
    for seed in 0..5 {
        connection(seed, 400, 4096, true, &mut tally);
    }
    println!("{tally:?}");
    assert!(tally.unknown > 150 && tally.unknown_and_context > 10, "{tally:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]

    #[test]
    fn what_is_said_of_blocks_is_what_a_decoder_sees(
        seed in any::<u64>(), blocks in 1..150u32, large in any::<bool>(), loses in any::<bool>(),
    ) {
        let allowed = if large { 1 << 18 } else { 4096 };
        connection(seed, blocks, allowed, loses, &mut Tally::default());
    }
}
