use super::direction::MAX_BLOCK;
use super::fields::Name;
use super::hpack::encoder::Encoder;
use super::*;

struct Bench {
    http2: Http2Connections,
    metrics: Metrics,
}

impl Bench {
    fn new(limits: Http2Limits) -> Self {
        Self { http2: Http2Connections::new(limits), metrics: Metrics::default() }
    }

    /// Takes a part; the path and whether the block was whole, if it ended.
    fn part(&mut self, connection: u64, part: Part<'_>) -> Option<(Option<String>, bool)> {
        let block = self.http2.on_part(connection, HeadKind::Request, &part, &self.metrics)?;
        let path = block.fields.get(Name::Path);
        let path = path.map(|path| String::from_utf8_lossy(path).into_owned());
        Some((path, block.is_whole))
    }

    /// Takes a block in one part; its path.
    fn block(&mut self, connection: u64, block: u32, data: &[u8]) -> Option<String> {
        self.part(connection, whole(block, data)).and_then(|(path, _)| path)
    }

    fn lost(&self) -> u64 {
        self.metrics.get(Metric::HeaderTablesLost)
    }
}

fn whole(block: u32, data: &[u8]) -> Part<'_> {
    Part { block, offset: 0, data, block_len: Some(data.len() as u32) }
}

/// Inserts ":path: /a".
const INSERT_A: &[u8] = b"\x44\x02/a";
/// Inserts ":path: /b".
const INSERT_B: &[u8] = b"\x44\x02/b";
/// The newest entry.
const NEWEST: &[u8] = b"\xbe";
/// The one before it.
const BEFORE: &[u8] = b"\xbf";

#[test]
fn a_table_lasts_as_long_as_its_connection() {
    let mut bench = Bench::new(Http2Limits::default());
    for connection in [1, 2] {
        bench.http2.start(connection, &bench.metrics);
    }
    assert_eq!(bench.block(1, 0, INSERT_A).as_deref(), Some("/a"));
    assert_eq!(bench.block(2, 0, INSERT_B).as_deref(), Some("/b"));
    assert_eq!(bench.block(1, 1, NEWEST).as_deref(), Some("/a"));
    assert_eq!(bench.block(2, 1, NEWEST).as_deref(), Some("/b"));
    // The other direction has a table of its own: nothing is in it.
    let answer = bench.http2.on_part(1, HeadKind::Response, &whole(0, NEWEST), &bench.metrics);
    assert!(answer.is_some_and(|block| !block.is_whole && block.fields.get(Name::Path).is_none()));
    assert_eq!(bench.metrics.get(Metric::HeaderBlocksInvalid), 1);
    bench.http2.end(1);
    assert_eq!(bench.block(1, 2, NEWEST), None);
}

#[test]
fn a_block_in_parts_is_one_block() {
    let mut bench = Bench::new(Http2Limits::default());
    bench.http2.start(1, &bench.metrics);
    for at in 0..INSERT_A.len() {
        let is_last = at + 1 == INSERT_A.len();
        let part = Part {
            block: 0,
            offset: at as u32,
            data: &INSERT_A[at..=at],
            block_len: is_last.then_some(INSERT_A.len() as u32),
        };
        let expected = is_last.then(|| (Some("/a".to_owned()), true));
        assert_eq!(bench.part(1, part), expected);
    }
    assert_eq!(bench.block(1, 1, NEWEST).as_deref(), Some("/a"));
    assert_eq!(bench.lost(), 0);
}

#[test]
fn after_a_lost_block_only_what_came_since_is_known() {
    let mut bench = Bench::new(Http2Limits::default());
    bench.http2.start(1, &bench.metrics);
    bench.block(1, 0, INSERT_A);
    // Block 1 is lost: it may have inserted anything.
    assert_eq!(bench.block(1, 2, NEWEST), None);
    assert_eq!(bench.lost(), 1);
    assert_eq!(bench.block(1, 3, INSERT_B).as_deref(), Some("/b"));
    assert_eq!(bench.block(1, 4, BEFORE), None);
    assert_eq!(bench.block(1, 5, NEWEST).as_deref(), Some("/b"));
    assert_eq!((bench.lost(), bench.metrics.get(Metric::HeaderBlocksInvalid)), (1, 0));
}

#[test]
fn a_hole_in_a_block_ends_what_is_known_of_it() {
    let mut bench = Bench::new(Http2Limits::default());
    bench.http2.start(1, &bench.metrics);
    bench.part(1, Part { block: 0, offset: 0, data: INSERT_A, block_len: None });
    // Four bytes are missing.
    let end = Part { block: 0, offset: 8, data: NEWEST, block_len: Some(9) };
    assert_eq!(bench.part(1, end), Some((Some("/a".into()), false)));
    assert_eq!(bench.lost(), 1);
    assert_eq!(bench.block(1, 1, NEWEST), None, "what was missing may be an insertion");
    // One of which the beginning is missing.
    let end = Part { block: 2, offset: 4, data: INSERT_B, block_len: Some(8) };
    assert_eq!(bench.part(1, end), Some((None, false)));
    assert_eq!(bench.block(1, 3, NEWEST), None);
}

#[test]
fn a_block_that_was_not_captured_to_its_end_is_known_as_far_as_it_goes() {
    let mut bench = Bench::new(Http2Limits::default());
    bench.http2.start(1, &bench.metrics);
    let cut = Part { block: 0, offset: 0, data: INSERT_A, block_len: Some(5_000) };
    assert_eq!(bench.part(1, cut), Some((Some("/a".into()), false)));
    assert_eq!(bench.block(1, 1, NEWEST), None);
    assert_eq!((bench.lost(), bench.metrics.get(Metric::HeaderBlocksInvalid)), (1, 0));
}

#[test]
fn a_block_whose_end_was_lost_is_no_part_of_the_next() {
    let mut bench = Bench::new(Http2Limits::default());
    bench.http2.start(1, &bench.metrics);
    bench.part(1, Part { block: 0, offset: 0, data: INSERT_A, block_len: None });
    assert_eq!(bench.block(1, 1, INSERT_B).as_deref(), Some("/b"));
    assert_eq!(bench.block(1, 2, BEFORE), None);
    assert_eq!(bench.lost(), 1);
}

#[test]
fn a_connection_that_is_seen_from_its_middle_has_unknown_tables() {
    let mut bench = Bench::new(Http2Limits::default());
    assert_eq!(bench.block(9, 77, NEWEST), None);
    assert_eq!(bench.block(9, 78, INSERT_A).as_deref(), Some("/a"));
    assert_eq!(bench.block(9, 79, NEWEST).as_deref(), Some("/a"));
    assert_eq!((bench.lost(), bench.metrics.get(Metric::HeaderBlocksInvalid)), (2, 0));
}

#[test]
fn a_block_that_no_encoder_writes_is_counted_and_its_table_is_lost() {
    for wrong in [&b"\x80"[..], b"\x44\x05/a", b"\x44\x81\x00"] {
        let mut bench = Bench::new(Http2Limits::default());
        bench.http2.start(1, &bench.metrics);
        bench.block(1, 0, INSERT_A);
        assert_eq!(bench.part(1, whole(1, wrong)), Some((None, false)), "{wrong:x?}");
        assert_eq!((bench.lost(), bench.metrics.get(Metric::HeaderBlocksInvalid)), (1, 1));
        assert_eq!(bench.block(1, 2, NEWEST), None);
    }
}

#[test]
fn a_block_without_end_is_bounded() {
    let mut bench = Bench::new(Http2Limits::default());
    bench.http2.start(1, &bench.metrics);
    let piece = [0x82; 1000];
    for at in 0..1_000 {
        bench.part(1, Part { block: 0, offset: at * 1000, data: &piece, block_len: None });
        assert!(bench.http2.size().1 <= 2 * MAX_BLOCK);
    }
    let end = Part { block: 0, offset: 1_000_000, data: INSERT_A, block_len: Some(1_000_004) };
    assert_eq!(bench.part(1, end), Some((None, false)));
    assert_eq!(bench.lost(), 1);
    bench.block(1, 1, b"\x82");
    assert_eq!(bench.http2.size(), (1, 0), "its bytes are given back");
}

#[test]
fn beyond_the_bound_the_connections_go_that_were_not_used() {
    let mut bench = Bench::new(Http2Limits { connections: 3, ..Http2Limits::default() });
    for connection in 0..3 {
        bench.http2.start(connection, &bench.metrics);
        bench.block(connection, 0, INSERT_A);
    }
    // All were used: the oldest goes. Then only those that are used again stay.
    bench.http2.start(3, &bench.metrics);
    assert_eq!(bench.metrics.get(Metric::Http2Evicted), 1);
    assert_eq!(bench.block(1, 1, NEWEST).as_deref(), Some("/a"));
    bench.http2.start(4, &bench.metrics);
    assert_eq!((bench.http2.size().0, bench.metrics.get(Metric::Http2Evicted)), (3, 2));
    assert_eq!(bench.block(1, 2, NEWEST).as_deref(), Some("/a"));
    assert_eq!(bench.block(2, 1, NEWEST), None, "forgotten, so unknown");
}

#[test]
fn tables_keep_no_more_bytes_than_they_may() {
    let limit = 20_000;
    let mut bench = Bench::new(Http2Limits { kept: limit, ..Http2Limits::default() });
    let mut block = b"\x44\x7f\x81\x07".to_vec();
    block.extend([b'/'; 1_024]);
    for connection in 0..100 {
        bench.http2.start(connection, &bench.metrics);
        assert!(bench.block(connection, 0, &block).is_some());
        assert!(bench.http2.size().1 <= limit);
    }
    let (connections, kept) = bench.http2.size();
    assert_eq!(bench.metrics.get(Metric::Http2Evicted), 100 - connections as u64);
    assert!(connections > 5 && kept > limit / 2);
    for connection in 0..100 {
        bench.http2.end(connection);
    }
    assert_eq!(bench.http2.size(), (0, 0));
}

#[test]
fn connections_that_ended_are_not_remembered() {
    let mut bench = Bench::new(Http2Limits::default());
    for connection in 0..10_000 {
        bench.http2.start(connection, &bench.metrics);
        bench.http2.end(connection);
    }
    assert!(bench.http2.order.len() < 200, "{}", bench.http2.order.len());
}

#[test]
fn an_ordinary_connection_takes_little() {
    let mut bench = Bench::new(Http2Limits::default());
    bench.http2.start(1, &bench.metrics);
    let mut encoder = Encoder::new(5);
    for number in 0..1_000u32 {
        let stream = number.to_string();
        let block = encoder.encode(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/shop.Cart/Add"),
            (":authority", "cart.test:50051"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-go/1.60.0"),
            ("te", "trailers"),
            ("x-request-id", &stream),
        ]);
        assert_eq!(bench.block(1, number, &block).as_deref(), Some("/shop.Cart/Add"));
    }
    assert!(bench.http2.size().1 < 8_192, "{}", bench.http2.size().1);
    assert!(size_of::<Connection>() <= 224, "{}", size_of::<Connection>());
}
