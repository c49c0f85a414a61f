use super::http2::hpack::encoder::Encoder;
use super::tests::{Bench, closed, opened};
use super::*;
use crate::span::SpanError;
use tracewire_common::records::{
    BLOCK_END_STREAM, Candidate, ConnectionEvent, ExchangeCandidates, RecordHeader,
};

const CONNECTION: u64 = 5;

/// Both ends of a connection, as the kernel half tells of them.
struct Peers {
    bench: Bench,
    request: Encoder,
    response: Encoder,
    request_blocks: u32,
    response_blocks: u32,
}

type List<'a> = &'a [(&'a str, &'a str)];

impl Peers {
    fn new() -> Self {
        let mut peers = Self::from_middle();
        let event = ConnectionEvent {
            header: RecordHeader::default(),
            connection: CONNECTION,
            ..ConnectionEvent::default()
        };
        peers.bench.assembler.on_record(Record::Http2Started(event));
        peers
    }

    fn from_middle() -> Self {
        Self {
            bench: Bench::new(),
            request: Encoder::new(11),
            response: Encoder::new(12),
            request_blocks: 0,
            response_blocks: 0,
        }
    }

    fn open(&mut self, stream: u32, role: Role, fields: List<'_>) {
        let block = self.request.encode(fields);
        let record = ExchangeOpened {
            head_len: block.len() as u32,
            block: self.request_blocks,
            role: role as u8,
            ..opened(stream)
        };
        self.request_blocks += 1;
        self.bench.assembler.on_record(Record::StreamOpened(record, &block));
    }

    /// A block of the response, in two parts.
    fn answer(&mut self, stream: u32, flags: u8, fields: List<'_>) {
        let bytes = self.response.encode(fields);
        let (front, back) = bytes.split_at(bytes.len() / 2);
        for (offset, data, flags) in [(0, front, 0), (front.len(), back, flags | BLOCK_END)] {
            let part = HeaderBlock {
                connection: CONNECTION,
                stream,
                block: self.response_blocks,
                offset: offset as u32,
                block_len: bytes.len() as u32,
                direction: HeadKind::Response as u8,
                flags,
                ..HeaderBlock::default()
            };
            self.bench.assembler.on_record(Record::HeaderBlock(part, data));
        }
        self.response_blocks += 1;
    }

    fn close(&mut self, stream: u32, reason: EndReason, code: u16, flags: u8) {
        let record = ExchangeClosed { reason: reason as u8, status: code, flags, ..closed(stream) };
        self.bench.assembler.on_record(Record::StreamClosed(record));
    }

    /// A call that the client makes, and the span that it becomes.
    async fn call(
        mut self,
        role: Role,
        answers: &[(u8, List<'_>)],
        end: (EndReason, u16, u8),
    ) -> Span {
        self.open(1, role, CALL);
        for (flags, fields) in answers {
            self.answer(1, *flags, fields);
        }
        self.close(1, end.0, end.1, end.2);
        only(self.bench.spans().await)
    }
}

fn only(mut spans: Vec<Span>) -> Span {
    assert_eq!(spans.len(), 1, "{spans:?}");
    spans.remove(0)
}

const CALL: List<'_> = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/shop.v1.Cart/Add"),
    (":authority", "cart.test:50051"),
    ("content-type", "application/grpc+proto"),
    ("te", "trailers"),
    ("user-agent", "grpc-go/1.60"),
    ("authorization", "Bearer secret"),
];
const GET: List<'_> = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/cart?id=7&sig=secret"),
    (":authority", "me:secret@shop.test"),
];
const HEAD: List<'_> = &[(":status", "200"), ("content-type", "application/grpc")];
const COMPLETE: (EndReason, u16, u8) = (EndReason::Complete, 0, 0);

fn status(span: &Span) -> Option<String> {
    span.grpc.and_then(|call| call.status).map(|status| status.name().into_owned())
}

#[tokio::test]
async fn a_unary_call_is_a_span_of_grpc() {
    let trailers: List<'_> = &[("grpc-status", "5"), ("grpc-message", "secret")];
    let answers = [(0, HEAD), (BLOCK_END_STREAM, trailers)];
    for (role, is_error) in [(Role::Client, true), (Role::Server, false)] {
        let span = Peers::new().call(role, &answers, COMPLETE).await;
        assert_eq!(status(&span).as_deref(), Some("NOT_FOUND"));
        assert_eq!((span.name(), span.status), ("shop.v1.Cart/Add", 200));
        assert_eq!(span.error().is_some(), is_error);
        assert_eq!(span.request.text_of(span.request.host), Some("cart.test"));
        assert_eq!(span.server_port(), 50051);
        assert_eq!((span.span_id, span.response_body_bytes), (31, 9));
        assert!(!span.request.text.contains("secret"));
    }
    let trailers: List<'_> = &[("grpc-status", "0")];
    let answers = [(0, HEAD), (BLOCK_END_STREAM, trailers)];
    let span = Peers::new().call(Role::Client, &answers, COMPLETE).await;
    assert_eq!((status(&span).as_deref(), span.error()), (Some("OK"), None));
}

#[tokio::test]
async fn a_response_of_trailers_alone_has_a_status() {
    let answer: List<'_> =
        &[(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14")];
    for role in [Role::Client, Role::Server] {
        let span = Peers::new().call(role, &[(BLOCK_END_STREAM, answer)], COMPLETE).await;
        assert_eq!(status(&span).as_deref(), Some("UNAVAILABLE"));
        assert!(matches!(span.error(), Some(SpanError::Grpc(_))));
    }
}

#[tokio::test]
async fn a_call_without_a_status_of_its_own_has_what_http_says() {
    let answer: List<'_> = &[(":status", "503"), ("content-type", "text/html")];
    let span = Peers::new().call(Role::Client, &[(BLOCK_END_STREAM, answer)], COMPLETE).await;
    assert_eq!(status(&span).as_deref(), Some("UNAVAILABLE"));
    // Success of HTTP says nothing of the call.
    let span = Peers::new().call(Role::Client, &[(0, HEAD)], COMPLETE).await;
    assert_eq!((status(&span), span.error()), (None, None));
    assert!(span.grpc.is_some());
}

#[tokio::test]
async fn a_call_that_was_cancelled_says_so() {
    let cancel = (EndReason::StreamReset, 8, CLOSED_BY_CLIENT);
    for (role, is_error) in [(Role::Client, true), (Role::Server, false)] {
        let span = Peers::new().call(role, &[(0, HEAD)], cancel).await;
        assert_eq!(status(&span).as_deref(), Some("CANCELLED"));
        assert_eq!((span.end, span.error().is_some()), (EndReason::StreamReset, is_error));
    }
    // A status that came before the reset is the truth.
    let trailers: List<'_> = &[("grpc-status", "0")];
    let reset = (EndReason::StreamReset, 0, 0);
    let answers = [(0, HEAD), (BLOCK_END_STREAM, trailers)];
    let span = Peers::new().call(Role::Client, &answers, reset).await;
    assert_eq!((status(&span).as_deref(), span.end), (Some("OK"), EndReason::Complete));
}

#[tokio::test]
async fn a_call_whose_connection_broke_is_an_error_without_a_status() {
    let span = Peers::new().call(Role::Server, &[], (EndReason::Reset, 0, 0)).await;
    assert_eq!((status(&span), span.error()), (None, Some(SpanError::Broken(EndReason::Reset))));
}

#[tokio::test]
async fn a_plain_request_is_a_span_of_http() {
    let mut peers = Peers::new();
    peers.open(1, Role::Server, GET);
    peers.answer(1, 0, &[(":status", "103"), ("link", "x")]);
    peers.answer(1, 0, &[(":status", "404"), ("content-type", "text/plain")]);
    peers.answer(1, BLOCK_END_STREAM, &[("x-checksum", "1")]);
    peers.close(1, EndReason::Complete, 0, 0);
    let span = only(peers.bench.spans().await);
    assert_eq!((span.status, span.grpc, span.name()), (404, None, "GET"));
    let head = &span.request;
    assert_eq!(head.text_of(head.path), Some("/cart"));
    assert_eq!(head.text_of(head.query), Some("id=7&sig=REDACTED"));
    assert_eq!(head.text_of(head.authority), Some("shop.test"));
    assert!(head.has_userinfo && head.is_http2() && !head.text.contains("secret"));
    assert_eq!((head.scheme(), span.server_port()), (Some("https"), 443));
    assert_eq!(span.error(), None);
}

#[tokio::test]
async fn a_plain_request_that_was_reset_is_an_error_unless_it_was_answered() {
    let mut peers = Peers::new();
    let resets = [(8, CLOSED_BY_CLIENT), (7, 0), (0, CLOSED_BY_CLIENT), (0, 0)];
    for (stream, (code, flags)) in (1..).step_by(2).zip(resets) {
        peers.open(stream, Role::Client, GET);
        peers.answer(stream, 0, &[(":status", "200")]);
        peers.close(stream, EndReason::StreamReset, code, flags);
    }
    let errors: Vec<_> = peers.bench.spans().await.iter().map(Span::error).collect();
    let broken = Some(SpanError::Broken(EndReason::StreamReset));
    assert_eq!(errors, [broken, broken, broken, None]);
}

#[tokio::test]
async fn streams_at_once_are_paired_by_their_ids_and_share_the_tables() {
    let mut peers = Peers::new();
    let paths: Vec<String> = (0..20).map(|number| format!("/a.B/M{number}")).collect();
    for (at, path) in paths.iter().enumerate() {
        let mut list = CALL.to_vec();
        list[2].1 = path;
        peers.open(2 * at as u32 + 1, Role::Client, &list);
    }
    for at in (0..20).rev() {
        peers.answer(2 * at + 1, 0, HEAD);
        peers.answer(2 * at + 1, BLOCK_END_STREAM, &[("grpc-status", &at.to_string())]);
        peers.close(2 * at + 1, EndReason::Complete, 0, 0);
    }
    let spans = peers.bench.spans().await;
    for (span, at) in spans.iter().zip((0..20).rev()) {
        assert_eq!(span.name(), format!("a.B/M{at}"));
        assert_eq!(
            span.grpc.and_then(|call| call.status),
            GrpcStatus::parse(at.to_string().as_bytes())
        );
    }
    assert_eq!(spans.len(), 20);
}

#[tokio::test]
async fn what_is_not_sampled_and_trailers_of_a_request_are_for_the_table_alone() {
    let mut peers = Peers::new();
    let mut list = CALL.to_vec();
    list.push((":path", "/of/nothing"));
    for stream in [1, 3] {
        let block = peers.request.encode(&list);
        let part = HeaderBlock {
            connection: CONNECTION,
            stream,
            block: peers.request_blocks,
            block_len: block.len() as u32,
            direction: HeadKind::Request as u8,
            flags: BLOCK_END,
            ..HeaderBlock::default()
        };
        peers.request_blocks += 1;
        peers.bench.assembler.on_record(Record::HeaderBlock(part, &block));
        if stream == 1 {
            peers.open(3, Role::Server, CALL);
        }
    }
    // The answer to what is not open, then that to what is.
    peers.answer(1, BLOCK_END_STREAM, &[(":status", "500"), ("grpc-status", "2")]);
    peers.answer(3, BLOCK_END_STREAM, &[(":status", "200"), ("grpc-status", "0")]);
    peers.close(3, EndReason::Complete, 0, 0);
    assert_eq!(peers.bench.metrics.get(Metric::HeaderTablesLost), 0);
    let span = only(peers.bench.spans().await);
    assert_eq!((span.name(), status(&span).as_deref()), ("shop.v1.Cart/Add", Some("OK")));
}

#[tokio::test]
async fn a_lost_block_makes_fields_unknown_and_never_wrong() {
    let mut peers = Peers::new();
    let mut paths = Vec::new();
    let mut was_unknown = false;
    for number in 0..200u32 {
        let path = format!("/a.B/M{}", number % 7);
        let mut list = CALL.to_vec();
        list[2].1 = &path;
        if number % 13 == 5 {
            // One that the ring buffer had no room for.
            peers.request.encode(&list);
            peers.request_blocks += 1;
            continue;
        }
        peers.open(2 * number + 1, Role::Server, &list);
        peers.close(2 * number + 1, EndReason::Complete, 0, 0);
        paths.push(path);
    }
    assert_eq!(peers.bench.metrics.get(Metric::HeaderTablesLost), 15);
    let spans = peers.bench.spans().await;
    assert_eq!(spans.len(), paths.len());
    for (span, path) in spans.iter().zip(&paths) {
        match span.request.text_of(span.request.path) {
            Some(seen) => assert_eq!(seen, path),
            None => was_unknown = true,
        }
    }
    assert!(was_unknown, "else nothing was lost");
}

#[tokio::test]
async fn a_call_on_a_connection_seen_from_its_middle_is_known_by_its_answer() {
    let mut peers = Peers::from_middle();
    // All of it stands in the table by now.
    for _ in 0..40 {
        peers.request.encode(CALL);
        peers.request_blocks += 1;
    }
    let block = [0x83, 0x86, 0xc0, 0xc1, 0xc2];
    let record =
        ExchangeOpened { head_len: block.len() as u32, block: peers.request_blocks, ..opened(81) };
    peers.bench.assembler.on_record(Record::StreamOpened(record, &block));
    peers.answer(81, 0, HEAD);
    peers.answer(81, BLOCK_END_STREAM, &[("grpc-status", "0")]);
    peers.close(81, EndReason::Complete, 0, 0);
    let span = only(peers.bench.spans().await);
    assert_eq!((span.name(), status(&span).as_deref()), ("grpc", Some("OK")));
    assert_eq!(span.request.path, None);
}

#[tokio::test]
async fn an_exchange_and_a_stream_of_one_number_are_two() {
    let mut peers = Peers::new();
    peers.bench.open(opened(1), b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n");
    peers.open(1, Role::Server, GET);
    let mut record =
        ExchangeCandidates { connection: CONNECTION, sequence: 1, ..Default::default() };
    record.candidates[0] = Candidate { span_id: 77, ..Candidate::default() };
    peers.bench.assembler.on_record(Record::ExchangeCandidates(record));
    peers.close(1, EndReason::Complete, 0, 0);
    peers.bench.close(closed(1));
    assert_eq!(peers.bench.metrics.get(Metric::DropReopened), 0);
    let spans = peers.bench.spans().await;
    let links: Vec<_> =
        spans.iter().map(|span| (span.request.is_http2(), span.candidates.len())).collect();
    assert_eq!(links, [(true, 1), (false, 0)]);
}

#[tokio::test]
async fn a_direction_that_is_none_is_counted() {
    let mut peers = Peers::new();
    let part = HeaderBlock { direction: 9, flags: BLOCK_END, ..HeaderBlock::default() };
    peers.bench.assembler.on_record(Record::HeaderBlock(part, b"\x88"));
    assert_eq!(peers.bench.metrics.get(Metric::RecordsInvalid), 1);
}

#[tokio::test]
async fn a_client_that_names_no_port_asks_the_one_that_it_is_connected_to() {
    let mut peers = Peers::new();
    peers.open(1, Role::Client, GET);
    peers.close(1, EndReason::Complete, 0, 0);
    let span = only(peers.bench.spans().await);
    assert_eq!(span.server_port(), span.peer.port());
}
