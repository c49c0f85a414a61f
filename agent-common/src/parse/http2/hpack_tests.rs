use super::*;

const VALUE: &[u8; 55] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// `VALUE` in the Huffman code, from the table of RFC 7541 Appendix B.
fn coded(text: &[u8]) -> Vec<u8> {
    let code = |byte: u8| -> (u32, u32) {
        match byte {
            b'0'..=b'2' => (u32::from(byte - b'0'), 5),
            b'3'..=b'9' => (0b011001 + u32::from(byte - b'3'), 6),
            b'a' => (0b00011, 5),
            b'b' => (0b100011, 6),
            b'c' => (0b00100, 5),
            b'd' => (0b100100, 6),
            b'e' => (0b00101, 5),
            b'f' => (0b100101, 6),
            b'-' => (0b010110, 6),
            b'n' => (0b101010, 6),
            b'p' => (0b101011, 6),
            b'r' => (0b101100, 6),
            b't' => (0b01001, 5),
            other => panic!("no code for {other}"),
        }
    };
    let mut bits = String::new();
    for byte in text {
        let (code, len) = code(*byte);
        bits += &format!("{code:0len$b}", len = len as usize);
    }
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    let bytes = bits.as_bytes().chunks(8);
    bytes.map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0'))).collect()
}

fn string(bytes: &[u8], is_coded: bool) -> Vec<u8> {
    let bytes = if is_coded { coded(bytes) } else { bytes.to_vec() };
    let mut out = vec![bytes.len() as u8 | if is_coded { 0x80 } else { 0 }];
    out.extend(bytes);
    out
}

fn window(bytes: &[u8]) -> Window {
    let mut window = Window([0xaa; size_of::<Window>()]);
    window.0[..bytes.len()].copy_from_slice(bytes);
    window
}

/// Reads a block in pieces that end at `cuts`.
fn read(scanner: &mut Scanner, block: &[u8], cuts: &[usize]) {
    scanner.begin();
    let window = window(block);
    let mut at = 0;
    for end in cuts.iter().copied().chain([block.len()]) {
        while at < end {
            let taken = scanner.step(&window, at as u32, end as u32, at as u32) as usize;
            assert!(taken > 0 && at + taken <= end, "{taken} at {at} of {end}");
            at += taken;
        }
    }
    assert!(scanner.is_between_fields(), "{scanner:?}");
}

#[test]
fn a_literal_context_is_found_however_it_is_coded_and_cut() {
    for first in [0x00, 0x10, 0x40] {
        for (name_coded, value_coded) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            // `:method: GET`, a literal with a name of the static table, and one of that length.
            let mut block = vec![0x82, 0x0f, 0x2b, 3, b'a', b'b', b'c'];
            block.extend([0x00, 11]);
            block.extend(b"traceparenu");
            block.extend([1, b'x']);
            block.push(first);
            block.extend(string(b"traceparent", name_coded));
            block.extend(string(VALUE, value_coded));
            let value_at = block.len() - string(VALUE, value_coded).len() + 1;
            block.push(0x84);
            for cut in 0..block.len() {
                let mut scanner = Scanner::default();
                read(&mut scanner, &block, &[cut]);
                let facts = FACT_TRACEPARENT | if first == 0x40 { FACT_INDEXED } else { 0 };
                assert_eq!(scanner.facts(), facts, "{first:#x} cut {cut}");
                let context = scanner.context().unwrap_or_else(|| panic!("cut {cut}: {scanner:?}"));
                assert_eq!(context.trace_id_hi, 0x0af7_6519_16cd_43dd);
                assert_eq!(context.span_id, 0xb7ad_6b71_6920_3331);
                assert_eq!(scanner.value_place().0 as usize, value_at);
                assert_eq!(scanner.value_is_coded(), value_coded);
            }
            let all: Vec<usize> = (1..block.len()).collect();
            let mut scanner = Scanner::default();
            read(&mut scanner, &block, &all);
            assert!(scanner.context().is_some());
        }
    }
}

#[test]
fn a_context_in_the_dynamic_table_is_found_by_its_index() {
    let mut scanner = Scanner::default();
    let mut first = vec![0x40];
    first.extend(string(b"traceparent", true));
    first.extend(string(VALUE, true));
    read(&mut scanner, &first, &[]);
    // Three more entries, then the first again: whole, by name, and by name with a new entry.
    read(&mut scanner, &[0x40, 1, b'a', 1, b'b', 0x40, 1, b'c', 0, 0x7e, 1, b'd'], &[]);
    assert_eq!(scanner.facts(), 0);
    read(&mut scanner, &[0x80 | 65], &[]);
    assert_eq!(scanner.facts(), FACT_TRACEPARENT | FACT_INDEXED);
    assert_eq!(scanner.context().map(|context| context.span_id), Some(0xb7ad_6b71_6920_3331));
    let other = b"00-0af7651916cd43dd8448eb211c80319c-00000000000000ff-00";
    let mut named = vec![0x0f, 65 - 15];
    named.extend(string(other, false));
    read(&mut scanner, &named, &[]);
    assert_eq!(scanner.facts(), FACT_TRACEPARENT);
    assert_eq!(scanner.context().map(|context| context.span_id), Some(0xff));
    let mut added = vec![0x40 | 0x3f, 65 - 63];
    added.extend(string(other, true));
    read(&mut scanner, &added, &[]);
    read(&mut scanner, &[0x80 | 62], &[]);
    assert_eq!(scanner.context().map(|context| context.span_id), Some(0xff));
    read(&mut scanner, &[0x80 | 66], &[]);
    assert_eq!(scanner.context().map(|context| context.span_id), Some(0xb7ad_6b71_6920_3331));
    read(&mut scanner, &[0x80 | 65], &[]);
    assert_eq!(scanner.facts(), 0);
}

#[test]
fn an_index_that_reaches_back_too_far_is_not_known() {
    let mut scanner = Scanner::default();
    scanner.lose();
    read(&mut scanner, &[0x40, 1, b'a', 1, b'b'], &[]);
    read(&mut scanner, &[0x80 | 62], &[]);
    assert_eq!(scanner.facts(), 0);
    read(&mut scanner, &[0x80 | 63], &[]);
    assert_eq!(scanner.facts(), FACT_UNKNOWN_FIELD);
    let mut scanner = Scanner::default();
    read(&mut scanner, &[0x80 | 0x7f, 0xff, 1], &[]);
    assert_eq!(scanner.facts(), FACT_UNKNOWN_FIELD);
}

#[test]
fn two_contexts_are_none() {
    let mut scanner = Scanner::default();
    let mut block = vec![0];
    block.extend(string(b"traceparent", false));
    block.extend(string(VALUE, false));
    let twice = [block.clone(), block].concat();
    read(&mut scanner, &twice, &[]);
    assert_eq!(scanner.facts(), FACT_TRACEPARENT | FACT_REPEATED);
    assert_eq!(scanner.context(), None);
}

#[test]
fn integers_without_end_break_the_block_and_all_after_it() {
    let mut scanner = Scanner::default();
    scanner.begin();
    let bytes = [0xff; 40];
    let window = window(&bytes);
    let mut at = 0;
    while at < 40 {
        at += scanner.step(&window, at, 40, at);
    }
    assert!(!scanner.is_between_fields());
    scanner.begin();
    assert!(!scanner.is_between_fields());
}

#[test]
fn a_context_behind_other_bytes_of_its_value_is_none() {
    // What is left of a longer value is as long as a whole one, and looks like one.
    let mut block = vec![0];
    block.extend(string(b"traceparent", false));
    block.extend(string(&[b"01-4b", VALUE.as_slice()].concat(), false));
    for cut in 0..block.len() {
        let mut scanner = Scanner::default();
        read(&mut scanner, &block, &[cut]);
        assert_eq!((scanner.facts(), scanner.context()), (FACT_TRACEPARENT, None), "cut {cut}");
    }
}

#[test]
fn a_context_out_of_the_table_has_no_place_in_the_block() {
    let mut scanner = Scanner::default();
    let mut first = vec![0x40];
    first.extend(string(b"traceparent", true));
    first.extend(string(VALUE, true));
    read(&mut scanner, &first, &[]);
    assert_eq!(scanner.value_place(), (11, first.len() as u32 - 11));
    read(&mut scanner, &[0x80 | 62], &[]);
    assert!(scanner.context().is_some());
    assert_eq!((scanner.value_place(), scanner.value_is_coded()), ((0, 0), false));
}

#[test]
fn what_takes_its_name_from_an_unknown_entry_stays_unknown() {
    let mut scanner = Scanner::default();
    scanner.lose();
    // It may be `traceparent`, or another field that has such values.
    let mut named = vec![0x40 | 62];
    named.extend(string(VALUE, false));
    read(&mut scanner, &named, &[]);
    assert_eq!(scanner.facts(), FACT_UNKNOWN_FIELD);
    read(&mut scanner, &named, &[]);
    assert_eq!((scanner.facts(), scanner.context()), (FACT_UNKNOWN_FIELD, None));
    read(&mut scanner, &[0x80 | 63], &[]);
    assert_eq!((scanner.facts(), scanner.context()), (FACT_UNKNOWN_FIELD, None));
    // What is added by its own name is known.
    let mut own = vec![0x40];
    own.extend(string(b"traceparent", false));
    own.extend(string(VALUE, false));
    read(&mut scanner, &own, &[]);
    read(&mut scanner, &[0x80 | 62], &[]);
    assert!(scanner.context().is_some());
    read(&mut scanner, &[0x80 | 63], &[]);
    assert_eq!(scanner.facts(), FACT_UNKNOWN_FIELD);
}

#[test]
fn what_was_never_added_is_not_known() {
    let mut scanner = Scanner::default();
    for block in [&b"\xbe"[..], b"\x7e\x01x", b"\x0f\x2f\x01x"] {
        read(&mut scanner, block, &[]);
        assert_eq!(scanner.facts(), FACT_UNKNOWN_FIELD);
    }
    // One was added by then, and it is as little known.
    read(&mut scanner, b"\xbe\x40\x01a\x01b\xbe", &[]);
    assert_eq!(scanner.facts(), FACT_UNKNOWN_FIELD);
    read(&mut scanner, b"\xbe", &[]);
    assert_eq!(scanner.facts(), 0);
    read(&mut scanner, b"\xc0", &[]);
    assert_eq!(scanner.facts(), FACT_UNKNOWN_FIELD);
}
