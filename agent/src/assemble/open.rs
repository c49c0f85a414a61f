//! Exchanges that were opened and not yet closed, and heads that are not whole yet.
//!
//! Both tables are bounded, and swept of what will never be finished since its
//! last record was lost.

use super::http2::fields::{Fields, Name};
use crate::grpc::{self, GrpcStatus};
use crate::metrics::{Metric, Metrics};
use crate::span::RequestHead;
use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;
use tracewire_common::config::HEAD_CAPTURE;
use tracewire_common::records::{Candidate, ExchangeCandidates, ExchangeOpened, HeadFragment};

/// What identifies an exchange between its records: a connection has one end,
/// one role, and numbers its exchanges. Streams of HTTP/2 have numbers of their own: a connection
/// that changes over to it (`Upgrade: h2c`) has exchanges of both kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ExchangeKey {
    /// The socket's cookie.
    pub(crate) connection: u64,
    /// The number on the connection, or the stream's id.
    pub(crate) sequence: u32,
    /// Whether it is a stream.
    pub(crate) is_stream: bool,
}

/// The bounds of the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenLimits {
    /// Exchanges open at once.
    pub(crate) exchanges: usize,
    /// Bytes that open exchanges keep of their heads, and of their candidates, in all.
    pub(crate) kept: usize,
    /// The longest that an exchange may stay open, in ns. Long, since a download
    /// or an event stream lives for hours; only a lost record leaves one behind.
    pub(crate) exchange_age_ns: u64,
    /// Heads of which only a part has come, at once. Each takes up to [`HEAD_CAPTURE`].
    pub(crate) fragments: usize,
    /// The longest that a part of a head waits for the rest, in ns.
    pub(crate) fragment_age_ns: u64,
}

impl Default for OpenLimits {
    fn default() -> Self {
        Self {
            exchanges: 65_536,
            kept: 16 << 20,
            exchange_age_ns: 3600 * 1_000_000_000,
            fragments: 1_024,
            fragment_age_ns: 60 * 1_000_000_000,
        }
    }
}

/// How often the tables are swept, in ns; also how often a full table is.
const SWEEP_NS: u64 = 5 * 1_000_000_000;

/// An exchange whose end has not been seen.
#[derive(Debug)]
pub(crate) struct OpenExchange {
    /// The record that opened it.
    pub(crate) opened: ExchangeOpened,
    /// What was asked.
    pub(crate) request: RequestHead,
    /// What may be the parent, if that is not known for certain, and these are all.
    pub(crate) candidates: Box<[Candidate]>,
    /// What a response over HTTP/2 has said so far.
    pub(crate) response: Response,
}

/// What the header blocks of a response over HTTP/2 say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    /// The final status code; 0 if it is not known.
    pub(crate) status: u16,
    /// The status of gRPC, from the trailers or from a head that has none after it.
    pub(crate) grpc_status: Option<GrpcStatus>,
    /// Whether the content is gRPC's, if it was said.
    pub(crate) is_grpc: Option<bool>,
}

impl Response {
    /// Takes a header block of the response: an interim one, the final head, or trailers.
    pub(crate) fn add(&mut self, fields: &Fields) {
        // RFC 9113 §8.3.2: three digits. Those below 200 are interim (RFC 9110 §15.2).
        let status = fields.get(Name::Status).filter(|digits| digits.len() == 3);
        let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        if let Some(status @ 200..=999) = status
            && self.status == 0
        {
            self.status = status;
        }
        if let Some(value) = fields.get(Name::ContentType)
            && self.is_grpc.is_none()
        {
            self.is_grpc = Some(grpc::is_content_type(value));
        }
        if let Some(value) = fields.get(Name::GrpcStatus) {
            self.grpc_status = GrpcStatus::parse(value);
        }
    }
}

impl OpenExchange {
    /// Bytes that it keeps beside its fixed size.
    fn kept(&self) -> usize {
        self.request.text.len() + size_of_val(&*self.candidates)
    }
}

#[derive(Debug)]
struct PartialHead {
    bytes: Vec<u8>,
    since_ns: u64,
}

/// The tables.
#[derive(Debug)]
pub(crate) struct OpenExchanges {
    exchanges: FxHashMap<ExchangeKey, OpenExchange>,
    heads: FxHashMap<ExchangeKey, PartialHead>,
    /// Bytes that `exchanges` keep beside their fixed size.
    kept: usize,
    limits: OpenLimits,
    swept_ns: u64,
}

impl OpenExchanges {
    /// Empty tables.
    pub(crate) fn new(limits: OpenLimits) -> Self {
        let (exchanges, heads) = (FxHashMap::default(), FxHashMap::default());
        Self { exchanges, heads, kept: 0, limits, swept_ns: 0 }
    }

    /// Keeps a piece of a long head until the exchange is opened.
    pub(crate) fn add_fragment(
        &mut self,
        fragment: &HeadFragment,
        data: &[u8],
        now_ns: u64,
        metrics: &Metrics,
    ) {
        let (connection, sequence) = (fragment.connection, fragment.sequence);
        let key = ExchangeKey { connection, sequence, is_stream: false };
        let is_full = self.heads.len() >= self.limits.fragments;
        let head = match self.heads.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if is_full => {
                metrics.increment(Metric::DropFragmentsFull);
                return;
            }
            Entry::Vacant(entry) => {
                entry.insert(PartialHead { bytes: Vec::new(), since_ns: now_ns })
            }
        };
        append(&mut head.bytes, fragment.offset, data);
    }

    /// The whole captured head of an exchange, of its pieces and the last one in
    /// `data`. Borrows `data` when that is all.
    pub(crate) fn take_head<'a>(
        &mut self,
        key: ExchangeKey,
        offset: u32,
        data: &'a [u8],
    ) -> std::borrow::Cow<'a, [u8]> {
        if self.heads.is_empty() && offset == 0 {
            return data.into();
        }
        match self.heads.remove(&key) {
            Some(mut head) => {
                append(&mut head.bytes, offset, data);
                head.bytes.into()
            }
            None if offset == 0 => data.into(),
            // The beginning was lost: the rest is of no use alone.
            None => Vec::new().into(),
        }
    }

    /// Keeps an exchange until it is closed.
    pub(crate) fn insert(
        &mut self,
        key: ExchangeKey,
        exchange: OpenExchange,
        now_ns: u64,
        metrics: &Metrics,
    ) {
        let kept = exchange.kept();
        if self.is_full(kept) {
            self.sweep(now_ns, metrics);
            if self.is_full(kept) {
                metrics.increment(Metric::DropPendingFull);
                return;
            }
        }
        self.kept += kept;
        if let Some(before) = self.exchanges.insert(key, exchange) {
            self.kept -= before.kept();
            metrics.increment(Metric::DropReopened);
        }
    }

    /// Keeps what may be the parent of an exchange that is open.
    pub(crate) fn add_candidates(&mut self, record: &ExchangeCandidates, metrics: &Metrics) {
        let (connection, sequence) = (record.connection, record.sequence);
        // A connection that carries streams begins no other exchanges any more.
        let stream = ExchangeKey { connection, sequence, is_stream: true };
        let is_stream = self.exchanges.contains_key(&stream);
        let key = ExchangeKey { is_stream, ..stream };
        let found = record.candidates.iter().filter(|one| one.span_id != 0).copied();
        let candidates: Box<[Candidate]> = found.collect();
        let more = size_of_val(&*candidates);
        let has_room = self.kept + more <= self.limits.kept;
        match self.exchanges.get_mut(&key) {
            Some(exchange) if has_room && exchange.candidates.is_empty() => {
                self.kept += more;
                exchange.candidates = candidates;
            }
            _ => metrics.increment(Metric::DropCandidates),
        }
    }

    /// The response of a stream that is open.
    pub(crate) fn response(&mut self, connection: u64, stream: u32) -> Option<&mut Response> {
        let key = ExchangeKey { connection, sequence: stream, is_stream: true };
        self.exchanges.get_mut(&key).map(|exchange| &mut exchange.response)
    }

    /// Whether one more exchange that keeps so much is too much.
    fn is_full(&self, kept: usize) -> bool {
        self.exchanges.len() >= self.limits.exchanges || self.kept + kept > self.limits.kept
    }

    /// Takes an exchange that is closed, if it is the one with this span.
    pub(crate) fn take(&mut self, key: ExchangeKey, span_id: u64) -> Option<OpenExchange> {
        match self.exchanges.entry(key) {
            Entry::Occupied(entry) if entry.get().opened.span_id == span_id => {
                let exchange = entry.remove();
                self.kept -= exchange.kept();
                Some(exchange)
            }
            _ => None,
        }
    }

    /// Exchanges open now.
    pub(crate) fn len(&self) -> usize {
        self.exchanges.len()
    }

    /// Removes what is too old, at most every few seconds: a sweep looks at all.
    pub(crate) fn sweep(&mut self, now_ns: u64, metrics: &Metrics) {
        if now_ns < self.swept_ns.saturating_add(SWEEP_NS) {
            return;
        }
        self.swept_ns = now_ns;
        let oldest = now_ns.saturating_sub(self.limits.exchange_age_ns);
        let expired = self.exchanges.extract_if(|_, exchange| exchange.opened.started_ns < oldest);
        for (_, exchange) in expired {
            self.kept -= exchange.kept();
            metrics.increment(Metric::DropExpired);
        }

        let oldest = now_ns.saturating_sub(self.limits.fragment_age_ns);
        let before = self.heads.len();
        self.heads.retain(|_, head| head.since_ns >= oldest);
        metrics.add(Metric::DropFragmentsExpired, (before - self.heads.len()) as u64);
    }
}

/// Puts a piece at its offset. A piece after a hole is left out: a head is only
/// of use up to its first hole.
fn append(bytes: &mut Vec<u8>, offset: u32, data: &[u8]) {
    let offset = offset as usize;
    if offset <= bytes.len() {
        bytes.truncate(offset);
        let room = (HEAD_CAPTURE as usize).saturating_sub(offset);
        bytes.extend_from_slice(&data[..data.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ExchangeKey = ExchangeKey { connection: 7, sequence: 1, is_stream: false };

    fn fragment(offset: u32) -> HeadFragment {
        HeadFragment { connection: 7, sequence: 1, offset, ..HeadFragment::default() }
    }

    fn exchange(started_ns: u64) -> OpenExchange {
        OpenExchange {
            opened: ExchangeOpened { started_ns, ..ExchangeOpened::default() },
            request: crate::assemble::parse_head(b"GET / HTTP/1.1\r\n\r\n", false),
            candidates: Box::default(),
            response: Response::default(),
        }
    }

    #[test]
    fn pieces_of_a_head_become_one() {
        let metrics = Metrics::default();
        let mut open = OpenExchanges::new(OpenLimits::default());
        open.add_fragment(&fragment(0), b"GET /a", 1, &metrics);
        open.add_fragment(&fragment(6), b"/b HT", 1, &metrics);
        assert_eq!(&*open.take_head(KEY, 11, b"TP/1.1\r\n\r\n"), b"GET /a/b HTTP/1.1\r\n\r\n");
        assert_eq!(&*open.take_head(KEY, 0, b"next"), b"next");
    }

    #[test]
    fn a_head_ends_at_its_first_hole() {
        let metrics = Metrics::default();
        let mut open = OpenExchanges::new(OpenLimits::default());
        open.add_fragment(&fragment(0), b"GET /a", 1, &metrics);
        assert_eq!(&*open.take_head(KEY, 100, b"lost the middle"), b"GET /a");
        assert_eq!(&*open.take_head(KEY, 100, b"lost the beginning"), b"");
    }

    #[test]
    fn a_full_table_drops_the_newest_and_counts_it() {
        let metrics = Metrics::default();
        let limits = OpenLimits { exchanges: 2, fragments: 1, ..OpenLimits::default() };
        let mut open = OpenExchanges::new(limits);
        for connection in 0..3 {
            let key = ExchangeKey { connection, sequence: 0, is_stream: false };
            open.insert(key, exchange(1), 1, &metrics);
            open.add_fragment(&HeadFragment { connection, ..fragment(0) }, b"x", 1, &metrics);
        }
        assert_eq!(open.len(), 2);
        assert_eq!(metrics.get(Metric::DropPendingFull), 1);
        assert_eq!(metrics.get(Metric::DropFragmentsFull), 2);
    }

    #[test]
    fn open_exchanges_keep_no_more_text_than_they_may() {
        let metrics = Metrics::default();
        let text = exchange(1).request.text.len();
        let mut open = OpenExchanges::new(OpenLimits { kept: 2 * text, ..OpenLimits::default() });
        let key = |connection| ExchangeKey { connection, sequence: 0, is_stream: false };
        for connection in 0..3 {
            open.insert(key(connection), exchange(1), 1, &metrics);
        }
        assert_eq!((open.len(), metrics.get(Metric::DropPendingFull)), (2, 1));
        // One that is closed, opened anew or swept makes room.
        assert!(open.take(key(0), 0).is_some());
        open.insert(key(3), exchange(1), 1, &metrics);
        open.insert(key(3), exchange(1), 1, &metrics);
        assert_eq!((open.len(), metrics.get(Metric::DropPendingFull)), (2, 2));
        let late = OpenLimits::default().exchange_age_ns + 10 * SWEEP_NS;
        open.sweep(late, &metrics);
        open.insert(key(4), exchange(late), late, &metrics);
        open.insert(key(5), exchange(late), late, &metrics);
        assert_eq!((open.len(), metrics.get(Metric::DropPendingFull)), (2, 2));
    }

    #[test]
    fn candidates_are_kept_within_the_bound_and_with_their_exchange() {
        let metrics = Metrics::default();
        let text = exchange(1).request.text.len();
        let room = text + 3 * size_of::<Candidate>();
        let mut open = OpenExchanges::new(OpenLimits { kept: room, ..OpenLimits::default() });
        let mut record = ExchangeCandidates { connection: 7, sequence: 1, ..Default::default() };
        record.candidates[1].span_id = 5;
        record.candidates[6].span_id = 6;
        open.add_candidates(&record, &metrics);
        assert_eq!(metrics.get(Metric::DropCandidates), 1, "of no exchange");
        open.insert(KEY, exchange(1), 1, &metrics);
        open.add_candidates(&record, &metrics);
        let taken = open.take(KEY, 0).map(|exchange| exchange.candidates).unwrap_or_default();
        let ids: Vec<u64> = taken.iter().map(|candidate| candidate.span_id).collect();
        assert_eq!(ids, [5, 6]);
        // What they took is free again; four are too many.
        open.insert(KEY, exchange(1), 1, &metrics);
        record.candidates[0].span_id = 7;
        record.candidates[2].span_id = 8;
        open.add_candidates(&record, &metrics);
        assert_eq!(metrics.get(Metric::DropCandidates), 2);
    }

    #[test]
    fn what_is_too_old_is_swept_and_counted() {
        let metrics = Metrics::default();
        let limits = OpenLimits::default();
        let mut open = OpenExchanges::new(limits);
        let late = limits.exchange_age_ns + 10 * SWEEP_NS;
        open.insert(KEY, exchange(1), 1, &metrics);
        open.insert(ExchangeKey { sequence: 2, ..KEY }, exchange(late), late, &metrics);
        open.add_fragment(&fragment(0), b"x", 1, &metrics);
        open.sweep(late, &metrics);
        assert_eq!(open.len(), 1);
        assert_eq!(metrics.get(Metric::DropExpired), 1);
        assert_eq!(metrics.get(Metric::DropFragmentsExpired), 1);
    }
}
