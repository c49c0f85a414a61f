use super::*;
use crate::export::queue::tests::spans_alone;
use crate::export::{SpanSource, queue};
use crate::resolve::{Host, ProcFs};
use tracewire_common::records::{HeadFragment, RecordHeader};

pub(super) struct Bench {
    pub(super) assembler: Assembler,
    source: SpanSource,
    pub(super) metrics: Arc<Metrics>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with_filter(|_| true)
    }

    fn with_filter(filter: fn(Option<&str>) -> bool) -> Self {
        let metrics = Arc::new(Metrics::default());
        let (sink, source) = queue(spans_alone(10_000), Arc::clone(&metrics));
        // No such directory: every process is unknown.
        let proc = ProcFs::at("/nonexistent");
        let processes =
            ProcessTable::new(proc, Host::detect(), Box::new(filter), Arc::clone(&metrics));
        let mut assembler =
            Assembler::new(processes, sink, OpenLimits::default(), Arc::clone(&metrics));
        assembler.clock = Clock::with_offset(1_000_000);
        Self { assembler, source, metrics }
    }

    /// The spans so far.
    pub(super) async fn spans(mut self) -> Vec<Span> {
        drop(self.assembler);
        let mut spans = Vec::new();
        while let Some(batch) = self.source.recv().await {
            spans.extend(batch);
        }
        spans
    }

    pub(super) fn open(&mut self, opened: ExchangeOpened, head: &[u8]) {
        let mut opened = opened;
        if opened.head_len == 0 {
            opened.head_len = head.len() as u32;
        }
        self.assembler.on_record(Record::ExchangeOpened(opened, head));
    }

    pub(super) fn close(&mut self, closed: ExchangeClosed) {
        self.assembler.on_record(Record::ExchangeClosed(closed));
    }
}

const HEAD: &[u8] = b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n";

pub(super) fn opened(sequence: u32) -> ExchangeOpened {
    ExchangeOpened {
        header: RecordHeader::default(),
        connection: 5,
        started_ns: 100,
        trace_id_hi: 1,
        trace_id_lo: 2,
        span_id: 30 + u64::from(sequence),
        parent_span_id: 4,
        local_addr: [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        remote_addr: [10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        local_port: 80,
        remote_port: 40_000,
        ip_version: 4,
        role: Role::Server as u8,
        correlation: Correlation::Wire as u8,
        sequence,
        ..ExchangeOpened::default()
    }
}

pub(super) fn closed(sequence: u32) -> ExchangeClosed {
    ExchangeClosed {
        connection: 5,
        response_ns: 150,
        ended_ns: 200,
        span_id: 30 + u64::from(sequence),
        sequence,
        status: 200,
        response_body_bytes: 9,
        ..ExchangeClosed::default()
    }
}

#[tokio::test]
async fn an_opened_and_a_closed_exchange_are_a_span() {
    let mut bench = Bench::new();
    bench.open(opened(1), HEAD);
    bench.close(closed(1));
    let spans = bench.spans().await;
    let [span] = &spans[..] else { panic!("one span: {spans:?}") };
    assert_eq!(span.trace_id, [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!((span.span_id, span.parent_span_id), (31, 4));
    assert_eq!((span.start_unix_ns, span.end_unix_ns), (1_000_100, 1_000_200));
    assert_eq!((span.kind, span.status, span.response_body_bytes), (SpanKind::Server, 200, 9));
    assert_eq!(span.local, SocketAddr::from(([127, 0, 0, 1], 80)));
    assert_eq!(span.peer, SocketAddr::from(([10, 0, 0, 9], 40_000)));
    assert_eq!(span.correlation, Correlation::Wire);
    assert_eq!(span.request.text_of(span.request.path), Some("/a"));
    assert_eq!(&*span.resource.service_name, "unknown_service");
}

#[tokio::test]
async fn pipelined_exchanges_are_paired_by_number() {
    let mut bench = Bench::new();
    for sequence in 1..=3 {
        bench.open(opened(sequence), HEAD);
    }
    for sequence in [2, 1, 3] {
        bench.close(closed(sequence));
    }
    let ids: Vec<_> = bench.spans().await.iter().map(|span| span.span_id).collect();
    assert_eq!(ids, [32, 31, 33]);
}

#[tokio::test]
async fn a_head_in_pieces_is_one_head() {
    let mut bench = Bench::new();
    let fragment = HeadFragment { connection: 5, sequence: 1, ..HeadFragment::default() };
    bench.assembler.on_record(Record::HeadFragment(fragment, &HEAD[..10]));
    let last = ExchangeOpened { head_offset: 10, head_len: HEAD.len() as u32, ..opened(1) };
    bench.open(last, &HEAD[10..]);
    bench.close(closed(1));
    assert_eq!(bench.metrics.get(Metric::HeadsCut), 0);
    let spans = bench.spans().await;
    assert_eq!(spans[0].request.text_of(spans[0].request.host), Some("a.test"));
}

#[tokio::test]
async fn a_head_that_was_cut_is_counted_and_still_a_span() {
    let mut bench = Bench::new();
    bench.open(ExchangeOpened { head_len: 9_000, ..opened(1) }, HEAD);
    bench.close(closed(1));
    assert_eq!(bench.metrics.get(Metric::HeadsCut), 1);
    assert_eq!(bench.spans().await.len(), 1);
}

#[tokio::test]
async fn a_closed_exchange_without_its_beginning_is_counted() {
    let mut bench = Bench::new();
    bench.close(closed(1));
    bench.open(opened(2), HEAD);
    bench.close(ExchangeClosed { span_id: 999, ..closed(2) });
    assert_eq!(bench.metrics.get(Metric::DropUnpaired), 2);
    assert!(bench.spans().await.is_empty());
}

#[tokio::test]
async fn an_exchange_that_the_application_traces_gives_no_span() {
    let mut bench = Bench::new();
    bench.open(opened(1), HEAD);
    bench.close(ExchangeClosed { flags: CLOSED_OWN_TRACING, ..closed(1) });
    assert_eq!(bench.metrics.get(Metric::OwnTracing), 1);
    assert!(bench.spans().await.is_empty());
}

#[tokio::test]
async fn an_excluded_process_gives_no_span() {
    let mut bench = Bench::with_filter(|_| false);
    bench.open(opened(1), HEAD);
    bench.close(ExchangeClosed { tgid: 7, ..closed(1) });
    assert_eq!(bench.metrics.get(Metric::ProcessExcluded), 1);
    assert!(bench.spans().await.is_empty());
}

#[tokio::test]
async fn a_reset_without_a_response_is_an_error_span_not_a_missing_one() {
    let mut bench = Bench::new();
    bench.open(opened(1), HEAD);
    let reason = EndReason::Reset as u8;
    bench.close(ExchangeClosed { reason, status: 0, response_ns: 0, ..closed(1) });
    let spans = bench.spans().await;
    assert_eq!(spans[0].error(), Some(crate::span::SpanError::Broken(EndReason::Reset)));
}

#[tokio::test]
async fn a_role_that_is_none_is_counted() {
    let mut bench = Bench::new();
    bench.open(ExchangeOpened { role: 77, ..opened(1) }, HEAD);
    bench.close(closed(1));
    assert_eq!(bench.metrics.get(Metric::DropRoleUnknown), 1);
}

#[tokio::test]
async fn a_tick_hands_on_what_is_finished() {
    let mut bench = Bench::new();
    bench.open(opened(1), HEAD);
    bench.close(closed(1));
    bench.assembler.tick();
    assert_eq!(bench.source.recv().await.map(|spans| spans.len()), Some(1));
    assert_eq!(bench.metrics.get(Metric::SpansFinished), 1);
    assert_eq!(bench.assembler.open.len(), 0);
}

#[test]
fn an_ipv4_peer_of_a_dual_stack_socket_is_written_as_ipv4() {
    let mapped = Ipv4Addr::new(10, 0, 0, 9).to_ipv6_mapped().octets();
    assert_eq!(socket_addr(6, mapped, 1), SocketAddr::from(([10, 0, 0, 9], 1)));
    let v6 = Ipv6Addr::LOCALHOST.octets();
    assert_eq!(socket_addr(6, v6, 1), SocketAddr::from((Ipv6Addr::LOCALHOST, 1)));
}

#[tokio::test]
async fn what_is_open_at_the_end_is_counted() {
    let mut bench = Bench::new();
    for sequence in 1..=3 {
        bench.open(opened(sequence), HEAD);
    }
    bench.close(closed(2));
    let Bench { assembler, metrics, .. } = bench;
    assembler.finish();
    assert_eq!(metrics.get(Metric::Unfinished), 2);
    assert_eq!(metrics.get(Metric::SpansFinished), 1);
}

#[tokio::test]
async fn an_end_of_another_exchange_leaves_the_open_one_alone() {
    let mut bench = Bench::new();
    bench.open(opened(1), HEAD);
    bench.close(ExchangeClosed { span_id: 99, ..closed(1) });
    assert_eq!(bench.metrics.get(Metric::DropUnpaired), 1);
    bench.close(closed(1));
    assert_eq!(bench.spans().await.len(), 1);
}
