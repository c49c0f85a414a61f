//! Streams as they open: a request's header block, and where it stands in its trace.

use tracewire_common::config::BLOCK_CAPTURE;
use tracewire_common::connection::{ACTIVITY_STREAM, EXCHANGE_OWN_TRACING, EXCHANGE_SAMPLED};
use tracewire_common::counter::Counter;
use tracewire_common::outcome::{Correlation, Outcome};
use tracewire_common::parse::http2::hpack::{FACT_TRACEPARENT, FACT_UNKNOWN_FIELD};
use tracewire_common::records::{BLOCK_END, BLOCK_END_STREAM, KIND_STREAM_OPENED};

use crate::activities;
use crate::emit;
use crate::http2::connections::Direction;
use crate::http2::drive::{Carrier, Work, capture, held_of};
use crate::http2::streams::{self, StreamKey, StreamState};
use crate::socket::exchange::{self, Ids, Origin, OwnHeader};
use crate::socket::handover;
use crate::socket::packets::{ClientPacket, ServerPacket, outcome_of_packet};
use crate::state::{count, count_outcome};
use crate::task::candidates::tell_candidates;
use crate::task::work;
use crate::tcp_option;

/// Where the frame that began the header block starts, as a sequence number that is the same at both
/// ends.
#[inline(always)]
pub(crate) fn block_start(work: &Work, direction: &Direction) -> u32 {
    let at = work.drive.seq.wrapping_add(work.drive.at);
    let seq = at.wrapping_sub(direction.http2.block_len());
    if seq == 0 { 1 } else { seq }
}

impl Carrier for ServerPacket {
    #[inline(always)]
    unsafe fn request_block(work: &mut Work, number: u32) {
        // SAFETY: the trait's promise.
        unsafe { open_server(work, number) }
    }
}

impl Carrier for ClientPacket {
    #[inline(always)]
    unsafe fn request_block(work: &mut Work, number: u32) {
        // SAFETY: the trait's promise.
        unsafe {
            let outcome = outcome_of_packet(work.drive.connection);
            find_origin(work);
            let own = own_context(work);
            open_client(work, number, outcome as u8, own);
        }
    }
}

/// A server received a request: its span starts, and an activity begins.
///
/// # Safety
///
/// The pointers in `work` must be live.
#[inline(always)]
pub(crate) unsafe fn open_server(work: &mut Work, number: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let direction = &mut (*work.http2).requests;
        let ids = Ids::draw(work.drive.now);
        let in_block = direction.http2.scanner.context();
        let handed = handover::room(&work.drive);
        let is_local =
            handover::take(work.drive.connection, handed, block_start(work, direction), number)
                != 0;
        let (mut context, parent, correlation) = if is_local {
            let context = handed.read();
            let start = block_start(work, direction);
            tcp_option::discard(work.drive.connection, handed, start);
            (context, context.span_id, Correlation::Local as u8)
        } else {
            let start = block_start(work, direction);
            match tcp_option::received(work.drive.connection, in_block, handed, start) {
                (Some(received), rule) => (received, received.span_id, rule),
                (None, _) => (exchange::new_trace(&ids), 0, Correlation::None as u8),
            }
        };
        context.span_id = activities::begin_activity(&ids, &context, exchange::shown(in_block));
        activities::mark(context.span_id, ACTIVITY_STREAM);
        let flags = if context.is_sampled() { EXCHANGE_SAMPLED as u32 } else { 0 };
        (*work.http2).origin = Origin { context, parent, activity: 0, correlation };
        let state = StreamState {
            span_id: context.span_id,
            activity: 0,
            awaited: 0,
            response_ns: 0,
            request_bytes: 0,
            response_bytes: 0,
            flags,
            tid: 0,
        };
        let key = StreamKey { connection: (*work.drive.connection).cookie, stream: number as u64 };
        if !streams::open(work.http2, key, &state) {
            let _none_will_close_it = activities::end_activity(context.span_id);
            block_only(work);
            return;
        }
        opened(work, number, Outcome::NotApplicable as u8);
    }
}

/// A request whose exchange is not recorded: its block is, for what it leaves in the table.
#[inline(always)]
fn block_only(work: &mut Work) {
    // SAFETY: live while the program runs.
    let direction = unsafe { &mut (*work.http2).requests };
    let flags = BLOCK_END | if direction.http2.ends_stream() { BLOCK_END_STREAM } else { 0 };
    capture::<true>(work, direction, flags);
}

/// Finds which activity opens a stream.
///
/// # Safety
///
/// As above.
#[inline(never)]
pub(crate) unsafe fn find_origin(work: &mut Work) {
    let ids = Ids::draw(work.drive.now);
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(sent) = (*work.http2).requests.http2.scanner.context() {
            let room = handover::room(&work.drive);
            room.write(sent);
            let shown = exchange::shown_by(work.drive.connection, room);
            if let Some(known) = exchange::origin_in(shown, Correlation::PassedOn as u8, &ids) {
                (*work.http2).origin = known;
                return;
            }
        }
        let found: *mut work::Work = (&raw mut (*work.drive.scratch).record).cast();
        let number = (*work.http2).requests.http2.stream();
        work::of_stream(work.drive.connection, work.drive.task, number, found);
        let (activity, rule) = ((*found).activity, (*found).rule);
        let origin = &raw mut (*work.http2).origin;
        if let Some(known) = exchange::origin_in(activity, rule as u8, &ids) {
            origin.write(known);
            return;
        }
        let is_ambiguous = rule == Correlation::Ambiguous as u64;
        let rule = if is_ambiguous { Correlation::Ambiguous } else { Correlation::None };
        (*origin).context = exchange::new_trace(&ids);
        (*origin).parent = 0;
        (*origin).activity = 0;
        (*origin).correlation = rule as u8;
    }
}

/// What the context that the application wrote means.
///
/// # Safety
///
/// As above.
#[inline(always)]
pub(crate) unsafe fn own_context(work: &Work) -> OwnHeader {
    // SAFETY: the caller's promise.
    let (scanner, origin) =
        unsafe { (&(*work.http2).requests.http2.scanner, &(*work.http2).origin) };
    if scanner.facts() & FACT_TRACEPARENT == 0 {
        let unknown = scanner.facts() & FACT_UNKNOWN_FIELD != 0;
        return if unknown { OwnHeader::Invalid } else { OwnHeader::None };
    }
    let Some(sent) = scanner.context() else { return OwnHeader::Invalid };
    exchange::compare_contexts(&sent, origin)
}

/// A client opened a stream: its span starts.
///
/// # Safety
///
/// As above.
#[inline(never)]
pub(crate) unsafe fn open_client(work: &mut Work, number: u32, outcome: u8, own: OwnHeader) {
    // SAFETY: the caller's promise.
    unsafe {
        let connection = work.drive.connection;
        let origin = &raw const (*work.http2).origin;
        let origin = &*origin;
        let mut flags = if origin.context.is_sampled() { EXCHANGE_SAMPLED as u32 } else { 0 };
        if own == OwnHeader::Own {
            flags |= EXCHANGE_OWN_TRACING as u32;
        }
        // What leaves late does so in the middle of any task.
        let is_own = (work.drive.task >> 32) as u32 == (*connection).tgid;
        let tid = if is_own { work.drive.task as u32 } else { 0 };
        let state = StreamState {
            span_id: origin.context.span_id,
            activity: origin.activity,
            awaited: work::begin_awaiting(origin.activity, origin.correlation as u32, tid),
            response_ns: 0,
            request_bytes: 0,
            response_bytes: 0,
            flags,
            tid,
        };
        let key = StreamKey { connection: (*connection).cookie, stream: number as u64 };
        if !streams::open(work.http2, key, &state) {
            work::end_awaiting(state.awaited, tid);
            block_only(work);
            return;
        }
        if own == OwnHeader::Own {
            count(Counter::ExchangesOwnContext);
            block_only(work);
            return;
        }
        let is_written = outcome == Outcome::Injected as u8 || outcome == Outcome::Rewritten as u8;
        // A field of which nothing is known may be a context; that the request is this one's is known all the same.
        let scanner = &(*work.http2).requests.http2.scanner;
        let is_invalid = own == OwnHeader::Invalid && scanner.facts() & FACT_TRACEPARENT != 0;
        if !is_written && !is_invalid {
            let (left, start) =
                (handover::room(&work.drive), block_start(work, &(*work.http2).requests));
            left.write(origin.context);
            handover::leave(connection, left, start, number, work.drive.now);
        }
        opened(work, number, outcome);
    }
}

/// Records that a stream has opened.
///
/// # Safety
///
/// As above.
#[inline(always)]
unsafe fn opened(work: &mut Work, number: u32, outcome: u8) {
    // SAFETY: the caller's promise.
    let origin = unsafe { &(*work.http2).origin };
    if outcome != Outcome::NotApplicable as u8 {
        count_outcome(outcome);
    }
    if !origin.context.is_sampled() {
        count(Counter::ExchangesUnsampled);
        return block_only(work);
    }
    count(Counter::ExchangesOpened);
    // SAFETY: the caller's promise.
    unsafe {
        let direction = &(*work.http2).requests;
        let (held, offset) = held_of(&work.drive, &direction.http2);
        let data_len = if offset < BLOCK_CAPTURE { held } else { 0 };
        let record = &mut (*work.drive.scratch).record;
        exchange::fill(record, &*work.drive.connection, origin, outcome);
        record.header = emit::header(KIND_STREAM_OPENED, data_len);
        record.started_ns = direction.started_ns;
        record.sequence = number;
        record.head_len = direction.http2.block_len();
        record.head_offset = offset;
        record.block = direction.http2.block();
        emit::exchange_opened(work.drive.scratch, data_len, work.drive.now);
        if origin.correlation == Correlation::Ambiguous as u8 {
            tell_candidates(work.drive.connection, number, work.drive.task as u32, work.drive.now);
        }
    }
}
