use super::encoder::{Encoder, Noise, huffman as huffman_code, integer};
use super::table::MAX_KEPT;
use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("hexadecimal digits");
        u8::from_str_radix(pair, 16).expect("hexadecimal digits")
    };
    digits.chunks(2).map(byte).collect()
}

/// What is kept of a block, by name.
fn known(fields: &Fields) -> Vec<(Name, String)> {
    let text = |&name: &Name| Some((name, String::from_utf8_lossy(fields.get(name)?).into_owned()));
    Name::KEPT.iter().filter_map(text).collect()
}

fn of(list: &[(Name, &str)]) -> Vec<(Name, String)> {
    list.iter().map(|&(name, value)| (name, value.to_owned())).collect()
}

/// A block, what is known of it, and entries and size of the table after it.
type Step<'a> = (&'a str, &'a [(Name, &'a str)], (usize, u32));

/// Decodes blocks of one direction in order, and checks fields and table after each.
#[track_caller]
fn expect(limit: u32, blocks: &[Step<'_>]) {
    let mut table = Table::new();
    table.set_limit(limit);
    for (block, expected, size) in blocks {
        let mut fields = Fields::default();
        assert_eq!(decode(&bytes(block), &mut table, &mut fields), Ok(()));
        assert_eq!((known(&fields), table.size()), (of(expected), *size));
    }
}

#[test]
fn integers_of_rfc_7541_c_1() {
    let read = |hex: &str, prefix| Input { rest: &bytes(hex) }.integer(prefix);
    assert_eq!(read("0a", 5), Ok(10));
    assert_eq!(read("1f9a0a", 5), Ok(1337));
    assert_eq!(read("2a", 8 - 1), Ok(42));
}

#[test]
fn integers_that_are_too_large_or_cut_are_told_apart() {
    let read = |hex: &str| Input { rest: &bytes(hex) }.integer(5);
    assert_eq!(read("1fe0ffffff0f"), Ok(u32::MAX));
    assert_eq!(read("1fe1ffffff0f"), Err(Stop::Invalid));
    assert_eq!(read("1fffffffffff"), Err(Stop::Invalid));
    assert_eq!(read("1f808080808000"), Err(Stop::Invalid));
    assert_eq!(read("1f8080"), Err(Stop::Truncated));
    assert_eq!(read(""), Err(Stop::Truncated));
}

#[test]
fn single_fields_of_rfc_7541_c_2() {
    expect(4096, &[("400a637573746f6d2d6b65790d637573746f6d2d686561646572", &[], (1, 55))]);
    expect(4096, &[("040c2f73616d706c652f70617468", &[(Name::Path, "/sample/path")], (0, 0))]);
    expect(4096, &[("100870617373776f726406736563726574", &[], (0, 0))]);
    expect(4096, &[("82", &[(Name::Method, "GET")], (0, 0))]);
}

const REQUESTS: [&[(Name, &str)]; 3] = [
    &[
        (Name::Method, "GET"),
        (Name::Scheme, "http"),
        (Name::Authority, "www.example.com"),
        (Name::Path, "/"),
    ],
    &[
        (Name::Method, "GET"),
        (Name::Scheme, "http"),
        (Name::Authority, "www.example.com"),
        (Name::Path, "/"),
    ],
    &[
        (Name::Method, "GET"),
        (Name::Scheme, "https"),
        (Name::Authority, "www.example.com"),
        (Name::Path, "/index.html"),
    ],
];

#[test]
fn requests_of_rfc_7541_c_3() {
    expect(
        4096,
        &[
            ("828684410f7777772e6578616d706c652e636f6d", REQUESTS[0], (1, 57)),
            ("828684be58086e6f2d6361636865", REQUESTS[1], (2, 110)),
            ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", REQUESTS[2], (3, 164)),
        ],
    );
}

#[test]
fn requests_of_rfc_7541_c_4() {
    expect(
        4096,
        &[
            ("828684418cf1e3c2e5f23a6ba0ab90f4ff", REQUESTS[0], (1, 57)),
            ("828684be5886a8eb10649cbf", REQUESTS[1], (2, 110)),
            ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", REQUESTS[2], (3, 164)),
        ],
    );
}

#[test]
fn responses_of_rfc_7541_c_5() {
    expect(
        256,
        &[
            (
                "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a32
                 3120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
                &[(Name::Status, "302")],
                (4, 222),
            ),
            ("4803333037c1c0bf", &[(Name::Status, "307")], (4, 222)),
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a6970
                 7738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d61
                 67653d333630303b2076657273696f6e3d31",
                &[(Name::Status, "200")],
                (3, 215),
            ),
        ],
    );
}

#[test]
fn responses_of_rfc_7541_c_6() {
    expect(
        256,
        &[
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad
                 171863c78f0b97c8e9ae82ae43d3",
                &[(Name::Status, "302")],
                (4, 222),
            ),
            ("4883640effc1c0bf", &[(Name::Status, "307")], (4, 222)),
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2
                 e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                &[(Name::Status, "200")],
                (3, 215),
            ),
        ],
    );
}

#[test]
fn every_byte_survives_the_huffman_code() {
    for byte in 0..=255u8 {
        for count in 1..10 {
            let text = vec![byte; count];
            let mut out = Vec::new();
            assert_eq!(huffman::decode(&huffman_code(&text), |byte| out.push(byte)), Ok(()));
            assert_eq!(out, text);
        }
    }
}

#[test]
fn padding_that_is_none_is_refused() {
    // "a" is 00011 and has three bits of padding.
    for (coded, expected) in [
        (&[0x1f][..], Ok(())),
        (&[0x1e], Err(Stop::Invalid)),
        (&[0x18], Err(Stop::Invalid)),
        // A byte of padding, and the symbol that ends strings as a whole.
        (&[0x1f, 0xff], Err(Stop::Invalid)),
        (&[0xff], Err(Stop::Invalid)),
        (&[0xff, 0xff, 0xff, 0xff], Err(Stop::Invalid)),
        (&[], Ok(())),
    ] {
        assert_eq!(huffman::decode(coded, |_| {}), expected, "{coded:x?}");
    }
}

const NAMES: [&str; 13] = [
    ":method",
    ":scheme",
    ":authority",
    ":path",
    ":status",
    "host",
    "user-agent",
    "content-type",
    "grpc-status",
    "cookie",
    "grpc-message",
    "x-something-of-its-own",
    "authorization",
];

/// Fields as chance will have them.
fn some_fields(noise: &mut Noise) -> Vec<(&'static str, String)> {
    let field = |noise: &mut Noise| {
        let name = NAMES[noise.below(NAMES.len())];
        let value = match noise.below(4) {
            0 => ["GET", "200", "/", "http", ""][noise.below(5)].to_owned(),
            1 => "x".repeat(noise.below(300)),
            _ => format!("{}-{}", name, noise.below(20)),
        };
        (name, value)
    };
    (0..=noise.below(12)).map(|_| field(noise)).collect()
}

/// The first value of each name that matters, as another decoder sees it.
fn first_values(list: &[(Vec<u8>, Vec<u8>)]) -> Vec<(Name, String)> {
    let first = |&name: &Name| {
        let found = list.iter().find(|(other, _)| Name::of(other) == name)?;
        // Longer ones are not kept.
        let is_kept = found.1.len() <= name.longest_value();
        is_kept.then(|| (name, String::from_utf8_lossy(&found.1).into_owned()))
    };
    Name::KEPT.iter().filter_map(first).collect()
}

#[test]
fn another_decoder_sees_the_same() {
    for seed in 1..400 {
        let mut encoder = Encoder::new(seed);
        let mut other = loona_hpack::Decoder::new();
        other.set_max_allowed_table_size(1 << 20);
        let mut table = Table::new();
        for _ in 0..60 {
            if encoder.noise.below(10) == 0 {
                let limit = [0, 31, 100, 500, 4096, 65_536, 100_000][encoder.noise.below(7)];
                encoder.set_limit(limit);
            }
            let list = some_fields(&mut encoder.noise);
            let list: Vec<_> = list.iter().map(|(name, value)| (*name, &value[..])).collect();
            let block = encoder.encode(&list);
            let seen = other.decode(&block).expect("a block of the encoder");
            assert!(
                seen.iter()
                    .map(|(n, v)| (&n[..], &v[..]))
                    .eq(list.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())))
            );
            let mut fields = Fields::default();
            assert_eq!(decode(&block, &mut table, &mut fields), Ok(()), "seed {seed}");
            assert_eq!(known(&fields), first_values(&seen), "seed {seed}");
        }
    }
}

#[test]
fn the_blocks_of_another_encoder_are_read() {
    let mut noise = Noise(7);
    let mut encoder = loona_hpack::Encoder::new();
    let mut table = Table::new();
    for _ in 0..2_000 {
        let list = some_fields(&mut noise);
        let list = list.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let block = encoder.encode(list.clone());
        let mut fields = Fields::default();
        assert_eq!(decode(&block, &mut table, &mut fields), Ok(()));
        let all: Vec<_> = list.map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        assert_eq!(known(&fields), first_values(&all));
    }
}

#[test]
fn what_is_known_after_a_loss_is_right() {
    let (mut right, mut unknown) = (0, 0);
    for seed in 1..300 {
        let mut encoder = Encoder::new(seed);
        let mut table = if seed % 2 == 0 { Table::new() } else { Table::unknown() };
        let mut was_lost = seed % 2 != 0;
        for _ in 0..80 {
            if encoder.noise.below(15) == 0 {
                let limit = [0, 100, 300, 4096, 65_536, 100_000][encoder.noise.below(6)];
                encoder.set_limit(limit);
            }
            let list = some_fields(&mut encoder.noise);
            let list: Vec<_> = list.iter().map(|(name, value)| (*name, &value[..])).collect();
            let block = encoder.encode(&list);
            if encoder.noise.below(12) == 0 {
                table.lose();
                was_lost = true;
                continue;
            }
            let mut fields = Fields::default();
            assert_eq!(decode(&block, &mut table, &mut fields), Ok(()), "seed {seed}");
            for &name in Name::KEPT {
                let sent: Vec<_> =
                    list.iter().filter(|field| field.0 == NAMES[name as usize]).collect();
                match fields.get(name) {
                    Some(value) => {
                        let is_sent = sent.iter().any(|field| field.1.as_bytes() == value);
                        assert!(is_sent, "seed {seed}: {name:?} is {value:?} of {sent:?}");
                        right += usize::from(was_lost);
                    }
                    None if sent.is_empty() => {}
                    None => {
                        assert!(!fields.is_absent(name), "seed {seed}: {name:?} was sent");
                        unknown += usize::from(was_lost);
                    }
                }
            }
        }
    }
    // Neither all nor nothing: else this says little.
    assert!(right > 10_000 && unknown > 1_000, "{right} {unknown}");
}

#[test]
fn an_index_behind_what_is_known_is_unknown_and_behind_the_table_is_invalid() {
    // Inserts ":path: /a", then names it and the entry behind it.
    let block = bytes("44022f61 be bf");
    let mut fields = Fields::default();
    assert_eq!(decode(&block, &mut Table::unknown(), &mut fields), Ok(()));
    assert_eq!(fields.get(Name::Path), Some(&b"/a"[..]));
    assert!(!fields.is_absent(Name::Method));
    let mut fields = Fields::default();
    assert_eq!(decode(&block, &mut Table::new(), &mut fields), Err(Stop::Invalid));
    assert_eq!(fields.get(Name::Path), Some(&b"/a"[..]));
    for zero in ["80", "4001610161 80"] {
        let stopped = decode(&bytes(zero), &mut Table::unknown(), &mut Fields::default());
        assert_eq!(stopped, Err(Stop::Invalid));
    }
}

#[test]
fn a_size_of_nothing_makes_a_lost_table_known_again() {
    let mut table = Table::unknown();
    assert_eq!(decode(&bytes("20 3fe11f 44022f61"), &mut table, &mut Fields::default()), Ok(()));
    let stopped = decode(&bytes("bf"), &mut table, &mut Fields::default());
    assert_eq!(stopped, Err(Stop::Invalid), "nothing is behind the only entry");
}

#[test]
fn an_entry_larger_than_the_table_empties_it_and_is_none() {
    let mut table = Table::new();
    table.set_limit(64);
    let insert = |len: usize| {
        let mut block = vec![0x44];
        integer(&mut block, 0, 7, len);
        block.extend(vec![b'x'; len]);
        block
    };
    assert_eq!(decode(&insert(27), &mut table, &mut Fields::default()), Ok(()));
    assert_eq!(table.size(), (1, 64));
    assert_eq!(decode(&insert(28), &mut table, &mut Fields::default()), Ok(()));
    assert_eq!(table.size(), (0, 0));
}

#[test]
fn of_a_table_larger_than_the_bound_the_newest_are_kept_and_the_rest_is_unknown() {
    let mut table = Table::new();
    let mut block = Vec::new();
    integer(&mut block, 0x20, 5, 1 << 30);
    assert_eq!(decode(&block, &mut table, &mut Fields::default()), Ok(()));
    for number in 0..200 {
        let mut block = vec![0x44];
        let value = format!("/{number:0>1000}");
        integer(&mut block, 0, 7, value.len());
        block.extend(value.as_bytes());
        assert_eq!(decode(&block, &mut table, &mut Fields::default()), Ok(()));
        assert!(table.size().1 <= MAX_KEPT && table.kept() < 2 * MAX_KEPT as usize);
    }
    let entries = table.size().0;
    assert!((60..64).contains(&entries), "{entries}");
    for age in 0..200 {
        let mut block = Vec::new();
        integer(&mut block, 0x80, 7, 62 + age);
        let mut fields = Fields::default();
        assert_eq!(decode(&block, &mut table, &mut fields), Ok(()));
        let value = format!("/{:0>1000}", 199 - age);
        let expected = (age < entries).then_some(value.as_bytes());
        assert_eq!(fields.get(Name::Path), expected, "{age}");
        assert!(!fields.is_absent(Name::Authority) || age < entries);
    }
}

#[test]
fn no_secret_lies_in_a_table() {
    let mut table = Table::new();
    let mut block = vec![0x40];
    for text in ["authorization", "Bearer of a secret"] {
        integer(&mut block, 0, 7, text.len());
        block.extend(text.as_bytes());
    }
    // A message of gRPC, by the name's index.
    block.extend([0x40, 12]);
    block.extend(b"grpc-message");
    block.extend([6]);
    block.extend(b"secret");
    let mut fields = Fields::default();
    assert_eq!(decode(&block, &mut table, &mut fields), Ok(()));
    assert_eq!(table.size(), (2, 32 + 13 + 18 + 32 + 12 + 6));
    // As lists of bytes are written: "sec".
    assert!(!format!("{table:?} {fields:?}").contains("115, 101, 99"), "{table:?}");
    assert!(table.kept() < 200);
}

#[test]
fn a_block_that_names_one_large_entry_many_times_gives_it_once() {
    let mut table = Table::new();
    let mut block = vec![0x44];
    integer(&mut block, 0, 7, 4000);
    block.extend(vec![b'/'; 4000]);
    block.extend(vec![0xbe; 60_000]);
    let mut fields = Fields::default();
    assert_eq!(decode(&block, &mut table, &mut fields), Ok(()));
    assert_eq!(fields.get(Name::Path).map(<[u8]>::len), Some(4000));
    assert!(fields.kept() < 10_000, "{}", fields.kept());
}

#[test]
fn a_value_that_is_too_long_is_unknown_and_its_entry_counts() {
    let mut table = Table::new();
    table.set_limit(60_000);
    let mut block = vec![0x44];
    let coded = huffman_code(&vec![b'/'; 9_000]);
    integer(&mut block, 0x80, 7, coded.len());
    block.extend(coded);
    let mut fields = Fields::default();
    assert_eq!(decode(&block, &mut table, &mut fields), Ok(()));
    assert_eq!((fields.get(Name::Path), fields.is_absent(Name::Path)), (None, false));
    assert_eq!(table.size(), (1, 32 + 5 + 9_000));
    let mut fields = Fields::default();
    assert_eq!(decode(&[0xbe], &mut table, &mut fields), Ok(()));
    assert_eq!((fields.get(Name::Path), fields.is_absent(Name::Path)), (None, false));
}

#[test]
fn any_bytes_end_and_a_cut_block_is_truncated() {
    let mut noise = Noise(3);
    let mut table = Table::unknown();
    for _ in 0..20_000 {
        let block: Vec<u8> = (0..noise.below(60)).map(|_| noise.below(256) as u8).collect();
        let _ = decode(&block, &mut table, &mut Fields::default());
        assert!(table.size().1 <= MAX_KEPT);
    }
    let whole = bytes("828684410f7777772e6578616d706c652e636f6d");
    for cut in 4..whole.len() {
        let mut table = Table::new();
        let stopped = decode(&whole[..cut], &mut table, &mut Fields::default());
        assert_eq!(stopped, Err(Stop::Truncated));
        assert_eq!(table.size(), (0, 0), "what is cut is not inserted");
    }
}
